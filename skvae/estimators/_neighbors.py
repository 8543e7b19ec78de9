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
from skvae.training import NeighborGraph, Rows

_ONE_THREAD_WORK = 2**36  # multiply-adds of a search up to which one thread takes it, by which equal distances keep their order


def find_neighbors(
    x: np.ndarray, n_neighbors: int, metric: Any, transformer: Any = None, new: np.ndarray | None = None
) -> tuple[Any, Any]:
    """Find the rows that are nearest to each, and those that are nearest to new rows.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
    n_neighbors : int
        Of every row, itself not among them.
    metric : str or callable
        Of scikit-learn.
    transformer : transformer or None
        With the interface of KNeighborsTransformer, which finds them in place of scikit-learn's search; a copy of it is fitted.
    new : ndarray of shape (n_new, n_features) or None

    Returns
    -------
    distance : CSR matrix of shape (n_samples, n_samples)
    distance_of_new : CSR matrix of shape (n_new, n_samples) or None
    """
    n_rows, n_features = x.shape
    if isinstance(transformer, type):
        raise ValueError(f"neighbors={transformer.__name__} is a class; pass an instance, {transformer.__name__}().")
    with one_thread() if n_rows**2 * n_features <= _ONE_THREAD_WORK else nullcontext():
        if transformer is None:
            search = NearestNeighbors(n_neighbors=n_neighbors, metric=metric, metric_params=_params_of(metric, x)).fit(x)
            return search.kneighbors_graph(mode="distance"), None if new is None else search.kneighbors_graph(
                new, mode="distance"
            )
        name, transformer = f"What neighbors={transformer!r} returned", clone(transformer)
        with config_context(transform_output="default"):
            graph = check_graph(transformer.fit_transform(x), n_rows, name=name)
            if new is None:
                return graph, None
            return graph, check_graph(transformer.transform(new), n_rows, n_new=len(new), name=name)


def _params_of(metric: Any, x: np.ndarray) -> dict[str, np.ndarray] | None:
    """Return what a metric must know of all rows, if anything; directions in which none of them differ do not count."""
    if not isinstance(metric, str) or metric not in ("seuclidean", "mahalanobis"):
        return None
    x = np.asarray(x, dtype=np.float64)
    if metric == "seuclidean":
        variance = x.var(axis=0)
        return {"V": np.where(variance > 0.0, variance, 1.0)}
    return {"VI": np.linalg.pinv(np.atleast_2d(np.cov(x, rowvar=False)), hermitian=True)}


def _weights_of_nearest(distance: Any, n_neighbors: int) -> Any:
    """Weights by which the nearest rows count, a CSR matrix of the shape of their distances; see `fn.neighbor_weights`."""
    edges = distance.tocoo()
    row, column, length = edges.row, edges.col, edges.data
    order = np.lexsort((column, length, row))
    row, column, length = row[order], column[order], length[order]
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(distance.shape[0]))[row]
    nearest = rank < n_neighbors
    row, column, length, rank = row[nearest], column[nearest], length[nearest], rank[nearest]
    lengths = np.full((distance.shape[0], rank.max(initial=0) + 1), np.inf)
    lengths[row, rank] = length
    with one_thread():
        weight = fn.neighbor_weights(torch.from_numpy(lengths)).numpy()[row, rank]
    return sparse.csr_matrix((weight, (row, column)), shape=distance.shape)


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
    edges = distance.tocoo()
    others = edges.row != edges.col
    distance = sparse.coo_matrix((edges.data[others], (edges.row[others], edges.col[others])), shape=distance.shape)
    directed = _weights_of_nearest(distance, n_neighbors)
    reverse = directed.T.tocsr()
    return (directed + reverse - directed.multiply(reverse)).tocsr()


def join_rows(rows: Rows, distance: Any, n_neighbors: int, new: Rows | None = None, distance_of_new: Any = None) -> None:
    """Have rows handed out with their neighbors, and new rows with those that they have among them, as far as there are some.

    Parameters
    ----------
    rows : Rows
    distance : CSR matrix of shape (n_samples, n_samples)
    n_neighbors : int
    new : Rows or None
    distance_of_new : CSR matrix of shape (n_new, n_samples) or None
    """
    counts = sparse.diags(rows.weight.cpu().numpy().astype(np.float64))  # a row of weight two is drawn like two
    weight = weigh_edges(distance, n_neighbors)
    if weight.nnz:
        rows.join(NeighborGraph((weight @ counts).tocsr()))
    if new is not None and distance_of_new is not None:
        weight = _weights_of_nearest(distance_of_new, n_neighbors)
        if np.diff(weight.indptr).all():
            new.join(NeighborGraph((weight @ counts).tocsr()), rows)
