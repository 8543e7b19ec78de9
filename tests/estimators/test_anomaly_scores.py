"""Anomaly scores by name, for every estimator that scores rows."""

import pickle
import re
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import ALL_ESTIMATORS, labels_for
from scipy import sparse
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skvae
from skvae import CVAE, TDVAE, VQVAE, AutoEncoder, DenoisingAE, VAETransformer
from skvae.inference.anomaly import NeighborDistance, References

pytestmark = pytest.mark.usefixtures("one_core")
METHODS = ("neighbors", "mahalanobis", "reconstruction", "likelihood")


def quick(cls, **params):
    params = {"hidden_layer_sizes": (8,), "max_epochs": 3, "random_state": 0, **params}
    return cls(**params, code_prior="histogram") if cls is VQVAE else cls(**params)


@pytest.fixture(scope="module", params=[cls for cls in ALL_ESTIMATORS if cls is not TDVAE], ids=lambda cls: cls.__name__)
def row_estimator(request):
    return request.param


@pytest.fixture(params=["fit", "stream"])
def fitted(request, row_estimator, X):
    model = quick(row_estimator)
    if request.param == "fit":
        return model.fit(X, *labels_for(row_estimator, X)), labels_for(row_estimator, X)
    for rows in (slice(0, 30), slice(30, 60), slice(60, 80)):
        model.partial_fit(X[rows], *labels_for(row_estimator, X[rows]))
    return model, labels_for(row_estimator, X)


def test_methods_by_name(fitted, X):
    model, given = fitted
    scores = {name: model.score_anomaly(X, *given, method=name) for name in METHODS}
    np.testing.assert_array_equal(model.score_anomaly(X, *given), scores["neighbors"])
    np.testing.assert_array_equal(scores["likelihood"], -model.score_samples(X, *given))
    loaded = pickle.loads(pickle.dumps(model))
    order = np.random.default_rng(0).permutation(80)
    for name, score in scores.items():
        assert score.shape == (80,)
        assert score.dtype == np.float64
        np.testing.assert_array_equal(loaded.score_anomaly(X, *given, method=name), score)
        np.testing.assert_array_equal(model.score_anomaly(sparse.csr_matrix(X), *given, method=name), score)
        for rows in (order, order[:7], [3]):
            np.testing.assert_array_equal(model.score_anomaly(X[rows], *(y[rows] for y in given), method=name), score[rows])
    for name in METHODS[:3]:
        shares = model.explain_anomaly(X, *given, method=name)
        assert shares.shape == X.shape
        assert (shares >= 0).all()
        np.testing.assert_allclose(shares.sum(axis=1), scores[name], rtol=1e-6)
        np.testing.assert_array_equal(loaded.explain_anomaly(X, *given, method=name), shares)
    np.testing.assert_array_equal(model.explain_anomaly(X, *given), model.explain_anomaly(X, *given, method="neighbors"))


def test_scores_follow_the_definition(fitted, X):
    model, given = fitted
    likelihood = model.module_.likelihood
    x = (X - likelihood.units.constant) / likelihood.units.scale
    error = (X - model.reconstruct(X, *given)) / likelihood.units.scale
    references = References.of(np.hstack([x, error]))
    expected = NeighborDistance().fit(references).score(np.hstack([x, error]))
    np.testing.assert_allclose(model.score_anomaly(X, *given), expected, rtol=1e-4)


def test_training_does_not_notice(row_estimator, X, monkeypatch):
    given = labels_for(row_estimator, X)
    expected = quick(row_estimator).fit(X, *given).partial_fit(X, *given).transform(X)
    monkeypatch.setattr(row_estimator, "_keeps_rows", False)
    np.testing.assert_array_equal(quick(row_estimator).fit(X, *given).partial_fit(X, *given).transform(X), expected)


@pytest.mark.parametrize("name", [None, "nearest", 3, ["neighbors"]])
def test_unknown_methods(name, X):
    model = quick(AutoEncoder).fit(X)
    with pytest.raises(ValueError, match=r"method=.* must be one of 'auto', 'neighbors', .*'likelihood'") as caught:
        model.score_anomaly(X, method=name)
    for method in re.findall(r"'(\w+)'", str(caught.value).partition("must be")[2]):
        assert np.isfinite(model.score_anomaly(X, method=method)).all()
    with pytest.raises(ValueError, match=r"method=.* must be one of 'auto', 'neighbors', ") as caught:
        model.explain_anomaly(X, method=name)
    named = re.findall(r"'(\w+)'", str(caught.value).partition("must be")[2])
    assert "likelihood" not in named
    for method in named:
        assert np.isfinite(model.explain_anomaly(X, method=method)).all()


def test_the_likelihood_does_not_split(X):
    model = quick(CVAE).fit(X, np.arange(80) % 3)
    with pytest.raises(ValueError, match=r"does not split.*explain_anomaly takes 'neighbors'.*'reconstruction'"):
        model.explain_anomaly(X, method="likelihood")
    with pytest.raises(NotFittedError):
        AutoEncoder().score_anomaly(X, method="mahalanobis")


# -- what is kept from training -----------------------------------------------------------------------------------------


def test_weights_are_repetitions(X):
    times = np.arange(80) % 3
    model = quick(AutoEncoder).fit(X, sample_weight=times)
    kept = model._kept_rows
    np.testing.assert_allclose(kept.weight / kept.weight.mean(), times[times > 0] / times[times > 0].mean())
    np.testing.assert_allclose(
        kept.x, ((X - model.module_.likelihood.units.constant) / model.module_.likelihood.units.scale)[times > 0], rtol=1e-6
    )


def test_references_of_many_rows_depend_on_the_random_state_alone():
    X = np.random.default_rng(0).normal(size=(1500, 3))
    first, again, other = (quick(VAETransformer, random_state=seed).fit(X)._kept_rows.x for seed in (0, 0, 1))
    assert first.shape == (1024, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_stream_keeps_all_rows_while_they_are_few_and_reconstructs_them_anew(fitted, X):
    model, given = fitted
    kept = model._kept_rows
    likelihood = model.module_.likelihood
    x = (X - likelihood.units.constant) / likelihood.units.scale
    np.testing.assert_allclose(np.sort(kept.x, axis=0), np.sort(x, axis=0), rtol=1e-5, atol=1e-5)
    place = np.abs(kept.x[:, np.newaxis] - x).sum(axis=2).argmin(axis=1)
    assert sorted(place) == list(range(80))
    error = (X - model.reconstruct(X, *given)) / likelihood.units.scale
    references = kept.references(model.module_, torch.device("cpu"))
    np.testing.assert_allclose(references.error, error[place], atol=1e-4)


def test_a_long_stream_moves_on():
    rng = np.random.default_rng(0)
    model = quick(AutoEncoder)
    for shift in [0.0] * 3 + [4.0] * 12:
        model.partial_fit(rng.normal(size=(1000, 3)) + shift)
    moved = model._kept_rows.x.mean(axis=1) > 2.0
    assert 0.8 < moved.mean() < 1.0
    rows = rng.normal(size=(200, 3))
    assert np.median(model.score_anomaly(rows + 4.0)) < np.median(model.score_anomaly(rows))


# -- unusual rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3), (30, 100), (20, 600), (5, 1)])
def test_few_and_wide_rows(shape):
    X = np.random.default_rng(0).normal(size=shape)
    model = quick(AutoEncoder).fit(X)
    for name in METHODS[:3]:
        score = model.score_anomaly(X, method=name)
        assert np.isfinite(score).all()
        np.testing.assert_allclose(model.explain_anomaly(X, method=name).sum(axis=1), score, rtol=1e-6)
    far = X[:1].copy()
    far[0, 0] = 1e300
    score = model.score_anomaly(far)
    assert np.isfinite(score)
    np.testing.assert_allclose(model.explain_anomaly(far).sum(axis=1), score, rtol=1e-6)


def test_constant_columns_and_pixels():
    rng = np.random.default_rng(0)
    X = (rng.random((200, 8)) < 0.2 + 0.6 * rng.random((200, 1))).astype(float)
    X[:, 3] = 1.0
    odd = X[:20].copy()
    odd[:, 3] = 0.0
    for likelihood in ("gaussian", "laplace", "bernoulli"):
        model = quick(DenoisingAE, likelihood=likelihood, max_epochs=20).fit(X)
        assert model.score_anomaly(odd).min() > model.score_anomaly(X).max()
        assert (model.explain_anomaly(odd).argmax(axis=1) == 3).all()
    pixels = np.round(255 * rng.random((100, 1, 6, 6)))
    model = quick(VAETransformer, max_epochs=1, n_components=2).fit(pixels)
    shares = model.explain_anomaly(pixels)
    assert shares.shape == pixels.shape
    np.testing.assert_allclose(shares.sum(axis=(1, 2, 3)), model.score_anomaly(pixels), rtol=1e-6)


def test_many_rows_take_little_memory():
    X = np.random.default_rng(0).normal(size=(30_000, 5))
    model = quick(AutoEncoder).fit(X[:2000])
    tracemalloc.start()
    model.score_anomaly(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6  # distances from all references would take 246 MB


# -- what scores are for ------------------------------------------------------------------------------------------------


def correlated(seed, n_rows=1500, n_features=10, noise=0.2):
    """Rows of three factors with noise, and the standard deviation of every column given the others."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(3, n_features))
    X = rng.normal(size=(n_rows, 3)) @ loadings + noise * rng.normal(size=(n_rows, n_features))
    return X, np.diag(np.linalg.inv(loadings.T @ loadings + noise**2 * np.eye(n_features))) ** -0.5


def test_one_corrupted_column_is_put_first():
    X, spread = correlated(0)
    X, rows = X[:1000], X[1000:]
    rng = np.random.default_rng(1)
    column = rng.integers(10, size=500)
    rows[np.arange(500), column] += spread[column] * rng.uniform(4, 6, 500) * rng.choice([-1, 1], 500)
    model = VAETransformer(random_state=0).fit(X)
    found = np.mean(model.explain_anomaly(rows).argmax(axis=1) == column)
    assert found >= 0.95
    raw = LedoitWolf().fit(X)
    centered = rows - raw.location_
    products = np.mean((centered * (centered @ raw.precision_)).argmax(axis=1) == column)
    assert found > products + 0.1


def test_anomalies_that_reconstruct_well_are_found():
    """Far out along the factors, a linear autoencoder reconstructs as well as elsewhere."""
    rng = np.random.default_rng(0)
    loadings, factors, is_anomaly = rng.normal(size=(3, 10)), rng.normal(size=(1600, 3)), np.arange(1600) >= 1500
    factors[is_anomaly] *= 5.0 / np.linalg.norm(factors[is_anomaly], axis=1, keepdims=True)
    X = factors @ loadings + 0.5 * rng.normal(size=(1600, 10))
    model = AutoEncoder(3, hidden_layer_sizes=(), random_state=0, max_epochs=30).fit(X[:1000])
    found = {method: roc_auc_score(is_anomaly[1000:], model.score_anomaly(X[1000:], method=method)) for method in METHODS[:3]}
    assert found["reconstruction"] < 0.85
    assert found["neighbors"] > 0.95
    assert found["mahalanobis"] > 0.9


def test_a_pipeline_passes_the_method_on(X):
    pipe = make_pipeline(StandardScaler(), quick(VAETransformer)).fit(X)
    scaled = pipe[0].transform(X)
    for name in METHODS:
        expected = pipe[1].score_anomaly(scaled, method=name)
        np.testing.assert_array_equal(skvae.score_anomaly(pipe, X, method=name), expected)
    frames = np.random.default_rng(0).normal(size=(20, 6, 2))
    with pytest.raises(TypeError, match=r"method='neighbors' was given, but score_anomaly of TDVAE takes none"):
        skvae.score_anomaly(TDVAE(max_epochs=1, random_state=0).fit(frames), frames, method="neighbors")
