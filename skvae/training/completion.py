"""Filling in what is missing of a row, from the posterior of its code given the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from skvae.functional import normal_log_prob
from skvae.training.cudnn import steady
from skvae.training.inference import place
from skvae.training.randomness import make_generator, private_randomness
from skvae.training.threads import threads_for

_PRIOR_DRAWS = 128  # codes that chains start among
_CLIMBS, _SMALL_GAIN = 8, 0.1  # steps towards a mode at most; nats
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

    A chain starts at one of many draws from the prior, chosen by importance, and climbs to a mode of the posterior of the code.
    Its steps are, in turn, draws from the Gaussian approximation around that mode, from the encoder at the completed row, and
    random walks, all accepted by the rule of Metropolis and Hastings.

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
    size = max(1, _CHUNK_NUMBERS // (module.widest_layer * max(n_chains * module.n_components, _PRIOR_DRAWS)))
    results = []
    with torch.no_grad(), threads_for(module, size * n_chains), steady(device), private_randomness(module, seed):
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

    start = _start(module, x, observed, condition, n_chains, normal, uniform)
    x, observed, condition = (rows.repeat_interleave(n_chains, dim=0) for rows in (x, observed, condition))
    is_seen, all_of_it = observed > 0.0, torch.ones_like(observed)

    def density(z: torch.Tensor, rows: torch.Tensor = x, seen: torch.Tensor = observed) -> tuple[torch.Tensor, torch.Tensor]:
        """Log of p(what is seen, z | c) up to a constant of the row, and the decoder's output."""
        values, decoded = module.log_posterior(rows, seen, z.unsqueeze(1), condition)
        return values[:, 0], decoded[:, 0]

    z = centre = _climb(module, x, observed, condition, start, density)
    here, output = density(z)
    factor = _factor(module.newton(x, observed, z, output, condition)[1])
    means, n_averaged = np.zeros(x.shape), 0
    for step in range(n_steps):
        if step % 3 == 0:  # a draw from the Gaussian around the mode
            proposal = centre + _colored(normal(*z.shape), factor)
            log_ratio = _log_density(z - centre, factor) - _log_density(proposal - centre, factor)
        elif step % 3 == 1:  # one from the encoder, told a row that is completed by what the decoder makes of the code
            rows = torch.where(is_seen, x, likelihood.scatter(output, generator))
            mean_q, log_var_q = module.posterior(rows, condition)
            proposal = mean_q + torch.exp(0.5 * log_var_q) * normal(*z.shape)
            log_ratio = normal_log_prob(z, mean_q, log_var_q) - normal_log_prob(proposal, mean_q, log_var_q)
        else:  # a step at random, of many sizes
            width = 2.4 / module.n_components**0.5 * torch.exp(-2.0 * uniform(len(z), 1))
            proposal = z + width * _colored(normal(*z.shape), factor)
            log_ratio = torch.zeros_like(here)
        there, decoded = density(proposal)
        log_ratio += density(proposal, rows, all_of_it)[0] - density(z, rows, all_of_it)[0] if step % 3 == 1 else there - here
        accepted = torch.log(uniform(len(z))) < log_ratio
        here = torch.where(accepted, there, here)
        z, output = (torch.where(accepted.unsqueeze(-1), new, old) for new, old in ((proposal, z), (decoded, output)))
        if mean and 2 * step >= n_steps:
            means += likelihood.mean(output)
            n_averaged += 1
    rows = means / n_averaged if mean else likelihood.draw(output, generator)
    return rows.reshape(n_rows, n_chains, -1)


def _start(module, x, observed, condition, n_chains, normal, uniform) -> torch.Tensor:
    """Choose from draws from the prior by importance, ``(n * n_chains, n_components)``."""
    mean, log_var = (moment.unsqueeze(1) for moment in module.prior_moments(condition))
    z = mean + torch.exp(0.5 * log_var) * normal(len(x), _PRIOR_DRAWS, module.n_components)
    # What is left of the weights once the prior, which the codes were drawn from, is divided out.
    log_weight = module.log_posterior(x, observed, z, condition)[0] - module.conditional_log_prior(z, condition)
    gumbel = -torch.log(-torch.log(uniform(len(x), n_chains, _PRIOR_DRAWS)))
    chosen = (log_weight.unsqueeze(1) + gumbel).argmax(-1, keepdim=True)
    return z.gather(1, chosen.expand(-1, -1, module.n_components)).flatten(0, 1)


def _climb(module, x, observed, condition, z, density) -> torch.Tensor:
    """Move codes ``(n, n_components)`` to modes of their posterior, by the method of Levenberg and Marquardt."""
    damping = torch.zeros(len(z), 1, device=z.device)
    here, output = density(z)
    for _ in range(_CLIMBS):
        gradient, precision = module.newton(x, observed, z, output, condition)
        factor = _factor(precision + torch.diag_embed(damping * precision.diagonal(dim1=-2, dim2=-1)))
        higher = z + torch.cholesky_solve(gradient.unsqueeze(-1).to(factor), factor).squeeze(-1).to(z)
        there, decoded = density(higher)
        is_there = bool(((there - here).abs() < _SMALL_GAIN).all())
        better = (there > here).unsqueeze(-1)
        damping = torch.where(better, 0.1 * damping, (10.0 * damping).clamp(min=0.1))
        here = torch.where(better[:, 0], there, here)
        z, output = (torch.where(better, new, old) for new, old in ((higher, z), (decoded, output)))
        if is_there:
            break
    return z


def _factor(precision: torch.Tensor) -> torch.Tensor:
    """Cholesky factors of precision matrices ``(n, k, k)``."""
    factor, failed = torch.linalg.cholesky_ex(precision)
    diagonal = torch.diag_embed(precision.diagonal(dim1=-2, dim2=-1).sqrt())
    return torch.where((failed > 0)[:, None, None], diagonal, factor)


def _colored(noise: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Give standard normal numbers ``(n, k)`` the precision whose Cholesky factor is `factor`."""
    drawn: torch.Tensor = torch.linalg.solve_triangular(factor.mT, noise.unsqueeze(-1).to(factor), upper=True)
    return drawn.squeeze(-1).to(noise)


def _log_density(deviation: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Log-density of a Gaussian of this precision, up to a constant of the row."""
    white = (deviation.unsqueeze(1).to(factor) @ factor).squeeze(1)
    return -0.5 * white.square().sum(-1).to(deviation)
