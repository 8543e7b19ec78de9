"""Divergences between distributions, in nats per row."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_kl(
    mean: Tensor,
    log_var: Tensor,
    prior_mean: Tensor | None = None,
    prior_log_var: Tensor | None = None,
    *,
    per_component: bool = False,
) -> Tensor:
    r"""Kullback-Leibler divergence between diagonal Gaussians, by default from the standard normal.

    .. math::
        D = \tfrac12 \sum_k \left(\frac{(\mu_k - m_k)^2 + \sigma_k^2}{s_k^2} - \log\frac{\sigma_k^2}{s_k^2} - 1\right)

    Parameters
    ----------
    mean, log_var : Tensor of shape (..., n_components)
        Mean and log-variance of the Gaussian.
    prior_mean, prior_log_var : Tensor of shape (..., n_components), optional
        Those of the one it is compared with, together; zeros by default.
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
    if prior_mean is not None and prior_log_var is not None:
        mean, log_var = (mean - prior_mean) * torch.exp(-0.5 * prior_log_var), log_var - prior_log_var
    # expm1(v) - v keeps its digits where the posterior is close to the prior.
    twice = torch.addcmul(torch.expm1(log_var) - log_var, mean, mean)
    return 0.5 * twice if per_component else 0.5 * twice.sum(-1)
