"""Which columns of a table are one-hot together: a label that is spread over columns of zeros and ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae.data.sources import dense, is_sparse

_MOST_ENTRIES = 2**25  # of columns that are searched for groups in any order; more are searched side by side alone
_MOST_STEPS = 5000


def one_hot_groups(rows: Any) -> list[NDArray[np.intp]]:
    """Find groups of columns of zeros and ones that have a single one among them in every row.

    A group has at least two columns, each with zeros and ones, and no column is in two groups. Of groups that share columns,
    those win which lie side by side, the wider ones first; then those whose first column comes first.

    Parameters
    ----------
    rows : ndarray or sparse matrix of shape (n_rows, n_columns)

    Returns
    -------
    list of ndarray of int
        Positions of the columns of each group, in rising order.
    """
    ones = _positions_of_ones(rows)
    groups = _side_by_side(ones, rows.shape[0])
    taken = {int(column) for group in groups for column in group}
    others = np.array([column for column in ones if column not in taken], dtype=np.intp)
    if len(others) > 1 and rows.shape[0] * len(others) <= _MOST_ENTRIES:
        is_one = np.zeros((rows.shape[0], len(others)), dtype=bool)
        for k, column in enumerate(others.tolist()):
            is_one[ones[column], k] = True
        groups += [others[found] for found in _in_any_order(is_one)]
    return sorted(groups, key=lambda group: int(group[0]))


def _positions_of_ones(rows: Any) -> dict[int, NDArray[np.intp]]:
    """Rows that have a one, of every column that holds zeros and ones, both, and nothing else."""
    by_column = rows.tocsc() if is_sparse(rows) else rows
    found = {}
    for j in range(rows.shape[1]):
        values = dense(by_column[:, [j]]).ravel()
        is_one = values == 1
        if is_one.any() and not is_one.all() and (values[~is_one] == 0).all():
            found[j] = np.flatnonzero(is_one)
    return found


def _side_by_side(ones: dict[int, NDArray[np.intp]], n_rows: int) -> list[NDArray[np.intp]]:
    """Find groups of columns that follow each other."""
    runs = []
    for start in ones:
        covered, n_covered, column = np.zeros(n_rows, dtype=bool), 0, start
        while n_covered < n_rows and column in ones and not covered[ones[column]].any():
            covered[ones[column]] = True
            n_covered += len(ones[column])
            column += 1
        if n_covered == n_rows:
            runs.append(np.arange(start, column))
    groups: list[NDArray[np.intp]] = []
    taken: set[int] = set()
    for run in sorted(runs, key=len, reverse=True):
        if taken.isdisjoint(run.tolist()):
            groups.append(run)
            taken.update(run.tolist())
    return groups


def _in_any_order(is_one: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Find groups of columns of a matrix ``(n_rows, n_columns)``, wherever they lie."""
    counts = is_one.astype(np.float32)
    apart = counts.T @ counts == 0.0
    groups, n_steps, free = [], 0, np.ones(is_one.shape[1], dtype=bool)
    for first in range(is_one.shape[1]):
        if not free[first]:
            continue
        stack = [([first], is_one[:, first], apart[first] & free)]
        while stack and n_steps < _MOST_STEPS:
            n_steps += 1
            chosen, covered, allowed = stack.pop()
            if covered.all():
                group = np.sort(chosen)
                groups.append(group)
                free[group] = False
                break
            row = int(covered.argmin())  # one of the columns that have a one here belongs to the group
            for column in np.flatnonzero(allowed & is_one[row])[::-1].tolist():
                stack.append(([*chosen, column], covered | is_one[:, column], allowed & apart[column]))
    return groups
