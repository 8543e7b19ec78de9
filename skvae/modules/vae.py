"""The variational autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skvae import functional as fn
from skvae.modules.base import LatentModule, Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.linear import RIDGE, LinearModel, Readings, decoder_of, decoder_of_draws, encoded_by, install, read
from skvae.modules.networks.build import resolve_encoder
from skvae.modules.networks.layers import past_statistics
from skvae.modules.networks.specs import MLP, Layered, fill
from skvae.modules.posterior import DiagonalNormal, Proposal
from skvae.modules.priors import PriorSpec, resolve_prior
from skvae.modules.priors.normal import MAX_LOG_VAR

# Part of the run before which codes mean little, unless networks begin at a linear model: a prior that learns would follow them
# out to where decoders learn slowly.
_JOINS_AT = 0.25
_LEAST_BETA, _MOST_BETA = 1.0, 1e3  # between which the linear model obeys beta; below, columns would lose all their noise


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

    scheduled = LatentModule.scheduled | {"beta", "kl_warmup", "capacity"}
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
        self.prior_needs_condition = resolve_prior(prior).needs_condition
        self.prior = resolve_prior(prior).build(n_components, n_conditions=self.n_conditions, hidden=hidden)
        self.prior.attach(self, self.n_encoder_inputs)

    @property
    def warmup(self) -> float:
        return self.kl_warmup

    def schedule(self, progress: float) -> dict[str, float]:
        share = _ramp(progress, self.kl_warmup)
        values = {"beta": self.beta * share}
        if self.capacity is not None:
            values["capacity"] = self.capacity * share
        joins_at = self.joins_at
        if joins_at > 0.0:
            values["prior"] = float(progress >= joins_at)
        return values

    @property
    def joins_at(self) -> float:
        """Fraction of the run at which a prior that waits takes over from the standard normal distribution."""
        if not self.prior.waits:
            return 0.0
        return self.kl_warmup if self.linear_path is not None else max(self.kl_warmup, _JOINS_AT)

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Begin at factor analysis of what the encoder reads, or probabilistic principal components; see `LatentModule.start`.

        Noise and variances of the posterior are those of the factor model.
        """
        likelihood, rows = self.likelihood, read(self, batch)
        slopes, explained = self._explained(rows)
        inputs = rows.inputs - explained if slopes.shape[1] else rows.inputs
        fits = likelihood.is_location_family and likelihood.has_noise
        varying = likelihood.spread(likelihood.varying).cpu() > 0.0
        if not varying.any():
            return
        beta = 1.0 if self.capacity is not None else min(max(self.beta, _LEAST_BETA), _MOST_BETA)
        fixed = likelihood.variance(inputs[:1]).cpu().double() if fits and not likelihood.learns_noise else None
        factors = fn.factor_analysis(
            inputs if varying.all() else inputs[:, varying],
            rows.weight,
            self.n_components,
            is_shared=fits and likelihood.noise.is_shared,
            floor=likelihood.noise_floor()[varying] if likelihood.has_noise else None,
            noise=None if fixed is None else fixed.expand(len(varying))[varying],
            beta=beta,
            observed=None if rows.observed is None else rows.observed[:, varying],
        )
        install(self, self._linear_model(_with_columns(factors, varying), rows, slopes, beta))
        if fits and likelihood.learns_noise:
            noise = _with_columns(factors, varying).noise
            likelihood.noise.set_moment(likelihood.expected_energy(torch.zeros_like(noise), noise))

    def _explained(self, rows: Readings) -> tuple[Tensor, Tensor]:
        """Return what a condition explains of what the encoder reads: slopes ``(n_inputs, n_conditions)`` and rows' parts."""
        return rows.inputs.new_zeros(rows.inputs.shape[1], 0), torch.zeros_like(rows.inputs)

    def _linear_model(self, factors: fn.Factors, rows: Readings, slopes: Tensor, beta: float) -> LinearModel:
        """Return the linear model whose codes are the posterior means of factors."""
        encoder, variance = factors.posterior(beta)
        if rows.observed is None:
            model = encoded_by(self, rows, encoder, factors.mean)
        else:
            mean, covariance = fn.posterior_of_observed(factors, rows.inputs, rows.observed, beta)
            variance = (rows.weight @ covariance.diagonal(dim1=1, dim2=2)) / rows.weight.sum()
            weights = fn.least_squares(rows.joined, mean, rows.weight, ridge=RIDGE)
            model = LinearModel(*weights, *decoder_of(self, mean, rows))
        if self.likelihood.has_noise and not self.likelihood.is_location_family:
            codes = rows.joined @ model.encoder.mT + model.encoder_bias
            slopes, bias = decoder_of_draws(codes, variance, rows)
            model = model._replace(decoder=slopes, decoder_bias=bias)
        if self.likelihood.is_location_family:  # the loadings themselves, which have not shrunk
            model = model._replace(decoder=factors.loadings, decoder_bias=factors.mean)
        return model._replace(log_var=variance.log(), gains=(beta / variance, factors.noise))

    def posterior(self, batch: Batch) -> DiagonalNormal:
        """Posteriors q(z|x), ``(n, n_components)``; the prior's moments where nothing of a row is observed."""
        mean, log_var = self._encoder_output(batch).chunk(2, dim=-1)
        return DiagonalNormal(mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR))

    def posterior_of_inputs(self, inputs: Tensor) -> DiagonalNormal:
        """Posteriors of rows of which all is observed, from what the encoder reads of them, ``(n, n_encoder_inputs)``."""
        with past_statistics(self.encoder):
            mean, log_var = self.encoder(inputs).chunk(2, dim=-1)
        return DiagonalNormal(mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR))

    def encode(self, batch: Batch) -> Tensor:
        """Posterior mean of rows, ``(n, n_components)``."""
        return self._encoder_output(batch).chunk(2, dim=-1)[0]

    def _encoder_output(self, batch: Batch) -> Tensor:
        output = super().encode(batch)
        if batch.observed is None:
            return output
        moments = self.prior.moments(len(output), batch.condition if self.prior_needs_condition else None)
        return torch.where(batch.observed.any(1, keepdim=True), output, torch.cat(moments, dim=1))

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        likelihood, observed = self.likelihood, batch.observed
        q, noise = self.posterior(batch), batch.drawn("posterior")
        z = q.from_noise(noise)
        output, target, facts = self.decode(z, batch), batch.target, batch.facts
        if noise.dim() == 3:
            target, observed = target.unsqueeze(1), None if observed is None else observed.unsqueeze(1)
            facts = None if facts is None else facts.unsqueeze(1)
        entries = likelihood.terms(target, output, observed, facts)
        nll = likelihood.nll_of(entries.energy, observed)
        kl, beta, learned = self.prior.kl(q, z, batch.condition), schedule["beta"], schedule.get("prior", 1.0)
        if not (isinstance(learned, float) and learned == 1.0):
            kl = learned * kl + (1.0 - learned) * fn.gaussian_kl(*q)
        if "capacity" in schedule:
            mean_kl = (kl * batch.weight).sum() / batch.weight.sum()
            kl = (mean_kl - schedule["capacity"]).abs()
        if not (isinstance(beta, float) and beta == 1.0):
            kl = beta * kl
        terms = {"reconstruction": nll if noise.dim() == 2 else nll.mean(1), "kl": kl}
        return Loss(terms, self._noise_learned(batch, entries))

    def residual_energy(self, batch: Batch) -> Tensor:
        """Mean energy of every column around draws from the posteriors, ``(n_features,)``; see `Likelihood.mean_energy`."""
        noise = batch.drawn("posterior")
        z = self.posterior(batch).from_noise(noise if noise.dim() == 2 else noise[:, 0])
        return self._mean_energy(batch, self.decode(z, batch))

    @torch.no_grad()
    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Fit the likelihood's noise to the residuals of draws from the posteriors."""
        if self.likelihood.learns_noise:
            output = self.decode(self.posterior(batch).from_noise(batch.drawn("posterior")), batch)
            self.likelihood.noise.set_moment(self._mean_energy(batch, output))

    def propose(self, batch: Batch) -> Proposal:
        return self.posterior(batch).propose(batch.drawn("posterior"))


def _with_columns(factors: fn.Factors, varying: Tensor) -> fn.Factors:
    """Factors of all columns, of those which vary."""
    n_features, n_factors = len(varying), factors.loadings.shape[1]
    mean, loadings, noise = (factors.mean.new_zeros(n_features, *shape) for shape in ((), (n_factors,), ()))
    mean[varying], loadings[varying], noise[varying] = factors
    noise[~varying] = 1.0
    return fn.Factors(mean, loadings, noise)


def _ramp(progress: float, fraction: float) -> float:
    """Rise from 0 to 1 over the first `fraction` of the run."""
    return 1.0 if progress >= fraction else progress / fraction
