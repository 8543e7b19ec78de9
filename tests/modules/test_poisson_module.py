import re

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from skvae.modules import AutoEncoderModule, Batch, DenoisingModule, PoissonLikelihood, SparseModule
from skvae.modules.likelihoods.poisson import poisson_deviance, poisson_energy, poisson_quantile

RATES = np.array([0.05, 1.0, 8.0, 300.0, 2e6])
N_ROWS, N_FEATURES = 80, len(RATES)


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.poisson(RATES * rng.gamma(4.0, 0.25, size=(N_ROWS, 1))).astype(float)


@pytest.fixture
def likelihood(X):
    return PoissonLikelihood(N_FEATURES).double().fit(X)


def outputs(seed=1, n_rows=N_ROWS):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(n_rows, N_FEATURES, dtype=torch.float64, generator=generator)


# -- probabilities ----------------------------------------------------------------------------------------------------


def test_log_probabilities_are_those_of_scipy_and_torch(likelihood, X):
    rate = likelihood.mean(outputs())
    expected = stats.poisson.logpmf(X, rate).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(X, outputs()), expected, rtol=1e-10)
    same = torch.distributions.Poisson(torch.from_numpy(rate)).log_prob(torch.from_numpy(X)).sum(1)
    np.testing.assert_allclose(-likelihood.nll(torch.from_numpy(X), outputs()).numpy(), same, rtol=1e-8)


def test_probabilities_add_up_to_one():
    counts = torch.arange(0.0, 4000.0, dtype=torch.float64).unsqueeze(1)
    location = torch.log(torch.tensor([1e-3, 0.5, 15.9, 16.1, 700.0], dtype=torch.float64))
    np.testing.assert_allclose(torch.exp(-poisson_energy(counts, location)).sum(0), 1.0, rtol=1e-12)


@pytest.mark.parametrize("count", [0.0, 1.0, 15.0, 16.0, 1e3, 1e6])
def test_single_precision_knows_large_counts(count):
    x = torch.tensor(count)
    deviations = torch.linspace(-4.0, 4.0, 9)
    location = torch.log((x + deviations * x.clamp(min=1.0).sqrt()).clamp(min=0.1))
    exact = -stats.poisson.logpmf(count, np.exp(location.double().numpy()))
    np.testing.assert_allclose(poisson_energy(x, location), exact, atol=5e-3)
    # The usual formula is off by nats there.
    if count == 1e6:
        naive = location.exp() - x * location + torch.lgamma(x + 1.0)
        assert np.abs(naive.numpy() - exact).max() > 0.1


def test_gradients():
    x = torch.tensor([0.0, 0.0, 1.0, 16.0, 1e5], dtype=torch.float64)
    location = torch.tensor([-3.0, 2.0, 0.5, 2.0, 11.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda location: poisson_energy(x, location), location)
    (gradient,) = torch.autograd.grad(poisson_energy(x, location).sum(), location)
    torch.testing.assert_close(gradient, location.exp() - x)


def test_energies_are_finite_wherever_networks_go(likelihood, X):
    for size in (1e3, -1e3):
        output = torch.full((N_ROWS, N_FEATURES), size, requires_grad=True)
        nll = likelihood.float().nll(torch.from_numpy(X).float(), output)
        nll.sum().backward()
        assert nll.isfinite().all()
        assert output.grad.isfinite().all()


def test_deviances_are_those_of_the_textbook(likelihood, X):
    rate = likelihood.mean(outputs())
    expected = np.where(X > 0, X * np.log(np.where(X > 0, X, 1.0) / rate), 0.0) - (X - rate)
    np.testing.assert_allclose(likelihood.deviance(X, outputs()), expected, rtol=1e-5, atol=1e-9)
    counts = torch.tensor([1.0, 40.0, 1e6], dtype=torch.float64)
    np.testing.assert_allclose(poisson_deviance(counts, counts.log()), 0.0, atol=1e-9)


# -- columns ----------------------------------------------------------------------------------------------------------


def test_training_begins_at_the_mean_rates(likelihood, X):
    np.testing.assert_allclose(likelihood.mean(torch.zeros(1, N_FEATURES))[0], X.mean(0) + 0.5 / N_ROWS, rtol=1e-6)


def test_weights_are_repetitions(X):
    repeats = np.random.default_rng(1).integers(1, 4, size=N_ROWS)
    weighted = PoissonLikelihood(N_FEATURES).double().fit(X, repeats.astype(float))
    repeated = PoissonLikelihood(N_FEATURES).double().fit(np.repeat(X, repeats, axis=0))
    for name in ("log_center", "log_scale", "root_scale"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-9)
    # But for half a count that every column has in advance, whatever the sum of the weights.
    np.testing.assert_allclose(weighted.base[1:], repeated.base[1:], atol=0.01)


def test_missing_entries_are_left_out(X):
    rows = X.copy()
    rows[::2, 3] = np.nan
    likelihood, column = PoissonLikelihood(N_FEATURES).double().fit(rows), X[1::2, 3]
    assert likelihood.base[3].exp() == pytest.approx(column.mean() + 0.5 / len(column))
    assert likelihood.log_center[3] == pytest.approx(np.log1p(column).mean())
    assert likelihood.log_scale[3] == pytest.approx(np.log1p(column).std())


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csr_matrix], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16])
def test_sparse_rows_of_any_type(dtype, container):
    X = np.random.default_rng(0).poisson(0.3, size=(N_ROWS, N_FEATURES)).astype(dtype)
    dense, rows = (PoissonLikelihood(N_FEATURES).fit(form(X)) for form in (np.array, container))
    rows.check(container(X))
    for name in ("base", "log_center", "log_scale", "root_scale"):
        torch.testing.assert_close(getattr(rows, name), getattr(dense, name), rtol=1e-6, atol=1e-7)


def test_constant_columns_have_their_rate():
    X = np.column_stack([np.zeros(N_ROWS), np.full(N_ROWS, 7.0), np.arange(N_ROWS)])
    likelihood = PoissonLikelihood(3).double().fit(X)
    output = torch.randn(4, 3, dtype=torch.float64)
    np.testing.assert_allclose(likelihood.expectation(output)[:, :2], [[0.5 / N_ROWS, 7.0 + 0.5 / N_ROWS]] * 4, rtol=1e-6)
    np.testing.assert_array_equal(likelihood.mean(output)[:, :2], [[0.0, 7.0]] * 4)
    drawn = likelihood.draw(output, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(drawn[:, :2], [[0.0, 7.0]] * 4)
    assert np.isfinite(likelihood.log_prob(X, output.repeat(20, 1))).all()


def test_rare_counts_do_not_reach_networks_as_spikes():
    X = np.zeros((1000, 1))
    X[0] = 1.0
    likelihood = PoissonLikelihood(1).fit(X)
    assert likelihood.network_input(torch.from_numpy(X).float()).max() < 4.0


# -- what is compared -------------------------------------------------------------------------------------------------


def test_poisson_noise_is_one_unit_at_any_rate():
    rates = np.array([4.0, 30.0, 1e3, 1e6])
    X = np.random.default_rng(0).poisson(rates, size=(4000, 4)).astype(float)
    likelihood = PoissonLikelihood(4).double().fit(X)
    error = np.hsplit(likelihood.errors(X, torch.zeros(4000, 4, dtype=torch.float64)), 2)[1]
    np.testing.assert_allclose(error.std(0), 1.0, rtol=0.05)


def test_columns_that_vary_more_have_one_spread(likelihood, X):
    spread = np.hsplit(likelihood.errors(X, outputs()), 2)[0].std(0)
    np.testing.assert_allclose(spread[2:], 1.0, rtol=0.1)
    assert spread[0] < 1.0  # single counts are noise


def test_surprise_is_the_deviance_where_rates_are_known():
    x = torch.tensor([0.0, 1.0, 7.0, 30.0], dtype=torch.float64)
    mean = torch.full((4,), 5.0, dtype=torch.float64)
    likelihood = PoissonLikelihood(4).double()
    np.testing.assert_allclose(likelihood.surprise(x, mean, mean), poisson_deviance(x, mean.log()), rtol=1e-4)
    # And less where they are not.
    assert (likelihood.surprise(x, mean, 5.0 * mean) < likelihood.surprise(x, mean, mean)).all()


def test_surprise_is_that_of_a_negative_binomial_distribution():
    mean, variance = 5.0, 20.0
    size, share = mean**2 / (variance - mean), mean / variance
    counts = np.arange(0, 60)
    found = (
        PoissonLikelihood(60)
        .double()
        .surprise(
            torch.from_numpy(counts.astype(float)), *(torch.full((60,), value, dtype=torch.float64) for value in (mean, variance))
        )
    )
    best = np.maximum(counts, 1e-12)
    at_best = stats.nbinom.logpmf(counts, size, size / (size + best))
    np.testing.assert_allclose(found, at_best - stats.nbinom.logpmf(counts, size, share), atol=1e-8)


# -- draws ------------------------------------------------------------------------------------------------------------


def test_quantiles_are_those_of_scipy():
    rate = torch.tensor([1e-12, 1e-3, 0.5, 3.0, 40.0, 1e3, 1e6], dtype=torch.float64)
    noise = torch.linspace(-6.0, 6.0, 41, dtype=torch.float64).unsqueeze(1)
    expected = stats.poisson.ppf(stats.norm.cdf(noise.numpy()), rate.numpy())
    found = poisson_quantile(rate, noise).numpy()
    upper = noise.numpy()[:, 0] > 5.0  # where a distribution function is too close to one to tell its digits
    np.testing.assert_array_equal(found[~upper], expected[~upper])
    np.testing.assert_allclose(found[upper], expected[upper], atol=1.0)


def test_draws_are_integers_with_the_right_moments(likelihood):
    output = outputs(n_rows=1).expand(20_000, -1)
    for draws in (
        likelihood.draw(output, torch.Generator().manual_seed(0)),
        likelihood.rescale(likelihood.scatter_by(output, torch.randn(output.shape, generator=torch.Generator().manual_seed(0)))),
    ):
        rate = likelihood.mean(output[:1])[0]
        assert (draws == np.round(draws)).all()
        np.testing.assert_allclose((draws.mean(0) - rate) / np.sqrt(rate), 0.0, atol=0.03)
        np.testing.assert_allclose(draws.var(0), rate, rtol=0.06)


def test_draws_repeat_with_their_generator(likelihood):
    state = torch.random.get_rng_state()
    first, second, third = (likelihood.draw(outputs(), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()
    assert torch.equal(torch.random.get_rng_state(), state)


# -- what is no count -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        (-1.0, "neither centered nor scaled"),
        (2.5, "neither scaled nor turned into shares"),
        (1e13, "perhaps of its logarithm"),
        (np.inf, "perhaps of its logarithm"),
    ],
)
@pytest.mark.parametrize("container", [np.array, sparse.csr_array], ids=lambda f: f.__name__)
def test_what_is_no_count_is_refused_by_column_and_value(likelihood, X, value, cure, container):
    X[17, 3] = value
    with pytest.raises(
        ValueError, match=rf"likelihood='poisson' takes counts.*column 3 of X has {re.escape(f'{value:g}')}\..*{cure}"
    ):
        likelihood.check(container(X))
    with pytest.raises(ValueError, match="column 'genes' of X"):
        likelihood.check(container(X), ["words", "x", "y", "genes", "z"].__getitem__)


@pytest.mark.parametrize(
    "value", [4 + 1e-9, 4 - 1e-9, -1e-12, 3e5 + 1e-3, 1e12 - 0.01, 1e12 + 1, np.float32(4.000001), 1e6 + 0.5]
)
@pytest.mark.parametrize("container", [np.array, sparse.csr_array], ids=lambda f: f.__name__)
def test_the_value_that_is_printed_is_no_count_either(likelihood, X, value, container):
    X = X.astype(np.asarray(value).dtype)
    X[17, 3] = value
    with pytest.raises(ValueError, match="column 3 of X has") as caught:
        likelihood.check(container(X))
    printed = float(re.search(r"of X has (\S+)\. ", str(caught.value))[1])
    assert printed < 0 or printed > 1e12 or printed % 1 != 0
    is_near = 0 < abs(float(value) - np.round(value)) < 0.1
    assert ("np.round(X)" in str(caught.value)) == is_near
    if is_near:
        likelihood.check(np.round(X))
        X[20, 1] = 2.5  # which rounding would falsify
        with pytest.raises(ValueError, match="likelihood='gaussian'"):
            likelihood.check(container(X))


def test_frames_of_sequences_are_checked_as_rows(likelihood):
    X = np.ones((4, 6, N_FEATURES))
    X[2, 3, 1] = 0.5
    with pytest.raises(ValueError, match=r"column 1 of X has 0\.5"):
        likelihood.check(X)


# -- in modules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", [["gaussian", "masking", "salt_and_pepper", "dropout"], lambda batch: batch - 100.0])
def test_encoders_read_whatever_corruptions_make_of_counts(X, corruption):
    torch.manual_seed(0)
    module = DenoisingModule(N_FEATURES, 2, likelihood="poisson", corruption=corruption, corruption_scale=3.0)
    module.likelihood.fit(X)
    x = torch.from_numpy(X).float()
    noise = {name: torch.randn(N_ROWS, *shape) for name, shape in module.noise_shapes.items()}
    batch = Batch.of(x, noise=noise)
    assert (module.corrupt(batch) < 0.0).any()
    loss = module.loss(batch, {}).terms["reconstruction"]
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_masked_counts_are_zeros(X):
    module = DenoisingModule(N_FEATURES, 2, likelihood="poisson", corruption="masking", corruption_rate=0.4)
    module.likelihood.fit(X)
    x = torch.from_numpy(X).float() + 1.0
    corrupted = module.corrupt(Batch.of(x, noise={"entries": torch.randn(x.shape), "rows": torch.randn(N_ROWS, 2)}))
    assert ((corrupted == 0.0) | (corrupted == x)).all()
    assert (corrupted == 0.0).sum(1).tolist() == [2] * N_ROWS


def test_dead_units_are_taught_in_units_of_the_output(X):
    module = SparseModule(N_FEATURES, 4, likelihood="poisson", revival_weight=1.0)
    module.likelihood.fit(X)
    target, output = torch.from_numpy(X).float(), torch.zeros(N_ROWS, N_FEATURES)
    assert module.likelihood.shortfall(target, output).abs().max() < 10.0
    assert module.likelihood.residual(target, output).abs().max() > 1e5


def test_proposals_of_autoencoders_are_posteriors_where_rates_are_large():
    """The Laplace approximation is good for large counts: all draws count."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    slope, base = np.array([0.3, -0.2, 0.4]), np.log([200.0, 400.0, 1000.0])
    X = rng.poisson(np.exp(base + rng.normal(size=(300, 1)) * slope)).astype(float)
    module = AutoEncoderModule(3, 1, likelihood="poisson", hidden_layer_sizes=()).double()
    module.likelihood.fit(X)
    with torch.no_grad():
        module.decoder[-1].weight.copy_(torch.from_numpy(slope).unsqueeze(1))
        module.decoder[-1].bias.copy_(torch.from_numpy(base) - module.likelihood.base)
        # The encoder that fits logarithms best.
        best = torch.from_numpy(slope / (slope @ slope)) * module.likelihood.log_scale
        module.encoder[-1].weight.copy_(best.unsqueeze(0))
        center = (module.likelihood.log_center - torch.from_numpy(base)) @ torch.from_numpy(slope / (slope @ slope))
        module.encoder[-1].bias.copy_(center)
        x = torch.from_numpy(X)
        draws = module.importance_draws(Batch.of(x, noise={"posterior": torch.randn(300, 64, 1, dtype=torch.float64)}))
    share = torch.softmax(draws.log_weights, 1)
    assert (1.0 / share.square().sum(1)).median() > 55.0
