"""The denoising autoencoder."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval, StrOptions

from skvae import inference
from skvae.data import Table
from skvae.data.sources import as_source
from skvae.estimators import _checks as check
from skvae.estimators._docs import document
from skvae.estimators._fit import FitRun
from skvae.estimators._held_out import HeldOut
from skvae.estimators.autoencoder import AutoEncoder
from skvae.modules import CORRUPTIONS, MLP, DenoisingModule
from skvae.runtime.randomness import PrivateRandomness
from skvae.training import Plan, Rows, pretrain


@document
class DenoisingAE(AutoEncoder):
    r"""Denoising autoencoder: reconstructs clean rows from corrupted ones.

    Where `fit` gets rows alone, they are clean: every step corrupts its rows anew, and the target is the clean row [1]_. The
    code then has to know how columns depend on each other rather than copy them, and `reconstruct`, or `denoise`, repairs rows
    that are damaged in the same way. Corruption is for training alone: `transform` and the scores read rows as they are.

    Where the clean rows of noisy ones are known, `fit` gets both, as X and y, or as X and `clean`: the target then is the given
    clean row, and noise of any kind is learned, also such as depends on the row or is the same in many columns, which no
    corruption is. Corruption is added on top all the same; ``corruption_scale=0`` leaves out the "gaussian" one.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the code; "auto" is the square root of the number of columns, but at least 2.
    corruption : str, list of str or callable, default="gaussian"
        - "gaussian" adds normal noise of `corruption_scale`;
        - "masking" replaces `corruption_rate` of each row's entries by `mask_value`;
        - "salt_and_pepper" replaces them by the smallest or the largest value of their column;
        - "dropout" zeroes entries, in standardized units, with that probability and scales the others up;
        - of several names in a list, each row draws one;
        - of data frames with columns of different kinds, "masking" and "dropout" make entries missing, "salt_and_pepper" replaces
          categories and numbers of few values by draws from the column, and "gaussian" acts on the normal scores of numbers, and
          replaces categories, and values of numbers that have a mass of their own, by draws from the column at the rate
          ``1 - 1 / sqrt(1 + corruption_scale ** 2)``, which leaves them as correlated with the clean ones as numbers are;
        - a function takes a batch, a tensor in the units of X of shape (n, n_features), or (n, channels, height, width)
          for images, and returns its corrupted version. Random numbers that it draws from torch come from the
          estimator's own generator. It is not for data frames with columns of different kinds.
    corruption_rate : float, default=0.3
        Fraction of entries to corrupt, between 0 and 1; read by "masking", "salt_and_pepper" and "dropout".
    corruption_scale : float, default=0.3
        Standard deviation of the normal noise; read by "gaussian" alone.
    noise_unit : {"std", "data"}, default="std"
        Whether `corruption_scale` is in standard deviations of each column or in the units of X; read by "gaussian" alone.
    mask_value : float or None, default=None
        What masked entries become; None is the mean of the column, or 0 where the likelihood takes X as it is, as "bernoulli"
        does. Read by "masking" alone.
    pretraining_epochs : int, default=0
        Passes over the data for each layer, from the outermost inward, before all are trained together [1]_: each learns to
        denoise the codes of the one before. Perceptrons only. The first `partial_fit` runs them, too.
    %(architecture)s
    density : density estimator or None, default=None
        Density of the codes, as in :class:`~skvae.AutoEncoder`.
    %(training)s

    Attributes
    ----------
    density_ : estimator
        The fitted density of the codes.
    pretraining_loss_ : list of ndarray
        Loss per epoch of every layer's pretraining; empty without.
    %(fitted)s

    See Also
    --------
    AutoEncoder : The same without corruption.

    Notes
    -----
    Methods that take `y` or `clean` use `clean` where both are given. A `y` is clean rows where it is of numbers, of exactly the
    shape of X, and has at least two columns, or where X and y are data frames with the same columns of different kinds; any
    other is ignored, as pipelines and searches pass labels.

    With clean rows, the likelihood is that of the clean table: its units, constant columns and `noise_scale_`, and what
    `reconstruct`, `inverse_transform` and `sample` return, are those of clean rows. The encoder reads noisy rows by means and
    standard deviations of their own, except with "bernoulli" and "poisson", which take both tables as they are; noisy rows may
    be out of their range. `density_` is that of the codes of noisy rows, and the noise is how clean rows scatter around what
    noisy ones are reconstructed as. Corruption in the units of columns goes by the columns of X. An entry may be missing in
    either table: one that is missing in the clean row does not count, and one that is missing in the noisy row alone is learned
    to be filled in. Rows without any entry in one of the tables are left out.

    References
    ----------
    .. [1] Vincent et al., "Stacked denoising autoencoders: learning useful representations in a deep network with a local
       denoising criterion", JMLR 11, 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import DenoisingAE
    >>> X, _ = load_digits(return_X_y=True)
    >>> dae = DenoisingAE(n_components=16, corruption="masking", corruption_rate=0.5, max_epochs=10, random_state=0).fit(X)
    >>> damaged = X.copy()
    >>> damaged[:, ::2] = X[:, ::2].mean(axis=0)
    >>> bool(((dae.denoise(damaged) - X) ** 2).mean() < ((damaged - X) ** 2).mean())
    True
    """

    _module_class = DenoisingModule

    _parameter_constraints = {
        **AutoEncoder._parameter_constraints,
        "corruption": [StrOptions(set(CORRUPTIONS)), list, tuple, callable],
        "corruption_rate": [Interval(Real, 0, 1, closed="both")],
        "corruption_scale": [Interval(Real, 0, None, closed="left")],
        "noise_unit": [StrOptions({"std", "data"})],
        "mask_value": [Interval(Real, None, None, closed="neither"), None],
        "pretraining_epochs": [Interval(Integral, 0, None, closed="left")],
    }

    __metadata_request__fit = {"clean": True}
    __metadata_request__partial_fit = {"clean": True}
    __metadata_request__score = {"clean": True}

    def __init__(
        self,
        n_components="auto",
        *,
        corruption="gaussian",
        corruption_rate=0.3,
        corruption_scale=0.3,
        noise_unit="std",
        mask_value=None,
        pretraining_epochs=0,
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder=None,
        linear_path="auto",
        image_shape=None,
        likelihood="auto",
        missing_values="auto",
        density=None,
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
        self.corruption = corruption
        self.corruption_rate = corruption_rate
        self.corruption_scale = corruption_scale
        self.noise_unit = noise_unit
        self.mask_value = mask_value
        self.pretraining_epochs = pretraining_epochs
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.linear_path = linear_path
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.missing_values = missing_values
        self.density = density
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
    def fit(self, X, y=None, *, clean=None, sample_weight=None, validation_data=None, groups=None):
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from, noisy ones where their clean rows are given.
        y : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            The clean rows of X, in the order of its rows and columns. Ignored where it is of another shape, has one column, or
            is not of numbers.
        clean : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            Takes the place of `y`, and has to be clean rows, be it of one column. A pipeline's earlier steps transform X and not
            this: it is in the units that X has when it comes here.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.
        validation_data : {array-like, sparse matrix} or tuple (X_val, y_val), default=None
            Rows that early stopping looks at, in place of some that are held out of X: a pair of noisy rows and their clean
            ones where clean rows are given, and rows alone where not. They are not
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
            If a parameter, X or the clean rows are not as they should be, or the loss stops being finite in the first epoch.
        """
        given = check.choose_clean(X, y, clean)

        def side(X: Any, y: Any) -> dict[str, Any]:
            if given[0] is not None and y is None:
                raise ValueError("validation_data: the model learns from clean rows, so that it takes a pair (X_val, clean_val).")
            return {"given": (None if given[0] is None else y, "the second of the pair")}

        held_out = HeldOut.of(validation_data, groups, side)
        return self._fit(X, sample_weight, single_pass=False, held_out=held_out, given=given)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, *, clean=None, sample_weight=None):
        """Go on with one pass over some rows.

        The first call fixes the standardization of the columns, and whether clean rows are given. Optimizer and schedules go on
        where they were; schedules stay at their end.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from, noisy ones where their clean rows are given.
        y : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            The clean rows of X; ignored where it cannot be, see `fit`.
        clean : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            Takes the place of `y`, and has to be clean rows.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        return self._fit(X, sample_weight, single_pass=True, given=check.choose_clean(X, y, clean))

    def _make_table(
        self, run: FitRun, kept: Any, weight: np.ndarray | None, *, given: tuple[Any, str]
    ) -> tuple[Table, dict[str, Any]]:
        """Make the table of the rows, with the clean ones as what they should be."""
        table, noted = super()._make_table(run, kept, weight)
        clean, name = given
        if run.resumes and not run.validates and self.module_.has_clean_targets != (clean is not None):
            before, now = ("with", "without") if clean is None else ("without", "with")
            raise ValueError(
                f"The model was fitted {before} clean rows, and cannot go on {now} them: pass what it was given, as clean or as "
                "y of the shape of X, or use a clone, or fit with warm_start=False."
            )
        if clean is None:
            return table, noted
        target = as_source(check.check_clean(self, clean, run.rows.source, name=name))
        table = replace(table, target=target if isinstance(kept, slice) else target.take(kept))
        empty = table.entries().empty_rows
        if empty is None:
            return table, noted
        if len(empty) - empty.sum() < (1 if run.goes_on else 2):
            raise ValueError(f"{name} has {len(empty) - empty.sum()} row(s) with an entry that is not missing; more are needed.")
        table = table.take(~empty)
        is_weighted = table.weight is not None and (table.weight != table.weight[0]).any()
        return table if is_weighted else replace(table, weight=None), noted

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        self._check_corruption()
        several = isinstance(self.corruption, (list, tuple))
        return {
            **super()._module_arguments(n_features),
            "corruption": tuple(self.corruption) if several else self.corruption,
            "corruption_rate": float(self.corruption_rate),
            "corruption_scale": float(self.corruption_scale),
            "noise_unit": self.noise_unit,
            "mask_value": None if self.mask_value is None else float(self.mask_value),
        }

    # -- corruption ---------------------------------------------------------------------------------------------------

    def _check_corruption(self) -> None:
        """Raise a ValueError about a corruption that cannot be, or does not go with pretraining."""
        if isinstance(self.corruption, (list, tuple)):
            unknown = [name for name in self.corruption if name not in CORRUPTIONS]
            if unknown or not self.corruption:
                known = ", ".join(map(repr, CORRUPTIONS))
                raise ValueError(f"corruption={self.corruption!r} must be a list of at least one of {known}.")
        if isinstance(self.corruption, type):
            raise ValueError(
                f"corruption={self.corruption.__name__} is a class; pass a function of a batch, or one of the names "
                f"{', '.join(map(repr, CORRUPTIONS))}."
            )
        names = [self.corruption] if isinstance(self.corruption, str) else self.corruption
        self._check_corruption_of_frames(names)
        if not callable(names) and "dropout" in names and self.corruption_rate >= 1.0:
            raise ValueError("corruption='dropout' with corruption_rate=1 leaves nothing of a row; it must be below 1.")
        encoder, decoder = self._networks()
        if self.pretraining_epochs and not (
            isinstance(encoder, MLP)
            and (
                decoder == "tied" or (isinstance(decoder, MLP) and decoder.hidden_layer_sizes == encoder.hidden_layer_sizes[::-1])
            )
        ):
            raise ValueError(
                f"pretraining_epochs={self.pretraining_epochs} trains perceptrons layer by layer: encoder and decoder must be "
                "None or MLP(...), and the decoder mirror the encoder. Images, also by image_shape, need encoder=MLP()."
            )
        if self.pretraining_epochs and callable(self.corruption):
            raise ValueError(
                f"pretraining_epochs={self.pretraining_epochs} corrupts the codes of every layer; corruption={self.corruption!r} "
                "is made for rows of X. Name a corruption instead."
            )

    def _check_corruption_of_frames(self, names: Any) -> None:
        """Raise a ValueError about a corruption of numbers, where columns are of different kinds."""
        if self._frame_form is None:
            return
        what = "X is a data frame with columns of different kinds"
        if callable(names):
            raise ValueError(
                f"corruption={self.corruption!r} takes tensors of numbers, but {what}, whose categories are none. Choose among "
                f"{', '.join(map(repr, CORRUPTIONS))}, or pass rows that you corrupt as X and the clean ones as clean."
            )
        if self.mask_value is not None and "masking" in names:
            raise ValueError(
                f"mask_value={self.mask_value!r} is one number for all columns, but {what}: masked entries become missing. Leave "
                "it None."
            )
        if self.noise_unit == "data" and "gaussian" in names:
            raise ValueError(
                f"noise_unit='data' has the noise in the units of X, but {what}, some of which have none; take noise_unit='std'."
            )

    def _misfit_of_linear_path(self, encoder: Any, decoder: Any) -> str | None:
        if self.pretraining_epochs:
            return f"begins at a linear model, which pretraining_epochs={self.pretraining_epochs} would begin elsewhere"
        return super()._misfit_of_linear_path(encoder, decoder)

    def _prepare(self, run: FitRun, rows: Rows, plan: Plan) -> dict[str, Any]:
        """Try a corruption of the user's own, and train layer by layer."""
        if run.resumes:
            return {}
        if callable(self.corruption):
            with PrivateRandomness(plan.seed):
                check.check_corruption(run.module, run.table, plan.batch_size)
        return {"losses": pretrain(run.module, rows, plan, self.pretraining_epochs) if self.pretraining_epochs else []}

    def _measure(self, run: FitRun) -> dict[str, Any]:
        losses = run.prepared["losses"] if run.prepared else self.pretraining_loss_
        return {**super()._measure(run), "pretraining_loss_": losses}

    def score(self, X, y=None, sample_weight=None, *, clean=None):
        """Mean log-likelihood of rows or, where clean rows are given, of these given X.

        Without clean rows it is the mean of `score_samples`: the log-density of the rows of X under the density of the codes and
        the decoder with its noise, whatever rows the model was fitted to; corruption has no part in it. With clean rows it is the
        mean log-density of the clean row given the noisy one: of the likelihood around what the noisy row is reconstructed as.
        The two do not compare, as the latter knows a row much like the one that it scores.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data, noisy ones where their clean rows are given.
        y : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            The clean rows of X; ignored where it cannot be, see `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.
        clean : {array-like, sparse matrix} of shape (n_samples, n_features), default=None
            Takes the place of `y`, and has to be clean rows.

        Returns
        -------
        score : float
            Nats per row, of the density in the units of the clean rows; higher is better. Entries that are missing in the clean
            rows are integrated out.
        """
        given, name = check.choose_clean(X, y, clean)
        if given is None:
            return super().score(X, sample_weight=sample_weight)
        table, device = self._ready(X)
        table = replace(table, target=as_source(check.check_clean(self, given, table.source, name=name)))
        self.module_.likelihood.check(table.target, table.name)
        scores = inference.log_prob_given(self.module_, table, device)
        return float(np.average(scores, weights=check.check_score_weights(sample_weight, scores)))

    def denoise(self, X):
        """Repair rows; another name for `reconstruct`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        X_hat : ndarray of shape (n_samples, n_features_in_)
            The clean rows that the model takes them for.
        """
        return self.reconstruct(X)
