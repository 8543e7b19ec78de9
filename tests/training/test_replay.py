"""Operations that are noted once, and run again."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from torch.func import vmap

from skvae import MLP, TDVAE, AutoEncoder, VAETransformer
from skvae.modules import VAEModule
from skvae.training import graph
from skvae.training import step as stepping
from skvae.training.optimizers import Optimizer, build_optimizer
from skvae.training.replay import CannotReplayError, Replay, Transcript
from skvae.training.stack import StackedStep
from skvae.training.step import EagerStep, ReplayedStep
from skvae.training.together import leave, take, take_alone
from tests.estimators.cases import CASES
from tests.training.test_stack import STACKED, assert_alike, first_rows, steps_of, stretch_of
from tests.training.test_step import batches, make

pytestmark = pytest.mark.usefixtures("one_core")

WEIGHT = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
BUFFER = torch.arange(4.0)
INDEX = torch.tensor([4, 0, 1])


def layers(x, weight):
    """Products, views and changes in place, with a way back."""
    weight = weight.detach().requires_grad_()
    loss = vmap(lambda rows, own: torch.relu_(rows @ own).square().sum(1))(x, weight)
    loss.backward(torch.ones_like(loss))
    moved = BUFFER.clone()
    moved.mul_(0.5).add_(loss.detach().mean())
    return [loss.detach(), weight.grad, moved]


def changed(x, weight):
    """Parts of memory that is changed through another part."""
    y = x * 2.0
    y[:, 0].add_(weight[0, 0, 0])
    first, second = y.chunk(2, 2)
    return [first.contiguous(), torch.where(second > 0.0, second, 0.1 * second), y.transpose(0, 1).contiguous()]


def ones(x, weight):
    """Products with one and copies, of what changes before or after and of what does not."""
    scaled, copied = torch.mul(x, 1), x.clone()
    copied.add_(1.0)
    later = copied.clone()
    copied.add_(scaled)
    return [scaled, copied, later, torch.mul(later, 1) + weight[0, 0, 0], x, later]


def flat(x, weight):
    """Views in place of new memory."""
    y = x + 1.0
    y.unsqueeze_(0)
    return [y.squeeze_(0).transpose_(0, 1).add_(1.0).contiguous(), x.sum(1)]


def unasked(x, weight):
    """Operations some of whose results nobody asks for."""
    own, scale = weight[:2].detach().clone().requires_grad_(), torch.ones(5, requires_grad=True)
    convolved = torch.nn.functional.conv1d(x.transpose(1, 2), own)
    loss = convolved.square().sum() + torch.nn.functional.layer_norm(x, (5,), scale).exp().sum()
    loss.backward()
    return [loss.detach(), own.grad, scale.grad]


def filled(x, weight):
    """Memory that is filled through one part and read through another."""
    whole = torch.empty(3, 30)
    whole.view(3, 6, 5).copy_(x + 1.0)
    other = torch.empty_like(x)
    other.copy_(x + weight[0, 0, 0])
    return [2.0 * whole, 2.0 * other]


def settings(x, weight):
    """Numbers where operations take tensors, parts by index, no dimensions at all, types and layouts."""
    above = torch.where(x > 0.0, x, 0.1)
    exact = x.double() * 0.1 + torch.full_like(x, 2, dtype=torch.float64)
    whole = x.sum().reshape([]).clone(memory_format=torch.preserve_format)
    images = x.unsqueeze(0).contiguous(memory_format=torch.channels_last).relu()
    return [above[:, INDEX], exact, exact.to(torch.float32) / 3, whole, images, torch.nn.functional.gelu(x, approximate="tanh")]


@pytest.mark.parametrize("function", [layers, changed, ones, flat, unasked, filled, settings])
def test_what_is_noted_does_the_same_to_other_numbers(function):
    weight = WEIGHT.clone()
    rows = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(1)).unbind()
    with Transcript([rows[0]]) as transcript:
        found = function(rows[0], weight)
    run = transcript.function(found)
    before = torch.stack(rows)
    for x in rows:
        weight.mul_(0.9)  # which lies where it lay
        given = x.clone()
        results = run(given)
        assert all(map(torch.equal, results, function(x, weight)))
        for result in results:  # which is nobody else's
            result.fill_(7.0)
        assert torch.equal(given, x)
    assert torch.equal(torch.stack(rows), before)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x * torch.rand(5)],
        lambda x: [torch.nn.functional.dropout(x, 0.5)],
        lambda x: [x * x.sum().item()],
        lambda x: [x[x > 0.0]],
        lambda x: [x, WEIGHT],
    ],
    ids=["random", "dropout", "item", "as many as there are", "of nobody's making"],
)
def test_what_differs_from_step_to_step_cannot_be_noted(function):
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    with Transcript([x]) as transcript:
        found = function(x)
    with pytest.raises(CannotReplayError):
        transcript.function(found)


def test_memory_that_is_given_twice_cannot_be_noted():
    x = torch.ones(3)
    with Transcript([x, x]) as transcript:
        found = [x + x]
    with pytest.raises(CannotReplayError):
        transcript.function(found)


def test_threads_take_the_short_way_side_by_side():
    rows = [torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    with Transcript([rows[0]]) as transcript:
        found = layers(rows[0], WEIGHT)
    run, results = transcript.function(found), {}

    def work(i):
        with torch.no_grad():
            results[i] = [run(rows[i]) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, x in enumerate(rows):
        expected = layers(x, WEIGHT)
        assert all(all(map(torch.equal, result, expected)) for result in results[i])


def test_steps_take_the_short_way_once_both_lead_to_the_same():
    way, n_calls = Replay(), 0
    for i in range(8):
        x = torch.full((3,), float(i))

        def double(x=x):
            nonlocal n_calls
            n_calls += 1
            return [x * 2.0]

        assert torch.equal(way("double", [x], double)[0], x * 2.0)
    assert n_calls == 2 + 2
    y = torch.ones(2, 3)
    assert torch.equal(way("double", [y], lambda: [y + y])[0], 2.0 * y)  # another shape


def test_what_has_changed_unseen_goes_the_long_way():
    way = Replay()
    for i in range(8):
        x = torch.full((3,), float(i))
        assert torch.equal(way("count", [x], lambda x=x, i=i: [x * i])[0], x * i)  # a number that is not given


def test_other_kinds_of_steps_are_noted_by_themselves():
    way = Replay()
    for i in range(12):
        x = torch.full((3,), float(i))
        factor = 1.0 + i % 2
        assert torch.equal(way(factor, [x], lambda x=x, factor=factor: [x * factor])[0], x * factor)


@pytest.mark.parametrize(("cls", "each", "common", "missing"), STACKED.values(), ids=STACKED)
def test_stacked_steps_leave_the_same_bits_either_way(cls, each, common, missing):
    modules = [make(cls, **common, **own) for own in each]
    data = batches(modules[0], 14, missing=missing)
    stacks = []
    for way in (copy.deepcopy(modules), modules):
        stack = StackedStep(steps_of(way))
        if stacks:
            stack._replay = Replay(n_first=1000)
        stacks.append(stack)
        for i, batch in enumerate(data):
            stack(batch.mapped(lambda part: torch.stack([part] * 3)), [i / 14] * 3)
    assert stacks[0]._replay._sure or modules[0].interval == 1
    assert not stacks[1]._replay._runs
    assert_alike([step.module for step in stacks[0].members], [step.module for step in stacks[1].members], rtol=0, atol=0)


# -- steps of one module ----------------------------------------------------------------------------------------------


@pytest.fixture
def noted_early(monkeypatch):
    """Have steps noted after the first, and in runs of any length."""
    monkeypatch.setattr(stepping, "_FIRST_STEPS", 1)
    monkeypatch.setattr(graph, "_PAYING_STEPS_OF_NOTED", 0)


def pair_of(module, spec=None, **settings):
    """A step whose operations are noted, and one whose are not, of two modules that are the same."""
    spec, found = spec or Optimizer(), []
    for cls, own in ((ReplayedStep, module), (EagerStep, copy.deepcopy(module))):
        optimizer = build_optimizer(spec, list(own.parameters()), 0.01, torch.device("cpu"))
        settings = {"learning_rate": 0.01, "clip_norm": spec.clip_norm, "clip_value": spec.clip_value} | settings
        found.append(cls(own, optimizer, **settings))
    return found


def assert_same_terms(found, expected):
    assert found.keys() == expected.keys()
    for name, term in found.items():
        assert torch.equal(term, expected[name].detach()), name


@pytest.mark.parametrize("spec", [Optimizer(), Optimizer("sgd", clip_norm=0.5, clip_value=0.3)], ids=["adam", "clipped"])
@pytest.mark.parametrize(("cls", "each", "common", "missing"), STACKED.values(), ids=STACKED)
def test_steps_leave_the_same_bits_either_way(cls, each, common, missing, spec, noted_early):
    module = make(cls, **common, **each[-1])
    step, twin = pair_of(module, spec)
    data = batches(module, 24, missing=missing)
    for i, batch in enumerate(data):
        batch = first_rows(batch, 11) if i % 4 == 3 else batch
        assert_same_terms(step(batch, i / len(data)), twin(batch, i / len(data)))
        assert all(param.grad is None for param in step.params)
    assert step._replay._sure
    assert_alike([step.module], [twin.module], rtol=0, atol=0)


def test_what_has_moved_is_read_where_it_is(noted_early):
    module = make(VAEModule)
    step, twin = pair_of(module)
    for i, batch in enumerate(batches(module, 30)):
        if i == 10:
            for param in module.parameters():
                param.data = param.data.clone()
        if i == 20:
            noise = module.likelihood.noise
            for name, buffer in noise._buffers.items():
                noise._buffers[name] = buffer.clone()
        assert_same_terms(step(batch, 0.5), twin(batch, 0.5))
        if i in (9, 19, 29):
            assert step._replay._sure
    assert_alike([module], [twin.module], rtol=0, atol=0)


def test_steps_may_be_taken_together_in_between(noted_early):
    pairs = [pair_of(make(VAEModule, seed)) for seed in (0, 1)]
    data = batches(pairs[0][0].module, 12)
    for steps in zip(*pairs, strict=True):
        for each in (stretch_of(step, data) for step in steps):
            take_alone(each)
        assert all(isinstance(found, list) for found in take([stretch_of(step, data) for step in steps]))
        leave(steps)
        for each in (stretch_of(step, data) for step in steps):
            take_alone(each)
    for step, twin in pairs:
        assert step._replay._sure
        assert_alike([step.module], [twin.module], rtol=0, atol=0)


@pytest.mark.parametrize("cls", [AutoEncoder, VAETransformer], ids=lambda cls: cls.__name__)
def test_normalization_remembers_every_step_once(cls, X, monkeypatch):
    params = {"hidden_layer_sizes": (8,), "linear_path": None, "batch_size": 13, "max_epochs": 120, "random_state": 0}
    states = []
    for step in (ReplayedStep, EagerStep):
        monkeypatch.setattr(graph, "ReplayedStep", step)
        states.append(cls(2, encoder=MLP(normalization="batch"), **params).fit(X).module_.state_dict())
    remembered = [value for name, value in states[0].items() if name.endswith("num_batches_tracked")]
    assert [int(value) for value in remembered] == [120 * -(-len(X) // 13)] * len(remembered)
    assert remembered
    for name, value in states[0].items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, states[1][name]), name


def test_what_is_changed_in_place_is_changed_once_a_step():
    total = torch.zeros(3)
    way = Replay(changing=lambda: [total])
    for i in range(8):
        x = torch.full((3,), float(i))

        def add(x=x):
            total.add_(x)
            return [total * 2.0]

        (found,) = way("add", [x], add)
        assert torch.equal(total, torch.full((3,), i * (i + 1) / 2))
        assert torch.equal(found, 2.0 * total)
    assert way._sure


def test_what_is_noted_goes_when_nobody_wants_it_any_more():
    weight, way = torch.ones(3), Replay()
    for _ in range(6):
        way("product", [x := torch.ones(3)], lambda x=x: [x * weight])
    assert way._sure
    noted = weakref.ref(next(iter(way._runs.values())))
    gc.disable()
    try:
        del way
        assert noted() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fits_come_out_the_same_either_way(case, X, monkeypatch, noted_early):
    made, forget = [], ReplayedStep.forget

    def noted(self):
        made.append(len(self._replay._sure) if hasattr(self, "_replay") else 0)
        forget(self)

    monkeypatch.setattr(ReplayedStep, "forget", noted)
    found = []
    for cls in (ReplayedStep, EagerStep):
        monkeypatch.setattr(graph, "ReplayedStep", cls)
        model = case.make(max_epochs=6, batch_size=11, early_stopping=True).fit(X)
        found.append((model.transform(X), *model.history_.values()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert max(made) > 0 or case.cls is TDVAE  # whose recurrent layer is one operation, which cannot be run again by itself
