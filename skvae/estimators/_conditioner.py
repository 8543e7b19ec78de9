"""Where the conditions of a CVAE come from: arguments beside X, or columns of X."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skvae.data import Table
from skvae.data.columns import SpreadError
from skvae.data.frames import FrameForm
from skvae.data.kinds import NamedColumns, frame_columns
from skvae.estimators._checks import as_columns
from skvae.estimators._conditions import Conditions


@dataclass(frozen=True, eq=False)
class Conditioner:
    """Conditions of a model, and the columns of X that they are, where they are not passed beside X.

    Attributes
    ----------
    conditions : Conditions
        Labels and numbers that the model was fitted with.
    columns : ndarray of shape (n_condition_columns,) or None
        Positions of the columns of X that are conditions; None where conditions are passed as `y` or `condition`.
    n_features : int
        Number of columns of X.
    form : FrameForm or None
        What X looks like, where it is a data frame with columns of different kinds.
    """

    conditions: Conditions
    columns: np.ndarray | None
    n_features: int
    form: FrameForm | None = None

    # -- fitting ------------------------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls,
        table: Table,
        columns: np.ndarray | None,
        given: Any,
        weight: np.ndarray | None,
        *,
        name: str,
        classes: Any = None,
        form: FrameForm | None = None,
    ) -> Conditioner:
        """Learn the labels, or the moments of the numbers, that rows are given under.

        Parameters
        ----------
        table : Table
            Rows with all columns of X, after whose names messages about columns call these.
        columns : ndarray or None
            Positions of the columns that are conditions.
        given : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or numbers, one for each row.
        weight : ndarray of shape (n_samples,) or None
            Weights of the rows.
        name : str
            What messages call the conditions.
        classes : array-like or None
            All labels there will be; those that are given by default.
        form : FrameForm or None
            What X looks like, where it is a data frame with columns of different kinds.
        """
        try:
            names = None if columns is None else [table.name(int(j)) for j in columns]
            conditions = Conditions(given, weight, name=name, classes=classes, names=names)
        except SpreadError as error:
            if columns is None:
                raise
            raise error.named(lambda j: table.name(int(columns[j])), "X") from None
        return cls(conditions, columns, table.n_features, form)

    def extended(self, given: Any, weight: np.ndarray | None, *, classes: Any = None, anew: bool = False) -> Conditioner:
        """Return the conditioner with the conditions of more rows counted; with `anew`, those of earlier rows are forgotten."""
        if classes is not None:
            self.conditions.check_classes(classes)
        return replace(self, conditions=self.conditions.extended(given, weight, anew=anew))

    def check_columns(self, columns: np.ndarray | None) -> None:
        """Raise a ValueError where `columns` are not those that the model was built with."""
        if not np.array_equal(columns, self.columns):
            raise ValueError(
                "condition_columns changed since the model was built; warm_start and partial_fit go on with the same columns. "
                "Use a clone, or fit with warm_start=False."
            )

    # -- rows and their conditions ------------------------------------------------------------------------------------

    @property
    def takes_y(self) -> bool:
        """Whether conditions are passed as `y`, and not as `condition` or as columns of X."""
        return self.columns is None and self.conditions.name == "y"

    @property
    def reconstructed(self) -> np.ndarray:
        """Positions of the columns of X that are no conditions, which the model reconstructs."""
        return _columns_without(self.columns, self.n_features)

    def split(self, table: Table) -> tuple[Table, np.ndarray | None]:
        """Split rows into the columns to be reconstructed and those that are conditions; see `split_columns`."""
        return split_columns(table, self.columns, self.form)

    def encode(self, given: Any, n_rows: int, *, name: str, what: str, by: str = "y or condition") -> np.ndarray:
        """Encode the conditions of rows.

        Parameters
        ----------
        given : scalar or array-like of shape (n_rows,) or (n_rows, n_outputs)
            Labels or numbers, one for each row or one for all; None raises a ValueError.
        n_rows : int
        name : str
            What messages call the conditions.
        what : str
            What conditions are needed for, in words.
        by : str
            Arguments that they can be passed by, in words.

        Returns
        -------
        encoded : ndarray of shape (n_rows, n_conditions)
        """
        if given is None:
            raise ValueError(
                f"{what} needs conditions, {self.conditions.describe()}: pass {by}, one for each row or one for all."
            )
        return self.conditions.called(name).encode(given, n_rows)

    def join(self, X: np.ndarray, given: Any) -> np.ndarray:
        """Put columns that are conditions back among reconstructed ones.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_reconstructed)
        given : array-like of shape (n_rows, n_condition_columns)
            Conditions as they were given, one row for each row of X or one for all.

        Returns
        -------
        ndarray of shape (n_rows, n_features)
        """
        return X if self.columns is None else self.place(X, self.numbers(given, len(X)))

    def numbers(self, given: Any, n_rows: int) -> np.ndarray:
        """Return what columns of X that are conditions hold in so many rows, ``(n_rows, n_condition_columns)``, as numbers."""
        entries = self.conditions.as_fitted(self.conditions.spread(given, n_rows))
        if self.form is None:
            return entries
        columns = [self.form.columns[j] for j in self.columns]
        keys = [own if column.n_levels == 0 else column.read(own) for column, own in zip(columns, entries.T, strict=True)]
        return np.stack(keys, axis=1).astype(np.float64)

    def read(self, given: Any) -> Any:
        """Return conditions by name with times as the numbers that they are; others as they are."""
        timed = [] if self.form is None or self.columns is None else [self.form.columns[j] for j in self.columns]
        timed = [column for column in timed if not column.is_plain and column.n_levels == 0]
        named = as_columns(given, self.conditions.name)
        if not timed or not hasattr(named, "columns"):
            return given
        entries = dict(frame_columns(named))
        for column in timed:
            if column.name in entries:
                entries[column.name] = column.read(entries[column.name], table="y")
        if getattr(named, "is_one_row", False):
            return {name: values[0] for name, values in entries.items()}
        return entries

    def place(self, X: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Put numbers of the columns that are conditions among those of the others."""
        if self.columns is None:
            return X
        whole = np.empty((len(X), self.n_features), dtype=X.dtype)
        whole[:, self.reconstructed] = X
        whole[:, self.columns] = numbers
        return whole


def _columns_without(columns: np.ndarray | None, n_features: int) -> np.ndarray:
    """Positions of the columns of X that are not among `columns`."""
    everywhere = np.arange(n_features)
    return everywhere if columns is None else np.setdiff1d(everywhere, columns)


def split_columns(table: Table, columns: np.ndarray | None, form: FrameForm | None = None) -> tuple[Table, Any]:
    """Split rows into a table of the other columns and the entries of `columns`, ``(n_rows, n_columns)``, in double precision.

    Of a data frame with columns of different kinds, the entries are by name: labels where a column has levels, and numbers.
    """
    if columns is None:
        return table, None
    entries: Any = table.source.columns(columns).read_exactly()
    if form is not None:
        own = zip([form.columns[j] for j in columns], entries.T, strict=True)
        entries = NamedColumns({column.name: column.entries(keys) for column, keys in own}, "X[condition_columns]")
    return table.columns(_columns_without(columns, table.n_features)), entries


def choose(entries: Any, y: Any, condition: Any) -> tuple[Any, str]:
    """Choose the conditions of rows, and what messages call them: `entries` of columns of X, else `condition`, else `y`."""
    if entries is None:
        return (y, "y") if condition is None else (condition, "condition")
    if condition is not None:
        raise ValueError("Pass condition, or set condition_columns, but not both.")
    return entries, "X[condition_columns]"
