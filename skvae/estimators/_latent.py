"""Walks through the latent space of a fitted model."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skvae import inference
from skvae.data.containers import is_frame
from skvae.estimators import _checks as check


class LatentWalksMixin:
    """Interpolation, attribute vectors and grids, for estimators with `transform` and `inverse_transform`."""

    def interpolate(self, X_start, X_end, n_steps=10, *, method="linear"):
        """Decode the codes between pairs of rows.

        Parameters
        ----------
        X_start, X_end : array-like of shape (n_pairs, n_features)
            Rows at the two ends.
        n_steps : int, default=10
            Codes on each way, ends included.
        method : {"linear", "spherical"}, default="linear"
            Straight lines, or great circles along which the codes' length changes evenly: a straight line passes close to
            the origin, where in many dimensions the prior has next to no mass.

        Returns
        -------
        X : ndarray of shape (n_pairs, n_steps, n_features_in_), or DataFrame of n_pairs * n_steps rows
            Decoder's means; of frames with columns of different kinds, one frame of all rows, pair by pair.
        """
        return self._decode_walks(between(self.transform(X_start), self.transform(X_end), n_steps, method))

    def attribute_vector(self, X_with, X_without):
        """Direction in which an attribute lies: the mean code of rows that have it minus that of rows without.

        Parameters
        ----------
        X_with, X_without : array-like of shape (n_samples, n_features)
            Rows of the two kinds.

        Returns
        -------
        direction : ndarray of shape (n_components_,)
        """
        with_, without = (np.asarray(self.transform(X), dtype=np.float64) for X in (X_with, X_without))
        return with_.mean(axis=0) - without.mean(axis=0)

    def walk(self, X, direction, steps=(-1.0, -0.5, 0.0, 0.5, 1.0)):
        """Decode codes of rows moved along a direction.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to start from.
        direction : array-like of shape (n_components_,)
            For example an `attribute_vector`.
        steps : array-like of shape (n_steps,), default=(-1, -0.5, 0, 0.5, 1)
            Multiples of the direction.

        Returns
        -------
        X : ndarray of shape (n_samples, n_steps, n_features_in_), or DataFrame of n_samples * n_steps rows
            Decoder's means; of frames with columns of different kinds, one frame of all rows, walk by walk.
        """
        direction, steps = np.asarray(direction, dtype=np.float64), np.asarray(steps, dtype=np.float64)
        codes = np.asarray(self.transform(X), dtype=np.float64)
        if direction.shape != codes.shape[1:]:
            raise ValueError(f"direction has shape {direction.shape}, but codes have {codes.shape[1]} components.")
        if steps.ndim != 1 or not len(steps) or not np.isfinite(steps).all():
            raise ValueError(f"steps={steps.tolist()!r} must be a sequence of at least one finite number.")
        return self._decode_walks(codes[:, np.newaxis] + steps[:, np.newaxis] * direction)

    def latent_grid(self, axes=(0, 1), n_steps=10, *, extent=2.0):
        """Decode a grid over two axes of the latent space, the other components at the prior's mean.

        Parameters
        ----------
        axes : tuple of two ints, default=(0, 1)
            Components that vary down and across the grid.
        n_steps : int, default=10
            Points along each axis.
        extent : float, default=2.0
            The grid spans from -extent to extent, in the prior's standard deviations.

        Returns
        -------
        X : ndarray of shape (n_steps, n_steps, n_features_in_), or DataFrame of n_steps ** 2 rows
            Decoder's means; of frames with columns of different kinds, one frame of all rows, line by line.
        """
        check_is_fitted(self)
        n_components, n_steps = self._n_features_out, check.check_count("n_steps", n_steps)
        if not isinstance(extent, Real) or not 0.0 < extent < np.inf:
            raise ValueError(f"extent={extent!r} must be a number above 0.")
        down, across = _two_axes(axes, n_components)
        mean, std = inference.prior_moments(self.module_, check.resolve_device(self.device))
        deviations = np.zeros((n_steps, n_steps, n_components))
        line = np.linspace(-extent, extent, n_steps)
        deviations[:, :, down] = line[:, np.newaxis]
        deviations[:, :, across] = line
        return self._decode_walks(mean + std * deviations)

    def _decode_walks(self, codes: np.ndarray) -> np.ndarray:
        rows = self.inverse_transform(codes.reshape(-1, codes.shape[-1]))
        return rows if is_frame(rows) else rows.reshape(*codes.shape[:-1], *rows.shape[1:])


def _two_axes(axes: Any, n_components: int) -> tuple[int, int]:
    """Return the positions of two different components."""
    listed = list(axes) if isinstance(axes, (list, tuple, np.ndarray)) and np.ndim(axes) else []
    if len(listed) == 2 and all(isinstance(axis, Integral) and not isinstance(axis, bool) for axis in listed):
        positions = [int(axis) + n_components * (int(axis) < 0) for axis in listed]
        if positions[0] != positions[1] and all(0 <= position < n_components for position in positions):
            return positions[0], positions[1]
    raise ValueError(
        f"axes={axes!r} must be two different components out of {n_components}, as integers from 0 to {n_components - 1}; "
        "negative ones count from the end."
    )


def between(start: np.ndarray, end: np.ndarray, n_steps: int, method: str) -> np.ndarray:
    """Codes on the way between pairs of codes, ``(n_pairs, n_steps, n_components)``."""
    if method not in ("linear", "spherical"):
        raise ValueError(f"method={method!r} is not known; use 'linear' or 'spherical'.")
    if not isinstance(n_steps, Integral) or n_steps < 2:
        raise ValueError(f"n_steps={n_steps} must be an integer of at least 2: the ends are two of them.")
    if len(start) != len(end):
        raise ValueError(f"X_start has {len(start)} rows and X_end has {len(end)}; they are taken in pairs.")
    start, end = (np.asarray(z, dtype=np.float64)[:, np.newaxis] for z in (start, end))
    t = np.linspace(0.0, 1.0, n_steps)[:, np.newaxis]
    return _spherical(start, end, t) if method == "spherical" else start + t * (end - start)


def _spherical(start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Great circles between directions, with lengths interpolated linearly; straight lines where there is no angle."""
    lengths = [np.linalg.norm(z, axis=-1, keepdims=True) for z in (start, end)]
    safe = [np.where(length > 0, length, 1.0) for length in lengths]
    cosine = np.sum((start / safe[0]) * (end / safe[1]), axis=-1, keepdims=True)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.sin(angle)
    curved = sine > 1e-6
    divisor = np.where(curved, sine, 1.0)
    direction = (np.sin((1 - t) * angle) * start / safe[0] + np.sin(t * angle) * end / safe[1]) / divisor
    length = (1 - t) * lengths[0] + t * lengths[1]
    return np.where(curved, direction * length, start + t * (end - start))
