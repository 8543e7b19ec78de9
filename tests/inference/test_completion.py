"""Completed rows against the exact conditional distributions of a linear Gaussian model."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.data import Table
from skvae.inference.conditional import average_given, sample_given
from skvae.modules import Batch, CVAEModule

CPU = torch.device("cpu")
N_FEATURES, N_COMPONENTS, N_CONDITIONS = 4, 2, 3
OBSERVED = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
CONDITION = np.eye(N_CONDITIONS, dtype=np.float32)
X = np.array([[1.0, -0.5, 0.3, 2.0], [2.0, 1.5, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])

pytestmark = pytest.mark.usefixtures("one_core")


class Linear:
    """A module without hidden layers, whose encoder knows the posterior roughly, and its exact distributions."""

    def __init__(
        self, *, prior="standard", encode_condition=False, noise=0.4, error=0.3, n_features=N_FEATURES, n_components=N_COMPONENTS
    ):
        params = {"n_conditions": N_CONDITIONS, "encode_condition": encode_condition, "prior": prior}
        self.module = CVAEModule(n_features, n_components, hidden_layer_sizes=(), **params)
        rng = np.random.default_rng(0)
        self.loading = rng.normal(size=(n_features, n_components))
        self.offset = rng.normal(size=(n_features, N_CONDITIONS))
        self.bias, self.noise = rng.normal(size=n_features), noise * rng.uniform(0.5, 1.5, size=n_features)
        self.prior_mean, self.prior_log_var = np.zeros((2, N_CONDITIONS, n_components))
        if prior == "conditional":
            self.prior_mean, self.prior_log_var = rng.normal(size=(2, N_CONDITIONS, n_components))
            moments = np.hstack([self.prior_mean, self.prior_log_var])
            set_layer(self.module.prior.network[0], moments.T, np.zeros(2 * n_components))
        set_layer(self.module.decoder[0], np.hstack([self.loading, self.offset]), self.bias)
        self.module.likelihood.noise.set_moment(torch.from_numpy(self.noise**2))
        # The encoder of the standard prior and no condition, and a bit off.
        scaled = self.loading.T / self.noise**2
        covariance = np.linalg.inv(np.eye(n_components) + scaled @ self.loading)
        weight = np.zeros((2 * n_components, n_features + N_CONDITIONS * encode_condition))
        weight[:n_components, :n_features] = covariance @ scaled
        if encode_condition:
            weight[:n_components, n_features:] = -covariance @ scaled @ self.offset
        bias = np.concatenate([error - covariance @ scaled @ self.bias, np.log(np.diag(covariance)) + error])
        set_layer(self.module.encoder[0], weight, bias)

    def rows(self, label):
        """Mean and covariance of p(x | c)."""
        mean = self.loading @ self.prior_mean[label] + self.offset[:, label] + self.bias
        prior = np.diag(np.exp(self.prior_log_var[label]))
        return mean, self.loading @ prior @ self.loading.T + np.diag(self.noise**2)

    def missing(self, x, seen, label):
        """Mean and covariance of the missing entries, given the observed ones."""
        mean, covariance = self.rows(label)
        gain = covariance[~seen][:, seen] @ np.linalg.inv(covariance[seen][:, seen])
        return mean[~seen] + gain @ (x - mean)[seen], covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]


def set_layer(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


def completed(model, X=X, observed=OBSERVED, condition=CONDITION, seed=0, **options):
    options = {"n_samples": 4000, "n_proposals": 16384, **options}
    rows = Table.of(np.where(observed, X, np.nan), condition=condition)
    return sample_given(model.module, rows, CPU, seed, **options).rows.reshape(len(X), -1, X.shape[1])


def averages(model, X=X, observed=OBSERVED, condition=CONDITION, n_proposals=2048):
    return average_given(model.module, Table.of(np.where(observed, X, np.nan), condition=condition), CPU, n_proposals=n_proposals)


MODELS = [
    {},
    {"prior": "conditional"},
    {"encode_condition": True},
    {"prior": "conditional", "encode_condition": True, "noise": 0.15},
    {"error": 1.0},
    {"noise": 0.05},
]


@pytest.mark.parametrize("params", MODELS, ids=str)
def test_draws_have_the_exact_moments(params):
    model = Linear(**params)
    drawn = completed(model)
    for label, (x, seen) in enumerate(zip(X, OBSERVED, strict=True)):
        mean, covariance = model.missing(x, seen, label)
        values, std = drawn[label][:, ~seen], np.sqrt(np.diag(covariance))
        np.testing.assert_allclose((values.mean(0) - mean) / std, 0.0, atol=0.07)
        np.testing.assert_allclose(np.cov(values.T) / np.outer(std, std), covariance / np.outer(std, std), atol=0.09)
        white = np.linalg.solve(np.linalg.cholesky(covariance), (values - mean).T)
        assert max(stats.kstest(entry, "norm").statistic for entry in white) < 0.04


@pytest.mark.parametrize("params", MODELS[:4], ids=str)
def test_means_are_the_exact_ones(params):
    model = Linear(**params)
    means = averages(model)
    for label, (x, seen) in enumerate(zip(X, OBSERVED, strict=True)):
        mean, covariance = model.missing(x, seen, label)
        np.testing.assert_allclose((means[label][~seen] - mean) / np.sqrt(np.diag(covariance)), 0.0, atol=0.05)


@pytest.mark.parametrize("n_components", [1, 8])
def test_few_draws_are_as_good_as_they_can_be(n_components):
    """Rows of the model itself, of many columns: errors of the means of 16 draws are no larger than those of independent ones."""
    n_rows, n_columns = 60, 24
    model = Linear(noise=0.1, n_features=n_columns, n_components=n_components)
    rng = np.random.default_rng(1)
    labels, observed = rng.integers(N_CONDITIONS, size=n_rows), rng.random((n_rows, n_columns)) < 0.5
    rows = np.stack([rng.multivariate_normal(*model.rows(label)) for label in labels])
    drawn = completed(model, rows, observed, CONDITION[labels], n_samples=16, n_proposals=512)
    errors, ratios = [], []
    for x, seen, label, values in zip(rows, observed, labels, drawn, strict=True):
        mean, covariance = model.missing(x, seen, label)
        std = np.sqrt(np.diag(covariance))
        errors.extend((values[:, ~seen].mean(0) - mean) / std)
        ratios.extend(values[:, ~seen].var(0, ddof=1) / std**2)
    assert 0.15 < np.std(errors) < 0.28
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("likelihood", "activation"), [("gaussian", "tanh"), ("laplace", "relu"), ("bernoulli", "tanh")])
def test_curved_models_against_quadrature(likelihood, activation):
    """One component, a posterior that is not Gaussian, and an encoder that knows nothing."""
    torch.manual_seed(0)
    module = CVAEModule(
        N_FEATURES, 1, n_conditions=N_CONDITIONS, hidden_layer_sizes=(6,), activation=activation, likelihood=likelihood
    )
    with torch.no_grad():
        module.decoder[0].weight.mul_(3.0)
        module.decoder[2].weight.mul_(3.0)
        if likelihood != "bernoulli":
            module.likelihood.noise.set_moment(torch.full((N_FEATURES,), 0.3))
    model = Linear()
    model.module = module
    rows = (X > 0.4).astype(float) if likelihood == "bernoulli" else X
    drawn, means = completed(model, rows), averages(model, rows)
    z = torch.linspace(-6.0, 6.0, 4001)
    for label, seen in enumerate(OBSERVED):
        batch = Batch.of(
            torch.from_numpy(rows[label : label + 1]).float(),
            condition=torch.from_numpy(CONDITION[label : label + 1]),
            observed=torch.from_numpy(seen[np.newaxis]),
        )
        with torch.no_grad():
            output = module.decode(z[None, :, None], batch)
            log_likelihood = -module.likelihood.nll(batch.x.unsqueeze(1), output, batch.observed.unsqueeze(1))
            log_posterior = log_likelihood + module.prior.log_prob(z[None, :, None], batch.condition)
        weight = torch.softmax(log_posterior[0].double(), 0).numpy()
        expected = module.likelihood.mean(output[0])[:, ~seen]
        exact, spread = weight @ expected, np.sqrt(weight @ expected**2 - (weight @ expected) ** 2)
        assert (spread > 0.05).all()
        np.testing.assert_allclose((means[label][~seen] - exact) / spread, 0.0, atol=0.1)
        assert np.abs(drawn[label][:, ~seen].mean(0) - exact).max() < 0.07 * drawn[label][:, ~seen].std(0).max()


def test_what_is_missing_is_not_looked_at():
    model = Linear()
    other = np.where(OBSERVED, X, 77.0)
    np.testing.assert_array_equal(completed(model, n_samples=5), completed(model, other, n_samples=5))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(completed(model, n_samples=5), completed(model, X + OBSERVED, n_samples=5))


def test_the_seed_decides():
    model = Linear()
    np.testing.assert_array_equal(completed(model, n_samples=3), completed(model, n_samples=3))
    assert not np.array_equal(completed(model, n_samples=3), completed(model, n_samples=3, seed=1))
    state = torch.get_rng_state()
    completed(model, n_samples=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_many_chunks():
    """A chunk's rows and their conditions must not be mistaken for another's."""
    model = Linear(noise=0.2)
    rng = np.random.default_rng(1)
    labels = rng.integers(N_CONDITIONS, size=50)
    rows, observed = rng.normal(size=(50, N_FEATURES)), rng.random((50, N_FEATURES)) < 0.6
    expected = np.full(rows.shape, np.nan)
    for i, label in enumerate(labels):
        expected[i, ~observed[i]] = model.missing(rows[i], observed[i], label)[0]
    error = (averages(model, rows, observed, CONDITION[labels], 512) - expected)[~observed]
    assert np.sqrt(np.mean(error**2)) < 0.05
    assert np.abs(error.mean()) < 0.02
