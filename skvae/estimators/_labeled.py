"""What estimators share that wrap a CVAE conditioned on one label for each row."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from skvae.estimators import _checks as check
from skvae.estimators.cvae import CVAE


def new_model(owner: Any, default: CVAE) -> CVAE:
    """Unfitted model, to be conditioned on class labels, from the parameters `estimator` and `random_state` of `owner`."""
    estimator = default if owner.estimator is None else clone(owner.estimator)
    if estimator.condition_columns is not None:
        raise ValueError(
            f"{type(owner).__name__} conditions its model on the labels y; leave condition_columns of its estimator None, not "
            f"{estimator.condition_columns!r}."
        )
    return estimator if owner.random_state is None else estimator.set_params(random_state=owner.random_state)


def takes_nan(owner: Any) -> bool:
    """Whether the model of `owner` takes missing entries of arrays."""
    return check.is_nan(getattr(owner.estimator, "missing_values", None))


def take_columns(owner: Any, estimator: CVAE) -> None:
    """Give `owner` the number and the names of the columns that a model was fitted on."""
    owner.n_features_in_ = estimator.n_features_in_
    if hasattr(estimator, "feature_names_in_"):
        owner.feature_names_in_ = estimator.feature_names_in_
    elif hasattr(owner, "feature_names_in_"):
        del owner.feature_names_in_
