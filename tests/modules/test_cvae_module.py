"""The bound, the prior and the posteriors of the conditional variational autoencoder, against closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions, nn

from skvae.modules import MLP, Batch, ConditionalNormal, Conv, CVAEModule, Net, StandardNormal, VAEModule
from skvae.modules.networks.beside import read_beside
from skvae.modules.posterior import DiagonalNormal

N_ROWS, N_FEATURES, N_COMPONENTS, N_CONDITIONS = 12, 5, 2, 3
CASES = [
    {"prior": "standard", "encode_condition": False, "likelihood": "gaussian"},
    {"prior": "standard", "encode_condition": True, "likelihood": "laplace"},
    {"prior": "conditional", "encode_condition": False, "likelihood": "bernoulli"},
    {"prior": "conditional", "encode_condition": True, "likelihood": "gaussian"},
]

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(params=CASES, ids=lambda params: "-".join(map(str, params.values())))
def params(request):
    return request.param


def build(seed=0, **params):
    params = {"n_conditions": N_CONDITIONS, "hidden_layer_sizes": (7,), "activation": "tanh", **params}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CVAEModule(N_FEATURES, N_COMPONENTS, **params).double()


class Flat(nn.Linear):
    """A network of a user's own."""


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_for(module, n_rows=N_ROWS, n_draws=None, seed=0):
    x = randn(n_rows, N_FEATURES, seed=seed)
    x = x if module.likelihood.has_noise else (x > 0.0).double()
    shape = module.noise_shapes["posterior"] if n_draws is None else (n_draws, N_COMPONENTS)
    noise = {"posterior": randn(n_rows, *shape, seed=seed + 1)}
    return Batch.of(x, condition=randn(n_rows, N_CONDITIONS, seed=seed + 2), noise=noise)


def terms_of(module, batch, **schedule):
    return module.loss(batch, {name: torch.tensor(value) for name, value in schedule.items()}).terms


def prior_of(module, condition):
    mean, log_var = module.prior.moments(len(condition), condition)
    return distributions.Normal(mean, torch.exp(0.5 * log_var))


def posterior_of(module, batch):
    mean, log_var = module.posterior(batch)
    return distributions.Normal(mean, torch.exp(0.5 * log_var))


# -- the bound --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_draws", [1, 3])
def test_loss_is_the_bound_by_its_definition(params, n_draws):
    module = build(**params, n_draws=n_draws)
    batch = batch_for(module)
    terms = terms_of(module, batch, beta=2.5)
    posterior, noise = posterior_of(module, batch), batch.noise["posterior"].view(N_ROWS, n_draws, N_COMPONENTS)
    codes = posterior.mean.unsqueeze(1) + noise * posterior.stddev.unsqueeze(1)
    expected = torch.stack(
        [
            module.likelihood.nll(batch.target, module.decoder(torch.cat([codes[:, i], batch.condition], dim=1)))
            for i in range(n_draws)
        ]
    )
    torch.testing.assert_close(terms["reconstruction"], expected.mean(0))
    kl = distributions.kl_divergence(posterior, prior_of(module, batch.condition)).sum(-1)
    torch.testing.assert_close(terms["kl"], 2.5 * kl)


def test_capacity_holds_the_kl_from_the_conditional_prior():
    module = build(prior="conditional", capacity=4.0)
    batch = batch_for(module)
    kl = distributions.kl_divergence(posterior_of(module, batch), prior_of(module, batch.condition)).sum(-1)
    torch.testing.assert_close(terms_of(module, batch, beta=3.0, capacity=4.0)["kl"], 3.0 * (kl.mean() - 4.0).abs())


def test_weights_of_importance_by_their_definition(params):
    module, n_draws = build(**params), 4
    batch = batch_for(module, n_draws=n_draws)
    posterior, prior = posterior_of(module, batch), prior_of(module, batch.condition)
    log_weights = module.importance_draws(batch).log_weights
    for i in range(n_draws):
        z = posterior.mean + batch.noise["posterior"][:, i] * posterior.stddev
        output = module.decoder(torch.cat([z, batch.condition], dim=1))
        expected = -module.likelihood.nll(batch.target, output) + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
        torch.testing.assert_close(log_weights[:, i], expected)


@pytest.mark.parametrize("prior", ["standard", "conditional"])
def test_score_of_a_linear_model_is_its_likelihood(prior):
    module = build(prior=prior, hidden_layer_sizes=(), encode_condition=True)
    with torch.no_grad():
        module.likelihood.noise.set_moment(torch.full((N_FEATURES,), 0.3))
    batch = batch_for(module, 3, n_draws=20_000)
    weight, bias = (parameter.detach() for parameter in module.decoder[0].parameters())
    loading, offset = weight[:, :N_COMPONENTS], weight[:, N_COMPONENTS:]
    with torch.no_grad():
        mean, log_var = module.prior.moments(3, batch.condition)
        score = module.log_prob(batch)
    for i in range(3):
        center = loading @ mean[i] + offset @ batch.condition[i] + bias
        covariance = loading @ torch.diag(log_var[i].exp()) @ loading.mT + 0.3 * torch.eye(N_FEATURES)
        exact = stats.multivariate_normal(center.numpy(), covariance.numpy()).logpdf(batch.x[i].numpy())
        assert score[i].item() == pytest.approx(exact, abs=0.05)


# -- who reads the condition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode_condition", [False, True])
def test_the_encoder_reads_the_condition_on_request_only(encode_condition):
    module = build(encode_condition=encode_condition)
    batch = batch_for(module)
    other = batch._replace(condition=batch.condition + 1.0)
    for read in (module.encode, lambda batch: module.posterior(batch).log_var):
        assert torch.equal(read(batch), read(other)) is not encode_condition
    ours, theirs = (terms_of(module, given, beta=1.0)["reconstruction"] for given in (batch, other))
    assert not torch.equal(ours, theirs)


def test_a_code_alone_does_not_make_a_row():
    module, z = build(), randn(4, N_COMPONENTS)
    with pytest.raises(AssertionError):
        module.decode(z, Batch.of_codes(z))
    with pytest.raises(RuntimeError, match="shape"):
        module.decode(z, Batch.of_codes(z, randn(4, N_CONDITIONS - 1)))


def test_draws_are_decoded_with_the_condition_of_their_row():
    module = build()
    z, condition = randn(4, 6, N_COMPONENTS), randn(4, N_CONDITIONS, seed=1)
    decoded = module.decode(z, Batch.of_codes(z, condition))
    for i in range(4):
        for j in range(6):
            torch.testing.assert_close(decoded[i, j], module.decoder(torch.cat([z[i, j], condition[i]]).unsqueeze(0))[0])


@pytest.mark.parametrize("encode_condition", [False, True])
def test_networks_of_the_users_own_get_the_conditions_beside(encode_condition):
    module = build(encoder=Net(Flat), decoder=Net(Flat), encode_condition=encode_condition)
    assert module.encoder.in_features == module.n_encoder_inputs == N_FEATURES + N_CONDITIONS * encode_condition
    assert module.decoder.in_features == module.n_decoder_inputs == N_COMPONENTS + N_CONDITIONS
    assert torch.isfinite(terms_of(module, batch_for(module), beta=1.0)["kl"]).all()


@pytest.mark.parametrize("encode_condition", [False, True])
def test_images(encode_condition):
    """Convolutions see the image; the condition passes by them, to the layers behind."""
    module = CVAEModule(64, N_COMPONENTS, n_conditions=3, encode_condition=encode_condition, image_shape=(1, 8, 8))
    batch = Batch.of(torch.rand(5, 64), condition=torch.eye(3)[torch.arange(5) % 3])
    codes = module.encode(batch)
    other = module.encode(batch._replace(condition=batch.condition.flip(0)))
    assert torch.equal(other, codes) is not encode_condition
    assert module.decode(codes, batch).shape == (5, 64)
    assert not torch.equal(module.encode(batch._replace(x=batch.x.flip(1))), codes)


def test_constant_columns_do_not_reach_the_encoder():
    module = build(encode_condition=True)
    module.likelihood.fit(np.column_stack([np.ones(20), np.random.default_rng(0).normal(size=(20, N_FEATURES - 1))]))
    batch = batch_for(module)
    changed = batch.x.clone()
    changed[:, 0] += 5.0
    assert torch.equal(module.encode(batch._replace(x=changed)), module.encode(batch))


# -- the prior --------------------------------------------------------------------------------------------------------


def test_the_standard_prior_is_that_of_the_plain_model():
    module, plain = build(), VAEModule(N_FEATURES, N_COMPONENTS)
    assert type(module.prior) is type(plain.prior) is StandardNormal
    q = DiagonalNormal(randn(4, N_COMPONENTS), randn(4, N_COMPONENTS, seed=1))
    z, condition = randn(4, 6, N_COMPONENTS), randn(4, N_CONDITIONS)
    torch.testing.assert_close(module.prior.kl(q, z, condition), plain.prior.kl(q, z))
    torch.testing.assert_close(module.prior.log_prob(z, condition), plain.prior.log_prob(z))
    assert all((moment == 0.0).all() for moment in module.prior.moments(4, condition))


def test_the_conditional_prior_has_the_layers_of_the_networks():
    prior, condition = build(prior="conditional").prior, randn(4, N_CONDITIONS)
    assert type(prior) is ConditionalNormal
    assert [type(layer) for layer in prior.network] == [nn.Linear, nn.Tanh, nn.Linear]
    assert [layer.out_features for layer in prior.network[::2]] == [7, 2 * N_COMPONENTS]
    assert prior.moments(4, condition).mean.std(0).min() > 0.01


def test_the_conditional_prior_learns():
    module = build(prior="conditional")
    sum(term.sum() for term in terms_of(module, batch_for(module), beta=1.0).values()).backward()
    assert all(parameter.grad.abs().sum() > 0.0 for parameter in module.parameters())


def test_extreme_conditions_keep_the_prior_finite():
    module = build(prior="conditional", activation="relu")
    condition = 1e12 * randn(4, N_CONDITIONS)
    assert torch.isfinite(module.prior.log_prob(randn(4, 6, N_COMPONENTS), condition)).all()
    log_var = module.prior.moments(4, condition).log_var
    assert log_var.abs().max() <= 20.0


# -- what a condition costs -------------------------------------------------------------------------------------------


class Own(nn.Sequential):
    """A network of a user's own, which may do anything to its input."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__(nn.Tanh(), nn.Linear(n_inputs, n_outputs))


WAYS = {
    "perceptron": {},
    "linear path": {"linear_path": 1.0},
    "linear map": {"linear_path": float("inf")},
    "normalized": {"encoder": MLP((7,), normalization="batch"), "decoder": MLP((7,), normalization="layer")},
    "convolutions": {"image_shape": (1, 1, 5), "encoder": Conv((3,)), "decoder": Conv((3,))},
    "own": {"encoder": Net(Own), "decoder": Net(Own)},
}


@pytest.mark.parametrize("networks", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("one_row", [False, True], ids=["a condition each", "one condition"])
def test_conditions_that_are_read_once_give_the_same(networks, one_row):
    module = build(encode_condition=True, prior="conditional", **networks).eval()
    with torch.no_grad():
        for parameter in module.parameters():  # of which some begin at zero
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    batch = batch_for(module, n_draws=4)
    if one_row:
        batch = batch._replace(condition=batch.condition[:1].expand(N_ROWS, -1))
    expected = module.importance_draws(batch)  # with gradients, for which rows and conditions are put side by side
    with torch.no_grad():
        found = module.importance_draws(batch)
    for part, other in zip([*found[:2], *found.terms[:2]], [*expected[:2], *expected.terms[:2]], strict=True):
        assert part.shape == other.shape
        torch.testing.assert_close(part, other.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["Linear", "Tanh", "Own", "hooked"])
def test_layers_that_are_no_linear_maps_read_all_their_input(name):
    layers = {"Linear": nn.Linear(5, 2), "Tanh": nn.Tanh(), "Own": Own(5, 2), "hooked": nn.Linear(5, 2)}
    layers["hooked"].register_forward_pre_hook(lambda layer, args: None)
    with torch.no_grad():
        output = read_beside(nn.Sequential(layers[name]), torch.ones(3, 4), torch.ones(3, 1))
    assert (output is None) == (name != "Linear")
