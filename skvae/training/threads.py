"""How many threads a computation gets: decided by its size alone, so that results repeat."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

from threadpoolctl import ThreadpoolController

from skvae.modules import LatentModule

# Below this many multiply-adds, handing work to a second thread costs more than it saves, and matrix products of such
# sizes come out differently in the last bit for different thread counts.
ONE_THREAD_WORK = 2**23


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def threads_for(module: LatentModule, n_rows: int) -> AbstractContextManager:
    """Context for one pass of `n_rows` rows through `module`; limits the calling thread only.

    Parameters
    ----------
    module : LatentModule
    n_rows : int

    Returns
    -------
    context manager
    """
    if n_rows * module.n_parameters > ONE_THREAD_WORK:
        return nullcontext()
    # The limit is set for OpenMP's calling thread; torch.set_num_threads would reach threads that start meanwhile.
    return _controller().limit(limits=1, user_api="openmp")
