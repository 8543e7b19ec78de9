import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import slow
from numpydoc.docscrape import NumpyDocString
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import CVAE, AutoEncoder, AutoencoderImputer, DenoisingAE, LinearPath, VAETransformer
from skvae.data import Table
from skvae.inference.donors import find_donors, try_strengths

pytestmark = pytest.mark.usefixtures("one_core")


def quick(**params):
    return AutoencoderImputer(
        **{"estimator": VAETransformer(2, hidden_layer_sizes=(8,), max_epochs=3), "random_state": 0, "n_draws": 50, **params}
    )


def delete(X, rate=0.25, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < rate, np.nan, X)


@pytest.fixture
def gaps(X):
    return delete(X)


def factors(n_rows, seed=0):
    """Rows of a linear factor model, and their covariance."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(2, 6))
    X = rng.normal(size=(n_rows, 2)) @ loadings + 0.5 * rng.normal(size=(n_rows, 6))
    return X, loadings.T @ loadings + 0.25 * np.eye(6)


@parametrize_with_checks([quick()])
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([AutoencoderImputer()])
def test_sklearn_checks_at_the_defaults(estimator, check):
    check(estimator)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_observed_entries_stay(gaps, dtype):
    gaps = gaps.astype(dtype)
    imputer, seen = quick().fit(gaps), ~np.isnan(gaps)
    filled = imputer.transform(gaps)
    assert filled.dtype == dtype
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[seen], gaps[seen])
    several = imputer.impute(gaps, n_imputations=3)
    assert several.shape == (3, *gaps.shape)
    assert several.dtype == dtype
    assert all(np.array_equal(one[seen], gaps[seen]) for one in several)
    assert (several[0][~seen] != several[1][~seen]).all()
    np.testing.assert_array_equal(several, imputer.impute(gaps, n_imputations=3))
    assert not np.array_equal(several, imputer.impute(gaps, n_imputations=3, random_state=1))


def test_transform_looks_at_a_row_alone(gaps):
    imputer = quick().fit(gaps)
    np.testing.assert_allclose(imputer.transform(gaps)[7:9], imputer.transform(gaps[7:9]), rtol=1e-6)


def test_nothing_missing(X, gaps):
    imputer = quick().fit(X)
    np.testing.assert_array_equal(imputer.transform(X), X)
    assert np.isfinite(imputer.transform(gaps)).all()


def test_another_number_stands_for_missing(gaps):
    marked = np.where(np.isnan(gaps), -1e3, gaps)
    np.testing.assert_array_equal(quick(missing_values=-1e3).fit_transform(marked), quick().fit_transform(gaps))
    with pytest.raises(ValueError, match="NaN"):
        quick(missing_values=-1e3).fit(gaps)


def test_empty_columns_and_rows(gaps):
    mean, std = np.nanmean(gaps, axis=0)[[0, 2, 3, 4]], np.nanstd(gaps, axis=0)[[0, 2, 3, 4]]
    gaps[:, 1], gaps[4] = np.nan, np.nan
    with pytest.warns(UserWarning, match="x1"):
        imputer = quick().fit(gaps)
    filled = imputer.transform(gaps)
    assert filled.shape == (80, 4)
    assert list(imputer.get_feature_names_out()) == ["x0", "x2", "x3", "x4"]
    # Of a row without entries nothing is known but what all rows are like.
    assert (np.abs(filled[4] - mean) < 3 * std).all()
    kept = quick(keep_empty_features=True).fit(gaps)
    np.testing.assert_array_equal(kept.transform(gaps)[:, 1], 0)
    assert kept.transform(gaps).shape == kept.impute(gaps, 2).shape[1:] == (80, 5)


def test_indicators_names_and_frames(gaps):
    gaps[:, 0] = 1.0 + np.arange(80)
    frame = pd.DataFrame(gaps, columns=list("abcde"))
    imputer = quick(add_indicator=True).set_output(transform="pandas").fit(frame)
    filled = imputer.transform(frame)
    assert list(filled.columns) == [*"abcde", *(f"missingindicator_{name}" for name in "bcde")]
    np.testing.assert_array_equal(filled.iloc[:, 5:], np.isnan(gaps[:, 1:]))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
@pytest.mark.parametrize("is_global", [False, True])
def test_indicators_beside_any_kind_of_output(gaps, kind, is_global):
    plain = quick(add_indicator=True).fit(gaps)
    expected, drawn = plain.transform(gaps), plain.impute(gaps, 2, random_state=0)
    imputer = quick(add_indicator=True)
    if not is_global:
        imputer.set_output(transform=kind)
    with config_context(transform_output=kind if is_global else "default"):
        filled = imputer.fit(gaps).transform(gaps)
        np.testing.assert_array_equal(imputer.impute(gaps, 2, random_state=0), drawn)
    assert type(filled).__module__.split(".")[0] == kind
    assert list(filled.columns) == list(plain.get_feature_names_out())
    np.testing.assert_array_equal(filled.to_numpy(), expected)


def test_in_a_pipeline_and_a_search(gaps, X):
    y = X[:, 0] > X[:, 0].mean()
    pipe = make_pipeline(quick(), LogisticRegression(max_iter=1000))
    grid = {"autoencoderimputer__n_training_draws": [1, 2], "autoencoderimputer__estimator__n_components": [1, 2]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(gaps, y)
    assert search.score(gaps, y) > 0.6


def test_copies(gaps):
    imputer = quick(mechanism="self_masking").fit(gaps)
    expected = imputer.transform(gaps)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(imputer)).transform(gaps), expected)
    np.testing.assert_array_equal(clone(imputer).fit_transform(gaps), expected)


@pytest.mark.parametrize("estimator", [AutoEncoder, DenoisingAE])
def test_other_models(gaps, estimator):
    imputer = AutoencoderImputer(estimator(2, hidden_layer_sizes=(8,), max_epochs=3), n_draws=50, random_state=0).fit(gaps)
    assert np.isfinite(imputer.transform(gaps)).all()
    assert np.isfinite(imputer.impute(gaps, 2)).all()
    assert type(imputer.estimator_) is estimator


@pytest.mark.parametrize("mechanism", ["self_masking", "linear", "nonlinear"])
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_mechanisms(gaps, mechanism, likelihood):
    rows = np.where(np.isnan(gaps), np.nan, gaps > 3) if likelihood == "bernoulli" else gaps
    model = VAETransformer(2, hidden_layer_sizes=(8,), max_epochs=3, likelihood=likelihood)
    imputer = AutoencoderImputer(model, mechanism=mechanism, n_draws=50, random_state=0).fit(rows)
    filled, drawn = imputer.transform(rows), imputer.impute(rows, 2)
    assert np.isfinite(filled).all()
    assert np.isfinite(drawn).all()
    if likelihood == "bernoulli":
        assert np.isin(drawn, [0, 1]).all()
        assert (filled >= 0).all()
        assert (filled <= 1).all()


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"missing_values": "nan"}, "missing_values"),
        ({"missing_values": None}, "missing_values"),
        ({"missing_values": np.inf}, "missing_values"),
        ({"missing_values": 10**400}, "missing_values=1000"),
        ({"estimator": VAETransformer(missing_values=-999)}, "estimator has missing_values=-999, but the imputer"),
        ({"estimator": VAETransformer(max_epochs=-3)}, "'max_epochs' parameter of VAETransformer"),
        ({"mechanism": "odd"}, "mechanism"),
        ({"masking_sign": "positive"}, "masking_sign"),
        ({"estimator": CVAE()}, "estimator=CVAE"),
        ({"estimator": LogisticRegression()}, "estimator"),
        ({"estimator": AutoEncoder(), "mechanism": "linear"}, "needs a VAETransformer"),
        ({"n_draws": 0}, "n_draws"),
        ({"locality": 1.0}, "locality"),
        ({"locality": (0.5,)}, r"locality=\(0.5,\) must be 'auto', a number from 0 to below 1, or two of them"),
        ({"locality": (0.5, -0.5)}, "locality"),
        ({"locality": 0.5, "mechanism": "linear"}, r"locality=0.5 needs a VAETransformer with a linear path"),
        ({"locality": 0.5, "estimator": AutoEncoder(2, hidden_layer_sizes=(8,), max_epochs=3)}, "locality=0.5 needs"),
        ({"estimator": VAETransformer(2, likelihood="bernoulli", linear_path=LinearPath())}, "linear_path=.* is for likelihoods"),
        ({"estimator": VAETransformer(2, linear_path=LinearPath()), "mechanism": "linear"}, "linear_path=.* missing at random"),
        ({"estimator": VAETransformer(2, decoder="tied", linear_path=LinearPath())}, "linear_path=.* cannot be 'tied'"),
    ],
)
def test_bad_parameters(gaps, params, match):
    with pytest.raises(ValueError, match=match):
        quick().set_params(**params).fit(gaps)


def test_an_estimator_may_say_the_same_of_missing_values(gaps):
    quick(missing_values=np.nan).set_params(estimator__missing_values=np.nan).fit(gaps)


def test_images_need_all_their_columns(gaps):
    gaps[:, 1] = np.nan
    model = VAETransformer(2, image_shape=(1, 1, 5), max_epochs=1)
    with pytest.raises(ValueError, match=r"Column\(s\) \['x1'\] of X have no entry .* image_shape=\(1, 1, 5\) needs them all"):
        AutoencoderImputer(model, keep_empty_features=True).fit(gaps)


@pytest.mark.parametrize("make", [lambda X: pd.DataFrame(X), lambda X: X], ids=["frame", "array"])
def test_missing_entries_among_objects_are_reported(gaps, make):
    objects = np.where(np.isnan(gaps), pd.NA, gaps.astype(object))
    with pytest.raises(ValueError, match=r"hold pandas.NA among other objects; X.convert_dtypes\(\)"):
        quick().fit(make(objects))
    frame = pd.DataFrame(objects).convert_dtypes()
    np.testing.assert_array_equal(quick().fit_transform(frame), quick().fit_transform(gaps))


def test_bad_rows(gaps):
    with pytest.raises(ValueError, match="no entry"):
        quick().fit(np.full((5, 3), np.nan))
    with pytest.raises(ValueError, match="infinity"):
        quick().fit(np.where(np.isnan(gaps), np.inf, gaps))
    with pytest.raises(ValueError, match="cannot be converted"):
        AutoencoderImputer(VAETransformer(likelihood="gaussian")).fit(pd.DataFrame({"a": ["x", "y"] * 5, "b": range(10)}))
    imputer = quick().fit(gaps)
    with pytest.raises(ValueError, match="features"):
        imputer.transform(gaps[:, :3])
    with pytest.raises(ValueError, match="n_imputations"):
        imputer.impute(gaps, 0)


# -- parameters that must be obeyed -----------------------------------------------------------------------------------


def model(**params):
    return VAETransformer(**{"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 3, **params})


def transform(imputer, X):
    return imputer.transform(X)


def impute(imputer, X):
    return imputer.impute(X, 2)


MASKED = {"mechanism": "self_masking"}
OWN_SEED = {"estimator": model(random_state=3)}
# A parameter, settings that it is added to, another value than theirs, and what must differ.
OBEYED = [
    ("estimator", {}, model(n_components=3), transform),
    ("estimator", {}, model(learning_rate=0.1), transform),
    ("estimator", {}, model(random_state=3), transform),
    ("estimator", {}, AutoEncoder(2, hidden_layer_sizes=(8,), max_epochs=3), transform),
    ("missing_values", {}, 3.25, transform),
    ("mechanism", {}, "self_masking", transform),
    ("mechanism", {}, "linear", transform),
    ("mechanism", {}, "nonlinear", transform),
    ("mechanism", MASKED, "linear", transform),
    ("mechanism", MASKED, "nonlinear", transform),
    ("masking_sign", MASKED, "positive", transform),
    ("masking_sign", {**MASKED, "masking_sign": "positive"}, "negative", transform),
    ("locality", {}, 0.6, transform),
    ("locality", {}, (0.0, 0.6), impute),
    ("locality", {"locality": 0.6}, 0.0, transform),
    ("n_training_draws", {}, 1, transform),
    ("n_draws", {}, 51, transform),
    ("n_draws", {}, 51, impute),
    ("add_indicator", {}, True, transform),
    ("add_indicator", {}, True, impute),
    ("keep_empty_features", {}, True, transform),
    ("keep_empty_features", {}, True, impute),
    ("random_state", {}, 1, transform),
    ("random_state", OWN_SEED, 1, impute),
]


@pytest.fixture(scope="module")
def fitted():
    return {}


@pytest.mark.filterwarnings("ignore:Column")
@pytest.mark.parametrize(("name", "base", "value", "observe"), OBEYED, ids=[name for name, *_ in OBEYED])
def test_every_parameter_changes_the_result(fitted, gaps, name, base, value, observe):
    if name == "keep_empty_features":
        gaps[:, 1] = np.nan
    if name == "missing_values":  # a number that is an entry to one imputer, and stands for none to the other
        gaps = np.where(np.isnan(gaps), value, gaps)
    key = (str(base), name if name in ("keep_empty_features", "missing_values") else None)
    if key not in fitted:  # by the rows and settings, of which many are those of others
        fitted[key] = quick(**base).fit(gaps)
        np.testing.assert_array_equal(observe(quick(**base).fit(gaps), gaps), observe(fitted[key], gaps))
    before, after = (observe(imputer, gaps) for imputer in (fitted[key], quick(**{**base, name: value}).fit(gaps)))
    assert not np.array_equal(before, after)


def test_every_parameter_is_tried():
    tried = {name for name, *_ in OBEYED}
    assert tried == set(AutoencoderImputer._parameter_constraints) == set(inspect.signature(AutoencoderImputer).parameters)


def test_the_seed_of_the_estimator_comes_first(gaps):
    first, second = (quick(**OWN_SEED, random_state=seed).fit(gaps) for seed in (0, 1))
    np.testing.assert_array_equal(first.transform(gaps), second.transform(gaps))


def test_documentation_names_every_attribute(gaps):
    fitted = quick(add_indicator=True).fit(pd.DataFrame(gaps, columns=list("abcde")))
    attributes = {name for name in dir(fitted) if name.endswith("_") and not name.startswith("_")}
    assert attributes == {entry.name for entry in NumpyDocString(inspect.getdoc(AutoencoderImputer))["Attributes"]}


# -- how good imputations are -----------------------------------------------------------------------------------------


def test_imputations_have_the_conditional_moments_of_a_linear_model():
    X, covariance = factors(1500)
    gaps = delete(X, 0.3)
    imputer = AutoencoderImputer(AutoEncoder(2, hidden_layer_sizes=(), max_epochs=100), n_draws=500, random_state=0).fit(gaps)
    mean, drawn = imputer.transform(gaps[:60]), imputer.impute(gaps[:60], 400)
    gaps_, exact_mean, exact_std, found_mean, found_std = gaps[:60], [], [], [], []
    for i, row in enumerate(gaps_):
        o, m = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        if len(m) and len(o):
            gain = covariance[np.ix_(m, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
            exact_mean += (gain @ row[o]).tolist()
            exact_std += np.sqrt(np.diag(covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)])).tolist()
            found_mean += mean[i, m].tolist()
            found_std += drawn[:, i, m].std(0).tolist()
    scale = np.mean(exact_std)
    assert np.sqrt(np.mean((np.array(found_mean) - exact_mean) ** 2)) < 0.3 * scale
    np.testing.assert_allclose(np.mean(found_std), scale, rtol=0.1)
    assert np.corrcoef(found_std, exact_std)[0, 1] > 0.9


def test_intervals_cover_and_means_beat_the_columns_means():
    X, _ = factors(600, seed=2)
    gaps = delete(X, 0.3)
    deleted = np.isnan(gaps)
    imputer = AutoencoderImputer(VAETransformer(max_epochs=15), random_state=0, n_draws=300).fit(gaps)
    error = (imputer.transform(gaps) - X)[deleted]
    low, high = np.quantile(imputer.impute(gaps, 100), [0.05, 0.95], axis=0)
    assert np.sqrt(np.mean(error**2)) < 0.75 * X[deleted].std()
    assert 0.85 <= ((low <= X) & (X <= high))[deleted].mean() <= 0.95


SETS = {"breast cancer": load_breast_cancer, "wine": load_wine, "iris": load_iris, "diabetes": load_diabetes}


def table(name):
    """Standardized rows of a kind: linear in a few factors, curved, in a circle that no correlation tells, or real."""
    rng = np.random.default_rng(7)
    if name in SETS:
        X = SETS[name]().data[:: 2 if name == "breast cancer" else 1]
    elif name == "linear":
        X = rng.normal(size=(240, 3)) @ rng.normal(size=(3, 12)) + 0.3 * rng.normal(size=(240, 12))
    elif name == "collinear":
        X = rng.normal(size=(240, 5)) @ rng.normal(size=(5, 10)) + 0.02 * rng.normal(size=(240, 10))
    elif name == "curved":
        angle = rng.uniform(-1, 1, size=(240, 2)) @ rng.normal(size=(2, 10)) * 2 + rng.uniform(0, 6, 10)
        X = np.sin(angle) + 0.1 * rng.normal(size=(240, 10))
    else:
        angle = rng.uniform(0, 2 * np.pi, 240)
        X = np.column_stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle), np.sin(3 * angle)])
        X += 0.05 * rng.normal(size=X.shape)
    return StandardScaler().fit_transform(X)


def errors_beside(X, imputer, share, fitted):
    """Errors of an imputer on rows that it has not seen and the best one of scikit-learn's, and how many intervals cover."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    train, test = X[order[: len(X) // 2]].copy(), X[order[len(X) // 2 :]]
    test = np.tile(test, (-(-240 // len(test)), 1))  # with other gaps each time
    if fitted == "gaps":
        train[rng.random(train.shape) < share] = np.nan
    missing = rng.random(test.shape) < share
    gaps = np.where(missing, np.nan, test)
    peers = KNNImputer(), IterativeImputer(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = min(np.sqrt(np.mean((peer.fit(train).transform(gaps) - test)[missing] ** 2)) for peer in peers)
    error = np.sqrt(np.mean((imputer.fit(train).transform(gaps) - test)[missing] ** 2))
    low, high = np.quantile(imputer.impute(gaps, 60), [0.05, 0.95], axis=0)
    return error, best, np.mean(((low <= test) & (test <= high))[missing])


@pytest.mark.parametrize(
    ("name", "fitted"),
    [
        *(("linear", "complete"), ("collinear", "gaps"), ("curved", "complete"), ("iris", "gaps")),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("linear", "gaps"), ("collinear", "complete"), ("circle", "gaps"))
        ),
        *(pytest.param(name, "complete", marks=pytest.mark.slow) for name in ("breast cancer", "iris")),
    ],
)
def test_as_good_as_the_imputers_of_scikit_learn(name, fitted):
    """Also in few steps, without a choice of the decay; see the slow test for the defaults."""
    model = VAETransformer(hidden_layer_sizes=(64,), activation="elu", max_epochs=40)
    error, best, covered = errors_beside(table(name), AutoencoderImputer(model, n_draws=200, random_state=0), 0.2, fitted)
    assert error < 1.1 * best
    assert 0.78 <= covered <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("fitted", ["complete", "gaps"])
@pytest.mark.parametrize("name", ["linear", "collinear", "curved", "circle", *SETS])
def test_as_good_as_the_imputers_of_scikit_learn_at_the_defaults(name, fitted, share):
    error, best, covered = errors_beside(table(name), AutoencoderImputer(random_state=0), share, fitted)
    assert error < 1.1 * best
    assert 0.75 <= covered <= 1.0


def test_locality_is_chosen_by_the_rows():
    choices = {}
    for name in ("linear", "circle"):
        imputer = AutoencoderImputer(VAETransformer(3, max_epochs=5), n_draws=100, random_state=0).fit(table(name))
        choices[name] = imputer.locality_
    assert choices["circle"][1] >= 0.7
    assert choices["linear"][1] == 0.0


def test_near_one_it_is_next_to_filling_in_from_the_most_similar_row():
    X = table("circle")
    gaps = X.copy()
    gaps[:, 2:] = np.nan
    model = VAETransformer(2, max_epochs=5)
    far, near = (AutoencoderImputer(model, locality=value, random_state=0).fit(X).transform(gaps) for value in (0.0, 0.999))
    assert np.abs(near - X)[:, 2:].mean() < 0.2
    assert np.abs(far - X)[:, 2:].mean() > 0.5


def test_donors_that_are_alike_count_by_how_many_there_are():
    """Of a table twice over nothing else is learned where the rows are centers, and no row is its own twin."""
    X = table("circle")[:60]
    device = torch.device("cpu")
    estimator = AutoencoderImputer(VAETransformer(2, max_epochs=5), locality=0.0, random_state=0).fit(X).estimator_
    once, twice = (find_donors(estimator.module_, Table.of(rows), device) for rows in (X, np.repeat(X, 2, axis=0)))
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(one, other)
    curves = [try_strengths(estimator.module_, Table.of(rows), once, device) for rows in (X, np.repeat(X, 2, axis=0))]
    np.testing.assert_allclose(curves[0].error, curves[1].error)
    assert curves[0].error[0] > curves[0].error[-1]


def test_rows_do_not_lean_on_themselves():
    """A training row that lacks an entry has nothing to say about it, however well its others agree with it."""
    X = table("circle")
    gaps = delete(X, 0.3)
    deleted = np.isnan(gaps)
    model = VAETransformer(2, max_epochs=5)
    imputer = AutoencoderImputer(model, locality=0.95, n_draws=200, random_state=0).fit(gaps)
    nudged = np.where(np.arange(5) == deleted.argmin(1)[:, np.newaxis], gaps + 1e-4, gaps)  # no longer the same row
    errors = [np.sqrt(np.mean((imputer.transform(rows) - X)[deleted] ** 2)) for rows in (gaps, nudged)]
    assert errors[0] < 0.97 * errors[1]


@pytest.mark.parametrize("locality", ["auto", 0.7])
def test_rows_far_out_and_constant_columns(locality):
    X = np.column_stack([table("linear")[:80], np.full(80, 3.0)])
    imputer = AutoencoderImputer(VAETransformer(2, max_epochs=5), locality=locality, n_draws=50, random_state=0).fit(X)
    far = np.full((4, 13), np.nan)
    far[:3, 0] = [1e3, -1e9, 1e200]
    filled, drawn = imputer.transform(far), imputer.impute(far, 3)
    assert np.isfinite(filled).all()
    assert np.isfinite(drawn).all()
    np.testing.assert_allclose(filled[:, 12], 3.0)
    assert (np.abs(filled[3]) < 4).all()


def test_a_linear_model_is_not_trained_on():
    X = delete(table("linear"), 0.1)
    model = VAETransformer(3, linear_path=LinearPath(float("inf")))
    one, other = (AutoencoderImputer(model, random_state=0, **params).fit(X) for params in ({}, {"n_training_draws": 2}))
    assert one.estimator_.n_iter_ == 1
    np.testing.assert_array_equal(one.transform(X), other.transform(X))


@pytest.mark.slow
def test_a_model_of_the_mask_finds_values_that_are_missing_because_of_themselves():
    X, _ = factors(800, seed=3)
    deleted = np.zeros(X.shape, dtype=bool)
    deleted[:, :3] = X[:, :3] > 0.3 * X[:, :3].std(0)
    gaps = np.where(deleted, np.nan, X)
    model = VAETransformer(2, hidden_layer_sizes=(), max_epochs=120)
    errors = {}
    for mechanism in ("random", "self_masking"):
        filled = AutoencoderImputer(model, mechanism=mechanism, n_draws=200, random_state=0).fit(gaps).transform(gaps)
        errors[mechanism] = np.sqrt(np.mean((filled - X)[deleted] ** 2))
    assert errors["self_masking"] < 0.8 * errors["random"]


@pytest.mark.parametrize("sign", [*slow("positive", "negative"), None])
def test_a_model_of_the_mask_finds_how_steeply_values_decide(sign):
    direction, slope = -1 if sign == "negative" else 1, 3.0
    X, _ = factors(1000, seed=4)
    X /= X.std(axis=0)
    odds = direction * slope * X[:, :3]
    deleted = np.zeros(X.shape, dtype=bool)
    deleted[:, :3] = np.random.default_rng(4).random(odds.shape) < 1 / (1 + np.exp(-odds))
    gaps = np.where(deleted, np.nan, X)
    model = VAETransformer(2, hidden_layer_sizes=(), max_epochs=150)
    imputer = AutoencoderImputer(model, mechanism="self_masking", masking_sign=sign, random_state=0).fit(gaps)
    mask_model = imputer.estimator_.module_.mask_model
    with torch.no_grad():
        found = (mask_model.own(torch.ones(3)) - mask_model.own(torch.zeros(3))).numpy() / np.nanstd(gaps[:, :3], axis=0)
    np.testing.assert_allclose(found, direction * slope, rtol=0.3)


@pytest.mark.parametrize("share", [0.0, *slow(0.01, 0.2)])
def test_rows_may_have_more_gaps_than_those_of_training(share):
    """Entries are hidden in training: fitted to few gaps, or none, it fills in as well as it can."""
    rng = np.random.default_rng(0)
    X = StandardScaler().fit_transform(rng.normal(size=(600, 3)) @ rng.normal(size=(3, 12)) + 0.2 * rng.normal(size=(600, 12)))
    train, test = X[:300].copy(), X[300:].copy()
    train[rng.random(train.shape) < share] = np.nan
    missing = rng.random(test.shape) < 0.2
    test[missing] = np.nan

    def error(imputer):
        return np.sqrt(np.mean((imputer.fit(train).transform(test) - X[300:])[missing] ** 2))

    assert error(AutoencoderImputer(VAETransformer(max_epochs=20), random_state=0)) < 0.7 * error(KNNImputer())
