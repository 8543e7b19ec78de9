"""How many threads there are."""

import subprocess
import sys

import pytest

FORKED = """
import os, signal
import numpy as np
import torch
from skvae import AutoEncoder

torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(200, 1000))
model = AutoEncoder(20, hidden_layer_sizes=(1024, 1024), random_state=0, max_epochs=1, linear_path=None).fit(X)
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
    assert subprocess.run([sys.executable, "-c", FORKED], check=False, timeout=120).returncode == 0
