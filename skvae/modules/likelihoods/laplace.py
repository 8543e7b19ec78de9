"""Double-exponential noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae import functional as fn
from skvae.modules.likelihoods.base import Likelihood, LikelihoodSpec, check_noise


class LaplaceLikelihood(Likelihood):
    """Double-exponential noise, which forgives single large errors; the noise scale is the mean absolute deviation."""

    energy = staticmethod(fn.laplace_energy)
    log_normalizer = staticmethod(fn.laplace_log_normalizer)
    unit_weight = 1.0
    std_per_scale = math.sqrt(2.0)
    energy_power = 1

    def information(self, output: Tensor) -> Tensor:
        """Inverse variance, since the curvature itself vanishes almost everywhere."""
        return 0.5 * self.weight.square()

    def expected_energy(self, residual: Tensor, variance: Tensor) -> Tensor:
        """Mean of a folded normal distribution."""
        spread = torch.sqrt(2.0 * variance).clamp(min=torch.finfo(variance.dtype).tiny)
        ratio = residual / spread
        return residual * torch.erf(ratio) + spread / math.sqrt(math.pi) * torch.exp(-ratio.square())

    def noise_scale(self) -> NDArray[np.float64]:
        scale: NDArray[np.float64] = self.units.scale / self.weight.cpu().double().numpy()
        return scale

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(output.shape, generator=generator, device=output.device, dtype=output.dtype) - 0.5
        noise = -uniform.sign() * torch.log1p(-2.0 * uniform.abs().clamp(max=0.5 - 1e-7))
        return self.locate(output) + noise / self.weight

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        tail = (2.0 * fn.normal_cdf(-noise.abs())).clamp(min=torch.finfo(noise.dtype).tiny)
        return self.locate(output) - noise.sign() * tail.log() / self.weight


class Laplace(LikelihoodSpec):
    """Double-exponential noise around what the decoder returns, which forgives single large errors.

    Parameters
    ----------
    noise : {"auto", "feature", "shared"} or float, default="auto"
        Scale of the noise, its mean absolute deviation: estimated for every column, estimated as one scale for all, or fixed, in
        the units of X. "auto" trains with one scale for all, and one unit of standardization, where all columns lie on one
        grid, as pixels do. Estimated scales never fall below 1% of a column's standard deviation or its resolution over the
        square root of 12.

    Examples
    --------
    >>> from skvae import Laplace, VAETransformer
    >>> VAETransformer(likelihood=Laplace(noise="shared")).get_params()["likelihood__noise"]
    'shared'
    """

    name = "laplace"
    _module_class = LaplaceLikelihood

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
