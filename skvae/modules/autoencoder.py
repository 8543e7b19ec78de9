"""The plain autoencoder."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from skvae.modules.base import LatentModule, Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.networks.layers import TiedLinear
from skvae.modules.posterior import Free, LaplacePosterior, Proposal, colored
from skvae.modules.priors.fitted import FittedGaussian, FittedPrior

_NOISE_ITERATIONS = 30
_FEWEST_ROWS = 64  # from which each column's noise can be estimated
_SLOPE_NUMBERS = 2**25
_SOLVE_WORK = 2**27


class AutoEncoderModule(LatentModule):
    r"""Deterministic code, trained on the distortion alone, and a generative model fitted to it afterwards.

    The generative model is a density p(z) of the training codes and the likelihood p(x|z) with the decoder frozen. Its
    log-likelihood is estimated by importance sampling from the Laplace approximation of p(z|x): with :math:`J` the slope
    of the decoder at the code, :math:`W` the likelihood's information and :math:`\Lambda` the codes' precision, a normal
    distribution of precision :math:`\Lambda + J^\top W J` around one Newton step from the code. Where decoder and noise
    are linear and Gaussian it is the posterior itself and the estimate is exact.

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
        return Loss({"reconstruction": self.likelihood.distortion(batch.target, output, batch.observed)}, {})

    # -- the generative model behind the score ------------------------------------------------------------------------

    @cached_property
    def _linear_map(self) -> Any:
        """The decoder's one layer, if it has no other."""
        layers = list(self.decoder) if type(self.decoder) is nn.Sequential else []
        return layers[0] if len(layers) == 1 and isinstance(layers[0], (nn.Linear, TiedLinear)) else None

    @property
    def slope_decodes(self) -> int:
        return self.prior.most_free * (1 if self._linear_map is not None else 2)

    def _slopes(self, code: Tensor, free: Free, batch: Batch) -> Tensor:
        """Slopes of the decoder along the free entries of codes, as ``(n, n_free, n_features)``, or once for all rows.

        They are secants, but where the decoder is a linear map.
        """
        if self._linear_map is not None:
            slopes = self.likelihood.location_change(self._linear_map.weight.mT)
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
        code, free = self._code(batch)
        output, noise = self.decode(code, batch), batch.drawn("posterior")
        residual, information = self.likelihood.residual(batch.x, output), self.likelihood.information(output)
        if batch.observed is not None:
            residual, information = residual * batch.observed, information * batch.observed
        posterior = LaplacePosterior(code, free, self._slopes(code, free, batch))
        exact = posterior.exact
        step, factor = posterior.step(self.likelihood.score(residual.to(exact), information.to(exact)), information)
        noise = noise[..., : free.positions.shape[1]].to(factor)
        active = free.active.unsqueeze(1)
        values = ((code.gather(1, free.positions).to(factor) + step).unsqueeze(1) + colored(noise, factor)) * active
        drawn = code.unsqueeze(1).expand(-1, noise.shape[1], -1)
        z = drawn.scatter(2, free.positions.unsqueeze(1).expand(values.shape), values.to(code))
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().unsqueeze(1)
        log_q = ((log_det - 0.5 * noise.square() - 0.5 * math.log(2.0 * math.pi)) * active).sum(-1)
        return Proposal(z, log_q.to(code))

    def _code(self, batch: Batch) -> tuple[Tensor, Free]:
        """Codes of rows, zero outside their free entries."""
        code = self.encode(batch)
        free = self.prior.free(code)
        return torch.zeros_like(code).scatter(1, free.positions, code.gather(1, free.positions)), free

    # -- the noise ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_noise(self, batch: Batch) -> None:
        """Fit the likelihood's noise by expectation-maximization over the Laplace approximations of the posteriors.

        Where systems are too large to be solved for many rows, these few decide on the level of the noise alone, and the
        residuals of all on how it is divided among the columns.
        """
        if not self.likelihood.learns_noise:
            return
        likelihood, part = self.likelihood, self._affordable(batch)
        some = Batch(*(None if values is None else values[part] for values in batch[:-1]))  # type: ignore[arg-type]
        observed = some.observed
        code, free = self._code(some)
        output = self.decode(code, some)
        residual, slopes = likelihood.residual(some.x, output), self._slopes(code, free, some)
        if observed is not None:
            residual = residual * observed
        energy = start = likelihood.mean_energy(likelihood.energies(some.x, output), some.weight, observed)
        each_column = len(code) >= min(len(batch.x), _FEWEST_ROWS)
        if not each_column:
            everything = likelihood.energies(batch.x, self.decode(self._code(batch)[0], batch))
            energy = likelihood.mean_energy(everything, batch.weight, batch.observed)
        likelihood.noise.set_moment(energy)
        posterior = LaplacePosterior(code, free, slopes)
        # What is missing has infinite noise, which systems of the rows' size cannot have.
        is_wide = slopes.shape[1] > slopes.shape[2] and observed is None
        moments = posterior.wide_residual_moments(residual) if is_wide else posterior.residual_moments(residual, likelihood.score)
        for _ in range(_NOISE_ITERATIONS):
            information = likelihood.information(output)
            moved, uncertainty = moments(information if observed is None else information * observed)
            expected = likelihood.expected_energy(moved.to(some.x), uncertainty.to(some.x))
            expected = likelihood.mean_energy(expected, some.weight, observed)
            likelihood.noise.set_moment(expected if each_column else energy * (expected.sum() / start.sum().clamp(min=1e-30)))

    def _affordable(self, batch: Batch) -> slice:
        """Evenly spaced rows whose slopes fit into memory and whose systems are solved in a moment."""
        first = Batch(*(None if values is None else values[:1] for values in batch[:-1]))  # type: ignore[arg-type]
        code, free = self._code(first)
        has_all = batch.observed is None
        if (
            has_all
            and self._linear_map is not None
            and free.positions.stride(0) == 0
            and self.likelihood.information(self.decode(code, first)).dim() == 1
        ):
            return slice(None)  # one system for all
        n_free = free.positions.shape[1]
        numbers = 2 * n_free * max(self.n_features, self.n_components)
        size = min(n_free, self.n_features) if has_all else n_free
        work = size**2 * max(n_free, self.n_features)
        n_rows = max(1, min(_SLOPE_NUMBERS // numbers, _SOLVE_WORK // work))
        return slice(None, None, -(-len(batch.x) // n_rows))
