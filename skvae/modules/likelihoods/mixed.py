"""Different distributions for different columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skvae._spec import check_name
from skvae.modules.likelihoods.base import LikelihoodSpec
from skvae.modules.likelihoods.gaussian import GaussianLikelihood

COLUMN_FAMILIES = ("auto", "categorical", "gaussian", "laplace", "negative_binomial", "poisson")


class MixedLikelihood(GaussianLikelihood):
    """Normal noise around keys."""

    def __init__(self, n_features: int, *args: Any, **kwargs: Any):
        super().__init__(n_features)


class Mixed(LikelihoodSpec):
    """A distribution for each column of a data frame, by what it holds.

    Parameters
    ----------
    likelihoods : dict or None, default=None
        Names of distributions by the names of columns, out of "auto", "categorical", "gaussian", "laplace", "negative_binomial"
        and "poisson"; columns that are not named are left to "auto": categories and booleans have a probability each, and so have
        numbers of few values; other numbers have values with a mass of their own, such as zero, beside normal noise around a
        monotone function of theirs, which is linear where that will do. Whole numbers have the probability of their unit cell.
    bounds : {"observed"} or None, default=None
        "observed" keeps the numbers of rows that the model returns within the range of those it has learned from.
    handle_unknown : {"error", "missing"}, default="error"
        What to do about categories that were not there in `fit`: raise an error, or take them as missing.

    Examples
    --------
    >>> from skvae import Mixed
    >>> Mixed({"visits": "poisson"}, bounds="observed")
    Mixed(likelihoods={'visits': 'poisson'}, bounds='observed')
    """

    name = "auto"
    _module_class = MixedLikelihood

    def __init__(self, likelihoods: Mapping[Any, str] | None = None, *, bounds: str | None = None, handle_unknown: str = "error"):
        self.likelihoods = likelihoods
        self.bounds = bounds
        self.handle_unknown = handle_unknown

    def check(self) -> None:
        """Look whether the arguments are among those there are.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_name(self, "handle_unknown", ("error", "missing"))
        if self.bounds is not None:
            check_name(self, "bounds", ("observed",), or_else=", or None")
        if self.likelihoods is None:
            return
        if not isinstance(self.likelihoods, Mapping):
            raise ValueError(f"{self!r}: likelihoods={self.likelihoods!r} must be a dict of names by column, or None.")
        for column, family in self.likelihoods.items():
            if not isinstance(family, str) or family not in COLUMN_FAMILIES:
                raise ValueError(
                    f"{self!r}: column {column!r} has {family!r}, which must be one of {', '.join(map(repr, COLUMN_FAMILIES))}."
                )
