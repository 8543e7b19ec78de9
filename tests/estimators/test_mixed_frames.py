"""Data frames with columns of different kinds, in and out of estimators."""

import decimal
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from cases import CASES
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from test_plain_state import saved

import skvae
from skvae import (
    CVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    CVAEClassifier,
    CVAEResampler,
    DenoisingAE,
    Gaussian,
    LinearPath,
    Mixed,
    NeighborAE,
    VAETransformer,
)

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The code of .* has collapsed"),  # of short fits
    pytest.mark.filterwarnings("ignore:The rows of X have no clusters"),
]

N = 60
TAKERS = [VAETransformer, AutoEncoder, DenoisingAE]
QUICK = {"hidden_layer_sizes": (4,), "max_epochs": 2, "linear_path": None, "random_state": 0}


def table(n=N, *, gaps=False, seed=0):
    rng = np.random.default_rng(seed)
    sex = rng.choice(["f", "m"], n)
    frame = pd.DataFrame(
        {
            "sex": sex,
            "size": pd.Categorical(rng.choice(list("SML"), n), categories=list("SMLX"), ordered=True),
            "age": rng.integers(18, 90, n) + 5 * (sex == "f"),
            "income": np.round(rng.lognormal(size=n), 2),
            "member": rng.random(n) < 0.3,
            "since": pd.Timestamp("2020-02-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
        }
    )
    if gaps:
        frame = frame.astype({"age": "Int64", "member": "boolean"})
        for j, name in enumerate(frame):
            frame.loc[rng.random(n) < 0.1 * (j % 3), name] = None
    return frame


def polars_table(**options):
    frame = table(**options)
    return pl.DataFrame({name: frame[name].astype(object).where(frame[name].notna(), None).to_list() for name in frame})


MAKERS = {
    "pandas": table,
    "pandas gaps": lambda: table(gaps=True),
    "polars": polars_table,
    "polars gaps": lambda: polars_table(gaps=True),
}


def quick(cls=VAETransformer, **params):
    return cls(2, **{**QUICK, **params})


@pytest.fixture(scope="module")
def fitted():
    return quick().fit(table())


# -- in and out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "maker"),
    [
        *((VAETransformer, maker) for maker in MAKERS),
        *((cls, maker) for cls in TAKERS[1:] for maker in ("pandas", "polars gaps")),
    ],
)
def test_rows_come_back_as_frames_like_the_first(cls, maker):
    frame = MAKERS[maker]()
    model = quick(cls).fit(frame)
    codes = model.transform(frame)
    assert codes.shape == (N, 2)
    assert np.isfinite(codes).all()
    assert np.isfinite(model.score_samples(frame)).all()
    likeliest = model.sample(5, mean=True, random_state=0)
    for new in (model.sample(5, random_state=0), likeliest, model.inverse_transform(codes), model.reconstruct(frame[:7])):
        assert type(new) is type(frame)
        assert list(new.columns) == list(frame.columns)
        assert list(new.dtypes) == list(frame.dtypes)
        assert set(new["sex"]) <= {"f", "m"}
        missing = new.isna().any(axis=None) if isinstance(new, pd.DataFrame) else sum(new.null_count().row(0))
        assert not missing
    assert list(model.feature_names_in_) == list(frame.columns)
    assert model.n_features_in_ == 6


def test_draws_follow_the_seed(fitted):
    pd.testing.assert_frame_equal(fitted.sample(9, random_state=3), fitted.sample(9, random_state=3))
    assert not fitted.sample(9, random_state=3).equals(fitted.sample(9, random_state=4))


def test_a_row_does_not_depend_on_others(fitted):
    frame = table()
    one = pd.concat([fitted.reconstruct(frame.iloc[[i]]) for i in range(8)], ignore_index=True)
    pd.testing.assert_frame_equal(one, fitted.reconstruct(frame)[:8])


def test_walks_are_frames():
    frame = table()
    model = quick().fit(frame)
    assert model.interpolate(frame[:2], frame[2:4], n_steps=3).shape == (6, 6)
    assert model.walk(frame[:2], [1.0, 0.0]).shape == (10, 6)
    assert model.latent_grid(n_steps=3).shape == (9, 6)
    mean, std = model.posterior(frame)
    assert mean.shape == std.shape == (N, 2)


def test_bounds_keep_draws_within_what_was_seen(fitted):
    frame = table()
    free, bound = clone(fitted).fit(frame), clone(fitted).set_params(likelihood__bounds="observed").fit(frame)
    assert bound.likelihood == Mixed(bounds="observed")
    new = bound.sample(400, random_state=0)
    for name in ("age", "income", "since"):
        assert new[name].between(frame[name].min(), frame[name].max()).all()
    assert not free.sample(400, random_state=0).equals(new)
    free.set_params(likelihood__bounds="observed")  # which is about what comes back, and may be changed after fit
    pd.testing.assert_frame_equal(free.sample(400, random_state=0), new)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"likelihood": None}, "'likelihood' parameter of VAETransformer must be .* Got None instead"),
        ({"likelihood__bounds": "seen"}, "likelihood=Mixed.*bounds='seen' must be one of 'observed', or None"),
        ({"likelihood": {"age": "zebra"}}, "likelihood=Mixed.*'zebra', which must be one of"),
    ],
)
def test_a_likelihood_that_is_changed_after_fit_is_looked_at(fitted, changed, message):
    frame = table()
    model = clone(fitted).fit(frame).set_params(**changed)
    for call in (lambda: model.sample(1), lambda: model.reconstruct(frame)):
        with pytest.raises(ValueError, match=message):
            call()


# -- frames of numbers, and arrays ------------------------------------------------------------------------------------


def numbers(n=N):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.normal(size=n), "b": rng.integers(0, 9, n), "c": rng.random(n).astype("float32")})


@pytest.mark.parametrize("cls", [*TAKERS, CVAE])
def test_frames_of_numbers_give_what_their_arrays_give(cls):
    frame, y = numbers(), np.arange(N) % 2
    of_array = quick(cls).fit(frame.to_numpy(), y)
    of_gaussian = quick(cls, likelihood="gaussian").fit(frame.to_numpy(), y)
    others = [frame, pl.from_dict(frame.to_dict("list")), frame.convert_dtypes(), frame.astype(object)]
    for given in others[:3] if cls is not VAETransformer else others:
        model = quick(cls).fit(given, y)
        np.testing.assert_array_equal(model.transform(given), of_array.transform(frame.to_numpy()))
        np.testing.assert_array_equal(model.sample(3, random_state=0), of_gaussian.sample(3, random_state=0))
        assert isinstance(model.sample(3), np.ndarray)


def test_gaps_in_frames_of_numbers_are_missing():
    frame = numbers().convert_dtypes()
    frame.loc[::5, "b"] = pd.NA
    array = frame.to_numpy(dtype=float, na_value=np.nan)
    expected = quick(missing_values=np.nan).fit(array).transform(array)
    of_polars = pl.DataFrame({name: frame[name].astype(object).where(frame[name].notna(), None).to_list() for name in frame})
    for given in (frame, frame.astype(float), of_polars):
        np.testing.assert_array_equal(quick().fit(given).transform(given), expected)
    model = quick().fit(frame)
    with pytest.raises(ValueError, match=r"Input X contains NaN.*missing_values=np\.nan"):
        quick().fit(array)
    with pytest.raises(ValueError, match=r"Input X contains NaN"), pytest.warns(UserWarning, match="feature names"):
        model.transform(array)
    with pytest.raises(ValueError, match=r"Input X contains NaN.*missing_values=np\.nan"):
        quick(missing_values=None).fit(frame)


@pytest.mark.parametrize("column", [["x", "y"] * (N // 2), [True, False] * (N // 2), pd.date_range("2024", periods=N)])
def test_one_column_makes_a_frame_mixed(column):
    frame = numbers().assign(odd=column)
    assert isinstance(quick().fit(frame).sample(2), pd.DataFrame)
    model = quick().fit(numbers())
    if isinstance(column[0], str):
        with pytest.raises(ValueError, match=r"'odd' .*cannot be converted to numbers.*was fitted on numbers alone"):
            model.transform(frame)


# -- later calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["transform", "reconstruct", "score_samples", "score", "partial_fit"])
def test_other_tables_are_refused(fitted, method):
    call = getattr(pickle.loads(pickle.dumps(fitted)), method)
    frame = table()
    cases = [
        (frame.to_numpy(), r"'ndarray', but VAETransformer was fitted on a data frame whose columns \['sex', .*are no numbers"),
        (frame[frame.columns[::-1]], "must be in the same order"),
        (frame.drop(columns="age"), "yet now missing"),
        (frame.assign(sex="x"), "Column 'sex' of X holds what was not seen in fit: 'x'; known are 'f', 'm'"),
        (frame.assign(age="x"), "Column 'age' of X held numbers in fit, and holds something else now, such as 'x'"),
        (frame.iloc[:0], r"Found array with 0 sample\(s\)"),
    ]
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            call(given)


@pytest.mark.parametrize("names", [[2, 1, 0], pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)])], ids=["ints", "tuples"])
def test_names_of_any_type_are_compared(names):
    frame = table()[["age", "income", "sex"]].set_axis(names, axis=1)
    model = quick().fit(frame)
    own = re.escape(", ".join(map(repr, frame.columns.tolist())))
    for call in (model.transform, model.score, model.partial_fit):
        with pytest.raises(ValueError, match=f"The columns of X must be in the order of fit, {own}"):
            call(frame.iloc[:, [1, 0, 2]])
        with pytest.raises(ValueError, match=f"X has others: 9, 8, 7; X has not all of them: {own}"):
            call(frame.set_axis([9, 8, 7], axis=1))


def test_unseen_categories_as_missing():
    frame = table()
    model = quick(likelihood=Mixed(handle_unknown="missing")).fit(frame)
    np.testing.assert_array_equal(model.transform(frame.assign(sex="x")), model.transform(frame.assign(sex=None)))
    with pytest.raises(ValueError, match=r"takes entries that were not seen for missing ones.*missing_values=np\.nan"):
        model.set_params(missing_values=None).transform(frame)


def test_frames_of_polars_are_read_by_models_of_pandas(fitted):
    np.testing.assert_array_equal(fitted.transform(polars_table()), fitted.transform(table()))


def test_fits_go_on_with_the_same_form():
    frame = table()
    model = quick().partial_fit(frame[:40])
    before = model._frame_form
    model.partial_fit(frame[40:])
    assert model._frame_form is before
    model.set_params(warm_start=True).fit(frame[:50])
    assert model._frame_form is before
    assert list(model.sample(2).dtypes) == list(frame.dtypes)
    model.set_params(warm_start=False).fit(numbers())
    assert model._frame_form is None
    assert isinstance(model.sample(2), np.ndarray)


@pytest.mark.parametrize(
    ("first", "later", "holds", "had"),
    [
        ([0, 1, 2], 7, "7", "0, 1, 2 alone"),
        ([0.5, 1.5], 1.0, "1", "0.5, 1.5 alone"),
        ([3], 4, "4", "nothing but 3"),
        ([2.5], 2.75, "2.75", "nothing but 2.5"),
        ([pd.Timestamp("2020-02-01")], pd.Timestamp("2021-02-01"), "Timestamp('2021-02-01 00:00:00')", "nothing but Timestamp"),
    ],
    ids=["ints", "floats", "a constant", "a constant float", "a date"],
)
def test_values_that_a_stream_cannot_learn_are_named_once(first, later, holds, had):
    frame = table()
    chunks = [frame.assign(visits=np.resize(np.array(first, dtype=object), N)).infer_objects()]
    chunks.append(chunks[0].assign(visits=[later, *chunks[0]["visits"].to_list()[1:]]))
    model = quick().partial_fit(chunks[0]).partial_fit(chunks[0])
    message = f"Column 'visits' of X holds {re.escape(holds)}, which the model cannot learn: .* had {had}.*: 'gaussian'}}"
    with pytest.warns(UserWarning, match=message):
        model.partial_fit(chunks[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(model)).partial_fit(chunks[1])
    with pytest.warns(UserWarning, match=message):
        quick(warm_start=True).fit(chunks[0]).fit(chunks[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(chunks[0]).partial_fit(chunks[0])
        if isinstance(later, int):
            quick(likelihood={"visits": "poisson"}).partial_fit(chunks[0]).partial_fit(chunks[1])


def test_a_fit_that_fails_changes_nothing(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(ValueError, match="'sex' of X has no entry"):
        model.fit(table().assign(sex=None))
    pd.testing.assert_frame_equal(model.sample(3), fitted.sample(3))


def test_rows_to_validate_on_are_read_as_later_rows():
    frame = table()
    model = quick(early_stopping=True, max_epochs=3)
    model.fit(frame[:40], validation_data=frame[40:])
    assert "valid_loss" in model.history_
    with pytest.raises(ValueError, match="validation_data: Column 'sex' of X holds what was not seen in fit"):
        model.fit(frame[:40], validation_data=frame[40:].assign(sex="x"))


def test_rows_without_weight_drop_out():
    frame = table()
    weight = np.arange(N) % 3.0
    kept = quick().fit(frame[weight > 0], sample_weight=weight[weight > 0])
    odd = frame.copy()
    odd.loc[weight == 0, "sex"] = "x"
    odd.loc[weight == 0, "income"] = 1e6 + 0.12345
    model = quick().fit(odd, sample_weight=weight)
    np.testing.assert_array_equal(model.transform(frame), kept.transform(frame))
    pd.testing.assert_frame_equal(model.sample(5), kept.sample(5))


def test_a_frame_of_objects_of_weightless_rows_is_no_excuse():
    with pytest.raises(ValueError, match=r"sample_weight\.shape"):
        quick().fit(table(), sample_weight=np.ones(3))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: table()[:0], ValueError, r"Found array with 0 sample\(s\) .* minimum of 2"),
        (lambda: table()[:1], ValueError, r"Found array with 1 sample\(s\) .* minimum of 2"),
        (lambda: pd.concat([table(), table()], axis=1), ValueError, "several columns of the name 'sex'"),
        (lambda: polars_table().lazy(), TypeError, r"X is a LazyFrame, .*X\.collect\(\)"),
        (
            lambda: table().to_numpy(),
            ValueError,
            r"0 \(e\.g\. 'm'\).*Of a data frame, such as pd\.DataFrame\(X\), VAETransformer tak",
        ),
        (lambda: table().assign(odd=[1, "a"] * 30), ValueError, "'odd' of X holds entries of several types"),
        (lambda: table().assign(odd=np.inf), ValueError, "Input X contains infinity.*'odd'"),
    ],
)
def test_what_cannot_be_fitted_is_named(given, error, message):
    with pytest.raises(error, match=message):
        quick().fit(given())


@pytest.mark.parametrize(
    "given",
    [
        lambda: table()[["sex"]],
        lambda: table()[:2],
        lambda: table().assign(text="x", whole=3, real=1.5, day=pd.Timestamp("2020"), yes=True),
        lambda: pd.DataFrame({"a": ["x"] * 5}),
        lambda: pd.DataFrame({"id": [f"u{i}" for i in range(300)], "x": np.arange(300.0)}),
        lambda: table(gaps=True).mask(np.tile(np.arange(N) == 0, (6, 1)).T),
        lambda: table().set_index("sex"),
        lambda: table().assign(odd=[decimal.Decimal("1.50"), None] * 30),
        lambda: pl.DataFrame({"a": ["x", None] * 6, "b": [decimal.Decimal("1.5")] * 12}),
    ],
)
def test_odd_frames_come_back(given):
    frame = given()
    model = quick().fit(frame)
    new = model.sample(4)
    assert list(new.dtypes) == list(frame.dtypes)
    assert np.isfinite(model.score_samples(frame)).all()


# -- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", [{"age": "gaussian"}, Mixed({"age": "gaussian"})])
def test_likelihoods_by_column(likelihood):
    model = quick(likelihood=likelihood).fit(table())
    assert isinstance(model.sample(2), pd.DataFrame)
    assert clone(model).likelihood == likelihood
    of_numbers = quick(likelihood={"b": "categorical"}).fit(numbers())
    assert set(of_numbers.sample(200)["b"]) <= set(numbers()["b"])
    plain = quick(likelihood={"a": "laplace"}).fit(numbers())
    assert isinstance(plain.sample(2), pd.DataFrame)
    with pytest.warns(UserWarning, match="feature names"):
        np.testing.assert_array_equal(plain.transform(numbers().to_numpy()), plain.transform(numbers()))


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        ({"visits": "poisson"}, "likelihood names columns that X does not have: 'visits'; its columns are 'sex'"),
        ({"sex": "poisson"}, r"likelihood=\{'sex': 'poisson'\} does not fit column 'sex' of X, which holds categories"),
        ({"sex": "normal"}, "column 'sex' has 'normal', which must be one of 'auto'"),
        (Mixed(bounds="seen"), "bounds='seen' must be one of 'observed', or None"),
        (Mixed(handle_unknown="ignore"), "handle_unknown='ignore' must be one of"),
        ("gaussian", r"'sex' .*cannot be converted to numbers.*likelihood='auto' takes such columns as they are"),
        ("mixed", "The 'likelihood' parameter of VAETransformer must be"),
    ],
)
def test_likelihoods_that_do_not_fit(likelihood, message):
    with pytest.raises(ValueError, match=message):
        quick(likelihood=likelihood).fit(table())


@pytest.mark.parametrize("likelihood", [{"a": "laplace"}, Mixed(bounds="observed"), Mixed(handle_unknown="missing")])
def test_what_is_about_columns_of_frames_is_refused_for_arrays(likelihood):
    with pytest.raises(ValueError, match=r"is about columns of a data frame, but X is of type 'ndarray'"):
        quick(likelihood=likelihood).fit(numbers().to_numpy())


def test_arguments_are_set_from_the_default():
    assert VAETransformer().set_params(likelihood__bounds="observed").likelihood == Mixed(bounds="observed")
    assert VAETransformer().set_params(likelihood__noise="shared").likelihood == Gaussian("shared")
    model = VAETransformer(likelihood={"a": "laplace"}).set_params(likelihood__handle_unknown="missing")
    assert model.likelihood == Mixed({"a": "laplace"}, handle_unknown="missing")


def test_likelihoods_are_searched():
    frame = table()
    model = quick(n_score_draws=4)
    search = GridSearchCV(model, {"likelihood": ["auto", {"age": "poisson"}, Mixed({"age": "gaussian"})]}, cv=2, refit=False)
    assert np.isfinite(search.fit(frame).cv_results_["mean_test_score"]).all()
    search = GridSearchCV(model, {"likelihood__bounds": [None, "observed"]}, cv=2, refit=False).fit(frame)
    first, second = search.cv_results_["mean_test_score"]
    assert first == second


def test_images_are_no_frames():
    with pytest.raises(ValueError, match=r"image_shape=\(1, 2, 3\) is for rows of pixels"):
        quick(image_shape=(1, 2, 3)).fit(table())


# -- what else takes them, and what does not --------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in CASES if not case.cls._takes_frames], ids=str)
def test_other_estimators_refuse_them_by_name(case):
    name = case.cls.__name__
    message = rf"'sex' .*OneHotEncoder.* {name} takes numbers alone; VAETransformer, .* take such columns as they are"
    with pytest.raises(ValueError, match=message):
        case.make().fit(table())
    with pytest.raises(ValueError, match=rf"likelihood=Mixed\(\) is for data frames .*which {name} does not take"):
        case.make(likelihood=Mixed()).fit(numbers())


@pytest.mark.parametrize("maker", MAKERS)
def test_models_go_through_pickles_and_plain_files(maker, tmp_path):
    frame = MAKERS[maker]()
    model = quick().fit(frame)
    for again in (pickle.loads(pickle.dumps(model)), saved(model, tmp_path)):
        np.testing.assert_array_equal(again.transform(frame), model.transform(frame))
        assert again.sample(4, random_state=1).equals(model.sample(4, random_state=1))


def test_pipelines_begin_with_them():
    frame = table()
    pipe = make_pipeline(quick(), KMeans(2, n_init=1, random_state=0)).fit(frame)
    assert pipe.predict(frame).shape == (N,)
    assert isinstance(skvae.sample(pipe[:1], 3, random_state=0), pd.DataFrame)
    assert list(skvae.reconstruct(pipe[:1], frame).dtypes) == list(frame.dtypes)
    codes = quick().set_output(transform="pandas").fit_transform(frame)
    assert list(codes.columns) == ["vaetransformer0", "vaetransformer1"]
    assert np.isfinite(cross_val_score(quick(), frame, cv=2)).all()


# -- conditions -------------------------------------------------------------------------------------------------------


def test_conditional_models():
    frame, y = table(), np.where(np.arange(N) % 2, "a", "b")
    model = quick(CVAE).fit(frame, y)
    new, labels = model.sample(5, return_y=True)
    assert list(new.dtypes) == list(frame.dtypes)
    assert set(labels) <= {"a", "b"}
    assert model.reconstruct(frame, y).shape == frame.shape
    assert model.interpolate(frame[:2], frame[2:4], y[:2], y[2:4], n_steps=3).shape == (6, 6)
    assert model.log_likelihoods(frame).shape == (N, 2)
    with pytest.raises(ValueError, match=r"of different kinds, sample\(given=\.\.\.\) draws whatever is not given"):
        model.inpaint(frame, np.zeros(6, dtype=bool), y)
    classifier = CVAEClassifier(quick(CVAE)).fit(frame, y)
    assert set(classifier.predict(frame)) <= {"a", "b"}


@pytest.mark.parametrize("maker", ["pandas", "polars"])
def test_columns_of_frames_as_conditions(maker):
    frame = MAKERS[maker]()
    model = quick(CVAE, condition_columns=["sex", "age"]).fit(frame)
    new = model.sample(6, y={"sex": "m", "age": 40})
    assert list(new.dtypes) == list(frame.dtypes)
    assert (new["sex"].to_list(), new["age"].to_list()) == (["m"] * 6, [40] * 6)
    assert set(model.sample(40)["sex"]) == {"f", "m"}
    again = model.reconstruct(frame)
    assert again["sex"].to_list() == frame["sex"].to_list()
    assert again["age"].to_list() == frame["age"].to_list()
    assert np.isfinite(model.score(frame))
    assert model.interpolate(frame[:2], frame[2:4], n_steps=3).shape == (6, 6)
    with pytest.raises(ValueError, match="'sex' of y has labels that were not seen in fit: 'x'"):
        model.sample(1, y={"sex": "x", "age": 40})


def test_times_as_conditions():
    frame = table()
    model = quick(CVAE, condition_columns=["since", "sex"]).fit(frame)
    when = pd.Timestamp("2020-05-01")
    for y in ({"since": when, "sex": "m"}, pd.DataFrame({"since": [when] * 3, "sex": "m"})):
        new = model.sample(3, y=y)
        assert new["since"].tolist() == [when] * 3
        assert model.inverse_transform(np.zeros((3, 2)), y).equals(model.inverse_transform(np.zeros((3, 2)), y))
    assert model.style_transfer(frame[:3], {"since": when, "sex": "f"})["since"].tolist() == [when] * 3
    assert model.sample(20)["since"].isin(frame["since"]).all()
    with pytest.raises(ValueError, match="'since' of y held times or durations in fit"):
        model.sample(1, y={"since": "x", "sex": "m"})


def test_pipelines_go_back_through_imputers():
    frame = table(gaps=True).assign(nothing=None)
    with pytest.warns(UserWarning, match="they are dropped"):
        pipe = make_pipeline(AutoencoderImputer(quick(), n_draws=10, add_indicator=True), quick()).fit(frame)
    new = skvae.sample(pipe, 3, random_state=0)
    assert list(new.columns) == list(frame.columns)
    assert new["nothing"].isna().all()
    assert list(new.dtypes)[:-1] == list(frame.dtypes)[:-1]


def test_names_of_columns_may_be_numbers():
    frame = table().set_axis(range(6), axis=1)
    model = quick().fit(frame)
    assert list(model.sample(2).columns) == list(frame.columns)
    assert not hasattr(model, "feature_names_in_")
    of_columns = quick(CVAE, condition_columns=[0]).fit(frame)
    assert set(of_columns.sample(9, y="m")[0]) == {"m"}
    with pytest.raises(TypeError, match="Feature names are only supported if all input features have string names"):
        quick().fit(table().rename(columns={"sex": 0}))


# -- filling in, and new rows of rare classes -------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["pandas gaps", "polars gaps"])
@pytest.mark.parametrize("cls", [VAETransformer, AutoEncoder])
def test_gaps_are_filled_in(cls, maker):
    frame = MAKERS[maker]()
    imputer = AutoencoderImputer(quick(cls), n_draws=20, random_state=0).fit(frame)
    filled = imputer.transform(frame)
    drawn = imputer.impute(frame, 2, random_state=0)
    for new in (filled, *drawn):
        assert type(new) is type(frame)
        assert list(new.dtypes) == list(frame.dtypes)
        for name in frame.columns:
            pairs = list(zip(frame[name].to_list(), new[name].to_list(), strict=True))
            assert not any(pd.isna(after) for _, after in pairs)
            assert all(after == before for before, after in pairs if not pd.isna(before))
    assert not drawn[0].equals(drawn[1])
    assert imputer.get_feature_names_out().tolist() == list(frame.columns)


def test_missing_categories_become_the_likeliest():
    """And not what lies between others: the rarest category is the middle one."""
    rng = np.random.default_rng(0)
    known = rng.choice(["a", "c"], 200)
    frame = pd.DataFrame({"known": known, "same": known, "noise": rng.normal(size=200)})
    frame.loc[0, ["known", "same"]] = "b"
    frame.loc[100:, "same"] = None
    model = VAETransformer(
        2, hidden_layer_sizes=(16,), linear_path=None, learning_rate=0.01, max_epochs=25, batch_size=50, random_state=0
    )
    filled = AutoencoderImputer(model, n_draws=50, random_state=0).fit_transform(frame)
    assert "b" not in filled["same"][100:].tolist()
    assert (filled["same"] == known)[100:].mean() > 0.8


def test_imputers_have_a_linear_path_wherever_there_can_be_one():
    model = AutoencoderImputer(quick(linear_path="auto"), n_draws=20).fit(table(gaps=True)).estimator_
    assert model.linear_path_ is not None
    model = AutoencoderImputer(quick(linear_path=None), n_draws=20).fit(table(gaps=True)).estimator_
    assert model.linear_path_ is None


def test_columns_without_entries_and_indicators():
    frame = table(gaps=True).assign(nothing=None)
    with pytest.warns(UserWarning, match=r"Column\(s\) \['nothing'\] of X have no entry"):
        imputer = AutoencoderImputer(quick(), n_draws=20, add_indicator=True).fit(frame)
    filled = imputer.transform(frame)
    assert list(filled.columns) == imputer.get_feature_names_out().tolist()
    assert "nothing" not in filled
    np.testing.assert_array_equal(filled["missingindicator_size"], frame["size"].isna())
    with pytest.raises(ValueError, match=r"missing_values=-1.* is for numbers"):
        AutoencoderImputer(quick(), missing_values=-1).fit(frame)
    with pytest.raises(ValueError, match="keep_empty_features=True fills columns with zeros"):
        AutoencoderImputer(quick(), keep_empty_features=True).fit(frame)
    with pytest.raises(ValueError, match=r"mechanism='linear' is about sizes of numbers"):
        AutoencoderImputer(quick(), mechanism="linear").fit(frame)
    with pytest.raises(ValueError, match="was fitted on a data frame whose columns"):
        imputer.transform(frame.to_numpy())


@pytest.mark.parametrize("maker", ["pandas", "polars"])
def test_new_rows_of_rare_classes(maker):
    frame, y = MAKERS[maker](), np.where(np.arange(N) % 4, "many", "few")
    new, labels = CVAEResampler(quick(CVAE), random_state=0).fit_resample(frame, y)
    assert type(new) is type(frame)
    assert list(new.dtypes) == list(frame.dtypes)
    assert (labels == "few").sum() == (labels == "many").sum() == 45
    for name in frame.columns:
        assert new[name].to_list()[:N] == frame[name].to_list()
    for name in ("sex", "size", "member"):
        assert set(new[name].to_list()) <= set(frame[name].to_list())


@pytest.mark.parametrize("method", ["neighbors", "mahalanobis", "reconstruction"])
@pytest.mark.parametrize("cls", [VAETransformer, CVAE])
def test_a_column_has_one_share_in_anomalies(cls, method):
    frame, y = table(n=100), np.where(np.arange(100) % 2, "a", "b")
    given = [y] if cls is CVAE else []
    model = quick(cls).fit(frame, *given)
    shares = model.explain_anomaly(frame, *given, method=method)
    assert shares.shape == frame.shape
    assert (shares >= 0.0).all()
    np.testing.assert_allclose(shares.sum(axis=1), model.score_anomaly(frame, *given, method=method), rtol=1e-6)


def test_clusters_and_anomalies():
    frame = table(gaps=True)
    clusterer = AutoencoderClusterer(2, estimator=quick(), n_init=1).fit(frame)
    assert set(clusterer.predict(frame)) == {0, 1}
    assert list(clusterer.sample(3).dtypes) == list(frame.dtypes)
    default = AutoencoderClusterer(2, estimator=NeighborAE(2, max_epochs=2), n_init=2, random_state=0).fit(frame)
    np.testing.assert_array_equal(default.predict(frame), default.labels_)
    assert list(default.inverse_transform(default.cluster_centers_).dtypes) == list(frame.dtypes)
    detector = AnomalyDetector(quick()).fit(frame)
    assert set(detector.predict(frame)) <= {-1, 1}
    pipe = make_pipeline(quick()).fit(frame)
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, frame), pipe[-1].score_anomaly(frame))


# -- clean rows -------------------------------------------------------------------------------------------------------


def test_clean_frames():
    clean = table()
    noisy = clean.assign(sex=clean["sex"].sample(frac=1, random_state=0).to_numpy(), income=clean["income"] + 0.5)
    model = quick(DenoisingAE).fit(noisy, clean=clean)
    assert list(model.denoise(noisy).dtypes) == list(clean.dtypes)
    assert np.isfinite(model.score(noisy, clean=clean))
    with pytest.raises(ValueError, match="Column 'sex' of clean holds what was not seen in fit"):
        quick(DenoisingAE).fit(noisy, clean=clean.assign(sex="x"))
    with pytest.raises(ValueError, match="clean is of type 'ndarray'"):
        quick(DenoisingAE).fit(noisy, clean=clean.to_numpy())


@pytest.mark.parametrize("cls", TAKERS)
@pytest.mark.parametrize("method", ["neighbors", "reconstruction", "mahalanobis"])
def test_columns_of_frames_share_anomaly_scores(cls, method):
    frame = table()
    model = cls(**QUICK).fit(frame)
    shares = np.asarray(model.explain_anomaly(frame, method=method))
    assert shares.shape == frame.shape
    np.testing.assert_allclose(shares.sum(axis=1), model.score_anomaly(frame, method=method), rtol=1e-4, atol=1e-4)


def test_a_weight_of_two_is_a_row_twice():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"c": rng.choice(["a", "b"], 40), "r": rng.lognormal(size=40), "i": rng.poisson(3, 40)})
    weight = np.repeat([2.0, 1.0], 20)
    quick = {"batch_size": 60, "max_epochs": 5, "linear_path": None, "random_state": 0}
    one = AutoEncoder(2, **quick).fit(frame, sample_weight=weight)
    other = AutoEncoder(2, **quick).fit(pd.concat([frame.iloc[:20], frame], ignore_index=True))
    np.testing.assert_allclose(one.score_samples(frame), other.score_samples(frame), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_components", [2, 6])
def test_linear_maps_begin_no_worse_than_columns_by_themselves(n_components):
    """Indicators of levels add up to one, which is no certainty that a code would have to be precise for."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=300)
    frame = pd.DataFrame({"c": np.where(size + rng.normal(size=300) > 0.0, "a", "b"), "r": np.exp(size), "flag": size > 1.0})
    frame["of three"] = rng.choice(["x", "y", "z"], 300)
    model = VAETransformer(n_components, linear_path=LinearPath(1.0), max_epochs=1, random_state=0).fit(frame)
    score, likelihood = model.score(frame), model.module_.likelihood
    likelihood.noise.set_moment(torch.ones_like(likelihood.noise.moment))
    keys = model._check_rows(frame, reset=False)
    assert score > likelihood.log_prob(keys, torch.zeros(len(keys), likelihood.n_outputs)).mean() + 0.1


@pytest.mark.parametrize("weight", [2.0, 1e-9, 1e300])
def test_one_weight_for_all_rows(weight):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"c": rng.choice(["a", "b"], 40), "r": rng.normal(size=40)})
    quick = {"max_epochs": 1, "linear_path": None, "random_state": 0}
    for X in (frame, frame[["r"]], frame[["r"]].to_numpy()):
        assert np.isfinite(AutoEncoder(1, **quick).fit(X, sample_weight=weight).score(X))
