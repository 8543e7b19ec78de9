import math

import numpy as np
import pytest
import torch
from torch import distributions

from skvae.functional import (
    bernoulli_energy,
    bernoulli_log_prob,
    gaussian_energy,
    gaussian_log_normalizer,
    gaussian_log_prob,
    laplace_energy,
    laplace_log_normalizer,
    laplace_log_prob,
    normal_log_prob,
    squared_error,
    weighted_row_sum,
)

SHAPES = [(3,), (5, 3), (4, 5, 3)]


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- against torch.distributions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("log_prob", "distribution"),
    [(gaussian_log_prob, distributions.Normal), (laplace_log_prob, distributions.Laplace)],
    ids=["gaussian", "laplace"],
)
def test_location_scale_families(log_prob, distribution, shape):
    x, loc, scale = 3.0 * draws(*shape), draws(*shape, seed=1), draws(3, seed=2).exp()
    torch.testing.assert_close(log_prob(x, loc, scale), distribution(loc, scale).log_prob(x).sum(-1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normal_that_every_code_has_of_its_own(shape):
    z, mean, log_var = draws(*shape), draws(*shape, seed=1), draws(*shape, seed=2)
    expected = distributions.Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(normal_log_prob(z, mean, log_var), expected)
    assert torch.isfinite(normal_log_prob(z.float(), mean.float(), torch.full(shape, -16.0))).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bernoulli(shape):
    x, logits = (draws(*shape) > 0.0).double(), 3.0 * draws(*shape, seed=1)
    torch.testing.assert_close(bernoulli_log_prob(x, logits), distributions.Bernoulli(logits=logits).log_prob(x).sum(-1))


def test_bernoulli_of_intensities_is_minus_the_cross_entropy():
    x, logits = torch.sigmoid(draws(5, 3)), draws(5, 3, seed=1)
    p = torch.sigmoid(logits)
    torch.testing.assert_close(bernoulli_log_prob(x, logits), (x * p.log() + (1.0 - x) * (1.0 - p).log()).sum(-1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squared_error_is_the_squared_distance(shape):
    x, loc = draws(*shape), draws(*shape, seed=1)
    torch.testing.assert_close(squared_error(x, loc), torch.linalg.vector_norm(x - loc, dim=-1) ** 2)


def test_one_location_for_many_rows():
    x, loc, scale = draws(4, 5, 3), draws(4, 1, 3, seed=1), draws(3, seed=2).exp()
    expected = gaussian_log_prob(x, loc.expand(4, 5, 3), scale)
    torch.testing.assert_close(gaussian_log_prob(x, loc, scale), expected)


# -- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weighted_row_sum(shape):
    energy, weight, constant = draws(*shape), draws(3, seed=1), torch.tensor(0.7, dtype=torch.float64)
    expected = np.asarray(energy) @ np.asarray(weight) + 0.7
    np.testing.assert_allclose(weighted_row_sum(energy, weight, constant), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("energy", "log_normalizer"),
    [(gaussian_energy, gaussian_log_normalizer), (laplace_energy, laplace_log_normalizer)],
    ids=["gaussian", "laplace"],
)
def test_densities_integrate_to_one(energy, log_normalizer):
    weight, loc = torch.tensor([1.7], dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    x = torch.linspace(-30.0, 30.0, 200_001, dtype=torch.float64)
    density = torch.exp(-weight * energy(x, loc) - log_normalizer(weight))
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-6)


# -- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_at_certainty(dtype):
    x = torch.tensor([[0.0], [1.0], [0.0], [1.0], [0.5]], dtype=dtype)
    logits = torch.tensor([[-200.0], [200.0], [200.0], [-200.0], [200.0]], dtype=dtype, requires_grad=True)
    value = bernoulli_log_prob(x, logits)
    torch.testing.assert_close(value.detach(), torch.tensor([0.0, 0.0, -200.0, -200.0, -100.0], dtype=dtype))
    value.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0], [0.0], [-1.0], [1.0], [-0.5]], dtype=dtype))


@pytest.mark.parametrize(("dtype", "extreme"), [(torch.float32, 1e15), (torch.float64, 1e100)])
@pytest.mark.parametrize(
    ("log_prob", "at_center", "one_scale_off"),
    [(gaussian_log_prob, -0.5 * math.log(2.0 * math.pi), 0.5), (laplace_log_prob, -math.log(2.0), 1.0)],
    ids=["gaussian", "laplace"],
)
def test_tiny_and_huge_scales(log_prob, at_center, one_scale_off, dtype, extreme):
    for scale in (torch.tensor([1.0 / extreme], dtype=dtype), torch.tensor([extreme], dtype=dtype)):
        loc = torch.zeros(2, 1, dtype=dtype, requires_grad=True)
        x = torch.stack([torch.zeros_like(scale), scale])
        scale.requires_grad_()
        value = log_prob(x, loc, scale)
        expected = at_center - math.log(scale.item())
        torch.testing.assert_close(value.detach(), torch.tensor([expected, expected - one_scale_off], dtype=dtype))
        value.sum().backward()
        assert torch.isfinite(loc.grad).all()
        assert torch.isfinite(scale.grad).all()


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("log_prob", [gaussian_log_prob, laplace_log_prob], ids=["gaussian", "laplace"])
def test_gradients_of_location_scale_families(log_prob, shape):
    # Residuals stay away from the Laplace distribution's kink.
    loc, residual = draws(*shape), torch.where(draws(*shape, seed=1) > 0.0, 0.7, -1.3)
    scale = draws(3, seed=2).exp()
    assert torch.autograd.gradcheck(log_prob, ((loc + residual).requires_grad_(), loc.requires_grad_(), scale.requires_grad_()))


@pytest.mark.parametrize("function", [bernoulli_log_prob, bernoulli_energy, squared_error])
def test_gradients(function):
    x, loc = torch.sigmoid(draws(4, 5, 3)), draws(4, 5, 3, seed=1)
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), loc.requires_grad_()))


def test_laplace_gradient_at_the_kink_is_finite():
    loc = torch.zeros(2, 3, requires_grad=True)
    laplace_log_prob(torch.zeros(2, 3), loc, torch.ones(3)).sum().backward()
    torch.testing.assert_close(loc.grad, torch.zeros(2, 3))
