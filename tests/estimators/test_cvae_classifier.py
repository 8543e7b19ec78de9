import pickle
import re

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, load_wine, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_common import expected_failed_checks
from torch.utils.flop_counter import FlopCounterMode

from skvae import CVAE, AutoEncoder, CVAEClassifier, LinearPath

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.slow
@parametrize_with_checks([CVAEClassifier()], expected_failed_checks=expected_failed_checks)
def test_sklearn_checks_at_the_defaults(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [CVAEClassifier(CVAE(linear_path=LinearPath(1.0), max_epochs=10))], expected_failed_checks=expected_failed_checks
)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [checks.check_dataframe_column_names_consistency, checks.check_param_validation, checks.check_n_features_in],
    ids=lambda check: check.__name__,
)
def test_checks_that_sklearn_keeps_to_itself(check):
    check("CVAEClassifier", CVAEClassifier(CVAE(max_epochs=2)))


def test_documentation_names_every_attribute(quick):
    X, y = blobs()
    fitted = quick().fit(pd.DataFrame(X, columns=["a", "b"]), y)
    attributes = {name for name in dir(fitted) if name.endswith("_") and not name.startswith("_")}
    for name in attributes:
        assert re.search(rf"^    {name} : ", CVAEClassifier.__doc__, re.M), name


@pytest.fixture
def quick():
    """Make a classifier that trains in a fraction of a second."""

    def make(**params):
        return CVAEClassifier(CVAE(n_components=1, hidden_layer_sizes=(16,), max_epochs=20), **{"random_state": 0, **params})

    return make


def blobs(n=200, seed=0):
    """Two Gaussian classes that overlap."""
    return make_blobs(n, centers=[[0.0, 0.0], [2.0, 1.0]], random_state=seed)


# -- what it predicts -------------------------------------------------------------------------------------------------


def test_probabilities_are_near_those_of_bayes():
    X, y = blobs(2000)
    X_new, _ = blobs(1000, seed=1)
    classifier = CVAEClassifier(random_state=0).fit(X, y)
    densities = [stats.multivariate_normal(mean).logpdf(X_new) for mean in ([0.0, 0.0], [2.0, 1.0])]
    bayes = 1.0 / (1.0 + np.exp(densities[0] - densities[1]))
    error = np.abs(classifier.predict_proba(X_new)[:, 1] - bayes)
    assert error.mean() < 0.03
    assert np.quantile(error, 0.99) < 0.15
    joint = np.stack(densities, axis=1) + np.log(0.5)
    assert np.abs(classifier.predict_joint_log_proba(X_new) - joint).mean() < 0.15


def test_probabilities_agree_with_each_other(quick):
    X, y = load_iris(return_X_y=True)
    classifier = quick().fit(X, y)
    joint, log_proba, proba = (getattr(classifier, f"predict_{name}")(X) for name in ("joint_log_proba", "log_proba", "proba"))
    np.testing.assert_allclose(joint, classifier.estimator_.log_likelihoods(X) + classifier.class_log_prior_)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    np.testing.assert_allclose(np.exp(log_proba), proba)
    np.testing.assert_allclose(np.ptp(joint - log_proba, axis=1), 0.0, atol=1e-9)
    np.testing.assert_array_equal(classifier.predict(X), classifier.classes_[joint.argmax(axis=1)])


def test_priors_shift_the_decision_by_their_logarithms(quick):
    X, y = blobs()
    even, skewed = quick(priors=[0.5, 0.5]).fit(X, y), quick(priors=[0.01, 0.99]).fit(X, y)
    odds = [np.diff(classifier.predict_joint_log_proba(X), axis=1) for classifier in (even, skewed)]
    np.testing.assert_allclose(odds[1] - odds[0], np.log(99.0))
    assert skewed.predict(X).sum() > even.predict(X).sum() + 5


def test_a_prior_of_zero_rules_a_label_out(quick):
    X, y = load_iris(return_X_y=True)
    classifier = quick(priors=[0.0, 0.5, 0.5]).fit(X, y)
    assert (classifier.predict_proba(X)[:, 0] == 0.0).all()
    assert set(classifier.predict(X)) == {1, 2}


def test_the_prior_is_the_share_of_the_training_rows(quick):
    X, y = blobs()
    X, y = X[: len(X) - 50], y[: len(X) - 50]
    np.testing.assert_allclose(quick().fit(X, y).class_log_prior_, np.log(np.bincount(y) / len(y)))


def test_rows_beyond_all_reason_get_probabilities(quick):
    X, y = load_iris(return_X_y=True)
    far = np.array([[1e6] * 4, [1e30] * 4, [-1e300] * 4])
    classifier = quick().fit(X, y)
    assert np.isfinite(classifier.predict_joint_log_proba(far)).all()
    np.testing.assert_allclose(classifier.predict_proba(far).sum(axis=1), 1.0)


def test_a_row_that_no_label_explains_gets_the_prior(quick, monkeypatch):
    X, y = load_iris(return_X_y=True)
    classifier = quick(priors=[0.2, 0.5, 0.3]).fit(X, y)
    monkeypatch.setattr(classifier.estimator_, "log_likelihoods", lambda X: np.full((len(X), 3), -np.inf))
    np.testing.assert_allclose(classifier.predict_proba(X[:1]), [[0.2, 0.5, 0.3]])
    assert classifier.predict(X[:1]) == [1]


@pytest.mark.filterwarnings("ignore:The code of CVAE has collapsed")
@pytest.mark.parametrize(
    ("load", "least"), [(load_iris, 0.92), (load_wine, 0.94), pytest.param(load_digits, 0.96, marks=pytest.mark.slow)]
)
def test_it_classifies_well_at_the_defaults(load, least):
    X, X_test, y, y_test = train_test_split(*load(return_X_y=True), random_state=0, stratify=load().target)
    assert CVAEClassifier(random_state=0).fit(X, y).score(X_test, y_test) > least


@pytest.mark.parametrize("encode_condition", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["log_likelihoods", "score_samples", "score_anomaly"])
def test_the_cost_of_a_row_grows_with_the_number_of_labels_and_not_with_its_square(method, encode_condition):
    work = []
    for n_labels in (100, 200):
        y = np.tile(np.arange(n_labels), 3).astype(str)
        X = np.random.default_rng(0).normal(size=(len(y), 2))
        model = CVAE(2, hidden_layer_sizes=(16,), prior="conditional", encode_condition=encode_condition, n_score_draws=4)
        model.set_params(max_epochs=1, linear_path=None, random_state=0).fit(X, y)
        with FlopCounterMode(display=False) as counter:
            getattr(model, method)(X[:32])
        work.append(counter.get_total_flops())
    assert work[1] < 2.2 * work[0]


def test_many_labels_are_compared_as_each_of_them_alone_is():
    y = np.tile(np.arange(60), 3).astype(str)
    X = np.random.default_rng(0).normal(size=(len(y), 3))
    model = CVAE(2, prior="conditional", encode_condition=True, max_epochs=2, random_state=0).fit(X, y)
    found = model.log_likelihoods(X[:5])
    alone = np.stack([model.score_samples(X[:5], label) for label in model.classes_], axis=1)
    mixed = np.stack([model.score_samples(X[:5], np.roll(model.classes_, i)[:5]) for i in range(3)], axis=1)
    np.testing.assert_array_equal(found, alone)
    np.testing.assert_array_equal([[found[j, (j - i) % 60] for i in range(3)] for j in range(5)], mixed)


# -- labels, weights and forms of the data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [np.array(["no", "yes"]), np.array([False, True]), np.array([3, 7]), np.array([1.0, 2.0])],
    ids=lambda v: v.dtype.name,
)
def test_labels_may_be_of_any_type(quick, names):
    X, y = blobs()
    classifier = quick().fit(X, names[y])
    np.testing.assert_array_equal(classifier.classes_, names)
    assert classifier.predict(X).dtype == names.dtype
    np.testing.assert_array_equal(classifier.predict_proba(X), quick().fit(X, y).predict_proba(X))
    assert classifier.estimator_.sample(3, y=names[0]).shape == (3, 2)


def test_forms_of_the_data_agree(quick):
    X, y = blobs()
    expected = quick().fit(X, y).predict_proba(X)
    frame = pd.DataFrame(X, columns=["a", "b"])
    classifier = quick().fit(frame, pd.Series(y, dtype="category"))
    assert list(classifier.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(classifier.predict_proba(frame), expected)
    np.testing.assert_allclose(quick().fit(sparse.csr_matrix(X), y).predict_proba(sparse.csr_matrix(X)), expected, atol=1e-5)
    assert not hasattr(classifier.fit(X, y), "feature_names_in_")


def test_images_are_taken():
    digits = load_digits()
    images, y = digits.images[:100, np.newaxis] / 16.0, digits.target[:100]
    classifier = CVAEClassifier(CVAE(max_epochs=20), random_state=0).fit(images, y)
    assert classifier.score(images, y) > 0.8


def test_weights_count(quick):
    X, y = blobs()
    weight = np.where(y == 1, 3.0, 1.0)
    classifier = quick().fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(np.exp(classifier.class_log_prior_), [0.25, 0.75], atol=0.01)
    np.testing.assert_array_equal(
        quick().fit(X, y, sample_weight=2.0 * np.ones(len(X))).predict_proba(X), quick().fit(X, y).predict_proba(X)
    )


def test_rows_of_weight_zero_are_left_out_and_so_are_their_labels(quick):
    X, y = load_iris(return_X_y=True)
    classifier = quick().fit(X, y, sample_weight=(y > 0).astype(float))
    reference = quick().fit(X[y > 0], y[y > 0])
    np.testing.assert_array_equal(classifier.classes_, [1, 2])
    np.testing.assert_array_equal(classifier.predict_proba(X), reference.predict_proba(X))


def test_one_label_is_predicted_for_all(quick):
    X, _ = blobs()
    classifier = quick().fit(X, np.full(len(X), "only"))
    assert set(classifier.predict(X)) == {"only"}
    np.testing.assert_allclose(classifier.predict_proba(X), 1.0)


# -- as any other estimator -------------------------------------------------------------------------------------------


def test_searches_reach_the_parameters_of_the_model(quick):
    X, y = load_wine(return_X_y=True)
    search = GridSearchCV(quick(), {"estimator__n_components": [1, 2], "priors": [None, [0.3, 0.4, 0.3]]}, cv=2).fit(X, y)
    assert search.best_estimator_.estimator_.n_components_ == search.best_params_["estimator__n_components"]
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_it_ends_pipelines(quick):
    X, y = load_wine(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), CVAEClassifier(CVAE(linear_path=LinearPath(1.0)), random_state=0))
    assert cross_val_score(pipe, X, y, cv=2).mean() > 0.9
    np.testing.assert_array_equal(pipe.fit(X, y)[:-1].transform(X).shape, X.shape)


def test_pickles_and_clones(quick):
    X, y = blobs()
    classifier = quick().fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(X), classifier.predict_proba(X))
    copy = clone(classifier)
    assert not hasattr(copy, "estimator_")
    assert copy.estimator is not classifier.estimator
    np.testing.assert_array_equal(copy.fit(X, y).predict_proba(X), classifier.predict_proba(X))


def test_the_given_model_stays_as_it_is():
    X, y = blobs()
    model = CVAE(n_components=1, max_epochs=2, random_state=5)
    classifier = CVAEClassifier(model, random_state=3).fit(X, y)
    assert not hasattr(model, "module_")
    assert model.random_state == 5
    assert classifier.estimator_.random_state == 3


def test_random_state_decides(quick):
    X, y = blobs()

    def proba(outer, inner):
        model = CVAE(n_components=1, max_epochs=2, random_state=inner)
        return CVAEClassifier(model, random_state=outer).fit(X, y).predict_proba(X)

    np.testing.assert_array_equal(proba(0, None), proba(0, 1))
    np.testing.assert_array_equal(proba(None, 1), proba(1, None))
    assert (proba(0, None) != proba(1, None)).any()


def test_a_fit_that_fails_leaves_the_classifier_as_it_was(quick):
    X, y = blobs()
    classifier = quick().fit(X, y)
    before, proba = dict(vars(classifier)), classifier.predict_proba(X)
    for bad in ((X, X[:, 0]), (np.full_like(X, np.nan), y), (X, y[:-1])):
        with pytest.raises(ValueError, match=r".{20}"):
            classifier.fit(*bad)
    classifier.set_params(priors=[1.0])
    with pytest.raises(ValueError, match="priors"):
        classifier.fit(X, y)
    classifier.set_params(priors=None)
    assert vars(classifier) == before
    np.testing.assert_array_equal(classifier.predict_proba(X), proba)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"priors": [0.5, 0.3, 0.2]}, r"priors has shape \(3,\), .* each of the 2 labels"),
        ({"priors": [0.5, 0.6]}, "must sum to 1, but sum to 1.1"),
        ({"priors": [1.5, -0.5]}, "must not be negative"),
        ({"priors": [np.nan, 1.0]}, "must not be negative or NaN"),
        ({"priors": ["a", "b"]}, "must be numbers"),
        ({"estimator": AutoEncoder()}, "'estimator' parameter of CVAEClassifier must be an instance of .*CVAE"),
        ({"estimator": CVAE(condition_columns=[0])}, r"CVAEClassifier conditions its model on the labels y; leave"),
        ({"estimator": CVAE(n_components=-1)}, "'n_components' parameter of CVAE"),
    ],
)
def test_parameters_that_cannot_be(quick, params, message):
    with pytest.raises(ValueError, match=message):
        quick(**{k: v for k, v in params.items() if k != "estimator"}).set_params(**params).fit(*blobs())


def test_what_is_no_model_is_a_type_error_too():
    with pytest.raises(TypeError, match="CVAE"):
        CVAEClassifier(5).fit(*blobs())


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (np.linspace(0, 1, 200), "Unknown label type: continuous"),
        (np.zeros((200, 2), dtype=int), "y should be a 1d array"),
        (np.zeros(199, dtype=int), "inconsistent numbers of samples"),
        (np.where(np.arange(200) == 7, np.nan, 1.0), "y has 1 missing, NaN or infinite entries, the first at position 7"),
        ([1, "a"] * 100, "y has labels of the types int and str, which cannot be sorted"),
    ],
    ids=["none", "continuous", "matrix", "short", "nan", "mixed"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_labels_that_cannot_be(quick, y, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(blobs()[0], y)


def test_it_must_be_fitted_first():
    with pytest.raises(NotFittedError):
        CVAEClassifier().predict([[0.0, 1.0]])
