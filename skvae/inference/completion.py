"""Filling in what is missing of a row, from the posterior of its code given the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from skvae.data import Table
from skvae.inference.runner import chunks, place
from skvae.modules import Batch, CVAEModule
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import make_generator, private_randomness
from skvae.runtime.threads import threads_for

Draw = Callable[..., torch.Tensor]
Density = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

_PRIOR_DRAWS = 128  # codes that chains start among
_CLIMBS, _SMALL_GAIN = 8, 0.1  # steps towards a mode at most; nats
_CHUNK_NUMBERS = 2**23


def complete(
    module: CVAEModule,
    table: Table,
    observed: np.ndarray,
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
    table : Table
        Rows, with a condition for each.
    observed : ndarray of bool, shape (n_samples, n_features)
        True for the entries that are given; all others are drawn, whatever the table holds there.
    device : torch.device
    seed : int
    n_chains, n_steps : int
    mean : bool
        Decoder's means instead of draws from the likelihood.

    Returns
    -------
    ndarray of shape (n_samples, n_chains, n_features)
        What the chains end at; with `mean`, the decoder's means over the second half of every chain. Only missing entries are
        of use.

    References
    ----------
    .. [1] Mattei and Frellsen, "Leveraging the exact likelihood of deep latent variable models", NeurIPS 2018.
    """
    size = max(1, _CHUNK_NUMBERS // (module.widest_layer * max(n_chains * module.n_components, _PRIOR_DRAWS)))
    generator = make_generator(seed, device)
    place(module, device)
    results = []
    with torch.no_grad(), threads_for(module, size * n_chains), steady(device), private_randomness(module, seed):
        for rows in chunks(table.n_rows, size):
            x = module.likelihood.standardize(table.source, rows).to(device)
            given = torch.from_numpy(table.condition[rows].astype(np.float32)).to(device)
            batch = Batch.of(x, condition=given, observed=torch.from_numpy(observed[rows]).to(device))
            results.append(_chains(module, batch, generator, n_chains, n_steps, mean))
    return np.concatenate(results)


def _chains(module: CVAEModule, batch: Batch, generator: torch.Generator, n_chains: int, n_steps: int, mean: bool) -> np.ndarray:
    likelihood, n_rows = module.likelihood, len(batch.x)
    device = batch.x.device

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=device).clamp(1e-20, 1.0 - 1e-7)

    start = _start(module, batch, n_chains, normal, uniform)
    batch = batch.repeated(n_chains)
    everything = torch.ones_like(batch.observed)

    def density(z: torch.Tensor, batch: Batch = batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log of p(what is observed, z | c) up to a constant of the row, and the decoder's output."""
        values, decoded = module.log_posterior(batch, z.unsqueeze(1))
        return values[:, 0], decoded[:, 0]

    z = center = _climb(module, batch, start, density)
    here, output = density(z)
    factor = _factor(module.newton(batch, z, output)[1])
    means, n_averaged = np.zeros(batch.x.shape), 0
    for step in range(n_steps):
        completed = batch
        if step % 3 == 0:  # a draw from the Gaussian around the mode
            proposal = center + _colored(normal(*z.shape), factor)
            log_ratio = _log_density(z - center, factor) - _log_density(proposal - center, factor)
        elif step % 3 == 1:  # one from the encoder, which reads a row that is completed by what the decoder makes of the code
            rows = torch.where(batch.observed, batch.x, likelihood.scatter(output, generator))
            completed = batch._replace(x=rows, observed=everything)
            q = module.posterior(completed._replace(observed=None))
            proposal = q.mean + torch.exp(0.5 * q.log_var) * normal(*z.shape)
            log_ratio = q.log_prob(z) - q.log_prob(proposal)
        else:  # a step at random, of many sizes
            width = 2.4 / module.n_components**0.5 * torch.exp(-2.0 * uniform(len(z), 1))
            proposal = z + width * _colored(normal(*z.shape), factor)
            log_ratio = torch.zeros_like(here)
        there, decoded = density(proposal)
        if completed is batch:
            log_ratio += there - here
        else:
            log_ratio += density(proposal, completed)[0] - density(z, completed)[0]
        accepted = torch.log(uniform(len(z))) < log_ratio
        here = torch.where(accepted, there, here)
        z, output = (torch.where(accepted.unsqueeze(-1), new, old) for new, old in ((proposal, z), (decoded, output)))
        if mean and 2 * step >= n_steps:
            means += likelihood.mean(output)
            n_averaged += 1
    rows = means / n_averaged if mean else likelihood.draw(output, generator)
    return rows.reshape(n_rows, n_chains, -1)


def _start(module: CVAEModule, batch: Batch, n_chains: int, normal: Draw, uniform: Draw) -> torch.Tensor:
    """Choose from draws from the prior by importance, ``(n * n_chains, n_components)``."""
    n_rows = len(batch.x)
    z = module.prior.from_noise(normal(n_rows, _PRIOR_DRAWS, module.prior.n_noise), batch.condition)
    # What is left of the weights once the prior, which the codes were drawn from, is divided out.
    log_weight = module.log_posterior(batch, z)[0] - module.prior.log_prob(z, batch.condition)
    gumbel = -torch.log(-torch.log(uniform(n_rows, n_chains, _PRIOR_DRAWS)))
    chosen = (log_weight.unsqueeze(1) + gumbel).argmax(-1, keepdim=True)
    return z.gather(1, chosen.expand(-1, -1, module.n_components)).flatten(0, 1)


def _climb(module: CVAEModule, batch: Batch, z: torch.Tensor, density: Density) -> torch.Tensor:
    """Move codes ``(n, n_components)`` to modes of their posterior, by the method of Levenberg and Marquardt."""
    damping = torch.zeros(len(z), 1, device=z.device)
    here, output = density(z)
    for _ in range(_CLIMBS):
        gradient, precision = module.newton(batch, z, output)
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
