"""Entries of rows that samples are drawn given."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvae.data.containers import is_absent, is_frame, is_pandas
from skvae.data.frames import FrameColumn
from skvae.data.kinds import frame_columns, listing, take
from skvae.data.sources import dense
from skvae.estimators._checks.columns import column_names, column_position
from skvae.estimators._checks.entries import refuse_no_table, refuse_text
from skvae.estimators._checks.images import flatten_images
from skvae.estimators._checks.missing import mark_missing, missing_in
from skvae.estimators._checks.rows import validate_rows
from skvae.estimators._specs import resolve


class Given(NamedTuple):
    """Entries that rows are to have.

    Attributes
    ----------
    rows : ndarray of float32 or float64, shape (n_rows, n_features)
        Numbers, or keys of a data frame's entries; NaN where nothing is given.
    columns : list of column or None
        Entries themselves, of a model of data frames with columns of different kinds: a column, or None where it has none.
    """

    rows: NDArray[Any]
    columns: list[Any] | None = None

    def repeated(self, n_rows: int) -> Given:
        """Return so many rows, of the only one."""
        if len(self.rows) == n_rows:
            return self
        first = np.zeros(n_rows, dtype=np.intp)
        columns = None if self.columns is None else [own if own is None else take(own, first) for own in self.columns]
        return Given(self.rows[first], columns)


def check_given(estimator: Any, given: Any) -> Given:
    """Entries that samples are drawn given.

    Parameters
    ----------
    estimator : TableAutoEncoder
        Fitted.
    given : dict, Series, DataFrame or array-like of shape (n_rows, n_features)
        A dict or a series, and a data frame where the estimator knows names, may leave columns out and have them in any order.
    """
    form = estimator._frame_form
    if is_pandas(given) and given.ndim == 1:
        given = given.to_dict()
    if isinstance(given, Mapping) or (is_frame(given) and column_names(estimator, estimator.n_features_in_) is not None):
        if form is None and is_frame(given):
            refuse_text(given, "given")
        columns = _by_position(estimator, list(given.items()) if isinstance(given, Mapping) else frame_columns(given))
    elif form is None:
        refuse_text(given, "given")
        X = flatten_images(estimator, given, reset=False, sets_form=False)
        return _of_numbers(estimator, validate_rows(estimator, X, np.nan, reset=False))
    else:
        columns = {j: (f"given[:, {j}]", own) for j, own in enumerate(_entries(estimator, given).T)}
    lengths = {name: len(own) for name, own in columns.values() if not _is_single(own)}
    n_rows = _common_length(lengths or ({"given": len(given)} if is_frame(given) else {}))
    X, held = np.full((n_rows, estimator.n_features_in_), np.nan), [None] * estimator.n_features_in_
    for j, (name, own) in columns.items():
        entries = [own.item() if isinstance(own, np.ndarray) else own] * n_rows if _is_single(own) else own
        if form is None:
            X[:, j] = _numbers(entries, name)
        else:
            X[:, j], held[j] = _keys(estimator, form.columns[j], entries)
    return _of_numbers(estimator, X) if form is None else Given(X, held)


def _of_numbers(estimator: Any, X: NDArray[Any]) -> Given:
    """Numbers, of which those that stand for missing entries are not given."""
    return Given(mark_missing(X, missing_in(estimator, X)))


def refuse_given(estimator: Any, given: Any, why: str) -> None:
    """Raise a ValueError about entries that samples cannot be drawn given."""
    if given is not None:
        raise ValueError(
            f"{type(estimator).__name__} takes no given: {why}. VAETransformer, CVAE and AutoEncoder take some entries of rows "
            "as given."
        )


def check_n_given(n_samples: Any, n_rows: int) -> int | None:
    """Return how many draws there are of one row, or None where there is one of each."""
    if n_samples is None or n_samples == n_rows:
        return None
    if n_rows > 1:
        raise ValueError(
            f"n_samples={n_samples}, but given has {n_rows} rows, each of which is drawn once; leave n_samples out, or give one."
        )
    return int(n_samples)


def _by_position(estimator: Any, named: list[tuple[Any, Any]]) -> dict[int, tuple[str, Any]]:
    """Columns, or entries for all rows, and what messages call them, by position."""
    columns: dict[int, tuple[str, Any]] = {}
    for name, values in named:
        position = column_position(estimator, name, "given")
        if position in columns:
            raise ValueError(f"given has column {name!r} twice.")
        columns[position] = f"given[{name!r}]", values
    return columns


def _entries(estimator: Any, given: Any) -> NDArray[Any]:
    """Entries ``(n_rows, n_features)`` of a data frame's columns that come as an array, by position, with None for nothing."""
    refuse_no_table(given, "given")
    rows = given if hasattr(given, "shape") else np.array(given, dtype=object)
    if isinstance(rows, np.ma.MaskedArray):
        rows = np.where(np.ma.getmaskarray(rows), None, rows.data.astype(object))
    rows = dense(rows)
    if rows.ndim != 2 or rows.shape[1] != estimator.n_features_in_:
        names = estimator._frame_form.names
        raise ValueError(
            f"given has the shape {rows.shape}; of an array, it must have a row for each that is drawn, or one for all, with the "
            f"{len(names)} entries of the columns {listing(names)}, and None where the model is to draw. A dict or a data frame "
            "may leave columns out."
        )
    return rows.astype(object) if rows.dtype.kind in "SU" else rows


def _is_single(values: Any) -> bool:
    """Whether a value is an entry, and not a column of them."""
    return isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or np.ndim(values) == 0


def _common_length(lengths: dict[str, int]) -> int:
    if len(set(lengths.values())) > 1:
        raise ValueError(f"given has columns of different lengths: {', '.join(f'{name} {n}' for name, n in lengths.items())}.")
    n_rows = next(iter(lengths.values()), 1)
    if not n_rows:
        raise ValueError("given has no rows; it takes one for all draws, or one for each.")
    return n_rows


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Return numbers ``(n,)``, with NaN for None and whatever else stands for nothing."""
    entries = np.asarray(values, dtype=None if hasattr(values, "dtype") else object)
    if entries.ndim > 1:
        raise ValueError(f"{name} has the shape {entries.shape}; it must be a number, or one for each row.")
    if entries.dtype.kind not in "biuf":
        found = [np.nan if is_absent(entry) else entry for entry in entries.tolist()]
        strange = next((entry for entry in found if not isinstance(entry, Real | Decimal)), None)
        if strange is not None:
            raise ValueError(f"{name} holds {strange!r:.60}; it must be a number, or None where the model is to draw.")
        entries = np.array(found, dtype=np.float64)
    numbers = entries.astype(np.float64)
    if np.isinf(numbers).any():
        raise ValueError(f"{name} holds infinity; it must be a finite number, or None where the model is to draw.")
    return numbers


def _keys(estimator: Any, column: FrameColumn, entries: Any) -> tuple[NDArray[np.float64], Any]:
    """Keys ``(n,)`` of entries of a column of a data frame, and the entries as such a column."""
    if column.dtype.is_period:
        entries = column.dtype.of_given(entries)
    spec = resolve("likelihood", estimator.likelihood)
    keys = column.read(entries, getattr(spec, "handle_unknown", "error"), table="given")
    is_between = (keys != np.round(keys)) & ~np.isnan(keys)
    if column.kind == "whole" and is_between.any():
        example = list(entries)[int(is_between.argmax())]
        raise ValueError(
            f"Column {column.name!r} of given holds {example!r:.60}, which lies between two values of a column that held "
            "whole ones in fit."
        )
    low, high = column.dtype.range
    is_beyond = (keys < low) | (keys > high)
    if column.is_plain and is_beyond.any():
        raise ValueError(
            f"Column {column.name!r} of given holds {keys[is_beyond][0]:g}, but its type in fit, {column.dtype.name}, has "
            f"numbers from {low:g} to {high:g} alone."
        )
    return keys, column.dtype.of_given(entries)
