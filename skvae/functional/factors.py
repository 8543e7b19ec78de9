"""Linear models of rows in closed form: principal axes, denoisers of a rank, and factors with noise of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_FEWEST_ITERATIONS, _MAX_ITERATIONS, _MAX_LEAPS = 10, 300, 33
_WORK = 2**34  # multiply-adds of all iterations
_MAX_ITERATIONS_MISSING = 60
_TOLERANCE = 1e-6  # of the log-likelihood, in nats a column, between checks
_CHECKED = 10  # iterations between two looks at it
_LEAST_GAIN = 1e-7  # nats a column, of a leap
_FAINT = 0.1  # of the noise: loadings of factors that the rows say nothing about
_RIDGE = 1e-8


class Axes(NamedTuple):
    """Principal axes.

    Attributes
    ----------
    mean : Tensor of shape (n_features,)
    axes : Tensor of shape (n_axes, n_features)
        Orthonormal, in the order of their variances; the largest entry of each is positive.
    variances : Tensor of shape (n_axes,)
    total : float
        Variance of all columns together.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    total: Tensor


class Factors(NamedTuple):
    """Loadings, ordered by how much of the rows they tell, and the variance of each column's noise.

    Attributes
    ----------
    mean : Tensor of shape (n_features,)
    loadings : Tensor of shape (n_features, n_factors)
    noise : Tensor of shape (n_features,)
    """

    mean: Tensor
    loadings: Tensor
    noise: Tensor

    def posterior(self, beta: float = 1.0) -> tuple[Tensor, Tensor]:
        """Map from deviations of rows to means of the factors, ``(n_factors, n_features)``, and the factors' variances."""
        weighted = self.loadings / self.noise.unsqueeze(1)
        precision = self.loadings.mT @ weighted / beta
        precision.diagonal().add_(1.0)
        covariance = torch.linalg.inv(precision)
        return covariance @ weighted.mT / beta, covariance.diagonal()


def principal_axes(x: Tensor, weight: Tensor, n_axes: int) -> Axes:
    """Principal axes of weighted rows.

    Where there are fewer rows than axes, the others complete the basis; axes beyond the number of columns are zero.

    Parameters
    ----------
    x : Tensor of float64, shape (n, n_features)
    weight : Tensor of float64, shape (n,)
    n_axes : int
    """
    share = weight / weight.sum()
    mean = share @ x
    deviation = (x - mean) * share.sqrt().unsqueeze(1)
    n_rows, n_features = deviation.shape
    total = deviation.square().sum()
    n_kept = min(n_axes, n_features)
    if n_rows < n_features:
        variances, vectors = torch.linalg.eigh(deviation @ deviation.mT)
        variances, vectors = variances.flip(0)[:n_kept], vectors.flip(1)[:, :n_kept]
        is_there = variances > 1e-12 * total
        variances, vectors = variances[is_there], vectors[:, is_there]
        axes = (vectors / variances.sqrt()).mT @ deviation
    else:
        variances, vectors = torch.linalg.eigh(deviation.mT @ deviation)
        variances, axes = variances.flip(0)[:n_kept].clamp(min=0.0), vectors.flip(1)[:, :n_kept].mT
    axes = _with_signs(_completed(axes, n_kept))
    found = torch.zeros(n_axes, dtype=x.dtype)
    found[: len(variances)] = variances
    return Axes(mean, torch.cat([axes, axes.new_zeros(n_axes - n_kept, n_features)]), found, total)


def _completed(axes: Tensor, n_axes: int) -> Tensor:
    """Add axes that are orthogonal to those there are, up to a number."""
    n_more = n_axes - len(axes)
    if n_more == 0:
        return axes
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(axes.shape[1], n_more, generator=generator, dtype=axes.dtype)
    basis: Tensor = torch.linalg.qr(torch.cat([axes.mT, others], dim=1))[0]
    return basis.mT[:n_axes]


def _with_signs(axes: Tensor) -> Tensor:
    """Turn axes such that the largest entry of each is positive."""
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return axes * torch.where(largest < 0.0, -1.0, 1.0)


def linear_denoiser(covariance: Tensor, crossed: Tensor, read: Tensor, n_axes: int) -> tuple[Tensor, Tensor]:
    """Best linear map of a rank from corrupted rows to clean ones, as what encodes and what decodes.

    Parameters
    ----------
    covariance : Tensor of shape (n_features, n_features)
        Of corrupted rows.
    crossed : Tensor of shape (n_outputs, n_features)
        Between clean and corrupted rows.
    read : Tensor of shape (n_features,)
        Which columns vary; the others are not read.
    n_axes : int

    Returns
    -------
    encoder : Tensor of shape (n_axes, n_features)
    axes : Tensor of shape (n_axes, n_outputs)
        Orthonormal.
    """
    ridge = _RIDGE * covariance.diagonal().mean().clamp(min=1e-30)
    full = torch.linalg.solve(covariance + torch.diag_embed(torch.where(read > 0.0, ridge, 1.0)), crossed.mT).mT
    _, vectors = torch.linalg.eigh(full @ crossed.mT)
    axes = _with_signs(vectors.flip(1)[:, :n_axes].mT)
    return axes @ full, axes


def factor_analysis(
    x: Tensor,
    weight: Tensor,
    n_factors: int,
    *,
    is_shared: bool = False,
    floor: Tensor | None = None,
    noise: Tensor | None = None,
    beta: float = 1.0,
    observed: Tensor | None = None,
) -> Factors:
    r"""Factor analysis of weighted rows by maximum likelihood; probabilistic principal components with one noise for all columns.

    The rows are ``mean + loadings @ z + noise`` with standard normal factors. The model with shared noise has a closed form [1]_,
    from which the others begin; they follow expectation-maximization. With a `beta` other than one, the factors' posterior is
    that of noise `beta` times as large, which is the optimum of a linear autoencoder whose divergence is weighted by it.

    Parameters
    ----------
    x : Tensor of float64, shape (n, n_features)
        Any finite numbers where entries are missing.
    weight : Tensor of float64, shape (n,)
    n_factors : int
    is_shared : bool, default=False
        Whether all columns have the same noise.
    floor : Tensor of shape (n_features,), optional
        Smallest variances of the noise.
    noise : Tensor of shape (n_features,), optional
        Fixed variances of the noise; estimated by default.
    beta : float, default=1.0
    observed : Tensor of bool, shape (n, n_features), optional
        Which entries are there; all by default.

    References
    ----------
    .. [1] Tipping and Bishop, "Probabilistic principal component analysis", JRSS B 61, 1999.
    """
    n_features = x.shape[1]
    floor = x.new_full((n_features,), 1e-8) if floor is None else floor.clamp(min=1e-8)
    unit = torch.ones_like(floor) if noise is None else noise.sqrt()
    known, share = _filled(x, weight, observed)
    scaled = known if noise is None else known / unit
    # More factors than half as many as columns can explain all there is, the noise included.
    n_told = min(n_factors, max(1, n_features // 2))
    everything = principal_axes(scaled, weight, n_factors)
    axes = everything._replace(axes=everything.axes[:n_told], variances=everything.variances[:n_told])
    left = (axes.total - axes.variances.sum()).clamp(min=0.0) / max(1, n_features - n_told)
    if noise is None:
        noise = torch.maximum(left.expand(n_features), floor)
        smallest = noise.mean()
        is_fixed = False
    else:
        smallest, is_fixed = x.new_ones(()), True
    spread = (axes.variances - beta * smallest).clamp(min=0.0).sqrt()
    faint = _FAINT * smallest.sqrt()
    loadings = (axes.axes * torch.maximum(spread, faint).unsqueeze(1)).mT * unit.unsqueeze(1)
    found = Factors(axes.mean * unit, loadings, noise)
    if observed is not None:
        found = _follow_observed(found, x, share, observed, is_shared=is_shared, is_fixed=is_fixed, floor=floor, beta=beta)
    elif not (is_fixed or (is_shared and beta == 1.0)):
        found = _follow(found, x, share, is_shared=is_shared, floor=floor, beta=beta)
    others = _FAINT * (found.noise.sqrt() * everything.axes[n_told:] / max(1, n_features) ** 0.5).mT
    return _rotated(found._replace(loadings=torch.cat([found.loadings, others], dim=1)))


def _filled(x: Tensor, weight: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows with their columns' means where entries are missing, and the rows' shares."""
    share = weight / weight.sum()
    if observed is None:
        return x, share
    there = observed.to(x)
    mean = (share @ (x * there)) / (share @ there).clamp(min=1e-30)
    return torch.where(observed, x, mean), share


def _rotated(found: Factors) -> Factors:
    """Turn factors such that their posterior is uncorrelated, in the order of what they tell."""
    _, turn = torch.linalg.eigh(found.loadings.mT @ (found.loadings / found.noise.unsqueeze(1)))
    return found._replace(loadings=_with_signs((found.loadings @ turn.flip(1)).mT).mT.contiguous())


def _follow(found: Factors, x: Tensor, share: Tensor, *, is_shared: bool, floor: Tensor, beta: float) -> Factors:
    """Expectation-maximization of complete rows, by their covariance or, where they are fewer than columns, by themselves."""
    deviation = (x - share @ x) * share.sqrt().unsqueeze(1)
    variance = deviation.square().sum(0)
    covariance = None if len(x) < x.shape[1] else deviation.mT @ deviation
    identity = torch.eye(found.loadings.shape[1], dtype=x.dtype)

    def improved(loadings: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return loadings and noise after a step, and the objective before it, in nats a column, up to a constant."""
        weighted = loadings / (beta * noise).unsqueeze(1)
        factor = torch.linalg.cholesky_ex(torch.addmm(identity, loadings.mT, weighted))[0]
        posterior = torch.cholesky_inverse(factor)
        encode = weighted @ posterior
        crossed = deviation.mT @ (deviation @ encode) if covariance is None else covariance @ encode
        second = torch.addmm(posterior, encode.mT, crossed)
        left = variance + (loadings * (loadings @ second - 2.0 * crossed)).sum(1)
        divergence = second.trace() - len(second) + 2.0 * factor.diagonal().log().sum()
        energy = (noise.log() + left / noise).sum() + beta * divergence
        loadings = torch.linalg.solve_ex(second, crossed.mT)[0].mT
        noise = variance - (loadings * crossed).sum(1)
        noise = torch.maximum(noise.mean().expand_as(noise) if is_shared else noise, floor)
        return loadings, noise, -0.5 * float(energy) / len(noise)

    work = min(deviation.shape) * deviation.shape[1] * len(identity)
    n_most = max(_FEWEST_ITERATIONS, min(_MAX_ITERATIONS, _WORK // work))
    loadings, noise = found.loadings, found.noise
    if beta >= 1.0:  # below, the objective has no bound but by the floor
        return Factors(found.mean, *_leaping(improved, loadings, noise, min(_MAX_LEAPS, -(-n_most // 3))))
    before = torch.inf
    for i in range(n_most):
        loadings, noise, _ = improved(loadings, noise)
        if i % _CHECKED == 0:
            level = float(noise.log().mean())
            if abs(before - level) < _TOLERANCE * _CHECKED:
                break
            before = level
    return Factors(found.mean, loadings, noise)


def _leaping(
    improved: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, float]], loadings: Tensor, noise: Tensor, n_leaps: int
) -> tuple[Tensor, Tensor]:
    """Take steps of expectation-maximization, and leap after every two where they lead, as long as the objective grows [1]_.

    References
    ----------
    .. [1] Varadhan and Roland, "Simple and globally convergent methods for accelerating the convergence of any EM algorithm",
       Scandinavian Journal of Statistics 35, 2008.
    """
    longest, before = 1.0, -torch.inf
    for _ in range(n_leaps):
        *first, level = improved(loadings, noise)
        if level - before < _LEAST_GAIN:
            break
        *second, after = improved(*first)
        start, one, two = (torch.cat([part.flatten(), spread.log()]) for part, spread in ((loadings, noise), first, second))
        step, bend = one - start, two - 2.0 * one + start
        length = min(max(1.0, float(step.norm() / bend.norm().clamp(min=1e-30))), longest)
        longest = 4.0 * longest if length == longest else longest
        leap = start + 2.0 * length * step + length**2 * bend
        reached = leap[: loadings.numel()].view_as(loadings), leap[loadings.numel() :].exp()
        *third, level_there = improved(*reached)
        if level_there >= after:  # which nothing that is not a number is
            loadings, noise = third
        else:
            (loadings, noise), longest = second, max(1.0, longest / 4.0)
        before = level
    return loadings, noise


def _follow_observed(
    found: Factors,
    x: Tensor,
    share: Tensor,
    observed: Tensor,
    *,
    is_shared: bool,
    is_fixed: bool,
    floor: Tensor,
    beta: float,
) -> Factors:
    """Expectation-maximization of what is observed, with a posterior of its own for every row."""
    there = observed.to(x)
    known = share @ there
    n_factors = found.loadings.shape[1]
    identity = torch.eye(n_factors, dtype=x.dtype)
    for _ in range(_MAX_ITERATIONS_MISSING):
        mean, covariance = posterior_of_observed(found, x, observed, beta)
        second = covariance + mean.unsqueeze(2) * mean.unsqueeze(1)
        # Of every column, over the rows that have it: loadings and mean by least squares.
        deviation = (x - found.mean) * there
        weighted = (share.unsqueeze(1) * there).mT
        crossed = (share.unsqueeze(1) * deviation).mT @ mean
        gram = torch.unflatten(weighted @ second.flatten(1), 1, (n_factors, n_factors))
        ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        loadings = torch.linalg.solve(gram + ridge[:, None, None] * identity, crossed.unsqueeze(2)).squeeze(2)
        residual = (deviation - mean @ loadings.mT) * there
        shift = (share @ residual) / known.clamp(min=1e-30)
        noise = found.noise
        if not is_fixed:
            spread = torch.einsum("jk,nkl,jl->nj", loadings, covariance, loadings) * there
            noise = (share @ ((residual - shift * there).square() + spread)) / known.clamp(min=1e-30)
            noise = (known @ noise / known.sum()).expand_as(noise) if is_shared else noise
            noise = torch.maximum(torch.where(known > 0.0, noise, 1.0), floor)
        found = Factors(found.mean + shift, loadings, noise)
    return found


def precision_of_observed(loadings: Tensor, noise: Tensor, observed: Tensor) -> Tensor:
    """Precisions ``(n, n_factors, n_factors)`` of the factors of rows, given what is observed of them.

    Parameters
    ----------
    loadings : Tensor of shape (n_features, n_factors)
    noise : Tensor of shape (n_features,)
    observed : Tensor of bool, shape (n, n_features)
    """
    pairs = (loadings.unsqueeze(2) * loadings.unsqueeze(1)).flatten(1)
    n_factors = loadings.shape[1]
    precision = torch.unflatten((observed.to(loadings) / noise) @ pairs, 1, (n_factors, n_factors))
    return precision + torch.eye(n_factors, dtype=loadings.dtype, device=loadings.device)


def posterior_of_observed(found: Factors, x: Tensor, observed: Tensor, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Means ``(n, n_factors)`` and covariances of the factors of rows some entries of which are missing."""
    noise = beta * found.noise
    covariance = torch.linalg.inv(precision_of_observed(found.loadings, noise, observed))
    force = ((x - found.mean) * (observed.to(x) / noise)) @ found.loadings
    return (covariance @ force.unsqueeze(2)).squeeze(2), covariance


def least_squares(inputs: Tensor, outputs: Tensor, weight: Tensor, *, ridge: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Linear map ``(n_outputs, n_inputs)`` and constant ``(n_outputs,)`` that take inputs to outputs, row by row."""
    share = weight / weight.sum()
    center, middle = share @ inputs, share @ outputs
    away, apart = (inputs - center) * share.sqrt().unsqueeze(1), (outputs - middle) * share.sqrt().unsqueeze(1)
    slack = ridge * away.square().sum(0).mean().clamp(min=1e-30)
    if len(inputs) < inputs.shape[1]:
        kernel = away @ away.mT
        kernel.diagonal().add_(slack)
        slopes = (away.mT @ torch.linalg.solve(kernel, apart)).mT
    else:
        gram = away.mT @ away
        gram.diagonal().add_(slack)
        slopes = torch.linalg.solve(gram, away.mT @ apart).mT
    return slopes, middle - slopes @ center


def least_squares_of_observed(
    inputs: Tensor, outputs: Tensor, weight: Tensor, observed: Tensor, *, ridge: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Find the same map where some outputs are missing: that of each is of the rows which have it."""
    slopes, bias = outputs.new_zeros(outputs.shape[1], inputs.shape[1]), outputs.new_zeros(outputs.shape[1])
    patterns, which = torch.unique(observed, dim=1, return_inverse=True)
    for k, pattern in enumerate(patterns.unbind(1)):
        own = which == k
        if pattern.any():
            slopes[own], bias[own] = least_squares(inputs[pattern], outputs[pattern][:, own], weight[pattern], ridge=ridge)
    return slopes, bias
