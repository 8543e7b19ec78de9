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


def keep_largest(x: Tensor, k: int | Tensor, most: int) -> Tensor:
    """Zero all but the `k` largest entries of every row; gradients pass through those alone.

    Parameters
    ----------
    x : Tensor of shape (n, n_components)
    k : int or Tensor of shape ()
    most : int
        As large as `k` can become, which a tensor does not tell without a wait for its device.

    Returns
    -------
    Tensor of shape (n, n_components)

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import keep_largest
    >>> keep_largest(torch.tensor([[1.0, 3.0, -2.0, 2.0]]), 2, 2)
    tensor([[0., 3., 0., 2.]])
    """
    values, index = _largest(x, k, most)
    return torch.zeros_like(x).scatter(1, index, values)


def keep_largest_of_batch(x: Tensor, k: int | Tensor, most: int) -> Tensor:
    """Zero all but the ``k * n`` largest entries of a batch of `n` rows, wherever they are; see `keep_largest`."""
    values, index = _largest(x.flatten(), k * x.shape[0], most * x.shape[0])
    return torch.zeros_like(x).flatten().scatter(0, index, values).view_as(x)


def _largest(x: Tensor, k: int | Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Largest entries along the last axis and their positions; zeros from rank `k` on."""
    if isinstance(k, int):
        largest: tuple[Tensor, Tensor] = x.topk(k, dim=-1, sorted=False)
        return largest
    values, index = x.topk(most, dim=-1)
    return torch.where(torch.arange(most, device=x.device) < k, values, 0.0), index
