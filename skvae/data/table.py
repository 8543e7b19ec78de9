"""Rows as they were given, with all that is known about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae.data.sources import Source, as_source


@dataclass(frozen=True, eq=False)
class Table:
    """Rows, and what belongs to each; made once, where input is checked, and never asked again.

    Attributes
    ----------
    source : Source
        Rows of shape ``(n_samples, n_features)``, or sequences ``(n_samples, n_timesteps, n_features)`` with NaN behind the end
        of each.
    weight : ndarray of shape (n_samples,) or None
    condition : ndarray of shape (n_samples, n_conditions) or None
        What a conditional model conditions on.
    labels : ndarray of shape (n_samples, n_labels) or None
        What the prior of the codes depends on, and the codes do not.
    names : sequence or None
        Of the columns, where they have any.
    target : Source or None
        What the rows should be returned as, of their shape and under the same names; None where that is the rows themselves.
    groups : ndarray of int, shape (n_samples,), or None
        Which rows belong together, and are held out together or not at all.
    graph : CSR matrix of shape (n_samples, n_samples) or None
        Distances of the rows that are near each one, where these were given.
    """

    source: Source
    weight: NDArray[np.float64] | None = None
    condition: NDArray[Any] | None = None
    labels: NDArray[Any] | None = None
    names: Sequence[Any] | None = None
    target: Source | None = None
    groups: NDArray[np.intp] | None = None
    graph: Any = None

    @classmethod
    def of(
        cls,
        X: Any,
        weight: NDArray[np.float64] | None = None,
        condition: NDArray[Any] | None = None,
        labels: NDArray[Any] | None = None,
        names: Sequence[Any] | None = None,
        *,
        complete: bool = False,
    ) -> Table:
        """Make a table of an array, a CSR matrix or a source, maybe known to be complete; a table is returned as it is."""
        return X if isinstance(X, Table) else cls(as_source(X, complete=complete), weight, condition, labels, names)

    def name(self, column: int) -> Any:
        """Name of a column, or its position where it has none."""
        return column if self.names is None else self.names[column]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.source.shape[0])

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.source.shape[-1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the rows."""
        return self.source.shape

    @property
    def has_missing(self) -> bool:
        """Whether any entry is missing."""
        return self.source.has_missing

    @cached_property
    def n_missing(self) -> NDArray[np.int64]:
        """Missing entries of every column, ``(n_features,)``."""
        counts = np.zeros(self.n_features, dtype=np.int64)
        if self.has_missing:
            for rows in self.source.blocks():
                counts += np.isnan(self.source.read(rows)).reshape(-1, self.n_features).sum(axis=0)
        return counts

    @cached_property
    def empty_rows(self) -> NDArray[np.bool_] | None:
        """Which rows have no entry at all; None if there is no such row."""
        if not self.has_missing:
            return None
        entries = (self.source.read(rows) for rows in self.source.blocks())
        empty = np.concatenate([np.isnan(block).reshape(len(block), -1).all(axis=1) for block in entries])
        return empty if empty.any() else None

    def take(self, rows: Any) -> Table:
        """Keep some rows, in order: positions, a mask or a slice."""
        parts = (self.weight, self.condition, self.labels, self.groups)
        weight, condition, labels, groups = (part if part is None else part[rows] for part in parts)
        target = None if self.target is None else self.target.take(rows)
        graph = None if self.graph is None else self.graph[rows][:, rows]
        return Table(self.source.take(rows), weight, condition, labels, self.names, target, groups, graph)

    def columns(self, positions: NDArray[np.intp]) -> Table:
        """Keep some columns, in order, under the names or positions that they have here."""
        target = None if self.target is None else self.target.columns(positions)
        names = [self.name(int(column)) for column in positions]
        return replace(self, source=self.source.columns(positions), names=names, target=target)

    def with_condition(self, condition: NDArray[Any] | None) -> Table:
        """Return the same rows under other conditions."""
        return replace(self, condition=condition)

    def with_one_condition(self, condition: NDArray[Any]) -> Table:
        """Return the same rows, all of them under one condition ``(n_conditions,)``."""
        return self.with_condition(np.broadcast_to(condition, (self.n_rows, len(condition))))

    def entries(self) -> Table:
        """Return what columns are measured on: what rows should be, or the frames of sequences with the weights of these."""
        if self.target is not None:
            return replace(self, source=self.target, target=None)
        if len(self.source.shape) == 2:
            return self
        X = self.source.read(slice(None))
        present = ~np.isnan(X[..., 0])
        weight = None if self.weight is None else np.repeat(self.weight, present.sum(axis=1))
        return Table.of(X[present], weight, names=self.names)
