"""What every estimator promises, beyond scikit-learn's own checks."""

import numpy as np
import pandas as pd
import pytest
import torch
from cases import CASES, layers_of
from conftest import few_of, in_words
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from torch import nn

from skvae import AutoEncoder, ContractiveAE, Conv, DenoisingAE, Net, SparseAE, VAETransformer
from skvae.estimators._specs import BATCH_ROWS
from skvae.modules import ACTIVATIONS

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|state) of .* has collapsed"),  # of short fits
    pytest.mark.filterwarnings("ignore:Only .* codes.* are in use"),
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture
def estimator_class(case):
    return case.cls


@pytest.fixture
def quick(case):
    return case.make


class Encoder(nn.Sequential):
    def __init__(self, n_inputs, n_outputs, width=6):
        super().__init__(nn.Linear(n_inputs, width), nn.Tanh(), nn.Linear(width, n_outputs))


# -- shapes, units and types ------------------------------------------------------------------------------------------


def test_shapes(case, quick, X):
    model = quick().fit(X)
    assert model.transform(X).shape == (80, case.width)
    assert model.inverse_transform(np.zeros((3, case.width))).shape == (3, case.decoded)
    assert model.reconstruct(X).shape == (80, 5)
    assert model.sample(7).shape == (7, 5)
    assert model.score_samples(X).shape == model.score_anomaly(X).shape == (80,)
    assert model.explain_anomaly(X).shape == (80, 5)
    assert isinstance(model.score(X), float)
    assert model.n_components_ == case.width
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert list(model.get_feature_names_out()) == [f"{type(model).__name__.lower()}{i}" for i in range(case.width)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, bool, np.longdouble])
def test_any_real_dtype(quick, X, dtype):
    data = (X > X.mean(0)).astype(dtype) if dtype in (bool, np.uint8, np.int8) else X.astype(dtype)
    codes = quick().fit(data).transform(data)
    assert codes.dtype == (np.float32 if dtype == np.float32 else np.float64)
    assert np.isfinite(codes).all()


def test_sparse_rows_give_what_dense_rows_give(case, quick, X):
    case.needs("sparse rows")
    data = np.where(np.random.default_rng(1).random(X.shape) < 0.5, 0.0, X)
    dense, compressed = quick().fit(data), quick().fit(sparse.csr_array(data))
    for method in ("transform", "reconstruct", "score_samples", "score_anomaly", "explain_anomaly"):
        np.testing.assert_array_equal(getattr(dense, method)(data), getattr(compressed, method)(sparse.csr_matrix(data)))


def test_frames_and_lists(quick, X):
    expected = quick().fit(X).transform(X)
    np.testing.assert_array_equal(quick().fit(pd.DataFrame(X)).transform(pd.DataFrame(X)), expected)
    np.testing.assert_array_equal(quick().fit(X.tolist()).transform(X.tolist()), expected)


def test_reversed_and_fortran_ordered_rows(quick, X):
    expected = quick().fit(X).transform(X)
    np.testing.assert_array_equal(quick().fit(np.asfortranarray(X)).transform(X[::-1])[::-1], expected)


@pytest.mark.parametrize("dtype", ["datetime64[ns]", "category"])
def test_frames_with_other_columns(quick, X, dtype):
    values = pd.Series(["2020-01-01", "2021-01-01"] * 40).astype(dtype)
    with pytest.raises(ValueError, match=r"Column\(s\) 'when' \(e.g. '2020"):
        quick(likelihood="gaussian").fit(pd.DataFrame(X).rename(columns=str).assign(when=values))


def test_objects_that_are_numbers(quick, X):
    np.testing.assert_array_equal(quick().fit(X.astype(object)).transform(X), quick().fit(X).transform(X))


def test_input_is_left_alone_even_if_read_only(quick, X):
    kept = X.copy()
    X.setflags(write=False)
    model = quick().fit(X)
    model.transform(X), model.score_samples(X), model.score_anomaly(X)
    np.testing.assert_array_equal(X, kept)


def test_results_do_not_depend_on_the_units(quick, X):
    model, other = quick(likelihood__noise="feature").fit(X), quick(likelihood__noise="feature").fit(X * 1000.0 + 5.0)
    np.testing.assert_allclose(other.transform(X * 1000.0 + 5.0), model.transform(X), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.score_samples(X * 1000.0 + 5.0), model.score_samples(X) - 5 * np.log(1000.0), rtol=1e-3)
    np.testing.assert_allclose(other.sample(4), model.sample(4) * 1000.0 + 5.0, rtol=1e-3)


def test_constant_binary_and_integer_columns(case, quick):
    case.needs("columns of their own")
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(200, 1))
    X = np.hstack(
        [np.full((200, 1), 7.5), factor > 0, np.round(3 * factor + rng.normal(size=(200, 1))), 1000 * factor, np.zeros((200, 1))]
    )
    model = quick(max_epochs=20).fit(X)
    np.testing.assert_array_equal(model.reconstruct(X)[:, [0, 4]], X[:, [0, 4]])
    np.testing.assert_array_equal(model.sample(50)[:, [0, 4]], X[:50, [0, 4]])
    resolution = 1 / np.sqrt(12)
    assert (model.noise_scale_[[1, 2]] >= resolution - 1e-6).all()
    assert np.isfinite(model.score_samples(X)).all()
    odd = X[:1].copy()
    odd[0, 4] = 10.0
    assert model.score_anomaly(odd)[0] > 10 * model.score_anomaly(X).max()
    assert model.score_samples(odd)[0] < model.score_samples(X).min()


def test_all_columns_constant(quick):
    model = quick().fit(np.full((10, 3), 2.0))
    np.testing.assert_array_equal(model.reconstruct(np.full((2, 3), 2.0)), np.full((2, 3), 2.0))


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_likelihoods(quick, likelihood):
    rng = np.random.default_rng(0)
    X = (rng.random((100, 6)) < 1 / (1 + np.exp(-3 * rng.normal(size=(100, 1))))).astype(float)
    model = quick(likelihood=likelihood, max_epochs=10).fit(X)
    assert np.isfinite(model.score(X))
    drawn = model.sample(30)
    if likelihood == "bernoulli":
        assert set(np.unique(drawn)) <= {0.0, 1.0}
        assert (model.sample(30, mean=True) < 1).all()
        assert (model.noise_scale_ == 0).all()
        assert model.score(X) < 0


def test_fixed_noise(quick, X):
    np.testing.assert_allclose(quick(likelihood__noise=0.5).fit(X).noise_scale_, 0.5, rtol=1e-6)


def test_shared_noise_is_one_number(case, quick, X):
    case.needs("columns of their own")
    assert np.ptp(quick(likelihood__noise="shared").fit(X).noise_scale_) == pytest.approx(0, abs=1e-6)
    assert np.ptp(quick(likelihood__noise="feature").fit(X).noise_scale_) > 0.1


# -- scores -----------------------------------------------------------------------------------------------------------


def test_anomaly_shares_by_reconstruction_follow_the_definition(case, quick, X):
    case.needs("deviance by reconstruction")
    model = quick(max_epochs=20).fit(X)
    shares = model.explain_anomaly(X, method="reconstruction")
    np.testing.assert_allclose(shares.sum(axis=1), model.score_anomaly(X, method="reconstruction"))
    expected = (X - model.reconstruct(X)) ** 2 / (2 * model.noise_scale_**2)
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-6)
    assert shares.dtype == np.float64


def test_score_is_the_weighted_mean(quick, X):
    model = quick().fit(X)
    weight = np.arange(80.0)
    assert model.score(X, sample_weight=weight) == pytest.approx(np.average(model.score_samples(X), weights=weight))


def test_scores_do_not_depend_on_the_random_state(quick, X):
    model = quick().fit(X)
    scores = model.score_samples(X)
    np.testing.assert_array_equal(model.set_params(random_state=7).score_samples(X), scores)


def test_more_draws_raise_the_score_and_the_effective_sample_size(case, quick, X):
    case.needs("importance weights")
    model = quick(max_epochs=30).fit(X)
    scores = [model.set_params(n_score_draws=n).score(X) for n in (1, 8, 128)]
    assert scores[0] < scores[1] + 0.02  # the proposal may be exact already
    assert scores[1] < scores[2] + 0.02
    ess = model.effective_sample_size(X)
    assert ((ess >= 1 - 1e-9) & (ess <= 128 + 1e-9)).all()


def test_rows_of_the_data_are_less_anomalous_than_noise(quick, X):
    model = quick(max_epochs=60).fit(X)
    noise = np.random.default_rng(1).normal(size=X.shape) * 3 * X.std(0) + X.mean(0)
    assert np.median(model.score_anomaly(noise)) > np.median(model.score_anomaly(X))
    assert np.median(model.score_samples(noise)) < np.median(model.score_samples(X))


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_sampling(quick, X):
    model = quick().fit(X)
    np.testing.assert_array_equal(model.sample(5), model.sample(5))
    np.testing.assert_array_equal(model.sample(5, random_state=3), model.sample(5, random_state=3))
    assert not np.array_equal(model.sample(5, random_state=3), model.sample(5, random_state=4))
    assert not np.array_equal(model.sample(5), model.sample(5, mean=True))


def test_samples_have_the_moments_of_the_data(case, quick, X):
    case.needs("columns of their own")
    many = quick(max_epochs=50).fit(X).sample(4000)
    np.testing.assert_allclose(many.mean(0), X.mean(0), atol=0.5 * X.std(0).max())
    assert (many.std(0) > 0.6 * X.std(0)).all()
    assert (many.std(0) < 1.5 * X.std(0)).all()


@pytest.mark.parametrize("n", [0, -1, 1.5, "3"])
def test_sampling_refuses_what_is_no_number_of_rows(quick, X, n):
    with pytest.raises(ValueError, match="n_samples"):
        quick().fit(X).sample(n)


# -- partial_fit, warm start, weights ---------------------------------------------------------------------------------


def test_partial_fit_goes_on(case, quick, X):
    model = quick(max_epochs=30, **case.plain)  # beside linear maps, the first pass begins at the best linear model
    losses = [model.partial_fit(X).loss_curve_[-1] for _ in range(30)]
    assert losses[-1] < losses[0]
    assert model.n_iter_ == len(model.loss_curve_) == 30
    assert model._progress.n_steps == 30 * -(-80 // (BATCH_ROWS if model.batch_size == "auto" else model.batch_size))


def test_partial_fit_freezes_the_standardization(quick, X):
    model = quick().partial_fit(X)
    shift = model.module_.likelihood.units.constant.copy()
    model.partial_fit(X + 100.0)
    np.testing.assert_array_equal(model.module_.likelihood.units.constant, shift)


def test_partial_fit_takes_single_rows_after_the_first_call(quick, X):
    quick().partial_fit(X).partial_fit(X[:1])
    with pytest.raises(ValueError, match="minimum of 2"):
        quick().partial_fit(X[:1])


@pytest.mark.parametrize("case", few_of(CASES), indirect=True)
def test_partial_fit_of_whole_epochs_equals_fit_but_for_the_shuffling(quick, X):
    fitted = quick(max_epochs=40, batch_size=80).fit(X)
    model = quick(max_epochs=40, batch_size=80)
    for _ in range(40):
        model.partial_fit(X)
    assert model.loss_curve_[-1] == pytest.approx(fitted.loss_curve_[-1], rel=0.2, abs=0.5)


def test_partial_fit_refuses_early_stopping_and_a_changed_network(quick, X):
    with pytest.raises(ValueError, match="early_stopping"):
        quick(early_stopping=True).partial_fit(X)
    with pytest.raises(ValueError, match="hidden_layer_sizes changed"):
        quick().partial_fit(X).set_params(hidden_layer_sizes=(9,)).partial_fit(X)


def test_partial_fit_keeps_a_shared_code_with_another_number_of_columns_out(quick, X):
    with pytest.raises(ValueError, match="features"):
        quick().partial_fit(X).partial_fit(X[:, :3])


def test_warm_start_starts_where_the_last_fit_ended(case, quick, X):
    cold = quick(max_epochs=40, **case.plain).fit(X)  # beside linear maps, the first pass begins at the best linear model
    loss = cold.loss_curve_
    warm = cold.set_params(warm_start=True, max_epochs=2).fit(X)
    assert warm.loss_curve_[0] < loss[0]
    assert warm.n_iter_ == 2
    anew = clone(cold).set_params(max_epochs=2).fit(X)
    assert anew.loss_curve_[0] == pytest.approx(loss[0], rel=0.2)
    with pytest.raises(ValueError, match="3 features"):
        warm.fit(X[:, :3])


def test_zero_weights_are_rows_left_out(quick, X):
    weight = np.ones(80)
    weight[50:] = 0
    np.testing.assert_array_equal(quick().fit(X, sample_weight=weight).transform(X), quick().fit(X[:50]).transform(X))


def test_equal_weights_are_no_weights(quick, X):
    np.testing.assert_array_equal(quick().fit(X, sample_weight=np.full(80, 3.0)).transform(X), quick().fit(X).transform(X))


def test_weights_in_full_batches_are_repetitions(case, estimator_class, X):
    """The expected failures of scikit-learn's equivalence checks, at the tolerance of single precision."""
    counts = np.random.default_rng(0).integers(1, 4, size=80)
    # Where training begins at an optimum, as beside linear maps, Adam makes whole steps of rounding.
    params = {"batch_size": 500, "max_epochs": 10, **case.plain}
    if "kl_warmup" in estimator_class().get_params():
        params["kl_warmup"] = 0.0
    model, repeated = case.make(**params), case.make(**params)
    model.fit(X, sample_weight=counts.astype(float))
    repeated.fit(np.repeat(X, counts, axis=0))
    likelihoods = [m.module_.likelihood for m in (model, repeated)]
    np.testing.assert_allclose(likelihoods[0].units.constant, likelihoods[1].units.constant, rtol=1e-10)
    np.testing.assert_allclose(likelihoods[0].units.scale, likelihoods[1].units.scale, rtol=1e-10)
    if not model.module_.noise_shapes and "exact weights" not in case.lacks:  # draws belong to rows, which differ in number
        np.testing.assert_allclose(model.loss_curve_, repeated.loss_curve_, rtol=1e-4)
        np.testing.assert_allclose(model.transform(X), repeated.transform(X), rtol=1e-3, atol=1e-3)


def test_weights_matter(case, quick, X):
    weight = np.where(X[:, 0] > X[:, 0].mean(), 100.0, 1.0)
    model = quick(max_epochs=30).fit(X, sample_weight=weight)
    assert not np.array_equal(model.transform(X), quick(max_epochs=30).fit(X).transform(X))
    column = X.mean(1) if "columns of their own" in case.lacks else X[:, 0]
    assert model.module_.likelihood.units.constant[0] == pytest.approx(np.average(column, weights=weight))


# -- parameters that must be obeyed -----------------------------------------------------------------------------------


def width_of(model, network="encoder"):
    return layers_of(getattr(model.module_, network))[0].out_features


# Parameters that all share, which one of each base class is enough for: a value, and what must be different of the fitted model.
SHARED = [
    ({"n_components": 3}, lambda model: model.n_components_ == 3),
    ({"hidden_layer_sizes": (9,)}, lambda model: width_of(model) == 9),
    ({"activation": "tanh"}, lambda model: isinstance(layers_of(model.module_.encoder)[1], nn.Tanh)),
    ({"activation": nn.Softplus}, lambda model: isinstance(layers_of(model.module_.encoder)[1], nn.Softplus)),
    ({"encoder__dropout": 0.5}, lambda model: any(isinstance(module, nn.Dropout) for module in model.module_.modules())),
    (
        {"encoder__normalization": "batch"},
        lambda model: any(isinstance(module, nn.BatchNorm1d) for module in model.module_.modules()),
    ),
    (
        {"encoder__normalization": "layer"},
        lambda model: any(isinstance(module, nn.LayerNorm) for module in model.module_.modules()),
    ),
    ({"encoder": Net(Encoder)}, lambda model: isinstance(model.module_.encoder, Encoder)),
    ({"decoder": Net(Encoder, width=4)}, lambda model: width_of(model, "decoder") == 4),
    ({"likelihood": "laplace"}, lambda model: type(model.module_.likelihood).__name__ == "LaplaceLikelihood"),
    ({"learning_rate": 0.1}, None),
    ({"optimizer__schedule": "constant"}, None),
    ({"optimizer": "sgd"}, None),
    ({"optimizer": torch.optim.RMSprop}, None),
    ({"optimizer__betas": (0.5, 0.9)}, None),
    ({"batch_size": 16}, lambda model: model._progress.n_steps == 3 * 5),
    ({"max_epochs": 4}, lambda model: model.n_iter_ == 4),
    ({"early_stopping": True}, lambda model: "valid_loss" in model.history_),
    ({"optimizer__clip_norm": 0.01}, None),
    ({"optimizer__clip_value": 0.001}, None),
    ({"random_state": 1}, None),
]
BASES = [case for case in CASES if case.cls in (AutoEncoder, VAETransformer)]


@pytest.fixture(scope="module", params=BASES, ids=str)
def reference(request):
    """A fitted model of each base class: its case, and what it makes of the rows."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(80, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(80, 5))) * [1, 10, 0.1, 5, 1] + 3
    model = request.param.make().fit(X)
    return request.param, model, X, model.reconstruct(X)


@pytest.mark.parametrize(("params", "shows"), SHARED, ids=in_words)
def test_every_shared_parameter_changes_the_result(reference, params, shows):
    case, before, X, rows = reference
    model = case.make(**params).fit(X)
    assert not np.array_equal(model.reconstruct(X), rows)
    if shows is not None:
        assert shows(model)
        assert not shows(before)


def test_a_larger_fraction_is_held_out(reference):
    case, _, X, _ = reference
    models = [case.make(early_stopping__validation_fraction=fraction).fit(X) for fraction in (0.1, 0.4)]
    assert models[0]._progress.n_steps == models[1]._progress.n_steps == 3
    assert not np.array_equal(models[0].reconstruct(X), models[1].reconstruct(X))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_name(X, name):
    model = AutoEncoder(2, hidden_layer_sizes=(8,), activation=name, linear_path=None, max_epochs=1, random_state=0).fit(X)
    layer = model.module_.encoder[1]
    assert isinstance(layer, nn.Linear if name == "identity" else type(ACTIVATIONS[name]()))
    assert np.isfinite(model.score(X))


def test_the_activation_arrives_in_every_network(case, quick, X):
    kinds = {type(module) for module in quick(activation="elu", max_epochs=1).fit(X).module_.modules()}
    assert nn.ELU in kinds
    assert nn.ReLU not in kinds


def test_n_iter_no_change_and_tol(quick, X):
    few = quick(max_epochs=60, early_stopping__n_iter_no_change=2, early_stopping__tol=1e6).fit(X)
    many = quick(max_epochs=60, early_stopping__n_iter_no_change=50, early_stopping__tol=0.0).fit(X)
    assert few.n_iter_ < many.n_iter_
    assert "valid_loss" in few.history_


def test_a_deep_network_is_one_line(case, quick):
    case.needs("encoder")
    X = np.random.default_rng(0).random((20, 196))
    model = quick(hidden_layer_sizes=(250, 125, 60), max_epochs=1).fit(X)
    widths = [layer.out_features for layer in layers_of(model.module_.encoder) if isinstance(layer, nn.Linear)]
    assert widths[:3] == [250, 125, 60]
    widths = [layer.out_features for layer in layers_of(model.module_.decoder) if hasattr(layer, "out_features")]
    assert widths == [60, 125, 250, 196]


def test_auto_sizes(case, estimator_class):
    case.needs("automatic code")
    for n_features, expected in ((1, 1), (2, 2), (13, 4), (64, 8), (100, 10)):
        X = np.random.default_rng(0).normal(size=(20, n_features))
        # Sparse codes are wide.
        expected = 2 * n_features if estimator_class is SparseAE else expected
        assert estimator_class(max_epochs=1).fit(X).n_components_ == expected


@pytest.mark.parametrize("case", few_of(CASES), indirect=True)
def test_parameters_of_a_network_are_searched(case, quick, X):
    case.needs("encoder")
    search = GridSearchCV(quick(encoder=Net(Encoder)), {"encoder__width": [2, 7], next(iter(case.code)): [1, 2]}, cv=2).fit(X)
    assert search.best_estimator_.module_.encoder[0].out_features == search.best_params_["encoder__width"]


def test_fit_leaves_parameters_alone(case, quick, X):
    encoder = {} if "encoder" in case.lacks else {"encoder": Net(Encoder, width=3)}
    model = quick(callbacks=[], optimizer__eps=1e-7, **encoder)
    before = {name: repr(value) for name, value in model.get_params().items()}
    model.fit(X)
    assert {name: repr(value) for name, value in model.get_params().items()} == before


# -- what bad input gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"activation": "swishy"}, "activation"),
        ({"activation": nn.ReLU()}, "activation=ReLU.*instance.*class ReLU"),
        ({"activation": int}, "activation=int is not a subclass"),
        ({"encoder": nn.Linear(5, 2)}, r"encoder=Linear.*instance.*Net\(Linear"),
        ({"decoder": Encoder}, r"decoder=Encoder is a class.*Net\(Encoder"),
        ({"likelihood": "poisson"}, "likelihood"),
        ({"device": "tpu"}, "device='tpu' is not known"),
        ({"device": "cuda:99"}, r"device='cuda:99': torch finds \d+ CUDA"),
        ({"n_components": 0}, "n_components"),
        ({"n_components": 1.5}, "n_components"),
        ({"batch_size": 0}, "batch_size"),
        ({"hidden_layer_sizes": (8, 0)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (8.5,)}, "hidden_layer_sizes"),
        ({"likelihood__noise": 0.0}, "noise"),
        ({"likelihood__noise": "loud"}, "noise"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"optimizer": "adamax2"}, "optimizer"),
        ({"early_stopping__validation_fraction": 1.0}, "validation_fraction"),
        ({"callbacks": {"lr": 0.1}}, r"callbacks holds \{'lr': 0.1\}, which is no callback of skorch"),
        ({"early_stopping__validation_fraction": 0.99}, "validation_fraction=0.99 of 80 rows leaves 1"),
    ],
    ids=str,
)
def test_wrong_parameters(case, quick, X, params, message):
    case.needs(*params)
    model = quick(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "module_")
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X: np.where(X == X.max(), np.nan, X), "NaN"),
        (lambda X: np.where(X == X.max(), np.inf, X), "infinity"),
        (lambda X: X[:0], "0 sample"),
        (lambda X: X[:1], "minimum of 2"),
        (lambda X: X[:, :0], "0 feature"),
        (lambda X: X[0], "1D array"),
        (lambda X: X[np.newaxis], "X has 3 dimensions"),
        (lambda X: X.astype(complex), "[Cc]omplex"),
        (lambda X: X * 1e300, "too large to be computed"),
        (lambda X: pd.DataFrame(X).assign(city="Rome", n="1"), r"Column\(s\) 'city' \(e.g. 'Rome'\)"),
        (lambda X: np.hstack([X.astype(object), np.full((80, 1), "blue")]), r"Column\(s\) 5 \(e.g. 'blue'\)"),
    ],
    ids=["nan", "inf", "empty", "one row", "no column", "1-D", "3-D", "complex", "overflow", "frame", "strings"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wrong_rows(case, quick, X, spoil, message):
    if "3 dimensions" in message:
        case.needs("two dimensions")
    model = quick(likelihood="gaussian")
    with pytest.raises(ValueError, match=message):
        model.fit(spoil(X))
    assert not hasattr(model, "module_")


def test_pixels_under_a_bernoulli_likelihood(quick, X):
    pixels = np.round(255 * (X - X.min()) / np.ptp(X))
    with pytest.raises(ValueError, match=r"\[0, 1\].*0 to 255.*divided by 255"):
        quick(likelihood="bernoulli").fit(pixels)
    with pytest.raises(ValueError, match="MinMaxScaler"):
        quick(likelihood="bernoulli").fit(X - X.mean(0))


def test_wrong_rows_after_fit(case, quick, X):
    model = quick().fit(X)
    for method in ("transform", "reconstruct", "score_samples", "score", "score_anomaly", "explain_anomaly"):
        with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 5"):
            getattr(model, method)(X[:, :3])
    with pytest.raises(ValueError, match=rf"Z has 5 columns.*n_components_={case.width}"):
        model.inverse_transform(X)


@pytest.mark.parametrize(
    "method", ["transform", "reconstruct", "score_samples", "score", "score_anomaly", "explain_anomaly", "inverse_transform"]
)
def test_everything_asks_for_fit_first(estimator_class, X, method):
    with pytest.raises(NotFittedError, match="not fitted"):
        getattr(estimator_class(), method)(X)
    with pytest.raises(NotFittedError, match="not fitted"):
        estimator_class().sample()


class Wrong(nn.Module):
    def __init__(self, n_inputs, n_outputs, extra=1, flat=False):
        super().__init__()
        self.layer, self.flat = nn.Linear(n_inputs, n_outputs + extra), flat

    def forward(self, x):
        return self.layer(x).sum(1) if self.flat else self.layer(x)


def test_misfits_are_reported_in_words(case, quick, X):
    case.needs("decoder")
    with pytest.raises(ValueError, match=r"decoder Net\(Wrong, extra=3\) returns 8 features, X has 5"):
        quick(decoder=Net(Wrong, extra=3)).fit(X)
    with pytest.raises(ValueError, match=rf"encoder Net\(Wrong\) returns .* features, n_components={case.width} asks for"):
        quick(encoder=Net(Wrong)).fit(X)
    with pytest.raises(ValueError, match=r"returns an output of shape \(2,\)"):
        quick(decoder=Net(Wrong, flat=True)).fit(X)


def test_a_refit_that_fails_leaves_the_fitted_estimator(quick, X):
    model = quick().fit(X)
    codes, names = model.transform(X), set(vars(model))
    for bad in (X[:1], np.full((5, 3), np.nan)):
        with pytest.raises(ValueError, match=r"sample|NaN"):
            model.fit(bad)
        assert set(vars(model)) == names
        np.testing.assert_array_equal(model.transform(X), codes)
    model.set_params(learning_rate=1e38, optimizer="sgd", max_epochs=20)
    with pytest.raises(ValueError, match=r"stopped being finite.*learning_rate=1e.38"):
        model.fit(X[:, :3])
    assert model.n_features_in_ == 5
    np.testing.assert_array_equal(model.transform(X), codes)


# Parameters of one estimator alone: what the reference has beside them, and a value that must show.
OWN = [
    (DenoisingAE, {}, {"corruption": "masking"}),
    (DenoisingAE, {}, {"corruption": ["masking", "gaussian"]}),
    (DenoisingAE, {"corruption": "masking"}, {"corruption_rate": 0.8}),
    (DenoisingAE, {"corruption": "masking"}, {"mask_value": 9.0}),
    (DenoisingAE, {}, {"corruption_scale": 2.0}),
    (DenoisingAE, {}, {"noise_unit": "data"}),
    (DenoisingAE, {}, {"pretraining_epochs": 1}),
    (SparseAE, {}, {"penalty": "l1"}),
    (SparseAE, {}, {"sparsity_weight": 50.0}),
    (SparseAE, {"penalty": "l1"}, {"sparsity_weight": 5.0}),
    (SparseAE, {}, {"target_activation": 0.3}),
    (SparseAE, {"penalty": "top_k", "k": 1}, {"k": 3}),
    (SparseAE, {"penalty": "batch_top_k", "k": 1}, {"k": 3}),
    (SparseAE, {"penalty": "top_k", "k": 1}, {"penalty__annealing": 1.0}),
    (SparseAE, {"penalty": "top_k", "k": 1}, {"penalty__alpha": 2.0}),
    (SparseAE, {"penalty": "top_k", "k": 1, "n_components": 300, "max_epochs": 60}, {"revival_weight": 1.0}),
    (ContractiveAE, {}, {"contraction": 3.0}),
    (ContractiveAE, {}, {"jacobian": "hutchinson"}),
    (ContractiveAE, {"jacobian": "hutchinson"}, {"n_probes": 4}),
    (ContractiveAE, {}, {"hessian": 5.0}),
    (ContractiveAE, {"hessian": 5.0}, {"hessian_noise": 1.0}),
    (ContractiveAE, {}, {"code_activation": "tanh"}),
    (AutoEncoder, {}, {"decoder": "tied"}),
    (AutoEncoder, {}, {"image_shape": (1, 2, 3)}),
    (AutoEncoder, {"image_shape": (1, 2, 3)}, {"encoder": Conv(channels=(4,))}),
    (AutoEncoder, {"image_shape": (1, 2, 3)}, {"encoder": Conv(residual_blocks=1)}),
    (AutoEncoder, {"image_shape": (1, 2, 3)}, {"decoder": Conv(upsampling="nearest")}),
]


@pytest.mark.parametrize(("cls", "base", "changed"), OWN, ids=lambda value: getattr(value, "__name__", str(value)))
def test_every_own_parameter_changes_the_result(cls, base, changed):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 6)) * [1, 10, 0.1, 5, 1, 2] + rng.normal(size=(300, 6))
    base = {"n_components": 4, "hidden_layer_sizes": (8,), "max_epochs": 6, "batch_size": 30, "random_state": 0, **base}
    before = cls(**base).fit(X).reconstruct(X)
    assert not np.array_equal(cls(**base).set_params(**changed).fit(X).reconstruct(X), before)


def test_every_own_parameter_is_tried():
    shared = set(AutoEncoder().get_params())
    for cls in (DenoisingAE, SparseAE, ContractiveAE):
        tried = {name.partition("__")[0] for other, _, changed in OWN if other is cls for name in changed}
        assert set(cls().get_params()) - shared - tried <= {"sparse_output"}  # which changes the container, see test_sparse
