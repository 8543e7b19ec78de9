"""Numbers whose scores, a piecewise linear function of them, have normal or Laplace noise; whole ones have probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae.data.marginals import Marginal, slopes_of

_NARROW = 0.1  # standard deviations, below which the probability of a cell is its width times the density in its middle
_BEYOND = 1e4  # score that nothing reaches
_MOST_SCORE = 8.0  # that networks read
_COARSE = 1e-4  # least width of a unit cell, in standardized units, that single precision can tell from nothing
_TAIL = -10.0  # below which the distribution function is known by its asymptotic series
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class Scores(nn.Module):
    """Columns of numbers, each a monotone function of its score, around which the noise lies.

    Parameters
    ----------
    columns : sequence of int
        Positions of the columns in the table.
    marginals : sequence of Marginal
        What these columns look like.

    Attributes
    ----------
    columns : Tensor of int, shape (n_columns,)
    is_cell : Tensor of bool, shape (n_columns,)
        Columns of whole numbers, whose entries have the probability of their unit cell.
    """

    columns: Tensor
    low: Tensor
    high: Tensor
    origin: Tensor
    slope: Tensor
    first: Tensor
    score_low: Tensor
    score_high: Tensor
    score_origin: Tensor
    first_number: Tensor
    log_slope: Tensor
    reach: Tensor
    is_cell: Tensor
    bottom: Tensor
    top: Tensor
    center: Tensor
    scale: Tensor
    log_unit: Tensor
    is_whole: Tensor
    is_laplace: Tensor

    def __init__(self, columns: Sequence[int], marginals: Sequence[Marginal]):
        super().__init__()
        most = max((len(marginal.knots) for marginal in marginals), default=1) + 1
        scale = np.array([marginal.scale for marginal in marginals])
        center = np.array([marginal.center for marginal in marginals])
        half = np.array([0.5 / marginal.scale if marginal.is_whole else 0.0 for marginal in marginals])
        half[half < 0.5 * _COARSE] = 0.0
        maps = [_Segments.of(marginal, most) for marginal in marginals]
        closed = np.array([marginal.is_closed for marginal in marginals], dtype=bool)
        ends = np.array([[marginal.knots[0], marginal.knots[-1]] for marginal in marginals]).reshape(-1, 2)
        ends = (ends - center[:, np.newaxis]) / scale[:, np.newaxis]
        values = {name: np.array([getattr(each, name) for each in maps]) for name in _Segments.__slots__}
        values.update(
            reach=half,
            bottom=np.where(closed, ends[:, 0], -np.inf),
            top=np.where(closed, ends[:, 1], np.inf),
            center=center,
            scale=scale,
            log_unit=np.log(scale),
        )
        for name, array in values.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(array, dtype=np.float64)).float(), persistent=False)
        whole = np.array([marginal.is_whole for marginal in marginals], dtype=bool)
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.long), persistent=False)
        self.register_buffer("is_cell", torch.from_numpy(half > 0.0), persistent=False)
        self.register_buffer("is_whole", torch.from_numpy(whole), persistent=False)
        self.register_buffer(
            "is_laplace",
            torch.tensor([marginal.family == "laplace" for marginal in marginals], dtype=torch.bool),
            persistent=False,
        )
        self.has_cells, self.has_densities = bool((half > 0.0).any()), bool((half == 0.0).any())
        self.has_laplace = any(marginal.family == "laplace" for marginal in marginals)

    # -- numbers and scores -------------------------------------------------------------------------------------------

    def score(self, x: Tensor) -> Tensor:
        """Scores of standardized numbers ``(..., n_columns)``."""
        parts = torch.clamp(x.unsqueeze(-1), self.low.to(x), self.high.to(x)) - self.origin.to(x)
        return self.first.to(x) + (parts * self.slope.to(x)).sum(-1)

    def number(self, score: Tensor) -> Tensor:
        """Standardized numbers that have scores ``(..., n_columns)``."""
        parts = torch.clamp(score.unsqueeze(-1), self.score_low.to(score), self.score_high.to(score)) - self.score_origin.to(
            score
        )
        return self.first_number.to(score) + (parts / self.slope.to(score)).sum(-1)

    def log_slope_at(self, x: Tensor) -> Tensor:
        """Logarithms of the slopes of scores, by units of the data, at standardized numbers ``(..., n_columns)``."""
        wide = x.unsqueeze(-1)
        is_here = (wide >= self.low.to(x)) & (wide < self.high.to(x))
        return (is_here * self.log_slope.to(x)).sum(-1) - self.log_unit.to(x)

    def read(self, x: Tensor) -> Tensor:
        """Return what networks read of standardized numbers."""
        return self.score(x).clamp(-_MOST_SCORE, _MOST_SCORE)

    def settle(self, x: Tensor) -> Tensor:
        """Standardized numbers that entries can have: whole ones where the columns hold these, within closed ends."""
        center, scale = self.center.to(x), self.scale.to(x)
        whole = ((x * scale + center).round() - center) / scale
        return torch.where(self.is_whole, whole, x).clamp(self.bottom.to(x), self.top.to(x))

    # -- noise --------------------------------------------------------------------------------------------------------

    def nats(self, x: Tensor, mean: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of numbers, and what the noise is learned from.

        Parameters
        ----------
        x : Tensor of shape (..., n_columns)
            Standardized.
        mean : Tensor of shape (..., n_columns)
            Of the scores.
        moment : Tensor of shape (n_columns,)
            Of the noise: variances or, of Laplace noise, mean absolute values.

        Returns
        -------
        nats, moments : Tensor of shape (..., n_columns)
            The latter are squared or absolute residuals of scores; expected ones, where the cell of a score is known alone.
        """
        deviation = self.score(x) - mean
        std = moment.sqrt()
        z = deviation / std
        nats, moments = 0.5 * z.square() + std.log() + _HALF_LOG_TAU - self.log_slope_at(x), deviation.square()
        if self.has_laplace:
            size = deviation.abs()
            nats = torch.where(self.is_laplace, size / moment + (2.0 * moment).log() - self.log_slope_at(x), nats)
            moments = torch.where(self.is_laplace, size, moments)
        if not self.has_cells:
            return nats, moments
        lower, upper = self._cell(x)
        low, high = (lower - mean) / std, (upper - mean) / std
        width = high - low
        is_narrow = width < _NARROW
        middle = 0.5 * (low + high)
        inside = 0.5 * middle.square() + _HALF_LOG_TAU - width.clamp(min=1e-30).log()
        low, high = torch.where(is_narrow, -1.0, low), torch.where(is_narrow, 1.0, high)
        log_mass = _log_mass(low, high)
        if self.has_laplace:
            a, b = (lower - mean) / moment, (upper - mean) / moment
            log_mass = torch.where(self.is_laplace, _log_laplace_mass(a, b), log_mass)
            is_narrow = is_narrow & ~self.is_laplace
        nats = torch.where(self.is_cell, torch.where(is_narrow, inside, -log_mass), nats)
        within = 1.0 - _edge(high, log_mass) + _edge(low, log_mass)
        use = self.is_cell & ~is_narrow & ~self.is_laplace
        return nats, torch.where(use, moment * within, moments)

    def _cell(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores at the ends of unit cells."""
        half = self.reach.to(x)
        below, above = x - half, x + half
        lower = torch.where(below < self.bottom.to(x), -_BEYOND, self.score(below))
        return lower, torch.where(above > self.top.to(x), _BEYOND, self.score(above))

    def expectation(self, mean: Tensor, moment: Tensor, *, square: bool = False) -> Tensor:
        """Mean of numbers, or of their squares, in standardized units, given that of their scores."""
        nodes, weights = _nodes(mean)
        std = moment.sqrt() if not self.has_laplace else torch.where(self.is_laplace, moment * math.sqrt(2.0), moment.sqrt())
        around = mean.unsqueeze(0) + nodes.view(-1, *[1] * mean.dim()) * std
        numbers = self.number(around)
        numbers = numbers.square() if square else numbers
        return (numbers * weights.view(-1, *[1] * mean.dim())).sum(0)

    def scatter_by(self, mean: Tensor, moment: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal numbers into draws, in standardized units."""
        score = mean + noise * moment.sqrt()
        if self.has_laplace:
            one_side = -torch.log1p(-torch.erf(noise.abs() / math.sqrt(2.0)).clamp(max=1.0 - 1e-7))
            score = torch.where(self.is_laplace, mean + noise.sign() * one_side * moment, score)
        return self.settle(self.number(score))


class _Segments:
    """A piecewise linear function, as sums over segments of slopes times how far a number reaches into them."""

    __slots__ = (
        "first",
        "first_number",
        "high",
        "log_slope",
        "low",
        "origin",
        "score_high",
        "score_low",
        "score_origin",
        "slope",
    )

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    origin: NDArray[np.float64]
    slope: NDArray[np.float64]
    log_slope: NDArray[np.float64]
    score_low: NDArray[np.float64]
    score_high: NDArray[np.float64]
    score_origin: NDArray[np.float64]
    first: float
    first_number: float

    @classmethod
    def of(cls, marginal: Marginal, n_segments: int) -> _Segments:
        """Segments of the function of a column, and empty ones, so many in all."""
        self = cls()
        knots, scores = (marginal.knots - marginal.center) / marginal.scale, marginal.scores
        slope = slopes_of(knots, scores)
        pad = n_segments - len(slope)
        self.low, self.high, self.origin = _ends(knots, pad)
        self.score_low, self.score_high, self.score_origin = _ends(scores, pad)
        self.slope, self.log_slope = np.pad(slope, (0, pad), constant_values=1.0), np.pad(np.log(slope), (0, pad))
        self.first, self.first_number = float(scores[0]), float(knots[0])
        return self


def _ends(at: NDArray[np.float64], pad: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of segments, and from where numbers reach into them: from the right end into the first one."""
    nothing = np.full(pad, at[-1])
    low, high = np.concatenate([[-np.inf], at, nothing]), np.concatenate([at, [np.inf], nothing])
    return low, high, np.concatenate([at[:1], at, nothing])


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """Logarithm of the probability of an interval under the standard normal distribution."""
    is_right = low + high > 0.0
    low, high = torch.where(is_right, -high, low), torch.where(is_right, -low, high)
    log_high = _log_cdf(high)
    ratio = _log_cdf(low) - log_high
    return log_high + torch.log(-torch.expm1(ratio.clamp(max=-1e-7)))


def _log_cdf(at: Tensor) -> Tensor:
    """Logarithm of the standard normal distribution function; torch's own has no rule for several modules at once."""
    near, far = at.clamp(min=_TAIL), at.clamp(max=_TAIL)
    square = far.square()
    series = 1.0 - (1.0 - (3.0 - 15.0 / square) / square) / square
    tail = -0.5 * square - _HALF_LOG_TAU + (series / -far).log()
    return torch.where(at > _TAIL, torch.log(0.5 * torch.erfc(near * -math.sqrt(0.5))), tail)


def _log_laplace_mass(low: Tensor, high: Tensor) -> Tensor:
    """Logarithm of the probability of an interval under the standard Laplace distribution."""
    is_right = low + high > 0.0
    low, high = torch.where(is_right, -high, low), torch.where(is_right, -low, high)
    across = high > 0.0  # and low is further out on the other side
    one_sided = high.clamp(max=0.0) - math.log(2.0) + torch.log(-torch.expm1((low - high).clamp(max=-1e-7)))
    both = torch.log1p(-0.5 * torch.exp(-high.clamp(min=0.0)) - 0.5 * torch.exp(low.clamp(max=0.0)) + 1e-30)
    return torch.where(across, both, one_sided)


def _edge(at: Tensor, log_mass: Tensor) -> Tensor:
    """Return what an end of an interval adds to the second moment within it."""
    return at * torch.exp(-0.5 * at.square() - _HALF_LOG_TAU - log_mass)


def _nodes(like: Tensor, n: int = 9) -> tuple[Tensor, Tensor]:
    """Nodes and weights that integrate functions of a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes).to(like), torch.from_numpy(weights / weights.sum()).to(like)
