"""Labels and numbers that rows come with."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing, check_consistent_length


def check_labels(y: Any, X: Any, kept: Any) -> Any:
    """Labels of the rows that are kept, as an array or a data frame."""
    check_consistent_length(X, y)
    y = y if hasattr(y, "columns") else as_array(y)
    return _safe_indexing(y, np.flatnonzero(kept)) if isinstance(kept, np.ndarray) else y


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
