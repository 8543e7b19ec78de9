"""The plain autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae.modules.base import LatentModule, Schedule, told_observed
from skvae.modules.batch import Batch
from skvae.modules.networks.layers import TiedLinear

_NOISE_ITERATIONS = 30
_FEWEST_ROWS = 64  # from which each column's noise can be told
_SLOPE_NUMBERS = 2**25
_SOLVE_WORK = 2**27

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]


class Free(NamedTuple):
    """Entries of codes that a posterior leaves uncertain, and their Gaussian prior.

    Attributes
    ----------
    positions : Tensor of int, shape (n, n_free)
    active : Tensor of bool, shape (n, n_free)
        Entries that are not stay where they are.
    mean : Tensor of shape (n_free,) or (n, n_free)
    precision : Tensor of shape (n_free, n_free) or (n, n_free, n_free)
    """

    positions: Tensor
    active: Tensor
    mean: Tensor
    precision: Tensor


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

    code_mean: Tensor
    code_whitening: Tensor
    secant: Tensor

    solves_per_row = True
    takes_missing = True

    def __init__(self, n_features: int, n_components: int, **autoencoder: Any):
        super().__init__(n_features, n_components, **autoencoder)
        self.register_buffer("code_mean", torch.zeros(n_components))
        self.register_buffer("code_whitening", torch.eye(n_components))
        self.register_buffer("secant", torch.ones(n_components))

    def loss(self, batch: Batch, schedule: Schedule) -> dict[str, Tensor]:
        output = self.decode(self.encode(batch.x, **told_observed(batch.mask)))
        return {"reconstruction": self.likelihood.distortion(batch.target, output, batch.mask)}

    # -- the generative model behind the score ------------------------------------------------------------------------

    @torch.no_grad()
    def set_code_moments(self, code_mean: NDArray[np.float64], code_covariance: NDArray[np.float64]) -> None:
        """Tell where codes lie: mean ``(n_components,)`` and covariance, which is positive definite, of the training codes."""
        covariance = torch.from_numpy(code_covariance)
        self.code_mean.copy_(torch.from_numpy(code_mean))
        self.code_whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)))
        # A tenth of the codes' spread smooths over the kinks of piecewise linear decoders.
        self.secant.copy_(0.1 * covariance.diagonal().sqrt())

    def log_prior(self, z: Tensor) -> Tensor:
        """Log-density of codes ``(..., n_components)`` under one Gaussian with the moments of the training codes."""
        white = (z - self.code_mean) @ self.code_whitening.mT
        return super().log_prior(white) + self.code_whitening.diagonal().log().sum()

    def _free(self, code: Tensor) -> Free:
        """Which entries of codes ``(n, n_components)`` the posterior leaves uncertain, and their prior: all, by default."""
        exact = _exact(code)
        whitening = self.code_whitening.to(exact)
        index = torch.arange(self.n_components, device=code.device).expand(code.shape)
        return Free(index, torch.ones_like(code, dtype=torch.bool), self.code_mean, whitening.mT @ whitening)

    @cached_property
    def _linear_map(self) -> Any:
        """The decoder's one layer, if it has no other."""
        layers = list(self.decoder) if type(self.decoder) is nn.Sequential else []
        return layers[0] if len(layers) == 1 and isinstance(layers[0], (nn.Linear, TiedLinear)) else None

    @property
    def slope_decodes(self) -> int:
        return 0 if self._linear_map is not None else 2 * self.n_components

    def _slopes(self, code: Tensor, free: Free) -> Tensor:
        """Slopes of the decoder along the free entries of codes, as ``(n, n_free, n_features)``, or once for all rows.

        They are secants, but where the decoder is a linear map.
        """
        if self._linear_map is not None:
            slopes = self.likelihood.locate(self._linear_map.weight.mT)
            if free.positions.stride(0) == 0:
                return slopes[free.positions[:1]]
            return slopes[free.positions] * free.active.unsqueeze(-1)
        width = self.secant[free.positions]
        steps = torch.zeros(*free.positions.shape, self.n_components, dtype=code.dtype, device=code.device)
        steps.scatter_(2, free.positions.unsqueeze(2), width.to(code).unsqueeze(2))
        around = torch.cat([code.unsqueeze(1) + steps, code.unsqueeze(1) - steps], dim=1)
        located = self.likelihood.locate(self.decode(around.flatten(0, 1)))
        upper, lower = torch.unflatten(located, 0, around.shape[:2]).chunk(2, dim=1)
        return (upper - lower) / (2.0 * width.unsqueeze(-1)) * free.active.unsqueeze(-1)

    def _laplace(self, code: Tensor, free: Free, slopes: Tensor, residual: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
        """Newton step from the code and Cholesky factor of the precision of the Laplace approximation."""
        exact = _exact(code)
        slopes, residual, information = slopes.to(exact), residual.to(exact), information.to(exact)
        weighted = slopes * information.unsqueeze(-2)
        precision = free.precision.to(exact) + weighted @ slopes.mT
        jitter = 1e-6 * precision.diagonal(dim1=-2, dim2=-1).mean(-1)
        precision = precision + jitter[..., None, None] * torch.eye(slopes.shape[1], dtype=exact, device=code.device)
        away = (free.mean - code.gather(1, free.positions)).to(exact) * free.active
        # The Bernoulli residual is already the gradient in the logits.
        force = residual if not self.likelihood.has_noise else residual * information
        gradient = _times(force, slopes.mT) + _times(away, free.precision.to(exact))
        factor = torch.linalg.cholesky(precision)
        if len(factor) == 1:
            return torch.cholesky_solve(gradient.mT, factor[0]).mT, factor
        return torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1), factor

    def propose(self, x: Tensor, noise: Tensor, *, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        code, free = self._code(x, observed)
        output = self.decode(code)
        residual, information = self.likelihood.residual(x, output), self.likelihood.information(output)
        if observed is not None:
            residual, information = residual * observed, information * observed
        step, factor = self._laplace(code, free, self._slopes(code, free), residual, information)
        noise = noise[..., : free.positions.shape[1]].to(factor)
        active = free.active.unsqueeze(1)
        values = ((code.gather(1, free.positions).to(factor) + step).unsqueeze(1) + _colored(noise, factor)) * active
        drawn = code.unsqueeze(1).expand(-1, noise.shape[1], -1)
        z = drawn.scatter(2, free.positions.unsqueeze(1).expand(values.shape), values.to(x))
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().unsqueeze(1)
        log_q = ((log_det - 0.5 * noise.square() - 0.5 * math.log(2.0 * math.pi)) * active).sum(-1)
        return z, log_q.to(x)

    def _code(self, x: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Free]:
        """Codes of rows, zero outside their free entries."""
        code = self.encode(x, **told_observed(observed))
        free = self._free(code)
        return torch.zeros_like(code).scatter(1, free.positions, code.gather(1, free.positions)), free

    # -- the noise ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_noise(self, x: Tensor, weight: Tensor, noise: Tensor, *, observed: Tensor | None = None) -> None:
        """Fit the likelihood's noise by expectation-maximization over the Laplace approximations of the posteriors.

        Where systems are too large to be solved for many rows, these few decide on the level of the noise alone, and the
        residuals of all on how it is divided among the columns.
        """
        if not self.likelihood.learns_noise:
            return
        likelihood, part = self.likelihood, self._affordable(x, observed)
        seen = None if observed is None else observed[part]
        code, free = self._code(x[part], seen)
        output = self.decode(code)
        residual, slopes = likelihood.residual(x[part], output), self._slopes(code, free)
        if seen is not None:
            residual = residual * seen
        energy = start = likelihood.mean_energy(likelihood.energy(x[part], likelihood.locate(output)), weight[part], seen)
        each_column = len(code) >= min(len(x), _FEWEST_ROWS)
        if not each_column:
            everything = likelihood.locate(self.decode(self._code(x, observed)[0]))
            energy = likelihood.mean_energy(likelihood.energy(x, everything), weight, observed)
        likelihood.set_moment(energy)
        # What is missing has infinite noise, which systems of the rows' size cannot have.
        is_wide = slopes.shape[1] > slopes.shape[2] and seen is None
        moments = (self._wide_moments if is_wide else self._moments)(code, free, slopes, residual)
        for _ in range(_NOISE_ITERATIONS):
            information = likelihood.information(output)
            moved, uncertainty = moments(information if seen is None else information * seen)
            expected = likelihood.expected_energy(moved.to(x), uncertainty.to(x))
            expected = likelihood.mean_energy(expected, weight[part], seen)
            self.likelihood.set_moment(expected if each_column else energy * (expected.sum() / start.sum().clamp(min=1e-30)))

    def _affordable(self, x: Tensor, observed: Tensor | None = None) -> slice:
        """Evenly spaced rows whose slopes fit into memory and whose systems are solved in a moment."""
        code, free = self._code(x[:1], None if observed is None else observed[:1])
        if (
            observed is None
            and self._linear_map is not None
            and free.positions.stride(0) == 0
            and self.likelihood.information(self.decode(code)).dim() == 1
        ):
            return slice(None)  # one system for all
        n_free = free.positions.shape[1]
        numbers = 2 * n_free * max(self.n_features, self.n_components)
        size = n_free if observed is not None else min(n_free, self.n_features)
        work = size**2 * max(n_free, self.n_features)
        n_rows = max(1, min(_SLOPE_NUMBERS // numbers, _SOLVE_WORK // work))
        return slice(None, None, -(-len(x) // n_rows))

    def _moments(self, code: Tensor, free: Free, slopes: Tensor, residual: Tensor) -> Moments:
        """Mean and variance of the residuals under the posteriors, given the information."""

        def moments(information: Tensor) -> tuple[Tensor, Tensor]:
            step, factor = self._laplace(code, free, slopes, residual, information)
            half = torch.linalg.solve_triangular(factor, slopes.to(factor), upper=False)
            return residual - _times(step.to(slopes), slopes), half.square().sum(1)

        return moments

    def _wide_moments(self, code: Tensor, free: Free, slopes: Tensor, residual: Tensor) -> Moments:
        """Do the same where codes are wider than rows: by Woodbury's identity, in systems of the rows' size.

        With S the variance that the prior gives the output, G the inverse of S + W^-1 and t what the output would change if
        the code moved to the prior's mean, the residuals have mean W^-1 G (r - t) and covariance W^-1 - W^-1 G W^-1.
        """
        exact = _exact(code)
        slopes = slopes.to(exact)
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(free.precision.to(exact)), slopes, upper=False)
        variance = half.mT @ half
        away = (free.mean - code.gather(1, free.positions)).to(exact)
        distance = residual.to(exact) - _times(away, slopes)

        def moments(information: Tensor) -> tuple[Tensor, Tensor]:
            noise = 1.0 / information.to(exact)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(variance + torch.diag_embed(noise)))
            return noise * _times(distance, inverse), noise - noise.square() * inverse.diagonal(dim1=-2, dim2=-1)

        return moments


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiply every row ``(n, a)`` by its matrix ``(n, a, b)``, or by one ``(1, a, b)`` or ``(a, b)`` for all."""
    if matrices.dim() == 2 or len(matrices) == 1:
        return rows @ (matrices if matrices.dim() == 2 else matrices[0])
    return (rows.unsqueeze(1) @ matrices).squeeze(1)


def _colored(noise: Tensor, factor: Tensor) -> Tensor:
    """Give standard normal draws ``(n, n_draws, m)`` the precision whose Cholesky factor, of each row or of all, is `factor`."""
    if len(factor) == 1:
        flat: Tensor = torch.linalg.solve_triangular(factor[0].mT, noise.flatten(0, 1).mT, upper=True).mT
        return torch.unflatten(flat, 0, noise.shape[:2])
    colored: Tensor = torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT
    return colored


def _exact(tensor: Tensor) -> torch.dtype:
    """Precision for linear systems: double, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
