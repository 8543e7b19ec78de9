"""Approximate posteriors of codes: diagonal Gaussians, and the Laplace approximation behind autoencoders without one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from skvae.functional import normal_log_prob, precision_of_observed

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]

_CACHED_NUMBERS = 2**17  # of slopes that are looked at together, 1 MB in double precision


class Proposal(NamedTuple):
    """Draws of codes and their log-densities.

    Attributes
    ----------
    z : Tensor of shape (n, n_draws, n_components)
    log_q : Tensor of shape (n, n_draws)
    """

    z: Tensor
    log_q: Tensor


class DiagonalNormal(NamedTuple):
    """Normal distributions with independent components.

    Attributes
    ----------
    mean, log_var : Tensor of shape (n, n_components)
    """

    mean: Tensor
    log_var: Tensor

    def from_noise(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers, ``(n, n_components)`` or ``(n, n_draws, n_components)``, into draws."""
        std = torch.exp(0.5 * self.log_var)
        if noise.dim() == 2:
            return torch.addcmul(self.mean, noise, std)
        return torch.addcmul(self.mean.unsqueeze(1), noise, std.unsqueeze(1))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of draws ``(n, n_components)`` or ``(n, n_draws, n_components)``."""
        mean, log_var = self if z.dim() == 2 else (part.unsqueeze(1) for part in self)
        return normal_log_prob(z, mean, log_var)

    def entropy(self) -> Tensor:
        """Nats, ``(n,)``."""
        return 0.5 * (self.log_var.sum(-1) + self.log_var.shape[-1] * (1.0 + math.log(2.0 * math.pi)))

    def propose(self, noise: Tensor) -> Proposal:
        """Draws from standard normal numbers ``(n, n_draws, n_components)``, with their log-densities."""
        normalizer = self.mean.shape[-1] * math.log(2.0 * math.pi)
        return Proposal(self.from_noise(noise), -0.5 * (noise.square().sum(-1) + self.log_var.sum(-1, keepdim=True) + normalizer))


class FactorPosterior(NamedTuple):
    """Normal distributions around what a factor model makes of rows, with components that depend on each other.

    Attributes
    ----------
    mean : Tensor of shape (n, n_components)
    root : Tensor of shape (n, n_components, n_components)
        Upper triangular; its product with its transpose is the covariance.
    log_det : Tensor of shape (n,)
        Logarithm of the root's determinant.
    """

    mean: Tensor
    root: Tensor
    log_det: Tensor

    @classmethod
    def of(cls, deviation: Tensor, observed: Tensor, loadings: Tensor, noise: Tensor) -> FactorPosterior:
        """Posteriors of the factors of rows, given what is observed of them.

        Parameters
        ----------
        deviation : Tensor of shape (n, n_features)
            From the factor model's mean; any finite number where an entry is not observed.
        observed : Tensor of bool, shape (n, n_features)
        loadings : Tensor of shape (n_features, n_components)
        noise : Tensor of shape (n_features,)
        """
        exact = exact_dtype(deviation)
        loadings, noise = loadings.to(exact), noise.to(exact)
        factor = torch.linalg.cholesky(precision_of_observed(loadings, noise, observed))
        identity = torch.eye(factor.shape[-1], dtype=exact, device=factor.device)
        root = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False).mT
        force = torch.where(observed, deviation.to(exact) / noise, 0.0) @ loadings
        mean = (root @ (root.mT @ force.unsqueeze(-1))).squeeze(-1)
        log_det = -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return cls(*(part.to(deviation.dtype) for part in (mean, root, log_det)))

    def moved(self, shift: Tensor, log_scale: Tensor) -> FactorPosterior:
        """Posteriors with other means, and stretched along the columns of the root."""
        return FactorPosterior(self.mean + shift, self.root * log_scale.exp().unsqueeze(-2), self.log_det + log_scale.sum(-1))

    def diagonal(self) -> DiagonalNormal:
        """Return the same means and variances, without the covariances."""
        return DiagonalNormal(self.mean, self.root.square().sum(-1).log())

    def propose(self, noise: Tensor) -> Proposal:
        """Draws from standard normal numbers ``(n, n_draws, n_components)``, with their log-densities."""
        normalizer = 0.5 * self.mean.shape[-1] * math.log(2.0 * math.pi)
        z = self.mean.unsqueeze(1) + noise @ self.root.mT
        return Proposal(z, -0.5 * noise.square().sum(-1) - (self.log_det.unsqueeze(1) + normalizer))


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

    def rows(self, part: slice) -> Free:
        """Return the same of some rows."""
        mean = self.mean[part] if self.mean.dim() == 2 else self.mean
        precision = self.precision[part] if self.precision.dim() == 3 else self.precision
        return Free(self.positions[part], self.active[part], mean, precision)

    def split(self, size: int) -> list[Free]:
        """Return the same of so many rows after the others."""
        return [self.rows(slice(start, start + size)) for start in range(0, len(self.positions), size)]


class LaplacePosterior:
    r"""Laplace approximations of the posteriors of codes, around one Newton step.

    With :math:`J` the slope of the decoder at the code, :math:`W` the likelihood's information and :math:`\Lambda` the codes'
    prior precision, a normal distribution of precision :math:`\Lambda + J^\top W J`. Where decoder and noise are linear and
    Gaussian it is the posterior itself.

    Parameters
    ----------
    code : Tensor of shape (n, n_components)
    free : Free
    slopes : Tensor of shape (n, n_free, n_features) or (1, n_free, n_features)
    """

    def __init__(self, code: Tensor, free: Free, slopes: Tensor):
        exact = exact_dtype(code)
        self.exact, self.code, self.free, self.given = exact, code, free, slopes
        self.away = (free.mean - code.gather(1, free.positions)).to(exact) * free.active

    @cached_property
    def slopes(self) -> Tensor:
        """Slopes of the decoder, in the precision that systems are solved in."""
        return self.given.to(self.exact)

    def step(self, force: Tensor, information: Tensor) -> tuple[Tensor, Tensor]:
        """Newton step from the code and Cholesky factor of the precision.

        Parameters
        ----------
        force : Tensor of shape (n, n_features)
            Gradient of the log-likelihood in the decoder's output.
        information : Tensor of shape (n_features,) or (n, n_features)
        """
        slopes, force, information = self.slopes, force.to(self.exact), information.to(self.exact)
        weighted = slopes * information.unsqueeze(-2)
        prior = self.free.precision.to(self.exact)
        precision = prior + weighted @ slopes.mT
        jitter = 1e-6 * precision.diagonal(dim1=-2, dim2=-1).mean(-1)
        precision = precision + jitter[..., None, None] * torch.eye(slopes.shape[1], dtype=self.exact, device=slopes.device)
        gradient = _times(force, slopes.mT) + _times(self.away, prior)
        factor = torch.linalg.cholesky(precision)
        if len(factor) == 1:
            return torch.cholesky_solve(gradient.mT, factor[0]).mT, factor
        return torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1), factor

    def prior_energy(self, moves: Tensor) -> Tensor:
        """Negative logarithm of the codes' prior density, up to a constant, after moves ``(n, n_moves, n_free)`` of them."""
        away = self.away.unsqueeze(1) - moves * self.free.active.unsqueeze(1)
        return 0.5 * ((away @ self.free.precision.to(away)) * away).sum(-1)

    def residual_moments(self, residual: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Moments:
        """Mean and variance of the residuals under the posteriors, as a function of the information.

        Parameters
        ----------
        residual : Tensor of shape (n, n_features)
            At the codes.
        score : callable
            Gradient of the log-likelihood in the output, from residuals and information.
        """
        size = len(residual)
        if len(self.given) > 1 and residual.device.type == "cpu":
            # A few rows at a time, whose slopes stay in the processor's cache.
            size = max(1, _CACHED_NUMBERS // self.given[0].numel())
        parts = list(
            zip(
                torch.split(self.code, size),
                self.free.split(size),
                [self.given] if len(self.given) == 1 else torch.split(self.given, size),
                torch.split(residual, size),
                strict=True,
            )
        )

        def moments(information: Tensor) -> tuple[Tensor, Tensor]:
            informations = torch.split(information, size) if information.dim() > 1 else [information] * len(parts)
            found = []
            for (code, free, slopes, here), given in zip(parts, informations, strict=True):
                posterior = LaplacePosterior(code, free, slopes)
                step, factor = posterior.step(score(here.to(self.exact), given.to(self.exact)), given)
                half = torch.linalg.solve_triangular(factor, posterior.slopes.to(factor), upper=False)
                found.append((here - _times(step.to(here), slopes.to(here)), half.square_().sum(1)))
            mean, variance = zip(*found, strict=True)
            return torch.cat(mean), torch.cat(variance)

        return moments

    def wide_residual_moments(self, residual: Tensor) -> Moments:
        """Mean and variance of the residuals, where codes are wider than rows: in systems of the rows' size.

        By Woodbury's identity, with S the variance that the prior gives the output, G the inverse of S + W^-1 and t what the
        output would change if the code moved to the prior's mean, the residuals have mean W^-1 G (r - t) and covariance
        W^-1 - W^-1 G W^-1.
        """
        prior = self.free.precision.to(self.exact)
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(prior), self.slopes, upper=False)
        variance = half.mT @ half
        distance = residual.to(self.exact) - _times(self.away, self.slopes)

        def moments(information: Tensor) -> tuple[Tensor, Tensor]:
            noise = 1.0 / information.to(self.exact)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(variance + torch.diag_embed(noise)))
            return noise * _times(distance, inverse), noise - noise.square() * inverse.diagonal(dim1=-2, dim2=-1)

        return moments


def colored(noise: Tensor, factor: Tensor) -> Tensor:
    """Give standard normal draws ``(n, n_draws, m)`` the precision whose Cholesky factor, of each row or of all, is `factor`."""
    if len(factor) == 1:
        flat: Tensor = torch.linalg.solve_triangular(factor[0].mT, noise.flatten(0, 1).mT, upper=True).mT
        return torch.unflatten(flat, 0, noise.shape[:2])
    drawn: Tensor = torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT
    return drawn


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiply every row ``(n, a)`` by its matrix ``(n, a, b)``, or by one ``(1, a, b)`` or ``(a, b)`` for all."""
    if matrices.dim() == 2 or len(matrices) == 1:
        return rows @ (matrices if matrices.dim() == 2 else matrices[0])
    return (rows.unsqueeze(1) @ matrices).squeeze(1)


def exact_dtype(tensor: Tensor) -> torch.dtype:
    """Precision for linear systems: double, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
