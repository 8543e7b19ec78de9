import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from skvae import functional as fn


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- the penalty ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0.01, 0.05, 0.5, 0.9])
def test_bernoulli_kl_is_that_of_torch(target):
    mean = torch.linspace(0.001, 0.999, 101, dtype=torch.float64, requires_grad=True)
    reference = torch.linspace(0.001, 0.999, 101, dtype=torch.float64, requires_grad=True)
    value = fn.bernoulli_kl(target, mean)
    expected = kl_divergence(Bernoulli(torch.tensor(target, dtype=torch.float64)), Bernoulli(reference))
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mean.grad, reference.grad)


@pytest.mark.parametrize("target", [0.01, 0.05, 0.5, 0.9])
def test_bernoulli_kl_is_least_at_the_target(target):
    mean = torch.full((3,), target, dtype=torch.float64, requires_grad=True)
    value = fn.bernoulli_kl(target, mean)
    value.sum().backward()
    torch.testing.assert_close(value, torch.zeros_like(value), atol=1e-12, rtol=0.0)
    torch.testing.assert_close(mean.grad, torch.zeros_like(value), atol=1e-12, rtol=0.0)
    assert (fn.bernoulli_kl(target, torch.tensor([0.999 * target, 0.999 * target + 0.001], dtype=torch.float64)) > 0.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_kl_stays_finite_at_the_ends(dtype):
    mean = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
    value = fn.bernoulli_kl(0.05, mean)
    value.sum().backward()
    assert value.dtype == dtype
    assert torch.isfinite(value).all()
    assert torch.isfinite(mean.grad).all()
    torch.testing.assert_close(value, fn.bernoulli_kl(0.05, torch.tensor([1e-6, 1.0 - 1e-6], dtype=dtype)))


# -- selections -------------------------------------------------------------------------------------------------------

SELECTIONS = pytest.mark.parametrize("select", [fn.keep_largest, fn.keep_largest_of_batch])


@pytest.mark.parametrize("as_k", [int, torch.tensor, lambda k: torch.tensor(float(k))], ids=["int", "tensor", "float tensor"])
@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_keep_largest(k, shift, as_k):
    x = randn(20, 7) + shift  # also where all are negative
    kept = fn.keep_largest(x, as_k(k), 7)
    assert ((kept != 0.0).sum(1) == k).all()
    assert torch.equal(kept[kept != 0.0], x[kept != 0.0])
    lowest = x.masked_fill(kept == 0.0, torch.inf).amin(1)
    assert (x.masked_fill(kept != 0.0, -torch.inf).amax(1) < lowest).all()


@pytest.mark.parametrize("as_k", [int, torch.tensor, lambda k: torch.tensor(float(k))], ids=["int", "tensor", "float tensor"])
@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("shift", [0.0, -10.0])
def test_keep_largest_of_batch(k, shift, as_k):
    x = randn(20, 7) + shift
    kept = fn.keep_largest_of_batch(x, as_k(k), 7)
    assert (kept != 0.0).sum() == 20 * k
    assert torch.equal(kept[kept != 0.0], x[kept != 0.0])
    assert k == 7 or x[kept == 0.0].max() < x[kept != 0.0].min()
    assert k == 7 or (kept != 0.0).sum(1).unique().numel() > 1


@SELECTIONS
def test_what_k_can_become_does_not_matter(select):
    x, k = randn(20, 7), torch.tensor(2.0)
    for most in (2, 3, 7):
        assert torch.equal(select(x, k, most), select(x, 2, 2))


@SELECTIONS
def test_k_of_several_runs_at_once(select):
    x, ks = randn(20, 7), torch.tensor([1.0, 4.0, 2.0])
    together = torch.func.vmap(lambda k: select(x, k, 4))(ks)
    assert torch.equal(together, torch.stack([select(x, int(k), 4) for k in ks]))


@SELECTIONS
@pytest.mark.parametrize("k", [3, torch.tensor(3.0)], ids=["int", "tensor"])
def test_gradients_pass_through_what_is_kept_alone(select, k):
    x = randn(20, 7).requires_grad_()
    weight = randn(20, 7, seed=1)
    kept = select(x, k, 5)
    (kept * weight).sum().backward()
    assert torch.equal(x.grad, torch.where(kept != 0.0, weight, 0.0))


@pytest.mark.parametrize("k", [4, torch.tensor(4.0)], ids=["int", "tensor"])
def test_of_one_row_a_batch_is_a_row(k):
    x = randn(1, 9)
    assert torch.equal(fn.keep_largest(x, k, 5), fn.keep_largest_of_batch(x, k, 5))


@SELECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [2, torch.tensor(2.0)], ids=["int", "tensor"])
def test_selections_are_pure(select, dtype, k):
    x = randn(20, 7).to(dtype)
    before = x.clone()
    kept = select(x, k, 4)
    assert torch.equal(select(x, k, 4), kept)
    assert torch.equal(x, before)
    assert kept.dtype == dtype
    assert kept.shape == x.shape
