"""What users pass in as sequences, and what they get back."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _check_feature_names, _get_feature_names, check_array, validate_data

from skvae.data.axes import doubt_about_axes
from skvae.data.containers import is_frame
from skvae.data.kinds import listing
from skvae.estimators import _checks as check
from skvae.warnings import warn_user

MIN_TIMESTEPS = 2
_CUT = "One long series is cut into windows first, skvae.sliding_windows(X, n_timesteps).X"


def holds_rows(X: Any, n_columns: int | None = None) -> bool:
    """Whether sequences come as rows; those of a list, where a model that knows rows has seen so many columns."""
    return _as_array(X, n_columns)[1]


def columns_of_rows(estimator: Any) -> int | None:
    """Columns of the rows that an estimator was fitted on: zero if it was on sequences, None where any number would do."""
    if estimator.n_timesteps is not None or estimator.n_step_features_ > 1:
        return None
    return getattr(estimator, "_n_columns", 0)


def check_sequences(estimator: Any, X: Any, *, reset: bool, min_rows: int = 1) -> np.ndarray:
    """Sequences as an array ``(n_sequences, n_timesteps, n_features)`` of float, NaN behind the end of each.

    Takes that, a list of arrays ``(n_timesteps, n_features)`` or ``(n_timesteps,)``, or rows: flattened sequences of
    `n_timesteps` steps or, without, univariate ones. Where `reset`, notes numbers and names of the columns.
    """
    is_list = isinstance(X, (list, tuple))
    frame = _first_frame(X)
    X = [_unmasked(x) for x in X] if is_list else _unmasked(X)
    X, is_rows = _as_array(X, None if reset else columns_of_rows(estimator))
    if getattr(X, "ndim", None) == 1 or (isinstance(X, (list, tuple)) and not any(hasattr(x, "__len__") for x in X)):
        n_entries = X.shape[0] if hasattr(X, "shape") else len(X)
        raise ValueError(
            f"Expected sequences, got 1D array instead: X has shape ({n_entries},). {_CUT}. Reshape your data if it is a "
            "sequence by itself: X.reshape(1, -1)."
        )
    options: Any = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan", "ensure_min_samples": min_rows}
    if is_rows:
        check.refuse_other_columns(estimator, X)
        if not reset and not hasattr(estimator, "_n_columns"):  # fitted on arrays of three dimensions
            X = check_array(X, input_name="X", estimator=estimator, **options)
        else:
            X = _validate_rows(estimator, X, reset=reset, **options)
        n_columns, n_timesteps = X.shape[1], _timesteps_of_rows(estimator, X.shape[1], reset=reset)
        X = X.reshape(len(X), n_timesteps, n_columns // n_timesteps)
    else:
        try:
            X = check_array(X, allow_nd=True, input_name="X", estimator=estimator, **options)
        except ValueError as error:
            raise _with_advice(error) from None
        if X.shape[2] == 0:
            raise ValueError(f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    _check_padding(X, min_timesteps=MIN_TIMESTEPS if reset else 1)
    if reset:
        doubt = doubt_about_axes(X, estimator.n_timesteps, is_rows=is_rows, is_list=is_list)
        if doubt is not None:
            warn_user(doubt)
        if is_rows:
            estimator._n_columns = n_columns
        else:
            vars(estimator).pop("_n_columns", None)
            vars(estimator).pop("feature_names_in_", None)
            estimator.n_features_in_ = X.shape[2]
            if frame is not None:
                _check_feature_names(estimator, frame, reset=True)
        estimator.n_step_features_ = X.shape[2]
    elif X.shape[2] != estimator.n_step_features_:
        raise ValueError(
            f"X has {X.shape[2]} features a step, but {type(estimator).__name__} was fitted on {estimator.n_step_features_}."
        )
    elif frame is not None and not hasattr(estimator, "_n_columns"):
        _check_feature_names(estimator, frame, reset=False)
    return X


def _first_frame(X: Any) -> Any:
    """Return the first data frame of a list of sequences, None where there is none; all have the same columns."""
    parts = X if isinstance(X, (list, tuple)) or getattr(X, "ndim", None) == 1 else []
    frames = [(i, part) for i, part in enumerate(parts) if is_frame(part)]
    names = [_get_feature_names(part) for _, part in frames]
    for (i, _), own in zip(frames, names, strict=True):
        if own is not None and names[0] is not None and own.tolist() != names[0].tolist():
            raise ValueError(
                f"The columns of X[{i}] are {listing(own.tolist())}, but those of X[{frames[0][0]}] are "
                f"{listing(names[0].tolist())}; the data frames of all sequences must have the same columns in the same order."
            )
    return frames[0][1] if frames else None


def _unmasked(X: Any) -> Any:
    """Sequences of a masked array, with NaN wherever it is masked, as behind the end of each."""
    if not isinstance(X, np.ma.MaskedArray) or not np.ma.is_masked(X):
        return X
    return (X if X.dtype.kind == "f" else X.astype(np.float64)).filled(np.nan)


def _validate_rows(estimator: Any, X: Any, *, reset: bool, **options: Any) -> np.ndarray:
    """Rows as `validate_data` returns them; of another length, it is said how univariate sequences of any length are passed."""
    try:
        return validate_data(estimator, X, reset=reset, **options)
    except ValueError as error:
        if reset or not columns_of_rows(estimator) or "features, but" not in str(error):
            raise _with_advice(error) from None
        advice = "Sequences of other lengths are passed as (n_sequences, n_timesteps, 1) or as a list of arrays."
        raise ValueError(f"{str(error).rstrip('.')}. {advice}") from None


def _with_advice(error: ValueError) -> ValueError:
    """Return an error that says what is to be done about a sequence that comes alone."""
    is_alone = "1 sample(s)" in str(error) and "minimum of" in str(error)
    return type(error)(f"{str(error).rstrip('.')}. {_CUT}.") if is_alone else error


def _as_array(X: Any, n_columns: int | None) -> tuple[Any, bool]:
    """Return sequences as something with two dimensions or three, and whether it has two; see `holds_rows`."""
    if type(X).__name__ == "Series" and hasattr(X, "to_numpy"):  # of sequences, or a long one
        X = X.to_numpy()
    X = check.off_tensor(X)
    check.refuse_no_table(X)
    ndim = getattr(X, "ndim", None)
    if ndim == 1 and getattr(X.dtype, "kind", "") == "O":
        X, ndim = list(X), None
    if ndim is None and isinstance(X, (list, tuple)):
        if not len(X):
            raise ValueError("X is an empty list; it takes one array (n_timesteps, n_features) a sequence.")
        return _as_one(X, n_columns) if any(hasattr(x, "__len__") and not isinstance(x, (str, bytes)) for x in X) else (X, True)
    if ndim == 3:
        if getattr(X.dtype, "kind", "f") not in "biufcO":
            raise ValueError(f"X holds {X.dtype}; sequences are of numbers.")
        return X, False
    if ndim is not None and ndim > 3:
        raise ValueError(
            f"X has {ndim} dimensions, {tuple(X.shape)}; sequences are (n_sequences, n_timesteps, n_features). Flatten the "
            "frames first: X.reshape(*X.shape[:2], -1)."
        )
    return X, True


def _as_one(X: Any, n_columns: int | None) -> tuple[Any, bool]:
    """Return a list of sequences as `_as_array` does; it holds rows where all have one dimension and one length, that of rows."""
    parts = []
    for i, x in enumerate(X):
        try:
            parts.append(np.asarray(check.off_tensor(x)))
        except ValueError:
            raise ValueError(
                f"X[{i}] has different numbers of features in its steps; it must be an array or equal lists."
            ) from None
        if parts[i].ndim not in (1, 2):
            given = f"has {parts[i].ndim} dimensions" if parts[i].ndim else f"is of type {type(x).__name__}"
            raise ValueError(f"X[{i}] {given}; in a list, sequences are arrays (n_timesteps, n_features) or (n_timesteps,).")
    lengths = {len(part) for part in parts}
    if {part.ndim for part in parts} == {1} and len(lengths) == 1 and (n_columns is None or lengths == {n_columns}):
        return X, True
    return _pad([part[:, np.newaxis] if part.ndim == 1 else part for part in parts]), False


def _pad(parts: list[np.ndarray]) -> np.ndarray:
    """Sequences of different lengths as one array, NaN behind the end of each."""
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        first = parts[0].shape[1]
        odd = next(i for i, part in enumerate(parts) if part.shape[1] != first)
        raise ValueError(
            f"Sequences must have the same features in every step, but X[0] has {first} and X[{odd}] has {parts[odd].shape[1]}."
        )
    empty = [i for i, part in enumerate(parts) if not len(part)]
    if empty:
        raise ValueError(f"X[{empty[0]}] is a sequence without any step.")
    text = [i for i, part in enumerate(parts) if part.dtype.kind not in "biufO"]
    if text:
        raise ValueError(f"X[{text[0]}] holds {parts[text[0]].dtype}; sequences are of numbers.")
    dtype = np.float32 if all(part.dtype == np.float32 for part in parts) else np.float64
    longest = max(len(part) for part in parts)
    X = np.full((len(parts), longest, widths.pop()), np.nan, dtype=dtype)
    for i, part in enumerate(parts):
        try:
            X[i, : len(part)] = part
        except (TypeError, ValueError) as error:
            raise ValueError(f"X[{i}] holds what is not a number: {error}.") from error
        _refuse_nan(X[i, : len(part)], i)
    return X


def _refuse_nan(part: np.ndarray, i: int) -> None:
    if np.isnan(part).any():
        step = int(np.isnan(part).any(axis=1).argmax())
        raise ValueError(f"Input X contains NaN: X[{i}] at step {step}. In a list, sequences end where their arrays end.")


def _timesteps_of_rows(estimator: Any, n_columns: int, *, reset: bool) -> int:
    """Return how many steps the sequences have that are rows."""
    n_timesteps = estimator.n_timesteps
    if n_timesteps is None:
        if not reset and estimator.n_step_features_ > 1:
            raise ValueError(
                f"X has rows, but {type(estimator).__name__} was fitted on sequences of {estimator.n_step_features_} features a "
                f"step: pass (n_sequences, n_timesteps, n_features), or set n_timesteps.{_advice_about(n_columns, estimator)}"
            )
        if reset and n_columns < MIN_TIMESTEPS:
            raise ValueError(
                f"X has {n_columns} feature(s), which with n_timesteps=None are the steps of a sequence; at least "
                f"{MIN_TIMESTEPS} are needed. {_CUT}."
            )
        return n_columns
    if n_columns % n_timesteps:
        raise ValueError(
            f"X has {n_columns} column(s), which n_timesteps={n_timesteps} does not divide: rows are flattened sequences, the "
            f"features of the first step first. {_divisors(n_columns)}. Windows of {n_timesteps} steps of one long series are "
            f"skvae.sliding_windows(X, {n_timesteps}).X."
        )
    return int(n_timesteps)


def _advice_about(n_columns: int, estimator: Any) -> str:
    """Return what is to be done with frames that come without an axis of sequences."""
    return f" {_CUT}; a sequence by itself is X[np.newaxis]." if n_columns == estimator.n_step_features_ else ""


def _divisors(n: int) -> str:
    """Write down the lengths that a number of columns allows."""
    fits = [str(k) for k in range(MIN_TIMESTEPS, n + 1) if n % k == 0]
    listing = ", ".join(fits if len(fits) < 6 else [*fits[:4], "...", fits[-1]])
    return f"With {n} columns, n_timesteps may be {listing}" if fits else f"At least {MIN_TIMESTEPS} columns are needed"


def _check_padding(X: np.ndarray, *, min_timesteps: int) -> None:
    """Raise a ValueError about NaN that are not behind the end of a sequence, and about short sequences."""
    missing = np.isnan(X)
    gone = missing.all(axis=2)
    length = X.shape[1] - np.cumprod(gone[:, ::-1], axis=1).sum(axis=1)
    inside = missing & (np.arange(X.shape[1]) < length[:, np.newaxis])[..., np.newaxis]
    if inside.any():
        i, step, feature = (int(part[0]) for part in np.nonzero(inside))
        raise ValueError(
            f"Input X contains NaN inside a sequence: sequence {i}, step {step}, feature {feature}. NaN may only fill the steps "
            "behind the end of a sequence; impute the others."
        )
    if length.min(initial=min_timesteps) < min_timesteps:
        i = int(length.argmin())
        found = f"{int(length[i])} step(s)" if length[i] else "no step that is not NaN" if X.shape[1] else "no step"
        needed = "one is" if min_timesteps == 1 else f"{min_timesteps} are"
        advice = f" {_CUT}." if X.shape[1] == 1 else ""
        raise ValueError(f"Sequence {i} has {found}; at least {needed} needed.{advice}")
