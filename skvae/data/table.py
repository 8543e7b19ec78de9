"""Rows as they were given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Table(NamedTuple):
    """Rows as they were given, with what belongs to each.

    Attributes
    ----------
    X : ndarray of shape (n_samples, ..., n_features) or CSR matrix of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,) or None
    condition : ndarray of shape (n_samples, n_conditions) or None
    """

    X: Any
    weight: np.ndarray | None = None
    condition: np.ndarray | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])

    def take(self, rows: Any) -> Table:
        """Keep some rows."""
        weight, condition = (part if part is None else part[rows] for part in (self.weight, self.condition))
        return Table(self.X[rows], weight, condition)
