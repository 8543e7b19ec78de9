"""A handful of wild entries does not decide what a model learns of their columns, and is named in a warning."""

import re
import warnings

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler

from skvae import (
    CVAE,
    TDVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    ContractiveAE,
    DenoisingAE,
    EarlyStopping,
    SparseAE,
    VAETransformer,
)
from skvae.data import as_source
from skvae.data.gross import find_gross_errors

pytestmark = pytest.mark.usefixtures("one_core")
WARNING = r"Column .* of X has .*, where all others lie from"
ALLOWED = pytest.mark.filterwarnings(f"ignore:{WARNING}")
QUICK = {"n_components": 3, "max_epochs": 8, "linear_path": None, "hidden_layer_sizes": (16,), "random_state": 0}
COLUMN, ROW = 2, 17


def rows(n_rows, seed):
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(0).normal(size=(3, 10))
    return rng.normal(size=(n_rows, 3)) @ loadings + 0.3 * rng.normal(size=(n_rows, 10))


def spoilt(value=1e5):
    X = rows(300, 1)
    X[ROW, COLUMN] = value
    return X


def winsorized():
    X = rows(300, 1)
    X[ROW, COLUMN] = np.delete(X[:, COLUMN], ROW).max()
    return X


def quick(cls, **parameters):
    known = cls().get_params()
    return cls(**{name: value for name, value in {**QUICK, **parameters}.items() if name in known})


# -- what is learned --------------------------------------------------------------------------------------------------


@ALLOWED
@pytest.mark.parametrize(
    "model",
    [
        quick(AutoEncoder, max_epochs=60),
        quick(AutoEncoder, max_epochs=60, likelihood="laplace"),
        quick(AutoEncoder, max_epochs=60, hidden_layer_sizes=()),
        quick(VAETransformer, max_epochs=60),
        quick(DenoisingAE, max_epochs=60),
        quick(ContractiveAE, max_epochs=60),
    ],
    ids=lambda model: f"{type(model).__name__}, {model.likelihood}",
)
def test_other_entries_samples_and_anomalies(model):
    model.fit(spoilt())
    normal, anomalous = rows(200, 2), rows(60, 3)
    anomalous[:, COLUMN] += np.where(np.arange(60) % 2, 8.0, -8.0)
    std = rows(300, 1)[:, COLUMN].std()
    error = (model.reconstruct(normal) - normal)[:, COLUMN]
    assert np.mean(error**2) < 0.4 * std**2
    assert 0.7 * std < model.sample(1000, random_state=0)[:, COLUMN].std() < 1.3 * std
    both, is_anomaly = np.vstack([normal, anomalous]), np.arange(260) >= 200
    forest = IsolationForest(random_state=0).fit(spoilt())
    area = roc_auc_score(is_anomaly, model.score_anomaly(both))
    assert area >= max(0.9, roc_auc_score(is_anomaly, -forest.score_samples(both)))


@ALLOWED
@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer, SparseAE, VQVAE, CVAE])
def test_a_fit_is_that_of_the_table_without_it(cls):
    y = (np.arange(300) % 2,) if cls is CVAE else ()
    parameters = {"max_epochs": 2, "code_prior": "histogram"}
    if cls is SparseAE:
        parameters["n_components"] = 20
    one, other = (quick(cls, **parameters).fit(X, *y) for X in (spoilt(), winsorized()))
    assert np.array_equal(
        one.reconstruct(rows(20, 2), *(part[:20] for part in y)), other.reconstruct(rows(20, 2), *(part[:20] for part in y))
    )
    assert np.array_equal(one.sample(20, random_state=0), other.sample(20, random_state=0))
    assert np.array_equal(one.score_samples(rows(20, 2)), other.score_samples(rows(20, 2)))


# -- conditions -------------------------------------------------------------------------------------------------------

IN_WORDS = r"has 100000 in row 17, where all others lie from .* CVAE learns as if"


def conditions_of(form, value):
    """Arguments of `fit` for rows under two numbers, of which one has a wild entry, and how the warning begins."""
    X, given = rows(300, 1), rows(300, 4)[:, :2]
    given[ROW, 1] = np.delete(given[:, 1], ROW).max() if value is None else value
    if form == "list":
        return {"X": X, "y": given[:, 1]}, {}, "y"
    if form == "columns of X":
        return {"X": np.column_stack([X, given])}, {"condition_columns": [10, 11]}, "Column 11 of X"
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(given, columns=["age", "dose"])
    if form == "named columns of X":
        frame = pandas.DataFrame(X, columns=[f"c{i}" for i in range(10)]).join(frame)
        return {"X": frame}, {"condition_columns": ["dose", "age"]}, "Column 'dose' of X"
    if form == "labels and numbers":
        return {"X": X, "y": frame.assign(age=np.arange(300) % 3)}, {}, "Column 'dose' of y"
    if form == "frame":
        return {"X": X, "condition": frame}, {}, "Column 'dose' of condition"
    return {"X": X, form: given}, {}, f"Column 1 of {form}"


@pytest.mark.parametrize("form", ["y", "condition", "list", "frame", "labels and numbers", "columns of X", "named columns of X"])
def test_numbers_that_rows_are_conditioned_on_are_looked_at(form):
    (spoilt_rows, parameters, beginning), (clean, _, _) = conditions_of(form, 1e5), conditions_of(form, None)
    one, other = (quick(CVAE, max_epochs=2, **parameters) for _ in range(2))
    with pytest.warns(UserWarning, match=f"^{re.escape(beginning)} {IN_WORDS}") as caught:
        one.fit(**spoilt_rows)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.fit(**clean)
    drawn = [model.sample(200, random_state=0, return_y=True) for model in (one, other)]
    for part, expected in zip(*drawn, strict=True):
        np.testing.assert_array_equal(part, expected)
    given = {name: part for name, part in clean.items() if name != "X"}
    np.testing.assert_array_equal(one.score_samples(clean["X"], **given), other.score_samples(clean["X"], **given))


@ALLOWED
def test_weights_streams_and_scores_of_wild_conditions():
    (wild, _, _), (clean, _, _) = conditions_of("y", 1e5), conditions_of("y", None)
    weight = np.where(np.arange(300) < 10, 0.0, 1.0)
    with pytest.warns(UserWarning, match=IN_WORDS):
        weighted = quick(CVAE, max_epochs=1).fit(**wild, sample_weight=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(CVAE, max_epochs=1).fit(**wild, sample_weight=np.where(np.arange(300) == ROW, 0.0, 1.0))
    one, other = quick(CVAE), quick(CVAE)
    for _ in range(2):
        with pytest.warns(UserWarning, match=IN_WORDS):
            one.partial_fit(**wild)
        other.partial_fit(**clean)
    np.testing.assert_array_equal(one.transform(rows(20, 2)), other.transform(rows(20, 2)))
    scores = weighted.score_samples(rows(300, 1), wild["y"])
    assert scores.argmin() == ROW  # as it is


@ALLOWED
def test_choice_of_the_decay_and_early_stopping():
    for parameters in ({"linear_path": "auto", "max_epochs": 40}, {"early_stopping": EarlyStopping(n_iter_no_change=3)}):
        one, other = (quick(AutoEncoder, **parameters).fit(X) for X in (spoilt(), winsorized()))
        assert np.array_equal(one.transform(rows(20, 2)), other.transform(rows(20, 2)))


@ALLOWED
def test_scores_see_the_entry_as_it_is():
    model = quick(AutoEncoder, max_epochs=2).fit(spoilt())
    for method in ("auto", "mahalanobis", "reconstruction", "likelihood"):
        scores = model.score_anomaly(spoilt(), method=method)
        assert scores.argmax() == ROW
        assert scores[ROW] > 1e3 * np.abs(np.delete(scores, ROW)).max()
    assert model.explain_anomaly(spoilt()).argmax(axis=1)[ROW] == COLUMN


@ALLOWED
def test_clusters_of_training_rows_are_those_of_the_rows():
    model = quick(VQVAE, n_codes=1, n_embeddings=4, max_epochs=2).fit(spoilt())
    assert np.array_equal(model.labels_, model.predict(spoilt()))


@ALLOWED
def test_forms_of_rows_weights_and_missing_entries():
    X = spoilt()
    reference = quick(AutoEncoder, max_epochs=2).fit(X).transform(X[:10])
    assert np.array_equal(quick(AutoEncoder, max_epochs=2).fit(csr_matrix(X)).transform(X[:10]), reference)
    weight = np.ones(len(X))
    weight[ROW] = 0.0
    one, other = (
        quick(AutoEncoder, max_epochs=2).fit(**arguments)
        for arguments in ({"X": X, "sample_weight": weight}, {"X": np.delete(X, ROW, axis=0)})
    )
    assert np.array_equal(one.transform(X[:10]), other.transform(X[:10]))
    X[::7, 5] = np.nan
    clean = winsorized()
    clean[::7, 5] = np.nan
    one, other = (quick(VAETransformer, max_epochs=2, missing_values=np.nan).fit(rows) for rows in (X, clean))
    assert np.array_equal(one.transform(clean), other.transform(clean))


@ALLOWED
def test_chunks_of_a_stream():
    one, other = quick(AutoEncoder), quick(AutoEncoder)
    with pytest.warns(UserWarning, match="Column 2 of X has 100000 in row 17"):
        one.partial_fit(spoilt())
    other.partial_fit(winsorized())
    assert np.array_equal(one.transform(rows(20, 2)), other.transform(rows(20, 2)))
    with pytest.warns(UserWarning, match="Column 2 of X has -1e"):  # a later chunk is looked at, too
        one.partial_fit(spoilt(-1e6))
    later = rows(300, 1)
    later[ROW, COLUMN] = np.delete(later[:, COLUMN], ROW).min()
    other.partial_fit(later)
    assert np.array_equal(one.transform(rows(20, 2)), other.transform(rows(20, 2)))


# -- what is said -----------------------------------------------------------------------------------------------------


def test_the_warning_names_column_row_and_value():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(spoilt(), columns=[f"c{i}" for i in range(10)])
    with pytest.warns(UserWarning, match=WARNING) as caught:
        quick(AutoEncoder, max_epochs=1).fit(X)
    (warning,) = caught
    low, high = (f"{extreme(np.delete(spoilt()[:, COLUMN], ROW)):.4g}" for extreme in (np.min, np.max))
    assert str(warning.message) == (
        f"Column 'c2' of X has 100000 in row 17, where all others lie from {low} to {high}. AutoEncoder learns as if what lies "
        "outside were at the end of that range, and scores rows as they are. Correct such entries, or leave their rows out."
    )
    assert warning.filename == __file__


def test_rows_are_counted_as_they_were_given():
    weight = np.ones(300)
    weight[:10] = 0.0
    with pytest.warns(UserWarning, match="in row 17,"):
        quick(AutoEncoder, max_epochs=1).fit(spoilt(), sample_weight=weight)


def test_a_scaler_in_front_changes_nothing():
    with pytest.warns(UserWarning, match=WARNING):
        pipe = make_pipeline(RobustScaler(), quick(AutoEncoder, max_epochs=60)).fit(spoilt())
    assert (
        pipe[:-1].inverse_transform(pipe[-1].sample(500, random_state=0))[:, COLUMN].std() < 1.3 * rows(300, 1)[:, COLUMN].std()
    )


def test_detectors_say_so_too():
    with pytest.warns(UserWarning, match=r"Column 2 of X has 100000.* AutoEncoder learns"):
        detector = AnomalyDetector(quick(AutoEncoder), random_state=0).fit(np.repeat(spoilt(), 2, axis=0))
    assert detector.predict(spoilt())[ROW] == -1


def test_sequences_are_looked_at_frame_by_frame():
    X = np.random.default_rng(0).normal(size=(40, 6, 2))
    X[3, 2, 1] = 1e6
    with pytest.warns(UserWarning, match=re.escape("Column 1 of X has 1e+06, where")):
        model = TDVAE(max_epochs=1, random_state=0).fit(X)
    assert model.module_.likelihood.units.state["spread"][1] < 2.0


def test_what_a_likelihood_cannot_produce_stays_an_error():
    X = np.random.default_rng(0).poisson(3.0, size=(100, 4)).astype(float)
    X[5, 1] = 1e5 + 0.5
    with pytest.raises(ValueError, match=re.escape("column 1 of X has 100000.5")):
        quick(AutoEncoder, likelihood="poisson").fit(X)


@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer, load_digits, load_diabetes])
def test_known_tables_have_none(load):
    X = load().data
    assert find_gross_errors(as_source(X)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(AutoEncoder, max_epochs=1).fit(X)
