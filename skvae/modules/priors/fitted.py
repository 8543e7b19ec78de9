"""Priors that are fitted to the codes of a trained encoder."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae.modules.posterior import Free, exact_dtype
from skvae.modules.priors.base import Prior
from skvae.modules.priors.normal import standard_log_prob

_SECANT = 0.1  # of the codes' spread, which smooths over the kinks of piecewise linear decoders


class FittedPrior(Prior):
    """Densities of the training codes, with what the Laplace approximation of a posterior asks of them."""

    secant: Tensor  # (n_components,), half the width over which slopes of the decoder are taken
    most_free: int  # most entries that `free` returns

    def free(self, code: Tensor) -> Free:
        """Entries of codes ``(n, n_components)`` that their posteriors leave uncertain, and the prior of those."""
        raise NotImplementedError


class FittedGaussian(FittedPrior):
    """One Gaussian with the moments of the training codes.

    Parameters
    ----------
    n_components : int
    """

    scheduled = frozenset({"exact_moments"})  # which training does not read
    mean: Tensor
    whitening: Tensor

    def __init__(self, n_components: int):
        super().__init__(n_components)
        self.exact_moments = np.zeros(n_components), np.eye(n_components)
        self.register_buffer("mean", torch.zeros(n_components))
        self.register_buffer("whitening", torch.eye(n_components), persistent=False)  # which follows from the covariance
        self.register_buffer("secant", torch.ones(n_components))

    @property
    def most_free(self) -> int:  # type: ignore[override]
        """Every entry."""
        return self.n_components

    @torch.no_grad()
    def fit(
        self, mean: NDArray[np.float64], covariance: NDArray[np.float64], *, share: float = 1.0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Set the moments, and return them.

        Parameters
        ----------
        mean : ndarray of shape (n_components,)
        covariance : ndarray of shape (n_components, n_components)
            Positive definite.
        share : float, default=1.0
            Weight of these codes; those of earlier calls have the rest.
        """
        if share < 1.0:
            before, apart = self.exact_moments, mean - self.exact_moments[0]
            mean = before[0] + share * apart
            covariance = (1 - share) * before[1] + share * covariance + share * (1 - share) * np.outer(apart, apart)
        self.exact_moments = mean, covariance
        self.mean.copy_(torch.from_numpy(mean))
        self.secant.copy_(_SECANT * torch.from_numpy(covariance).diagonal().sqrt())
        self._whiten()
        return self.exact_moments

    def _whiten(self) -> None:
        covariance = torch.tensor(self.exact_moments[1])  # a copy: the memory may be read-only
        self.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)))

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` keeps beside the tensors: the moments in double precision."""
        return {"mean": self.exact_moments[0], "covariance": self.exact_moments[1]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.exact_moments = state["mean"], state["covariance"]
        self._whiten()

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        white = (z - self.mean) @ self.whitening.mT
        return standard_log_prob(white) + self.whitening.diagonal().log().sum()

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        spread: Tensor = torch.linalg.solve_triangular(self.whitening, noise.unsqueeze(-1), upper=False).squeeze(-1)
        return self.mean + spread

    def free(self, code: Tensor) -> Free:
        whitening = self.whitening.to(exact_dtype(code))
        index = torch.arange(self.n_components, device=code.device).expand(code.shape)
        return Free(index, torch.ones_like(code, dtype=torch.bool), self.mean, whitening.mT @ whitening)


class ActivityPatterns(FittedPrior):
    """Codes of which few entries are not zero: independent patterns of activity, and a normal distribution of each active unit.

    Parameters
    ----------
    n_components : int
    """

    on_mean: Tensor
    on_std: Tensor
    on_rate: Tensor
    n_free: Tensor

    def __init__(self, n_components: int):
        super().__init__(n_components)
        self.register_buffer("on_mean", torch.zeros(n_components))
        self.register_buffer("on_std", torch.ones(n_components))
        self.register_buffer("on_rate", torch.full((n_components,), 0.5))
        self.register_buffer("n_free", torch.tensor(n_components))
        self.register_buffer("secant", torch.ones(n_components))

    @property
    def most_free(self) -> int:  # type: ignore[override]
        """Most units that were active in a row."""
        return int(self.n_free)

    @torch.no_grad()
    def fit(self, rate: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64], n_free: int) -> None:
        """Set how units behave over the training rows.

        Parameters
        ----------
        rate, mean, std : ndarray of shape (n_components,)
            Fraction of rows in which a unit is active, strictly between 0 and 1, and the moments of its activation there.
        n_free : int
            Most units that are active in a row.
        """
        for buffer, values in ((self.on_rate, rate), (self.on_mean, mean), (self.on_std, std)):
            buffer.copy_(torch.from_numpy(values))
        self.n_free.fill_(n_free)
        self.secant.copy_(_SECANT * self.on_std)

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        deviation = (z - self.on_mean) / self.on_std
        on = self.on_rate.log() - 0.5 * deviation.square() - self.on_std.log() - 0.5 * math.log(2.0 * math.pi)
        return torch.where(z != 0.0, on, torch.log1p(-self.on_rate)).sum(-1)

    @property
    def n_noise(self) -> int:
        return 2 * self.n_components

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        which, how = noise.chunk(2, dim=-1)
        return torch.where(torch.special.ndtr(which) < self.on_rate, self.on_mean + self.on_std * how, 0.0)

    def free(self, code: Tensor) -> Free:
        magnitude, index = code.abs().topk(self.most_free, dim=1)
        return Free(index, magnitude > 0.0, self.on_mean[index], torch.diag_embed(self.on_std[index] ** -2))
