"""How much the networks beside linear maps are held back: chosen by rows that are held out of the training rows.

The decay falls step by step, and training goes on from one to the next, so that one pass along this path tells of all of them.
Where the first is too weak already, a stronger one is tried anew: what begins under it has no weights left to go on with. Of the
decays, the strongest is chosen that reaches most of what the best one gains over no networks at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skvae.data import Table
from skvae.data.distinct import distinct_rows
from skvae.data.groups import fold_groups
from skvae.inference.measure import most_rows, rows_of
from skvae.modules import Batch, LatentModule
from skvae.modules.networks.layers import Shortcut
from skvae.runtime.cudnn import steady
from skvae.runtime.meeting import meet
from skvae.runtime.randomness import Stream, make_generator, private_randomness, seed_streams
from skvae.runtime.state import copy_of
from skvae.runtime.threads import threads_for
from skvae.training.loader import Block
from skvae.training.net import Plan
from skvae.training.optimizers import OptimizerError, build_optimizer
from skvae.training.priors import begin_prior
from skvae.training.step import EagerStep, ScheduleTensors
from skvae.training.together import Stretch, leave, take, take_alone

STRONGEST, PATH = 30.0, (10.0, 3.0, 1.0, 0.3, 0.0)
COARSE_PATH, _FEW_ROWS, _STEPS_OF_FEW = (10.0, 1.0, 0.0), 50, 45  # of so few rows, decays close to each other look alike
FEWEST_ROWS = 12  # different ones, below which networks are left out
_STEPS, _MOST_STEPS, _MOST_STEPS_ONE_FOLD = 60, 150, 300  # at each decay
_SHARE_OF_RUN = 0.1  # steps at each decay, of those of the run
_FOLDS = {200: 5, 1500: 3}  # of so many rows at most; of more, one fold is held out
_FOLDS_OF_ONE = 3  # that one fold is the first of, at least
_HELD_OUT_ROWS = 1024
_MOST_ROWS, _MOST_NUMBERS, _FEWEST_OF_MANY = 2**14, 2**26, 4096  # of the rows that are looked at
_DRAWN_ROWS = 1024  # held-out rows are repeated up to so many, where their loss has noise in it
_BATCHES_AT_ONCE, _NUMBERS_AT_ONCE = 16, 2**20  # that are gathered, about
_LAST_RATE = 0.1  # learning rate at the end of each decay, relative to that at its start
_REACHED = 0.9  # of the largest gain
_ALIKE = 0.5  # standard errors by which a stronger decay may be worse than the best
_SURE, _SURE_LAST = 0.5, 1.0  # standard errors by which the best must be better than no networks, and the last one tried
_WORSE = 1.0  # standard errors by which two decays in a row must be worse than the best for weaker ones not to be tried


class DecayCurve(NamedTuple):
    """Loss of held-out rows by weight decay.

    Attributes
    ----------
    decay : ndarray of shape (n_decays,)
        From no networks, an infinite decay, to the weakest that was tried.
    loss : ndarray of shape (n_decays,)
        Mean over held-out rows.
    error : ndarray of shape (n_decays,)
        Standard error of its difference from that without networks.
    energy : ndarray of shape (n_decays, n_features)
        Mean energy of the residuals of new rows, as far as it is to be expected of a fit to all.
    best : int
        Position of the decay to take.
    """

    decay: NDArray[np.float64]
    loss: NDArray[np.float64]
    error: NDArray[np.float64]
    energy: NDArray[np.float64]
    best: int


def search_decay(module: LatentModule, table: Table, device: torch.device, plan: Plan) -> DecayCurve:
    """Try weight decays of the networks beside a module's linear maps on rows of a table.

    Equal rows are held out together and count as one of the weights of all; rows of one group are held out together, too.

    Parameters
    ----------
    module : LatentModule
        New, with the units of the columns; stays as it is.
    table : Table
        Rows to learn from.
    device : torch.device
        Where the module will be trained.
    plan : Plan
        How it will be trained.
    """
    (seed,) = seed_streams(plan.seed, Stream.DECAY, n=1)
    most = min(_MOST_ROWS, max(_FEWEST_OF_MANY, _MOST_NUMBERS // table.n_features), most_rows(module, table))
    chosen, weight = distinct_rows(table, seed, max_rows=most)
    if len(chosen) < FEWEST_ROWS:
        return DecayCurve(np.array([math.inf]), np.array([math.nan]), np.array([0.0]), np.zeros((1, table.n_features)), 0)
    exact = rows_of(module, replace(table.take(chosen), weight=weight / weight.mean()))
    rows = Batch(*(None if part is None else part.to(device) for part in exact[:-1]))  # type: ignore[arg-type]
    x = rows.x.float()
    target = x if exact.target is exact.x else rows.target.float()
    rows = rows._replace(x=x, target=target, weight=rows.weight.float(), facts=module.likelihood.facts(target))
    if rows.condition is not None:
        rows = rows._replace(condition=rows.condition.float())
    return _search(module, rows, exact, plan, None if table.groups is None else table.groups[chosen])


def _search(module: LatentModule, rows: Batch, exact: Batch, plan: Plan, groups: NDArray[np.intp] | None = None) -> DecayCurve:
    n_rows, device = len(rows.x), rows.x.device
    n_folds = next((n for most_rows_of, n in _FOLDS.items() if n_rows <= most_rows_of), 1)
    n_parts = n_folds if n_folds > 1 else max(_FOLDS_OF_ONE, n_rows // _HELD_OUT_ROWS)
    if groups is None:
        fold = np.arange(n_rows) % n_parts
    else:
        n_parts = min(n_parts, len(np.unique(groups)))
        n_folds = min(n_folds, n_parts)
        fold = fold_groups(groups, n_parts)
    train = [torch.from_numpy(np.flatnonzero(fold != i)) for i in range(n_folds)]
    held = [torch.from_numpy(np.flatnonzero(fold == i)) for i in range(n_folds)]
    weight = rows.weight.cpu().double().numpy()[np.concatenate(held)]
    weight /= weight.sum()
    _, shuffle, noise, layers = seed_streams(plan.seed, Stream.DECAY, n=4)
    most = _MOST_STEPS if n_folds > 1 else _MOST_STEPS_ONE_FOLD
    n_steps = min(
        int(np.clip(_SHARE_OF_RUN * plan.total_steps, _STEPS if n_rows > _FEW_ROWS else _STEPS_OF_FEW, most)),
        plan.total_steps // 4,
    )
    begun = [_started(module, rows, exact, index, layers) for index in train]
    blocks = _blocks(rows, [index.to(device) for index in train], plan.batch_size, module.noise_shapes, shuffle, noise)
    held_out = [_held_out(rows, index.to(device), module.noise_shapes, noise) for index in held]
    trained = [_held_out(rows, index[:_DRAWN_ROWS].to(device), module.noise_shapes, noise) for index in train]
    n_in_batch = min(map(len, train)) // -(-min(map(len, train)) // plan.batch_size)
    decays, losses, energies, sure = [math.inf], [], [], _SURE

    def follow(path: Sequence[float]) -> None:
        nonlocal blocks
        modules, n_worse = [copy_of(module) for module in begun], 0
        steps = [_make_step(module, plan, device) for module in modules]
        try:
            for decay in path:
                blocks = _take_steps(steps, blocks, n_steps, n_in_batch, plan, decay)
                loss = _losses(modules, held_out)
                if not np.isfinite(loss).all():
                    return
                decays.append(decay)
                losses.append(loss)
                energies.append(_energies(modules, held_out, trained))
                worse, error = paired_difference(loss, min(losses, key=lambda values: values @ weight), weight)
                n_worse = n_worse + 1 if worse > _WORSE * error else 0
                if n_worse == 2:
                    return
        finally:
            leave(steps)

    with threads_for(module, n_folds * plan.batch_size), steady(device), private_randomness(module.train(), layers):
        losses.append(_losses(begun, held_out))
        energies.append(_energies(begun, held_out, trained))
        follow(PATH if n_rows > _FEW_ROWS else COARSE_PATH)
        if n_rows > _FEW_ROWS and _choose(losses, weight) == 0:
            follow((STRONGEST,))
            sure = _SURE_LAST
    module.eval()
    order = np.argsort(-np.array(decays), kind="stable")
    losses = [losses[i] for i in order]
    # What new rows lose and trained ones gain is inversely proportional to how many are trained on, which is all in the end.
    share = float(np.mean([len(index) for index in train])) / n_rows
    energy = [new - 0.5 * (1.0 - share) * np.maximum(new - old, 0.0) for new, old in (energies[i] for i in order)]
    return DecayCurve(
        decay=np.array(decays)[order],
        loss=np.array([values @ weight for values in losses]),
        error=np.array([paired_difference(values, losses[0], weight)[1] for values in losses]),
        energy=np.array(energy),
        best=_choose(losses, weight, sure),
    )


def _choose(losses: list[NDArray[np.float64]], weight: NDArray[np.float64], sure: float = _SURE) -> int:
    """Position of the strongest decay that is about as good as the best, and better than no networks for sure."""
    mean = np.array([values @ weight for values in losses])
    best = int(mean.argmin())
    gain, error = paired_difference(losses[0], losses[best], weight)
    if gain <= sure * error:
        return 0
    # A linear model that is far off makes all networks look alike.
    gain = min(gain, 2.0 * float(max(mean[1:] - mean[best]))) if len(mean) > 2 else gain
    for i, values in enumerate(losses):
        lost, error = paired_difference(values, losses[best], weight)
        if lost <= max((1.0 - _REACHED) * gain, _ALIKE * error):
            return i
    return best


def paired_difference(one: NDArray[np.float64], other: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """Mean difference between losses of the same rows, and its standard error."""
    apart = one - other
    mean = float(weight @ apart)
    return mean, float(np.sqrt((weight**2) @ (apart - mean) ** 2))


def _started(module: LatentModule, rows: Batch, exact: Batch, index: torch.Tensor, seed: int) -> LatentModule:
    """Copy of a module that begins at the linear model of some rows."""
    started = copy_of(module).cpu()
    parts = [None if part is None else part.cpu()[index] for part in rows[2:-1]]
    started.start(Batch(exact.x[index], exact.target[index], *parts))  # type: ignore[arg-type]
    begin_prior(started, Batch(rows.x.cpu()[index], rows.target.cpu()[index], *parts), seed)  # type: ignore[arg-type]
    started.to(rows.x.device).train().before_training()
    return started


def _make_step(module: LatentModule, plan: Plan, device: torch.device) -> EagerStep:
    optimizer = build_optimizer(plan.optimizer, list(module.parameters()), plan.learning_rate, device)
    spec = plan.optimizer
    return EagerStep(module, optimizer, learning_rate=plan.learning_rate, clip_norm=spec.clip_norm, clip_value=spec.clip_value)


def _take_steps(
    steps: list[EagerStep], blocks: Iterator[Block], n_steps: int, n_rows: int, plan: Plan, decay: float
) -> Iterator[Block]:
    """Take steps of all folds with a weight decay, from the whole learning rate down to a part of it; return the blocks left."""
    for step in steps:
        step.module.decay = decay  # type: ignore[misc]

    def begin_step(i: int) -> float:
        share = _LAST_RATE + (1.0 - _LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * i / n_steps))
        for step in steps:
            step.learning_rate = plan.learning_rate * share
        return 1.0

    stretch = Stretch(steps, blocks, n_steps, n_rows, begin_step)
    key = stretch.key("decay", n_rows)
    try:
        if key is None or meet(key, stretch, take) is None:
            take_alone(stretch)
    except OptimizerError as failure:
        raise failure.named(plan.optimizer) from failure.__cause__
    return stretch.blocks


def _blocks(
    rows: Batch,
    train: list[torch.Tensor],
    batch_size: int,
    noise_shapes: dict[str, tuple[int, ...]],
    shuffle_seed: int,
    noise_seed: int,
) -> Iterator[Block]:
    """Batches of every fold's training rows, side by side, some epochs after the others, without end."""
    device = rows.x.device
    shuffle, noise = make_generator(shuffle_seed, device), make_generator(noise_seed, device)
    n_rows = min(map(len, train))
    n_batches = -(-n_rows // batch_size)
    n_epochs = max(1, min(_BATCHES_AT_ONCE // n_batches, _NUMBERS_AT_ONCE // (n_rows * len(train) * rows.x[0].numel())))
    sizes = [len(part) for part in torch.arange(n_rows).tensor_split(n_batches)] * n_epochs
    while True:
        orders = [
            [index[torch.randperm(len(index), generator=shuffle, device=device)[:n_rows]] for index in train]
            for _ in range(n_epochs)
        ]
        chosen = torch.stack([torch.cat(order) for order in zip(*orders, strict=True)])
        drawn = {  # the same for all folds
            name: torch.cat([torch.randn(size, *shape, generator=noise, device=device, dtype=torch.float32) for size in sizes])
            for name, shape in noise_shapes.items()
        }
        parts = [None if part is None else part[chosen] for part in rows[:-1]]
        if rows.target is rows.x:
            parts[1] = parts[0]
        noise_of_all = {name: values.expand(len(train), *values.shape) for name, values in drawn.items()}
        yield Block(Batch(*parts, noise=noise_of_all), sizes, axis=1)  # type: ignore[arg-type]


def _held_out(rows: Batch, index: torch.Tensor, noise_shapes: dict[str, tuple[int, ...]], seed: int) -> tuple[Batch, int]:
    """Held-out rows of a fold, each as often as makes their loss certain enough, and how often that is."""
    parts = [None if part is None else part[index] for part in rows[:-1]]
    if rows.target is rows.x:
        parts[1] = parts[0]
    n_times = max(1, min(16, _DRAWN_ROWS // len(index))) if noise_shapes else 1
    batch = Batch(*parts).repeated(n_times)  # type: ignore[arg-type]
    generator = make_generator(seed + 1, rows.x.device)
    noise = {
        name: torch.randn(len(batch.x), *shape, generator=generator, device=rows.x.device, dtype=torch.float32)
        for name, shape in noise_shapes.items()
    }
    return batch._replace(noise=noise), n_times


def _losses(modules: Sequence[LatentModule], held_out: Sequence[tuple[Batch, int]]) -> NDArray[np.float64]:
    """Losses of the held-out rows of every fold, one after the other."""
    found = []
    for module, (batch, n_times) in zip(modules, held_out, strict=True):
        module.eval()
        with torch.set_grad_enabled(getattr(module, "draws_in_training", False)):  # functions of the user's own may differentiate
            loss = module.held_out_loss(batch, ScheduleTensors(module, plain_ones=True)(1.0)).detach()
        found.append(loss.reshape(-1, n_times).mean(1).double().cpu().numpy())
        module.train()
    return np.concatenate(found)


@torch.no_grad()
def _energies(
    modules: Sequence[LatentModule], *of: Sequence[tuple[Batch, int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean energy of the residuals of every column, over the held-out rows of all folds and over those that are trained on."""
    found = []
    for batches in of:
        total = torch.zeros(modules[0].n_features, dtype=torch.float64)
        for module, (batch, _) in zip(modules, batches, strict=True):
            module.eval()
            total += module.residual_energy(batch).double().cpu()
            module.train()
        found.append((total / len(modules)).numpy())
    return found[0], found[1]


def has_networks(module: LatentModule) -> bool:
    """Whether there are networks beside linear maps."""
    return any(isinstance(network, Shortcut) for network in (module.encoder, module.decoder))
