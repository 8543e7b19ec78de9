"""Mixtures, posteriors of learned rows and flows as `prior=`: what has a prior follows them, and they go through a fit."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_wine
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.preprocessing import scale

from skvae import (
    CVAE,
    AutoEncoder,
    AutoencoderImputer,
    EarlyStopping,
    FlowPrior,
    LinearPath,
    MixturePrior,
    VAETransformer,
    VampPrior,
    train_together,
)
from skvae.modules import MLP, Conv

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The code of .* has collapsed"),  # of short fits
]

PRIORS = {
    "mixture": MixturePrior(3),
    "vamp": VampPrior(6),
    "flow": FlowPrior(n_layers=2, hidden_layer_sizes=(8,)),
    "mixture under a flow": FlowPrior(MixturePrior(3), n_layers=2, hidden_layer_sizes=(8,)),
}
SMALL = {"hidden_layer_sizes": (8,), "linear_path": None, "batch_size": 40, "max_epochs": 12, "random_state": 0}
FITTED = {"linear_path": LinearPath(1.0), "batch_size": 40, "max_epochs": 40, "random_state": 0}


@pytest.fixture(params=PRIORS.values(), ids=PRIORS)
def prior(request):
    return request.param


@pytest.fixture(scope="module")
def group():
    return np.random.default_rng(0).integers(0, 3, size=240)


@pytest.fixture(scope="module")
def X(group):
    """Three groups of rows, which lie far apart along a line."""
    center = np.array([-6.0, 0.0, 6.0])[group]
    return center[:, None] * [1.0, 1.0, -1.0, 0.5] + np.random.default_rng(1).normal(size=(240, 4))


@pytest.fixture(scope="module", params=PRIORS.values(), ids=PRIORS)
def vae(request, X):
    return VAETransformer(1, prior=request.param, **FITTED).fit(X)


def log_prior_on(vae, z):
    with torch.no_grad():
        return vae.module_.prior.log_prob(torch.from_numpy(z).float()).double().numpy()


# -- what follows the prior -------------------------------------------------------------------------------------------


def test_the_score_is_the_integral_over_codes(vae, X):
    z = np.linspace(-12.0, 12.0, 6001)[:, None]
    mean, std = vae.inverse_transform(z).astype(float), vae.noise_scale_
    density = log_prior_on(vae, z)
    assert np.exp(density).sum() * 0.004 == pytest.approx(1.0, abs=1e-3)
    exact = [
        np.logaddexp.reduce(
            density - 0.5 * (((x - mean) / std) ** 2).sum(1) - np.log(std * np.sqrt(2.0 * np.pi)).sum() + np.log(0.004)
        )
        for x in X[:20]
    ]
    found = clone(vae).set_params(n_score_draws=2000)
    vars(found).update({**vars(vae), "n_score_draws": 2000})
    np.testing.assert_allclose(found.score_samples(X[:20]), exact, atol=0.05)


def test_samples_are_drawn_from_the_prior(vae, X):
    codes = vae.transform(vae.sample(3000, random_state=0, mean=True))[:, 0]
    grid = np.linspace(-8.0, 8.0, 161)
    z = 0.5 * (grid[1:] + grid[:-1])[:, None]
    cumulative = np.cumsum(np.exp(log_prior_on(vae, z)) * 0.1)
    # Codes of decoded codes are about what they were.
    below = (codes[:, None] <= grid[1:]).mean(0)
    assert np.abs(below - cumulative).max() < 0.15
    drawn = vae.sample(3000, random_state=0)
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.5)
    np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.3)


def test_walks_go_by_the_moments_of_the_prior(prior, X):
    model = VAETransformer(2, prior=prior, **SMALL).fit(X)
    with torch.no_grad():
        mean, log_var = (part[0].double().numpy() for part in model.module_.prior.moments(1))
    corner = mean + 2.0 * np.exp(0.5 * log_var)
    np.testing.assert_allclose(model.latent_grid((0, 1), 3)[2, 2], model.inverse_transform([corner])[0], rtol=1e-4, atol=1e-5)
    ends = model.interpolate(X[:1], X[1:2], n_steps=3)
    assert np.isfinite(ends).all()


def test_codes_are_likelier_under_the_prior_than_under_the_standard_one(X, prior):
    """Held to one component, codes of three groups are not normal."""
    found, standard = (VAETransformer(1, prior=each, **FITTED).fit(X).score(X) for each in (prior, "standard"))
    assert found > standard + (0.1 if getattr(prior, "base", "mixture") != "standard" else -0.05)


def test_what_is_missing_is_drawn_by_the_prior(X, group, prior):
    gaps = X.copy()
    gaps[::2, 1:] = np.nan
    base = VAETransformer(1, prior=prior, linear_path=None, batch_size=40, max_epochs=40)
    filled = AutoencoderImputer(base, locality=0.0, random_state=0).fit(X).transform(gaps)
    assert np.sqrt(np.mean((filled[::2, 1] - X[::2, 1]) ** 2)) < 0.6 * X[:, 1].std()
    cvae = CVAE(1, prior=prior, **FITTED).fit(X, np.zeros(len(X)))
    filled = cvae.inpaint(np.nan_to_num(gaps[:30]), np.isnan(gaps[:30]), np.zeros(30))
    assert np.sqrt(np.mean((filled[::2, 1] - X[:30:2, 1]) ** 2)) < 0.7 * X[:, 1].std()
    nothing = cvae.draw_inpaintings(X[:1], np.ones((1, 4), dtype=bool), [0], n_draws=300)[0]
    np.testing.assert_allclose(nothing.std(0), cvae.sample(3000, y=0, random_state=0).std(0), rtol=0.3)


def test_rows_without_entries_have_the_moments_of_the_prior(X, prior):
    gaps = X.copy()
    gaps[0] = np.nan
    gaps[1:9, 0] = np.nan
    model = VAETransformer(2, prior=prior, missing_values=np.nan, **SMALL).fit(gaps)
    mean, std = model.posterior(gaps[:1])
    with torch.no_grad():
        expected = model.module_.prior.moments(1)
    np.testing.assert_allclose(mean[0], expected.mean[0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std[0], np.exp(0.5 * expected.log_var[0].numpy()), rtol=1e-5)
    assert np.isfinite(model.score_samples(gaps)).all()
    assert model.score_samples(gaps)[0] == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("encode_condition", [False, True])
def test_conditional_models_take_them(X, group, prior, encode_condition):
    model = CVAE(2, prior=prior, encode_condition=encode_condition, **SMALL).fit(X, group)
    assert model.sample(5, y=1).shape == (5, 4)
    assert np.isfinite(model.score(X, group))
    assert np.isfinite(model.score_samples(X, group)).all()


def test_a_flow_over_the_conditional_prior_reads_conditions(X, group):
    model = CVAE(2, prior=FlowPrior("conditional", n_layers=2, hidden_layer_sizes=(8,)), **SMALL).fit(X, group)
    with torch.no_grad():
        z, condition = torch.zeros(3, 2), torch.eye(3)
        assert len(set(model.module_.prior.log_prob(z, condition).tolist())) == 3
    with pytest.raises(ValueError, match="needs conditions, of which VAETransformer has none: use CVAE"):
        VAETransformer(prior=FlowPrior("conditional")).fit(X)


# -- how it is trained ------------------------------------------------------------------------------------------------


def test_the_prior_is_trained_with_the_networks(X, prior):
    state = {}
    for name, params in (("before", {"learning_rate": 1e-12}), ("after", {})):
        model = VAETransformer(2, prior=prior, **{**SMALL, **params}).fit(X)
        state[name] = dict(model.module_.prior.named_parameters())
    assert all((state["before"][name] - value).abs().max() > 1e-4 for name, value in state["after"].items())


def test_beta_capacity_and_draws_count(X, prior):
    params = {**SMALL, "linear_path": LinearPath(1.0), "n_draws": 2, "max_epochs": 40, "learning_rate": 2e-2}
    free, strong, held = (
        VAETransformer(2, prior=prior, **given, **params).fit(X).history_
        for given in ({}, {"beta": 30.0}, {"beta": 30.0, "capacity": 0.8})
    )
    assert strong["kl"][-1] / 30.0 < 0.5 < 1.0 < free["kl"][-1]
    assert held["kl"][-1] / 30.0 < 0.4  # nats from the capacity


def test_partial_fit_places_the_prior_and_goes_on(X, prior):
    model = VAETransformer(2, prior=prior, **{**SMALL, "max_epochs": 4})
    for _ in range(4):
        model.partial_fit(X)
    assert model.module_.prior.learns_from_rows is (getattr(prior, "base", "mixture") != "standard")
    if model.module_.prior.learns_from_rows:
        assert model.module_.prior.n_looks > 1
    again = pickle.loads(pickle.dumps(model)).partial_fit(X)
    np.testing.assert_array_equal(again.score_samples(X), model.partial_fit(X).score_samples(X))
    assert np.isfinite(again.score(X))


def test_a_warm_start_keeps_where_the_prior_is(X):
    model = VAETransformer(2, prior=MixturePrior(3), warm_start=True, **SMALL).fit(X)
    before = model.module_.prior.mean.detach().clone()
    model.set_params(max_epochs=2, learning_rate=1e-9).fit(X)
    torch.testing.assert_close(model.module_.prior.mean, before, atol=1e-5, rtol=0.0)
    assert model.module_.prior.n_looks > 1  # idle parts are looked after all the same


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
@pytest.mark.parametrize("linear_path", [None, LinearPath(1.0)])
def test_the_shortest_of_runs_places_a_mixture(X, max_epochs, linear_path):
    params = {**SMALL, "max_epochs": max_epochs, "linear_path": linear_path}
    model = VAETransformer(2, prior=MixturePrior(3), **params).fit(X)
    assert model.module_.prior.n_looks >= 1
    assert torch.pdist(model.module_.prior.mean).min() > 0.01


def test_weights_count_in_where_a_mixture_is_placed(X, group):
    weight = np.where(group == 0, 3.0, 1.0)
    params = {**SMALL, "max_epochs": 1, "learning_rate": 1e-12, "linear_path": LinearPath(1.0)}
    weighted = VAETransformer(2, prior=MixturePrior(3), **params).fit(X, sample_weight=weight)
    repeated = VAETransformer(2, prior=MixturePrior(3), **params).fit(np.repeat(X, weight.astype(int), axis=0))
    for one, other in zip(*(model.module_.prior.components() for model in (weighted, repeated)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)
    with_more = np.concatenate([X, 100.0 + X[:9]]), np.concatenate([weight, np.zeros(9)])
    same = VAETransformer(2, prior=MixturePrior(3), **params).fit(with_more[0], sample_weight=with_more[1])
    assert torch.equal(same.module_.prior.mean, weighted.module_.prior.mean)


def test_early_stopping_waits_for_the_prior(X):
    stopping = EarlyStopping(0.3, n_iter_no_change=1, tol=100.0)  # nothing counts as an improvement
    model = VAETransformer(2, prior="mixture", early_stopping=stopping, **{**SMALL, "kl_warmup": 0.0, "max_epochs": 40}).fit(X)
    assert 9 <= model.n_iter_ <= 12
    assert VAETransformer(2, early_stopping=stopping, **{**SMALL, "kl_warmup": 0.0}).fit(X).n_iter_ <= 3


def test_parts_that_no_row_comes_from_are_told_of(X, monkeypatch):
    params = {**SMALL, "learning_rate": 1e-3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAETransformer(2, prior=MixturePrior(3), **{**params, "max_epochs": 60}).fit(X)
    spoil = "skvae.modules.priors.mixture.Mixture.revive"
    monkeypatch.setattr(spoil, lambda self, rows, cluster: self.logit.data[1:].fill_(-1e4))
    with pytest.warns(UserWarning, match=r"comes from 2 of the .* VAETransformer mixes: lower prior__n_components \(prior=Mix"):
        VAETransformer(2, prior=MixturePrior(3), **params).fit(X)
    with pytest.warns(UserWarning, match=r"comes from 9 of the .* CVAE mixes: lower prior__base__n_components \(prior=Flow"):
        CVAE(2, prior=FlowPrior("mixture"), **params).fit(X, np.zeros(len(X)))


def test_idle_parts_are_revived_in_training(X, monkeypatch):
    begin = MixturePrior(3).build(2).begin.__func__

    def far_off(self, rows, cluster):
        begin(self, rows, cluster)
        self.mean.data[0] += 50.0

    monkeypatch.setattr("skvae.modules.priors.mixture.NormalMixture.begin", far_off)
    model = VAETransformer(2, prior=MixturePrior(3), **SMALL).fit(X)
    assert model.module_.prior.mean.abs().max() < 10.0


# -- sets of parameters -----------------------------------------------------------------------------------------------


def test_state_goes_round(vae, X):
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.score_samples(X), vae.score_samples(X))
    np.testing.assert_array_equal(again.sample(5, random_state=1), vae.sample(5, random_state=1))
    np.testing.assert_array_equal(clone(vae).fit(X).transform(X), vae.transform(X))


def test_parameters_are_searched(X):
    grid = {"prior__base__n_components": [2, 4], "prior__n_layers": [2]}
    search = GridSearchCV(VAETransformer(2, prior=FlowPrior("mixture"), **SMALL), grid, cv=2).fit(X)
    assert search.best_params_["prior__base__n_components"] in (2, 4)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    model = VAETransformer(prior="vamp").set_params(prior__n_pseudo_inputs=0)
    with pytest.raises(ValueError, match=r"prior=VampPrior\(n_pseudo_inputs=0\): n_pseudo_inputs=0 must be an integer"):
        model.fit(X)


def test_fits_together_come_out_as_they_do_alone(prior):
    X = scale(load_wine().data)[::2]
    model = VAETransformer(2, prior=prior, **SMALL)
    alone = cross_validate(model, X, cv=3, return_estimator=True)
    with train_together():
        found = cross_validate(model, X, cv=3, return_estimator=True)
    np.testing.assert_allclose(found["test_score"], alone["test_score"], rtol=1e-3)
    for one, other in zip(found["estimator"], alone["estimator"], strict=True):
        for name, value in other.module_.prior.state_dict().items():
            torch.testing.assert_close(one.module_.prior.state_dict()[name], value, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "encoder",
    [Conv(channels=(4,)), MLP(normalization="batch", dropout=0.1), MLP(activation="tanh")],
    ids=["conv", "batch", "mlp"],
)
def test_any_encoder_will_do(prior, encoder):
    X = load_digits().data[:60] / 16.0
    model = VAETransformer(3, prior=prior, encoder=encoder, image_shape=(1, 8, 8), likelihood="bernoulli", **SMALL).fit(X)
    assert np.isfinite(model.score(X))
    assert model.sample(3).shape == (3, 64)


# -- clusters ---------------------------------------------------------------------------------------------------------


def test_components_are_clusters(X, group):
    model = VAETransformer(2, prior=MixturePrior(3), linear_path=LinearPath(1.0), max_epochs=30, random_state=0).fit(X)
    codes = torch.from_numpy(model.transform(X)).float()
    assert adjusted_rand_score(group, model.module_.prior.responsibilities(codes).argmax(1).numpy()) > 0.95


@pytest.mark.slow
def test_components_find_digits_better_than_k_means_on_the_codes_of_an_autoencoder():
    X, y = load_digits(return_X_y=True)
    gains = []
    for seed in range(3):
        network = {"n_components": 8, "random_state": seed}
        codes = AutoEncoder(**network).fit_transform(X)
        plain = adjusted_rand_score(y, KMeans(10, n_init=10, random_state=seed).fit_predict(codes))
        vae = VAETransformer(prior=MixturePrior(10), **network).fit(X)
        found = vae.module_.prior.responsibilities(torch.from_numpy(vae.transform(X)).float()).argmax(1).numpy()
        gains.append(adjusted_rand_score(y, found) - plain)
    assert np.mean(gains) > 0.0
