import warnings
from itertools import islice

import numpy as np
import pytest
import torch
from conftest import slow
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.model_selection import GridSearchCV, KFold
from test_autoencoder import factor_model

from skvae import AutoEncoder, Gaussian, LinearPath, VAETransformer
from skvae.data.columns import ColumnStatistics
from skvae.modules import Batch


def test_kl_is_not_zero_at_the_defaults():
    model = VAETransformer(random_state=0).fit(load_wine().data)
    assert model.history_["kl"][-1] > 1
    assert model.kl_per_component_.sum() == pytest.approx(model.history_["kl"][-1], rel=0.2)
    assert model.n_active_units_ == model.n_components_ == 4


@pytest.mark.parametrize("seed", [0, *slow(1)])
def test_score_is_close_to_a_known_likelihood_and_below_it(seed):
    train, test, truth = factor_model(seed)
    model = VAETransformer(2, random_state=seed).fit(train)
    exact = truth.logpdf(test).mean()
    gaps = [model.set_params(n_score_draws=n).score(test) - exact for n in (1, 8, 64)]
    assert -0.1 < gaps[-1] < 0.02
    assert gaps[0] < gaps[1] < gaps[2] + 0.002


@pytest.mark.slow
def test_a_search_does_not_prefer_large_codes():
    train, _, _ = factor_model(0)
    search = GridSearchCV(VAETransformer(random_state=0), {"n_components": [1, 2, 4, 8, 11]}, cv=3).fit(train)
    scores = dict(zip([1, 2, 4, 8, 11], search.cv_results_["mean_test_score"], strict=True))
    assert scores[1] < scores[2] - 1
    assert max(scores[8], scores[11]) < scores[2] + 0.05


@pytest.mark.parametrize(
    "load",
    [load_wine, *slow(load_breast_cancer, load_diabetes, load_digits)],
)
@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer])
def test_defaults_on_raw_tables(load, cls):
    X = load().data
    ours, baseline = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for train, test in islice(KFold(5, shuffle=True, random_state=0).split(X), 2):
            model = cls(random_state=0).fit(X[train])
            columns = ColumnStatistics.of(X[train])
            std = np.maximum(X[train].std(axis=0), columns.floor)
            log_prob = -0.5 * ((X[test] - columns.shift) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
            ours.append(model.score(X[test]))
            baseline.append(log_prob.sum(axis=1).mean())
            if cls is VAETransformer:
                assert model.n_active_units_ >= 2
    assert np.mean(ours) > np.mean(baseline)


@pytest.mark.parametrize("seed", [0, 1, *slow(2, 3, 4)])
def test_noise_is_no_reason_to_warn(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAETransformer(random_state=seed).fit(np.random.default_rng(seed).normal(size=(100, 10)))


def test_a_collapsed_code_warns_and_says_what_to_change():
    X = load_wine().data
    with pytest.warns(UserWarning, match=r"collapsed.*Lower beta \(now 1000\)") as record:
        model = VAETransformer(beta=1000.0, random_state=0).fit(X)
    assert model.n_active_units_ == 0
    assert record[0].filename == __file__


def test_beta_trades_kl_for_reconstruction():
    X = load_wine().data
    models = [VAETransformer(4, beta=beta, linear_path=LinearPath(1.0), random_state=0).fit(X) for beta in (0.1, 1.0, 5.0)]
    kls = [model.kl_per_component_.sum() for model in models]
    assert kls[0] > kls[1] > kls[2]


def test_without_kl_it_reconstructs_like_an_autoencoder():
    X = load_wine().data
    X = (X - X.mean(0)) / X.std(0)
    params = {"linear_path": LinearPath(1.0), "random_state": 0}  # held-out rows would choose another decay for each
    error = {
        name: np.mean((model.fit(X).reconstruct(X) - X) ** 2)
        for name, model in {
            "ae": AutoEncoder(3, **params),
            "beta 0": VAETransformer(3, beta=0.0, likelihood=Gaussian("shared"), **params),
            "beta 1": VAETransformer(3, likelihood=Gaussian("shared"), **params),
        }.items()
    }
    assert error["beta 0"] == pytest.approx(error["ae"], rel=0.15)
    assert error["beta 1"] > error["ae"] * 1.1


@pytest.mark.parametrize("capacity", [1.0, *slow(4.0)])
def test_capacity_holds_the_kl(capacity):
    X, path = load_breast_cancer().data, LinearPath(1.0)
    model = VAETransformer(4, beta=50.0, capacity=capacity, linear_path=path, random_state=0).fit(X)
    assert model.kl_per_component_.sum() == pytest.approx(capacity, rel=0.15)


def test_capacity_and_warmup_schedules():
    module = VAETransformer(2, beta=3.0, capacity=8.0, kl_warmup=0.2, max_epochs=1).fit(load_wine().data).module_
    assert module.schedule(0.0) == {"beta": 0.0, "capacity": 0.0}
    assert module.schedule(0.1) == pytest.approx({"beta": 1.5, "capacity": 4.0})
    assert module.schedule(1.0) == {"beta": 3.0, "capacity": 8.0}


@pytest.mark.parametrize("params", [{"beta": 2.0}, {"kl_warmup": 0.9}, {"capacity": 1.0}, {"n_draws": 4}])
def test_every_parameter_changes_the_result(X, params):
    # Beside linear maps, the KL begins above the capacity, where its gradient does not depend on it.
    base = {"n_components": 2, "linear_path": None, "max_epochs": 5, "random_state": 0}
    assert not np.array_equal(VAETransformer(**base, **params).fit(X).transform(X), VAETransformer(**base).fit(X).transform(X))


def test_the_capacity_of_the_schedule_is_in_the_loss(X):
    """With the schedule test above: the KL is held at what the capacity has grown to."""
    model = VAETransformer(2, max_epochs=20, beta=3.0, capacity=8.0, kl_warmup=0.2, random_state=0).fit(X)
    module, kl = model.module_, model.kl_per_component_.sum()
    x = module.likelihood.standardize(X)
    noise = {name: torch.zeros(len(x), *shape) for name, shape in module.noise_shapes.items()}
    with torch.no_grad():
        for capacity in (0.0, 1.5, 8.0):
            terms = module.loss(Batch.of(x, noise=noise), {"beta": 3.0, "capacity": capacity}).terms
            assert float(terms["kl"]) == pytest.approx(3.0 * abs(kl - capacity), rel=1e-3)


@pytest.mark.parametrize(
    ("params", "name"),
    [({"beta": -1.0}, "beta"), ({"kl_warmup": 1.5}, "kl_warmup"), ({"capacity": -1}, "capacity"), ({"n_draws": 0}, "n_draws")],
)
def test_wrong_parameters(X, params, name):
    with pytest.raises(ValueError, match=name):
        VAETransformer(**params).fit(X)


def test_posterior(X):
    model = VAETransformer(2, max_epochs=20, random_state=0).fit(X)
    mean, std = model.posterior(X)
    np.testing.assert_array_equal(mean, model.transform(X))
    assert mean.shape == std.shape == (80, 2)
    assert (std > 0).all()
    # The aggregated posterior matches the prior in its first two moments, roughly.
    np.testing.assert_allclose((mean**2 + std**2).mean(0), 1, atol=0.6)


def test_interpolation(X):
    model = VAETransformer(3, max_epochs=20, random_state=0).fit(X)
    for method in ("linear", "spherical"):
        walks = model.interpolate(X[:4], X[4:8], 5, method=method)
        assert walks.shape == (4, 5, 5)
        np.testing.assert_allclose(walks[:, 0], model.reconstruct(X[:4]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(walks[:, -1], model.reconstruct(X[4:8]), rtol=1e-4, atol=1e-4)
    codes = model.transform(X)
    middle = model.inverse_transform((codes[:4] + codes[4:8]) / 2)
    np.testing.assert_allclose(model.interpolate(X[:4], X[4:8], 3)[:, 1], middle, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        model.interpolate(X[:1], X[:1], 3, method="spherical")[0], np.repeat(model.reconstruct(X[:1]), 3, axis=0), rtol=1e-4
    )
    with pytest.raises(ValueError, match="method='cubic'"):
        model.interpolate(X[:1], X[:1], method="cubic")
    with pytest.raises(ValueError, match="in pairs"):
        model.interpolate(X[:1], X[:2])
    with pytest.raises(ValueError, match="n_steps=1"):
        model.interpolate(X[:1], X[:1], 1)


def test_spherical_paths_keep_their_length():
    from skvae.estimators._latent import _spherical

    start, end = np.array([[[2.0, 0.0]]]), np.array([[[0.0, 2.0]]])
    path = _spherical(start, end, np.linspace(0, 1, 7)[:, np.newaxis])
    np.testing.assert_allclose(np.linalg.norm(path, axis=-1), 2.0)


def test_attribute_vectors_and_walks(X):
    model = VAETransformer(2, max_epochs=30, random_state=0).fit(X)
    high, low = X[X[:, 0] > X[:, 0].mean()], X[X[:, 0] <= X[:, 0].mean()]
    direction = model.attribute_vector(high, low)
    np.testing.assert_allclose(direction, model.transform(high).mean(0) - model.transform(low).mean(0), rtol=1e-6)
    walk = model.walk(X[:6], direction, [-1, 0, 1])
    assert walk.shape == (6, 3, 5)
    np.testing.assert_allclose(walk[:, 1], model.reconstruct(X[:6]), rtol=1e-4, atol=1e-4)
    assert (walk[:, 2, 0] > walk[:, 0, 0]).all()
    with pytest.raises(ValueError, match=r"direction has shape \(3,\)"):
        model.walk(X, np.ones(3))


def test_latent_grid(X):
    model = VAETransformer(3, max_epochs=5, random_state=0).fit(X)
    grid = model.latent_grid((2, 0), 4, extent=1.5)
    assert grid.shape == (4, 4, 5)
    np.testing.assert_allclose(grid[0, 3], model.inverse_transform([[1.5, 0.0, -1.5]])[0], rtol=1e-5)
    with pytest.raises(ValueError, match="two different components out of 3"):
        model.latent_grid((0, 3))


def test_a_latent_walk_of_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(load_wine(as_frame=True).data)
    model = VAETransformer(2, max_epochs=2, random_state=0).set_output(transform="pandas").fit(frame)
    assert list(model.transform(frame).columns) == ["vaetransformer0", "vaetransformer1"]
    assert model.interpolate(frame[:2], frame[2:4], 3).shape == (2, 3, 13)


def test_what_components_carry_is_weighted():
    rng = np.random.default_rng(0)
    X = np.r_[rng.normal(size=(60, 4)), 3 * rng.normal(size=(60, 1)) @ np.ones((1, 4)) + 0.1 * rng.normal(size=(60, 4))]
    model = VAETransformer(2, max_epochs=30, random_state=0).fit(X, sample_weight=np.repeat([1e-6, 1.0], 60))
    assert model.kl_per_component_.sum() == pytest.approx(model.history_["kl"][-1], rel=0.05)
