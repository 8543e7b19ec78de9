import pickle

import numpy as np
import pytest
import torch
from conftest import crossed
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import train_test_split
from torch import nn

from skvae import AutoEncoder, ContractiveAE, Conv, Net
from skvae.functional import jacobian_change
from skvae.modules import Batch

WAYS = ("exact", "hutchinson")


class Encoder(nn.Sequential):
    def __init__(self, n_inputs, n_outputs):
        super().__init__(nn.Linear(n_inputs, 6), nn.Tanh(), nn.Linear(6, n_outputs))


def quick(**params):
    return ContractiveAE(n_components=2, hidden_layer_sizes=(8,), max_epochs=3, random_state=0).set_params(**params)


@pytest.fixture(scope="module")
def wine():
    return train_test_split(load_wine(return_X_y=True)[0], random_state=0)


@pytest.fixture(scope="module")
def digits():
    return train_test_split(load_digits(return_X_y=True)[0] / 16.0, random_state=0)


# -- what the penalty does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "factor"),
    # A sigmoid's slope is a quarter at most: the norm is small without a penalty, and falls by less.
    [
        ({}, 0.8),
        ({"hidden_layer_sizes": (), "code_activation": "sigmoid"}, 1.0),
        pytest.param({"jacobian": "hutchinson"}, 0.8, marks=pytest.mark.slow),
    ],
    ids=["deep", "one sigmoid layer", "hutchinson"],
)
def test_contraction_contracts(digits, params, factor):
    train, held_out = digits
    norms, scores = [], []
    for contraction in (0.0, 0.01, 0.1, 1.0):
        model = ContractiveAE(contraction=contraction, max_epochs=30, random_state=0, **params).fit(train)
        norms.append(model.jacobian_norm(held_out).mean())
        scores.append(model.score(held_out))
    assert (np.diff(norms) < 0.0).all()
    assert norms[-1] < factor * norms[0]
    assert np.isfinite(scores).all()


def test_the_default_leaves_reconstruction_and_score_in_place(wine):
    train, held_out = wine
    alike = AutoEncoder(decoder="tied", linear_path=None, random_state=0).fit(train)  # but for the penalty
    plain = AutoEncoder(decoder="tied", random_state=0).fit(train)
    model = ContractiveAE(random_state=0).fit(train)
    assert model.jacobian_norm(held_out).mean() < 0.95 * quick_norm(alike, held_out)
    assert model.score(held_out) > plain.score(held_out) - 0.5
    error, least = (np.mean(((m.reconstruct(held_out) - held_out) / train.std(0)) ** 2) for m in (model, plain))
    assert error < 1.2 * least


def quick_norm(plain, X):
    """Mean norm of the Jacobian of a plain autoencoder's code, by differences."""
    scale, step = plain.module_.likelihood.units.scale, 1e-2
    squares = 0.0
    for j in range(X.shape[1]):
        shift = np.zeros(X.shape[1])
        shift[j] = step * scale[j]
        squares = squares + (((plain.transform(X + shift) - plain.transform(X - shift)) / (2 * step)) ** 2).sum(axis=1)
    return np.sqrt(squares).mean()


def test_hessian_evens_the_jacobian_out(digits):
    train, held_out = digits
    params = {"activation": "tanh", "hessian_noise": 0.3, "max_epochs": 30, "random_state": 0}

    def spread(hessian):
        model = ContractiveAE(contraction=0.01, hessian=hessian, **params).fit(train)
        x = model.module_.likelihood.standardize(held_out)
        step = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        norm, change, _ = jacobian_change(lambda x: model.module_.encode(Batch.of(x)), x, step)
        return (change.mean() / norm.mean()).item()

    assert spread(10.0) < 0.9 * spread(0.0)


def test_without_weights_it_is_a_tied_autoencoder(wine):
    train, held_out = wine
    model = ContractiveAE(contraction=0.0, max_epochs=5, random_state=0).fit(train)
    plain = AutoEncoder(decoder="tied", linear_path=None, max_epochs=5, random_state=0).fit(train)
    np.testing.assert_array_equal(model.reconstruct(held_out), plain.reconstruct(held_out))
    assert model.score(held_out) == plain.score(held_out)


# -- the norm of the Jacobian -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"activation": "tanh"},
        {"hidden_layer_sizes": (), "code_activation": "sigmoid"},
        {"hidden_layer_sizes": ()},
        {"jacobian": "hutchinson", "activation": "tanh", "hidden_layer_sizes": (8,)},
        {"activation": "tanh", "hidden_layer_sizes": (8,), "encoder__dropout": 0.3, "encoder__normalization": "layer"},
    ],
    ids=str,
)
def test_jacobian_norm_is_that_of_transform(wine, params):
    train, held_out = wine
    model = ContractiveAE(random_state=0, max_epochs=10).set_params(**params).fit(train)
    norm = model.jacobian_norm(held_out)
    assert norm.shape == (len(held_out),)
    assert norm.dtype == np.float64
    assert (norm > 0.0).all()
    np.testing.assert_allclose(norm.mean(), quick_norm(model, held_out), rtol=1e-2)


@pytest.mark.parametrize("widths", [(), (7,), (24, 11), (128, 64)], ids=str)
def test_jacobian_norm_does_not_depend_on_the_neighbors(digits, widths):
    train, held_out = digits
    model = ContractiveAE(hidden_layer_sizes=widths, activation="tanh", max_epochs=1, random_state=0).fit(train)
    together = model.jacobian_norm(held_out)
    one_bit = 2.0**-23  # in single precision, to which norms are rounded
    np.testing.assert_allclose(model.jacobian_norm(held_out[::-1])[::-1], together, rtol=one_bit)
    np.testing.assert_allclose(model.jacobian_norm(held_out[17:40]), together[17:40], rtol=one_bit)
    alone = [model.jacobian_norm(held_out[i : i + 1])[0] for i in (0, 5, 44)]
    np.testing.assert_allclose(alone, together[[0, 5, 44]], rtol=one_bit)


def test_jacobian_norm_leaves_the_model_alone(X):
    model = quick().fit(X)
    before = pickle.dumps(model)
    model.jacobian_norm(X)
    assert pickle.dumps(model) == before
    assert next(model.module_.parameters()).dtype == torch.float32


def test_constant_columns_have_no_slope(X):
    X = np.c_[X, np.full(len(X), 3.0)]
    for params in ({"hidden_layer_sizes": (), "code_activation": "tanh"}, {}):
        model = quick(**params).fit(X)
        moved = X + np.r_[np.zeros(5), 1.0]
        np.testing.assert_array_equal(model.jacobian_norm(moved), model.jacobian_norm(X))
        np.testing.assert_allclose(model.jacobian_norm(X).mean(), quick_norm(model, X), rtol=0.05)


# -- tied weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "tied"),
    [
        ({}, True),
        ({"hidden_layer_sizes": ()}, True),
        ({"decoder": None}, False),
        ({"decoder": "tied"}, True),
        ({"encoder": Net(Encoder)}, False),
        ({"decoder": Net(Encoder)}, False),
        ({"image_shape": (1, 4, 4)}, True),
        ({"image_shape": (1, 4, 4), "encoder": Conv((3,))}, True),
        ({"image_shape": (1, 4, 4), "encoder": Conv((3,)), "decoder": Conv((3,))}, False),
        ({"image_shape": (1, 4, 4), "encoder": Conv((3,)), "decoder": Conv((4,))}, False),
        ({"image_shape": (1, 4, 4), "decoder": Conv((4,))}, False),
        ({"image_shape": (1, 4, 4), "encoder": Conv((3,), residual_blocks=1)}, False),
        ({"image_shape": (1, 4, 4), "encoder": Conv((3,), upsampling="nearest")}, False),
    ],
    ids=str,
)
def test_weights_are_tied_where_they_can_be(params, tied):
    X = np.random.default_rng(0).normal(size=(30, 16))
    model = quick(max_epochs=1, **params).fit(X)
    assert any(type(layer).__name__.startswith("Tied") for layer in model.module_.decoder.modules()) == tied
    model.partial_fit(X)
    assert clone(model).decoder == params.get("decoder", "auto")


def test_without_a_tie_the_penalty_is_dodged(wine):
    train, held_out = wine
    tied, free = (
        ContractiveAE(contraction=0.3, decoder=tie, random_state=0).fit(train).jacobian_norm(held_out).mean()
        for tie in ("auto", None)
    )
    assert free < 0.5 * tied


# -- with everything else ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "jacobian"),
    crossed(
        [
            {"likelihood": "bernoulli"},
            {"likelihood": "laplace"},
            {"encoder__dropout": 0.3},
            {"encoder__normalization": "layer"},
            {"activation": nn.Softplus},
            {"activation": "gelu", "encoder__dropout": 0.2},
            {"image_shape": (1, 4, 4)},
            {
                "image_shape": (1, 4, 4),
                "encoder__dropout": 0.2,
                "encoder__normalization": "layer",
                "encoder": Conv((3,), residual_blocks=1),
            },
            {"encoder": Net(Encoder)},
            {"early_stopping": True, "early_stopping__n_iter_no_change": 2},
            {"code_activation": "sigmoid"},
            {"code_activation": "tanh", "hidden_layer_sizes": ()},
        ],
        WAYS,
    ),
    ids=str,
)
def test_fits_with(jacobian, params):
    X = np.random.default_rng(0).random((60, 16))
    model = quick(jacobian=jacobian, hessian=0.1, n_probes=2, **params)
    generator = torch.random.get_rng_state()
    model.fit(X)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert np.isfinite(model.score(X))
    names = {"loss", "reconstruction", "contraction", "hessian"}
    expected = names | {f"valid_{name}" for name in names} if "early_stopping" in params else names
    assert set(model.history_) == expected
    assert all((model.history_[name] >= 0.0).all() for name in ("contraction", "hessian"))
    assert np.isfinite(model.jacobian_norm(X)).all()
    np.testing.assert_array_equal(clone(model).fit(X).transform(X), model.transform(X))
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.jacobian_norm(X), model.jacobian_norm(X))
    if "early_stopping" not in params:
        np.testing.assert_array_equal(loaded.partial_fit(X).transform(X), model.partial_fit(X).transform(X))


def test_images_as_arrays():
    images = np.random.default_rng(0).random((30, 1, 6, 5))
    model = quick(encoder=Conv((3,))).fit(images)
    assert model.jacobian_norm(images).shape == (30,)
    np.testing.assert_array_equal(model.jacobian_norm(images), model.jacobian_norm(images.reshape(30, -1)))


@pytest.mark.parametrize("params", [{"contraction": 0.5}, {"hessian": 0.5}, {"hessian": 0.5, "hessian_noise": 1.0}], ids=str)
def test_parameters_change_the_result(X, params):
    reference = quick(activation="tanh", **({"hessian": 0.5} if len(params) == 2 else {})).fit(X).transform(X)
    assert not np.array_equal(quick(activation="tanh", **params).fit(X).transform(X), reference)


def test_ways_to_the_jacobian(X):
    way = {name: quick(jacobian=name).fit(X) for name in ("auto", "exact", "hutchinson")}
    np.testing.assert_array_equal(way["auto"].transform(X), way["exact"].transform(X))
    assert not np.array_equal(way["hutchinson"].transform(X), way["exact"].transform(X))
    more = quick(jacobian="hutchinson", n_probes=5).fit(X)
    assert not np.array_equal(way["hutchinson"].transform(X), more.transform(X))
    one_layer = {"hidden_layer_sizes": (), "code_activation": "sigmoid"}
    analytic, exact = (quick(jacobian=name, **one_layer).fit(X) for name in ("analytic", "exact"))
    assert quick(**one_layer).fit(X).module_.jacobian == "analytic"
    np.testing.assert_allclose(analytic.transform(X), exact.transform(X), rtol=1e-3, atol=1e-5)


def test_code_activation_bounds_the_code(X):
    codes = quick(code_activation="sigmoid").fit(X).transform(X)
    assert ((codes > 0.0) & (codes < 1.0)).all()
    linear, squashed = (quick(hidden_layer_sizes=(), code_activation=name).fit(X) for name in ("identity", "tanh"))
    assert linear._is_linear
    assert not squashed._is_linear
    rates = [model._auto_training(1, 128)[1] for model in (squashed, linear, quick(code_activation="tanh").fit(X))]
    assert rates[0] == rates[1] > rates[2]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"contraction": -0.1}, "'contraction' parameter"),
        ({"hessian": -1.0}, "'hessian' parameter"),
        ({"hessian_noise": 0.0}, "'hessian_noise' parameter"),
        ({"n_probes": 0}, "'n_probes' parameter"),
        ({"jacobian": "numeric"}, "'jacobian' parameter"),
        ({"code_activation": "relu"}, "'code_activation' parameter"),
        ({"decoder": "always"}, "'decoder' parameter"),
        ({"jacobian": "analytic"}, "jacobian='analytic' is a formula for encoders of one layer"),
        ({"encoder__normalization": "batch"}, "batch normalization.*use normalization='layer'"),
        ({"decoder": "tied", "encoder": Net(Encoder)}, "decoder='tied' needs an encoder that it can mirror"),
        ({"encoder": Conv()}, "set image_shape"),
    ],
    ids=str,
)
def test_wrong_parameters(X, params, message):
    model = quick(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "module_")


@pytest.mark.parametrize("params", [{"contraction": 0.2}, {"code_activation": "tanh"}, {"decoder": None}], ids=str)
def test_partial_fit_refuses_another_model(X, params):
    with pytest.raises(ValueError, match=f"{next(iter(params))} changed"):
        quick().partial_fit(X).set_params(**params).partial_fit(X)
