"""Training before training: layer by layer, or without a part of the objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.inference.runner import chunks, place
from skvae.modules import Batch, DenoisingModule, LatentModule, TrainableModule
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import PrivateRandomness, Stream, private_randomness, seed_streams
from skvae.training.loader import Rows
from skvae.training.net import DivergedError, Plan, train

_CHUNK_ROWS = 2048


def pretrain(module: DenoisingModule, rows: Rows, plan: Plan, n_epochs: int) -> list[np.ndarray]:
    """Train the layers of a denoising autoencoder one after the other, from the outermost inward, in place.

    Parameters
    ----------
    module : DenoisingModule
    rows : Rows
    plan : Plan
        How the whole module will be trained.
    n_epochs : int
        Passes over the rows for every layer.

    Returns
    -------
    list of ndarray of shape (n_epochs,)
        Loss per epoch of every layer.

    Raises
    ------
    DivergedError
        If the loss of a layer stopped being finite.
    """
    losses = []
    with PrivateRandomness(plan.seed):  # a stage draws initial weights, which it then replaces by the module's
        stages = list(module.stages())
    weight = rows.weight.cpu().numpy().astype(np.float64) if rows.is_weighted else None
    n_steps = n_epochs * -(-len(rows) // plan.batch_size)
    alone = replace(plan, n_epochs=n_epochs, total_steps=n_steps, first_step=0, pass_index=0, early_stopping=None, callbacks=[])
    for seed, stage in zip(seed_streams(plan.seed, Stream.PRETRAINING, n=len(stages)), stages, strict=True):
        stage.to(rows.device)
        outcome = train(stage, rows, None, replace(alone, seed=seed))
        if outcome.diverged:
            raise DivergedError
        losses.append(outcome.history["loss"])
        if stage is not stages[-1]:
            codes, inner = encode_rows(stage, rows), stages[len(losses)]
            # Codes keep the scale in which the next layer will see them.
            inner.likelihood.fit(codes, weight, shared=True, standardize=False)
            rows = Rows(Table.of(codes, weight), inner.likelihood, rows.device)
    return losses


def pretrain_whole(module: TrainableModule, rows: Rows, plan: Plan, share: float) -> None:
    """Train a module on rows as they are handed out now, for a share of the passes of a run.

    Parameters
    ----------
    module : TrainableModule
    rows : Rows
    plan : Plan
        How the module will be trained afterwards.
    share : float

    Raises
    ------
    DivergedError
        If the loss stopped being finite.
    """
    n_epochs = max(1, round(share * plan.n_epochs))
    n_steps = n_epochs * -(-len(rows) // plan.batch_size)
    (seed,) = seed_streams(plan.seed, Stream.PRETRAINING, n=1)
    alone = replace(
        plan, n_epochs=n_epochs, total_steps=n_steps, first_step=0, pass_index=0, early_stopping=None, callbacks=[], seed=seed
    )
    if train(module, rows, None, alone).diverged:
        raise DivergedError


def read_rows(module: LatentModule, rows: Rows, *, filled: bool) -> np.ndarray:
    """Return numbers by which rows are near, ``(n_samples, n_numbers)``, with NaN for missing entries unless they are filled."""
    x, observed = rows.fill(rows.take(torch.arange(len(rows), device=rows.device)))
    x = module.likelihood.near(x)
    if observed is not None and not filled:
        x = torch.where(module.likelihood.spread(observed), x, torch.nan)
    return x.cpu().numpy()


def encode_rows(module: nn.Module, rows: Rows) -> np.ndarray:
    """Codes ``(n_samples, n_components)`` of rows as training sees them."""
    place(module, rows.device)
    codes = []
    with torch.no_grad(), steady(rows.device), private_randomness(module, 0):
        for chunk in chunks(len(rows), _CHUNK_ROWS):
            x, observed = rows.fill(rows.take(torch.arange(chunk.start, chunk.stop, device=rows.device)))
            codes.append(module.encode(Batch.of(x, observed=observed)).cpu().numpy())
    return np.concatenate(codes)
