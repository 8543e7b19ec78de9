"""Rows that early stopping looks at: given ones, and whole groups."""

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
from cases import CASES
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import (
    CVAE,
    TDVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderImputer,
    Bernoulli,
    CVAEClassifier,
    CVAEResampler,
    DenoisingAE,
    EarlyStopping,
    LinearPath,
    VAETransformer,
)
from skvae.training import decay
from skvae.training.loader import Rows

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.filterwarnings("ignore")]

OTHER_FOLDS = {"linear_path": LinearPath(1.0)}


def quick(cls=AutoEncoder, **params):
    given = {"n_components": 2, "hidden_layer_sizes": (6,), "max_epochs": 3, "early_stopping": True, "random_state": 0}
    return cls(**{**given, **(OTHER_FOLDS if "linear_path" in inspect.signature(cls).parameters else {}), **params})


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(40, 4))


@pytest.fixture
def X_val():
    return np.random.default_rng(1).normal(size=(15, 4))


@pytest.fixture
def validated(monkeypatch):
    """Tables, and the rows of them, that were made ready for training and for validation."""
    made, begin = [], Rows.__init__

    def spy(self, table, likelihood, device, *, index=None, missing=False):
        begin(self, table, likelihood, device, index=index, missing=missing)
        made.append(table if index is None else table.take(index))

    monkeypatch.setattr(Rows, "__init__", spy)
    return made


def read(table):
    return table.source.read(slice(None))


# -- rows that are given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_estimator_looks_at_rows_that_are_given(case, validated):
    rng = np.random.default_rng(0)
    X, X_val = rng.normal(size=(40, 5)), rng.normal(size=(9, 5))
    y_val = np.arange(9) % 2 if issubclass(case.cls, CVAE) else np.arange(9)
    params = {"early_stopping": EarlyStopping(n_iter_no_change=1, tol=1e9), "max_epochs": 20, "linear_path": LinearPath(1.0)}
    params = {name: value for name, value in params.items() if name in case.cls().get_params()}
    model = case.make(**params).fit(X, validation_data=(X_val, y_val))
    assert model.n_iter_ < 20
    assert len(model.history_["valid_loss"]) == model.n_iter_
    train, valid = validated[:2]
    assert (train.n_rows, valid.n_rows) == (40, 9)
    assert np.isin(read(valid).ravel(), X_val).all()
    again = case.make(**params).fit(X, validation_data=(X_val, y_val))
    assert again.history_["valid_loss"].tolist() == model.history_["valid_loss"].tolist()
    other = case.make(**params).fit(X, validation_data=(3.0 * X_val, y_val))
    assert other.history_["valid_loss"][0] != model.history_["valid_loss"][0]
    assert other.history_["loss"][0] == model.history_["loss"][0]  # of the rows that are learned from
    assert other.fit(X).history_["valid_loss"].shape  # held out again


@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer, VQVAE])
def test_all_rows_are_learned_from(X, X_val, cls):
    """Units are those of all rows, as without early stopping."""
    params = {} if cls is not VQVAE else {"n_components": 2, "code_prior": None}
    params = {name: value for name, value in params.items() if name in cls().get_params()}
    make = quick if cls is not VQVAE else lambda _, **more: VQVAE(code_prior=None, max_epochs=3, random_state=0, **more)
    model = make(cls, early_stopping=True).fit(X, validation_data=X_val)
    alone = make(cls, early_stopping=False).fit(X)
    np.testing.assert_array_equal(model.module_.likelihood.units.center, alone.module_.likelihood.units.center)
    np.testing.assert_allclose(model.loss_curve_[0], alone.loss_curve_[0])
    if cls is not VQVAE:
        assert equal_forms(make, cls, X, X_val, model)


def equal_forms(make, cls, X, X_val, model):
    """Whether forms in which the same rows come make no difference."""
    expected = model.history_["valid_loss"]
    forms = [X_val.tolist(), sparse.csr_array(X_val), (X_val, None), (X_val, np.arange(len(X_val))), X_val.copy("F")]
    return all(np.allclose(make(cls).fit(X, validation_data=form).history_["valid_loss"], expected) for form in forms)


def test_the_best_weights_are_those_of_the_rows_that_are_given(X):
    """Rows that are nothing but the mean are reconstructed the better, the less was learned: the first epoch is the best."""
    shift = np.full((5, 4), 50.0)
    model = quick(max_epochs=30, linear_path=None, early_stopping=EarlyStopping(n_iter_no_change=3)).fit(X, validation_data=shift)
    best = model.history_["valid_loss"].argmin()
    expected = clone(model).set_params(early_stopping=False, max_epochs=int(best) + 1, learning_rate=0.002).fit(X)
    np.testing.assert_allclose(model.transform(X), expected.transform(X), rtol=1e-4, atol=1e-5)


def test_conditions(X, X_val, validated):
    y, y_val = np.arange(40) % 3, np.arange(15) % 3
    numbers, numbers_val = np.linspace(-1.0, 1.0, 40)[:, np.newaxis], np.linspace(0.0, 2.0, 15)[:, np.newaxis]
    for given, given_val in ((y, y_val), (numbers, numbers_val), (list("abca" * 10), list("abc" * 5))):
        validated.clear()
        model = quick(CVAE).fit(X, given, validation_data=(X_val, given_val))
        by_name = quick(CVAE).fit(X, condition=given, validation_data=(X_val, given_val))
        assert by_name.history_["valid_loss"].tolist() == model.history_["valid_loss"].tolist()
        encoded = model._conditioner.encode(given_val, 15, name="y", what="this")
        np.testing.assert_array_equal(validated[1].condition, encoded)
        plain = quick(CVAE, early_stopping=False).fit(X, given)
        drawn = [fitted.sample(50, random_state=0, return_y=True)[1] for fitted in (model, plain)]
        np.testing.assert_array_equal(*drawn)  # among labels of the rows that were learned from
        assert model.fit_transform(X, given, validation_data=(X_val, given_val)).shape == (40, 2)
    with pytest.raises(ValueError, match=r"validation_data: .*requires y to be passed"):
        quick(CVAE).fit(X, y, validation_data=X_val)
    with pytest.raises(ValueError, match=r"validation_data: .*7"):
        quick(CVAE).fit(X, y, validation_data=(X_val, np.full(15, 7)))
    with pytest.raises(ValueError, match=r"validation_data: .*inconsistent numbers of samples"):
        quick(CVAE).fit(X, y, validation_data=(X_val, y_val[:3]))
    own = quick(CVAE, condition_columns=[3]).fit(X, validation_data=X_val)
    assert own.history_["valid_loss"].shape == (own.n_iter_,)


def test_clean_rows(X, X_val, validated):
    model = quick(DenoisingAE).fit(X + 1.0, X, validation_data=(X_val + 1.0, X_val))
    np.testing.assert_array_equal(validated[1].target.read(slice(None)), X_val)
    other = quick(DenoisingAE).fit(X + 1.0, clean=X, validation_data=(X_val + 1.0, -X_val))
    assert other.history_["valid_loss"][0] > model.history_["valid_loss"][0]
    column = quick(DenoisingAE, n_components=1).fit(X[:, :1] + 1.0, clean=X[:, :1], validation_data=(X_val[:, :1], X_val[:, :1]))
    assert column.n_iter_
    with pytest.raises(ValueError, match=r"it takes a pair \(X_val, clean_val\)"):
        quick(DenoisingAE).fit(X, X, validation_data=X_val)
    with pytest.raises(ValueError, match=r"validation_data: the second of the pair has the shape \(15, 3\)"):
        quick(DenoisingAE).fit(X, X, validation_data=(X_val, X_val[:, :3]))
    ignored = quick(DenoisingAE).fit(X, validation_data=(X_val, X_val))
    assert (
        ignored.history_["valid_loss"].tolist()
        == quick(DenoisingAE).fit(X, validation_data=X_val).history_["valid_loss"].tolist()
    )


def test_images_sequences_and_missing_entries(X, X_val, validated):
    images, images_val = X.reshape(-1, 1, 2, 2), X_val.reshape(-1, 1, 2, 2)
    params = {"linear_path": "auto", "max_epochs": 2}
    expected = quick(**params, image_shape=(1, 2, 2)).fit(X, validation_data=X_val).history_["valid_loss"]
    np.testing.assert_array_equal(quick(**params).fit(images, validation_data=images_val).history_["valid_loss"], expected)
    with pytest.raises(ValueError, match=r"validation_data: X has images of shape \(1, 1, 4\), but"):
        quick(**params).fit(images, validation_data=X_val.reshape(-1, 1, 1, 4))
    ragged = [np.random.default_rng(i).normal(size=(4 + i % 3, 2)) for i in range(20)]
    sequences = TDVAE(n_components=2, hidden_layer_sizes=(4,), max_epochs=2, early_stopping=True, random_state=0)
    model = sequences.fit(ragged, validation_data=ragged[:7])
    assert model.history_["valid_loss"].shape == (2,)
    groups = np.arange(20) // 4
    validated.clear()
    sequences.fit(ragged, groups=groups)
    assert validated[1].n_rows % 4 == 0
    gone = np.where(np.random.default_rng(0).uniform(size=X_val.shape) < 0.2, np.nan, X_val)
    gone[3] = np.nan
    validated.clear()
    model = quick(missing_values=np.nan).fit(X, validation_data=gone)
    assert validated[1].n_rows == 14
    assert np.isfinite(model.history_["valid_loss"]).all()
    with pytest.raises(ValueError, match="validation_data: Input X contains NaN"):
        quick().fit(X, validation_data=gone)


def test_frames(X, X_val):
    frame, frame_val = (pd.DataFrame(table, columns=list("abcd")) for table in (X, X_val))
    expected = quick().fit(X, validation_data=X_val).history_["valid_loss"]
    np.testing.assert_allclose(quick().fit(frame, validation_data=frame_val).history_["valid_loss"], expected)
    with pytest.raises(ValueError, match="validation_data: The feature names should match"):
        quick().fit(frame, validation_data=frame_val[list("bacd")])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((3, 5)), "validation_data: X has 5 features, but AutoEncoder is expecting 4"),
        (np.ones((0, 4)), "validation_data: Found array with 0 sample"),
        (np.ones(4), "validation_data: Expected 2D array"),
        (np.full((2, 4), np.nan), "validation_data: Input X contains NaN"),
        (np.full((2, 4), "a"), "validation_data: Column"),
        ((), "validation_data is a tuple of 0; it takes the rows X_val, or a pair"),
        ((None,), "validation_data is a tuple of 1; it takes the rows X_val, or a pair"),
        ((np.ones((3, 4)), None, None), "validation_data is a tuple of 3"),
        ((None, np.ones(3)), "it takes the rows X_val, or a pair"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_that_are_none(X, given, message):
    model = quick()
    with pytest.raises(ValueError, match=message):
        model.fit(X, validation_data=given)
    assert not hasattr(model, "module_")
    assert not hasattr(model, "n_features_in_")


def test_rows_out_of_the_range_of_a_likelihood(X):
    with pytest.raises(ValueError, match=r"validation_data: .*bernoulli"):
        quick(likelihood=Bernoulli(), linear_path=None).fit((X > 0).astype(float), validation_data=X[1:])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_that_nobody_looks_at_are_refused(case):
    X = np.random.default_rng(0).normal(size=(20, 5))
    with pytest.raises(ValueError, match="looked at by early stopping alone: set early_stopping=True"):
        case.make().fit(X, validation_data=X)
    with pytest.raises(ValueError, match="Pass validation_data or groups, but not both"):
        case.make(early_stopping=True).fit(X, validation_data=X, groups=np.arange(20))
    with pytest.raises(ValueError, match=r"early_stopping__validation_fraction=0\.3 of the rows"):
        case.make(early_stopping=EarlyStopping(0.3)).fit(X, validation_data=X)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_as_many_as_those_of_x_come_in_a_tuple(case, validated):
    rng = np.random.default_rng(0)
    X, X_val = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    model = case.make(early_stopping=True)
    for given in (X_val, X_val.tolist(), pd.DataFrame(X_val), sparse.csr_array(X_val)):
        with pytest.raises(ValueError, match=r"validation_data has 20 rows, and so has X: .* Pass a tuple, \(X_val,\)"):
            model.fit(X, validation_data=given)
    if not isinstance(model, CVAE):
        model.fit(X, validation_data=(X_val,))
        np.testing.assert_array_equal(read(validated[1]).ravel(), X_val.ravel())


def test_what_a_search_would_divide_is_never_misread(X, validated):
    X_val = np.random.default_rng(2).normal(size=(40, 4))
    search = GridSearchCV(quick(), {"n_components": [1, 2]}, cv=2, error_score="raise", refit=False)
    with pytest.raises(ValueError, match="validation_data has 20 rows, and so has X"):
        search.fit(X, validation_data=X_val)
    with pytest.raises(ValueError, match="validation_data has 20 rows, and so has X"):
        cross_validate(quick(), X, params={"validation_data": X_val}, cv=2, error_score="raise")
    validated.clear()
    search.fit(X, validation_data=(X_val,))
    assert [table.n_rows for table in validated] == 4 * [20, 40]
    with config_context(enable_metadata_routing=True):
        model = quick().set_fit_request(validation_data=True)
        pipeline = make_pipeline(StandardScaler(), model, transform_input=["validation_data"])
        validated.clear()
        GridSearchCV(pipeline, {"autoencoder__n_components": [1, 2]}, cv=2, error_score="raise").fit(X, validation_data=(X_val,))
    assert {table.n_rows for table in validated[1::2]} == {40}
    assert not np.isin(read(validated[1]), X_val).any()  # standardized on the way


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_estimator_holds_out_whole_groups(case, validated):
    X = np.random.default_rng(0).normal(size=(40, 5))
    groups = np.array(list("abcdefgh"))[np.random.default_rng(1).integers(8, size=40)]
    params = {"linear_path": LinearPath(1.0)} if "linear_path" in case.cls().get_params() else {}
    model = case.make(early_stopping=True, **params).fit(X, groups=groups)
    train, valid = validated[:2]
    assert train.n_rows + valid.n_rows == 40
    assert 1 <= valid.n_rows <= 12
    assert set(train.groups).isdisjoint(valid.groups)
    assert len(model.history_["valid_loss"]) == model.n_iter_
    assert pickle.loads(pickle.dumps(model)).n_iter_ == model.n_iter_


@pytest.mark.parametrize(
    "groups", [np.arange(40) // 5, [f"g{i // 5}" for i in range(40)], pd.Series(np.arange(40) // 5), (np.arange(40) // 5) * 1.5]
)
def test_kinds_of_groups(X, groups, validated):
    quick().fit(X, groups=groups)
    assert validated[1].n_rows == 5
    start = np.flatnonzero((read(validated[1])[0] == X).all(axis=1))[0]
    np.testing.assert_array_equal(read(validated[1]), X[start : start + 5])


def test_groups_follow_rows_that_are_left_out(X, validated):
    groups, weight = np.arange(40) // 5, np.where(np.arange(40) < 30, 1.0 + np.arange(40) % 2, 0.0)
    quick().fit(X, groups=groups, sample_weight=weight)
    quick().fit(X[:30], groups=groups[:30], sample_weight=weight[:30])
    for one, other in zip(validated[:2], validated[2:4], strict=True):
        np.testing.assert_array_equal(read(one), read(other))
    with pytest.raises(ValueError, match="groups has one group; at least 2"):
        quick().fit(X, groups=groups, sample_weight=np.where(groups == 2, 1.0, 0.0))


@pytest.mark.parametrize("n_groups", [2, 3, 12])
def test_the_choice_of_the_decay_holds_out_whole_groups(X, monkeypatch, n_groups):
    held, search = [], decay._held_out

    def spy(rows, index, noise_shapes, seed):
        held.append(rows.x[index])
        return search(rows, index, noise_shapes, seed)

    monkeypatch.setattr(decay, "_held_out", spy)
    groups = np.arange(40) % n_groups
    model = quick(linear_path="auto", early_stopping=False, max_epochs=100).fit(X, groups=groups)
    assert model.decay_curve_ is not None
    n_folds = min(5, n_groups)
    assert len(held) == 2 * n_folds
    x = model.module_.likelihood.standardize(X)
    of = [set(groups[[int((row == x).all(1).nonzero()[0]) for row in rows]]) for rows in held[:n_folds]]
    assert sum(map(len, of)) == n_groups
    assert set().union(*of) == set(range(n_groups))


def test_a_large_table_of_few_groups_holds_one_part_out(monkeypatch):
    monkeypatch.setattr(decay, "_FOLDS", {})
    X = np.random.default_rng(0).normal(size=(60, 3))
    model = quick(linear_path="auto", early_stopping=False, max_epochs=100)
    assert len(model.fit(X, groups=np.arange(60) % 2).decay_curve_["loss"]) > 1


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(39), "inconsistent numbers of samples"),
        (np.ones(40), "groups has one group; at least 2 are needed"),
        (np.ones((40, 2)), "y should be a 1d array|1d"),
        (np.where(np.arange(40) == 3, np.nan, 1.0), "groups has 1 missing, NaN or infinite entries"),
        ([None, *range(39)], "groups has 1 missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_groups_that_are_none(X, groups, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X, groups=groups)


@pytest.mark.parametrize("cls", [AutoEncoder, VQVAE, TDVAE])
def test_groups_that_keep_nothing_together_are_refused(X, cls):
    path = [None, LinearPath(1.0), "auto"] if cls is AutoEncoder else [None]
    for linear_path in path:
        params = {"linear_path": linear_path} if cls is AutoEncoder else {}
        with pytest.raises(ValueError, match="groups keep rows together where some are held out, which early_stopping=False"):
            cls(max_epochs=1, **params).fit(X, groups=np.arange(40))
    if cls is AutoEncoder:
        with pytest.raises(ValueError, match=r"nor is a decay chosen by held-out rows in a run of 99 step\(s\): set early"):
            cls(max_epochs=99).fit(X, groups=np.arange(40))
        with pytest.raises(ValueError, match="nor is a decay chosen by held-out rows where so few are different: set early"):
            cls(max_epochs=100).fit(np.tile(X[:8], (5, 1)), groups=np.arange(40))
    if cls is AutoEncoder:
        fitted = quick(warm_start=True, linear_path="auto").fit(X, groups=np.arange(40) // 4)
        assert fitted.fit(X, groups=np.arange(40) // 4).n_iter_
        with pytest.raises(ValueError, match="groups keep rows together"):
            fitted.set_params(early_stopping=False).fit(X, groups=np.arange(40) // 4)


# -- through scikit-learn's tools -------------------------------------------------------------------------------------


def test_metadata_is_routed(X, X_val):
    scaler = StandardScaler().fit(X)
    expected = quick().fit(scaler.transform(X), validation_data=scaler.transform(X_val)).history_["valid_loss"]
    with config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="validation_data"):
            make_pipeline(StandardScaler(), quick()).fit(X, validation_data=X_val)
        model = quick().set_fit_request(validation_data=True, groups=True)
        pipeline = make_pipeline(StandardScaler(), clone(model), transform_input=["validation_data"])
        pipeline.fit(X, validation_data=X_val)
        np.testing.assert_allclose(pipeline[-1].history_["valid_loss"], expected, rtol=1e-5)
        search = GridSearchCV(clone(model), {"n_components": [1, 2]}, cv=2, error_score="raise")
        assert search.fit(X, validation_data=X_val).best_estimator_.n_iter_
        assert search.fit(X, groups=np.arange(40) // 4).best_estimator_.n_iter_
    pipeline = make_pipeline(StandardScaler(), quick()).fit(X, autoencoder__validation_data=scaler.transform(X_val))
    np.testing.assert_allclose(pipeline[-1].history_["valid_loss"], expected, rtol=1e-5)


def test_an_imputer_passes_them_on(X, X_val, validated):
    X, X_val = np.column_stack([X, np.full(40, -1.0)]), np.column_stack([X_val, np.ones(15)])
    X[::7, 0], X_val[2, 1] = -1.0, -1.0
    imputer = AutoencoderImputer(quick(VAETransformer, linear_path=None), missing_values=-1.0)
    imputer.fit(X, validation_data=X_val)
    assert validated[1].n_rows == 15
    np.testing.assert_array_equal(validated[1].n_missing, [0, 1, 0, 0])  # without the column that was empty
    validated.clear()
    imputer.fit(X, groups=np.arange(40) // 8)
    assert validated[1].n_rows == 8
    with pytest.raises(ValueError, match="validation_data: X has 4 features"):
        imputer.fit(X, validation_data=X_val[:, :4])
    with pytest.raises(ValueError, match="Pass validation_data or groups, but not both"):
        imputer.fit(X, validation_data=X_val, groups=np.arange(40))


def test_a_classifier_passes_them_on(X, X_val, validated):
    y, y_val = np.arange(40) % 2, np.arange(15) % 2
    classifier = CVAEClassifier(quick(CVAE))
    classifier.fit(X, y, validation_data=(X_val, y_val))
    assert validated[1].n_rows == 15
    validated.clear()
    classifier.fit(X, y, groups=np.arange(40) // 8)
    assert validated[1].n_rows == 8
    with pytest.raises(ValueError, match="requires y to be passed"):
        classifier.fit(X, y, validation_data=X_val)
    with pytest.raises(ValueError, match="looked at by early stopping alone"):
        CVAEClassifier(quick(CVAE, early_stopping=False)).fit(X, y, validation_data=(X_val, y_val))


def test_a_detector_passes_them_on(X, X_val, validated):
    plain = {"calibration": "cross", "n_folds": 2, "n_repeats": 1, "random_state": 0, "alpha": 0.2}
    for given in (X_val, (X_val,), (X_val, None), X_val[:12].tolist()):
        validated.clear()
        AnomalyDetector(quick(), **plain).fit(X, validation_data=given)
        assert [table.n_rows for table in validated] == [20, len(given) if isinstance(given, list) else 15] * 2
    validated.clear()
    weight = np.arange(40) % 2 + 1.0
    as_many = np.random.default_rng(3).normal(size=(20, 4))  # as those that train, which are a part of X
    AnomalyDetector(quick(), **plain).fit(X, sample_weight=weight, validation_data=as_many)
    assert [table.n_rows for table in validated] == [20, 20] * 2
    assert validated[0].weight is not None
    AnomalyDetector(quick(), contamination=0.1).fit(X, validation_data=X_val)
    with pytest.raises(ValueError, match="validation_data has 40 rows, and so has X"):
        AnomalyDetector(quick(), **plain).fit(X, validation_data=X)
    with pytest.raises(ValueError, match="looked at by early stopping alone"):
        AnomalyDetector(quick(early_stopping=False), **plain).fit(X, validation_data=X_val)
    with pytest.raises(ValueError, match="validation_data was given, but fit of Norm takes none"):
        AnomalyDetector(Norm()).fit(X, validation_data=X_val)


class Norm(BaseEstimator):
    """Scores rows by their norms."""

    def fit(self, X, y=None):
        return self

    def score_anomaly(self, X):
        return np.linalg.norm(X, axis=1)


def test_a_detector_of_a_pipeline_has_them_routed(X, X_val, validated):
    model = quick()
    with pytest.raises(ValueError, match=r"by metadata routing alone: .*transform_input=\['validation_data'\]"):
        AnomalyDetector(make_pipeline(StandardScaler(), model)).fit(X, validation_data=X_val)
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(validation_data=True)
        pipeline = make_pipeline(StandardScaler(), model, transform_input=["validation_data"])
        detector = AnomalyDetector(pipeline, alpha=0.2, random_state=0)
        for as_one in (detector, make_pipeline(StandardScaler(), detector.set_fit_request(validation_data=True))):
            validated.clear()
            as_one.fit(X, validation_data=X_val)
            assert validated[1].n_rows == 15
            assert not np.isin(read(validated[1]), X_val).any()  # scaled on the way
        with pytest.raises(UnsetMetadataPassedError, match="validation_data"):
            AnomalyDetector(make_pipeline(StandardScaler(), quick())).fit(X, validation_data=X_val)


def test_a_resampler_passes_them_on(X, X_val, validated):
    y, y_val = np.repeat([0, 1], [30, 10]), np.arange(15) % 2
    resampler = CVAEResampler(quick(CVAE), random_state=0)
    for labels, labels_val in ((y, y_val), (np.eye(2)[y], np.eye(2)[y_val]), (y[:, np.newaxis], y_val[:, np.newaxis])):
        validated.clear()
        resampler.fit_resample(X, labels, validation_data=(X_val, labels_val))
        assert [table.n_rows for table in validated] == [40, 15]
        np.testing.assert_array_equal(validated[1].condition.argmax(axis=1), y_val)
    for given in (X_val, (X_val,)):
        with pytest.raises(ValueError, match=r"validation_data takes a pair \(X_val, y_val\)"):
            resampler.fit_resample(X, y, validation_data=given)
    with pytest.raises(ValueError, match=r"validation_data: .*labels that were not seen in fit"):
        resampler.fit_resample(X, y, validation_data=(X_val, y_val + 1))
    with pytest.raises(ValueError, match="looked at by early stopping alone"):
        CVAEResampler(quick(CVAE, early_stopping=False)).fit_resample(X, y, validation_data=(X_val, y_val))
