"""Which training rows imputations lean on, and how much: decided by entries that are hidden in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skvae.data import Table
from skvae.data.distinct import distinct_rows
from skvae.inference.runner import place
from skvae.modules import Batch, Donors, LocalModel, MIWAEModule
from skvae.runtime.cudnn import steady
from skvae.runtime.precision import single_precision
from skvae.runtime.randomness import private_randomness
from skvae.runtime.threads import one_thread

Strengths = tuple[float, float]
GRID: tuple[Strengths, ...] = (  # those first that follow other rows less
    *((0.0, 0.0), (0.7, 0.0), (0.9, 0.0), (0.97, 0.0), (0.7, 0.7), (0.9, 0.7), (0.97, 0.7)),
    *((0.9, 0.9), (0.97, 0.9), (0.97, 0.97), (0.99, 0.99)),
)
_MOST_ROWS, _TRIED_ROWS = 1000, 256
_COPIES = 3  # draws of a row that has missing entries
_MOST_TIMES = 6
_DRAWS, _TRIED_DRAWS = 200, 64
_HIDDEN = (0.1, 0.3, 0.5)  # shares of entries, in turn
_ALIKE = 0.1  # standard errors by which weaker strengths may be worse than the best
_PRIOR_ENTRIES = 20.0  # that speak for the spread of all columns together, beside those of a column
_MOST_STRETCH = 9.0  # of the variance
_SEED = 20140130
_CHUNK = 64


class LocalityCurve(NamedTuple):
    """Errors of hidden entries by how much imputations lean on other rows.

    Attributes
    ----------
    strengths : ndarray of shape (n_strengths, 2)
    error : ndarray of shape (n_strengths,)
        Mean square, in units of the columns' variances.
    best : int
        Position of the strengths to take: the weakest of those that are about as good as the best.
    stretch : ndarray of shape (n_strengths, n_features)
        By how much errors are larger than the spread of draws says, at least 1.
    """

    strengths: NDArray[np.float64]
    error: NDArray[np.float64]
    best: int
    stretch: NDArray[np.float64]


def find_donors(module: MIWAEModule, table: Table, device: torch.device) -> Donors:
    """Draw codes and residuals of training rows, at most a thousand that differ from each other.

    Parameters
    ----------
    module : MIWAEModule
        Trained, with a linear path.
    table : Table
        Rows, in the units of the data.
    device : torch.device
    """
    place(module, device)
    kept = table if table.empty_rows is None else table.take(~table.empty_rows)
    chosen, weight = distinct_rows(kept, _SEED, max_rows=_MOST_ROWS)
    batch = _batch(module, kept.take(chosen), device)
    copies = _COPIES if batch.observed is not None else 1
    generator = torch.Generator().manual_seed(_SEED)
    codes, residuals = [], []
    with _computing(module, device):
        scale = module.likelihood.variance(torch.zeros_like(module.likelihood.weight)).sqrt()
        for rows in torch.arange(len(chosen)).split(_CHUNK):
            part = Batch(*(None if value is None else value[rows.to(device)] for value in batch[:-1]))  # type: ignore[arg-type]
            noise = torch.randn(len(rows), _DRAWS, module.n_components, generator=generator).to(device)
            part = part._replace(noise={"posterior": noise})
            z, _ = module.propose(part)
            log_weights, output, _ = module.importance_draws(part)
            share = torch.softmax(finite(log_weights), dim=1).cpu()
            taken = torch.multinomial(share, copies, replacement=True, generator=generator).to(device).unsqueeze(2)
            codes.append(z.gather(1, taken.expand(-1, -1, z.shape[2])).flatten(0, 1))
            residual = part.target.unsqueeze(1) - module.likelihood.locate(
                output.gather(1, taken.expand(-1, -1, output.shape[2]))
            )
            drawn = torch.randn(residual.shape, generator=generator).to(device) * scale
            if part.observed is not None:
                residual = torch.where(part.observed.unsqueeze(1), residual, drawn)
            residuals.append(torch.where(module.likelihood.varying > 0.0, residual, 0.0).flatten(0, 1))
    log_weight = torch.from_numpy(np.log(weight / weight.sum() / copies)).float().repeat_interleave(copies)
    row = torch.arange(len(chosen)).repeat_interleave(copies)
    entries = batch.x if batch.observed is None else torch.where(batch.observed, batch.x, torch.nan)
    return Donors(torch.cat(codes), torch.cat(residuals), log_weight.to(device), row.to(device), entries)


def try_strengths(
    module: MIWAEModule, table: Table, donors: Donors, device: torch.device, grid: Sequence[Strengths] = GRID
) -> LocalityCurve:
    """Hide entries of training rows and fill them in from the other rows, by donors of several strengths.

    Parameters
    ----------
    module : MIWAEModule
    table : Table
        Rows, in the units of the data.
    donors : Donors
        Of these rows.
    device : torch.device
    grid : sequence of tuple of float
        Strengths to try, weaker ones first.
    """
    kept = table if table.empty_rows is None else table.take(~table.empty_rows)
    chosen, weight = distinct_rows(kept, _SEED, max_rows=_TRIED_ROWS)  # the first of those that donors were drawn for
    n_times = max(1, min(_MOST_TIMES, _TRIED_ROWS // len(chosen)))  # few rows are looked at several times
    which = np.tile(np.arange(len(chosen)), n_times)
    share = np.array(_HIDDEN)[(which + np.repeat(np.arange(n_times), len(chosen))) % len(_HIDDEN)][:, np.newaxis]
    batch, weight = _batch(module, kept.take(chosen[which]), device), weight[which] / weight[which].sum()
    rng = np.random.default_rng(_SEED)
    seen = torch.from_numpy(rng.random(batch.x.shape) >= share).to(device)
    there = torch.ones_like(seen) if batch.observed is None else batch.observed
    hidden, seen = there & ~seen & (module.likelihood.varying > 0.0), there & seen
    blank = module.likelihood.column("mean") if module.likelihood.reads_raw else batch.x.new_zeros(())
    filled = torch.where(seen, batch.x, blank)
    masked = batch._replace(x=filled, target=filled, observed=seen)
    noise = torch.from_numpy(rng.standard_normal((len(which), _TRIED_DRAWS, module.n_components), dtype=np.float32)).to(device)
    picks = spread_out(torch.from_numpy(rng.random(len(which), dtype=np.float32)).to(device), _TRIED_DRAWS)
    errors, variances = [], []
    with _computing(module, device):
        models = [LocalModel(module, donors, strengths) if any(strengths) else None for strengths in grid]
        for local in models:
            lost, expected = [], []
            for rows in torch.arange(len(which), device=device).split(_CHUNK):
                part = Batch(*(None if value is None else value[rows] for value in masked[:-1]))  # type: ignore[arg-type]
                excluded = donors.row.unsqueeze(0) == rows.unsqueeze(1) % len(chosen)
                mean, variance = _moments(module, local, part, noise[rows], picks[rows], excluded)
                away = torch.where(hidden[rows], mean - batch.x[rows], 0.0)
                lost.append(away.double().square().cpu().numpy())
                expected.append(torch.where(hidden[rows], variance, 0.0).double().cpu().numpy())
            errors.append(np.concatenate(lost))
            variances.append(np.concatenate(expected))
    return _compare(np.array(grid), np.array(errors), np.array(variances), weight, hidden.cpu().numpy())


def _moments(
    module: MIWAEModule,
    local: LocalModel | None,
    batch: Batch,
    noise: torch.Tensor,
    picks: torch.Tensor,
    excluded: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Conditional means and variances of entries, in standardized units, by a module alone or near donors."""
    if local is None:
        log_weights, output, _ = module.importance_draws(batch._replace(noise={"posterior": noise}))
        location, noise_share = module.likelihood.expectation(output), 1.0
        within = module.likelihood.variance(output)
    else:
        log_weights, location = local.draw(batch, noise, picks, excluded)
        within, noise_share = module.likelihood.variance(location), local.noise_share
    share = torch.softmax(finite(log_weights), dim=1).to(location)
    mean = torch.einsum("nk,nkd->nd", share, location)
    return mean, torch.einsum("nk,nkd->nd", share, (location - mean.unsqueeze(1)).square()) + noise_share * within


def _compare(
    grid: NDArray[np.float64],
    errors: NDArray[np.float64],
    variances: NDArray[np.float64],
    weight: NDArray[np.float64],
    hidden: NDArray[np.bool_],
) -> LocalityCurve:
    """Choose strengths by squared errors and variances of entries, ``(n_strengths, n, n_features)``."""
    lost = errors.sum(2)
    total = weight @ hidden.sum(1)
    n_columns = errors.shape[2]
    if not total > 0.0 or not np.isfinite(lost[0]).all():
        return LocalityCurve(grid, np.full(len(grid), np.nan), 0, np.ones((len(grid), n_columns)))
    mean = np.nan_to_num(lost @ weight, nan=np.inf)
    best = int(mean.argmin())
    for i, of_rows in enumerate(lost):
        apart = of_rows - lost[best]
        if weight @ apart <= _ALIKE * np.sqrt(weight**2 @ (apart - weight @ apart) ** 2):
            best = i
            break
    found, foreseen = (np.einsum("n,gnd->gd", weight, values) for values in (errors, variances))
    overall = (found.sum(1) / foreseen.sum(1).clip(1e-300))[:, np.newaxis]
    prior = _PRIOR_ENTRIES / len(weight) * foreseen / (weight @ hidden).clip(1.0 / len(weight))
    stretch = np.sqrt(((found + prior * overall) / (foreseen + prior).clip(1e-300)).clip(1.0, _MOST_STRETCH))
    return LocalityCurve(grid, mean / total, best, np.where(foreseen > 0.0, stretch, 1.0))


def spread_out(uniform: torch.Tensor, n_draws: int) -> torch.Tensor:
    """Turn a uniform number a row ``(n,)`` into so many, evenly spread between 0 and 1, ``(n, n_draws)``."""
    return (torch.arange(n_draws, device=uniform.device) + uniform.unsqueeze(1).clamp(0.0, 1.0 - 1e-6)) / n_draws


def finite(log_weights: torch.Tensor) -> torch.Tensor:
    """Log-weights in double precision, those that are no numbers next to nothing."""
    return log_weights.nan_to_num(nan=-torch.inf, neginf=-torch.finfo(torch.float32).max).double()


@contextmanager
def _computing(module: MIWAEModule, device: torch.device) -> Iterator[None]:
    with torch.no_grad(), single_precision(), one_thread(), steady(device), private_randomness(module, _SEED):
        yield


def _batch(module: MIWAEModule, table: Table, device: torch.device) -> Batch:
    x, observed = module.likelihood.standardize(table.source).to(device), None
    if table.has_missing:
        x, observed = module.likelihood.fill(x)
    return Batch.of(x, observed=observed)
