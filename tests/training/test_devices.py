"""What modules do where there is a device beside the CPU: nothing that mixes both, as far as tensors without numbers can tell.

They are on a device whose tensors have shapes alone, and a mode refuses operations of tensors that lie in different places, as
a GPU does.
"""

import copy
from contextlib import suppress

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback  # noqa: TID251
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from skvae import MLP, Conv, Poisson
from skvae.inference.conditional import Posterior
from skvae.modules import Batch
from skvae.runtime.randomness import draws_random_numbers
from skvae.training.graph import Watch
from tests.estimators.cases import CASES

DEVICE = torch.device("meta")
NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)
BY_NAME = {str(case): case for case in CASES}
SETTINGS = {
    **{name: (name, {}) for name in BY_NAME},
    "tied": ("AutoEncoder", {"decoder": "tied"}),
    "normalization": ("AutoEncoder", {"encoder": MLP(normalization="batch")}),
    "bernoulli": ("VAETransformer", {"likelihood": "bernoulli"}),
    "poisson": ("VAETransformer", {"likelihood": Poisson()}),
    "draws, capacity": ("VAETransformer", {"n_draws": 2, "capacity": 1.0, "likelihood": "laplace"}),
    "missing": ("VAETransformer", {"missing_values": np.nan}),
    "denoising, missing": ("DenoisingAE", {"missing_values": np.nan, "corruption": ["masking", "gaussian"]}),
    "salt": ("DenoisingAE", {"corruption": ["salt_and_pepper", "dropout"]}),
    "top k": ("SparseAE", {"penalty": "top_k", "k": 1, "revival_weight": 1.0}),
    "batch top k": ("SparseAE", {"penalty": "batch_top_k", "k": 1}),
    "l1": ("SparseAE", {"penalty": "l1"}),
    "hutchinson": ("ContractiveAE", {"jacobian": "hutchinson", "hessian": 0.1}),
    "analytic": ("ContractiveAE", {"jacobian": "analytic", "hidden_layer_sizes": (), "code_activation": "tanh"}),
    "conditional prior": ("CVAE", {"prior": "conditional", "encode_condition": True}),
    "gradient": ("VQVAE", {"codebook": "gradient", "gradient": "rotation", "entropy_weight": 0.1}),
    "levels": ("VQVAE", {"n_levels": 2, "similarity": "cosine"}),
    "lstm": ("TDVAE", {"encoder": "lstm"}),
    "images": ("VAETransformer", {"encoder": Conv(channels=(4,)), "decoder": Conv(channels=(4,), upsampling="nearest")}),
}


class Batches(Callback):
    """Keeps the last module that was trained, and its last batch."""

    found = {}

    def on_grad_computed(self, net, named_parameters, batch=None, **kwargs):
        self.found.update(module=net.module_, batch=batch)


def elsewhere(tensor):
    """A tensor of the same shape on the device."""
    return None if tensor is None else torch.empty_like(tensor, device=DEVICE)


def moved(module):
    """A module, moved to the device."""
    for layer in module.modules():
        for name, value in layer._parameters.items():
            layer._parameters[name] = None if value is None else torch.nn.Parameter(elsewhere(value), value.requires_grad)
        layer._buffers.update({name: elsewhere(value) for name, value in layer._buffers.items()})
    return module


def moved_batch(batch):
    """A copy of a batch on the device."""
    x, target, *others = map(elsewhere, batch[:-1])
    target = x if batch.target is batch.x else target
    return Batch(x, target, *others, noise={name: elsewhere(value) for name, value in batch.noise.items()})


def values_of(module):
    return {name: torch.empty((), device=DEVICE) for name in module.schedule(0.3)}


def trained(name, X):
    """A module in training and a batch, of an estimator that was fitted shortly."""
    case, params = BY_NAME[SETTINGS[name][0]], SETTINGS[name][1]
    if name == "images":
        X = np.random.default_rng(0).random((40, 1, 4, 4))
    elif name == "bernoulli":
        X = (X > X.mean(0)).astype(float)
    elif name == "poisson":
        X = np.floor(np.abs(X))
    elif "missing_values" in params:
        X = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    case.make(max_epochs=1, batch_size=40, callbacks=Batches, **params).fit(X)
    return copy.deepcopy(Batches.found["module"]).train(), Batches.found["batch"]


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_mixes_devices(name, X):
    module, batch = trained(name, X)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module, batch = moved(module), moved_batch(batch)
        for _ in range(2):  # of which the first may bring statistics of the columns to the device
            with Watch(DEVICE) as watch:
                terms, learned = module.loss(batch, values_of(module))
                torch.autograd.backward(list(terms.values()), [torch.empty_like(term) for term in terms.values()])
                module.after_step(learned)
        assert draws_random_numbers(module) or watch.obstacle is None
        if module.interval is not None:
            module.after_interval(learned, 0)
        module.eval()
        draws = torch.empty(len(batch.x), 3, module.n_components, device=DEVICE)
        scored = batch._replace(noise={**batch.noise, "posterior": draws})
        single = batch._replace(noise={**batch.noise, "posterior": draws[:, 0]})
        calls = {
            "encode": lambda: module.encode(batch),
            "decode": lambda: module.decode(module.encode(batch), batch),
            "measured_codes": lambda: module.measured_codes(batch),
            "held_out_loss": lambda: module.held_out_loss(batch, values_of(module)),
            "residual_energy": lambda: module.residual_energy(single),
            "fit_noise": lambda: module.fit_noise(single),
            "log_prob": lambda: module.log_prob(scored),
            "jacobian_norm": lambda: module.jacobian_norm(batch),
            "beliefs": lambda: module.beliefs(batch),
        }
        lacking = {"TDVAE": {"decode", "log_prob", "residual_energy"}, "VQVAE": {"log_prob"}}.get(SETTINGS[name][0], set())
        for method, call in calls.items():
            if hasattr(module, method) and method not in lacking:
                with torch.no_grad(), suppress(*NEEDS_NUMBERS):  # of which there are none
                    call()


@pytest.mark.parametrize("name", ["AutoEncoder", "VAETransformer", "poisson", "conditional prior", "images"])
def test_draws_given_entries_mix_no_devices(name, X):
    module, batch = trained(name, X)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        module, batch = moved(module).eval(), moved_batch(batch)
        observed = torch.ones_like(batch.x, dtype=torch.bool)
        codes, share, log_evidence = Posterior(module, batch._replace(observed=observed), None, None).draw(2, 64)
        assert {part.device for part in (codes, share, log_evidence)} == {DEVICE}
        assert codes.shape == (len(batch.x), 2, module.n_components)


def test_what_mixes_devices_would_be_found(X):
    module, batch = trained("AutoEncoder", X)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module, batch = moved(module), moved_batch(batch)
        loss = module.loss(batch, {}).terms["reconstruction"]
        with pytest.raises(RuntimeError, match="same device"):
            loss * torch.ones(len(batch.x))
        with pytest.raises(RuntimeError, match="same device"):
            module.encode(batch) @ torch.zeros(module.n_components, 1)
        for function in (lambda: torch.ones(2).to(DEVICE), lambda: torch.ones_like(loss).cpu(), lambda: loss[torch.arange(2)]):
            with Watch(DEVICE) as watch:
                function()
            assert "copies between devices" in watch.obstacle
        with Watch(DEVICE) as watch:
            loss * torch.tensor(2.0).sqrt().item()
        assert watch.obstacle is None
