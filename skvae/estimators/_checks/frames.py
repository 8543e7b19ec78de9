"""Data frames whose columns are not all numbers, as rows of keys."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight, check_array, validate_data

from skvae._spec import and_more
from skvae.data.containers import is_frame, is_mixed
from skvae.data.frames import FrameForm
from skvae.data.kinds import listing
from skvae.data.marginals import values_beyond
from skvae.data.table import Table
from skvae.estimators._checks.entries import refuse_text
from skvae.estimators._checks.missing import is_nan, missing_in, what_to_do_about_nan
from skvae.estimators._checks.parameters import check_parameter
from skvae.estimators._specs import resolve
from skvae.modules import Mixed
from skvae.warnings import warn_user

_LISTED = 5  # columns that a message names


def check_likelihood(estimator: Any) -> None:
    """Raise a ValueError about distributions of columns that there are not, or where columns are not of different kinds."""
    if isinstance(estimator.likelihood, dict) and estimator._takes_frames:
        try:
            resolve("likelihood", estimator.likelihood).check()
        except ValueError as error:
            raise ValueError(f"likelihood={error}") from None
    if not estimator._takes_frames and isinstance(estimator.likelihood, Mixed):
        raise ValueError(
            f"likelihood={estimator.likelihood!r} is for data frames with columns of different kinds, which "
            f"{type(estimator).__name__} does not take; {_TAKERS} do."
        )


def present_likelihood(estimator: Any) -> Any:
    """Return the specification of the likelihood, arguments of which may be changed after `fit`, if `fit` would take it."""
    check_parameter(estimator, "likelihood")
    spec = resolve("likelihood", estimator.likelihood)
    try:
        spec.check()
    except ValueError as error:
        raise ValueError(f"likelihood={error}") from None
    return spec


_TAKERS = "VAETransformer, CVAE, AutoEncoder, NeighborAE and DenoisingAE"


def refuse_other_columns(estimator: Any, X: Any) -> None:
    """Raise an error about columns that hold no numbers, for an estimator that was asked to take them all for numbers."""
    cure = ""
    if is_frame(X) and getattr(estimator, "_frame_form", None) is None:
        if not getattr(estimator, "_takes_frames", False):
            cure = f" {type(estimator).__name__} takes numbers alone; {_TAKERS} take such columns as they are."
        elif not isinstance(resolve("likelihood", estimator.likelihood), Mixed):
            cure = f" likelihood='auto' takes such columns as they are; here it is {estimator.likelihood!r}."
        elif hasattr(estimator, "module_"):
            cure = f" {type(estimator).__name__} was fitted on numbers alone."
    elif not hasattr(X, "toarray") and getattr(estimator, "_takes_frames", False) and not hasattr(estimator, "module_"):
        cure = f" Of a data frame, such as pd.DataFrame(X), {type(estimator).__name__} takes such columns as they are."
    refuse_text(X, cure=cure)


def read_frame(estimator: Any, X: Any, *, reset: bool, min_rows: int, weight: Any = None) -> np.ndarray | None:
    """Keys ``(n_samples, n_features)`` of a data frame with columns of different kinds; None where all columns are numbers.

    The form of the frame is noted where `reset`, and is that of the fit elsewhere.
    """
    form = None if reset else estimator._frame_form
    if not (has_kinds(estimator, X) if reset else form is not None):
        return None
    if not is_frame(X):
        refuse_array(estimator, X, form)
        return None
    check_array(np.zeros(X.shape), ensure_min_samples=min_rows, estimator=estimator)
    form = _form_of(estimator, X, weight) if reset else form
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    missing = missing_in(estimator, X)
    takes_missing = is_nan(missing)
    if missing is not None and not takes_missing:
        raise ValueError(
            f"missing_values={missing!r} is for numbers, but X is a data frame with columns of different kinds, in which "
            "entries are missing where there is none: set missing_values=np.nan, and put None where entries are missing."
        )
    unknown = getattr(present_likelihood(estimator), "handle_unknown", "error")
    if unknown == "missing" and not takes_missing:
        raise ValueError(
            f"likelihood={estimator.likelihood!r} takes entries that were not seen for missing ones, which "
            f"{type(estimator).__name__} has no place for here. {what_to_do_about_nan(estimator, missing)}"
        )
    keys = form.read(X, unknown, weight if reset else None)
    if not takes_missing and np.isnan(keys).any():
        names = [name for name, own in zip(form.names, keys.T, strict=True) if np.isnan(own).any()]
        raise ValueError(
            f"Input X contains NaN. Column(s) {names[:_LISTED]}{and_more(names, _LISTED)} have missing entries. "
            f"{what_to_do_about_nan(estimator, missing)}"
        )
    if reset:
        estimator._frame_form = form
    return keys


def has_kinds(estimator: Any, X: Any) -> bool:
    """Whether an estimator takes rows for those of a data frame with columns of different kinds."""
    spec = resolve("likelihood", estimator.likelihood) if estimator._takes_frames else None
    if not isinstance(spec, Mixed):
        return False
    asks = bool(spec.likelihoods) or spec.bounds is not None
    if not is_frame(X):
        if asks or spec.handle_unknown != "error":
            raise ValueError(
                f"likelihood={estimator.likelihood!r} is about columns of a data frame, but X is of type {type(X).__name__!r}. "
                "Pass a frame, or a likelihood for all columns, such as 'gaussian'."
            )
        return False
    return asks or is_mixed(X)


def _form_of(estimator: Any, X: Any, weight: Any) -> FrameForm:
    """Learn what a frame looks like."""
    if estimator.image_shape is not None:
        raise ValueError(f"image_shape={estimator.image_shape!r} is for rows of pixels; X is a data frame of other columns.")
    if weight is not None:
        weight = _check_sample_weight(weight, X, dtype=np.float64, ensure_non_negative=True)
    likelihoods = resolve("likelihood", estimator.likelihood).likelihoods or {}
    asked = {name: family for name, family in likelihoods.items() if family != "auto"}
    return FrameForm.of(X, asked, weight)


def warn_of_values_beyond(estimator: Any, table: Table) -> tuple[Any, ...]:
    """Warn about numbers in columns of levels that they are none of, and return the names of the columns.

    A column is named once, by the first call whose rows have such numbers.
    """
    marginals = estimator._arguments["marginals"]
    beyond = values_beyond(marginals, table.entries().source)
    new = {table.name(j): (j, value) for j, value in beyond.items() if table.name(j) not in estimator._beyond}
    for name, (j, value) in new.items():
        (column,) = estimator._frame_form.take([name]).columns
        keys = np.append(value, marginals[j].levels)
        entry, *levels = _plain_numbers(keys) if column.is_plain else list(column.restore(keys, False, None))
        was = f"{listing(levels)} alone" if len(levels) > 1 else f"nothing but {levels[0]!r}"
        is_count = column.is_plain and bool(((keys >= 0.0) & (keys == np.round(keys))).all())
        counts = ", or, of counts, 'poisson'," if is_count else ","
        warn_user(
            f"Column {name!r} of X holds {entry!r:.60}, which the model cannot learn: the first rows that it was fitted to had "
            f"{was} in this column, so that it takes and draws no other value. Fit it anew, beginning with rows that have all "
            f"values of the column, or with likelihood={{{name!r}: 'gaussian'}}{counts} which takes any."
        )
    return tuple(new)


def _plain_numbers(values: np.ndarray) -> list[float]:
    return [int(value) if value == round(value) else value for value in values.tolist()]


def refuse_array(estimator: Any, X: Any, form: FrameForm) -> None:
    """Raise a ValueError about rows that are no frame, where some columns are no numbers."""
    others = [column.name for column in form.columns if not column.is_plain]
    if others:
        raise ValueError(
            f"X is of type {type(X).__name__!r}, but {type(estimator).__name__} was fitted on a data frame whose columns "
            f"{others[:_LISTED]}{and_more(others, _LISTED)} are no numbers: pass a frame with the same columns."
        )
