"""Importance-weighted scores: a fixed pool of draws, entered at an offset hashed from the row's own bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.inference.runner import Runner, score_rows

POOL_SIZE = 2**16
_POOL_SEED = 20140130


@lru_cache(maxsize=4)
def normal_pool(n_components: int) -> np.ndarray:
    """Draw the standard normal numbers that every score reads from."""
    return np.random.default_rng(_POOL_SEED).standard_normal((POOL_SIZE, n_components), dtype=np.float32)


def row_offsets(x: np.ndarray) -> np.ndarray:
    """Hash of each row's bits: where in the pool its draws begin.

    Draws must depend on the row alone, so that its score does not change with its neighbors, and differ between rows, so
    that their errors average out.
    """
    bits = np.ascontiguousarray(x + np.float32(0.0)).view(np.uint32).astype(np.uint64)  # -0.0 becomes 0.0
    keys = np.random.default_rng(_POOL_SEED).integers(1, 2**63, size=x.shape[1], dtype=np.uint64) | np.uint64(1)
    with np.errstate(over="ignore"):
        mixed = (bits + np.uint64(0x9E3779B97F4A7C15)) * keys
        mixed ^= mixed >> np.uint64(29)
        hashed = (mixed * np.uint64(0xBF58476D1CE4E5B9)).sum(axis=1)
        hashed ^= hashed >> np.uint64(32)
        hashed *= np.uint64(0x94D049BB133111EB)
    return (hashed >> np.uint64(40)).astype(np.int64) % POOL_SIZE


def pooled_noise(n_components: int, n_draws: int, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that gives standardized rows ``(n, n_features)`` their draws, ``(n, n_draws, n_components)``."""
    pool = torch.from_numpy(normal_pool(n_components)).to(device)
    window = torch.arange(n_draws, device=device)

    def noise(x: torch.Tensor) -> torch.Tensor:
        offsets = torch.from_numpy(row_offsets(x.cpu().numpy())).to(device)
        return pool[(offsets.unsqueeze(1) + window) % POOL_SIZE]

    return noise


def density_of(log_density: Callable[[np.ndarray], np.ndarray] | None) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Turn a log-density of arrays ``(n, n_components)`` into one of draws ``(n, n_draws, n_components)``."""
    if log_density is None:
        return None

    def log_prior(z: torch.Tensor) -> torch.Tensor:
        flat = z.flatten(0, 1).cpu().numpy().astype(np.float64)
        return torch.from_numpy(log_density(flat).astype(np.float32)).to(z.device).unflatten(0, z.shape[:2])

    return log_prior


def log_weights(
    module: nn.Module,
    table: Table,
    device: torch.device,
    n_draws: int,
    log_density: Callable[[np.ndarray], np.ndarray] | None,
    reduce: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Reduce the log importance weights of every row, chunk by chunk.

    Parameters
    ----------
    module : LatentModule
    table : Table
    device : torch.device
    n_draws : int
    log_density : callable or None
        Log-density of codes ``(n, n_components)``, ``(n,)``; the module's own prior by default.
    reduce : callable
        Turns weights ``(n, n_draws)`` in double precision into what is kept of them.

    Returns
    -------
    ndarray of shape (n_samples, ...)
    """
    runner = Runner(module, device, size=score_rows(module, n_draws), scores=True)
    draw = pooled_noise(module.n_components, n_draws, device)
    batch = runner.batches(table, noise=lambda rows, x: {"posterior": draw(x)})
    log_prior = density_of(log_density)

    def step(rows: slice) -> np.ndarray:
        weights = module.importance_draws(batch(rows), log_prior).log_weights
        return reduce(weights.cpu().numpy().astype(np.float64))

    return runner.map(step, table.n_rows)


def log_mean_exp(weights: np.ndarray) -> np.ndarray:
    """Logarithm of the mean of ``exp(weights)`` along the last axis."""
    highest = weights.max(axis=1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)  # rows that no draw explains: minus infinity
    with np.errstate(divide="ignore"):
        return (highest + np.log(np.mean(np.exp(weights - highest), axis=1, keepdims=True)))[:, 0]


def effective_sample_size(weights: np.ndarray) -> np.ndarray:
    """Return the number of equally weighted draws that would be worth as much."""
    highest = weights.max(axis=1, keepdims=True)
    shares = np.exp(np.where(np.isfinite(highest), weights - highest, 0.0))
    return shares.sum(axis=1) ** 2 / (shares**2).sum(axis=1)
