"""How many threads there are."""

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

has_gomp = sys.platform == "linux" and any(each["prefix"] == "libgomp" for each in threadpool_info())
needs_gomp = pytest.mark.skipif(not has_gomp, reason="threads are counted as Linux counts them, and GNU's OpenMP makes them")


def run(script, *args, **environment):
    """Run a script in a process of its own, as numbers of threads that were set once leave their traces."""
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


ALONE = """
import ctypes, os, sys, threading
import torch
from skvae.runtime.threads import _mkl_limits, one_thread

def n_threads():
    return len(os.listdir("/proc/self/task"))

if sys.argv[1:]:
    torch.set_num_threads(int(sys.argv[1]))
allowed, mkl = torch.get_num_threads(), [limit(0) for limit in _mkl_limits()]
for limit, number in zip(_mkl_limits(), mkl):
    limit(number)
x = torch.randn(256, 256, requires_grad=True)
w = [torch.nn.Parameter(torch.randn(256, 256)) for _ in range(2)]
optimizer = torch.optim.Adam(w, fused=True)

def work():
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            loss = (torch.relu(x @ w[0]) @ w[1]).float().square().sum()
        loss.backward()
        optimizer.step()
    torch.linalg.eigh(x.detach().double() @ x.detach().double().mT)

def beside():
    seen.append(torch.get_num_threads())
    before = n_threads()
    x.detach() @ x.detach()
    seen.append(n_threads() - before)

seen = []
before = n_threads()
with one_thread():
    with one_thread():
        work()
    work()
    assert torch.get_num_threads() == 1
    assert n_threads() == before, "work was divided"
    other = threading.Thread(target=beside)
    other.start()
    other.join()
assert seen == [allowed, allowed - 1], seen
assert torch.get_num_threads() == allowed
assert [limit(number) for limit, number in zip(_mkl_limits(), mkl)] == mkl
x.detach() @ x.detach()
assert n_threads() > before, "work is not divided"
"""


@needs_gomp
@pytest.mark.parametrize(
    ("args", "environment"),
    [(["2"], {}), pytest.param([], {"MKL_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}, marks=pytest.mark.slow)],
    ids=["torch", "environment"],
)
def test_one_thread_is_one_whatever_was_set_and_leaves_that_to_others(args, environment):
    run(ALONE, *args, **environment)


BITS = """
import numpy as np
import torch
from skvae import VAETransformer

X = np.random.default_rng(0).normal(size=(300, 6))
found = []
for number in (1, 2):
    torch.set_num_threads(number)
    model = VAETransformer(2, max_epochs=2, random_state=0, linear_path=None).fit(X)
    found.append((model.loss_curve_, model.transform(X).tolist()))
assert found[0] == found[1]
"""


def test_fits_are_the_same_whatever_number_of_threads_was_set():
    run(BITS)


SLEEPS = """
import os, threading, time
import torch
import skvae.runtime.threads as threads

torch.set_num_threads(2)
x = torch.zeros(2**17)

def n_threads():
    return len(os.listdir("/proc/self/task"))

def time_at_work():
    parts = [open(f"/proc/self/task/{task}/schedstat").read().split() for task in os.listdir("/proc/self/task")]
    return sum(int(part[0]) for part in parts) * 1e-9

def waste():
    start = time_at_work()
    for _ in range(60):
        x.add_(1.0)
        time.sleep(0.002)
    return time_at_work() - start

def settled(number):
    deadline = time.monotonic() + 30.0
    while n_threads() > number and time.monotonic() < deadline:
        time.sleep(0.01)
    return n_threads() <= number

def wait_for(condition):
    deadline = time.monotonic() + 30.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()

usual, before = waste(), n_threads()
preempted = 0
threads._WINDOW, threads.n_preemptions = 0.01, lambda: preempted
with threads.patient_threads():
    time.sleep(0.1)
    assert n_threads() == before + 1  # who watches
assert wait_for(lambda: n_threads() == before)

busy = threading.Event()
def preempt():
    global preempted
    while not busy.wait(0.001):
        preempted += 1
threading.Thread(target=preempt, daemon=True).start()
try:
    with threads.patient_threads():
        assert wait_for(lambda: n_threads() >= before + 4)  # those gathered are two or more
        gathered = n_threads()
        with threads.patient_threads():  # of another fit, or another part of this one
            assert n_threads() == gathered
        asleep = waste()
        child = os.fork()
        if child == 0:  # where nobody is gathered, and nobody is to be waited for
            torch.set_num_threads(2)
            with threads.patient_threads():
                os._exit(0 if threads._watch._n_users == 1 else 1)
        assert os.waitpid(child, 0)[1] == 0
        raise KeyboardInterrupt
except KeyboardInterrupt:
    assert wait_for(lambda: n_threads() <= before + 1)
busy.set()
assert wait_for(lambda: n_threads() == before)
threads._watch.busy_until = 0.0
with threads.patient_threads():
    time.sleep(0.1)
    assert n_threads() <= before + 1
assert torch.get_num_threads() == 2
torch.set_num_threads(1)
assert wait_for(lambda: n_threads() <= before)
with threads.patient_threads():
    assert n_threads() <= before
print(usual, asleep)
"""


@needs_gomp
@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", list)(0)) < 2, reason="threads of one processor always sleep")
def test_threads_that_wait_sleep_where_the_machine_is_busy():
    usual, asleep = map(float, run(SLEEPS))
    assert asleep < 0.6 * usual


BUSY = """
import time
import numpy as np
import torch
from skvae import AutoEncoder, VAETransformer

rng = np.random.default_rng(0)
small, large = rng.normal(size=(4000, 30)), rng.normal(size=(1500, 784))
torch.set_num_threads(1)
for make, X in ((VAETransformer, small), (AutoEncoder, large)):
    times = {1: [], 2: []}
    for number in (1, 2, 1, 2):
        torch.set_num_threads(number)
        start = time.perf_counter()
        make(3, max_epochs=2, linear_path=None, random_state=0).fit(X)
        times[number].append(time.perf_counter() - start)
    print(min(times[2]) / min(times[1]))
"""


@pytest.mark.slow
def test_fits_beside_busy_processes_have_their_fair_share():
    """Those that may have two threads are about as fast as those with one, and not twenty times as slow."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        ratios = list(map(float, run(BUSY)))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert max(ratios) < 5.0, ratios


FORKED = """
import os, signal
import numpy as np
import torch
from skvae import AutoEncoder

torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(200, 1000))
model = AutoEncoder(20, hidden_layer_sizes=(256, 256), random_state=0, max_epochs=1, linear_path=None).fit(X)
expected = model.transform(X)
torch.randn(1000, 1000) @ torch.randn(1000, 1000)
child = os.fork()
if child == 0:
    signal.alarm(60)  # or else it might wait for ever
    os._exit(0 if np.allclose(model.transform(X), expected, atol=1e-4) else 3)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forked_processes_do_not_wait_for_threads_of_their_parent():
    run(FORKED)
