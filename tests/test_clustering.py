"""Clusters of rows by their codes, and what the number of clusters is decided by."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from scipy import sparse
from scipy.optimize import linprog
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_iris, make_blobs, make_moons
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

import skvae
from skvae import CVAE, AutoEncoder, AutoencoderClusterer, NeighborAE, VAETransformer, clustering
from skvae import _partition as partition

pytestmark = pytest.mark.usefixtures("one_core")
NOT_EXACT = "training in single precision on shuffled batches does not meet 1e-7"


def expected_failed_checks(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": NOT_EXACT,
        "check_sample_weight_equivalence_on_sparse_data": NOT_EXACT,
    }


def clusterer(n_clusters="auto", estimator=None, **params):
    """Return a clusterer whose codes take no time."""
    return AutoencoderClusterer(n_clusters, **{"estimator": estimator or PCA(2), "n_init": 1, "random_state": 0, **params})


def tiny(**params):
    return NeighborAE(2, **{"hidden_layer_sizes": (8,), "max_epochs": 3, "device": "cpu", **params})


@pytest.fixture(scope="module")
def blobs():
    return make_blobs([150, 100, 60, 40], 4, cluster_std=0.8, centers=np.eye(4) * 9.0, random_state=0)


@parametrize_with_checks(
    [AutoencoderClusterer(estimator=NeighborAE(2, max_epochs=3), n_init=2)], expected_failed_checks=expected_failed_checks
)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([AutoencoderClusterer()], expected_failed_checks=expected_failed_checks)
def test_sklearn_checks_at_the_defaults(estimator, check):
    check(estimator)


# -- the dip ----------------------------------------------------------------------------------------------------------


def slow_dip(x):
    """Dip by its definition: the least distance of a function that is convex, then concave, by a linear program for each mode."""
    x = np.sort(x)
    n = len(x)
    low, high = np.arange(n) / n, np.arange(1, n + 1) / n
    slope = np.diff(np.eye(n), axis=0) / np.diff(x)[:, np.newaxis]
    bend = np.diff(slope, axis=0)  # whose sign changes at the mode
    near = [np.hstack([np.eye(n), -np.ones((n, 1))]), np.hstack([-np.eye(n), -np.ones((n, 1))])]
    cost, dips = np.append(np.zeros(n), 1.0), []
    for mode in range(n):
        sign = np.where(np.arange(1, n - 1) < mode, -1.0, 1.0) * (np.arange(1, n - 1) != mode)
        shape = np.hstack([sign[:, np.newaxis] * bend, np.zeros((n - 2, 1))])
        bounds = np.concatenate([low, -high, np.zeros(n - 2)])
        dips.append(linprog(cost, np.vstack([*near, shape]), bounds, bounds=(None, None)).fun)
    return min(dips)


@pytest.mark.parametrize("seed", range(6))
def test_the_dip_is_what_it_is_defined_as(seed):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=12), rng.normal(seed, 1.0, size=8)])
    np.testing.assert_allclose(partition.dip_of(x), slow_dip(x), atol=1e-6)


def test_dips_of_few_and_of_equal_values():
    assert partition.dip_of(np.zeros(10)) == 0.05
    assert partition.dip_of(np.array([1.0, 2.0])) == 0.25
    assert partition.dip_of(np.repeat([0.0, 1.0], 50)) == pytest.approx(0.25, abs=0.01)


# -- groups and gaps --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows_of_blobs(blobs):
    points = partition.principal(partition.scaled(blobs[0], np.ones(len(blobs[0]))), 0)
    return partition.Rows.of(points, np.ones(len(points)), 10)


def test_the_gain_of_joining_is_that_of_the_quality(rows_of_blobs):
    rng = np.random.default_rng(0)
    cells = partition.Cells.of(rows_of_blobs, rows_of_blobs.points, 12, 0)
    groups = partition._Groups(cells)
    gain = groups.gain()
    before = cells.quality(groups.labels())
    for first, second in rng.integers(12, size=(10, 2)):
        if first != second:
            joined = partition._Groups(cells)
            joined.join(first, second)
            assert cells.quality(joined.labels()) - before == pytest.approx(2 * gain[first, second])


def test_moving_cells_never_lowers_the_quality(rows_of_blobs):
    cells = partition.Cells.of(rows_of_blobs, rows_of_blobs.points, 20, 0)
    for seed in range(5):
        labels = np.random.default_rng(seed).permutation(np.arange(len(cells.size)) % 4)
        moved = partition._moved(cells, labels)
        assert cells.quality(moved) > cells.quality(labels)
        assert len(np.unique(moved)) == 4


def test_gaps_are_between_blobs_and_not_within(rows_of_blobs, blobs):
    points, of = rows_of_blobs.points, blobs[1]
    random = np.random.default_rng(0)
    between = partition.find_gap(points, points, np.flatnonzero(of == 0), np.flatnonzero(of == 3), 0.0, random)
    assert between.parts
    own = np.flatnonzero(of == 0)
    order = own[np.argsort(points[own, 0])]
    assert not partition.find_gap(points, points, order[:75], order[75:], 0.0, random).parts


def test_rows_in_one_unit_stay_as_they_are():
    rng = np.random.default_rng(0)
    one = rng.uniform(0.0, [1.0, 0.9, 0.8, 0.1], size=(50, 4))
    np.testing.assert_allclose(
        np.std(partition.scaled(one, np.ones(50)), axis=0)[3] / np.std(one, axis=0)[3], 1 / one.std(0)[0], rtol=0.5
    )
    other = rng.normal(size=(50, 3)) * [1.0, 100.0, 1e4]
    np.testing.assert_allclose(partition.scaled(other, np.ones(50)).std(axis=0), 1.0)


# -- numbers of clusters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_clusters", ["auto", 4])
def test_blobs_of_unequal_size(blobs, n_clusters):
    X, y = blobs
    model = clusterer(n_clusters, PCA(3)).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.98
    assert model.n_clusters_ == 4
    assert model.report_ == {"n_groups": 4, "merged": {}, "split": [], "n_died": 0}
    np.testing.assert_allclose(model.weights_, np.array([150, 100, 60, 40]) / 350, atol=0.01)
    np.testing.assert_array_equal(np.bincount(model.labels_), np.sort(np.bincount(model.labels_))[::-1])


@pytest.mark.parametrize("kind", ["normal", "uniform", "t"])
@pytest.mark.parametrize("width", [2, 10])
def test_clouds_have_no_clusters(kind, width):
    rng = np.random.default_rng(0)
    X = rng.uniform(size=(500, width)) if kind == "uniform" else rng.normal(size=(500, width))
    if kind == "t":
        X /= np.sqrt(rng.chisquare(3, size=(500, 1)))
    with pytest.warns(UserWarning, match="no clusters to speak of: .* and there is one"):
        model = clusterer().fit(X)
    assert model.n_clusters_ == 1
    with pytest.warns(UserWarning, match="no clusters to speak of: .* the 3 clusters are parts of one cloud"):
        model = clusterer(3).fit(X)
    assert model.n_clusters_ == 3
    assert model.report_["split"] == [(0, 1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert clusterer(1).fit(X).n_clusters_ == 1  # which was asked for


def test_curved_clusters_are_not_cut():
    X, y = make_moons(400, noise=0.05, random_state=0)
    model = clusterer(estimator=FunctionTransformer()).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95


def test_what_was_merged_and_split_is_reported(blobs):
    X, _ = blobs
    merged = clusterer(3, PCA(3)).fit(X).report_
    assert merged["n_groups"] == 4
    assert list(merged["merged"].values()) == [2]
    split = clusterer(5, PCA(3)).fit(X).report_
    assert [len(pair) for pair in split["split"]] == [2]


def test_no_more_than_the_largest_number(blobs):
    assert clusterer(max_clusters=2).fit(blobs[0]).n_clusters_ == 2


def test_more_clusters_than_rows():
    X = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(ValueError, match="n_samples=6 should be >= n_clusters=7"):
        clusterer(7).fit(X)
    with pytest.warns(ConvergenceWarning, match="n_clusters=3 is more than the number of rows of X that differ, 2"):
        model = clusterer(3).fit(np.repeat(X[:2], 10, axis=0))
    assert np.array_equal(np.unique(model.labels_), [0, 1])


@pytest.mark.parametrize("n_rows", [1, 2, 3, 5])
def test_few_rows(n_rows):
    X = np.random.default_rng(0).normal(size=(n_rows, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = clusterer(estimator=PCA(1)).fit(X)
        each = clusterer(n_rows, estimator=PCA(1), n_resamples=int(n_rows > 1)).fit(X)
    assert model.n_clusters_ == 1
    assert sorted(each.labels_) == list(range(n_rows))


def test_codes_that_do_not_differ(blobs):
    collapsed = FunctionTransformer(lambda X: np.ones((len(X), 2)))
    with pytest.warns(ConvergenceWarning, match="3 of n_clusters=4 clusters were left without a row and are dropped; set fewer"):
        model = clusterer(4, collapsed).fit(blobs[0])
    assert model.n_clusters_ == 1
    assert model.report_["n_died"] == 3


def test_an_estimator_that_is_fitted_already(blobs):
    frozen = FrozenEstimator(PCA(3).fit(blobs[0]))
    model = clusterer(4, frozen).fit(blobs[0])
    assert model.estimator_.estimator is frozen.estimator
    assert adjusted_rand_score(blobs[1], model.labels_) > 0.98


def test_constant_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert clusterer(estimator=FunctionTransformer()).fit(np.ones((20, 3))).n_clusters_ == 1


# -- new rows ---------------------------------------------------------------------------------------------------------


def test_labels_are_predictions(blobs):
    X, _ = blobs
    model = clusterer(4, PCA(3)).fit(X)
    np.testing.assert_array_equal(model.labels_, model.predict(X))
    probability = model.predict_proba(X)
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)
    np.testing.assert_array_equal(probability.argmax(axis=1), model.labels_)
    np.testing.assert_array_equal(clone(model).fit_predict(X), model.labels_)
    new, of_new = make_blobs([20, 20, 20, 20], 4, cluster_std=0.8, centers=np.eye(4) * 9.0, random_state=1)
    assert adjusted_rand_score(of_new, model.predict(new)) > 0.95
    np.testing.assert_allclose(model.transform(new), model.estimator_.transform(new))
    assert list(model.get_feature_names_out()) == [f"autoencoderclusterer{i}" for i in range(3)]


def test_samples_belong_to_their_cluster(blobs):
    model = clusterer(4, PCA(3)).fit(blobs[0])
    for label in range(4):
        assert (model.predict(model.sample(30, label, random_state=1)) == label).mean() > 0.95
    shares = np.bincount(model.predict(model.sample(2000, random_state=0))) / 2000
    np.testing.assert_allclose(shares, model.weights_, atol=0.05)
    np.testing.assert_array_equal(model.sample(3, random_state=5), model.sample(3, random_state=5))
    for label in (4, -1, True, 0.5, "a"):
        with pytest.raises(ValueError, match=r"must be one of the clusters, 0 to 3, or None for all"):
            model.sample(1, label)


def test_samples_of_an_autoencoder_have_its_noise(blobs):
    model = clusterer(4, AutoEncoder(2, max_epochs=3, linear_path=None)).fit(blobs[0])
    means, draws = (model.sample(200, mean=mean, random_state=0) for mean in (True, False))
    assert draws.var() > means.var()
    pipe = make_pipeline(StandardScaler(), clusterer(4, AutoEncoder(2, max_epochs=3, linear_path=None))).fit(blobs[0])
    assert skvae.sample(pipe, 5).shape == (5, 4)
    assert np.abs(skvae.sample(pipe, 200, random_state=0).mean(axis=0) - blobs[0].mean(axis=0)).max() < 2.0


def test_what_the_estimator_can_do_is_reached_through_the_clusterer(blobs):
    X, _ = blobs
    pipe = make_pipeline(StandardScaler(), clusterer(4, AutoEncoder(2, max_epochs=3, linear_path=None))).fit(X)
    inner = pipe[-1].estimator_
    np.testing.assert_allclose(skvae.score_anomaly(pipe, X), inner.score_anomaly(pipe[0].transform(X)))
    scaled = inner.reconstruct(pipe[0].transform(X))
    np.testing.assert_allclose(skvae.reconstruct(pipe, X), pipe[0].inverse_transform(scaled))


def test_threads_change_nothing(blobs):
    models = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            models.append(clusterer(4, PCA(3), n_init=2).fit(blobs[0]))
    np.testing.assert_array_equal(*(model.predict_proba(blobs[0]) for model in models))


def test_what_cannot_be_decoded(blobs):
    model = clusterer(4, FunctionTransformer(np.tanh)).fit(blobs[0])
    with pytest.raises(TypeError, match=r"Step 'estimator' \(FunctionTransformer\) has a func, but no inverse_func"):
        model.sample()


def test_what_is_decoded_under_conditions(blobs):
    model = clusterer(4, CVAE(2, condition_columns=[3], max_epochs=1)).fit(blobs[0])
    np.testing.assert_array_equal(model.predict(blobs[0]), model.labels_)
    for call in (model.sample, lambda: model.inverse_transform(model.cluster_centers_)):
        with pytest.raises(TypeError, match="Codes of a CVAE are decoded under conditions, of which the clusters know nothing"):
            call()
    assert model.estimator_.inverse_transform(model.cluster_centers_, condition=1.0).shape == (model.n_clusters_, 4)


def test_centers_are_decoded(blobs):
    X, _ = blobs
    model = clusterer(4, make_pipeline(StandardScaler(), PCA(3))).fit(X)
    centers = model.inverse_transform(model.cluster_centers_)
    for label in range(4):
        np.testing.assert_allclose(centers[label], X[model.labels_ == label].mean(axis=0), atol=0.5)


# -- estimators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        tiny(),
        AutoEncoder(2, max_epochs=3, linear_path=None),
        VAETransformer(2, max_epochs=3, linear_path=None),
        make_pipeline(StandardScaler(), tiny()),
        make_pipeline(StandardScaler(), make_pipeline(tiny())),
        PCA(2),
    ],
    ids=["NeighborAE", "AutoEncoder", "VAE", "pipeline", "nested", "PCA"],
)
def test_any_estimator(blobs, estimator):
    X, _ = blobs
    model = clusterer(4, estimator, n_init=2).fit(X)
    assert model.n_clusters_ == 4
    assert model.n_features_in_ == 4
    assert -0.1 < model.stability_ <= 1.0
    assert estimator.get_params(deep=False).keys() == model.estimator_.get_params(deep=False).keys()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    np.testing.assert_array_equal(clone(model).fit(X).labels_, model.labels_)


def test_frames_keep_their_names(blobs):
    frame = pd.DataFrame(blobs[0], columns=list("abcd"))
    model = clusterer(4, tiny()).fit(frame)
    assert list(model.feature_names_in_) == list("abcd")
    assert list(model.set_output(transform="pandas").transform(frame).columns) == [
        "autoencoderclusterer0",
        "autoencoderclusterer1",
    ]


def test_sparse_rows_give_what_dense_ones_do(blobs):
    X, _ = blobs
    model = clusterer(4, tiny()).fit(X)
    other = clusterer(4, tiny()).fit(sparse.csr_matrix(X))
    np.testing.assert_array_equal(model.labels_, other.labels_)
    np.testing.assert_array_equal(other.predict(sparse.csr_matrix(X)), other.labels_)
    with pytest.raises(ValueError, match="predict_proba takes no sparse rows"):
        other.predict_proba(sparse.csr_matrix(X))


@pytest.mark.parametrize("missing", [np.nan, -99.0])
def test_missing_entries(blobs, missing):
    X = blobs[0].copy()
    X[::7, 1] = missing
    model = clusterer(4, AutoEncoder(2, max_epochs=3, linear_path=None, missing_values=missing)).fit(X)
    assert model.n_clusters_ == 4
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_images_and_sequences():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(40, 1, 6, 6)) + np.repeat([0.0, 3.0], 20)[:, None, None, None]
    model = clusterer(2, NeighborAE(2, max_epochs=2, hidden_layer_sizes=(8,))).fit(images)
    assert adjusted_rand_score(np.repeat([0, 1], 20), model.labels_) == 1.0
    assert model.sample(2).shape == (2, 1, 6, 6)


def test_weights_count_and_rows_without_are_left_out(blobs):
    X, y = blobs
    weight = np.where(y == 3, 0.0, 1.0)
    model = clusterer(estimator=tiny(max_epochs=1), n_init=1).fit(X, sample_weight=weight)
    other = clusterer(estimator=tiny(max_epochs=1), n_init=1).fit(X[y < 3])
    np.testing.assert_array_equal(model.labels_[y < 3], other.labels_)
    assert len(model.labels_) == len(X)
    weight = np.where(y == 3, 100.0, 1.0)
    heavy = clusterer(4, tiny(max_epochs=1)).fit(X, sample_weight=weight)
    assert heavy.weights_[0] > 0.8
    with pytest.raises(ValueError, match="sample_weight was given, but fit of PCA takes none"):
        clusterer(4).fit(X, sample_weight=weight)


def test_repeated_rows_count_by_their_weight(blobs):
    X, _ = blobs
    table = clustering._Distinct.of(PCA(2).fit(X), np.repeat(X, 2, axis=0), np.ones(2 * len(X)), 10)
    other = clustering._Distinct.of(PCA(2).fit(X), X, np.full(len(X), 2.0), 10)
    np.testing.assert_allclose(np.abs(table.rows.points), np.abs(other.rows.points), atol=1e-9)
    np.testing.assert_array_equal(table.rows.mass, other.rows.mass)
    np.testing.assert_array_equal(table.inverse, np.repeat(np.arange(len(X)), 2))


DISTINCT = np.array([[0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 9.0, 0.0]])


@pytest.mark.filterwarnings("error")
def test_few_rows_that_come_often_are_clusters():
    X = np.repeat(DISTINCT, 40, axis=0)
    y = np.repeat(np.arange(3), 40)
    model = AutoencoderClusterer(estimator=tiny(), n_resamples=1, random_state=0).fit(X)
    assert adjusted_rand_score(model.labels_, y) == 1.0
    assert model.report_["n_groups"] == 3
    rare = np.concatenate([X, DISTINCT + 0.1, DISTINCT[:1] + 0.2])
    assert adjusted_rand_score(clusterer().fit_predict(rare), [*y, 0, 1, 2, 0]) == 1.0
    assert clusterer(2).fit(X).n_clusters_ == 2
    assert clusterer(max_clusters=2).fit(X).n_clusters_ == 2
    frame = pd.DataFrame({"a": np.array(list("xyx"))[y], "b": np.array(list("uuv"))[y]})
    assert adjusted_rand_score(clusterer(estimator=tiny()).fit_predict(frame), y) == 1.0


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (DISTINCT, "there are only 3 different rows, too few for gaps between groups of them to be seen, and there is one"),
        (np.repeat(DISTINCT, 7, axis=0), "there are only 3 different rows"),
        (np.repeat(DISTINCT[:1], 40, axis=0), "all of them are equal, and there is one"),
    ],
    ids=["three", "seven of each", "one"],
)
def test_few_rows_that_come_rarely_are_no_clusters(X, message):
    with pytest.warns(UserWarning, match=message):
        assert clusterer().fit(X).n_clusters_ == 1


def test_a_graph_is_looked_for_once_and_handed_on(blobs, monkeypatch):
    graphs = []
    original = NeighborAE.fit

    def fit(self, X, y=None, *, neighbor_graph=None, **params):
        graphs.append(neighbor_graph)
        return original(self, X, y, neighbor_graph=neighbor_graph, **params)

    monkeypatch.setattr(NeighborAE, "fit", fit)
    clusterer(4, tiny(max_epochs=1), n_init=2, n_resamples=1, n_jobs=1).fit(blobs[0])
    assert graphs[0] is graphs[1]
    assert graphs[0].shape == (350, 350)
    assert graphs[2].shape == (280, 280)
    clusterer(4, tiny(max_epochs=1, metric="manhattan")).fit(blobs[0])
    assert graphs[3] is None
    clusterer(4, tiny(max_epochs=1, n_neighbors=20)).fit(blobs[0])  # which asks for more than the clusterer does
    assert graphs[4].nnz == 20 * 350


# -- starts -----------------------------------------------------------------------------------------------------------


def test_starts_differ_and_the_best_is_kept(blobs):
    X, _ = blobs
    model = clusterer(4, tiny(), n_init=3, n_resamples=2).fit(X)
    assert np.isfinite(model.stability_)
    assert np.isnan(clusterer(4, tiny()).fit(X).stability_)
    seeds = {clusterer(4, tiny(), n_init=1, random_state=seed).fit(X).estimator_.random_state for seed in range(2)}
    assert len(seeds) == 2


def test_clusters_are_stable_where_there_are_some(blobs):
    rng = np.random.default_rng(0)
    stable = clusterer(4, PCA(3), n_init=1, n_resamples=3).fit(blobs[0]).stability_
    with pytest.warns(UserWarning, match="no clusters to speak of"):
        loose = clusterer(4, PCA(3), n_init=1, n_resamples=3).fit(rng.normal(size=(350, 4))).stability_
    assert stable > 0.98 > 0.9 > loose


def test_training_together_is_training_alone(blobs):
    X, _ = blobs
    together = clusterer(4, tiny(), n_init=2).fit(X)
    alone = clusterer(4, tiny(), n_init=2, n_jobs=1).fit(X)
    np.testing.assert_array_equal(together.labels_, alone.labels_)
    with parallel_config("threading", n_jobs=2):
        threads = clusterer(4, tiny(), n_init=2).fit(X)
    np.testing.assert_array_equal(threads.labels_, alone.labels_)


@pytest.mark.parametrize("configured", [None, "threading"])
def test_joblib_is_configured_only_where_it_is_not(configured, blobs, monkeypatch):
    seen = []
    monkeypatch.setattr(clustering, "train_together", lambda: seen.append(True) or parallel_config("sequential"))
    monkeypatch.setattr(clustering, "Parallel", lambda n_jobs: lambda tasks: [task[0](*task[1], **task[2]) for task in tasks])
    model = clusterer(4, tiny(max_epochs=1), n_init=2)
    if configured is None:
        model.fit(blobs[0])
    else:
        with parallel_config(configured, n_jobs=2):
            model.fit(blobs[0])
    assert bool(seen) == (configured is None)


def test_the_estimator_decides_the_seed_where_the_clusterer_does_not(blobs):
    X, _ = blobs
    one, other = (
        AutoencoderClusterer(4, estimator=tiny(random_state=3), n_init=2).fit(X).estimator_.random_state for _ in range(2)
    )
    assert one == other != 3


def test_a_fit_that_fails_leaves_the_clusterer_as_it_was(blobs):
    model = clusterer(4).fit(blobs[0])
    before = model.labels_
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((5, 4), np.nan))
    assert model.labels_ is before


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"estimator": NeighborAE}, ValueError, r"estimator=NeighborAE is a class; pass an instance, NeighborAE\(\.\.\.\)"),
        ({"estimator": KMeans}, ValueError, "estimator=KMeans is a class"),
        ({"estimator": make_pipeline(StandardScaler(), CVAE())}, ValueError, "is fitted with y, but y is not handed on"),
        ({"estimator": 3}, ValueError, "The 'estimator' parameter of AutoencoderClusterer"),
        ({"n_clusters": 0}, ValueError, "The 'n_clusters' parameter"),
        ({"n_clusters": "many"}, ValueError, "The 'n_clusters' parameter"),
        ({"max_clusters": 0}, ValueError, "The 'max_clusters' parameter"),
        ({"n_init": 0}, ValueError, "The 'n_init' parameter"),
        ({"n_resamples": -1}, ValueError, "The 'n_resamples' parameter"),
        ({"n_neighbors": 0}, ValueError, "The 'n_neighbors' parameter"),
    ],
)
def test_errors(params, error, message, blobs):
    with pytest.raises(error, match=message):
        AutoencoderClusterer(**params).fit(blobs[0])


def test_what_is_not_fitted():
    for method in ("predict", "predict_proba", "transform", "inverse_transform"):
        with pytest.raises(NotFittedError):
            getattr(AutoencoderClusterer(), method)(np.zeros((2, 2)))
    with pytest.raises(NotFittedError):
        AutoencoderClusterer().sample()


def test_iris_in_a_pipeline():
    X, y = load_iris(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), clusterer(3, NeighborAE(2, max_epochs=30, device="cpu")))
    assert adjusted_rand_score(y, pipe.fit_predict(X)) > 0.5
    np.testing.assert_array_equal(pipe.predict(X), pipe[-1].labels_)


@pytest.mark.slow
def test_digits_at_the_defaults():
    X, y = load_digits(return_X_y=True)
    given = AutoencoderClusterer(10, random_state=0).fit(X)
    assert adjusted_rand_score(y, given.labels_) > 0.85
    found = AutoencoderClusterer(random_state=0).fit(X)
    assert abs(found.n_clusters_ - 10) <= 2
    assert adjusted_rand_score(y, found.labels_) > adjusted_rand_score(y, given.labels_) - 0.03


@pytest.mark.parametrize("n_small", [30, 100])
@pytest.mark.parametrize("n_groups", [None, 4])
def test_clusters_that_are_there_are_found_however_unequal(n_small, n_groups):
    y = np.repeat(np.arange(4), [900, n_small, n_small, n_small])
    points = 30.0 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]])[y] + np.random.default_rng(0).normal(size=(len(y), 2))
    rows = partition.Rows.of(points, np.ones(len(y)), 15)
    found = partition.choose(partition.divide(rows, points, n_groups, 50, 0))
    assert adjusted_rand_score(y, found.labels) == 1.0


def test_equal_rows_are_one_cluster_and_nothing_else_is_said():
    model = AutoencoderClusterer(2, estimator=AutoEncoder(2, max_epochs=1, random_state=0), n_init=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.warns(UserWarning, match=r"have no clusters to speak of|more than the number of rows"):
            assert model.fit(np.ones((30, 3))).n_clusters_ == 1
