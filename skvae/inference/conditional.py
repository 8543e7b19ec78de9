"""Rows from the model, given some of their entries.

Codes are drawn from a proposal that is adapted to what is given of each row, weighted by importance, and chosen by their weights.
Encoders have no part in it: they may never have seen rows with gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skvae.data import Table
from skvae.inference.importance import density_of
from skvae.inference.runner import CHUNK_FLOATS, Runner, place
from skvae.modules import Batch
from skvae.modules.posterior import exact_dtype
from skvae.runtime.randomness import make_generator, seed_streams

_MOST_ROWS = 16  # of a chunk
_PRIOR_DRAWS, _STARTS = 256, 4  # codes that climbs may start from, and how many do
_CLIMBS, _FRACTIONS = 6, (1.0, 0.5, 0.2, 0.05, 0.01)  # steps towards a mode, and which parts of each are tried
_LEAST_SECANT, _MOST_SECANT, _SECANT = 0.01, 1.0, 2.0  # in standard deviations of the prior, and of the posterior
_ROUNDS, _ROUNDS_OF_ONE = 2, 6  # of draws that proposals learn from, where there are many rows or one
N_ROUNDS = _ROUNDS + 1  # the last one, which proposals do not learn from, included
_MOST_LEARNED, _MOST_AT_ONCE = 4096, 2**16  # draws of such a round, and of the last one at once
_WIDE, _WIDER = 0.15, 3.0  # share of a proposal's draws that have a larger variance, and how many times
_PRIOR = 0.1  # least share of draws from the prior, which bounds the weights
_INFLATION = 1.1  # of the variances of the last proposal
_LEAST_CURVATURE = 0.1  # of a density that is not curved as a peak is, in units of the prior's precision
_MOMENT_DRAWS = 4096
_HALVINGS = 30
_SEED = 20191218  # of numbers that are the same for all rows
_LEAST = -1e30  # log-density that stands for none


class CodeSource(NamedTuple):
    """Prior of the codes that a module does not own.

    Attributes
    ----------
    draw : callable
        Takes a number of codes and a seed, and returns ``(n, n_components)``.
    log_density : callable
        Takes codes ``(n, n_components)``, and returns ``(n,)``.
    """

    draw: Callable[[int, int], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]


class Drawn(NamedTuple):
    """Rows that are completed by draws.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, n_features)
        In double precision; what is given is as it was.
    effective_sample_size : ndarray of shape (n_rows,)
        Number of codes that would be worth as much if they came from the posterior itself; as many as are tried where nothing
        is missing.
    log_evidence : ndarray of shape (n_rows,)
        Estimates of the log-likelihood of what is given, in nats, up to a constant that depends on which entries these are.
    """

    rows: np.ndarray
    effective_sample_size: np.ndarray
    log_evidence: np.ndarray


def sample_given(
    module: nn.Module,
    table: Table,
    device: torch.device,
    seed: int,
    *,
    n_samples: int | None = None,
    n_proposals: int,
    mean: bool = False,
    source: CodeSource | None = None,
) -> Drawn:
    r"""Draw what is missing of rows from :math:`p(x_\mathrm{missing}|x_\mathrm{given})`.

    A few codes, chosen among many from the prior by how well they explain what is given, climb towards modes of their posterior
    by Newton steps along secants of the decoder. The Gaussian approximations there and the prior make a mixture, which rounds of
    adaptive importance sampling [1]_ improve. Codes for the rows are chosen among the draws of a last round, in proportion to
    their weights and spread evenly, so that as few as can be are chosen twice. Where decoder and likelihood are linear and
    Gaussian, the mixture is the posterior itself.

    Parameters
    ----------
    module : LatentModule
    table : Table
        In the units of the data, NaN where the model is to draw, with a condition for each row if the module takes some.
    device : torch.device
    seed : int
    n_samples : int or None, default=None
        Number of draws given each row; None draws one.
    n_proposals : int
        Codes that a row's is chosen among.
    mean : bool, default=False
        Means of the likelihood given the code in place of draws from it.
    source : CodeSource or None, default=None
        Prior of the codes; that of the module by default.

    Returns
    -------
    Drawn

    References
    ----------
    .. [1] Cappé et al., "Adaptive importance sampling in general mixture classes", Statistics and Computing 18, 2008.
    """
    n_each = 1 if n_samples is None else n_samples
    # Whatever the number of rows, where there are several, so that a row's draws depend on its place alone.
    size = 1 if n_samples is not None and table.n_rows == 1 else _size_of_chunks(module, max(n_each, n_proposals))
    place(module, device)
    runner = Runner(module, device, size=size, scores=True)
    given = _reader(runner, table)
    generator, scatter = (make_generator(each, device) for each in seed_streams(seed, n=2))

    def step(rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n_rows = min(rows.stop, table.n_rows) - rows.start
        batch = given(rows)
        codes, share, log_evidence = Posterior(module, batch, generator, source).draw(n_each, n_proposals)
        output = _in_parts(module, codes, batch, lambda each: each)
        values = module.likelihood.expectation(output) if mean else module.likelihood.scatter(output, scatter)
        drawn = module.likelihood.rescale(values.flatten(0, 1)).reshape(size, n_each, -1)[:n_rows]
        block = table.source.read(rows)[:, np.newaxis]
        is_given = ~np.isnan(block)
        sizes, evidence = (part.cpu().numpy().astype(np.float64)[:n_rows] for part in (1.0 / share.square().sum(1), log_evidence))
        sizes[evidence <= _LEAST] = 1.0  # no code explains what is given
        sizes[is_given.all(axis=(1, 2))] = n_proposals
        return np.where(is_given, block, drawn), sizes, evidence

    with torch.inference_mode(False):
        found, sizes, log_evidence = runner.map(step, table.n_rows)
    return Drawn(found.reshape(-1, table.n_features), sizes, log_evidence)


def average_given(
    module: nn.Module,
    table: Table,
    device: torch.device,
    *,
    n_proposals: int,
    source: CodeSource | None = None,
    seed: int = _SEED,
) -> np.ndarray:
    """Means of what is missing of rows given the rest, with the likeliest categories; see `sample_given`.

    Codes are drawn by the same numbers for all rows, so that what is found depends on nothing but the row.

    Parameters
    ----------
    module : LatentModule
    table : Table
        In the units of the data, NaN where entries are missing, with a condition for each row if the module takes some.
    device : torch.device
    n_proposals : int
        Codes that are drawn for a row in each of `N_ROUNDS` rounds, over the last of which the average goes.
    source : CodeSource or None, default=None
        Prior of the codes; that of the module by default.
    seed : int
        Decides the numbers that codes are drawn by.

    Returns
    -------
    ndarray of float64, shape (n_samples, n_features)
        Nothing but the missing entries is meant to be used.
    """
    size = _size_of_chunks(module, n_proposals)
    place(module, device)
    runner = Runner(module, device, size=size, scores=True)
    given = _reader(runner, table)

    def step(rows: slice) -> np.ndarray:
        batch = given(rows)
        posterior = Posterior(module, batch, make_generator(seed, device), source, is_alike=True)
        codes, log_weight = posterior.weigh(n_proposals, _ROUNDS)
        output = _in_parts(module, codes, batch, lambda each: each)
        values = module.likelihood.average(output, _shares(log_weight))
        return module.likelihood.rescale(values)[: table.n_rows - rows.start]

    with torch.inference_mode(False):
        return runner.map(step, table.n_rows)


def _size_of_chunks(module: nn.Module, n_draws: int) -> int:
    """Rows that are looked at together."""
    most = max(n_draws, _STARTS * (2 * module.n_components + 1))
    return max(1, min(_MOST_ROWS, CHUNK_FLOATS // (max(module.widest_layer, 2 * (_STARTS + 1) * module.n_components) * most)))


def _reader(runner: Runner, table: Table) -> Callable[[slice], Batch]:
    """Make a function that returns the batch of a chunk of rows; of those behind the last one, nothing is given."""
    likelihood = runner.module.likelihood
    conditions = None if table.condition is None else runner.padded(table.condition)

    def given_of(rows: slice) -> Batch:
        x = torch.full((runner.size, table.n_features), torch.nan)
        x[: min(rows.stop, table.n_rows) - rows.start] = likelihood.standardize(table.source, rows)
        filled, given = likelihood.fill(x.to(runner.device), is_target=True)
        condition = None if conditions is None else conditions(rows)
        # What was constant has nothing to say.
        return Batch.of(filled.float(), condition=condition, observed=given & (likelihood.varying > 0.0))

    return given_of


class Mixture(NamedTuple):
    """Proposals: mixtures of distributions around points, each normal with wider tails, and of the prior.

    Attributes
    ----------
    log_weight : Tensor of shape (n, n_mixed + 1)
        That of the prior is the last.
    mean : Tensor of shape (n, n_mixed, n_components)
    factor : Tensor of shape (n, n_mixed, n_components, n_components)
        Lower triangular; its product with its transpose is the covariance.
    """

    log_weight: Tensor
    mean: Tensor
    factor: Tensor

    def log_joint(self, z: Tensor) -> Tensor:
        """Log-density of codes ``(n, n_draws, n_components)`` with each component but the prior, ``(n, n_mixed, n_draws)``."""
        away = (z.unsqueeze(1) - self.mean.unsqueeze(2)).mT
        squares = torch.linalg.solve_triangular(self.factor, away, upper=False).square().sum(2)
        width = z.shape[-1]
        constant = self.log_weight[:, :-1] - self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        narrow = math.log(1.0 - _WIDE) - 0.5 * squares
        wide = math.log(_WIDE) - 0.5 * width * math.log(_WIDER) - 0.5 / _WIDER * squares
        return (constant - 0.5 * width * math.log(2.0 * math.pi)).unsqueeze(-1) + torch.logaddexp(narrow, wide)


class Posterior:
    """Posteriors of the codes of rows of which some entries are given.

    Parameters
    ----------
    module : LatentModule
    batch : Batch
        Rows, of which `observed` is given.
    generator : torch.Generator or None
        That of torch by default.
    source : CodeSource or None
        Prior that the module does not own.
    is_alike : bool, default=False
        Draw the same numbers for all rows.
    """

    def __init__(
        self,
        module: nn.Module,
        batch: Batch,
        generator: torch.Generator | None,
        source: CodeSource | None,
        *,
        is_alike: bool = False,
    ):
        self.module, self.batch, self.generator, self.source, self.is_alike = module, batch, generator, source, is_alike
        self.exact, self.n_rows = exact_dtype(batch.x), len(batch.x)
        assert batch.observed is not None
        self.is_open = ~batch.observed.any(1, keepdim=True)  # rows of which nothing is given
        if source is not None:
            self._log_density = density_of(source.log_density)
            self._mean, self._precision = self._moments(source)

    # -- numbers ------------------------------------------------------------------------------------------------------

    def _normal(self, *shape: int) -> Tensor:
        return self._numbers(torch.randn, shape)

    def _uniform(self, *shape: int) -> Tensor:
        return self._numbers(torch.rand, shape)

    def _numbers(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        n, *others = shape
        drawn = (1 if self.is_alike else n, *others)
        numbers = draw(drawn, generator=self.generator, device=self.batch.x.device, dtype=torch.float32)
        return numbers.to(self.exact).expand(shape)

    def _places(self, n: int) -> Tensor:
        """Numbers between 0 and 1, one in each of `n` equal parts, ``(n_rows, n)``."""
        return (torch.arange(n, device=self.batch.x.device) + self._uniform(self.n_rows, 1)) / n

    # -- the prior ----------------------------------------------------------------------------------------------------

    def _moments(self, source: CodeSource) -> tuple[Tensor, Tensor]:
        """Mean and precision of a prior whose density has no gradient."""
        codes = source.draw(_MOMENT_DRAWS, 0).astype(np.float64)
        covariance = np.atleast_2d(np.cov(codes.T))
        covariance += 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        parts = codes.mean(axis=0), np.linalg.inv(covariance)
        mean, precision = (torch.from_numpy(part).to(self.batch.x.device, self.exact) for part in parts)
        return mean, precision

    def _from_prior(self, n: int) -> Tensor:
        """Draw codes ``(n_rows, n, n_components)``."""
        if self.source is None:
            noise = self._normal(self.n_rows, n, self.module.prior.n_noise).float()
            return self.module.prior.from_noise(noise, self.batch.condition).to(self.exact)
        seed = int(torch.randint(2**31 - 1, (), generator=self.generator, device=self.batch.x.device))
        n_rows = 1 if self.is_alike else self.n_rows
        codes = torch.from_numpy(self.source.draw(n_rows * n, seed)).to(self.batch.x.device, self.exact)
        return codes.reshape(n_rows, n, -1).expand(self.n_rows, -1, -1)

    def _log_prior(self, z: Tensor) -> Tensor:
        z = z.float()
        value = self.module.prior.log_prob(z, self.batch.condition) if self.source is None else self._log_density(z)
        return value.to(self.exact)

    def _prior_gradient(self, z: Tensor) -> Tensor:
        """Gradient of the log-density in codes ``(n_rows, n, n_components)``, or about that."""
        if self.source is not None:
            return (self._mean - z) @ self._precision
        with torch.enable_grad():
            z = z.float().requires_grad_()
            (gradient,) = torch.autograd.grad(self.module.prior.log_prob(z, self.batch.condition).sum(), z)
        return gradient.to(self.exact)

    # -- the likelihood of what is given ------------------------------------------------------------------------------

    def _nll(self, output: Tensor) -> Tensor:
        assert self.batch.observed is not None
        return self.module.likelihood.nll(self.batch.target.unsqueeze(1), output, self.batch.observed.unsqueeze(1))

    def _log_joint(self, z: Tensor) -> Tensor:
        r"""Log of :math:`p(x_\mathrm{given}|z)\,p(z)`, ``(n_rows, n)``; minus infinity where it is no number."""
        value = self._log_prior(z) - _in_parts(self.module, z, self.batch, self._nll).to(self.exact)
        return value.nan_to_num(nan=-torch.inf, posinf=-torch.inf)

    def _expand(self, z: Tensor, secant: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the log-density at codes, and a positive definite precision.

        Parameters
        ----------
        z, secant : Tensor of shape (n_rows, n, n_components)
            Codes, and how far around them slopes are taken, which smooths over kinks.
        spread : Tensor of shape (n_rows, 1, n_components)
            Standard deviations of the prior.

        Returns
        -------
        gradient : Tensor of shape (n_rows, n, n_components)
        factor : Tensor of shape (n_rows, n, n_components, n_components)
            Cholesky factors of the precision.
        """
        n, width = z.shape[1:]
        steps = torch.diag_embed(secant)
        points = torch.cat([z.unsqueeze(2), z.unsqueeze(2) + steps, z.unsqueeze(2) - steps], dim=2).flatten(1, 2)
        both = _in_parts(self.module, points, self.batch, self._with_gradient).unflatten(1, (n, -1)).to(self.exact)
        output, force = both.chunk(2, dim=-1)
        prior = self._prior_gradient(points).unflatten(1, (n, -1))
        slopes, bends, drift = (
            (part[:, :, 1 : width + 1] - part[:, :, width + 1 :]) / (2.0 * secant.unsqueeze(-1))
            for part in (output, force, prior)
        )
        gradient = (prior[:, :, 0] - (slopes @ force[:, :, 0].unsqueeze(-1)).squeeze(-1)).nan_to_num(0.0, 0.0, 0.0)
        precision = (slopes @ bends.mT - drift).nan_to_num(0.0, 0.0, 0.0)
        return gradient, _factor(0.5 * (precision + precision.mT), _LEAST_CURVATURE / spread.square())

    def _with_gradient(self, output: Tensor) -> Tensor:
        """Join the gradients of `_nll` in them to outputs."""
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._nll(leaf).sum(), leaf)
        return torch.cat([output, gradient], dim=-1)

    # -- proposals ----------------------------------------------------------------------------------------------------

    def draw(self, n: int, n_proposals: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw codes from among many that are tried.

        Returns
        -------
        codes : Tensor of shape (n_rows, n, n_components)
        share : Tensor of shape (n_rows, n_proposals)
            Of the codes that were tried.
        log_evidence : Tensor of shape (n_rows,)
        """
        z, log_weight = self.weigh(n_proposals, _ROUNDS if n == 1 else _ROUNDS_OF_ONE)
        share = _shares(log_weight)
        chosen = _chosen(z, share, self._places(n))
        if n > 1:  # in an order that says nothing
            order = self._uniform(self.n_rows, n).argsort(1)
            chosen = chosen.gather(1, order.unsqueeze(-1).expand_as(chosen))
        return chosen, share, (torch.logsumexp(log_weight, dim=1) - math.log(n_proposals)).clamp(min=_LEAST)

    def weigh(self, n_proposals: int, n_rounds: int) -> tuple[Tensor, Tensor]:
        """Draw codes ``(n_rows, n_proposals, n_components)`` by proposals that learn for some rounds, with log-weights."""
        mixture = self._start()
        for _ in range(n_rounds):
            mixture = self._adapted(mixture, min(n_proposals, _MOST_LEARNED))
        mixture = mixture._replace(factor=math.sqrt(_INFLATION) * mixture.factor)
        counts = [min(_MOST_AT_ONCE, n_proposals - begin) for begin in range(0, n_proposals, _MOST_AT_ONCE)]
        z, log_weight = (torch.cat(parts, dim=1) for parts in zip(*(self._propose(mixture, m)[:2] for m in counts), strict=True))
        return z, log_weight

    def _start(self) -> Mixture:
        """Gaussian approximations around codes that have climbed towards modes."""
        z = self._from_prior(_PRIOR_DRAWS)
        spread = z.std(1, keepdim=True).clamp(min=1e-6)
        log_likelihood = self._log_joint(z) - self._log_prior(z)
        tempered = _tempered(log_likelihood, 2.0 * _STARTS)
        z = _chosen(z, tempered, self._places(_STARTS))
        here, secant = self._log_joint(z), _MOST_SECANT * spread.expand_as(z)
        for _ in range(_CLIMBS):
            gradient, factor = self._expand(z, secant, spread)
            newton = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
            tried = torch.stack([z + fraction * newton for fraction in _FRACTIONS], dim=2)
            there, best = self._log_joint(tried.flatten(1, 2)).unflatten(1, (_STARTS, -1)).max(2)
            higher = tried.gather(2, best[..., None, None].expand(-1, -1, 1, z.shape[-1])).squeeze(2)
            z = torch.where((there > here).unsqueeze(-1), higher, z)
            here = torch.maximum(there, here)
            secant = _SECANT * torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1).sqrt()
            secant = secant.clamp(min=_LEAST_SECANT * spread, max=_MOST_SECANT * spread)
        _, factor = self._expand(z, secant, spread)
        covariance = torch.cholesky_inverse(factor)
        # By the square roots of their masses, lest one has all of it where the approximations are rough.
        log_weight = 0.5 * (here - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1))
        log_weight = torch.log_softmax(log_weight.nan_to_num(neginf=_LEAST), dim=1) + math.log(1.0 - 2.0 * _PRIOR)
        prior = torch.full_like(log_weight[:, :1], math.log(2.0 * _PRIOR))
        return self._mixture(torch.cat([log_weight, prior], dim=1), z, _factor(covariance))

    def _mixture(self, log_weight: Tensor, mean: Tensor, factor: Tensor) -> Mixture:
        """Mixture which, for rows of which nothing is given, is the prior alone."""
        prior = torch.full_like(log_weight, -torch.inf)
        prior[:, -1] = 0.0
        return Mixture(torch.where(self.is_open, prior, log_weight), mean, factor)

    def _propose(self, mixture: Mixture, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw codes ``(n_rows, n, n_components)``; their log-weights, and log-densities with each component of the mixture."""
        n_mixed, width = mixture.mean.shape[1:]
        which = torch.searchsorted(mixture.log_weight.exp().cumsum(1)[:, :-1].contiguous(), self._places(n), right=True)
        is_wide = self._uniform(self.n_rows, n) < _WIDE
        noise = self._normal(self.n_rows, n, width) * torch.where(is_wide, math.sqrt(_WIDER), 1.0).unsqueeze(-1)
        everywhere = mixture.mean.unsqueeze(2) + noise.unsqueeze(1) @ mixture.factor.mT  # (n_rows, n_mixed, n, n_components)
        around = which.clamp(max=n_mixed - 1)[:, None, :, None].expand(-1, 1, -1, width)
        z = everywhere.gather(1, around).squeeze(1)
        z = torch.where((which == n_mixed).unsqueeze(-1), self._from_prior(n), z)
        prior = self._log_prior(z).unsqueeze(1) + mixture.log_weight[:, -1:].unsqueeze(-1)
        joint = torch.cat([mixture.log_joint(z), prior], dim=1)
        return z, self._log_joint(z) - torch.logsumexp(joint, dim=1), joint

    def _adapted(self, mixture: Mixture, n: int) -> Mixture:
        """Improve proposals by a step of expectation-maximization over weighted draws from them.

        Weights are tempered where few draws have them all; a component that few draws belong to changes little.
        """
        z, log_weight, joint = self._propose(mixture, n)
        n_mixed, width = mixture.mean.shape[1:]
        share = _tempered(log_weight, min(4.0 * width + 10.0, 0.5 * n))
        shares = torch.softmax(joint, dim=1) * share.unsqueeze(1)
        weight = shares.sum(2)
        floor = torch.full_like(weight, _PRIOR / n_mixed)
        floor[:, -1] = _PRIOR
        log_weight = torch.log((weight + floor) / (1.0 + 2.0 * _PRIOR))
        total = weight[:, :-1, None].clamp(min=torch.finfo(self.exact).tiny)
        shares = shares[:, :-1] / total
        n_drawn = total / share.square().sum(1)[:, None, None]
        mean = torch.lerp(mixture.mean, shares @ z, n_drawn / (n_drawn + width + 4.0))
        away = z.unsqueeze(1) - mean.unsqueeze(2)
        covariance = (away * shares.unsqueeze(-1)).mT @ away
        rate = (n_drawn / (n_drawn + 0.5 * width * (width + 3) + 4.0)).unsqueeze(-1)
        return self._mixture(log_weight, mean, _factor(torch.lerp(mixture.factor @ mixture.factor.mT, covariance, rate)))


def _in_parts(module: nn.Module, z: Tensor, batch: Batch, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Call a function of what codes ``(n_rows, n, n_components)`` are decoded to, not too many at once."""
    size = max(1, CHUNK_FLOATS // (len(z) * module.widest_layer))
    return torch.cat([function(module.decode(part, batch)) for part in torch.split(z.float(), size, dim=1)], dim=1)


def _shares(log_weight: Tensor) -> Tensor:
    """Shares of draws ``(n_rows, n)``; equal ones where none explains what is given."""
    return torch.softmax(log_weight.nan_to_num(neginf=_LEAST), dim=1)


def _tempered(log_weight: Tensor, least: float) -> Tensor:
    """Shares ``(n_rows, n)`` by the largest power of the weights, up to one, at which as many draws count."""

    def shares(power: Tensor) -> Tensor:
        return _shares(power * log_weight.clamp(min=_LEAST))

    low, high = torch.zeros_like(log_weight[:, :1]), torch.ones_like(log_weight[:, :1])
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        counts = 1.0 / shares(middle).square().sum(1, keepdim=True) >= least
        low, high = torch.where(counts, middle, low), torch.where(counts, high, middle)
    return shares(high)


def _chosen(z: Tensor, share: Tensor, places: Tensor) -> Tensor:
    """Codes at places ``(n_rows, n)`` between 0 and 1, where each code has its share."""
    which = torch.searchsorted(share.cumsum(1), places).clamp(max=z.shape[1] - 1)
    return z.gather(1, which.unsqueeze(-1).expand(-1, -1, z.shape[-1]))


def _factor(matrix: Tensor, least: Tensor | None = None) -> Tensor:
    """Cholesky factors of matrices; of their diagonals alone, raised to the `least`, where they are not positive definite."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    diagonal = torch.maximum(diagonal, torch.full_like(diagonal, torch.finfo(matrix.dtype).tiny) if least is None else least)
    return torch.where((failed > 0)[..., None, None], torch.diag_embed(diagonal.sqrt()), factor)
