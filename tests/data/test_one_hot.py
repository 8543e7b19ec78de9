"""Columns that are one-hot together, found in a table."""

import numpy as np
import pytest
from scipy import sparse

from skvae.data.one_hot import one_hot_groups

RNG = np.random.default_rng(0)


def one_hot(labels):
    return np.eye(labels.max() + 1)[labels]


def found_in(table):
    return [group.tolist() for group in one_hot_groups(table)]


def a_table(n_rows=200):
    """Two labels, a number, a column of zeros and ones of its own, one that is constant, and another label."""
    sizes = (3, 5, 2)
    first, second, third = (one_hot(RNG.integers(n, size=n_rows)) for n in sizes)
    own, number = RNG.integers(2, size=(n_rows, 1)), RNG.normal(size=(n_rows, 1))
    return np.hstack([first, second, number, own, np.zeros((n_rows, 1)), third])


GROUPS = [[0, 1, 2], [3, 4, 5, 6, 7], [11, 12]]


@pytest.mark.parametrize("form", [np.asarray, np.float32, sparse.csr_array, sparse.csc_matrix])
def test_groups_side_by_side(form):
    assert found_in(form(a_table())) == GROUPS


def test_groups_in_any_order():
    order = RNG.permutation(13)
    assert found_in(a_table()[:, order]) == sorted(sorted(np.flatnonzero(np.isin(order, group))) for group in GROUPS)


def test_groups_are_of_columns_that_have_zeros_and_ones():
    table = a_table()
    assert found_in(2 * table) == []
    assert found_in(np.hstack([np.zeros((9, 2)), np.ones((9, 1))])) == []
    assert found_in(RNG.normal(size=(50, 4))) == []
    table[0, :3] = 0  # a row without, or with two
    assert found_in(table) == GROUPS[1:]
    table[1, 3:5] = 1
    assert found_in(table) == GROUPS[2:]


def test_columns_are_in_one_group():
    label = one_hot(RNG.integers(3, size=100))
    assert found_in(np.hstack([1 - label[:, :1], label])) == [[1, 2, 3]]  # the wider one of two that share a column
    assert found_in(np.hstack([label, label])) in ([[0, 1, 2], [3, 4, 5]],)
    both = one_hot(RNG.integers(2, size=100))
    assert found_in(np.hstack([both, label])) == [[0, 1], [2, 3, 4]]


def test_tables_with_very_many_ways_to_group_end():
    assert found_in(np.hstack([one_hot(RNG.integers(2, size=30)) for _ in range(40)])[:, RNG.permutation(80)])
    assert isinstance(found_in((RNG.random((60, 300)) < 0.03).astype(float)), list)
