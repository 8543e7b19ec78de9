"""Sequences: what TDVAE promises, as other estimators do, and what is its own."""

import copy
import pickle
import pickletools
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skvae
from skvae import MLP, TDVAE, Optimizer, Recurrent
from skvae.estimators.tdvae import BeliefState
from skvae.inference import sequences

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The state of TDVAE has collapsed"),
    pytest.mark.filterwarnings("ignore:Most of the variance of X lies between"),
]

N, LENGTH, WIDTH = 24, 10, 3
PER_SEQUENCE = (
    "transform",
    "beliefs",
    "reconstruct",
    "forecast",
    "score_samples",
    "score_anomaly",
    "score_anomaly_steps",
    "explain_anomaly",
)


def quick(**params):
    """Make an estimator that trains in milliseconds."""
    base = {"n_components": 6, "n_latents": 2, "hidden_layer_sizes": (5,), "n_pairs": 4, "max_epochs": 2, "random_state": 0}
    return TDVAE(**base).set_params(**params)


@pytest.fixture
def X():
    """Waves in three columns of different units."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6.28, size=(N, 1)) + 0.5 * np.arange(LENGTH)
    waves = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase)], axis=2)
    return (waves + 0.2 * rng.normal(size=waves.shape)) * [1, 100, 0.1] + [0, 50, 1]


@pytest.fixture
def ragged(X):
    """The same, of different lengths, as a list."""
    return [x[:length] for x, length in zip(X, np.random.default_rng(1).integers(2, LENGTH + 1, N), strict=True)]


def padded(ragged, length=LENGTH):
    X = np.full((len(ragged), length, ragged[0].shape[1]), np.nan)
    for i, x in enumerate(ragged):
        X[i, : len(x)] = x
    return X


def signature(model, X):
    arrays = model.transform(X), model.score_samples(X), model.forecast(X, 3), model.sample(2), model.score_anomaly_steps(X)
    return b"".join(array.tobytes() for array in arrays)


# -- shapes, units and types ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"encoder": "gru", "n_latent_layers": 2, "encoder__n_layers": 2}], ids=str)
def test_shapes(X, params):
    model = quick(**params).fit(X)
    Z = model.transform(X)
    assert Z.shape == (N, 6)
    assert model.beliefs(X).shape == (N, LENGTH, 6)
    assert model.reconstruct(X).shape == model.explain_anomaly(X).shape == X.shape
    assert model.inverse_transform(Z).shape == model.forecast(X).shape == model.forecast_beliefs(Z, 4).shape == (N, WIDTH)
    assert model.forecast(X, [1, 3, 8, 30]).shape == model.forecast_beliefs(Z, range(1, 5)).shape == (N, 4, WIDTH)
    assert model.forecast(X, [2]).shape == (N, 1, WIDTH)
    assert model.rollout(X).shape == (N, 1, 1, WIDTH)
    assert model.rollout(X, 5, n_futures=4).shape == (N, 4, 5, WIDTH)
    assert model.sample().shape == (1, LENGTH, WIDTH)
    assert model.sample(7, n_timesteps=4).shape == (7, 4, WIDTH)
    assert model.score_samples(X).shape == model.score_anomaly(X).shape == (N,)
    assert model.score_anomaly_steps(X).shape == (N, LENGTH)
    assert isinstance(model.score(X), float)
    state = model.update_belief(X[:, 0])
    assert isinstance(state, BeliefState)
    assert state.belief.shape == (N, 6)
    assert (model.n_components_, model.n_timesteps_, model.n_step_features_, model.n_features_in_) == (6, LENGTH, WIDTH, WIDTH)
    assert model.max_gap_ == 5
    assert isinstance(model.n_active_units_, int)
    assert model.noise_scale_.shape == (WIDTH,)
    assert model.n_iter_ == len(model.loss_curve_) == 2
    assert list(model.history_) == ["loss", "reconstruction", "smoothing", "transition", "auxiliary"]
    assert list(model.get_feature_names_out()) == [f"tdvae{i}" for i in range(6)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, bool, object])
def test_any_real_dtype(X, dtype):
    data = (X > X.mean((0, 1))).astype(dtype) if dtype in (bool, np.uint8) else X.astype(dtype)
    model = quick().fit(data)
    expected = np.float32 if dtype == np.float32 else np.float64
    for method in ("transform", "beliefs", "reconstruct", "forecast", "rollout"):
        result = getattr(model, method)(data)
        assert result.dtype == expected
        assert np.isfinite(result).all()
    Z = model.transform(data)
    assert model.inverse_transform(Z).dtype == model.forecast_beliefs(Z).dtype == expected
    assert model.update_belief(data[:, 0].astype(expected)).belief.dtype == expected
    assert model.score_samples(data).dtype == model.score_anomaly_steps(data).dtype == np.float64
    as_list = quick().fit(list(data))
    np.testing.assert_array_equal(as_list.transform(list(data)), Z)


def test_any_container_and_order(X):
    kept = X.copy()
    expected = quick().fit(X).transform(X)
    X.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = quick().fit(np.asfortranarray(X))
        for method in PER_SEQUENCE:
            np.testing.assert_allclose(getattr(model, method)(X[::-1])[::-1], getattr(model, method)(X), rtol=1e-6)
        Z = model.transform(X)
        Z.setflags(write=False)
        np.testing.assert_array_equal(model.inverse_transform(Z[::-1])[::-1], model.inverse_transform(np.asfortranarray(Z)))
    for other in (X.tolist(), list(X), tuple(X), [pd.DataFrame(x) for x in X], torch.from_numpy(kept)):
        np.testing.assert_array_equal(quick().fit(other).transform(other), expected)
    rows = quick(n_timesteps=LENGTH).fit(pd.DataFrame(X.reshape(N, -1)))
    np.testing.assert_array_equal(rows.transform(X.reshape(N, -1).tolist()), expected)
    np.testing.assert_array_equal(X, kept)


def test_results_do_not_depend_on_the_units(X):
    model, other = quick(likelihood__noise="feature").fit(X), quick(likelihood__noise="feature").fit(X * 1000.0 + 5.0)
    moved = X * 1000.0 + 5.0
    np.testing.assert_allclose(other.transform(moved), model.transform(X), rtol=1e-3, atol=1e-4)
    scores = model.score_samples(X) - LENGTH * WIDTH * np.log(1000.0)
    np.testing.assert_allclose(other.score_samples(moved), scores, rtol=1e-3)
    np.testing.assert_allclose(other.forecast(moved, 3), model.forecast(X, 3) * 1000.0 + 5.0, rtol=1e-3)
    np.testing.assert_allclose(other.sample(3), model.sample(3) * 1000.0 + 5.0, rtol=1e-3)
    np.testing.assert_allclose(other.score_anomaly_steps(moved), model.score_anomaly_steps(X), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_constant_columns_stay_put(X, likelihood):
    X = np.dstack([X > X.mean((0, 1)), np.full(X.shape[:2], 0.75), np.zeros(X.shape[:2])])
    model = quick(likelihood=likelihood, max_epochs=5).fit(X)
    for frames in (model.reconstruct(X), model.sample(4), model.rollout(X, 3)[:, 0], model.forecast(X, [1, 9])):
        np.testing.assert_array_equal(frames[..., 3:], np.broadcast_to([0.75, 0.0], (*frames.shape[:2], 2)))
    np.testing.assert_array_equal(model.inverse_transform(model.transform(X))[:, 3:], X[:, 0, 3:])
    if likelihood != "bernoulli":
        odd = X.copy()
        odd[0, 4, 4] = 5.0
        assert model.score_anomaly_steps(odd)[0].argmax() == 4
        assert model.score_samples(odd)[0] < model.score_samples(X)[0] - 5


def test_frames_that_are_all_alike():
    X = np.full((8, 5, 2), 2.0)
    model = quick().fit(X)
    np.testing.assert_array_equal(model.reconstruct(X), X)
    np.testing.assert_array_equal(model.sample(3), X[:3])
    assert np.isfinite(model.score(X))


def test_two_sequences_of_two_steps_are_enough(X):
    model = quick().fit(X[:2, :2])
    assert model.max_gap_ == 1
    assert np.isfinite(model.score(X[:2, :2]))
    assert model.transform(X[:, :1]).shape == (N, 6)  # a belief may have seen a single frame


@pytest.mark.parametrize("likelihood", ["laplace", "bernoulli"])
def test_likelihoods(X, likelihood):
    binary = (X > X.mean((0, 1))).astype(float)
    model = quick(likelihood=likelihood, max_epochs=20).fit(binary)
    assert np.isfinite(model.score(binary))
    assert np.isfinite(model.explain_anomaly(binary)).all()
    if likelihood == "bernoulli":
        assert set(np.unique(model.sample(20))) == {0.0, 1.0}
        assert set(np.unique(model.rollout(binary, 3))) == {0.0, 1.0}
        for frames in (model.forecast(binary, 2), model.reconstruct(binary), model.sample(3, mean=True)):
            assert ((frames > 0) & (frames < 1)).all()
        np.testing.assert_array_equal(model.noise_scale_, np.zeros(WIDTH))
        assert model.score(binary) < 0
        p = model.beliefs(binary[:, :-1])[:, -1]
        p = np.clip(model.forecast_beliefs(p, 1), 1e-6, 1 - 1e-6)
        last = binary[:, -1]
        expected = -(last * np.log(p) + (1 - last) * np.log(1 - p))
        np.testing.assert_allclose(model.explain_anomaly(binary)[:, -1] * LENGTH, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("value", [1e9, 1e15, 1e19, 1e38, 1e100, -1e100])
def test_frames_far_out_get_finite_scores(X, value):
    model = quick(max_epochs=5).fit(X)
    odd = X.copy()
    odd[0, 4, 1] = value
    for method in (*PER_SEQUENCE, "rollout"):
        assert np.isfinite(getattr(model, method)(odd)).all(), method
    assert model.score_anomaly_steps(odd)[0].argmax() == 4
    assert model.score_samples(odd).argmin() == 0


# -- the forms that sequences come in ---------------------------------------------------------------------------------


def test_rows_and_sequences_agree(X):
    rows = X.reshape(N, -1)
    model, of_rows = quick().fit(X), quick(n_timesteps=LENGTH).fit(rows)
    assert (of_rows.n_features_in_, of_rows.n_step_features_, of_rows.n_timesteps_) == (30, WIDTH, LENGTH)
    for method in ("transform", "beliefs", "forecast", "rollout", "score_samples", "score_anomaly", "score_anomaly_steps"):
        np.testing.assert_array_equal(getattr(of_rows, method)(rows), getattr(model, method)(X))
        np.testing.assert_array_equal(getattr(of_rows, method)(X), getattr(model, method)(X))
    for method in ("reconstruct", "explain_anomaly"):  # have the shape of what they are given
        expected = getattr(model, method)(X)
        np.testing.assert_array_equal(getattr(of_rows, method)(rows), expected.reshape(N, -1))
        np.testing.assert_array_equal(getattr(of_rows, method)(X), expected)
    np.testing.assert_array_equal(of_rows.sample(3), model.sample(3).reshape(3, -1))
    np.testing.assert_array_equal(model.set_params(n_timesteps=LENGTH).transform(rows), model.transform(X))


def test_univariate_sequences_of_other_lengths_than_in_training(X):
    rows, other = X[..., 0], X[:, :7, 0]
    model, ragged = quick().fit(rows), quick().fit([row[: 7 + i % 3] for i, row in enumerate(rows)])
    expected = model.transform(other[..., np.newaxis])
    np.testing.assert_array_equal(model.transform(list(other)), expected)
    np.testing.assert_array_equal(model.transform(list(other[:1])), expected[:1])
    assert model.reconstruct(list(other)).shape == (N, 7, 1)
    assert model.sample(2, n_timesteps=5).shape == (2, 5, 1)
    assert model.transform(model.sample(2, n_timesteps=5)).shape == (2, 6)
    with pytest.raises(ValueError, match=rf"X has 7 features, but TDVAE is expecting {LENGTH} features as input\. Sequences of"):
        model.transform(other)
    for lengths in ([7, 7], [7, 9]):
        assert ragged.reconstruct([row[:n] for row, n in zip(rows, lengths, strict=False)]).ndim == 3


def test_univariate_sequences(X):
    rows = X[..., 0]
    model, of_rows = quick().fit(rows[..., np.newaxis]), quick().fit(rows)
    assert (of_rows.n_features_in_, of_rows.n_step_features_, of_rows.n_timesteps_) == (LENGTH, 1, LENGTH)
    for other in (rows, rows[..., np.newaxis], list(rows), rows.tolist(), list(rows[..., np.newaxis])):
        np.testing.assert_array_equal(of_rows.transform(other), model.transform(rows[..., np.newaxis]))
    assert of_rows.reconstruct(rows).shape == rows.shape
    assert of_rows.sample(3).shape == (3, LENGTH)
    assert of_rows.forecast(rows, 2).shape == (N, 1)
    ragged = [row[:length] for row, length in zip(rows, [3, 7, 10], strict=False)]
    assert of_rows.transform(ragged).shape == (3, 6)
    np.testing.assert_array_equal(of_rows.transform(ragged)[1], of_rows.transform(rows[1:2, :7, np.newaxis])[0])
    np.testing.assert_array_equal(quick().fit(ragged).transform(ragged), quick().fit(np.array(ragged, object)).transform(ragged))


def test_one_long_series_is_cut_into_windows_first():
    series = np.sin(0.3 * np.arange(240))
    both = np.column_stack([series, np.cos(0.3 * np.arange(240))])
    cure = r"cut into windows first, skvae\.sliding_windows"
    for X in (
        series,
        series.tolist(),
        pd.Series(series),
        series[None],
        series[:, None],
        series[None, :, None],
        [both],
        [both.tolist()],
    ):
        with pytest.raises(ValueError, match=cure):
            quick().fit(X)
        with pytest.raises(ValueError, match=cure):
            quick().partial_fit(X)
    for X in (series[:, None, None], both[:, None], list(both[:, None])):
        with pytest.raises(ValueError, match=rf"1 step\(s\).*{cure}"):
            quick().fit(X)
    with pytest.raises(
        ValueError, match=r"n_timesteps=24 does not divide.*Windows of 24 steps .* skvae\.sliding_windows\(X, 24\)\.X"
    ):
        quick(n_timesteps=24).fit(both)
    model = quick().fit(skvae.sliding_windows(both, 24, step=12).X)
    with pytest.raises(ValueError, match=rf"set n_timesteps\. .*{cure}.*by itself is X\[np\.newaxis\]"):
        model.transform(both)
    with pytest.raises(ValueError, match=rf"1D array instead: X has shape \(240,\)\. .*{cure}.*itself: X\.reshape\(1, -1\)"):
        model.transform(series)


def test_windows_there_and_back():
    series = np.sin(0.3 * np.arange(240)) + 0.1 * np.random.default_rng(0).normal(size=240)
    windows = skvae.sliding_windows(series, 24, step=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The state of TDVAE has collapsed")
        model = quick(max_epochs=20).fit(windows.X)
    repaired = skvae.join_windows(model.reconstruct(windows.X), windows.rows)
    assert repaired.shape == (240,)
    assert np.isfinite(repaired).all()
    spiked = series.copy()
    spiked[100] += 4.0
    windows = skvae.sliding_windows(spiked, 24, step=6)
    scores = skvae.join_windows(model.score_anomaly_steps(windows.X), windows.rows)
    assert scores.argmax() == 100


def test_shapes_that_can_be_read_in_two_ways_are_asked_about(X):
    series = np.random.default_rng(0).normal(size=(240, 2)).cumsum(axis=0)
    swapped = np.swapaxes(np.tile(X, (2, 1, 1)), 1, 2)
    for data, message in (
        (series, r"X of shape \(240, 2\) is read as 240 sequences of 2 steps.*skvae\.sliding_windows.*n_timesteps=2 says so"),
        (pd.DataFrame(series), "read as 240 sequences of 2 steps"),
        (series.tolist(), "read as 240 sequences of 2 steps"),
        (np.repeat(swapped, 4, axis=2), r"read as 48 sequences of 3 steps of 40 feature.*np\.swapaxes\(X, 2, 1\)"),
        (list(np.repeat(swapped, 4, axis=2)), r"pass \[x\.T for x in X\]"),
    ):
        with pytest.warns(UserWarning, match=message) as record:
            quick(max_epochs=1).fit(data)
        assert record[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "The state of TDVAE has collapsed|Most of the variance")
            n_timesteps = 2 if len(data) == 240 else 3
            quick(max_epochs=1, n_timesteps=n_timesteps).fit(data).transform(data)


def test_frames_of_a_list_have_the_columns_of_fit(X):
    frames = [pd.DataFrame(x, columns=list("abc")) for x in X]
    swapped = [frame[["b", "a", "c"]] for frame in frames]
    model = quick().fit(frames)
    assert model.feature_names_in_.tolist() == list("abc")
    np.testing.assert_array_equal(model.transform(frames), quick().fit(X).transform(X))
    np.testing.assert_array_equal(model.transform(list(X)), model.transform(frames))
    for call in (model.transform, model.partial_fit, model.score):
        with pytest.raises(ValueError, match="Feature names must be in the same order as they were in fit"):
            call(swapped)
        with pytest.raises(ValueError, match="Feature names unseen at fit time"):
            call([frame.set_axis(list("abd"), axis=1) for frame in frames])
    message = "columns of X\\[1\\] are 'b', 'a', 'c', but those of X\\[0\\] are 'a', 'b', 'c'; .* must have the same columns"
    for call in (quick().fit, model.transform):
        with pytest.raises(ValueError, match=message):
            call([frames[0], *swapped[1:]])
    assert not hasattr(model.fit(X), "feature_names_in_")
    assert not hasattr(model.fit([frame.set_axis(range(3), axis=1) for frame in frames]), "feature_names_in_")


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 4])
def test_lists_and_padding_agree_bit_for_bit(X, ragged, length):
    model, other = quick().fit(ragged), quick().fit(padded(ragged, length))
    assert model.n_timesteps_ == other.n_timesteps_ == max(map(len, ragged)) == LENGTH
    assert model.max_gap_ == other.max_gap_
    np.testing.assert_array_equal(other.loss_curve_, model.loss_curve_)
    for method in PER_SEQUENCE:
        np.testing.assert_array_equal(getattr(other, method)(padded(ragged)), getattr(model, method)(ragged))
    rows = padded(ragged, length).reshape(N, -1)
    of_rows = quick(n_timesteps=length, max_gap=5).fit(rows)
    assert of_rows.n_timesteps_ == length
    assert of_rows.sample(2).shape == (2, rows.shape[1])  # whatever comes before in a pipeline can take them back
    np.testing.assert_array_equal(of_rows.transform(rows), model.transform(ragged))


@pytest.mark.parametrize("params", [{}, {"encoder": "gru", "encoder__n_layers": 2, "n_latent_layers": 2}], ids=str)
def test_a_short_sequence_is_the_same_alone_and_among_longer_ones(ragged, params):
    model, lengths = quick(**params).fit(ragged), [len(x) for x in ragged]
    for method in PER_SEQUENCE:
        whole = getattr(model, method)(ragged)
        for i, length in enumerate(lengths[:8]):
            alone = getattr(model, method)(ragged[i][np.newaxis])[0]
            if method in ("beliefs", "reconstruct", "score_anomaly_steps", "explain_anomaly"):
                assert np.isnan(whole[i, length:]).all()
                assert np.isfinite(alone).all()
                np.testing.assert_allclose(whole[i, :length], alone, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_allclose(whole[i], alone, rtol=1e-5, atol=1e-6)
    last = np.array(lengths) - 1
    np.testing.assert_array_equal(model.beliefs(ragged)[np.arange(N), last], model.transform(ragged))


def test_what_is_not_there_is_not_measured(ragged):
    likelihood = quick().fit(ragged).module_.likelihood
    frames = np.concatenate(ragged)
    np.testing.assert_allclose(likelihood.units.constant, frames.mean(0))
    np.testing.assert_allclose(likelihood.units.scale, frames.std(0))


def test_the_longest_sequence_that_counts_sets_the_length(X):
    data = [x[:6] for x in X[:12]] + [X[12]]
    weight = np.ones(13)
    weight[12] = 0.0
    model, other = quick().fit(data, sample_weight=weight), quick().fit(data[:12])
    assert model.n_timesteps_ == other.n_timesteps_ == 6
    assert model.max_gap_ == 3
    assert signature(model, X) == signature(other, X)


# -- every sequence on its own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [{}, {"encoder": "gru", "n_latent_layers": 2, "n_components": 16, "hidden_layer_sizes": (16,)}, {"likelihood": "bernoulli"}],
    ids=str,
)
def test_sequences_do_not_depend_on_their_neighbors(X, params):
    X = (X > X.mean((0, 1))).astype(float) if "likelihood" in params else X
    model = quick(**params).fit(X)
    order = np.random.default_rng(0).permutation(N)
    for method in PER_SEQUENCE:
        whole = getattr(model, method)(X)
        np.testing.assert_array_equal(getattr(model, method)(X[order]), whole[order])
        np.testing.assert_array_equal(getattr(model, method)(X[5:12]), whole[5:12])
        for i in (0, 7, 23):
            np.testing.assert_array_equal(getattr(model, method)(X[i : i + 1])[0], whole[i])


def test_a_step_does_not_depend_on_those_behind_it(X):
    model = quick().fit(X)
    for method in ("beliefs", "reconstruct", "score_anomaly_steps"):
        np.testing.assert_allclose(getattr(model, method)(X[:, :6]), getattr(model, method)(X)[:, :6], rtol=1e-5, atol=1e-6)
    scores = np.stack([model.score_samples(X[:, :t]) for t in range(1, LENGTH + 1)])
    assert np.isfinite(np.diff(scores, axis=0)).all()  # what every frame adds to those before it
    other = X.copy()
    other[:, 6:] = 0.0
    np.testing.assert_allclose(model.beliefs(other)[:, :6], model.beliefs(X)[:, :6], rtol=1e-5, atol=1e-6)


# -- scales of their own ----------------------------------------------------------------------------------------------

SCALINGS = ("mean", "standard")


@pytest.fixture
def magnitudes(X):
    """Series that are alike but for their magnitude, over five orders of it."""
    return (X / [1, 100, 0.1] + 2.0) * 10.0 ** np.random.default_rng(2).uniform(0, 5, size=(N, 1, 1))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_sequence_in_another_unit_has_the_same_results_in_that_unit(magnitudes, scaling):
    model = quick(scaling=scaling, max_epochs=5).fit(magnitudes)
    for unit in (1e-3, -1.0, 1e7):
        if unit < 0 and scaling == "mean":
            continue  # a model of positive series need not know negative ones
        moved = magnitudes * abs(unit)
        scores = model.score_samples(magnitudes) - LENGTH * WIDTH * np.log(abs(unit))
        np.testing.assert_allclose(model.score_samples(moved), scores, rtol=1e-3, atol=0.05)
        for method in ("reconstruct", "forecast", "rollout"):
            expected = getattr(model, method)(magnitudes) * abs(unit)
            np.testing.assert_allclose(getattr(model, method)(moved), expected, rtol=1e-3, atol=1e-6 * abs(unit))
        for method in ("transform", "beliefs", "score_anomaly_steps", "explain_anomaly"):
            np.testing.assert_allclose(getattr(model, method)(moved), getattr(model, method)(magnitudes), rtol=1e-3, atol=1e-4)
    if scaling == "standard":
        moved = magnitudes + 1e4
        np.testing.assert_allclose(model.forecast(moved) - 1e4, model.forecast(magnitudes), rtol=1e-3, atol=0.1)
        np.testing.assert_allclose(model.score_samples(moved), model.score_samples(magnitudes), rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_model_with_scales_of_its_own_is_one_of_sequences_in_these(magnitudes, scaling):
    """What the module reads is divided; and scores have the term that division takes."""
    model = quick(scaling=scaling).fit(magnitudes)
    location, scale = model.series_scale(magnitudes)
    by_hand = (magnitudes - location[:, None]) / scale[:, None]
    plain = copy.copy(model)
    plain._series = None
    np.testing.assert_array_equal(model.transform(magnitudes), plain.transform(by_hand))
    jacobian = LENGTH * np.log(scale).sum(axis=1)
    np.testing.assert_allclose(model.score_samples(magnitudes), plain.score_samples(by_hand) - jacobian)
    expected = plain.forecast(by_hand, [1, 4]) * scale[:, None] + location[:, None]
    np.testing.assert_allclose(model.forecast(magnitudes, [1, 4]), expected)
    np.testing.assert_allclose(model.reconstruct(magnitudes), plain.reconstruct(by_hand) * scale[:, None] + location[:, None])
    futures = plain.rollout(by_hand, 3, n_futures=2) * scale[:, None, None] + location[:, None, None]
    np.testing.assert_allclose(model.rollout(magnitudes, 3, n_futures=2), futures)
    np.testing.assert_array_equal(model.explain_anomaly(magnitudes), plain.explain_anomaly(by_hand))
    Z = model.transform(magnitudes)
    np.testing.assert_allclose(model.forecast_beliefs(Z, [1, 4], scale=(location, scale)), expected)
    last = model.inverse_transform(Z, scale=model.series_scale(magnitudes))
    np.testing.assert_allclose(last, model.reconstruct(magnitudes)[:, -1], rtol=1e-4)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_sequences_in_scales_of_their_own_do_not_depend_on_their_neighbors(magnitudes, ragged, scaling):
    model, order = quick(scaling=scaling).fit(magnitudes), np.random.default_rng(0).permutation(N)
    for data in (magnitudes, padded(ragged), magnitudes.astype(np.float32)):
        for method in PER_SEQUENCE:
            whole = getattr(model, method)(data)
            np.testing.assert_array_equal(getattr(model, method)(data[order]), whole[order])
            np.testing.assert_array_equal(getattr(model, method)(data[7:8])[0], whole[7])
            assert whole.dtype == (np.float64 if "score" in method or "explain" in method else data.dtype)
    np.testing.assert_array_equal(model.transform(padded(ragged, 30)), model.transform(ragged))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_series_without_a_scale(magnitudes, scaling):
    """Zeros throughout, constant, of one frame, and of one feature that is zero."""
    odd = magnitudes.copy()
    odd[0], odd[1], odd[2, :, 1] = 0.0, -3.0, 0.0
    odd[3, 1:] = np.nan
    train = odd[np.arange(N) != 3]
    model = quick(scaling=scaling, max_epochs=5).fit(train)
    for method in (*PER_SEQUENCE, "rollout"):
        result = getattr(model, method)(odd)
        result = result[:, 0] if method in ("beliefs", "reconstruct", "score_anomaly_steps", "explain_anomaly") else result
        assert np.isfinite(result).all(), method
    assert np.isfinite(model.sample(50)).all()
    assert np.isfinite(quick(scaling=scaling).fit(np.zeros((5, 4, 2))).score(np.zeros((5, 4, 2))))
    with pytest.raises(ValueError, match="Sequence 0 has no step that is not NaN"):
        model.transform(np.full((2, 4, WIDTH), np.nan))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_samples_have_the_magnitudes_of_training(magnitudes, scaling):
    drawn = quick(scaling=scaling, max_epochs=5).fit(magnitudes).sample(400)
    for q in (0.1, 0.5, 0.9):
        level = np.quantile(np.abs(drawn).mean((1, 2)), q) / np.quantile(np.abs(magnitudes).mean((1, 2)), q)
        assert 1 / 3 < level < 3


@pytest.mark.parametrize("scaling", SCALINGS)
def test_an_updated_belief_is_that_of_the_frames_so_far_in_their_scale(magnitudes, scaling):
    model, state = quick(scaling=scaling).fit(magnitudes), None
    for t in range(4):
        state = model.update_belief(magnitudes[:, t], state)
        np.testing.assert_array_equal(state.belief, model.transform(magnitudes[:, : t + 1]))
    expected = model.forecast(magnitudes[:, :4], 3)
    np.testing.assert_allclose(model.forecast_beliefs(state.belief, 3, scale=state.scale), expected)
    with pytest.raises(ValueError, match="state comes from another model"):
        model.update_belief(magnitudes[:, 4], quick().fit(magnitudes / 1e5).update_belief(magnitudes[:, 0]))
    other = quick(scaling=scaling, n_components=4).fit(magnitudes)
    with pytest.raises(ValueError, match="state comes from another model: it has a belief of 6 components, and this TDVAE of 4"):
        other.update_belief(magnitudes[:, 4], state)


def test_zero_weights_are_left_out_of_scales(magnitudes):
    weight = (np.arange(N) < 15).astype(float)
    spoilt = np.where(weight[:, None, None] > 0, magnitudes, 1e9)
    model, alone = (
        quick(scaling="standard").fit(*args[:1], sample_weight=args[1]) for args in ((spoilt, weight), (magnitudes[:15], None))
    )
    assert signature(model, magnitudes) == signature(alone, magnitudes)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scales_travel_with_the_model_and_go_on(magnitudes, scaling):
    model = quick(scaling=scaling).fit(magnitudes)
    loaded = pickle.loads(pickle.dumps(model))
    assert signature(loaded, magnitudes) == signature(model, magnitudes)
    model.partial_fit(magnitudes[:5] * 100.0), loaded.partial_fit(magnitudes[:5] * 100.0)
    assert signature(loaded, magnitudes) == signature(model, magnitudes)
    assert clone(model).get_params()["scaling"] == scaling
    np.testing.assert_array_equal(model.set_params(scaling=None).transform(magnitudes), loaded.transform(magnitudes))
    for change in (
        {"warm_start": True, "scaling": None},
        {"warm_start": True, "scaling": "mean" if scaling == "standard" else "standard"},
    ):
        with pytest.raises(ValueError, match="scaling changed since the model was built"):
            model.set_params(**change).fit(magnitudes)
    plain = quick(warm_start=True).fit(magnitudes / 1e5)
    with pytest.raises(ValueError, match="scaling changed since the model was built"):
        plain.set_params(scaling=scaling).partial_fit(magnitudes)


def test_beliefs_alone_do_not_tell_a_scale(magnitudes, X):
    model = quick(scaling="mean").fit(magnitudes)
    Z, scale = model.transform(magnitudes), model.series_scale(magnitudes)
    for call in (model.inverse_transform, model.forecast_beliefs):
        with pytest.raises(ValueError, match=r"scaling='mean': pass scale=series_scale\(X\)"):
            call(Z)
        for wrong in (scale.scale, (scale.location, scale.scale[:3]), 2.0):
            with pytest.raises(ValueError, match=r"scale must be what series_scale returns for the 24 sequences.*\(24, 3\)"):
                call(Z, scale=wrong)
    plain = quick().fit(X)
    with pytest.raises(ValueError, match="scaling=None, which has none; leave it out"):
        plain.inverse_transform(plain.transform(X), scale=scale)
    location, ones = plain.series_scale(X)
    assert not location.any()
    assert (ones == 1.0).all()


def test_series_that_drown_are_reported(magnitudes, X):
    message = (
        r"variance of X lies between sequences: within a typical one, feature 0 has .* scaling='mean' where .*scaling='standard'"
    )
    with pytest.warns(UserWarning, match=message):
        quick().fit(magnitudes)
    with pytest.warns(UserWarning, match=r"feature 1 has .*scaling='mean'"):
        quick().fit(np.dstack([X[..., 0], magnitudes[..., 0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The state of TDVAE has collapsed")
        quick().fit(X)
        quick(scaling="mean").fit(magnitudes)
        quick(likelihood="poisson").fit(np.round(magnitudes))
        quick().partial_fit(magnitudes)


def test_series_of_different_magnitudes_are_foreseen_and_watched_alike():
    rng = np.random.default_rng(0)
    level, start = 10.0 ** rng.uniform(0, 5, size=(120, 1)), rng.integers(12, size=(120, 1))
    X = level * (1 + 0.5 * np.sin(0.5236 * (np.arange(30) + start)) + 0.02 * rng.normal(size=(120, 30)))
    params = {"n_components": 24, "n_latents": 4, "hidden_layer_sizes": (24,), "n_pairs": 16, "max_epochs": 120}
    model = quick(scaling="mean", **params).fit(X[:80, :-1])
    X = X[80:]
    seen, levels = X[:, :-1, np.newaxis], level[80:, 0]
    persistence = np.mean(np.abs(X[:, -1] - X[:, -2]) / levels)
    for n_seen in (29, 12):
        error = np.abs(model.forecast(seen[:, -n_seen:])[:, 0] - X[:, -1]) / levels
        assert error.mean() < 0.6 * persistence
    spiked, at, rows = seen.copy(), rng.integers(6, 29, 40), np.arange(40)
    spiked[rows, at, 0] += 0.8 * levels
    found = model.score_anomaly_steps(spiked).argmax(1) == at
    assert found.mean() > 0.8
    assert found[levels < 100].mean() > 0.7


# -- beliefs on the way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_features", [1, 3])
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_an_updated_belief_is_that_of_the_whole_sequence(X, cell, n_layers, n_features):
    X = X[..., :n_features]
    model, state = quick(encoder=Recurrent(cell, n_layers=n_layers)).fit(X), None
    beliefs = model.beliefs(X)
    for t in range(LENGTH):
        state = model.update_belief(X[:, t], state)
        np.testing.assert_allclose(state.belief, model.transform(X[:, : t + 1]), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(state.belief, beliefs[:, t], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.forecast_beliefs(state.belief, [1, 7]), model.forecast(X, [1, 7]), rtol=1e-4)
    np.testing.assert_allclose(model.inverse_transform(state.belief), model.reconstruct(X)[:, -1], rtol=1e-4)
    assert np.abs(state.belief - model.update_belief(X[:, -1]).belief).max() > 1e-3  # it has a memory


def test_states_can_be_kept_and_taken_up_again(X):
    model = quick().fit(X)
    state = model.update_belief(X[:, 0])
    kept = copy.deepcopy(state)
    expected = model.update_belief(X[:, 1], state).belief
    np.testing.assert_array_equal(state.belief, kept.belief)  # which are not written to
    for part, before in zip(state.memory, kept.memory, strict=True):
        np.testing.assert_array_equal(part, before)
        part.setflags(write=False)
    for other in (state, pickle.loads(pickle.dumps(kept))):
        np.testing.assert_array_equal(model.update_belief(X[:, 1], other).belief, expected)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.update_belief(X[:, 1], state).belief, expected)


def test_univariate_frames_come_in_any_form(X):
    model = quick().fit(X[..., 0])
    expected = model.update_belief(X[:, 0, :1]).belief
    for frames in (X[:, 0, 0], X[:, 0, 0].tolist(), pd.Series(X[:, 0, 0]), pd.DataFrame(X[:, 0, :1])):
        np.testing.assert_array_equal(model.update_belief(frames).belief, expected)


# -- jumps, futures and samples ---------------------------------------------------------------------------------------


def test_horizons(X):
    model = quick(max_gap=3, max_epochs=5).fit(X)
    horizons = [1, 2, 3, 4, 7, 25]
    several = model.forecast(X, horizons)
    assert np.isfinite(several).all()
    for i, horizon in enumerate(horizons):
        np.testing.assert_array_equal(several[:, i], model.forecast(X, horizon))
        np.testing.assert_array_equal(several[:, i], model.forecast_beliefs(model.transform(X), np.int64(horizon)))
    assert len(np.unique(several.round(6).reshape(-1, WIDTH), axis=0)) > 5 * N
    np.testing.assert_array_equal(model.forecast(X, np.array([7, 1])), several[:, [4, 0]])


def test_more_draws_of_a_forecast_settle_it(X):
    model = quick(max_epochs=20).fit(X)
    expected = model.forecast(X, 4, n_draws=4096) / X.std((0, 1))
    errors = [np.abs(model.forecast(X, 4, n_draws=n) / X.std((0, 1)) - expected).mean() for n in (1, 32, 512)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_a_rollout_and_a_jump_agree_on_the_next_frame(X):
    model = quick(max_epochs=20).fit(X)
    drawn = model.rollout(X, 1, n_futures=2000, mean=True)[:, :, 0]
    np.testing.assert_allclose(drawn.mean(1) / X.std((0, 1)), model.forecast(X) / X.std((0, 1)), atol=0.1)
    noisy = model.rollout(X, 1, n_futures=2000)[:, :, 0]
    variance = drawn.var(1) + model.noise_scale_**2
    np.testing.assert_allclose(noisy.var(1), variance, rtol=0.3)


def test_futures_and_samples_repeat_themselves_and_differ(X):
    model = quick(max_epochs=5).fit(X)
    for draw in (
        lambda **params: model.rollout(X, 4, n_futures=3, **params),
        lambda **params: model.sample(5, **params),
        lambda **params: model.sample(5, mean=True, **params),
    ):
        np.testing.assert_array_equal(draw(), draw())
        np.testing.assert_array_equal(draw(random_state=3), draw(random_state=3))
        assert not np.array_equal(draw(random_state=3), draw(random_state=4))
        generator = np.random.RandomState(0)
        assert not np.array_equal(draw(random_state=generator), draw(random_state=generator))
    futures = model.rollout(X, 4, n_futures=3)
    assert len(np.unique(futures.reshape(-1, WIDTH), axis=0)) == N * 12
    assert not np.array_equal(futures, model.rollout(X, 4, n_futures=3, mean=True))


def test_samples_look_like_the_data(X):
    model = quick(n_components=16, n_latents=4, hidden_layer_sizes=(16,), max_epochs=150).fit(np.tile(X, (4, 1, 1)))
    drawn = model.sample(1000)
    np.testing.assert_allclose((drawn.mean((0, 1)) - X.mean((0, 1))) / X.std((0, 1)), 0, atol=0.3)
    np.testing.assert_allclose(drawn.std((0, 1)) / X.std((0, 1)), 1, atol=0.4)
    next_to_each_other = np.corrcoef(drawn[:, 4, 0], drawn[:, 5, 0])[0, 1]
    assert next_to_each_other > 0.5  # the cosine of half a radian is 0.88


# -- scores -----------------------------------------------------------------------------------------------------------


def test_anomaly_scores_are_shares_steps_and_means(X, ragged):
    model = quick(max_epochs=10).fit(X)
    for data in (X, ragged):
        shares, steps = model.explain_anomaly(data), model.score_anomaly_steps(data)
        lengths = np.array([len(x) for x in data])
        np.testing.assert_allclose(np.nansum(shares, axis=2) * lengths[:, None], np.nan_to_num(steps))
        np.testing.assert_allclose(np.nansum(shares, axis=(1, 2)), model.score_anomaly(data))
        np.testing.assert_allclose(np.nanmean(steps, axis=1), model.score_anomaly(data))
        assert (shares[np.isfinite(shares)] >= 0).all()


def test_a_step_is_scored_by_its_distance_from_the_prediction(X):
    """Squared deviations over twice the variance of what those before it foretell."""
    model = quick(max_epochs=20).fit(X)
    before = model.beliefs(X)[:, 5]
    drawn = model.rollout(X[:, :6], 1, n_futures=4000, mean=True)[:, :, 0]
    variance = drawn.var(1) + model.noise_scale_**2
    expected = (X[:, 6] - model.forecast_beliefs(before)) ** 2 / (2 * variance)
    np.testing.assert_allclose(model.explain_anomaly(X)[:, 6] * LENGTH, expected, rtol=0.3, atol=0.05)


def test_the_density_of_two_steps_integrates_to_one():
    """Of a series that jumps between places, of which beliefs are sure: what is rare must not be overlooked."""
    rng = np.random.default_rng(0)
    first = rng.choice([-2, 2], 200) + 0.3 * rng.normal(size=200)
    X = np.stack([first, rng.choice([-1, 1], 200) * first + 0.3 * rng.normal(size=200)], axis=1)
    model = quick(n_components=16, n_latents=4, hidden_layer_sizes=(16,), n_pairs=16, max_epochs=60, n_score_draws=16).fit(X)
    grid = np.linspace(-10, 10, 101)
    pairs = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs[:, 0] += 0.01 * pairs[:, 1]  # sheared, so that no two begin alike, and draws differ
    assert np.exp(model.score_samples(pairs)).sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1.0, abs=0.05)


def test_scores_do_not_depend_on_the_random_state(X):
    model = quick().fit(X)
    scores, forecast = model.score_samples(X), model.forecast(X, 4)
    model.set_params(random_state=7)
    np.testing.assert_array_equal(model.score_samples(X), scores)
    np.testing.assert_array_equal(model.forecast(X, 4), forecast)


# -- with the tools of scikit-learn -----------------------------------------------------------------------------------


def test_clones_and_parameters(X):
    model = quick(encoder="gru", max_gap=4, callbacks=[], optimizer__eps=1e-7)
    before = {name: repr(value) for name, value in model.get_params().items()}
    model.fit(X)
    assert {name: repr(value) for name, value in model.get_params().items()} == before
    assert not hasattr(clone(model), "module_")
    assert clone(model).get_params() == model.get_params()
    np.testing.assert_array_equal(clone(model).fit(X).transform(X), model.transform(X))


@pytest.mark.parametrize("form", ["array", "list", "padding", "rows"])
def test_searches(X, ragged, form):
    data = {"array": X, "list": ragged, "padding": padded(ragged), "rows": X.reshape(N, -1)}[form]
    grid = {"encoder": ["gru", "lstm"], "max_gap": [1, "auto"]}
    search = GridSearchCV(quick(n_timesteps=LENGTH), grid, cv=2, error_score="raise").fit(data)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 4
    assert search.transform(data).shape == (N, 6)
    assert np.isfinite(cross_val_score(quick(n_timesteps=LENGTH), data, cv=3)).all()


def test_pipelines_of_rows(X):
    rows = X.reshape(N, -1)
    pipe = make_pipeline(StandardScaler(), quick(n_timesteps=LENGTH), KMeans(3, n_init=1, random_state=0)).fit(rows)
    assert pipe.predict(rows).shape == (N,)
    scaler, model = pipe[0], pipe[1]
    scaled = scaler.transform(rows)
    np.testing.assert_array_equal(skvae.sample(pipe, 4), scaler.inverse_transform(model.sample(4)))
    np.testing.assert_array_equal(skvae.reconstruct(pipe, rows), scaler.inverse_transform(model.reconstruct(scaled)))
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, rows), model.score_anomaly(scaled))
    search = GridSearchCV(pipe, {"tdvae__n_latents": [1, 2]}, scoring=skvae.step_score("tdvae"), cv=2, error_score="raise")
    assert np.isfinite(search.fit(rows).cv_results_["mean_test_score"]).all()


def test_pipelines_of_padded_rows(ragged):
    rows = padded(ragged).reshape(N, -1)
    pipe = make_pipeline(StandardScaler(), quick(n_timesteps=LENGTH)).fit(rows)
    np.testing.assert_array_equal(np.isnan(skvae.reconstruct(pipe, rows)), np.isnan(rows))


def test_set_output(X, ragged):
    model = quick().set_output(transform="pandas").fit(X)
    for data in (X, ragged):
        frame = model.transform(data)
        assert isinstance(frame, pd.DataFrame)
        assert list(frame.columns) == [f"tdvae{i}" for i in range(6)]
        assert list(frame.index) == list(range(N))
    assert isinstance(model.beliefs(X), np.ndarray)
    rows = pd.DataFrame(X[..., 0], index=np.arange(N) + 100, columns=[f"t{i}" for i in range(LENGTH)])
    model.fit(rows)
    assert list(model.transform(rows).index) == list(rows.index)
    assert list(model.feature_names_in_) == list(rows.columns)
    with pytest.raises(ValueError, match=r"[Ff]eature names"):
        model.transform(rows[rows.columns[::-1]])
    assert not hasattr(model.fit(X), "feature_names_in_")
    assert model.n_features_in_ == WIDTH


# -- partial_fit, warm start, weights, early stopping -----------------------------------------------------------------


def test_partial_fit_goes_on(X):
    model = quick(max_epochs=30, batch_size=8)
    losses = [model.partial_fit(X).loss_curve_[-1] for _ in range(30)]
    assert losses[-1] < losses[0]
    assert model.n_iter_ == len(model.loss_curve_) == 30
    shift = model.module_.likelihood.units.constant.copy()
    model.partial_fit(X + 100.0)
    np.testing.assert_array_equal(model.module_.likelihood.units.constant, shift)


def test_history_of_a_term_that_has_ended_goes_on_at_zero(X):
    model = quick(max_epochs=2, kl_warmup=0.5)
    for _ in range(4):
        model.partial_fit(X)
    assert {len(values) for values in model.history_.values()} == {4}
    assert model.history_["auxiliary"][0] != 0.0
    assert model.history_["auxiliary"][-1] == 0.0


def test_partial_fit_takes_sequences_of_any_length_and_number(X):
    model = quick().partial_fit(X[:, :6])
    model.partial_fit(X).partial_fit(X[:1]).partial_fit(X[:3, :1]).partial_fit([X[0], X[1, :2]])
    assert model.n_timesteps_ == 6  # sets the length of samples and the longest jump once and for all
    assert np.isfinite(model.score(X))
    with pytest.raises(ValueError, match="minimum of 2"):
        quick().partial_fit(X[:1])


def test_a_short_last_chunk_does_not_undo_a_stream(X):
    model = quick(max_epochs=30, batch_size=8)
    for _ in range(30):
        model.partial_fit(X)
    before = model.score(X)
    assert model.partial_fit(X[:1, :3]).score(X) > before - 2.0


def test_partial_fit_and_warm_start_refuse_what_changed(X):
    with pytest.raises(ValueError, match="early_stopping"):
        quick(early_stopping=True).partial_fit(X)
    changes = {"encoder": "gru", "n_latents": 3, "n_latent_layers": 2, "max_gap": 2, "n_pairs": 7, "n_components": 4}
    for name, value in changes.items():
        with pytest.raises(ValueError, match=f"{name}.* changed"):
            quick().partial_fit(X).set_params(**{name: value}).partial_fit(X)
    with pytest.raises(ValueError, match="X has 2 features a step, but TDVAE was fitted on 3"):
        quick(warm_start=True).fit(X).fit(X[..., :2])


def test_warm_start_starts_where_the_last_fit_ended(X):
    model = quick(max_epochs=40, warm_start=True, kl_warmup=0.0, auxiliary=0.0).fit(X)
    loss = model.loss_curve_
    model.set_params(max_epochs=2).fit(X)
    assert model.loss_curve_[0] < loss[0]
    assert model.n_iter_ == 2
    assert clone(model).fit(X).loss_curve_[0] == pytest.approx(loss[0], rel=0.2)


def test_early_stopping(X):
    params = {"early_stopping": True, "max_epochs": 100, "kl_warmup": 0.2}
    few = quick(early_stopping__n_iter_no_change=2, early_stopping__tol=1e6, **params).fit(X)
    many = quick(early_stopping__n_iter_no_change=60, early_stopping__tol=0.0, **params).fit(X)
    assert 20 <= few.n_iter_ < many.n_iter_
    assert list(few.history_)[:2] == ["loss", "reconstruction"]
    assert "valid_smoothing" in few.history_
    measured = quick(early_stopping=True, early_stopping__validation_fraction=0.25).fit(X).module_.likelihood
    assert not np.allclose(measured.units.constant, X.mean((0, 1)), rtol=1e-6)  # which is that of the other sequences


def test_zero_weights_are_sequences_left_out(X, ragged):
    weight = np.ones(N)
    weight[15:] = 0
    assert signature(quick().fit(X, sample_weight=weight), X) == signature(quick().fit(X[:15]), X)
    weighted, alone = quick().fit(ragged, sample_weight=weight), quick().fit(ragged[:15])
    assert signature(weighted, ragged) == signature(alone, ragged)
    rows = padded(ragged).reshape(N, -1)
    weighted, alone = quick(n_timesteps=LENGTH), quick(n_timesteps=LENGTH)
    assert signature(weighted.fit(rows, sample_weight=weight), rows) == signature(alone.fit(rows[:15]), rows)
    assert signature(quick().fit(X, sample_weight=np.full(N, 3.0)), X) == signature(quick().fit(X), X)


def test_weights_matter(ragged):
    weight = np.where([x[0, 0] > 0 for x in ragged], 100.0, 1.0)
    model = quick(max_epochs=5).fit(ragged, sample_weight=weight)
    assert not np.array_equal(model.transform(ragged), quick(max_epochs=5).fit(ragged).transform(ragged))
    repeated = np.repeat(weight, [len(x) for x in ragged])
    np.testing.assert_allclose(
        model.module_.likelihood.units.constant, np.average(np.concatenate(ragged), axis=0, weights=repeated)
    )


def test_weights_in_full_batches_are_repetitions(X):
    """The expected failures of scikit-learn's equivalence checks, as far as draws that belong to rows let them."""
    counts = np.random.default_rng(0).integers(1, 4, size=N)
    model, repeated = quick(batch_size=500).fit(X, sample_weight=counts.astype(float)), quick(batch_size=500)
    repeated.fit(np.repeat(X, counts, axis=0))
    likelihoods = [m.module_.likelihood for m in (model, repeated)]
    np.testing.assert_allclose(likelihoods[0].units.constant, likelihoods[1].units.constant, rtol=1e-10)
    np.testing.assert_allclose(likelihoods[0].units.scale, likelihoods[1].units.scale, rtol=1e-10)
    assert model.loss_curve_[0] == pytest.approx(repeated.loss_curve_[0], rel=0.1)


# -- state and randomness ---------------------------------------------------------------------------------------------

RANDOM = {"encoder__dropout": 0.3, "decoder__dropout": 0.3, "encoder__n_layers": 2, "batch_size": 10}


@pytest.mark.parametrize("dump", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("params", [RANDOM, {"encoder": "gru", "n_latent_layers": 2, "decoder__normalization": "batch"}], ids=str)
def test_round_trips_and_training_that_goes_on(X, ragged, params, dump):
    model = quick(max_epochs=6, **params).fit(X)
    loaded = dump(model)
    assert signature(loaded, X) == signature(model, X)
    for part in (X, ragged):
        model.partial_fit(part), loaded.partial_fit(part)
    assert signature(loaded, X) == signature(model, X)
    assert loaded.loss_curve_ == model.loss_curve_
    assert model.n_iter_ == 8


def test_pickles_hold_plain_data(X):
    text = pickle.dumps(quick().fit(X))
    names = {str(argument) for _, argument, _ in pickletools.genops(text) if isinstance(argument, str)}
    assert not {name for name in names if name.startswith("torch") or name.startswith("_rebuild_tensor")}
    assert b"cuda" not in text


def fit_one(X, seed):
    return signature(quick(random_state=seed, **RANDOM).fit(X), X)


def test_fits_side_by_side_give_what_they_give_alone(X):
    alone = [fit_one(X, seed) for seed in range(4)]
    together = joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(fit_one)(X, seed) for seed in range(4))
    assert together == alone
    assert len(set(alone)) == 4


def test_global_states_are_left_alone_and_do_not_matter(X):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    expected = fit_one(X, 0)
    model = quick(early_stopping=True, **RANDOM).fit(X)
    model.rollout(X, 2), pickle.loads(pickle.dumps(model)).sample(2), model.update_belief(X[:, 0])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.rand(3)
    assert fit_one(X, 0) == expected


def test_without_a_random_state_numpy_decides(X):
    results = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002
        results.append([signature(quick(random_state=None).fit(X), X) for _ in range(2)])
    assert results[0] == results[1]
    assert len(set(results[0])) == 2


def test_streams_and_resident_sequences_train_alike(X, ragged, monkeypatch):
    expected = [signature(quick(batch_size=7).fit(data), X) for data in (X, ragged)]
    monkeypatch.setattr("skvae.training.loader.RESIDENT_BYTES", 0)
    assert [signature(quick(batch_size=7).fit(data), X) for data in (X, ragged)] == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_on_a_gpu(X, ragged, cell):
    model = quick(encoder=cell, device="cuda", max_epochs=5).fit(ragged)
    assert next(model.module_.parameters()).is_cuda
    loaded = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    np.testing.assert_allclose(loaded.transform(ragged), model.transform(ragged), atol=1e-4)
    np.testing.assert_allclose(loaded.score_samples(ragged), model.score_samples(ragged), atol=1e-2)
    np.testing.assert_allclose(loaded.forecast(X, [1, 9]), model.forecast(X, [1, 9]), rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(loaded.score_anomaly_steps(X), model.score_anomaly_steps(X), rtol=1e-2, atol=1e-2)
    state = model.update_belief(X[:, 1], model.update_belief(X[:, 0]))
    np.testing.assert_allclose(state.belief, model.transform(X[:, :2]), atol=1e-4)
    assert model.rollout(X, 2).shape == (N, 1, 2, WIDTH)
    model.sample(3), model.partial_fit(X), loaded.partial_fit(X)


def test_another_default_dtype(X):
    torch.set_default_dtype(torch.float64)
    try:
        model = quick().fit(X)
        assert next(model.module_.parameters()).dtype == torch.float32
        assert np.isfinite(model.score(X))
        for frames in (model.rollout(X, 2), model.sample(2), model.forecast(X, 3)):
            assert np.isfinite(frames).all()
        assert np.isfinite(model.update_belief(X[:, 1], model.update_belief(X[:, 0])).belief).all()
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_refit_that_fails_leaves_the_fitted_estimator(X):
    model = quick(n_timesteps=LENGTH).fit(X.reshape(N, -1))
    expected, names = signature(model, X), set(vars(model))
    for params, data in (
        ({}, np.full((5, LENGTH, 2), np.nan)),
        ({}, [X[0], X[1, :, :2]]),
        ({"n_timesteps": 7}, X.reshape(N, -1)),
        ({"max_gap": 50}, X[..., :2]),
        ({"learning_rate": 1e38, "optimizer": "sgd", "max_epochs": 20}, X[..., :2]),
    ):
        before = model.get_params()
        with pytest.raises(ValueError, match=r"not NaN|same features|does not divide|max_gap=50|stopped being finite"):
            model.set_params(**params).fit(data)
        model.set_params(**before)
        assert set(vars(model)) == names
        assert signature(model, X) == expected
        assert model.sample(2).shape == (2, 30)


def test_a_state_that_carries_nothing_is_reported(X, monkeypatch):
    measure = TDVAE._measure
    monkeypatch.setattr(TDVAE, "_measure", lambda *args: {**measure(*args), "n_active_units_": 0})
    message = r"state of TDVAE has collapsed.*kl_warmup \(now 0.8\), auxiliary \(now 1\) or max_epochs \(now 1, 1 passes\)"
    with pytest.warns(UserWarning, match=message) as record:
        quick(max_epochs=1).fit(X)
    assert len(record) == 1


@pytest.mark.filterwarnings("default:The state of TDVAE has collapsed")
def test_noise_alone_has_no_state(X):
    noise = np.random.default_rng(0).normal(size=(60, 8, 1))
    with pytest.warns(UserWarning, match="state of TDVAE has collapsed") as record:
        model = quick(max_epochs=60, beta=20.0, auxiliary=0.0, kl_warmup=0.0).fit(noise)
    assert model.n_active_units_ == 0
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert quick(max_epochs=20).fit(X).n_active_units_ > 0


# -- parameters that must be obeyed -----------------------------------------------------------------------------------

CHANGES = [
    {"n_components": 7},
    {"scaling": "mean"},
    {"scaling": "standard"},
    {"n_latents": 3},
    {"n_latent_layers": 2},
    {"encoder": "gru"},
    {"encoder__n_layers": 2},
    {"max_gap": 3},
    {"n_pairs": 5},
    {"one_step_fraction": 0.9},
    {"beta": 3.0},
    {"kl_warmup": 0.1},
    {"auxiliary": 0.1},
    {"hidden_layer_sizes": (9,)},
    {"hidden_layer_sizes": ()},
    {"activation": "tanh"},
    {"activation": nn.Softplus},
    {"decoder__dropout": 0.5},
    {"encoder__n_layers": 2, "encoder__dropout": 0.5},
    {"hidden_layer_sizes": (64,), "decoder": MLP((9,))},  # of its own, where the flat one is at its default
    {"decoder": MLP(activation="tanh")},
    {"decoder__normalization": "batch"},
    {"decoder__normalization": "layer"},
    {"likelihood": "laplace"},
    {"likelihood__noise": "shared"},
    {"likelihood__noise": 0.5},
    {"learning_rate": 0.1},
    {"optimizer__schedule": "constant"},
    {"optimizer": "sgd"},
    {"optimizer": torch.optim.RMSprop},
    {"optimizer__betas": (0.5, 0.9)},
    {"batch_size": 7},
    {"max_epochs": 4},
    {"early_stopping": True},
    {"early_stopping": True, "early_stopping__validation_fraction": 0.4},
    {"optimizer__clip_norm": 0.01},
    {"optimizer__clip_value": 0.001},
    {"random_state": 1},
    {"precision": "bfloat16"},
    {"n_score_draws": 8},
]
ELSEWHERE = {"n_timesteps", "warm_start", "device", "verbose", "callbacks"}  # see other tests


@pytest.mark.parametrize("params", CHANGES, ids=lambda params: ",".join(f"{k}={v}" for k, v in params.items()))
def test_every_parameter_changes_the_result(X, params):
    reference = quick(**dict(list(params.items())[:-1])) if len(params) > 1 else quick()
    method = "score_samples" if params.keys() & {"likelihood__noise", "n_score_draws"} else "reconstruct"
    before = getattr(reference.fit(X), method)(X)
    assert not np.array_equal(getattr(quick(**params).fit(X), method)(X), before)


def test_every_parameter_is_tried():
    assert {name.partition("__")[0] for params in CHANGES for name in params} | ELSEWHERE == set(TDVAE().get_params())


def test_noise(X):
    np.testing.assert_allclose(quick(likelihood__noise=0.5).fit(X).noise_scale_, 0.5, rtol=1e-6)
    shared = quick(likelihood__noise="shared").fit(X)
    assert np.ptp(shared.noise_scale_ / shared.module_.likelihood.units.scale) < 1e-5


def test_auto_values(X):
    for length, gap in ((2, 1), (3, 1), (10, 5), (60, 20)):
        assert quick(max_epochs=1).fit(np.resize(X, (8, length, 3))).max_gap_ == gap
    assert quick(max_gap=9).fit(X).max_gap_ == 9
    assert quick(max_epochs="auto", learning_rate=1e-3).fit(X[:4, :2]).n_iter_ == 100


def test_callbacks_and_output(X, capsys):
    seen = []

    class Watch(skvae.training.net.Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append(net.history[-1]["train_transition"])

    quick(callbacks=[Watch()]).fit(X)
    assert len(seen) == 2
    quick().fit(X).rollout(X)
    assert capsys.readouterr() == ("", "")
    quick(verbose=1).fit(X)
    assert "train_loss" in capsys.readouterr().out


# -- what bad input gets ----------------------------------------------------------------------------------------------


def changed(X, where, value):
    X = X.copy()
    X[where] = value
    return X


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_gap": LENGTH}, "max_gap=10 is longer than the longest sequence, which has 10 steps; at most 9 fits"),
        ({"max_gap": 0}, "max_gap"),
        ({"max_gap": 2.5}, "max_gap"),
        ({"n_timesteps": 1}, "n_timesteps"),
        ({"n_timesteps": 2.0}, "n_timesteps"),
        ({"encoder": "rnn"}, "encoder"),
        ({"scaling": "minmax"}, "scaling"),
        ({"scaling": "mean", "likelihood": "poisson"}, r"scaling='mean' measures every.*likelihood=Poisson\(\) has no meaning"),
        ({"n_latents": 0}, "n_latents"),
        ({"n_latent_layers": 0}, "n_latent_layers"),
        ({"encoder__n_layers": 0}, r"encoder=Recurrent\(n_layers=0\): n_layers=0 must be an integer of at least 1"),
        ({"encoder__dropout": 0.1}, r"encoder=Recurrent\(dropout=0.1\): dropout=0.1 acts between layers"),
        ({"n_pairs": 0}, "n_pairs"),
        ({"one_step_fraction": 1.5}, "one_step_fraction"),
        ({"beta": -1.0}, "beta"),
        ({"kl_warmup": 2.0}, "kl_warmup"),
        ({"auxiliary": -1.0}, "auxiliary"),
        ({"n_components": 0}, "n_components"),
        ({"hidden_layer_sizes": (8, 0)}, "hidden_layer_sizes"),
        ({"activation": "swishy"}, "activation"),
        ({"activation": nn.ReLU()}, "activation=ReLU.*instance.*class ReLU"),
        ({"activation": nn.GLU}, "activation=GLU fails"),
        ({"activation": nn.Threshold}, "activation=Threshold cannot be built without arguments"),
        ({"decoder__normalization": "batch", "batch_size": 1}, "normalization='batch' needs batches of at least 2"),
        ({"likelihood": "bernoulli"}, r"\[0, 1\].*MinMaxScaler"),
        ({"likelihood__noise": 1e30}, r"noise=1e\+30 is out of proportion"),
        ({"device": "tpu"}, "device='tpu' is not known"),
        ({"n_score_draws": 0}, "n_score_draws"),
        ({"early_stopping": True, "early_stopping__validation_fraction": 0.99}, "validation_fraction=0.99 of 24 rows leaves 0"),
        ({"optimizer": Optimizer(foo=1)}, "Adam has no argument 'foo'"),
    ],
    ids=str,
)
def test_wrong_parameters(X, params, message):
    model = quick(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not {name for name in vars(model) if name.endswith("_") or name.startswith("_")}


INSIDE = r"NaN inside a sequence: sequence 3, step {}, feature {}\. NaN may only fill the steps behind the end of a sequence"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X: X[:, :1], r"Sequence 0 has 1 step\(s\); at least 2 are needed"),
        (lambda X: X[:, :0], "Sequence 0 has no step; at least 2 are needed"),
        (lambda X: [X[0], X[1, :1]], r"Sequence 1 has 1 step\(s\); at least 2 are needed"),
        (lambda X: changed(X, (3, slice(1, None)), np.nan), r"Sequence 3 has 1 step\(s\); at least 2 are needed"),
        (lambda X: changed(X, 3, np.nan), "Sequence 3 has no step that is not NaN; at least 2 are needed"),
        (lambda X: X[:, :1, 0], r"X has 1 feature\(s\), which with n_timesteps=None are the steps of a sequence; at least 2"),
        (lambda X: changed(X, (3, 4), np.nan), INSIDE.format(4, 0)),
        (lambda X: changed(X, (3, 4, 1), np.nan), INSIDE.format(4, 1)),
        (lambda X: changed(X, (3, -1, 1), np.nan), INSIDE.format(9, 1)),
        (lambda X: changed(X, (3, 0), np.nan), INSIDE.format(0, 0)),
        (lambda X: changed(X[..., 0], (3, 4), np.nan), INSIDE.format(4, 0)),
        (
            lambda X: list(changed(X, (3, 4, 1), np.nan)),
            r"NaN: X\[3\] at step 4. In a list, sequences end where their arrays end",
        ),
        (lambda X: list(changed(X, (3, -1), np.nan)), r"NaN: X\[3\] at step 9"),
        (lambda X: changed(X, (3, 4, 1), np.inf), "infinity"),
        (lambda X: list(changed(X, (3, 4, 1), -np.inf)), "infinity"),
        (lambda X: X[:0], r"0 sample\(s\)"),
        (lambda X: X[:1], "minimum of 2"),
        (lambda X: X[..., :0], r"0 feature\(s\)"),
        (lambda X: X[..., np.newaxis], r"X has 4 dimensions, \(24, 10, 3, 1\).*X.reshape\(\*X.shape\[:2\], -1\)"),
        (
            lambda X: X[..., np.newaxis].tolist(),
            r"X\[0\] has 3 dimensions; in a list, sequences are arrays \(n_timesteps, n_feat",
        ),
        (lambda X: X[0, :, 0], "1D array"),
        (lambda X: [], "X is an empty list; it takes one array"),
        (lambda X: [X[0], X[1, :0]], r"X\[1\] is a sequence without any step"),
        (lambda X: [[1.0, 2.0], []], r"X\[1\] is a sequence without any step"),
        (lambda X: [X[0], X[1, :, :2]], r"same features in every step, but X\[0\] has 3 and X\[1\] has 2"),
        (lambda X: [X[0], X[1, :, 0]], r"same features in every step, but X\[0\] has 3 and X\[1\] has 1"),
        (lambda X: [[[1, 2], [3, 4]], [[1, 2], [3]]], r"X\[1\] has different numbers of features in its steps"),
        (lambda X: [X[0], None], r"X\[1\] is of type NoneType; in a list"),
        (lambda X: [X[0, :, 0], 3.0], r"X\[1\] is of type float; in a list"),
        (lambda X: [sparse.csr_array(x) for x in X], r"X\[0\] is of type csr_array; in a list"),
        (lambda X: X.astype(complex), "[Cc]omplex"),
        (lambda X: np.full(X.shape, "a"), "X holds <U1; sequences are of numbers"),
        (lambda X: np.full(X.shape, "2020-01-01", "M8[D]"), "X holds datetime64.*; sequences are of numbers"),
        (lambda X: np.full(X.shape, "a", object), "could not convert string"),
        (lambda X: [np.full((4, 2), "a"), np.full((5, 2), "a")], r"X\[0\] holds <U1; sequences are of numbers"),
        (
            lambda X: [pd.DataFrame(X[0]), pd.DataFrame(X[1]).assign(c="Rome")[[0, 1, "c"]]],
            r"X\[1\] holds what is not a number.*Rome",
        ),
        (lambda X: pd.DataFrame(X[..., 0]).assign(city="Rome"), r"Column\(s\) 'city' \(e.g. 'Rome'\)"),
        (lambda X: X * 1e300, "too large to be computed"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wrong_sequences(X, spoil, message):
    model = quick()
    with pytest.raises(ValueError, match=message):
        model.fit(spoil(X))
    assert not hasattr(model, "module_")
    assert not hasattr(model, "n_features_in_")


def test_sparse_rows_are_refused(X):
    with pytest.raises(TypeError, match="dense data is required"):
        quick().fit(sparse.csr_array(X[..., 0]))


@pytest.mark.parametrize(
    ("n_columns", "n_timesteps", "fits"),
    [
        (30, 7, "With 30 columns, n_timesteps may be 2, 3, 5, 6, ..., 30"),
        (30, 60, "may be 2, 3, 5, 6, ..., 30"),
        (12, 5, "may be 2, 3, 4, 6, 12"),
        (29, 5, "may be 29"),
        (1, 5, "At least 2 columns are needed"),
    ],
)
def test_columns_that_do_not_make_steps(X, n_columns, n_timesteps, fits):
    message = rf"X has {n_columns} column\(s\), which n_timesteps={n_timesteps} does not divide: rows are flattened.*{fits}\."
    with pytest.raises(ValueError, match=message):
        quick(n_timesteps=n_timesteps).fit(X.reshape(N, -1)[:, :n_columns])


def test_wrong_sequences_after_fit(X):
    model, of_rows = quick().fit(X), quick(n_timesteps=LENGTH).fit(X.reshape(N, -1))
    for method in (*PER_SEQUENCE, "rollout", "score"):
        with pytest.raises(ValueError, match="X has 2 features a step, but TDVAE was fitted on 3"):
            getattr(model, method)(X[..., :2])
        with pytest.raises(ValueError, match="X has rows, but TDVAE was fitted on sequences of 3 features a step: pass"):
            getattr(model, method)(X.reshape(N, -1))
        with pytest.raises(ValueError, match="X has 20 features, but TDVAE is expecting 30"):
            getattr(of_rows, method)(X.reshape(N, -1)[:, :20])
        with pytest.raises(ValueError, match="X has 4 dimensions"):
            getattr(model, method)(X[..., np.newaxis])
        with pytest.raises(ValueError, match="Sequence 2 has no step that is not NaN; at least one is needed"):
            getattr(model, method)(changed(X, 2, np.nan))
        with pytest.raises(ValueError, match="NaN inside a sequence: sequence 2, step 0"):
            getattr(model, method)(changed(X, (2, 0), np.nan))
    for method in ("inverse_transform", "forecast_beliefs"):
        with pytest.raises(ValueError, match=r"Z has 3 columns.*n_components_=6"):
            getattr(model, method)(X[:, 0])
    binary = (X > X.mean((0, 1))).astype(float)
    model = quick(likelihood="bernoulli").fit(binary)
    for method in ("score_samples", "score_anomaly", "score_anomaly_steps", "explain_anomaly", "score"):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            getattr(model, method)(binary * 3)


@pytest.mark.parametrize(
    "horizon", [0, -1, 1.5, True, "3", None, np.nan, [1, 0], [1.0, 2.0], [True, 2], {1, 2}, [[1, 2]], [1, "a"]]
)
def test_wrong_horizons(X, horizon):
    with pytest.raises(ValueError, match=r"horizon=.* must be an integer of at least 1"):
        quick(max_epochs=1).fit(X).forecast(X, horizon)


def test_other_wrong_numbers(X):
    model = quick(max_epochs=1).fit(X)
    with pytest.raises(ValueError, match="horizon is empty; it takes integers of at least 1"):
        model.forecast(X, [])
    for value in (0, -1, 1.5, True, "2"):
        for name, call in (
            ("horizon", lambda n: model.forecast_beliefs(model.transform(X), n)),
            ("n_draws", lambda n: model.forecast(X, n_draws=n)),
            ("n_steps", lambda n: model.rollout(X, n)),
            ("n_futures", lambda n: model.rollout(X, n_futures=n)),
            ("n_samples", lambda n: model.sample(n)),
            ("n_timesteps", lambda n: model.sample(n_timesteps=n)),
        ):
            with pytest.raises(ValueError, match=f"{name}={value!r} must be an integer of at least 1"):
                call(value)


def test_wrong_frames_and_states(X):
    model = quick().fit(X)
    state = model.update_belief(X[:, 0])
    for frames, given, message in (
        (X[:5, 0], state, "state is about 24 sequences, but x has frames of 5"),
        (X[:, 0, :2], state, "x has 2 features, but TDVAE was fitted on frames of 3"),
        (X[:, 0], state.belief, "state must be what update_belief returned, or None, but is of type ndarray"),
        (X[:, 0], tuple(state), "but is of type tuple"),
        (X[:, 0], quick(n_components=4).fit(X).update_belief(X[:, 0]), "state comes from another model"),
        (X[:, 0], quick().fit(X[..., :2]).update_belief(X[:, 0, :2]), "it has frames of 2 features, and this TDVAE of 3"),
        (X[:, 0], quick(encoder="gru").fit(X).update_belief(X[:, 0]), "state comes from another model"),
        (X[:, 0], quick(encoder__n_layers=2).fit(X).update_belief(X[:, 0]), "state comes from another model"),
        (X[:, 0] * np.nan, state, "Input x contains NaN"),
        (X[0, 0], None, r"1D array.*\n.*\n.*reshape\(1, -1\) if it contains a single sample"),
        (X[:, :2], None, "dim 3"),
        (np.full((2, 3), "a"), None, "could not convert string"),
    ):
        with pytest.raises(ValueError, match=message):
            model.update_belief(frames, given)
    with pytest.raises(TypeError, match="dense data is required"):
        model.update_belief(sparse.csr_array(X[:, 0]))


def test_wrong_weights(X, ragged):
    for data in (X, ragged):
        for weight, message in (
            (np.ones(3), r"sample_weight.shape == \(3,\), expected \(24,\)"),
            (np.ones((N, LENGTH)), "1D array"),
            (-np.ones(N), "Negative"),
            (np.zeros(N), "non-zero"),
            ((np.arange(N) == 3).astype(float), r"sample_weight leaves 1 row\(s\) with a positive weight"),
        ):
            with pytest.raises(ValueError, match=message):
                quick().fit(data, sample_weight=weight)


def test_everything_asks_for_fit_first(X):
    for method in (*PER_SEQUENCE, "rollout", "score"):
        for data in (X, X[..., np.newaxis]):
            with pytest.raises(NotFittedError, match="not fitted"):
                getattr(quick(), method)(data)
    for method in ("inverse_transform", "forecast_beliefs", "update_belief"):
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(quick(), method)(X[:, 0])
    with pytest.raises(NotFittedError, match="not fitted"):
        quick().sample()
    assert not hasattr(quick(), "loss_curve_")


# -- where the truth is known -----------------------------------------------------------------------------------------

TURN, PUSH, BLUR = 0.4, 0.1, 0.3  # rotation a step, and the standard deviations of what moves the state and hides it
MOTION = np.array([[np.cos(TURN), -np.sin(TURN)], [np.sin(TURN), np.cos(TURN)]])


def oscillators(n, length, seed):
    """Noisy readings of one coordinate of points that turn around the origin, pushed at random."""
    rng = np.random.default_rng(seed)
    state, X = rng.normal(size=(n, 2)), np.empty((n, length, 1))
    for t in range(length):
        state = state if t == 0 else state @ MOTION.T + PUSH * rng.normal(size=(n, 2))
        X[:, t, 0] = state[:, 0] + BLUR * rng.normal(size=n)
    return X


def filtered(X):
    """Means of the state after every frame, squared deviations over twice the variance, and log-likelihoods, all exact."""
    mean, covariance = np.zeros((len(X), 2)), np.eye(2)
    means, deviances, log_likelihood = [], [], 0.0
    for t, x in enumerate(X[..., 0].T):
        if t:
            mean, covariance = mean @ MOTION.T, MOTION @ covariance @ MOTION.T + PUSH**2 * np.eye(2)
        variance, error = covariance[0, 0] + BLUR**2, x - mean[:, 0]
        deviances.append(0.5 * error**2 / variance)
        log_likelihood = log_likelihood - deviances[-1] - 0.5 * np.log(2 * np.pi * variance)
        gain = covariance[:, 0] / variance
        mean, covariance = mean + np.outer(error, gain), covariance - np.outer(gain, covariance[0])
        means.append(mean)
    return np.stack(means, 1), np.stack(deviances, 1), log_likelihood


@pytest.fixture(scope="module")
def oscillator(one_core):
    params = {"n_components": 32, "n_latents": 4, "hidden_layer_sizes": (32,), "n_pairs": 8, "max_epochs": 60, "random_state": 0}
    return TDVAE(**params).fit(oscillators(400, 40, seed=0)), oscillators(300, 40, seed=1)


def test_forecasts_come_near_those_of_the_kalman_filter(oscillator):
    model, X = oscillator
    means, beliefs = filtered(X)[0][:, 19], model.beliefs(X)[:, 19]
    for gap in (1, 5, 12):
        truth = X[:, 19 + gap, 0]
        oracle = np.mean((truth - (means @ np.linalg.matrix_power(MOTION, gap).T)[:, 0]) ** 2)
        error = np.mean((truth - model.forecast_beliefs(beliefs, gap)[:, 0]) ** 2)
        copied = np.mean((truth - X[:, 19, 0]) ** 2)
        assert error < 1.35 * oracle
        assert error < 0.6 * copied
        assert error < 0.6 * truth.var()


@pytest.mark.slow
def test_scores_stay_below_the_exact_log_likelihood_and_come_near_it(oscillator):
    model, X = oscillator
    X = X[:100]
    exact = filtered(X)[2].mean()
    scores = [copy.copy(model).set_params(n_score_draws=n).score(X) for n in (1, 8, 128)]
    assert scores[0] < scores[1] < scores[2] < exact
    assert scores[2] > exact - 0.2 * X.shape[1]  # nats per frame
    nothing = X.shape[1] * -0.5 * (1 + np.log(2 * np.pi * X.var()))  # frames on their own
    assert scores[2] > nothing + 0.3 * X.shape[1]


def test_a_spiked_step_stands_out(oscillator):
    model, X = oscillator
    rng = np.random.default_rng(0)
    X, at, rows = X.copy(), rng.integers(5, 40, 300), np.arange(300)
    X[rows, at, 0] += 2.4 * rng.choice([-1, 1], 300)  # six standard deviations of a prediction
    exact = np.mean(filtered(X)[1].argmax(1) == at)
    found = np.mean(model.score_anomaly_steps(X).argmax(1) == at)
    assert np.mean(np.abs(X[..., 0]).argmax(1) == at) < 0.75 < 0.88 < found
    assert found > exact - 0.1
    assert np.median(model.score_anomaly(X)) > 1.3 * np.median(model.score_anomaly(oscillator[1]))


def test_states_of_the_filter_can_be_read_off_a_draw(oscillator):
    """A belief of an untrained network holds them, too; a draw of the state has had to pass a bottleneck of noise."""
    model, X = oscillator
    truth = filtered(X)[0][:, 10:].reshape(-1, 2)
    drawn = sequences.draw_states(model.module_, model.beliefs(X)[:, 10:].reshape(len(truth), -1), 0)
    half = len(drawn) // 2
    slopes = LinearRegression().fit(drawn[:half], truth[:half])
    assert slopes.score(drawn[half:], truth[half:]) > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_layers_and_cells_all_learn(cell):
    X, fresh = oscillators(1000, 40, seed=0), oscillators(300, 40, seed=1)
    model = TDVAE(32, n_latents=3, n_latent_layers=2, encoder=cell, hidden_layer_sizes=(32,), random_state=0).fit(X)
    beliefs, mean = model.beliefs(fresh)[:, 19], filtered(fresh)[0][:, 19]
    for gap in (1, 5, 20):
        truth = fresh[:, 19 + gap, 0]
        oracle = np.mean((truth - (mean @ np.linalg.matrix_power(MOTION, gap).T)[:, 0]) ** 2)
        assert np.mean((truth - model.forecast_beliefs(beliefs, gap)[:, 0]) ** 2) < 1.25 * oracle
    assert model.n_active_units_ >= 2
