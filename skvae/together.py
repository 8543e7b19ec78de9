"""Fits that train together: a backend of joblib that has each task run in a thread of its own, where fits can meet."""

from __future__ import annotations

import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any

from joblib import Parallel, cpu_count, parallel_config
from joblib.parallel import BatchedCalls, FallbackToBackend, ParallelBackendBase, get_active_backend
from sklearn import config_context
from sklearn.utils.parallel import delayed

from skvae.runtime.tasks import Aborted, Call, open_call

EVERYTHING = 2**31 - 1  # as many jobs as there is work
UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
UNKNOWN_MEMORY = 4 * 10**9  # bytes that are taken to be available where the system does not say

_here = threading.local()  # `backend`: that of the outermost context which the thread has entered


def train_together(max_memory: int | float | str | None = None) -> Any:
    """Have the fits of a search or an ensemble train together, as one network, within a ``with`` block.

    It is a backend of joblib, as :class:`joblib.parallel_config` takes them. Whatever goes through joblib, such as
    :class:`~sklearn.model_selection.GridSearchCV`, :func:`~sklearn.model_selection.cross_validate`,
    :class:`~sklearn.ensemble.BaggingClassifier` or a cross-calibrated :class:`AnomalyDetector`, has each of its fits run in a
    thread. Autoencoders whose networks are alike meet there in training, and take their steps at once; then each goes on
    with the result that it would have had alone. Searches within searches meet in the same place.

    ``n_jobs`` of whoever calls joblib says how many threads are at work outside of training: None means one for each processor,
    as -1 does. It does not limit how many train together, for which `max_memory` is there.

    Parameters
    ----------
    max_memory : int, str or None, default=None
        Bytes that fits which train at the same time may take together; others wait for their turn. A string may have a unit, as
        "500MB" or "4GB" (powers of 1000), or "4GiB" (powers of 1024). A fit that needs more than all of it trains alone. None
        is half of the memory that is available at the beginning of the block. Within another `train_together`, that of the outer
        one counts.

    Returns
    -------
    context manager
        Like every configuration of joblib it is that of the thread which enters it. It may be entered by several threads, or
        again within itself.

    Raises
    ------
    TypeError, ValueError
        If `max_memory` is not a number of bytes above zero.

    See Also
    --------
    joblib.parallel_config : Other backends, such as processes.

    Notes
    -----
    Each outermost call of joblib is a meeting of its own, with a budget of its own: searches in two threads do not wait for each
    other, and cannot block each other. Calls within its tasks belong to it.

    All tasks of a call are handed out at once, whatever its ``pre_dispatch`` says, and up to 256 of them are under way at a time.
    Backends that are asked for by name within a task, as by ``joblib.parallel_config("loky")``, are used as ever. A bagging
    ensemble with ``n_jobs=1`` fits its members one after the other: leave it out, or give it another number.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvae import VAETransformer, train_together
    >>> X = load_iris().data
    >>> search = GridSearchCV(VAETransformer(1, max_epochs=5, random_state=0), {"beta": [0.5, 1.0]}, cv=2)
    >>> with train_together():
    ...     n_candidates = len(search.fit(X).cv_results_["params"])
    >>> n_candidates
    2
    """
    return _configured(None if max_memory is None else n_bytes_of(max_memory))


@contextmanager
def _configured(max_memory: int | None) -> Iterator[None]:
    if isinstance(get_active_backend()[0], TogetherBackend):
        yield
        return
    backend = getattr(_here, "backend", None)
    if backend is not None:  # with another backend between the two
        with parallel_config(backend=backend):
            yield
        return
    _here.backend = TogetherBackend(available_memory() // 2 if max_memory is None else max_memory)
    try:
        with parallel_config(backend=_here.backend):
            yield
    finally:
        _here.backend = None


# -- memory -----------------------------------------------------------------------------------------------------------


def n_bytes_of(max_memory: int | float | str) -> int:
    """Return how many bytes are meant."""
    meant = 'a number of bytes above zero, a string such as "500MB", "4GB" or "4GiB", or None'
    message = f"max_memory must be {meant}, got {max_memory!r}."
    if isinstance(max_memory, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(I?)B?\s*", max_memory.upper())
        if match is None or (match[3] and not match[2]):
            raise ValueError(message)
        n_bytes = int(float(match[1]) * (1024 if match[3] else 1000) ** UNITS[match[2]])
    elif isinstance(max_memory, Real) and not isinstance(max_memory, bool):
        if not max_memory < float("inf"):  # nan as well
            raise ValueError(message)
        n_bytes = int(max_memory)
    else:
        raise TypeError(message)
    if n_bytes < 1:
        raise ValueError(message)
    return n_bytes


def available_memory() -> int:
    """Return the bytes that can be had without swapping: as Linux estimates them, or those that are free."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    try:
        n_bytes = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_MEMORY
    return n_bytes if n_bytes > 0 else UNKNOWN_MEMORY


# -- the backend ------------------------------------------------------------------------------------------------------


class _ThreadBackend(ParallelBackendBase):
    """What joblib asks both of the following."""

    uses_threads = True
    supports_sharedmem = True
    supports_retrieve_callback = True
    default_n_jobs = -1  # for n_jobs=None

    def __init__(self, max_memory: int, nesting_level: int | None = None):
        super().__init__(nesting_level=nesting_level)
        self.max_memory = max_memory


class TogetherBackend(_ThreadBackend):
    """The backend that is configured: it hands each parallel call one of its own, since they may be nested."""

    def __init__(self, max_memory: int, nesting_level: int | None = None):
        super().__init__(max_memory, nesting_level)
        self._n_jobs_of_ensemble: int | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many parts a caller should cut its work into, as without this backend; ensembles into one a member."""
        if _is_asked_by_an_ensemble():
            self._n_jobs_of_ensemble = self.default_n_jobs if n_jobs is None else _count(n_jobs)
            return EVERYTHING
        return 1 if n_jobs is None else _count(n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        n_jobs, self._n_jobs_of_ensemble = self._n_jobs_of_ensemble or n_jobs, None
        raise FallbackToBackend(_CallBackend(self.max_memory, self.nesting_level, n_jobs))

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        raise RuntimeError("joblib submits no task to a backend that it has not configured.")

    apply_async = submit  # as it was called before joblib 1.5


class _CallBackend(_ThreadBackend):
    """The backend of one `Parallel` object: each of its calls is one of a meeting."""

    def __init__(self, max_memory: int, nesting_level: int | None, n_jobs: int):
        super().__init__(max_memory, nesting_level)
        self._n_jobs = n_jobs
        self._call: Call | None = None
        self._returns_list = True

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return at least 2, or else joblib runs tasks in the calling thread."""
        return max(2, _count(self._n_jobs))

    def configure(self, n_jobs: int = 1, parallel: Parallel = None, require: str | None = None, **options: Any) -> int:
        self.parallel = parallel
        # Those that wait to be dispatched could not be met. By "all", joblib swallows errors of the iterable.
        parallel.pre_dispatch = EVERYTHING
        self._returns_list = not parallel.return_generator
        # Tasks that share memory may add to it: unless they were asked to run at the same time, they do so in their order.
        is_ordered = require == "sharedmem" and self._n_jobs == self.default_n_jobs
        self._limit = 1 if is_ordered else _count(self._n_jobs)
        return self.effective_n_jobs(n_jobs)

    def start_call(self) -> None:
        self._call = open_call(self._limit, budget=self.max_memory)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> _Result:
        if isinstance(func, BatchedCalls):
            func.items = [(_without_filters(function), args, kwargs) for function, args, kwargs in func.items]
        result = _Result(callback)
        self._call.submit(func, result.set)
        return result

    apply_async = submit

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        call = self._call
        if call.parent is not None or not self._returns_list:
            with call.waiting():
                yield
            return
        with _filters:
            try:
                with call.waiting():
                    yield
            finally:
                call.end()

    def retrieve_result_callback(self, result: _Result) -> Any:
        return result.get()

    def stop_call(self) -> None:
        if self._call is not None:
            self._call.end()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        if self._call is not None:
            self._call.abort()

    def get_nested_backend(self) -> tuple[TogetherBackend, None]:
        # On the same level: what asks for processes in a task gets them, as it does in a thread of the user's own.
        return TogetherBackend(self.max_memory, self.nesting_level), None


class _Result:
    """What a task has returned or raised."""

    def __init__(self, callback: Callable[[Any], Any] | None):
        self._callback = callback
        self._value: Any = None
        self._error: BaseException | None = None

    def set(self, value: Any, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Aborted):
            # joblib drops the traceback of the thread
            error.add_note("Traceback of the task:\n" + "".join(traceback.format_tb(error.__traceback__)).rstrip())
        self._value, self._error = value, error
        if self._callback is not None:
            self._callback(self)

    def get(self) -> Any:
        value, error = self._value, self._error
        self._value = self._error = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error


def _count(n_jobs: int) -> int:
    """Return how many jobs are meant, as joblib counts them."""
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    return n_jobs if n_jobs > 0 else max(cpu_count() + 1 + n_jobs, 1)


def _is_asked_by_an_ensemble() -> bool:
    """Whether an ensemble of scikit-learn asks how many tasks to share its members out to.

    It would fit the members of a task one after the other, and its ``n_jobs`` would limit how many train together.
    """
    frame = sys._getframe(2)  # of whoever asks the backend: joblib's function
    for _ in range(3):
        if frame is None:
            return False
        if frame.f_code.co_name == "_partition_estimators":
            return True
        frame = frame.f_back
    return False


# -- filters of warnings, which are those of the process --------------------------------------------------------------

_Delayed = type(delayed(len)()[0])
_FILTERS_ARE_PRIVATE = bool(getattr(sys.flags, "context_aware_warnings", False))  # to threads, in newer Pythons where asked for


def _with_config(function: Callable[..., Any], config: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    with config_context(**config):
        return function(*args, **kwargs)


def _without_filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what scikit-learn wants called, without the filters of warnings that it sets for other processes.

    Those of this process are in force in its threads already; a thread that empties them to set them anew empties them for all.
    """
    if type(function) is not _Delayed or _FILTERS_ARE_PRIVATE:
        return function
    if not (hasattr(function, "config") and hasattr(function, "function")):
        return function
    return partial(_with_config, function.function, function.config)


class _Filters:
    """A context in which threads may change the filters of warnings; afterwards they are what they were before.

    Many estimators change them and back again, which in several threads may end with those of another thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_users = 0
        self._before: warnings.catch_warnings | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._n_users += 1
            if self._n_users == 1 and not _FILTERS_ARE_PRIVATE:
                self._before = warnings.catch_warnings()
                self._before.__enter__()

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_users -= 1
            if not self._n_users and self._before is not None:
                before, self._before = self._before, None
                before.__exit__(None, None, None)


_filters = _Filters()
