"""The conditional variational autoencoder: what it promises, against exact models where there are any."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import crossed, slow
from scipy import stats
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import distributions

from skvae import CVAE, Conv, VAETransformer, inference
from skvae.data import Table

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The code of CVAE has collapsed"),  # of short fits
]


@pytest.fixture
def y():
    return np.arange(80) % 3


def quick(**params):
    return CVAE(n_components=2, hidden_layer_sizes=(8,), max_epochs=3, random_state=0).set_params(**params)


# -- exact models -----------------------------------------------------------------------------------------------------


class Exact:
    """The distributions of a fitted model without hidden layers, in the units of the data."""

    def __init__(self, model):
        self.model, n_components = model, model.n_components_
        weight, bias = (parameter.detach().double().numpy() for parameter in model.module_.decoder[0].parameters())
        likelihood = model.module_.likelihood
        self.loading = likelihood.units.scale[:, np.newaxis] * weight[:, :n_components]
        self.offset = likelihood.units.scale[:, np.newaxis] * weight[:, n_components:]
        self.bias = likelihood.units.constant + likelihood.units.scale * bias

    def moments(self, label):
        """Mean and covariance of rows of a label."""
        condition = self.model._conditions.encode(label, 1)
        with torch.no_grad():
            mean, log_var = (
                part[0].double().numpy() for part in self.model.module_.prior.moments(1, torch.from_numpy(condition))
            )
        noise = np.diag(self.model.noise_scale_**2)
        covariance = self.loading @ np.diag(np.exp(log_var)) @ self.loading.T + noise
        return self.bias + self.offset @ condition[0] + self.loading @ mean, covariance

    def log_prob(self, X, labels):
        return np.array([stats.multivariate_normal(*self.moments(label)).logpdf(x) for x, label in zip(X, labels, strict=True)])

    def missing(self, x, mask, label):
        """Mean and covariance of masked entries, given the others."""
        mean, covariance = self.moments(label)
        gain = covariance[mask][:, ~mask] @ np.linalg.inv(covariance[~mask][:, ~mask])
        return mean[mask] + gain @ (x - mean)[~mask], covariance[mask][:, mask] - gain @ covariance[~mask][:, mask]


def shifted_factors(n_rows=600, seed=0):
    """Rows of two factors around a mean of each label, in different units; labels are unequally frequent."""
    rng = np.random.default_rng(seed)
    y = rng.choice(["a", "b", "c"], size=n_rows, p=[0.5, 0.3, 0.2])
    mean = 2.0 * np.random.default_rng(7).normal(size=(3, 6))[np.searchsorted(["a", "b", "c"], y)]
    loading = np.random.default_rng(8).normal(size=(2, 6))
    return (rng.normal(size=(n_rows, 2)) @ loading + mean + 0.5 * rng.normal(size=(n_rows, 6))) * [1, 10, 0.1, 5, 1, 2] + 3, y


LINEAR = [
    {},
    {"prior": "conditional"},
    {"encode_condition": True},
    {"prior": "conditional", "encode_condition": True},
    {"prior": "conditional", "encode_condition": True, "linear_path": None},
]


@pytest.fixture(scope="module", params=[LINEAR[0], *slow(*LINEAR[1:3]), LINEAR[3], *slow(LINEAR[4])], ids=str)
def linear(request):
    X, y = shifted_factors()
    model = CVAE(2, hidden_layer_sizes=(), max_epochs=200, learning_rate=0.02, random_state=0, **request.param).fit(X, y)
    return model, Exact(model), *shifted_factors(200, seed=1)


def test_score_is_below_the_exact_likelihood_and_close_to_it(linear):
    model, exact, X, y = linear
    gaps = [clone_with(model, n_score_draws=n).score(X, y) - exact.log_prob(X, y).mean() for n in (1, 16, 1024)]
    assert gaps[0] < gaps[1] < gaps[2] + 0.01
    assert -0.1 < gaps[2] < 0.02


def clone_with(model, **params):
    return copy.copy(model).set_params(**params)


def test_it_finds_a_model_of_the_data(linear):
    """In nats, within sight of the likelihood of the factor model with a mean for each label."""
    _, exact, X, y = linear
    train, labels = shifted_factors()
    pooled = np.mean([np.cov(train[labels == label].T) * np.mean(labels == label) for label in "abc"], axis=0) * 3
    full = np.mean(
        [stats.multivariate_normal(train[labels == label].mean(0), pooled).logpdf(X[y == label]).mean() for label in y]
    )
    assert exact.log_prob(X, y).mean() > np.mean(full) - 1.0


def test_score_without_labels_sums_them_out(linear):
    model, _, X, _ = linear
    share = np.array([np.mean(shifted_factors()[1] == label) for label in "abc"])
    by_label = np.stack([model.score_samples(X, label) for label in "abc"], axis=1)
    np.testing.assert_array_equal(model.log_likelihoods(X), by_label)
    np.testing.assert_allclose(model.score_samples(X), logsumexp(np.log(share) + by_label, axis=1), rtol=1e-10)
    weights = [weights_of(model, X, label) + np.log(share[i]) for i, label in enumerate("abc")]
    for given, log_weight in ((None, np.concatenate(weights, axis=1)), ("b", weights[1])):
        expected = np.exp(2.0 * logsumexp(log_weight, axis=1) - logsumexp(2.0 * log_weight, axis=1))
        np.testing.assert_allclose(model.effective_sample_size(X, given), expected, rtol=1e-6)


def weights_of(model, X, label):
    """Log importance weights ``(n_samples, n_score_draws)``."""
    condition = model._conditions.encode(label, len(X))
    table = Table.of(X, condition=condition)
    return inference.log_weights(model.module_, table, torch.device("cpu"), model.n_score_draws, None, lambda w: w)


def test_samples_have_the_exact_moments(linear):
    model, exact, _, _ = linear
    for label in "ab":
        drawn, (mean, covariance) = model.sample(8000, label), exact.moments(label)
        std = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((drawn.mean(0) - mean) / std, 0.0, atol=0.05)
        np.testing.assert_allclose(np.cov(drawn.T) / np.outer(std, std), covariance / np.outer(std, std), atol=0.06)
    center = model.sample(8000, "a", mean=True)
    np.testing.assert_allclose(
        np.cov(center.T) + np.diag(model.noise_scale_**2), exact.moments("a")[1], rtol=0.1, atol=0.02 * std.max() ** 2
    )


def test_kl_is_that_from_the_prior_of_the_label(linear):
    model, _, _, _ = linear
    X, y = shifted_factors()
    mean, std = model.posterior(X, y)
    condition = torch.from_numpy(model._conditions.encode(y, len(y)))
    with torch.no_grad():
        prior_mean, prior_log_var = model.module_.prior.moments(len(y), condition)
    prior = distributions.Normal(prior_mean, torch.exp(0.5 * prior_log_var))
    kl = distributions.kl_divergence(distributions.Normal(torch.from_numpy(mean).float(), torch.from_numpy(std).float()), prior)
    np.testing.assert_allclose(model.kl_per_component_, kl.mean(0), rtol=1e-4)
    if model.prior == "conditional" and (model.linear_path is None or not model.encode_condition):
        assert prior_mean.std(0).max() > 0.1  # beside a linear path, an encoder that reads the label leaves nothing to it


def test_inpainting_agrees_with_the_exact_conditional(linear):
    model, exact, X, y = linear
    mask = np.random.default_rng(3).random(X.shape) < 0.4
    filled, drawn = model.inpaint(X, mask, y), model.draw_inpaintings(X, mask, y, 64)
    errors, ratios, drawn_errors = [], [], []
    for i in range(len(X)):
        if mask[i].any():
            mean, covariance = exact.missing(X[i], mask[i], y[i])
            std = np.sqrt(np.diag(covariance))
            errors.extend((filled[i, mask[i]] - mean) / std)
            drawn_errors.extend((drawn[i][:, mask[i]].mean(0) - mean) / std)
            ratios.extend(drawn[i][:, mask[i]].var(0, ddof=1) / std**2)
    assert np.abs(errors).max() < 1.0
    assert np.sqrt(np.mean(np.square(errors))) < 0.2
    assert np.std(drawn_errors) == pytest.approx(1 / 8, rel=0.15)
    assert np.mean(drawn_errors) == pytest.approx(0.0, abs=0.05)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)


def test_rows_of_which_nothing_is_observed_are_samples(linear):
    model, exact, X, _ = linear
    mean, covariance = exact.moments("b")
    drawn = model.draw_inpaintings(X[:1], np.ones(6, dtype=bool), "b", 3000)[0]
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((drawn.mean(0) - mean) / std, 0.0, atol=0.08)
    np.testing.assert_allclose(np.cov(drawn.T) / np.outer(std, std), covariance / np.outer(std, std), atol=0.1)
    assert all(stats.ks_2samp(drawn[:, j], model.sample(3000, "b")[:, j]).pvalue > 1e-4 for j in range(6))
    blank = model.inpaint(X[:1], np.ones(6, dtype=bool), "b")[0]
    np.testing.assert_allclose((blank - mean) / std, 0.0, atol=0.6)


# -- what labels are worth --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
    return CVAE(random_state=0).fit(X, y), X, X_test, y, y_test


@pytest.mark.slow
def test_digits(digits):
    model, X, X_test, y, y_test = digits
    reader = LogisticRegression(max_iter=2000).fit(X / 16.0, y)
    drawn, labels = model.sample(2000, return_y=True)
    assert np.mean(reader.predict(drawn / 16.0) == labels) >= 0.90
    found = {}
    for estimator in (model, VAETransformer(random_state=0).fit(X)):
        codes = estimator.transform(X)
        found[type(estimator)] = LogisticRegression(max_iter=2000).fit(codes, y).score(estimator.transform(X_test), y_test)
    assert found[CVAE] <= found[VAETransformer] - 0.30
    assert np.mean(model.log_likelihoods(X_test).argmax(1) == y_test) > 0.95
    assert model.score(X_test, y_test) > model.score(X_test) > model.score(X_test, np.roll(y_test, 1))


@pytest.mark.slow
def test_inpainting_of_digits(digits):
    model, X, X_test, _, y_test = digits
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 2:6] = True
    mask = mask.ravel()
    filled = model.inpaint(X_test, mask, y_test)
    np.testing.assert_array_equal(filled[:, ~mask], X_test[:, ~mask])

    def error(rows):
        return np.mean((rows - X_test)[:, mask] ** 2)

    holed = np.where(mask, np.nan, X_test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        imputed = IterativeImputer(max_iter=2, random_state=0).fit_transform(np.concatenate([X, holed]))[len(X) :]
    assert error(filled) < 0.8 * error(imputed)
    assert error(filled) < 0.5 * error(np.broadcast_to(X.mean(0), X_test.shape))
    # Draws are off by not much more than two of them differ, which they would be of rows of the model itself.
    drawn = model.draw_inpaintings(X_test, mask, y_test, 2)
    assert error(drawn[:, 0]) == pytest.approx(np.mean((drawn[:, 0] - drawn[:, 1])[:, mask] ** 2), rel=0.5)


@pytest.mark.slow
def test_a_search_over_labels_prefers_what_they_explain():
    X, y = load_wine(return_X_y=True)
    rng = np.random.default_rng(0)
    scores = [CVAE(random_state=0).fit(X[::2], labels[::2]).score(X[1::2], labels[1::2]) for labels in (y, rng.permutation(y))]
    assert scores[0] > scores[1] + 1.0


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_sampling(X, y):
    model = quick(max_epochs=20).fit(X, y)
    assert model.sample().shape == (1, 5)
    assert model.sample(y=2).shape == (1, 5)
    assert model.sample(y=[0, 2, 1]).shape == model.sample(3, [0, 2, 1]).shape == model.sample(3, 1).shape == (3, 5)
    np.testing.assert_array_equal(model.sample(4), model.sample(4))
    np.testing.assert_array_equal(model.sample(4, random_state=3), model.sample(4, random_state=3))
    assert not np.array_equal(model.sample(4, random_state=3), model.sample(4, random_state=4))
    assert not np.array_equal(model.sample(4), model.sample(4, mean=True))
    np.testing.assert_array_equal(model.sample(3, 1), model.sample(3, [1, 1, 1]))
    assert not np.array_equal(model.sample(3, 1), model.sample(3, 2))
    for given in (1, [1, 0, 2]):
        drawn, labels = model.sample(3, given, return_y=True)
        np.testing.assert_array_equal(labels, np.broadcast_to(given, 3))
        np.testing.assert_array_equal(drawn, model.sample(3, given))
    drawn, labels = model.sample(3, return_y=True)
    np.testing.assert_array_equal(drawn, model.sample(3))
    np.testing.assert_array_equal(drawn, model.sample(y=labels))
    mean = model.sample(3, 1, mean=True, random_state=0)
    np.testing.assert_allclose(
        np.mean([model.sample(3, 1, random_state=0) - mean], axis=0), 0.0, atol=6 * model.noise_scale_.max()
    )


def test_labels_are_drawn_in_their_proportions(X, y):
    y = np.where(y == 2, 1, y)
    _, labels = quick().fit(X, y).sample(4000, return_y=True)
    assert np.mean(labels) == pytest.approx(np.mean(y), abs=0.03)
    weight = np.where(y == 1, 1.0, 5.0)
    _, labels = quick().fit(X, y, sample_weight=weight).sample(4000, return_y=True)
    assert np.mean(labels) == pytest.approx(np.average(y, weights=weight), abs=0.03)
    left_out = quick().fit(X, y, sample_weight=(y == 1).astype(float))
    assert left_out.classes_.tolist() == [1]
    assert set(left_out.sample(50, return_y=True)[1]) == {1}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0,), "n_samples=0"),
        ((1.5,), "n_samples"),
        (("a",), "n_samples='a'"),
        ((3, [0, 1]), r"2 entries for 3 row"),
        ((2, 9), "not seen"),
    ],
    ids=str,
)
def test_samples_that_cannot_be_drawn(X, y, args, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X, y).sample(*args)


# -- style and label --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode_condition", [False, True])
def test_style_transfer(X, y, encode_condition):
    model = quick(encode_condition=encode_condition, max_epochs=20).fit(X, y)
    own = {"condition": y} if encode_condition else {}
    np.testing.assert_array_equal(model.style_transfer(X, y, **own), model.reconstruct(X, y))
    codes = model.transform(X, **own)
    np.testing.assert_array_equal(model.style_transfer(X, 1, **own), model.inverse_transform(codes, 1))
    other = np.roll(y, 1)
    np.testing.assert_array_equal(model.style_transfer(X, other, **own), model.inverse_transform(codes, other))
    assert not np.allclose(model.style_transfer(X, other, **own), model.reconstruct(X, y))
    with pytest.raises(TypeError):
        model.style_transfer(X)


@pytest.mark.parametrize("encode_condition", [False, True])
@pytest.mark.parametrize("method", ["linear", "spherical"])
def test_interpolation(X, y, method, encode_condition):
    model = quick(encode_condition=encode_condition, max_epochs=20).fit(X, y)
    start, end = X[:4], X[4:8]
    walk = model.interpolate(start, end, y[:4], y[4:8], 5, method=method)
    assert walk.shape == (4, 5, 5)
    np.testing.assert_allclose(walk[:, 0], model.reconstruct(start, y[:4]), rtol=1e-5)
    np.testing.assert_allclose(walk[:, -1], model.reconstruct(end, y[4:8]), rtol=1e-5)
    same_label = model.interpolate(start, end, 1, n_steps=3, method=method)
    np.testing.assert_allclose(same_label[:, 0], model.reconstruct(start, 1), rtol=1e-5)
    np.testing.assert_allclose(same_label[:, -1], model.reconstruct(end, 1), rtol=1e-5)
    if method == "linear" and not encode_condition:
        middle = (model.transform(start) + model.transform(end)) / 2
        np.testing.assert_allclose(same_label[:, 1], model.inverse_transform(middle, 1), rtol=1e-5)
        same_style = model.interpolate(start, start, 0, 2, 3)
        np.testing.assert_allclose(same_style[:, 0], model.style_transfer(start, 0), rtol=1e-5)
        np.testing.assert_allclose(same_style[:, -1], model.style_transfer(start, 2), rtol=1e-5)
        assert not np.allclose(same_style[:, 1], same_style[:, 0])


def test_labels_in_shares():
    X, y = shifted_factors()
    model = CVAE(2, hidden_layer_sizes=(), max_epochs=20, random_state=0).fit(X, y)
    walk = model.interpolate(X[:3], X[:3], "a", "b", 3)
    np.testing.assert_allclose(walk[:, 1], (walk[:, 0] + walk[:, 2]) / 2, rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="in pairs"):
        model.interpolate(X[:3], X[:2], "a")


# -- inpainting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_observed_entries_come_back_bit_for_bit(X, y, dtype):
    X = X.astype(dtype)
    X[:, 0] = dtype(0.1) + np.arange(80, dtype=dtype) * 1e5
    model = quick().fit(X, y)
    mask = np.random.default_rng(0).random(X.shape) < 0.5
    mask[0], mask[1] = True, False
    for filled in (model.inpaint(X, mask, y), *model.draw_inpaintings(X, mask, y, 3).swapaxes(0, 1)):
        assert filled.dtype == dtype
        np.testing.assert_array_equal(filled[~mask], X[~mask])
        assert np.isfinite(filled).all()
        assert (filled != X)[mask].mean() > 0.99
    np.testing.assert_array_equal(model.inpaint(X, np.zeros_like(mask), y), X)


def test_what_is_under_the_mask_is_not_looked_at(X, y):
    model = quick().fit(X, y)
    mask = np.random.default_rng(0).random(X.shape) < 0.3
    expected = model.inpaint(X, mask, y)
    for nothing in (np.nan, np.inf, 0.0, 1e30):
        np.testing.assert_array_equal(model.inpaint(np.where(mask, nothing, X), mask, y), expected)
    np.testing.assert_array_equal(model.inpaint(np.where(mask, None, X.astype(object)), mask, y), expected)
    holed = pd.DataFrame(np.where(mask, np.nan, X))
    np.testing.assert_array_equal(model.inpaint(holed, holed.isna(), y), expected)
    np.testing.assert_array_equal(model.inpaint(X.tolist(), mask.tolist(), y.tolist()), expected)
    np.testing.assert_array_equal(model.inpaint(X, mask.astype(int), y), expected)
    with pytest.raises(ValueError, match="NaN"):
        model.inpaint(np.where(mask, np.nan, X), np.zeros_like(mask), y)
    shifted = X.copy()
    shifted[~mask] += 1.0
    assert (model.inpaint(shifted, mask, y) != expected).any(axis=1).all()


def test_frames_are_checked_by_name(X, y):
    frame = pd.DataFrame(X, columns=list("abcde")).assign(e=np.arange(80))
    model = quick().fit(frame, y)
    mask = np.array([True, False, False, False, True])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled = model.inpaint(frame, mask, y)
    np.testing.assert_array_equal(filled[:, ~mask], frame.to_numpy()[:, ~mask])
    with pytest.raises(ValueError, match=r"[Ff]eature names"):
        model.inpaint(frame[list("edcba")], mask, y)


def test_one_mask_for_all_rows(X, y):
    model = quick().fit(X, y)
    mask = np.array([True, False, True, False, False])
    np.testing.assert_array_equal(model.inpaint(X, mask, y), model.inpaint(X, np.tile(mask, (80, 1)), y))
    np.testing.assert_array_equal(model.inpaint(X[:5], mask, 1), model.inpaint(X[:5], np.tile(mask, (5, 1)), [1] * 5))
    assert model.draw_inpaintings(X, mask, y, 4).shape == (80, 4, 5)
    np.testing.assert_array_equal(model.inpaint(X, mask, y), model.inpaint(X, mask, y))
    np.testing.assert_array_equal(model.inpaint(X, mask, y, random_state=1), model.inpaint(X, mask, y, random_state=1))
    assert not np.array_equal(model.inpaint(X, mask, y, random_state=1), model.inpaint(X, mask, y, random_state=2))
    assert not np.array_equal(model.inpaint(X, mask, 0), model.inpaint(X, mask, 1))


@pytest.mark.filterwarnings("ignore:The code of CVAE has collapsed")
def test_masks_of_images_leave_out_the_columns_that_are_conditions():
    X, y = load_digits(return_X_y=True)
    rows = np.insert(X[:50], 3, y[:50], axis=1)
    model = quick(image_shape=(1, 8, 8), encoder=Conv(channels=(3,)), condition_columns=[3], max_epochs=1).fit(rows)
    image = np.arange(64).reshape(8, 8) < 20
    flat = np.insert(image.ravel(), 3, False)
    expected = model.inpaint(rows[:3], flat), model.draw_inpaintings(rows[:3], flat, n_draws=2)
    np.testing.assert_array_equal(expected[0][:, ~flat], rows[:3, ~flat])
    assert (expected[0] != rows[:3]).any()
    for mask in (image, image[np.newaxis], np.broadcast_to(image, (3, 1, 8, 8))):
        np.testing.assert_array_equal(model.inpaint(rows[:3], mask), expected[0])
        np.testing.assert_array_equal(model.draw_inpaintings(rows[:3], mask, n_draws=2), expected[1])
    with pytest.raises(ValueError, match=r"\(3, 65\) or \(65,\) or \(3, 1, 8, 8\) or \(1, 8, 8\) or \(8, 8\)"):
        model.inpaint(rows[:3], np.zeros((3, 8, 8), dtype=bool))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((7, 5), dtype=bool), r"mask has shape \(7, 5\); it must have the shape \(80, 5\) or \(5,\)"),
        (True, r"mask has shape \(\)"),
        ([0, 1], r"mask has shape \(2,\)"),
        (np.ones(5), "mask must be True or False for every entry, but is of type float64"),
        (np.arange(5), "has entries from 0 to 4"),
        (["a"] * 5, "is of type <U1"),
    ],
    ids=str,
)
def test_masks_that_do_not_fit(X, y, mask, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X, y).inpaint(X, mask, y)


def test_rows_that_do_not_fit_a_mask(X, y):
    model, mask = quick().fit(X, y), np.ones(5, dtype=bool)
    with pytest.raises(ValueError, match="X has 3 features, but CVAE is expecting 5"):
        model.inpaint(X[:, :3], mask, y)
    with pytest.raises(ValueError, match="Expected 2D array"):
        model.inpaint(X[0], mask, 1)
    with pytest.raises(ValueError, match="cannot be converted to numbers"):
        model.inpaint(np.full((2, 5), "a"), mask, 1)
    for n in (0, -1, 1.5):
        with pytest.raises(ValueError, match="n_draws"):
            model.draw_inpaintings(X, mask, y, n)


@pytest.mark.parametrize("likelihood", ["laplace", "bernoulli"])
def test_inpainting_under_other_likelihoods(X, y, likelihood):
    X = (X > X.mean(0)).astype(float) if likelihood == "bernoulli" else X
    model = quick(likelihood=likelihood, max_epochs=20).fit(X, y)
    mask = np.array([True, False, False, True, False])
    filled, drawn = model.inpaint(X, mask, y), model.draw_inpaintings(X, mask, y, 60)
    if likelihood == "bernoulli":
        assert ((filled[:, mask] > 0) & (filled[:, mask] < 1)).all()
        assert set(np.unique(drawn)) == {0.0, 1.0}
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            model.inpaint(X + 5.0, mask, y)
    spread = drawn[:, :, mask].std(1)
    assert np.abs(drawn.mean(1) - filled)[:, mask].mean() < 0.2 * spread.mean()


def test_constant_columns_are_filled_with_their_value(X, y):
    X[:, 2] = 7.5
    model = quick().fit(X, y)
    mask = np.ones(5, dtype=bool)
    np.testing.assert_array_equal(model.inpaint(X, mask, y)[:, 2], 7.5)
    np.testing.assert_array_equal(model.draw_inpaintings(X, mask, y, 2)[..., 2], 7.5)


# -- streams, persistence, failures -----------------------------------------------------------------------------------


def test_partial_fit_with_classes(X, y):
    model = quick().partial_fit(X[:40], np.minimum(y[:40], 1), classes=[0, 1, 2])
    assert model.classes_.tolist() == [0, 1, 2]
    assert set(model.sample(200, return_y=True)[1]) == {0, 1}
    by_label = model.log_likelihoods(X)
    np.testing.assert_allclose(model.score_samples(X), logsumexp(by_label[:, :2] + np.log([14 / 40, 26 / 40]), axis=1))
    model.partial_fit(X[40:], np.full(40, 2), classes=[2, 1, 0])
    assert np.mean(model.sample(2000, return_y=True)[1] == 2) == pytest.approx(0.5, abs=0.05)
    for labels, classes, message in (
        (y + 1, None, "not seen in fit: 3"),
        (y, [0, 1], "are not those of the first call"),
    ):
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X, labels, classes)
    several = quick().partial_fit(X, np.stack([y, y % 2], axis=1), classes=[[0, 1, 2, 3], [0, 1]])
    assert several.n_conditions_ == 6
    with pytest.raises(ValueError, match=r"classes has 1 list\(s\) of labels, but y has 2 columns"):
        quick().partial_fit(X, np.stack([y, y], axis=1), classes=[[0, 1, 2]])
    with pytest.raises(ValueError, match="classes are those of labels, but y is numbers"):
        quick().partial_fit(X, X[:, 0], classes=[0, 1])


def test_warm_start_counts_the_rows_it_is_given(X, y):
    model = quick(warm_start=True).fit(X, y)
    model.fit(X, np.where(np.arange(80) < 60, 0, 1 + np.arange(80) % 2))
    np.testing.assert_allclose(np.exp(model._conditions.combinations()[1]), [0.75, 0.125, 0.125])
    with pytest.raises(ValueError, match="not seen in fit: 7"):
        model.fit(X, np.full(80, 7))
    with pytest.raises(ValueError, match="encode_condition changed"):
        model.set_params(encode_condition=True).fit(X, y)


def outputs(model, X, y):
    mask = np.array([True, False, False, True, False])
    return [
        model.transform(X, condition=y),
        model.reconstruct(X, y),
        model.sample(6),
        model.sample(6, return_y=True)[1],
        model.score_samples(X, y),
        model.score_anomaly(X, y),
        model.explain_anomaly(X, y),
        model.inpaint(X, mask, y),
    ]


CONDITIONS = {
    "labels": lambda X: np.array(list("abc"))[np.arange(len(X)) % 3],
    "numbers": lambda X: np.column_stack([np.arange(len(X)) / 3.0, np.cos(np.arange(len(X)))]),
    "mixed": lambda X: pd.DataFrame({"a": np.arange(len(X)) % 2, "b": np.arange(len(X)) / 7.0}),
}


@pytest.mark.parametrize(("kind", "params"), crossed([*CONDITIONS], LINEAR), ids=str)
def test_pickling(X, kind, params):
    y = CONDITIONS[kind](X)
    model = quick(**params).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    for before, after in zip(outputs(model, X, y), outputs(again, X, y), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(
        again.partial_fit(X, y).transform(X, condition=y), model.partial_fit(X, y).transform(X, condition=y)
    )


def test_a_refit_that_fails_leaves_the_fitted_estimator(X, y):
    model = quick().fit(X, y)
    before, names = outputs(model, X, y), set(vars(model))
    for bad_X, bad_y in ((X, None), (X, y[:5]), (X, np.full(80, np.nan)), (X[:1], y[:1]), (np.full((5, 3), np.nan), y[:5])):
        with pytest.raises(ValueError, match=r"y|NaN|sample"):
            model.fit(bad_X, bad_y)
    model.set_params(learning_rate=1e38, optimizer="sgd", max_epochs=20)
    with pytest.raises(ValueError, match="stopped being finite"):
        model.fit(X[:, :3], X[:, 3:])
    assert set(vars(model)) == names
    assert model.n_features_in_ == 5
    assert model.classes_.tolist() == [0, 1, 2]
    for one, other in zip(before, outputs(model, X, y), strict=True):
        np.testing.assert_array_equal(one, other)
    model.set_params(learning_rate="auto", optimizer="adam", max_epochs=1).fit(X, X[:, :1])
    assert not hasattr(model, "classes_")


# -- scores -----------------------------------------------------------------------------------------------------------


def test_anomaly_scores(X, y):
    model = quick(max_epochs=20).fit(X, y)
    shares = model.explain_anomaly(X, y, method="reconstruction")
    np.testing.assert_allclose(shares, (X - model.reconstruct(X, y)) ** 2 / (2 * model.noise_scale_**2), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(model.score_anomaly(X, y, method="likelihood"), -model.score_samples(X, y))
    np.testing.assert_array_equal(model.score_anomaly(X, method="likelihood"), -model.score_samples(X))
    for method in ("neighbors", "mahalanobis", "reconstruction"):
        scores = model.score_anomaly(X, y, method=method)
        np.testing.assert_allclose(model.explain_anomaly(X, y, method=method).sum(1), scores)
        by_label = np.stack([model.score_anomaly(X, label, method=method) for label in range(3)])
        np.testing.assert_array_equal(model.score_anomaly(X, method=method), by_label.min(0))
        shares = model.explain_anomaly(X, by_label.argmin(0), method=method)
        np.testing.assert_array_equal(model.explain_anomaly(X, method=method), shares)


def test_a_row_with_another_label_is_an_anomaly():
    X, y = shifted_factors()
    model = CVAE(2, hidden_layer_sizes=(), max_epochs=100, random_state=0).fit(X, y)
    wrong = np.array(list("abc"))[(np.searchsorted(["a", "b", "c"], y) + 1) % 3]
    assert np.mean(model.score_anomaly(X, wrong) > model.score_anomaly(X, y)) > 0.95
    assert np.mean(model.score_samples(X, wrong) < model.score_samples(X, y)) > 0.95


def test_score_is_the_weighted_mean(X, y):
    model, weight = quick().fit(X, y), np.arange(80.0)
    assert model.score(X, y, weight) == pytest.approx(np.average(model.score_samples(X, y), weights=weight))
    assert model.score(X, sample_weight=weight) == pytest.approx(np.average(model.score_samples(X), weights=weight))


def test_weights_in_full_batches_decide_on_labels_and_scale(X, y):
    weight = np.where(y == 0, 10.0, 1.0)
    model = quick().fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(np.exp(model._conditions.combinations()[1]), np.bincount(y, weight) / weight.sum())
    np.testing.assert_allclose(model.module_.likelihood.units.constant, np.average(X, axis=0, weights=weight))
    zero = np.where(np.arange(80) < 50, 1.0, 0.0)
    np.testing.assert_array_equal(quick().fit(X, y, sample_weight=zero).transform(X), quick().fit(X[:50], y[:50]).transform(X))
    frame = pd.DataFrame({"label": y}, index=np.arange(80)[::-1])
    np.testing.assert_array_equal(
        quick().fit(X, frame, sample_weight=zero).transform(X), quick().fit(X[:50], y[:50]).transform(X)
    )


@pytest.mark.parametrize(("kind", "params"), crossed([*CONDITIONS], [LINEAR[0], LINEAR[3], {"likelihood": "bernoulli"}]), ids=str)
def test_rows_do_not_depend_on_their_neighbors(X, kind, params):
    X = (X > X.mean(0)).astype(float) if params.get("likelihood") == "bernoulli" else X
    y = np.asarray(CONDITIONS[kind](X), dtype=object if kind == "mixed" else None)
    model = quick(hidden_layer_sizes=(37,), **params).fit(X, y)
    order = np.random.default_rng(0).permutation(80)
    methods = {
        "transform": lambda X, y: model.transform(X, condition=y),
        **{
            name: getattr(model, name)
            for name in ("reconstruct", "score_samples", "score_anomaly", "explain_anomaly", "effective_sample_size")
        },
        **{f"posterior {i}": lambda X, y, i=i: model.posterior(X, y)[i] for i in range(2)},
        **({"marginal": lambda X, y: model.score_samples(X)} if kind == "labels" else {}),
    }
    for name, method in methods.items():
        whole = method(X, y)
        np.testing.assert_array_equal(method(X[order], y[order]), whole[order], err_msg=name)
        np.testing.assert_array_equal(method(X[17:23], y[17:23]), whole[17:23], err_msg=name)
        np.testing.assert_array_equal(method(X[5:6], y[5:6]), whole[5:6], err_msg=name)
    if kind == "labels":
        np.testing.assert_array_equal(model.score_samples(X, "b"), model.score_samples(X, np.full(80, "b")))


def test_early_stopping_takes_conditions_along():
    """Rows held out have their own labels as conditions, without which they would score far worse than the others."""
    X, y = shifted_factors()
    model = CVAE(2, early_stopping=True, max_epochs=60, random_state=0).fit(X, y)
    assert model.history_["valid_loss"][-1] == pytest.approx(model.history_["loss"][-1], abs=1.0)
    assert model.score(X, y) - model.score(X, np.roll(y, 1)) > 4.0


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [LINEAR[0], *slow(*LINEAR[1:])], ids=str)
def test_images(params):
    rng = np.random.default_rng(0)
    images, y = rng.random((16, 1, 6, 6)) + np.arange(16)[:, None, None, None] % 2, np.arange(16) % 2
    model = quick(encoder=Conv(channels=(3,)), **params).fit(images, y)
    assert model.image_shape_ == (1, 6, 6)
    assert model.sample(3, 1).shape == model.sample(3).shape == (3, 1, 6, 6)
    assert model.reconstruct(images, y).shape == model.style_transfer(images, 1, condition=y).shape == images.shape
    assert model.explain_anomaly(images, y).shape == images.shape
    assert model.interpolate(images[:2], images[2:4], 0, 1, 3).shape == (2, 3, 1, 6, 6)
    assert model.inverse_transform(np.zeros((2, 2)), 0).shape == (2, 1, 6, 6)
    square = np.zeros((6, 6), dtype=bool)
    square[2:4, 1:5] = True
    filled = model.inpaint(np.where(square, np.nan, images), square, y)
    np.testing.assert_array_equal(filled[..., ~square], images[..., ~square])
    for mask in (square[np.newaxis], np.broadcast_to(square, images.shape), square.ravel(), np.tile(square.ravel(), (16, 1))):
        np.testing.assert_array_equal(model.inpaint(images, mask, y), filled)
    assert model.draw_inpaintings(images, square, y, 2).shape == (16, 2, 1, 6, 6)
    with pytest.raises(ValueError, match=r"mask has shape \(5, 6\); it must have the shape \(16, 36\) or"):
        model.inpaint(images, square[:5], y)
    np.testing.assert_array_equal(model.transform(images[5:6], condition=y[5:6]), model.transform(images, condition=y)[5:6])
    flat = model.reconstruct(images.reshape(16, -1), y)
    np.testing.assert_array_equal(flat, model.reconstruct(images, y))


# -- every parameter --------------------------------------------------------------------------------------------------

OWN = [
    ({}, {"encode_condition": True}),
    ({}, {"prior": "conditional"}),
    ({}, {"condition_columns": [0]}),
    ({"condition_columns": [0]}, {"condition_columns": [0, 1]}),
    ({}, {"beta": 3.0}),
    ({}, {"kl_warmup": 0.9}),
    ({"linear_path": None}, {"capacity": 1.0}),  # or else the KL begins above it, where its gradient does not depend on it
    ({"capacity": 1.0, "max_epochs": 100}, {"kl_warmup": 1.0}),
    ({}, {"n_draws": 4}),
]


@pytest.mark.parametrize(("base", "changed"), OWN, ids=str)
def test_every_own_parameter_changes_the_result(X, y, base, changed):
    before = quick(**base).fit(X, y)
    after = quick(**base | changed).fit(X, y)
    assert not np.array_equal(after.transform(X, **side_of(after, y)), before.transform(X, **side_of(before, y)))


def side_of(model, y):
    return {"condition": y} if model.condition_columns is None else {}


def test_every_own_parameter_is_tried():
    own = set(CVAE().get_params()) - set(VAETransformer().get_params())
    own |= {"prior", "beta", "kl_warmup", "capacity", "n_draws"}
    assert own == {name for _, changed in OWN for name in changed}


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"prior": "normal"}, "prior"),
        ({"encode_condition": "yes"}, "encode_condition"),
        ({"condition_columns": 3}, "condition_columns"),
        ({"beta": -1.0}, "beta"),
    ],
    ids=str,
)
def test_wrong_parameters(X, y, params, name):
    with pytest.raises(ValueError, match=name):
        quick(**params).fit(X, y)


def test_the_code_carries_what_no_condition_says():
    """Codes of a model that is conditioned on the labels say less about them than those of one that is not."""
    X, y = shifted_factors()
    plain = VAETransformer(2, random_state=0, max_epochs=20).fit(X)
    model = CVAE(2, random_state=0, max_epochs=20).fit(X, y)
    by_label = [np.stack([m.transform(X)[y == label].mean(0) for label in "abc"]).std(0).max() for m in (plain, model)]
    assert by_label[1] < 0.5 * by_label[0]


def test_a_conditional_encoder_and_prior_score_no_worse(linear):
    model, _, X, y = linear
    simple = CVAE(2, hidden_layer_sizes=(), max_epochs=200, learning_rate=0.02, random_state=0).fit(*shifted_factors())
    assert model.score(X, y) > simple.score(X, y) - 0.1


def test_cloning(X, y):
    model = quick(encode_condition=True, prior="conditional", condition_columns=[1]).fit(X)
    again = clone(model)
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.fit(X).transform(X), model.transform(X))
