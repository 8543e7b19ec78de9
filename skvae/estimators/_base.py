"""The contract that every estimator shares."""

from __future__ import annotations

import copy
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skvae import inference
from skvae._spec import Spec, is_same
from skvae.data import Table
from skvae.data.columns import SpreadError
from skvae.estimators import _validation as check
from skvae.estimators._specs import NETWORKS, SpecsMixin, resolve
from skvae.inference.anomaly import METHODS, References, Scorer, draw_references
from skvae.modules import (
    ACTIVATIONS,
    LIKELIHOODS,
    MLP,
    Conv,
    LatentModule,
    LikelihoodSpec,
    Net,
    layer_sizes,
    resolve_networks,
)
from skvae.runtime.randomness import PrivateRandomness, seed_streams
from skvae.runtime.state import load_module_state, to_plain
from skvae.training import OPTIMIZER_NAMES, DivergedError, EarlyStopping, Optimizer, Plan, Rows, train
from skvae.warnings import warn_user

_AUTO_STEPS, _AUTO_STEPS_LINEAR = 3000, 5000
_MIN_EPOCHS, _MAX_EPOCHS, _MAX_EPOCHS_LINEAR = 10, 100, 1000
_LEARNING_RATE, _LEARNING_RATE_SHALLOW = 0.002, 0.01
REMEMBERED_ROWS = 4096  # rows of earlier partial_fit calls that weigh against those of the present one
MAX_SEED = 2**31 - 1


class BaseAutoEncoder(SpecsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Everything that fits, transforms, samples and scores; children name a module and its parameters.

    A child defines `_module_class`, `_code_params` and `_module_params` for parameters of its own, `_sample_codes` and
    `score_samples`, and, where its model needs it, `_finish` (what is measured once training is over).
    """

    _module_class: ClassVar[type[LatentModule]]
    _anomaly_method: ClassVar[str] = "neighbors"  # what `score_anomaly` takes for "auto"
    _module_arguments: ClassVar[dict[str, str]] = {}  # those of the module whose parameters have other names
    _n_condition_columns = 0  # how many columns of X the model is told instead of being asked to reconstruct

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), type],
        "encoder": [MLP, Conv, Net, None],
        "decoder": [MLP, Conv, Net, None],
        "image_shape": ["array-like", None],
        "likelihood": [StrOptions(set(LIKELIHOODS)), LikelihoodSpec],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "optimizer": [StrOptions(set(OPTIMIZER_NAMES)), type, Optimizer],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean", EarlyStopping],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "callbacks": "no_validation",  # which the training loop looks at
    }

    _doc_link_module = "skvae"
    _doc_link_template = "https://skvae.readthedocs.io/en/stable/api.html#skvae.{estimator_name}"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"estimator_name": type(self).__name__}

    # -- fitting ------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, sample_weight=None):
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or X is not as it should be, or the loss stops being finite in the first epoch.
        """
        return self._fit(X, None, sample_weight, once=False)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, *, sample_weight=None):
        """Go on with one pass over some rows.

        The first call fixes the standardization of the columns. Optimizer and schedules go on where they were; schedules
        stay at their end. Changed arguments of the `optimizer` are obeyed from now on; another one starts anew.

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
        return self._fit(X, None, sample_weight, once=True)

    def _validate_params(self) -> None:
        check.check_architecture(self)
        super()._validate_params()
        self._check_specs()
        self._check_flat()
        check.check_missing_values(self)

    def _fit(self, X: Any, told: Any, sample_weight: Any, *, once: bool) -> BaseAutoEncoder:
        """Fit anew, or from the state there is; for one pass, or for a run. State changes only if all goes well.

        `told` is what a conditional model is told about the rows, in the form that `_condition` takes.
        """
        if once and self._early_stopping is not None:
            raise ValueError(
                f"partial_fit does not support early_stopping={self.early_stopping!r}: one pass has nothing to stop."
            )
        resume = hasattr(self, "module_") and (once or self.warm_start)
        with check.unchanged_on_failure(self), torch.inference_mode(False):
            device = check.resolve_device(self.device)
            goes_on = once and resume
            if resume:
                self._check_unchanged()
            X = self._check_rows(X, reset=not resume, min_rows=1 if goes_on else 2, sets_form=not goes_on)
            kept, weight = check.check_weights(sample_weight, X, self._without_use(X), min_rows=1 if goes_on else 2)
            data = self._condition(X, told, kept, weight, reset=not resume)
            self._check_fit(weight)
            if not goes_on:
                self._seed = int(check_random_state(self.random_state).randint(MAX_SEED))
                self._n_steps = self._n_passes = self._n_seen = 0
                self._optimizer_state = None
            train_index, valid_index = self._split(data.n_rows)
            if resume:
                module = copy.deepcopy(self.module_)
                module.likelihood.check(self._measured(data).X)
            else:
                module = self._build(data, train_index)
            module.to(device)
            with PrivateRandomness(self._seed):
                self._check_network(module)
                if not resume:
                    self._probe(module, data.X)
            noise_before = module.likelihood.moment.clone()
            shared = {"weight": weight, "condition": data.condition, "missing": inference.misses_entries(module, data.X)}
            rows = Rows(data.X, module.likelihood, device, index=train_index, **shared)
            valid = None
            if valid_index is not None:
                valid = Rows(data.X, module.likelihood, device, index=valid_index, **shared)
            plan = self._plan(len(rows), once=once)
            try:
                if not resume:
                    self._pretrain(module, rows, plan)
                outcome = train(module, rows, valid, plan, self._optimizer_state)
            except DivergedError:
                raise ValueError(self._divergence(data, module)) from None
            if outcome.diverged:
                warn_user(self._divergence(data, module), ConvergenceWarning)
            self.module_ = module
            self.n_components_ = module.n_components
            self._optimizer_state = outcome.optimizer_state
            self._n_steps += outcome.n_steps
            self._n_passes += 1
            self._total_steps = plan.total_steps
            if goes_on:
                outcome.history = {
                    name: np.concatenate([self.history_.get(name, np.empty(0)), values])
                    for name, values in outcome.history.items()
                }
            self.history_ = outcome.history
            self.n_iter_ = len(self.history_["loss"])
            # A stream's last few rows must not replace what many rows before them have settled.
            rate = data.n_rows / (data.n_rows + min(self._n_seen, REMEMBERED_ROWS)) if goes_on else 1.0
            try:
                self._finish(data, device, rate)
                blew_up = not np.isfinite(module.likelihood.noise_scale()).all()
            except np.linalg.LinAlgError:
                blew_up = True
            if blew_up:  # by steps so large that nothing can be computed from the weights
                raise ValueError(self._divergence(data, module))
            module.likelihood.blend_moment(noise_before, rate)
            self._remember(data, device, rate)
            self._n_seen += data.n_rows
            if not once and not outcome.diverged:
                self._check_health()
        return self

    def _condition(self, X: Any, told: Any, kept: Any, weight: np.ndarray | None, *, reset: bool) -> Table:
        """Rows that are `kept`, with what the model is told about each; models that are told nothing look at rows alone."""
        return Table(X[kept] if isinstance(kept, np.ndarray) else X, weight)

    def _without_use(self, X: Any) -> np.ndarray | None:
        """Which rows nothing can be learned from, as none of their entries is there; None if there is no such row."""
        return check.empty_rows(X) if self._module_class.takes_missing else None

    def _measured(self, data: Table) -> Table:
        """Rows as the likelihood knows them, which measures their columns."""
        return data

    def _check_rows(self, X: Any, *, reset: bool, min_rows: int = 1, sets_form: bool = False) -> Any:
        """Rows as a checked array; see `_validation.check_rows`."""
        return check.check_rows(self, X, reset=reset, min_rows=min_rows, sets_form=sets_form)

    def _check_network(self, module: LatentModule) -> None:
        """Raise what is wrong with networks of the user's own."""
        check.check_network(module, *self._networks())

    def _split(self, n_rows: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Draw the rows to train on and, with early stopping, those to hold out."""
        if self._early_stopping is None:
            return None, None
        fraction = self._early_stopping.validation_fraction
        n_valid = max(1, round(fraction * n_rows))
        if n_rows - n_valid < 2:
            raise ValueError(
                f"early_stopping with validation_fraction={fraction} of {n_rows} rows leaves {n_rows - n_valid} to train on; "
                "at least 2 are needed."
            )
        (seed,) = seed_streams(self._seed, 3, n=1)
        order = np.random.default_rng(seed).permutation(n_rows)
        return np.sort(order[n_valid:]), np.sort(order[:n_valid])

    def _build(self, data: Table, train_index: np.ndarray | None) -> LatentModule:
        """Build the module with private random weights and let its likelihood measure the columns."""
        n_features = data.X.shape[-1]
        self._spec = {"n_features": n_features, **self._architecture(n_features)}
        if self._module_class.takes_missing:
            self._spec.update(self._missing_params(data.X if train_index is None else data.X[train_index]))
        module = self._new_module()
        module.likelihood.check(self._measured(data).X)
        measured = self._measured(data if train_index is None else data.take(train_index))
        try:
            module.likelihood.fit(measured.X, measured.weight, shared=self._columns_share_a_unit)
        except SpreadError as error:
            raise error.named(partial(self._name_of_column, n_columns=n_features), "X") from None
        return module

    @property
    def _columns_share_a_unit(self) -> bool | None:
        """Whether columns are known to be measurements of one kind; None leaves it to the data."""
        return None if self.image_shape_ is None else True

    def _architecture(self, n_features: int) -> dict[str, Any]:
        """Arguments of the module."""
        return {
            **self._code_params(n_features),
            **copy.deepcopy(self._network_params()),
            "likelihood": copy.deepcopy(resolve("likelihood", self.likelihood)),
            **self._module_params(),
        }

    def _missing_params(self, X: Any) -> dict[str, Any]:
        """Arguments of the module that tell of missing entries: the columns that have any in the training rows."""
        indicated = check.check_missing(self, X)
        return {"indicated": indicated} if indicated else {}

    def _code_params(self, n_features: int) -> dict[str, Any]:
        """Parameters that decide on the size of the code."""
        return {}

    def _new_module(self) -> LatentModule:
        (seed,) = seed_streams(self._seed, 4, n=1)
        with PrivateRandomness(seed):
            return self._module_class(**self._spec).float()

    def _network_params(self) -> dict[str, Any]:
        """Parameters that decide on the networks."""
        encoder, decoder = self._networks()
        return {
            "hidden_layer_sizes": layer_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "encoder": encoder,
            "decoder": decoder,
            "image_shape": self.image_shape_,
        }

    def _networks(self) -> tuple[Any, Any]:
        """Complete specifications of encoder and decoder, or "tied" for the latter."""
        sizes = layer_sizes(self.hidden_layer_sizes)
        return resolve_networks(self.encoder, self.decoder, sizes, self.activation, self.image_shape_)

    def _module_params(self) -> dict[str, Any]:
        """Parameters of the child's module beside the shared ones."""
        return {}

    def _check_unchanged(self) -> None:
        """Raise if parameters that shape the module changed since it was built."""
        now = self._architecture(self._spec["n_features"])
        if getattr(self, "image_shape", None) is not None:
            now["image_shape"] = check.check_image_shape(self.image_shape)
        changed = self._changed(now)
        if changed:
            raise ValueError(
                f"{', '.join(changed)} changed since the model was built; warm_start and partial_fit go on with the same "
                "network. Use a clone, or fit with warm_start=False."
            )

    def _changed(self, now: dict[str, Any]) -> list[str]:
        """Parameters that differ between the arguments of a module and those that it was built by."""
        changed = []
        for name, value in now.items():
            before = self._spec[name]
            if before == value:
                continue
            if type(before) is not type(value) or not hasattr(value, "get_params"):
                changed.append(self._module_arguments.get(name, name))
                continue
            if name == "decoder" and not isinstance(self.decoder, Spec):  # which follows the encoder
                continue
            old, new = before.get_params(), value.get_params()
            differing = [key for key in {**old, **new} if not is_same(old.get(key), new.get(key))]
            changed += [f"{name}__{key}" for key in differing if key not in changed]
        return changed

    @property
    def _early_stopping(self) -> EarlyStopping | None:
        return resolve("early_stopping", self.early_stopping)

    def _plan(self, n_rows: int, *, once: bool) -> Plan:
        n_batches = -(-n_rows // self.batch_size)
        n_epochs = self._auto_epochs(n_batches) if self.max_epochs == "auto" else self.max_epochs
        normalized = [name for name in NETWORKS if getattr(self._spec[name], "normalization", None) == "batch"]
        if normalized and n_rows // n_batches < 2:
            raise ValueError(
                f"{normalized[0]}__normalization='batch' needs batches of at least 2 rows, but {n_rows} rows in batches of at "
                f"most batch_size={self.batch_size} leave some with {n_rows // n_batches}; raise batch_size or use 'layer'."
            )
        goes_on = once and self._n_passes > 0
        return Plan(
            batch_size=self.batch_size,
            n_epochs=1 if once else n_epochs,
            total_steps=self._total_steps if goes_on else n_epochs * n_batches,
            first_step=self._n_steps,
            pass_index=self._n_passes,
            learning_rate=self._learning_rate,
            optimizer=resolve("optimizer", self.optimizer),
            seed=self._seed,
            early_stopping=self._early_stopping,
            verbose=int(self.verbose),
            callbacks=check.list_callbacks(self.callbacks),
        )

    def _auto_epochs(self, n_batches: int) -> int:
        """Return the passes over the data for ``max_epochs="auto"``."""
        steps, most = (_AUTO_STEPS_LINEAR, _MAX_EPOCHS_LINEAR) if self._is_linear else (_AUTO_STEPS, _MAX_EPOCHS)
        return int(np.clip(round(steps / n_batches), _MIN_EPOCHS, most))

    @property
    def _is_linear(self) -> bool:
        return self._is_shallow

    @property
    def _is_shallow(self) -> bool:
        """Whether encoder and decoder are one layer each."""
        networks = [self._spec[name] for name in NETWORKS]
        return all(network == "tied" or (isinstance(network, MLP) and not network.hidden_layer_sizes) for network in networks)

    @property
    def _learning_rate(self) -> float:
        if self.learning_rate == "auto":
            return _LEARNING_RATE_SHALLOW if self._is_shallow else _LEARNING_RATE
        return float(self.learning_rate)

    def _divergence(self, data: Table, module: LatentModule) -> str:
        """Message about a loss that is not finite: what may have caused it and what to change."""
        X = self._measured(data).X
        largest, column = module.likelihood.largest_entry(X)
        clip_norm = resolve("optimizer", self.optimizer).clip_norm
        cause = f"learning_rate={self._learning_rate:g} may be too large; lower it or set optimizer__clip_norm (now {clip_norm})."
        if largest > 100.0:
            name = self._name_of_column(column, X.shape[1])
            cause += f" Column {name!r} has a value {largest:.3g} standard deviations from its mean: transform or clip it."
        return f"The training loss of {type(self).__name__} stopped being finite. {cause}"

    def _name_of_column(self, column: int, n_columns: int) -> Any:
        """Name in X of one of the columns that the likelihood knows, or its position where it has none."""
        names = getattr(self, "feature_names_in_", ())
        return names[column] if len(names) == n_columns else column  # frames of a sequence have no names

    def _check_fit(self, weight: np.ndarray | None) -> None:
        """Raise what can be known before training."""

    def _probe(self, module: LatentModule, X: Any) -> None:
        """Try the user's own functions on some rows and raise what would go wrong in training."""

    def _pretrain(self, module: LatentModule, rows: Rows, plan: Plan) -> None:
        """Prepare a new module before it is trained."""

    def _finish(self, data: Table, device: torch.device, rate: float) -> None:
        """Measure what the model needs once training is over; `rate` is the say that these rows have in it."""

    def _remember(self, data: Table, device: torch.device, rate: float) -> None:
        """Keep some rows for `score_anomaly` to compare others with, of a stream those of earlier calls among them."""
        (seed,) = seed_streams(self._seed, self._n_passes, 12, n=1)
        some = data.take(draw_references(data.n_rows, data.X.shape[1], seed))
        references = References.of(self._read("errors", some.X, some.condition, device), some.weight, some.condition)
        if rate < 1.0:
            X = self.module_.likelihood.rescale(torch.tensor(self._references.x))  # a copy: the memory may be read-only
            errors = self._read("errors", X, self._references.condition, device)  # as the model reconstructs them by now
            earlier = self._references._replace(error=References.of(errors, None, None).error)
            references = earlier.joined(references, rate, seed)
        self._references = references

    def _check_health(self) -> None:
        """Warn about a model that came out badly."""

    # -- codes and rows -----------------------------------------------------------------------------------------------

    def _ready(self, X: Any, *, scored: bool = False) -> tuple[Any, torch.device]:
        """Rows as a checked array, within the likelihood's range if they are scored, and the device."""
        check_is_fitted(self, "module_")
        X = self._check_rows(X, reset=False)
        if scored:
            self.module_.likelihood.check(X)
        return X, check.resolve_device(self.device)

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
        X, device = self._ready(X)
        return inference.encode(self.module_, X, device).astype(X.dtype, copy=False)

    def inverse_transform(self, Z):
        """Decode codes.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components_)
            Codes.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features_in_)
            Means of the likelihood, in the units of the training data.
        """
        check_is_fitted(self, "module_")
        Z = check.check_codes(self, Z)
        X = inference.decode(self.module_, Z, check.resolve_device(self.device))
        return self._as_images(X.astype(Z.dtype, copy=False))

    def _as_images(self, X: np.ndarray) -> np.ndarray:
        """Rows in the shape that `fit` was given."""
        return X.reshape(len(X), *self.image_shape_) if self._gives_images else X

    def reconstruct(self, X):
        """Encode and decode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        X_hat : ndarray of shape (n_samples, n_features_in_)
            What the model makes of them.
        """
        X, device = self._ready(X)
        codes = inference.encode(self.module_, X, device)
        return self._as_images(inference.decode(self.module_, codes, device).astype(X.dtype, copy=False))

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
        X : ndarray of shape (n_samples, n_features_in_)
            Rows in the units of the training data.
        """
        check_is_fitted(self, "module_")
        codes_seed, noise_seed = self._draw_seeds(n_samples, random_state, n=2)
        device = check.resolve_device(self.device)
        codes = self._sample_codes(n_samples, codes_seed)
        if mean:
            return self._as_images(inference.decode(self.module_, codes, device))
        return self._as_images(inference.draw(self.module_, codes, device, noise_seed))

    def _draw_seeds(self, n_samples: Any, random_state: Any, *, n: int) -> list[int]:
        """Seeds of the random streams behind a sample."""
        check.check_count("n_samples", n_samples)
        generator = check_random_state(self.random_state if random_state is None else random_state)
        return seed_streams(int(generator.randint(MAX_SEED)), 5, n=n)

    def _sample_codes(self, n_samples: int, seed: int) -> np.ndarray:
        """Draw what the decoder takes from the model's prior."""
        raise NotImplementedError

    # -- scores -------------------------------------------------------------------------------------------------------

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

    def score_anomaly(self, X, *, method="auto"):
        r"""Score how anomalous rows are.

        With :math:`x` a row in standardized units (as it is, with ``likelihood="bernoulli"``), :math:`r` its reconstruction and
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

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        method : {"auto", "neighbors", "mahalanobis", "reconstruction", "likelihood"}, default="auto"
            How they are scored; "auto" is "neighbors".

        Returns
        -------
        score : ndarray of shape (n_samples,)
            Higher is more anomalous.

        Notes
        -----
        Of rows with more than 512 columns, fewer references are kept, 2**19 numbers in all but no fewer than 64 rows. No more
        than a quarter of the references are drawn at a time. With weights of the training rows, references are drawn in
        proportion to these.

        References
        ----------
        .. [1] Pang, Ting and Albrecht, "LeSiNN: detecting anomalies by identifying least similar nearest neighbours", ICDM
           Workshops 2015.
        .. [2] Sugiyama and Borgwardt, "Rapid distance-based outlier detection via sampling", NIPS 2013.
        """
        name = check.check_anomaly_method(method, self._anomaly_method)
        if name == "likelihood":
            return -self.score_samples(X)
        X, device = self._ready(X, scored=True)
        return self._scorer(name, device).score(X)

    def explain_anomaly(self, X, *, method="auto"):
        """Split the anomaly score of rows into the shares of the columns.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        method : {"auto", "neighbors", "mahalanobis", "reconstruction"}, default="auto"
            How rows are scored, see `score_anomaly`. Scores by "likelihood" do not split.

        Returns
        -------
        shares : ndarray of shape (n_samples, n_features_in_)
            Not negative; sum to `score_anomaly` along each row.

        Notes
        -----
        Shares by "neighbors" and "mahalanobis" are in proportion to the drop of the score when a column takes its reconstructed
        value and the row is reconstructed anew: a wrong column that spoils the reconstruction of others is found all the same.
        This takes a reconstruction per column. Rows of more than 64 columns, and those whose score no column lowers, get the
        terms of a sum instead: the parts that their columns have in the squared distances, or the squared entries of the row,
        whitened by the symmetric root of the covariance [1]_. Shares by "reconstruction" are always the terms of the sum.

        References
        ----------
        .. [1] Garthwaite and Koch, "Evaluating the contributions of individual variables to a quadratic form", Australian & New
           Zealand Journal of Statistics 58, 2016.
        """
        name = check.check_anomaly_method(method, self._anomaly_method, splits=True)
        X, device = self._ready(X, scored=True)
        return self._as_images(self._scorer(name, device).shares(X))

    def _scorer(self, name: str, device: torch.device) -> Scorer:
        """Return the method of a name, at work on this model."""
        read, reconstruct = partial(self._read, device=device), partial(self._reconstruct_given, device=device)
        return Scorer(METHODS[name]().fit(self._references), read, reconstruct)

    def _codes_given(self, X: Any, condition: np.ndarray | None, device: torch.device) -> np.ndarray:
        """Return what the decoder takes for rows, and for what the model is told about them."""
        return inference.encode(self.module_, X, device)

    def _reconstruct_given(self, X: Any, condition: np.ndarray | None, device: torch.device) -> np.ndarray:
        return inference.decode(self.module_, self._codes_given(X, condition, device), device)

    def _read(self, entries: str, X: Any, condition: np.ndarray | None, device: torch.device) -> np.ndarray:
        """Compare rows with what is decoded from their codes, see `anomaly.Scorer`."""
        compare = {"errors": inference.errors, "deviance": inference.deviance}[entries]
        return compare(self.module_, X, self._codes_given(X, condition, device), device)

    # -- attributes ---------------------------------------------------------------------------------------------------

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
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = check.is_nan(getattr(self, "missing_values", None))
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # -- persistence: plain data and numpy arrays ---------------------------------------------------------------------

    def __getstate__(self):
        state = dict(super().__getstate__())
        if "module_" in state:
            state["module_"] = to_plain(state["module_"].state_dict())
        return state

    def __setstate__(self, state):
        weights = state.get("module_")
        super().__setstate__({name: value for name, value in state.items() if name != "module_"})
        if weights is not None:
            module = self._new_module()
            load_module_state(module, weights)
            self.module_ = module.eval()

    def __sklearn_is_fitted__(self):
        return hasattr(self, "module_")
