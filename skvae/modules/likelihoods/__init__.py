"""Likelihoods: how a row of the data scatters around what a decoder returns for it; one file each."""

from skvae.modules.likelihoods.base import Likelihood
from skvae.modules.likelihoods.bernoulli import Bernoulli
from skvae.modules.likelihoods.gaussian import Gaussian
from skvae.modules.likelihoods.laplace import Laplace
from skvae.modules.likelihoods.noise import NOISE_MODES
from skvae.modules.likelihoods.units import MAX_STANDARDIZED

LIKELIHOODS: dict[str, type[Likelihood]] = {cls.name: cls for cls in (Gaussian, Laplace, Bernoulli)}

__all__ = ["LIKELIHOODS", "MAX_STANDARDIZED", "NOISE_MODES", "Bernoulli", "Gaussian", "Laplace", "Likelihood"]
