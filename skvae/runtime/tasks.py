"""Tasks that run at the same time, and what they wait for.

Tasks are submitted to a `Call`, and each runs in a thread of its own. One that comes to `meet` sleeps until every other task that
is under way has come, ended or failed; then one thread computes, and each task goes on with its own result. A call that a task
makes is nested: its tasks meet in the same place, and the task that made it is not under way while it waits for them.

**What must repeat.** Which requests are computed together must not depend on which thread is quicker. So tasks start,
memory is given out and meetings are held only once nothing is under way, and in the order in which tasks were submitted.

**What must not block.** All state is changed under one lock, which nobody holds while a task's own code runs, and every change is
followed by `_settle`, which sees to whatever can go on. A thread sleeps on a lock of its own, and whoever changes a task's state
wakes it. A task that leaves by an exception, wherever it is, is taken out of every queue.

Threads are daemons: a task that is in the middle of a long computation when its call is aborted must not keep the interpreter
from exiting. All others have ended when the outermost call ends.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from copy import copy
from heapq import heapify, heappop, heappush
from math import inf
from operator import attrgetter
from time import monotonic, perf_counter
from typing import Any

MAX_TASKS = 256  # so many threads are cheap, and a stack of so many models gains nothing by more
GRACE = 1.0  # seconds that a call which is aborted waits for its threads to end
GRACE_AT_EXIT = 5.0  # seconds that the interpreter waits for them; a thread that is cut off in native code may bring it down

# What a task is doing. It is *under way* where others wait for it, and *started* where it counts among `max_tasks`.
PENDING, READY, WORKING, MEETING, LINE, WAITING, RESUMING, ENDED = range(8)
UNDER_WAY = (False, True, True, False, False, False, True, False)
STARTED = (False, True, True, True, True, False, False, False)

by_index = attrgetter("index")
left_behind: list[threading.Thread] = []


def _join(threads: list[threading.Thread], seconds: float) -> list[threading.Thread]:
    """Wait for threads to end, not longer than that for all of them; return those that have not."""
    deadline = monotonic() + seconds
    own = threading.current_thread()
    for thread in threads:
        if thread is not own and thread.ident is not None:  # else it has not even started
            thread.join(max(0.0, deadline - monotonic()))
    return [thread for thread in threads if thread.is_alive()]


@atexit.register
def _join_those_left_behind() -> None:
    _join(left_behind, GRACE_AT_EXIT)


class Aborted(BaseException):
    """The parallel call of a task has been aborted. No `except Exception` catches it: what the task computes is of no use."""


class _Here(threading.local):
    """What the calling thread does: the task that it runs, or those whose requests it computes."""

    task: Task | None = None
    solving: list[Task] | None = None


here = _Here()


def aborted() -> Aborted:
    """Return what is raised in a task whose call has been aborted."""
    return Aborted("The parallel call that this task belongs to has been aborted.")


def open_call(limit: int, *, budget: float = inf, max_tasks: int = MAX_TASKS) -> Call:
    """Return a call to submit tasks to: one within that of the task that the calling thread runs, or else a new outermost one.

    Parameters
    ----------
    limit : int
        How many tasks of the call, and of the calls within it, are at work at a time outside of meetings.
    budget : float, default=inf
        Bytes that tasks may hold; that of the outermost call counts.
    max_tasks : int, default=256
        How many tasks are started at a time, not counting those that wait for a call of their own; that of the outermost call
        counts.
    """
    if here.task is not None:
        return here.task.meeting.nested_call(here.task, limit)
    return Meeting(budget=budget, max_tasks=max_tasks).outermost_call(limit)


class Call:
    """Tasks that were submitted together."""

    def __init__(self, meeting: Meeting, limit: int, parent: Task | None = None):
        self.meeting = meeting
        self.limit = limit
        self.parent = parent
        self.chain: tuple[Call, ...] = (self,) if parent is None else (self, *parent.call.chain)
        self.prefix: tuple[int, ...] = () if parent is None else (*parent.index, parent.n_calls)
        self.context = copy_context()
        self.n_submitted = self.n_unfinished = self.n_at_work = 0
        self.is_aborted = False

    def submit(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Have a function called in a thread of its own, and then `done` with its value, or with what it raised.

        Whoever waits for the tasks of a call stops as soon as one has raised something, by an exception.

        Raises
        ------
        Aborted
            If the call has been aborted.
        """
        self.meeting.submit(self, function, done)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the tasks within the context, which start at its beginning.

        An exception that leaves the context aborts the call.
        """
        self.meeting.wait_for(self)
        try:
            yield
        except BaseException:
            self.abort()
            raise
        finally:
            self.meeting.go_on(self)

    def abort(self) -> None:
        """Have all tasks of this call and of those within it end: those that sleep, at once, by `Aborted`."""
        self.meeting.abort(self)

    def end(self) -> None:
        """Leave nothing behind: to be called when the call is over."""
        self.meeting.end(self)


class Task:
    """A function that is called in a thread of its own."""

    def __init__(self, call: Call, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]):
        self.call = call
        self.meeting = call.meeting
        self.index = (*call.prefix, call.n_submitted)
        self.function, self.done = function, done
        self.state = PENDING
        self.has_token = False
        self.gate = threading.Lock()
        self.gate.acquire()
        self.thread: threading.Thread | None = None
        self.n_calls = 0  # that it has made itself
        self.waits_for: list[Call] = []
        self.wanted = self.held = 0
        self.waited = 0.0
        self.request: Any = None
        self.solve: Any = None
        self.outcome: tuple[Any, float] | None = None

    def __lt__(self, other: Task) -> bool:
        return self.index < other.index


class _Group:
    """Requests that are computed together."""

    def __init__(self, tasks: list[Task]):
        self.tasks = tasks
        self.results: list[Any] | None = None
        self.seconds = 0.0

    def solve(self) -> None:
        """Compute the results, outside of any task: a parallel call of `solve` cannot wait for those who wait for it."""
        task, tasks, results = here.task, self.tasks, None
        began = perf_counter()
        here.task, here.solving = None, tasks
        try:
            results = list(tasks[0].solve([task.request for task in tasks]))
            if len(results) != len(tasks):
                raise ValueError(f"{tasks[0].solve!r} returned {len(results)} results for {len(tasks)} requests.")
        except BaseException as error:  # of whatever kind: each task is to have it
            results = [error, *(_copied(error) for _ in tasks[1:])]
        finally:
            here.task, here.solving = task, None
        self.seconds = perf_counter() - began
        self.results = results
        del task, tasks, results  # which the traceback of an error would keep


def _copied(error: BaseException) -> BaseException:
    """Return an exception that another thread can raise without changing this one; itself where it cannot be copied."""
    try:
        other = copy(error)
    except Exception:
        return error
    if type(other) is not type(error):
        return error
    other.__cause__, other.__context__ = error.__cause__, error.__context__
    other.__suppress_context__ = error.__suppress_context__
    if hasattr(error, "__notes__"):
        other.__notes__ = list(error.__notes__)
    return other.with_traceback(error.__traceback__)


class Meeting:
    """The tasks of an outermost call and of all within it, and what they wait for.

    Parameters
    ----------
    budget : float, default=inf
        Bytes that tasks may hold.
    max_tasks : int, default=256
        How many tasks have a thread at a time, but for those that wait for a call of their own.
    """

    def __init__(self, *, budget: float = inf, max_tasks: int = MAX_TASKS):
        self.budget, self._max_tasks = budget, max_tasks
        self._lock = threading.RLock()  # garbage may be collected under it, and a generator of results that dies there aborts
        self._calls: set[Call] = set()
        self._tasks: set[Task] = set()  # that have started, and not ended
        self._threads: list[threading.Thread] = []
        self._are_complete = False  # whether all tasks of the outermost call have been submitted
        self._n_under_way = self._n_started = 0
        self._pending: list[Task] = []  # the first three are heaps
        self._ready: list[Task] = []
        self._line: list[Task] = []
        self._arrived: dict[Hashable, list[Task]] = {}
        self._round: list[_Group] = []
        self._executor: Task | None = None
        self._held = 0
        self._holders: set[Task] = set()

    # -- calls --------------------------------------------------------------------------------------------------------

    def outermost_call(self, limit: int) -> Call:
        call = Call(self, limit)
        self._calls.add(call)
        return call

    def nested_call(self, parent: Task, limit: int) -> Call:
        with self._lock:
            if parent.call.is_aborted:
                raise aborted()
            call = Call(self, limit, parent)
            parent.n_calls += 1
            self._calls.add(call)
        return call

    def submit(self, call: Call, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        with self._lock:
            if call.is_aborted:
                raise aborted()
            task = Task(call, function, done)
            call.n_submitted += 1
            call.n_unfinished += 1
            heappush(self._pending, task)
            starting = self._settle()
        self._start(starting)

    def wait_for(self, call: Call) -> None:
        with self._lock:
            parent = call.parent
            if parent is None:
                self._are_complete = True
            elif parent.thread is threading.current_thread():
                parent.waits_for.append(call)
                if parent.state == WORKING and call.n_unfinished and not call.is_aborted:
                    self._move(parent, WAITING)
            starting = self._settle()
        self._start(starting)

    def go_on(self, call: Call) -> None:
        parent = call.parent
        if parent is None:
            return
        with self._lock:
            if call in parent.waits_for:
                parent.waits_for.remove(call)
            if parent.state not in (WAITING, RESUMING) or any(other.n_unfinished for other in parent.waits_for):
                return
            sleeps = parent.thread is threading.current_thread() and not parent.call.is_aborted
            self._move(parent, READY if sleeps else WORKING)
            if sleeps:
                heappush(self._ready, parent)
            starting = self._settle()
        self._start(starting)
        if parent.thread is threading.current_thread():
            began = perf_counter()
            self._sleep(parent)
            parent.waited += perf_counter() - began
            if parent.call.is_aborted:
                raise aborted()

    def abort(self, call: Call) -> None:
        with self._lock:
            if call.is_aborted:
                return
            for other in self._calls | {call}:
                if call in other.chain:
                    other.is_aborted = True
            never = [task for task in self._pending if task.call.is_aborted]
            self._pending = [task for task in self._pending if not task.call.is_aborted]
            heapify(self._pending)
            for task in never:
                self._end(task, failed=True)
            for task in [task for task in self._tasks if task.call.is_aborted]:
                if task.thread is None:
                    self._end(task, failed=True)
                    never.append(task)
                elif task.state in (MEETING, LINE, READY) and task is not self._executor:
                    self._drop(task)
                    self._move(task, WORKING)
                    self._wake(task)
            starting = self._settle()
        self._start(starting)
        for task in never:
            task.done(None, aborted())

    def end(self, call: Call) -> None:
        if call.n_unfinished:
            self.abort(call)
        with self._lock:
            self._calls.discard(call)
            if call.parent is not None:
                return
            threads, self._threads = self._threads, []
        left_behind[:] = [thread for thread in left_behind if thread.is_alive()] + _join(threads, GRACE)

    # -- what tasks come for ------------------------------------------------------------------------------------------

    def meet(self, task: Task, key: Hashable, request: Any, solve: Callable[[list[Any]], list[Any]]) -> Any:
        began = perf_counter()
        with self._lock:
            if task.call.is_aborted:
                raise aborted()
            is_waiting = task.state != WORKING
            self._arrived.setdefault(key, []).append(task)
            task.request, task.solve = request, solve
            self._move(task, MEETING)
            starting = self._settle(task)
        if starting:
            self._start(starting)
        self._sleep(task)
        outcome, task.outcome, task.request, task.solve = task.outcome, None, None, None
        task.waited += perf_counter() - began
        if task.call.is_aborted or outcome is None:
            raise aborted()
        if is_waiting:
            self._wait_again(task)
        result, share = outcome
        task.waited -= share
        if isinstance(result, BaseException):
            try:
                raise result
            finally:
                del result, outcome
        return result

    def stand_in_line(self, task: Task, n_bytes: int) -> None:
        began = perf_counter()
        with self._lock:
            if task.call.is_aborted:
                raise aborted()
            is_waiting = task.state != WORKING
            task.wanted = n_bytes
            heappush(self._line, task)
            self._move(task, LINE)
            starting = self._settle()
        self._start(starting)
        self._sleep(task)
        task.waited += perf_counter() - began
        if task.call.is_aborted:
            if task.wanted == 0:  # it was let in, and then aborted
                self.release(task, n_bytes)
            raise aborted()
        if is_waiting:
            self._wait_again(task)

    def release(self, task: Task, n_bytes: int) -> None:
        with self._lock:
            self._hold(task, -n_bytes)
            starting = self._settle()
        self._start(starting)

    def _wait_again(self, task: Task) -> None:
        """Have a task wait as before that came from the results of a call of its own, which it takes one by one."""
        with self._lock:
            if any(call.n_unfinished for call in task.waits_for):
                self._move(task, WAITING)
            starting = self._settle()
        self._start(starting)

    # -- threads ------------------------------------------------------------------------------------------------------

    def _start(self, tasks: list[Task]) -> None:
        for task in tasks:
            try:
                task.thread.start()
            except RuntimeError as error:  # the system has no more threads
                self._finish(task, None, error)

    def _run(self, task: Task) -> None:
        value = error = None
        here.task = task
        try:
            if task.call.is_aborted:
                raise aborted()
            value = task.call.context.copy().run(task.function)
        except BaseException as raised:
            error = raised
        finally:
            here.task = None
            self._finish(task, value, error)
            del value, error

    def _finish(self, task: Task, value: Any, error: BaseException | None) -> None:
        with self._lock:
            self._end(task, failed=error is not None)
            starting = self._settle()
        self._start(starting)
        done, task.done, task.function = task.done, None, None
        done(value, error)

    def _sleep(self, task: Task) -> None:
        """Return when it is the task's turn to work, or its call has been aborted; compute for all if that falls to it."""
        try:
            while task.state != WORKING:
                if self._executor is task:
                    self._solve(task)
                else:
                    task.gate.acquire()
        except BaseException:
            with self._lock:
                self._drop(task)
                self._move(task, WORKING)
                starting = self._settle()
            self._start(starting)
            raise

    def _wake(self, task: Task) -> None:
        if task.gate.locked():  # else it is awake, and looks at its state before it sleeps
            task.gate.release()

    def _solve(self, executor: Task) -> None:
        while True:
            with self._lock:
                group = self._next_group()
                if group is None:
                    starting = self._deliver(executor)
                    break
            group.solve()
        self._start(starting)

    # -- below, the lock is held --------------------------------------------------------------------------------------

    def _move(self, task: Task, state: int) -> None:
        old, task.state = task.state, state
        self._n_under_way += UNDER_WAY[state] - UNDER_WAY[old]
        self._n_started += STARTED[state] - STARTED[old]
        if task.has_token and state != WORKING:
            task.has_token = False
            for call in task.call.chain:
                call.n_at_work -= 1

    def _hold(self, task: Task, n_bytes: int) -> None:
        task.held += n_bytes
        self._held += n_bytes
        if task.held > 0:
            self._holders.add(task)
        else:
            self._holders.discard(task)

    def _drop(self, task: Task) -> None:
        """Take a task out of where it waits, and hand on what fell to it."""
        if task.state in (READY, LINE):
            queue = self._ready if task.state == READY else self._line
            queue[:] = [other for other in queue if other is not task]
            heapify(queue)
        elif task.state == MEETING:
            groups = [(key, [other for other in tasks if other is not task]) for key, tasks in self._arrived.items()]
            self._arrived = {key: tasks for key, tasks in groups if tasks}
        if self._executor is task:
            self._executor = None
            others = [other for group in self._round for other in group.tasks if other is not task and other.state == MEETING]
            if others:
                self._executor = min(others)
                self._wake(self._executor)
            else:
                self._round = []

    def _end(self, task: Task, failed: bool) -> None:
        self._drop(task)
        self._hold(task, -task.held)
        self._move(task, ENDED)
        self._tasks.discard(task)
        call = task.call
        call.n_unfinished -= 1
        parent = call.parent
        if parent is None or parent.state != WAITING or call not in parent.waits_for:
            return
        # Once it is certain that the parent goes on, others wait for it, however late its own thread notices.
        if not any(other.n_unfinished for other in parent.waits_for) or (failed and len(parent.waits_for) == 1):
            self._move(parent, RESUMING)

    def _settle(self, caller: Task | None = None) -> list[Task]:
        """See to what can go on after a change; return the tasks whose threads are to be started once the lock is free."""
        if self._line and self._is_full:
            self._put_back()
        if not self._n_under_way and self._executor is None:
            self._admit()
            if self._n_under_way:
                pass
            elif self._pending and not self._line and self._n_started < self._max_tasks and self._are_complete:
                while self._pending and self._n_started < self._max_tasks:
                    task = heappop(self._pending)
                    self._tasks.add(task)
                    self._move(task, READY)
                    heappush(self._ready, task)
            elif self._arrived:
                self._hold_meeting(caller)
        return self._give_tokens() if self._ready else []

    def _admit(self) -> None:
        """Let those in line have their memory, in order, as far as it goes."""
        while self._line:
            first = self._line[0]
            # Those who hold memory and stand in line themselves, or wait for tasks of their own, cannot give it back before
            # others have some.
            if self._held + first.wanted > self.budget and any(task.state in (READY, MEETING) for task in self._holders):
                return
            heappop(self._line)
            self._hold(first, first.wanted)
            first.wanted = 0
            self._move(first, READY)
            heappush(self._ready, first)

    @property
    def _is_full(self) -> bool:
        """Whether those in line want more memory than there is."""
        return self._held + sum(task.wanted for task in self._line) > self.budget

    def _put_back(self) -> None:
        """Have tasks wait that have not begun: they would only get what they need in memory, and then stand in line."""
        for task in [task for task in self._ready if task.thread is None]:
            self._move(task, PENDING)
            self._tasks.discard(task)
            heappush(self._pending, task)
        self._ready = [task for task in self._ready if task.thread is not None]
        heapify(self._ready)

    def _hold_meeting(self, caller: Task | None) -> None:
        groups = [_Group(sorted(tasks, key=by_index)) for tasks in self._arrived.values()]
        self._arrived = {}
        self._round = sorted(groups, key=lambda group: group.tasks[0].index)
        if caller is not None and caller.state == MEETING:
            self._executor = caller
        else:
            self._executor = self._round[0].tasks[0]
            self._wake(self._executor)

    def _next_group(self) -> _Group | None:
        for group in self._round:
            if group.results is None:
                group.tasks = [task for task in group.tasks if task.state == MEETING and not task.call.is_aborted]
                if group.tasks:
                    return group
        return None

    def _deliver(self, executor: Task) -> list[Task]:
        for group in self._round:
            if group.results is None:
                continue
            share = group.seconds / len(group.tasks)
            for task, result in zip(group.tasks, group.results, strict=True):
                if task.state == MEETING and not task.call.is_aborted:
                    task.outcome = result, share
                    self._move(task, READY)
                    if task is not executor:
                        self._ready.append(task)
        heapify(self._ready)
        self._round, self._executor = [], None
        if executor.state == MEETING or not self._take_token(executor):
            if executor.state == MEETING:  # aborted meanwhile
                self._move(executor, WORKING)
            else:
                heappush(self._ready, executor)
        return self._settle()

    def _take_token(self, task: Task) -> bool:
        chain = task.call.chain
        for call in chain:
            if call.n_at_work >= call.limit:
                return False
        for call in chain:
            call.n_at_work += 1
        task.has_token = True
        self._move(task, WORKING)
        return True

    def _give_tokens(self) -> list[Task]:
        """Let as many work as may, the first ones first."""
        starting, others = [], []
        outermost = self._ready[0].call.chain[-1]
        while self._ready and outermost.n_at_work < outermost.limit:
            task = heappop(self._ready)
            if not self._take_token(task):
                others.append(task)
            elif task.thread is None:
                name = f"skvae-task-{'.'.join(map(str, task.index))}"
                task.thread = threading.Thread(target=self._run, args=(task,), name=name, daemon=True)
                if len(self._threads) > 2 * self._max_tasks:
                    self._threads = [thread for thread in self._threads if thread.ident is None or thread.is_alive()]
                self._threads.append(task.thread)
                starting.append(task)
            else:
                self._wake(task)
        for task in others:
            heappush(self._ready, task)
        return starting
