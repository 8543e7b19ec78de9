"""The backend of joblib by which fits train together: estimators whose fit is a meeting, in whatever goes through joblib."""

import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import BaggingClassifier, BaggingRegressor, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
    permutation_test_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils import parallel as sklearn_parallel

import skvae
from skvae import together, train_together
from skvae.runtime.meeting import Aborted, check_aborted, is_together, meet, reserve

X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.arange(40) % 2
LOG = []


RETURN_AS = ["generator"] if joblib.__version__.startswith("1.3.") else ["generator", "generator_unordered"]


def solve(requests):
    LOG.append(list(requests))
    return [None] * len(requests)


class Meets(ClassifierMixin, BaseEstimator):
    """A classifier that meets others twice, and fails where it is asked to."""

    def __init__(self, a=0, fails=None, n_bytes=1, error=ArithmeticError):
        self.a = a
        self.fails = fails
        self.n_bytes = n_bytes
        self.error = error

    def fit(self, X, y=None):
        self.classes_ = np.unique(Y)
        self._at("start")
        with reserve(self.n_bytes):
            for _ in range(2):
                meet("key", self.a, self._solve)
                self._at("between")
        self._at("end")
        return self

    def _at(self, stage):
        if stage == self.fails:
            raise self.error("on purpose")

    def _solve(self, requests):
        self._at("solving")
        return solve(requests)

    def predict(self, X):
        return np.zeros(len(X), dtype=int)

    def predict_proba(self, X):
        return np.tile([1.0, 0.0], (len(X), 1))

    def score(self, X, y=None):
        self._at("score")
        return self.a


@pytest.fixture(autouse=True)
def nothing_is_left():
    LOG.clear()
    filters = list(warnings.filters)
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("skvae-task")] == []
    assert list(warnings.filters) == filters


def sizes():
    return [len(requests) for requests in LOG]


def grid(values=(1, 2, 3), **params):
    return GridSearchCV(Meets(), {"a": list(values)}, cv=4, **params)


# -- whatever goes through joblib -------------------------------------------------------------------------------------


def predict_by(ensemble):
    ensemble.fit(X, Y).predict(X)


CALLS = {
    "grid": (lambda: grid(refit=False).fit(X, Y), [12, 12]),
    "refit": (lambda: grid().fit(X, Y), [12, 12, 1, 1]),
    "random": (lambda: RandomizedSearchCV(Meets(), {"a": range(9)}, n_iter=3, cv=2, refit=False).fit(X, Y), [6, 6]),
    "halving": (
        lambda: HalvingGridSearchCV(Meets(), {"a": range(9)}, cv=2, min_resources=8, refit=False).fit(X, Y),
        [18, 18, 6, 6],
    ),
    "validate": (lambda: cross_validate(Meets(), X, Y, cv=5), [5, 5]),
    "predict": (lambda: cross_val_predict(Meets(), X, Y, cv=5), [5, 5]),
    "curve": (lambda: learning_curve(Meets(), X, Y, cv=2, train_sizes=[0.5, 0.9]), [4, 4]),
    "permutations": (lambda: permutation_test_score(Meets(), X, Y, cv=2, n_permutations=3), [1, 1, 1, 1, 3, 3, 3, 3]),
    "bagging": (lambda: predict_by(BaggingClassifier(Meets(), n_estimators=7)), [7, 7]),
    "bagging, two at work": (lambda: predict_by(BaggingRegressor(Meets(), n_estimators=7, n_jobs=2)), [7, 7]),
    "voting": (lambda: predict_by(VotingClassifier([(str(i), Meets(i)) for i in range(4)])), [4, 4]),
    "stacking": (
        lambda: predict_by(StackingClassifier([(str(i), Meets(i)) for i in range(2)], LogisticRegression(), cv=3)),
        [2, 2, 6, 6],
    ),
    "one against the rest": (lambda: OneVsRestClassifier(Meets()).fit(X, np.arange(40) % 3), [3, 3]),
    "search in validation": (lambda: cross_validate(grid(), X, Y, cv=3), [36, 36, 3, 3]),
    "three levels": (
        lambda: cross_validate(GridSearchCV(BaggingClassifier(Meets(), 2), {"max_features": [1, 2]}, cv=2), X, Y, cv=2),
        [16, 16, 4, 4],
    ),
}


@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
@pytest.mark.parametrize("name", CALLS)
def test_fits_meet_in_whatever_goes_through_joblib(name, n_jobs):
    call, expected = CALLS[name]
    with train_together(), parallel_config(n_jobs=n_jobs):
        call()
    assert sizes() == expected


def test_an_explicit_number_of_jobs_reaches_the_backend():
    for n_jobs in (1, 2, -1):
        LOG.clear()
        with train_together():
            grid(n_jobs=n_jobs, refit=False).fit(X, Y)
        assert sizes() == [12, 12]


def test_requests_come_in_the_order_of_candidates():
    with train_together():
        cross_validate(grid(refit=False, error_score=0.0), X, Y, cv=2, scoring=lambda *_: 0.0)
    assert LOG == [([1] * 4 + [2] * 4 + [3] * 4) * 2] * 2


def test_results_are_those_without_it():
    expected = grid().fit(X, Y)
    with train_together():
        search = grid().fit(X, Y)
    assert search.best_params_ == expected.best_params_
    for key, values in expected.cv_results_.items():
        if "time" not in key:
            np.testing.assert_array_equal(search.cv_results_[key], values)


def test_groups_repeat():
    seen = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)

        class Sleeps(Meets):
            def _at(self, stage, rng=rng):
                time.sleep(rng.uniform(0, 0.0005))

        LOG.clear()
        with train_together("100B"):
            GridSearchCV(Sleeps(), {"a": [1, 2, 3], "n_bytes": [30, 60]}, cv=2, refit=False, n_jobs=3).fit(X, Y)
        seen.add(str(LOG))
    assert len(seen) == 1
    assert sum(sizes()) == 24


def test_more_fits_than_are_under_way_at_a_time():
    with train_together():
        RandomizedSearchCV(Meets(), {"a": range(1000)}, n_iter=150, cv=2, refit=False, random_state=0).fit(X, Y)
    assert sizes() == [256, 256, 44, 44]


def test_memory_bounds_what_trains_together_and_the_outermost_budget_counts():
    with train_together(100), train_together(1000):
        GridSearchCV(Meets(n_bytes=40), {"a": [1, 2, 3]}, cv=2, refit=False).fit(X, Y)
    assert LOG == [[1, 1]] * 2 + [[2, 2]] * 2 + [[3, 3]] * 2


# -- errors -----------------------------------------------------------------------------------------------------------


STAGES = ["start", "between", "end", "score"]


@pytest.mark.parametrize("stage", STAGES)
def test_one_candidate_that_fails_does_not_touch_the_others(stage):
    search = GridSearchCV(Meets(), {"a": [1, 2, 3], "fails": [None, stage]}, cv=2, refit=False, error_score=math.nan)
    with train_together(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[::2].tolist() == [1, 2, 3]
    assert np.isnan(scores[1::2]).all()


@pytest.mark.parametrize("n_jobs", [1, None])
@pytest.mark.parametrize("stage", [*STAGES, "solving"])
def test_an_error_that_is_raised_ends_all(stage, n_jobs):
    search = GridSearchCV(Meets(), {"fails": [stage, None], "a": [1, 2]}, cv=2, error_score="raise", n_jobs=n_jobs)
    with train_together(), pytest.raises(ArithmeticError, match="on purpose") as caught:
        search.fit(X, Y)
    assert "in _at" in caught.value.__notes__[0]
    assert is_together() is False


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Aborted])
@pytest.mark.parametrize("stage", STAGES[:3])
def test_whatever_ends_a_thread_ends_the_search(stage, error):
    search = GridSearchCV(Meets(error=error), {"fails": [None, stage, None], "a": [1, 2]}, cv=2)
    with train_together(), pytest.raises(error):
        search.fit(X, Y)


def test_an_inner_search_that_fails_does_not_touch_the_outer_one():
    inner = GridSearchCV(Meets(), {"fails": [None, "between"]}, cv=2, error_score="raise")
    with train_together(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = GridSearchCV(inner, {"param_grid": [{"a": [1, 2]}, {"fails": [None, "between"]}, {"a": [3]}]}, cv=2, refit=False)
        search.fit(X, Y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], [2, np.nan, 3])


def test_a_timeout_ends_all():
    def task():
        while True:
            time.sleep(0.001)
            check_aborted()

    with train_together(), pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.02)(delayed(task)() for _ in range(3))


def test_tasks_that_cannot_even_be_listed_end_all():
    def listed():
        yield delayed(meet)("key", 1, solve)
        raise ArithmeticError

    with train_together(), pytest.raises(ArithmeticError):
        Parallel()(listed())
    assert LOG == []


INTERRUPTED = """
import os, signal, sys, threading, time, types
package = types.ModuleType("skvae")  # without what the package imports, which takes seconds
package.__path__ = [sys.argv[1]]
sys.modules["skvae"] = package
from joblib import Parallel, delayed
from skvae.together import train_together
from skvae.runtime import tasks
from skvae.runtime.meeting import check_aborted, meet

tasks.GRACE, tasks.GRACE_AT_EXIT = 0.5, 0.1

def at_work():
    started.set()
    for _ in range(10_000):
        time.sleep(0.001)
        check_aborted()

def solve(requests):
    started.set()
    at_work()
    return requests

def sleeps():
    started.set()
    time.sleep(1000)

def interrupt():
    started.wait()
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

def nested():
    return Parallel()(delayed(meet)("key", 1, solve) for _ in range(3))

for task in (at_work, lambda: meet("key", 1, solve), nested, sleeps):
    started = threading.Event()
    threading.Thread(target=interrupt).start()
    try:
        with train_together():
            Parallel()(delayed(task)() for _ in range(5))
    except KeyboardInterrupt:
        print("interrupted", sum(thread.name.startswith("skvae-task") for thread in threading.enumerate()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_an_interrupt_ends_all_and_the_interpreter_can_exit():
    began = time.monotonic()
    command = [sys.executable, "-c", INTERRUPTED, str(Path(skvae.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["interrupted 0"] * 3
    assert done.stdout.split("\n")[3].startswith("interrupted")  # one that looks at nothing for a long time is left behind
    assert time.monotonic() - began < 50


# -- what joblib asks -------------------------------------------------------------------------------------------------


def test_a_context_within_itself_is_the_same():
    with train_together():
        backend = get_active_backend()[0]
        with train_together("1MB"):
            assert get_active_backend()[0] is backend
        with parallel_config("loky"), train_together(5):
            assert get_active_backend()[0] is backend
    assert not isinstance(get_active_backend()[0], type(backend))
    with train_together():
        assert get_active_backend()[0] is not backend


def test_it_can_be_entered_within_a_task():
    def task():
        with train_together(1):
            return Parallel()(delayed(meet)("key", i, lambda requests: [len(requests)] * len(requests)) for i in range(2))

    with train_together():
        assert Parallel()(delayed(task)() for _ in range(3)) == [[6, 6]] * 3


def test_searches_in_two_threads_do_not_block_each_other():
    def search(values):
        with train_together():
            grid(values, refit=False).fit(X, Y)

    threads = [threading.Thread(target=search, args=(values,), daemon=True) for values in ([1, 2], [3, 4, 5])]
    with train_together():
        for thread in threads:
            thread.start()
        grid([6], refit=False).fit(X, Y)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(sizes()) == [4, 4, 8, 8, 12, 12]


def test_a_thread_that_has_not_entered_it_is_left_alone():
    seen = []
    with train_together():
        thread = threading.Thread(target=lambda: seen.append(get_active_backend()[0]))
        thread.start()
        thread.join()
    assert not isinstance(seen[0], together.TogetherBackend)


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_other_backends_in_a_task_are_left_alone(backend):
    def task():
        with parallel_config(backend, n_jobs=2):
            return Parallel()(delayed(os.getpid)() for _ in range(2)), type(get_active_backend()[0]).__name__.lower()

    with train_together():
        for processes, name in Parallel()(delayed(task)() for _ in range(2)):
            assert (os.getpid() in processes) == (backend != "loky")
            assert backend in name


def returns_or_waits(i):
    while i:
        time.sleep(0.001)
        check_aborted()
    return i


@pytest.mark.parametrize("return_as", RETURN_AS)
def test_results_can_be_had_one_by_one(return_as):
    with train_together():
        outcomes = Parallel(return_as=return_as)(delayed(meet)("key", i, lambda requests: list(requests)) for i in range(5))
        assert sorted(outcomes) == list(range(5))
        rest = Parallel(return_as=return_as)(delayed(returns_or_waits)(i) for i in range(3))
        assert next(rest) == 0
        with pytest.warns(UserWarning, match="cancelled"):
            rest.close()


def test_results_can_be_had_one_by_one_in_a_task():
    def task():
        outcomes = Parallel(return_as="generator")(delayed(meet)("key", i, solve) for i in range(2))
        return [(meet("key", "between", solve), outcome) for outcome in outcomes]

    with train_together():
        assert len(Parallel()(delayed(task)() for _ in range(2))) == 2
    assert sorted(str(request) for requests in LOG for request in requests) == ["0", "0", "1", "1", *["between"] * 4]


def test_one_object_can_be_called_again_and_in_a_context():
    with train_together(), Parallel(n_jobs=1) as parallel:
        for n in (2, 3):
            parallel(delayed(meet)("key", i, solve) for i in range(n))
    assert LOG == [[0, 1], [0, 1, 2]]
    with train_together():
        parallel = Parallel()
        assert parallel([]) == []
        for n in (2, 3):
            parallel(delayed(meet)("key", i, solve) for i in range(n))
    assert LOG[2:] == [[0, 1], [0, 1, 2]]


def test_tasks_in_batches_run_one_after_the_other():
    with train_together():
        Parallel(batch_size=2)(delayed(meet)("key", i, solve) for i in range(5))
    assert LOG == [[0, 2, 4], [1, 3]]


def test_who_cuts_work_into_parts_cuts_as_many_as_without_it():
    sequential = [effective_n_jobs(n_jobs) for n_jobs in (None, 1, 3, -1)]
    with train_together():
        assert [effective_n_jobs(n_jobs) for n_jobs in (None, 1, 3, -1)] == sequential
        with pytest.raises(ValueError, match="no meaning"):
            Parallel(n_jobs=0)([])
        with pytest.raises(ValueError, match="no meaning"):
            effective_n_jobs(0)


def appends_late(i, numbers):
    time.sleep(0.002 * (4 - i))
    numbers.append(i)


def test_tasks_that_share_memory_run_in_their_order():
    numbers = []
    with train_together():
        Parallel(require="sharedmem")(delayed(appends_late)(i, numbers) for i in range(4))
    assert numbers == [0, 1, 2, 3]


def test_forests_predict_as_without_it():
    """They add up what trees say, in the order in which they say it, which rounding shows."""
    forest = RandomForestClassifier(30, random_state=0).fit(X, Y)
    expected = forest.predict_proba(X)
    with train_together():
        again = Parallel()(delayed(forest.predict_proba)(X) for _ in range(3))
    np.testing.assert_array_equal(again, [expected] * 3)


# -- what threads have of the process ---------------------------------------------------------------------------------


def configured():
    return sklearn.get_config()["assume_finite"], np.geterr()["over"]


def test_tasks_have_the_configuration_of_their_caller():
    with train_together(), sklearn.config_context(assume_finite=True), np.errstate(over="raise"):
        outcomes = sklearn_parallel.Parallel()(sklearn_parallel.delayed(configured)() for _ in range(3))
    assert outcomes == [(True, "raise")] * 3


def changes_filters(seconds):
    with warnings.catch_warnings():
        time.sleep(seconds)
        warnings.simplefilter("ignore")
        meet("key", 0, solve)
        time.sleep(seconds)
    warnings.filterwarnings("ignore", message=f"after {seconds}")


def test_filters_of_warnings_are_what_they_were():
    before, showwarning = list(warnings.filters), warnings.showwarning
    with train_together():
        sklearn_parallel.Parallel()(sklearn_parallel.delayed(changes_filters)(0.0005 * (i % 4)) for i in range(12))
        assert list(warnings.filters) == before
    assert warnings.showwarning is showwarning


@pytest.mark.skipif(together._FILTERS_ARE_PRIVATE, reason="threads cannot change those of others")
def test_no_task_sets_filters_that_are_in_force_already():
    """Another thread would find them changed, or empty in between."""
    with train_together():
        filters = sklearn_parallel.Parallel()(sklearn_parallel.delayed(lambda: id(warnings.filters))() for _ in range(5))
    assert len(set(filters)) == 1


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [
        (1, 1),
        (np.int64(7), 7),
        (4e9, 4 * 10**9),
        ("5", 5),
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        (" 1.5G ", 1.5 * 10**9),
        ("2GiB", 2 * 2**30),
        ("500MB", 500 * 10**6),
        ("3K", 3000),
        ("3KiB", 3072),
        (".5TB", 5 * 10**11),
        ("10B", 10),
    ],
)
def test_bytes_are_understood(given, n_bytes):
    assert together.n_bytes_of(given) == n_bytes


@pytest.mark.parametrize("given", [0, -1, 0.5, "0", "", "GB", "-3GB", "4XB", "4iB", "1e9", math.nan, math.inf])
def test_what_is_no_number_of_bytes_is_refused(given):
    with pytest.raises(ValueError, match=r'max_memory must be a number of bytes above zero, .*"4GB".*, got'):
        train_together(given)


@pytest.mark.parametrize("given", [True, [1], {}, 1j])
def test_what_is_no_number_at_all_is_refused(given):
    with pytest.raises(TypeError, match="max_memory must be"):
        train_together(given)


def test_memory_is_half_of_what_is_available(monkeypatch):
    assert 10**7 < together.available_memory() < 10**15
    monkeypatch.setattr(together, "available_memory", lambda: 100)
    with train_together():
        assert get_active_backend()[0].max_memory == 50


def test_where_the_system_does_not_say_memory_is_guessed(monkeypatch):
    def refuse(*args):
        raise OSError

    monkeypatch.setattr("builtins.open", refuse)
    assert 10**7 < together.available_memory() < 10**15
    monkeypatch.setattr(os, "sysconf", refuse, raising=False)
    assert together.available_memory() == together.UNKNOWN_MEMORY
