import math

import numpy as np
import pytest
import torch

from skvae import functional as fn


def distances(n, k, seed=0):
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).sort(1).values + 0.1


def slow_weights(distance):
    """UMAP's weights of one row's neighbors, by bisection of one number."""
    k = len(distance)
    positive = [d for d in distance if d > 0]
    rho = min(positive) if positive else 0.0
    low, high, sigma = 0.0, math.inf, 1.0
    for _ in range(200):
        total = sum(math.exp(-max(0.0, d - rho) / sigma) for d in distance)
        if total > math.log2(k + 1):
            high = sigma
        else:
            low = sigma
        sigma = 2.0 * sigma if math.isinf(high) else 0.5 * (low + high)
    sigma = max(sigma, 1e-3 * sum(distance) / k)
    return [math.exp(-max(0.0, d - rho) / sigma) for d in distance]


@pytest.mark.parametrize("k", [1, 2, 5, 15])
def test_weights_are_those_of_umap(k):
    found = fn.neighbor_weights(distances(20, k))
    expected = [slow_weights(row.tolist()) for row in distances(20, k)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.sum(1), math.log2(k + 1), rtol=1e-6)


def test_weights_do_not_depend_on_the_unit_of_the_distances():
    expected = fn.neighbor_weights(distances(20, 5))
    for unit in (1e-9, 1e9):
        torch.testing.assert_close(fn.neighbor_weights(unit * distances(20, 5)), expected)


def test_rows_with_fewer_neighbors_are_weighed_by_those_they_have():
    distance = distances(6, 5)
    padded = torch.cat([distance, torch.full((6, 3), torch.inf)], dim=1)
    found = fn.neighbor_weights(padded)
    torch.testing.assert_close(found[:, :5], fn.neighbor_weights(distance))
    assert not found[:, 5:].any()
    assert not fn.neighbor_weights(torch.full((2, 3), torch.inf)).any()


def test_equal_rows_count_in_full_and_the_others_by_the_nearest_that_is_not_equal():
    found = fn.neighbor_weights(torch.tensor([[0.0, 1.0, 1.5, 2.0, 3.0], [0.0] * 5], dtype=torch.float64))
    assert found[0, :2].tolist() == [1.0, 1.0]
    assert (found[0].diff()[1:] < 0.0).all()
    assert found[0, 2] > 0.1
    assert found[1].tolist() == [1.0] * 5
    almost = fn.neighbor_weights(torch.tensor([[1e-9, 1.0, 1.5, 2.0, 3.0]], dtype=torch.float64))  # as rounding leaves it
    torch.testing.assert_close(almost, found[:1])


@pytest.mark.parametrize("min_dist", [0.0, 0.1, 0.5, 1.0])
def test_the_curve_is_the_closest_of_its_kind(min_dist):
    a, b = fn.similarity_curve(min_dist)
    d = np.linspace(0.0, 3.0, 300)
    wanted = np.where(d < min_dist, 1.0, np.exp(-(d - min_dist)))

    def error(a, b):
        return ((1.0 / (1.0 + a * d ** (2 * b)) - wanted) ** 2).sum()

    for other in ((1.01 * a, b), (0.99 * a, b), (a, 1.01 * b), (a, 0.99 * b)):
        assert error(a, b) < error(*other)


def codes(n, d, seed=0, scale=1.0):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_attraction_is_the_negative_log_similarity():
    z, near = codes(10, 3), codes(10, 3, seed=1)
    square = (z - near).square().sum(1)
    torch.testing.assert_close(fn.attraction(z, near, 1.5, 0.9), torch.log1p(1.5 * square**0.9), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_repulsion_is_the_mean_over_draws_among_the_others(offset):
    a, b, weight = 1.5, 0.9, torch.tensor([1.0, 2.0, 0.5, 0.0, 1.0], dtype=torch.float64)
    z = codes(5, 3) + offset
    found = fn.repulsion(z, weight, a, b)
    for i in range(5):
        others = [k for k in range(5) if k != i]
        cost = [-math.log(1.0 - 1.0 / (1.0 + a * (float((z[i] - z[k]).square().sum()) + 1e-3) ** b)) for k in others]
        np.testing.assert_allclose(found[i], np.average(cost, weights=weight[others]), rtol=1e-9)


def test_rows_of_weight_zero_do_not_count():
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    z, extra = codes(4, 2), codes(3, 2, seed=1)
    found = fn.repulsion(torch.cat([z, extra]), torch.cat([1.75 * weight, torch.zeros(3, dtype=torch.float64)]), 1.5, 0.9)
    torch.testing.assert_close(found[:4], fn.repulsion(z, weight, 1.5, 0.9))


def test_a_row_alone_repels_nothing():
    assert fn.repulsion(codes(1, 2), torch.ones(1, dtype=torch.float64), 1.5, 0.9).tolist() == [0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e8])
def test_values_and_gradients_are_finite_for_equal_and_for_distant_codes(scale, dtype):
    z = codes(6, 2, scale=scale).to(dtype).requires_grad_()
    near = (z.detach() * 1.0).requires_grad_()
    for b in (0.5, 0.9, 2.0):
        cost = fn.attraction(z, near, 1.5, b).sum() + fn.repulsion(z, torch.ones(6, dtype=dtype), 1.5, b).sum()
        assert cost.isfinite()
        for gradient in torch.autograd.grad(cost, [z, near]):
            assert gradient.isfinite().all()


def test_losses_pull_neighbors_together_and_push_others_apart():
    z, near = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]], requires_grad=True)
    fn.attraction(z, near, 1.5, 0.9).sum().backward()
    assert near.grad[0, 0] > 0.0
    both = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    fn.repulsion(both, torch.ones(2), 1.5, 0.9).sum().backward()
    assert both.grad[0, 0] > 0.0 > both.grad[1, 0]
