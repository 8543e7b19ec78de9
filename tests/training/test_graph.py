"""Steps that are recorded and replayed: what they leave behind, and that whatever fails leads back to steps one by one."""

import copy
import itertools
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from skvae.modules import AutoEncoderModule, Batch, ContractiveModule, SparseModule, VAEModule, VQVAEModule
from skvae.runtime.state import plain_optimizer_state
from skvae.training import graph
from skvae.training import step as stepping
from skvae.training.graph import CudaRecorder, GraphStep, Watch, make_step
from skvae.training.loader import Block
from skvae.training.optimizers import LeanAdam, Optimizer, OptimizerError, build_optimizer
from skvae.training.step import EagerStep, ReplayedStep
from skvae.training.together import Stretch, leave, take, take_alone
from tests.estimators.cases import CASES
from tests.training.tape import TapeRecorder
from tests.training.test_step import MODULES, N_FEATURES, batches, make, state_of

pytestmark = pytest.mark.usefixtures("one_core", "as_recorded")

N_STEPS = 24
CPU = torch.device("cpu")


@pytest.fixture
def as_recorded(monkeypatch):
    """Have steps on a CPU be such that recorded ones leave the same bits behind."""
    monkeypatch.setattr(stepping, "records", lambda device: True)


def step_of(module, recorder=None, spec=None, **settings):
    """A step by an optimizer of its own."""
    spec = spec or Optimizer()
    optimizer = build_optimizer(spec, list(module.parameters()), 0.01, CPU)
    settings = {
        "learning_rate": 0.01,
        "learning_rate_schedule": spec.schedule,
        "clip_norm": spec.clip_norm,
        "clip_value": spec.clip_value,
    } | settings
    if recorder is None:
        return EagerStep(module, optimizer, **settings)
    return GraphStep(module, optimizer, recorder=recorder, **settings)


def steps_of(module, recorder=None, **settings):
    """A step that may be replayed, and one that never is, of two modules that are the same."""
    twin = copy.deepcopy(module)
    return step_of(module, recorder or TapeRecorder(), **settings), step_of(twin, **settings)


def shortened(batch):
    """All but the last row of a batch."""
    x, target, *others = (None if part is None else part[:-1] for part in batch[:-1])
    x = x.clone()
    target = x if batch.target is batch.x else target
    return Batch(x, target, *others, noise={name: value[:-1] for name, value in batch.noise.items()})


def assert_same(step, twin):
    """Assert that modules and optimizers have come to the same, to the last bit."""
    assert step.n_steps == twin.n_steps
    expected = state_of(twin.module)
    for name, value in state_of(step.module).items():
        assert torch.equal(value, expected[name]), name
    one, other = plain_optimizer_state(step.optimizer)["state"], plain_optimizer_state(twin.optimizer)["state"]
    assert one.keys() == other.keys()
    for index, entry in one.items():
        assert all(np.array_equal(value, other[index][name]) for name, value in entry.items())
    assert step.optimizer.param_groups[0]["lr"] == twin.optimizer.param_groups[0]["lr"]
    assert all(param.grad is None for param in step.params)


def run(step, twin, data, n_steps=None):
    """Take the same steps both ways, and compare what they return."""
    n_steps = n_steps or len(data)
    for i, batch in enumerate(data):
        terms, expected = step(batch, i / n_steps), twin(batch, i / n_steps)
        assert terms.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in terms.items())


# -- replays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "params", "missing"), MODULES.values(), ids=MODULES)
def test_replays_leave_the_same_bits_behind(cls, params, missing):
    module = make(cls, **params)
    step, twin = steps_of(module)
    data = batches(module, N_STEPS, missing=missing)
    run(step, twin, data)
    assert step.obstacle is None
    assert step.n_replayed >= N_STEPS - 7
    assert_same(step, twin)


SETTINGS = {
    "adamw, clipped": (VAEModule, {}, Optimizer("adamw", weight_decay=0.1, clip_norm=1.0, clip_value=0.1)),
    "constant rate": (VAEModule, {}, Optimizer(schedule="constant")),
    "schedules": (VAEModule, {"kl_warmup": 0.7, "capacity": 2.0}, Optimizer(schedule="exponential")),
    "annealing": (SparseModule, {"penalty": "top_k", "k": 2, "k_annealing": 0.9}, Optimizer()),
    "weight decay": (VAEModule, {"linear_path": 3.0}, Optimizer()),
    "batch normalization": (AutoEncoderModule, {"normalization": "batch"}, Optimizer()),
}


@pytest.mark.parametrize(("cls", "params", "spec"), SETTINGS.values(), ids=SETTINGS)
def test_what_differs_between_steps_is_read_anew(cls, params, spec):
    if "normalization" in params:
        module = make(cls)
        module.encoder.insert(1, nn.BatchNorm1d(8))
    else:
        module = make(cls, **params)
    step, twin = steps_of(module, spec=spec)
    run(step, twin, batches(module, N_STEPS))
    assert step.n_replayed == N_STEPS - 5
    assert_same(step, twin)


def test_sizes_of_batches_have_a_graph_each():
    module = make(VAEModule)
    recorder = TapeRecorder()
    step, twin = steps_of(module, recorder)
    data = [batch if i % 3 else shortened(batch) for i, batch in enumerate(batches(module, N_STEPS))]
    run(step, twin, data)
    assert len(recorder.tapes) == 2
    assert step.n_replayed == N_STEPS - 9
    assert_same(step, twin)


def test_weights_that_are_all_one():
    module = make(VAEModule)
    step, twin = steps_of(module)
    step.is_weighted = twin.is_weighted = False
    run(step, twin, [batch._replace(weight=torch.ones(len(batch.x))) for batch in batches(module, 12)])
    assert step.n_replayed == 7
    assert_same(step, twin)


def test_what_a_schedule_leaves_out_is_recorded_anew():
    module = make(VAEModule)
    module.schedule = lambda progress: {"beta": 0.5 + progress, **({"capacity": 3 * progress} if progress < 0.5 else {})}
    recorder = TapeRecorder()
    step, twin = steps_of(module, recorder)
    run(step, twin, batches(module, N_STEPS))
    assert len(recorder.tapes) == 2
    assert step.n_replayed == N_STEPS - 9
    assert_same(step, twin)


def test_what_is_returned_stays_what_it_was():
    module = make(VAEModule)
    step, _ = steps_of(module)
    kept = []
    for batch in batches(module, 12):
        terms = step(batch, 0.0)
        kept.append((terms, {name: value.clone() for name, value in terms.items()}))
    assert step.n_replayed
    assert all(torch.equal(value, copies[name]) for terms, copies in kept for name, value in terms.items())


def test_steps_with_an_interval_are_taken_one_by_one():
    module = make(VQVAEModule, n_codes=2, embedding_dim=2, n_embeddings=4)
    seen, after = [], module.after_interval
    module.after_interval = lambda learned, n_steps: seen.append(n_steps) or after(learned, n_steps)
    step = step_of(module, TapeRecorder())
    for batch in batches(module, N_STEPS):
        step(batch, 0.0)
    assert seen == [0, 10, 20]
    assert step.n_replayed == N_STEPS - 3 - 4


# -- whatever fails ---------------------------------------------------------------------------------------------------


class Broken(TapeRecorder):
    """Fails at a stage, after it has done what it can to spoil the module."""

    def __init__(self, stage, params):
        super().__init__()
        self.stage, self.params, self.n_calls = stage, params, 0

    def fail(self):
        self.n_calls += 1
        with torch.no_grad():
            for param in self.params:
                param.add_(1.0)
        raise RuntimeError("out of order")

    def beside(self):
        recorder = self

        class Spoiled:
            def __enter__(self):
                pass

            def __exit__(self, *args):
                if recorder.stage == "warming up":
                    recorder.fail()

        return Spoiled()

    def record(self, function):
        if self.stage == "recording":
            function()
            self.fail()
        replay = super().record(function)
        n_replays = itertools.count()

        def spoiled():
            number = next(n_replays)
            if self.stage == "the first replay" and number == 0:
                self.fail()
            if self.stage == "a replay" and number == 3:
                self.n_calls += 1
                raise RuntimeError("out of order")
            replay()
            if self.stage == "other bits":
                self.n_calls += 1
                with torch.no_grad():
                    self.params[-1].mul_(1.0 + 1e-6)

        return spoiled


@pytest.mark.parametrize("stage", ["warming up", "recording", "the first replay", "a replay", "other bits"])
@pytest.mark.parametrize("cls", [VAEModule, SparseModule])
def test_whatever_fails_leads_back_to_steps_one_by_one(stage, cls):
    module = make(cls)
    recorder = Broken(stage, list(module.parameters()))
    step, twin = steps_of(module, recorder)
    run(step, twin, batches(module, N_STEPS))
    assert stage in step.obstacle
    assert "out of order" in step.obstacle or stage == "other bits"
    assert recorder.n_calls == 1
    assert step.n_replayed == (2 if stage == "a replay" else 0)
    assert_same(step, twin)


@pytest.mark.parametrize("n_copies", range(5))
def test_memory_for_copies_may_be_wanting(n_copies, monkeypatch):
    module = make(VAEModule)
    step, twin = steps_of(module)
    copied, numbers = graph._copied, itertools.count()

    def scarce(tensors):
        if next(numbers) == n_copies:
            raise torch.OutOfMemoryError("out of memory")
        return copied(tensors)

    monkeypatch.setattr(graph, "_copied", scarce)
    run(step, twin, batches(module, 12))
    assert "out of memory" in step.obstacle
    assert step.n_replayed == 0
    assert_same(step, twin)


class Waiting(AutoEncoderModule):
    """Looks at a number on the way."""

    how = "item"

    def loss(self, batch, schedule):
        loss = super().loss(batch, schedule)
        (term,) = loss.terms.values()
        if self.how == "item":
            factor = 1.0 if term.sum().item() > 0 else 2.0
        elif self.how == "mask":
            factor = term[term > 0].sum().detach() * 0.0 + 1.0
        else:
            factor = next(self.factors)
        return loss._replace(terms={"reconstruction": factor * term})


@pytest.mark.parametrize("how", ["item", "mask"])
def test_what_waits_for_the_device_is_not_recorded(how):
    module = make(Waiting)
    module.how = how
    recorder = TapeRecorder()
    step, twin = steps_of(module, recorder)
    run(step, twin, batches(module, 12))
    assert "waits for what lies on the device" in step.obstacle
    assert recorder.tapes == []
    assert_same(step, twin)


def test_numbers_that_only_python_knows_are_found_out():
    module = make(Waiting)
    module.how, module.factors = "python", None
    step, twin = steps_of(module)
    # A step that is recorded, or is taken twice, would draw one more: each has the factor of its own step.
    for i, batch in enumerate(batches(module, 12)):
        for each in (step, twin):
            each.module.factors = itertools.repeat(1.0 + i / 10)
            each(batch, 0.0)
    assert step.obstacle == "a replay gives other bits"
    assert_same(step, twin)


def test_parameters_without_a_gradient(caplog):
    caplog.set_level("DEBUG", logger="skvae.training.graph")
    module = make(AutoEncoderModule)
    module.unused = nn.Parameter(torch.ones(2))
    step, twin = steps_of(module)
    run(step, twin, batches(module, 5))
    assert step.obstacle == "there are parameters without a gradient"
    assert caplog.messages == ["Steps are not replayed: there are parameters without a gradient."]
    assert_same(step, twin)


class Failing(LeanAdam):
    """Takes one step."""

    n_left = 1

    def step(self, closure=None):
        if not self.n_left:
            raise ArithmeticError("no more")
        self.n_left -= 1
        return super().step()


def test_an_optimizer_that_fails_is_the_cause():
    module = make(AutoEncoderModule)
    optimizer = Failing(module.parameters(), lr=0.01)
    step = GraphStep(module, optimizer, recorder=TapeRecorder(), learning_rate=0.01)
    first, second = batches(module, 2)
    step(first, 0.0)
    before = state_of(module)
    with pytest.raises(OptimizerError) as caught:
        step(second, 0.0)
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


def test_sizes_that_keep_changing_are_given_up():
    module = make(VAEModule)
    step, twin = steps_of(module)
    data = []
    for n_short, batch in enumerate(batches(module, 8)):
        for _ in range(n_short):
            batch = shortened(batch)
        data += [batch] * 5
    run(step, twin, data)
    assert step.obstacle == "batches or modules have changed too often"
    assert not step._graphs
    assert_same(step, twin)


# -- others that change the module ------------------------------------------------------------------------------------


def test_an_optimizer_that_goes_back_is_recorded_anew():
    module = make(VAEModule)
    recorder = TapeRecorder()
    step, twin = steps_of(module, recorder)
    data = batches(module, N_STEPS)
    run(step, twin, data[:8])
    saved = [copy.deepcopy(each.optimizer.state_dict()) for each in (step, twin)]
    weights = [state_of(each.module) for each in (step, twin)]
    run(step, twin, data[8:12])
    for each, state, values in zip((step, twin), saved, weights, strict=True):
        each.optimizer.load_state_dict(state)
        with torch.no_grad():
            for name, value in (*each.module.named_parameters(), *each.module.named_buffers()):
                value.copy_(values[name])
    run(step, twin, data[8:])
    assert len(recorder.tapes) == 2
    assert_same(step, twin)


@pytest.mark.parametrize("spec", [Optimizer(), Optimizer(clip_norm=1.0)], ids=str)
def test_recorded_steps_are_handed_over_to_a_stack_and_back(spec):
    modules = [make(VAEModule, seed) for seed in range(2)]
    pairs = [steps_of(module, spec=spec) for module in modules]
    data = batches(modules[0], 10)

    def stretch(step):
        blocks = (Block(batch, [len(batch.x)]) for batch in data)
        return Stretch([step], blocks, len(data), len(data[0].x), lambda i: i / 10)

    for steps in zip(*pairs, strict=True):
        for each in (stretch(step) for step in steps):
            take_alone(each)
        assert all(isinstance(found, list) for found in take([stretch(step) for step in steps]))
        leave(steps)
        for each in (stretch(step) for step in steps):
            take_alone(each)
    for step, twin in pairs:
        assert step.n_replayed >= 2 * (len(data) - 5)
        assert_same(step, twin)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fits_that_are_replayed_give_the_same(case, X, monkeypatch):
    made, build = [], GraphStep.__init__
    monkeypatch.setattr(GraphStep, "__init__", lambda self, *args, **kwargs: made.append(self) or build(self, *args, **kwargs))
    monkeypatch.setattr(graph, "_PAYING_STEPS", 0)
    found = []
    for recorder in (None, TapeRecorder()):
        monkeypatch.setattr(graph, "recorder_for", lambda device, recorder=recorder: recorder)
        model = case.make(max_epochs=4, batch_size=11, early_stopping=True).fit(X)
        found.append((model.transform(X), *model.history_.values()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    (step,) = made
    assert step.obstacle is None
    assert step.n_replayed > 10
    assert not step._graphs  # whose memory is given back


# -- who takes part ---------------------------------------------------------------------------------------------------


def choose(module, spec=None, **settings):
    """The step that `make_step` chooses."""
    optimizer = build_optimizer(spec or Optimizer(), list(module.parameters()), 0.01, CPU)
    given = {"learning_rate": 0.01, "n_rows": 16, "n_planned": 1000, "watched": False} | settings
    return make_step(module, optimizer, spec or Optimizer(), **given)


def test_on_a_cpu_operations_are_noted():
    assert type(choose(make(VAEModule))) is ReplayedStep
    assert type(choose(make(VAEModule), Optimizer("sgd"))) is ReplayedStep


@pytest.mark.parametrize("settings", [{"watched": True}, {"on_gradient": print}, {"n_planned": 300}, {"n_rows": 2**25}], ids=str)
def test_what_is_not_worth_noting_on_a_cpu(settings):
    assert type(choose(make(VAEModule), **settings)) is EagerStep


@pytest.fixture
def recorder(monkeypatch):
    recorder = TapeRecorder()
    monkeypatch.setattr(graph, "recorder_for", lambda device: recorder)
    return recorder


def test_what_can_be_recorded_is(recorder):
    for cls in (AutoEncoderModule, VAEModule, SparseModule, ContractiveModule, VQVAEModule):
        step = choose(make(cls), Optimizer("adamw", schedule="linear", clip_norm=2.0, clip_value=3.0), n_steps=7)
        assert type(step) is GraphStep
        assert (step.recorder, step.n_steps, step.clip_norm, step.clip_value) == (recorder, 7, 2.0, 3.0)
        assert step.rate(0.5) == pytest.approx(0.01 * 0.505)


@pytest.mark.parametrize(
    "settings",
    [
        {"spec": Optimizer("sgd")},
        {"spec": Optimizer("adam", amsgrad=True)},
        {"watched": True},
        {"on_gradient": print},
        {"n_planned": 50},
        {"n_rows": 2**30},
    ],
    ids=str,
)
def test_what_is_not_worth_recording_or_cannot_be(recorder, settings, caplog):
    with caplog.at_level("DEBUG", logger="skvae.training.graph"):
        assert type(choose(make(VAEModule), **settings)) is EagerStep
    (record,) = caplog.records
    assert record.getMessage().startswith("Steps are not recorded: ")


class Own(nn.Linear):
    """A layer of the user's own."""


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), Own(N_FEATURES, N_FEATURES)])
def test_what_draws_or_is_not_known_is_not_recorded(recorder, layer):
    module = make(AutoEncoderModule)
    module.encoder.insert(0, layer)
    assert type(choose(module)) is EagerStep


# -- what cannot be recorded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "obstacle"),
    [
        (lambda x: x.sum().item(), "waits"),
        (lambda x: bool(x.sum() > 0), "waits"),
        (lambda x: x[x > 0], "waits"),
        (lambda x: x.nonzero(), "waits"),
        (lambda x: torch.equal(x, x), "waits"),
        (lambda x: x.index_put((x > 0,), torch.zeros(())), "waits"),
        (lambda x: x.unique(), "waits"),
        (lambda x: torch.linalg.solve(x, x), "waits"),
        (lambda x: x.to("meta"), "copies between devices"),
        (lambda x: x[torch.arange(2)], None),
        (lambda x: torch.where(x > 0, x, 0.0).cumsum(0).sort().values, None),
        (lambda x: x.copy_(x.flip(0)) * torch.tensor(2.0), None),
    ],
)
def test_operations_that_cannot_be_recorded_are_seen(function, obstacle):
    with Watch(CPU) as watch:
        function(torch.eye(3))
    assert watch.obstacle is None if obstacle is None else obstacle in watch.obstacle


# -- the recorder of a GPU --------------------------------------------------------------------------------------------


class FakeCuda:
    """The parts of `torch.cuda` that a recorder calls, which note what is current and what is left undone."""

    def __init__(self, monkeypatch):
        self.current, self.capturing, self.ended = ["default"], False, []
        for name in ("Stream", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.waiting(self.current[-1]))
        monkeypatch.setattr(torch.cuda, "device", lambda device: self.within(None))
        monkeypatch.setattr(torch.cuda, "stream", self.within)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *args: self.ended.append(args), raising=False)
        monkeypatch.setattr(CudaRecorder, "_failed", [])
        self.waited, self.invalid = [], False

    def waiting(self, name):
        return SimpleNamespace(name=name, wait_stream=lambda other: self.waited.append((name, other.name)))

    def Stream(self, device):
        return self.waiting("side")

    def CUDAGraph(self):
        def pool():
            if self.invalid:
                raise RuntimeError("no successful capture")
            return (0, 7)

        return SimpleNamespace(replay=lambda: "replayed", pool=pool)

    @contextmanager
    def within(self, stream):
        self.current.append(stream.name if stream else self.current[-1])
        try:
            yield
        finally:
            self.current.pop()

    def graph(self, graph, *, pool, stream, capture_error_mode):
        cuda = self
        assert (pool, stream.name, capture_error_mode) == ((0, 7), "side", "thread_local")

        class Capture:
            def __enter__(self):
                cuda.capturing = True

            def __exit__(self, *args):
                if cuda.invalid:
                    raise RuntimeError("capture invalidated")
                cuda.capturing = False

        return Capture()


def test_a_recorder_leaves_streams_as_they_were(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    recorder = graph.recorder_for(torch.device("cuda"))
    seen = []
    with recorder.beside():
        seen.append(cuda.current[-1])
    assert cuda.waited == [("side", "default"), ("default", "side")]
    assert recorder.record(lambda: seen.append((cuda.current[-1], cuda.capturing)))() == "replayed"
    assert seen == ["side", ("side", True)]
    assert (cuda.current, cuda.capturing, cuda.ended) == (["default"], False, [])


@pytest.mark.parametrize("invalid", [False, True])
def test_a_recording_that_fails_is_the_last_of_a_process(monkeypatch, invalid):
    cuda = FakeCuda(monkeypatch)
    recorder = graph.recorder_for(torch.device("cuda", 0))
    cuda.invalid = invalid

    def fail():
        raise ValueError("out of order")

    with pytest.raises(RuntimeError if invalid else ValueError):
        recorder.record(fail)
    assert cuda.current == ["default"]
    assert cuda.ended == ([(0, (0, 7))] if invalid else [])
    with pytest.raises(RuntimeError, match="has failed in this process before"):
        recorder.record(list)
    assert graph.recorder_for(torch.device("cuda", 0)) is None
    assert not CudaRecorder._turn.locked()
