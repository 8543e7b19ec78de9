"""Probabilities of zeros and ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae import functional as fn
from skvae.data.columns import ColumnStatistics, has_missing
from skvae.modules.likelihoods.base import Likelihood, LikelihoodSpec, zero_where_missing


class BernoulliLikelihood(Likelihood):
    """Probabilities for entries in [0, 1]; the data is taken as it is, neither shifted nor scaled."""

    has_noise = False
    energy = staticmethod(fn.bernoulli_energy)
    log_normalizer = staticmethod(lambda weight: weight.new_zeros(()))
    unit_weight = 1.0

    def fit(
        self,
        X: Any,
        sample_weight: NDArray[np.float64] | None = None,
        *,
        shared: bool | None = None,
        standardize: bool = True,
    ) -> BernoulliLikelihood:
        columns = ColumnStatistics.of(X, sample_weight)
        self._set_columns(
            {
                "shift": np.where(columns.constant, columns.shift, 0.0),
                "scale": np.ones(self.n_features),
                "is_constant": columns.constant,
                "shared": False,
                **columns.summary(),
            }
        )
        self.varying.copy_(torch.from_numpy(~columns.constant))
        return self

    def information(self, output: Tensor) -> Tensor:
        probability = torch.sigmoid(output)
        return probability * (1.0 - probability)

    def residual(self, target: Tensor, output: Tensor) -> Tensor:
        """Difference between rows and their probabilities."""
        return target - torch.sigmoid(output)

    def _standardize_wide(self, X: Any, rows: Any = slice(None)) -> Tensor:
        return self._block(X, rows).to(torch.float64, copy=True)

    def locate(self, output: Tensor) -> Tensor:
        return output

    def expectation(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    def _to_data(self, x: Tensor) -> NDArray[np.float64]:
        return self._restore_constants(torch.sigmoid(x).cpu().numpy().astype(np.float64))

    def deviance(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        target = self._standardize_wide(X)
        entropy = -(torch.xlogy(target, target) + torch.xlogy(1.0 - target, 1.0 - target))
        return zero_where_missing((fn.bernoulli_energy(target, output.cpu().double()) - entropy).clamp(min=0.0).numpy(), target)

    def errors(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        return self._beside(X, torch.sigmoid(output.cpu().double()))

    def noise_scale(self) -> NDArray[np.float64]:
        return np.zeros(self.n_features)

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(torch.sigmoid(output), generator=generator)

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal numbers into zeros and ones, whose gradient is that of their probability."""
        probability = torch.sigmoid(output)
        drawn = (fn.normal_cdf(noise) < probability).to(probability)
        return drawn + (probability - probability.detach())

    def rescale(self, x: Tensor) -> NDArray[np.float64]:
        return self._restore_constants(x.cpu().numpy().astype(np.float64))

    def check(self, X: Any) -> None:
        low, high = _range(X)
        if low < 0.0 or high > 1.0:
            hint = " Pixels from 0 to 255 are divided by 255 first." if low >= 0.0 and high <= 255.0 else ""
            raise ValueError(
                f"likelihood='bernoulli' takes values in [0, 1], but X ranges from {low:g} to {high:g}.{hint} "
                "Rescale X (MinMaxScaler) or choose likelihood='gaussian'."
            )


def _range(X: Any) -> tuple[float, float]:
    """Smallest and largest entry that is not missing, of an array or CSR matrix."""
    if not has_missing(X):
        return float(X.min()), float(X.max())
    values = X.data if hasattr(X, "toarray") else X
    low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    return (min(low, 0.0), max(high, 0.0)) if hasattr(X, "toarray") else (low, high)


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
