"""Likelihoods: how a row of the data is thought to scatter around what a decoder returns for it.

One object owns the standardization of the columns, the noise and its floor, the log-Jacobian, the mean and the draws, so
that loss, score, sample and anomaly score cannot disagree about them. Networks work in standardized units; only
likelihoods know the units of the data.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae import functional as fn
from skvae._spec import Spec, in_words
from skvae.data.columns import ColumnStatistics, row_blocks

NOISE_MODES = ("auto", "feature", "shared")
MAX_STANDARDIZED = 1e15  # entries further out are taken for this, whose square is still a number in single precision


class Likelihood(nn.Module):
    r"""Base of the likelihoods of independent columns, :math:`-\log p(x|z) = \sum_j w_j e(x_j, \mu_j) + \log Z(w)`.

    The weights :math:`w` are the noise. They have a closed-form best value, the inverse mean energy, and the gradient of
    the loss with respect to them *is* that mean: `update_noise` turns the one into the other, an exponentially
    averaged M-step.

    Parameters
    ----------
    n_features : int
    noise : {"auto", "feature", "shared"} or float, default="auto"
        One noise scale per column, one for all, or a fixed one in the units of the data. "auto" trains with one for all
        where the columns share a unit, as pixels do, and fits one per column once the networks are trained: shared, it
        keeps dim pixels from being learned as carefully as bright ones; per column, it describes the data better.
    """

    has_noise: ClassVar[bool] = True
    energy: ClassVar[staticmethod[[Tensor, Tensor], Tensor]]
    log_normalizer: ClassVar[staticmethod[[Tensor], Tensor]]
    unit_weight: ClassVar[float]  # weight at a mean energy of one
    std_per_scale: ClassVar[float]  # standard deviation of noise of scale one
    energy_power: ClassVar[int]  # power of the noise scale that the mean energy is

    moment: Tensor
    weight: Tensor
    training_weight: Tensor
    log_constant: Tensor
    floor: Tensor
    varying: Tensor
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    is_constant: NDArray[np.bool_]
    columns: dict[str, Any]
    _columns: dict[tuple[str, torch.device], Tensor]

    def __init__(self, n_features: int, noise: str | float = "auto"):
        super().__init__()
        self.n_features = n_features
        self.noise = noise if isinstance(noise, str) else float(noise)
        self.register_buffer("moment", torch.ones(n_features))
        self.register_buffer("weight", torch.full((n_features,), self.unit_weight))
        self.register_buffer("training_weight", torch.full((n_features,), self.unit_weight))
        self.register_buffer("log_constant", torch.zeros(()))
        self.register_buffer("floor", torch.zeros(n_features))
        self.register_buffer("varying", torch.ones(n_features))
        self._set_columns(
            {
                "shift": np.zeros(n_features),
                "scale": np.ones(n_features),
                "is_constant": np.zeros(n_features, dtype=bool),
                "shared": noise == "shared",
                "mean": np.zeros(n_features),
                "spread": np.ones(n_features),
                "low": np.full(n_features, -1.0),
                "high": np.ones(n_features),
            }
        )

    # -- what it learns about the columns -----------------------------------------------------------------------------

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
            Whether the columns share a unit, where `noise` leaves it open; found out from the data by default.
        standardize : bool, default=True
            False has the network see the data as it is.

        Returns
        -------
        Likelihood
            The object itself.
        """
        if isinstance(self.noise, str) and self.noise != "auto":
            shared = self.noise == "shared"
        columns = ColumnStatistics.of(X, sample_weight, shared=shared)
        if not standardize:
            columns = replace(columns, shift=np.zeros(self.n_features), scale=np.ones(self.n_features))
        self._set_columns(
            {
                "shift": columns.shift,
                "scale": columns.scale,
                "is_constant": columns.constant,
                "shared": columns.shared_unit,
                **columns.summary(),
            }
        )
        self.varying.copy_(torch.from_numpy(~columns.constant))
        weight = self.unit_weight * (columns.scale / columns.std) ** self.energy_power
        self.training_weight.copy_(torch.from_numpy(weight) * self.varying)
        if isinstance(self.noise, str):
            floor = columns.floor / (columns.scale * self.std_per_scale)
            self.floor.copy_(torch.from_numpy(floor**self.energy_power))
            self.set_moment(self.varying.clone())
        else:
            self.floor.zero_()
            moment = (self.noise / columns.scale) ** self.energy_power
            limits = np.finfo(np.float32)
            if not (moment.min() > limits.tiny and moment.max() < limits.max):
                raise ValueError(
                    f"The likelihood's noise={self.noise:g} is out of proportion to the columns of X, whose standard deviations "
                    f"range from {columns.scale.min():.3g} to {columns.scale.max():.3g}."
                )
            self.set_moment(torch.from_numpy(moment))
        return self

    def _set_columns(self, columns: dict[str, Any]) -> None:
        """Keep the columns' statistics in double precision, beside the tensors, which follow the module's device."""
        self.columns, self._columns = columns, {}
        self.shift, self.scale = columns["shift"], columns["scale"]
        self.is_constant, self.shared = columns["is_constant"], bool(columns["shared"])
        self.has_constant = bool(self.is_constant.any())
        self._center = torch.from_numpy(self.shift.copy() if self.has_noise else np.zeros(self.n_features))
        self._inverse_scale = torch.from_numpy(1.0 / self.scale)
        self._log_jacobian = float(np.log(self.scale).sum())

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` keeps beside the tensors."""
        return self.columns

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self._set_columns(state)

    # -- between the data's units and the network's -------------------------------------------------------------------

    def standardize(self, X: Any, rows: Any = slice(None), *, out: Tensor | None = None) -> Tensor:
        """Rows of `X` in standardized units: centered and scaled in double precision, then cast.

        Parameters
        ----------
        X : ndarray or CSR matrix of shape (n_samples, n_features)
        rows : slice or ndarray of int
        out : Tensor of float32, shape (at least n_rows, n_features), optional
            Where to put them.

        Returns
        -------
        Tensor of float32 on the CPU, shape (n_rows, n_features)
        """
        wide = self._standardize_wide(X, rows)
        narrow = wide.float() if out is None else out[: len(wide)].copy_(wide)
        return narrow.clamp_(-MAX_STANDARDIZED, MAX_STANDARDIZED)

    def _standardize_wide(self, X: Any, rows: Any = slice(None)) -> Tensor:
        """Rows of `X` in standardized units, in double precision."""
        return torch.sub(self._block(X, rows).double(), self._center).mul_(self._inverse_scale)

    @staticmethod
    def _block(X: Any, rows: Any) -> Tensor:
        """Rows of `X` as a tensor that may share their memory."""
        block = X[rows]
        block = np.ascontiguousarray(block.toarray() if hasattr(block, "toarray") else block)
        # torch warns about read-only memory and takes no negative strides,
        # which numpy leaves to blocks of one row.
        if not block.flags.writeable or min(block.strides) < 0:
            block = block.copy()
        return torch.from_numpy(block)

    def network_input(self, x: Tensor) -> Tensor:
        """Blank the columns that were constant in training, which the encoder knows nothing about."""
        return x * self.varying if self.has_constant else x

    def locate(self, output: Tensor) -> Tensor:
        """Location of the likelihood, in standardized units, from a decoder's output; constant columns stay put."""
        return output * self.varying if self.has_constant else output

    def fill(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tell apart what is observed of standardized rows, ``(..., n_features)``, of which NaN is not.

        Returns
        -------
        filled : Tensor of the same shape
            With the columns' means in place of what is missing.
        observed : Tensor of bool, of the same shape
        """
        observed = ~x.isnan()
        return torch.where(observed, x, 0.0 if self.has_noise else self.column("mean")), observed

    def column(self, name: str) -> Tensor:
        """Return a statistic of the columns in the network's units, float32 of shape (n_features,) on the module's device.

        Parameters
        ----------
        name : {"mean", "low", "high", "spread", "unit"}
            Mean, smallest and largest value, standard deviation (zero where a column is constant), and what one unit of
            the data is worth.
        """
        key = (name, self.weight.device)
        if key not in self._columns:
            if name == "unit":
                values = 1.0 / self.scale
            elif name == "spread":
                values = self.columns[name] / self.scale
            else:
                values = (self.columns[name] - self._center.numpy()) / self.scale
            self._columns[key] = torch.from_numpy(values.astype(np.float32)).to(self.weight.device)
        return self._columns[key]

    def to_data(self, x: Tensor) -> Tensor:
        """Standardized rows in the units of the data, in single precision."""
        return x / self.column("unit") + self._center.to(x)

    def standardized_value(self, value: float) -> Tensor:
        """Return a value of all columns, in the units of the data, in those of the network, ``(n_features,)``."""
        key = (str(value), self.weight.device)
        if key not in self._columns:
            values = (value - self._center.numpy()) / self.scale
            self._columns[key] = torch.from_numpy(values.astype(np.float32)).to(self.weight.device)
        return self._columns[key]

    def mean(self, output: Tensor) -> NDArray[np.float64]:
        """Mean of the likelihood in the units of the data, from a decoder's output of shape (n, n_features)."""
        return self._to_data(self.locate(output))

    def _to_data(self, x: Tensor) -> NDArray[np.float64]:
        """Locations in the units of the data."""
        return self.rescale(x)

    def expectation(self, output: Tensor) -> Tensor:
        """Mean of the likelihood in standardized units."""
        return self.locate(output)

    def rescale(self, x: Tensor) -> NDArray[np.float64]:
        """Rows in the units of the data, in double precision."""
        values = x.cpu().numpy().astype(np.float64)
        values *= self.scale
        values += self.shift
        return self._restore_constants(values)

    def _restore_constants(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.has_constant:
            values[..., self.is_constant] = self.shift[self.is_constant]
        return values

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
        energy = self.energy(target, self.locate(output))
        if observed is None:
            return fn.weighted_row_sum(energy, self.weight, self.log_constant)
        unseen = (~observed).to(energy) @ self.log_constants()
        return fn.weighted_row_sum(energy * observed, self.weight, self.log_constant) - unseen

    def log_constants(self) -> Tensor:
        """Return each column's part in `log_constant`, ``(n_features,)``."""
        normalizer = self.log_normalizer(self.weight.detach().unsqueeze(-1))
        return normalizer - self._inverse_scale.log().to(self.weight)

    def distortion(self, target: Tensor, output: Tensor, observed: Tensor | None = None) -> Tensor:
        """Energy of rows at a noise of one standard deviation per column: half the squared error for a Gaussian."""
        energy = self.energy(target, self.locate(output))
        if observed is not None:
            energy = energy * observed
        return fn.weighted_row_sum(energy, self.training_weight, energy.new_zeros(()))

    def mean_energy(self, energy: Tensor, weight: Tensor, observed: Tensor | None = None) -> Tensor:
        """Weighted mean over rows of energies ``(n, n_features)``, for each column over the rows that have it."""
        share = weight / weight.sum()
        if observed is None:
            return share @ energy
        total, known = share @ (energy * observed), share @ observed.to(energy)
        if self.noise == "shared":
            return (total.sum() / known.sum().clamp(min=torch.finfo(total.dtype).tiny)).expand_as(total)
        return torch.where(known > 0.0, total / known.clamp(min=torch.finfo(total.dtype).tiny), self.moment.to(total))

    def information(self, output: Tensor) -> Tensor:
        """Curvature of the negative log-likelihood in the decoder's output, entry by entry or per column."""
        raise NotImplementedError

    def residual(self, target: Tensor, output: Tensor) -> Tensor:
        """Difference, in standardized units, between rows and the mean of the likelihood."""
        return target - self.locate(output)

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
        target = self._standardize_wide(X)
        location = self.locate(output).cpu().double()
        return zero_where_missing((self.energy(target, location) * self.weight.cpu().double()).numpy(), target)

    def errors(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        """Rows of `X` and their residuals, side by side and in standardized units, in double precision, ``(n, 2 n_features)``."""
        return self._beside(X, self.locate(output).cpu().double())

    def _beside(self, X: Any, mean: Tensor) -> NDArray[np.float64]:
        """Rows of `X` and what they differ from a mean by; entries that are missing are taken to be as the mean."""
        target = self._standardize_wide(X).clamp_(-MAX_STANDARDIZED, MAX_STANDARDIZED)
        target = torch.where(target.isnan(), mean, target)
        return torch.cat([target, target - mean], dim=1).numpy()

    def log_prob(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        """Log-likelihood of rows of `X`, in nats and in the units of the data, in double precision, ``(n,)``."""
        weight = self.weight.detach().cpu().double()
        energy = self.energy(self._standardize_wide(X), self.locate(output).cpu().double()) * weight
        constant = float(self.log_normalizer(weight)) + self._log_jacobian
        log_prob: NDArray[np.float64] = -energy.numpy().sum(axis=1) - constant
        return log_prob

    # -- noise --------------------------------------------------------------------------------------------------------

    @property
    def learns_noise(self) -> bool:
        """Whether the noise is estimated rather than fixed."""
        return self.has_noise and isinstance(self.noise, str)

    @torch.no_grad()
    def set_moment(self, moment: Tensor) -> None:
        """Set the noise from the mean energy of the residuals per column, in standardized units."""
        moment = moment.to(self.moment)
        self.moment.copy_(moment.mean() if self.noise == "shared" else moment)
        self._refresh()

    def blend_moment(self, before: Tensor, rate: float) -> None:
        """Give the present noise the weight `rate` and an earlier one the rest."""
        if rate < 1.0 and self.learns_noise:
            self.set_moment(torch.lerp(before, self.moment, rate))

    @torch.no_grad()
    def start_training(self) -> None:
        """Give all columns the same noise, where they share it in training."""
        if self.learns_noise and self.shared:
            self.moment.fill_(self.moment.mean())
            self._refresh()

    @torch.no_grad()
    def update_noise(self, rate: float, known: Tensor | None = None) -> None:
        """Move the noise towards the one that explains the last batch best; its gradient is the mean energy.

        Parameters
        ----------
        rate : float
        known : Tensor of shape (n_features,), optional
            Share of the batch that has a column's entries, where some are missing. They add nothing to the gradient, and the
            noise moves in proportion to what there is.
        """
        moment = self.weight.grad
        if moment is None:
            return
        if known is None:
            self.moment.lerp_(moment.mean() if self.shared else moment, rate)
        elif self.shared:
            self.moment.add_(moment.mean() - known.mean() * self.moment, alpha=rate)
        else:
            self.moment.add_(moment - known * self.moment, alpha=rate)
        self.weight.grad = None
        self._refresh()

    def _refresh(self) -> None:
        weight = self.unit_weight / torch.maximum(self.moment, self.floor)
        self.weight.copy_(weight)
        self.log_constant.copy_(self.log_normalizer(weight) + self._log_jacobian)

    def noise_scale(self) -> NDArray[np.float64]:
        """Scale parameter of the noise of every column, in the units of the data."""
        raise NotImplementedError

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Draw rows, in standardized units, from the likelihood around a decoder's output."""
        raise NotImplementedError

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal numbers into draws, in standardized units, that gradients reach the output through."""
        raise NotImplementedError

    def draw(self, output: Tensor, generator: torch.Generator) -> NDArray[np.float64]:
        """Draw rows, in the units of the data, from the likelihood around a decoder's output."""
        return self.rescale(self.scatter(output, generator))

    def largest_entry(self, X: Any) -> tuple[float, int]:
        """Largest absolute standardized entry of `X` and its column."""
        largest = np.zeros(self.n_features)
        for rows in row_blocks(X.shape[0], self.n_features):
            np.fmax(largest, np.fmax.reduce(self._standardize_wide(X, rows).abs().numpy(), axis=0), out=largest)
        return float(largest.max()), int(largest.argmax())

    def check(self, X: Any) -> None:
        """Raise a ValueError if `X` lies outside what the likelihood can produce."""


def zero_where_missing(values: NDArray[np.float64], target: Tensor) -> NDArray[np.float64]:
    """Put zeros where the target is NaN."""
    missing = target.isnan()
    if missing.any():
        values[missing.numpy()] = 0.0
    return values


class LikelihoodSpec(Spec):
    """Specification of a likelihood: its module, the name that stands for it at its defaults, and its arguments."""

    name: ClassVar[str]
    _module_class: ClassVar[type[Likelihood]]


def build_likelihood(spec: LikelihoodSpec, n_features: int) -> Likelihood:
    """Build the likelihood of so many columns from its specification."""
    return spec._module_class(n_features, **spec.get_params())


def check_noise(spec: LikelihoodSpec, noise: Any) -> None:
    """Raise a ValueError about noise that is none."""
    is_scale = isinstance(noise, Real) and not isinstance(noise, bool) and 0.0 < float(noise) < np.inf
    if not is_scale and not (isinstance(noise, str) and noise in NOISE_MODES):
        raise ValueError(f"{spec!r}: noise={noise!r} must be one of {in_words(NOISE_MODES)}, or a number above 0.")
