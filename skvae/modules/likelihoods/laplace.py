"""Double-exponential noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae import functional as fn
from skvae.modules.likelihoods.base import Likelihood


class Laplace(Likelihood):
    """Double-exponential noise, which forgives single large errors; the noise scale is the mean absolute deviation."""

    name = "laplace"
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
