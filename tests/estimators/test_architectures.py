"""Networks of every shape: images, convolutions, tied weights, deep, linear and overcomplete."""

import pickle

import numpy as np
import pytest
import torch
from conftest import ESTIMATORS, crossed, few_of, networks_alone
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skvae import MLP, AutoEncoder, Conv, DenoisingAE, Net, VAETransformer
from skvae.modules import Batch

# Three epochs are not always enough for a VAE to tell rows apart.
pytestmark = pytest.mark.filterwarnings("ignore:The code of VAETransformer has collapsed")

SHAPE = (1, 5, 4)
SPECS = [
    {"encoder": Conv(channels=(3, 4))},
    {"encoder": Conv(channels=(4,), residual_blocks=1, upsampling="nearest")},
    {"encoder": Conv(channels=(3, 4)), "decoder": "tied"},
    {"encoder": Conv(normalization="layer"), "decoder": Conv(channels=(3,), normalization="layer"), "activation": "silu"},
]


class Encoder(nn.Sequential):
    """A network of the user's own, with an argument."""

    def __init__(self, n_inputs, n_outputs, width=6):
        super().__init__(nn.Linear(n_inputs, width), nn.Tanh(), nn.Linear(width, n_outputs))


def named(value):
    """Name of a class or of parameters."""
    return value.__name__ if isinstance(value, type) else ids(value)


def ids(params):
    return ",".join(f"{name}={value}" for name, value in params.items())


@pytest.fixture
def quick(quick):
    """Make the estimator with few draws and, unless asked for, no ties."""

    def make(**params):
        return quick(**{"n_score_draws": 2, "decoder": None, **params})

    return make


@pytest.fixture
def X():
    """Rows of 20 pixels with some structure."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(70, 3)) @ rng.normal(size=(3, 20)) + 0.3 * rng.normal(size=(70, 20)) + 1.0


@pytest.fixture
def images(X):
    return X.reshape(-1, *SHAPE)


def signature(model, X):
    return model.transform(X).tobytes() + model.score_samples(X).tobytes() + model.sample(3).tobytes()


# -- images in, images out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_come_back_as_images(quick, images, dtype):
    images = images.astype(dtype)
    model = quick().fit(images)
    assert model.image_shape_ == SHAPE
    assert model.n_features_in_ == 20
    codes = model.transform(images)
    assert codes.shape == (70, 2)
    assert codes.dtype == dtype
    for result in (model.reconstruct(images), model.inverse_transform(codes), model.sample(9), model.sample(9, mean=True)):
        assert result.shape == (9 if len(result) == 9 else 70, *SHAPE)
        assert np.isfinite(result).all()
    assert model.reconstruct(images).dtype == model.inverse_transform(codes).dtype == dtype
    assert model.score_samples(images).shape == model.score_anomaly(images).shape == (70,)
    shares = model.explain_anomaly(images)
    assert shares.shape == (70, *SHAPE)
    np.testing.assert_allclose(shares.sum(axis=(1, 2, 3)), model.score_anomaly(images), rtol=1e-6)
    assert np.isfinite(model.score(images))


def test_rows_and_images_give_the_same(quick, X, images):
    of_rows, of_images = quick(image_shape=SHAPE).fit(X), quick().fit(images)
    assert of_rows.image_shape_ == of_images.image_shape_ == SHAPE
    codes = of_images.transform(images)
    np.testing.assert_array_equal(of_rows.transform(X), codes)
    np.testing.assert_array_equal(of_images.transform(X), codes)
    np.testing.assert_array_equal(of_rows.transform(images), codes)
    np.testing.assert_array_equal(quick(image_shape=list(SHAPE)).fit(images).transform(images), codes)
    np.testing.assert_array_equal(of_rows.reconstruct(X), of_images.reconstruct(images).reshape(70, -1))
    np.testing.assert_array_equal(of_rows.score_samples(X), of_images.score_samples(images))
    assert of_rows.reconstruct(images).shape == (70, 20)  # in the shape that `fit` was given
    assert of_rows.sample(2).shape == (2, 20)
    assert of_images.reconstruct(X).shape == (70, *SHAPE)


def test_images_make_the_networks_convolve(quick, images, X):
    model = quick().fit(images)
    assert any(isinstance(layer, nn.Conv2d) for layer in model.module_.encoder)
    assert any(isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) for layer in model.module_.decoder)
    assert not any(isinstance(layer, nn.Conv2d) for layer in quick().fit(X).module_.modules())


def test_an_encoder_may_be_a_perceptron_of_your_own(quick, images):
    model = quick(encoder=Net(Encoder, width=3)).fit(images)
    assert type(model.module_.encoder) is Encoder
    assert any(isinstance(layer, nn.ConvTranspose2d) for layer in model.module_.decoder)
    assert model.reconstruct(images).shape == images.shape


def test_color_images_of_odd_sides(quick):
    images = np.random.default_rng(0).random((30, 3, 7, 5))
    model = quick(likelihood="bernoulli").fit(images)
    assert model.reconstruct(images).shape == images.shape
    assert ((model.sample(5) == 0) | (model.sample(5) == 1)).all()


def test_tensors_are_images_too(quick, images):
    tensor = torch.from_numpy(images)
    np.testing.assert_array_equal(quick().fit(tensor).transform(tensor), quick().fit(images).transform(images))


def test_pixels_share_a_unit(quick, images):
    assert quick().fit(images * np.linspace(1.0, 5.0, 4)).module_.likelihood.noise.is_shared


def test_walks_between_images(images):
    model = VAETransformer(2, max_epochs=2, random_state=0).fit(images)
    assert model.interpolate(images[:3], images[3:6], 4).shape == (3, 4, *SHAPE)
    assert model.latent_grid(n_steps=3).shape == (3, 3, *SHAPE)


def test_images_survive_a_pickle(quick, images):
    model = quick(encoder=Conv(channels=(3,), residual_blocks=1), encoder__normalization="layer").fit(images)
    loaded = pickle.loads(pickle.dumps(model))
    assert signature(loaded, images) == signature(model, images)
    assert loaded.partial_fit(images).reconstruct(images).shape == images.shape
    assert signature(loaded, images) == signature(model.partial_fit(images), images)


def test_sparse_rows_of_images(quick, X):
    X = np.where(np.random.default_rng(1).random(X.shape) < 0.5, 0.0, X)
    dense, compressed = quick(image_shape=SHAPE).fit(X), quick(image_shape=SHAPE).fit(sparse.csr_matrix(X))
    for method in ("transform", "reconstruct", "score_samples", "explain_anomaly"):
        np.testing.assert_array_equal(getattr(compressed, method)(sparse.csr_array(X)), getattr(dense, method)(X))


def test_weights_of_images(quick, images):
    weight = np.r_[np.zeros(30), np.linspace(1.0, 2.0, 40)]
    model = quick().fit(images, sample_weight=weight)
    assert signature(model, images) == signature(quick().fit(images[30:], sample_weight=weight[30:]), images)
    assert signature(model, images) != signature(quick().fit(images[30:]), images)
    expected = np.average(images.reshape(70, -1), axis=0, weights=weight)
    np.testing.assert_allclose(model.module_.likelihood.units.constant, expected, rtol=1e-10)


def test_partial_fit_on_images(quick, X, images):
    model = quick(max_epochs=20)
    losses = [model.partial_fit(images, sample_weight=np.linspace(1.0, 2.0, 70)).loss_curve_[-1] for _ in range(20)]
    assert losses[-1] < losses[0]
    model.partial_fit(images[:1])
    model.partial_fit(X)
    assert model.reconstruct(images).shape == images.shape
    with pytest.raises(ValueError, match=r"X has images of shape \(1, 4, 5\), but"):
        model.partial_fit(images.swapaxes(2, 3))
    with pytest.raises(ValueError, match="image_shape changed"):
        model.set_params(image_shape=(1, 4, 5)).partial_fit(X)


# -- the same row, the same bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimator_class", "params"), crossed(ESTIMATORS, SPECS), indirect=["estimator_class"], ids=named)
def test_results_do_not_depend_on_the_neighbors(quick, images, params):
    images = np.concatenate([images, 2.0 * images, images[::-1] + 1.0])
    model = quick(**params).fit(images)
    order = np.random.default_rng(0).permutation(len(images))
    some = order[:23]
    for method in ("transform", "score_samples", "reconstruct", "score_anomaly"):
        apply = getattr(model, method)
        expected = apply(images)
        np.testing.assert_array_equal(apply(images[order]), expected[order], err_msg=method)
        np.testing.assert_array_equal(apply(images[some]), expected[some], err_msg=method)
        for row in (0, 69, 140, 209):
            np.testing.assert_array_equal(apply(images[row : row + 1]), expected[row : row + 1], err_msg=method)


# -- specifications ---------------------------------------------------------------------------------------------------


def test_parameters_of_convolutions():
    spec = Conv(channels=(4, 8), upsampling="nearest")
    layers = {"hidden_layer_sizes": None, "activation": None, "dropout": 0.0, "normalization": None}
    assert spec.get_params() == {"channels": (4, 8), "residual_blocks": 0, "upsampling": "nearest", **layers}
    assert spec.set_params(residual_blocks=2, channels=[5]) is spec
    assert repr(spec) == "Conv(channels=[5], residual_blocks=2, upsampling='nearest')"
    assert repr(Conv()) == "Conv()"
    with pytest.raises(ValueError, match=r"Conv has no parameter 'kernel'; it has channels, residual_blocks, upsampling"):
        spec.set_params(kernel=3)
    copy = clone(spec)
    assert copy == spec
    assert copy is not spec
    assert copy.set_params(residual_blocks=0) != spec
    assert Conv() == Conv(channels="auto") != Conv(channels=(32, 64))
    assert Conv() != Net(Encoder)
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize("estimator_class", few_of(ESTIMATORS), indirect=True)
@pytest.mark.parametrize("channels", [[3, 4], np.array([3, 4]), (np.int64(3), 4)], ids=["list", "array", "tuple"])
def test_channels_in_any_container(quick, images, channels):
    spec = Conv(channels=channels, residual_blocks=1, normalization="layer")
    assert spec == Conv(channels=(3, 4), residual_blocks=1, normalization="layer")
    assert spec != Conv(channels=(3, 5), residual_blocks=1, normalization="layer")
    assert spec.channels is channels
    model = clone(quick(encoder=spec, max_epochs=1)).fit(images)
    expected = quick(encoder=Conv(channels=(3, 4), residual_blocks=1), encoder__normalization="layer", max_epochs=1).fit(images)
    assert signature(model, images) == signature(expected, images)
    assert model.set_params(encoder=Conv((3, 4), residual_blocks=1, normalization="layer")).partial_fit(images).n_components_ == 2


def test_convolutions_are_reached_through_the_estimator(quick, X):
    model = quick(image_shape=SHAPE, encoder=Conv(channels=(3,)), decoder=Conv(channels=(4,)))
    assert model.get_params()["encoder__channels"] == (3,)
    other = clone(model).set_params(encoder__channels=(5,), decoder__residual_blocks=1)
    assert model.get_params()["encoder__channels"] == (3,)
    assert other.encoder == Conv(channels=(5,))
    assert other.decoder == Conv(channels=(4,), residual_blocks=1)
    convolutions = [layer for layer in other.fit(X).module_.encoder if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [5]
    with pytest.raises(ValueError, match="encoder__channels changed"):
        other.set_params(encoder__channels=(6,)).partial_fit(X)


@pytest.mark.parametrize("estimator_class", few_of(ESTIMATORS), indirect=True)
def test_a_search_over_convolutions(quick, X):
    grid = {"encoder__channels": [(2,), (3, 4)], "encoder__residual_blocks": np.arange(2), "n_components": [1, 2]}
    search = GridSearchCV(quick(image_shape=SHAPE, encoder=Conv(), max_epochs=1), grid, cv=2, error_score="raise").fit(X)
    best = search.best_estimator_
    assert best.encoder.channels == search.best_params_["encoder__channels"]
    assert next(iter(best.module_.encoder[1].parameters())).shape[0] == best.encoder.channels[0]
    assert np.ptp(search.cv_results_["mean_test_score"]) > 0.0


def test_the_decoder_mirrors_the_encoder_unless_it_is_specified(quick, images):
    def channels(network):
        return [layer.in_channels for layer in network if isinstance(layer, nn.ConvTranspose2d)]

    assert channels(quick(encoder=Conv(channels=(3, 4))).fit(images).module_.decoder) == [4, 3]
    assert channels(quick(encoder=Conv(channels=(3, 4)), decoder=Conv(channels=(5,))).fit(images).module_.decoder) == [5]


@pytest.mark.parametrize(
    "params",
    [
        {"encoder": Conv(channels=(4,))},
        {"encoder": Conv(residual_blocks=1)},
        {"encoder": Conv(upsampling="nearest")},
        {"decoder": Conv(channels=(4,))},
        {"hidden_layer_sizes": ()},
        {"encoder": Conv(normalization="layer")},
        {"encoder": Conv(dropout=0.5)},
        {"decoder": Conv(dropout=0.5)},
        {"encoder": Conv(activation="tanh")},
        {"encoder": MLP()},
        {"activation": nn.Softplus},
    ],
    ids=ids,
)
@pytest.mark.parametrize("estimator_class", few_of(ESTIMATORS), indirect=True)
def test_every_parameter_changes_the_result(quick, images, params):
    assert not np.array_equal(quick(**params).fit(images).reconstruct(images), quick().fit(images).reconstruct(images))


def test_widths_of_convolutions_change_the_result(estimator_class, quick, images):
    flat = {"hidden_layer_sizes": estimator_class().hidden_layer_sizes}  # which gives way at its default
    results = [
        quick(**flat, encoder=encoder).fit(images).reconstruct(images) for encoder in (None, Conv(hidden_layer_sizes=(9,)))
    ]
    assert not np.array_equal(*results)


# -- what bad input gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_convolutions_ask_for_images(quick, X, name):
    message = rf"{name}=Conv\(channels=\(4,\)\) convolves images: set image_shape=\(channels, height, width\), or pass X"
    model = quick(**{name: Conv(channels=(4,))})
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "module_")


@pytest.mark.parametrize(
    "image_shape",
    [
        (5, 4),
        (1, 1, 5, 4),
        (1, 5, 0),
        (1, -5, -4),
        (1, 5.0, 4),
        (True, True, True),
        (1, (5, 4), 2),
        ("1", "5", "4"),
        (),
        [[1, 5, 4]],
    ],
    ids=str,
)
def test_shapes_that_are_none(quick, X, image_shape):
    model = quick(image_shape=image_shape)
    with pytest.raises(ValueError, match=r"image_shape=.* must be three integers of at least 1: \(channels, height, width\)"):
        model.fit(X)
    assert not hasattr(model, "image_shape_")


@pytest.mark.parametrize("image_shape", [20, "abc", {1, 5, 4}], ids=str)
def test_shapes_that_are_no_sequence(quick, X, image_shape):
    with pytest.raises(ValueError, match="image_shape"):
        quick(image_shape=image_shape).fit(X)


@pytest.mark.parametrize(
    "values",
    [{"channels": (4, 0)}, {"channels": 4}, {"channels": (2.5,)}, {"channels": "ab"}, {"channels": np.ones((2, 2), int)}],
    ids=ids,
)
def test_channels_that_are_none(quick, images, values):
    with pytest.raises(ValueError, match=r"(?s)channels=.* must be a sequence of integers of at least 1"):
        quick(encoder=Conv(**values)).fit(images)


def test_convolutions_out_of_range(quick, images):
    with pytest.raises(ValueError, match="residual_blocks=-1 must be an integer of at least 0"):
        quick(encoder=Conv(residual_blocks=-1)).fit(images)
    with pytest.raises(ValueError, match=r"residual_blocks=0\.5 must be an integer of at least 0"):
        quick(decoder=Conv(residual_blocks=0.5)).fit(images)
    with pytest.raises(ValueError, match="upsampling='bilinear' must be one of 'transposed', 'nearest'"):
        quick(encoder=Conv(upsampling="bilinear")).fit(images)


def test_a_shape_that_does_not_fit_the_rows(quick, X, images):
    with pytest.raises(ValueError, match=r"image_shape=\(1, 5, 5\) has 25 pixels, but X has 20 features"):
        quick(image_shape=(1, 5, 5)).fit(X)
    with pytest.raises(ValueError, match=r"X has images of shape \(1, 5, 4\), but image_shape=\(1, 4, 5\)"):
        quick(image_shape=(1, 4, 5)).fit(images)


def test_images_of_another_shape_after_fit(quick, X, images):
    model, of_rows = quick().fit(images), quick().fit(X)
    for method in ("transform", "reconstruct", "score_samples", "score", "score_anomaly", "explain_anomaly"):
        name = type(model).__name__
        message = rf"X has images of shape \(1, 4, 5\), but {name} was fitted on images of shape \(1, 5, 4\)"
        with pytest.raises(ValueError, match=message):
            getattr(model, method)(images.swapaxes(2, 3))
        with pytest.raises(ValueError, match=rf"X has images of shape \(1, 5, 4\), but {name} was fitted on rows of features"):
            getattr(of_rows, method)(images)
        with pytest.raises(ValueError, match=r"images are \(n_samples, channels, height, width\), here \(n_samples, 1, 5, 4\)"):
            getattr(model, method)(images[:, 0])
        with pytest.raises(ValueError, match=r"X has 19 features, but .* is expecting 20"):
            getattr(model, method)(X[:, :19])


def test_images_without_a_channel(quick, images):
    with pytest.raises(ValueError, match=r"X has 3 dimensions, \(70, 5, 4\); images are .* here \(n_samples, 1, 5, 4\)"):
        quick(image_shape=SHAPE).fit(images[:, 0])
    message = r"X has 3 dimensions, \(70, 5, 4\).*\(n_samples, channels, height, width\): X\[:, None\]"
    for lacking in (images[:, 0], images[:, 0].tolist()):
        with pytest.raises(ValueError, match=message):
            quick().fit(lacking)


def test_images_with_channels_last(quick):
    images = np.random.default_rng(0).random((30, 6, 5, 3))
    message = r"X has images of shape \(6, 5, 3\), which looks like \(height, width, channels\); .*X.transpose\(0, 3, 1, 2\)"
    with pytest.raises(ValueError, match=message):
        quick().fit(images)
    assert quick(image_shape=(6, 5, 3)).fit(images).image_shape_ == (6, 5, 3)
    assert quick().fit(images.transpose(0, 3, 1, 2)).image_shape_ == (3, 6, 5)


def test_images_in_lists(quick, images):
    expected = quick().fit(images).transform(images)
    for nested in (images.tolist(), list(images), [list(image) for image in images]):
        np.testing.assert_array_equal(quick().fit(nested).transform(nested), expected)
    with pytest.raises(ValueError, match="X is a list of images that are not all of one shape"):
        quick().fit([images[0], images[1, :, :3]])


def test_results_take_the_form_of_the_last_fit(quick, X, images):
    model = quick(warm_start=True).fit(images)
    assert model.partial_fit(X).reconstruct(X).shape == images.shape
    assert model.fit(X).reconstruct(X).shape == X.shape
    assert model.image_shape_ == SHAPE
    assert model.partial_fit(images).sample(3).shape == (3, 20)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(images, np.nan))
    assert model.sample(3).shape == (3, 20)
    assert model.fit(images).sample(3).shape == (3, *SHAPE)


def test_no_images(quick, images):
    with pytest.raises(ValueError, match=r"0 sample"):
        quick().fit(images[:0])
    with pytest.raises(ValueError, match=r"0 feature"):
        quick().fit(images[:, :, :0])
    with pytest.raises(ValueError, match="NaN"):
        quick().fit(np.where(images == images.max(), np.nan, images))


def test_a_refit_that_fails_leaves_the_shape(quick, X, images):
    model = quick().fit(images)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((5, 1, 2, 2), np.nan))
    assert model.image_shape_ == SHAPE
    assert model.reconstruct(X).shape == images.shape
    assert model.fit(X).image_shape_ is None
    assert model.reconstruct(X).shape == X.shape


# -- tied weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_images", [False, True])
def test_tied_weights(estimator_class, quick, X, images, of_images):
    data, alone = images if of_images else X, networks_alone(estimator_class)  # linear maps would stay, the networks might not
    tied, untied = quick(decoder="tied", **alone).fit(data), quick(decoder=None, **alone).fit(data)
    assert tied.n_parameters_ < 0.75 * untied.n_parameters_
    assert not np.array_equal(tied.reconstruct(data), untied.reconstruct(data))
    assert all(parameter.dim() == 1 for parameter in tied.module_.decoder.parameters())
    assert np.isfinite(tied.score(data))
    assert len(pickle.dumps(tied)) < len(pickle.dumps(untied))


@pytest.mark.parametrize("of_images", [False, True])
def test_a_tie_survives_a_pickle_and_more_training(quick, X, images, of_images):
    data = images if of_images else X
    model = quick(decoder="tied").fit(data)
    loaded = pickle.loads(pickle.dumps(model))
    assert signature(loaded, data) == signature(model, data)
    assert signature(loaded.partial_fit(data), data) == signature(model.partial_fit(data), data)
    module = loaded.module_
    z, before = torch.zeros(1, 2), {name: p.detach().clone() for name, p in module.decoder.named_parameters()}
    with torch.no_grad():
        output = module.decode(z + 1.0, Batch.of_codes(z))
        for parameter in module.encoder.parameters():
            parameter.add_(0.1)
        assert not torch.allclose(module.decode(z + 1.0, Batch.of_codes(z)), output)
    assert all(torch.equal(p, before[name]) for name, p in module.decoder.named_parameters())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"encoder": Net(Encoder)}, r"encoder=Net\(Encoder\) is not"),
        ({"image_shape": SHAPE, "encoder": Conv(residual_blocks=1)}, "must have residual_blocks=0 and upsampling='transposed'"),
        ({"image_shape": SHAPE, "encoder": Conv(upsampling="nearest")}, "must have residual_blocks=0 and upsampling='trans"),
    ],
    ids=str,
)
def test_ties_that_cannot_be(quick, X, params, message):
    model = quick(decoder="tied", **params)
    with pytest.raises(ValueError, match=f"decoder='tied' needs an encoder that it can mirror.*{message}"):
        model.fit(X)
    assert not hasattr(model, "module_")
    assert np.isfinite(quick(decoder=None, **params).fit(X).score(X))


def test_the_same_decoder_may_be_spelled_out(quick, images):
    spelled = quick(encoder=Conv(channels=(3,)), decoder=Conv(channels=(3,))).fit(images)
    implied = quick(encoder=Conv(channels=(3,))).fit(images)
    assert signature(spelled, images) == signature(implied, images)


# -- perceptrons of every shape ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", [None, "tied"])
@pytest.mark.parametrize(
    "params",
    [
        {"n_components": 30, "hidden_layer_sizes": ()},
        {"n_components": 30, "hidden_layer_sizes": (40,)},
        {"n_components": 3, "hidden_layer_sizes": (12, 8, 5), "activation": "identity"},
        {"n_components": 1, "hidden_layer_sizes": (10, 2, 10)},
        {"n_components": 4, "hidden_layer_sizes": (2,)},
        {"n_components": 20, "hidden_layer_sizes": ()},
    ],
    ids=ids,
)
def test_overcomplete_deep_linear_and_narrow(quick, X, params, decoder):
    model = quick(decoder=decoder, max_epochs=10, **params).fit(X)
    assert model.transform(X).shape == (70, params["n_components"])
    for method in ("transform", "reconstruct", "score_samples", "score_anomaly", "effective_sample_size"):
        assert np.isfinite(getattr(model, method)(X)).all(), method
    assert np.isfinite(model.sample(10)).all()
    assert np.isfinite(model.loss_curve_).all()


def test_a_deep_linear_network_is_linear(X):
    model = AutoEncoder(3, hidden_layer_sizes=(12, 8), activation="identity", max_epochs=5, random_state=0).fit(X)
    middle = model.transform(0.5 * (X[:10] + X[10:20]))
    np.testing.assert_allclose(middle, 0.5 * (model.transform(X[:10]) + model.transform(X[10:20])), rtol=1e-3, atol=1e-4)


def test_more_components_than_columns_lose_nothing(X):
    model = AutoEncoder(30, hidden_layer_sizes=(), random_state=0).fit(X)
    assert np.mean((model.reconstruct(X) - X) ** 2) < 1e-3 * X.var()


# -- all in one search ------------------------------------------------------------------------------------------------


def test_one_search_over_a_network_a_code_and_a_corruption_in_a_pipeline(X):
    network = Net(Encoder, width=4)
    pipe = make_pipeline(
        StandardScaler(), DenoisingAE(encoder=network, corruption="masking", max_epochs=3, batch_size=20, random_state=0)
    )
    grid = {
        "denoisingae__encoder__width": [3, 9],
        "denoisingae__n_components": [1, 3],
        "denoisingae__corruption_rate": [0.1, 0.5],
    }
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X)
    assert len(search.cv_results_["params"]) == 8
    assert len(set(search.cv_results_["mean_test_score"])) == 8  # every one of them makes a difference
    best, model = search.best_params_, search.best_estimator_[-1]
    assert model.module_.encoder[0].out_features == model.encoder.params["width"] == best["denoisingae__encoder__width"]
    assert model.n_components_ == best["denoisingae__n_components"]
    assert model.module_.corruption_rate == best["denoisingae__corruption_rate"]
    assert search.score(X) == pytest.approx(search.best_estimator_.score(X))
    assert network.params == {"width": 4}
    assert search.transform(X).shape == (70, model.n_components_)
