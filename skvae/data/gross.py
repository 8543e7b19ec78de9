"""Gross errors among the entries of a table: a handful that would decide alone what their column looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae._spec import and_more
from skvae.data.moments import weighted_median
from skvae.data.sources import Source, WinsorizedSource

_SAMPLE_ROWS, _SAMPLE_NUMBERS = 4096, 2**20  # looked at to tell which columns call for a closer look
_GROUP_NUMBERS = 2**21  # of columns that are looked at together
_CENTRAL = 0.8  # share of the sampled entries away from the median that are ordinary for sure
_HANDFUL, _MOST_OF_HANDFUL, _MOST = 5, 0.05, 0.002  # different values, their share at most, and that of more values
_OTHERS = 10.0  # times as many entries must be ordinary, and away from the median
_TAIL = 0.15  # share of the ordinary entries that tells how heavy their tail is
_LEAST_GAP = 10.0  # by which gross errors lie beyond all ordinary entries, times their distance from the median
_STEEPNESS = 9.0  # logarithm of the gap, in those by which the tail falls off
_LEAST_PART = 3.0  # scatter that gross errors add to a column, over that of all others
_ROUNDING = 1e-9
_NAMED = 3  # columns that a description names


@dataclass(frozen=True)
class GrossErrors:
    """Columns with gross errors, each with the range of its other entries.

    Attributes
    ----------
    columns : ndarray of int, shape (n_columns,)
    low, high : ndarray of shape (n_columns,)
    count : ndarray of int, shape (n_columns,)
        How many gross errors there are.
    row : ndarray of int, shape (n_columns,)
        Row of the one that is furthest away.
    value : ndarray of shape (n_columns,)
        And its value.
    """

    columns: NDArray[np.intp]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    count: NDArray[np.intp]
    row: NDArray[np.intp]
    value: NDArray[np.float64]

    def describe(self, name: Callable[[int], Any], rows: NDArray[np.intp] | None, *, of: str = "X") -> str:
        """Say in words where the first few are.

        Parameters
        ----------
        name : callable
            Name of a column, from its position; None where it is the whole table.
        rows : ndarray of int, shape (n_samples,), or None
            What to call the rows; None leaves them out.
        of : str, default="X"
            What the table is called.
        """
        parts = []
        fields = zip(self.columns, self.low, self.high, self.count, self.row, self.value, strict=True)
        for column, low, high, count, row, value in list(fields)[:_NAMED]:
            where = f"{value:g}" if rows is None else f"{value:g} in row {rows[row]}"
            which = where if count == 1 else f"{count} entries such as {where}"
            own = name(int(column))
            what = of if own is None else f"column {own!r} of {of}"
            parts.append(f"{what} has {which}, where all others lie from {low:.4g} to {high:.4g}")
        listing = "; ".join(parts) + and_more(list(self.columns), _NAMED)
        return listing[0].upper() + listing[1:] if listing.startswith("column") else listing  # no name of an argument

    def winsorize(self, source: Source) -> Source:
        """Return the rows with gross errors moved to the end of the range of their column's other entries."""
        return WinsorizedSource(source, self.columns, self.low, self.high)


def describe_learning(concerns: list[str], learner: str) -> str:
    """Say in words what is made of gross errors that are described, by what learns from their rows."""
    return (
        f"{'. '.join(concerns)}. {learner} learns as if what lies outside were at the end of that range, and scores rows as they "
        "are. Correct such entries, or leave their rows out."
    )


def find_gross_errors(source: Source, weight: NDArray[np.float64] | None = None) -> GrossErrors | None:
    """Find entries that have most of their column's scatter and lie far outside of everything else in it.

    They are few, the gap that parts them from the others is wider than the tail of the latter makes plausible, and the others
    are no handful themselves: heavy tails, rare categories and columns that are zero but for a few rows have none.

    Parameters
    ----------
    source : Source of shape (n_samples, n_features)
        Entries that are NaN are missing.
    weight : ndarray of shape (n_samples,), optional

    Returns
    -------
    GrossErrors or None
        None if there are none.
    """
    if source.dtype.kind not in "fiu" or len(source.shape) != 2 or 0 in source.shape:
        return None
    median, suspects = _suspects(source)
    weight = np.ones(source.shape[0]) if weight is None else weight
    found = []
    with np.errstate(over="ignore", invalid="ignore"):
        for group in _groups(suspects, source.shape[0]):
            block = source.columns(group).read_exactly()
            for j, column in enumerate(group):
                errors = _look_at(block[:, j], weight, median[column])
                if errors is not None:
                    found.append((column, *errors))
    if not found:
        return None
    columns, *rest = (np.array(part) for part in zip(*found, strict=True))
    return GrossErrors(columns, *rest)


def _groups(suspects: NDArray[np.intp], n_rows: int) -> Iterator[NDArray[np.intp]]:
    size = max(1, _GROUP_NUMBERS // n_rows)
    for start in range(0, len(suspects), size):
        yield suspects[start : start + size]


def _suspects(source: Source) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Medians of sampled rows, and the columns whose extremes are far beyond what is ordinary among these rows."""
    n_rows, n_features = source.shape
    low, high = source.extremes
    stride = -(-n_rows // max(1, min(_SAMPLE_ROWS, _SAMPLE_NUMBERS // n_features)))
    sample = source.read_exactly(slice(None, None, stride))
    with np.errstate(over="ignore", invalid="ignore"):
        if source.has_missing:
            sample = np.sort(sample, axis=0)  # NaN comes last
            n_seen = np.maximum((~np.isnan(sample)).sum(axis=0), 1)
        else:
            n_seen = np.full(n_features, len(sample))
            sample = np.sort(sample, axis=0)
        median = sample[n_seen // 2, np.arange(n_features)]
        away = np.abs(sample - median)
        away = np.sort(away, axis=0)
        n_there = (away == 0.0).sum(axis=0)
        position = np.minimum(n_there + (_CENTRAL * (n_seen - n_there)).astype(np.intp), n_seen - 1)
        ordinary = away[position, np.arange(n_features)]
        furthest = np.maximum(high - median, median - low)
        # What is constant in the sample may be anything outside of it.
        is_suspect = (furthest > 0.5 * _LEAST_GAP * ordinary) & (furthest > 0.0)
    return median, np.flatnonzero(is_suspect)


def _look_at(x: NDArray[np.float64], weight: NDArray[np.float64], guess: float) -> tuple[float, float, int, int, float] | None:
    """Range of a column's ordinary entries, and number, furthest row and value of its gross errors; None if it has none."""
    seen = np.isfinite(x)
    share = np.where(seen, weight, 0.0)
    share = share / share.sum()
    at_guess = x == guess
    median = guess if share[at_guess].sum() > 0.5 else weighted_median(x[seen], share[seen])
    away = np.flatnonzero(seen & (x != median) & (share > 0.0))
    apart = np.abs(x[away] - median)
    order = np.argsort(apart, kind="stable")
    away, apart = away[order], apart[order]
    share = share[away]
    beyond = np.cumsum(share[::-1])[::-1]  # share of the entries from here on
    total = beyond[0] if len(beyond) else 0.0
    jumps = 1 + np.flatnonzero((apart[1:] >= _LEAST_GAP * apart[:-1]) & (beyond[1:] <= _MOST_OF_HANDFUL + _ROUNDING))
    for first in jumps:
        part = beyond[first]
        if part > _MOST + _ROUNDING and len(np.unique(x[away[first:]])) > _HANDFUL:
            continue
        spread = (total - part) / (1.0 - part)  # share of the ordinary entries that are away from the median
        if spread < _OTHERS * part * (1.0 - _ROUNDING):
            continue
        gap = apart[first] / apart[first - 1]
        falls = _tail_index(apart[:first], share[:first] / (1.0 - part), min(_TAIL, spread / 3.0))
        if gap < _LEAST_GAP / np.sqrt(spread) or np.log(gap) < _STEEPNESS * falls:
            continue
        offset = x[away] - median
        mean = share[:first] @ offset[:first] / (1.0 - part)
        variance = share[:first] @ offset[:first] ** 2 - (1.0 - part) * mean**2
        if share[first:] @ (offset[first:] - mean) ** 2 < _LEAST_PART * variance:
            continue
        ordinary = x[away[:first]]
        low, high = min(median, float(ordinary.min())), max(median, float(ordinary.max()))
        row = int(away[-1])
        return low, high, len(away) - int(first), row, float(x[row])
    return None


def _tail_index(apart: NDArray[np.float64], share: NDArray[np.float64], tail: float) -> float:
    """Hill's estimate of how slowly a tail falls off, from the largest of ordered distances, of which there is a share `tail`."""
    beyond = np.cumsum(share[::-1])[::-1]
    start = int(np.flatnonzero(beyond >= tail * (1.0 - _ROUNDING))[-1])
    return float(share[start:] @ np.log(apart[start:] / apart[start]) / tail)
