"""Columns of a table, and entries of it: text that is refused, names and positions, masks."""

from __future__ import annotations

from math import prod
from numbers import Integral
from typing import Any

import numpy as np

from skvae._spec import and_more
from skvae.data import dense
from skvae.data.kinds import frame_columns


def refuse_text(X: Any, table: str = "X") -> None:
    """Raise a ValueError that names the columns of a table which hold text or dates."""
    named: dict[str, Any] = {}
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        columns = zip(frame_columns(X), X.dtypes, strict=True)
        named = {repr(name): column for (name, column), dtype in columns if getattr(dtype, "kind", "O") not in "biufc"}
    elif isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OUST":
        named = {str(j): X[:, j] for j in range(X.shape[1])}
    examples = {name: value for name, column in named.items() if (value := _first_text(np.asarray(column))) is not None}
    if absent := [name for name, value in examples.items() if type(value).__name__ == "NAType"]:
        raise ValueError(
            f"Column(s) {', '.join(absent[:5])}{and_more(absent, 5)} of {table} hold pandas.NA among other objects; "
            f"{table}.convert_dtypes() makes columns of numbers with missing entries of them."
        )
    if examples:
        listing = ", ".join(f"{name} (e.g. {value!r})" for name, value in list(examples.items())[:5])
        raise ValueError(
            f"Column(s) {listing}{and_more(examples, 5)} of {table} cannot be converted to numbers. Encode them first, for "
            "example with OneHotEncoder in a ColumnTransformer."
        )


def _first_text(values: np.ndarray) -> Any:
    """Return an entry that is no number, if there is one that scikit-learn does not report better."""
    if values.dtype.kind in "Mm":
        return str(values[0]) if len(values) else None
    if values.dtype.kind not in "OUST":
        return None
    try:
        values.astype(np.float64)
    except ValueError:
        return next((value for value in values if isinstance(value, str)), values[0])
    except TypeError:
        return next((value for value in values if type(value).__name__ == "NAType"), None)
    return None


def column_names(estimator: Any, n_features: int) -> np.ndarray | None:
    """Names that an estimator saw of so many columns, if it saw any; frames of a sequence have none."""
    names = getattr(estimator, "feature_names_in_", None)
    return names if names is not None and len(names) == n_features else None


def check_columns(estimator: Any, columns: Any) -> np.ndarray:
    """Positions of columns of X that are given by name or position."""
    names = list(getattr(estimator, "feature_names_in_", []))
    positions = []
    known = range(-estimator.n_features_in_, estimator.n_features_in_)
    for column in columns:
        if isinstance(column, str):
            if column not in names:
                there = f"its columns are {names}" if names else "its columns have no names"
                raise ValueError(f"condition_columns has {column!r}, which X does not have; {there}.")
            positions.append(names.index(column))
        elif isinstance(column, Integral) and not isinstance(column, bool) and column in known:
            positions.append(int(column) % estimator.n_features_in_)
        else:
            raise ValueError(
                f"condition_columns has {column!r}; it takes names and positions of the {estimator.n_features_in_} columns of X."
            )
    if not positions or len(set(positions)) < len(positions) or len(positions) == estimator.n_features_in_:
        raise ValueError(
            f"condition_columns={columns!r} must name at least one column, none twice, and leave some of the "
            f"{estimator.n_features_in_} columns of X to be reconstructed."
        )
    return np.array(positions)


def check_mask(estimator: Any, X: Any, mask: Any, pixels: np.ndarray) -> tuple[Any, np.ndarray]:
    """Rows with something harmless where they are masked, and the mask as a matrix of bool, True where masked.

    `pixels` are positions of the columns of X that masks in the shape of images are about.
    """
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bui" or not np.isin(mask, (0, 1)).all():
        what = f"is of type {mask.dtype}" if mask.dtype.kind not in "ui" else f"has entries from {mask.min()} to {mask.max()}"
        raise ValueError(f"mask must be True or False for every entry, but {what}.")
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    n_rows, n_features = X.shape[0] if X.shape else 0, estimator.n_features_in_
    shapes, image = [(n_rows, n_features), (n_features,)], estimator.image_shape_
    of_images = [] if image is None else [(n_rows, *image), image, image[1:]]
    if mask.shape not in (*shapes, *of_images):
        fits = " or ".join(str(shape) for shape in (*shapes, *of_images))
        raise ValueError(f"mask has shape {mask.shape}; it must have the shape {fits}.")
    mask = mask.astype(bool)
    if mask.shape not in shapes:
        masked_pixels = np.broadcast_to(mask, (n_rows, *image)).reshape(n_rows, len(pixels))
        mask = np.zeros((n_rows, n_features), dtype=bool)
        mask[:, pixels] = masked_pixels
    mask = np.broadcast_to(mask, (n_rows, n_features))
    harmless = np.zeros(n_features)
    harmless[pixels] = estimator.module_.likelihood.units.state["low"]  # which occurred in training
    if len(X.shape) < 2 or prod(X.shape[1:]) != n_features or getattr(X, "dtype", np.dtype(float)).kind in "USMm":
        return X, mask  # which is refused where rows are checked
    if hasattr(X, "iloc"):  # a data frame, whose column names are looked at later
        return X.mask(mask, np.broadcast_to(harmless, mask.shape)), mask
    X = dense(X)
    harmless = harmless.astype(X.dtype) if X.dtype.kind == "f" else harmless
    return np.where(mask, harmless, X.reshape(mask.shape)).reshape(X.shape), mask
