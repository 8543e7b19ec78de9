"""Stretches of training: those of modules of one shape that meet are taken at once, others step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import torch
from joblib import cpu_count

from skvae.modules import Batch
from skvae.runtime.meeting import check_aborted, in_threads
from skvae.runtime.precision import single_precision
from skvae.runtime.threads import one_thread
from skvae.training.loader import Block
from skvae.training.stack import CannotStackError, StackedStep, stack_key
from skvae.training.step import EagerStep

_WORK = 2**25  # multiply-adds of a step from which on more models at once are hardly quicker
_GATHERED_NUMBERS = 2**22  # of the rows of several steps that are put side by side at once


@dataclass
class Stretch:
    """Steps of one module, or of some of one shape, up to where somebody looks at what has become of them.

    Attributes
    ----------
    steps : sequence of EagerStep
        Of the modules, with equal settings.
    blocks : iterator of Block
        Rows of the one module, or of all of them, which then are counted by the first axis.
    n_steps, n_rows : int
        Of each module, the latter in a batch, about.
    begin_step : callable
        Called with the number of steps that lie behind, before each one; returns the fraction of the run that does.
    n_epochs : int, default=0
        Of how many epochs the terms of the loss are kept; 0 if nobody wants to know them.
    failure : Exception or None
        What its batches have failed by.
    """

    steps: Sequence[EagerStep]
    blocks: Iterator[Block]
    n_steps: int
    n_rows: int
    begin_step: Callable[[int], float]
    n_epochs: int = 0
    failure: Exception | None = None

    def batches(self) -> Iterator[Batch]:
        """Iterate over the batches that are left."""
        for block in self.blocks:
            yield from block.batches()

    def put_back(self, block: Block) -> None:
        """Put batches in front of those that are left."""
        if block.sizes:
            self.blocks = itertools.chain([block], self.blocks)

    @property
    def work(self) -> int:
        """Multiply-adds of a step, about."""
        return len(self.steps) * self.n_rows * self.steps[0].module.row_work

    def key(self, kind: str, coupled: int = 0) -> Hashable | None:
        """Return what stretches have in common that can be taken at once; None for one that has to be taken by itself.

        Parameters
        ----------
        kind : str
            What they are stretches of.
        coupled : int, default=0
            Rows that a module sees, where that must be the same for modules that couple the rows of a batch.
        """
        first = self.steps[0]
        if first.shape is None and first.can_stack:
            first.shape = stack_key(first.module)
        if first.shape is None or not first.can_stack or first.on_gradient is not None:
            first.can_stack = False
            return None
        phase = None if first.module.interval is None else first.n_steps
        return kind, first.shape, self.n_steps, self.n_epochs, coupled if first.module.couples_rows else None, phase


@dataclass
class Taken:
    """What has come of an epoch of a module: means of the terms of the loss, by name, and the norm of the weights."""

    means: dict[str, float]
    norm: float


def take(stretches: Sequence[Stretch]) -> list[list[list[Taken]] | Exception | None]:
    """Take stretches with one key at once: so many together as fill a processor, and those of several processors side by side.

    Who is taken with whom does not depend on how many processors there are.

    Returns
    -------
    list
        For each stretch what has come of the epochs of its modules, if it is kept, the error that ended one of them, or None
        where it has to be taken by itself, its batches from the first.
    """
    in_order = sorted(stretches, key=lambda each: (each.steps[0].settings, each.steps[0].n_steps, each.steps[0].learning_rate))
    first = in_order[0].steps[0]
    parts, device = [in_order], next(first.module.parameters()).device
    if device.type == "cpu":
        share = sum(each.work for each in in_order) / _WORK
        n_parts = min(len(in_order), max(2 * round(share / 2), 2 if share > 0.5 else 1))  # even, so that two end together
        ends = [round(i * len(in_order) / n_parts) for i in range(n_parts + 1)]
        parts = [in_order[start:stop] for start, stop in itertools.pairwise(ends)]
    found: dict[int, list[list[Taken]] | Exception | None] = {}

    def take_part(part: list[Stretch]) -> None:
        with single_precision(), one_thread() if len(parts) > 1 else nullcontext():
            found.update(zip(map(id, part), _take_at_once(part), strict=True))

    in_threads([partial(take_part, part) for part in parts], cpu_count())
    return [found[id(stretch)] for stretch in stretches]


def _take_at_once(stretches: list[Stretch]) -> Sequence[list[list[Taken]] | Exception | None]:
    members = [step for stretch in stretches for step in stretch.steps]
    if len(members) == 1:
        leave(members)
        return [None]
    stack, sums, epochs = members[0].stack, _Sums(), []
    if stack is None or stack.members != members:
        stack = StackedStep(members)
    feed = _Feed(stretches)
    batches = iter(feed)
    for i in range(stretches[0].n_steps):
        check_aborted()
        progress = [at for stretch in stretches for at in [stretch.begin_step(i)] * len(stretch.steps)]
        try:
            batch, weight = next(batches)
            terms = stack(batch, progress)
        except CannotStackError:
            if i:
                raise
            leave(members)
            for step in members:
                step.can_stack = False
            feed.put_back(0)
            return [None] * len(stretches)
        if stretches[0].n_epochs:
            sums.add(terms, weight)
            if (i + 1) % (stretches[0].n_steps // stretches[0].n_epochs) == 0:
                epochs.append(sums.means(stack.norms()))
                sums = _Sums()
    feed.put_back(stretches[0].n_steps)
    taken = _read(epochs)
    found: list[list[list[Taken]] | Exception] = []
    start = 0
    for stretch in stretches:
        stop = start + len(stretch.steps)
        failures = [stack.failures[j] for j in range(start, stop) if j in stack.failures]
        failure = stretch.failure or (failures[0] if failures else None)
        found.append(failure or taken[start:stop])
        start = stop
    return found


class _Feed:
    """Batches of the modules of several stretches as one, step by step, with the weights of their rows.

    Rows are put side by side for as many steps at once as take little memory. Modules that have fewer rows in a step than others
    get rows of weight zero.
    """

    def __init__(self, stretches: Sequence[Stretch]):
        self._stretches = stretches
        self._left: list[Block | None] = [None] * len(stretches)  # of each stretch, what was not taken
        self._n_taken = 0  # up to there

    def __iter__(self) -> Iterator[tuple[Batch, torch.Tensor]]:
        while True:
            self._read()
            blocks = [block for block in self._left if block is not None]
            widths = [max(sizes) for sizes in zip(*(block.sizes for block in blocks), strict=False)]
            width, n_numbers = widths[0], sum(block.n_numbers for block in blocks)
            n_alike = sum(1 for _ in itertools.takewhile(width.__eq__, widths))
            n_left = self._stretches[0].n_steps - self._n_taken
            n_steps = min(n_alike, n_left, max(1, _GATHERED_NUMBERS // (n_numbers * width)))
            parts, left = zip(*(block.divided(n_steps) for block in blocks), strict=True)
            batch, weight = _side_by_side([block.padded(width) for block in parts])
            steps, weights = batch.mapped(torch.Tensor.unbind), weight.unbind()
            for i in range(n_steps):
                yield steps.mapped(itemgetter(i)), weights[i]
            self._left, self._n_taken = [block if block.sizes else None for block in left], self._n_taken + n_steps

    def put_back(self, n_taken: int) -> None:
        """Give the stretches back what they have read beyond so many steps."""
        for stretch, block in zip(self._stretches, self._left, strict=True):
            if block is not None and stretch.failure is None:
                stretch.put_back(block.divided(n_taken - self._n_taken)[1])

    def _read(self) -> None:
        """Read on where nothing is left; stretches that cannot be read have the rows of another, which do not count.

        Raises
        ------
        Exception
            If none can be read.
        """
        for i, stretch in enumerate(self._stretches):
            if self._left[i] is None and stretch.failure is None:
                try:
                    self._left[i] = next(stretch.blocks)
                except Exception as error:
                    stretch.failure = error
        some = next((block for block, stretch in zip(self._left, self._stretches, strict=True) if stretch.failure is None), None)
        if some is None:
            assert self._stretches[0].failure is not None
            raise self._stretches[0].failure
        other = some.of_no_weight()
        for i, stretch in enumerate(self._stretches):
            if self._left[i] is None:
                n_modules = len(stretch.steps)
                rows = (
                    other.rows.mapped(lambda part, n=n_modules: part[:1].expand(n, *part.shape[1:])) if other.axis else other.rows
                )
                self._left[i] = other._replace(rows=rows)


def _side_by_side(found: Sequence[tuple[Batch, torch.Tensor]]) -> tuple[Batch, torch.Tensor]:
    """Return the batches of all modules as one, ``(n_batches, n_modules, n, ...)``, and the weights of their rows."""
    first = found[0][0]
    for batch, _ in found:
        if any((one is None) != (other is None) for one, other in zip(batch, first, strict=True)):
            raise CannotStackError
    is_own_target = all(batch.target is batch.x for batch, _ in found)
    parts = [None if part is None else torch.cat([batch[i] for batch, _ in found], 1) for i, part in enumerate(first[:-1])]
    if is_own_target:
        parts[1] = parts[0]
    noise = {name: torch.cat([batch.drawn(name) for batch, _ in found], 1) for name in first.noise or {}}
    joined = Batch(*parts, noise=noise)  # type: ignore[arg-type]
    if all(weight is batch.weight for batch, weight in found):
        return joined, joined.weight
    return joined, torch.cat([weight for _, weight in found], 1)


def take_alone(stretch: Stretch) -> None:
    """Take the steps of a stretch one by one."""
    taken = 0
    while taken < stretch.n_steps:
        block, rest = next(stretch.blocks).divided(stretch.n_steps - taken)
        for batch in block.batches():
            progress = stretch.begin_step(taken)
            taken += 1
            for j, step in enumerate(stretch.steps):
                step(batch.mapped(itemgetter(j)) if block.axis else batch, progress)
        stretch.put_back(rest)


def leave(steps: Sequence[EagerStep]) -> None:
    """Have modules take their steps alone from now on."""
    for step in steps:
        if step.stack is not None:
            step.stack.leave(step)


class _Sums:
    """Sums of the terms of losses over a stretch, of every module."""

    def __init__(self) -> None:
        self._of_rows: dict[str, torch.Tensor] = {}
        self._of_batches: dict[str, torch.Tensor] = {}
        self._weight: torch.Tensor | None = None
        self._n_steps = 0

    def add(self, terms: dict[str, torch.Tensor], weight: torch.Tensor) -> None:
        """Add terms ``(n_modules, n)`` or ``(n_modules,)``, with the weights of the rows."""
        for name, term in terms.items():
            sums = self._of_rows if term.dim() > 1 else self._of_batches
            value = ((term * weight).sum(1) if term.dim() > 1 else term).double()
            sums[name] = sums[name] + value if name in sums else value
        of_rows = weight.sum(1).double()
        self._weight = of_rows if self._weight is None else self._weight + of_rows
        self._n_steps += 1

    def means(self, norms: torch.Tensor) -> tuple[list[str], torch.Tensor]:
        """Return the names of the terms, and the means of every module with the norms of its weights."""
        means = {name: total / self._weight for name, total in self._of_rows.items()}
        means.update({name: total / self._n_steps for name, total in self._of_batches.items()})
        return list(means), torch.stack([*means.values(), norms.double()], dim=1)


def _read(epochs: list[tuple[list[str], torch.Tensor]]) -> list[list[Taken]]:
    """Return what has come of every module, epoch by epoch; reads from the device once."""
    if not epochs:
        return []
    values = torch.cat([means for _, means in epochs], dim=1).tolist()
    found: list[list[Taken]] = []
    for of_module in values:
        numbers = iter(of_module)
        found.append([Taken({name: next(numbers) for name in names}, next(numbers)) for names, _ in epochs])
    return found
