"""Where tasks that run at the same time meet, so that what they all need is computed once for all of them.

Each runs in a thread of its own, and one that comes to `meet` waits for all others that are under way; `runtime/tasks.py` says
who that is. A thread that runs no task, such as that of a fit outside of any search, goes through here without waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from skvae.runtime.tasks import Aborted, aborted, here

__all__ = ["Aborted", "check_aborted", "in_threads", "is_together", "meet", "reserve", "waited"]


def meet(key: Hashable, request: Any, solve: Callable[[list[Any]], list[Any]]) -> Any:
    """Wait for all tasks that are under way, and have those that came with an equal key computed in one call.

    Parameters
    ----------
    key : hashable
        Requests with equal keys are computed together; all of them must have come with the same `solve`.
    request : object
        What is to be computed.
    solve : callable
        Takes a list of requests in the order of their tasks, and returns a list of as many results. A result that is an
        exception is raised in its own task. An exception that it raises is raised in all of them.

    Returns
    -------
    object
        The result that belongs to `request`. In a thread that runs no task, that of ``solve([request])``.

    Raises
    ------
    Aborted
        If the parallel call of this task has been aborted.
    """
    task = here.task
    if task is not None:
        return task.meeting.meet(task, key, request, solve)
    (result,) = solve([request])
    if isinstance(result, BaseException):
        raise result
    return result


def is_together() -> bool:
    """Whether the calling thread runs a task that can meet others."""
    return here.task is not None


@contextmanager
def reserve(n_bytes: int, *, of: int | None = None) -> Iterator[None]:
    """Hold so much memory within the context; wait for it at the beginning, in the order of tasks.

    With `of`, it is memory of another place than that of the budget, which has so many bytes. One that is first in line is let in
    when nobody else who is under way holds memory, however much it is. Outside of a task the context does nothing.

    Raises
    ------
    Aborted
        If the parallel call of this task has been aborted.
    """
    task = here.task
    if task is None:
        yield
        return
    n_bytes = int(n_bytes if of is None else n_bytes * (task.meeting.budget / max(1, of)))
    task.meeting.stand_in_line(task, n_bytes)
    try:
        yield
    finally:
        task.meeting.release(task, n_bytes)


def in_threads(functions: list[Callable[[], Any]], n_threads: int) -> list[Any]:
    """Call functions for whoever is to `solve`, by several threads, each of which takes the next one when it is done.

    Returns
    -------
    list
        What they return.

    Raises
    ------
    BaseException
        What one of them has raised, once all threads have ended; none is begun after that.
    """
    waiting, results, errors, solving = list(enumerate(functions))[::-1], [None] * len(functions), [], here.solving

    def work() -> None:
        here.solving = solving
        while not errors:
            try:
                i, function = waiting.pop()
            except IndexError:
                return
            try:
                results[i] = function()
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(n_threads, len(functions)) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def waited() -> float:
    """Return the seconds that the calling task has waited so far: in line, for its turn and in meetings.

    Its own share of what was computed in meetings, one part in as many as there were requests, is no waiting. The time from one
    point to another, less what this has grown by, is what the task has taken itself. 0 outside of a task.
    """
    return 0.0 if here.task is None else here.task.waited


def check_aborted() -> None:
    """Raise `Aborted` where nobody wants the result any more: for `solve` to call from time to time.

    Within `solve` that is when the calls of all tasks have been aborted whose requests are computed.
    """
    if here.solving is not None:
        if all(task.call.is_aborted for task in here.solving):
            raise aborted()
    elif here.task is not None and here.task.call.is_aborted:
        raise aborted()
