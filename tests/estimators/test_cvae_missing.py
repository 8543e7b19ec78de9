"""Rows with missing entries, of models that take conditions."""

import numpy as np
import pandas as pd
import pytest
from conftest import crossed
from scipy import sparse, stats

from skvae import CVAE, AnomalyDetector, AutoencoderImputer, CVAEClassifier, CVAEResampler, LinearPath

pytestmark = pytest.mark.usefixtures("one_core")

PRIORS = ["standard", "conditional", "mixture", "flow"]


def make(**params):
    return CVAE(2, **{"hidden_layer_sizes": (8,), "max_epochs": 3, "missing_values": np.nan, "random_state": 0, **params})


def shifted(n_rows=600, seed=0):
    """Rows of two factors whose means depend on one of three labels, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n_rows)
    means, loadings = 3.0 * rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
    return means[labels] + rng.normal(size=(n_rows, 2)) @ loadings + 0.5 * rng.normal(size=(n_rows, 5)), labels


@pytest.fixture(scope="module")
def y():
    return np.arange(80) % 3


@pytest.fixture
def gaps(X):
    mask = np.random.default_rng(1).random(X.shape) < 0.25
    mask[:, 0] = False
    return np.where(mask, np.nan, X)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    whole = pd.DataFrame(
        {"c": rng.choice(list("uv"), 90), "r": rng.normal(size=90), "i": rng.poisson(3, 90), "s": rng.normal(size=90)}
    )
    return whole.mask(rng.random(whole.shape) < 0.2)


def state(model):
    return [value.numpy() for value in model.module_.state_dict().values() if hasattr(value, "numpy")]


@pytest.mark.parametrize("params", [{}, {"encode_condition": True}, {"linear_path": None, "prior": "conditional"}], ids=str)
def test_nothing_changes_where_nothing_is_missing(X, y, params):
    plain, able = make(missing_values="auto", **params).fit(X, y), make(**params).fit(X, y)
    for one, other in zip(state(plain), state(able), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(plain.score_samples(X, y), able.score_samples(X, y))


@pytest.mark.parametrize(("prior", "encode_condition"), crossed(PRIORS, [False, True]))
def test_everything_works(X, y, gaps, prior, encode_condition):
    gaps[3] = np.nan
    model = make(prior=prior, encode_condition=encode_condition).fit(gaps, y)
    for rows in (X, gaps):
        assert np.isfinite(model.transform(rows, condition=y if encode_condition else None)).all()
        for method in ("reconstruct", "score_samples", "score_anomaly", "explain_anomaly", "effective_sample_size"):
            assert np.isfinite(getattr(model, method)(rows, y)).all(), method
        assert np.isfinite(model.log_likelihoods(rows)).all()
    together = model.score_samples(gaps[:6], y[:6])
    np.testing.assert_array_equal(together, np.concatenate([model.score_samples(gaps[[i]], y[[i]]) for i in range(6)]))
    assert together[3] == pytest.approx(0.0, abs=0.2)  # of nothing there is nothing to explain
    if prior in ("standard", "conditional"):
        drawn = model.sample(given=gaps[:5], y=y[:5])
        np.testing.assert_array_equal(drawn[~np.isnan(gaps[:5])], gaps[:5][~np.isnan(gaps[:5])])
        assert np.isfinite(drawn).all()
    assert np.isfinite(model.partial_fit(gaps, y).set_params(warm_start=True).fit(gaps, y).score(gaps, y))


def test_what_stands_for_missing_entries(gaps, y):
    expected = make().fit(gaps, y).score_samples(gaps, y)
    others = {
        -999: np.where(np.isnan(gaps), -999, gaps),
        "auto": pd.DataFrame(gaps),
        np.nan: sparse.csr_matrix(gaps),
    }
    for value, rows in others.items():
        np.testing.assert_array_equal(make(missing_values=value).fit(rows, y).score_samples(rows, y), expected)
    for value in ("auto", None):
        with pytest.raises(ValueError, match=r"Input X contains NaN.*CVAE\(missing_values=np.nan\)"):
            make(missing_values=value).fit(gaps, y)
    with pytest.raises(ValueError, match="NaN"):
        make(missing_values=None).fit(pd.DataFrame(gaps), y)


def test_rows_without_entries_take_no_part_in_learning(gaps, y):
    gaps[::7] = np.nan
    known = ~np.isnan(gaps).all(axis=1)
    among, alone = make().fit(gaps, y), make().fit(gaps[known], y[known])
    for one, other in zip(state(among), state(alone), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(among.sample(5, 1), alone.sample(5, 1))


@pytest.mark.parametrize("encode_condition", [False, True])
def test_linear_models_are_those_of_what_is_observed(encode_condition):
    """Where entries are missing depends on the label, so that columns' means say nothing of the others."""
    X, y = shifted(2000)
    rate = np.array([[0.1, 0.7, 0.1, 0.7, 0.3], [0.7, 0.1, 0.1, 0.1, 0.3], [0.1, 0.1, 0.7, 0.1, 0.3]])
    gaps = np.where(np.random.default_rng(1).random(X.shape) < rate[y], np.nan, X)
    params = {"linear_path": LinearPath(np.inf), "encode_condition": encode_condition, "learning_rate": 1e-9}
    model, best = make(**params).fit(gaps, y), make(**params).fit(X, y)
    shared = []
    for each, rows in ((model, gaps), (best, X)):
        centers = np.concatenate([each.inverse_transform(np.zeros((1, 2)), label) for label in range(3)])
        np.testing.assert_allclose(centers, [np.nanmean(rows[y == label], axis=0) for label in range(3)], atol=0.1)
        slopes = each.inverse_transform(np.eye(2), 0) - centers[0]
        shared.append(slopes.T @ slopes)
    np.testing.assert_allclose(*shared, atol=0.25)


def test_score_is_the_marginal_of_what_is_observed():
    X, y = shifted()
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    model = make(linear_path=LinearPath(np.inf), n_score_draws=4096).fit(gaps, y)
    scores = model.score_samples(gaps[:20], y[:20])
    for row, label, score in zip(gaps, y, scores, strict=False):
        origin = model.inverse_transform(np.zeros((1, 2)), label)[0]
        slopes, seen = model.inverse_transform(np.eye(2), label) - origin, ~np.isnan(row)
        covariance = slopes.T @ slopes + np.diag(model.noise_scale_**2)
        exact = stats.multivariate_normal(origin[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen]) if seen.any() else 0.0
        assert score == pytest.approx(exact, abs=0.2)


def test_frames_of_columns_of_different_kinds(frame):
    y = np.arange(90) % 2
    for encode_condition in (False, True):
        model = make(missing_values="auto", encode_condition=encode_condition).fit(frame, y)
        assert np.isfinite(model.score_samples(frame, y)).all()
        few = frame.iloc[:8]
        drawn = model.sample(given=few, y=y[:8])
        known = few.notna().reset_index(drop=True)
        assert (drawn.where(known, 0) == few.reset_index(drop=True).where(known, 0)).all(axis=None)
        assert not drawn.isna().any(axis=None)
        assert model.explain_anomaly(frame, y).shape == frame.shape
    labels = model.sample(given=frame.iloc[:5], return_y=True)[1]
    assert set(labels) <= {0, 1}


def test_columns_that_are_conditions_have_no_gaps(frame):
    complete = frame.assign(s=frame.s.fillna(0.0), c=frame.c.fillna("u"))
    model = make(missing_values="auto", condition_columns=["s", "c"]).fit(complete)
    assert np.isfinite(model.score(complete))
    np.testing.assert_array_equal(model.reconstruct(complete)["s"], complete["s"])
    for column in ("s", "c"):
        with pytest.raises(
            ValueError, match=f"Column '{column}' of .* missing.* entries, .* fill them in, or leave out the rows"
        ):
            make(missing_values="auto", condition_columns=[column]).fit(frame)
        with pytest.raises(ValueError, match=f"Column '{column}' of .* missing.* entries"):
            model.score(complete.assign(**{column: frame[column]}))
    with pytest.raises(ValueError, match=r"y has 9 missing.* entries, .* fill them in"):
        make(missing_values="auto").fit(frame, np.where(np.arange(90) % 10 == 0, np.nan, 1.0))


def test_classifiers_read_what_is_there():
    X, y = shifted(300)
    rng = np.random.default_rng(2)
    gaps = np.where(rng.random(X.shape) < 0.3, np.nan, X)
    classifier = CVAEClassifier(make(max_epochs=30, linear_path=None), random_state=0).fit(gaps, y)
    assert classifier.__sklearn_tags__().input_tags.allow_nan
    assert not CVAEClassifier().__sklearn_tags__().input_tags.allow_nan
    assert classifier.score(gaps, y) > 0.7
    blank = np.full((1, 5), np.nan)
    np.testing.assert_allclose(classifier.predict_log_proba(blank)[0], classifier.class_log_prior_, atol=0.3)
    frames = CVAEClassifier(make(max_epochs=30, linear_path=None, missing_values="auto"), random_state=0).fit(
        pd.DataFrame(gaps), y
    )
    np.testing.assert_array_equal(frames.predict(pd.DataFrame(gaps)), classifier.predict(gaps))
    with pytest.raises(ValueError, match="NaN"):
        CVAEClassifier(random_state=0).fit(gaps, y)


@pytest.mark.parametrize("kind", ["array", "sparse", "frame"])
def test_resamplers_keep_gaps_and_add_none(frame, gaps, kind):
    X = {"array": gaps, "sparse": sparse.csr_array(gaps), "frame": frame.iloc[:80]}[kind]
    y = (np.arange(80) < 20).astype(int)
    resampled, labels = CVAEResampler(make(missing_values="auto" if kind == "frame" else np.nan), random_state=0).fit_resample(
        X, y
    )
    assert np.bincount(labels).tolist() == [60, 60]
    if kind == "frame":
        pd.testing.assert_frame_equal(resampled.iloc[:80], X)
        assert not resampled.iloc[80:].isna().any(axis=None)
    else:
        resampled, X = (part.toarray() if kind == "sparse" else part for part in (resampled, X))
        np.testing.assert_array_equal(resampled[:80], X)
        assert np.isfinite(resampled[80:]).all()


def test_imputers_take_no_conditions(gaps):
    for estimator in (CVAE(), CVAE(condition_columns=[0])):
        with pytest.raises(ValueError, match=r"under conditions, which an imputer is not given.*sample\(given=X, y=y\)"):
            AutoencoderImputer(estimator).fit(gaps)


def test_detectors_take_rows_with_gaps(frame):
    complete = frame.assign(s=frame.s.fillna(0.0))
    detector = AnomalyDetector(make(missing_values="auto", condition_columns=["s"]), contamination=0.1).fit(complete)
    assert set(detector.predict(complete)) == {-1, 1}
