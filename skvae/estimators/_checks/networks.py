"""Networks and functions of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from skvae._spec import Spec
from skvae.data import Table
from skvae.modules import Conv, DefaultNet, Layered, Net
from skvae.runtime.precision import rounded


def check_architecture(estimator: Any) -> None:
    """Refuse module instances: they would carry trained weights into the next fit and the next fold."""
    given = estimator.get_params(deep=False)
    for owner in ("encoder", "decoder"):
        spec = given.get(owner)
        if isinstance(spec, Layered):
            _check_activation(f"{owner}__activation", spec.activation)
    for name, value in given.items():
        if isinstance(value, nn.Module):
            cls = type(value).__name__
            advice = {
                "encoder": f"pass Net({cls}, ...)",
                "decoder": f"pass Net({cls}, ...)",
                "corruption": "pass a function of a batch, or one of the names",
            }.get(name, f"pass the class {cls} or a name")
            raise ValueError(f"{name}={cls}(...) is a module instance, which would keep its weights between fits; {advice}.")
        if name == "activation":
            _check_activation(name, value)
        if isinstance(value, type) and issubclass(value, Spec):
            raise ValueError(f"{name}={value.__name__} is a class; pass an instance, {value.__name__}(...).")
        if name in ("encoder", "decoder") and isinstance(value, type):
            raise ValueError(f"{name}={value.__name__} is a class; wrap it and its arguments: Net({value.__name__}, ...).")


def _check_activation(name: str, activation: Any) -> None:
    """Raise a ValueError about a class that cannot be built as the activation of a layer."""
    if not isinstance(activation, type):
        return
    if not issubclass(activation, nn.Module):
        raise ValueError(f"{name}={activation.__name__} is not a subclass of torch.nn.Module.")
    try:
        activation()
    except TypeError as error:
        raise ValueError(f"{name}={activation.__name__} cannot be built without arguments: {error}") from error


def refuse_hidden_layers(estimator: Any) -> None:
    """Raise a ValueError about widths of hidden layers behind convolutions, for a model that has no such layers."""
    kinds = Conv if estimator.image_shape_ is None else (Conv, DefaultNet)  # the latter then is one of the former
    for name in ("encoder", "decoder"):
        spec = getattr(estimator, name)
        if isinstance(spec, kinds) and spec.hidden_layer_sizes is not None:
            raise ValueError(
                f"{name}={spec!r}: hidden_layer_sizes has no effect in {type(estimator).__name__}, which has no layers between "
                "convolutions and codes; leave it None."
            )


def _own_networks(module: nn.Module, encoder: Any, decoder: Any) -> Iterator[tuple[str, nn.Module, int, int, Any]]:
    """Networks with parts of the user's own: name, network, numbers of inputs and outputs, and what messages say of it."""
    n_codes = module.n_components * module.encoder_outputs_per_component
    for name, network, n_inputs, n_outputs in (
        ("encoder", module.encoder, module.n_encoder_inputs, n_codes),
        ("decoder", module.decoder, module.n_decoder_inputs, module.n_features),
    ):
        spec: Any = encoder if name == "encoder" or decoder == "tied" else decoder
        if not isinstance(spec, Net):
            activation = getattr(spec, "activation", "")
            if isinstance(activation, str):
                continue
            spec = f"with activation={activation.__name__}"
        yield name, network, n_inputs, n_outputs, spec


def check_batches(module: nn.Module, encoder: Any, decoder: Any, n_rows: int, batch_size: int) -> None:
    """Raise a ValueError where batches of one row are too small for networks that normalize over the rows of a batch.

    `encoder` and `decoder` are their specifications, or "tied" for a decoder that is as the encoder.
    """
    if n_rows // -(-n_rows // batch_size) > 1:
        return
    cure = "set batch_size to 3 or more" if n_rows > 1 else "pass at least 2 rows"
    left = f"{n_rows} row(s) in batches of at most batch_size={batch_size} leave some with 1; {cure}"
    for name, spec in (("encoder", encoder), ("decoder", decoder)):
        if getattr(spec, "normalization", None) == "batch":
            raise ValueError(f"{name}__normalization='batch' needs batches of at least 2 rows, but {left}, or use 'layer'.")
    for name, network, n_inputs, _, spec in _own_networks(module, encoder, decoder):
        layer = _starved(network, n_inputs)
        if layer is not None:
            raise ValueError(
                f"The {name} {spec} has a layer {type(layer).__name__}, which needs batches of at least 2 rows, but {left}, or "
                "normalize each row by itself, as LayerNorm does."
            )


def _starved(network: nn.Module, n_inputs: int) -> nn.Module | None:
    """Return a layer that normalizes over a batch and, of one row, is given one value a channel, which torch refuses."""
    network.train()
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.training]
    network.eval()  # in which running means do not move
    if not layers:
        return None
    given: list[nn.Module] = []

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dim() < 2 or inputs[0].numel() <= inputs[0].shape[1]:
            given.append(layer)

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            network(torch.zeros(1, n_inputs, device=next(network.parameters()).device))
    except Exception:  # of one row, which training would not get through either
        return given[0] if given else layers[0]
    finally:
        for hook in hooks:
            hook.remove()
    return given[0] if given else None


def check_network(module: nn.Module, encoder: Any, decoder: Any) -> None:
    """Run rows through networks with parts of the user's own and report a misfit in words.

    `encoder` and `decoder` are their specifications, or "tied" for a decoder that is as the encoder.
    """
    device = next(module.parameters()).device
    for name, network, n_inputs, n_outputs, spec in _own_networks(module, encoder, decoder):
        with torch.no_grad():
            module.eval()
            try:
                output = network(torch.zeros(2, n_inputs, device=device))
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise ValueError(f"The {name} {spec} fails on rows of {n_inputs} features: {what}") from error
        if not isinstance(output, torch.Tensor):
            article = "an" if type(output).__name__[0] in "aeiouAEIOU" else "a"
            raise ValueError(f"The {name} {spec} returns {article} {type(output).__name__}; it must return one tensor.")
        shape = tuple(output.shape)
        if shape != (2, n_outputs):
            got = f"{shape[1]} features" if len(shape) == 2 else f"an output of shape {shape}"
            meaning = "X has" if name == "decoder" else f"n_components={module.n_components} asks for"
            raise ValueError(f"The {name} {spec} returns {got}, {meaning} {n_outputs}.")


def check_precision(estimator: Any, module: nn.Module, encoder: Any, decoder: Any) -> str:
    """Return the precision to train in, and raise a ValueError where networks cannot be rounded as is asked for.

    `encoder` and `decoder` are their specifications, or "tied" for a decoder that is as the encoder.
    """
    asked, device, concern = estimator.precision, next(module.parameters()).device, None
    if asked == "float32":
        return "float32"
    if device.type not in ("cpu", "cuda"):
        concern = f"is for CPUs and CUDA, and not for device={device.type!r}"
    elif not module.bears_rounding:
        concern = f"does not go with hessian={estimator.hessian:g}: it rounds Jacobians by about as much as they change"
    else:
        for name, network, n_inputs, _, spec in _own_networks(module, encoder, decoder):
            with torch.enable_grad(), rounded([network], device):
                module.eval()
                try:
                    network(torch.zeros(2, n_inputs, device=device))
                except Exception as error:
                    concern = f"does not go with the {name} {spec}, which fails in it: {type(error).__name__}: {error}"
    if concern is None:
        return str(asked)
    if asked == "auto":
        return "float32"
    raise ValueError(f"precision={asked!r} {concern}. Use 'float32', or 'auto'.")


def check_corruption(module: nn.Module, table: Table, batch_size: int) -> None:
    """Call a corruption of the user's own once, as training will, and report what is wrong with it in words."""
    # As many rows as in a step, of all parts of the table: functions may rely on what columns are like within a batch.
    rows, likelihood = table.source.read_exactly(slice(None, None, -(-table.n_rows // batch_size))), module.likelihood
    some = torch.from_numpy(rows.astype(np.float32)).to(likelihood.weight.device)
    if table.has_missing:
        some = likelihood.inputs.to_data(likelihood.fill(likelihood.standardize_inputs(rows).to(some))[0])
    given = module.as_given(some)
    asked, shape = f"corruption={module.corruption!r}", tuple(given.shape)
    try:
        with torch.enable_grad():
            corrupted = module.corruption(given.clone())
    except Exception as error:
        raise ValueError(f"{asked} fails on a batch of shape {shape}: {type(error).__name__}: {error}") from error
    if not isinstance(corrupted, torch.Tensor) or corrupted.shape != given.shape:
        is_tensor = isinstance(corrupted, torch.Tensor)
        got = f"shape {tuple(corrupted.shape)}" if is_tensor else f"a {type(corrupted).__name__}"
        raise ValueError(
            f"{asked} returns {got} for a batch of shape {shape}; it must return a tensor of the shape that it is given."
        )
    if not corrupted.isfinite().all():
        n_bad = int((~corrupted.isfinite()).sum())
        bad = f"NaN or infinite numbers, {n_bad} of {given.numel()}"
        raise ValueError(f"{asked} returns {bad}, for a batch of shape {shape}; all must be finite.")
