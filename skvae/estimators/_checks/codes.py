"""Codes that users pass in, real numbers and integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_array
from torch import nn

from skvae.data import dense
from skvae.estimators._checks.entries import refuse_masked, refuse_no_table

_LARGEST = 1e30  # entry of a code, which leaves room for the weights of a decoder in single precision


def check_codes(estimator: Any, Z: Any) -> np.ndarray:
    """Codes as a dense float32 or float64 array with as many columns as the estimator has components."""
    refuse_no_table(Z, "Z")
    refuse_masked(Z, "Z")
    Z = dense(check_array(Z, accept_sparse="csr", dtype=[np.float64, np.float32], input_name="Z"))
    if Z.shape[1] != estimator.n_components_:
        raise ValueError(
            f"Z has {Z.shape[1]} columns, but {type(estimator).__name__} was fitted with n_components_={estimator.n_components_}."
        )
    largest = np.abs(Z).max()
    if largest > _LARGEST:
        raise ValueError(
            f"Z has entries as large as {largest:.3g}; codes are decoded in single precision and may not exceed {_LARGEST:g}."
        )
    return Z


def check_discrete_codes(module: nn.Module, codes: Any) -> np.ndarray:
    """Discrete codes as an integer matrix, each within its codebook."""
    refuse_masked(codes, "codes")
    try:
        codes = np.asarray(codes)
    except ValueError as error:
        raise ValueError(f"codes are lists of different lengths: {error}") from error
    if codes.ndim == 1 and module.n_codes == 1:
        codes = codes[:, np.newaxis]
    if len(module.levels) == 1 and codes.ndim == 1 + len(module.levels[0].shape) and codes.shape[1:] == module.levels[0].shape:
        codes = codes.reshape(len(codes), module.n_codes)
    if codes.ndim != 2 or codes.shape[1] != module.n_codes:
        levels = " + ".join("x".join(map(str, level.shape)) for level in module.levels)
        raise ValueError(f"codes have shape {codes.shape}, but must have shape (n_samples, {module.n_codes}), {levels} a row.")
    if not len(codes):
        raise ValueError("codes have 0 rows; at least 1 is needed.")
    if codes.dtype.kind not in "biuf":
        raise ValueError(f"codes must be integers, but are of type {codes.dtype}.")
    broken = codes[codes != np.round(codes)] if codes.dtype.kind == "f" else codes[:0]
    if broken.size:
        raise ValueError(f"codes must be integers, but have the value {broken.flat[0]}.")
    for i, (level, part) in enumerate(zip(module.levels, module.code_slices, strict=True)):
        own = codes[:, part]
        if own.min() < 0 or own.max() >= level.n_embeddings:
            bad = own.min() if own.min() < 0 else own.max()
            where = "" if len(module.levels) == 1 else f" in level {i}"
            raise ValueError(f"codes have the value {bad}{where}, but must lie between 0 and {level.n_embeddings - 1}.")
    return codes.astype(np.int64)
