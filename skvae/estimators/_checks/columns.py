"""Columns of a table: names and positions, masks."""

from __future__ import annotations

from math import prod
from numbers import Integral
from typing import Any

import numpy as np

from skvae._spec import and_more
from skvae.data import dense


def column_names(estimator: Any, n_features: int) -> np.ndarray | None:
    """Names that an estimator saw of so many columns, if it saw any; frames of a sequence have none."""
    names = estimator._column_names if estimator._frame_form is None else estimator._frame_form.names
    if names is None:
        names = getattr(estimator, "feature_names_in_", None)
        return names if names is not None and len(names) == n_features else None
    return np.array([*names, None], dtype=object)[:-1] if len(names) == n_features else None  # they may be of any type


def column_position(estimator: Any, column: Any, given: str) -> int:
    """Position of a column of X that an argument, which messages call `given`, has by name or position.

    Integers are positions, but where columns have integers for names: these are what is meant there.
    """
    n_features = estimator.n_features_in_
    known = column_names(estimator, n_features)
    names = [] if known is None else list(known)
    if column in names and isinstance(names[names.index(column)], bool) == isinstance(column, bool):
        return names.index(column)
    if isinstance(column, str):
        there = f"its columns are {names[:10]}{and_more(names, 10)}" if names else "its columns have no names"
        raise ValueError(f"{given} has {column!r}, which X does not have; {there}.")
    numbered = next((name for name in names if isinstance(name, Integral)), None)
    if isinstance(column, Integral) and numbered is not None and names != list(range(n_features)):
        raise ValueError(
            f"{given} has {column!r}, which is the name of no column of X: these are {names[:10]}{and_more(names, 10)}. Where "
            f"names are integers, as {numbered!r} is, columns go by their names, and not by their positions."
        )
    if isinstance(column, Integral) and not isinstance(column, bool) and -n_features <= column < n_features:
        return int(column) % n_features
    raise ValueError(f"{given} has {column!r}; it takes names and positions of the {n_features} columns of X.")


def check_columns(estimator: Any, columns: Any) -> np.ndarray:
    """Positions of columns of X that are given by name or position."""
    positions = [column_position(estimator, column, "condition_columns") for column in columns]
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
