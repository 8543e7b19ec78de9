"""Anomaly scores of rows that are compared with their reconstructions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from skvae.data import Table
from skvae.estimators import _checks as check
from skvae.inference.anomaly import KeptRows, Scorer


class AnomalyScoresMixin:
    """Scores by method, and the columns' shares of them, for estimators that keep references."""

    _keeps_rows = True
    _anomaly_method: ClassVar[str] = "neighbors"  # what `score_anomaly` takes for "auto"
    _kept_rows: KeptRows

    def score_anomaly(self, X, *, method="auto"):
        r"""Score how anomalous rows are.

        With :math:`x` a row in standardized units (as it is, with ``likelihood="bernoulli"``, and as the square roots of counts
        with "poisson"), :math:`r` its reconstruction and
        :math:`e = x - r` the residual, the methods are:

        - "neighbors": how far the row and its residual lie from those of training rows, as the expected squared distance between
          :math:`u = (x, \sqrt{0.3}\,e / s)` and the nearest of 96 references that are drawn at random from up to 1,024 training
          rows [1]_ [2]_. :math:`s` is the standard deviation of the residuals of each column, at least 0.03. A small cluster of
          anomalies among the training rows is rarely drawn, which the nearest neighbors themselves would find.
        - "mahalanobis": squared Mahalanobis distance of :math:`(r, e)` from its mean over the references, under one covariance
          that is shrunk by the rule of Ledoit and Wolf.
        - "reconstruction": nats by which the likelihood of a row, given its reconstruction, falls short of the best possible:
          for a Gaussian, squared residuals over twice the noise variance.
        - "likelihood": `score_samples` with the opposite sign.
        - "surprise", for data frames with columns of different kinds alone: how rare it is that entries are as improbable given
          the others of their row. With :math:`z_j` the code of the row in which the entry of column `j` has been replaced by its
          reconstruction, and :math:`s_j = -\log p(x_j|z_j)`, the score is the sum over the columns of :math:`(\log P_j(s_j))^2`,
          where :math:`P_j` is the share of the references whose :math:`s_j` is at least as large. For the largest fifth of them
          stands an exponential distribution, with a mean of no less than a nat. Numbers and categories, and columns that the
          model foretells well or badly, have one unit thereby. A rare category is no anomaly where it goes with the rest of the
          row, and a frequent one is where it does not. Of more than 64 columns, some are replaced together. What is missing has
          no part in it.

        In such frames, :math:`x` of the other methods is what the encoder reads: numbers as normal scores, and zeros and ones for
        the categories, standardized.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        method : {"auto", "neighbors", "mahalanobis", "reconstruction", "surprise", "likelihood"}, default="auto"
            How they are scored; "auto" is "neighbors" or, of data frames with columns of different kinds, "surprise".

        Returns
        -------
        score : ndarray of shape (n_samples,)
            Higher is more anomalous.

        Notes
        -----
        Of wide rows, fewer references are kept: 64 or more, such that what is saved of a model grows by no more than 200 kB and
        half of what its weights and its optimizer take. No more than a quarter of the references are drawn at a time. With
        weights of the training rows, references are drawn in proportion to these.

        References
        ----------
        .. [1] Pang, Ting and Albrecht, "LeSiNN: detecting anomalies by identifying least similar nearest neighbours", ICDM
           Workshops 2015.
        .. [2] Sugiyama and Borgwardt, "Rapid distance-based outlier detection via sampling", NIPS 2013.
        """
        name = self._check_method(method)
        if name == "likelihood":
            return -self.score_samples(X)
        table, device = self._ready(X, scored=True)
        return self._scorer(name, device).score(table)

    def explain_anomaly(self, X, *, method="auto"):
        r"""Split the anomaly score of rows into the shares of the columns.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        method : {"auto", "neighbors", "mahalanobis", "reconstruction", "surprise"}, default="auto"
            How rows are scored, see `score_anomaly`. Scores by "likelihood" do not split.

        Returns
        -------
        shares : ndarray of shape (n_samples, n_features_in_)
            Not negative; sum to `score_anomaly` along each row. Of a data frame, a share for each of its columns.

        Notes
        -----
        Shares by "neighbors" and "mahalanobis" are in proportion to the drop of the score when a column takes its reconstructed
        value and the row is reconstructed anew: a wrong column that spoils the reconstruction of others is found all the same.
        This takes a reconstruction per column. Rows of more than 64 columns, and those whose score no column lowers, get the
        terms of a sum instead: the parts that their columns have in the squared distances, or the squared entries of the row,
        whitened by the symmetric root of the covariance [1]_. Shares by "reconstruction" are always the terms of the sum.

        Shares by "surprise" are in proportion to :math:`-\log P_j(s_j)` and what those of the other entries, in the row as it is,
        drop by altogether when the reconstruction takes the place of an entry. Of more than 64 columns, they are the terms of
        the sum.

        References
        ----------
        .. [1] Garthwaite and Koch, "Evaluating the contributions of individual variables to a quadratic form", Australian & New
           Zealand Journal of Statistics 58, 2016.
        """
        name = self._check_method(method, splits=True)
        table, device = self._ready(X, scored=True)
        return self._as_images(self._scorer(name, device).shares(table))

    def _check_method(self, method: Any, *, splits: bool = False) -> str:
        """Name of a method, see `check_anomaly_method`."""
        is_mixed = getattr(self, "_frame_form", None) is not None
        return check.check_anomaly_method(method, self._anomaly_method, splits=splits, mixed=is_mixed)

    def _scorer(self, name: str, device: torch.device) -> Scorer:
        """Return the method of a name, at work on this model."""
        references = self._kept_rows.references(self.module_, device, with_nats=name == "surprise")
        return Scorer(name, references, self.module_, device)


class ConditionalAnomalyScoresMixin(AnomalyScoresMixin):
    """Scores by method, and the columns' shares of them, of rows under conditions that are given or chosen among labels."""

    def score_anomaly(self, X, y=None, *, condition=None, method="auto"):
        """Score how anomalous rows are.

        The methods are those of :meth:`VAETransformer.score_anomaly`, with reconstructions under the labels or numbers that rows
        come with.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y, condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows. Without them, every row gets the label under which it is the least anomalous; by
            "likelihood", labels are summed out.
        method : {"auto", "neighbors", "mahalanobis", "reconstruction", "surprise", "likelihood"}, default="auto"
            How rows are scored; "auto" is "neighbors" or, of data frames with columns of different kinds, "surprise".

        Returns
        -------
        score : ndarray of shape (n_samples,)
            Higher is more anomalous.
        """
        name = self._check_method(method)
        if name == "likelihood":
            return -self.score_samples(X, y, condition=condition)
        table, scorer = self._scored(X, y, condition, name, "score_anomaly")
        return self._best_labels(table, scorer)[0] if table.condition is None else scorer.score(table)

    def explain_anomaly(self, X, y=None, *, condition=None, method="auto"):
        """Split the anomaly score of rows into the shares of the columns.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y, condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows. Without them, every row gets the label under which it is the least anomalous.
        method : {"auto", "neighbors", "mahalanobis", "reconstruction", "surprise"}, default="auto"
            How rows are scored, see :meth:`VAETransformer.explain_anomaly`. Scores by "likelihood" do not split.

        Returns
        -------
        shares : ndarray of shape (n_samples, n_features_in_)
            Not negative; sum to `score_anomaly` along each row; zero for `condition_columns`.
        """
        name = self._check_method(method, splits=True)
        table, scorer = self._scored(X, y, condition, name, "explain_anomaly")
        if table.condition is None:
            table = table.with_condition(self._best_labels(table, scorer)[1])
        shares = scorer.shares(table)
        return self._as_images(self._conditioner.place(shares, np.zeros((len(shares), self._conditions.n_columns))))

    def _scored(self, X: Any, y: Any, condition: Any, name: str, what: str) -> tuple[Table, Scorer]:
        """Rows with their conditions, and the method that scores them."""
        table, _, device = self._rows(X, y, condition, what, needed=not self._conditions_are_labels, scored=True)
        return table, self._scorer(name, device)

    def _best_labels(self, table: Table, scorer: Scorer) -> tuple[np.ndarray, np.ndarray]:
        """Scores of rows under the labels that make them the least anomalous, and these."""
        conditions = self._conditions.combinations()[0]
        scores = np.stack([scorer.score(table.with_one_condition(condition)) for condition in conditions])
        return scores.min(axis=0), conditions[scores.argmin(axis=0)]
