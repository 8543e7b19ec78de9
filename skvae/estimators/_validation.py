"""The one place that looks at what users pass in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils._param_validation import MissingValues
from sklearn.utils.validation import _check_sample_weight, check_array, validate_data
from torch import nn

from skvae._spec import Spec
from skvae.data.columns import dense_rows, has_missing, row_blocks
from skvae.inference import anomaly
from skvae.modules import MLP, Conv, Net

# What `missing_values` takes.
MISSING_VALUES = [MissingValues(numeric_only=True), None]


def check_rows(estimator: Any, X: Any, *, reset: bool, min_rows: int = 1, sets_form: bool = False) -> Any:
    """Rows as a float32 or float64 array or CSR matrix, with feature names and number checked; images are flattened.

    With `sets_form`, results come in the form of `X`, rows or images, from now on.
    """
    X = _flatten_images(estimator, X, reset=reset, sets_form=sets_form)
    refuse_text(X)
    missing = getattr(estimator, "missing_values", None)
    X = validate_rows(estimator, X, missing, reset=reset, accept_sparse="csr", ensure_min_samples=min_rows)
    if estimator._gives_images and estimator._n_condition_columns:
        raise ValueError("condition_columns are columns of rows; X is images, which have none to spare.")
    n_pixels = X.shape[1] - estimator._n_condition_columns
    if reset and estimator.image_shape_ is not None and prod(estimator.image_shape_) != n_pixels:
        n_given = prod(estimator.image_shape_)
        raise ValueError(f"image_shape={estimator.image_shape_} has {n_given} pixels, but X has {n_pixels} features.")
    return X


def validate_rows(estimator: Any, X: Any, missing: Any, **options: Any) -> Any:
    """Rows as `validate_data` returns them, with NaN in place of what `missing` says stands for a missing entry."""
    dtype = [np.float64, np.float32]
    try:
        X = validate_data(estimator, X, dtype=dtype, ensure_all_finite="allow-nan" if is_nan(missing) else True, **options)
    except ValueError as error:
        if not str(error).startswith("Input X contains NaN."):
            raise
        raise ValueError(f"Input X contains NaN. {_what_to_do_about_nan(estimator, missing)}") from None
    return mark_missing(X, missing)


def _what_to_do_about_nan(estimator: Any, missing: Any) -> str:
    name = type(estimator).__name__
    if not hasattr(estimator, "missing_values"):
        return f"{name} takes no missing values; fill them in first, with AutoencoderImputer or an imputer of scikit-learn."
    if missing is None:
        return (
            f"If it stands for missing entries, {name}(missing_values=np.nan) learns from the others; AutoencoderImputer fills "
            "them in."
        )
    return f"{name} has missing_values={missing!r}, which alone stands for a missing entry; np.nan takes NaN for one."


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


def missing_entries(X: Any) -> np.ndarray:
    """How many entries of each column are NaN."""
    if sparse.issparse(X):
        rows_and_columns = X.tocoo()
        return np.bincount(rows_and_columns.col[np.isnan(rows_and_columns.data)], minlength=X.shape[1])
    return np.isnan(X).sum(axis=0)


def empty_rows(X: Any) -> np.ndarray | None:
    """Which rows have no entry that is not NaN; None if there is no such row."""
    if not has_missing(X) or (sparse.issparse(X) and X.shape[1] > np.diff(X.indptr).max()):
        return None
    empty = np.concatenate([np.isnan(dense_rows(X, rows)).all(axis=1) for rows in row_blocks(*X.shape)])
    return empty if empty.any() else None


def check_missing(estimator: Any, X: Any) -> tuple[int, ...]:
    """Positions of the columns that have missing entries; none may have no others."""
    if getattr(estimator, "missing_values", None) is None or not has_missing(X):
        return ()
    n_missing = missing_entries(X)
    empty = np.flatnonzero(n_missing == X.shape[0])
    if len(empty):
        names = getattr(estimator, "feature_names_in_", None)
        listing = [int(j) if names is None else str(names[j]) for j in empty[:5]]
        raise ValueError(
            f"Column(s) {listing} of X have no entry that is not missing, so that there is nothing to learn; drop them."
        )
    return tuple(int(j) for j in np.flatnonzero(n_missing))


def _flatten_images(estimator: Any, X: Any, *, reset: bool, sets_form: bool) -> Any:
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
        if shape is not None and given is None and shape[2] in (1, 3, 4) and shape[0] > 4:
            raise ValueError(
                f"X has images of shape {shape}, which looks like (height, width, channels); images are (n_samples, channels, "
                f"height, width): X.transpose(0, 3, 1, 2). If the shape is right, set image_shape={shape}."
            )
        if getattr(X, "ndim", None) == 3 and given is None:
            raise ValueError(
                f"X has 3 dimensions, {tuple(X.shape)}; rows are (n_samples, n_features), and images are (n_samples, channels, "
                "height, width): X[:, None] for images of one channel."
            )
        estimator.image_shape_ = given if shape is None else shape
    elif shape is not None and shape != estimator.image_shape_:
        fitted = f"images of shape {estimator.image_shape_}" if estimator.image_shape_ else "rows of features"
        raise ValueError(f"X has images of shape {shape}, but {type(estimator).__name__} was fitted on {fitted}.")
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


def refuse_text(X: Any) -> None:
    """Raise a ValueError that names the columns which hold text or dates."""
    named: dict[str, Any] = {}
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        for position, (name, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True)):
            if getattr(dtype, "kind", "O") not in "biufc":
                named[repr(name)] = X.iloc[:, position] if hasattr(X, "iloc") else X[name]
    elif isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "OUST":
        named = {str(j): X[:, j] for j in range(X.shape[1])}
    examples = {name: value for name, column in named.items() if (value := _first_text(np.asarray(column))) is not None}
    if absent := [name for name, value in examples.items() if type(value).__name__ == "NAType"]:
        raise ValueError(
            f"Column(s) {', '.join(absent[:5])} of X hold pandas.NA among other objects; X.convert_dtypes() makes columns of "
            "numbers with missing entries of them."
        )
    if examples:
        listing = ", ".join(f"{name} (e.g. {value!r})" for name, value in list(examples.items())[:5])
        raise ValueError(
            f"Column(s) {listing} of X cannot be converted to numbers. Encode them first, for example with OneHotEncoder in a "
            "ColumnTransformer."
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
    if len(X.shape) < 2 or prod(X.shape[1:]) != n_features or getattr(X, "dtype", np.dtype(float)).kind in "USMm":
        return X, mask  # which is refused where rows are checked
    if hasattr(X, "iloc"):  # a data frame, whose column names are looked at later
        return X.mask(mask, 0.5), mask
    X = X.toarray() if sparse.issparse(X) else np.asarray(X)
    return np.where(mask.reshape(X.shape), 0.5, X), mask  # which every likelihood takes


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


def check_sizes(name: str, value: Any) -> int | tuple[int, ...] | None:
    """Return one integer, or one for each level, as a tuple."""
    if value is None or isinstance(value, Integral):
        return None if value is None else int(value)
    sizes = np.asarray(value)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or not len(sizes) or (sizes < 1).any():
        raise ValueError(f"{name}={value!r} must be an integer of at least 1, or one for each level.")
    return tuple(int(size) for size in sizes)


def check_discrete_codes(module: nn.Module, codes: Any) -> np.ndarray:
    """Discrete codes as an integer matrix, each within its codebook."""
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


def check_count(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return an integer that is large enough."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {at_least}.")
    return int(value)


def check_codes(estimator: Any, Z: Any) -> np.ndarray:
    """Codes as a dense float32 or float64 array with as many columns as the estimator has components."""
    Z = check_array(Z, accept_sparse="csr", dtype=[np.float64, np.float32], input_name="Z")
    if sparse.issparse(Z):
        Z = Z.toarray()
    if Z.shape[1] != estimator.n_components_:
        raise ValueError(
            f"Z has {Z.shape[1]} columns, but {type(estimator).__name__} was fitted with n_components_={estimator.n_components_}."
        )
    return Z


def check_weights(
    sample_weight: Any, X: Any, empty: np.ndarray | None, *, min_rows: int
) -> tuple[np.ndarray | slice, np.ndarray | None]:
    """Which rows have a positive weight and are not `empty`, and those weights, one on average.

    There are no weights if none are given or all are equal.
    """
    if sample_weight is None and empty is None:
        return slice(None), None
    weight = np.ones(X.shape[0])
    if sample_weight is not None:
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    kept = weight > 0
    if kept.sum() < min_rows:
        raise ValueError(f"sample_weight leaves {int(kept.sum())} row(s) with a positive weight; at least {min_rows} are needed.")
    if empty is not None:
        kept &= ~empty
        if kept.sum() < min_rows:
            raise ValueError(f"X has {int(kept.sum())} row(s) with an entry that is not missing; at least {min_rows} are needed.")
    weight = weight[kept] / weight[kept].max()
    weight = None if np.all(weight == weight[0]) else weight / weight.mean()
    return slice(None) if kept.all() else kept, weight


def check_score_weights(sample_weight: Any, scores: np.ndarray) -> np.ndarray | None:
    """Weights to average scores with."""
    if sample_weight is None:
        return None
    weight = _check_sample_weight(sample_weight, scores, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("sample_weight is zero for every row; there is nothing to average.")
    return weight


def check_anomaly_method(method: Any, default: str, *, splits: bool = False) -> str:
    """Name of a method that scores anomalies; of one whose scores split into shares of the columns, where needed."""
    names = [*anomaly.METHODS, "likelihood"]
    if splits and method == "likelihood":
        raise ValueError(
            "method='likelihood' has no shares: the log-likelihood of a row does not split into those of its columns. "
            f"explain_anomaly takes {', '.join(map(repr, anomaly.METHODS))}."
        )
    if not isinstance(method, str) or method not in ("auto", *names):
        raise ValueError(f"method={method!r} must be one of 'auto', {', '.join(map(repr, names))}.")
    return default if method == "auto" else method


def check_architecture(estimator: Any) -> None:
    """Refuse module instances: they would carry trained weights into the next fit and the next fold."""
    given = estimator.get_params(deep=False)
    for owner in ("encoder", "decoder"):
        spec = given.get(owner)
        if isinstance(spec, (MLP, Conv)):
            _check_activation(f"{owner}__activation", spec.activation)
    for name, value in given.items():
        if isinstance(value, nn.Module):
            cls = type(value).__name__
            advice = {
                "encoder": f"pass Net({cls}, ...)",
                "decoder": f"pass Net({cls}, ...)",
                "corruption": "pass a function of a batch, or one of the names",
            }.get(name, f"pass the class {cls} or a name")
            raise ValueError(f"{name}={cls}(...) is a module instance, which would keep its weights between fits; {advice}.")
        if name == "activation":
            _check_activation(name, value)
        if isinstance(value, type) and issubclass(value, Spec):
            raise ValueError(f"{name}={value.__name__} is a class; pass an instance, {value.__name__}(...).")
        if name in ("encoder", "decoder") and isinstance(value, type):
            raise ValueError(f"{name}={value.__name__} is a class; wrap it and its arguments: Net({value.__name__}, ...).")


def _check_activation(name: str, activation: Any) -> None:
    """Raise a ValueError about a class that cannot be built as the activation of a layer."""
    if not isinstance(activation, type):
        return
    if not issubclass(activation, nn.Module):
        raise ValueError(f"{name}={activation.__name__} is not a subclass of torch.nn.Module.")
    try:
        activation()
    except TypeError as error:
        raise ValueError(f"{name}={activation.__name__} cannot be built without arguments: {error}") from error


def list_callbacks(callbacks: Any) -> list[Any]:
    """Callbacks as a list: one of them, or a pair of a name and one, is a list of one."""
    if callbacks is None:
        return []
    is_pair = isinstance(callbacks, tuple) and len(callbacks) == 2 and isinstance(callbacks[0], str)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) and not is_pair else [callbacks]


def resolve_device(device: str) -> torch.device:
    """Device to compute on: "auto" means CUDA, else MPS, else the CPU."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device={device!r} is not known; use 'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps'.")
    if resolved.type == "cpu":
        return torch.device("cpu")  # of which there is one, whatever its index
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={device!r}: torch finds {torch.cuda.device_count()} CUDA device(s); use 'auto' or 'cpu'.")
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device='mps': torch finds no such device here; use 'auto' or 'cpu'.")
    return resolved


def check_network(module: nn.Module, encoder: Any, decoder: Any) -> None:
    """Run rows through networks with parts of the user's own and report a misfit in words.

    `encoder` and `decoder` are their specifications, or "tied" for a decoder that is as the encoder.
    """
    device = next(module.parameters()).device
    n_codes = module.n_components * module.encoder_outputs_per_component
    for name, network, n_inputs, n_outputs in (
        ("encoder", module.encoder, module.n_encoder_inputs, n_codes),
        ("decoder", module.decoder, module.n_decoder_inputs, module.n_features),
    ):
        spec: Any = encoder if name == "encoder" or decoder == "tied" else decoder
        if not isinstance(spec, Net):
            if isinstance(spec.activation, str):
                continue
            spec = f"with activation={spec.activation.__name__}"
        with torch.no_grad():
            module.eval()
            try:
                output = network(torch.zeros(2, n_inputs, device=device))
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise ValueError(f"The {name} {spec} fails on rows of {n_inputs} features: {what}") from error
        if not isinstance(output, torch.Tensor):
            article = "an" if type(output).__name__[0] in "aeiouAEIOU" else "a"
            raise ValueError(f"The {name} {spec} returns {article} {type(output).__name__}; it must return one tensor.")
        shape = tuple(output.shape)
        if shape != (2, n_outputs):
            got = f"{shape[1]} features" if len(shape) == 2 else f"an output of shape {shape}"
            meaning = "X has" if name == "decoder" else f"n_components={module.n_components} asks for"
            raise ValueError(f"The {name} {spec} returns {got}, {meaning} {n_outputs}.")


def check_corruption(module: nn.Module, X: Any, batch_size: int) -> None:
    """Call a corruption of the user's own once, as training will, and report what is wrong with it in words."""
    # As many rows as in a step, of all parts of X: functions may rely on what columns are like within a batch.
    rows, likelihood = dense_rows(X, slice(None, None, -(-X.shape[0] // batch_size))), module.likelihood
    some = torch.from_numpy(rows.astype(np.float32)).to(likelihood.weight.device)
    if has_missing(rows):
        some = likelihood.to_data(likelihood.fill(likelihood.standardize(rows).to(some))[0])
    given = module.as_given(some)
    asked, shape = f"corruption={module.corruption!r}", tuple(given.shape)
    try:
        with torch.enable_grad():
            corrupted = module.corruption(given.clone())
    except Exception as error:
        raise ValueError(f"{asked} fails on a batch of shape {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(corrupted, torch.Tensor) or corrupted.shape != given.shape:
        is_tensor = isinstance(corrupted, torch.Tensor)
        got = f"shape {tuple(corrupted.shape)}" if is_tensor else f"a {type(corrupted).__name__}"
        raise ValueError(
            f"{asked} returns {got} for a batch of shape {shape}; it must return a tensor of the shape that it is given."
        )
    if not corrupted.isfinite().all():
        n_bad = int((~corrupted.isfinite()).sum())
        bad = f"NaN or infinite numbers, {n_bad} of {given.numel()}"
        raise ValueError(f"{asked} returns {bad}, for a batch of shape {shape}; all must be finite.")


@contextmanager
def unchanged_on_failure(estimator: Any) -> Iterator[None]:
    """Leave an estimator as it was if the block raises."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
