"""Parameters that hold a specification, through the estimators."""

import inspect
import pickle

import numpy as np
import pytest
import torch
from cases import layers_of
from conftest import ALL_ESTIMATORS
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skvae
from skvae import (
    CVAE,
    MLP,
    TDVAE,
    VQVAE,
    AutoEncoder,
    Bernoulli,
    Codebook,
    CodePrior,
    ContractiveAE,
    Conv,
    DefaultNet,
    EarlyStopping,
    Gaussian,
    Laplace,
    LinearPath,
    Net,
    Optimizer,
    Recurrent,
    SparseAE,
    TopK,
    VAETransformer,
)
from skvae.estimators._imputing import ImportanceWeightedVAE
from skvae.estimators._specs import resolve

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.filterwarnings("ignore:The code of VAETransformer has collapsed")]

OF_IMAGES = [cls for cls in ALL_ESTIMATORS if "image_shape" in inspect.signature(cls).parameters]


def make(**params):
    """A model whose networks stay, whatever held-out rows would say."""
    given = {"n_components": 2, "hidden_layer_sizes": (8,), "linear_path": LinearPath(1.0), "max_epochs": 3, "random_state": 0}
    return VAETransformer(**given).set_params(**params)


def bare(**params):
    """A model whose widths are left to specifications, and whose networks are alone."""
    return VAETransformer(n_components=2, linear_path=None, max_epochs=2, random_state=0).set_params(**params)


@pytest.fixture(scope="module")
def images():
    return load_digits().images[:30, np.newaxis] / 16.0


# -- how many there are -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [*ALL_ESTIMATORS, ImportanceWeightedVAE], ids=lambda cls: cls.__name__)
def test_signatures_stay_short(cls):
    assert len(inspect.signature(cls).parameters) <= 30


@pytest.mark.parametrize("cls", ALL_ESTIMATORS, ids=lambda cls: cls.__name__)
def test_defaults_are_strings_numbers_tuples_or_none(cls):
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    assert all(isinstance(value, (str, int, float, tuple, type(None))) for value in defaults.values())
    assert cls().get_params() == defaults


# -- what stands for what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "spec"),
    [
        ("optimizer", "sgd", Optimizer("sgd")),
        ("optimizer", torch.optim.SGD, Optimizer(torch.optim.SGD)),
        ("early_stopping", True, EarlyStopping()),
        ("early_stopping", False, None),
        ("likelihood", "laplace", Laplace()),
        ("penalty", "top_k", TopK()),
        ("penalty", "kl", None),
        ("codebook", "gradient", Codebook("gradient")),
        ("code_prior", "histogram", CodePrior("histogram")),
        ("code_prior", None, None),
        ("linear_path", "auto", LinearPath()),
        ("linear_path", None, None),
    ],
    ids=str,
)
def test_a_name_stands_for_a_specification(name, value, spec):
    assert resolve(name, value) == spec
    if spec is not None:
        assert resolve(name, spec) is spec


SAME = [
    (AutoEncoder, {"encoder": MLP()}),
    (AutoEncoder, {"encoder": MLP(), "decoder": MLP()}),
    (AutoEncoder, {"optimizer": Optimizer()}),
    (AutoEncoder, {"likelihood": Gaussian()}),
    (AutoEncoder, {"linear_path": LinearPath()}),
    (AutoEncoder, {"encoder": MLP([8], "relu"), "decoder": MLP((8,), "relu")}),
    (SparseAE, {"penalty": "kl", "callbacks": []}),
    (ContractiveAE, {"decoder": "tied"}),
    (CVAE, {"encoder": MLP()}),
    (VQVAE, {"codebook": Codebook(), "code_prior": CodePrior()}),
]


@pytest.mark.parametrize(("cls", "params"), SAME, ids=lambda value: getattr(value, "__name__", str(value)))
def test_specifications_at_their_defaults_change_nothing(cls, params, X):
    base = {"hidden_layer_sizes": (8,), "max_epochs": 2, "random_state": 0}
    y = np.arange(len(X)) % 2
    expected, model = cls(**base).fit(X, y), cls(**base | params).fit(X, y)
    np.testing.assert_array_equal(model.transform(X), expected.transform(X))
    np.testing.assert_array_equal(model.loss_curve_, expected.loss_curve_)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ({}, {"optimizer__clip_norm": 1.0}, {"optimizer": Optimizer(clip_norm=1.0)}),
        ({"optimizer": "sgd"}, {"optimizer__momentum": 0.9}, {"optimizer": Optimizer("sgd", momentum=0.9)}),
        ({}, {"optimizer__momentum": 0.9, "optimizer": "sgd"}, {"optimizer": Optimizer("sgd", momentum=0.9)}),
        ({"optimizer": Optimizer("sgd", momentum=0.9)}, {"optimizer": "adam"}, {"optimizer": "adam"}),
        ({}, {"early_stopping__tol": 0.5}, {"early_stopping": EarlyStopping(tol=0.5)}),
        ({"early_stopping": True}, {"early_stopping__tol": 0.5}, {"early_stopping": EarlyStopping(tol=0.5)}),
        ({}, {"likelihood__noise": "shared"}, {"likelihood": Gaussian("shared")}),
        ({"likelihood": "laplace"}, {"likelihood__noise": 0.5}, {"likelihood": Laplace(0.5)}),
        ({}, {"likelihood__noise": 0.5, "likelihood": "laplace"}, {"likelihood": Laplace(0.5)}),
        ({}, {"linear_path__weight_decay": 3.0}, {"linear_path": LinearPath(3.0)}),
        ({"linear_path": None}, {"linear_path__weight_decay": 3.0}, {"linear_path": LinearPath(3.0)}),
        ({}, {"encoder__dropout": 0.1}, {"encoder": DefaultNet(dropout=0.1), "decoder": None}),
        ({}, {"encoder__channels": (4,)}, {"encoder": Conv((4,))}),
        ({"image_shape": (1, 2, 2)}, {"encoder__dropout": 0.1}, {"encoder": DefaultNet(dropout=0.1)}),
        ({}, {"encoder__dropout": 0.1, "image_shape": (1, 2, 2)}, {"encoder": DefaultNet(dropout=0.1)}),
        ({"encoder": DefaultNet(dropout=0.1)}, {"encoder__channels": (4,)}, {"encoder": Conv((4,), dropout=0.1)}),
        ({"encoder": Conv((4,))}, {"encoder__dropout": 0.1}, {"encoder": Conv((4,), dropout=0.1)}),
        ({}, {"decoder__dropout": 0.1}, {"encoder": None, "decoder": DefaultNet(dropout=0.1)}),
        (
            {"encoder": MLP((4, 3), "tanh", normalization="layer")},
            {"decoder__dropout": 0.1},
            {"decoder": DefaultNet(dropout=0.1)},
        ),
        ({"encoder": Conv((4,))}, {"decoder__dropout": 0.1}, {"decoder": DefaultNet(dropout=0.1)}),
        ({"encoder": Conv((4,))}, {"decoder__upsampling": "nearest"}, {"decoder": DefaultNet(upsampling="nearest")}),
        (
            {},
            {"decoder__dropout": 0.1, "encoder__normalization": "layer"},
            {"encoder": DefaultNet(normalization="layer"), "decoder": DefaultNet(dropout=0.1)},
        ),
        ({"encoder": Net(nn.Linear)}, {"encoder__bias": False}, {"encoder": Net(nn.Linear, bias=False)}),
    ],
    ids=str,
)
def test_a_specification_takes_the_place_of_what_stands_for_it(before, change, after):
    model = VAETransformer(**before)
    assert model.set_params(**change) is model
    assert {name: getattr(model, name) for name in after} == after
    assert clone(model).get_params(deep=False) == model.get_params(deep=False)
    assert all(model.get_params()[name] == value for name, value in change.items() if "__" in name)


def test_other_estimators_put_their_own_in_place():
    assert TDVAE().set_params(encoder__dropout=0.1).encoder == Recurrent("lstm", dropout=0.1)
    assert TDVAE(encoder="gru").set_params(encoder__n_layers=2).encoder == Recurrent("gru", n_layers=2)
    assert TDVAE().set_params(decoder__dropout=0.1).decoder == MLP(dropout=0.1)
    assert SparseAE(penalty="top_k").set_params(penalty__alpha=2.0).penalty == TopK(alpha=2.0)
    assert VQVAE().set_params(codebook__decay=0.9).codebook == Codebook(decay=0.9)
    assert VQVAE(code_prior="transformer").set_params(code_prior__width=8).code_prior == CodePrior("transformer", width=8)
    assert VQVAE(code_prior=None).set_params(code_prior__width=8).code_prior == CodePrior(width=8)
    assert ContractiveAE().set_params(decoder__dropout=0.1).decoder == DefaultNet(dropout=0.1)


def test_arguments_are_set_of_a_copy():
    spec = Optimizer("sgd")
    model = VAETransformer(optimizer=spec)
    assert model.set_params(optimizer__momentum=0.9).optimizer == Optimizer("sgd", momentum=0.9)
    assert spec == Optimizer("sgd")
    shared = MLP(dropout=0.1)
    model = VAETransformer(encoder=shared, decoder=shared).set_params(encoder__dropout=0.5)
    assert (model.encoder, model.decoder) == (MLP(dropout=0.5), MLP(dropout=0.1))


@pytest.mark.parametrize(
    ("params", "change", "message"),
    [
        (
            {},
            {"encoder__droput": 0.1},
            "DefaultNet has no parameter 'droput'; it has hidden_layer_sizes, activation, drop",
        ),
        ({}, {"optimizer__momentum": 0.9}, "Adam has no argument 'momentum'; Optimizer takes name, schedule, clip_norm"),
        ({}, {"optimizer__lr": 0.1}, "set learning_rate instead"),
        ({}, {"early_stopping__patience": 3}, "EarlyStopping has no parameter 'patience'; it has validation_fraction, n_iter"),
        ({"likelihood": "bernoulli"}, {"likelihood__noise": 0.1}, "Bernoulli has no parameter 'noise'; it has none"),
        ({}, {"likelihood__scale": 0.1}, "Gaussian has no parameter 'scale'; it has noise"),
        ({"decoder": "tied"}, {"decoder__dropout": 0.1}, "decoder='tied' mirrors the encoder.*set those of the encoder"),
        ({"encoder": 3}, {"encoder__dropout": 0.1}, "encoder=3 has no parameters, so that there is none called 'dropout'"),
        ({"optimizer": "adm"}, {"optimizer__foo": 0.1}, "'foo'|'adm'"),
        ({"likelihood": "poisson"}, {"likelihood__noise": 0.1}, "Poisson has no parameter 'noise'; it has none"),
        ({}, {"beta__x": 0.1}, r"beta=1\.0 has no parameters, so that there is none called 'x'"),
        ({}, {"betta": 0.1}, "Invalid parameter 'betta'"),
        ({}, {"penalty__alpha": 0.1}, "Invalid parameter 'penalty'"),
    ],
    ids=str,
)
def test_what_cannot_be_set(params, change, message):
    model = VAETransformer(**params)
    before = model.get_params()
    with pytest.raises(ValueError, match=message):
        model.set_params(**change).fit(np.eye(3))
    if "optimizer" not in params:
        assert model.get_params() == before


STAND_INS = [
    (cls, name)
    for cls in ALL_ESTIMATORS
    for name in inspect.signature(cls).parameters
    if name
    in ("encoder", "decoder", "linear_path", "optimizer", "early_stopping", "likelihood", "penalty", "codebook", "code_prior")
]


@pytest.mark.parametrize(
    "value", [["a"], {"a": 1}, {"a"}, np.array(["a", "b"]), ("a", "b"), 3, 0.5, object()], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize(("cls", "name"), STAND_INS, ids=lambda value: getattr(value, "__name__", value))
def test_what_stands_for_no_specification_has_no_arguments(cls, name, value):
    if isinstance(value, dict) and name == "likelihood" and cls._takes_frames:
        pytest.skip("a dict stands for likelihoods of columns")
    model = cls(**{name: value})
    with pytest.raises(ValueError, match=rf"^{name}=[\s\S]* has no parameters, so that there is none called 'dropout'"):
        model.set_params(**{f"{name}__dropout": 0.1})
    assert getattr(model, name) is value
    with pytest.raises(ValueError, match=f"(The '{name}' parameter of {cls.__name__} must be|{name}=)"):
        model.fit(np.eye(6), *([np.arange(6) % 2] if cls is CVAE else []))


@pytest.mark.parametrize("cls", OF_IMAGES, ids=lambda cls: cls.__name__)
def test_names_of_recurrent_networks_are_for_sequences(cls):
    with pytest.raises(ValueError, match="encoder='lstm' has no parameters"):
        cls(encoder="lstm").set_params(encoder__dropout=0.1)
    with pytest.raises(ValueError, match="encoder=None has no parameters"):
        TDVAE(encoder=None).set_params(encoder__dropout=0.1)


# -- estimators that hold another -------------------------------------------------------------------------------------

METAS = [skvae.AnomalyDetector, skvae.AutoencoderClusterer, skvae.AutoencoderImputer, skvae.CVAEClassifier, skvae.CVAEResampler]


@pytest.mark.parametrize("name", ["likelihood", "encoder__dropout", "nothing"])
@pytest.mark.parametrize("cls", METAS, ids=lambda cls: cls.__name__)
def test_an_estimator_that_is_not_given_has_no_parameters(cls, name):
    model = cls()
    with pytest.raises(
        ValueError,
        match=f"^estimator=None has no parameters, so that there is none called '{name}': give {cls.__name__} an estimator first",
    ):
        model.set_params(**{f"estimator__{name}": "poisson"})
    assert model.get_params(deep=False) == cls().get_params(deep=False)


@pytest.mark.parametrize("cls", METAS, ids=lambda cls: cls.__name__)
def test_parameters_of_an_estimator_that_is_given_are_set(cls):
    given = CVAE()
    model = cls().set_params(estimator__encoder__dropout=0.1, estimator=given, estimator__likelihood="poisson", random_state=3)
    assert model.estimator is given
    assert (given.likelihood, given.encoder, model.random_state) == ("poisson", DefaultNet(dropout=0.1), 3)
    with pytest.raises(ValueError, match=f"Invalid parameter 'foo' for estimator {cls.__name__}"):
        model.set_params(foo__bar=1)
    with pytest.raises(ValueError, match="random_state=3 has no parameters, so that there is none called 'x'"):
        model.set_params(random_state__x=1)
    with pytest.raises(ValueError, match="Invalid parameter 'x' for estimator CVAE"):
        model.set_params(estimator__x=1)


def test_penalties_without_arguments_say_so():
    with pytest.raises(ValueError, match="penalty='kl' has no parameters, so that there is none called 'alpha'"):
        SparseAE().set_params(penalty__alpha=2.0)


# -- searches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_a_pipeline", [False, True])
def test_searches_reach_them(X, in_a_pipeline):
    model = make()
    grid = {"optimizer__clip_norm": [1e-3, 10.0], "encoder__dropout": [0.0, 0.5], "likelihood__noise": ["shared", "feature"]}
    if in_a_pipeline:
        model = make_pipeline(StandardScaler(), model)
        grid = {f"vaetransformer__{name}": values for name, values in grid.items()}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X)
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 8
    best = search.best_estimator_[-1] if in_a_pipeline else search.best_estimator_
    given = {name.removeprefix("vaetransformer__"): value for name, value in search.best_params_.items()}
    assert {name: best.get_params()[name] for name in given} == given
    assert make().get_params() == clone(make()).get_params()  # which the search has left alone


def test_whole_specifications_are_searched(X):
    grid = {"optimizer": ["sgd", Optimizer("sgd", momentum=0.9)], "likelihood": ["laplace", Laplace("shared")]}
    search = GridSearchCV(make(), grid, cv=2, error_score="raise").fit(X)
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 4


# -- that each has an effect ------------------------------------------------------------------------------------------

EFFECTS = [
    ({}, {"encoder__hidden_layer_sizes": (9,)}),
    ({}, {"encoder__activation": "tanh"}),
    ({}, {"encoder__dropout": 0.5}),
    ({}, {"encoder__normalization": "layer"}),
    ({}, {"decoder__hidden_layer_sizes": (9,)}),
    ({}, {"decoder__activation": "tanh"}),
    ({}, {"decoder__dropout": 0.5}),
    ({}, {"decoder__normalization": "layer"}),
    ({}, {"decoder": "tied"}),
    ({}, {"optimizer__name": "sgd"}),
    ({}, {"optimizer__schedule": "constant"}),
    ({}, {"optimizer__clip_norm": 0.01}),
    ({}, {"optimizer__clip_value": 0.001}),
    ({}, {"optimizer__betas": (0.5, 0.9)}),
    ({}, {"early_stopping__validation_fraction": 0.2}),
    ({"early_stopping": EarlyStopping(tol=1e6), "max_epochs": 20, "batch_size": 8}, {"early_stopping__n_iter_no_change": 2}),
    (
        {"early_stopping": EarlyStopping(n_iter_no_change=2, tol=0.0), "max_epochs": 20, "kl_warmup": 0.0},
        {"early_stopping__tol": 1e6},
    ),
    ({}, {"likelihood__noise": "shared"}),
    ({"likelihood": "laplace"}, {"likelihood__noise": 0.5}),
    ({}, {"linear_path__weight_decay": 0.0}),
    ({"linear_path": LinearPath(0.0)}, {"linear_path__weight_decay": 100.0}),
]


@pytest.mark.parametrize(("base", "change"), EFFECTS, ids=str)
def test_every_argument_changes_the_result(X, base, change):
    X = X - X.min(0)
    before, after = bare(**base).fit(X), bare(**base).set_params(**change).fit(X)
    names = ("n_iter_", "noise_scale_", "loss_curve_")
    assert any(not np.array_equal(getattr(after, name), getattr(before, name)) for name in names) or not np.array_equal(
        after.transform(X), before.transform(X)
    )


def test_every_argument_is_tried():
    tried = {name for _, change in EFFECTS for name in change if "__" in name}
    owners = {
        "encoder": MLP,
        "decoder": MLP,
        "early_stopping": EarlyStopping,
        "likelihood": Gaussian,
        "linear_path": LinearPath,
    }
    for owner, cls in owners.items():
        assert {f"{owner}__{name}" for name in inspect.signature(cls).parameters} <= tried
    assert {f"optimizer__{name}" for name in inspect.signature(Optimizer).parameters if name != "params"} <= tried


def layers(network):
    return [type(layer).__name__ for layer in network]


def test_a_decoder_mirrors_what_its_encoder_is(X):
    module = bare(encoder=MLP((9, 5), "tanh", dropout=0.1, normalization="batch")).fit(X).module_
    assert layers(module.encoder) == [*["Linear", "BatchNorm1d", "Tanh", "Dropout"] * 2, "Linear"]
    assert layers(module.decoder) == layers(module.encoder)
    assert [layer.out_features for layer in module.decoder if isinstance(layer, nn.Linear)] == [5, 9, 5]
    module = bare(encoder=MLP((9, 5), "tanh", dropout=0.1), decoder=MLP(normalization="layer")).fit(X).module_
    assert layers(module.decoder) == [*["Linear", "LayerNorm", "Tanh"] * 2, "Linear"]
    assert [layer.out_features for layer in module.decoder if isinstance(layer, nn.Linear)] == [5, 9, 5]
    module = bare(encoder=MLP((8,)), decoder=MLP((3, 4), "elu")).fit(X).module_
    assert layers(module.encoder) == ["Linear", "ReLU", "Linear"]
    assert [layer.out_features for layer in module.decoder if isinstance(layer, nn.Linear)] == [3, 4, 5]


def test_a_tied_decoder_has_the_encoders_layers(X):
    module = bare(encoder=MLP((9, 5), "tanh", dropout=0.1, normalization="batch"), decoder="tied").fit(X).module_
    assert layers(module.decoder) == [*["TiedLinear", "BatchNorm1d", "Tanh", "Dropout"] * 2, "TiedLinear"]


def test_images_take_perceptrons_too(images):
    module = bare(encoder=MLP((9,), dropout=0.1)).fit(images).module_
    assert layers(module.encoder) == ["Linear", "ReLU", "Dropout", "Linear"]
    assert layers(module.decoder) == ["Linear", "ReLU", "Dropout", "Linear"]
    model = bare(decoder=MLP((9,))).fit(images)
    assert layers(model.module_.encoder)[1] == "Conv2d"
    assert layers(model.module_.decoder) == ["Linear", "ReLU", "Linear"]
    assert model.reconstruct(images).shape == images.shape


def test_convolutions_have_layers_of_their_own(images):
    module = bare(encoder=Conv((4,), hidden_layer_sizes=(7,), activation="tanh", normalization="batch")).fit(images).module_
    expected = ["Unflatten", "Conv2d", "BatchNorm2d", "Tanh", "Flatten", "Linear", "BatchNorm1d", "Tanh", "Linear"]
    assert layers(module.encoder) == expected
    assert [layer.out_features for layer in module.decoder if isinstance(layer, nn.Linear)] == [7, 64]


# -- networks that are decided in a fit -------------------------------------------------------------------------------

QUICK = {"max_epochs": 1, "batch_size": 32, "random_state": 0, "device": "cpu"}
SHARED = {
    "dropout": 0.25,
    "normalization": "layer",
    "activation": "tanh",
    "hidden_layer_sizes": (7,),
}


def networks_of(model, X):
    """Specifications of the networks that a fit on X builds, encoder and decoder."""
    model.fit(X, np.arange(len(X)) % 2 if isinstance(model, CVAE) else None)
    return model._arguments["encoder"], model._arguments["decoder"]


def quick(cls, **params):
    return cls(**QUICK, **({"code_prior": None} if cls is VQVAE else {}), **params)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("owner", ["encoder", "decoder"])
@pytest.mark.parametrize("form", ["4-D", "flat, set before", "flat, set after"])
@pytest.mark.parametrize("cls", OF_IMAGES, ids=lambda cls: cls.__name__)
def test_arguments_of_a_network_not_given_leave_images_convolved(images, cls, form, owner):
    asked = {name: value for name, value in SHARED.items() if cls is not VQVAE or name != "hidden_layer_sizes"}
    shape, change = {} if form == "4-D" else {"image_shape": (1, 8, 8)}, {f"{owner}__{name}": asked[name] for name in asked}
    model = quick(cls)
    for params in ((shape, change), (change, shape))[form == "flat, set after"]:
        model.set_params(**params)
    encoder, decoder = networks_of(model, images if form == "4-D" else images.reshape(len(images), -1))
    flat = {"hidden_layer_sizes": model.hidden_layer_sizes, "activation": model.activation}
    widths = asked.get("hidden_layer_sizes", model.hidden_layer_sizes)
    if owner == "encoder":
        assert encoder == Conv((32, 64), **{"hidden_layer_sizes": widths, **asked})
        assert decoder == ("tied" if cls is ContractiveAE else Conv((32, 64), **{"hidden_layer_sizes": widths[::-1], **asked}))
    else:
        assert encoder == Conv((32, 64), **flat)
        assert decoder == Conv((32, 64), **{"hidden_layer_sizes": model.hidden_layer_sizes[::-1], **asked})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cls", OF_IMAGES, ids=lambda cls: cls.__name__)
def test_networks_for_large_images_are_deep_instead_of_wide(cls):
    shape = (1, 70, 81)
    images = np.random.default_rng(0).normal(size=(6, *shape))
    model = cls(max_epochs=1, random_state=0, **({"code_prior": None} if cls is VQVAE else {"n_components": 2}))
    encoder, decoder = networks_of(model, images)
    assert encoder.channels == (32, 64, 64)
    assert decoder == "tied" if cls is ContractiveAE else decoder.channels == (32, 64, 64)
    assert model.n_parameters_ < 6e6
    back = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(back.module_.encoder[1].weight.detach(), model.module_.encoder[1].weight.detach())
    model.set_params(warm_start=True, encoder=Conv((32, 64, 64)))
    networks_of(model, images)  # which are the same


@pytest.mark.filterwarnings("ignore")
def test_a_wide_code_of_large_images_is_read_of_fewer_places():
    images = np.random.default_rng(0).normal(size=(2, 1, 24, 500))
    model = VAETransformer(300, max_epochs=1, random_state=0)
    assert networks_of(model, images)[0].channels == (32, 64, 64)
    assert model.set_params(n_components=900)._networks()[0].channels == (32, 64, 64, 64)
    assert model.set_params(n_components="auto")._networks()[0].channels == (32, 64, 64)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["dropout", "normalization"])
@pytest.mark.parametrize("cls", OF_IMAGES, ids=lambda cls: cls.__name__)
def test_rows_have_perceptrons_with_the_argument(X, cls, name):
    encoder, _ = networks_of(quick(cls).set_params(**{f"encoder__{name}": SHARED[name]}), X)
    written, _ = networks_of(quick(cls, encoder=MLP(**{name: SHARED[name]})), X)
    assert type(encoder) is MLP
    assert encoder == written


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("owner", ["encoder", "decoder"])
@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer, CVAE, ContractiveAE], ids=lambda cls: cls.__name__)
def test_an_argument_at_its_default_changes_nothing_but_a_tie(images, cls, owner):
    y = np.arange(len(images)) % 2
    plain = quick(cls, decoder=None).fit(images, y)
    model = quick(cls, decoder=None).set_params(**{f"{owner}__dropout": 0.0}).fit(images, y)
    np.testing.assert_array_equal(model.transform(images), plain.transform(images))
    np.testing.assert_array_equal(model.loss_curve_, plain.loss_curve_)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cls", [VAETransformer, AutoEncoder])
def test_searches_over_networks_not_given_keep_images_convolved(images, cls):
    search = GridSearchCV(quick(cls), {"encoder__dropout": [0.0, 0.5]}, cv=2, error_score="raise").fit(images)
    plain = GridSearchCV(quick(cls), {"encoder": [None]}, cv=2).fit(images)
    assert type(search.best_estimator_._arguments["encoder"]) is Conv
    assert search.cv_results_["mean_test_score"][0] == plain.cv_results_["mean_test_score"][0]
    assert search.cv_results_["mean_test_score"][1] != plain.cv_results_["mean_test_score"][0]


LATER = [
    (MLP((9, 5), dropout=0.1, normalization="batch"), {"dropout": 0.3}),
    (MLP((9, 5), dropout=0.1, normalization="batch"), {"normalization": "layer"}),
    (MLP((9, 5), dropout=0.1, normalization="batch"), {"normalization": None}),
    (MLP((9, 5), dropout=0.1, normalization="batch"), {"hidden_layer_sizes": (6,)}),
    (MLP((9, 5), dropout=0.1, normalization="batch"), {"activation": "tanh"}),
    (Conv((4, 8)), {"channels": (16,)}),
    (Conv((4, 8)), {"residual_blocks": 1}),
    (Conv((4, 8)), {"upsampling": "nearest"}),
    (Conv((4, 8)), {"normalization": "layer"}),
]


@pytest.mark.parametrize(("encoder", "later"), LATER, ids=str)
@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer], ids=lambda cls: cls.__name__)
def test_what_is_not_asked_of_a_decoder_follows_the_encoder_in_any_order(X, images, cls, encoder, later):
    asked = {"decoder__activation": "elu", **({} if "dropout" in later else {"decoder__dropout": 0.2})}
    changes = [asked, {f"encoder__{name}": value for name, value in later.items()}]
    rows = images if isinstance(encoder, Conv) else X
    found = []
    for order in (changes, changes[::-1], [{**changes[1], **changes[0]}]):
        model = quick(cls, n_components=2, encoder=encoder, linear_path=None)
        for change in order:
            model.set_params(**change)
        found.append(networks_of(pickle.loads(pickle.dumps(clone(model))), rows))
    assert found[0] == found[1] == found[2]
    down, up = found[0]
    ((name, value),) = later.items()
    assert getattr(down, name) == value
    if name != "activation":  # which was asked of the decoder
        assert getattr(up, name) == value
    assert up.activation == "elu"
    assert up.dropout == asked.get("decoder__dropout", down.dropout)


def test_arguments_of_convolutions_alone_make_a_decoder_convolve(images):
    _, decoder = networks_of(bare(encoder=MLP((9,), dropout=0.1)).set_params(decoder__channels=(4,)), images)
    assert decoder == Conv((4,), hidden_layer_sizes=(9,), activation="relu", dropout=0.1)
    _, decoder = networks_of(bare().set_params(decoder__upsampling="nearest"), images)
    assert (decoder.channels, decoder.upsampling) == ((32, 64), "nearest")


@pytest.mark.parametrize("owner", ["encoder", "decoder"])
def test_arguments_of_convolutions_alone_need_images(X, owner):
    with pytest.raises(ValueError, match=rf"{owner}=\w+\(channels=\(4,\)\) convolves images: set image_shape"):
        bare().set_params(**{f"{owner}__channels": (4,)}).fit(X)


@pytest.mark.parametrize("owner", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", 2), ("dropout", None), ("normalization", "x"), ("hidden_layer_sizes", (0,)), ("activation", "swishy")],
)
def test_wrong_arguments_of_a_network_not_given_name_it(images, owner, name, value):
    with pytest.raises(ValueError, match=rf"^{owner}=DefaultNet\({name}=.*\): .*{name}=.* must be"):
        bare().set_params(**{f"{owner}__{name}": value}).fit(images)


def test_widths_of_networks_not_given_contradict_those_of_the_estimator(X):
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(8,\) and encoder=DefaultNet\(.*contradict"):
        make().set_params(encoder__hidden_layer_sizes=(9,)).fit(X)


def test_codes_of_rows_have_hidden_layers_and_codes_of_images_have_none(X, images):
    model = quick(VQVAE).set_params(decoder__hidden_layer_sizes=(9,))
    assert networks_of(model, X)[1].hidden_layer_sizes == (9,)
    with pytest.raises(ValueError, match=r"decoder=DefaultNet\(.*hidden_layer_sizes has no effect in VQVAE"):
        model.fit(images)


# -- flat parameters and specifications -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"hidden_layer_sizes": (32,), "encoder": MLP((64,))},
            r"hidden_layer_sizes=\(32,\) and encoder=MLP\(hidden_layer_sizes=\(64,\)\) contradict each other: leave encoder__"
            r"hidden_layer_sizes None, or hidden_layer_sizes at its default, \(128, 64\); where encoder and decoder differ",
        ),
        ({"activation": "elu", "encoder": MLP(activation="tanh")}, "activation='elu' and encoder=.*contradict"),
        ({"activation": "elu", "decoder": MLP(activation="tanh")}, "activation='elu' and decoder=.*contradict"),
        ({"activation": nn.ELU, "decoder": MLP(activation="elu")}, "activation=.*contradict"),
        ({"hidden_layer_sizes": (32, 8), "decoder": MLP((32, 8))}, "hidden_layer_sizes=.* and decoder=.*contradict"),
        ({"hidden_layer_sizes": (32,), "encoder": Conv(hidden_layer_sizes=())}, "hidden_layer_sizes=.* and encoder=.*contradict"),
    ],
    ids=str,
)
def test_contradictions_are_refused(X, params, message):
    with pytest.raises(ValueError, match=message):
        VAETransformer(**params).fit(X)


@pytest.mark.parametrize(
    "params",
    [
        {"encoder": MLP((64,))},
        {"hidden_layer_sizes": [64], "encoder": MLP(np.array([64]))},
        {"hidden_layer_sizes": (128, 64), "encoder": MLP((64,))},
        {"hidden_layer_sizes": (32, 8), "decoder": MLP((8, 32))},
        {"activation": "tanh", "encoder": MLP(activation="tanh"), "decoder": MLP(activation="tanh")},
        {"activation": nn.Tanh, "encoder": MLP(activation=nn.Tanh)},
    ],
    ids=str,
)
def test_what_agrees_is_not_refused(X, params):
    assert np.isfinite(VAETransformer(2, max_epochs=1, **params).fit(X).score(X))


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"encoder": MLP(dropout=2)}, r"encoder=MLP\(dropout=2\): dropout=2 must be a number of at least 0 and below 1"),
        ({"decoder": MLP(normalization="x")}, r"decoder=MLP\(normalization='x'\): normalization='x' must be one of"),
        ({"encoder": MLP(activation=int)}, "encoder__activation=int is not a subclass"),
        ({"encoder": MLP(activation=nn.Threshold)}, "encoder__activation=Threshold cannot be built without arguments"),
        ({"encoder": MLP(activation=nn.GLU)}, "The encoder with activation=GLU fails"),
        ({"decoder": MLP(activation=nn.ReLU())}, r"decoder=MLP\(activation=ReLU\(...\)\) holds a module instance"),
        ({"encoder": MLP}, r"encoder=MLP is a class; pass an instance, MLP\(...\)"),
        ({"optimizer": Optimizer}, r"optimizer=Optimizer is a class; pass an instance, Optimizer\(...\)"),
        ({"optimizer": Optimizer(schedule="x")}, r"optimizer=Optimizer\(schedule='x'\): schedule='x' must be one of"),
        (
            {"optimizer": Optimizer("sgd", weight_decay=-1)},
            r"optimizer=Optimizer\(name='sgd', weight_decay=-1\) cannot be built.*weight_decay",
        ),
        ({"optimizer": "adm"}, "The 'optimizer' parameter of VAETransformer must be.*Optimizer.*Got 'adm'"),
        ({"likelihood": Gaussian(-1)}, r"likelihood=Gaussian\(noise=-1\): noise=-1 must be one of"),
        ({"likelihood": "normal"}, "The 'likelihood' parameter of VAETransformer.*Got 'normal'"),
        ({"likelihood": Gaussian(1e30)}, r"The likelihood's noise=1e\+30 is out of proportion"),
        ({"early_stopping": EarlyStopping(2)}, r"early_stopping=EarlyStopping\(validation_fraction=2\): validation_fraction=2"),
        ({"early_stopping": "yes"}, "The 'early_stopping' parameter of VAETransformer.*EarlyStopping.*Got 'yes'"),
        ({"encoder": TopK()}, "The 'encoder' parameter of VAETransformer must be.*Got TopK"),
        ({"decoder": "mirror"}, "The 'decoder' parameter of VAETransformer must be.*'tied'.*Got 'mirror'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_messages_name_the_parameter_what_it_got_and_what_it_takes(X, params, message):
    model = VAETransformer(2, max_epochs=1, **params)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "module_")


@pytest.mark.parametrize("cls", [CVAE, VQVAE])
def test_some_decoders_cannot_be_tied(cls, X):
    with pytest.raises(ValueError, match=f"The 'decoder' parameter of {cls.__name__} must be.*Got 'tied'"):
        cls(decoder="tied").fit(X, np.arange(len(X)) % 2)


def test_codes_of_images_have_no_hidden_layers(images):
    with pytest.raises(ValueError, match="hidden_layer_sizes has no effect in VQVAE"):
        VQVAE(encoder=Conv(hidden_layer_sizes=(8,))).fit(images)
    with pytest.raises(ValueError, match=r"encoder=MLP\(.*\) returns no grid of codes"):
        VQVAE(encoder=MLP()).fit(images)
    with pytest.raises(ValueError, match=r"decoder=MLP\(.*\) takes no grid of codes"):
        VQVAE(decoder=MLP()).fit(images)


# -- fits that go on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder__dropout": 0.1}, "encoder__dropout"),
        ({"encoder__hidden_layer_sizes": (9,)}, "encoder__hidden_layer_sizes"),
        ({"decoder__normalization": "layer"}, "decoder__normalization"),
        ({"likelihood__noise": "shared"}, "likelihood__noise"),
        ({"likelihood": Bernoulli()}, "likelihood"),
        ({"hidden_layer_sizes": (9,)}, "hidden_layer_sizes"),
        ({"activation": "tanh"}, "activation"),
        ({"decoder": "tied"}, "decoder"),
    ],
    ids=str,
)
def test_what_shapes_the_network_cannot_change_on_the_way(X, change, named):
    model = make().partial_fit(X)
    with pytest.raises(ValueError, match=f"^{named} changed since the model was built"):
        model.set_params(**change).partial_fit(X)


@pytest.mark.parametrize(
    ("before", "change", "named"),
    [
        ({"decoder": MLP(dropout=0.5)}, {"decoder": None}, "decoder__dropout changed"),
        ({"decoder": MLP(dropout=0.5)}, {"encoder": MLP(dropout=0.1)}, "encoder__dropout changed"),
        ({"decoder__normalization": "layer"}, {"encoder__dropout": 0.1}, "encoder__dropout changed"),
        (
            {"decoder__normalization": "layer"},
            {"encoder__dropout": 0.1, "decoder__normalization": "batch"},
            "encoder__dropout, decoder__normalization changed",
        ),
        ({"decoder__normalization": "layer"}, {"encoder": Net(nn.Linear)}, "encoder changed"),
    ],
    ids=str,
)
def test_a_change_is_named_where_it_was_made(X, before, change, named):
    model = make(linear_path="auto", **before).partial_fit(X)
    with pytest.raises(ValueError, match=f"^{named}"):
        model.set_params(**change).partial_fit(X)


def test_what_means_the_same_may_be_written_in_another_way(X):
    model, twin = make().partial_fit(X), make().partial_fit(X).set_params(encoder=MLP((8,)), likelihood=Gaussian())
    np.testing.assert_array_equal(twin.partial_fit(X).transform(X), model.partial_fit(X).transform(X))


def test_changes_after_a_fit_do_not_reach_into_it(X):
    model = make(encoder=MLP(dropout=0.1), likelihood=Gaussian("shared")).fit(X)
    model.encoder.set_params(dropout=0.5)
    model.likelihood.set_params(noise="feature")
    with pytest.raises(ValueError, match="encoder__dropout, likelihood__noise changed"):
        model.partial_fit(X)
    assert layers_of(pickle.loads(pickle.dumps(model)).module_.encoder)[2].p == 0.1


def test_an_imputers_model_is_cloned_with_its_mechanism():
    X = np.random.default_rng(0).normal(size=(60, 4))
    X[X > 1.0] = np.nan
    imputer = skvae.AutoencoderImputer(
        VAETransformer(2, hidden_layer_sizes=(8,), max_epochs=2),
        mechanism="self_masking",
        masking_sign="positive",
        random_state=0,
    ).fit(X)
    twin = clone(imputer.estimator_)
    assert (twin.mechanism, twin.sign, twin.n_draws) == ("self_masking", 1, 5)
    twin = twin.fit(X)
    assert twin.module_.mask_model is not None
    np.testing.assert_array_equal(twin.transform(X), imputer.estimator_.transform(X))
