"""Draws given some entries against exact conditional distributions."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skvae.data import Table
from skvae.data.marginals import measure_columns
from skvae.inference.conditional import CodeSource, sample_given
from skvae.modules import AutoEncoderModule, Batch, CVAEModule, VAEModule

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_core")


def set_layer(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))


class Linear:
    """A linear decoder with normal noise, an encoder that knows nothing, and the exact distributions."""

    def __init__(self, n_components, *, noise=0.3, n_features=8, cls=VAEModule, **params):
        self.module = cls(n_features, n_components, hidden_layer_sizes=(), **params)
        rng = np.random.default_rng(n_components)
        self.loading = rng.normal(size=(n_features, n_components)) / np.sqrt(n_components)
        self.bias, self.noise = rng.normal(size=n_features), noise * rng.uniform(0.5, 1.5, size=n_features)
        set_layer(self.module.decoder[0], self.loading, self.bias)
        self.module.likelihood.noise.set_moment(torch.from_numpy(self.noise**2))
        self.prior = np.zeros(n_components), np.eye(n_components)

    def joint(self):
        """Mean and covariance of all columns."""
        mean, covariance = self.prior
        return self.loading @ mean + self.bias, self.loading @ covariance @ self.loading.T + np.diag(self.noise**2)

    def rest(self, x):
        """Mean and covariance of the missing entries of a row."""
        mean, covariance = self.joint()
        seen = ~np.isnan(x)
        gain = covariance[~seen][:, seen] @ np.linalg.inv(covariance[seen][:, seen])
        return mean[~seen] + gain @ (x - mean)[seen], covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]


def drawn(module, X, seed=0, n_samples=None, **options):
    table = Table.of(np.atleast_2d(np.asarray(X, dtype=np.float64)), condition=options.pop("condition", None))
    options = {"n_proposals": 512 if n_samples is None else max(2048, 4 * n_samples), **options}
    return sample_given(module, table, CPU, seed, n_samples=n_samples, **options)


def assert_moments(values, mean, covariance, *, atol=0.08):
    std = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((values.mean(0) - mean) / std, 0.0, atol=atol)
    np.testing.assert_allclose(np.cov(values.T) / np.outer(std, std), covariance / np.outer(std, std), atol=1.5 * atol)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (values - mean).T)
    assert max(stats.kstest(entry, "norm").statistic for entry in white) < 0.6 * atol


PATTERNS = {"one": [2], "half": [0, 2, 4, 6], "all but two": [0, 1, 2, 3, 5, 6]}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("far", [0.5, 4.0])
@pytest.mark.parametrize("noise", [0.3, 0.03])
@pytest.mark.parametrize("n_components", [1, 2, 10])
def test_draws_of_a_linear_model_are_exact(n_components, noise, far, pattern):
    """Whatever is given, also where it is four standard deviations out, and where next to no noise is around it."""
    model = Linear(n_components, noise=noise)
    code = np.random.default_rng(1).normal(size=n_components)
    x = np.full(8, np.nan)
    given = PATTERNS[pattern]
    x[given] = (model.loading @ (code / np.linalg.norm(code) * far * np.sqrt(n_components)) + model.bias)[given]
    if pattern == "one":
        mean, covariance = model.joint()
        x[given] = mean[given] + far * np.sqrt(np.diag(covariance)[given])
    rows, size, _ = drawn(model.module, x, n_samples=3000)
    np.testing.assert_array_equal(rows[:, given], np.tile(x[given], (3000, 1)))
    assert_moments(rows[:, np.isnan(x)], *model.rest(x))
    assert size[0] > 0.5 * 12000


def test_very_many_draws_are_made_in_parts(monkeypatch):
    monkeypatch.setattr("skvae.inference.conditional._MOST_AT_ONCE", 1000)
    model = Linear(2)
    x = np.where(np.arange(8) < 2, 1.0, np.nan)
    rows, size, _ = drawn(model.module, x, n_samples=2600)
    assert_moments(rows[:, 2:], *model.rest(x))
    assert 0.5 * 10400 < size[0] <= 10400


@pytest.mark.parametrize("n_components", [2, 10])
def test_one_draw_of_each_row_is_exact(n_components):
    model = Linear(n_components, noise=0.1)
    rng = np.random.default_rng(0)
    X = np.where(rng.random((3, 8)) < 0.5, rng.multivariate_normal(*model.joint(), size=3), np.nan)
    rows = drawn(model.module, np.repeat(X, 160, axis=0), n_proposals=64).rows.reshape(3, 160, 8)
    for x, values in zip(X, rows, strict=True):
        seen = ~np.isnan(x)
        np.testing.assert_array_equal(values[:, seen], np.tile(x[seen], (160, 1)))
        assert_moments(values[:, ~seen], *model.rest(x), atol=0.25)


def test_means_are_those_given_a_code():
    model = Linear(2, noise=0.5)
    x = np.array([1.0, *[np.nan] * 7])
    means, noisy = (drawn(model.module, x, n_samples=2000, mean=mean).rows for mean in (True, False))
    assert np.linalg.matrix_rank(np.cov(means[:, 1:].T), tol=1e-6) == 2
    scatter = (noisy - means)[:, 1:]
    np.testing.assert_allclose(scatter.std(0), model.noise[1:], rtol=0.08)


def test_a_code_with_a_correlated_prior():
    """What an AutoEncoder fits to its codes."""
    model = Linear(3, cls=AutoEncoderModule)
    root = np.random.default_rng(5).normal(size=(3, 3))
    model.prior = np.array([1.0, -2.0, 0.5]), root @ root.T
    model.module.prior.fit(*model.prior)
    x = np.where(np.arange(8) < 3, 2.0, np.nan)
    rows = drawn(model.module, x, n_samples=3000).rows
    assert_moments(rows[:, 3:], *model.rest(x))


def test_a_prior_that_is_a_density_of_the_users_own():
    """A mixture of two normal distributions, of whose components that which explains the entry given takes over."""
    model = Linear(1, noise=0.2)
    density = GaussianMixture(2, means_init=[[-2.0], [2.0]]).fit(np.random.default_rng(0).normal([[-2.0], [2.0]] * 500, 0.3))
    draws = CodeSource(lambda n, seed: density.set_params(random_state=seed).sample(n)[0], density.score_samples)
    x = np.full(8, np.nan)
    x[0] = model.bias[0] + 0.1 * model.loading[0, 0]
    rows = drawn(model.module, x, n_samples=4000, source=draws, mean=True).rows
    codes = ((rows[:, 1:] - model.bias[1:]) / model.loading[1:, 0])[:, 0]
    z = np.linspace(-5.0, 5.0, 4001)
    share = np.exp(density.score_samples(z[:, None]) - 0.5 * ((model.loading[0, 0] * (z - 0.1)) / model.noise[0]) ** 2)
    share /= share.sum()
    assert 0.02 < share[z < 0.0].sum() < 0.98
    assert np.mean(codes < 0.0) == pytest.approx(share[z < 0.0].sum(), abs=0.03)
    assert stats.kstest(codes, lambda t: np.interp(t, z, np.cumsum(share))).statistic < 0.035
    kernel = KernelDensity(bandwidth=0.3).fit(np.array([[-2.0], [2.0]]))
    draws = CodeSource(lambda n, seed: kernel.sample(n, random_state=seed), kernel.score_samples)
    codes = (drawn(model.module, x, n_samples=1000, source=draws, mean=True).rows[:, 1] - model.bias[1]) / model.loading[1, 0]
    assert np.abs(np.abs(codes) - 2.0).max() < 1.7


@pytest.mark.parametrize("prior", ["standard", "mixture", "flow"])
@pytest.mark.parametrize(
    ("likelihood", "activation"), [("gaussian", "tanh"), ("laplace", "relu"), ("bernoulli", "tanh"), ("poisson", "tanh")]
)
def test_curved_models_against_quadrature(likelihood, activation, prior):
    """One component whose posterior is not normal."""
    torch.manual_seed(3)
    module = VAEModule(4, 1, hidden_layer_sizes=(6,), activation=activation, likelihood=likelihood, prior=prior)
    with torch.no_grad():
        for layer in (module.decoder[0], module.decoder[2]):
            layer.weight.mul_(3.0)
        if likelihood in ("gaussian", "laplace"):
            module.likelihood.noise.set_moment(torch.full((4,), 0.3))
    row = {"bernoulli": [1.0, 0.0], "poisson": [2.0, 0.0]}.get(likelihood, [0.7, -0.4]) + 2 * [np.nan]
    rows, size, log_evidence = drawn(module.eval(), row, n_samples=4000, mean=True)
    z = torch.linspace(-8.0, 8.0, 8001).reshape(1, -1, 1)
    x = torch.tensor([row])
    batch = Batch.of(x.nan_to_num(), observed=~x.isnan())
    with torch.no_grad():
        output = module.decode(z, batch)
        log_share = -module.likelihood.nll(batch.x.unsqueeze(1), output, batch.observed.unsqueeze(1)) + module.prior.log_prob(z)
        exact = module.likelihood.mean(output[0])[:, 2:]
    share = torch.softmax(log_share[0].double(), 0).numpy()
    mean = share @ exact
    spread = np.sqrt(share @ exact**2 - mean**2)
    assert (spread > 0.01).all()
    np.testing.assert_allclose((rows[:, 2:].mean(0) - mean) / spread, 0.0, atol=0.06)
    np.testing.assert_allclose(rows[:, 2:].std(0) / spread, 1.0, atol=0.06)
    assert log_evidence[0] == pytest.approx(torch.logsumexp(log_share[0].double(), 0).item() + np.log(16.0 / 8000), abs=0.03)
    assert size[0] > 0.3 * 16000


def test_zeros_and_ones_have_their_exact_probabilities():
    """All sixteen ways to complete a row of six, whose probabilities are integrals over a code of two numbers."""
    module = VAEModule(6, 2, hidden_layer_sizes=(), likelihood="bernoulli")
    rng = np.random.default_rng(2)
    weight, bias = 2.5 * rng.normal(size=(6, 2)), rng.normal(size=6)
    set_layer(module.decoder[0], weight, bias)
    n = 4000
    rows = drawn(module, [1.0, np.nan, np.nan, 0.0, np.nan, np.nan], n_samples=n).rows
    axis = np.linspace(-6.0, 6.0, 241)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    probability = 1.0 / (1.0 + np.exp(-(z @ weight.T + bias)))
    share = np.exp(-0.5 * (z**2).sum(1)) * probability[:, 0] * (1.0 - probability[:, 3])
    ways = np.array(np.unravel_index(np.arange(16), (2, 2, 2, 2))).T
    missing = probability[:, [1, 2, 4, 5]]
    expected = np.array([share @ np.where(way, missing, 1.0 - missing).prod(1) for way in ways]) / share.sum()
    observed = np.bincount(np.ravel_multi_index(rows[:, [1, 2, 4, 5]].astype(int).T, (2, 2, 2, 2)), minlength=16) / n
    np.testing.assert_allclose(observed, expected, atol=4.0 * np.sqrt(expected / n).max())


def test_modes_have_their_shares():
    """What is given is the magnitude of a code of which the rest has the sign, once with a prior that prefers one."""
    module = VAEModule(2, 1, hidden_layer_sizes=(2,), activation="relu")
    set_layer(module.decoder[0], [[1.0], [-1.0]], [0.0, 0.0])
    set_layer(module.decoder[2], [[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0])
    module.likelihood.noise.set_moment(torch.full((2,), 0.05**2))
    signs = np.sign(drawn(module, [1.5, np.nan], n_samples=2000).rows[:, 1])
    assert np.mean(signs) == pytest.approx(0.0, abs=0.08)
    one_each = np.sign(drawn(module, np.tile([1.5, np.nan], (240, 1)), n_proposals=64).rows[:, 1])
    assert np.mean(one_each) == pytest.approx(0.0, abs=0.25)


def test_conditions_count():
    module = CVAEModule(3, 1, n_conditions=2, hidden_layer_sizes=())
    set_layer(module.decoder[0], [[1.0, 5.0, -5.0], [1.0, 0.0, 0.0], [2.0, 3.0, 0.0]], np.zeros(3))
    module.likelihood.noise.set_moment(torch.full((3,), 0.01))
    condition = np.repeat(np.eye(2, dtype=np.float32), 100, axis=0)
    code = np.array([0.5 - 5.0, 0.5 + 5.0]) / 1.01  # posterior means
    rows, _, log_evidence = drawn(module, np.tile([0.5, np.nan, np.nan], (200, 1)), condition=condition, n_proposals=128)
    np.testing.assert_allclose(rows[:, 1].reshape(2, 100).mean(1), code, atol=0.07)
    np.testing.assert_allclose(rows[:, 2].reshape(2, 100).mean(1), 2.0 * code + [3.0, 0.0], atol=0.1)
    exact = stats.norm([5.0, -5.0], np.sqrt(1.01)).logpdf(0.5)
    np.testing.assert_allclose(log_evidence.reshape(2, 100).mean(1), exact, atol=0.02)


def test_the_encoder_has_no_part():
    model = Linear(2)
    x = np.where(np.arange(8) < 3, 1.0, np.nan)
    before = drawn(model.module, x, n_samples=5).rows
    set_layer(model.module.encoder[0], np.full((4, 8), 3.0), np.full(4, -1.0))
    np.testing.assert_array_equal(drawn(model.module, x, n_samples=5).rows, before)


def gaps(n_rows, n_features=8, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n_rows, n_features)) < 0.5, rng.normal(size=(n_rows, n_features)), np.nan)


def test_the_seed_and_the_place_decide_and_no_neighbor():
    model = Linear(3)
    X = gaps(40)
    rows, sizes, _ = drawn(model.module, X)
    again = drawn(model.module, X)
    np.testing.assert_array_equal(rows, again.rows)
    assert not np.array_equal(rows, drawn(model.module, X, seed=1).rows)
    few = drawn(model.module, X[:7])
    np.testing.assert_array_equal(few.rows, rows[:7])
    np.testing.assert_array_equal(few.effective_sample_size, sizes[:7])
    others = np.concatenate([gaps(20, seed=1), X[20:21], gaps(19, seed=2)])
    np.testing.assert_array_equal(drawn(model.module, others).rows[20], rows[20])
    state = torch.get_rng_state()
    drawn(model.module, X)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_which_nothing_or_everything_is_given():
    model = Linear(2)
    X = gaps(160)
    X[::2] = np.nan
    X[1] = 0.5
    rows, sizes, log_evidence = drawn(model.module, X)
    np.testing.assert_array_equal(rows[1], X[1])
    np.testing.assert_allclose(sizes[::2], 512.0)
    assert sizes[1] == 512.0
    np.testing.assert_allclose(log_evidence[::2], 0.0, atol=1e-4)
    mean, covariance = model.joint()
    np.testing.assert_allclose((rows[::2].mean(0) - mean) / np.sqrt(np.diag(covariance)), 0.0, atol=0.45)
    np.testing.assert_allclose(rows[::2].std(0) / np.sqrt(np.diag(covariance)), 1.0, atol=0.3)


def test_effective_sample_sizes_tell_what_is_hard():
    """A decoder that folds the code many times over leaves a posterior of many modes."""
    torch.manual_seed(0)
    module = VAEModule(12, 8, hidden_layer_sizes=(64,), activation="tanh")
    with torch.no_grad():
        module.decoder[0].weight.mul_(40.0)
        module.decoder[2].weight.mul_(3.0)
    module.likelihood.noise.set_moment(torch.full((12,), 1e-4))
    x = np.full(12, np.nan)
    x[:10] = 1.0
    size = drawn(module, x[None]).effective_sample_size[0]
    assert 1.0 <= size < 10.0
    assert drawn(Linear(8, n_features=12).module, x[None]).effective_sample_size[0] > 200.0


def test_rows_that_no_code_explains_come_back_finite():
    model = Linear(2, noise=0.03)
    x = np.array([1e12, -1e12, *[np.nan] * 6])
    rows, sizes, _ = drawn(model.module, np.stack([x, -x]))
    assert np.isfinite(rows).all()
    assert (sizes >= 1.0).all()
    set_layer(model.module.decoder[0], model.loading, np.full(8, np.inf))
    _, sizes, log_evidence = drawn(model.module, x[None])
    assert sizes[0] == 1.0
    assert log_evidence[0] == -1e30


def test_mixed_columns_against_quadrature():
    """A category, a number of two kinds and a count, whose dependence is a code of one number."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=600)
    table = np.stack(
        [(code > 0.3) + (code > -0.5), np.exp(0.5 * code), np.where(code < -0.4, 0.0, code), rng.poisson(2.0, 600)], 1
    )
    marginals = measure_columns(["categorical", "real", "real", "whole"], [3, 0, 0, 0], table, asked={3: "poisson"})
    torch.manual_seed(2)
    module = VAEModule(4, 1, hidden_layer_sizes=(6,), activation="tanh", marginals=marginals)
    module.likelihood.fit(table)
    with torch.no_grad():
        for layer in (module.decoder[0], module.decoder[2]):
            layer.weight.mul_(3.0)
    module.likelihood.noise.set_moment(torch.full((4,), 0.2))
    z = torch.linspace(-8.0, 8.0, 4001).reshape(1, -1, 1)
    for given in ({0: 2.0}, {1: 2.5, 3: 4.0}, {2: 0.0}):
        row = np.full((1, 4), np.nan)
        row[0, list(given)] = list(given.values())
        drawn_rows, size, _ = drawn(module.eval(), row, n_samples=4000)
        filled, observed = module.likelihood.fill(module.likelihood.standardize(row), is_target=True)
        with torch.no_grad():
            output = module.decode(z, Batch.of(filled, observed=observed))
            log_share = module.prior.log_prob(z) - module.likelihood.nll(filled.unsqueeze(1), output, observed.unsqueeze(1))
            share = torch.softmax(log_share[0].double(), 0).numpy()
            draws = np.stack([module.likelihood.draw(output[0], torch.Generator().manual_seed(seed)) for seed in range(20)])
        assert size[0] > 4000.0
        np.testing.assert_array_equal(drawn_rows[:, list(given)], np.tile(list(given.values()), (4000, 1)))
        for j in set(range(4)) - set(given):
            values, weight = draws[:, :, j].ravel(), np.tile(share, 20) / 20
            order = np.argsort(values)
            at = np.quantile(drawn_rows[:, j], np.linspace(0.02, 0.98, 25))
            expected = np.concatenate([[0.0], np.cumsum(weight[order])])[np.searchsorted(values[order], at, side="right")]
            np.testing.assert_allclose((drawn_rows[:, j, None] <= at).mean(0), expected, atol=0.05)
