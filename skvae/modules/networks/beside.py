"""Networks that read a condition beside rows or codes, at the cost of reading it once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae.modules.networks.convolution import BesideImages
from skvae.modules.networks.layers import Shortcut


def read_beside(network: nn.Module, x: Tensor, condition: Tensor) -> Tensor | None:
    """Return what a network makes of rows or codes with their conditions behind them, if its first layers are linear maps.

    Those take the condition's part once a row, not once a draw; and once for all rows where these have one condition, as when
    a row is scored under each of many labels: its cost then grows with their number, not with the square of it.

    Parameters
    ----------
    network : Module
        Takes ``(n_rows, n_inputs + n_conditions)``.
    x : Tensor of shape (n, n_inputs) or (n, n_draws, n_inputs)
    condition : Tensor of shape (n, n_conditions)
        Expanded from one row where all rows have that.

    Returns
    -------
    Tensor of shape (n, n_outputs) or (n, n_draws, n_outputs), or None
        The output, equal to rounding; None where the first layers are not known to be linear maps.
    """
    output = _read(network, x.flatten(0, -2), condition[:1] if is_one_row(condition) else condition)
    return output if output is None or x.dim() == 2 else torch.unflatten(output, 0, x.shape[:-1])


def is_one_row(condition: Tensor) -> bool:
    """Whether conditions ``(n, n_conditions)`` are expanded from those of one row."""
    return condition.stride(0) == 0


def _read(network: nn.Module, x: Tensor, condition: Tensor) -> Tensor | None:
    if network._forward_hooks or network._forward_pre_hooks:  # which may look at the input, or change it
        return None
    if type(network) is Shortcut:
        straight = _read(network.linear, x, condition)
        hidden = None if straight is None else _read(network.hidden, x, condition)
        return None if straight is None or hidden is None else network.together(straight, hidden)
    if type(network) is nn.Sequential and len(network):
        layers = list(network)
        if type(layers[0]) is BesideImages:
            x = layers.pop(0)(x)  # which passes on what lies behind the images
        output = _read(layers[0], x, condition) if layers else None
        if output is not None:
            for layer in layers[1:]:
                output = layer(output)
        return output
    return _multiply(network, x, condition) if type(network) is nn.Linear else None


def _multiply(layer: nn.Linear, x: Tensor, condition: Tensor) -> Tensor:
    weight, width = layer.weight, x.shape[1]
    part = F.linear(condition, weight[:, width:].contiguous(), None if width else layer.bias)
    if not width:
        return part if len(part) == len(x) else part.repeat(len(x), 1)  # not expanded: activations overwrite it
    output = F.linear(x, weight[:, :width].contiguous(), layer.bias)
    # Each condition belongs to as many rows in a row.
    torch.unflatten(output, 0, (len(part), -1)).add_(part.unsqueeze(1))
    return output
