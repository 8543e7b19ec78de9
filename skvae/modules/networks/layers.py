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


class GainedLinear(nn.Module):
    """Linear map that is a decoder's, transposed, but for units: a factor for every input and every output.

    Such are the posterior mean of a factor model and its loadings. With these factors far from one, as where noise is small, a
    step of the optimizer that one map bears would ruin the other. So what is learned lies halfway between them, which is what
    both are in units of the noise and of the posterior. The factors are set by the start and stay: a step of theirs would scale
    whole rows.

    Parameters
    ----------
    in_features, out_features : int
    """

    input_gain: Tensor
    output_gain: Tensor

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        begun = nn.Linear(in_features, out_features)
        self.shared, self.bias = begun.weight, begun.bias
        self.register_buffer("input_gain", torch.ones(in_features))  # a root of the factors, of which each map has one
        self.register_buffer("output_gain", torch.ones(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """The weights, ``(out_features, in_features)``."""
        return self.shared / self.output_gain.unsqueeze(1) / self.input_gain

    @property
    def of_decoder(self) -> Tensor:
        """The weights of the decoder, transposed, ``(out_features, in_features)``."""
        return self.shared * self.output_gain.unsqueeze(1) * self.input_gain

    @property
    def row_work(self) -> int:
        """Multiply-adds a row."""
        return self.in_features * self.out_features

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def set_weight(self, weight: Tensor, gains: tuple[Tensor, Tensor]) -> None:
        """Set the weights of the first outputs, zero those of the others, and set the factors.

        Parameters
        ----------
        weight : Tensor of shape (n, in_features)
        gains : tuple of Tensor
            By what the weights are multiplied to give those of the decoder, transposed: for the outputs ``(n,)`` and for the
            inputs, of which there may be fewer than of the map.
        """
        of_outputs, of_inputs = (gain.to(weight).sqrt() for gain in gains)
        n_outputs, n_inputs = len(of_outputs), len(of_inputs)
        self.output_gain[:n_outputs] = of_outputs
        self.input_gain[:n_inputs] = of_inputs
        self.shared.zero_()
        self.shared[:n_outputs] = weight * of_outputs.unsqueeze(1)
        self.shared[:n_outputs, :n_inputs] *= of_inputs


class TiedLinear(nn.Module):
    """Linear map by another one's weights, transposed, with a bias of its own.

    Parameters
    ----------
    source : Linear or GainedLinear
        Stays the owner of the weights, which are neither counted nor saved twice.
    n_inputs : int
        How many of its outputs, from the first on, are the inputs here.
    n_outputs : int, optional
        How many of its inputs, from the first on, are the outputs here; all by default.
    bias : bool, default=True
        Whether it has a bias.
    """

    def __init__(self, source: nn.Linear | GainedLinear, n_inputs: int, n_outputs: int | None = None, *, bias: bool = True):
        super().__init__()
        self._source = (source,)  # a tuple, which does not register it
        self.in_features, self.out_features = n_inputs, source.in_features if n_outputs is None else n_outputs
        self.bias = nn.Parameter(torch.zeros(self.out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if not torch.is_grad_enabled():
            # By a transposed matrix, a row's product depends in its last bits on where the row stands.
            weight = weight.contiguous()
        return F.linear(x, weight, self.bias)

    @property
    def weight(self) -> Tensor:
        """The weights, ``(out_features, in_features)``."""
        (source,) = self._source
        weight = source.of_decoder if isinstance(source, GainedLinear) else source.weight
        return weight[: self.in_features, : self.out_features].mT

    @property
    def row_work(self) -> int:
        """Multiply-adds a row."""
        return self.in_features * self.out_features

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


LINEAR = nn.Linear, GainedLinear, TiedLinear


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
    linear : Linear, GainedLinear or TiedLinear
        The linear map, with a bias.
    hidden : Sequential
        The perceptron but for its last layer.
    last : Linear or TiedLinear
        The perceptron's last layer, without a bias.
    """

    def __init__(self, linear: nn.Linear | GainedLinear | TiedLinear, hidden: nn.Sequential, last: nn.Linear | TiedLinear):
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


def shortcut_mlp(
    n_inputs: int, hidden_layer_sizes: Sequence[int], n_outputs: int, *, is_shared: bool = False, **hidden: Any
) -> Shortcut | nn.Sequential:
    """Build a perceptron that begins at zero, and a linear map beside it; the latter alone where there are no hidden layers.

    Parameters
    ----------
    n_inputs, hidden_layer_sizes, n_outputs, **hidden
        See `mlp`.
    is_shared : bool, default=False
        Whether a decoder has the weights of the linear map.
    """
    network = mlp(n_inputs, hidden_layer_sizes, n_outputs, **hidden)
    if not hidden_layer_sizes:
        return nn.Sequential(GainedLinear(n_inputs, n_outputs)) if is_shared else network
    last = nn.Linear(hidden_layer_sizes[-1], n_outputs, bias=False)
    nn.init.zeros_(last.weight)
    linear = (GainedLinear if is_shared else nn.Linear)(n_inputs, n_outputs)
    return Shortcut(linear, nn.Sequential(*list(network)[:-1]), last)


def tied_shortcut(
    encoder: Shortcut | nn.Sequential, n_inputs: int, n_outputs: int | None = None, **hidden: Any
) -> Shortcut | nn.Sequential:
    """Build the mirror of what `shortcut_mlp` builds to be shared, by its weights, transposed.

    Parameters
    ----------
    encoder : Shortcut or Sequential
    n_inputs, n_outputs, **hidden
        See `tied_mlp`.
    """
    source = linear_map_of(encoder)
    assert isinstance(source, GainedLinear)
    linear = TiedLinear(source, n_inputs, n_outputs)
    if not isinstance(encoder, Shortcut):
        return nn.Sequential(linear)
    *layers, outer = tied_mlp(nn.Sequential(*encoder.layers), n_inputs, n_outputs, **hidden)
    assert isinstance(outer, TiedLinear)
    outermost = next(layer for layer in encoder.layers if isinstance(layer, nn.Linear))
    return Shortcut(linear, nn.Sequential(*layers), TiedLinear(outermost, outer.in_features, n_outputs, bias=False))


def last_layers(network: nn.Module) -> list[nn.Linear | GainedLinear | TiedLinear]:
    """Return the layers of a perceptron whose outputs are its own, in sum; none of another network."""
    if isinstance(network, Shortcut):
        return [network.linear, network.last]
    layers = list(network)[-1:] if type(network) is nn.Sequential else []
    return [layer for layer in layers if isinstance(layer, LINEAR)]


def linear_map_of(network: nn.Module) -> nn.Linear | GainedLinear | TiedLinear | None:
    """Return the linear map that a network is, or has beside it."""
    if isinstance(network, Shortcut):
        return network.linear
    layers = list(network) if type(network) is nn.Sequential else []
    return layers[0] if len(layers) == 1 and isinstance(layers[0], LINEAR) else None


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
