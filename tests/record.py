"""Compare what two checkouts of the package give for the same fits: the guard of a change that must not change results.

Usage::

    python tests/record.py --baseline PATH [--only PATTERN]

Both checkouts run in processes of their own, one after the other, on the same processor and with one thread. Three things are
compared; the first failure in any of them makes the exit code 1.

fit, short
    Runs of at most 20 steps must agree to 1e-5, weights, history and everything that follows. Whether they agree to the bit is
    reported.
fit, default
    Rounding grows over a long run. A run with the default training may differ by no more than `FACTOR` times what changing the
    entries of X by 1e-7 does, which is tried several times. So may a short run with discrete codes, which rounding may turn.
use
    What follows training is compared on the same weights, to 1e-5: every time the present checkout has trained a module, the
    baseline's weights are loaded into it before anything is measured.

A change of names is written down here: of parameters in `Dialect`, of weights in `RENAMED_WEIGHTS`, of what is compared in
`RENAMED_QUANTITIES` and `DROPPED_QUANTITIES`, of the function that trains in `TRAIN`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

TOLERANCE = 1e-5
CHANGE = 1e-7  # of the entries of X, which default runs are held against
CHANGES = 3  # as many times, with other signs
FACTOR = 10.0  # how much more than the largest effect of these changes a default run may differ
FEW = 0.02  # share of discrete values that may always differ where rounding grows
COUNT = 0.2  # relative difference of single counts, likewise
TIMES = ("fit_time_", "fit_seconds_", "seconds_")  # fitted attributes that no two runs share

# Where the function that trains a module may be found, which takes the module first and returns when it is trained. It is
# replaced wherever the package has imported it.
TRAIN = [("skvae.training.net", "train"), ("skvae.training.loop", "train"), ("skvae.training", "train")]
# Patterns of state dictionaries' names in the baseline, and what replaces them: (r"^likelihood\.moment$", "noise.moment").
RENAMED_WEIGHTS: list[tuple[str, str]] = [
    (r"^likelihood\.(moment|weight|floor|log_constant)$", r"likelihood.noise.\1"),
    (r"^code_(mean|whitening)$", r"prior.\1"),
    (r"^(secant|on_mean|on_std|on_rate|n_free)$", r"prior.\1"),
    (r"^prior_network\.", "prior.network."),
    (r"^encoder\.(weight|bias)_(ih|hh)_l(\d)$", r"encoder.layers.\3.\1_\2_l0"),
    (r"^t[o]ld\.", "condition_map."),
]
# Patterns of what the baseline keeps without a use, such as the moments of codes beside patterns of activity, and what follows
# from the rest.
UNUSED_WEIGHTS = r"prior\.(mean|whitening|on_mean|on_std|on_rate|n_free)$|^likelihood\.(varying|noise\.weight)$"
# The same for what is recorded, such as "attribute/history_/loss" or "use/transform".
RENAMED_QUANTITIES: list[tuple[str, str]] = [(r"^attribute/prior_loss_", "attribute/code_prior_loss_")]
# Patterns of what the baseline records and the present checkout has no more: what follows from the rest, and the steps that the
# loop counts.
DROPPED_QUANTITIES: list[str] = [r"^trained/\d+/likelihood\.(varying|noise\.weight)", r"^trained/.*\._extra_state/n_steps"]
# Ill-conditioned in the weights where codes hardly vary: compared on the same weights alone.
ILL_CONDITIONED = r"^use/(score|explain)_anomaly by mahalanobis"
# Recorded of training itself, which says nothing about weights that were loaded.
OF_TRAINING = r"^attribute/(history_|loss_curve_|n_iter_|(code_)?prior_loss_|pretraining_loss_)|^trained/"


# -- parameters in either dialect -------------------------------------------------------------------------------------


class Dialect:
    """How parameters are spelled: by the signature of the class, one group of them after the other."""

    def __init__(self, skvae: Any, cls: type):
        self.skvae, self.takes = skvae, set(inspect.signature(cls).parameters)

    def spec(self, name: str, *args: Any, **params: Any) -> Any:
        """Make a specification, such as `Conv` or, where there is one, `Optimizer`."""
        return getattr(self.skvae, name)(*args, **params)

    def optimizer(self, name="adam", *, schedule=None, clip_norm=None, clip_value=None, **params) -> dict[str, Any]:
        """Optimizer, with its schedule and clipping."""
        if "clip_norm" in self.takes:
            given = {"learning_rate_schedule": schedule, "clip_norm": clip_norm, "clip_value": clip_value}
            given = {"optimizer": name, "optimizer_params": params or None, **given}
            return {key: value for key, value in given.items() if value is not None}
        given = {"schedule": schedule, "clip_norm": clip_norm, "clip_value": clip_value}
        given = {key: value for key, value in given.items() if value is not None}
        return {"optimizer": self.spec("Optimizer", name, **given, **params)}

    def likelihood(self, name="gaussian", noise=None) -> dict[str, Any]:
        """Likelihood, with its noise."""
        if noise is None:
            return {"likelihood": name}
        if "noise" in self.takes:
            return {"likelihood": name, "noise": noise}
        return {"likelihood": self.spec(name.capitalize(), noise=noise)}

    def network(self, widths, *, activation="relu", dropout=0.0, normalization=None, tied=None) -> dict[str, Any]:
        """Perceptrons of both sides."""
        given = {"hidden_layer_sizes": widths, "activation": activation}
        if "dropout" in self.takes:
            given |= {"dropout": dropout, "normalization": normalization}
        else:
            owner = "decoder" if "n_timesteps" in self.takes else "encoder"
            given |= {owner: self.spec("MLP", dropout=dropout, normalization=normalization)}
        return given if tied is None else {**given, **self.tied(tied)}

    def tied(self, value: bool) -> dict[str, Any]:
        """Whether the decoder has the encoder's weights."""
        return {"tied_weights": value} if "tied_weights" in self.takes else {"decoder": "tied" if value else None}

    def recurrent(self, cell: str, n_layers: int) -> dict[str, Any]:
        """Recurrent network behind beliefs."""
        if "cell" in self.takes:
            return {"cell": cell, "n_recurrent_layers": n_layers}
        return {"encoder": self.spec("Recurrent", cell, n_layers=n_layers)}

    def penalty(self, name: str, spec: str, **params) -> dict[str, Any]:
        """Penalty that keeps the largest units."""
        if "alpha" in self.takes:
            return {"penalty": name, **{"k_annealing" if key == "annealing" else key: value for key, value in params.items()}}
        return {"penalty": self.spec(spec, **params)}

    def code_prior(self, name: str, **params) -> dict[str, Any]:
        """Prior of discrete codes."""
        if "prior_params" in self.takes:
            return {"prior": name, "prior_params": params or None}
        return {"code_prior": self.spec("CodePrior", name, **params) if params else name}

    def codebook(self, **params) -> dict[str, Any]:
        """Codebook of discrete codes."""
        return params if "decay" in self.takes else {"codebook": self.spec("Codebook", **params)}

    def kl(self, **params) -> dict[str, Any]:
        """Schedule of the divergence: its warmup, which the capacity shares."""
        given = {"kl_warmup" if name == "warmup" else name: value for name, value in params.items()}
        if "capacity" in params and "capacity_warmup" in self.takes:
            given["capacity_warmup"] = params["warmup"]
        return given

    def stopping(self, **params) -> dict[str, Any]:
        """Early stopping: validation_fraction, n_iter_no_change, tol."""
        if params.keys() <= self.takes:
            return {"early_stopping": True, **params}
        return {"early_stopping": self.spec("EarlyStopping", **params)}

    def renamed(self, old: str, new: str, value: Any) -> dict[str, Any]:
        """Parameter that has another name but means the same."""
        return {old if old in self.takes else new: value}


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """What a case is fitted on."""

    X: Any
    fit: dict[str, Any] = field(default_factory=dict)  # further arguments of `fit`
    conditions: dict[str, Any] = field(default_factory=dict)  # arguments of what conditional models are asked later

    def changed(self, seed: int) -> Data:
        """The same with every entry moved by a tiny share of itself."""
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=np.shape(self.X))
        return replace(self, X=self.X * (1.0 + CHANGE * signs))


def table(n=60, *, gaps=0.0, weights=False, constant=False, kind=float, labels=None) -> Data:
    """Rows of rank two with noise, in different units."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(n, 6))) * [1, 10, 0.1, 5, 1, 2] + 3
    group = np.arange(n) % 3
    X[:, 0] += group  # of which labels tell
    if constant:
        X[:, 3], X[:, 4] = 7.5, np.round(X[:, 4])
    if kind is bool:
        X = (X > X.mean(0)).astype(float)
    data = Data(np.where(rng.random(X.shape) < gaps, np.nan, X))
    if weights:
        data.fit["sample_weight"] = np.where(np.arange(n) % 7 == 0, 0.0, rng.uniform(0.5, 2, n))
    if labels == "classes":
        data.fit["y"] = np.array(["a", "b", "c"])[group]
    elif labels == "numbers":
        data.fit["y"] = np.column_stack([group + rng.normal(size=n), rng.normal(size=n)])
    data.conditions = {"y": data.fit["y"]} if labels else {}
    return data


def images(n=40, *, labels=False) -> Data:
    """Digits as images of one channel."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = Data(digits.images[:n, np.newaxis] / 16.0)
    if labels:
        data.fit, data.conditions = {"y": digits.target[:n] % 2}, {"y": digits.target[:n] % 2}
    return data


def sequences(n=24, length=10, *, ragged=False, rows=False, weights=False) -> Data:
    """Waves in three columns of different units."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6.28, size=(n, 1)) + 0.5 * np.arange(length)
    waves = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase)], axis=2)
    X = (waves + 0.2 * rng.normal(size=waves.shape)) * [1, 100, 0.1] + [0, 50, 1]
    fit = {"sample_weight": rng.uniform(0.5, 2, n)} if weights else {}
    if ragged:
        return Data([sequence[: length - i % 4] for i, sequence in enumerate(X)], fit)
    return Data(X.reshape(n, -1) if rows else X, fit)


# -- cases ------------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A network that is not the package's, and draws random numbers."""

    def __init__(self, n_inputs, n_outputs, width=6):
        super().__init__()
        self.first, self.last = nn.Linear(n_inputs, width), nn.Linear(width, n_outputs)

    def forward(self, x):
        return self.last(nn.functional.dropout(torch.tanh(self.first(x)), 0.2, self.training))


@dataclass
class Case:
    """One fit: class, data, parameters as a function of the dialect, and what is asked of the fitted model."""

    name: str
    cls: str
    data: Callable[[], Data]
    params: Callable[[Dialect], dict[str, Any]]
    default: bool = False  # trained as the defaults have it
    discrete: bool = False  # rounding may turn a code, and with it all that follows: held against changes of X as well


SHORT = {"max_epochs": 4, "batch_size": 20, "random_state": 0}
SMALL_PRIOR = {"max_epochs": 2, "width": 16, "n_heads": 2}


def short(name: str, cls: str, data: Callable[[], Data], params: Callable[[Dialect], dict[str, Any]] = lambda d: {}) -> Case:
    """Case of a dozen of steps."""
    return Case(f"{cls}: {name}", cls, data, lambda d: {**SHORT, "n_components": 2, **d.network((8,)), **params(d)})


def vq(name: str, data: Callable[[], Data], params: Callable[[Dialect], dict[str, Any]]) -> Case:
    """Case of discrete codes."""
    sizes = {"n_embeddings": 8, "embedding_dim": 3}
    return Case(f"VQVAE: {name}", "VQVAE", data, lambda d: {**SHORT, **sizes, **d.network((8,)), **params(d)}, discrete=True)


def td(name: str, data: Callable[[], Data], params: Callable[[Dialect], dict[str, Any]]) -> Case:
    """Case of sequences."""
    sizes = {"n_components": 6, "n_latents": 2, "n_pairs": 4, "max_epochs": 4, "batch_size": 8, "random_state": 0}
    return Case(f"TDVAE: {name}", "TDVAE", data, lambda d: {**sizes, **d.network((5,)), **params(d)})


def default(cls: str, data: Callable[[], Data]) -> Case:
    """Case of the defaults."""
    return Case(f"{cls}: defaults", cls, data, lambda d: {"random_state": 0}, default=True)


def conv(d: Dialect, channels=(4, 6), **params) -> dict[str, Any]:
    """Convolutions of both sides."""
    return {"encoder": d.spec("Conv", channels, **params), "decoder": d.spec("Conv", channels, **params)}


def gentle(d: Dialect) -> dict[str, Any]:
    """Optimizer that leaves alone what has no gradient but rounding, as a bias before batch normalization has."""
    return {**d.optimizer("sgd"), "learning_rate": 0.01}


def cvae(d: Dialect, **params) -> Any:
    """Conditional model within another estimator."""
    own = Dialect(d.skvae, d.skvae.CVAE)
    return d.skvae.CVAE(2, **own.network((8,)), max_epochs=4, batch_size=20, **params)


def vae(d: Dialect, **params) -> Any:
    """Model within another estimator."""
    own = Dialect(d.skvae, d.skvae.VAETransformer)
    return d.skvae.VAETransformer(2, **own.network((8,)), max_epochs=4, batch_size=20, **params)


CASES = [
    default("AutoEncoder", lambda: table(400)),
    short("constant and integer columns", "AutoEncoder", lambda: table(constant=True)),
    short(
        "Laplace, tied, weights, clipped",
        "AutoEncoder",
        lambda: table(weights=True),
        lambda d: {
            **d.likelihood("laplace", "feature"),
            **d.network((8,), activation="tanh", tied=True),
            **d.optimizer(clip_norm=0.5),
        },
    ),
    short(
        "missing values, dropout, layer normalization, AdamW",
        "AutoEncoder",
        lambda: table(gaps=0.2),
        lambda d: {
            "missing_values": np.nan,
            **d.network((8, 6), dropout=0.2, normalization="layer"),
            **d.optimizer("adamw", schedule="linear", clip_value=0.1, weight_decay=0.1),
        },
    ),
    short(
        "convolutions, Bernoulli, momentum, early stopping",
        "AutoEncoder",
        images,
        lambda d: {
            **conv(d, residual_blocks=1),
            **d.likelihood("bernoulli"),
            **d.optimizer("sgd", momentum=0.9, schedule="exponential"),
            **d.stopping(validation_fraction=0.2, n_iter_no_change=3, tol=1e-4),
            "learning_rate": 0.001,
        },
    ),
    short("own network", "AutoEncoder", table, lambda d: {"encoder": d.spec("Net", Encoder, width=5), **d.tied(False)}),
    default("DenoisingAE", lambda: table(400)),
    short(
        "mixed corruption",
        "DenoisingAE",
        table,
        lambda d: {"corruption": ["masking", "gaussian"], **d.renamed("noise_scale", "corruption_scale", 0.5), "mask_value": 1.0},
    ),
    short(
        "batch normalization",
        "DenoisingAE",
        lambda: table(gaps=0.1),
        lambda d: {"missing_values": np.nan, **d.network((8, 6), normalization="batch"), **gentle(d)},
    ),
    short(
        "salt and pepper, pretraining, weights",
        "DenoisingAE",
        lambda: table(weights=True),
        lambda d: {"corruption": "salt_and_pepper", "pretraining_epochs": 2, **d.network((8, 6), normalization="layer")},
    ),
    short(
        "dropout of missing values, units of the data",
        "DenoisingAE",
        lambda: table(gaps=0.2),
        lambda d: {"corruption": ("dropout", "gaussian"), "noise_unit": "data", "missing_values": np.nan},
    ),
    default("SparseAE", lambda: table(400)),
    short(
        "L1, tied",
        "SparseAE",
        table,
        lambda d: {"penalty": "l1", "sparsity_weight": 0.5, "n_components": 9, **d.tied(True)},
    ),
    short(
        "top k, annealed, weights",
        "SparseAE",
        lambda: table(weights=True),
        lambda d: {**d.penalty("top_k", "TopK", annealing=0.8, alpha=2.0), "k": 2, "n_components": 12},
    ),
    short(
        "batch top k, revival, Laplace",
        "SparseAE",
        table,
        lambda d: {"penalty": "batch_top_k", "k": 2, "revival_weight": 0.1, "n_components": 12, **d.likelihood("laplace")},
    ),
    short(
        "activities, sigmoid, missing values",
        "SparseAE",
        lambda: table(gaps=0.2),
        lambda d: {"target_activation": 0.2, "missing_values": np.nan, "n_components": 5, **d.network((), activation="sigmoid")},
    ),
    default("ContractiveAE", lambda: table(400)),
    short(
        "Hutchinson, Hessian",
        "ContractiveAE",
        table,
        lambda d: {
            "jacobian": "hutchinson",
            "n_probes": 2,
            "hessian": 0.5,
            "code_activation": "tanh",
            **d.network((8,), activation="tanh"),
        },
    ),
    short(
        "exact, weights, free decoder",
        "ContractiveAE",
        lambda: table(weights=True),
        lambda d: {"jacobian": "exact", "contraction": 1.0, **d.network((8, 6), dropout=0.1, tied=False)},
    ),
    short(
        "missing values, weights, neighbors of codes",
        "NeighborAE",
        lambda: table(gaps=0.2, weights=True),
        lambda d: {"missing_values": np.nan, "neighbor_space": "codes", "n_neighbors": 5},
    ),
    short(
        "cosine, bounds of the gradient",
        "NeighborAE",
        table,
        lambda d: {"metric": "cosine", "min_dist": 0.5, "neighbor_weight": 2.0, **d.optimizer(clip_norm=0.5)},
    ),
    default("VAETransformer", lambda: table(400)),
    short(
        "capacity, draws, Laplace",
        "VAETransformer",
        table,
        lambda d: {
            **d.kl(warmup=0.5, capacity=2.0),
            "n_draws": 3,
            "beta": 4.0,
            **d.likelihood("laplace", "shared"),
        },
    ),
    short(
        "missing values, weights, layer normalization, dropout",
        "VAETransformer",
        lambda: table(gaps=0.2, weights=True),
        lambda d: {
            "missing_values": np.nan,
            **d.network((8,), dropout=0.2, normalization="layer", tied=True),
            "n_score_draws": 8,
        },
    ),
    short(
        "Bernoulli, early stopping, RMSprop",
        "VAETransformer",
        lambda: table(kind=bool),
        lambda d: {**d.likelihood("bernoulli"), **d.optimizer("rmsprop"), **d.stopping(n_iter_no_change=2)},
    ),
    short(
        "images, fixed noise, upsampling",
        "VAETransformer",
        images,
        lambda d: {**conv(d, upsampling="nearest"), **d.likelihood("gaussian", 0.3), **d.optimizer(schedule="constant")},
    ),
    default("CVAE", lambda: table(400, labels="classes")),
    short(
        "conditional prior, both sides, weights",
        "CVAE",
        lambda: table(labels="classes", weights=True),
        lambda d: {"encode_condition": True, "prior": "conditional", **d.likelihood("laplace")},
    ),
    short(
        "numbers, capacity, draws",
        "CVAE",
        lambda: table(labels="numbers"),
        lambda d: {
            **d.kl(warmup=0.3, capacity=1.0),
            "n_draws": 2,
            **d.network((8,), dropout=0.1, normalization="batch"),
            **gentle(d),
        },
    ),
    short("columns of X", "CVAE", table, lambda d: {"condition_columns": [0, 4], "prior": "conditional"}),
    short(
        "images, Bernoulli",
        "CVAE",
        lambda: images(labels=True),
        lambda d: {**conv(d), **d.likelihood("bernoulli"), **d.stopping(validation_fraction=0.2)},
    ),
    default("VQVAE", lambda: table(400)),
    vq(
        "labels, gradient, rotation",
        lambda: table(labels="classes", weights=True),
        lambda d: {
            "n_codes": 2,
            "codebook": "gradient",
            "gradient": "rotation",
            "class_conditional": True,
            **d.code_prior("transformer", **SMALL_PRIOR),
        },
    ),
    vq(
        "two levels of images",
        images,
        lambda d: {
            **conv(d, (4, 4)),
            "n_levels": 2,
            **d.code_prior("pixelsnail", **SMALL_PRIOR),
            "commitment_weight": 0.5,
        },
    ),
    vq(
        "two levels of rows, entropy, labels",
        lambda: table(labels="classes"),
        lambda d: {"n_codes": (1, 2), "n_levels": 2, "entropy_weight": 0.3, **d.code_prior("histogram")},
    ),
    vq(
        "clusters, cosine",
        table,
        lambda d: {
            "n_codes": 1,
            "similarity": "cosine",
            **d.codebook(decay=0.9),
            **d.code_prior("auto"),
            **d.likelihood("laplace"),
        },
    ),
    Case("TDVAE: defaults", "TDVAE", lambda: sequences(48, 10), lambda d: {"random_state": 0}, default=True),
    td(
        "ragged, GRU, two layers",
        lambda: sequences(ragged=True),
        lambda d: {**d.recurrent("gru", 2), "n_latent_layers": 2, **d.optimizer(clip_norm=1.0), "auxiliary": 0.5},
    ),
    td(
        "rows, Laplace, weights, early stopping",
        lambda: sequences(rows=True, weights=True),
        lambda d: {"n_timesteps": 10, **d.likelihood("laplace"), **d.stopping(validation_fraction=0.3), "max_gap": 3},
    ),
    td(
        "dropout, normalization", sequences, lambda d: {**d.network((5,), dropout=0.2, normalization="layer"), **d.kl(warmup=0.2)}
    ),
    Case(
        "CVAEClassifier", "CVAEClassifier", lambda: table(labels="classes"), lambda d: {"estimator": cvae(d), "random_state": 0}
    ),
    Case("CVAEResampler", "CVAEResampler", lambda: unbalanced(), lambda d: {"estimator": cvae(d), "random_state": 0}),
    Case(
        "AnomalyDetector: split",
        "AnomalyDetector",
        lambda: table(weights=True),
        lambda d: {"estimator": vae(d, random_state=0), "calibration_fraction": 0.4, "random_state": 0},
    ),
    Case(
        "AnomalyDetector: contamination",
        "AnomalyDetector",
        table,
        lambda d: {"estimator": vae(d), "contamination": 0.1, "method": "mahalanobis", "random_state": 0},
    ),
    Case(
        "AnomalyDetector: crossed",
        "AnomalyDetector",
        table,
        lambda d: {"estimator": vae(d), "calibration": "cross", "n_folds": 2, "n_repeats": 1, "random_state": 0},
    ),
    Case(
        "AutoencoderImputer: linear",
        "AutoencoderImputer",
        lambda: table(gaps=0.2),
        lambda d: {"estimator": vae(d), "mechanism": "linear", "n_draws": 40, "n_training_draws": 3, "random_state": 0},
    ),
    Case(
        "AutoencoderImputer: random",
        "AutoencoderImputer",
        lambda: table(gaps=0.2, constant=True),
        lambda d: {"estimator": vae(d), "add_indicator": True, "n_draws": 40, "n_training_draws": 2, "random_state": 0},
    ),
]


def unbalanced() -> Data:
    """Rows of which one class has few."""
    data = table()
    return Data(data.X, {"y": (np.arange(60) % 5 == 0).astype(int)})


# -- what is asked of a fitted model ----------------------------------------------------------------------------------


def questions(model: Any, data: Data) -> dict[str, Callable[[], Any]]:
    """What a fitted model is asked, by name."""
    X, conditions = data.X, data.conditions
    few = X[:7]
    few_conditions = {name: value[:7] for name, value in conditions.items()}
    asked: dict[str, Callable[[], Any]] = {}

    def ask(name: str, *args: Any, called: str | None = None, **kwargs: Any) -> None:
        if hasattr(model, name):
            asked[called or name] = lambda: getattr(model, name)(*args, **kwargs)

    kind = type(model).__name__
    if kind in ("CVAEClassifier", "CVAEResampler", "AnomalyDetector", "AutoencoderImputer"):
        for name in ("predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba"):
            ask(name, X)
        for name in ("score_samples", "decision_function", "explain", "transform"):
            ask(name, X)
        if kind == "AnomalyDetector" and model.contamination is None:
            ask("p_values", X)
            ask("threshold_at", 0.2)
        if kind == "CVAEResampler":
            ask("fit_resample", X, **data.fit)
        ask("impute", X, 3, random_state=1)
        return asked
    takes_y = kind == "CVAE" and bool(conditions)
    y = conditions if takes_y else {}
    few_y = few_conditions if takes_y else {}
    encoded = {name: value for name, value in few_y.items() if getattr(model, "encode_condition", False)}
    code = {"condition": few_conditions["y"]} if encoded else {}
    ask("transform", few if code else X, **code)
    shapes = getattr(model, "n_components_", 2)
    code_conditions = {name: value[:5] for name, value in few_y.items()}
    if kind == "CVAE" and not conditions:
        code_conditions = {"condition": X[:5, [0, 4]]}
    Z = np.random.default_rng(3).normal(size=(5, shapes))
    ask("inverse_transform", Z, **code_conditions)
    for name in ("reconstruct", "posterior", "score_samples", "score_anomaly", "explain_anomaly", "effective_sample_size"):
        ask(name, few if name == "posterior" else X, **(few_y if name == "posterior" else y))
    ask("score", X, **({**y} if takes_y else {}))
    if kind != "TDVAE":
        for method in ("reconstruction", "neighbors", "mahalanobis", "likelihood"):
            ask("score_anomaly", X, **y, method=method, called=f"score_anomaly by {method}")
            if method != "likelihood":
                ask("explain_anomaly", X, **y, method=method, called=f"explain_anomaly by {method}")
    labeled = {"y": conditions["y"][:5]} if takes_y else {}
    size = {} if takes_y else {"n_samples": 5}
    ask("sample", **size, **labeled, random_state=3)
    ask("sample", **size, **labeled, mean=True, called="sample, mean")
    ask("denoise", X)
    ask("jacobian_norm", X)
    if kind == "VAETransformer":
        ask("interpolate", few, X[7:14], 3)
        ask("interpolate", few, X[7:14], 3, method="spherical", called="interpolate, spherical")
        ask("latent_grid", n_steps=3)
        asked["walk"] = lambda: model.walk(few, model.attribute_vector(X[:10], X[10:20]))
    if kind == "CVAE":
        mask = np.zeros(few.shape, dtype=bool)
        mask[..., :2] = True
        if few.ndim == 2:
            mask[:, 0], mask[:, 2] = False, True  # a condition may be a column
        ask("inpaint", few, mask, **few_y, random_state=1)
        ask("draw_inpaintings", few, mask, **few_y, n_draws=2, random_state=1)
        if hasattr(model, "classes_"):
            ask("log_likelihoods", X)
            ask("sample", 6, random_state=3, called="sample, any label")
        if takes_y:
            ask("style_transfer", few, conditions["y"][7:14], **({"condition": few_conditions["y"]} if encoded else {}))
    if kind == "VQVAE":
        ask("encode", X)
        asked["decode"] = lambda: model.decode(model.encode(few))
        ask("sample_codes", 5, temperature=0.7, random_state=2)
        ask("bits_per_dim", X, step=0.1)
        ask("compression", X)
        ask("predict", X) if getattr(model, "n_codes_", 0) == 1 else None
        if conditions:
            ask("score_samples", X, conditions["y"], called="score_samples, conditions")
            ask("sample", y=conditions["y"][:5], random_state=2, called="sample, conditions")
    if kind == "TDVAE":
        for name in ("beliefs", "score_anomaly_steps"):
            ask(name, X)
        ask("forecast", X, [1, 4])
        ask("forecast_beliefs", Z, 2)
        ask("rollout", few, 3, n_futures=2, random_state=1)
        ask("sample", 3, n_timesteps=4, random_state=1, called="sample, short")
        if isinstance(X, np.ndarray) and X.ndim == 3:
            asked["update_belief"] = lambda: model.update_belief(X[:, 1], model.update_belief(X[:, 0])).belief
    return asked


def flat(name: str, value: Any) -> dict[str, np.ndarray]:
    """Numbers and words in nested containers, by path; what is neither is left out."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if hasattr(value, "toarray"):
        value = value.toarray()
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, dict):
        return {k: v for key, entry in value.items() for k, v in flat(f"{name}/{key}", entry).items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {k: v for f in fields(value) for k, v in flat(f"{name}/{f.name}", getattr(value, f.name)).items()}
    if isinstance(value, (list, tuple)) and value and all(isinstance(entry, (int, float)) for entry in value):
        value = np.array(value)
    if isinstance(value, (list, tuple)):
        return {k: v for i, entry in enumerate(value) for k, v in flat(f"{name}/{i}", entry).items()}
    if isinstance(value, (bool, int, float, str, np.generic, np.ndarray)):
        array = np.array(value)
        if array.dtype == object:
            array = array.astype(str)
        return {name: array}
    return {}


# -- a checkout's own process -----------------------------------------------------------------------------------------


class Training:
    """The function that trains, in whose place it keeps or replaces the weights that it leaves."""

    def __init__(self, skvae: Any):
        for module, name in TRAIN:
            try:
                self.original = getattr(importlib.import_module(module), name)
                break
            except (ImportError, AttributeError):
                continue
        else:
            raise SystemExit(f"The function that trains is in none of {TRAIN}.")
        self.reset()
        for module in [module for name, module in sys.modules.items() if name.split(".")[0] == "skvae"]:
            for name, value in list(vars(module).items()):
                if value is self.original:
                    setattr(module, name, self)

    def reset(self, states: list[dict[str, Any]] | None = None, *, shortened: bool = False) -> None:
        """Begin a fit; `states` are what to load after each training in it, which then need not take all its epochs."""
        self.states, self.calls, self.shortened = states, [], shortened

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.shortened:
            args = tuple(_one_epoch(value) for value in args)
            kwargs = {name: _one_epoch(value) for name, value in kwargs.items()}
        outcome = self.original(module, *args, **kwargs)
        own = {
            name: v.detach().cpu().numpy().copy() if isinstance(v, torch.Tensor) else v for name, v in module.state_dict().items()
        }
        self.calls.append(own)
        if self.states is not None:
            if len(self.calls) > len(self.states):
                raise RuntimeError(f"The baseline trained {len(self.states)} modules, here is one more: {type(module).__name__}.")
            _load(module, own, self.states[len(self.calls) - 1])
        return outcome


def _one_epoch(value: Any) -> Any:
    is_plan = is_dataclass(value) and any(f.name == "n_epochs" for f in fields(value))
    return replace(value, n_epochs=1) if is_plan else value


def _load(module: nn.Module, own: dict[str, Any], other: dict[str, Any]) -> None:
    """Load another checkout's tensors; what a state dictionary holds beside tensors is each checkout's own."""
    other = {renamed(name, RENAMED_WEIGHTS): value for name, value in other.items()}
    arrays = {name: value for name, value in other.items() if isinstance(value, np.ndarray)}
    needed = {name for name, value in own.items() if isinstance(value, np.ndarray)}
    arrays = {name: value for name, value in arrays.items() if name in needed or not re.search(UNUSED_WEIGHTS, name)}
    if arrays.keys() != needed:
        raise RuntimeError(
            f"weights of the baseline alone: {sorted(arrays.keys() - needed)}, lacking: {sorted(needed - arrays.keys())}"
        )
    state = module.state_dict()
    for name, array in arrays.items():
        state[name] = torch.from_numpy(np.array(array)).to(state[name].device, state[name].dtype)
    module.load_state_dict(state)


def renamed(name: str, table: list[tuple[str, str]]) -> str:
    """Name in the present checkout of what the baseline has."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def run(case: Case, skvae: Any, training: Training, data: Data) -> dict[str, np.ndarray]:
    """Fit, and ask everything."""
    cls = getattr(skvae, case.cls)
    model = cls(**case.params(Dialect(skvae, cls)))
    if case.cls != "CVAEResampler":
        model.fit(data.X, **data.fit)
    found: dict[str, np.ndarray] = {}
    for name, question in questions(model, data).items():
        found |= flat(f"use/{name}", question())
    for name in dir(model):
        if name.endswith("_") and not name.startswith("_") and name not in TIMES and hasattr(model, name):
            found |= flat(f"attribute/{name}", getattr(model, name))
    if hasattr(model, "partial_fit") and not case.default and not getattr(model, "early_stopping", False):
        model = pickle.loads(pickle.dumps(model))
        model.partial_fit(data.X, **data.fit)
        found |= flat("attribute/history_/after partial_fit", model.history_)
        for name, question in questions(model, data).items():
            if name in ("reconstruct", "sample", "score_samples", "score_anomaly"):
                found |= flat(f"use/{name}, after partial_fit", question())
    return found


def child(checkout: str, out: str, only: str, weights: str | None) -> None:
    """Record one checkout: all fits, and either those with X changed or those with another checkout's weights."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import skvae

    if not Path(skvae.__file__).resolve().is_relative_to(Path(checkout).resolve()):
        raise SystemExit(f"{skvae.__file__} is not of {checkout}.")
    importlib.import_module("skvae.estimators")
    training = Training(skvae)
    given = None if weights is None else pickle.loads(Path(weights).read_bytes())
    record: dict[str, dict[str, Any]] = {}
    for case in CASES:
        if not re.search(only, case.name):
            continue
        start, entry = time.process_time(), record.setdefault(case.name, {})
        try:
            training.reset()
            entry["fit"] = run(case, skvae, training, case.data())
            entry["states"] = training.calls
            if given is None and (case.default or case.discrete):
                entry["changed"] = []
                for seed in range(CHANGES):
                    training.reset()
                    changed = run(case, skvae, training, case.data().changed(seed))
                    entry["changed"].append({"fit": changed, "states": training.calls})
            elif given is not None and "states" in given[case.name]:
                training.reset(given[case.name]["states"], shortened=case.default)
                entry["use"] = run(case, skvae, training, case.data())
        except Exception:
            entry["error"] = traceback.format_exc()
        entry["seconds"] = time.process_time() - start
    Path(out).write_bytes(pickle.dumps(record))


# -- comparison -------------------------------------------------------------------------------------------------------


def with_weights(entry: dict[str, Any], table: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """What was recorded of a fit, with the weights that training left."""
    found = dict(entry["fit"])
    for i, state in enumerate(entry["states"]):
        found |= flat(f"trained/{i}", {renamed(name, table): value for name, value in state.items()})
    return found


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, relative to the largest entry of a column, or share of discrete entries that differ."""
    if a.shape != b.shape:
        return np.inf
    if a.dtype.kind not in "fc" or b.dtype.kind not in "fc":
        is_count = a.size < 10 and a.dtype.kind in "iu" and b.dtype.kind in "iu"
        if not is_count:
            return float(np.mean(a != b)) if a.size else 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    size = np.where(np.isfinite(b), np.abs(b), 0.0)
    largest = size.max()
    # The floor is for columns near zero, whose last bits are those of larger numbers.
    scale = np.maximum(size.max(axis=0), 0.1 * largest) if b.ndim > 1 else largest
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(same, 0.0, np.abs(a - b) / scale)
    return float(np.where(np.isnan(share), np.inf, share).max())


@dataclass
class Verdict:
    """Outcome of one comparison, in words."""

    text: str
    fails: bool = False


def compare(
    present: dict[str, np.ndarray], base: dict[str, np.ndarray], changed: list[dict[str, np.ndarray]] | None = None
) -> Verdict:
    """Compare what two checkouts recorded; with `changed`, against what tiny changes of X do."""
    worst, where, bits = 0.0, "", True
    failures: list[tuple[float, str]] = []
    for name, value in base.items():
        if any(re.search(pattern, name) for pattern in DROPPED_QUANTITIES):
            continue
        now = renamed(name, RENAMED_QUANTITIES)
        if now not in present and re.search(UNUSED_WEIGHTS, now):
            continue
        if now not in present:
            failures.append((np.inf, f"{now} is missing"))
            continue
        difference = largest_difference(present[now], value)
        bits = bits and present[now].dtype == value.dtype and difference == 0.0
        allowed = TOLERANCE
        if changed is not None:
            floor = TOLERANCE if value.dtype.kind in "fc" else COUNT if value.size < 10 else FEW
            by_change = max(largest_difference(one[name], value) if name in one else 0.0 for one in changed)
            allowed = max(floor, FACTOR * by_change)
        if not difference <= allowed:
            limit = f", {allowed:.1e} allowed" if changed is not None else ""
            failures.append((difference / allowed, f"{now}: {difference:.1e}{limit}"))
        if difference > worst or not where:
            worst, where = difference, now
    if failures:
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        return Verdict(f"FAIL {max(failures)[1]}{more}", fails=True)
    return Verdict("bit-equal" if bits else f"{worst:.1e} ({where})")


def report(base: dict[str, dict[str, Any]], present: dict[str, dict[str, Any]]) -> bool:
    """Print the table; return whether all is well."""
    rows, fails, notes = [], False, []
    for name, before in base.items():
        after = present[name]
        kind = next(
            "default" if case.default else "discrete" if case.discrete else "short" for case in CASES if case.name == name
        )
        if "error" in before or "error" in after:
            verdicts = [
                Verdict(
                    "FAIL " + " / ".join(f"{w} raised" for w, e in (("baseline", before), ("present", after)) if "error" in e),
                    True,
                )
            ]
            notes += [f"{name}, {w}:\n{e['error']}" for w, e in (("baseline", before), ("present", after)) if "error" in e]
        else:
            old = with_weights(before, RENAMED_WEIGHTS)
            old = {key: value for key, value in old.items() if not re.search(ILL_CONDITIONED, key)}
            changed = [with_weights(one, RENAMED_WEIGHTS) for one in before["changed"]] if "changed" in before else None
            used = {key: value for key, value in before["fit"].items() if not re.search(OF_TRAINING, key)}
            verdicts = [compare(with_weights(after, []), old, changed), compare(after["use"], used)]
        fails = fails or any(verdict.fails for verdict in verdicts)
        texts = [verdict.text for verdict in verdicts]
        extent = f"{len(before.get('states', ()))}, {len(before.get('fit', ()))}"
        seconds = f"{before['seconds']:.1f} / {after['seconds']:.1f}"
        rows.append((name, kind, texts[0], texts[1] if len(texts) > 1 else "", extent, seconds))
    header = ("case", "kind", "fit", "use, on the same weights", "trainings, quantities", "seconds")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, tuple("-" * width for width in widths), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    n_equal = sum(row[2] == row[3] == "bit-equal" for row in rows)
    n_failed = sum("FAIL" in row[2] + row[3] for row in rows)
    print(f"\n{len(rows)} cases: {n_equal} bit-equal, {len(rows) - n_equal - n_failed} within tolerance, {n_failed} failed")
    for note in notes:
        print(f"\n{note}", file=sys.stderr)
    return not fails


def main() -> int:
    """Run both checkouts and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", help="another checkout of the repository")
    parser.add_argument("--only", default="", help="pattern of the cases to run")
    parser.add_argument("--child", nargs=2, metavar=("CHECKOUT", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child, given.only, given.weights)
        return 0
    if not given.baseline:
        parser.error("--baseline is needed")
    here = Path(__file__).resolve().parents[1]
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for i, checkout in enumerate((Path(given.baseline).resolve(), here)):
            out = Path(folder) / f"{i}.pickle"
            command = [sys.executable, __file__, "--child", str(checkout), str(out), "--only", given.only]
            command += ["--weights", str(Path(folder) / "0.pickle")] if i else []
            threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            subprocess.run(command, check=True, cwd=folder, env={**os.environ, **threads, "PYTHONPATH": str(checkout)})
            records.append(pickle.loads(out.read_bytes()))
    return 0 if report(*records) else 1


if __name__ == "__main__":
    sys.exit(main())
