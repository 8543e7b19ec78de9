"""Corruptions of rows, given standard normal draws, so that they are pure functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def add_gaussian(x: Tensor, noise: Tensor, scale: Tensor | float) -> Tensor:
    """Add normal noise.

    Parameters
    ----------
    x, noise : Tensor of shape (n, n_features)
    scale : Tensor of shape (n_features,) or float
        Standard deviation.

    Returns
    -------
    Tensor of shape (n, n_features)
    """
    return torch.addcmul(x, noise, torch.as_tensor(scale, dtype=x.dtype, device=x.device))


def choose_entries(noise: Tensor, row_noise: Tensor, rate: float) -> Tensor:
    """Choose a fraction of each row's entries at random.

    Every row gets ``rate * n_features`` of them; where that is no whole number, the next lower or the next higher, such
    that it holds on average.

    Parameters
    ----------
    noise : Tensor of shape (n, n_features)
        Their order decides which.
    row_noise : Tensor of shape (n,)
        Decides about rounding.
    rate : float
        Between 0 and 1.

    Returns
    -------
    Tensor of bool, shape (n, n_features)

    Examples
    --------
    >>> import torch
    >>> choose_entries(torch.randn(4, 10), torch.randn(4), 0.3).sum(1).tolist()
    [3, 3, 3, 3]
    """
    n_features = noise.shape[1]
    wanted = rate * n_features
    # Within rounding of a whole number it is one.
    fewest = math.floor(wanted + 1e-9)
    chosen = torch.zeros_like(noise, dtype=torch.bool)
    if fewest > 0:
        chosen = noise <= noise.kthvalue(fewest, dim=1, keepdim=True).values
    if wanted - fewest > 1e-9:
        more = normal_cdf(row_noise) < wanted - fewest
        chosen = chosen | (more.unsqueeze(1) & (noise <= noise.kthvalue(fewest + 1, dim=1, keepdim=True).values))
    return chosen


def mask(x: Tensor, chosen: Tensor, value: Tensor | float) -> Tensor:
    """Replace chosen entries by a value, of shape (n_features,) or one for all columns."""
    return torch.where(chosen, torch.as_tensor(value, dtype=x.dtype, device=x.device), x)


def salt_and_pepper(x: Tensor, chosen: Tensor, signs: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Replace chosen entries by the smallest or the largest value of their column, by the sign of another draw."""
    return torch.where(chosen, torch.where(signs > 0, high, low), x)


def drop(x: Tensor, noise: Tensor, rate: float) -> Tensor:
    """Zero entries independently with probability `rate` and scale the others up, so that the mean stays."""
    threshold = math.sqrt(2.0) * float(torch.erfinv(torch.tensor(2.0 * rate - 1.0, dtype=torch.float64)))
    return x * (noise >= threshold) / (1.0 - rate)


def normal_cdf(noise: Tensor) -> Tensor:
    """Uniform numbers on (0, 1) from standard normal ones."""
    return 0.5 * (1.0 + torch.erf(noise / math.sqrt(2.0)))
