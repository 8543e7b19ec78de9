"""What estimators share whose codes are real numbers."""

from __future__ import annotations

from math import prod
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skvae import inference
from skvae._spec import parameters_of
from skvae.estimators import _checks as check
from skvae.estimators._base import AUTO_STEPS, LEARNING_RATE, MIN_EPOCHS
from skvae.estimators._given import SamplesGivenMixin
from skvae.estimators._specs import BATCH_ROWS, NETWORKS, resolve
from skvae.estimators._table import TableAutoEncoder
from skvae.modules import MLP, Conv, LinearPath

LINEAR_PATH = [StrOptions({"auto"}), LinearPath, None]
_MAX_EPOCHS_BESIDE_LINEAR = 300
_STEPS_OF_MIXED, _EPOCHS_OF_MIXED, _MOST_EPOCHS_OF_MIXED = 8000, 100, 200
_BATCHES_OF_MIXED = 8  # above which passes grow with their square root
_LEARNING_RATE_OF_MIXED, _MOST_LEARNING_RATE_OF_MIXED = 0.005, 0.01  # of batches of 128 rows, and of any


class ContinuousAutoEncoder(SamplesGivenMixin, TableAutoEncoder):
    """A code of `n_components` real numbers, and a likelihood that is estimated by importance sampling.

    A child whose prior its module does not own defines `_sample_codes` and `_log_density`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableAutoEncoder._parameter_constraints,
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "decoder": [StrOptions({"tied"}), *TableAutoEncoder._parameter_constraints["decoder"]],
        "n_score_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        n_components = self._n_components_for(n_features)
        arguments = {**super()._module_arguments(n_features), "n_components": n_components}
        arguments.update({name: self._no_narrower_than(n_components, arguments[name]) for name in NETWORKS})
        if "linear_path" in self._get_param_names():
            arguments["linear_path"] = self._decay_beside_linear_path(arguments["encoder"], arguments["decoder"])
        return arguments

    def _n_components_for(self, n_features: int) -> int:
        return int(self._auto_components(n_features) if self.n_components == "auto" else self.n_components)

    @property
    def _code_size(self) -> int:
        return 0 if self.image_shape_ is None else self._n_components_for(prod(self.image_shape_))

    def _no_narrower_than(self, n_components: int, network: Any) -> Any:
        """Network of the default widths but where these are below the code, which would have to pass through them."""
        default = parameters_of(type(self))["hidden_layer_sizes"].default
        if not isinstance(network, (MLP, Conv)) or network.hidden_layer_sizes not in (default, default[::-1]):
            return network
        sizes = tuple(max(size, n_components) for size in network.hidden_layer_sizes)
        return type(network)(**{**network.get_params(), "hidden_layer_sizes": sizes})

    def _decay_beside_linear_path(self, encoder: Any, decoder: Any) -> float | str | None:
        """Weight decay of the networks beside linear maps, "auto" where it is to be chosen; None where there are no such maps."""
        if self.linear_path is None:
            return None
        misfit = self._misfit_of_linear_path(encoder, decoder)
        if misfit is None:
            decay = resolve("linear_path", self.linear_path).weight_decay
            return decay if isinstance(decay, str) else float(decay)
        if isinstance(self.linear_path, str):
            return None
        raise ValueError(f"linear_path={self.linear_path!r} {misfit}; leave it 'auto', which then has none.")

    def _misfit_of_linear_path(self, encoder: Any, decoder: Any) -> str | None:
        """Say why there can be no linear maps beside the networks, or return None."""
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(network, (MLP, str)):
                return f"lies beside perceptrons, which {name}={network!r} is not"
        return None

    def _auto_training(self, n_batches: int, batch_size: int) -> tuple[int, float]:
        n_epochs, learning_rate = super()._auto_training(n_batches, batch_size)
        if self._frame_form is not None:
            most = _EPOCHS_OF_MIXED * np.sqrt(n_batches / _BATCHES_OF_MIXED)
            most = np.clip(most, _EPOCHS_OF_MIXED, _MOST_EPOCHS_OF_MIXED)
            learning_rate = _LEARNING_RATE_OF_MIXED * np.sqrt(batch_size / BATCH_ROWS)
            learning_rate = float(np.clip(learning_rate, LEARNING_RATE, _MOST_LEARNING_RATE_OF_MIXED))
            return int(np.clip(round(_STEPS_OF_MIXED / n_batches), MIN_EPOCHS, most)), learning_rate
        if self._arguments.get("linear_path") is None or self._is_shallow:
            return n_epochs, learning_rate
        return int(np.clip(round(AUTO_STEPS / n_batches), MIN_EPOCHS, _MAX_EPOCHS_BESIDE_LINEAR)), LEARNING_RATE

    def _auto_components(self, n_features: int) -> int:
        """Size of the code for ``n_components="auto"``."""
        return max(min(2, n_features), round(np.sqrt(n_features)))

    def _sample_codes(self, n_samples: int, seed: int) -> np.ndarray:
        """Draw codes from the module's prior."""
        noise = np.random.default_rng(seed).standard_normal((n_samples, self.module_.prior.n_noise))
        return inference.codes_from_noise(self.module_, noise, check.resolve_device(self.device))

    # -- scores -------------------------------------------------------------------------------------------------------

    def _log_density(self):
        """Log-density of codes under a prior that the module does not own, or None."""
        return None

    def score_samples(self, X):
        """Estimate the log-likelihood of rows by importance sampling.

        The estimate is a lower bound on average, and grows with `n_score_draws` towards the log-likelihood.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,)
            Nats per row, of the density in the units of X; higher is more normal.
        """
        table, device = self._ready(X, scored=True)
        return inference.log_weights(
            self.module_, table, device, self._n_score_draws, self._log_density(), inference.log_mean_exp
        )

    def effective_sample_size(self, X):
        """How many of the importance draws behind `score_samples` count.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        ess : ndarray of shape (n_samples,)
            Between 1 and `n_score_draws`; where it is close to 1, the score is an underestimate.
        """
        table, device = self._ready(X, scored=True)
        return inference.log_weights(
            self.module_, table, device, self._n_score_draws, self._log_density(), inference.effective_sample_size
        )
