"""Specifications of networks: plain values that are built anew in every fit."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import joblib
import numpy as np
from torch import Tensor, nn

UPSAMPLINGS = ("transposed", "nearest")


class Spec:
    """Arguments with ``get_params`` and ``set_params``, which searches reach as ``encoder__<name>``."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments by name."""
        raise NotImplementedError

    def set_params(self, **params: Any) -> Spec:
        """Change arguments."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        mine, others = self._compared(), other._compared()  # type: ignore[attr-defined]
        return mine.keys() == others.keys() and all(_is_same(value, others[name]) for name, value in mine.items())

    def _compared(self) -> dict[str, Any]:
        """Arguments in the form in which they are compared."""
        return self.get_params()

    __hash__ = None  # type: ignore[assignment]


def _is_same(one: Any, other: Any) -> bool:
    """Whether two arguments are the same, be they arrays, or of a class without a comparison of its own."""
    if one is other:
        return True
    try:
        if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
            equal = np.array_equal(one, other)
        else:
            equal = one == other
            equal = equal if isinstance(equal, (bool, np.bool_)) else np.array_equal(one, other)
    except Exception:
        equal = False
    if equal:
        return True
    try:  # copies of containers of arrays, of NaN, and of instances
        return bool(joblib.hash(one) == joblib.hash(other))
    except Exception:  # what cannot be pickled
        return False


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
        self.module_class = module_class
        self.params = self._checked(params)

    @staticmethod
    def _checked(params: dict[str, Any]) -> dict[str, Any]:
        for name, value in params.items():
            if isinstance(value, (nn.Module, Tensor)):
                kind = type(value).__name__
                raise TypeError(f"Net(..., {name}={kind}(...)) would carry weights from one fit to the next; pass plain values.")
        return params

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the class and its keyword arguments by name.

        Parameters
        ----------
        deep : bool, default=True
            Has no effect; searches pass it.

        Returns
        -------
        params : dict
        """
        return {"module_class": self.module_class, **self.params}

    def set_params(self, **params: Any) -> Net:
        """Change keyword arguments.

        Parameters
        ----------
        **params : dict
            New values by name; the others stay.

        Returns
        -------
        self : object
            The specification itself.

        Raises
        ------
        TypeError
            If a value is a module or a tensor.
        """
        self.module_class = params.pop("module_class", self.module_class)
        self.params = {**self.params, **self._checked(params)}
        return self

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

    def __repr__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.params.items())
        return f"Net({self.module_class.__name__}{arguments})"


class Conv(Spec):
    """Specification of a convolutional network for images.

    Every entry of `channels` halves the image's sides in the encoder and doubles them in the decoder; the estimator's hidden
    layers lie between the convolutions and the code. A decoder that is left None mirrors the encoder's specification.

    Parameters
    ----------
    channels : sequence of int, default=(32, 64)
        Channels behind each halving, from the image inward, for encoder and decoder alike.
    residual_blocks : int, default=0
        Residual blocks, of two convolutions each, at every size.
    upsampling : {"transposed", "nearest"}, default="transposed"
        How a decoder doubles the sides: transposed convolutions, or nearest neighbors and a convolution.

    Examples
    --------
    >>> from skvae import Conv, VAETransformer
    >>> vae = VAETransformer(image_shape=(1, 28, 28), encoder=Conv(channels=(16, 32), residual_blocks=1))
    >>> vae.set_params(encoder__residual_blocks=2).encoder
    Conv(channels=(16, 32), residual_blocks=2)
    """

    def __init__(self, channels: Sequence[int] = (32, 64), *, residual_blocks: int = 0, upsampling: str = "transposed"):
        self.channels = channels
        self.residual_blocks = residual_blocks
        self.upsampling = upsampling

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments by name.

        Parameters
        ----------
        deep : bool, default=True
            Has no effect; searches pass it.

        Returns
        -------
        params : dict
        """
        return {"channels": self.channels, "residual_blocks": self.residual_blocks, "upsampling": self.upsampling}

    def set_params(self, **params: Any) -> Conv:
        """Change arguments.

        Parameters
        ----------
        **params : dict
            New values by name; the others stay.

        Returns
        -------
        self : object
            The specification itself.

        Raises
        ------
        ValueError
            If there is no argument of that name.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"Conv has no parameter {name!r}; it has {', '.join(self.get_params())}.")
            setattr(self, name, value)
        return self

    def _compared(self) -> dict[str, Any]:
        listed = isinstance(self.channels, (list, tuple, np.ndarray))
        return {**self.get_params(), "channels": np.asarray(self.channels).tolist() if listed else self.channels}

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        listed = isinstance(self.channels, (list, tuple)) or (isinstance(self.channels, np.ndarray) and self.channels.ndim == 1)
        channels = tuple(self.channels) if listed else None
        if channels is None or not all(isinstance(c, Integral) and int(c) >= 1 for c in channels):
            raise ValueError(f"{self!r}: channels={self.channels!r} must be a sequence of integers of at least 1.")
        if not isinstance(self.residual_blocks, Integral) or int(self.residual_blocks) < 0:
            raise ValueError(f"{self!r}: residual_blocks={self.residual_blocks!r} must be an integer of at least 0.")
        if self.upsampling not in UPSAMPLINGS:
            raise ValueError(f"{self!r}: upsampling={self.upsampling!r} must be one of {', '.join(map(repr, UPSAMPLINGS))}.")

    def __repr__(self) -> str:
        defaults = Conv().get_params()
        changed = {name: value for name, value in self.get_params().items() if repr(value) != repr(defaults[name])}
        return f"Conv({', '.join(f'{name}={value!r}' for name, value in changed.items())})"
