"""Priors: where codes come from; one file each."""

from skvae._spec import by_name
from skvae.modules.priors import (  # noqa: F401
    flow,
    mixture,
    normal,
    vamp,
)
from skvae.modules.priors.base import CodedRows, Prior, PriorSpec
from skvae.modules.priors.fitted import ActivityPatterns, FittedGaussian, FittedPrior
from skvae.modules.priors.flow import Flow, FlowPrior
from skvae.modules.priors.mixture import Mixture, MixturePrior, NormalMixture
from skvae.modules.priors.normal import ConditionalNormal, NormalPrior, StandardNormal
from skvae.modules.priors.vamp import PosteriorMixture, VampPrior

# Those of the files that are imported first, where a new one is named.
PRIORS = by_name(PriorSpec)


def resolve_prior(prior: str | PriorSpec) -> PriorSpec:
    """Specification of a prior: the one it is, or the one at its defaults that a name stands for."""
    return PRIORS[prior]() if isinstance(prior, str) else prior


__all__ = [
    "PRIORS",
    "ActivityPatterns",
    "CodedRows",
    "ConditionalNormal",
    "FittedGaussian",
    "FittedPrior",
    "Flow",
    "FlowPrior",
    "Mixture",
    "MixturePrior",
    "NormalMixture",
    "NormalPrior",
    "PosteriorMixture",
    "Prior",
    "PriorSpec",
    "StandardNormal",
    "VampPrior",
    "resolve_prior",
]
