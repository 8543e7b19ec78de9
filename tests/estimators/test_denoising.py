"""The denoising autoencoder: corruption in training, clean targets, and rows repaired."""

import pickle

import numpy as np
import pytest
import torch
from conftest import in_words
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from torch import nn

from skvae import AutoEncoder, Conv, DenoisingAE, LinearPath, Net
from skvae.modules import CORRUPTIONS, Batch, DenoisingModule


def make(**params):
    return DenoisingAE(n_components=2, hidden_layer_sizes=(8,), max_epochs=3, random_state=0).set_params(**params)


def halve(x):
    """Corrupt rows by a function that a pickle can refer to."""
    return 0.5 * x


def jitter(x):
    """Draw from torch's global generator, as users do."""
    return x + 0.3 * torch.randn(x.shape) + 0.1 * torch.rand_like(x)


class Recorder:
    """A corruption that keeps what it sees."""

    def __init__(self, corrupt=lambda x: x):
        self.seen, self.corrupt = [], corrupt

    def __call__(self, x):
        self.seen.append(x.clone())
        return self.corrupt(x)


def batch_of(model, X, seed=0):
    """Rows as training sees them, with the noise that the module asks for."""
    generator = torch.Generator().manual_seed(seed)
    x = model.module_.likelihood.standardize(X)
    noise = {name: torch.randn(len(x), *shape, generator=generator) for name, shape in model.module_.noise_shapes.items()}
    return Batch(x, x, torch.ones(len(x)), noise=noise)


def corrupted(model, X, seed=0):
    """Rows corrupted as in a step of training, in the units of the data."""
    return model.module_.likelihood.to_data(model.module_.corrupt(batch_of(model, X, seed))).numpy()


@pytest.fixture
def pixels():
    """Rows in [0, 1] with a lot of zeros."""
    X = load_digits().data[:200] / 16
    return X[:, X.std(0) > 0.1]


@pytest.fixture
def recorded(monkeypatch):
    """Corrupted and clean rows of every step."""
    steps, corrupt = [], DenoisingModule.corrupt

    def spy(self, batch):
        x = corrupt(self, batch)
        steps.append((batch, x.detach().clone()))
        return x

    monkeypatch.setattr(DenoisingModule, "corrupt", spy)
    return steps


# -- randomness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, list(CORRUPTIONS), jitter], ids=in_words)
def test_every_step_corrupts_anew(X, recorded, corruption):
    path = LinearPath(1.0)  # whose choice would take steps, too
    make(corruption=corruption, corruption_rate=0.4, max_epochs=5, batch_size=40, linear_path=path).fit(X)
    assert len(recorded) == 5 * 2
    damage = [x - batch.x for batch, x in recorded]
    for i, one in enumerate(damage):
        assert one.abs().max() > 0.0
        for other in damage[i + 1 :]:
            assert not torch.equal(one, other)
    assert all(batch.target is batch.x for batch, _ in recorded)


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, list(CORRUPTIONS), jitter], ids=in_words)
def test_the_random_state_decides_and_global_generators_are_left_alone(X, corruption):
    def fit(seed=0):
        return make(corruption=corruption, corruption_rate=0.4, random_state=seed).fit(X).transform(X)

    torch.manual_seed(0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = fit()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.manual_seed(1)
    np.testing.assert_array_equal(fit(), first)
    assert not np.array_equal(fit(1), first)


def test_pretraining_leaves_global_generators_alone(X):
    state = torch.get_rng_state()
    first = make(pretraining_epochs=2).fit(X).transform(X)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    np.testing.assert_array_equal(make(pretraining_epochs=2).fit(X).transform(X), first)


@pytest.mark.parametrize(
    "params",
    [
        {"corruption": "masking"},
        {"corruption": "salt_and_pepper"},
        {"corruption": "dropout"},
        {"corruption": ["gaussian", "masking"]},
        {"corruption": halve},
        {"corruption_scale": 1.0},
        {"noise_unit": "data"},
        {"corruption": "masking", "corruption_rate": 0.8},
        {"corruption": "masking", "mask_value": 100.0},
        {"pretraining_epochs": 1},
    ],
    ids=in_words,
)
def test_every_parameter_changes_the_result(X, params):
    reference = make(corruption="masking") if len(params) == 2 else make()
    before = reference.fit(X).reconstruct(X)
    assert not np.array_equal(make(**params).fit(X).reconstruct(X), before)


def test_without_damage_it_is_an_autoencoder(X):
    # A mask of nothing, noise of no scale: the same initial weights, the same batches.
    expected = AutoEncoder(2, hidden_layer_sizes=(8,), max_epochs=3, random_state=0).fit(X).transform(X)
    for params in ({"corruption": "masking", "corruption_rate": 0.0}, {"corruption_scale": 0.0}):
        np.testing.assert_allclose(make(**params).fit(X).transform(X), expected, rtol=1e-5, atol=1e-6)


# -- functions --------------------------------------------------------------------------------------------------------


def test_a_function_sees_the_units_of_the_data(X):
    recorder = Recorder()
    make(corruption=recorder, batch_size=80).fit(X)
    assert len(recorder.seen) == 1 + 3  # a trial, and three steps
    for x in recorder.seen:
        assert x.shape == X.shape
        assert x.dtype == torch.float32
        rows = x.numpy()
        np.testing.assert_allclose(rows[np.argsort(rows[:, 1])], X[np.argsort(X[:, 1])], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_images", [False, True])
def test_a_function_sees_images(X, as_images):
    recorder = Recorder()
    images = X.reshape(80, 1, 5, 1)
    model = make(corruption=recorder, image_shape=None if as_images else (1, 5, 1), encoder=Conv(channels=(3,)), batch_size=80)
    model.fit(images if as_images else X)
    assert {tuple(x.shape) for x in recorder.seen} == {(80, 1, 5, 1)}
    rows = recorder.seen[0].flatten(1).numpy()
    np.testing.assert_allclose(rows[np.argsort(rows[:, 1])], X[np.argsort(X[:, 1])], rtol=1e-4, atol=1e-4)


def test_a_function_may_write_into_its_argument(X):
    def blank(x):
        x[:, 0] = 0.0
        return x

    def blank_copy(x):
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], dim=1)

    np.testing.assert_array_equal(make(corruption=blank).fit(X).transform(X), make(corruption=blank_copy).fit(X).transform(X))


def test_a_function_may_return_another_precision(X):
    expected = make(corruption=halve).fit(X).transform(X)
    np.testing.assert_allclose(make(corruption=lambda x: 0.5 * x.double()).fit(X).transform(X), expected, rtol=1e-4, atol=1e-5)


def test_pickles_refer_to_a_function(X):
    model = make(corruption=halve).fit(X)
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.corruption is halve
    np.testing.assert_array_equal(loaded.transform(X), model.transform(X))
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    np.testing.assert_array_equal(loaded.partial_fit(X).transform(X), model.partial_fit(X).transform(X))
    assert clone(model).corruption is halve


def test_trying_a_function_changes_no_result(X, monkeypatch):
    tried = make(corruption=jitter).fit(X).transform(X)
    monkeypatch.setattr("skvae.estimators._checks.check_corruption", lambda *args: None)
    np.testing.assert_array_equal(make(corruption=jitter).fit(X).transform(X), tried)


def test_a_function_is_tried_once(X):
    recorder = Recorder()
    model = make(corruption=recorder, batch_size=20).fit(X)
    np.testing.assert_array_equal(recorder.seen[0].numpy(), X[::4].astype(np.float32))
    recorder.seen.clear()
    model.partial_fit(X)  # with a copy of the module
    assert (len(recorder.seen), len(model.module_.corruption.seen)) == (0, 4)
    make(corruption=recorder, image_shape=(1, 5, 1)).fit(sparse.csr_matrix(X))
    assert {tuple(x.shape) for x in recorder.seen} == {(80, 1, 5, 1)}


def test_a_function_may_differentiate(X):
    def push(x):
        x.requires_grad_()
        (x**2).sum().backward()
        return (x + 0.1 * x.grad).detach()

    with torch.no_grad():
        assert np.isfinite(make(corruption=push).fit(X).score(X))


# -- what the loss compares -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, ("gaussian", "dropout"), halve], ids=in_words)
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_the_target_is_clean(pixels, corruption, likelihood):
    model = make(corruption=corruption, likelihood=likelihood).fit(pixels)
    module, batch = model.module_, batch_of(model, pixels)
    x = module.corrupt(batch)
    assert not torch.equal(x, batch.x)
    with torch.no_grad():
        expected = module.likelihood.distortion(batch.target, module.decode(module.encode(batch._replace(x=x)), batch))
        torch.testing.assert_close(module.loss(batch, {}).terms["reconstruction"], expected)


def test_a_function_that_leaves_nothing_leaves_the_mean_to_predict(X):
    # Were the target corrupted, too, there would be nothing to lose. Principal components of the rows are far from what to do.
    params = {"max_epochs": 60, "learning_rate": 0.01, "likelihood__noise": "feature", "linear_path": None}
    model = make(corruption=torch.zeros_like, **params).fit(X)
    assert model.loss_curve_[-1] == pytest.approx(0.5 * X.shape[1], rel=0.02)


@pytest.mark.parametrize("corruption", ["gaussian", Recorder()], ids=["name", "function"])
def test_a_fitted_model_corrupts_nothing(X, corruption, recorded):
    model = make(corruption=corruption).fit(X)
    n_steps = len(recorded)
    z, score = model.transform(X), model.score(X)
    model.reconstruct(X), model.denoise(X), model.score_samples(X), model.score_anomaly(X), model.explain_anomaly(X)
    model.sample(3), model.effective_sample_size(X)
    assert len(recorded) == n_steps
    np.testing.assert_array_equal(model.transform(X), z)
    assert model.score(X) == score
    module = model.module_
    with torch.no_grad():
        np.testing.assert_allclose(module.encode(Batch.of(module.likelihood.standardize(X))), z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("images", [False, True])
def test_denoise_is_reconstruct(X, images):
    X = X.reshape(80, 1, 1, 5) if images else X
    model = make().fit(X)
    np.testing.assert_array_equal(model.denoise(X), model.reconstruct(X))
    assert model.denoise(X).shape == X.shape


# -- corruptions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corruption", ["masking", "salt_and_pepper"])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.6, 1.0])
def test_the_rate_holds_in_every_row(X, corruption, rate):
    model = make(corruption=corruption, corruption_rate=rate).fit(X)
    changed = ~np.isclose(corrupted(model, X), X, rtol=1e-4, atol=1e-4)
    assert changed.sum(1).max() <= 5 * rate + 1e-9
    # Extremes may be replaced by themselves.
    assert changed.mean() >= rate * (0.95 if corruption == "salt_and_pepper" else 1.0) - 1e-9


def test_masks_are_the_mean_of_the_column(X):
    model = make(corruption="masking", corruption_rate=1.0).fit(X)
    np.testing.assert_allclose(corrupted(model, X), np.tile(X.mean(0), (80, 1)), rtol=1e-4, atol=1e-5)


def test_masks_are_the_weighted_mean_of_the_column(X):
    weight = np.linspace(0.0, 2.0, 80)
    model = make(corruption="masking", corruption_rate=1.0).fit(X, sample_weight=weight)
    np.testing.assert_allclose(corrupted(model, X)[0], np.average(X, axis=0, weights=weight), rtol=1e-4)


@pytest.mark.parametrize("noise", ["feature", "shared"])
def test_masks_under_either_standardization(pixels, noise):
    model = make(corruption="masking", corruption_rate=1.0, likelihood__noise=noise).fit(pixels)
    np.testing.assert_allclose(corrupted(model, pixels)[0], pixels.mean(0), rtol=1e-4, atol=1e-5)


def test_masks_are_zero_under_bernoulli(pixels):
    model = make(corruption="masking", corruption_rate=1.0, likelihood="bernoulli").fit(pixels)
    np.testing.assert_array_equal(corrupted(model, pixels), np.zeros_like(pixels))


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_masks_of_your_own_are_in_the_units_of_the_data(pixels, likelihood):
    model = make(corruption="masking", corruption_rate=1.0, mask_value=0.75, likelihood=likelihood).fit(pixels)
    np.testing.assert_allclose(corrupted(model, pixels), 0.75, rtol=1e-4)


def test_salt_and_pepper_are_the_extremes_of_the_columns(X):
    model = make(corruption="salt_and_pepper", corruption_rate=1.0).fit(X)
    rows = corrupted(model, X)
    low, high = (np.isclose(rows, value, rtol=1e-4, atol=1e-4) for value in (X.min(0), X.max(0)))
    assert (low ^ high).all()
    assert high.mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("unit", ["std", "data"])
def test_noise_is_in_the_unit_asked_for(X, unit, shared):
    model = make(corruption_scale=0.4, noise_unit=unit, likelihood__noise="shared" if shared else "feature").fit(X)
    added = np.vstack([corrupted(model, X, seed) - X for seed in range(50)])
    expected = 0.4 * X.std(0) if unit == "std" else np.full(5, 0.4)
    np.testing.assert_allclose(added.std(0), expected, rtol=0.05)
    np.testing.assert_allclose(added.mean(0) / expected, 0.0, atol=0.08)


def test_dropout_is_in_standardized_units(X):
    model = make(corruption="dropout", corruption_rate=0.25, likelihood__noise="feature").fit(X)
    batch = batch_of(model, X)
    x = model.module_.corrupt(batch)
    kept = x != 0.0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.06)
    torch.testing.assert_close(x[kept], batch.x[kept] / 0.75)


def test_every_row_of_a_mixture_draws_one(X):
    many = np.tile(X, (50, 1))
    corruption = ["gaussian", "masking", "dropout"]
    model = make(corruption=corruption, corruption_rate=0.6, mask_value=500.0, likelihood__noise="feature").fit(X)
    batch, mask = batch_of(model, many), model.module_.likelihood.standardized_value(500.0)
    x = model.module_.corrupt(batch)
    is_masked = ((x == batch.x) | (x == mask)).all(1)
    is_dropped = (torch.isclose(x, batch.x / 0.4) | (x == 0.0)).all(1)
    is_noisy = (x - batch.x).abs().amax(1) < 2.0
    kinds = torch.stack([is_masked, is_dropped, is_noisy & ~is_masked & ~is_dropped])
    assert (kinds.sum(0) == 1).all()
    assert kinds.float().mean(1).numpy() == pytest.approx(1 / 3, abs=0.03)
    assert ((x == mask).sum(1)[is_masked] == 3).all()
    assert (x - batch.x)[kinds[2]].std().item() == pytest.approx(0.3, rel=0.05)


def test_a_constant_column_takes_no_harm(X):
    X = np.column_stack([X, np.full(80, 7.0)])
    for corruption in CORRUPTIONS:
        model = make(corruption=corruption).fit(X)
        np.testing.assert_array_equal(model.denoise(X)[:, -1], X[:, -1])
        assert np.isfinite(model.score(X))


# -- pretraining ------------------------------------------------------------------------------------------------------


def initial_weights(monkeypatch, X, **params):
    """Weights with which fine-tuning begins."""
    started = []

    def stop(module, *args, **kwargs):
        started.append([p.detach().clone() for p in module.parameters()])
        raise InterruptedError

    monkeypatch.setattr("skvae.estimators._fit.train", stop)
    with pytest.raises(InterruptedError):
        make(**params).fit(X)
    monkeypatch.undo()
    return started[0]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"decoder": "tied"},
        {"encoder__normalization": "batch", "encoder__dropout": 0.1},
        {"corruption": "masking", "likelihood": "bernoulli"},
        {"corruption": ["salt_and_pepper", "dropout"], "activation": nn.Softplus},
    ],
    ids=in_words,
)
def test_pretraining_sets_every_layer_and_records_its_losses(pixels, params, monkeypatch):
    params = {"hidden_layer_sizes": (24, 12), "activation": "tanh", "batch_size": 20, "linear_path": None, **params}
    before = initial_weights(monkeypatch, pixels, **params)
    after = initial_weights(monkeypatch, pixels, pretraining_epochs=1, **params)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert not torch.equal(one, other)
    model = make(pretraining_epochs=8, **params).fit(pixels)
    assert [losses.shape for losses in model.pretraining_loss_] == [(8,)] * 3
    for losses in model.pretraining_loss_:
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0]
    assert np.isfinite(model.score(pixels))
    assert model.n_iter_ == 3


@pytest.mark.parametrize("decoder", [None, "tied"])
def test_pretraining_gives_a_head_start(pixels, decoder):
    params = {"n_components": 4, "hidden_layer_sizes": (24, 12), "batch_size": 20, "max_epochs": 1, "decoder": decoder}
    cold = make(linear_path=None, **params).fit(pixels)
    warm = make(pretraining_epochs=20, **params).fit(pixels)
    assert warm.loss_curve_[0] < 0.9 * cold.loss_curve_[0]
    assert cold.pretraining_loss_ == []


def test_pretraining_a_linear_map_has_one_layer(X):
    assert len(make(hidden_layer_sizes=(), pretraining_epochs=2).fit(X).pretraining_loss_) == 1


def test_pretraining_happens_once(X):
    model = make(pretraining_epochs=2).partial_fit(X)
    losses = model.pretraining_loss_
    assert model.partial_fit(X).pretraining_loss_ is losses
    assert pickle.loads(pickle.dumps(model)).pretraining_loss_[1].tolist() == losses[1].tolist()


def test_pretraining_respects_weights_and_held_out_rows(X, recorded):
    weight = np.r_[np.zeros(40), np.ones(40)]
    weighted = make(pretraining_epochs=2).fit(X, sample_weight=weight)
    alone = make(pretraining_epochs=2).fit(X[40:])
    np.testing.assert_array_equal(weighted.pretraining_loss_[0], alone.pretraining_loss_[0])
    recorded.clear()
    make(pretraining_epochs=2, early_stopping=True, early_stopping__validation_fraction=0.25, batch_size=80, max_epochs=1).fit(X)
    assert {len(batch.x) for batch, _ in recorded[:4]} == {60}


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_pretraining_that_diverges_says_so(X, epochs):
    model = make(pretraining_epochs=epochs, learning_rate=1e20)
    with pytest.raises(ValueError, match=r"loss of DenoisingAE stopped being finite. learning_rate=1e\+20 may be too large"):
        model.fit(X)
    assert not hasattr(model, "pretraining_loss_")


class Encoder(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"encoder": Net(Encoder)}, "pretraining_epochs=2 trains perceptrons.*encoder"),
        ({"decoder": Net(Encoder)}, "pretraining_epochs=2 trains perceptrons.*decoder"),
        ({"image_shape": (1, 5, 1)}, "pretraining_epochs=2 trains perceptrons.*image_shape"),
        ({"corruption": halve}, "pretraining_epochs=2 corrupts the codes.*halve.*Name a corruption"),
    ],
    ids=["encoder", "decoder", "image_shape", "function"],
)
def test_pretraining_refuses_what_it_cannot_do(X, params, message):
    with pytest.raises(ValueError, match=message):
        make(pretraining_epochs=2, **params).fit(X)
    assert np.isfinite(make(**params).fit(X).score(X))


def test_pretraining_refuses_images(X):
    with pytest.raises(ValueError, match="pretraining_epochs=2"):
        make(pretraining_epochs=2).fit(X.reshape(80, 1, 5, 1))


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "parts"),
    [
        ({"corruption_rate": -0.1}, ["corruption_rate", "-0.1", "range [0.0, 1.0]"]),
        ({"corruption_rate": 1.5}, ["corruption_rate", "1.5", "range [0.0, 1.0]"]),
        ({"corruption_rate": np.nan}, ["corruption_rate", "nan", "range [0.0, 1.0]"]),
        ({"corruption": "gausian"}, ["corruption", "'gausian'", *CORRUPTIONS, "callable"]),
        ({"corruption": ["gausian", "masking"]}, ["corruption=['gausian', 'masking']", *map(repr, CORRUPTIONS)]),
        ({"corruption": ["masking", halve]}, ["corruption=['masking', <function halve", *map(repr, CORRUPTIONS)]),
        ({"corruption": []}, ["corruption=[]", "at least one", *map(repr, CORRUPTIONS)]),
        ({"corruption": 3}, ["corruption", "3", *CORRUPTIONS]),
        ({"corruption": None}, ["corruption", "None", *CORRUPTIONS]),
        ({"corruption": "dropout", "corruption_rate": 1.0}, ["corruption='dropout'", "corruption_rate=1", "below 1"]),
        ({"corruption": ["dropout", "masking"], "corruption_rate": 1}, ["dropout", "corruption_rate=1", "below 1"]),
        ({"corruption": lambda x: x[:, :3]}, ["corruption=<function", "(80, 3)", "(80, 5)", "must return a tensor"]),
        ({"corruption": lambda x: x.sum()}, ["corruption=<function", "shape ()", "(80, 5)", "must return a tensor"]),
        ({"corruption": lambda x: x.numpy()}, ["corruption=<function", "ndarray", "(80, 5)", "must return a tensor"]),
        ({"corruption": lambda x: None}, ["corruption=<function", "NoneType", "(80, 5)", "must return a tensor"]),
        ({"corruption": lambda x: x / 0}, ["corruption=<function", "NaN or infinite", "400 of 400", "(80, 5)", "finite"]),
        ({"corruption": lambda x: x.foo}, ["corruption=<function", "fails", "(80, 5)", "AttributeError", "'foo'"]),
        ({"corruption": nn.Dropout}, ["corruption=Dropout is a class", "function of a batch", *map(repr, CORRUPTIONS)]),
        ({"corruption": nn.Dropout(0.3)}, ["corruption=Dropout(...)", "function of a batch", "one of the names"]),
        ({"corruption_scale": -1.0}, ["corruption_scale", "-1.0", "[0.0, inf)"]),
        ({"noise_unit": "pixels"}, ["noise_unit", "'pixels'", "'std'", "'data'"]),
        ({"mask_value": "mean"}, ["mask_value", "'mean'", "float", "None"]),
        ({"mask_value": np.nan}, ["mask_value", "nan", "float", "None"]),
        ({"pretraining_epochs": -1}, ["pretraining_epochs", "-1", "[0, inf)"]),
        ({"pretraining_epochs": 1.5}, ["pretraining_epochs", "1.5", "int"]),
    ],
    ids=lambda value: in_words(value) if isinstance(value, dict) else "",
)
def test_errors_name_parameter_value_and_what_is_allowed(X, params, parts):
    model = make(**params)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        model.fit(X)
    for part in parts:
        assert part in str(error.value)
    assert not hasattr(model, "module_")


def test_a_changed_corruption_is_another_model(X):
    model = make().fit(X)
    with pytest.raises(ValueError, match="corruption_scale changed"):
        model.set_params(corruption_scale=0.5).partial_fit(X)
    with pytest.raises(ValueError, match="corruption changed"):
        make().fit(X).set_params(corruption="masking").partial_fit(X)


# -- what it is good for ----------------------------------------------------------------------------------------------


FITTED = {"linear_path": LinearPath(1.0), "max_epochs": 30, "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    """Training and test images, PCA and AutoEncoder of 16 components."""
    train, test = train_test_split(load_digits().data, test_size=0.3, random_state=0)
    return train, test, PCA(16).fit(train), AutoEncoder(16, **FITTED).fit(train)


@pytest.mark.parametrize("damage", ["noise", pytest.param("mask", marks=pytest.mark.slow)])
def test_denoising_beats_doing_nothing_pca_and_the_plain_autoencoder(digits, damage):
    train, test, pca, plain = digits
    rng = np.random.default_rng(0)
    if damage == "noise":
        damaged = test + train.std(0) * rng.normal(size=test.shape)
        model = DenoisingAE(16, corruption_scale=1.0, **FITTED).fit(train)
    else:
        damaged = np.where(np.argsort(np.argsort(rng.random(test.shape))) < 32, train.mean(0), test)
        model = DenoisingAE(16, corruption="masking", corruption_rate=0.5, **FITTED).fit(train)

    def error(X):
        return ((X - test) ** 2).mean()

    # Measured with this seed: 0.32, 0.58 and 0.59 for noise.
    assert error(model.denoise(damaged)) < 0.8 * error(damaged)
    assert error(model.denoise(damaged)) < 0.8 * error(pca.inverse_transform(pca.transform(damaged)))
    assert error(model.denoise(damaged)) < 0.8 * error(plain.reconstruct(damaged))


def test_a_function_leaves_columns_far_from_zero_alone():
    """Single precision is too coarse for the units of the data there; what is not touched must come back exactly."""
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(300, 6))
    # Beside a linear path training begins near an optimum, where Adam makes whole steps of rounding.
    params = {"max_epochs": 30, "random_state": 0, "linear_path": None}
    far = DenoisingAE(2, corruption=untouched, **params).fit(1.6e9 + 10 * Y).reconstruct(1.6e9 + 10 * Y)
    near = DenoisingAE(2, corruption=untouched, **params).fit(Y).reconstruct(Y)
    np.testing.assert_allclose((far - 1.6e9) / 10, near, atol=1e-3)


def untouched(batch):
    return batch
