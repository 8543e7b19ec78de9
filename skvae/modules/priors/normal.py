"""Normal priors: the standard one, and one whose moments a network reads off the condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skvae.functional import gaussian_kl
from skvae.modules.networks.beside import read_beside
from skvae.modules.networks.layers import mlp
from skvae.modules.networks.specs import Layered, hidden_of
from skvae.modules.posterior import DiagonalNormal
from skvae.modules.priors.base import Prior, PriorSpec

MAX_LOG_VAR = 20.0  # keeps exp() finite on rows far outside the training data


class NormalPrior(Prior):
    """Priors that are normal distributions with independent components, given the condition."""

    def moments(self, n: int, condition: Tensor | None = None) -> DiagonalNormal:
        """Mean and log-variance of the codes of `n` rows with these conditions; see `Prior.moments`."""
        raise NotImplementedError


class StandardNormal(NormalPrior):
    """Codes of mean zero and variance one, whatever the condition.

    Parameters
    ----------
    n_components : int

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import StandardNormal
    >>> StandardNormal(2).log_prob(torch.zeros(1, 2))
    tensor([-1.8379])
    """

    def moments(self, n: int, condition: Tensor | None = None) -> DiagonalNormal:
        zeros = self.zero.expand(n, self.n_components)
        return DiagonalNormal(zeros, zeros)

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return standard_log_prob(z)

    def kl(self, q: DiagonalNormal, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Divergence of posteriors from the prior, in closed form; see `Prior.kl`."""
        return gaussian_kl(*q)

    def component_kl(self, q: DiagonalNormal, condition: Tensor | None = None) -> Tensor:
        return gaussian_kl(*q, per_component=True)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return noise


class ConditionalNormal(NormalPrior):
    """Codes whose means and variances a perceptron reads off the condition.

    Parameters
    ----------
    n_components : int
    n_conditions : int
    hidden_layer_sizes : sequence of int, default=(128, 64)
    **hidden : dict
        See `skvae.modules.mlp`.
    """

    def __init__(self, n_components: int, n_conditions: int, hidden_layer_sizes: Sequence[int] = (128, 64), **hidden: Any):
        super().__init__(n_components)
        self.network = mlp(n_conditions, hidden_layer_sizes, 2 * n_components, **hidden)

    @torch.no_grad()
    def start(self) -> None:
        """Begin at the standard normal distribution, whatever the condition."""
        for parameter in self.network[-1].parameters():
            parameter.zero_()

    def moments(self, n: int, condition: Tensor | None = None) -> DiagonalNormal:
        assert condition is not None
        output = None if torch.is_grad_enabled() else read_beside(self.network, condition.new_empty(n, 0), condition)
        mean, log_var = (self.network(condition) if output is None else output).chunk(2, dim=-1)
        return DiagonalNormal(mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR))

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        mean, log_var = self.moments(len(z), condition)
        if z.dim() == 3:
            mean, log_var = mean.unsqueeze(1), log_var.unsqueeze(1)
        return standard_log_prob((z - mean) * torch.exp(-0.5 * log_var)) - 0.5 * log_var.sum(-1)

    def kl(self, q: DiagonalNormal, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Divergence of posteriors from the prior, in closed form; see `Prior.kl`."""
        return gaussian_kl(*q, *self.moments(len(z), condition))

    def component_kl(self, q: DiagonalNormal, condition: Tensor | None = None) -> Tensor:
        return gaussian_kl(*q, *self.moments(len(q.mean), condition), per_component=True)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.moments(len(noise), condition).from_noise(noise)


def standard_log_prob(z: Tensor) -> Tensor:
    """Log-density of ``(..., n_components)`` under the standard normal distribution."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2.0 * math.pi)


class StandardPrior(PriorSpec):
    """Codes of mean zero and variance one; "standard" stands for it."""

    name = "standard"

    def build(self, n_components: int, *, n_conditions: int = 0, hidden: Layered | None = None) -> StandardNormal:
        return StandardNormal(n_components)


class ConditionalPrior(PriorSpec):
    """Normal codes whose moments are learned as a function of the condition; "conditional" stands for it."""

    name = "conditional"
    needs_condition = True

    def build(self, n_components: int, *, n_conditions: int = 0, hidden: Layered | None = None) -> ConditionalNormal:
        assert hidden is not None
        return ConditionalNormal(n_components, n_conditions, hidden.hidden_layer_sizes, **hidden_of(hidden))
