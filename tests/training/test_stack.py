"""Several modules of one shape that take their steps at once, and get what they get alone."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from skvae.modules import (
    AutoEncoderModule,
    Batch,
    ContractiveModule,
    Conv,
    CVAEModule,
    DenoisingModule,
    Gaussian,
    MIWAEModule,
    SparseModule,
    VAEModule,
    VQVAEModule,
)
from skvae.training.loader import Block
from skvae.training.optimizers import Optimizer, OptimizerError, build_optimizer
from skvae.training.stack import CannotStackError, StackedStep, stack_key
from skvae.training.step import EagerStep
from skvae.training.together import Stretch, leave, take, take_alone
from tests.training.test_step import N_CONDITIONS, N_FEATURES, batches, make, state_of

pytestmark = pytest.mark.usefixtures("one_core")

BETAS = [{"beta": 0.2}, {"beta": 1.0}, {"beta": 4.0, "kl_warmup": 0.5}]
STACKED = {  # what modules are given each, what all of them are given, and whether entries are missing
    "vae": (VAEModule, BETAS, {}, False),
    "vae with missing entries": (VAEModule, BETAS, {}, True),
    "vae with shared noise": (VAEModule, BETAS, {"likelihood": Gaussian(noise="shared")}, False),
    "vae with shared noise and missing entries": (VAEModule, BETAS, {"likelihood": Gaussian(noise="shared")}, True),
    "vae with draws and capacity": (
        VAEModule,
        [{"capacity": capacity} for capacity in (0.5, 1.0, 2.0)],
        {"n_draws": 2, "likelihood": "laplace"},
        False,
    ),
    "vae of equal settings": (VAEModule, [{"kl_warmup": share} for share in (0.5, 0.2, 0.5)], {}, False),
    "vae of images": (VAEModule, BETAS, {"image_shape": (1, 1, N_FEATURES), "encoder": Conv(channels=(3,))}, False),
    "bernoulli vae": (VAEModule, BETAS, {"likelihood": "bernoulli"}, True),
    "cvae": (CVAEModule, BETAS, {"n_conditions": N_CONDITIONS, "encode_condition": True, "prior": "conditional"}, False),
    "miwae": (MIWAEModule, [{}] * 3, {"mechanism": "self_masking"}, True),
    "autoencoder": (AutoEncoderModule, [{}] * 3, {"activation": "silu"}, False),
    "denoising": (DenoisingModule, [{}] * 3, {}, True),
    "contractive": (ContractiveModule, [{}] * 3, {}, False),
    "sparse": (SparseModule, [{}] * 3, {"revival_weight": 0.5}, True),
    "sparse by length": (SparseModule, [{}] * 3, {"penalty": "l1"}, False),
    "top k": (SparseModule, [{"k_annealing": share} for share in (0.2, 0.5, 0.9)], {"penalty": "top_k"}, False),
    "batch top k": (SparseModule, [{"k_annealing": share} for share in (0.2, 0.5, 0.9)], {"penalty": "batch_top_k"}, True),
    "vqvae": (VQVAEModule, [{}] * 3, {"n_codes": 2, "embedding_dim": 2, "n_embeddings": 4}, False),
    "vqvae of two levels": (
        VQVAEModule,
        [{}] * 3,
        {"n_levels": 2, "n_codes": 2, "embedding_dim": 2, "n_embeddings": 4},
        False,
    ),
    "vqvae of few codes": (VQVAEModule, [{}] * 3, {"n_codes": 2, "embedding_dim": 2, "n_embeddings": 64}, False),
}
RATES = (0.003, 0.01, 0.03)
N_STEPS = 10


def steps_of(modules, specs=None, rates=RATES):
    """Steps of modules by optimizers of their own."""
    found = []
    for i, (module, rate) in enumerate(zip(modules, rates, strict=False)):
        spec = Optimizer() if specs is None else specs[i]
        optimizer = build_optimizer(spec, list(module.parameters()), rate, torch.device("cpu"))
        found.append(
            EagerStep(
                module,
                optimizer,
                learning_rate=rate,
                learning_rate_schedule=spec.schedule,
                clip_norm=spec.clip_norm,
                clip_value=spec.clip_value,
            )
        )
    return found


def first_rows(batch, n):
    """The first rows of a batch."""
    return batch.mapped(lambda part: part[:n])


def rows_of(module, n, **params):
    """So many rows, with their noise."""
    return first_rows(batches(module, 1, **params)[0].mapped(lambda part: torch.cat([part] * 5)), n)


def blocks_of(data):
    """Batches as blocks of one each."""
    return (Block(batch, [len(batch.x)]) for batch in data)


def stretch_of(step, data):
    """Stretch of one module, whose run it is."""
    return Stretch([step], blocks_of(data), len(data), len(data[0].x), lambda i: i / len(data), n_epochs=1)


def assert_alike(modules, twins, **tolerance):
    """Assert that modules have the same parameters and buffers."""
    for module, twin in zip(modules, twins, strict=True):
        expected = state_of(twin)
        for name, value in state_of(module).items():
            torch.testing.assert_close(value, expected[name], **tolerance)


@pytest.mark.parametrize(("cls", "each", "common", "missing"), STACKED.values(), ids=STACKED)
def test_modules_that_are_trained_together_get_what_they_get_alone(cls, each, common, missing):
    modules = [make(cls, seed, **params, **common) for seed, params in enumerate(each)]
    before, twins = [state_of(module) for module in modules], copy.deepcopy(modules)
    data = batches(modules[0], missing=missing)
    if common.get("likelihood") == "bernoulli":
        data = [batch._replace(x=torch.sigmoid(batch.x), target=torch.sigmoid(batch.x)) for batch in data]
    # Vectors of several levels are standardized over a batch, so that the gradient of some biases is rounding alone, of which
    # Adam would make steps of full size.
    adam = common.get("n_levels", 1) == 1
    specs = [Optimizer("adam" if adam else "sgd")] * 3
    sizes = (16, 16, 16) if modules[0].couples_rows else (16, 15, 12)
    together = [
        stretch_of(step, [first_rows(batch, n) for batch in data])
        for step, n in zip(steps_of(modules, specs), sizes, strict=True)
    ]
    assert len({stretch.key("run", sizes[0]) for stretch in together}) == 1
    taken = take(together)
    leave([stretch.steps[0] for stretch in together])
    for ((found,),), step, n in zip(taken, steps_of(twins, specs), sizes, strict=True):
        totals, total_weight = {}, 0.0
        for i, batch in enumerate(data):
            batch = first_rows(batch, n)
            for name, term in step(batch, i / len(data)).items():
                totals[name] = totals.get(name, 0.0) + ((term * batch.weight).sum() if term.dim() else term).item()
            total_weight += batch.weight.sum().item()
        for name, term in step.module.loss(batch, step.schedule(1.0)).terms.items():
            expected = totals[name] / (total_weight if term.dim() else len(data))
            assert found.means[name] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert found.norm == pytest.approx(nn.utils.get_total_norm(step.params).item(), rel=1e-4)
    assert_alike(modules, twins, rtol=1e-5, atol=1e-6)
    for module, earlier in zip(modules, before, strict=True):
        moved = {name for name, value in state_of(module).items() if not torch.equal(value, earlier[name])}
        assert moved >= {name for name, _ in module.named_parameters() if adam or not name.endswith("bias")}
        assert ("likelihood.noise.moment" in moved) == (module.learns_noise and module.likelihood.learns_noise)


# -- each its own -----------------------------------------------------------------------------------------------------


OPTIMIZERS = [
    Optimizer(),
    Optimizer(betas=(0.5, 0.9)),
    Optimizer(weight_decay=0.1),
    Optimizer("adamw", weight_decay=0.1, schedule="linear"),
    Optimizer(clip_norm=0.1),
    Optimizer(clip_value=0.01),
    Optimizer("sgd", momentum=0.9, schedule="constant"),
    Optimizer("rmsprop"),
    Optimizer("adam", amsgrad=True),
]


def test_each_has_an_optimizer_of_its_own():
    modules = [make(VAEModule, seed) for seed in range(9)]
    twins, data, rates = copy.deepcopy(modules), batches(modules[0]), [0.003 * (1 + i % 3) for i in range(9)]
    steps, others = steps_of(modules, OPTIMIZERS, rates), steps_of(twins, OPTIMIZERS, rates)
    taken = take([stretch_of(step, data) for step in steps])
    assert all(isinstance(each, list) for each in taken)
    leave(steps)
    for step, other in zip(steps, others, strict=True):
        take_alone(stretch_of(other, data))
        state, expected = step.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
        assert state.keys() == expected.keys()
        for index, entry in expected.items():
            for name, value in entry.items():
                torch.testing.assert_close(state[index][name], value, rtol=1e-5, atol=1e-7)
    assert_alike(modules, twins, rtol=1e-5, atol=1e-6)


def test_each_has_a_weight_decay_of_its_own():
    modules = [make(AutoEncoderModule, seed, linear_path=decay) for seed, decay in enumerate((0.0, 1.0, 30.0))]
    twins, data = copy.deepcopy(modules), batches(modules[0])
    stretches = [stretch_of(step, data) for step in steps_of(modules)]
    assert len({stretch.key("run", 16) for stretch in stretches}) == 1
    take(stretches)
    for step in steps_of(twins):
        take_alone(stretch_of(step, data))
    assert_alike(modules, twins, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("corruption", ["gaussian", "masking", "salt_and_pepper", "dropout", ("masking", "gaussian")])
def test_each_has_units_of_its_own(corruption):
    rng = np.random.default_rng(0)
    modules = []
    for seed in range(3):
        X = rng.gamma(1.0 + seed, size=(40, N_FEATURES)) * np.arange(1.0, N_FEATURES + 1)
        X[:, seed] = 1.0
        module = make(DenoisingModule, seed, corruption=corruption, noise_unit="data", mask_value=0.5)
        module.likelihood.fit(X)
        modules.append(module)
    twins, data = copy.deepcopy(modules), batches(modules[0])
    stretches = [stretch_of(step, data) for step in steps_of(modules)]
    assert len({stretch.key("run", 16) for stretch in stretches}) == 1
    assert all(isinstance(each, list) for each in take(stretches))
    for step in steps_of(twins):
        take_alone(stretch_of(step, data))
    assert_alike(modules, twins, rtol=1e-5, atol=1e-6)


def test_in_double_precision_whole_runs_agree_closely():
    modules = [make(VAEModule, seed, beta=beta).double() for seed, beta in enumerate((0.5, 1.0, 2.0))]
    data = [
        Batch(
            *(None if part is None else part.double() for part in batch[:-1]),
            noise={"posterior": batch.noise["posterior"].double()},
        )
        for batch in batches(modules[0], 300)
    ]
    twins = copy.deepcopy(modules)
    take([stretch_of(step, data) for step in steps_of(modules)])
    for step in steps_of(twins):
        take_alone(stretch_of(step, data))
    assert_alike(modules, twins, rtol=1e-9, atol=1e-9)


# -- who takes part ---------------------------------------------------------------------------------------------------


def test_members_come_and_go():
    modules = [make(VAEModule, seed) for seed in range(4)]
    twins, data = copy.deepcopy(modules), batches(modules[0], 12)
    rates = [0.003, 0.01, 0.02, 0.01]
    steps, others = steps_of(modules, rates=rates), steps_of(twins, rates=rates)
    for members in ([0, 1, 2], [0, 2, 3], [2], [0, 1, 2, 3]):
        for step, found in zip([steps[i] for i in members], take([stretch_of(steps[i], data) for i in members]), strict=True):
            if found is None:
                assert members == [2]
                take_alone(stretch_of(step, data))
        leave([step for i, step in enumerate(steps) if i not in members])
        for i in members:
            take_alone(stretch_of(others[i], data))
    leave(steps)
    assert [step.n_steps for step in steps] == [step.n_steps for step in others]
    assert_alike(modules, twins, rtol=1e-4, atol=1e-5)
    take_alone(stretch_of(steps[0], data))  # goes on with what the optimizer has gathered
    take_alone(stretch_of(others[0], data))
    assert_alike(modules[:1], twins[:1], rtol=1e-4, atol=1e-5)


def test_who_has_left_has_memory_of_its_own():
    modules = [make(VAEModule, seed) for seed in range(8)]
    steps = steps_of(modules, rates=[0.01] * 8)
    take([stretch_of(step, batches(modules[0], 2)) for step in steps])
    step = steps[3]
    assert modules[3].encoder[0].weight.untyped_storage().nbytes() == 8 * 4 * modules[3].encoder[0].weight.numel()
    leave([step])
    assert step.stack is None
    tensors = [*modules[3].parameters(), *modules[3].buffers()]
    tensors += [value for entry in step.optimizer.state.values() for value in entry.values()]
    assert all(tensor.untyped_storage().nbytes() == 4 * tensor.numel() for tensor in tensors)
    counts = [entry["step"] for entry in step.optimizer.state.values()]
    assert [count.item() for count in counts] == [2.0] * len(counts)
    assert len({count.data_ptr() for count in counts}) == len(counts)
    before = state_of(modules[4])
    take_alone(stretch_of(step, batches(modules[0], 2)))
    assert all(torch.equal(value, before[name]) for name, value in state_of(modules[4]).items())


def test_a_snapshot_of_an_optimizer_is_of_its_member_alone():
    modules = [make(AutoEncoderModule, seed) for seed in range(3)]
    steps = steps_of(modules)
    take([stretch_of(step, batches(modules[0], 2)) for step in steps])
    stack = steps[1].stack
    stack.write_moments(steps[1])
    saved = pickle.loads(pickle.dumps(steps[1].optimizer.state_dict()))["state"]
    assert steps[1].stack is stack
    leave(steps)
    for index, entry in steps[1].optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, saved[index][name]) for name, value in entry.items())


class Failing(torch.optim.SGD):
    """Takes one step."""

    def step(self, closure=None):
        if self.state:
            raise ArithmeticError("no more")
        self.state["taken"] = True
        return super().step()


def test_an_optimizer_that_fails_ends_its_own_run_alone():
    modules = [make(AutoEncoderModule, seed) for seed in range(3)]
    specs = [Optimizer("sgd"), Optimizer(Failing), Optimizer("sgd")]
    twins, data = copy.deepcopy(modules), batches(modules[0])
    first, failed, last = take([stretch_of(step, data) for step in steps_of(modules, specs)])
    assert isinstance(failed, OptimizerError)
    assert isinstance(failed.__cause__, ArithmeticError)
    assert isinstance(first, list)
    assert isinstance(last, list)
    for step in (steps_of(twins, specs)[i] for i in (0, 2)):
        take_alone(stretch_of(step, data))
    assert_alike([modules[0], modules[2]], [twins[0], twins[2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_good", [0, 3])
def test_rows_that_cannot_be_read_end_their_own_run_alone(n_good):
    modules = [make(VAEModule, seed) for seed in range(3)]
    twins, data = copy.deepcopy(modules), batches(modules[0])

    def broken():
        yield from blocks_of(data[:n_good])
        raise OSError("no such file")

    stretches = [stretch_of(step, data) for step in steps_of(modules)]
    stretches[1].blocks = broken()
    first, failed, last = take(stretches)
    assert isinstance(failed, OSError)
    assert isinstance(first, list)
    assert isinstance(last, list)
    for step in steps_of(twins):
        take_alone(stretch_of(step, data))
    assert_alike(modules[::2], twins[::2], rtol=1e-5, atol=1e-6)
    for stretch in stretches:
        stretch.blocks, stretch.failure = broken(), None
    with pytest.raises(OSError, match="no such file"):
        take(stretches)


def test_a_run_that_diverges_leaves_the_others_alone():
    modules = [make(VAEModule, seed) for seed in range(3)]
    data, twins, rates = batches(modules[0]), copy.deepcopy(modules), (0.003, 1e20, 0.03)
    found = take([stretch_of(step, data) for step in steps_of(modules, rates=rates)])
    assert not np.isfinite(found[1][0][0].means["reconstruction"])
    for step in steps_of(twins, rates=rates):
        take_alone(stretch_of(step, data))
    assert_alike(modules[::2], twins[::2], rtol=1e-5, atol=1e-6)


def test_what_turns_out_to_have_no_rule_is_taken_from_its_first_batch(monkeypatch):
    modules = [make(AutoEncoderModule, seed) for seed in range(2)]
    twins, data = copy.deepcopy(modules), batches(modules[0])

    def refuse(self, *args):
        raise RuntimeError("vmap: no rule")

    monkeypatch.setattr(StackedStep, "_losses", refuse)
    stretches = [stretch_of(step, data) for step in steps_of(modules)]
    assert take(stretches) == [None, None]
    for stretch, step in zip(stretches, steps_of(twins), strict=True):
        assert stretch.steps[0].stack is None
        take_alone(stretch)
        take_alone(stretch_of(step, data))
    assert_alike(modules, twins, rtol=0.0, atol=0.0)


def test_other_errors_are_not_swallowed(monkeypatch):
    def fail(self, *args):
        raise RuntimeError("something else")

    modules = [make(AutoEncoderModule, seed) for seed in range(2)]
    monkeypatch.setattr(StackedStep, "_losses", fail)
    with pytest.raises(RuntimeError, match="something else"):
        take([stretch_of(step, batches(modules[0])) for step in steps_of(modules)])


def test_units_that_say_something_else_for_every_module_are_not_shared():
    modules = [make(AutoEncoderModule, seed) for seed in range(2)]
    for module, factor in zip(modules, (1.0, 2.0), strict=True):
        module.likelihood.fit(factor * np.random.default_rng(0).normal(size=(20, N_FEATURES)))
        module.loss = lambda batch, schedule: None
    template = copy.deepcopy(modules[0])
    template.loss = lambda batch, schedule: template.likelihood.units.scale
    stack = StackedStep(steps_of(modules))
    stack._template = template
    with pytest.raises(CannotStackError):
        stack(Batch.of(torch.zeros(2, 4, N_FEATURES)), [0.0, 0.0])


def test_keys_tell_what_can_be_stacked():
    key = stack_key(make(VAEModule))
    assert key is not None
    assert stack_key(make(VAEModule, 1, beta=4.0, kl_warmup=0.3)) == key
    different = [
        make(VAEModule, capacity=1.0),
        make(VAEModule, n_draws=2),
        make(VAEModule, activation="tanh"),
        make(VAEModule, likelihood="laplace"),
        make(VAEModule, linear_path=1.0),
        make(AutoEncoderModule),
        make(VAEModule).double(),
    ]
    assert len({stack_key(module) for module in different} | {key}) == len(different) + 1
    frozen = make(VAEModule)
    next(frozen.parameters()).requires_grad_(False)
    assert stack_key(frozen) != key
    assert stack_key(make(AutoEncoderModule, linear_path=1.0)) == stack_key(make(AutoEncoderModule, linear_path=3.0))


@pytest.mark.parametrize(("cls", "each", "common", "missing"), STACKED.values(), ids=STACKED)
def test_what_is_scheduled_reaches_the_loss_by_the_schedule_alone(cls, each, common, missing):
    module = make(cls, **each[0], **common)
    (batch,) = batches(module, 1, missing=missing)
    if common.get("likelihood") == "bernoulli":
        batch = batch._replace(x=torch.sigmoid(batch.x), target=torch.sigmoid(batch.x))
    schedule = {name: torch.tensor(value) for name, value in module.schedule(0.3).items()}
    before = module.loss(batch, schedule).terms
    for layer in module.modules():
        for name in getattr(layer, "scheduled", ()):
            if hasattr(layer, name):
                setattr(layer, name, 0.123)
    for name, term in module.loss(batch, schedule).terms.items():
        assert torch.equal(term, before[name])


class Own(nn.Linear):
    """A layer of the user's own."""


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(5), nn.GRU(5, 5), Own(5, 5)])
def test_what_draws_remembers_or_is_not_known_is_trained_alone(layer):
    module = make(AutoEncoderModule)
    module.encoder.insert(0, layer)
    assert stack_key(module) is None
    assert stack_key(make(DenoisingModule, corruption=lambda x: x)) is None


def test_a_part_is_what_was_put_in():
    (batch,) = batches(make(CVAEModule, n_conditions=N_CONDITIONS), 1, missing=True)
    found = batch.mapped(lambda part: part.unsqueeze(0)).mapped(lambda part: part[0])
    assert found.target is found.x
    for one, other in zip(found[:-1], batch[:-1], strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    assert all(torch.equal(found.noise[name], value) for name, value in batch.noise.items())


@pytest.mark.parametrize("sizes", [[4, 4, 4], [4, 4, 3], [3, 3, 3]])
def test_batches_are_padded_by_rows_of_no_weight(sizes):
    module, n_rows = make(CVAEModule, n_conditions=N_CONDITIONS), sum(sizes)
    block = Block(rows_of(module, n_rows, missing=True), sizes)
    padded, weight = block.padded(4)
    assert padded.target is padded.x
    for i, (batch, size) in enumerate(zip(block.batches(), sizes, strict=True)):
        assert len(batch.x) == size
        found = padded.mapped(lambda part, i=i: part[i, 0])
        for one, other in zip(found[:-1], batch[:-1], strict=True):
            assert one is None or one is found.weight or torch.equal(one[:size], other)
        torch.testing.assert_close(found.weight[:size], batch.weight * 4 / size)
        assert torch.equal(weight[i, 0, :size], batch.weight)
        assert not found.weight[size:].any()
        assert not weight[i, 0, size:].any()
        assert torch.equal(found.noise["posterior"][:size], batch.noise["posterior"])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_blocks_are_divided_between_batches(n):
    rows = rows_of(make(VAEModule), 11)
    first, rest = Block(rows, [4, 4, 3]).divided(n)
    assert (first.sizes, rest.sizes) == ([4, 4, 3][:n], [4, 4, 3][n:])
    assert torch.equal(torch.cat([first.rows.x, rest.rows.x]), rows.x)
    assert len(first.rows.x) == sum(first.sizes)


@pytest.mark.parametrize("n_steps", [(3, 5), (2, 2, 4), (8,)])
@pytest.mark.parametrize("way", ["together", "alone"])
def test_steps_go_on_with_the_batches_that_a_stretch_has_left(n_steps, way):
    modules = [make(VAEModule, seed) for seed in range(2)]
    twins, rows = copy.deepcopy(modules), rows_of(modules[0], 50)
    steps, blocks = steps_of(modules), [iter([Block(rows, [7, 6, 6, 6, 6, 6, 6, 7])]) for _ in modules]
    for n in n_steps:
        stretches = [Stretch([step], given, n, 6, lambda i: 0.5) for step, given in zip(steps, blocks, strict=True)]
        if way == "together":
            assert all(found == [] for found in take(stretches))
        else:
            for stretch in stretches:
                take_alone(stretch)
        blocks = [stretch.blocks for stretch in stretches]
    assert not any(list(left) for left in blocks)
    for step in steps_of(twins):
        take_alone(Stretch([step], iter([Block(rows, [7, 6, 6, 6, 6, 6, 6, 7])]), 8, 6, lambda i: 0.5))
    assert_alike(modules, twins, rtol=1e-5, atol=1e-6)
