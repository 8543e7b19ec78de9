"""Data frames with columns of different kinds: what is missing is filled in, and the frame is one like the first."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from pandas.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skvae import AutoEncoder, AutoencoderImputer, DenoisingAE, LinearPath, Mixed, SparseAE, VAETransformer

pytestmark = pytest.mark.usefixtures("one_core")

N_ROWS = 60


def model(**params):
    settings = {"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 3, "linear_path": None}
    return VAETransformer(**{**settings, **params})


def quick(**params):
    return AutoencoderImputer(**{"estimator": model(), "random_state": 0, "n_draws": 30, **params})


@pytest.fixture(scope="module")
def frame():
    z = np.random.default_rng(0).normal(size=N_ROWS)
    columns = {
        "size": np.round(z, 2),
        "single": z.astype(np.float32),
        "whole": np.round(5 + 20 * z),
        "count": pd.array(np.round(3 * z).astype(int), dtype="Int64"),
        "kind": np.where(z > 0.0, "a", "b"),
        "flag": pd.array(z > 0.2, dtype="boolean"),
        "grade": pd.Categorical(np.where(z > 0.0, "low", "high"), categories=["low", "high"], ordered=True),
        "when": pd.Timestamp("2020-01-01") + pd.to_timedelta((10 * z).astype(int), "D"),
    }
    return pd.DataFrame(columns, index=np.arange(100, 100 + N_ROWS))


@pytest.fixture(scope="module")
def gaps(frame):
    return frame.mask(np.random.default_rng(1).random(frame.shape) < 0.25)


@pytest.fixture(scope="module")
def imputer(gaps):
    return quick().fit(gaps)


def in_polars(frame):
    lists = {name: [None if pd.isna(entry) else entry for entry in frame[name].tolist()] for name in frame}
    return pl.DataFrame({name: pl.Series(name, entries, strict=False) for name, entries in lists.items()})


def test_a_frame_like_the_one_given(gaps, imputer):
    filled = imputer.transform(gaps)
    assert not filled.isna().any(axis=None)
    assert filled.dtypes.equals(gaps.dtypes)
    assert filled.index.equals(gaps.index)
    assert_frame_equal(filled.mask(gaps.isna()), gaps, check_exact=True)
    assert (filled["whole"] % 1 == 0).all()
    assert set(filled["kind"]) == {"a", "b"}


def test_a_polars_frame_like_the_one_given(gaps):
    given = in_polars(gaps)
    filled = quick().fit_transform(given)
    assert filled.schema == given.schema
    assert sum(filled.null_count().row(0)) == 0
    for name in given.columns:
        is_there = given[name].is_not_null()
        assert filled[name].filter(is_there).to_list() == given[name].filter(is_there).to_list()


def test_what_stands_in_for_an_entry_depends_on_nothing_but_the_row(gaps, imputer):
    order = np.random.default_rng(2).permutation(N_ROWS)
    filled = imputer.transform(gaps)
    assert_frame_equal(imputer.transform(gaps.iloc[order]), filled.iloc[order])
    assert_frame_equal(imputer.transform(gaps.iloc[7:8]), filled.iloc[7:8])
    assert_frame_equal(imputer.transform(gaps), filled, check_exact=True)


def test_draws_differ_where_entries_are_missing(gaps, imputer):
    one, other, again = *imputer.impute(gaps, 2, random_state=3), imputer.impute(gaps, 2, random_state=3)[0]
    assert_frame_equal(one, again, check_exact=True)
    assert not one.equals(other)
    for drawn in (one, other):
        assert_frame_equal(drawn.mask(gaps.isna()), gaps, check_exact=True)
        assert drawn.dtypes.equals(gaps.dtypes)


def test_draws_have_the_means_and_shares_that_are_filled_in():
    rng = np.random.default_rng(0)
    z = rng.normal(size=300)
    frame = pd.DataFrame({"x": z + 0.3 * rng.normal(size=300), "y": z, "kind": np.where(z + rng.normal(size=300) > 0, "a", "b")})
    imputer = quick(estimator=model(max_epochs=20, linear_path=LinearPath(1.0)), n_draws=600).fit(frame)
    row = frame.iloc[[0]].assign(x=np.nan, kind=None)
    drawn = pd.concat(imputer.impute(row, 300))
    spread = drawn["x"].std()
    assert spread > 0.1
    assert abs(drawn["x"].mean() - imputer.transform(row)["x"].iloc[0]) < 0.3 * spread
    share = (drawn["kind"] == imputer.transform(row)["kind"].iloc[0]).mean()
    assert share > 0.4


def test_entries_follow_the_others_of_their_row():
    rng = np.random.default_rng(4)
    z = rng.normal(size=300)
    frame = pd.DataFrame({"x": z, "y": z + 0.2 * rng.normal(size=300), "kind": np.where(z > 0.0, "a", "b")})
    hidden = np.zeros(frame.shape, dtype=bool)
    hidden[np.arange(300), np.arange(300) % 3] = True
    beside = model(max_epochs=50, linear_path=LinearPath(1.0))
    filled = quick(estimator=beside, n_draws=150).fit_transform(frame.mask(hidden))
    assert np.corrcoef(filled["x"][hidden[:, 0]], z[hidden[:, 0]])[0, 1] > 0.9
    assert (filled["kind"] == frame["kind"])[hidden[:, 2]].mean() > 0.85


@pytest.mark.parametrize("estimator", [AutoEncoder(2, max_epochs=2), DenoisingAE(2, max_epochs=2)], ids=["AE", "denoising"])
def test_other_estimators(gaps, estimator):
    imputer = quick(estimator=estimator).fit(gaps)
    assert not imputer.transform(gaps).isna().any(axis=None)
    assert len(imputer.impute(gaps, 2)) == 2


def test_gaps_in_columns_that_were_complete_and_new_rows(frame, gaps):
    imputer = quick().fit(frame)
    filled = imputer.transform(gaps.iloc[:9])
    assert not filled.isna().any(axis=None)
    nothing = frame.iloc[:2].mask(np.ones((2, frame.shape[1]), dtype=bool)).astype(gaps.dtypes)
    assert not imputer.transform(nothing).isna().any(axis=None)
    assert_frame_equal(imputer.transform(frame), frame, check_exact=True)


def test_categories_that_were_not_there_in_fit(gaps, imputer):
    strange = gaps.assign(kind="c")
    with pytest.raises(ValueError, match="'kind' of X holds what was not seen in fit: 'c'"):
        imputer.transform(strange)
    lenient = quick(estimator=model(likelihood=Mixed(handle_unknown="missing"))).fit(gaps)
    assert set(lenient.transform(strange)["kind"]) <= {"a", "b"}


def test_bounds(gaps):
    bounded = quick(estimator=model(likelihood=Mixed(bounds="observed"))).fit(gaps)
    for drawn in bounded.impute(gaps, 5):
        assert drawn["size"].between(gaps["size"].min(), gaps["size"].max()).all()


def test_what_has_no_part_in_frames_is_refused(gaps, imputer):
    with pytest.raises(ValueError, match="mechanism='linear' is about sizes of numbers"):
        quick(mechanism="linear").fit(gaps)
    with pytest.raises(ValueError, match=r"missing_values=-1.* is for numbers"):
        quick(missing_values=-1).fit(gaps)
    with pytest.raises(ValueError, match="n_training_draws=3"):
        quick(n_training_draws=3).fit(gaps)
    with pytest.raises(ValueError, match=r"locality=0\.5 needs"):
        quick(locality=0.5).fit(gaps)
    with pytest.raises(ValueError, match="SparseAE takes numbers alone"):
        quick(estimator=SparseAE()).fit(gaps)
    with pytest.raises(ValueError, match="likelihood='auto' takes such columns"):
        quick(estimator=model(likelihood="gaussian")).fit(gaps)
    with pytest.raises(ValueError, match="was fitted on a data frame whose columns"):
        imputer.transform(np.zeros((2, gaps.shape[1])))
    with pytest.raises(ValueError, match="feature names should match"):
        imputer.transform(gaps.drop(columns="kind"))
    numbers = quick().fit(gaps[["size", "whole"]])
    with pytest.raises(ValueError, match="was fitted on numbers alone"):
        numbers.transform(gaps[["size", "whole"]].assign(whole="b"))


def test_frames_of_numbers_are_what_arrays_are(gaps):
    numbers = gaps[["size", "whole"]]
    np.testing.assert_array_equal(quick().fit_transform(numbers), quick().fit_transform(numbers.to_numpy()))


def test_held_out_rows(frame, gaps):
    stopping = model(early_stopping=True, max_epochs=2)
    quick(estimator=stopping).fit(gaps, validation_data=frame.iloc[:20])
    quick(estimator=stopping).fit(gaps, groups=np.arange(N_ROWS) // 4)
    with pytest.raises(ValueError, match="feature names"):
        quick(estimator=stopping).fit(gaps, validation_data=frame.iloc[:20].rename(columns={"kind": "sort"}))


def test_pickles_clones_pipelines_and_containers(gaps, imputer):
    filled = imputer.transform(gaps)
    assert_frame_equal(pickle.loads(pickle.dumps(imputer)).transform(gaps), filled, check_exact=True)
    assert_frame_equal(clone(imputer).set_output(transform="pandas").fit(gaps).transform(gaps), filled, check_exact=True)
    codes = make_pipeline(quick(), AutoEncoder(2, max_epochs=1)).fit_transform(gaps)
    assert codes.shape == (N_ROWS, 2)


def test_nothing_missing_costs_no_draws(frame, monkeypatch):
    imputer = quick().fit(frame)
    monkeypatch.setattr("skvae.imputation.average_given", lambda *_, **__: pytest.fail("was drawn"))
    assert_frame_equal(imputer.transform(frame), frame, check_exact=True)
