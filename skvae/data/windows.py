"""Windows of long series: cut out, and what was found of them put together again."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


class Windows(NamedTuple):
    """Windows of series.

    Attributes
    ----------
    X : ndarray of shape (n_windows, n_timesteps, n_features), or (n_windows, n_timesteps) of univariate series
        What `fit` of a model of sequences takes.
    groups : ndarray of shape (n_windows,)
        What each window belongs to: the label of its series, or the number of its block. Windows of different groups share
        no row.
    rows : ndarray of int, shape (n_windows, n_timesteps)
        Rows of the series that the windows consist of; -1 behind the end of those that are cut short. Series in a list are
        numbered through.
    """

    X: NDArray[Any]
    groups: NDArray[Any]
    rows: NDArray[np.intp]


def sliding_windows(
    X: Any, n_timesteps: int, *, step: int = 1, groups: Any = None, n_blocks: int | None = None, partial: bool = False
) -> Windows:
    """Cut windows from long series.

    Parameters
    ----------
    X : array-like of shape (n_rows,) or (n_rows, n_features), DataFrame, Series, or list of such arrays
        A series, in the order of time; with `groups`, rows of several; or a list of several. NaN are kept.
    n_timesteps : int
        Steps of a window.
    step : int, default=1
        Steps from the start of a window to that of the next: windows overlap where it is less than `n_timesteps`.
    groups : array-like of shape (n_rows,), default=None
        Label of the series that each row belongs to. Rows of a series need not follow each other, but are in the order of time.
        With a list, one label for each of its series.
    n_blocks : int or None, default=None
        Cut every series into so many blocks of about equal length first, and windows from these, so that no window reaches
        from one block into another; blocks take the place of series as `groups`, by number. For rows to be held out of one
        series, as ``AnomalyDetector.fit(windows.X, groups=windows.groups)`` does.
    partial : bool, default=False
        Whether steps at the end that fill no window make one that is cut short, of at least two steps, with NaN behind its end.

    Returns
    -------
    windows : Windows
        `X`, `groups` and `rows`.

    Raises
    ------
    ValueError
        If a series is not as it should be, or there is no window, since all series or blocks are too short.

    See Also
    --------
    join_windows : Puts values of windows together again.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import join_windows, sliding_windows
    >>> series = np.sin(0.3 * np.arange(100))
    >>> windows = sliding_windows(series, 24, step=12)
    >>> windows.X.shape
    (7, 24)
    >>> bool(np.allclose(join_windows(windows.X, windows.rows), series[:96]))
    True
    """
    n_timesteps, step = _positive("n_timesteps", n_timesteps), _positive("step", step)
    n_blocks = None if n_blocks is None else _positive("n_blocks", n_blocks)
    values, labels, lengths = _one_table(X, groups)
    short = [np.empty((0, n_timesteps), dtype=np.intp)]
    owners: list[NDArray[Any]] = [labels[:0] if n_blocks is None else np.empty(0, dtype=np.intp)]
    for number, (label, rows) in enumerate(_parts(labels, lengths, n_blocks)):
        cut = _cut(rows, n_timesteps, step, partial)
        short.append(cut)
        owners.append(np.repeat(label if n_blocks is None else np.array([number]), len(cut)))
    rows, owner = np.concatenate(short), np.concatenate(owners)
    if not len(rows):
        longest = max((len(part) for _, part in _parts(labels, lengths, n_blocks)), default=0)
        what = "series" if n_blocks is None else "block"
        raise ValueError(
            f"n_timesteps={n_timesteps} is longer than the longest {what}, which has {longest} step(s), so that there is no "
            f"window. Take shorter windows{'' if n_blocks is None else ', or fewer blocks'}, or partial=True."
        )
    if (rows < 0).any():  # NaN, which whole numbers do not have
        values = values if values.dtype.kind == "f" else values.astype(np.float64)
        found = values[rows]
        found[rows < 0] = np.nan
        return Windows(found, owner, rows)
    return Windows(values[rows], owner, rows)


def join_windows(values: Any, rows: Any, *, n_rows: int | None = None) -> NDArray[Any]:
    """Put values of windows together again, averaged where windows overlap.

    Parameters
    ----------
    values : array-like of shape (n_windows, n_timesteps) or (n_windows, n_timesteps, n_features)
        One for every step of a window, such as what `score_anomaly_steps` or `reconstruct` return; or (n_windows,), one for a
        window, which counts for all of its steps.
    rows : array-like of int, shape (n_windows, n_timesteps)
        Those that :func:`sliding_windows` returned beside the windows.
    n_rows : int or None, default=None
        Rows of the series; by default, up to the last that is in a window.

    Returns
    -------
    joined : ndarray of shape (n_rows,) or (n_rows, n_features)
        Means over the windows that have a value there that is not NaN; NaN where there is none.

    Raises
    ------
    ValueError
        If shapes do not fit.

    See Also
    --------
    sliding_windows : Cuts them.

    Examples
    --------
    >>> from skvae import join_windows
    >>> join_windows([[1.0, 2.0], [4.0, 5.0]], [[0, 1], [1, 2]]).tolist()
    [1.0, 3.0, 5.0]
    """
    rows, values = np.asarray(rows), np.asarray(values)
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"rows has shape {rows.shape} and holds {rows.dtype}; it must be the rows of what sliding_windows returned, whole "
            "numbers of shape (n_windows, n_timesteps)."
        )
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if values.shape == (len(rows),):
        values = np.broadcast_to(values[:, np.newaxis], rows.shape)
    if values.shape[:2] != rows.shape or values.ndim not in (2, 3):
        raise ValueError(
            f"values has shape {values.shape}, but the windows are {len(rows)} of {rows.shape[1]} steps: it must be "
            "(n_windows,), (n_windows, n_timesteps) or (n_windows, n_timesteps, n_features)."
        )
    least = int(rows.max(initial=-1)) + 1
    n_rows = least if n_rows is None else _positive("n_rows", n_rows)
    if n_rows < least:
        raise ValueError(f"n_rows={n_rows} is less than the {least} rows that the windows come from.")
    inside = rows >= 0
    place, value = rows[inside], values[inside].astype(np.float64)
    known = ~np.isnan(value)
    total, count = np.zeros((n_rows, *values.shape[2:])), np.zeros((n_rows, *values.shape[2:]))
    np.add.at(total, place, np.where(known, value, 0.0))
    np.add.at(count, place, known)
    joined = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return joined.astype(values.dtype, copy=False)


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1.")
    return int(value)


def _one_table(X: Any, groups: Any) -> tuple[NDArray[Any], NDArray[Any], list[int] | None]:
    """Rows of all series, one below the other, and labels: of the rows, or of the series whose lengths come with them."""
    is_list = isinstance(X, (list, tuple)) and any(len(getattr(x, "shape", ())) or isinstance(x, (list, tuple)) for x in X)
    if not is_list or (not hasattr(X[0], "shape") and not _is_nested(X)):
        values = _numbers(X, "X")
        if groups is None:
            return values, np.zeros(1, dtype=np.intp), [len(values)]
        labels = np.asarray(groups)
        if labels.shape != (len(values),):
            raise ValueError(f"groups has shape {labels.shape}, but X has {len(values)} rows: it must be one label for each.")
        return values, labels, None
    parts = [_numbers(x, f"X[{i}]") for i, x in enumerate(X)]
    shapes = [part.shape[1:] for part in parts]
    odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
        raise ValueError(
            f"Series must have the same features, but X[0] has shape {parts[0].shape} and X[{odd}] has {parts[odd].shape}."
        )
    labels = np.arange(len(parts)) if groups is None else np.asarray(groups)
    if labels.shape != (len(parts),):
        raise ValueError(f"groups has shape {labels.shape}, but X is a list of {len(parts)} series: it must be a label for each.")
    if len(np.unique(labels)) < len(labels):
        raise ValueError("groups has one label twice, but each series of a list has its own.")
    return np.concatenate(parts), labels, [len(part) for part in parts]


def _is_nested(X: Any) -> bool:
    """Whether lists hold series in which frames are lists, or series of different lengths, rather than frames."""
    lengths = {len(x) for x in X if hasattr(x, "__len__")}
    return len(lengths) > 1 or any(hasattr(value, "__len__") for x in X for value in x)


def _numbers(X: Any, name: str) -> NDArray[Any]:
    values = np.asarray(X)
    if values.dtype.kind == "O":
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} holds what is not a number: {error}.") from error
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {values.dtype}; series are of numbers.")
    if values.ndim not in (1, 2):
        raise ValueError(
            f"{name} has {values.ndim} dimension(s), {values.shape}; a series is (n_rows,) or (n_rows, n_features), and several "
            "are a list of such."
        )
    return values


def _parts(
    labels: NDArray[Any], lengths: list[int] | None, n_blocks: int | None
) -> Iterator[tuple[NDArray[Any], NDArray[np.intp]]]:
    """Labels of series, and the rows of them or of their blocks."""
    if lengths is None:
        known, first, member = np.unique(labels, return_index=True, return_inverse=True)
        found = [(known[i : i + 1], np.flatnonzero(member == i)) for i in np.argsort(first)]
    else:
        ends = np.cumsum(lengths)
        found = [
            (labels[i : i + 1], np.arange(end - length, end)) for i, (end, length) in enumerate(zip(ends, lengths, strict=True))
        ]
    for label, rows in found:
        for part in [rows] if n_blocks is None else np.array_split(rows, n_blocks):
            yield label, part


def _cut(rows: NDArray[np.intp], n_timesteps: int, step: int, partial: bool) -> NDArray[np.intp]:
    """Rows of every window, ``(n_windows, n_timesteps)``."""
    n_windows = max(0, (len(rows) - n_timesteps) // step + 1)
    cut = sliding_window_view(rows, n_timesteps)[::step] if n_windows else np.empty((0, n_timesteps), dtype=np.intp)
    covered = (n_windows - 1) * step + n_timesteps if n_windows else 0
    start = n_windows * step
    if partial and covered < len(rows) and start < len(rows) - 1:
        last = np.full((1, n_timesteps), -1, dtype=np.intp)
        last[0, : len(rows) - start] = rows[start:]
        cut = np.concatenate([cut, last])
    return cut
