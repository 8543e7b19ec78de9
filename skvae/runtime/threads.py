"""How many threads a computation gets: decided by its size alone, so that results repeat.

Small work has one thread, and gives the same to the last bit however many there are. Large work is divided among all, and
depends on their number to rounding: on some processors, and with some settings of MKL, the last bits of a product do.

How busy the machine is decides about nothing but what a thread does while it waits for another, which changes no result: see
`patient_threads`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from ctypes import CDLL
from functools import lru_cache
from pathlib import Path

import torch
from threadpoolctl import ThreadpoolController

from skvae.modules import TrainableModule

if sys.platform != "win32":
    import resource

# Below this many multiply-adds, handing work to a second thread costs more than it saves, and matrix products of such
# sizes come out differently in the last bit for different thread counts.
ONE_THREAD_WORK = 2**23

_N_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_PARALLEL_ENTRIES = 2**15  # of a tensor, that torch gives a thread of its own
_WINDOW, _MOST_PREEMPTIONS = 0.1, 4  # seconds, and preemptions in them from which on the machine is busy
_PATIENCE, _MOST_PATIENCE = 1.0, 30.0  # seconds until it is looked again whether it still is, doubled every time it is


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@lru_cache(maxsize=1)
def _mkl_limits() -> tuple[Callable[[int], int], ...]:
    """Return functions that set how many threads MKL has in the calling thread, 0 for what holds elsewhere, and return the last.

    A number that was set for MKL, as `torch.set_num_threads` and ``MKL_NUM_THREADS`` do, counts for more than OpenMP's limit.
    """
    libraries = [each.dynlib for each in _controller().lib_controllers if each.internal_api == "mkl"]
    for path in (Path(torch.__file__).parent / "lib").glob("*torch_cpu.*"):  # which may have MKL within
        if path.suffix in (".so", ".dylib", ".dll"):
            libraries.append(CDLL(str(path)))
    found = (getattr(library, "MKL_Set_Num_Threads_Local", None) for library in libraries)
    return tuple(function for function in found if function is not None)


@contextmanager
def one_thread() -> Iterator[None]:
    """Return a context in which the calling thread computes alone, whatever was set; other threads keep what they have."""
    torch.get_num_threads()  # torch sets a new thread's number when it is first asked, which would undo the limit
    # The limits are those of the calling thread; torch.set_num_threads would reach threads that start meanwhile.
    with _controller().limit(limits=1, user_api="openmp"):
        before = [(limit, limit(1)) for limit in _mkl_limits()]
        try:
            yield
        finally:
            for limit, number in reversed(before):
                limit(number)


class _Watch:
    """Has OpenMP's threads sleep while they wait for each other, as long as somebody needs that and the machine is busy."""

    def __init__(self) -> None:
        self._lock, self._n_users, self._leave = threading.Lock(), 0, threading.Event()
        self._patience, self.busy_until = _PATIENCE, 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._n_users += 1
            if self._n_users == 1:
                self._leave = threading.Event()
                # Threads at work and those that are gathered are more than the processors, by one.
                n_threads = max(2, _N_CPUS - torch.get_num_threads() + 2)
                threading.Thread(target=self._watch, args=(n_threads, self._leave), daemon=True).start()

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_users -= 1
            if not self._n_users:
                self._leave.set()

    def _watch(self, n_threads: int, leave: threading.Event) -> None:
        while not leave.is_set():
            remaining = self.busy_until - time.monotonic()
            if remaining > 0.0:
                gathered = threading.Thread(target=_gather, args=(n_threads, leave, remaining), daemon=True)
                gathered.start()
                gathered.join()
                continue
            before = n_preemptions()
            if leave.wait(_WINDOW):
                return
            # Threads that sleep are preempted by each other, so that how busy the machine is shows only while they do not.
            if n_preemptions() - before >= _MOST_PREEMPTIONS:
                self.busy_until = time.monotonic() + self._patience
                self._patience = min(2.0 * self._patience, _MOST_PATIENCE)
            else:
                self._patience = _PATIENCE


def _gather(n_threads: int, leave: threading.Event, seconds: float) -> None:
    """Keep so many threads without work, the calling one among them, which takes the others along when it ends."""
    torch.get_num_threads()
    with _controller().limit(limits=n_threads, user_api="openmp"):
        torch.empty(n_threads * _PARALLEL_ENTRIES).fill_(0.0)
    leave.wait(seconds)


def n_preemptions() -> int:
    """Return how often the process has had a processor taken away by others, so far."""
    return 0 if sys.platform == "win32" else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


_watch = _Watch()


@lru_cache(maxsize=1)
def _can_sleep() -> bool:
    """Whether the OpenMP there is has threads sleep where it has more of them than processors: GNU's."""
    return any(library.prefix == "libgomp" for library in _controller().lib_controllers)


def patient_threads() -> AbstractContextManager[None]:
    """Return a context in which OpenMP's threads sleep while they wait for each other, as long as the machine is busy.

    They go round in circles otherwise, which is faster, but takes the processor from the thread that is waited for once there
    is less than one for each: beside other processes a step of milliseconds then takes hundreds. Where the process is preempted
    often, GNU's OpenMP is made to have more threads than processors, of which those that wait sleep after next to no time. No
    setting changes that others see, and results do not depend on it.
    """
    return _watch if torch.get_num_threads() > 1 and _can_sleep() else nullcontext()


def _after_fork() -> None:
    """Have a forked process compute alone: it has the memory of its parent's threads, but not the threads.

    Whoever waits for them waits for ever. torch's own data loaders do the same.
    """
    global _watch
    _watch = _Watch()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
        return patient_threads()
    return one_thread()
