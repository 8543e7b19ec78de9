import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.datasets import load_digits, load_wine, make_blobs
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neighbors import KNeighborsTransformer, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from skvae import AutoEncoder, NeighborAE
from skvae.data import Table
from skvae.estimators._neighbors import find_neighbors, join_rows, weigh_edges
from skvae.estimators.neighbor import METRICS
from skvae.functional import neighbor_weights
from skvae.training import Rows

pytestmark = pytest.mark.usefixtures("one_core")

X = scale(load_wine().data)[::2]
N = len(X)


def quick(**params):
    given = {"n_components": 2, "n_neighbors": 5, "hidden_layer_sizes": (8,), "max_epochs": 3, "random_state": 0}
    return NeighborAE(**{**given, **params})


def graph_of(X, n_neighbors=5, metric="euclidean"):
    return NearestNeighbors(n_neighbors=n_neighbors, metric=metric).fit(X).kneighbors_graph(mode="distance")


# -- the graph --------------------------------------------------------------------------------------------------------


def test_edges_are_there_if_either_direction_is():
    distance = graph_of(X)
    found = weigh_edges(distance, 5).toarray()
    length = distance.toarray()
    near = np.argsort(np.where(length > 0, length, np.inf), axis=1)[:, :5]
    directed = np.zeros((N, N))
    weight = neighbor_weights(torch.from_numpy(np.take_along_axis(length, near, axis=1)))
    np.put_along_axis(directed, near, weight.numpy(), axis=1)
    np.testing.assert_allclose(found, directed + directed.T - directed * directed.T, atol=1e-12)
    np.testing.assert_array_equal(found, found.T)


def test_of_more_neighbors_the_nearest_count():
    np.testing.assert_allclose(weigh_edges(graph_of(X, 12), 5).toarray(), weigh_edges(graph_of(X, 5), 5).toarray(), atol=1e-12)


def test_equal_rows_are_neighbors_at_no_distance():
    twins = np.repeat(X[:10], 2, axis=0)
    weight = weigh_edges(find_neighbors(twins, 3, "euclidean")[0], 3).toarray()
    pairs = np.arange(0, 20, 2)
    assert (weight[pairs, pairs + 1] == 1.0).all()
    assert np.isfinite(quick().fit(twins).transform(twins)).all()
    assert np.isfinite(quick().fit(np.ones((20, 3))).transform(np.ones((20, 3)))).all()


@pytest.mark.parametrize("metric", ["manhattan", "cosine", lambda one, other: float(np.abs(one - other).max())])
def test_metrics_are_those_of_scikit_learn(metric):
    found, expected = find_neighbors(X, 5, metric)[0], graph_of(X, 5, metric)
    np.testing.assert_allclose(found.toarray(), expected.toarray())
    assert not np.array_equal(quick(metric=metric).fit(X).transform(X), quick().fit(X).transform(X))


@pytest.mark.filterwarnings("ignore:Data was converted to boolean")
@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_by_name_finds_neighbors(metric):
    for rows in (X, X[:3]):
        graph, of_new = find_neighbors(rows, 2, metric, new=X[3:6])
        assert np.isfinite(graph.data).all()
        assert np.isfinite(of_new.data).all()
        assert (np.diff(graph.indptr) == 2).all()


def test_metrics_that_go_by_the_spread_of_the_rows():
    rows = np.column_stack([X, X[:, 0] + X[:, 1], np.full(N, 3.0)])  # without further directions
    whitened = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[0]
    for metric, data, like in (("seuclidean", rows, X / X.std(axis=0)), ("mahalanobis", rows, whitened)):
        others = np.column_stack([like, (X[:, 0] + X[:, 1]) / (X[:, 0] + X[:, 1]).std()]) if metric == "seuclidean" else like
        found = find_neighbors(data, 5, metric)[0]
        np.testing.assert_array_equal(found.toarray() > 0, graph_of(others, 5).toarray() > 0)
        assert np.isfinite(quick(metric=metric).fit(data).transform(data)).all()


@pytest.fixture(scope="module")
def expected():
    return quick().fit(X).transform(X)


@pytest.mark.parametrize("n_given", [5, 9])
def test_a_transformer_that_finds_the_same_neighbors_comes_to_the_same(expected, n_given):
    transformer = KNeighborsTransformer(n_neighbors=n_given, mode="distance")
    model = quick(neighbors=transformer).fit(X)
    np.testing.assert_array_equal(model.transform(X), expected)
    assert not hasattr(transformer, "n_samples_fit_")
    with config_context(transform_output="pandas"):
        codes = quick(neighbors=transformer).set_output(transform="default").fit(X).transform(X)
    np.testing.assert_array_equal(codes, expected)


def test_parameters_of_the_transformer_are_reached(expected):
    model = quick(neighbors=KNeighborsTransformer(n_neighbors=5)).set_params(neighbors__metric="manhattan")
    np.testing.assert_array_equal(model.fit(X).transform(X), quick(metric="manhattan").fit(X).transform(X))


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.coo_matrix, sparse.csc_array])
def test_a_ready_graph_comes_to_the_same(expected, include_self, form):
    standardized = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    if include_self:
        graph = KNeighborsTransformer(n_neighbors=5, mode="distance").fit_transform(standardized)
    else:
        graph = graph_of(standardized)
    np.testing.assert_array_equal(quick().fit(X, neighbor_graph=form(graph)).transform(X), expected)


@pytest.mark.parametrize("graph", [sparse.csr_matrix((N, N)), sparse.identity(N, format="csr")], ids=["empty", "itself"])
def test_a_graph_without_neighbors_is_refused(graph):
    with pytest.raises(ValueError, match="neighbor_graph has no distance between two rows, so that none has a neighbor"):
        quick().fit(X, neighbor_graph=graph)


def test_rows_without_neighbors_in_a_graph_are_warned_of():
    graph = sparse.block_diag([graph_of(X[:-2]), sparse.csr_matrix((2, 2))], format="csr")
    with pytest.warns(UserWarning, match=rf"neighbor_graph has no neighbors for 2 of {N} rows, such as row {N - 2}"):
        quick().fit(X, neighbor_graph=graph)


def test_a_ready_graph_follows_the_rows_that_are_left():
    weight = np.ones(N)
    weight[::4] = 0.0
    kept = weight > 0
    graph = graph_of(X, 10)
    found = quick().fit(X, neighbor_graph=graph, sample_weight=weight)
    expected = quick().fit(X[kept], neighbor_graph=graph[kept][:, kept])
    np.testing.assert_array_equal(found.transform(X), expected.transform(X))


def test_a_ready_graph_is_routed():
    with config_context(enable_metadata_routing=True):
        model = quick().set_fit_request(neighbor_graph=True)
        pipe = make_pipeline(StandardScaler(), model).fit(X, neighbor_graph=graph_of(X, 3, "manhattan"))
    alone = quick().fit(StandardScaler().fit_transform(X), neighbor_graph=graph_of(X, 3, "manhattan"))
    np.testing.assert_array_equal(pipe.transform(X), alone.transform(StandardScaler().fit_transform(X)))


def test_rows_of_weight_two_are_drawn_like_two():
    rows = Rows(Table.of(X, np.where(np.arange(N) == 3, 2.0, 1.0)), None, torch.device("cpu"))
    weight = weigh_edges(graph_of(X), 5).toarray()
    join_rows(rows, graph_of(X), 5)
    i = int(np.flatnonzero(weight[3])[0])
    drawn = rows.graph.draw(torch.full((20000,), i), torch.rand(20000, generator=torch.Generator().manual_seed(0)))
    expected = weight[i] * np.where(np.arange(N) == 3, 2.0, 1.0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=N) / 20000, expected / expected.sum(), atol=0.015)


@pytest.mark.parametrize("params", [{}, {"neighbors": KNeighborsTransformer(n_neighbors=5)}, {"neighbor_space": "codes"}])
def test_rows_that_are_held_out_have_neighbors_among_the_others(params):
    model = quick(early_stopping=True, **params)
    assert (model.fit(X).history_["valid_neighbor"] > 0.0).all()
    assert (model.fit(X, validation_data=X[:5] + 0.1).history_["valid_neighbor"] > 0.0).all()


def test_a_ready_graph_knows_the_rows_that_are_drawn_alone():
    model = quick(early_stopping=True)
    assert "valid_neighbor" in model.fit(X, neighbor_graph=graph_of(X, 20)).history_
    found = model.fit(X, neighbor_graph=graph_of(X, 20), validation_data=X[:5] + 0.1).history_
    assert "valid_neighbor" not in found
    assert "valid_reconstruction" in found


# -- what cannot be ---------------------------------------------------------------------------------------------------


def spoilt(value):
    graph = graph_of(X)
    graph.data[7] = value
    return graph


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (graph_of(X[:-1]), rf"has the shape \({N - 1}, {N - 1}\), and has to have \({N}, {N}\), as X has {N} rows"),
        (graph_of(X)[:, :-1], "has the shape"),
        (graph_of(X).toarray(), "neighbor_graph is of type ndarray"),
        ([[0.0]], "neighbor_graph is of type list"),
        (spoilt(np.nan), "negative or no finite numbers"),
        (spoilt(np.inf), "negative or no finite numbers"),
        (spoilt(-1.0), "negative or no finite numbers"),
    ],
)
def test_graphs_that_are_none_are_refused(graph, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X, neighbor_graph=graph)


def test_a_search_cannot_divide_a_graph():
    with pytest.raises(ValueError, match=r"neighbor_graph has the shape.*have each fold find its own"):
        GridSearchCV(quick(), {"n_components": [2]}, cv=2, error_score="raise").fit(X, neighbor_graph=graph_of(X))
    found = cross_validate(quick(neighbors=KNeighborsTransformer()), X, cv=2, error_score="raise")["test_score"]
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"n_neighbors": 2.5}, "n_neighbors"),
        ({"neighbor_weight": -1.0}, "neighbor_weight"),
        ({"min_dist": 1.5}, "min_dist"),
        ({"metric": "euclid"}, "metric"),
        ({"metric": "precomputed"}, "metric"),
        ({"metric": "pyfunc"}, "metric"),
        ({"metric": "haversine"}, "metric"),
        ({"neighbors": 5}, "neighbors"),
        ({"neighbors": KNeighborsTransformer}, "is a class"),
        ({"neighbors": PCA(2)}, r"neighbors=PCA\(n_components=2\) returned is of type ndarray"),
        ({"neighbor_space": "pixels"}, "neighbor_space"),
    ],
)
def test_parameters_that_cannot_be_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        quick(**params).fit(X)


def test_two_ways_to_say_which_rows_are_near_are_one_too_many():
    with pytest.raises(ValueError, match="give one of them"):
        quick(neighbors=KNeighborsTransformer()).fit(X, neighbor_graph=graph_of(X))
    with pytest.raises(ValueError, match="neighbor_space='codes'"):
        quick(neighbor_space="codes").fit(X, neighbor_graph=graph_of(X))


def test_more_neighbors_than_rows_are_cut_with_a_warning():
    with pytest.warns(UserWarning, match="n_neighbors=15 is more than the 9 other rows"):
        found = quick(n_neighbors=15).fit(X[:10])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = quick(n_neighbors=9).fit(X[:10])
        quick(n_neighbors=15).partial_fit(X[:10])
    np.testing.assert_array_equal(found.transform(X), expected.transform(X))


# -- the fit ----------------------------------------------------------------------------------------------------------


def test_without_their_weight_neighbors_count_for_nothing():
    found = quick(neighbor_weight=0.0).fit(X)
    assert "neighbor" not in found.history_
    np.testing.assert_array_equal(found.transform(X), quick(neighbor_weight=0.0, n_neighbors=2, min_dist=0.5).fit(X).transform(X))
    assert "neighbor" in quick().fit(X).history_


def test_chunks_have_neighbors_of_their_own():
    model = quick()
    for chunk in np.array_split(X, 4):
        model.partial_fit(chunk)
    assert np.isfinite(model.history_["neighbor"]).all()
    assert (model.history_["neighbor"] > 0.0).all()
    model.partial_fit(X[:1])  # a row alone has none
    assert model.history_["neighbor"][-1] == 0.0


def test_missing_entries_are_left_out_of_distances_on_request():
    gappy = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    filled = quick(missing_values=np.nan).fit(gappy).transform(gappy)
    skipped = quick(missing_values=np.nan, metric="nan_euclidean").fit(gappy).transform(gappy)
    assert np.isfinite(filled).all()
    assert np.isfinite(skipped).all()
    assert not np.array_equal(filled, skipped)


def test_neighbors_of_codes_are_looked_for_after_some_training():
    model = quick(neighbor_space="codes", max_epochs=6).fit(X)
    assert model.n_iter_ == 6
    assert not np.array_equal(model.transform(X), quick(max_epochs=6).fit(X).transform(X))
    again = quick(neighbor_space="codes", max_epochs=6, warm_start=True).fit(X).fit(X)
    assert np.isfinite(again.transform(X)).all()


def test_images_and_sparse_rows_have_neighbors_too():
    images = load_digits().images[:60, None] / 16.0
    assert quick().fit(images).transform(images).shape == (60, 2)
    rows = sparse.csr_matrix(np.where(X > 0.0, X, 0.0))
    np.testing.assert_allclose(quick().fit(rows).transform(rows), quick().fit(rows.toarray()).transform(rows), atol=1e-5)


def test_bits_do_not_depend_on_the_number_of_threads():
    rows, found = load_digits().data[:400], []
    for number in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            found.append(quick(hidden_layer_sizes=(128, 64), max_epochs=2, n_neighbors=15).fit(rows).transform(rows))
        finally:
            torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_codes_keep_neighbors_that_principal_components_do_not():
    angle, height = np.random.default_rng(0).random((2, 400))
    roll = np.column_stack([angle * np.cos(9 * angle), angle * np.sin(9 * angle), height, 0.5 * height])
    codes = NeighborAE(2, max_epochs=60, learning_rate=0.01, random_state=0).fit(roll).transform(roll)
    principal = PCA(2).fit_transform(scale(roll))
    assert trustworthiness(roll, codes) > trustworthiness(roll, principal) + 0.01


def test_groups_of_rows_lie_apart():
    rows, label = make_blobs(300, 10, centers=4, cluster_std=2.5, random_state=0)

    def gap(model):
        codes = model.fit(rows).transform(rows)
        centers = np.array([codes[label == each].mean(0) for each in range(4)])
        within = np.mean([codes[label == each].std(0).mean() for each in range(4)])
        apart = np.linalg.norm(centers[:, None] - centers, axis=2)
        return apart[np.triu_indices(4, 1)].min() / within

    given = {"n_components": 2, "max_epochs": 60, "random_state": 0}
    assert gap(NeighborAE(**given)) > 1.2 * gap(AutoEncoder(linear_path=None, **given))
