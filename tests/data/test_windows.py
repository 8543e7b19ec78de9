import numpy as np
import pandas as pd
import polars as pl
import pytest

from skvae import join_windows, sliding_windows

SERIES = np.arange(40.0).reshape(20, 2)


def test_windows_are_cut_step_by_step():
    windows = sliding_windows(SERIES, 6, step=4)
    assert windows.X.shape == (4, 6, 2)
    np.testing.assert_array_equal(windows.rows[:, 0], [0, 4, 8, 12])
    for i in range(4):
        np.testing.assert_array_equal(windows.X[i], SERIES[4 * i : 4 * i + 6])
    np.testing.assert_array_equal(windows.groups, 0)
    assert sliding_windows(SERIES, 6).X.shape == (15, 6, 2)
    assert sliding_windows(SERIES, 20).X.shape == (1, 20, 2)
    assert sliding_windows(SERIES, 6, step=100).X.shape == (1, 6, 2)


@pytest.mark.parametrize("step", [1, 3, 6, 8])
@pytest.mark.parametrize("series", [SERIES, SERIES[:, 0], SERIES.astype(np.float32), SERIES.astype(int)[:, :1]], ids=str)
def test_joining_undoes_cutting(series, step):
    windows = sliding_windows(series, 6, step=step)
    joined = join_windows(windows.X, windows.rows, n_rows=20)
    covered = np.isin(np.arange(20), windows.rows)
    np.testing.assert_array_equal(joined[covered], series[covered])
    assert np.isnan(joined[~covered]).all()
    assert joined.shape == series.shape
    assert joined.dtype == (series.dtype if series.dtype.kind == "f" else np.float64)


def test_overlaps_are_averaged_over_what_is_there():
    rows = np.array([[0, 1, 2], [1, 2, 3]])
    joined = join_windows([[1.0, 2.0, np.nan], [4.0, 6.0, np.nan]], rows)
    np.testing.assert_array_equal(joined, [1.0, 3.0, 6.0, np.nan])
    np.testing.assert_array_equal(join_windows([1.0, 3.0], rows), [1.0, 2.0, 2.0, 3.0])  # one value for a window
    np.testing.assert_array_equal(join_windows([1, 3], rows, n_rows=5), [1.0, 2.0, 2.0, 3.0, np.nan])


def test_missing_entries_stay_where_they_are():
    series = SERIES.copy()
    series[7, 1] = np.nan
    windows = sliding_windows(series, 5)
    assert np.isnan(windows.X).sum() == 5
    np.testing.assert_array_equal(join_windows(windows.X, windows.rows), series)


@pytest.mark.parametrize(("n_rows", "step", "n_windows", "last"), [(20, 6, 3, 2), (20, 4, 4, 4), (19, 6, 3, None), (4, 6, 0, 4)])
def test_what_is_left_over_can_be_kept(n_rows, step, n_windows, last):
    for series in (SERIES[:n_rows], SERIES[:n_rows].astype(int)):
        windows = sliding_windows(series, 6, step=step, partial=True)
        assert len(windows.X) == n_windows + (last is not None)
        if last is not None:
            np.testing.assert_array_equal(windows.X[-1, :last], SERIES[n_rows - last : n_rows])
            assert np.isnan(windows.X[-1, last:]).all()
            assert (windows.rows[-1, last:] == -1).all()
            np.testing.assert_array_equal(join_windows(windows.X, windows.rows), series)


def test_windows_keep_to_their_series():
    labels = np.array(["b", "a"] * 10)  # whose rows take turns
    windows = sliding_windows(SERIES, 4, groups=labels)
    assert windows.X.shape == (14, 4, 2)
    assert list(windows.groups) == ["b"] * 7 + ["a"] * 7
    for window, rows, label in zip(*(windows.X, windows.rows, windows.groups), strict=True):
        assert (labels[rows] == label).all()
        np.testing.assert_array_equal(window, SERIES[rows])
    np.testing.assert_array_equal(join_windows(windows.X, windows.rows), SERIES)
    listed = sliding_windows([SERIES[:9], SERIES[9:12], SERIES[12:]], 4, groups=["x", "y", "z"])
    assert list(listed.groups) == ["x"] * 6 + ["z"] * 5  # the second is too short
    np.testing.assert_array_equal(listed.X, SERIES[listed.rows])
    assert list(sliding_windows([SERIES, SERIES], 19).groups) == [0, 0, 1, 1]


def test_blocks_share_no_row():
    windows = sliding_windows(SERIES, 3, n_blocks=4)
    assert windows.X.shape == (12, 3, 2)
    assert list(windows.groups) == sorted([0, 1, 2, 3] * 3)
    for a in range(4):
        for b in range(a):
            assert not np.intersect1d(windows.rows[windows.groups == a], windows.rows[windows.groups == b]).size
    several = sliding_windows([SERIES, SERIES[:7]], 3, n_blocks=2)
    assert list(np.unique(several.groups)) == [0, 1, 2, 3]


def test_containers():
    frame = pd.DataFrame(SERIES, columns=["a", "b"])
    expected = sliding_windows(SERIES, 5).X
    for given in (frame, SERIES.tolist(), SERIES.astype(object), np.asfortranarray(SERIES)):
        np.testing.assert_array_equal(sliding_windows(given, 5).X, expected)
    labels = pd.Series([0] * 10 + [1] * 10, index=np.arange(20) + 7)
    np.testing.assert_array_equal(sliding_windows(frame, 5, groups=labels).groups, [0] * 6 + [1] * 6)
    for one in (frame["a"], SERIES[:, 0].tolist(), range(0, 40, 2)):
        np.testing.assert_array_equal(sliding_windows(one, 5).X, expected[..., 0])
    polars = pl.DataFrame(SERIES, schema=["a", "b"])
    np.testing.assert_array_equal(sliding_windows(polars, 5).X, expected)
    for several in ([frame, frame[:7]], (SERIES, SERIES[:7].tolist()), [polars, polars[:7]]):
        assert sliding_windows(several, 5).X.shape == (19, 5, 2)
    ragged = [[1.0, 2.0, 3.0], [4.0, 5.0]]
    np.testing.assert_array_equal(sliding_windows(ragged, 2).X, [[1, 2], [2, 3], [4, 5]])
    windows = sliding_windows(SERIES, 5)
    windows.X[0] = -1.0  # a copy
    np.testing.assert_array_equal(SERIES, np.arange(40.0).reshape(20, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliding_windows(SERIES, 0), "n_timesteps=0 must be an integer of at least 1"),
        (lambda: sliding_windows(SERIES, 4, step=1.5), "step=1.5 must be"),
        (lambda: sliding_windows(SERIES, 4, n_blocks=True), "n_blocks=True must be"),
        (lambda: sliding_windows(SERIES, 21), r"n_timesteps=21 is longer than the longest series, which has 20 step\(s\)"),
        (lambda: sliding_windows(SERIES, 6, n_blocks=4), "longest block, which has 5 .* or fewer blocks, or partial=True"),
        (lambda: sliding_windows(SERIES[None], 4), r"X has 3 dimension\(s\), \(1, 20, 2\); a series is \(n_rows,\)"),
        (lambda: sliding_windows(3.0, 4), "X has 0 dimension"),
        (lambda: sliding_windows(SERIES, 4, groups=[1, 2]), r"groups has shape \(2,\), but X has 20 rows"),
        (lambda: sliding_windows([SERIES, SERIES], 4, groups=[1]), r"groups has shape \(1,\), but X is a list of 2 series"),
        (lambda: sliding_windows([SERIES, SERIES], 4, groups=[1, 1]), "groups has one label twice"),
        (lambda: sliding_windows([SERIES, SERIES[:, :1]], 4), "same features, but X.0. has shape .20, 2. and X.1. has .20, 1."),
        (lambda: sliding_windows(np.full(9, "a"), 4), "X holds <U1; series are of numbers"),
        (lambda: sliding_windows(pd.Series(["a"] * 9, dtype=object), 4), "X holds what is not a number"),
        (
            lambda: join_windows(np.ones((3, 4)), np.ones((3, 5), int)),
            r"values has shape \(3, 4\), but the windows are 3 of 5 steps",
        ),
        (lambda: join_windows(np.ones(3), np.ones(3, int)), "rows has shape"),
        (lambda: join_windows(np.ones((3, 4)), np.ones((3, 4))), "holds float64"),
        (lambda: join_windows(np.ones((1, 3)), [[4, 5, 6]], n_rows=6), "n_rows=6 is less than the 7 rows"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
