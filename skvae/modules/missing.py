"""Variational autoencoders for rows with missing entries, and models of why entries are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae import functional as fn
from skvae.modules.base import Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.likelihoods import Energies
from skvae.modules.linear import LinearModel, Readings
from skvae.modules.networks.layers import linear_map_of, mlp
from skvae.modules.posterior import DiagonalNormal, FactorPosterior, Proposal
from skvae.modules.vae import VAEModule

MECHANISMS = ("random", "self_masking", "linear", "nonlinear")
_MASK_WIDTH = 32
_MOST_HIDDEN = 0.3  # share of a row's entries that training hides at most
_MOST_LEFT_OUT = 0.6  # the same where they are left out of the bound, too
_BORROWED = 4  # rows whose draws a held-out one takes, its own included
_MOST_STRETCH = 5.0  # logarithm of it, by which proposals are wider or narrower than the posteriors of a linear model
_FIRST_SLOPE = 1.0
# By which steps of a logistic regression are larger than those of a network: its few numbers have further to go. While its
# sign is open they wait for what the network finds.
_GAIN, _GAIN_OF_OPEN_SIGN = 30.0, 5.0
_TRIES = 64  # draws of which one is taken
_NODES, _REACH = 17, 4.0  # numbers that stand for a normal distribution, and where they end


class MaskModel(nn.Module):
    """Log-odds that entries are missing, from the values of the row.

    Parameters
    ----------
    n_features : int
    columns : sequence of int
        Columns whose entries may be missing.
    mechanism : {"self_masking", "linear", "nonlinear"}
        An entry's own value decides, by a logistic regression; or all of the row's, by one, or by a network.
    sign : {-1, 0, 1}
        With "self_masking", whether smaller or larger values are missing more often; 0 leaves that open.
    rates : sequence of float
        Shares of missing entries in those columns.
    """

    columns: Tensor

    def __init__(self, n_features: int, columns: Sequence[int], mechanism: str, sign: int, rates: Sequence[float]):
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        self.mechanism, self.sign = mechanism, sign
        self.is_separate = mechanism == "self_masking"  # whether each entry depends on itself alone
        odds = torch.logit(torch.tensor(rates, dtype=torch.float32), eps=1e-3)
        self.gain = _GAIN if sign else _GAIN_OF_OPEN_SIGN
        if mechanism == "self_masking":
            first = math.log(math.expm1(_FIRST_SLOPE)) if sign else 0.0
            self.slope = nn.Parameter(torch.full((len(columns),), first / self.gain))
            self.bias = nn.Parameter(odds / self.gain)
        else:
            hidden = (_MASK_WIDTH,) if mechanism == "nonlinear" else ()
            self.network = mlp(n_features, hidden, len(columns), activation="tanh")
            with torch.no_grad():
                self.network[-1].weight.mul_(0.1)  # type: ignore[operator, union-attr]
                self.network[-1].bias.copy_(odds)  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Log-odds for what networks read of rows, ``(..., n_features)``, ``(..., n_columns)``; see `Likelihood.read`."""
        if self.mechanism == "self_masking":
            return self.own(x[..., self.columns])
        log_odds: Tensor = self.network(x)
        return log_odds

    def own(self, values: Tensor) -> Tensor:
        """Log-odds of "self_masking" for the values of its columns alone, ``(..., n_columns)``."""
        slope = self.gain * self.slope
        slope = self.sign * nn.functional.softplus(slope) if self.sign else slope
        return self.gain * self.bias + slope * values

    def log_prob(self, x: Tensor, observed: Tensor) -> Tensor:
        """Log-probability of masks given complete rows, ``(...,)``."""
        log_odds = self(x)
        return -nn.functional.softplus(torch.where(observed[..., self.columns], log_odds, -log_odds)).sum(-1)


class MaskedDraws(NamedTuple):
    """Draws of codes, weighted by importance and by how well they explain which entries are missing.

    Attributes
    ----------
    log_weights : Tensor of shape (n, n_draws)
    output : Tensor of shape (n, n_draws, n_features)
        What the decoder returns.
    terms : Energies
        Of shape ``(n, n_draws, n_features)``; the noise is learned, with a mask model, from missing entries as well.
    drawn : Tensor of shape (n, n_draws, n_features) or None
        Complete rows, in standardized units, that the mask model read.
    """

    log_weights: Tensor
    output: Tensor
    terms: Energies
    drawn: Tensor | None


class MIWAEModule(VAEModule):
    r"""Variational autoencoder trained by the importance-weighted bound on what is observed, :math:`\log p(x_o)` [1]_.

    .. math:: -\log \frac1K \sum_k \frac{p(x_o|z_k)\,p(z_k)}{q(z_k|x_o)}\,p(s|x_o, x_{m,k}), \quad z_k \sim q(z|x_o),
        \quad x_{m,k} \sim p(x_m|z_k)

    The last factor, the probability of the mask s, is there where entries are not missing at random [2]_.

    Parameters
    ----------
    n_draws : int
        Importance draws K per row and step.
    mechanism : str
        A name in `MECHANISMS`.
    sign : int
        See `MaskModel`.
    rates : sequence of float
        Shares of missing entries in the `indicated` columns.
    hides : bool
        Whether training hides entries from the encoder, up to three in ten of a row, that count in the bound all the same: it
        then knows what to make of rows with more gaps than those it was trained on, and in other columns. Beside a linear path
        they are up to six in ten and do not count: nearly collinear columns would pass for noisy ones, were they explained by
        draws that know nothing of them.
    n_features, n_components, **autoencoder
        See `VAEModule`. Beside a linear path, proposals are the posteriors of the factor model that the decoder's linear map
        and the noise are, whatever is observed of a row, and the encoder moves and stretches them: without networks, they
        are exact.

    References
    ----------
    .. [1] Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets", ICML 2019.
    .. [2] Ipsen, Mattei and Frellsen, "not-MIWAE: deep generative modelling with missing not at random data", ICLR 2021.
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        n_draws: int = 20,
        mechanism: str = "random",
        sign: int = 0,
        rates: Sequence[float] = (),
        hides: bool = False,
        indicated: Sequence[int] = (),
        **autoencoder: Any,
    ):
        indicated = tuple(range(n_features)) if hides else indicated
        super().__init__(n_features, n_components, n_draws=n_draws, indicated=indicated, **autoencoder)
        self.hides = hides
        self.solves_per_row = self.is_factored = self.linear_path is not None
        self.noise_shapes = {"posterior": (n_draws, n_components)}
        if hides:
            self.noise_shapes["hidden"] = (n_features + 1,)
        self.mask_model = None
        if mechanism != "random" and len(indicated):
            self.mask_model = MaskModel(n_features, indicated, mechanism, sign, rates)
            self.noise_shapes["entries"] = (n_draws, n_features)

    @classmethod
    def missing_arguments(cls, n_missing: NDArray[np.int64], n_rows: int) -> dict[str, Any]:
        rates = tuple(float(n / n_rows) for n in n_missing[n_missing > 0])
        return {**super().missing_arguments(n_missing, n_rows), "rates": rates}

    def _hide(self, batch: Batch) -> Batch:
        """Batch of which some entries are hidden: of every row a share of its own."""
        uniform, most = fn.normal_cdf(batch.drawn("hidden")), _MOST_LEFT_OUT if self.is_factored else _MOST_HIDDEN
        seen = uniform[:, :-1] >= most * uniform[:, -1:]
        seen = seen if batch.observed is None else seen & batch.observed
        return batch._replace(x=torch.where(seen, batch.x, self.likelihood.absent(is_target=True)), observed=seen)

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        if self.hides and self.is_factored:
            batch = self._hide(batch)
            log_weights, _, terms = self.importance_draws(batch)
        elif self.hides:
            log_weights, _, terms = self.importance_draws(batch, seen=self._hide(batch))
        else:
            log_weights, _, terms, _ = self.weigh_masks(batch)
        share = torch.softmax(log_weights.detach(), 1)
        learned = {} if self.is_solved else self._noise_learned(batch, terms, share, complete=self.mask_model is not None)
        return Loss({"reconstruction": math.log(log_weights.shape[1]) - torch.logsumexp(log_weights, dim=1)}, learned)

    @property
    def joins_at(self) -> float:
        """At once: there is no KL that another prior could have a part in."""
        return 0.0

    @property
    def is_solved(self) -> bool:
        return self.linear_path == math.inf

    def held_out_loss(self, batch: Batch, schedule: Schedule) -> Tensor:
        """Return squared errors of what is hidden of rows, filled in from what is not; the objective without a linear path."""
        if not (self.is_factored and self.hides):
            return super().held_out_loss(batch, schedule)
        noise, seen = batch.drawn("posterior"), self._hide(batch)
        # Every row borrows draws of the others: few would say more about chance than about the model.
        several = torch.cat([noise.roll(i, 0) for i in range(_BORROWED)], dim=1)
        draws = self.importance_draws(
            seen._replace(target=batch.target, noise={"posterior": torch.cat([several, -several], dim=1)})
        )
        share = torch.softmax(draws.log_weights, dim=1)
        mean = torch.einsum("nk,nkd->nd", share, self.likelihood.expectation(draws.output))
        assert seen.observed is not None
        hidden = ~seen.observed if batch.observed is None else batch.observed & ~seen.observed
        return torch.where(hidden, mean - batch.target, 0.0).square().sum(1)

    # -- beside a linear path: proposals are the posteriors of the decoder's linear map, which the encoder moves --------

    def _linear_model(self, factors: fn.Factors, rows: Readings, slopes: Tensor, beta: float) -> LinearModel:
        """Return the factors as a decoder; the encoder begins with nothing to add to their posteriors."""
        shape = (self.n_components, rows.joined.shape[1])
        zeros = rows.joined.new_zeros(shape)
        return LinearModel(zeros, zeros[:, 0], factors.loadings, factors.mean)

    def _factor_posterior(self, batch: Batch) -> FactorPosterior:
        linear, likelihood = linear_map_of(self.decoder), self.likelihood
        assert isinstance(linear, nn.Linear)
        observed = torch.ones_like(batch.x, dtype=torch.bool) if batch.observed is None else batch.observed
        with torch.no_grad():  # any proposal will do: this one follows the decoder by itself
            loadings = likelihood.location_change(linear.weight.T).T
            deviation = likelihood.hide_constant(batch.x - likelihood.locate(torch.as_tensor(linear.bias)))
            noise = torch.where(likelihood.varying > 0.0, likelihood.variance(torch.zeros_like(likelihood.weight)), 1.0)
            q = FactorPosterior.of(deviation, observed, loadings, noise)
        if self.is_solved:
            return q
        shift, log_scale = self.encoder_output(batch).chunk(2, dim=-1)
        known = observed.any(1, keepdim=True)
        return q.moved(shift * known, log_scale.clamp(-_MOST_STRETCH, _MOST_STRETCH) * known)

    def posterior(self, batch: Batch) -> DiagonalNormal:
        return self._factor_posterior(batch).diagonal() if self.is_factored else super().posterior(batch)

    def posterior_of_inputs(self, inputs: Tensor) -> DiagonalNormal:
        if not self.is_factored:
            return super().posterior_of_inputs(inputs)
        return self.posterior(Batch.of(inputs[:, : self.n_features]))

    def encode(self, batch: Batch) -> Tensor:
        return self._factor_posterior(batch).mean if self.is_factored else super().encode(batch)

    def propose(self, batch: Batch) -> Proposal:
        return self._factor_posterior(batch).propose(batch.drawn("posterior")) if self.is_factored else super().propose(batch)

    def residual_energy(self, batch: Batch) -> Tensor:
        if not self.is_factored:
            return super().residual_energy(batch)
        noise = batch.drawn("posterior")
        z = self.propose(batch._replace(noise={"posterior": noise.unsqueeze(1) if noise.dim() == 2 else noise[:, :1]})).z
        return self._mean_energy(batch, self.decode(z.squeeze(1), batch))

    # -- where entries are missing because of their values --------------------------------------------------------------

    def weigh_masks(self, batch: Batch) -> MaskedDraws:
        """Log importance weights of draws of what is not observed, given what is and which it is.

        Parameters
        ----------
        batch : Batch
            With ``noise["posterior"]`` of shape ``(n, n_draws, n_components)`` and, where there is a mask model,
            ``noise["entries"]`` of shape ``(n, n_draws, n_features)``.

        Returns
        -------
        MaskedDraws
        """
        log_weights, output, terms = self.importance_draws(batch)
        if self.mask_model is None:
            return MaskedDraws(log_weights, output, terms, None)
        observed = torch.ones_like(batch.x, dtype=torch.bool) if batch.observed is None else batch.observed
        if self.mask_model.is_separate:
            log_mask, expected = self._integrate_own_values(batch.target, observed, output)
            learnable = terms.learnable if expected is None else terms.learnable + expected
            return MaskedDraws(log_weights + log_mask, output, terms._replace(learnable=learnable), None)
        observed, likelihood = observed.unsqueeze(1), self.likelihood
        guess = likelihood.scatter_by(output, batch.drawn("entries"))
        drawn = torch.where(observed, batch.target.unsqueeze(1), guess)
        log_weights = log_weights + self.mask_model.log_prob(likelihood.read(drawn), observed)
        if self._is_learning_noise:  # from complete rows: what is observed has been chosen by its value
            guessed = likelihood.energies(guess, output, ~observed).detach()
            terms = terms._replace(learnable=terms.learnable + guessed)
        return MaskedDraws(log_weights, output, terms, drawn)

    def _integrate_own_values(self, target: Tensor, observed: Tensor, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Integrate missing entries out, one by one, as each decides by itself whether it is missing.

        Returns the log-probability of the masks, ``(n, n_draws)``, and, where the noise is learned, the mean energies of missing
        entries given that they are missing, ``(n, n_draws, n_features)``, zero for the others.
        """
        model, likelihood = self.mask_model, self.likelihood
        assert model is not None
        values, log_mass = self._nodes(output)
        log_missing = log_mass + nn.functional.logsigmoid(model.own(likelihood.read(values, model.columns)))
        present = observed[:, model.columns].unsqueeze(1)
        log_present = nn.functional.logsigmoid(-model(likelihood.read(target))).unsqueeze(1)
        log_mask = torch.where(present, log_present, torch.logsumexp(log_missing, 2)).sum(-1)
        if not self._is_learning_noise:
            return log_mask, None
        with torch.no_grad():
            # The noise is learned from complete rows: what is observed has been chosen by its value.
            # The energy around an output does not depend on the output.
            zero = torch.zeros_like(output[0, 0])
            energy = likelihood.energy(likelihood.scatter_by(zero, self._grid(output)), zero)
            mean = (log_mass.exp() * energy).sum(0).expand(output.shape)
            share = torch.softmax(log_missing, 2)
            mean = mean.index_copy(-1, model.columns, (share * energy[:, model.columns]).sum(2))
            return log_mask, mean * ~observed.unsqueeze(1)

    @staticmethod
    def _grid(output: Tensor) -> Tensor:
        """Numbers that stand for a normal distribution, as a column."""
        return torch.linspace(-_REACH, _REACH, _NODES, device=output.device, dtype=output.dtype).unsqueeze(1)

    def _nodes(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the mask model's columns that stand for the likelihood around outputs, and their log-masses.

        The values are ``(..., n_nodes, n_columns)``.
        """
        assert self.mask_model is not None
        grid, columns, likelihood = self._grid(output), self.mask_model.columns, self.likelihood
        log_mass = torch.log_softmax(-0.5 * grid.square(), 0)
        if not likelihood.is_location_family:
            return likelihood.scatter_by(output.unsqueeze(-2), grid)[..., columns], log_mass
        around = likelihood.scatter_by(torch.zeros_like(likelihood.weight), grid)[:, columns]
        return likelihood.locate(output)[..., columns].unsqueeze(-2) + around, log_mass

    def mean_missing(self, output: Tensor) -> Tensor:
        """Means of missing entries, in standardized units, given that they are missing and what the decoder returns."""
        mean = self.likelihood.expectation(output)
        model = self.mask_model
        if model is None or not model.is_separate:
            return mean
        values, log_mass = self._nodes(output)
        read = self.likelihood.read(values, model.columns)
        share = torch.softmax(log_mass + nn.functional.logsigmoid(model.own(read)), -2)
        return mean.index_copy(-1, model.columns, (share * values).sum(-2))

    def draw_missing(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw missing entries, in standardized units, given that they are missing and what the decoder returns."""
        model = self.mask_model
        if model is None or not model.is_separate:
            return self.likelihood.scatter(output, generator)
        several = self.likelihood.scatter(output.unsqueeze(-2).expand(*output.shape[:-1], _TRIES, -1), generator)
        log_odds = nn.functional.logsigmoid(model(self.likelihood.read(several)))
        uniform = torch.rand(several.shape, generator=generator, device=several.device).clamp(1e-20, 1.0 - 1e-7)
        score = -torch.log(-torch.log(uniform))  # the largest of which is a draw, once log-probabilities are added
        score[..., model.columns] += log_odds
        return several.gather(-2, score.argmax(-2, keepdim=True)).squeeze(-2)

    @torch.no_grad()
    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Leave the noise to training, whose weighted draws know it better, but where columns shared it there."""
        if self.likelihood.noise.is_shared and self.mask_model is None:
            super().fit_noise(batch, share)
