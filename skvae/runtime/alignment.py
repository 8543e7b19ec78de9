"""A row's result does not depend on its neighbors: the rule, and where rows lie in memory, which is a part of it.

What the last bit of a matrix product depends on is the processor's and its libraries' business: the shapes of both operands,
where they begin in memory, and the number of threads. Some processors' products are the same wherever operands lie; others add
up in another order where a row begins at no multiple of 16 bytes, or of a cache line, which is all that MKL promises. Kernels
take some rows at once, and may add up in another order those that are left over, the last of a chunk: MKL's take 6 where there
is AVX2 and no AVX-512. So a row's result is made sure of in one of two ways, on every processor alike.

1. **Same shape, same place, same threads**, in single precision: wherever a pass goes forward through networks, which is
   everything but what follows. Every pass has one chunk's shape, of which no rows are left over (`skvae.inference.runner`), every
   row that is multiplied begins a cache line (`aligned_rows`), and the size of the pass alone decides about threads
   (`skvae.runtime.threads`). Results are equal to the last bit, at the price of padding the last chunk; for large networks
   with one number of threads, and to rounding with another.
2. **Double precision, rounded to single**, where products cannot be reached from outside: those of backward passes
   (`jacobian_norm`), and of attention and convolutions over codes, whose rows are also too many for a chunk that is mostly
   padding (`code_log_prob`). Whatever neighbors do is some 2**-52 of a number, and rounding to single takes it off, unless the
   number lies that close to where rounding turns: one in many millions may differ, by its last bit in single precision. The
   promise is "to rounding" there.

Weights, and what optimizers gather of them, begin cache lines as torch allocates them, after loading as well
(`skvae.runtime.state` copies what numpy allocates, at multiples of 16 bytes). Batches in training are views of gathered rows and
begin anywhere, but at the same places whenever a run is repeated or goes on: training repeats to the last bit on one machine
with one number of threads, and to rounding across machines, numbers of threads and sizes of memory.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skvae.modules import LatentModule
from skvae.modules.networks.layers import ACTIVATIONS, LINEAR, NORMALIZATIONS, Shortcut

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
        if func in _PRODUCTS and len(args) > 1 and args[0].dim() > 1 and args[1].dim() == 2:
            rows = args[0].flatten(0, -2)
            # Where rows overlap or their entries lie apart, torch makes a copy of its own, without gaps between the rows.
            if rows.stride(1) != 1 or rows.stride(0) % _ENTRIES or rows.stride(0) < rows.shape[1]:
                rows = aligned_zeros(*rows.shape, rows.dtype).copy_(rows)
            return func(rows, *args[1:], **kwargs).unflatten(0, args[0].shape[:-1])
        return func(*args, **kwargs)


# Linear maps (LINEAR) put their outputs side by side; these leave rows where they are or do so, too, and multiply by no matrix.
_HARMLESS = (*ACTIVATIONS.values(), *NORMALIZATIONS.values(), nn.Dropout)
_KEPT: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _begins_lines(network: nn.Module) -> bool:
    """Whether a network multiplies aligned rows only, given aligned rows; no where it has layers of unknown kinds."""
    if type(network) is Shortcut:
        layers = network.layers
    elif type(network) is nn.Sequential:
        layers = list(network)
    else:
        return False
    # What the first layer takes was aligned on purpose. The others take what layers put out: without gaps between the rows.
    maps = [layer for layer in layers[1:] if type(layer) in LINEAR]
    return all(type(layer) in LINEAR + _HARMLESS for layer in layers) and all(m.in_features % _ENTRIES == 0 for m in maps)


def keeps_rows_aligned(module: LatentModule) -> bool:
    """Whether all products of a pass are of aligned rows, as in perceptrons all of whose hidden widths fill cache lines.

    Such passes need no `AlignedRows`, which take longer. Modules that do anything to rows or codes before their networks get
    them say so by `passes_rows_on`.
    """
    if module not in _KEPT:
        _KEPT[module] = (
            module.passes_rows_on
            and module.likelihood.passes_rows_on  # or else they are put side by side by what is done to them
            and _begins_lines(module.encoder)
            and _begins_lines(module.decoder)
        )
    return _KEPT[module]


def aligned_rows(device: torch.device, module: LatentModule, *, scores: bool) -> AbstractContextManager:
    """Context for passes on a device; only CPUs need it, and scores, or networks with other widths."""
    needed = device.type == "cpu" and (scores or not keeps_rows_aligned(module))
    return AlignedRows() if needed else nullcontext()
