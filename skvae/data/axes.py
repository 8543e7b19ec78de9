"""Which way time runs through an array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST = 512  # entries along an axis that are looked at
_LEAST = 30  # neighbors that must differ, for their differences to say something
_FEW_STEPS, _MANY_TIMES = 5, 100
_SMOOTH, _ROUGH = 0.25, 0.5


def roughness(X: NDArray[np.floating], axis: int) -> float:
    """Mean squared difference of neighbors along an axis over that of any two entries; about one where order says nothing.

    Zero along an axis with too few neighbors to tell, or where all entries are alike.
    """
    X = X[tuple(slice(_MOST) for _ in X.shape)].astype(np.float64)
    if X.shape[axis] < 2:
        return 0.0
    largest = np.nanmax(np.abs(X), initial=0.0)
    squares = np.diff(X / largest if largest else X, axis=axis) ** 2
    squares = squares[~np.isnan(squares)]
    variance = np.nanvar(X / largest) if largest else 0.0
    return float(squares.mean() / (2.0 * variance)) if len(squares) >= _LEAST and variance > 0.0 else 0.0


def runs_along(X: NDArray[np.floating], axis: int, taken: int) -> bool:
    """Whether neighbors along an axis are alike, and those along the axis that is taken for time are as different as any."""
    other = roughness(X, taken)
    return other > _ROUGH and X.shape[axis] > 2 and 0.0 < roughness(X, axis) < _SMOOTH * other


def doubt_about_axes(X: NDArray[np.floating], n_timesteps: int | None, *, is_rows: bool, is_list: bool = False) -> str | None:
    """Ask about sequences whose shape can be read in another way, or return None.

    Parameters
    ----------
    X : ndarray of shape (n_sequences, n_timesteps, n_features)
        NaN behind the end of each.
    n_timesteps : int or None
        What the sequences are said to have for steps, which leaves no doubt where they have, or the longest of a list has.
    is_rows : bool
        Whether they were given as rows.
    is_list : bool, default=False
        Whether they were given in a list, one by one.
    """
    n, length, n_features = X.shape
    if is_rows:
        return None if n_timesteps is not None else _doubt_about_rows(X[..., 0])
    read = f"X of shape {X.shape} is read as {n} sequences of {length} steps of {n_features} feature(s)"
    axes = (2,) if is_list else (2, 0)

    def cure(axis: int) -> str:
        return "pass [x.T for x in X]" if is_list else f"pass np.swapaxes(X, {axis}, 1)"

    if n_timesteps is not None:
        axis = next((axis for axis in axes if X.shape[axis] == n_timesteps), None)
        if length == n_timesteps or (is_list and axis is None and length < n_timesteps):  # where the longest may not be there
            return None
        if axis is None:
            return (
                f"{read}, all of which are learned from, but n_timesteps={n_timesteps} is another number: it says how many steps "
                f"are in a row, where X is rows of flattened sequences. Leave it out, or cut windows of {n_timesteps} steps from "
                f"each series, skvae.sliding_windows(x, {n_timesteps}).X."
            )
        return f"{read}, but n_timesteps={n_timesteps}: if time runs along axis {axis}, {cure(axis)}."
    settled = f"if it is as read, n_timesteps={length} says so."
    for axis in axes:
        if runs_along(X, axis, 1):
            return f"{read}, but time seems to run along axis {axis}: if so, {cure(axis)}; {settled}"
    if length <= _FEW_STEPS and n_features >= 10 * length:
        return f"{read}. If steps and features are the other way round, {cure(2)}; {settled}"
    return None


def _doubt_about_rows(X: NDArray[np.floating]) -> str | None:
    n, length = X.shape
    in_order = runs_along(X, 0, 1)
    if not in_order and not (length <= _FEW_STEPS and n > _MANY_TIMES * length):
        return None
    why = ", but its rows seem to follow each other in time" if in_order else ""
    return (
        f"X of shape {X.shape} is read as {n} sequences of {length} steps of one variable{why}. If it is one long series of "
        f"{length} features, cut windows from it, skvae.sliding_windows(X, n_timesteps).X; if each column is a series, pass X.T; "
        f"if it is as read, n_timesteps={length} says so."
    )
