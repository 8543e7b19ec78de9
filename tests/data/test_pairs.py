import numpy as np
import pytest
from scipy import sparse

from skvae.data import pairs as pairs_of
from skvae.data.pairs import Pairs

N_ROWS = 600


def one_hot(values, n):
    return np.eye(n)[values]


def table(seed=0):
    """Cities, each with its country and, but for two, on one side of the equator; and jobs that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    city, job = rng.integers(12, size=N_ROWS), rng.integers(5, size=N_ROWS)
    south = np.where(city < 2, rng.integers(2, size=N_ROWS), city % 2)
    X = np.column_stack([one_hot(city, 12), one_hot(city % 4, 4), one_hot(job, 5), south])
    return X, [np.arange(12), np.arange(12, 16), np.arange(16, 21)], [(21, (0.0, 1.0))]


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("block", [2**22, 100])
def test_what_cannot_be_is_found(form, block, monkeypatch):
    monkeypatch.setattr(pairs_of, "_BLOCK_NUMBERS", block)
    X, groups, twofold = table()
    found = Pairs(form(X), groups, twofold)
    city, country, job, south = found.slices
    np.testing.assert_array_equal(found.impossible[city, country], np.arange(12)[:, np.newaxis] % 4 != np.arange(4))
    sides = np.array([city_of % 2 != side and city_of > 1 for city_of in range(12) for side in (0, 1)])
    np.testing.assert_array_equal(found.impossible[city, south], sides.reshape(12, 2))
    assert not found.impossible[job].any()
    np.testing.assert_array_equal(found.impossible, found.impossible.T)
    assert [found.is_linked(i) for i in range(4)] == [True, True, False, True]
    ones = found.of_rows(X)
    np.testing.assert_array_equal(ones[:, :21], X[:, :21])
    np.testing.assert_array_equal(ones[:, 22], X[:, 21])
    assert not (ones @ found.impossible * ones).any()


@pytest.mark.parametrize("n_categories", [3, 12, 40])
def test_chance_explains_rare_pairs(n_categories):
    """Of independent columns, hardly any are taken for what cannot be, however many of their pairs are missing."""
    linked = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        share = rng.dirichlet(np.ones(n_categories))
        drawn = [np.unique(rng.choice(n_categories, N_ROWS, p=share), return_inverse=True)[1] for _ in range(4)]
        X = np.column_stack([one_hot(own, own.max() + 1) for own in drawn])
        groups = np.split(np.arange(X.shape[1]), np.cumsum([own.max() + 1 for own in drawn])[:-1])
        found = Pairs(X, groups)
        linked += sum(found.impossible[a, b].any() for a in found.slices for b in found.slices) / 2
    assert linked <= 6  # of sixty


def test_categories_of_one_value_and_many_columns(monkeypatch):
    X, groups, twofold = table()
    assert Pairs(X, groups[:1]).impossible.sum() == 0
    assert Pairs(X, []).impossible.shape == (0, 0)
    monkeypatch.setattr(pairs_of, "_MOST_CATEGORIES", 17)
    found = Pairs(X, groups, twofold)
    assert (len(found.groups), len(found.twofold)) == (2, 0)
    assert found.impossible.shape == (16, 16)
    assert found.impossible.any()
