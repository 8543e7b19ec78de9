"""Sequences that are measured in scales of their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from skvae.data.series import SeriesScale, SeriesScaling, drowned_features
from skvae.estimators._fit import FitRun
from skvae.estimators._specs import resolve

_DROWNED = 0.2  # standard deviation of a typical series over that of all, below which small ones are hardly seen


class BeliefState(NamedTuple):
    """What is believed about sequences that go on.

    Attributes
    ----------
    belief : ndarray of shape (n_sequences, n_components_)
        What `transform` gives for the frames so far; `forecast_beliefs` and `inverse_transform` take it.
    memory : tuple of ndarray
        What the recurrent network remembers; `update_belief` goes on from there. With `scaling`, the frames so far.
    scale : SeriesScale or None
        With `scaling`, what the sequences are measured in, see `series_scale`.
    n_features : int or None
        Of the frames so far.
    """

    belief: np.ndarray
    memory: tuple[np.ndarray, ...]
    scale: SeriesScale | None = None
    n_features: int | None = None


class Given(NamedTuple):
    """Sequences as the module reads them, and what is needed on the way back."""

    X: np.ndarray
    dtype: np.dtype
    scale: SeriesScale | None
    device: torch.device

    def back(self, frames: np.ndarray) -> np.ndarray:
        """Frames ``(n_sequences, ..., n_features)`` in the units of the data."""
        return in_data_units(frames, self.scale).astype(self.dtype, copy=False)


def in_data_units(frames: np.ndarray, scale: SeriesScale | None) -> np.ndarray:
    """Frames of sequences in the units of the data, where these have scales of their own."""
    return frames if scale is None else scale.undo(frames)


class SeriesMixin:
    """What an estimator of sequences knows about the scales that they are measured in."""

    scaling: str | None
    n_step_features_: int
    n_components_: int
    _series: SeriesScaling | None = None

    def series_scale(self, X):
        """Find what sequences are measured in, with `scaling`.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        scale : SeriesScale
            `location` and `scale` of every sequence, each of shape (n_sequences, n_step_features_), found from its own steps:
            zero and its mean magnitude, or its mean and standard deviation. One that is zero throughout has the smallest scale in
            training, one that does not vary what its level would have in a typical one. Zeros and ones without `scaling`.
        """
        given = self._ready(X)
        shape = (len(given.X), self.n_step_features_)
        return SeriesScale(np.zeros(shape), np.ones(shape)) if given.scale is None else given.scale

    def _check_scaling(self) -> None:
        spec = resolve("likelihood", self.likelihood)
        if self.scaling is not None and not spec._module_class.is_location_family:
            raise ValueError(
                f"scaling={self.scaling!r} measures every sequence in a scale of its own, in which likelihood={spec!r} has no "
                "meaning; take likelihood='gaussian' or 'laplace', or scaling=None."
            )

    def _drowned(self, run: FitRun) -> list[str]:
        if self.scaling is not None or not run.module.likelihood.is_location_family:
            return []
        table = run.table
        found = drowned_features(table.source.read(slice(None)), table.weight, _DROWNED)
        if not found:
            return []
        which, ratio = found[0]
        return [
            f"Most of the variance of X lies between sequences: within a typical one, feature {which} has {ratio:.2g} of the "
            "standard deviation that it has over all, so that what small or quiet sequences do is hardly seen. Set "
            "scaling='mean' where sequences are alike but for their magnitude, scaling='standard' where their levels differ, too."
        ]

    def _reread(self, x: np.ndarray, memory: tuple[np.ndarray, ...] | None) -> BeliefState:
        """Read all frames so far in the scale that they have by now."""
        frames = x[:, np.newaxis]
        if memory is not None:
            if len(memory) != 1 or memory[0].shape != (len(x), *memory[0].shape[1:2], x.shape[1]):
                raise ValueError(f"state comes from another model: what it remembers does not fit this {type(self).__name__}.")
            frames = np.concatenate([memory[0], frames], axis=1)
        given = self._ready(frames)
        return BeliefState(self._last_beliefs(given).astype(x.dtype, copy=False), (frames,), given.scale, x.shape[1])

    def _check_origin(self, state: BeliefState) -> None:
        """Raise a ValueError about what update_belief of a model of other frames or beliefs returned."""
        parts = (
            ("frames", "features", state.n_features, self.n_step_features_),
            ("a belief", "components", state.belief.shape[1], self.n_components_),
        )
        for what, unit, own, fits in parts:
            if own not in (None, fits):
                raise ValueError(
                    f"state comes from another model: it has {what} of {own} {unit}, and this {type(self).__name__} of {fits}."
                )

    def _scale_of(self, scale: Any, n_sequences: int) -> SeriesScale | None:
        """Check what sequences are said to be measured in."""
        if self._series is None:
            if scale is not None:
                raise ValueError("scale was given, but the model was fitted with scaling=None, which has none; leave it out.")
            return None
        if scale is None:
            raise ValueError(
                f"A belief does not tell what its sequence is measured in with scaling={self._series.mode!r}: pass "
                "scale=series_scale(X), or the scale of the state that update_belief returned; forecast, rollout and reconstruct "
                "read it off the sequences."
            )
        shape = (n_sequences, self.n_step_features_)
        parts = [np.asarray(part, dtype=np.float64) for part in scale] if isinstance(scale, tuple) else []
        if [part.shape for part in parts] != [shape, shape]:
            raise ValueError(
                f"scale must be what series_scale returns for the {n_sequences} sequences: location and scale of shape {shape}."
            )
        return SeriesScale(*parts)
