"""Weighted means, spreads and medians: of columns, block by block, and of the values of one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvae.data.sources import Source

_ROUNDING = 1e-9  # of sums of weights, relative

Array = NDArray[np.float64]


class Moments(NamedTuple):
    """What is measured of columns, each an ndarray of shape (n_features,); zeros where a column has no entries.

    Attributes
    ----------
    mean, variance : ndarray
        Weighted; infinite or NaN where they overflow.
    low, high : ndarray
        Extremes.
    """

    mean: Array
    variance: Array
    low: Array
    high: Array


def column_moments(source: Source, weight: Array | None = None) -> Moments:
    """Measure columns over the entries that are not NaN, in two passes over row blocks."""
    (n_rows, n_features), has_missing = source.shape, source.has_missing
    weight = np.full(n_rows, 1.0 / n_rows) if weight is None else weight / weight.sum()
    mean, variance, total = np.zeros(n_features), np.zeros(n_features), np.zeros(n_features)
    low, high = source.extremes
    deviation = np.empty((0, n_features))
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in source.blocks():
            block = source.read_exactly(rows)
            if has_missing:
                observed = ~np.isnan(block)
                total += weight[rows] @ observed
                block = np.where(observed, block, 0.0)
            mean += weight[rows] @ block
        if has_missing:
            total[total == 0.0] = 1.0
            mean /= total
        for rows in source.blocks():
            block = source.read_exactly(rows)
            if len(deviation) < len(block):  # once, for memory that is new takes longer than the arithmetic
                deviation = np.empty(block.shape)
            square = np.subtract(block, mean, out=deviation[: len(block)])
            np.square(square, out=square)
            variance += weight[rows] @ (np.nan_to_num(square, nan=0.0, posinf=np.inf) if has_missing else square)
        if has_missing:
            variance /= total
    empty = low > high
    low, high = np.where(empty, 0.0, low), np.where(empty, 0.0, high)
    return Moments(mean, variance, low, high)


def weighted_spread(values: Array, weight: Array) -> float:
    """Weighted standard deviation of values ``(n,)``."""
    mean = np.average(values, weights=weight)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weight)))


def weighted_median(values: Array, weight: Array) -> float:
    """Weighted median of values ``(n,)``: one of weight two counts as two; of two in the middle it is the smaller."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(below, 0.5 * below[-1] * (1.0 - _ROUNDING))])
