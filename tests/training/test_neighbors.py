import numpy as np
import pytest
import torch
from scipy import sparse

from skvae.data import Table
from skvae.modules import GaussianLikelihood
from skvae.runtime.randomness import make_generator
from skvae.training import BatchLoader, NeighborGraph, Rows, loader

CPU = torch.device("cpu")
WEIGHT = np.array([[0.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0], [0.5, 0.25, 0.0, 0.25], [0.0, 0.0, 0.0, 0.0]])
X = np.arange(12.0).reshape(4, 3) ** 2


def make_graph():
    return NeighborGraph(sparse.csr_matrix(WEIGHT))


def test_neighbors_are_drawn_as_often_as_their_weights_say():
    n = 30000
    for i in range(3):
        drawn = make_graph().draw(torch.full((n,), i), torch.rand(n, generator=make_generator(i)))
        shares = np.bincount(drawn, minlength=4) / n
        np.testing.assert_allclose(shares, WEIGHT[i] / WEIGHT[i].sum(), atol=0.015)
        assert (shares[WEIGHT[i] == 0.0] == 0.0).all()


def test_the_ends_of_the_unit_interval_are_edges_of_the_row():
    index, ends = (
        torch.tensor([0, 1, 2, 0, 1, 2]),
        torch.tensor([0.0] * 3 + [float(np.nextafter(np.float32(1.0), np.float32(0.0)))] * 3),
    )
    assert make_graph().draw(index, ends).tolist() == [1, 0, 0, 2, 0, 3]
    assert make_graph().draw(index, torch.ones(6)).tolist() == [2, 0, 3, 2, 0, 3]  # which rounding may make of a number below it


def test_a_row_without_edges_is_its_own_neighbor():
    assert make_graph().draw(torch.tensor([3, 3]), torch.tensor([0.0, 0.9])).tolist() == [3, 3]


def test_rows_are_drawn_from_alike_however_small_their_weights():
    scales = np.array([1.0, 1e-9, 1e9, 1.0])
    index, uniform = torch.arange(3000) % 4, torch.rand(3000, generator=make_generator(0))
    graph = NeighborGraph(sparse.csr_matrix(scales[:, None] * WEIGHT))
    assert torch.equal(graph.draw(index, uniform), make_graph().draw(index, uniform))


def test_an_edge_of_next_to_no_weight_is_drawn_at_times():
    graph = NeighborGraph(sparse.csr_matrix(np.array([[0.0, 1.0, 1e-12], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])))
    assert graph.draw(torch.tensor([0, 0]), torch.tensor([0.5, 1.0 - 1e-7])).tolist() == [1, 2]


def batches_of(X, n_epochs=1, *, batch_size=3, missing=False, graph=True, weight=None):
    rows = Rows(Table.of(X, weight), GaussianLikelihood(3).fit(X), CPU, missing=missing)
    if graph:
        rows.join(make_graph())
    batches = BatchLoader(rows, batch_size, {"noise": (2,)}, shuffle=make_generator(0), noise=make_generator(1))
    return rows, [batch for _ in range(n_epochs) for batch in batches]


@pytest.mark.parametrize("kind", ["resident", "streaming", "sparse"])
def test_batches_hold_a_neighbor_of_every_row(kind, monkeypatch):
    if kind == "streaming":
        monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    given = sparse.csr_matrix(X) if kind == "sparse" else X
    rows, batches = batches_of(given, n_epochs=50)
    place = {tuple(row): i for i, row in enumerate(rows.take(torch.arange(4)).tolist())}
    met = set()
    for batch in batches:
        assert batch.neighbor.shape == batch.x.shape
        assert batch.neighbor_observed is None
        met.update(
            (place[tuple(one)], place[tuple(other)]) for one, other in zip(batch.x.tolist(), batch.neighbor.tolist(), strict=True)
        )
    assert met == {*zip(*np.nonzero(WEIGHT), strict=True), (3, 3)}


def test_where_rows_lie_changes_no_neighbor(monkeypatch):
    _, expected = batches_of(X, n_epochs=3)
    monkeypatch.setattr(loader, "RESIDENT_BYTES", 0)
    _, found = batches_of(X, n_epochs=3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.neighbor, other.neighbor, rtol=0.0, atol=0.0)


def test_neighbors_change_nothing_else_of_a_batch_before_them():
    _, plain = batches_of(X, graph=False)
    _, found = batches_of(X)
    assert plain[0].neighbor is None
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.noise["noise"], other.noise["noise"])


def test_missing_entries_of_neighbors_are_filled_and_noted():
    gappy = X.copy()
    gappy[0, 1] = gappy[2, 2] = np.nan
    _, batches = batches_of(gappy, n_epochs=20, missing=True)
    n_missing = 0
    for batch in batches:
        assert batch.neighbor.isfinite().all()
        assert (batch.neighbor[~batch.neighbor_observed] == 0.0).all()
        n_missing += int((~batch.neighbor_observed).sum())
    assert n_missing > 0
