"""Counts whose logarithmic rates a decoder gives: Poisson, and negative binomial with a dispersion that is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import nbinom, poisson
from torch import Tensor, nn

from skvae.data.marginals import Marginal

_MOST_LOG_RATE = 20.0
_LEAST_LOG_DISPERSION, _MOST_LOG_DISPERSION = -12.0, 6.0
_FIRST_DISPERSION = 0.1


class Counts(nn.Module):
    r"""Columns of counts of mean :math:`\mu`, and of variance :math:`\mu` or :math:`\mu + \alpha\mu^2`.

    Parameters
    ----------
    columns : sequence of int
        Positions of the columns in the table.
    marginals : sequence of Marginal
        What these columns look like; their scores are of logarithms of counts, one added.
    """

    columns: Tensor
    base: Tensor
    center: Tensor
    scale: Tensor
    is_dispersed: Tensor

    def __init__(self, columns: Sequence[int], marginals: Sequence[Marginal]):
        super().__init__()
        ends = np.array([[marginal.knots[0], marginal.knots[-1]] for marginal in marginals]).reshape(-1, 2)
        values = {"center": ends.mean(axis=1), "scale": (ends[:, 1] - ends[:, 0]) / 2.0}
        for name, array in values.items():
            self.register_buffer(name, torch.from_numpy(array).float(), persistent=False)
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.long), persistent=False)
        dispersed = [marginal.family == "negative_binomial" for marginal in marginals]
        self.register_buffer("is_dispersed", torch.tensor(dispersed, dtype=torch.bool), persistent=False)
        self.log_dispersion = nn.Parameter(
            torch.full((len(marginals),), math.log(_FIRST_DISPERSION)), requires_grad=any(dispersed)
        )

    def read(self, x: Tensor) -> Tensor:
        """Return what networks read of counts ``(..., n_columns)``."""
        return (torch.log1p(x.clamp(min=0.0)) - self.center.to(x)) / self.scale.to(x)

    def locate(self, output: Tensor) -> Tensor:
        """Logarithms of rates, from a decoder's output in the units in which networks read counts."""
        return (output * self.scale.to(output) + self.center.to(output)).clamp(-_MOST_LOG_RATE, _MOST_LOG_RATE)

    def dispersion(self, like: Tensor) -> Tensor:
        """Dispersions of the columns; not to be used where they have none."""
        return self.log_dispersion.clamp(_LEAST_LOG_DISPERSION, _MOST_LOG_DISPERSION).exp().to(like)

    def nats(self, x: Tensor, log_rate: Tensor) -> Tensor:
        """Negative log-probabilities of counts."""
        x, rate = x.clamp(min=0.0), log_rate.exp()
        nats = rate - x * log_rate + torch.lgamma(x + 1.0)
        if not self.log_dispersion.requires_grad:
            return nats
        dispersion = self.dispersion(x)
        size = dispersion.reciprocal()
        log_fail = torch.log1p(dispersion * rate)
        several = torch.lgamma(x + 1.0) + torch.lgamma(size) - torch.lgamma(x + size)
        several = several + (size + x) * log_fail - x * (log_rate + dispersion.log())
        return torch.where(self.is_dispersed, several, nats)

    def variance(self, log_rate: Tensor) -> Tensor:
        """Variances of counts."""
        rate = log_rate.exp()
        return torch.where(self.is_dispersed, rate + self.dispersion(rate) * rate.square(), rate)

    def draw(self, log_rate: Tensor, uniform: Tensor) -> Tensor:
        """Turn uniform numbers into counts."""
        rate, p = (
            log_rate.detach().cpu().double().exp().numpy(),
            uniform.detach().cpu().double().clamp(1e-12, 1.0 - 1e-12).numpy(),
        )
        counts = poisson.ppf(p, rate)
        if self.log_dispersion.requires_grad:
            size = 1.0 / self.dispersion(log_rate).detach().cpu().double().numpy()
            several = nbinom.ppf(p, size, size / (size + rate))
            counts = np.where(self.is_dispersed.cpu().numpy(), several, counts)
        return torch.from_numpy(np.nan_to_num(counts)).to(log_rate)
