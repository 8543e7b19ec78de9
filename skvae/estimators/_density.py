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


def code_moments(codes: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and covariance of codes; units that never vary get a small variance."""
    mean = np.average(codes, axis=0, weights=weight)
    covariance = np.atleast_2d(np.cov(codes.T, aweights=weight, ddof=0))
    scale = np.trace(covariance) / len(mean)
    return mean, covariance + (1e-6 * scale + 1e-12) * np.eye(len(mean))


def blend_moments(old: tuple, new: tuple, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Moments of a mixture of two sets of codes, the new one with weight `rate`."""
    apart = new[0] - old[0]
    mean = old[0] + rate * apart
    return mean, (1 - rate) * old[1] + rate * new[1] + rate * (1 - rate) * np.outer(apart, apart)


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
