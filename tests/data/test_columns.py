import dataclasses

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from skvae.data import sources
from skvae.data.columns import ColumnStatistics, columns_are_correlated
from skvae.data.sources import row_blocks

N_ROWS = 400
FIELDS = [field.name for field in dataclasses.fields(ColumnStatistics)]


def table():
    """One column of every kind that tables are made of."""
    rng = np.random.default_rng(0)
    return {
        "meters": 5e4 + 1e3 * rng.normal(size=N_ROWS),
        "microns": 1e-6 * rng.normal(size=N_ROWS),
        "constant": np.full(N_ROWS, 0.1 + 0.2),
        "binary": np.arange(N_ROWS) % 2.0,
        "rare": (np.arange(N_ROWS) == 7).astype(float),
        "counts": rng.poisson(20.0, size=N_ROWS).astype(float),
        "rounded": np.round(rng.normal(size=N_ROWS), 1),
        "zero_inflated": np.where(rng.random(N_ROWS) < 0.1, rng.exponential(size=N_ROWS), 0.0),
    }


@pytest.fixture
def X():
    return np.column_stack(list(table().values()))


def column(statistics, name):
    j = list(table()).index(name)
    return {field: getattr(statistics, field)[j] for field in FIELDS if field != "shared_unit"}


def assert_same(a, b, **tolerance):
    for field in FIELDS:
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), err_msg=field, **tolerance)


# -- closed forms -----------------------------------------------------------------------------------------------------


def test_moments(X):
    statistics = ColumnStatistics.of(X)
    varying = ~statistics.constant
    np.testing.assert_allclose(statistics.shift, X.mean(0), rtol=1e-9, atol=1e-20)
    np.testing.assert_allclose(statistics.std[varying], X.std(0)[varying], rtol=1e-9)
    np.testing.assert_array_equal(statistics.minimum, X.min(0))
    np.testing.assert_array_equal(statistics.maximum, X.max(0))
    assert not statistics.shared_unit


@pytest.mark.parametrize(
    ("name", "gap"),
    [
        ("meters", 0.0),
        ("microns", 0.0),
        ("binary", 1.0),
        ("rare", 1.0),
        ("counts", 1.0),
        ("rounded", 0.1),
        ("zero_inflated", 0.0),
    ],
)
def test_floor_and_scale_follow_the_resolution(X, name, gap):
    found, std = column(ColumnStatistics.of(X), name), table()[name].std()
    assert found["floor"] == pytest.approx(max(0.01 * std, gap / np.sqrt(12.0)))
    assert found["scale"] == pytest.approx(max(std, gap / np.sqrt(12.0)))
    assert not found["constant"]


def test_a_column_that_hardly_moves_is_not_blown_up(X):
    rare = column(ColumnStatistics.of(X), "rare")
    assert rare["scale"] > 5.0 * rare["std"]


def test_differences_of_rounding_are_no_resolution():
    tenths = np.arange(200) % 7
    X = np.where(np.arange(200) < 100, 0.1 * tenths, tenths / 10.0)[:, None]
    assert len(np.unique(X)) > 7
    np.testing.assert_allclose(ColumnStatistics.of(X).floor, 0.1 / np.sqrt(12.0))


def test_a_few_different_values_are_no_grid():
    X = np.arange(10.0)[:, None]
    np.testing.assert_allclose(ColumnStatistics.of(X).floor, 0.01 * X.std())
    np.testing.assert_allclose(ColumnStatistics.of(np.repeat(X, 2, axis=0)).floor, 1.0 / np.sqrt(12.0))


def test_constant_column(X):
    statistics = ColumnStatistics.of(X)
    found = column(statistics, "constant")
    assert statistics.constant.sum() == 1
    assert found["constant"]
    assert found["shift"] == 0.1 + 0.2  # the value itself, not a rounded mean
    assert found["std"] == found["scale"] == 1.0
    assert found["floor"] == np.median(statistics.floor[~statistics.constant])


def test_nothing_but_constants():
    statistics = ColumnStatistics.of(np.full((10, 20), 3.0))
    assert statistics.constant.all()
    for field in ("std", "scale", "floor"):
        np.testing.assert_array_equal(getattr(statistics, field), 1.0)
    np.testing.assert_array_equal(statistics.shift, 3.0)


def test_single_row():
    statistics = ColumnStatistics.of(np.array([[1.0, 2.0]]))
    assert statistics.constant.all()
    np.testing.assert_array_equal(statistics.shift, [1.0, 2.0])


def test_one_unit_by_request(X):
    statistics = ColumnStatistics.of(X, shared=True)
    assert statistics.shared_unit
    np.testing.assert_allclose(statistics.std, np.sqrt((X.std(0) ** 2).mean()))
    np.testing.assert_array_equal(statistics.scale, statistics.scale[0])


# -- what must not matter ---------------------------------------------------------------------------------------------


def test_weights_are_repetitions(X):
    repeats = np.random.default_rng(1).integers(1, 4, size=N_ROWS)
    weighted = ColumnStatistics.of(X, repeats.astype(float))
    assert_same(weighted, ColumnStatistics.of(np.repeat(X, repeats, axis=0)), rtol=1e-9, atol=1e-18)
    assert_same(weighted, ColumnStatistics.of(X, 1000.0 * repeats), rtol=1e-12, atol=1e-18)
    assert np.abs(weighted.shift / ColumnStatistics.of(X).shift - 1.0).max() > 1e-3


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csr_matrix])
def test_compressed_rows_equal_dense_ones(X, container):
    assert_same(ColumnStatistics.of(container(X)), ColumnStatistics.of(X), rtol=0.0)


def test_single_precision(X):
    narrow = X.astype(np.float32)
    assert_same(ColumnStatistics.of(narrow), ColumnStatistics.of(narrow.astype(np.float64)), rtol=0.0)
    rounded = column(ColumnStatistics.of(narrow), "rounded")
    assert rounded["floor"] == pytest.approx(0.1 / np.sqrt(12.0), rel=1e-4)  # gaps of rounding do not count


def test_integers():
    X = np.random.default_rng(0).integers(0, 50, size=(200, 3))
    assert_same(ColumnStatistics.of(X), ColumnStatistics.of(X.astype(float)), rtol=0.0)


def test_block_size(X, monkeypatch):
    weight = np.random.default_rng(1).random(N_ROWS)
    whole, weighted = ColumnStatistics.of(X), ColumnStatistics.of(X, weight)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 8 * X.shape[1] * 7)
    blocks = list(row_blocks(*X.shape))
    assert [index for rows in blocks for index in range(rows.start, rows.stop)] == list(range(N_ROWS))
    assert max(rows.stop - rows.start for rows in blocks) == 7
    assert_same(ColumnStatistics.of(X), whole, rtol=1e-12, atol=1e-18)
    assert_same(ColumnStatistics.of(X, weight), weighted, rtol=1e-12, atol=1e-18)


def test_long_tables_are_measured_on_all_rows():
    X = np.random.default_rng(0).integers(0, 1000, size=(10_001, 2)).astype(float)
    X[-2, 0] = 1e6  # on none of the rows that are looked at for the resolution
    statistics = ColumnStatistics.of(X)
    np.testing.assert_allclose(statistics.std, X.std(0))
    assert statistics.maximum[0] == 1e6
    np.testing.assert_allclose(statistics.floor, np.maximum(0.01 * X.std(0), 1.0 / np.sqrt(12.0)))


def test_X_is_left_alone(X):
    before = X.copy()
    ColumnStatistics.of(X)
    np.testing.assert_array_equal(X, before)
    X.flags.writeable = False
    assert_same(ColumnStatistics.of(X), ColumnStatistics.of(before), rtol=0.0)


@pytest.mark.parametrize(("factor", "size"), [(1e300, "large"), (1e-300, "small")])
def test_spread_out_of_range(X, factor, size):
    X[:, 0] *= factor
    with pytest.raises(ValueError, match=rf"column\(s\) \[0\] of X is too {size}"):
        ColumnStatistics.of(X)


# -- one unit for all columns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform",
    [lambda X: X, lambda X: X / 16.0, lambda X: MinMaxScaler().fit_transform(X), lambda X: X.astype(np.uint8)],
    ids=["raw", "divided", "minmax", "uint8"],
)
def test_pixels_share_a_unit(transform):
    X = transform(load_digits().data)
    statistics = ColumnStatistics.of(X)
    assert statistics.shared_unit
    np.testing.assert_allclose(statistics.std, np.sqrt(X.var(0).mean()))
    np.testing.assert_array_equal(statistics.scale, statistics.scale[0])
    assert not ColumnStatistics.of(X, shared=False).shared_unit


@pytest.mark.parametrize(
    "make",
    [
        lambda: load_wine().data,
        lambda: load_breast_cancer().data,
        lambda: StandardScaler().fit_transform(load_breast_cancer().data),
        lambda: MinMaxScaler().fit_transform(load_breast_cancer().data),
        lambda: StandardScaler().fit_transform(np.random.default_rng(0).normal(size=(500, 30))),
        lambda: np.random.default_rng(0).uniform(size=(500, 40)),
        lambda: np.random.default_rng(0).uniform(size=(60, 400)),
        lambda: np.random.default_rng(0).integers(0, np.geomspace(3, 300, 30), size=(500, 30)),
        lambda: np.random.default_rng(0).integers(0, 2, size=(500, 10)),
    ],
    ids=["wine", "cancer", "cancer standardized", "cancer minmax", "gaussian", "uniform", "wide uniform", "counts", "few binary"],
)
def test_tables_do_not(make):
    assert not ColumnStatistics.of(make()).shared_unit


# -- correlation ------------------------------------------------------------------------------------------------------


def test_rank_one_data_is_correlated():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 1)) @ rng.normal(size=(1, 10)) + 0.5 * rng.normal(size=(100, 10))
    assert columns_are_correlated(X)
    assert columns_are_correlated(X * 1e3 + 1e4)
    assert columns_are_correlated(np.column_stack([X, np.full(100, 2.0)]))


def test_noise_is_not_correlated():
    found = [columns_are_correlated(np.random.default_rng(seed).normal(size=(100, 10))) for seed in range(20)]
    assert not any(found)


def test_one_varying_column_is_not_correlated():
    assert not columns_are_correlated(np.column_stack([np.arange(10.0), np.ones(10)]))
