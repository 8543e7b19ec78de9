"""The conditional variational autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skvae import functional as fn
from skvae.modules.batch import Batch
from skvae.modules.linear import RIDGE, LinearModel, Readings, decoder_of, decoder_of_draws
from skvae.modules.networks.beside import read_beside
from skvae.modules.priors import PriorSpec
from skvae.modules.priors.normal import ConditionalNormal
from skvae.modules.vae import VAEModule

_CHUNK_NUMBERS = 2**24  # of covariances at once


class CVAEModule(VAEModule):
    r"""Variational autoencoder whose decoder reads a condition c, by the bound on :math:`\log p(x|c)` [1]_ [2]_.

    .. math:: -\log p(x|z, c) + \beta\,\mathrm{KL}(q(z|x)\,\|\,p(z|c)), \quad z \sim q(z|x)

    Parameters
    ----------
    n_conditions : int
        Width of the condition.
    encode_condition : bool
        Whether the encoder takes the condition, too: q(z|x, c).
    prior : str or PriorSpec
        p(z|c): a name in `skvae.modules.PRIORS`, or a specification. A network learns the moments of "conditional" from c.
    n_features, n_components, **autoencoder
        See `VAEModule`.

    References
    ----------
    .. [1] Kingma et al., "Semi-supervised learning with deep generative models", NeurIPS 2014.
    .. [2] Sohn et al., "Learning structured output representation using deep conditional generative models", NeurIPS 2015.
    """

    passes_rows_on = False  # the decoder's codes, and maybe the encoder's rows, have conditions joined to them

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        n_conditions: int = 1,
        encode_condition: bool = False,
        prior: str | PriorSpec = "standard",
        **autoencoder: Any,
    ):
        self.n_conditions, self.encode_condition = n_conditions, encode_condition
        conditional = {"n_conditions": n_conditions, "encode_condition": encode_condition}
        super().__init__(n_features, n_components, prior=prior, **conditional, **autoencoder)

    @property
    def n_encoder_inputs(self) -> int:
        return super().n_encoder_inputs + (self.n_conditions if self.encode_condition else 0)

    @property
    def n_decoder_inputs(self) -> int:
        return self.n_components + self.n_conditions

    def join_input(self, x: Tensor, batch: Batch) -> Tensor:
        """Join to what is read of rows: their conditions, with `encode_condition`."""
        x = super().join_input(x, batch)
        if not self.encode_condition:
            return x
        assert batch.condition is not None
        return torch.cat([x, batch.condition], dim=1)

    def encoder_output(self, batch: Batch) -> Tensor:
        output = None
        if self.encode_condition and not torch.is_grad_enabled():
            assert batch.condition is not None
            x = super().join_input(self.read_rows(batch), batch)
            output = read_beside(self.encoder, x, batch.condition)
        return super().encoder_output(batch) if output is None else output

    def _encoder_output(self, batch: Batch) -> Tensor:
        if self.prior_needs_condition and (self.training or batch.condition is None):
            return self.encoder_output(batch)  # rows without entries are not learned from, or come from who knows where
        return super()._encoder_output(batch)

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        output = None
        if not torch.is_grad_enabled():
            assert batch.condition is not None
            output = read_beside(self.decoder, z, batch.condition)
        return super().decode(z, batch) if output is None else output

    def decoder_input(self, z: Tensor, batch: Batch) -> Tensor:
        """Codes with their conditions beside them, ``(n, ..., n_components + n_conditions)``."""
        condition = batch.condition
        assert condition is not None
        if z.dim() == 3:
            condition = condition.unsqueeze(1).expand(-1, z.shape[1], -1)
        return torch.cat([z, condition], dim=-1)

    # -- the linear special case --------------------------------------------------------------------------------------

    def start(self, batch: Batch) -> None:
        """Begin at factor analysis of what conditions leave unexplained; see `LatentModule.start`."""
        super().start(batch)
        if isinstance(self.prior, ConditionalNormal):
            self.prior.start()

    def _explained(self, rows: Readings) -> tuple[Tensor, Tensor]:
        assert rows.condition is not None
        if rows.observed is None:
            slopes, bias = fn.least_squares(rows.condition, rows.inputs, rows.weight)
        else:
            slopes, bias = fn.least_squares_of_observed(rows.condition, rows.inputs, rows.weight, rows.observed)
        return slopes, rows.condition @ slopes.mT + bias

    def _linear_model(self, factors: fn.Factors, rows: Readings, slopes: Tensor, beta: float) -> LinearModel:
        """Return the linear model of factors and conditions, which are factors, too, for an encoder that does not read them.

        Parameters
        ----------
        factors : Factors
            Of what conditions leave unexplained.
        """
        n_inputs, n_components = len(slopes), self.n_components
        condition = rows.condition
        assert condition is not None
        share = rows.weight / rows.weight.sum()
        center = share @ condition
        away = condition - center
        apart = rows.inputs - away @ slopes.mT
        mean, origin = share @ rows.inputs, share @ rows.response
        if rows.observed is not None:  # of a column, its rows that have an entry, whose conditions may not be those of all
            counted = share.unsqueeze(1) * rows.observed
            mean = origin = factors.mean + (counted * apart).sum(0) / counted.sum(0).clamp(min=1e-30)
        both = fn.Factors(mean, factors.loadings, factors.noise)
        if not self.encode_condition:
            spread, turn = torch.linalg.eigh((away * share.unsqueeze(1)).mT @ away)
            beside = slopes @ (turn * spread.clamp(min=0.0).sqrt())
            both = both._replace(loadings=torch.cat([factors.loadings, beside], dim=1))
        if rows.observed is None:
            encoder, covariance = (part[:n_components] for part in both.posterior(beta))
            wide = torch.zeros(n_components, rows.joined.shape[1], dtype=encoder.dtype)
            wide[:, :n_inputs] = encoder
            bias = -(encoder @ mean)
            if self.encode_condition:
                wide[:, n_inputs:] = -(encoder @ slopes)
                bias = bias + encoder @ slopes @ center
        else:
            inputs = apart if self.encode_condition else rows.inputs
            known, covariance = _posterior_of_observed(both, inputs, rows, beta, n_components)
            wide, bias = fn.least_squares(rows.joined, known, rows.weight, ridge=RIDGE)
        if self.likelihood.is_location_family:
            decoder = torch.cat([factors.loadings, slopes], dim=1), origin - slopes @ center
        else:
            codes = torch.cat([rows.joined @ wide.mT + bias, condition], dim=1)
            if self.likelihood.has_noise:
                known = covariance.new_full((condition.shape[1],), RIDGE)
                decoder = decoder_of_draws(codes, torch.cat([covariance, known]), rows)
            else:
                decoder = decoder_of(self, codes, rows)
        return LinearModel(wide, bias, *decoder, log_var=covariance.log())


def _posterior_of_observed(
    factors: fn.Factors, inputs: Tensor, rows: Readings, beta: float, n_components: int
) -> tuple[Tensor, Tensor]:
    """Means ``(n, n_components)`` of the first factors of rows with missing entries, and their variances on average."""
    assert rows.observed is not None
    n_at_once = max(1, _CHUNK_NUMBERS // factors.loadings.shape[1] ** 2)
    means, variances = [], []
    for x, observed in zip(torch.split(inputs, n_at_once), torch.split(rows.observed, n_at_once), strict=True):
        mean, covariance = fn.posterior_of_observed(factors, x, observed, beta)
        means.append(mean[:, :n_components])
        variances.append(covariance.diagonal(dim1=1, dim2=2)[:, :n_components])
    return torch.cat(means), rows.weight @ torch.cat(variances) / rows.weight.sum()
