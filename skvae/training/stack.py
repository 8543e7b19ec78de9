"""Steps of several modules of one shape at once, each with rows, noise, schedule, rate and optimizer of its own.

What the modules learn lies one behind the other in tensors with a leading axis; each module's own parameters are views of these
for as long as they are trained together, so that a callback, a snapshot or a norm sees them as if the module were trained alone.
What fused optimizers gather lies likewise, and is handed back to each when it is asked for, or its module leaves.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.func import vmap

from skvae.modules import Batch, TrainableModule
from skvae.modules.likelihoods.units import Units
from skvae.runtime.randomness import draws_random_numbers
from skvae.runtime.state import copy_of
from skvae.training.optimizers import OptimizerError, fused_update, is_fused
from skvae.training.replay import Replay
from skvae.training.step import EagerStep, shrink

_OF_ROWS = Batch._fields[:-1]
_TORCH = frozenset(vars(nn.Module()))
_MOMENTS = ("exp_avg", "exp_avg_sq")


class CannotStackError(Exception):
    """Modules have something that cannot be computed for several at once; nothing has changed yet."""


def stack_key(module: TrainableModule) -> bytes | None:
    """Return what modules have in common whose steps can be taken at once; None for those that take theirs alone.

    These are the shapes of all they learn and all settings but those that reach the loss through the schedule.
    """
    if draws_random_numbers(module) or getattr(module, "draws_in_training", False):
        return None
    layers: list[Any] = [sorted(module.schedule(0.0))]
    names = {id(layer): name for name, layer in module.named_modules()}
    for name, layer in module.named_modules():
        if not type(layer).__module__.startswith(("torch.nn.", "skvae.")) or isinstance(layer, _WITHOUT_A_RULE):
            return None
        settings = [
            (key, _setting(value, names))
            for key, value in sorted(vars(layer).items())
            if key not in _TORCH
            and key not in getattr(layer, "scheduled", ())
            and not isinstance(getattr(type(layer), key, None), cached_property)
        ]
        tensors = [
            (key, tuple(value.shape), str(value.dtype), str(value.device), value.requires_grad)
            for key, value in (*layer._parameters.items(), *layer._buffers.items())
            if value is not None
        ]
        layers.append((name, type(layer), settings, tensors))
    try:
        return pickle.dumps(layers)
    except Exception:  # a function of the user's own, say, of which nothing is known
        return None


def _scheduled(module: TrainableModule) -> bytes:
    """Return the settings that reach the loss through the schedule alone, or not at all."""
    own = [getattr(layer, name, None) for layer in module.modules() for name in sorted(getattr(layer, "scheduled", ()))]
    try:
        return pickle.dumps(own)
    except (pickle.PicklingError, AttributeError, TypeError):  # a function of the user's own, say, of which nothing is known
        return str(id(module)).encode()


def _setting(value: Any, names: dict[int, str]) -> Any:
    """Return what can be compared of a setting: of a layer that another one knows, where it is; of units, that there are some."""
    if isinstance(value, nn.Module):
        return type(value), names.get(id(value))
    if isinstance(value, (tuple, list)):
        return [_setting(each, names) for each in value]
    return type(value) if isinstance(value, Units) else value


# Normalization over a batch remembers it, and recurrent layers are one operation.
_WITHOUT_A_RULE = (nn.modules.batchnorm._BatchNorm, nn.RNNBase, nn.RNNCellBase)


class _Found(NamedTuple):
    """What comes of a step before the update, by name.

    Attributes
    ----------
    terms : dict of Tensor
        Of the losses, ``(n_members, ...)``.
    later : dict of Tensor
        Buffers after the step.
    gradients : dict of Tensor
    """

    terms: dict[str, torch.Tensor]
    later: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]


class StackedStep:
    """One step of several modules at once.

    Parameters
    ----------
    members : sequence of EagerStep
        Of modules with one `stack_key`; neighbors with equal settings are updated at once. They keep modules and optimizers of
        their own, and can take steps alone once they `leave`.

    Attributes
    ----------
    members : list of EagerStep
        In the order of the leading axis.
    failures : dict of OptimizerError
        What optimizers have failed by, by position; theirs take no more steps.
    """

    def __init__(self, members: Sequence[EagerStep]):
        for step in members:
            if step.stack is not None:
                step.stack.leave(step)
        self.members = list(members)
        modules = [step.module for step in self.members]
        self._template = copy_of(modules[0]).train()
        named = [dict(module.named_parameters()) for module in modules]
        self._params: dict[str, torch.Tensor] = {}
        for name, first in named[0].items():
            stacked = torch.stack([params[name].detach() for params in named])
            for params, own in zip(named, stacked.unbind(), strict=True):
                params[name].data = own
            self._params[name] = stacked.requires_grad_(first.requires_grad)
        names = {id(param): name for name, param in self._template.named_parameters()}
        self._decayed = [names[id(param)] for param in self._template.decayed_parameters()]
        self._stack_moments(named)
        self._buffers: dict[str, torch.Tensor] = {}
        self._learned: list[str] | None = None  # names of buffers that steps change, which the first batch tells
        self._columns: list[_Column] = []
        self._slots: list[_Slot] = []
        self._values: list[dict[str, float]] = []
        self._schedule: dict[str, torch.Tensor | float] = {}
        own = [_scheduled(module) for module in modules]
        self._first_alike = [own.index(settings) for settings in own]  # whose schedule is the same
        self.failures: dict[int, OptimizerError] = {}
        self._replay = Replay(1)  # buffers are sorted by a loss of one module before, so that one step settles the rest
        self._names: dict[tuple[str, ...], list[list[str]]] = {}  # of what comes of a step
        for step in self.members:
            step.stack = self

    def _stack_moments(self, named: list[dict[str, nn.Parameter]]) -> None:
        """Put what fused optimizers have gathered side by side."""
        self._is_fused = [is_fused(step.optimizer) and not step.clips for step in self.members]
        settings = list(zip(self._is_fused, [step.settings for step in self.members], strict=True))
        self._is_like_last = [False, *(one == other for one, other in itertools.pairwise(settings))]
        self._moments: dict[str, tuple[torch.Tensor, ...]] = {}
        self._slices: dict[tuple[int, int], dict[str, tuple[torch.Tensor, ...]]] = {}
        states = [step.optimizer.state for step in self.members]
        self._counts = [
            max((float(entry["step"]) for entry in state.values() if "step" in entry), default=0.0) for state in states
        ]
        if not any(self._is_fused):
            return
        for name in self._params:
            params = [each[name] for each in named]
            found = []
            for kind in _MOMENTS:
                own = [
                    state.get(param, {}).get(kind) if fused else None
                    for state, param, fused in zip(states, params, self._is_fused, strict=True)
                ]
                found.append(
                    torch.stack(
                        [torch.zeros_like(param) if each is None else each for each, param in zip(own, params, strict=True)]
                    )
                )
            self._moments[name] = tuple(found)

    def leave(self, step: EagerStep) -> None:
        """Give a module, and its optimizer, memory of their own again."""
        for param in step.module.parameters():
            param.data = param.detach().clone()
        self.write_moments(step)
        for name in self._learned or ():
            slot = _Slot(step.module, name)
            slot.fill(slot.value.clone())
        step.stack = None

    def write_moments(self, step: EagerStep) -> None:
        """Have a module's optimizer know what it has gathered."""
        i = next(i for i, each in enumerate(self.members) if each is step)
        if not self._is_fused[i]:
            return
        for name, param in step.module.named_parameters():
            if self._counts[i] and param.requires_grad:
                entry = step.optimizer.state[param]
                for kind, moments in zip(_MOMENTS, self._moments[name], strict=True):
                    entry[kind] = moments[i].clone()
                entry["step"] = torch.tensor(self._counts[i], dtype=torch.float32, device=param.device)
        step.optimizer._lists = None  # type: ignore[attr-defined]

    # -- the step -----------------------------------------------------------------------------------------------------

    def __call__(self, batch: Batch, progress: Sequence[float]) -> dict[str, torch.Tensor]:
        """Take a step of every module, and return the terms of the losses, each ``(n_members, ...)``.

        Parameters
        ----------
        batch : Batch
            Of all modules, ``(n_members, n, ...)``.
        progress : sequence of float
            Fraction of each run that lies behind.

        Raises
        ------
        CannotStackError
            If there is something that cannot be computed for several modules at once.
        """
        try:
            if self._learned is None:
                self._sort_buffers(batch, progress)
            found = self._differentiated(batch, progress)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise CannotStackError from error
        for name, value in found.later.items():
            self._buffers[name].copy_(value)
        for name, value in found.gradients.items():
            self._params[name].grad = value
        self._update(progress)
        for param in self._params.values():
            param.grad = None
        return found.terms

    def norms(self) -> torch.Tensor:
        """Norm of all parameters of each module, ``(n_members,)``."""
        with torch.no_grad():
            return torch.stack([param.flatten(1).square().sum(1) for param in self._params.values()]).sum(0).sqrt()

    def _differentiated(self, batch: Batch, progress: Sequence[float]) -> _Found:
        """Losses and what comes of them, by the short way where there is one."""
        schedule = self._schedules(progress)
        moving = {name: value for name, value in schedule.items() if isinstance(value, torch.Tensor)}
        rows = {name: part for name, part in zip(_OF_ROWS, batch[:-1], strict=True) if part is not None}
        if batch.target is batch.x:
            del rows["target"]
        noise = batch.noise or {}
        n_steps, interval = self.members[0].n_steps, self._template.interval
        if batch.x.device.type != "cpu" or (interval is not None and n_steps % interval == 0):
            return self._taken(schedule, moving, rows, noise)
        kind, given = (*moving, *rows, *noise), [*moving.values(), *rows.values(), *noise.values()]

        def taken() -> list[torch.Tensor]:
            found = self._taken(schedule, moving, rows, noise)
            self._names[kind] = [list(part) for part in found]
            return [value for part in found for value in part.values()]

        values = iter(self._replay(kind, given, taken))
        return _Found(*({name: next(values) for name in names} for names in self._names[kind]))

    def _taken(
        self,
        schedule: dict[str, torch.Tensor | float],
        moving: dict[str, torch.Tensor],
        rows: dict[str, torch.Tensor],
        noise: dict[str, torch.Tensor],
    ) -> _Found:
        """Losses and what comes of them, operation by operation."""
        terms, later = self._losses(schedule, moving, rows, noise)
        share = rows["weight"] / rows["weight"].shape[1]
        # Starting the backward pass at the terms, weighted, saves summing them first.
        torch.autograd.backward(
            list(terms.values()), [share if term.dim() > 1 else torch.ones_like(term) for term in terms.values()]
        )
        gradients = {name: param.grad for name, param in self._params.items() if param.grad is not None}
        for param in self._params.values():
            param.grad = None
        assert self._learned is not None
        return _Found(
            {name: term.detach() for name, term in terms.items()}, dict(zip(self._learned, later, strict=True)), gradients
        )

    def _losses(
        self,
        schedule: dict[str, torch.Tensor | float],
        moving: dict[str, torch.Tensor],
        rows: dict[str, torch.Tensor],
        noise: dict[str, torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """Terms of all losses, and the buffers after the step."""
        template, n_steps = self._template, self.members[0].n_steps
        has_interval = template.interval is not None and n_steps % template.interval == 0
        parts: list[Sequence[torch.Tensor]] = [
            [*self._params.values(), *self._buffers.values()],
            [column.stacked for column in self._columns],
            list(moving.values()),
            list(rows.values()),
            list(noise.values()),
        ]
        ends = list(itertools.accumulate(map(len, parts)))

        def losses(given: list[torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
            own, columns, moved, of_rows, drawn = (given[end - len(part) : end] for part, end in zip(parts, ends, strict=True))
            for slot, value in zip(self._slots, own, strict=True):
                slot.fill(value)
            for column, value in zip(self._columns, columns, strict=True):
                column.value = value
            fields = dict(zip(rows, of_rows, strict=True))
            fields.setdefault("target", fields["x"])
            now = Batch(**fields, noise=dict(zip(noise, drawn, strict=True)))
            terms, learned = template.loss(now, {**schedule, **dict(zip(moving, moved, strict=True))})
            with torch.no_grad():
                changing = [slot for slot in self._slots if slot.is_learned]
                later = [slot.fill(slot.value.clone()) for slot in changing]
                learned = {name: value.detach() for name, value in learned.items()}
                template.after_step(learned)
                if has_interval:
                    template.after_interval(learned, n_steps)
            return terms, later

        found: tuple[dict[str, torch.Tensor], list[torch.Tensor]] = vmap(losses)(list(itertools.chain(*parts)))
        return found

    def _schedules(self, progress: Sequence[float]) -> dict[str, torch.Tensor | float]:
        """Values of the schedules, with an entry for each module; the number one where all have it."""
        values: list[dict[str, float]] = []
        for step, at, i in zip(self.members, progress, self._first_alike, strict=True):
            is_known = i < len(values) and progress[i] == at
            values.append(values[i] if is_known else step.module.schedule(at))
        if values != self._values:
            if any(each.keys() != values[0].keys() for each in values):
                raise CannotStackError
            like = next(iter(self._params.values()))
            self._schedule = {}
            for name in values[0]:
                own = [each[name] for each in values]
                self._schedule[name] = 1.0 if own == [1.0] * len(own) else like.new_tensor(own)
            self._values = values
        return self._schedule

    def _sort_buffers(self, batch: Batch, progress: Sequence[float]) -> None:
        """Find out which buffers a step changes, and which statistics of columns a loss asks for, by those of one module.

        Handing a buffer to every call takes its time: those that are the same for all, and stay so, are left where they are.
        """
        template, modules = self._template, [step.module for step in self.members]
        first = batch.mapped(itemgetter(0))
        self._columns = _watch_units(template, modules)
        probe = dict(template.named_buffers())
        versions = {name: value._version for name, value in probe.items()}
        with torch.no_grad():
            schedule = modules[0].schedule(progress[0])
            _, learned = template.loss(first, {name: first.weight.new_tensor(value) for name, value in schedule.items()})
            template.after_step(learned)
            if template.interval is not None:
                template.after_interval(learned, 0)
        found = [name for name, value in probe.items() if value._version != versions[name]]
        named = [dict(module.named_buffers()) for module in modules]
        for name in probe:
            values = [each[name] for each in named]
            if name in found or not all(torch.equal(values[0], other) for other in values[1:]):
                self._buffers[name] = torch.stack(values)
            else:
                _Slot(template, name).fill(values[0])
        for name in found:
            for module, own in zip(modules, self._buffers[name].unbind(), strict=True):
                _Slot(module, name).fill(own)
        self._slots = [_Slot(template, name, is_learned=name in found) for name in (*self._params, *self._buffers)]
        self._learned = [name for name in self._buffers if name in found]

    # -- the update ---------------------------------------------------------------------------------------------------

    def _update(self, progress: Sequence[float]) -> None:
        """Update every module by its own optimizer; those in a row with equal settings, and equal numbers of steps, at once."""
        rates = [step.rate(at) for step, at in zip(self.members, progress, strict=True)]
        if self._decayed:
            self._shrink([rate * step.module.decay for step, rate in zip(self.members, rates, strict=True)])
        counts, starts = self._counts, [0]
        for i in range(1, len(rates)):
            if not (self._is_like_last[i] and rates[i] == rates[i - 1] and counts[i] == counts[i - 1]):
                starts.append(i)
        ends = [*starts[1:], len(rates)]
        sizes = [end - start for start, end in zip(starts, ends, strict=True)]
        gradients = {name: param.grad.split(sizes) for name, param in self._params.items() if param.grad is not None}
        for k, (start, stop) in enumerate(zip(starts, ends, strict=True)):
            if self._is_fused[start]:
                self._update_at_once(start, stop, rates[start], {name: parts[k] for name, parts in gradients.items()})
            else:
                for i in range(start, stop):
                    self._update_alone(i, rates[i])
        for step in self.members:
            step.n_steps += 1

    def _shrink(self, factors: list[float]) -> None:
        decayed = [self._params[name] for name in self._decayed if self._params[name].grad is not None]
        if not decayed or not any(factors):
            return
        if len(set(factors)) == 1:
            shrink(decayed, factors[0])
            return
        left = torch.tensor([max(0.0, 1.0 - factor) for factor in factors], device=decayed[0].device)
        with torch.no_grad():
            torch._foreach_mul_(decayed, [left.view(-1, *[1] * (param.dim() - 1)) for param in decayed])

    def _update_at_once(self, start: int, stop: int, rate: float, gradients: dict[str, torch.Tensor]) -> None:
        if (start, stop) not in self._slices:
            self._slices[start, stop] = {
                name: tuple(part.detach()[start:stop] for part in (self._params[name], *moments))
                for name, moments in self._moments.items()
            }
        own = [self._slices[start, stop][name] for name in gradients]
        params, exp_avgs, exp_avg_sqs = ([parts[j] for parts in own] for j in range(3))
        count = self._counts[start] + 1.0
        self._counts[start:stop] = [count] * (stop - start)
        optimizer = self.members[start].optimizer
        fused_update(optimizer, params, list(gradients.values()), exp_avgs, exp_avg_sqs, count=count, rate=rate)

    def _update_alone(self, i: int, rate: float) -> None:
        step = self.members[i]
        if i in self.failures:
            return
        for name, param in step.module.named_parameters():
            gradient = self._params[name].grad
            param.grad = None if gradient is None else gradient[i]
        try:
            step.clip()
            step.descend(rate)
        except OptimizerError as failure:
            self.failures[i] = failure


class _Slot:
    """The place of a parameter or buffer in a module, which takes any tensor: `torch.func.functional_call` takes far longer."""

    def __init__(self, module: nn.Module, name: str, *, is_learned: bool = False):
        path, _, self._name = name.rpartition(".")
        self.is_learned = is_learned
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


class _Column:
    """A statistic of columns that a loss asks for: of all modules, and of the one whose loss is computed."""

    def __init__(self, values: list[torch.Tensor]):
        self.stacked, self.value = torch.stack(values), values[0]


class _WatchedUnits:
    """Units of several modules in the place of those of one: notes what statistics are asked for, and hands out those of each."""

    def __init__(self, units: list[Units], columns: list[_Column]):
        self._units, self._columns = units, columns
        self._found: dict[tuple[Any, ...], _Column] = {}

    def __getattr__(self, name: str) -> Any:
        if name in ("column", "value", "varying"):
            return lambda *args: self._statistic(name, *args)
        values = [getattr(units, name) for units in self._units]
        if callable(values[0]) or not all(np.array_equal(values[0], value) for value in values[1:]):
            raise CannotStackError
        return values[0]

    def _statistic(self, name: str, *args: Any) -> torch.Tensor:
        if (name, *args) not in self._found:
            column = self._found[name, *args] = _Column([getattr(units, name)(*args) for units in self._units])
            self._columns.append(column)
        return self._found[name, *args].value


def _watch_units(template: TrainableModule, modules: list[TrainableModule]) -> list[_Column]:
    """Watch what the loss of a template asks of units, for which it is given those of modules."""
    columns: list[_Column] = []
    for path, layer in template.named_modules():
        for name, value in vars(layer).items():
            if isinstance(value, Units):
                units = [getattr(module.get_submodule(path), name) for module in modules]
                vars(layer)[name] = _WatchedUnits(units, columns)
    return columns
