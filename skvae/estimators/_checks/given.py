"""Entries of rows that samples are drawn given."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae.data.kinds import frame_columns
from skvae.estimators._checks.columns import column_position
from skvae.estimators._checks.entries import refuse_text
from skvae.estimators._checks.images import flatten_images
from skvae.estimators._checks.missing import mark_missing
from skvae.estimators._checks.rows import validate_rows


def check_given(estimator: Any, given: Any) -> Any:
    """Rows of what is given, NaN where nothing is, as a float32 or float64 array ``(n_rows, n_features)``.

    Parameters
    ----------
    estimator : BaseAutoEncoder
        Fitted.
    given : dict, DataFrame or array-like of shape (n_rows, n_features)
        A dict, and a data frame where the estimator knows names, may leave columns out and have them in any order.
    """
    is_frame = hasattr(given, "columns") and hasattr(given, "dtypes")
    if isinstance(given, Mapping):
        X = _by_name(estimator, list(given.items()))
    elif is_frame and hasattr(estimator, "feature_names_in_"):
        refuse_text(given, "given")
        X = _by_name(estimator, frame_columns(given))
    else:
        refuse_text(given, "given")
        X = flatten_images(estimator, given, reset=False, sets_form=False)
        X = validate_rows(estimator, X, np.nan, reset=False)
    return mark_missing(X, getattr(estimator, "missing_values", None))


def check_n_given(n_samples: Any, n_rows: int) -> int | None:
    """Return how many draws there are of one row, or None where there is one of each."""
    if n_samples is None or n_samples == n_rows:
        return None
    if n_rows > 1:
        raise ValueError(
            f"n_samples={n_samples}, but given has {n_rows} rows, each of which is drawn once; leave n_samples out, or give one."
        )
    return int(n_samples)


def _by_name(estimator: Any, columns: list[tuple[Any, Any]]) -> NDArray[np.float64]:
    """Rows of columns, or of entries for all rows, by the names or positions of the columns."""
    values: dict[int, NDArray[np.float64]] = {}
    for name, column in columns:
        position = column_position(estimator, name, "given")
        if position in values:
            raise ValueError(f"given has column {name!r} twice, by its name and by its position.")
        values[position] = _numbers(column, f"given[{name!r}]")
    n_rows = {name: len(own) for (name, _), own in zip(columns, values.values(), strict=True) if own.ndim}
    if len(set(n_rows.values())) > 1:
        raise ValueError(f"given has columns of different lengths: {n_rows}.")
    X = np.full((next(iter(n_rows.values()), 1), estimator.n_features_in_), np.nan)
    if not len(X):
        raise ValueError("given has no rows; it takes one for all draws, or one for each.")
    for position, own in values.items():
        X[:, position] = own
    return X


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Return a number, or numbers ``(n,)``, with NaN for None and whatever else stands for nothing."""
    entries = np.asarray(values, dtype=None if hasattr(values, "dtype") else object)
    if entries.ndim > 1:
        raise ValueError(f"{name} has the shape {entries.shape}; it must be a number, or one for each row.")
    if entries.dtype.kind not in "biuf":
        found = [np.nan if _is_nothing(entry) else entry for entry in entries.reshape(-1).tolist()]
        strange = next((entry for entry in found if not isinstance(entry, Real)), None)
        if strange is not None:
            raise ValueError(f"{name} holds {strange!r:.60}; it must be a number, or None where the model is to draw.")
        entries = np.array(found, dtype=np.float64).reshape(entries.shape)
    numbers = entries.astype(np.float64)
    if np.isinf(numbers).any():
        raise ValueError(f"{name} holds infinity; it must be a finite number, or None where the model is to draw.")
    return numbers


def _is_nothing(entry: Any) -> bool:
    return entry is None or type(entry).__name__ in ("NAType", "NaTType")
