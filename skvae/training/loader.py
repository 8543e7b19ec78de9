"""Batches: whole slices of standardized rows, kept on the device where they fit."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import torch

from skvae.data import Table
from skvae.data.sources import BLOCK_BYTES, row_blocks
from skvae.modules import Batch, Likelihood

RESIDENT_BYTES = 2**31  # rows that take more, in float32, are standardized block by block in every epoch
_BLOCK_BATCHES = 64


def fits_on(device: torch.device, n_bytes: int) -> bool:
    """Whether standardized rows may stay on a device for the whole run."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return n_bytes < free // 2
    return n_bytes <= RESIDENT_BYTES


class Rows:
    """Rows of a table, handed out standardized.

    Parameters
    ----------
    table : Table
        Rows that lie in memory are standardized once and kept on the device if they fit; others are read block by block.
    likelihood : Likelihood or None
        Standardizes the rows; None hands them out as they are.
    device : torch.device
    index : ndarray of int, optional
        Which rows of the table to hand out; all by default.
    missing : bool, default=False
        Whether entries that are NaN are missing: batches then say what is observed, and have the columns' means in their place.
    """

    def __init__(
        self,
        table: Table,
        likelihood: Likelihood | None,
        device: torch.device,
        *,
        index: np.ndarray | None = None,
        missing: bool = False,
    ):
        self.source, self.likelihood, self.device, self.index = table.source, likelihood, device, index
        self.missing = missing
        shape = table.shape[1:]
        self.n_features = prod(shape)
        self._resident: torch.Tensor | None = None
        n_rows = table.n_rows if index is None else len(index)
        self.is_weighted = table.weight is not None
        if table.weight is not None:
            chosen = table.weight if index is None else table.weight[index]
            self.weight = torch.from_numpy((chosen / chosen.mean()).astype(np.float32)).to(device)
        else:
            self.weight = torch.ones(n_rows, device=device, dtype=torch.float32)
        self.condition: torch.Tensor | None = None
        if table.condition is not None:
            chosen = table.condition if index is None else table.condition[index]
            self.condition = torch.from_numpy(chosen.astype(np.float32)).to(device)
        if self.source.is_resident and fits_on(device, 4 * n_rows * self.n_features):
            resident = torch.empty(n_rows, *shape, dtype=torch.float32)
            for block in row_blocks(n_rows, self.n_features):
                self._standardize(block, out=resident[block])
            self._resident = resident.to(device)

    def __len__(self) -> int:
        return len(self.weight)

    def _standardize(self, rows: slice | np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        rows = rows if self.index is None else self.index[rows]
        if self.likelihood is None:
            given = torch.from_numpy(self.source.read(rows).astype(np.float32))
            return given if out is None else out.copy_(given)
        return self.likelihood.standardize(self.source, rows, out=out)

    @property
    def is_resident(self) -> bool:
        """Whether all rows lie on the device."""
        return self._resident is not None

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Rows of these positions (a tensor on the device), standardized and on the device."""
        if self._resident is not None:
            return self._resident.index_select(0, index)
        return self._standardize(index.cpu().numpy()).to(self.device)

    def fill(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Fill missing entries of rows that `take` handed out, and return which are observed, if any may be missing."""
        if not self.missing or self.likelihood is None:
            return x, None
        return self.likelihood.fill(x)


class BatchLoader:
    """Iterate over rows in batches of equal size, give or take one row, with their noise.

    Rows are gathered and noise is drawn for many batches at once; a batch is a view of both. Where rows lie decides how
    many are gathered at once, but nothing about what a batch holds.

    Parameters
    ----------
    rows : Rows
    batch_size : int
        Largest size of a batch.
    noise_shapes : dict
        Shapes per row of the noise a module wants, by name.
    shuffle : torch.Generator or None
        Where permutations come from; None keeps the order.
    noise : torch.Generator
        Where noise comes from.
    fixed_noise : bool, default=False
        Draw the same noise in every epoch, so that validation losses compare.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        noise_shapes: dict[str, tuple[int, ...]],
        *,
        shuffle: torch.Generator | None,
        noise: torch.Generator,
        fixed_noise: bool = False,
    ):
        self.rows, self.noise_shapes = rows, noise_shapes
        self.shuffle, self.noise, self.fixed_noise = shuffle, noise, fixed_noise
        n_batches = -(-len(rows) // batch_size)
        small, larger = divmod(len(rows), n_batches)
        sizes = [small + 1] * larger + [small] * (n_batches - larger)
        self._blocks = [sizes[start : start + _BLOCK_BATCHES] for start in range(0, n_batches, _BLOCK_BATCHES)]
        self._gathered = _BLOCK_BATCHES if rows.is_resident else max(1, BLOCK_BYTES // (8 * rows.n_features * batch_size))
        self.n_batches = n_batches

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        device = self.rows.device
        if self.fixed_noise:
            self.noise.manual_seed(self.noise.initial_seed())
        if self.shuffle is None:
            order = torch.arange(len(self.rows), device=device)
        else:
            order = torch.randperm(len(self.rows), generator=self.shuffle, device=self.shuffle.device).to(device)
        start = 0
        for sizes in self._blocks:
            n_rows = sum(sizes)
            index = order[start : start + n_rows]
            start += n_rows
            weight = (self.rows.weight.index_select(0, index) if self.rows.is_weighted else self.rows.weight[:n_rows]).split(
                sizes
            )
            noise = {name: self._draw((n_rows, *shape)).split(sizes) for name, shape in self.noise_shapes.items()}
            conditions = None if self.rows.condition is None else self.rows.condition.index_select(0, index).split(sizes)
            for i, (x, observed) in enumerate(self._gather(index, sizes)):
                condition = None if conditions is None else conditions[i]
                yield Batch(x, x, weight[i], condition, observed, {name: draws[i] for name, draws in noise.items()})

    def _gather(self, index: torch.Tensor, sizes: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Rows of one batch after the other, and what is observed of them, gathered for as many at once as memory allows."""
        for start in range(0, len(sizes), self._gathered):
            part = sizes[start : start + self._gathered]
            here, index = index.tensor_split([sum(part)])
            x, observed = self.rows.fill(self.rows.take(here))
            yield from zip(x.split(part), [None] * len(part) if observed is None else observed.split(part), strict=True)

    def _draw(self, shape: tuple[int, ...]) -> torch.Tensor:
        noise = torch.randn(shape, generator=self.noise, device=self.noise.device, dtype=torch.float32)
        return noise.to(self.rows.device)
