"""The plain autoencoder."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skvae.modules.base import LatentModule, Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.linear import install, principal_model, read
from skvae.modules.networks.layers import Shortcut, linear_map_of
from skvae.modules.noise_fit import NoiseFit
from skvae.modules.posterior import Free, LaplacePosterior, Proposal, colored
from skvae.modules.priors.fitted import FittedGaussian, FittedPrior

_SEARCHES = 2  # for better codes than the encoder's, one after the other
_FRACTIONS = 4  # of a step that are tried: all of it, half, a quarter and so on
_SLACK = 1.0  # nats by which the code after a Newton step may be worse than the best one tried


class Expansion(NamedTuple):
    """What the posterior of rows looks like around codes.

    Attributes
    ----------
    code : Tensor of shape (n, n_components)
    posterior : LaplacePosterior
    output : Tensor of shape (n, n_features)
        What the decoder returns for the codes.
    force : Tensor of shape (n, n_features)
        Gradient of the log-likelihood in it, in double precision where the device has it.
    information : Tensor of shape (n_features,) or (n, n_features)
    """

    code: Tensor
    posterior: LaplacePosterior
    output: Tensor
    force: Tensor
    information: Tensor


class AutoEncoderModule(LatentModule):
    r"""Deterministic code, trained on the distortion alone, and a generative model fitted to it afterwards.

    The generative model is a density p(z) of the training codes and the likelihood p(x|z) with the decoder frozen. Its
    log-likelihood is estimated by importance sampling from the Laplace approximation of p(z|x): with :math:`J` the slope
    of the decoder at the code, :math:`W` the likelihood's information and :math:`\Lambda` the codes' precision, a normal
    distribution of precision :math:`\Lambda + J^\top W J` around one Newton step from the code. Where decoder and noise
    are linear and Gaussian it is the posterior itself and the estimate is exact. Where :math:`W` depends on the output, as
    that of counts does, a Newton step may lead anywhere: it is taken if it leads to about the best of the codes that are
    tried on the way, and otherwise the normal distribution is one around the best.

    Parameters
    ----------
    n_features, n_components, **autoencoder
        See `LatentModule`.
    """

    prior: FittedPrior

    solves_per_row = True
    takes_missing = True

    def __init__(self, n_features: int, n_components: int, **autoencoder: Any):
        super().__init__(n_features, n_components, **autoencoder)
        self.prior = FittedGaussian(n_components)

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        output = self.decode(self.encode(batch), batch)
        return Loss({"reconstruction": self.likelihood.distortion(batch.target, output, batch.counted, batch.facts)}, {})

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Begin at the principal components of what the encoder reads; see `LatentModule.start`."""
        install(self, principal_model(self, read(self, batch)))

    # -- the generative model behind the score ------------------------------------------------------------------------

    @cached_property
    def linear_map(self) -> Any:
        """The decoder's one layer, if it has no other."""
        return None if isinstance(self.decoder, Shortcut) else linear_map_of(self.decoder)

    @cached_property
    def is_curved(self) -> bool:
        """Whether the likelihood's information depends on the decoder's output."""
        weight = self.likelihood.weight
        return self.likelihood.information(weight.new_zeros(1, self.likelihood.n_outputs)).dim() > 1

    @property
    def slope_decodes(self) -> int:
        slopes = self.prior.most_free * (1 if self.linear_map is not None else 2)
        return max(slopes, 2 * _FRACTIONS + 1) if self.is_curved else slopes

    def slopes(self, code: Tensor, free: Free, batch: Batch) -> Tensor:
        """Slopes of the decoder along the free entries of codes, as ``(n, n_free, n_features)``, or once for all rows.

        They are secants, but where the decoder is a linear map.
        """
        if self.linear_map is not None:
            slopes = self.likelihood.location_change(self.linear_map.weight.mT)
            if free.positions.stride(0) == 0:
                return slopes[free.positions[:1]]
            return slopes[free.positions] * free.active.unsqueeze(-1)
        width = self.prior.secant[free.positions]
        steps = torch.zeros(*free.positions.shape, self.n_components, dtype=code.dtype, device=code.device)
        steps.scatter_(2, free.positions.unsqueeze(2), width.to(code).unsqueeze(2))
        around = torch.cat([code.unsqueeze(1) + steps, code.unsqueeze(1) - steps], dim=1)
        upper, lower = self.likelihood.locate(self.decode(around, batch)).chunk(2, dim=1)
        return (upper - lower) / (2.0 * width.unsqueeze(-1)) * free.active.unsqueeze(-1)

    def propose(self, batch: Batch) -> Proposal:
        code, free = self.free_code(batch)
        noise, around = batch.drawn("posterior"), self._expand(code, free, batch)
        step, factor = around.posterior.step(around.force, around.information)
        if self.is_curved:
            step, factor = self._damped(step, factor, around, batch)
        noise = noise[..., : free.positions.shape[1]].to(factor)
        active = free.active.unsqueeze(1)
        values = ((code.gather(1, free.positions).to(factor) + step).unsqueeze(1) + colored(noise, factor)) * active
        drawn = code.unsqueeze(1).expand(-1, noise.shape[1], -1)
        z = drawn.scatter(2, free.positions.unsqueeze(1).expand(values.shape), values.to(code))
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().unsqueeze(1)
        log_q = ((log_det - 0.5 * noise.square() - 0.5 * math.log(2.0 * math.pi)) * active).sum(-1)
        return Proposal(z, log_q.to(code))

    def _expand(self, code: Tensor, free: Free, batch: Batch) -> Expansion:
        """Expand the posterior around codes."""
        output = self.decode(code, batch)
        residual, information = self.likelihood.residual(batch.target, output), self.likelihood.information(output)
        if batch.observed is not None:
            observed = self.likelihood.spread(batch.observed)
            residual, information = residual * observed, information * observed
        posterior = LaplacePosterior(code, free, self.slopes(code, free, batch))
        force = self.likelihood.score(residual.to(posterior.exact), information.to(posterior.exact))
        return Expansion(code, posterior, output, force, information)

    def _damped(self, step: Tensor, factor: Tensor, around: Expansion, batch: Batch) -> tuple[Tensor, Tensor]:
        """Replace Newton steps that lead to bad codes, and the factors of the precision with them.

        At its rate, a count far above it has next to no information, and much at the rate that it calls for: the Newton step is
        too long by orders of magnitude, and the precision too small. There the step leads to the best code found instead, which
        is never worse than the encoder's, and the precision is that around it. Steps that lead to about as good a code stay what
        they are, to the last bit. Codes are tried for all rows, so that none depends on its neighbors.
        """
        free, total, newton = around.posterior.free, torch.zeros_like(step), step
        for search in range(_SEARCHES):
            moves = self._moves(newton, around, batch)
            energy = self._energy(moves, around, batch)
            least, index = energy.min(1, keepdim=True)
            if search == 0:
                is_good = energy[:, :1] <= least + _SLACK
            best = moves.gather(1, index.unsqueeze(2).expand(-1, -1, moves.shape[2])).squeeze(1)
            total = total + best
            code = around.code.scatter_add(1, free.positions, (best * free.active).to(around.code))
            around = self._expand(code, free, batch)
            newton, narrowed = around.posterior.step(around.force, around.information)
        return torch.where(is_good, step, total), torch.where(is_good.unsqueeze(2), factor, narrowed)

    def _moves(self, newton: Tensor, around: Expansion, batch: Batch) -> Tensor:
        """Return moves of codes to try, ``(n, n_moves, n_free)``: fractions of two steps, the Newton step first, and none.

        The other step has for the information what the force is per shortfall: for counts between the information of the output
        and that of the row, so that a linear decoder of one column gets from any rate to the row's at once.
        """
        secant = around.force / self.likelihood.shortfall(batch.target, around.output)
        information = around.information.to(secant)
        # Where an entry is met already, or missing, there is nothing to divide.
        secant = torch.where((secant > 0.0) & secant.isfinite(), secant, information)
        steps = torch.stack([newton, around.posterior.step(around.force, secant)[0]], dim=1)
        fractions = 0.5 ** torch.arange(_FRACTIONS, dtype=steps.dtype, device=steps.device)
        tried = (steps.unsqueeze(1) * fractions[:, None, None]).flatten(1, 2)
        return torch.cat([tried, torch.zeros_like(tried[:, :1])], dim=1)

    def _energy(self, moves: Tensor, around: Expansion, batch: Batch) -> Tensor:
        """Negative logarithm of p(x|z)p(z), up to a constant of the row, after each of the moves, ``(n, n_moves)``."""
        free = around.posterior.free
        code, positions = around.code.unsqueeze(1).expand(-1, moves.shape[1], -1), free.positions.unsqueeze(1).expand(moves.shape)
        z = code.scatter_add(2, positions, (moves * free.active.unsqueeze(1)).to(code))
        observed = None if batch.observed is None else batch.observed.unsqueeze(1)
        nll = self.likelihood.nll(batch.target.unsqueeze(1), self.decode(z, batch), observed)
        energy = nll + around.posterior.prior_energy(moves)
        return torch.where(energy.isnan(), math.inf, energy)

    def free_code(self, batch: Batch) -> tuple[Tensor, Free]:
        """Codes of rows, zero outside their free entries, and which these are."""
        code = self.encode(batch)
        free = self.prior.free(code)
        return torch.zeros_like(code).scatter(1, free.positions, code.gather(1, free.positions)), free

    @torch.no_grad()
    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Fit the likelihood's noise to residuals; see `NoiseFit`."""
        if self.likelihood.learns_noise:
            NoiseFit(self, batch).run(share)
