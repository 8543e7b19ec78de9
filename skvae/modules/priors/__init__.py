"""Priors: where codes come from; one file each."""

from skvae.modules.priors import normal  # noqa: F401
from skvae.modules.priors.base import Prior, PriorSpec
from skvae.modules.priors.fitted import ActivityPatterns, FittedGaussian, FittedPrior
from skvae.modules.priors.normal import ConditionalNormal, NormalPrior, StandardNormal

# Those of the files that are imported in the first line, where a new one is named.
PRIORS: dict[str, type[PriorSpec]] = {spec.name: spec for spec in PriorSpec.__subclasses__()}


def resolve_prior(prior: str | PriorSpec) -> PriorSpec:
    """Specification of a prior: the one it is, or the one at its defaults that a name stands for."""
    return PRIORS[prior]() if isinstance(prior, str) else prior


__all__ = [
    "PRIORS",
    "ActivityPatterns",
    "ConditionalNormal",
    "FittedGaussian",
    "FittedPrior",
    "NormalPrior",
    "Prior",
    "PriorSpec",
    "StandardNormal",
    "resolve_prior",
]
