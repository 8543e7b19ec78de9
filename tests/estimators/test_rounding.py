"""Products that are rounded in training, and nothing else."""

import copy
import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import CASES
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skvae import MLP, AutoEncoder, ContractiveAE, Conv, Net, VAETransformer
from skvae.estimators import _checks as check
from skvae.modules import AutoEncoderModule, ContractiveModule, TDVAEModule
from skvae.runtime import precision
from skvae.runtime.precision import is_rounded, rounded
from skvae.training import EarlyStopping

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def made(monkeypatch):
    """What was made to round networks, in order."""
    made = []

    class Noted(precision._Rounding):
        def __init__(self, device_type):
            super().__init__(device_type)
            made.append(self)

    monkeypatch.setattr(precision, "_Rounding", Noted)
    return made


class Outside(TorchDispatchMode):
    """Notes the operations outside the networks, or without gradients, that return rounded numbers, and counts those within."""

    def __init__(self, made):
        super().__init__()
        self.made, self.outside, self.n_inside = made, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(each, torch.Tensor) and each.dtype == torch.bfloat16 for each in tree_leaves(out)):
            if torch.is_grad_enabled() and any(each._entered for each in self.made):
                self.n_inside += 1
            elif torch._C._current_graph_task_id() < 0:  # and not the backward pass of those within
                self.outside.add(str(func))
        return out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_networks_round_and_nothing_else_does(case, X, made):
    model = case.make(max_epochs=1)
    expected = case.make(max_epochs=1).fit(X)
    model.set_params(precision="bfloat16")
    with Outside(made) as seen:
        model.fit(X)
    assert seen.n_inside > 0
    assert seen.outside == set()
    assert model.loss_curve_ != expected.loss_curve_
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=0.05)
    state = [value for value in model.module_.state_dict().values() if isinstance(value, torch.Tensor)]
    assert torch.bfloat16 not in {value.dtype for value in state}
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.module_.modules())
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.transform(X), model.transform(X))
    assert twin.precision == clone(model).precision == "bfloat16"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_precision_may_change_between_calls(case, X):
    model = case.make(max_epochs=1, warm_start=True).fit(X)
    model.set_params(precision="bfloat16").fit(X).partial_fit(X)
    model.set_params(precision="float32").partial_fit(X)
    assert np.isfinite(model.loss_curve_).all()


@pytest.mark.parametrize(
    "encoder",
    [MLP(normalization="batch", dropout=0.1), MLP(normalization="layer", activation="gelu"), MLP(activation="elu")],
    ids=str,
)
@pytest.mark.parametrize("decoder", [None, "tied"])
def test_all_kinds_of_layers_round(encoder, decoder, X):
    model = AutoEncoder(2, encoder=encoder, decoder=decoder, max_epochs=2, random_state=0, precision="bfloat16").fit(X)
    assert np.isfinite(model.loss_curve_).all()


@pytest.mark.parametrize("normalization", ["batch", "layer", None])
@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_convolutions_round(normalization, upsampling):
    images = np.random.default_rng(0).random((12, 1, 8, 8))
    spec = Conv((4,), normalization=normalization, upsampling=upsampling, residual_blocks=1)
    first, second = (
        AutoEncoder(2, encoder=spec, max_epochs=1, random_state=0, precision=name).fit(images) for name in ("float32", "bfloat16")
    )
    assert first.loss_curve_ != second.loss_curve_
    np.testing.assert_allclose(first.loss_curve_, second.loss_curve_, rtol=0.05)


def test_rounded_networks_take_and_return_single_precision():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 5, requires_grad=True)
    exact = network(x)
    with rounded([network], CPU):
        output = network(x)
        output.sum().backward()
        with torch.no_grad():
            assert torch.equal(network(x), exact)  # of held-out rows
        with pytest.raises(RuntimeError, match="shapes"):
            network(torch.zeros(4, 7))
        assert not torch.is_autocast_enabled("cpu")
        twin = pickle.loads(pickle.dumps(copy.deepcopy(network)))  # as callbacks do
        assert torch.equal(twin(x), output)
    assert output.dtype == x.grad.dtype == network[0].weight.grad.dtype == torch.float32
    assert not torch.equal(output, exact)
    assert torch.allclose(output, exact, atol=0.05)
    assert torch.equal(network(x), exact)


def test_held_out_rows_and_what_comes_after_training_are_not_rounded(X, made):
    stopping = EarlyStopping(validation_fraction=0.2)
    model = AutoEncoder(2, max_epochs=2, early_stopping=stopping, linear_path=None, precision="bfloat16", random_state=0)
    with Outside(made) as seen:
        model.fit(X)
        model.score(X)
    assert seen.outside == set()


# -- which precision -------------------------------------------------------------------------------------------------------


def chosen(module, n_rows, device=CPU):
    return is_rounded("auto", module, n_rows, device)


def test_auto_rounds_large_layers_where_that_is_fast(monkeypatch):
    small, large = AutoEncoderModule(30, 2), AutoEncoderModule(784, 8, hidden_layer_sizes=(512,))
    images = AutoEncoderModule(784, 8, image_shape=(1, 28, 28), hidden_layer_sizes=(512,))
    steps = TDVAEModule(4, 32, n_timesteps=5000, max_gap=2, hidden_layer_sizes=(16,))
    change, norm = (ContractiveModule(784, 8, hidden_layer_sizes=(512,), hessian=value) for value in (0.1, 0.0))
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)
    assert [chosen(module, 128) for module in (small, large, images, steps, change, norm)] == [0, 1, 0, 0, 0, 1]
    assert chosen(small, 8192)
    assert not chosen(large, 8)
    assert chosen(images, 8192, CUDA)
    assert not chosen(large, 128, CUDA)
    assert [is_rounded(name, small, 1, CPU) for name in ("float32", "bfloat16")] == [False, True]
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: False)
    assert not chosen(large, 128)


def test_devices_are_asked_what_they_are_fast_at(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not precision.has_fast_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert precision.has_fast_bfloat16(CPU)
    assert not precision.has_fast_bfloat16(torch.device("mps"))
    for capability in ((7, 5), (8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert precision.has_fast_bfloat16(CUDA) == (capability >= (8, 0))


def test_what_cannot_be_rounded_is_refused_by_name(X):
    model = ContractiveAE(2, hessian=0.1, max_epochs=1, random_state=0)
    expected = clone(model).fit(X)
    with pytest.raises(ValueError, match=r"precision='bfloat16' does not go with hessian=0\.1.* Use 'float32', or 'auto'\."):
        clone(model).set_params(precision="bfloat16").fit(X)
    auto = model.set_params(precision="auto").fit(X)
    assert auto.loss_curve_ == expected.loss_curve_
    with pytest.raises(ValueError, match="'precision' parameter"):
        AutoEncoder(precision="float16").fit(X)
    elsewhere = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("mps"))]), bears_rounding=True)
    with pytest.raises(ValueError, match="not for device='mps'"):
        check.check_precision(AutoEncoder(precision="bfloat16"), elsewhere, None, None)
    assert check.check_precision(AutoEncoder(precision="auto"), elsewhere, None, None) == "float32"


class Stubborn(nn.Module):
    """Network that insists on single precision."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.first, self.matrix = nn.Linear(n_inputs, 8), nn.Parameter(torch.zeros(n_outputs, 8))

    def forward(self, x):
        return torch.addcmul(self.matrix.new_zeros(len(x), 8), self.first(x).view(torch.float32), self.matrix[:1]) @ self.matrix.T


def test_networks_that_cannot_be_rounded_are_named(X, monkeypatch):
    model = AutoEncoder(2, encoder=Net(Stubborn), decoder=MLP((8,)), max_epochs=1, random_state=0)
    expected = clone(model).fit(X)
    with pytest.raises(ValueError, match=r"does not go with the encoder Net\(Stubborn\), which fails in it"):
        clone(model).set_params(precision="bfloat16").fit(X)
    monkeypatch.setattr("skvae.training.net.is_rounded", lambda asked, *of: asked != "float32")
    assert model.set_params(precision="auto").fit(X).loss_curve_ == expected.loss_curve_


# -- results ---------------------------------------------------------------------------------------------------------------


def test_precision_can_be_searched(X):
    search = GridSearchCV(AutoEncoder(2, max_epochs=1, random_state=0), {"precision": ["float32", "bfloat16"]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("cls", "load"), [(AutoEncoder, load_breast_cancer), pytest.param(VAETransformer, load_digits, marks=pytest.mark.slow)]
)
def test_scores_stay_within_the_spread_between_seeds(cls, load):
    X = load().data[:550]
    X = X + 0.5 * np.random.default_rng(0).normal(size=X.shape) * (X.std(0) > 0.0) if load is load_digits else X
    X, held_out = X[:400], X[400:]
    make = partial(cls, 8, hidden_layer_sizes=(256, 128), linear_path=None, max_epochs=8)
    exact, rounded = (
        [make(precision=name, random_state=seed).fit(X).score(held_out) for seed in range(4)] for name in ("float32", "bfloat16")
    )
    assert exact != rounded
    assert abs(np.mean(rounded) - np.mean(exact)) < np.std(exact, ddof=1), (exact, rounded)
