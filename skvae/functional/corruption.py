"""Corruptions of rows, given standard normal draws, so that they are pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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


# -- moments of corrupted rows ----------------------------------------------------------------------------------------


class CorruptedMoments(NamedTuple):
    """First and second moments of corrupted rows; of rows as they are, to begin with.

    Attributes
    ----------
    covariance : Tensor of shape (n_features, n_features)
    crossed : Tensor of shape (n_outputs, n_features)
        Covariance between clean rows, or other targets, and corrupted ones.
    mean : Tensor of shape (n_features,)
    """

    covariance: Tensor
    crossed: Tensor
    mean: Tensor


def moments_of_gaussian(rows: CorruptedMoments, scale: Tensor) -> CorruptedMoments:
    """Moments after `add_gaussian`, from those before."""
    return rows._replace(covariance=rows.covariance + torch.diag(scale.square().expand_as(rows.mean)))


def moments_of_drop(rows: CorruptedMoments, rate: float) -> CorruptedMoments:
    """Moments after `drop`, from those before."""
    more = (rows.covariance.diagonal() + rows.mean.square()) * rate / (1.0 - rate)
    return rows._replace(covariance=rows.covariance + torch.diag(more))


def moments_of_mask(rows: CorruptedMoments, rate: float, value: Tensor | float) -> CorruptedMoments:
    """Moments after `mask`, from those before, where entries are chosen at a rate."""
    value = torch.as_tensor(value, dtype=rows.mean.dtype).expand_as(rows.mean)
    return _moments_of_replacement(rows, rate, value, torch.zeros_like(value))


def moments_of_salt_and_pepper(rows: CorruptedMoments, rate: float, low: Tensor, high: Tensor) -> CorruptedMoments:
    """Moments after `salt_and_pepper`, from those before, where entries are chosen at a rate."""
    return _moments_of_replacement(rows, rate, 0.5 * (low + high), (0.5 * (high - low)).square())


def _moments_of_replacement(rows: CorruptedMoments, rate: float, mean: Tensor, variance: Tensor) -> CorruptedMoments:
    """Moments where draws of a mean and a variance replace entries, each by itself, as those of many columns nearly are."""
    kept, own = 1.0 - rate, rows.covariance.diagonal()
    replaced = kept * own + (1.0 - kept) * variance + kept * (1.0 - kept) * (rows.mean - mean).square()
    covariance = kept**2 * rows.covariance + torch.diag(replaced - kept**2 * own)
    return CorruptedMoments(covariance, kept * rows.crossed, kept * rows.mean + (1.0 - kept) * mean)


def moments_of_mixture(parts: Sequence[CorruptedMoments]) -> CorruptedMoments:
    """Moments of rows each of which is corrupted in one of several ways, all of them as likely."""
    mean = torch.stack([part.mean for part in parts]).mean(0)
    apart = [part.mean - mean for part in parts]
    covariance = [part.covariance + torch.outer(away, away) for part, away in zip(parts, apart, strict=True)]
    return CorruptedMoments(torch.stack(covariance).mean(0), torch.stack([part.crossed for part in parts]).mean(0), mean)
