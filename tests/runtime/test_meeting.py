"""Tasks that run at the same time: whom they wait for, and that they never wait for ever."""

import contextvars
import random
import threading
import time
import traceback
from contextlib import contextmanager
from functools import partial

import pytest

from skvae.runtime import tasks
from skvae.runtime.meeting import Aborted, check_aborted, is_together, meet, reserve, waited
from skvae.runtime.tasks import Meeting, open_call

PATIENCE = 10  # seconds after which a test says that it was blocked


class Stop(Exception):
    """What ends a task."""


@contextmanager
def submitted(functions, limit=2, **options):
    """A call with these tasks, a list of what they come to, and a function that waits for the next one to end."""
    call, outcomes, ended = open_call(limit, **options), [None] * len(functions), threading.Semaphore(0)

    def done(i, value, error):
        outcomes[i] = (value, error)
        ended.release()

    def wait():
        assert ended.acquire(timeout=PATIENCE), "blocked"

    for i, function in enumerate(functions):
        call.submit(function, partial(done, i))
    try:
        yield call, outcomes, wait
    finally:
        call.end()


def run(functions, limit=2, **options):
    """What the tasks have returned or raised, once all have ended."""
    with submitted(functions, limit, **options) as (call, outcomes, wait), call.waiting():
        for _ in functions:
            wait()
    return [error if value is None else value for value, error in outcomes]


def run_or_raise(functions, limit=2):
    """What the tasks have returned; the first that fails aborts the others, as joblib has it."""
    with submitted(functions, limit) as (call, outcomes, wait), call.waiting():
        for _ in functions:
            wait()
            for outcome in outcomes:
                if outcome is not None and outcome[1] is not None:
                    raise outcome[1]
    return [value for value, _ in outcomes]


class Log(list):
    """A way to solve requests that notes which came together; each gets back what it asked for."""

    def __call__(self, requests):
        self.append(list(requests))
        return list(requests)


@pytest.fixture
def log():
    return Log()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("skvae-task")] == []


def sleep_a_little(rng):
    time.sleep(rng.uniform(0, 0.001))


# -- who meets --------------------------------------------------------------------------------------------------------


def test_outside_of_a_task_a_request_is_solved_alone(log):
    assert meet("key", 3, log) == 3
    assert log == [[3]]
    assert not is_together()
    assert waited() == 0.0
    check_aborted()
    with reserve(10**30):
        pass
    with pytest.raises(Stop):
        meet("key", 3, lambda requests: [Stop()])
    with pytest.raises(ValueError, match="too many"):
        meet("key", 3, lambda requests: [1, 2])


def test_requests_come_together_in_the_order_of_tasks(log):
    def task(i):
        time.sleep(0.002 * (5 - i))
        assert is_together()
        return [meet("key", (i, step), log) for step in range(3)]

    assert run([partial(task, i) for i in range(5)], limit=5) == [[(i, step) for step in range(3)] for i in range(5)]
    assert log == [[(i, step) for i in range(5)] for step in range(3)]


def test_groups_are_solved_in_the_order_of_their_first_tasks(log):
    assert run([partial(meet, i % 3, i, log) for i in range(8)]) == list(range(8))
    assert log == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_whoever_has_ended_or_failed_is_not_waited_for(log):
    def task(i):
        for step in range(i):
            meet("key", step, log)
        if i % 2:
            raise Stop

    run([partial(task, i) for i in range(5)])
    assert [len(requests) for requests in log] == [4, 3, 2, 1]


def test_calls_of_tasks_meet_in_the_same_place(log):
    def inner(i, j):
        return meet("key", (i, j), log)

    def outer(i):
        if i == 1:
            return meet("key", (i,), log)
        return run([partial(inner, i, j) for j in range(2)])

    assert run([partial(outer, i) for i in range(3)]) == [[(0, 0), (0, 1)], (1,), [(2, 0), (2, 1)]]
    assert log == [[(0, 0), (0, 1), (1,), (2, 0), (2, 1)]]


def test_three_levels_meet(log):
    def task(depth, *path):
        if depth:
            run([partial(task, depth - 1, *path, i) for i in range(2)])
        meet("key", path, log)

    run([partial(task, 2, i) for i in range(2)])
    assert [len(requests) for requests in log] == [8, 4, 2]


def test_those_who_take_results_one_by_one_meet_meanwhile(log):
    def outer(i):
        with submitted([partial(meet, "key", (i, j), log) for j in range(2)]) as (call, _, wait), call.waiting():
            wait()
            meet("key", (i,), log)
            with reserve(1):
                pass
            wait()

    run([partial(outer, i) for i in range(2)])
    assert sorted(request for requests in log for request in requests) == [(0,), (0, 0), (0, 1), (1,), (1, 0), (1, 1)]


def test_solving_may_run_tasks_of_its_own(log):
    def solve(requests):
        assert not is_together()
        return run([partial(meet, "inner", request, log) for request in requests])

    assert run([partial(meet, "key", i, solve) for i in range(3)]) == [0, 1, 2]
    assert log == [[0, 1, 2]]


def test_groups_do_not_depend_on_who_is_quicker():
    seen = set()
    for seed in range(20):
        rng, log = random.Random(seed), Log()

        def inner(i, j, rng=rng, log=log):
            sleep_a_little(rng)
            with reserve(30 + 10 * (j % 2)):
                for step in range(1 + j):
                    sleep_a_little(rng)
                    meet(i % 2, (i, j, step), log)

        def outer(i, rng=rng, inner=inner):
            sleep_a_little(rng)
            run([partial(inner, i, j) for j in range(3)])
            inner(i, 1)

        run([partial(outer, i) for i in range(4)], limit=3, max_tasks=5, budget=100)
        seen.add(str(log))
    assert len(seen) == 1
    assert max(len(requests) for requests in log) > 1


def test_tasks_have_the_context_of_their_call():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(3)
    assert run([variable.get] * 2) == [3, 3]


def test_a_meeting_is_quick(log):
    n_tasks, n_meetings = 60, 30

    def task():
        for _ in range(n_meetings):
            meet("key", 1, log)

    began = time.perf_counter()
    run([task] * n_tasks)
    assert (time.perf_counter() - began) / (n_tasks * n_meetings) < 5e-4  # about 1e-5 at rest
    assert len(log) == n_meetings


# -- how many ---------------------------------------------------------------------------------------------------------


class Counter:
    """How many are within it at a time."""

    def __init__(self):
        self.lock, self.n, self.most = threading.Lock(), 0, 0

    def __enter__(self):
        with self.lock:
            self.n += 1
            self.most = max(self.most, self.n)

    def __exit__(self, *error):
        with self.lock:
            self.n -= 1


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_limit_is_one_of_tasks_at_work_and_not_of_those_who_meet(limit, log):
    at_work, all_at_work = Counter(), threading.Barrier(limit)

    def task(i):
        for _ in range(2):
            with at_work:
                all_at_work.wait(PATIENCE)
                time.sleep(0.001)
            with reserve(1):
                meet("key", i, log)

    run([partial(task, i) for i in range(6)], limit=limit)
    assert at_work.most == limit
    assert log == [list(range(6))] * 2


def test_calls_of_tasks_are_limited_by_their_own_limit_and_by_those_above(log):
    outer_work, inner_work = Counter(), [Counter() for _ in range(3)]

    def inner(i):
        with outer_work, inner_work[i]:
            time.sleep(0.002)
        meet("key", i, log)
        with outer_work, inner_work[i]:
            time.sleep(0.002)

    def outer(i):
        with outer_work:
            time.sleep(0.001)
        run([partial(inner, i)] * 4, limit=i + 1)
        with outer_work:
            time.sleep(0.001)

    run([partial(outer, i) for i in range(3)], limit=2)
    assert outer_work.most <= 2
    assert inner_work[0].most == 1
    assert log == [[0] * 4 + [1] * 4 + [2] * 4]


def test_more_tasks_than_are_started_at_a_time(log):
    alive = Counter()

    def task(i):
        with alive:
            meet("key", i, log)

    assert run([partial(task, i) for i in range(11)], limit=2, max_tasks=4) == [None] * 11
    assert alive.most == 4
    assert log == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("max_tasks", [1, 2, 3])
def test_those_who_wait_for_calls_of_their_own_do_not_count(max_tasks, log):
    def task(depth, *path):
        if depth:
            run([partial(task, depth - 1, *path, i) for i in range(3)])
        meet("key", path, log)

    run([partial(task, 2, i) for i in range(3)], max_tasks=max_tasks)
    assert sum(map(len, log)) == 27 + 9 + 3


# -- memory -----------------------------------------------------------------------------------------------------------


def test_fits_are_let_in_in_their_order_as_far_as_memory_goes(log):
    def task(i):
        time.sleep(0.001 * (6 - i))
        with reserve(40):
            for _ in range(2 + i % 2):
                meet("key", i, log)

    run([partial(task, i) for i in range(6)], limit=6, budget=100)
    assert log == [[0, 1], [0, 1], [1, 2], [2, 3], [3, 4], [3, 4], [5], [5], [5]]


def test_one_that_needs_more_than_there_is_trains_alone(log):
    def task(i, n_bytes):
        with reserve(n_bytes):
            meet("key", i, log)

    run([partial(task, i, n_bytes) for i, n_bytes in enumerate([10, 1000, 10, 10])], budget=100)
    assert log == [[0], [1], [2, 3]]


def test_an_early_one_holds_up_later_ones_until_it_has_memory_or_ends(log):
    order, second_waits = [], threading.Event()

    def first():
        assert second_waits.wait(PATIENCE)
        time.sleep(0.01)
        with reserve(80):
            order.append("first")

    def second():
        second_waits.set()
        with reserve(80):
            order.append("second")

    run([first, second], budget=100)
    assert order == ["first", "second"]


@pytest.mark.parametrize("stage", ["in a call", "in a meeting", "in line", "at its end"])
def test_whoever_is_not_under_way_holds_up_nobody(stage, log):
    def first():
        if stage == "in a call":
            run([list] * 2)
        elif stage == "in a meeting":
            meet("key", 0, log)
        elif stage == "in line":
            with reserve(90), reserve(90):
                pass

    def second():
        with reserve(20):
            meet("key", 1, log)

    run([first, second], budget=100)
    assert log == ([[0, 1]] if stage == "in a meeting" else [[1]])


def test_memory_of_one_that_waits_for_its_own_tasks_blocks_nobody(log):
    def inner(i):
        with reserve(70):
            meet("key", i, log)

    def outer(i):
        with reserve(60):
            run([partial(inner, i)] * 2)
            with reserve(60):
                meet("key", -i, log)

    assert run([partial(outer, i) for i in range(1, 3)], budget=100) == [None, None]
    assert sorted(request for group in log for request in group) == [-2, -1, 1, 1, 2, 2]


def test_memory_is_given_back_by_those_who_fail(log):
    def task(i):
        with reserve(60):
            meet("key", i, log)
            raise Stop

    assert all(isinstance(outcome, Stop) for outcome in run([partial(task, i) for i in range(4)], budget=100))
    assert log == [[0], [1], [2], [3]]


# -- time -------------------------------------------------------------------------------------------------------------


def test_waiting_is_what_a_task_does_not_take_itself():
    def solve(requests):
        time.sleep(0.06)
        return requests

    def task(i):
        began, waited_before = time.perf_counter(), waited()
        with reserve(60):
            meet(i // 2, i, solve)
            time.sleep(0.01)
        return time.perf_counter() - began - (waited() - waited_before)

    seconds = run([partial(task, i) for i in range(4)], limit=1, budget=120)
    assert all(0.035 < own < 0.1 for own in seconds), seconds  # half of a meeting, and what it does itself, of .13 or more


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_result_that_is_an_exception_is_raised_in_its_own_task():
    def solve(requests):
        return [Stop(request) if request == 1 else request for request in requests]

    outcomes = run([partial(meet, "key", i, solve) for i in range(3)])
    assert outcomes[::2] == [0, 2]
    assert isinstance(outcomes[1], Stop)
    assert outcomes[1].args == (1,)


class Stubborn(Exception):
    """An exception that cannot be copied, as many that take other arguments."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize(
    "error", [Stop("text"), SystemExit(3), KeyboardInterrupt(), Stubborn(1, 2)], ids=lambda e: type(e).__name__
)
def test_all_get_what_solving_raises(error):
    error.add_note("noted")

    def solve(requests):
        raise error from ZeroDivisionError("cause")

    outcomes = run([partial(meet, "key", i, solve) for i in range(3)] + [partial(meet, "other", 3, lambda requests: requests)])
    assert outcomes[3] == 3
    for outcome in outcomes[:3]:
        assert type(outcome) is type(error)
        assert str(outcome) == str(error)
        assert isinstance(outcome.__cause__, ZeroDivisionError)
        assert outcome.__notes__ == ["noted"]
        assert "solve" in [frame.name for frame in traceback.extract_tb(outcome.__traceback__)]
    if not isinstance(error, Stubborn):
        assert len(set(map(id, outcomes[:3]))) == 3


@pytest.mark.parametrize("results", [[1], [1, 2, 3], None, 7])
def test_results_must_be_as_many_as_requests(results):
    outcomes = run([partial(meet, "key", i, lambda requests: results) for i in range(2)])
    assert all(isinstance(outcome, (ValueError, TypeError)) for outcome in outcomes)


def test_a_key_that_cannot_be_one_is_an_error_of_its_own_task(log):
    class Odd:
        def __hash__(self):
            return hash("key")

        def __eq__(self, other):
            raise Stop

    outcomes = run([partial(meet, key, i, log) for i, key in enumerate(["key", [], Odd(), "key"])], limit=1)
    assert outcomes[::3] == [0, 3]
    assert [type(outcome) for outcome in outcomes[1:3]] == [TypeError, Stop]
    assert log == [[0, 3]]


STAGES = ["start", "before", "in line", "with memory", "solving", "after", "between epochs", "in a call", "after a call", "end"]


@pytest.mark.parametrize("kind", [Stop, SystemExit, Aborted, KeyboardInterrupt])
@pytest.mark.parametrize("stage", STAGES)
def test_whoever_dies_blocks_nobody(stage, kind, log):
    def solve(requests):
        log.append(requests)
        if stage == "solving":
            return [kind() if request == 1 else request for request in requests]
        return requests

    def inner(at, i):
        at("in a call")
        meet("key", i, solve)

    def task(i):
        def at(place):
            if i == 1 and place == stage:
                raise kind

        at("start")
        meet("key", i, solve)
        at("before")
        with reserve(40):
            at("in line")
            meet("key", i, solve)
            at("with memory")
        at("after")
        meet("other", i, solve)
        at("between epochs")
        run_or_raise([partial(inner, at, i)] * 3)
        at("after a call")
        meet("key", i, solve)
        at("end")
        return i

    outcomes = run([partial(task, i) for i in range(5)], max_tasks=3, budget=100)
    assert outcomes[:1] + outcomes[2:] == [0, 2, 3, 4]
    assert type(outcomes[1]) is kind


@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_a_thread_that_dies_while_it_solves_for_all_hands_on(n_before, log, monkeypatch):
    n_asked, next_group = [0], Meeting._next_group

    def dies(self):
        n_asked[0] += 1
        if n_asked[0] == n_before + 1:
            raise Stop
        return next_group(self)

    monkeypatch.setattr(Meeting, "_next_group", dies)
    outcomes = run([partial(meet, i % 2, i, log) for i in range(4)])
    assert sum(isinstance(outcome, Stop) for outcome in outcomes) == 1
    assert [outcome for outcome in outcomes if not isinstance(outcome, Stop)] == [
        i for i in range(4) if not isinstance(outcomes[i], Stop)
    ]
    assert len(log) == 2  # nothing is solved twice


def test_where_there_are_no_more_threads_tasks_fail(log, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "skvae-task-1":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcomes = run([partial(meet, "key", i, log) for i in range(3)])
    assert outcomes[::2] == [0, 2]
    assert isinstance(outcomes[1], RuntimeError)
    assert log == [[0, 2]]


# -- ends -------------------------------------------------------------------------------------------------------------


def test_an_abort_ends_all_who_sleep():
    solving = threading.Event()

    def solve(requests):
        solving.set()
        while True:
            time.sleep(0.001)
            check_aborted()

    def waits_for_others():
        return run([partial(meet, "key", 1, solve)] * 2)

    def stands_in_line():
        with reserve(1000):
            raise AssertionError

    def holds():
        with reserve(1):
            meet("key", 1, solve)

    functions = [partial(meet, "key", 0, solve), partial(meet, "other", 0, solve), waits_for_others, holds, stands_in_line]
    with submitted([*functions, *functions[:1] * 3], budget=100, max_tasks=6) as (call, outcomes, wait):
        with call.waiting():
            assert solving.wait(PATIENCE)
            began = time.perf_counter()
            call.abort()
            for _ in outcomes:
                wait()
        assert time.perf_counter() - began < PATIENCE / 2
    assert all(isinstance(error, Aborted) for value, error in outcomes)
    with pytest.raises(Aborted):
        call.submit(list, print)


def test_an_exception_that_leaves_the_context_aborts():
    with submitted([partial(meet, "key", 0, lambda requests: time.sleep(0.001) or requests)] * 3) as (call, outcomes, wait):
        with pytest.raises(KeyboardInterrupt), call.waiting():
            raise KeyboardInterrupt
        for _ in outcomes:
            wait()


def test_an_aborted_task_is_aborted_wherever_it_goes_next():
    def swallows():
        went_on.set()
        assert aborted.wait(PATIENCE)
        for action in (check_aborted, partial(meet, "key", 1, list), reserve(1).__enter__, partial(run, [list])):
            with pytest.raises(Aborted):
                action()
        return "ended"

    went_on, aborted = threading.Event(), threading.Event()
    with submitted([swallows]) as (call, outcomes, wait), call.waiting():
        assert went_on.wait(PATIENCE)
        call.abort()
        aborted.set()
        wait()
    assert outcomes == [("ended", None)]


def test_those_whose_call_is_aborted_do_not_end_the_solving_for_others(log):
    """The inner call of the second task fails while a thread, be it its own, computes for both."""

    def solve(requests):
        for _ in range(20):
            time.sleep(0.001)
            check_aborted()
        log.append(requests)
        return requests

    def second(i):
        with submitted([partial(meet, "key", 10 * i + j, solve) for j in range(3)]) as (call, _, _), call.waiting():
            time.sleep(0.01)
            raise Stop

    outcomes = run([partial(meet, "key", 0, solve), partial(second, 1), partial(second, 2), partial(meet, "other", 3, solve)])
    assert outcomes[0] == 0
    assert outcomes[3] == 3
    assert all(isinstance(outcome, Stop) for outcome in outcomes[1:3])


def interrupt(call, event):
    """Wait for the tasks of a call, and be interrupted once something has happened."""
    with call.waiting():
        assert event.wait(PATIENCE)
        raise KeyboardInterrupt


def test_a_long_computation_does_not_keep_an_aborted_call(monkeypatch):
    monkeypatch.setattr(tasks, "GRACE", 0.05)
    busy, free = threading.Event(), threading.Event()

    def task():
        busy.set()
        free.wait(PATIENCE)

    with submitted([task]) as (call, _, wait):
        with pytest.raises(KeyboardInterrupt):
            interrupt(call, busy)
        call.end()
        assert [thread.daemon for thread in tasks.left_behind] == [True]
        free.set()
        wait()
    tasks._join_those_left_behind()
    assert not any(thread.is_alive() for thread in tasks.left_behind)
