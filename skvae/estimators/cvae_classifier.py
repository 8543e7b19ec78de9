"""Classification by the likelihoods of a conditional variational autoencoder."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skvae.estimators import _checks as check
from skvae.estimators._docs import DocumentedMixin
from skvae.estimators._labeled import new_model, take_columns, takes_nan
from skvae.estimators._specs import NestedMixin
from skvae.estimators.cvae import CVAE


class CVAEClassifier(DocumentedMixin, NestedMixin, ClassifierMixin, BaseEstimator):
    r"""Classifier that compares the likelihoods of a row under the labels, :math:`p(y|x) \propto p(x|y)\,p(y)`.

    The likelihoods are those of a conditional variational autoencoder [1]_, which models all classes together: what they have
    in common is learned once. As with other generative classifiers, :class:`~sklearn.naive_bayes.GaussianNB` among them, the
    labels that it predicts are better than their probabilities, which tend to lie close to 0 and 1.

    Parameters
    ----------
    estimator : CVAE or None, default=None
        The model, which is cloned; None is ``CVAE(linear_path=None)``: held back beside linear maps, as by default, it
        describes rows better, but what tells labels apart worse. To tune it, pass one: its parameters are then
        ``estimator__<name>``.
    priors : array-like of shape (n_classes,) or None, default=None
        Probabilities of the labels, in sorted order; those of the training rows by default.
    random_state : int, RandomState instance or None, default=None
        Takes the place of the model's own `random_state`, unless it is None.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted.
    class_log_prior_ : ndarray of shape (n_classes,)
        Logarithms of their probabilities.
    estimator_ : CVAE
        The fitted model.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names that are strings.

    See Also
    --------
    CVAE : The model.
    CVAEResampler : Adds rows of rare classes.
    sklearn.calibration.CalibratedClassifierCV : Makes probabilities honest.

    References
    ----------
    .. [1] Kingma et al., "Semi-supervised learning with deep generative models", NeurIPS 2014.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> from skvae import CVAE, CVAEClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> classifier = CVAEClassifier(CVAE(n_components=2, max_epochs=20), random_state=0)
    >>> bool(cross_val_score(classifier, X, y, cv=3).mean() > 0.9)
    True
    """

    _parameter_constraints = {
        "estimator": [CVAE, None],
        "priors": ["array-like", None],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, priors=None, random_state=None):
        self.estimator = estimator
        self.priors = priors
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, *, validation_data=None, groups=None):
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : array-like of shape (n_samples,)
            Their labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out, and so are labels that only they have.
        validation_data : tuple (X_val, y_val), default=None
            Rows and labels that early stopping of the estimator looks at; see :meth:`CVAE.fit`.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows, which are held out together; see :meth:`CVAE.fit`.

        Returns
        -------
        self : object
            The fitted classifier.

        Raises
        ------
        ValueError
            If a parameter, X or y is not as it should be.
        """
        estimator = new_model(self, CVAE(linear_path=None))
        y = check.check_class_labels(self, y)
        check.refuse_no_table(X)
        check_consistent_length(X, y)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
        classes, totals = _totals(y, weight)
        log_prior = self._log_prior(classes, totals)
        estimator.fit(X, y, sample_weight=weight, validation_data=validation_data, groups=groups)
        self.estimator_ = estimator
        self.classes_ = classes
        self.class_log_prior_ = log_prior
        take_columns(self, estimator)
        return self

    def _log_prior(self, classes: np.ndarray, totals: np.ndarray) -> np.ndarray:
        if self.priors is None:
            return np.log(totals / totals.sum())
        priors = np.asarray(self.priors)
        if priors.shape != classes.shape:
            raise ValueError(
                f"priors has shape {priors.shape}, but must hold one probability for each of the {len(classes)} labels in y."
            )
        if priors.dtype.kind not in "biuf":
            raise ValueError(f"priors={self.priors!r} must be numbers.")
        if not (priors >= 0).all():
            raise ValueError(f"priors={self.priors!r} must not be negative or NaN.")
        if not np.isclose(priors.sum(), 1.0):
            raise ValueError(f"priors={self.priors!r} must sum to 1, but sum to {priors.sum():g}.")
        with np.errstate(divide="ignore"):
            return np.log(priors)

    # -- predictions --------------------------------------------------------------------------------------------------

    def predict_joint_log_proba(self, X):
        r"""Estimate the joint log-probability of rows and labels, :math:`\log p(x|y) + \log p(y)`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        joint_log_proba : ndarray of shape (n_samples, n_classes)
            Nats, of a density in the units of X, in the order of `classes_`.
        """
        check_is_fitted(self)
        return self.estimator_.log_likelihoods(X) + self.class_log_prior_

    def predict_log_proba(self, X):
        """Estimate the log-probabilities of the labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        log_proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        joint = self.predict_joint_log_proba(X)
        # Of a row so far away that no label explains it, nothing is known but the prior.
        joint[np.isneginf(joint).all(axis=1)] = self.class_log_prior_
        return log_softmax(joint, axis=1)

    def predict_proba(self, X):
        """Estimate the probabilities of the labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X):
        """Predict the most probable labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            Labels.
        """
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = takes_nan(self)
        return tags


def _totals(y: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels that rows with a weight have, sorted, and their weights in total."""
    classes, codes = np.unique(y, return_inverse=True)
    totals = np.bincount(codes.ravel(), weights=weight, minlength=len(classes)).astype(np.float64)
    return classes[totals > 0], totals[totals > 0]
