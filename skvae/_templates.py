"""Estimators and pipelines that other estimators are given, to fit copies of them."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import has_fit_parameter

from skvae.data import dense, is_sparse
from skvae.estimators import CVAE
from skvae.estimators._checks import is_nan, off_tensor, refuse_no_table, refuse_text
from skvae.modules import Mixed
from skvae.pipeline import find_step, flat_steps, forth, is_active


def steps_of(estimator: Any) -> list[tuple[str, Any]]:
    """List the steps of a pipeline, or an estimator as the one step of no name."""
    return flat_steps(estimator) if isinstance(estimator, Pipeline) else [("", estimator)]


def check_template(estimator: Any, method: str, why: str) -> None:
    """Raise an error unless an estimator has a step with a method, and all its steps are fitted without `y`."""
    if isinstance(estimator, type):
        raise InvalidParameterError(f"estimator={estimator.__name__} is a class; pass an instance, {estimator.__name__}(...).")
    if isinstance(estimator, Pipeline) and not any(hasattr(step, method) for _, step in flat_steps(estimator)):
        names = [name for name, _ in flat_steps(estimator)]
        raise InvalidParameterError(f"estimator is a Pipeline of which no step of {names} has the method {method!r}.")
    for name, step in steps_of(estimator):
        if is_active(step) and hasattr(step, "__sklearn_tags__") and get_tags(step).target_tags.required:
            advice = "; name the columns of X that hold the condition as condition_columns" if isinstance(step, CVAE) else ""
            raise ValueError(
                f"{f'Step {name!r} of the pipeline' if name else 'estimator'}={step!r} is fitted with y, but y is not handed "
                f"on: {why}{advice}."
            )


def taking_unknown(estimator: Any) -> Any:
    """Clone an estimator, and have it take categories that it has not seen as missing, unless it says what becomes of them."""
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        return estimator
    model = clone(estimator)
    for _, step in steps_of(model):
        value = step.get_params(deep=False).get("likelihood") if hasattr(step, "get_params") else None
        if isinstance(value, Mapping) or (isinstance(value, str) and value == Mixed.name):
            named = value if isinstance(value, Mapping) else None
            step.set_params(likelihood=Mixed(named, handle_unknown="missing"))
    return model


def copy_of(template: Any, seed: int | None) -> Any:
    """Clone an estimator; with a seed, all of its parameters called `random_state` become that."""
    model = clone(template)
    if seed is not None:
        own = model.get_params(deep=isinstance(model, Pipeline)) if hasattr(model, "get_params") else {}
        model.set_params(**{name: seed for name in own if name.split("__")[-1] == "random_state"})
    return model


def arguments_of_fit(model: Any, given: dict[str, Any], method: str) -> dict[str, Any]:
    """Name what is given to `fit` as the model's own calls it, for its last step with a method."""
    params = {name_in_fit(model, name, method): value for name, value in given.items()}
    y = signature(model.fit).parameters.get("y")
    if y is not None and y.default is y.empty:  # as FrozenEstimator wants one, and does not look at it
        params["y"] = None
    return params


def name_in_fit(model: Any, argument: str, method: str) -> str:
    """Name under which a model's `fit` takes an argument for its last step with a method."""
    if not isinstance(model, Pipeline):
        if not has_fit_parameter(model, argument):
            raise ValueError(f"{argument} was given, but fit of {type(model).__name__} takes none.")
        return argument
    if get_config()["enable_metadata_routing"]:
        return argument  # for the steps that ask for it
    for name, step in reversed(model.steps):
        if is_active(step) and any(hasattr(inner, method) for _, inner in steps_of(step)):
            return f"{name}__{name_in_fit(step, argument, method)}"
    raise AssertionError("the steps were looked at before")


def indexable(X: Any) -> Any:
    """Rows in a form of which some can be taken; they are checked by the estimator."""
    X = off_tensor(X)
    refuse_no_table(X)
    if is_sparse(X):
        return X.tocsr()
    if hasattr(X, "shape") or isinstance(X, (list, tuple)):
        return X
    refuse_text(X)
    return np.asarray(X)


def take_columns(owner: Any, model: Any) -> None:
    """Note number and names of the columns that a model has seen."""
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(model, name):
            setattr(owner, name, getattr(model, name))
        elif hasattr(owner, name):
            delattr(owner, name)


def take_input_tags(tags: Any, estimator: Any) -> None:
    """Have an estimator's tags say that it takes what the one that it was given takes."""
    if hasattr(estimator, "__sklearn_tags__") and not isinstance(estimator, type):
        inner = get_tags(estimator).input_tags
        for name in ("sparse", "allow_nan", "three_d_array", "positive_only"):
            setattr(tags.input_tags, name, getattr(inner, name))


def codes_of(model: Any, X: Any) -> np.ndarray:
    """Codes of rows, one row of numbers each."""
    codes = dense(model.transform(X))
    return codes.reshape(len(codes), -1)


def read_numbers(model: Any, X: Any, *, reset: bool) -> np.ndarray:
    """Rows as they reach the last step of a model, as numbers, with columns' means in place of missing entries."""
    step = model
    if isinstance(model, Pipeline):
        before, step = find_step(model, "transform")
        X = forth(before, X)
    if hasattr(step, "_check_rows"):
        step._validate_params()
        X = step._check_rows(X, reset=reset)
        if compares_kinds(model):
            likelihood = step.module_.likelihood
            X = likelihood.near(likelihood.fill(likelihood.standardize(X))[0]).numpy()
        elif getattr(step, "_frame_form", None) is not None:
            X = step._frame_form.expand(X)
    x = np.asarray(dense(X), dtype=np.float64)
    x = x.reshape(len(x), -1)
    missing = getattr(step, "missing_values", None)
    if missing is not None and not is_nan(missing):
        x = np.where(x == missing, np.nan, x)
    gaps = np.isnan(x)
    if gaps.any():
        known = ~gaps
        mean = np.where(known, x, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        x = np.where(gaps, mean, x)
    return x


def compares_kinds(model: Any) -> bool:
    """Whether the last step of a model says how columns of different kinds compare, as it does once it is fitted."""
    step = next(step for _, step in reversed(steps_of(model)) if hasattr(step, "transform"))
    form, module = getattr(step, "_frame_form", None), getattr(step, "module_", None)
    return form is not None and module is not None and module.likelihood.n_features == len(form.columns)
