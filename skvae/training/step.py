"""A training step, run operation by operation.

A module's `loss` is pure and its schedule's values are tensors, so that the same arithmetic can be run in other ways: for several
modules of one shape at once (`skvae.training.stack`), by operations that are noted once (`ReplayedStep`), or recorded once and
replayed on a GPU (`skvae.training.graph`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from skvae.modules import Batch, Loss, TrainableModule
from skvae.modules.base import Schedule
from skvae.training.optimizers import take_step
from skvae.training.replay import Replay
from skvae.training.schedules import SCHEDULES

if TYPE_CHECKING:
    from skvae.training.stack import StackedStep

_FIRST_STEPS = 32  # that are taken as they come: noting one takes as long as some 200 save


class Step(Protocol):
    """One training step.

    Attributes
    ----------
    params : list of Parameter
        What is trained.
    n_steps : int
        Steps that lie behind.
    is_weighted : bool
        Whether weights differ between the rows that come next.
    """

    params: list[nn.Parameter]
    n_steps: int
    is_weighted: bool

    def __call__(self, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        """Take a step, a fraction `progress` of the run behind it, and return the terms of the loss before it."""


class EagerStep:
    """One step, run operation by operation.

    Parameters
    ----------
    module : TrainableModule
    optimizer : Optimizer
        Over the module's parameters.
    learning_rate : float
    learning_rate_schedule : str
        A name in `SCHEDULES`.
    clip_norm, clip_value : float or None
        Largest norm of the whole gradient, and largest size of its entries.
    on_gradient : callable or None
        Called with the batch once gradients are there and clipped.
    n_steps : int, default=0
        Steps that lie behind.

    Attributes
    ----------
    stack : StackedStep or None
        What takes the steps of several modules at once, where this is one of them.
    can_stack : bool
        Whether it may be one.
    as_recorded : bool
        Whether steps are such that recorded ones leave the same bits behind: with learning rates of single precision, as tensors
        hold them, and batches that begin where copies of them do.
    shape : bytes or None
        What these have in common, once it is known.
    """

    stack: StackedStep | None = None
    can_stack = True
    shape: bytes | None = None

    def __init__(
        self,
        module: TrainableModule,
        optimizer: torch.optim.Optimizer,
        *,
        learning_rate: float,
        learning_rate_schedule: str = "constant",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        on_gradient: Callable[[Batch], Any] | None = None,
        n_steps: int = 0,
    ):
        self.n_steps, self._interval = n_steps, module.interval
        self.module, self.optimizer = module, optimizer
        self.learning_rate, self.rate_factor = learning_rate, SCHEDULES[learning_rate_schedule]
        self.clip_norm, self.clip_value, self.on_gradient = clip_norm, clip_value, on_gradient
        self.params = [param for group in optimizer.param_groups for param in group["params"]]
        self.decayed = module.decayed_parameters()
        self.as_recorded = records(self.params[0].device)
        self.schedule = ScheduleTensors(module, plain_ones=True)
        self.is_weighted = True  # whether weights differ between rows; else their shares are computed once
        self._shares: dict[int, torch.Tensor] = {}
        self._buffers = [(layer._buffers, name) for layer in module.modules() for name in layer._buffers]

    def __call__(self, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        if self.as_recorded:
            batch = _aligned(batch)
        terms, learned = self.differentiate(batch, self.schedule(progress), self._share(batch))
        if self.on_gradient is not None:
            self.on_gradient(batch)
        self.module.after_step(learned)
        if self._interval is not None and self.n_steps % self._interval == 0:
            self.module.after_interval(learned, self.n_steps)
        self.n_steps += 1
        rate = self.rate(progress)
        if self.decayed and self.module.decay:
            shrink([param for param in self.decayed if param.grad is not None], rate * self.module.decay)
        self.descend(rate)
        return terms

    def differentiate(self, batch: Batch, schedule: Schedule, share: torch.Tensor) -> Loss:
        """Return the loss, and leave its gradients, clipped, with the parameters.

        Parameters
        ----------
        batch : Batch
        schedule : dict
            See `TrainableModule.loss`.
        share : Tensor of shape (n,)
            Each row's part in the mean.
        """
        loss = self.module.loss(batch, schedule)
        # Starting the backward pass at the terms, weighted, saves summing and averaging them first.
        terms = list(loss.terms.values())
        torch.autograd.backward(terms, [share if term.dim() else None for term in terms])
        self.clip()
        return loss

    @property
    def memory(self) -> list[int]:
        """Addresses of the parameters and buffers."""
        return [tensor.data_ptr() for tensor in (*self.params, *self._present_buffers())]

    def _present_buffers(self) -> list[torch.Tensor]:
        return [buffer for buffer in (place[name] for place, name in self._buffers) if buffer is not None]

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped."""
        return self.clip_value is not None or self.clip_norm is not None

    @cached_property
    def settings(self) -> str:
        """Settings of the optimizer, but for the learning rate."""
        groups = [
            {key: value for key, value in group.items() if key not in ("params", "lr")} for group in self.optimizer.param_groups
        ]
        return f"{type(self.optimizer).__name__} {groups!r}"

    def rate(self, progress: float) -> float:
        """Learning rate, a fraction `progress` of the run behind it."""
        rate = self.learning_rate * self.rate_factor(progress)
        return float(np.float32(rate)) if self.as_recorded else rate

    def clip(self) -> None:
        """Clip the gradients."""
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.params, self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.params, self.clip_norm)

    def forget(self) -> None:
        """Give back what is kept between steps, at the end of a run."""

    def descend(self, rate: float | torch.Tensor) -> None:
        """Have the optimizer take its step, and forget the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            take_step(self.optimizer)
        finally:
            for param in self.params:
                param.grad = None

    def _share(self, batch: Batch) -> torch.Tensor:
        """Each row's part in the mean over a batch."""
        n_rows = len(batch.weight)
        if self.is_weighted:
            return batch.weight / n_rows
        if n_rows not in self._shares:
            self._shares[n_rows] = batch.weight / n_rows
        return self._shares[n_rows]


class ReplayedStep(EagerStep):
    """A step on small tensors, whose operations are noted once and then run without what leads to them; see `Replay`.

    Parameters
    ----------
    module, optimizer, **settings
        See `EagerStep`.
    """

    def __init__(self, module: TrainableModule, optimizer: torch.optim.Optimizer, **settings: Any):
        super().__init__(module, optimizer, **settings)
        self._names: dict[tuple[Any, ...], tuple[list[str], list[str], list[nn.Parameter]]] = {}  # of what comes of a step
        self.forget()

    def differentiate(self, batch: Batch, schedule: Schedule, share: torch.Tensor) -> Loss:
        if self.memory != self._noted_in:  # where operations read what has moved
            self.forget()
        given = {id(part): part for part in (*parts_of(batch), share) if part is not None}
        places = {key: i for i, key in enumerate(given)}
        values = ((name, value if isinstance(value, float) else value.data_ptr()) for name, value in schedule.items())
        kind = (*(places.get(id(part)) for part in parts_of(batch)), *(batch.noise or ()), *values)

        def differentiated() -> list[torch.Tensor]:
            loss = super(ReplayedStep, self).differentiate(batch, schedule, share)
            reached = [param for param in self.params if param.grad is not None]
            self._names[kind] = list(loss.terms), list(loss.learned), reached
            return [
                *(term.detach() for term in loss.terms.values()),
                *(value.detach() for value in loss.learned.values()),
                *(param.grad for param in reached if param.grad is not None),
            ]

        found = iter(self._replay(kind, list(given.values()), differentiated))
        terms, learned, reached = self._names[kind]
        loss = Loss({name: next(found) for name in terms}, {name: next(found) for name in learned})
        for param in reached:
            param.grad = next(found)
        return loss

    def forget(self) -> None:
        """Give back what has been noted."""
        # Buffers may change in a loss: normalization over a batch remembers it.
        self._noted_in, self._replay = self.memory, Replay(_FIRST_STEPS, self._present_buffers)


def parts_of(batch: Batch) -> list[torch.Tensor | None]:
    """Return the tensors of a batch; None for the target where it is the rows themselves."""
    target = None if batch.target is batch.x else batch.target
    return [batch.x, target, *batch[2:-1], *(batch.noise or {}).values()]


def records(device: torch.device) -> bool:
    """Whether steps on a device may be recorded."""
    return device.type == "cuda"


def _aligned(batch: Batch) -> Batch:
    """Return a batch whose tensors begin cache lines, as what is new does; where they begin may decide about the last bit."""

    def moved(part: torch.Tensor | None) -> torch.Tensor | None:
        return part if part is None or part.data_ptr() % 64 == 0 else part.clone()

    x = moved(batch.x)
    target = x if batch.target is batch.x else moved(batch.target)
    noise = None if batch.noise is None else {name: moved(value) for name, value in batch.noise.items()}
    return Batch(x, target, *map(moved, batch[2:-1]), noise=noise)  # type: ignore[arg-type]


def shrink(params: list[Any], factor: float) -> None:
    """Multiply parameters by one minus a factor, down to zero."""
    if params and factor:
        with torch.no_grad():
            torch._foreach_mul_(params, max(0.0, 1.0 - factor))


class ScheduleTensors:
    """Values of a module's schedule as tensors of shape ``()``, which are overwritten in place.

    Parameters
    ----------
    module : TrainableModule
    plain_ones : bool, default=False
        Hand out the number 1.0 in place of a tensor of that value, so that a product with it can be spared: for steps that are
        taken operation by operation.
    """

    def __init__(self, module: TrainableModule, *, plain_ones: bool = False):
        self._module, self._device = module, next(module.parameters()).device
        self._plain_ones = plain_ones
        self._values: dict[str, float] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self._schedule: Schedule = {}

    def __call__(self, progress: float) -> Schedule:
        """Tensors with the values at `progress`; the same ones at every call, but for those that the module leaves out."""
        values = self._module.schedule(progress)
        if values != self._values:
            self._tensors = {name: self._tensors.get(name, torch.empty((), device=self._device)) for name in values}
            for name, value in values.items():
                self._tensors[name].fill_(value)
            ones = [name for name, value in values.items() if self._plain_ones and value == 1.0]
            self._schedule = {**self._tensors, **dict.fromkeys(ones, 1.0)}
            self._values = values
        return self._schedule
