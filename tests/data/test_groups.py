import numpy as np
import pytest

from skvae.data.groups import draw_groups, fold_groups, group_numbers


@pytest.mark.parametrize("groups", [[7, 7, 3, 7, 1], ["b", "b", "a", "b", "c"], [("x", 1), ("x", 1), 2, ("x", 1), None]], ids=str)
def test_groups_are_numbered_as_they_come(groups):
    held = np.empty(len(groups), dtype=object)
    held[:] = groups
    np.testing.assert_array_equal(group_numbers(held), [0, 0, 1, 0, 2])


@pytest.mark.parametrize("n_groups", [2, 3, 10, 50])
@pytest.mark.parametrize("n_rows", [1, 10, 90])
def test_whole_groups_of_about_the_number_of_rows_are_drawn(n_groups, n_rows):
    groups = np.random.default_rng(0).integers(n_groups, size=100)
    drawn = draw_groups(groups, n_rows, 0)
    assert 0 < drawn.sum() < 100
    assert set(groups[drawn]).isdisjoint(groups[~drawn])
    assert abs(drawn.sum() - n_rows) <= np.bincount(groups).max()
    np.testing.assert_array_equal(drawn, draw_groups(groups, n_rows, 0))
    assert len({tuple(draw_groups(groups, n_rows, seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_folds_are_of_whole_groups_and_about_equal(n_folds):
    groups = np.random.default_rng(0).integers(20, size=200) * 3
    fold = fold_groups(groups, n_folds)
    assert set(fold) == set(range(n_folds))
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
    assert np.ptp(np.bincount(fold)) <= np.bincount(groups).max()
    lopsided = np.r_[np.zeros(100, dtype=int), np.arange(1, 100)]
    sizes = np.bincount(fold_groups(lopsided, n_folds))
    assert abs(sizes[0] - 199 / n_folds) == np.abs(sizes - 199 / n_folds).min()
