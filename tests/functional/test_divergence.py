import pytest
import torch
from torch import distributions

from skvae.functional import gaussian_kl


def posterior(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, dtype=dtype, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3)], ids=str)
def test_against_torch_distributions(shape):
    mean, log_var = posterior(*shape)
    expected = distributions.kl_divergence(distributions.Normal(mean, torch.exp(0.5 * log_var)), distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, log_var), expected.sum(-1))
    torch.testing.assert_close(gaussian_kl(mean, log_var, per_component=True), expected)


def test_is_zero_at_the_prior_only():
    zero = torch.zeros(1, 2)
    assert gaussian_kl(zero, zero).item() == 0.0
    assert gaussian_kl(zero + 0.01, zero).item() > 0.0
    assert gaussian_kl(zero, zero + 0.01).item() > 0.0
    assert gaussian_kl(zero, zero - 0.01).item() > 0.0


def test_never_negative_near_zero():
    magnitude = torch.logspace(-30.0, 0.0, 100_001)
    log_var = torch.cat([magnitude, -magnitude]).unsqueeze(-1)
    for mean in (0.0, 1e-6):
        assert gaussian_kl(torch.full_like(log_var, mean), log_var).min().item() >= 0.0


@pytest.mark.parametrize("log_var", [1e-3, -1e-3])
def test_keeps_its_digits_near_zero(log_var):
    exact = gaussian_kl(torch.zeros(1, dtype=torch.float64), torch.tensor([log_var], dtype=torch.float64)).item()
    assert exact == pytest.approx(log_var**2 / 4.0, rel=1e-3)  # the leading term of its series
    assert gaussian_kl(torch.zeros(1), torch.tensor([log_var])).item() == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_variances(dtype):
    mean = torch.tensor([[0.0], [0.0], [1e4]], dtype=dtype, requires_grad=True)
    log_var = torch.tensor([[-60.0], [60.0], [0.0]], dtype=dtype, requires_grad=True)
    value = gaussian_kl(mean, log_var)
    wide = 0.5 * (torch.exp(torch.tensor(60.0, dtype=torch.float64)).item() - 61.0)
    torch.testing.assert_close(value.detach(), torch.tensor([29.5, wide, 0.5e8], dtype=dtype))
    value.sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(log_var.grad).all()


def test_gradients():
    mean, log_var = (tensor.requires_grad_() for tensor in posterior(4, 5, 3))
    assert torch.autograd.gradcheck(gaussian_kl, (mean, log_var))
    assert torch.autograd.gradcheck(lambda *args: gaussian_kl(*args, per_component=True), (mean, log_var))


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 5, 3)], ids=str)
def test_from_another_gaussian_against_torch_distributions(shape):
    mean, log_var = posterior(*shape)
    other_mean, other_log_var = (2.0 * tensor.flip(0) for tensor in posterior(*shape))
    gaussians = [distributions.Normal(m, torch.exp(0.5 * v)) for m, v in ((mean, log_var), (other_mean, other_log_var))]
    expected = distributions.kl_divergence(*gaussians)
    torch.testing.assert_close(gaussian_kl(mean, log_var, other_mean, other_log_var), expected.sum(-1))
    torch.testing.assert_close(gaussian_kl(mean, log_var, other_mean, other_log_var, per_component=True), expected)


def test_one_prior_for_many_posteriors():
    mean, log_var = posterior(4, 5, 3)
    other = [tensor[0] for tensor in posterior(1, 3)]
    expected = torch.stack([gaussian_kl(m, v, *other) for m, v in zip(mean.flatten(0, 1), log_var.flatten(0, 1), strict=True)])
    torch.testing.assert_close(gaussian_kl(mean, log_var, *other).flatten(), expected)


def test_is_zero_at_any_prior_and_keeps_its_digits_there():
    mean, log_var = posterior(4, 3)
    assert gaussian_kl(mean, log_var, mean, log_var).abs().max().item() == 0.0
    near = gaussian_kl(mean.float(), log_var.float() + 2.0**-10, mean.float(), log_var.float(), per_component=True)
    torch.testing.assert_close(near.double(), torch.full_like(mean, 2.0**-22), rtol=1e-2, atol=0.0)


def test_gradients_in_the_prior():
    tensors = [tensor.requires_grad_() for tensor in (*posterior(5, 3), *(tensor.flip(0) for tensor in posterior(5, 3)))]
    assert torch.autograd.gradcheck(gaussian_kl, tensors)
