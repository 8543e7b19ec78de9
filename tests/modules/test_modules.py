import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions, nn

from skvae import modules
from skvae.modules import (
    LIKELIHOODS,
    AutoEncoderModule,
    Batch,
    CVAEModule,
    Gaussian,
    Laplace,
    LaplaceLikelihood,
    LatentModule,
    Net,
    SparseModule,
    VAEModule,
    noise_fit,
    posterior,
)
from skvae.modules.posterior import LaplacePosterior

N_ROWS, N_FEATURES, N_COMPONENTS, N_CONDITIONS = 12, 5, 2, 3

# Every module that takes rows to a code of real numbers, found by discovery, and the branches of those that have some.
OTHERS = {"LatentModule", "TDVAEModule", "VQVAEModule"}
CLASSES = [cls for cls in vars(modules).values() if isinstance(cls, type) and issubclass(cls, LatentModule)]
CLASSES = [cls for cls in CLASSES if cls.__name__ not in OTHERS]
CASES = [(cls, {"likelihood": name}) for cls in CLASSES for name in ("gaussian", "bernoulli")]
CASES += [(AutoEncoderModule, {"likelihood": "laplace"}), (VAEModule, {"likelihood": "laplace"})]
CASES += [(VAEModule, {"n_draws": 3}), (VAEModule, {"capacity": 4.0}), (VAEModule, {"beta": 2.5, "kl_warmup": 0.5})]
CASES += [(CVAEModule, {"prior": "conditional", "encode_condition": True})]


def case_id(case):
    return f"{case[0].__name__}-" + "-".join(f"{name}={value}" for name, value in case[1].items())


pytestmark = pytest.mark.usefixtures("one_core")


def maker(cls, params):
    def make(seed=0, **more):
        return build(cls, seed, **{**params, **more})

    return make


@pytest.fixture(params=CASES, ids=case_id)
def make(request):
    """Make a module with weights of a given seed."""
    return maker(*request.param)


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def make_plain(request):
    """Make a module of every class, for what does not depend on its branch or likelihood."""
    return maker(request.param, {})


def build(cls, seed=0, n_features=N_FEATURES, n_components=N_COMPONENTS, **params):
    params = {"hidden_layer_sizes": (7,), "activation": "tanh", **params}
    if issubclass(cls, CVAEModule):
        params = {"n_conditions": N_CONDITIONS, **params}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cls(n_features, n_components, **params).double()


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_for(module, n_rows=N_ROWS, seed=0):
    """Rows, targets, weights, conditions and the noise that a module asks for."""
    x, target = randn(n_rows, module.n_features, seed=seed), randn(n_rows, module.n_features, seed=seed + 1)
    if not module.likelihood.has_noise:
        x, target = torch.sigmoid(x), (target > 0.0).double()
    weight = torch.linspace(0.5, 1.5, n_rows, dtype=torch.float64)
    noise = {name: randn(n_rows, *shape, seed=seed + 2) for name, shape in module.noise_shapes.items()}
    return Batch(x, target, weight, condition_for(module, n_rows), noise=noise)


def condition_for(module, n_rows):
    return randn(n_rows, N_CONDITIONS, seed=9) if isinstance(module, CVAEModule) else None


def for_score(module, x, n_draws, seed=5):
    """Rows with the draws that `log_prob` asks for."""
    noise = {"posterior": randn(len(x), n_draws, module.n_components, seed=seed)}
    return Batch.of(x, condition=condition_for(module, len(x)), noise=noise)


def rows_of(batch, rows):
    """Some rows of a batch."""
    parts = (None if part is None else part[rows] for part in batch[:-1])
    return Batch(*parts, noise={name: noise[rows] for name, noise in batch.noise.items()})


def tensors(**values):
    """A schedule's values as the training loop passes them on."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def at(module, progress):
    return tensors(**module.schedule(progress))


def terms_of(module, batch, **schedule):
    return module.loss(batch, tensors(**schedule)).terms


def standardized(module, X):
    return torch.from_numpy((X - module.likelihood.units.constant) / module.likelihood.units.scale)


def total(terms, weight):
    return sum((term * weight / len(weight)).sum() if term.dim() else term for term in terms.values())


def state_of(module):
    """Parameters and buffers as they are now, the ones that are not saved included."""
    return {name: value.detach().clone() for name, value in [*module.named_parameters(), *module.named_buffers()]}


class AsForward(nn.Module):
    """Make a module's loss its forward pass, as `torch.func.functional_call` wants it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, batch, schedule):
        return self.module.loss(batch, schedule)


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_a_batch_count_alike_and_are_their_own_target(dtype):
    x, condition = torch.randn(4, 3).to(dtype), torch.randn(4, 2)
    batch = Batch.of(x, condition=condition)
    assert batch.x is batch.target is x
    assert batch.condition is condition
    assert batch.weight.dtype == dtype
    assert batch.weight.tolist() == [1.0] * 4
    assert batch.observed is batch.noise is None


def test_of_codes_nothing_is_known_but_the_condition():
    condition = torch.randn(4, 2)
    for z in (torch.randn(4, 3), torch.randn(4, 6, 3), torch.ones(4, 6, dtype=torch.long)):
        batch = Batch.of_codes(z, condition)
        assert batch.x.shape == (4, 0)
        assert batch.weight.is_floating_point()
        assert batch.weight.shape == (4,)
        assert batch.condition is condition


def test_rows_are_repeated_with_what_is_known_about_them():
    x, observed, condition = torch.randn(4, 3), torch.rand(4, 3) < 0.5, torch.randn(4, 2)
    batch = Batch(x, -x, torch.rand(4), condition, observed, ~observed, noise={"posterior": torch.randn(4, 2)})
    repeated = batch.repeated(3)
    for part, repeats in zip(batch[:-1], repeated[:-1], strict=True):
        assert (part is None) == (repeats is None)
        assert part is None or torch.equal(repeats, part.repeat_interleave(3, dim=0))
    assert repeated.noise is None
    assert batch.drawn("posterior") is batch.noise["posterior"]
    assert Batch.of(x).repeated(2).observed is None


# -- the contract of every module -------------------------------------------------------------------------------------


def test_shapes(make):
    module = make()
    batch = batch_for(module)
    code = module.encode(batch)
    assert code.shape == (N_ROWS, N_COMPONENTS)
    assert module.decode(code, batch).shape == (N_ROWS, N_FEATURES)
    draws = for_score(module, batch.x, 4)
    proposal = module.propose(draws)
    assert proposal.z.shape == (N_ROWS, 4, N_COMPONENTS)
    assert proposal.log_q.shape == (N_ROWS, 4)
    output = module.decode(proposal.z, draws)
    assert output.shape == (N_ROWS, 4, N_FEATURES)
    for k in range(4):
        torch.testing.assert_close(output[:, k], module.decode(proposal.z[:, k], draws))
    weighted = module.importance_draws(draws)
    assert weighted.log_weights.shape == (N_ROWS, 4)
    assert weighted.output.shape == weighted.terms.energy.shape == (N_ROWS, 4, N_FEATURES)
    torch.testing.assert_close(weighted.output, output)
    assert module.log_prob(draws).shape == (N_ROWS,)
    assert module.prior.log_prob(proposal.z, draws.condition).shape == (N_ROWS, 4)


def test_terms_are_per_row_unless_they_couple_the_batch(make):
    module = make()
    batch = batch_for(module)
    terms = module.loss(batch, at(module, 1.0)).terms
    assert {term.shape for term in terms.values()} <= {(N_ROWS,), ()}
    assert terms["reconstruction"].shape == (N_ROWS,)
    for name, term in module.loss(rows_of(batch, slice(3, 7)), at(module, 1.0)).terms.items():
        if term.dim():
            torch.testing.assert_close(term, terms[name][3:7])
        else:
            assert term.item() != pytest.approx(terms[name].item())


def test_gradient_reaches_every_parameter(make):
    module = make()
    batch = batch_for(module)
    total(module.loss(batch, at(module, 1.0)).terms, batch.weight).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0.0, name


def test_loss_is_pure(make):
    module = make().train()
    module.before_training()
    batch, schedule = batch_for(module), at(module, 0.3)
    module.loss(batch_for(module, n_rows=5, seed=7), at(module, 0.1))  # what it keeps of its own is there
    before, generator = pickle.dumps(module), torch.random.get_rng_state()
    inputs = [tensor.clone() for tensor in (*batch[:3], *batch.noise.values(), *schedule.values())]
    first, second = module.loss(batch, schedule), module.loss(batch, schedule)
    for ours, theirs in zip(first, second, strict=True):
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert pickle.dumps(module) == before  # nothing is changed, and nothing left on the module
    assert torch.equal(torch.random.get_rng_state(), generator)
    after = (*batch[:3], *batch.noise.values(), *schedule.values())
    assert all(torch.equal(a, b) for a, b in zip(inputs, after, strict=True))


def test_a_step_takes_what_the_loss_returned_and_nothing_else(make):
    module = make().train()
    module.before_training()
    twin, before = copy.deepcopy(module), state_of(module)
    batch = batch_for(module)
    learned = module.loss(batch, at(module, 1.0)).learned
    assert not any(value.requires_grad for value in learned.values())
    assert ("energy" in learned) == (module.learns_noise and module.likelihood.learns_noise)
    twin.after_step({name: value.clone() for name, value in learned.items()})  # never saw the batch
    module.after_step(learned)
    after = state_of(module)
    assert all(torch.equal(value, after[name]) for name, value in state_of(twin).items())
    assert all(torch.equal(before[name], after[name]) for name, _ in module.named_parameters())
    assert ("energy" in learned) != torch.equal(after["likelihood.noise.moment"], before["likelihood.noise.moment"])
    quiet = module.eval().loss(batch, at(module, 1.0)).learned
    assert "energy" not in quiet
    module.after_step(quiet)
    assert torch.equal(module.likelihood.noise.moment, after["likelihood.noise.moment"])
    fixed = make().train()
    if fixed.likelihood.has_noise:
        spec = Laplace if isinstance(fixed.likelihood, LaplaceLikelihood) else Gaussian
        fixed = make(likelihood=spec(noise=0.5)).train()
    assert "energy" not in fixed.loss(batch, at(fixed, 1.0)).learned


def test_the_noise_learns_from_the_gradient_of_its_weights(make):
    # The normalizer aside, which is a constant here, the loss's slope in the weights is the mean energy.
    module = make().train()
    batch = batch_for(module)
    module.likelihood.weight.requires_grad_()
    terms, learned = module.loss(batch, at(module, 1.0))
    total(terms, batch.weight).backward()
    if "energy" in learned:
        torch.testing.assert_close(learned["energy"], module.likelihood.weight.grad)
    else:
        assert not (module.learns_noise and module.likelihood.learns_noise)


def test_loss_of_stacked_modules(make):
    # Weights and schedules of several runs at once.
    ensemble = [AsForward(make(seed)).train() for seed in (0, 1)]
    batch, schedules = batch_for(ensemble[0].module), [at(ensemble[0].module, progress) for progress in (1.0, 0.2)]
    state = torch.func.stack_module_state(ensemble)
    schedule = {name: torch.stack([values[name] for values in schedules]) for name in schedules[0]}

    def loss(parameters, buffers, schedule):
        return torch.func.functional_call(ensemble[0], (parameters, buffers), (batch, schedule))

    together = torch.func.vmap(loss)(*state, schedule)
    for k, single in enumerate(ensemble):
        for ours, theirs in zip(together, single(batch, schedules[k]), strict=True):
            assert list(ours) == list(theirs)
            for name, value in theirs.items():
                torch.testing.assert_close(ours[name][k], value)
    assert not torch.allclose(together.terms["reconstruction"][0], together.terms["reconstruction"][1])


def test_schedule_settles_after_the_warm_up(make):
    module = make()
    assert 0.0 <= module.warmup <= 1.0
    assert module.schedule(module.warmup) == module.schedule(1.0)
    assert module.schedule(0.0).keys() == module.schedule(1.0).keys()


def test_rows_are_scored_alone(make):
    module = make()
    batch = for_score(module, batch_for(module).x, 6)
    torch.testing.assert_close(module.log_prob(rows_of(batch, slice(3, 7))), module.log_prob(batch)[3:7])


def test_score_is_the_mean_of_the_weights(make):
    module = make()
    batch = for_score(module, batch_for(module).x, 6)
    z, log_q = module.propose(batch)
    log_weights, output, terms = module.importance_draws(batch)
    energy = terms.energy
    torch.testing.assert_close(energy, module.likelihood.energies(batch.x.unsqueeze(1), output))
    log_joint = module.prior.log_prob(z, batch.condition) - module.likelihood.nll(batch.x.unsqueeze(1), output)
    torch.testing.assert_close(log_weights, log_joint - log_q)
    torch.testing.assert_close(module.log_prob(batch), log_weights.exp().mean(1).log())


def test_score_ignores_the_objective(make_plain):
    module = make_plain()
    batch = for_score(module, batch_for(module).x, 6)
    score = module.log_prob(batch)
    for name in ("beta", "capacity", "kl_warmup"):
        if hasattr(module, name):
            setattr(module, name, 0.25)
    assert torch.equal(module.log_prob(batch), score)


def test_score_is_the_integral_over_codes(make):
    # One component, so that the marginal likelihood is a sum over a fine grid of codes.
    module = make(n_components=1)
    x = batch_for(module, 4).target
    batch = for_score(module, x, 20_000)
    grid = torch.linspace(-12.0, 12.0, 2001, dtype=torch.float64)
    codes = grid.view(1, -1, 1).expand(len(x), -1, -1)
    with torch.no_grad():
        nll = module.likelihood.nll(x.unsqueeze(1), module.decode(codes, batch))
        log_joint = module.prior.log_prob(codes, batch.condition) - nll
        exact = torch.logsumexp(log_joint, dim=1) + math.log((grid[1] - grid[0]).item())
        estimate = module.log_prob(batch)
    torch.testing.assert_close(estimate, exact, atol=0.05, rtol=0.0)


def test_score_takes_another_prior(make_plain):
    module = make_plain()
    batch = for_score(module, batch_for(module).x, 6)
    wide = module.log_prob(batch, lambda z: module.prior.log_prob(z, batch.condition) + 3.0)
    torch.testing.assert_close(wide, module.log_prob(batch) + 3.0)


def test_prior_is_the_standard_normal(make_plain):
    z = randn(4, 3, N_COMPONENTS)
    expected = stats.multivariate_normal(np.zeros(N_COMPONENTS)).logpdf(z.numpy())
    np.testing.assert_allclose(make_plain().prior.log_prob(z).numpy(), expected)


def test_rows_far_from_the_data_stay_finite(make):
    module = make().float()
    x = torch.full((2, N_FEATURES), 1e6)
    if not module.likelihood.has_noise:
        x = torch.ones(2, N_FEATURES)
    batch = for_score(module, x, 3)
    batch = batch._replace(
        noise={"posterior": batch.noise["posterior"].float()},
        condition=None if batch.condition is None else batch.condition.float(),
    )
    assert torch.isfinite(module.log_prob(batch)).all()


def test_networks_of_your_own(make_plain):
    class Slow(nn.Sequential):
        def __init__(self, n_inputs, n_outputs, width=3):
            super().__init__(nn.Linear(n_inputs, width), nn.Tanh(), nn.Linear(width, n_outputs))

    module = make_plain(encoder=Net(Slow, width=4), decoder=Net(Slow))
    assert type(module.encoder) is type(module.decoder) is Slow
    assert module.encoder[0].weight.shape == (4, N_FEATURES)
    assert module.encode(batch_for(module)).shape == (N_ROWS, N_COMPONENTS)
    assert module.decoder[2].weight.shape == (N_FEATURES, 3)


def test_decoder_mirrors_the_encoder(make_plain):
    module = make_plain(hidden_layer_sizes=(9, 4))
    widths = [[layer.out_features for layer in net if isinstance(layer, nn.Linear)] for net in (module.encoder, module.decoder)]
    assert widths[0] == [9, 4, N_COMPONENTS * module.encoder_outputs_per_component]
    assert widths[1] == [4, 9, N_FEATURES]
    assert module.widest_layer == 9
    assert module.row_work == sum(parameter.numel() for parameter in module.parameters())


def test_constant_columns_are_left_to_the_likelihood(make):
    module = make()
    batch = batch_for(module)
    X = batch.target.numpy().copy()
    X[:, 3] = 1.0
    module.likelihood.fit(X)
    batch = batch._replace(x=module.likelihood.standardize(X).double())
    moved = batch.x.clone()
    moved[:, 3] += 100.0
    code = module.encode(batch)
    torch.testing.assert_close(module.encode(batch._replace(x=moved)), code)
    np.testing.assert_array_equal(module.likelihood.mean(module.decode(code, batch).detach())[:, 3], 1.0)


# -- autoencoder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_autoencoder_minimizes_the_distortion(likelihood):
    module = build(AutoEncoderModule, likelihood=likelihood)
    batch = batch_for(module)
    terms = module.loss(batch, {}).terms
    output = module.decode(module.encode(batch), batch)
    assert list(terms) == ["reconstruction"]
    torch.testing.assert_close(terms["reconstruction"], module.likelihood.distortion(batch.target, output))
    assert module.schedule(0.5) == {}
    assert module.warmup == 0.0


def test_autoencoder_loss_does_not_know_the_noise():
    module = build(AutoEncoderModule)
    batch = batch_for(module)
    before = terms_of(module, batch)["reconstruction"]
    module.likelihood.noise.set_moment(torch.full((N_FEATURES,), 0.01))
    assert torch.equal(terms_of(module, batch)["reconstruction"], before)


def linear_gaussian_model(cls=AutoEncoderModule):
    """Return a module whose decoder and noise are linear and Gaussian, its codes' law and rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, N_FEATURES)) * [1.0, 10.0, 0.1, 3.0, 1.0] + [0.0, 5.0, 0.0, -3.0, 1.0]
    module = build(cls, hidden_layer_sizes=())
    module.likelihood.fit(X).noise.set_moment(torch.tensor([0.3, 0.1, 0.8, 0.5, 0.2]))
    mean, root = rng.normal(size=N_COMPONENTS), rng.normal(size=(N_COMPONENTS, N_COMPONENTS))
    return module, stats.multivariate_normal(mean, root @ root.T + 0.5 * np.eye(N_COMPONENTS)), X[:N_ROWS]


def marginal(module, codes):
    """Return the exact law of rows, in the units of the data."""
    layer, likelihood = module.decoder[0], module.likelihood
    slope = likelihood.units.scale[:, None] * layer.weight.detach().numpy()
    location = likelihood.units.constant + likelihood.units.scale * layer.bias.detach().numpy() + slope @ codes.mean
    return stats.multivariate_normal(location, slope @ codes.cov @ slope.T + np.diag(likelihood.noise_scale() ** 2))


def test_autoencoder_score_is_exact_where_the_model_is_linear_and_gaussian():
    module, codes, X = linear_gaussian_model()
    module.prior.fit(codes.mean, codes.cov)
    x = standardized(module, X)
    batch = for_score(module, x, 50)
    with torch.no_grad():
        weights = module.importance_draws(batch, lambda z: torch.from_numpy(codes.logpdf(z.numpy()))).log_weights
        score = module.log_prob(batch, lambda z: torch.from_numpy(codes.logpdf(z.numpy())))
        own = module.log_prob(batch)
    exact = marginal(module, codes).logpdf(X)
    assert weights.std(dim=1).max().item() < 1e-4
    np.testing.assert_allclose(weights.numpy(), np.tile(exact[:, None], 50), atol=1e-3)
    np.testing.assert_allclose(score.numpy(), exact, atol=1e-4)
    np.testing.assert_allclose(own.numpy(), exact, atol=1e-4)


def test_autoencoder_prior_has_the_moments_of_the_codes():
    module, codes, _ = linear_gaussian_model()
    module.prior.fit(codes.mean, codes.cov)
    z = randn(4, 3, N_COMPONENTS)
    np.testing.assert_allclose(module.prior.log_prob(z).numpy(), codes.logpdf(z.numpy()), rtol=1e-9)


def test_autoencoder_proposal_is_normal_with_the_density_it_states():
    module, codes, X = linear_gaussian_model()
    module.prior.fit(codes.mean, codes.cov)
    x = standardized(module, X[:1])
    with torch.no_grad():
        z, log_q = module.propose(for_score(module, x, 20_000))
    z, log_q = z[0].numpy(), log_q[0].numpy()
    # The posterior of a linear Gaussian model.
    slope = module.decoder[0].weight.detach().numpy()
    noise = module.likelihood.noise_scale() / module.likelihood.units.scale
    precision = np.linalg.inv(codes.cov) + slope.T @ (slope / noise[:, None] ** 2)
    residual = x[0].numpy() - module.decoder[0].bias.detach().numpy()
    mean = np.linalg.solve(precision, np.linalg.solve(codes.cov, codes.mean) + slope.T @ (residual / noise**2))
    posterior = stats.multivariate_normal(mean, np.linalg.inv(precision))
    np.testing.assert_allclose(log_q, posterior.logpdf(z), atol=1e-3)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(np.cov(z.T), posterior.cov, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_autoencoder_proposal_serves_every_likelihood(likelihood):
    # A bent decoder and rows that the model made: the draws must not collapse onto a few.
    module = build(AutoEncoderModule, n_features=8, likelihood=likelihood)
    with torch.no_grad():
        for parameter in module.decoder.parameters():
            parameter.mul_(2.0)
        module.likelihood.noise.set_moment(torch.full((8,), 0.1 if likelihood == "gaussian" else 0.3))
        codes = randn(64, N_COMPONENTS)
        X = module.likelihood.draw(module.decode(codes, Batch.of_codes(codes)), torch.Generator().manual_seed(0))
        module.encoder[-1].weight.zero_()  # all codes in the middle: the proposal has to find the rest
        module.encoder[-1].bias.zero_()
        weights = module.importance_draws(for_score(module, torch.from_numpy(X), 200)).log_weights
    effective = torch.exp(2.0 * weights.logsumexp(1) - (2.0 * weights).logsumexp(1))
    assert effective.median().item() > 20.0


UNITS = np.array([1.0, 10.0, 0.1, 3.0, 1.0, 1.0, 100.0, 1.0])
SPREAD = np.array([0.3, 0.5, 0.8, 1.0, 0.4, 0.6, 1.2, 0.7]) * UNITS


def factor_model(noise, n_rows=4000):
    """Rows of a linear factor model and their loadings."""
    rng = np.random.default_rng(0)
    loadings, code = rng.normal(size=(8, N_COMPONENTS)) * UNITS[:, None], rng.normal(size=(n_rows, N_COMPONENTS))
    return code @ loadings.T + noise(rng, (n_rows, 8)), loadings


def autoencoder_for(X, loadings, **params):
    """Make an autoencoder that knows the loadings and whose codes are least squares."""
    module = build(AutoEncoderModule, n_features=8, hidden_layer_sizes=(), **params)
    module.likelihood.fit(X)
    slope = torch.from_numpy(loadings / module.likelihood.units.scale[:, None])
    with torch.no_grad():
        module.encoder[0].weight.copy_(torch.linalg.pinv(slope))
        module.encoder[0].bias.zero_()
        module.decoder[0].weight.copy_(slope)
        module.decoder[0].bias.copy_(
            torch.from_numpy((X.mean(0) - module.likelihood.units.constant) / module.likelihood.units.scale)
        )
    module.prior.fit(np.zeros(N_COMPONENTS), np.eye(N_COMPONENTS))
    return module


def fit_noise(module, X, weight=None):
    x = standardized(module, X)
    weight = torch.ones(len(x), dtype=torch.float64) if weight is None else torch.from_numpy(weight)
    noise = {"posterior": randn(len(x), module.n_components)}
    module.fit_noise(Batch(x, x, weight, noise=noise))
    return module.likelihood.noise_scale()


def test_autoencoder_recovers_the_noise_of_a_factor_model():
    X, loadings = factor_model(lambda rng, shape: SPREAD * rng.normal(size=shape))
    module = autoencoder_for(X, loadings)
    np.testing.assert_allclose(fit_noise(module, X), SPREAD, rtol=0.05)
    # The residuals alone would not show it: codes are fitted to the very rows that they explain.
    batch = Batch.of(standardized(module, X))
    residual = X - module.likelihood.mean(module.decode(module.encode(batch), batch).detach())
    assert np.abs(residual.std(0) / SPREAD - 1.0).max() > 0.2


def test_autoencoder_noise_follows_the_weights():
    X, loadings = factor_model(lambda rng, shape: SPREAD * rng.normal(size=shape))
    module = autoencoder_for(X[:2000], loadings)
    expected = fit_noise(module, X[:2000])
    X[2000:] *= 50.0
    np.testing.assert_allclose(fit_noise(module, X, np.r_[np.ones(2000), np.zeros(2000)]), expected, rtol=1e-9)
    repeats = np.arange(2000) % 3
    weighted = fit_noise(module, X[:2000], repeats.astype(float))
    np.testing.assert_allclose(weighted, fit_noise(module, np.repeat(X[:2000], repeats, axis=0)), rtol=1e-9)
    assert np.abs(weighted / expected - 1.0).max() > 1e-3


def test_autoencoder_laplace_noise_is_close():
    # The posterior is not normal here: the noise comes out somewhat wide, and costs a tenth of a nat at most.
    X, loadings = factor_model(lambda rng, shape: SPREAD * rng.laplace(size=shape))
    module = autoencoder_for(X, loadings, likelihood="laplace")
    found = fit_noise(module, X)
    assert np.median(np.abs(found / SPREAD - 1.0)) < 0.1
    batch = for_score(module, standardized(module, X[:500]), 500)
    with torch.no_grad():
        score = module.log_prob(batch).mean().item()
        module.likelihood.noise.set_moment(torch.from_numpy(SPREAD / module.likelihood.units.scale))
        assert score > module.log_prob(batch).mean().item() - 0.1


def test_autoencoder_recovers_one_noise_for_all():
    X, loadings = factor_model(lambda rng, shape: 5.0 * rng.normal(size=shape))
    found = fit_noise(autoencoder_for(X, loadings, likelihood=Gaussian("shared")), X)
    np.testing.assert_allclose(found, found[0], rtol=1e-12)
    assert found[0] == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize("params", [{"likelihood": Gaussian(0.25)}, {"likelihood": "bernoulli"}], ids=["fixed", "bernoulli"])
@pytest.mark.parametrize("cls", [AutoEncoderModule, VAEModule])
def test_noise_that_is_not_learned_stays(cls, params):
    module = build(cls, **params)
    X = torch.sigmoid(randn(50, N_FEATURES))
    module.likelihood.fit(X.numpy())
    before = module.likelihood.noise_scale()
    module.fit_noise(Batch.of(X, noise={"posterior": randn(50, N_COMPONENTS)}))
    np.testing.assert_array_equal(module.likelihood.noise_scale(), before)


# -- variational autoencoder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_vae_loss_is_the_negative_bound(likelihood):
    module = build(VAEModule, likelihood=likelihood)
    batch = batch_for(module)
    mean, log_var = module.posterior(batch)
    posterior = distributions.Normal(mean, torch.exp(0.5 * log_var))
    z = posterior.mean + posterior.stddev * batch.noise["posterior"]
    terms = terms_of(module, batch, beta=1.0)
    torch.testing.assert_close(terms["reconstruction"], module.likelihood.nll(batch.target, module.decode(z, batch)))
    expected = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(terms["kl"], expected)


def test_vae_code_is_the_posterior_mean():
    module = build(VAEModule)
    batch = batch_for(module)
    torch.testing.assert_close(module.encode(batch), module.posterior(batch).mean)


def test_vae_beta_multiplies_the_kl_alone():
    module = build(VAEModule)
    batch = batch_for(module)
    plain, heavy = terms_of(module, batch, beta=1.0), terms_of(module, batch, beta=4.0)
    assert torch.equal(heavy["reconstruction"], plain["reconstruction"])
    torch.testing.assert_close(heavy["kl"], 4.0 * plain["kl"])


def test_vae_without_beta_has_the_gradient_of_the_reconstruction():
    module = build(VAEModule)
    batch = batch_for(module)
    parameters = list(module.parameters())
    everything = torch.autograd.grad(total(terms_of(module, batch, beta=0.0), batch.weight), parameters)
    nll = terms_of(module, batch, beta=1.0)["reconstruction"]
    alone = torch.autograd.grad((nll * batch.weight).sum() / N_ROWS, parameters)
    for a, b in zip(everything, alone, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("params", "warmup", "expected"),
    [
        ({}, 0.0, {0.0: {"beta": 1.0}, 1.0: {"beta": 1.0}}),
        ({"beta": 3.0}, 0.0, {0.0: {"beta": 3.0}, 0.5: {"beta": 3.0}}),
        ({"beta": 3.0, "kl_warmup": 0.5}, 0.5, {0.0: {"beta": 0.0}, 0.25: {"beta": 1.5}, 0.5: {"beta": 3.0}, 1.0: {"beta": 3.0}}),
        (
            {"beta": 3.0, "capacity": 8.0, "kl_warmup": 0.8},
            0.8,
            {
                0.0: {"beta": 0.0, "capacity": 0.0},
                0.2: {"beta": 0.75, "capacity": 2.0},
                0.8: {"beta": 3.0, "capacity": 8.0},
                1.0: {"beta": 3.0, "capacity": 8.0},
            },
        ),
        ({"capacity": 8.0, "kl_warmup": 0.0}, 0.0, {0.0: {"beta": 1.0, "capacity": 8.0}}),
    ],
    ids=["default", "beta", "warm-up", "capacity", "capacity at once"],
)
def test_vae_schedule(params, warmup, expected):
    module = build(VAEModule, **params)
    assert module.warmup == warmup
    for progress, values in expected.items():
        assert module.schedule(progress) == pytest.approx(values)


def test_vae_capacity_holds_the_weighted_mean_of_the_kl():
    module = build(VAEModule, capacity=4.0)
    batch = batch_for(module)
    kl = terms_of(module, batch, beta=1.0)["kl"]
    mean = (kl * batch.weight).sum() / batch.weight.sum()
    assert mean.item() != pytest.approx(kl.mean().item())
    for capacity in (0.5 * mean.item(), 2.0 * mean.item()):
        term = terms_of(module, batch, beta=3.0, capacity=capacity)["kl"]
        assert term.shape == ()
        torch.testing.assert_close(term, 3.0 * (mean - capacity).abs())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_vae_draws_are_averaged(likelihood):
    module, single = build(VAEModule, n_draws=3, likelihood=likelihood), build(VAEModule, likelihood=likelihood)
    batch = batch_for(module)
    assert module.noise_shapes == {"posterior": (3, N_COMPONENTS)}
    assert single.noise_shapes == {"posterior": (N_COMPONENTS,)}
    noise = batch.noise["posterior"]
    terms = terms_of(module, batch, beta=2.0)
    each = [terms_of(single, batch._replace(noise={"posterior": noise[:, k]}), beta=2.0) for k in range(3)]
    for name, term in terms.items():
        torch.testing.assert_close(term, sum(one[name] for one in each) / 3.0)


def test_vae_proposes_its_posterior():
    module = build(VAEModule)
    batch = for_score(module, batch_for(module).x, 4)
    mean, log_var = module.posterior(batch)
    posterior = distributions.Normal(mean.unsqueeze(1), torch.exp(0.5 * log_var).unsqueeze(1))
    z, log_q = module.propose(batch)
    torch.testing.assert_close(z, posterior.mean + posterior.stddev * batch.noise["posterior"])
    torch.testing.assert_close(log_q, posterior.log_prob(z).sum(-1))


def test_vae_posterior_variance_is_bounded():
    module = build(VAEModule)
    for bias in (1e3, -1e3):
        module.encoder[-1].bias.data.fill_(bias)
        mean, log_var = module.posterior(Batch.of(randn(3, N_FEATURES)))
        torch.testing.assert_close(log_var, torch.full_like(log_var, math.copysign(20.0, bias)))
        assert (mean.abs() > 100.0).all()


def test_vae_score_grows_with_its_draws_up_to_the_truth():
    module, _, X = linear_gaussian_model(VAEModule)
    x = standardized(module, X)
    exact = marginal(module, stats.multivariate_normal(np.zeros(N_COMPONENTS))).logpdf(X)
    with torch.no_grad():
        means = [
            np.mean([module.log_prob(for_score(module, x, n_draws, seed=seed)).mean().item() for seed in range(10)])
            for n_draws in (1, 5, 25, 125)
        ]
    assert (np.diff(means) > 0.0).all()
    assert means[-1] < exact.mean() + 0.02
    with torch.no_grad():
        score = module.log_prob(for_score(module, x[:6], 100_000))
    np.testing.assert_allclose(score.numpy(), exact[:6], atol=0.1)


def test_vae_one_draw_gives_the_bound():
    module = build(VAEModule)
    batch = for_score(module, batch_for(module).x, 10_000)
    with torch.no_grad():
        weights = module.importance_draws(batch).log_weights
        terms = terms_of(build(VAEModule, n_draws=2), batch, beta=1.0)
    torch.testing.assert_close(weights.mean(1), -(terms["reconstruction"] + terms["kl"]), atol=0.05, rtol=0.0)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_vae_noise_is_that_of_the_residuals_of_draws(likelihood):
    X = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES)) * [1.0, 10.0, 0.1, 3.0, 1.0]
    module = build(VAEModule, likelihood=likelihood)
    module.likelihood.fit(X)
    x = standardized(module, X)
    noise, weight = randn(N_ROWS, N_COMPONENTS), np.linspace(0.0, 3.0, N_ROWS)
    batch = Batch(x, x, torch.from_numpy(weight), noise={"posterior": noise})
    module.fit_noise(batch)
    z = module.posterior(batch).from_noise(noise)
    residual = X - module.likelihood.mean(module.decode(z, batch).detach())
    if likelihood == "gaussian":
        expected = np.sqrt(np.average(residual**2, axis=0, weights=weight))
    else:
        expected = np.average(np.abs(residual), axis=0, weights=weight)
    np.testing.assert_allclose(module.likelihood.noise_scale(), expected, rtol=1e-9)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("module_class", [AutoEncoderModule, SparseModule])
def test_noise_is_the_same_by_a_few_rows_at_a_time(module_class, missing, likelihood, monkeypatch):
    """However many rows are looked at together, be it one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 5))
    found = []
    for n_numbers in (1, 300, 10**7):
        monkeypatch.setattr(posterior, "_CACHED_NUMBERS", n_numbers)
        monkeypatch.setattr(noise_fit, "_CACHED_NUMBERS", n_numbers)
        monkeypatch.setattr(noise_fit, "_EM_ROWS", 70)
        torch.manual_seed(0)
        module = module_class(5, 3, hidden_layer_sizes=(7,), activation="tanh", likelihood=likelihood).eval()
        module.likelihood.fit(X)
        x = module.likelihood.standardize(X)
        observed = torch.from_numpy(np.random.default_rng(1).random(X.shape) < 0.8) if missing else None
        batch = Batch.of(x, weight=torch.linspace(0.5, 1.5, len(x)), observed=observed)
        module.fit_noise(batch)
        found.append(module.likelihood.noise.moment)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_wide_codes_solve_the_same_systems(likelihood):
    """Woodbury's identity: in systems of the rows' size the residuals' moments are those of systems of the code's size."""
    rng = np.random.default_rng(0)
    module = AutoEncoderModule(5, 8, hidden_layer_sizes=(7,), activation="tanh", likelihood=likelihood)
    module.likelihood.fit(rng.normal(size=(100, 5)))
    module.double().prior.fit(rng.normal(size=8), np.cov(rng.normal(size=(8, 50))))
    batch = Batch.of(torch.from_numpy(rng.normal(size=(20, 5))))
    with torch.no_grad():
        code, free = module.free_code(batch)
        output = module.decode(code, batch)
        residual, slopes = module.likelihood.residual(batch.x, output), module.slopes(code, free, batch)
        posterior = LaplacePosterior(code, free, slopes)
        for factor in (0.1, 1.0, 30.0):
            information = factor * module.likelihood.information(output)
            narrow = posterior.residual_moments(residual, module.likelihood.score)(information)
            wide = posterior.wide_residual_moments(residual)(information)
            for ours, theirs in zip(wide, narrow, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
