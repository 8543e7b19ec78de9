import numpy as np
import pytest
from conftest import slow
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from skvae import AutoEncoder, Gaussian, Optimizer


def factor_model(seed, n_rows=5000, n_features=12, rank=2, noise=0.5):
    """Rows of a probabilistic PCA and their distribution."""
    rng = np.random.default_rng(seed)
    loadings, mean = rng.normal(size=(n_features, rank)), 3 * rng.normal(size=n_features)

    def rows():
        return rng.normal(size=(n_rows, rank)) @ loadings.T + mean + noise * rng.normal(size=(n_rows, n_features))

    return rows(), rows(), multivariate_normal(mean, loadings @ loadings.T + noise**2 * np.eye(n_features))


@pytest.mark.parametrize("scale", [lambda X: X, *slow(lambda X: X / 16, lambda X: StandardScaler().fit_transform(X))])
def test_without_hidden_layers_it_spans_the_subspace_of_pca(scale):
    X = scale(load_digits().data)
    pca = PCA(8).fit(X)
    model = AutoEncoder(8, hidden_layer_sizes=(), random_state=0).fit(X)
    error = np.sum((model.reconstruct(X) - X) ** 2)
    assert error / np.sum((pca.inverse_transform(pca.transform(X)) - X) ** 2) < 1.01
    basis = model.inverse_transform(np.eye(8)) - model.inverse_transform(np.zeros((8, 8)))
    assert np.degrees(subspace_angles(basis.T, pca.components_.T).max()) < 3


def test_a_linear_score_is_exact_for_any_code_size():
    train, test, truth = factor_model(0, n_rows=2000)
    for n_components in (2, 11):
        model = AutoEncoder(n_components, hidden_layer_sizes=(), likelihood=Gaussian("feature"), random_state=0).fit(train)
        assert model.score(test) == pytest.approx(truth.logpdf(test).mean(), abs=0.15)
        # The proposal is the posterior itself, so that no draw differs in weight.
        assert model.effective_sample_size(test[:50]).min() > 0.9 * model.n_score_draws


def fitted_to_factors(seed):
    train, test, truth = factor_model(seed)
    return AutoEncoder(2, random_state=seed).fit(train), test, truth


@pytest.fixture(scope="module")
def factors(one_core):
    return fitted_to_factors(0)


@pytest.mark.parametrize("seed", [0, *slow(1)])
def test_score_is_close_to_a_known_likelihood(factors, seed):
    model, test, truth = factors if seed == 0 else fitted_to_factors(seed)
    gap = model.score(test) - truth.logpdf(test).mean()
    assert -0.3 < gap < 0.02


@pytest.mark.slow
def test_a_search_does_not_prefer_large_codes():
    train, _, _ = factor_model(0)
    search = GridSearchCV(AutoEncoder(random_state=0), {"n_components": [1, 2, 4, 8, 11]}, cv=3).fit(train)
    scores = dict(zip([1, 2, 4, 8, 11], search.cv_results_["mean_test_score"], strict=True))
    assert scores[1] < scores[2] - 1
    assert max(scores[8], scores[11]) < scores[2] + 0.05


def test_samples_follow_the_data(factors):
    model, _, truth = factors
    drawn = model.sample(5000)
    np.testing.assert_allclose(drawn.mean(0), truth.mean, atol=0.15)
    np.testing.assert_allclose(np.cov(drawn.T), truth.cov, atol=0.6)


@pytest.mark.parametrize("density", [GaussianMixture(3), KernelDensity(bandwidth=0.2)], ids=lambda d: type(d).__name__)
def test_densities_on_request(X, density):
    # Two clumps: one Gaussian on the codes must do worse than a density that can follow them.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) * 0.3 + np.where(rng.random((400, 1)) < 0.5, -4, 4)
    plain = AutoEncoder(1, max_epochs=60, density=GaussianMixture(1), random_state=0).fit(X)
    model = AutoEncoder(1, max_epochs=60, density=density, random_state=0).fit(X)
    assert model.score(X) > plain.score(X) + 0.1
    assert type(model.density_) is type(density)
    assert not hasattr(density, "means_")
    assert (np.abs(model.sample(200).mean(1)) > 2).mean() > (np.abs(plain.sample(200).mean(1)) > 2).mean()
    np.testing.assert_array_equal(model.sample(3, random_state=1), model.sample(3, random_state=1))
    assert AutoEncoder(density=density).get_params()[f"density__{next(iter(density.get_params()))}"] is not None


def test_weights_reach_the_density(X):
    weight = np.where(np.arange(80) < 40, 10.0, 1.0)
    model = AutoEncoder(2, max_epochs=3, random_state=0).fit(X, sample_weight=weight)
    np.testing.assert_allclose(model.density_.mean_, np.average(model.transform(X), axis=0, weights=weight), rtol=1e-4)
    with pytest.raises(ValueError, match="takes none in fit"):
        AutoEncoder(2, max_epochs=3, density=GaussianMixture()).fit(X, sample_weight=weight)


def test_reconstruction_beats_pca_of_the_same_size():
    X = MinMaxScaler().fit_transform(load_digits().data)
    train, test = X[:1300], X[1300:]
    pca = PCA(8).fit(train)
    error = np.sum((AutoEncoder(8, random_state=0).fit(train).reconstruct(test) - test) ** 2)
    assert error < 0.8 * np.sum((pca.inverse_transform(pca.transform(test)) - test) ** 2)


@pytest.mark.filterwarnings("ignore:The training loss")
@pytest.mark.parametrize("max_epochs", [1, 60])
def test_a_run_that_blew_up_without_an_infinite_loss_is_refused(max_epochs):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(500, 8))
    model = AutoEncoder(
        2, optimizer=Optimizer("sgd", schedule="constant"), learning_rate=1.2, hidden_layer_sizes=(), random_state=0
    ).set_params(max_epochs=max_epochs, linear_path=None)
    with pytest.raises(ValueError, match=r"stopped being finite\. learning_rate=1\.2 may be too large"):
        model.fit(X)
    assert not hasattr(model, "module_")
