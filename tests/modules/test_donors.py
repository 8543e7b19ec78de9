import numpy as np
import pytest
import torch

from skvae.modules import Batch, Donors, LocalModel, MIWAEModule, can_lean

N, D, K, N_DONORS = 6, 4, 2, 5


def make(likelihood="gaussian", linear_path=np.inf):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MIWAEModule(D, K, hidden_layer_sizes=(6,), linear_path=linear_path, likelihood=likelihood, hides=True)
    module.likelihood.fit(np.random.default_rng(0).normal(size=(60, D)) * [1.0, 3.0, 0.5, 2.0])
    module.likelihood.noise.set_moment(torch.tensor([0.3, 0.1, 0.5, 0.2]))
    return module.eval()


def donors(seed=1):
    rng = np.random.default_rng(seed)
    weight = rng.random(N_DONORS)
    arrays = (rng.normal(size=(N_DONORS, K)), rng.normal(size=(N_DONORS, D)) * 0.4, np.log(weight / weight.sum()))
    return Donors(
        *(torch.from_numpy(array).float() for array in arrays), torch.arange(N_DONORS), torch.full((N_DONORS, D), torch.nan)
    )


def rows(seed=2, share=0.4):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(N, D))).float()
    return Batch.of(x, observed=torch.from_numpy(rng.random((N, D)) > share))


def drawn(local, batch, n_draws=4000, excluded=None):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(batch.x), n_draws, K, generator=generator)
    with torch.no_grad():
        return local.draw(batch, noise, torch.rand(len(batch.x), n_draws, generator=generator), excluded)


def mixture(module, given, strengths, x, observed):
    """Log-density and conditional mean under the mixture of normal distributions that a linear decoder makes of donors."""
    linear = module.decoder[0]
    loadings, bias = (part.detach().double().numpy() for part in (linear.weight, linear.bias))
    noise = 0.5 / module.likelihood.weight.double().numpy()
    a, b = strengths
    covariance = (1 - a**2) * loadings @ loadings.T + (1 - b**2) * np.diag(noise)
    o, log_density, means = np.flatnonzero(observed), [], []
    for i in range(N_DONORS):
        center = bias + a * loadings @ given.code[i].double().numpy() + b * given.residual[i].double().numpy()
        away, inside = (x - center)[o], covariance[np.ix_(o, o)]
        solved = np.linalg.solve(inside, away) if len(o) else away
        log_density.append(given.log_weight[i].item() - 0.5 * (away @ solved + np.linalg.slogdet(2 * np.pi * inside)[1]))
        means.append(center + covariance[:, o] @ solved)
    share = np.exp(np.array(log_density) - np.logaddexp.reduce(log_density))
    return np.logaddexp.reduce(log_density), share @ np.array(means)


@pytest.mark.parametrize("strengths", [(0.0, 0.0), (0.8, 0.0), (0.8, 0.6), (0.97, 0.97)])
def test_a_linear_decoder_near_donors_is_a_mixture_of_normal_distributions(strengths):
    module, given, batch = make(), donors(), rows()
    log_weights, location = drawn(LocalModel(module, given, strengths), batch)
    expected = [mixture(module, given, strengths, batch.x[i].double().numpy(), batch.observed[i].numpy()) for i in range(N)]
    # Proposals are exact, so that all draws weigh the same: what they are worth differs between rows as the densities do.
    assert log_weights.std(1).max() < 1e-3
    mean = location.mean(1).double().numpy()
    missing = ~batch.observed.numpy()
    np.testing.assert_allclose(mean[missing], np.array([mean for _, mean in expected])[missing], atol=0.05)


def test_weights_correct_what_a_curved_decoder_makes_of_proposals():
    """The same conditional means from proposals and from many draws of the model itself."""
    module, given, batch, strengths = make(linear_path=1.0), donors(), rows(share=0.5), (0.6, 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.nn.init.normal_(module.decoder.last.weight, std=0.6)
    log_weights, location = drawn(LocalModel(module, given, strengths), batch, 20000)
    found = torch.einsum("nk,nkd->nd", torch.softmax(log_weights, 1).to(location), location)
    generator = torch.Generator().manual_seed(5)
    which = torch.multinomial(given.log_weight.exp(), 200_000, replacement=True, generator=generator)
    z = 0.6 * given.code[which] + 0.8 * torch.randn(len(which), K, generator=generator)
    with torch.no_grad():
        prior = module.decode(z, Batch.of_codes(z)) + 0.5 * given.residual[which]
    precision = 2 * module.likelihood.weight / 0.75
    for i in range(N):
        seen = batch.observed[i]
        log_weight = -0.5 * ((prior - batch.x[i]).square() * precision)[:, seen].sum(1)
        expected = torch.softmax(log_weight.double(), 0).float() @ prior
        torch.testing.assert_close(found[i, ~seen], expected[~seen], atol=0.06, rtol=0)


def test_excluded_donors_have_no_part():
    module, given, batch = make(), donors(), rows()
    local = LocalModel(module, given, (0.9, 0.5))
    only = torch.arange(N_DONORS) != torch.arange(N).unsqueeze(1) % N_DONORS
    _, location = drawn(local, batch, 500, only)
    for i in range(N):
        alone = LocalModel(module, Donors(*(part[i % N_DONORS :][:1] for part in given)), (0.9, 0.5))
        row = Batch.of(batch.x[i : i + 1], observed=batch.observed[i : i + 1])
        torch.testing.assert_close(location[i].mean(0), drawn(alone, row, 500).location[0].mean(0), atol=0.1, rtol=0)


def test_scattered_entries_have_the_noise_that_is_left():
    module = make()
    entries = LocalModel(module, donors(), (0.9, 0.8)).scatter(torch.zeros(20000, D), torch.Generator().manual_seed(0))
    torch.testing.assert_close(entries.var(0), 0.36 * torch.tensor([0.3, 0.1, 0.5, 0.2]), rtol=0.05, atol=0)


def test_what_can_lean():
    assert can_lean(make())
    assert not can_lean(make("laplace"))
    assert not can_lean(make(linear_path=None))
