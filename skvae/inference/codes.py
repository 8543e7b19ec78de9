"""Discrete codes: how often they are in use, and log-probabilities and draws of their priors, in chunks."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from skvae.inference.runner import Runner, chunk_rows, chunks
from skvae.modules.priors.codes import CodePriorModule
from skvae.runtime.alignment import aligned_zeros
from skvae.runtime.randomness import make_generator
from skvae.runtime.threads import threads_for

_CHUNK_BYTES = 2**28  # that a chunk's numbers may take


def code_shares(module: nn.Module, codes: np.ndarray, weight: np.ndarray | None = None) -> list[np.ndarray]:
    """Share that each code of every level has, ``(n_embeddings,)`` a level, among the codes ``(n, n_codes)`` of weighted rows."""
    shares = []
    for level, part in zip(module.levels, module.code_slices, strict=True):
        own = codes[:, part].astype(np.int64)
        weights = None if weight is None else np.repeat(weight, own.shape[1])
        shares.append(np.bincount(own.ravel(), weights=weights, minlength=level.n_embeddings) / own.size)
    return shares


def code_usage(shares: list[np.ndarray]) -> tuple[list[float], list[int]]:
    """Perplexity of each level's codes, which are in use with `shares`, and the number of those in use at all."""
    positive = [share[share > 0.0] / share.sum() for share in shares]
    return [float(np.exp(-(share * np.log(share)).sum())) for share in positive], [len(share) for share in positive]


def precise_copy(prior: CodePriorModule, device: torch.device) -> CodePriorModule:
    """Copy of a prior on a device, in double precision where there is one."""
    twin = copy.deepcopy(prior).eval()
    return twin.to(device) if device.type == "mps" else twin.to(device).double()


def rows_in_memory(n_floats: int) -> int:
    """Largest power of two of rows, each of so many numbers in double precision, that a chunk has room for."""
    return 1 << max(0, (_CHUNK_BYTES // (8 * max(1, n_floats))).bit_length() - 1)


def code_log_prob(
    prior: CodePriorModule, rows: np.ndarray, device: torch.device, condition: np.ndarray | None = None
) -> np.ndarray:
    """Log-probability of every own code of every row, in nats.

    Computed in double precision and rounded to single: it does not depend on a row's neighbors, to rounding in single precision
    (the second way in `skvae.runtime.alignment`).

    Parameters
    ----------
    prior : CodePriorModule
    rows : ndarray of shape (n, n_upper + n_codes)
        Codes of the levels above, top first, and own codes.
    device : torch.device
    condition : ndarray of shape (n, n_conditions), optional

    Returns
    -------
    ndarray of float64, shape (n, n_codes)
    """
    precise = precise_copy(prior, device)
    dtype = next(precise.parameters()).dtype
    # No fuller than it has to be: what a chunk's size does to the last bits is rounded off as well.
    size = min(chunk_rows(precise), rows_in_memory(precise.row_floats), 1 << max(0, len(rows) - 1).bit_length())
    buffer = aligned_zeros(size, precise.n_features, dtype)
    conditions = None if condition is None else aligned_zeros(size, precise.n_conditions, dtype)

    def step(chunk: slice) -> torch.Tensor:
        here = _fill(buffer, rows[chunk]).to(device)
        given = None if conditions is None or condition is None else _fill(conditions, condition[chunk]).to(device)
        return precise.log_prob(here, given).float()

    return Runner(precise, device, size=size, scores=True).map(step, len(rows)).astype(np.float64)


def draw_codes(
    prior: CodePriorModule,
    n: int,
    device: torch.device,
    seed: int,
    *,
    upper: np.ndarray | None = None,
    condition: np.ndarray | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    cache: bool = True,
) -> np.ndarray:
    """Draw codes from a prior.

    Parameters
    ----------
    prior : CodePriorModule
    n : int
    device : torch.device
    seed : int
        Decides all draws.
    upper : ndarray of int, shape (n, n_upper), optional
        Codes of the levels above, top first.
    condition : ndarray of shape (n, n_conditions), optional
    temperature : float, default=1.0
        Divides the logits; towards zero, the likeliest code is taken.
    top_k : int or None, default=None
        How many of the likeliest codes stay in the draw.
    cache : bool, default=True
        Keep what was computed for earlier codes; without it, the same codes take longer.

    Returns
    -------
    ndarray of int64, shape (n, n_codes)
    """
    precise = precise_copy(prior, device)
    dtype = next(precise.parameters()).dtype
    # On the CPU whatever the device, so that all devices draw alike.
    uniforms = torch.rand((n, precise.n_codes), generator=make_generator(seed), dtype=torch.float64)
    floats = precise.cache_floats if cache else max(precise.cache_floats, precise.row_floats)
    size = rows_in_memory(floats)
    codes = np.empty((n, precise.n_codes), dtype=np.int64)
    at_once = min(n, size) // (precise.n_codes if cache else 1)  # rows' worth of work between two draws
    with torch.no_grad(), threads_for(precise, at_once):
        for chunk in chunks(n, size):
            given = None if upper is None else torch.from_numpy(np.array(upper[chunk], dtype=np.int64)).to(device)
            conditions = (
                None if condition is None else torch.from_numpy(np.array(condition[chunk], dtype=np.float64)).to(dtype).to(device)
            )
            drawn = precise.draw(
                uniforms[chunk].to(dtype).to(device), given, conditions, temperature=temperature, top_k=top_k, cache=cache
            )
            codes[chunk] = drawn.cpu().numpy()
    return codes


def _fill(buffer: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Put rows into a buffer of a chunk's size, zeros behind them."""
    buffer[: len(rows)] = torch.from_numpy(np.array(rows, dtype=np.float64))
    buffer[len(rows) :] = 0.0
    return buffer
