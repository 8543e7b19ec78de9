"""What is measured of a module once it is trained: the noise of its likelihood, and what its components carry."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.data.columns import columns_are_correlated
from skvae.inference.rows import posterior
from skvae.inference.runner import misses_entries, place
from skvae.modules import Batch
from skvae.modules.posterior import DiagonalNormal
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import make_generator, private_randomness
from skvae.runtime.threads import threads_for

_SEED = 20140130


def fit_noise(module: nn.Module, data: Table, device: torch.device, *, max_rows: int) -> None:
    """Fit the likelihood's noise, once a module is trained, on evenly spaced rows.

    Parameters
    ----------
    module : LatentModule
    data : Table
    device : torch.device
    max_rows : int
        Most rows to look at.
    """
    sample = data.take(_evenly_spaced(data, max_rows))
    x, observed = module.likelihood.standardize(sample.source).to(device), None
    if misses_entries(module, sample):
        x, observed = module.likelihood.fill(x)
    weight = torch.from_numpy(np.ones(len(x)) if sample.weight is None else sample.weight).float().to(device)
    noise = torch.randn((len(x), module.n_components), generator=make_generator(_SEED), dtype=torch.float32)
    condition = None if sample.condition is None else torch.from_numpy(sample.condition.astype(np.float32)).to(device)
    place(module, device)
    with threads_for(module, len(x), solves=True), steady(device), private_randomness(module, _SEED):
        module.fit_noise(Batch(x, x, weight, condition, observed, {"posterior": noise.to(device)}))


def _evenly_spaced(data: Table, max_rows: int) -> np.ndarray:
    return np.linspace(0, data.n_rows - 1, min(data.n_rows, max_rows)).astype(int)


def latent_usage(module: nn.Module, data: Table, device: torch.device, *, max_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """How much a variational autoencoder's components carry, on evenly spaced rows.

    Parameters
    ----------
    module : VAEModule
    data : Table
    device : torch.device
    max_rows : int

    Returns
    -------
    kl : ndarray of shape (n_components,)
        Weighted mean KL from the prior, in nats.
    variance : ndarray of shape (n_components,)
        Weighted variance of the posterior mean over the rows.
    """
    sample = data.take(_evenly_spaced(data, max_rows))
    mean, log_var = posterior(module, sample, device)
    condition = None if sample.condition is None else torch.from_numpy(sample.condition.astype(np.float32)).to(device)
    with torch.no_grad():
        q = DiagonalNormal(*(torch.from_numpy(values).to(device) for values in (mean, log_var)))
        kl = module.prior.component_kl(q, condition).cpu().double().numpy()
    center = np.average(mean, axis=0, weights=sample.weight)
    variance = np.average((mean - center) ** 2, axis=0, weights=sample.weight)
    return np.average(kl, axis=0, weights=sample.weight), variance


def has_structure(module: nn.Module, table: Table, *, max_rows: int) -> bool:
    """Whether the columns are correlated, beyond what their conditions explain, on evenly spaced rows."""
    sample = table.take(_evenly_spaced(table, max_rows))
    x = np.nan_to_num(module.likelihood.standardize(sample.source).numpy(), nan=0.0)
    if sample.condition is not None:  # what the condition explains is no structure for the code to carry
        given = np.column_stack([np.ones(len(x)), sample.condition]).astype(np.float32)
        x = x - given @ np.linalg.lstsq(given, x, rcond=None)[0]
    return columns_are_correlated(x)
