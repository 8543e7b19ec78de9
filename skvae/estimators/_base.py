"""The contract that every estimator shares."""

from __future__ import annotations

import copy
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skvae.data import Table
from skvae.data.frames import FrameForm
from skvae.estimators import _checks as check
from skvae.estimators._docs import DocumentedMixin
from skvae.estimators._fit import MAX_SEED, FitRun, Progress, build_module
from skvae.estimators._held_out import HeldOut
from skvae.estimators._specs import NETWORKS, SpecsMixin, as_argument, likelihood_of
from skvae.modules import (
    ACTIVATIONS,
    LIKELIHOODS,
    MLP,
    Conv,
    DefaultNet,
    LatentModule,
    LikelihoodSpec,
    Mixed,
    Net,
    layer_sizes,
    resolve_networks,
)
from skvae.runtime.precision import PRECISIONS, single_precision
from skvae.runtime.randomness import Stream, seed_streams
from skvae.runtime.state import load_module_state, to_plain
from skvae.runtime.threads import patient_threads
from skvae.training import OPTIMIZER_NAMES, EarlyStopping, Optimizer, Plan, Rows

AUTO_STEPS, _AUTO_STEPS_LINEAR = 3000, 5000
MIN_EPOCHS, _MAX_EPOCHS, _MAX_EPOCHS_LINEAR = 10, 100, 1000
LEARNING_RATE, _LEARNING_RATE_SHALLOW = 0.002, 0.01

# Constraints of estimators that take numbers alone, and of those that take columns of different kinds, too.
OF_NUMBERS = {"likelihood": [StrOptions(set(LIKELIHOODS) - {Mixed.name}), LikelihoodSpec], "missing_values": check.MISSING_VALUES}
OF_FRAMES = {"likelihood": [StrOptions(set(LIKELIHOODS)), LikelihoodSpec, dict], "missing_values": check.AUTO_MISSING}


class BaseAutoEncoder(DocumentedMixin, SpecsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Everything that fits; children name a module, its parameters, and what is measured of it.

    A fit calls six methods that a child may override, each of which returns what it found: `_make_table`, `_module_arguments`,
    `_auto_training`, `_prepare`, `_measure` and `_concerns`. They are called on a draft of the estimator, see `FitRun`.
    """

    _module_class: ClassVar[type[LatentModule]]
    _argument_names: ClassVar[dict[str, str]] = {}  # parameters behind the module's arguments that have other names
    _code_size: Any = 0  # size of the code of images, where it is one vector
    _keeps_rows = False  # whether some training rows are kept, for others to be compared with
    _takes_frames = False  # whether columns of data frames may be of different kinds
    _private_state: ClassVar[tuple[str, ...]] = ("_progress", "_arguments", "_frame_form", "_column_names", "_beyond")
    _frame_form: FrameForm | None = None  # of the frame that was fitted, where they are
    _column_names: list[Any] | None = None  # of a frame of numbers, where scikit-learn keeps none: they are no strings
    _beyond: tuple[Any, ...] = ()  # names of its columns that later rows had values in which the model cannot learn
    _progress: Progress
    _arguments: dict[str, Any]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), type],
        "encoder": [MLP, Conv, Net, DefaultNet, None],
        "decoder": [MLP, Conv, Net, DefaultNet, None],
        "image_shape": ["array-like", None],
        "likelihood": OF_NUMBERS["likelihood"],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "optimizer": [StrOptions(set(OPTIMIZER_NAMES)), type, Optimizer],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean", EarlyStopping],
        "warm_start": ["boolean"],
        "device": [str],
        "precision": [StrOptions(set(PRECISIONS))],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "callbacks": "no_validation",  # which the training loop looks at
    }

    # -- fitting ------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, sample_weight=None, validation_data=None, groups=None):
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.
        validation_data : {array-like, sparse matrix} or tuple (X_val, y_val), default=None
            Rows that early stopping looks at, in place of some that are held out of X; what is passed as `y` beside them is
            ignored, as `y` is. They are not
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
            If a parameter or X is not as it should be, or the loss stops being finite in the first epoch.
        """
        held_out = HeldOut.of(validation_data, groups, lambda X, y: {})
        return self._fit(X, sample_weight, single_pass=False, held_out=held_out)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, *, sample_weight=None):
        """Go on with one pass over some rows.

        The first call fixes the standardization of the columns; one that is constant there is measured by the first call in
        which it is not. Optimizer and schedules go on where they were; schedules stay at their end. Changed arguments of the
        `optimizer` are obeyed from now on; another one starts anew, and so does one that gathers other numbers than before, as
        with ``amsgrad`` or `momentum`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : object
            The fitted estimator.
        """
        return self._fit(X, sample_weight, single_pass=True)

    def _validate_params(self) -> None:
        check.check_architecture(self)
        super()._validate_params()
        self._check_specs()
        self._check_flat()
        check.check_missing_values(self)
        check.check_likelihood(self)

    def _fit(self, X: Any, sample_weight: Any, *, single_pass: bool, held_out: HeldOut | None = None, **side: Any) -> Self:
        """Fit, and take over what was found once all has gone well; `side` is what else was given about the rows, by name."""
        with torch.inference_mode(False), single_precision(), patient_threads():
            run = FitRun(self, single_pass=single_pass, callbacks=check.list_callbacks(self.callbacks))
            fitted = run.run(X, sample_weight, held_out or HeldOut(), **side)
        vars(self).clear()
        vars(self).update(fitted)
        return self

    # -- what a fit asks for ------------------------------------------------------------------------------------------

    @property
    def _drops_empty_rows(self) -> bool:
        """Whether rows without any entry are left out, as nothing can be learned from them."""
        return self._module_class.takes_missing

    def _make_table(self, run: FitRun, kept: Any, weight: np.ndarray | None) -> tuple[Table, dict[str, Any]]:
        """Make the table to learn from, of the `run.rows` that are kept and their weights, and find what else is to be noted.

        A child that is given more about the rows takes it as keyword arguments.
        """
        rows = run.rows if isinstance(kept, slice) else run.rows.take(kept)
        return replace(rows, weight=weight, names=check.column_names(self, rows.n_features)), {}

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        """Arguments of the module that follow from the parameters, which are checked for what does not go together."""
        encoder, decoder = self._networks()
        return {
            "hidden_layer_sizes": layer_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "encoder": copy.deepcopy(encoder),
            "decoder": copy.deepcopy(decoder),
            "likelihood": as_argument("likelihood", likelihood_of(self.likelihood, self._frame_form)),
        }

    def _networks(self) -> tuple[Any, Any]:
        """Complete specifications of encoder and decoder, or "tied" for the latter."""
        sizes = layer_sizes(self.hidden_layer_sizes)
        image_shape = getattr(self, "image_shape_", None)
        return resolve_networks(self.encoder, self.decoder, sizes, self.activation, image_shape, self._code_size)

    def _auto_training(self, n_batches: int, batch_size: int) -> tuple[int, float]:
        """Return the passes over so many batches of so many rows, and the learning rate, for parameters that are "auto"."""
        is_shallow = self._is_shallow
        steps, most = (_AUTO_STEPS_LINEAR, _MAX_EPOCHS_LINEAR) if self._is_linear else (AUTO_STEPS, _MAX_EPOCHS)
        n_epochs = int(np.clip(round(steps / n_batches), MIN_EPOCHS, most))
        return n_epochs, _LEARNING_RATE_SHALLOW if is_shallow else LEARNING_RATE

    @property
    def _is_shallow(self) -> bool:
        """Whether encoder and decoder are one layer each."""
        networks = [self._arguments[name] for name in NETWORKS]
        return all(network == "tied" or (isinstance(network, MLP) and not network.hidden_layer_sizes) for network in networks)

    @property
    def _is_linear(self) -> bool:
        return self._is_shallow

    def _prepare(self, run: FitRun, rows: Rows, plan: Plan) -> dict[str, Any]:
        """Prepare `run.module` and the rows before training, and return what `_measure` and `_concerns` need later."""
        return {}

    def _measure(self, run: FitRun) -> dict[str, Any]:
        """Measure what the model needs once `run.module` is trained, and return fitted attributes."""
        return {}

    def _concerns(self, run: FitRun) -> list[str]:
        """Return warnings about a model that came out badly."""
        return []

    # -- rows, scores and attributes ----------------------------------------------------------------------------------

    def _check_rows(self, X: Any, *, reset: bool, min_rows: int = 1, sets_form: bool = False, weight: Any = None) -> Any:
        """Rows as a checked array; see `check_rows`."""
        return check.check_rows(self, X, reset=reset, min_rows=min_rows, sets_form=sets_form, weight=weight)

    def _draw_seeds(self, n_samples: Any, random_state: Any, *, n: int) -> list[int]:
        """Seeds of the random streams behind a sample."""
        check.check_count("n_samples", n_samples)
        generator = check_random_state(self.random_state if random_state is None else random_state)
        return seed_streams(int(generator.randint(MAX_SEED)), Stream.SAMPLE, n=n)

    def score(self, X, y=None, sample_weight=None):
        """Mean log-likelihood of rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            Nats per row; higher is better. Comparable between models of any size and kind on the same rows.
        """
        scores = self.score_samples(X)
        return float(np.average(scores, weights=check.check_score_weights(sample_weight, scores)))

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    @property
    def loss_curve_(self):
        """Training loss per epoch."""
        check_is_fitted(self, "module_")
        return self.history_["loss"].tolist()

    @property
    def n_parameters_(self):
        """Number of weights that are trained by gradient."""
        check_is_fitted(self, "module_")
        return sum(weight.numel() for weight in self.module_.parameters())

    @property
    def noise_scale_(self):
        """Scale of the likelihood's noise, in the units of X."""
        check_is_fitted(self, "module_")
        return self.module_.likelihood.noise_scale()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = check.is_nan(getattr(self, "missing_values", None))
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # -- persistence: plain data and numpy arrays ---------------------------------------------------------------------

    def __getstate__(self):
        state = dict(super().__getstate__())
        if "module_" in state:
            state["module_"] = to_plain(state["module_"].state_dict())
            state["_progress"] = state["_progress"].as_plain()
        return state

    def __setstate__(self, state):
        weights = state.get("module_")
        super().__setstate__({name: value for name, value in state.items() if name != "module_"})
        if weights is not None:
            self._progress = Progress(*self._progress)
            with single_precision():
                module = build_module(self._module_class, self._arguments, self._progress)
                load_module_state(module, weights)
            self.module_ = module.eval()

    def __sklearn_is_fitted__(self):
        return hasattr(self, "module_")
