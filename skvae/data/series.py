"""Scales of series: what each is measured in, where they are alike but for their magnitude or their level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvae.data.moments import weighted_median, weighted_spread

Array = NDArray[np.float64]

SCALINGS = ("mean", "standard")
_MAX_KEPT = 1024  # scales of series in training that new series draw theirs from
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


class SeriesScale(NamedTuple):
    """What sequences are measured in: ``location + scale * number``, feature by feature.

    Attributes
    ----------
    location, scale : ndarray of shape (n_sequences, n_features)
        In the units of the data.
    """

    location: Array
    scale: Array

    def apply(self, X: NDArray[np.floating]) -> Array:
        """Measure sequences ``(n_sequences, ..., n_features)`` in their own scales."""
        location, scale = self._beside(X)
        return (X.astype(np.float64) - location) / scale

    def undo(self, X: NDArray[np.floating]) -> Array:
        """Return what `apply` was given, from what it returned."""
        location, scale = self._beside(X)
        return X * scale + location

    def _beside(self, X: NDArray[np.floating]) -> tuple[Array, Array]:
        shape = (len(self.scale), *(1,) * (X.ndim - 2), self.scale.shape[1])
        return self.location.reshape(shape), self.scale.reshape(shape)


@dataclass(frozen=True, eq=False)
class SeriesScaling:
    """How the scale of a series is found, and the scales of those in training.

    Attributes
    ----------
    mode : {"mean", "standard"}
        Divide by the mean magnitude; or subtract the mean, and divide by the standard deviation.
    smallest : ndarray of shape (n_features,)
        Smallest scale in training, which a series has that is zero throughout: what is made of it stays near zero.
    relative : ndarray of shape (n_features,)
        Standard deviation over mean magnitude of a typical series in training, for those that do not vary.
    known : SeriesScale
        Of series in training.
    weight : ndarray of shape (n_known,)
    """

    mode: str
    smallest: Array
    relative: Array
    known: SeriesScale
    weight: Array

    @classmethod
    def of(cls, X: NDArray[np.floating], weight: Array | None, mode: str) -> SeriesScaling:
        """Measure the series ``(n_sequences, n_timesteps, n_features)``, NaN behind the end of each, to learn from."""
        share = np.ones(len(X)) if weight is None else weight
        magnitude, _, spread = _moments(X)
        scale = magnitude if mode == "mean" else spread
        n_features = X.shape[2]
        smallest = np.min(scale, axis=0, where=scale > 0.0, initial=np.inf)
        smallest[np.isinf(smallest)] = 1.0
        ratio = np.divide(spread, magnitude, out=np.zeros_like(spread), where=magnitude > 0.0)
        relative = np.array([_typical(ratio[:, j], share, default=1.0) for j in range(n_features)])
        nothing = SeriesScale(np.empty((0, n_features)), np.empty((0, n_features)))
        return cls(mode, smallest, relative, nothing, np.empty(0)).extended(X, weight)

    def extended(self, X: NDArray[np.floating], weight: Array | None) -> SeriesScaling:
        """Add the scales of more series to those that are known."""
        found = self.measure(X)
        known = SeriesScale(*(np.concatenate(parts) for parts in zip(self.known, found, strict=True)))
        share = np.concatenate([self.weight, np.ones(len(X)) if weight is None else weight])
        kept = np.linspace(0, len(share) - 1, min(len(share), _MAX_KEPT)).astype(int)
        return replace(self, known=SeriesScale(known.location[kept], known.scale[kept]), weight=share[kept])

    def measure(self, X: NDArray[np.floating]) -> SeriesScale:
        """Find the scales of series from their own steps alone."""
        magnitude, mean, spread = _moments(X)
        if self.mode == "mean":
            return SeriesScale(np.zeros_like(mean), np.where(magnitude > 0.0, magnitude, self.smallest))
        scale = np.where(spread > 0.0, spread, self.relative * magnitude)
        return SeriesScale(mean, np.where(scale > 0.0, scale, self.smallest))

    def draw(self, n_series: int, seed: int) -> SeriesScale:
        """Draw scales of new series from those that are known."""
        chosen = np.random.default_rng(seed).choice(len(self.weight), n_series, p=self.weight / self.weight.sum())
        return SeriesScale(self.known.location[chosen], self.known.scale[chosen])


def _moments(X: NDArray[np.floating]) -> tuple[Array, Array, Array]:
    """Mean magnitude, mean and standard deviation of every series and feature; zero is what differs from it by rounding."""
    X = X.astype(np.float64)
    present = ~np.isnan(X)
    count = present.sum(axis=1)
    X = np.where(present, X, 0.0)
    largest = np.abs(X).max(axis=1)
    # In units of the largest entry, whose square is a number.
    X = X / np.where(largest > 0.0, largest, 1.0)[:, np.newaxis]
    mean = _sum(X) / count
    variance = _sum(np.where(present, X - mean[:, np.newaxis], 0.0) ** 2) / count
    spread = np.where(np.ptp(np.where(present, X, X[:, :1]), axis=1) > _ROUNDING, np.sqrt(variance), 0.0)
    return _sum(np.abs(X)) / count * largest, mean * largest, spread * largest


def _sum(X: Array) -> Array:
    """Sum over steps, one after the other: zeros behind a series do not change a bit of its sum."""
    total: Array = np.cumsum(X, axis=1)[:, -1]
    return total


def _typical(values: Array, weight: Array, default: float) -> float:
    """Weighted median of the values above zero."""
    varies = values > 0.0
    return weighted_median(values[varies], weight[varies]) if varies.any() else default


def drowned_features(X: NDArray[np.floating], weight: Array | None, share: float) -> list[tuple[int, float]]:
    """Features in which a typical series varies by less than a share of the standard deviation over all series.

    Returns
    -------
    list of (int, float)
        The feature, and the standard deviation within a typical series over that of all frames.
    """
    given = np.ones(len(X)) if weight is None else weight
    _, _, spread = _moments(X)
    found = []
    for j in range(X.shape[2]):
        present = ~np.isnan(X[..., j])
        frames = X[..., j][present].astype(np.float64)
        largest = np.abs(frames).max(initial=0.0)
        if largest == 0.0:
            continue
        counts, frames = np.repeat(given, present.sum(axis=1)), frames / largest
        total = weighted_spread(frames, counts)
        within = _typical(spread[:, j] / largest, given, default=0.0)
        if 0.0 < within < share * total:
            found.append((j, within / total))
    return found
