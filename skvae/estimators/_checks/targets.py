"""Clean rows that noisy ones come with."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_array

from skvae.data.containers import is_frame, is_mixed
from skvae.estimators._checks.entries import refuse_text
from skvae.estimators._checks.missing import is_nan, mark_missing, missing_in
from skvae.estimators._specs import resolve


def choose_clean(X: Any, y: Any, clean: Any) -> tuple[Any, str]:
    """Choose the clean rows, and what messages call them: `clean`, else `y` where it can be nothing else, else None.

    A `y` is clean rows where it is of numbers, of the shape of `X`, and has at least two columns; beside a data frame with
    columns of different kinds, where it is one with the same columns.
    """
    if clean is not None:
        return clean, "clean"
    shape = _shape(y)
    if is_frame(X) and is_frame(y) and shape == _shape(X) and list(X.columns) == list(y.columns) and is_mixed(X):
        return y, "y"
    if len(shape) < 2 or prod(shape[1:]) < 2 or shape != _shape(X) or not _is_of_numbers(y):
        return None, "y"
    return y, "y"


def check_clean(estimator: Any, clean: Any, X: Any, *, name: str) -> Any:
    """Clean rows of checked rows `X`, as a float32 or float64 array or CSR matrix; NaN where entries are missing."""
    missing, image = missing_in(estimator, clean), estimator.image_shape_
    shape, wanted = _shape(clean), tuple(X.shape)
    shapes = [wanted] if image is None else [(wanted[0], *image), wanted]
    if shape not in shapes:
        got = f"the shape {shape}" if shape else f"no shape, a {type(clean).__name__}"
        raise ValueError(
            f"{name} has {got}, but must have the shape {' or '.join(map(str, shapes))}: the clean row of every row of X."
        )
    if estimator._frame_form is not None:
        return _keys_of(estimator, clean, name)
    if len(shape) > 2:
        clean = np.asarray(clean).reshape(wanted)
    refuse_text(clean, name)
    _check_order(estimator, clean, name)
    if isinstance(clean, np.ma.MaskedArray):
        if np.ma.is_masked(clean) and missing is None:
            raise ValueError(f"{name} contains masked entries; missing_values=np.nan learns from the others.")
        clean = clean.astype(np.float64).filled(np.nan if missing is None else missing)
    finite: Any = "allow-nan" if is_nan(missing) else True
    options: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": finite, "accept_sparse": "csr"}
    return mark_missing(check_array(clean, input_name=name, estimator=estimator, **options), missing)


def _keys_of(estimator: Any, clean: Any, name: str) -> np.ndarray:
    """Keys of clean rows, as those of X are."""
    if not is_frame(clean):
        raise ValueError(
            f"{name} is of type {type(clean).__name__!r}, but X is a data frame with columns of different kinds: pass one."
        )
    unknown = getattr(resolve("likelihood", estimator.likelihood), "handle_unknown", "error")
    keys = estimator._frame_form.read(clean, unknown, table=name)
    if not is_nan(missing_in(estimator, clean)) and np.isnan(keys).any():
        raise ValueError(f"{name} has missing entries, but missing_values={estimator.missing_values!r}.")
    return keys


def _check_order(estimator: Any, clean: Any, name: str) -> None:
    """Raise a ValueError about a data frame that has the columns of X in another order."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or not hasattr(clean, "columns"):
        return
    given = list(clean.columns)
    if given != list(names) and sorted(map(str, given)) == sorted(names):
        raise ValueError(f"{name} has the columns of X in another order: pass {name}[X.columns].")


def _shape(values: Any) -> tuple[int, ...]:
    """Shape of rows, which may be nested lists; empty where there is none."""
    if hasattr(values, "shape"):
        return tuple(values.shape)
    if not isinstance(values, (list, tuple)):
        return ()
    try:
        return np.asarray(values).shape
    except ValueError:  # nested sequences of different lengths
        return ()


def _is_of_numbers(values: Any) -> bool:
    """Whether rows are of numbers, be it in an array of another library or columns of types that allow for missing entries."""
    if not sparse.issparse(values) and np.asarray(values).dtype.kind in "biuf":
        return True
    if hasattr(values, "columns") and hasattr(values, "dtypes"):
        return all(getattr(dtype, "kind", "O") in "biuf" for dtype in values.dtypes)
    return sparse.issparse(values) and values.dtype.kind in "biuf"
