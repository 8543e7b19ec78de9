"""What estimators share whose codes are real numbers."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from skvae import inference
from skvae.estimators import _checks as check
from skvae.estimators._table import TableAutoEncoder


class ContinuousAutoEncoder(TableAutoEncoder):
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
        n_components = self._auto_components(n_features) if self.n_components == "auto" else self.n_components
        return {**super()._module_arguments(n_features), "n_components": int(n_components)}

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
        return inference.log_weights(self.module_, table, device, self.n_score_draws, self._log_density(), inference.log_mean_exp)

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
            self.module_, table, device, self.n_score_draws, self._log_density(), inference.effective_sample_size
        )
