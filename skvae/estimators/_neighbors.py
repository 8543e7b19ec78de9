"""Graphs of the rows that are near each other: found by scikit-learn, by a transformer of the user's, or given."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors

from skvae import functional as fn
from skvae.estimators._checks import check_graph
from skvae.runtime.threads import one_thread
from skvae.training import NeighborGraph

_ONE_THREAD_WORK = 2**36  # multiply-adds of a search up to which one thread takes it, by which equal distances keep their order


def find_neighbors(x: np.ndarray, n_neighbors: int, metric: Any, transformer: Any = None) -> Any:
    """Find the rows that are nearest to each.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
    n_neighbors : int
        Of every row, itself not among them.
    metric : str or callable
        Of scikit-learn.
    transformer : transformer or None
        With the interface of KNeighborsTransformer, which finds them in place of scikit-learn's search; a copy of it is fitted.

    Returns
    -------
    CSR matrix of shape (n_samples, n_samples)
        Their distances.
    """
    n_rows, n_features = x.shape
    if isinstance(transformer, type):
        raise ValueError(f"neighbors={transformer.__name__} is a class; pass an instance, {transformer.__name__}().")
    with one_thread() if n_rows**2 * n_features <= _ONE_THREAD_WORK else nullcontext():
        if transformer is not None:
            with config_context(transform_output="default"):
                graph = clone(transformer).fit_transform(x)
            return check_graph(graph, n_rows, name=f"What neighbors={transformer!r} returned")
        search = NearestNeighbors(n_neighbors=n_neighbors, metric=metric).fit(x)
        return search.kneighbors_graph(mode="distance")


def weigh_edges(distance: Any, n_neighbors: int) -> Any:
    r"""Weights of the edges between rows and their nearest ones.

    Each row's weights are those of `skvae.functional.neighbor_weights`; an edge has the probability that at least one of its two
    directions is there, :math:`w_{ij} + w_{ji} - w_{ij} w_{ji}`.

    Parameters
    ----------
    distance : CSR matrix of shape (n_samples, n_samples)
        Of rows that are near each other; those of rows to themselves do not count.
    n_neighbors : int
        How many of every row's nearest count.

    Returns
    -------
    CSR matrix of shape (n_samples, n_samples)
    """
    n_rows = distance.shape[0]
    edges = distance.tocoo()
    row, column, length = (part[edges.row != edges.col] for part in (edges.row, edges.col, edges.data))
    order = np.lexsort((column, length, row))
    row, column, length = row[order], column[order], length[order]
    first = np.searchsorted(row, np.arange(n_rows))
    rank = np.arange(len(row)) - first[row]
    nearest = rank < n_neighbors
    row, column, length, rank = row[nearest], column[nearest], length[nearest], rank[nearest]
    lengths = np.full((n_rows, rank.max(initial=0) + 1), np.inf)
    lengths[row, rank] = length
    with one_thread():
        weight = fn.neighbor_weights(torch.from_numpy(lengths)).numpy()[row, rank]
    directed = sparse.csr_matrix((weight, (row, column)), shape=(n_rows, n_rows))
    reverse = directed.T.tocsr()
    return (directed + reverse - directed.multiply(reverse)).tocsr()


def join_neighbors(distance: Any, n_neighbors: int) -> NeighborGraph | None:
    """Return the graph of which rows draw neighbors, or None where no row is near another."""
    weight = weigh_edges(distance, n_neighbors)
    return NeighborGraph(weight) if weight.nnz else None
