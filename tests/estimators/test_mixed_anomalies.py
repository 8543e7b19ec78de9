"""Anomalies among the rows of data frames with columns of different kinds, and the columns that are wrong."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conftest import crossed
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from test_mixed_frames import MAKERS, TAKERS, N, polars_table, quick, table

import skvae
from skvae import CVAE, AnomalyDetector, AutoEncoder, CVAEClassifier, LinearPath, Mixed, VAETransformer
from skvae.data import Table
from skvae.inference.rows import repaired_nats
from skvae.modules import Batch

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The code of .* has collapsed"),  # of short fits
]

METHODS = ["auto", "surprise", "neighbors", "mahalanobis", "reconstruction"]


def linked(n=400, seed=0):
    """A frame of which any column tells the others; a rare category goes with a rare number."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, n, p=[0.4, 0.3, 0.27, 0.03])
    return pd.DataFrame(
        {
            "kind": np.array(list("abcd"))[kind],
            "color": pd.Categorical(np.array(["red", "green", "blue", "black"])[kind]),
            "weight": 10.0 * kind + rng.normal(size=n),
            "is_large": kind >= 2,
        }
    )


@pytest.fixture(scope="module")
def models():
    options = {"hidden_layer_sizes": (16,), "max_epochs": 40, "linear_path": None, "random_state": 0, "batch_size": 32}
    return {cls: cls(2, **options).fit(linked()) for cls in TAKERS}


@pytest.mark.parametrize("cls", TAKERS)
def test_what_does_not_go_with_the_rest_is_found(cls, models):
    frame, wrong = linked(seed=1)[:60], []
    for name, column in enumerate(frame):
        odd = frame.copy()
        values = frame[column].to_numpy()
        odd[column] = np.where(values == np.roll(values, 1), values, np.roll(values, 1))
        wrong.append((name, odd[odd["kind"].ne("d") & frame["kind"].ne("d") & odd[column].ne(frame[column])]))
    normal = models[cls].score_anomaly(frame, method="surprise")
    for j, odd in wrong:
        if frame.columns[j] == "weight":  # of which most changes are small
            continue
        assert np.median(models[cls].score_anomaly(odd, method="surprise")) > np.quantile(normal, 0.9)
        assert np.mean(models[cls].explain_anomaly(odd, method="surprise").argmax(axis=1) == j) > 0.7


@pytest.mark.parametrize("cls", TAKERS)
def test_rare_rows_are_less_odd_than_frequent_entries_that_do_not_go_together(cls, models):
    frame = linked()
    rare, others = frame[frame["kind"] == "d"], frame[frame["kind"] != "d"]
    color = np.where(others["color"] == "red", "blue", "red")
    wrong = others.assign(color=pd.Categorical(color, categories=frame["color"].cat.categories))
    assert np.median(models[cls].score_anomaly(rare)) < 0.8 * np.median(models[cls].score_anomaly(wrong))


@pytest.mark.parametrize("cls", TAKERS)
def test_numbers_that_are_far_out_are_found(cls, models):
    frame = linked(seed=1)[:20]
    far = frame.assign(weight=frame["weight"] + 500.0)
    shares = models[cls].explain_anomaly(far, method="surprise")
    assert (models[cls].score_anomaly(far, method="surprise") > models[cls].score_anomaly(frame, method="surprise").max()).all()
    assert (shares.argmax(axis=1) == 2).all()


@pytest.mark.parametrize("cls", TAKERS)
def test_numbers_far_from_the_few_that_a_column_has_are_found(cls):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"kids": rng.choice(4, 200), "kind": rng.choice(["a", "b"], 200), "half": rng.choice([0.5, 1.0], 200)})
    frame = frame.assign(doors=4, rate=0.25)
    model = quick(cls).fit(frame)
    for name, value in {"kids": 40, "half": 9.0, "doors": 40, "rate": 9.0}.items():
        odd = frame.head(10).assign(**{name: value})
        assert model.score_anomaly(odd).min() > 3.0 * model.score_anomaly(frame).max()
        assert (model.explain_anomaly(odd).argmax(axis=1) == list(frame).index(name)).all()


def test_scores_are_of_probabilities_also_of_numbers_that_were_never_there():
    frame = pd.DataFrame({"kind": ["u", "w"] * 75, "kids": np.random.default_rng(0).poisson(2, 150)})
    model = quick(VAETransformer).fit(frame)
    every = pd.DataFrame([(kind, kids) for kind in "uw" for kids in range(-15, 60)], columns=["kind", "kids"])
    assert np.exp(model.score_samples(every)).sum() == pytest.approx(1.0, abs=0.05)
    far = [model.score(frame.assign(kids=kids)) for kids in (2, 20, 1000, 10**6)]
    assert (np.diff(far) < -1.0).all()


@pytest.mark.parametrize(("maker", "cls"), crossed([*MAKERS], TAKERS))
def test_every_column_has_a_share(cls, maker):
    frame = MAKERS[maker]()
    model = quick(cls).fit(frame)
    for method in METHODS:
        score, shares = model.score_anomaly(frame, method=method), model.explain_anomaly(frame, method=method)
        assert shares.shape == (N, 6)
        assert (shares >= 0.0).all()
        np.testing.assert_allclose(shares.sum(axis=1), score, rtol=1e-6)
    np.testing.assert_array_equal(model.explain_anomaly(frame), model.explain_anomaly(frame, method="surprise"))
    missing = frame.isna().to_numpy() if isinstance(frame, pd.DataFrame) else np.array([own.is_null() for own in frame]).T
    assert (model.explain_anomaly(frame, method="surprise")[missing] == 0.0).all()
    np.testing.assert_array_equal(model.score_anomaly(frame, method="likelihood"), -model.score_samples(frame))


def test_a_row_does_not_depend_on_others():
    frame = table(gaps=True)
    model = quick().fit(frame)
    for method in ("auto", "surprise"):
        shares = model.explain_anomaly(frame, method=method)
        one = [model.explain_anomaly(frame[i : i + 1], method=method) for i in range(5)]
        np.testing.assert_array_equal(np.concatenate(one), shares[:5])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).explain_anomaly(frame, method=method), shares)


def test_rows_that_are_kept_are_those_of_training():
    frame = table(gaps=True)
    model = quick().fit(frame)
    keys = model.module_.likelihood.from_comparable(torch.tensor(model._kept_rows.x))
    np.testing.assert_allclose(np.sort(keys, axis=0), np.sort(model._frame_form.read(frame), axis=0), rtol=1e-6)


@pytest.mark.parametrize("cls", [VAETransformer, AutoEncoder])
def test_nats_of_linear_models_are_those_given_the_other_entries(cls):
    """Up to a factor and a constant of each column: entries are compared with what the model makes of the others."""
    rng = np.random.default_rng(0)
    angle, noise = np.linspace(0.0, 2.5, 6), 0.4
    loadings = np.stack([np.cos(angle), np.sin(angle)])
    X = rng.normal(size=(600, 2)) @ loadings + noise * rng.normal(size=(600, 6))
    frame = pd.DataFrame(X, columns=list("abcdef"))
    options = {"linear_path": LinearPath(np.inf), "max_epochs": 1, "likelihood": {"a": "gaussian"}, "random_state": 0}
    model = cls(2, **options).fit(frame)
    found = repaired_nats(model.module_, Table.of(X[:200]), torch.device("cpu"), n_groups=6)[:, 1]
    precision = np.linalg.inv(loadings.T @ loadings + noise**2 * np.eye(6))
    given_others = X[:200] @ precision / np.diag(precision)  # what entries miss their conditional means by
    for j in range(6):
        assert np.corrcoef(np.sqrt(found[:, j] - found[:, j].min()), np.abs(given_others[:, j]))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("cls", "options"),
    [*((cls, {}) for cls in [*TAKERS, CVAE]), (CVAE, {"encode_condition": True, "hidden_layer_sizes": (4, 3)})],
)
def test_encoders_read_what_stands_for_rows(cls, options):
    frame, y = table(), np.where(np.arange(N) % 2, "a", "b")
    model = quick(cls, **options).fit(frame, *([y] if cls is CVAE else []))
    module, likelihood = model.module_, model.module_.likelihood
    x, _ = likelihood.fill(likelihood.standardize(model._frame_form.read(frame)[:16]))
    condition = torch.ones(8, module.n_conditions) if cls is CVAE else None
    one, other = (Batch.of(rows, condition=condition) for rows in x.split(8))
    with torch.no_grad():
        found = module.encode(one._replace(inputs=likelihood.network_input(other.x)))
        assert torch.equal(found, module.encode(other))
        assert not torch.equal(found, module.encode(one))


def test_wide_frames_leave_out_several_columns_at_a_time():
    rng = np.random.default_rng(0)
    cause = rng.integers(0, 2, 200)
    frame = pd.DataFrame({f"c{j}": np.where(rng.random(200) < 0.95, cause, 1 - cause).astype(bool) for j in range(70)})
    model = quick(max_epochs=20, batch_size=16, hidden_layer_sizes=(32,)).fit(frame)
    odd = pd.DataFrame({name: cause[:20].astype(bool) for name in frame}).assign(c3=~cause[:20].astype(bool))
    shares = model.explain_anomaly(odd, method="surprise")
    assert shares.shape == (20, 70)
    assert np.mean(shares.argmax(axis=1) == 3) == 1.0


def test_conditional_models():
    frame, y = table(), np.where(np.arange(N) % 2, "a", "b")
    model = quick(CVAE).fit(frame, y)
    for given in ((frame,), (frame, y)):
        np.testing.assert_allclose(model.explain_anomaly(*given).sum(axis=1), model.score_anomaly(*given), rtol=1e-6)
    assert (model.score_anomaly(frame) <= model.score_anomaly(frame, y)).all()
    of_columns = quick(CVAE, condition_columns=["sex", "age"]).fit(frame)
    shares = of_columns.explain_anomaly(frame)
    assert not shares[:, [0, 2]].any()
    np.testing.assert_allclose(shares.sum(axis=1), of_columns.score_anomaly(frame), rtol=1e-6)


def test_numbers_have_no_surprises():
    X = np.random.default_rng(0).normal(size=(20, 3))
    model = quick().fit(X)
    for call in (model.score_anomaly, model.explain_anomaly):
        with pytest.raises(ValueError, match="method='surprise' is for models of data frames with columns of different kinds"):
            call(X, method="surprise")
    with pytest.raises(ValueError, match="'neighbors', 'reconstruction', 'mahalanobis', 'likelihood'"):
        model.score_anomaly(X, method="other")
    with pytest.raises(ValueError, match="'mahalanobis', 'surprise'"):
        quick().fit(table()).explain_anomaly(table(), method="likelihood")


def test_classes_are_told_by_categories_and_by_numbers():
    frame = linked(n=160)
    noise = {"hobby": np.random.default_rng(1).choice(["x", "y"], len(frame)), "when": pd.Timestamp("2024-01-01")}
    options = {"hidden_layer_sizes": (16,), "max_epochs": 30, "linear_path": None, "random_state": 0, "batch_size": 32}
    for target in ("kind", "is_large"):
        rows = frame.drop(columns=target).assign(**noise)
        classifier = CVAEClassifier(CVAE(2, **options)).fit(rows, frame[target])
        assert classifier.score(rows, frame[target]) > 0.9
        proba = classifier.predict_proba(rows[:5])
        np.testing.assert_allclose(proba.sum(axis=1), 1.0)
        joint = classifier.estimator_.log_likelihoods(rows[:5]) + classifier.class_log_prior_
        np.testing.assert_array_equal(classifier.classes_[joint.argmax(axis=1)], classifier.predict(rows[:5]))


# -- detectors and pipelines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("maker", "calibration"), crossed([*MAKERS], ["split", "cross"]))
def test_detectors(maker, calibration):
    frame = MAKERS[maker]()
    detector = AnomalyDetector(quick(AutoEncoder), alpha=0.1, calibration=calibration, n_repeats=1, random_state=0)
    detector.fit(frame)
    assert set(detector.predict(frame)) <= {-1, 1}
    assert detector.p_values(frame[:3]).shape == (3,)
    shares = detector.explain(frame[:3])
    assert type(shares) is type(frame)
    assert list(shares.columns) == list(frame.columns)
    np.testing.assert_allclose(shares.to_numpy().sum(axis=1), -detector.score_samples(frame[:3]), rtol=1e-6)


def test_detectors_behind_the_steps_of_pipelines():
    frame = table()
    detector = AnomalyDetector(make_pipeline(quick()), alpha=0.1, random_state=0).fit(frame)
    assert list(detector.explain(frame[:2]).columns) == list(frame.columns)
    pipe = make_pipeline(quick()).fit(frame)
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, frame), pipe[-1].score_anomaly(frame))


def test_held_out_rows_may_have_categories_of_their_own(monkeypatch):
    frame = table().assign(sex=[f"s{i}" for i in range(N)])
    with pytest.raises(ValueError, match=r"not seen in fit.*handle_unknown=.missing.*The rows are some that are held out"):
        AnomalyDetector(quick(likelihood=Mixed()), alpha=0.1, random_state=0).fit(frame)
    given = make_pipeline(quick(likelihood={"age": "laplace"}))
    detector = AnomalyDetector(given, alpha=0.1, random_state=0).fit(frame)
    assert detector.estimators_[0][-1].likelihood == Mixed({"age": "laplace"}, handle_unknown="missing")
    assert given[-1].likelihood == {"age": "laplace"}
    frozen = AnomalyDetector(FrozenEstimator(quick().fit(frame)), alpha=0.1, random_state=0).fit(frame)
    assert frozen.estimators_[0].estimator.likelihood == "auto"
    monkeypatch.setattr("skvae.anomaly.AutoEncoder", lambda: quick(AutoEncoder))
    detector = AnomalyDetector(alpha=0.1, method="surprise", random_state=0).fit(frame)
    assert detector.estimators_[0].likelihood == Mixed(handle_unknown="missing")
    assert (detector.explain(frame.assign(sex="new"))["sex"] == 0.0).all()
    assert AnomalyDetector(random_state=0, alpha=0.2).fit(frame[["age"]]).estimators_[0].likelihood == "auto"
    assert AnomalyDetector(random_state=0, alpha=0.2).fit(polars_table()).estimators_[0].likelihood != "auto"
    assert isinstance(polars_table(), pl.DataFrame)


@pytest.mark.parametrize("method", ["neighbors", "mahalanobis", "reconstruction", "surprise"])
def test_shares_are_those_of_their_columns_where_networks_read_them_in_another_order(method):
    """Counts are read behind numbers, and here there is one number for each column."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"visits": rng.poisson(4, 120), "income": rng.normal(size=120)})
    model = VAETransformer(1, likelihood={"visits": "poisson"}, max_epochs=2, random_state=0).fit(frame)
    odd = frame.head(1).assign(income=9.0)
    assert model.explain_anomaly(odd, method=method)[0].argmax() == 1
