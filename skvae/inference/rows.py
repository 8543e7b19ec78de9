"""What a trained module makes of rows, and of codes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.inference.runner import CHUNK_FLOATS, TILE, Runner, chunk_rows, place, rows_at_once
from skvae.modules import Batch
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import make_generator, private_randomness

_REPAIRED_ROWS = 4 * TILE  # of a chunk
_MOST_NATS = 1e30  # by which an entry may be improbable, for what is made of them to stay finite


def encode(module: nn.Module, table: Table, device: torch.device) -> np.ndarray:
    """Deterministic codes ``(n_samples, n_components)`` of rows in the units of the data."""
    return _of_rows(module, table, device, module.encode)


def training_codes(module: nn.Module, table: Table, device: torch.device) -> np.ndarray:
    """Return what a fit measures of the codes of its rows, which may be a few; see `LatentModule.measured_codes`."""
    return _of_rows(module, table, device, module.measured_codes, rows_at_once(module, device, table.n_rows))


def log_prob_given(module: nn.Module, table: Table, device: torch.device) -> np.ndarray:
    """Log-densities of the targets of a table given its rows, in nats and in the units of the data, ``(n_samples,)``."""
    return _of_rows(module, table, device, module.log_prob_given).astype(np.float64)


def posterior(module: nn.Module, table: Table, device: torch.device, *, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Means and log-variances of q(z|x), each ``(n_samples, n_components)``, by chunks of a `size`."""
    return _of_rows(module, table, device, lambda batch: tuple(module.posterior(batch)), size)


def preactivate(module: nn.Module, table: Table, device: torch.device) -> np.ndarray:
    """Linear responses ``(n_samples, n_components)`` of a sparse autoencoder's units."""
    return _of_rows(module, table, device, module.preactivate)


def find_codes(module: nn.Module, table: Table, device: torch.device) -> np.ndarray:
    """Codes ``(n_samples, n_codes)`` of rows in the units of the data, as integers."""
    return _of_rows(module, table, device, module.codes)


def jacobian_norm(module: nn.Module, table: Table, device: torch.device) -> np.ndarray:
    """Norms of the Jacobian of the code at rows, in standardized units, ``(n_samples,)``.

    Backward passes multiply by other matrices than those that `aligned_rows` sees to, so they run in double precision: a row's
    result does not depend on its neighbors, to rounding in single precision (the second way in `skvae.runtime.alignment`).
    """
    wide = module if device.type == "mps" else copy.deepcopy(module).double()  # which has no double precision
    dtype = next(wide.parameters()).dtype
    # A pass pulls every component back at once.
    size = max(1, min(chunk_rows(wide), CHUNK_FLOATS // (wide.widest_layer * wide.n_components)))

    def norms(batch: Batch) -> torch.Tensor:
        observed = [None] * -(-len(batch.x) // size) if batch.observed is None else batch.observed.split(size)
        parts = zip(batch.x.to(dtype).split(size), observed, strict=True)
        return torch.cat([wide.jacobian_norm(Batch.of(x, observed=seen)) for x, seen in parts]).float()

    return _of_rows(wide, table, device, norms, chunk_rows(wide)).astype(np.float64)


def _of_rows(
    module: nn.Module, table: Table, device: torch.device, function: Callable[[Batch], Any], size: int | None = None
) -> Any:
    runner = Runner(module, device, size=size)
    batch = runner.batches(table)
    return runner.map(lambda rows: function(batch(rows)), table.n_rows)


# -- codes ------------------------------------------------------------------------------------------------------------


def decode(module: nn.Module, Z: np.ndarray, device: torch.device, condition: np.ndarray | None = None) -> np.ndarray:
    """Means of the likelihood, in the units of the data, for codes."""

    def mean(output: torch.Tensor, rows: slice) -> np.ndarray:
        # What is computed for all rows on CPUs, for the sake of the last ones, need not come back from elsewhere.
        return module.likelihood.mean(output if device.type == "cpu" else output[: rows.stop - rows.start])

    return _of_codes(module, Z, device, condition, mean)


def draw(module: nn.Module, Z: np.ndarray, device: torch.device, seed: int, condition: np.ndarray | None = None) -> np.ndarray:
    """Draws from the likelihood, in the units of the data, for codes."""
    generator = make_generator(seed, device)

    def drawn(output: torch.Tensor, rows: slice) -> np.ndarray:
        return module.likelihood.draw(output[: rows.stop - rows.start], generator)

    return _of_codes(module, Z, device, condition, drawn)


def _of_codes(
    module: nn.Module,
    Z: np.ndarray,
    device: torch.device,
    condition: np.ndarray | None,
    function: Callable[[torch.Tensor, slice], np.ndarray],
    size: int | None = None,
) -> np.ndarray:
    runner = Runner(module, device, size=size)
    codes = runner.padded(Z)
    conditions = None if condition is None else runner.padded(condition)

    def step(rows: slice) -> np.ndarray:
        z = codes(rows)
        return function(module.decode(z, Batch.of_codes(z, None if conditions is None else conditions(rows))), rows)

    return runner.map(step, len(Z))


def codes_from_noise(
    module: nn.Module, noise: np.ndarray, device: torch.device, condition: np.ndarray | None = None
) -> np.ndarray:
    """Turn standard normal numbers ``(n_samples, prior.n_noise)`` into codes from the module's prior."""
    place(module, device)
    with torch.no_grad(), steady(device), private_randomness(module, 0):
        given = None if condition is None else torch.from_numpy(condition.astype(np.float32)).to(device)
        return module.prior.from_noise(torch.from_numpy(noise.astype(np.float32)).to(device), given).cpu().numpy()


def prior_moments(module: nn.Module, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations ``(n_components,)`` of codes from the module's prior, which depends on no condition."""
    place(module, device)
    with torch.no_grad(), steady(device), private_randomness(module, 0):
        mean, log_var = (part[0].cpu().double().numpy() for part in module.prior.moments(1))
    return mean, np.exp(0.5 * log_var)


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


# -- rows beside what is decoded from their codes ---------------------------------------------------------------------


def deviance(module: nn.Module, table: Table, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Nats by which each entry of a table falls short of the best, given codes, ``(n_samples, n_features)``."""
    return _beside_rows(module, table, Z, device, module.likelihood.deviance)


def errors(module: nn.Module, table: Table, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Rows and their residuals, given codes, side by side and in standardized units, ``(n_samples, 2 * n_features)``."""
    return _beside_rows(module, table, Z, device, module.likelihood.errors)


def repaired_nats(module: nn.Module, table: Table, device: torch.device, *, n_groups: int, of_others: bool = False) -> np.ndarray:
    r"""Negative log-probabilities of entries given what the model makes of their rows, NaN where they are missing.

    First of rows as they are, :math:`-\log p(x_j|z(x))`. Then given what the model makes of the other entries: for every column,
    rows are encoded with their reconstruction in its place, or what is expected of the numbers that the encoder reads of it,
    :math:`-\log p(x_j|z(x_1, \ldots, \hat{x}_j, \ldots, x_d))`. Where encoder and decoder are linear, entries miss this
    reconstruction by as much, up to a factor of the column, as they would miss one of the others alone.

    Parameters
    ----------
    module : LatentModule
        With a likelihood whose energies are nats, of each column by itself, and which has `expected_input` and `strangeness`.
    table : Table
    device : torch.device
    n_groups : int
        Times that columns are replaced at most; where there are more columns, several are at a time.
    of_others : bool, default=False
        Append, for every column that is replaced, the nats of all entries. Not where several are replaced at a time.

    Returns
    -------
    ndarray of float64, shape (n_samples, 2, n_features) or (n_samples, 2 + n_features, n_features)
    """
    likelihood, n_groups = module.likelihood, min(table.n_features, n_groups)
    assert not of_others or n_groups == table.n_features
    size = chunk_rows(module, device)
    # A chunk is gone through for every column, be it full or not.
    runner = Runner(module, device, size=min(_REPAIRED_ROWS, size) if device.type == "cpu" else size)
    read = runner.batches(table)
    group = torch.arange(table.n_features, device=device) % n_groups
    group_of_inputs = likelihood.spread(group)

    def step(rows: slice) -> torch.Tensor:
        batch = read(rows)
        target, counted, facts = batch.target, batch.counted, likelihood.facts(batch.target)
        inputs, strangeness = likelihood.network_input(batch.x), likelihood.strangeness(batch.target)

        def output(inputs: torch.Tensor) -> torch.Tensor:
            return module.decode(module.encode(batch._replace(inputs=inputs)), batch)

        def nats(output: torch.Tensor) -> torch.Tensor:
            found = likelihood.terms(target, output, counted, facts).energy + strangeness
            found = found.nan_to_num(nan=_MOST_NATS).clamp(max=_MOST_NATS)
            return found if counted is None else torch.where(counted, found, torch.nan)

        as_it_is = output(inputs)
        expected, given_others = likelihood.expected_input(as_it_is), torch.empty_like(target)
        found = [nats(as_it_is), given_others]
        for i in range(n_groups):
            replaced = nats(output(torch.where(group_of_inputs == i, expected, inputs)))
            given_others[:, group == i] = replaced[:, group == i]
            if of_others:
                found.append(replaced)
        return torch.stack(found, dim=1)

    found: np.ndarray = runner.map(step, table.n_rows)
    return found.astype(np.float64)


def log_likelihood(module: nn.Module, table: Table, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Log-likelihood of rows given codes, in nats and in the units of the data, ``(n_samples,)``."""
    return _beside_rows(module, table, Z, device, module.likelihood.log_prob)


def _beside_rows(
    module: nn.Module,
    table: Table,
    Z: np.ndarray,
    device: torch.device,
    function: Callable[[np.ndarray, torch.Tensor], np.ndarray],
) -> np.ndarray:
    """Call a function of rows in the units of the data and of what is decoded from codes."""

    def step(output: torch.Tensor, rows: slice) -> np.ndarray:
        block = table.source.read(rows)
        padded = np.zeros((len(output), *block.shape[1:]), dtype=block.dtype)
        padded[: len(block)] = block
        return function(padded, output)

    return _of_codes(module, Z, device, table.condition, step, chunk_rows(module))  # most of which is done on the CPU
