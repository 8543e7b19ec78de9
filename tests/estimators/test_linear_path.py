"""Linear maps beside the networks: what training begins at, what holds the networks back, and that defaults do not lose."""

import pickle

import numpy as np
import pytest
import torch
from conftest import crossed, slow
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from skvae import (
    CVAE,
    MLP,
    VQVAE,
    AutoEncoder,
    ContractiveAE,
    Conv,
    DenoisingAE,
    Gaussian,
    LinearPath,
    Net,
    SparseAE,
    VAETransformer,
)
from skvae.inference import measure
from skvae.modules import Batch
from skvae.modules.networks.layers import Shortcut
from skvae.runtime.threads import one_thread

ALONE = LinearPath(np.inf)
TAKE_IT = [AutoEncoder, DenoisingAE, VAETransformer, CVAE]


@pytest.fixture(scope="module")
def wine():
    return StandardScaler().fit_transform(load_wine().data)


@pytest.fixture(scope="module")
def labels():
    return load_wine().target


def fit(cls, X, y=None, **params):
    given = {"n_components": 3, "random_state": 0, "linear_path": LinearPath(1.0), "max_epochs": 2, **params}
    model = cls(**given)
    return model.fit(X, y) if cls is CVAE else model.fit(X)


def begun(cls, X, y=None, **params):
    """A model that hardly moves from where it begins."""
    return fit(cls, X, y, **{"max_epochs": 1, "learning_rate": 1e-12, **params})


def error(model, X, **given):
    return ((model.reconstruct(X, **given) - X) ** 2).mean()


# -- what training begins at ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [1.0, np.inf])
@pytest.mark.parametrize("decoder", [None, "tied"])
def test_an_autoencoder_begins_at_principal_components(wine, decoder, decay):
    model, pca = begun(AutoEncoder, wine, decoder=decoder, linear_path=LinearPath(decay)), PCA(3).fit(wine)
    np.testing.assert_allclose(model.reconstruct(wine), pca.inverse_transform(pca.transform(wine)), atol=1e-4)
    codes, expected = model.transform(wine), pca.transform(wine)
    scale = np.sqrt((expected**2).mean())  # one unit for all components, so that distances are those of the rows
    np.testing.assert_allclose(np.abs(codes), np.abs(expected) / scale, atol=1e-4)


def test_columns_count_as_the_likelihood_weighs_them():
    X = load_digits().data[:300]
    model = begun(AutoEncoder, X, likelihood=Gaussian("shared"), n_components=5)
    assert error(model, X) == pytest.approx(((PCA(5).fit_transform(X) ** 2).mean(0).sum() - X.var(0).sum()) / -64, rel=1e-4)


@pytest.mark.parametrize("decoder", [None, "tied"])
def test_a_variational_one_begins_at_factor_analysis(wine, decoder):
    model, reference = begun(VAETransformer, wine, decoder=decoder), FactorAnalysis(3, tol=1e-8, max_iter=3000).fit(wine)
    expected = reference.transform(wine) @ reference.components_
    np.testing.assert_allclose(model.reconstruct(wine), expected, atol=0.1)
    mean, std = model.posterior(wine)
    whole = np.linalg.inv(np.eye(3) + (reference.components_ / reference.noise_variance_) @ reference.components_.T)
    np.testing.assert_allclose(np.sort(std[0] ** 2), np.linalg.eigvalsh(whole), rtol=0.15)
    assert mean.shape == std.shape
    assert model.score(wine) == pytest.approx(reference.score(wine), abs=0.15)


def one_factor():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 1)) + 0.02 * rng.normal(size=(200, 4))


@pytest.mark.parametrize(
    "make", [one_factor, lambda: load_iris().data, lambda: load_diabetes().data], ids=["factor", "iris", "diabetes"]
)
def test_tied_maps_bear_noise_that_is_small(make):
    X = make()
    models = [
        fit(VAETransformer, X, decoder=decoder, linear_path=LinearPath(decay), max_epochs=100, n_components=2)
        for decay in (np.inf, 1.0)
        for decoder in (None, "tied")
    ]
    linear, tied_linear, curved, tied = (model.score(X) for model in models)
    assert tied_linear == pytest.approx(linear, abs=0.1)
    assert tied > max(linear, curved - 1.0) - 0.1


def test_shared_noise_begins_at_probabilistic_components(wine):
    model, pca = begun(VAETransformer, wine, likelihood=Gaussian("shared")), PCA(3).fit(wine)
    assert model.score(wine) == pytest.approx(pca.score(wine), abs=0.1)
    kept = 1.0 - pca.noise_variance_ / pca.explained_variance_
    np.testing.assert_allclose(model.reconstruct(wine), pca.inverse_transform(pca.transform(wine) * kept), atol=0.05)


def test_fixed_noise_is_obeyed(wine):
    model, pca = begun(VAETransformer, wine, likelihood=Gaussian(0.5)), PCA(3).fit(wine)
    kept = np.maximum(1.0 - 0.25 / (pca.explained_variance_ * 177 / 178), 0.0)
    np.testing.assert_allclose(model.reconstruct(wine), pca.inverse_transform(pca.transform(wine) * kept), atol=1e-3)


@pytest.mark.parametrize("corruption", ["gaussian", "masking", *slow("salt_and_pepper", "dropout", ["gaussian", "masking"])])
def test_a_denoiser_begins_at_the_best_linear_one(wine, corruption):
    """It denoises better than principal components and, given time, a linear network does not get beyond it."""
    params = {"corruption": corruption, "corruption_rate": 0.3, "corruption_scale": 0.7}
    own = begun(DenoisingAE, wine, linear_path=ALONE, **params)
    pca = begun(AutoEncoder, wine, linear_path=ALONE)
    trained = fit(DenoisingAE, wine, hidden_layer_sizes=(), linear_path=None, max_epochs=1500, **params)

    def loss(model):
        module, generator = own.module_, torch.Generator().manual_seed(0)
        x = torch.from_numpy(np.tile(wine, (20, 1))).float()
        noise = {name: torch.randn(len(x), *shape, generator=generator) for name, shape in module.noise_shapes.items()}
        corrupted = Batch.of(module.corrupt(Batch.of(x, noise=noise)))
        with torch.no_grad():
            return float((model.module_.decode(model.module_.encode(corrupted), corrupted) - x).square().mean())

    assert loss(own) < loss(pca) - 1e-3
    assert loss(own) < loss(trained) * 1.01


@pytest.mark.parametrize("encode_condition", [False, True])
def test_a_conditional_one_begins_at_what_conditions_leave(wine, labels, encode_condition):
    model = begun(CVAE, wine, labels, encode_condition=encode_condition, linear_path=ALONE)
    means = np.array([wine[labels == label].mean(axis=0) for label in range(3)])[labels]
    reference = FactorAnalysis(3, tol=1e-6, max_iter=3000).fit(wine - means)
    # Draws by an encoder that does not know the condition lose more of what there is.
    assert -(0.2 if encode_condition else 0.6) < model.score(wine, labels) - reference.score(wine - means) < 0.1
    plain = begun(VAETransformer, wine, linear_path=ALONE)
    assert model.score(wine, labels) > plain.score(wine) + 1.0


def test_a_conditional_prior_begins_at_the_standard_one(wine, labels):
    model = begun(CVAE, wine, labels, prior="conditional", kl_warmup=0.0)
    with torch.no_grad():
        mean, log_var = model.module_.prior.moments(3, torch.eye(3))
    assert mean.abs().max() < 1e-6
    assert log_var.abs().max() < 1e-6


@pytest.mark.parametrize(("likelihood", "cls"), crossed(["bernoulli", "poisson", "laplace"], [AutoEncoder, VAETransformer]))
def test_it_acts_on_the_scale_of_the_link(cls, likelihood):
    rng = np.random.default_rng(0)
    location = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 10))
    draw = {
        "bernoulli": lambda: rng.random(location.shape) < 1 / (1 + np.exp(-2 * location)),
        "poisson": lambda: rng.poisson(np.exp(0.5 * location + 1.0)),
        "laplace": lambda: location + rng.laplace(0, 0.2, location.shape),
    }
    X = draw[likelihood]().astype(float)
    start = begun(cls, X, n_components=2, likelihood=likelihood)
    none = begun(cls, X, n_components=2, likelihood=likelihood, linear_path=None)
    linear = fit(cls, X, n_components=2, likelihood=likelihood, hidden_layer_sizes=(), linear_path=None, max_epochs=300)
    first, worst, best = (model.history_["loss"][-1] for model in (start, none, linear))
    assert first < worst
    assert first - best < 0.5 * (worst - best)


def test_missing_entries_are_integrated_out(wine):
    gaps, rng = wine.copy(), np.random.default_rng(0)
    gaps[rng.random(wine.shape) < 0.2] = np.nan
    complete = begun(VAETransformer, wine, linear_path=ALONE)
    for cls in (AutoEncoder, VAETransformer, DenoisingAE):
        model = begun(cls, gaps, missing_values=np.nan, linear_path=ALONE)
        filled = begun(cls, np.nan_to_num(gaps), linear_path=ALONE)
        assert error(model, wine) < 1.1 * error(filled, wine)
    model = begun(VAETransformer, gaps, missing_values=np.nan, linear_path=ALONE)
    assert model.score(wine) > complete.score(wine) - 1.5


@pytest.mark.parametrize("cls", [AutoEncoder, *slow(DenoisingAE, VAETransformer), CVAE])
def test_the_start_does_not_depend_on_the_number_of_threads(cls, wine, labels):
    states = []
    for n_threads in (1, 2):
        with ThreadpoolController().limit(limits=n_threads, user_api="openmp"):
            states.append(fit(cls, wine, labels, linear_path="auto", max_epochs=60))
    one, two = states
    assert one.linear_path_ == two.linear_path_
    for name, value in one.module_.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, two.module_.state_dict()[name]), name


def test_weights_are_repetitions_at_the_start(wine):
    counts = np.random.default_rng(0).integers(1, 4, size=len(wine))
    for cls in (AutoEncoder, DenoisingAE, VAETransformer):
        params = {"n_components": 3, "max_epochs": 1, "learning_rate": 1e-12, "random_state": 0, "linear_path": ALONE}
        weighted = cls(**params).fit(wine, sample_weight=counts.astype(float))
        repeated = cls(**params).fit(np.repeat(wine, counts, axis=0))
        np.testing.assert_allclose(weighted.transform(wine), repeated.transform(wine), atol=2e-4)


def test_constant_columns_and_wide_codes():
    X = np.random.default_rng(0).normal(size=(40, 4))
    X[:, 2] = 7.0
    for cls in (AutoEncoder, VAETransformer, DenoisingAE):
        model = fit(cls, X, n_components=6)
        assert np.isfinite(model.score_samples(X)).all()
        np.testing.assert_allclose(model.reconstruct(X)[:, 2], 7.0)
        assert fit(cls, np.full((10, 3), 2.0)).linear_path_ is not None


# -- the objective is what it was -------------------------------------------------------------------------------------


def test_beta_is_obeyed(wine):
    free, strict = (VAETransformer(4, beta=beta, linear_path=LinearPath(1.0), random_state=0).fit(wine) for beta in (1.0, 30.0))
    assert free.n_active_units_ == 4
    assert strict.n_active_units_ < 4
    assert strict.kl_per_component_.sum() < 0.5 * free.kl_per_component_.sum()


def test_the_warm_up_does_not_undo_the_start(wine):
    params = {"n_components": 3, "hidden_layer_sizes": (), "max_epochs": 40, "random_state": 0}
    model = VAETransformer(**params).fit(wine)
    assert model.history_["loss"].max() < model.history_["loss"][0] + 0.5
    assert VAETransformer(**params).fit(wine).module_.kl_warmup == 0.0
    assert VAETransformer(linear_path=None, **params).fit(wine).module_.kl_warmup == 0.25
    assert VAETransformer(kl_warmup=0.5, **params).fit(wine).module_.kl_warmup == 0.5  # what is asked for


def test_none_has_no_linear_maps(wine):
    model = fit(AutoEncoder, wine, linear_path=None)
    assert model.linear_path_ is None
    assert not hasattr(model, "decay_curve_")
    assert type(model.module_.encoder) is torch.nn.Sequential
    assert isinstance(fit(AutoEncoder, wine).module_.encoder, Shortcut)


def test_networks_grow_under_a_weak_decay_and_not_under_a_strong_one(wine):
    sizes = []
    for decay in (0.0, 10.0, 100.0):
        module = fit(AutoEncoder, wine, linear_path=LinearPath(decay), max_epochs=100).module_
        sizes.append(sum(float(weight.detach().square().sum()) for weight in module.decayed_parameters()))
    assert sizes[0] > 5 * sizes[1] > 25 * sizes[2]


# -- what is chosen, kept and refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer])
def test_partial_fit_begins_at_its_first_chunk_and_chooses_nothing(cls, wine):
    model = cls(5, random_state=0).partial_fit(wine[:3])  # fewer rows than components
    assert model.linear_path_ == LinearPath(1.0)
    assert not hasattr(model, "decay_curve_")
    for start in range(3, 178, 25):
        model.partial_fit(wine[start : start + 25])
    assert np.isfinite(model.score(wine))
    assert model.linear_path_ == LinearPath(1.0)


def test_a_warm_start_keeps_the_first_choice(wine):
    model = AutoEncoder(3, random_state=0, warm_start=True, max_epochs=60).fit(wine)
    chosen, curve = model.linear_path_, model.decay_curve_
    weight = model.module_.decoder.linear.weight.clone() if isinstance(model.module_.decoder, Shortcut) else None
    model.fit(wine[:60])
    assert model.linear_path_ == chosen
    assert model.decay_curve_ is curve
    assert model.partial_fit(wine).linear_path_ == chosen
    if weight is not None:
        assert (model.module_.decoder.linear.weight - weight).abs().max() < 0.3
    with pytest.raises(ValueError, match="linear_path"):
        model.set_params(linear_path=LinearPath(123.0)).fit(wine)


@pytest.mark.parametrize("cls", TAKE_IT)
def test_networks_that_do_not_pay_are_left_out_and_all_the_rest_works(cls, wine, labels):
    model = fit(cls, wine, labels, linear_path=ALONE)
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.transform(wine), model.transform(wine))
    assert len(list(model.module_.encoder)) == 1
    assert clone(model).linear_path == ALONE


def test_it_is_searched(wine):
    search = GridSearchCV(AutoEncoder(3, random_state=0, max_epochs=5), {"linear_path__weight_decay": [1.0, np.inf]}, cv=2)
    assert search.fit(wine).best_params_["linear_path__weight_decay"] in (1.0, np.inf)
    assert AutoEncoder(linear_path=None).set_params(linear_path__weight_decay=3.0).linear_path == LinearPath(3.0)


@pytest.mark.parametrize("network", [Conv(), Net(torch.nn.Linear)], ids=["Conv", "Net"])
def test_other_networks_have_none(network):
    X = load_digits().images[:40, np.newaxis] / 16.0
    given = {"encoder": network, "decoder": network, "max_epochs": 1, "random_state": 0}
    assert AutoEncoder(2, **given).fit(X).linear_path_ is None
    with pytest.raises(ValueError, match=r"linear_path=LinearPath\(\) lies beside perceptrons, which encoder="):
        AutoEncoder(2, linear_path=LinearPath(), **given).fit(X)


def test_pretraining_has_none(wine):
    assert DenoisingAE(2, pretraining_epochs=1, max_epochs=1, random_state=0).fit(wine).linear_path_ is None
    with pytest.raises(ValueError, match="pretraining_epochs=1 would begin elsewhere"):
        DenoisingAE(2, pretraining_epochs=1, linear_path=LinearPath()).fit(wine)


@pytest.mark.parametrize("cls", [SparseAE, ContractiveAE, VQVAE])
def test_other_models_do_not_take_it(cls):
    with pytest.raises(ValueError, match="Invalid parameter 'linear_path'"):
        cls().set_params(linear_path="auto")


@pytest.mark.parametrize("wrong", [-1.0, np.nan, "strong", None, True])
def test_what_is_no_decay_is_refused(wine, wrong):
    with pytest.raises(ValueError, match=r"weight_decay=.* must be a number of at least 0, infinity included, or 'auto'"):
        AutoEncoder(2, linear_path=LinearPath(wrong)).fit(wine)


def test_default_widths_do_not_fall_below_the_code():
    X = np.random.default_rng(0).normal(size=(300, 120))
    model = AutoEncoder(100, random_state=0, linear_path=LinearPath(1.0), max_epochs=1).fit(X)
    assert np.linalg.matrix_rank(model.transform(X) - model.transform(X).mean(axis=0)) == 100
    assert [layer.out_features for layer in model.module_.encoder.layers if isinstance(layer, torch.nn.Linear)] == [128, 100, 100]
    own = AutoEncoder(10, hidden_layer_sizes=(7,), random_state=0, linear_path=None, max_epochs=1).fit(X)
    assert own.module_.encoder[0].out_features == 7  # what is asked for
    mirrored = AutoEncoder(10, encoder=MLP((9,)), random_state=0, max_epochs=1, linear_path=None).fit(X)
    assert mirrored.module_.encoder[0].out_features == 9


# -- defaults do not lose ---------------------------------------------------------------------------------------------


def halves(X, seed=0):
    order = np.random.default_rng(seed).permutation(len(X))
    X = X[order]
    scaler = StandardScaler().fit(X[: len(X) // 2])
    return scaler.transform(X[: len(X) // 2]), scaler.transform(X[len(X) // 2 :])


def factors(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows + 500, 20)) @ rng.normal(size=(20, 100)) + 0.3 * rng.normal(size=(n_rows + 500, 100))
    scaler = StandardScaler().fit(X[:n_rows])
    return scaler.transform(X[:n_rows]), scaler.transform(X[n_rows:])


@pytest.mark.parametrize("decoder", [None, *slow("tied")])
def test_wide_tables_of_few_rows_are_as_good_as_principal_components(decoder):
    train, test = factors(100)
    pca = PCA(20).fit(train)
    model = AutoEncoder(20, decoder=decoder, random_state=0).fit(train)
    assert error(model, test) < 1.02 * ((pca.inverse_transform(pca.transform(test)) - test) ** 2).mean()
    assert model.score(test) > PCA(20).fit(train).score(test) - 2.0


def test_a_variational_one_is_as_good_as_factor_analysis():
    train, test = factors(100)
    reference, model = FactorAnalysis(20).fit(train), VAETransformer(20, random_state=0).fit(train)
    assert error(model, test) < 1.05 * ((reference.transform(test) @ reference.components_ - test) ** 2).mean()
    assert model.score(test) > reference.score(test) - 2.0


@pytest.mark.parametrize(
    ("load", "n_components", "most"),
    [(load_iris, 2, 1.05), (load_breast_cancer, 5, 0.97), pytest.param(load_digits, 8, 0.6, marks=pytest.mark.slow)],
)
def test_tables_of_scikit_learn(load, n_components, most):
    train, test = halves(load().data)
    pca = PCA(n_components).fit(train)
    model = AutoEncoder(n_components, random_state=0).fit(train)
    assert error(model, test) < most * ((pca.inverse_transform(pca.transform(test)) - test) ** 2).mean()


def test_the_noise_is_that_of_new_rows():
    """Residuals of rows that were trained on are smaller: where networks fit them closely, by much."""
    train, test = halves(load_wine().data)
    model = AutoEncoder(4, random_state=0).fit(train)
    assert model.linear_path_.weight_decay < np.inf
    left = (model.reconstruct(test) - test).std(axis=0)
    assert 0.7 < np.median(model.noise_scale_ / left) < 1.5
    assert model.score(test) > PCA(4).fit(train).score(test)


def test_the_start_takes_one_thread(wine, monkeypatch):
    entered = []
    monkeypatch.setattr(measure, "one_thread", lambda: entered.append(1) or one_thread())
    begun(AutoEncoder, wine)
    assert entered


@pytest.mark.parametrize("n_features", [2, 3])
def test_codes_as_wide_as_the_table_do_not_explain_the_noise(n_features):
    X = np.random.default_rng(0).normal(size=(500, n_features))
    np.testing.assert_allclose(VAETransformer(n_features, random_state=0, max_epochs=20).fit(X).noise_scale_, 1.0, atol=0.15)


def test_spreads_of_codes_are_those_of_the_data_without_a_prior_and_alike_with_one():
    rng = np.random.default_rng(0)
    X = StandardScaler().fit_transform(rng.normal(size=(400, 2)) @ np.diag([4.0, 1.0]) @ rng.normal(size=(2, 12)))
    X += 0.2 * rng.normal(size=X.shape)
    spreads = PCA(2).fit_transform(X).std(axis=0)
    assert spreads[0] > 1.5 * spreads[1]
    codes = PCA(2).fit_transform(AutoEncoder(2, random_state=0).fit_transform(X)).std(axis=0)
    assert codes[0] / codes[1] == pytest.approx(spreads[0] / spreads[1], rel=0.05)
    codes = VAETransformer(2, random_state=0).fit_transform(X).std(axis=0)
    np.testing.assert_allclose(codes, 1.0, atol=0.1)
