"""Values of parameters and arguments that constraints cannot describe."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import validate_parameter_constraints

from skvae.inference import anomaly

_OF_FRAMES = "surprise"  # method of scoring anomalies that is for mixed frames alone, and what "auto" is for them


def check_parameter(estimator: Any, name: str) -> Any:
    """Return a parameter that may be changed after `fit`, if `fit` would take it; integers of numpy as those of Python."""
    value, cls = getattr(estimator, name), type(estimator)
    validate_parameter_constraints({name: cls._parameter_constraints[name]}, {name: value}, caller_name=cls.__name__)
    return int(value) if isinstance(value, Integral) else value


def check_count(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return an integer that is large enough."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {at_least}.")
    return int(value)


def check_flags(**flags: Any) -> None:
    """Raise a ValueError about arguments, by name, that are neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}={value!r} must be True or False.")


def check_sizes(name: str, value: Any) -> int | tuple[int, ...] | None:
    """Return one integer, or one for each level, as a tuple."""
    if value is None or isinstance(value, Integral):
        return None if value is None else int(value)
    sizes = np.asarray(value)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or not len(sizes) or (sizes < 1).any():
        raise ValueError(f"{name}={value!r} must be an integer of at least 1, or one for each level.")
    return tuple(int(size) for size in sizes)


def list_callbacks(callbacks: Any) -> list[Any]:
    """Callbacks as a list: one of them, or a pair of a name and one, is a list of one."""
    if callbacks is None:
        return []
    is_pair = isinstance(callbacks, tuple) and len(callbacks) == 2 and isinstance(callbacks[0], str)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) and not is_pair else [callbacks]


def check_anomaly_method(method: Any, default: str, *, splits: bool = False, mixed: bool = False) -> str:
    """Name of a method that scores anomalies; of one whose scores split into shares of the columns, where needed.

    Rows of a data frame with columns of different kinds are `mixed`.
    """
    if not mixed and isinstance(method, str) and method == _OF_FRAMES:
        raise ValueError(
            f"method={method!r} is for models of data frames with columns of different kinds, which know how probable entries "
            "are; method='auto' scores rows of numbers."
        )
    default = _OF_FRAMES if mixed else default
    names = [name for name in anomaly.METHODS if mixed or name != _OF_FRAMES]
    names = names if splits else [*names, "likelihood"]
    if splits and isinstance(method, str) and method == "likelihood":
        raise ValueError(
            "method='likelihood' has no shares: the log-likelihood of a row does not split into those of its columns. "
            f"explain_anomaly takes {', '.join(map(repr, names))}."
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
