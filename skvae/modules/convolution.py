"""Convolutional encoders and decoders for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae.modules.layers import after, mlp, tied_mlp
from skvae.modules.specs import Conv

Pair = tuple[int, int]
Shape = tuple[int, int, int]


class _Halving:
    """Geometry of one convolution that halves the sides of an image; a side of one pixel stays."""

    def __init__(self, sides: Pair):
        (h, self._height), (w, self._width) = _halve(sides[0]), _halve(sides[1])
        self.sides, self.half = sides, (h, w)
        kernel, stride, padding = ((a, b) for a, b in zip(self._height, self._width, strict=True))
        self.geometry: tuple[Pair, Pair, Pair] = (kernel, stride, padding)
        # What the transposed convolution has to add to come back to an odd side.
        self.remainder = (sides[0] - h * stride[0], sides[1] - w * stride[1])

    def down(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """Convolution from the whole sides to the half."""
        return _measured(nn.Conv2d(n_inputs, n_outputs, *self.geometry), self.half, n_outputs, prod(self.half))

    def up(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """Transposed convolution from the half sides to the whole."""
        layer = nn.ConvTranspose2d(n_inputs, n_outputs, *self.geometry, self.remainder)
        return _measured(layer, self.sides, n_outputs, prod(self.half))

    def tied_up(self, source: nn.Conv2d) -> nn.Module:
        """Transposed convolution by the weights of the convolution that came down."""
        layer = TiedConvTranspose(source, *self.geometry[1:], self.remainder)
        return _measured(layer, self.sides, source.in_channels, prod(self.half))


def _halve(side: int) -> tuple[int, tuple[int, int, int]]:
    """Half of a side, with kernel, stride and padding of the convolution that gets there."""
    return (side // 2, (4, 2, 1)) if side > 1 else (1, (1, 1, 0))


class TiedConvTranspose(nn.Module):
    """Transposed convolution by an encoder's convolution, with a bias of its own."""

    def __init__(self, source: nn.Conv2d, stride: Pair, padding: Pair, output_padding: Pair):
        super().__init__()
        self._source = (source,)  # a tuple, which does not register it
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.bias = nn.Parameter(torch.zeros(source.in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self._source[0].weight, self.bias, self.stride, self.padding, self.output_padding)


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity.

    Parameters
    ----------
    channels : int
    sides : tuple of int
        Height and width of the image here.
    **hidden : dict
        `activation`, `dropout` and `normalization`.
    """

    def __init__(self, channels: int, sides: Pair, **hidden: Any):
        super().__init__()
        self.branch = nn.Sequential(
            _same(channels, channels, sides), *after(channels, images=True, **hidden), _same(channels, channels, sides)
        )
        self.activation = nn.Sequential(*after(channels, images=True, **hidden))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(x + self.branch(x))
        return y


def _same(n_inputs: int, n_outputs: int, sides: Pair) -> nn.Module:
    """Convolution that keeps the sides."""
    return _measured(nn.Conv2d(n_inputs, n_outputs, 3, padding=1), sides, n_outputs, prod(sides))


def _measured(layer: Any, sides: Pair, n_outputs: int, n_positions: int) -> nn.Module:
    """Note what a row costs in this layer, which its weights alone do not tell."""
    weight = layer._source[0].weight if isinstance(layer, TiedConvTranspose) else layer.weight
    layer.row_work = weight.numel() * n_positions
    layer.row_size = n_outputs * prod(sides)
    measured: nn.Module = layer
    return measured


def _halvings(image_shape: Shape, channels: Sequence[int]) -> list[_Halving]:
    steps: list[_Halving] = []
    sides = image_shape[1:]
    for _ in channels:
        steps.append(_Halving(sides))
        sides = steps[-1].half
    return steps


def conv_encoder(
    spec: Conv, image_shape: Shape, n_outputs: int, hidden_layer_sizes: Sequence[int], **hidden: Any
) -> nn.Sequential:
    """Build convolutions that halve an image, and a perceptron on what is left of it.

    Parameters
    ----------
    spec : Conv
    image_shape : tuple of int
        Channels, height and width.
    n_outputs : int
    hidden_layer_sizes : sequence of int
        Widths of the perceptron's hidden layers.
    **hidden : dict
        `activation`, `dropout` and `normalization` of all hidden layers.

    Returns
    -------
    Sequential
        Maps rows ``(n_samples, prod(image_shape))`` to ``(n_samples, n_outputs)``.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import Conv, conv_encoder
    >>> conv_encoder(Conv(channels=(8,)), (1, 20, 28), 3, ())(torch.zeros(2, 560)).shape
    torch.Size([2, 3])
    """
    layers: list[nn.Module] = [nn.Unflatten(1, image_shape)]
    width, sides = image_shape[0], image_shape[1:]
    for step, size in zip(_halvings(image_shape, spec.channels), map(int, spec.channels), strict=True):
        layers += [step.down(width, size), *after(size, images=True, **hidden)]
        layers += [ResidualBlock(size, step.half, **hidden) for _ in range(spec.residual_blocks)]
        width, sides = size, step.half
    return nn.Sequential(*layers, nn.Flatten(), *mlp(width * prod(sides), hidden_layer_sizes, n_outputs, **hidden))


def conv_decoder(
    spec: Conv,
    image_shape: Shape,
    n_inputs: int,
    hidden_layer_sizes: Sequence[int],
    *,
    tied_to: nn.Sequential | None = None,
    **hidden: Any,
) -> nn.Sequential:
    """Build the mirror of `conv_encoder`.

    Parameters
    ----------
    spec : Conv
    image_shape : tuple of int
        Channels, height and width.
    n_inputs : int
    hidden_layer_sizes : sequence of int
        Widths of the encoder's perceptron, whose order is reversed here.
    tied_to : Sequential, optional
        An encoder without residual blocks, whose weights are used transposed.
    **hidden : dict
        `activation`, `dropout` and `normalization` of all hidden layers.

    Returns
    -------
    Sequential
        Maps codes ``(n_samples, n_inputs)`` to rows ``(n_samples, prod(image_shape))``.
    """
    steps = _halvings(image_shape, spec.channels)
    sides = steps[-1].half if steps else image_shape[1:]
    widths = [image_shape[0], *map(int, spec.channels)]
    width = widths[-1]
    if tied_to is None:
        layers = [*mlp(n_inputs, hidden_layer_sizes[::-1], width * prod(sides), **hidden)]
        sources: list[Any] = [None] * len(steps)
    else:
        layers = [*tied_mlp(tied_to, n_inputs, **hidden)]
        sources = [layer for layer in tied_to if isinstance(layer, nn.Conv2d)]
    if steps:
        layers += after(width * prod(sides), **hidden)
    layers.append(nn.Unflatten(1, (width, *sides)))
    for i in reversed(range(len(steps))):
        step, size = steps[i], widths[i]
        layers += [ResidualBlock(width, step.half, **hidden) for _ in range(spec.residual_blocks)]
        if sources[i] is not None:
            layers.append(step.tied_up(sources[i]))
        elif spec.upsampling == "nearest":
            layers += [nn.Upsample(size=step.sides), _same(width, size, step.sides)]
        else:
            layers.append(step.up(width, size))
        if i > 0:
            layers += after(size, images=True, **hidden)
        width = size
    return nn.Sequential(*layers, nn.Flatten())
