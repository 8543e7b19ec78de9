import numpy as np
import pytest

from skvae.data import Table
from skvae.training.factors import choose_factors


def rows(n_rows=150, n_factors=3, n_features=10, noise=0.4, seed=0, share=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_factors)) @ rng.normal(size=(n_factors, n_features)) + noise * rng.normal(
        size=(n_rows, n_features)
    )
    X[rng.random(X.shape) < share] = np.nan
    return X


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("n_factors", [1, 3])
def test_as_many_factors_as_there_are(n_factors, share):
    assert abs(choose_factors(Table.of(rows(100, n_factors, share=share)), 1, 5) - n_factors) <= (share > 0.0)


def test_equal_rows_are_held_out_together_and_weights_are_copies():
    X = rows(40, share=0.1)
    twice = np.where(np.arange(len(X)) % 2 == 0, 2, 1)
    chosen = choose_factors(Table.of(X, twice.astype(float)), 1, 5)
    assert choose_factors(Table.of(np.repeat(X, twice, axis=0)), 1, 5) == chosen
    assert choose_factors(Table.of(np.repeat(X, 4, axis=0)), 1, 5) == choose_factors(Table.of(X), 1, 5)


def test_units_and_constant_columns_have_no_part():
    X = rows(60, share=0.1)
    scaled = X * np.logspace(-6, 6, 10) + 1e3 * np.logspace(-6, 6, 10)
    with_constant = np.column_stack([scaled, np.full(len(X), 7.0)])
    assert choose_factors(Table.of(with_constant), 1, 5) == choose_factors(Table.of(scaled), 1, 5)
    assert choose_factors(Table.of(scaled), 1, 5) == choose_factors(Table.of(X), 1, 5)


def test_too_few_rows_to_choose_by():
    assert choose_factors(Table.of(rows(5)), 1, 4) == 4
    assert choose_factors(Table.of(np.ones((20, 3))), 1, 2) in (1, 2)
