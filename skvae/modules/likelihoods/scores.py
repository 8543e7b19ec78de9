"""Numbers whose scores, a piecewise linear function of them, have normal or Laplace noise; whole ones have probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae.data.marginals import Marginal, slopes_of
from skvae.modules.posterior import exact_dtype

_BEYOND = 64.0  # score that nothing reaches
_MOST_SCORE = 8.0  # that networks read
_COARSE = 1e-4  # least width of a unit cell, in standardized units, that single precision can tell from nothing
_NARROW = 1e-5  # half the width, among scores, of a cell beside which any noise is wide
_NARROW_OF_LAPLACE = 1e-8  # the same where noise may be next to nothing, as no precision is lost to narrow cells
_NARROW_IN_SINGLE = 5e-3  # half the width of a cell, beside noise, below which single precision takes a wider one for it
_ALL = -6.0  # to the left of which there is no noise to speak of
_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class ScoreTerms(NamedTuple):
    """What is found of scores, ``(..., n_columns)`` each.

    Attributes
    ----------
    nats : Tensor
        Negative log-likelihood.
    slope : Tensor
        Its derivative in the mean.
    moment : Tensor
        Squared or absolute residuals; expected squares, where it is known alone in which interval a score lies.
    """

    nats: Tensor
    slope: Tensor
    moment: Tensor


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
    narrow: Tensor
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
            narrow=np.array([_NARROW_OF_LAPLACE if marginal.family == "laplace" else _NARROW for marginal in marginals]),
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
        self.has_cells = bool((half > 0.0).any())
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

    @property
    def n_facts(self) -> int:
        """Numbers that `facts` returns for a row."""
        return (4 if self.has_cells else 2) * len(self.columns)

    def facts(self, x: Tensor) -> Tensor:
        """Return what is found of standardized numbers by themselves, in a row.

        These are their scores, and nats to be added to what is found of means; if there are cells, also their middles and half
        their widths among scores. Densities are then found as probabilities of cells that are narrow beside any noise.
        """
        x = x.to(exact_dtype(x))  # in which the width of narrow cells is known, too
        score, log_slope = self.score(x), self.log_slope_at(x)
        if not self.has_cells:
            return torch.cat([score, -log_slope], dim=-1)
        below, above = x - self.reach.to(x), x + self.reach.to(x)
        lower = torch.where(below < self.bottom.to(x), -_BEYOND, self.score(below))
        upper = torch.where(above > self.top.to(x), _BEYOND, self.score(above))
        width = torch.where(self.is_cell, upper - lower, 0.0)
        half = torch.maximum(0.5 * width, self.narrow.to(x))
        beside = (2.0 * half).log() - torch.where(self.is_cell, width.log(), log_slope)
        return torch.cat([score, beside, 0.5 * (lower + upper), half], dim=-1)

    def terms(self, facts: Tensor, mean: Tensor, moment: Tensor) -> ScoreTerms:
        """Negative log-likelihood of numbers, its slope in the means of scores, and what the noise is learned from.

        Parameters
        ----------
        facts : Tensor of shape (..., n_facts)
        mean : Tensor of shape (..., n_columns)
            Of the scores.
        moment : Tensor of shape (n_columns,), or (..., n_columns)
            Of the noise: variances or, of Laplace noise, mean absolute values.

        Returns
        -------
        ScoreTerms
        """
        score, beside, *cell = facts.chunk(4 if self.has_cells else 2, dim=-1)
        if self.has_cells:
            middle, half = cell
            scale = moment.to(exact_dtype(mean))
            found = _normal_cell(mean - middle, half, scale)
        else:
            found = _normal(mean - score, moment)
        if self.has_laplace:
            other = _laplace(mean - score, moment)
            if self.has_cells:
                other = _laplace_cell(mean - middle, half, scale)._replace(moment=other.moment)
            found = ScoreTerms(*(torch.where(self.is_laplace, *pair) for pair in zip(other, found, strict=True)))
        nats, slope, moment = (each.to(mean.dtype) for each in found)
        return ScoreTerms(nats + beside, slope, moment)

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


def _normal(mean: Tensor, variance: Tensor) -> ScoreTerms:
    """Terms of densities under normal noise, the means being relative to the numbers."""
    pull = mean / variance
    return ScoreTerms(0.5 * mean * pull + (0.5 * variance.log() + _HALF_LOG_TAU), pull, mean.square())


def _laplace(mean: Tensor, scale: Tensor) -> ScoreTerms:
    """Terms of densities under Laplace noise, the means being relative to the numbers."""
    size = mean.abs()
    return ScoreTerms(size / scale + (2.0 * scale).log(), mean.sign() / scale, size)


def _normal_cell(mean: Tensor, half: Tensor, variance: Tensor) -> ScoreTerms:
    """Terms of intervals under normal noise, of which half the widths are given, and the means relative to their middles."""
    unit = (2.0 * variance).rsqrt()  # in which the density falls like exp(-x ** 2)
    at, half = mean * unit, half * unit
    if half.dtype is torch.float32:
        half, given = half.clamp(min=_NARROW_IN_SINGLE), half  # of which only the density in the middle matters
    away = at.abs()
    near, far = (away - half).clamp(min=_ALL), away + half
    # All is beside the density at the nearer end, which may be next to nothing: the mass, and the density at the other end.
    other = torch.exp(-4.0 * away * half)
    mass = torch.addcmul(_scaled_erfc(near), other, _scaled_erfc(far), value=-1.0)
    density = (2.0 / math.sqrt(math.pi)) / mass
    nats = near.square() - mass.log() + math.log(2.0)
    if half.dtype is torch.float32:
        nats = nats + (half / given).log()
    moment = (1.0 + torch.addcmul(near, other, far, value=-1.0) * density).clamp(min=0.0)
    return ScoreTerms(nats, torch.copysign((1.0 - other) * density, at) * unit, moment * variance)


def _scaled_erfc(x: Tensor) -> Tensor:
    """Return ``exp(x ** 2) * erfc(x)``, to single precision where there is no other, on devices that may not have it."""
    if x.dtype is torch.float64:
        return torch.special.erfcx(x)  # type: ignore[no-any-return]
    near, far = x.clamp(max=5.0), x.clamp(min=5.0).square().reciprocal()
    series = (1.0 - far * (0.5 - far * (0.75 - 1.875 * far))) * (far / math.pi).sqrt()
    return torch.where(x > 5.0, series, torch.exp(near.square()) * torch.erfc(near))


def _laplace_cell(mean: Tensor, half: Tensor, scale: Tensor) -> ScoreTerms:
    """Terms of intervals under Laplace noise, which are given as those under normal noise; without moments."""
    at, half = mean / scale, half / scale
    lower, upper = -half - at, half - at
    one, other = torch.exp(-lower.abs()), torch.exp(-upper.abs())
    beside = half - at.abs() - math.log(2.0) + torch.log(-torch.expm1(-2.0 * half))
    across = (1.0 - 0.5 * (one + other)).clamp(min=1e-30)
    is_across = at.abs() < half
    log_mass = torch.where(is_across, across.log(), beside)
    slope = torch.where(is_across, 0.5 * (other - one) / across, at.sign())
    return ScoreTerms(-log_mass, slope / scale, torch.zeros_like(slope))


def _nodes(like: Tensor, n: int = 9) -> tuple[Tensor, Tensor]:
    """Nodes and weights that integrate functions of a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes).to(like), torch.from_numpy(weights / weights.sum()).to(like)
