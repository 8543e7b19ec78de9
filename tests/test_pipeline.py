import copy
import pickle

import numpy as np
import pytest
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)

import skvae
from skvae import CVAE, AnomalyDetector, AutoEncoder, AutoencoderImputer, VAETransformer, step_score
from skvae.pipeline import back, undo


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(60, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(60, 5))) * [1, 100, 0.1, 5, 1] + 50


def vae(**params):
    given = {"n_components": 2, "hidden_layer_sizes": (8,), "linear_path": None, "max_epochs": 3, "random_state": 0}
    return VAETransformer(**given | params)


def kmeans():
    return KMeans(3, n_init=1, random_state=0)


def steps_of(pipe):
    """Scaler and autoencoder of the pipelines below."""
    return pipe.named_steps["standardscaler"], pipe.named_steps["vaetransformer"]


# -- through a pipeline -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [kmeans, lambda: "passthrough", None], ids=["clusterer", "passthrough", "none"])
def test_functions_go_through_the_steps(X, last):
    steps = [StandardScaler(), vae()] + ([] if last is None else [last()])
    pipe = make_pipeline(*steps).fit(X)
    scaler, model = steps_of(pipe)
    scaled = scaler.transform(X)
    np.testing.assert_array_equal(
        skvae.sample(pipe, 7, random_state=3), scaler.inverse_transform(model.sample(7, random_state=3))
    )
    np.testing.assert_array_equal(
        skvae.sample(pipe, 7, mean=True, random_state=3),
        scaler.inverse_transform(model.sample(7, mean=True, random_state=3)),
    )
    np.testing.assert_array_equal(skvae.reconstruct(pipe, X), scaler.inverse_transform(model.reconstruct(scaled)))
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, X), model.score_anomaly(scaled))


def test_results_are_in_the_units_of_what_goes_in(X):
    pipe = make_pipeline(StandardScaler(), vae(max_epochs=300), kmeans()).fit(X)
    draws = skvae.sample(pipe, 4000, random_state=0)
    assert (np.abs(draws.mean(axis=0) - X.mean(axis=0)) < 0.25 * X.std(axis=0)).all()
    np.testing.assert_allclose(draws.std(axis=0), X.std(axis=0), rtol=0.25)
    assert skvae.sample(pipe).shape == (1, 5)
    errors = ((skvae.reconstruct(pipe, X) - X) ** 2).mean(axis=0)
    assert (errors < X.var(axis=0)).all()
    far = X[:1] + 10 * X.std(axis=0)
    assert skvae.score_anomaly(pipe, far) > skvae.score_anomaly(pipe, X).max()


def test_noise_and_seed_are_handed_on(X):
    pipe = make_pipeline(StandardScaler(), vae()).fit(X)
    draws, means = (skvae.sample(pipe, 50, mean=mean, random_state=1) for mean in (False, True))
    assert (draws.std(axis=0) > means.std(axis=0)).all()
    np.testing.assert_array_equal(skvae.sample(pipe, 50, random_state=1), draws)
    assert not np.array_equal(skvae.sample(pipe, 50, random_state=2), draws)
    np.testing.assert_array_equal(skvae.sample(pipe, 5), skvae.sample(pipe, 5))  # the estimator's own random_state


def test_bare_estimators_are_pipelines_of_one(X):
    model = vae().fit(X)
    np.testing.assert_array_equal(skvae.sample(model, 4, random_state=1), model.sample(4, random_state=1))
    np.testing.assert_array_equal(skvae.reconstruct(model, X), model.reconstruct(X))
    np.testing.assert_array_equal(skvae.score_anomaly(model, X), model.score_anomaly(X))


def test_every_estimator_can_be_used(quick, X):
    pipe = make_pipeline(StandardScaler(), quick(), kmeans()).fit(X)
    assert skvae.sample(pipe, 3).shape == (3, 5)
    assert skvae.reconstruct(pipe, X).shape == X.shape
    assert skvae.score_anomaly(pipe, X).shape == (60,)
    assert np.isfinite(step_score(pipe.steps[1][0])(pipe, X))


def flat_and_nested():
    return (
        make_pipeline(MaxAbsScaler(), StandardScaler(), vae(), kmeans()),
        [
            make_pipeline(MaxAbsScaler(), make_pipeline(StandardScaler(), vae()), kmeans()),
            make_pipeline(make_pipeline(MaxAbsScaler(), StandardScaler()), vae(), kmeans()),
            make_pipeline(make_pipeline(MaxAbsScaler(), make_pipeline(StandardScaler(), make_pipeline(vae()))), kmeans()),
            make_pipeline(MaxAbsScaler(), StandardScaler(), vae(), make_pipeline("passthrough", kmeans())),
            make_pipeline(make_pipeline(MaxAbsScaler(), "passthrough", StandardScaler(), vae()), make_pipeline(kmeans())),
        ],
    )


@pytest.mark.parametrize("number", range(5))
def test_pipelines_may_be_nested(X, number):
    flat, nested = flat_and_nested()
    pipe = nested[number].fit(X)
    flat.fit(X)
    np.testing.assert_array_equal(skvae.sample(pipe, 4, random_state=1), skvae.sample(flat, 4, random_state=1))
    np.testing.assert_array_equal(skvae.reconstruct(pipe, X), skvae.reconstruct(flat, X))
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, X), skvae.score_anomaly(flat, X))


@pytest.mark.parametrize("nothing", ["passthrough", None])
def test_steps_that_do_nothing_are_passed(X, nothing):
    pipe = Pipeline([("first", nothing), ("scale", StandardScaler()), ("second", nothing), ("vae", vae()), ("last", nothing)])
    plain = make_pipeline(StandardScaler(), vae()).fit(X)
    pipe.fit(X)
    np.testing.assert_array_equal(skvae.sample(pipe, 4, random_state=1), skvae.sample(plain, 4, random_state=1))
    np.testing.assert_array_equal(skvae.reconstruct(pipe, X), skvae.reconstruct(plain, X))
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, X), skvae.score_anomaly(plain, X))
    assert step_score("vae")(pipe, X) == plain.score(X)


def test_the_last_step_that_can_does(X):
    pipe = make_pipeline(AutoEncoder(4, max_epochs=2, random_state=0), vae(), kmeans()).fit(X)
    first, second = pipe[0], pipe[1]
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, X), second.score_anomaly(first.transform(X)))
    np.testing.assert_array_equal(
        skvae.sample(pipe, 3, random_state=1), first.inverse_transform(second.sample(3, random_state=1))
    )


@pytest.mark.parametrize("density", [GaussianMixture(2, random_state=0), KernelDensity(bandwidth=0.1)], ids=["gmm", "kde"])
def test_a_density_of_codes_is_sampled_and_decoded(X, density):
    pipe = make_pipeline(StandardScaler(), vae(max_epochs=30), clone(density)).fit(X)
    scaler, model = steps_of(pipe)
    before = pickle.dumps(pipe[-1])
    draws = skvae.sample(pipe, 3000, random_state=1)
    np.testing.assert_array_equal(skvae.sample(pipe, 3000, random_state=1), draws)
    assert not np.array_equal(skvae.sample(pipe, 3000, random_state=2), draws)
    assert pickle.dumps(pipe[-1]) == before
    codes = model.transform(scaler.transform(draws))
    expected = model.transform(scaler.transform(skvae.reconstruct(pipe, X)))
    np.testing.assert_allclose(codes.mean(axis=0), expected.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(codes.std(axis=0), expected.std(axis=0), rtol=0.3)


def test_sparse_rows_and_frames_pass(X):
    pipe = make_pipeline(MaxAbsScaler(), vae(), kmeans()).fit(sparse.csr_matrix(X))
    np.testing.assert_allclose(skvae.score_anomaly(pipe, sparse.csr_matrix(X)), skvae.score_anomaly(pipe, X))
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcde"))
    pipe = make_pipeline(StandardScaler(), vae(), kmeans()).set_output(transform="pandas").fit(frame)
    plain = make_pipeline(StandardScaler(), vae(), kmeans()).fit(X)
    # Frames lie in memory the other way round, so that the scaler's sums differ in the last bit.
    np.testing.assert_allclose(skvae.reconstruct(pipe, frame), skvae.reconstruct(plain, X), rtol=1e-6)
    np.testing.assert_allclose(skvae.sample(pipe, 3, random_state=1), skvae.sample(plain, 3, random_state=1), rtol=1e-6)
    np.testing.assert_allclose(skvae.score_anomaly(pipe, frame), skvae.score_anomaly(plain, X), rtol=1e-6)


# -- what cannot be done ----------------------------------------------------------------------------------------------

CALLS = {
    "sample": lambda pipe, X: skvae.sample(pipe, 2),
    "reconstruct": skvae.reconstruct,
    "score_anomaly": skvae.score_anomaly,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_pipeline_without_a_step_that_can_is_an_error(X, name):
    pipe = make_pipeline(StandardScaler(), make_pipeline(MaxAbsScaler(), kmeans())).fit(X)
    with pytest.raises(TypeError, match=rf"No step of \['standardscaler', 'maxabsscaler', 'kmeans'\] has the method '{name}'"):
        CALLS[name](pipe, X)
    with pytest.raises(TypeError, match=rf"No step of \['KMeans'\] has the method '{name}'"):
        CALLS[name](kmeans().fit(X), X)


@pytest.mark.parametrize("name", ["sample", "reconstruct"])
@pytest.mark.parametrize(
    "step",
    [Normalizer(), ColumnTransformer([("all", StandardScaler(), slice(0, 5))]), FeatureUnion([("all", StandardScaler())])],
    ids=["normalizer", "columns", "union"],
)
def test_a_step_that_cannot_be_inverted_is_an_error(X, name, step):
    pipe = Pipeline([("before", clone(step)), ("vae", vae()), ("cluster", kmeans())]).fit(X)
    with pytest.raises(TypeError, match=rf"Step 'before' \({type(step).__name__}\) has no inverse_transform"):
        CALLS[name](pipe, X)
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, X), pipe["vae"].score_anomaly(pipe["before"].transform(X)))


def test_a_step_behind_the_one_in_question_need_not_be_inverted(X):
    pipe = make_pipeline(StandardScaler(), vae(), Normalizer(), kmeans()).fit(X)
    assert skvae.sample(pipe, 2).shape == (2, 5)


@pytest.mark.parametrize("name", CALLS)
def test_unfitted_is_an_error(X, name):
    for model in (vae(), make_pipeline(StandardScaler(), vae(), kmeans()), make_pipeline(StandardScaler(), vae())):
        with pytest.raises(NotFittedError):
            CALLS[name](model, X)


def test_bad_arguments_are_refused_by_the_step(X):
    pipe = make_pipeline(StandardScaler(), vae(), kmeans()).fit(X)
    with pytest.raises(ValueError, match="n_samples=0"):
        skvae.sample(pipe, 0)
    with pytest.raises(ValueError, match="features"):
        skvae.reconstruct(pipe, X[:, :3])


# -- steps that want categories or bins -------------------------------------------------------------------------------


@pytest.fixture
def words():
    """Rows of words, each in every column, and three rare ones in the second."""
    rows = np.array(list("abcd"), dtype=object)[np.random.default_rng(0).integers(0, 4, (120, 3))]
    rows[:3, 1], rows[3:5, 1] = "x", "y"
    return rows


def with_gaps(words):
    words = words.copy()
    words[::7, 0] = np.nan
    return words


def off(codes, by=0.3):
    """Codes as a decoder gives them: near what the step gave, below and above."""
    return np.asarray(codes, dtype=np.float64) + np.random.default_rng(1).uniform(-by, by, np.shape(codes))


ENCODERS = {
    "ordinal": OrdinalEncoder(),
    "ordinal-unknown": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    "onehot": OneHotEncoder(sparse_output=False),
    "onehot-unknown": OneHotEncoder(sparse_output=False, handle_unknown="ignore"),
    "onehot-first": OneHotEncoder(sparse_output=False, drop="first"),
    "onehot-first-unknown": OneHotEncoder(sparse_output=False, drop="first", handle_unknown="ignore"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_categories_come_back(words, name):
    encoder = clone(ENCODERS[name]).fit(words)
    codes = encoder.transform(words)
    for near in (codes, off(codes, 1e-6), off(codes, 0.12)):
        np.testing.assert_array_equal(undo("encode", encoder, near), words)
    far = undo("encode", encoder, 100 * np.random.default_rng(0).normal(size=codes.shape))
    for column, categories in zip(far.T, encoder.categories_, strict=True):
        assert set(column) <= set(categories)


@pytest.mark.parametrize("name", ENCODERS)
def test_categories_are_sampled_and_reconstructed(words, name):
    encoder = clone(ENCODERS[name])
    for pipe in (make_pipeline(encoder, vae()), make_pipeline(make_pipeline(encoder, StandardScaler()), vae())):
        pipe.fit(words)
        for rows in (skvae.sample(pipe, 500, random_state=0), skvae.reconstruct(pipe, words)):
            assert rows.shape[1] == 3
            assert all(set(column) <= set(known) for column, known in zip(rows.T, words.T, strict=True))


def test_a_dropped_category_has_what_is_left_to_one():
    words = np.array(list("aabbc"), dtype=object)[:, np.newaxis]
    encoder = OneHotEncoder(drop="first", sparse_output=False).fit(words)
    shares = np.array([[0.2, 0.2], [0.4, 0.1], [0.45, 0.25], [0.1, 0.6], [-0.1, -0.2]])
    np.testing.assert_array_equal(undo("encode", encoder, shares).ravel(), list("aabca"))
    binary = OneHotEncoder(drop="if_binary", sparse_output=False).fit(np.array([["n", "u"], ["y", "v"], ["y", "w"]]))
    shares = np.array([[0.4, 0.1, 0.2, 0.3], [0.6, 0.0, 0.1, -0.2]])
    np.testing.assert_array_equal(undo("encode", binary, shares), [["n", "w"], ["y", "v"]])
    one = OneHotEncoder(drop="first", sparse_output=False).fit(np.array([["n", "u"], ["n", "v"]]))
    np.testing.assert_array_equal(undo("encode", one, np.array([[0.9]])), [["n", "v"]])


def test_missing_and_rare_categories_come_back(words):
    gaps = with_gaps(words)
    missing = gaps != gaps
    encoder = OrdinalEncoder(encoded_missing_value=-1).fit(gaps)
    got = undo("encode", encoder, off(encoder.transform(gaps)))
    np.testing.assert_array_equal(got != got, missing)
    np.testing.assert_array_equal(got[~missing], gaps[~missing])
    # Where a missing entry has no code, none comes back: what is decoded is complete.
    encoder = OrdinalEncoder().fit(gaps)
    got = undo("encode", encoder, np.nan_to_num(encoder.transform(gaps), nan=9.0))
    assert set(got[missing]) == {"d"}
    joined = np.where(np.isin(gaps, ["x", "y"]), "infrequent_sklearn", gaps)
    for encoder in (
        OrdinalEncoder(min_frequency=6, encoded_missing_value=-1),  # which scikit-learn's own inverse confuses
        OneHotEncoder(min_frequency=6, sparse_output=False),
        OneHotEncoder(max_categories=5, sparse_output=False, drop="first"),
    ):
        rows = gaps if isinstance(encoder, OrdinalEncoder) else words
        expected = np.where(rows != rows, rows, joined if rows is gaps else np.where(joined == joined, joined, words))
        got = undo("encode", encoder.fit(rows), off(encoder.transform(rows), 0.1))
        known = rows == rows
        np.testing.assert_array_equal(got[known], expected[known])
        np.testing.assert_array_equal(got == got, known)


def test_numbers_as_categories_keep_their_type():
    rows = np.random.default_rng(0).integers(3, 7, (50, 2))
    encoder = OrdinalEncoder().fit(rows)
    got = undo("encode", encoder, off(encoder.transform(rows)))
    assert got.dtype == rows.dtype
    np.testing.assert_array_equal(got, rows)


@pytest.mark.parametrize("encode", ["ordinal", "onehot", "onehot-dense"])
def test_bins_come_back(X, encode):
    bins = KBinsDiscretizer([3, 4, 5, 2, 6], encode=encode, strategy="uniform")
    pipe = make_pipeline(bins, vae()).fit(X)
    codes = bins.transform(X)
    expected = bins.inverse_transform(codes)
    codes = codes.toarray() if sparse.issparse(codes) else codes
    np.testing.assert_array_equal(undo("bins", bins, off(codes)), expected)
    for rows in (skvae.sample(pipe, 500, random_state=0), skvae.reconstruct(pipe, X)):
        for column, edges in zip(rows.T, bins.bin_edges_, strict=True):
            assert np.isin(column, (edges[1:] + edges[:-1]) * 0.5).all()


# -- imputers in front ------------------------------------------------------------------------------------------------

IMPUTERS = {
    "simple": SimpleImputer,
    "knn": KNNImputer,
    "autoencoder": lambda **params: AutoencoderImputer(vae(), n_draws=10, random_state=0, **params),
}


@pytest.mark.parametrize("indicator", [False, True])
@pytest.mark.parametrize("name", IMPUTERS)
def test_rows_pass_imputers(X, name, indicator):
    gaps = X.copy()
    gaps[::5, 1], gaps[::4, 3] = np.nan, np.nan
    imputer = IMPUTERS[name](add_indicator=indicator)
    pipe = make_pipeline(MaxAbsScaler(), imputer, StandardScaler(), vae()).fit(gaps)
    scale, _, standard, model = (step for _, step in pipe.steps)
    drawn = standard.inverse_transform(model.sample(7, random_state=1))
    assert drawn.shape[1] == 5 + 2 * indicator
    np.testing.assert_array_equal(skvae.sample(pipe, 7, random_state=1), scale.inverse_transform(drawn[:, :5]))
    assert np.isfinite(skvae.reconstruct(pipe, gaps)).all()


@pytest.mark.parametrize("name", IMPUTERS)
def test_columns_without_an_entry_stay_missing(X, name):
    gaps = X.copy()
    gaps[:, 2], gaps[::4, 3] = np.nan, np.nan
    for indicator in (False, True):
        imputer = IMPUTERS[name](add_indicator=indicator, keep_empty_features=True).fit(gaps)
        complete = imputer.transform(gaps)
        np.testing.assert_array_equal(undo("impute", imputer, complete), complete[:, :5])
    imputer = IMPUTERS[name](add_indicator=True)
    if name == "autoencoder":
        with pytest.warns(UserWarning, match="they are dropped"):
            imputer.fit(gaps)
    else:
        imputer.fit(gaps)
    got = undo("impute", imputer, np.hstack([X[:, [0, 1, 3, 4]], np.zeros((60, 2))]))
    assert np.isnan(got[:, 2]).all()
    np.testing.assert_array_equal(got[:, [0, 1, 3, 4]], X[:, [0, 1, 3, 4]])


def test_words_pass_an_imputer(words):
    gaps = with_gaps(words)
    pipe = make_pipeline(SimpleImputer(strategy="most_frequent", add_indicator=True), OrdinalEncoder(), vae()).fit(gaps)
    rows = skvae.sample(pipe, 20, random_state=0)
    assert rows.shape == (20, 3)
    assert set(rows.ravel()) <= set("abcdxy")
    gaps = words.copy()
    gaps[:, 2] = None
    imputer = SimpleImputer(strategy="most_frequent", missing_values=None).fit(gaps)
    assert undo("impute", imputer, words[:, :2])[0].tolist() == [*words[0, :2], None]


# -- steps that are not undone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sample", "reconstruct"])
def test_a_function_without_its_inverse_is_an_error(X, name):
    pipe = Pipeline([("log", FunctionTransformer(np.log)), ("vae", vae())]).fit(np.abs(X))
    with pytest.raises(TypeError, match=r"Step 'log' \(FunctionTransformer\) has a func, but no inverse_func"):
        CALLS[name](pipe, np.abs(X))
    plain = make_pipeline(FunctionTransformer(), vae()).fit(X)
    np.testing.assert_array_equal(CALLS[name](plain, X), CALLS[name](plain[-1], X))


def test_a_wrong_inverse_is_told(X, recwarn):
    wrong = FunctionTransformer(np.log, lambda Z: np.abs(Z) + 1, check_inverse=False)
    pipe = Pipeline([("log", wrong), ("vae", vae())]).fit(np.abs(X))
    quiet = skvae.sample(pipe, 5)
    assert not recwarn
    wrong.check_inverse = True
    with pytest.warns(UserWarning, match=r"Step 'log' .*does not undo its func: 25 of 25 entries") as caught:
        np.testing.assert_array_equal(skvae.sample(pipe, 5), quiet)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="does not undo its func"):
        skvae.reconstruct(pipe, np.abs(X))


@pytest.mark.parametrize(
    ("func", "inverse"),
    [(np.log, np.exp), (np.sqrt, np.square), (np.sqrt, lambda Z: np.square(np.clip(Z, 0, None))), (None, None)],
    ids=["log", "sqrt", "clipped", "none"],
)
def test_a_right_inverse_is_not_told(X, recwarn, func, inverse):
    step = FunctionTransformer(func, inverse)
    Z = np.random.default_rng(0).normal(size=(100, 3))  # half of it where roots do not lead
    np.testing.assert_array_equal(undo("f", step.fit(np.abs(Z)), Z), Z if inverse is None else inverse(Z))
    assert not recwarn


def test_a_function_that_cannot_be_tried_again_is_passed(X, recwarn):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcde"))
    step = FunctionTransformer(lambda F: F[["a", "b"]].to_numpy() / 2, lambda Z: 2 * Z, check_inverse=False)
    pipe = make_pipeline(step, vae()).fit(frame)
    step.check_inverse = True  # which in fit needs as many columns as there were
    assert skvae.sample(pipe, 3).shape == (3, 2)
    assert not [warning for warning in recwarn if "does not undo its func" in str(warning.message)]

    def in_place(Z):
        Z *= 2
        return Z

    step = FunctionTransformer(in_place, lambda Z: Z / 2).fit(X.copy())
    np.testing.assert_array_equal(undo("double", step, X), X / 2)


def test_what_overflows_is_told(X):
    step = FunctionTransformer(np.log, np.exp)
    with np.errstate(over="ignore"), pytest.warns(UserWarning, match=r"Step 'log' .* NaN or infinity for 1 of 2 entries"):
        undo("log", step, np.array([[1.0, 1000.0]]))


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("method", ["box-cox", "yeo-johnson"])
def test_powers_are_finite_beyond_their_range(recwarn, method, standardize, kind):
    rng = np.random.default_rng(0)
    heavy = 1 + rng.pareto(2, 200)
    rows = np.column_stack(
        [heavy, 1 + 5 * rng.beta(5, 1, 200), 5 + rng.normal(size=200), heavy if method == "box-cox" else -heavy]
    )
    step = PowerTransformer(method, standardize=standardize).fit(rows)
    codes = step.transform(rows)
    np.testing.assert_allclose(undo("power", step, codes), rows, rtol=1e-6)
    np.testing.assert_array_equal(undo("power", step, codes[100:]), step.inverse_transform(codes[100:]))
    far = np.linspace(-20, 20, 101)[:, np.newaxis].repeat(4, axis=1).astype(kind)
    got = undo("power", step, far)
    assert np.isfinite(got).all()
    assert (np.diff(got, axis=0) >= 0).all()
    if standardize:
        assert np.abs(got[:, 0]).max() < 1e4 * heavy.max()
    assert not recwarn


def test_scalers_are_as_they_were(X):
    Z = 5 * np.random.default_rng(0).normal(size=(40, 5))
    quantiles = QuantileTransformer(n_quantiles=20, output_distribution="normal")
    for step in (StandardScaler(), MinMaxScaler(), MaxAbsScaler(), quantiles):
        got = undo("scale", step.fit(X), Z)
        np.testing.assert_array_equal(got, step.inverse_transform(Z))
        assert np.isfinite(got).all()
    np.testing.assert_array_equal(back([("none", None), ("pass", "passthrough")], Z), Z)


def test_dropped_columns_are_told(X):
    pipe = Pipeline([("select", SelectKBest(lambda X, y: np.arange(5.0), k=3)), ("vae", vae())]).fit(X, np.zeros(60))
    with pytest.warns(UserWarning, match=r"Step 'select' \(SelectKBest\) drops columns.* 2 column\(s\)"):
        assert (skvae.sample(pipe, 4)[:, :2] == 0).all()
    pipe = make_pipeline(VarianceThreshold(), vae()).fit(X)  # drops nothing
    np.testing.assert_array_equal(skvae.sample(pipe, 3), skvae.sample(pipe[-1], 3))


# -- searches, detectors, frozen models -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_a_search_is_what_it_has_found(X, name):
    pipe = make_pipeline(StandardScaler(), vae(), kmeans())
    grid = {"kmeans__n_clusters": [2]}
    search = GridSearchCV(pipe, grid, cv=2).fit(X)
    np.testing.assert_array_equal(CALLS[name](search, X), CALLS[name](search.best_estimator_, X))
    assert step_score("vaetransformer")(search, X) == step_score("vaetransformer")(search.best_estimator_, X)
    inside = make_pipeline(StandardScaler(), GridSearchCV(vae(), {"n_components": [2]}, cv=2)).fit(X)
    plain = make_pipeline(StandardScaler(), vae()).fit(X)
    np.testing.assert_array_equal(CALLS[name](inside, X), CALLS[name](plain, X))
    with pytest.raises(NotFittedError):
        CALLS[name](clone(search), X)
    search = GridSearchCV(pipe, grid, cv=2, refit=False).fit(X)
    with pytest.raises(TypeError, match="GridSearchCV was fitted with refit=False, so that it has no best_estimator_"):
        CALLS[name](search, X)
    # The codes of the steps before such a search are of use all the same.
    behind = make_pipeline(StandardScaler(), vae(), GridSearchCV(kmeans(), {"n_clusters": [2]}, cv=2, refit=False)).fit(X)
    np.testing.assert_array_equal(CALLS[name](behind, X), CALLS[name](plain, X))


@pytest.mark.parametrize("name", CALLS)
def test_frozen_models_are_what_they_hold(X, name):
    plain = make_pipeline(StandardScaler(), vae()).fit(X)
    for frozen in (
        FrozenEstimator(plain),
        make_pipeline(FrozenEstimator(plain[0]), FrozenEstimator(plain[1]), kmeans()).fit(X),
        make_pipeline(FrozenEstimator(plain), kmeans()).fit(X),
    ):
        np.testing.assert_array_equal(CALLS[name](frozen, X), CALLS[name](plain, X))


def test_detectors_score_and_lead_to_their_estimator(X):
    detector = AnomalyDetector(make_pipeline(StandardScaler(), vae()), alpha=0.2, random_state=0).fit(X)
    np.testing.assert_array_equal(skvae.score_anomaly(detector, X), -detector.score_samples(X))
    inner = detector.estimators_[0]
    np.testing.assert_array_equal(skvae.sample(detector, 3), skvae.sample(inner, 3))
    np.testing.assert_array_equal(skvae.reconstruct(detector, X), skvae.reconstruct(inner, X))
    pipe = make_pipeline(MaxAbsScaler(), clone(detector)).fit(X)
    scaled = pipe[0].transform(X)
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, X), -pipe[1].score_samples(scaled))
    expected = pipe[0].inverse_transform(skvae.reconstruct(pipe[1].estimators_[0], scaled))
    np.testing.assert_array_equal(skvae.reconstruct(pipe, X), expected)
    with pytest.raises(TypeError, match="method='likelihood' was given, but an AnomalyDetector has a parameter method"):
        skvae.score_anomaly(detector, X, method="likelihood")
    with pytest.raises(TypeError, match="y was given"):
        skvae.score_anomaly(detector, X, y=np.zeros(60))


def test_several_estimators_of_a_detector_are_named(X):
    detector = AnomalyDetector(vae(), alpha=0.2, calibration="cross", n_repeats=2, n_folds=2, random_state=0).fit(X)
    np.testing.assert_array_equal(skvae.score_anomaly(detector, X), -detector.score_samples(X))
    for name in ("sample", "reconstruct"):
        with pytest.raises(TypeError, match=r"has 2 estimators_; pass one of them, such as estimators_\[0\]"):
            CALLS[name](detector, X)


# -- step_score -------------------------------------------------------------------------------------------------------


def test_step_score_is_the_steps_own_score(X):
    pipe = make_pipeline(StandardScaler(), vae(), kmeans()).fit(X)
    scaler, model = steps_of(pipe)
    scaled = scaler.transform(X)
    score = step_score("vaetransformer")
    assert score(pipe, X) == model.score(scaled)
    assert score(pipe, X) != pipe.score(X)
    weight = np.linspace(0.1, 1, 60)
    assert score(pipe, X, sample_weight=weight) == model.score(scaled, sample_weight=weight)
    assert step_score("kmeans")(pipe, X) == pipe.score(X)


def test_step_score_hands_over_the_target(X):
    class Target(FunctionTransformer):
        def score(self, X, y=None):
            return float(np.sum(y))

    pipe = Pipeline([("target", Target()), ("vae", vae())]).fit(X)
    assert step_score("target")(pipe, X, np.ones(60)) == 60.0


def manual_scores(pipe, X, cv):
    scores = []
    for train, test in cv.split(X):
        fitted = clone(pipe).fit(X[train])
        rows = X[test]
        for _, step in fitted.steps[:-2]:
            rows = step.transform(rows)
        scores.append(fitted.steps[-2][1].score(rows))
    return np.array(scores)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_step_score_in_cross_validation(X, n_jobs):
    pipe, cv = make_pipeline(StandardScaler(), vae(), kmeans()), KFold(3)
    got = cross_val_score(pipe, X, scoring=step_score("vaetransformer"), cv=cv, n_jobs=n_jobs)
    np.testing.assert_allclose(got, manual_scores(pipe, X, cv), rtol=1e-6)


def test_step_score_in_a_search(X):
    pipe, cv = make_pipeline(StandardScaler(), vae(), kmeans()), KFold(2)
    grid = {"vaetransformer__max_epochs": [1, 30], "vaetransformer__beta": [1.0, 100.0]}
    search = GridSearchCV(pipe, grid, scoring=step_score("vaetransformer"), cv=cv).fit(X)
    for params, got in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        assert got == pytest.approx(manual_scores(clone(pipe).set_params(**params), X, cv).mean(), rel=1e-6)
    assert search.best_params_ == {"vaetransformer__max_epochs": 30, "vaetransformer__beta": 1.0}
    assert search.score(X) == step_score("vaetransformer")(search.best_estimator_, X)


def test_several_step_scores_in_one_search(X):
    pipe = make_pipeline(StandardScaler(), vae(), kmeans())
    scoring = {"likelihood": step_score("vaetransformer"), "inertia": step_score("kmeans")}
    search = GridSearchCV(pipe, {"kmeans__n_clusters": [2, 3]}, scoring=scoring, refit="inertia", cv=2).fit(X)
    likelihood = search.cv_results_["mean_test_likelihood"]
    assert likelihood[0] == likelihood[1]
    assert search.best_params_ == {"kmeans__n_clusters": 3}


def test_step_score_can_be_copied_and_printed(X):
    pipe = make_pipeline(StandardScaler(), vae(), kmeans()).fit(X)
    score = step_score("vaetransformer")
    assert repr(score) == "step_score('vaetransformer')"
    for other in (pickle.loads(pickle.dumps(score)), copy.deepcopy(score)):
        assert repr(other) == repr(score)
        assert other(pipe, X) == score(pipe, X)


def test_step_score_says_what_is_wrong(X):
    pipe = Pipeline([("scale", StandardScaler()), ("none", "passthrough"), ("vae", vae()), ("cluster", kmeans())]).fit(X)
    with pytest.raises(TypeError, match=r"step_score\('vae'\) scores pipelines, not VAETransformer"):
        step_score("vae")(pipe["vae"], X)
    with pytest.raises(ValueError, match=r"has no step 'vea'; its steps are \['scale', 'none', 'vae', 'cluster'\]"):
        step_score("vea")(pipe, X)
    with pytest.raises(TypeError, match=r"Step 'scale' .*StandardScaler\(\), has no method 'score'"):
        step_score("scale")(pipe, X)
    with pytest.raises(TypeError, match=r"Step 'none' .*'passthrough', has no method 'score'"):
        step_score("none")(pipe, X)


def test_fitted_pipelines_can_be_pickled(X):
    pipe = make_pipeline(StandardScaler(), vae(), kmeans()).fit(X)
    other = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_array_equal(skvae.sample(other, 3, random_state=1), skvae.sample(pipe, 3, random_state=1))
    np.testing.assert_array_equal(skvae.reconstruct(other, X), skvae.reconstruct(pipe, X))
    np.testing.assert_array_equal(skvae.score_anomaly(other, X), skvae.score_anomaly(pipe, X))
    assert step_score("vaetransformer")(other, X) == step_score("vaetransformer")(pipe, X)


# -- conditional steps ------------------------------------------------------------------------------------------------


def cvae(**params):
    return CVAE(**{"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 3, "random_state": 0, **params})


def test_functions_pass_labels_on(X):
    y = np.arange(60) % 3
    pipe = make_pipeline(StandardScaler(), cvae()).fit(X, y)
    scaler, model = pipe[0], pipe[1]
    scaled = scaler.transform(X)
    expected = scaler.inverse_transform(model.sample(4, y=2, random_state=1))
    np.testing.assert_array_equal(skvae.sample(pipe, 4, y=2, random_state=1), expected)
    np.testing.assert_array_equal(skvae.reconstruct(pipe, X, y=y), scaler.inverse_transform(model.reconstruct(scaled, y)))
    np.testing.assert_array_equal(skvae.score_anomaly(pipe, X, y=y), model.score_anomaly(scaled, y))
    plain = make_pipeline(StandardScaler(), vae()).fit(X)
    for call in (lambda: skvae.sample(plain, 2, y=1), lambda: skvae.reconstruct(plain, X, y=y)):
        with pytest.raises(TypeError, match=r"y was given, but .* of VAETransformer takes none"):
            call()


def test_a_step_score_keeps_another_steps_labels_away(X):
    y, batch = np.arange(60) % 3, np.arange(60) % 2
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(cvae(), LogisticRegression()).fit(X, y, condition=batch)
    assert step_score("cvae")(pipe, X, y) == pipe[0].score(X)
    pipe = make_pipeline(cvae(), LogisticRegression()).fit(X, y)
    assert step_score("cvae")(pipe, X, y) == pipe[0].score(X, y)
