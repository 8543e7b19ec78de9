"""Samples given some of their entries, as users ask for them."""

import datetime as dt
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline

import skvae
from skvae import CVAE, AutoEncoder, DenoisingAE, LinearPath, Mixed, SparseAE, VAETransformer

NAMES = ["a", "b", "c", "d"]
QUICK = {"n_components": 2, "max_epochs": 2, "linear_path": LinearPath(1.0), "random_state": 0}


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    code = rng.normal(size=(300, 2))
    return pd.DataFrame(code @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(300, 4)) + [0.0, 5.0, -3.0, 100.0], columns=NAMES)


@pytest.fixture(scope="module")
def vae(frame):
    return VAETransformer(**QUICK).fit(frame)


@pytest.fixture(scope="module")
def of_array(frame):
    return VAETransformer(**QUICK).fit(frame.to_numpy())


def test_samples_of_a_linear_model_are_those_of_its_gaussian(frame):
    """Means and deviations of `b` given `a` and `d`, by ordinary regression on the rows themselves."""
    vae = VAETransformer(**QUICK | {"linear_path": LinearPath(np.inf)}).fit(frame)
    given = {"a": 1.0, "d": 101.0}
    rows = vae.sample(4000, given=given)
    design = np.column_stack([np.ones(len(frame)), frame[["a", "d"]]])
    for name in "bc":
        slope, (square,), *_ = np.linalg.lstsq(design, frame[name], rcond=None)
        own, std = rows[:, NAMES.index(name)], np.sqrt(square / len(frame))
        assert own.mean() == pytest.approx(slope @ [1.0, 1.0, 101.0], abs=0.15 * std)
        assert own.std() == pytest.approx(std, rel=0.1)


FORMS = {
    "names": {"b": 5.25, "d": 99.5},
    "in another order": {"d": 99.5, "b": 5.25},
    "positions": {1: 5.25, -1: 99.5},
    "names and positions": {"b": 5.25, 3: 99.5, "a": None, "c": np.nan},
    "numpy numbers": {"b": np.float32(5.25), "d": np.array(99.5)},
    "nothing by pandas' name": {"b": 5.25, "d": 99.5, "c": pd.NA},
    "series": pd.Series({"b": 5.25, "c": np.nan, "d": 99.5}),
    "columns": {"b": [5.25], "d": (99.5,)},
    "frame": pd.DataFrame({"b": [5.25], "d": [99.5]}),
    "frame in another order": pd.DataFrame({"d": [99.5], "c": [np.nan], "b": [5.25], "a": [None]}, dtype=object),
    "frame of nullable types": pd.DataFrame({"d": [99.5], "c": [None], "b": [5.25]}).astype("Float64"),
    "polars": pl.DataFrame({"d": [99.5], "c": [None], "b": [5.25]}, schema_overrides={"c": pl.Float64}),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_given_may_have_any_form(vae, form):
    rows = vae.sample(3, given=FORMS[form])
    np.testing.assert_array_equal(rows[:, [1, 3]], [[5.25, 99.5]] * 3)
    np.testing.assert_array_equal(rows, vae.sample(3, given=FORMS["names"]))
    assert np.isfinite(rows).all()
    assert len(np.unique(rows[:, 0])) == 3


@pytest.mark.parametrize("given", [[[None, 5.25, None, 99.5]], np.array([[np.nan, 5.25, np.nan, 99.5]])], ids=["list", "array"])
def test_what_is_given_to_a_model_of_arrays(of_array, given):
    rows = of_array.sample(3, given=given)
    np.testing.assert_array_equal(rows[:, [1, 3]], [[5.25, 99.5]] * 3)
    np.testing.assert_array_equal(rows, of_array.sample(3, given={1: 5.25, 3: 99.5}))


def test_one_row_is_drawn_for_each_that_is_given(vae, frame):
    gaps = frame.iloc[:20].where(np.random.default_rng(1).random((20, 4)) < 0.5)
    rows = vae.sample(given=gaps)
    there = gaps.notna().to_numpy()
    np.testing.assert_array_equal(rows[there], frame.iloc[:20].to_numpy()[there])
    np.testing.assert_array_equal(rows, vae.sample(20, given=gaps))
    np.testing.assert_array_equal(rows[:8], vae.sample(given=gaps.iloc[:8]))
    np.testing.assert_array_equal(rows, vae.sample(given=gaps[["d", "b", "a", "c"]]))
    np.testing.assert_array_equal(rows[:1], vae.sample(1, given=gaps.iloc[:1]))
    columns = vae.sample(given={"a": [0.0, 1.0, None], "b": 5.0})
    np.testing.assert_array_equal(columns[:, 1], 5.0)
    np.testing.assert_array_equal(columns[:2, 0], [0.0, 1.0])


def test_columns_that_are_not_given_are_drawn_as_columns_of_gaps(vae, frame):
    part = frame[["c", "a"]].iloc[:6]
    gaps = part.reindex(columns=NAMES)
    np.testing.assert_array_equal(vae.sample(given=part), vae.sample(given=gaps))


def test_everything_and_nothing(vae, frame):
    np.testing.assert_array_equal(vae.sample(given=frame.iloc[:5]), frame.iloc[:5])
    np.testing.assert_array_equal(vae.sample(3, given=frame.iloc[:1]), frame.iloc[[0, 0, 0]])
    plain = vae.sample(5)
    np.testing.assert_array_equal(vae.sample(5, given={}), plain)
    np.testing.assert_array_equal(vae.sample(given=pd.DataFrame(np.nan, range(5), NAMES)), plain)
    np.testing.assert_array_equal(vae.sample(given={}), vae.sample())
    assert vae.sample().shape == (1, 4)


def test_the_random_state_decides(vae):
    given = {"a": 1.0}
    np.testing.assert_array_equal(vae.sample(4, given=given), vae.sample(4, given=given, random_state=0))
    assert not np.array_equal(vae.sample(4, given=given), vae.sample(4, given=given, random_state=1))
    generator = np.random.RandomState(0)
    first, second = (vae.sample(4, given=given, random_state=generator) for _ in range(2))
    assert not np.array_equal(first, second)


def test_means_have_no_noise(vae):
    means = vae.sample(500, given={"a": 1.0}, mean=True)
    assert np.linalg.matrix_rank(np.cov(means[:, 1:].T), tol=1e-4) < np.linalg.matrix_rank(
        np.cov(vae.sample(500, given={"a": 1.0})[:, 1:].T), tol=1e-4
    )


def test_the_type_is_that_of_what_is_given(of_array):
    single = np.array([[0.1, np.nan, np.nan, 99.0]], dtype=np.float32)
    rows = of_array.sample(given=single)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[0, [0, 3]], single[0, [0, 3]])
    assert of_array.sample(given={0: 1}).dtype == np.float64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"e": 1.0}, r"given has 'e', which X does not have; its columns are \['a', 'b', 'c', 'd'\]"),
        ({4: 1.0}, "given has 4; it takes names and positions of the 4 columns of X"),
        ({True: 1.0}, "given has True"),
        ({"a": "x"}, r"given\['a'\] holds 'x'; it must be a number"),
        ({"a": "1"}, r"given\['a'\] holds '1'; it must be a number"),
        ({"a": np.inf}, r"given\['a'\] holds infinity"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}, r"columns of different lengths: given\['a'\] 2, given\['b'\] 3"),
        ({"a": []}, "given has no rows"),
        ({"a": [[1.0]]}, r"given\['a'\] has the shape \(1, 1\)"),
        ({"a": 1.0, 0: 2.0}, "given has column 0 twice"),
        (pd.DataFrame({"a": [1.0], "e": [2.0]}), "given has 'e'"),
        (pd.DataFrame({"a": ["x"]}), "'a'.* of given cannot be converted to numbers"),
        (np.zeros((2, 3)), "X has 3 features, but VAETransformer is expecting 4"),
        (np.zeros(4), "Expected 2D array, got 1D array"),
        (np.zeros((0, 4)), "0 sample"),
        (np.full((1, 4), np.inf), "infinity"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_what_cannot_be_given(vae, given, message):
    for call in (vae.effective_sample_size_given, lambda given: vae.sample(given=given)):
        with pytest.raises(ValueError, match=message):
            call(given)


@pytest.mark.parametrize("n_samples", [0, -1, 1.5, True, "2"])
def test_numbers_of_samples_that_are_none(vae, n_samples):
    with pytest.raises(ValueError, match=r"n_samples=.* must be an integer of at least 1"):
        vae.sample(n_samples, given={"a": 1.0})


def test_as_many_samples_as_rows_are_given(vae, frame):
    with pytest.raises(ValueError, match="n_samples=2, but given has 3 rows, each of which is drawn once"):
        vae.sample(2, given=frame.iloc[:3])


def test_integers_are_names_where_columns_have_integers_for_names(frame):
    numbered = frame.set_axis([3, 2, 1, 0], axis=1)
    for X in (numbered, numbered.assign(sex="f").set_axis([3, 2, 1, 0, 4], axis=1)):
        vae = VAETransformer(**QUICK | {"linear_path": None}).fit(X)
        for given in ({0: 99.5}, pd.Series({0: 99.5}), pd.DataFrame({0: [99.5]}), pd.DataFrame({1: [None], 0: [99.5]})):
            rows = np.asarray(vae.sample(3, given=given))
            assert (rows[:, 3] == 99.5).all()
            assert (rows[:, 0] != 99.5).all()
        for given in ({5: 1.0}, {-1: 1.0}):
            with pytest.raises(ValueError, match=r"which is the name of no column of X: these are \[3, 2, 1, 0.*by their"):
                vae.sample(given=given)
        with pytest.raises(ValueError, match="given has True"):
            vae.sample(given={True: 1.0})
        cvae = CVAE(2, condition_columns=[3], max_epochs=1, linear_path=None, random_state=0).fit(X)
        assert cvae._conditioner.columns.tolist() == [0]
        assert not hasattr(vae, "feature_names_in_")
    in_order = VAETransformer(**QUICK | {"linear_path": None}).fit(frame.set_axis(range(4), axis=1))
    np.testing.assert_array_equal(in_order.sample(given={-1: 99.5}), in_order.sample(given={3: 99.5}))
    in_order.fit(frame.to_numpy())
    assert in_order.sample(given={-1: 99.5})[0, 3] == 99.5


def test_names_of_any_type_are_given(frame):
    X = frame.set_axis(pd.MultiIndex.from_product([["a", "b"], ["x", "y"]]), axis=1)
    vae = VAETransformer(**QUICK | {"linear_path": None}).fit(X)
    rows = vae.sample(given={("b", "y"): 99.5})
    np.testing.assert_array_equal(rows, vae.sample(given={3: 99.5}))
    np.testing.assert_array_equal(rows, vae.sample(given=pd.DataFrame([[99.5]], columns=X.columns[3:])))
    assert rows[0, 3] == 99.5


def test_names_are_unknown_to_a_model_of_arrays(of_array):
    with pytest.raises(ValueError, match="given has 'a', which X does not have; its columns have no names"):
        of_array.sample(given={"a": 1.0})
    with pytest.raises(NotFittedError):
        VAETransformer().sample(given={"a": 1.0})


def test_constant_columns_have_nothing_to_say(frame):
    X = np.column_stack([frame, np.full(len(frame), 7.0)])
    vae = VAETransformer(**QUICK).fit(X)
    rows = vae.sample(50, given={0: 1.0, 4: 1e12})
    np.testing.assert_array_equal(rows[:, 4], 1e12)
    np.testing.assert_array_equal(rows[:, :4], vae.sample(50, given={0: 1.0})[:, :4])


@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [("bernoulli", 1.5, r"takes values in \[0, 1\]"), ("poisson", -1.0, "counts|negative|whole")],
)
def test_what_the_likelihood_cannot_produce_is_refused(likelihood, value, message):
    X = np.random.default_rng(0).integers(0, 2, size=(60, 4)).astype(float)
    vae = VAETransformer(**QUICK, likelihood=likelihood).fit(X)
    with pytest.raises(ValueError, match=message):
        vae.sample(given={0: value})
    rows = vae.sample(20, given={0: 1.0})
    np.testing.assert_array_equal(rows[:, 0], 1.0)
    np.testing.assert_array_equal(rows, np.round(rows))


@pytest.mark.parametrize("missing_values", [None, np.nan, -1.0])
def test_whatever_stood_for_missing_entries_in_fit(frame, missing_values):
    X = frame.to_numpy().copy()
    if missing_values is not None:
        X[::5, 1] = missing_values
    vae = VAETransformer(**QUICK, missing_values=missing_values).fit(X)
    rows = vae.sample(3, given=[[1.0, np.nan, None, 99.0]])
    np.testing.assert_array_equal(rows[:, [0, 3]], [[1.0, 99.0]] * 3)
    if missing_values == -1.0:
        np.testing.assert_array_equal(rows, vae.sample(3, given={0: 1.0, 1: -1.0, 2: -1.0, 3: 99.0}))


def test_images_have_gaps_as_they_have_pixels():
    images = np.random.default_rng(0).random((40, 1, 4, 4))
    vae = VAETransformer(2, max_epochs=1, random_state=0).fit(images)
    images[:, :, 2:] = np.nan
    drawn = vae.sample(given=images[:5])
    assert drawn.shape == (5, 1, 4, 4)
    np.testing.assert_array_equal(drawn[:, :, :2], images[:5, :, :2])
    assert np.isfinite(drawn).all()
    np.testing.assert_array_equal(vae.sample(2, given={0: 0.5})[:, 0, 0, 0], 0.5)


# -- how many of the codes count --------------------------------------------------------------------------------------


def test_effective_sample_sizes(vae, frame):
    gaps = frame.iloc[:20].where(np.random.default_rng(1).random((20, 4)) < 0.5)
    sizes = vae.effective_sample_size_given(gaps)
    assert sizes.shape == (20,)
    assert (sizes > 100.0).all()
    assert (sizes <= 8 * vae.n_score_draws * (1.0 + 1e-9)).all()
    (one,) = vae.effective_sample_size_given({"a": 1.0}, 1000)
    assert 1000.0 < one <= 4000.0
    (few,) = vae.effective_sample_size_given({"a": 1.0}, 10)
    assert 500.0 < few <= 32 * vae.n_score_draws
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae.sample(given=gaps)
        vae.sample(1000, given={"a": 1.0})


def test_a_warning_where_few_codes_count(frame):
    """Entries that exclude each other, by a decoder that is bent to shreds."""
    vae = VAETransformer(2, hidden_layer_sizes=(64,), activation="tanh", linear_path=None, max_epochs=1, random_state=0).fit(
        frame
    )
    with torch.no_grad():
        vae.module_.decoder[0].weight.mul_(1e3)
        vae.module_.decoder[2].weight.mul_(10.0)
    given = {"a": 4.0, "b": -4.0, "c": 3.0}
    vae.module_.likelihood.noise.set_moment(torch.full((4,), 1e-5))
    (size,) = vae.effective_sample_size_given(given)
    assert size < 10.0
    with pytest.warns(UserWarning, match=rf"of 512 codes that were tried, {size:.3g} count, .* Raise n_score_draws \(now 64\)"):
        vae.sample(given=given)
    rows = pd.DataFrame([{"a": None}, given, given])
    with pytest.warns(UserWarning, match=r"count for row [12] of given, and too few for 2 of 3 rows"):
        vae.sample(given=rows)


@pytest.mark.parametrize("n_score_draws", [1, 3])
def test_very_few_codes(frame, n_score_draws):
    vae = VAETransformer(1, max_epochs=1, n_score_draws=n_score_draws, linear_path=LinearPath(1.0), random_state=0).fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isfinite(vae.sample(given={"a": [0.0, 1.0]})).all()
        assert np.isfinite(vae.sample(5, given={"a": 0.0})).all()
    assert 1.0 <= vae.effective_sample_size_given({"a": 0.0})[0] <= 8 * n_score_draws


def test_more_score_draws_are_more_codes(frame):
    vae = VAETransformer(**QUICK, n_score_draws=8).fit(frame)
    few = vae.effective_sample_size_given({"a": 1.0})
    assert few <= 64.0
    assert vae.set_params(n_score_draws=128).effective_sample_size_given({"a": 1.0}) > 4 * few


# -- other estimators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        AutoEncoder(**QUICK),
        AutoEncoder(**QUICK, density=GaussianMixture(2, random_state=0)),
        DenoisingAE(**QUICK),
        VAETransformer(**QUICK, prior="mixture"),
    ],
    ids=str,
)
def test_models_with_a_density_of_codes(model, frame):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(frame)
    rows = model.sample(400, given={"a": 1.5})
    np.testing.assert_array_equal(rows[:, 0], 1.5)
    near = model.sample(20_000)
    near = near[np.abs(near[:, 0] - 1.5) < 0.2]
    for j in (1, 2, 3):
        assert stats.ks_2samp(rows[:, j], near[:, j]).statistic < 0.12
    assert model.sample(given=pd.DataFrame({"a": [0.0, 1.0]})).shape == (2, 4)


def test_clean_rows_are_what_is_given(frame):
    """Noisy rows have other units, which have no part in what is drawn."""
    clean = frame.to_numpy()
    model = DenoisingAE(**QUICK, corruption_scale=0).fit(1000.0 * clean + 7.0, clean)
    rows = model.sample(200, given={0: 1.0})
    np.testing.assert_array_equal(rows[:, 0], 1.0)
    assert np.abs(rows[:, 1:].mean(0) - clean[:, 1:].mean(0)).max() < 5.0


def test_models_whose_samples_have_no_density_say_so(frame):
    model = SparseAE(n_components=4, max_epochs=1, random_state=0).fit(frame)
    with pytest.raises(ValueError, match="SparseAE takes no given: its samples keep to the patterns of activity"):
        model.sample(given={"a": 1.0})
    assert model.sample(2, given={}).shape == (2, 4)


@pytest.fixture(scope="module")
def labels(frame):
    return np.where(frame["a"] > 0.3, "high", "low")


@pytest.fixture(scope="module")
def cvae(frame, labels):
    return CVAE(2, max_epochs=20, random_state=0).fit(frame, labels)


def test_labels_are_drawn_by_what_is_given(cvae, frame, labels):
    for value in (-1.0, 2.0):
        X, y = cvae.sample(500, given={"a": value}, return_y=True)
        log_share = [
            np.log(np.mean(labels == label)) + np.log(np.mean(np.abs(cvae.sample(20_000, label)[:, 0] - value) < 0.1))
            for label in ("high", "low")
        ]
        share = 1.0 / (1.0 + np.exp(log_share[1] - log_share[0]))
        assert np.mean(y == "high") == pytest.approx(share, abs=0.07)
        np.testing.assert_array_equal(X[:, 0], value)
    X, y = cvae.sample(given=frame.iloc[:100][["a", "b"]], return_y=True)
    np.testing.assert_array_equal(X[:, :2], frame.iloc[:100, :2])
    assert np.mean(y == labels[:100]) > 0.7


def test_labels_that_are_given(cvae, frame):
    y = ["low", "high", "low"]
    for given in ({"b": 5.0}, {"b": [5.0, 5.0, 5.0]}):
        X, drawn = cvae.sample(y=y, given=given, return_y=True)
        assert drawn.tolist() == y
        np.testing.assert_array_equal(X[:, 1], 5.0)
    many = cvae.sample(600, y="low", given={"b": 5.0})
    near = cvae.sample(40_000, y="low")
    near = near[np.abs(near[:, 1] - 5.0) < 0.2]
    assert max(stats.ks_2samp(many[:, j], near[:, j]).statistic for j in (0, 2, 3)) < 0.1
    assert cvae.effective_sample_size_given(frame.iloc[:5][["a"]]).shape == (5,)
    assert cvae.effective_sample_size_given({"a": 1.0}, 3, y).shape == (1,)
    with pytest.raises(ValueError, match="y has 2 entries for 5 row"):
        cvae.sample(y=["low", "low"], given=frame.iloc[:5])
    with pytest.raises(ValueError, match="y has labels that were not seen in fit: 'middle'"):
        cvae.sample(y="middle", given={"a": 1.0})


def test_condition_columns_are_given_or_passed(frame):
    cvae = CVAE(2, condition_columns=["d"], max_epochs=2, random_state=0).fit(frame)
    rows = cvae.sample(given={"a": [0.0, 1.0], "d": [99.0, 101.0]})
    np.testing.assert_array_equal(rows[:, [0, 3]], [[0.0, 99.0], [1.0, 101.0]])
    np.testing.assert_allclose(cvae.sample(2, given={"a": 1.0}, y=[[99.0]] * 2)[:, 3], 99.0)
    with pytest.raises(ValueError, match=r"given needs conditions, .*: pass y"):
        cvae.sample(given={"a": 1.0})
    with pytest.raises(ValueError, match="but not both"):
        cvae.sample(given={"a": 1.0, "d": 99.0}, y=[[99.0]])
    with pytest.raises(ValueError, match="some entries of condition_columns"):
        cvae.sample(given={"a": 1.0, "d": [99.0, None]})


# -- data frames with columns of different kinds ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    code = rng.normal(size=400)
    kids = pd.Series(pd.array(rng.poisson(1.0, 400), dtype="Int64"))
    return pd.DataFrame(
        {
            "sex": np.where(code + 0.5 * rng.normal(size=400) > 0.0, "male", "female"),
            "age": np.round(40.0 + 8.0 * code + 3.0 * rng.normal(size=400)).astype(int),
            "pay": np.round(np.exp(3.0 + 0.5 * code + 0.3 * rng.normal(size=400)), 2),
            "job": pd.Categorical(np.array(["a", "b", "c"])[np.clip(np.round(code + 1.0), 0, 2).astype(int)]),
            "owns": code + 0.3 * rng.normal(size=400) > 0.3,
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.round(100.0 * code + 300.0), unit="D"),
            "kids": kids.mask(rng.random(400) < 0.2),
        }
    )


@pytest.fixture(scope="module")
def mixed(people):
    return VAETransformer(2, max_epochs=20, linear_path=LinearPath(1.0), random_state=0).fit(people)


def as_objects(frame):
    return frame.astype(object).where(frame.notna(), None)


def test_entries_of_any_type_are_given_and_come_back(mixed, people):
    given = {
        "sex": "female",
        "age": 41,
        "owns": True,
        "since": dt.datetime(2020, 5, 1),
        "pay": 12.345,
        "job": None,
        "kids": pd.NA,
    }
    drawn = mixed.sample(5, given=given)
    assert drawn.dtypes.equals(people.dtypes)
    assert drawn.columns.tolist() == people.columns.tolist()
    for name in ("sex", "age", "owns", "since", "pay"):
        assert (drawn[name] == given[name]).all()
    assert drawn["job"].isin(["a", "b", "c"]).all()
    pd.testing.assert_frame_equal(drawn, mixed.sample(5, given=pd.DataFrame([given]).drop(columns="job")))
    pd.testing.assert_frame_equal(drawn, mixed.sample(5, given=pd.Series(given)))


def test_arrays_of_objects_are_given_by_position(mixed, people):
    row = ["female", None, 12.345, None, True, dt.datetime(2020, 5, 1), None]
    by_name = mixed.sample(3, given={"sex": "female", "pay": 12.345, "owns": True, "since": dt.datetime(2020, 5, 1)})
    masked = np.ma.masked_array(np.array([row], dtype=object), [[False, False, False, True, False, False, True]])
    for given in ([row], np.array([row], dtype=object), masked):
        pd.testing.assert_frame_equal(mixed.sample(3, given=given), by_name)
    rows = as_objects(people.head(3))
    pd.testing.assert_frame_equal(mixed.sample(given=rows.to_numpy()), mixed.sample(given=rows))
    ages = np.full((1, 7), np.nan)
    ages[:, 1] = 40.0
    pd.testing.assert_frame_equal(mixed.sample(3, given=ages), mixed.sample(3, given={"age": 40}))


def test_frames_with_gaps_are_completed(mixed, people):
    gaps = people.head(60).mask(np.random.default_rng(0).random((60, 7)) < 0.5)
    drawn = mixed.sample(given=gaps)
    assert drawn.dtypes.equals(people.dtypes)
    assert not drawn.isna().any(axis=None)
    there = gaps.notna().to_numpy()
    assert (as_objects(drawn).to_numpy()[there] == as_objects(gaps).to_numpy()[there]).all()
    whole = people.dropna().head(5).reset_index(drop=True)
    pd.testing.assert_frame_equal(mixed.sample(given=whole), whole)
    pd.testing.assert_frame_equal(mixed.sample(3, given={}), mixed.sample(3))
    assert len(mixed.sample(given=pd.DataFrame(index=range(3)))) == 3
    part = mixed.sample(given=people[["since", "job"]].head(4))
    pd.testing.assert_frame_equal(part[["since", "job"]], people[["since", "job"]].head(4))
    assert (mixed.effective_sample_size_given(gaps) > 50.0).all()


def test_what_is_given_changes_what_is_drawn_as_the_rows_say(mixed, people):
    for sex in ("male", "female"):
        drawn, like = mixed.sample(3000, given={"sex": sex}), people[people["sex"] == sex]
        assert drawn["age"].mean() == pytest.approx(like["age"].mean(), abs=2.0)
        assert drawn["owns"].mean() == pytest.approx(like["owns"].mean(), abs=0.12)
        assert drawn["pay"].median() == pytest.approx(like["pay"].median(), rel=0.2)


def test_frames_of_another_library(people):
    entries = {name: as_objects(people)[name].tolist() for name in people}
    model = VAETransformer(2, max_epochs=2, linear_path=LinearPath(1.0), random_state=0).fit(pl.DataFrame(entries))
    given = {"sex": "female", "since": dt.datetime(2020, 5, 1), "age": 41, "owns": False}
    drawn = model.sample(3, given=given)
    assert isinstance(drawn, pl.DataFrame)
    assert drawn.schema == pl.DataFrame(entries).schema
    assert all((drawn[name] == value).all() for name, value in given.items())
    assert drawn.equals(model.sample(3, given=pl.DataFrame([given])))
    assert drawn.equals(model.sample(3, given=pd.DataFrame([given])))
    gaps = pl.DataFrame(entries).head(5).with_columns(pl.lit(None, dtype=pl.String).alias("job"))
    assert model.sample(given=gaps).drop("job", "kids").equals(gaps.drop("job", "kids"))


STARTS = [dt.datetime(2020, 1, day) for day in range(1, 6)]
TYPES = {
    "ordered": pd.Categorical(list("abcde"), ordered=True),
    "categories that are numbers": pd.Categorical([10, 20, 30, 40, 50]),
    "boolean": pd.array([True, False, True, True, False], dtype="boolean"),
    "uint8": np.arange(5, dtype=np.uint8),
    "single precision": np.array([0.1, 0.2, 0.3, 0.4, 0.55], dtype=np.float32),
    "times with a zone": pd.Series(STARTS).dt.tz_localize("Europe/Berlin"),
    "durations": pd.Series(STARTS) - STARTS[0],
    "periods": pd.PeriodIndex(pd.Series(STARTS), freq="D"),
    "dates": np.array([start.date() for start in STARTS], dtype=object),
    "decimals": np.array([Decimal(number) / 4 for number in range(5)], dtype=object),
    "intervals": pd.IntervalIndex.from_breaks(range(6)),
    "bytes": np.array([b"a", b"b", b"c", b"d", b"e"], dtype=object),
}


@pytest.mark.parametrize("kind", TYPES)
def test_entries_of_all_types(kind):
    column = pd.Series(TYPES[kind])
    which = np.random.default_rng(0).integers(5, size=60)
    X = pd.DataFrame(
        {
            "x": column.iloc[which].to_numpy() if kind == "dates" else column.iloc[which].array,
            "s": np.array(["p", "q"])[which % 2],
        }
    )
    model = VAETransformer(1, max_epochs=1, linear_path=LinearPath(1.0), random_state=0).fit(X)
    drawn = model.sample(3, given={"x": X["x"].iloc[7]})
    assert drawn["x"].dtype == X["x"].dtype
    assert (drawn["x"] == X["x"].iloc[7]).all()
    gaps = X.head(6).copy()
    gaps["x"] = gaps["x"].astype(object).where([True, False] * 3, None)
    drawn = model.sample(given=gaps)
    assert drawn["x"].dtype == X["x"].dtype
    assert drawn["x"].iloc[::2].tolist() == X["x"].iloc[:6:2].tolist()
    assert drawn["x"].notna().all()
    lists = model.sample(given={"x": X["x"].iloc[5:8].tolist(), "s": X["s"].iloc[5:8]})
    pd.testing.assert_frame_equal(lists, X.iloc[5:8].reset_index(drop=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sex": "femal"}, "'sex' of given holds what was not seen in fit: 'femal'; known are 'female', 'male'"),
        ({"sxe": "female"}, r"given has 'sxe', which X does not have; its columns are \['sex', 'age'"),
        ({"age": 40.5}, "'age' of given holds 40.5, which lies between two values"),
        ({"age": [40, 41.5]}, "'age' of given holds 41.5"),
        ({"age": "x"}, "'age' of given held numbers in fit"),
        ({"since": "2020-05-01"}, "'since' of given held times or durations in fit"),
        ({"since": dt.datetime(2020, 5, 1, 12)}, "'since' of given holds .*, which lies between two values"),
        ({"sex": ["male", "female"], "age": [40]}, "columns of different lengths"),
        ({"sex": []}, "given has no rows"),
        ([["male", 40]], r"given has the shape \(1, 2\); of an array, .* the 7 entries of the columns 'sex', 'age', "),
        ([["male", 40], ["male"]], r"given has the shape \(2,\)"),
        (np.array(["male", None]), r"given has the shape \(2,\)"),
        (np.full((1, 7), 1.0), "'sex' of given holds what was not seen in fit: 1"),
        (np.array([["male", *["1"] * 6]]), "'age' of given held numbers in fit, and holds something else now, such as '1'"),
    ],
    ids=str,
)
def test_entries_that_a_frame_cannot_have(mixed, given, message):
    with pytest.raises(ValueError, match=message):
        mixed.sample(given=given)


def test_entries_that_share_a_level_come_back_as_themselves():
    rng = np.random.default_rng(0)
    towns = [f"town {i}" for i in range(400)]
    X = pd.DataFrame({"town": rng.permutation(np.repeat(towns, 2)), "size": rng.normal(size=800)})
    model = VAETransformer(2, max_epochs=1, linear_path=LinearPath(1.0), random_state=0).fit(X)
    rare = [town for town in towns if town not in model._frame_form.columns[0].levels]
    assert len(rare) > 100
    for town in rare[:3]:
        assert (model.sample(4, given={"town": town})["town"] == town).all()


def test_unseen_entries_are_drawn_where_they_are_taken_for_missing(people):
    likelihood = Mixed(handle_unknown="missing", bounds="observed")
    model = VAETransformer(2, max_epochs=1, likelihood=likelihood, linear_path=LinearPath(1.0), random_state=0).fit(people)
    drawn = model.sample(20, given={"sex": "other", "age": 200})
    assert drawn["sex"].isin(["male", "female"]).all()
    assert (drawn["age"] == 200).all()
    assert drawn["pay"].between(people["pay"].min(), people["pay"].max()).all()


def test_labels_beside_frames(people):
    whole = people.drop(columns="kids")
    model = CVAE(2, max_epochs=5, linear_path=LinearPath(1.0), random_state=0).fit(whole.drop(columns="sex"), whole["sex"])
    drawn, sex = model.sample(400, given={"age": 55}, return_y=True)
    assert (drawn["age"] == 55).all()
    assert np.mean(sex == "male") > 0.7
    model = CVAE(2, condition_columns=["sex", "age"], max_epochs=2, linear_path=LinearPath(1.0), random_state=0).fit(whole)
    drawn = model.sample(given={"sex": ["female", "male"], "age": 33, "pay": 10.555})
    assert drawn["sex"].tolist() == ["female", "male"]
    assert drawn["age"].tolist() == [33, 33]
    assert drawn["pay"].tolist() == [10.555, 10.555]
    assert drawn.dtypes.equals(whole.dtypes)
    assert model.sample(3, given={"sex": "male", "age": 33, "owns": True})["owns"].all()


# -- through a pipeline -----------------------------------------------------------------------------------------------


def test_the_first_step_of_a_pipeline_is_given_entries(people):
    whole = people.drop(columns="kids")
    model = VAETransformer(2, max_epochs=2, linear_path=LinearPath(1.0), random_state=0)
    pipe = make_pipeline("passthrough", model, KMeans(2, random_state=0)).fit(whole)
    drawn = skvae.sample(pipe, 3, given={"sex": "male", "age": 40})
    pd.testing.assert_frame_equal(drawn, pipe[1].sample(3, given={"sex": "male", "age": 40}))
    pd.testing.assert_frame_equal(skvae.sample(pipe, given=whole.head(2)), whole.head(2))
    assert len(skvae.sample(pipe)) == 1


def test_other_steps_are_not(frame):
    with pytest.raises(TypeError, match="sample of GaussianMixture takes none"):
        skvae.sample(make_pipeline(VAETransformer(**QUICK), GaussianMixture(2)).fit(frame), given={"a": 1.0})
