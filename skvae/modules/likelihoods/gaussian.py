"""Normal noise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae import functional as fn
from skvae.modules.likelihoods.base import Likelihood, LikelihoodSpec, check_noise


class GaussianLikelihood(Likelihood):
    """Normal noise; the noise scale is the standard deviation."""

    energy = staticmethod(fn.gaussian_energy)
    log_normalizer = staticmethod(fn.gaussian_log_normalizer)
    unit_weight = 0.5
    std_per_scale = 1.0
    energy_power = 2

    def information(self, output: Tensor) -> Tensor:
        return 2.0 * self.weight

    def expected_energy(self, residual: Tensor, variance: Tensor) -> Tensor:
        return residual.square() + variance

    def noise_scale(self) -> NDArray[np.float64]:
        scale: NDArray[np.float64] = self.units.scale / np.sqrt(2.0 * self.weight.cpu().double().numpy())
        return scale

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(output.shape, generator=generator, device=output.device, dtype=output.dtype)
        return self.scatter_by(output, noise)

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        return self.locate(output) + noise * (2.0 * self.weight).rsqrt()


class Gaussian(LikelihoodSpec):
    """Normal noise around what the decoder returns.

    Parameters
    ----------
    noise : {"auto", "feature", "shared"} or float, default="auto"
        Scale of the noise, its standard deviation: estimated for every column, estimated as one scale for all, or fixed, in
        the units of X. "auto" trains with one scale for all, and one unit of standardization, where all columns lie on one
        grid, as pixels do. Estimated scales never fall below 1% of a column's standard deviation or its resolution over the
        square root of 12.

    Examples
    --------
    >>> from skvae import Gaussian, VAETransformer
    >>> VAETransformer(likelihood=Gaussian(noise="shared")).get_params()["likelihood__noise"]
    'shared'
    """

    name = "gaussian"
    _module_class = GaussianLikelihood

    def __init__(self, noise: str | float = "auto"):
        self.noise = noise

    def check(self) -> None:
        """Look whether the noise is one of those there are.

        Raises
        ------
        ValueError
            If it is not.
        """
        check_noise(self, self.noise)
