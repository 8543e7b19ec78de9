"""The conditional variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skvae.functional import gaussian_kl
from skvae.modules.batch import Batch
from skvae.modules.networks.layers import mlp
from skvae.modules.networks.specs import MLP, Layered, fill, hidden_of
from skvae.modules.vae import MAX_LOG_VAR, VAEModule

PRIORS = ("standard", "conditional")
_SECANT = 0.03  # in standard deviations of the prior; slopes are those of secants, which smooth over kinks


class CVAEModule(VAEModule):
    r"""Variational autoencoder whose decoder is told a condition c, by the bound on :math:`\log p(x|c)` [1]_ [2]_.

    .. math:: -\log p(x|z, c) + \beta\,\mathrm{KL}(q(z|x)\,\|\,p(z|c)), \quad z \sim q(z|x)

    The decoder takes codes and conditions side by side.

    Parameters
    ----------
    n_conditions : int
        Width of the condition.
    encode_condition : bool
        Have the encoder see it, too: q(z|x, c).
    prior : {"standard", "conditional"}
        p(z|c): standard normal whatever the condition, or a Gaussian whose moments a network learns from it.
    n_features, n_components, **autoencoder
        See `VAEModule`.

    References
    ----------
    .. [1] Kingma et al., "Semi-supervised learning with deep generative models", NeurIPS 2014.
    .. [2] Sohn et al., "Learning structured output representation using deep conditional generative models", NeurIPS 2015.
    """

    takes_missing = False

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        n_conditions: int = 1,
        encode_condition: bool = False,
        prior: str = "standard",
        **autoencoder: Any,
    ):
        self.n_conditions, self.encode_condition = n_conditions, encode_condition
        told = {"n_conditions": n_conditions, "encode_condition": encode_condition}
        super().__init__(n_features, n_components, **told, **autoencoder)
        self.prior_network = None
        if prior == "conditional":
            encoder, sizes = autoencoder.get("encoder"), autoencoder.get("hidden_layer_sizes", (128, 64))
            own = encoder if isinstance(encoder, Layered) else MLP()
            hidden = fill(own, sizes, autoencoder.get("activation", "relu"))
            self.prior_network = mlp(n_conditions, hidden.hidden_layer_sizes, 2 * n_components, **hidden_of(hidden))

    @property
    def passes_rows_on(self) -> bool:  # type: ignore[override]
        """Whether the encoder's rows have nothing joined to them."""
        return not self.encode_condition

    @property
    def n_encoder_inputs(self) -> int:
        return self.n_features + (self.n_conditions if self.encode_condition else 0)

    @property
    def n_decoder_inputs(self) -> int:
        return self.n_components + self.n_conditions

    def _encoder_output(self, x: Tensor, condition: Tensor | None, observed: Tensor | None = None) -> Tensor:
        if not self.encode_condition:
            return super()._encoder_output(x, condition)
        assert condition is not None
        output: Tensor = self.encoder(torch.cat([self.likelihood.network_input(x), condition], dim=1))
        return output

    def join(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """Codes ``(n, ..., n_components)`` with their conditions beside them."""
        assert condition is not None
        if z.dim() == 3:
            condition = condition.unsqueeze(1).expand(-1, z.shape[1], -1)
        return torch.cat([z, condition], dim=-1)

    # -- the prior ----------------------------------------------------------------------------------------------------

    def prior_moments(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z|c), each ``(n, n_components)``."""
        if self.prior_network is None:
            zeros = condition.new_zeros(len(condition), self.n_components)
            return zeros, zeros
        mean, log_var = self.prior_network(condition).chunk(2, dim=-1)
        return mean, log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR)

    def divergence(
        self, mean: Tensor, log_var: Tensor, condition: Tensor | None = None, *, per_component: bool = False
    ) -> Tensor:
        if self.prior_network is None:
            return gaussian_kl(mean, log_var, per_component=per_component)
        assert condition is not None
        return gaussian_kl(mean, log_var, *self.prior_moments(condition), per_component=per_component)

    def conditional_log_prior(self, z: Tensor, condition: Tensor) -> Tensor:
        """Log-density of codes ``(n, n_draws, n_components)`` under p(z|c), ``(n, n_draws)``."""
        if self.prior_network is None:
            return self.log_prior(z)
        mean, log_var = (moment.unsqueeze(1) for moment in self.prior_moments(condition))
        return self.log_prior((z - mean) * torch.exp(-0.5 * log_var)) - 0.5 * log_var.sum(-1)

    def log_weights(self, batch: Batch, log_prior: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        assert batch.noise is not None
        assert batch.condition is not None
        z, log_q = self.propose(batch.x, batch.noise["posterior"], batch.condition)
        log_likelihood = -self.likelihood.nll(batch.target.unsqueeze(1), self.decode_draws(z, batch.condition))
        return log_likelihood + self.conditional_log_prior(z, batch.condition) - log_q

    def decode_draws(self, z: Tensor, condition: Tensor) -> Tensor:
        """Decode several codes ``(n, n_draws, n_components)`` of each condition, to ``(n, n_draws, n_features)``."""
        return torch.unflatten(self.decode(self.join(z, condition).flatten(0, 1)), 0, z.shape[:2])

    # -- given a part of the row --------------------------------------------------------------------------------------

    def log_posterior(self, x: Tensor, observed: Tensor, z: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        r"""Log of :math:`p(x_\mathrm{observed}|z, c)\,p(z|c)` up to a constant of the row.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
            Standardized rows.
        observed : Tensor of shape (n, n_features)
            One for entries that are observed, zero for the others.
        z : Tensor of shape (n, n_draws, n_components)
        condition : Tensor of shape (n, n_conditions)

        Returns
        -------
        log_posterior : Tensor of shape (n, n_draws)
        output : Tensor of shape (n, n_draws, n_features)
            The decoder's output.
        """
        output = self.decode_draws(z, condition)
        energy = self.likelihood.energy(x.unsqueeze(1), self.likelihood.locate(output)) * observed.unsqueeze(1)
        return self.conditional_log_prior(z, condition) - energy @ self.likelihood.weight, output

    def newton(self, x: Tensor, observed: Tensor, z: Tensor, output: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        r"""Gradient of `log_posterior` in the code, and the precision of its Gaussian approximation.

        With :math:`J` the slope of the decoder, :math:`W` the likelihood's information, zero for entries that are not
        observed, and :math:`\Lambda` the prior's precision, that is :math:`\Lambda + J^\top W J`.

        Parameters
        ----------
        x, observed : Tensor of shape (n, n_features)
        z : Tensor of shape (n, n_components)
        output : Tensor of shape (n, n_features)
            The decoder's output for the codes.
        condition : Tensor of shape (n, n_conditions)

        Returns
        -------
        gradient : Tensor of shape (n, n_components)
        precision : Tensor of shape (n, n_components, n_components)
            In double precision, where the device has it.
        """
        exact = torch.float32 if z.device.type == "mps" else torch.float64
        mean, log_var = self.prior_moments(condition)
        width = _SECANT * torch.exp(0.5 * log_var)
        located = self.likelihood.locate(self.decode_draws(z.unsqueeze(1) + torch.diag_embed(width), condition))
        slopes = ((located - self.likelihood.locate(output).unsqueeze(1)) / width.unsqueeze(-1)).to(exact)
        information = (self.likelihood.information(output) * observed).to(exact)
        residual = self.likelihood.residual(x, output).to(exact) * observed
        # The Bernoulli residual is already the gradient in the logits.
        force = residual * information if self.likelihood.has_noise else residual
        prior = torch.exp(-log_var).to(exact)
        gradient = (slopes @ force.unsqueeze(-1)).squeeze(-1) + prior * (mean - z)
        return gradient, (slopes * information.unsqueeze(1)) @ slopes.mT + torch.diag_embed(prior)
