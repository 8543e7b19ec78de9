"""A trained module at work on a table."""

from skvae.inference.codes import code_shares, code_usage
from skvae.inference.importance import effective_sample_size, log_mean_exp, log_weights
from skvae.inference.measure import fit_noise, has_structure, latent_usage, measure_scale, start, widen_noise
from skvae.inference.rows import (
    codes_from_noise,
    decode,
    deviance,
    draw,
    embed_codes,
    encode,
    errors,
    find_codes,
    jacobian_norm,
    keep_levels,
    log_likelihood,
    log_prob_given,
    posterior,
    preactivate,
    prior_moments,
    training_codes,
)
from skvae.inference.runner import misses_entries

__all__ = [
    "code_shares",
    "code_usage",
    "codes_from_noise",
    "decode",
    "deviance",
    "draw",
    "effective_sample_size",
    "embed_codes",
    "encode",
    "errors",
    "find_codes",
    "fit_noise",
    "has_structure",
    "jacobian_norm",
    "keep_levels",
    "latent_usage",
    "log_likelihood",
    "log_mean_exp",
    "log_prob_given",
    "log_weights",
    "measure_scale",
    "misses_entries",
    "posterior",
    "preactivate",
    "prior_moments",
    "start",
    "training_codes",
    "widen_noise",
]
