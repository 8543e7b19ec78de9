"""The vector-quantized autoencoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skvae import inference
from skvae.data import Table
from skvae.estimators import _checks as check
from skvae.estimators._clusters import ClustersMixin
from skvae.estimators._conditions import Conditions, prior_depends_on
from skvae.estimators._docs import document
from skvae.estimators._fit import REMEMBERED_ROWS, FitRun
from skvae.estimators._held_out import HeldOut
from skvae.estimators._specs import resolve
from skvae.estimators._table import TableAutoEncoder
from skvae.estimators._variational import NOISE_ROWS
from skvae.modules import CODE_PRIORS, CODEBOOKS, SIMILARITIES, STRAIGHT_GRADIENTS, Codebook, VQVAEModule
from skvae.runtime.randomness import Stream, seed_streams
from skvae.training import CodePrior, Plan, Rows
from skvae.training.code_priors import CodePriors, PriorDivergedError
from skvae.training.codebooks import initialize_codebooks
from skvae.warnings import warn_user

_LEARNING_RATE_OF_CLUSTERS = 0.001  # faster encoders leave the clusters that they begin with, for worse ones
_FEW_ALIVE = 0.5


@document
class VQVAE(ClustersMixin, TableAutoEncoder):
    r"""Vector-quantized autoencoder: discrete codes from a learned codebook [1]_, and a prior learned over them [2]_.

    A row becomes a short sequence of codes, an image a grid of them; every code is one of `n_embeddings` vectors. `transform`
    gives the vectors, `encode` the codes. Codebooks begin at centers found by k-means, follow the vectors by moving averages, and
    codes that nobody uses are revived.

    Once the autoencoder is trained, a prior is fitted to the codes of the training rows. `sample` draws from it, and
    `score_samples` adds its log-probability of a row's codes to the log-likelihood of the row given them.

    Parameters
    ----------
    n_embeddings : int or array-like of int, default=64
        Vectors of the codebook; several numbers are those of the levels, the top first.
    embedding_dim : int or array-like of int, default=8
        Their size, likewise.
    n_codes : int, array-like of int, or "auto", default="auto"
        Codes per row; "auto" is the square root of the number of columns. With several levels, one number is the bottom's, and
        every level above has half as many. One code a row makes clusters, see `predict`, for which an automatic learning rate
        is 0.001. Images take "auto": they have a code at every place of the grid that the encoder's convolutions lead to.
    n_levels : {1, 2, 3}, default=1
        Levels of codes, the bottom ones conditioned on those above [2]_. For images, every level halves the grid below.
    codebook : {"ema", "gradient"} or Codebook, default="ema"
        Learn the codebook by exponential moving averages, or by the gradient of its own loss; the details are those of
        :class:`~skvae.Codebook`.
    commitment_weight : float, default=0.25
        Weight of the squared distance between the encoder's vectors and the codebook.
    gradient : {"straight_through", "rotation"}, default="straight_through"
        How gradients pass the quantization: unchanged, or turned and scaled as the vector was [3]_.
    similarity : {"euclidean", "cosine"}, default="euclidean"
        Distance by which the nearest code is found; "cosine" scales all vectors to length one.
    entropy_weight : float, default=0.0
        Above 0, likelier codes are chosen over nearer ones: by this many mean squared distances for every nat between their
        probabilities [5]_. Codes then take fewer bits, for a larger error of reconstruction; 0.5 is a start.
    code_prior : {"auto", "transformer", "pixelsnail", "histogram", "uniform"}, CodePrior or None, default="auto"
        Prior of the codes: autoregressive, by a causal Transformer or by gated causal convolutions with attention [4]_, of
        which "auto" takes the former for rows and the latter for images; independent codes with frequencies by position; or
        all codes alike. None fits none, and there is no sampling or scoring. Size and training of the autoregressive ones are
        set by :class:`~skvae.CodePrior`.
    class_conditional : bool or "auto", default="auto"
        Whether the prior depends on the labels that `fit` gets as `y`; with "auto" it does if there are no more different
        labels than the square root of the number of rows, and other targets are ignored.
    decoder : MLP, Conv, Net or None, default=None
        Specification of the decoder; None mirrors the encoder.
    %(architecture)s
    %(training)s

    Attributes
    ----------
    n_codes_ : int
        Codes per row, of all levels.
    code_shapes_ : list of tuple of int
        Sides of every level's grid, or length of its sequence, the top level first, which is the order of `encode`.
    perplexity_ : float or list of float
        Effective number of codes in use over the training rows, the exponential of the entropy of their frequencies; a list
        where there are several levels.
    n_active_codes_ : int or list of int
        Codes in use over the training rows, likewise.
    code_prior_ : sequence of Module or None
        The fitted priors, one for each level, the top first.
    code_prior_loss_ : list of ndarray of shape (n_epochs,)
        Training loss of the priors per epoch, in nats per row.
    classes_ : ndarray of shape (n_classes,) or list of ndarray
        Labels, sorted, where the prior depends on them.
    labels_ : ndarray of shape (n_samples,)
        Codes of the training rows, where each has but one.
    %(fitted)s

    See Also
    --------
    VAETransformer : Codes of real numbers.
    sklearn.cluster.KMeans : Codes without an encoder.

    Notes
    -----
    The score is a lower bound of the log-likelihood, since it counts the codes that the encoder chooses alone. `score` sums
    labels out, whatever `y`, so that it compares with that of other models.

    For images, `hidden_layer_sizes` has no effect: nothing lies between convolutions and codes.

    References
    ----------
    .. [1] van den Oord et al., "Neural discrete representation learning", NeurIPS 2017.
    .. [2] Razavi et al., "Generating diverse high-fidelity images with VQ-VAE-2", NeurIPS 2019.
    .. [3] Fifty et al., "Restructuring vector quantization with the rotation trick", ICLR 2025.
    .. [4] Chen et al., "PixelSNAIL: an improved autoregressive generative model", ICML 2018.
    .. [5] Chou et al., "Entropy-constrained vector quantization", IEEE Transactions on Acoustics, Speech, and Signal
       Processing 37, 1989.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VQVAE
    >>> X, _ = load_wine(return_X_y=True)
    >>> vqvae = VQVAE(n_embeddings=16, n_codes=3, max_epochs=20, code_prior="histogram", random_state=0).fit(X)
    >>> vqvae.transform(X).shape, vqvae.encode(X).shape, vqvae.encode(X).dtype, vqvae.sample(5).shape
    ((178, 24), (178, 3), dtype('uint8'), (5, 13))
    """

    _module_class = VQVAEModule
    _private_state = (*TableAutoEncoder._private_state, "_conditions", "_code_shares")
    _argument_names: ClassVar[dict[str, str]] = {"decay": "codebook__decay", "revive": "codebook__revive"}

    _parameter_constraints = {
        **TableAutoEncoder._parameter_constraints,
        "n_embeddings": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "embedding_dim": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "n_codes": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left"), "array-like"],
        "n_levels": [Interval(Integral, 1, 3, closed="both")],
        "codebook": [StrOptions(set(CODEBOOKS)), Codebook],
        "commitment_weight": [Interval(Real, 0, None, closed="left")],
        "gradient": [StrOptions(set(STRAIGHT_GRADIENTS))],
        "similarity": [StrOptions(set(SIMILARITIES))],
        "entropy_weight": [Interval(Real, 0, None, closed="left")],
        "code_prior": [StrOptions({"auto", *CODE_PRIORS}), CodePrior, None],
        "class_conditional": ["boolean", StrOptions({"auto"})],
    }

    def __init__(
        self,
        n_embeddings=64,
        *,
        embedding_dim=8,
        n_codes="auto",
        n_levels=1,
        codebook="ema",
        commitment_weight=0.25,
        gradient="straight_through",
        similarity="euclidean",
        entropy_weight=0.0,
        code_prior="auto",
        class_conditional="auto",
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder=None,
        image_shape=None,
        likelihood="gaussian",
        learning_rate="auto",
        optimizer="adam",
        batch_size="auto",
        max_epochs="auto",
        early_stopping=False,
        warm_start=False,
        device="auto",
        precision="float32",
        random_state=None,
        verbose=0,
        callbacks=None,
    ):
        self.n_embeddings = n_embeddings
        self.embedding_dim = embedding_dim
        self.n_codes = n_codes
        self.n_levels = n_levels
        self.codebook = codebook
        self.commitment_weight = commitment_weight
        self.gradient = gradient
        self.similarity = similarity
        self.entropy_weight = entropy_weight
        self.code_prior = code_prior
        self.class_conditional = class_conditional
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks

    # -- fitting ------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, sample_weight=None, validation_data=None, groups=None):
        """Fit the autoencoder, and then the prior of its codes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels for a class-conditional prior, see `class_conditional`. Codes do not depend on them.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.
        validation_data : {array-like, sparse matrix} or tuple (X_val, y_val), default=None
            Rows that early stopping looks at, in place of some that are held out of X; labels that are passed beside them are
            ignored, as the prior of the codes alone depends on any. They are not
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
            If a parameter, X or y is not as it should be, or the loss stops being finite in the first epoch.
        """
        held_out = HeldOut.of(validation_data, groups, lambda X, y: {"y": None})
        return self._fit(X, sample_weight, single_pass=False, held_out=held_out, y=y)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, classes=None, *, sample_weight=None):
        """Go on with one pass over some rows, of the autoencoder and of the prior.

        The first call fixes the labels and the standardization of the columns, but of those that are constant there, and fits
        a prior as `fit` does.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels for a class-conditional prior.
        classes : array-like of shape (n_classes,) or list of array-like, default=None
            All labels there will be, a list of them where there are several kinds; those of the first call by default. With
            ``class_conditional="auto"``, the first call decides whether the prior depends on `y`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        return self._fit(X, sample_weight, single_pass=True, y=y, classes=classes)

    def _make_table(
        self, run: FitRun, kept: Any, weight: np.ndarray | None, *, y: Any, classes: Any = None
    ) -> tuple[Table, dict[str, Any]]:
        table, noted = super()._make_table(run, kept, weight)
        if run.validates:
            return table, noted
        depends = self.class_conditional is not False and self._prior_name not in (None, "uniform")
        if self.class_conditional is True and not depends:
            raise ValueError(
                f"class_conditional=True has no effect with code_prior={self._prior_name!r}, which does not depend on labels."
            )
        if classes is not None and (y is None or not depends):
            without = "y" if y is None else f"class_conditional={self.class_conditional!r} and code_prior={self._prior_name!r}"
            raise ValueError(f"classes={classes!r} has no effect with{'out' if y is None else ''} {without}.")
        conditions = self._conditions if run.goes_on else None  # a warm start fits the prior anew
        noted["_conditions"] = conditions
        if run.goes_on and conditions is None:
            return table, noted
        if y is None:
            if self.class_conditional is True or run.goes_on:
                raise ValueError("The prior depends on labels (class_conditional): pass them as y.")
            return table, noted
        if not run.goes_on and not depends:
            return table, noted
        labels = check.check_labels(y, run.rows, kept)
        if conditions is not None:
            if classes is not None:
                conditions.check_classes(classes)
            conditions = conditions.extended(labels, weight)
        elif prior_depends_on(labels, table.n_rows, self.class_conditional, self._prior_name):
            conditions = Conditions(labels, weight, classes=classes, scaled=False)
        else:
            return table, noted
        noted["_conditions"] = conditions
        return replace(table, labels=conditions.encode(labels, table.n_rows)), noted

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        check.refuse_hidden_layers(self)
        n_codes = self.n_codes
        if isinstance(n_codes, str):
            n_codes = None if self.image_shape_ is not None else max(1, round(np.sqrt(n_features)))
        elif self.image_shape_ is not None:
            raise ValueError(f"n_codes={n_codes!r} is for rows: images have a code at every place of the encoder's grid.")
        codebook = resolve("codebook", self.codebook)
        return {
            **super()._module_arguments(n_features),
            "n_levels": int(self.n_levels),
            "n_codes": check.check_sizes("n_codes", n_codes),
            "n_embeddings": check.check_sizes("n_embeddings", self.n_embeddings),
            "embedding_dim": check.check_sizes("embedding_dim", self.embedding_dim),
            "codebook": codebook.learning,
            "decay": float(codebook.decay),
            "commitment_weight": float(self.commitment_weight),
            "gradient": self.gradient,
            "similarity": self.similarity,
            "revive": bool(codebook.revive),
            "entropy_weight": float(self.entropy_weight),
        }

    def _auto_training(self, n_batches: int, batch_size: int) -> tuple[int, float]:
        n_epochs, learning_rate = super()._auto_training(n_batches, batch_size)
        has_one_code = self._arguments["n_levels"] == 1 and self._arguments["n_codes"] in (1, (1,))
        return n_epochs, _LEARNING_RATE_OF_CLUSTERS if has_one_code else learning_rate

    @property
    def _code_prior(self) -> CodePrior | None:
        return resolve("code_prior", self.code_prior)

    @property
    def _prior_name(self) -> str | None:
        return None if self._code_prior is None else self._code_prior.name

    def _prepare(self, run: FitRun, rows: Rows, plan: Plan) -> dict[str, Any]:
        """Place the codebooks, and count the distinct vectors of each level."""
        (seed,) = seed_streams(plan.seed, Stream.CODEBOOK, n=1)
        return {} if run.resumes else {"n_distinct": initialize_codebooks(run.module, rows, seed)}

    def _measure(self, run: FitRun) -> dict[str, Any]:
        """Fit the noise, count the codes and fit their prior."""
        module, table = run.module, run.table
        inference.fit_noise(module, table, run.device, max_rows=NOISE_ROWS)
        codes = inference.training_codes(module, table, run.device)
        fitted: dict[str, Any] = {"n_codes_": module.n_codes, "code_shapes_": list(module.level_shapes)}
        if module.n_codes == 1:
            found = codes if table.source is run.rows.source else inference.find_codes(module, run.rows, run.device)
            fitted["labels_"] = found[:, 0].astype(np.int64)
        return {**fitted, **self._count_codes(run, codes), **self._fit_priors(run, codes)}

    def _count_codes(self, run: FitRun, codes: np.ndarray) -> dict[str, Any]:
        """Count how often codes are in use, and how evenly."""
        shares = inference.code_shares(run.module, codes, run.table.weight)
        if run.share < 1.0:
            shares = [(1.0 - run.share) * old + run.share * new for old, new in zip(self._code_shares, shares, strict=True)]
        perplexity, active = inference.code_usage(shares)
        several = len(shares) > 1
        return {
            "_code_shares": shares,
            "perplexity_": perplexity if several else perplexity[0],
            "n_active_codes_": active if several else active[0],
        }

    # -- the prior ----------------------------------------------------------------------------------------------------

    def _fit_priors(self, run: FitRun, codes: np.ndarray) -> dict[str, Any]:
        """Fit the priors of the codes, anew or with those that there are."""
        spec = self._code_prior
        if spec is None:
            return {"code_prior_": None, "code_prior_loss_": []}
        anew = run.share == 1.0
        if anew:
            n_conditions = 0 if self._conditions is None else self._conditions.width
            seed = run.progress.stream(Stream.CODE_PRIOR_WEIGHTS)
            priors = CodePriors.of(spec, run.module, n_rows=len(codes), n_conditions=n_conditions, seed=seed)
        elif self.code_prior_ is None or not self.code_prior_.is_of(spec, run.module):
            raise ValueError(
                "code_prior or its network changed since the prior was fitted; partial_fit goes on with the same. Use fit."
            )
        else:
            priors = self.code_prior_
        remembered = 0 if anew else REMEMBERED_ROWS
        try:
            priors, diverged = priors.fitted(run.module, codes, run.table, run.device, run.plan, spec, remembered=remembered)
        except PriorDivergedError as error:
            raise ValueError(self._prior_divergence(error.learning_rate)) from None
        for plan in diverged:
            warn_user(self._prior_divergence(plan.learning_rate), ConvergenceWarning)
        return {"code_prior_": priors, "code_prior_loss_": priors.losses}

    def _prior_divergence(self, learning_rate: float) -> str:
        return (
            f"The training loss of the prior of {type(self).__name__} stopped being finite. Lower its learning rate, "
            f"code_prior__learning_rate (now {learning_rate:g})."
        )

    def _concerns(self, run: FitRun) -> list[str]:
        concerns = []
        if self._conditions is not None and not self.code_prior_.depends_on_conditions:
            concerns.append(
                f"The prior of {type(self).__name__} does not depend on the labels that it was given: there are too "
                "few rows, or too many labels, to learn it from. sample(y=...) draws the same whatever y; set "
                "class_conditional=False."
            )
        active = np.atleast_1d(self.n_active_codes_)
        many = [level.n_embeddings for level in run.module.levels]
        n_distincts = run.prepared.get("n_distinct", many)
        for i, (level, n_active, n_distinct) in enumerate(zip(run.module.levels, active, n_distincts, strict=True)):
            if n_active >= _FEW_ALIVE * level.n_embeddings and n_distinct >= level.n_embeddings:
                continue
            where = "" if len(active) == 1 else f" of level {i}"
            if n_distinct < level.n_embeddings:
                advice = f"n_embeddings is larger than the number of distinct training vectors, {n_distinct}. Lower it."
            elif self.entropy_weight > 0.0:
                advice = f"lower entropy_weight (now {self.entropy_weight:g}) or n_embeddings."
            elif resolve("codebook", self.codebook).revive:
                advice = (
                    f"lower n_embeddings or embedding_dim (now {level.embedding_dim}), or raise max_epochs (now "
                    f"{self.max_epochs!r}, {self.n_iter_} passes)."
                )
            else:
                advice = "set codebook__revive=True or lower n_embeddings."
            concerns.append(
                f"Only {n_active} of the {level.n_embeddings} codes{where} in the codebook of {type(self).__name__} are in use: "
                f"{advice}"
            )
        return concerns

    @property
    def classes_(self):
        """Labels, sorted, where the prior depends on them; a list of them where there are several kinds."""
        if getattr(self, "_conditions", None) is None:
            raise AttributeError(f"This {type(self).__name__} has no classes_: it has no prior that depends on labels.")
        return self._conditions.classes

    def _has_prior(self, what: str) -> Any:
        check_is_fitted(self, "module_")
        if self.code_prior_ is None:
            raise ValueError(
                f"{what} of {type(self).__name__} needs a prior of the codes, but the model was fitted with code_prior=None; "
                'codes are not normally distributed and cannot be drawn without one. Fit with code_prior="auto", or "histogram", '
                "which costs next to nothing."
            )
        return self.code_prior_

    # -- codes --------------------------------------------------------------------------------------------------------

    def encode(self, X):
        """Discrete codes of rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_codes_)
            Of the smallest unsigned integer type that holds them. The levels follow each other, the top first, and the grid of
            each is laid out row by row, see `code_shapes_`.
        """
        table, device = self._ready(X)
        largest = max(level.n_embeddings for level in self.module_.levels) - 1
        return inference.find_codes(self.module_, table, device).astype(np.min_scalar_type(largest))

    def decode(self, codes):
        """Decode discrete codes.

        Parameters
        ----------
        codes : array-like of int, shape (n_samples, n_codes_)
            As `encode` returns them, or in the shape of the grid where there is one level.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features_in_)
            Means of the likelihood, in the units of the training data.
        """
        check_is_fitted(self, "module_")
        return self._decode_codes(check.check_discrete_codes(self.module_, codes), mean=True, seed=0)

    def _decode_codes(self, codes: np.ndarray, *, mean: bool, seed: int) -> np.ndarray:
        device = check.resolve_device(self.device)
        embedding = inference.embed_codes(self.module_, codes, device)
        if mean:
            return self._as_images(inference.decode(self.module_, embedding, device))
        return self._as_images(inference.draw(self.module_, embedding, device, seed))

    def reconstruct(self, X, *, levels=None):
        """Encode and decode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        levels : int or array-like of int, default=None
            Levels to decode from, 0 being the top; the others are replaced by the mean of their codebooks. All by default.

        Returns
        -------
        X_hat : ndarray of shape (n_samples, n_features_in_)
            What the model makes of them.
        """
        if levels is None:
            return super().reconstruct(X)
        table, device = self._ready(X)
        n_levels = len(self.module_.levels)
        levels = [levels] if isinstance(levels, Integral) else list(levels)
        if any(not isinstance(level, Integral) or not 0 <= level < n_levels for level in levels):
            raise ValueError(f"levels={levels!r} must be numbers from 0, the top, to {n_levels - 1}.")
        kept = inference.keep_levels(self.module_, inference.encode(self.module_, table, device), levels, device)
        return self._as_images(inference.decode(self.module_, kept, device).astype(table.dtype, copy=False))

    # -- sampling -----------------------------------------------------------------------------------------------------

    def sample(
        self, n_samples=None, y=None, return_y=False, *, given=None, mean=False, temperature=1.0, top_k=None, random_state=None
    ):
        """Draw new rows: codes from the prior, rows from the likelihood.

        Parameters
        ----------
        n_samples : int, default=None
            Number of rows; as many as there are in `y` by default, or 1.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, one for each row or one for all, where the prior depends on them; drawn as they were seen by default.
        return_y : bool, default=False
            Return them as well.
        given : None
            Not taken, as too many codes may go with entries of a row for each to be weighed; anything else is a ValueError.
        mean : bool, default=False
            Return the decoder's means, without the likelihood's noise.
        temperature : float, default=1.0
            Divides the prior's logits; below 1, likely codes become likelier.
        top_k : int or None, default=None
            Draw from the likeliest codes alone.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features_in_)
            Rows in the units of the training data.
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Labels of the rows, with ``return_y=True`` only.
        """
        check.refuse_given(self, given, "its codes are discrete, too many for each to be weighed by what is given")
        check.check_flags(return_y=return_y, mean=mean)
        codes, labels, seed = self._drawn_codes(n_samples, y, temperature, top_k, random_state)
        X = self._decode_codes(codes, mean=mean, seed=seed)
        if return_y and labels is None:
            raise ValueError("return_y=True needs a prior that depends on labels; this one was fitted without.")
        return (X, self._conditions.as_fitted(labels)) if return_y else X

    def sample_codes(self, n_samples=None, y=None, *, temperature=1.0, top_k=None, random_state=None):
        """Draw codes from the prior.

        Parameters
        ----------
        n_samples : int, default=None
            Number of rows; as many as there are in `y` by default, or 1.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, where the prior depends on them.
        temperature : float, default=1.0
            Divides the prior's logits; below 1, likely codes become likelier.
        top_k : int or None, default=None
            Draw from the likeliest codes alone.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_codes_)
            In the form of `encode`.
        """
        codes, _, _ = self._drawn_codes(n_samples, y, temperature, top_k, random_state)
        return codes.astype(np.min_scalar_type(max(level.n_embeddings for level in self.module_.levels) - 1))

    def _drawn_codes(self, n_samples: Any, y: Any, temperature: Any, top_k: Any, random_state: Any) -> tuple[Any, Any, int]:
        """Codes from the prior, the labels they were drawn for, and a seed for what comes next."""
        priors = self._has_prior("sample")
        if not isinstance(temperature, Real) or not temperature > 0.0:
            raise ValueError(f"temperature={temperature!r} must be a number above 0.")
        if top_k is not None and (not isinstance(top_k, Integral) or top_k < 1):
            raise ValueError(f"top_k={top_k!r} must be an integer of at least 1, or None.")
        if y is not None and self._conditions is None:
            raise ValueError("y was given, but the prior does not depend on labels: fit with y and class_conditional=True.")
        if n_samples is None:
            n_samples = 1 if self._conditions is None else self._conditions.n_conditions(y)
        noise_seed, y_seed, *seeds = self._draw_seeds(n_samples, random_state, n=2 + len(priors))
        known = self._conditions
        given, condition = (None, None) if known is None else known.for_sample(y, n_samples, y_seed)
        device = check.resolve_device(self.device)
        codes = priors.sample(n_samples, device, seeds, condition=condition, temperature=float(temperature), top_k=top_k)
        return codes, given, noise_seed

    # -- scores -------------------------------------------------------------------------------------------------------

    def score_samples(self, X, y=None):
        r"""Log-probability of rows' codes under the prior plus log-likelihood of the rows given them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, where the prior depends on them; by default they are summed out. Else ignored.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,)
            Nats per row, of the density in the units of X; a lower bound. Higher is more normal.
        """
        self._has_prior("score_samples")
        table, device = self._ready(X, scored=True)
        codes = inference.find_codes(self.module_, table, device)
        of_rows = inference.log_likelihood(self.module_, table, inference.embed_codes(self.module_, codes, device), device)
        return self._codes_log_prob(codes, y, device) + of_rows

    def _codes_log_prob(self, codes: np.ndarray, y: Any, device: torch.device) -> np.ndarray:
        """Log-probability of codes under the priors of all levels."""
        given = partial(self.code_prior_.log_prob, self.module_, codes, device)
        if self._conditions is None:
            return given()
        if y is not None:
            return given(self._conditions.encode(y, len(codes)))
        rows, log_shares = self._conditions.combinations()
        each = [given(np.repeat(row[np.newaxis], len(codes), axis=0)) for row in rows]
        return logsumexp(np.stack(each) + log_shares[:, np.newaxis], axis=0)

    def bits_per_dim(self, X, y=None, *, step=1.0):
        """Score of rows in bits per column.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, where the prior depends on them.
        step : float, default=1.0
            Distance between values of entries, in the units of X: 1 for pixels from 0 to 255, 1/255 for those in [0, 1].

        Returns
        -------
        bits : ndarray of shape (n_samples,)
            Lower is better.
        """
        check_is_fitted(self, "module_")
        if not isinstance(step, Real) or not 0.0 < step < np.inf:
            raise ValueError(f"step={step!r} must be a number above 0.")
        if not self.module_.likelihood.is_density and step != 1.0:
            raise ValueError(
                f"step={step!r} turns densities into probabilities, which those of likelihood={self.likelihood!r} are already."
            )
        return -(self.score_samples(X, y) / self.n_features_in_ + np.log(step)) / np.log(2.0)

    def compression(self, X, y=None):
        """Count the bits that rows take as codes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels, where the prior depends on them.

        Returns
        -------
        bits : Bunch
            Bits per row: `raw` as numbers of X's type, `stored` as `encode` returns the codes, `fixed` with as many bits per
            code as its codebook takes, `coded` (n_samples,) by an entropy coder under the prior; `ratio` is `raw` by its mean.
        """
        self._has_prior("compression")
        table, device = self._ready(X)
        coded = -self._codes_log_prob(inference.find_codes(self.module_, table, device), y, device) / np.log(2.0)
        raw, most = 8 * table.dtype.itemsize * table.n_features, max(level.n_embeddings for level in self.module_.levels)
        stored = 8 * np.min_scalar_type(most - 1).itemsize * self.n_codes_
        fixed = sum(level.n_codes * int(np.ceil(np.log2(level.n_embeddings))) for level in self.module_.levels)
        return Bunch(raw=raw, stored=stored, fixed=fixed, coded=coded, ratio=float(raw / max(coded.mean(), 1e-12)))
