"""The temporal difference variational autoencoder."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted

from skvae.data import Table, is_sparse
from skvae.data.series import SCALINGS, SeriesScaling
from skvae.data.sources import as_source
from skvae.estimators import _checks as check
from skvae.estimators._base import BaseAutoEncoder
from skvae.estimators._docs import document
from skvae.estimators._fit import FitRun
from skvae.estimators._sequences import MIN_TIMESTEPS, check_sequences, columns_of_rows, holds_rows
from skvae.estimators._series import BeliefState, Given, SeriesMixin, in_data_units
from skvae.estimators._specs import as_argument
from skvae.inference import sequences
from skvae.modules import CELLS, MLP, Recurrent, TDVAEModule, layer_sizes, resolve_recurrent
from skvae.runtime.randomness import Stream

_AUTO_STEPS, _MIN_EPOCHS = 2000, 10
_EPOCHS_PER_STEP, _FEW_EPOCHS, _MAX_EPOCHS = 10, 100, 400  # longer sequences have more pairs to be seen
_LEARNING_RATE = 0.006
_AUTO_GAP = 20
_NOISE_ROWS, _USAGE_ROWS = 512, 256
_FORECAST_DRAWS = 32


@document
class TDVAE(SeriesMixin, BaseAutoEncoder):
    r"""Temporal difference variational autoencoder: beliefs about the state of sequences, which jump ahead in time [1]_.

    A recurrent network reads sequences and holds a belief about the hidden state behind them. A transition jumps from
    states to states several steps later, without rolling through the steps between. All of it is learned from pairs of
    steps. `transform` gives the belief after the last step; `forecast` jumps ahead; `rollout` and `sample` go step by
    step; `update_belief` reads one frame more.

    X has the shape ``(n_sequences, n_timesteps, n_features)``, with NaN behind the end of shorter sequences, or is a list
    of arrays ``(n_timesteps, n_features)``. Rows are taken, too, so that sequences pass through scikit-learn's tools:
    flattened, with `n_timesteps` given, or univariate with one column a step. What has the shape of X comes back in it. One
    long series is cut into windows first, see :func:`~skvae.sliding_windows`.

    Parameters
    ----------
    n_components : int, default=64
        Size of the belief, which is the width of the recurrent network.
    n_timesteps : int or None, default=None
        Steps of the sequences that the rows of a two-dimensional X are; None takes every column for a step. Where it is given,
        `fit` does not ask about shapes of X that can be read in two ways.
    scaling : {"mean", "standard"} or None, default=None
        Scale of its own for every sequence and feature, found from its steps alone, for sequences that are alike but for it:
        "mean" divides by the mean magnitude, "standard" subtracts the mean and divides by the standard deviation. Results are in
        the units of X all the same. None measures columns over all sequences.
    n_latents : int, default=8
        Size of the state, in each of its layers.
    n_latent_layers : int, default=1
        Layers of the state, each conditioned on those above.
    max_gap : int or "auto", default="auto"
        Longest jump, in steps; "auto" is half the longest sequence, but at most 20. Longer horizons take several jumps.
    n_pairs : int, default=16
        Pairs of steps per sequence and training step.
    one_step_fraction : float, default=0.5
        Fraction of the pairs that are neighbors; the gaps of the others are uniform up to `max_gap`.
    beta : float, default=1.0
        Weight of what the state costs; 1 gives the bound.
    kl_warmup : float, default=0.8
        Fraction of the run over which that weight grows, from a hundredth.
    auxiliary : float, default=1.0
        Weight to begin with of the error that the means of belief, jump and decoder make; it fades over the run.
    hidden_layer_sizes : array-like of int, default=(64,)
        Widths of the hidden layers of belief, smoothing, transition and decoder, each of which bends a linear map. Empty
        for the linear maps alone.
    encoder : {"gru", "lstm"} or Recurrent, default="lstm"
        The recurrent network: its kind, or all about it, see :class:`~skvae.Recurrent`.
    decoder : MLP or None, default=None
        Specification of the perceptrons, of which the decoder is one, see :class:`~skvae.MLP`: their dropout and
        normalization. Widths are those of the decoder, in whose reverse the others are built.
    %(architecture)s
    learning_rate : float or "auto", default="auto"
        Step size of the optimizer at the start; "auto" is 0.006.
    batch_size : int, default=48
        Largest number of sequences a step sees.
    max_epochs : int or "auto", default="auto"
        Passes over the data; "auto" aims at 2,000 steps, in at least 10 and at most 100 to 400 passes: ten for every step of
        the longest sequence.
    %(training)s

    Attributes
    ----------
    n_timesteps_ : int
        Steps of the longest sequence in training; with `partial_fit`, of those of the first call.
    noise_scale_ : ndarray of shape (n_step_features_,)
        Scale of the likelihood's noise of every feature, in the units of X; with `scaling`, in those of a sequence's own scale.
    n_step_features_ : int
        Columns of a frame.
    max_gap_ : int
        Longest jump.
    n_active_units_ : int
        Numbers in the state whose mean varies over training steps, with a standard deviation above that of the belief's
        own uncertainty divided by 10.
    %(fitted)s

    See Also
    --------
    VAETransformer : For rows without an order.

    References
    ----------
    .. [1] Gregor et al., "Temporal difference variational auto-encoder", ICLR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import TDVAE
    >>> rng = np.random.default_rng(0)
    >>> phase = rng.uniform(0, 6.28, size=(40, 1)) + 0.4 * np.arange(30)
    >>> X = np.stack([np.sin(phase), np.cos(phase)], axis=2)
    >>> model = TDVAE(n_components=16, max_epochs=20, random_state=0).fit(X)
    >>> model.transform(X).shape, model.forecast(X, horizon=5).shape
    ((40, 16), (40, 2))
    >>> model.rollout(X, 4, n_futures=3).shape, model.sample(2).shape
    ((40, 3, 4, 2), (2, 30, 2))
    """

    _module_class = TDVAEModule
    _private_state = (*BaseAutoEncoder._private_state, "_gives_rows", "_n_columns", "_series")
    _unfitted: ClassVar[set[str]] = {"image_shape_"}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{name: constraint for name, constraint in BaseAutoEncoder._parameter_constraints.items() if name != "image_shape"},
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "n_timesteps": [Interval(Integral, MIN_TIMESTEPS, None, closed="left"), None],
        "scaling": [StrOptions(set(SCALINGS)), None],
        "n_latents": [Interval(Integral, 1, None, closed="left")],
        "n_latent_layers": [Interval(Integral, 1, None, closed="left")],
        "encoder": [StrOptions(set(CELLS)), Recurrent],
        "decoder": [MLP, None],
        "max_gap": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_pairs": [Interval(Integral, 1, None, closed="left")],
        "one_step_fraction": [Interval(Real, 0, 1, closed="both")],
        "beta": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "auxiliary": [Interval(Real, 0, None, closed="left")],
        "n_score_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components=64,
        *,
        n_timesteps=None,
        scaling=None,
        n_latents=8,
        n_latent_layers=1,
        max_gap="auto",
        n_pairs=16,
        one_step_fraction=0.5,
        beta=1.0,
        kl_warmup=0.8,
        auxiliary=1.0,
        hidden_layer_sizes=(64,),
        activation="relu",
        encoder="lstm",
        decoder=None,
        likelihood="gaussian",
        learning_rate="auto",
        batch_size=48,
        max_epochs="auto",
        optimizer="adam",
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
        self.n_timesteps = n_timesteps
        self.scaling = scaling
        self.n_latents = n_latents
        self.n_latent_layers = n_latent_layers
        self.max_gap = max_gap
        self.n_pairs = n_pairs
        self.one_step_fraction = one_step_fraction
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.auxiliary = auxiliary
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.optimizer = optimizer
        self.early_stopping = early_stopping
        self.n_score_draws = n_score_draws
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks

    # -- fitting ------------------------------------------------------------------------------------------------------

    def _check_rows(self, X: Any, *, reset: bool, min_rows: int = 1, sets_form: bool = False, weight: Any = None) -> np.ndarray:
        if sets_form:
            self._gives_rows = holds_rows(X)
        return check_sequences(self, X, reset=reset, min_rows=min_rows)

    def _make_table(self, run: FitRun, kept: Any, weight: np.ndarray | None) -> tuple[Table, dict[str, Any]]:
        """Sequences that are kept, as long as the longest of them; rows keep their number of columns."""
        table, noted = super()._make_table(run, kept, weight)
        X = table.source.read(slice(None))
        longest = int((~np.isnan(X[..., 0])).sum(axis=1).max())
        if not run.resumes:
            noted["n_timesteps_"] = X.shape[1] if self._gives_rows else longest
        X = X[:, :longest]
        if self.scaling is not None:
            series = self._series.extended(X, table.weight) if run.resumes else SeriesScaling.of(X, table.weight, self.scaling)
            noted["_series"], X = series, series.measure(X).apply(X)
        return replace(table, source=as_source(X)), noted

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        longest = self.n_timesteps_ - 1
        self._check_scaling()
        if self.max_gap != "auto" and self.max_gap > longest:
            raise ValueError(
                f"max_gap={self.max_gap} is longer than the longest sequence, which has {self.n_timesteps_} steps; "
                f"at most {longest} fits."
            )
        gap = max(1, min(_AUTO_GAP, self.n_timesteps_ // 2)) if self.max_gap == "auto" else self.max_gap
        whole = ("n_components", "n_latents", "n_latent_layers", "n_pairs")
        real = ("one_step_fraction", "beta", "kl_warmup", "auxiliary")
        return {
            **super()._module_arguments(n_features),
            "encoder": as_argument("encoder", self.encoder),
            "n_timesteps": self.n_timesteps_,
            "max_gap": int(gap),
            "scaling": self.scaling,
            **{name: int(getattr(self, name)) for name in whole},
            **{name: float(getattr(self, name)) for name in real},
        }

    def _networks(self) -> tuple[Recurrent, MLP]:
        return resolve_recurrent(self.encoder, self.decoder, layer_sizes(self.hidden_layer_sizes), self.activation)

    def _auto_training(self, n_batches: int, batch_size: int) -> tuple[int, float]:
        most = np.clip(_EPOCHS_PER_STEP * self.n_timesteps_, _FEW_EPOCHS, _MAX_EPOCHS)
        return int(np.clip(round(_AUTO_STEPS / n_batches), _MIN_EPOCHS, most)), _LEARNING_RATE

    def _measure(self, run: FitRun) -> dict[str, Any]:
        """Fit the noise and count what the state carries."""
        X, seed = run.table.source.read(slice(None)), run.progress.stream(Stream.MEASUREMENT)
        sequences.fit_noise(run.module, X, run.table.weight, run.device, seed, max_rows=_NOISE_ROWS)
        n_active = sequences.n_active_units(run.module, X, run.device, max_rows=_USAGE_ROWS)
        return {"max_gap_": run.module.max_gap, "n_active_units_": n_active}

    def _concerns(self, run: FitRun) -> list[str]:
        return [*self._drowned(run), *self._collapsed()]

    def _collapsed(self) -> list[str]:
        if self.n_active_units_:
            return []
        return [
            f"The state of {type(self).__name__} has collapsed: beliefs about it hardly differ between steps. Raise "
            f"kl_warmup (now {self.kl_warmup:g}), auxiliary (now {self.auxiliary:g}) or max_epochs (now {self.max_epochs!r}, "
            f"{self.n_iter_} passes), or lower beta (now {self.beta:g})."
        ]

    # -- beliefs ------------------------------------------------------------------------------------------------------

    def transform(self, X):
        """Read sequences.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        Z : ndarray of shape (n_sequences, n_components_)
            Beliefs after the last step.
        """
        given = self._ready(X)
        return self._last_beliefs(given).astype(given.dtype, copy=False)

    def _last_beliefs(self, given: Given) -> np.ndarray:
        last = (~np.isnan(given.X[..., 0])).sum(axis=1) - 1
        return sequences.beliefs(self.module_, given.X, given.device)[np.arange(len(last)), last]

    def beliefs(self, X):
        """Read sequences and return what is believed after every step.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        beliefs : ndarray of shape (n_sequences, n_timesteps, n_components_)
            NaN behind the end of a sequence.
        """
        given = self._ready(X)
        return sequences.beliefs(self.module_, given.X, given.device).astype(given.dtype, copy=False)

    def update_belief(self, x, state=None):
        """Read one frame more of every sequence, without reading the sequences again.

        With `scaling`, what a sequence is measured in moves with every frame: those so far are kept, and read again.

        Parameters
        ----------
        x : array-like of shape (n_sequences, n_step_features_) or, for univariate sequences, (n_sequences,)
            The next frames, in the units of the training data.
        state : BeliefState or None, default=None
            What this method returned for the frames before; None for the first ones.

        Returns
        -------
        state : BeliefState
            Its `belief`, of shape (n_sequences, n_components_), is that of `transform` for the frames so far.

        Raises
        ------
        ValueError
            If the frames do not fit the model or the state.

        Examples
        --------
        >>> import numpy as np
        >>> from skvae import TDVAE
        >>> X = np.sin(np.arange(20) * 0.4 + np.arange(30)[:, None])
        >>> model = TDVAE(n_components=8, max_epochs=5, random_state=0).fit(X)
        >>> state = None
        >>> for x in X.T:
        ...     state = model.update_belief(x, state)
        >>> bool(np.allclose(state.belief, model.transform(X), atol=1e-5))
        True
        >>> model.forecast_beliefs(state.belief, horizon=3).shape
        (30, 1)
        """
        check_is_fitted(self, "module_")
        x = x if is_sparse(x) else np.asarray(x)
        if x.ndim == 1 and self.n_step_features_ == 1:
            x = x[:, np.newaxis]
        x = check_array(x, dtype=[np.float64, np.float32], input_name="x", estimator=self)
        if x.shape[1] != self.n_step_features_:
            raise ValueError(
                f"x has {x.shape[1]} features, but {type(self).__name__} was fitted on frames of {self.n_step_features_}."
            )
        if state is not None and not isinstance(state, BeliefState):
            raise ValueError(f"state must be what update_belief returned, or None, but is of type {type(state).__name__}.")
        if state is not None and len(state.belief) != len(x):
            raise ValueError(f"state is about {len(state.belief)} sequences, but x has frames of {len(x)}.")
        if state is not None:
            self._check_origin(state)
        memory = None if state is None else state.memory
        if self._series is not None:
            return self._reread(x, memory)
        if memory is not None and [part.shape for part in memory] != self.module_.memory_shapes(len(x)):
            raise ValueError(f"state comes from another model: what it remembers does not fit this {type(self).__name__}.")
        belief, memory = sequences.update(self.module_, x, memory, check.resolve_device(self.device))
        return BeliefState(belief.astype(x.dtype, copy=False), memory, n_features=x.shape[1])

    # -- frames -------------------------------------------------------------------------------------------------------

    def inverse_transform(self, Z, *, scale=None):
        """Decode beliefs.

        Parameters
        ----------
        Z : array-like of shape (n_sequences, n_components_)
            Beliefs.
        scale : SeriesScale or None, default=None
            With `scaling`, what the sequences are measured in, which a belief does not tell: what `series_scale` returns.

        Returns
        -------
        X : ndarray of shape (n_sequences, n_step_features_)
            The frames that they have seen last, in the units of the training data.

        Raises
        ------
        ValueError
            If `scale` is missing, or does not fit.
        """
        check_is_fitted(self, "module_")
        Z = check.check_codes(self, Z)
        scale = self._scale_of(scale, len(Z))
        frames = sequences.present_frames(self.module_, Z, check.resolve_device(self.device))
        return in_data_units(frames, scale).astype(Z.dtype, copy=False)

    def reconstruct(self, X):
        """Decode what is believed after every step.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        X_hat : ndarray of the shape of X
            What the model makes of every frame; NaN behind the end of a sequence.
        """
        check_is_fitted(self, "module_")
        is_rows = holds_rows(X, columns_of_rows(self))
        given = self._ready(X)
        present = ~np.isnan(given.X[..., 0])
        believed = sequences.beliefs(self.module_, given.X, given.device)[present]
        frames = np.full(given.X.shape, np.nan)
        frames[present] = sequences.present_frames(self.module_, believed, given.device)
        return self._as_given(given.back(frames), is_rows)

    @staticmethod
    def _as_given(X: np.ndarray, is_rows: bool) -> np.ndarray:
        return X.reshape(len(X), -1) if is_rows else X

    def forecast(self, X, horizon=1, *, n_draws=_FORECAST_DRAWS):
        """Foresee a frame by jumping there.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.
        horizon : int or array-like of int, default=1
            How many steps behind the last one. A horizon of more than `max_gap_` steps takes several jumps.
        n_draws : int, default=32
            Draws of the state that are averaged. One has about twice the error.

        Returns
        -------
        frames : ndarray of shape (n_sequences, n_step_features_) or (n_sequences, n_horizons, n_step_features_)
            Expected frames, the latter for several horizons.

        Raises
        ------
        ValueError
            If a horizon is less than a step.
        """
        given = self._ready(X)
        return given.back(self._forecast(self._last_beliefs(given), horizon, n_draws))

    def forecast_beliefs(self, Z, horizon=1, *, n_draws=_FORECAST_DRAWS, scale=None):
        """Foresee a frame from what is believed, such as the belief of `update_belief` or of one step of `beliefs`.

        Parameters
        ----------
        Z : array-like of shape (n_sequences, n_components_)
            Beliefs.
        horizon : int or array-like of int, default=1
            How many steps later.
        n_draws : int, default=32
            Draws of the state that are averaged.
        scale : SeriesScale or None, default=None
            With `scaling`, what the sequences are measured in, which a belief does not tell: the `scale` of what `update_belief`
            returned, or what `series_scale` returns for the sequences.

        Returns
        -------
        frames : ndarray of shape (n_sequences, n_step_features_) or (n_sequences, n_horizons, n_step_features_)
            Expected frames, the latter for several horizons.

        Raises
        ------
        ValueError
            If a horizon is less than a step, or `scale` is missing or does not fit.
        """
        check_is_fitted(self, "module_")
        Z = check.check_codes(self, Z)
        scale = self._scale_of(scale, len(Z))
        return in_data_units(self._forecast(Z, horizon, n_draws), scale).astype(Z.dtype, copy=False)

    def _forecast(self, Z: np.ndarray, horizon: Any, n_draws: Any) -> np.ndarray:
        n_draws = check.check_count("n_draws", n_draws)
        device = check.resolve_device(self.device)
        several = np.ndim(horizon) > 0
        horizons = [check.check_count("horizon", h) for h in (list(horizon) if several else [horizon])]
        if not horizons:
            raise ValueError("horizon is empty; it takes integers of at least 1.")
        frames = [sequences.forecasts(self.module_, Z, h, n_draws, device) for h in horizons]
        return np.stack(frames, axis=1) if several else frames[0]

    def rollout(self, X, n_steps=1, *, n_futures=1, mean=False, random_state=None):
        """Draw futures, step by step.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.
        n_steps : int, default=1
            Steps behind the last one.
        n_futures : int, default=1
            Futures of each sequence.
        mean : bool, default=False
            Return the decoder's means, without the likelihood's noise.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        frames : ndarray of shape (n_sequences, n_futures, n_steps, n_step_features_)
            What may follow.
        """
        check.check_flags(mean=mean)
        given = self._ready(X)
        n_steps, n_futures = check.check_count("n_steps", n_steps), check.check_count("n_futures", n_futures)
        (seed,) = self._draw_seeds(len(given.X), random_state, n=1)
        Z = self._last_beliefs(given)
        return given.back(sequences.futures(self.module_, Z, n_steps, n_futures, seed, given.device, mean=mean))

    def sample(self, n_samples=1, *, given=None, n_timesteps=None, mean=False, random_state=None):
        """Draw new sequences, from their first step on.

        Parameters
        ----------
        n_samples : int, default=1
            Number of sequences.
        given : None
            Not taken: `rollout` goes on from steps that are known; anything else is a ValueError.
        n_timesteps : int or None, default=None
            Their length; that of the longest one in training by default.
        mean : bool, default=False
            Return the decoder's means, without the likelihood's noise.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        X : ndarray of shape (n_samples, n_timesteps, n_step_features_)
            Sequences in the units of the training data, with `scaling` in scales of some from training; flattened where `fit` was
            given rows, and `n_timesteps` is that of these.
        """
        check.check_flags(mean=mean)
        check.refuse_given(self, given, "it draws sequences from their first step on; rollout goes on from steps that are known")
        check_is_fitted(self, "module_")
        n_timesteps = self.n_timesteps_ if n_timesteps is None else check.check_count("n_timesteps", n_timesteps)
        (seed,) = self._draw_seeds(n_samples, random_state, n=1)
        nothing = np.zeros((n_samples, self.n_components_), dtype=np.float32)
        device = check.resolve_device(self.device)
        drawn = sequences.futures(self.module_, nothing, n_timesteps, 1, seed, device, mean=mean)[:, 0]
        drawn = in_data_units(drawn, None if self._series is None else self._series.draw(n_samples, seed))
        return self._as_given(drawn, self._gives_rows and n_timesteps == self.n_timesteps_)

    # -- scores -------------------------------------------------------------------------------------------------------

    def score_samples(self, X):
        """Estimate the log-likelihood of sequences, frame by frame given those before, by importance sampling.

        The estimate is a lower bound on average, and grows with `n_score_draws`.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        log_likelihood : ndarray of shape (n_sequences,)
            Nats per sequence, of the density in the units of X; higher is more normal. With `scaling`, of the density given the
            scale of the sequence, which is read off all of its steps: such scores compare among each other.
        """
        given = self._ready(X, scored=True)
        scores = sequences.log_likelihood(self.module_, given.X, check.check_parameter(self, "n_score_draws"), given.device)
        if given.scale is not None:
            scores -= (~np.isnan(given.X[..., 0])).sum(axis=1) * np.log(given.scale.scale).sum(axis=1)
        return scores

    def score_anomaly(self, X):
        """Score how far frames lie from what those before them foretell.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        score : ndarray of shape (n_sequences,)
            Mean over the steps of `score_anomaly_steps`. Higher is more anomalous.
        """
        return np.nanmean(self.score_anomaly_steps(X), axis=1)

    def score_anomaly_steps(self, X):
        """Score how far every frame lies from what those before it foretell.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        score : ndarray of shape (n_sequences, n_timesteps)
            Nats by which the likelihood of a frame falls short of the best possible, under a prediction that is summed up by its
            mean and variance: for a Gaussian, squared deviations over twice the variance. NaN behind the end of a sequence.
        """
        given = self._ready(X, scored=True)
        return sequences.step_deviance(self.module_, given.X, _FORECAST_DRAWS, given.device).sum(axis=2)

    def explain_anomaly(self, X):
        """Split the anomaly score of sequences into the shares of their entries.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_timesteps, n_features) or (n_sequences, n_columns), or list of ndarray
            Sequences in the units of the training data.

        Returns
        -------
        shares : ndarray of the shape of X
            Sum to `score_anomaly` over the steps and features of a sequence; NaN behind its end.
        """
        check_is_fitted(self, "module_")
        is_rows = holds_rows(X, columns_of_rows(self))
        given = self._ready(X, scored=True)
        shares = sequences.step_deviance(self.module_, given.X, _FORECAST_DRAWS, given.device)
        shares /= (~np.isnan(given.X[..., 0])).sum(axis=1)[:, np.newaxis, np.newaxis]
        return self._as_given(shares, is_rows)

    def _ready(self, X: Any, *, scored: bool = False) -> Given:
        check_is_fitted(self, "module_")
        X = self._check_rows(X, reset=False)
        dtype, scale = X.dtype, None
        if self._series is not None:
            scale = self._series.measure(X)
            X = scale.apply(X)
        if scored:
            self.module_.likelihood.check(Table.of(X).entries().source)
        return Given(X, dtype, scale, check.resolve_device(self.device))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
