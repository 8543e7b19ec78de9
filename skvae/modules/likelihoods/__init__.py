"""Likelihoods: how a row of the data scatters around what a decoder returns for it; one file each."""

from collections.abc import Sequence

from skvae._spec import by_name
from skvae.data.marginals import Marginal
from skvae.modules.likelihoods import (  # noqa: F401
    bernoulli,
    gaussian,
    laplace,
    mixed,
    poisson,
)
from skvae.modules.likelihoods.base import Energies, Likelihood, LikelihoodSpec
from skvae.modules.likelihoods.mixed import Mixed, MixedLikelihood
from skvae.modules.likelihoods.noise import NOISE_MODES
from skvae.modules.likelihoods.units import MAX_STANDARDIZED

# Those of the files that are imported first, where a new one is named.
LIKELIHOODS = by_name(LikelihoodSpec)


def build_likelihood(spec: LikelihoodSpec, n_features: int, marginals: Sequence[Marginal] | None = None) -> Likelihood:
    """Build the likelihood of so many columns from its specification and, of mixed columns, what these look like."""
    if marginals is not None:
        return MixedLikelihood(n_features, marginals)
    if isinstance(spec, Mixed):  # of columns that hold real numbers, all of them
        return spec._module_class(n_features)
    return spec._module_class(n_features, **spec.get_params())


def resolve_likelihood(likelihood: str | LikelihoodSpec) -> LikelihoodSpec:
    """Specification of a likelihood: the one it is, or the one at its defaults that a name stands for."""
    return LIKELIHOODS[likelihood]() if isinstance(likelihood, str) else likelihood


__all__ = [
    "LIKELIHOODS",
    "MAX_STANDARDIZED",
    "NOISE_MODES",
    "Energies",
    "Likelihood",
    "LikelihoodSpec",
    "Mixed",
    "MixedLikelihood",
    "build_likelihood",
    "resolve_likelihood",
]
