"""Entries of a table that are no numbers: what is said of them, and whether it is true."""

import datetime as dt
import decimal
import fractions
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from cases import CASES
from scipy import sparse
from sklearn.base import clone

from skvae import (
    CVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    CVAEClassifier,
    CVAEResampler,
    VAETransformer,
)
from skvae.estimators._checks import rows

N = 12
A = np.random.default_rng(0).normal(size=N)
DAYS = pd.date_range("2024-01-01", periods=N)
DATES = [day.to_pydatetime() for day in DAYS]


def frame(values):
    return pd.DataFrame({"a": A, "odd": values})


def polars(values):
    return pl.DataFrame({"a": A, "odd": values})


def objects(values):
    return pd.Series(list(values), dtype=object)


# Tables with a column that is no numbers, and what it holds, by the message.
CONVERTED = {
    "datetimes": (frame(DAYS), "dates"),
    "time zone": (frame(DAYS.tz_localize("Europe/Vienna")), "dates"),
    "missing datetimes": (frame(DAYS.where(np.arange(N) > 2)), "dates"),
    "date objects": (frame([day.date() for day in DATES]), "dates"),
    "datetime objects": (frame(objects(DATES)), "dates"),
    "time zone in objects": (frame(objects(DAYS.tz_localize("UTC"))), "dates"),
    "time zones": (frame(objects([*DAYS[:6].tz_localize("UTC"), *DAYS[6:].tz_localize("Asia/Tokyo")])), "dates"),
    "missing objects": (frame(objects([pd.NaT, *DATES[1:]])), "dates"),
    "date categories": (frame(pd.Categorical(DAYS)), "dates"),
    "date text": (frame(DAYS.strftime("%Y-%m-%d")), "dates"),
    "date and time text": (frame(DAYS.strftime("%Y-%m-%d %H:%M:%S").astype("string")), "dates"),
    "periods": (frame(DAYS.to_period("M")), "periods"),
    "timedeltas": (frame(DAYS - DAYS[0]), "durations"),
    "timedelta objects": (frame(objects(DATES[i] - DATES[0] for i in range(N))), "durations"),
    "times": (frame([dt.time(i, 30) for i in range(N)]), "times of day"),
    "intervals": (frame(pd.interval_range(0, N)), "intervals"),
    "categories of intervals": (frame(pd.cut(A, 3)), "intervals"),
    "array of datetimes": (np.column_stack([DAYS, DAYS]), "dates"),
    "array of timedeltas": (np.column_stack([DAYS, DAYS]) - np.datetime64("2024-01-01"), "durations"),
    "array of objects": (np.array([*zip(A, DATES, strict=True)], dtype=object), "dates"),
    "lists": ([*map(list, zip(A, DATES, strict=True))], "dates"),
    "polars dates": (polars([day.date() for day in DATES]), "dates"),
    "polars datetimes": (polars(DATES), "dates"),
    "polars time zone": (polars(pl.Series(DATES).dt.replace_time_zone("Europe/Vienna")), "dates"),
    "polars text": (polars([str(day) for day in DATES]), "dates"),
    "polars durations": (polars([day - DATES[0] for day in DATES]), "durations"),
    "polars times": (polars([dt.time(i) for i in range(N)]), "times of day"),
}

REFUSED = {
    "complex": (frame(A * 1j), r"'odd' \(e\.g\. .*j\) of X hold complex numbers.*pass real and imaginary parts"),
    "complex array": (np.column_stack([A, A]) * 1j, r"0 .*, 1 .* of X hold complex numbers"),
    "complex objects": (frame(objects(A * 1j)), "'odd' .* of X hold complex numbers"),
    "lists": (frame([[1, 2]] * N), r"'odd' \(e\.g\. \[1, 2\]\) of X hold several values in one entry.*Spread them over columns"),
    "arrays": (frame([np.ones(2)] * N), "'odd' .*hold several values in one entry.*'ndarray'"),
    "dicts": (frame([{"x": 1}] * N), "'odd' .*hold several values in one entry.*'dict'"),
    "nested lists": ([[1, [2]], [3, [4, 5]]] * 6, "1 .*hold several values in one entry.*'list'"),
    "polars lists": (polars([[1, 2]] * N), "'odd' .*hold several values"),
    "polars structures": (polars([{"x": 1}] * N), "'odd' .*hold several values"),
    "anything": (frame(objects([object()] * N)), "'odd' .*hold what is no number.* 'object'.*leave the column"),
    "text": (frame(["x"] * N), r"'odd' \(e\.g\. 'x'\) of X cannot be converted to numbers\. Encode them first.*\['odd'\]"),
    "bytes": (frame([b"x"] * N), r"'odd' \(e\.g\. b'x'\) of X cannot be converted"),
    "list of text": ([["x", 1.0]] * N, r"0 \(e\.g\. 'x'\) of X cannot be converted"),
    "polars categories": (polars(pl.Series(["x"] * N, dtype=pl.Categorical)), "'odd' .*cannot be converted"),
    "short rows": ([[1.0, 2.0], [3.0]] * 6, "X is a list of rows of different lengths, 1 to 2"),
    "structured": (np.array([(1, 2.0)] * N, dtype=[("x", int), ("y", float)]), r"fields x, y; .*pd\.DataFrame\(X\)"),
    "dictionary": ({"a": A, "b": A}, r"X is of type 'dict'.* example pd\.DataFrame\(X\)"),
    "generator": ((row for row in np.column_stack([A, A])), r"X is of type 'generator'.*np\.asarray\(list\(X\)\)"),
    "path": ("table.csv", r"X is of type 'str'.*pd\.read_csv\(X\)"),
    "two kinds": (frame(["x"] * N).assign(when=DAYS), "'odd' .*cannot be converted to numbers.*'when' .*hold dates"),
}


def quick():
    """Make an estimator that takes all columns for numbers."""
    return AutoEncoder(1, likelihood="gaussian", max_epochs=1, linear_path=None, missing_values=np.nan, random_state=0)


def with_column(X, values):
    """Table with other entries in the last column."""
    if isinstance(X, pd.DataFrame):
        return X.assign(odd=np.asarray(values, dtype=float))
    if isinstance(X, pl.DataFrame):
        return X.with_columns(odd=pl.Series(np.asarray(values, dtype=float)))
    return np.column_stack([A, values]).astype(float)


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.filterwarnings("error")
def test_dates_and_the_like_are_converted_as_the_message_says(name):
    X, what = CONVERTED[name]
    with pytest.raises(ValueError, match=rf"^Column\(s\) .* of X hold {what}, which are no numbers\. Convert") as caught:
        quick().fit(X)
    message = str(caught.value)
    assert ("'odd' (e.g. " in message) or not hasattr(X, "columns")
    assert "NaT" not in message
    cure = re.search(r"for example to [\w ]+: (.*)\. In a pipeline, a FunctionTransformer does so", message)[1]
    numbers = eval(cure, {"X": X, "pd": pd, "np": np})
    model = quick().fit(with_column(X, numbers))
    assert np.isfinite(model.transform(with_column(X, numbers))).all()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("error")
def test_other_entries_are_named(name):
    X, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message):
        quick().fit(X)
    with pytest.raises((ValueError, TypeError), match="X "):
        AnomalyDetector(quick()).fit(X)


@pytest.mark.parametrize(
    "values", [[decimal.Decimal(i) for i in range(N)], [fractions.Fraction(i, 3) for i in range(N)], [b"1", b"2"] * 6]
)
def test_entries_that_are_numbers_after_all(values):
    expected = quick().fit_transform(with_column(frame(values), [float(value) for value in values]))
    np.testing.assert_array_equal(quick().fit_transform(frame(values)), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["time zone", "polars dates"])
def test_every_estimator_says_so(case, name):
    with pytest.raises(ValueError, match=r"'odd' .*hold dates, which are no numbers.* take.? such columns as they are"):
        case.make(likelihood="gaussian").fit(CONVERTED[name][0])


def test_estimators_of_estimators_say_so():
    X = CONVERTED["time zone"][0]
    for call in (
        lambda: CVAEClassifier(CVAE(likelihood="gaussian")).fit(X, np.arange(N) % 2),
        lambda: AutoencoderImputer(VAETransformer(likelihood="gaussian")).fit(X),
    ):
        with pytest.raises(ValueError, match=r"'odd' .*hold dates, which are no numbers"):
            call()


def test_new_rows_are_looked_at_as_those_of_the_fit_are():
    model = quick().fit(with_column(frame(A), A))
    with pytest.raises(ValueError, match=r"'odd' .*hold dates"):
        model.transform(frame(DAYS))


@pytest.mark.parametrize("form", [sparse.dok_array, sparse.dok_matrix, sparse.lil_array, sparse.coo_matrix])
def test_sparse_matrices_that_are_dicts_are_none(form):
    X = np.column_stack([A, np.arange(N) % 3])
    np.testing.assert_allclose(quick().fit(form(X)).transform(form(X)), quick().fit(X).transform(X), atol=1e-4)
    with pytest.raises(ValueError, match="must be dense, but are a sparse matrix"):
        CVAE(1, max_epochs=1).fit(X, form(X[:, 1:]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("place", [(0, 0), (500, 2), (-1, -1)])
@pytest.mark.parametrize(
    ("entry", "says"), [(np.nan, "contains NaN"), (np.inf, "contains infinity"), (-np.inf, "contains infinity")]
)
def test_entries_that_are_no_finite_numbers_are_found_anywhere(dtype, place, entry, says):
    X = np.random.default_rng(0).normal(size=(1000, 5)).astype(dtype)
    model = quick().set_params(missing_values=None).fit(X[:20])
    X[place] = entry
    for call in (model.transform, model.fit):
        with pytest.raises(ValueError, match=says):
            call(X)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numbers_whose_sum_is_none_are_numbers(dtype):
    X = np.random.default_rng(0).normal(size=(1000, 5)).astype(dtype)
    model = quick().fit(X[:20])
    X[:, 1] = 0.9 * np.finfo(dtype).max
    assert np.isfinite(model.transform(X)).all()


ROWS = np.random.default_rng(0).normal(size=(N, 3))
AS_BEFORE = {
    "rows": ROWS,
    "in single precision": ROWS.astype(np.float32),
    "columns first": np.asfortranarray(ROWS),
    "backwards": ROWS[::-1],
}
OTHERS = {
    "too wide": np.hstack([ROWS, ROWS]),
    "too narrow": ROWS[:, :2],
    "one axis": ROWS[0],
    "three axes": ROWS[np.newaxis],
    "nothing": ROWS[:0],
    "not a number": np.where(ROWS > 1, np.nan, ROWS),
    "integers": ROWS.astype(int),
    "half": ROWS.astype(np.float16),
    "long": ROWS.astype(np.longdouble),
    "big-endian": ROWS.astype(">f8"),
    "complex": ROWS.astype(complex),
    "a list": ROWS.tolist(),
    "a frame": pd.DataFrame(ROWS, columns=list("abc")),
    "sparse": sparse.csr_array(ROWS),
    "objects": ROWS.astype(object),
}


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("name", [*AS_BEFORE, *OTHERS])
def test_rows_that_need_no_second_look_are_what_they_would_be_with_one(name, names, monkeypatch):
    fitted_to = pd.DataFrame(ROWS, columns=list("abc")) if names else ROWS
    model = AutoEncoder(2, hidden_layer_sizes=(), max_epochs=1, random_state=0).fit(fitted_to)
    given, seen, look = (AS_BEFORE | OTHERS)[name], [], rows.validate_data

    def outcome():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = model.transform(given)
            except (ValueError, TypeError) as error:
                found = type(error), str(error)
        return found, [str(each.message) for each in caught]

    monkeypatch.setattr(rows, "validate_data", lambda *args, **kwargs: seen.append(1) or look(*args, **kwargs))
    found, said = outcome()
    if name not in ("three axes", "complex"):  # which are refused before
        assert bool(seen) == (names or name in OTHERS)
    monkeypatch.setattr(rows, "_is_as_before", lambda *args, **kwargs: False)
    expected, also_said = outcome()
    assert said == also_said
    assert np.array_equal(found, expected)
    assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)


# -- tensors of torch -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The (code|state) of .* has collapsed", "ignore:Only .* of the .* codes")
@pytest.mark.parametrize("case", [case for case in CASES if not issubclass(case.cls, CVAE)], ids=str)
def test_tensors_are_tables_whatever_gradients_and_precision_they_have(case, X):
    half = torch.tensor(X, dtype=torch.bfloat16)
    for tensor, plain in ((torch.tensor(X, requires_grad=True), X), (half, half.float().numpy())):
        found, expected = case.make(), case.make()
        np.testing.assert_array_equal(found.fit(tensor).transform(tensor), expected.fit(plain).transform(plain))


@pytest.mark.filterwarnings("ignore:The rows of X have no clusters")
def test_tensors_reach_those_who_use_estimators(X):
    tensor, y, quick = torch.tensor(X, requires_grad=True), np.arange(len(X)) % 3 // 2, {"max_epochs": 1, "random_state": 0}
    vae, cvae = VAETransformer(2, **quick), CVAE(2, **quick)
    models = AutoencoderImputer(vae), AnomalyDetector(vae, random_state=0), AutoencoderClusterer(2, estimator=vae, n_init=1)
    for model in (*models, CVAEClassifier(cvae)):
        name = "transform" if hasattr(model, "transform") else "predict"
        found, expected = (getattr(clone(model).fit(rows, y), name)(rows) for rows in (tensor, X))
        np.testing.assert_array_equal(found, expected)
    found, expected = (CVAEResampler(cvae, random_state=0).fit_resample(rows, y)[0] for rows in (tensor, X))
    np.testing.assert_array_equal(found, expected)


def test_sparse_tensors_are_refused_in_words(X):
    with pytest.raises(TypeError, match=r"X is a sparse tensor of torch; pass X\.to_dense\(\), or a sparse matrix of scipy"):
        VAETransformer(2).fit(torch.tensor(X).to_sparse())
