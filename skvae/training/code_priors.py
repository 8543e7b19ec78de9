"""Training the priors of discrete codes."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from skvae.data import Table
from skvae.inference.codes import precise_copy, rows_in_memory
from skvae.inference.runner import chunk_rows, chunks
from skvae.modules import CodePrior, VQVAEModule
from skvae.modules.priors.codes import AutoregressivePrior
from skvae.runtime.randomness import seed_streams
from skvae.runtime.threads import threads_for
from skvae.training.loader import Rows
from skvae.training.net import DivergedError, Plan, train

_FEWEST_ROWS, _FEWEST_PER_CODE = 4, 0.25  # below which nothing but the histogram carries over to new rows
FEW_ROWS = 4000  # up to which a prior has to be small, and it is worth finding out how far it can be trusted
_SHARE_STREAM = 3  # tells the halves' seed from the streams of a training run


def fit_code_prior(
    prior: CodePrior,
    rows: np.ndarray,
    device: torch.device,
    plan: Plan,
    *,
    codebooks: list[np.ndarray],
    weight: np.ndarray | None = None,
    condition: np.ndarray | None = None,
    begins: bool = True,
    remembered: int = 0,
) -> tuple[np.ndarray, bool]:
    """Fit the prior of one level's codes, in place.

    On few rows, a network that adds nothing to the histogram when tried on halves of them is not trained.

    Parameters
    ----------
    prior : CodePrior
    rows : ndarray of shape (n, n_upper + n_codes)
        Codes of the levels above, top first, and own codes.
    device : torch.device
    plan : Plan
    codebooks : list of ndarray
        Of the levels above, top first, and of this one.
    weight : ndarray of shape (n,), optional
    condition : ndarray of shape (n, n_conditions), optional
    begins : bool, default=True
        Whether the network has not been trained before.
    remembered : int, default=0
        Earlier rows, at most, that count towards the frequencies of the codes.

    Returns
    -------
    losses : ndarray of shape (n_epochs,)
        Training loss per epoch, in nats per row; empty where nothing is trained by gradient.
    diverged : bool
        Whether the loss stopped being finite, before which training then ended.

    Raises
    ------
    DivergedError
        If not even one epoch ended with a finite loss.
    """
    prior.fit_counts(rows[:, prior.n_upper :], weight, condition, remembered=remembered)
    if not prior.learns or (prior.n_features == 1 and prior.n_conditions == 0):  # one code that depends on nothing
        return np.empty(0), False
    prior.to(device)
    if begins:
        prior.set_embeddings(torch.from_numpy(codebooks[-1]), [torch.from_numpy(book) for book in codebooks[:-1]])
        if len(rows) < max(_FEWEST_ROWS, _FEWEST_PER_CODE * prior.n_embeddings):
            prior.share.zero_()  # type: ignore[operator]
        elif len(rows) <= FEW_ROWS:
            fit_share(prior, rows, device, plan, weight=weight, condition=condition)  # type: ignore[arg-type]
        else:
            prior.share.fill_(1.0)  # type: ignore[operator]
    if not prior.share:
        return np.empty(0), False
    known = Rows(Table.of(rows, weight, condition), None, device)
    outcome = train(prior, known, None, plan)
    return outcome.history["loss"], outcome.diverged


def level_plan(plan: Plan, level: int) -> Plan:
    """Plan of the prior of one level, with random numbers of its own."""
    (seed,) = seed_streams(plan.seed, 9, level, n=1)
    return replace(plan, seed=seed)


def level_rows(module: VQVAEModule, codes: np.ndarray, level: int) -> np.ndarray:
    """Codes of the levels above one and its own, as its prior takes them."""
    return codes[:, : module.code_slices[level].stop]


def codebooks_of(module: VQVAEModule, level: int) -> list[np.ndarray]:
    """Codebooks of the levels above one and its own."""
    quantizers: list[Any] = list(module.quantizers)[: level + 1]
    return [quantizer.embeddings().detach().cpu().numpy() for quantizer in quantizers]


def fit_share(
    prior: AutoregressivePrior,
    rows: np.ndarray,
    device: torch.device,
    plan: Plan,
    *,
    weight: np.ndarray | None = None,
    condition: np.ndarray | None = None,
) -> float:
    """Find how much of a network's departure from the histogram carries over to new rows, by crossing over two halves.

    Training on few rows does not tell codes that depend on each other from codes that happen to. A copy of the prior is
    trained on each half, as the prior will be on all rows, and scores the other half; no row is withheld from the prior.
    To be called before training; takes about as long.

    Parameters
    ----------
    prior : AutoregressivePrior
        Not trained yet. Gets its `share`.
    rows : ndarray of shape (n, n_upper + n_codes)
        At least four.
    device : torch.device
    plan : Plan
        How it will be trained.
    weight : ndarray of shape (n,), optional
    condition : ndarray of shape (n, n_conditions), optional

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DivergedError
        If the loss of neither half stays finite for an epoch.
    """
    (seed,) = seed_streams(plan.seed, _SHARE_STREAM, n=1)
    order = np.random.default_rng(seed).permutation(len(rows))
    halves = np.array_split(order, 2)
    shares = np.linspace(0.0, 1.0, 21)
    losses, n_diverged = np.zeros_like(shares), 0
    for here, there in (halves, halves[::-1]):
        twin = copy.deepcopy(prior)
        twin.share.fill_(1.0)
        twin.fit_counts(rows[here, prior.n_upper :], None if weight is None else weight[here])
        steps = plan.n_epochs * -(-len(here) // plan.batch_size)
        part = replace(plan, total_steps=steps, first_step=0, patience=None, verbose=0, callbacks={})
        known = Rows(Table.of(rows, weight, condition), None, device, index=here)
        try:
            train(twin, known, None, part)
        except DivergedError:
            n_diverged += 1
            if n_diverged == len(halves):
                raise
            losses += np.linspace(0.0, 1.0, len(shares))
            continue
        of_others = (None if values is None else values[there] for values in (weight, condition))
        losses += _losses(twin, rows[there], device, *of_others, shares)
    share = float(shares[losses.argmin()])
    prior.share.fill_(share)
    return share


def _losses(
    prior: AutoregressivePrior,
    rows: np.ndarray,
    device: torch.device,
    weight: np.ndarray | None,
    condition: np.ndarray | None,
    shares: np.ndarray,
) -> np.ndarray:
    """Weighted sums of negative log-probabilities over rows, for each of several shares of the network's output."""
    prior = precise_copy(prior, device)
    dtype = prior.share.dtype
    size = min(chunk_rows(prior), rows_in_memory(2 * prior.row_floats))
    losses = np.zeros(len(shares))
    with torch.no_grad(), threads_for(prior, size):
        for chunk in chunks(len(rows), size):
            upper, codes = prior.split(torch.from_numpy(rows[chunk]).to(device))
            given = None if condition is None else torch.from_numpy(np.array(condition[chunk], np.float64)).to(dtype).to(device)
            network = prior.logits(codes, upper, given) - prior.log_frequency
            for i, share in enumerate(shares):
                log_prob = (prior.log_frequency + float(share) * network).log_softmax(-1)
                nats = -log_prob.gather(-1, codes.unsqueeze(-1)).sum((1, 2)).cpu().numpy()
                losses[i] += nats.sum() if weight is None else weight[chunk] @ nats
    return losses
