"""How many threads a computation gets: decided by its size alone, so that results repeat.

Small work has one thread, and gives the same to the last bit however many there are. Large work is divided among all, and
depends on their number to rounding: on some processors, and with some settings of MKL, the last bits of a product do.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from threadpoolctl import ThreadpoolController

from skvae.modules import TrainableModule

# Below this many multiply-adds, handing work to a second thread costs more than it saves, and matrix products of such
# sizes come out differently in the last bit for different thread counts.
ONE_THREAD_WORK = 2**23


if hasattr(os, "register_at_fork"):
    # A forked process has the memory of its parent's threads, but not the threads: whoever waits for them waits for ever.
    # torch's own data loaders do the same.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    """Return a context in which the calling thread computes alone."""
    torch.get_num_threads()  # torch sets a new thread's number when it is first asked, which would undo the limit
    # The limit is OpenMP's, for the calling thread; torch.set_num_threads would reach threads that start meanwhile.
    return _controller().limit(limits=1, user_api="openmp")


def threads_for(module: TrainableModule, n_rows: int, *, solves: bool = False) -> AbstractContextManager:
    """Return a context for one pass of `n_rows` rows through `module`.

    Parameters
    ----------
    module : TrainableModule
    n_rows : int
    solves : bool, default=False
        The pass scores rows, for which some modules solve a small system per row: threads then meet at every one of them,
        which takes longer than the work, and on a busy machine many times longer.

    Returns
    -------
    context manager
    """
    if n_rows * module.row_work > ONE_THREAD_WORK and not (solves and module.solves_per_row):
        return nullcontext()
    return one_thread()
