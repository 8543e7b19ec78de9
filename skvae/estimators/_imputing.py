"""The variational autoencoder behind imputation."""

from __future__ import annotations

from typing import Any

import numpy as np

from skvae.data.columns import has_missing
from skvae.estimators import _checks as check
from skvae.estimators.vae import VAETransformer
from skvae.modules import MIWAEModule

_STEPS, _FEWEST_EPOCHS = 3000, 10
_MOST_EPOCHS, _MOST_EPOCHS_WITH_MECHANISM = 300, 600  # the mechanism and the rows are learned from each other, which takes longer
SIGNS = {None: 0, "positive": 1, "negative": -1}


class ImportanceWeightedVAE(VAETransformer):
    """Variational autoencoder trained by the importance-weighted bound, with a model of why entries are missing.

    Made from a `VAETransformer`, whose parameters it has; those of the KL have no part in its bound.
    """

    _module_class = MIWAEModule
    _objective = {"n_draws": 5, "mechanism": "random", "sign": 0}

    @classmethod
    def like(cls, estimator: VAETransformer, *, n_draws: int, mechanism: str, sign: int) -> ImportanceWeightedVAE:
        """Make one with the parameters of another."""
        made = cls(**estimator.get_params(deep=False))
        made._objective = {"n_draws": n_draws, "mechanism": mechanism, "sign": sign}
        return made

    def _auto_components(self, n_features: int) -> int:
        """Half as many as columns: what is missing depends on more than a summary of the row."""
        return max(min(2, n_features), -(-n_features // 2))

    def _auto_epochs(self, n_batches: int) -> int:
        most = _MOST_EPOCHS if self._objective["mechanism"] == "random" else _MOST_EPOCHS_WITH_MECHANISM
        return int(np.clip(round(_STEPS / n_batches), _FEWEST_EPOCHS, most))

    def _module_params(self) -> dict[str, Any]:
        return {**self._objective, "kl_warmup": 0.0}

    def _missing_params(self, X: Any) -> dict[str, Any]:
        n_missing = check.missing_entries(X) if has_missing(X) else np.zeros(0)
        return {**super()._missing_params(X), "rates": tuple(float(n / X.shape[0]) for n in n_missing[n_missing > 0])}

    def _without_use(self, X: Any) -> np.ndarray | None:
        """Masks of rows without any entry have something to tell of the mechanism."""
        return super()._without_use(X) if self._objective["mechanism"] == "random" else None

    def _check_health(self) -> None:
        """Say nothing about components without use, of which imputation may have any number."""
