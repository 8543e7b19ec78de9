import copy

import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from skvae import AutoEncoder, Gaussian
from skvae.modules import AutoEncoderModule, Batch, Conv, DenoisingModule, VAEModule, build_networks, mlp
from skvae.modules.networks.layers import TiedLinear, tied_mlp

N_FEATURES, N_COMPONENTS, HIDDEN = 6, 2, (5, 4)
IMAGE = {"image_shape": (1, 2, 3), "encoder": Conv(channels=(3, 4))}
MODULES = [AutoEncoderModule, VAEModule, DenoisingModule]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(params=[{}, IMAGE], ids=["perceptron", "convolution"])
def make(request):
    """Make a tied module of any kind."""

    def make(cls=AutoEncoderModule, seed=0, **params):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(
                N_FEATURES,
                N_COMPONENTS,
                **{"hidden_layer_sizes": HIDDEN, "activation": "tanh", "decoder": "tied", **request.param, **params},
            )

    return make


def step(module, seed=0, lr=0.1):
    """Take one step that changes every parameter."""
    x = randn(20, N_FEATURES, seed=seed)
    noise = {name: randn(20, *shape, seed=seed) for name, shape in module.noise_shapes.items()}
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)
    schedule = {name: torch.tensor(value) for name, value in module.schedule(1.0).items()}
    terms = module.loss(Batch.of(x, noise=noise), schedule).terms
    sum(term.mean() for term in terms.values()).backward()
    optimizer.step()
    for parameter in module.parameters():
        parameter.grad = None
    return module


def decode(module, z):
    return module.decode(z, Batch.of_codes(z))


def maps(network):
    return [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, TiedLinear))]


# -- perceptrons ------------------------------------------------------------------------------------------------------


def test_the_decoder_computes_with_the_transposed_weights_after_a_step_too():
    encoder, decoder = build_networks(
        N_FEATURES, N_COMPONENTS, N_COMPONENTS, N_FEATURES, hidden_layer_sizes=HIDDEN, activation="tanh", decoder="tied"
    )
    module = nn.ModuleList([encoder, decoder])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    z = randn(7, N_COMPONENTS)

    def expected():
        weights = [layer.weight for layer in encoder if isinstance(layer, nn.Linear)]
        biases = [layer.bias for layer in decoder if isinstance(layer, TiedLinear)]
        h = z
        for i, (weight, bias) in enumerate(zip(weights[::-1], biases, strict=True)):
            h = F.linear(h, weight.T, bias)
            h = torch.tanh(h) if i < len(HIDDEN) else h
        return h

    before = expected()
    torch.testing.assert_close(decoder(z), before)
    (decoder(encoder(randn(20, N_FEATURES))) - 1.0).square().mean().backward()
    optimizer.step()
    assert not torch.allclose(expected(), before)
    torch.testing.assert_close(decoder(z), expected())


def test_hidden_layers_are_mirrored():
    encoder = mlp(6, (5, 4), 2, normalization="batch", dropout=0.1)
    decoder = tied_mlp(encoder, 2, normalization="batch", dropout=0.1)
    untied = mlp(2, (4, 5), 6, normalization="batch", dropout=0.1)
    kinds = [nn.Linear if type(layer) is TiedLinear else type(layer) for layer in decoder]
    assert kinds == [type(layer) for layer in untied]
    assert [layer.out_features for layer in decoder if type(layer) is TiedLinear] == [4, 5, 6]
    assert "in_features=2, out_features=4" in repr(decoder)


def test_gradients_of_both_halves_add_up():
    encoder = mlp(3, (), 2)
    decoder = tied_mlp(encoder, 2)
    x = randn(5, 3)
    decoder(encoder(x)).square().sum().backward()
    weight, bias = encoder[0].weight.detach().clone().requires_grad_(), encoder[0].bias.detach()
    other = weight.detach().clone().requires_grad_()
    F.linear(F.linear(x, weight, bias), other.T, decoder[0].bias.detach()).square().sum().backward()
    torch.testing.assert_close(encoder[0].weight.grad, weight.grad + other.grad)


# -- every module -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODULES)
def test_shared_weights_are_counted_once(make, cls):
    module, untied = make(cls), make(cls, decoder=None)
    weights = sum(layer.weight.numel() for layer in maps(untied.encoder))
    tied_away = weights - (HIDDEN[-1] * N_COMPONENTS if cls is VAEModule else 0)  # the log-variances have no mirror

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(module) == count(untied) - tied_away
    assert all(parameter.dim() == 1 for parameter in module.decoder.parameters())
    assert len({parameter.data_ptr() for parameter in module.parameters()}) == len(list(module.parameters()))


@pytest.mark.parametrize("cls", MODULES)
def test_gradient_reaches_every_parameter(make, cls):
    module = make(cls)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    step(module)
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_vae_ties_the_means_alone(make):
    module = make(VAEModule)
    last = maps(module.encoder)[-1]
    assert last.weight.shape[0] == 2 * N_COMPONENTS
    z = randn(5, N_COMPONENTS)
    before = decode(module, z)
    torch.testing.assert_close(
        module.decoder[0](z), F.linear(z, last.weight[:N_COMPONENTS].T, module.decoder[0].bias), atol=1e-6, rtol=1e-5
    )
    with torch.no_grad():
        last.weight[N_COMPONENTS:] += 1.0
    assert torch.equal(decode(module, z), before)
    with torch.no_grad():
        last.weight[:N_COMPONENTS] += 1.0
    assert not torch.allclose(decode(module, z), before)
    decode(module, z).sum().backward()
    assert last.weight.grad[N_COMPONENTS:].abs().max() == 0.0
    assert last.weight.grad[:N_COMPONENTS].abs().min() > 0.0


@pytest.mark.parametrize("cls", MODULES)
def test_a_copy_is_tied_to_itself(make, cls):
    module = make(cls)
    twin = copy.deepcopy(module)
    z = randn(5, N_COMPONENTS)
    before = decode(module, z)
    assert torch.equal(decode(twin, z), before)
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter.add_(0.3)
    assert torch.equal(decode(module, z), before)
    assert not torch.allclose(decode(twin, z), before)
    trained, again = step(copy.deepcopy(module)), step(module)
    assert torch.equal(decode(trained, z), decode(again, z))


@pytest.mark.parametrize("cls", MODULES)
def test_loading_keeps_the_tie(make, cls):
    module, other = step(make(cls)), make(cls, seed=1)
    x, z = randn(5, N_FEATURES), randn(5, N_COMPONENTS)
    assert not torch.allclose(decode(other, z), decode(module, z))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.encode(Batch.of(x)), module.encode(Batch.of(x)))
    assert torch.equal(decode(other, z), decode(module, z))
    assert torch.equal(decode(step(other), z), decode(step(module), z))


@pytest.mark.parametrize("cls", MODULES)
def test_state_holds_no_weight_twice(make, cls):
    state = make(cls).state_dict()
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    assert not [name for name in state if name.startswith("decoder") and "weight" in name]
    assert [name for name in state if name.startswith("encoder") and "weight" in name]


def test_the_tie_follows_to_another_precision(make):
    module = make()
    double = copy.deepcopy(module).double()
    z = randn(5, N_COMPONENTS)
    assert decode(double, z.double()).dtype == torch.float64
    torch.testing.assert_close(decode(double, z.double()).float(), decode(module, z))
    assert torch.equal(decode(copy.deepcopy(double).float(), z), decode(module, z))


def test_tied_work_is_that_of_a_network_of_its_own(make):
    # Weights cost what they cost whoever owns them; biases are not counted where a layer tells its work.
    tied, untied = make().row_work, make(decoder=None).row_work
    biases = sum(p.numel() for p in make(decoder=None).decoder.parameters() if p.dim() == 1)
    assert untied - biases <= tied <= untied


# -- what it learns ---------------------------------------------------------------------------------------------------


def test_a_linear_tied_autoencoder_is_as_good_as_pca():
    n_components = 3
    X = StandardScaler().fit_transform(load_breast_cancer().data)
    pca = PCA(n_components).fit(X)
    model = AutoEncoder(n_components, hidden_layer_sizes=(), decoder="tied", likelihood=Gaussian("shared"), random_state=0).fit(X)
    error = ((model.reconstruct(X) - X) ** 2).sum()
    assert 0.9999 < error / ((pca.inverse_transform(pca.transform(X)) - X) ** 2).sum() < 1.01
    # Together, the best maps are a projection.
    down, up = model.module_.encoder[0].weight.detach(), model.module_.decoder[0].weight.detach()
    torch.testing.assert_close(up @ down @ up @ down, up @ down, atol=0.02, rtol=0.0)
    torch.testing.assert_close(up @ down, torch.from_numpy(pca.components_.T @ pca.components_).float(), atol=0.03, rtol=0.0)


@pytest.mark.parametrize(("n_features", "hidden"), [(3, ()), (9, ()), (7, (7, 5))])
def test_rows_do_not_depend_on_their_place(n_features, hidden):
    X = randn(300, n_features).numpy() * 5 + 3
    model = AutoEncoder(2, hidden_layer_sizes=hidden, decoder="tied", max_epochs=1, random_state=0).fit(X)
    for function in (model.transform, model.reconstruct, model.score_samples, model.score_anomaly):
        whole = function(X)
        for rows in (slice(1, None), slice(7, 50), slice(299, 300)):
            assert (function(X[rows]) == whole[rows]).all()
