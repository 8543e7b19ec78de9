"""Neighbors of rows and of their codes: how strongly rows are tied, and what it costs to tear them apart."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from torch import Tensor

_BISECTIONS = 60
_WIDEST = 10.0  # scale of the distances beyond the nearest, relative to the largest of them, above which none is looked for
_NARROWEST = 1e-3  # the same, relative to the mean distance, below which none is taken
_SAME = 1e-6  # distance, relative to the mean, up to which rows are the same but for rounding
_CLOSE, _APART = 1e-6, 1e-3  # squared distances that are added, so that equal codes have gradients
_CURVE_POINTS, _CURVE_END = 300, 3.0


def neighbor_weights(distance: Tensor) -> Tensor:
    r"""Weights of the nearest neighbors of rows, as UMAP has them [1]_.

    .. math:: w_{ij} = \exp(-\max(0, d_{ij} - \rho_i) / \sigma_i)

    with :math:`\rho_i` the distance of the nearest row that is not the same, and :math:`\sigma_i` such that the weights of a
    row's k neighbors add up to :math:`\log_2(k + 1)`.

    Parameters
    ----------
    distance : Tensor of shape (n, k)
        Of every row's neighbors, itself not among them; infinity where a row has fewer.

    Returns
    -------
    weight : Tensor of shape (n, k)
        Between 0 and 1, and 0 where there is no neighbor.

    References
    ----------
    .. [1] McInnes, Healy and Melville, "UMAP: uniform manifold approximation and projection for dimension reduction", 2018.

    Examples
    --------
    >>> import torch
    >>> neighbor_weights(torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, torch.inf]])).round(decimals=2)
    tensor([[1.0000, 1.0000, 1.0000],
            [1.0000, 0.5800, 0.0000]])
    """
    known = distance.isfinite()
    n_known = known.sum(1, keepdim=True)
    distance = torch.where(known, distance, 0.0)
    mean = distance.sum(1, keepdim=True) / n_known.clamp(min=1)
    nearest = torch.where(known & (distance > _SAME * mean), distance, torch.inf).amin(1, keepdim=True)
    nearest = torch.where(nearest.isfinite(), nearest, 0.0)
    excess = (distance - nearest).clamp(min=0.0)
    target = torch.log2(n_known + 1.0).to(distance)
    low, high = torch.zeros_like(nearest), _WIDEST * excess.amax(1, keepdim=True)
    tiny = torch.finfo(distance.dtype).tiny
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        total = (torch.exp(-excess / middle.clamp(min=tiny)) * known).sum(1, keepdim=True)
        low, high = torch.where(total < target, middle, low), torch.where(total < target, high, middle)
    scale = torch.maximum(0.5 * (low + high), _NARROWEST * mean).clamp(min=tiny)
    return torch.exp(-excess / scale) * known


def similarity_curve(min_dist: float) -> tuple[float, float]:
    r"""Parameters of the similarity of codes by their distance.

    Parameters
    ----------
    min_dist : float
        Distance up to which codes count as together, between 0 and 1; beyond it their similarity is to fall as
        :math:`\exp(-(d - d_\min))`.

    Returns
    -------
    a, b : float
        Of the curve :math:`1 / (1 + a d^{2b})` that comes closest to it.

    Examples
    --------
    >>> [round(value, 3) for value in similarity_curve(0.1)]
    [1.577, 0.895]
    """
    distance = np.linspace(0.0, _CURVE_END, _CURVE_POINTS)
    wanted = np.where(distance < min_dist, 1.0, np.exp(-(distance - min_dist)))

    def curve(d: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
        return 1.0 / (1.0 + a * d ** (2.0 * b))

    (a, b), _ = curve_fit(curve, distance, wanted, p0=(1.0, 1.0), bounds=(1e-12, np.inf))
    return float(a), float(b)


def _log_odds(square: Tensor, a: float | Tensor, b: float | Tensor) -> Tensor:
    r"""Logarithm of :math:`a d^{2b}`: the log-odds that codes at these squared distances do not belong together."""
    return torch.as_tensor(a, dtype=square.dtype, device=square.device).log() + b * square.log()


def attraction(code: Tensor, neighbor: Tensor, a: float | Tensor, b: float | Tensor) -> Tensor:
    """Negative logarithm of the similarity of codes to those of their neighbors.

    Parameters
    ----------
    code, neighbor : Tensor of shape (n, n_components)
    a, b : float or Tensor of shape ()
        See `similarity_curve`.

    Returns
    -------
    Tensor of shape (n,)
    """
    square = (code - neighbor).square().sum(-1)
    return torch.nn.functional.softplus(_log_odds(square + _CLOSE, a, b))


def repulsion(code: Tensor, weight: Tensor, a: float | Tensor, b: float | Tensor) -> Tensor:
    """Negative logarithm of the dissimilarity of codes, on average over all others.

    It is what draws among the others, with probabilities in proportion to their weights, come to on average.

    Parameters
    ----------
    code : Tensor of shape (n, n_components)
    weight : Tensor of shape (n,)
        By which codes count for the others; those of weight zero do not.
    a, b : float or Tensor of shape ()
        See `similarity_curve`.

    Returns
    -------
    Tensor of shape (n,)
        Zero for a code without others.
    """
    # Differences of squares lose digits far from zero, where codes may lie.
    code = code - ((weight / weight.sum()) @ code).detach()
    length = code.square().sum(1)
    square = (length.unsqueeze(1) + length - 2.0 * code @ code.mT).clamp(min=0.0)
    apart = torch.nn.functional.softplus(-_log_odds(square + _APART, a, b))
    counts = weight * (1.0 - torch.eye(len(weight), dtype=weight.dtype, device=weight.device))
    return (apart * counts).sum(1) / counts.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)
