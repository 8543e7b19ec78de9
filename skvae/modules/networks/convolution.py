"""Convolutional encoders and decoders for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae.modules.networks.layers import after, mlp, tied_mlp
from skvae.modules.networks.specs import AUTO, Conv

_CHANNELS, _MOST_PLACES = (32, 64), 256  # of images of up to 64 x 64 pixels, and where larger ones come to
_MOST_WEIGHTS = 2**22  # between what convolutions leave of a larger image and a hidden layer as wide as the code

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


class BesideImages(nn.Module):
    """Convolutions over the image that a row begins with; what else it holds passes by.

    Parameters
    ----------
    network : Module
        Maps rows of pixels to rows.
    n_pixels : int
    """

    def __init__(self, network: nn.Module, n_pixels: int):
        super().__init__()
        self.network, self.n_pixels = network, n_pixels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.network(x[:, : self.n_pixels]), x[:, self.n_pixels :]], dim=1)


def _same(n_inputs: int, n_outputs: int, sides: Pair) -> nn.Module:
    """Convolution that keeps the sides."""
    return _measured(nn.Conv2d(n_inputs, n_outputs, 3, padding=1), sides, n_outputs, prod(sides))


def _stretch(n_channels: int, sides: Pair) -> nn.Module:
    """Repeat pixels until an image has these sides."""
    layer = nn.Upsample(size=sides)
    layer.row_size = n_channels * prod(sides)  # type: ignore[assignment]
    return layer


def _measured(layer: Any, sides: Pair, n_outputs: int, n_positions: int) -> nn.Module:
    """Note what a row costs in this layer, which its weights alone do not tell."""
    weight = layer._source[0].weight if isinstance(layer, TiedConvTranspose) else layer.weight
    layer.row_work = weight.numel() * n_positions
    layer.row_size = n_outputs * prod(sides)
    measured: nn.Module = layer
    return measured


def default_channels(image_shape: Shape, n_components: int = 0) -> tuple[int, ...]:
    """Channels of convolutions that are left open: more halvings for larger images, so that the weights behind stay bounded.

    Parameters
    ----------
    image_shape : tuple of int
        Channels, height and width.
    n_components : int, default=0
        Size of the code, for which hidden layers may be widened; 0 for codes at the places of a grid.

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> default_channels((1, 28, 28)), default_channels((3, 256, 256))
    ((32, 64), (32, 64, 64, 64))
    """
    channels: tuple[int, ...] = _CHANNELS
    sides = _halvings(image_shape, channels)[-1].half
    if prod(sides) <= _MOST_PLACES:
        return channels
    # A layer as wide as the code that reads fewer numbers would waste its own.
    numbers = max(n_components, _MOST_WEIGHTS // max(1, n_components))
    most = min(_MOST_PLACES, numbers // channels[-1])
    while prod(sides) > most:
        sides = _Halving(sides).half
        channels = (*channels, channels[-1])
    return channels


def sized(spec: Conv, image_shape: Shape | None, n_components: int = 0) -> Conv:
    """Specification whose channels are decided; see `default_channels`."""
    if image_shape is None or not isinstance(spec.channels, str) or spec.channels != AUTO:
        return spec
    return Conv(**{**spec.get_params(), "channels": default_channels(image_shape, n_components)})


def _halvings(image_shape: Shape, channels: Sequence[int]) -> list[_Halving]:
    steps: list[_Halving] = []
    sides = image_shape[1:]
    for _ in channels:
        steps.append(_Halving(sides))
        sides = steps[-1].half
    return steps


def conv_encoder(
    spec: Conv, image_shape: Shape, n_outputs: int, hidden_layer_sizes: Sequence[int], n_beside: int = 0, **hidden: Any
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
    n_beside : int
        Numbers that follow the pixels in every row and join where the convolutions end.
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
    spec = sized(spec, image_shape)
    convolutions, width, sides = _convolutions(spec, image_shape, **hidden)
    features: list[nn.Module] = [*convolutions, nn.Flatten()]
    if n_beside:
        features = [BesideImages(nn.Sequential(*features), prod(image_shape))]
    return nn.Sequential(*features, *mlp(width * prod(sides) + n_beside, hidden_layer_sizes, n_outputs, **hidden))


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
    spec = sized(spec, image_shape)
    width, sides = grid_size(spec, image_shape)
    if tied_to is None:
        layers = [*mlp(n_inputs, hidden_layer_sizes[::-1], width * prod(sides), **hidden)]
    else:
        layers = [*tied_mlp(tied_to, n_inputs, width * prod(sides), **hidden)]  # without what joins beside the pixels
    if len(spec.channels):
        layers += after(width * prod(sides), **hidden)
    layers.append(nn.Unflatten(1, (width, *sides)))
    return nn.Sequential(*layers, *_transposed_convolutions(spec, image_shape, tied_to=tied_to, **hidden))


def grid_size(spec: Conv, image_shape: Shape) -> tuple[int, Pair]:
    """Channels and sides of what the convolutions of a specification make of an image."""
    spec = sized(spec, image_shape)
    steps = _halvings(image_shape, spec.channels)
    return (int(spec.channels[-1]), steps[-1].half) if steps else (image_shape[0], image_shape[1:])


def grid_encoder(spec: Conv, image_shape: Shape, n_outputs: int | None = None, **hidden: Any) -> nn.Sequential:
    """Build convolutions that halve an image down to a grid, without a perceptron behind them.

    Parameters
    ----------
    spec : Conv
    image_shape : tuple of int
        Channels, height and width.
    n_outputs : int, optional
        Channels of a linear map at every place of the grid, which comes last; none by default.
    **hidden : dict
        `activation`, `dropout` and `normalization` of all hidden layers.

    Returns
    -------
    Sequential
        Maps rows ``(n_samples, prod(image_shape))`` to ``(n_samples, n_channels, height, width)``, see `grid_size`.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import Conv
    >>> grid_encoder(Conv(channels=(8, 8)), (1, 20, 28), 3)(torch.zeros(2, 560)).shape
    torch.Size([2, 3, 5, 7])
    """
    layers, width, sides = _convolutions(sized(spec, image_shape), image_shape, **hidden)
    return nn.Sequential(*layers, *([] if n_outputs is None else [pointwise(width, n_outputs, sides)]))


def grid_decoder(spec: Conv, image_shape: Shape, n_inputs: int, **hidden: Any) -> nn.Sequential:
    """Build the mirror of `grid_encoder`, which begins with a convolution over the grid.

    Parameters
    ----------
    spec : Conv
    image_shape : tuple of int
        Channels, height and width.
    n_inputs : int
        Channels of the grid.
    **hidden : dict
        `activation`, `dropout` and `normalization` of all hidden layers.

    Returns
    -------
    Sequential
        Maps grids ``(n_samples, n_inputs, height, width)`` to rows ``(n_samples, prod(image_shape))``.
    """
    spec = sized(spec, image_shape)
    width, sides = grid_size(spec, image_shape)
    layers = [_same(n_inputs, width, sides)]
    if len(spec.channels):
        layers += after(width, images=True, **hidden)
    return nn.Sequential(*layers, *_transposed_convolutions(spec, image_shape, **hidden))


def halve_grid(spec: Conv, grid: Shape, **hidden: Any) -> nn.Sequential:
    """Build one more halving of a grid, which keeps its channels.

    Parameters
    ----------
    spec : Conv
        Its `residual_blocks` and `upsampling` count here.
    grid : tuple of int
        Channels, height and width.
    **hidden : dict
        `activation`, `dropout` and `normalization`.

    Returns
    -------
    Sequential
    """
    (step,) = _halvings(grid, (grid[0],))
    return nn.Sequential(*_down(spec, step, grid[0], grid[0], **hidden))


def double_grid(spec: Conv, grid: Shape, n_inputs: int, **hidden: Any) -> nn.Sequential:
    """Build the way back of `halve_grid`, from `n_inputs` channels.

    Parameters
    ----------
    spec : Conv
    grid : tuple of int
        Channels, height and width of what it returns.
    n_inputs : int
    **hidden : dict
        `activation`, `dropout` and `normalization`.

    Returns
    -------
    Sequential
    """
    width = grid[0]
    (step,) = _halvings(grid, (width,))
    first = [_same(n_inputs, width, step.half), *after(width, images=True, **hidden)]
    return nn.Sequential(*first, *_up(spec, step, width, width, **hidden), *after(width, images=True, **hidden))


def pointwise(n_inputs: int, n_outputs: int, sides: Pair) -> nn.Module:
    """Linear map at every place of a grid."""
    return _measured(nn.Conv2d(n_inputs, n_outputs, 1), sides, n_outputs, prod(sides))


def _convolutions(spec: Conv, image_shape: Shape, **hidden: Any) -> tuple[list[nn.Module], int, Pair]:
    """Layers from rows to a grid, and the grid's channels and sides."""
    layers: list[nn.Module] = [nn.Unflatten(1, image_shape)]
    width = image_shape[0]
    for step, size in zip(_halvings(image_shape, spec.channels), map(int, spec.channels), strict=True):
        layers += _down(spec, step, width, size, **hidden)
        width = size
    return layers, *grid_size(spec, image_shape)


def _transposed_convolutions(spec: Conv, image_shape: Shape, *, tied_to: Any = None, **hidden: Any) -> list[nn.Module]:
    """Layers from a grid to rows."""
    layers: list[nn.Module] = []
    steps = _halvings(image_shape, spec.channels)
    widths = [image_shape[0], *map(int, spec.channels)]
    sources = [None] * len(steps) if tied_to is None else [map_ for map_ in tied_to.modules() if isinstance(map_, nn.Conv2d)]
    for i in reversed(range(len(steps))):
        layers += _up(spec, steps[i], widths[i + 1], widths[i], source=sources[i], **hidden)
        if i > 0:
            layers += after(widths[i], images=True, **hidden)
    return [*layers, nn.Flatten()]


def _down(spec: Conv, step: _Halving, n_inputs: int, n_outputs: int, **hidden: Any) -> list[nn.Module]:
    """Layers that halve the sides."""
    blocks = [ResidualBlock(n_outputs, step.half, **hidden) for _ in range(spec.residual_blocks)]
    return [step.down(n_inputs, n_outputs), *after(n_outputs, images=True, **hidden), *blocks]


def _up(
    spec: Conv, step: _Halving, n_inputs: int, n_outputs: int, *, source: nn.Conv2d | None = None, **hidden: Any
) -> list[nn.Module]:
    """Layers that double the sides."""
    layers: list[nn.Module] = [ResidualBlock(n_inputs, step.half, **hidden) for _ in range(spec.residual_blocks)]
    if source is not None:
        return [*layers, step.tied_up(source)]
    if spec.upsampling == "nearest":
        return [*layers, _stretch(n_inputs, step.sides), _same(n_inputs, n_outputs, step.sides)]
    return [*layers, step.up(n_inputs, n_outputs)]
