import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from skvae import modules
from skvae.data.columns import ColumnStatistics
from skvae.modules import (
    MECHANISMS,
    Batch,
    CVAEModule,
    GaussianLikelihood,
    LaplaceLikelihood,
    LatentModule,
    MaskModel,
    MIWAEModule,
    VAEModule,
)

N, D = 40, 4
TAKING_MISSING = [cls for cls in vars(modules).values() if isinstance(cls, type) and issubclass(cls, LatentModule)]
TAKING_MISSING = [cls for cls in TAKING_MISSING if cls.takes_missing and cls.__name__ != "VQVAEModule"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def masks(seed=0):
    return torch.rand((N, D), generator=torch.Generator().manual_seed(seed)) < 0.7


def make(cls=MIWAEModule, **params):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(D, 2, hidden_layer_sizes=(6,), **params)


def batch_for(module, mask, seed=1):
    noise = {name: normal(N, *shape, seed=seed) for name, shape in module.noise_shapes.items()}
    x = torch.where(mask, normal(N, D, seed=2), 0.0) if mask is not None else normal(N, D, seed=2)
    return Batch.of(x, observed=mask, noise=noise)


def loss_of(module, batch):
    return module.loss(batch, {name: torch.tensor(value) for name, value in module.schedule(1.0).items()})


def terms_of(module, batch):
    return loss_of(module, batch).terms


def test_columns_are_measured_where_they_are_observed():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)) * [1, 10, 100] + 5
    X[rng.random(X.shape) < 0.3] = np.nan
    weight = rng.random(50)
    found = ColumnStatistics.of(X, weight)
    for j in range(3):
        seen = ~np.isnan(X[:, j])
        alone = ColumnStatistics.of(X[seen, j : j + 1], weight[seen])
        for name in ("shift", "std", "minimum", "maximum", "spread"):
            np.testing.assert_allclose(getattr(found, name)[j], getattr(alone, name)[0])


@pytest.mark.parametrize("cls", [GaussianLikelihood, LaplaceLikelihood])
def test_masked_likelihood_is_that_of_the_columns_left(cls):
    X = np.random.default_rng(0).normal(size=(30, 3)) * [1.0, 10.0, 0.1] + 2
    likelihood = cls(3).double().fit(X)
    likelihood.noise.set_moment(torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64))
    target, output = likelihood.standardize(X).double(), normal(30, 3).double()
    alone = cls(2).double().fit(X[:, :2])
    alone.noise.set_moment(torch.tensor([0.5, 0.2], dtype=torch.float64))
    mask = torch.tensor([True, True, False]).expand(30, 3)
    torch.testing.assert_close(likelihood.nll(target, output, mask), alone.nll(target[:, :2], output[:, :2]))
    torch.testing.assert_close(likelihood.nll(target, output, torch.ones_like(mask)), likelihood.nll(target, output))


@pytest.mark.parametrize("noise", ["feature", "shared"])
def test_noise_goes_to_the_mean_energy_of_what_is_observed(noise):
    likelihood = GaussianLikelihood(2, noise)
    likelihood.fit(np.random.default_rng(0).normal(size=(50, 2)))
    rates = torch.tensor([0.9, 0.3])
    generator = torch.Generator().manual_seed(0)
    scale, found = torch.tensor([0.5, 0.8]), []
    for step in range(2000):
        residual = torch.randn((64, 2), generator=generator) * scale
        mask = torch.rand((64, 2), generator=generator) < rates
        energy = likelihood.energies(residual, torch.zeros(64, 2), mask)
        likelihood.noise.update(0.01, energy.mean(0), mask.float().mean(0))
        if step >= 500:
            found.append(likelihood.noise.moment.clone())
    energy = scale.square()
    expected = energy if noise == "feature" else ((energy * rates).sum() / rates.sum()).expand(2)
    torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=0.03, atol=0)


@pytest.mark.parametrize("cls", TAKING_MISSING)
def test_what_stands_in_for_missing_entries_does_not_count_in_the_target(cls):
    module, mask = make(cls), masks()
    condition = torch.zeros(N, module.n_conditions) if isinstance(module, CVAEModule) else None
    batch = batch_for(module, mask)._replace(condition=condition)
    other = batch._replace(target=torch.where(mask, batch.target, 7.0))
    terms, others = (terms_of(module, some) for some in (batch, other))
    for name in terms:
        torch.testing.assert_close(terms[name], others[name], msg=name)


def test_the_encoder_reads_what_is_missing():
    module, mask = make(indicated=(1, 3)), masks()
    batch = Batch.of(torch.zeros(N, D), observed=mask)
    complete = batch._replace(observed=torch.ones_like(mask))
    assert module.encoder[0].in_features == D + 2
    assert not torch.equal(module.encode(batch), module.encode(complete))
    torch.testing.assert_close(module.encode(complete), module.encode(batch._replace(observed=None)))


def test_one_draw_gives_the_single_sample_bound_and_more_a_tighter_one():
    bounds = []
    for n_draws in (1, 10, 100):
        module = make(n_draws=n_draws)
        bounds.append(float(terms_of(module, batch_for(module, masks()))["reconstruction"].mean().detach()))
    assert bounds[0] > bounds[1] > bounds[2]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_gradients_reach_every_parameter(mechanism):
    module = make(mechanism=mechanism, sign=1, indicated=(0, 2), rates=(0.3, 0.4))
    module.train()
    module.before_training()
    mask = masks()
    mask[:, [1, 3]] = True
    terms, learned = loss_of(module, batch_for(module, mask))
    terms["reconstruction"].mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in module.parameters())
    before = module.likelihood.noise.moment.clone()
    module.after_step(learned)
    assert not torch.equal(module.likelihood.noise.moment, before)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_loss_is_pure(mechanism):
    module = make(mechanism=mechanism, indicated=(0,), rates=(0.3,)).train()
    batch = batch_for(module, masks())
    loss_of(module, batch_for(module, masks(1), seed=7))  # what it keeps of its own is there
    before = pickle.dumps(module)
    first, second = loss_of(module, batch), loss_of(module, batch)
    torch.testing.assert_close(first._asdict(), second._asdict(), rtol=0.0, atol=0.0)
    assert first.learned.keys() == {"energy", "observed"}
    assert not any(value.requires_grad for value in first.learned.values())
    assert pickle.dumps(module) == before


def test_noise_is_learned_from_what_is_observed():
    module, mask = make(VAEModule).train(), masks()
    batch = batch_for(module, mask)._replace(weight=torch.linspace(0.5, 1.5, N))
    learned, output = (
        loss_of(module, batch).learned,
        module.decode(module.posterior(batch).from_noise(batch.drawn("posterior")), batch),
    )
    energy = torch.where(mask, module.likelihood.energies(batch.target, output), 0.0)
    torch.testing.assert_close(learned["energy"], (batch.weight @ energy / N).detach())
    torch.testing.assert_close(learned["observed"], batch.weight @ mask.float() / N)


def test_with_a_mask_model_the_noise_is_learned_from_complete_rows():
    for mechanism in MECHANISMS:
        module = make(mechanism=mechanism, indicated=(0,), rates=(0.3,)).train()
        learned = loss_of(module, batch_for(module, masks())).learned
        assert (learned["observed"] == 1.0).all() == (mechanism != "random")


def test_own_values_are_integrated_out():
    """The mass of a normal distribution that a logistic regression calls missing, by numerical integration."""
    module = make(mechanism="self_masking", sign=1, indicated=(2,), rates=(0.5,), n_draws=3)
    model = module.mask_model
    mask = torch.ones(N, D, dtype=torch.bool)
    mask[:, 2] = False
    batch = batch_for(module, mask)
    with torch.no_grad():
        plain, output, _ = module.importance_draws(batch)
        extra = module.weigh_masks(batch).log_weights - plain
        loc, scale = output[..., 2], float((2 * module.likelihood.weight[2]).rsqrt())
        nodes = torch.linspace(-8, 8, 2001)
        mass = torch.softmax(-0.5 * nodes.square(), 0)
        rows = torch.zeros(N, 3, 2001, D)
        rows[..., 2] = loc.unsqueeze(-1) + scale * nodes
        exact = (torch.sigmoid(model(rows)[..., 0]) * mass).sum(-1).log()
    torch.testing.assert_close(extra, exact, atol=2e-3, rtol=2e-3)
    drawn = module.draw_missing(output[:1, :1].expand(1, 20000, D), torch.Generator().manual_seed(0))[0, :, 2]
    torch.testing.assert_close(drawn.mean(), module.mean_missing(output[0, 0])[2].detach(), atol=0.03, rtol=0)


@pytest.mark.parametrize(("sign", "direction"), [(1, 1), (-1, -1)])
def test_known_signs_are_kept(sign, direction):
    model = MaskModel(D, (0,), "self_masking", sign, (0.5,))
    slope = model(torch.ones(1, D)) - model(torch.zeros(1, D))
    assert torch.sign(slope).item() == direction


@pytest.mark.parametrize("cls", [GaussianLikelihood, LaplaceLikelihood])
def test_draws_by_normal_numbers_follow_the_likelihood(cls):
    likelihood = cls(1).fit(np.random.default_rng(0).normal(size=(50, 1)))
    drawn = likelihood.scatter_by(torch.zeros(20000, 1), normal(20000, 1))[:, 0].numpy()
    distribution = {GaussianLikelihood: stats.norm, LaplaceLikelihood: stats.laplace}[cls]
    scale = float(likelihood.noise_scale()[0] / likelihood.units.scale[0])
    assert stats.kstest(drawn, distribution(scale=scale).cdf).pvalue > 1e-3


# -- beside a linear path ---------------------------------------------------------------------------------------------


def log_density(module, x, observed):
    """Log-density of what is observed of rows under the factor model that a linear decoder is."""
    linear = module.decoder[0]
    loadings, bias = (part.detach().double().numpy() for part in (linear.weight, linear.bias))
    covariance = loadings @ loadings.T + np.diag(0.5 / module.likelihood.weight.double().numpy())
    found = []
    for row, seen in zip(x.double().numpy(), observed.numpy(), strict=True):
        o = np.flatnonzero(seen)
        found.append(stats.multivariate_normal(bias[o], covariance[np.ix_(o, o)]).logpdf(row[o]) if len(o) else 0.0)
    return np.array(found)


def test_proposals_of_a_linear_model_are_exact():
    module, mask = make(linear_path=np.inf), masks()
    module.likelihood.noise.set_moment(torch.tensor([0.5, 1e-3, 0.2, 0.8]))
    batch = batch_for(module, mask)
    with torch.no_grad():
        log_weights = module.importance_draws(batch).log_weights
        nothing = batch._replace(observed=torch.zeros_like(mask))
        codes = module.propose(nothing).z
    expected = torch.from_numpy(log_density(module, batch.x, mask)).float()
    torch.testing.assert_close(log_weights, expected.unsqueeze(1).expand_as(log_weights), atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(codes, batch.drawn("posterior"))  # from the prior


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_encoders_move_proposals_and_weights_make_up_for_it(likelihood):
    module, mask = make(linear_path=1.0, n_draws=4000, likelihood=likelihood), masks()
    batch = batch_for(module, mask)
    with torch.no_grad():
        before = module.log_prob(batch)
        module.encoder.linear.bias.copy_(torch.tensor([0.3, -0.2, 0.2, 0.1]))
        assert not torch.equal(module.encode(batch), make(linear_path=1.0, likelihood=likelihood).encode(batch))
        assert (module.log_prob(batch) - before).abs().mean() < 0.05


@pytest.mark.parametrize("linear_path", [1.0, np.inf])
def test_what_is_hidden_beside_a_linear_path_is_left_out(linear_path):
    module = make(linear_path=linear_path, hides=True).train()
    batch = batch_for(module, None)
    first = loss_of(module, batch)
    seen = module._hide(batch).observed
    assert 0.05 < 1.0 - seen.float().mean() < 0.6
    other = batch._replace(x=torch.where(seen, batch.x, 9.0), target=torch.where(seen, batch.target, 9.0))
    torch.testing.assert_close(first._asdict(), loss_of(module, other)._asdict(), rtol=0.0, atol=0.0)
    first.terms["reconstruction"].mean().backward()
    trained = dict(module.named_parameters())
    if np.isinf(linear_path):  # which needs no encoder
        trained = {name: value for name, value in trained.items() if not name.startswith("encoder")}
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained.values())


def test_a_linear_path_begins_at_factor_analysis():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, D)) + 0.3 * rng.normal(size=(300, D))
    module = make(linear_path=1.0, hides=True)
    module.likelihood.fit(X)
    x = module.likelihood.units.standardize_exactly(X)
    module.start(Batch.of(x))
    rows = Batch.of(x.float(), observed=torch.from_numpy(rng.random(X.shape) < 0.7))
    q = module.posterior(rows)
    assert (q.mean.var(0) + q.log_var.exp().mean(0) - 1.0).abs().max() < 0.15  # the prior's, over all rows
    complete = Batch.of(x.float())
    left = (module.decode(module.encode(complete), complete) - complete.x).square().mean(0)
    noise = module.likelihood.variance(left)
    assert (left.detach() < noise + 0.02).all()  # less than the noise, as codes follow the rows
    assert noise.mean() < 0.3
