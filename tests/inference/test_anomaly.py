"""The arithmetic of anomaly scores, against its definitions."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

from skvae.data import Table
from skvae.inference import anomaly, decode, encode
from skvae.inference.anomaly import (
    METHODS,
    Deviance,
    KeptRows,
    MahalanobisDistance,
    NeighborDistance,
    Rarity,
    References,
    Scorer,
    Surprise,
)
from skvae.modules import AutoEncoderModule, CVAEModule

CPU = torch.device("cpu")
OF_NUMBERS = [name for name in METHODS if name != "surprise"]


def make_errors(n_rows, n_features, seed=0):
    """Rows and residuals, side by side, in single precision as references are kept."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_rows, 3)) @ rng.normal(size=(3, n_features)) + 0.3 * rng.normal(size=(n_rows, n_features))
    error = 0.4 * rng.normal(size=(n_rows, n_features)) * np.linspace(0.5, 2, n_features)
    return np.hstack([x, error]).astype(np.float32).astype(np.float64)


def distances(values, references):
    """Squared differences per column by the definition, (n_rows, n_references, n_features)."""
    x, error = np.hsplit(values, 2)
    scale = np.maximum(references.error.std(axis=0, dtype=np.float64), 0.03)
    apart = (x[:, None] - references.x) ** 2
    return apart + 0.3 * ((error[:, None] - references.error) / scale) ** 2


@pytest.fixture(params=[None, "weights"])
def references(request):
    weight = None if request.param is None else np.random.default_rng(3).uniform(0.2, 3, 60)
    return References.of(make_errors(60, 4), weight)


def test_one_draw_gives_the_mean_distance(references):
    values = make_errors(20, 4, seed=1)
    weight = references.weight
    scale = np.sqrt(np.average((references.error - np.average(references.error, 0, weight)) ** 2, 0, weight))
    factor = np.concatenate([np.ones(4), np.sqrt(0.3) / scale])
    expected = cdist(values * factor, np.hstack([references.x, references.error]) * factor, "sqeuclidean")
    found = NeighborDistance(n_drawn=1).fit(references).score(values)
    np.testing.assert_allclose(found, np.average(expected, axis=1, weights=weight))


def test_many_draws_give_the_nearest_distance():
    references, values = References.of(make_errors(60, 4)), make_errors(20, 4, seed=1)
    found = NeighborDistance(n_drawn=1e6, largest_share=np.inf).fit(references).score(values)
    np.testing.assert_allclose(found, distances(values, references).sum(axis=2).min(axis=1))


def test_the_score_is_the_expected_distance_to_the_nearest_reference_drawn(references):
    values = make_errors(4, 4, seed=1)
    method = NeighborDistance(n_drawn=5).fit(references)
    apart = cdist(values * method._factor, np.hstack([references.x, references.error]) * method._factor, "sqeuclidean")
    share = references.weight / references.weight.sum()
    drawn = np.random.default_rng(0).choice(60, size=(40_000, 5), p=share)
    nearest = apart[:, drawn].min(axis=2)
    error = nearest.std(axis=1) / 200
    assert (np.abs(method.score(values) - nearest.mean(axis=1)) < 4 * error).all()


def test_no_more_than_a_quarter_is_drawn_and_at_least_one():
    values = make_errors(5, 3, seed=1)
    for n_rows, n_drawn in ((2, 1), (40, 10), (384, 96), (800, 96)):
        references = References.of(make_errors(n_rows, 3))
        expected = NeighborDistance(n_drawn, largest_share=np.inf).fit(references).score(values)
        np.testing.assert_array_equal(NeighborDistance().fit(references).score(values), expected)


def test_weights_are_repetitions():
    errors, values = make_errors(500, 4), make_errors(20, 4, seed=1)
    times = np.random.default_rng(0).integers(1, 4, 500)
    weighted = NeighborDistance().fit(References.of(errors, times.astype(float)))
    repeated = NeighborDistance().fit(References.of(errors.repeat(times, axis=0)))
    np.testing.assert_allclose(weighted.score(values), repeated.score(values), rtol=1e-9)
    np.testing.assert_allclose(weighted.shares(values), repeated.shares(values), rtol=1e-9)
    np.testing.assert_array_equal(weighted.score(values), weighted.fit(References.of(errors, 2.0 * times)).score(values))


def test_shares_by_neighbors_are_parts_of_the_distances():
    references, values = References.of(make_errors(60, 4)), make_errors(20, 4, seed=1)
    method = NeighborDistance().fit(references)
    apart = distances(values, references)
    beyond = 1 - np.arange(61) / 60
    weights = beyond[:-1] ** 15 - beyond[1:] ** 15
    order = apart.sum(axis=2).argsort(axis=1)
    expected = np.einsum("m,nmd->nd", weights, np.take_along_axis(apart, order[:, :, None], axis=1))
    np.testing.assert_allclose(method.shares(values), expected, rtol=1e-6)


def whitened(values, references):
    """Rows whitened by the symmetric root of a shrunk covariance, straight from the definition."""

    def read(both):
        x, error = np.hsplit(both, 2)
        return np.hstack([x - error, error])

    v = read(np.hstack([references.x, references.error]).astype(np.float64))
    covariance = ledoit_wolf(v)[0]
    variance, vectors = np.linalg.eigh(covariance)
    return (read(values) - v.mean(axis=0)) @ (vectors / np.sqrt(variance)) @ vectors.T


@pytest.mark.parametrize(("n_references", "n_features"), [(200, 4), (12, 20)])
def test_mahalanobis_distance(n_references, n_features):
    references, values = References.of(make_errors(n_references, n_features)), make_errors(15, n_features, seed=1)
    method, white = MahalanobisDistance(least_shrinkage=0.0).fit(references), whitened(values, references)
    np.testing.assert_allclose(method.score(values), (white**2).sum(axis=1), rtol=1e-6)
    expected = white[:, :n_features] ** 2 + white[:, n_features:] ** 2
    np.testing.assert_allclose(method.shares(values), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OF_NUMBERS)
@pytest.mark.parametrize(("n_references", "n_features"), [(100, 7), (2, 5), (20, 70), (700, 3)])
def test_shares_sum_and_rows_do_not_depend_on_neighbors(name, n_references, n_features):
    errors = make_errors(n_references, n_features)
    errors[:, [0, n_features]] = 0.0  # a constant column
    method, values = METHODS[name]().fit(References.of(errors)), np.abs(make_errors(90, n_features, seed=1))
    score, shares = method.score(values), method.shares(values)
    assert score.shape == (90,)
    assert (shares >= 0).all()
    if name == "reconstruction":
        np.testing.assert_array_equal(shares, values)
    else:
        assert shares.shape == (90, n_features)
    np.testing.assert_allclose(shares.sum(axis=1), score, rtol=1e-9)
    order = np.random.default_rng(0).permutation(90)
    for rows in (order, order[:7], [3], slice(5, 40), slice(89, None)):
        np.testing.assert_array_equal(method.score(values[rows]), score[rows])
        np.testing.assert_array_equal(method.shares(values[rows]), shares[rows])


def test_identical_references():
    references = References.of(np.zeros((10, 6)))
    values = np.zeros((2, 6))
    values[1, 1] = 2.0
    for name in ("neighbors", "mahalanobis"):
        method = METHODS[name]().fit(references)
        shares = method.shares(values)
        assert method.score(values)[0] == 0.0
        assert shares[1].argmax() == 1
        assert shares[1, 1] > 0.0


def test_a_small_cluster_of_anomalies_among_the_references_stays_anomalous():
    errors = make_errors(1000, 4)
    errors[:5] = 0.01 * errors[:5] + 6.0
    apart = NeighborDistance().fit(References.of(errors)).score(errors)
    assert apart[:5].min() > np.quantile(apart[5:], 0.99)
    nearest = np.sort(cdist(errors, errors), axis=1)[:, 1]
    assert nearest[:5].max() < np.median(nearest)


# -- references -------------------------------------------------------------------------------------------------------


def test_numbers_of_references():
    assert [anomaly.n_references(d, 1e9) for d in (1, 10, 512, 784, 3072, 100_000)] == [1024, 1024, 1024, 668, 170, 64]
    assert [anomaly.n_references(d, 1e5) for d in (1, 24, 100, 1000)] == [1024, 1024, 250, 64]
    assert anomaly.n_references(10, -1e5) == 64


@pytest.mark.parametrize("n_rows", [30, 5000])
def test_rows_are_kept_in_order_and_once(n_rows):
    module, X = AutoEncoderModule(2, 1, hidden_layer_sizes=()), np.arange(2.0 * n_rows).reshape(-1, 2)
    kept = anomaly.keep_rows(module, Table.of(X), 1e5, 0)
    assert len(kept.x) == min(n_rows, 1024)
    assert (np.diff(kept.x[:, 0]) > 0).all()


def test_kept_rows_of_a_stream():
    condition = np.arange(900.0)[:, None]
    earlier = KeptRows(make_errors(900, 3), np.ones(900), condition)
    later = KeptRows(make_errors(500, 3) + 100.0, np.full(500, 2.0), condition[:500])
    joined = earlier.joined(later, 0.25, 0, 1024)
    is_later = joined.x[:, 0] > 50.0
    assert len(joined.x) == len(joined.weight) == len(joined.condition) == 1024
    assert is_later.sum() == 256
    np.testing.assert_array_equal(joined.weight, np.where(is_later, 2.0, 1.0))
    np.testing.assert_array_equal(joined.x[~is_later], earlier.x[joined.condition[~is_later, 0].astype(int)])
    earlier.condition = later.condition = None
    assert earlier.joined(later, 0.25, 0, 1024).condition is None


def test_missing_entries_of_kept_rows_are_those_of_their_reconstruction():
    module = AutoEncoderModule(3, 1, hidden_layer_sizes=())
    X = make_errors(20, 2)[:, :3].astype(np.float32).astype(float)
    X[::4, 1] = np.nan
    table = Table.of(X)
    found = KeptRows.of(module, table).references(module, CPU)
    expected = anomaly.reconstruction_entries(module, "errors", table, CPU).astype(np.float32)
    np.testing.assert_array_equal(np.hstack([found.x, found.error]), expected)
    np.testing.assert_array_equal(found.error[::4, 1], 0.0)


# -- a method at work on what a module reconstructs -------------------------------------------------------------------


@pytest.fixture
def module():
    """Linear networks, whose reconstructions depend on a condition."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CVAEModule(5, 2, n_conditions=1, hidden_layer_sizes=())


def reconstruct(module, X, condition):
    return decode(module, encode(module, Table.of(X, condition=condition), CPU), CPU, condition)


def read(module, X, condition):
    return np.hstack([X, X - reconstruct(module, X, condition)])


@pytest.mark.parametrize("name", ["neighbors", "mahalanobis"])
def test_shares_are_drops_of_the_score_and_blocks_do_not_change_results(module, name, monkeypatch):
    rng = np.random.default_rng(0)
    X, condition = rng.normal(size=(300, 5)), rng.normal(size=(300, 1))
    references = References.of(read(module, X, condition))
    method = METHODS[name]().fit(references)
    scorer, rows = Scorer(name, references, module, CPU), Table.of(X, condition=condition)
    score, shares = scorer.score(rows), scorer.shares(rows)
    np.testing.assert_allclose(shares.sum(axis=1), score, rtol=1e-9)
    drop = np.empty((300, 5))
    for j in range(5):
        repaired = X.copy()
        repaired[:, j] = reconstruct(module, X, condition)[:, j]
        drop[:, j] = np.maximum(score - method.score(read(module, repaired, condition)), 0.0)
    lowered = drop.sum(axis=1) > 0
    expected = score[lowered, None] * drop[lowered] / drop[lowered].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares[lowered], expected, rtol=1e-9)
    np.testing.assert_array_equal(shares[~lowered], method.shares(read(module, X, condition))[~lowered])
    assert lowered.mean() > 0.5
    monkeypatch.setattr("skvae.data.sources.BLOCK_BYTES", 200_000)
    np.testing.assert_array_equal(scorer.score(rows), score)
    np.testing.assert_array_equal(scorer.shares(rows), shares)
    monkeypatch.setattr(anomaly, "MAX_OCCLUDED", 4)
    np.testing.assert_array_equal(scorer.shares(rows), method.shares(read(module, X, condition)))


def test_rows_that_no_column_lowers_get_the_terms_of_the_sum():
    """They are their own reconstruction."""
    module, X = AutoEncoderModule(4, 4, hidden_layer_sizes=()), make_errors(10, 4)[:, :4]
    with torch.no_grad():
        for layer in (module.encoder[0], module.decoder[0]):
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
    references = References.of(make_errors(60, 4))
    method = NeighborDistance().fit(references)
    shares = Scorer("neighbors", references, module, CPU).shares(Table.of(X))
    np.testing.assert_array_equal(shares, method.shares(np.hstack([X, np.zeros_like(X)])))


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_scores_are_a_methods_own_of_what_it_reads(module, name):
    rng = np.random.default_rng(0)
    X, condition = rng.normal(size=(40, 5)), rng.normal(size=(40, 1))
    references = References.of(read(module, X, condition))
    entries = 0.5 * (X - reconstruct(module, X, condition)) ** 2 if name == "reconstruction" else read(module, X, condition)
    expected = METHODS[name]().fit(references).score(entries)
    scorer = Scorer(name, references, module, CPU)
    np.testing.assert_allclose(scorer.score(Table.of(X, condition=condition)), expected, rtol=1e-9)


def test_the_deviance_is_passed_through():
    values = make_errors(5, 2)
    np.testing.assert_array_equal(Deviance().fit(None).score(values), values.sum(axis=1))


# -- surprises --------------------------------------------------------------------------------------------------------


def test_rarity_is_that_of_the_tail_among_references():
    values = np.random.default_rng(0).exponential(size=(2000, 2)) * [3.0, 8.0]
    at = np.array([[1.0, 2.0], [6.0, 16.0], [30.0, 80.0], [3e5, 8e5]])
    found = Rarity(values, np.ones(2000)).of(at)
    np.testing.assert_allclose(found, at / [3.0, 8.0], rtol=0.1)  # of an exponential distribution, that is what it is
    sorted_values = np.sort(np.concatenate([values, at]), axis=0)
    assert (np.diff(Rarity(values, np.ones(2000)).of(sorted_values), axis=0) >= 0.0).all()


def test_values_that_hardly_differ_are_not_rare():
    values = 1e-3 * np.random.default_rng(0).exponential(size=(500, 1))
    assert Rarity(values, np.ones(500)).of(np.array([[1.0]]))[0, 0] < 3.0
    assert Rarity(np.zeros((500, 1)), np.ones(500)).of(np.array([[0.0], [4.0]])).ravel().tolist() == [0.0, 4.0]


def test_weights_count_in_rarities_as_repeated_references_do():
    values, times = np.random.default_rng(0).exponential(size=(300, 2)), np.random.default_rng(1).integers(1, 4, 300)
    at = np.linspace(0.0, 9.0, 40).repeat(2).reshape(-1, 2)
    weighted = Rarity(values, times.astype(float)).of(at)
    np.testing.assert_allclose(weighted, Rarity(values.repeat(times, axis=0), np.ones(times.sum())).of(at))
    np.testing.assert_array_equal(weighted, Rarity(values, 8.0 * times).of(at))


@pytest.mark.parametrize("n_references", [1, 2, 7])
def test_few_references_and_missing_ones(n_references):
    values = np.full((n_references, 3), np.nan)
    values[:, 0] = np.arange(n_references)
    values[:1, 1] = 5.0
    found = Rarity(values, np.ones(n_references)).of(np.array([[np.nan, np.nan, np.nan], [0.0, 5.0, 1.0], [99.0, 99.0, 99.0]]))
    assert np.isfinite(found).all()
    assert not found[0].any()
    assert not found[:, 2].any()  # of a column that nothing is known about, nothing is rare
    assert (found[2, :2] > 5.0).all()


def test_the_wrong_entry_takes_the_blame_of_those_that_it_spoils():
    """Of three columns, the first spoils the second, which is as rare given the others, where the first is not replaced."""
    rng = np.random.default_rng(0)
    nats = rng.exponential(size=(400, 2, 3))
    references = References(np.zeros((400, 3)), np.zeros((400, 3)), np.ones(400), nats)
    row = np.array([[[3.0, 9.0, 0.1], [9.0, 12.0, 0.1], [9.0, 0.5, 0.1], [3.0, 12.0, 0.1], [3.0, 9.0, 0.1]]])
    method = Surprise().fit(references)
    shares = method.shares(row)
    assert shares.argmax() == 0
    np.testing.assert_allclose(shares.sum(), method.score(row))
    assert method.shares(row[:, :2]).argmax() == 1  # by the terms of the sum
    row[:, :, 0] = np.nan
    assert method.shares(row)[0, 0] == 0.0
