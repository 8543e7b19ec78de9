"""What rows are conditioned on: labels and numbers, as columns of numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils.multiclass import type_of_target

from skvae.data import as_source
from skvae.data.columns import SpreadError
from skvae.data.gross import GrossErrors, find_gross_errors
from skvae.data.kinds import Column, Columns, Labels, NamedColumns, Numbers, frame_columns, listing
from skvae.estimators._checks import as_array, as_columns, check_entries
from skvae.warnings import warn_user

_MANY_LABELS, _ROWS_PER_LABEL = 50, 5  # more labels with fewer rows are numbers, as likely as not
_REMEMBERED = 1000  # conditions in numbers that are kept to draw from
_SEED = 20140130


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

    def __init__(
        self,
        y: Any,
        weight: np.ndarray | None,
        *,
        name: str = "y",
        classes: Any = None,
        scaled: bool = True,
        names: list[Any] | None = None,
    ):
        given, is_vector = _read_columns(y, name)
        self.name = name
        self._names = [column for column, _ in given] if hasattr(y, "columns") else names
        self._is_vector = is_vector
        self._set_columns(_kinds(given, is_vector, name, classes, scaled))
        self._set_columns(self._standardized(y, weight))
        # Of labels, the combinations that were seen, as keys of the columns, and their weights in total; of numbers, some rows.
        self._seen, self._totals = np.empty((0, len(given))), np.empty(0)
        self._count(y, weight)

    def _set_columns(self, columns: list[Column]) -> None:
        self._columns = Columns(columns)
        self.is_labels = all(isinstance(column, Labels) for column in columns)
        self.width = self._columns.width

    def _standardized(self, y: Any, weight: np.ndarray | None) -> list[Column]:
        """Return the columns, those of numbers standardized as those of rows are."""
        keys, _ = self._training_keys(y, weight)
        columns, which = list(self._columns), self._of_numbers
        if len(which):
            try:
                numbers = Numbers.of(keys[:, which], weight)
            except SpreadError as error:
                names = [column for column, _ in _read_columns(y, self.name)[0]]
                raise error.named(lambda j: names[which[j]], self.name) from None
            for j, column in zip(which, numbers, strict=True):
                columns[j] = column
        return columns

    # -- as plain values, and copies ----------------------------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """Return the conditions as a dictionary of plain values and numpy arrays, from which `from_plain` makes them again."""
        return {
            "name": self.name,
            "names": self._names,
            "is_vector": self._is_vector,
            "columns": [column.plain() for column in self._columns],
            "seen": self._seen,
            "totals": self._totals,
        }

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> Conditions:
        """Make conditions from what `plain` returned."""
        conditions = cls.__new__(cls)
        conditions.name, conditions._names, conditions._is_vector = state["name"], state["names"], state["is_vector"]
        conditions._set_columns([Column.from_plain(column) for column in state["columns"]])
        conditions._seen, conditions._totals = state["seen"], state["totals"]
        return conditions

    def __getstate__(self) -> dict[str, Any]:
        return self.plain()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(Conditions.from_plain(state)))

    def _copy(self) -> Conditions:
        """Conditions that share their arrays with these, none of which is changed in place."""
        other = Conditions.__new__(Conditions)
        vars(other).update(vars(self))
        return other

    def called(self, name: str) -> Conditions:
        """Return the same conditions, by another name in messages: that of the argument which they come by."""
        other = self._copy()
        other.name = name
        return other

    # -- which they are -----------------------------------------------------------------------------------------------

    @property
    def n_columns(self) -> int:
        """Number of columns that labels and numbers come in."""
        return len(self._columns)

    @property
    def _of_numbers(self) -> np.ndarray:
        """Positions of the columns that are numbers."""
        return np.flatnonzero([not isinstance(column, Labels) for column in self._columns])

    @property
    def _classes(self) -> list[np.ndarray | None]:
        return [column.classes if isinstance(column, Labels) else None for column in self._columns]

    @property
    def classes(self) -> Any:
        """Labels, sorted; a list of them where there are several columns."""
        return self._classes[0] if self.n_columns == 1 else self._classes

    def check_classes(self, classes: Any) -> None:
        """Raise a ValueError where these are not the known labels."""
        given = [classes] if self.n_columns == 1 else list(classes)
        same = len(given) == self.n_columns and all(
            known is not None and np.array_equal(np.unique(np.asarray(labels)), known)
            for labels, known in zip(given, self._classes, strict=False)
        )
        if not same:
            raise ValueError(f"classes={classes!r} are not those of the first call: {self.describe()}.")

    def describe(self) -> str:
        """Return the condition of a row in words."""
        if self.is_labels and self.n_columns == 1:
            return f"a label ({listing(self.classes.tolist())})"
        n_labels = sum(isinstance(column, Labels) for column in self._columns)
        kinds = ((n_labels, "label"), (self.n_columns - n_labels, "number"))
        return " and ".join(f"{n} {kind}{'s' if n > 1 else ''}" for n, kind in kinds if n)

    def warn_of_numbers(self, n_rows: int) -> None:
        """Warn of labels that look like numbers: more different whole ones than so many rows tell about one by one."""
        for j, classes in enumerate(self._classes):
            if classes is None or classes.dtype.kind not in "iuf":
                continue
            if len(classes) > _MANY_LABELS and n_rows < _ROWS_PER_LABEL * len(classes):
                which = (
                    self.name
                    if self.n_columns == 1
                    else f"Column {j if self._names is None else self._names[j]!r} of {self.name}"
                )
                warn_user(
                    f"{which} holds {len(classes)} different whole numbers for {n_rows} rows. They count as labels, which "
                    f"have no order and are learned about one by one, from {n_rows / len(classes):.1f} rows each. If they are "
                    f"numbers, CVAE takes them as a matrix or a data frame of floats, np.asarray({self.name}, dtype=float)"
                    f".reshape({n_rows}, -1); classifiers and resamplers take labels alone."
                )

    # -- from labels and numbers to columns of numbers ----------------------------------------------------------------

    def _given(self, y: Any) -> list[tuple[Any, np.ndarray]]:
        """Columns of labels and numbers, with their names or positions, in the order of `fit`."""
        columns, _ = _read_columns(y, self.name)
        names = [name for name, _ in columns]
        if isinstance(y, NamedColumns) and self._names is None:
            raise ValueError(
                f"{self.name} has names, {names}, but the model was fitted with conditions that have none: pass "
                f"{self.describe()} in the order of fit, such as {self._example()}."
            )
        if len(columns) != self.n_columns:
            given = f"the columns {names}" if hasattr(y, "columns") else f"{len(columns)} column(s)"
            known = f"{self.n_columns} column(s)" if self._names is None else f"{self._names}"
            raise ValueError(
                f"{self.name} has {given}, but the model was fitted with {known}. A row takes {self.describe()}, such as "
                f"{self._example()}."
            )
        if self._names is None or names == self._names:
            return columns
        if not hasattr(y, "columns"):
            return [(name, values) for name, (_, values) in zip(self._names, columns, strict=True)]
        if set(names) != set(self._names):
            raise ValueError(f"{self.name} has the columns {names}, but the model was fitted with {self._names}.")
        return [(name, dict(columns)[name]) for name in self._names]

    def _keys(self, y: Any) -> np.ndarray:
        """Positions of labels among the known ones, and numbers, ``(n, n_columns)``."""
        names, values = zip(*self._given(y), strict=True)
        one = self.n_columns == 1
        return self._columns.read(values, [self.name if one else f"Column {name!r} of {self.name}" for name in names])

    def _training_keys(self, y: Any, weight: np.ndarray | None) -> tuple[np.ndarray, GrossErrors | None]:
        """Keys of rows to learn from, gross errors among numbers moved to the range of the others, and these errors."""
        keys, which = self._keys(y), self._of_numbers
        errors = find_gross_errors(as_source(keys[:, which]), weight) if len(which) else None
        if errors is None:
            return keys, None
        errors = replace(errors, columns=which[errors.columns])
        return errors.winsorize(as_source(keys)).read_exactly(slice(None)), errors

    def _expand(self, keys: np.ndarray) -> np.ndarray:
        return self._columns.expand(keys).astype(np.float32)

    def encode(self, y: Any, n_rows: int) -> np.ndarray:
        """Conditions ``(n_rows, width)``, float32; one label, or one row of them, stands for all rows."""
        return self._expand(self._keys(self.spread(y, n_rows)))

    def encode_training(self, y: Any, weight: np.ndarray | None) -> tuple[np.ndarray, GrossErrors | None]:
        """Conditions of rows to learn from, and gross errors among their numbers, which are moved to the range of the others."""
        keys, errors = self._training_keys(y, weight)
        return self._expand(keys), errors

    def describe_errors(self, errors: GrossErrors, rows: np.ndarray) -> str:
        """Say in words where gross errors are, given what to call the rows."""
        table = self.name.removesuffix("[condition_columns]")  # after whose columns these are named
        if self._names is not None:
            return errors.describe(self._names.__getitem__, rows, of=table)
        return errors.describe(lambda j: None if self._is_vector else j, rows, of=table)

    def is_one(self, y: Any) -> bool:
        """Whether `y` is the condition of a single row."""
        y = self._by_name(y)
        if isinstance(y, NamedColumns):
            return y.is_one_row
        shape = y.shape if hasattr(y, "columns") else as_array(y, self.name).shape
        return shape == () or (self.n_columns > 1 and shape == (self.n_columns,))

    def _by_name(self, y: Any) -> Any:
        """Labels and numbers that come by name as columns, where some are known; others as they are."""
        return as_columns(y, self.name, self._names)

    def _example(self) -> str:
        """Return the condition of a row that was seen, as it can be passed."""
        entries = [part.tolist()[0] for part in self._columns.entries_of(self._seen[:1])]
        if self._names is not None and len(set(self._names)) == self.n_columns and self.n_columns > 1:
            return repr(dict(zip(self._names, entries, strict=True)))
        return repr(entries[0] if self.n_columns == 1 else entries)

    def spread(self, y: Any, n_rows: int) -> Any:
        """Labels or numbers of `n_rows` rows, from those or from those of one."""
        y = self._by_name(y)
        if self.is_one(y):
            if isinstance(y, NamedColumns):
                return y.repeated(n_rows)
            if self.n_columns > 1 and np.ndim(y) == 0:
                raise ValueError(
                    f"{self.name}={y!r} is one value, but a condition has {self.n_columns}: {self.describe()}, such as "
                    f"{self._example()}."
                )
            row = np.empty((1, self.n_columns), dtype=object)
            row[0] = y
            return np.repeat(row, n_rows, axis=0)
        y = y if hasattr(y, "columns") else as_array(y, self.name)
        if len(y) != n_rows:
            raise ValueError(
                f"{self.name} has {len(y)} entries for {n_rows} row(s): pass one for each row, or a single one for all, such as "
                f"{self._example()}."
            )
        return y

    def for_sample(self, y: Any, n_rows: int, seed: int) -> tuple[Any, np.ndarray]:
        """Labels or numbers of new rows, given or drawn, as they are and encoded."""
        given = self.draw(n_rows, seed) if y is None else self.spread(y, n_rows)
        return given, self.encode(given, n_rows)

    def n_conditions(self, y: Any) -> int:
        """How many rows there are conditions for: one where `y` is that of a single row, or None."""
        return 1 if y is None or self.is_one(y) else len(self._by_name(y))

    def as_fitted(self, y: Any) -> np.ndarray:
        """Labels or numbers in the form that they had in `fit`."""
        return self._in_shape(self._keys(y))

    def _in_shape(self, keys: np.ndarray) -> np.ndarray:
        """Labels and numbers that have keys, as they came in `fit`."""
        parts = self._columns.entries_of(keys)
        if self.n_columns == 1:
            return parts[0] if self._is_vector else parts[0][:, np.newaxis]
        if len({part.dtype.kind for part in parts}) > 1:
            parts = [part.astype(object) for part in parts]
        return np.stack(parts, axis=1)

    # -- what was seen ------------------------------------------------------------------------------------------------

    def extended(self, y: Any, weight: np.ndarray | None, *, anew: bool = False) -> Conditions:
        """Return the same conditions, with more rows counted, or with these alone."""
        more = self._copy()
        if anew:
            more._seen, more._totals = self._seen[:0], self._totals[:0]
        more._count(y, weight)
        return more

    def _count(self, y: Any, weight: np.ndarray | None) -> None:
        """Count combinations of labels, or keep some of the numbers."""
        keys, _ = self._training_keys(y, weight)
        if self.is_labels:
            more, totals = _count_rows(keys, weight)
            totals = np.concatenate([self._totals, totals])
            self._seen, self._totals = _count_rows(np.concatenate([self._seen, more]), totals)
        else:
            kept = _spread_out(len(keys), weight)
            self._seen = np.concatenate([self._seen, keys[kept]])[-_REMEMBERED:]

    def combinations(self) -> tuple[np.ndarray, np.ndarray]:
        """Every combination of labels that was seen: encoded ``(n, width)``, and the logarithm of its share ``(n,)``."""
        return self._expand(self._seen), np.log(self._totals / self._totals.sum())

    def draw(self, n_rows: int, seed: int) -> np.ndarray:
        """Labels in the proportions, or numbers from among those, that were seen."""
        rng, n_seen = np.random.default_rng(seed), len(self._seen)
        if self.is_labels:
            drawn = rng.choice(n_seen, size=n_rows, p=self._totals / self._totals.sum())
        else:
            drawn = rng.integers(n_seen, size=n_rows)
        return self.seen(drawn)

    def seen(self, which: np.ndarray) -> np.ndarray:
        """Labels or numbers that were seen, by their positions; those of labels are the positions of `combinations`."""
        return self._in_shape(self._seen[which])


def prior_depends_on(y: Any, n_rows: int, class_conditional: bool | str, prior: str) -> bool:
    """Whether a prior of codes is to depend on targets.

    Parameters
    ----------
    y : ndarray or data frame
        Targets of the rows.
    n_rows : int
    class_conditional : True or "auto"
        With True, targets have to be labels, and a ValueError says what is wrong with them; with "auto", the prior depends on
        labels if no more combinations of them are there than the square root of the number of rows.
    prior : str
        Name of the prior; "histogram" depends on one column of labels at most.
    """
    is_required = class_conditional is True
    try:
        with np.errstate(invalid="ignore"):  # NaN, which is refused as such
            is_continuous = not hasattr(y, "columns") and type_of_target(y, input_name="y").startswith("continuous")
        found = None if is_continuous else Conditions(y, None, scaled=False)
    except ValueError:  # missing entries, for example, in a target that need not be for the prior
        if is_required:
            raise
        return False
    if found is None or not found.is_labels:
        if is_required:
            raise ValueError("class_conditional=True takes labels, but y holds numbers that are not: pass integers or text.")
        return False
    if prior == "histogram" and found.n_columns > 1:
        if is_required:
            raise ValueError(f"code_prior='histogram' depends on one kind of label, but y has {found.n_columns} columns.")
        return False
    return is_required or len(found.combinations()[0]) <= n_rows**0.5


def _kinds(given: list[tuple[Any, np.ndarray]], is_vector: bool, name: str, classes: Any, scaled: bool) -> list[Column]:
    """Kinds of the columns of a condition: labels, which may be known, or numbers."""
    labeled = [_is_label(values, is_vector) for _, values in given]
    if classes is not None and not all(labeled):
        raise ValueError(f"classes are those of labels, but {name} is numbers.")
    known = [None] * len(given) if classes is None else ([classes] if len(given) == 1 else list(classes))
    if len(known) != len(given):
        raise ValueError(f"classes has {len(known)} list(s) of labels, but {name} has {len(given)} columns.")
    return [
        Labels.of(values if own is None else np.asarray(own), name, scaled=scaled) if is_label else Numbers()
        for is_label, (_, values), own in zip(labeled, given, known, strict=True)
    ]


def _read_columns(y: Any, name: str) -> tuple[list[tuple[Any, np.ndarray]], bool]:
    """Columns of labels and numbers, with their names or positions, and whether they are one list."""
    if hasattr(y, "columns"):
        columns = [(column, check_entries(np.asarray(part), f"Column {column!r} of {name}")) for column, part in frame_columns(y)]
        is_vector = False
    else:
        values = as_array(y, name)
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


def _unboxed(values: np.ndarray) -> np.ndarray:
    """Floats that come as objects, as they do beside labels, as floats."""
    if values.dtype.kind == "O" and len(values) and all(isinstance(value, (float, np.floating)) for value in values):
        return values.astype(np.float64)
    return values


def _is_label(values: np.ndarray, is_vector: bool) -> bool:
    if values.dtype.kind != "f":
        return True
    return is_vector and not type_of_target(values, input_name="y").startswith("continuous")


def _count_rows(rows: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows without repetition, in order, and the weights of each in total."""
    known, inverse = np.unique(rows, axis=0, return_inverse=True)
    return known, np.bincount(inverse.ravel(), weights=weight, minlength=len(known)).astype(np.float64)


def _spread_out(n_rows: int, weight: np.ndarray | None) -> np.ndarray:
    """Positions of at most so many rows as are remembered, the more of them the heavier they are."""
    n_kept = min(n_rows, _REMEMBERED)
    if weight is None:
        return np.linspace(0, n_rows - 1, n_kept).astype(int)
    within = np.random.default_rng(_SEED).random(n_kept)
    return np.searchsorted(np.cumsum(weight / weight.sum()), (np.arange(n_kept) + within) / n_kept).clip(max=n_rows - 1)
