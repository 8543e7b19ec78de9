"""Sparsity: penalties and selections of units."""

from __future__ import annotations

import torch
from torch import Tensor


def bernoulli_kl(target: float, mean: Tensor) -> Tensor:
    r"""Divergence of mean activations from a target, :math:`\rho\log\frac{\rho}{m} + (1-\rho)\log\frac{1-\rho}{1-m}`.

    Parameters
    ----------
    target : float
        Between 0 and 1.
    mean : Tensor of shape (n_components,)
        Between 0 and 1.

    Returns
    -------
    Tensor of shape (n_components,)
        Nats; zero where the mean is the target.
    """
    # The gradient goes past the clamp, so that silent units are pulled back.
    mean = mean + (mean.clamp(1e-6, 1.0 - 1e-6) - mean).detach()
    rho = torch.full_like(mean, target)
    return torch.xlogy(rho, rho / mean) + torch.xlogy(1.0 - rho, (1.0 - rho) / (1.0 - mean))


def keep_largest(x: Tensor, k: int) -> Tensor:
    """Zero all but the `k` largest entries of every row; gradients pass through those alone.

    Parameters
    ----------
    x : Tensor of shape (n, n_components)
    k : int

    Returns
    -------
    Tensor of shape (n, n_components)

    Examples
    --------
    >>> import torch
    >>> keep_largest(torch.tensor([[1.0, 3.0, -2.0, 2.0]]), 2)
    tensor([[0., 3., 0., 2.]])
    """
    values, index = x.topk(k, dim=1, sorted=False)
    return torch.zeros_like(x).scatter(1, index, values)


def keep_largest_of_batch(x: Tensor, k: int) -> Tensor:
    """Zero all but the ``k * n`` largest entries of a batch of `n` rows, wherever they are."""
    values, index = x.flatten().topk(k * x.shape[0], sorted=False)
    return torch.zeros_like(x).flatten().scatter(0, index, values).view_as(x)
