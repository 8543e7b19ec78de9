import numpy as np
import pytest

from skvae.data.series import SCALINGS, SeriesScaling, drowned_features

N, LENGTH = 12, 9


@pytest.fixture
def X():
    """Series of two features with levels over five orders of magnitude, of different lengths, one of them negative."""
    rng = np.random.default_rng(0)
    X = (1.0 + 0.3 * rng.normal(size=(N, LENGTH, 2))) * 10.0 ** rng.uniform(-2, 3, size=(N, 1, 2))
    X[3] *= -1.0
    X[np.arange(LENGTH) >= rng.integers(3, LENGTH + 1, size=(N, 1))] = np.nan
    return X


def test_scales_are_those_of_the_steps_that_are_there(X):
    magnitude, moments = (SeriesScaling.of(X, None, mode).measure(X) for mode in SCALINGS)
    np.testing.assert_array_equal(magnitude.location, 0.0)
    np.testing.assert_allclose(magnitude.scale, np.nanmean(np.abs(X), axis=1), rtol=1e-14)
    np.testing.assert_allclose(moments.location, np.nanmean(X, axis=1), rtol=1e-13)
    np.testing.assert_allclose(moments.scale, np.nanstd(X, axis=1), rtol=1e-12)


@pytest.mark.parametrize("mode", SCALINGS)
def test_what_is_applied_can_be_undone(X, mode):
    scale = SeriesScaling.of(X, None, mode).measure(X)
    np.testing.assert_allclose(scale.undo(scale.apply(X)), X, rtol=1e-12)
    frames = np.random.default_rng(1).normal(size=(N, 4, 5, 2))
    expected = np.stack([frames[i] * scale.scale[i] + scale.location[i] for i in range(N)])
    np.testing.assert_array_equal(scale.undo(frames), expected)
    np.testing.assert_array_equal(scale.undo(frames[:, 0, 0]), expected[:, 0, 0])


@pytest.mark.parametrize("mode", SCALINGS)
def test_a_scale_depends_on_its_series_alone_whatever_stands_behind_it(X, mode):
    scaling = SeriesScaling.of(X, None, mode)
    whole = scaling.measure(X)
    longer = np.concatenate([X, np.full((N, 60, 2), np.nan)], axis=1)
    for part, other in zip(whole, scaling.measure(longer), strict=True):
        np.testing.assert_array_equal(other, part)
    for i in range(N):
        length = int((~np.isnan(X[i, :, 0])).sum())
        for part, alone in zip(whole, scaling.measure(X[i : i + 1, :length]), strict=True):
            np.testing.assert_array_equal(alone[0], part[i])


@pytest.mark.parametrize("mode", SCALINGS)
@pytest.mark.parametrize("unit", [1e-300, 1e-6, 1e6, 1e298])
def test_scales_follow_the_unit(X, mode, unit):
    scale, other = SeriesScaling.of(X, None, mode).measure(X), SeriesScaling.of(X * unit, None, mode).measure(X * unit)
    np.testing.assert_allclose(other.scale / unit, scale.scale, rtol=1e-9)


def test_series_that_say_nothing_of_their_scale(X):
    X[0] = 0.0
    X[1] = 5.0
    X[2, 1:] = np.nan
    for mode in SCALINGS:
        scaling = SeriesScaling.of(X, None, mode)
        scale = scaling.measure(X).scale
        assert (scale > 0.0).all()
        np.testing.assert_array_equal(scale[0], scaling.smallest)
        np.testing.assert_array_equal(scaling.smallest, scale[1:].min(axis=0) if mode == "mean" else scale[3:].min(axis=0))
        if mode == "standard":  # a part of its level, as that of others is
            np.testing.assert_allclose(scale[1], 5.0 * scaling.relative)
            np.testing.assert_allclose(scale[2], np.abs(X[2, 0]) * scaling.relative)
            assert (0.1 < scaling.relative).all()
            assert (scaling.relative < 0.6).all()
    nothing = SeriesScaling.of(np.zeros((3, 4, 1)), None, "standard")
    np.testing.assert_array_equal(nothing.measure(np.zeros((2, 3, 1))).scale, 1.0)


def test_rounding_is_no_spread():
    X = np.full((2, 7, 1), 0.1 + 0.2)
    X[0, ::2] = 0.3
    scale = SeriesScaling.of(X, None, "standard").measure(X).scale
    np.testing.assert_allclose(scale, 0.3)  # the ratio is unknown, and one


@pytest.mark.parametrize("mode", SCALINGS)
def test_a_weight_of_two_is_a_series_twice(X, mode):
    counts = np.random.default_rng(2).integers(1, 4, size=N)
    weighted, repeated = SeriesScaling.of(X, counts * 0.7, mode), SeriesScaling.of(np.repeat(X, counts, axis=0), None, mode)
    np.testing.assert_array_equal(weighted.smallest, repeated.smallest)
    np.testing.assert_array_equal(weighted.relative, repeated.relative)
    drawn = weighted.draw(20_000, 0)
    shares = [(drawn.scale[:, 0] == scale).mean() for scale in weighted.known.scale[:, 0]]
    np.testing.assert_allclose(shares, counts / counts.sum(), atol=0.02)
    np.testing.assert_array_equal(weighted.draw(5, 3).scale, weighted.draw(5, 3).scale)


def test_a_stream_adds_what_it_brings_and_keeps_the_smallest_scale(X):
    scaling = SeriesScaling.of(X[:6], None, "mean")
    longer = scaling.extended(X[6:], np.full(6, 2.0))
    np.testing.assert_array_equal(longer.smallest, scaling.smallest)
    np.testing.assert_array_equal(longer.known.scale, np.concatenate([scaling.known.scale, longer.measure(X[6:]).scale]))
    assert longer.weight.tolist() == [1.0] * 6 + [2.0] * 6
    many = longer.extended(np.tile(X, (200, 1, 1)), None)
    assert len(many.known.scale) == len(many.weight) == 1024


def test_series_that_drown_among_larger_ones_are_found():
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(20) + rng.uniform(0, 6.28, size=(40, 1)))[..., np.newaxis]
    level = 10.0 ** rng.uniform(0, 5, size=(40, 1, 1))
    offset = rng.uniform(-50, 50, size=(40, 1, 1))
    for X, found in (
        (wave, False),
        (level * (2 + wave), True),
        (-level * (2 + wave), True),
        (level * wave, True),  # whose levels are all zero
        (offset + wave, True),
        (3.0 + rng.uniform(0.5, 2.0, size=(40, 1, 1)) * wave, False),
        (np.zeros((4, 5, 1)), False),
        (np.repeat(level, 5, axis=1), False),  # in which nothing moves
    ):
        columns = drowned_features(np.concatenate([wave, X], axis=2) if X.shape == wave.shape else X, None, 0.2)
        assert bool(columns) == found
        if found:
            assert columns[0][0] == 1
            assert columns[0][1] < 0.2
    X = np.where(np.arange(40)[:, None, None] < 3, level * wave, wave)
    assert not drowned_features(X, np.where(np.arange(40) < 3, 1e-9, 1.0), 0.2)
