"""Last bits do not depend on where numbers lie in memory, nor on how the processor and its libraries compute."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import slow
from torch import nn
from torch.overrides import TorchFunctionMode

from skvae.modules import AutoEncoderModule, Batch, VAEModule
from skvae.runtime.alignment import AlignedRows, keeps_rows_aligned
from skvae.runtime.randomness import PrivateRandomness
from skvae.runtime.state import load_module_state, to_plain

# -- where rows lie ---------------------------------------------------------------------------------------------------


class Watch(TorchFunctionMode):
    """Note whether the rows of every product begin cache lines."""

    def __init__(self):
        super().__init__()
        self.aligned = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
            rows = args[0]
            self.aligned.append(rows.stride(1) == 1 and rows.stride(0) % 16 == 0 and rows.stride(0) >= rows.shape[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "rows",
    [
        torch.arange(3.0).expand(8, 3),
        torch.randn(3, 16).mT,
        torch.randn(4, 5, 3),
        torch.randn(4, 5, 32)[..., :16],
        torch.randn(4, 5, 16)[:, 1:4],
        torch.randn(4, 1, 16).expand(4, 5, 16),
        torch.randn(6, 32)[:, ::2],
    ],
    ids=["expanded", "transposed", "three dimensions", "padded", "cut out", "expanded in the middle", "every other entry"],
)
def test_rows_of_all_kinds_are_aligned(rows):
    weight = torch.randn(2, rows.shape[-1])
    expected = F.linear(rows, weight)
    with Watch() as watch, AlignedRows():
        got = F.linear(rows, weight)
    assert watch.aligned == [True]
    torch.testing.assert_close(got, expected)


class Plain(nn.Module):
    """A layer of the user's own, which multiplies by a matrix that does not say how wide it is."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_inputs, n_outputs))

    def forward(self, x):
        return x @ self.weight


NETWORKS = {
    "multiples of a cache line": (lambda: nn.Sequential(nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, 3)), True),
    "a linear map": (lambda: nn.Sequential(nn.Linear(7, 3)), True),
    "normalization and dropout between": (
        lambda: nn.Sequential(nn.Linear(7, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 3), nn.Sigmoid()),
        True,
    ),
    "an odd width": (lambda: nn.Sequential(nn.Linear(7, 30), nn.ReLU(), nn.Linear(30, 3)), False),
    "an odd width within": (lambda: nn.Sequential(nn.Linear(7, 32), nn.Linear(32, 9), nn.Linear(9, 3)), False),
    "normalization first": (lambda: nn.Sequential(nn.LayerNorm(7), nn.Linear(7, 16), nn.Linear(16, 3)), False),
    "a layer of the user's own first": (lambda: nn.Sequential(Plain(7, 9), Plain(9, 3)), False),
    "a layer of the user's own": (lambda: nn.Sequential(nn.Linear(7, 9), Plain(9, 3)), False),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 3))), False),
    "no sequence": (lambda: Plain(7, 3), False),
}


@pytest.mark.parametrize(("build", "kept"), NETWORKS.values(), ids=NETWORKS)
def test_rows_stay_aligned_or_are_aligned_anew(build, kept):
    module = AutoEncoderModule(7, 3).eval()
    module.encoder = build()
    assert keeps_rows_aligned(module) == kept
    if kept:  # then every product is of aligned rows
        with torch.no_grad(), Watch() as watch:
            module.encode(Batch.of(torch.zeros(5, 16)[:, :7]))
        assert watch.aligned
        assert all(watch.aligned)


def test_defaults_need_no_copies():
    assert keeps_rows_aligned(AutoEncoderModule(7, 3))
    assert keeps_rows_aligned(VAEModule(7, 3))
    assert keeps_rows_aligned(VAEModule(7, 3, decoder="tied"))


def oddly_placed(array, offset):
    """Copy of an array that begins so many bytes behind a cache line."""
    raw = np.empty(array.nbytes + 128, dtype=np.uint8)
    start = -raw.ctypes.data % 64 + offset
    placed = np.ndarray(array.shape, array.dtype, raw[start : start + array.nbytes].data)
    placed[...] = array
    return placed


@pytest.mark.parametrize("offset", [4, 8, 16, 20])
def test_loaded_weights_begin_cache_lines(offset):
    with PrivateRandomness(0):
        module = VAEModule(5, 2, hidden_layer_sizes=(7,))
    state = {name: value for name, value in to_plain(module.state_dict()).items() if isinstance(value, np.ndarray)}
    placed = {name: oddly_placed(value, offset) for name, value in state.items()}
    assert all(value.ctypes.data % 64 == offset for value in placed.values())
    load_module_state(module, {**to_plain(module.state_dict()), **placed})
    assert all(value.data_ptr() % 64 == 0 for value in module.state_dict().values() if isinstance(value, torch.Tensor))
    loaded = to_plain(module.state_dict())
    assert all(np.array_equal(loaded[name], value) for name, value in state.items())


# -- processors -------------------------------------------------------------------------------------------------------

STATEMENTS = """
import pickle, sys, warnings
import numpy as np
import skvae
from threadpoolctl import ThreadpoolController

warnings.simplefilter("ignore")


def place(array, offset):
    raw = np.empty(array.nbytes + 128, dtype=np.uint8)
    start = -raw.ctypes.data % 64 + offset
    placed = np.ndarray(array.shape, array.dtype, raw[start : start + array.nbytes].data)
    placed[...] = array
    return placed


def displaced(tree, offset):
    if isinstance(tree, np.ndarray) and tree.dtype != object and tree.size:
        return place(tree, offset)
    if isinstance(tree, dict):
        return {key: displaced(value, offset) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)) and type(tree) in (list, tuple):
        return type(tree)(displaced(value, offset) for value in tree)
    return tree


def load(model, offset):
    loaded = type(model).__new__(type(model))
    loaded.__setstate__(displaced(pickle.loads(pickle.dumps(model.__getstate__())), offset))
    return loaded


def outputs(model, X):
    codes = model.transform(X)
    return codes, model.inverse_transform(codes), model.score_samples(X)


def assert_same(got, expected, what):
    for values, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(values, wanted, err_msg=what, strict=True)


rng = np.random.default_rng(0)
X = (rng.normal(size=(45, 3)) @ rng.normal(size=(3, 5)) + 0.3 * rng.normal(size=(45, 5))).astype(np.float32)
order = rng.permutation(len(X))
for cls, params in ((skvae.VAETransformer, {"hidden_layer_sizes": (13,)}), (skvae.AutoEncoder, {"hidden_layer_sizes": ()})):
    model = cls(3, max_epochs=2, batch_size=7, random_state=0, n_score_draws=4, **params)
    for _ in range(2):
        model.partial_fit(X)
    expected = outputs(model, X)
    assert_same(outputs(model, X[order]), [values[order] for values in expected], "neighbors")
    assert_same(outputs(model, X[[7]]), [values[[7]] for values in expected], "alone")
    for n_threads in (1, 2):
        with ThreadpoolController().limit(limits=n_threads, user_api="openmp"):
            assert_same(outputs(model, X), expected, f"{n_threads} threads")
    others = [load(model, offset) for offset in OFFSETS]
    model.partial_fit(X)
    resumed = outputs(model, X)
    for other, offset in zip(others, OFFSETS, strict=True):
        assert_same(outputs(other, place(X, offset)), expected, f"loaded at {offset}")
        assert_same(outputs(other.partial_fit(place(X, offset)), place(X, offset)), resumed, f"resumed at {offset}")
print("held")
""".replace("OFFSETS", "(4, 8, 16, 20)")


@pytest.mark.parametrize(
    "settings",
    [
        *slow({"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"}),
        {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ],
    ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items()),
)
def test_last_bits_hold_on_other_processors(settings):
    """A row's neighbors, threads, and places in memory of rows and of what is loaded change no bit, whatever the kernels."""
    set_here = ("MKL_CBWR", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in set_here}
    done = subprocess.run([sys.executable, "-c", STATEMENTS], capture_output=True, text=True, env={**environment, **settings})
    assert done.stdout.endswith("held\n"), done.stderr
