"""The one loop over chunks of rows."""

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from skvae.data import Table
from skvae.inference import misses_entries
from skvae.inference.runner import Runner, chunk_rows, chunks, place, score_rows
from skvae.modules import AutoEncoderModule, Batch, CVAEModule, Net, TDVAEModule, VAEModule
from skvae.runtime.alignment import aligned_zeros

pytestmark = pytest.mark.usefixtures("one_core")

CPU = torch.device("cpu")
N_FEATURES, N_CONDITIONS = 5, 2


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def table(n_rows, n_features=N_FEATURES):
    return np.random.default_rng(0).normal(size=(n_rows, n_features)) * [1.0, 10.0, 0.1, 5.0, 1.0] + 3.0


def build(cls=VAEModule, **params):
    """A module, still in training, that has seen what the columns are like."""
    module = cls(N_FEATURES, 2, hidden_layer_sizes=(7,), **params)
    module.likelihood.fit(table(100))
    return module.train()


def batches_of(runner, X, condition=None, **params):
    """Every batch that a runner makes of rows, and the slices."""
    batch, found = runner.batches(Table.of(X, condition=condition), **params), []

    def step(rows):
        found.append((rows, Batch(*(part.clone() if isinstance(part, torch.Tensor) else part for part in batch(rows)))))
        return np.zeros(runner.size)

    runner.map(step, X.shape[0])
    return found


# -- putting together -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_rows", "size"), [(1, 4), (4, 4), (5, 4), (12, 4), (13, 100)])
def test_rows_are_cut_into_chunks_and_put_together(n_rows, size):
    seen = []

    def function(rows):
        seen.append(rows)
        return np.arange(rows.start, rows.stop)[:, np.newaxis] * np.ones(3)

    result = Runner(build(), CPU, size=size).map(function, n_rows)
    np.testing.assert_array_equal(result, np.arange(n_rows)[:, np.newaxis] * np.ones(3))
    assert seen == list(chunks(n_rows, size))
    assert [rows.start for rows in seen] == list(range(0, n_rows, size))
    assert seen[-1].stop == n_rows
    assert max(rows.stop - rows.start for rows in seen) <= size


def test_what_stands_behind_the_rows_is_dropped():
    result = Runner(build(), CPU, size=4).map(lambda rows: torch.arange(4) + rows.start, 6)
    np.testing.assert_array_equal(result, np.arange(6))


def test_several_results_come_as_a_tuple():
    def function(rows):
        n = rows.stop - rows.start
        return torch.full((n, 2), float(rows.start)), np.full(n, rows.start)

    first, second = Runner(build(), CPU, size=4).map(function, 6)
    np.testing.assert_array_equal(second, [0, 0, 0, 0, 4, 4])
    np.testing.assert_array_equal(first, second[:, np.newaxis] * np.ones((1, 2)), strict=False)
    assert (first.dtype, second.dtype) == (np.float32, np.int64)
    (alone,) = Runner(build(), CPU, size=4).map(lambda rows: (np.zeros(4),), 6)
    assert alone.shape == (6,)


def test_no_rows_have_the_shapes_and_types_of_some():
    module = build()
    runner = Runner(module, CPU, size=4)
    condition, noise = np.empty((0, N_CONDITIONS)), {"posterior": torch.zeros(4, 3, 2)}
    batch = runner.batches(Table.of(table(0), condition=condition), noise=lambda rows, x: noise)

    def function(rows):
        given = batch(rows)
        assert given.x.shape == (4, N_FEATURES)
        assert given.condition.shape == (4, N_CONDITIONS)
        return module.encode(given), module.importance_draws(given).log_weights.numpy().astype(np.float64)

    codes, weights = runner.map(function, 0)
    assert (codes.shape, codes.dtype) == ((0, 2), np.float32)
    assert (weights.shape, weights.dtype) == ((0, 3), np.float64)


def test_functions_run_in_evaluation_without_gradients_and_draw_from_no_global_generator():
    class Noisy(nn.Linear):
        """A network of the user's own, which draws."""

        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(x) + torch.rand(len(x), 1)

    seen, module = [], build(AutoEncoderModule, encoder=Net(Noisy))
    x = Batch.of(torch.zeros(4, N_FEATURES))

    def function(rows):
        return module.encode(x)

    state = torch.get_rng_state()
    first = Runner(module, CPU, size=4).map(function, 6)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(Runner(module, CPU, size=4).map(function, 6), first)
    assert set(seen) == {(False, False)}
    assert torch.is_grad_enabled()


def test_chunks_have_the_size_that_suits_the_network():
    module = build()
    assert Runner(module, CPU).size == chunk_rows(module)
    assert Runner(module, CPU, size=3).size == 3
    assert score_rows(module, 5) <= chunk_rows(module)


def test_a_module_that_is_in_place_is_not_moved(monkeypatch):
    module = build()
    monkeypatch.setattr(module, "to", lambda device: pytest.fail("moved"))
    place(module, CPU)
    assert not module.training


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dense", "single", "sparse"])
def test_batches_are_standardized_rows_and_zeros(kind):
    module, X = build(), table(10)
    given = {"dense": X, "single": X.astype(np.float32), "sparse": sparse.csr_matrix(X)}[kind]
    found = batches_of(Runner(module, CPU, size=4), given)
    assert [len(batch.x) for _, batch in found] == [4, 4, 4]
    for rows, batch in found:
        n_rows = rows.stop - rows.start
        torch.testing.assert_close(batch.x[:n_rows], module.likelihood.standardize(X[rows]))
        assert not batch.x[n_rows:].any()
        assert torch.equal(batch.target, batch.x)
        assert torch.equal(batch.weight, torch.ones(4))
        assert batch.condition is batch.observed is batch.noise is None


def test_rows_begin_at_cache_lines():
    runner, X = Runner(build(), CPU, size=4), table(6)
    X[1, 2] = np.nan
    for values in (table(6), X):
        batch = runner.batches(Table.of(values, condition=np.zeros((6, N_CONDITIONS))))(slice(0, 4))
        for part in (batch.x, batch.condition):
            assert part.data_ptr() % 64 == part.stride(0) * part.element_size() % 64 == 0
    assert runner.padded(np.zeros((6, 3)))(slice(0, 4)).stride() == aligned_zeros(4, 3).stride()


def test_conditions_go_with_their_rows():
    condition = np.random.default_rng(1).normal(size=(6, N_CONDITIONS))
    module = build(CVAEModule, n_conditions=N_CONDITIONS)
    for rows, batch in batches_of(Runner(module, CPU, size=4), table(6), condition):
        n_rows = rows.stop - rows.start
        np.testing.assert_array_equal(batch.condition[:n_rows], condition[rows].astype(np.float32))
        assert batch.condition.shape == (4, N_CONDITIONS)
        assert not batch.condition[n_rows:].any()


def test_missing_entries_are_filled_and_marked():
    module, X = build(), table(10)
    missing = np.random.default_rng(1).random(X.shape) < 0.3
    missing[4:8] = False  # a chunk without any
    X[missing] = np.nan
    assert misses_entries(module, Table.of(X))
    for rows, batch in batches_of(Runner(module, CPU, size=4), X):
        n_rows = rows.stop - rows.start
        np.testing.assert_array_equal(batch.observed[:n_rows], ~missing[rows])
        assert batch.observed[n_rows:].all()
        expected = module.likelihood.standardize(np.where(missing, module.likelihood.units.constant, X)[rows])
        torch.testing.assert_close(batch.x[:n_rows], expected)


def test_marks_are_for_modules_that_take_missing_entries_and_rows_that_have_some():
    assert not misses_entries(build(), Table.of(table(4)))
    X = table(4)
    X[0, 0] = np.nan
    module = build()
    module.takes_missing = False
    assert not misses_entries(module, Table.of(X))
    assert Runner(module, CPU, size=4).batches(Table.of(X))(slice(0, 4)).observed is None


def test_noise_is_asked_for_by_slice_and_standardized_rows():
    module, X, asked = build(), table(6), []

    def noise(rows, x):
        asked.append((rows, x.clone()))
        return {"posterior": torch.full((4, 2), float(rows.start))}

    found = batches_of(Runner(module, CPU, size=4), X, noise=noise)
    assert [rows for rows, _ in asked] == [rows for rows, _ in found] == [slice(0, 4), slice(4, 6)]
    for (_, x), (rows, batch) in zip(asked, found, strict=True):
        assert torch.equal(x, batch.x)
        assert (batch.noise["posterior"] == rows.start).all()


def test_sequences_are_padded_too():
    module = TDVAEModule(N_FEATURES, 3, n_timesteps=4, max_gap=2, hidden_layer_sizes=(4,))
    X = table(24).reshape(6, 4, N_FEATURES)
    X[0, 2:] = np.nan
    for rows, batch in batches_of(Runner(module, CPU, size=4), X):
        n_rows = rows.stop - rows.start
        assert batch.x.shape == (4, 4, N_FEATURES)
        torch.testing.assert_close(batch.x[:n_rows], module.likelihood.standardize(X[rows]), equal_nan=True)
        assert not batch.x[n_rows:].any()
        assert batch.observed is None


@pytest.mark.parametrize("shape", [(6, 3), (6, 2, 3)])
def test_arrays_are_padded_in_single_precision(shape):
    values = np.random.default_rng(0).normal(size=shape)
    take = Runner(build(), CPU, size=4).padded(values)
    for rows in chunks(6, 4):
        part = take(rows)
        assert part.dtype == torch.float32
        assert part.shape == (4, *shape[1:])
        np.testing.assert_array_equal(part[: rows.stop - rows.start], values[rows].astype(np.float32))
        assert not part[rows.stop - rows.start :].any()


# -- results of a row depend on the row -------------------------------------------------------------------------------


MODULES = {
    "vae": (VAEModule, {}),
    "autoencoder": (AutoEncoderModule, {"activation": "silu"}),
    "cvae": (CVAEModule, {"n_conditions": N_CONDITIONS, "encode_condition": True, "prior": "conditional"}),
}


def results(module, X, condition, size=None, *, missing):
    """Codes, decoded rows and importance weights, with noise that belongs to the row."""
    runner = Runner(module, CPU, size=size, scores=True)
    rows = Table.of(X, condition=condition)
    batch = runner.batches(rows, noise=lambda rows, x: {"posterior": x[:, :4].cos().unflatten(1, (2, 2))})

    def function(rows):
        here = batch(rows)
        assert (here.observed is not None) == missing
        code = module.encode(here)
        return code, module.decode(code, here), module.importance_draws(here).log_weights

    return runner.map(function, len(X))


@pytest.mark.parametrize(("name", "missing"), [("vae", False), ("vae", True), ("autoencoder", True), ("cvae", False)])
def test_results_do_not_depend_on_neighbors_or_on_where_chunks_end(name, missing):
    cls, params = MODULES[name]
    module, X, rng = build(cls, **params), table(150), np.random.default_rng(1)
    if missing:
        X[rng.random(X.shape) < 0.2] = np.nan
        X[::2, 0] = np.nan  # so that every part has some
    condition = rng.normal(size=(150, N_CONDITIONS)) if name == "cvae" else None
    whole = results(module, X, condition, missing=missing)
    order = rng.permutation(150)
    for rows in (order, order[:70], slice(2, 3), slice(140, 150)):
        part = results(module, X[rows], None if condition is None else condition[rows], missing=missing)
        for got, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(got, expected[rows], strict=True)
    for size in (64, 37, 1):  # of another size, chunks may differ in the last bits
        for got, expected in zip(results(module, X, condition, size, missing=missing), whole, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
