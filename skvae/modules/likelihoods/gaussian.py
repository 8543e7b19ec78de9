"""Normal noise."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae import functional as fn
from skvae.modules.likelihoods.base import Likelihood


class Gaussian(Likelihood):
    """Normal noise; the noise scale is the standard deviation."""

    name = "gaussian"
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
