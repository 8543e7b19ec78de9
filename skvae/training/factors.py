"""How many factors columns share: chosen by entries that are hidden in rows which are held out."""

from __future__ import annotations

import numpy as np
import torch

from skvae import functional as fn
from skvae.data import Table
from skvae.data.distinct import distinct_rows
from skvae.functional import Factors
from skvae.runtime.threads import one_thread
from skvae.training.decay import paired_difference

_FOLDS = 3
_FEWEST_ROWS, _MOST_ROWS = 128, 2048
_WORK, _WORK_OF_FOLDS = 2**31, 2**30  # multiply-adds of a fit, and above which one fold is held out
_ITERATIONS = 60  # of fits to rows with missing entries
_HIDDEN = (0.1, 0.3, 0.5)  # shares of entries, in turn
_ALIKE = 0.5  # standard errors by which fewer factors may be worse than the best
_FLOOR = 1e-4  # of the noise, in units of the columns' variances
_SEED = 20140130


def choose_factors(table: Table, fewest: int, most: int) -> int:
    """Fit factor models to rows and return how many factors fill in entries of other rows best.

    Of those that are about as good as the best, it is the fewest.

    Parameters
    ----------
    table : Table
        NaN where entries are missing.
    fewest, most : int
        Between which to choose.
    """
    tried = sorted({*(n for n in _ladder() if fewest < n < most), fewest, most})
    work = table.n_features * most**2 * _ITERATIONS if table.has_missing else table.n_features**2
    n_rows = int(np.clip(_WORK // max(1, work), _FEWEST_ROWS, _MOST_ROWS))
    chosen, weight = distinct_rows(table, _SEED, max_rows=n_rows)
    if len(tried) == 1 or len(chosen) < 2 * _FOLDS:
        return most
    X = table.source.take(chosen).read_exactly(slice(None)).astype(np.float64)
    observed = ~np.isnan(X)
    seen = weight @ observed
    center = weight @ np.where(observed, X, 0.0) / np.where(seen > 0.0, seen, 1.0)
    apart = np.where(observed, X - center, 0.0)
    spread = np.sqrt(weight @ apart**2 / np.where(seen > 0.0, seen, 1.0))
    varying = spread > 1e-12 * (1.0 + np.abs(center))
    if not varying.any():
        return fewest
    x, there = torch.from_numpy(apart[:, varying] / spread[varying]), torch.from_numpy(observed[:, varying])
    rng = np.random.default_rng(_SEED)
    hidden = there & torch.from_numpy(rng.random(x.shape) < np.resize(_HIDDEN, len(x))[:, np.newaxis])
    share = torch.from_numpy(weight / weight.sum())
    fold = torch.arange(len(x)) % _FOLDS
    parts = [(fold != i, fold == i) for i in range(_FOLDS if len(x) * work < _WORK_OF_FOLDS else 1)]
    held_out = torch.cat([held.nonzero().squeeze(1) for _, held in parts])
    share_held = (share[held_out] / share[held_out].sum()).numpy()
    floor, lost, n_worse = x.new_full((x.shape[1],), _FLOOR), [], 0
    with one_thread():
        for n_factors in tried:
            errors = []
            for train, held in parts:
                gaps = None if bool(there[train].all()) else there[train]
                found = fn.factor_analysis(x[train], share[train], n_factors, floor=floor, observed=gaps)
                errors.append(_errors(found, x[held], there[held] & ~hidden[held], hidden[held]))
            lost.append(torch.cat(errors).numpy())
            best = min(lost, key=lambda of_rows: float(share_held @ of_rows))
            more, error = paired_difference(lost[-1], best, share_held)
            n_worse = n_worse + 1 if more > error else 0
            if n_worse == 2:
                break
    differences = [paired_difference(of_rows, best, share_held) for of_rows in lost]
    return next(n_factors for n_factors, (more, error) in zip(tried, differences, strict=False) if more <= _ALIKE * error)


def _errors(found: Factors, x: torch.Tensor, seen: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Squared errors of what is hidden of rows, filled in from what is seen of them."""
    mean, _ = fn.posterior_of_observed(found, x, seen)
    filled = found.mean + mean @ found.loadings.mT
    return torch.where(hidden, filled - x, 0.0).square().sum(1)


def _ladder() -> list[int]:
    """Numbers of factors that are tried: each about a third more than the one before."""
    steps = [1, 2, 3]
    while steps[-1] < 2**16:
        steps.append(round(steps[-1] * 4 / 3))
    return steps
