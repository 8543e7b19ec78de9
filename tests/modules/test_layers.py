from copy import copy as shallow_copy

import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn import functional as F

from skvae.modules import ACTIVATIONS, Net, mlp

# -- mlp --------------------------------------------------------------------------------------------------------------


def kinds(network):
    return [type(layer) for layer in network]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name):
    torch.manual_seed(0)
    network = mlp(4, (8, 3), 2, activation=name)
    apply = (lambda x: x) if name == "identity" else getattr(torch if name in ("tanh", "sigmoid") else F, name)
    first, second, last = (layer for layer in network if isinstance(layer, nn.Linear))
    x = torch.randn(6, 4)
    torch.testing.assert_close(network(x), last(apply(second(apply(first(x))))))


def test_activation_given_as_a_class():
    assert kinds(mlp(4, (8,), 2, activation=nn.Softplus)) == [nn.Linear, nn.Softplus, nn.Linear]


def test_layers_share_nothing():
    network = mlp(4, (8, 8), 2, activation=nn.PReLU)
    assert network[1] is not network[3]
    assert network[1].weight is not network[3].weight


@pytest.mark.parametrize(("normalization", "layer"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_normalization_comes_before_the_activation(normalization, layer):
    network = mlp(4, (8, 3), 2, normalization=normalization, dropout=0.25)
    assert kinds(network) == [nn.Linear, layer, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    normalized = network[:2](torch.randn(64, 4) * 5.0 + 3.0)
    axis = 0 if normalization == "batch" else 1
    torch.testing.assert_close(normalized.mean(axis), torch.zeros(normalized.shape[1 - axis]), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(normalized.var(axis, correction=0), torch.ones(normalized.shape[1 - axis]), atol=1e-2, rtol=0.0)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    network = mlp(4, (1000,), 2, dropout=0.25)
    x = torch.randn(1, 4)
    hidden, dropped = network[:2](x), network[:3](x)
    positive = hidden > 0.0
    kept = dropped[positive] > 0.0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.08)
    torch.testing.assert_close(dropped[positive][kept], hidden[positive][kept] / 0.75)
    network.eval()
    torch.testing.assert_close(network[:3](x), hidden)
    assert nn.Dropout not in kinds(mlp(4, (8,), 2))


def test_no_hidden_layer_is_a_linear_map():
    network = mlp(4, (), 2, dropout=0.5, normalization="batch")
    assert kinds(network) == [nn.Linear]
    assert network[0].weight.shape == (2, 4)


# -- Net --------------------------------------------------------------------------------------------------------------


class Encoder(nn.Sequential):
    def __init__(self, n_inputs, n_outputs, width=32, bias=True):
        super().__init__(nn.Linear(n_inputs, width, bias=bias), nn.ReLU(), nn.Linear(width, n_outputs))


class Other(Encoder):
    pass


def test_builds_a_new_network_each_time():
    net = Net(Encoder, width=5)
    first, second = net.build(4, 2), net.build(4, 2)
    assert type(first) is Encoder
    assert [tuple(parameter.shape) for parameter in first.parameters()] == [(5, 4), (5,), (2, 5), (2,)]
    assert not set(first.parameters()) & set(second.parameters())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Encoder(4, 2), "an instance of a Module"),
        (dict, "<class 'dict'>"),
        (lambda n_inputs, n_outputs: nn.Linear(n_inputs, n_outputs), "lambda"),
        ("Encoder", "'Encoder'"),
    ],
    ids=["instance", "class", "function", "name"],
)
def test_refuses_all_but_module_classes(value, message):
    with pytest.raises(TypeError, match=message):
        Net(value)


def test_parameters_are_reached_by_name():
    net = Net(Encoder, width=5)
    assert net.get_params() == {"module_class": Encoder, "width": 5}
    assert net.set_params(width=7, bias=False) is net
    assert net.get_params() == {"module_class": Encoder, "width": 7, "bias": False}
    assert net.build(4, 2)[0].bias is None
    net.set_params(module_class=Other)
    assert type(net.build(4, 2)) is Other


def test_equality():
    assert Net(Encoder, width=5) == Net(Encoder, width=5)
    assert Net(Encoder, width=5) != Net(Encoder, width=6)
    assert Net(Encoder, width=5) != Net(Encoder)
    assert Net(Encoder) != Net(Other)
    assert Net(Encoder) != Encoder
    with pytest.raises(TypeError, match="unhashable"):
        hash(Net(Encoder))


def test_clone_is_equal_but_separate():
    net = Net(Encoder, width=5)
    copy = clone(net)
    assert copy == net
    assert copy is not net
    for other in (copy, shallow_copy(net)):
        other.set_params(width=6)
        assert net == Net(Encoder, width=5)


def test_repr():
    assert repr(Net(Encoder)) == "Net(Encoder)"
    assert repr(Net(Encoder, width=5, bias=False)) == "Net(Encoder, width=5, bias=False)"
