"""The plain autoencoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skvae.functional import positive_fixed_point
from skvae.modules.base import LatentModule, Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.linear import install, principal_model, read
from skvae.modules.networks.layers import Shortcut, linear_map_of
from skvae.modules.posterior import Free, LaplacePosterior, Proposal, colored
from skvae.modules.priors.fitted import FittedGaussian, FittedPrior

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
_SEARCHES = 2  # for better codes than the encoder's, one after the other
_FRACTIONS = 4  # of a step that are tried: all of it, half, a quarter and so on
_SLACK = 1.0  # nats by which the code after a Newton step may be worse than the best one tried


class Expansion(NamedTuple):
    """What the posterior of rows looks like around codes.

    Attributes
    ----------
    code : Tensor of shape (n, n_components)
    posterior : LaplacePosterior
    output : Tensor of shape (n, n_features)
        What the decoder returns for the codes.
    force : Tensor of shape (n, n_features)
        Gradient of the log-likelihood in it, in double precision where the device has it.
    information : Tensor of shape (n_features,) or (n, n_features)
    """

    code: Tensor
    posterior: LaplacePosterior
    output: Tensor
    force: Tensor
    information: Tensor


class AutoEncoderModule(LatentModule):
    r"""Deterministic code, trained on the distortion alone, and a generative model fitted to it afterwards.

    The generative model is a density p(z) of the training codes and the likelihood p(x|z) with the decoder frozen. Its
    log-likelihood is estimated by importance sampling from the Laplace approximation of p(z|x): with :math:`J` the slope
    of the decoder at the code, :math:`W` the likelihood's information and :math:`\Lambda` the codes' precision, a normal
    distribution of precision :math:`\Lambda + J^\top W J` around one Newton step from the code. Where decoder and noise
    are linear and Gaussian it is the posterior itself and the estimate is exact. Where :math:`W` depends on the output, as
    that of counts does, a Newton step may lead anywhere: it is taken if it leads to about the best of the codes that are
    tried on the way, and otherwise the normal distribution is one around the best.

    Parameters
    ----------
    n_features, n_components, **autoencoder
        See `LatentModule`.
    """

    prior: FittedPrior

    solves_per_row = True
    takes_missing = True

    def __init__(self, n_features: int, n_components: int, **autoencoder: Any):
        super().__init__(n_features, n_components, **autoencoder)
        self.prior = FittedGaussian(n_components)

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        output = self.decode(self.encode(batch), batch)
        return Loss({"reconstruction": self.likelihood.distortion(batch.target, output, batch.counted, batch.facts)}, {})

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Begin at the principal components of what the encoder reads; see `LatentModule.start`."""
        install(self, principal_model(self, read(self, batch)))

    # -- the generative model behind the score ------------------------------------------------------------------------

    @cached_property
    def _linear_map(self) -> Any:
        """The decoder's one layer, if it has no other."""
        return None if isinstance(self.decoder, Shortcut) else linear_map_of(self.decoder)

    @cached_property
    def _is_curved(self) -> bool:
        """Whether the likelihood's information depends on the decoder's output."""
        weight = self.likelihood.weight
        return self.likelihood.information(weight.new_zeros(1, self.likelihood.n_outputs)).dim() > 1

    @property
    def slope_decodes(self) -> int:
        slopes = self.prior.most_free * (1 if self._linear_map is not None else 2)
        return max(slopes, 2 * _FRACTIONS + 1) if self._is_curved else slopes

    def _slopes(self, code: Tensor, free: Free, batch: Batch) -> Tensor:
        """Slopes of the decoder along the free entries of codes, as ``(n, n_free, n_features)``, or once for all rows.

        They are secants, but where the decoder is a linear map.
        """
        if self._linear_map is not None:
            slopes = self.likelihood.location_change(self._linear_map.weight.mT)
            if free.positions.stride(0) == 0:
                return slopes[free.positions[:1]]
            return slopes[free.positions] * free.active.unsqueeze(-1)
        width = self.prior.secant[free.positions]
        steps = torch.zeros(*free.positions.shape, self.n_components, dtype=code.dtype, device=code.device)
        steps.scatter_(2, free.positions.unsqueeze(2), width.to(code).unsqueeze(2))
        around = torch.cat([code.unsqueeze(1) + steps, code.unsqueeze(1) - steps], dim=1)
        upper, lower = self.likelihood.locate(self.decode(around, batch)).chunk(2, dim=1)
        return (upper - lower) / (2.0 * width.unsqueeze(-1)) * free.active.unsqueeze(-1)

    def propose(self, batch: Batch) -> Proposal:
        code, free = self._code(batch)
        noise, around = batch.drawn("posterior"), self._expand(code, free, batch)
        step, factor = around.posterior.step(around.force, around.information)
        if self._is_curved:
            step, factor = self._damped(step, factor, around, batch)
        noise = noise[..., : free.positions.shape[1]].to(factor)
        active = free.active.unsqueeze(1)
        values = ((code.gather(1, free.positions).to(factor) + step).unsqueeze(1) + colored(noise, factor)) * active
        drawn = code.unsqueeze(1).expand(-1, noise.shape[1], -1)
        z = drawn.scatter(2, free.positions.unsqueeze(1).expand(values.shape), values.to(code))
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().unsqueeze(1)
        log_q = ((log_det - 0.5 * noise.square() - 0.5 * math.log(2.0 * math.pi)) * active).sum(-1)
        return Proposal(z, log_q.to(code))

    def _expand(self, code: Tensor, free: Free, batch: Batch) -> Expansion:
        """Expand the posterior around codes."""
        output = self.decode(code, batch)
        residual, information = self.likelihood.residual(batch.target, output), self.likelihood.information(output)
        if batch.observed is not None:
            observed = self.likelihood.spread(batch.observed)
            residual, information = residual * observed, information * observed
        posterior = LaplacePosterior(code, free, self._slopes(code, free, batch))
        force = self.likelihood.score(residual.to(posterior.exact), information.to(posterior.exact))
        return Expansion(code, posterior, output, force, information)

    def _damped(self, step: Tensor, factor: Tensor, around: Expansion, batch: Batch) -> tuple[Tensor, Tensor]:
        """Replace Newton steps that lead to bad codes, and the factors of the precision with them.

        At its rate, a count far above it has next to no information, and much at the rate that it calls for: the Newton step is
        too long by orders of magnitude, and the precision too small. There the step leads to the best code found instead, which
        is never worse than the encoder's, and the precision is that around it. Steps that lead to about as good a code stay what
        they are, to the last bit. Codes are tried for all rows, so that none depends on its neighbors.
        """
        free, total, newton = around.posterior.free, torch.zeros_like(step), step
        for search in range(_SEARCHES):
            moves = self._moves(newton, around, batch)
            energy = self._energy(moves, around, batch)
            least, index = energy.min(1, keepdim=True)
            if search == 0:
                is_good = energy[:, :1] <= least + _SLACK
            best = moves.gather(1, index.unsqueeze(2).expand(-1, -1, moves.shape[2])).squeeze(1)
            total = total + best
            code = around.code.scatter_add(1, free.positions, (best * free.active).to(around.code))
            around = self._expand(code, free, batch)
            newton, narrowed = around.posterior.step(around.force, around.information)
        return torch.where(is_good, step, total), torch.where(is_good.unsqueeze(2), factor, narrowed)

    def _moves(self, newton: Tensor, around: Expansion, batch: Batch) -> Tensor:
        """Return moves of codes to try, ``(n, n_moves, n_free)``: fractions of two steps, the Newton step first, and none.

        The other step has for the information what the force is per shortfall: for counts between the information of the output
        and that of the row, so that a linear decoder of one column gets from any rate to the row's at once.
        """
        secant = around.force / self.likelihood.shortfall(batch.target, around.output)
        information = around.information.to(secant)
        # Where an entry is met already, or missing, there is nothing to divide.
        secant = torch.where((secant > 0.0) & secant.isfinite(), secant, information)
        steps = torch.stack([newton, around.posterior.step(around.force, secant)[0]], dim=1)
        fractions = 0.5 ** torch.arange(_FRACTIONS, dtype=steps.dtype, device=steps.device)
        tried = (steps.unsqueeze(1) * fractions[:, None, None]).flatten(1, 2)
        return torch.cat([tried, torch.zeros_like(tried[:, :1])], dim=1)

    def _energy(self, moves: Tensor, around: Expansion, batch: Batch) -> Tensor:
        """Negative logarithm of p(x|z)p(z), up to a constant of the row, after each of the moves, ``(n, n_moves)``."""
        free = around.posterior.free
        code, positions = around.code.unsqueeze(1).expand(-1, moves.shape[1], -1), free.positions.unsqueeze(1).expand(moves.shape)
        z = code.scatter_add(2, positions, (moves * free.active.unsqueeze(1)).to(code))
        observed = None if batch.observed is None else batch.observed.unsqueeze(1)
        nll = self.likelihood.nll(batch.target.unsqueeze(1), self.decode(z, batch), observed)
        energy = nll + around.posterior.prior_energy(moves)
        return torch.where(energy.isnan(), math.inf, energy)

    def _code(self, batch: Batch) -> tuple[Tensor, Free]:
        """Codes of rows, zero outside their free entries."""
        code = self.encode(batch)
        free = self.prior.free(code)
        return torch.zeros_like(code).scatter(1, free.positions, code.gather(1, free.positions)), free

    # -- the noise ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Fit the likelihood's noise by expectation-maximization over the Laplace approximations of the posteriors.

        Where it would take long for all rows, evenly spaced ones decide; on columns of which these have next to no entry, the
        residuals of all rows do, which grow as those of the other columns. Where posteriors are narrow, a few rows tell by how
        much residuals grow, and more of them how large they are. Where systems are so large that they are solved for few rows,
        these decide on the level of the noise alone.
        """
        if not self.likelihood.learns_noise:
            return
        if not self.likelihood.is_location_family:  # around a Newton step of such, residuals may be anything
            self.likelihood.noise.set_moment(self._mean_energy_in_parts(batch))
            return
        likelihood, part = self.likelihood, self._affordable(batch)
        some = _rows_of(batch, part)
        observed = None if some.observed is None else likelihood.spread(some.observed)
        code, free = self._code(some)
        output = self.decode(code, some)
        residual, slopes = likelihood.residual(some.target, output), self._slopes_in_parts(code, free, some)
        if observed is not None:
            residual = residual * observed
        terms = likelihood.terms(some.target, output, some.counted)
        energy = start = likelihood.mean_energy(terms.learnable, some.weight, terms.counted)
        has_enough, is_narrow = len(code) >= min(len(batch.x), _FEWEST_ROWS), self._is_narrow(free)
        if len(code) < len(batch.x):
            # Residuals move little within a narrow posterior, so that a few rows tell by how much they grow.
            more = _rows_of(batch, slice(None, None, -(-len(batch.x) // _ENERGY_ROWS))) if is_narrow else some
            if not (has_enough and self._are_typical(more, batch)):
                energy = self._mean_energy_in_parts(batch)
            elif is_narrow:
                energy = self._mean_energy_in_parts(more)
        decides = (start > _TYPICAL * energy) & has_enough
        level = torch.where(decides, energy / start, 1.0) if is_narrow else torch.ones_like(start)
        tolerance = _NOISE_TOLERANCE
        if share == 1.0:
            likelihood.noise.set_moment(torch.where(decides, level * start, energy))
        else:  # iterations go on from the noise of earlier rows, and chance makes more of a few than what is left
            tolerance = _STREAM_TOLERANCE / share

        def settle(part: slice, most: int = _NOISE_ITERATIONS) -> None:
            posterior = LaplacePosterior(code[part], free.rows(part), slopes if len(slopes) == 1 else slopes[part])
            seen, counted = None if observed is None else observed[part], None if terms.counted is None else terms.counted[part]
            # What is missing has infinite noise, which systems of the rows' size cannot have.
            is_wide = slopes.shape[1] > slopes.shape[2] and observed is None
            if is_wide:
                moments = posterior.wide_residual_moments(residual[part])
            else:
                moments = posterior.residual_moments(residual[part], likelihood.score)

            def iterate(moment: Tensor) -> Tensor:
                likelihood.noise.set_moment(moment)
                information = likelihood.information(output[part])
                moved, uncertainty = moments(information if seen is None else information * seen)
                expected = likelihood.expected_energy(moved.to(some.x), uncertainty.to(some.x))
                expected = likelihood.mean_energy(expected, some.weight[part], counted)
                growth = expected.sum() / start.sum().clamp(min=1e-30)
                likelihood.noise.set_moment(torch.where(decides, level * expected, energy * growth))
                return likelihood.noise.moment.clone()

            positive_fixed_point(iterate, likelihood.noise.moment.clone(), tolerance=tolerance, most=most)

        if len(code) < len(batch.x) and len(slopes) >= 2 * _FIRST_EM_ROWS:
            settle(slice(None, None, len(slopes) // _FIRST_EM_ROWS))
            settle(slice(None), most=_LAST_NOISE_ITERATIONS)
        else:
            settle(slice(None))

    def _is_narrow(self, free: Free) -> bool:
        """Whether rows have so many columns that they leave little of a code uncertain."""
        return self.n_features >= _NARROW * free.positions.shape[1]

    def _are_typical(self, some: Batch, batch: Batch) -> bool:
        """Whether columns vary about as much among some rows as they do among all of them."""
        spreads = [self.likelihood.mean_energy(part.target.square(), part.weight, part.counted) for part in (some, batch)]
        return bool((spreads[0] >= 2.0 * _TYPICAL * spreads[1]).all())

    def _mean_energy_in_parts(self, batch: Batch) -> Tensor:
        """Mean of the energies that the noise is learned from, of rows that are decoded a few at a time."""
        found = [
            self.likelihood.terms(part.target, self.decode(self._code(part)[0], part), part.counted)
            for part in self._parts(batch, 1)
        ]
        counted = [terms.counted for terms in found if terms.counted is not None]
        energy = torch.cat([terms.learnable for terms in found])
        return self.likelihood.mean_energy(energy, batch.weight, torch.cat(counted) if counted else None)

    def _slopes_in_parts(self, code: Tensor, free: Free, batch: Batch) -> Tensor:
        """Return the slopes, for a few rows at a time where these are decoded more than once."""
        if self._linear_map is not None:
            return self._slopes(code, free, batch)
        parts = list(self._parts(batch, self.slope_decodes))
        size = len(parts[0].x)
        around = zip(torch.split(code, size), free.split(size), parts, strict=True)
        return torch.cat([self._slopes(*given) for given in around])

    def _parts(self, batch: Batch, n_decodes: int) -> Iterator[Batch]:
        """Cut a batch, of which each row is decoded so many times, into ones whose decoded rows stay in a processor's cache."""
        size = len(batch.x)
        if batch.x.device.type == "cpu":
            size = max(1, _CACHED_NUMBERS // (n_decodes * self.likelihood.n_outputs))
        for start in range(0, len(batch.x), size):
            yield _rows_of(batch, slice(start, start + size))

    def _affordable(self, batch: Batch) -> slice:
        """Evenly spaced rows whose slopes fit into memory and whose systems are solved in a moment."""
        free = self._code(_rows_of(batch, slice(1)))[1]
        has_all = batch.observed is None
        if has_all and self._linear_map is not None and free.positions.stride(0) == 0 and not self._is_curved:
            return slice(None)  # one system for all
        n_free = free.positions.shape[1]
        numbers, most = 2 * n_free * max(self.n_features, self.n_components), _SLOPE_NUMBERS
        if self._is_narrow(free):
            most = _SLOPE_NUMBERS_OF_NARROW
        size = min(n_free, self.n_features) if has_all else n_free
        work = size**2 * max(n_free, self.n_features)
        n_rows = max(1, min(_EM_ROWS, most // numbers, _SOLVE_WORK // work))
        return slice(None, None, -(-len(batch.x) // n_rows))


def _rows_of(batch: Batch, rows: slice) -> Batch:
    """Return some rows of a batch, without noise."""
    return Batch(*(None if values is None else values[rows] for values in batch[:-1]))  # type: ignore[arg-type]
