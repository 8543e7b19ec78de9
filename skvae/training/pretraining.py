"""Greedy layer-wise pretraining."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.inference.runner import chunks, place
from skvae.modules import Batch, DenoisingModule
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
            codes, inner = _encode_training_rows(stage, rows), stages[len(losses)]
            # Codes keep the scale in which the next layer will see them.
            inner.likelihood.fit(codes, weight, shared=True, standardize=False)
            rows = Rows(Table.of(codes, weight), inner.likelihood, rows.device)
    return losses


def _encode_training_rows(module: nn.Module, rows: Rows) -> np.ndarray:
    """Codes ``(n_samples, n_components)`` of rows as training sees them."""
    place(module, rows.device)
    codes = []
    with torch.no_grad(), steady(rows.device), private_randomness(module, 0):
        for chunk in chunks(len(rows), _CHUNK_ROWS):
            x, observed = rows.fill(rows.take(torch.arange(chunk.start, chunk.stop, device=rows.device)))
            codes.append(module.encode(Batch.of(x, observed=observed)).cpu().numpy())
    return np.concatenate(codes)
