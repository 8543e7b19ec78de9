"""Filling in missing values with the autoencoders."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.impute import MissingIndicator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from skvae._spec import and_more, parameters_of
from skvae.data import Table
from skvae.data.containers import absent_entries, add_columns, is_frame, take_columns, with_index_of
from skvae.data.frames import FrameForm
from skvae.data.kinds import frame_columns
from skvae.estimators import CVAE, VAETransformer
from skvae.estimators import _checks as check
from skvae.estimators._continuous import ContinuousAutoEncoder
from skvae.estimators._docs import DocumentedMixin
from skvae.estimators._fit import MAX_SEED, draft_of
from skvae.estimators._held_out import HeldOut
from skvae.estimators._imputing import SIGNS, FrameVAE, ImportanceWeightedVAE
from skvae.estimators._specs import NestedMixin
from skvae.inference.conditional import N_ROUNDS, average_given, sample_given
from skvae.inference.donors import GRID, Strengths, find_donors, try_strengths
from skvae.inference.imputation import impute
from skvae.modules import MECHANISMS, Donors, can_lean
from skvae.runtime.randomness import Stream, seed_streams
from skvae.warnings import warn_user


class AutoencoderImputer(DocumentedMixin, NestedMixin, TransformerMixin, BaseEstimator):
    r"""Fill in missing values from a deep latent variable model of the rows.

    A variational autoencoder is trained on what is observed, by the importance-weighted bound [1]_. `transform` fills in the
    conditional mean of what is missing given what is not; `impute` draws from the conditional distribution, so that what is
    computed from several completed tables knows how uncertain they are. With `mechanism`, a model of why entries are missing
    is learned along with the rows [2]_.

    Parameters
    ----------
    estimator : estimator or None, default=None
        An :class:`~skvae.VAETransformer`, which is trained by the importance-weighted bound, or an
        :class:`~skvae.AutoEncoder`, :class:`~skvae.DenoisingAE`, :class:`~skvae.SparseAE` or :class:`~skvae.ContractiveAE`,
        which are trained as they are. None is ``VAETransformer(hidden_layer_sizes=(64,), activation="elu")``. "auto" means
        up to half as many components of a `VAETransformer` as columns here, as many as fill in hidden entries best beside a
        linear path, and 3,000 steps in 10 to 300 passes, or up to 600 where `mechanism` is not "random", which has no linear
        path; its `beta`, `kl_warmup`, `capacity` and `n_draws` have no effect, as the bound here is
        another one.
    missing_values : float, default=np.nan
        What stands for a missing entry.
    mechanism : {"random", "self_masking", "linear", "nonlinear"}, default="random"
        What decides whether an entry is missing:

        - "random": nothing that is not observed;
        - "self_masking": its own value, by a logistic regression for every column;
        - "linear": the values of the row, observed or not, by a logistic regression;
        - "nonlinear": the same, by a network.

        All but the first need a `VAETransformer`.
    masking_sign : {"positive", "negative"} or None, default=None
        With "self_masking", what is known of its direction: "positive" where large values are missing more often than small ones.
    locality : "auto", float or tuple of two floats, default="auto"
        How much imputations lean on single rows of the training set, which are drawn on as centers of what the model says:
        0.0 leaves it to the model alone, close to 1 is next to filling in from the rows that are most alike. Two numbers are
        one for codes and one for what the decoder leaves of rows. "auto" chooses by entries of training rows that are
        hidden and filled in from the other rows. Needs a `VAETransformer` with a linear path and normal noise, and `mechanism`
        "random"; "auto" is 0.0 elsewhere.
    n_training_draws : int, default=5
        Importance draws per row and training step of a `VAETransformer`; more make the bound tighter. Of numbers alone.
    n_draws : int, default=1000
        Importance draws per row that imputations come from.
    add_indicator : bool, default=False
        Append columns that say where entries were missing, for those columns that had missing entries in `fit`.
    keep_empty_features : bool, default=False
        Fill columns that had no entry in `fit` with zeros, instead of dropping them.
    random_state : int, RandomState instance or None, default=None
        Decides the training, where `estimator` has none of its own, and the draws of `impute`. `transform` draws no random
        numbers.

    Attributes
    ----------
    estimator_ : estimator
        The trained model, of the columns that are kept.
    locality_ : tuple of two floats
        What `locality` came to, for codes and for residuals.
    indicator_ : MissingIndicator or None
        Where entries were missing in `fit`.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names that are strings.

    See Also
    --------
    sklearn.impute.IterativeImputer : One column from the others, by regressions.
    sklearn.impute.KNNImputer : Means of the nearest rows.

    Notes
    -----
    The defaults are chosen from the training rows alone, by entries that are hidden: the number of components and the weight
    decay of the networks beside the linear path by rows that are held out, the locality by filling in every row from
    the others. Where networks do not pay, the model is factor analysis and `transform` its conditional mean. Up to a thousand
    training rows are kept with the imputer where `locality_` is not zero. The same errors say by how much draws of `impute` are
    spread further than the model has them.

    Data frames with columns of different kinds are taken as they are, with the `likelihood` of the estimator left "auto", and
    come back as such, with means of numbers and the likeliest categories. A `VAETransformer`, which None stands for at its
    defaults, is trained by its own bound then, and "auto" means half as many components as columns, a linear path, and
    3,000 steps in 10 to 300 passes. Codes are drawn given what is observed of a row, as by ``sample(given=)``, `n_draws` over
    all rounds; its encoder has no part in it. Imputations lean on no rows.

    Observed entries come back as they are, bit for bit. A row of which nothing is observed is accepted, and filled with the
    model's means. A column whose entries were all there in `fit` may have missing ones later, which count as missing at random.

    References
    ----------
    .. [1] Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets", ICML 2019.
    .. [2] Ipsen, Mattei and Frellsen, "not-MIWAE: deep generative modelling with missing not at random data", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import AutoencoderImputer
    >>> X = load_wine().data.copy()
    >>> X[::3, 2] = np.nan
    >>> imputer = AutoencoderImputer(random_state=0).fit(X)
    >>> bool(np.isnan(imputer.transform(X)).any())
    False
    >>> imputer.impute(X, n_imputations=5).shape
    (5, 178, 13)
    """

    _private_state = ("_is_empty", "_donors", "_stretch")

    _parameter_constraints: dict[str, list[Any]] = {
        "estimator": [HasMethods(["fit", "transform"]), None],
        "missing_values": check.MISSING_VALUES[:1],
        "mechanism": [StrOptions(set(MECHANISMS))],
        "masking_sign": [StrOptions({"positive", "negative"}), None],
        "locality": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left"), tuple, list],
        "n_training_draws": [Interval(Integral, 1, None, closed="left")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "add_indicator": ["boolean"],
        "keep_empty_features": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        missing_values=np.nan,
        mechanism="random",
        masking_sign=None,
        locality="auto",
        n_training_draws=5,
        n_draws=1000,
        add_indicator=False,
        keep_empty_features=False,
        random_state=None,
    ):
        self.estimator = estimator
        self.missing_values = missing_values
        self.mechanism = mechanism
        self.masking_sign = masking_sign
        self.locality = locality
        self.n_training_draws = n_training_draws
        self.n_draws = n_draws
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, validation_data=None, groups=None):
        """Learn to fill in missing values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of which entries may be missing.
        y : None
            Ignored.
        validation_data : array-like of shape (n_val, n_features) or tuple (X_val, y_val), default=None
            Rows that early stopping of the estimator looks at, in place of some that are held out of X; y_val is ignored.
            If they are as many as those of X, a tuple holds them, ``(X_val,)``.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows. Where the estimator holds rows out, they are whole groups.

        Returns
        -------
        self : object
            The fitted imputer.

        Raises
        ------
        ValueError
            If a parameter or X is not as it should be, or X has no entry at all.
        """
        fitted = draft_of(self)  # which takes this one's place once all has gone well
        check.check_missing_values(self)
        model = self._model()
        self._strengths()
        has_kinds = check.has_kinds(model, X)
        if has_kinds:
            validate_data(fitted, X, reset=True, skip_check_array=True)
            fitted._check_mixed(model)
            model = self._model_of_frames(model)
        else:
            X = fitted._check_rows(X, reset=True)
        is_empty = (absent_entries(X) if has_kinds else np.isnan(X)).all(axis=0)
        if is_empty.all():
            raise ValueError("X has no entry that is not missing, so that there is nothing to learn from.")
        if is_empty.any():
            names = _check_feature_names_in(fitted)[is_empty].tolist()
            names = f"{names[:5]}{and_more(names, 5)}"
            if model.image_shape is not None:
                raise ValueError(
                    f"Column(s) {names} of X have no entry that is not missing, but image_shape={model.image_shape} needs "
                    "them all."
                )
            if not self.keep_empty_features:
                warn_user(f"Column(s) {names} of X have no entry that is not missing; they are dropped.")
        fitted._is_empty = is_empty
        given = HeldOut.of(validation_data, groups, lambda X, y: {})
        given.check_form(X)
        held_out = {} if groups is None else {"groups": groups}
        if given.X is not None:
            try:
                rows = given.X if has_kinds else fitted._check_rows(given.X, reset=False)
                held_out["validation_data"] = (_without(rows, is_empty),)
            except ValueError as error:
                raise ValueError(f"validation_data: {error}") from error
        fitted.estimator_ = model.fit(_without(X, is_empty), **held_out)
        X = fitted._check_rows(X, reset=False) if has_kinds else X
        fitted.indicator_ = None
        if self.add_indicator:
            # Columns, as of now with NaN for whatever stands for a missing entry.
            indicator = MissingIndicator(missing_values=np.nan, error_on_new=False)
            fitted.indicator_ = indicator.set_output(transform="default").fit(X)  # an array, whatever scikit-learn is set to
        fitted.locality_, fitted._donors, fitted._stretch = self._lean(fitted.estimator_, X[:, ~is_empty])
        vars(self).clear()
        vars(self).update(vars(fitted))
        return self

    def _model(self) -> Any:
        """Make the estimator to be trained."""
        given = self.estimator
        if given is None:
            given = VAETransformer(hidden_layer_sizes=(64,), activation="elu")
        elif not isinstance(given, ContinuousAutoEncoder) or "missing_values" not in given.get_params(deep=False):
            raise ValueError(
                f"estimator={given!r} must be an autoencoder of this package that takes missing_values, such as VAETransformer()."
            )
        elif isinstance(given, CVAE):
            raise ValueError(
                f"estimator={given!r} fills in entries under conditions, which an imputer is not given. Fit it to rows and their "
                "conditions itself: its sample(given=X, y=y) draws what X lacks, entries that are missing in fit included."
            )
        if self.masking_sign is not None and self.mechanism != "self_masking":
            raise ValueError(
                f"masking_sign={self.masking_sign!r} has no effect with mechanism={self.mechanism!r}; leave it None."
            )
        own = given.missing_values
        is_open = own is None or isinstance(own, str)
        both = own, self.missing_values
        is_same = all(map(check.is_nan, both)) or (not any(map(check.is_nan, both)) and both[0] == both[1])
        if not is_open and not is_same:
            raise ValueError(
                f"estimator has missing_values={own!r}, but the imputer missing_values={self.missing_values!r}, which is what "
                "counts; leave the estimator's at its default."
            )
        given._validate_params()  # which knows the estimator by the name it was given under
        model = clone(given)
        if isinstance(given, VAETransformer):
            model = ImportanceWeightedVAE.like(
                model,
                n_draws=int(self.n_training_draws),
                mechanism=self.mechanism,
                sign=SIGNS[self.masking_sign],
            )
        elif self.mechanism != "random":
            raise ValueError(f"mechanism={self.mechanism!r} needs a VAETransformer, but estimator={given!r}.")
        model.set_params(missing_values=np.nan)
        if model.random_state is None:
            model.set_params(random_state=int(check_random_state(self.random_state).randint(MAX_SEED)))
        return model

    def _model_of_frames(self, model: Any) -> Any:
        """Make the estimator to be trained on a data frame with columns of different kinds."""
        if not isinstance(model, ImportanceWeightedVAE):
            return model
        given = VAETransformer() if self.estimator is None else clone(self.estimator)
        return FrameVAE(**{**given.get_params(deep=False), "missing_values": np.nan, "random_state": model.random_state})

    def _strengths(self) -> Strengths | None:
        """Return what `locality` asks for, or None where it is to be chosen."""
        if isinstance(self.locality, str):
            return None
        pair = (self.locality,) * 2 if isinstance(self.locality, Real) else tuple(self.locality)
        if len(pair) != 2 or not all(isinstance(value, Real) and 0.0 <= value < 1.0 for value in pair):
            raise ValueError(f"locality={self.locality!r} must be 'auto', a number from 0 to below 1, or two of them.")
        return float(pair[0]), float(pair[1])

    def _lean(self, model: Any, X: np.ndarray) -> tuple[Strengths, tuple[np.ndarray, ...] | None, np.ndarray | None]:
        """Find how much to lean on training rows, what is kept of them, and by how much draws are to be spread further."""
        strengths, device = self._strengths(), check.resolve_device(model.device)
        if not can_lean(model.module_):
            if strengths is not None and any(strengths):
                raise ValueError(
                    f"locality={self.locality!r} needs a VAETransformer with a linear path and likelihood='gaussian', and "
                    "mechanism='random'; leave it 'auto', which is 0.0 elsewhere."
                )
            return (0.0, 0.0), None, None
        table = Table.of(X)
        donors = find_donors(model.module_, table, device)
        curve = try_strengths(model.module_, table, donors, device, GRID if strengths is None else (strengths,))
        first, second = (float(value) for value in curve.strengths[curve.best])
        kept = tuple(part.cpu().numpy() for part in donors) if first or second else None
        return (first, second), kept, curve.stretch[curve.best]

    def _check_mixed(self, model: Any) -> None:
        """Raise a ValueError about what is not for data frames with columns of different kinds."""
        if not check.is_nan(self.missing_values):
            raise ValueError(
                f"missing_values={self.missing_values!r} is for numbers, but X is a data frame with columns of different kinds: "
                "set missing_values=np.nan, and put None where entries are missing."
            )
        if self.mechanism != "random":
            raise ValueError(
                f"mechanism={self.mechanism!r} is about sizes of numbers, but X is a data frame with columns of different kinds, "
                "of which categories have none: leave it 'random', or fill in the columns of numbers by themselves."
            )
        default = parameters_of(type(self))["n_training_draws"].default
        if self.n_training_draws != default and isinstance(model, ImportanceWeightedVAE):
            raise ValueError(
                f"n_training_draws={self.n_training_draws} is for the importance-weighted bound, by which no model of a data "
                f"frame with columns of different kinds is trained: leave it at {default}, and set n_draws of the estimator."
            )
        if self.keep_empty_features:
            raise ValueError("keep_empty_features=True fills columns with zeros, which is for numbers alone; leave it False.")

    @property
    def _form(self) -> FrameForm | None:
        """What X looks like without columns that are empty, where it is a data frame with columns of different kinds."""
        return self.estimator_._frame_form if hasattr(self, "estimator_") else None

    def _check_rows(self, X: Any, *, reset: bool) -> np.ndarray:
        """Rows with NaN for whatever is missing."""
        X = check.off_tensor(X)
        if not reset and self._form is not None:
            if is_frame(X):
                validate_data(self, X, reset=False, skip_check_array=True)
            keys = np.full(np.shape(X), np.nan)
            keys[:, ~self._is_empty] = self.estimator_._check_rows(_without(X, self._is_empty), reset=False)
            return keys
        check.refuse_other_columns(self.estimator_ if hasattr(self, "estimator_") else self._model(), X)
        if getattr(X, "ndim", 2) > 2:
            raise ValueError(
                f"X has {X.ndim} dimensions, {tuple(X.shape)}; {type(self).__name__} takes rows (n_samples, n_features). Images "
                "are passed as X.reshape(len(X), -1), with their image_shape given to its estimator."
            )
        return check.validate_rows(self, X, self.missing_values, reset=reset, ensure_min_samples=2 if reset else 1)

    # -- imputation ---------------------------------------------------------------------------------------------------

    def transform(self, X):
        """Fill in the conditional means of missing entries.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of which entries may be missing.

        Returns
        -------
        X : {ndarray, DataFrame} of shape (n_samples, n_features_out)
            Complete rows, and indicators behind them with `add_indicator`. Data frames with columns of different kinds come back
            as such, with the likeliest categories where one is missing.
        """
        check_is_fitted(self)
        given, X = X, self._check_rows(X, reset=False)
        return self._with_indicators(given, X, self._complete(X, None, 0)[0])

    def impute(self, X, n_imputations=10, *, random_state=None):
        """Draw several completions of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, of which entries may be missing.
        n_imputations : int, default=10
            Number of completions.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the imputer's own `random_state` by default.

        Returns
        -------
        X : ndarray of shape (n_imputations, n_samples, n_features_out), or list of n_imputations DataFrames
            Complete tables, which agree where entries are observed.
        """
        check_is_fitted(self)
        n_imputations = check.check_count("n_imputations", n_imputations)
        given, X = X, self._check_rows(X, reset=False)
        generator = check_random_state(self.random_state if random_state is None else random_state)
        (seed,) = seed_streams(int(generator.randint(MAX_SEED)), Stream.COMPLETION, n=1)
        drawn = self._complete(X, n_imputations, seed)
        tables = [self._with_indicators(given, X, filled, seed + i) for i, filled in enumerate(drawn)]
        return tables if self._form is not None else np.stack(tables)

    def _complete(self, X: np.ndarray, n_imputations: int | None, seed: int) -> np.ndarray:
        """Complete the columns that are known, ``(n_imputations or 1, n_samples, n_features)``; zeros where one is not."""
        result = np.repeat(X[np.newaxis], n_imputations or 1, axis=0)
        missing = np.isnan(X)
        rows = np.flatnonzero((missing & ~self._is_empty).any(axis=1))
        if len(rows):
            model, known = self.estimator_, ~self._is_empty
            device = check.resolve_device(model.device)
            kept = None if self._donors is None else Donors(*(torch.from_numpy(part).to(device) for part in self._donors))
            table = Table.of(X[np.ix_(rows, known)], names=None if self._form is None else self._form.names)
            if self._form is not None:
                filled = self._fill_keys(table, n_imputations, seed)
            else:
                filled = impute(
                    model.module_,
                    table,
                    device,
                    n_draws=check.check_parameter(self, "n_draws"),
                    n_imputations=n_imputations,
                    seed=seed,
                    log_density=model._log_density(),
                    donors=kept,
                    strengths=self.locality_,
                    stretch=self._stretch,
                )
            part = result[:, rows][:, :, known]
            np.copyto(part, filled.swapaxes(0, 1), where=missing[np.ix_(rows, known)], casting="same_kind")
            result[np.ix_(np.arange(len(result)), rows, np.flatnonzero(known))] = part
        result[:, :, self._is_empty] = np.where(missing, 0.0, X)[:, self._is_empty]
        return result

    def _fill_keys(self, table: Table, n_imputations: int | None, seed: int) -> np.ndarray:
        """Complete keys of a data frame, ``(n_samples, n_imputations or 1, n_features)``."""
        model = self.estimator_
        model.module_.likelihood.check(table.source, table.name)
        given = model.module_, table, check.resolve_device(model.device)
        drawn = {"n_proposals": -(-check.check_parameter(self, "n_draws") // N_ROUNDS), "source": model._code_source()}
        if n_imputations is None:
            return average_given(*given, **drawn)[:, np.newaxis]
        rows = sample_given(*given, seed, n_samples=n_imputations, **drawn).rows
        return rows.reshape(table.n_rows, n_imputations, -1)

    def _with_indicators(self, given: Any, X: np.ndarray, filled: np.ndarray, seed: int | None = None) -> Any:
        """Drop columns that are not kept, and append indicators; `given` is what X was given as."""
        if self._form is not None:
            known = _without(given, self._is_empty)
            is_bounded = getattr(self.estimator_.likelihood, "bounds", None) == "observed"
            columns = [own for _, own in frame_columns(known)]
            missing = np.isnan(X[:, ~self._is_empty])
            frame = with_index_of(self._form.complete(columns, missing, filled[:, ~self._is_empty], is_bounded, seed), given)
            if self.indicator_ is None:
                return frame
            names = self.indicator_.get_feature_names_out(_check_feature_names_in(self))
            return add_columns(frame, dict(zip(names.tolist(), self.indicator_.transform(X).T, strict=True)))
        filled = filled if self.keep_empty_features else filled[:, ~self._is_empty]
        if self.indicator_ is None:
            return filled
        return np.hstack([filled, self.indicator_.transform(X).astype(filled.dtype)])

    # -- columns, tags ------------------------------------------------------------------------------------------------

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns that `transform` gives.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns of X; those seen in `fit` by default.

        Returns
        -------
        names : ndarray of str objects
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        kept = names if self.keep_empty_features else names[~self._is_empty]
        if self.indicator_ is None:
            return kept
        return np.concatenate([kept, self.indicator_.get_feature_names_out(names)])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = check.is_nan(self.missing_values)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "estimator_")


def _without(X: Any, is_empty: np.ndarray) -> Any:
    """Columns of an array or a data frame that are not empty."""
    if not is_frame(X):
        return np.asarray(X)[:, ~is_empty]
    return take_columns(X, np.flatnonzero(~is_empty)) if is_empty.any() else X
