"""Fixed points of slow iterations, found in leaps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_LONGEST, _FARTHEST = 16.0, 1.0  # stretch of a leap, and how far a logarithm may go beyond the iterations in one


def positive_fixed_point(iterate: Callable[[Tensor], Tensor], value: Tensor, *, tolerance: float, most: int) -> Tensor:
    """Find the fixed point of a contraction of positive numbers, such as an iteration of expectation-maximization.

    After every two iterations, their logarithms are extrapolated (squared extrapolation, SQUAREM's third scheme), and an
    iteration leads back from there; a leap is never what is returned.

    Parameters
    ----------
    iterate : callable
        Turns a tensor of numbers, none of them negative, into the next one.
    value : Tensor of shape (n,)
        To begin with.
    tolerance : float
        Change of one iteration, relative to the largest number, at which they end.
    most : int
        Number of iterations at which they end, too.

    Returns
    -------
    Tensor of shape (n,)
        What the last iteration led to.

    References
    ----------
    .. [1] R. Varadhan and C. Roland, "Simple and Globally Convergent Methods for Accelerating the Convergence of Any EM
       Algorithm", Scandinavian Journal of Statistics 35, 2008.
    """
    path, has_leapt = [value], False
    for _ in range(most):
        if len(path) == 3:
            path, has_leapt = [_leap(*path)], True
        elif has_leapt:  # what changes fast is thrown far by a leap, and was brought back by an iteration
            path, has_leapt = path[1:], False
        path.append(iterate(path[-1]))
        if (path[-1] - path[-2]).abs().max() <= tolerance * path[-1].max():
            break
    return path[-1]


def _leap(before: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Extrapolate two iterations."""
    tiny = torch.finfo(before.dtype).tiny
    start, middle, end = (numbers.clamp(min=tiny).log() for numbers in (before, first, second))
    change, bend = middle - start, end - 2.0 * middle + start
    stretch = (change.norm() / bend.norm().clamp(min=tiny)).clamp(1.0, _LONGEST)
    ahead = start + 2.0 * stretch * change + stretch.square() * bend
    return torch.minimum(torch.maximum(ahead, end - _FARTHEST), end + _FARTHEST).exp()
