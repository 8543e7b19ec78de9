"""Graphs of rows that are near each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from skvae.warnings import warn_user


def check_graph(graph: Any, n_rows: int, *, n_new: int | None = None, name: str = "neighbor_graph") -> Any:
    """Return the distances of rows, or of new ones, to those near them as a CSR matrix; raise a ValueError about what is none.

    Returns
    -------
    CSR matrix of shape (n_rows, n_rows) or (n_new, n_rows)
    """
    if not sparse.issparse(graph):
        raise ValueError(
            f"{name} is of type {type(graph).__name__}, and not a sparse matrix of the distances of every row's nearest ones, as "
            "sklearn.neighbors.KNeighborsTransformer(mode='distance') makes it."
        )
    shape = (n_rows if n_new is None else n_new, n_rows)
    if graph.shape != shape:
        advice = ""
        if graph.shape[0] == n_rows < graph.shape[1]:
            advice = (
                " Searches and cross-validation divide the rows of whatever is as long as X, by which a graph falls apart: "
                "leave it out, and have each fold find its own, by the parameter neighbors or by scikit-learn's search."
            )
        raise ValueError(f"{name} has the shape {graph.shape}, and has to have {shape}, as X has {n_rows} rows.{advice}")
    graph = sparse.csr_matrix(graph).astype(np.float64)
    if not np.isfinite(graph.data).all() or (graph.data < 0.0).any():
        raise ValueError(f"{name} has entries that are negative or no finite numbers, which no distance is.")
    if n_new is None and n_rows > 1:
        _check_joins(graph, name)
    return graph


def _check_joins(graph: Any, name: str) -> None:
    """Raise a ValueError where no row is joined to another one, and warn where some are not."""
    edges = graph.tocoo()
    between = edges.row != edges.col
    alone = np.ones(graph.shape[0], dtype=bool)
    alone[edges.row[between]] = alone[edges.col[between]] = False
    if alone.all():
        raise ValueError(
            f"{name} has no distance between two rows, so that none has a neighbor: it must hold those of every row's "
            "nearest ones."
        )
    if alone.any():
        warn_user(
            f"{name} has no neighbors for {alone.sum()} of {len(alone)} rows, such as row {alone.argmax()}: what is learned of "
            "them is their reconstruction, and their codes lie anywhere."
        )
