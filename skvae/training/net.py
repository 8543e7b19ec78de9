"""The training loop: one skorch net for every model."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import BatchScoring, Callback, EpochScoring, EpochTimer, LRScheduler, PrintLog
from torch import nn

from skvae.inference.runner import move
from skvae.modules import Batch, TrainableModule
from skvae.runtime.cudnn import steady
from skvae.runtime.meeting import is_together, meet
from skvae.runtime.precision import is_rounded, rounded
from skvae.runtime.randomness import Stream, make_generator, private_randomness, seed_streams
from skvae.runtime.state import copy_of_state, load_optimizer_state, plain_optimizer_state
from skvae.runtime.threads import threads_for
from skvae.training.callbacks import EarlyStopping, StopEarly, StopTraining
from skvae.training.graph import make_step
from skvae.training.loader import BatchLoader, Rows
from skvae.training.optimizers import Optimizer, OptimizerError, build_optimizer
from skvae.training.priors import begins_at, is_tended, resume_prior, tend_prior
from skvae.training.step import ScheduleTensors
from skvae.training.together import Stretch, Taken, leave, take

_STEPS_AHEAD = 32  # of epochs that are taken at a time with those of other fits
_BATCH_EVENTS = ("on_batch_begin", "on_batch_end", "on_grad_computed")


class DivergedError(ArithmeticError):
    """The loss or a weight stopped being a finite number."""


@dataclass
class Plan:
    """How a module is trained; the names are those of the estimators' parameters.

    Attributes
    ----------
    first_step, total_steps : int
        Steps already taken and steps that schedules stretch over.
    seed : int
        The fit's one random integer.
    pass_index : int
        Number of earlier calls, which tells their random streams apart.
    early_stopping : EarlyStopping or None
        How long to wait for the loss of the held-out rows; None does not look at it.
    precision : str
        One of `PRECISIONS`: in what networks multiply.
    callbacks : list
        Callbacks of skorch, classes of them, or pairs of a name and a callback.
    """

    batch_size: int
    n_epochs: int
    total_steps: int
    learning_rate: float
    optimizer: Optimizer
    seed: int
    first_step: int = 0
    pass_index: int = 0
    early_stopping: EarlyStopping | None = None
    verbose: int = 0
    precision: str = "float32"
    callbacks: list[Any] = field(default_factory=list)


@dataclass
class Outcome:
    """What a run leaves behind: history by column, steps taken, the optimizer's state and whether it diverged."""

    history: dict[str, np.ndarray]
    n_steps: int
    optimizer_state: dict[str, Any] | None
    diverged: bool


class AutoEncoderNet(NeuralNet):
    """skorch net that optimizes the named terms of a module's `loss`.

    skorch keeps the epochs, the history and the callbacks; a step and an epoch are written out here, so that nothing
    waits for the device but the end of an epoch, and batch events are only sent to callbacks that listen to them.

    Parameters
    ----------
    module : TrainableModule
    plan : Plan
    n_rows : int
        Rows to train on.
    """

    def __init__(self, module: nn.Module, plan: Plan, n_rows: int, **kwargs: Any):
        self.plan = plan
        self.n_rows = n_rows
        super().__init__(module, criterion=None, train_split=None, lr=plan.learning_rate, **kwargs)

    # -- set-up -------------------------------------------------------------------------------------------------------

    @property
    def _default_callbacks(self):
        return []

    def initialize_criterion(self):
        """Do nothing: the module owns its objective."""
        return self

    def initialize_optimizer(self, triggered_directly=None):
        """Initialize the optimizer over all parameters of the module."""
        device = next(self.module_.parameters()).device
        parameters = self.module_.parameters()
        self.optimizer_ = build_optimizer(self.plan.optimizer, parameters, self.plan.learning_rate, device)
        return self

    def initialize(self):
        """Initialize and prepare what every step needs."""
        device, self.device = self.device, None  # where the module is: skorch would look at every tensor
        super().initialize()
        self.device = device
        self._sends_batch_events = any(
            getattr(type(callback), event) is not getattr(Callback, event)
            for _, callback in self.callbacks_
            for event in _BATCH_EVENTS
        )
        self._step = make_step(
            self.module_,
            self.optimizer_,
            self.plan.optimizer,
            learning_rate=self.plan.learning_rate,
            on_gradient=self._notify_gradient if self._sends_batch_events else None,
            n_steps=self.plan.first_step,
            n_rows=min(self.n_rows, self.plan.batch_size),
            n_planned=self.plan.n_epochs * -(-self.n_rows // self.plan.batch_size),
            watched=bool(self.plan.callbacks),
        )
        self._final_schedule = ScheduleTensors(self.module_)
        self._ahead: list[Taken] = []  # of epochs that have been taken already
        self._parameters = list(self.module_.parameters())
        self._buffer_places = [(layer._buffers, name) for layer in self.module_.modules() for name in layer._buffers]
        return self

    def _notify_gradient(self, batch: Batch) -> None:
        self.notify("on_grad_computed", named_parameters=list(self.module_.named_parameters()), batch=batch, training=True)

    def get_split_datasets(self, X, y=None, **fit_params):
        """Return the rows to train and to validate on, which come as a pair."""
        return X

    def get_iterator(self, dataset: Rows, training: bool = False) -> BatchLoader:
        """Return the batch loader over `dataset`."""
        purpose = Stream.TRAINING if training else Stream.VALIDATION
        shuffle, noise = seed_streams(self.plan.seed, self.plan.pass_index, purpose, n=2)
        return BatchLoader(
            dataset,
            self.plan.batch_size,
            self.module_.noise_shapes,
            shuffle=make_generator(shuffle, dataset.device) if training else None,
            noise=make_generator(noise, dataset.device),
            fixed_noise=not training,
        )

    # -- weights ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> list[torch.Tensor]:
        """Copy the module's parameters and buffers."""
        return [tensor.detach().clone() for tensor in self._tensors]

    def restore(self, weights: list[torch.Tensor]) -> None:
        """Go back to a snapshot."""
        with torch.no_grad():
            for tensor, value in zip(self._tensors, weights, strict=True):
                tensor.copy_(value)

    @property
    def _tensors(self) -> list[torch.Tensor]:
        """Parameters and buffers; the latter are looked up, since others may take their places."""
        buffers = (place[name] for place, name in self._buffer_places)
        return [*self._parameters, *(buffer for buffer in buffers if buffer is not None)]

    def _set_training(self, training: bool = True) -> None:
        """Have the module train, or not; whoever else has a say in that comes with a callback."""
        if self.plan.callbacks or self.module_.training is not training:
            self.module_.train(training)

    def optimizer_snapshot(self) -> dict[str, Any]:
        """Copy of the optimizer's state."""
        if self._step.stack is not None:
            self._step.stack.write_moments(self._step)
        return copy_of_state(self.optimizer_.state_dict())  # type: ignore[no-any-return]

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Go back to a snapshot of the optimizer."""
        leave([self._step])
        self.optimizer_.load_state_dict(state)

    # -- the loop -----------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Fraction of the run that lies behind, at most 1."""
        return min(1.0, self._step.n_steps / self.plan.total_steps)

    def train_step(self, batch: Batch, **fit_params: Any) -> dict[str, torch.Tensor]:
        """Take one step and return the terms of the loss."""
        try:
            return self._step(batch, self.progress)
        except OptimizerError as failure:
            raise failure.named(self.plan.optimizer) from failure.__cause__

    @torch.no_grad()
    def validation_step(self, batch: Batch, **fit_params: Any) -> dict[str, torch.Tensor]:
        """Terms of the loss at the schedule's final values."""
        return self.module_.loss(batch, self._final_schedule(1.0)).terms

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Run over all batches once and record the terms; reads from the device once, at the end."""
        if iterator is None:
            return
        self._step.is_weighted = iterator.rows.is_weighted
        self._set_training(training)
        batches: Iterable[Batch] = iterator
        if training:
            if not self._ahead:
                end = self.progress + len(iterator) / self.plan.total_steps
                tend_prior(self.module_, iterator.rows, end, self.plan.seed, self.plan.pass_index)
            self.history.new_batch()  # one record for all, for callbacks that look for the last batch's
            taken, batches = self._take_together(iterator)
            if taken is not None:
                self._record(prefix, taken.means)
                self._check_finite([*taken.means.values(), taken.norm])
                return
        means, norm = self._run_batches(batches, training, step_fn)
        self._record(prefix, means)
        if training:
            self._check_finite([*means.values(), norm])

    def _take_together(self, iterator: BatchLoader) -> tuple[Taken | None, Iterable[Batch]]:
        """Take the steps of an epoch with those of other fits, if there are some to meet; or return the batches to take alone.

        Where nobody looks at what has become of the module after every epoch, several are taken at a time.
        """
        if self._ahead:
            return self._ahead.pop(0), iterator
        if self._sends_batch_events or not self._step.can_stack or not is_together():
            return None, iterator
        if self.plan.callbacks:  # which may have frozen layers
            self._step.shape = None
        n_epochs = 1
        is_watched = self.plan.callbacks or self.plan.verbose or is_tended(self.module_)
        if not is_watched and self.plan.early_stopping is None:
            n_epochs = max(1, min(_STEPS_AHEAD // len(iterator), self.plan.n_epochs - len(self.history) + 1))
        before = self._state_before(iterator) if n_epochs > 1 else None
        n_taken, n_planned = self._step.n_steps, self.plan.total_steps
        stretch = Stretch(
            [self._step],
            chain.from_iterable(iterator.blocks() for _ in range(n_epochs)),
            n_epochs * len(iterator),
            len(iterator.rows) // len(iterator),
            lambda i: min(1.0, (n_taken + i) / n_planned),
            n_epochs=n_epochs,
        )
        key = stretch.key("epochs", len(iterator.rows))
        try:
            found = None if key is None else meet(key, stretch, take)
        except OptimizerError as failure:
            raise failure.named(self.plan.optimizer) from failure.__cause__
        if found is None and self._step.can_stack:  # nobody has come who could be met
            return None, iterator
        if found is None:
            return None, stretch.batches() if before is None else self._go_back(iterator, before)
        if before is not None and not all(np.isfinite([*each.means.values(), each.norm]).all() for each in found[0]):
            return None, self._go_back(iterator, before)
        if self.plan.callbacks and self._step.stack is not None:  # which may look at what the optimizer has gathered
            self._step.stack.write_moments(self._step)
        first, *self._ahead = found[0]
        return first, iterator

    def _state_before(self, iterator: BatchLoader) -> tuple[Any, ...]:
        """Return all that a stretch of epochs changes."""
        generators = [generator for generator in (iterator.shuffle, iterator.noise) if generator is not None]
        states = [(generator, generator.get_state()) for generator in generators]
        return self.snapshot(), self.optimizer_snapshot(), states, self._step.n_steps

    def _go_back(self, iterator: BatchLoader, before: tuple[Any, ...]) -> BatchLoader:
        """Go back to where a stretch of epochs began, for each of them to be taken alone."""
        weights, optimizer, states, n_steps = before
        self.restore_optimizer(optimizer)
        self.restore(weights)
        for generator, state in states:
            generator.set_state(state)
        self._step.n_steps, self._step.can_stack = n_steps, False
        return iterator

    def _record(self, prefix: str, means: dict[str, float]) -> None:
        for name, value in means.items():
            self.history.record(f"{prefix}_{name}", value)
        self.history.record(f"{prefix}_loss", sum(means.values()))

    def _run_batches(self, batches: Iterable[Batch], training: bool, step_fn: Any) -> tuple[dict[str, float], float]:
        """Run over all batches; return the mean of every term and the norm of the weights, of which only training has one."""
        is_weighted = self._step.is_weighted
        collected: dict[str, list[torch.Tensor]] = {}
        weights: list[torch.Tensor] = []
        for batch in batches:
            if self._sends_batch_events:
                self.notify("on_batch_begin", batch=batch, training=training)
            terms = step_fn(batch)
            for name, term in terms.items():
                collected.setdefault(name, []).append(term.detach())
            for name in collected.keys() - terms.keys():  # what has faded during the epoch is zero
                earlier = collected[name]
                earlier.append(earlier[0].new_zeros(len(batch.weight) if earlier[0].dim() else ()))
            if is_weighted:
                weights.append(batch.weight)
            if self._sends_batch_events:
                weight = batch.weight if is_weighted else None
                loss = sum(_mean([term.detach()], weight) for term in terms.values())
                self.notify("on_batch_end", batch=batch, training=training, loss=loss)
        weight = torch.cat(weights) if weights else None
        means = [_mean(values, weight) for values in collected.values()]
        if training:
            means.append(nn.utils.get_total_norm(self._step.params))
        values = torch.stack(means).tolist()
        return dict(zip(collected, values, strict=False)), values[-1]

    def _check_finite(self, values: list[float]) -> None:
        """Keep the weights while they are good, for a later epoch to go back to; raise if they no longer are."""
        if not all(np.isfinite(values)):
            raise DivergedError
        if len(self.history) < self.plan.n_epochs and not self._ahead:
            if not hasattr(self, "_good"):
                self._good = self.snapshot()
            else:  # in the same memory
                torch._foreach_copy_(self._good, [tensor.detach() for tensor in self._tensors])

    def notify(self, method_name, **kwargs):
        """Call the callbacks; those of skorch ask for an end by a KeyboardInterrupt, which is kept apart from a real one."""
        if method_name != "on_epoch_end":
            return super().notify(method_name, **kwargs)
        self.on_epoch_end(self, **kwargs)
        stop = None
        for _, callback in self.callbacks_:  # all of them, so that none misses the last epoch
            try:
                callback.on_epoch_end(self, **kwargs)
            except StopTraining as wish:
                stop = wish
            except KeyboardInterrupt as wish:
                if type(callback).__module__.startswith("skvae."):
                    raise
                stop = wish
        if stop is not None:
            raise StopTraining from stop
        return None

    def run(self, train: Rows, valid: Rows | None) -> bool:
        """Train; return whether the loss stayed finite.

        Raises
        ------
        DivergedError
            If not even one epoch ended with a finite loss.
        """
        finite = True
        self.notify("on_train_begin", X=train, y=None)
        try:
            self.fit_loop((train, valid), epochs=self.plan.n_epochs)
        except StopTraining:
            pass
        except DivergedError:
            if len(self.history) == 1:
                raise
            finite = False
            self.history.pop()
            self.restore(self._good)
        self.notify("on_train_end", X=train, y=None)
        return finite


def _mean(values: list[torch.Tensor], weight: torch.Tensor | None) -> torch.Tensor:
    """Mean over an epoch of a term per row, weighted, or of a term per batch."""
    if values[0].dim() == 0:
        return torch.stack(values).mean()
    rows = torch.cat(values)
    return rows.mean() if weight is None else (rows * weight).sum() / weight.sum()


def train(
    module: TrainableModule,
    rows: Rows,
    valid_rows: Rows | None,
    plan: Plan,
    optimizer_state: dict[str, Any] | None = None,
) -> Outcome:
    """Train a module in place.

    Parameters
    ----------
    module : TrainableModule
        Moved to the rows' device.
    rows, valid_rows : Rows
        What to train on and, for early stopping, to validate on.
    plan : Plan
    optimizer_state : dict, optional
        Where the optimizer left off, as plain data.

    Returns
    -------
    Outcome

    Raises
    ------
    DivergedError
        If not even one epoch ended with a finite loss.
    """
    # skorch sets attributes on callbacks it is given: the caller keeps its own.
    own = copy.deepcopy(list(plan.callbacks))
    for callback in own:
        _check_callback(callback, valid_rows)
    if plan.early_stopping is not None:
        own.append(("early_stopping", StopEarly(plan.early_stopping, max(module.warmup, begins_at(module)))))
    if plan.verbose:
        own = [("epoch_timer", EpochTimer()), *own, ("print_log", PrintLog())]
    move(module, rows.device)
    net = AutoEncoderNet(module, plan, len(rows), callbacks=own, verbose=plan.verbose, device=str(rows.device))
    (stream,) = seed_streams(plan.seed, plan.pass_index, Stream.LAYERS, n=1)
    module.train()
    is_reduced = is_rounded(plan.precision, module, min(plan.batch_size, len(rows)), rows.device)
    trained = [param for param in module.parameters() if param.requires_grad]
    with (
        threads_for(module, plan.batch_size),
        steady(rows.device),
        rounded(module.networks if is_reduced else [], rows.device),
        private_randomness(module, stream),
        torch.enable_grad(),
    ):
        module.before_training()
        try:
            net.initialize()
            if plan.first_step == 0:
                resume_prior(module)
            net._step.can_stack = not is_reduced
            if optimizer_state is not None:
                load_optimizer_state(net.optimizer_, optimizer_state)
            finite = net.run(rows, valid_rows)
        finally:
            if hasattr(net, "_step"):
                leave([net._step])
                net._step.forget()
            for param in module.parameters():
                param.grad = None
            for param in trained:
                param.requires_grad_(True)  # whatever callbacks have frozen
    module.eval()
    return Outcome(
        history=_columns(net.history),
        n_steps=net._step.n_steps - plan.first_step,
        optimizer_state=plain_optimizer_state(net.optimizer_) if finite else None,
        diverged=not finite,
    )


def _check_callback(callback: Any, valid_rows: Rows | None) -> None:
    """Raise a ValueError about a callback that cannot do here what it is for."""
    given = callback
    if isinstance(callback, tuple) and len(callback) == 2 and isinstance(callback[0], str):
        callback = callback[1]
    cls = callback if isinstance(callback, type) else type(callback)
    if not issubclass(cls, Callback):
        raise ValueError(
            f"callbacks holds {given!r}, which is no callback of skorch; it takes one or a list of them, of their classes or of "
            "pairs (name, callback)."
        )
    advice = ""
    if issubclass(cls, (EpochScoring, BatchScoring)):
        advice = "needs predictions, which training does not make; history_ has the loss, its terms and those of held-out rows"
    elif issubclass(cls, LRScheduler):
        advice = "sets learning rates, which belong to optimizer__schedule"
    elif valid_rows is None and str(getattr(callback, "monitor", "")).startswith("valid_"):
        advice = f"monitors {callback.monitor!r}, but no rows are held out: set early_stopping=True, or monitor='train_loss'"
    if advice:
        raise ValueError(f"callbacks: {cls.__name__} {advice}.")


def _columns(history: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Per-epoch records as columns, under the names of the loss terms."""
    names = [
        name
        for name in history[0]
        if name.startswith(("train_", "valid_")) and all(isinstance(row.get(name), float) for row in history)
    ]
    return {
        name.removeprefix("train_"): np.array([row[name] for row in history], dtype=np.float64)
        for name in sorted(names, key=lambda name: (name.startswith("valid_"), not name.endswith("_loss")))
    }
