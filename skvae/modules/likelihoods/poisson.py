"""Counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae.data.columns import ColumnStatistics
from skvae.data.sources import Source, as_source, row_blocks
from skvae.modules.likelihoods.base import Likelihood, LikelihoodSpec, digits, zero_where_missing
from skvae.modules.posterior import exact_dtype

_MAX_LOG_RATE = 30.0
_MAX_COUNT = 1e12  # of which single precision knows the nats well enough
_SERIES_FROM = 16.0
_PRIOR_COUNT = 0.5  # in a column, beside the counts themselves, so that one of zeros has a rate
_ANSCOMBE = 0.375
_MOST_STEPS = 64


def poisson_deviance(x: Tensor, location: Tensor) -> Tensor:
    r"""Nats by which counts fall short of the best rate, entry by entry: :math:`\lambda - x - x \log(\lambda/x)`.

    Large counts are close to their rates: what is left of the difference of large numbers is computed from the small one, the
    logarithm of their ratio.

    Parameters
    ----------
    x : Tensor
        Not negative.
    location : Tensor
        Logarithm of the rate.
    """
    positive = x > 0.0
    count = torch.where(positive, x, 1.0)
    distance = location - count.log()
    return torch.where(positive, count * (torch.expm1(distance) - distance), location.exp())


def _best_nats(x: Tensor) -> Tensor:
    r"""Nats of counts under the best rate, their own value: :math:`x - x \log x + \log x!`."""
    few = x < _SERIES_FROM
    small, large = torch.where(few, x, 1.0), torch.where(few, _SERIES_FROM, x)
    inverse = large.reciprocal()
    square = inverse.square()
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    return torch.where(
        few, small - torch.xlogy(small, small) + torch.lgamma(small + 1.0), 0.5 * (2.0 * math.pi * large).log() + series
    )


def poisson_energy(x: Tensor, location: Tensor) -> Tensor:
    r"""Negative log-probability of counts, entry by entry: :math:`\lambda - x \log \lambda + \log x!`.

    Parameters
    ----------
    x : Tensor
        Not negative.
    location : Tensor
        Logarithm of the rate.
    """
    return poisson_deviance(x, location) + _best_nats(x)


def poisson_quantile(rate: Tensor, noise: Tensor) -> Tensor:
    """Turn standard normal numbers into counts of the same quantile, exactly but for the rounding of double precision.

    Parameters
    ----------
    rate, noise : Tensor
        Of shapes that broadcast.

    Returns
    -------
    Tensor
        Smallest counts whose distribution function is no less than that of the normal numbers.
    """
    # Other devices than these have neither double precision nor the incomplete gamma function.
    device = rate.device if exact_dtype(rate) is torch.float64 else torch.device("cpu")
    wide, deviation = rate.to(device, torch.float64), noise.to(device, torch.float64)
    below = torch.special.ndtr(deviation).clamp(max=1.0 - 1e-15)
    # By the expansion of Cornish and Fisher, which is off by a few counts at most.
    count = (wide + deviation * wide.sqrt() + (deviation.square() - 1.0) / 6.0).floor().clamp(min=0.0)
    upto, mass = torch.special.gammaincc(count + 1.0, wide), torch.exp(-poisson_energy(count, wide.log()))
    for _ in range(_MOST_STEPS):
        up, down = upto < below, (count > 0.0) & (upto - mass >= below)
        if not (up | down).any():
            break
        following = mass * wide / (count + 1.0)
        upto = torch.where(up, upto + following, torch.where(down, upto - mass, upto))
        mass = torch.where(up, following, torch.where(down, mass * count / wide, mass))
        count = count + up.to(count) - (down & ~up).to(count)
    return count.to(rate)


class PoissonLikelihood(Likelihood):
    r"""Counts, whose rates are the exponential of a decoder's output over the columns' mean rates; there is no noise.

    Targets stay counts. The encoder reads standardized logarithms of them, which the few large ones do not dominate. What is
    compared, by anomaly scores and between rows, are square roots by Anscombe's rule, whose Poisson noise is one unit of
    standard deviation at any rate; columns that vary more than that are divided by how much they do [1]_.

    Parameters
    ----------
    n_features : int

    References
    ----------
    .. [1] Anscombe, "The transformation of Poisson, binomial and negative-binomial data", Biometrika 35, 1948.
    """

    has_noise = False
    is_density = False
    reads_raw = True
    is_location_family = False
    depends_on_threads = True
    passes_rows_on = False  # type: ignore[assignment]
    energy = staticmethod(poisson_energy)

    base: Tensor
    log_center: Tensor
    log_scale: Tensor
    root_scale: Tensor

    def __init__(self, n_features: int):
        super().__init__(n_features)
        self.register_buffer("base", torch.zeros(n_features))
        self.register_buffer("log_center", torch.zeros(n_features))
        self.register_buffer("log_scale", torch.ones(n_features))
        self.register_buffer("root_scale", torch.ones(n_features))

    # -- the columns --------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        sample_weight: NDArray[np.float64] | None = None,
        *,
        shared: bool | None = None,
        standardize: bool = True,
    ) -> PoissonLikelihood:
        """Measure the columns of `X`: mean rates, and what their logarithms and square roots look like; see `Likelihood.fit`."""
        super().fit(X, sample_weight, shared=shared, standardize=standardize)
        source = as_source(X)
        weight = np.ones(source.shape[0]) if sample_weight is None else sample_weight / sample_weight.mean()
        self._measure(np.arange(self.n_features), source, weight)
        return self

    def _extend(
        self,
        columns: NDArray[np.intp],
        statistics: ColumnStatistics,
        entries: NDArray[np.float64],
        weight: NDArray[np.float64],
    ) -> None:
        super()._extend(columns, statistics, entries, weight)
        self._measure(columns, as_source(entries), weight)

    def _measure(self, columns: NDArray[np.intp], source: Source, weight: NDArray[np.float64]) -> None:
        """Take note of what the counts of some columns look like, of which the source is made."""
        sums = np.zeros((6, len(columns)))  # entries, counts, logarithms and roots, each from those of the mean count, squares
        mean = np.maximum(self.units.state["mean"][columns], 0.0)
        log_mean, root_mean = np.log1p(mean), _root(mean)
        for rows in source.blocks():
            x = source.read_exactly(rows)
            seen = ~np.isnan(x)
            x = np.where(seen, np.maximum(x, 0.0), mean)
            logs, roots = np.log1p(x) - log_mean, _root(x) - root_mean
            for total, part in zip(sums, (seen, x * seen, logs, logs**2, roots, roots**2), strict=True):
                total += weight[rows] @ part
        n, counts, *moments = sums
        n = np.maximum(n, np.finfo(np.float64).tiny)
        log_shift, log_square, root_shift, root_square = (moment / n for moment in moments)
        # One count more or less at the mean is what a column may be too coarse to vary by; as `ColumnStatistics` has it.
        coarse = np.log1p(1.0 / (1.0 + mean)) / math.sqrt(12.0)
        log_spread = np.sqrt(np.maximum(log_square - log_shift**2, 0.0))
        root_spread = np.sqrt(np.maximum(root_square - root_shift**2, 0.0))
        base = np.log((counts + _PRIOR_COUNT) / np.maximum(n, 1.0))
        for buffer, values in (
            (self.base, base),
            (self.log_center, log_mean + log_shift),
            (self.log_scale, np.maximum(log_spread, coarse)),
            (self.root_scale, np.maximum(root_spread, 1.0)),
        ):
            buffer[columns] = torch.from_numpy(values).to(buffer)

    def check(self, X: Any, name: Callable[[int], Any] = int) -> None:
        source = as_source(X)
        values = source.stored()
        blocks = list(row_blocks(len(values), int(np.prod(values.shape[1:], dtype=int))))
        if not any(_is_no_count(values[rows]).any() for rows in blocks):
            return
        for rows in source.blocks():
            block = source.read(rows).reshape(-1, source.shape[-1])
            wrong = np.argwhere(_is_no_count(block))
            if len(wrong):
                row, column = wrong[0]
                rounds = all(_is_count_but_for_rounding(values[part]).all() for part in blocks)
                raise ValueError(_complaint(name(int(column)), float(block[row, column]), rounds=rounds))

    # -- between rows and networks ------------------------------------------------------------------------------------

    def read(self, x: Tensor, columns: Tensor | slice = slice(None)) -> Tensor:
        """Return standardized logarithms of counts; what a corruption makes negative counts as zero."""
        return (torch.log1p(x.clamp(min=0.0)) - self.log_center.to(x)[columns]) / self.log_scale.to(x)[columns]

    def locate(self, output: Tensor) -> Tensor:
        """Logarithms of rates; those of constant columns stay put."""
        return (self.location_change(output) + self.base.to(output)).clamp(-_MAX_LOG_RATE, _MAX_LOG_RATE)

    def expectation(self, output: Tensor) -> Tensor:
        return self.locate(output).exp()

    def comparable(self, x: Tensor) -> Tensor:
        return 2.0 * (x.clamp(min=0.0) + _ANSCOMBE).sqrt() / self.root_scale.to(x)

    def from_comparable(self, x: Tensor) -> NDArray[np.float64]:
        counts = (0.5 * x.cpu().double() * self.root_scale.cpu().double()).square() - _ANSCOMBE
        return self.rescale(counts.round().clamp(min=0.0))

    # -- losses and scores --------------------------------------------------------------------------------------------

    def information(self, output: Tensor) -> Tensor:
        return self.expectation(output)

    def residual(self, target: Tensor, output: Tensor) -> Tensor:
        """Difference between rows and their rates."""
        return target - self.expectation(output)

    def shortfall(self, target: Tensor, output: Tensor) -> Tensor:
        """Difference of the logarithms of rows and rates, half a count added to both."""
        return torch.log((target.clamp(min=0.0) + 0.5) / (self.expectation(output) + 0.5))

    def score(self, residual: Tensor, information: Tensor) -> Tensor:
        """Gradient of the log-likelihood in the logarithms of rates, which is the residual itself."""
        return residual

    def variance(self, output: Tensor) -> Tensor:
        return self.expectation(output)

    def surprise(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        r"""Nats by which counts fall short of the best, under a negative binomial distribution of this mean and variance.

        That is what Poisson distributions mix to where their rates follow a gamma distribution, and one of them where the
        variance is the mean.
        """
        mean = mean.clamp(min=torch.finfo(mean.dtype).tiny)
        excess = (variance - mean).clamp(min=1e-6 * mean)
        size = mean / (excess / mean)
        near = (x - mean) / (mean + size)
        positive = x > 0.0
        ratio = torch.where(positive, x, mean) / mean
        return (x * ratio.log() - (x + size) * torch.log1p(near)).clamp(min=0.0)

    def deviance(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        target = self.units.standardize_exactly(X)
        location = self.locate(output).cpu().double()
        return zero_where_missing(poisson_deviance(target.clamp(min=0.0), location).clamp(min=0.0).numpy(), target)

    # -- draws --------------------------------------------------------------------------------------------------------

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        rate = self.expectation(output)
        if exact_dtype(rate) is torch.float64:
            return torch.poisson(rate, generator=generator)
        return poisson_quantile(rate, torch.randn(rate.shape, generator=generator, device=rate.device, dtype=rate.dtype))

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal numbers into counts, whose gradient is that of their rate."""
        rate = self.expectation(output)
        drawn = poisson_quantile(rate.detach(), noise)
        return drawn + (rate - rate.detach())


_ROUNDING = 1e-6  # relative error by which arithmetic may have missed a count


def _root(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 2.0 * np.sqrt(x + _ANSCOMBE)


def _is_no_count(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell entries that are no counts; those that are missing, NaN, may be."""
    if values.dtype.kind == "b":
        return np.zeros(values.shape, dtype=bool)
    wrong: NDArray[np.bool_] = (values < 0) | (values > _MAX_COUNT)
    if values.dtype.kind == "f":
        wrong |= (np.floor(values) != values) & ~np.isnan(values)
    return wrong


def _is_count_but_for_rounding(values: NDArray[Any]) -> NDArray[np.bool_]:
    nearest = np.round(values)
    tolerance = np.minimum(_ROUNDING * np.maximum(nearest, 1.0), 0.1)
    close: NDArray[np.bool_] = (values >= nearest - tolerance) & (values <= nearest + tolerance) & ~_is_no_count(nearest)
    close |= np.isnan(values)
    return close


def _complaint(column: Any, value: float, *, rounds: bool) -> str:
    shown = digits(value, lambda count: not _is_no_count(np.asarray(count)))
    start = f"likelihood='poisson' takes counts, the integers from 0 to {_MAX_COUNT:.0e}, but column {column!r} of X has {shown}."
    if rounds:
        return f"{start} But for rounding, all entries are counts: pass np.round(X)."
    if value > _MAX_COUNT:
        return f"{start} Choose likelihood='gaussian' for what is as large, perhaps of its logarithm."
    if value < 0.0:
        return f"{start} Leave counts as they are, neither centered nor scaled, or choose likelihood='gaussian'."
    return f"{start} Leave counts as they are, neither scaled nor turned into shares, or choose likelihood='gaussian'."


class Poisson(LikelihoodSpec):
    """Counts, for X of integers that are not negative, which is taken as it is; there is no noise.

    Scores are logarithms of probabilities, samples are integers, and means are rates. Counts that vary more than a Poisson
    distribution's, as those of words and of genes do, are left to the code to explain.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import Poisson, VAETransformer
    >>> X = np.random.default_rng(0).poisson([1.0, 20.0, 300.0], size=(64, 3))
    >>> vae = VAETransformer(1, likelihood=Poisson(), max_epochs=2, random_state=0).fit(X)
    >>> bool((vae.sample(100) % 1 == 0).all())
    True
    """

    name = "poisson"
    _module_class = PoissonLikelihood
