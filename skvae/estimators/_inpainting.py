"""Filling in masked entries of rows."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skvae.data import Table
from skvae.estimators import _checks as check
from skvae.estimators._conditioner import Conditioner
from skvae.estimators._fit import MAX_SEED
from skvae.estimators._given import TRIED_PER_DRAW, TRIED_PER_SCORE_DRAW
from skvae.inference.conditional import average_given, sample_given
from skvae.runtime.randomness import Stream, seed_streams


class InpaintingMixin:
    """Draws of masked entries from their posterior, and its means, for conditional estimators."""

    _conditioner: Conditioner

    def inpaint(self, X, mask, y=None, *, condition=None, random_state=None):
        """Fill in entries of rows by their posterior means, given the other entries and the label.

        The mean is one over codes that are weighted by importance, see :meth:`sample` with `given`, and thus an estimate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        mask : array-like of bool, shape (n_samples, n_features) or (n_features,)
            True where an entry is to be filled in; what X holds there, NaN included, is not looked at. Images may come with
            masks of their own shape, which are about the columns that are not `condition_columns`. Entries that are missing, with
            `missing_values`, and not masked stay missing, and are NaN.
        y, condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_features_in_)
            The rows, completed. A row of which nothing is observed gets the mean of the model's samples.
        """
        return self._completed(X, mask, y, condition, random_state, None)[:, 0]

    def draw_inpaintings(self, X, mask, y=None, n_draws=1, *, condition=None, random_state=None):
        """Fill in entries of rows by draws from their posterior, given the other entries and the label.

        Codes are drawn as for :meth:`sample` with `given`: by proposals that adapt to what is there of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.
        mask : array-like of bool, shape (n_samples, n_features) or (n_features,)
            True where an entry is to be filled in; see `inpaint`.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows.
        n_draws : int, default=1
            Draws per row.
        condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Takes the place of `y`.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_draws, n_features_in_)
            The rows, completed with the likelihood's noise. A row of which nothing is observed is a sample of the model.
        """
        if not isinstance(n_draws, Integral) or n_draws < 1:
            raise ValueError(f"n_draws={n_draws!r} must be an integer of at least 1.")
        return self._completed(X, mask, y, condition, random_state, int(n_draws))

    def _completed(self, X: Any, mask: Any, y: Any, condition: Any, random_state: Any, n_draws: int | None) -> np.ndarray:
        """Complete rows ``(n_samples, n_features)`` by so many draws of each, or by means, ``(n_samples, n, n_features)``."""
        check_is_fitted(self, "module_")
        if self._frame_form is not None:
            raise ValueError(
                "Masks are for rows whose columns are all numbers. Of a data frame with columns of different kinds, "
                "sample(given=...) draws whatever is not given of rows."
            )
        conditioner = self._conditioner
        X, mask = check.check_mask(self, X, mask, conditioner.reconstructed)
        table, given, device = self._rows(X, y, condition, "inpainting", scored=True)
        if conditioner.columns is not None and mask[:, conditioner.columns].any():
            raise ValueError("mask covers condition_columns, which the model conditions on.")
        mask = mask.take(conditioner.reconstructed, axis=1)
        generator = check_random_state(self.random_state if random_state is None else random_state)
        (seed,) = seed_streams(int(generator.randint(MAX_SEED)), Stream.COMPLETION, n=1)
        rows = table.source.read(slice(None))
        known = Table.of(np.where(mask, np.nan, rows), condition=table.condition)
        n_tried = TRIED_PER_SCORE_DRAW * self._n_score_draws
        if n_draws is None:
            drawn = average_given(self.module_, known, device, n_proposals=n_tried, seed=seed)[:, np.newaxis]
        else:
            n_tried = max(n_tried, TRIED_PER_DRAW * n_draws)
            drawn = sample_given(self.module_, known, device, seed, n_samples=n_draws, n_proposals=n_tried).rows
            drawn = drawn.reshape(len(rows), n_draws, -1)
        filled = np.where(mask[:, np.newaxis], drawn, rows[:, np.newaxis])
        whole = [self._joined(filled[:, i], given, table.dtype) for i in range(filled.shape[1])]
        return np.stack(whole, axis=1)
