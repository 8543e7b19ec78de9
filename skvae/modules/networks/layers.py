"""Perceptrons, and what their layers are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    bias : bool, default=True
        Whether it has a bias.
    has_gains : bool, default=False
        Whether every input and every output has a factor of its own, so that the map is the transposed one but for units: the
        posterior mean of a factor model and its loadings are.
    """

    def __init__(
        self, source: nn.Linear, n_inputs: int, n_outputs: int | None = None, *, bias: bool = True, has_gains: bool = False
    ):
        super().__init__()
        self._source = (source,)  # a tuple, which does not register it
        self.in_features, self.out_features = n_inputs, source.in_features if n_outputs is None else n_outputs
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if bias else None
        self.input_gain = nn.Parameter(torch.ones(self.in_features)) if has_gains else None
        self.output_gain = nn.Parameter(torch.ones(self.out_features)) if has_gains else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not torch.is_grad_enabled():
            # By a transposed matrix, a row's product depends in its last bits on where the row stands.
            weight = weight.contiguous()
        return F.linear(x, weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """The weights, ``(out_features, in_features)``."""
        weight = self._source[0].weight[: self.in_features, : self.out_features].mT
        if self.input_gain is None or self.output_gain is None:
            return weight
        return weight * self.output_gain.unsqueeze(1) * self.input_gain

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


class Shortcut(nn.Module):
    """Perceptron with a linear map of the same inputs beside it, whose outputs are added.

    Parameters
    ----------
    linear : Linear or TiedLinear
        The linear map, with a bias.
    hidden : Sequential
        The perceptron but for its last layer.
    last : Linear or TiedLinear
        The perceptron's last layer, without a bias.
    """

    def __init__(self, linear: nn.Linear | TiedLinear, hidden: nn.Sequential, last: nn.Linear | TiedLinear):
        super().__init__()
        self.linear, self.hidden, self.last = linear, hidden, last

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.hidden(x)
        if torch.is_grad_enabled():  # in one operation less
            return torch.addmm(self.linear(x), hidden, self.last.weight.mT)
        return self.together(self.linear(x), hidden)

    def together(self, straight: Tensor, hidden: Tensor) -> Tensor:
        """Add what the last layer makes of hidden units to the output of the linear map."""
        return straight + F.linear(hidden, self.last.weight.contiguous())

    @property
    def layers(self) -> list[nn.Module]:
        """Layers of the perceptron, in order."""
        return [*self.hidden, self.last]

    def beside(self) -> list[nn.Parameter]:
        """Weights of the perceptron beside the linear map."""
        return [*self.hidden.parameters(), *self.last.parameters()]


def shortcut_mlp(n_inputs: int, hidden_layer_sizes: Sequence[int], n_outputs: int, **hidden: Any) -> Shortcut | nn.Sequential:
    """Build a perceptron that begins at zero, and a linear map beside it; the latter alone where there are no hidden layers.

    Parameters
    ----------
    n_inputs, hidden_layer_sizes, n_outputs, **hidden
        See `mlp`.
    """
    network = mlp(n_inputs, hidden_layer_sizes, n_outputs, **hidden)
    if not hidden_layer_sizes:
        return network
    last = nn.Linear(hidden_layer_sizes[-1], n_outputs, bias=False)
    nn.init.zeros_(last.weight)
    return Shortcut(nn.Linear(n_inputs, n_outputs), nn.Sequential(*list(network)[:-1]), last)


def tied_shortcut(
    encoder: Shortcut | nn.Sequential, n_inputs: int, n_outputs: int | None = None, **hidden: Any
) -> Shortcut | nn.Sequential:
    """Build the mirror of what `shortcut_mlp` builds, by its weights, transposed; the linear map has gains, see `TiedLinear`.

    Parameters
    ----------
    encoder : Shortcut or Sequential
    n_inputs, n_outputs, **hidden
        See `tied_mlp`.
    """
    source = linear_map_of(encoder)
    assert isinstance(source, nn.Linear)
    linear = TiedLinear(source, n_inputs, n_outputs, has_gains=True)
    if not isinstance(encoder, Shortcut):
        return nn.Sequential(linear)
    *layers, outer = tied_mlp(nn.Sequential(*encoder.layers), n_inputs, n_outputs, **hidden)
    assert isinstance(outer, TiedLinear)
    outermost = next(layer for layer in encoder.layers if isinstance(layer, nn.Linear))
    return Shortcut(linear, nn.Sequential(*layers), TiedLinear(outermost, outer.in_features, n_outputs, bias=False))


def last_layers(network: nn.Module) -> list[nn.Linear | TiedLinear]:
    """Return the layers of a perceptron whose outputs are its own, in sum; none of another network."""
    if isinstance(network, Shortcut):
        return [network.linear, network.last]
    layers = list(network)[-1:] if type(network) is nn.Sequential else []
    return [layer for layer in layers if isinstance(layer, (nn.Linear, TiedLinear))]


def linear_map_of(network: nn.Module) -> nn.Linear | TiedLinear | None:
    """Return the linear map that a network is, or has beside it."""
    if isinstance(network, Shortcut):
        return network.linear
    layers = list(network) if type(network) is nn.Sequential else []
    return layers[0] if len(layers) == 1 and isinstance(layers[0], (nn.Linear, TiedLinear)) else None


@contextmanager
def past_statistics(network: nn.Module) -> Iterator[None]:
    """Have layers that normalize over a batch go by past ones, and learn nothing of the present one: it is no sample of rows."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True
