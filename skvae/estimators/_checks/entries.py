"""Entries of a table that are no numbers, and what makes numbers of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skvae._spec import and_more
from skvae.data.containers import is_frame
from skvae.data.kinds import frame_columns

_LISTED = 5  # columns that a message names


@dataclass(frozen=True)
class _Column:
    """A column that may hold something else than numbers.

    Attributes
    ----------
    table : str
        What the table is called.
    name : object
        Its name or position.
    access : str
        How it is read off the table, in Python.
    values : ndarray of shape (n,)
    library : str
        "pandas", "polars" or "numpy", whose column it is.
    dtype : object
        Of the column itself.
    """

    table: str
    name: Any
    access: str
    values: np.ndarray
    library: str
    dtype: Any


def refuse_text(X: Any, table: str = "X", cure: str = "") -> None:
    """Raise an error that names the columns of a table which hold text, dates or other things that are no numbers.

    It says what makes numbers of them, and what else could be done.
    It is a TypeError, as of scikit-learn, where a column holds things that nobody would take for a number, and else a ValueError.
    """
    found: dict[str, list[tuple[_Column, Any]]] = {}
    for column in _columns_of(X, table):
        kind, example = _what(column.values)
        if kind is not None:
            found.setdefault(kind, []).append((column, example))
    if found:
        message = " ".join(_MESSAGES[kind](found[kind]) for kind in _MESSAGES if kind in found)
        raise (TypeError if found.keys() <= {"nested", "others"} else ValueError)(message + cure)


def _columns_of(X: Any, table: str) -> list[_Column]:
    """Columns that are not known to hold numbers."""
    refuse_no_table(X, table)
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        library = "pandas" if hasattr(X, "iloc") else "polars"
        _refuse_doubles(X, table)
        columns = zip(frame_columns(X), X.dtypes, strict=True)
        return [
            _Column(table, name, f"{table}[{name!r}]", np.asarray(column), library, dtype)
            for (name, column), dtype in columns
            if getattr(dtype, "kind", "O") not in "biuf"
        ]
    access = table + "[:, {}]"
    if isinstance(X, (list, tuple)):
        _refuse_rows(X, table)
        X, access = _array_of(X, table), "[row[{}] for row in " + table + "]"
    if not isinstance(X, np.ndarray) or X.dtype.kind in "biuf":
        return []
    if X.dtype.names:
        raise ValueError(
            f"{table} is a structured array with the fields {', '.join(X.dtype.names)}; pass a matrix of numbers, "
            f"np.lib.recfunctions.structured_to_unstructured({table}), or a data frame, pd.DataFrame({table})."
        )
    if X.ndim != 2:
        _refuse_objects(X, table)
        return []
    return [_Column(table, j, access.format(j), X[:, j], "numpy", X.dtype) for j in range(X.shape[1])]


def off_tensor(X: Any) -> Any:
    """Return a tensor of torch as an array, whatever gradients it takes part in, device and precision; all else as it is."""
    if not isinstance(X, torch.Tensor):
        return X
    if X.layout is not torch.strided:
        raise TypeError("X is a sparse tensor of torch; pass X.to_dense(), or a sparse matrix of scipy.")
    X = X.detach().cpu().resolve_conj().resolve_neg()
    return (X.float() if X.dtype is torch.bfloat16 else X).numpy()


def refuse_no_table(X: Any, table: str = "X") -> None:
    """Raise a TypeError about what is not even a container of rows in some order."""
    if isinstance(X, type) or (callable(X) and not hasattr(X, "shape")):
        what = "class" if isinstance(X, type) else "function"
        raise TypeError(f"{table} is the {what} {getattr(X, '__name__', X)!r}; it must be a table of numbers.")
    if type(X).__name__ == "LazyFrame":
        raise TypeError(f"{table} is a LazyFrame, which has no rows yet; pass {table}.collect().")
    if X is None:
        raise TypeError(f"{table} is None; it must be a table of numbers.")
    if type(X).__name__ == "Series" and len(X.shape) == 1:
        _refuse_objects(np.asarray(X), table)
        raise ValueError(
            f"Expected a 2-dimensional container but got {type(X)} instead: {table}.to_frame() is a data frame of one column."
        )
    if is_frame(X) and not X.shape[1]:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required: {table} has no column."
        )
    if not hasattr(X, "shape") and (isinstance(X, (str, bytes, dict, set, frozenset)) or hasattr(X, "__next__")):
        cure = {str: "pd.read_csv", bytes: "pd.read_csv", dict: "pd.DataFrame"}.get(type(X))
        cure = f"np.asarray(list({table}))" if cure is None else f"{cure}({table})"
        raise TypeError(f"{table} is of type {type(X).__name__!r}; it must be a table of numbers, for example {cure}.")


def _refuse_rows(X: list[Any] | tuple[Any, ...], table: str) -> None:
    """Raise an error about rows that are no sequences of numbers."""
    row = next((row for row in X if isinstance(row, (str, bytes, dict, set, frozenset))), None)
    if row is None:
        return
    cure = f"for example pd.DataFrame({table})" if isinstance(row, dict) else f"for example {table} = [[0.5, 1.0], [2.0, 0.0]]"
    raise (ValueError if isinstance(row, (str, bytes)) else TypeError)(
        f"{table} is a list with entries of type {type(row).__name__!r}, such as {row!r:.60}; it must be a table of numbers, row "
        f"by row, {cure}."
    )


def _refuse_objects(X: np.ndarray, table: str) -> None:
    """Raise a ValueError about an array of rows, or images, that are arrays or lists by themselves."""
    if X.ndim != 1 or not any(isinstance(row, (np.ndarray, list, tuple)) for row in X):
        return
    shapes = list(dict.fromkeys(np.shape(np.array(row, dtype=object)) for row in X))
    cure = f"np.stack({table}) is one of the shape {(len(X), *shapes[0])}"
    if len(shapes) > 1:
        cure = f"np.stack({table}) is one where all have the same shape, but some have {shapes[0]} and some {shapes[1]}"
    raise ValueError(f"{table} is an array of objects, {len(X)} arrays or lists; pass one array of numbers. {cure}.")


def _refuse_doubles(X: Any, table: str) -> None:
    """Raise a ValueError about columns of one name, by which results could not be read."""
    names = [name for name, _ in frame_columns(X)]
    doubles = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if doubles:
        raise ValueError(
            f"{table} has several columns of the name {doubles[0]!r}{and_more(doubles, 1)}; names must differ. Rename them, or "
            f"pass {table}.to_numpy()."
        )


def refuse_masked(values: Any, name: str) -> None:
    """Raise a ValueError about masked entries where there are to be none."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has {int(np.ma.getmaskarray(values).sum())} masked entries; fill them in, or leave them out.")


def _array_of(X: Any, table: str) -> np.ndarray | None:
    """Rows that come as a list, as an array; None where they are no matrix."""
    try:
        values = np.asarray(X)
        return values if values.dtype.kind in "biuf" else np.asarray(X, dtype=object)
    except ValueError:
        lengths = sorted({len(row) for row in X if hasattr(row, "__len__")})
        if len(lengths) > 1 and not any(hasattr(entry, "__len__") for entry in X[0]):
            raise ValueError(
                f"{table} is a list of rows of different lengths, {lengths[0]} to {lengths[-1]}; all must have as many entries."
            ) from None
        return _of_objects(X)
    except TypeError:
        return None


def _of_objects(X: Any) -> np.ndarray | None:
    """Rows with nested entries as a matrix of objects; None where they are no lists of one length."""
    if not all(isinstance(row, (list, tuple)) and len(row) == len(X[0]) for row in X):
        return None
    values = np.empty((len(X), len(X[0])), dtype=object)
    for i, row in enumerate(X):
        for j, entry in enumerate(row):
            values[i, j] = entry
    return values


# -- what entries are -------------------------------------------------------------------------------------------------


def _what(values: np.ndarray) -> tuple[str | None, Any]:
    """Kind of entries that are no numbers, and one of them, if there are some that scikit-learn does not report better."""
    if values.ndim > 1 and len(values):
        return "nested", values[0]
    if not len(values) or values.dtype.kind not in "MmcOUST":
        return None, None
    if values.dtype.kind in "Mm":
        example = values[~np.isnat(values)][:1]
        text = (
            ""
            if not len(example)
            else np.datetime_as_string(example[0], unit="auto")
            if example.dtype.kind == "M"
            else example[0]
        )
        return ("dates" if values.dtype.kind == "M" else "durations"), str(text)
    entries = values.tolist()
    example = next((entry for entry in entries if isinstance(entry, _TYPES["complex"])), None)
    if example is not None:  # before it is cast, which would discard a part of it
        return "complex", example
    try:
        values.astype(np.float64)
    except (TypeError, ValueError):
        strange = [entry for entry in entries if not _is_number(entry)]
        example = next((entry for entry in strange if type(entry).__name__ != "NaTType"), *strange[:1])
    return (None, None) if example is None else (_kind_of(example), example)


def _is_number(value: Any) -> bool:
    if value is None:  # which numpy takes for NaN
        return True
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _kind_of(value: Any) -> str:
    """Return what an entry is that is no number."""
    name = type(value).__name__
    if name == "NAType":
        return "absent"
    if name in ("Interval", "Period"):
        return f"{name.lower()}s"
    if isinstance(value, str) and _reads_as_date(value):
        return "dates"
    for kind, types in _TYPES.items():
        if isinstance(value, types):
            return kind
    return "others"


def _reads_as_date(text: str) -> bool:
    try:
        dt.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str, bytes),
    "dates": (dt.date, np.datetime64),
    "durations": (dt.timedelta, np.timedelta64),
    "times": (dt.time,),
    "complex": (complex, np.complexfloating),
    "nested": (list, tuple, dict, set, frozenset, np.ndarray),
}


# -- what makes numbers of them ---------------------------------------------------------------------------------------

_Found = list[tuple[_Column, Any]]


def _listed(found: _Found, *, with_example: bool = True) -> str:
    parts = [f"{column.name!r} (e.g. {example!r})" if with_example else repr(column.name) for column, example in found]
    return f"Column(s) {', '.join(parts[:_LISTED])}{and_more(found, _LISTED)} of {found[0][0].table}"


def _text(found: _Found) -> str:
    names = ", ".join([*(repr(column.name) for column, _ in found[:_LISTED]), *(["..."] if len(found) > _LISTED else [])])
    return (
        f"{_listed(found)} cannot be converted to numbers. Encode them first, in a pipeline, for example with "
        f"make_column_transformer((OneHotEncoder(handle_unknown='ignore', sparse_output=False), [{names}]), "
        "remainder='passthrough')."
    )


def _absent(found: _Found) -> str:
    return (
        f"{_listed(found, with_example=False)} hold pandas.NA among other objects; {found[0][0].table}.convert_dtypes() makes "
        "columns of numbers with missing entries of them."
    )


def _converted(what: str, into: str, convert: Callable[[_Column], str]) -> Callable[[_Found], str]:
    """Make a message about entries that an expression converts."""

    def message(found: _Found) -> str:
        return (
            f"{_listed(found)} hold {what}, which are no numbers. Convert them first, for example to {into}: "
            f"{convert(found[0][0])}. In a pipeline, a FunctionTransformer does so for new rows, too."
        )

    return message


def _days(column: _Column) -> str:
    if column.library == "polars":
        is_text = column.values.dtype.kind not in "MO" or isinstance(column.values[0], str)
        return f"{column.access}{'.str.to_datetime()' if is_text else ''}.dt.epoch('d')"
    if column.library == "numpy" and column.values.dtype.kind == "M":
        return f"({column.access} - np.datetime64('2000-01-01')) / np.timedelta64(1, 'D')"
    return f"(pd.to_datetime({column.access}, utc=True) - pd.Timestamp('2000-01-01', tz='UTC')) / pd.Timedelta(days=1)"


def _days_of_period(column: _Column) -> str:
    starts = f"pd.PeriodIndex({column.access}).to_timestamp()"
    return f"({starts} - pd.Timestamp('2000-01-01')) / pd.Timedelta(days=1)"


def _length(column: _Column) -> str:
    if column.library == "polars":
        return f"{column.access}.dt.total_seconds()"
    if column.library == "numpy" and column.values.dtype.kind == "m":
        return f"{column.access} / np.timedelta64(1, 's')"
    return f"pd.to_timedelta({column.access}) / pd.Timedelta(seconds=1)"


def _each(expression: str) -> Callable[[_Column], str]:
    """Make an expression that converts entry by entry, `x`."""
    return lambda column: f"[{expression} for x in {column.access}]"


def _complex(found: _Found) -> str:
    return (
        f"{_listed(found)} hold complex numbers. Complex data not supported: pass real and imaginary parts, np.real and np.imag, "
        "as columns of their own."
    )


def _nested(found: _Found) -> str:
    return (
        f"{_listed(found)} hold several values in one entry: the argument must be a string or a number, not "
        f"{type(found[0][1]).__name__!r}. Spread them over columns with a number each."
    )


def _others(found: _Found) -> str:
    return (
        f"{_listed(found)} hold what is no number: the argument must be a string or a number, not "
        f"{type(found[0][1]).__name__!r}. Pass numbers that stand for it, or leave the column(s) out."
    )


_MESSAGES: dict[str, Callable[[_Found], str]] = {
    "absent": _absent,
    "text": _text,
    "dates": _converted("dates", "days since a date", _days),
    "periods": _converted("periods", "days since a date", _days_of_period),
    "durations": _converted("durations", "seconds", _length),
    "times": _converted("times of day", "hours", _each("x.hour + x.minute / 60")),
    "intervals": _converted("intervals", "their middles", _each("x.mid")),
    "complex": _complex,
    "nested": _nested,
    "others": _others,
}
