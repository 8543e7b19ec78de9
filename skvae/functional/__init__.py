"""Pure functions on tensors: log-likelihoods, divergences, penalties and corruptions."""

from skvae.functional.contraction import (
    hutchinson_change,
    hutchinson_norm,
    jacobian,
    jacobian_change,
    jacobian_norm,
    layer_jacobian_change,
    layer_jacobian_norm,
)
from skvae.functional.corruption import add_gaussian, choose_entries, drop, mask, normal_cdf, salt_and_pepper
from skvae.functional.divergence import gaussian_kl
from skvae.functional.factors import (
    Factors,
    factor_analysis,
    least_squares,
    linear_denoiser,
    posterior_of_observed,
    principal_axes,
)
from skvae.functional.likelihood import (
    bernoulli_energy,
    bernoulli_log_prob,
    gaussian_energy,
    gaussian_log_normalizer,
    gaussian_log_prob,
    laplace_energy,
    laplace_log_normalizer,
    laplace_log_prob,
    normal_log_prob,
    squared_error,
    weighted_row_sum,
)
from skvae.functional.quantization import SEARCH_NUMBERS, nearest_codes, rotate_to, straight_through, sum_by_code
from skvae.functional.sparsity import bernoulli_kl, keep_largest, keep_largest_of_batch

__all__ = [
    "SEARCH_NUMBERS",
    "Factors",
    "add_gaussian",
    "bernoulli_energy",
    "bernoulli_kl",
    "bernoulli_log_prob",
    "choose_entries",
    "drop",
    "factor_analysis",
    "gaussian_energy",
    "gaussian_kl",
    "gaussian_log_normalizer",
    "gaussian_log_prob",
    "hutchinson_change",
    "hutchinson_norm",
    "jacobian",
    "jacobian_change",
    "jacobian_norm",
    "keep_largest",
    "keep_largest_of_batch",
    "laplace_energy",
    "laplace_log_normalizer",
    "laplace_log_prob",
    "layer_jacobian_change",
    "layer_jacobian_norm",
    "least_squares",
    "linear_denoiser",
    "mask",
    "nearest_codes",
    "normal_cdf",
    "normal_log_prob",
    "posterior_of_observed",
    "principal_axes",
    "rotate_to",
    "salt_and_pepper",
    "squared_error",
    "straight_through",
    "sum_by_code",
    "weighted_row_sum",
]
