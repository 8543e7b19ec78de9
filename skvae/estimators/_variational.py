"""What variational estimators share."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skvae import inference
from skvae.estimators._continuous import ContinuousAutoEncoder
from skvae.estimators._fit import AUTO, FitRun
from skvae.estimators._specs import resolve
from skvae.modules import PRIORS, PriorSpec
from skvae.training import n_idle_parts

NOISE_ROWS = 4096
_USAGE_ROWS = 2048
_ACTIVE_VARIANCE = 0.01
_DECAY_OF_MIXED = 0.3  # beside linear maps, which is as good there as one that is chosen, since KL holds networks back as well
_COMPONENTS_OF_MIXED = 4.0  # times the square root of the columns
PRIOR = [StrOptions({name for name, spec in PRIORS.items() if not spec().needs_condition}), PriorSpec]
CONDITIONAL_PRIOR = [StrOptions(set(PRIORS)), PriorSpec]


class VariationalAutoEncoder(ContinuousAutoEncoder):
    """The evidence lower bound with its schedules, and what the components carry."""

    _auto_warmup: ClassVar[float] = 0.25

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **ContinuousAutoEncoder._parameter_constraints,
        "beta": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="both")],
        "capacity": [Interval(Real, 0, None, closed="left"), None],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        arguments = super()._module_arguments(n_features)
        # A start at the linear model has nothing to warm up for, and would be undone.
        auto = self._auto_warmup if arguments.get("linear_path") is None else 0.0
        return {
            **arguments,
            "beta": float(self.beta),
            "kl_warmup": auto if self.kl_warmup == "auto" else float(self.kl_warmup),
            "capacity": None if self.capacity is None else float(self.capacity),
            "n_draws": int(self.n_draws),
        }

    def _decay_beside_linear_path(self, encoder: Any, decoder: Any) -> float | str | None:
        decay = super()._decay_beside_linear_path(encoder, decoder)
        is_open = self._frame_form is not None and isinstance(self.linear_path, str)
        return _DECAY_OF_MIXED if is_open and decay is not None else decay

    def _auto_components(self, n_features: int) -> int:
        """Size of the code for ``n_components="auto"``; larger of mixed frames, as KL leaves what does not pay idle."""
        if self._frame_form is None:
            return super()._auto_components(n_features)
        return max(1, round(min(n_features, _COMPONENTS_OF_MIXED * np.sqrt(n_features))))

    def _measure(self, run: FitRun) -> dict[str, Any]:
        """Fit the noise and count what the components carry."""
        inference.fit_noise(run.module, run.table, run.device, max_rows=NOISE_ROWS)
        kl, variance = inference.latent_usage(run.module, run.table, run.device, max_rows=_USAGE_ROWS)
        found = {"prior_": resolve("prior", run.arguments["prior"])}
        return {**found, "kl_per_component_": kl, "n_active_units_": int((variance > _ACTIVE_VARIANCE).sum())}

    def _concerns(self, run: FitRun) -> list[str]:
        return [*self._concerns_of_code(run), *self._concerns_of_prior(run)]

    def _concerns_of_prior(self, run: FitRun) -> list[str]:
        if isinstance(self.prior, str) and self.prior == AUTO:  # which nobody has asked for
            return []
        n_idle, name = n_idle_parts(run.module, run.table, run.device), resolve("prior", self.prior).counts
        if not n_idle or name is None:
            return []
        return [
            f"Next to no row comes from {n_idle} of the distributions that the prior of {type(self).__name__} mixes: lower "
            f"prior__{name} (prior={self.prior!r}), or raise max_epochs (now {self.max_epochs!r}, {self.n_iter_} passes)."
        ]

    def _concerns_of_code(self, run: FitRun) -> list[str]:
        if self.n_active_units_ or not inference.has_structure(run.module, run.table, max_rows=_USAGE_ROWS):
            return []
        return [
            f"The code of {type(self).__name__} has collapsed: none of its {self.n_components_} components tells rows "
            f"apart, although the columns of X are correlated. Lower beta (now {self.beta:g}), or raise kl_warmup (now "
            f"{run.arguments['kl_warmup']:g}) or max_epochs (now {self.max_epochs!r}, {self.n_iter_} passes)."
        ]
