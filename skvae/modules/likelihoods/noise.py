"""The noise of a likelihood: how it is set, floored and learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae.data.columns import ColumnStatistics

NOISE_MODES = ("auto", "feature", "shared")


class Noise(nn.Module):
    r"""Weights :math:`w` of the columns' energies, which are the noise, and the constant :math:`\log Z(w)` that goes with them.

    The weights have a closed-form best value, the inverse mean energy, and the gradient of the negative log-likelihood in them
    *is* that mean: training hands it to `update`, an exponentially averaged M-step.

    Parameters
    ----------
    n_features : int
    mode : {"auto", "feature", "shared"} or float
        One noise scale per column, one for all, or a fixed one in the units of the data. "auto" trains with one for all
        where the columns share a unit, as pixels do, and fits one per column once the networks are trained: shared, it
        keeps dim pixels from being learned as carefully as bright ones; per column, it describes the data better.
    unit_weight : float
        Weight at a mean energy of one.
    std_per_scale : float
        Standard deviation of noise of scale one.
    power : int
        Power of the noise scale that the mean energy is.
    log_normalizer : callable
        :math:`\log Z`, from weights ``(..., n_features)``, ``(...,)``.
    """

    moment: Tensor
    weight: Tensor
    floor: Tensor
    log_constant: Tensor
    log_jacobian: Tensor

    def __init__(
        self,
        n_features: int,
        mode: str | float,
        *,
        unit_weight: float,
        std_per_scale: float,
        power: int,
        log_normalizer: Callable[[Tensor], Tensor],
    ):
        super().__init__()
        self.mode = mode
        self.unit_weight, self.std_per_scale, self.power, self.log_normalizer = unit_weight, std_per_scale, power, log_normalizer
        self.is_shared = mode == "shared"
        self.register_buffer("moment", torch.ones(n_features))
        self.register_buffer("weight", torch.full((n_features,), unit_weight), persistent=False)  # which follows from the others
        self.register_load_state_dict_post_hook(_weigh)  # type: ignore[no-untyped-call]
        self.register_buffer("floor", torch.zeros(n_features))
        self.register_buffer("log_constant", torch.zeros(()))
        self.register_buffer("log_jacobian", torch.zeros(()), persistent=False)

    @property
    def is_learned(self) -> bool:
        """Whether the noise is estimated rather than fixed."""
        return isinstance(self.mode, str)

    def set_units(self, scale: NDArray[np.float64], *, shared: bool) -> None:
        """Take note of what standardized units are worth ``(n_features,)``, and whether columns share the noise in training."""
        self.log_jacobian.fill_(float(np.log(scale).sum()))
        self.is_shared = shared

    def fit(self, columns: ColumnStatistics) -> None:
        """Begin at what columns look like: a noise as large as they vary, or the fixed one."""
        if isinstance(self.mode, str):
            floor = columns.floor / (columns.scale * self.std_per_scale)
            self.floor.copy_(torch.from_numpy(floor**self.power))
            self.set_moment(torch.from_numpy(~columns.constant).to(self.moment))
            return
        self.floor.zero_()
        with np.errstate(over="ignore", under="ignore"):  # which is looked at next
            moment = (self.mode / columns.scale) ** self.power
        limits = np.finfo(np.float32)
        if not (moment.min() > limits.tiny and moment.max() < limits.max):
            raise ValueError(
                f"The likelihood's noise={self.mode:g} is out of proportion to the columns of X, whose standard deviations range "
                f"from {columns.scale.min():.3g} to {columns.scale.max():.3g}."
            )
        self.set_moment(torch.from_numpy(moment))

    @torch.no_grad()
    def extend(self, statistics: ColumnStatistics, columns: NDArray[np.intp]) -> None:
        """Begin anew for some columns: at a noise as large as they vary, or the fixed one."""
        moment, floor = self.moment.clone(), self.floor.clone()
        if self.is_learned:
            floor[columns] = torch.from_numpy((statistics.floor / (statistics.scale * self.std_per_scale)) ** self.power).to(
                floor
            )
            if self.mode != "shared":
                moment[columns] = torch.from_numpy((statistics.std / statistics.scale) ** self.power).to(moment)
        elif isinstance(self.mode, float):
            moment[columns] = torch.from_numpy((self.mode / statistics.scale) ** self.power).to(moment)
        self.floor.copy_(floor)
        self.set_moment(moment)

    @torch.no_grad()
    def set_moment(self, moment: Tensor) -> None:
        """Set the noise from the mean energy of the residuals per column, in standardized units."""
        moment = moment.to(self.moment)
        self.moment.copy_(moment.mean() if self.mode == "shared" else moment)
        self._refresh()

    def blend(self, before: Tensor, rate: float) -> None:
        """Give the present noise the weight `rate` and an earlier one, its `moment`, the rest."""
        if rate < 1.0 and self.is_learned:
            self.set_moment(torch.lerp(before, self.moment, rate))

    @torch.no_grad()
    def start_training(self) -> None:
        """Give all columns the same noise, where they share it in training."""
        if self.is_learned and self.is_shared:
            self.moment.fill_(self.moment.mean())
            self._refresh()

    @torch.no_grad()
    def update(self, rate: float, energy: Tensor, observed: Tensor | None = None) -> None:
        """Move the noise towards the one that explains the last batch best.

        Parameters
        ----------
        rate : float
        energy : Tensor of shape (n_features,)
            Mean energy over the batch, to which missing entries add nothing.
        observed : Tensor of shape (n_features,), optional
            Share of the batch that has a column's entries, where some are missing; the noise moves in proportion to it.
        """
        if self.is_shared:
            energy, observed = energy.mean(), None if observed is None else observed.mean()
        before = self.moment if observed is None else observed * self.moment
        self.moment.add_(energy - before, alpha=rate)  # lerp_ has no rule for several modules at once
        self._refresh()

    def weigh(self) -> Tensor:
        """Set the weights to what moment and floor make them, and return them."""
        weight = torch.maximum(self.moment, self.floor).reciprocal_()
        if self.unit_weight != 1.0:
            weight.mul_(self.unit_weight)
        self.weight.copy_(weight)
        return weight

    def _refresh(self) -> None:
        weight = self.weigh()
        self.log_constant.copy_(self.log_normalizer(weight) + self.log_jacobian)


class NoNoise(Noise):
    """Noise of likelihoods that have none: the energies are nats, and stay so.

    Parameters
    ----------
    n_features : int
    """

    def __init__(self, n_features: int):
        super().__init__(n_features, 0.0, unit_weight=1.0, std_per_scale=1.0, power=1, log_normalizer=_zero)

    def set_units(self, scale: NDArray[np.float64], *, shared: bool) -> None:
        """Change nothing."""

    def fit(self, columns: ColumnStatistics) -> None:
        """Change nothing."""

    def extend(self, statistics: ColumnStatistics, columns: NDArray[np.intp]) -> None:
        """Change nothing."""

    def set_moment(self, moment: Tensor) -> None:
        """Change nothing."""


def _weigh(noise: Noise, incompatible_keys: Any) -> None:
    """Set the weights once a state dictionary is loaded."""
    with torch.no_grad():
        noise.weigh()


def _zero(weight: Tensor) -> Tensor:
    return weight.new_zeros(weight.shape[:-1])
