"""Gross errors: which entries are, and which never are."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from skvae.data import as_source
from skvae.data.gross import find_gross_errors
from skvae.data.sources import BLOCK_BYTES, WinsorizedSource

N_ROWS = 400
ORDINARY = {
    "normal": lambda rng, size: rng.normal(size=size),
    "t with 3 degrees": lambda rng, size: rng.standard_t(3, size),
    "log-normal": lambda rng, size: rng.lognormal(0.0, 1.0, size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "uniform": lambda rng, size: rng.random(size),
    "sparse": lambda rng, size: rng.lognormal(size=size) * (rng.random(size) < 0.1),
    "two in a thousand": lambda rng, size: 1e3 * rng.normal(size=size) * (rng.random(size) < 0.002),
    "rare category": lambda rng, size: 1.0 * (rng.random(size) < 0.01),
    "binary": lambda rng, size: 1.0 * (rng.random(size) < 0.4),
    "counts": lambda rng, size: 1.0 * rng.poisson(3.0, size),
    "rare counts": lambda rng, size: 1.0 * rng.poisson(0.05, size),
    "dispersed counts": lambda rng, size: 1.0 * rng.negative_binomial(0.3, 0.1, size),
    "a small cluster far away": lambda rng, size: rng.normal(size=size) + 1e3 * (np.arange(size[0])[:, np.newaxis] % 15 == 0),
    "constant": lambda rng, size: np.full(size, 3.0),
}
SPOILT = ["normal", "t with 3 degrees", "log-normal", "exponential", "uniform", "sparse", "binary", "counts", "dispersed counts"]


def table(name, n_rows=N_ROWS, n_columns=20, seed=0):
    return ORDINARY[name](np.random.default_rng(seed), (n_rows, n_columns))


def found(X, weight=None):
    return find_gross_errors(as_source(X), weight)


@pytest.mark.parametrize("n_rows", [60, N_ROWS, 3000])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_columns_have_none(name, n_rows):
    assert found(table(name, n_rows)) is None


@pytest.mark.parametrize("wild", [1e5, -1e5, 1e12, -1e300])
@pytest.mark.parametrize("name", SPOILT)
def test_one_wild_entry_is_found_whatever_the_others_are_like(name, wild):
    X = table(name)
    X[17, 3] = wild
    errors = found(X)
    assert errors.columns.tolist() == [3]
    assert (errors.row[0], errors.value[0], errors.count[0]) == (17, wild, 1)
    others = np.delete(X[:, 3], 17)
    assert (errors.low[0], errors.high[0]) == (others.min(), others.max())


@pytest.mark.parametrize("name", ["normal", "uniform", "counts"])
def test_entries_that_hardly_matter_are_left_alone(name):
    X = table(name)
    X[17, 3] = X[:, 3].mean() + 6.0 * X[:, 3].std()
    assert found(X) is None


def test_a_handful_of_different_sizes_are_found_together():
    X = table("normal")
    X[[5, 50, 300], 3] = [1e9, -1e5, 1e3]
    errors = found(X)
    assert (errors.columns.tolist(), errors.count.tolist(), errors.row.tolist()) == ([3], [3], [5])
    assert max(-errors.low[0], errors.high[0]) < 5.0


def test_one_value_that_stands_for_something_else():
    X = table("normal")
    X[::40, 3] = -999.0
    assert found(X).count.tolist() == [10]
    X[::10, 3] = -999.0  # a tenth of the rows are no handful
    assert found(X) is None


@pytest.mark.parametrize("n_rows", [25, 60])
def test_small_tables(n_rows):
    X = table("normal", n_rows)
    X[3, 1] = 1e4
    assert found(X).columns.tolist() == [1]


def test_integers_and_single_precision():
    X = np.random.default_rng(0).integers(0, 10, size=(N_ROWS, 5))
    X[4, 2] = 10**6
    for dtype in (np.int32, np.int64, np.float32):
        source = as_source(X.astype(dtype))
        errors = find_gross_errors(source)
        assert errors.columns.tolist() == [2]
        kept = errors.winsorize(source).read(slice(None))
        assert kept.dtype == dtype
        assert kept[4, 2] == 9


def test_nothing_is_found_in_booleans_and_in_no_rows():
    assert found(np.eye(30, dtype=bool)) is None
    assert found(np.empty((0, 3))) is None
    assert found(np.full((30, 2), np.nan)) is None


def spoilt(n_rows=N_ROWS):
    X = table("normal", n_rows)
    X[17, 3], X[5, 8] = 1e5, -1e4
    return X


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_the_order_of_the_rows_does_not_matter():
    X = spoilt()
    order = np.random.default_rng(1).permutation(len(X))
    errors, shuffled = found(X), found(X[order])
    assert np.array_equal(order[shuffled.row], errors.row)
    for name in ("columns", "low", "high", "count", "value"):
        assert np.array_equal(getattr(errors, name), getattr(shuffled, name))


@pytest.mark.parametrize("seed", range(4))
def test_a_weight_is_as_many_rows_and_scale_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    X, weight = spoilt(60), rng.integers(1, 4, size=60)
    errors, repeated = found(X, weight.astype(float)), found(np.repeat(X, weight, axis=0))
    assert same(errors, found(X, 1e-3 * weight))
    for name in ("columns", "low", "high", "value"):
        assert np.array_equal(getattr(errors, name), getattr(repeated, name))


def test_the_weight_decides_whether_entries_are_few():
    X, weight = spoilt(), np.ones(N_ROWS)
    weight[17] = 0.1 * N_ROWS
    assert found(X, weight).columns.tolist() == [8]


def test_sparse_rows_are_rows():
    X = table("sparse")
    X[17, 3] = 1e5
    X[:, 4] = 1e3 + table("normal")[:, 4]  # where an entry that is not stored would be the gross error
    X[20, 4] = 0.0
    dense, sparse = found(X), found(csr_array(X))
    assert dense.columns.tolist() == [3, 4]
    assert same(dense, sparse)
    read = [errors.winsorize(as_source(form)).read(slice(10, 30)) for errors, form in ((dense, X), (sparse, csr_array(X)))]
    assert np.array_equal(*read)
    assert read[1][10, 4] > 990.0


def test_missing_entries_are_left_out_and_stay_missing():
    X = spoilt()
    X[np.random.default_rng(2).random(X.shape) < 0.3] = np.nan
    X[17, 3] = 1e5
    errors = found(X)
    assert errors.columns.tolist()[0] == 3
    source = errors.winsorize(as_source(X))
    assert source.has_missing
    assert np.array_equal(np.isnan(source.read_exactly()), np.isnan(X))


def test_large_tables_are_read_block_by_block(monkeypatch):
    n_rows = 2 * BLOCK_BYTES // (8 * 8) // 10
    X = np.random.default_rng(0).normal(size=(n_rows, 8))
    X[n_rows - 1, 3] = 1e7
    monkeypatch.setattr("skvae.data.sources.BLOCK_BYTES", BLOCK_BYTES // 10)
    assert found(X).columns.tolist() == [3]


def test_winsorized_rows():
    X = spoilt()
    errors, source = found(X), as_source(X)
    rows = errors.winsorize(source)
    everything = rows.read(slice(None))
    assert isinstance(rows, WinsorizedSource)
    assert everything[17, 3] == np.delete(X[:, 3], 17).max()
    assert everything[5, 8] == np.delete(X[:, 8], 5).min()
    assert (everything != X).sum() == 2
    assert X[17, 3] == 1e5
    assert np.array_equal(rows.take(np.arange(10, 20)).read(slice(None)), everything[10:20])
    assert np.array_equal(rows.columns(np.array([8, 1, 3])).read(slice(None)), everything[:, [8, 1, 3]])
    assert np.array_equal(rows.columns(np.array([0, 1])).read(slice(None)), X[:, :2])


def test_what_is_said():
    X = spoilt()
    X[::50, 10] = 1e6
    X[3, 12] = 1e5
    text = found(X).describe(lambda column: f"c{column}", 1000 + np.arange(len(X)))
    assert text.startswith("Column 'c3' of X has 100000 in row 1017, where all others lie from -")
    assert "; column 'c8' of X has -10000 in row 1005, " in text
    assert "; column 'c10' of X has 8 entries such as 1e+06 in row " in text
    assert text.endswith(" and 1 more")
    assert "row" not in found(X).describe(int, None)
