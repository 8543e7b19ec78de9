r"""Log-likelihoods of rows with independent columns.

Each of them is an *energy* per entry, a weight per column and a constant:

.. math:: \log p(x) = -\sum_j w_j\,e(x_j, \mu_j) - \sum_j \log Z(w_j)

with :math:`e = (x-\mu)^2, w = 1/2\sigma^2` for the Gaussian, :math:`e = |x-\mu|, w = 1/b` for the Laplace and the
cross-entropy with :math:`w = 1, Z = 1` for the Bernoulli likelihood. The training loop uses the parts, everybody else
the ``*_log_prob`` functions built from them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_energy(x: Tensor, loc: Tensor) -> Tensor:
    """Squared difference, entry by entry."""
    difference = x - loc
    return difference * difference


def laplace_energy(x: Tensor, loc: Tensor) -> Tensor:
    """Absolute difference, entry by entry."""
    return (x - loc).abs()


def bernoulli_energy(x: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy between `x` in [0, 1] and a probability given by its logit, entry by entry."""
    return F.softplus(logits) - x * logits


def gaussian_log_normalizer(weight: Tensor) -> Tensor:
    r""":math:`\sum_j \log Z(w_j)` of a Gaussian of precision :math:`2w_j`."""
    return 0.5 * (math.log(math.pi) - torch.log(weight)).sum(-1)


def laplace_log_normalizer(weight: Tensor) -> Tensor:
    r""":math:`\sum_j \log Z(w_j)` of a Laplace distribution of scale :math:`1/w_j`."""
    return (math.log(2.0) - torch.log(weight)).sum(-1)


def weighted_row_sum(energy: Tensor, weight: Tensor, constant: Tensor) -> Tensor:
    r"""Rows' sums :math:`c + \sum_j w_j e_j`, in one operation where the energy is a matrix.

    Parameters
    ----------
    energy : Tensor of shape (..., n_features)
    weight : Tensor of shape (n_features,)
    constant : Tensor of shape ()

    Returns
    -------
    Tensor of shape (...,)
    """
    if energy.dim() == 2:
        return torch.addmv(constant.expand(energy.shape[0]), energy, weight)
    return energy @ weight + constant


def squared_error(x: Tensor, loc: Tensor) -> Tensor:
    """Squared Euclidean distance between rows.

    Parameters
    ----------
    x, loc : Tensor of shape (..., n_features)

    Returns
    -------
    Tensor of shape (...,)

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import squared_error
    >>> squared_error(torch.ones(2, 3), torch.zeros(2, 3))
    tensor([3., 3.])
    """
    return gaussian_energy(x, loc).sum(-1)


def gaussian_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density of rows under a Gaussian with independent columns.

    Parameters
    ----------
    x, loc : Tensor of shape (..., n_features)
    scale : Tensor of shape (n_features,)
        Standard deviations.

    Returns
    -------
    Tensor of shape (...,)
        Nats per row.

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import gaussian_log_prob
    >>> gaussian_log_prob(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(2))
    tensor([-1.8379])
    """
    weight = 0.5 * scale.reciprocal().square()  # whose gradient overflows later than that of 0.5 / scale**2
    return -weighted_row_sum(gaussian_energy(x, loc), weight, gaussian_log_normalizer(weight))


def normal_log_prob(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Log-density of codes under Gaussians that each has of its own.

    Parameters
    ----------
    z, mean, log_var : Tensor of shape (..., n_components)

    Returns
    -------
    Tensor of shape (...,)
        Nats.

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import normal_log_prob
    >>> normal_log_prob(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([-1.8379])
    """
    deviation = (z - mean) * torch.exp(-0.5 * log_var)
    return -0.5 * (deviation.square() + log_var).sum(-1) - 0.5 * z.shape[-1] * math.log(2.0 * math.pi)


def laplace_log_prob(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density of rows under a Laplace distribution with independent columns.

    Parameters
    ----------
    x, loc : Tensor of shape (..., n_features)
    scale : Tensor of shape (n_features,)
        Mean absolute deviations.

    Returns
    -------
    Tensor of shape (...,)
        Nats per row.

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import laplace_log_prob
    >>> laplace_log_prob(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(2))
    tensor([-1.3863])
    """
    weight = scale.reciprocal()
    return -weighted_row_sum(laplace_energy(x, loc), weight, laplace_log_normalizer(weight))


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of rows with entries in [0, 1] under independent Bernoulli columns.

    For entries strictly between 0 and 1 this is minus the cross-entropy, as is usual for pixel intensities.

    Parameters
    ----------
    x : Tensor of shape (..., n_features)
        Entries in [0, 1].
    logits : Tensor of shape (..., n_features)
        Log-odds.

    Returns
    -------
    Tensor of shape (...,)
        Nats per row.

    Examples
    --------
    >>> import torch
    >>> from skvae.functional import bernoulli_log_prob
    >>> bernoulli_log_prob(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([-1.3863])
    """
    return -bernoulli_energy(x, logits).sum(-1)
