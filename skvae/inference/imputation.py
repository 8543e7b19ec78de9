"""Filling in missing entries from draws of codes, weighted by importance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from skvae.data import Table
from skvae.functional import normal_cdf
from skvae.inference.donors import spread_out
from skvae.inference.importance import density_of, pooled_noise
from skvae.inference.runner import Runner, place, whole_tiles
from skvae.modules import Donors, LocalModel, MIWAEModule
from skvae.runtime.precision import single_precision
from skvae.runtime.randomness import make_generator
from skvae.runtime.threads import one_thread

_CHUNK_NUMBERS = 2**21  # that the widest layer, or a row's draws, may hold at once


def impute(
    module: nn.Module,
    table: Table,
    device: torch.device,
    *,
    n_draws: int,
    n_imputations: int | None = None,
    seed: int = 0,
    log_density: Callable[[np.ndarray], np.ndarray] | None = None,
    donors: Donors | None = None,
    strengths: tuple[float, float] = (0.0, 0.0),
    stretch: np.ndarray | None = None,
) -> np.ndarray:
    """Complete rows by the conditional mean of what is missing, or by draws from its conditional distribution [1]_.

    Codes are drawn from the proposal and weighted by importance. Means are weighted averages; draws are made from codes that
    are chosen in proportion to their weights.

    Parameters
    ----------
    module : LatentModule
    table : Table
        NaN where entries are missing.
    device : torch.device
    n_draws : int
        Codes a row.
    n_imputations : int or None
        Number of draws; None asks for the mean, which depends on nothing but the row.
    seed : int
        Decides the draws.
    log_density : callable or None
        Log-density of codes under a prior that the module does not own.
    donors : Donors, optional
        Training rows near which codes and noise are drawn.
    strengths : tuple of float
        How near; see `LocalModel`.
    stretch : ndarray of shape (n_features,), optional
        Factors by which draws are further from the conditional means.

    Returns
    -------
    ndarray of float64, shape (n_samples, n_imputations or 1, n_features)
        Nothing but the missing entries is meant to be used.

    References
    ----------
    .. [1] Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets", ICML 2019.
    """
    place(module, device)
    local = None
    if donors is not None and any(strengths):
        with torch.no_grad(), single_precision(), one_thread():
            local = LocalModel(module, donors, strengths)
    widest = max(module.widest_layer, module.n_components)
    if local is not None:  # in double precision
        widest = max(2 * widest, 2 * len(local.center) * module.n_components // n_draws)
    size = max(1, min(256, _CHUNK_NUMBERS // (widest * n_draws)))
    if n_imputations is None:  # which depends on the row alone, and not on its place
        size = max(whole_tiles(size), whole_tiles(min(size, 48), 6))
    runner = Runner(module, device, size=size, scores=True)
    generator = make_generator(seed, device)
    widths = {"posterior": module.n_components, "entries": module.n_features}
    if local is not None:
        widths["entries"] = 1
    pools = {name: pooled_noise(width, n_draws, device) for name, width in widths.items()}
    log_prior = density_of(log_density)

    def noise(rows: slice, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if n_imputations is None:
            return {name: pool(x) for name, pool in pools.items()}
        return {
            name: torch.randn(size, n_draws, width, generator=generator, device=device, dtype=torch.float32)
            for name, width in widths.items()
        }

    batch = runner.batches(table, noise=noise)
    factor = None if stretch is None else torch.from_numpy(stretch).float().to(device)

    def step(rows: slice) -> np.ndarray:
        drawn = None
        if local is not None:
            each = batch(rows)
            picks = spread_out(normal_cdf(each.drawn("entries")[:, 0, 0]), n_draws)
            log_weights, output = local.draw(each, each.drawn("posterior"), picks, local.donors.of_same_rows(each))
        elif isinstance(module, MIWAEModule):
            log_weights, output, _, drawn = module.weigh_masks(batch(rows))
        else:
            log_weights, output, _ = module.importance_draws(batch(rows), log_prior)
        log_weights = log_weights.nan_to_num(nan=-torch.inf, neginf=-torch.finfo(torch.float32).max)
        share = torch.softmax(log_weights.to(torch.float32 if device.type == "mps" else torch.float64), dim=1)
        mean = None
        if n_imputations is None or stretch is not None:
            mean = (_averaged(share, output) if local is not None else _mean(module, output, drawn, share)).unsqueeze(1)
        if n_imputations is None:
            values = mean
        else:
            chosen = torch.multinomial(share, n_imputations, replacement=True, generator=generator)
            chosen = chosen.unsqueeze(-1).expand(-1, -1, (output if drawn is None else drawn).shape[-1])
            if local is not None:
                values = local.scatter(output.gather(1, chosen), generator)
            elif drawn is None:
                values = _draw(module, output.gather(1, chosen), generator)
            else:
                values = drawn.gather(1, chosen)
            if mean is not None:
                values = mean + factor * (values - mean)
        values = values[: rows.stop - rows.start]
        return module.likelihood.rescale(values.flatten(0, 1)).reshape(len(values), -1, module.n_features)

    return runner.map(step, table.n_rows)


def _averaged(share: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nk,nkd->nd", share.to(values), values)


def _mean(module: nn.Module, output: torch.Tensor, drawn: torch.Tensor | None, share: torch.Tensor) -> torch.Tensor:
    """Mean of missing entries given codes of which each has a share, in standardized units; of categories the likeliest."""
    if drawn is not None:
        return _averaged(share, drawn)
    if isinstance(module, MIWAEModule) and module.mask_model is not None:
        return _averaged(share, module.mean_missing(output))
    return module.likelihood.average(output, share)


def _draw(module: nn.Module, output: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draws of missing entries given each code, in standardized units."""
    if isinstance(module, MIWAEModule):
        return module.draw_missing(output, generator)
    return module.likelihood.scatter(output, generator)
