import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import callbacks as skorch_callbacks  # noqa: TID251
from torch import nn

from skvae import AutoEncoder, VAETransformer
from skvae.data import Table
from skvae.modules import Batch, Loss, VAEModule
from skvae.training import SCHEDULES, DivergedError, Optimizer, Plan, Rows, train
from skvae.training.net import AutoEncoderNet
from skvae.training.schedules import FINAL

CPU = torch.device("cpu")
TERMS = {AutoEncoder: ["reconstruction"], VAETransformer: ["reconstruction", "kl"]}


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(60, 5))


@pytest.fixture(params=[AutoEncoder, VAETransformer])
def cls(request):
    return request.param


def make(cls, **params):
    given = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "max_epochs": 4,
        "batch_size": 16,
        "random_state": 0,
        "linear_path": None,
    }
    return cls(**given).set_params(**params)


@pytest.fixture
def recorder():
    """A callback class that keeps what it sees in the class: skorch callbacks are copied like parameters."""

    class Recorder(skorch_callbacks.Callback):
        net = None
        events, lrs, norms, largest, losses, states = [], [], [], [], [], []

        def __init__(self, keep=True):
            self.keep = keep

        def on_train_begin(self, net, **kwargs):
            type(self).net = net
            self.events.append("train begins")

        def on_train_end(self, net, **kwargs):
            self.events.append("train ends")

        def on_epoch_begin(self, net, **kwargs):
            self.events.append("epoch begins")

        def on_epoch_end(self, net, **kwargs):
            self.events.append("epoch ends")
            if self.keep:
                self.states.append((weights_of(net), copy.deepcopy(net.optimizer_.state_dict())))

        def on_batch_begin(self, net, batch, training, **kwargs):
            self.events.append("batch begins")

        def on_grad_computed(self, net, named_parameters, batch, training, **kwargs):
            gradient = torch.cat([param.grad.flatten() for _, param in named_parameters])
            self.norms.append(gradient.norm().item())
            self.largest.append(gradient.abs().max().item())

        def on_batch_end(self, net, batch, training, loss, **kwargs):
            self.events.append("batch ends")
            self.losses.append((training, len(batch.x), float(loss)))
            self.lrs.append(net.optimizer_.param_groups[0]["lr"])

    return Recorder


def with_callbacks(*callbacks):
    return list(callbacks)


def weights_of(model):
    return {name: value.clone() for name, value in model.module_.state_dict().items() if isinstance(value, torch.Tensor)}


def same_weights(one, other):
    tensors = [name for name in one if isinstance(one[name], torch.Tensor)]
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in tensors)


# -- history ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [False, True])
def test_history_has_every_term_by_name_and_their_sum(cls, X, early_stopping):
    model = make(cls, early_stopping=early_stopping).fit(X)
    names = ["loss", *TERMS[cls]]
    if early_stopping:
        names += [f"valid_{name}" for name in names]
    assert sorted(model.history_) == sorted(names)
    assert next(iter(model.history_)) == "loss"
    for prefix in ("", "valid_") if early_stopping else ("",):
        terms = [model.history_[prefix + name] for name in TERMS[cls]]
        np.testing.assert_allclose(model.history_[f"{prefix}loss"], sum(terms), rtol=1e-12)
        assert all(term.shape == (4,) and term.dtype == np.float64 and np.isfinite(term).all() for term in terms)
    assert model.loss_curve_ == model.history_["loss"].tolist()
    assert model.n_iter_ == 4


def test_a_term_that_couples_the_batch_is_recorded_too(X):
    model = make(VAETransformer, capacity=1.0, kl_warmup=0.0).fit(X)
    np.testing.assert_allclose(model.history_["loss"], model.history_["reconstruction"] + model.history_["kl"], rtol=1e-12)
    assert (model.history_["kl"] >= 0).all()


def test_history_is_the_mean_over_rows(cls, X, recorder):
    model = make(cls, callbacks=with_callbacks(recorder), batch_size=25).fit(X)  # batches of 20
    by_epoch = np.array([loss for _, _, loss in recorder.losses]).reshape(4, 3)
    assert {size for _, size, _ in recorder.losses} == {20}
    np.testing.assert_allclose(model.history_["loss"], by_epoch.mean(axis=1), rtol=1e-5)


def test_history_is_weighted(X, recorder):
    weight = np.where(np.abs(X[:, 0]) > 1, 5.0, 0.1)
    model = make(AutoEncoder, learning_rate=1e-30, callbacks=with_callbacks(recorder)).fit(X, sample_weight=weight)
    x = model.module_.likelihood.standardize(X)
    losses = model.module_.loss(Batch.of(x), {}).terms["reconstruction"].detach().numpy()
    np.testing.assert_allclose(model.history_["loss"], np.average(losses, weights=weight), rtol=1e-5)
    assert abs(np.average(losses, weights=weight) - losses.mean()) > 0.1
    assert np.mean([loss for _, _, loss in recorder.losses]) == pytest.approx(model.history_["loss"][0], rel=0.1)


class Fading(VAEModule):
    """A module with terms that end with the first half of the run."""

    def schedule(self, progress):
        return {**super().schedule(progress), **({"extra": 2.0} if progress < 0.5 else {})}

    def loss(self, batch, schedule):
        terms, learned = super().loss(batch, schedule)
        if "extra" in schedule:
            rows = schedule["extra"] + 0.0 * terms["reconstruction"]
            terms = {**terms, "of_rows": rows, "of_batches": rows.mean()}
        return Loss(terms, learned)


@pytest.mark.parametrize("weight", [None, np.full(60, 3.0)], ids=["plain", "weighted"])
def test_terms_that_end_within_an_epoch_count_for_what_they_were(X, weight):
    module = Fading(5, 2, hidden_layer_sizes=(8,))
    module.likelihood.fit(X)
    plan = Plan(batch_size=12, n_epochs=1, total_steps=5, learning_rate=1e-3, optimizer=Optimizer(), seed=0)
    history = train(module, Rows(Table.of(X, weight), module.likelihood, CPU), None, plan).history
    assert history["of_rows"] == history["of_batches"] == pytest.approx(2.0 * 3 / 5)
    assert history["loss"] == pytest.approx(sum(history[name] for name in ("reconstruction", "kl", "of_rows", "of_batches")))


def test_numbers_of_users_callbacks_join_the_history(X):
    class Extra(skorch_callbacks.Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("train_double", 2 * net.history[-1]["train_loss"])
            net.history.record("train_note", "text")
            net.history.record("valid_loss_best", True)
            if len(net.history) % 2:
                net.history.record("train_sometimes", 1.0)

    model = make(AutoEncoder, callbacks=with_callbacks(Extra)).fit(X)
    assert sorted(model.history_) == ["double", "loss", "reconstruction"]
    np.testing.assert_array_equal(model.history_["double"], 2 * model.history_["loss"])


# -- early stopping ---------------------------------------------------------------------------------------------------


@pytest.fixture
def results(monkeypatch):
    """Validation loss and weights that training leaves behind, before an estimator goes on with them."""
    seen = {}

    def run(self, rows, valid, run=AutoEncoderNet.run):
        finite = run(self, rows, valid)
        again = self.get_iterator(valid, training=False)
        self.run_single_epoch(again, training=False, prefix="again", step_fn=self.validation_step)
        seen.update(loss=self.history[-1]["again_loss"], weights=weights_of(self))
        return finite

    monkeypatch.setattr(AutoEncoderNet, "run", run)
    return seen


@pytest.mark.parametrize("weighted", [False, True])
def test_early_stopping_restores_the_best_weights_and_their_optimizer_state(cls, X, recorder, weighted, results):
    model = make(
        cls,
        early_stopping=True,
        early_stopping__validation_fraction=0.3,
        early_stopping__n_iter_no_change=4,
        learning_rate=0.05,
        optimizer__schedule="constant",
        max_epochs=60,
        callbacks=with_callbacks(recorder),
    ).fit(X, sample_weight=np.linspace(0.5, 1.5, 60) if weighted else None)
    valid = model.history_["valid_loss"]
    best = int(valid.argmin())
    assert best < model.n_iter_ - 1 < 59
    assert results["loss"] == valid[best]
    weights, optimizer = recorder.states[best]
    last, last_optimizer = recorder.states[-1]
    assert same_weights(results["weights"], weights)
    assert not same_weights(results["weights"], last)
    for index, entry in optimizer["state"].items():
        for name, value in entry.items():
            np.testing.assert_array_equal(model._progress.optimizer["state"][index][name], value)
    assert last_optimizer["state"][0]["step"] > optimizer["state"][0]["step"]


def test_the_best_epoch_may_be_the_last_one(X, recorder, results):
    class StopAfterThree(skorch_callbacks.Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                raise KeyboardInterrupt

    model = make(AutoEncoder, early_stopping=True, callbacks=with_callbacks(StopAfterThree, recorder)).fit(X)
    assert model.n_iter_ == 3
    assert model.history_["valid_loss"].argmin() == 2
    assert results["loss"] == model.history_["valid_loss"][2]
    assert recorder.events.count("epoch ends") == 3


@pytest.mark.parametrize("patience", [1, 3])
@pytest.mark.parametrize(
    ("params", "warmup"),
    [
        ({"kl_warmup": 0.0}, 0.0),
        ({"kl_warmup": 0.5}, 0.5),
        ({"kl_warmup": 0.75, "capacity": 1.0}, 0.75),
    ],
)
def test_patience_is_counted_after_the_warm_up(X, patience, params, warmup):
    model = make(
        VAETransformer,
        early_stopping=True,
        early_stopping__tol=1e9,
        early_stopping__n_iter_no_change=patience,
        max_epochs=20,
        **params,
    ).fit(X)
    # The first epoch counts as an improvement; from the last one of the warm-up on, none does.
    assert model.n_iter_ == max(1, math.ceil(warmup * 20) - 1) + patience


def test_improvements_below_the_tolerance_do_not_count(X):
    def n_iter(tol):
        return (
            make(AutoEncoder, early_stopping=True, early_stopping__tol=tol, early_stopping__n_iter_no_change=2, max_epochs=15)
            .fit(X)
            .n_iter_
        )

    assert n_iter(1e9) == 3
    assert n_iter(0.0) > 3


def test_validation_rows_are_not_trained_on(X, recorder):
    model = make(
        AutoEncoder, early_stopping=True, early_stopping__validation_fraction=0.25, callbacks=with_callbacks(recorder)
    ).fit(X)
    train_rows = [size for training, size, _ in recorder.losses if training]
    valid_rows = [size for training, size, _ in recorder.losses if not training]
    assert sum(train_rows) == 4 * 45
    assert sum(valid_rows) == 4 * 15
    assert len(recorder.norms) == len(train_rows)  # no gradients in validation
    assert model.n_iter_ == 4


# -- learning rates and gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_from_one_to_a_hundredth(name):
    values = np.array([SCHEDULES[name](progress) for progress in np.linspace(0, 1, 101)])
    if name == "constant":
        assert (values == 1.0).all()
    else:
        assert values[0] == pytest.approx(1.0)
        assert values[-1] == pytest.approx(FINAL) == pytest.approx(0.01)
        assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_take_the_scheduled_learning_rate(X, recorder, name):
    make(AutoEncoder, learning_rate=0.02, optimizer__schedule=name, callbacks=with_callbacks(recorder)).fit(X)
    assert len(recorder.lrs) == 16
    np.testing.assert_allclose(recorder.lrs, [0.02 * SCHEDULES[name](step / 16) for step in range(16)])


def test_schedules_stay_at_their_end(X, recorder):
    model = make(AutoEncoder, learning_rate=0.02, max_epochs=2, callbacks=with_callbacks(recorder))
    for _ in range(4):
        model.partial_fit(X)
    assert recorder.lrs[0] == 0.02
    np.testing.assert_allclose(recorder.lrs[8:], 0.02 * FINAL)


def test_schedules_change_the_fit(X):
    codes = [make(AutoEncoder, optimizer__schedule=name).fit(X).transform(X) for name in SCHEDULES]
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(codes) for b in codes[:i])


def test_a_learning_rate_of_next_to_nothing_changes_nothing(cls, X, recorder):
    make(cls, learning_rate=1e-30, callbacks=with_callbacks(recorder)).fit(X)
    first, last = recorder.states[0][0], recorder.states[-1][0]
    weights = [name for name in first if name.startswith(("encoder", "decoder"))]
    assert weights
    assert all(torch.equal(first[name], last[name]) for name in weights)


@pytest.mark.parametrize("param", ["optimizer__clip_norm", "optimizer__clip_value"])
def test_clipping_bounds_the_gradient(cls, X, recorder, param):
    class Free(recorder):
        norms, largest, events, losses, lrs, states = [], [], [], [], [], []

    free = make(cls, callbacks=with_callbacks(Free)).fit(X)
    seen = {"optimizer__clip_norm": Free.norms, "optimizer__clip_value": Free.largest}[param]
    bound = min(seen) / 2
    clipped = make(cls, callbacks=with_callbacks(recorder), optimizer="sgd", **{param: bound}).fit(X)
    got = {"optimizer__clip_norm": recorder.norms, "optimizer__clip_value": recorder.largest}[param]
    assert len(got) == len(seen)
    assert max(got) <= bound * (1 + 1e-5)
    assert max(got) >= bound * (1 - 1e-3)
    unclipped = make(cls, optimizer="sgd").fit(X)
    assert not np.allclose(clipped.transform(X), unclipped.transform(X), atol=1e-5)
    loose = make(cls, **{param: 1e6}).fit(X)
    np.testing.assert_array_equal(loose.transform(X), free.transform(X))


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_callbacks_see_every_event_in_order(cls, X, recorder):
    make(cls, max_epochs=2, batch_size=30, callbacks=with_callbacks(recorder)).fit(X)
    batches = ["batch begins", "batch ends"] * 2
    assert recorder.events == ["train begins", *(["epoch begins", *batches, "epoch ends"] * 2), "train ends"]
    assert len(recorder.norms) == 4
    assert min(recorder.norms) > 0
    assert recorder.net.device == "cpu"


def test_watching_changes_nothing(cls, X, recorder):
    watched = make(cls, callbacks=with_callbacks(recorder)).fit(X)
    np.testing.assert_array_equal(watched.transform(X), make(cls).fit(X).transform(X))


@pytest.mark.parametrize("form", ["class", "instance", "named", "alone"])
def test_callbacks_come_in_every_form_of_skorch(X, recorder, form):
    callbacks = {"class": [recorder], "instance": [recorder()], "named": [("me", recorder())], "alone": recorder()}[form]
    model = make(AutoEncoder, callbacks=callbacks).fit(X)
    assert recorder.events.count("epoch ends") == model.n_iter_ == 4
    assert len(recorder.states) == 4


def test_the_users_callback_is_not_changed(X, recorder):
    class Marked(recorder):
        def initialize(self):
            self.initialized_ = True
            return self

        def on_train_begin(self, net, **kwargs):
            super().on_train_begin(net, **kwargs)
            self.keep = False
            self.mark_ = 1

    mine = Marked()
    named = [("me", mine)]
    make(AutoEncoder, callbacks=named).fit(X)
    assert Marked.events
    assert vars(mine) == {"keep": True}
    assert named == [("me", mine)]


def test_callbacks_take_parameters(X, recorder):
    make(AutoEncoder, callbacks=recorder(), callbacks__keep=False).fit(X)
    assert recorder.events
    assert recorder.states == []


def test_gradients_can_be_changed_by_a_callback(X, recorder):
    clip = skorch_callbacks.GradientNormClipping(1e-3)
    make(AutoEncoder, callbacks=with_callbacks(clip, recorder)).fit(X)
    assert max(recorder.norms) <= 1e-3 * (1 + 1e-5)


def test_skorchs_early_stopping_ends_the_run_in_good_order(cls, X, recorder, capsys):
    stop = skorch_callbacks.EarlyStopping(monitor="train_loss", patience=2, threshold=1e9, threshold_mode="abs")
    model = make(cls, max_epochs=10, callbacks=with_callbacks(stop, recorder)).fit(X)
    assert model.n_iter_ == 1 + 2
    assert recorder.events[-2:] == ["epoch ends", "train ends"]
    assert np.isfinite(model.score(X))
    short = make(cls, max_epochs=10).fit(X)
    np.testing.assert_array_equal(model.history_["loss"], short.history_["loss"][:3])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("event", ["on_train_begin", "on_batch_end", "on_grad_computed"])
def test_exceptions_of_callbacks_reach_the_user(X, event):
    class Failing(skorch_callbacks.Callback):
        pass

    def fail(self, net, *args, **kwargs):
        raise ZeroDivisionError

    setattr(Failing, event, fail)
    model = make(AutoEncoder).fit(X)
    before = model.transform(X)
    model.set_params(callbacks=with_callbacks(Failing))
    with pytest.raises(ZeroDivisionError):
        model.fit(X)
    np.testing.assert_array_equal(model.transform(X), before)


class Misbehaving(nn.Module):
    """Activation that does something to its inputs at one of its calls in training."""

    n_calls = 0
    at = math.inf

    def forward(self, x):
        if not self.training:
            return torch.tanh(x)
        type(self).n_calls += 1
        return self.misbehave(x) if type(self).n_calls >= self.at else torch.tanh(x)


def make_activation(at, misbehave):
    return type("Activation", (Misbehaving,), {"at": at, "misbehave": misbehave, "n_calls": 0})


def interrupt(self, x):
    raise KeyboardInterrupt


def test_a_real_interrupt_propagates_and_leaves_the_estimator_as_it_was(cls, X):
    fresh = make(cls, activation=make_activation(9, interrupt))
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(X)
    assert vars(fresh) == vars(fresh.__class__(**fresh.get_params()))

    activation = make_activation(math.inf, interrupt)
    model = make(cls, activation=activation).fit(X)
    before, codes = pickle.dumps(vars(model)["history_"]), model.transform(X)
    weights, attributes = weights_of(model), set(vars(model))
    activation.n_calls, activation.at = 0, 9
    for call in (model.fit, model.partial_fit, model.set_params(warm_start=True).fit):
        activation.n_calls = 0
        activation.at = 5
        with pytest.raises(KeyboardInterrupt):
            call(X)
    assert pickle.dumps(model.history_) == before
    assert set(vars(model)) == attributes
    assert same_weights(weights_of(model), weights)
    np.testing.assert_array_equal(model.transform(X), codes)


# -- losses that are not finite ---------------------------------------------------------------------------------------


def turn_nan(self, x):
    return x * float("nan")


class _NaNGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def spoil_gradient(self, x):
    return _NaNGradient.apply(x)


def test_divergence_in_the_first_epoch_is_an_error(cls, X):
    model = make(cls, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"loss of \w+ stopped being finite.*learning_rate=1e\+30"):
        model.fit(X)
    assert not hasattr(model, "module_")
    assert vars(model) == vars(make(cls, learning_rate=1e30))
    model.set_params(learning_rate=0.01).fit(X)
    before, history = model.transform(X), copy.deepcopy(model.history_)
    for params in ({}, {"warm_start": True}):
        with pytest.raises(ValueError, match="learning_rate"):
            model.set_params(learning_rate=1e30, **params).fit(X)
        np.testing.assert_array_equal(model.transform(X), before)
        assert all(np.array_equal(history[name], values) for name, values in model.history_.items())
    with pytest.raises(ValueError, match="learning_rate"):
        model.partial_fit(X)
    np.testing.assert_array_equal(model.transform(X), before)


def test_the_message_names_a_column_that_lies_far_out(X):
    model = make(AutoEncoder).fit(X)
    far = X.copy()
    far[::3, 3] = 1e6
    with pytest.raises(ValueError, match="stopped being finite") as error:
        model.set_params(learning_rate=1e30, warm_start=True).fit(X)
    assert "Column" not in str(error.value)
    with pytest.raises(ValueError, match=r"Column 3 has a value \S+e\+05 standard deviations from its mean"):
        model.fit(far)


@pytest.mark.parametrize("misbehave", [turn_nan, spoil_gradient])
def test_bad_gradients_count_even_where_the_loss_is_finite(cls, X, misbehave):
    with pytest.raises(ValueError, match="stopped being finite"):
        make(cls, activation=make_activation(2, misbehave), batch_size=60).fit(X)


@pytest.mark.parametrize("misbehave", [turn_nan, spoil_gradient])
@pytest.mark.parametrize("good_epochs", [1, 6])
def test_divergence_later_is_a_warning_and_keeps_the_last_good_weights(cls, X, misbehave, good_epochs, recorder):
    calls_per_epoch = 2 * 4  # one hidden layer in the encoder and one in the decoder, four batches
    activation = make_activation(good_epochs * calls_per_epoch + 3, misbehave)
    model = make(cls, activation=activation, max_epochs=9, callbacks=with_callbacks(recorder))
    with pytest.warns(ConvergenceWarning, match="learning_rate=0.002") as record:
        model.fit(X)
    assert [warning.filename for warning in record] == [__file__]
    assert all(torch.isfinite(value).all() for value in weights_of(model).values())
    assert model.n_iter_ == good_epochs
    assert all(np.isfinite(values).all() for values in model.history_.values())
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score(X))
    assert np.isfinite(model.sample(5, random_state=0)).all()
    kept = {name: value for name, value in weights_of(model).items() if not name.startswith(("likelihood", "prior"))}
    assert kept
    assert all(torch.equal(value, recorder.states[good_epochs - 1][0][name]) for name, value in kept.items())
    assert recorder.events[-1] == "train ends"


def test_training_can_go_on_after_a_divergence(X):
    activation = make_activation(30, turn_nan)
    model = make(AutoEncoder, activation=activation, max_epochs=20)
    with pytest.warns(ConvergenceWarning, match="stopped being finite"):
        model.fit(X)
    activation.at = math.inf
    assert np.isfinite(model.partial_fit(X).loss_curve_).all()


def test_early_stopping_restores_the_best_weights_after_a_divergence(X, recorder):
    activation = make_activation(6 * 2 * 3 + 1, turn_nan)  # in the seventh epoch
    model = make(
        AutoEncoder,
        activation=activation,
        early_stopping=True,
        early_stopping__validation_fraction=0.3,
        learning_rate=0.1,
        optimizer__schedule="constant",
        max_epochs=20,
        callbacks=with_callbacks(recorder),
    )
    with pytest.warns(ConvergenceWarning, match="stopped being finite"):
        model.fit(X)
    best = model.history_["valid_loss"].argmin()
    expected = recorder.states[best][0]
    encoder = {name: value for name, value in weights_of(model).items() if name.startswith("encoder")}
    assert encoder
    assert all(torch.equal(value, expected[name]) for name, value in encoder.items())
    assert recorder.events[-1] == "train ends"


def test_train_raises_its_own_error(X):
    module = VAEModule(5, 2, hidden_layer_sizes=(8,))
    module.likelihood.fit(X)
    plan = Plan(
        batch_size=16,
        n_epochs=3,
        total_steps=12,
        learning_rate=1e30,
        optimizer=Optimizer(schedule="constant"),
        seed=0,
    )
    with pytest.raises(DivergedError):
        train(module, Rows(Table.of(X), module.likelihood, CPU), None, plan)
    assert not module.likelihood.weight.requires_grad
    assert all(param.grad is None for param in module.parameters())


# -- surroundings -----------------------------------------------------------------------------------------------------


def test_verbose_prints_a_line_per_epoch(cls, X, capsys):
    make(cls, verbose=1).fit(X)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 + 4  # a header of two lines
    assert "train_loss" in lines[0]
    assert all(f"train_{term}" in lines[0] for term in TERMS[cls])


def test_nothing_is_printed_by_default(cls, X, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = make(cls, max_epochs=30, early_stopping=True, early_stopping__n_iter_no_change=1).fit(X)
        model.sample(2), model.score(X), model.score_anomaly(X)
    assert capfd.readouterr() == ("", "")


def test_torchs_settings_are_left_alone(cls, X, recorder):
    def settings():
        return (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_rng_state().tolist(),
        )

    before = settings()
    model = make(cls, encoder__dropout=0.5, early_stopping=True).fit(X)
    model.score(X)
    assert settings() == before
    with pytest.raises(ValueError, match="learning_rate"):
        make(cls, learning_rate=1e30).fit(X)
    with pytest.raises(KeyboardInterrupt):
        make(cls, activation=make_activation(5, interrupt)).fit(X)
    assert settings() == before


@pytest.mark.parametrize("warm_start", [False, True])
def test_dropout_is_private_from_the_second_pass_on(cls, X, warm_start):
    """A module that goes on was left in evaluation mode, in which dropout draws nothing."""

    def codes():
        model = make(cls, encoder__dropout=0.5, warm_start=warm_start)
        for _ in range(2):
            if warm_start:
                model.fit(X)
            else:
                model.partial_fit(X)
        return model.transform(X)

    state = torch.get_rng_state()
    expected = codes()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    np.testing.assert_array_equal(codes(), expected)


def test_fit_does_not_mind_that_gradients_are_off(cls, X):
    expected = make(cls).fit(X).transform(X)
    with torch.no_grad():
        model = make(cls).fit(X)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(model.transform(X), expected)


def test_modules_are_left_in_evaluation_mode_without_gradients(cls, X):
    module = make(cls, encoder__dropout=0.5).fit(X).module_
    assert not module.training
    assert all(param.grad is None for param in module.parameters())
    assert not module.likelihood.weight.requires_grad


def test_what_callbacks_freeze_is_trained_again(X):
    def fitted(**params):
        return AutoEncoder(2, hidden_layer_sizes=(8,), max_epochs=2, random_state=0, **params).fit(X)

    frozen = fitted(callbacks=skorch_callbacks.Freezer("encoder.*"))
    assert not np.array_equal(frozen.transform(X), fitted().transform(X))
    twin = pickle.loads(pickle.dumps(frozen))
    results = [model.set_params(callbacks=None).partial_fit(X).transform(X) for model in (frozen, twin)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (skorch_callbacks.EpochScoring("r2"), "EpochScoring needs predictions"),
        (("name", skorch_callbacks.BatchScoring("r2")), "BatchScoring needs predictions"),
        (skorch_callbacks.LRScheduler(), "LRScheduler sets learning rates, which belong to optimizer__schedule"),
        (skorch_callbacks.EarlyStopping(), "EarlyStopping monitors 'valid_loss', but no rows are held out"),
        ("disable", "'disable', which is no callback of skorch"),
    ],
    ids=["epoch scoring", "batch scoring", "learning rates", "early stopping", "text"],
)
def test_callbacks_that_cannot_work_are_refused(X, callback, message):
    with pytest.raises(ValueError, match=message):
        AutoEncoder(2, max_epochs=2, callbacks=[callback]).fit(X)


@pytest.mark.parametrize("cls", [skorch_callbacks.Checkpoint, skorch_callbacks.TrainEndCheckpoint], ids=["best", "last"])
def test_checkpoints_are_saved(X, tmp_path, cls):
    AutoEncoder(
        2,
        max_epochs=2,
        callbacks=[cls(dirname=tmp_path, **({"monitor": None} if cls is skorch_callbacks.Checkpoint else {}))],
    ).fit(X)
    assert any(path.name.endswith("params.pt") for path in tmp_path.iterdir())


def test_callbacks_with_attributes_of_their_own_are_copied(X):
    class Counter(skorch_callbacks.Callback):
        def __init__(self):
            self.n = 0

        def on_epoch_end(self, net, **kwargs):
            self.n += 1

    counter = Counter()
    AutoEncoder(2, max_epochs=2, callbacks=[counter]).fit(X)
    assert counter.n == 0
