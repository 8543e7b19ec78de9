"""Images that users pass in, and the shape of theirs."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from skvae.warnings import warn_user


def flatten_images(estimator: Any, X: Any, *, reset: bool, sets_form: bool) -> Any:
    """Images of shape (n_samples, channels, height, width) as rows; notes their shape where `reset`."""
    if _depth(X) in (3, 4):
        try:
            X = np.asarray(X)
        except ValueError as error:
            raise ValueError(f"X is a list of images that are not all of one shape: {error}") from error
    shape = tuple(X.shape[1:]) if getattr(X, "ndim", None) == 4 else None
    if reset:
        given = check_image_shape(estimator.image_shape)
        if shape is not None and given is not None and shape != given:
            raise ValueError(f"X has images of shape {shape}, but image_shape={given}.")
        if given is not None and given[0] == given[1] > given[2] and given[2] in (1, 3, 4):
            height, width, channels = given
            warn_user(
                f"image_shape={given} looks like (height, width, channels), but is taken for (channels, height, width), the "
                f"order in which images are held: image_shape={(channels, height, width)}, with images of shape (n_samples, "
                "height, width, channels) passed as X.transpose(0, 3, 1, 2)."
            )
        if shape is not None and given is None and shape[2] in (1, 3, 4) and shape[0] > 4:
            raise ValueError(
                f"X has images of shape {shape}, which looks like (height, width, channels); images are (n_samples, channels, "
                f"height, width): X.transpose(0, 3, 1, 2). If the shape is right, set image_shape={shape}."
            )
        n_dimensions = getattr(X, "ndim", 2)
        if (n_dimensions == 3 and given is None) or n_dimensions > 4:
            cure = ": X[:, None] for images of one channel" if n_dimensions == 3 else ""
            raise ValueError(
                f"X has {n_dimensions} dimensions, {tuple(X.shape)}; rows are (n_samples, n_features), and images are "
                f"(n_samples, channels, height, width){cure}."
            )
        estimator.image_shape_ = given if shape is None else shape
    elif shape is not None and shape != estimator.image_shape_:
        fitted = f"images of shape {estimator.image_shape_}" if estimator.image_shape_ else "rows of features"
        raise ValueError(f"X has images of shape {shape}, but {type(estimator).__name__} was fitted on {fitted}.")
    elif getattr(X, "ndim", 2) > 2 and shape is None and (X.ndim > 3 or estimator.image_shape_ is None):
        shapes = "(n_samples, n_features)"
        if estimator.image_shape_ is not None:
            shapes += f" or images (n_samples, {', '.join(map(str, estimator.image_shape_))})"
        raise ValueError(
            f"X has {X.ndim} dimensions, {tuple(X.shape)}; as it was fitted, {type(estimator).__name__} takes rows {shapes}."
        )
    if reset or sets_form:
        estimator._gives_images = shape is not None
    if getattr(X, "ndim", None) == 3 and estimator.image_shape_ is not None:
        raise ValueError(
            f"X has 3 dimensions, {tuple(X.shape)}; images are (n_samples, channels, height, width), here "
            f"(n_samples, {', '.join(map(str, estimator.image_shape_))})."
        )
    return X if shape is None else np.asarray(X).reshape(len(X), prod(shape))


def _depth(X: Any) -> int:
    """Dimensions of nested sequences, as their first entries tell; 0 for all else."""
    depth = 0
    while isinstance(X, (list, tuple)) and X:
        X, depth = X[0], depth + 1
    return depth + np.ndim(X) if depth and hasattr(X, "ndim") else depth


def check_image_shape(image_shape: Any) -> tuple[int, int, int] | None:
    """Shape of images as a tuple: channels, height and width."""
    if image_shape is None:
        return None
    try:
        sides = np.asarray(image_shape)
    except ValueError:  # nested sequences of different lengths
        sides = np.empty(0)
    if sides.shape != (3,) or sides.dtype.kind not in "iu" or (sides < 1).any():
        raise ValueError(f"image_shape={image_shape!r} must be three integers of at least 1: (channels, height, width).")
    channels, height, width = (int(side) for side in sides)
    return channels, height, width
