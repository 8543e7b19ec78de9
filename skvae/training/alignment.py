"""Where rows lie in memory, so that their products do not depend on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FLOATS = 16  # a cache line of 64 bytes


def aligned_zeros(n_rows: int, width: int) -> Tensor:
    """Zeros of shape ``(n_rows, width)``, every row of which begins a cache line."""
    return torch.zeros(n_rows, -(-width // _FLOATS) * _FLOATS, dtype=torch.float32)[:, :width]


class AlignedRows(TorchFunctionMode):
    """Let every row that enters a linear layer begin a cache line.

    Products with few outputs add up in an order that depends on where a row begins: where rows follow each other without
    a gap, on their number in the batch.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and args[0].dim() == 2 and args[0].stride(0) % _FLOATS:
            args = (aligned_zeros(*args[0].shape).copy_(args[0]), *args[1:])
        return func(*args, **({} if kwargs is None else kwargs))


def aligned_rows(device: torch.device) -> AbstractContextManager:
    """Context for passes on a device; only CPUs need it."""
    return AlignedRows() if device.type == "cpu" else nullcontext()
