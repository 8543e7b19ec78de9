"""How data frames of pandas and polars hold their columns, and columns in a form that neither of them has."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Complex, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae.data.kinds import frame_columns

# Nanoseconds of the units of time, the finest first.
UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "D": 86400 * 10**9}
_DAY = UNITS["D"]
_MOST_TICKS = 2**63 - 2**11  # the largest number in double precision that is a 64-bit integer
DAYS_OF_PYTHON = (
    dt.date.min.toordinal() - dt.date(1970, 1, 1).toordinal(),
    dt.date.max.toordinal() - dt.date(1970, 1, 1).toordinal(),
)
_WITH_NAN, _WITH_NAT = (float, np.floating, decimal.Decimal), (np.datetime64, np.timedelta64)
_MARKERS = ("NAType", "NaTType")  # of pandas, for what is missing
_PRECISE = decimal.Context(prec=400)
_POLARS_ARGUMENTS = {
    "Decimal": ("precision", "scale"),
    "Datetime": ("time_unit", "time_zone"),
    "Duration": ("time_unit",),
    "Enum": ("categories",),
}
# By what an entry is called, the types of which it is; the first that fits counts.
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "bytes": (bytes,),
    "booleans": (bool, np.bool_),
    "numbers": (Real, decimal.Decimal),
    "complex numbers": (Complex,),
    "dates and times": (dt.datetime, np.datetime64),
    "dates": (dt.date,),
    "times of day": (dt.time,),
    "durations": (dt.timedelta, np.timedelta64),
}


# -- columns in a form of no library ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Entries:
    """A column of names, such as text, categories, or True and False.

    Attributes
    ----------
    codes : ndarray of int, shape (n,)
        Positions among the distinct entries; -1 where one is missing.
    distinct : list
        The distinct entries, in the order of the categories where the column has some, and else as they come.
    is_ordered, is_bool : bool
        Whether the order says something, and whether there are no others than True and False.
    """

    codes: NDArray[np.int64]
    distinct: list[Any]
    is_ordered: bool = False
    is_bool: bool = False


@dataclass(frozen=True, eq=False)
class Amounts:
    """A column of numbers, float64 ``(n,)``, NaN where one is missing."""

    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ticks:
    """A column of times or durations.

    Attributes
    ----------
    counts : ndarray of int64, shape (n,)
        Units of time since 1970, or since midnight, or that a duration takes.
    missing : ndarray of bool, shape (n,)
    unit : int
        Nanoseconds of a unit; 0 for periods, which are counted themselves.
    """

    counts: NDArray[np.int64]
    missing: NDArray[np.bool_]
    unit: int


def is_frame(X: Any) -> bool:
    """Whether `X` is a data frame, whose columns have types of their own."""
    return hasattr(X, "columns") and hasattr(X, "dtypes") and not isinstance(X, type)


def is_pandas(X: Any) -> bool:
    """Whether a frame or a column is one of pandas."""
    return hasattr(X, "iloc")


def is_mixed(frame: Any) -> bool:
    """Whether a column of a data frame holds something else than numbers, such as text, dates, or True and False."""
    return not all(_holds_numbers(column) for _, column in frame_columns(frame))


def _holds_numbers(column: Any) -> bool:
    dtype = column.dtype
    if not is_pandas(column):
        return bool(dtype.is_numeric())
    if _letter(dtype) == "O" and str(dtype) == "object":
        return {class_of(value) for value in column.tolist() if not is_absent(value)} <= {"numbers"}
    return _letter(dtype) in "iuf" or str(dtype).startswith("decimal")


def _letter(dtype: Any) -> str:
    """Letter of what numpy has for a type of pandas; "O" where it has nothing."""
    return getattr(dtype, "kind", "O") or "O"


def is_absent(value: Any) -> bool:
    """Whether an entry is missing: None, NaN, and the markers of pandas."""
    if value is None:
        return True
    if isinstance(value, _WITH_NAN):
        return bool(value != value)
    if isinstance(value, _WITH_NAT):
        return bool(np.isnat(value))
    return type(value).__name__ in _MARKERS


def _has_absent(kind: type) -> bool:
    """Whether entries of a type may be missing."""
    return issubclass(kind, (type(None), *_WITH_NAN, *_WITH_NAT)) or kind.__name__ in _MARKERS


def class_of(value: Any) -> str:
    """Return what an entry is, in words."""
    kind = next((kind for kind, types in _TYPES.items() if isinstance(value, types)), None)
    if kind is not None:
        return kind
    name = type(value).__name__
    if name in ("Interval", "Period"):
        return f"{name.lower()}s"
    return "several values in one entry" if hasattr(value, "__iter__") else f"entries of type {name}"


# -- reading ----------------------------------------------------------------------------------------------------------


def read_column(column: Any, name: str) -> Entries | Amounts | Ticks:
    """Return a column of a frame, or a sequence of entries, in a form of no library; errors call it by `name`.

    Raises
    ------
    ValueError
        If it holds what is neither a name, nor a number, nor a time, or entries of several types.
    """
    if is_pandas(column):
        return _of_pandas(column, name)
    if hasattr(column, "to_physical"):
        return _of_polars(column, name)
    values = column if isinstance(column, np.ndarray) else np.asarray(column, dtype=object)
    return _of_objects(values.tolist(), name) if values.dtype.kind in "OUSbc" else _of_numpy(values, name)


def missing_of(given: Entries | Amounts | Ticks) -> NDArray[np.bool_]:
    """Which entries of a column are missing, ``(n,)``."""
    if isinstance(given, Entries):
        return given.codes < 0
    return given.missing if isinstance(given, Ticks) else np.isnan(given.values)


def absent_entries(frame: Any) -> NDArray[np.bool_]:
    """Which entries of a data frame are missing, ``(n_rows, n_columns)``."""
    found = [missing_of(read_column(column, f"Column {name!r} of X")) for name, column in frame_columns(frame)]
    return np.stack(found, axis=1)


def with_index_of(frame: Any, like: Any) -> Any:
    """Return a frame with the index of another of as many rows, which its rows belong to, where both are of pandas."""
    if hasattr(frame, "iloc") and is_frame(like) and hasattr(like, "iloc") and len(frame) == len(like):
        frame.index = like.index
    return frame


def take_columns(frame: Any, positions: NDArray[np.intp]) -> Any:
    """Return the data frame of some of the columns."""
    return frame.iloc[:, positions] if is_pandas(frame) else frame[:, positions.tolist()]


def _of_pandas(column: Any, name: str) -> Entries | Amounts | Ticks:
    dtype = column.dtype
    if hasattr(dtype, "categories"):
        codes = column.cat.codes.to_numpy().astype(np.int64)
        return Entries(codes, column.cat.categories.tolist(), is_ordered=bool(dtype.ordered))
    letter = _letter(dtype)
    if letter in "iuf":
        return _finite(column.to_numpy(dtype=np.float64, na_value=np.nan), name)
    if hasattr(dtype, "freq"):
        missing = column.isna().to_numpy()
        return Ticks(np.where(missing, 0, column.array.asi8), missing, 0)
    if letter in "Mm" and not hasattr(dtype, "pyarrow_dtype"):
        naive = column.dt.tz_convert(None) if getattr(dtype, "tz", None) is not None else column
        return _of_numpy(naive.to_numpy(), name)
    return _of_objects(column.tolist(), name)


def _of_polars(column: Any, name: str) -> Entries | Amounts | Ticks:
    dtype, base = column.dtype, _base(column.dtype)
    if dtype.is_numeric():
        return _finite(column.cast(float).to_numpy(), name)
    if dtype.is_temporal():
        unit = {"Date": _DAY, "Time": 1}.get(base) or UNITS[dtype.time_unit]
        counts = column.to_physical().cast(int).fill_null(0).to_numpy()
        return Ticks(counts, column.is_null().to_numpy(), unit)
    if base == "Enum":
        return Entries(column.to_physical().cast(int).fill_null(-1).to_numpy(), dtype.categories.to_list())
    return _of_objects(column.to_list(), name)


def _base(dtype: Any) -> str:
    """Name of a type of polars, without its arguments."""
    return str(dtype).partition("(")[0]


def _of_numpy(values: NDArray[Any], name: str) -> Amounts | Ticks:
    if values.dtype.kind not in "Mm":
        return _finite(values.astype(np.float64), name)
    missing = np.isnat(values)
    unit, n_units = np.datetime_data(values.dtype)
    if unit in ("Y", "M", "W", "generic"):
        values, unit, n_units = values.astype(f"{values.dtype.kind}8[D]"), "D", 1
    return Ticks(np.where(missing, 0, values.view(np.int64)), missing, UNITS[unit] * n_units)


def _of_objects(values: list[Any], name: str) -> Entries | Amounts | Ticks:
    """Entries of one type, as objects of Python."""
    missing, present = np.zeros(len(values), dtype=bool), values
    suspects = {kind for kind in set(map(type, values)) if _has_absent(kind)}
    if suspects:
        missing = np.fromiter((type(value) in suspects and is_absent(value) for value in values), bool, len(values))
        present = (
            [value for value, is_missing in zip(values, missing, strict=True) if not is_missing] if missing.any() else values
        )
    first_of_type = [next(value for value in present if type(value) is kind) for kind in dict.fromkeys(map(type, present))]
    examples = {class_of(value): value for value in reversed(first_of_type)}
    if len(examples) > 1:
        listed = " and ".join(f"{kind} ({example!r:.40})" for kind, example in sorted(examples.items()))
        raise ValueError(f"{name} holds entries of several types, {listed}; make them of one, such as text by astype(str).")
    kind = next(iter(examples), "text")
    if kind in ("text", "bytes", "booleans", "intervals", "periods"):
        positions = {value: i for i, value in enumerate(dict.fromkeys(present))}
        codes = np.full(len(values), -1, dtype=np.int64)
        codes[~missing] = np.fromiter(map(positions.__getitem__, present), np.int64, len(present))
        return Entries(codes, list(positions), is_bool=kind == "booleans")
    if kind == "numbers":
        numbers = np.full(len(values), np.nan)
        numbers[~missing] = [float(value) for value in present]
        return _finite(numbers, name)
    if kind in ("dates and times", "dates", "times of day", "durations"):
        counts, unit = _counted(present, kind, name)
        placed = np.zeros(len(values), dtype=np.int64)
        placed[~missing] = counts
        return Ticks(placed, missing, unit)
    cure = {
        "complex numbers": "pass real and imaginary parts, np.real and np.imag, as columns of their own",
        "several values in one entry": "spread them over columns with one each",
    }.get(kind, "make text or numbers of them, or leave the column out")
    raise ValueError(f"{name} holds {kind}, such as {examples[kind]!r:.60}; {cure}.")


def _counted(values: list[Any], kind: str, name: str) -> tuple[NDArray[np.int64], int]:
    """Count time of objects of Python; return that, and the nanoseconds of the unit."""
    if kind == "times of day":
        seconds = [(value.hour * 60 + value.minute) * 60 + value.second for value in values]
        return np.array([10**6 * s + v.microsecond for s, v in zip(seconds, values, strict=True)], dtype=np.int64), UNITS["us"]
    if kind == "dates":
        return np.array(values, dtype="M8[D]").view(np.int64), _DAY
    is_aware = {getattr(value, "tzinfo", None) is not None for value in values}
    if len(is_aware) > 1:
        raise ValueError(f"{name} holds times with and without a time zone; give all of them one.")
    if is_aware == {True}:
        values = [value.astimezone(dt.UTC).replace(tzinfo=None) for value in values]
    is_fine = any(getattr(value, "nanosecond", getattr(value, "nanoseconds", 0)) for value in values)
    unit = "ns" if is_fine else "us"
    letter = "M8" if kind == "dates and times" else "m8"
    return np.array([_as_numpy(value) for value in values], dtype=f"{letter}[{unit}]").view(np.int64), UNITS[unit]


def _as_numpy(value: Any) -> Any:
    """Return a time or duration of pandas as one of numpy, without loss; others as they are."""
    return value.to_numpy() if hasattr(value, "to_numpy") else value


def _finite(values: NDArray[np.float64], name: str) -> Amounts:
    if np.isinf(values).any():
        raise ValueError(f"Input X contains infinity or a value too large for dtype('float64'). {name} does.")
    return Amounts(np.array(values, dtype=np.float64))


# -- and back ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Dtype:
    """How a library holds a column: what makes one of entries, numbers or counts of time.

    Attributes
    ----------
    library : {"pandas", "polars"}
    name : object
        The type in words, as the library reads it; the type itself where words do not say it all.
    holds : str
        Class of the entries of a column of objects, where they have one.
    arguments : dict
        What else there is to the type.
    """

    library: str
    name: Any
    holds: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, column: Any) -> Dtype:
        """Return how a column of a frame is held."""
        dtype = column.dtype
        if not is_pandas(column):
            given = {name: getattr(dtype, name) for name in _POLARS_ARGUMENTS.get(_base(dtype), ())}
            listed = {name: value.to_list() if hasattr(value, "to_list") else value for name, value in given.items()}
            return cls("polars", _base(dtype), arguments=listed)
        if hasattr(dtype, "categories"):
            return cls("pandas", "category", arguments={"categories": _plain(dtype.categories), "ordered": bool(dtype.ordered)})
        if str(dtype) == "object":
            return cls._of_objects(column.tolist())
        if type(dtype).__name__ == "StringDtype":
            is_nan = isinstance(getattr(dtype, "na_value", None), float)
            return cls("pandas", "string", arguments={"storage": dtype.storage, "is_nan": is_nan})
        try:
            says_all = cls("pandas", str(dtype)).make() == dtype
        except (TypeError, ValueError, NotImplementedError):
            says_all = False
        return cls("pandas", str(dtype) if says_all else dtype)

    @classmethod
    def _of_objects(cls, values: list[Any]) -> Dtype:
        """Return how a column of objects is held, with what stands for missing ones and the time zone, where there are some."""
        absent = next((type(value).__name__ for value in values if is_absent(value)), "float")
        present = {type(value).__name__: value for value in reversed(values) if not is_absent(value)}
        holds = next(iter(present)) if len(present) == 1 else ""
        unit = next((value.unit for value in present.values() if hasattr(value, "unit")), "us")  # of times of pandas
        zones = [value.tzinfo for value in present.values() if getattr(value, "tzinfo", None) is not None]
        return cls("pandas", "object", holds, {"absent": absent, "zone": str(zones[0]) if zones else None, "unit": unit})

    def make(self) -> Any:
        """Return the type as the library has it."""
        if self.library == "polars":
            import polars as pl

            dtype = getattr(pl, self.name)
            return dtype(**self.arguments) if self.arguments else dtype
        import pandas as pd

        if self.name == "category":
            return pd.CategoricalDtype(self.arguments["categories"], ordered=self.arguments["ordered"])
        if self.name == "string":
            marker = {"na_value": np.nan} if self.arguments["is_nan"] else {}
            return pd.StringDtype(self.arguments["storage"], **marker)
        return pd.api.types.pandas_dtype(self.name)

    @property
    def _absent(self) -> Any:
        """What stands for a missing entry among objects of Python."""
        if self.name == "object" and self.arguments["absent"] == "NAType":
            import pandas as pd

            return pd.NA
        return np.nan if self.name == "object" and self.arguments["absent"] != "NoneType" else None

    @property
    def zone(self) -> str | None:
        """Name of the time zone of times; None of times without, and of others."""
        if self.library == "polars" or self.name == "object":
            zone = self.arguments.get("time_zone", self.arguments.get("zone"))
        elif str(self.name).startswith(("datetime64", "timestamp")):
            dtype = self.make()
            zone = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
        else:
            zone = None
        return None if zone is None else str(zone)

    @property
    def integers(self) -> tuple[int, int] | None:
        """Smallest and largest of the integers that a column holds; None where it can hold other numbers."""
        name = str(self.name).lower().partition("[")[0]
        digits = name.lstrip("uint")
        if not name.startswith(("int", "uint")) or not digits.isdigit() or self.name == "interval":
            return None
        n_bits = int(digits)
        return (0, 2**n_bits - 1) if name.startswith("u") else (-(2 ** (n_bits - 1)), 2 ** (n_bits - 1) - 1)

    @property
    def scale(self) -> int | None:
        """Decimals of a column of decimal numbers; None of others."""
        if not str(self.name).lower().startswith("decimal"):
            return None
        scale = self.arguments.get("scale")
        return int(scale if scale is not None else self.make().pyarrow_dtype.scale)

    # -- columns ------------------------------------------------------------------------------------------------------

    def of_entries(self, distinct: Sequence[Any], positions: NDArray[np.int64]) -> Any:
        """Column of entries at positions ``(n,)`` among distinct ones; -1 where one is missing."""
        if self.name == "category":
            import pandas as pd

            dtype = self.make()
            places = dtype.categories.get_indexer(pd.Index(list(distinct), dtype=dtype.categories.dtype))
            return pd.Series(pd.Categorical.from_codes(np.append(places, -1)[positions], dtype=dtype))
        values = np.empty(len(distinct) + 1, dtype=object)
        values[:-1] = list(distinct)
        values[-1] = self._absent
        return self._column(values[positions].tolist())

    def of_given(self, column: Any) -> Any:
        """Column of the entries of another one, or of a sequence, as they are.

        Raises
        ------
        ValueError
            If the column cannot hold them.
        """
        is_own = hasattr(column, "dtype") and is_pandas(column) == (self.library == "pandas") and column.dtype == self.make()
        if is_own and not isinstance(column, np.ndarray):
            return column.reset_index(drop=True) if is_pandas(column) else column
        entries = [None if is_absent(entry) else entry for entry in (column.to_list() if hasattr(column, "to_list") else column)]
        entries = [entry.item() if isinstance(entry, np.generic) and entry.dtype.kind not in "mM" else entry for entry in entries]
        if self.integers is not None:
            entries = [entry if entry is None else int(entry) for entry in entries]
        lacks = any(entry is None for entry in entries)
        return self._column([self._absent if entry is None else entry for entry in entries], lacks)

    def of_numbers(self, values: NDArray[np.float64]) -> Any:
        """Column of numbers ``(n,)``; NaN where one is missing."""
        missing, values = np.isnan(values), np.clip(values, *self.range)
        if self.integers is not None:
            low, high = self.integers
            numbers: Any = np.round(np.where(missing, 0.0, values))
            if high < 2**63:
                numbers = numbers.clip(max=_MOST_TICKS).astype(np.int64)
            else:  # which numpy's integers do not reach
                numbers = [min(max(int(value), low), high) for value in numbers.tolist()]
            if missing.any():
                numbers = [None if m else v for m, v in zip(missing, numbers, strict=True)]
            return self._column(numbers, bool(missing.any()))
        if self.name == "object" or self.scale is not None:
            named: dict[str, Callable[[float], Any]] = {"int": int, "Fraction": fractions.Fraction, "Decimal": self._decimal}
            of_class = named.get(self.holds, float) if self.scale is None else self._decimal
            return self._column([self._absent if m else of_class(v) for m, v in zip(missing, values.tolist(), strict=True)])
        if missing.any() and self.library == "polars":
            return self._column([None if m else v for m, v in zip(missing, values.tolist(), strict=True)])
        return self._column(values)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest number that the column can hold in double precision."""
        if self.integers is not None:
            return float(self.integers[0]), float(self.integers[1])
        if self.scale is not None:
            precision = self.arguments.get("precision") or getattr(getattr(self.make(), "pyarrow_dtype", None), "precision", None)
            most = 10.0 ** min((precision or 38) - self.scale, 300) * (1.0 - 2.0**-52)
        elif self.is_single:
            most = float(np.finfo(np.float32).max)
        elif str(self.name).lower() in ("float16", "halffloat[pyarrow]"):
            most = float(np.finfo(np.float16).max)
        else:
            most = float(np.finfo(np.float64).max)
        return -most, most

    @property
    def is_single(self) -> bool:
        """Whether numbers are held in single precision."""
        return str(self.name).lower().startswith(("float32", "float["))

    def _decimal(self, value: float) -> decimal.Decimal:
        number = decimal.Decimal(repr(value))
        return number if self.scale is None else number.quantize(decimal.Decimal(1).scaleb(-self.scale), context=_PRECISE)

    def of_ticks(self, counts: NDArray[np.float64], unit: int) -> Any:
        """Column of times or durations of so many units of so many nanoseconds, ``(n,)``; NaN where one is missing."""
        missing = np.isnan(counts)
        if self.is_period:
            import pandas as pd

            ordinals = np.clip(np.round(np.where(missing, 0.0, counts)), -_MOST_TICKS, _MOST_TICKS).astype(np.int64)
            periods = pd.PeriodIndex.from_ordinals(ordinals, freq=self.make().freq)
            return pd.Series(periods.where(~missing), dtype=self.make())
        own = self._unit
        low, high = -_MOST_TICKS, _MOST_TICKS
        if self._is_time:
            low, high = 0, _DAY // own - 1
        elif self._holds_dates:
            low, high = (days * (_DAY // own) for days in DAYS_OF_PYTHON)
        else:
            low, high = low + 2 * _DAY // own, high - 2 * _DAY // own  # by which time zones differ
        ticks = _in_units(np.where(missing, 0.0, counts), unit, own)
        ticks = np.clip(ticks, low, high)
        return self._of_time(ticks, missing)

    @property
    def is_period(self) -> bool:
        """Whether a column holds periods, which have no form outside of it."""
        return str(self.name).startswith("period")

    @property
    def _is_time(self) -> bool:
        return (
            self.name == "Time"
            or self.holds == "time"
            or str(self.name).startswith("time64")
            or str(self.name).startswith("time32")
        )

    @property
    def _holds_dates(self) -> bool:
        return self.name == "Date" or self.holds in ("date", "datetime") or str(self.name).startswith("date32")

    @property
    def _unit(self) -> int:
        """Nanoseconds of the units of time in which columns are held."""
        if self.library == "polars":
            return {"Date": _DAY, "Time": 1}.get(self.name) or UNITS[self.arguments["time_unit"]]
        text = str(self.name)
        if text.startswith("date32") or self.holds == "date":
            return _DAY
        if text == "object":
            return UNITS[self.arguments["unit"]]
        return UNITS[text.partition("[")[2].partition("]")[0].partition(",")[0]]

    def _of_time(self, ticks: NDArray[np.int64], missing: NDArray[np.bool_]) -> Any:
        """Column of counts of the units in which it is held."""
        if self.library == "polars":
            import polars as pl

            counted = (
                pl.Series(ticks)
                .to_frame("x")
                .select(pl.when(pl.Series(missing)).then(None).otherwise(pl.col("x")).alias("x"))["x"]
            )
            counted = counted.cast(pl.Int32) if self.name == "Date" else counted
            zone = self.arguments.get("time_zone")
            if zone is None:
                return counted.cast(self.make())
            return counted.cast(pl.Datetime(self.arguments["time_unit"], zone))
        import pandas as pd

        if self._is_time:
            moments = [_time_of(tick * self._unit) for tick in ticks.tolist()]
            return self._column([self._absent if m else v for m, v in zip(missing, moments, strict=True)])
        name = next(name for name, unit in UNITS.items() if unit == self._unit)
        is_duration = str(self.name).startswith(("timedelta", "duration")) or self.holds.lower().startswith("timedelta")
        values = ticks.view(f"{'m8' if is_duration else 'M8'}[{name}]").copy()
        values[missing] = np.datetime64("NaT") if not is_duration else np.timedelta64("NaT")
        zone = self.arguments.get("zone") if self.name == "object" else None
        if zone is None and (self._unit == _DAY or self.holds in ("datetime", "timedelta")):
            return self._column([self._absent if m else v for m, v in zip(missing, values.tolist(), strict=True)])
        column = pd.Series(values)
        if self.name == "object":
            column = column if zone is None else column.dt.tz_localize("UTC").dt.tz_convert(zone)
            return column.astype(object)
        zone = getattr(self.make(), "tz", None) or getattr(getattr(self.make(), "pyarrow_dtype", None), "tz", None)
        column = column if zone is None else column.dt.tz_localize("UTC").dt.tz_convert(zone)
        return column.astype(self.make())

    def _column(self, values: Any, lacks: bool = False) -> Any:
        """Column of entries; one that lacks some, of a type that has none for them, becomes one of the type that has."""
        if self.library == "polars":
            import polars as pl

            dtype = self.make()
            return (
                pl.Series(values, dtype=dtype, strict=False)
                if not isinstance(values, np.ndarray)
                else pl.Series(values).cast(dtype)
            )
        import pandas as pd

        name = self.name
        if (lacks or (name == "bool" and None in values)) and isinstance(name, str):
            name = (
                {"bool": "boolean"}.get(name) or name.replace("uint", "UInt").replace("int", "Int") if name[0] in "iub" else name
            )
        return pd.Series(values, dtype=self.make() if name == self.name else name)


def _plain(index: Any) -> Any:
    """Categories as an array of numpy, where that says all; their index where it does not."""
    is_plain = (
        index.inferred_type in ("string", "integer", "floating", "boolean", "datetime64") and getattr(index, "tz", None) is None
    )
    return np.asarray(index) if is_plain else index


def _time_of(nanoseconds: int) -> dt.time:
    seconds, rest = divmod(nanoseconds, UNITS["s"])
    return dt.time(seconds // 3600, seconds // 60 % 60, seconds % 60, rest // 1000)


def _in_units(counts: NDArray[np.float64], unit: int, own: int) -> NDArray[np.int64]:
    """Turn counts of units into whole counts of others, both of so many nanoseconds, exactly where both are whole."""
    if unit % own:
        return np.round(np.clip(counts * (unit / own), -_MOST_TICKS, _MOST_TICKS)).astype(np.int64)
    factor = unit // own
    most = _MOST_TICKS // factor - 1
    floor = np.floor(np.clip(counts, -most, most))
    rest = np.round(np.clip(counts - floor, 0.0, 1.0) * factor)
    return floor.astype(np.int64) * factor + rest.astype(np.int64)


def frame_of(columns: Sequence[Any], names: Sequence[Any], library: str) -> Any:
    """Make a data frame of columns under names."""
    if library == "polars":
        import polars as pl

        return pl.DataFrame([column.alias(name) for name, column in zip(names, columns, strict=True)])
    import pandas as pd

    frame = pd.concat(list(columns), axis=1)
    frame.columns = list(names)
    return frame


def join_columns(given: Any, other: Any, missing: NDArray[np.bool_]) -> Any:
    """Column of the type of another one, with its entries where own ones are missing; of the own type where that holds more."""
    if is_pandas(given):
        given, own = given.reset_index(drop=True), as_type(other, given)
        if given.dtype != own.dtype:
            given, own = given.astype(object), own.astype(object)
        return as_type(own.where(missing, given), other)
    import polars as pl

    own = as_type(other, given)
    return as_type(own.zip_with(pl.Series(missing), given.cast(own.dtype)), other)


def append_rows(frame: Any, other: Any) -> Any:
    """Return a data frame followed by the rows of another one with the same columns."""
    if not is_pandas(frame):
        return frame.vstack(other)
    import pandas as pd

    return pd.concat([frame, other], ignore_index=True)


def as_type(column: Any, other: Any) -> Any:
    """Column as one of the type of another, where that can hold its entries; the column itself where it cannot."""
    if column.dtype == other.dtype:
        return column
    try:
        if is_pandas(column):
            converted = column.astype(other.dtype)
            return converted if converted.astype(column.dtype).equals(column) else column
        converted = column.cast(other.dtype)
        return converted if converted.cast(column.dtype).equals(column, null_equal=True) else column
    except Exception:  # of either library, about an entry that cannot be converted
        return column


def add_columns(frame: Any, columns: dict[str, NDArray[Any]]) -> Any:
    """Return a data frame with more columns behind its own."""
    if is_pandas(frame):
        return frame.assign(**columns)
    import polars as pl

    return frame.with_columns([pl.Series(name, values) for name, values in columns.items()])
