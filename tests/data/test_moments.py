import numpy as np
import pytest

from skvae.data.moments import column_moments, weighted_median, weighted_spread
from skvae.data.sources import as_source

X = np.random.default_rng(0).normal([1.0, -3.0, 0.0], [2.0, 0.1, 0.0], (60, 3))
WEIGHT = np.random.default_rng(1).integers(1, 4, 60)
HOLED = np.where(np.random.default_rng(2).random(X.shape) < 0.3, np.nan, X)
EMPTY = np.where([True, False, True], np.nan, X)


@pytest.mark.parametrize("x", [X, HOLED], ids=["complete", "holed"])
def test_weights_count_as_repeated_rows(x):
    found, repeated = column_moments(as_source(x), WEIGHT.astype(float)), np.repeat(x, WEIGHT, axis=0)
    measured = (np.nanmean(repeated, 0), np.nanvar(repeated, 0), np.nanmin(x, 0), np.nanmax(x, 0))
    for one, expected in zip(found, measured, strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-12)


def test_columns_without_entries_are_zeros():
    for part, expected in zip(column_moments(as_source(EMPTY)), column_moments(as_source(X)), strict=True):
        assert part[0] == part[2] == 0.0
        assert part[1] == pytest.approx(expected[1])


def test_spread_and_median_count_weights_as_repeated_values():
    repeated = np.repeat(X[:, 0], WEIGHT)
    assert weighted_spread(X[:, 0], WEIGHT.astype(float)) == pytest.approx(repeated.std())
    assert weighted_median(X[:, 0], WEIGHT / 7.0) == np.sort(repeated)[(len(repeated) - 1) // 2]


@pytest.mark.parametrize(("weight", "expected"), [([1.0, 1.0], 1.0), ([0.1, 0.2], 2.0), ([0.3, 0.3], 1.0)])
def test_median_of_two(weight, expected):
    assert weighted_median(np.array([2.0, 1.0])[::-1], np.array(weight)) == expected
