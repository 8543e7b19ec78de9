"""Noise of a likelihood around codes that come without a posterior."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from skvae.functional import positive_fixed_point
from skvae.modules.batch import Batch
from skvae.modules.posterior import Free, LaplacePosterior

if TYPE_CHECKING:
    from skvae.modules.autoencoder import AutoEncoderModule

_NOISE_ITERATIONS = 30
_LAST_NOISE_ITERATIONS = 3  # where a part of the rows has led to about the noise: chance makes more of that than what is left
_NOISE_TOLERANCE = 1e-4  # change of the noise, relative to the largest, at which iterations end
_STREAM_TOLERANCE = 5e-4  # the same of all noise where few rows join many
_EM_ROWS, _FIRST_EM_ROWS = 4096, 512  # rows whose posteriors are looked at, and of these, where they are many, first of all
_FEWEST_ROWS = 64  # from which each column's noise can be estimated
_TYPICAL = 0.25  # share of a column's energy in all rows that a sample must have, for it to decide on the column
_ENERGY_ROWS = 4096  # rows whose residuals are looked at instead, where posteriors are narrow
_NARROW = 16  # columns for each free entry of a code, from which its posterior is narrow
_SLOPE_NUMBERS, _SLOPE_NUMBERS_OF_NARROW = 2**25, 2**23
_CACHED_NUMBERS = 2**20  # of decoded rows that are looked at together, 4 MB
_SOLVE_WORK = 2**27


class NoiseFit:
    """Fit of a likelihood's noise by expectation-maximization over the Laplace approximations of posteriors.

    Where it would take long for all rows, evenly spaced ones decide; on columns of which these have next to no entry, the
    residuals of all rows do, which grow as those of the other columns. Where posteriors are narrow, a few rows tell by how much
    residuals grow, and more of them how large they are. Where systems are so large that they are solved for few rows, these
    decide on the level of the noise alone.

    Parameters
    ----------
    module : AutoEncoderModule
        Whose noise is set.
    batch : Batch
        All rows there are.

    Attributes
    ----------
    some : Batch
        Those whose posteriors are looked at.
    energy : Tensor of shape (n_features,)
        Mean energies of the residuals, of as many rows as can be had.
    own : Tensor of shape (n_features,)
        The same of `some`.
    decides : Tensor of bool, shape (n_features,)
        Whether `some` decide on a column.
    level : Tensor of shape (n_features,)
        What their energies are multiplied by.
    """

    def __init__(self, module: AutoEncoderModule, batch: Batch):
        self.module, self.batch, self.likelihood = module, batch, module.likelihood

    def run(self, share: float) -> None:
        """Set the noise, of which these rows have a share."""
        noise = self.likelihood.noise
        if not self.likelihood.is_location_family:  # around a Newton step of such, residuals may be anything
            noise.set_moment(self._mean_energy(self.batch))
            return
        module = self.module
        self.some = rows_of(self.batch, self._affordable())
        self.code, self.free = module.free_code(self.some)
        self.output = module.decode(self.code, self.some)
        self._measure_residuals()
        self.slopes = self._slopes()
        tolerance = _NOISE_TOLERANCE
        if share == 1.0:
            noise.set_moment(torch.where(self.decides, self.level * self.own, self.energy))
        else:  # iterations go on from the noise of earlier rows, and chance makes more of a few than what is left
            tolerance = _STREAM_TOLERANCE / share
        if self.are_all or len(self.slopes) < 2 * _FIRST_EM_ROWS:
            self._settle(slice(None), tolerance)
        else:
            self._settle(slice(None, None, len(self.slopes) // _FIRST_EM_ROWS), tolerance)
            self._settle(slice(None), tolerance, most=_LAST_NOISE_ITERATIONS)

    @property
    def are_all(self) -> bool:
        """Whether the posteriors of all rows are looked at."""
        return len(self.some.x) == len(self.batch.x)

    @cached_property
    def is_narrow(self) -> bool:
        """Whether rows have so many columns that they leave little of a code uncertain."""
        return self.module.n_features >= _NARROW * self.free_of_one.positions.shape[1]

    @cached_property
    def free_of_one(self) -> Free:
        """Which entries of the first row's code are free, of which all rows have as many."""
        return self.module.free_code(rows_of(self.batch, slice(1)))[1]

    @cached_property
    def observed(self) -> Tensor | None:
        """Which numbers of the output some rows have an entry for; None where all do."""
        return None if self.some.observed is None else self.likelihood.spread(self.some.observed)

    def _measure_residuals(self) -> None:
        """Measure the residuals of some rows, and of more where these cannot stand for all."""
        likelihood, some = self.likelihood, self.some
        self.residual = likelihood.residual(some.target, self.output)
        if self.observed is not None:
            self.residual = self.residual * self.observed
        terms = likelihood.terms(some.target, self.output, some.counted)
        self.counted = terms.counted
        self.energy = self.own = likelihood.mean_energy(terms.learnable, some.weight, terms.counted)
        has_enough = len(some.x) >= min(len(self.batch.x), _FEWEST_ROWS)
        if not self.are_all:
            # Residuals move little within a narrow posterior, so that a few rows tell by how much they grow.
            more = rows_of(self.batch, slice(None, None, -(-len(self.batch.x) // _ENERGY_ROWS))) if self.is_narrow else some
            if not (has_enough and self._are_typical(more)):
                self.energy = self._mean_energy(self.batch)
            elif self.is_narrow:
                self.energy = self._mean_energy(more)
        self.decides = (self.own > _TYPICAL * self.energy) & has_enough
        self.level = torch.where(self.decides, self.energy / self.own, 1.0) if self.is_narrow else torch.ones_like(self.own)

    def _settle(self, part: slice, tolerance: float, most: int = _NOISE_ITERATIONS) -> None:
        """Iterate over a part of the rows until the noise changes no more."""
        likelihood, noise, slopes, weight = self.likelihood, self.likelihood.noise, self.slopes, self.some.weight[part]
        posterior = LaplacePosterior(self.code[part], self.free.rows(part), slopes if len(slopes) == 1 else slopes[part])
        observed, counted = (None if values is None else values[part] for values in (self.observed, self.counted))
        # What is missing has infinite noise, which systems of the rows' size cannot have.
        if slopes.shape[1] > slopes.shape[2] and observed is None:
            moments = posterior.wide_residual_moments(self.residual[part])
        else:
            moments = posterior.residual_moments(self.residual[part], likelihood.score)

        def iterate(moment: Tensor) -> Tensor:
            noise.set_moment(moment)
            information = likelihood.information(self.output[part])
            moved, uncertainty = moments(information if observed is None else information * observed)
            expected = likelihood.expected_energy(moved.to(self.output), uncertainty.to(self.output))
            expected = likelihood.mean_energy(expected, weight, counted)
            growth = expected.sum() / self.own.sum().clamp(min=1e-30)
            noise.set_moment(torch.where(self.decides, self.level * expected, self.energy * growth))
            return noise.moment.clone()

        positive_fixed_point(iterate, noise.moment.clone(), tolerance=tolerance, most=most)

    def _are_typical(self, some: Batch) -> bool:
        """Whether columns vary about as much among some rows as they do among all of them."""
        spreads = [self.likelihood.mean_energy(part.target.square(), part.weight, part.counted) for part in (some, self.batch)]
        return bool((spreads[0] >= 2.0 * _TYPICAL * spreads[1]).all())

    def _mean_energy(self, batch: Batch) -> Tensor:
        """Mean of the energies that the noise is learned from, of rows that are decoded a few at a time."""
        module, likelihood = self.module, self.likelihood
        found = [
            likelihood.terms(part.target, module.decode(module.free_code(part)[0], part), part.counted)
            for part in self._parts(batch, 1)
        ]
        counted = [terms.counted for terms in found if terms.counted is not None]
        energy = torch.cat([terms.learnable for terms in found])
        return likelihood.mean_energy(energy, batch.weight, torch.cat(counted) if counted else None)

    def _slopes(self) -> Tensor:
        """Return the slopes of the decoder, for a few rows at a time where these are decoded more than once."""
        module = self.module
        if module.linear_map is not None:
            return module.slopes(self.code, self.free, self.some)
        parts = list(self._parts(self.some, module.slope_decodes))
        size = len(parts[0].x)
        around = zip(torch.split(self.code, size), self.free.split(size), parts, strict=True)
        return torch.cat([module.slopes(*given) for given in around])

    def _parts(self, batch: Batch, n_decodes: int) -> Iterator[Batch]:
        """Cut a batch, of which each row is decoded so many times, into ones whose decoded rows stay in a processor's cache."""
        size = len(batch.x)
        if batch.x.device.type == "cpu":
            size = max(1, _CACHED_NUMBERS // (n_decodes * self.likelihood.n_outputs))
        for start in range(0, len(batch.x), size):
            yield rows_of(batch, slice(start, start + size))

    def _affordable(self) -> slice:
        """Evenly spaced rows whose slopes fit into memory and whose systems are solved in a moment."""
        module, batch, free = self.module, self.batch, self.free_of_one
        has_all = batch.observed is None
        if has_all and module.linear_map is not None and free.positions.stride(0) == 0 and not module.is_curved:
            return slice(None)  # one system for all
        n_free = free.positions.shape[1]
        numbers = 2 * n_free * max(module.n_features, module.n_components)
        most = _SLOPE_NUMBERS_OF_NARROW if self.is_narrow else _SLOPE_NUMBERS
        size = min(n_free, module.n_features) if has_all else n_free
        work = size**2 * max(n_free, module.n_features)
        n_rows = max(1, min(_EM_ROWS, most // numbers, _SOLVE_WORK // work))
        return slice(None, None, -(-len(batch.x) // n_rows))


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Return some rows of a batch, without noise."""
    return Batch(*(None if values is None else values[rows] for values in batch[:-1]))  # type: ignore[arg-type]
