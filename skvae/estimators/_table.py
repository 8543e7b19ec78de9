"""What estimators of tables share: rows to codes, codes to rows, and samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae import inference
from skvae.data import Table
from skvae.data.containers import with_index_of
from skvae.estimators import _checks as check
from skvae.estimators._anomaly import AnomalyScoresMixin
from skvae.estimators._base import BaseAutoEncoder


class TableAutoEncoder(AnomalyScoresMixin, BaseAutoEncoder):
    """Rows of a table, which may be images: encoded, decoded, sampled, and scored for anomalies.

    A child defines `_sample_codes` and `score_samples`.
    """

    _n_condition_columns = 0  # how many columns of X are conditions, which the model does not reconstruct
    _private_state = (*BaseAutoEncoder._private_state, "_kept_rows", "_gives_images")
    _gives_images: bool

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        return {**super()._module_arguments(n_features), "image_shape": self.image_shape_}

    def _ready(self, X: Any, *, scored: bool = False) -> tuple[Table, torch.device]:
        """Return checked rows, within the likelihood's range if they are scored, and the device."""
        check_is_fitted(self, "module_")
        is_complete = check.missing_in(self, X) is None  # which is looked at now
        X = self._check_rows(X, reset=False)
        table = Table.of(X, names=check.column_names(self, X.shape[1]), complete=is_complete)
        if scored:
            self.module_.likelihood.check(table.source, table.name)
        return table, check.resolve_device(self.device)

    def transform(self, X):
        """Encode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components_)
            Their deterministic codes.
        """
        table, device = self._ready(X)
        return inference.encode(self.module_, table, device).astype(table.dtype, copy=False)

    def inverse_transform(self, Z):
        """Decode codes.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components_)
            Codes.

        Returns
        -------
        X : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            Means of the likelihood, in the units of the training data; where these were a frame with columns of different kinds,
            a frame like it, with the likeliest categories.
        """
        check_is_fitted(self, "module_")
        given, Z = Z, check.check_codes(self, Z)
        X = inference.decode(self.module_, Z, check.resolve_device(self.device))
        return self._as_given(X, Z.dtype, like=given)

    def _as_given(
        self,
        X: np.ndarray,
        dtype: Any = None,
        *,
        seed: int | None = None,
        entries: check.Given | None = None,
        like: Any = None,
    ) -> Any:
        """Rows in the form that `fit` was given: arrays or images of a type, or data frames.

        A seed decides which of the entries that share a level draws are; the most frequent stands for all by default. In data
        frames, `entries` take the place of those of `X`, which are the same but for the precision that keys have; rows have the
        index of those that they are made `like`.
        """
        if self._frame_form is None:
            return self._as_images(X if dtype is None else X.astype(dtype, copy=False))
        is_bounded = getattr(check.present_likelihood(self), "bounds", None) == "observed"
        if entries is None or entries.columns is None:
            return with_index_of(self._frame_form.restore(X, is_bounded, seed), like)
        return self._frame_form.complete(entries.columns, np.isnan(entries.rows), X, is_bounded, seed)

    def _as_images(self, X: np.ndarray) -> np.ndarray:
        """Rows of numbers in the shape that `fit` was given."""
        return X.reshape(len(X), *self.image_shape_) if self._gives_images else X

    def reconstruct(self, X):
        """Encode and decode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        X_hat : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            What the model makes of them, in the form that `inverse_transform` gives.
        """
        table, device = self._ready(X)
        codes = inference.encode(self.module_, table, device)
        return self._as_given(inference.decode(self.module_, codes, device), table.dtype, like=X)

    def sample(self, n_samples=1, *, mean=False, random_state=None):
        """Draw new rows from the model.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        mean : bool, default=False
            Return the decoder's means, without the likelihood's noise.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        X : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            Rows in the units of the training data; where these were a frame with columns of different kinds, a frame like it.
        """
        check.check_flags(mean=mean)
        check_is_fitted(self, "module_")
        codes_seed, noise_seed = self._draw_seeds(n_samples, random_state, n=2)
        device = check.resolve_device(self.device)
        codes = self._sample_codes(n_samples, codes_seed)
        if mean:
            return self._as_given(inference.decode(self.module_, codes, device))
        return self._as_given(inference.draw(self.module_, codes, device, noise_seed), seed=noise_seed)

    def _sample_codes(self, n_samples: int, seed: int) -> np.ndarray:
        """Draw what the decoder takes from the model's prior."""
        raise NotImplementedError

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
