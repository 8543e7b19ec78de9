"""Where rows lie in memory, so that their products do not depend on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skvae.modules import LatentModule

_ENTRIES = 16  # a cache line of 64 bytes, in single precision
_PRODUCTS = {F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__}


def aligned_zeros(n_rows: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros of shape ``(n_rows, width)``, every row of which begins a cache line."""
    return torch.zeros(n_rows, -(-width // _ENTRIES) * _ENTRIES, dtype=dtype)[:, :width]


class AlignedRows(TorchFunctionMode):
    """Let every row that is multiplied by a matrix begin a cache line.

    Products with few outputs add up in an order that depends on where a row begins: where rows follow each other without
    a gap, on their number in the batch.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        if func in _PRODUCTS and len(args) > 1 and args[0].dim() > 1 and args[1].dim() == 2 and args[0].stride(-2) % _ENTRIES:
            rows = args[0].flatten(0, -2)
            product = func(aligned_zeros(*rows.shape, rows.dtype).copy_(rows), *args[1:], **kwargs)
            return product.unflatten(0, args[0].shape[:-1])
        return func(*args, **kwargs)


_KNOWN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def keeps_rows_aligned(module: LatentModule) -> bool:
    """Whether aligned rows and codes stay aligned through perceptrons all of whose hidden widths fill cache lines."""
    if module not in _KNOWN:
        inner = [layer for network in (module.encoder, module.decoder) for layer in list(network.modules())[2:]]
        _KNOWN[module] = (
            type(module.encoder) is type(module.decoder) is nn.Sequential
            and not module.likelihood.has_constant
            and module.passes_rows_on
            and not any(isinstance(layer, nn.Unflatten) for layer in module.modules())
            and all(layer.in_features % _ENTRIES == 0 for layer in inner if hasattr(layer, "in_features"))
        )
    return _KNOWN[module]


def aligned_rows(device: torch.device, module: LatentModule, *, scores: bool) -> AbstractContextManager:
    """Context for passes on a device; only CPUs need it, and scores, or networks with other widths."""
    needed = device.type == "cpu" and (scores or not keeps_rows_aligned(module))
    return AlignedRows() if needed else nullcontext()
