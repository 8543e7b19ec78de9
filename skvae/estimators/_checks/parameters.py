"""Values of parameters and arguments that constraints cannot describe."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from skvae.inference import anomaly


def check_count(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return an integer that is large enough."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {at_least}.")
    return int(value)


def check_sizes(name: str, value: Any) -> int | tuple[int, ...] | None:
    """Return one integer, or one for each level, as a tuple."""
    if value is None or isinstance(value, Integral):
        return None if value is None else int(value)
    sizes = np.asarray(value)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or not len(sizes) or (sizes < 1).any():
        raise ValueError(f"{name}={value!r} must be an integer of at least 1, or one for each level.")
    return tuple(int(size) for size in sizes)


_NETWORK_OF_PRIOR = {"n_layers": Integral, "width": Integral, "n_heads": Integral, "dropout": Real}

_TRAINING_OF_PRIOR = {"learning_rate": Real, "batch_size": Integral, "max_epochs": Integral}

_WIDTH_OF_PRIOR, _HEADS_OF_PRIOR = 64, 4  # by default


def check_prior_params(prior: str | None, params: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a prior's network, and of its training."""
    if params and prior not in ("auto", "transformer", "pixelsnail"):
        raise ValueError(f"prior_params={params!r} has no effect with prior={prior!r}, which is not trained; leave it None.")
    known = {**_NETWORK_OF_PRIOR, **_TRAINING_OF_PRIOR}
    for name, value in (params or {}).items():
        if name not in known:
            raise ValueError(f"prior_params has {name!r}; it takes {', '.join(known)}.")
        takes, is_right = {
            "dropout": ("a number of at least 0 and below 1", lambda value: 0 <= value < 1),
            "learning_rate": ("a number above 0", lambda value: 0 < value < np.inf),
        }.get(name, ("an integer of at least 1", lambda value: value >= 1))
        if not isinstance(value, known[name]) or isinstance(value, bool) or not is_right(value):
            raise ValueError(f"prior_params[{name!r}]={value!r} must be {takes}.")
    given = params or {}
    width, n_heads = given.get("width", _WIDTH_OF_PRIOR), given.get("n_heads", _HEADS_OF_PRIOR)
    if width % n_heads:
        raise ValueError(f"prior_params={given!r}: width={width} must be a multiple of n_heads={n_heads}.")
    network, training = (
        {name: given[name] for name in part if name in given} for part in (_NETWORK_OF_PRIOR, _TRAINING_OF_PRIOR)
    )
    return network, training


# What `net_params` may hold: the rest of skorch's arguments are the estimators' own parameters or would be ignored.
_OWNED = {
    "module": "encoder and decoder",
    "criterion": "likelihood",
    "optimizer": "optimizer and optimizer_params",
    "lr": "learning_rate",
    "max_epochs": "max_epochs",
    "batch_size": "batch_size",
    "train_split": "early_stopping and validation_fraction",
    "warm_start": "warm_start",
    "verbose": "verbose",
    "device": "device",
}


def check_net_params(net_params: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments that go straight to skorch."""
    for key in net_params or {}:
        root = key.split("__")[0]
        if root == "callbacks":
            continue
        if root in _OWNED:
            raise ValueError(f"net_params[{key!r}] belongs to the estimator: set {_OWNED[root]} instead.")
        raise ValueError(f"net_params[{key!r}] has no effect here; net_params takes 'callbacks' and 'callbacks__*'.")
    return dict(net_params or {})


def check_anomaly_method(method: Any, default: str, *, splits: bool = False) -> str:
    """Name of a method that scores anomalies; of one whose scores split into shares of the columns, where needed."""
    names = [*anomaly.METHODS, "likelihood"]
    if splits and method == "likelihood":
        raise ValueError(
            "method='likelihood' has no shares: the log-likelihood of a row does not split into those of its columns. "
            f"explain_anomaly takes {', '.join(map(repr, anomaly.METHODS))}."
        )
    if not isinstance(method, str) or method not in ("auto", *names):
        raise ValueError(f"method={method!r} must be one of 'auto', {', '.join(map(repr, names))}.")
    return default if method == "auto" else method


def resolve_device(device: str) -> torch.device:
    """Device to compute on: "auto" means CUDA, else MPS, else the CPU."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device={device!r} is not known; use 'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps'.")
    if resolved.type == "cpu":
        return torch.device("cpu")  # of which there is one, whatever its index
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={device!r}: torch finds {torch.cuda.device_count()} CUDA device(s); use 'auto' or 'cpu'.")
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device='mps': torch finds no such device here; use 'auto' or 'cpu'.")
    return resolved
