"""What a Pipeline does not forward: sampling, reconstructing and scoring through its steps."""

from __future__ import annotations

from inspect import signature
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skvae.estimators._checks import check_count
from skvae.estimators._density import sample_density


def sample(estimator, n_samples=1, *, y=None, mean=False, random_state=None):
    """Draw new rows in the units of what goes into a pipeline.

    Parameters
    ----------
    estimator : Pipeline or estimator
        Fitted. Of a pipeline, the last step that can sample does, and the steps before it are inverted. That may be a
        density of the codes, such as GaussianMixture; its draws are decoded to means.
    n_samples : int, default=1
        Number of rows.
    y : scalar or array-like, default=None
        Labels or numbers to draw for, where the step is conditional.
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
        If no step can sample, or a step before it cannot be inverted.

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
    n_samples = check_count("n_samples", n_samples)
    before, step = find_step(estimator, "sample")
    if "mean" in signature(step.sample).parameters:
        return _back(before, step.sample(n_samples, mean=mean, random_state=random_state, **_condition(step, "sample", y)))
    _condition(step, "sample", y)
    random_state = getattr(step, "random_state", None) if random_state is None else random_state
    return _back(before, sample_density(step, n_samples, check_random_state(random_state).randint(2**31 - 1)))


def reconstruct(estimator, X, *, y=None):
    """Encode and decode rows in the units of what goes into a pipeline.

    Parameters
    ----------
    estimator : Pipeline or estimator
        Fitted. Of a pipeline, the last step that can reconstruct does, and the steps before it are inverted.
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
    return _back(before, step.reconstruct(forth(before, X), **_condition(step, "reconstruct", y)))


def score_anomaly(estimator, X, *, y=None, method="auto"):
    """Score rows, in the units of what goes into a pipeline, by how anomalous they are.

    Parameters
    ----------
    estimator : Pipeline or estimator
        Fitted. Of a pipeline, the last step that can score anomalies does.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : scalar or array-like, default=None
        Labels or numbers of the rows, where the step is conditional.
    method : {"auto", "neighbors", "mahalanobis", "reconstruction", "likelihood"}, default="auto"
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
    steps = flat_steps(estimator) if isinstance(estimator, Pipeline) else [(type(estimator).__name__, estimator)]
    for position in reversed(range(len(steps))):
        step = steps[position][1]
        if hasattr(step, method):
            return steps[:position], step
    raise TypeError(f"No step of {[name for name, _ in steps]} has the method {method!r}.")


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


def _back(steps: list[tuple[str, Any]], X: Any) -> Any:
    for name, step in reversed(steps):
        if is_active(step):
            if not hasattr(step, "inverse_transform"):
                raise TypeError(f"Step {name!r} ({type(step).__name__}) has no inverse_transform: rows cannot be brought back.")
            X = step.inverse_transform(X)
    return X


def is_active(step: Any) -> bool:
    """Whether a step does anything."""
    return step is not None and step != "passthrough"
