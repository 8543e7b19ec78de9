"""The one place that decides which networks a model gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from skvae.modules.networks.convolution import Shape, conv_decoder, conv_encoder, sized
from skvae.modules.networks.layers import ACTIVATIONS, mlp, shortcut_mlp, tied_mlp, tied_shortcut
from skvae.modules.networks.specs import MLP, Conv, DefaultNet, Layered, Net, completed, convolves, fill, hidden_of

Network = MLP | Conv | Net
Given = Network | DefaultNet | None
TIED = "tied"


def build_networks(
    n_inputs: int,
    n_components: int,
    n_codes: int,
    n_outputs: int,
    *,
    hidden_layer_sizes: Sequence[int] = (128, 64),
    activation: str | type[nn.Module] = "relu",
    encoder: Given = None,
    decoder: Given | str = None,
    image_shape: Shape | None = None,
    code_activation: str = "identity",
    n_conditions: int = 0,
    encode_condition: bool = False,
    n_indicators: int = 0,
    linear_path: bool = False,
) -> tuple[nn.Module, nn.Module]:
    """Build an encoder and a decoder: perceptrons, convolutions for images, or networks of the user's own.

    Parameters
    ----------
    n_inputs : int
        What the encoder reads of a row.
    n_components : int
    n_codes : int
        Outputs of the encoder: a multiple of `n_components`, the code first.
    n_outputs : int
        What the decoder returns for a row.
    hidden_layer_sizes, activation, encoder, decoder, image_shape
        See `resolve_networks`.
    code_activation : str
        Activation of the code.
    n_conditions : int
        Inputs of the decoder beside the code.
    encode_condition : bool
        Whether the conditions are inputs of the encoder, too, beside the rows.
    n_indicators : int
        Further inputs of the encoder: which entries are missing.
    linear_path : bool
        Whether perceptrons have linear maps beside them, and begin at zero.

    Returns
    -------
    encoder, decoder : Module

    Raises
    ------
    ValueError
        If the specifications do not go together.
    """
    down, up = resolve_networks(encoder, decoder, hidden_layer_sizes, activation, image_shape, n_components)
    n_beside = n_indicators + (n_conditions if encode_condition else 0)
    first: Any
    if isinstance(down, Net):
        first = down.build(n_inputs + n_beside, n_codes)
    elif isinstance(down, Conv):
        assert image_shape is not None
        first = conv_encoder(down, image_shape, n_codes, down.hidden_layer_sizes, n_beside, **hidden_of(down))
    else:
        sizes = n_inputs + n_beside, down.hidden_layer_sizes, n_codes
        if linear_path:
            first = shortcut_mlp(*sizes, is_shared=up == TIED, **hidden_of(down))
        else:
            first = mlp(*sizes, **hidden_of(down))
    second: nn.Module
    source, n_given = None, n_components + n_conditions
    if isinstance(up, str):
        assert isinstance(down, Layered)
        source, up = first, mirrored(down)
    if isinstance(up, Net):
        second = up.build(n_given, n_outputs)
    elif isinstance(up, Conv):
        assert image_shape is not None
        second = conv_decoder(up, image_shape, n_given, up.hidden_layer_sizes[::-1], tied_to=source, **hidden_of(up))
    elif source is not None and linear_path:
        second = tied_shortcut(source, n_components, n_outputs, **hidden_of(up))
    elif source is not None:
        second = tied_mlp(source, n_components, n_outputs, **hidden_of(up))
    elif linear_path:
        second = shortcut_mlp(n_given, up.hidden_layer_sizes, n_outputs, **hidden_of(up))
    else:
        second = mlp(n_given, up.hidden_layer_sizes, n_outputs, **hidden_of(up))
    if code_activation != "identity":
        layers = first if type(first) is nn.Sequential else [first]
        first = nn.Sequential(*layers, ACTIVATIONS[code_activation]())
    return first, second


def resolve_networks(
    encoder: Given,
    decoder: Given | str,
    hidden_layer_sizes: Sequence[int],
    activation: str | type[nn.Module],
    image_shape: Shape | None,
    n_components: int = 0,
) -> tuple[Network, Network | str]:
    """Complete specifications of an encoder and a decoder, which go together.

    Parameters
    ----------
    encoder : MLP, Conv, Net, DefaultNet or None
        None is a perceptron, or a convolutional network where there is an `image_shape`; a `DefaultNet` is the same but for
        what it asks for.
    decoder : MLP, Conv, Net, DefaultNet, "tied" or None
        None mirrors the encoder, and a `DefaultNet` but for what it asks for; "tied" has the encoder's weights, transposed, too.
    hidden_layer_sizes : sequence of int
        Widths of the encoder's hidden layers, where it has none of its own; the decoder's are those of the encoder, in reverse.
    activation : str or type of Module
        Their activation, likewise.
    image_shape : tuple of int or None
        Channels, height and width.
    n_components : int, default=0
        Size of the code, on which convolutions of large images depend where their channels are left open; 0 for codes at the
        places of a grid.

    Returns
    -------
    encoder, decoder : MLP, Conv, Net or "tied"
        Nothing in them is None, or "auto", that could be filled in.

    Raises
    ------
    ValueError
        If they do not go together.
    """
    for name, spec in (("encoder", encoder), ("decoder", decoder)):
        if isinstance(spec, Layered):
            spec.check()
        if convolves(spec) and image_shape is None:
            raise ValueError(
                f"{name}={spec!r} convolves images: set image_shape=(channels, height, width), or pass X of that shape, "
                "(n_samples, channels, height, width)."
            )
    given = resolve_encoder(encoder, image_shape, n_components)
    down = fill(given, hidden_layer_sizes, activation) if isinstance(given, Layered) else given
    if isinstance(decoder, str):
        _check_tied(given)
        return down, decoder
    default = resolve_encoder(None, image_shape, n_components)
    assert isinstance(default, Layered)
    mirror = mirrored(down if isinstance(down, Layered) else fill(default, hidden_layer_sizes, activation))
    if decoder is None:
        return down, mirror
    up = completed(decoder, mirror) if isinstance(decoder, DefaultNet) else decoder
    up = sized(up, image_shape, n_components) if isinstance(up, Conv) else up
    return down, fill(up, mirror.hidden_layer_sizes, mirror.activation) if isinstance(up, Layered) else up


def resolve_encoder(encoder: Given, image_shape: Shape | None, n_components: int = 0) -> Network:
    """Specification of an encoder that is decided: convolutions for images and a perceptron for rows where it is left open."""
    default = MLP() if image_shape is None else Conv()
    spec: Network
    if encoder is None:
        spec = default
    else:
        spec = completed(encoder, default) if isinstance(encoder, DefaultNet) else encoder
    return sized(spec, image_shape, n_components) if isinstance(spec, Conv) else spec


def mirrored(spec: MLP | Conv) -> MLP | Conv:
    """Specification of the decoder that mirrors an encoder."""
    return type(spec)(**{**spec.get_params(), "hidden_layer_sizes": spec.hidden_layer_sizes[::-1]})


def _check_tied(encoder: Network) -> None:
    """Raise a ValueError about an encoder that a decoder cannot share its weights with."""
    if isinstance(encoder, Net):
        raise ValueError(f"decoder='tied' needs an encoder that it can mirror, which encoder={encoder!r} is not.")
    if not can_tie(encoder):
        raise ValueError(
            f"decoder='tied' needs an encoder that it can mirror: encoder={encoder!r} must have residual_blocks=0 and "
            "upsampling='transposed'."
        )


def can_tie(encoder: Network) -> bool:
    """Whether a decoder can have the weights of an encoder, transposed."""
    return isinstance(encoder, MLP) or (
        isinstance(encoder, Conv) and not encoder.residual_blocks and encoder.upsampling == "transposed"
    )
