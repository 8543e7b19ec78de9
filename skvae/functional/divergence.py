"""Divergences between distributions, in nats per row."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_kl(mean: Tensor, log_var: Tensor, *, per_component: bool = False) -> Tensor:
    r"""Kullback-Leibler divergence of a diagonal Gaussian from the standard normal.

    .. math::
        D = \tfrac12 \sum_k \left(\mu_k^2 + \sigma_k^2 - \log\sigma_k^2 - 1\right)

    Parameters
    ----------
    mean, log_var : Tensor of shape (..., n_components)
        Mean and log-variance of the Gaussian.
    per_component : bool, default=False
        Keep the last axis instead of summing over it.

    Returns
    -------
    Tensor of shape (...,) or (..., n_components)
        The divergence in nats; never negative up to rounding.

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import gaussian_kl
    >>> gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor([0., 0.])
    """
    # expm1(v) - v keeps its digits where the posterior is close to the prior.
    twice = torch.addcmul(torch.expm1(log_var) - log_var, mean, mean)
    return 0.5 * twice if per_component else 0.5 * twice.sum(-1)
