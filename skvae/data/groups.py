"""Rows that belong together, which are held out together or not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_numbers(groups: Any) -> NDArray[np.intp]:
    """Return numbers of groups, in the order in which they come first, ``(n_samples,)``."""
    known: dict[Any, int] = {}
    return np.array([known.setdefault(group, len(known)) for group in np.asarray(groups).tolist()], dtype=np.intp)


def draw_groups(groups: NDArray[np.intp], n_rows: int, seed: int) -> NDArray[np.bool_]:
    """Draw whole groups whose rows come to about a number of them, at least one group and not all.

    Parameters
    ----------
    groups : ndarray of shape (n_samples,)
        Groups of the rows, of which there are at least two.
    n_rows : int
        How many rows are wanted.
    seed : int

    Returns
    -------
    ndarray of bool, shape (n_samples,)
        Which rows are drawn.
    """
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(counts))
    total = np.cumsum(counts[order])[:-1]
    n_drawn = 1 + int(np.abs(total - n_rows).argmin())
    drawn: NDArray[np.bool_] = np.isin(numbers, order[:n_drawn])
    return drawn


def fold_groups(groups: NDArray[np.intp], n_folds: int) -> NDArray[np.intp]:
    """Deal groups into folds of about as many rows, the largest first; fold 0 is the one closest to an equal share.

    Parameters
    ----------
    groups : ndarray of shape (n_samples,)
        Groups of the rows.
    n_folds : int
        At most as many as there are groups.

    Returns
    -------
    ndarray of int, shape (n_samples,)
        The fold of each row.

    Examples
    --------
    >>> import numpy as np
    >>> fold_groups(np.array([5, 5, 5, 7, 7, 9]), 2)
    array([0, 0, 0, 1, 1, 1])
    """
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sizes, fold = np.zeros(n_folds, dtype=np.intp), np.zeros(len(counts), dtype=np.intp)
    for group in np.argsort(-counts, kind="stable"):
        fold[group] = sizes.argmin()
        sizes[fold[group]] += counts[group]
    rank = np.empty(n_folds, dtype=np.intp)
    rank[np.argsort(np.abs(sizes * n_folds - len(groups)), kind="stable")] = np.arange(n_folds)
    return rank[fold][numbers]
