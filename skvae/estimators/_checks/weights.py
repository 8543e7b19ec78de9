"""Weights of rows, in training and in scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from skvae.estimators._checks.entries import refuse_masked


def check_weights(
    sample_weight: Any, X: Any, empty: np.ndarray | None, *, min_rows: int
) -> tuple[np.ndarray | slice, np.ndarray | None]:
    """Which rows have a positive weight and are not `empty`, and those weights, one on average.

    There are no weights if none are given or all are equal.
    """
    if sample_weight is None and empty is None:
        return slice(None), None
    weight = np.ones(X.shape[0])
    if sample_weight is not None:
        refuse_masked(sample_weight, "sample_weight")
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    kept = weight > 0
    if kept.sum() < min_rows:
        raise ValueError(f"sample_weight leaves {int(kept.sum())} row(s) with a positive weight; at least {min_rows} are needed.")
    if empty is not None:
        kept &= ~empty
        if kept.sum() < min_rows:
            raise ValueError(f"X has {int(kept.sum())} row(s) with an entry that is not missing; at least {min_rows} are needed.")
    weight = weight[kept] / weight[kept].max()
    weight = None if np.all(weight == weight[0]) else weight / weight.mean()
    return slice(None) if kept.all() else kept, weight


def check_score_weights(sample_weight: Any, scores: np.ndarray) -> np.ndarray | None:
    """Weights to average scores with."""
    if sample_weight is None:
        return None
    refuse_masked(sample_weight, "sample_weight")
    weight = _check_sample_weight(sample_weight, scores, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("sample_weight is zero for every row; there is nothing to average.")
    return weight
