"""Denoising autoencoders that are given the clean rows of noisy ones."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skvae import MLP, Bernoulli, Conv, DenoisingAE, EarlyStopping, Gaussian, LinearPath, Poisson
from skvae.modules import CORRUPTIONS

pytestmark = pytest.mark.usefixtures("one_core")

N_ROWS, N_COLUMNS = 60, 5


def quick(**params):
    return DenoisingAE(
        **{
            "n_components": 2,
            "hidden_layer_sizes": (8,),
            "linear_path": LinearPath(1.0),
            "max_epochs": 3,
            "random_state": 0,
            **params,
        }
    )


def linear(n_components=2, **params):
    """The linear denoiser that training begins at, and stays at."""
    given = {"linear_path": LinearPath(np.inf), "corruption_scale": 0.0, "max_epochs": 1, "learning_rate": 1e-30}
    return DenoisingAE(n_components, random_state=0, **{**given, **params})


def tables(n_rows=N_ROWS, seed=0):
    """Noisy and clean rows; the noise is the same in all columns but for their shares."""
    rng = np.random.default_rng(seed)
    # Only the draws differ between seeds.
    axes = np.random.default_rng(99).normal(size=(3, N_COLUMNS))
    clean = 5.0 + rng.normal(size=(n_rows, 2)) @ axes[:2] + 0.1 * rng.normal(size=(n_rows, N_COLUMNS))
    return 10.0 * (clean + 1.5 * rng.normal(size=(n_rows, 1)) @ axes[2:]) + 100.0, clean


@pytest.fixture
def noisy():
    return tables()[0]


@pytest.fixture
def clean():
    return tables()[1]


@pytest.fixture
def routed():
    with config_context(enable_metadata_routing=True):
        yield


def reduced_rank(X, Y, rank, weight=None):
    """Reduced-rank regression of standardized columns, as a function of rows."""
    weight = np.ones(len(X)) if weight is None else weight
    x_mean, y_mean = np.average(X, axis=0, weights=weight), np.average(Y, axis=0, weights=weight)
    scale = np.sqrt(np.average((Y - y_mean) ** 2, axis=0, weights=weight))
    root = np.sqrt(weight)[:, np.newaxis]
    slopes = np.linalg.lstsq(root * (X - x_mean), root * (Y - y_mean) / scale, rcond=None)[0]
    axes = np.linalg.svd(root * (X - x_mean) @ slopes, full_matrices=False)[2][:rank]
    return lambda rows: (rows - x_mean) @ slopes @ axes.T @ axes * scale + y_mean


def equal(one, other, X):
    """Whether two models are the same to the last bit."""
    return all(
        np.array_equal(getattr(one, name)(X), getattr(other, name)(X)) for name in ("transform", "denoise", "score_samples")
    )


# -- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_on_linear_data_it_is_reduced_rank_regression(noisy, clean, rank):
    new_noisy, new_clean = tables(seed=1)
    weight = 1.0 + np.arange(N_ROWS) % 3
    for given in (None, weight):
        model = linear(rank).fit(noisy, clean, sample_weight=given)
        expected = reduced_rank(noisy, clean, rank, given)
        np.testing.assert_allclose(model.denoise(new_noisy), expected(new_noisy), atol=1e-4)
    assert np.mean((model.denoise(new_noisy) - new_clean) ** 2) < 0.5 * np.mean(
        (linear(rank).fit(noisy).denoise(new_noisy) / 10.0 - 10.0 - new_clean) ** 2
    )


def test_a_linear_denoiser_takes_corruption_on_top(noisy, clean):
    """Noise on top of noisy rows is ridge regression, of the covariance with the noise's own."""
    model = linear(N_COLUMNS, corruption_scale=0.5).fit(noisy, clean)
    x, y = (noisy - noisy.mean(0)) / noisy.std(0), clean - clean.mean(0)
    slopes = np.linalg.solve(x.T @ x / N_ROWS + 0.25 * np.eye(N_COLUMNS), x.T @ y / N_ROWS)
    np.testing.assert_allclose(model.denoise(noisy), x @ slopes + clean.mean(0), atol=1e-4)


def curved(seed):
    """Rows on a curve; their noise is a factor and a shift of the whole row, which no corruption is like."""
    rng = np.random.default_rng(seed)
    frequency = np.linspace(0.5, 2.5, 10)
    clean = np.sin(rng.uniform(-2.0, 2.0, size=(400, 1)) * frequency + 3.0 * frequency)
    return clean * np.exp(0.4 * rng.normal(size=(400, 1))) + 0.8 * rng.normal(size=(400, 1)), clean


def test_on_curved_data_it_beats_ridge_regression_and_noisy_rows_alone():
    (noisy, clean), (new_noisy, new_clean) = curved(0), curved(1)
    model = quick(n_components=4, hidden_layer_sizes=(32,), corruption_scale=0.0, linear_path=LinearPath(0.0), max_epochs=80)

    def error(predicted):
        return np.mean((predicted - new_clean) ** 2)

    ridge = error(RidgeCV(np.logspace(-6, 2, 9)).fit(noisy, clean).predict(new_noisy))
    alone = error(clone(model).set_params(corruption_scale=0.3).fit(noisy).denoise(new_noisy))
    given = error(model.fit(noisy, clean).denoise(new_noisy))
    assert given < 0.5 * ridge
    assert given < 0.1 * alone
    assert ridge < 0.2 * alone


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, ["gaussian", "masking"], torch.neg])
def test_the_units_of_noisy_rows_do_not_matter(noisy, clean, corruption):
    """Noisy rows are in units of their own, of every column."""
    scale, shift = np.array([1e-3, 1.0, 10.0, 1e3, 1.0]), np.array([0.0, 1e2, 0.0, -3.0, 1e4])
    model = quick(corruption=corruption)
    if callable(corruption):
        scale, shift = np.array([1.0, 2.0, 0.5, 4.0, 8.0]), np.zeros(5)
    expected = clone(model).fit(noisy, clean).denoise(noisy)
    np.testing.assert_allclose(model.fit(noisy * scale + shift, clean).denoise(noisy * scale + shift), expected, atol=0.02)


def test_results_are_in_the_units_of_clean_rows(noisy, clean):
    model, scaled = quick().fit(noisy, clean), quick().fit(noisy, 1024.0 * clean)
    np.testing.assert_allclose(scaled.denoise(noisy), 1024.0 * model.denoise(noisy), rtol=1e-4)
    np.testing.assert_allclose(scaled.noise_scale_, 1024.0 * model.noise_scale_, rtol=1e-3)
    np.testing.assert_allclose(scaled.sample(3, random_state=0), 1024.0 * model.sample(3, random_state=0), rtol=1e-3)
    for sampled in (model.sample(500, random_state=0), model.inverse_transform(model.transform(noisy))):
        np.testing.assert_allclose(sampled.mean(0), clean.mean(0), atol=0.6)


def test_noisy_rows_as_their_own_clean_rows_are_trained_as_without(clean):
    one, other = quick().fit(clean), quick().fit(clean, clean)
    np.testing.assert_array_equal(one.transform(clean), other.transform(clean))
    np.testing.assert_array_equal(one.loss_curve_, other.loss_curve_)


def test_the_noise_is_that_of_clean_rows_around_reconstructions(noisy, clean):
    residual = clean - (model := quick().fit(noisy, clean)).denoise(noisy)
    np.testing.assert_allclose(model.noise_scale_, np.sqrt(np.mean(residual**2, axis=0)), rtol=1e-3)
    shared = quick(likelihood=Gaussian(noise="shared")).fit(noisy, clean)
    residual = clean - shared.denoise(noisy)
    np.testing.assert_allclose(shared.noise_scale_, np.full(N_COLUMNS, np.sqrt(np.mean(residual**2))), rtol=1e-3)


def test_the_decay_is_chosen_by_clean_rows(noisy, clean):
    """Equal noisy rows with other clean rows are not one row."""
    few = np.repeat(noisy[:6], 10, axis=0)
    model = DenoisingAE(2, hidden_layer_sizes=(8,), max_epochs=120, random_state=0).fit(few, clean)
    assert len(model.decay_curve_["loss"]) > 1
    assert DenoisingAE(2, hidden_layer_sizes=(8,), max_epochs=120, random_state=0).fit(few).decay_curve_["weight_decay"].size == 1


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fitted_to", ["clean", "noisy alone"])
def test_the_score_is_the_log_density_of_clean_rows_given_noisy_ones(noisy, clean, fitted_to):
    model = quick().fit(noisy, clean) if fitted_to == "clean" else quick().fit(clean)
    X = noisy if fitted_to == "clean" else clean + 0.1
    log_density = stats.norm.logpdf(clean, model.denoise(X), model.noise_scale_).sum(1)
    assert model.score(X, clean) == pytest.approx(log_density.mean(), abs=1e-3)
    weight = np.arange(N_ROWS) % 4
    assert model.score(X, clean, weight) == pytest.approx(np.average(log_density, weights=weight), abs=1e-3)
    assert model.score(X, clean=clean) == model.score(X, clean) == model.score(X, np.ones(N_ROWS), clean=clean)
    assert model.score(X, np.arange(N_ROWS)) == model.score(X) == pytest.approx(model.score_samples(X).mean())


def test_rows_are_scored_by_themselves(noisy, clean):
    model = quick().fit(noisy, clean)
    scores = [model.score(noisy[i : i + 1], clean[i : i + 1]) for i in range(7)]
    assert np.mean(scores) == pytest.approx(model.score(noisy[:7], clean[:7]), rel=1e-12)
    assert model.score(noisy, clean) > model.score(noisy, np.roll(clean, 1, axis=0))


def test_score_samples_is_of_clean_rows(noisy, clean):
    """The generative model is one of clean rows, whose density integrates to one where the code is linear."""
    model = linear(n_score_draws=512).fit(noisy, clean)
    decoder = model.inverse_transform(np.eye(2)) - model.inverse_transform(np.zeros((1, 2)))
    mean = model.inverse_transform(model.density_.mean_[np.newaxis])[0]
    covariance = decoder.T @ model.density_.covariance_ @ decoder + np.diag(model.noise_scale_**2)
    expected = stats.multivariate_normal.logpdf(clean, mean, covariance)
    np.testing.assert_allclose(model.score_samples(clean), expected, atol=0.05)


# -- what is taken for clean rows -------------------------------------------------------------------------------------


def test_clean_and_y_are_the_same(noisy, clean):
    expected = quick().fit(noisy, clean)
    names = [f"c{j}" for j in range(N_COLUMNS)]
    for y in (clean.tolist(), pd.DataFrame(clean), pd.DataFrame(clean, columns=names), np.asfortranarray(clean)):
        np.testing.assert_allclose(quick().fit(noisy, y).denoise(noisy), expected.denoise(noisy), rtol=1e-5)
        assert expected.score(noisy, y) == expected.score(noisy, clean)
    for y in (torch.from_numpy(clean), pd.DataFrame(clean).convert_dtypes()):
        assert quick().fit(noisy, y).module_.has_clean_targets
    for params in ({}, {"y": np.arange(N_ROWS)}, {"y": noisy}):
        assert equal(quick().fit(noisy, clean=clean, **params), expected, noisy)
        assert equal(quick().partial_fit(noisy, clean=clean, **params), quick().partial_fit(noisy, clean), noisy)
    np.testing.assert_array_equal(quick().fit_transform(noisy, clean), expected.transform(noisy))
    np.testing.assert_array_equal(quick().fit_transform(noisy, clean=clean), expected.transform(noisy))
    frame = pd.DataFrame(noisy, columns=names)
    model = quick().fit(frame, pd.DataFrame(clean, columns=names))
    np.testing.assert_allclose(model.denoise(frame), expected.denoise(noisy), rtol=1e-5)
    integers = quick().fit(noisy, np.round(clean).astype(int))
    assert equal(integers, quick().fit(noisy, np.round(clean)), noisy)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize(
    "y",
    [
        np.arange(N_ROWS),
        np.arange(N_ROWS)[:, np.newaxis],
        np.ones((N_ROWS, N_COLUMNS - 1)),
        np.ones((N_ROWS, N_COLUMNS, 1)),
        np.full((N_ROWS, N_COLUMNS), "a"),
        np.full((N_ROWS, N_COLUMNS), 1.0, dtype=object),
        pd.DataFrame({name: ["x"] * N_ROWS if name == "a" else np.ones(N_ROWS) for name in "abcde"}),
        [["a"] * N_COLUMNS] * N_ROWS,
        ["a"] * N_ROWS,
    ],
    ids=lambda y: f"{type(y).__name__}-{np.shape(y)}-{getattr(y, 'dtype', '')}",
)
def test_any_other_y_is_ignored(noisy, y):
    expected = quick().fit(noisy)
    model = quick().fit(noisy, y)
    assert equal(model, expected, noisy)
    assert not model.module_.has_clean_targets
    assert model.score(noisy, y) == expected.score(noisy)


def test_one_column_is_clean_on_request_alone(noisy, clean):
    X, y = noisy[:, :1], clean[:, :1]
    assert equal(quick().fit(X, y), quick().fit(X), X)
    model = linear(1).fit(X, clean=y)
    slope, constant = np.polyfit(X[:, 0], y[:, 0], 1)
    np.testing.assert_allclose(model.denoise(X), slope * X + constant, atol=1e-4)
    assert model.score(X, clean=y) > model.score(X, clean=y[::-1])


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        (np.ones(N_ROWS), r"clean has the shape \(60,\), but must have the shape \(60, 5\)"),
        (np.ones((N_ROWS, 4)), r"clean has the shape \(60, 4\), but must"),
        (np.ones((N_ROWS - 1, N_COLUMNS)), r"clean has the shape \(59, 5\), but must"),
        (np.ones((N_ROWS, 1, 1, N_COLUMNS)), r"clean has the shape \(60, 1, 1, 5\), but must"),
        ("rows", r"clean has no shape, a str, but must"),
        (np.full((N_ROWS, N_COLUMNS), np.nan), "Input clean contains NaN"),
        (np.full((N_ROWS, N_COLUMNS), np.inf), "Input clean contains infinity"),
        (np.full((N_ROWS, N_COLUMNS), "a"), r"Column\(s\) 0 \(e.g. .*of clean cannot be converted to numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_clean_rows_that_are_none(noisy, clean, message):
    fitted = quick().fit(noisy, tables()[1])
    for call in (quick().fit, quick().partial_fit, fitted.score):
        with pytest.raises(ValueError, match=message):
            call(noisy, clean=clean)


def test_columns_in_another_order_are_no_clean_rows(noisy, clean):
    X, y = (pd.DataFrame(table, columns=list("abcde")) for table in (noisy, clean))
    for given in ({"y": y[list("bacde")]}, {"clean": y[list("edcba")]}):
        with pytest.raises(ValueError, match="has the columns of X in another order: pass"):
            quick().fit(X, **given)


def test_sparse_rows(noisy, clean):
    noisy, clean = np.where(noisy > 160.0, noisy, 0.0), np.where(clean > 5.0, clean, 0.0)
    expected = quick().fit(noisy, clean)
    for X, y in ((sparse.csr_array(noisy), sparse.csr_matrix(clean)), (noisy, sparse.csc_array(clean))):
        model = quick().fit(X, y)
        assert equal(model, expected, noisy)
        assert model.score(X, y) == expected.score(noisy, clean)


# -- images, likelihoods, constant columns ----------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [None, Conv((4,)), MLP()], ids=str)
def test_images(encoder):
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(20, 1, 4, 6))
    noisy = clean + rng.normal(size=(20, 1, 1, 1))
    model = quick(encoder=encoder, linear_path="auto", max_epochs=2).fit(noisy, clean)
    assert model.module_.has_clean_targets
    assert model.denoise(noisy).shape == clean.shape
    flat = quick(encoder=encoder, linear_path="auto", max_epochs=2, image_shape=(1, 4, 6))
    flat.fit(noisy.reshape(20, -1), clean.reshape(20, -1))
    np.testing.assert_array_equal(flat.denoise(noisy.reshape(20, -1)).reshape(clean.shape), model.denoise(noisy))
    mixed = quick(encoder=encoder, linear_path="auto", max_epochs=2).fit(noisy, clean=clean.reshape(20, -1))
    assert equal(mixed, model, noisy)
    assert model.score(noisy, clean) == model.score(noisy, clean=clean.reshape(20, -1))
    ignored = quick(encoder=encoder, linear_path="auto", max_epochs=2).fit(noisy, clean.reshape(20, -1))
    assert not ignored.module_.has_clean_targets
    with pytest.raises(ValueError, match=r"must have the shape \(20, 1, 4, 6\) or \(20, 24\)"):
        model.fit(noisy, clean=clean[:, :, :3])


@pytest.mark.parametrize("likelihood", [Bernoulli(), Poisson()], ids=str)
def test_noisy_rows_may_be_out_of_the_range_of_clean_ones(likelihood):
    rng = np.random.default_rng(0)
    clean = rng.integers(2, size=(N_ROWS, 4)).astype(float)
    noisy = clean + rng.normal(size=clean.shape)
    model = quick(likelihood=likelihood, max_epochs=60).fit(noisy, clean)
    assert model.denoise(noisy).min() >= 0.0
    assert model.score(noisy, clean) > model.score(noisy, 1.0 - clean) + 0.5
    with pytest.raises(ValueError, match=r"(in \[0, 1\]|counts|0)"):
        model.score(noisy, noisy)
    with pytest.raises(ValueError, match=r"(in \[0, 1\]|counts|0)"):
        model.fit(clean, noisy)


def test_columns_that_are_constant_in_one_table(noisy, clean):
    noisy, clean = noisy.copy(), clean.copy()
    noisy[:, 0] = 3.0  # says nothing
    clean[:, 1] = 2.0  # is known, and its noisy column may still tell something of the others
    for model in (linear(2), quick(), quick(corruption="masking"), quick(corruption="dropout")):
        denoised = model.fit(noisy, clean).denoise(noisy)
        np.testing.assert_array_equal(denoised[:, 1], 2.0)
        assert np.isfinite(denoised).all()
        assert np.isfinite(model.score(noisy, clean))
        changed = noisy.copy()
        changed[:, 0] = 1e6  # which the encoder knows nothing about
        np.testing.assert_array_equal(model.denoise(changed), denoised)
        changed[:, 1] += 30.0
        assert not np.allclose(model.denoise(changed), denoised)
    np.testing.assert_allclose(
        linear(4).fit(noisy, clean).denoise(noisy)[:, 0],
        reduced_rank(noisy[:, 1:], clean[:, [0, 2, 3, 4]], 4)(noisy[:, 1:])[:, 0],
        atol=1e-3,
    )


def test_far_noisy_rows_are_read_as_well(noisy, clean):
    expected = quick().fit(noisy, clean).denoise(noisy)
    assert np.isfinite(quick().fit(noisy * 1e100, clean).denoise(noisy * 1e100)).all()
    with pytest.raises(ValueError, match=r"The spread of column\(s\) \[2\] of X is too large"):
        quick().fit(noisy * np.array([1.0, 1.0, 1e200, 1.0, 1.0]), clean)
    with pytest.raises(ValueError, match=r"The spread of column\(s\) \[2\] of the clean rows is too large"):
        quick().fit(noisy, clean * np.array([1.0, 1.0, 1e200, 1.0, 1.0]))
    far = clean + 1e9 * np.arange(5)  # far from zero by their own spread, and from the clean rows by theirs
    np.testing.assert_allclose(linear(4).fit(far, clean).denoise(far), clean, atol=0.3)
    np.testing.assert_allclose(quick().fit(noisy * 1e-9, clean).denoise(noisy * 1e-9), expected, atol=1e-2)


# -- missing entries and weights --------------------------------------------------------------------------------------


def with_gaps(values, seed, rate=0.15):
    gone = np.random.default_rng(seed).uniform(size=values.shape) < rate
    gone[gone.all(axis=1), 0] = False
    return np.where(gone, np.nan, values)


@pytest.mark.parametrize("where", ["noisy", "clean", "both"])
@pytest.mark.parametrize("linear_path", [LinearPath(np.inf), LinearPath(1.0), None], ids=str)
def test_missing_entries(noisy, clean, where, linear_path):
    X = noisy if where == "clean" else with_gaps(noisy, 0)
    y = clean if where == "noisy" else with_gaps(clean, 1)
    model = quick(missing_values=np.nan, linear_path=linear_path, corruption_scale=0.1).fit(X, y)
    assert np.isfinite(model.denoise(X)).all()
    assert np.isfinite(model.score(X, y))
    # What is missing in clean rows counts for nothing, whatever it is.
    log_density = stats.norm.logpdf(y, model.denoise(X), model.noise_scale_)
    assert model.score(X, y) == pytest.approx(np.nansum(log_density, axis=1).mean(), abs=1e-3)
    numbers = quick(missing_values=-9.0, linear_path=linear_path, corruption_scale=0.1)
    assert equal(numbers.fit(np.nan_to_num(X, nan=-9.0), np.nan_to_num(y, nan=-9.0)), model, np.nan_to_num(noisy, nan=-9.0))
    if where != "clean" and linear_path is not None:
        guess = np.mean((model.denoise(X) - clean) ** 2)
        assert guess < np.mean((clean - clean.mean(0)) ** 2)


def test_rows_that_are_empty_in_a_table_are_left_out(noisy, clean):
    X, y = noisy.copy(), clean.copy()
    X[3], y[7], y[9, 2] = np.nan, np.nan, np.nan
    kept = np.setdiff1d(np.arange(N_ROWS), [3, 5, 7])
    weight = np.where(np.arange(N_ROWS) == 5, 0.0, np.where(np.arange(N_ROWS) == 7, 3.0, 1.0))
    model = quick(missing_values=np.nan).fit(X, y, sample_weight=weight)
    assert equal(model, quick(missing_values=np.nan).fit(X[kept], y[kept]), noisy)
    weight = np.where(np.arange(N_ROWS) == 5, 0.0, 1.0 + np.arange(N_ROWS) % 2)
    model = quick(missing_values=np.nan).fit(X, y, sample_weight=weight)
    other = quick(missing_values=np.nan).fit(X[kept], y[kept], sample_weight=weight[kept])
    np.testing.assert_allclose(model.denoise(noisy), other.denoise(noisy), rtol=1e-5)
    with pytest.raises(ValueError, match=r"clean has 0 row\(s\) with an entry that is not missing"):
        quick(missing_values=np.nan).fit(noisy, clean=np.full_like(clean, np.nan))
    y[:, 4] = np.nan
    with pytest.raises(ValueError, match=r"Column\(s\) \[4\] of the clean rows have no entry"):
        quick(missing_values=np.nan).fit(noisy, y)
    masked = np.ma.masked_invalid(with_gaps(clean, 1))
    assert equal(
        quick(missing_values=np.nan).fit(noisy, masked), quick(missing_values=np.nan).fit(noisy, with_gaps(clean, 1)), noisy
    )
    with pytest.raises(ValueError, match="clean contains masked entries"):
        quick().fit(noisy, clean=masked)


def test_weights(noisy, clean):
    weight = 1 + np.arange(N_ROWS) % 3
    model, repeated = linear().fit(noisy, clean, sample_weight=weight), linear()
    repeated.fit(np.repeat(noisy, weight, axis=0), np.repeat(clean, weight, axis=0))
    np.testing.assert_allclose(model.denoise(noisy), repeated.denoise(noisy), rtol=1e-4)
    np.testing.assert_allclose(model.noise_scale_, repeated.noise_scale_, rtol=1e-4)
    dropped = np.where(np.arange(N_ROWS) < 40, weight, 0)
    assert equal(
        quick().fit(noisy, clean, sample_weight=dropped), quick().fit(noisy[:40], clean[:40], sample_weight=weight[:40]), noisy
    )


# -- ways of training -------------------------------------------------------------------------------------------------


def test_early_stopping_looks_at_clean_rows(noisy, clean):
    stopping = EarlyStopping(0.3, n_iter_no_change=1, tol=1e9)
    model = quick(early_stopping=stopping, max_epochs=50).fit(noisy, clean)
    assert model.n_iter_ == 2
    other = quick(early_stopping=stopping, max_epochs=50).fit(noisy, clean[::-1])
    assert other.history_["valid_loss"][0] > model.history_["valid_loss"][0]


def test_partial_fit_and_warm_start(noisy, clean):
    model = quick().partial_fit(noisy[:30], clean[:30]).partial_fit(noisy[30:], clean=clean[30:])
    assert model._progress.n_rows == N_ROWS
    assert model.score(noisy, clean) > model.score(noisy, clean[::-1])
    again = quick(warm_start=True, corruption_scale=0.0, linear_path=None, max_epochs=20).fit(noisy, clean)
    loss = again.loss_curve_[-1]
    assert again.fit(noisy, clean).loss_curve_[-1] < loss
    for fitted, args, message in (
        (model, (noisy,), "was fitted with clean rows, and cannot go on without"),
        (model, (noisy, np.arange(N_ROWS)), "was fitted with clean rows, and cannot go on without"),
        (quick().partial_fit(noisy), (noisy, clean), "was fitted without clean rows, and cannot go on with"),
    ):
        with pytest.raises(ValueError, match=message):
            fitted.partial_fit(*args)
    with pytest.raises(ValueError, match="was fitted with clean rows"):
        again.fit(noisy)
    assert not again.set_params(warm_start=False).fit(noisy).module_.has_clean_targets


def test_pretraining(noisy, clean):
    model = quick(pretraining_epochs=2, linear_path="auto", hidden_layer_sizes=(8, 4)).fit(noisy, clean)
    assert [len(loss) for loss in model.pretraining_loss_] == [2, 2, 2]
    assert not np.array_equal(model.pretraining_loss_[0], clone(model).fit(noisy, clean[::-1]).pretraining_loss_[0])


@pytest.mark.parametrize(
    "params", [{}, {"decoder": "tied"}, {"likelihood": "laplace"}, {"linear_path": LinearPath(np.inf)}], ids=str
)
def test_models_are_kept_and_copied(noisy, clean, params):
    model = quick(**params).fit(noisy, clean)
    again = pickle.loads(pickle.dumps(model))
    assert equal(model, again, noisy)
    assert model.score(noisy, clean) == again.score(noisy, clean)
    again.partial_fit(noisy, clean)
    assert equal(clone(model).fit(noisy, clean), model, noisy)
    for method in ("score_anomaly", "explain_anomaly", "effective_sample_size"):
        assert np.isfinite(getattr(model, method)(noisy)).all()


def test_large_tables_are_read_block_by_block(noisy, clean, monkeypatch):
    monkeypatch.setattr("skvae.training.loader.RESIDENT_BYTES", 8 * noisy.size - 1)
    lean = quick(batch_size=16).fit(noisy, clean)
    monkeypatch.undo()
    assert equal(lean, quick(batch_size=16).fit(noisy, clean), noisy)


# -- pipelines and searches -------------------------------------------------------------------------------------------


def test_pipelines_pass_clean_rows_as_they_are(noisy, clean, routed):
    """Earlier steps transform X alone."""
    scaled = StandardScaler().fit_transform(noisy)
    expected = quick().fit(scaled, clean)
    pipeline = make_pipeline(StandardScaler(), quick()).fit(noisy, clean=clean)
    assert equal(pipeline[-1], expected, scaled)
    assert pipeline.score(noisy, clean=clean) == expected.score(scaled, clean)
    assert make_pipeline(StandardScaler(), quick()).fit(noisy, clean).score(noisy, clean) == expected.score(scaled, clean)
    with pytest.raises(TypeError, match="clean"):
        make_pipeline(StandardScaler(), quick().set_fit_request(clean=False)).fit(noisy, clean=clean)
    renamed = quick().set_fit_request(clean="truth").set_score_request(clean="truth").set_partial_fit_request(clean="truth")
    assert equal(make_pipeline(StandardScaler(), renamed).fit(noisy, truth=clean)[-1], expected, scaled)


def test_searches(noisy, clean, routed):
    wide = np.hstack([noisy, noisy])  # so that y is none of the shape of X, but clean rows are routed
    pipeline = make_pipeline(FunctionTransformer(lambda X: X[:, :N_COLUMNS]), quick())
    grid = {"denoisingae__n_components": [1, 2]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(wide, clean=clean)
    train, test = next(KFold(3).split(noisy))
    one = quick(n_components=1).fit(noisy[train], clean[train])
    assert search.cv_results_["split0_test_score"][0] == pytest.approx(one.score(noisy[test], clean[test]))
    scores = cross_validate(quick(n_components=1), noisy, params={"clean": clean}, cv=3, error_score="raise")
    assert scores["test_score"][0] == search.cv_results_["split0_test_score"][0]


def test_searches_with_y(noisy, clean):
    search = GridSearchCV(quick(), {"n_components": [1, 2]}, cv=3, error_score="raise").fit(noisy, clean)
    train, test = next(KFold(3).split(noisy))
    one = quick(n_components=1).fit(noisy[train], clean[train])
    assert search.cv_results_["split0_test_score"][0] == one.score(noisy[test], clean[test])
    assert search.best_estimator_.module_.has_clean_targets
    pipeline = make_pipeline(StandardScaler(), quick()).fit(noisy, denoisingae__clean=clean)
    assert pipeline[-1].module_.has_clean_targets
