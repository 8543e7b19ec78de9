"""The one place that decides which networks a model gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from skvae.modules.networks.convolution import Shape, conv_decoder, conv_encoder
from skvae.modules.networks.layers import ACTIVATIONS, mlp, tied_mlp
from skvae.modules.networks.specs import Conv, Net


def build_networks(
    n_features: int,
    n_components: int,
    n_codes: int,
    *,
    hidden_layer_sizes: Sequence[int] = (128, 64),
    encoder: Net | Conv | None = None,
    decoder: Net | Conv | None = None,
    image_shape: Shape | None = None,
    tied_weights: bool = False,
    code_activation: str = "identity",
    n_conditions: int = 0,
    encode_condition: bool = False,
    n_indicators: int = 0,
    **hidden: Any,
) -> tuple[nn.Module, nn.Module]:
    """Build an encoder and a decoder: perceptrons, convolutions for images, or networks of the user's own.

    Parameters
    ----------
    n_features, n_components : int
    n_codes : int
        Outputs of the encoder: a multiple of `n_components`, the code first.
    hidden_layer_sizes : sequence of int
        Widths of the encoder's hidden layers; the decoder mirrors them.
    encoder, decoder : Net, Conv or None
        Specifications; None is a perceptron, or a convolutional network where there is an `image_shape`.
    image_shape : tuple of int or None
        Channels, height and width.
    tied_weights : bool
        Have the decoder use the encoder's weights, transposed.
    code_activation : str
        Activation of the code.
    n_conditions : int
        Inputs of the decoder beside the code.
    encode_condition : bool
        Have them beside the rows as inputs of the encoder, too.
    n_indicators : int
        Further inputs of the encoder: which entries are missing.
    **hidden : dict
        `activation`, `dropout` and `normalization` of the hidden layers.

    Returns
    -------
    encoder, decoder : Module

    Raises
    ------
    ValueError
        If the specifications do not go together.
    """
    check_networks(encoder, decoder, image_shape, tied_weights)
    sizes = tuple(hidden_layer_sizes)
    if image_shape is not None:
        encoder = Conv() if encoder is None else encoder
        decoder = (encoder if isinstance(encoder, Conv) else Conv()) if decoder is None else decoder
    n_beside = n_indicators + (n_conditions if encode_condition else 0)
    first: Any
    if isinstance(encoder, Net):
        first = encoder.build(n_features + n_beside, n_codes)
    elif isinstance(encoder, Conv):
        assert image_shape is not None
        first = conv_encoder(encoder, image_shape, n_codes, sizes, n_beside, **hidden)
    else:
        first = mlp(n_features + n_beside, sizes, n_codes, **hidden)
    second: nn.Module
    if isinstance(decoder, Net):
        second = decoder.build(n_components + n_conditions, n_features)
    elif isinstance(decoder, Conv):
        assert image_shape is not None
        source = first if tied_weights else None
        second = conv_decoder(decoder, image_shape, n_components + n_conditions, sizes, tied_to=source, **hidden)
    elif tied_weights:
        second = tied_mlp(first, n_components, n_features, **hidden)
    else:
        second = mlp(n_components + n_conditions, sizes[::-1], n_features, **hidden)
    if code_activation != "identity":
        layers = first if type(first) is nn.Sequential else [first]
        first = nn.Sequential(*layers, ACTIVATIONS[code_activation]())
    return first, second


def check_networks(encoder: Net | Conv | None, decoder: Net | Conv | None, image_shape: Shape | None, tied_weights: bool) -> None:
    """Raise a ValueError about specifications that do not go together."""
    for name, spec in (("encoder", encoder), ("decoder", decoder)):
        if isinstance(spec, Conv):
            spec.check()
            if image_shape is None:
                raise ValueError(
                    f"{name}={spec!r} convolves images: set image_shape=(channels, height, width), or pass X of that shape, "
                    "(n_samples, channels, height, width)."
                )
        if tied_weights and isinstance(spec, Net):
            raise ValueError(f"tied_weights=True needs a decoder that mirrors the encoder, which {name}={spec!r} does not.")
    if not tied_weights or image_shape is None:
        return
    mirrored = Conv() if encoder is None else encoder
    assert isinstance(mirrored, Conv)
    if mirrored.residual_blocks or mirrored.upsampling != "transposed":
        raise ValueError(
            f"tied_weights=True needs a decoder that mirrors the encoder: encoder={mirrored!r} must have residual_blocks=0 and "
            "upsampling='transposed'."
        )
    if decoder is not None and decoder != mirrored:
        raise ValueError(
            f"tied_weights=True needs a decoder that mirrors the encoder: decoder={decoder!r}, but encoder={mirrored!r}."
        )
