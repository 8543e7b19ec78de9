"""Probabilities of zeros and ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae import functional as fn
from skvae.data.sources import as_source
from skvae.modules.likelihoods.base import Likelihood, LikelihoodSpec, digits, zero_where_missing

_RARE = 1e-3  # share of ones by which rarer ones are taken for this rare
_SURE = 1e-6  # least probability of what is predicted not to happen
_SCALING_ERROR = 4.0  # units in the last place of one, by which scaling to the interval may miss it
_ROUNDING = 1e-6  # by which arithmetic may have missed the interval


class BernoulliLikelihood(Likelihood):
    """Probabilities for entries in [0, 1]; the data is taken as it is, neither shifted nor scaled."""

    has_noise = False
    is_density = False
    reads_raw = True
    is_location_family = False
    depends_on_threads = True
    energy = staticmethod(fn.bernoulli_energy)

    def information(self, output: Tensor) -> Tensor:
        probability = torch.sigmoid(output)
        return probability * (1.0 - probability)

    def residual(self, target: Tensor, output: Tensor) -> Tensor:
        """Difference between rows and their probabilities."""
        return target - torch.sigmoid(output)

    def response(self, x: Tensor) -> Tensor:
        """Logits by one Newton step from those of the columns' means."""
        mean = self.column("mean").to(x).clamp(_RARE, 1.0 - _RARE)
        return torch.logit(mean) + (x - mean) / (mean * (1.0 - mean))

    def score(self, residual: Tensor, information: Tensor) -> Tensor:
        """Gradient of the log-likelihood in the logits, which is the residual itself."""
        return residual

    def variance(self, output: Tensor) -> Tensor:
        return self.information(output)

    def mixture_moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a mixture, which is a Bernoulli distribution itself; see `Likelihood.mixture_moments`."""
        mean = self.expectation(output).mean(1)
        return mean, mean * (1.0 - mean)

    def surprise(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        mean = mean.clamp(_SURE, 1.0 - _SURE)
        missed = torch.xlogy(x, x / mean) + torch.xlogy(1.0 - x, (1.0 - x) / (1.0 - mean))
        return missed.clamp(min=0.0)

    def locate(self, output: Tensor) -> Tensor:
        """Logits, which are the decoder's output; constant columns have logits of their own."""
        return output

    def location_change(self, change: Tensor) -> Tensor:
        return change

    def expectation(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def deviance(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        target = self.units.standardize_exactly(X).clamp(0.0, 1.0)
        entropy = -(torch.xlogy(target, target) + torch.xlogy(1.0 - target, 1.0 - target))
        return zero_where_missing((fn.bernoulli_energy(target, output.cpu().double()) - entropy).clamp(min=0.0).numpy(), target)

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(torch.sigmoid(output), generator=generator)

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal numbers into zeros and ones, whose gradient is that of their probability."""
        probability = torch.sigmoid(output)
        drawn = (fn.normal_cdf(noise) < probability).to(probability)
        return drawn + (probability - probability.detach())

    def check(self, X: Any, name: Callable[[int], Any] = int) -> None:
        source = as_source(X)
        low, high = source.range()
        slack = _SCALING_ERROR * np.finfo(source.dtype).eps if source.dtype.kind == "f" else 0.0
        if low < -slack or high > 1.0 + slack:
            start = (
                f"likelihood='bernoulli' takes values in [0, 1], but X ranges from {digits(low, lambda x: x >= 0.0)} to "
                f"{digits(high, lambda x: x <= 1.0)}."
            )
            if low >= -_ROUNDING and high <= 1.0 + _ROUNDING:
                raise ValueError(f"{start} But for rounding, all entries are: pass np.clip(X, 0, 1).")
            hint = " Pixels from 0 to 255 are divided by 255 first." if low >= 0.0 and high <= 255.0 else ""
            raise ValueError(f"{start}{hint} Rescale X (MinMaxScaler) or choose likelihood='gaussian'.")


class Bernoulli(LikelihoodSpec):
    """Probabilities of zeros and ones, for X in [0, 1], which is taken as it is; there is no noise.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import Bernoulli, VAETransformer
    >>> X = np.eye(8)[np.arange(64) % 8]
    >>> VAETransformer(2, likelihood=Bernoulli(), max_epochs=2, random_state=0).fit(X).noise_scale_.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    name = "bernoulli"
    _module_class = BernoulliLikelihood
