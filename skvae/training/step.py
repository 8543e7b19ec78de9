"""Ways of taking a training step: the same arithmetic of a module, run differently.

A module's `loss` is pure and its schedule's values are tensors, so that a step can be run operation by operation, and by a class
beside this one in other ways: recorded once and replayed, or for several modules of one shape at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.func import stack_module_state, vmap

from skvae.modules import Batch, TrainableModule
from skvae.modules.base import Schedule
from skvae.training.optimizers import Optimizer, take_step
from skvae.training.schedules import SCHEDULES


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


def make_step(
    module: TrainableModule,
    optimizer: torch.optim.Optimizer,
    spec: Optimizer,
    *,
    learning_rate: float,
    n_steps: int = 0,
    on_gradient: Callable[[Batch], Any] | None = None,
) -> Step:
    """Return the way of stepping that suits: the one place that chooses.

    Parameters
    ----------
    spec : Optimizer
        What the optimizer was made of, with its schedule and the bounds of gradients.
    module, optimizer, learning_rate, n_steps, on_gradient
        See `EagerStep`.
    """
    return EagerStep(
        module,
        optimizer,
        learning_rate=learning_rate,
        learning_rate_schedule=spec.schedule,
        clip_norm=spec.clip_norm,
        clip_value=spec.clip_value,
        on_gradient=on_gradient,
        n_steps=n_steps,
    )


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
    """

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
        self.schedule = ScheduleTensors(module, plain_ones=True)
        self.is_weighted = True  # whether weights differ between rows; else their shares are computed once
        self._shares: dict[int, torch.Tensor] = {}

    def __call__(self, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        terms, learned = self.module.loss(batch, self.schedule(progress))
        # Starting the backward pass at the terms, weighted, saves summing and averaging them first.
        share = self._share(batch)
        torch.autograd.backward(list(terms.values()), [share if term.dim() else None for term in terms.values()])
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self.params, self.clip_value)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.params, self.clip_norm)
        if self.on_gradient is not None:
            self.on_gradient(batch)
        self.module.after_step(learned)
        if self._interval is not None and self.n_steps % self._interval == 0:
            self.module.after_interval(learned, self.n_steps)
        self.n_steps += 1
        rate = self.learning_rate * self.rate_factor(progress)
        if self.decayed and self.module.decay:
            shrink([param for param in self.decayed if param.grad is not None], rate * self.module.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        take_step(self.optimizer)
        for param in self.params:
            param.grad = None
        return terms

    def _share(self, batch: Batch) -> torch.Tensor:
        """Each row's part in the mean over a batch."""
        n_rows = len(batch.weight)
        if self.is_weighted:
            return batch.weight / n_rows
        if n_rows not in self._shares:
            self._shares[n_rows] = batch.weight / n_rows
        return self._shares[n_rows]


class StackedStep:
    """One step of several modules of one shape at once, each on rows of its own, by an optimizer that works entry by entry.

    Parameters
    ----------
    modules : sequence of TrainableModule
        In training, of the same shape and with the same schedule. They lend their weights, and stay as they are.
    make_optimizer : callable
        Makes an optimizer of a list of parameters.

    Attributes
    ----------
    weights : dict of Tensor
        Parameters and buffers of the modules, by name, each with the modules along the first axis.
    """

    def __init__(self, modules: Sequence[TrainableModule], make_optimizer: Callable[[list[torch.Tensor]], torch.optim.Optimizer]):
        self._module = copy.deepcopy(modules[0]).train()
        params, buffers = stack_module_state(list(modules))  # type: ignore[arg-type]
        self._params = {name: value.detach().requires_grad_() for name, value in params.items()}
        # Handing a buffer to every call takes its time: those that are the same for all, and stay so, are left where they are.
        self._buffers = {
            name: value.clone()
            for name, value in buffers.items()
            if name.startswith(_LEARNED) or not all(torch.equal(value[0], other) for other in value[1:])
        }
        self.weights = {**self._params, **self._buffers}
        self._slots = [_Slot(self._module, name) for name in self.weights]
        decayed = {id(param) for param in self._module.decayed_parameters()}
        self._decayed = [self.weights[name] for name, param in self._module.named_parameters() if id(param) in decayed]
        self.optimizer = make_optimizer(list(self._params.values()))
        self._schedule = ScheduleTensors(self._module, plain_ones=True)

    def __call__(self, batch: Batch, *, rate: float, decay: float) -> None:
        """Take a step at a learning rate and with a weight decay, at the end of the schedule.

        Parameters
        ----------
        batch : Batch
            What belongs to rows is ``(n_modules, n, ...)``; the noise is the same for all modules, ``(n, ...)``.
        rate, decay : float
        """
        schedule, n_weights = self._schedule(1.0), len(self._slots)

        def losses(*given: Any) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
            """Terms of the loss of one module, and its buffers after the step."""
            for slot, value in zip(self._slots, given, strict=False):
                slot.fill(value)
            terms, learned = self._module.loss(Batch(*given[n_weights:], noise=batch.noise), schedule)
            with torch.no_grad():
                changing = self._slots[len(self._params) :]
                later = [slot.fill(slot.value.clone()) for slot in changing]
                self._module.after_step({name: value.detach() for name, value in learned.items()})
            return terms, later

        given = (*self.weights.values(), *batch[:-1])
        terms, later = vmap(losses, in_dims=tuple(None if part is None else 0 for part in given))(*given)
        share = batch.weight / batch.weight.shape[1]
        total = sum((share * term).sum() if term.dim() == 2 else term.sum() for term in terms.values())
        assert isinstance(total, torch.Tensor)
        total.backward()
        for buffer, value in zip(self._buffers.values(), later, strict=True):
            buffer.copy_(value)
        shrink(self._decayed, rate * decay)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        take_step(self.optimizer)
        for param in self._params.values():
            param.grad = None

    def copy_to(self, modules: Sequence[TrainableModule]) -> None:
        """Give modules the weights that they have come to."""
        for i, module in enumerate(modules):
            state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
            with torch.no_grad():
                for name, value in self.weights.items():
                    state[name].copy_(value[i])


_LEARNED = "likelihood.noise."  # buffers that `after_step` of a module without an `interval` changes


class _Slot:
    """The place of a parameter or buffer in a module, which takes any tensor: `torch.func.functional_call` takes far longer."""

    def __init__(self, module: nn.Module, name: str):
        path, _, self._name = name.rpartition(".")
        owner = module.get_submodule(path)
        self._place: dict[str, Any] = owner._parameters if self._name in owner._parameters else owner._buffers

    @property
    def value(self) -> torch.Tensor:
        """What is there."""
        return self._place[self._name]

    def fill(self, value: torch.Tensor) -> torch.Tensor:
        """Put a tensor there, and return it."""
        self._place[self._name] = value
        return value


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
