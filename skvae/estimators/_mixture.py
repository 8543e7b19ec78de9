"""The density of the codes where nobody asks for another one: a Gaussian, or a mixture of a few where one is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state

from skvae.data.sources import row_blocks
from skvae.estimators._density import GaussianDensity

_MOST_COMPONENTS = 32
_CODES_PER_PARAMETER, _CODES_PER_PARAMETER_OF_TWO = 1, 3  # different codes that there must be, and for two components
_MOST_CODES = 4096  # that mixtures are fitted to
_ITERATIONS, _TOLERANCE = 40, 1e-4  # of expectation-maximization; gain in nats a code at which it ends
_APART = 0.7  # distance of the halves of a component from its middle, in standard deviations
_PRIOR_CODES = 2  # codes that each covariance begins with, beside as many as they have entries
_FEWEST_DRAWS, _MOST_DRAWS, _DRAWN_NUMBERS = 512, 2**14, 2**22  # codes that are drawn and decoded to look at a density
_DRAWS_PER_CODE = 16
_MEAN_ERROR, _STD_ERROR = 0.05, 0.1  # of a column, in its standard deviations, that decoded draws may have
_BACKGROUND = 0.03  # share of one Gaussian in a mixture, for codes further out than those of training
_ALIKE = 1.2  # times the smallest error, where all are larger
_SEED = 20140130
_CACHED_NUMBERS = 2**16  # that are worked on at once
_ALONE = 2**18  # multiply-adds of a product that libraries leave to one thread; two would wait for each other on a busy machine


class MixtureDensity(DensityMixin, BaseEstimator):
    """Mixture of normal distributions with full covariances, with the moments of the codes as a whole.

    Attributes
    ----------
    weights_ : ndarray of shape (n_mixed,)
    means_ : ndarray of shape (n_mixed, n_features)
    covariances_ : ndarray of shape (n_mixed, n_features, n_features)
    mean_ : ndarray of shape (n_features,)
        Of all together.
    covariance_ : ndarray of shape (n_features, n_features)
    """

    @classmethod
    def of(cls, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> MixtureDensity:
        """Make a fitted density from its components."""
        density = cls()
        density.weights_, density.means_, density.covariances_ = weights, means, covariances
        density.mean_ = weights @ means
        apart = means - density.mean_
        density.covariance_ = np.einsum("c,cij->ij", weights, covariances + apart[:, :, np.newaxis] * apart[:, np.newaxis])
        return density

    @property
    def n_parameters(self) -> int:
        """How many numbers are free."""
        n_mixed, width = self.means_.shape
        return n_mixed * (1 + width + width * (width + 1) // 2) - 1

    def log_joint(self, X: np.ndarray, *, alone: bool = False) -> np.ndarray:
        """Log-density of codes together with each component, ``(n_samples, n_mixed)``.

        With `alone`, that of a code does not depend on its neighbors, for there is no matrix product.
        """
        width, columns = X.shape[1], np.ascontiguousarray(X.T)
        factors = np.linalg.cholesky(self.covariances_)
        log_volume = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        constant = np.log(self.weights_) - log_volume - 0.5 * width * np.log(2.0 * np.pi)
        found = (_squares if alone else _squares_by_product)(np.linalg.inv(factors), columns, self.means_)
        found *= -0.5
        found += constant[:, np.newaxis]
        return found.T

    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """Log-density of codes."""
        return _log_sum_exp(self.log_joint(X, alone=True))

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw codes."""
        generator = check_random_state(random_state)
        normal = generator.standard_normal((n_samples, self.means_.shape[1]))
        return self._draws(normal, generator.uniform(size=n_samples))

    def _draws(self, normal: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Turn standard normal and uniform numbers into codes."""
        which = np.searchsorted(np.cumsum(self.weights_)[:-1], uniform, side="right")
        factors = np.linalg.cholesky(self.covariances_)
        return self.means_[which] + np.einsum("nij,nj->ni", factors[which], normal)

    def even_draws(self, n_samples: int, seed: int) -> np.ndarray:
        """Draws in pairs, with each component's share and the moments of the density: what varies least over seeds."""
        generator = np.random.default_rng(seed)
        normal = generator.standard_normal((n_samples // 2, self.means_.shape[1]))
        uniform = (generator.permutation(n_samples // 2) + 0.5) / (n_samples // 2)
        drawn = self._draws(np.concatenate([normal, -normal]), np.tile(uniform, 2))
        center = drawn.mean(axis=0)
        drawn -= center
        # There may be fewer draws than entries of a code.
        covariance = _product(drawn.T, drawn) / len(drawn) + 1e-9 * self.covariance_
        stretch = np.linalg.cholesky(self.covariance_) @ np.linalg.inv(np.linalg.cholesky(covariance))
        return self.mean_ + np.einsum("ij,nj->ni", stretch, drawn)


def choose_density(
    codes: np.ndarray,
    weight: np.ndarray | None,
    moments: tuple[np.ndarray, np.ndarray],
    decode: Callable[[np.ndarray], np.ndarray],
    spread: np.ndarray,
) -> GaussianDensity | MixtureDensity:
    """Fit the density that describes codes best among those whose draws are decoded to what the codes themselves are.

    One Gaussian stays where it does. Mixtures grow by halving their components; they have the moments given, and one Gaussian of
    these among them, so that codes far outside cost little.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_components)
    weight : ndarray of shape (n_samples,) or None
    moments : tuple of ndarray
        Mean and covariance of the codes.
    decode : callable
        Turns codes into rows in the units of the data.
    spread : ndarray of shape (n_features,)
        Standard deviations of the columns, zero where they are constant.
    """
    distinct, index = np.unique(codes, axis=0, return_inverse=True)
    share = np.bincount(index.ravel(), weights=weight, minlength=len(distinct)).astype(np.float64)
    stride = -(-len(distinct) // _MOST_CODES)
    distinct, share = distinct[::stride], share[::stride] / share[::stride].sum()
    n_codes = len(distinct)
    width = codes.shape[1]
    if _CODES_PER_PARAMETER_OF_TWO * (2 + width * (width + 3)) > n_codes:  # there is no room for two components
        return GaussianDensity.of(*moments)
    look = _Decoded(distinct, share, decode, spread)
    candidates: list[MixtureDensity] = []
    values: list[float] = []

    @cache
    def error(i: int) -> float:
        return look.error_of(candidates[i])

    def in_order() -> list[int]:
        return sorted(range(len(values)), key=lambda i: -values[i])

    for density, log_likelihood in _grow(distinct, share, moments):
        candidates.append(density)
        values.append(log_likelihood - 0.5 * np.log(n_codes) * density.n_parameters / n_codes)
        # Draws are decoded where it matters, the best candidate's first, which mostly settles it.
        if len(values) > 1 and values[-1] <= max(values[:-1]) and any(error(i) <= 1.0 for i in in_order()):
            break
    first = next((i for i in in_order() if error(i) <= _ALIKE), None)
    most = 1.0 if first is not None and error(first) <= 1.0 else max(1.0, _ALIKE * min(map(error, range(len(values)))))
    best = next(i for i in in_order() if error(i) <= most)
    return candidates[best] if best else GaussianDensity.of(*moments)


def grow_by_evidence(codes: np.ndarray, share: np.ndarray, floor: float, most: int) -> MixtureDensity:
    """Fit a mixture of few components, by halving them as long as Bayes' information criterion rises.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_components)
    share : ndarray of shape (n_samples,)
        Weights of the codes, which add up to 1.
    floor : float
        Variance that is added in every direction.
    most : int
        Largest number of components.
    """
    n_codes, width = codes.shape
    mean = share @ codes
    apart = codes - mean
    covariance = (apart.T * share) @ apart + floor * np.eye(width)
    best = density = MixtureDensity.of(np.ones(1), mean[np.newaxis], covariance[np.newaxis])
    penalty = 0.5 * np.log(n_codes) / n_codes
    evidence = float(share @ density.score_samples(codes)) - penalty * density.n_parameters
    while 2 * len(density.weights_) <= most:
        density = _halved(density)
        if _CODES_PER_PARAMETER_OF_TWO * density.n_parameters > n_codes:
            break
        density = _maximized(density, codes, share, covariance)
        now = float(share @ density.score_samples(codes)) - penalty * density.n_parameters
        if now <= evidence:
            break
        best, evidence = density, now
    return best


class _Decoded:
    """What draws of a density are decoded to, beside what codes are."""

    def __init__(self, codes: np.ndarray, share: np.ndarray, decode: Callable[[np.ndarray], np.ndarray], spread: np.ndarray):
        most = min(_MOST_DRAWS, _DRAWS_PER_CODE * len(codes), _DRAWN_NUMBERS // len(spread))
        self._n_draws = 2 * (max(_FEWEST_DRAWS, most) // 2)
        stride = -(-len(codes) // self._n_draws)
        codes, share = codes[::stride], share[::stride] / share[::stride].sum()
        self._varying, self._decode = spread > 0.0, decode
        self._spread = spread[self._varying]
        self._mean, self._std = self._moments(codes, share)

    def _moments(self, codes: np.ndarray, share: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations of the columns of what codes are decoded to, in units of those of the rows."""
        rows = np.asarray(self._decode(codes), dtype=np.float64)
        share = np.full(len(rows), 1.0 / len(rows)) if share is None else share
        mean = np.einsum("i,ij->j", share, rows)
        variance = np.zeros_like(mean)
        for part in row_blocks(*rows.shape, _CACHED_NUMBERS):
            away = rows[part] - mean
            variance += np.einsum("i,ij->j", share[part], np.square(away, out=away))
        return mean[self._varying] / self._spread, np.sqrt(variance[self._varying]) / self._spread

    def error_of(self, density: MixtureDensity) -> float:
        """Largest error in the moments of a column, in units of those that are allowed."""
        if not len(self._spread):
            return 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            mean, std = self._moments(density.even_draws(self._n_draws, _SEED))
            error = max(np.abs(mean - self._mean).max() / _MEAN_ERROR, np.abs(std - self._std).max() / _STD_ERROR)
        return float(error) if np.isfinite(error) else np.inf


def _grow(codes: np.ndarray, share: np.ndarray, moments: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[MixtureDensity, float]]:
    """Mixtures of ever more components, and the mean log-likelihood of the codes, beginning with one Gaussian."""
    mean, covariance = moments
    gaussian = density = MixtureDensity.of(np.ones(1), mean[np.newaxis], covariance[np.newaxis])
    while True:
        whole = density if density is gaussian else _joined(density, gaussian)
        yield whole, float(share @ _log_sum_exp(whole.log_joint(codes)))
        density = _halved(density)
        if len(density.weights_) > _MOST_COMPONENTS or _CODES_PER_PARAMETER * density.n_parameters > len(codes):
            return
        density = _with_moments(_maximized(density, codes, share, covariance), mean, covariance)


def _joined(density: MixtureDensity, background: MixtureDensity) -> MixtureDensity:
    """Mixture with a background of the same moments."""
    weights = np.append((1.0 - _BACKGROUND) * density.weights_, _BACKGROUND * background.weights_)
    pairs = ((density.means_, background.means_), (density.covariances_, background.covariances_))
    return MixtureDensity.of(weights, *map(np.concatenate, pairs))


def _halved(density: MixtureDensity) -> MixtureDensity:
    """Every component as two, side by side along its longest axis."""
    variance, axes = np.linalg.eigh(density.covariances_)
    largest = axes[:, :, -1]
    largest = largest * np.where(largest[np.arange(len(largest)), np.abs(largest).argmax(axis=1)] < 0.0, -1.0, 1.0)[:, np.newaxis]
    step = _APART * np.sqrt(np.maximum(variance[:, -1:], 0.0)) * largest
    covariances = density.covariances_ - step[:, :, np.newaxis] * step[:, np.newaxis]
    means = np.concatenate([density.means_ - step, density.means_ + step])
    return MixtureDensity.of(np.tile(0.5 * density.weights_, 2), means, np.tile(covariances, (2, 1, 1)))


def _maximized(density: MixtureDensity, codes: np.ndarray, share: np.ndarray, covariance: np.ndarray) -> MixtureDensity:
    """Expectation-maximization, with covariances that begin with what a few codes as far apart as all say."""
    n_codes, width = codes.shape
    n_mixed = len(density.weights_)
    prior = (width + _PRIOR_CODES) / n_codes
    begin = prior * n_mixed ** (-2.0 / width) * covariance
    # Centered, so that little is lost where the square of a mean is taken from a mean of squares.
    center = share @ codes
    apart = codes - center
    row, column = np.tril_indices(width)
    powers = np.concatenate([apart, apart[:, row] * apart[:, column]], axis=1)
    before = -np.inf
    for _ in range(_ITERATIONS):
        shares, total = _shares(density.log_joint(codes))
        now = float(share @ total)
        if now - before < _TOLERANCE:
            break
        before = now
        taken = np.ascontiguousarray(shares.T) * share
        weights = np.maximum(taken.sum(axis=1), 1e-12)
        sums = _product(taken, powers)
        means = sums[:, :width] / weights[:, np.newaxis]
        scatter = np.empty_like(density.covariances_)
        scatter[:, row, column] = sums[:, width:]
        scatter[:, column, row] = scatter[:, row, column]
        scatter -= weights[:, np.newaxis, np.newaxis] * means[:, :, np.newaxis] * means[:, np.newaxis]
        covariances = (scatter + begin) / (weights + prior)[:, np.newaxis, np.newaxis]
        density = MixtureDensity.of(weights / weights.sum(), center + means, covariances)
    return density


def _with_moments(density: MixtureDensity, mean: np.ndarray, covariance: np.ndarray) -> MixtureDensity:
    """Move and stretch a mixture such that it has these moments as a whole."""
    stretch = np.linalg.cholesky(covariance) @ np.linalg.inv(np.linalg.cholesky(density.covariance_))
    means = mean + (density.means_ - density.mean_) @ stretch.T
    return MixtureDensity.of(density.weights_, means, stretch @ density.covariances_ @ stretch.T)


def _squares(whitening: np.ndarray, columns: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Squared distances of codes ``(width, n)`` from means ``(n_mixed, width)``, where they are white, ``(n_mixed, n)``."""
    squares = np.zeros((len(means), columns.shape[1]))
    for c, mean in enumerate(means):
        for i in range(len(mean)):
            white = whitening[c, i, 0] * (columns[0] - mean[0])
            for j in range(1, i + 1):
                white += whitening[c, i, j] * (columns[j] - mean[j])
            squares[c] += white * white
    return squares


def _squares_by_product(whitening: np.ndarray, columns: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the same by one matrix product, of as many codes at once as the processor's cache has room for."""
    n_mixed, width = means.shape
    center = means.mean(axis=0)
    offset = np.matmul(whitening, (center - means)[:, :, np.newaxis])
    together = np.concatenate([whitening, offset], axis=2).reshape(-1, width + 1)
    columns = np.concatenate([columns - center[:, np.newaxis], np.ones((1, columns.shape[1]))])
    squares = np.empty((n_mixed, columns.shape[1]))
    size = max(1, _ALONE // together.size)
    for start in range(0, columns.shape[1], size):
        white = together @ columns[:, start : start + size]
        np.square(white, out=white).reshape(n_mixed, width, -1).sum(axis=1, out=squares[:, start : start + size])
    return squares


def _product(taken: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Product of matrices ``(n_mixed, n)`` and ``(n, n_powers)``, by one thread."""
    size = max(1, _ALONE // (len(taken) * powers.shape[1]))
    total = np.zeros((len(taken), powers.shape[1]))
    for start in range(0, len(powers), size):
        total += taken[:, start : start + size] @ powers[start : start + size]
    return total


def _log_sum_exp(joint: np.ndarray) -> np.ndarray:
    return _shares(joint)[1]


def _shares(joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of each component in every code's density ``(n, n_mixed)``, and its logarithm ``(n,)``."""
    highest = joint.max(axis=1)
    shares = np.exp(joint - highest[:, np.newaxis])
    total = shares.sum(axis=1)
    shares /= total[:, np.newaxis]
    return shares, highest + np.log(total)
