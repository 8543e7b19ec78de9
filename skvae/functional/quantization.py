"""Vector quantization: the nearest vectors of a codebook, and gradients past the choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SEARCH_NUMBERS = 2**22  # most distances that are held at once

# Products may be computed in less than the precision of their factors, where torch is set to.
_PRODUCT_PRECISION = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}


def nearest_codes(x: Tensor, codebook: Tensor, *, exact: bool = True) -> Tensor:
    r"""Index of the nearest vector of a codebook, by Euclidean distance.

    One matrix product gives :math:`\|e_k\|^2 - 2 x^\top e_k`, which ranks the distances. Where a runner-up is so close that
    rounding may have decided, the candidates are compared again by their differences, in double precision, so that a
    vector's index depends on no other vector; a draw goes to the lowest index.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    codebook : Tensor of shape (n_embeddings, d)
    exact : bool, default=True
        False leaves close races to rounding, and never waits for the device.

    Returns
    -------
    Tensor of int, shape (n,)

    Examples
    --------
    >>> import torch
    >>> nearest_codes(torch.tensor([[0.2], [0.9], [0.5]]), torch.tensor([[0.0], [1.0], [1.0]]))
    tensor([0, 1, 0])
    """
    x, codebook = x.detach(), codebook.detach()
    n_rows = max(1, SEARCH_NUMBERS // max(codebook.shape))
    if len(x) <= n_rows:
        return _nearest(x, codebook, exact)
    return torch.cat([_nearest(rows, codebook, exact) for rows in torch.split(x, n_rows)])


def _nearest(x: Tensor, codebook: Tensor, exact: bool) -> Tensor:
    # Differences from any one point have the same distances, and no common offset to cancel.
    origin = codebook.mean(0)
    rows, codes = x - origin, codebook - origin
    norms = codes.square().sum(1)
    score = torch.addmm(norms, rows, codes.mT, alpha=-2.0)
    best, index = score.min(1)
    if not exact or len(codebook) == 1:
        return index
    bound = _rounding(rows, norms)
    runner_up = score.scatter(1, index.unsqueeze(1), torch.inf).amin(1)
    # Negated, so that what is not a number counts as unsure.
    unsure = (~(runner_up - best > bound)).nonzero().squeeze(1)
    if len(unsure):
        candidates = ~(score[unsure] - best[unsure].unsqueeze(1) > bound[unsure].unsqueeze(1))
        index[unsure] = _compare(x, codebook, unsure, candidates)
    return index


def _rounding(rows: Tensor, norms: Tensor) -> Tensor:
    """Bound on the error of the difference of two scores, ``(n,)``."""
    limits = torch.finfo(rows.dtype)
    unit = 0.5 * limits.eps
    if rows.dtype == torch.float32:
        unit = max(unit, _PRODUCT_PRECISION[torch.get_float32_matmul_precision()])
    widest = norms.max()
    size = 4.0 * widest.sqrt() * rows.square().sum(1).sqrt() + 2.0 * widest
    # Sums of d products, and a few more operations, of two scores; what is too small for a number counts as well.
    return 2.0 * (rows.shape[1] + 8) * (unit * size + limits.tiny)


def _compare(x: Tensor, codebook: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """Nearest of the candidates ``(n_rows, n_embeddings)`` of some rows, by differences in double precision."""
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    distance = torch.full(candidates.shape, torch.inf, dtype=exact, device=x.device)
    for pairs in torch.split(candidates.nonzero(), max(1, SEARCH_NUMBERS // x.shape[1])):
        row, code = pairs.unbind(1)
        difference = x[rows[row]].to(exact) - codebook[code].to(exact)
        distance[row, code] = difference.square().sum(1)
    return distance.argmin(1)


def sum_by_code(x: Tensor, codes: Tensor, n_embeddings: int) -> Tensor:
    """Sum of the vectors that share a code, the same in every run.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    codes : Tensor of int, shape (n,)
    n_embeddings : int

    Returns
    -------
    Tensor of shape (n_embeddings, d)

    Examples
    --------
    >>> import torch
    >>> sum_by_code(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 2, 0]), 3)
    tensor([[5.],
            [0.],
            [2.]])
    """
    if x.device.type == "cpu":
        return x.new_zeros(n_embeddings, x.shape[1]).index_add_(0, codes, x)
    # Elsewhere index_add adds in whatever order threads arrive; the backward pass of an embedding sorts first.
    summed: Tensor = torch.ops.aten.embedding_dense_backward(x, codes, n_embeddings, -1, False)
    return summed


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """Quantized vectors whose gradient goes to the vectors that were quantized, as it is.

    Parameters
    ----------
    x, quantized : Tensor of shape (..., d)

    Returns
    -------
    Tensor of shape (..., d)
        Has the values of `quantized`, to the last bit.

    References
    ----------
    .. [1] van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([0.2, 0.9], requires_grad=True)
    >>> straight_through(x, x.round())
    tensor([0., 1.], grad_fn=<AddBackward0>)
    """
    return quantized.detach() + (x - x.detach())


def rotate_to(x: Tensor, quantized: Tensor) -> Tensor:
    r"""Quantized vectors as rotations of the vectors that were quantized, through which the gradient goes.

    The value is :math:`\lambda R x = q`, with the rotation R from the direction of x to that of q in the plane of both, and
    :math:`\lambda = \|q\| / \|x\|`; both are held for constants, so that a gradient keeps its angle to the vector it
    belongs to [1]_. Where either vector is zero there is no direction, and the gradient passes as it is.

    Parameters
    ----------
    x, quantized : Tensor of shape (..., d)

    Returns
    -------
    Tensor of shape (..., d)
        Has the values of `quantized`, to the last bit.

    References
    ----------
    .. [1] Fifty et al., "Restructuring vector quantization with the rotation trick", 2024, arXiv:2410.06424.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> rotate_to(x, torch.tensor([[0.0, 2.0]]))[0, 1].backward()
    >>> x.grad.round(decimals=4)
    tensor([[2., 0.]])
    """
    source, target = x.detach(), quantized.detach()
    length, new_length = source.norm(dim=-1, keepdim=True), target.norm(dim=-1, keepdim=True)
    turns = (length > 0.0) & (new_length > 0.0)
    scale = new_length / torch.where(turns, length, 1.0)
    start, end = F.normalize(source, dim=-1, eps=1e-30), F.normalize(target, dim=-1, eps=1e-30)
    middle = F.normalize(start + end, dim=-1, eps=1e-30)
    along = (x * middle).sum(-1, keepdim=True) * middle
    ahead = (x * start).sum(-1, keepdim=True) * end
    rotated = torch.where(turns, scale * (x - 2.0 * along + 2.0 * ahead), x)
    return target + (rotated - rotated.detach())
