"""The conditional variational autoencoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from skvae import inference
from skvae.data import Table
from skvae.data.containers import is_frame
from skvae.data.gross import describe_learning
from skvae.estimators import _checks as check
from skvae.estimators._anomaly import ConditionalAnomalyScoresMixin
from skvae.estimators._base import OF_FRAMES, BaseAutoEncoder
from skvae.estimators._conditioner import Conditioner, choose, split_columns
from skvae.estimators._conditions import Conditions
from skvae.estimators._continuous import LINEAR_PATH
from skvae.estimators._docs import document
from skvae.estimators._fit import FitRun
from skvae.estimators._given_conditions import ConditionalSamplesGivenMixin
from skvae.estimators._held_out import HeldOut
from skvae.estimators._inpainting import InpaintingMixin
from skvae.estimators._latent import between
from skvae.estimators._specs import as_argument
from skvae.estimators._variational import CONDITIONAL_PRIOR, VariationalAutoEncoder
from skvae.modules import CVAEModule
from skvae.warnings import warn_user


@document
class CVAE(ConditionalSamplesGivenMixin, InpaintingMixin, ConditionalAnomalyScoresMixin, VariationalAutoEncoder):
    r"""Conditional variational autoencoder: the decoder takes a condition, labels or numbers that rows come with [1]_ [2]_.

    The code need not carry what the condition says: it keeps what is left, the style. The encoder does not take the condition,
    so that `transform` gives new rows, whose labels are unknown, codes of the same kind as those of the training rows.

    Conditions are passed as `y`: a list of labels of any type, a matrix of labels with a column for each kind, or a matrix of
    floats; or a data frame or a dict of columns of both, whose conditions have names from then on, so that
    ``{"site": "a", "age": 40.0}`` is one of them. Where `y` is something else, as in a pipeline that ends in a classifier, they
    are passed as `condition`, by scikit-learn's metadata routing, or are columns of X, by `condition_columns`.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the code; "auto" is the square root of the number of columns, but at least 2, and of mixed frames four times as
        much, or one for each column where that is less.
    encode_condition : bool, default=False
        Whether the encoder takes the condition, too. `transform` then needs it.
    prior : {"standard", "conditional", "mixture", "vamp", "flow"} or PriorSpec, default="standard"
        Prior of the code: standard normal, a Gaussian whose moments are learned as a function of the condition [2]_, or one of
        those of `VAETransformer`, which are the same for all conditions unless ``FlowPrior("conditional")`` asks for both.
    condition_columns : array-like of str or int, or None, default=None
        Columns of X, by name or position, that are the condition, as numbers. They are not reconstructed; rows that the model
        returns repeat them. Beside rows of X, `y` is then ignored and `condition` refused.
    beta : float, default=1.0
        Weight of the KL term; 1 gives the evidence lower bound.
    kl_warmup : float or "auto", default="auto"
        Fraction of the run over which that weight, and C, grow from 0; "auto" is 0 beside a linear path, whose start a ramp would
        undo, and 0.05 without.
    capacity : float or None, default=None
        Nats at which the KL is held, by the penalty ``beta * |KL - C|`` with C growing from 0 to `capacity`.
    n_draws : int, default=1
        Draws of the code per row and training step.
    decoder : MLP, Conv, Net or None, default=None
        Specification of the decoder; None mirrors the encoder.
    %(architecture)s
    %(training)s

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or list of ndarray
        Labels, sorted; a list of them where there are several kinds. Only where all conditions are labels.
    n_conditions_ : int
        Width of the condition as the decoder takes it: labels are one-hot, numbers standardized.
    noise_scale_ : ndarray of shape (n_reconstructed,)
        Scale of the likelihood's noise, in the units of X, for the columns that are not `condition_columns`; zeros for
        "bernoulli" and "poisson".
    prior_ : PriorSpec
        The prior.
    kl_per_component_ : ndarray of shape (n_components_,)
        Mean KL of each component from the prior over training rows, in nats.
    n_active_units_ : int
        Components whose posterior mean varies over the training rows, with a variance above 0.01.
    %(fitted)s

    See Also
    --------
    VAETransformer : Without conditions.
    CVAEClassifier : Tells labels by their likelihood.
    CVAEResampler : Adds rows of rare classes.

    Notes
    -----
    Methods that take `y` or `condition` use `condition` where both are given.

    References
    ----------
    .. [1] Kingma et al., "Semi-supervised learning with deep generative models", NeurIPS 2014.
    .. [2] Sohn et al., "Learning structured output representation using deep conditional generative models", NeurIPS 2015.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import CVAE
    >>> X, y = load_wine(return_X_y=True)
    >>> cvae = CVAE(n_components=2, max_epochs=20, random_state=0).fit(X, y)
    >>> cvae.transform(X).shape, cvae.sample(5, y=2).shape, cvae.score_samples(X).shape
    ((178, 2), (5, 13), (178,))
    """

    _module_class = CVAEModule
    _takes_frames = True
    _auto_warmup = 0.05
    _private_state = (*VariationalAutoEncoder._private_state, "_conditioner")

    _parameter_constraints = {
        **VariationalAutoEncoder._parameter_constraints,
        "linear_path": LINEAR_PATH,
        **OF_FRAMES,
        "encode_condition": ["boolean"],
        "prior": CONDITIONAL_PRIOR,
        "condition_columns": ["array-like", None],
        "decoder": BaseAutoEncoder._parameter_constraints["decoder"],  # the condition has no mirror in the encoder
    }

    __metadata_request__fit = {"condition": True}
    __metadata_request__partial_fit = {"condition": True, "classes": True}
    __metadata_request__transform = {"condition": True}
    __metadata_request__inverse_transform = {"condition": True}
    __metadata_request__score = {"condition": True}

    def __init__(
        self,
        n_components="auto",
        *,
        encode_condition=False,
        prior="standard",
        condition_columns=None,
        beta=1.0,
        kl_warmup="auto",
        capacity=None,
        n_draws=1,
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder=None,
        linear_path="auto",
        image_shape=None,
        likelihood="auto",
        missing_values="auto",
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
        self.n_components = n_components
        self.encode_condition = encode_condition
        self.prior = prior
        self.condition_columns = condition_columns
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.capacity = capacity
        self.n_draws = n_draws
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.linear_path = linear_path
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.missing_values = missing_values
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.n_score_draws = n_score_draws
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks

    # -- fitting ------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, condition=None, sample_weight=None, validation_data=None, groups=None):
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, or a matrix of floats.
        condition : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Takes the place of `y`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.
        validation_data : {array-like, sparse matrix} or tuple (X_val, y_val), default=None
            Rows that early stopping looks at, in place of some that are held out of X: a pair of rows and their labels or
            numbers, or rows alone where columns of theirs are the condition. They are not
            learned from, and a pipeline's earlier steps transform them on request alone, by its `transform_input`. If they are
            as many as those of X, a tuple holds them, be it ``(X_val,)``: searches divide all else that is as long as X.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows, such as the person whom each is about. Where rows are held out, by early stopping and to choose
            the decay beside a linear path, they are whole groups.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X or the conditions are not as they should be, or the loss stops being finite in the first epoch.
        """
        held_out = HeldOut.of(validation_data, groups, lambda X, y: {"y": y, "condition": None})
        return self._fit(X, sample_weight, single_pass=False, held_out=held_out, y=y, condition=condition)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, classes=None, *, condition=None, sample_weight=None):
        """Go on with one pass over some rows.

        The first call fixes the labels and the standardization of the columns; one that is constant there is measured by the
        first call in which it is not. Optimizer and schedules go on where they were;
        schedules stay at their end.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, or a matrix of floats.
        classes : array-like of shape (n_classes,) or list of array-like, default=None
            All labels there will be, a list of them where there are several kinds; those of the first call by default.
        condition : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Takes the place of `y`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        return self._fit(X, sample_weight, single_pass=True, y=y, condition=condition, classes=classes)

    def fit_transform(self, X, y=None, *, condition=None, sample_weight=None, validation_data=None, groups=None):
        """Fit the model and encode the rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, or a matrix of floats.
        condition : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Takes the place of `y`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        validation_data : {array-like, sparse matrix} or tuple (X_val, y_val), default=None
            Rows that early stopping looks at; see `fit`.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows, which are held out together; see `fit`.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components_)
            Their deterministic codes.
        """
        held_out = {"validation_data": validation_data, "groups": groups}
        given = {name: value for name, value in held_out.items() if value is not None}
        self.fit(X, y, condition=condition, sample_weight=sample_weight, **given)
        given = y if condition is None else condition
        return self.transform(X, condition=given if self._conditioner.columns is None else None)

    def _make_table(
        self, run: FitRun, kept: Any, weight: np.ndarray | None, *, y: Any, condition: Any, classes: Any = None
    ) -> tuple[Table, dict[str, Any]]:
        """Make the table of the columns to be reconstructed, with the conditions of its rows, and learn these."""
        table, noted = super()._make_table(run, kept, weight)
        columns = None if self.condition_columns is None else check.check_columns(self, self.condition_columns)
        if run.resumes:
            self._conditioner.check_columns(columns)
        rows, entries = split_columns(table, columns, self._frame_form)
        given, name = choose(entries, y, condition)
        if given is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y is None. Pass labels or "
                "numbers as y or as condition, or name columns of X by condition_columns."
            )
        if entries is None:
            self._refuse_names(given, name)
            given = check.check_labels(given, run.rows, kept, name)
        if run.resumes:
            conditioner = self._conditioner.extended(given, weight, classes=classes, anew=not run.single_pass)
        else:
            conditioner = Conditioner.of(table, columns, given, weight, name=name, classes=classes, form=self._frame_form)
        conditions = conditioner.conditions
        if not run.single_pass or (not run.resumes and classes is None):
            conditions.warn_of_numbers(rows.n_rows)
        noted.update(_conditioner=conditioner, n_conditions_=conditions.width)
        if conditions.is_labels:
            noted["classes_"] = conditions.classes
        if run.validates:
            return rows.with_condition(conditions.encode(given, rows.n_rows)), noted
        encoded, errors = conditions.encode_training(given, weight)
        if errors is not None:
            numbers = np.arange(run.rows.n_rows)[kept]
            warn_user(describe_learning([conditions.describe_errors(errors, numbers)], type(self).__name__))
        return rows.with_condition(encoded), noted

    def _refuse_names(self, given: Any, name: str) -> None:
        """Raise a ValueError about names of columns of X in the place of their entries."""
        names = [given] if isinstance(given, str) else given
        known = getattr(self, "feature_names_in_", ())
        if isinstance(names, (list, tuple)) and names and all(isinstance(each, str) and each in known for each in names):
            raise ValueError(f"{name}={given!r} names columns of X; set condition_columns={list(names)} instead.")

    @property
    def _n_condition_columns(self) -> int:
        return 0 if self.condition_columns is None else len(self.condition_columns)

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        return {
            **super()._module_arguments(n_features),
            "n_conditions": self._conditions.width,
            "encode_condition": bool(self.encode_condition),
            "prior": as_argument("prior", self.prior),
        }

    @property
    def _conditions(self) -> Conditions:
        return self._conditioner.conditions

    @property
    def _is_conditioned_on_y(self) -> bool:
        """Whether conditions are passed as `y`, and not as `condition` or as columns of X."""
        return self._conditioner.takes_y

    # -- rows and their conditions ------------------------------------------------------------------------------------

    def _rows(
        self,
        X: Any,
        y: Any,
        condition: Any,
        what: str,
        *,
        needed: bool = True,
        scored: bool = False,
        by: str = "y or condition",
    ) -> tuple[Table, Any, torch.device]:
        """Make the table of rows and their conditions; return it, the conditions as they were given, and the device."""
        table, device = self._ready(X)
        rows, entries = self._conditioner.split(table)
        if scored:
            self.module_.likelihood.check(rows.source, rows.name)
        given, name = choose(entries, y, condition)
        if given is None and not needed:
            return rows, None, device
        return rows.with_condition(self._encoded(given, name, rows.n_rows, what, by)), given, device

    def _encoded(self, given: Any, name: str, n_rows: int, what: str, by: str = "y or condition") -> np.ndarray:
        """Encode conditions of a name, ``(n_rows, n_conditions)``; an error says that `what` needs them, and takes them `by`."""
        return self._conditioner.encode(given, n_rows, name=name, what=f"{what} of {type(self).__name__}", by=by)

    def _joined(self, X: np.ndarray, given: Any, dtype: Any = None, **options: Any) -> Any:
        """Rows in the form of `fit`: images, or the reconstructed columns with those that are conditions between them."""
        return self._as_given(self._conditioner.join(X, given), dtype, **options)

    def transform(self, X, *, condition=None):
        """Encode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        condition : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows. Codes depend on them with ``encode_condition=True`` alone, which needs them.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components_)
            Posterior means.
        """
        by = "condition (in a pipeline, by metadata routing)"
        what = "transform with encode_condition=True"
        table, _, device = self._rows(X, None, condition, what, needed=self.encode_condition, by=by)
        return inference.encode(self.module_, table, device).astype(table.dtype, copy=False)

    def posterior(self, X, y=None, *, condition=None):
        """Posterior of the code.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y, condition : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows, which ``encode_condition=True`` needs.

        Returns
        -------
        mean, std : ndarray of shape (n_samples, n_components_)
            Mean and standard deviation of the encoder's Gaussian.
        """
        table, _, device = self._rows(X, y, condition, "posterior with encode_condition=True", needed=self.encode_condition)
        mean, log_var = inference.posterior(self.module_, table, device)
        return mean.astype(table.dtype, copy=False), np.exp(0.5 * log_var).astype(table.dtype, copy=False)

    def inverse_transform(self, Z, y=None, *, condition=None):
        """Decode codes.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components_)
            Codes.
        y, condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers to decode under, one for each code or one for all.

        Returns
        -------
        X : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            Means of the likelihood, in the units of the training data; where these were a frame with columns of different kinds,
            a frame like it, with the likeliest categories.
        """
        check_is_fitted(self, "module_")
        codes, Z = Z, check.check_codes(self, Z)
        given, name = choose(None, y, condition)
        given = self._conditioner.read(given)
        return self._decode(Z, self._encoded(given, name, len(Z), "inverse_transform"), given, Z.dtype, codes)

    def _decode(self, Z: np.ndarray, encoded: np.ndarray, given: Any, dtype: Any, like: Any) -> Any:
        """Decode codes under conditions, which are encoded and as they were given, to rows in the form of `fit`."""
        X = inference.decode(self.module_, Z, check.resolve_device(self.device), encoded)
        return self._joined(X, given, dtype, like=like)

    def reconstruct(self, X, y=None, *, condition=None):
        """Encode and decode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y, condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows.

        Returns
        -------
        X_hat : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            What the model makes of them, in the form that `inverse_transform` gives.
        """
        table, given, device = self._rows(X, y, condition, "reconstruct")
        return self._decode(inference.encode(self.module_, table, device), table.condition, given, table.dtype, X)

    def style_transfer(self, X, y, *, condition=None):
        """Decode the codes of rows under other labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows that the style is taken from.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or numbers to decode under, one for each row or one for all.
        condition : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows themselves, which ``encode_condition=True`` needs.

        Returns
        -------
        X_new : ndarray of shape (n_samples, n_features_in_)
            Decoder's means.
        """
        what = "style_transfer with encode_condition=True"
        table, _, device = self._rows(X, None, condition, what, needed=self.encode_condition, by="condition")
        y = self._conditioner.read(y)
        new = self._encoded(y, "y", table.n_rows, "style_transfer", "y")
        return self._decode(inference.encode(self.module_, table, device), new, y, table.dtype, X)

    def interpolate(self, X_start, X_end, y_start=None, y_end=None, n_steps=10, *, method="linear"):
        """Decode what lies between pairs of rows: between their styles, their labels, or both.

        With ``y_end=None`` the label stays and the style changes; with the same rows at both ends, the style stays and the
        label changes, from one to the other in shares.

        Parameters
        ----------
        X_start, X_end : array-like of shape (n_pairs, n_features)
            Rows at the two ends.
        y_start, y_end : scalar or array-like of shape (n_pairs,) or (n_pairs, n_outputs), default=None
            Labels or numbers at the two ends; those at the end are those at the start by default. With `condition_columns`, they
            are those of the rows.
        n_steps : int, default=10
            Rows on each way, ends included.
        method : {"linear", "spherical"}, default="linear"
            Way of the codes: straight lines, or great circles along which their length changes evenly.

        Returns
        -------
        X : ndarray of shape (n_pairs, n_steps, n_features_in_), or DataFrame of n_pairs * n_steps rows
            Decoder's means; of frames with columns of different kinds, one frame of all rows, pair by pair.
        """
        ends, columns = [], []
        for X, y in ((X_start, y_start), (X_end, y_start if y_end is None else y_end)):
            table, given, device = self._rows(X, y, None, "interpolate", by="y_start")
            ends.append((inference.encode(self.module_, table, device), table.condition))
            columns.append(None if self._conditioner.columns is None else self._conditioner.numbers(given, table.n_rows))
        (z_start, c_start), (z_end, c_end) = ends
        codes = between(z_start, z_end, n_steps, method)
        conditions = between(c_start, c_end, n_steps, "linear")
        X = inference.decode(
            self.module_, codes.reshape(-1, codes.shape[-1]), device, conditions.reshape(-1, conditions.shape[-1])
        )
        if self._conditioner.columns is not None:
            X = self._conditioner.place(X, between(*columns, n_steps, "linear").reshape(len(X), -1))
        X = self._as_given(X)
        return X if is_frame(X) else X.reshape(*codes.shape[:2], *X.shape[1:])

    # -- sampling -----------------------------------------------------------------------------------------------------

    def sample(self, n_samples=None, y=None, return_y=False, *, given=None, mean=False, random_state=None):
        """Draw new rows from the model.

        Parameters
        ----------
        n_samples : int, default=None
            Number of rows; as many as there are in `y` or `given` by default, or 1.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers, one for each row or one for all. By default they are drawn, too: labels in the proportions of the
            training rows, or by how likely they are given `given`; numbers from among at most 1,000 training rows.
        return_y : bool, default=False
            Return them as well.
        given : dict, Series, DataFrame or array-like of shape (n_rows, n_features), default=None
            Entries that rows are to have, see :meth:`VAETransformer.sample`. Numbers that the model conditions on have to be
            given, too, as `y` or as all `condition_columns`.
        mean : bool, default=False
            Return the decoder's means, without the likelihood's noise.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        X : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            Rows in the units of the training data; where these were a frame with columns of different kinds, a frame like it.
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels or numbers of the rows, with ``return_y=True`` only.
        """
        check.check_flags(return_y=return_y, mean=mean)
        check_is_fitted(self, "module_")
        if given is not None:
            return self._sample_under(given, n_samples, y, return_y, mean, random_state)
        y = self._conditioner.read(y)
        if n_samples is None:
            n_samples = self._conditions.n_conditions(y)
        codes_seed, noise_seed, y_seed = self._draw_seeds(n_samples, random_state, n=3)
        given, encoded = self._conditions.called("y").for_sample(y, n_samples, y_seed)
        device = check.resolve_device(self.device)
        noise = np.random.default_rng(codes_seed).standard_normal((n_samples, self.module_.prior.n_noise))
        codes = inference.codes_from_noise(self.module_, noise, device, encoded)
        if mean:
            X = self._joined(inference.decode(self.module_, codes, device, encoded), given)
        else:
            X = self._joined(inference.draw(self.module_, codes, device, noise_seed, encoded), given, seed=noise_seed)
        return (X, self._conditions.as_fitted(given)) if return_y else X

    # -- scores -------------------------------------------------------------------------------------------------------

    def score_samples(self, X, y=None, *, condition=None):
        r"""Estimate the log-likelihood of rows by importance sampling.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y, condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows. Without them, labels are summed out: :math:`\log\sum_y p(y)\,p(x|y)`, with the
            proportions of the training rows; numbers cannot be.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,)
            Nats per row, of the density in the units of X, given the condition where there is one; higher is more normal.
        """
        return self._reduced(X, y, condition, "score_samples", lambda w: inference.log_mean_exp(w)[:, np.newaxis])[:, 0]

    def effective_sample_size(self, X, y=None, *, condition=None):
        """How many of the importance draws behind `score_samples` count.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y, condition : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows; without them, draws under all labels count.

        Returns
        -------
        ess : ndarray of shape (n_samples,)
            At least 1; where it is close to 1, the score is an underestimate.
        """

        def sums(weights: np.ndarray) -> np.ndarray:
            return np.stack([logsumexp(weights, axis=1), 0.5 * logsumexp(2.0 * weights, axis=1)], axis=1)

        first, second = self._reduced(X, y, condition, "effective_sample_size", sums, power=2.0).T
        return np.exp(2.0 * (first - second))

    def _reduced(self, X: Any, y: Any, condition: Any, what: str, reduce: Any, power: float = 1.0) -> np.ndarray:
        """Logarithms of sums of importance weights, summed over the labels where rows come without.

        The second column, where there is one, holds half the logarithm of the sum of the squares.
        """
        table, _, device = self._rows(X, y, condition, what, needed=not self._conditions_are_labels, scored=True)
        if table.condition is not None:
            return inference.log_weights(self.module_, table, device, self._n_score_draws, None, reduce)
        rows, log_shares = self._conditions.combinations()
        parts = self._under_each(rows, table, device, reduce) + log_shares[:, np.newaxis, np.newaxis]
        powers = np.array([1.0, power])[: parts.shape[-1]]
        return logsumexp(parts * powers, axis=0) / powers

    def _under_each(self, conditions: np.ndarray, table: Table, device: Any, reduce: Any) -> np.ndarray:
        """Reduce the importance weights of all rows, under one condition after the other."""
        tables = (table.with_one_condition(condition) for condition in conditions)
        return np.stack([inference.log_weights(self.module_, part, device, self._n_score_draws, None, reduce) for part in tables])

    @property
    def _conditions_are_labels(self) -> bool:
        check_is_fitted(self, "module_")
        return self._conditions.is_labels

    def log_likelihoods(self, X):
        """Estimate the log-likelihood of rows under every label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples, n_classes)
            Nats, in the order of `classes_`.
        """
        if not (self._conditions_are_labels and self._conditions.n_columns == 1):
            raise ValueError(
                f"log_likelihoods needs conditions that are one list of labels; here are {self._conditions.describe()}."
            )
        table, _, device = self._rows(X, None, None, "log_likelihoods", needed=False, scored=True)
        labels = self._conditions.encode(self.classes_, len(self.classes_))
        return self._under_each(labels, table, device, inference.log_mean_exp).T

    def score(self, X, y=None, sample_weight=None, *, condition=None):
        """Mean log-likelihood of rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers of the rows; see `score_samples`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        condition : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Takes the place of `y`.

        Returns
        -------
        score : float
            Nats per row; higher is better.
        """
        scores = self.score_samples(X, y, condition=condition)
        return float(np.average(scores, weights=check.check_score_weights(sample_weight, scores)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.condition_columns is None
        tags.target_tags.multi_output = True
        return tags
