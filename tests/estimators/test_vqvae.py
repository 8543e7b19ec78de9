"""Discrete codes: what VQVAE promises, as other estimators do, and what is its own."""

import copy
import pickle
import pickletools
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import slow
from scipy import sparse, stats
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skvae
from skvae import VQVAE, CodePrior, Conv, Net
from skvae.training import code_priors

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.filterwarnings("ignore:Only .* codes.* are in use")]

SMALL = {"max_epochs": 2, "width": 16, "n_heads": 2}
PER_ROW = ("transform", "encode", "reconstruct", "score_samples", "score_anomaly", "explain_anomaly")


def quick(**params):
    """Make an estimator that trains in milliseconds."""
    base = {
        "n_embeddings": 8,
        "embedding_dim": 3,
        "n_codes": 2,
        "hidden_layer_sizes": (8,),
        "max_epochs": 3,
        "code_prior": "histogram",
        "random_state": 0,
    }
    if params.get("code_prior") in ("auto", "transformer", "pixelsnail"):
        params = {f"code_prior__{name}": value for name, value in SMALL.items()} | params
    return VQVAE(**base).set_params(**params)


def quick_images(**params):
    return quick(n_codes="auto", encoder=Conv(channels=(4, 4)), **params)


@pytest.fixture
def images():
    return load_digits().images[:40, np.newaxis] / 16.0


def labels_of(X):
    """Three labels that codes depend on."""
    return np.array(list("abc"))[np.digitize(X[:, 1], np.quantile(X[:, 1], [1 / 3, 2 / 3]))]


def signature(model, X):
    arrays = model.transform(X), model.encode(X), model.score_samples(X), model.sample(3), model.sample_codes(3)
    return b"".join(array.tobytes() for array in arrays)


class Encoder(nn.Sequential):
    def __init__(self, n_inputs, n_outputs, width=6):
        super().__init__(nn.Linear(n_inputs, width), nn.Tanh(), nn.Linear(width, n_outputs))


# -- shapes, units and types ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["transformer", "pixelsnail", "histogram", "uniform"])
def test_shapes(X, prior):
    model = quick(code_prior=prior).fit(X)
    assert model.transform(X).shape == (80, 6)
    assert model.encode(X).shape == (80, 2)
    assert model.inverse_transform(np.zeros((3, 6))).shape == (3, 5)
    assert model.decode(np.zeros((3, 2), int)).shape == (3, 5)
    assert model.reconstruct(X).shape == model.explain_anomaly(X).shape == (80, 5)
    assert model.sample(7).shape == (7, 5)
    assert model.sample().shape == (1, 5)
    assert model.sample_codes(7).shape == (7, 2)
    assert model.score_samples(X).shape == model.score_anomaly(X).shape == model.bits_per_dim(X).shape == (80,)
    assert isinstance(model.score(X), float)
    assert (model.n_components_, model.n_codes_, model.code_shapes_) == (6, 2, [(2,)])
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert list(model.get_feature_names_out()) == [f"vqvae{i}" for i in range(6)]
    assert len(model.code_prior_) == len(model.code_prior_loss_) == 1
    assert len(model.code_prior_loss_[0]) == (0 if prior in ("histogram", "uniform") or not model.code_prior_[0].share else 2)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, bool])
def test_any_real_dtype(X, dtype):
    data = (X > X.mean(0)).astype(dtype) if dtype in (bool, np.uint8, np.int8) else X.astype(dtype)
    model = quick().fit(data)
    for method in ("transform", "reconstruct"):
        result = getattr(model, method)(data)
        assert result.dtype == (np.float32 if dtype == np.float32 else np.float64)
        assert np.isfinite(result).all()
    assert model.encode(data).dtype == np.uint8
    assert model.compression(data).raw == 8 * 5 * (4 if dtype == np.float32 else 8)


def test_sparse_rows_give_what_dense_rows_give(X):
    data = np.where(np.random.default_rng(1).random(X.shape) < 0.5, 0.0, X)
    dense, compressed = quick(n_codes=1).fit(data), quick(n_codes=1).fit(sparse.csr_array(data))
    for method in (*PER_ROW, "predict", "bits_per_dim"):
        np.testing.assert_array_equal(getattr(dense, method)(data), getattr(compressed, method)(sparse.csr_matrix(data)))
    np.testing.assert_array_equal(dense.labels_, compressed.labels_)
    assert dense.compression(data).raw == compressed.compression(sparse.csr_matrix(data)).raw


def test_any_container_and_order(X):
    kept = X.copy()
    expected = quick().fit(X).encode(X)
    X.setflags(write=False)
    np.testing.assert_array_equal(quick().fit(pd.DataFrame(X)).encode(pd.DataFrame(X)), expected)
    np.testing.assert_array_equal(quick().fit(X.tolist()).encode(X.tolist()), expected)
    np.testing.assert_array_equal(quick().fit(X.astype(object)).encode(X), expected)
    np.testing.assert_array_equal(quick().fit(np.asfortranarray(X)).encode(X[::-1])[::-1], expected)
    np.testing.assert_array_equal(X, kept)


def test_results_do_not_depend_on_the_units(X):
    model, other = quick().fit(X), quick().fit(X * 1000.0 + 5.0)
    np.testing.assert_array_equal(other.encode(X * 1000.0 + 5.0), model.encode(X))
    np.testing.assert_allclose(other.transform(X * 1000.0 + 5.0), model.transform(X), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.score_samples(X * 1000.0 + 5.0), model.score_samples(X) - 5 * np.log(1000.0), rtol=1e-3)
    np.testing.assert_allclose(other.sample(4), model.sample(4) * 1000.0 + 5.0, rtol=1e-3)
    np.testing.assert_allclose(other.bits_per_dim(X * 1000.0 + 5.0, step=1000.0), model.bits_per_dim(X), rtol=1e-3)


def test_rows_that_are_all_alike():
    X = np.full((10, 3), 2.0)
    model = quick(code_prior="auto").fit(X)
    np.testing.assert_array_equal(model.reconstruct(X), X)
    np.testing.assert_array_equal(model.sample(4), X[:4])
    assert model.n_active_codes_ <= 2
    assert np.isfinite(model.score(X))


def test_two_rows_are_enough(X):
    model = quick(code_prior="auto").fit(X[:2])
    assert np.isfinite(model.score(X))
    with pytest.raises(ValueError, match="minimum of 2"):
        quick().fit(X[:1])


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_likelihoods(likelihood):
    rng = np.random.default_rng(0)
    X = (rng.random((100, 6)) < 1 / (1 + np.exp(-3 * rng.normal(size=(100, 1))))).astype(float)
    model = quick(likelihood=likelihood, max_epochs=10).fit(X)
    assert np.isfinite(model.score(X))
    if likelihood == "bernoulli":
        assert set(np.unique(model.sample(30))) <= {0.0, 1.0}
        p = np.clip(model.reconstruct(X), 1e-6, 1 - 1e-6)
        given = (X * np.log(p) + (1 - X) * np.log(1 - p)).sum(1)
        prior = -model.compression(X).coded * np.log(2)
        np.testing.assert_allclose(model.score_samples(X), given + prior, rtol=1e-4)


def test_images(images):
    model = quick_images().fit(images)
    assert model.code_shapes_ == [(2, 2)]
    assert model.encode(images).shape == (40, 4)
    for X_hat in (model.reconstruct(images), model.explain_anomaly(images), model.decode(model.encode(images))):
        assert X_hat.shape == images.shape
    assert model.sample(3).shape == (3, 1, 8, 8)
    flat = quick_images(image_shape=(1, 8, 8)).fit(images.reshape(40, -1))
    np.testing.assert_array_equal(flat.encode(images.reshape(40, -1)), model.encode(images))
    assert flat.sample(3).shape == (3, 64)
    np.testing.assert_array_equal(flat.decode(flat.encode(images).reshape(40, 2, 2)), flat.reconstruct(images.reshape(40, -1)))


# -- every row on its own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["transformer", "levels", "images", "classes"])
def test_rows_do_not_depend_on_their_neighbors(X, images, case):
    params = {"code_prior": "auto", "max_epochs": 5, "entropy_weight": 0.5 if case == "levels" else 0.0}
    if case == "images":
        X, model = images, quick_images(**params).fit(images)
    else:
        model = quick(n_levels=2 if case == "levels" else 1, n_codes=3, **params)
        model.fit(X, labels_of(X) if case == "classes" else None)
    order = np.random.default_rng(0).permutation(len(X))
    for method in PER_ROW:
        whole = getattr(model, method)(X)
        np.testing.assert_array_equal(getattr(model, method)(X[order]), whole[order])
        np.testing.assert_array_equal(getattr(model, method)(X[5:12]), whole[5:12])
        for i in (0, 7, 39):
            np.testing.assert_array_equal(getattr(model, method)(X[i : i + 1])[0], whole[i])


# -- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "shapes"),
    [
        ({}, [(2,)]),
        ({"n_codes": 5}, [(5,)]),
        ({"n_codes": "auto"}, [(2,)]),
        ({"n_codes": 4, "n_levels": 2}, [(2,), (4,)]),
        ({"n_codes": 4, "n_levels": 3}, [(1,), (2,), (4,)]),
        ({"n_codes": (3, 1), "n_levels": 2, "n_embeddings": (4, 300), "embedding_dim": (2, 5)}, [(3,), (1,)]),
        ({"similarity": "cosine"}, [(2,)]),
        ({"codebook": "gradient"}, [(2,)]),
        ({"entropy_weight": 1.0, "max_epochs": 20}, [(2,)]),
    ],
    ids=str,
)
def test_codes_stand_for_rows(X, params, shapes):
    model = quick(**params).fit(X)
    codes = model.encode(X)
    assert model.code_shapes_ == shapes
    assert model.n_codes_ == codes.shape[1] == sum(shape[0] for shape in shapes)
    np.testing.assert_array_equal(model.decode(codes), model.reconstruct(X))
    np.testing.assert_array_equal(model.inverse_transform(model.transform(X)), model.reconstruct(X))
    parts, start = [], 0
    for quantizer, (size,) in zip(model.module_.quantizers, shapes, strict=True):
        book = quantizer.embeddings().detach().numpy()
        parts.append(book[codes[:, start : start + size]].reshape(len(X), -1))
        start += size
    np.testing.assert_array_equal(model.transform(X), np.hstack(parts))


def test_levels_of_images(images):
    images = np.kron(images, np.ones((1, 1, 2, 2)))
    model = quick_images(n_levels=3).fit(images)
    assert model.code_shapes_ == [(1, 1), (2, 2), (4, 4)]
    codes = model.encode(images)
    assert codes.shape == (40, 21)
    np.testing.assert_array_equal(model.decode(codes), model.reconstruct(images))
    assert len(model.perplexity_) == len(model.n_active_codes_) == len(model.code_prior_) == 3


@pytest.mark.parametrize(("n_embeddings", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_codes_come_in_the_smallest_type(X, n_embeddings, dtype):
    model = quick(n_embeddings=n_embeddings, max_epochs=1).fit(X)
    assert model.encode(X).dtype == model.sample_codes(2).dtype == dtype
    bits = model.compression(X)
    assert bits.stored == 16 * np.dtype(dtype).itemsize
    assert bits.fixed == 2 * {1: 0, 256: 8, 257: 9}[n_embeddings]
    model.decode(np.full((1, 2), n_embeddings - 1))
    with pytest.raises(ValueError, match=f"value {n_embeddings}, but must lie between 0 and {n_embeddings - 1}"):
        model.decode(np.full((1, 2), n_embeddings))


def test_codes_in_any_form(X):
    model = quick().fit(X)
    expected = model.decode([[1, 7], [0, 2]])
    for codes in (np.array([[1.0, 7.0], [0.0, 2.0]]), pd.DataFrame([[1, 7], [0, 2]]), np.array([[1, 7], [0, 2]], np.uint64)):
        np.testing.assert_array_equal(model.decode(codes), expected)
    one = quick(n_codes=1).fit(X)
    np.testing.assert_array_equal(one.decode(one.predict(X)), one.reconstruct(X))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[1, -1]], r"codes have the value -1, but must lie between 0 and 7"),
        ([[1, 8]], r"codes have the value 8, but must lie between 0 and 7"),
        ([[1, 0.5]], r"codes must be integers, but have the value 0.5"),
        ([[1, np.nan]], r"codes must be integers, but have the value nan"),
        ([[1, np.inf]], r"codes have the value inf, but must lie between 0 and 7"),
        ([["1", "2"]], r"codes must be integers, but are of type <U1"),
        ([[1, 2, 3]], r"codes have shape \(1, 3\), but must have shape \(n_samples, 2\)"),
        ([1, 2], r"codes have shape \(2,\)"),
        ([[1, 2], [3]], r"codes are lists of different lengths"),
        (None, r"codes have shape \(\)"),
        (np.empty((0, 2), int), r"codes have 0 rows"),
    ],
    ids=str,
)
def test_wrong_codes(X, codes, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X).decode(codes)


def test_wrong_codes_name_the_level(X):
    model = quick(n_levels=2, n_embeddings=(4, 8)).fit(X)
    with pytest.raises(ValueError, match="value 5 in level 0, but must lie between 0 and 3"):
        model.decode([[5, 0, 0]])
    with pytest.raises(ValueError, match=r"shape \(n_samples, 3\), 1 \+ 2 a row"):
        model.decode([[5, 0]])


# -- how much of the codebook is in use -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_levels", [1, 2])
def test_use_of_the_codebook_is_counted_over_the_training_rows(X, n_levels, weighted):
    weight = np.random.default_rng(0).integers(0, 4, 80).astype(float) if weighted else np.ones(80)
    model = quick(n_levels=n_levels).fit(X, sample_weight=weight if weighted else None)
    codes, start, perplexity, active = model.encode(X), 0, [], []
    for (size,) in model.code_shapes_:
        share = np.bincount(codes[:, start : start + size].ravel(), weights=np.repeat(weight, size))
        share = share[share > 0] / share.sum()
        perplexity.append(np.exp(stats.entropy(share)))
        active.append(len(share))
        start += size
    if n_levels == 1:
        assert isinstance(model.perplexity_, float)
        assert isinstance(model.n_active_codes_, int)
    np.testing.assert_allclose(np.atleast_1d(model.perplexity_), perplexity)
    np.testing.assert_array_equal(np.atleast_1d(model.n_active_codes_), active)


@pytest.mark.filterwarnings("default:Only .* codes.* are in use")
def test_a_codebook_too_large_for_the_rows_warns(X):
    message = r"Only \d+ of the 300 codes in the codebook of VQVAE are in use: n_embeddings is larger than .*, 80\. Lower it"
    with pytest.warns(UserWarning, match=message) as record:
        quick(n_embeddings=300, n_codes=1).fit(X)
    assert len(record) == 1
    assert record[0].filename == __file__
    with pytest.warns(UserWarning, match=r"codes of level 1 in the codebook .*distinct training vectors"):
        quick(n_embeddings=(4, 900), n_levels=2).fit(X)


@pytest.mark.filterwarnings("default:Only .* codes.* are in use")
def test_dead_codes_warn_and_say_what_to_change(X, monkeypatch):
    count = VQVAE._count_codes
    monkeypatch.setattr(VQVAE, "_count_codes", lambda *args: {**count(*args), "n_active_codes_": 3})
    with pytest.warns(
        UserWarning, match=r"Only 3 of the 8 codes.*lower n_embeddings or embedding_dim \(now 3\).*\(now 3, 3 pass"
    ):
        quick().fit(X)
    with pytest.warns(UserWarning, match="Only 3 of the 8 codes.*set codebook__revive=True or lower n_embeddings"):
        quick(codebook__revive=False).fit(X)


@pytest.mark.filterwarnings("default:Only .* codes.* are in use")
def test_a_healthy_codebook_is_no_reason_to_warn_and_nothing_is_printed(X, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(code_prior="auto", max_epochs=30).fit(X).partial_fit(X).sample(2)
    assert capsys.readouterr() == ("", "")


def test_likelier_codes_take_fewer_bits_at_a_larger_error(X):
    X = np.tile(X, (5, 1))
    models = [quick(max_epochs=40, entropy_weight=weight).fit(X) for weight in (0.0, 0.5, 2.0)]
    bits = [model.compression(X).coded.mean() for model in models]
    errors = [np.square((X - model.reconstruct(X)) / X.std(0)).mean() for model in models]
    assert bits[0] > bits[1] + 0.1 > bits[2] + 0.2
    assert max(errors[0], errors[1]) < errors[2]
    assert models[2].perplexity_ < models[0].perplexity_


# -- clusters ---------------------------------------------------------------------------------------------------------


def test_clustering_is_there_where_rows_have_one_code(X):
    for params, clusters in (
        ({"n_codes": 1}, True),
        ({"n_codes": [1]}, True),
        ({"n_codes": 2}, False),
        ({"n_codes": np.array([1, 2]), "n_levels": 2}, False),
        ({"n_codes": 1, "n_levels": 2}, False),
    ):
        model = quick(max_epochs=1, **params)
        assert [hasattr(model, name) for name in ("predict", "fit_predict", "labels_")] == [clusters, clusters, False]
        model.fit(X)
        assert [hasattr(model, name) for name in ("predict", "fit_predict", "labels_")] == [clusters] * 3
    model = quick(n_codes=1).fit(X)
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    np.testing.assert_array_equal(model.predict(X), model.encode(X)[:, 0])
    assert model.labels_.dtype == np.int64
    assert not hasattr(model.set_params(n_codes=2).fit(X), "labels_")


@pytest.mark.parametrize("seed", range(3))
def test_clusters_that_are_apart_are_those_of_kmeans(seed):
    X, _ = make_blobs(400, 8, centers=10, cluster_std=1.0, random_state=seed)
    expected = KMeans(10, n_init=5, random_state=seed).fit_predict(X)
    found = VQVAE(10, n_codes=1, max_epochs=40, code_prior="histogram", random_state=seed).fit_predict(X)
    assert adjusted_rand_score(expected, found) >= 0.95


def test_labels_are_those_of_all_rows(X):
    weight = (np.arange(80) % 2).astype(float)
    model = quick(n_codes=1).fit(X, sample_weight=weight)
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    np.testing.assert_array_equal(quick(n_codes=1).fit_predict(X, sample_weight=weight), model.labels_)
    pipe = make_pipeline(StandardScaler(), quick(n_codes=1))
    labels = pipe.fit_predict(X)
    np.testing.assert_array_equal(labels, pipe[-1].labels_)
    np.testing.assert_array_equal(labels, pipe.predict(X))


# -- partial_fit, warm start, weights ---------------------------------------------------------------------------------


def test_partial_fit_goes_on_with_the_codes_and_their_prior(X):
    X = np.tile(X, (4, 1))
    model = quick(max_epochs=30, code_prior="transformer").partial_fit(X)
    assert model.code_prior_[0].share > 0
    lengths = [len(model.code_prior_loss_[0])]
    for _ in range(20):
        model.partial_fit(X)
        lengths.append(len(model.code_prior_loss_[0]))
    assert lengths == list(range(2, 23))
    assert model.n_iter_ == 21
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert model.code_prior_loss_[0][-1] < model.code_prior_loss_[0][2]


def test_passes_over_the_prior_shuffle_differently(X, monkeypatch):
    plans = []
    train = code_priors.train
    monkeypatch.setattr(code_priors, "fit_share", lambda *args, **params: None)
    monkeypatch.setattr(
        code_priors, "train", lambda prior, rows, valid, plan: plans.append(plan) or train(prior, rows, valid, plan)
    )
    model = quick(code_prior="transformer", n_levels=2, n_codes=4).partial_fit(X)
    model.partial_fit(X).partial_fit(X)
    assert len({(plan.seed, plan.pass_index) for plan in plans}) == len(plans) == 6
    assert [plan.n_epochs for plan in plans] == [2, 2, 1, 1, 1, 1]


def test_partial_fit_counts_codes_on(X):
    model = quick().partial_fit(X)
    for part in (X[:30], X[30:31], X[31:]):
        model.partial_fit(part)
    np.testing.assert_allclose(model.code_prior_[0].counts.sum(-1), 160, rtol=1e-5)
    assert model._code_shares[0].sum() == pytest.approx(1)
    old, before = model._code_shares[0], model.score(X)
    codes = model.partial_fit(X[:40]).encode(X[:40])
    shares = 0.8 * old + 0.2 * np.bincount(codes.ravel(), minlength=8) / 80  # 40 rows after 160
    assert model.perplexity_ == pytest.approx(np.exp(stats.entropy(shares)))
    assert model.partial_fit(X[:1]).score(X) > before - 0.5


def test_a_stream_of_small_chunks_ends_near_a_fit(X):
    fitted, model = quick(max_epochs=30).fit(X), quick(max_epochs=30)
    for _ in range(30):
        for chunk in np.split(X, 4):
            model.partial_fit(chunk)
    assert model.score(X) > fitted.score(X) - 1.0


def test_partial_fit_refuses_what_changed(X):
    model = quick().fit(X)
    for name, value in (("n_codes", 3), ("n_embeddings", 9), ("embedding_dim", 4), ("codebook", "gradient")):
        with pytest.raises(ValueError, match=f"{name} changed"):
            clone(model).fit(X).set_params(**{name: value}).partial_fit(X)
    for before, after in (("histogram", "uniform"), (None, "histogram")):
        changed = quick(code_prior=before).fit(X)
        codes = changed.encode(X)
        with pytest.raises(ValueError, match=r"prior .*changed"):
            changed.set_params(code_prior=after).partial_fit(X)
        np.testing.assert_array_equal(changed.encode(X), codes)
    with pytest.raises(ValueError, match="early_stopping"):
        quick(early_stopping=True).partial_fit(X)


def test_warm_start_keeps_the_network_and_fits_the_prior_anew(X):
    model = quick(max_epochs=40, warm_start=True).fit(X, labels_of(X))
    loss = model.loss_curve_
    model.set_params(max_epochs=2, code_prior="uniform").fit(X, labels_of(X))
    assert model.loss_curve_[0] < loss[0]
    assert not hasattr(model, "classes_")
    assert model.score(X) == pytest.approx(model.score(X, labels_of(X)))
    model.set_params(code_prior=CodePrior("transformer", **SMALL)).fit(X, np.arange(80) % 2)
    np.testing.assert_array_equal(model.classes_, [0, 1])
    assert model.sample(2, y=1).shape == (2, 5)


def test_zero_weights_are_rows_left_out(X):
    weight, y = np.ones(80), labels_of(X)
    weight[50:] = 0
    for params in ({}, {"code_prior": "transformer"}):
        weighted, alone = quick(**params).fit(X, y, sample_weight=weight), quick(**params).fit(X[:50], y[:50])
        assert signature(weighted, X) == signature(alone, X)
        assert weighted.perplexity_ == alone.perplexity_
    equal = quick().fit(X, sample_weight=np.full(80, 3.0))
    assert signature(equal, X) == signature(quick().fit(X), X)


def test_weights_count_in_the_prior(X):
    weight = np.where(X[:, 0] > X[:, 0].mean(), 50.0, 1.0)
    model = quick().fit(X, sample_weight=weight)
    codes, scaled = model.encode(X), weight / weight.mean()
    counts = np.stack([np.bincount(column, weights=scaled, minlength=8) for column in codes.T])
    np.testing.assert_allclose(model.code_prior_[0].frequency[0], (counts + 1) / 88, rtol=1e-5)
    assert not np.array_equal(model.transform(X), quick().fit(X).transform(X))


def test_weights_in_full_batches_are_repetitions(X):
    """The expected failures of scikit-learn's equivalence checks, at the tolerance of single precision."""
    counts = np.random.default_rng(0).integers(1, 4, size=80)
    params = {"batch_size": 500, "max_epochs": 1, "codebook": "gradient", "codebook__revive": False}
    model, repeated = quick(**params).fit(X, sample_weight=counts.astype(float)), quick(**params)
    repeated.fit(np.repeat(X, counts, axis=0))
    likelihoods = [m.module_.likelihood for m in (model, repeated)]
    np.testing.assert_allclose(likelihoods[0].units.constant, likelihoods[1].units.constant, rtol=1e-10)
    np.testing.assert_allclose(likelihoods[0].units.scale, likelihoods[1].units.scale, rtol=1e-10)


def test_early_stopping(X):
    few = quick(max_epochs=200, early_stopping=True, early_stopping__n_iter_no_change=2, early_stopping__tol=1e6).fit(X)
    assert few.n_iter_ < 20
    assert "valid_loss" in few.history_
    assert few.code_prior_[0].counts[0, 0].sum() == 80  # the prior sees all rows


# -- state and randomness ---------------------------------------------------------------------------------------------


def test_a_refit_that_fails_leaves_the_fitted_estimator(X):
    model = quick(n_codes=1).fit(X, labels_of(X))
    expected, names = signature(model, X), set(vars(model))
    for params, rows, y in (
        ({}, np.full((5, 3), np.nan), None),
        ({"n_embeddings": (2, 3)}, X, None),
        ({"code_prior": "auto", "code_prior__width": 3}, X, None),
        ({"code_prior": "auto", "class_conditional": True}, X, X[:, 0]),
        ({"n_codes": 2, "code_prior": "auto", "code_prior__learning_rate": 1e30}, X, None),
        ({"learning_rate": 1e38, "optimizer": "sgd", "max_epochs": 20}, X, None),
    ):
        before = model.get_params()
        with pytest.raises(ValueError, match=r"NaN|entries|depth|multiple|labels|stopped being finite"):
            model.set_params(**params).fit(rows, y)
        model.set_params(**before)
        assert set(vars(model)) == names
        assert signature(model, X) == expected


def fit_one(X, seed):
    model = quick(code_prior="transformer", encoder__dropout=0.3, code_prior__dropout=0.3, random_state=seed)
    return signature(model.fit(X, labels_of(X)), X)


@pytest.mark.parametrize("backend", ["threading", *slow("loky")])
def test_fits_side_by_side_give_what_they_give_alone(X, backend):
    alone = [fit_one(X, seed) for seed in range(4)]
    together = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(fit_one)(X, seed) for seed in range(4))
    assert together == alone
    assert len(set(alone)) == 4


def test_global_states_are_left_alone_and_do_not_matter(X):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    expected = fit_one(X, 0)
    model = quick(code_prior="pixelsnail", n_levels=2).fit(X)
    model.partial_fit(X), model.compression(X), pickle.loads(pickle.dumps(model)).sample(2)
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


@pytest.mark.parametrize("dump", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize(
    "params",
    [{"code_prior": "transformer"}, {"n_levels": 2, "entropy_weight": 1.0}, {"code_prior": "pixelsnail", "codebook": "gradient"}],
)
def test_round_trips_and_training_that_goes_on(X, params, dump):
    y = labels_of(X)
    model = quick(encoder__dropout=0.2, max_epochs=15, **params).fit(X, y)
    loaded = dump(model)
    assert signature(loaded, X) == signature(model, X)
    assert loaded.code_prior_ is not model.code_prior_
    for _ in range(2):
        model.partial_fit(X, y), loaded.partial_fit(X, y)
    assert signature(loaded, X) == signature(model, X)
    assert loaded.perplexity_ == model.perplexity_
    for ours, theirs in zip(model.code_prior_loss_, loaded.code_prior_loss_, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_pickles_hold_plain_data(X):
    text = pickle.dumps(quick(code_prior="transformer", n_levels=2).fit(X, labels_of(X)))
    names = {str(argument) for _, argument, _ in pickletools.genops(text) if isinstance(argument, str)}
    assert not {name for name in names if name.startswith("torch") or name.startswith("_rebuild_tensor")}
    assert b"cuda" not in text


def test_without_a_prior_there_is_nothing_to_pickle_of_it(X):
    model = pickle.loads(pickle.dumps(quick(code_prior=None).fit(X)))
    assert model.code_prior_ is None
    assert model.reconstruct(X).shape == (80, 5)
    assert pickle.loads(pickle.dumps(quick())).get_params() == quick().get_params()
    assert not hasattr(clone(quick().fit(X)), "code_prior_")


def test_in_searches_and_pipelines(X):
    search = GridSearchCV(quick(), {"n_embeddings": [2, 8], "code_prior": ["histogram", "uniform"]}, cv=2).fit(X)
    assert set(np.sign(np.diff(search.cv_results_["mean_test_score"]))) != {0}
    assert search.best_estimator_.module_.levels[0].n_embeddings == search.best_params_["n_embeddings"]
    scores = cross_val_score(quick(), X, np.arange(80) % 2, cv=3, error_score="raise")
    assert np.isfinite(scores).all()
    nested = GridSearchCV(quick(encoder=Net(Encoder)), {"encoder__width": [2, 7]}, cv=2).fit(X)
    assert nested.best_estimator_.module_.encoder[0].out_features == nested.best_params_["encoder__width"]
    pipe = make_pipeline(StandardScaler(), quick()).fit(X)
    assert skvae.sample(pipe, 3).shape == (3, 5)
    assert skvae.reconstruct(pipe, X).shape == X.shape
    clusters = make_pipeline(StandardScaler(), quick(), KMeans(3, n_init=1)).fit_predict(X)
    assert clusters.shape == (80,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(X):
    y = labels_of(X)
    for params in ({"code_prior": "transformer", "n_levels": 2}, {"code_prior": "histogram"}, {"n_codes": 1}):
        model = quick(device="cuda", max_epochs=10, **params).fit(X, y)
        assert next(model.module_.parameters()).is_cuda
        loaded = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
        np.testing.assert_array_equal(loaded.encode(X), model.encode(X))
        np.testing.assert_allclose(loaded.score_samples(X), model.score_samples(X), atol=1e-2)
        np.testing.assert_array_equal(loaded.sample_codes(20), model.sample_codes(20))
        loaded.partial_fit(X, y), model.partial_fit(X, y)
        assert np.isfinite(model.score(X))


# -- the prior --------------------------------------------------------------------------------------------------------


def given_codes(model, X):
    """Log-likelihood of rows given their codes, under a Gaussian."""
    return stats.norm.logpdf(X, model.reconstruct(X), model.noise_scale_).sum(axis=1)


def test_scores_under_codes_that_are_all_alike(X):
    model = quick(code_prior="uniform").fit(X)
    np.testing.assert_allclose(model.score_samples(X), given_codes(model, X) - 2 * np.log(8), rtol=1e-4)
    np.testing.assert_allclose(model.compression(X).coded, 6, rtol=1e-6)


def test_scores_under_frequencies(X):
    model = quick().fit(X)
    codes, new = model.encode(X), model.encode(X + 0.1)
    counts = np.stack([np.bincount(column, minlength=8) for column in codes.T])
    log_prob = np.log((counts + 1) / 88)
    log_prior = log_prob[np.arange(2), new].sum(1)
    np.testing.assert_allclose(model.score_samples(X + 0.1), given_codes(model, X + 0.1) + log_prior, rtol=1e-4)
    np.testing.assert_allclose(model.compression(X + 0.1).coded, -log_prior / np.log(2), rtol=1e-5)


def test_scores_under_a_network(X):
    model = quick(code_prior="transformer", n_codes=1, n_embeddings=4).fit(X, labels_of(X))
    weight = np.arange(80.0)
    log_prior = -model.compression(X).coded * np.log(2)
    np.testing.assert_allclose(model.score_samples(X), given_codes(model, X) + log_prior, rtol=1e-4)
    assert model.score(X, sample_weight=weight) == pytest.approx(np.average(model.score_samples(X), weights=weight))
    # What rows of every code weigh under the labels' shares sums to one.
    codes = np.arange(4.0)[:, np.newaxis]
    assert np.exp(model._codes_log_prob(codes, None, torch.device("cpu"))).sum() == pytest.approx(1, rel=1e-5)


def test_bits(X):
    model = quick().fit(X)
    nats = model.score_samples(X)
    np.testing.assert_allclose(model.bits_per_dim(X), -nats / 5 / np.log(2))
    np.testing.assert_allclose(model.bits_per_dim(X, step=0.5), -nats / 5 / np.log(2) + 1)
    bits = model.compression(X)
    assert (bits.raw, bits.stored, bits.fixed) == (320, 16, 6)
    assert bits.coded.shape == (80,)
    assert bits.ratio == pytest.approx(320 / bits.coded.mean())
    assert bits.coded.mean() < bits.fixed
    for step in (0, -1.0, np.inf, "1"):
        with pytest.raises(ValueError, match="step="):
            model.bits_per_dim(X, step=step)


@pytest.mark.parametrize(
    ("method", "needs_rows"),
    [
        ("score_samples", True),
        ("score", True),
        ("bits_per_dim", True),
        ("compression", True),
        ("sample", False),
        ("sample_codes", False),
    ],
)
def test_without_a_prior_it_says_what_to_do(X, method, needs_rows):
    model = quick(code_prior=None).fit(X)
    assert model.code_prior_ is None
    assert model.code_prior_loss_ == []
    with pytest.raises(
        ValueError, match=r'needs a prior of the codes, but .*code_prior=None.*Fit with code_prior="auto", or "histogram"'
    ):
        getattr(model, method)(*[X] * needs_rows)
    assert model.score_anomaly(X).shape == (80,)


def test_sampling(X):
    model = quick(max_epochs=50).fit(X)
    np.testing.assert_array_equal(model.sample(5), model.sample(5))
    assert not np.array_equal(model.sample(5, random_state=3), model.sample(5, random_state=4))
    np.testing.assert_array_equal(model.sample(5, mean=True, random_state=3), model.decode(model.sample_codes(5, random_state=3)))
    assert not np.array_equal(model.sample(5), model.sample(5, mean=True))
    codes = model.sample_codes(4000)
    for position in range(2):
        shares = np.bincount(codes[:, position], minlength=8) / 4000
        np.testing.assert_allclose(shares, model.code_prior_[0].frequency[0, position], atol=0.04)
    many = model.sample(4000)
    np.testing.assert_allclose(many.mean(0), X.mean(0), atol=0.5 * X.std(0).max())
    assert (many.std(0) > 0.6 * X.std(0)).all()
    assert (many.std(0) < 1.5 * X.std(0)).all()


@pytest.mark.parametrize("prior", ["histogram", "transformer"])
def test_cold_samples_and_the_likeliest_codes(X, prior):
    model = quick(code_prior=prior).fit(X)
    cold = model.sample_codes(20, temperature=1e-6, random_state=1)
    assert len(np.unique(cold, axis=0)) == 1
    np.testing.assert_array_equal(model.sample_codes(20, top_k=1, random_state=2), cold)
    if prior == "histogram":
        np.testing.assert_array_equal(cold[0], model.code_prior_[0].frequency[0].argmax(1))
    two = model.sample_codes(300, top_k=2)
    assert len(np.unique(two[:, 0])) == 2
    assert len(np.unique(model.sample_codes(300)[:, 0])) > 4
    np.testing.assert_array_equal(model.sample_codes(30, top_k=1000), model.sample_codes(30))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_samples": 0}, "n_samples=0"),
        ({"n_samples": 1.5}, "n_samples=1.5"),
        ({"temperature": 0}, "temperature=0 must be a number above 0"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be an integer of at least 1, or None"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"y": 1}, "y was given, but the prior does not depend on labels"),
        ({"return_y": True}, "return_y=True needs a prior that depends on labels"),
    ],
    ids=str,
)
def test_sampling_refuses_what_it_cannot_do(X, params, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X).sample(**params)


def test_columns_that_do_not_depend_on_each_other_are_no_worse_for_a_network():
    X = np.random.default_rng(0).normal(size=(900, 4))
    model = quick(code_prior=CodePrior("transformer"), n_codes=4, hidden_layer_sizes=(), max_epochs=20)
    learned, counted = model.fit(X[:300]), clone(model).set_params(code_prior="histogram").fit(X[:300])
    np.testing.assert_array_equal(learned.encode(X), counted.encode(X))
    assert learned.compression(X[300:]).coded.mean() < counted.compression(X[300:]).coded.mean() + 0.05


# -- labels -----------------------------------------------------------------------------------------------------------


def test_sampling_by_label(X):
    X, y = np.tile(X, (5, 1)), np.tile(labels_of(X), 5)
    model = quick(max_epochs=40).fit(X, y)
    np.testing.assert_array_equal(model.classes_, ["a", "b", "c"])
    assert model.sample(4, y="a").shape == model.sample(y=list("abca")).shape == (4, 5)
    assert model.sample(y="a").shape == (1, 5)
    drawn, labels = model.sample(2000, return_y=True)
    assert labels.shape == (2000,)
    assert labels.dtype == y.dtype
    for label in "abc":
        assert (labels == label).mean() == pytest.approx((y == label).mean(), abs=0.05)
    means = [drawn[labels == label, 1].mean() for label in "abc"]
    asked = [model.sample(500, y=label, random_state=1)[:, 1].mean() for label in "abc"]
    assert means[0] < means[1] - 1 < means[2] - 2
    assert asked[0] < asked[1] - 1 < asked[2] - 2
    _, labels = model.sample(y=list("abca"), return_y=True)
    assert labels.tolist() == list("abca")


@pytest.mark.parametrize("prior", ["histogram", "transformer", "pixelsnail"])
def test_labels_that_are_not_given_are_summed_out(X, prior):
    y = labels_of(X)
    y[:20] = "a"
    model = quick(code_prior=prior).fit(X, y)
    shares = [(y == label).mean() for label in "abc"]
    joint = np.stack([model.score_samples(X, y=label) + np.log(share) for label, share in zip("abc", shares, strict=True)])
    np.testing.assert_allclose(model.score_samples(X), logsumexp(joint, axis=0), rtol=1e-6)
    conditional = model.score_samples(X, y)
    np.testing.assert_allclose(
        conditional,
        joint[np.searchsorted(list("abc"), y), np.arange(80)] - np.log(shares)[np.searchsorted(list("abc"), y)],
        rtol=1e-6,
    )
    assert model.score_samples(X, y).mean() == pytest.approx(conditional.mean())
    assert model.score_samples(X, y).mean() != model.score(X)
    assert model.score(X, y) == model.score(X, np.full(len(X), "never seen")) == model.score(X)
    np.testing.assert_allclose(model.bits_per_dim(X, y), -conditional / 5 / np.log(2))
    assert not np.array_equal(model.compression(X, y).coded, model.compression(X).coded)


@pytest.mark.parametrize(
    ("y", "params", "depends"),
    [
        (np.arange(80) % 8, {}, True),
        (np.arange(80) % 9, {}, False),  # more than the square root of the number of rows
        (np.linspace(0, 1, 80), {}, False),
        (np.arange(80) % 3, {"class_conditional": False}, False),
        (np.arange(80) % 9, {"class_conditional": True}, True),
        (np.arange(80.0) % 3, {}, True),
        (np.arange(80) % 3, {"code_prior": "uniform"}, False),
        (np.arange(80) % 3, {"code_prior": None}, False),
        (np.column_stack([np.arange(80) % 2, np.arange(80) % 3]), {}, False),  # a histogram depends on one kind
        (np.column_stack([np.arange(80) % 2, np.arange(80) % 3]), {"code_prior": "transformer"}, True),
        (np.where(np.arange(80) < 3, np.nan, np.arange(80.0) % 3), {}, False),
        (np.random.default_rng(0).normal(size=(80, 2)), {}, False),
        (pd.Series(list("xy") * 40), {}, True),
    ],
    ids=lambda value: str(value)[:20],
)
def test_which_targets_are_labels(X, y, params, depends):
    model = quick(max_epochs=1, **params).fit(X, y)
    assert hasattr(model, "classes_") == depends
    codes = (
        quick(
            max_epochs=1,
            **params,
        )
        .set_params(class_conditional="auto")
        .fit(X)
        .encode(X)
    )
    np.testing.assert_array_equal(model.encode(X), codes)  # which do not depend on them
    if depends:
        _, labels = model.sample(6, return_y=True)
        assert labels.shape == (6, *np.shape(y)[1:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, X, y: model.sample(2, y="z"), r"not seen in fit: 'z'; known are 'a', 'b', 'c'"),
        (lambda model, X, y: model.score_samples(X, np.full(80, "z")), r"not seen in fit: 'z'"),
        (lambda model, X, y: model.sample(2, y=list("abc")), r"y has 3 entries for 2 row"),
        (lambda model, X, y: model.score_samples(X, y[:3]), r"y has 3 entries for 80 row"),
        (lambda model, X, y: model.partial_fit(X), r"prior depends on labels \(class_conditional\): pass them as y"),
        (lambda model, X, y: model.partial_fit(X, np.full(80, "z")), r"not seen in fit: 'z'"),
        (lambda model, X, y: model.fit(X, y[:3]), r"inconsistent numbers of samples"),
        (lambda model, X, y: quick(class_conditional=True).fit(X), r"prior depends on labels"),
        (lambda model, X, y: quick(class_conditional=True).fit(X, X[:, 0]), r"takes labels, but y holds numbers that are not"),
        (lambda model, X, y: quick(class_conditional=True, code_prior=None).fit(X, y), r"no effect with code_prior=None"),
        (
            lambda model, X, y: quick(class_conditional=True, code_prior="uniform").fit(X, y),
            r"no effect with code_prior='uniform'",
        ),
    ],
)
def test_wrong_labels(X, call, message):
    y = labels_of(X)
    with pytest.raises(ValueError, match=message):
        call(quick(max_epochs=1).fit(X, y), X, y)


def test_partial_fit_counts_labels_on(X):
    y = labels_of(X)
    model = quick().partial_fit(X, y)
    for _ in range(3):
        model.partial_fit(X[y == "a"], y[y == "a"])
    _, labels = model.sample(2000, return_y=True)
    assert (labels == "a").mean() == pytest.approx(4 / 6, abs=0.05)
    assert model.code_prior_[0].counts[0].sum() > 3 * model.code_prior_[0].counts[1].sum()


# -- handwritten digits -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    return X[order[:1000]], y[order[:1000]], X[order[1000:]], y[order[1000:]]


@pytest.fixture(scope="module")
def model_of_digits(digits):
    params = {"n_embeddings": 32, "max_epochs": 40, "code_prior": CodePrior(max_epochs=15), "random_state": 0}
    return VQVAE(**params).fit(digits[0], digits[1])


@pytest.fixture(scope="module")
def levels_of_digits(digits):
    params = {"n_embeddings": 16, "max_epochs": 20, "code_prior": CodePrior(max_epochs=4), "random_state": 0}
    return VQVAE(n_levels=2, n_codes=6, **params).fit(digits[0])


@pytest.mark.slow
def test_a_learned_prior_beats_frequencies_on_new_digits(digits, model_of_digits):
    _, _, X, y = digits
    counted = clone(model_of_digits).set_params(code_prior="histogram").fit(digits[0], digits[1])
    np.testing.assert_array_equal(counted.encode(X), model_of_digits.encode(X))
    assert model_of_digits.compression(X).coded.mean() < counted.compression(X).coded.mean() - 2
    assert model_of_digits.score(X) > counted.score(X) + 1.4
    assert model_of_digits.score_samples(X, y).mean() > model_of_digits.score(X)


@pytest.mark.slow
def test_samples_of_a_label_look_like_it(digits, model_of_digits):
    judge = LogisticRegression(max_iter=500).fit(digits[0] / 16, digits[1])
    y = np.repeat(np.arange(10), 30)
    recognized = (judge.predict(model_of_digits.sample(y=y) / 16) == y).mean()
    assert recognized > 0.65
    drawn, labels = model_of_digits.sample(300, return_y=True, mean=True)
    assert (judge.predict(drawn / 16) == labels).mean() > 0.6


def test_every_level_carries_something(digits, levels_of_digits):
    X = digits[2]
    error = {levels: np.square(X - levels_of_digits.reconstruct(X, levels=levels)).mean() for levels in [(0, 1), (0,), (1,), ()]}
    assert error[0, 1] < 0.9 * min(error[(0,)], error[(1,)])
    assert max(error[(0,)], error[(1,)]) < error[()]
    np.testing.assert_array_equal(levels_of_digits.reconstruct(X, levels=[0, 1]), levels_of_digits.reconstruct(X))
    np.testing.assert_array_equal(levels_of_digits.reconstruct(X, levels=1), levels_of_digits.reconstruct(X, levels=[1]))
    for levels in ([2], [-1], ["top"], 2):
        with pytest.raises(ValueError, match="must be numbers from 0, the top, to 1"):
            levels_of_digits.reconstruct(X, levels=levels)


def test_the_bottom_is_drawn_given_the_top(digits, levels_of_digits):
    model, codes = levels_of_digits, levels_of_digits.encode(digits[2])
    top = model.module_.code_slices[0]
    shuffled = codes.copy()
    shuffled[:, top] = np.roll(codes[:, top], 1, axis=0)

    def log_prob(codes):
        return model._codes_log_prob(codes.astype(np.float32), None, torch.device("cpu")).mean()

    assert log_prob(codes) > log_prob(shuffled) + 1  # the top's own part is the same
    drawn = model.sample_codes(300)
    assert set(np.unique(drawn)) <= set(range(16))
    shuffled = drawn.copy()
    shuffled[:, top] = np.roll(drawn[:, top], 1, axis=0)
    assert log_prob(drawn) > log_prob(shuffled) + 1


# -- parameters that must be obeyed -----------------------------------------------------------------------------------

# What the reference has beside the others, a value that must show, and where.
OWN = [
    ({}, {"n_embeddings": 9}, "reconstruct"),
    ({}, {"embedding_dim": 4}, "reconstruct"),
    ({}, {"n_codes": 3}, "reconstruct"),
    ({}, {"n_levels": 2}, "reconstruct"),
    ({}, {"codebook": "gradient"}, "reconstruct"),
    ({}, {"codebook__decay": 0.5}, "reconstruct"),
    ({}, {"commitment_weight": 2.0}, "reconstruct"),
    ({}, {"gradient": "rotation"}, "reconstruct"),
    ({}, {"entropy_weight": 1.0}, "reconstruct"),
    ({}, {"similarity": "cosine"}, "reconstruct"),
    ({"n_embeddings": 330, "n_codes": 1, "codebook__decay": 0.5, "max_epochs": 10}, {"codebook__revive": False}, "reconstruct"),
    ({}, {"code_prior": "transformer"}, "score_samples"),
    ({}, {"code_prior": "pixelsnail"}, "score_samples"),
    ({}, {"code_prior": "uniform"}, "score_samples"),
    ({"code_prior": "auto"}, {"code_prior__max_epochs": 3}, "score_samples"),
    ({"code_prior": "auto"}, {"code_prior__width": 8}, "score_samples"),
    ({"code_prior": "auto"}, {"code_prior__n_heads": 1}, "score_samples"),
    ({"code_prior": "auto"}, {"code_prior__n_layers": 3}, "score_samples"),
    ({"code_prior": "auto"}, {"code_prior__dropout": 0.5}, "score_samples"),
    ({"code_prior": "auto"}, {"code_prior__learning_rate": 0.01}, "score_samples"),
    ({"code_prior": "auto"}, {"code_prior__batch_size": 8}, "score_samples"),
    ({}, {"class_conditional": False}, "score_samples"),
    ({}, {"random_state": 1}, "reconstruct"),
    ({}, {"encoder": Net(Encoder)}, "reconstruct"),
    ({}, {"decoder": Net(Encoder)}, "reconstruct"),
    ({}, {"early_stopping": True}, "reconstruct"),
    ({}, {"learning_rate": 0.1}, "reconstruct"),
    ({"n_codes": 1}, {"learning_rate": 0.002}, "reconstruct"),
]


@pytest.mark.parametrize(("base", "changed", "method"), OWN, ids=str)
def test_every_own_parameter_changes_the_result(base, changed, method):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 6)) * [1, 10, 0.1, 5, 1, 2] + rng.normal(size=(300, 6))
    before, after = quick(**base).fit(X, labels_of(X)), quick(**base | changed).fit(X, labels_of(X))
    assert not np.array_equal(getattr(before, method)(X), getattr(after, method)(X))
    if method == "score_samples":
        np.testing.assert_array_equal(before.encode(X), after.encode(X))


def test_every_own_parameter_is_tried():
    tried = {name.partition("__")[0] for _, changed, _ in OWN for name in changed}
    assert set(VQVAE().get_params()) - set(skvae.AutoEncoder().get_params()) <= tried


def test_the_prior_is_chosen_by_the_kind_of_data(X, images):
    names = [
        type(model.code_prior_[0]).__name__
        for model in (quick(code_prior="auto").fit(X), quick_images(code_prior="auto").fit(images))
    ]
    assert names == ["TransformerPrior", "PixelSNAILPrior"]


def test_fit_leaves_parameters_alone(X):
    model = quick(code_prior="auto", n_embeddings=[8], encoder=Net(Encoder, width=3), code_prior__max_epochs=1)
    before = {name: repr(value) for name, value in model.get_params().items()}
    model.fit(X)
    assert {name: repr(value) for name, value in model.get_params().items()} == before


# -- what bad input gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_levels": 4}, r"'n_levels' parameter .* range \[1, 3\]. Got 4"),
        ({"n_embeddings": 0}, "n_embeddings"),
        ({"n_embeddings": (4, 4, 4)}, r"n_embeddings=\(4, 4, 4\) has 3 entries, but n_levels=1"),
        ({"n_embeddings": [4.5]}, r"n_embeddings=\[4.5\] must be an integer of at least 1, or one for each level"),
        ({"n_embeddings": "many"}, "n_embeddings"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"embedding_dim": [0]}, r"embedding_dim=\[0\] must be an integer of at least 1"),
        ({"n_codes": [2, 3]}, r"n_codes=\(2, 3\) has 2 entries, but n_levels=1"),
        ({"n_codes": "few"}, "n_codes"),
        ({"codebook": "adam"}, "codebook"),
        ({"codebook__decay": 1.0}, "decay"),
        ({"commitment_weight": -1}, "commitment_weight"),
        ({"entropy_weight": -1}, "entropy_weight"),
        ({"gradient": "reinforce"}, "gradient"),
        ({"similarity": "manhattan"}, "similarity"),
        ({"code_prior": "gaussian"}, "code_prior"),
        ({"code_prior__width": 8}, r"width without effect on 'histogram', which is not trained; use None"),
        ({"code_prior": CodePrior(width=30)}, r"width=30 must be a multiple of n_heads=4"),
        ({"code_prior": CodePrior(n_heads=5)}, r"width=64 must be a multiple of n_heads=5"),
        ({"code_prior": "auto", "code_prior__max_epochs": "auto"}, r"max_epochs='auto' must be an integer of at least 1"),
        (
            {"code_prior": "auto", "code_prior__learning_rate": 0},
            r"code_prior=CodePrior.*learning_rate=0 must be a number above 0",
        ),
        ({"code_prior": "auto", "code_prior__learning_rate": np.nan}, r"learning_rate=nan must be a number above 0"),
        ({"code_prior": "auto", "code_prior__dropout": 1.0}, r"dropout=1.0 must be .* below 1"),
        ({"code_prior": "auto", "code_prior__n_layers": True}, r"n_layers=True must be an integer"),
        (
            {"code_prior": "auto", "code_prior__learning_rate": 1e30},
            r"prior of VQVAE .*finite.*code_prior__learning_rate .*now 1e\+30",
        ),
        ({"class_conditional": "yes"}, "class_conditional"),
        ({"encoder": Conv()}, "image_shape"),
        ({"encoder": nn.Linear(5, 6)}, r"encoder=Linear.*instance.*Net\(Linear"),
        ({"encoder": Net(Encoder), "n_levels": 2}, r"encoder=Net\(Encoder\) goes with rows and n_levels=1 only"),
        ({"device": "tpu"}, "device='tpu' is not known"),
        ({"callbacks": {"lr": 0.1}}, r"callbacks holds \{'lr': 0.1\}, which is no callback"),
        ({"learning_rate": 1e38, "optimizer": "sgd", "max_epochs": 20}, r"training loss of VQVAE stopped.*learning_rate=1e.38"),
    ],
    ids=str,
)
def test_wrong_parameters(X, params, message):
    model = quick(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "module_")
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_codes": 3}, "n_codes=3 is for rows: images have a code at every place"),
        ({"n_levels": 3}, r"n_levels=3 does not fit image_shape=\(1, 8, 8\).*2x2, 1x1.*At most n_levels=2 fits"),
        ({"encoder": Net(Encoder)}, r"encoder=Net\(Encoder\) returns no grid of codes: images take encoder=Conv"),
        ({"encoder": Conv(channels=(4, 4)), "decoder": Conv(channels=(4,))}, "does not come from where"),
    ],
    ids=str,
)
def test_wrong_parameters_for_images(images, params, message):
    with pytest.raises(ValueError, match=message):
        quick(**{"n_codes": "auto", "encoder": Conv(channels=(4, 4))} | params).fit(images)


def test_late_trouble_with_the_prior_is_a_warning(X, monkeypatch):
    monkeypatch.setattr(code_priors, "fit_code_prior", lambda *args, **params: (np.ones(1), True))
    with pytest.warns(ConvergenceWarning, match="The training loss of the prior of VQVAE stopped being finite"):
        quick().fit(X)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X: np.where(X == X.max(), np.nan, X), "NaN"),
        (lambda X: X[:1], "minimum of 2"),
        (lambda X: X[0], "1D array"),
        (lambda X: X[np.newaxis], "X has 3 dimensions"),
        (lambda X: np.hstack([X.astype(object), np.full((80, 1), "blue")]), r"Column\(s\) 5 \(e.g. 'blue'\)"),
    ],
    ids=["nan", "one row", "1-D", "3-D", "strings"],
)
def test_wrong_rows(X, spoil, message):
    model = quick()
    with pytest.raises(ValueError, match=message):
        model.fit(spoil(X))
    assert not hasattr(model, "module_")


def test_wrong_rows_after_fit(X):
    model = quick(n_codes=1).fit(X)
    for method in (*PER_ROW, "predict", "score", "bits_per_dim", "compression"):
        with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 5"):
            getattr(model, method)(X[:, :3])
    with pytest.raises(ValueError, match=r"Z has 5 columns.*n_components_=3"):
        model.inverse_transform(X)


@pytest.mark.parametrize("method", [*PER_ROW, "predict", "bits_per_dim", "compression", "decode", "sample", "sample_codes"])
def test_everything_asks_for_fit_first(X, method):
    with pytest.raises(NotFittedError, match="not fitted"):
        getattr(quick(n_codes=1), method)(*[] if method.startswith("sample") else [X])


@pytest.mark.parametrize("value", [1e9, 1e19, 1e38, 1e100, -1e100])
def test_rows_far_out_get_finite_scores(X, value):
    model = quick(max_epochs=20).fit(X)
    odd = X[:2].copy()
    odd[0, 0] = value
    for method in PER_ROW:
        assert np.isfinite(getattr(model, method)(odd)).all(), method
    assert model.score_samples(odd)[0] < model.score_samples(X).min()


def test_a_histogram_refuses_several_kinds_of_label(X):
    y = np.column_stack([np.arange(80) % 2, np.arange(80) % 3])
    with pytest.raises(ValueError, match=r"code_prior='histogram' depends on one kind of label, but y has 2 columns"):
        quick(code_prior="histogram", class_conditional=True).fit(X, y)


def test_a_stream_declares_its_labels(X):
    y = np.repeat(list("ab"), 40)
    model = quick(code_prior="histogram", class_conditional=True).partial_fit(X[:40], y[:40], classes=["b", "a"])
    model.partial_fit(X[40:], y[40:])
    assert list(model.classes_) == ["a", "b"]
    with pytest.raises(ValueError, match="are not those of the first call"):
        model.partial_fit(X, y, classes=["a", "c"])


def test_a_stream_that_begins_small_trains_its_prior_later():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1)) @ np.ones((1, 6)) + 0.1 * rng.normal(size=(300, 6))
    model = quick(code_prior="transformer", n_codes=3, code_prior__max_epochs=20).partial_fit(X[:2])
    assert float(model.code_prior_[0].share) == 0.0
    model.partial_fit(X)
    assert float(model.code_prior_[0].share) > 0.0
    assert len(model.partial_fit(X).code_prior_loss_[0]) > 1


def test_probabilities_have_no_step(X):
    model = quick(likelihood="bernoulli", code_prior="uniform").fit((X > X.mean(0)).astype(float))
    with pytest.raises(ValueError, match=r"step=0.5 turns densities into probabilities"):
        model.bits_per_dim((X > X.mean(0)).astype(float), step=0.5)


def test_advice_about_few_codes_names_what_asks_for_few(X):
    with pytest.warns(UserWarning, match=r"lower entropy_weight \(now 20\)"):
        quick(entropy_weight=20.0, n_embeddings=64, code_prior=None, max_epochs=200).fit(np.repeat(X, 5, axis=0))


def test_labels_without_a_say_are_reported(X):
    with pytest.warns(UserWarning, match="does not depend on the labels"):
        model = quick(code_prior="transformer", class_conditional=True, n_embeddings=16).fit(X[:3], list("aab"))
    np.testing.assert_array_equal(model.sample(5, y="a"), model.sample(5, y="b"))


@pytest.mark.parametrize("y", [pd.DataFrame({"t": np.arange(60) / 7}), np.arange(120).reshape(60, 2) / 7], ids=["frame", "array"])
def test_numbers_are_no_classes(X, y):
    with pytest.raises(ValueError, match="class_conditional=True takes labels"):
        quick(code_prior="histogram", class_conditional=True).fit(X[:60], y)


@pytest.mark.parametrize(
    ("params", "y", "message"),
    [({}, None, "has no effect without y"), ({"class_conditional": False}, np.arange(60) % 2, "with class_conditional=False")],
    ids=["no labels", "not conditional"],
)
def test_classes_that_would_be_ignored_are_refused(X, params, y, message):
    with pytest.raises(ValueError, match=message):
        quick(**params).partial_fit(X[:60], y, classes=[0, 1])
