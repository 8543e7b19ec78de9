"""Outlier detection at a false-alarm rate of one's own, by rows held out of training."""

from __future__ import annotations

from inspect import signature
from math import ceil
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_is_fitted

from skvae._calibration import (
    MIN_TRAINING,
    Part,
    check_groups,
    folds,
    hold_out,
    least_rows,
    most_held_out,
    rows_needed,
    snap,
    splits,
    upper_quantile,
    worth_of_a_row,
)
from skvae._shares import columns_behind
from skvae._spec import is_same
from skvae._templates import (
    arguments_of_fit,
    check_template,
    copy_of,
    indexable,
    steps_of,
    take_columns,
    take_input_tags,
    taking_unknown,
)
from skvae.data.containers import is_frame, is_mixed
from skvae.estimators import VQVAE, AutoEncoder
from skvae.estimators._base import BaseAutoEncoder
from skvae.estimators._docs import DocumentedMixin
from skvae.estimators._held_out import whole
from skvae.estimators._specs import NestedMixin
from skvae.pipeline import find_step, forth
from skvae.warnings import warn_user

_Fitted = tuple[list[Any], np.ndarray, np.ndarray]  # models, calibration rows, scores of rows by models that did not see them
_CALIBRATES = ("contamination", "calibration", "calibration_fraction", "n_folds", "n_repeats", "method")  # which `fit` goes by
_ENOUGH = 100  # calibration rows beyond the threshold, after which more add little


class AnomalyDetector(DocumentedMixin, NestedMixin, OutlierMixin, BaseEstimator):
    r"""Flags anomalous rows at a false-alarm rate that is set beforehand.

    The rows are scored by an estimator's `score_anomaly`. What score is too high is read off rows that were held out of
    training: of new rows like these, a fraction `alpha` is flagged (conformal prediction [1]_, [2]_). Every row gets a
    p-value: the probability that a normal row is at least as anomalous.

    Parameters
    ----------
    estimator : estimator, Pipeline or None, default=None
        Any estimator with `score_anomaly` that can be fitted without `y`, or a pipeline with such a step; it is cloned. None
        is ``AutoEncoder()``. The parameters of an estimator that is given are ``estimator__<name>``. Of data frames with columns
        of different kinds, held-out and new rows may have categories that those left for training lack: these entries count as
        missing, unless `likelihood` is a :class:`~skvae.Mixed` that says what becomes of them.
    alpha : float, default=0.05
        False-alarm rate: the share of normal rows that are flagged. It may be changed after `fit`.
    contamination : float or None, default=None
        Takes the place of `alpha`: the share of the training rows that are flagged, in (0, 0.5]. All rows then train, none is
        held out, and there are no p-values.
    calibration : {"split", "cross"}, splitter or list of pairs, default="split"
        How rows are held out. "split" holds out one part of the rows, once. "cross" fits `n_repeats` times `n_folds`
        estimators, so that every row is held out `n_repeats` times and trained on otherwise; of each repetition one estimator
        is kept. Both keep `groups` together. Otherwise a splitter of scikit-learn, such as ``GroupShuffleSplit(1)``, or its
        pairs of positions, to train on and to hold out; every row that it holds out is held out equally often. Where it does so
        in several parts, as ``TimeSeriesSplit()`` does, the estimator of the last is kept.
    calibration_fraction : float or "auto", default="auto"
        Share of the rows that "split" holds out. "auto" is a quarter, or less if there are plenty of rows, or up to two thirds
        if `alpha` needs as many. Of `groups`, "auto" holds out as many as `alpha` would need of rows, but no more than half.
    n_folds : int, default=3
        Number of parts into which "cross" divides the rows.
    n_repeats : int, default=3
        Number of divisions for "cross", which is the number of estimators whose mean score counts.
    method : str, default="auto"
        Handed on to `score_anomaly` and `explain_anomaly`, where the estimator's take a `method`; "auto" leaves it to the
        estimator. Rows are flagged by the one with which the detector was fitted.
    random_state : int, RandomState instance or None, default=None
        Decides which rows are held out, and takes the place of the estimator's own `random_state`, unless it is None.
    n_jobs : int or None, default=None
        Number of fits that run side by side with "cross".

    Attributes
    ----------
    estimators_ : list
        The fitted estimators whose mean score counts: one, or one for each repetition of "cross". A :class:`VQVAE` has no prior
        of its codes, whose training takes long, unless `method` is "likelihood".
    calibration_indices_ : ndarray of shape (n_calibration,)
        Training rows that the threshold and p-values are read off. Their number plus one, times `alpha`, is as close to a
        whole number as can be. Empty with `contamination`.
    calibration_scores_ : ndarray of shape (n_calibration,)
        Their anomaly scores, by estimators that have not seen them.
    offset_ : float
        Rows with `score_samples` below it are flagged. It follows `alpha`. Minus infinity, so that no row is flagged, if there
        are too few calibration rows.
    threshold_ : float
        Anomaly score above which rows are flagged, ``-offset_``.
    decision_scores_ : ndarray of shape (n_samples,)
        Anomaly scores of the training rows, held out wherever they were.
    labels_ : ndarray of shape (n_samples,)
        1 for training rows with `decision_scores_` above `threshold_`, else 0.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names that are strings.

    See Also
    --------
    AutoEncoder : The default estimator.
    skvae.score_anomaly : Scores rows through a pipeline.
    sklearn.ensemble.IsolationForest : Trees in place of networks.

    Notes
    -----
    With "split", the guarantee is exact: if the held-out rows and a new one are exchangeable, the new one's p-value is at most
    :math:`\alpha` with a probability of at most :math:`\alpha`, whatever the estimator. The probability is
    :math:`\lfloor\alpha(n+1)\rfloor/(n+1)`, of `n` calibration rows, if scores have no ties; `n` is chosen such that this is
    :math:`\alpha`, which may set up to :math:`1/\alpha` rows aside for training. It is the mean over samples of calibration
    rows: with one sample at hand, the rate is spread around it with a standard deviation of about
    :math:`\sqrt{\alpha(1-\alpha)/n}`.

    With "cross" it holds approximately. A new row is scored as calibration rows are, by a mean over as many estimators,
    trained on as many rows; but those of different calibration rows differ, and have trained on the others. There are more
    calibration rows, but fewer train each estimator than fit was given, and `n_repeats` times `n_folds` fits cost their time.

    Rows with equal scores count against each other in full, which makes p-values larger, never smaller. Weights count
    calibration rows by their weight over the mean weight; a new row has the mean weight. The guarantee then is approximate.

    Rows that resemble each other, such as windows that overlap, are not exchangeable with new ones where some of them were
    trained on: the rate is too high. With `groups` it is about :math:`\alpha` for rows of new groups, spread as if there were
    fewer calibration rows, the more alike the scores of a group are; at least :math:`1/\alpha` groups that are held out make
    up for it. A new row then counts as more than one: midway to the design effect, which is how much more the mean ranks of
    groups vary than those of independent rows would.

    References
    ----------
    .. [1] Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", Springer 2005.
    .. [2] Bates et al., "Testing for outliers with conformal p-values", Annals of Statistics 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import AnomalyDetector, AutoEncoder
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(400, 5))
    >>> detector = AnomalyDetector(AutoEncoder(2, max_epochs=20), alpha=0.05, random_state=0).fit(X)
    >>> odd = X[:2] + [0, 0, 5, 0, 0]
    >>> detector.predict(odd)
    array([-1, -1])
    >>> detector.p_values(odd)
    array([0.01, 0.01])
    >>> detector.explain(odd).shape
    (2, 5)
    """

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "score_anomaly"]), Pipeline, None],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "contamination": [Interval(Real, 0, 0.5, closed="right"), None],
        "calibration": [StrOptions({"split", "cross"}), HasMethods(["split", "get_n_splits"]), list, tuple],
        "calibration_fraction": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="neither")],
        "n_folds": [Interval(Integral, 2, None, closed="left")],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "method": [str],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator=None,
        *,
        alpha=0.05,
        contamination=None,
        calibration="split",
        calibration_fraction="auto",
        n_folds=3,
        n_repeats=3,
        method="auto",
        random_state=None,
        n_jobs=None,
    ):
        self.estimator = estimator
        self.alpha = alpha
        self.contamination = contamination
        self.calibration = calibration
        self.calibration_fraction = calibration_fraction
        self.n_folds = n_folds
        self.n_repeats = n_repeats
        self.method = method
        self.random_state = random_state
        self.n_jobs = n_jobs

    # -- fitting ------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None, groups=None, *, validation_data=None):
        """Fit the estimator and find the scores of rows that it was not trained on.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Normal rows, for the most part; or what else the estimator takes.
        y : None
            Ignored, whatever labels it has: all rows count as normal ones.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, in training and in calibration; rows of weight zero are left out.
        groups : array-like of shape (n_samples,), default=None
            Labels of rows that resemble each other, such as overlapping windows of one series, of which some must not be trained
            on while others are held out: rows of one group are all on one side. See :func:`skvae.sliding_windows`.
        validation_data : {array-like, sparse matrix} or tuple, default=None
            Rows that early stopping of the estimator looks at, handed on to its `fit`: of every estimator all of them. To a
            pipeline, whose steps have to transform them, they are handed on by metadata routing alone.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If a parameter, `groups` or X is not as it should be, or the estimator does not take the weights or the rows to
            validate on that were given.
        TypeError
            If no step of the estimator can score anomalies.

        Warns
        -----
        UserWarning
            If there are fewer calibration rows than `alpha` needs, so that no row is flagged.
        """
        X = indexable(X)
        template = self._template(X)
        n_rows = _num_samples(X)
        rows, weight = np.arange(n_rows), np.ones(n_rows)
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            rows = np.flatnonzero(weight > 0)
        given = {} if sample_weight is None else {"sample_weight": weight}
        if validation_data is not None:
            given["validation_data"] = _handed_on(validation_data, X, template)
        groups = check_groups(groups, n_rows, rows)
        random = check_random_state(self.random_state)
        if self.contamination is not None:
            if groups is not None:
                raise ValueError("groups was given, but with contamination all rows train, and none is held out; leave it out.")
            self._need_rows(len(rows), MIN_TRAINING)
            models, held_out, scores = [self._new_fit(template, X, rows, given, self._seed(random))], rows[:0], None
        elif isinstance(self.calibration, str) and self.calibration == "split":
            models, held_out, scores = self._fit_split(template, X, rows, given, random, groups)
        else:
            models, held_out, scores = self._fit_parts(template, X, given, random, *self._parts(rows, n_rows, groups, random))
        decision_scores = self._mean_score(models, X)
        if scores is not None:
            known = ~np.isnan(scores)  # of rows that were held out
            decision_scores[known] = scores[known]
        if np.isnan(decision_scores[rows]).any():
            raise ValueError(f"score_anomaly of {type(template).__name__} gives NaN for rows that it was fitted to.")
        self.estimators_ = models
        self.calibration_indices_ = held_out
        self.calibration_scores_ = decision_scores[held_out]
        self.decision_scores_ = decision_scores
        self._calibration_weight = weight[held_out] / weight[held_out].mean() if len(held_out) else weight[held_out]
        self._worth = worth_of_a_row(self.calibration_scores_, None if groups is None else groups[held_out])
        self._fixed_threshold = None
        if self.contamination is not None:
            given_weight = None if sample_weight is None else weight[rows]
            self._fixed_threshold = upper_quantile(decision_scores[rows], given_weight, self.contamination)
        self._calibrated_by = {name: getattr(self, name) for name in _CALIBRATES}
        take_columns(self, models[0])
        self._alpha = self.alpha
        self._n_rows = len(rows)
        if np.isneginf(self.offset_):
            self._warn_of_too_few()
        return self

    def _template(self, X: Any) -> Any:
        """Return the estimator to clone, once it is known that it can score."""
        estimator = AutoEncoder() if self.estimator is None else self.estimator
        if is_frame(X) and is_mixed(X):  # of which rows that are held out may have categories of their own
            estimator = taking_unknown(estimator)
        check_template(estimator, "score_anomaly", "to a detector all rows are normal")
        if self.method != "auto":
            step = [step for _, step in steps_of(estimator) if hasattr(step, "score_anomaly")][-1]
            if "method" not in signature(step.score_anomaly).parameters:
                name = type(step).__name__
                raise ValueError(f"method={self.method!r} has no effect: score_anomaly of {name} takes none; leave it 'auto'.")
        return estimator

    def _need_rows(self, n_rows: int, least: int) -> None:
        if n_rows < least:
            raise ValueError(
                f"AnomalyDetector needs at least {least} rows with a positive weight here, but got n_samples = {n_rows}."
            )

    def _fit_split(self, template: Any, X: Any, rows: np.ndarray, given: Any, random: Any, groups: Any) -> _Fitted:
        """Hold out some rows, fit to the others."""
        self._need_rows(len(rows), MIN_TRAINING + 1)
        n_held_out = self._n_held_out(len(rows))
        if len(rows) - n_held_out < MIN_TRAINING:
            raise ValueError(
                f"calibration_fraction={self.calibration_fraction} of {len(rows)} rows leaves {len(rows) - n_held_out} to train "
                f"on; at least {MIN_TRAINING} are needed."
            )
        n_groups = least_rows(1, self.alpha) if self.calibration_fraction == "auto" else 1
        train, test = hold_out(rows, groups, n_held_out, n_groups, random)
        model = self._new_fit(template, X, train, given, self._seed(random))
        scores = np.full(_num_samples(X), np.nan)
        scores[test] = self._score_held_out(model, _safe_indexing(X, test))
        return [model], test if groups is None else self._some(test, random), scores

    def _some(self, rows: np.ndarray, random: Any) -> np.ndarray:
        """Choose calibration rows, of those that were held out, whose number goes with `alpha`."""
        return np.sort(random.permutation(rows)[: snap(len(rows), self.alpha)])

    def _n_held_out(self, n_rows: int) -> int:
        """Count the rows that "split" holds out."""
        need = least_rows(1, self.alpha)
        if self.calibration_fraction != "auto":
            return snap(max(1, round(self.calibration_fraction * n_rows)), self.alpha)
        quarter = max(1, int(min(n_rows / 4, _ENOUGH / self.alpha)))
        if quarter < need <= most_held_out(n_rows):
            return need
        return snap(quarter, self.alpha)

    def _parts(self, rows: np.ndarray, n_rows: int, groups: Any, random: Any) -> tuple[list[Part], int]:
        """Divide rows into those that train and those that are held out, several times, and say how often each is held out."""
        if isinstance(self.calibration, str):
            self._need_rows(len(rows), max(self.n_folds, MIN_TRAINING + 1))
            return folds(rows, groups, int(self.n_folds), int(self.n_repeats), random)
        self._need_rows(len(rows), MIN_TRAINING + 1)
        return splits(self.calibration, rows, n_rows, groups)

    def _fit_parts(self, template: Any, X: Any, given: Any, random: Any, parts: list[Part], n_times: int) -> _Fitted:
        """Hold out every part of the rows in turn; keep one model of each division.

        New rows must be scored as held-out rows are: by as many models that are trained on as many rows. A mean over all
        models, or a model fitted to all rows, has less spread, and flags too few.
        """
        seeds = [self._seed(random) for _ in parts]
        done = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_and_score)(self, template, X, part, given, seed) for part, seed in zip(parts, seeds, strict=True)
        )
        scores = np.full(_num_samples(X), np.nan)
        rows = np.unique(np.concatenate([part.test for part in parts]))
        scores[rows] = 0.0
        for part, (_, held_out) in zip(parts, done, strict=True):
            scores[part.test] += held_out / n_times
        return [model for model, _ in done if model is not None], self._some(rows, random), scores

    def _seed(self, random: Any) -> int | None:
        return None if self.random_state is None else int(random.randint(2**31 - 1))

    def _new_fit(self, template: Any, X: Any, rows: np.ndarray, given: dict[str, Any], seed: int | None) -> Any:
        """Fit a clone to some rows, and hand on what else was `given`."""
        model = copy_of(template, seed)
        if self.method != "likelihood":
            _leave_out_priors(model)
        given = {name: part[rows] if name == "sample_weight" else part for name, part in given.items()}
        if len(rows) != _num_samples(X):
            X = _safe_indexing(X, rows)
        return model.fit(X, **arguments_of_fit(model, given, "score_anomaly"))

    # -- scores -------------------------------------------------------------------------------------------------------

    def _score(self, model: Any, X: Any) -> np.ndarray:
        before, step = find_step(model, "score_anomaly")
        return np.asarray(step.score_anomaly(forth(before, X), **self._method(step.score_anomaly)), dtype=np.float64)

    def _score_held_out(self, model: Any, X: Any) -> np.ndarray:
        """Score rows that a model was not fitted to, which may have categories that its own rows lack."""
        try:
            return self._score(model, X)
        except ValueError as error:
            if "holds what was not seen in fit" in str(error):
                raise ValueError(
                    f"{error} The rows are some that are held out, which have entries that those left for training lack."
                ) from error
            if not str(error).startswith("Found unknown categories"):
                raise
            raise ValueError(
                f"{error}. Rows that are held out have categories that those left for training lack: encode them before the "
                "detector, make_pipeline(encoder, AnomalyDetector(...)), or by OneHotEncoder(handle_unknown='ignore')."
            ) from error

    def _method(self, function: Any) -> dict[str, str]:
        return {"method": self.method} if self.method != "auto" and "method" in signature(function).parameters else {}

    def _mean_score(self, models: list, X: Any) -> np.ndarray:
        return np.mean([self._score(model, X) for model in models], axis=0)

    def score_samples(self, X):
        """Score how normal rows are.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            The estimator's `score_anomaly` with the sign turned, averaged over `estimators_`. Lower is more anomalous.
        """
        check_is_fitted(self)
        return -self._mean_score(self.estimators_, indexable(X))

    def decision_function(self, X):
        """Score how far rows are from being flagged.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            ``score_samples(X) - offset_``; negative where rows are flagged. Where `offset_` is minus infinity, as with too few
            calibration rows, rows are ranked as by `score_samples`, by numbers that are not negative and have no unit.
        """
        scores, offset = self.score_samples(X), self.offset_
        if np.isneginf(offset):  # a ranking needs no threshold
            return np.where(scores > 0.0, 1.0 + scores, 1.0 / (1.0 - np.minimum(scores, 0.0)))
        with np.errstate(invalid="ignore"):
            return np.where(scores == offset, 0.0, scores - offset)

    def predict(self, X):
        """Flag anomalous rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            -1 for anomalous rows, whose p-value is at most `alpha`, and 1 for all others.
        """
        scores, offset = self.score_samples(X), self.offset_
        if np.isneginf(offset) and self.alpha != self._alpha:  # of which fit has not warned
            self._warn_of_too_few()
        return np.where(scores >= offset, 1, -1)

    def p_values(self, X):
        r"""Compute the probability that a normal row is at least as anomalous.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        p : ndarray of shape (n_samples,)
            :math:`(1 + \#\{i: s_i \ge s\})/(n + 1)`, of the scores :math:`s_i` of `n` calibration rows; never 0. With `groups`
            whose scores are alike, the ones are larger, see Notes. `predict` flags the rows with a p-value of at most `alpha`.

        Raises
        ------
        ValueError
            If the detector was fitted with `contamination`.
        """
        check_is_fitted(self)
        self._check_calibrated()
        if self.contamination is not None:
            raise ValueError(
                "p_values needs rows that were held out of training, and with contamination="
                f"{self.contamination} there are none; fit with contamination=None."
            )
        scores = -self.score_samples(X)
        above, total = self._weight_above(scores, side="left"), len(self.calibration_scores_)
        return (self._worth + above) / (self._worth + total)

    def _weight_above(self, scores: np.ndarray, *, side: str) -> np.ndarray:
        """Weight of the calibration rows with at least ("left") or more than ("right") a score."""
        order = np.argsort(self.calibration_scores_)
        if (self._calibration_weight == 1.0).all():
            tail = np.arange(len(order), -1.0, -1.0)
        else:
            tail = np.append(np.cumsum(self._calibration_weight[order][::-1])[::-1], 0.0)
        return tail[np.searchsorted(self.calibration_scores_[order], scores, side=side)]

    def explain(self, X):
        """Split the anomaly scores of rows into the shares of the columns.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        shares : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            Those of the estimator's `explain_anomaly`, averaged over `estimators_`. A data frame with the columns and the index
            of X, if X is one. Columns that steps of a pipeline leave out have shares of 0; those that an encoder makes several
            of, by OneHotEncoder or in a ColumnTransformer, have the sum of theirs.

        Raises
        ------
        TypeError
            If the estimator has no `explain_anomaly`, or a step of a pipeline before it mixes columns.
        """
        check_is_fitted(self)
        shares = np.mean([self._explain_by(model, indexable(X)) for model in self.estimators_], axis=0)
        if hasattr(X, "iloc"):
            return type(X)(shares, index=X.index, columns=X.columns)
        if hasattr(X, "columns") and hasattr(X, "schema"):  # polars
            return type(X)(shares, schema=list(X.columns))
        return shares

    def _explain_by(self, model: Any, X: Any) -> np.ndarray:
        before, step = find_step(model, "explain_anomaly")
        columns = columns_behind(model, before) if before else None
        shares = np.asarray(step.explain_anomaly(forth(before, X), **self._method(step.explain_anomaly)), dtype=np.float64)
        if columns is None:
            return shares
        placed = np.zeros((len(shares), model.n_features_in_))
        np.add.at(placed, (slice(None), columns), shares)
        return placed

    # -- thresholds ---------------------------------------------------------------------------------------------------

    def threshold_at(self, alpha):
        """Compute the anomaly score above which rows are flagged at a false-alarm rate.

        Parameters
        ----------
        alpha : float
            False-alarm rate, in (0, 1).

        Returns
        -------
        threshold : float
            Infinity if there are too few calibration rows.

        Raises
        ------
        ValueError
            If `alpha` is not in (0, 1), or the detector was fitted with `contamination`.
        """
        check_is_fitted(self)
        if not isinstance(alpha, Real) or not 0 < alpha < 1:
            raise ValueError(f"alpha={alpha!r} must be a number in (0, 1).")
        self._check_calibrated()
        if self.contamination is not None:
            raise ValueError(
                f"The detector was fitted with contamination={self.contamination}, which needs no calibration rows: there is no "
                "threshold at a false-alarm rate. Fit with contamination=None."
            )
        values = np.unique(self.calibration_scores_)
        p_beyond = (self._worth + self._weight_above(values, side="right")) / (self._worth + len(self.calibration_scores_))
        reached = values[p_beyond <= alpha]
        return float(reached[0]) if len(reached) else np.inf

    @property
    def threshold_(self):
        """Anomaly score above which rows are flagged."""
        check_is_fitted(self)
        self._check_calibrated()
        return self.threshold_at(self.alpha) if self._fixed_threshold is None else self._fixed_threshold

    def _check_calibrated(self) -> None:
        """Raise a ValueError where scores of new rows would be compared with those of rows that were held out otherwise."""
        for name, before in self._calibrated_by.items():
            now = getattr(self, name)
            if not is_same(now, before):
                raise ValueError(
                    f"{name} is {now!r}, but was {before!r} when the detector was fitted; fit again. Threshold and p-values go "
                    "by the scores of held-out rows, as they were then."
                )

    @property
    def offset_(self):
        """Value of `score_samples` below which rows are flagged."""
        return -self.threshold_

    @property
    def labels_(self):
        """Training rows that are flagged, 1, and others, 0."""
        return (self.decision_scores_ > self.threshold_).astype(int)

    def _warn_of_too_few(self) -> None:
        """Warn that no row can be flagged, and say how many calibration rows are needed."""
        need, n_held_out = ceil(self._worth * least_rows(1, self.alpha)), len(self.calibration_scores_)
        if n_held_out >= need:  # whose scores are infinite
            return
        if self._worth > 1.0:
            advice = "Scores within groups are alike: more groups must be held out"
        elif not isinstance(self.calibration, str):
            advice = f"Hold out more rows than calibration={self.calibration!r} does"
        elif self.calibration == "cross":
            advice = f"calibration='cross' calibrates with every row, so {max(need, self.n_folds)} rows are enough"
        else:
            enough = rows_needed(need, self.calibration_fraction)
            advice = f"calibration='split' with calibration_fraction={self.calibration_fraction!r} needs {enough} rows in all"
            advice += f", calibration='cross' {max(need, self.n_folds)}"
        warn_user(
            f"alpha={self.alpha} needs at least {need} calibration rows, but {n_held_out} of {self._n_rows} rows are held out: "
            f"predict will flag no row. {advice}; or raise alpha. p_values are valid all the same."
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        estimator = AutoEncoder() if self.estimator is None else self.estimator
        take_input_tags(tags, estimator)
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "estimators_")


def _fit_and_score(detector: Any, template: Any, X: Any, part: Part, given: Any, seed: Any) -> Any:
    """Fit to some rows, score others; return the model where it is kept."""
    model = detector._new_fit(template, X, part.train, given, seed)
    scores = detector._score_held_out(model, _safe_indexing(X, part.test))
    return (model if part.is_kept else None), scores


# -- estimators and pipelines -----------------------------------------------------------------------------------------


def _leave_out_priors(model: Any) -> None:
    """Have no prior of codes fitted that scores do not need, which may take many times longer than all else."""
    for _, step in steps_of(model):
        # Labels that a prior is to depend on cannot be given here, which `fit` says.
        if isinstance(step, VQVAE) and step._anomaly_method != "likelihood" and step.class_conditional is not True:
            step._validate_params()  # with the prior that was asked for
            step.set_params(code_prior=None)


def _handed_on(validation_data: Any, X: Any, template: Any) -> Any:
    """Rows to validate on in a form that no fit takes for a part of X."""
    if isinstance(template, Pipeline) and not get_config()["enable_metadata_routing"]:
        raise ValueError(
            "validation_data was given, but a pipeline has its steps transform it by metadata routing alone: "
            "sklearn.set_config(enable_metadata_routing=True), with Pipeline(..., transform_input=['validation_data']) and "
            "set_fit_request(validation_data=True) of the step that takes it."
        )
    return whole(validation_data, X) if isinstance(template, (Pipeline, BaseAutoEncoder)) else validation_data
