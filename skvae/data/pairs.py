"""Which categories never come together, as a city and the country of another, of columns that are one-hot or of two values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from skvae.data.sources import dense

_MOST_CATEGORIES = 2048  # of all columns together; what comes beyond is left out
_BLOCK_NUMBERS = 2**22
_SURPRISE = 2.0  # standard deviations by which more pairs must be missing than chance explains


class Pairs:
    """Pairs of categories of different features that no row of a table has, where chance does not explain that none has.

    Features that hold about as many pairs as independent ones would have no such pair: which of their rare pairs came up is
    chance.

    Parameters
    ----------
    rows : ndarray or sparse matrix of shape (n_rows, n_columns)
    groups : sequence of ndarray of int
        Columns that are one-hot together, a feature each.
    twofold : sequence of (int, (float, float))
        Columns of two values, and these, a feature each.

    Attributes
    ----------
    slices : list of slice
        Where the categories of each feature are among those of all, the groups first.
    impossible : ndarray of float32, shape (n_categories, n_categories)
        One for pairs that cannot be.
    """

    def __init__(self, rows: object, groups: Sequence[NDArray[np.intp]], twofold: Sequence[tuple[int, tuple[float, float]]] = ()):
        self._groups, self._twofold = list(groups), list(twofold)
        sizes = [*map(len, groups), *(2 for _ in twofold)]
        ends = np.cumsum([0, *sizes])
        kept = int((ends[1:] <= _MOST_CATEGORIES).sum())
        self._groups, self._twofold = self._groups[:kept], self._twofold[: max(0, kept - len(self._groups))]
        self.slices = [slice(*pair) for pair in zip(ends[:kept].tolist(), ends[1 : kept + 1].tolist(), strict=True)]
        self.impossible = np.zeros((ends[kept], ends[kept]), dtype=np.float32)
        if kept > 1:
            self._compare(self._counts(rows), rows.shape[0])  # type: ignore[attr-defined]

    @property
    def groups(self) -> list[NDArray[np.intp]]:
        """Columns that are one-hot together, as far as they are looked at."""
        return self._groups

    @property
    def twofold(self) -> list[tuple[int, tuple[float, float]]]:
        """Columns of two values, as far as they are looked at."""
        return self._twofold

    def of_rows(self, rows: object) -> NDArray[np.float32]:
        """Return ones where rows have a category, ``(n, n_categories)``."""
        found = np.zeros((rows.shape[0], len(self.impossible)), dtype=np.float32)  # type: ignore[attr-defined]
        columns = [*self._groups, *(np.array([j]) for j, _ in self._twofold)]
        for i, (own, part) in enumerate(zip(columns, self.slices, strict=True)):
            values = dense(rows[:, own])  # type: ignore[index]
            found[:, part] = values if i < len(self._groups) else values == np.array(self._twofold[i - len(self._groups)][1])
        return found

    def _blocks(self, rows: object) -> Iterator[NDArray[np.float32]]:
        n_rows = rows.shape[0]  # type: ignore[attr-defined]
        step = max(1, _BLOCK_NUMBERS // max(1, len(self.impossible)))
        for start in range(0, n_rows, step):
            yield self.of_rows(rows[start : start + step])  # type: ignore[index]

    def _counts(self, rows: object) -> NDArray[np.float64]:
        """Return how many rows have each pair."""
        counts = np.zeros(self.impossible.shape)
        for block in self._blocks(rows):
            counts += block.T @ block
        return counts

    def _compare(self, counts: NDArray[np.float64], n_rows: int) -> None:
        """Find features of which more pairs are missing than of independent ones, and note these pairs."""
        totals = counts.diagonal()
        missing = (counts == 0.0) & (np.outer(totals, totals) > 0.0)
        by_chance = np.exp(-np.outer(totals, totals) / n_rows)  # probability that a pair is missing
        starts = [part.start for part in self.slices]

        def by_feature(of_pairs: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.add.reduceat(np.add.reduceat(of_pairs, starts, axis=0), starts, axis=1)

        excess = by_feature(missing.astype(float)) - by_feature(by_chance)
        is_linked = excess > _SURPRISE * np.sqrt(by_feature(by_chance * (1.0 - by_chance)))
        np.fill_diagonal(is_linked, False)
        sizes = [part.stop - part.start for part in self.slices]
        spread = np.repeat(np.repeat(is_linked, sizes, axis=0), sizes, axis=1)
        self.impossible[:] = missing & spread

    def is_linked(self, i: int) -> bool:
        """Whether a feature has a pair with another one that cannot be."""
        return bool(self.impossible[self.slices[i]].any())
