"""Filling in what is missing of a row, from the posterior of its code given the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from skvae.training.inference import place
from skvae.training.randomness import make_generator, private_randomness
from skvae.training.threads import threads_for

_PRIOR_DRAWS = 128  # codes that chains start among
_CHUNK_NUMBERS = 2**23


def complete(
    module: nn.Module,
    X: Any,
    observed: np.ndarray,
    condition: np.ndarray,
    device: torch.device,
    seed: int,
    *,
    n_chains: int,
    n_steps: int,
    mean: bool,
) -> np.ndarray:
    """Run Markov chains whose stationary distribution is p(z, x_missing | x_observed, c) [1]_.

    A chain starts at one of many draws from the prior, chosen by importance. Its steps are, in turn, proposals from the
    encoder at the completed row and random walks, both accepted by the rule of Metropolis and Hastings.

    Parameters
    ----------
    module : CVAEModule
    X : ndarray of shape (n_samples, n_features)
    observed : ndarray of bool, shape (n_samples, n_features)
    condition : ndarray of shape (n_samples, n_conditions)
    device : torch.device
    seed : int
    n_chains, n_steps : int
    mean : bool
        Decoder's means instead of draws from the likelihood.

    Returns
    -------
    ndarray of shape (n_samples, n_chains, n_features)
        What the chains end at; with `mean`, the decoder's means over the second half of every chain. Nothing but the
        missing entries is meant to be used.

    References
    ----------
    .. [1] Mattei and Frellsen, "Leveraging the exact likelihood of deep latent variable models", NeurIPS 2018.
    """
    place(module, device)
    generator = make_generator(seed, device)
    size = max(1, _CHUNK_NUMBERS // (module.widest_layer * max(n_chains, _PRIOR_DRAWS)))
    results = []
    with torch.no_grad(), threads_for(module, size * n_chains), private_randomness(module, seed):
        for start in range(0, len(X), size):
            rows = slice(start, start + size)
            x = module.likelihood.standardize(X, rows).to(device)
            seen, told = (torch.from_numpy(a[rows].astype(np.float32)).to(device) for a in (observed, condition))
            results.append(_chains(module, x, seen, told, generator, n_chains, n_steps, mean))
    return np.concatenate(results)


def _chains(module, x, observed, condition, generator, n_chains, n_steps, mean) -> np.ndarray:
    likelihood, n_rows = module.likelihood, len(x)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=x.device)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=x.device).clamp(1e-20, 1.0 - 1e-7)

    def per_chain(values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(n_chains, dim=0)

    def given_all(rows: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log of p(x, z | c) up to a constant of whole rows, one per chain, and the decoder's output."""
        values, decoded = module.log_posterior(rows, torch.ones_like(rows), z.flatten(0, 1).unsqueeze(1), told)
        return values.view(n_rows, n_chains), decoded.view(n_rows, n_chains, -1)

    is_seen, rows_given, told = per_chain(observed) > 0.0, per_chain(x), per_chain(condition)
    prior_mean, prior_log_var = (moment.unsqueeze(1) for moment in module.prior_moments(condition))
    prior_std = torch.exp(0.5 * prior_log_var)
    z = prior_mean + prior_std * normal(n_rows, _PRIOR_DRAWS, module.n_components)
    # What is left of the weights once the prior, which the codes were drawn from, is divided out.
    log_weight = module.log_posterior(x, observed, z, condition)[0] - module.conditional_log_prior(z, condition)
    gumbel = -torch.log(-torch.log(uniform(n_rows, n_chains, _PRIOR_DRAWS)))
    chosen = (log_weight.unsqueeze(1) + gumbel).argmax(-1, keepdim=True)
    z = z.gather(1, chosen.expand(-1, -1, module.n_components))
    here, output = module.log_posterior(x, observed, z, condition)
    means, n_averaged = np.zeros((n_rows * n_chains, module.n_features)), 0
    for step in range(n_steps):
        if step % 2 == 0:
            rows = torch.where(is_seen, rows_given, likelihood.scatter(output.flatten(0, 1), generator))
            mean_q, log_var_q = (moment.view(z.shape) for moment in module.posterior(rows, told))
            proposal = mean_q + torch.exp(0.5 * log_var_q) * normal(*z.shape)
            log_ratio = given_all(rows, proposal)[0] - given_all(rows, z)[0]
            log_ratio += module.log_proposal(mean_q, log_var_q, z) - module.log_proposal(mean_q, log_var_q, proposal)
            there, decoded = module.log_posterior(x, observed, proposal, condition)
        else:
            # Posteriors may be narrow or as wide as the prior: steps of many sizes.
            width = torch.exp(-3.0 * uniform(n_rows, n_chains, 1)) / module.n_components**0.5
            proposal = z + prior_std * width * normal(*z.shape)
            there, decoded = module.log_posterior(x, observed, proposal, condition)
            log_ratio = there - here
        accepted = torch.log(uniform(n_rows, n_chains)) < log_ratio
        here = torch.where(accepted, there, here)
        z, output = (torch.where(accepted.unsqueeze(-1), new, old) for new, old in ((proposal, z), (decoded, output)))
        if mean and 2 * step >= n_steps:
            means += likelihood.mean(output.flatten(0, 1))
            n_averaged += 1
    rows = means / n_averaged if mean else likelihood.draw(output.flatten(0, 1), generator)
    return rows.reshape(n_rows, n_chains, -1)
