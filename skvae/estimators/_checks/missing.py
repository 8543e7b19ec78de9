"""Entries of a table that are missing, and what stands for them."""

from __future__ import annotations

import sys
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils._param_validation import MissingValues

from skvae._spec import and_more
from skvae.data import Table

# What `missing_values` takes.
MISSING_VALUES = [MissingValues(numeric_only=True), None]


def is_nan(value: Any) -> bool:
    """Whether a value of a parameter is NaN."""
    return isinstance(value, Real) and bool(value != value)


def check_missing_values(estimator: Any) -> None:
    """Raise a ValueError where what stands for a missing entry is no number that X can have."""
    if not hasattr(estimator, "missing_values"):
        return
    value, may_be_none = estimator.missing_values, None in type(estimator)._parameter_constraints["missing_values"]
    if value is None and may_be_none:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or abs(value) > sys.float_info.max:
        raise ValueError(
            f"missing_values={value!r} must be np.nan or a finite number, which stands for a missing entry"
            f"{', or None' if may_be_none else ''}."
        )


def mark_missing(X: Any, missing: Any) -> Any:
    """Rows in which entries that are missing are NaN; `missing` is the number that stands for them, if there is one."""
    if missing is None or is_nan(missing):
        return X
    if sparse.issparse(X):
        if missing == 0:
            raise ValueError("missing_values=0 is what sparse matrices leave out; pass X as a dense array, X.toarray().")
        if (X.data == missing).any():
            X = X.copy()
            X.data[X.data == missing] = np.nan
        return X
    is_missing = X == missing
    return np.where(is_missing, X.dtype.type(np.nan), X) if is_missing.any() else X


def check_missing(estimator: Any, table: Table, of: str = "X", *, begins_stream: bool = False) -> None:
    """Raise a ValueError about columns all of whose entries are missing; of a stream, others may have some."""
    if table.target is not None:
        check_missing(estimator, table.entries(), "the clean rows", begins_stream=begins_stream)
    if not table.has_missing:
        return
    empty = np.flatnonzero(table.n_missing == table.n_rows)
    if len(empty):
        listing = [str(table.name(j)) if table.names is not None else int(j) for j in empty[:5]]
        cure = "drop them"
        if begins_stream:
            cure = "begin with rows that have some, or fit to a sample of all rows first, or drop the column(s)"
        raise ValueError(
            f"Column(s) {listing}{and_more(empty, 5)} of {of} have no entry that is not missing, so that there is nothing to "
            f"learn; {cure}."
        )
