"""Steps of training: what one does."""

import copy
import math

import pytest
import torch
from torch import nn

from skvae.modules import (
    AutoEncoderModule,
    Batch,
    ContractiveModule,
    CVAEModule,
    DenoisingModule,
    Loss,
    MIWAEModule,
    SparseModule,
    TrainableModule,
    VAEModule,
    VQVAEModule,
)
from skvae.runtime.randomness import PrivateRandomness
from skvae.training.schedules import SCHEDULES
from skvae.training.step import EagerStep, ScheduleTensors

pytestmark = pytest.mark.usefixtures("one_core")

N_ROWS, N_FEATURES, N_CONDITIONS, N_STEPS = 16, 5, 2, 10


def make(cls, seed=0, **params):
    """A small module in training."""
    with PrivateRandomness(seed):
        module = cls(N_FEATURES, None if cls is VQVAEModule else 3, hidden_layer_sizes=(8,), **params)
    module.train().before_training()
    if cls is SparseModule:  # one unit is dead
        module.idle.copy_(torch.tensor([3.0, 150.0, 0.0]).roll(seed))
    return module


def batches(module, n=N_STEPS, *, missing=False):
    """Batches of rows with weights that differ, and with their noise."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(N_ROWS, *shape, generator=generator)

    found = []
    for _ in range(n):
        noise = {name: normal(*shape) for name, shape in module.noise_shapes.items()}
        condition = normal(N_CONDITIONS) if isinstance(module, CVAEModule) else None
        observed = normal(N_FEATURES) > -1.0 if missing else None
        batch = Batch.of(normal(N_FEATURES), condition=condition, observed=observed, noise=noise)
        found.append(batch._replace(weight=normal().exp()))
    return found


def state_of(module):
    """Copies of parameters and buffers."""
    return {name: value.detach().clone() for name, value in (*module.named_parameters(), *module.named_buffers())}


class Quadratic(TrainableModule):
    """Half a squared parameter, and whatever its schedule says."""

    def __init__(self, start=(3.0, -4.0)):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))
        self.seen = []

    def schedule(self, progress):
        return {"factor": 1.0 + progress, "constant": 2.0}

    def loss(self, batch, schedule):
        square = 0.5 * self.weight.square().sum().expand(len(batch.x))
        return Loss({"square": schedule["factor"] * square}, {"a": batch.x.sum()})

    def after_step(self, learned):
        self.seen.append((learned["a"].item(), self.weight.detach().clone()))


def quadratic(learning_rate=0.1, **params):
    module = Quadratic()
    return module, EagerStep(module, torch.optim.SGD(module.parameters(), lr=1.0), learning_rate=learning_rate, **params)


ROWS = Batch.of(torch.ones(4, 1))


# -- the schedule's values --------------------------------------------------------------------------------------------


def test_schedules_are_the_same_tensors_overwritten_in_place():
    schedule = ScheduleTensors(Quadratic())
    first = schedule(0.0)
    factor = first["factor"]
    assert {name: (value.item(), value.shape) for name, value in first.items()} == {"factor": (1.0, ()), "constant": (2.0, ())}
    second = schedule(0.5)
    assert second["factor"] is factor
    assert factor.item() == 1.5
    assert second["constant"] is first["constant"]
    assert not factor.requires_grad


def test_what_has_ended_is_left_out():
    module = Quadratic()
    module.schedule = lambda progress: {"factor": 1.0, "constant": 2.0} if progress < 1.0 else {"factor": 3.0}
    schedule = ScheduleTensors(module)
    factor = schedule(0.5)["factor"]
    assert schedule(1.0) == {"factor": factor}
    assert factor.item() == 3.0


def test_schedules_of_nothing_are_empty():
    assert ScheduleTensors(make(AutoEncoderModule))(0.3) == {}


def test_steps_hand_the_schedule_on_as_one_set_of_tensors():
    module, step = quadratic()
    seen, loss = [], module.loss
    module.loss = lambda batch, schedule: seen.append({**schedule}) or loss(batch, schedule)
    for progress in (0.25, 0.5):
        step(ROWS, progress)
    assert seen[0]["factor"] is seen[1]["factor"]
    assert seen[1]["factor"].item() == 1.5
    step(ROWS, 0.0)
    assert type(seen[2]["factor"]) is float
    assert seen[2]["factor"] == 1.0


def test_the_number_one_stands_for_a_tensor_of_it():
    module = make(VAEModule)
    (batch,) = batches(module, 1)
    plain, tensor = (module.loss(batch, {"beta": one}).terms["kl"] for one in (1.0, torch.tensor(1.0)))
    assert torch.equal(plain, tensor)


# -- one step ---------------------------------------------------------------------------------------------------------


def test_a_step_goes_down_the_gradient_of_the_weighted_mean():
    module = make(VAEModule)
    (batch,) = batches(module, 1)
    expected = copy.deepcopy(module)
    terms = expected.loss(batch, {"beta": torch.tensor(1.0)}).terms
    sum((batch.weight * term).mean() for term in terms.values()).backward()
    step = EagerStep(module, torch.optim.SGD(module.parameters(), lr=1.0), learning_rate=0.1)
    returned = step(batch, 0.0)
    for name, term in terms.items():
        torch.testing.assert_close(returned[name], term)
    for (name, param), other in zip(module.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(param, other - 0.1 * other.grad, msg=name)
        assert param.grad is None


def test_a_term_of_the_whole_batch_counts_once():
    module = make(VAEModule, capacity=0.5)
    (batch,) = batches(module, 1)
    expected = copy.deepcopy(module)
    terms = expected.loss(batch, ScheduleTensors(module)(1.0)).terms
    assert terms["kl"].shape == ()
    ((batch.weight * terms["reconstruction"]).mean() + terms["kl"]).backward()
    EagerStep(module, torch.optim.SGD(module.parameters(), lr=1.0), learning_rate=0.1)(batch, 1.0)
    for param, other in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(param, other - 0.1 * other.grad)


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_take_the_scheduled_rate(name):
    for progress in (0.0, 0.4, 1.0):
        module, step = quadratic(learning_rate_schedule=name)
        step(ROWS, progress)
        rate = 0.1 * SCHEDULES[name](progress)
        assert step.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        torch.testing.assert_close(module.weight, torch.tensor([3.0, -4.0]) * (1.0 - rate * (1.0 + progress)))


@pytest.mark.parametrize(
    ("clip", "gradient"),
    [
        ({"clip_norm": 1.0}, [0.6, -0.8]),
        ({"clip_norm": 10.0}, [3.0, -4.0]),
        ({"clip_value": 3.5}, [3.0, -3.5]),
        ({"clip_value": 3.0, "clip_norm": math.sqrt(2.0)}, [1.0, -1.0]),
    ],
    ids=str,
)
def test_gradients_are_clipped_before_they_are_shown_and_used(clip, gradient):
    shown = []
    module, step = quadratic(on_gradient=lambda batch: shown.append((batch, module.weight.grad.clone())), **clip)
    step(ROWS, 0.0)
    torch.testing.assert_close(module.weight, torch.tensor([3.0, -4.0]) - 0.1 * torch.tensor(gradient))
    ((batch, seen),) = shown
    assert batch is ROWS
    torch.testing.assert_close(seen, torch.tensor(gradient))


def test_what_is_learned_goes_to_after_step_before_the_weights_move():
    module, step = quadratic()
    step(ROWS, 0.0)
    ((value, weight),) = module.seen
    assert value == 4.0
    torch.testing.assert_close(weight, torch.tensor([3.0, -4.0]))


MODULES = {
    "vae": (VAEModule, {}, True),
    "vae with draws": (VAEModule, {"n_draws": 2, "likelihood": "laplace"}, False),
    "miwae": (MIWAEModule, {"mechanism": "self_masking"}, True),
    "autoencoder": (AutoEncoderModule, {}, True),
    "denoising": (DenoisingModule, {}, False),
    "contractive": (ContractiveModule, {}, False),
    "sparse": (SparseModule, {"revival_weight": 0.5}, True),
    "top k": (SparseModule, {"penalty": "top_k", "k": 2, "revival_weight": 0.5}, False),
    "vqvae": (VQVAEModule, {"n_levels": 2, "n_codes": 2, "embedding_dim": 2, "n_embeddings": 4}, False),
}
LEARNED = {
    VAEModule: {"likelihood.noise.moment", "likelihood.noise.weight"},
    SparseModule: {"idle"},
    VQVAEModule: {"quantizers.0.codebook"},
}


@pytest.mark.parametrize(("cls", "params", "missing"), MODULES.values(), ids=MODULES)
def test_a_loss_is_pure(cls, params, missing):
    module = make(cls, **params)
    (batch,) = batches(module, 1, missing=missing)
    schedule = ScheduleTensors(module)(0.3)
    kept, before = {name: value.clone() for name, value in schedule.items()}, state_of(module)
    parts = copy.deepcopy([None if part is None else part for part in batch])
    attributes = [dict(vars(part)) for part in module.modules()]
    random = torch.get_rng_state()
    first, second = module.loss(batch, schedule), module.loss(batch, schedule)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(value.requires_grad for value in first.learned.values())
    assert all(torch.equal(value, before[name]) for name, value in state_of(module).items())
    for part, earlier in zip(module.modules(), attributes, strict=True):
        assert vars(part).keys() == earlier.keys()
        assert all(value is earlier[name] for name, value in vars(part).items())
    assert all(torch.equal(schedule[name], value) for name, value in kept.items())
    assert all(part is None or isinstance(part, dict) or torch.equal(part, old) for part, old in zip(batch, parts, strict=True))
    assert all(torch.equal(values, parts[-1][name]) for name, values in batch.noise.items())
    assert torch.equal(torch.get_rng_state(), random)
    module.after_step(first.learned)
    changed = {name for name, value in state_of(module).items() if not torch.equal(value, before[name])}
    assert changed <= {name for name, _ in module.named_buffers()}
    assert changed >= LEARNED.get(cls, set())
