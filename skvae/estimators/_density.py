"""Densities on the codes of models that have no prior of their own."""

from __future__ import annotations

import copy
from inspect import signature
from typing import Any

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from sklearn.base import BaseEstimator, DensityMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import has_fit_parameter

_MAX_PATTERNS = 4096  # rows whose patterns of activity are kept
_MAX_NUMBERS, _FEWEST_PATTERNS = 2**15, 64  # activations of these, of wide codes
_NEW = 0.3  # part of a draw, relative to its spread, that is not the training row's


class GaussianDensity(DensityMixin, BaseEstimator):
    """One normal distribution with a full covariance; unlike GaussianMixture it takes weights.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
    covariance_ : ndarray of shape (n_features, n_features)
    """

    @classmethod
    def of(cls, mean, covariance):
        """Make a fitted density from its moments."""
        density = cls()
        density.mean_, density.covariance_ = mean, covariance
        return density

    def fit(self, X, y=None, sample_weight=None):
        """Fit mean and covariance to codes."""
        self.mean_, self.covariance_ = code_moments(X, sample_weight)
        return self

    def score_samples(self, X):
        """Log-density of codes."""
        factor = cholesky(self.covariance_, lower=True)
        white = solve_triangular(factor, (X - self.mean_).T, lower=True)
        log_det = np.log(np.diag(factor)).sum()
        return -0.5 * (white**2).sum(axis=0) - log_det - 0.5 * len(factor) * np.log(2 * np.pi)

    def sample(self, n_samples=1, random_state=None):
        """Draw codes."""
        normal = check_random_state(random_state).standard_normal((n_samples, len(self.mean_)))
        return self.mean_ + normal @ cholesky(self.covariance_, lower=True).T


class ActivityDensity:
    """Patterns of activity that occurred in training, and how strong active and inactive units are, together.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_components)
    weight : ndarray of shape (n_samples,) or None
    threshold : float or None
        Above which a unit is active; None takes units for inactive that are zero.
    seed : int
        Decides which rows' patterns are kept.

    Attributes
    ----------
    rate : ndarray of shape (n_components,)
        Fraction of rows in which a unit is active, by half a row away from 0 and 1.
    on, off : tuple of ndarray of shape (n_components,)
        Mean, standard deviation, minimum and maximum of active and inactive units.
    n_free : int
        Most units that are active in a row.
    """

    def __init__(self, codes, weight, threshold, seed):
        active = codes != 0.0 if threshold is None else codes > threshold
        weight = np.ones(len(codes)) if weight is None else weight
        self.rate = (weight @ active + 0.5 * weight.mean()) / (weight.sum() + weight.mean())
        self.n_free = max(1, int(active.sum(axis=1).max()))
        self.on, self.off = _moments_where(codes, active, weight), _moments_where(codes, ~active, weight)
        most = int(np.clip(_MAX_NUMBERS // codes.shape[1], _FEWEST_PATTERNS, _MAX_PATTERNS))
        n_kept = min(len(codes), most)
        # As often as their weights say, give or take one, so that samples have the moments of the codes.
        places = (np.arange(n_kept) + np.random.default_rng(seed).random()) / n_kept
        kept = np.minimum(np.searchsorted(np.cumsum(weight / weight.sum()), places, side="right"), len(codes) - 1)
        self._patterns = np.packbits(active[kept], axis=1)
        self._keep(codes[kept])

    def _keep(self, codes):
        """Keep codes in half precision, which has a few digits of what is not larger than one."""
        self._unit = np.maximum(np.abs(codes).max(axis=0), np.finfo(np.float32).tiny).astype(np.float32)
        self._halves = (codes / self._unit).astype(np.float16)

    @property
    def _codes(self):
        return self._halves.astype(np.float32) * self._unit

    @property
    def n_bytes(self):
        """Bytes that are kept of codes."""
        return self._halves.nbytes + self._patterns.nbytes

    def remember(self, old, rate, seed):
        """Take in what was known before, with the weight ``1 - rate``."""
        self.on = _blend_where(old.on, (1 - rate) * old.rate, self.on, rate * self.rate)
        self.off = _blend_where(old.off, (1 - rate) * (1 - old.rate), self.off, rate * (1 - self.rate))
        self.rate = (1 - rate) * old.rate + rate * self.rate
        most = int(np.clip(_MAX_NUMBERS // len(self.rate), _FEWEST_PATTERNS, _MAX_PATTERNS))
        rng, total = np.random.default_rng(seed), min(most, len(old._patterns) + len(self._patterns))
        n_new = max(1, round(rate * total))
        kept, drawn = rng.permutation(len(old._patterns))[: total - n_new], rng.integers(len(self._patterns), size=n_new)
        self._patterns = np.concatenate([old._patterns[kept], self._patterns[drawn]])
        self._keep(np.concatenate([old._codes[kept], self._codes[drawn]]))
        n_active = np.unpackbits(self._patterns, axis=1, count=len(self.rate)).sum(axis=1, dtype=int).max()
        self.n_free = max(self.n_free, int(n_active))

    def sample(self, n_samples, seed):
        """Draw codes: those of training rows, a little changed, but for their patterns and within the range that occurred.

        Units stay as correlated as they are, and keep their moments.
        """
        rng = np.random.default_rng(seed)
        rows = rng.integers(len(self._patterns), size=n_samples)
        active = np.unpackbits(self._patterns[rows], axis=1, count=len(self.rate)).astype(bool)
        noise, codes = rng.standard_normal(active.shape), self._codes[rows]
        on, off = (
            np.clip(mean + np.sqrt(1.0 - _NEW**2) * (codes - mean) + _NEW * std * noise, low, high)
            for mean, std, low, high in (self.on, self.off)
        )
        return np.where(active, on, off)


def _moments_where(codes, chosen, weight):
    """Weighted mean and standard deviation, minimum and maximum of chosen entries, per column.

    Columns without any borrow the moments of all together, those with one the spread.
    """
    n_chosen = chosen.sum(axis=0)
    total = weight @ chosen
    values = np.where(chosen, codes, 0.0).astype(np.float64)
    everything = max(total.sum(), np.finfo(float).tiny)
    pooled = (weight @ values).sum() / everything
    mean = np.where(n_chosen > 0, (weight @ values) / np.where(n_chosen > 0, total, 1.0), pooled)
    deviation = np.where(chosen, values - mean, 0.0) ** 2
    spread = np.sqrt((weight @ deviation).sum() / everything)
    std = np.sqrt((weight @ deviation) / np.where(n_chosen > 0, total, 1.0))
    std = np.maximum(np.where(n_chosen > 1, std, spread), 1e-3 * spread + 1e-6)
    low = np.where(chosen, values, np.inf).min(axis=0)
    high = np.where(chosen, values, -np.inf).max(axis=0)
    return mean, std, low, high


def _blend_where(old, old_share, new, new_share):
    """Moments and extremes of two sets of entries together."""
    share = new_share / (old_share + new_share)
    mean = old[0] + share * (new[0] - old[0])
    variance = (1 - share) * (old[1] ** 2 + (old[0] - mean) ** 2) + share * (new[1] ** 2 + (new[0] - mean) ** 2)
    return mean, np.sqrt(variance), np.minimum(old[2], new[2]), np.maximum(old[3], new[3])


def code_moments(codes: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and covariance of codes; units that never vary get a small variance."""
    mean = np.average(codes, axis=0, weights=weight)
    covariance = np.atleast_2d(np.cov(codes.T, aweights=weight, ddof=0))
    scale = np.trace(covariance) / len(mean)
    return mean, covariance + (1e-6 * scale + 1e-12) * np.eye(len(mean))


def check_density(density: Any, weight: np.ndarray | None) -> None:
    """Refuse a class, and weights that a density estimator cannot take."""
    if isinstance(density, type):
        raise ValueError(f"density={density.__name__} is a class; pass an instance, {density.__name__}().")
    if density is not None and weight is not None and not has_fit_parameter(density, "sample_weight"):
        raise ValueError(f"sample_weight was given, but density={density!r} takes none in fit; use KernelDensity or None.")


def fit_density(density: Any, codes: np.ndarray, weight: np.ndarray | None, seed: int) -> Any:
    """Fit a copy of a scikit-learn density estimator to codes."""
    density = clone(density)
    if "random_state" in density.get_params() and density.get_params()["random_state"] is None:
        density.set_params(random_state=seed)
    if weight is None:
        return density.fit(codes)
    return density.fit(codes, sample_weight=weight)


def sample_density(density: Any, n_samples: int, seed: int) -> np.ndarray:
    """Draw codes from a fitted density estimator."""
    if "random_state" in signature(density.sample).parameters:
        drawn = density.sample(n_samples, random_state=seed)
    else:  # mixtures read their own parameter, and return labels beside the draws
        drawn = copy.copy(density).set_params(random_state=seed).sample(n_samples)
    return np.asarray(drawn[0] if isinstance(drawn, tuple) else drawn, dtype=np.float64)
