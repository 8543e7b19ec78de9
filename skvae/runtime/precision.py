"""Single precision for what is made without a word about it, whatever torch's default is; and rounded products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from skvae.modules import TrainableModule

PRECISIONS = ("float32", "bfloat16", "auto")

# Rows of a batch, and multiply-adds of them, from which on products of half the width save more than rounding weights takes:
# measured on a processor with AVX512-BF16; a GPU computes as much while the operations of a step are started.
_PAYING_ROWS, _PAYING_WORK = 64, {"cpu": 2**24, "cuda": 2**30}

# Functions that make tensors, of torch's default type unless another is asked for, or numbers of another kind are given.
_OF_ANY = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.eye, torch.linspace, torch.logspace}
_OF_NUMBERS = {torch.full, torch.tensor, torch.as_tensor, torch.arange}


class SinglePrecision(TorchFunctionMode):
    """Let tensors that would have torch's default type be of single precision, in this thread alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if kwargs.get("dtype") is None:
            if func in _OF_ANY:
                return func(*args, **{**kwargs, "dtype": torch.float32})
            if func in _OF_NUMBERS:
                made = func(*args, **kwargs)
                had_type = any(hasattr(part, "dtype") for part in args)
                return made.float() if made.dtype == torch.get_default_dtype() and not had_type else made
        return func(*args, **kwargs)


def single_precision() -> AbstractContextManager[Any]:
    """Return a context in which single precision is the default; free of charge where it is already."""
    return nullcontext() if torch.get_default_dtype() == torch.float32 else SinglePrecision()


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions of its own for products of matrices in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # where torch has no such question, the answer is no
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)


def is_rounded(precision: str, module: TrainableModule, n_rows: int, device: torch.device) -> bool:
    """Whether the networks of a module compute in bfloat16 in training.

    Parameters
    ----------
    precision : str
        One of `PRECISIONS`; "auto" is bfloat16 where it pays.
    module : TrainableModule
    n_rows : int
        Of a batch.
    device : device
    """
    if precision != "auto":
        return precision == "bfloat16"
    if not module.bears_rounding or n_rows < _PAYING_ROWS or not has_fast_bfloat16(device):
        return False
    layers = [layer for network in module.networks for layer in network.modules()]
    if device.type == "cpu" and any(isinstance(layer, _ConvNd) for layer in layers):
        return False  # where they are hardly faster, and some are slower
    # Weights, and not what a row takes: recurrent layers go through theirs at every step, in small products.
    n_weights = sum(weight.numel() for layer in layers for weight in layer.parameters(recurse=False))
    return n_rows * n_weights >= _PAYING_WORK[device.type]


class _Rounding:
    """Hooks by which a network computes in bfloat16 wherever gradients are asked for; it takes and returns single precision."""

    def __init__(self, device_type: str):
        self.device_type = device_type
        self._entered: list[Any] = []

    def enter(self, network: nn.Module, args: Any) -> None:
        """Round what comes."""
        context = torch.autocast(self.device_type, torch.bfloat16) if torch.is_grad_enabled() else nullcontext()
        context.__enter__()
        self._entered.append(context)

    def leave(self, network: nn.Module, args: Any, output: Any) -> Any:
        """Return single precision."""
        self._entered.pop().__exit__(None, None, None)
        return _single(output)


def _single(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(map(_single, output))
    return output.float() if isinstance(output, torch.Tensor) and output.dtype == torch.bfloat16 else output


@contextmanager
def rounded(networks: list[nn.Module], device: torch.device) -> Iterator[None]:
    """Return a context in which products of networks are computed in bfloat16 in training, forward and backward.

    Weights, what networks are given and what they return are in single precision, and so is what is computed without gradients.
    """
    rounding, hooks = _Rounding(device.type), []
    try:
        for network in networks:
            hooks.append(network.register_forward_pre_hook(rounding.enter))
            hooks.append(network.register_forward_hook(rounding.leave, always_call=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
