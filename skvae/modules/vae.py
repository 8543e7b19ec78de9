"""The variational autoencoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from skvae.functional import gaussian_kl
from skvae.modules.base import LatentModule, Schedule, told_observed
from skvae.modules.batch import Batch

MAX_LOG_VAR = 20.0  # keeps exp() finite on rows far outside the training data


class VAEModule(LatentModule):
    r"""Gaussian encoder, standard normal prior and the evidence lower bound.

    .. math:: -\log p(x|z) + \beta\,\mathrm{KL}(q(z|x)\,\|\,\mathcal N(0, I)), \quad z \sim q(z|x)

    Parameters
    ----------
    beta : float
        Weight of the KL term; 1 gives the bound.
    kl_warmup : float
        Fraction of the run over which the weight grows from 0 to `beta`, and C to `capacity`.
    capacity : float or None
        Nats that the KL is held at, by ``beta * |KL - C|`` [1]_.
    n_draws : int
        Draws of z per row and step.
    **autoencoder
        See `LatentModule`.

    References
    ----------
    .. [1] Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599.
    """

    encoder_outputs_per_component = 2
    learns_noise = True
    takes_missing = True

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        beta: float = 1.0,
        kl_warmup: float = 0.0,
        capacity: float | None = None,
        n_draws: int = 1,
        **autoencoder: Any,
    ):
        super().__init__(n_features, n_components, **autoencoder)
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.capacity = capacity
        self.n_draws = n_draws
        self.noise_shapes = {"posterior": (n_components,) if n_draws == 1 else (n_draws, n_components)}

    @property
    def warmup(self) -> float:
        return self.kl_warmup

    def schedule(self, progress: float) -> Schedule:
        share = _ramp(progress, self.kl_warmup)
        values = {"beta": self.beta * share}
        if self.capacity is not None:
            values["capacity"] = self.capacity * share
        return values

    def posterior(self, x: Tensor, condition: Tensor | None = None, *, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each ``(n, n_components)``; the prior's where nothing of a row is observed."""
        mean, log_var = self._encoder_output(x, condition, observed).chunk(2, dim=-1)
        return mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR)

    def encode(self, x: Tensor, condition: Tensor | None = None, *, observed: Tensor | None = None) -> Tensor:
        """Posterior mean of standardized rows, ``(n, n_features)`` to ``(n, n_components)``."""
        return self._encoder_output(x, condition, observed).chunk(2, dim=-1)[0]

    def _encoder_output(self, x: Tensor, condition: Tensor | None, observed: Tensor | None = None) -> Tensor:
        output = super().encode(x, observed=observed)
        return output if observed is None else output * observed.any(1, keepdim=True)

    def join(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Return what the decoder takes: codes ``(n, ..., n_components)`` and what belongs beside them."""
        return z

    def divergence(
        self, mean: Tensor, log_var: Tensor, condition: Tensor | None = None, *, per_component: bool = False
    ) -> Tensor:
        """KL of posteriors from the prior, in nats."""
        return gaussian_kl(mean, log_var, per_component=per_component)

    def loss(self, batch: Batch, schedule: Schedule) -> dict[str, Tensor]:
        assert batch.noise is not None
        mean, log_var = self.posterior(batch.x, batch.condition, **told_observed(batch.mask))
        std = torch.exp(0.5 * log_var)
        noise, mask = batch.noise["posterior"], batch.mask
        self._note_known(batch)
        if noise.dim() == 2:
            z = self.join(torch.addcmul(mean, noise, std), batch.condition)
            nll = self.likelihood.nll(batch.target, self.decode(z), mask)
        else:
            z = self.join(torch.addcmul(mean.unsqueeze(1), noise, std.unsqueeze(1)), batch.condition)
            output = torch.unflatten(self.decode(z.flatten(0, 1)), 0, z.shape[:2])
            nll = self.likelihood.nll(batch.target.unsqueeze(1), output, None if mask is None else mask.unsqueeze(1)).mean(1)
        kl, beta = self.divergence(mean, log_var, batch.condition), schedule["beta"]
        if "capacity" in schedule:
            mean_kl = (kl * batch.weight).sum() / batch.weight.sum()
            return {"reconstruction": nll, "kl": beta * (mean_kl - schedule["capacity"]).abs()}
        return {"reconstruction": nll, "kl": kl if beta == 1.0 else beta * kl}

    @torch.no_grad()
    def fit_noise(
        self,
        x: Tensor,
        weight: Tensor,
        noise: Tensor,
        condition: Tensor | None = None,
        *,
        observed: Tensor | None = None,
    ) -> None:
        """Fit the likelihood's noise to the residuals of draws from the posteriors."""
        if self.likelihood.learns_noise:
            mean, log_var = self.posterior(x, condition, **told_observed(observed))
            output = self.decode(self.join(torch.addcmul(mean, noise, torch.exp(0.5 * log_var)), condition))
            energy = self.likelihood.energy(x, self.likelihood.locate(output))
            self.likelihood.set_moment(self.likelihood.mean_energy(energy, weight, observed))

    def propose(
        self, x: Tensor, noise: Tensor, condition: Tensor | None = None, *, observed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        mean, log_var = self.posterior(x, condition, **told_observed(observed))
        z = torch.addcmul(mean.unsqueeze(1), noise, torch.exp(0.5 * log_var).unsqueeze(1))
        log_q = -0.5 * (noise.square().sum(-1) + log_var.sum(-1, keepdim=True) + self.n_components * math.log(2.0 * math.pi))
        return z, log_q


def _ramp(progress: float, fraction: float) -> float:
    """Rise from 0 to 1 over the first `fraction` of the run."""
    return 1.0 if progress >= fraction else progress / fraction
