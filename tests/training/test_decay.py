"""The choice of a weight decay beside linear maps."""

import numpy as np
import pytest
import torch
from conftest import slow
from torch import nn

from skvae import MLP, AutoEncoder, DenoisingAE, LinearPath, Optimizer, VAETransformer
from skvae.modules import Batch
from skvae.training import decay as decays
from skvae.training import together
from skvae.training.stack import CannotStackError, StackedStep
from skvae.training.step import EagerStep

pytestmark = pytest.mark.usefixtures("one_core")


def straight(n_rows, seed=0, n_features=8):
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(99).normal(size=(2, n_features))
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.3 * rng.normal(size=(n_rows, n_features))


def curved(n_rows, seed=0, n_features=8):
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)
    waves = rng.normal(size=(n_rows, 1)) @ fixed.normal(size=(1, 16)) + fixed.uniform(0, 6, 16)
    return np.sin(waves) @ fixed.normal(size=(16, n_features)) / 2 + 0.1 * rng.normal(size=(n_rows, n_features))


@pytest.mark.parametrize("cls", [AutoEncoder, *slow(DenoisingAE), VAETransformer])
def test_straight_rows_take_no_networks_and_curved_ones_do(cls):
    chosen = cls(2, random_state=0, max_epochs=100).fit(straight(60)).linear_path_.weight_decay
    assert chosen == np.inf
    model = cls(1, random_state=0, max_epochs=100).fit(curved(600))
    assert model.linear_path_.weight_decay <= 3.0
    curve = model.decay_curve_
    assert list(curve) == ["weight_decay", "loss", "error"]
    assert curve["weight_decay"][0] == np.inf
    assert (np.diff(curve["weight_decay"][1:]) < 0.0).all()
    assert curve["loss"].min() < curve["loss"][0] - 3.0 * curve["error"].max()


def test_few_different_rows_take_no_networks():
    X = curved(decays.FEWEST_ROWS - 1)
    model = AutoEncoder(1, random_state=0, max_epochs=100).fit(np.repeat(X, 20, axis=0))
    assert model.linear_path_ == LinearPath(np.inf)
    assert np.isnan(model.decay_curve_["loss"]).all()


@pytest.mark.parametrize("cls", [AutoEncoder, *slow(VAETransformer)])
def test_the_choice_is_the_same_for_weights_and_repetitions(cls):
    X, counts = curved(120), np.random.default_rng(1).integers(1, 4, size=120)
    params = {"n_components": 1, "random_state": 0, "max_epochs": 100, "batch_size": 1000}
    weighted = cls(**params).fit(X, sample_weight=counts.astype(float))
    repeated = cls(**params).fit(np.repeat(X, counts, axis=0))
    thrice = cls(**params).fit(X, sample_weight=3.0 * counts)
    for other in (repeated, thrice):
        assert other.linear_path_ == weighted.linear_path_
        for name, values in weighted.decay_curve_.items():
            np.testing.assert_allclose(other.decay_curve_[name], values, rtol=1e-3, atol=1e-5)


def test_folds_at_once_take_the_steps_of_one_after_the_other(monkeypatch):
    X = curved(90)
    for cls in (AutoEncoder, VAETransformer):
        at_once = cls(1, random_state=0, max_epochs=100).fit(X).decay_curve_["loss"]
        with monkeypatch.context() as patch:
            patch.setattr(together, "stack_key", lambda module: None)
            alone = cls(1, random_state=0, max_epochs=100).fit(X).decay_curve_["loss"]
        np.testing.assert_allclose(at_once[:2], alone[:2], rtol=1e-2)


def test_what_has_no_rule_for_several_modules_is_done_one_by_one(monkeypatch):
    X, calls = curved(90), []
    expected = AutoEncoder(1, random_state=0, max_epochs=100).fit(X).decay_curve_["loss"]

    def refuse(self, batch, progress):
        calls.append(batch)
        raise CannotStackError

    monkeypatch.setattr(StackedStep, "__call__", refuse)
    found = AutoEncoder(1, random_state=0, max_epochs=100).fit(X).decay_curve_["loss"]
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-2)
    assert len(calls) <= 2


def test_other_errors_are_not_swallowed(monkeypatch):
    def fail(self, batch, progress):
        raise RuntimeError("something else")

    monkeypatch.setattr(StackedStep, "__call__", fail)
    with pytest.raises(RuntimeError, match="something else"):
        AutoEncoder(1, random_state=0, max_epochs=100).fit(curved(60))


class Noisy(nn.Dropout):
    """A layer of the user's own that draws."""


@pytest.mark.parametrize(
    "params",
    [
        *slow({"encoder": MLP(dropout=0.2)}),
        {"encoder": MLP(normalization="batch")},
        {"activation": Noisy},
        *slow({"optimizer": Optimizer("sgd", momentum=0.9)}, {"optimizer": "adafactor"}, {"likelihood": "laplace"}),
        {"decoder": "tied"},
    ],
    ids=str,
)
def test_networks_and_optimizers_of_all_kinds_can_be_chosen_for(params):
    model = AutoEncoder(1, random_state=0, max_epochs=100, **params).fit(curved(60))
    again = AutoEncoder(1, random_state=0, max_epochs=100, **params).fit(curved(60))
    np.testing.assert_array_equal(model.decay_curve_["loss"], again.decay_curve_["loss"])
    assert np.isfinite(model.decay_curve_["loss"]).all()


def test_decay_shrinks_the_networks_alone():
    model = AutoEncoder(1, linear_path=LinearPath(5.0), random_state=0, max_epochs=1, learning_rate=1e-3).fit(curved(60))
    module = model.module_
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    step = EagerStep(module, optimizer, learning_rate=1e-12)
    before = {name: value.clone() for name, value in module.named_parameters()}
    step.learning_rate = 0.1
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    x = torch.zeros(4, 8)
    step.optimizer.step = lambda: None  # nothing but the decay
    step(Batch.of(x), 1.0)
    rate = 0.1 * step.rate_factor(1.0)
    for name, value in module.named_parameters():
        factor = 1.0 if ".linear." in name else 1.0 - rate * 5.0
        torch.testing.assert_close(value, factor * before[name])
    assert any(".linear." in name for name in before)
    assert any(".hidden." in name for name in before)


def test_the_strongest_decay_that_is_about_as_good_is_taken():
    weight = np.full(100, 0.01)
    noise = np.random.default_rng(0).normal(size=100)
    flat = np.ones(100)
    losses = [10.0 * flat, 7.0 * flat, 5.1 * flat, 5.0 * flat, 4.8 * flat]
    assert decays._choose(losses, weight) == 2  # which reaches 90% of the gain
    assert decays._choose([1000.0 * flat, *losses[1:]], weight) == 2  # however bad the linear model is
    assert decays._choose([10.0 * flat, 9.0 * flat, 5.0 * flat], weight) == 2
    assert decays._choose([10.0 * flat, 9.99 + noise], weight) == 0  # a gain that may be chance
    assert decays._choose([10.0 * flat, 11.0 * flat], weight) == 0


def test_a_short_run_chooses_nothing():
    model = AutoEncoder(1, random_state=0, max_epochs=99).fit(curved(60))
    assert model.linear_path_ == LinearPath(1.0)
    assert not hasattr(model, "decay_curve_")
