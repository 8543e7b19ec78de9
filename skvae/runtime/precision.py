"""Single precision for what is made without a word about it, whatever torch's default is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

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
