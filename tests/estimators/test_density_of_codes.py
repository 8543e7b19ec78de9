"""What is drawn looks like the rows that were learned from, and is scored by the density it is drawn from."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

from skvae import AutoEncoder, ContractiveAE, DenoisingAE, SparseAE, VAETransformer, inference
from skvae.data import Table
from skvae.estimators import _mixture, autoencoder
from skvae.estimators._density import ActivityDensity, GaussianDensity, code_moments
from skvae.estimators._mixture import MixtureDensity, choose_density
from skvae.modules import noise_fit
from skvae.modules.noise_fit import NoiseFit

pytestmark = pytest.mark.usefixtures("one_core")
MODELS = [AutoEncoder, DenoisingAE, SparseAE, ContractiveAE]
KINDS = {
    "exponential": lambda rng, eta: np.exp(eta) * rng.exponential(size=eta.shape),
    "log-normal": lambda rng, eta: np.exp(eta + 0.3 * rng.normal(size=eta.shape)),
    "uniform": lambda rng, eta: stats.norm.cdf(eta + 0.5 * rng.normal(size=eta.shape)),
    "Poisson": lambda rng, eta: 1.0 * rng.poisson(np.exp(eta + 1.0)),
    "negative binomial": lambda rng, eta: 1.0 * rng.poisson(np.exp(eta + 1.0) * rng.gamma(2.0, 0.5, size=eta.shape)),
}


def table(kind, n_rows, seed=0, n_columns=10, n_factors=3, strength=0.5):
    rng = np.random.default_rng(seed)
    eta = rng.normal(size=(n_rows, n_factors)) @ np.random.default_rng(7).normal(size=(n_factors, n_columns)) * strength
    if kind == "mixed":
        parts = [draw(rng, eta[:, j : j + 1]) for j, draw in zip(range(n_columns), 2 * list(KINDS.values()), strict=False)]
        return np.hstack(parts)
    return KINDS[kind](rng, eta)


def check_moments(model, X):
    drawn = model.sample(20000, random_state=1)
    ratio = drawn.std(axis=0) / X.std(axis=0)
    assert (np.abs(drawn.mean(axis=0) - X.mean(axis=0)) / X.std(axis=0)).max() <= 0.1
    assert ratio.min() >= 0.8
    assert ratio.max() <= 1.25


# -- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "kind"),
    [*((cls, "mixed") for cls in MODELS), *((cls, "exponential") for cls in (AutoEncoder, SparseAE)), (AutoEncoder, "uniform")],
)
def test_draws_have_the_moments_of_the_columns(cls, kind):
    X = table(kind, 300)
    parameters = {"linear_path": None} if "linear_path" in cls().get_params() else {}
    check_moments(cls(max_epochs="auto" if cls is SparseAE else 60, random_state=0, **parameters).fit(X), X)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("cls", MODELS)
def test_draws_at_the_defaults(cls, kind):
    X = table(kind, 400)
    check_moments(cls(random_state=0).fit(X), X)


@pytest.mark.parametrize("kind", ["exponential", "mixed"])
def test_new_rows_score_higher_than_by_one_gaussian(kind):
    X, new = table(kind, 500), table(kind, 300, seed=1)
    plain, model = (
        AutoEncoder(3, linear_path=None, max_epochs=40, density=density, random_state=0).fit(X)
        for density in (GaussianMixture(1), None)
    )
    assert isinstance(model.density_, MixtureDensity)
    assert np.array_equal(model.transform(new), plain.transform(new))
    assert model.score(new) > plain.score(new) + 0.2


def test_score_and_sample_are_of_one_density():
    X = table("exponential", 400, n_columns=2, n_factors=1, strength=1.0)
    model = AutoEncoder(1, linear_path=None, max_epochs=60, random_state=0).fit(X)
    assert isinstance(model.density_, MixtureDensity)
    drawn = model.sample(20000, random_state=0)
    low, high = drawn.min(axis=0) - 1.0, drawn.max(axis=0) + 1.0
    axes = [np.linspace(*ends, 100) for ends in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    share = np.exp(model.score_samples(grid)) * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    assert share.sum() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(share @ grid / share.sum(), drawn.mean(axis=0), atol=0.05 * drawn.std())
    spread = np.sqrt(share @ (grid - drawn.mean(axis=0)) ** 2 / share.sum())
    np.testing.assert_allclose(spread, drawn.std(axis=0), rtol=0.05)


def test_a_score_does_not_depend_on_its_neighbors():
    X = table("mixed", 300)
    model = AutoEncoder(3, linear_path=None, max_epochs=20, random_state=0).fit(X)
    assert isinstance(model.density_, MixtureDensity)
    scores = model.score_samples(X)
    assert np.array_equal(model.score_samples(X[5:6]), scores[5:6])
    assert np.array_equal(model.score_samples(X[::-1]), scores[::-1])


def test_streams_have_one_gaussian():
    X = table("mixed", 300)
    model = AutoEncoder(3, random_state=0).partial_fit(X).partial_fit(X)
    assert isinstance(model.density_, GaussianDensity)
    np.testing.assert_array_equal(model.density_.mean_, model.module_.prior.exact_moments[0])


def test_new_rows_do_not_widen_the_noise_beyond_the_columns():
    X = table("mixed", 300)
    new_energy = np.full(X.shape[1], 1e3)
    totals, alone = [], []
    for model in (
        AutoEncoder(3, linear_path=None, max_epochs=20, random_state=0),
        VAETransformer(3, max_epochs=20, random_state=0),
    ):
        module = copy.deepcopy(model.fit(X).module_)
        before = module.likelihood.noise_scale()
        inference.widen_noise(module, Table.of(X), torch.device("cpu"), new_energy)
        after = module.likelihood.noise_scale()
        assert (after >= before * (1.0 - 1e-6)).all()
        totals.append(np.hypot(model.reconstruct(X).std(axis=0), after) / X.std(axis=0))
        alone.append(np.hypot(model.reconstruct(X).std(axis=0), before) / X.std(axis=0))
    assert (totals[0] <= np.maximum(1.1, alone[0]) + 0.01).all()
    assert (totals[0] > 1.0).all()
    assert (totals[1] > 5.0).all()  # a variational autoencoder's is what held-out rows say


# -- the choice -------------------------------------------------------------------------------------------------------


def skewed(n_rows=600, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.exponential(size=n_rows), rng.normal(size=n_rows)]) @ np.array([[1.0, 0.5], [0.0, 1.0]])


def choose(codes, weight=None, decode=lambda codes: codes):
    return choose_density(codes, weight, code_moments(codes, weight), decode, np.ones(decode(codes[:2]).shape[1]))


def test_gaussian_codes_keep_one_gaussian():
    codes = np.random.default_rng(0).normal(size=(600, 2))
    density = choose(codes)
    assert isinstance(density, GaussianDensity)
    assert np.array_equal(density.covariance_, code_moments(codes, None)[1])


def test_few_codes_and_wide_codes_keep_one_gaussian():
    assert isinstance(choose(skewed(20)), GaussianDensity)
    wide = np.exp(np.random.default_rng(0).normal(size=(300, 40)))
    assert isinstance(choose(wide), GaussianDensity)


def test_a_mixture_has_the_moments_of_the_codes():
    codes = skewed()
    density = choose(codes)
    assert isinstance(density, MixtureDensity)
    mean, covariance = code_moments(codes, None)
    np.testing.assert_allclose(density.mean_, mean, atol=1e-10)
    np.testing.assert_allclose(density.covariance_, covariance, rtol=1e-8, atol=1e-10)
    assert (
        density.score_samples(skewed(seed=1)).mean()
        > GaussianDensity.of(mean, covariance).score_samples(skewed(seed=1)).mean() + 0.1
    )


def test_draws_are_decoded_for_the_choice():
    """Codes may look Gaussian enough where the decoder makes much of what they are not."""
    rng = np.random.default_rng(0)
    codes = rng.uniform(-1.7, 1.7, size=(60, 1))

    def decode(codes):
        return np.exp(2.0 * np.maximum(codes - 1.5, 0.0) * 3.0)

    spread = decode(codes).std(axis=0)
    chosen = choose_density(codes, None, code_moments(codes, None), decode, spread)
    assert isinstance(chosen, MixtureDensity)
    assert isinstance(choose(rng.normal(size=(60, 1))), GaussianDensity)


def parts_of(density):
    return [density.weights_, density.means_, density.covariances_]


def test_neither_order_nor_the_way_of_weighting_matters():
    codes, weight = skewed(), np.random.default_rng(1).integers(1, 4, size=600)
    order = np.random.default_rng(2).permutation(600)
    densities = [
        choose(codes, weight.astype(float)),
        choose(codes[order], 0.5 * weight[order]),
        choose(np.repeat(codes, weight, axis=0)),
    ]
    for density in densities[1:]:
        for one, other in zip(parts_of(densities[0]), parts_of(density), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_a_mixture_is_that_of_scipy():
    density = choose(skewed())
    points = skewed(50, seed=3)
    each = [
        np.log(weight) + stats.multivariate_normal(mean, covariance).logpdf(points)
        for weight, mean, covariance in zip(*parts_of(density), strict=True)
    ]
    np.testing.assert_allclose(density.score_samples(points), logsumexp(each, axis=0), rtol=1e-10)
    np.testing.assert_allclose(density.log_joint(points), np.transpose(each), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("numbers", [1, 100, 10**7])
def test_distances_by_products_are_those_one_by_one(numbers, monkeypatch):
    """Also far from zero, and of components much narrower than they are apart."""
    monkeypatch.setattr(_mixture, "_ALONE", numbers)
    density = choose(skewed())
    density = MixtureDensity.of(density.weights_, 1e4 + 100.0 * density.means_, 1e-4 * density.covariances_)
    points = density.sample(50, random_state=0)
    np.testing.assert_allclose(density.log_joint(points), density.log_joint(points, alone=True), rtol=1e-6)


def test_draws_of_a_mixture():
    density = choose(skewed())
    drawn = density.sample(50000, random_state=0)
    np.testing.assert_allclose(drawn.mean(axis=0), density.mean_, atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), density.covariance_, atol=0.06)
    np.testing.assert_array_equal(density.sample(5, random_state=1), density.sample(5, random_state=1))
    even = density.even_draws(1000, 0)
    np.testing.assert_allclose(even.mean(axis=0), density.mean_, atol=1e-10)
    np.testing.assert_allclose(np.cov(even.T, ddof=0), density.covariance_, rtol=1e-6)
    assert stats.ks_2samp(even[:, 0], drawn[:, 0]).statistic < 0.03


def test_threads_and_pickles(tmp_path):
    X = load_iris().data
    model = AutoEncoder(2, linear_path=None, max_epochs=20, random_state=0).fit(X)
    assert isinstance(model.density_, MixtureDensity)
    again = copy.deepcopy(model)
    np.testing.assert_array_equal(again.sample(5, random_state=0), model.sample(5, random_state=0))
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


# -- activities -------------------------------------------------------------------------------------------------------


def test_units_are_drawn_as_correlated_as_they_are():
    rng = np.random.default_rng(0)
    shared = rng.gamma(2.0, size=(1000, 1))
    codes = np.where(rng.random((1000, 1)) < 0.5, shared * [1.0, 2.0, 0.0], 0.0) + np.array([0.0, 0.0, 1.0]) * rng.random(
        (1000, 1)
    )
    density = ActivityDensity(codes, None, None, 0)
    drawn = density.sample(20000, 0)
    np.testing.assert_allclose(drawn.mean(axis=0), codes.mean(axis=0), rtol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), codes.std(axis=0), rtol=0.1)
    on = drawn[drawn[:, 0] > 0.0]
    assert np.corrcoef(on[:, :2].T)[0, 1] > 0.8


def test_every_row_is_remembered_once_where_there_is_room():
    codes = np.arange(50.0)[:, np.newaxis] + 1.0
    density = ActivityDensity(codes, None, None, 0)
    np.testing.assert_allclose(density._codes, codes, rtol=1e-3)
    weight = np.where(np.arange(50) < 25, 3.0, 1.0)
    density = ActivityDensity(codes, weight / weight.mean(), None, 0)
    assert (density._codes <= 25.1).sum() in (37, 38)


# -- what need not be looked at ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bend", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("slack", [0.02, 1.0, 50.0])  # of errors: few candidates are good, some, all
def test_the_choice_is_that_of_all_candidates(bend, slack, monkeypatch):
    monkeypatch.setattr(_mixture, "_MEAN_ERROR", 0.05 * slack)
    monkeypatch.setattr(_mixture, "_STD_ERROR", 0.1 * slack)
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(600, 2)) + np.where(rng.uniform(size=(600, 1)) < 0.3, 3.0, 0.0)
    n_decoded = []

    def decode(drawn):
        n_decoded.append(len(drawn))
        return np.column_stack([drawn, np.exp(bend * drawn[:, :1] / 2.0)])

    spread, share, moments = decode(codes).std(axis=0), np.full(600, 1.0 / 600), code_moments(codes, None)
    ordered = np.unique(codes, axis=0)
    look = _mixture._Decoded(ordered, share, decode, spread)
    candidates, values, errors = [], [], []
    for density, value in _mixture._grow(ordered, share, moments):
        candidates.append(density)
        values.append(value - 0.5 * np.log(600) * density.n_parameters / 600)
        errors.append(look.error_of(density))
        if len(values) > 1 and min(errors) <= 1.0 and values[-1] <= max(values[:-1]):
            break
    best = max((i for i, error in enumerate(errors) if error <= max(1.0, 1.2 * min(errors))), key=lambda i: values[i])
    n_decoded.clear()
    chosen = choose_density(codes, None, moments, decode, spread)
    assert len(n_decoded) <= 1 + len(candidates)
    if best:
        np.testing.assert_array_equal(chosen.means_, candidates[best].means_)
    else:
        assert isinstance(chosen, GaussianDensity)
    if slack == 50.0 and len(candidates) > 2:
        assert len(n_decoded) == 2


def test_codes_of_many_rows_are_those_of_some(monkeypatch):
    monkeypatch.setattr(autoencoder, "DENSITY_CODES", 300)
    X, weight = table("mixed", 900), np.random.default_rng(0).uniform(0.5, 2.0, size=900)
    n_encoded, training_codes = [], inference.training_codes

    def counted(module, given, device):
        n_encoded.append(given.n_rows)
        return training_codes(module, given, device)

    monkeypatch.setattr(inference, "training_codes", counted)
    model = AutoEncoder(2, max_epochs=2, linear_path=None, random_state=0).fit(X, sample_weight=weight)
    mean, covariance = code_moments(model.transform(X[::3]).astype(np.float64), weight[::3])
    np.testing.assert_allclose(model.density_.mean_, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.density_.covariance_, covariance, rtol=1e-3, atol=1e-5)
    model.set_params(density=GaussianMixture(2)).fit(X)  # which gets all of them
    assert n_encoded == [300, 900]


def test_all_rows_are_decoded_for_the_noise_where_columns_have_next_to_no_entry_in_some(monkeypatch):
    monkeypatch.setattr(noise_fit, "_EM_ROWS", 100)
    in_parts, calls = NoiseFit._mean_energy, []

    def counted(self, batch):
        calls.append(len(batch.x))
        return in_parts(self, batch)

    monkeypatch.setattr(NoiseFit, "_mean_energy", counted)
    X = np.random.default_rng(0).normal(size=(1000, 6))
    model = AutoEncoder(2, max_epochs=2, linear_path=None, random_state=0)
    model.fit(X)
    assert calls == []
    X[:, 0] = 0.0
    X[1::97, 0] = 1.0
    X[::10, 0] = 0.0
    model.fit(X)
    assert calls == [1000]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_noise_of_many_rows_is_about_that_of_all(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    noise = np.geomspace(0.2, 1.0, 40)
    X = np.tanh(rng.normal(size=(6000, 2))) @ rng.normal(size=(2, 40)) + noise * rng.normal(size=(6000, 40))

    def moment(em_rows, narrow=16):
        monkeypatch.setattr(noise_fit, "_EM_ROWS", em_rows)
        monkeypatch.setattr(noise_fit, "_NARROW", narrow)
        model = AutoEncoder(2, hidden_layer_sizes=(16,), max_epochs=5, linear_path=None, random_state=0).fit(X)
        return model.module_.likelihood.noise.moment.double().log().numpy()

    of_all = moment(6000, narrow=np.inf)
    assert 0.0 < np.sqrt(np.mean((moment(4096) - of_all) ** 2)) < 0.04
    # Where posteriors are narrow, a few of the rows tell more beside the residuals of others than by themselves.
    with_others, alone = (np.sqrt(np.mean((moment(700, narrow) - of_all) ** 2)) for narrow in (16, np.inf))
    assert with_others < 0.85 * alone
