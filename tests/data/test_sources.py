"""Sources of rows: what is known of them is found out once."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from skvae import VAETransformer
from skvae.data import Table, as_source, sources
from skvae.data.sources import Source, total

GAPS = [[1.0, np.nan], [0.0, 2.0], [0.0, 3.0]]


@pytest.fixture
def scans(monkeypatch):
    """Sources in which missing entries were looked for."""
    scanned, scan = [], Source.has_missing.func
    monkeypatch.setattr(Source.has_missing, "func", lambda self: scanned.append(self) or scan(self))
    return scanned


@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_missing_entries_are_looked_for_once(form, scans):
    source = as_source(form(np.eye(4)))
    assert not source.has_missing
    assert not source.has_missing
    assert not source.take([0, 1]).has_missing
    assert not source.columns(np.array([2])).has_missing
    assert scans == [source]


@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_part_of_a_source_with_missing_entries_looks_for_its_own(form):
    source = as_source(form(GAPS))
    assert source.has_missing
    assert source.take([0]).has_missing
    assert not source.take([1, 2]).has_missing
    assert source.columns(np.array([1])).has_missing
    assert not source.columns(np.array([0])).has_missing


@pytest.mark.parametrize("params", [{}, {"missing_values": None}])
def test_a_fit_looks_for_missing_entries_once(params, scans, X):
    VAETransformer(2, hidden_layer_sizes=(8,), max_epochs=1, random_state=0).set_params(**params).fit(X)
    assert len(scans) == 1


def test_table_asks_its_source(scans):
    table = Table.of(np.array(GAPS))
    assert table.has_missing
    assert table.take([0]).has_missing
    np.testing.assert_array_equal(table.n_missing, [0, 1])
    assert len(scans) == 2


LAYOUTS = [np.ascontiguousarray, np.asfortranarray, lambda X: np.repeat(X, 2, axis=1)[:, ::2], lambda X: X[::-1]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 5), (700, 3), (2048, 2), (30, 7, 11)])
def test_total(layout, shape):
    values = np.random.default_rng(0).normal(size=shape)
    assert total(layout(values)) == pytest.approx(values.sum(), abs=1e-9)
    for place in [] if not values.size else [0, values.size // 2, values.size - 1]:
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = values.copy()
            spoiled.flat[place] = bad
            with np.errstate(invalid="ignore"):
                assert not np.isfinite(total(layout(spoiled)))


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, csr_array])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("numbers", [1, 5, 10**6])
def test_extremes(form, dtype, numbers, monkeypatch):
    monkeypatch.setattr(sources, "_CACHED_NUMBERS", numbers)
    X = np.random.default_rng(0).integers(-9, 10, size=(20, 3)).astype(dtype)
    if dtype is not np.int64:
        X[3, 1] = X[7, 0] = np.nan
        X[:, 2] = np.nan
    low, high = as_source(form(X)).extremes
    expected = [[-np.inf if np.isnan(x).all() else np.nanmax(x) for x in sign * X.T] for sign in (-1, 1)]
    np.testing.assert_array_equal(low, -np.array(expected[0]))
    np.testing.assert_array_equal(high, expected[1])
    assert low.dtype == high.dtype == np.float64
