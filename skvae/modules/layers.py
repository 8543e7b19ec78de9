"""The one place that builds layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import joblib
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
        Normalisation before each activation.

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
    make_activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    layers: list[nn.Module] = []
    width = n_inputs
    for size in hidden_layer_sizes:
        layers.append(nn.Linear(width, size))
        if normalization is not None:
            layers.append(NORMALIZATIONS[normalization](size))
        if make_activation is not nn.Identity:
            layers.append(make_activation(inplace=True) if make_activation in _IN_PLACE else make_activation())
        if dropout > 0.0:
            layers.append(nn.Dropout(dropout))
        width = size
    layers.append(nn.Linear(width, n_outputs))
    return nn.Sequential(*layers)


class Net:
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
        """Return the class and its keyword arguments by name."""
        return {"module_class": self.module_class, **self.params}

    def set_params(self, **params: Any) -> Net:
        """Change keyword arguments."""
        self.module_class = params.pop("module_class", self.module_class)
        self.params = {**self.params, **self._checked(params)}
        return self

    def build(self, n_inputs: int, n_outputs: int) -> nn.Module:
        """Build the network."""
        try:
            return self.module_class(n_inputs, n_outputs, **self.params)
        except TypeError as error:
            raise ValueError(f"{self!r} cannot be built with n_inputs={n_inputs} and n_outputs={n_outputs}: {error}") from error

    def __repr__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.params.items())
        return f"Net({self.module_class.__name__}{arguments})"

    def __eq__(self, other: object) -> bool:
        # A hash, since arguments may be arrays, which do not compare to one truth value.
        return isinstance(other, Net) and joblib.hash(self.get_params()) == joblib.hash(other.get_params())

    __hash__ = None  # type: ignore[assignment]
