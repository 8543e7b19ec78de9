"""What rows are conditioned on: labels and numbers, as columns of numbers."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from typing import Any

import numpy as np
from sklearn.utils.multiclass import type_of_target

from skvae.data.columns import ColumnStatistics, SpreadError
from skvae.estimators._checks import as_array

_REMEMBERED = 1000  # conditions in numbers that are kept to draw from
_SEED = 20140130
_LABEL_SCALE = 4.0


class Conditions:
    """Labels, one-hot, and numbers, standardized, side by side.

    A list of labels, or a matrix of strings, integers or booleans, is labels, column by column; a matrix of floats, or a list
    of floats that are not all whole, is numbers. With ``scaled=False``, labels are ones among zeros.

    Attributes
    ----------
    width : int
        Columns of what `encode` returns.
    is_labels : bool
        Whether all columns are labels.
    """

    def __init__(self, y: Any, weight: np.ndarray | None, *, name: str = "y", classes: Any = None, scaled: bool = True):
        self.name, self._scaled = name, scaled
        columns, self._is_vector = _columns(y, name)
        self._names = [column for column, _ in columns] if hasattr(y, "columns") else None
        labeled = [_is_label(values, self._is_vector) for _, values in columns]
        self._classes: list[np.ndarray | None] = []
        if classes is not None and not all(labeled):
            raise ValueError(f"classes are those of labels, but {name} is numbers.")
        given = [None] * len(columns) if classes is None else ([classes] if len(columns) == 1 else list(classes))
        if len(given) != len(columns):
            raise ValueError(f"classes has {len(given)} list(s) of labels, but {name} has {len(columns)} columns.")
        for is_label, (_, values), known in zip(labeled, columns, given, strict=True):
            self._classes.append(sort_labels(values if known is None else np.asarray(known), name) if is_label else None)
        self._moments = _moments(columns, labeled, weight, name)
        self.is_labels = all(labeled)
        self.width = sum(1 if known is None else len(known) for known in self._classes)
        self._counts: dict[tuple[int, ...], float] = {}
        self._examples = np.empty((0, len(columns)), dtype=object)
        self._count(y, weight)

    def called(self, name: str) -> Conditions:
        """Return the same conditions, by another name in messages: that of the argument which they come by."""
        other = copy.copy(self)
        other.name = name
        return other

    @property
    def n_columns(self) -> int:
        """Number of columns that labels and numbers come in."""
        return len(self._classes)

    def check_classes(self, classes: Any) -> None:
        """Raise a ValueError where these are not the known labels."""
        given = [classes] if self.n_columns == 1 else list(classes)
        same = len(given) == self.n_columns and all(
            known is not None and np.array_equal(np.unique(np.asarray(labels)), known)
            for labels, known in zip(given, self._classes, strict=False)
        )
        if not same:
            raise ValueError(f"classes={classes!r} are not those of the first call: {self.describe()}.")

    @property
    def classes(self) -> Any:
        """Labels, sorted; a list of them where there are several columns."""
        return self._classes[0] if self.n_columns == 1 else self._classes

    # -- from labels and numbers to columns of numbers ----------------------------------------------------------------

    def _columns(self, y: Any) -> list[tuple[Any, np.ndarray]]:
        """Columns by name or position, in the order of `fit`."""
        columns, _ = _columns(y, self.name)
        if len(columns) != self.n_columns:
            raise ValueError(f"{self.name} has {len(columns)} column(s), but the model was fitted with {self.n_columns}.")
        names = [name for name, _ in columns]
        if self._names is None or names == self._names:
            return columns
        if not hasattr(y, "columns"):
            return [(name, values) for name, (_, values) in zip(self._names, columns, strict=True)]
        if set(names) != set(self._names):
            raise ValueError(f"{self.name} has the columns {names}, but the model was fitted with {self._names}.")
        return [(name, dict(columns)[name]) for name in self._names]

    def _positions(self, y: Any) -> list[np.ndarray]:
        """Positions of labels among the known ones, and numbers standardized, column by column."""
        positions = []
        columns = self._columns(y)
        for (column, values), known, (mean, std) in zip(columns, self._classes, self._moments, strict=True):
            which = self.name if self.n_columns == 1 else f"Column {column!r} of {self.name}"
            if known is None:
                positions.append((_numbers(values, which) - mean) / std)
                continue
            index = _find(values, known)
            if (index < 0).any():
                unseen = list(dict.fromkeys(values[index < 0].tolist()))
                known_ones, hint = _listing(known.tolist()), ""
                if known.dtype.kind == "f":
                    hint = " Whole floats in a list are labels; in a matrix, y[:, None], they are numbers."
                raise ValueError(
                    f"{which} has labels that were not seen in fit: {_listing(unseen)}; known are {known_ones}.{hint}"
                )
            positions.append(index)
        return positions

    def encode(self, y: Any, n_rows: int) -> np.ndarray:
        """Conditions ``(n_rows, width)``, float32; one label, or one row of them, stands for all rows."""
        return self._expand(self._positions(self.spread(y, n_rows)))

    def is_one(self, y: Any) -> bool:
        """Whether `y` is what one row is told."""
        shape = y.shape if hasattr(y, "columns") else np.asarray(y).shape
        return shape == () or (self.n_columns > 1 and shape == (self.n_columns,))

    def spread(self, y: Any, n_rows: int) -> Any:
        """Labels or numbers of `n_rows` rows, from those or from those of one."""
        if self.is_one(y):
            if self.n_columns > 1 and np.ndim(y) == 0:
                raise ValueError(f"{self.name}={y!r} is one value, but every row is told {self.n_columns}: {self.describe()}.")
            row = np.empty((1, self.n_columns), dtype=object)
            row[0] = y
            return np.repeat(row, n_rows, axis=0)
        y = y if hasattr(y, "columns") else as_array(y)
        if len(y) != n_rows:
            raise ValueError(f"{self.name} has {len(y)} entries for {n_rows} row(s).")
        return y

    def for_sample(self, y: Any, n_rows: int, seed: int) -> tuple[Any, np.ndarray]:
        """Labels or numbers of new rows, given or drawn, as they are and encoded."""
        given = self.draw(n_rows, seed) if y is None else self.spread(y, n_rows)
        return given, self.encode(given, n_rows)

    def n_told(self, y: Any) -> int:
        """How many rows labels or numbers are meant for, where nobody says."""
        return 1 if y is None or self.is_one(y) else len(y)

    def as_fitted(self, y: Any) -> np.ndarray:
        """Labels or numbers in the form that they had in `fit`."""
        given = zip(self._positions(y), self._columns(y), self._classes, strict=True)
        return self._in_shape([values if known is None else known[position] for position, (_, values), known in given])

    def _in_shape(self, parts: list[np.ndarray]) -> np.ndarray:
        """Columns as they came in `fit`."""
        parts = [part.astype(np.float64) if known is None else part for part, known in zip(parts, self._classes, strict=True)]
        if self.n_columns == 1:
            return parts[0] if self._is_vector else parts[0][:, np.newaxis]
        if len({part.dtype.kind for part in parts}) > 1:
            parts = [part.astype(object) for part in parts]
        return np.stack(parts, axis=1)

    def describe(self) -> str:
        """Say in words what there is to tell."""
        if self.is_labels and self.n_columns == 1:
            return f"a label ({_listing(self._classes[0].tolist())})"
        n_labels = sum(known is not None for known in self._classes)
        kinds = ((n_labels, "label"), (self.n_columns - n_labels, "number"))
        return " and ".join(f"{n} {kind}{'s' if n > 1 else ''}" for n, kind in kinds if n)

    def _expand(self, positions: list[np.ndarray]) -> np.ndarray:
        parts = []
        for position, known in zip(positions, self._classes, strict=True):
            if known is None:
                parts.append(position[:, np.newaxis])
            else:
                # As large as other standardized inputs, so that labels are heard from the first step on: what the decoder has
                # not yet learned to take from them, the code would carry instead.
                scale = max(_LABEL_SCALE, np.sqrt(len(known))) if self._scaled else 1.0
                parts.append(scale * np.eye(len(known))[position.astype(int)])
        return np.hstack(parts).astype(np.float32)

    # -- what was seen ------------------------------------------------------------------------------------------------

    def extended(self, y: Any, weight: np.ndarray | None, *, anew: bool = False) -> Conditions:
        """Return the same conditions, with more rows counted, or with these alone."""
        more = copy.deepcopy(self)
        if anew:
            more._counts, more._examples = {}, self._examples[:0]
        more._count(y, weight)
        return more

    def _count(self, y: Any, weight: np.ndarray | None) -> None:
        """Count combinations of labels, or keep some of the numbers."""
        positions = self._positions(y)
        if self.is_labels:
            rows, inverse = np.unique(np.stack(positions, axis=1), axis=0, return_inverse=True)
            totals = np.bincount(inverse.ravel(), weights=weight, minlength=len(rows))
            for row, total in zip(map(tuple, rows.tolist()), totals, strict=True):
                self._counts[row] = self._counts.get(row, 0.0) + float(total)
        else:
            values = np.stack([column.astype(object) for _, column in self._columns(y)], axis=1)
            kept = _spread_out(len(values), weight)
            self._examples = np.concatenate([self._examples, values[kept]])[-_REMEMBERED:]

    @property
    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Combinations of labels, by position, and their shares."""
        rows = np.array(sorted(self._counts))
        counts = np.array([self._counts[tuple(row)] for row in rows.tolist()])
        return rows, counts / counts.sum()

    def combinations(self) -> tuple[np.ndarray, np.ndarray]:
        """Every combination of labels that was seen: encoded ``(n, width)``, and the logarithm of its share ``(n,)``."""
        rows, shares = self._seen
        return self._expand(list(rows.T)), np.log(shares)

    def draw(self, n_rows: int, seed: int) -> np.ndarray:
        """Labels in the proportions, or numbers from among those, that were seen."""
        rng = np.random.default_rng(seed)
        if self.is_labels:
            rows, shares = self._seen
            drawn = rows[rng.choice(len(rows), size=n_rows, p=shares)].T
            return self._in_shape([known[position] for position, known in zip(drawn, self._classes, strict=True)])
        return self._in_shape(list(self._examples[rng.integers(len(self._examples), size=n_rows)].T))


def _columns(y: Any, name: str) -> tuple[list[tuple[Any, np.ndarray]], bool]:
    """Columns by name or position, and whether they are one list."""
    if hasattr(y, "columns"):
        parts = [y.iloc[:, j] if hasattr(y, "iloc") else y[column] for j, column in enumerate(y.columns)]
        columns = [
            (column, check_entries(np.asarray(part), f"Column {column!r} of {name}"))
            for column, part in zip(y.columns, parts, strict=True)
        ]
        is_vector = False
    else:
        values = as_array(y)
        if values.ndim not in (1, 2) or values.dtype.kind == "c":
            raise ValueError(
                f"{name} must be a list of labels, a matrix with a column for each kind of label, or a matrix of numbers, but "
                f"has shape {values.shape} and type {values.dtype}."
            )
        values, is_vector = check_entries(values, name), values.ndim == 1
        columns = [(0, values)] if is_vector else [(j, values[:, j]) for j in range(values.shape[1])]
    if not columns:
        raise ValueError(f"{name} has no columns.")
    return [(column, _unboxed(values)) for column, values in columns], is_vector


def check_entries(values: np.ndarray, name: str) -> np.ndarray:
    """Labels or numbers, none of which may be missing, infinite or something that is neither."""
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
    elif values.dtype.kind in "Mm":
        bad = np.isnat(values)
    elif values.dtype.kind == "O":
        bad = np.vectorize(_is_missing, otypes=[bool])(values)
        strange = next((value for value in values.flat if not isinstance(value, Hashable)), None)
        if strange is not None:
            raise ValueError(f"{name} has an entry of type {type(strange).__name__}, {strange!r}, which is no label.")
    else:
        return values
    if bad.any():
        where = np.argwhere(bad)[0].tolist()
        position = where[0] if len(where) == 1 else tuple(where)
        raise ValueError(f"{name} has {int(bad.sum())} missing, NaN or infinite entries, the first at position {position}.")
    return values


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # those of pandas do not compare
        return True
    return isinstance(value, (float, np.floating)) and not np.isfinite(value)


def _unboxed(values: np.ndarray) -> np.ndarray:
    """Floats that come as objects, as they do beside labels, as floats."""
    if values.dtype.kind == "O" and len(values) and all(isinstance(value, (float, np.floating)) for value in values):
        return values.astype(np.float64)
    return values


def _is_label(values: np.ndarray, is_vector: bool) -> bool:
    if values.dtype.kind != "f":
        return True
    return is_vector and not type_of_target(values, input_name="y").startswith("continuous")


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} was numbers in fit; it cannot be converted: {error}") from error


def _moments(
    columns: list[tuple[Any, np.ndarray]], labeled: list[bool], weight: np.ndarray | None, name: str
) -> list[tuple[float, float]]:
    """Shift and scale of columns of numbers, measured as those of rows are; those of labels stay as they are."""
    moments = [(0.0, 1.0)] * len(columns)
    which = [j for j, is_label in enumerate(labeled) if not is_label]
    if which:
        try:
            statistics = ColumnStatistics.of(np.stack([_numbers(columns[j][1], name) for j in which], axis=1), weight)
        except SpreadError as error:
            raise error.named(lambda j: columns[which[j]][0], name) from None
        for j, shift, scale in zip(which, statistics.shift, statistics.scale, strict=True):
            moments[j] = (float(shift), float(scale))
    return moments


def _spread_out(n_rows: int, weight: np.ndarray | None) -> np.ndarray:
    """Positions of at most so many rows as are remembered, the more of them the heavier they are."""
    n_kept = min(n_rows, _REMEMBERED)
    if weight is None:
        return np.linspace(0, n_rows - 1, n_kept).astype(int)
    within = np.random.default_rng(_SEED).random(n_kept)
    return np.searchsorted(np.cumsum(weight / weight.sum()), (np.arange(n_kept) + within) / n_kept).clip(max=n_rows - 1)


def sort_labels(values: np.ndarray, name: str) -> np.ndarray:
    """Labels without repetition, in order."""
    try:
        return np.unique(values)
    except TypeError:
        types = " and ".join(sorted({type(value).__name__ for value in values.tolist()}))
        raise ValueError(f"{name} has labels of the types {types}, which cannot be sorted; make them of one type.") from None


def _find(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions of values among sorted known ones, -1 where they are not among them."""
    if known.dtype.kind in "Mm":
        try:
            values = values.astype(known.dtype)
        except (TypeError, ValueError):
            return np.full(len(values), -1)
    positions = {label: i for i, label in enumerate(known.tolist())}
    return np.array([positions.get(value, -1) for value in values.tolist()], dtype=np.int64)


def _listing(labels: list[Any]) -> str:
    text = ", ".join(repr(label.item() if isinstance(label, np.generic) else label) for label in labels[:10])
    return text + (f", and {len(labels) - 10} more" if len(labels) > 10 else "")
