"""What a data frame looks like: the keys that stand for its entries, and frames like it that are made of keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae.data.clocks import begin_of_days, days_in_zone
from skvae.data.containers import (
    UNITS,
    Amounts,
    Dtype,
    Entries,
    Ticks,
    absent_entries,
    frame_of,
    is_pandas,
    join_columns,
    missing_of,
    read_column,
)
from skvae.data.kinds import frame_columns, listing

MOST_LEVELS = 256  # of a column; rarer entries share the last
_MOST_DECIMALS = 6
_EXACT = 2.0**53  # up to which double precision has all integers
OF_LEVELS = ("categorical", "ordinal")  # likelihoods of columns whose entries have no size
_UNKNOWN = ("error", "missing")


@dataclass(frozen=True, eq=False)
class FrameColumn(ABC):
    """A column of a frame, between its entries and their keys.

    Attributes
    ----------
    name : object
        Of the column.
    kind : {"categorical", "ordinal", "whole", "real"}
        What keys are: positions among levels, in an order that says nothing or something; whole or any numbers.
    dtype : Dtype
        How the frame holds it.
    """

    name: Any
    kind: str
    dtype: Dtype

    @property
    def n_levels(self) -> int:
        """How many levels there are; 0 of numbers."""
        return 0

    @property
    def is_plain(self) -> bool:
        """Whether keys are the entries themselves."""
        return False

    @abstractmethod
    def read(
        self, column: Any, handle_unknown: str = "error", counts: NDArray[np.bool_] | None = None, table: str = "X"
    ) -> NDArray[np.float64]:
        """Keys ``(n,)`` of a column of a frame, or of a sequence of entries; NaN where one is missing.

        Entries where `counts` is False may be anything. Errors call the frame by `table`.
        """

    @abstractmethod
    def entries(self, keys: NDArray[np.float64]) -> NDArray[Any]:
        """Names of levels ``(n,)`` that have keys ``(n,)``, or the keys, where these are numbers."""

    @abstractmethod
    def restore(self, keys: NDArray[np.float64], bounded: bool, generator: np.random.Generator | None) -> Any:
        """Column of a frame of the entries that lie nearest to keys ``(n,)``."""


@dataclass(frozen=True, eq=False)
class LevelColumn(FrameColumn):
    """A column of levels, such as text, categories, and True and False.

    Attributes
    ----------
    levels : list
        Entries that have levels of their own, which come first.
    rare : list
        Entries that share the last level, the most frequent first; empty where all have levels of their own.
    shares : ndarray of shape (n_rare,)
        How frequent these are among each other.
    """

    levels: list[Any]
    rare: list[Any]
    shares: NDArray[np.float64]

    @property
    def n_levels(self) -> int:
        return len(self.levels) + bool(self.rare)

    def read(
        self, column: Any, handle_unknown: str = "error", counts: NDArray[np.bool_] | None = None, table: str = "X"
    ) -> NDArray[np.float64]:
        name = _called(self.name, table)
        given = _as_entries(read_column(column, name))
        last = len(self.levels)
        known = {entry: position for position, entry in enumerate(self.levels)}
        known.update(dict.fromkeys(self.rare, last))
        position = [known.get(entry, last if self.rare else -1) for entry in given.distinct]
        # What is not among so many entries is one of the rare ones, of which nobody has seen all.
        keys = np.append(np.array(position, dtype=np.float64), np.nan)[given.codes]
        is_unseen = keys < 0
        if handle_unknown == "error" and (is_unseen if counts is None else is_unseen & counts).any():
            unseen = [given.distinct[code] for code in dict.fromkeys(given.codes[is_unseen].tolist())]
            raise ValueError(
                f"{name} holds what was not seen in fit: {listing(unseen)}; known are {listing(self.levels)}. Drop "
                "such rows, fit to rows that have all values, or take such entries as missing: "
                'likelihood=Mixed(handle_unknown="missing").'
            )
        keys[is_unseen] = np.nan
        return keys

    def entries(self, keys: NDArray[np.float64]) -> NDArray[Any]:
        named = np.empty(self.n_levels + 1, dtype=object)
        named[: len(self.levels)] = self.levels
        named[len(self.levels) : self.n_levels] = self.rare[:1]
        return named[np.where(np.isnan(keys), self.n_levels, keys).astype(np.int64)]

    def restore(self, keys: NDArray[np.float64], bounded: bool, generator: np.random.Generator | None) -> Any:
        positions = np.clip(np.round(keys), 0, self.n_levels - 1)
        codes = np.where(np.isnan(positions), -1, positions).astype(np.int64)
        if self.rare:
            is_rare = codes == len(self.levels)
            drawn = np.zeros(int(is_rare.sum()), dtype=np.int64)  # the most frequent one
            if generator is not None:
                drawn = generator.choice(len(self.rare), size=len(drawn), p=self.shares)
            codes[is_rare] += drawn
        return self.dtype.of_entries([*self.levels, *self.rare], codes)


@dataclass(frozen=True, eq=False)
class NumberColumn(FrameColumn):
    """A column of numbers, or of what numbers stand for: times, durations, and ordered categories that are many.

    Attributes
    ----------
    low, high : float
        Least and largest key that was seen.
    decimals : int or None
        To how many of them entries are rounded; None where they are not.
    unit : int or None
        Nanoseconds that a key of one stands for, of times and durations; 0 of periods, and None of numbers.
    zone : str or None
        Time zone in which times are midnight, all of them, so that keys are its days.
    ranks : list
        Ordered categories, whose positions are the keys; empty of numbers.
    """

    low: float
    high: float
    decimals: int | None = None
    unit: int | None = None
    zone: str | None = None
    ranks: Sequence[Any] = ()

    @property
    def is_plain(self) -> bool:
        return self.unit is None and not self.ranks

    def read(
        self, column: Any, handle_unknown: str = "error", counts: NDArray[np.bool_] | None = None, table: str = "X"
    ) -> NDArray[np.float64]:
        name = _called(self.name, table)
        given = read_column(column, name)
        missing = missing_of(given)
        if missing.all():
            return np.full(len(missing), np.nan)
        if self.ranks:
            whole = LevelColumn(self.name, "ordinal", self.dtype, list(self.ranks), [], np.empty(0))
            return whole.read(column, handle_unknown, counts, table)
        if self.unit is not None and isinstance(given, Ticks) and (given.unit == 0) == (self.unit == 0):
            days = None if self.zone is None else days_in_zone(given, self.zone)
            return _keys_of_ticks(given, self.unit) if days is None else days
        if self.unit is None and isinstance(given, Amounts):
            return given.values
        if self.unit is None and isinstance(given, Entries) and given.is_bool:
            return _at(np.array(given.distinct, dtype=np.float64), given.codes)
        was = "numbers" if self.unit is None else "times or durations"
        example = next((given.distinct[code] for code in given.codes if code >= 0), None) if isinstance(given, Entries) else None
        now = f", such as {example!r:.60}" if example is not None else ""
        raise ValueError(f"{name} held {was} in fit, and holds something else now{now}; convert it to what it was.")

    def entries(self, keys: NDArray[np.float64]) -> NDArray[Any]:
        return keys

    def restore(self, keys: NDArray[np.float64], bounded: bool, generator: np.random.Generator | None) -> Any:
        values = np.clip(keys, self.low, self.high) if bounded else keys
        values = np.round(values) + 0.0 if self.kind == "whole" else values  # no zero is negative
        if self.ranks:
            codes = np.where(np.isnan(values), -1, np.clip(values, 0, len(self.ranks) - 1)).astype(np.int64)
            return self.dtype.of_entries(self.ranks, codes)
        if self.zone is not None:
            return self.dtype.of_ticks(begin_of_days(values, self.zone), UNITS["s"])
        if self.unit is not None:
            return self.dtype.of_ticks(values, self.unit)
        return self.dtype.of_numbers(values if self.decimals is None else np.round(values, self.decimals) + 0.0)


class FrameForm:
    """What a data frame of pandas or polars looks like, learned from one, and how its entries are keys.

    A frame becomes a matrix of keys with a column for each of its own: an entry of a column of levels is its position among
    them, a number is itself, a time is a number. NaN is missing.

    - Text, bytes, categories, intervals, and True and False are "categorical": text is text, also where it reads as numbers.
      Levels are the entries that were seen, in order; True and False are two of them in any case. Of more than 256 entries,
      the 255 most frequent have levels of their own; the others, and those never seen, share the last one, from which come back
      the most frequent of them, or draws by their frequency.
    - Ordered categories are "ordinal", in the order of the categories; the positions of more than 256 are "whole" numbers.
    - Numbers all of which are whole, whatever their type, are "whole", others "real". Decimals, up to six, are kept where
      no entry has more. Integers beyond 2**53 are kept to the precision of float64.
    - Times, dates, durations and periods are "whole" numbers of the coarsest unit, from days to nanoseconds, in which all are
      whole; where these are nanoseconds and too many for float64, "real" numbers of microseconds. Times with a time zone are
      counted in UTC, but where all of them are midnight in it, they are its days.

    Attributes
    ----------
    columns : tuple of FrameColumn
    library : {"pandas", "polars"}
        Of the frame.
    """

    def __init__(self, columns: Sequence[FrameColumn], library: str):
        self.columns, self.library = tuple(columns), library

    @property
    def names(self) -> list[Any]:
        """Names of the columns."""
        return [column.name for column in self.columns]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of each column: "categorical", "ordinal", "whole" or "real"."""
        return tuple(column.kind for column in self.columns)

    @property
    def n_levels(self) -> tuple[int, ...]:
        """How many levels each column has; 0 where it has numbers."""
        return tuple(column.n_levels for column in self.columns)

    def take(self, names: Sequence[Any]) -> FrameForm:
        """Return the form of some of the columns, by name."""
        by_name = {column.name: column for column in self.columns}
        return FrameForm([by_name[name] for name in names], self.library)

    @classmethod
    def of(cls, frame: Any, asked: Mapping[Any, str] | None = None, weight: Any = None) -> FrameForm:
        """Learn what a frame looks like.

        Parameters
        ----------
        frame : DataFrame of pandas or polars, shape (n_rows, n_columns)
        asked : dict, optional
            Names of likelihoods by names of columns. "categorical" and "ordinal" make levels of numbers; all others are for
            numbers.
        weight : ndarray of shape (n_rows,), optional
            Weights of the rows; those of weight zero are as if they were not there.

        Returns
        -------
        FrameForm

        Raises
        ------
        ValueError
            If a column has no entry, entries of several types, or some that are neither names, nor numbers, nor times; if
            columns have one name; if a likelihood is asked for that does not fit its column, or for a column that is not there.
        """
        columns = frame_columns(frame)
        _check_names([name for name, _ in columns], asked or {})
        if weight is not None and not np.all(weight):
            kept = np.flatnonzero(weight)
            weight = np.asarray(weight, dtype=np.float64)[kept]
            columns = [(name, column.iloc[kept] if is_pandas(column) else column[kept]) for name, column in columns]
        found = [_learn(name, column, (asked or {}).get(name), weight) for name, column in columns]
        return cls(found, "pandas" if is_pandas(frame) else "polars")

    def read(self, frame: Any, handle_unknown: str = "error", weight: Any = None, table: str = "X") -> NDArray[np.float64]:
        """Return the keys of a frame.

        Parameters
        ----------
        frame : DataFrame of pandas or polars, shape (n_rows, n_columns)
            Of the columns that were learned from, in their order.
        handle_unknown : {"error", "missing"}, default="error"
            What becomes of entries of columns of levels that were not seen.
        weight : ndarray of shape (n_rows,), optional
            Rows of weight zero may have entries that were not seen; they are taken for missing.
        table : str, default="X"
            What errors call the frame.

        Returns
        -------
        ndarray of float64, shape (n_rows, n_columns)
            NaN where an entry is missing.

        Raises
        ------
        ValueError
            If columns have other names, or hold what they cannot have held before.
        """
        if handle_unknown not in _UNKNOWN:
            raise ValueError(f"handle_unknown={handle_unknown!r} must be 'error' or 'missing'.")
        given = frame_columns(frame)
        self._check_columns([name for name, _ in given], table)
        counts = None if weight is None else np.asarray(weight) != 0
        keys = [own.read(column, handle_unknown, counts, table) for own, (_, column) in zip(self.columns, given, strict=True)]
        return np.stack(keys, axis=1)

    def expand(self, keys: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return numbers ``(n_rows, width)`` for keys, by which rows compare: ones among zeros for levels that have no order."""
        parts = []
        for column, own in zip(self.columns, keys.T, strict=True):
            one_hot = own[:, np.newaxis] == np.arange(column.n_levels)
            parts.append(
                np.where(np.isnan(own)[:, np.newaxis], np.nan, one_hot) if column.kind == OF_LEVELS[0] else own[:, np.newaxis]
            )
        return np.hstack(parts)

    def restore(self, keys: NDArray[Any], bounded: bool = False, seed: int | None = None) -> Any:
        """Return the frame, like the first one, of the entries that lie nearest to some keys.

        Parameters
        ----------
        keys : ndarray of shape (n_rows, n_columns)
            Positions of levels are rounded to those there are, whole numbers are rounded, and decimals as they were; NaN is
            missing.
        bounded : bool, default=False
            Keep numbers within the range that was seen.
        seed : int, optional
            Draw entries that share a level by their frequency; the most frequent stands for all by default.

        Returns
        -------
        DataFrame
            Of the same library, with columns of the same names, types and categories; rows are counted from 0. Where entries
            are missing in a column whose type has nothing for them, it is of the nullable type.
        """
        keys = np.asarray(keys, dtype=np.float64)
        generator = None if seed is None else np.random.default_rng(seed)
        restored = [column.restore(own, bounded, generator) for column, own in zip(self.columns, keys.T, strict=True)]
        return frame_of(restored, self.names, self.library)

    def fill(self, frame: Any, keys: NDArray[Any], bounded: bool = False, seed: int | None = None) -> Any:
        """Return a frame with its missing entries filled in from keys, and all others as they are.

        Parameters
        ----------
        frame : DataFrame of pandas or polars, shape (n_rows, n_columns)
            Of the columns that were learned from.
        keys : ndarray of shape (n_rows, n_columns)
            What entries are that are missing.
        bounded, seed : bool, int
            As in `restore`.

        Returns
        -------
        DataFrame
            Of the types of the frame that was learned from.
        """
        given = frame_columns(frame)
        self._check_columns([name for name, _ in given])
        return self.complete([column for _, column in given], absent_entries(frame), keys, bounded, seed)

    def complete(
        self,
        columns: Sequence[Any],
        missing: NDArray[np.bool_],
        keys: NDArray[Any],
        bounded: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Return a frame of entries that are given, as they are, and of those that lie nearest to keys where none is.

        Parameters
        ----------
        columns : sequence of column or None
            Entries that are given; None for columns of which none is.
        missing : ndarray of bool, shape (n_rows, n_columns)
            Where none is given.
        keys : ndarray of shape (n_rows, n_columns)
        bounded, seed : bool, int
            As in `restore`.

        Returns
        -------
        DataFrame
            Of the types of the frame that was learned from, but where entries that are given need others.
        """
        restored = frame_columns(self.restore(keys, bounded, seed))
        parts = zip(columns, restored, missing.T, strict=True)
        filled = [own if column is None else join_columns(column, own, lacks) for column, (_, own), lacks in parts]
        return frame_of(filled, self.names, self.library)

    def _check_columns(self, names: list[Any], table: str = "X") -> None:
        own = self.names
        if names == own:
            return
        unseen, lacking = [name for name in names if name not in own], [name for name in own if name not in names]
        if not unseen and not lacking:
            raise ValueError(f"The columns of {table} must be in the order of fit, {listing(own)}.")
        parts = [
            f"{table} has {what}: {listing(found)}" for what, found in (("others", unseen), ("not all of them", lacking)) if found
        ]
        raise ValueError(f"The columns of {table} must be those of fit. {'; '.join(parts)}.")


# -- learning ---------------------------------------------------------------------------------------------------------


def _called(name: Any, table: str = "X") -> str:
    return f"Column {name!r} of {table}"


def _check_names(names: list[Any], asked: Mapping[Any, str]) -> None:
    doubles = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if doubles:
        raise ValueError(f"X has several columns of the name {doubles[0]!r}; names must differ.")
    strange = [name for name in asked if name not in names]
    if strange:
        raise ValueError(f"likelihood names columns that X does not have: {listing(strange)}; its columns are {listing(names)}.")


def _learn(name: Any, column: Any, asked: str | None, weight: NDArray[np.float64] | None) -> FrameColumn:
    """Learn what a column looks like, for a likelihood that was asked for or any."""
    given, dtype = read_column(column, _called(name)), Dtype.of(column)
    if missing_of(given).all():
        raise ValueError(f"{_called(name)} has no entry that is not missing, so that there is nothing to learn; drop it.")
    if isinstance(given, Ticks):
        if asked in OF_LEVELS:
            _refuse(name, asked, "times or durations, which are numbers; make text of it by astype(str)")
        return _learn_ticks(name, dtype, given)
    if isinstance(given, Amounts):
        if asked in OF_LEVELS:
            return _learn_levels(name, dtype, _as_entries(given), asked, weight)
        return _learn_numbers(name, dtype, given.values)
    if asked is not None and asked not in OF_LEVELS:
        _refuse(name, asked, "categories; make numbers of it, or ask for 'categorical'")
    if asked == "ordinal" and not given.is_ordered and not given.is_bool:
        _refuse(name, asked, "categories without an order; give it one, by pd.Categorical(..., categories=[...], ordered=True)")
    kind = "ordinal" if given.is_ordered and asked is None else asked or "categorical"
    return _learn_levels(name, dtype, given, kind, weight)


def _refuse(name: Any, asked: str, why: str) -> None:
    raise ValueError(f"likelihood={{{name!r}: {asked!r}}} does not fit column {name!r} of X, which holds {why}.")


def _learn_levels(name: Any, dtype: Dtype, given: Entries, kind: str, weight: NDArray[np.float64] | None) -> FrameColumn:
    is_there = given.codes >= 0
    totals = np.bincount(
        given.codes[is_there], None if weight is None else weight[is_there], minlength=len(given.distinct)
    ).astype(np.float64)
    seen = np.unique(given.codes[is_there]).tolist()
    if given.is_bool:
        return LevelColumn(name, kind, dtype, [False, True], [], np.empty(0))
    if not given.is_ordered:
        seen = _in_order(seen, given.distinct)
    if kind == "ordinal" and len(seen) > MOST_LEVELS:
        return NumberColumn(name, "whole", dtype, 0.0, float(len(seen) - 1), ranks=[given.distinct[code] for code in seen])
    rare: list[int] = []
    if len(seen) > MOST_LEVELS:
        by_frequency = sorted(seen, key=lambda code: -totals[code])  # which keeps the order of equal ones
        frequent, rare = set(by_frequency[: MOST_LEVELS - 1]), by_frequency[MOST_LEVELS - 1 :]
        seen = [code for code in seen if code in frequent]
    shares = totals[rare] / totals[rare].sum() if rare else np.empty(0)
    return LevelColumn(
        name, kind, dtype, [given.distinct[code] for code in seen], [given.distinct[code] for code in rare], shares
    )


def _in_order(codes: list[int], distinct: list[Any]) -> list[int]:
    try:
        return sorted(codes, key=distinct.__getitem__)
    except TypeError:  # entries without an order, which stay as they came
        return codes


def _learn_numbers(name: Any, dtype: Dtype, values: NDArray[np.float64]) -> NumberColumn:
    present = values[~np.isnan(values)]
    low, high = float(present.min()), float(present.max())
    is_whole = dtype.integers is not None or (bool((present == np.round(present)).all()) and max(-low, high) <= _EXACT)
    if is_whole:
        return NumberColumn(name, "whole", dtype, low, high)
    return NumberColumn(name, "real", dtype, low, high, _decimals(present, dtype) if dtype.scale is None else dtype.scale)


def _decimals(values: NDArray[np.float64], dtype: Dtype) -> int | None:
    """How many decimals numbers have, at most; None where they are not rounded."""
    own = np.float32 if dtype.is_single else np.float64
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers too large to have decimals
        for n in range(_MOST_DECIMALS + 1):
            if (np.round(values, n).astype(own) == values.astype(own)).all():
                return n
    return None


def _learn_ticks(name: Any, dtype: Dtype, given: Ticks) -> NumberColumn:
    days = _whole_days(given, dtype.zone)
    if days is not None:
        return NumberColumn(name, "whole", dtype, float(days.min()), float(days.max()), unit=UNITS["D"], zone=dtype.zone)
    counts = given.counts[~given.missing]
    if given.unit == 0:
        return NumberColumn(name, "whole", dtype, float(counts.min()), float(counts.max()), unit=0)
    unit = next(unit for unit in reversed(UNITS.values()) if unit <= given.unit or not (counts % (unit // given.unit)).any())
    kind = "whole"
    if float(np.abs(counts // max(1, unit // given.unit)).max()) > _EXACT:
        unit, kind = UNITS["us"], "real"
    keys = _keys_of_ticks(given, unit)
    return NumberColumn(name, kind, dtype, float(np.nanmin(keys)), float(np.nanmax(keys)), unit=unit)


def _whole_days(given: Ticks, zone: str | None) -> NDArray[np.float64] | None:
    """Return times as days in a time zone; None where not all of them are midnight there."""
    quarter = max(1, UNITS["m"] * 15 // (given.unit or 1))  # of which all offsets are multiples, but those of long ago
    if zone is None or (given.counts % quarter).any():
        return None
    days = days_in_zone(given, zone)
    days = None if days is None else days[~given.missing]
    return None if days is None or (days != np.round(days)).any() else days


def _keys_of_ticks(given: Ticks, unit: int) -> NDArray[np.float64]:
    """Count time in units of so many nanoseconds, NaN where one is missing."""
    factor = max(1, unit // given.unit) if given.unit else 1
    whole, rest = np.divmod(given.counts, factor)
    keys: NDArray[np.float64] = whole + rest / factor
    if given.unit > unit:
        keys = keys * (given.unit / unit)
    return np.where(given.missing, np.nan, keys)


def _as_entries(given: Entries | Amounts | Ticks) -> Entries:
    """Numbers and times as entries of a column of levels."""
    if isinstance(given, Entries):
        return given
    values = given.values if isinstance(given, Amounts) else np.where(given.missing, np.nan, given.counts)
    distinct, codes = np.unique(values, return_inverse=True)
    codes = np.where(np.isnan(values), -1, codes.reshape(-1)).astype(np.int64)
    distinct = distinct[~np.isnan(distinct)]
    return Entries(codes, [int(value) if value == round(value) else value for value in distinct.tolist()])


def _at(values: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values at positions, NaN at -1."""
    taken: NDArray[np.float64] = np.append(values, np.nan)[codes]
    return taken
