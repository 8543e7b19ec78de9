"""Priors: where codes come from; one file each."""

from skvae.modules.priors.base import Prior
from skvae.modules.priors.fitted import ActivityPatterns, FittedGaussian, FittedPrior
from skvae.modules.priors.normal import ConditionalNormal, NormalPrior, StandardNormal

__all__ = [
    "ActivityPatterns",
    "ConditionalNormal",
    "FittedGaussian",
    "FittedPrior",
    "NormalPrior",
    "Prior",
    "StandardNormal",
]
