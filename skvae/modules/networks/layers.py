"""Perceptrons, and what their layers are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}

# Activations whose gradient needs their result alone, so that they may overwrite their input: half the memory to go through.
_IN_PLACE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU)

NORMALIZATIONS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
IMAGE_NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "layer": partial(nn.GroupNorm, 1)}


def mlp(
    n_inputs: int,
    hidden_layer_sizes: Sequence[int],
    n_outputs: int,
    *,
    activation: str | type[nn.Module] = "relu",
    dropout: float = 0.0,
    normalization: str | None = None,
) -> nn.Sequential:
    """Build a multi-layer perceptron with a linear last layer.

    Parameters
    ----------
    n_inputs, n_outputs : int
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers; empty for a linear map.
    activation : str or type of Module, default="relu"
        A name in `ACTIVATIONS` or a class that is built without arguments.
    dropout : float, default=0.0
        Probability of zeroing a hidden unit in training.
    normalization : {"batch", "layer"} or None, default=None
        Normalization before each activation.

    Returns
    -------
    Sequential
        Maps ``(n_samples, n_inputs)`` to ``(n_samples, n_outputs)``.

    Examples
    --------
    >>> from skvae.modules import mlp
    >>> [type(layer).__name__ for layer in mlp(4, (8,), 2, activation="tanh")]
    ['Linear', 'Tanh', 'Linear']
    """
    hidden: dict[str, Any] = {"activation": activation, "dropout": dropout, "normalization": normalization}
    layers: list[nn.Module] = []
    width = n_inputs
    for size in hidden_layer_sizes:
        layers += [nn.Linear(width, size), *after(size, **hidden)]
        width = size
    layers.append(nn.Linear(width, n_outputs))
    return nn.Sequential(*layers)


def after(
    size: int,
    *,
    activation: str | type[nn.Module] = "relu",
    dropout: float = 0.0,
    normalization: str | None = None,
    images: bool = False,
) -> list[nn.Module]:
    """Layers that follow a linear map to `size` units, or channels: normalization, activation and dropout."""
    layers: list[nn.Module] = []
    if normalization is not None:
        layers.append((IMAGE_NORMALIZATIONS if images else NORMALIZATIONS)[normalization](size))
    make_activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    if make_activation is not nn.Identity:
        layers.append(make_activation(inplace=True) if make_activation in _IN_PLACE else make_activation())
    if dropout > 0.0:
        layers.append(nn.Dropout(dropout))
    return layers


class TiedLinear(nn.Module):
    """Linear map by another one's weights, transposed, with a bias of its own.

    Parameters
    ----------
    source : Linear
        Stays the owner of the weights, which are neither counted nor saved twice.
    n_inputs : int
        How many of its outputs, from the first on, are the inputs here.
    n_outputs : int, optional
        How many of its inputs, from the first on, are the outputs here; all by default.
    """

    def __init__(self, source: nn.Linear, n_inputs: int, n_outputs: int | None = None):
        super().__init__()
        self._source = (source,)  # a tuple, which does not register it
        self.in_features, self.out_features = n_inputs, source.in_features if n_outputs is None else n_outputs
        self.bias = nn.Parameter(torch.zeros(self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not torch.is_grad_enabled():
            # By a transposed matrix, a row's product depends in its last bits on where the row stands.
            weight = weight.contiguous()
        return F.linear(x, weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """The weights, ``(out_features, in_features)``."""
        return self._source[0].weight[: self.in_features, : self.out_features].mT

    @property
    def row_work(self) -> int:
        """Multiply-adds a row."""
        return self.in_features * self.out_features

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def tied_mlp(encoder: nn.Sequential, n_inputs: int, n_outputs: int | None = None, **hidden: Any) -> nn.Sequential:
    """Build the mirror of a perceptron, by its weights transposed.

    Parameters
    ----------
    encoder : Sequential
        From `mlp`.
    n_inputs : int
        How many of its outputs are inputs here; the rest, such as log-variances, have no mirror.
    n_outputs : int, optional
        How many of its inputs are outputs here; all by default.
    **hidden : dict
        `activation`, `dropout` and `normalization` of the hidden layers.

    Returns
    -------
    Sequential
    """
    maps = [layer for layer in encoder if isinstance(layer, nn.Linear)][::-1]
    layers: list[nn.Module] = []
    for i, source in enumerate(maps):
        last = n_outputs if i == len(maps) - 1 else None
        layers.append(TiedLinear(source, n_inputs if i == 0 else source.out_features, last))
        if i < len(maps) - 1:
            layers += after(source.in_features, **hidden)
    return nn.Sequential(*layers)
