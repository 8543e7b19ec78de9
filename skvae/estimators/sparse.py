"""The sparse autoencoder."""

from __future__ import annotations

from math import floor
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils._param_validation import Interval, StrOptions

from skvae import inference
from skvae.data.sources import row_blocks
from skvae.estimators import _checks as check
from skvae.estimators._continuous import ContinuousAutoEncoder
from skvae.estimators._density import ActivityDensity, code_moments
from skvae.estimators._docs import document
from skvae.estimators._fit import FitRun
from skvae.estimators._specs import resolve
from skvae.estimators.autoencoder import NOISE_ROWS
from skvae.modules import PENALTIES, BatchTopK, SparseModule, TopK
from skvae.runtime.randomness import Stream

_MOST_COMPONENTS = 1024  # of the automatic size of the code
_DENSITY_NUMBERS = 2**24  # activations that the density of the codes is measured on
_QUANTILE_NUMBERS = 2**24  # responses that the threshold of "batch_top_k" is measured on
_MANY_DEAD = 0.5


@document
class SparseAE(ContinuousAutoEncoder):
    r"""Sparse autoencoder: a wide code of which few units are active in a row.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Number of units; "auto" is twice the number of columns, but at most 1,024.
    penalty : {"kl", "l1", "top_k", "batch_top_k"}, TopK or BatchTopK, default="kl"
        What keeps units quiet:

        - "kl": sigmoid units, whose mean activations are pulled to `target_activation`;
        - "l1": rectified units, whose activations are penalized in proportion;
        - "top_k": linear units, of which the `k` largest of each row are kept [1]_;
        - "batch_top_k": linear units, of which the largest of a batch are kept, `k` a row on average [2]_; in use, those
          above a threshold, so that a row's code does not depend on its neighbors.

        The last two stand for :class:`~skvae.TopK` and :class:`~skvae.BatchTopK`, which say how `k` falls in training.
    sparsity_weight : float or "auto", default="auto"
        Weight of the penalty, in nats of reconstruction error per row; "auto" is 0.3 times the number of columns for "kl", and
        one half for "l1". Counts with "kl" and "l1".
    target_activation : float, default=0.05
        Mean activation of units, between 0 and 1. Counts with "kl".
    k : int or "auto", default="auto"
        Units kept per row; "auto" is a twentieth of them. Counts with "top_k" and "batch_top_k"; with any penalty, revival
        draws on four times `k` dead units per row.
    revival_weight : float, default=0.0
        Above 0, units that have not been active for 100 steps learn to reconstruct what the others leave [3]_, with this
        weight; 1/32 is usual. Counts with every penalty.
    sparse_output : bool, default=False
        Have `transform` return a CSR matrix. Counts with every penalty, but there is little to gain with "kl", whose units are
        never quite zero.
    %(architecture)s
    %(training)s

    Attributes
    ----------
    mean_activation_ : ndarray of shape (n_components_,)
        Mean activation of every unit over the training rows.
    n_dead_units_ : int
        Units that are active in no training row. Sigmoid units are active above twice `target_activation`, or, if that is
        less, half-way between it and 1.
    fraction_alive_ : float
        Fraction of the units that are active in some training row.
    mean_active_units_ : float
        Mean number of active units a row.
    %(fitted)s

    See Also
    --------
    AutoEncoder : A dense code.
    sklearn.decomposition.MiniBatchDictionaryLearning : Sparse codes by optimization instead of an encoder.

    Notes
    -----
    ``hidden_layer_sizes`` is empty by default: one layer, as dictionaries are learned, read by linear maps.

    `sample` and `score` go by different densities of the codes. `sample` draws codes of training rows, a little changed but for
    their patterns of activity. `score_samples`, whose mean `score` is, spreads over all patterns, as if units were active
    independently of each other ("kl": one Gaussian over the codes), so that new rows have a likelihood: it is not that of what
    `sample` draws, which may look better or worse than the score says. But for "kl" it is the likelihood of a row together with
    the pattern that the encoder finds in it: a lower bound that more draws do not close, and the looser the more patterns would
    do, so that its scores are too low beside those of other kinds of models.

    After `partial_fit`, what is measured over the training rows tells of the last few thousand.

    References
    ----------
    .. [1] Makhzani and Frey, "k-sparse autoencoders", ICLR 2014.
    .. [2] Bussmann et al., "BatchTopK sparse autoencoders", 2024, arXiv:2412.06410.
    .. [3] Gao et al., "Scaling and evaluating sparse autoencoders", 2024, arXiv:2406.04093.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import SparseAE
    >>> X, _ = load_digits(return_X_y=True)
    >>> sae = SparseAE(100, penalty="top_k", k=5, sparse_output=True, max_epochs=5, random_state=0).fit(X)
    >>> sae.transform(X).nnz == 5 * len(X)
    True
    """

    _module_class = SparseModule
    _private_state = (*ContinuousAutoEncoder._private_state, "_activity")
    _argument_names = {"k_annealing": "penalty__annealing", "alpha": "penalty__alpha"}

    _parameter_constraints = {
        **ContinuousAutoEncoder._parameter_constraints,
        "missing_values": check.MISSING_VALUES,
        "penalty": [StrOptions(set(PENALTIES)), TopK, BatchTopK],
        "sparsity_weight": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "target_activation": [Interval(Real, 0, 1, closed="neither")],
        "k": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "revival_weight": [Interval(Real, 0, None, closed="left")],
        "sparse_output": ["boolean"],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        penalty="kl",
        sparsity_weight="auto",
        target_activation=0.05,
        k="auto",
        revival_weight=0.0,
        sparse_output=False,
        hidden_layer_sizes=(),
        activation="relu",
        encoder=None,
        decoder=None,
        image_shape=None,
        likelihood="gaussian",
        missing_values=None,
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
        self.penalty = penalty
        self.sparsity_weight = sparsity_weight
        self.target_activation = target_activation
        self.k = k
        self.revival_weight = revival_weight
        self.sparse_output = sparse_output
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
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

    def _auto_components(self, n_features: int) -> int:
        return min(_MOST_COMPONENTS, 2 * n_features)

    @property
    def _is_linear(self) -> bool:
        return False

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        arguments = super()._module_arguments(n_features)
        n_components = arguments["n_components"]
        k = max(1, n_components // 20) if self.k == "auto" else int(self.k)
        kept = resolve("penalty", self.penalty) or TopK()
        if self.penalty in ("kl", "l1"):
            k = min(k, n_components)
        elif floor(kept.alpha * k + 0.5) > n_components:
            factor = f" times penalty__alpha={kept.alpha:g}" if kept.alpha > 1 else ""
            raise ValueError(f"k={k}{factor} is more than the n_components={n_components} units that there are.")
        encoder, decoder = arguments["encoder"], arguments["decoder"]
        normalization = getattr(encoder if decoder == "tied" else decoder, "normalization", None)
        if self.penalty == "l1" and normalization is not None:
            raise ValueError(
                f"penalty='l1' can be had by scaling where the decoder's normalization={normalization!r} undoes it; use "
                "normalization=None, or another penalty."
            )
        weight = self.sparsity_weight
        if weight == "auto":
            weight = 0.3 * n_features if self.penalty == "kl" else 0.5
        return {
            **arguments,
            "penalty": self.penalty if isinstance(self.penalty, str) else kept.name,
            "sparsity_weight": float(weight),
            "target_activation": float(self.target_activation),
            "k": k,
            "revival_weight": float(self.revival_weight),
            "k_annealing": float(kept.annealing),
            "alpha": float(kept.alpha),
        }

    def _measure(self, run: FitRun) -> dict[str, Any]:
        """Count what the units do and fit the generative model behind `sample` and `score_samples`."""
        module, table, rate, threshold = run.module, run.table, run.share, None
        weight = table.weight
        if module.penalty == "batch_top_k":
            stride = -(-table.n_rows * module.n_components // _QUANTILE_NUMBERS)
            responses = inference.preactivate(module, table.take(slice(None, None, stride)), run.device).ravel()
            n_kept = min(responses.size - 1, round(module.k_in_use / module.n_components * responses.size))
            level = np.partition(responses, -n_kept - 1)[-n_kept - 1]
            module.threshold.fill_(float(level) if rate == 1.0 else (1 - rate) * float(module.threshold) + rate * float(level))
        codes = inference.training_codes(module, table, run.device)
        if module.penalty == "kl":
            threshold = module.active_above
            module.prior.fit(*code_moments(codes.astype(np.float64), weight), share=rate)
        seed = run.progress.stream(Stream.MEASUREMENT, of_pass=True)
        some = slice(None, None, -(-codes.size // _DENSITY_NUMBERS))
        activity = ActivityDensity(codes[some], None if weight is None else weight[some], threshold, seed)
        active = codes != 0.0 if threshold is None else codes > threshold
        mean = codes.mean(axis=0, dtype=np.float64) if weight is None else np.average(codes, axis=0, weights=weight)
        statistics = mean, active.mean(axis=0), float(np.average(active.sum(axis=1), weights=weight))
        if rate < 1.0:
            activity.remember(self._activity, rate, seed)
            before = self.mean_activation_, self._activity.share, self.mean_active_units_
            statistics = tuple((1 - rate) * old + rate * new for old, new in zip(before, statistics, strict=True))
        if module.has_exact_zeros:
            module.prior.fit(activity.rate, *activity.on[:2], activity.n_free)
        mean_activation, activity.share, mean_active_units = statistics
        # Of the rows that are remembered, less than half a one.
        n_dead = int((activity.share * table.n_rows / rate < 0.5).sum())
        inference.fit_noise(module, table, run.device, max_rows=NOISE_ROWS, share=run.share)
        return {
            "mean_activation_": mean_activation,
            "mean_active_units_": mean_active_units,
            "n_dead_units_": n_dead,
            "fraction_alive_": 1.0 - n_dead / module.n_components,
            "_activity": activity,
        }

    def _concerns(self, run: FitRun) -> list[str]:
        if self.fraction_alive_ >= _MANY_DEAD or run.module.penalty == "kl":
            return []
        cures = ["raise revival_weight" if self.revival_weight else "set revival_weight=1/32"]
        if run.module.penalty == "l1":
            cures.append(f"lower sparsity_weight (now {run.module.sparsity_weight:g})")
        else:
            cures.append(f"raise k (now {run.module.k})")
        return [
            f"{self.n_dead_units_} of {self.n_components_} units of {type(self).__name__} are active in no training row: "
            f"{', '.join(cures)} or lower n_components."
        ]

    def transform(self, X):
        """Encode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        Z : ndarray or CSR matrix of shape (n_samples, n_components_)
            Their sparse codes; a CSR matrix with `sparse_output`.
        """
        if not self.sparse_output:
            return super().transform(X)
        table, device = self._ready(X)
        blocks = (table.take(rows) for rows in row_blocks(table.n_rows, self.n_components_))
        codes = (inference.encode(self.module_, block, device).astype(table.dtype, copy=False) for block in blocks)
        codes = [sparse.csr_matrix(block) for block in codes]
        return sparse.vstack(codes, format="csr")

    def _code_source(self):
        why = (
            "its samples keep to the patterns of activity of training rows, which have no density to be weighed by what is given"
        )
        check.refuse_given(self, True, why)

    def _sample_codes(self, n_samples: int, seed: int) -> np.ndarray:
        return self._activity.sample(n_samples, seed)
