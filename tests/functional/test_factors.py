"""Linear models of rows: what they are the optimum of, and what scikit-learn finds."""

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis
from torch.distributions import MultivariateNormal

from skvae.functional import (
    factor_analysis,
    least_squares,
    linear_denoiser,
    posterior_of_observed,
    principal_axes,
)

N_ROWS, N_FEATURES, N_FACTORS = 400, 8, 3


def rows(n_rows=N_ROWS, n_features=N_FEATURES, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, N_FACTORS)) @ np.random.default_rng(99).normal(size=(N_FACTORS, n_features))
    return X + np.geomspace(0.2, 1.0, n_features) * rng.normal(size=X.shape) + 1.0


def equal(X):
    return torch.ones(len(X), dtype=torch.float64)


def log_prob(found, X):
    covariance = found.loadings @ found.loadings.mT + torch.diag(found.noise)
    return float(MultivariateNormal(found.mean, covariance).log_prob(torch.from_numpy(X)).mean())


@pytest.mark.parametrize("shape", [(400, 8), (20, 50)])
def test_axes_are_those_of_pca(shape):
    X = rows(*shape)
    found, pca = principal_axes(torch.from_numpy(X), equal(X), N_FACTORS), PCA(N_FACTORS).fit(X)
    np.testing.assert_allclose(np.abs(found.axes.numpy() @ pca.components_.T), np.eye(N_FACTORS), atol=1e-8)
    np.testing.assert_allclose(found.variances, pca.explained_variance_ * (len(X) - 1) / len(X), rtol=1e-8)
    np.testing.assert_allclose(found.mean, X.mean(axis=0), rtol=1e-12)
    assert found.total == pytest.approx(X.var(axis=0).sum())
    assert (found.axes.gather(1, found.axes.abs().argmax(1, keepdim=True)) > 0.0).all()


@pytest.mark.parametrize("function", [principal_axes, factor_analysis])
def test_weights_are_repetitions(function):
    X = rows(100)
    counts = np.random.default_rng(1).integers(1, 4, size=100)
    weighted = function(torch.from_numpy(X), torch.from_numpy(counts.astype(float)), N_FACTORS)
    repeated = np.repeat(X, counts, axis=0)
    for one, other in zip(weighted, function(torch.from_numpy(repeated), equal(repeated), N_FACTORS), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_fewer_rows_than_axes_are_completed():
    X = torch.from_numpy(rows(3))
    found = principal_axes(X, equal(X), 6)
    torch.testing.assert_close(found.axes @ found.axes.mT, torch.eye(6, dtype=torch.float64), atol=1e-9, rtol=0.0)
    assert (found.variances[2:] == 0.0).all()
    deviation = X - found.mean
    torch.testing.assert_close(deviation @ found.axes[:2].mT @ found.axes[:2], deviation)


def test_axes_beyond_the_columns_are_zero():
    X = torch.from_numpy(rows(n_features=4))
    found = principal_axes(X, equal(X), 6)
    assert (found.axes[4:] == 0.0).all()
    assert (found.axes[:4].norm(dim=1) - 1.0).abs().max() < 1e-9


def test_factors_are_those_of_scikit_learn():
    X, test = rows(), rows(seed=1)
    found, reference = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS), FactorAnalysis(N_FACTORS, tol=1e-8).fit(X)
    assert log_prob(found, X) == pytest.approx(reference.score(X), abs=2e-3)
    assert log_prob(found, test) == pytest.approx(reference.score(test), abs=1e-2)
    np.testing.assert_allclose(found.noise, reference.noise_variance_, rtol=0.05)
    encode, variance = found.posterior()
    mine = (torch.from_numpy(test) - found.mean) @ encode.mT @ found.loadings.mT
    np.testing.assert_allclose(mine, reference.transform(test) @ reference.components_, atol=0.05)
    # The posterior is uncorrelated, so that its variances tell all of it.
    precision = torch.eye(N_FACTORS, dtype=torch.float64) + found.loadings.mT @ (found.loadings / found.noise.unsqueeze(1))
    torch.testing.assert_close(torch.linalg.inv(precision), torch.diag(variance), atol=1e-9, rtol=0.0)


@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
@pytest.mark.parametrize(("name", "n_factors"), [("iris", 2), ("wine", 4), ("breast_cancer", 8), ("few", 3)])
def test_few_steps_lead_to_the_largest_likelihood(name, n_factors):
    rng = np.random.default_rng(0)
    few = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 60)) + np.geomspace(0.1, 1.0, 60) * rng.normal(size=(30, 60))
    X = few if name == "few" else getattr(datasets, f"load_{name}")(return_X_y=True)[0]
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    n_calls, cholesky = 0, torch.linalg.cholesky_ex

    def counted(matrix):
        nonlocal n_calls
        n_calls += 1
        return cholesky(matrix)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.linalg, "cholesky_ex", counted)
        found = factor_analysis(torch.from_numpy(X), equal(X), n_factors)
    longest = FactorAnalysis(n_factors, tol=1e-8, max_iter=1000, svd_method="lapack").fit(X)
    assert 0 < n_calls < 100
    assert log_prob(found, X) / X.shape[1] > longest.score(X) / X.shape[1] - 1e-3


def test_shared_noise_gives_probabilistic_components():
    X = rows()
    found, pca = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS, is_shared=True), PCA(N_FACTORS).fit(X)
    assert log_prob(found, X) == pytest.approx(pca.score(X), abs=1e-3)
    np.testing.assert_allclose(found.noise, pca.noise_variance_, rtol=1e-2)


def test_fixed_noise_stays_and_the_rest_suits_it():
    X, noise = rows(), torch.full((N_FEATURES,), 0.25, dtype=torch.float64)
    found = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS, noise=noise)
    assert torch.equal(found.noise, noise)
    for factor in (0.97, 1.03):
        assert log_prob(found._replace(loadings=factor * found.loadings), X) < log_prob(found, X)


def test_noise_does_not_fall_below_its_floor():
    X, floor = rows(), torch.full((N_FEATURES,), 0.3, dtype=torch.float64)
    assert (factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS, floor=floor).noise >= 0.3).all()


def bound(found, X, beta):
    """Evidence lower bound of a linear model whose divergence is weighted, at its best posterior."""
    encode, variance = found.posterior(beta)
    away = torch.from_numpy(X) - found.mean
    code = away @ encode.mT
    left = (away - code @ found.loadings.mT).square() + (found.loadings.square() @ variance)
    nll = 0.5 * (left / found.noise + found.noise.log()).sum(1)
    kl = 0.5 * (code.square() + variance - variance.log() - 1.0).sum(1)
    return float((nll + beta * kl).mean())


@pytest.mark.parametrize(("beta", "is_shared"), [(4.0, False), (4.0, True), (0.5, True)])
def test_beta_has_its_own_optimum(beta, is_shared):
    X = rows()
    found = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS, beta=beta, is_shared=is_shared)
    plain = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS, is_shared=is_shared)
    best = bound(found, X, beta)
    assert best < bound(plain, X, beta) - 1e-2
    for factor in (0.97, 1.03):
        assert best < bound(found._replace(loadings=factor * found.loadings), X, beta)
        assert best < bound(found._replace(noise=factor * found.noise), X, beta)


def test_missing_entries_are_integrated_out():
    X, test = rows(2000), rows(seed=1)
    observed = torch.from_numpy(np.random.default_rng(2).random(X.shape) > 0.2)
    filled = torch.where(observed, torch.from_numpy(X), 1e6)  # whatever stands there
    found = factor_analysis(filled, equal(X), N_FACTORS, observed=observed)
    full = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS)
    assert log_prob(found, test) > log_prob(full, test) - 0.03
    everything = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS, observed=torch.ones_like(observed))
    assert log_prob(everything, test) == pytest.approx(log_prob(full, test), abs=0.01)


def test_posterior_of_what_is_observed_is_that_of_the_rest_left_out():
    X = rows(50)
    found = factor_analysis(torch.from_numpy(X), equal(X), N_FACTORS)
    observed = torch.ones(50, N_FEATURES, dtype=torch.bool)
    observed[:, 2] = False
    mean, covariance = posterior_of_observed(found, torch.from_numpy(X), observed)
    kept = [0, 1, 3, 4, 5, 6, 7]
    part = found._replace(mean=found.mean[kept], loadings=found.loadings[kept], noise=found.noise[kept])
    encode, variance = part.posterior()
    torch.testing.assert_close(mean, (torch.from_numpy(X)[:, kept] - part.mean) @ encode.mT)
    torch.testing.assert_close(covariance[0].diagonal(), variance)


def test_a_denoiser_is_the_best_of_its_rank():
    X = rows(4000) - 1.0
    corrupted = X + 1.5 * np.random.default_rng(1).normal(size=X.shape)
    covariance, crossed = torch.from_numpy(X.T @ X / len(X) + 2.25 * np.eye(N_FEATURES)), torch.from_numpy(X.T @ X / len(X))
    encoder, axes = linear_denoiser(covariance, crossed, torch.ones(N_FEATURES, dtype=torch.float64), N_FACTORS)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(N_FACTORS, dtype=torch.float64), atol=1e-9, rtol=0.0)

    def error(down, up):
        return ((corrupted @ down.T @ up - X) ** 2).mean()

    own, pca = error(encoder.numpy(), axes.numpy()), PCA(N_FACTORS).fit(X).components_
    assert own < 0.97 * error(pca, pca)
    rng = np.random.default_rng(2)
    for _ in range(20):
        down, up = (part.numpy() + 0.02 * rng.normal(size=part.shape) for part in (encoder, axes))
        assert own < error(down, up) + 1e-4


@pytest.mark.parametrize("shape", [(50, 4), (10, 30)])
def test_least_squares_are_those_of_numpy(shape):
    rng = np.random.default_rng(0)
    inputs, weight = rng.normal(size=shape), rng.random(shape[0]) + 0.5
    outputs = inputs @ rng.normal(size=(shape[1], 2)) + 3.0
    slopes, bias = least_squares(*map(torch.from_numpy, (inputs, outputs, weight)), ridge=1e-10)
    np.testing.assert_allclose(inputs @ slopes.numpy().T + bias.numpy(), outputs, atol=1e-5)
