import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skvae import functional as fn
from skvae.functional import quantization

pytestmark = pytest.mark.usefixtures("one_core")


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute_force(x, codebook):
    """Nearest codes by differences in double precision."""
    return (x.double().unsqueeze(1) - codebook.double().unsqueeze(0)).square().sum(2).argmin(1)


class LargestResult(TorchDispatchMode):
    """Notes the most numbers that any operation returns in new memory."""

    def __init__(self, *inputs):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


# -- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
@pytest.mark.parametrize(("n_embeddings", "dim"), [(1, 3), (2, 1), (50, 16), (300, 2)])
def test_nearest_codes_are_those_of_brute_force(offset, n_embeddings, dim):
    x, codebook = randn(700, dim) + offset, randn(n_embeddings, dim, seed=1) + offset
    torch.testing.assert_close(fn.nearest_codes(x, codebook), brute_force(x, codebook), rtol=0, atol=0)


@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_offsets_between_vectors_and_codebook_do_not_matter_either(offset):
    x, codebook = randn(700, 8), randn(100, 8, seed=1)
    # Vectors far from a tight codebook, and codes in two far-away heaps.
    for moved_x, moved in ((x + offset, codebook), (x, codebook + offset * (torch.arange(100) % 2).unsqueeze(1))):
        assert torch.equal(fn.nearest_codes(moved_x, moved), brute_force(moved_x, moved))


@pytest.mark.parametrize("scale", [1e-22, 1e-12, 1e12, 1e30])
def test_the_scale_does_not_matter(scale):
    x, codebook = randn(300, 4) * scale, randn(60, 4, seed=1) * scale
    assert torch.equal(fn.nearest_codes(x, codebook), brute_force(x, codebook))


def test_plain_products_would_not_do():
    x, codebook = randn(700, 8) + 1e4, randn(100, 8, seed=1) + 1e4
    naive = (codebook.square().sum(1) - 2.0 * x @ codebook.mT).argmin(1)
    assert (naive != brute_force(x, codebook)).any()


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_draws_go_to_the_lowest_index(offset):
    codebook = (randn(40, 5) + offset).repeat(3, 1)
    x = torch.cat([codebook, randn(200, 5, seed=1) + offset])
    codes = fn.nearest_codes(x, codebook)
    assert (codes < 40).all()
    assert torch.equal(codes[:120], torch.arange(40).repeat(3))
    assert torch.equal(codes, brute_force(x, codebook))


def test_points_half_way_between_codes_are_decided_alike_in_any_batch():
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    x = grid[torch.arange(500) % 64] + 0.5 * (randn(500, 3) > 0.0)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    codes = fn.nearest_codes(x, grid)
    assert torch.equal(codes, brute_force(x, grid))
    assert torch.equal(fn.nearest_codes(x[order], grid), codes[order])
    for size in (1, 3, 64):
        assert torch.equal(torch.cat([fn.nearest_codes(rows, grid) for rows in x.split(size)]), codes)


def test_all_codes_alike():
    assert (fn.nearest_codes(randn(50, 3), torch.ones(7, 3)) == 0).all()


def test_infinite_and_missing_numbers_do_not_disturb_the_others():
    x, codebook = randn(20, 3), randn(9, 3, seed=1)
    spoilt = x.clone()
    spoilt[3], spoilt[4] = torch.inf, torch.nan
    codes = fn.nearest_codes(spoilt, codebook)
    others = [i for i in range(20) if i not in (3, 4)]
    assert torch.equal(codes[others], brute_force(x, codebook)[others])
    assert ((codes >= 0) & (codes < 9)).all()


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_in_less_than_single_precision(precision):
    x, codebook = randn(700, 8) + 3.0, randn(100, 8, seed=1) + 3.0
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(fn.nearest_codes(x, codebook), brute_force(x, codebook))
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_bound_covers_the_error_of_the_scores():
    for offset, dim in ((0.0, 2), (0.0, 64), (30.0, 64), (0.0, 600)):
        rows, codes = randn(500, dim) + offset, randn(100, dim, seed=1)
        norms = codes.square().sum(1)
        score = torch.addmm(norms, rows, codes.mT, alpha=-2.0).double()
        wide = codes.double().square().sum(1) - 2.0 * rows.double() @ codes.double().mT
        error = (score - wide).abs().amax(1)
        bound = quantization._rounding(rows, norms)
        assert (2.0 * error <= bound).all()
        assert (bound < 5e3 * error.max()).all()  # else everything would be compared twice


def test_inexact_codes_are_as_near_to_within_rounding():
    x, codebook = randn(2000, 8), randn(100, 8, seed=1).repeat(2, 1)
    codes = fn.nearest_codes(x, codebook, exact=False)
    distance = (x - codebook[codes]).norm(dim=1)
    torch.testing.assert_close(distance, (x - codebook[brute_force(x, codebook)]).norm(dim=1))


@pytest.mark.parametrize("duplicates", [1, 2])
def test_memory_stays_bounded(duplicates, monkeypatch):
    monkeypatch.setattr(quantization, "SEARCH_NUMBERS", 2**13)
    n, n_embeddings, dim = 5000, 64, 8
    codebook = randn(n_embeddings // duplicates, dim, seed=1).repeat(duplicates, 1)
    x = randn(n, dim)
    with LargestResult(x, codebook) as largest:
        codes = fn.nearest_codes(x, codebook)
    assert torch.equal(codes, brute_force(x, codebook))
    assert largest.numel <= max(n, 2**13)
    with LargestResult(x, codebook) as largest:
        brute_force(x[:300], codebook)
    assert largest.numel == 300 * n_embeddings * dim  # the measure would see it


def test_sums_by_code():
    x, codes = randn(200, 3, dtype=torch.float64), torch.arange(200) % 7
    expected = torch.stack([x[codes == code].sum(0) for code in range(9)])
    torch.testing.assert_close(fn.sum_by_code(x, codes, 9), expected)
    # What other devices do.
    torch.testing.assert_close(torch.ops.aten.embedding_dense_backward(x, codes, 9, -1, False), expected)


# -- gradients --------------------------------------------------------------------------------------------------------


def rotation(x, q):
    """Rotation from the direction of x to that of q in the plane of both, built from an orthonormal basis of it."""
    u = x / x.norm()
    w = q - (q @ u) * u
    w = w / w.norm()
    cos = (q @ u) / q.norm()
    sin = (q @ w) / q.norm()
    identity = torch.eye(len(x), dtype=x.dtype)
    plane = torch.stack([u, w], 1)
    turn = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
    return identity + plane @ (turn - torch.eye(2, dtype=x.dtype)) @ plane.mT


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_rotation_trick_is_a_rotation_and_a_rescaling(dim):
    x, q = randn(10, dim, dtype=torch.float64).requires_grad_(), randn(10, dim, seed=1, dtype=torch.float64)
    gradient = randn(10, dim, seed=2, dtype=torch.float64)
    y = fn.rotate_to(x, q)
    assert torch.equal(y, q)
    y.backward(gradient)
    for i in range(10):
        matrix = rotation(x[i].detach(), q[i]) * q[i].norm() / x[i].norm()
        torch.testing.assert_close(matrix @ x[i], q[i])  # the reference does what it says
        torch.testing.assert_close(x.grad[i], matrix.mT @ gradient[i])


def test_rotation_trick_keeps_the_angle_between_gradient_and_vector():
    x, q = randn(50, 6, dtype=torch.float64).requires_grad_(), randn(50, 6, seed=1, dtype=torch.float64)
    gradient = randn(50, 6, seed=2, dtype=torch.float64)
    fn.rotate_to(x, q).backward(gradient)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(x.grad, x.detach(), dim=1), cosine(gradient, q, dim=1))


def test_rotation_trick_in_special_positions():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [2.0, 1.0]], requires_grad=True)
    q = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-2.0, 0.0], [2.0, 1.0]])
    y = fn.rotate_to(x, q)
    assert torch.equal(y, q)
    gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    y.backward(gradient)
    # Nothing to turn: as it is; opposite: along the vector it is turned round; the same: as it is.
    torch.testing.assert_close(x.grad[:2], gradient[:2])
    assert x.grad[2, 0] == -10.0
    torch.testing.assert_close(x.grad[3], gradient[3])


@pytest.mark.parametrize("function", [fn.straight_through, fn.rotate_to])
def test_values_are_the_quantized_ones_to_the_last_bit(function):
    x, q = randn(100, 7).requires_grad_(), randn(100, 7, seed=1) * 1e-3
    assert torch.equal(function(x, q), q)
    assert not torch.equal(x + (q - x).detach(), q)  # which rounds


def test_straight_through_gradient():
    x, q = randn(10, 3).requires_grad_(), randn(10, 3, seed=1).requires_grad_()
    gradient = randn(10, 3, seed=2)
    fn.straight_through(x, q).backward(gradient)
    assert torch.equal(x.grad, gradient)
    assert q.grad is None
