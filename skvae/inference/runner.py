"""The one loop over chunks of rows, such that a row's result does not depend on its neighbors.

By the rule in `skvae.runtime.alignment`, every pass has the same number of rows: a chunk that is padded with zeros at the end.
The number depends on the network and the kind of device alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.data.sources import Source
from skvae.modules import Batch, Likelihood
from skvae.runtime.alignment import aligned_rows, aligned_zeros
from skvae.runtime.cudnn import steady
from skvae.runtime.precision import single_precision
from skvae.runtime.randomness import private_randomness
from skvae.runtime.threads import one_thread, threads_for

CHUNK_WORK = 2**28  # multiply-adds a chunk may take
TILE = 96  # rows: a multiple of the 6 and of the 32 that kernels take at once, see `skvae.runtime.alignment`
MAX_ROWS = 2016
_GPU_FACTOR = 16  # on both: a GPU takes hardly longer for more rows, and waits between chunks
CHUNK_FLOATS = 3 * 2**22  # numbers the widest layer may hold when many draws are decoded at once
_SEED = 20140130  # of what networks of the user's own draw


def chunk_rows(module: nn.Module, device: torch.device | None = None) -> int:
    """Rows of a chunk: a multiple of 96, smaller for larger networks, and larger where they are computed on a GPU."""
    factor = _GPU_FACTOR if device is not None and device.type == "cuda" else 1
    return min(factor * MAX_ROWS, max(TILE, whole_tiles(factor * CHUNK_WORK // max(1, module.row_work))))


def rows_at_once(module: nn.Module, device: torch.device, n_rows: int) -> int:
    """Rows of a chunk for a few rows whose results, to the last bits, nobody compares with those of others."""
    return min(chunk_rows(module, device), TILE << max(0, -(-n_rows // TILE) - 1).bit_length())


def whole_tiles(n_rows: int, tile: int = TILE) -> int:
    """Largest number of rows, up to a number, that is a tile's times a power of two; 1 where there is no room for a tile."""
    return tile << ((n_rows // tile).bit_length() - 1) if n_rows >= tile else 1


def score_rows(module: nn.Module, n_draws: int) -> int:
    """Rows of a chunk when each row is decoded `n_draws` times, or as often as the slopes of a decoder take.

    They are enough for all entries of a layer to be computed many at once, with none left over for the last rows, or one.
    """
    n_draws = max(n_draws, module.slope_decodes)
    rows = min(CHUNK_FLOATS // (module.widest_layer * n_draws), max(TILE, CHUNK_WORK // (module.row_work * n_draws)))
    return min(chunk_rows(module), whole_tiles(rows))


def chunks(n_rows: int, size: int) -> Iterator[slice]:
    """Cut rows into slices of a size, the last of which may be shorter."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def move(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device; costs next to nothing where it is already."""
    here = next(module.parameters()).device
    if here.type != device.type or (device.index is not None and here.index != device.index):
        module.to(device)


def place(module: nn.Module, device: torch.device) -> None:
    """Move a module to a device and put it in evaluation mode."""
    move(module, device)
    if module.training:
        module.eval()


def misses_entries(module: nn.Module, table: Table) -> bool:
    """Whether some of the rows' entries are missing, for a module that takes such rows."""
    return module.takes_missing and table.has_missing


def filled_target(
    likelihood: Likelihood, source: Source, target: torch.Tensor, observed: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Fill missing entries of what rows should be, and return which count; see `Batch.target_observed`.

    Parameters
    ----------
    likelihood : Likelihood
    source : Source
        Where the targets come from.
    target : Tensor of shape (n, n_features)
        Standardized, NaN where entries are missing.
    observed : Tensor of bool, of the same shape, or None
        Which entries of the rows themselves are there.
    """
    if source.has_missing:
        filled, counted = likelihood.fill(target, is_target=True)
        return filled.to(target), counted
    return target, None if observed is None else torch.ones_like(observed)


class Runner:
    """A trained module at work on rows, chunk by chunk, in evaluation mode and without gradients.

    Parameters
    ----------
    module : TrainableModule
    device : torch.device
    size : int, optional
        Rows of a chunk; by default as many as suit the network.
    scores : bool, default=False
        Whether rows are scored, for which some modules solve a small system per row.
    """

    def __init__(self, module: nn.Module, device: torch.device, *, size: int | None = None, scores: bool = False):
        self.module, self.device, self.scores = module, device, scores
        self.size = chunk_rows(module, device) if size is None else size

    def map(self, function: Callable[[slice], Any], n_rows: int) -> Any:
        """Call a function of every chunk and put together what it returns for the rows.

        Parameters
        ----------
        function : callable
            Takes a slice of rows and returns a Tensor, an ndarray or a tuple of these, with at least one entry for every row;
            what stands behind the rows is dropped.
        n_rows : int

        Returns
        -------
        ndarray of shape (n_rows, ...), or a tuple of such
        """
        place(self.module, self.device)
        threads = one_thread() if self.module.depends_on_threads else threads_for(self.module, self.size, solves=self.scores)
        aligned = aligned_rows(self.device, self.module, scores=self.scores)
        results: list[np.ndarray] = []
        is_tuple = False
        random = private_randomness(self.module, _SEED)
        with torch.no_grad(), single_precision(), threads, steady(self.device), aligned, random:
            for rows in chunks(max(n_rows, 1), self.size):  # of no rows, one chunk tells the shapes
                parts = function(rows)
                is_tuple = isinstance(parts, tuple)
                parts = [_as_array(part)[: rows.stop - rows.start] for part in (parts if is_tuple else (parts,))]
                if not results:
                    results = [np.empty((n_rows, *part.shape[1:]), dtype=part.dtype) for part in parts]
                for result, part in zip(results, parts, strict=True):
                    result[rows] = part[:n_rows]
        return tuple(results) if is_tuple else results[0]

    def batches(
        self,
        table: Table,
        noise: Callable[[slice, torch.Tensor], dict[str, torch.Tensor]] | None = None,
    ) -> Callable[[slice], Batch]:
        """Return a function that makes a batch of a slice of rows, padded with zeros to a chunk's size.

        Parameters
        ----------
        table : Table
            In the units of the data.
        noise : callable, optional
            Takes a slice and its standardized rows on the CPU, and returns the noise of the batch.
        """
        likelihood = self.module.likelihood
        missing = misses_entries(self.module, table)
        buffer = self._room(table.n_rows, table.shape[1:])
        # Rows are scored in other units than those in which the encoder reads noisy ones.
        source = table.source if table.target is None else table.target
        has_targets = table.target is not None or likelihood.input_units is not None
        targets = self._room(table.n_rows, table.shape[1:]) if has_targets else None
        conditions = None if table.condition is None else self.padded(table.condition)
        weight = torch.ones(self.size, dtype=torch.float32, device=self.device)

        def batch(rows: slice) -> Batch:
            n_rows = min(rows.stop, table.n_rows) - rows.start
            likelihood.standardize_inputs(table.source, rows, out=buffer)
            if n_rows < len(buffer):
                buffer[n_rows:] = 0.0
            x, observed = self._send(buffer), None
            if missing:
                filled, observed = likelihood.fill(x)
                x = aligned_zeros(*x.shape).copy_(filled) if x.device.type == "cpu" else filled
            drawn = None if noise is None else noise(rows, x.cpu())
            given = None if conditions is None else conditions(rows)
            made = Batch.of(x, weight=weight, condition=given, observed=observed, noise=drawn)
            if targets is None:
                return made
            likelihood.standardize(source, rows, out=targets)
            if n_rows < len(targets):
                targets[n_rows:] = 0.0
            target, counted = filled_target(likelihood, source, self._send(targets), observed)
            return made._replace(target=target, target_observed=counted)

        return batch

    def padded(self, values: np.ndarray) -> Callable[[slice], torch.Tensor]:
        """Return a function that takes a slice of an array to the device, in single precision and padded to a chunk's size.

        Of an array that is one row, broadcast, the chunk is that row, expanded: what it costs is not multiplied.
        """
        if values.ndim == 2 and values.strides[0] == 0 and len(values):
            row = torch.from_numpy(values[:1].astype(np.float32)).to(self.device)
            return lambda _: row.expand(self.size, -1)

        def take(rows: slice) -> torch.Tensor:
            part = torch.from_numpy(values[rows].astype(np.float32))
            buffer = self._room(len(part), values.shape[1:])
            buffer[: len(part)] = part
            return self._send(buffer)

        return take

    def _room(self, n_rows: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Zeros for a chunk on its way to a device: all of it or, where it is padded there, no more rows than there are."""
        if self.device.type == "cuda":
            return torch.zeros(min(self.size, n_rows), *shape, dtype=torch.float32)
        return aligned_zeros(self.size, *shape) if len(shape) == 1 else torch.zeros(self.size, *shape, dtype=torch.float32)

    def _send(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows on the device, with zeros behind them up to a chunk's size."""
        sent = rows.to(self.device)
        if len(sent) == self.size:
            return sent
        return torch.cat([sent, sent.new_zeros(self.size - len(sent), *sent.shape[1:])])


def _as_array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values
