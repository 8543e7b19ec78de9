"""What the columns of a class hold, which the draws of a model are brought to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvae.data import dense, is_sparse
from skvae.data.kinds import Column, Columns, Levels
from skvae.data.one_hot import one_hot_groups
from skvae.data.pairs import Pairs

_OUTSIDE = 0.01  # share of draws out of range, beyond what few rows explain, at which a model has the shape of a column wrong
_REPEATED = 0.05  # share of the rows that one value has in a column of numbers that is not smooth
_LEAST_SHARE = 1e-3  # of a category that, by the model, cannot be
_ROUNDS = 50
_BALANCING_ROUNDS = 8
_MOST_KNOWN, _LOST_ROWS = 4096, 1024  # rows of a class whose categories are known together, and draws that take them at once
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
    pairs : Pairs
        Which categories of these, and of columns of two values, never come together.
    is_rough : list of bool
        For each column whether it is of numbers, one of which is there again and again, as zero is in many columns.
    """

    def __init__(self, rows: Any, columns: Columns):
        self.columns = columns
        self.groups = one_hot_groups(rows)
        grouped = {int(j) for group in self.groups for j in group}
        self.singles = [j for j in range(len(columns)) if j not in grouped]
        twofold = [(j, tuple(columns[j].levels.tolist())) for j in self.singles if _is_twofold(columns[j])]
        self.pairs = Pairs(rows.tocsr() if is_sparse(rows) else rows, self.groups, twofold)
        by_column = rows.tocsc() if is_sparse(rows) else rows
        self.is_rough = [
            not isinstance(column, Levels) and _repeats(dense(by_column[:, [j]]).ravel()) for j, column in enumerate(columns)
        ]


class _Categories(NamedTuple):
    """Categories that were drawn, group by group.

    Attributes
    ----------
    chosen, shares : list of ndarray of shape (n, n_categories)
        One-hot, and the shares that they were drawn by.
    taken : ndarray of shape (n, n_all_categories)
        See `Pairs.of_rows`.
    is_lost : ndarray of bool, shape (n,)
        Whether a group had no category left.
    """

    chosen: list[NDArray[np.float64]]
    shares: list[NDArray[np.float64]]
    taken: NDArray[np.float32]
    is_lost: NDArray[np.bool_]


class ClassShape:
    """Brings draws of a model under a label to what the rows of the label hold, in the order in which they were drawn.

    A column of few values gets each as often as the rows have it: the highest draws become the largest value. So does a
    column of numbers in which the model, whose noise knows neither bounds nor repeated values, is wrong about these; draws of
    others are rounded and clipped as the column has it. Columns that are one-hot together get a single one, drawn in
    proportion to the model's means, which are weighted such that the categories have the shares that they have in the rows; what
    never comes with categories that were drawn before is left out. Where nothing is left, the categories are those of a row.

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
        self._known = np.unique(shape.pairs.of_rows(rows[:_MOST_KNOWN]), axis=0)
        in_pool = [_shares_in(pool, group) for group in shape.groups]
        targets = [_target(rows[:, group], shares) for group, shares in zip(shape.groups, in_pool, strict=True)]
        self._weights = [_weights(target, shares) for target, shares in zip(targets, in_pool, strict=True)]
        self._balance(targets, in_pool)

    def _balance(self, targets: list[NDArray[np.float64]], in_pool: list[NDArray[np.float64]]) -> None:
        """Weigh categories anew that have become more or less frequent by what cannot come together."""
        pairs = self._shape.pairs
        linked = [i for i in range(len(pairs.groups)) if pairs.is_linked(i)]
        for seed in range(_BALANCING_ROUNDS if linked else 0):
            shares = [_weighted(own, weights) for own, weights in zip(in_pool, self._weights, strict=True)]
            chance = np.random.RandomState(seed).random_sample((len(targets), len(shares[0]), 1))
            found = self._categories(shares, chance).shares
            for i in linked:
                self._weights[i] *= (targets[i] / found[i].mean(axis=0).clip(1e-9)).clip(0.5, 2.0)

    def settle(self, draws: Draws, generator: np.random.RandomState) -> NDArray[np.float64]:
        """Rows that the columns can hold, for draws ``(n, n_columns)``."""
        settled = np.empty_like(draws.values)
        for j in self._shape.singles:
            if j in self._quantiles:
                settled[:, j] = self._quantiles[j](draws.values[:, j], generator)
            else:
                settled[:, j] = _settled(draws.values[:, j], self._shape.columns[j])
        self._settle_groups(settled, draws, generator)
        return settled

    def _settle_groups(self, settled: NDArray[np.float64], draws: Draws, generator: np.random.RandomState) -> None:
        """Draw categories, and have columns of two values follow them."""
        groups, pairs = self._shape.groups, self._shape.pairs
        shares = [_weighted(_shares_in(draws, group), weights) for group, weights in zip(groups, self._weights, strict=True)]
        found = self._categories(shares, generator.random_sample((len(groups), len(settled), 1)))
        taken = found.taken
        for group, chosen in zip(groups, found.chosen, strict=True):
            settled[:, group] = chosen
        for i, (j, values) in enumerate(pairs.twofold, len(pairs.groups)):
            part = pairs.slices[i]
            if pairs.is_linked(i):
                barred = taken @ pairs.impossible[:, part] > 0.0
                for value, is_barred, other in zip(values, barred.T, values[::-1], strict=True):
                    settled[is_barred & ~barred.all(axis=1) & (settled[:, j] == value), j] = other
            taken[:, part] = settled[:, [j]] == np.array(values)
        lost = np.flatnonzero(found.is_lost)
        for start in range(0, len(lost), _LOST_ROWS):
            rows = lost[start : start + _LOST_ROWS]
            self._take_known(settled, rows, [own[rows] for own in shares], generator)

    def _categories(self, shares: list[NDArray[np.float64]], chance: NDArray[np.float64]) -> _Categories:
        """Draw categories group after group, the larger ones first, by shares and chances ``(n_groups, n, 1)``."""
        pairs, n_rows = self._shape.pairs, chance.shape[1]
        taken, is_lost = np.zeros((n_rows, len(pairs.impossible)), dtype=np.float32), np.zeros(n_rows, dtype=bool)
        left, chosen = list(shares), list(shares)
        for i in sorted(range(len(shares)), key=lambda i: -shares[i].shape[1]):
            is_known = i < len(pairs.groups)
            if is_known and pairs.is_linked(i):
                own = np.where(taken @ pairs.impossible[:, pairs.slices[i]] > 0.0, 0.0, shares[i])
                total = own.sum(axis=1, keepdims=True)
                is_lost |= total[:, 0] == 0.0
                left[i] = np.divide(own, total, out=shares[i].copy(), where=total > 0.0)
            passed = np.cumsum(left[i][:, :-1], axis=1) < chance[i]
            chosen[i] = np.eye(shares[i].shape[1])[passed.sum(axis=1)]
            if is_known:
                taken[:, pairs.slices[i]] = chosen[i]
        return _Categories(chosen, left, taken, is_lost)

    def _take_known(
        self, settled: NDArray[np.float64], rows: NDArray[np.intp], shares: list[NDArray[Any]], generator: np.random.RandomState
    ) -> None:
        """Give some draws the categories of one of the class's rows, by the model's shares of all its categories."""
        pairs = self._shape.pairs
        logits = np.zeros((len(rows), self._known.shape[1]))
        for part, own in zip(pairs.slices, shares, strict=False):
            logits[:, part] = np.log(own)
        fit = logits @ self._known.T.astype(np.float64)
        chosen = self._known[(fit + generator.gumbel(size=fit.shape)).argmax(axis=1)]
        for group, part in zip(pairs.groups, pairs.slices, strict=False):
            settled[np.ix_(rows, group)] = chosen[:, part]
        for (j, values), part in zip(pairs.twofold, pairs.slices[len(pairs.groups) :], strict=True):
            settled[rows, j] = np.array(values)[chosen[:, part].argmax(axis=1)]


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


def _is_twofold(column: Column) -> bool:
    return isinstance(column, Levels) and len(column.levels) == 2


def _settled(drawn: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    """Draws of a column as the nearest that it can hold."""
    return column.settle(drawn[:, np.newaxis])[:, 0]


# -- columns that are one-hot together --------------------------------------------------------------------------------


def _shares_in(draws: Draws, group: NDArray[np.intp]) -> NDArray[np.float64]:
    """Shares of the categories ``(n, n_categories)`` by the means of the model."""
    assert draws.means is not None
    shares = draws.means[:, group].clip(_LEAST_SHARE, 1.0)
    return shares / shares.sum(axis=1, keepdims=True)


def _target(rows: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Frequencies of the categories in the rows of a class, beside which all draws count as one."""
    target: NDArray[np.float64] = (rows.sum(axis=0) + shares.mean(axis=0)) / (len(rows) + 1)
    return target


def _weights(target: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the categories by which shares, of many draws, have given frequencies on average."""
    weights = np.ones(len(target))
    for _ in range(_ROUNDS):
        weights *= target / _weighted(shares, weights).mean(axis=0)
    return weights


def _weighted(shares: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    weighted = shares * weights
    return weighted / weighted.sum(axis=1, keepdims=True)
