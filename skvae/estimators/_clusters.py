"""Clusters of rows that have one discrete code each."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.metaestimators import available_if


def _is_clustering(estimator: Any) -> bool:
    """Whether a row has one code."""
    if hasattr(estimator, "module_"):
        has_one = estimator.module_.n_codes == 1
    else:
        has_one = np.array_equal(np.ravel(estimator.n_codes), [1]) and estimator.n_levels == 1
    if not has_one:
        raise AttributeError("Rows are clustered by one code each: set n_codes=1 and n_levels=1.")
    return True


class ClustersMixin:
    """Labels of rows, for estimators with discrete codes where a row has but one."""

    @available_if(_is_clustering)
    def fit_predict(self, X, y=None, *, sample_weight=None):
        """Fit the model and return the one code of every row, where rows have but one.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels for a class-conditional prior.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
        """
        return self.fit(X, y, sample_weight=sample_weight).labels_

    @available_if(_is_clustering)
    def predict(self, X):
        """Return the one code of every row, where rows have but one: the cluster it belongs to.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
        """
        return self.encode(X)[:, 0].astype(np.int64)
