import inspect
import pickle
import re
import threading
import warnings
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import ALL_ESTIMATORS, requires_y, slow
from joblib import parallel_config
from scipy import sparse, stats
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import VarianceThreshold
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    PredefinedSplit,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import skvae
from skvae import CVAE, TDVAE, VQVAE, AnomalyDetector, AutoEncoder, AutoencoderImputer, ContractiveAE, VAETransformer
from skvae._calibration import least_rows, rows_needed, snap, upper_quantile, worth_of_a_row
from skvae.training.code_priors import CodePriors

pytestmark = pytest.mark.usefixtures("one_core")
NOT_EXACT = "weighted and repeated rows are held out and divided differently"


def expected_failed_checks(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": NOT_EXACT,
        "check_sample_weight_equivalence_on_sparse_data": NOT_EXACT,
    }


class Distance(BaseEstimator):
    """Squared distance to the mean over the variance, column by column: fits in no time."""

    def __init__(self, power=2.0, random_state=None):
        self.power, self.random_state = power, random_state

    def fit(self, X, y=None, sample_weight=None):
        X = np.asarray(X, dtype=float)
        self.n_features_in_, self.rows_ = X.shape[1], X
        self.mean_ = np.average(X, axis=0, weights=sample_weight)
        self.scale_ = X.std(axis=0) + 1e-9
        return self

    def explain_anomaly(self, X, method="auto"):
        return np.abs((np.asarray(X, dtype=float) - self.mean_) / self.scale_) ** (1.0 if method == "absolute" else self.power)

    def score_anomaly(self, X, method="auto"):
        return self.explain_anomaly(X, method).sum(axis=1)


class Rounded(Distance):
    """Scores with many ties."""

    def score_anomaly(self, X):
        return np.round(super().score_anomaly(X) / 3.0)


def tiny(**params):
    return AutoEncoder(
        **{"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 5, "random_state": 0, "linear_path": None, **params}
    )


def detector(estimator=None, **params):
    return AnomalyDetector(Distance() if estimator is None else estimator, **{"random_state": 0, **params})


@parametrize_with_checks(
    [AnomalyDetector(AutoEncoder(max_epochs=3, linear_path=None))], expected_failed_checks=expected_failed_checks
)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [AnomalyDetector(AutoEncoder(max_epochs=3, linear_path=None), calibration="cross", n_folds=2, n_repeats=1)],
    expected_failed_checks=expected_failed_checks,
)
def test_sklearn_checks_of_cross_calibration(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [AnomalyDetector(), AnomalyDetector(calibration="cross"), AnomalyDetector(contamination=0.1)],
    expected_failed_checks=expected_failed_checks,
)
def test_sklearn_checks_at_the_defaults(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_dataframe_column_names_consistency,
        checks.check_param_validation,
        checks.check_n_features_in,
        checks.check_outlier_contamination,
        checks.check_outliers_train,
        checks.check_outliers_fit_predict,
    ],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("contamination", [None, 0.1])
def test_checks_of_outlier_detectors(check, contamination):
    check("AnomalyDetector", AnomalyDetector(AutoEncoder(max_epochs=2), contamination=contamination))


def test_documentation_names_every_attribute(X):
    fitted = detector().fit(X)
    attributes = {name for name in dir(fitted) if name.endswith("_") and not name.startswith("_")}
    for name in attributes:
        assert re.search(rf"^    {name} : ", AnomalyDetector.__doc__, re.M), name


def test_html_representation_shows_the_estimator():
    assert "Distance" in detector()._repr_html_()


# -- the false-alarm rate ---------------------------------------------------------------------------------------------

ALPHAS = (0.01, 0.05, 0.1)


def calibration_over_splits(make, n_splits, n_rows, n_new, draw):
    """False-alarm rates over splits, and one p-value each, spread evenly over the step that it stands for."""
    rates, p_values = [], []
    for seed in range(n_splits):
        rng = np.random.default_rng(seed)
        X = draw(rng, n_rows + n_new)
        rates.append([])
        for alpha in ALPHAS:
            model = make(seed, alpha).fit(X[:n_rows])
            rates[-1].append((model.predict(X[n_rows:]) == -1).mean())
        p_values.append(model.p_values(X[n_rows : n_rows + 1])[0] - rng.random() / (len(model.calibration_scores_) + 1))
    return np.array(rates), np.array(p_values)


@pytest.mark.parametrize("calibration", ["split", "cross"])
@pytest.mark.parametrize("draw", [lambda rng, n: rng.normal(size=(n, 4)), lambda rng, n: rng.standard_t(3, size=(n, 2))])
def test_the_false_alarm_rate_is_alpha(calibration, draw):
    n_splits, n_new = (300 if calibration == "split" else 60), 100

    def make(seed, alpha):
        return detector(calibration=calibration, alpha=alpha, random_state=seed)

    rates, p_values = calibration_over_splits(make, n_splits, 250, n_new, draw)
    n_calibration = len(make(0, 0.01).fit(draw(np.random.default_rng(0), 250)).calibration_scores_)
    assert n_calibration >= 99
    for alpha, rate in zip(ALPHAS, rates.T, strict=True):
        n = len(make(0, alpha).fit(draw(np.random.default_rng(0), 250)).calibration_scores_)
        error = np.sqrt(alpha * (1 - alpha) * (1 / n + 1 / n_new) / n_splits)
        assert abs(rate.mean() - alpha) < 3.5 * error, (alpha, rate.mean(), error)
    assert stats.kstest(p_values, "uniform").pvalue > 0.005


def test_thresholds_from_rows_trained_on_are_too_low():
    rates = []
    for seed in range(50):
        X = np.random.default_rng(seed).normal(size=(1040, 20))
        rates.append((detector(contamination=0.05).fit(X[:40]).predict(X[40:]) == -1).mean())
    assert np.mean(rates) > 0.07  # so that the test above is able to fail


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.03, 0.29, 0.07, 1 / 3, 0.5, 0.9])
def test_numbers_of_calibration_rows_hit_alpha(alpha):
    for n in range(1, 400):
        snapped = snap(n, alpha)
        if snapped == n < least_rows(1, alpha):
            continue
        assert n - 1.0 / alpha - 1 <= snapped <= n
        n_flagged = int(alpha * (snapped + 1) + 1e-9)
        assert n_flagged / (snapped + 1) <= alpha < n_flagged / snapped
    assert (least_rows(1, 0.05), least_rows(1, 0.01), least_rows(1, 0.1)) == (19, 99, 9)


@pytest.mark.parametrize("fraction", ["auto", 0.01, 0.3, 1 / 3, 0.5, 0.77, 0.99])
def test_advice_is_the_smallest_number_of_rows_that_is_enough(fraction):
    def n_held_out(n):
        return min(2 * n // 3 if fraction == "auto" else round(fraction * n), n - 2)

    for need in (1, 2, 3, 9, 19, 99):
        enough = rows_needed(need, fraction)
        assert n_held_out(enough) >= need > n_held_out(enough - 1)
    assert rows_needed(10**12, fraction) > 10**12  # at once


def test_weights_of_one_and_repeated_rows_count_alike_with_contamination():
    rng = np.random.default_rng(0)
    scores, weight = rng.normal(size=30), rng.integers(1, 4, size=30)
    weight[4] = 1
    for share in (0.05, 0.1, 0.333, 0.5):
        assert upper_quantile(scores, np.ones(30), share) == pytest.approx(upper_quantile(scores, None, share))
        repeated = upper_quantile(np.repeat(scores, weight), None, share)
        assert upper_quantile(scores, weight, share) == pytest.approx(repeated)
        assert upper_quantile(scores, 0.01 * weight, share) == pytest.approx(repeated)


@pytest.mark.parametrize("estimator", [ContractiveAE, partial(AutoEncoder, decoder="tied")], ids=["contractive", "tied"])
def test_labels_are_those_that_are_predicted(estimator):
    X = np.random.default_rng(0).normal(size=(120, 7)) @ np.random.default_rng(1).normal(size=(7, 7))
    for seed in range(3):
        model = AnomalyDetector(estimator(2, max_epochs=2), contamination=0.2, random_state=seed).fit(X)
        np.testing.assert_array_equal(model.labels_, model.predict(X) == -1)
        np.testing.assert_array_equal(model.decision_scores_, -model.score_samples(X))


@pytest.mark.parametrize("calibration", ["split", "cross"])
@pytest.mark.parametrize("estimator", [Distance(), Rounded()], ids=["continuous", "ties"])
@pytest.mark.parametrize("alpha", [0.02, 0.05, 0.07, 0.1, 0.29, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_predict_decision_and_p_values_agree(calibration, estimator, alpha, weighted):
    rng = np.random.default_rng(0)
    X, X_new = rng.normal(size=(203, 3)), 1.5 * rng.normal(size=(500, 3))
    weight = rng.integers(0, 4, 203) if weighted else None
    model = detector(estimator, calibration=calibration, alpha=alpha).fit(X, sample_weight=weight)
    rows = np.concatenate([X_new, X])
    flagged = model.predict(rows) == -1
    np.testing.assert_array_equal(flagged, model.p_values(rows) <= alpha)
    np.testing.assert_array_equal(flagged, model.decision_function(rows) < 0)
    np.testing.assert_array_equal(flagged, -model.score_samples(rows) > model.threshold_)
    np.testing.assert_allclose(model.decision_function(rows), model.score_samples(rows) - model.offset_)
    assert 0 < flagged.sum() < len(rows)
    assert model.threshold_ == -model.offset_ == model.threshold_at(alpha)


def test_p_values_are_counted():
    X = np.random.default_rng(0).normal(size=(100, 3))
    model = detector(Rounded()).fit(X)
    scores, held_out = -model.score_samples(X), model.calibration_scores_
    expected = [(1 + (held_out >= score).sum()) / (1 + len(held_out)) for score in scores]
    np.testing.assert_array_equal(model.p_values(X), expected)
    np.testing.assert_array_equal(held_out, scores[model.calibration_indices_])
    trained = np.setdiff1d(np.arange(100), model.calibration_indices_)
    np.testing.assert_array_equal(model.estimators_[0].rows_, X[trained])
    assert model.p_values(X + 1e6).tolist() == [1 / (1 + len(held_out))] * 100


def test_ties_make_p_values_larger():
    shares = []
    for seed in range(200):
        X = np.random.default_rng(seed).normal(size=(150, 2))
        shares.append((detector(Rounded(), alpha=0.1, random_state=seed).fit(X[:100]).p_values(X[100:]) <= 0.1).mean())
    assert np.mean(shares) < 0.1 + 0.01


def test_cross_holds_every_row_out_and_scores_new_ones_alike():
    X = np.random.default_rng(0).normal(size=(99, 3))
    model = detector(calibration="cross", n_folds=3, n_repeats=2).fit(X)
    np.testing.assert_array_equal(model.calibration_indices_, np.arange(99))
    assert [len(one.rows_) for one in model.estimators_] == [66, 66]
    expected = np.mean([one.score_anomaly(X) for one in model.estimators_], axis=0)
    np.testing.assert_allclose(-model.score_samples(X), expected)
    in_both = [row for row in range(99) if all((one.rows_ == X[row]).all(axis=1).any() for one in model.estimators_)]
    assert not np.isclose(model.decision_scores_[in_both], expected[in_both]).any()
    np.testing.assert_array_equal(model.decision_scores_, model.calibration_scores_)
    assert len(detector(calibration="cross").fit(X[:90]).calibration_scores_) == 79
    with parallel_config(backend="threading"):
        side_by_side = detector(calibration="cross", n_folds=3, n_repeats=2, n_jobs=2).fit(X)
    np.testing.assert_array_equal(side_by_side.decision_scores_, model.decision_scores_)


def test_weights_count_in_calibration():
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(200, 3)), rng.integers(0, 4, 200).astype(float)
    model = detector().fit(X, sample_weight=weight)
    held_out = model.calibration_indices_
    assert (weight[held_out] > 0).all()
    assert (weight[np.setdiff1d(np.arange(200), held_out)] == 0).any()
    share = weight[held_out] / weight[held_out].mean()
    score = -model.score_samples(X[:1])
    expected = (1 + share[model.calibration_scores_ >= score].sum()) / (1 + len(held_out))
    assert model.p_values(X[:1])[0] == pytest.approx(expected)
    np.testing.assert_array_equal(detector().fit(X, sample_weight=np.full(200, 7.0)).p_values(X), detector().fit(X).p_values(X))
    assert model.estimators_[0].mean_ != pytest.approx(model.estimators_[0].rows_.mean(axis=0))


# -- rows that resemble each other ------------------------------------------------------------------------------------


class Nearest(BaseEstimator):
    """Distance to the nearest row that was trained on: remembers all of them."""

    def fit(self, X, y=None, sample_weight=None):
        self.n_features_in_, self.rows_ = X.shape[1], X
        self.nearest_ = NearestNeighbors(n_neighbors=1).fit(X)
        return self

    def score_anomaly(self, X):
        return self.nearest_.kneighbors(X)[0][:, 0]


def smooth(rng, n, width=10):
    """Noise of which neighbors are alike."""
    return np.convolve(rng.normal(size=n + width - 1), np.full(width, width**-0.5), "valid")


@pytest.mark.parametrize(
    "calibration", ["split", "cross", GroupKFold(4), GroupShuffleSplit(1, test_size=0.4, random_state=0)], ids=str
)
def test_the_false_alarm_rate_is_alpha_where_windows_overlap(calibration):
    rates, without = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        series, new = smooth(rng, 1200), skvae.sliding_windows(smooth(rng, 1200), 16).X
        windows = skvae.sliding_windows(series, 16, n_blocks=40)
        model = detector(Nearest(), calibration=calibration, random_state=seed)
        rates.append((model.fit(windows.X, groups=windows.groups).predict(new) == -1).mean())
        without.append(
            (detector(Nearest(), random_state=seed).fit(skvae.sliding_windows(series, 16).X).predict(new) == -1).mean()
        )
    error = np.std(rates) / np.sqrt(len(rates))
    assert abs(np.mean(rates) - 0.05) < 2.5 * error
    assert error < 0.01
    assert np.mean(without) > 0.075  # neighbors were trained on


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "calibration", ["split", "cross", GroupKFold(3), LeaveOneGroupOut(), GroupShuffleSplit(1, random_state=0)], ids=str
)
def test_groups_are_on_one_side(calibration, weighted):
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.array([f"series {i}" for i in range(12)]), rng.integers(3, 30, 12)))
    X = np.column_stack([rng.normal(size=(len(groups), 2)), np.arange(len(groups))])
    weight = rng.integers(0, 3, len(groups)) if weighted else None
    seen = []

    class Watching(Distance):
        def fit(self, X, y=None, sample_weight=None):
            self.trained_ = groups[X[:, -1].astype(int)]
            assert weight is None or (weight[X[:, -1].astype(int)] > 0).all()
            return super().fit(X, sample_weight=sample_weight)

        def score_anomaly(self, X):
            if len(X) < len(groups):  # held out
                seen.append(not np.intersect1d(self.trained_, groups[np.asarray(X)[:, -1].astype(int)]).size)
            return super().score_anomaly(X)

    model = detector(Watching(), calibration=calibration, alpha=0.2, n_repeats=2).fit(X, sample_weight=weight, groups=groups)
    assert seen
    assert all(seen)
    flagged = model.predict(X) == -1
    np.testing.assert_array_equal(flagged, model.p_values(X) <= 0.2)
    np.testing.assert_array_equal(flagged, model.decision_function(X) < 0)
    assert weight is None or (weight[model.calibration_indices_] > 0).all()
    again = detector(Distance(), calibration=calibration, alpha=0.2, n_repeats=2)
    numbers = np.unique(groups, return_inverse=True)[1]
    for labels in (list(numbers), pd.Series(numbers, index=np.arange(len(X)) + 5)):
        again.fit(X, sample_weight=weight, groups=labels)
        np.testing.assert_array_equal(again.calibration_indices_, model.calibration_indices_)
    assert len(model.estimators_) == (2 if isinstance(calibration, str) and calibration == "cross" else 1)


def test_split_holds_out_as_many_groups_as_alpha_needs_but_no_more_than_half():
    groups = np.repeat(np.arange(100), 10)
    X = np.random.default_rng(0).normal(size=(1000, 2))
    for alpha, n_groups in ((0.05, 24), (0.02, 49), (0.01, 50)):
        model = detector(alpha=alpha).fit(X, groups=groups)
        trained = {tuple(row) for row in model.estimators_[0].rows_}
        held_out = [g for g in range(100) if not any(tuple(row) in trained for row in X[groups == g])]
        assert len(held_out) == n_groups
        assert len(trained) == 10 * (100 - n_groups)
    few = detector(calibration_fraction=0.1).fit(X, groups=groups)
    assert len(np.unique(groups[few.calibration_indices_])) == 10


def test_a_new_row_counts_as_many_rows_as_scores_of_a_group_are_alike():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 8)
    assert worth_of_a_row(rng.normal(size=400), None) == 1.0
    assert worth_of_a_row(rng.normal(size=400), groups) == pytest.approx(1.0, abs=0.2)
    assert worth_of_a_row(np.repeat(rng.normal(size=50), 8), groups) == pytest.approx(0.5 * (1 + 8), rel=0.05)
    assert worth_of_a_row(np.repeat(rng.normal(size=50), 8) + rng.normal(size=400), groups) == pytest.approx(2.75, abs=0.5)
    assert worth_of_a_row(np.ones(400), groups) == worth_of_a_row(rng.normal(size=400), groups * 0) == 1.0
    X = np.repeat(rng.normal(size=(50, 1)), 8, axis=0)
    model = detector(calibration="cross", n_repeats=1, alpha=0.1).fit(X, groups=groups)
    assert model.p_values([[1e6]])[0] == pytest.approx(4.5 / (4.5 + len(model.calibration_scores_)), rel=0.1)
    with pytest.warns(
        UserWarning, match=r"alpha=0\.01 needs at least \d+ calibration rows.*Scores within groups are alike: more groups"
    ):
        detector(calibration="cross", n_repeats=1, alpha=0.01).fit(X, groups=groups)


def test_splitters_say_what_is_held_out(X):
    X = np.tile(X, (3, 1)) + np.random.default_rng(0).normal(size=(240, 5))
    pairs = [(np.arange(150), np.arange(160, 240))]
    mask = np.arange(240) < 150
    for calibration, held_out, trained in (
        (pairs, np.arange(160, 240), 150),
        (tuple(pairs), np.arange(160, 240), 150),
        ([(mask, ~mask)], np.arange(150, 240), 150),
        (PredefinedSplit(np.where(mask, -1, 0)), np.arange(150, 240), 150),
        (TimeSeriesSplit(3, gap=5), np.arange(60, 240), 175),
        (KFold(4), np.arange(240), 180),
        (ShuffleSplit(1, test_size=60, random_state=0), None, 180),
    ):
        model = detector(calibration=calibration, alpha=0.1).fit(X)
        assert len(model.estimators_) == 1
        assert len(model.estimators_[0].rows_) == trained
        if held_out is not None:
            assert set(model.calibration_indices_) <= set(held_out)
            assert len(model.calibration_indices_) > len(held_out) - 11
    repeated = detector(calibration=RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)).fit(X)
    assert [len(one.rows_) for one in repeated.estimators_] == [160, 160]
    weight = (np.arange(240) % 3 > 0).astype(float)
    weighted, alone = (
        detector(calibration=KFold(4)).fit(X, sample_weight=weight),
        detector(calibration=KFold(4)).fit(X[weight > 0]),
    )
    np.testing.assert_array_equal(weighted.p_values(X), alone.p_values(X))
    by_hand = detector(calibration=pairs, alpha=0.1).fit(X, sample_weight=weight)
    assert set(by_hand.calibration_indices_) <= set(np.flatnonzero(weight)) & set(range(160, 240))
    with config_context(enable_metadata_routing=True):
        detector().set_fit_request(groups=True)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize(
    ("params", "groups", "message"),
    [
        ({}, [1, 2], r"groups has shape \(2,\), but X has 80 rows"),
        ({}, [1] * 80, r"groups has one label for all rows.*skvae\.sliding_windows\(\.\.\., n_blocks=20\)"),
        ({}, [1.0] * 79 + [np.nan], "groups has missing labels"),
        ({}, [1] * 79 + [None], "groups has (missing labels|labels that cannot be compared)"),
        ({"contamination": 0.1}, [1, 2] * 40, "groups was given, but with contamination all rows train"),
        ({"calibration": "cross"}, [1, 2] * 40, "n_folds=3 divides groups, but 2 of them have rows"),
        ({"calibration": KFold(4)}, [1, 2] * 40, "divides the rows of a group; groups are kept together by GroupKFold"),
        ({"calibration": GroupKFold(2)}, None, "groups"),
        ({"calibration": ShuffleSplit(3, random_state=0)}, None, "holds some rows out more often than others.*n_splits=1"),
        ({"calibration": []}, None, "has no split"),
        ({"calibration": [(np.arange(50), np.arange(40, 80))]}, None, "split, number 0, that holds out rows which it trains on"),
        ({"calibration": [(np.arange(1), np.arange(40, 80))]}, None, r"number 0, with 1 row\(s\) to train on and 40 to hold out"),
        ({"calibration": [(np.arange(50), np.arange(60, 81))]}, None, "not made of positions from 0 to 79"),
        ({"calibration": [(np.arange(50), np.ones(3))]}, None, "not made of positions from 0 to 79"),
        ({"calibration": "groups"}, None, "calibration"),
        ({"calibration": 5}, None, "calibration"),
    ],
)
def test_groups_and_splitters_that_do_not_fit(X, params, groups, message):
    with pytest.raises(ValueError, match=message):
        detector(**params).fit(X, groups=groups)


# -- alpha and contamination ------------------------------------------------------------------------------------------


def test_alpha_may_change_after_fit(X):
    model = detector(alpha=0.05).fit(X)
    for alpha in (0.1, 0.3, 0.05):
        model.set_params(alpha=alpha)
        np.testing.assert_array_equal(model.predict(X) == -1, model.p_values(X) <= alpha)
        assert model.threshold_ == model.threshold_at(alpha)
        np.testing.assert_array_equal(model.labels_, model.decision_scores_ > model.threshold_)
    for alpha in (0, 1, -0.1, 2.0, np.nan, "a", None):
        with pytest.raises(ValueError, match=r"alpha=.* must be a number in \(0, 1\)"):
            model.threshold_at(alpha)
        with pytest.raises(ValueError, match="alpha"):
            model.set_params(alpha=alpha).predict(X)


def test_an_alpha_that_is_out_of_reach_after_fit_is_reported(X):
    model = detector(alpha=0.1).fit(X)
    with pytest.warns(UserWarning, match=r"alpha=0\.01 needs at least 99 calibration rows, but 19 of 80"):
        assert (model.set_params(alpha=0.01).predict(X + 1e6) == 1).all()


@pytest.mark.parametrize("splitter", [StratifiedKFold(3), StratifiedShuffleSplit(1), RepeatedStratifiedKFold(n_splits=3)])
def test_splitters_by_labels_are_refused(X, splitter):
    with pytest.raises(ValueError, match=r"(?s)calibration=.*Stratified.* divides rows by their labels, but y is not used"):
        detector(calibration=splitter).fit(X, np.arange(80) % 2)


@pytest.mark.parametrize(
    ("name", "value"), [("method", "absolute"), ("calibration", "cross"), ("calibration_fraction", 0.6), ("contamination", 0.1)]
)
def test_what_the_threshold_goes_by_is_not_changed_after_fit(X, name, value):
    model = detector().fit(X)
    before = model.predict(X)
    model.set_params(**{name: value})
    calls = [model.predict, model.decision_function, model.p_values, lambda X: model.threshold_at(0.1), lambda X: model.labels_]
    for call in calls:
        with pytest.raises(ValueError, match=rf"{name} is {value!r}, but was .* when the detector was fitted; fit again"):
            call(X)
    assert np.isfinite(model.score_samples(X)).all()  # which needs no threshold
    model.set_params(**{name: inspect.signature(AnomalyDetector).parameters[name].default})
    np.testing.assert_array_equal(model.predict(X), before)


def test_contamination_is_a_share_of_the_training_rows():
    X = np.random.default_rng(0).normal(size=(200, 3))
    for share in (0.01, 0.1, 0.25, 0.5):
        model = detector(contamination=share).fit(X)
        assert (model.predict(X) == -1).sum() == model.labels_.sum() == 200 * share
        assert len(model.estimators_[0].rows_) == 200
        np.testing.assert_array_equal(model.decision_scores_, -model.score_samples(X))
        assert len(model.calibration_scores_) == 0
    for call in (lambda: model.p_values(X), lambda: model.threshold_at(0.1)):
        with pytest.raises(ValueError, match=r"contamination=0\.5"):
            call()
    with pytest.raises(ValueError, match=r"contamination is None, but was 0\.5 when the detector was fitted; fit again"):
        model.set_params(contamination=None).predict(X)
    weight = np.repeat([1.0, 3.0], 100)
    model = detector(contamination=0.1).fit(X, sample_weight=weight)
    assert weight[model.predict(X) == -1].sum() == pytest.approx(40, abs=3)


def test_attributes_that_pyod_users_know(X):
    model = detector().fit(X)
    assert set(model.labels_) <= {0, 1}
    np.testing.assert_array_equal(model.labels_, model.decision_scores_ > model.threshold_)
    assert model.decision_scores_.shape == (80,)
    np.testing.assert_array_equal(model.fit_predict(X), model.predict(X))


# -- estimators, pipelines, forms of the data -------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [cls for cls in ALL_ESTIMATORS if not requires_y(cls)], ids=lambda cls: cls.__name__)
def test_every_estimator_is_taken(cls, X):
    rows = np.round(X, 2)
    model = AnomalyDetector(cls(max_epochs=2), alpha=0.1, random_state=0).fit(rows)
    np.testing.assert_array_equal(-model.score_samples(rows), model.estimators_[0].score_anomaly(rows))
    np.testing.assert_allclose(model.explain(rows).sum(axis=1), -model.score_samples(rows))
    assert ((0 < model.p_values(rows)) & (model.p_values(rows) <= 1)).all()


def test_the_default_finds_anomalies(X):
    model = AnomalyDetector(random_state=0).fit(X)
    assert isinstance(model.estimators_[0], AutoEncoder)
    assert (model.predict(X + np.array([0, 200, 0, 0, 0])) == -1).all()


def test_sequences_and_images_are_taken(X):
    sequences = np.random.default_rng(0).normal(size=(60, 6, 2))
    for rows in (sequences, list(sequences)):
        model = AnomalyDetector(TDVAE(max_epochs=1), alpha=0.1, random_state=0).fit(rows)
        assert model.predict(rows).shape == (60,)
        np.testing.assert_allclose(np.sum(model.explain(sequences), axis=(1, 2)), -model.score_samples(rows), rtol=1e-5)
    images = X[:, :4].reshape(-1, 1, 2, 2)
    model = AnomalyDetector(tiny(), random_state=0).fit(images)
    assert model.explain(images).shape == images.shape


@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_pipelines_are_scored_and_explained_through_their_steps(X, calibration):
    frame = pd.DataFrame(X, columns=list("abcde"), index=np.arange(80) + 7)
    frame.insert(2, "constant", 1.0)
    pipe = make_pipeline(VarianceThreshold(), make_pipeline(StandardScaler(), "passthrough", tiny()))
    model = AnomalyDetector(pipe, calibration=calibration, random_state=0).fit(frame)
    expected = np.mean([skvae.score_anomaly(one, frame) for one in model.estimators_], axis=0)
    np.testing.assert_array_equal(-model.score_samples(frame), expected)
    shares = model.explain(frame)
    pd.testing.assert_index_equal(shares.index, frame.index)
    pd.testing.assert_index_equal(shares.columns, frame.columns)
    np.testing.assert_allclose(shares.sum(axis=1), expected)
    assert (shares["constant"] == 0.0).all()
    odd = frame[:20].assign(d=frame["d"][:20] + 100.0)
    assert (model.explain(odd)["d"] > model.explain(frame[:20])["d"]).all()
    assert list(model.feature_names_in_) == list(frame.columns)
    plain = AnomalyDetector(clone(pipe), calibration=calibration, random_state=0).fit(frame.to_numpy())
    np.testing.assert_allclose(plain.explain(frame.to_numpy()), shares, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [PCA(), Normalizer(), PCA(2)], ids=str)
def test_columns_that_are_mixed_cannot_be_explained(X, step):
    model = AnomalyDetector(make_pipeline(step, tiny()), random_state=0).fit(X)
    assert model.predict(X).shape == (80,)
    if isinstance(step, PCA):
        with pytest.raises(TypeError, match=r"Step 'pca' \(PCA\) mixes or renames columns"):
            model.explain(X)
    else:
        assert model.explain(X).shape == X.shape


def test_forms_of_the_data_agree(X):
    model = AnomalyDetector(tiny(), random_state=0).fit(X)
    expected = model.p_values(X)
    frame = pl.DataFrame(X, schema=list("abcde"))
    polars = AnomalyDetector(tiny(), random_state=0).fit(frame)
    np.testing.assert_array_equal(polars.p_values(frame), expected)
    assert isinstance(polars.explain(frame), pl.DataFrame)
    assert polars.explain(frame).columns == frame.columns
    np.testing.assert_array_equal(AnomalyDetector(tiny(), random_state=0).fit(X.tolist()).p_values(X), expected)
    compressed = AnomalyDetector(tiny(), random_state=0).fit(sparse.coo_matrix(X))
    np.testing.assert_allclose(compressed.score_samples(sparse.csc_array(X)), model.score_samples(X), rtol=1e-4)
    assert not hasattr(polars.fit(X), "feature_names_in_")


def test_method_is_handed_on_to_estimators_that_take_it(X):
    model = detector(method="absolute").fit(X)
    np.testing.assert_array_equal(-model.score_samples(X), model.estimators_[0].score_anomaly(X, "absolute"))
    np.testing.assert_array_equal(model.explain(X), model.estimators_[0].explain_anomaly(X, "absolute"))
    with pytest.raises(ValueError, match="method='absolute' has no effect: score_anomaly of Rounded takes none"):
        detector(Rounded(), method="absolute").fit(X)


# -- missing values ---------------------------------------------------------------------------------------------------


def with_gaps(rng, n_rows, rate=0.25):
    """Rows of rank two with some noise, far from zero, of which entries are missing at random."""
    loadings = np.random.default_rng(0).normal(size=(2, 6))
    X = 5.0 + rng.normal(size=(n_rows, 2)) @ loadings + 0.3 * rng.normal(size=(n_rows, 6))
    return np.where(rng.random(X.shape) < rate, np.nan, X)


def able(**params):
    return tiny(missing_values=np.nan, **params)


def imputer(**params):
    model = VAETransformer(2, hidden_layer_sizes=(8,), max_epochs=3)
    return AutoencoderImputer(model, **{"n_draws": 20, "random_state": 0, **params})


TAKES_MISSING = {
    "alone": able(),
    "scaled": make_pipeline(StandardScaler(), able()),
    "imputed": make_pipeline(StandardScaler(), imputer(), tiny()),
}
takes_missing = pytest.mark.parametrize("estimator", TAKES_MISSING.values(), ids=TAKES_MISSING)


@takes_missing
@pytest.mark.parametrize(
    "params",
    [{}, {"calibration": "cross", "n_folds": 2, "n_repeats": 2}, {"contamination": 0.1}],
    ids=["split", "cross", "contamination"],
)
def test_rows_with_missing_values_are_judged(estimator, params):
    rng = np.random.default_rng(1)
    X, X_new = with_gaps(rng, 150), with_gaps(rng, 40)
    X[5] = X_new[5] = np.nan  # of which nothing is known
    model = AnomalyDetector(estimator, alpha=0.1, random_state=0, **params).fit(X)
    assert np.isfinite(model.decision_scores_).all()
    expected = np.mean([skvae.score_anomaly(one, X_new) for one in model.estimators_], axis=0)
    np.testing.assert_array_equal(-model.score_samples(X_new), expected)
    shares = model.explain(X_new)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=1), expected)
    flagged = model.predict(X_new) == -1
    assert not flagged[5]
    np.testing.assert_array_equal(flagged, model.decision_function(X_new) < 0)
    odd = np.where(np.arange(6) == 2, X_new + 100.0, X_new)
    seen = ~np.isnan(odd[:, 2])
    assert (model.predict(odd)[seen] == -1).all()
    np.testing.assert_array_equal(model.predict(odd)[~seen], model.predict(X_new)[~seen])
    assert (model.explain(odd)[seen, 2] > shares[seen, 2]).all()
    if not params.get("contamination"):
        np.testing.assert_array_equal(flagged, model.p_values(X_new) <= 0.1)


@takes_missing
def test_forms_of_rows_with_missing_values_agree(estimator):
    X = with_gaps(np.random.default_rng(1), 60)
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(60) + 7)
    expected = AnomalyDetector(estimator, alpha=0.1, random_state=0).fit(X)
    for rows in (frame, frame.astype("Float64"), X.tolist()):
        model = AnomalyDetector(estimator, alpha=0.1, random_state=0).fit(rows)
        np.testing.assert_array_equal(model.calibration_indices_, expected.calibration_indices_)
        np.testing.assert_allclose(model.calibration_scores_, expected.calibration_scores_, rtol=1e-6)
        np.testing.assert_allclose(model.explain(rows), expected.explain(X), rtol=1e-6, atol=1e-9)
    shares = model.fit(frame).explain(frame)
    assert list(shares.columns) == list("abcdef")
    pd.testing.assert_index_equal(shares.index, frame.index)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).p_values(frame), model.p_values(frame))


def test_a_number_that_stands_for_missing_ones():
    X = with_gaps(np.random.default_rng(1), 60)
    expected = AnomalyDetector(able(), alpha=0.1, random_state=0).fit(X)
    marked = np.where(np.isnan(X), -99.0, X)
    model = AnomalyDetector(tiny(missing_values=-99.0), alpha=0.1, random_state=0).fit(marked)
    np.testing.assert_array_equal(model.p_values(marked), expected.p_values(X))
    with pytest.raises(ValueError, match="NaN"):
        model.predict(X)


def test_missing_values_are_refused_where_the_estimator_takes_none(X):
    gaps = with_gaps(np.random.default_rng(1), 60)
    for estimator in (tiny(), make_pipeline(StandardScaler(), tiny())):
        with pytest.raises(ValueError, match=r"contains NaN\..*AutoEncoder\(missing_values=np\.nan\)"):
            AnomalyDetector(estimator, alpha=0.1).fit(gaps)
        model = AnomalyDetector(estimator, alpha=0.1, random_state=0).fit(X)
        for call in (model.predict, model.p_values, model.explain):
            with pytest.raises(ValueError, match="contains NaN"):
                call(np.where(X == X.max(), np.nan, X))
    with pytest.raises(ValueError, match="infinity"):
        AnomalyDetector(able(), alpha=0.1).fit(np.where(np.isnan(gaps), np.inf, gaps))


def test_the_tag_for_missing_values_follows():
    model = AnomalyDetector(able())
    assert model.__sklearn_tags__().input_tags.allow_nan
    assert not model.set_params(estimator__missing_values=-1.0).__sklearn_tags__().input_tags.allow_nan
    assert not model.set_params(estimator__missing_values=None).__sklearn_tags__().input_tags.allow_nan
    assert not AnomalyDetector().__sklearn_tags__().input_tags.allow_nan


def test_columns_that_an_imputer_drops_or_adds():
    X = with_gaps(np.random.default_rng(1), 60)
    X[:, 3] = np.nan
    model = AnomalyDetector(make_pipeline(imputer(), tiny()), alpha=0.1, random_state=0)
    with pytest.warns(UserWarning, match="x3"):
        model.fit(X)
    shares = model.explain(X)
    assert (shares[:, 3] == 0.0).all()
    np.testing.assert_allclose(shares.sum(axis=1), -model.score_samples(X))
    X[:, 3] = 1.0
    model.set_params(estimator__autoencoderimputer__add_indicator=True).fit(X)
    assert model.predict(X).shape == (60,)
    with pytest.raises(TypeError, match=r"Step 'autoencoderimputer' \(AutoencoderImputer\) mixes or renames columns"):
        model.explain(X)


@pytest.mark.parametrize(
    "estimator",
    [*[*TAKES_MISSING.values()][:2], *slow(TAKES_MISSING["imputed"])],
    ids=TAKES_MISSING,
)
def test_the_false_alarm_rate_is_alpha_where_values_are_missing(estimator):
    alpha, n_splits, n_new, rates, elsewhere = 0.1, 10, 1000, [], []
    for seed in range(n_splits):
        rng = np.random.default_rng(seed)
        model = AnomalyDetector(estimator, alpha=alpha, calibration_fraction=0.5, random_state=seed).fit(with_gaps(rng, 600))
        rates.append((model.predict(with_gaps(rng, n_new)) == -1).mean())
        elsewhere.append((model.predict(with_gaps(rng, n_new) + 2.0 * np.eye(6)[2]) == -1).mean())
    error = np.sqrt(alpha * (1 - alpha) * (1 / len(model.calibration_scores_) + 1 / n_new) / n_splits)
    assert abs(np.mean(rates) - alpha) < 4 * error
    assert np.mean(elsewhere) > 2 * alpha  # so that the check above is able to fail


# -- parameters that must be obeyed -----------------------------------------------------------------------------------


class Threaded(Distance):
    """Knows which thread it was fitted in."""

    def fit(self, X, y=None, sample_weight=None):
        self.is_elsewhere_ = threading.get_ident() != threading.main_thread().ident
        return super().fit(X, y, sample_weight)


CROSS = {"calibration": "cross"}
# A parameter, settings that it is added to, another value than the default, and what must differ.
OBEYED = [
    ("estimator", {}, Distance(power=1.0), lambda model, X: model.score_samples(X)),
    ("alpha", {}, 0.2, lambda model, X: model.predict(X)),
    ("alpha", {}, 0.02, lambda model, X: model.calibration_indices_),
    ("contamination", {}, 0.2, lambda model, X: model.calibration_indices_),
    ("contamination", {"contamination": 0.1}, 0.2, lambda model, X: model.predict(X)),
    ("calibration", {}, "cross", lambda model, X: model.calibration_indices_),
    ("calibration_fraction", {}, 0.6, lambda model, X: model.calibration_indices_),
    ("n_folds", CROSS, 5, lambda model, X: [len(one.rows_) for one in model.estimators_]),
    ("n_repeats", CROSS, 2, lambda model, X: len(model.estimators_)),
    ("method", {}, "absolute", lambda model, X: model.score_samples(X)),
    ("method", {}, "absolute", lambda model, X: model.explain(X)),
    ("random_state", {}, 1, lambda model, X: model.calibration_indices_),
    ("random_state", CROSS, 1, lambda model, X: model.decision_scores_),
    ("random_state", {"contamination": 0.1}, 1, lambda model, X: model.estimators_[0].random_state),
    ("n_jobs", {**CROSS, "estimator": Threaded()}, 2, lambda model, X: [one.is_elsewhere_ for one in model.estimators_]),
]


@pytest.mark.parametrize(("name", "base", "value", "observe"), OBEYED, ids=[name for name, *_ in OBEYED])
def test_every_parameter_changes_the_result(X, name, base, value, observe):
    with parallel_config(backend="threading"):
        before, again, after = (observe(detector(**params).fit(X), X) for params in (base, base, {**base, name: value}))
    np.testing.assert_array_equal(before, again)
    assert not np.array_equal(before, after)


def test_every_parameter_is_tried():
    tried = {name for name, *_ in OBEYED}
    assert tried == set(AnomalyDetector._parameter_constraints) == set(inspect.signature(AnomalyDetector).parameters)


# -- as any other estimator -------------------------------------------------------------------------------------------


def test_searches_reach_the_parameters_of_the_estimator(X):
    y = np.where(np.arange(80) % 8, 1, -1)
    rows = X + np.where(y == -1, 40.0, 0.0)[:, np.newaxis]
    search = GridSearchCV(detector(), {"estimator__power": [1.0, 2.0], "alpha": [0.1]}, scoring="roc_auc", cv=2).fit(rows, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.estimators_[0].power == search.best_params_["estimator__power"]


def test_pickles_and_clones(X):
    model = AnomalyDetector(tiny(), random_state=0).fit(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).p_values(X), model.p_values(X))
    other = clone(model)
    assert not hasattr(other, "estimators_")
    np.testing.assert_array_equal(other.fit(X).decision_function(X), model.decision_function(X))


def test_random_state_decides(X):
    given = VAETransformer(2, max_epochs=1, random_state=5)
    first, again, other = (AnomalyDetector(given, random_state=seed).fit(X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.decision_scores_, again.decision_scores_)
    assert (first.calibration_indices_ != other.calibration_indices_).any()
    assert first.estimators_[0].random_state != 5
    assert AnomalyDetector(given).fit(X).estimators_[0].random_state == 5
    assert not hasattr(given, "module_")
    pipe = make_pipeline(StandardScaler(), given)
    np.testing.assert_array_equal(*(AnomalyDetector(pipe, random_state=3).fit(X).decision_scores_ for _ in range(2)))


def test_weights_reach_the_step_that_scores(X):
    weight = np.linspace(0.1, 1.0, 80)
    pipe = make_pipeline(StandardScaler(), make_pipeline(MinMaxScaler(), Distance()))
    plain = detector(pipe).fit(X)
    weighted = detector(pipe).fit(X, sample_weight=weight)
    assert weighted.estimators_[0][-1][-1].mean_ != pytest.approx(plain.estimators_[0][-1][-1].mean_)
    with config_context(enable_metadata_routing=True):
        asks = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False), Distance().set_fit_request(sample_weight=True)
        )
        routed = detector(asks).fit(X, sample_weight=weight)
        outer = make_pipeline(MinMaxScaler(), detector().set_fit_request(sample_weight=True)).fit(X, sample_weight=weight)
    flat = detector(make_pipeline(StandardScaler(), Distance())).fit(X, sample_weight=weight)
    np.testing.assert_allclose(routed.decision_scores_, flat.decision_scores_)
    assert outer[-1]._calibration_weight.std() > 0


def test_tags_are_those_of_the_estimator():
    assert AnomalyDetector().__sklearn_tags__().input_tags.sparse
    assert not detector().__sklearn_tags__().input_tags.sparse
    assert AnomalyDetector(TDVAE()).__sklearn_tags__().input_tags.three_d_array


@pytest.mark.filterwarnings("ignore:alpha=.*needs at least")
@pytest.mark.parametrize("calibration", ["split", "cross"])
@pytest.mark.parametrize("n_rows", [3, 10, 40])
def test_rows_are_ranked_however_few_calibration_rows_there_are(calibration, n_rows):
    rng = np.random.default_rng(0)
    X, odd = rng.normal(size=(n_rows, 3)), 1e3 * rng.normal(size=(10, 3))
    model = detector(calibration=calibration).fit(X)
    rows, is_normal = np.concatenate([X, odd]), np.repeat([1, 0], [n_rows, 10])
    ranked = get_scorer("roc_auc")(model, rows, is_normal)
    assert ranked == roc_auc_score(is_normal, model.score_samples(rows))
    assert ranked > 0.9
    mixed, labels = np.concatenate([X, X + 0.1, X - 0.1, odd]), np.repeat([1, 0], [3 * n_rows, 10])
    found = cross_val_score(detector(calibration=calibration), mixed, labels, scoring="roc_auc", cv=StratifiedKFold(2))
    assert np.isfinite(found).all()


# -- a prior of codes -------------------------------------------------------------------------------------------------


def priors_fitted(monkeypatch):
    """Count the priors of codes that are fitted."""
    fitted, fit = [], CodePriors.fitted
    monkeypatch.setattr(CodePriors, "fitted", lambda self, *args, **params: fitted.append(self) or fit(self, *args, **params))
    return fitted


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_no_prior_of_codes_is_fitted_for_scores_that_need_none(X, monkeypatch, in_pipeline, calibration):
    fitted = priors_fitted(monkeypatch)
    vqvae = VQVAE(n_embeddings=4, n_codes=2, max_epochs=2, random_state=0, code_prior="histogram")
    estimator = make_pipeline(StandardScaler(), vqvae) if in_pipeline else vqvae
    params = {"alpha": 0.2, "calibration": calibration, "n_repeats": 1, "random_state": 0}
    model = AnomalyDetector(estimator, **params).fit(X)
    assert fitted == []
    assert vqvae.code_prior == "histogram"
    assert model.explain(X).shape == X.shape
    monkeypatch.setattr("skvae.anomaly._leave_out_priors", lambda model: None)
    np.testing.assert_array_equal(AnomalyDetector(estimator, **params).fit(X).score_samples(X), model.score_samples(X))
    assert fitted


def test_a_prior_of_codes_is_fitted_where_scores_are_likelihoods(X, monkeypatch):
    fitted = priors_fitted(monkeypatch)
    vqvae = VQVAE(n_embeddings=4, n_codes=2, max_epochs=2, code_prior="histogram")
    model = AnomalyDetector(vqvae, alpha=0.2, method="likelihood", random_state=0).fit(X)
    assert len(fitted) == 1
    np.testing.assert_allclose(model.score_samples(X), model.estimators_[0].score_samples(X))


@pytest.mark.parametrize(
    ("params", "message"), [({"code_prior": "normal"}, "'code_prior' parameter"), ({"class_conditional": True}, "pass them as y")]
)
def test_parameters_of_a_prior_that_is_left_out_are_checked(X, params, message):
    with pytest.raises(ValueError, match=message):
        AnomalyDetector(VQVAE(max_epochs=1, **params), alpha=0.2).fit(X)


# -- what cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "n_rows", "message"),
    [
        ({}, 20, r"at least 19 calibration rows, but 5 of 20 rows are held out: predict will flag no row.* needs 29 rows in all"),
        ({"alpha": 0.01}, 100, r"at least 99 calibration rows.* needs 149 rows in all, calibration='cross' 99"),
        ({"calibration_fraction": 0.1}, 100, r"needs 186 rows in all"),
        ({"calibration": "cross"}, 18, r"at least 19 calibration rows, but 18 of 18 .* 19 rows are enough"),
    ],
)
def test_too_few_calibration_rows(params, n_rows, message):
    X = np.random.default_rng(0).normal(size=(400, 3))
    with pytest.warns(UserWarning, match=message):
        model = detector(**params).fit(X[:n_rows])
    assert (model.predict(1e9 * X) == 1).all()
    assert model.offset_ == -np.inf
    rows = np.concatenate([X, 1e9 * X])
    decision = model.decision_function(rows)
    assert np.isfinite(decision).all()
    assert (decision >= 0).all()  # as no row is flagged
    np.testing.assert_array_equal(np.argsort(decision, kind="stable"), np.argsort(model.score_samples(rows), kind="stable"))
    assert model.p_values(1e9 * X).min() == 1 / (1 + len(model.calibration_scores_))
    enough = max(int(number) for number in re.findall(r"(\d+) rows (?:in all|are enough)", message))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(detector(**params).fit(X[:enough]).offset_)
    with pytest.warns(UserWarning, match="flag no row"):
        detector(**params).fit(X[: enough - 1])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        *[({"alpha": alpha}, "'alpha' parameter of AnomalyDetector must be a float in the range") for alpha in (0, 1, -1, 1.5)],
        ({"alpha": np.nan}, "'alpha' parameter"),
        ({"contamination": 0.6}, "'contamination' parameter"),
        ({"contamination": 0.0}, "'contamination' parameter"),
        ({"calibration": "none"}, "'calibration' parameter"),
        ({"calibration_fraction": 1.0}, "'calibration_fraction' parameter"),
        ({"calibration_fraction": 0.999}, "leaves 1 to train on; at least 2 are needed"),
        ({"n_folds": 1}, "'n_folds' parameter"),
        ({"n_repeats": 0}, "'n_repeats' parameter"),
        ({"estimator": PCA()}, "must be an object implementing 'fit' and 'score_anomaly'.*Got PCA"),
        ({"estimator": AutoEncoder}, "estimator=AutoEncoder is a class; pass an instance"),
        ({"estimator": make_pipeline(StandardScaler(), PCA())}, r"no step of \['standardscaler', 'pca'\] has the method"),
        ({"estimator": 5}, "score_anomaly"),
        ({"estimator": AutoEncoder(n_components=-1)}, "'n_components' parameter of AutoEncoder"),
        ({"estimator": CVAE()}, r"estimator=CVAE\(\) is fitted with y, but y is not handed on.*as condition_columns"),
        ({"estimator": make_pipeline(StandardScaler(), CVAE())}, r"Step 'cvae' of the pipeline=CVAE\(\) is fitted with y"),
    ],
    ids=str,
)
def test_parameters_that_cannot_be(X, params, message):
    with pytest.raises(ValueError, match=message):
        detector().set_params(**params).fit(X)


def test_an_estimator_that_cannot_score_is_a_type_error_too(X):
    for estimator in (PCA(), make_pipeline(StandardScaler(), PCA())):
        with pytest.raises(TypeError, match="score_anomaly"):
            AnomalyDetector(estimator).fit(X)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_rows_that_are_no_numbers(X, value, calibration):
    model = AnomalyDetector(tiny(max_epochs=1), calibration=calibration, random_state=0).fit(X)
    before, expected = dict(vars(model)), model.p_values(X)
    for where in (np.s_[3], np.s_[:, 2], np.s_[:]):
        bad = X.copy()
        bad[where] = value
        for call in (model.fit, model.predict, model.score_samples, model.p_values, model.explain):
            with pytest.raises(ValueError, match=r"NaN|infinity"):
                call(bad)
    assert vars(model) == before
    np.testing.assert_array_equal(model.p_values(X), expected)


@pytest.mark.parametrize("y", [np.zeros(80), np.arange(80) % 2, np.full(80, -1), ["a"] * 80], ids=["0", "01", "-1", "text"])
def test_labels_are_ignored(X, y):
    np.testing.assert_array_equal(detector().fit(X, y).p_values(X), detector().fit(X).p_values(X))


def test_weights_that_cannot_be(X):
    class Weightless(Distance):
        def fit(self, X, y=None):
            return super().fit(X)

    with pytest.raises(ValueError, match="sample_weight was given, but fit of Weightless takes none"):
        detector(Weightless()).fit(X, sample_weight=np.ones(80))
    with pytest.raises(ValueError, match=r"at least 3 rows with a positive weight here, but got n_samples = 2"):
        detector().fit(X, sample_weight=np.arange(80) < 2)
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        detector().fit(X, sample_weight=-np.ones(80))


def test_scores_that_are_no_numbers(X):
    class Broken(Distance):
        def score_anomaly(self, X):
            return np.full(len(X), np.nan)

    with pytest.raises(ValueError, match="score_anomaly of Broken gives NaN"):
        detector(Broken()).fit(X)


@pytest.mark.parametrize("name", ["predict", "decision_function", "score_samples", "p_values", "explain"])
def test_it_must_be_fitted_first(X, name):
    with pytest.raises(NotFittedError):
        getattr(AnomalyDetector(), name)(X)
    with pytest.raises(NotFittedError):
        AnomalyDetector().threshold_at(0.1)
    assert not hasattr(AnomalyDetector(), "offset_")


@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_a_frozen_model_is_calibrated_and_not_trained(calibration):
    frozen = pytest.importorskip("sklearn.frozen")
    X = np.random.default_rng(0).normal(size=(120, 4))
    model = VAETransformer(2, max_epochs=3, random_state=0).fit(X[:60])
    detector = AnomalyDetector(frozen.FrozenEstimator(model), calibration=calibration, random_state=0).fit(X[60:])
    for fitted in detector.estimators_:
        np.testing.assert_array_equal(fitted.transform(X), model.transform(X))
    assert (detector.predict(X[60:]) == 1).mean() > 0.8
    assert detector.predict(np.full((1, 4), 50.0)) == -1
