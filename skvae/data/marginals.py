"""What the columns of a mixed table look like, each by itself: values with a mass of their own, and how all others are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from skvae.data.columns import SpreadError
from skvae.data.sources import as_source

COUNTS = ("negative_binomial", "poisson")
CATEGORICAL, ORDINAL, WHOLE, REAL = "categorical", "ordinal", "whole", "real"

_MAX_LEVELS = 20  # values of a column of numbers that takes no others
_MOST_SPIKES = 16
_SPIKE_SHARE = 0.005  # of all rows, that a value has at least to count by itself,
_SPIKE_ROWS = 8.0
_SPIKE_RATIO = 4.0  # and by which it exceeds what values around it have
_AROUND = 6  # values on either side that it is compared with
_MOST_KNOTS, _FEWEST_KNOTS = 40, 4
_END_ROWS = 4.0  # rows beyond the last knot on either side
_GAIN = 0.02  # nats a row by which a map must describe a column better than a normal distribution, beside what its knots cost
_KNOT_COST = 1.5  # nats in all
_RELATIVE_FLOOR = 0.01  # of the noise, in units of the column's standard deviation
_SMOOTHING = 0.5  # rows that every level is seen in before there are any


class Marginal(NamedTuple):
    """What a column looks like by itself, as plain values.

    Numbers have scores, which are about standard normal over the rows: a piecewise linear function of the number.

    Attributes
    ----------
    center, scale : float
        Of numbers: about their middle, and how far they spread; 0 and 1 of categories.
    levels : ndarray of shape (n_levels,)
        Values that have a mass of their own, in rising order: all there are, or those beside a spread of others.
    share : ndarray of shape (n_levels,)
        How many of the rows have them, smoothed a little.
    rest : float
        Share of the rows that have none of them; 0 where there are no other values.
    is_whole : bool
        Whether the others are whole numbers.
    is_closed : bool
        Whether nothing lies beyond the first and last of them, as with categories in an order.
    knots, scores : ndarray of shape (n_knots,)
        Numbers in rising order and their scores; empty where there is no rest.
    floor : float
        Smallest standard deviation of noise in the scores.
    family : str
        Name of the distribution that the column was asked to have; "auto" where it was not.
    is_number : bool
        Whether the column holds numbers, and no categories.
    """

    center: float
    scale: float
    levels: NDArray[np.float64]
    share: NDArray[np.float64]
    rest: float
    is_whole: bool
    is_closed: bool
    knots: NDArray[np.float64]
    scores: NDArray[np.float64]
    floor: float
    family: str = "auto"
    is_number: bool = True


def measure_columns(
    kinds: Sequence[str],
    n_levels: Sequence[int],
    X: Any,
    sample_weight: NDArray[np.float64] | None = None,
    asked: Mapping[int, str] | None = None,
) -> tuple[Marginal, ...]:
    """Measure the columns of a table.

    Parameters
    ----------
    kinds : sequence of {"categorical", "ordinal", "whole", "real"}
        What each column holds.
    n_levels : sequence of int
        Categories of each column; 0 of numbers.
    X : Source or ndarray of shape (n_samples, n_features)
        Positions of categories, and numbers; NaN where entries are missing.
    sample_weight : ndarray of shape (n_samples,), optional
    asked : mapping, optional
        By position, the names of distributions that columns were asked to have.

    Returns
    -------
    tuple of Marginal
    """
    source, asked = as_source(X), asked or {}
    found = []
    for j, (kind, n) in enumerate(zip(kinds, n_levels, strict=True)):
        values = source.columns(np.array([j])).read_exactly(slice(None))[:, 0]
        present = ~np.isnan(values)
        weight = np.ones(len(values)) if sample_weight is None else sample_weight
        _check_spread(j, values[present])
        found.append(_measure(kind, n, values[present], weight[present], asked.get(j, "auto")))
    return tuple(found)


def values_beyond(marginals: Sequence[Marginal], X: Any) -> dict[int, float]:
    """Return a number, by the position of its column, that is none of the values which are all that its column takes.

    Parameters
    ----------
    marginals : sequence of Marginal
    X : Source or ndarray of shape (n_samples, n_features)

    Returns
    -------
    dict
        Without the columns that have no such entry, or take all numbers.
    """
    source, found = as_source(X), {}
    for j, marginal in enumerate(marginals):
        if not marginal.is_number or marginal.rest:
            continue
        values = source.columns(np.array([j])).read_exactly(slice(None))[:, 0]
        beyond = values[~np.isnan(values) & ~np.isin(values, marginal.levels)]
        if len(beyond):
            found[j] = float(beyond[0])
    return found


def _check_spread(column: int, values: NDArray[np.float64]) -> None:
    """Raise a SpreadError about numbers whose variance overflows or underflows."""
    with np.errstate(over="ignore", under="ignore"):
        span = float(np.ptp(values)) if len(values) else 0.0
        square = np.square(span) * len(values)
    if span > 0.0 and not np.finfo(np.float64).tiny < square < np.inf:
        raise SpreadError([column], "small" if square < 1.0 else "large")


def _measure(kind: str, n_levels: int, values: NDArray[np.float64], weight: NDArray[np.float64], family: str) -> Marginal:
    if kind == CATEGORICAL or family == "categorical":
        levels = np.arange(n_levels, dtype=np.float64) if n_levels else np.unique(values)
        return _choice(levels, values, weight, family, is_number=not n_levels)
    if family in COUNTS:
        return _counts(values, weight, family)
    if kind == ORDINAL:
        return _ordinal(n_levels, values, weight, family)
    levels, index = np.unique(values, return_inverse=True)
    mass = np.bincount(index, weight, minlength=len(levels)).astype(np.float64)
    total = float(mass.sum())
    if family == "auto":
        if len(levels) <= _MAX_LEVELS and 2.0 * len(levels) <= total:
            return _choice(levels, values, weight, family, is_number=True)
        is_spike = _spikes(levels, mass, total)
        if is_spike.all():  # which leaves nothing to spread
            return _choice(levels, values, weight, family, is_number=True)
    else:
        is_spike = np.zeros(len(levels), dtype=bool)
    rest, of_rest = levels[~is_spike], mass[~is_spike]
    center, scale = _middle(rest, of_rest)
    knots, scores = _map(rest, of_rest, is_whole=kind == WHOLE) if family == "auto" else _gaussian(rest, of_rest)
    smooth = _SMOOTHING * (len(levels[is_spike]) + 1.0)
    return Marginal(
        center,
        scale,
        levels[is_spike],
        (mass[is_spike] + _SMOOTHING) / (total + smooth),
        float((of_rest.sum() + _SMOOTHING) / (total + smooth)),
        kind == WHOLE,
        False,
        knots,
        scores,
        _floor(rest, knots, scores, is_whole=kind == WHOLE),
        family,
    )


def _choice(
    levels: NDArray[np.float64], values: NDArray[np.float64], weight: NDArray[np.float64], family: str, *, is_number: bool
) -> Marginal:
    """Column that takes these values alone."""
    index = np.searchsorted(levels, values)
    mass = np.bincount(index, weight, minlength=len(levels)).astype(np.float64) + _SMOOTHING
    center, scale = _middle(levels, mass) if is_number else (0.0, 1.0)
    none = np.zeros(0)
    share = mass / mass.sum()
    return Marginal(center, scale, levels, share, 0.0, False, False, none, none, _RELATIVE_FLOOR, family, is_number)


def _ordinal(n_levels: int, values: NDArray[np.float64], weight: NDArray[np.float64], family: str) -> Marginal:
    """Categories in an order, as whole numbers whose cells end at the normal scores of their cumulative shares."""
    none = np.zeros(0)
    if n_levels < 2:
        return _choice(np.arange(max(n_levels, 1), dtype=np.float64), values, weight, family, is_number=False)
    mass = np.bincount(values.astype(np.intp), weight, minlength=n_levels) + _SMOOTHING
    edges = ndtri(np.cumsum(mass)[:-1] / mass.sum())
    inner = np.arange(n_levels - 1) + 0.5
    # The first and last cell are as wide as a score in their middle asks for.
    ends = ndtri(np.array([mass[0] / 2.0, mass.sum() - mass[-1] / 2.0]) / mass.sum())
    knots = np.concatenate([[0.0], inner, [n_levels - 1.0]])
    scores = np.concatenate([ends[:1], edges, ends[1:]])
    return Marginal(0.0, 1.0, none, none, 1.0, True, True, knots, scores, _RELATIVE_FLOOR, family, False)


def _counts(values: NDArray[np.float64], weight: NDArray[np.float64], family: str) -> Marginal:
    """Return a column of counts, as they are; knots and scores are of logarithms of the counts, one added."""
    none = np.zeros(0)
    knots, scores = _gaussian(np.log1p(np.maximum(values, 0.0)), weight)
    return Marginal(0.0, 1.0, none, none, 1.0, True, False, knots, scores, _RELATIVE_FLOOR, family)


def _spikes(levels: NDArray[np.float64], mass: NDArray[np.float64], total: float) -> NDArray[np.bool_]:
    """Which values have far more rows than those around them."""
    candidates = np.flatnonzero(mass >= max(_SPIKE_SHARE * total, _SPIKE_ROWS))
    is_spike = np.zeros(len(levels), dtype=bool)
    for j in candidates[np.argsort(-mass[candidates], kind="stable")][:_MOST_SPIKES]:
        around = np.r_[mass[max(j - _AROUND, 0) : j], mass[j + 1 : j + 1 + _AROUND]]
        if len(around) and mass[j] >= _SPIKE_RATIO * np.median(around):
            is_spike[j] = True
    if (~is_spike).sum() < 2:
        is_spike[:] = True
    return is_spike


def _middle(values: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and what would be the standard deviation by the quartiles, or by the range where they coincide."""
    if not len(values):
        return 0.0, 1.0
    share = (np.cumsum(mass) - 0.5 * mass) / mass.sum()
    low, center, high = np.interp([0.25, 0.5, 0.75], share, values).tolist()
    scale = (high - low) / 1.349
    if not scale > 0.0:
        scale = float(np.sqrt(np.average((values - center) ** 2, weights=mass)))
    return float(center), float(scale) if scale > 0.0 and np.isfinite(scale) else 1.0


def _moments(values: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[float, float]:
    mean = float(np.average(values, weights=mass))
    std = float(np.sqrt(np.average((values - mean) ** 2, weights=mass)))
    return mean, std if std > 0.0 and np.isfinite(std) else 1.0


def _gaussian(values: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Knots and scores of numbers that are standardized."""
    if not len(values):
        return np.zeros(0), np.zeros(0)
    mean, std = _moments(values, mass)
    return np.array([mean - std, mean + std]), np.array([-1.0, 1.0])


def _map(
    values: NDArray[np.float64], mass: NDArray[np.float64], *, is_whole: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Knots and scores of numbers: standardized, or by their ranks where that describes them better."""
    normal = _gaussian(values, mass)
    total = float(mass.sum())
    if len(values) < 2 * _FEWEST_KNOTS or total < 20.0:
        return normal
    cumulative = np.cumsum(mass)
    if is_whole:  # the mass of a number is spread over its unit cell
        points = np.concatenate([values - 0.5, values + 0.5])
        shares = np.concatenate([cumulative - mass, cumulative]) / total
        order = np.lexsort((shares, points))
        points, shares = points[order], shares[order]
    else:
        points, shares = values, (cumulative - 0.5 * mass) / total
    n_knots = int(np.clip(round(2.0 * total ** (1.0 / 3.0)), _FEWEST_KNOTS, _MOST_KNOTS))
    end = -float(ndtri(min(_END_ROWS / total, 0.2)))
    scores = np.linspace(-end, end, n_knots)
    knots = np.interp(ndtr(scores), shares, points)
    kept = np.concatenate([[True], np.diff(knots) > 1e-9 * max(knots[-1] - knots[0], 1e-300)])
    knots, scores = knots[kept], scores[kept]
    if len(knots) < _FEWEST_KNOTS:
        return normal
    gain = _mean_log_density(values, mass, knots, scores) - _mean_log_density(values, mass, *normal)
    return (knots, scores) if gain > _GAIN + _KNOT_COST * len(knots) / total else normal


def slopes_of(knots: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slopes of scores between knots, and beyond the first and last of them as next to these, ``(n_knots + 1,)``."""
    between = np.diff(scores) / np.diff(knots)
    return np.concatenate([between[:1], between, between[-1:]])


def score_of(
    values: NDArray[np.float64], knots: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of numbers, and the slope there."""
    segment = np.searchsorted(knots, values, side="right")
    near = np.clip(segment - 1, 0, len(knots) - 1)
    slope = slopes_of(knots, scores)[segment]
    return scores[near] + slope * (values - knots[near]), slope


def _mean_log_density(
    values: NDArray[np.float64], mass: NDArray[np.float64], knots: NDArray[np.float64], scores: NDArray[np.float64]
) -> float:
    score, slope = score_of(values, knots, scores)
    return float(np.average(np.log(slope) - 0.5 * score**2, weights=mass))


def _floor(values: NDArray[np.float64], knots: NDArray[np.float64], scores: NDArray[np.float64], *, is_whole: bool) -> float:
    """Smallest noise that numbers can support: of those that are rounded, what rounding makes of them."""
    if is_whole or len(values) < 2:
        return _RELATIVE_FLOOR
    gaps = np.diff(values)
    _, slope = score_of(values[1:] - 0.5 * gaps, knots, scores)
    return float(max(_RELATIVE_FLOOR, np.median(gaps * slope) / np.sqrt(12.0) if _is_rounded(values) else 0.0))


def _is_rounded(values: NDArray[np.float64]) -> bool:
    """Whether gaps between values are multiples of the smallest one."""
    gaps = np.diff(values)
    unit = gaps.min()
    multiple = gaps / unit
    return bool(unit > 0.0 and np.abs(multiple - np.round(multiple)).max() < 0.01 and multiple.max() < 1e4)
