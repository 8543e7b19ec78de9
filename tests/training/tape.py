"""What stands in for CUDA graphs on a machine without a GPU."""

from contextlib import nullcontext

import torch
from torch.utils._pytree import tree_leaves, tree_map

from skvae.training.graph import Watch


class Tape(Watch):
    """Notes operations with the memory they work on, and runs the same ones on the same memory again.

    As with a graph, what is recorded has not happened, numbers stay what they were, and what needs the host cannot be recorded.
    """

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.operations, self._made, self._before = [], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        for storage in map(torch.Tensor.untyped_storage, tensors_in((args, kwargs))):
            if storage._cdata not in self._made | self._before.keys():  # some operations do not say that they change a tensor
                self._before[storage._cdata] = storage, storage.clone()
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if self.obstacle is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {self.obstacle}")
        self._made.update({value.untyped_storage()._cdata for value in tensors_in(result)} - self._before.keys())
        self.operations.append((func, args, kwargs, result))
        return result

    def undo(self):
        """Leave everything as it was."""
        for storage, before in self._before.values():
            storage.copy_(before)
        self._before.clear()

    def run(self):
        """Run everything again."""
        with torch.enable_grad():  # by which recurrent layers tell that they are in training
            for func, args, kwargs, result in self.operations:
                detached = tree_map(lambda value: value.detach() if isinstance(value, torch.Tensor) else value, (args, kwargs))
                again = func(*detached[0], **detached[1])
                for old, new in zip(tensors_in(result), tensors_in(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.detach().view(new.shape).copy_(new)  # whatever has been squeezed in place since


class TapeRecorder:
    """Records on tapes."""

    def __init__(self):
        self.tapes = []

    def beside(self):
        return nullcontext()

    def record(self, function):
        tape = Tape()
        try:
            with tape:
                function()
        finally:
            tape.undo()
        self.tapes.append(tape)
        return tape.run


def tensors_in(tree):
    return [value for value in tree_leaves(tree) if isinstance(value, torch.Tensor)]
