"""Which rows of a table differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skvae.data.table import Table

_ODD = np.uint64(0x9E3779B97F4A7C15)


def distinct_rows(table: Table, seed: int, *, max_rows: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rows of a table each of which differs from the others, in random order, and their weights.

    Equal rows, with what they are conditioned on and should be, count as one row of the weights of all: a row of weight two and
    two rows of weight one give the same. The order is that of where rows come first, shuffled, whatever the type of their
    entries.

    Parameters
    ----------
    table : Table
    seed : int
        Decides the order.
    max_rows : int
        Most rows to return.

    Returns
    -------
    positions : ndarray of int
        Where the rows are.
    weight : ndarray
    """
    codes = np.zeros(table.n_rows, dtype=np.uint64)
    for part, source in ((0, table.source), (2, table.target)):
        if source is not None:
            factors = _factors(part, table.n_features)
            for rows in source.blocks():
                codes[rows] = codes[rows] + _bits(source.read_exactly(rows)) @ factors
    if table.condition is not None:
        condition = np.asarray(table.condition, dtype=np.float64)
        codes = codes + _bits(condition) @ _factors(1, condition.shape[1])
    _, first, which = np.unique(_mixed(codes), return_index=True, return_inverse=True)
    weight = np.bincount(which.ravel(), weights=table.weight, minlength=len(first)).astype(np.float64)
    order = np.argsort(first)[np.random.default_rng(seed).permutation(len(first))[:max_rows]]
    return first[order], weight[order]


def _factors(seed: int, n_columns: int) -> NDArray[np.uint64]:
    """Odd numbers by which columns count in a row's code."""
    numbers = np.random.default_rng(seed).integers(1 << 62, size=n_columns, dtype=np.uint64)
    return numbers * np.uint64(2) + np.uint64(1)


def _bits(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Bits of numbers, mixed; those of zeros and of missing entries do not depend on their signs."""
    plain = np.where(np.isnan(values), np.nan, values + 0.0)
    return _mixed(np.ascontiguousarray(plain).view(np.uint64))


def _mixed(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread what differs in some bits over all of them."""
    mixed = (codes ^ (codes >> np.uint64(32))) * _ODD
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _ODD
    return mixed ^ (mixed >> np.uint64(32))
