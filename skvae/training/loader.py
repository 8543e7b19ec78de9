"""Batches: whole slices of standardized rows, kept on the device where they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch

from skvae.data import Table
from skvae.data.sources import BLOCK_BYTES, Source, row_blocks
from skvae.inference.runner import filled_target
from skvae.modules import Batch, Likelihood
from skvae.training.neighbors import NeighborGraph

RESIDENT_BYTES = 2**31  # rows that take more, in float32, are standardized block by block in every epoch
_BLOCK_BATCHES = 64
_FACTS_AT_ONCE = 2**16  # numbers found out about rows at once, which stay in the processor's cache with what they are made of


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU that may be taken, half of those that are free; None where memory is that of the process."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free // 2


def fits_on(device: torch.device, n_bytes: int) -> bool:
    """Whether standardized rows may stay on a device for the whole run."""
    free = free_memory(device)
    return n_bytes <= RESIDENT_BYTES if free is None else n_bytes < free


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
        self.source, self.target, self.likelihood, self.device, self.index = table.source, table.target, likelihood, device, index
        self.missing = missing
        self.graph: NeighborGraph | None = None
        self._near: Rows = self
        shape = table.shape[1:]
        self.n_features = prod(shape)
        self._facts: torch.Tensor | None = None
        self._resident: torch.Tensor | None = None
        self._resident_target: torch.Tensor | None = None
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
        sources = [self.source] if self.target is None else [self.source, self.target]
        if all(source.is_resident for source in sources) and fits_on(device, 4 * n_rows * self.n_features * len(sources)):
            residents = []
            for source in sources:
                resident = torch.empty(n_rows, *shape, dtype=torch.float32)
                for block in row_blocks(n_rows, self.n_features):
                    self._standardize(source, block, out=resident[block])
                residents.append(resident.to(device))
            self._resident = residents[0]
            self._resident_target = residents[1] if len(residents) > 1 else None

    def __len__(self) -> int:
        return len(self.weight)

    def _standardize(self, source: Source, rows: slice | np.ndarray, out: torch.Tensor | None = None) -> torch.Tensor:
        rows = rows if self.index is None else self.index[rows]
        if self.likelihood is None:
            given = torch.from_numpy(source.read(rows).astype(np.float32))
            return given if out is None else out.copy_(given)
        standardize = self.likelihood.standardize if source is self.target else self.likelihood.standardize_inputs
        return standardize(source, rows, out=out)

    @property
    def is_resident(self) -> bool:
        """Whether all rows lie on the device."""
        return self._resident is not None

    def join(self, graph: NeighborGraph, others: Rows | None = None) -> None:
        """Have every row handed out with a neighbor, drawn from a graph that leads to others of these rows, or to other rows."""
        self.graph = graph.to(self.device)
        self._near = self if others is None else others

    def take_near(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Neighbors of these positions in what the graph leads to, filled, and which of their entries are observed."""
        return self._near.fill(self._near.take(index))

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Rows of these positions (a tensor on the device), standardized and on the device."""
        if self._resident is not None:
            return self._resident.index_select(0, index)
        return self._standardize(self.source, index.cpu().numpy()).to(self.device)

    def take_target(
        self, index: torch.Tensor, x: torch.Tensor, observed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what rows of these positions should be, and which entries of that count, from the filled rows and theirs.

        The latter is None where they are the same entries as those of the rows; see `Batch.target_observed`.
        """
        if self.target is None or self.likelihood is None:
            return x, None
        if self._resident_target is not None:
            target = self._resident_target.index_select(0, index)
        else:
            target = self._standardize(self.target, index.cpu().numpy()).to(self.device)
        return filled_target(self.likelihood, self.target, target, observed)

    def take_facts(self, index: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
        """Return what the likelihood finds out by themselves about rows of these positions, whose filled targets are given.

        It is found once for all rows, if they stay on the device and there is room for it.
        """
        if self.likelihood is None:
            return None
        if self._facts is None:
            one = self.likelihood.facts(target[:1])
            if one is None or not self.is_resident or not fits_on(self.device, 4 * len(self) * one.numel()):
                return self.likelihood.facts(target)
            facts = one.new_empty(len(self), *one.shape[1:])
            for rows in row_blocks(len(self), one.numel(), _FACTS_AT_ONCE):
                here = torch.arange(len(self), device=self.device)[rows]
                facts[rows] = self.likelihood.facts(self.take_target(here, *self.fill(self.take(here)))[0])
            self._facts = facts
        return self._facts.index_select(0, index)

    def fill(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Fill missing entries of rows that `take` handed out, and return which are observed, if any may be missing."""
        if not self.missing or self.likelihood is None:
            return x, None
        return self.likelihood.fill(x)


class Block(NamedTuple):
    """Rows of several batches, one batch after the other.

    Attributes
    ----------
    rows : Batch
        Of all of them.
    sizes : list of int
        How many rows each batch has.
    axis : int, default=0
        Which axis counts rows: 1 where modules are counted before.
    """

    rows: Batch
    sizes: list[int]
    axis: int = 0

    @property
    def n_numbers(self) -> int:
        """Numbers that belong to a row, of all modules."""
        parts = [part for part in (*self.rows[:-1], *(self.rows.noise or {}).values()) if part is not None]
        return sum(part.numel() for part in parts) // max(1, sum(self.sizes))

    def batches(self) -> Iterator[Batch]:
        """Iterate over the batches."""
        steps = self.rows.mapped(lambda part: part.split(self.sizes, self.axis))
        for i in range(len(self.sizes)):
            yield steps.mapped(itemgetter(i))

    def divided(self, n_batches: int) -> tuple[Block, Block]:
        """Return the first few batches, and the rest."""
        if n_batches >= len(self.sizes):
            return self, self._replace(rows=self.rows.mapped(lambda part: part.narrow(self.axis, 0, 0)), sizes=[])
        first, n_rows = self.sizes[:n_batches], sum(self.sizes)
        ends = [sum(first), n_rows - sum(first)]
        one, other = (self.rows.mapped(lambda part, i=i: part.split(ends, self.axis)[i]) for i in range(2))
        return self._replace(rows=one, sizes=first), self._replace(rows=other, sizes=self.sizes[n_batches:])

    def of_no_weight(self) -> Block:
        """Return the same rows with weights of zero."""
        return self._replace(rows=self.rows._replace(weight=torch.zeros_like(self.rows.weight)))

    def padded(self, width: int) -> tuple[Batch, torch.Tensor]:
        """Return the batches with so many rows each, ``(n_batches, n_modules, width, ...)``, and the weights of these rows.

        Where there are fewer, rows of weight zero are added, and the weights of the others grow in the batch by as much, so that
        a sum over rows divided by their number stays what it is.
        """
        rows = self.rows if self.axis else self.rows.mapped(lambda part: part.unsqueeze(0))
        shape = (len(self.sizes), width)
        if all(size == width for size in self.sizes):
            batch = rows.mapped(lambda part: part.unflatten(1, shape).transpose(0, 1))
            return batch, batch.weight
        sizes = torch.tensor(self.sizes, device=rows.x.device).unsqueeze(1)
        places = torch.arange(width, device=rows.x.device).expand(shape)
        is_own = places < sizes
        index = (torch.where(is_own, places, 0) + (sizes.cumsum(0) - sizes)).flatten()
        batch = rows.mapped(lambda part: part.index_select(1, index).unflatten(1, shape).transpose(0, 1))
        weight = batch.weight * is_own.unsqueeze(1)
        return batch._replace(weight=weight * (width / sizes.to(weight)).unsqueeze(1)), weight


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
        for block in self.blocks():
            yield from block.batches()

    def blocks(self) -> Iterator[Block]:
        """Iterate over the same batches, as many at once as are gathered at once."""
        device, rows = self.rows.device, self.rows
        if self.fixed_noise:
            self.noise.manual_seed(self.noise.initial_seed())
        if self.shuffle is None:
            order = torch.arange(len(rows), device=device)
        else:
            order = torch.randperm(len(rows), generator=self.shuffle, device=self.shuffle.device).to(device)
        start = 0
        for sizes in self._blocks:
            index = order[start : start + sum(sizes)]
            start += len(index)
            weight = rows.weight.index_select(0, index) if rows.is_weighted else rows.weight[: len(index)]
            condition = None if rows.condition is None else rows.condition.index_select(0, index)
            noise = {name: self._draw((len(index), *shape)) for name, shape in self.noise_shapes.items()}
            near = None if rows.graph is None else rows.graph.draw(index, self._draw((len(index),), torch.rand))
            stop = 0
            for first in range(0, len(sizes), self._gathered):
                part = sizes[first : first + self._gathered]
                here = slice(stop, stop + sum(part))
                stop = here.stop
                x, observed = rows.fill(rows.take(index[here]))
                target, counted = rows.take_target(index[here], x, observed)
                neighbor, seen = (None, None) if near is None else rows.take_near(near[here])
                given = None if condition is None else condition[here]
                drawn = {name: draws[here] for name, draws in noise.items()}
                facts = rows.take_facts(index[here], target)
                yield Block(Batch(x, target, weight[here], given, observed, counted, neighbor, seen, facts, noise=drawn), part)

    def _draw(self, shape: tuple[int, ...], draw: Callable[..., torch.Tensor] = torch.randn) -> torch.Tensor:
        noise = draw(shape, generator=self.noise, device=self.noise.device, dtype=torch.float32)
        return noise.to(self.rows.device)
