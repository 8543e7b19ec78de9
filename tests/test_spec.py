"""Specifications: cloned, searched, compared, printed and pickled by the signature of `__init__` alone."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from torch import nn, optim

import skvae
from skvae import (
    MLP,
    BatchTopK,
    Bernoulli,
    Codebook,
    CodePrior,
    Conv,
    DefaultNet,
    EarlyStopping,
    FlowPrior,
    Gaussian,
    Laplace,
    LinearPath,
    Mixed,
    MixturePrior,
    Net,
    Optimizer,
    Poisson,
    Recurrent,
    TopK,
    VampPrior,
)
from skvae._spec import Spec, by_name

GIVEN = [
    MLP((128, 64), dropout=0.1, normalization="batch"),
    MLP(np.array([3, 4]), nn.Tanh),
    Conv((4, 8), residual_blocks=1, dropout=0.2),
    DefaultNet(dropout=0.1, channels=(4, 8)),
    Recurrent("gru", n_layers=2, dropout=0.1),
    Net(nn.Bilinear, out_features=3),
    Optimizer("sgd", momentum=0.9, schedule="linear", clip_norm=1.0),
    Optimizer(optim.RMSprop, alpha=0.5),
    EarlyStopping(0.2, n_iter_no_change=3, tol=0.5),
    Gaussian("shared"),
    Laplace(0.5),
    Bernoulli(),
    Poisson(),
    Mixed({"visits": "poisson"}, bounds="observed"),
    TopK(0.25, alpha=2.0),
    BatchTopK(alpha=1.5),
    Codebook("gradient", decay=0.9, revive=False),
    CodePrior("transformer", width=32, max_epochs=3),
    LinearPath(0.3),
    MixturePrior(5),
    VampPrior(7),
    FlowPrior(MixturePrior(3), n_layers=2, hidden_layer_sizes=(8,)),
]
CLASSES = [value for value in vars(skvae).values() if isinstance(value, type) and issubclass(value, Spec)]


def test_all_are_tried():
    assert {type(spec) for spec in GIVEN} == set(CLASSES)


@pytest.mark.parametrize("spec", GIVEN, ids=repr)
def test_copies_are_equal_and_apart(spec):
    for made in (clone(spec, safe=False), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert made is not spec
        assert made == spec
        assert repr(made) == repr(spec)
        assert made.get_params().keys() == spec.get_params().keys()


@pytest.mark.parametrize("spec", GIVEN, ids=repr)
def test_every_argument_can_be_set(spec):
    for name, value in spec.get_params().items():
        changed = clone(spec, safe=False)
        assert changed.set_params(**{name: value}) is changed
        assert changed == spec
    assert spec != object()
    assert (spec == None) is False  # noqa: E711


@pytest.mark.parametrize("spec", [spec for spec in GIVEN if not spec._takes_any()], ids=repr)
def test_an_argument_that_there_is_not_is_refused(spec):
    has = ", ".join(spec.get_params()) or "none"
    with pytest.raises(ValueError, match=f"{type(spec).__name__} has no parameter 'foo'; it has {has}"):
        spec.set_params(foo=1)
    with pytest.raises(TypeError):
        hash(spec)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (MLP(), "MLP()"),
        (DefaultNet(normalization=None), "DefaultNet(normalization=None)"),
        (MLP(activation=nn.Tanh), "MLP(activation=Tanh)"),
        (Optimizer("sgd", momentum=0.9), "Optimizer(name='sgd', momentum=0.9)"),
        (Net(nn.Linear, bias=False), "Net(Linear, bias=False)"),
        (Bernoulli(), "Bernoulli()"),
        (Codebook(decay=0.9), "Codebook(decay=0.9)"),
    ],
    ids=str,
)
def test_what_differs_from_the_defaults_is_printed(spec, text):
    assert repr(spec) == text


def test_specifications_differ_where_an_argument_does():
    assert MLP((3, 4)) == MLP([3, 4]) == MLP(np.array([3, 4]))
    assert MLP((3, 4)) != MLP((4, 3))
    assert MLP() != Conv()
    assert Gaussian() != Laplace()
    assert Optimizer("sgd") != Optimizer("sgd", momentum=0.9)
    assert Optimizer("sgd", momentum=0.9) != Optimizer("sgd", momentum=0.8)
    assert TopK() != BatchTopK()


def test_a_refused_change_leaves_the_specification_as_it_was():
    for spec, change in ((MLP((3,)), {"dropout": 0.1, "foo": 1}), (Optimizer("adam"), {"clip_norm": 1.0, "lr": 0.1})):
        before = clone(spec, safe=False)
        with pytest.raises(ValueError, match=r"foo|learning_rate"):
            spec.set_params(**change)
        assert spec == before


def test_arguments_of_the_optimizer_are_those_of_its_class():
    spec = Optimizer("sgd").set_params(momentum=0.9)
    assert spec.params == {"momentum": 0.9}
    with pytest.raises(ValueError, match=r"Adam has no argument 'momentum'; Optimizer takes name, schedule.*betas, eps"):
        Optimizer().set_params(momentum=0.9)
    assert Optimizer().set_params(name="sgd", momentum=0.9) == spec

    class Own(optim.SGD):
        def __init__(self, params, lr, **more):
            super().__init__(params, lr, **more)

    Optimizer(Own).set_params(momentum=0.9).check()


WRONG = [
    (MLP(dropout=1.0), r"dropout=1\.0 must be a number of at least 0 and below 1"),
    (MLP(dropout="much"), "dropout='much' must be a number"),
    (MLP(normalization="group"), "normalization='group' must be one of 'batch', 'layer', or None"),
    (MLP((8, 0)), r"hidden_layer_sizes=\(8, 0\) must be a sequence of integers of at least 1, or empty, or None"),
    (MLP(activation="swishy"), "activation='swishy' must be one of 'relu'"),
    (MLP(activation=nn.ReLU()), "holds a module instance.*pass the class ReLU"),
    (MLP(activation=3), "activation=3 must be a name, a class, or None"),
    (Conv(dropout=-0.1), r"dropout=-0\.1 must be"),
    (Conv(0), "channels=0 must be a sequence of integers"),
    (Conv(residual_blocks=-1), "residual_blocks=-1 must be an integer of at least 0"),
    (Conv(upsampling="linear"), "upsampling='linear' must be one of 'transposed', 'nearest'"),
    (DefaultNet(dropout=1.0), r"DefaultNet\(dropout=1\.0\): dropout=1\.0 must be a number of at least 0 and below 1"),
    (DefaultNet(normalization="group"), "normalization='group' must be one of 'batch', 'layer'"),
    (DefaultNet(channels=0), "channels=0 must be a sequence of integers"),
    (DefaultNet(residual_blocks=None), "residual_blocks=None must be an integer of at least 0"),
    (DefaultNet(upsampling="linear"), "upsampling='linear' must be one of 'transposed', 'nearest'"),
    (Recurrent("rnn"), "cell='rnn' must be one of 'gru', 'lstm'"),
    (Recurrent(n_layers=0), "n_layers=0 must be an integer of at least 1"),
    (Recurrent(dropout=0.1), r"dropout=0\.1 acts between layers, of which n_layers=1 leaves one"),
    (Optimizer("adamax2"), "name='adamax2' must be one of 'adadelta'"),
    (Optimizer(int), "name=int must be a name or a subclass of torch.optim.Optimizer"),
    (Optimizer(schedule="steps"), "schedule='steps' must be one of 'constant'"),
    (Optimizer(clip_norm=0), "clip_norm=0 must be a number above 0, or None"),
    (Optimizer(clip_value=-1.0), r"clip_value=-1\.0 must be a number above 0, or None"),
    (Optimizer(foo=1), "Adam has no argument 'foo'"),
    (EarlyStopping(1.0), r"validation_fraction=1\.0 must be a number above 0 and below 1"),
    (EarlyStopping(0.0), r"validation_fraction=0\.0 must be a number above 0 and below 1"),
    (EarlyStopping(n_iter_no_change=0), "n_iter_no_change=0 must be an integer of at least 1"),
    (EarlyStopping(tol=-1), "tol=-1 must be a number of at least 0"),
    (Gaussian(0.0), r"noise=0\.0 must be one of 'auto', 'feature', 'shared', or a number above 0"),
    (Gaussian("loud"), "noise='loud' must be one of"),
    (Laplace(None), "noise=None must be one of"),
    (TopK(1.5), r"annealing=1\.5 must be a number between 0 and 1"),
    (BatchTopK(alpha=0.5), r"alpha=0\.5 must be a number of at least 1"),
    (Codebook("adam"), "learning='adam' must be one of 'ema', 'gradient'"),
    (Codebook(decay=1.0), r"decay=1\.0 must be a number of at least 0 and below 1"),
    (Codebook(revive="yes"), "revive='yes' must be True or False"),
    (CodePrior("gaussian"), "name='gaussian' must be one of 'auto', 'transformer'"),
    (CodePrior("uniform", width=8), "width without effect on 'uniform', which is not trained; use None"),
    (CodePrior(width=30), "width=30 must be a multiple of n_heads=4"),
    (LinearPath(-1.0), r"weight_decay=-1\.0 must be a number of at least 0, infinity included, or 'auto'"),
    (LinearPath(np.nan), "weight_decay=nan must be a number of at least 0"),
    (LinearPath("strong"), "weight_decay='strong' must be a number of at least 0"),
    (CodePrior(batch_size=0), "batch_size=0 must be an integer of at least 1, or None"),
    (CodePrior(dropout=1), "dropout=1 must be a number of at least 0 and below 1"),
    (CodePrior(learning_rate=np.nan), "learning_rate=nan must be a number above 0, or None"),
]


@pytest.mark.parametrize(("spec", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_arguments(spec, message):
    with pytest.raises(ValueError, match=message):
        spec.check()


@pytest.mark.parametrize("spec", [spec for spec in GIVEN if not isinstance(spec, Net)], ids=repr)
def test_right_arguments(spec):
    spec.check()


ARGUMENTS = [(cls, name) for cls in CLASSES for name in cls._arguments()]
UNHASHABLE = (["a"], {"a": 1}, {"a"}, np.array(["a", "b"]), np.array([]), [["a"]], object())


@pytest.mark.parametrize(("cls", "name"), ARGUMENTS, ids=lambda value: getattr(value, "__name__", value))
def test_values_of_any_type_are_refused_by_name(cls, name):
    given = {"module_class": nn.Linear} if cls is Net else {}
    for value in UNHASHABLE:
        if cls is Net and name == "module_class":
            with pytest.raises(TypeError, match=r"Net takes a subclass of torch\.nn\.Module"):
                Net(value)
            continue
        spec = cls(**{**given, name: value})
        if name in ("hidden_layer_sizes", "channels") and not np.size(value):
            continue  # none at all are widths, too
        with pytest.raises(ValueError, match=rf"^{cls.__name__}\(.*{name}=[\s\S]* must be"):
            spec.check()


@pytest.mark.parametrize(
    ("name", "message"),
    [("lr", "set learning_rate instead"), ("params", r"Optimizer\(params=...\) would be the network's weights")],
)
def test_what_the_fit_passes_to_an_optimizer_is_refused_at_once(name, message):
    with pytest.raises(ValueError, match=message):
        Optimizer("sgd", **{name: 0.1})
    for spec in (Optimizer("sgd"), Optimizer(optim.SGD, momentum=0.5)):
        with pytest.raises(ValueError, match=message):
            spec.set_params(**{name: 0.1})


@pytest.mark.parametrize(
    "cls", [optim.SparseAdam, type("Own", (optim.SparseAdam,), {}), optim.LBFGS], ids=lambda cls: cls.__name__
)
def test_optimizers_that_cannot_train_here_are_refused(cls):
    with pytest.raises(
        ValueError, match=rf"^Optimizer\(name={cls.__name__}\): name={cls.__name__} (takes sparse|computes the loss)"
    ):
        Optimizer(cls).check()


def test_names_of_a_table_are_there_and_differ():
    class Base(Spec):
        pass

    class One(Base):
        name = "one"

    assert by_name(Base) == {"one": One}

    class Nameless(Base):
        pass

    with pytest.raises(TypeError, match="Nameless, a Base of the package, has no name; give it"):
        by_name(Base)
    Nameless.name = "one"
    with pytest.raises(TypeError, match="Nameless, a Base of the package, has the name of One; give it"):
        by_name(Base)
