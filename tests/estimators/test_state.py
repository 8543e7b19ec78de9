"""State and randomness: pickles of plain data, private generators, fits side by side."""

import copy
import io
import pickle
import pickletools

import joblib
import numpy as np
import pytest
import torch
from cases import CASES
from conftest import crossed
from sklearn.base import clone
from torch import nn

from skvae import MLP, AutoEncoder, Net, Recurrent, SparseAE, VAETransformer
from skvae.modules import Batch
from skvae.runtime.state import copy_of, load_optimizer_state, n_bytes_of, plain_optimizer_state

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


class NoisyEncoder(nn.Module):
    """A user's network that draws from torch's global generator wherever it can."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.first, self.last = nn.Linear(n_inputs, 8), nn.Linear(8, n_outputs)

    def forward(self, x):
        if self.training:
            x = x + 0.1 * torch.randn_like(x) + torch.rand(x.shape) * 0.1
        return self.last(nn.functional.dropout(torch.relu(self.first(x)), 0.2, self.training))


def signature(model, X):
    return model.transform(X).tobytes() + model.score_samples(X).tobytes() + model.sample(3).tobytes()


def noisy(case):
    """Networks that draw numbers in training."""
    if "encoder" in case.lacks:
        return {"encoder": Recurrent("gru", n_layers=2, dropout=0.2), "decoder": MLP(dropout=0.3)}
    return {"encoder": Net(NoisyEncoder), "decoder": MLP(dropout=0.3)}


def fit_one(case, X, seed):
    return signature(case.make(**noisy(case), max_epochs=4, batch_size=20, random_state=seed).fit(X), X)


def in_threads(case):
    stands_for_others = case.cls in (AutoEncoder, SparseAE, VAETransformer)
    return pytest.param(case, "threading", marks=[] if stands_for_others else [pytest.mark.slow])


# Threads share what is global; that processes share nothing is to be seen of one estimator.
@pytest.mark.parametrize(
    ("case", "backend"),
    [*(in_threads(case) for case in CASES), (CASES[0], "loky")],
    ids=str,
)
def test_fits_side_by_side_give_what_they_give_alone(case, X, backend):
    alone = [fit_one(case, X, seed) for seed in range(4)]
    together = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(fit_one)(case, X, seed) for seed in range(4))
    assert together == alone
    assert len(set(alone)) == 4


def test_torch_and_numpy_global_states_are_left_alone(case, quick, X):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model = quick(**noisy(case)).fit(X)
    model.partial_fit(X), model.transform(X), model.sample(2), model.score(X), model.reconstruct(X), model.score_anomaly(X)
    pickle.loads(pickle.dumps(model))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_torch_global_seed_does_not_matter(quick, X):
    torch.manual_seed(0)
    first = signature(quick().fit(X), X)
    torch.manual_seed(1)
    assert signature(quick().fit(X), X) == first


def test_without_a_random_state_numpy_decides(quick, X):
    np.random.seed(0)  # noqa: NPY002
    first = quick(random_state=None).fit(X).transform(X)
    second = quick(random_state=None).fit(X).transform(X)
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(quick(random_state=None).fit(X).transform(X), first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("case", "dump"), crossed(CASES, ["pickle", "joblib", "deepcopy"]), indirect=["case"], ids=str)
def test_round_trip(case, quick, X, dump):
    model = quick(**noisy(case), decoder__normalization="layer").fit(X)
    if dump == "pickle":
        loaded = pickle.loads(pickle.dumps(model))
    elif dump == "joblib":
        buffer = io.BytesIO()
        joblib.dump(model, buffer)
        buffer.seek(0)
        loaded = joblib.load(buffer)
    else:
        loaded = copy.deepcopy(model)
    assert signature(loaded, X) == signature(model, X)
    np.testing.assert_array_equal(loaded.loss_curve_, model.loss_curve_)
    weights = [next(m.module_.decoder.parameters()) for m in (model, loaded)]
    assert weights[0] is not weights[1]


def test_pickles_hold_no_torch_storage(quick, X):
    text = pickle.dumps(quick(optimizer="sgd", optimizer__momentum=0.9).fit(X))
    names = {str(argument) for _, argument, _ in pickletools.genops(text) if isinstance(argument, str)}
    assert not {name for name in names if name.startswith("torch")}
    assert "_rebuild_tensor_v2" not in names
    assert b"cuda" not in text


@pytest.mark.parametrize("widths", [(8,), (256, 128)])
def test_size_of_a_pickle(quick, X, widths):
    model = quick(hidden_layer_sizes=widths).fit(X)
    weights = sum(p.numel() * p.element_size() for p in model.module_.state_dict().values() if isinstance(p, torch.Tensor))
    moments = sum(v.nbytes for entry in model._progress.optimizer["state"].values() for v in entry.values())
    assert len(pickle.dumps(model)) <= 1.3 * (weights + moments) + 64_000


@pytest.mark.parametrize(
    ("params", "shape"),
    crossed([{}, {"hidden_layer_sizes": ()}, {"optimizer": "sgd"}], [(2000, 64), (600, 1000)]),
    ids=str,
)
def test_rows_that_are_kept_do_not_blow_a_pickle_up(shape, params):
    n_rows, n_features = shape
    X = np.random.default_rng(0).normal(size=(n_rows, n_features))
    for cls in (AutoEncoder, SparseAE, VAETransformer):
        model = cls(random_state=0, max_epochs=1, **params).fit(X)
        model.score_anomaly(X[:3])
        trained = n_bytes_of(list(model.module_.parameters())) + n_bytes_of(model._progress.optimizer)
        beside = n_bytes_of(model.module_.state_dict()) - n_bytes_of(list(model.module_.parameters()))
        assert len(pickle.dumps(model)) <= 1.5 * trained + max(200_000, beside + 4 * n_features * 64 + 70_000)


def test_a_small_chunk_of_a_stream_costs_what_it_brings(case, quick, X):
    """Networks read about as many rows as there are, a few times, however many rows came before."""
    case.needs("encoder")
    X = np.random.default_rng(0).normal(size=(2000, 5))
    model = quick().partial_fit(X)
    n_read = 0

    def count(layer, args):
        nonlocal n_read
        n_read += len(args[0])

    first = next(layer for layer in model.module_.encoder.modules() if isinstance(layer, nn.Linear))
    first.register_forward_pre_hook(count)  # which copies of the module keep
    model.partial_fit(X[:32])
    assert 32 <= n_read <= 600


@pytest.mark.parametrize("params", [{}, {"decoder": "tied"}, {"activation": torch.nn.PReLU}], ids=str)
def test_copies_of_modules(X, params):
    module = AutoEncoder(2, random_state=0, max_epochs=2, **params).fit(X).module_
    fast, slow = copy_of(module), copy.deepcopy(module)
    assert str(fast) == str(slow)
    for (name, value), (other, expected) in zip(fast.state_dict().items(), slow.state_dict().items(), strict=True):
        assert name == other
        assert not isinstance(value, torch.Tensor) or torch.equal(value, expected)
    mine = {id(value) for value in (*module.parameters(), *module.buffers(), *module.modules())}
    assert not mine & {id(value) for value in (*fast.parameters(), *fast.buffers(), *fast.modules())}
    assert len(list(fast.parameters())) == len(list(slow.parameters()))
    for layer, expected, own in zip(fast.modules(), slow.modules(), module.modules(), strict=True):
        assert layer._non_persistent_buffers_set == expected._non_persistent_buffers_set
        assert layer._non_persistent_buffers_set is not own._non_persistent_buffers_set
    with torch.no_grad():
        for value in fast.parameters():
            value.add_(1.0)
    batch = Batch.of(torch.ones(2, 5))
    assert torch.equal(slow.encode(batch), module.encode(batch))
    assert not torch.equal(fast.decode(fast.encode(batch), batch), module.decode(module.encode(batch), batch))


# Every estimator's state, and every kind of an optimizer's.
@pytest.mark.parametrize(
    ("case", "optimizer"),
    [*((case, "adam") for case in CASES), *((CASES[0], optimizer) for optimizer in ("adamw", "sgd", "rmsprop"))],
    ids=str,
)
def test_training_goes_on_after_loading_exactly(case, X, optimizer):
    network = "decoder" if "encoder" in case.lacks else "encoder"
    normalization = "layer" if "batch normalization" in case.lacks else "batch"
    layers = {f"{network}__dropout": 0.2, f"{network}__normalization": normalization}
    model = case.make(**layers, optimizer=optimizer, max_epochs=10).fit(X)
    loaded = pickle.loads(pickle.dumps(model))
    for _ in range(3):
        model.partial_fit(X), loaded.partial_fit(X)
    assert signature(loaded, X) == signature(model, X)
    assert loaded.loss_curve_ == model.loss_curve_
    assert model.n_iter_ == 13


def test_partial_fit_obeys_what_has_changed_of_the_optimizer(X):
    def fitted(**params):
        model = AutoEncoder(2, hidden_layer_sizes=(8,), random_state=0).partial_fit(X)
        return model.set_params(**params).partial_fit(X).transform(X)

    same = fitted()
    for params in (
        {"optimizer__weight_decay": 1e3},
        {"optimizer__amsgrad": True, "optimizer__eps": 1e-3},  # which gathers more
        {"optimizer": "sgd"},
        {"optimizer": "adamw"},
    ):
        assert not np.array_equal(fitted(**params), same)


@pytest.mark.filterwarnings("error")
def test_models_in_memory_maps_go_on(X, tmp_path):
    joblib.dump(AutoEncoder(2, max_epochs=2, random_state=0).fit(X), tmp_path / "model")
    mapped, loaded = (joblib.load(tmp_path / "model", mmap_mode=mode) for mode in ("r", None))
    np.testing.assert_array_equal(mapped.partial_fit(X).score_anomaly(X), loaded.partial_fit(X).score_anomaly(X))


def test_inference_mode_is_left_for_training(X):
    expected = AutoEncoder(2, max_epochs=2, random_state=0).fit(X).transform(X)
    with torch.inference_mode():
        np.testing.assert_array_equal(AutoEncoder(2, max_epochs=2, random_state=0).fit(X).transform(X), expected)


def test_unfitted_estimators_pickle_and_clone(case, quick):
    model = quick(**noisy(case))
    assert pickle.loads(pickle.dumps(model)).get_params() == model.get_params()
    assert clone(model).get_params() == model.get_params()


def test_clones_of_fitted_estimators_are_unfitted(quick, X):
    assert not hasattr(clone(quick().fit(X)), "module_")


def test_streams_and_resident_rows_train_alike(quick, X, monkeypatch):
    expected = signature(quick().fit(X), X)
    monkeypatch.setattr("skvae.training.loader.RESIDENT_BYTES", 0)
    assert signature(quick().fit(X), X) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(quick, X):
    model = quick(max_epochs=5, device="cuda").fit(X)
    on_gpu = model.transform(X)
    assert next(model.module_.parameters()).is_cuda
    loaded = pickle.loads(pickle.dumps(model)).set_params(device="cpu")
    np.testing.assert_allclose(loaded.transform(X), on_gpu, atol=1e-4)
    np.testing.assert_allclose(loaded.score_samples(X), model.score_samples(X), atol=1e-2)
    np.testing.assert_allclose(loaded.explain_anomaly(X).sum(1), model.score_anomaly(X), rtol=1e-3)
    loaded.partial_fit(X)
    model.sample(3), model.partial_fit(X)


def test_settings_are_the_same_after_loading():
    """torch adds to the defaults of some optimizers when a state is loaded, which is no change of the user's."""
    for cls in (torch.optim.Adafactor, torch.optim.Adam):
        first, second = (cls([nn.Parameter(torch.ones(2, 3))], lr=0.1) for _ in range(2))
        first.param_groups[0]["params"][0].grad = torch.ones(2, 3)
        first.step()
        load_optimizer_state(second, plain_optimizer_state(first))
        assert plain_optimizer_state(second)["settings"] == plain_optimizer_state(first)["settings"]


def test_hashes_go_through_a_pickle(case, quick, X):
    # Pickles give arrays without entries, such as losses of priors that learn nothing, other strides.
    params = {"code_prior": None} if "code_prior" in case.cls().get_params() else {}
    model = quick(**params).fit(X)
    assert joblib.hash(pickle.loads(pickle.dumps(model))) == joblib.hash(model)
    assert joblib.hash(quick(random_state=1, **params).fit(X)) != joblib.hash(model)
