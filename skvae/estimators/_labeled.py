"""What estimators share that wrap a model told one label a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skvae.estimators._checks import as_array
from skvae.estimators._conditions import check_entries, sort_labels
from skvae.estimators.cvae import CVAE


def new_model(owner: Any, default: CVAE) -> CVAE:
    """Unfitted model that is told one label a row, from the parameters `estimator` and `random_state` of `owner`."""
    estimator = default if owner.estimator is None else clone(owner.estimator)
    if estimator.condition_columns is not None:
        raise ValueError(
            f"{type(owner).__name__} tells its model the labels y; leave condition_columns of its estimator None, not "
            f"{estimator.condition_columns!r}."
        )
    return estimator if owner.random_state is None else estimator.set_params(random_state=owner.random_state)


def check_labels(owner: Any, y: Any) -> np.ndarray:
    """Labels as an array of one dimension."""
    if y is None:
        raise ValueError(f"This {type(owner).__name__} estimator requires y to be passed, but the target y is None.")
    y = check_entries(column_or_1d(as_array(y), warn=True, input_name="y"), "y")
    sort_labels(y, "y")  # which fails for those that cannot be told apart by order
    check_classification_targets(y)
    return y


def take_columns(owner: Any, estimator: CVAE) -> None:
    """Note number and names of the columns that a model has seen."""
    owner.n_features_in_ = estimator.n_features_in_
    if hasattr(estimator, "feature_names_in_"):
        owner.feature_names_in_ = estimator.feature_names_in_
    elif hasattr(owner, "feature_names_in_"):
        del owner.feature_names_in_
