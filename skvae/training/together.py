"""Stretches of training: those of modules of one shape that meet are taken at once, others step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from joblib import cpu_count

from skvae.modules import Batch
from skvae.runtime.meeting import check_aborted, in_threads
from skvae.runtime.precision import single_precision
from skvae.runtime.threads import one_thread
from skvae.training.stack import CannotStackError, StackedStep, stack_key
from skvae.training.step import EagerStep

_WORK = 2**25  # multiply-adds of a step from which on more models at once are hardly quicker


@dataclass
class Stretch:
    """Steps of one module, or of some of one shape, up to where somebody looks at what has become of them.

    Attributes
    ----------
    steps : sequence of EagerStep
        Of the modules, with equal settings.
    batches : iterator of Batch
        Of the one module, or, with `is_stacked`, of all of them: what belongs to rows, and the noise, is then
        ``(n_modules, n, ...)``.
    n_steps, n_rows : int
        Of each module, the latter in a batch, about.
    begin_step : callable
        Called with the number of steps that lie behind, before each one; returns the fraction of the run that does.
    is_stacked : bool, default=False
    n_epochs : int, default=0
        Of how many epochs the terms of the loss are kept; 0 if nobody wants to know them.
    failure : Exception or None
        What its batches have failed by.
    """

    steps: Sequence[EagerStep]
    batches: Iterator[Batch]
    n_steps: int
    n_rows: int
    begin_step: Callable[[int], float]
    is_stacked: bool = False
    n_epochs: int = 0
    failure: Exception | None = None

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
        n_parts = min(len(in_order), max(round(share), 2 if share > 0.5 else 1))
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
    for i in range(stretches[0].n_steps):
        check_aborted()
        progress = [at for stretch in stretches for at in [stretch.begin_step(i)] * len(stretch.steps)]
        batches = _next_batches(stretches)
        try:
            batch, weight = _joined(batches, is_stacked=stretches[0].is_stacked)
            terms = stack(batch, progress)
        except CannotStackError:
            if i:
                raise
            _take_back(members, stretches, batches)
            return [None] * len(stretches)
        if stretches[0].n_epochs:
            sums.add(terms, weight)
            if (i + 1) % (stretches[0].n_steps // stretches[0].n_epochs) == 0:
                epochs.append(sums.means(stack.norms()))
                sums = _Sums()
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


def _next_batches(stretches: list[Stretch]) -> list[Batch]:
    """Return the next batch of every stretch; for one whose rows cannot be read, those of another, which do not count.

    Raises
    ------
    Exception
        If none can be read.
    """
    found: list[Batch | None] = []
    for stretch in stretches:
        try:
            found.append(next(stretch.batches) if stretch.failure is None else None)
        except Exception as error:
            stretch.failure = error
            found.append(None)
    some = next((batch for batch in found if batch is not None), None)
    if some is None:
        assert stretches[0].failure is not None
        raise stretches[0].failure
    other = alone(part_of(some, 0)) if stretches[0].is_stacked else some
    other = other._replace(weight=torch.zeros_like(other.weight))
    return [
        batch or (_expanded(other, len(stretch.steps)) if stretch.is_stacked else other)
        for batch, stretch in zip(found, stretches, strict=True)
    ]


def _expanded(batch: Batch, n: int) -> Batch:
    """Return the batch of one of several modules as that of so many."""
    parts = (None if part is None else part.expand(n, *part.shape[1:]) for part in batch[:-1])
    noise = {name: value.expand(n, *value.shape[1:]) for name, value in (batch.noise or {}).items()}
    return Batch(*parts, noise=noise)  # type: ignore[arg-type]


def _take_back(members: list[EagerStep], stretches: list[Stretch], batches: list[Batch]) -> None:
    """Leave stretches as they were before their first batches, for each to be taken by itself."""
    leave(members)
    for step in members:
        step.can_stack = False
    for stretch, batch in zip(stretches, batches, strict=True):
        stretch.batches = itertools.chain([batch], stretch.batches)


def take_alone(stretch: Stretch) -> None:
    """Take the steps of a stretch one by one."""
    for i in range(stretch.n_steps):
        progress, batch = stretch.begin_step(i), next(stretch.batches)
        for j, step in enumerate(stretch.steps):
            step(part_of(batch, j) if stretch.is_stacked else batch, progress)


def leave(steps: Sequence[EagerStep]) -> None:
    """Have modules take their steps alone from now on."""
    for step in steps:
        if step.stack is not None:
            step.stack.leave(step)


def alone(batch: Batch) -> Batch:
    """Return a batch as that of the only one of several modules."""
    x = batch.x.unsqueeze(0)
    target = x if batch.target is batch.x else batch.target.unsqueeze(0)
    others = (None if part is None else part.unsqueeze(0) for part in batch[2:-1])
    return Batch(x, target, *others, noise={name: value.unsqueeze(0) for name, value in (batch.noise or {}).items()})  # type: ignore[arg-type]


def part_of(batch: Batch, i: int) -> Batch:
    """Return one module's part of the batch of several."""
    x = batch.x[i]
    target = x if batch.target is batch.x else batch.target[i]
    others = (None if part is None else part[i] for part in batch[2:-1])
    return Batch(x, target, *others, noise={name: value[i] for name, value in (batch.noise or {}).items()})  # type: ignore[arg-type]


def _joined(batches: Sequence[Batch], *, is_stacked: bool) -> tuple[Batch, torch.Tensor]:
    """Return the batches of all modules as one, and the weights of its rows.

    Where some have more rows than others, these get rows of weight zero, and the weights of their own grow by as much, so that
    a sum over rows divided by their number stays what it is.
    """
    join, axis = (torch.cat, 1) if is_stacked else (torch.stack, 0)
    sizes = [batch.weight.shape[axis] for batch in batches]
    n_rows = max(sizes)
    is_even = min(sizes) == n_rows
    if not is_even:
        batches = [batch if size == n_rows else _padded(batch, n_rows, axis) for batch, size in zip(batches, sizes, strict=True)]
    parts: list[torch.Tensor | None] = []
    is_own_target = all(batch.target is batch.x for batch in batches)
    for field, each in enumerate(zip(*(batch[:-1] for batch in batches), strict=True)):
        if any((part is None) != (each[0] is None) for part in each):
            raise CannotStackError
        if field == 1 and is_own_target:
            parts.append(parts[0])
        else:
            parts.append(None if each[0] is None else join(each))
    noise = {name: join([batch.drawn(name) for batch in batches]) for name in batches[0].noise or {}}
    joined = Batch(*parts, noise=noise)  # type: ignore[arg-type]
    if is_even:
        return joined, joined.weight
    n_modules = [len(batch.weight) if is_stacked else 1 for batch in batches]
    share = [size / n_rows for size, n in zip(sizes, n_modules, strict=True) for _ in range(n)]
    return joined, joined.weight * joined.weight.new_tensor(share).unsqueeze(1)


def _padded(batch: Batch, n_rows: int, axis: int) -> Batch:
    n_own = batch.weight.shape[axis]
    index = torch.arange(n_rows, device=batch.x.device)
    index[n_own:] = 0

    def grown(part: torch.Tensor) -> torch.Tensor:
        return part.index_select(axis, index)

    x = grown(batch.x)
    target = x if batch.target is batch.x else grown(batch.target)
    weight = grown(batch.weight * (n_rows / n_own))
    weight[..., n_own:] = 0.0
    others = (None if part is None else grown(part) for part in batch[3:-1])
    return Batch(x, target, weight, *others, noise={name: grown(value) for name, value in (batch.noise or {}).items()})  # type: ignore[arg-type]


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
