"""Likelihoods: how a row of the data scatters around what a decoder returns for it; one file each."""

from skvae.modules.likelihoods import bernoulli, gaussian, laplace, poisson
from skvae.modules.likelihoods.base import Likelihood, LikelihoodSpec, build_likelihood
from skvae.modules.likelihoods.noise import NOISE_MODES
from skvae.modules.likelihoods.units import MAX_STANDARDIZED

# A likelihood is a file and a line here.
SPECS: tuple[type[LikelihoodSpec], ...] = (
    gaussian.Gaussian,
    laplace.Laplace,
    bernoulli.Bernoulli,
    poisson.Poisson,
)
LIKELIHOODS: dict[str, type[LikelihoodSpec]] = {spec.name: spec for spec in SPECS}


def resolve_likelihood(likelihood: str | LikelihoodSpec) -> LikelihoodSpec:
    """Specification of a likelihood: the one it is, or the one at its defaults that a name stands for."""
    return LIKELIHOODS[likelihood]() if isinstance(likelihood, str) else likelihood


__all__ = [
    "LIKELIHOODS",
    "MAX_STANDARDIZED",
    "NOISE_MODES",
    "Likelihood",
    "LikelihoodSpec",
    "build_likelihood",
    "resolve_likelihood",
]
