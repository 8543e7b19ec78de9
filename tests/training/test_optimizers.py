import copy
import pickle
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn, optim

from skvae import AutoEncoder, Optimizer
from skvae.runtime.randomness import PrivateRandomness, make_generator
from skvae.runtime.state import load_optimizer_state, plain_optimizer_state
from skvae.training import OPTIMIZER_NAMES
from skvae.training.optimizers import LeanAdam, LeanAdamW, resolve_optimizer

CPU = torch.device("cpu")
TWINS = [(LeanAdam, optim.Adam), (LeanAdamW, optim.AdamW)]
ARGUMENTS = [
    {},
    {"weight_decay": 0.1},
    {"betas": (0.5, 0.9), "eps": 1e-3},
    {"maximize": True, "weight_decay": 0.01},
]


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(60, 4))


class Forked(nn.Module):
    """A network whose branches can be left out, so that their parameters have no gradient."""

    def __init__(self):
        super().__init__()
        with PrivateRandomness(0):
            self.left, self.right = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x, branches):
        return sum(getattr(self, name)(x).square().mean() for name in branches)


def steps_of(module, optimizer, n_steps, *, first=0, branches=lambda step: ("left", "right")):
    """Take steps with a learning rate that changes at each of them; return parameters, and what is gathered of them, after each.

    What is gathered counts: a difference in its last bit reaches the parameters later, if at all, by the numbers of the example.
    """
    trace = []
    for step in range(first, first + n_steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        x = torch.randn(7, 5, generator=make_generator(step))
        optimizer.zero_grad()
        module(x, branches(step)).backward()
        optimizer.step()
        params = list(module.parameters())
        gathered = [value for param in params for _, value in sorted(optimizer.state.get(param, {}).items())]
        trace.append([value.detach().clone() for value in params + gathered if isinstance(value, torch.Tensor)])
    return trace


def assert_same_trace(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def tensors_of(optimizer):
    return [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, torch.Tensor)]


def make(cls, **params):
    module = Forked()
    return module, cls(module.parameters(), lr=0.01, fused=True, **params)


@pytest.mark.parametrize(("lean", "plain"), TWINS)
@pytest.mark.parametrize("params", ARGUMENTS, ids=str)
def test_lean_steps_are_bit_equal_to_torchs(lean, plain, params):
    (module, optimizer), (twin, reference) = make(lean, **params), make(plain, **params)
    trace = steps_of(module, optimizer, 50)
    assert optimizer._lists is not None  # it has not been torch's own step all along
    assert_same_trace(trace, steps_of(twin, reference, 50))
    assert not any(torch.equal(p, q) for p, q in zip(trace[0], trace[-1], strict=True))


@pytest.mark.parametrize(("lean", "plain"), TWINS)
def test_lean_steps_do_not_go_through_torchs(lean, plain, monkeypatch):
    module, optimizer = make(lean)
    steps_of(module, optimizer, 1)
    monkeypatch.setattr(plain, "step", lambda self, closure=None: pytest.fail("torch's own step was called"))
    steps_of(module, optimizer, 3)


@pytest.mark.parametrize(("lean", "plain"), TWINS)
@pytest.mark.parametrize("there_and_back", [False, True])
def test_state_moves_between_lean_and_plain(lean, plain, there_and_back):
    first, second = (plain, lean) if there_and_back else (lean, plain)
    module, optimizer = make(first, weight_decay=0.1)
    steps_of(module, optimizer, 10)
    twin, moved = make(second, weight_decay=0.1)
    twin.load_state_dict(module.state_dict())
    moved.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    expected = steps_of(module, optimizer, 10, first=10)
    assert_same_trace(steps_of(twin, moved, 10, first=10), expected)


def test_loading_a_state_replaces_the_one_in_use():
    module, optimizer = make(LeanAdam)
    steps_of(module, optimizer, 5)
    weights, state = copy.deepcopy(module.state_dict()), copy.deepcopy(optimizer.state_dict())
    expected = steps_of(module, optimizer, 5, first=5)
    module.load_state_dict(weights)
    optimizer.load_state_dict(state)
    assert_same_trace(steps_of(module, optimizer, 5, first=5), expected)


@pytest.mark.parametrize("cls", [LeanAdam, LeanAdamW, optim.SGD, optim.RMSprop, optim.ASGD])
def test_state_survives_as_plain_data(cls):
    params = {"lr": 0.01, "momentum": 0.9} if cls is optim.SGD else {"lr": 0.01}
    module, twin = Forked(), Forked()
    optimizer, resumed = cls(module.parameters(), **params), cls(twin.parameters(), **params)
    steps_of(module, optimizer, 5)
    plain = plain_optimizer_state(optimizer)
    assert not any(isinstance(value, torch.Tensor) for entry in plain["state"].values() for value in entry.values())
    twin.load_state_dict(module.state_dict())
    load_optimizer_state(resumed, pickle.loads(pickle.dumps(plain)))
    assert all(value.data_ptr() % 64 == 0 for value in tensors_of(resumed))
    expected = steps_of(module, optimizer, 5, first=5)
    assert_same_trace(steps_of(twin, resumed, 5, first=5), expected)


@pytest.mark.parametrize(("lean", "plain"), TWINS)
def test_lean_steps_are_fused_whatever_the_argument(lean, plain):
    """Steps that leave out a parameter are torch's own, whose ways of stepping round differently."""

    def left(step):
        return ("left",)

    for params in ({}, {"fused": False}, {"foreach": False}):
        (module, reference), twin = make(plain), Forked()
        optimizer = lean(twin.parameters(), lr=0.01, **params)
        assert_same_trace(steps_of(twin, optimizer, 9, branches=left), steps_of(module, reference, 9, branches=left))


def test_settings_are_those_of_the_optimizer_that_goes_on():
    module = Forked()
    optimizer, other = LeanAdam(module.parameters(), lr=0.01), LeanAdam(module.parameters(), lr=0.1, weight_decay=0.5)
    steps_of(module, optimizer, 5)
    load_optimizer_state(other, plain_optimizer_state(optimizer))
    assert (other.param_groups[0]["lr"], other.param_groups[0]["weight_decay"]) == (0.1, 0.5)
    assert len(other.state) == len(optimizer.state) > 0


def test_an_optimizer_of_another_kind_starts_anew():
    module = Forked()
    optimizer, other = LeanAdam(module.parameters(), lr=0.01), optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    steps_of(module, optimizer, 5)
    load_optimizer_state(other, plain_optimizer_state(optimizer))
    assert not other.state
    steps_of(module, other, 2)


@pytest.mark.parametrize(("lean", "plain"), TWINS)
@pytest.mark.parametrize(
    "branches",
    [
        lambda step: ("left",),
        lambda step: ("left", "right") if step > 3 else ("left",),
        lambda step: ("left", "right") if step < 3 else ("right",),
        lambda step: ("left",) if step % 2 else ("left", "right"),
    ],
    ids=["never", "later", "no more", "now and then"],
)
def test_parameters_without_a_gradient_stay_put(lean, plain, branches):
    (module, optimizer), (twin, reference) = make(lean), make(plain)
    trace = steps_of(module, optimizer, 10, branches=branches)
    assert_same_trace(trace, steps_of(twin, reference, 10, branches=branches))


def test_frozen_parameters_stay_put():
    module = Forked()
    module.left.requires_grad_(False)
    frozen = module.left.weight.clone()
    optimizer = LeanAdam(module.parameters(), lr=0.01, fused=True)
    trace = steps_of(module, optimizer, 5)
    assert torch.equal(module.left.weight, frozen)
    assert not torch.equal(trace[0][2], trace[-1][2])


# -- which optimizer it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lean", "plain"), [("adam", *TWINS[0]), ("adamw", *TWINS[1])])
def test_adam_is_lean_unless_the_user_says_otherwise(name, lean, plain):
    for optimizer in (name, plain):
        assert resolve_optimizer(optimizer, {"weight_decay": 0.1}, CPU) == (lean, {"weight_decay": 0.1})
        for own in (
            {"foreach": True},
            {"foreach": False},
            {"fused": False},
            {"amsgrad": True},
            {"differentiable": True},
            {"capturable": False},
        ):
            assert resolve_optimizer(optimizer, own, CPU) == (plain, own)
    assert resolve_optimizer(name, {}, torch.device("mps")) == (plain, {})


@pytest.mark.skipif("decoupled_weight_decay" not in signature(optim.Adam).parameters, reason="torch before 2.7")
def test_decoupled_weight_decay_is_honored(X):
    params = {"weight_decay": 0.5}
    common = {"n_components": 1, "max_epochs": 3, "random_state": 0, "batch_size": 10, "learning_rate": 0.05}
    coupled, decoupled, adamw = (
        AutoEncoder(**common, optimizer=Optimizer(name, **own)).fit(X).transform(X)
        for name, own in (("adam", params), ("adam", {**params, "decoupled_weight_decay": True}), ("adamw", params))
    )
    np.testing.assert_allclose(decoupled, adamw, rtol=1e-3, atol=1e-5)
    assert np.abs(coupled - adamw).max() > 1e-2


def test_the_users_arguments_are_not_changed():
    params = {"weight_decay": 0.1}
    _, resolved = resolve_optimizer("adam", params, CPU)
    resolved["lr"] = 1.0
    assert params == {"weight_decay": 0.1}


def test_subclasses_of_adam_keep_their_own_step():
    class Counting(optim.Adam):
        n_steps = 0

        def step(self, closure=None):
            Counting.n_steps += 1
            return super().step(closure)

    assert resolve_optimizer(Counting, {}, CPU) == (Counting, {})
    AutoEncoder(1, max_epochs=3, optimizer=Counting, batch_size=5).fit(np.random.default_rng(0).normal(size=(20, 3)))
    assert Counting.n_steps == 12


def test_names_are_torchs():
    assert {"adam", "adamw", "sgd", "rmsprop", "adagrad", "nadam", "radam"} <= set(OPTIMIZER_NAMES)
    for name in OPTIMIZER_NAMES:
        cls, _ = resolve_optimizer(name, {"foreach": False} if name != "adafactor" else {}, CPU)
        assert cls.__name__.lower() == name
        assert cls.__module__.startswith("torch.")


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_every_name_trains_and_goes_on(name, X):
    model = AutoEncoder(2, hidden_layer_sizes=(6,), max_epochs=2, batch_size=10, optimizer=name, random_state=0)
    start = model.fit(X).loss_curve_
    assert np.isfinite(start).all()
    assert start[1] != start[0]
    assert np.isfinite(model.transform(X)).all()
    other = AutoEncoder(2, hidden_layer_sizes=(6,), max_epochs=2, batch_size=10, optimizer=name, random_state=0)
    for _ in range(2):
        other.partial_fit(X)
    resumed = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(resumed.partial_fit(X).transform(X), other.partial_fit(X).transform(X))


def test_momentum_reaches_sgd(X):
    def loss(**optimizer_params):
        model = AutoEncoder(
            2,
            hidden_layer_sizes=(),
            linear_path=None,  # or else it begins at the optimum
            max_epochs=5,
            batch_size=20,
            learning_rate=0.002,
            optimizer=Optimizer("sgd", schedule="constant", **optimizer_params),
            random_state=0,
        )
        return model.fit(X).loss_curve_[-1]

    plain, momentum = loss(), loss(momentum=0.9)
    assert momentum < plain - 0.05
    assert loss(momentum=0.9, nesterov=True) != momentum


def test_learning_rate_is_the_estimators(X):
    with pytest.raises(ValueError, match=r"Optimizer\(lr=...\) .*set learning_rate instead"):
        Optimizer(lr=0.1)
    with pytest.raises(ValueError, match="set learning_rate instead"):
        AutoEncoder().set_params(optimizer__lr=0.1)


def test_optimizers_that_compute_the_loss_themselves_are_refused(X):
    with pytest.raises(ValueError, match="LBFGS computes the loss several times"):
        AutoEncoder(1, max_epochs=1, optimizer=optim.LBFGS).fit(X)


def test_optimizers_of_sparse_gradients_are_refused(X):
    with pytest.raises(ValueError, match="optimizer=SparseAdam takes sparse gradients"):
        AutoEncoder(1, max_epochs=1, optimizer=optim.SparseAdam).fit(X)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("adam", {"fused": True, "foreach": True}, "fused=True, foreach=True.* cannot be built: RuntimeError: .*together"),
        ("sgd", {"fused": True, "foreach": True}, "fused=True, foreach=True.* cannot be built"),
        ("adamw", {"fused": True, "differentiable": True}, "differentiable=True.* cannot be built: RuntimeError"),
        ("adam", {"betas": (0.9,)}, r"betas=\(0\.9,\)\) cannot be built: IndexError"),
        ("adam", {"betas": 3}, r"betas=3\) cannot be built: TypeError"),
        ("sgd", {"weight_decay": -1.0}, r"weight_decay=-1\.0\) cannot be built: Invalid weight_decay"),
        ("rprop", {"step_sizes": 3}, r"step_sizes=3\) fails in a step: TypeError"),
        ("asgd", {"lambd": "x"}, r"lambd='x'\) fails in a step: TypeError"),
        ("adam", {"maximize": "x"}, r"maximize='x'\) fails in a step: TypeError"),
        ("rmsprop", {"differentiable": True}, r"differentiable=True\) fails in a step: RuntimeError"),
        ("nadam", {"capturable": True}, r"capturable=True\) fails in a step: AssertionError"),
    ],
)
def test_arguments_that_do_not_work_are_named(name, params, message, X):
    model = AutoEncoder(1, max_epochs=1, optimizer=Optimizer(name, **params))
    with pytest.raises(ValueError, match=rf"optimizer=Optimizer\(.*{message}") as caught:
        model.fit(X)
    assert caught.value.__cause__ is not None
    assert not hasattr(model, "module_")


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("sgd", {"momentum": -1.0}, r"momentum=-1\.0 must be a number of at least 0 and below 1"),
        ("sgd", {"momentum": 2}, r"momentum=2 must be a number of at least 0 and below 1"),
        ("rmsprop", {"momentum": 1.0}, r"momentum=1\.0 must be a number of at least 0 and below 1"),
        ("adam", {"maximize": True}, r"maximize=True would have the loss rise"),
    ],
)
def test_arguments_by_which_no_loss_falls_are_refused(name, params, message, X):
    with pytest.raises(ValueError, match=rf"optimizer=Optimizer\(.*{message}"):
        AutoEncoder(1, max_epochs=1, optimizer=Optimizer(name, **params)).fit(X)
    with pytest.raises(ValueError, match=message):
        AutoEncoder(optimizer=name).set_params(**{f"optimizer__{key}": value for key, value in params.items()})


def test_memory_that_runs_out_in_a_step_is_not_the_optimizers_fault(X):
    class Large(optim.SGD):
        def step(self, closure=None):
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        AutoEncoder(1, max_epochs=1, optimizer=Large).fit(X)


def test_classes_that_are_no_optimizers_are_refused(X):
    with pytest.raises(ValueError, match="Linear is not a subclass of torch"):
        AutoEncoder(1, max_epochs=1, optimizer=nn.Linear).fit(X)


def test_optimizers_of_matrices_alone_are_no_names_but_classes():
    assert not {"muon", "lbfgs", "sparseadam", "optimizer"} & set(OPTIMIZER_NAMES)
    if hasattr(optim, "Muon"):
        assert resolve_optimizer(optim.Muon, {}, CPU) == (optim.Muon, {})
