"""Rows that differ, and how often each is there."""

import numpy as np
import pytest
from scipy import sparse

from skvae.data import Table
from skvae.data.distinct import distinct_rows

X = np.random.default_rng(0).normal(size=(50, 3)).round(1)


def found(X, weight=None, condition=None, seed=0, max_rows=1000):
    table = Table.of(X, weight, condition)
    positions, weights = distinct_rows(table, seed, max_rows=max_rows)
    return table.source.read_exactly(positions), weights


def test_every_row_is_there_once():
    rows, weight = found(np.vstack([X, X[:10]]))
    assert len(np.unique(rows, axis=0)) == len(rows) == len(np.unique(X, axis=0))
    assert weight.sum() == 60


@pytest.mark.parametrize("place", ["beside", "behind"])
def test_a_row_of_weight_two_is_the_row_twice(place):
    counts = np.random.default_rng(1).integers(1, 4, size=50)
    more = np.repeat(X, counts, axis=0) if place == "beside" else np.vstack([X, np.repeat(X, counts - 1, axis=0)])
    one, other = found(X, counts.astype(float)), found(more)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_the_form_of_rows_does_not_matter():
    plain = found(X)
    for form in (sparse.csr_matrix(X), np.asfortranarray(X), X * (1.0 + 1e-15)):
        np.testing.assert_allclose(found(form)[0], plain[0], rtol=1e-12)


def test_zeros_have_no_sign_and_missing_entries_are_one():
    twins = np.array([[0.0, np.nan], [-0.0, -np.nan], [1.0, 2.0]])
    assert sorted(found(twins)[1]) == [1.0, 2.0]


def test_conditions_tell_rows_apart():
    twins = np.ones((4, 2))
    assert len(found(twins)[0]) == 1
    assert sorted(found(twins, condition=np.array([[0.0], [1.0], [1.0], [2.0]]))[1]) == [1.0, 1.0, 2.0]


def test_order_and_size():
    rows, _ = found(X)
    assert not np.array_equal(found(X, seed=1)[0], rows)
    np.testing.assert_array_equal(found(X, max_rows=7)[0], rows[:7])
