import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.utils import check_random_state

from skvae.data import Table
from skvae.data.marginals import measure_columns
from skvae.modules import GaussianLikelihood
from skvae.modules.likelihoods import MixedLikelihood
from skvae.runtime.randomness import make_generator
from skvae.training import BatchLoader, Rows, loader

CPU = torch.device("cpu")
N_FEATURES = 3


def make_table(n_rows, dtype=np.float64):
    """Rows that are distinguished by their first column; a third of the other entries are zero."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, N_FEATURES)) * (rng.random((n_rows, N_FEATURES)) > 1 / 3)
    X[:, 0] = np.arange(n_rows)
    return X.astype(dtype)


def make_likelihood(X):
    return GaussianLikelihood(N_FEATURES).fit(X)


def make_rows(X, weight=None, condition=None, **params):
    return Rows(Table.of(X, weight, condition), make_likelihood(X), CPU, **params)


def make_loader(rows, batch_size, *, shuffle=1, noise=2, shapes=None, **params):
    shapes = {"posterior": (2,), "draws": (4, 2)} if shapes is None else shapes
    generator = None if shuffle is None else make_generator(shuffle)
    return BatchLoader(rows, batch_size, shapes, shuffle=generator, noise=make_generator(noise), **params)


def original_rows(batches, X):
    """Positions in `X` of the rows in batches."""
    values = torch.cat([batch.x for batch in batches])[:, 0].double().numpy()
    return np.rint(values * X[:, 0].std() + X[:, 0].mean()).astype(int)


def epoch(batch_loader):
    """Everything that one epoch hands out, as one dictionary of tensors and the sizes of the batches."""
    batches = list(batch_loader)
    noise = {name: torch.cat([batch.noise[name] for batch in batches]) for name in batch_loader.noise_shapes}
    together = {"x": torch.cat([batch.x for batch in batches]), "weight": torch.cat([batch.weight for batch in batches]), **noise}
    return together, [len(batch.x) for batch in batches]


def assert_same_epoch(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, values in one[0].items():
        assert torch.equal(values, other[0][name]), name


@pytest.fixture(params=["resident", "streaming", "sparse"])
def kind(request, monkeypatch):
    """The three ways in which rows reach a batch."""
    if request.param == "streaming":
        monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    return request.param


def table_of(kind, X):
    return sparse.csr_matrix(X) if kind == "sparse" else X


@pytest.mark.parametrize(("n_rows", "batch_size"), [(1, 10), (10, 10), (11, 10), (19, 4), (100, 7), (650, 5), (5, 1)])
def test_batches_take_every_row_once_in_sizes_that_hardly_differ(n_rows, batch_size, kind):
    X = make_table(n_rows)
    batch_loader = make_loader(make_rows(table_of(kind, X)), batch_size)
    assert len(batch_loader) == -(-n_rows // batch_size)
    for _ in range(2):
        batches = list(batch_loader)
        sizes = [len(batch.x) for batch in batches]
        assert len(sizes) == len(batch_loader)
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        if n_rows > 1:
            assert np.array_equal(np.sort(original_rows(batches, X)), np.arange(n_rows))


def test_batches_are_standardized(kind):
    X = make_table(50)
    (batch,) = make_loader(make_rows(table_of(kind, X)), 50, shuffle=None)
    expected = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    np.testing.assert_allclose(batch.x, expected, rtol=1e-6, atol=1e-7)
    assert batch.target is batch.x
    assert batch.x.dtype == torch.float32


def test_batches_are_views_of_one_gathered_block(kind):
    batches = list(make_loader(make_rows(table_of(kind, make_table(60))), 6))
    assert len({batch.x.untyped_storage().data_ptr() for batch in batches}) == 1
    assert len({batch.noise["draws"].untyped_storage().data_ptr() for batch in batches}) == 1


def test_the_generator_decides_the_order(kind):
    rows, X = make_rows(table_of(kind, make_table(60))), make_table(60)
    batch_loader = make_loader(rows, 8)
    first, second = epoch(batch_loader), epoch(batch_loader)
    again = make_loader(rows, 8)
    assert_same_epoch(first, epoch(again))
    assert_same_epoch(second, epoch(again))
    orders = [original_rows(list(make_loader(rows, 8, shuffle=seed)), X).tolist() for seed in (1, 2, None)]
    assert orders[2] == list(range(60))
    assert orders[0] != orders[1]
    assert orders[2] not in orders[:2]
    assert not torch.equal(first[0]["x"], second[0]["x"])


def test_global_generators_play_no_part(kind):
    rows = make_rows(table_of(kind, make_table(30)))
    torch_state, numpy_state = torch.get_rng_state(), check_random_state(None).get_state()
    expected = epoch(make_loader(rows, 4))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(*states) for states in zip(check_random_state(None).get_state(), numpy_state, strict=True))
    torch.rand(1)
    assert_same_epoch(epoch(make_loader(rows, 4)), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("batch_size", [1, 7, 400])
@pytest.mark.parametrize("index", [None, np.arange(0, 200, 3)], ids=["all rows", "some rows"])
def test_resident_streamed_and_sparse_rows_give_the_same_bits(monkeypatch, dtype, batch_size, index):
    X = make_table(200, dtype)
    weight = np.random.default_rng(1).random(200) + 0.1
    resident = make_rows(X, weight=weight, index=index)
    assert resident.is_resident
    monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    others = [make_rows(X, weight=weight, index=index), make_rows(sparse.csr_matrix(X), weight=weight, index=index)]
    assert not any(rows.is_resident for rows in others)
    expected = epoch(make_loader(resident, batch_size))
    for rows in others:
        assert_same_epoch(epoch(make_loader(rows, batch_size)), expected)


def test_small_blocks_give_the_same_bits(monkeypatch):
    rows = make_rows(sparse.csr_matrix(make_table(200)))
    expected = epoch(make_loader(rows, 7))
    monkeypatch.setattr(loader, "BLOCK_BYTES", 1)  # one batch at a time
    sizes = []
    monkeypatch.setattr(Rows, "take", lambda self, index, take=Rows.take: sizes.append(len(index)) or take(self, index))
    assert_same_epoch(epoch(make_loader(rows, 7)), expected)
    assert sizes == expected[1]


def test_streaming_takes_as_many_rows_as_memory_allows(monkeypatch):
    monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    rows = make_rows(make_table(200))
    monkeypatch.setattr(loader, "BLOCK_BYTES", 8 * N_FEATURES * 20)  # twenty rows
    taken = []
    monkeypatch.setattr(Rows, "take", lambda self, index, take=Rows.take: taken.append(len(index)) or take(self, index))
    list(make_loader(rows, 6))
    assert sum(taken) == 200
    assert max(taken) <= 20
    assert len(taken) < len(make_loader(rows, 6))


def test_weights_follow_their_rows(kind):
    X = make_table(90)
    weight = 1.0 + np.arange(90)
    batches = list(make_loader(make_rows(table_of(kind, X), weight=weight), 8))
    got = torch.cat([batch.weight for batch in batches]).double().numpy()
    np.testing.assert_allclose(got, weight[original_rows(batches, X)] / weight.mean(), rtol=1e-6)


def test_weights_of_chosen_rows_are_one_on_average(kind):
    X, index = make_table(90), np.arange(10, 40)
    rows = make_rows(table_of(kind, X), weight=1.0 + np.arange(90.0), index=index)
    assert len(rows) == 30
    batches = list(make_loader(rows, 8))
    positions = original_rows(batches, X)
    assert set(positions) == set(index)
    got = torch.cat([batch.weight for batch in batches]).double().numpy()
    np.testing.assert_allclose(got, (1.0 + positions) / (1.0 + index).mean(), rtol=1e-6)
    assert got.mean() == pytest.approx(1.0, rel=1e-6)


def test_weights_are_one_by_default(kind):
    together, _ = epoch(make_loader(make_rows(table_of(kind, make_table(20))), 6))
    assert torch.equal(together["weight"], torch.ones(20))


def test_noise_has_the_asked_shapes_and_is_standard_normal(kind):
    rows = make_rows(table_of(kind, make_table(2000)))
    for batch in make_loader(rows, 300):
        assert batch.noise["posterior"].shape == (len(batch.x), 2)
        assert batch.noise["draws"].shape == (len(batch.x), 4, 2)
    together, _ = epoch(make_loader(rows, 300))
    assert together["draws"].mean().abs() < 0.03
    assert together["draws"].std() == pytest.approx(1.0, abs=0.02)
    assert not torch.equal(together["draws"][:, 0], together["posterior"])
    assert all(batch.noise == {} for batch in make_loader(rows, 300, shapes={}))


def test_fixed_noise_repeats_and_other_noise_does_not(kind):
    rows = make_rows(table_of(kind, make_table(60)))
    fixed, free = make_loader(rows, 8, shuffle=None, fixed_noise=True), make_loader(rows, 8, shuffle=None)
    first = epoch(fixed)
    assert_same_epoch(first, epoch(fixed))
    assert_same_epoch(first, epoch(free))  # both begin at the seed
    assert not torch.equal(first[0]["posterior"], epoch(free)[0]["posterior"])


class CountingArray(np.ndarray):
    """Array that counts how often it is indexed."""

    n_reads = 0

    def __getitem__(self, key):
        if self.ndim == 2:
            CountingArray.n_reads += 1
        return np.asarray(self)[key]


@pytest.mark.parametrize(("resident_bytes", "most_in_fit", "most_in_epoch"), [(2**31, 1, 0), (0, 0, 2)])
def test_rows_are_never_read_one_by_one(monkeypatch, resident_bytes, most_in_fit, most_in_epoch):
    monkeypatch.setattr(loader, "RESIDENT_BYTES", resident_bytes)
    X = make_table(1000)
    likelihood = make_likelihood(X)
    monkeypatch.setattr(CountingArray, "n_reads", 0)
    rows = Rows(Table.of(X.view(CountingArray)), likelihood, CPU)
    assert CountingArray.n_reads == most_in_fit
    CountingArray.n_reads = 0
    assert len(list(make_loader(rows, 10))) == 100
    assert CountingArray.n_reads == most_in_epoch


def test_the_default_dtype_plays_no_part():
    rows = make_rows(make_table(30))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        together, _ = epoch(make_loader(make_rows(make_table(30)), 8))
    finally:
        torch.set_default_dtype(default)
    assert_same_epoch((together, []), (epoch(make_loader(rows, 8))[0], []))


@pytest.mark.parametrize("index", [None, np.arange(0, 90, 3)], ids=["all rows", "some rows"])
def test_conditions_follow_their_rows(kind, index):
    X = make_table(90)
    condition = np.stack([np.arange(90.0), -np.arange(90.0)], axis=1)
    batches = list(make_loader(make_rows(table_of(kind, X), condition=condition, index=index), 8))
    got = torch.cat([batch.condition for batch in batches])
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), condition[original_rows(batches, X)])
    assert all(len(batch.condition) == len(batch.x) for batch in batches)


@pytest.mark.parametrize("room", [10**9, 0], ids=["kept", "found anew"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("index", [None, np.arange(0, 90, 3)], ids=["all rows", "some rows"])
def test_facts_are_those_of_the_rows(room, missing, index, monkeypatch):
    monkeypatch.setattr(loader, "_FACTS_AT_ONCE", 100)
    X = make_table(90)
    X[:, 1] = np.arange(90) % 4
    if missing:
        X[::7, 1:] = np.nan
    marginals = measure_columns(("whole", "categorical", "real"), (0, 4, 0), X)
    rows = Rows(Table.of(X), MixedLikelihood(N_FEATURES, marginals), CPU, index=index, missing=missing)
    monkeypatch.setattr(loader, "RESIDENT_BYTES", room)
    calls, own = [], rows.likelihood.facts
    rows.likelihood.facts = lambda target: calls.append(len(target)) or own(target)
    for _ in range(3):
        for batch in make_loader(rows, 8):
            torch.testing.assert_close(batch.facts, own(batch.target), rtol=0.0, atol=0.0)
    assert (rows._facts is None) == (room == 0)
    assert room == 0 or sum(calls) == len(rows) + 1


def test_there_are_no_conditions_by_default(kind):
    assert all(batch.condition is None for batch in make_loader(make_rows(table_of(kind, make_table(20))), 6))


def test_conditions_change_nothing_else(kind):
    rows = [make_rows(table_of(kind, make_table(60)), condition=condition) for condition in (None, np.ones((60, 2)))]
    assert_same_epoch(*(epoch(make_loader(part, 8)) for part in rows))


def test_a_table_takes_rows_with_what_belongs_to_them():
    X = make_table(10)
    table = Table.of(X, np.arange(10.0), X[:, :1], X[:, 1:], list("abc"))
    for rows in (np.array([7, 2]), slice(3, 5)):
        part = table.take(rows)
        assert part.n_rows == 2
        np.testing.assert_array_equal(part.source.read(slice(None)), X[rows])
        np.testing.assert_array_equal(part.weight, X[rows, 0])
        np.testing.assert_array_equal(part.condition, X[rows, :1])
        np.testing.assert_array_equal(part.labels, X[rows, 1:])
        assert part.names == table.names
    part = Table.of(sparse.csr_matrix(X)).take(slice(2))
    assert part.n_rows == 2
    assert part.weight is part.condition is part.labels is part.names is None
