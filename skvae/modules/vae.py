"""The variational autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skvae.modules.base import LatentModule, Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.networks.build import resolve_encoder
from skvae.modules.networks.specs import MLP, Layered, fill
from skvae.modules.posterior import DiagonalNormal, Proposal
from skvae.modules.priors import PriorSpec, resolve_prior
from skvae.modules.priors.normal import MAX_LOG_VAR


class VAEModule(LatentModule):
    r"""Gaussian encoder, a prior and the evidence lower bound.

    .. math:: -\log p(x|z) + \beta\,\mathrm{KL}(q(z|x)\,\|\,p(z)), \quad z \sim q(z|x)

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
    prior : str or PriorSpec
        p(z): a name in `skvae.modules.PRIORS`, or a specification.
    **autoencoder
        See `LatentModule`.

    References
    ----------
    .. [1] Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599.
    """

    encoder_outputs_per_component = 2
    learns_noise = True
    takes_missing = True
    n_conditions = 0  # numbers that the model conditions on

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        beta: float = 1.0,
        kl_warmup: float = 0.0,
        capacity: float | None = None,
        n_draws: int = 1,
        prior: str | PriorSpec = "standard",
        **autoencoder: Any,
    ):
        super().__init__(n_features, n_components, **autoencoder)
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.capacity = capacity
        self.n_draws = n_draws
        self.noise_shapes = {"posterior": (n_components,) if n_draws == 1 else (n_draws, n_components)}
        encoder = resolve_encoder(autoencoder.get("encoder"), autoencoder.get("image_shape"))
        own, sizes = encoder if isinstance(encoder, Layered) else MLP(), autoencoder.get("hidden_layer_sizes", (128, 64))
        hidden = fill(own, sizes, autoencoder.get("activation", "relu"))
        self.prior = resolve_prior(prior).build(n_components, n_conditions=self.n_conditions, hidden=hidden)

    @property
    def warmup(self) -> float:
        return self.kl_warmup

    def schedule(self, progress: float) -> dict[str, float]:
        share = _ramp(progress, self.kl_warmup)
        values = {"beta": self.beta * share}
        if self.capacity is not None:
            values["capacity"] = self.capacity * share
        return values

    def posterior(self, batch: Batch) -> DiagonalNormal:
        """Posteriors q(z|x), ``(n, n_components)``; the prior's moments where nothing of a row is observed."""
        mean, log_var = self._encoder_output(batch).chunk(2, dim=-1)
        return DiagonalNormal(mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR))

    def encode(self, batch: Batch) -> Tensor:
        """Posterior mean of rows, ``(n, n_components)``."""
        return self._encoder_output(batch).chunk(2, dim=-1)[0]

    def _encoder_output(self, batch: Batch) -> Tensor:
        output = super().encode(batch)
        if batch.observed is None:
            return output
        moments = torch.cat(self.prior.moments(len(output), batch.condition), dim=1)
        return torch.where(batch.observed.any(1, keepdim=True), output, moments)

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        likelihood, observed = self.likelihood, batch.observed
        q, noise = self.posterior(batch), batch.drawn("posterior")
        z = q.from_noise(noise)
        output, target = self.decode(z, batch), batch.target
        if noise.dim() == 3:
            target, observed = target.unsqueeze(1), None if observed is None else observed.unsqueeze(1)
        energy = likelihood.energies(target, output, observed)
        nll = likelihood.nll_of(energy, observed)
        kl, beta = self.prior.kl(q, z, batch.condition), schedule["beta"]
        if "capacity" in schedule:
            mean_kl = (kl * batch.weight).sum() / batch.weight.sum()
            kl = (mean_kl - schedule["capacity"]).abs()
        if not (isinstance(beta, float) and beta == 1.0):
            kl = beta * kl
        terms = {"reconstruction": nll if noise.dim() == 2 else nll.mean(1), "kl": kl}
        return Loss(terms, self._noise_learned(batch, energy))

    @torch.no_grad()
    def fit_noise(self, batch: Batch) -> None:
        """Fit the likelihood's noise to the residuals of draws from the posteriors."""
        if self.likelihood.learns_noise:
            output = self.decode(self.posterior(batch).from_noise(batch.drawn("posterior")), batch)
            energy = self.likelihood.energies(batch.x, output)
            self.likelihood.noise.set_moment(self.likelihood.mean_energy(energy, batch.weight, batch.observed))

    def propose(self, batch: Batch) -> Proposal:
        return self.posterior(batch).propose(batch.drawn("posterior"))


def _ramp(progress: float, fraction: float) -> float:
    """Rise from 0 to 1 over the first `fraction` of the run."""
    return 1.0 if progress >= fraction else progress / fraction
