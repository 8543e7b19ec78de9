"""Likelihoods: how a row of the data scatters around what a decoder returns for it; one file each."""

from skvae._spec import by_name
from skvae.modules.likelihoods import (  # noqa: F401
    bernoulli,
    gaussian,
    laplace,
    mixed,
    poisson,
)
from skvae.modules.likelihoods.base import Likelihood, LikelihoodSpec, build_likelihood
from skvae.modules.likelihoods.mixed import Mixed, MixedLikelihood
from skvae.modules.likelihoods.noise import NOISE_MODES
from skvae.modules.likelihoods.units import MAX_STANDARDIZED

# Those of the files that are imported first, where a new one is named.
LIKELIHOODS = by_name(LikelihoodSpec)


def resolve_likelihood(likelihood: str | LikelihoodSpec) -> LikelihoodSpec:
    """Specification of a likelihood: the one it is, or the one at its defaults that a name stands for."""
    return LIKELIHOODS[likelihood]() if isinstance(likelihood, str) else likelihood


__all__ = [
    "LIKELIHOODS",
    "MAX_STANDARDIZED",
    "NOISE_MODES",
    "Likelihood",
    "LikelihoodSpec",
    "Mixed",
    "MixedLikelihood",
    "build_likelihood",
    "resolve_likelihood",
]
