"""Fitted state as plain data: nested containers of numbers, strings and numpy arrays, without torch's storages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def to_plain(tree: Any) -> Any:
    """Copy a nested container, tensors turned into numpy arrays."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().cpu().numpy().copy()
    if isinstance(tree, dict):
        return {key: to_plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(to_plain(value) for value in tree)
    return tree


def load_module_state(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Load a plain state dictionary into a module."""
    module.load_state_dict(
        {name: torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value for name, value in state.items()}
    )


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a plain state dictionary into an optimizer."""

    def tensors(entry: dict[str, Any]) -> dict[str, Any]:
        return {k: torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v for k, v in entry.items()}

    optimizer.load_state_dict({**state, "state": {index: tensors(entry) for index, entry in state["state"].items()}})
