"""What variational estimators share."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import Interval

from skvae import inference
from skvae.data import Table
from skvae.estimators._continuous import ContinuousAutoEncoder
from skvae.warnings import warn_user

NOISE_ROWS = 4096
_USAGE_ROWS = 2048
_ACTIVE_VARIANCE = 0.01


class VariationalAutoEncoder(ContinuousAutoEncoder):
    """The evidence lower bound with its schedules, and what the components carry."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ContinuousAutoEncoder._parameter_constraints,
        "beta": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "capacity": [Interval(Real, 0, None, closed="left"), None],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def _module_params(self) -> dict[str, Any]:
        return {
            "beta": float(self.beta),
            "kl_warmup": float(self.kl_warmup),
            "capacity": None if self.capacity is None else float(self.capacity),
            "n_draws": int(self.n_draws),
        }

    def _finish(self, data: Table, device: torch.device, rate: float) -> None:
        """Settle the noise and count what the components carry."""
        inference.fit_noise(self.module_, data, device, max_rows=NOISE_ROWS)
        usage = inference.latent_usage(self.module_, data, device, max_rows=_USAGE_ROWS)
        self.kl_per_component_, variance, self._columns_are_correlated = usage
        self.n_active_units_ = int((variance > _ACTIVE_VARIANCE).sum())

    def _check_health(self) -> None:
        if self.n_active_units_ == 0 and self._columns_are_correlated:
            warn_user(
                f"The code of {type(self).__name__} has collapsed: none of its {self.n_components_} components tells rows "
                f"apart, although the columns of X are correlated. Lower beta (now {self.beta:g}), or raise kl_warmup (now "
                f"{self.kl_warmup:g}) or max_epochs (now {self.max_epochs!r}, {self.n_iter_} passes)."
            )
