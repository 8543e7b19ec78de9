"""Which rows early stopping looks at: given ones, or whole groups of those that are passed to `fit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d

from skvae.data.groups import group_numbers
from skvae.estimators._checks import as_array, check_entries
from skvae.training import EarlyStopping


@dataclass(frozen=True)
class HeldOut:
    """What `fit` was given about rows that are held out.

    Attributes
    ----------
    X : object
        Rows to validate on, as they were passed in; None where they are drawn.
    side : dict
        What else was given about these, by name.
    groups : object
        Groups of the rows that are learned from, as they were passed in, or None.
    """

    X: Any = None
    side: dict[str, Any] = field(default_factory=dict)
    groups: Any = None

    @classmethod
    def of(cls, validation_data: Any, groups: Any, side: Callable[[Any, Any], dict[str, Any]]) -> HeldOut:
        """Take arguments of `fit` apart; `side` turns rows and what they come with into what a table is made of."""
        if validation_data is None:
            return cls(groups=groups)
        if groups is not None:
            raise ValueError(
                "Pass validation_data or groups, but not both: one says which rows early stopping looks at, the other how they "
                "are drawn."
            )
        X, y = validation_data, None
        if isinstance(validation_data, tuple):
            if len(validation_data) != 2 or validation_data[0] is None:
                raise ValueError(
                    f"validation_data is a tuple of {len(validation_data)}; it takes the rows X_val, or a pair (X_val, y_val) of "
                    "rows and what is passed as y beside them. Sequences go into a list."
                )
            X, y = validation_data
        return cls(X, side(X, y))

    def check(self, stopping: EarlyStopping | None) -> None:
        """Raise a ValueError about rows that nobody would look at."""
        if self.X is None:
            return
        if stopping is None:
            raise ValueError("validation_data is looked at by early stopping alone: set early_stopping=True.")
        if stopping.validation_fraction != EarlyStopping().validation_fraction:
            raise ValueError(
                f"validation_data was given, and early_stopping__validation_fraction={stopping.validation_fraction!r} of the "
                f"rows to be held out: leave the latter at {EarlyStopping().validation_fraction!r}, or leave out validation_data."
            )

    def numbers(self, X: Any) -> np.ndarray | None:
        """Return the groups of the rows of X as numbers."""
        if self.groups is None:
            return None
        groups = check_entries(column_or_1d(as_array(self.groups), input_name="groups"), "groups")
        check_consistent_length(X, groups)
        return group_numbers(groups)
