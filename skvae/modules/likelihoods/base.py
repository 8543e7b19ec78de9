"""Likelihoods: how a row of the data is thought to scatter around what a decoder returns for it.

One object owns the standardization of the columns, the noise and its floor, the log-Jacobian, the mean and the draws, so
that loss, score, sample and anomaly score cannot disagree about them. Networks work in standardized units; only
likelihoods know the units of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae import functional as fn
from skvae._spec import Spec, in_words
from skvae.data.columns import ColumnStatistics, SpreadError
from skvae.modules.likelihoods.noise import NOISE_MODES, Noise, NoNoise
from skvae.modules.likelihoods.units import MAX_STANDARDIZED, Units


class Energies(NamedTuple):
    """Energies of entries, and those that the noise is learned from.

    Attributes
    ----------
    energy : Tensor of shape (..., n_features)
        Zero where an entry is missing.
    learnable : Tensor of shape (..., n_features)
        Zero where an entry does not count.
    counted : Tensor or None
        Which entries count for the noise, true or one, of a shape that broadcasts with theirs; all if it is None.
    """

    energy: Tensor
    learnable: Tensor
    counted: Tensor | None


class Likelihood(nn.Module):
    r"""Base of the likelihoods of independent columns, :math:`-\log p(x|z) = \sum_j w_j e(x_j, \mu_j) + \log Z(w)`.

    A likelihood with noise defines `energy`, `log_normalizer`, `unit_weight`, `std_per_scale`, `energy_power`, and how its
    draws, its information and its expected energy are found; one without defines `energy` alone of the former, in nats.

    One whose location is more than the decoder's output says how the location moves with it (`location_change`) and how the
    output would have to move to meet a row (`shortfall`). One of entries that are no measurements on a line says what the encoder
    reads of them (`read`), and in which units columns and residuals compare (`comparable`, with `from_comparable`).

    Parameters
    ----------
    n_features : int
    noise : {"auto", "feature", "shared"} or float, default="auto"
        See `Noise`; of likelihoods with noise.
    """

    has_noise: ClassVar[bool] = True
    is_density: ClassVar[bool] = True  # whether scores are of densities, which a unit of the data is in, or of probabilities
    reads_raw: ClassVar[bool] = False  # whether the network works in the units of the data
    is_location_family: ClassVar[bool] = True  # whether draws around an output are draws around zero, shifted by it
    depends_on_threads: ClassVar[bool] = False  # whether the last bit depends on how threads divide the entries
    energy: ClassVar[staticmethod[[Tensor, Tensor], Tensor]]
    log_normalizer: ClassVar[staticmethod[[Tensor], Tensor]]
    unit_weight: ClassVar[float] = 1.0  # weight at a mean energy of one
    std_per_scale: ClassVar[float]  # standard deviation of noise of scale one
    energy_power: ClassVar[int]  # power of the noise scale that the mean energy is

    varying: Tensor
    training_weight: Tensor

    def __init__(self, n_features: int, noise: str | float = "auto"):
        super().__init__()
        self.n_features = n_features
        self.units = Units(n_features, raw=self.reads_raw)
        self.input_units: Units | None = None
        self.noise = self._make_noise(noise if isinstance(noise, str) else float(noise))
        self.register_buffer("training_weight", torch.full((n_features,), self.unit_weight))
        self.register_buffer("varying", torch.ones(n_features), persistent=False)  # which follows from the units
        self.has_constant = False

    def _make_noise(self, mode: str | float) -> Noise:
        if not self.has_noise:
            return NoNoise(self.n_features)
        return Noise(
            self.n_features,
            mode,
            unit_weight=self.unit_weight,
            std_per_scale=self.std_per_scale,
            power=self.energy_power,
            log_normalizer=self.log_normalizer,
        )

    @property
    def n_inputs(self) -> int:
        """Numbers that the encoder reads of a row."""
        return self.n_features

    @property
    def n_outputs(self) -> int:
        """Numbers that the decoder returns for a row."""
        return self.n_features

    @property
    def weight(self) -> Tensor:
        """Weights of the columns' energies, ``(n_features,)``."""
        return self.noise.weight

    @property
    def learns_noise(self) -> bool:
        """Whether there is noise, and it is estimated rather than fixed."""
        return self.has_noise and self.noise.is_learned

    # -- the columns --------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        sample_weight: NDArray[np.float64] | None = None,
        *,
        shared: bool | None = None,
        standardize: bool = True,
    ) -> Likelihood:
        """Measure the columns of `X`: standardization, constants, noise floor, shared units.

        Parameters
        ----------
        X : ndarray or CSR matrix of shape (n_samples, n_features)
        sample_weight : ndarray of shape (n_samples,), optional
        shared : bool, optional
            Whether the columns share a unit, where the noise leaves it open; found out from the data by default.
        standardize : bool, default=True
            False has the network read the data as it is.

        Returns
        -------
        Likelihood
            The object itself.
        """
        columns = self.units.fit(X, sample_weight, shared=self._shares(shared), standardize=standardize)
        self._follow_units()
        if self.has_noise:
            weight = self.unit_weight * (columns.scale / columns.std) ** self.energy_power
            self.training_weight.copy_(torch.from_numpy(weight) * self.varying)
        self.noise.fit(columns)
        return self

    def fit_inputs(self, X: Any, sample_weight: NDArray[np.float64] | None = None, *, shared: bool | None = None) -> Likelihood:
        """Measure the columns of rows that are not what the likelihood is about, but what the encoder reads of them.

        They are standardized by means and standard deviations of their own.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
        sample_weight : ndarray of shape (n_samples,), optional
        shared : bool, optional
            Whether the columns share a unit; found out from the data by default.

        Returns
        -------
        Likelihood
            The object itself.
        """
        self.input_units = Units(self.n_features, raw=self.reads_raw)
        self.input_units.fit(X, sample_weight, shared=self._shares(shared))
        return self

    def _shares(self, shared: bool | None) -> bool | None:
        """Whether the columns share a unit, as far as it is not left to the data."""
        return self.noise.mode == "shared" if isinstance(self.noise.mode, str) and self.noise.mode != "auto" else shared

    def extend(self, X: Any, sample_weight: NDArray[np.float64] | None, n_before: int) -> NDArray[np.intp]:
        """Measure columns that were constant so far and are not in more rows; all others stay as they are.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
        sample_weight : ndarray of shape (n_samples,) or None
        n_before : int
            Number of earlier rows.

        Returns
        -------
        ndarray of int
            Their positions.
        """
        columns = self.units.no_longer_constant(X)
        if not len(columns):
            return columns
        try:
            found = self.units.extend(X, sample_weight, columns, n_before)
        except SpreadError as error:
            raise error.named(lambda j: int(columns[j]), error.table) from None
        self._extend(columns, *found)
        return columns

    def _extend(
        self,
        columns: NDArray[np.intp],
        statistics: ColumnStatistics,
        entries: NDArray[np.float64],
        weight: NDArray[np.float64],
    ) -> None:
        """Take note of what columns look like that were constant so far; see `Units.extend`."""
        self._follow_units()
        if self.has_noise:
            scale = self.unit_weight * (statistics.scale / statistics.std) ** self.energy_power
            self.training_weight[columns] = torch.from_numpy(scale).to(self.training_weight)
        self.noise.extend(statistics, columns)

    def _follow_units(self) -> None:
        self.has_constant = self.units.has_constant
        self.varying.copy_(torch.from_numpy(~self.units.is_constant))
        self.noise.set_units(self.units.scale, shared=self.units.is_shared)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` keeps beside the tensors."""
        return self.units.state if self.input_units is None else {**self.units.state, "inputs": self.input_units.state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        inputs, self.input_units = state.get("inputs"), None
        if inputs is not None:
            self.input_units = Units(self.n_features, raw=self.reads_raw)
            self.input_units.set_state(inputs)
        self.units.set_state({name: value for name, value in state.items() if name != "inputs"})
        self._follow_units()

    def check(self, X: Any, name: Callable[[int], Any] = int) -> None:
        """Raise a ValueError if `X` lies outside what the likelihood can produce.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
            NaN where entries are missing.
        name : callable, optional
            Name of a column, from its position.
        """

    # -- between rows and networks ------------------------------------------------------------------------------------

    def standardize(self, X: Any, rows: Any = slice(None), *, out: Tensor | None = None) -> Tensor:
        """Rows of `X` in standardized units; see `Units.standardize`."""
        return self.units.standardize(X, rows, out=out)

    def standardize_inputs(self, X: Any, rows: Any = slice(None), *, out: Tensor | None = None) -> Tensor:
        """Rows of `X` in the units in which the encoder reads them; see `fit_inputs`."""
        return self.inputs.standardize(X, rows, out=out)

    @property
    def passes_rows_on(self) -> bool:
        """Whether the encoder reads standardized rows as they lie in memory."""
        return not self.has_constant and self.input_units is None

    def read(self, x: Tensor, columns: Tensor | slice = slice(None)) -> Tensor:
        """Return what networks read of standardized entries, each by itself: numbers of about unit variance around zero.

        Parameters
        ----------
        x : Tensor of shape (..., n_columns)
            Any finite numbers, be they entries that the likelihood cannot produce.
        columns : Tensor or slice, optional
            Which columns these are; all by default.
        """
        return x

    def hide_constant(self, x: Tensor) -> Tensor:
        """Blank the columns that were constant in training, which the encoder knows nothing about."""
        return x * self.varying.to(x) if self.has_constant else x

    def facts(self, target: Tensor) -> Tensor | None:
        """Return what is found out about rows by themselves, ``(..., n_facts)``, ahead of steps; None if that takes no time."""
        return None

    def network_input(self, x: Tensor, facts: Tensor | None = None) -> Tensor:
        """Return what the encoder reads of standardized rows, about which there may be facts."""
        if self.input_units is None:
            return self.hide_constant(self.read(x))
        return self.read(x) * self.input_varying.to(x)

    @property
    def inputs(self) -> Units:
        """Units of what the encoder reads, which are those of the rows unless `fit_inputs` has measured others."""
        return self.units if self.input_units is None else self.input_units

    @property
    def input_varying(self) -> Tensor:
        """Which columns vary among what the encoder reads, as zeros and ones, ``(n_features,)``."""
        if self.input_units is None:
            return self.varying
        return self.input_units.varying(self.weight.device)

    def locate(self, output: Tensor) -> Tensor:
        """Location of the likelihood, in standardized units, from a decoder's output; constant columns stay put."""
        return output * self.varying.to(output) if self.has_constant else output

    def location_change(self, change: Tensor) -> Tensor:
        """Change of the location, for a change of the decoder's output."""
        return change * self.varying.to(change) if self.has_constant else change

    def fill(self, x: Tensor, *, is_target: bool = False) -> tuple[Tensor, Tensor]:
        """Put the columns' means in place of the missing entries of standardized rows ``(..., n_features)``, which are NaN.

        Parameters
        ----------
        x : Tensor
            Rows as the encoder reads them or, with `is_target`, as they should be.
        is_target : bool, default=False

        Returns
        -------
        filled : Tensor of the same shape
        observed : Tensor of bool, of the same shape
            Which entries are not missing.
        """
        observed = ~x.isnan()
        return torch.where(observed, x, self.absent(is_target=is_target)), observed

    def absent(self, *, is_target: bool = False) -> Tensor | float:
        """Return what stands for missing entries of rows as the encoder reads them or, with `is_target`, as they should be."""
        if not self.reads_raw:
            return 0.0
        return self.column("mean") if is_target else self.input_column("mean")

    def spread(self, values: Tensor) -> Tensor:
        """Return values by column ``(..., n_features)`` for every number that networks read or give, ``(..., n_outputs)``."""
        return values

    def column(self, name: str) -> Tensor:
        """Return a statistic of the columns, float32 of shape (n_features,) on the module's device; see `Units.column`."""
        return self.units.column(name, self.weight.device)

    def input_column(self, name: str) -> Tensor:
        """Return what `column` does, of what the encoder reads and in its units."""
        return self.inputs.column(name, self.weight.device)

    def standardized_value(self, value: float) -> Tensor:
        """Return a value of all columns, in the units of the data, in those that the encoder reads, ``(n_features,)``."""
        return self.inputs.value(value, self.weight.device)

    @property
    def typical(self) -> Tensor:
        """Entries that say nothing of a row, standardized, ``(n_features,)``: the columns' means."""
        return self.column("mean")

    @property
    def blank(self) -> Tensor | float:
        """What entries become that are masked: the columns' means, or zero where the network reads the data as it is."""
        return 0.0 if self.reads_raw else self.input_column("mean")

    def comparable(self, x: Tensor) -> Tensor:
        """Standardized entries in units in which columns compare, and residuals of small and large entries do."""
        return x

    def near(self, x: Tensor) -> Tensor:
        """Return numbers by whose distances rows are near: what the encoder reads."""
        return self.network_input(x)

    def from_comparable(self, x: Tensor) -> NDArray[np.float64]:
        """Rows in the units of the data, from those of `comparable_rows`."""
        return self.rescale(x)

    def to_data(self, x: Tensor) -> Tensor:
        """Standardized rows in the units of the data, in single precision."""
        return self.units.to_data(x)

    def rescale(self, x: Tensor) -> NDArray[np.float64]:
        """Standardized rows in the units of the data, in double precision."""
        return self.units.rescale(x)

    def expectation(self, output: Tensor) -> Tensor:
        """Mean of the likelihood in standardized units."""
        return self.locate(output)

    def mean(self, output: Tensor) -> NDArray[np.float64]:
        """Mean of the likelihood in the units of the data, from a decoder's output of shape (n, n_features)."""
        return self.rescale(self.expectation(output))

    # -- losses and scores --------------------------------------------------------------------------------------------

    def nll(self, target: Tensor, output: Tensor, observed: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of rows, in nats and in the units of the data.

        Parameters
        ----------
        target, output : Tensor of shape (..., n_features)
        observed : Tensor of bool, of a shape that broadcasts with theirs, optional
            Which entries count; the others, of which `target` has any finite numbers, are integrated out.

        Returns
        -------
        Tensor of shape (...,)
        """
        return self.nll_of(self.energies(target, output, observed), observed)

    def energies(self, target: Tensor, output: Tensor, observed: Tensor | None = None) -> Tensor:
        """Energies of entries, ``(..., n_features)``, zero for those that are missing; see `nll`."""
        energy = self.energy(target, self.locate(output))
        return energy if observed is None else energy * observed

    def terms(self, target: Tensor, output: Tensor, observed: Tensor | None = None, facts: Tensor | None = None) -> Energies:
        """Energies of entries with those that the noise is learned from; see `nll`, and `facts` for those of the target."""
        energy = self.energies(target, output, observed)
        return Energies(energy, energy, observed)

    def strangeness(self, target: Tensor) -> Tensor | None:
        """Return the nats that scores count beside energies of entries that a column has never had, ``(..., n_features)``.

        They depend on nothing that is learned. None where energies say all.
        """
        return None

    def nll_of(self, energy: Tensor, observed: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of rows whose `energies` are given, ``(...,)``."""
        noise = self.noise
        nll = fn.weighted_row_sum(energy, noise.weight, noise.log_constant)
        return nll if observed is None else nll - (~observed).to(energy) @ self.log_constants()

    def log_constants(self) -> Tensor:
        """Return each column's part in the constant of `nll`, ``(n_features,)``."""
        if not self.has_noise:
            return torch.zeros_like(self.weight)
        normalizer = self.log_normalizer(self.weight.unsqueeze(-1))
        return normalizer + torch.log(1.0 / self.column("unit"))

    def distortion(self, target: Tensor, output: Tensor, observed: Tensor | None = None, facts: Tensor | None = None) -> Tensor:
        """Energy of rows at a noise of one standard deviation per column: half the squared error for a Gaussian."""
        energy = self.energies(target, output, observed)
        return fn.weighted_row_sum(energy, self.training_weight, energy.new_zeros(()))

    def mean_energy(self, energy: Tensor, weight: Tensor, observed: Tensor | None = None) -> Tensor:
        """Weighted mean over rows of energies ``(n, n_features)``, for each column over the rows that have it."""
        share = weight / weight.sum()
        if observed is None:
            return share @ energy
        total, known = share @ (energy * observed), share @ observed.to(energy)
        if self.noise.mode == "shared":
            return (total.sum() / known.sum().clamp(min=torch.finfo(total.dtype).tiny)).expand_as(total)
        return torch.where(known > 0.0, total / known.clamp(min=torch.finfo(total.dtype).tiny), self.noise.moment.to(total))

    def information(self, output: Tensor) -> Tensor:
        """Curvature of the negative log-likelihood in the decoder's output, by entry or, where it is constant, by column."""
        raise NotImplementedError

    def residual(self, target: Tensor, output: Tensor) -> Tensor:
        """Difference, in standardized units, between rows and the mean of the likelihood; see `score`."""
        return target - self.locate(output)

    def response(self, x: Tensor) -> Tensor:
        """Output of a decoder that would have its mean at rows, or about there; what linear models take for the rows."""
        return x if self.is_location_family else self.shortfall(x, torch.zeros_like(x))

    def shortfall(self, target: Tensor, output: Tensor) -> Tensor:
        """Change of the decoder's output that would bring the mean of the likelihood to rows, or about as far."""
        return self.residual(target, output)

    def score(self, residual: Tensor, information: Tensor) -> Tensor:
        """Gradient of the log-likelihood in the decoder's output, from residuals and information."""
        return residual * information

    def variance(self, output: Tensor) -> Tensor:
        """Variance of the likelihood in standardized units, entry by entry or per column."""
        return 1.0 / self.information(output)

    def average(self, output: Tensor, share: Tensor) -> Tensor:
        """Mean of the likelihood around several outputs of which each has a share, in standardized units.

        Parameters
        ----------
        output : Tensor of shape (n, n_draws, n_outputs)
        share : Tensor of shape (n, n_draws)

        Returns
        -------
        Tensor of shape (n, n_features)
        """
        return torch.einsum("nk,nkd->nd", share.to(output), self.expectation(output))

    def mixture_moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of an equal mixture of the likelihood around several outputs, in standardized units.

        Parameters
        ----------
        output : Tensor of shape (n, n_draws, n_features)

        Returns
        -------
        mean, variance : Tensor of shape (n, n_features)
        """
        mean = self.expectation(output)
        within = self.variance(output)
        return mean.mean(1), mean.var(1, correction=0) + (within.mean(1) if within.dim() == 3 else within)

    def surprise(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Nats by which entries ``(n, n_features)`` fall short of the best, under a prediction of this mean and variance."""
        return 0.5 * (x - mean).square() / variance

    def expected_energy(self, residual: Tensor, variance: Tensor) -> Tensor:
        """Mean energy of residuals that are only known up to a normal error of the given variance."""
        raise NotImplementedError

    def deviance(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        """Nats by which every entry of `X` falls short of the best possible one, in double precision.

        Parameters
        ----------
        X : ndarray or CSR matrix of shape (n, n_features)
        output : Tensor of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_features)
            For a Gaussian, squared residuals over twice the noise variance; zero for missing entries.
        """
        target = self._exact(X)
        location = self.locate(output).cpu().double()
        return zero_where_missing((self.energy(target, location) * self.weight.cpu().double()).numpy(), target)

    def errors(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        """Rows of `X` and their residuals, side by side and in comparable units, in double precision, ``(n, 2 n_features)``."""
        return self._beside(X, self.expectation(output.cpu().double()))

    def _beside(self, X: Any, mean: Tensor) -> NDArray[np.float64]:
        """Rows of `X` and what they differ from a mean by; entries that are missing are taken to be as the mean."""
        target = self._exact(X)
        x = self.comparable(torch.where(target.isnan(), mean, target))
        return torch.cat([x, x - self.comparable(mean)], dim=1).numpy()

    def _exact(self, X: Any) -> Tensor:
        return self.units.standardize_exactly(X).clamp_(-MAX_STANDARDIZED, MAX_STANDARDIZED)

    def comparable_rows(self, X: Any) -> NDArray[np.float64]:
        """Rows of `X` as they are kept to be compared with, in double precision, NaN where entries are missing.

        They have the units of `comparable`, or others of which as many numbers make a row as it has columns, ``(n, n_features)``.
        """
        return self.comparable(self._exact(X)).numpy()  # type: ignore[no-any-return]

    def log_prob(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        """Log-likelihood of rows of `X`, in nats and in the units of the data, in double precision, ``(n,)``."""
        weight = self.weight.cpu().double()
        energy = self.energy(self._exact(X), self.locate(output).cpu().double()) * weight
        constant = 0.0
        if self.has_noise:
            constant = float(self.log_normalizer(weight)) + float(np.log(self.units.scale).sum())
        log_prob: NDArray[np.float64] = -energy.numpy().sum(axis=1) - constant
        return log_prob

    def noise_floor(self) -> Tensor:
        """Smallest variance of the noise of each column, in standardized units, float64 of shape (n_features,) on the CPU."""
        return self.noise.floor.cpu().double().pow(2 / self.energy_power) * self.std_per_scale**2

    # -- noise and draws ----------------------------------------------------------------------------------------------

    def noise_scale(self) -> NDArray[np.float64]:
        """Scale parameter of the noise of every column, in the units of the data; zero where there is none."""
        return np.zeros(self.n_features)

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw rows, in standardized units, from the likelihood around a decoder's output."""
        raise NotImplementedError

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal numbers into draws, in standardized units, that gradients reach the output through."""
        raise NotImplementedError

    def draw(self, output: Tensor, generator: torch.Generator) -> NDArray[np.float64]:
        """Draw rows, in the units of the data, from the likelihood around a decoder's output."""
        return self.rescale(self.scatter(output, generator))


def zero_where_missing(values: NDArray[np.float64], target: Tensor) -> NDArray[np.float64]:
    """Put zeros where the target is NaN."""
    missing = target.isnan()
    if missing.any():
        values[missing.numpy()] = 0.0
    return values


def digits(value: float, is_right: Callable[[float], bool]) -> str:
    """Write a value down in few digits, or in all of them where the few would be right though it is wrong, or the reverse."""
    short = f"{value:g}"
    return short if is_right(float(short)) == is_right(value) else repr(float(value))


class LikelihoodSpec(Spec):
    """Specification of a likelihood: its module, the name that stands for it at its defaults, and its arguments."""

    name: ClassVar[str]
    _module_class: ClassVar[type[Likelihood]]


def check_noise(spec: LikelihoodSpec, noise: Any) -> None:
    """Raise a ValueError about noise that is none."""
    is_scale = isinstance(noise, Real) and not isinstance(noise, bool) and 0.0 < float(noise) < np.inf
    if not is_scale and not (isinstance(noise, str) and noise in NOISE_MODES):
        raise ValueError(f"{spec!r}: noise={noise!r} must be one of {in_words(NOISE_MODES)}, or a number above 0.")
