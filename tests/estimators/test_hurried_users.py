"""Bad input and odd situations that were once answered badly."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from cases import CASES, layers_of
from conftest import few_of, slow
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import nn

from skvae import CVAE, AutoEncoder, AutoencoderImputer, ContractiveAE, CVAEResampler, Net, VAETransformer

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|state) of .* has collapsed"),  # of short fits
    pytest.mark.filterwarnings("ignore:Only .* codes.* are in use"),
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture
def quick(case):
    return case.make


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(300, 6))


@pytest.mark.parametrize("n_rows", [1, *slow(2, 5)])
@pytest.mark.parametrize("case", few_of(CASES), indirect=True)
def test_a_short_last_chunk_does_not_undo_a_stream(quick, table, n_rows):
    model = quick(max_epochs=30)
    for _ in range(30):
        model.partial_fit(table)
    before = model.score(table)
    assert model.partial_fit(table[:n_rows]).score(table) > before - 0.5


@pytest.mark.parametrize("case", few_of(CASES), indirect=True)
def test_a_stream_of_small_chunks_settles_the_noise(quick, table):
    model = quick(max_epochs=150)  # schedules stretch over as many chunks
    for _ in range(15):
        for chunk in np.split(table, 10):
            model.partial_fit(chunk)
    assert model.score(table) > quick(max_epochs=15).fit(table).score(table) - 0.7


def test_a_density_on_request_survives_small_chunks(table):
    model = AutoEncoder(2, max_epochs=5, density=GaussianMixture(2)).partial_fit(table)
    density = model.density_
    assert model.partial_fit(table[:3]).density_ is density
    assert model.partial_fit(table).density_ is not density


def test_bernoulli_checks_scored_and_held_out_rows(case, quick, table):
    binary = (table > 0).astype(float)
    model = quick(likelihood="bernoulli").fit(binary)
    for method in case.scores:
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            getattr(model, method)(binary * 3)
    for row in range(0, 300, 60):
        spoilt = binary.copy()
        spoilt[row, 0] = 7
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            quick(likelihood="bernoulli", early_stopping=True).fit(spoilt)


class Lazy(nn.Module):
    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.layer = nn.LazyLinear(n_outputs)

    def forward(self, x):
        return self.layer(x + 0.0 * torch.randn_like(x))


def test_probing_a_network_draws_no_global_numbers(case, quick, table):
    case.needs("decoder")
    state = torch.get_rng_state()
    first = quick(decoder=Net(Lazy)).fit(table).transform(table)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    np.testing.assert_array_equal(quick(decoder=Net(Lazy)).fit(table).transform(table), first)


def test_rows_far_out_get_finite_scores(case, quick, table):
    model = quick(max_epochs=20).fit(table)
    scores, anomalies = model.score_samples(table), model.score_anomaly(table)
    for value in (1e9, 1e15, 1e19, 1e38, 1e100, -1e100):
        odd = table[:2].copy()
        odd[0, 0] = value
        for method in ("transform", "reconstruct", *case.scores):
            assert np.isfinite(getattr(model, method)(odd)).all(), (method, value)
        assert model.score_samples(odd)[0] < scores.min()
        assert model.score_anomaly(odd)[0] > anomalies.max()


def test_rows_without_density_score_minus_infinity(table):
    model = AutoEncoder(2, max_epochs=20, density=KernelDensity(kernel="tophat", bandwidth=1e-6)).fit(table)
    assert np.isneginf(model.score_samples(table + 100)).all()


def test_warm_start_refuses_reordered_columns(quick, table):
    frame = pd.DataFrame(table, columns=list("abcdef"))
    with pytest.raises(ValueError, match=r"[Ff]eature names"):
        quick(warm_start=True).fit(frame).fit(frame[list("fedcba")])


def test_specifications_hold_no_weights():
    with pytest.raises(TypeError, match=r"inner=Linear\(...\)\) would carry weights"):
        Net(Lazy, inner=nn.Linear(2, 2))
    with pytest.raises(TypeError, match="would carry weights"):
        Net(Lazy).set_params(inner=torch.zeros(2))
    assert Net(Lazy, mask=np.ones(3)) == Net(Lazy, mask=np.ones(3))
    assert Net(Lazy, mask=np.ones(3)) != Net(Lazy, mask=np.zeros(3))


class Settings:
    def __init__(self, width):
        self.width = width


def test_specifications_compare_whatever_they_hold():
    class Local(Lazy):
        pass

    class Odd:
        def __eq__(self, other):
            raise TypeError

        __hash__ = None

    def function(x):
        return x

    odd = Odd()
    for value in (
        Local,
        function,
        odd,
        np.ones(3),
        [np.ones(3)],
        {"a": np.ones(2)},
        np.array([np.nan]),
        float("nan"),
        Settings(3),
    ):
        assert Net(Local, value=value) == Net(Local, value=value)
        assert copy.deepcopy(Net(Local, value=value)) == Net(Local, value=value) or value is odd
        for other in (None, 7, "a", np.zeros(3), np.ones(4), [np.zeros(3)], {"a": np.ones(1)}, Settings(4), lambda x: x, Odd()):
            assert Net(Local, value=value) != Net(Local, value=other)
    assert Net(Local) != Net(Lazy)
    assert Net(Local, a=1) != Net(Local, b=1)
    assert Net(Local) != "Net(Local)"


def test_networks_defined_in_a_function_go_on(case, quick, table):
    case.needs("encoder")

    class Local(nn.Module):
        def __init__(self, n_inputs, n_outputs, function=None):
            super().__init__()
            self.layer, self.function = nn.Linear(n_inputs, n_outputs), function

        def forward(self, x):
            return self.function(self.layer(x))

    model = quick(encoder=Net(Local, function=lambda x: 2 * x)).fit(table)
    assert model.partial_fit(table).n_iter_ == 4
    with pytest.raises(ValueError, match="encoder__function changed"):
        model.set_params(encoder__function=lambda x: 3 * x).partial_fit(table)


class Odd(nn.Module):
    """A network that goes wrong in the way that is asked for."""

    def __init__(self, n_inputs, n_outputs, fault):
        super().__init__()
        self.layer, self.fault = nn.Linear(n_inputs, n_outputs), fault
        if fault == "build":
            raise KeyError("width")

    def forward(self, x):
        if self.fault == "forward":
            return self.missing
        if self.fault == "index":
            raise IndexError("out of bounds")
        return (self.layer(x), None) if self.fault == "tuple" else None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("build", r"Net\(Odd, fault='build'\) cannot be built with n_inputs=.*KeyError: 'width'"),
        ("forward", r"Net\(Odd, fault='forward'\) fails on rows of .* features: AttributeError: .*missing"),
        ("index", r"Net\(Odd, fault='index'\) fails on rows of .* features: IndexError: out of bounds"),
        ("tuple", r"Net\(Odd, fault='tuple'\) returns a tuple; it must return one tensor"),
        ("none", r"Net\(Odd, fault='none'\) returns a NoneType; it must return one tensor"),
    ],
)
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_faults_of_networks_name_them(case, quick, table, name, fault, message):
    case.needs(name)
    with pytest.raises(ValueError, match=message) as caught:
        quick(**{"decoder": None, name: Net(Odd, fault=fault)}).fit(table)
    assert (caught.value.__cause__ is None) == (fault in ("tuple", "none"))


class Recurrent(nn.Module):
    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.first, self.last = nn.GRU(n_inputs, 8, batch_first=True), nn.Linear(8, n_outputs)

    def forward(self, x):
        return self.last(self.first(x[:, None])[0][:, 0])


@pytest.mark.parametrize("jacobian", ["exact", "hutchinson"])
def test_hessians_ask_for_encoders_that_can_be_mapped(table, jacobian):
    params = {"encoder": Net(Recurrent), "jacobian": jacobian, "max_epochs": 2, "device": "cpu"}
    with pytest.raises(ValueError, match=r"hessian=0.1 needs an encoder that torch.func.vmap can map.*set hessian=0"):
        ContractiveAE(2, hessian=0.1, **params).fit(table)
    assert np.isfinite(ContractiveAE(2, hessian=0.0, **params).fit(table).score(table))


@pytest.mark.parametrize("device", ["cpu:0", "cpu"])
def test_the_cpu_has_one_name(quick, table, device):
    assert np.isfinite(quick(device=device).fit(table).score(table))


@pytest.mark.parametrize("scale", [*slow(1e-46), 1e-300, *slow(1e40), 1e300])
def test_weights_of_any_size(quick, table, scale):
    weight = np.linspace(1, 2, 300)
    expected = quick().fit(table, sample_weight=weight).score(table)
    assert quick().fit(table, sample_weight=weight * scale).score(table) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"likelihood__noise": 1e-30}, "noise=1e-30 is out of proportion"),
        ({"likelihood__noise": 1e25}, r"noise=1e\+25 is out of proportion"),
        ({"optimizer__foo": 1}, r"Adam has no argument 'foo'; Optimizer takes name, .*betas"),
        ({"optimizer__betas": (2, 3)}, r"optimizer=Optimizer\(betas=\(2, 3\)\) cannot be built.*beta"),
        ({"activation": nn.Threshold}, "activation=Threshold cannot be built without arguments"),
        ({"activation": nn.GLU}, "activation=GLU fails"),
        ({"encoder": Net(Lazy, widht=3)}, r"Net\(Lazy, widht=3\) cannot be built"),
        ({"encoder__normalization": "batch", "batch_size": 1}, "normalization='batch' needs batches of at least 2"),
    ],
    ids=str,
)
def test_errors_name_the_parameter(case, quick, table, params, message):
    case.needs(*{name.partition("__")[0] for name in params})
    if params.get("encoder__normalization") == "batch" and "batch normalization" in case.lacks:
        message = "batch normalization"
    with pytest.raises(ValueError, match=message):
        quick(**params).fit(table)


class Normalizing(nn.Sequential):
    """A network of the user's own that normalizes over the rows of a batch, or over the pixels of an image, too."""

    def __init__(self, n_inputs, n_outputs, over_pixels=False):
        norm = (
            (nn.Unflatten(1, (1, 1, n_inputs)), nn.BatchNorm2d(1), nn.Flatten()) if over_pixels else (nn.BatchNorm1d(n_inputs),)
        )
        super().__init__(*norm, nn.Linear(n_inputs, n_outputs))


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_batches_of_one_row_are_too_small_for_a_network_that_normalizes_over_them(table, name):
    network = {name: Net(Normalizing)}
    message = rf"The {name} Net\(Normalizing\) has a layer BatchNorm1d.* 31 row\(s\) in batches of at most batch_size=%d leave"
    for batch_size in (1, 2):
        with pytest.raises(ValueError, match=message % batch_size + " some with 1; set batch_size to 3 or more"):
            AutoEncoder(2, max_epochs=1, batch_size=batch_size, **network).fit(table[:31])
    for n_rows in range(2, 12):  # as the message says
        AutoEncoder(2, max_epochs=1, batch_size=3, linear_path=None, **network).fit(table[:n_rows])
    model = AutoEncoder(2, max_epochs=1, linear_path=None, **network).fit(table)
    with pytest.raises(ValueError, match=r"1 row\(s\) in batches .* pass at least 2 rows"):
        model.partial_fit(table[:1])
    AutoEncoder(2, max_epochs=1, batch_size=1, **{name: Net(Normalizing, over_pixels=True)}).fit(table[:9])


@pytest.mark.parametrize(
    ("shape", "warns"),
    [((5, 5, 1), True), ((4, 4, 3), True), ((1, 5, 5), False), ((3, 3, 3), False), ((2, 5, 1), False), ((5, 5, 2), False)],
)
@pytest.mark.parametrize("as_rows", [True, False])
def test_shapes_of_images_with_channels_last_are_suspected(shape, warns, as_rows):
    images = np.random.default_rng(0).random((20, *shape))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AutoEncoder(2, max_epochs=1, image_shape=shape).fit(images.reshape(20, -1) if as_rows else images)
    found = [str(warning.message) for warning in caught if "looks like (height, width, channels)" in str(warning.message)]
    assert len(found) == warns
    assert all(f"image_shape={(shape[2], *shape[:2])}" in message for message in found)


def test_densities_are_checked_before_training(table):
    with pytest.raises(ValueError, match="density=GaussianMixture is a class"):
        AutoEncoder(density=GaussianMixture).fit(table)


def test_weights_of_scores_are_checked(quick, table):
    model = quick().fit(table)
    with pytest.raises(ValueError, match="sample_weight"):
        model.score(table, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="zero"):
        model.score(table, sample_weight=np.zeros(300))


def test_one_weighted_row_in_a_stream(quick, table):
    quick().partial_fit(table).partial_fit(table[:1], sample_weight=[2.0])


def test_hidden_layer_sizes_as_a_number(case, quick, table):
    case.needs("encoder")
    assert layers_of(quick(hidden_layer_sizes=7).fit(table).module_.encoder)[0].out_features == 7


def test_a_column_that_is_constant_up_to_rounding(case, quick, table):
    case.needs("columns of their own")
    column = np.where(np.arange(300) % 2, 0.3, 0.1 + 0.2)
    X = np.column_stack([table, column])
    model = quick(max_epochs=20).fit(X)
    assert model.module_.likelihood.units.is_constant[-1]
    moved = X[:1].copy()
    moved[0, -1] += 1e-3
    np.testing.assert_allclose(model.score_anomaly(moved), model.score_anomaly(X[:1]), rtol=1e-2, atol=1e-2)


def test_another_default_dtype(quick, table):
    torch.set_default_dtype(torch.float64)
    try:
        model = quick().fit(table)
        assert next(model.module_.parameters()).dtype == torch.float32
        assert np.isfinite(model.transform(table)).all()
        assert np.isfinite(model.score(table))
        assert np.isfinite(model.sample(3)).all()
    finally:
        torch.set_default_dtype(torch.float32)


class Spoiler(nn.Module):
    """Returns NaN gradients from a certain call on."""

    calls = 0

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.layer = nn.Linear(n_inputs, n_outputs)

    def forward(self, x):
        Spoiler.calls += self.training
        out = self.layer(x)
        return out * float("nan") if Spoiler.calls > 40 and self.training else out


def test_a_late_divergence_keeps_what_was_learned(case, quick, table):
    case.needs("encoder")
    Spoiler.calls = 0
    with pytest.warns(UserWarning, match="stopped being finite") as record:
        model = quick(encoder=Net(Spoiler), max_epochs=100, batch_size=300, learning_rate=0.02).fit(table)
    assert len(record) == 1
    assert model.n_iter_ == 40
    Spoiler.calls = 0
    assert model.score(table) > quick(encoder=Net(Spoiler), max_epochs=1, batch_size=300).fit(table).score(table) + 0.5


@pytest.mark.parametrize(
    "axes", [3, None, "01", ("a", "b"), (0.0, 1.0), [[0], [1]], (0, -2), (1, 1), (0, 2), (0,), (True, False), np.array(0)]
)
def test_axes_of_a_grid_are_two_components(table, axes):
    model = VAETransformer(2, max_epochs=1, random_state=0).fit(table[:20])
    with pytest.raises(ValueError, match=r"axes=.* must be two different components out of 2"):
        model.latent_grid(axes, n_steps=2)
    grid = model.latent_grid(np.array([0, -1]), n_steps=2)
    np.testing.assert_array_equal(grid, model.latent_grid([np.int8(0), 1], n_steps=2))


def test_latent_grid_asks_for_fit():
    with pytest.raises(ValueError, match="not fitted"):
        VAETransformer().latent_grid()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_scaled_to_the_interval_are_in_it_but_for_rounding(dtype):
    """As MinMaxScaler may leave them, a unit in the last place off."""
    X = np.random.default_rng(0).random((60, 5)).astype(dtype)
    X[0], X[1] = 1.0 + np.finfo(dtype).eps, -np.finfo(dtype).eps
    assert X.max() > 1.0
    model = VAETransformer(2, likelihood="bernoulli", max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    for method in ("neighbors", "reconstruction"):
        assert np.isfinite(model.score_anomaly(X, method=method)).all()
    assert (model.explain_anomaly(X, method="reconstruction") >= 0.0).all()
    X[0] = 1.0 + 1e-5
    with pytest.raises(ValueError, match=r"likelihood='bernoulli' takes values in \[0, 1\]"):
        model.fit(X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vae, X: vae.latent_grid(n_steps=0), "n_steps=0 must be an integer of at least 1"),
        (lambda vae, X: vae.latent_grid(n_steps=2.5), r"n_steps=2\.5 must be an integer of at least 1"),
        (lambda vae, X: vae.latent_grid(extent=np.nan), "extent=nan must be a number above 0"),
        (lambda vae, X: vae.latent_grid(extent="wide"), "extent='wide' must be a number above 0"),
        (lambda vae, X: vae.walk(X[:2], np.ones(2), steps=[]), r"steps=\[\] must be a sequence of at least one finite number"),
        (lambda vae, X: vae.walk(X[:2], np.ones(2), steps=[[1.0]]), "must be a sequence of at least one finite number"),
        (lambda vae, X: vae.walk(X[:2], np.ones(2), steps=[np.inf]), "must be a sequence of at least one finite number"),
    ],
)
def test_walks_of_no_steps_are_refused(X, call, message):
    with pytest.raises(ValueError, match=message):
        call(VAETransformer(2, max_epochs=1, random_state=0).fit(X), X)


def test_lists_of_columns_say_how_many_are_left_out():
    X = np.full((30, 9), np.nan)
    X[:, 0] = np.arange(30)
    with pytest.raises(ValueError, match=r"Column\(s\) \[1, 2, 3, 4, 5\] and 3 more of X have no entry"):
        VAETransformer(missing_values=np.nan).fit(X)
    with pytest.raises(ValueError, match=r"Column\(s\) \[1, 2, 3, 4, 5\] of X have no entry"):
        VAETransformer(missing_values=np.nan).fit(X[:, :6])
    with pytest.raises(ValueError, match=r"Column\(s\) .* and 2 more of X cannot be converted to numbers"):
        VAETransformer().fit(np.full((30, 7), "a", dtype=object))
    wide = np.random.default_rng(0).uniform(-1e200, 1e200, size=(30, 8))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="and 3 more of X is too large"):
        VAETransformer().fit(wide)


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 1, 1, 8, 8)])
def test_rows_of_other_dimensions_are_refused_with_both_forms(shape):
    with pytest.raises(ValueError, match=rf"X has {len(shape)} dimensions.*rows are \(n_samples, n_features\), and images are"):
        VAETransformer().fit(np.zeros(shape))


def test_names_that_are_listed_are_few():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 40)), columns=[f"c{j}" for j in range(40)])
    with pytest.raises(ValueError, match=r"its columns are \['c0', .*'c9'\] and 30 more\.$"):
        CVAE(condition_columns=["d"]).fit(frame)
    frame.iloc[:, 3:9] = np.nan
    imputer = AutoencoderImputer(VAETransformer(1, max_epochs=1, linear_path=None))
    with pytest.warns(UserWarning, match=r"^Column\(s\) \['c3', 'c4', 'c5', 'c6', 'c7'\] and 1 more of X have no entry"):
        imputer.fit(frame)
    with pytest.raises(ValueError, match=r"those of y are \[0, .*, 9\] and 1 more\.$"):
        CVAEResampler(sampling_strategy={77: 3}).fit(np.zeros((22, 2)), np.arange(22) % 11)
    dates = pd.DataFrame({f"d{j}": pd.date_range("2024", periods=9) for j in range(6)})
    with pytest.raises(ValueError, match=r"'d4' \(e\.g\. '2024-01-01'\) and 1 more of X hold dates"):
        ContractiveAE().fit(dates)


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 1, 1, 8, 8), (5, 1, 1, 1, 8, 8)])
def test_rows_of_other_dimensions_are_refused_by_fitted_models(shape):
    images = np.random.default_rng(0).random((20, 1, 8, 8))
    params = {"max_epochs": 1, "linear_path": None}
    of_rows, of_images = AutoEncoder(1, **params).fit(images.reshape(20, 64)), AutoEncoder(1, **params).fit(images)
    with pytest.raises(ValueError, match=rf"X has {len(shape)} dimensions, .*takes rows \(n_samples, n_features\)\.$"):
        of_rows.transform(np.zeros(shape))
    with pytest.raises(ValueError, match=rf"X has {len(shape)} dimensions, .*images (are )?\(n_samples, .*1, 8, 8\)"):
        of_images.score_samples(np.zeros(shape))
    with pytest.raises(ValueError, match=rf"X has {len(shape)} dimensions.*X\.reshape\(len\(X\), -1\), with their image_shape"):
        AutoencoderImputer().fit(np.zeros(shape))
