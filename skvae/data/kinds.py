"""Kinds of columns: which entries a column of a table can hold, and the numbers that stand for them in a network."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skvae.data.columns import ColumnStatistics
from skvae.data.sources import dense, is_sparse

_MAX_LEVELS = 20  # values of a column that takes no others
_LABEL_SCALE = 4.0
_LISTED = 10  # labels that a message names


class Column(ABC):
    """A column of a table, between its entries and the numbers that a network takes or gives for them.

    Each entry has a *key*, one number: its position among the labels or levels of the column, or the number that it is. A key
    expands to the `width` numbers of the network; arbitrary numbers of a network have a nearest key. A kind of column is a
    frozen dataclass, a line in `KINDS`, and these four steps: `read`, `expand`, `nearest` and `entries_of`.

    Attributes
    ----------
    kind : str
        Name of the kind.
    """

    kind: ClassVar[str]

    @property
    def width(self) -> int:
        """How many numbers of the network stand for an entry."""
        return 1

    @property
    def is_numeric(self) -> bool:
        """Whether the entries are numbers, and not something that numbers stand for."""
        return True

    @property
    def range(self) -> tuple[float, float]:
        """Least and largest number that an entry of the column stands behind."""
        return -np.inf, np.inf

    @abstractmethod
    def read(self, values: Any, name: str = "The column") -> NDArray[np.float64]:
        """Keys ``(n,)`` of entries ``(n,)``; a ValueError about an entry that the column cannot hold calls it by `name`."""

    @abstractmethod
    def expand(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        """Numbers of the network ``(n, width)`` for keys ``(n,)``."""

    @abstractmethod
    def nearest(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Keys ``(n,)`` that lie nearest to numbers of the network ``(n, width)``."""

    @abstractmethod
    def entries_of(self, keys: NDArray[Any]) -> Any:
        """Entries ``(n,)`` that have keys ``(n,)``."""

    def encode(self, values: Any, name: str = "The column") -> NDArray[np.float64]:
        """Numbers of the network ``(n, width)`` for entries ``(n,)``."""
        return self.expand(self.read(values, name))

    def settle(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Numbers ``(n, width)`` nearest to given ones that an entry of the column stands behind."""
        return self.expand(self.nearest(numbers))

    def decode(self, numbers: NDArray[Any]) -> Any:
        """Entries ``(n,)`` that lie nearest to numbers of the network ``(n, width)``."""
        return self.entries_of(self.nearest(numbers))

    def plain(self) -> dict[str, Any]:
        """Return the column as a dictionary of its kind, numbers and numpy arrays, from which `from_plain` makes it again."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind, **{k: np.asarray(v) if hasattr(v, "__len__") else v for k, v in fields.items()}}

    @staticmethod
    def from_plain(state: dict[str, Any]) -> Column:
        """Make a column from what `plain` returned."""
        return KINDS[state["kind"]](**{name: value for name, value in state.items() if name != "kind"})


@dataclass(frozen=True, eq=False)
class Numbers(Column):
    """Numbers from `low` to `high`, by default of any value; the network has them less `shift`, over `scale`."""

    kind = "numbers"
    shift: float = 0.0
    scale: float = 1.0
    low: float = -np.inf
    high: float = np.inf

    @property
    def range(self) -> tuple[float, float]:
        """Least and largest number of the network."""
        return (self.low - self.shift) / self.scale, (self.high - self.shift) / self.scale

    @classmethod
    def of(cls, table: NDArray[Any], weight: NDArray[np.float64] | None = None) -> list[Numbers]:
        """Return the columns of a matrix ``(n, n_columns)``, standardized as rows are; raises a SpreadError where that fails."""
        statistics = ColumnStatistics.of(table, weight)
        moments = zip(statistics.shift, statistics.scale, strict=True)
        return [cls(float(shift), float(scale)) for shift, scale in moments]

    def read(self, values: Any, name: str = "The column") -> NDArray[np.float64]:
        return as_numbers(values, name)

    def expand(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        return ((keys - self.shift) / self.scale)[:, np.newaxis]

    def nearest(self, numbers: NDArray[Any]) -> NDArray[Any]:
        return np.clip(numbers[:, 0].astype(np.float64) * self.scale + self.shift, self.low, self.high)

    def entries_of(self, keys: NDArray[Any]) -> Any:
        return keys

    def settle(self, numbers: NDArray[Any]) -> NDArray[Any]:
        return numbers.clip(*self.range)  # without the rounding of a way there and back


@dataclass(frozen=True, eq=False)
class Integers(Column):
    """Whole numbers from `low` to `high`."""

    kind = "integers"
    low: float
    high: float

    @property
    def range(self) -> tuple[float, float]:
        """Least and largest of them."""
        return self.low, self.high

    def read(self, values: Any, name: str = "The column") -> NDArray[np.float64]:
        return as_numbers(values, name)

    def expand(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        return keys[:, np.newaxis]

    def nearest(self, numbers: NDArray[Any]) -> NDArray[Any]:
        return np.clip(np.round(numbers[:, 0]), self.low, self.high)

    def entries_of(self, keys: NDArray[Any]) -> Any:
        return keys


@dataclass(frozen=True, eq=False)
class Levels(Column):
    """A few numbers, sorted, or entries of another type that stand for them, as text and categories can.

    Attributes
    ----------
    levels : ndarray of shape (n_levels,)
        The numbers, in rising order.
    entries : array or series of length n_levels, or None
        What the column holds for each level; None where it holds the numbers.
    """

    kind = "levels"
    levels: NDArray[np.float64]
    entries: Any = None

    @property
    def is_numeric(self) -> bool:
        """Whether the column holds the levels themselves."""
        return self.entries is None

    @property
    def range(self) -> tuple[float, float]:
        """Least and largest level."""
        return float(self.levels[0]), float(self.levels[-1])

    def read(self, values: Any, name: str = "The column") -> NDArray[np.float64]:
        """Positions among the levels: of numbers those of the nearest, of other entries those of the same."""
        if self.entries is None:
            return self.nearest(as_numbers(values, name)[:, np.newaxis]).astype(np.float64)
        return find_known(np.asarray(values), np.asarray(self.entries), name, "entries")

    def expand(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        return self.levels[keys.astype(np.intp)][:, np.newaxis]

    def nearest(self, numbers: NDArray[Any]) -> NDArray[Any]:
        return np.searchsorted((self.levels[1:] + self.levels[:-1]) / 2.0, numbers[:, 0])

    def entries_of(self, keys: NDArray[Any]) -> Any:
        positions = keys.astype(np.intp)
        return self.levels[positions] if self.entries is None else take(self.entries, positions)


@dataclass(frozen=True, eq=False)
class Labels(Column):
    """Labels without order, one-hot in the network: `scale` at the position of the label, and zeros."""

    kind = "labels"
    classes: NDArray[Any]
    scale: float = 1.0

    @classmethod
    def of(cls, values: NDArray[Any], name: str = "The column", *, scaled: bool = False) -> Labels:
        """Return the labels that are among `values`; `scaled` makes ones as large as other inputs of a network are."""
        classes = sort_labels(values, name)
        # As large as other standardized inputs, so that labels have an effect from the first step on: what the decoder has not
        # yet learned to take from them, the code would carry instead.
        return cls(classes, max(_LABEL_SCALE, float(np.sqrt(len(classes)))) if scaled else 1.0)

    @property
    def width(self) -> int:
        """How many numbers of the network stand for a label: one for each class."""
        return len(self.classes)

    @property
    def is_numeric(self) -> bool:
        """Never: labels of numbers are names, too."""
        return False

    def read(self, values: Any, name: str = "The column") -> NDArray[np.float64]:
        return find_known(np.asarray(values), self.classes, name, "labels")

    def expand(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        one_hot: NDArray[np.float64] = self.scale * np.eye(len(self.classes))[keys.astype(np.intp)]
        return one_hot

    def nearest(self, numbers: NDArray[Any]) -> NDArray[Any]:
        positions: NDArray[np.intp] = numbers.argmax(axis=1)
        return positions

    def entries_of(self, keys: NDArray[Any]) -> Any:
        return self.classes[keys.astype(np.intp)]


KINDS: dict[str, type[Column]] = {cls.kind: cls for cls in (Numbers, Integers, Levels, Labels)}


class Columns(Sequence[Column]):
    """Columns side by side: those of a table, and the matrix of numbers that a network takes or gives for its rows.

    Attributes
    ----------
    width : int
        Columns of the matrix.
    slices : list of slice
        Which columns of the matrix belong to each column of the table.
    """

    def __init__(self, columns: Sequence[Column]):
        self._columns = tuple(columns)
        ends = np.cumsum([column.width for column in self._columns]).tolist()
        self.slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self.width = ends[-1] if ends else 0

    def __len__(self) -> int:
        return len(self._columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self._columns)

    def __getitem__(self, position: Any) -> Any:
        return self._columns[position]

    def read(self, values: Sequence[Any], names: Sequence[str]) -> NDArray[np.float64]:
        """Keys ``(n, n_columns)`` of entries, given column by column, ``(n,)`` each."""
        parts = zip(self._columns, values, names, strict=True)
        return np.stack([column.read(own, name) for column, own, name in parts], axis=1)

    def expand(self, keys: NDArray[Any]) -> NDArray[np.float64]:
        """Numbers of the network ``(n, width)`` for keys ``(n, n_columns)``."""
        return np.hstack([column.expand(own) for column, own in zip(self._columns, keys.T, strict=True)])

    def entries_of(self, keys: NDArray[Any]) -> list[Any]:
        """Entries, column by column, ``(n,)`` each, that have keys ``(n, n_columns)``."""
        return [column.entries_of(own) for column, own in zip(self._columns, keys.T, strict=True)]

    def settle(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Numbers ``(n, width)`` nearest to given ones that entries of the columns stand behind, of the same type."""
        settled = np.empty_like(numbers)
        for column, part in zip(self._columns, self.slices, strict=True):
            settled[:, part] = column.settle(numbers[:, part])
        return settled


# -- which kind a column is of ----------------------------------------------------------------------------------------


def columns_of(rows: Any, given: Sequence[Any] | None = None) -> Columns:
    """Find the kinds of the columns of a table whose entries are numbers, or stand for numbers.

    Columns of at most 20 values, each of which is there twice on average, are levels; other columns of whole numbers are
    integers, and what is left is numbers, both within their range. Entries that are no numbers, as categories and text, are
    levels however many there are.

    Parameters
    ----------
    rows : ndarray or sparse matrix of shape (n_rows, n_columns)
        The numbers.
    given : sequence of n_columns arrays or series of length n_rows, optional
        The entries; all are numbers by default.

    Returns
    -------
    Columns
        One for each column of the table; those of numbers are not standardized.
    """
    by_column = rows.tocsc() if is_sparse(rows) else rows
    found = []
    for j in range(rows.shape[1]):
        values = dense(by_column[:, [j]]).ravel()
        found.append(_column_of(values, None if given is None or holds_numbers(given[j]) else given[j]))
    return Columns(found)


def _column_of(values: NDArray[Any], entries: Any) -> Column:
    """Column of numbers ``(n,)``, or of entries ``(n,)`` that stand for them."""
    if entries is not None:
        levels, first = np.unique(values, return_index=True)
        return Levels(levels.astype(np.float64), take(entries, first))
    levels = np.unique(values).astype(np.float64)
    if len(levels) <= _MAX_LEVELS and 2 * len(levels) <= len(values):
        return Levels(levels)
    if (levels == np.round(levels)).all():
        return Integers(float(levels[0]), float(levels[-1]))
    return Numbers(low=float(levels[0]), high=float(levels[-1]))


def holds_numbers(column: Any) -> bool:
    """Whether an array or series can hold other numbers than it does: categories, of numbers too, and text cannot."""
    kind = getattr(column.dtype, "kind", None) or np.asarray(column).dtype.kind  # types of polars have none
    if kind == "O" and column.dtype == object:
        return all(isinstance(value, (float, np.floating)) for value in column)
    return kind in "biuf"


# -- entries ----------------------------------------------------------------------------------------------------------


class NamedColumns:
    """Columns by name, such as a dict holds them, that are read as those of a data frame are.

    Parameters
    ----------
    columns : dict
        Entries by name, of one length, or single ones, which stand for all rows.
    name : str
        What messages call them.

    Attributes
    ----------
    columns : list
        Their names.
    is_one_row : bool
        Whether all entries are single ones.
    """

    def __init__(self, columns: dict[Any, Any], name: str):
        if not columns:
            raise ValueError(f"{name} is an empty dict; it takes entries by the names of columns.")
        held = {key: np.asarray(values) for key, values in columns.items()}
        lengths = {key: len(values) for key, values in held.items() if values.ndim}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{name} has columns of different lengths: {', '.join(f'{k!r} {n}' for k, n in lengths.items())}.")
        self.is_one_row = not lengths
        self._n_rows = next(iter(lengths.values()), 1)
        self._values = {key: values if values.ndim else _filled(columns[key], self._n_rows) for key, values in held.items()}
        self.columns = list(columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return self._n_rows, len(self.columns)

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, name: Any) -> NDArray[Any]:
        return self._values[name]

    def take(self, rows: Any) -> NamedColumns:
        """Keep some rows."""
        return NamedColumns({name: values[rows] for name, values in self._values.items()}, "")

    def repeated(self, n_rows: int) -> NamedColumns:
        """Return so many of the only row."""
        return self.take(np.zeros(n_rows, dtype=np.intp))


def one_row(columns: Any) -> Any:
    """Return the only row of a matrix or of columns by name, as one that stands for others."""
    if isinstance(columns, NamedColumns):
        return NamedColumns({name: columns[name][0] for name in columns.columns}, "")
    return columns[0]


def _filled(entry: Any, n_rows: int) -> NDArray[Any]:
    """Column of one entry, of its own type."""
    return np.repeat(np.asarray([entry]), n_rows)


def frame_columns(frame: Any) -> list[tuple[Any, Any]]:
    """Names of the columns of a data frame, and the columns, which may have equal names where it is one of pandas."""
    columns = [frame.iloc[:, j] if hasattr(frame, "iloc") else frame[name] for j, name in enumerate(frame.columns)]
    return list(zip(frame.columns, columns, strict=True))


def take(values: Any, rows: NDArray[np.intp]) -> Any:
    """Entries of an array or a series, or rows of a data frame, at some positions; those of pandas are counted from 0."""
    return values.iloc[rows].reset_index(drop=True) if hasattr(values, "iloc") else values[rows]


def as_numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Entries ``(n,)`` of a column of numbers, in double precision."""
    try:
        return np.asarray(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} was numbers in fit; it cannot be converted: {error}") from error


def sort_labels(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Labels without repetition, in order."""
    try:
        return np.unique(values)
    except TypeError:
        types = " and ".join(sorted({type(value).__name__ for value in values.tolist()}))
        raise ValueError(f"{name} has labels of the types {types}, which cannot be sorted; make them of one type.") from None


def find_known(values: NDArray[Any], known: NDArray[Any], name: str, what: str) -> NDArray[np.float64]:
    """Positions ``(n,)`` of entries ``(n,)`` among known ones, all of which they must be."""
    index = _find(values, known)
    if (index < 0).any():
        unseen = list(dict.fromkeys(values[index < 0].tolist()))
        hint = ""
        if what == "labels" and known.dtype.kind == "f":
            hint = " Whole floats in a list are labels; in a matrix, y[:, None], they are numbers."
        raise ValueError(
            f"{name} has {what} that were not seen in fit: {listing(unseen)}; known are {listing(known.tolist())}.{hint}"
        )
    return index.astype(np.float64)


def _find(values: NDArray[Any], known: NDArray[Any]) -> NDArray[np.int64]:
    """Positions of entries among known ones, -1 where they are not among them."""
    if known.dtype.kind in "Mm":
        try:
            values = values.astype(known.dtype)
        except (TypeError, ValueError):
            return np.full(len(values), -1)
    positions = {label: i for i, label in enumerate(known.tolist())}
    return np.array([positions.get(value, -1) for value in values.tolist()], dtype=np.int64)


def listing(labels: list[Any]) -> str:
    """Up to ten labels in words, and how many more there are."""
    text = ", ".join(repr(label.item() if isinstance(label, np.generic) else label) for label in labels[:_LISTED])
    return text + (f", and {len(labels) - _LISTED} more" if len(labels) > _LISTED else "")
