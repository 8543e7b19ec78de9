import math
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse, stats
from scipy.special import logsumexp
from threadpoolctl import ThreadpoolController
from torch import nn
from torch.overrides import TorchFunctionMode

from skvae import MLP, AutoEncoder, Net, VAETransformer, inference
from skvae.data import Table
from skvae.inference import importance, runner
from skvae.modules import ACTIVATIONS, AutoEncoderModule, VAEModule
from skvae.runtime.alignment import AlignedRows, aligned_zeros
from skvae.runtime.threads import ONE_THREAD_WORK, one_thread, threads_for

CPU = torch.device("cpu")
N_ROWS = 100

# Few outputs, odd widths, and networks whose products are shared out among threads.
NETWORKS = {
    "vae with odd widths": (VAETransformer, 13, {"n_components": 3, "hidden_layer_sizes": (30, 7)}),
    "vae with constants": (VAETransformer, 9, {"n_components": 2, "hidden_layer_sizes": ()}),
    "vae with dropout": (VAETransformer, 6, {"n_components": 2, "encoder": MLP(dropout=0.5, normalization="batch")}),
    "wide vae": (VAETransformer, 17, {"n_components": 4, "hidden_layer_sizes": (200, 100)}),
    "linear autoencoder": (AutoEncoder, 18, {"n_components": 6, "hidden_layer_sizes": ()}),
    "autoencoder with odd widths": (AutoEncoder, 7, {"n_components": 3, "hidden_layer_sizes": (13,)}),
    "wide autoencoder": (AutoEncoder, 14, {"n_components": 4, "hidden_layer_sizes": (200, 100)}),
    "bernoulli autoencoder": (AutoEncoder, 11, {"n_components": 3, "likelihood": "bernoulli", "hidden_layer_sizes": (9,)}),
}


def make_table(n_rows, n_features):
    """Rows of rank three with noise, a quarter of the entries zero, and a last column that is constant for nine columns."""
    rng = np.random.default_rng(n_features)
    X = rng.normal(size=(n_rows, 3)) @ rng.normal(size=(3, n_features)) + 0.3 * rng.normal(size=(n_rows, n_features))
    X[rng.random(X.shape) < 0.25] = 0.0
    if n_features == 9:
        X[:, -1] = 4.0
    return X


def n_threads(n):
    """Context in which torch uses `n` threads in this one, as if OMP_NUM_THREADS said so."""
    return ThreadpoolController().limit(limits=n, user_api="openmp")


@pytest.fixture(autouse=True, scope="module")
def alone():
    """Several threads are the business of the tests that ask for them; they take long on a busy machine."""
    with n_threads(1):
        yield


@pytest.fixture(scope="module", params=NETWORKS)
def fitted(request):
    cls, n_features, params = NETWORKS[request.param]
    X = make_table(N_ROWS, n_features)
    if params.get("likelihood") == "bernoulli":
        X = (X - X.min(0)) / (X.max(0) - X.min(0))
    model = cls(**{"max_epochs": 2, "random_state": 0, "n_score_draws": 3, **params})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The code of VAETransformer has collapsed")
        return model.fit(X), X


def outputs(model, X):
    """What a model says of rows, one array per method, one entry per row."""
    codes = model.transform(X)
    results = {
        "transform": codes,
        "inverse_transform": model.inverse_transform(codes),
        "reconstruct": model.reconstruct(X),
        "score_samples": model.score_samples(X),
        "explain_anomaly": model.explain_anomaly(X),
    }
    if isinstance(model, VAETransformer):
        results["mean"], results["std"] = model.posterior(X)
    return results


def assert_same(got, expected, rows=slice(None)):
    for name, values in got.items():
        np.testing.assert_array_equal(values, expected[name][rows], err_msg=name, strict=True)


def test_results_do_not_depend_on_neighbors(fitted):
    model, X = fitted
    expected = outputs(model, X)
    order = np.random.default_rng(1).permutation(N_ROWS)
    assert_same(outputs(model, X[order]), expected, order)
    some = order[:71]
    assert_same(outputs(model, X[some]), expected, some)
    for row in (0, 1, 77, N_ROWS - 1):
        assert_same(outputs(model, X[[row]]), expected, [row])


def assert_same_to_rounding(got, expected, n_terms):
    """Sums of `n_terms` products that were added up in another order: within a rounding error each."""
    for name, values in got.items():
        atol = n_terms * 2.0**-23 * np.abs(expected[name]).max()
        np.testing.assert_allclose(values, expected[name], rtol=0.0, atol=atol, err_msg=name)


def test_results_do_not_depend_on_threads(fitted):
    """To rounding where the work is divided among threads, which some processors' products depend on; neighbors never count."""
    model, X = fitted
    order = np.random.default_rng(1).permutation(N_ROWS)
    divided = runner.chunk_rows(model.module_) * model.module_.row_work > ONE_THREAD_WORK
    with n_threads(1):
        assert torch.get_num_threads() == 1
        alone = outputs(model, X)
    with n_threads(3):
        assert torch.get_num_threads() == 3
        together = outputs(model, X)
        if divided:
            assert_same_to_rounding(together, alone, model.module_.widest_layer)
        else:
            assert_same(together, alone)
        assert_same(outputs(model, X[order]), together, order)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_do_not_depend_on_threads(activation):
    """Enough entries for torch to split them among threads, at places that are no multiples of a register."""
    X = make_table(3000, 31)
    model = VAETransformer(3, hidden_layer_sizes=(200, 77), activation=activation, random_state=0).partial_fit(X[:100])
    with n_threads(1):
        codes = model.transform(X)
        rows = model.inverse_transform(codes)
    order = np.random.default_rng(1).permutation(3000)
    with n_threads(3):
        together = {"codes": model.transform(X), "rows": model.inverse_transform(codes)}
        if model.module_.depends_on_threads:  # one thread does it all
            assert_same(together, {"codes": codes, "rows": rows})
        else:
            assert_same_to_rounding(together, {"codes": codes, "rows": rows}, model.module_.widest_layer)
        np.testing.assert_array_equal(model.transform(X[order]), together["codes"][order])
        np.testing.assert_array_equal(model.inverse_transform(codes[order]), together["rows"][order])


def test_results_do_not_depend_on_threads_that_the_user_sets():
    """In a process of its own: torch never forgets a number of threads that was once set."""
    script = """
import numpy as np, torch
from concurrent.futures import ThreadPoolExecutor
from skvae import VAETransformer
from skvae.runtime.threads import one_thread
def limited():
    with one_thread():
        torch.rand(100).tanh()
        return torch.get_num_threads()
X = np.random.default_rng(0).normal(size=(300, 20))
model = VAETransformer(3, hidden_layer_sizes=(80, 40), max_epochs=1, random_state=0, n_score_draws=2).fit(X[:50])
results = []
for n in (1, 2):
    torch.set_num_threads(n)
    results.append((model.transform(X), model.score_samples(X)))
    assert torch.get_num_threads() == n
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(limited).result() == 1
assert all(np.abs(one - two).max() <= 700 * 2.0**-23 * np.abs(one).max() for one, two in zip(*results))  # the widest layer's sums
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


FEW = pytest.mark.parametrize("fitted", ["vae with constants", "bernoulli autoencoder"], indirect=True)


@FEW
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sparse_rows_give_what_dense_ones_give(fitted, dtype):
    model, X = fitted
    dense, rows = X.astype(dtype), sparse.csr_matrix(X.astype(dtype))
    assert_same(outputs(model, rows), outputs(model, dense))
    assert_same(outputs(model, rows[3:9]), outputs(model, dense), slice(3, 9))


def test_single_precision_is_independent_of_neighbors_too(fitted):
    model, X = fitted
    X = X.astype(np.float32)
    expected = outputs(model, X)
    assert expected["transform"].dtype == expected["inverse_transform"].dtype == np.float32
    order = np.random.default_rng(1).permutation(N_ROWS)
    assert_same(outputs(model, X[order]), expected, order)
    assert_same(outputs(model, X[[5]]), expected, [5])
    np.testing.assert_allclose(expected["transform"], model.transform(X.astype(np.float64)), rtol=1e-4, atol=1e-5)


@FEW
@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read-only", "big-endian"])
def test_results_do_not_depend_on_where_rows_lie(fitted, layout):
    model, X = fitted
    expected = outputs(model, X)
    wide = np.zeros((N_ROWS, 2 * X.shape[1]))
    wide[:, ::2] = X
    rows = {
        "fortran": np.asfortranarray(X),
        "strided": wide[:, ::2],
        "reversed": X[::-1].copy()[::-1],
        "read-only": X.copy(),
        "big-endian": X.astype(">f8"),
    }[layout]
    if layout == "read-only":
        rows.flags.writeable = False
    assert_same(outputs(model, rows), expected)


def test_the_last_of_reversed_rows_is_a_row():
    X, module = make_table(40, 5), VAEModule(5, 2)
    np.testing.assert_array_equal(
        inference.encode(module, Table.of(X[::-1][-1:]), CPU), inference.encode(module, Table.of(X), CPU)[:1]
    )


@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer])
def test_results_do_not_depend_on_chunks(cls):
    """More rows than a chunk holds, so that some are the last of one and others the first of the next."""
    X = make_table(2 * runner.MAX_ROWS + 300, 7)
    model = cls(3, hidden_layer_sizes=(10,), max_epochs=1, random_state=0, n_score_draws=2).fit(X[:200])
    expected = outputs(model, X)
    order = np.random.default_rng(0).permutation(len(X))
    assert_same(outputs(model, X[order]), expected, order)
    assert_same(outputs(model, X[2040:2060]), expected, slice(2040, 2060))


def test_results_repeat_and_draw_from_no_global_generator(fitted):
    model, X = fitted
    state = torch.get_rng_state()
    expected = outputs(model, X[:20])
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert_same(outputs(model, X[:20]), expected)


def test_networks_of_the_users_own_are_left_in_evaluation_mode():
    class Noisy(nn.Module):
        """A network that always draws, as Monte-Carlo dropout does."""

        def __init__(self, n_inputs, n_outputs):
            super().__init__()
            self.linear = nn.Linear(n_inputs, n_outputs)

        def forward(self, x):
            seen.add(self.training)
            return F.dropout(self.linear(x), 0.5, training=True)

    seen = set()
    X = make_table(40, 5)
    model = AutoEncoder(2, encoder=Net(Noisy), max_epochs=1, random_state=0).fit(X)
    seen.clear()
    state = torch.get_rng_state()
    np.testing.assert_array_equal(model.transform(X), model.transform(X))
    assert torch.equal(torch.get_rng_state(), state)
    assert seen == {False}


# -- alignment --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (4, 16), (3, 17), (1, 1)])
def test_aligned_rows_begin_at_cache_lines(shape):
    zeros = aligned_zeros(*shape)
    assert zeros.shape == shape
    assert zeros.stride(0) * zeros.element_size() % 64 == 0
    assert zeros.data_ptr() % 64 == 0
    assert not zeros.any()


@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6,), (3, 2)])
@pytest.mark.parametrize(
    "product",
    [
        lambda x, weight: F.linear(x, weight, torch.ones(2, dtype=x.dtype)),
        lambda x, weight: F.linear(x, weight=weight),
        lambda x, weight: x @ weight.T,
        lambda x, weight: x.matmul(weight.T),
        lambda x, weight: torch.matmul(x, weight.mT),
    ],
    ids=["linear", "linear by name", "operator", "method", "function"],
)
def test_products_get_aligned_rows(width, dtype, shape, product, request):
    class Spy(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (F.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
                strides.append(args[0].stride(-2) if args[0].dim() > 1 else 0)
            return func(*args, **(kwargs or {}))

    strides = []
    x, weight = torch.randn(*shape, width, dtype=dtype), torch.randn(2, width, dtype=dtype)
    expected = product(x, weight)
    with Spy(), AlignedRows():
        got = product(x, weight)
        assert product(x.flatten(0, -2)[0], weight).shape == (2,)  # a single row has no neighbors
    torch.testing.assert_close(got, expected)
    assert got.dtype == dtype
    if "by name" not in request.node.name:
        assert strides[0] % 16 == 0


def test_other_products_are_left_alone():
    rows, matrices = torch.randn(5, 3), torch.randn(5, 3, 4)
    expected = rows @ rows[0], rows[0] @ rows.T, matrices.mT @ matrices, rows.unsqueeze(1) @ matrices
    with AlignedRows():
        got = rows @ rows[0], rows[0] @ rows.T, matrices.mT @ matrices, rows.unsqueeze(1) @ matrices
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("n_rows", [96, 192, 2016])
def test_products_of_aligned_rows_do_not_depend_on_their_order(n_rows):
    for n_inputs in (1, 3, 5, 10, 13, 30, 33, 64, 257):
        for n_outputs in (1, 2, 4, 5, 6, 8, 9, 13, 33):
            x, order = torch.randn(n_rows, n_inputs), torch.randperm(n_rows)
            layer = nn.Linear(n_inputs, n_outputs)
            with torch.no_grad(), one_thread(), AlignedRows():
                assert torch.equal(layer(x[order]), layer(x)[order]), (n_inputs, n_outputs)


# -- threads ----------------------------------------------------------------------------------------------------------


def in_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_one_thread_is_the_calling_threads_own():
    def limited():
        with one_thread():
            torch.rand(100) @ torch.rand(100, 100)
            return torch.get_num_threads()

    before = in_new_thread(torch.get_num_threads)
    assert in_new_thread(limited) == 1
    with n_threads(2):
        with one_thread():
            assert torch.get_num_threads() == 1
            assert in_new_thread(torch.get_num_threads) == before
        assert torch.get_num_threads() == 2


def test_small_passes_run_on_one_thread_and_large_ones_on_all():
    module = VAEModule(10, 2)
    rows = ONE_THREAD_WORK // module.row_work
    with n_threads(2):
        with threads_for(module, rows):
            assert torch.get_num_threads() == 1
        with threads_for(module, rows + 1):
            assert torch.get_num_threads() == 2
        with threads_for(AutoEncoderModule(10, 2), 2 * rows, solves=True):
            assert torch.get_num_threads() == 1


# -- sizes of chunks --------------------------------------------------------------------------------------------------


def test_chunks_leave_no_rows_over_and_are_smaller_for_larger_networks():
    sizes = [runner.chunk_rows(VAEModule(20, 2, hidden_layer_sizes=(width,))) for width in (4, 4000, 8000, 20_000, 200_000)]
    assert sizes[0] == 2016
    assert sizes[-1] == 96
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 3
    assert all(size % 96 == 0 for size in sizes)


@pytest.mark.parametrize("n_features", [3, 784])
def test_scored_rows_shrink_with_draws(n_features):
    module = VAEModule(n_features, 2)
    draws = [1, 10, 100, 1000, 10_000, 10**7]
    sizes = [runner.score_rows(module, n) for n in draws]
    assert sizes == sorted(sizes, reverse=True)
    assert 96 <= sizes[0] <= runner.chunk_rows(module)
    assert sizes[-1] == 1
    for size, n in zip(sizes, draws, strict=True):
        assert size == 1 or size * n * module.widest_layer <= runner.CHUNK_FLOATS


@pytest.mark.parametrize("n_rows", [2, 16, 20, 100])
def test_scores_in_small_chunks_do_not_depend_on_neighbors(n_rows, monkeypatch):
    """Registers hold 32 numbers at most: those that are left over would be the last row's."""
    X = make_table(50, 7)
    model = VAETransformer(1, hidden_layer_sizes=(9,), activation="silu", n_score_draws=3, random_state=0).partial_fit(X)
    monkeypatch.setattr(runner, "CHUNK_FLOATS", n_rows * 3 * model.module_.widest_layer)
    assert runner.score_rows(model.module_, 3) == (96 if n_rows == 100 else 1)
    expected = model.score_samples(X)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(model.score_samples(X[order]), expected[order])
    np.testing.assert_array_equal(model.score_samples(X[1:]), expected[1:])


def test_slopes_count_as_draws():
    """The proposal of an autoencoder decodes twice per component, however few draws there are."""
    module = AutoEncoderModule(1000, 100, hidden_layer_sizes=(50,))
    assert runner.score_rows(module, 1) * 2 * 100 * module.widest_layer <= runner.CHUNK_FLOATS


@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer])
@pytest.mark.parametrize("n_score_draws", [1, 3000])
def test_scoring_never_decodes_more_than_a_chunk(cls, n_score_draws, monkeypatch):
    X = make_table(60, 40)
    model = cls(8, hidden_layer_sizes=(20,), max_epochs=1, random_state=0, n_score_draws=n_score_draws).fit(X)
    monkeypatch.setattr(runner, "CHUNK_FLOATS", 2**18)
    decoded = []
    decode = model.module_.decode
    monkeypatch.setattr(model.module_, "decode", lambda z, batch: decoded.append(z.shape[:-1].numel()) or decode(z, batch))
    assert model.score_samples(X).shape == (60,)
    assert 0 < max(decoded) * 40 <= 2**18


# -- importance draws -------------------------------------------------------------------------------------------------


def test_the_pool_is_standard_normal():
    pool = importance.normal_pool(3)
    assert pool.dtype == np.float32
    n = pool.size
    assert abs(pool.mean()) < 4 / np.sqrt(n)
    assert abs(pool.var() - 1) < 4 * np.sqrt(2 / n)
    assert stats.kstest(pool.ravel()[:20_000], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(pool.T) - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(pool[:-1, 0], pool[1:, 0])[0, 1]) < 0.02
    assert importance.normal_pool(3) is pool


def test_offsets_differ_between_rows_and_cover_the_pool():
    x = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    offsets = importance.row_offsets(x)
    size = importance.POOL_SIZE
    assert offsets.min() >= 0
    assert offsets.max() < size
    expected = size * (1 - (1 - 1 / size) ** len(x))  # as many as a uniform draw would hit
    assert len(np.unique(offsets)) == pytest.approx(expected, rel=0.01)
    counts = np.bincount(offsets * 16 // size, minlength=16)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n_features", [1, 2, 50])
def test_offsets_tell_close_and_structured_rows_apart(n_features):
    grid = np.zeros((1000, n_features), dtype=np.float32)
    grid[:, 0] = np.arange(1000)
    close = np.ones((1000, n_features), dtype=np.float32)
    close[:, -1] += np.arange(1000, dtype=np.float32) * np.finfo(np.float32).eps
    for x in (grid, close):
        assert len(np.unique(importance.row_offsets(x))) > 950
    if n_features > 1:
        assert importance.row_offsets(close[[5]]) != importance.row_offsets(close[[5]][:, ::-1].copy())


def test_offsets_depend_on_the_row_alone():
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    expected = importance.row_offsets(x)
    np.testing.assert_array_equal(importance.row_offsets(x[::-1]), expected[::-1])
    np.testing.assert_array_equal(importance.row_offsets(np.asfortranarray(x)), expected)
    np.testing.assert_array_equal(importance.row_offsets(x[[7]]), expected[[7]])
    x[:, 1] = 0.0
    zeros = importance.row_offsets(x)
    x[:, 1] = -0.0
    np.testing.assert_array_equal(importance.row_offsets(x), zeros)
    assert not np.array_equal(zeros, expected)


class RecordingModule(VAEModule):
    """A module that keeps the noise it is scored with."""

    def importance_draws(self, batch, log_prior=None):
        self.seen.append(batch.noise["posterior"].clone())
        return super().importance_draws(batch, log_prior)


def noise_of(X, n_draws):
    module = RecordingModule(X.shape[1], 2, hidden_layer_sizes=())
    module.seen = []
    inference.log_weights(module, Table.of(X), CPU, n_draws, None, inference.log_mean_exp)
    return torch.cat(module.seen)[: len(X)].numpy()


def test_every_row_has_draws_of_its_own():
    X = np.random.default_rng(0).normal(size=(300, 4))
    X[1] = X[0]
    noise = noise_of(X, 5)
    assert noise.shape == (300, 5, 2)
    np.testing.assert_array_equal(noise[0], noise[1])
    assert len(np.unique(noise[1:, 0, 0])) > 290
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_array_equal(noise_of(X[order], 5), noise[order])
    np.testing.assert_array_equal(noise_of(X, 9)[:, :5], noise)


def test_draws_wrap_around_the_end_of_the_pool(monkeypatch):
    monkeypatch.setattr(importance, "row_offsets", lambda x: np.full(len(x), importance.POOL_SIZE - 2))
    noise = noise_of(np.ones((3, 4)), 5)[0]
    pool = importance.normal_pool(2)
    np.testing.assert_array_equal(noise, np.concatenate([pool[-2:], pool[:3]]))


def test_weights_are_reduced_without_overflow():
    weights = np.random.default_rng(0).normal(size=(7, 5)) * 500 - 2000
    np.testing.assert_allclose(inference.log_mean_exp(weights), logsumexp(weights, axis=1) - math.log(5))
    shares = np.exp(weights - logsumexp(weights, axis=1, keepdims=True))
    np.testing.assert_allclose(inference.effective_sample_size(weights), 1 / (shares**2).sum(axis=1))
    np.testing.assert_allclose(inference.effective_sample_size(np.full((2, 8), -1e4)), 8.0)


def test_a_density_of_codes_replaces_the_prior():
    X = np.random.default_rng(0).normal(size=(30, 4))
    module = VAEModule(4, 2, hidden_layer_sizes=())

    def score(log_density):
        return inference.log_weights(module, Table.of(X), CPU, 6, log_density, inference.log_mean_exp)

    standard = stats.multivariate_normal(np.zeros(2)).logpdf
    np.testing.assert_allclose(score(standard), score(None), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(score(lambda z: standard(z) + 1.5), score(None) + 1.5, rtol=1e-5, atol=1e-5)


# -- decoding and drawing ---------------------------------------------------------------------------------------------


def test_draws_depend_on_their_seed_alone():
    module = VAEModule(4, 2, hidden_layer_sizes=())
    Z = np.random.default_rng(0).normal(size=(3000, 2))  # more than a chunk
    first = inference.draw(module, Z, CPU, seed=1)
    np.testing.assert_array_equal(inference.draw(module, Z, CPU, seed=1), first)
    assert not np.array_equal(inference.draw(module, Z, CPU, seed=2), first)
    noise = first - inference.decode(module, Z, CPU)
    np.testing.assert_allclose(noise.std(axis=0), module.likelihood.noise_scale(), rtol=0.1)
    assert abs(np.corrcoef(noise[:900, 0], noise[2016:2916, 0])[0, 1]) < 0.15  # chunks do not share their draws


def test_results_are_single_precision_whatever_the_default_is():
    X = make_table(40, 5)
    module = VAEModule(5, 2)
    module.likelihood.fit(X)

    def results():
        table = Table.of(X)
        scores = inference.log_weights(module, table, CPU, 3, None, inference.log_mean_exp)
        return inference.encode(module, table, CPU), scores

    expected = results()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        got = results()
        decoded = inference.decode(module, got[0], CPU)
    finally:
        torch.set_default_dtype(before)
    for values, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(values, other, strict=True)
    np.testing.assert_array_equal(decoded, inference.decode(module, expected[0], CPU))


@pytest.mark.parametrize("max_rows", [10, 1000])
def test_noise_and_usage_are_measured_on_spread_rows(max_rows, monkeypatch):
    X = np.arange(500.0)[:, np.newaxis] * np.ones(3)
    module = VAEModule(3, 2, hidden_layer_sizes=())
    module.likelihood.fit(X)
    seen = []
    monkeypatch.setattr(VAEModule, "fit_noise", lambda self, batch, share: seen.append(batch))
    weight = np.linspace(0.5, 1.5, 500)
    inference.fit_noise(module, Table.of(X, weight), CPU, max_rows=max_rows)
    (batch,) = seen
    rows = np.rint(batch.x[:, 0].numpy() * X[:, 0].std() + X[:, 0].mean()).astype(int)
    assert len(rows) == len(batch.noise["posterior"]) == min(500, max_rows)
    assert (rows[0], rows[-1]) == (0, 499)
    assert np.diff(rows).max() - np.diff(rows).min() <= 1
    np.testing.assert_allclose(batch.weight, weight[rows], rtol=1e-6)
    kl, variance = inference.latent_usage(module, Table.of(X), CPU, max_rows=max_rows)
    assert kl.shape == variance.shape == (2,)


@pytest.mark.parametrize("max_rows", [100, 1000])
def test_structure_is_what_conditions_do_not_explain(max_rows):
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(500, 1))
    X, alone = factor + 0.3 * rng.normal(size=(500, 3)), rng.normal(size=(500, 3))
    module = VAEModule(3, 2, hidden_layer_sizes=())
    module.likelihood.fit(X)
    assert inference.has_structure(module, Table.of(X), max_rows=max_rows)
    assert not inference.has_structure(module, Table.of(alone), max_rows=max_rows)
    assert not inference.has_structure(module, Table.of(X, condition=factor), max_rows=max_rows)
    X[rng.random(X.shape) < 0.1] = np.nan
    assert inference.has_structure(module, Table.of(X), max_rows=max_rows)


def test_chunks_that_are_padded_on_the_device(monkeypatch):
    """As for GPUs, of which there may be none: rows are sent alone, and the results for padding stay there."""
    X = make_table(2500, 7)
    model = AutoEncoder(3, hidden_layer_sizes=(10,), max_epochs=1, random_state=0).fit(X[:200])
    codes, rows = model.transform(X), model.reconstruct(X)
    monkeypatch.setattr(runner.Runner, "_room", lambda self, n_rows, shape: torch.zeros(min(self.size, n_rows), *shape))
    for n in (1, 5, 2048, 2500):
        np.testing.assert_allclose(model.transform(X[:n]), codes[:n], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.reconstruct(X[:n]), rows[:n], rtol=1e-4, atol=1e-5)


def test_chunks_for_gpus_are_larger():
    module = VAEModule(20, 2, hidden_layer_sizes=(4000,))
    gpu = torch.device("cuda")
    assert runner.chunk_rows(module) == runner.chunk_rows(module, CPU)
    assert runner.chunk_rows(module, gpu) == 16 * runner.chunk_rows(module)
