"""Specifications: plain values for what belongs together, with `get_params` and `set_params`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import Parameter, signature
from numbers import Integral, Real
from typing import Any, Self, TypeVar

import joblib
import numpy as np

S = TypeVar("S", bound="Spec")


@cache
def parameters_of(cls: type) -> Mapping[str, Parameter]:
    """Return the parameters of a class, by name."""
    return signature(cls).parameters


class Spec:
    """Arguments with ``get_params`` and ``set_params``, which searches reach as ``encoder__<name>``.

    A child stores the arguments of its `__init__` under their names, what its ``**params`` takes under `params`, and defines
    `check`. Nothing else is needed to be cloned, searched, compared, printed and pickled.
    """

    @classmethod
    def _arguments(cls) -> dict[str, Parameter]:
        """Arguments of `__init__` by name, without what takes any others."""
        return {name: parameter for name, parameter in parameters_of(cls).items() if parameter.kind is not Parameter.VAR_KEYWORD}

    @classmethod
    def _takes_any(cls) -> bool:
        """Whether `__init__` takes arguments that it does not name."""
        return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters_of(cls).values())

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments by name.

        Parameters
        ----------
        deep : bool, default=True
            Has no effect; searches pass it.

        Returns
        -------
        params : dict
        """
        own = {name: getattr(self, name) for name in self._arguments()}
        return {**own, **self.params} if self._takes_any() else own

    def set_params(self, **params: Any) -> Self:
        """Change arguments.

        Parameters
        ----------
        **params : dict
            New values by name; the others stay.

        Returns
        -------
        self : object
            The specification itself.

        Raises
        ------
        ValueError
            If there is no argument of that name.
        """
        known = self._arguments()
        others = {name: value for name, value in params.items() if name not in known}
        if others and not self._takes_any():
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{type(self).__name__} has no parameter {next(iter(others))!r}; {has}.")
        # As `__init__` would have it, which may refuse some; whatever it refuses leaves the specification as it is.
        made = type(self)(**{**self.get_params(), **params})
        vars(self).update(vars(made))
        return self

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        return not differences(self, other)  # type: ignore[arg-type]

    def _compared(self) -> dict[str, Any]:
        """Arguments in the form in which they are compared."""
        return self.get_params()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        known = self._arguments()
        written = []
        for name, value in self.get_params().items():
            default = known[name].default if name in known else Parameter.empty
            if default is not Parameter.empty and repr(value) == repr(default):
                continue
            text = value.__name__ if isinstance(value, type) else repr(value)
            written.append(text if name in known and default is Parameter.empty else f"{name}={text}")
        return f"{type(self).__name__}({', '.join(written)})"


def by_name(base: type[S]) -> dict[str, type[S]]:
    """Table of the classes that are derived from `base` so far, under the names that stand for them.

    Raises
    ------
    TypeError
        If one has no name, or that of another.
    """
    table: dict[str, type[S]] = {}
    for spec in base.__subclasses__():
        name = getattr(spec, "name", None)
        if not isinstance(name, str) or name in table:
            has = f"the name of {table[name].__name__}" if isinstance(name, str) else "no name"
            raise TypeError(f"{spec.__name__}, a {base.__name__} of the package, has {has}; give it a `name` of its own.")
        table[name] = spec
    return table


def differences(one: Spec, other: Spec) -> list[str]:
    """Names of the arguments in which two specifications of one class differ."""
    mine, others = one._compared(), other._compared()
    return [name for name in {**mine, **others} if not (name in mine and name in others and is_same(mine[name], others[name]))]


def is_same(one: Any, other: Any) -> bool:
    """Whether two arguments are the same, be they arrays, or of a class without a comparison of its own."""
    if one is other:
        return True
    try:
        if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
            equal = np.array_equal(one, other)
        else:
            equal = one == other
            equal = equal if isinstance(equal, (bool, np.bool_)) else np.array_equal(one, other)
    except Exception:
        equal = False
    if equal:
        return True
    try:  # copies of containers of arrays, of NaN, and of instances
        return bool(joblib.hash(one) == joblib.hash(other))
    except Exception:  # what cannot be pickled
        return False


def in_words(names: Any) -> str:
    """Write names down as what an argument takes."""
    return ", ".join(map(repr, names))


def and_more(items: Any, n_listed: int) -> str:
    """Return how many of some items are left once the first few are listed, in words, if any are."""
    return f" and {len(items) - n_listed} more" if len(items) > n_listed else ""


def check_name(spec: Spec, name: str, names: Any, *, or_else: str = "") -> None:
    """Raise a ValueError about an argument that is none of the names; `or_else` is what else it may be, in words."""
    value = getattr(spec, name)
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{spec!r}: {name}={value!r} must be one of {in_words(names)}{or_else}.")


def check_fraction(spec: Spec, name: str, *, with_zero: bool = True, with_one: bool = False) -> None:
    """Raise a ValueError about an argument that is no number in [0, 1), in (0, 1) or in [0, 1]."""
    value = getattr(spec, name)
    if not _is_number(value) or not (0.0 < value < 1.0 or (with_zero and value == 0.0) or (with_one and value == 1.0)):
        takes = "between 0 and 1" if with_one else f"{'of at least' if with_zero else 'above'} 0 and below 1"
        raise ValueError(f"{spec!r}: {name}={value!r} must be a number {takes}.")


def check_number(spec: Spec, name: str, *, at_least: float | None = None, may_be_none: bool = False) -> None:
    """Raise a ValueError about an argument that is no number above 0, or of at least another one."""
    value = getattr(spec, name)
    if may_be_none and value is None:
        return
    if not _is_number(value) or not (0.0 < value < np.inf if at_least is None else at_least <= value < np.inf):
        takes = "above 0" if at_least is None else f"of at least {at_least:g}"
        raise ValueError(f"{spec!r}: {name}={value!r} must be a number {takes}{', or None' if may_be_none else ''}.")


def check_count(spec: Spec, name: str, *, may_be_none: bool = False) -> None:
    """Raise a ValueError about an argument that is no integer of at least 1."""
    value = getattr(spec, name)
    if may_be_none and value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise ValueError(f"{spec!r}: {name}={value!r} must be an integer of at least 1{', or None' if may_be_none else ''}.")


def check_flag(spec: Spec, name: str) -> None:
    """Raise a ValueError about an argument that is neither True nor False."""
    value = getattr(spec, name)
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{spec!r}: {name}={value!r} must be True or False.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
