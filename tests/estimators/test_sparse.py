import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import crossed, slow
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from threadpoolctl import ThreadpoolController

from skvae import BatchTopK, Conv, SparseAE, TopK
from skvae.data import Table
from skvae.estimators._density import ActivityDensity
from skvae.modules import PENALTIES

LOADERS = {"digits": load_digits, "wine": load_wine, "breast_cancer": load_breast_cancer}
EXACT_ZEROS = [penalty for penalty in PENALTIES if penalty != "kl"]


pytestmark = pytest.mark.usefixtures("one_core")


def halves(name):
    """Shuffled rows to train on, those held out and the labels of both."""
    X, y = LOADERS[name](return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    n_train = 4 * len(X) // 5
    X, y = X[order], y[order]
    return X[:n_train], X[n_train:], y[:n_train], y[n_train:]


def rows(n_rows=120, n_features=16, seed=0):
    """Rows in [0, 1]."""
    return np.random.default_rng(seed).random((n_rows, n_features))


def low_rank(n_rows=600):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_rows, 3)) @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(n_rows, 12))


def quick(penalty="top_k", **params):
    return SparseAE(20, penalty=penalty, k=3, max_epochs=5, random_state=0).set_params(**params)


def is_active(model, Z):
    return Z > model.module_.active_above if model.penalty == "kl" else Z != 0.0


# -- what has to show -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*are active in no training row")
@pytest.mark.parametrize("name", ["digits", "wine"])
@pytest.mark.parametrize(("k", "alpha"), [(1, 1.0), (4, 1.0), (4, 1.6), (3, 2.5)])
def test_top_k_codes_have_k_units_in_every_row(name, k, alpha):
    train, held_out, _, _ = halves(name)
    model = SparseAE(penalty=TopK(alpha=alpha), k=k, max_epochs=3, random_state=0).fit(train)
    for X in (train, held_out, held_out + 100.0):
        assert ((model.transform(X) != 0.0).sum(1) == round(alpha * k)).all()
    assert model.mean_active_units_ == round(alpha * k)


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
@pytest.mark.parametrize("params", [{}, {"batch_size": 16}], ids=str)
def test_kl_holds_the_mean_activation_on_new_rows(name, params):
    train, held_out, _, _ = halves(name)
    if name == "digits" and params:
        params = {**params, "max_epochs": 15}
    model = SparseAE(random_state=0, **params).fit(train)
    mean = model.transform(held_out).mean(0)
    assert mean.mean() == pytest.approx(0.05, abs=0.02)
    assert np.mean(np.abs(mean - 0.05) < 0.02) > 0.8
    np.testing.assert_allclose(model.mean_activation_, 0.05, atol=0.03)


def test_kl_without_weight_holds_nothing():
    model = SparseAE(sparsity_weight=0.0, max_epochs=30, random_state=0).fit(load_wine().data)
    assert np.abs(model.mean_activation_ - 0.05).max() > 0.1


@pytest.mark.parametrize("target", [0.02, 0.2])
def test_kl_follows_its_target(target):
    model = SparseAE(target_activation=target, random_state=0).fit(load_breast_cancer().data)
    assert model.mean_activation_.mean() == pytest.approx(target, rel=0.3)


@pytest.mark.parametrize(("k", "alpha"), [(3, 1.0), (6, 1.0), (3, 2.0)])
def test_batch_top_k_keeps_k_a_row_on_average(k, alpha):
    train, held_out, _, _ = halves("digits")
    model = SparseAE(penalty=BatchTopK(alpha=alpha), k=k, max_epochs=20, random_state=0).fit(train)
    assert model.mean_active_units_ == pytest.approx(alpha * k, rel=1e-3)
    counts = (model.transform(held_out) != 0.0).sum(1)
    assert counts.mean() == pytest.approx(alpha * k, rel=0.35)
    assert len(np.unique(counts)) > 2


def test_l1_silences_more_the_more_it_weighs():
    X = load_breast_cancer().data
    models = [SparseAE(penalty="l1", sparsity_weight=w, max_epochs=30, random_state=0).fit(X) for w in (0.0, 0.5, 3.0)]
    active = [model.mean_active_units_ for model in models]
    assert active == sorted(active, reverse=True)
    assert active[2] < 0.7 * active[0]
    assert (models[1].transform(X) >= 0.0).all()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_codes_are_sparse_and_still_tell_the_digits(penalty):
    train, held_out, y_train, y_test = halves("digits")
    model = SparseAE(penalty=penalty, max_epochs=20, random_state=0).fit(train)
    assert model.mean_active_units_ < 0.25 * model.n_components_
    classifier = LogisticRegression(max_iter=2000).fit(model.transform(train), y_train)
    assert classifier.score(model.transform(held_out), y_test) > 0.8


# -- CSR --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
def test_sparse_output_is_the_dense_code(penalty):
    X = rows()
    dense, csr = quick(penalty).fit(X), quick(penalty, sparse_output=True).fit(X)
    Z = csr.transform(X)
    assert sparse.issparse(Z)
    assert Z.format == "csr"
    np.testing.assert_array_equal(Z.toarray(), dense.transform(X))
    assert Z.nnz == np.count_nonzero(dense.transform(X))
    assert csr.transform(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_array_equal(csr.inverse_transform(Z), dense.inverse_transform(Z.toarray()))
    np.testing.assert_array_equal(csr.inverse_transform(Z), csr.reconstruct(X))
    assert sparse.issparse(clone(csr).fit_transform(X))
    assert sparse.issparse(dense.set_params(sparse_output=True).transform(X))  # without another fit
    np.testing.assert_array_equal(csr.transform(sparse.csr_matrix(X)).toarray(), Z.toarray())


@pytest.mark.parametrize("last", [KMeans(3, n_init=1, random_state=0), LogisticRegression()], ids=lambda e: type(e).__name__)
def test_sparse_codes_in_a_pipeline(last):
    X, y = load_wine(return_X_y=True)
    results = [make_pipeline(quick(sparse_output=output), clone(last)).fit(X, y).predict(X) for output in (True, False)]
    assert (results[0] == results[1]).mean() > 0.95


# -- statistics and dead units ----------------------------------------------------------------------------------------


def check_statistics(model, X, weight=None):
    Z = model.transform(X)
    active = is_active(model, Z)
    np.testing.assert_allclose(model.mean_activation_, np.average(Z, axis=0, weights=weight), rtol=1e-6, atol=1e-9)
    assert model.mean_activation_.dtype == np.float64
    assert model.n_dead_units_ == (~active.any(0)).sum()
    assert isinstance(model.n_dead_units_, int)
    assert model.fraction_alive_ == pytest.approx(active.any(0).mean())
    assert model.mean_active_units_ == pytest.approx(np.average(active.sum(1), weights=weight))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_are_those_of_the_training_rows(penalty, weighted):
    X = low_rank(300)
    weight = np.random.default_rng(1).random(300) if weighted else None
    model = quick(penalty, n_components=40, k=2, max_epochs=20).fit(X, sample_weight=weight)
    check_statistics(model, X, weight)
    assert 0 < model.n_dead_units_ + (penalty in ("kl", "l1"))


def test_statistics_do_not_drown_in_many_rows():
    # Sums in single precision lose a percent over a million rows.
    X = np.repeat(rows(20), 40_000, axis=0)[:, :4]
    model = SparseAE(2, penalty="kl", max_epochs=1, batch_size=8000, random_state=0).fit(X)
    np.testing.assert_allclose(model.mean_activation_, model.transform(X).mean(0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("penalty", ["top_k", *slow("batch_top_k")])
def test_revival_of_units_never_chosen(penalty):
    X = load_digits().data[:1500]
    params = {"penalty": penalty, "k": 2, "random_state": 0}
    dead = [SparseAE(256, revival_weight=weight, **params).fit(X).n_dead_units_ for weight in (0.0, 1.0)]
    assert dead[0] > 60
    assert dead[1] < 0.7 * dead[0]


def test_revival_of_silenced_units():
    params = {"penalty": "l1", "sparsity_weight": 3.0, "batch_size": 64, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dead = [SparseAE(60, revival_weight=weight, **params).fit(low_rank()).n_dead_units_ for weight in (0.0, 1 / 32)]
    assert dead[0] > 25
    assert dead[1] < 5


@pytest.mark.parametrize(
    ("params", "advice"),
    [
        ({"penalty": "top_k"}, r"set revival_weight=1/32, raise k \(now 1\) or lower n_components\."),
        ({"penalty": "batch_top_k"}, r"set revival_weight=1/32, raise k \(now 1\) or lower n_components\."),
        ({"penalty": "top_k", "revival_weight": 0.01}, r"raise revival_weight, raise k \(now 1\) or lower n_components\."),
        (
            {"penalty": "l1", "sparsity_weight": 20},
            r"set revival_weight=1/32, lower sparsity_weight \(now 20\) or lower n_components\.",
        ),
    ],
    ids=str,
)
def test_many_dead_units_are_reported(params, advice):
    model = SparseAE(60, k=1, max_epochs=30, batch_size=64, random_state=0, **params)
    with pytest.warns(UserWarning, match=r"\d+ of 60 units of SparseAE are active in no training row: " + advice):
        model.fit(low_rank())
    assert model.fraction_alive_ < 0.5


@pytest.mark.parametrize("penalty", PENALTIES)
def test_few_dead_units_are_not(penalty):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(penalty).fit(rows())


# -- samples and scores -----------------------------------------------------------------------------------------------


def patterns(active):
    return {row.tobytes() for row in np.packbits(active, axis=1)}


@pytest.mark.parametrize("penalty", PENALTIES)
def test_samples_keep_to_patterns_of_training(penalty):
    X = load_digits().data
    model = SparseAE(60, penalty=penalty, k=3, max_epochs=10, random_state=0).fit(X)
    Z, drawn = model.transform(X), model._sample_codes(3000, 0)
    assert patterns(is_active(model, drawn)) <= patterns(is_active(model, Z))
    assert len(patterns(is_active(model, drawn))) > 50
    assert (drawn <= Z.max(0) + 1e-6).all()
    assert (drawn >= Z.min(0) - 1e-6).all()
    np.testing.assert_allclose(is_active(model, drawn).mean(0), is_active(model, Z).mean(0), atol=0.07)
    often = is_active(model, Z).sum(0) > 100
    np.testing.assert_allclose(drawn.mean(0)[often], Z.mean(0)[often], atol=0.2)
    assert model.sample(7).shape == (7, 64)
    np.testing.assert_array_equal(model.sample(7, random_state=1), model.sample(7, random_state=1))


def test_patterns_of_heavy_rows_are_drawn_more_often():
    rng = np.random.default_rng(0)
    codes = np.where(np.arange(200)[:, None] < 100, [1.0, 0.0], [0.0, 2.0]) * (1.0 + 0.1 * rng.random((200, 1)))
    weight = np.where(np.arange(200) < 100, 9.0, 1.0)
    density = ActivityDensity(codes, weight / weight.mean(), None, 0)
    drawn = density.sample(2000, 1)
    assert ((drawn != 0.0).sum(1) == 1).all()
    assert (drawn[:, 0] != 0.0).mean() == pytest.approx(0.9, abs=0.06)
    assert density.rate[0] == pytest.approx(0.9, abs=0.01)
    assert density.n_free == 1


def test_density_of_units_never_or_once_active():
    codes = np.zeros((50, 4))
    codes[:, 0] = np.linspace(1.0, 2.0, 50)
    codes[3, 1] = 5.0
    codes[:, 3] = np.linspace(-1.0, -2.0, 50)
    density = ActivityDensity(codes, None, None, 0)
    assert ((density.rate > 0.0) & (density.rate < 1.0)).all()
    assert np.isfinite(density.on[:2]).all()
    assert (density.on[1] > 0.05).all()
    drawn = density.sample(500, 0)
    assert np.isfinite(drawn).all()
    assert not drawn[:, 2].any()
    assert set(drawn[:, 1]) <= {0.0, 5.0}
    assert drawn[:, [0, 3]].all()


def test_density_remembers_by_the_weight_given():
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((4000, 3)) < [0.2, 0.5, 0.9], rng.normal([3.0, 6.0, 9.0], size=(4000, 3)), 0.0)
    whole = ActivityDensity(codes, None, None, 0)
    parts = ActivityDensity(codes[:1000], None, None, 0)
    for start in range(1000, 4000, 1000):
        new = ActivityDensity(codes[start : start + 1000], None, None, start)
        new.remember(parts, 1000 / (start + 1000), start)
        parts = new
    np.testing.assert_allclose(parts.rate, whole.rate, atol=1e-3)
    for i in range(2):
        np.testing.assert_allclose(parts.on[i], whole.on[i], atol=0.01)
        np.testing.assert_array_equal(parts.on[2 + i], whole.on[2 + i])
    assert parts.n_free == whole.n_free == 3
    assert len(parts._patterns) == 4000
    np.testing.assert_allclose((parts.sample(4000, 1) != 0.0).mean(0), whole.rate, atol=0.04)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_rows_of_patterns_never_seen_have_a_score(penalty):
    train, held_out, _, _ = halves("wine")
    model = SparseAE(penalty=penalty, k=3, max_epochs=20, random_state=0).fit(train)
    strange = np.vstack([held_out, -5.0 * held_out, 20.0 * held_out, np.zeros((1, 13))])
    seen = patterns(is_active(model, model.transform(train)))
    assert not patterns(is_active(model, model.transform(strange))) <= seen
    scores = model.score_samples(strange)
    assert np.isfinite(scores).all()
    assert scores[: len(held_out)].min() > scores[len(held_out) : -1].max()


@pytest.mark.parametrize("penalty", EXACT_ZEROS)
def test_a_score_of_linear_maps_has_no_scatter(penalty):
    train, held_out, _, _ = halves("breast_cancer")
    model = SparseAE(penalty=penalty, max_epochs=20, random_state=0).fit(train)
    assert model.effective_sample_size(held_out).min() > 0.9 * model.n_score_draws
    assert model.score(held_out) < model.score(train) + 1.0


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("n_components", [20, 33])
def test_results_do_not_depend_on_the_neighbors(penalty, n_components):
    X = rows(300)
    model = quick(penalty, n_components=n_components, n_score_draws=5).fit(X)
    order = np.random.default_rng(1).permutation(300)
    for method in (model.transform, model.score_samples):
        whole = method(X)
        np.testing.assert_array_equal(method(X[order]), whole[order])
        np.testing.assert_array_equal(method(X[40:77]), whole[40:77])
        for i in (0, 151, 299):
            np.testing.assert_array_equal(method(X[i : i + 1]), whole[i : i + 1])


def test_sigmoids_do_not_depend_on_threads():
    X = rows(4500, 64)
    model = quick("kl", n_components=101, max_epochs=1).fit(X)
    results = []
    for n_threads in (1, 3):
        with ThreadpoolController().limit(limits=n_threads, user_api="openmp"):
            results.append(model.transform(X))
    np.testing.assert_array_equal(*results)


def test_search_over_k():
    search = GridSearchCV(quick(max_epochs=20), {"k": [1, 4], "penalty__alpha": [1.0, 2.0]}, cv=2).fit(load_wine().data)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    counts = (search.transform(load_wine().data) != 0.0).sum(1)
    assert (counts == round(search.best_params_["k"] * search.best_params_["penalty__alpha"])).all()


# -- with everything else ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "penalty"),
    crossed(
        [
            {"likelihood": "bernoulli"},
            {"likelihood": "laplace"},
            {"image_shape": (1, 4, 4), "encoder": Conv((3,))},
            {"decoder": "tied"},
            {"hidden_layer_sizes": (32,)},
            {"hidden_layer_sizes": (8, 6), "decoder": "tied", "encoder__dropout": 0.1, "encoder__normalization": "batch"},
            {"early_stopping": True, "early_stopping__n_iter_no_change": 2},
            {"n_components": 3, "k": 3},
            {"n_components": 1, "k": 1},
            {"batch_size": 1, "max_epochs": 1},
        ],
        [*PENALTIES],
    ),
    ids=str,
)
def test_fits_with(penalty, params):
    X = rows()
    if penalty == "l1":
        params = {name: value for name, value in params.items() if name != "encoder__normalization"}  # which it refuses
    model = quick(penalty, **{"revival_weight": 0.1, "n_score_draws": 4, **params})
    generator = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X)
        other = clone(model).fit(X)
    assert torch.equal(torch.random.get_rng_state(), generator)
    names = {"loss", "reconstruction", "revival"} | ({"sparsity"} if penalty in ("kl", "l1") else set())
    expected = names | {f"valid_{name}" for name in names} if "early_stopping" in params else names
    assert set(model.history_) == expected
    np.testing.assert_array_equal(other.transform(X), model.transform(X))
    check_statistics(model, X)
    assert np.isfinite(model.score(X))
    assert np.isfinite(model.sample(5)).all()
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(loaded.sample(5), model.sample(5))
    if "early_stopping" not in params:
        for copy in (loaded, model):
            copy.partial_fit(X).partial_fit(X[:7])
        np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
        np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
        assert loaded.n_dead_units_ == model.n_dead_units_


@pytest.mark.filterwarnings("ignore:.*are active in no training row")
def test_images_of_digits():
    X = load_digits().data[:300] / 16
    model = SparseAE(30, penalty="top_k", k=4, image_shape=(1, 8, 8), likelihood="bernoulli", max_epochs=2, random_state=0)
    Z = model.fit(X).transform(X)
    assert ((Z != 0.0).sum(1) == 4).all()
    images = X.reshape(-1, 1, 8, 8)
    np.testing.assert_array_equal(clone(model).set_params(image_shape=None).fit(images).transform(images), Z)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_weights_count_as_repetitions(penalty):
    X = low_rank(200)
    X[100:] = X[100:] @ np.random.default_rng(1).normal(size=(12, 12))  # another subspace
    model = quick(penalty, max_epochs=30)
    weight = np.where(np.arange(200) < 100, 1.0, 0.0)
    np.testing.assert_array_equal(clone(model).fit(X, sample_weight=weight).transform(X), clone(model).fit(X[:100]).transform(X))
    heavy = np.where(np.arange(200) < 100, 1.0, 1e-3)
    first, second = (clone(model).fit(X, sample_weight=weight) for weight in (heavy, heavy[::-1]))
    check_statistics(first, X, heavy)
    errors = [((fitted.reconstruct(X[:100]) - X[:100]) ** 2).mean() for fitted in (first, second)]
    assert errors[0] < errors[1]


# -- streams ----------------------------------------------------------------------------------------------------------


PIECES = [
    pytest.param(size, penalty, marks=[] if (size, penalty) in ((100, "kl"), (100, "top_k")) else [pytest.mark.slow])
    for size, penalty in (*((100, penalty) for penalty in PENALTIES), (250, "top_k"))
]


@pytest.mark.parametrize(("size", "penalty"), PIECES)
def test_a_stream_of_pieces(penalty, size):
    train, held_out, _, _ = halves("breast_cancer")
    model = SparseAE(penalty=penalty, k=3, n_score_draws=4, random_state=0)
    first = None
    for _ in range(12):
        for start in range(0, len(train), size):
            model.partial_fit(train[start : start + size])
            first = model.score(held_out) if first is None else first
    Z = model.transform(train)
    active = is_active(model, Z)
    # What is known about the codes keeps up with the network.
    assert model.mean_active_units_ == pytest.approx(active.sum(1).mean(), rel=0.35)
    np.testing.assert_allclose(model.mean_activation_.mean(), Z.mean(), rtol=0.35)
    # Those of earlier, which the memory keeps for a while, count as alive.
    assert -0.4 <= (model.n_dead_units_ - (~active.any(0)).sum()) / model.n_components_ <= 0.1
    assert model.score(held_out) > first + 5.0
    assert np.isfinite(model.sample(50)).all()
    refit = pickle.loads(pickle.dumps(model))
    run = SimpleNamespace(
        module=refit.module_, table=Table.of(train), device=torch.device("cpu"), progress=refit._progress, share=1.0
    )
    vars(refit).update(refit._measure(run))  # as if all rows were measured at the end
    refit.module_.likelihood.noise.set_moment(model.module_.likelihood.noise.moment)
    assert model.score(held_out) > refit.score(held_out) - 10.0


def test_a_piece_of_one_row():
    X = rows()
    model = quick("top_k").partial_fit(X).partial_fit(X[:1])
    assert model.mean_active_units_ == pytest.approx(3.0)
    assert np.isfinite(model.score(X))


def test_warm_start_goes_on():
    X = rows()
    model = quick("kl", warm_start=True, revival_weight=0.1).fit(X)
    before = model.transform(X)
    assert model.module_.activity.sum() > 0.0
    model.fit(X)
    assert not np.array_equal(model.transform(X), before)
    check_statistics(model, X)


@pytest.mark.parametrize("params", [{"k": 4}, {"penalty": "l1"}, {"penalty__alpha": 2.0}, {"revival_weight": 1.0}], ids=str)
def test_partial_fit_refuses_another_model(params):
    with pytest.raises(ValueError, match=f"{next(iter(params))} changed"):
        quick().partial_fit(rows()).set_params(**params).partial_fit(rows())


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"target_activation": 0}, r"'target_activation' parameter.*range \(0\.0, 1\.0\).*Got 0 "),
        ({"target_activation": 1}, r"'target_activation' parameter.*range \(0\.0, 1\.0\).*Got 1 "),
        ({"target_activation": 1.5}, r"'target_activation' parameter.*range \(0\.0, 1\.0\).*Got 1\.5 "),
        ({"k": 0}, r"'k' parameter.*range \[1, inf\).*Got 0 "),
        ({"k": 2.5}, r"'k' parameter.*Got 2\.5 "),
        ({"k": 30}, "k=30 is more than the n_components=20 units"),
        (
            {"penalty": "l1", "encoder__normalization": "layer"},
            "penalty='l1' can be had by scaling where the decoder's normalization='layer'",
        ),
        ({"k": 15, "penalty__alpha": 1.5}, "k=15 times penalty__alpha=1.5 is more than the n_components=20 units"),
        ({"penalty__alpha": 0.5}, r"penalty=TopK\(alpha=0\.5\): alpha=0\.5 must be a number of at least 1"),
        ({"penalty": "l2"}, "'penalty' parameter.*'batch_top_k'.*Got 'l2' "),
        ({"penalty": None}, "'penalty' parameter.*'top_k'.*Got None "),
        ({"sparsity_weight": -1.0}, r"'sparsity_weight' parameter.*Got -1\.0 "),
        ({"revival_weight": -1.0}, r"'revival_weight' parameter.*Got -1\.0 "),
        ({"penalty__annealing": 1.5}, r"penalty=TopK\(annealing=1\.5\): annealing=1\.5 must be a number between 0 and 1"),
        ({"sparse_output": "yes"}, "'sparse_output' parameter.*Got 'yes' "),
    ],
    ids=str,
)
def test_wrong_parameters(params, message):
    model = quick(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(rows())
    assert not hasattr(model, "module_")


def test_the_largest_k_that_there_is():
    Z = quick(k=20).fit(rows()).transform(rows())
    assert (Z != 0.0).all()
    assert ((quick(k=10, penalty__alpha=2.0).fit(rows()).transform(rows()) != 0.0).sum(1) == 20).all()


def test_auto():
    X = load_wine().data
    model = SparseAE(max_epochs=1).fit(X)
    assert model.n_components_ == 26
    assert model.module_.k == 1
    assert model.module_.sparsity_weight == pytest.approx(0.3 * 13)
    assert SparseAE(penalty="l1", max_epochs=1).fit(X).module_.sparsity_weight == 0.5
    assert SparseAE(100, max_epochs=1).fit(X).module_.k == 5
    assert SparseAE(max_epochs=1).fit(np.ones((10, 600)) * rows(10, 1)).n_components_ == 1024


# -- wide codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"penalty": "top_k", "k": 10}, {"penalty": "kl"}, {"hidden_layer_sizes": (64,)}], ids=str)
def test_the_noise_of_wide_codes_is_that_of_the_residuals(params):
    """However few rows' systems can be solved, the noise is that of all columns and rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 10)) @ rng.normal(size=(10, 400)) + rng.normal(size=(900, 400))
    model = SparseAE(800, max_epochs=8, n_score_draws=4, random_state=0, **params).fit(X[:600])
    residual = np.sqrt(((model.reconstruct(X[600:]) - X[600:]) ** 2).mean(axis=0))
    ratio = model.noise_scale_ / residual
    assert 0.45 < np.median(ratio) < 1.2
    assert ratio.min() > 0.3
    assert 0.8 < 2 * model.score_anomaly(X[600:], method="reconstruction").mean() / 400 < 4.0
    assert np.isfinite(model.score_samples(X[600:610])).all()


def test_one_system_for_all_rows_does_not_depend_on_neighbors():
    X = load_digits().data[:100]
    model = SparseAE(100, max_epochs=2, n_score_draws=3, random_state=0).fit(X)
    scores, order = model.score_samples(X), np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(model.score_samples(X[order]), scores[order])
    np.testing.assert_array_equal(model.score_samples(X[7:8]), scores[7:8])


def test_many_active_units_all_count():
    X = load_digits().data[:300]
    model = SparseAE(400, penalty="top_k", k=300, max_epochs=2, n_score_draws=2, random_state=0).fit(X)
    assert model.module_.prior.most_free == 300


def test_sparse_codes_are_built_block_by_block(monkeypatch):
    X = load_digits().data[:300]
    model = SparseAE(50, penalty="top_k", k=2, sparse_output=True, max_epochs=1, random_state=0).fit(X)
    whole = model.transform(X).toarray()
    monkeypatch.setattr("skvae.data.sources.BLOCK_BYTES", 8 * 50 * 7)
    np.testing.assert_array_equal(model.transform(X).toarray(), whole)
