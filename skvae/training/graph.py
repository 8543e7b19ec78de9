"""Steps that are recorded once, as a CUDA graph, and replayed from then on.

A GPU is done with an operation of a small network long before the next one is started. A graph starts all operations of a step
at once. It runs what ran when it was recorded, at the same addresses, whatever is said elsewhere: what differs between steps has
to lie in tensors that are overwritten in place, and what needs to look at a number on the way cannot be recorded at all.

Whether a step can be recorded is decided in four places, each of which leads back to steps that are taken operation by
operation, for good and as if nothing had been tried: what is known of module and optimizer (`obstacle_to`), what a step is seen
to do (`Watch`), whether recording it succeeds, and whether a replay gives what the same step gives operation by operation, to the
last bit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skvae.modules import Batch, TrainableModule
from skvae.modules.base import Schedule
from skvae.runtime.randomness import draws_random_numbers
from skvae.training.optimizers import Optimizer, is_fused
from skvae.training.replay import depends_on_numbers
from skvae.training.step import EagerStep, ReplayedStep, ScheduleTensors, Step, parts_of, records

_PAYING_STEPS = 100  # of a run: a graph costs about ten
_MOST_WORK = 2**33  # multiply-adds of a step, which take a GPU longer than starting its operations
_PAYING_STEPS_OF_NOTED, _MOST_WORK_OF_NOTED = 400, 2**27  # the same of steps whose operations are noted, on a CPU
_WARM_STEPS = 2
_MOST_GRAPHS = 2  # at a time: batches of a run differ by a row at most
_MOST_RECORDINGS = 6  # in a run, after which what makes earlier ones useless will not stop doing so

_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """What records steps."""

    def beside(self) -> AbstractContextManager[Any]:
        """Return a context in which steps run as they do when they are recorded."""

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Call a function, none of whose operations is executed, and return what executes them."""


class CudaRecorder:
    """Records what runs on a GPU.

    Parameters
    ----------
    device : torch.device
    """

    # One at a time in a process, and none once one has failed, of which torch's allocator may keep traces.
    _turn = threading.Lock()
    _failed: list[Any] = []

    def __init__(self, device: torch.device):
        index = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Return a context in which steps run on the stream that is recorded, whose libraries take their memory there."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            current.wait_stream(self._stream)

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Record a function as a CUDA graph, and return what replays it."""
        with self._turn, torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            if self._failed:
                raise RuntimeError("a recording has failed in this process before")
            graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            try:
                # Other threads may well ask for memory meanwhile.
                with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                    function()
            except Exception:
                self._failed.append(graph)  # which the allocator may still ask
                self._end_allocation(graph, pool)
                raise
        return graph.replay

    def _end_allocation(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:
        """Have the allocator no longer look for a recording that was broken off, which torch leaves undone."""
        try:
            graph.pool()
        except RuntimeError:  # has not ended
            with suppress(Exception):
                torch._C._cuda_endAllocateToPool(self._device.index, pool)  # type: ignore[attr-defined]


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records steps on a device; None where nothing does, or recording one has failed in this process."""
    return CudaRecorder(device) if records(device) and not CudaRecorder._failed else None


class Watch(TorchDispatchMode):
    """Notes what operations do that cannot be recorded.

    Parameters
    ----------
    device : torch.device
        Where they are recorded.

    Attributes
    ----------
    obstacle : str or None
        The first of them.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._kind = device.type
        self.obstacle: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        result = func(*args, **kwargs)
        if self.obstacle is None:
            self.obstacle = obstacle_in(func, args, kwargs, result, self._kind)
        return result


def obstacle_in(func: Any, args: Any, kwargs: Any, result: Any, kind: str) -> str | None:
    """Return why an operation cannot be recorded on a kind of device; None if it can."""
    name = func.overloadpacket.__name__
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    waits = depends_on_numbers(func, args) or name == "_linalg_check_errors"
    if waits and any(value.device.type == kind for value in given):
        return f"{func} waits for what lies on the device"
    made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
    # A number that lies elsewhere is handed over as such; it stays what it was when a step is recorded.
    kinds = {value.device.type for value in (*given, *made) if value.dim() or name in ("_to_copy", "copy_", "_copy_from")}
    if kind in kinds and (len(kinds) > 1 or (name == "lift_fresh" and kind != "cpu")):
        return f"{func} copies between devices"
    return None


def obstacle_to(module: TrainableModule, *, recorder: Recorder | None, n_rows: int, n_planned: int, watched: bool) -> str | None:
    """Return why steps are not worth recording, or cannot be, as far as that is known beforehand; None if nothing is.

    Parameters
    ----------
    module : TrainableModule
        In training.
    recorder : Recorder or None
        What would record them; None where their operations would be noted.
    n_rows, n_planned : int
        Rows of a batch, and steps to come.
    watched : bool
        Whether anybody else may look at the module, or change it, while it is trained.
    """
    if watched:
        return "callbacks may look at what happens in a step, or change the module"
    if draws_random_numbers(module):  # or has layers of which nothing is known
        return "the module draws random numbers of its own, or has layers that are not known"
    if n_planned < (_PAYING_STEPS_OF_NOTED if recorder is None else _PAYING_STEPS):
        return "the run is too short"
    if n_rows * module.row_work > (_MOST_WORK_OF_NOTED if recorder is None else _MOST_WORK):
        return "the operations of a step take longer than starting them"
    return None


@dataclass
class _Graph:
    """One recorded step, for batches of one size, and what it reads and writes.

    Attributes
    ----------
    batch : Batch
        Read by the step.
    inputs : list of Tensor
        Its tensors.
    schedule : dict
        Read by the step.
    belongs : tuple
        Of what the step was recorded: the optimizer's lists, and addresses of parameters and buffers.
    terms : dict of Tensor
        Written by the step.
    replay : callable or None
    stage : int
        Steps taken so far on the way to a graph that can be trusted.
    """

    batch: Batch
    inputs: list[torch.Tensor]
    schedule: Schedule
    belongs: tuple[Any, ...]
    terms: dict[str, torch.Tensor]
    replay: Callable[[], Any] | None = None
    stage: int = 0


class GraphStep(EagerStep):
    """A step that is recorded once for each size of batches, and replayed.

    The first steps are taken operation by operation, the next as they are recorded; after the recording one step is taken both
    ways, and only if both leave the same bits behind are those that follow replayed. Steps with an `after_interval` are always
    taken operation by operation. Of the rows of a batch, which the loader gathers for many batches at once, as of its noise,
    a replay reads copies in memory of its own.

    Parameters
    ----------
    module, optimizer
        See `EagerStep`; the optimizer is one that `is_fused`.
    recorder : Recorder
    **settings : dict
        See `EagerStep`.

    Attributes
    ----------
    obstacle : str or None
        Why all steps are taken operation by operation from now on.
    n_replayed : int
        Steps that were replayed.
    """

    def __init__(self, module: TrainableModule, optimizer: torch.optim.Optimizer, *, recorder: Recorder, **settings: Any):
        super().__init__(module, optimizer, **settings)
        self.recorder = recorder
        self.obstacle: str | None = None
        self.n_replayed = 0
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self._n_recordings = 0
        self._tensors = ScheduleTensors(module)
        device = self.params[0].device
        self._rate, self._left = (torch.empty((), dtype=torch.float32, device=device) for _ in range(2))
        self._numbers: tuple[float, float] | None = None

    def __call__(self, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        if self.obstacle is not None:
            return super().__call__(batch, progress)
        if self._interval is not None and self.n_steps % self._interval == 0:
            return self._take_eagerly(batch, progress)
        if self._lists is None:  # of the optimizer, which its first step collects
            terms = self._take_eagerly(batch, progress)
            if self._lists is None:
                self.give_up("there are parameters without a gradient")
            return terms
        graph = self._graph_for(batch, progress)
        if graph is None:
            return self._take_eagerly(batch, progress)
        torch._foreach_copy_(graph.inputs, [part for part in parts_of(batch) if part is not None])
        if graph.stage <= _WARM_STEPS + 1:
            graph.stage += 1
            return self._approach(graph, batch, progress)
        assert graph.replay is not None
        try:
            graph.replay()
        except Exception as error:  # before anything has run
            self.give_up(f"a replay failed: {error}")
            return super().__call__(batch, progress)
        self._note_rate()
        self.n_steps += 1
        self.n_replayed += 1
        return {name: term.clone() for name, term in graph.terms.items()}

    def give_up(self, obstacle: str) -> None:
        """Take all steps operation by operation from now on."""
        _log.debug("Steps are not replayed: %s.", obstacle)
        self.obstacle = obstacle
        self.forget()

    def forget(self) -> None:
        """Give the memory of recorded steps back."""
        self._graphs.clear()

    @property
    def _lists(self) -> Any:
        return self.optimizer._lists  # type: ignore[attr-defined]

    def _take_eagerly(self, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        """Take a step operation by operation.

        Nodes of its backward pass must be gone by the time when another is recorded: those that add to the parameters' gradients
        would be used again, and run where they were made.
        """
        return {name: term.detach() for name, term in super().__call__(batch, progress).items()}

    # -- what a graph reads -------------------------------------------------------------------------------------------

    def _graph_for(self, batch: Batch, progress: float) -> _Graph | None:
        """Return the graph for a batch, whose numbers are set to those of the step; None if there is to be none."""
        schedule = self._set_numbers(progress)
        parts = parts_of(batch)
        form = tuple(None if part is None else (part.shape, part.dtype) for part in parts)
        key = (form, tuple(batch.noise or ()), self._decays, *((name, id(value)) for name, value in schedule.items()))
        belongs = self._belongs
        graph = self._graphs.get(key)
        if graph is not None and graph.belongs[0] is belongs[0] and graph.belongs[1] == belongs[1]:
            return graph
        self._graphs.pop(key, None)
        if self._n_recordings == _MOST_RECORDINGS:
            self.give_up("batches or modules have changed too often")
            return None
        while len(self._graphs) >= _MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        self._n_recordings += 1
        own = [None if part is None else part.clone() for part in parts]
        n_parts = len(Batch._fields) - 1
        noise = dict(zip(batch.noise or (), own[n_parts:], strict=True))
        x, target, *others = own[:n_parts]
        given = Batch(x, x if target is None else target, *others, noise=noise)  # type: ignore[arg-type]
        self._graphs[key] = graph = _Graph(given, [part for part in own if part is not None], schedule, belongs, {})
        return graph

    @property
    def _decays(self) -> bool:
        return bool(self.decayed and self.module.decay)

    @property
    def _belongs(self) -> tuple[Any, ...]:
        return self._lists, self.memory

    def _set_numbers(self, progress: float) -> Schedule:
        """Set learning rate and weight decay to those of a step, and return the tensors of the schedule."""
        rate = self.rate(progress)
        numbers = rate, max(0.0, 1.0 - rate * self.module.decay) if self._decays else 1.0
        if numbers != self._numbers:
            self._rate.fill_(numbers[0])
            if self._decays:
                self._left.fill_(numbers[1])
            self._numbers = numbers
        return self._tensors(progress)

    def _note_rate(self) -> None:
        """Have the optimizer hold the learning rate as a number, for all others."""
        assert self._numbers is not None
        for group in self.optimizer.param_groups:
            group["lr"] = self._numbers[0]

    def _run(self, graph: _Graph) -> dict[str, torch.Tensor]:
        """Take a step that reads all that differs between steps from tensors of its own."""
        weight = graph.batch.weight
        terms, learned = self.differentiate(graph.batch, graph.schedule, weight / len(weight))
        self.module.after_step(learned)
        if self._decays:
            with torch.no_grad():
                torch._foreach_mul_([param for param in self.decayed if param.grad is not None], self._left)
        self.descend(self._rate)
        return {name: term.detach() for name, term in terms.items()}

    # -- on the way to a graph ----------------------------------------------------------------------------------------

    def _approach(self, graph: _Graph, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        """Take a step that prepares for a graph, records it or tries it."""
        if graph.stage <= _WARM_STEPS:
            watch = Watch(self.params[0].device) if graph.stage == _WARM_STEPS else nullcontext()
            if not self._attempt("warming up", lambda: self._warm_up(graph, watch)):
                return super().__call__(batch, progress)
            self.n_steps += 1
            terms = graph.terms
            if isinstance(watch, Watch) and watch.obstacle is not None:
                self.give_up(watch.obstacle)
            return terms
        if graph.stage == _WARM_STEPS + 1:
            self._attempt("recording", lambda: self._record(graph))
            return self._take_eagerly(batch, progress)
        return self._compare(graph, batch, progress)

    def _warm_up(self, graph: _Graph, watch: AbstractContextManager[Any]) -> None:
        with self.recorder.beside(), watch:
            graph.terms = self._run(graph)

    def _record(self, graph: _Graph) -> None:
        def step() -> None:
            graph.terms = self._run(graph)

        graph.replay = self.recorder.record(step)

    def _compare(self, graph: _Graph, batch: Batch, progress: float) -> dict[str, torch.Tensor]:
        """Take a step operation by operation, and see whether a replay gives the same."""
        tensors, after = self._changing(), None
        try:
            before = _copied(tensors)
        except Exception as error:  # for want of memory, which the step itself may have enough of
            self.give_up(f"copying what changes failed: {error}")
            return super().__call__(batch, progress)
        terms = self._take_eagerly(batch, progress)
        assert graph.replay is not None
        try:
            after = _copied(tensors)
            _restore(tensors, before)
            graph.replay()
            same = _are_equal([*tensors, *graph.terms.values()], [*after, *terms.values()])
            obstacle = None if same and graph.terms.keys() == terms.keys() else "a replay gives other bits"
        except Exception as error:
            obstacle = f"the first replay failed: {error}"
        if obstacle is not None:
            if after is not None:
                _restore(tensors, after)
            self.give_up(obstacle)
        return terms

    def _attempt(self, what: str, function: Callable[[], Any]) -> bool:
        """Call a function; if it fails, leave everything as it was before, and give up. Return whether it did not."""
        tensors, before = self._changing(), None
        try:
            before = _copied(tensors)
            function()
        except Exception as error:
            if before is not None:
                _restore(tensors, before)
            self.give_up(f"{what} failed: {error.__cause__ or error}")
            return False
        finally:
            for param in self.params:
                param.grad = None
            self._note_rate()
        return True

    def _changing(self) -> list[torch.Tensor]:
        """Return all that a step changes: parameters, buffers, and what the optimizer has gathered."""
        gathered = [entry for state in self.optimizer.state.values() for entry in state.values()]
        return [*self.module.parameters(), *self.module.buffers(), *(each for each in gathered if isinstance(each, torch.Tensor))]


def _copied(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _restore(tensors: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _are_equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    """Whether tensors are equal, what is no number included; waits for the device once."""
    same = [((one == other) | ((one != one) & (other != other))).all() for one, other in zip(some, others, strict=True)]
    return bool(torch.stack(same).all())


def make_step(
    module: TrainableModule,
    optimizer: torch.optim.Optimizer,
    spec: Optimizer,
    *,
    learning_rate: float,
    n_steps: int = 0,
    on_gradient: Callable[[Batch], Any] | None = None,
    n_rows: int,
    n_planned: int,
    watched: bool,
) -> Step:
    """Return the way of stepping that suits: the one place that chooses.

    Parameters
    ----------
    spec : Optimizer
        What the optimizer was made of, with its schedule and the bounds of gradients.
    module, optimizer, learning_rate, n_steps, on_gradient
        See `EagerStep`.
    n_rows, n_planned, watched
        See `obstacle_to`.
    """
    settings: dict[str, Any] = {
        "learning_rate": learning_rate,
        "learning_rate_schedule": spec.schedule,
        "clip_norm": spec.clip_norm,
        "clip_value": spec.clip_value,
        "on_gradient": on_gradient,
        "n_steps": n_steps,
    }
    device = next(module.parameters()).device
    recorder, watched = recorder_for(device), watched or on_gradient is not None
    if recorder is None and device.type != "cpu":
        return EagerStep(module, optimizer, **settings)
    obstacle = obstacle_to(module, recorder=recorder, n_rows=n_rows, n_planned=n_planned, watched=watched)
    if obstacle is None and recorder is not None and not is_fused(optimizer):
        obstacle = "the optimizer is not one of the fused ones, which read the learning rate from a tensor"
    if obstacle is not None:
        _log.debug("Steps are not recorded: %s.", obstacle)
        return EagerStep(module, optimizer, **settings)
    if recorder is None:
        return ReplayedStep(module, optimizer, **settings)
    return GraphStep(module, optimizer, recorder=recorder, **settings)
