"""How cuDNN computes convolutions and recurrent layers: with the precision of torch's products, and the same every time.

torch lets cuDNN round what it multiplies to ten bits by default, and choose algorithms that add in whatever order threads
arrive, while its matrix products keep single precision. A GPU would then neither give what a CPU gives nor repeat itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

_LOCK = threading.Lock()
_users = 0  # computations under way, in all threads: torch's settings hold for the process
_found: tuple[Any, ...] = ()


def steady(device: torch.device) -> AbstractContextManager[None]:
    """Return a context for computations on a device, in which those of cuDNN are exact and repeat; others are not affected.

    ``torch.set_float32_matmul_precision("high")`` trades precision for speed here as well. torch's own settings are as they
    were once no thread is in such a context any more.
    """
    return _settled() if device.type == "cuda" else nullcontext()


@contextmanager
def _settled() -> Iterator[None]:
    global _users, _found
    with _LOCK:
        if not _users:
            _found = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, _precision()
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            if torch.get_float32_matmul_precision() == "highest":
                _set_precision(_EXACT)
        _users += 1
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if not _users:
                torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, precision = _found
                _set_precision(precision)


# torch 2.9 has settings of its own for either kind of layer, which must not be mixed with the older one for both.
if hasattr(torch.backends.cudnn, "conv"):
    _EXACT: Any = ("ieee", "ieee")

    def _precision() -> Any:
        return torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision

    def _set_precision(value: Any) -> None:
        torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision = value

else:
    _EXACT = False

    def _precision() -> Any:
        return torch.backends.cudnn.allow_tf32

    def _set_precision(value: Any) -> None:
        torch.backends.cudnn.allow_tf32 = value
