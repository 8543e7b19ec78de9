import re

import numpy as np
import pytest

from skvae.data.axes import doubt_about_axes, roughness

RNG = np.random.default_rng(0)


def walks(n, length, n_features):
    """Sequences in no order, whose features have levels of their own."""
    steps = 0.2 * RNG.normal(size=(n, length, n_features)).cumsum(axis=1)
    return steps + RNG.normal(size=(n, 1, n_features)) + 3.0 * RNG.normal(size=n_features)


def test_roughness():
    X = RNG.normal(size=(50, 40, 3))
    assert [round(roughness(X, axis)) for axis in range(3)] == [1, 1, 1]
    assert roughness(X.cumsum(axis=1), 1) < 0.1
    assert roughness(X.cumsum(axis=1) * 1e200, 1) == pytest.approx(roughness(X.cumsum(axis=1), 1))
    assert roughness(X[:, :1], 1) == roughness(X[:2, :2], 1) == roughness(np.ones((50, 40, 3)), 0) == 0.0
    X[:, 20:] = np.nan
    assert roughness(X, 1) == pytest.approx(roughness(X[:, :20], 1))


@pytest.mark.parametrize(
    ("X", "n_timesteps", "message"),
    [
        (
            np.swapaxes(walks(60, 50, 3), 1, 2),
            None,
            r"time seems to run along axis 2: if so, pass np.swapaxes\(X, 2, 1\); .*n_timesteps=3",
        ),
        (np.swapaxes(walks(60, 50, 3), 1, 0), None, r"time seems to run along axis 0: if so, pass np.swapaxes\(X, 0, 1\)"),
        (np.swapaxes(walks(60, 50, 1), 1, 0), None, "axis 0"),
        (RNG.normal(size=(60, 3, 50)), None, r"60 sequences of 3 steps of 50 feature.*the other way round.*\(X, 2, 1\)"),
        (RNG.normal(size=(60, 3, 50)), 50, "but n_timesteps=50: if time runs along axis 2, pass"),
        (RNG.normal(size=(60, 5, 3)), 60, "but n_timesteps=60: if time runs along axis 0, pass"),
        (walks(60, 50, 3), None, None),
        (RNG.normal(size=(60, 50, 3)), None, None),
        (walks(60, 5, 3), None, None),
        (RNG.normal(size=(60, 3, 50)), 3, None),
        (np.swapaxes(walks(60, 50, 3), 1, 2), 3, None),
        (walks(60, 50, 3), 20, "60 sequences of 50 steps of 3 .*, but n_timesteps=20 is another number: .*sliding_windows.x, 20"),
        (walks(60, 50, 3), 70, "60 sequences of 50 steps of 3 .*, but n_timesteps=70 is another number"),
        (walks(60, 50, 3), 50, None),
        (walks(3, 50, 30), None, None),
        (np.ones((60, 2, 3)), None, None),
    ],
)
def test_arrays(X, n_timesteps, message):
    doubt = doubt_about_axes(X, n_timesteps, is_rows=False)
    if message is None:
        assert doubt is None
    else:
        assert re.search(message, doubt)
    listed = doubt_about_axes(X, n_timesteps, is_rows=False, is_list=True)
    assert listed is None or "pass [x.T for x in X]" in listed or "is another number" in listed


def seasons():
    """Days of hours in a row."""
    hours = np.arange(24)
    return 10.0 + np.sin(hours / 24 * 6.28) + 0.1 * RNG.normal(size=(1000, 24))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            RNG.normal(size=(2400, 2)),
            r"X of shape \(2400, 2\) is read as 2400 sequences of 2 steps of one variable\. If .* n_timesteps=2",
        ),
        (walks(1, 2400, 2)[0], "rows seem to follow each other in time.*one long series of 2 features, cut windows"),
        (walks(1, 400, 9)[0], "rows seem to follow each other in time.*pass X.T"),
        (walks(40, 300, 1)[..., 0].T, "rows seem to follow each other in time.*pass X.T"),
        (RNG.normal(size=(100, 2)), None),
        (walks(40, 300, 1)[..., 0], None),
        (walks(2000, 12, 1)[..., 0], None),
        (RNG.normal(size=(1000, 30)), None),
        (seasons(), None),
        (np.lib.stride_tricks.sliding_window_view(walks(1, 2400, 1)[0, :, 0], 24), None),
        (np.lib.stride_tricks.sliding_window_view(np.sin(0.1 * np.arange(2400)), 24)[::12], None),
    ],
)
def test_rows(X, message):
    X = X[..., np.newaxis]
    doubt = doubt_about_axes(X, None, is_rows=True)
    if message is None:
        assert doubt is None
    else:
        assert re.search(message, doubt)
    assert doubt_about_axes(X, X.shape[1], is_rows=True) is None
