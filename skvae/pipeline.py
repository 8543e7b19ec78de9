"""What a Pipeline does not forward: sampling, reconstructing and scoring through its steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from inspect import signature
from numbers import Real
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skvae._spec import and_more
from skvae.data import dense
from skvae.data.containers import add_columns, is_frame, is_pandas, take_columns
from skvae.data.kinds import frame_columns
from skvae.estimators._checks import check_count, check_flags, check_given
from skvae.estimators._density import sample_density
from skvae.warnings import warn_user

_EDGE = 0.1  # of the distance that the closest of n evenly spread rows has from the end of their range
_TOLERANCE = 1e-3  # relative, and of a column's standard deviation


def sample(estimator, n_samples=None, *, y=None, given=None, mean=False, random_state=None):
    """Draw new rows in the units of what goes into a pipeline.

    Parameters
    ----------
    estimator : Pipeline, search or estimator
        Fitted; of a search its `best_estimator_`. Of a pipeline, the last step that can sample does, and the steps before it
        are inverted. That may be a density of the codes, such as GaussianMixture; its draws are decoded to means. Of an
        AnomalyDetector, its estimator does.
    n_samples : int, default=None
        Number of rows; as many as `given` has by default, or 1.
    y : scalar or array-like, default=None
        Labels or numbers to draw for, where the step is conditional.
    given : dict, Series, DataFrame or array-like, default=None
        Entries that rows are to have, see :meth:`VAETransformer.sample`, as they go into the pipeline: the steps before the one
        that samples may scale columns one by one, and fill them in, but not make other columns of them.
    mean : bool, default=False
        Return means, without the likelihood's noise.
    random_state : int, RandomState instance or None, default=None
        Decides the draws; the step's own `random_state` by default.

    Returns
    -------
    X : array of shape (n_samples, n_features)

    Raises
    ------
    TypeError
        If no step can sample, or a step before it cannot be inverted; with `given`, if the step takes none, or steps before it
        make other columns.

    Warns
    -----
    UserWarning
        If the inverse of a step does not undo it.

    Notes
    -----
    What is decoded is continuous and complete. Categories and bins are therefore the nearest that the step knows, imputers pass
    rows on without the columns of their indicators, and entries beyond the range of a PowerTransformer are taken for its end.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import skvae
    >>> X, _ = load_wine(return_X_y=True)
    >>> model = skvae.VAETransformer(2, max_epochs=20, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), model, KMeans(3, random_state=0)).fit(X)
    >>> skvae.sample(pipe, 4).shape
    (4, 13)
    """
    check_flags(mean=mean)
    before, step = find_step(estimator, "sample")
    if given is not None:
        return _sample_given(
            before, step, n_samples, given, mean=mean, random_state=random_state, **_condition(step, "sample", y)
        )
    n_samples = 1 if n_samples is None else check_count("n_samples", n_samples)
    if "mean" in signature(step.sample).parameters:
        return back(before, step.sample(n_samples, mean=mean, random_state=random_state, **_condition(step, "sample", y)))
    _condition(step, "sample", y)
    random_state = getattr(step, "random_state", None) if random_state is None else random_state
    return back(before, sample_density(step, n_samples, check_random_state(random_state).randint(2**31 - 1)))


def reconstruct(estimator, X, *, y=None):
    """Encode and decode rows in the units of what goes into a pipeline.

    Parameters
    ----------
    estimator : Pipeline, search or estimator
        Fitted; of a search its `best_estimator_`. Of a pipeline, the last step that can reconstruct does, and the steps before
        it are inverted. Of an AnomalyDetector, its estimator does.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : scalar or array-like, default=None
        Labels or numbers of the rows, where the step is conditional.

    Returns
    -------
    X_hat : array of shape (n_samples, n_features)

    Raises
    ------
    TypeError
        If no step can reconstruct, or a step before it cannot be inverted.

    Warns
    -----
    UserWarning
        If the inverse of a step does not undo it.

    Notes
    -----
    Categories, imputers and ranges are treated as by :func:`skvae.sample`.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import skvae
    >>> X, _ = load_wine(return_X_y=True)
    >>> pipe = make_pipeline(StandardScaler(), skvae.AutoEncoder(2, max_epochs=20, random_state=0)).fit(X)
    >>> skvae.reconstruct(pipe, X).shape
    (178, 13)
    """
    before, step = find_step(estimator, "reconstruct")
    return back(before, step.reconstruct(forth(before, X), **_condition(step, "reconstruct", y)))


def score_anomaly(estimator, X, *, y=None, method="auto"):
    """Score rows, in the units of what goes into a pipeline, by how anomalous they are.

    Parameters
    ----------
    estimator : Pipeline, search or estimator
        Fitted; of a search its `best_estimator_`. Of a pipeline, the last step that can score anomalies does. That may be an
        AnomalyDetector.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : scalar or array-like, default=None
        Labels or numbers of the rows, where the step is conditional.
    method : {"auto", "neighbors", "mahalanobis", "reconstruction", "surprise", "likelihood"}, default="auto"
        How rows are scored, see :meth:`VAETransformer.score_anomaly`.

    Returns
    -------
    score : ndarray of shape (n_samples,)
        Higher is more anomalous.

    Raises
    ------
    TypeError
        If no step can score anomalies, or the one that can has but one method.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import skvae
    >>> X, _ = load_wine(return_X_y=True)
    >>> pipe = make_pipeline(StandardScaler(), skvae.AutoEncoder(2, max_epochs=20, random_state=0)).fit(X)
    >>> bool(skvae.score_anomaly(pipe, -X[:5]).min() > skvae.score_anomaly(pipe, X).max())
    True
    """
    before, step = find_step(estimator, "score_anomaly")
    chosen = {} if method == "auto" else {"method": method}
    if _is_detector(step):
        if chosen:
            raise TypeError(f"method={method!r} was given, but an AnomalyDetector has a parameter method of its own; set that.")
        _condition(step, "score_samples", y)
        return -step.score_samples(forth(before, X))
    if chosen and "method" not in signature(step.score_anomaly).parameters:
        raise TypeError(f"method={method!r} was given, but score_anomaly of {type(step).__name__} takes none.")
    return step.score_anomaly(forth(before, X), **_condition(step, "score_anomaly", y), **chosen)


def step_score(name):
    """Make a scorer that runs a named step's own `score` on what reaches it.

    A search over a pipeline that ends in a clusterer otherwise maximizes the clusterer's score in code space, which a
    collapsed code wins.

    Parameters
    ----------
    name : str
        Name of the step.

    Returns
    -------
    scorer : callable
        For the `scoring` parameter of searches and `cross_val_score`.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from skvae import VAETransformer, step_score
    >>> pipe = make_pipeline(VAETransformer(max_epochs=20, random_state=0), KMeans(3))
    >>> grid = {"vaetransformer__n_components": [2, 3]}
    >>> search = GridSearchCV(pipe, grid, scoring=step_score("vaetransformer"), cv=2)
    >>> search.fit(load_wine().data).cv_results_["mean_test_score"].shape
    (2,)
    """
    return StepScorer(name)


class StepScorer:
    """Scorer made by `step_score`.

    Parameters
    ----------
    name : str
        Name of the step.
    """

    def __init__(self, name: str):
        self.name = name

    def __call__(self, estimator, X, y=None, sample_weight=None) -> float:
        """Score of the step on `X` after the steps before it."""
        estimator = _inner(estimator)
        if not isinstance(estimator, Pipeline):
            raise TypeError(f"step_score({self.name!r}) scores pipelines, not {type(estimator).__name__}.")
        names = [name for name, _ in estimator.steps]
        if self.name not in names:
            raise ValueError(f"The pipeline has no step {self.name!r}; its steps are {names}.")
        position = names.index(self.name)
        step = estimator.steps[position][1]
        if not hasattr(step, "score"):
            raise TypeError(f"Step {self.name!r} of the pipeline, {step!r}, has no method 'score'.")
        weight = {} if sample_weight is None else {"sample_weight": sample_weight}
        if not getattr(step, "_is_conditioned_on_y", True):  # whose `y` is another step's
            y = None
        return step.score(forth(estimator.steps[:position], X), y, **weight)

    def __repr__(self) -> str:
        return f"step_score({self.name!r})"


def find_step(estimator: Any, method: str) -> tuple[list[tuple[str, Any]], Any]:
    """Find the last step with a method, and the steps before it."""
    check_is_fitted(estimator)
    steps = _fitted_steps(None, estimator, method)
    for position in reversed(range(len(steps))):
        step = steps[position][1]
        if hasattr(step, method) or (method == "score_anomaly" and _is_detector(step)):
            return steps[:position], step
    advice, last = "", steps[-1][1]
    if _is_detector(last):
        advice = f" The AnomalyDetector has {len(last.estimators_)} estimators_; pass one of them, such as estimators_[0]."
    elif hasattr(last, "cv_results_") and getattr(last, "refit", None) is False:
        advice = f" {type(last).__name__} was fitted with refit=False, so that it has no best_estimator_; fit it with refit."
    raise TypeError(f"No step of {[name for name, _ in steps]} has the method {method!r}.{advice}")


def _fitted_steps(name: str | None, estimator: Any, method: str) -> list[tuple[str, Any]]:
    """List the steps of what is fitted, those of pipelines, searches and the like within in their place."""
    inner = _inner(estimator)
    if _is_detector(inner) and method in ("sample", "reconstruct") and len(inner.estimators_) == 1:
        inner = _inner(inner.estimators_[0])
    if _is_clusterer(inner) and not hasattr(inner, method):
        inner = _inner(inner.estimator_)
    if not isinstance(inner, Pipeline):
        return [(type(inner).__name__ if name is None else name, inner)]
    return [found for label, step in inner.steps for found in _fitted_steps(label, step, method)]


def _inner(estimator: Any) -> Any:
    """Return what a search has fitted, or a FrozenEstimator holds."""
    while True:
        if isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        else:
            return estimator


def _is_detector(step: Any) -> bool:
    from skvae.anomaly import AnomalyDetector  # which imports this module

    return isinstance(step, AnomalyDetector)


def _is_clusterer(step: Any) -> bool:
    from skvae.clustering import AutoencoderClusterer  # which imports this module

    return isinstance(step, AutoencoderClusterer)


def _sample_given(before: list[tuple[str, Any]], step: Any, n_samples: int | None, given: Any, **options: Any) -> Any:
    """Draw rows of a step that have some entries, which are as they go into the pipeline."""
    name = type(step).__name__
    if "given" not in signature(step.sample).parameters:
        raise TypeError(f"given was passed, but sample of {name} takes none.")
    active = [(label, other) for label, other in before if is_active(other) and not _passes_on(other)]
    if not active:
        return step.sample(n_samples, given=given, **options)
    mixing = [label for label, other in active if not _is_columnwise(other)]
    if mixing or getattr(step, "_frame_form", None) is not None:
        raise TypeError(
            f"given is of columns as they go into the pipeline, but {mixing or [label for label, _ in active]} make others of "
            f"them before they reach {name}. Sample that step itself, whose sample takes given in its own units; {name} needs no "
            "scaler, and encodes the columns of a data frame itself."
        )
    rows = check_given(_unnamed(step), _by_position(active[0][1], given)).rows
    scaled = rows
    for _, other in active:
        if not hasattr(other, "indicator_"):
            scaled = dense(_unnamed(other).transform(scaled))
        elif isinstance(other.missing_values, Real):  # which is for the model to draw
            scaled = np.where(scaled == other.missing_values, np.nan, scaled)
    known = ~np.isnan(scaled)
    X = back(before, step.sample(n_samples, given=dict(enumerate(scaled.T)), **options))
    return _with_entries(X, np.broadcast_to(known, (len(X), known.shape[1])), rows)


def _passes_on(step: Any) -> bool:
    """Whether a step changes nothing."""
    return isinstance(step, FunctionTransformer) and step.func is None


def _is_columnwise(step: Any) -> bool:
    """Whether a step takes each number to another, whatever the others are, and a missing one to a missing one or to a guess."""
    if hasattr(step, "indicator_"):
        return step.indicator_ is None and len(step.get_feature_names_out()) == step.n_features_in_
    return isinstance(step, _COLUMNWISE)


def _unnamed(step: Any) -> Any:
    """Copy of a fitted step that takes arrays without a word about names, and gives arrays."""
    other = copy.copy(step)
    for name in ("feature_names_in_", "_column_names", "_sklearn_output_config"):
        vars(other).pop(name, None)
    return other


def _by_position(step: Any, given: Any) -> Any:
    """Entries by the positions of the columns that go into a step, where they come by its names."""
    names = list(getattr(step, "feature_names_in_", ()))
    if is_pandas(given) and given.ndim == 1:
        given = given.to_dict()
    elif is_frame(given) and names:
        given = dict(frame_columns(given))
    if not isinstance(given, Mapping):
        return given
    unknown = [name for name in given if isinstance(name, str) and name not in names]
    if unknown:
        raise ValueError(
            f"given has {unknown}, which are no columns of what goes into the pipeline: {names[:10]}{and_more(names, 10)}."
        )
    return {names.index(name) if isinstance(name, str) else name: values for name, values in given.items()}


def _with_entries(X: Any, known: np.ndarray, rows: np.ndarray) -> Any:
    """Rows with entries as they were given, which a way there and back may have rounded."""
    if is_frame(X):
        exact = np.where(known, rows, np.column_stack([np.asarray(column, dtype=np.float64) for _, column in frame_columns(X)]))
        return type(X)({name: exact[:, j] for j, (name, _) in enumerate(frame_columns(X))})
    return np.where(known, rows, X)


def _condition(step: Any, method: str, y: Any) -> dict[str, Any]:
    """Arguments of a step's method that are its condition: `y`, where one is given."""
    if y is None:
        return {}
    if "y" not in signature(getattr(step, method)).parameters:
        raise TypeError(f"y was given, but {method} of {type(step).__name__} takes none: it is not conditional.")
    return {"y": y}


def flat_steps(pipeline: Pipeline) -> list[tuple[str, Any]]:
    """List the steps of a pipeline, those of inner pipelines in their place."""
    steps = []
    for name, step in pipeline.steps:
        steps += flat_steps(step) if isinstance(step, Pipeline) else [(name, step)]
    return steps


def forth(steps: list[tuple[str, Any]], X: Any) -> Any:
    """Take rows through steps."""
    for _, step in steps:
        if is_active(step):
            X = step.transform(X)
    return X


def back(steps: list[tuple[str, Any]], X: Any) -> Any:
    """Take rows back through steps, from what comes out of the last to what goes into the first."""
    for name, step in reversed(steps):
        if is_active(step):
            X = undo(name, step, X)
    return X


def is_active(step: Any) -> bool:
    """Whether a step does anything."""
    return step is not None and step != "passthrough"


# -- undoing a step ---------------------------------------------------------------------------------------------------


def undo(name: str, step: Any, X: Any) -> Any:
    """Take decoded rows, which are continuous and complete, back through a step."""
    label = f"Step {name!r} ({type(step).__name__})"
    if hasattr(step, "indicator_"):
        return _undo_imputer(step, X)
    if isinstance(step, OrdinalEncoder):
        return _undo_ordinal(step, X)
    if not hasattr(step, "inverse_transform"):
        advice = ""
        if isinstance(step, ColumnTransformer | FeatureUnion):
            advice = " scikit-learn gives it none; sample and reconstruct of the step behind it give rows as they come out of it."
        raise TypeError(f"{label} has no inverse_transform: rows cannot be brought back.{advice}")
    if isinstance(step, FunctionTransformer) and step.func is not None and step.inverse_func is None:
        raise TypeError(
            f"{label} has a func, but no inverse_func: rows cannot be brought back. Give it an inverse_func; where func changes "
            "no values, that is lambda X: X."
        )
    for kind, prepare in _INTO_RANGE.items():
        if isinstance(step, kind):
            X = prepare(step, X)
    result = step.inverse_transform(X)
    _check_undone(label, step, X, result)
    return result


def _undo_imputer(step: Any, X: Any) -> Any:
    """Drop indicators of missing entries; columns of which nothing was known stay missing."""
    X = X if is_frame(X) else dense(X)
    n_kept = X.shape[1] - (0 if step.indicator_ is None else len(step.indicator_.features_))
    if n_kept == step.n_features_in_:
        return take_columns(X, np.arange(n_kept)) if is_frame(X) else X[:, :n_kept]
    names = getattr(step, "feature_names_in_", np.asarray([f"x{j}" for j in range(step.n_features_in_)], dtype=object))
    kept = np.isin(names, step.get_feature_names_out(names)[:n_kept])
    if is_frame(X):
        whole = add_columns(X, {name: np.full(len(X), None) for name in names[~kept].tolist()})
        return whole[names.tolist()]
    missing = np.asarray(step.missing_values)
    numeric = X.dtype.kind in "fiub" and missing.dtype.kind in "fiu"
    result = np.full((len(X), len(kept)), step.missing_values, dtype=np.result_type(X, missing) if numeric else object)
    result[:, kept] = X[:, :n_kept]
    return result


def _undo_ordinal(step: OrdinalEncoder, X: Any) -> np.ndarray:
    """Categories whose codes are nearest; never an unknown one, as nothing unknown was trained on."""
    X = dense(X)
    rare = getattr(step, "infrequent_categories_", None)
    columns = []
    for j, categories in enumerate(step.categories_):
        values = [value for value in categories if not _is_nan(value)]
        is_rare = rare is not None and rare[j] is not None
        if is_rare:
            values = [value for value in values if value not in set(rare[j])] + ["infrequent_sklearn"]
        codes = np.arange(len(values), dtype=np.float64)
        if len(categories) > 0 and _is_nan(categories[-1]) and not (_is_nan(step.encoded_missing_value) and len(values)):
            values, codes = [*values, categories[-1]], np.append(codes, step.encoded_missing_value)
        nearest = np.abs(X[:, j, np.newaxis].astype(np.float64) - codes).argmin(axis=1)
        columns.append(np.array(values, dtype=object if is_rare else categories.dtype)[nearest])
    result = np.empty(X.shape, dtype=np.result_type(*columns))
    for j, column in enumerate(columns):
        result[:, j] = column
    return result


def _nearest_bins(step: KBinsDiscretizer, X: Any) -> np.ndarray:
    if step.encode == "ordinal":
        return np.clip(np.rint(dense(X)), 0, step.n_bins_ - 1)
    return _one_of_each(dense(X), [(n_bins, False) for n_bins in step.n_bins_])


def category_groups(step: OneHotEncoder) -> list[tuple[int, bool]]:
    """Columns that a fitted encoder makes of each of its own, and whether it leaves out that of one more category."""
    rare = getattr(step, "infrequent_categories_", None)
    groups = []
    for j, categories in enumerate(step.categories_):
        n_joined = 0 if rare is None or rare[j] is None else len(rare[j]) - 1
        drops = step.drop_idx_ is not None and step.drop_idx_[j] is not None
        groups.append((len(categories) - n_joined - drops, drops))
    return groups


def _nearest_categories(step: OneHotEncoder, X: Any) -> np.ndarray:
    return _one_of_each(dense(X), category_groups(step))


def _one_of_each(X: np.ndarray, groups: list[tuple[int, bool]]) -> np.ndarray:
    """One where an entry is the largest of its group, zero elsewhere.

    Groups are given by their number of columns and whether one more category is dropped, whose entry is what is left to one.
    """
    result, rows, start = np.zeros(X.shape, dtype=X.dtype), np.arange(len(X)), 0
    for size, drops in groups:
        if size:
            group = X[:, start : start + size]
            largest = group.argmax(axis=1)
            chosen = (group[rows, largest] >= 1 - group.sum(axis=1)) if drops else np.full(len(X), True)
            result[rows[chosen], start + largest[chosen]] = 1
        start += size
    return result


def _within_reach(step: PowerTransformer, X: Any) -> np.ndarray:
    """Entries within what powers give; as far from an end at which rows are infinite as training rows are."""
    X = dense(X)
    X = X.astype(np.result_type(X, np.float32))
    eps = np.finfo(X.dtype).eps
    for j, power in enumerate(step.lambdas_):
        low, high = _reach(step.method, float(power))
        mean, scale, n_rows = 0.0, 1.0, np.inf
        if step.standardize:
            mean, scale = step._scaler.mean_[j], step._scaler.scale_[j]
            n_rows = np.broadcast_to(step._scaler.n_samples_seen_, len(step.lambdas_))[j]
        for end, sign, clip in ((low, 1, np.maximum), (high, -1, np.minimum)):
            if np.isfinite(end):
                is_zero = step.method == "box-cox" and sign > 0  # where rows end at 0
                edge = 0.0 if is_zero else _EDGE / n_rows * min(scale, abs(end))
                end += sign * max(edge, 8 * eps * (abs(end) + abs(mean)))
                X[:, j] = clip(X[:, j], (end - mean) / scale)
    return X


def _reach(method: str, power: float) -> tuple[float, float]:
    """Return the ends of the range of a power transform."""
    if method == "box-cox":
        return (-1 / power if power > 0 else -np.inf), (-1 / power if power < 0 else np.inf)
    return (1 / (2 - power) if power > 2 else -np.inf), (-1 / power if power < 0 else np.inf)


# Steps that take each number to another.
_COLUMNWISE = (MaxAbsScaler, MinMaxScaler, PowerTransformer, QuantileTransformer, RobustScaler, StandardScaler)

# What the inverse of a step can take, made of what is decoded.
_INTO_RANGE: dict[type, Callable[[Any, Any], np.ndarray]] = {
    KBinsDiscretizer: _nearest_bins,
    OneHotEncoder: _nearest_categories,
    PowerTransformer: _within_reach,
}


def _check_undone(label: str, step: Any, X: Any, result: Any) -> None:
    """Warn where the inverse of a step has not undone it."""
    if isinstance(step, SelectorMixin) and not step.get_support().all():
        n_dropped = int((~step.get_support()).sum())
        warn_user(
            f"{label} drops columns, of which nothing is known behind it: {n_dropped} column(s) of what comes back are zero."
        )
    given, values = _numbers(X), _numbers(result)
    if given is None or values is None or not np.isfinite(given).all() or isinstance(step, OneHotEncoder):
        return  # a category may be NaN
    n_wrong = int((~np.isfinite(values)).sum())
    if n_wrong:
        warn_user(f"{label} gives NaN or infinity for {n_wrong} of {values.size} entries in its inverse_transform.")
    elif isinstance(step, FunctionTransformer) and step.check_inverse:
        # Compared in front of the step: what is decoded may lie where func does not lead, and be brought back all the same.
        try:
            with np.errstate(all="ignore"):
                again = _numbers(step.inverse_transform(step.transform(copy.copy(result))))
        except Exception:  # func may want what inverse_func does not give, such as a frame
            return
        if again is None or again.shape != values.shape:
            return
        close = np.isclose(again, values, rtol=_TOLERANCE, atol=_TOLERANCE * values.std(axis=0))
        if not close.all():
            n_wrong = int((~close).sum())
            warn_user(
                f"{label} has an inverse_func that does not undo its func: {n_wrong} of {values.size} entries change on the way "
                "there and back. With check_inverse=False they are not compared."
            )


def _numbers(X: Any) -> np.ndarray | None:
    """Rows as an array, if they are numbers."""
    X = dense(X)
    return X if X.ndim == 2 and X.size and X.dtype.kind in "fiub" else None


def _is_nan(value: Any) -> bool:
    return isinstance(value, Real) and bool(np.isnan(value))
