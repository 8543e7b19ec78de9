"""Labels and numbers that rows come with."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skvae.data.kinds import sort_labels


def check_labels(y: Any, X: Any, kept: Any) -> Any:
    """Labels of the rows that are kept, as an array or a data frame."""
    check_consistent_length(X, y)
    y = y if hasattr(y, "columns") else as_array(y)
    return _safe_indexing(y, np.flatnonzero(kept)) if isinstance(kept, np.ndarray) else y


def check_class_labels(estimator: Any, y: Any) -> np.ndarray:
    """Class labels ``(n_samples,)``, one for each row, for an estimator that cannot do without."""
    if y is None:
        raise ValueError(f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None.")
    y = check_entries(column_or_1d(as_array(y), warn=True, input_name="y"), "y")
    sort_labels(y, "y")  # which fails for labels that have no order
    check_classification_targets(y)
    return y


def check_entries(values: np.ndarray, name: str) -> np.ndarray:
    """Labels or numbers, none of which may be missing, infinite or something that is neither."""
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
    elif values.dtype.kind in "Mm":
        bad = np.isnat(values)
    elif values.dtype.kind == "O":
        bad = np.vectorize(_is_missing, otypes=[bool])(values)
        strange = next((value for value in values.flat if not isinstance(value, Hashable)), None)
        if strange is not None:
            raise ValueError(f"{name} has an entry of type {type(strange).__name__}, {strange!r}, which is no label.")
    else:
        return values
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        position = where[0] if len(where) == 1 else tuple(where)
        raise ValueError(f"{name} has {int(bad.sum())} missing, NaN or infinite entries, the first at position {position}.")
    return values


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # those of pandas do not compare
        return True
    return isinstance(value, (float, np.floating)) and not np.isfinite(value)


def as_array(y: Any) -> np.ndarray:
    """Labels as an array, in which numbers beside text stay numbers."""
    if sparse.issparse(y):
        raise ValueError("Labels and numbers that rows come with must be dense, but are a sparse matrix: use its toarray().")
    values = np.asarray(y)
    if isinstance(y, (list, tuple)) and values.dtype.kind in "US":
        objects = np.asarray(y, dtype=object)
        if not all(isinstance(value, (str, bytes)) for value in objects.flat):
            return objects
    return values
