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
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, Normalizer, StandardScaler

import skvae
from skvae import CVAE, AutoEncoder, VAETransformer, step_score


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
    [Normalizer(), ColumnTransformer([("all", StandardScaler(), slice(0, 5))])],
    ids=["normalizer", "columns"],
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
