"""What the columns of a class hold, which the draws of a model are brought to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae.data import dense, is_sparse
from skvae.data.kinds import Column, Columns, Levels
from skvae.data.one_hot import one_hot_groups

_OUTSIDE = 0.01  # share of draws out of range, beyond what few rows explain, at which a model has the shape of a column wrong
_REPEATED = 0.05  # share of the rows that one value has in a column of numbers that is not smooth
_LEAST_SHARE = 1e-3  # of a category that, by the model, cannot be
_ROUNDS = 50
_POOL_ROWS, _FEWEST_POOL_ROWS, _POOL_NUMBERS = 2000, 64, 2**23


def pool_size(n_columns: int) -> int:
    """How many draws of a model tell what it makes of a class; fewer of wide tables."""
    return min(_POOL_ROWS, max(_FEWEST_POOL_ROWS, _POOL_NUMBERS // max(1, n_columns)))


@dataclass(frozen=True, eq=False)
class Draws:
    """Rows drawn from a model.

    Attributes
    ----------
    values : ndarray of shape (n, n_columns)
        With the likelihood's noise.
    means : ndarray of shape (n, n_columns) or None
        Means of the likelihood for the same codes; None where no columns are one-hot together.
    """

    values: NDArray[np.float64]
    means: NDArray[np.float64] | None

    def take(self, rows: NDArray[Any]) -> Draws:
        """Keep some draws."""
        return Draws(self.values[rows], None if self.means is None else self.means[rows])


class TableShape:
    """What a table's columns are like, whatever the class.

    Parameters
    ----------
    rows : ndarray or sparse matrix of shape (n_rows, n_columns)
    columns : Columns
        Kinds of its columns.

    Attributes
    ----------
    columns : Columns
    groups : list of ndarray of int
        Positions of columns that are one-hot together.
    singles : list of int
        Positions of all others.
    is_rough : list of bool
        For each column whether it is of numbers, one of which is there again and again, as zero is in many columns.
    """

    def __init__(self, rows: Any, columns: Columns):
        self.columns = columns
        self.groups = one_hot_groups(rows)
        grouped = {int(j) for group in self.groups for j in group}
        self.singles = [j for j in range(len(columns)) if j not in grouped]
        by_column = rows.tocsc() if is_sparse(rows) else rows
        self.is_rough = [
            not isinstance(column, Levels) and _repeats(dense(by_column[:, [j]]).ravel()) for j, column in enumerate(columns)
        ]


class ClassShape:
    """Brings draws of a model under a label to what the rows of the label hold, in the order in which they were drawn.

    A column of few values gets each as often as the rows have it: the highest draws become the largest value. So does a
    column of numbers in which the model, whose noise knows neither bounds nor repeated values, is wrong about these; draws of
    others are rounded and clipped as the column has it. Columns that are one-hot together get a single one, drawn in
    proportion to the model's means, which are weighted such that the categories have the shares that they have in the rows.

    All draws together count as one row beside those of the class, of which there may be few.

    Parameters
    ----------
    shape : TableShape
    rows : ndarray or sparse matrix of shape (n_rows, n_columns)
        Those of the label.
    pool : Draws
        Many draws under the label, which say what the model makes of it.
    """

    def __init__(self, shape: TableShape, rows: Any, pool: Draws):
        self._shape = shape
        rows = dense(rows).astype(np.float64)
        self._quantiles = {
            j: _Quantiles(shape.columns[j], rows[:, j], pool.values[:, j])
            for j in shape.singles
            if _is_mapped(shape.columns[j], pool.values[:, j], len(rows), shape.is_rough[j])
        }
        self._weights = [_weights(rows[:, group], _shares_in(pool, group)) for group in shape.groups]

    def settle(self, draws: Draws, generator: np.random.RandomState) -> NDArray[np.float64]:
        """Rows that the columns can hold, for draws ``(n, n_columns)``."""
        settled = np.empty_like(draws.values)
        for j in self._shape.singles:
            if j in self._quantiles:
                settled[:, j] = self._quantiles[j](draws.values[:, j], generator)
            else:
                settled[:, j] = _settled(draws.values[:, j], self._shape.columns[j])
        for group, weights in zip(self._shape.groups, self._weights, strict=True):
            shares = _weighted(_shares_in(draws, group), weights)
            passed = np.cumsum(shares[:, :-1], axis=1) < generator.random_sample((len(shares), 1))
            settled[:, group] = np.eye(len(group))[passed.sum(axis=1)]
        return settled


# -- columns by themselves --------------------------------------------------------------------------------------------


class _Quantiles:
    """From the quantiles of a model's draws to those of a column; of draws that are equal, chance decides which is higher."""

    def __init__(self, column: Column, own: NDArray[np.float64], drawn: NDArray[np.float64]):
        self._column, self._drawn = column, np.sort(drawn)
        values = np.concatenate([own, _settled(drawn, column)])
        weight = np.concatenate([np.ones(len(own)), np.full(len(drawn), 1.0 / len(drawn))])
        order = np.argsort(values, kind="stable")
        upto = np.cumsum(weight[order])
        self._values = values[order]
        # A column of numbers has others between two of these, and a column of few values has not.
        self._places = (upto if isinstance(column, Levels) else upto - 0.5 * weight[order]) / upto[-1]

    def __call__(self, drawn: NDArray[np.float64], generator: np.random.RandomState) -> NDArray[np.float64]:
        first, last = (np.searchsorted(self._drawn, drawn, side=side) for side in ("left", "right"))
        place = (first + generator.random_sample(len(drawn)) * (last - first + 1)) / (len(self._drawn) + 1)
        if isinstance(self._column, Levels):
            return self._values[np.searchsorted(self._places, place).clip(max=len(self._values) - 1)]
        return _settled(np.interp(place, self._places, self._values), self._column)


def _repeats(values: NDArray[Any]) -> bool:
    """Whether one of the values is there again and again."""
    count: int = np.unique(values, return_counts=True)[1].max()
    return count > max(1.0, _REPEATED * len(values))


def _is_mapped(column: Column, drawn: NDArray[np.float64], n_rows: int, is_rough: bool) -> bool:
    """Whether draws of a column are to have its quantiles; those of others are right but for rounding and a few out of range."""
    if isinstance(column, Levels):
        return len(column.levels) > 1
    low, high = column.range
    return is_rough or bool(np.mean((drawn < low) | (drawn > high)) > _OUTSIDE + 1.0 / (n_rows + 1))


def _settled(drawn: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    """Draws of a column as the nearest that it can hold."""
    return column.settle(drawn[:, np.newaxis])[:, 0]


# -- columns that are one-hot together --------------------------------------------------------------------------------


def _shares_in(draws: Draws, group: NDArray[np.intp]) -> NDArray[np.float64]:
    """Shares of the categories ``(n, n_categories)`` by the means of the model."""
    assert draws.means is not None
    shares = draws.means[:, group].clip(_LEAST_SHARE, 1.0)
    return shares / shares.sum(axis=1, keepdims=True)


def _weights(rows: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the categories by which shares, of many draws, have on average the frequencies in the rows of a class."""
    target = (rows.sum(axis=0) + shares.mean(axis=0)) / (len(rows) + 1)
    weights = np.ones(len(target))
    for _ in range(_ROUNDS):
        weights *= target / _weighted(shares, weights).mean(axis=0)
    return weights


def _weighted(shares: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    weighted = shares * weights
    return weighted / weighted.sum(axis=1, keepdims=True)
