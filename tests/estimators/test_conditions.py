"""What rows are conditioned on, in every form that users keep it in."""

import copy
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

from skvae import CVAE, CVAEClassifier, CVAEResampler
from skvae.estimators._conditions import Conditions

N_ROWS = 60
INTEGERS = np.arange(N_ROWS) % 3
LETTERS = np.array(list("abc"))[INTEGERS]
NUMBERS = np.random.default_rng(0).normal(5.0, 3.0, size=(N_ROWS, 2))

# Labels of one kind, each with the labels that are known afterwards.
LABELS = {
    "integers": (INTEGERS, [0, 1, 2]),
    "list": (INTEGERS.tolist(), [0, 1, 2]),
    "large integers": (INTEGERS + 2**53, [2**53, 2**53 + 1, 2**53 + 2]),
    "whole floats": (INTEGERS.astype(np.float32), [0.0, 1.0, 2.0]),
    "booleans": (INTEGERS > 0, [False, True]),
    "strings": (LETTERS, ["a", "b", "c"]),
    "list of strings": (LETTERS.tolist(), ["a", "b", "c"]),
    "objects": (LETTERS.astype(object), ["a", "b", "c"]),
    "bytes": (LETTERS.astype("S1"), [b"a", b"b", b"c"]),
    "days": (
        np.datetime64("2024-01-01") + INTEGERS.astype("timedelta64[D]"),
        [np.datetime64(f"2024-01-0{i}") for i in (1, 2, 3)],
    ),
    "series": (pd.Series(LETTERS, index=np.arange(N_ROWS)[::-1]), ["a", "b", "c"]),
    "categories": (pd.Series(LETTERS, dtype="category"), ["a", "b", "c"]),
    "pandas strings": (pd.Series(LETTERS, dtype="string"), ["a", "b", "c"]),
    "pandas integers": (pd.Series(INTEGERS, dtype="Int64"), [0, 1, 2]),
    "pandas booleans": (pd.Series(INTEGERS > 0, dtype="boolean"), [False, True]),
    "pandas dates": (pd.Series(pd.to_datetime("2024-01-01") + pd.to_timedelta(INTEGERS, unit="D")), None),
    "polars": (pl.Series(LETTERS.tolist()), ["a", "b", "c"]),
    "polars categories": (pl.Series(LETTERS.tolist(), dtype=pl.Categorical), ["a", "b", "c"]),
    "column": (INTEGERS[:, np.newaxis], [0, 1, 2]),
    "frame": (pd.DataFrame({"site": LETTERS}), ["a", "b", "c"]),
    "one label": (np.zeros(N_ROWS, dtype=int), [0]),
}

# Several columns: which are labels, and the width.
TABLES = {
    "integers": (np.stack([INTEGERS, INTEGERS % 2], axis=1), [True, True], 5),
    "strings": (np.stack([LETTERS, LETTERS], axis=1), [True, True], 6),
    "numbers": (NUMBERS, [False, False], 2),
    "float32": (NUMBERS.astype(np.float32), [False, False], 2),
    "whole numbers": (NUMBERS.round(), [False, False], 2),
    "frame of labels": (pd.DataFrame({"a": INTEGERS, "b": LETTERS}), [True, True], 6),
    "frame": (pd.DataFrame({"site": LETTERS, "age": NUMBERS[:, 0], "sex": INTEGERS > 1}), [True, False, True], 6),
    "categories": (
        pd.DataFrame({"site": pd.Categorical(LETTERS), "age": pd.Series(NUMBERS[:, 0], dtype="Float64")}),
        [True, False],
        4,
    ),
    "equal names": (pd.DataFrame(zip(LETTERS, NUMBERS[:, 0], strict=True), columns=["x", "x"]), [True, False], 4),
    "polars": (pl.DataFrame({"site": LETTERS.tolist(), "age": NUMBERS[:, 0]}), [True, False], 4),
    "nested lists": ([[a, b] for a, b in zip(LETTERS.tolist(), NUMBERS[:, 0].tolist(), strict=True)], [True, False], 4),
    "objects": (np.array([*zip(LETTERS, NUMBERS[:, 0], strict=True)], dtype=object), [True, False], 4),
}


@pytest.fixture
def X():
    return np.random.default_rng(1).normal(size=(N_ROWS, 4)) + INTEGERS[:, np.newaxis]


def quick(**params):
    return CVAE(**{"n_components": 2, "hidden_layer_sizes": (6,), "max_epochs": 2, "random_state": 0, **params})


def first_of(y):
    return y.iloc[0] if hasattr(y, "iloc") else y[0]


# -- labels that look like numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "which"),
    [
        (np.arange(120) // 2, "y"),
        ((np.arange(120) // 2).astype(float), "y"),
        (pd.DataFrame({"age": np.arange(120) // 2, "site": np.arange(120) % 2}), "Column 'age' of y"),
    ],
    ids=["integers", "whole floats", "frame"],
)
def test_many_whole_numbers_that_become_labels_are_warned_of(y, which):
    X = np.random.default_rng(0).normal(size=(120, 3))
    with pytest.warns(UserWarning, match=rf"^{which} holds 60 different whole numbers for 120 rows.*data frame of floats"):
        quick().fit(X, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*different whole numbers")
        numbers = np.asarray(y, dtype=float).reshape(120, -1)  # as the message says
        assert quick().fit(X, numbers).n_conditions_ == numbers.shape[1]
        quick().fit(X, (np.arange(120) // 2).astype(str))
        quick().fit(X, np.arange(120) % 50)
        quick().fit(np.repeat(X, 3, axis=0), np.repeat(np.arange(120) // 2, 3))


# -- one kind of labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_type(X, name):
    y, known = LABELS[name]
    model = quick().fit(X, y)
    if known is not None:
        np.testing.assert_array_equal(model.classes_, known)
    assert model.n_conditions_ == len(model.classes_)
    expected = quick().fit(X, np.unique(np.asarray(y), return_inverse=True)[1].ravel())
    np.testing.assert_array_equal(model.transform(X), expected.transform(X))
    drawn, labels = model.sample(40, return_y=True)
    assert set(labels.ravel().tolist()) <= set(np.asarray(model.classes_).tolist())
    assert labels.shape == (40, *np.shape(y)[1:])
    np.testing.assert_array_equal(model.sample(y=labels), drawn)
    np.testing.assert_array_equal(
        model.score_samples(X, y), expected.score_samples(X, np.unique(np.asarray(y), return_inverse=True)[1])
    )


@pytest.mark.parametrize("name", sorted(set(LABELS) - {"column", "frame"}))
def test_one_label_stands_for_all_rows(X, name):
    y, _ = LABELS[name]
    model = quick().fit(X, y)
    one = first_of(y)
    np.testing.assert_array_equal(model.reconstruct(X, one), model.reconstruct(X, [one] * N_ROWS))
    for known in model.classes_:
        assert (
            model.sample(2, y=known, return_y=True)[1].tolist() == np.array([known, known], dtype=model.classes_.dtype).tolist()
        )


def test_labels_come_one_hot():
    conditions = Conditions(LETTERS, None)
    encoded = conditions.encode(["b", "c"], 2)
    assert encoded.dtype == np.float32
    assert conditions.width == 3
    np.testing.assert_array_equal(encoded > 0, [[0, 1, 0], [0, 0, 1]])
    assert len(np.unique(encoded)) == 2
    np.testing.assert_array_equal(Conditions(LETTERS, None, scaled=False).encode(["b"], 1), [[0, 1, 0]])


def test_one_hot_entries_of_many_labels_stay_as_large_as_other_inputs():
    for n in (2, 100):
        encoded = Conditions(np.arange(n), None).encode(np.arange(n), n)
        assert 0.9 <= encoded.std(0).mean() <= 2.5
        assert encoded.max() >= np.sqrt(n)


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_tables(X, name):
    y, is_label, width = TABLES[name]
    model = quick().fit(X, y)
    assert model.n_conditions_ == width
    assert hasattr(model, "classes_") == all(is_label)
    if all(is_label):
        assert [len(known) for known in model.classes_] == [len(np.unique(np.asarray(column))) for column in np.asarray(y).T]
    drawn, condition = model.sample(7, return_y=True)
    assert condition.shape == (7, len(is_label))
    seen = {tuple(row) for row in (y if isinstance(y, list) else np.asarray(y, dtype=object).tolist())}
    assert {tuple(row) for row in condition.tolist()} <= seen  # combinations stay together
    np.testing.assert_array_equal(model.sample(y=condition), drawn)
    row = condition[0] if condition.dtype == object else condition[0].tolist()
    np.testing.assert_array_equal(model.reconstruct(X, row), model.reconstruct(X, np.repeat(condition[:1], N_ROWS, axis=0)))
    again = quick().fit(X, np.asarray(y, dtype=object) if hasattr(y, "columns") else y)  # frames lose nothing as objects
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


def test_numbers_come_standardized():
    weight = np.arange(1.0, N_ROWS + 1)
    encoded = Conditions(NUMBERS, None).encode(NUMBERS, N_ROWS)
    np.testing.assert_allclose(encoded.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(encoded.std(0), 1.0, rtol=1e-6)
    encoded = Conditions(NUMBERS, weight).encode(NUMBERS, N_ROWS)
    np.testing.assert_allclose(np.average(encoded, axis=0, weights=weight), 0.0, atol=1e-6)


def test_numbers_come_back_as_they_were():
    conditions = Conditions(NUMBERS, None)
    np.testing.assert_array_equal(conditions.as_fitted(NUMBERS), NUMBERS)
    assert all(row in NUMBERS.tolist() for row in conditions.draw(200, 0).tolist())


def test_a_column_of_numbers_that_never_changes(X):
    y = np.column_stack([np.full(N_ROWS, 7.0), NUMBERS[:, 0]])
    model = quick().fit(X, y)
    assert np.isfinite(model.score(X, y))
    assert np.isfinite(model.sample(3, y=[8.0, 1.0])).all()


def test_frames_are_read_by_name(X):
    frame = TABLES["frame"][0]
    model = quick().fit(X, frame)
    expected = model.reconstruct(X, frame)
    np.testing.assert_array_equal(model.reconstruct(X, frame[["sex", "site", "age"]]), expected)
    np.testing.assert_array_equal(model.reconstruct(X, frame.to_numpy()), expected)
    with pytest.raises(ValueError, match=r"y has the columns \['site', 'age', 'job'\], but .* \['site', 'age', 'sex'\]"):
        model.reconstruct(X, frame.rename(columns={"sex": "job"}))
    swapped = quick(max_epochs=1).partial_fit(X, frame).partial_fit(X, frame[["sex", "site", "age"]])
    np.testing.assert_array_equal(
        swapped.reconstruct(X, frame), quick(max_epochs=1).partial_fit(X, frame).partial_fit(X, frame).reconstruct(X, frame)
    )


# -- proportions ------------------------------------------------------------------------------------------------------


def test_combinations_and_their_shares():
    y = np.array([["a", "x"], ["a", "y"], ["b", "x"], ["a", "x"]])
    encoded, log_share = Conditions(y, None).combinations()
    np.testing.assert_allclose(np.exp(log_share), [0.5, 0.25, 0.25])
    np.testing.assert_array_equal(encoded > 0, [[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0]])
    _, log_share = Conditions(y, np.array([1.0, 1.0, 5.0, 1.0])).combinations()
    np.testing.assert_allclose(np.exp(log_share), [0.25, 0.125, 0.625])


def test_labels_are_drawn_in_their_proportions():
    conditions = Conditions(np.repeat([0, 1, 2], [60, 30, 10]), np.repeat([1.0, 1.0, 3.0], [60, 30, 10]), classes=[0, 1, 2, 3])
    np.testing.assert_allclose(np.bincount(conditions.draw(6000, 0), minlength=4) / 6000, [0.5, 0.25, 0.25, 0.0], atol=0.02)
    np.testing.assert_array_equal(conditions.draw(50, 3), conditions.draw(50, 3))
    assert not np.array_equal(conditions.draw(50, 3), conditions.draw(50, 4))


def test_numbers_are_drawn_in_the_proportions_of_the_weights():
    values, weight = np.array([0.5, 1.5]), np.array([3.0, 1.0])
    conditions = Conditions(np.tile(values, 2000), np.tile(weight, 2000))
    assert np.mean(conditions.draw(4000, 0) == 0.5) == pytest.approx(0.75, abs=0.03)
    assert len(conditions._seen) == 1000


@pytest.mark.parametrize(
    "y", [LETTERS, INTEGERS, NUMBERS, LABELS["days"][0], TABLES["frame"][0], TABLES["objects"][0], TABLES["strings"][0]]
)
def test_the_plain_form_holds_everything(y):
    weight = np.arange(1.0, N_ROWS + 1)
    conditions = Conditions(y, weight, name="condition")
    state = conditions.plain()
    assert {type(value) for value in state.values()} <= {str, list, bool, np.ndarray, type(None)}
    assert all(type(value) in (str, float, np.ndarray) for column in state["columns"] for value in column.values())
    for again in (Conditions.from_plain(state), pickle.loads(pickle.dumps(conditions)), copy.deepcopy(conditions)):
        assert vars(again).keys() == vars(conditions).keys()
        assert again.describe() == conditions.describe()
        np.testing.assert_array_equal(again.encode(y, N_ROWS), conditions.encode(y, N_ROWS))
        np.testing.assert_array_equal(again.draw(50, 1), conditions.draw(50, 1))
        np.testing.assert_array_equal(again.extended(y, None).draw(50, 2), conditions.extended(y, None).draw(50, 2))
        with pytest.raises(ValueError, match="condition has 1 entries for 2 row"):
            again.spread(y[:1], 2)


def test_extending_leaves_the_original_as_it_was():
    for y in (LETTERS, NUMBERS):
        conditions = Conditions(y, None)
        before = pickle.dumps(conditions)
        conditions.extended(y[::2], None)
        conditions.extended(y[::2], None, anew=True)
        conditions.called("condition")
        assert pickle.dumps(conditions) == before


def test_counts_grow_and_start_anew():
    conditions = Conditions([0, 1], None)
    more = conditions.extended([1, 1], None)
    np.testing.assert_allclose(np.exp(more.combinations()[1]), [0.25, 0.75])
    np.testing.assert_allclose(np.exp(conditions.combinations()[1]), [0.5, 0.5])
    np.testing.assert_allclose(np.exp(more.extended([0, 0, 0, 1], None, anew=True).combinations()[1]), [0.75, 0.25])
    numbers = Conditions([0.5, 1.5], None)
    assert set(numbers.extended([2.5], None).draw(100, 0)) == {0.5, 1.5, 2.5}
    assert set(numbers.extended([2.5], None, anew=True).draw(100, 0)) == {2.5}


# -- what is refused, in words ----------------------------------------------------------------------------------------


def by_condition(message):
    """Return a message about y as one about the argument `condition`."""
    return re.sub(r"^y(?= has| must|=)|(?<=of )y", "condition", message)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            np.where(INTEGERS == 1, np.nan, INTEGERS),
            r"y has 20 missing, NaN or infinite entries, the first at position 1: fill them in",
        ),
        (np.where(INTEGERS == 1, np.inf, INTEGERS), r"20 missing, NaN or infinite"),
        (np.where(INTEGERS == 1, None, LETTERS), r"20 missing"),
        (pd.Series(LETTERS).where(INTEGERS != 1).astype("string"), r"20 missing"),
        (pd.Series(INTEGERS).where(INTEGERS != 1).astype("Int64"), r"20 missing"),
        (pd.Series(LETTERS).where(INTEGERS != 1).astype("category"), r"20 missing"),
        (pl.Series(["a", None] * 30), r"30 missing"),
        (pd.Series(pd.to_datetime(["2024-01-01", None] * 30)), r"30 missing"),
        (np.where(NUMBERS > 5.0, np.nan, NUMBERS), r"missing, NaN or infinite entries, the first at position \(\d, \d\)"),
        (pd.DataFrame({"site": LETTERS, "age": [1.0, np.nan] * 30}), r"Column 'age' of y has 30 missing"),
        (np.array([1, "a"] * 30, dtype=object), r"y has labels of the types int and str, which cannot be sorted"),
        ([1, "a"] * 30, r"y has labels of the types int and str"),
        (np.zeros((N_ROWS, 2, 2)), r"y must be a list of labels, .* but has shape \(60, 2, 2\)"),
        (INTEGERS + 1j, r"type complex128"),
        (np.empty((N_ROWS, 0)), r"y has no columns"),
        (sparse.csr_array(np.eye(3)[INTEGERS]), r"must be dense, .* toarray"),
        (INTEGERS[:50], r"inconsistent numbers of samples: \[60, 50\]"),
        (NUMBERS * [1.0, 1e305], r"The spread of column\(s\) \[1\] of y is too large"),
        (pd.DataFrame(NUMBERS * [1e-320, 1.0], columns=["a", "b"]), r"The spread of column\(s\) \['a'\] of y is too small"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_conditions_that_fit_refuses(X, y, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(X, y)
    with pytest.raises(ValueError, match=by_condition(message)):
        quick().fit(X, condition=y)


def test_no_conditions_at_all(X):
    for fit in (quick().fit, quick().partial_fit):
        with pytest.raises(ValueError, match=r"requires y to be passed, but the target y is None\. Pass labels or numbers as y"):
            fit(X)


@pytest.mark.parametrize(
    ("fitted", "given", "message"),
    [
        (
            LETTERS,
            np.where(INTEGERS == 1, "d", LETTERS),
            r"y has labels that were not seen in fit: 'd'; known are 'a', 'b', 'c'\.",
        ),
        (LETTERS, "zz", r"not seen in fit: 'zz'"),
        (INTEGERS, "1", r"not seen in fit: '1'; known are 0, 1, 2"),
        (INTEGERS, 1.5, r"not seen in fit: 1\.5"),
        (INTEGERS, np.nan, r"missing, NaN"),
        (INTEGERS, np.arange(N_ROWS), r"not seen in fit: 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, and 47 more"),
        (INTEGERS, INTEGERS[:7], r"y has 7 entries for 60 row\(s\)"),
        (INTEGERS, np.eye(3)[INTEGERS], r"y has 3 column\(s\), but the model was fitted with 1"),
        (LABELS["days"][0], "soon", r"not seen in fit: 'soon'"),
        (NUMBERS, NUMBERS[:, :1], r"y has 1 column\(s\), but the model was fitted with 2"),
        (NUMBERS, NUMBERS[:9], r"y has 9 entries"),
        (NUMBERS, 3.0, r"y=3\.0 is one value, but a condition has 2: 2 numbers"),
        (NUMBERS, np.full((N_ROWS, 2), "x"), r"Column 0 of y was numbers in fit; it cannot be converted"),
        (TABLES["frame"][0], "a", r"y='a' is one value, but a condition has 3: 2 labels and 1 number"),
        (TABLES["frame"][0], ["q", 1.0, True], r"Column 'site' of y has labels that were not seen in fit: 'q'"),
        (TABLES["frame"][0], ["a", "old", True], r"Column 'age' of y was numbers"),
        (LETTERS, {"a"}, r"y has an entry of type set, \{'a'\}, which is no label"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_conditions_that_a_fitted_model_refuses(X, fitted, given, message):
    model = quick().fit(X, fitted)
    for method in (model.reconstruct, model.score_samples, model.inpaint):
        args = (X, np.ones(4, dtype=bool)) if method == model.inpaint else (X,)
        with pytest.raises(ValueError, match=message):
            method(*args, given)
    with pytest.raises(ValueError, match=by_condition(message)):
        model.transform(X, condition=given)


@pytest.mark.parametrize(
    ("fitted", "what"),
    [
        (LETTERS, r"a label \('a', 'b', 'c'\)"),
        (NUMBERS, "2 numbers"),
        (TABLES["frame"][0], "2 labels and 1 number"),
        (NUMBERS[:, 0], "1 number"),
    ],
    ids=["label", "numbers", "mixed", "number"],
)
def test_methods_that_need_conditions_ask_for_them(X, fitted, what):
    model = quick().fit(X, fitted)
    mask, codes = np.ones(4, dtype=bool), np.zeros((2, 2))
    for name, args in {
        "reconstruct": (X,),
        "inverse_transform": (codes,),
        "style_transfer": (X, None),
        "interpolate": (X, X, None),
        "inpaint": (X, mask),
        "draw_inpaintings": (X, mask),
    }.items():
        with pytest.raises(
            ValueError, match=rf"of CVAE needs conditions, {what}: pass \w+( or condition)?, one for each row or one"
        ):
            getattr(model, name)(*args)
    for name in ("score_samples", "score", "effective_sample_size", "score_anomaly", "explain_anomaly"):
        if what.startswith("a label"):  # which can be summed out
            getattr(model, name)(X)
        else:
            with pytest.raises(ValueError, match=f"needs conditions, {what}"):
                getattr(model, name)(X)


def test_an_encoder_that_takes_conditions_asks_too(X):
    model = quick(encode_condition=True).fit(X, LETTERS)
    with pytest.raises(ValueError, match=r"transform with encode_condition=True of CVAE .* pass condition \(in a pipeline, by"):
        model.transform(X)
    with pytest.raises(ValueError, match=r"posterior with encode_condition=True .* pass y or condition"):
        model.posterior(X)
    with pytest.raises(ValueError, match=r"style_transfer with encode_condition=True .* pass condition"):
        model.style_transfer(X, "a")
    assert model.transform(X, condition="a").shape == (N_ROWS, 2)


def test_log_likelihoods_need_one_list_of_labels(X):
    assert quick().fit(X, LETTERS[:, np.newaxis]).log_likelihoods(X).shape == (N_ROWS, 3)
    for y in (NUMBERS, TABLES["frame"][0], TABLES["integers"][0]):
        with pytest.raises(ValueError, match="log_likelihoods needs conditions that are one list of labels; here are 2"):
            quick().fit(X, y).log_likelihoods(X)


# -- by name, and in a hurry ------------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"site": LETTERS, "age": NUMBERS[:, 0]})
COLUMNS = {"site": LETTERS, "age": NUMBERS[:, 0]}


@pytest.mark.parametrize(
    "given",
    [
        COLUMNS,
        dict(reversed(COLUMNS.items())),
        {name: values.tolist() for name, values in COLUMNS.items()},
        [{"age": age, "site": site} for site, age in zip(LETTERS, NUMBERS[:, 0], strict=True)],
        {"site": pd.Series(LETTERS, dtype="category"), "age": pl.Series(NUMBERS[:, 0])},
    ],
    ids=["dict", "another order", "lists", "a dict a row", "series"],
)
def test_conditions_by_name_are_those_of_a_data_frame(X, given):
    expected, model = quick().fit(X, FRAME), quick().fit(X, condition=given)
    np.testing.assert_array_equal(expected.transform(X), quick().fit(X, dict(COLUMNS)).transform(X))
    for fitted in (expected, model):
        np.testing.assert_array_equal(fitted.reconstruct(X, given), fitted.reconstruct(X, FRAME))
        np.testing.assert_array_equal(fitted.score_samples(X, condition=given), fitted.score_samples(X, FRAME))
    weight = np.arange(N_ROWS) % 3.0
    np.testing.assert_array_equal(
        quick().fit(X, FRAME, sample_weight=weight).transform(X), quick().fit(X, COLUMNS, sample_weight=weight).transform(X)
    )
    first = quick().partial_fit(X, FRAME)
    np.testing.assert_array_equal(
        copy.deepcopy(first).partial_fit(X, FRAME).transform(X), first.partial_fit(X, given).transform(X)
    )


def test_one_condition_by_name_stands_for_all_rows(X):
    model = quick().fit(X, FRAME)
    expected = model.sample(5, y=["b", 4.0], random_state=0)
    for one in (
        {"site": "b", "age": 4.0},
        {"age": 4, "site": "b"},
        {"site": ["b"] * 5, "age": 4.0},
        {"site": "b", "age": np.full(5, 4.0)},
        [{"site": "b", "age": 4.0}] * 5,
        pd.Series({"age": 4.0, "site": "b"}),
        pd.Series({"site": "b", "age": 4.0}),
    ):
        np.testing.assert_array_equal(model.sample(5, y=one, random_state=0), expected)
    assert model.sample(y={"site": "b", "age": 4.0}).shape == (1, 4)
    assert model.sample(y={"site": ["a", "b"], "age": 4.0}).shape == (2, 4)
    np.testing.assert_array_equal(model.style_transfer(X, {"site": "b", "age": 4.0}), model.style_transfer(X, ["b", 4.0]))
    single = quick().fit(X, FRAME[["site"]])
    np.testing.assert_array_equal(single.sample(3, y={"site": "b"}, random_state=0), single.sample(3, y="b", random_state=0))


def test_columns_of_x_that_are_conditions_are_named_as_they_are(X):
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = quick(condition_columns=["d", "b"]).fit(frame)
    expected = model.sample(4, y=[1.0, 2.0], random_state=0)
    np.testing.assert_array_equal(model.sample(4, y={"b": 2.0, "d": 1.0}, random_state=0), expected)
    assert (expected[:, [3, 1]] == [1.0, 2.0]).all()
    by_position = quick(condition_columns=[3, 1]).fit(X)
    np.testing.assert_array_equal(by_position.sample(4, y={1: 2.0, 3: 1.0}, random_state=0), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"site": "a"}, r"y has the columns \['site'\], but .* \['site', 'age'\].* such as \{'site': 'a', 'age': "),
        ({"site": "a", "agee": 3.0}, r"y has the columns \['site', 'agee'\], but .* \['site', 'age'\]"),
        ({}, "y is an empty dict; it takes entries by the names of columns"),
        ({"site": ["a"] * 5, "age": [1.0] * 3}, "y has columns of different lengths: 'site' 5, 'age' 3"),
        ([{"site": "a", "age": 1.0}, {"site": "b"}], "y is a list of dicts with different names"),
        (FRAME[["age"]][:5], r"y has the columns \['age'\].* A row takes 1 label and 1 number, such as \{'site'"),
        (FRAME[:5].assign(z=1), r"y has the columns \['site', 'age', 'z'\], but"),
        ("a", r"y='a' is one value, but a condition has 2: 1 label and 1 number, such as \{'site': 'a', 'age'"),
        (3.0, "y=3.0 is one value, but a condition has 2"),
        (["a"] * 3, "y has 3 entries for 5 row.*: pass one for each row, or a single one for all, such as"),
        (["a"] * 5, r"y has 1 column\(s\), but the model was fitted with \['site', 'age'\]"),
        ([["a", 1.0], ["b"]] * 3, "y is a list of rows of different lengths, 1 to 2"),
        ((letter for letter in "aaaaa"), "y is of type 'generator'; pass a list"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else type(value).__name__,
)
def test_conditions_that_do_not_fit_are_answered_with_some_that_do(X, given, message):
    model = quick().fit(X, FRAME)
    with pytest.raises(ValueError, match=message) as caught:
        model.sample(5, y=given)
    if " such as " in str(caught.value):
        example = eval(str(caught.value).rpartition("such as ")[2].rstrip("."))
        assert model.sample(5, y=example).shape == (5, 4)


def test_examples_in_messages_fit_any_model(X):
    for y, given in (
        (LETTERS, ["a", "b"]),
        (NUMBERS, 1.0),
        (NUMBERS[:, :1], NUMBERS),
        (FRAME[["site"]], FRAME),
        (LETTERS, COLUMNS),
    ):
        model = quick().fit(X, y)
        with pytest.raises(ValueError, match="such as") as caught:
            model.sample(5, y=given)
        assert model.sample(5, y=eval(str(caught.value).rpartition("such as ")[2].rstrip("."))).shape == (5, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("site", "condition='site' names columns of X; set condition_columns=\\['site'\\] instead"),
        (["site", "a"], "names columns of X; set condition_columns=\\['site', 'a'\\] instead"),
        ("job", "condition='job' is of one row; fit takes a label or numbers for each"),
        (3, "condition=3 is of one row"),
        ({"job": "x"}, "is of one row; fit takes"),
        ({"x"}, "condition is a set, which has no order"),
        (iter(LETTERS), "condition is of type .*iterator'; pass a list"),
        ([["a", 1.0], ["b"]] * (N_ROWS // 2), "condition is a list of rows of different lengths, 1 to 2"),
        (COLUMNS | {"age": [1.0]}, "condition has columns of different lengths: 'site' 60, 'age' 1"),
    ],
    ids=lambda value: value[:25] if isinstance(value, str) else "",
)
def test_conditions_that_a_fit_refuses_in_words(X, given, message):
    frame = pd.DataFrame(X, columns=["site", "a", "b", "c"])
    with pytest.raises(ValueError, match=message):
        quick().fit(frame, condition=given)


def test_many_whole_numbers_are_warned_of_wherever_they_are_labels():
    X = np.random.default_rng(0).normal(size=(120, 3))
    y, message = (
        np.arange(120) // 2,
        "^y holds 60 different whole numbers for 120 rows.*classifiers and resamplers take labels alone",
    )
    model = quick(max_epochs=1, linear_path=None)
    for fit in (
        lambda y: model.fit(X, y),
        lambda y: quick(max_epochs=1).partial_fit(X, y),
        lambda y: CVAEClassifier(model).fit(X, y),
        lambda y: CVAEResampler(model, sampling_strategy={0: 40}, guard=0.0).fit_resample(X, y),
    ):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*different whole numbers")
            fit(y % 4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(y)
        assert sum(re.match(message, str(warning.message)) is not None for warning in caught) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*different whole numbers")
        quick(max_epochs=1).partial_fit(X, y, classes=np.arange(60)).partial_fit(X, y)
