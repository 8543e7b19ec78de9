"""Which rows early stopping looks at: given ones, or whole groups of those that are passed to `fit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import _num_samples

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
    is_bare : bool
        Whether the rows to validate on came by themselves, and not in a tuple.
    """

    X: Any = None
    side: dict[str, Any] = field(default_factory=dict)
    groups: Any = None
    is_bare: bool = False

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
        if not isinstance(validation_data, tuple):
            return cls(validation_data, side(validation_data, None), is_bare=True)
        if len(validation_data) not in (1, 2) or validation_data[0] is None:
            raise ValueError(
                f"validation_data is a tuple of {len(validation_data)}; it takes the rows X_val, or a pair (X_val, y_val) of "
                "rows and what is passed as y beside them. Sequences go into a list."
            )
        X, y = (*validation_data, None)[:2]
        return cls(X, side(X, y))

    def check(self, stopping: EarlyStopping | None, X: Any) -> None:
        """Raise a ValueError about rows that nobody would look at, or that may be a part of what was passed beside X."""
        if self.X is None:
            return
        if stopping is None:
            raise ValueError("validation_data is looked at by early stopping alone: set early_stopping=True.")
        if stopping.validation_fraction != EarlyStopping().validation_fraction:
            raise ValueError(
                f"validation_data was given, and early_stopping__validation_fraction={stopping.validation_fraction!r} of the "
                f"rows to be held out: leave the latter at {EarlyStopping().validation_fraction!r}, or leave out validation_data."
            )

        self.check_form(X)

    def check_form(self, X: Any) -> None:
        """Raise a ValueError about rows by themselves that are as many as those of X, as a search would have divided them."""
        if self.is_bare and _is_as_long(self.X, X):
            raise ValueError(
                f"validation_data has {_num_samples(X)} rows, and so has X: scikit-learn's searches and cross-validation divide "
                "whatever is as long as X along with it. Pass a tuple, (X_val,) or (X_val, y_val), which they leave whole."
            )

    def numbers(self, X: Any) -> np.ndarray | None:
        """Return the groups of the rows of X as numbers."""
        if self.groups is None:
            return None
        groups = check_entries(column_or_1d(as_array(self.groups, "groups"), input_name="groups"), "groups")
        check_consistent_length(X, groups)
        return group_numbers(groups)


def whole(validation_data: Any, X: Any) -> tuple[Any, ...]:
    """Return rows to validate on as a tuple, for fits to parts of X; see `HeldOut.check_form`."""
    if isinstance(validation_data, tuple):
        return validation_data
    HeldOut(validation_data, is_bare=True).check_form(X)
    return (validation_data,)


def _is_as_long(one: Any, other: Any) -> bool:
    try:
        return _num_samples(one) == _num_samples(other)
    except TypeError:  # of what is no table, as the checks of rows will say
        return False
