"""Pure functions on tensors: log-likelihoods and divergences, one value per row."""

from skvae.functional.divergence import gaussian_kl
from skvae.functional.likelihood import (
    bernoulli_energy,
    bernoulli_log_prob,
    gaussian_energy,
    gaussian_log_normalizer,
    gaussian_log_prob,
    laplace_energy,
    laplace_log_normalizer,
    laplace_log_prob,
    squared_error,
    weighted_row_sum,
)

__all__ = [
    "bernoulli_energy",
    "bernoulli_log_prob",
    "gaussian_energy",
    "gaussian_kl",
    "gaussian_log_normalizer",
    "gaussian_log_prob",
    "laplace_energy",
    "laplace_log_normalizer",
    "laplace_log_prob",
    "squared_error",
    "weighted_row_sum",
]
