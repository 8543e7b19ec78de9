"""Fitted state as plain data: nested containers of numbers, strings and numpy arrays, without torch's storages."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from typing import Any, TypeVar

import numpy as np
import torch

_Module = TypeVar("_Module", bound=torch.nn.Module)
_ATOMS = {bool, int, float, str, type, type(None)}


def to_plain(tree: Any) -> Any:
    """Copy a nested container, tensors turned into numpy arrays."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().cpu().numpy().copy()
    if isinstance(tree, dict):
        return {key: to_plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(to_plain(value) for value in tree)
    return tree


def copy_of_state(tree: Any) -> Any:
    """Copy a nested container with its tensors, as a state dictionary is; whatever else is in it is not copied."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copy_of_state(value) for key, value in tree.items()}
    return type(tree)(map(copy_of_state, tree)) if type(tree) in (list, tuple) else tree


def n_bytes_of(tree: Any) -> int:
    """Bytes that the tensors and arrays of a nested container take."""
    if isinstance(tree, (torch.Tensor, np.ndarray)):
        return tree.nbytes
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return sum(map(n_bytes_of, parts))


def copy_of(module: _Module) -> _Module:
    """Deep copy of a module, in a third of the time: most of what its layers have are settings, and empty tables of hooks."""
    return _copied(module, {})  # type: ignore[no-any-return]


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    if id(module) in memo or not type(module).__module__.startswith(("torch.nn.", "skvae.")):
        return copy.deepcopy(module, memo)
    twin = memo[id(module)] = object.__new__(type(module))
    for name, value in vars(module).items():
        if name == "_modules":
            value = type(value)((name, _copied(layer, memo)) for name, layer in value.items())
        elif type(value) in (dict, OrderedDict, set) and not value:
            value = type(value)()
        elif type(value) is set and {type(each) for each in value} <= _ATOMS:
            value = value.copy()
        elif type(value) not in _ATOMS:
            value = copy.deepcopy(value, memo)
        vars(twin)[name] = value
    return twin


def _to_tensors(entries: dict[str, Any]) -> dict[str, Any]:
    """Copy numpy arrays into memory of torch's, where numbers lie that were never saved: see `skvae.runtime.alignment`."""
    return {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in entries.items()}


def load_module_state(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Load a plain state dictionary into a module."""
    module.load_state_dict(_to_tensors(state))


def plain_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what an optimizer has gathered of its parameters, as plain data, what kind of optimizer it is and its settings."""
    return {"kind": _kind(optimizer), "settings": _settings(optimizer), "state": to_plain(optimizer.state_dict()["state"])}


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__.removeprefix("Lean")


def _settings(optimizer: torch.optim.Optimizer) -> str:
    """Digest of an optimizer's settings, which are compared alone."""
    # torch adds "differentiable" to the defaults of optimizers without it once a state is loaded; nothing gathered depends on it.
    settings = sorted((name, repr(value)) for name, value in optimizer.defaults.items() if name not in ("lr", "differentiable"))
    return hashlib.blake2b(repr(settings).encode(), digest_size=4).hexdigest()


def _gathers(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Any]]) -> bool:
    """Whether an optimizer gathers the numbers that are found in a state: a copy takes a step to tell."""
    twin = copy.deepcopy(optimizer)
    vars(twin).update({name: value for name, value in vars(optimizer).items() if name not in vars(twin)})  # which torch forgets
    for group in twin.param_groups:
        for param in group["params"]:
            param.grad = torch.zeros_like(param)
    twin.step()
    found = twin.state_dict()["state"]
    return all(found.get(index, {}).keys() == entry.keys() for index, entry in state.items())


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the plain state of another optimizer into one, which keeps its own settings.

    It starts anew if it is of another kind, or gathers other numbers by its settings than are in the state.
    """
    if state["kind"] != _kind(optimizer):
        return
    if state["settings"] != _settings(optimizer) and not _gathers(optimizer, state["state"]):
        return

    gathered = {index: _to_tensors(entry) for index, entry in state["state"].items()}
    optimizer.load_state_dict({"state": gathered, "param_groups": optimizer.state_dict()["param_groups"]})
