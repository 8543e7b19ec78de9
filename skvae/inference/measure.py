"""What is measured of a module once it is trained: the noise of its likelihood, and what its components carry."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.data.columns import columns_are_correlated
from skvae.data.sources import Source, row_blocks
from skvae.inference.rows import posterior
from skvae.inference.runner import filled_target, misses_entries, place, rows_at_once
from skvae.modules import Batch, LatentModule, NeighborAEModule
from skvae.modules.likelihoods.units import MAX_STANDARDIZED
from skvae.modules.posterior import DiagonalNormal
from skvae.modules.priors.fitted import FittedPrior
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import make_generator, private_randomness
from skvae.runtime.threads import one_thread, threads_for

_SEED = 20140130
_ENERGY_ROWS = 4096
_PRIOR_ROWS = 10.0  # rows that speak for all columns together, beside those there are
_FEWEST_LINEAR_ROWS = 1024
_LINEAR_WORK = 2**34
_CACHED_NUMBERS = 2**16  # of rows that are standardized at once
_MOST_SPREAD = 1.1  # of what is drawn, relative to the column's own


def start(module: LatentModule, data: Table, device: torch.device) -> None:
    """Begin a new module at the linear special case of the model: of all rows or, of a large table, of evenly spaced ones.

    Parameters
    ----------
    module : LatentModule
        Left on the device.
    data : Table
        Rows to learn from.
    device : torch.device
    """
    module.cpu()
    with one_thread():  # so that bits do not depend on their number
        module.start(rows_of(module, data.take(_evenly_spaced(data, most_rows(module, data)))))
    module.to(device)


def most_rows(module: LatentModule, data: Table) -> int:
    """Rows of which a linear model is found in a moment."""
    n_features, n_factors = data.n_features, module.n_components
    work = n_features * min(n_features, data.n_rows)
    if misses_entries(module, data):
        work = max(work, 16 * n_features * n_factors**2)
    return max(_FEWEST_LINEAR_ROWS, _LINEAR_WORK // work)


def rows_of(module: LatentModule, data: Table) -> Batch:
    """Return all rows of a table in double precision on the CPU, standardized."""
    x, observed = module.likelihood.inputs.standardize_exactly(data.source), None
    x = x.clamp_(-MAX_STANDARDIZED, MAX_STANDARDIZED)
    if misses_entries(module, data):
        x, observed = module.likelihood.fill(x)
        x = x.double()
    weight = torch.from_numpy(np.ones(len(x)) if data.weight is None else data.weight)
    condition = None if data.condition is None else torch.from_numpy(data.condition.astype(np.float64))
    target, counted = x, None
    if data.target is not None:
        target = module.likelihood.units.standardize_exactly(data.target).clamp_(-MAX_STANDARDIZED, MAX_STANDARDIZED)
        target, counted = filled_target(module.likelihood, data.target, target, observed)
    return Batch(x, target, weight, condition, observed, counted)


def fit_noise(module: LatentModule, data: Table, device: torch.device, *, max_rows: int, share: float = 1.0) -> None:
    """Fit the likelihood's noise, once a module is trained, on evenly spaced rows.

    Parameters
    ----------
    module : LatentModule
    data : Table
    device : torch.device
    max_rows : int
        Most rows to look at.
    share : float, default=1.0
        Of these rows in the noise that is to be known.
    """
    batch = _sample(module, data, device, max_rows)
    with threads_for(module, len(batch.x), solves=True), steady(device), private_randomness(module, _SEED):
        module.fit_noise(batch, share)


def measure_scale(module: NeighborAEModule, data: Table, device: torch.device) -> None:
    """Measure the distortion of rows around the means of their columns, on evenly spaced rows."""
    module.measure_scale(_sample(module, data, device, _ENERGY_ROWS))


def widen_noise(module: LatentModule, data: Table, device: torch.device, new_energy: np.ndarray) -> None:
    """Widen the likelihood's noise by as much as residuals of new rows are larger than those of rows that were trained on.

    A model whose codes get their density afterwards is given no noise with which a column would vary much more than it does.

    Parameters
    ----------
    module : LatentModule
    data : Table
        Rows that were trained on.
    device : torch.device
    new_energy : ndarray of shape (n_features,)
        Mean energy of the residuals of new rows.
    """
    likelihood = module.likelihood
    if not likelihood.learns_noise:
        return
    batch = _sample(module, data, device, _ENERGY_ROWS)
    with torch.no_grad(), threads_for(module, len(batch.x)), steady(device), private_randomness(module, _SEED):
        energy = module.residual_energy(batch).double().cpu().clamp(min=1e-30)
    new = torch.from_numpy(new_energy)
    known = (new > 0.0) & (likelihood.varying.cpu() > 0.0)
    if known.any():
        ratio = torch.where(known, new / energy, 1.0)
        overall = ratio[known].log().mean().exp()
        ratio = torch.where(known, (len(batch.x) * ratio + _PRIOR_ROWS * overall) / (len(batch.x) + _PRIOR_ROWS), 1.0)
        moment, ratio = likelihood.noise.moment, ratio.clamp(min=1.0).to(likelihood.noise.moment)
        if isinstance(module.prior, FittedPrior) and likelihood.is_location_family:
            ratio = torch.minimum(ratio, _room(module, batch, moment).clamp(min=1.0))
        likelihood.noise.set_moment(moment * ratio)


@torch.no_grad()
def _room(module: LatentModule, batch: Batch, moment: torch.Tensor) -> torch.Tensor:
    """Ratio by which the noise may grow before reconstructions of rows, with the noise, vary too much, ``(n_features,)``."""
    likelihood = module.likelihood
    rows = likelihood.expectation(module.decode(module.encode(batch), batch)).double()
    share = (batch.weight / batch.weight.sum()).double()
    variance = share @ (rows - share @ rows).square()
    most = (_MOST_SPREAD * likelihood.column("spread").double()).square() - variance
    now = (2.0 / likelihood.energy_power) * moment.double().log() + 2.0 * math.log(likelihood.std_per_scale)
    return (0.5 * likelihood.energy_power * (most.clamp(min=1e-30).log() - now)).exp().to(moment)


def _sample(module: LatentModule, data: Table, device: torch.device, max_rows: int) -> Batch:
    """Evenly spaced rows on a device, with noise for codes; the module is placed there, too."""
    index, likelihood = _evenly_spaced(data, max_rows), module.likelihood
    x, observed = _in_parts(likelihood.standardize_inputs, data.source, index).to(device), None
    if misses_entries(module, data) and x.isnan().any():
        x, observed = likelihood.fill(x)
    weight = torch.from_numpy(np.ones(len(x)) if data.weight is None else data.weight[index]).float().to(device)
    noise = torch.randn((len(x), module.n_components), generator=make_generator(_SEED), dtype=torch.float32)
    condition = None if data.condition is None else torch.from_numpy(data.condition[index].astype(np.float32)).to(device)
    place(module, device)
    target, counted = x, None
    if data.target is not None:
        target = _in_parts(likelihood.standardize, data.target, index).to(device)
        target, counted = filled_target(likelihood, data.target, target, observed)
    return Batch(x, target, weight, condition, observed, counted, noise={"posterior": noise.to(device)})


def _in_parts(standardize: Callable[..., torch.Tensor], source: Source, index: np.ndarray) -> torch.Tensor:
    """Rows of these positions, standardized: a few at a time, so that no copy of all of them as they are is made."""
    rows = torch.empty(len(index), *source.shape[1:], dtype=torch.float32)
    for part in row_blocks(len(index), math.prod(source.shape[1:]), _CACHED_NUMBERS):
        standardize(source, index[part], out=rows[part])
    return rows


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
    mean, log_var = posterior(module, sample, device, size=rows_at_once(module, device, sample.n_rows))
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
