"""Priors that are placed by training rows: where they begin, and when they are looked after."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import nn

from skvae.data import Table
from skvae.inference.runner import misses_entries
from skvae.modules import Batch, CodedRows, VAEModule
from skvae.modules.priors.base import Cluster
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import PrivateRandomness, Stream, make_generator, seed_streams
from skvae.runtime.threads import one_thread
from skvae.training.loader import Rows

_MOST_ROWS, _CHUNK = 2**13, 2**10
_CLUSTERINGS = 5
_REVIVALS = tuple(np.linspace(0.3, 0.8, 11))  # fractions of the run at which idle parts are placed anew


def is_tended(module: nn.Module) -> bool:
    """Whether a module has a prior that is placed by training rows."""
    return isinstance(module, VAEModule) and module.prior.learns_from_rows


def begins_at(module: nn.Module) -> float:
    """Fraction of the run at which the prior of a module is placed by training rows, and takes part."""
    return module.joins_at if isinstance(module, VAEModule) else 0.0


def tend_prior(module: nn.Module, rows: Rows, progress: float, *seeds: int) -> None:
    """Look after a prior between epochs, if it is time to: place it by training rows, or its idle parts anew.

    Parameters
    ----------
    module : Module
    rows : Rows
        To learn from.
    progress : float
        Fraction of the run that lies behind after the coming epoch.
    *seeds : int
        What makes the randomness.
    """
    if not is_tended(module):
        return
    begins, prior = begins_at(module), module.prior
    looks = (begins, *(at for at in _REVIVALS if at > begins))
    due, n_before = sum(at < progress for at in looks), int(prior.n_looks)
    if due <= n_before:
        return
    (seed,) = seed_streams(*seeds, due, Stream.PRIOR, n=1)
    place = prior.revive if n_before else prior.begin
    coded = code_rows(module, rows, seed)
    if torch.isfinite(coded.around).all():
        place(coded, clusters(seed))
    prior.n_looks.fill_(due)


def resume_prior(module: nn.Module) -> None:
    """Have a prior that has been placed already be looked after in another run as well."""
    if is_tended(module):
        module.prior.n_looks.clamp_(max=1)


def begin_prior(module: nn.Module, batch: Batch, seed: int) -> None:
    """Place the prior of a module by rows of a batch, where it is placed by rows."""
    if is_tended(module):
        module.prior.begin(_coded(module, [batch], seed), clusters(seed))


def n_idle_parts(module: nn.Module, table: Table, device: torch.device) -> int:
    """Return how many parts of a trained module's prior next to no row of a table comes from."""
    if not is_tended(module):
        return 0
    chosen = table.take(np.linspace(0, table.n_rows - 1, min(table.n_rows, _MOST_ROWS)).astype(int))
    rows = Rows(chosen, module.likelihood, device, missing=misses_entries(module, chosen))
    return module.prior.n_idle(code_rows(module, rows, 0))


def code_rows(module: VAEModule, rows: Rows, seed: int) -> CodedRows:
    """Encode rows, or some of them that are drawn, to look at what the prior makes of them."""
    order = torch.randperm(len(rows), generator=make_generator(seed))[:_MOST_ROWS].to(rows.device)
    batches = []
    for index in order.split(_CHUNK):
        x, observed = rows.fill(rows.take(index))
        condition = None if rows.condition is None else rows.condition.index_select(0, index)
        batches.append(Batch(x, x, rows.weight.index_select(0, index), condition, observed))
    return _coded(module, batches, seed)


@torch.no_grad()
def _coded(module: VAEModule, batches: list[Batch], seed: int) -> CodedRows:
    was_training, parts = module.training, []
    device = batches[0].x.device
    module.eval()
    with steady(device), PrivateRandomness(seed):
        for batch in batches:
            q = module.posterior(batch)
            width = torch.exp(0.5 * q.log_var)
            parts.append((module.encoder_input(batch), q.mean, torch.stack([q.mean - width, q.mean + width], 1), batch.weight))
    module.train(was_training)
    inputs, mean, around, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return CodedRows(inputs, mean, around, weight / weight.sum())


def clusters(seed: int) -> Cluster:
    """Return a function that finds clusters of codes by k-means, with the seed."""

    def cluster(codes: torch.Tensor, weight: torch.Tensor, n_clusters: int) -> torch.Tensor:
        values, heavy = codes.double().cpu().numpy(), weight.double().cpu().numpy()
        # Equal codes count as one of their weights, in an order of their own: a row of weight two and two rows are the same.
        distinct, label = np.unique(values, axis=0, return_inverse=True)
        if len(distinct) > n_clusters:
            with one_thread():
                means = KMeans(n_clusters, n_init=_CLUSTERINGS, random_state=seed % 2**31)
                found = means.fit(distinct, sample_weight=np.bincount(label.ravel(), weights=heavy)).labels_
            label = np.unique(found, return_inverse=True)[1][label.ravel()]
        return torch.from_numpy(label.ravel().astype(np.int64)).to(codes.device)

    return cluster
