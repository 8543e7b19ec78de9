"""The variational autoencoder behind imputation."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Options, StrOptions

from skvae.data import Table
from skvae.estimators._continuous import ContinuousAutoEncoder
from skvae.estimators._fit import FitRun
from skvae.estimators._specs import likelihood_of
from skvae.estimators.vae import VAETransformer
from skvae.modules import MECHANISMS, MIWAEModule
from skvae.training.factors import choose_factors

_STEPS, _FEWEST_EPOCHS = 3000, 10
_MOST_EPOCHS, _MOST_EPOCHS_WITH_MECHANISM = 300, 600  # the mechanism and the rows are learned from each other, which takes longer
SIGNS = {None: 0, "positive": 1, "negative": -1}


class ImportanceWeightedVAE(VAETransformer):
    """Variational autoencoder trained by the importance-weighted bound, with a model of why entries are missing.

    Made from a `VAETransformer`, whose parameters it has; those of the KL have no part in its bound.
    """

    _module_class = MIWAEModule
    _private_state = (*VAETransformer._private_state, "_n_factors")

    _parameter_constraints = {
        **VAETransformer._parameter_constraints,
        "mechanism": [StrOptions(set(MECHANISMS))],
        "sign": [Options(Integral, set(SIGNS.values()))],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        mechanism="random",
        sign=0,
        beta=1.0,
        kl_warmup="auto",
        capacity=None,
        n_draws=5,
        prior="standard",
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder=None,
        linear_path="auto",
        image_shape=None,
        likelihood="gaussian",
        missing_values=None,
        learning_rate="auto",
        optimizer="adam",
        batch_size="auto",
        max_epochs="auto",
        early_stopping=False,
        n_score_draws=64,
        warm_start=False,
        device="auto",
        precision="float32",
        random_state=None,
        verbose=0,
        callbacks=None,
    ):
        super().__init__(
            n_components,
            beta=beta,
            kl_warmup=kl_warmup,
            capacity=capacity,
            n_draws=n_draws,
            prior=prior,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            encoder=encoder,
            decoder=decoder,
            linear_path=linear_path,
            image_shape=image_shape,
            likelihood=likelihood,
            missing_values=missing_values,
            learning_rate=learning_rate,
            optimizer=optimizer,
            batch_size=batch_size,
            max_epochs=max_epochs,
            early_stopping=early_stopping,
            n_score_draws=n_score_draws,
            warm_start=warm_start,
            device=device,
            precision=precision,
            random_state=random_state,
            verbose=verbose,
            callbacks=callbacks,
        )
        self.mechanism = mechanism
        self.sign = sign

    @classmethod
    def like(cls, estimator: VAETransformer, *, n_draws: int, mechanism: str, sign: int) -> ImportanceWeightedVAE:
        """Make one with the parameters of another."""
        return cls(**{**estimator.get_params(deep=False), "n_draws": n_draws, "mechanism": mechanism, "sign": sign})

    def _make_table(self, run: FitRun, kept: Any, weight: Any, **side: Any) -> tuple[Table, dict[str, Any]]:
        """Choose how many components there are, as well, where that is left open and they are factors to begin with."""
        table, noted = super()._make_table(run, kept, weight, **side)
        if (
            self.n_components == "auto"
            and not run.resumes
            and self._module_arguments(table.n_features)["linear_path"] is not None
        ):
            most = self._most_components(table.n_features)
            fewest = min(most, super()._auto_components(table.n_features))
            noted["_n_factors"] = choose_factors(table, fewest, most)
        return table, noted

    def _auto_components(self, n_features: int) -> int:
        chosen: int | None = getattr(self, "_n_factors", None)
        return self._most_components(n_features) if chosen is None else chosen

    def _most_components(self, n_features: int) -> int:
        """Half as many as columns: what is missing depends on more than a summary of the row."""
        return max(min(2, n_features), -(-n_features // 2))

    def _misfit_of_linear_path(self, encoder: Any, decoder: Any) -> str | None:
        if self.mechanism != "random":
            return f"is for entries that are missing at random, but mechanism={self.mechanism!r}"
        if decoder == "tied":
            return "has an encoder that is found from the decoder, which cannot be 'tied' to it"
        if not likelihood_of(self.likelihood, None)._module_class.is_location_family:
            return f"is for likelihoods of real numbers, not for likelihood={self.likelihood!r}"
        return super()._misfit_of_linear_path(encoder, decoder)

    def _auto_training(self, n_batches: int, batch_size: int) -> tuple[int, float]:
        most = _MOST_EPOCHS if self.mechanism == "random" else _MOST_EPOCHS_WITH_MECHANISM
        return int(np.clip(round(_STEPS / n_batches), _FEWEST_EPOCHS, most)), super()._auto_training(n_batches, batch_size)[1]

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        arguments = super()._module_arguments(n_features)
        for name in ("beta", "capacity"):  # which have no part in the bound
            del arguments[name]
        return {
            **arguments,
            "mechanism": self.mechanism,
            "sign": int(self.sign),
            "hides": self.mechanism == "random",
            "kl_warmup": 0.0,
        }

    @property
    def _drops_empty_rows(self) -> bool:
        """Whether masks of rows without any entry have nothing to say about the mechanism."""
        return self.mechanism == "random"

    def _concerns(self, run: FitRun) -> list[str]:
        """Return none: imputation may have any number of components without use."""
        return []


class FrameVAE(VAETransformer):
    """Variational autoencoder that data frames with columns of different kinds are filled in by.

    What is missing depends on more than a summary of the row, and few rows say enough of linear maps alone.
    """

    def _auto_components(self, n_features: int) -> int:
        return max(min(2, n_features), -(-n_features // 2))

    def _decay_beside_linear_path(self, encoder: Any, decoder: Any) -> float | str | None:
        """Weight decay of the networks beside linear maps, which is chosen."""
        return ContinuousAutoEncoder._decay_beside_linear_path(self, encoder, decoder)

    def _auto_training(self, n_batches: int, batch_size: int) -> tuple[int, float]:
        n_epochs = int(np.clip(round(_STEPS / n_batches), _FEWEST_EPOCHS, _MOST_EPOCHS))
        return n_epochs, super()._auto_training(n_batches, batch_size)[1]

    def _concerns(self, run: FitRun) -> list[str]:
        """Return none: imputation may have any number of components without use."""
        return []
