"""Neighbors and clusters of data frames with columns of different kinds."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestNeighbors

from skvae import AutoEncoder, AutoencoderClusterer, NeighborAE

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The rows of X have no clusters"),
]


def grouped(n_rows=150, seed=0):
    """Rows of three groups, which differ by categories and numbers, and the groups."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n_rows)
    frame = pd.DataFrame(
        {
            "kind": np.array(["a", "b", "c"])[np.where(rng.random(n_rows) < 0.05, rng.integers(0, 3, n_rows), group)],
            "size": 6.0 * (group == 1) + rng.normal(size=n_rows),
            "weight": 6.0 * (group == 2) + rng.normal(size=n_rows),
            "flag": rng.random(n_rows) < np.array([0.05, 0.95, 0.5])[group],
        }
    )
    return frame, group


def quick(**params):
    given = {"n_components": 2, "n_neighbors": 5, "hidden_layer_sizes": (8,), "max_epochs": 5, "random_state": 0}
    return NeighborAE(**{**given, **params})


@pytest.fixture(scope="module")
def frame():
    return grouped()[0]


@pytest.fixture(scope="module")
def gaps(frame):
    return frame.mask(np.random.default_rng(1).random(frame.shape) < 0.1)


@pytest.mark.parametrize(
    "container", [lambda frame: frame, lambda frame: pl.DataFrame(frame.to_dict("list"))], ids=["pandas", "polars"]
)
def test_everything_works(frame, container):
    rows = container(frame)
    model = quick().fit(rows)
    assert np.isfinite(model.transform(rows)).all()
    assert np.isfinite(model.score_samples(rows)).all()
    np.testing.assert_allclose(model.explain_anomaly(rows).sum(axis=1), model.score_anomaly(rows), rtol=1e-6)
    for new in (
        model.sample(5),
        model.reconstruct(rows),
        model.inverse_transform(model.transform(rows)),
        model.sample(3, given={"kind": "b"}),
    ):
        assert type(new) is type(rows)
        assert list(new.dtypes) == list(rows.dtypes)
    assert set(new["kind"]) == {"b"}
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(rows), model.transform(rows))
    assert clone(model).get_params()["likelihood"] == "auto"
    assert "neighbor" in model.partial_fit(rows).set_params(warm_start=True).fit(rows).history_


@pytest.mark.parametrize(
    "params",
    [
        {"metric": "nan_euclidean"},
        {"metric": "manhattan"},
        {"neighbor_space": "codes"},
        {"early_stopping": True},
        {"neighbor_weight": 0},
    ],
    ids=str,
)
def test_ways_of_being_near(gaps, params):
    model = quick(**params).fit(gaps, sample_weight=np.arange(len(gaps)) % 3)
    assert np.isfinite(model.transform(gaps)).all()
    assert not np.array_equal(model.transform(gaps), quick().fit(gaps, sample_weight=np.arange(len(gaps)) % 3).transform(gaps))


def test_arrays_and_frames_of_numbers_are_what_they_were(frame):
    numbers = frame[["size", "weight"]]
    expected = quick(likelihood="gaussian", missing_values=None).fit(numbers.to_numpy()).transform(numbers.to_numpy())
    np.testing.assert_array_equal(quick().fit(numbers).transform(numbers), expected)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        quick().fit(np.where(numbers > 0, np.nan, numbers))


def test_a_weight_of_two_is_a_repeated_row(frame):
    few = frame.iloc[:40]
    weight = 1 + np.arange(40) % 2
    together = quick(n_neighbors=39, batch_size=100, max_epochs=2).fit(few, sample_weight=weight)
    repeated = few.iloc[np.repeat(np.arange(40), weight)]
    assert together.module_.scale.item() == pytest.approx(
        quick(n_neighbors=39, max_epochs=2).fit(repeated).module_.scale.item(), rel=1e-4
    )


def test_numbers_are_not_lost_beside_categories(frame):
    """Neighbors are alike in numbers, too, however many categories there are."""
    rng = np.random.default_rng(0)
    wide = frame[["size"]].assign(**{f"c{j}": rng.choice(list("uvwxyz"), len(frame)) for j in range(2)})
    model = quick().fit(wide)
    likelihood = model.module_.likelihood
    near = likelihood.near(likelihood.standardize(model._frame_form.read(wide))).numpy()
    assert near.var(axis=0)[1:].sum() < 2.0  # of two columns of categories, which would be two numbers' worth
    assert near.var(axis=0)[0] == pytest.approx(1.0, abs=0.5)
    index = NearestNeighbors(n_neighbors=5).fit(near).kneighbors(return_distance=False)
    size = wide["size"].to_numpy()
    assert np.abs(size[index] - size[:, np.newaxis]).mean() < 0.7 * np.abs(size[:, np.newaxis] - size).mean()


def test_what_counts_for_neighbors_is_what_columns_look_like_by_themselves(frame):
    """The distortion without a code is the entropy of the columns, as a frequent category of each would not have it."""
    model = quick(neighbor_weight=1.0).fit(frame[["kind", "flag"]])
    shares = [frame[name].value_counts(normalize=True).to_numpy() for name in ("kind", "flag")]
    entropy = -sum((share * np.log(share)).sum() for share in shares)
    assert model.module_.scale.item() == pytest.approx(0.18 * entropy, rel=0.02)


def test_clusters_of_frames(frame, gaps):
    group = grouped()[1]
    for rows in (frame, gaps):
        clusterer = AutoencoderClusterer(3, estimator=quick(max_epochs=60, neighbor_weight=5), n_init=2, random_state=0).fit(rows)
        assert adjusted_rand_score(group, clusterer.labels_) > (0.9 if rows is frame else 0.4)
        np.testing.assert_array_equal(clusterer.predict(rows), clusterer.labels_)
        np.testing.assert_allclose(clusterer.predict_proba(rows).sum(axis=1), 1.0)
    new, of_new = grouped(60, seed=1)
    assert adjusted_rand_score(of_new, clusterer.predict(new)) > 0.4
    assert list(clusterer.inverse_transform(clusterer.cluster_centers_).columns) == list(frame.columns)
    assert clusterer.sample(4, label=0).shape == (4, 4)
    np.testing.assert_array_equal(clusterer.transform(new), clusterer.estimator_.transform(new))
    weighted = clone(clusterer).fit(frame, sample_weight=(np.arange(150) < 100).astype(float))
    np.testing.assert_array_equal(weighted.labels_[:100], clone(clusterer).fit(frame.iloc[:100]).labels_)


def test_clusters_by_default(frame):
    clusterer = AutoencoderClusterer(3, n_init=1, random_state=0)
    clusterer.set_params(estimator=NeighborAE(8, neighbor_weight=5, max_epochs=20)).fit(frame)
    assert isinstance(clusterer.estimator_, NeighborAE)
    search = GridSearchCV(quick(), {"likelihood": ["auto", {"flag": "categorical"}]}, cv=2, error_score="raise").fit(frame)
    assert search.best_score_ < 0.0
    by_codes = AutoencoderClusterer(3, estimator=AutoEncoder(2, max_epochs=3, random_state=0), n_init=1).fit(frame)
    assert set(by_codes.labels_) == {0, 1, 2}
