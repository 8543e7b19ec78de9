"""Specifications of networks: plain values that are built anew in every fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from skvae._spec import Spec, check_count, check_fraction, check_name, in_words
from skvae.modules.networks.layers import ACTIVATIONS, NORMALIZATIONS

UPSAMPLINGS = ("transposed", "nearest")
AUTO = "auto"
CELLS: dict[str, type[nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class Net(Spec):
    """Specification of a network of your own: a class and its keyword arguments.

    The network is built in `fit` as ``module_class(n_inputs, n_outputs, **params)`` and maps a tensor of shape
    ``(n_samples, n_inputs)`` to one of shape ``(n_samples, n_outputs)``. Keyword arguments are reached by ``set_params``
    and searches through the parameter that holds the specification, as in ``encoder__width``.

    Parameters
    ----------
    module_class : type of Module
        The class, not an instance: an instance would carry trained weights from one fit to the next.
    **params : dict
        Keyword arguments of the class.

    Examples
    --------
    >>> from torch import nn
    >>> from skvae import AutoEncoder, Net
    >>> class Encoder(nn.Sequential):
    ...     def __init__(self, n_inputs, n_outputs, width=32):
    ...         super().__init__(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, n_outputs))
    >>> AutoEncoder(encoder=Net(Encoder, width=64)).get_params()["encoder__width"]
    64
    """

    def __init__(self, module_class: type[nn.Module], **params: Any):
        if not (isinstance(module_class, type) and issubclass(module_class, nn.Module)):
            kind = "an instance of a Module" if isinstance(module_class, nn.Module) else repr(module_class)
            raise TypeError(f"Net takes a subclass of torch.nn.Module, not {kind}; pass the class and its arguments.")
        for name, value in params.items():
            if isinstance(value, (nn.Module, Tensor)):
                kind = type(value).__name__
                raise TypeError(f"Net(..., {name}={kind}(...)) would carry weights from one fit to the next; pass plain values.")
        self.module_class = module_class
        self.params = params

    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """Build the network.

        Parameters
        ----------
        n_inputs : int
            Width of what goes in.
        n_outputs : int
            Width of what comes out.

        Returns
        -------
        module : Module
            With new weights.

        Raises
        ------
        ValueError
            If the class cannot be made with these arguments.
        """
        try:
            return self.module_class(n_inputs, n_outputs, **self.params)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self!r} cannot be built with n_inputs={n_inputs} and n_outputs={n_outputs}: {what}") from error


Filled = TypeVar("Filled", bound="Layered")


class Layered(Spec):
    """What the specifications of hidden layers share.

    Widths and activation that are None are the estimator's own, see `fill`.
    """

    hidden_layer_sizes: Any
    activation: Any
    dropout: float
    normalization: str | None

    def _compared(self) -> dict[str, Any]:
        """Arguments, of which sequences are lists: tuples and arrays of the same numbers are the same."""
        return {
            name: np.asarray(value).tolist() if isinstance(value, (list, tuple, np.ndarray)) else value
            for name, value in self.get_params().items()
        }

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        for name in asked_of(self):
            _CHECKS[name](self)


def _check_hidden_layer_sizes(spec: Layered) -> None:
    if spec.hidden_layer_sizes is None:
        return
    try:
        layer_sizes(spec.hidden_layer_sizes)
    except ValueError as error:
        raise ValueError(f"{spec!r}: {str(error).rstrip('.')}, or None for the estimator's own.") from None


def _check_activation(spec: Layered) -> None:
    given = spec.activation
    if isinstance(given, nn.Module):
        cls = type(given).__name__
        raise ValueError(
            f"{type(spec).__name__}(activation={cls}(...)) holds a module instance, which would keep its weights between "
            f"fits; pass the class {cls} or a name."
        )
    if isinstance(given, str) and given not in ACTIVATIONS:
        raise ValueError(f"{spec!r}: activation={given!r} must be one of {in_words(ACTIVATIONS)}, or a class.")
    if not isinstance(given, (str, type, type(None))):
        raise ValueError(f"{spec!r}: activation={given!r} must be a name, a class, or None for the estimator's own.")


def _check_normalization(spec: Layered) -> None:
    if spec.normalization is not None:
        check_name(spec, "normalization", NORMALIZATIONS, or_else=", or None")


def _check_channels(spec: Any) -> None:
    if not _is_auto(spec.channels) and not _are_counts(spec.channels):
        raise ValueError(f"{spec!r}: channels={spec.channels!r} must be a sequence of integers of at least 1, or 'auto'.")


def _check_residual_blocks(spec: Any) -> None:
    if not isinstance(spec.residual_blocks, Integral) or int(spec.residual_blocks) < 0:
        raise ValueError(f"{spec!r}: residual_blocks={spec.residual_blocks!r} must be an integer of at least 0.")


_CHECKS: dict[str, Callable[[Any], None]] = {
    "hidden_layer_sizes": _check_hidden_layer_sizes,
    "activation": _check_activation,
    "dropout": lambda spec: check_fraction(spec, "dropout"),
    "normalization": _check_normalization,
    "channels": _check_channels,
    "residual_blocks": _check_residual_blocks,
    "upsampling": lambda spec: check_name(spec, "upsampling", UPSAMPLINGS),
}


def fill(spec: Filled, hidden_layer_sizes: Sequence[int], activation: str | type[nn.Module]) -> Filled:
    """Copy of a specification with widths and activation in place of those that are None."""
    sizes = hidden_layer_sizes if spec.hidden_layer_sizes is None else spec.hidden_layer_sizes
    activation = activation if spec.activation is None else spec.activation
    return type(spec)(**{**spec.get_params(), "hidden_layer_sizes": layer_sizes(sizes), "activation": activation})


def hidden_of(spec: Layered) -> dict[str, Any]:
    """Return what the hidden layers of a specification are built by: `activation`, `dropout` and `normalization`."""
    return {"activation": spec.activation, "dropout": spec.dropout, "normalization": spec.normalization}


def layer_sizes(sizes: Any) -> tuple[int, ...]:
    """Widths of hidden layers as a tuple; raises a ValueError if they are none."""
    widths = np.atleast_1d(np.asarray(sizes)) if np.size(sizes) else np.empty(0, dtype=int)
    if widths.ndim != 1 or widths.dtype.kind not in "iu" or (widths < 1).any():
        raise ValueError(f"hidden_layer_sizes={sizes!r} must be a sequence of integers of at least 1, or empty.")
    return tuple(int(width) for width in widths)


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == AUTO


def _are_counts(values: Any) -> bool:
    """Whether values are a sequence of integers of at least 1."""
    listed = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim == 1)
    return listed and all(isinstance(value, Integral) and int(value) >= 1 for value in values)


class MLP(Layered):
    """Specification of a perceptron.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int or None, default=None
        Widths of the hidden layers, from the input on; empty for a linear map. None takes the estimator's own
        `hidden_layer_sizes` for an encoder, and those of the encoder, in reverse, for a decoder.
    activation : str, type of Module or None, default=None
        Activation of the hidden layers; None takes that of the encoder, or the estimator's own `activation`.
    dropout : float, default=0.0
        Probability of zeroing a hidden unit in training.
    normalization : {"batch", "layer"} or None, default=None
        Normalization before each activation.

    Examples
    --------
    >>> from skvae import MLP, AutoEncoder
    >>> ae = AutoEncoder(encoder=MLP((128, 64), dropout=0.1))
    >>> ae.set_params(encoder__normalization="batch").encoder
    MLP(hidden_layer_sizes=(128, 64), dropout=0.1, normalization='batch')
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = None,
        activation: Any = None,
        *,
        dropout: float = 0.0,
        normalization: str | None = None,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.normalization = normalization


class Conv(Layered):
    """Specification of a convolutional network for images.

    Every entry of `channels` halves the image's sides in the encoder and doubles them in the decoder; hidden layers lie between
    the convolutions and the code. A decoder that is left None mirrors the encoder's specification.

    Parameters
    ----------
    channels : sequence of int or "auto", default="auto"
        Channels behind each halving, from the image inward, for encoder and decoder alike. "auto" is (32, 64) for images of up to
        64 x 64 pixels. Larger ones are halved further, to 64 channels each time, until no more than 256 places are left, or fewer
        for codes of more than 256 components, so that the hidden layers behind have weights by the million at most.
    residual_blocks : int, default=0
        Residual blocks, of two convolutions each, at every size.
    upsampling : {"transposed", "nearest"}, default="transposed"
        How a decoder doubles the sides: transposed convolutions, or nearest neighbors and a convolution.
    hidden_layer_sizes : array-like of int or None, default=None
        Widths of the hidden layers between convolutions and code, from the input on. None takes the estimator's own
        `hidden_layer_sizes` for an encoder, and those of the encoder, in reverse, for a decoder.
    activation : str, type of Module or None, default=None
        Activation of all hidden layers, convolutions included; None takes that of the encoder, or the estimator's own
        `activation`.
    dropout : float, default=0.0
        Probability of zeroing a hidden unit in training.
    normalization : {"batch", "layer"} or None, default=None
        Normalization before each activation.

    Examples
    --------
    >>> from skvae import Conv, VAETransformer
    >>> vae = VAETransformer(image_shape=(1, 28, 28), encoder=Conv(channels=(16, 32), residual_blocks=1))
    >>> vae.set_params(encoder__residual_blocks=2).encoder
    Conv(channels=(16, 32), residual_blocks=2)
    """

    def __init__(
        self,
        channels: Any = AUTO,
        *,
        residual_blocks: int = 0,
        upsampling: str = "transposed",
        hidden_layer_sizes: Any = None,
        activation: Any = None,
        dropout: float = 0.0,
        normalization: str | None = None,
    ):
        self.channels = channels
        self.residual_blocks = residual_blocks
        self.upsampling = upsampling
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.normalization = normalization


_FLAT = ("hidden_layer_sizes", "activation")  # None stands for the estimator's own, in every specification
_OF_IMAGES = {*signature(Conv).parameters} - {*signature(MLP).parameters}


class DefaultNet(Layered):
    """Specification of the network that None stands for, with some of its arguments set.

    Its kind and all arguments that are left out are decided in `fit`. An encoder is a :class:`Conv` for images and an
    :class:`MLP` for rows, with their defaults; a decoder is as the encoder is by then. It takes the place of None where
    ``set_params(decoder__dropout=0.1)`` sets an argument of None.

    Parameters
    ----------
    hidden_layer_sizes : array-like of int or None, default=None
        Widths of the hidden layers, from the input on; None takes the estimator's own `hidden_layer_sizes` for an encoder, and
        those of the encoder, in reverse, for a decoder.
    activation : str, type of Module or None, default=None
        Activation of the hidden layers; None takes that of the encoder, or the estimator's own `activation`.
    dropout : float or "auto", default="auto"
        Probability of zeroing a hidden unit in training; "auto" here and below is left out.
    normalization : {"batch", "layer", "auto"} or None, default="auto"
        Normalization before each activation.
    channels : sequence of int or "auto", default="auto"
        As in a `Conv`, which the network is where this or one of the next two is given.
    residual_blocks : int or "auto", default="auto"
        As in a `Conv`.
    upsampling : {"transposed", "nearest", "auto"}, default="auto"
        As in a `Conv`.

    Examples
    --------
    >>> from skvae import MLP, AutoEncoder
    >>> ae = AutoEncoder(encoder=MLP(normalization="batch")).set_params(decoder__dropout=0.1)
    >>> ae.decoder  # normalized as the encoder
    DefaultNet(dropout=0.1)
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = None,
        activation: Any = None,
        *,
        dropout: Any = AUTO,
        normalization: str | None = AUTO,
        channels: Any = AUTO,
        residual_blocks: Any = AUTO,
        upsampling: str = AUTO,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.normalization = normalization
        self.channels = channels
        self.residual_blocks = residual_blocks
        self.upsampling = upsampling


def asked_of(spec: Layered) -> dict[str, Any]:
    """Return the arguments that a specification does not leave to others, by name."""
    if not isinstance(spec, DefaultNet):
        return spec.get_params()
    return {name: value for name, value in spec.get_params().items() if not (value is None if name in _FLAT else _is_auto(value))}


def convolves(spec: Any) -> bool:
    """Whether a specification asks for convolutions, by its kind or by arguments that they alone have."""
    return isinstance(spec, Conv) or (isinstance(spec, DefaultNet) and not _OF_IMAGES.isdisjoint(asked_of(spec)))


def completed(spec: DefaultNet, followed: MLP | Conv) -> MLP | Conv:
    """Return the network that follows another one in what is not asked for."""
    cls = Conv if convolves(spec) else type(followed)
    return cls(**{**_shared(followed, cls), **asked_of(spec)})


def _shared(spec: MLP | Conv, cls: type[Layered]) -> dict[str, Any]:
    """Return the arguments of a specification that another class has, too."""
    return {name: value for name, value in spec.get_params().items() if name in cls._arguments()}


class LinearPath(Spec):
    """Specification of linear maps beside the perceptrons of encoder and decoder, whose outputs are added to theirs.

    The linear maps begin at the linear special case of the model, in closed form: principal components, factor analysis or a
    linear denoiser. The perceptrons begin at zero, and a decoupled weight decay [1]_ holds them back, so that they learn
    what linear maps leave as far as the rows bear it out.

    Parameters
    ----------
    weight_decay : float or "auto", default="auto"
        Decay of the perceptrons' weights, relative to the learning rate: the larger, the closer to a linear model;
        infinity leaves the linear maps alone. "auto" chooses by rows that are held out of the training rows; `partial_fit`, which
        sees a part of them, takes 1, and so does a run of fewer than 100 steps.

    References
    ----------
    .. [1] Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> from skvae import AutoEncoder, LinearPath
    >>> AutoEncoder(linear_path=LinearPath(weight_decay=10.0)).get_params()["linear_path__weight_decay"]
    10.0
    """

    def __init__(self, weight_decay: float | str = AUTO):
        self.weight_decay = weight_decay

    def check(self) -> None:
        """Look whether the decay is one.

        Raises
        ------
        ValueError
            If it is not.
        """
        given = self.weight_decay
        is_number = isinstance(given, Real) and not isinstance(given, bool) and float(given) >= 0.0
        if not is_number and not (isinstance(given, str) and given == AUTO):
            raise ValueError(f"{self!r}: weight_decay={given!r} must be a number of at least 0, infinity included, or 'auto'.")


class Recurrent(Spec):
    """Specification of a recurrent network for sequences.

    Parameters
    ----------
    cell : {"gru", "lstm"}, default="lstm"
        Kind of the network.
    n_layers : int, default=1
        Its layers.
    dropout : float, default=0.0
        Probability of zeroing a unit between two layers in training.

    Examples
    --------
    >>> from skvae import TDVAE, Recurrent
    >>> TDVAE(encoder=Recurrent("gru", n_layers=2)).set_params(encoder__dropout=0.1).encoder
    Recurrent(cell='gru', n_layers=2, dropout=0.1)
    """

    def __init__(self, cell: str = "lstm", *, n_layers: int = 1, dropout: float = 0.0):
        self.cell = cell
        self.n_layers = n_layers
        self.dropout = dropout

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_name(self, "cell", CELLS)
        check_count(self, "n_layers")
        check_fraction(self, "dropout")
        if self.dropout > 0.0 and self.n_layers == 1:
            raise ValueError(f"{self!r}: dropout={self.dropout!r} acts between layers, of which n_layers=1 leaves one; raise it.")
