"""Running a trained module over rows, such that a row's result does not depend on its neighbors.

By the rule in `skvae.runtime.alignment`, every pass has the same number of rows: a chunk that is padded with zeros at the end.
The number depends on the network alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn

from skvae.data import Table
from skvae.data.columns import columns_are_correlated, has_missing
from skvae.modules import Batch
from skvae.runtime.alignment import aligned_rows, aligned_zeros
from skvae.runtime.randomness import make_generator, private_randomness
from skvae.runtime.threads import one_thread, threads_for

_CHUNK_WORK = 2**28  # multiply-adds a chunk may take
_TILE = 96  # rows: a multiple of the 6 and of the 32 that kernels take at once, see `skvae.runtime.alignment`
_MAX_ROWS = 1536
_CHUNK_FLOATS = 3 * 2**22  # numbers the widest layer may hold when many draws are decoded at once
POOL_SIZE = 2**16
_POOL_SEED = 20140130


def chunk_rows(module: nn.Module) -> int:
    """Rows of a chunk: 96 times a power of two, smaller for larger networks."""
    return min(_MAX_ROWS, max(_TILE, whole_tiles(_CHUNK_WORK // max(1, module.row_work))))


def whole_tiles(n_rows: int, tile: int = _TILE) -> int:
    """Largest number of rows, up to a number, that is a tile's times a power of two; 1 where there is no room for a tile."""
    return tile << ((n_rows // tile).bit_length() - 1) if n_rows >= tile else 1


def score_rows(module: nn.Module, n_draws: int) -> int:
    """Rows of a chunk when each row is decoded `n_draws` times, or as often as the slopes of a decoder take.

    They are enough for all entries of a layer to be computed many at once, with none left over for the last rows, or one.
    """
    n_draws = max(n_draws, module.slope_decodes)
    rows = min(_CHUNK_FLOATS // (module.widest_layer * n_draws), max(_TILE, _CHUNK_WORK // (module.row_work * n_draws)))
    return min(chunk_rows(module), whole_tiles(rows))


def chunks(n_rows: int, size: int) -> Iterator[slice]:
    """Cut rows into slices of a size, the last of which may be shorter."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def place(module: nn.Module, device: torch.device) -> None:
    """Have a module on a device and in evaluation mode; costs next to nothing where it is already."""
    here = next(module.parameters()).device
    if here.type != device.type or (device.index is not None and here.index != device.index):
        module.to(device)
    if module.training:
        module.eval()


def _standardized(module: nn.Module, X: Any, rows: slice, buffer: torch.Tensor) -> torch.Tensor:
    """Put standardized rows into a buffer of a chunk's size, zeros behind them."""
    module.likelihood.standardize(X, rows, out=buffer)
    buffer[rows.stop - rows.start :] = 0.0
    return buffer


def run(
    module: nn.Module, n_rows: int, size: int, device: torch.device, step: Callable[[slice], Any], *, solves: bool = False
) -> list[Any]:
    """Call `step` on every chunk, in evaluation mode and without gradients."""
    place(module, device)
    threads = one_thread() if module.depends_on_threads else threads_for(module, size, solves=solves)
    with torch.no_grad(), threads, aligned_rows(device, module, scores=solves), private_randomness(module, _POOL_SEED):
        return [step(rows) for rows in chunks(n_rows, size)]


def encode(module: nn.Module, X: Any, device: torch.device, condition: np.ndarray | None = None) -> np.ndarray:
    """Deterministic codes ``(n_samples, n_components)`` of rows in the units of the data."""
    return _per_row(module, X, device, lambda *x, **seen: (module.encode(*x, **seen),), condition)[0]


def find_codes(module: nn.Module, X: Any, device: torch.device) -> np.ndarray:
    """Codes ``(n_samples, n_codes)`` of rows in the units of the data, as floats, which hold them exactly."""
    return _per_row(module, X, device, lambda x: (module.codes(x),))[0]


def embed_codes(module: nn.Module, codes: np.ndarray, device: torch.device) -> np.ndarray:
    """Embedding ``(n_samples, n_components)`` of codes."""
    place(module, device)
    with torch.no_grad():
        return module.embed(torch.from_numpy(codes.astype(np.int64)).to(device)).cpu().numpy()


def keep_levels(module: nn.Module, Z: np.ndarray, levels: list[int], device: torch.device) -> np.ndarray:
    """Embeddings ``(n_samples, n_components)`` of which some levels count, see `VQVAEModule.keep_levels`."""
    place(module, device)
    with torch.no_grad():
        return module.keep_levels(torch.from_numpy(Z).to(device), levels).cpu().numpy()


def preactivate(module: nn.Module, X: Any, device: torch.device) -> np.ndarray:
    """Linear responses ``(n_samples, n_components)`` of a sparse autoencoder's units."""
    return _per_row(module, X, device, lambda x, **seen: (module.preactivate(x, **seen),))[0]


def posterior(
    module: nn.Module, X: Any, device: torch.device, condition: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Means and log-variances of q(z|x), each ``(n_samples, n_components)``."""
    mean, log_var = _per_row(module, X, device, module.posterior, condition)
    return mean, log_var


def jacobian_norm(module: nn.Module, X: Any, device: torch.device) -> np.ndarray:
    """Norms of the Jacobian of the code at rows, in standardized units, ``(n_samples,)``.

    Backward passes multiply by other matrices than those that `aligned_rows` sees to, so they run in double precision: a row's
    result does not depend on its neighbors, to rounding in single precision (the second way in `skvae.runtime.alignment`).
    """
    wide = module if device.type == "mps" else copy.deepcopy(module).double()  # which has no double precision
    dtype = next(wide.parameters()).dtype
    # A pass pulls every component back at once.
    size = max(1, min(chunk_rows(wide), _CHUNK_FLOATS // (wide.widest_layer * wide.n_components)))

    def function(x, observed=None):
        parts = x.to(dtype).split(size)
        masks = [{}] * len(parts) if observed is None else [{"observed": part} for part in observed.split(size)]
        norms = [wide.jacobian_norm(part, **seen) for part, seen in zip(parts, masks, strict=True)]
        return (torch.cat(norms).unsqueeze(1),)

    return _per_row(wide, X, device, function)[0][:, 0].astype(np.float64)


def _per_row(module, X, device, function, condition=None) -> list[np.ndarray]:
    """Call a function of standardized rows, and of their conditions and masks where there are any, chunk by chunk."""
    size, n_rows = chunk_rows(module), X.shape[0]
    missing = misses_entries(module, X)
    results: list[np.ndarray] = []
    buffer = aligned_zeros(size, module.n_features)

    def step(rows):
        told = () if condition is None else (_padded(condition[rows], size).to(device),)
        x, seen = _standardized(module, X, rows, buffer).to(device), {}
        if missing:
            x, seen = _filled(module, x)
        parts = function(x, *told, **seen)
        if not results:
            results.extend(np.empty((n_rows, part.shape[1]), dtype=np.float32) for part in parts)
        for result, part in zip(results, parts, strict=True):
            result[rows] = part[: rows.stop - rows.start].cpu().numpy()

    run(module, n_rows, size, device, step)
    return results


def misses_entries(module: nn.Module, X: Any) -> bool:
    """Whether some of the rows' entries are missing, in the eyes of a module."""
    return module.takes_missing and has_missing(X)


def _filled(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Fill what is missing of standardized rows, in aligned rows, and say what is not."""
    filled, observed = module.likelihood.fill(x)
    return aligned_zeros(*x.shape).to(x.device).copy_(filled), {"observed": observed}


def _padded(values: np.ndarray, size: int) -> torch.Tensor:
    """Values in rows that begin cache lines, with zeros behind them up to a chunk's size."""
    buffer = aligned_zeros(size, values.shape[1])
    buffer[: len(values)] = torch.from_numpy(values.astype(np.float32))
    return buffer


def decode(module: nn.Module, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Means of the likelihood, in the units of the data, for codes, with their conditions beside them if there are any."""
    return _per_code(module, Z, device, lambda output, rows: module.likelihood.mean(output)[: rows.stop - rows.start])


def join_codes(module: nn.Module, noise: np.ndarray, condition: np.ndarray, device: torch.device) -> np.ndarray:
    """Turn standard normal numbers into draws from p(z|c), with the conditions beside them, which is what a decoder takes."""
    place(module, device)
    with torch.no_grad(), private_randomness(module, _POOL_SEED):
        mean, log_var = module.prior_moments(torch.from_numpy(condition).to(device))
    codes = noise * np.exp(0.5 * log_var.cpu().numpy()) + mean.cpu().numpy()
    return np.hstack([codes, condition])


def draw(module: nn.Module, Z: np.ndarray, device: torch.device, seed: int) -> np.ndarray:
    """Draws from the likelihood, in the units of the data, for codes."""
    generator = make_generator(seed, device)
    return _per_code(module, Z, device, lambda output, rows: module.likelihood.draw(output[: rows.stop - rows.start], generator))


def deviance(module: nn.Module, X: Any, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Nats by which each entry of `X` falls short of the best, given codes, ``(n_samples, n_features)``."""
    return _beside_rows(module, X, Z, device, module.likelihood.deviance)


def errors(module: nn.Module, X: Any, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Rows and their residuals, given codes, side by side and in standardized units, ``(n_samples, 2 * n_features)``."""
    return _beside_rows(module, X, Z, device, module.likelihood.errors)


def log_likelihood(module: nn.Module, X: Any, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Log-likelihood of rows given codes, in nats and in the units of the data, ``(n_samples,)``."""
    return _beside_rows(module, X, Z, device, module.likelihood.log_prob)


def _beside_rows(module, X, Z, device, function) -> np.ndarray:
    """Call a function of rows in the units of the data and of what is decoded from codes."""

    def step(output, rows):
        block = X[rows].toarray() if sparse.issparse(X) else X[rows]
        padded = np.zeros(output.shape, dtype=block.dtype)
        padded[: len(block)] = block
        return function(padded, output)[: len(block)]

    return _per_code(module, Z, device, step)


def _per_code(module, Z, device, function) -> np.ndarray:
    size = chunk_rows(module)

    def step(rows):
        return function(module.decode(_padded(Z[rows], size).to(device)), rows)

    return np.concatenate(run(module, len(Z), size, device, step))


# -- importance-weighted scores ---------------------------------------------------------------------------------------


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


def log_weights(
    module: nn.Module,
    X: Any,
    device: torch.device,
    n_draws: int,
    log_density: Callable[[np.ndarray], np.ndarray] | None,
    reduce: Callable[[np.ndarray], np.ndarray],
    condition: np.ndarray | None = None,
) -> np.ndarray:
    """Reduce the log importance weights of every row, chunk by chunk.

    Parameters
    ----------
    module : LatentModule
    X : ndarray or CSR matrix of shape (n_samples, n_features)
    device : torch.device
    n_draws : int
    log_density : callable or None
        Log-density of codes ``(n, n_components)``, ``(n,)``; the module's own prior by default.
    reduce : callable
        Turns weights ``(n, n_draws)`` in double precision into what is kept of them.
    condition : ndarray of shape (n_samples, n_conditions) or None

    Returns
    -------
    ndarray of shape (n_samples, ...)
    """
    size = score_rows(module, n_draws)
    pool = torch.from_numpy(normal_pool(module.n_components)).to(device)
    window = torch.arange(n_draws, device=device)
    buffer = torch.zeros(size, module.n_features, dtype=torch.float32)
    missing = misses_entries(module, X)

    def prior(z: torch.Tensor) -> torch.Tensor:
        flat = z.flatten(0, 1).cpu().numpy().astype(np.float64)
        return torch.from_numpy(log_density(flat).astype(np.float32)).to(device).unflatten(0, z.shape[:2])

    def step(rows):
        x, mask = _standardized(module, X, rows, buffer), None
        if missing:
            filled, mask = module.likelihood.fill(x.to(device))
            x = filled.cpu()
        offsets = torch.from_numpy(row_offsets(x.numpy())).to(device)
        noise = pool[(offsets.unsqueeze(1) + window) % POOL_SIZE]
        x = x.to(device)
        told = None if condition is None else _padded(condition[rows], size).to(device)
        batch = Batch(x, x, torch.ones_like(x[:, 0]), told, mask, {"posterior": noise})
        weights = module.log_weights(batch, prior if log_density is not None else None)
        return reduce(weights[: rows.stop - rows.start].cpu().numpy().astype(np.float64))

    return np.concatenate(run(module, X.shape[0], size, device, step, solves=True))


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


def fit_noise(module: nn.Module, data: Table, device: torch.device, *, max_rows: int) -> None:
    """Fit the likelihood's noise, once a module is trained, on evenly spaced rows.

    Parameters
    ----------
    module : LatentModule
    data : Table
    device : torch.device
    max_rows : int
        Most rows to look at.
    """
    sample = data.take(_evenly_spaced(data, max_rows))
    x, seen = module.likelihood.standardize(sample.X).to(device), {}
    if misses_entries(module, sample.X):
        x, seen["observed"] = module.likelihood.fill(x)
    share = np.ones(len(x)) if sample.weight is None else sample.weight
    noise = torch.randn((len(x), module.n_components), generator=make_generator(_POOL_SEED), dtype=torch.float32)
    told = () if sample.condition is None else (sample.condition,)
    place(module, device)
    with threads_for(module, len(x), solves=True), private_randomness(module, _POOL_SEED):
        others = (torch.from_numpy(values.astype(np.float32)).to(device) for values in (share, *told))
        module.fit_noise(x, next(others), noise.to(device), *others, **seen)


def _evenly_spaced(data: Table, max_rows: int) -> np.ndarray:
    return np.linspace(0, data.n_rows - 1, min(data.n_rows, max_rows)).astype(int)


def latent_usage(module: nn.Module, data: Table, device: torch.device, *, max_rows: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """How much a variational autoencoder's components carry, on evenly spaced rows.

    Parameters
    ----------
    module : VAEModule
    data : Table
    device : torch.device
    max_rows : int

    Returns
    -------
    kl : ndarray of shape (n_components,)
        Weighted mean KL from the prior, in nats.
    variance : ndarray of shape (n_components,)
        Weighted variance of the posterior mean over the rows.
    correlated : bool
        Whether the columns have any structure to be carried.
    """
    sample = data.take(_evenly_spaced(data, max_rows))
    mean, log_var = posterior(module, sample.X, device, sample.condition)
    posteriors = [torch.from_numpy(values).to(device) for values in (mean, log_var)]
    told = None if sample.condition is None else torch.from_numpy(sample.condition.astype(np.float32)).to(device)
    with torch.no_grad():
        kl = module.divergence(*posteriors, told, per_component=True).cpu().double().numpy()
    x = np.nan_to_num(module.likelihood.standardize(sample.X).numpy(), nan=0.0)
    if sample.condition is not None:  # what the decoder is told is no structure for the code to carry
        told = np.column_stack([np.ones(len(x)), sample.condition]).astype(np.float32)
        x = x - told @ np.linalg.lstsq(told, x, rcond=None)[0]
    center = np.average(mean, axis=0, weights=sample.weight)
    variance = np.average((mean - center) ** 2, axis=0, weights=sample.weight)
    return np.average(kl, axis=0, weights=sample.weight), variance, columns_are_correlated(x)
