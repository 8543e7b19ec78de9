"""Every estimator on a GPU: what it can do there, that it gives what it gives on a CPU, and that it repeats."""

import copy
import logging
import pickle
import time
import traceback
from functools import cache, partial
from typing import NamedTuple

import joblib
import numpy as np
import pytest
import torch
from conftest import ALL_ESTIMATORS
from joblib.externals.loky import get_reusable_executor
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.neighbors import KernelDensity
from torch import nn

from skvae import (
    CVAE,
    MLP,
    TDVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    CodePrior,
    ContractiveAE,
    Conv,
    CVAEClassifier,
    CVAEResampler,
    DenoisingAE,
    EarlyStopping,
    Net,
    Optimizer,
    Recurrent,
    SparseAE,
    VAETransformer,
)
from skvae.modules import VAEModule
from skvae.runtime.randomness import draws_random_numbers
from skvae.training import OPTIMIZER_NAMES, graph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]

DEVICE = "cuda"
QUICK = {"hidden_layer_sizes": (16,), "max_epochs": 5, "batch_size": 32}
PRIOR = partial(CodePrior, max_epochs=2, width=16, n_heads=2)


def _rows():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(80, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(80, 5))) * [1, 10, 0.1, 5, 1] + 3


def _sequences():
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6.28, size=(24, 1)) + 0.5 * np.arange(10)
    waves = np.stack([np.sin(phase), np.cos(phase), np.sin(2 * phase)], axis=2)
    return (waves + 0.2 * rng.normal(size=waves.shape)) * [1, 100, 0.1] + [0, 50, 1]


X = _rows()
LABELS = np.array(list("abc"))[np.digitize(X[:, 1], np.quantile(X[:, 1], [1 / 3, 2 / 3]))]
BINARY = (X > X.mean(axis=0)).astype(float)
GAPS = np.where(np.random.default_rng(1).random(X.shape) < 0.25, np.nan, X)
GAPS[np.isnan(GAPS).all(axis=1), 0] = 1.0
IMAGES, DIGITS = load_digits().images[:64, np.newaxis] / 16.0, load_digits().target[:64] % 3
SEQUENCES = _sequences()
RAGGED = [x[:n] for x, n in zip(SEQUENCES, np.random.default_rng(1).integers(2, 11, 24), strict=True)]


class Case(NamedTuple):
    """An estimator, what it is fitted to and, where `fit` takes more than rows, that."""

    make: object
    X: object = X
    side: dict = {}


class Noisy(nn.Module):
    """A user's network that draws in more ways than one."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.first, self.last, self.bent = nn.Linear(n_inputs, 8), nn.Linear(8, n_outputs), nn.RReLU()

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.randn_like(x) + 0.1 * torch.rand(x.shape, device=x.device)
        return self.last(nn.functional.dropout(self.bent(self.first(x)), 0.2, self.training))


def case(cls, X=X, /, side=None, **params):
    return Case(partial(cls, random_state=0, device=DEVICE, **params), X, side or {})


def quick(cls, X=X, /, side=None, **params):
    return case(cls, X, side=side, **QUICK | params)


Y, IMAGE_Y = {"y": LABELS}, {"y": DIGITS}
CONV = {"encoder": Conv(channels=(8, 16)), "decoder": Conv(channels=(8, 16))}
VQ = {"n_embeddings": 8, "embedding_dim": 3, "code_prior": PRIOR()}
CASES = {
    **{
        cls.__name__: case(
            cls, RAGGED if cls is TDVAE else X, side=Y if cls().__sklearn_tags__().target_tags.required or cls is CVAE else None
        )
        for cls in ALL_ESTIMATORS
    },
    "tied": quick(AutoEncoder, decoder="tied"),
    "laplace": quick(AutoEncoder, likelihood="laplace"),
    "bernoulli": quick(AutoEncoder, BINARY, likelihood="bernoulli"),
    "poisson": quick(VAETransformer, np.floor(np.abs(X)), likelihood="poisson"),
    "missing": quick(AutoEncoder, GAPS, missing_values=np.nan),
    "density": quick(AutoEncoder, density=KernelDensity()),
    "linear": quick(AutoEncoder, hidden_layer_sizes=()),
    "early stopping": quick(AutoEncoder, early_stopping=EarlyStopping(n_iter_no_change=2), max_epochs=20, learning_rate=0.05),
    "normalization, clipping": quick(
        AutoEncoder, encoder=MLP(normalization="batch", dropout=0.2), optimizer=Optimizer(clip_norm=1.0, clip_value=0.1)
    ),
    "weights": quick(AutoEncoder, side={"sample_weight": np.arange(80) % 3}),
    "sparse matrix": quick(AutoEncoder, sparse.csr_array(np.where(X > 3, X, 0.0))),
    "a network of the user's": quick(AutoEncoder, encoder=Net(Noisy)),
    "denoising, all corruptions": quick(DenoisingAE, corruption=["gaussian", "masking", "salt_and_pepper", "dropout"]),
    "denoising, missing": quick(DenoisingAE, GAPS, missing_values=np.nan, corruption="masking"),
    "denoising, pretrained": quick(DenoisingAE, pretraining_epochs=2, hidden_layer_sizes=(16, 8)),
    "l1": quick(SparseAE, penalty="l1"),
    "top k": quick(SparseAE, penalty="top_k", k=3, n_components=20, revival_weight=1.0),
    "batch top k": quick(SparseAE, penalty="batch_top_k", k=3, n_components=20),
    "contractive, exact": quick(ContractiveAE, jacobian="exact", code_activation="tanh", activation="tanh"),
    "contractive, hutchinson": quick(ContractiveAE, jacobian="hutchinson", hessian=0.1, decoder=None),
    "contractive, analytic": quick(ContractiveAE, jacobian="analytic", hidden_layer_sizes=(), code_activation="sigmoid"),
    "vae, capacity": quick(VAETransformer, capacity=2.0, n_draws=3, activation="gelu"),
    "vae, missing": quick(VAETransformer, GAPS, missing_values=np.nan),
    "cvae, conditional prior": quick(CVAE, side=Y, prior="conditional"),
    "cvae, columns": quick(CVAE, condition_columns=[2], encode_condition=True),
    "cvae, bernoulli": quick(CVAE, BINARY, side=Y, likelihood="bernoulli"),
    "convolutions": quick(VAETransformer, IMAGES, **CONV),
    "tied convolutions": quick(AutoEncoder, IMAGES, encoder=Conv(channels=(8, 16), normalization="batch"), decoder="tied"),
    "residual blocks": quick(
        AutoEncoder,
        IMAGES,
        encoder=Conv(residual_blocks=1, normalization="layer", dropout=0.1),
        decoder=Conv(upsampling="nearest", normalization="layer", dropout=0.1),
    ),
    "contractive convolutions": quick(ContractiveAE, IMAGES, encoder=Conv(channels=(8,))),
    "cvae of images": quick(CVAE, IMAGES, side=IMAGE_Y, **CONV),
    "vqvae, gradient": quick(VQVAE, side=Y, codebook="gradient", gradient="rotation", entropy_weight=0.1, n_codes=2, **VQ),
    "vqvae, cosine": quick(VQVAE, similarity="cosine", n_codes=2, n_levels=2, **VQ | {"code_prior": PRIOR("transformer")}),
    "vqvae, clusters": quick(VQVAE, n_codes=1, **VQ),
    "vqvae, histogram": quick(VQVAE, side=Y, code_prior="histogram", n_embeddings=8),
    "vqvae of images": quick(
        VQVAE, IMAGES, side=IMAGE_Y, encoder=Conv(channels=(8, 16)), n_levels=2, **VQ | {"code_prior": PRIOR("pixelsnail")}
    ),
    "vqvae of images, transformer": quick(
        VQVAE, IMAGES, encoder=Conv(channels=(8,)), **VQ | {"code_prior": PRIOR("transformer")}
    ),
    "tdvae, gru": quick(TDVAE, RAGGED, encoder=Recurrent("gru", n_layers=2, dropout=0.3), n_latent_layers=2, n_components=16),
    "tdvae, lstm": quick(TDVAE, SEQUENCES, encoder=Recurrent("lstm", n_layers=2, dropout=0.3), early_stopping=True),
}
WRAPPERS = {
    "clusterer": Case(lambda: AutoencoderClusterer(3, estimator=AutoEncoder(**QUICK, device=DEVICE), n_init=2, random_state=0)),
    "detector": Case(lambda: AnomalyDetector(AutoEncoder(**QUICK, device=DEVICE), random_state=0)),
    "detector, cross": Case(
        lambda: AnomalyDetector(VAETransformer(**QUICK, device=DEVICE), calibration="cross", n_jobs=2, random_state=0)
    ),
    **{
        f"imputer, {mechanism}": Case(
            partial(
                AutoencoderImputer, VAETransformer(2, **QUICK, device=DEVICE), mechanism=mechanism, n_draws=50, random_state=0
            ),
            GAPS,
        )
        for mechanism in ("random", "self_masking", "linear", "nonlinear")
    },
    "imputer, autoencoder": Case(lambda: AutoencoderImputer(AutoEncoder(2, **QUICK, device=DEVICE), random_state=0), GAPS),
    "classifier": Case(lambda: CVAEClassifier(CVAE(**QUICK, device=DEVICE), random_state=0), side=Y),
}

# Of what takes rows, those whose results for a row depend on nothing but the row.
PER_ROW = (
    "transform",
    "reconstruct",
    "denoise",
    "encode",
    "predict",
    "score_samples",
    "effective_sample_size",
    "score_anomaly",
    "explain_anomaly",
    "bits_per_dim",
    "jacobian_norm",
    "beliefs",
    "posterior",
    "log_likelihoods",
    "decision_function",
    "p_values",
    "predict_log_proba",
)


def fitted(this):
    return this.make().fit(this.X, **this.side)


@cache
def fitted_once(name):
    return fitted((CASES | WRAPPERS)[name])


def side_of(model, this, method):
    """What a conditional model takes beside rows in one of its methods."""
    methods = {
        CVAE: ("reconstruct", "posterior", "score", "score_samples", "effective_sample_size", "score_anomaly", "explain_anomaly"),
        VQVAE: ("score", "score_samples", "bits_per_dim"),
    }
    return {"y": this.side["y"]} if "y" in this.side and method in methods.get(type(model), ()) else {}


def per_row(model, this, rows=None):
    """Results of all methods for rows, or for some of them."""

    def some(values):
        if rows is None:
            return values
        return [values[i] for i in rows] if isinstance(values, list) else values[rows]

    for method in PER_ROW:
        if hasattr(model, method) and (method != "log_likelihoods" or this.side):
            side = {name: some(value) for name, value in side_of(model, this, method).items()}
            yield method, partial(getattr(model, method), some(this.X), **side)
    if hasattr(model, "n_score_draws") or isinstance(model, VQVAE):
        for name in () if isinstance(model, TDVAE) else ("reconstruction", "mahalanobis", "likelihood"):
            side = {name: some(value) for name, value in side_of(model, this, "score_anomaly").items()}
            yield f"score_anomaly, {name}", partial(model.score_anomaly, some(this.X), **side, method=name)


def beside(model, this):
    """Other results, which depend on no generator of the device."""
    if hasattr(model, "inverse_transform") and not isinstance(model, CVAE):
        yield "inverse_transform", lambda: model.inverse_transform(model.transform(this.X))
    if hasattr(model, "sample"):
        if isinstance(model, TDVAE):
            yield "forecast", partial(model.forecast, SEQUENCES, 2)
            yield "score_anomaly_steps", partial(model.score_anomaly_steps, SEQUENCES)
        elif not isinstance(model, VQVAE):
            yield "sample, mean", partial(model.sample, 5, mean=True, random_state=1)
    if isinstance(model, VQVAE) and model.code_prior is not None:
        yield "sample_codes", partial(model.sample_codes, 20, random_state=1)
        yield "sample, mean", partial(model.sample, 5, mean=True, random_state=1)
    if hasattr(model, "module_"):
        yield "noise_scale_", lambda: model.noise_scale_


def drawn(model, this):
    """Results that a generator of the device decides."""
    if hasattr(model, "sample"):
        yield "sample", partial(model.sample, 4, random_state=1)
    if isinstance(model, (AutoEncoder, VAETransformer)):
        yield "sample, given", partial(model.sample, 4, given={0: 1.0}, random_state=1)
    if isinstance(model, TDVAE):
        yield "rollout", partial(model.rollout, SEQUENCES, 3, n_futures=2, random_state=1)
        yield "update_belief", lambda: model.update_belief(SEQUENCES[:, 1], model.update_belief(SEQUENCES[:, 0])).belief
    if isinstance(model, CVAE) and "y" in this.side:
        mask = np.zeros(this.X.shape[1:], dtype=bool)
        mask[..., :2] = True
        yield "inpaint", partial(model.inpaint, this.X, mask, this.side["y"], random_state=1)
        yield "draw_inpaintings", partial(model.draw_inpaintings, this.X, mask, this.side["y"], 2, random_state=1)
        yield "style_transfer", partial(model.style_transfer, this.X, this.side["y"])
    if isinstance(model, VAETransformer):
        yield "interpolate", lambda: model.interpolate(this.X[:2], this.X[2:4])
    if isinstance(model, AutoencoderImputer):
        yield "transform", partial(model.transform, this.X)
        yield "impute", partial(model.impute, this.X, 2, random_state=1)
    if hasattr(model, "score"):
        yield "score", partial(model.score, this.X, **side_of(model, this, "score") or this.side)


def parts(result):
    """Arrays of a result, whatever it is."""
    if isinstance(result, list | tuple):
        return [array for part in result for array in parts(part)]
    return [result.toarray() if sparse.issparse(result) else np.asarray(result)]


def is_close(one, other):
    """Whether two results agree as far as single precision lets them."""
    for a, b in zip(parts(one), parts(other), strict=True):
        if a.dtype.kind not in "fc":
            return np.array_equal(a, b)
        size = np.nanmax(np.abs(b), initial=0.0)
        if not np.allclose(a, b, rtol=2e-3, atol=1e-3 * min(1.0, size) + 1e-6, equal_nan=True):
            print(f"largest difference {np.nanmax(np.abs(a - b)):.3g}, largest entry {size:.3g}")
            return False
    return True


def is_same(one, other):
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(parts(one), parts(other), strict=True))


class Complaints(list):
    """What went wrong, so that one failure does not hide the next."""

    def call(self, name, function):
        try:
            return function()
        except Exception:
            self.append(f"{name}:\n{traceback.format_exc()}")

    def none(self):
        assert not self, "\n".join(self)


@pytest.mark.parametrize("name", [*CASES, *WRAPPERS])
def test_everything_works(name):
    this, complaints = (CASES | WRAPPERS)[name], Complaints()
    model = fitted_once(name)
    for what, function in (*per_row(model, this), *beside(model, this), *drawn(model, this)):
        result = complaints.call(what, function)
        if result is not None and not all(
            array.dtype.kind != "f" or isinstance(this.X, list) or np.isfinite(array).all() for array in parts(result)
        ):
            complaints.append(f"{what}: not finite")
    if hasattr(model, "module_"):
        assert next(model.module_.parameters()).is_cuda == (DEVICE == "cuda")
        assert b"cuda" not in pickle.dumps(copy.copy(model).set_params(device="cpu"))
    complaints.none()


@pytest.mark.parametrize("name", CASES)
def test_a_cpu_gives_the_same(name):
    this, complaints = CASES[name], Complaints()
    model = fitted_once(name)
    loaded = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    for methods in (per_row, beside):
        for (what, here), (_, there) in zip(methods(model, this), methods(loaded, this), strict=True):
            results = complaints.call(what, lambda here=here, there=there: (here(), there()))
            if results is not None and not is_close(*results):
                complaints.append(f"{what} differs")
    assert next(loaded.module_.parameters()).device.type == "cpu"
    complaints.none()


@pytest.mark.parametrize("name", [*CASES, *WRAPPERS])
def test_a_fit_repeats(name):
    this, complaints = (CASES | WRAPPERS)[name], Complaints()
    model, again = fitted_once(name), fitted(this)
    for methods in (per_row, beside, drawn):
        for (what, here), (_, there) in zip(methods(model, this), methods(again, this), strict=True):
            results = complaints.call(what, lambda here=here, there=there: (here(), there()))
            if results is not None and not is_same(*results):
                complaints.append(f"{what} differs")
    complaints.none()


@pytest.mark.parametrize("name", [*CASES, *WRAPPERS])
def test_a_row_does_not_depend_on_its_neighbors(name):
    this, complaints = (CASES | WRAPPERS)[name], Complaints()
    model, rows = fitted_once(name), np.array([17, 3, 5])
    for (what, everything), (_, some) in zip(per_row(model, this), per_row(model, this, rows), strict=True):
        results = complaints.call(what, lambda everything=everything, some=some: (parts(everything()), parts(some())))
        if results is not None and what != "beliefs" and not is_same([part[rows] for part in results[0]], results[1]):
            complaints.append(f"{what} differs")
    complaints.none()


@pytest.mark.parametrize("name", [name for name, this in CASES.items() if not this.make().early_stopping])
def test_training_goes_on(name):
    this = CASES[name]
    model = pickle.loads(pickle.dumps(fitted_once(name)))
    loaded = pickle.loads(pickle.dumps(model))
    for _ in range(2):
        model.partial_fit(this.X, **this.side), loaded.partial_fit(this.X, **this.side)
    assert is_same(model.transform(this.X), loaded.transform(this.X))
    for device in ("cpu", DEVICE):
        model.set_params(device=device).partial_fit(this.X, **this.side)
    assert np.isfinite(model.loss_curve_).all()
    warm = pickle.loads(pickle.dumps(loaded)).set_params(warm_start=True).fit(this.X, **this.side)
    assert np.isfinite(warm.loss_curve_).all()


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_optimizers(optimizer):
    model = AutoEncoder(2, **QUICK, optimizer=optimizer, device=DEVICE, random_state=0).fit(X)
    loaded = pickle.loads(pickle.dumps(model))
    model.partial_fit(X), loaded.partial_fit(X)
    assert is_same(model.transform(X), loaded.transform(X))
    assert np.isfinite(loaded.set_params(device="cpu").partial_fit(X).transform(X)).all()


@pytest.mark.filterwarnings("error")
def test_settings_of_an_optimizer_that_change():
    model = AutoEncoder(2, **QUICK, device=DEVICE, random_state=0).fit(X)
    for params in ({"amsgrad": True}, {"weight_decay": 0.1}, {"fused": False}, {"foreach": True}, {"capturable": True}):
        assert np.isfinite(model.set_params(optimizer=Optimizer("adam", **params)).partial_fit(X).transform(X)).all()


def test_a_resampler():
    rows, labels = np.vstack([X, X[LABELS == "a"] + 0.1]), np.concatenate([LABELS, ["a"] * int((LABELS == "a").sum())])
    results = [CVAEResampler(CVAE(**QUICK, device=DEVICE), random_state=0).fit_resample(rows, labels) for _ in range(2)]
    assert is_same(*results)
    assert len(results[0][0]) > len(rows)


def fit_one(name, seed):
    this = CASES[name]
    model = this.make().set_params(random_state=seed).fit(this.X, **this.side)
    return [model.transform(this.X), model.sample(3)]


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("name", ["a network of the user's", "convolutions", "tdvae, gru"])
def test_fits_side_by_side_give_what_they_give_alone(name, backend):
    get_reusable_executor().shutdown()  # processes of other tests see no GPU
    alone = [fit_one(name, seed) for seed in range(3)]
    together = joblib.Parallel(n_jobs=3, backend=backend)(joblib.delayed(fit_one)(name, seed) for seed in range(3))
    assert is_same(alone, together)
    assert not is_same(alone[0], alone[1])


@pytest.mark.parametrize("name", ["a network of the user's", "convolutions", "tdvae, gru", "residual blocks"])
def test_global_states_are_left_alone(name):
    this, cudnn = CASES[name], torch.backends.cudnn
    settings = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    state = torch.cuda.get_rng_state()
    model = fitted(this)
    model.partial_fit(this.X) if not model.early_stopping else None
    model.transform(this.X), model.score_samples(this.X), model.sample(2), model.score(this.X)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == settings
    torch.cuda.manual_seed(5)
    assert is_same(fitted(this).transform(this.X), model.fit(this.X).transform(this.X))


@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer, ContractiveAE])
def test_results_do_not_depend_on_chunks(cls):
    rows = np.tile(X, (900, 1))  # more than two chunks
    rows[:, 0] += np.arange(len(rows)) / 100
    model = cls(3, hidden_layer_sizes=(10,), max_epochs=1, n_score_draws=2, device=DEVICE, random_state=0).fit(rows[:200])
    order = np.random.default_rng(0).permutation(len(rows))
    for method in ("transform", "reconstruct", "score_samples", "score_anomaly"):
        function = getattr(model, method)
        everything = function(rows)
        np.testing.assert_array_equal(function(rows[order]), everything[order])
        np.testing.assert_array_equal(function(rows[32760:32780]), everything[32760:32780])


def test_rows_that_stay_in_memory_train_alike(monkeypatch):
    for name in ("VAETransformer", "tdvae, gru", "missing"):
        this = CASES[name]
        monkeypatch.setattr("skvae.training.loader.fits_on", lambda device, n_bytes: False)
        streamed = fitted(this).transform(this.X)
        monkeypatch.undo()
        assert is_same(streamed, fitted_once(name).transform(this.X))


@pytest.mark.parametrize("params", [{"encoder": Conv(channels=(32, 64))}, {"hidden_layer_sizes": (512, 256)}], ids=str)
def test_precision(params):
    """Single, and not the half of it that cuDNN keeps by default."""
    rows = np.random.default_rng(0).random((300, 1, 28, 28))
    model = VAETransformer(32, max_epochs=2, device=DEVICE, random_state=0, **params).fit(rows)
    loaded = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    np.testing.assert_allclose(model.transform(rows), loaded.transform(rows), atol=2e-5)
    np.testing.assert_allclose(model.reconstruct(rows), loaded.reconstruct(rows), atol=2e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_precision_of_beliefs(cell):
    waves = np.sin(np.random.default_rng(0).uniform(0, 6, (100, 1, 8)) + 0.3 * np.arange(60)[:, np.newaxis])
    model = TDVAE(128, encoder=cell, max_epochs=2, device=DEVICE, random_state=0).fit(waves)
    loaded = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    np.testing.assert_allclose(model.beliefs(waves), loaded.beliefs(waves), atol=2e-5)


# -- steps that are recorded and replayed -----------------------------------------------------------------------------


@pytest.fixture
def steps(monkeypatch):
    """Steps that are made to be recorded; runs of any length are."""
    made, build = [], graph.GraphStep.__init__
    monkeypatch.setattr(
        graph.GraphStep, "__init__", lambda self, *args, **kwargs: made.append(self) or build(self, *args, **kwargs)
    )
    monkeypatch.setattr(graph, "_PAYING_STEPS", 0)
    monkeypatch.setattr(graph.CudaRecorder, "_failed", [])
    return made


def one_by_one(this, monkeypatch):
    """Fit an estimator without a graph."""
    with monkeypatch.context() as context:
        context.setattr(graph, "recorder_for", lambda device: None)
        return fitted(this)


@pytest.mark.parametrize("name", CASES)
def test_replays_give_what_steps_one_by_one_give(name, steps, monkeypatch):
    this, state = CASES[name], torch.cuda.get_rng_state()
    replayed = fitted(this)
    expected = one_by_one(this, monkeypatch)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert is_same(replayed.transform(this.X), expected.transform(this.X))
    assert is_same(list(replayed.history_.values()), list(expected.history_.values()))
    assert [step.obstacle for step in steps if step.obstacle is not None] == []
    draws = draws_random_numbers(copy.deepcopy(replayed.module_).train())
    assert draws or max(step.n_replayed for step in steps) > 0


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_replays_of_rounded_products(precision, steps, monkeypatch):
    this = quick(AutoEncoder, max_epochs=20, precision=precision, optimizer=Optimizer("adamw", clip_norm=1.0, weight_decay=0.1))
    assert is_same(fitted(this).transform(X), one_by_one(this, monkeypatch).transform(X))
    assert steps[-1].obstacle is None
    assert steps[-1].n_replayed > 30


def test_small_networks_are_trained_faster(steps, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(4096, 20))
    this = quick(VAETransformer, rows, max_epochs=40, batch_size=128)
    for _ in range(2):  # of which the first loads kernels
        start = time.perf_counter()
        fitted(this)
        between = time.perf_counter()
        one_by_one(this, monkeypatch)
        end = time.perf_counter()
    logging.getLogger(__name__).info("replayed %.2f s, one by one %.2f s", between - start, end - between)
    assert steps[-1].n_replayed > 1000
    assert between - start < 0.7 * (end - between)


def waiting(monkeypatch):
    """Have losses of a VAE look at a number on the way."""
    loss = VAEModule.loss

    def wait(self, batch, schedule):
        found = loss(self, batch, schedule)
        found.terms["kl"].sum().item()
        return found

    monkeypatch.setattr(VAEModule, "loss", wait)


@pytest.mark.parametrize("is_seen", [True, False])
def test_what_cannot_be_recorded_is_trained_one_by_one(is_seen, steps, monkeypatch):
    this = quick(VAETransformer)
    waiting(monkeypatch)
    if not is_seen:  # before it is tried
        monkeypatch.setattr(graph, "obstacle_in", lambda *args: None)
    model = fitted(this)
    assert ("waits for" if is_seen else "recording failed") in steps[-1].obstacle
    assert is_same(model.transform(X), one_by_one(this, monkeypatch).transform(X))
    torch.cuda.empty_cache()
    monkeypatch.setattr(graph.CudaRecorder, "_failed", [])
    assert is_same(fitted(CASES["convolutions"]).transform(IMAGES), fitted_once("convolutions").transform(IMAGES))
    assert steps[-1].obstacle is None


def test_fits_in_threads_are_recorded_side_by_side(steps):
    this = quick(VAETransformer, max_epochs=40)

    def fit(seed):
        return this.make().set_params(random_state=seed).fit(X).transform(X)

    alone = [fit(seed) for seed in range(4)]
    assert is_same(alone, joblib.Parallel(n_jobs=4, backend="threading")(joblib.delayed(fit)(seed) for seed in range(4)))
    assert all(step.obstacle is None for step in steps)


def test_memory_of_graphs_is_given_back(steps):
    this = quick(VAETransformer, max_epochs=20)
    used = []
    for _ in range(4):
        fitted(this)
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert used[-1] <= used[1] + 2**20
