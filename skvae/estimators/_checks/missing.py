"""Entries of a table that are missing, and what stands for them."""

from __future__ import annotations

import sys
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils._missing import is_pandas_na
from sklearn.utils._param_validation import MissingValues, StrOptions

from skvae._spec import and_more
from skvae.data import Table
from skvae.data.containers import is_frame

# What `missing_values` takes.
MISSING_VALUES = [MissingValues(numeric_only=True), None]
AUTO_MISSING = [StrOptions({"auto"}), *MISSING_VALUES]


def is_nan(value: Any) -> bool:
    """Whether a value of a parameter is NaN, or pandas.NA, which stands for it."""
    return is_pandas_na(value) or (isinstance(value, Real) and bool(value != value))


def missing_in(estimator: Any, X: Any) -> Any:
    """Return what stands for a missing entry of `X`, if anything does: NaN does in data frames, where it is left open."""
    missing = getattr(estimator, "missing_values", None)
    if isinstance(missing, str):
        return np.nan if is_frame(X) else None
    return np.nan if is_nan(missing) else missing


def what_to_do_about_nan(estimator: Any, missing: Any) -> str:
    """Say in words what makes an estimator take missing entries, of which `missing` are those it takes."""
    name = type(estimator).__name__
    if not hasattr(estimator, "missing_values"):
        return f"{name} takes no missing values; fill them in first, with AutoencoderImputer or an imputer of scikit-learn."
    if missing is None:
        return (
            f"If it stands for missing entries, {name}(missing_values=np.nan) learns from the others; AutoencoderImputer fills "
            "them in."
        )
    return f"{name} has missing_values={missing!r}, which alone stands for a missing entry; np.nan takes NaN for one."


def check_missing_values(estimator: Any) -> None:
    """Raise a ValueError where what stands for a missing entry is no number that X can have."""
    if not hasattr(estimator, "missing_values"):
        return
    value, takes = estimator.missing_values, type(estimator)._parameter_constraints["missing_values"]
    others = [other for other, is_taken in ((None, None in takes), ("auto", takes is AUTO_MISSING)) if is_taken]
    if any(value is other or (isinstance(value, str) and value == other) for other in others):
        return
    if is_nan(value):
        return
    if isinstance(value, bool) or not isinstance(value, Real) or abs(value) > sys.float_info.max:
        raise ValueError(
            f"missing_values={value!r} must be np.nan or a finite number, which stands for a missing entry"
            f"{''.join(f', or {other!r}' for other in others)}."
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
