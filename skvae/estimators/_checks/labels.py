"""Labels and numbers that rows come with."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from numbers import Number
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from skvae.data.kinds import NamedColumns, sort_labels
from skvae.estimators._checks.entries import refuse_masked


def check_labels(y: Any, X: Any, kept: Any, name: str = "y") -> Any:
    """Labels of the rows that are kept, as an array or a data frame."""
    given, y = y, as_columns(y, name)
    if isinstance(y, (str, bytes, Number)) or (isinstance(y, NamedColumns) and y.is_one_row and X.shape[0] != 1):
        raise ValueError(
            f"{name}={given!r} is of one row; fit takes a label or numbers for each. Columns of X are named by condition_columns."
        )
    if isinstance(y, (set, frozenset)):
        raise ValueError(f"{name} is a set, which has no order; pass a list, an array or a data frame.")
    check_consistent_length(X, y)
    if isinstance(y, NamedColumns):
        return y.take(np.flatnonzero(kept)) if isinstance(kept, np.ndarray) else y
    y = y if hasattr(y, "columns") else as_array(y, name)
    return _safe_indexing(y, np.flatnonzero(kept)) if isinstance(kept, np.ndarray) else y


def as_columns(y: Any, name: str, names: list[Any] | None = None) -> Any:
    """Labels and numbers that come by name, in a dict or several, as columns; others as they are.

    With `names`, a row of a data frame is read by name, too.
    """
    if isinstance(y, Mapping) and not hasattr(y, "shape"):  # which sparse matrices of keys have
        return NamedColumns(dict(y), name)
    if isinstance(y, (list, tuple)) and y and all(isinstance(row, Mapping) for row in y):
        if any(row.keys() != y[0].keys() for row in y):
            raise ValueError(f"{name} is a list of dicts with different names; each must have the same.")
        return NamedColumns({key: [row[key] for row in y] for key in y[0]}, name)
    if hasattr(y, "__next__"):
        raise ValueError(f"{name} is of type {type(y).__name__!r}; pass a list, an array or a data frame.")
    if names is not None and hasattr(y, "iloc") and y.ndim == 1 and len(names) > 1 and set(y.index) == set(names):
        return NamedColumns(y.to_dict(), name)
    return y


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
        raise ValueError(
            f"{name} has {int(bad.sum())} missing, NaN or infinite entries, the first at position {position}: fill them in, or "
            "leave out the rows that have them."
        )
    return values


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # those of pandas do not compare
        return True
    return isinstance(value, (float, np.floating)) and not np.isfinite(value)


def as_array(y: Any, name: str = "y") -> np.ndarray:
    """Labels as an array, in which numbers beside text stay numbers."""
    if sparse.issparse(y):
        raise ValueError("Labels and numbers that rows come with must be dense, but are a sparse matrix: use its toarray().")
    refuse_masked(y, name)
    try:
        values = np.asarray(y)
    except ValueError:
        lengths = sorted({len(row) if hasattr(row, "__len__") else 1 for row in y})
        raise ValueError(
            f"{name} is a list of rows of different lengths, {lengths[0]} to {lengths[-1]}; each must have as many entries."
        ) from None
    if isinstance(y, (list, tuple)) and values.dtype.kind in "US":
        objects = np.asarray(y, dtype=object)
        if not all(isinstance(value, (str, bytes)) for value in objects.flat):
            return objects
    return values
