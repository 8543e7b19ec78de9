"""What every likelihood in the table keeps to, whatever its distribution."""

import copy

import numpy as np
import pytest
import torch
from scipy import sparse

from skvae.modules import AutoEncoderModule, Batch, ContractiveModule, VAEModule
from skvae.modules.likelihoods import LIKELIHOODS, Likelihood, build_likelihood

N_ROWS, N_FEATURES, CONSTANT = 60, 5, 3
VARYING = np.arange(N_FEATURES) != CONSTANT


def zeros_and_ones(rng):
    return (rng.random((N_ROWS, N_FEATURES)) < 0.4).astype(float), 1.0


def counts(rng):
    return rng.poisson(rng.gamma(2.0, [0.1, 500.0, 2.0, 1.0, 20.0], size=(N_ROWS, N_FEATURES))).astype(float), 3.0


def measurements(rng):
    return rng.normal(size=(N_ROWS, N_FEATURES)) * [1.0, 100.0, 1e-3, 0.0, 7.0] + [0.0, 1e4, 0.0, 0.0, -5.0], 0.1 + 0.2


# Rows that a likelihood is for, by its name, and the value of a constant column; those of others are measurements.
ROWS = {"bernoulli": zeros_and_ones, "poisson": counts}


@pytest.fixture(params=LIKELIHOODS.values(), ids=lambda spec: spec.name)
def spec(request):
    return request.param()


@pytest.fixture
def X(spec):
    rows, constant = ROWS.get(spec.name, measurements)(np.random.default_rng(0))
    rows[:, CONSTANT] = constant
    return rows


@pytest.fixture
def likelihood(spec, X):
    return build_likelihood(spec, N_FEATURES).double().fit(X)


def outputs(seed=1, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (N_ROWS, N_FEATURES)), dtype=torch.float64, generator=generator)


def exactly(likelihood, X):
    return likelihood.units.standardize_exactly(X)


def test_the_table_lists_each_under_its_name():
    assert all(spec.name == name for name, spec in LIKELIHOODS.items())
    assert all(build_likelihood(spec(), 3).n_features == 3 for spec in LIKELIHOODS.values())


def test_rows_are_in_range(likelihood, X):
    likelihood.check(X)
    likelihood.check(sparse.csr_array(X))
    X[0, 0] = np.nan
    likelihood.check(X)


# Entries that a likelihood refuses, by its name; those of others are any real numbers.
REFUSED = {"bernoulli": 1.5, "poisson": 0.5}


def test_entries_out_of_range_are_refused(spec, likelihood, X):
    if spec.name in REFUSED:
        X[0, 0] = REFUSED[spec.name]
        with pytest.raises(ValueError, match="takes"):
            likelihood.check(X)
    else:
        assert type(likelihood).check is Likelihood.check


def test_the_distribution_sums_to_one(spec, X):
    """Over counts, or over a fine grid, wherever entries are in range."""
    column = X[:, :1]
    likelihood = build_likelihood(spec, 1).double().fit(column)
    for output in outputs(2, 3, 1):
        location = likelihood.mean(output.unsqueeze(0))[0, 0]
        width = 60.0 * column.std()
        values = location + np.linspace(-width, width, 200_001) if likelihood.is_density else np.arange(5000.0)
        taken = np.array([_is_taken(likelihood, value) for value in values[:: len(values) - 1]]).all()
        if not taken:
            values = np.array([value for value in values if _is_taken(likelihood, value)])
        target = exactly(likelihood, values[:, None])
        mass = torch.exp(-likelihood.nll(target, output.expand(len(values), 1))).sum().item()
        assert mass * (values[1] - values[0] if likelihood.is_density else 1.0) == pytest.approx(1.0, abs=1e-3)


def _is_taken(likelihood, value):
    try:
        likelihood.check(np.array([[value]]))
    except ValueError:
        return False
    return True


def test_energies_are_finite_whatever_networks_return(likelihood, X):
    likelihood = likelihood.float()
    target = likelihood.standardize(np.concatenate([X, np.full((1, N_FEATURES), X.max() * 1e6)]))
    for size in (1e2, 1e4):
        for output in (size * outputs(3, *target.shape).float(), torch.full_like(target, -size)):
            assert torch.isfinite(likelihood.energies(target, output)).all()
            assert np.isfinite(likelihood.mean(output)).all()


def test_loss_and_score_agree(likelihood, X):
    output = outputs()
    nll = likelihood.nll(exactly(likelihood, X), output)
    np.testing.assert_allclose(-nll.numpy(), likelihood.log_prob(X, output), rtol=1e-9)


def test_the_score_is_the_gradient_of_the_log_likelihood(likelihood, X, spec):
    if spec.name == "laplace":
        pytest.skip("the gradient of an absolute value is no linear function of the residual")
    output, target = outputs().requires_grad_(), exactly(likelihood, X)
    (gradient,) = torch.autograd.grad(-likelihood.nll(target, output).sum(), output)
    score = likelihood.score(likelihood.residual(target, output), likelihood.information(output).expand_as(output))
    np.testing.assert_allclose(score.detach()[:, VARYING], gradient[:, VARYING], rtol=1e-9)


def test_the_information_is_the_mean_curvature(likelihood, spec):
    if spec.name == "laplace":
        pytest.skip("its curvature vanishes almost everywhere")
    output = outputs(1, 1, N_FEATURES)
    rows = likelihood.scatter(output.expand(40_000, -1), torch.Generator().manual_seed(0))
    scores = likelihood.score(likelihood.residual(rows, output), likelihood.information(output).expand_as(rows))
    expected = likelihood.information(output).expand(1, -1).detach()
    np.testing.assert_allclose(scores.square().mean(0)[VARYING], expected[0, VARYING], rtol=0.05)


def test_locations_change_as_is_said(likelihood):
    output, change = outputs(1), 1e-3 * outputs(2)
    moved = likelihood.locate(output + change) - likelihood.locate(output)
    np.testing.assert_allclose(likelihood.location_change(change), moved, atol=1e-10)


def test_a_shortfall_leads_towards_the_rows(likelihood, X):
    output, target = outputs(), exactly(likelihood, X)
    closer = output + 0.1 * likelihood.shortfall(target, output)
    assert (likelihood.energies(target, closer) <= likelihood.energies(target, output) + 1e-12)[:, VARYING].all()


def test_responses_are_nearer_to_the_rows_than_zero_is(likelihood, X):
    target = exactly(likelihood, X)
    energies = (likelihood.energies(target, output) for output in (likelihood.response(target), torch.zeros_like(target)))
    nearer, zero = (energy.sum(0)[VARYING] for energy in energies)
    assert (nearer < zero).all()


def test_deviances_are_zero_at_best(likelihood, X):
    deviance = likelihood.deviance(X, outputs())
    assert (deviance >= 0.0).all()
    X[0, 0] = np.nan
    assert likelihood.deviance(X, outputs())[0, 0] == 0.0


def test_errors_are_comparable_rows_beside_residuals(likelihood, X):
    output = outputs()
    x, error = np.hsplit(likelihood.errors(X, output), 2)
    np.testing.assert_allclose(x, likelihood.comparable(exactly(likelihood, X)))
    np.testing.assert_allclose(x - error, likelihood.comparable(likelihood.expectation(output)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(likelihood.from_comparable(torch.from_numpy(x)), X, rtol=1e-9, atol=1e-9)
    narrow = torch.from_numpy(x.astype(np.float32))
    np.testing.assert_allclose(likelihood.from_comparable(narrow), X, rtol=1e-5, atol=1e-5)
    X[0, 0] = np.nan
    assert np.hsplit(likelihood.errors(X, output), 2)[1][0, 0] == 0.0


def test_networks_read_entries_of_about_unit_variance(likelihood, X):
    read = likelihood.network_input(exactly(likelihood, X))
    assert (read[:, CONSTANT] == 0.0).all()
    assert (read[:, VARYING].std(0) < 2.0).all()
    assert (read[:, VARYING].mean(0).abs() < 1.0).all()


def test_networks_read_anything_finite(likelihood):
    x = torch.tensor([-1e15, -0.5, 0.0, 0.3, 1e15], dtype=torch.float64).unsqueeze(1).expand(-1, N_FEATURES)
    read = likelihood.read(x)
    assert read.isfinite().all()
    assert (read.diff(dim=0) >= 0.0).all()
    some = torch.tensor([4, 1])
    torch.testing.assert_close(likelihood.read(x[:, some], some), read[:, some], rtol=0.0, atol=0.0)


def test_draws_by_normal_numbers_follow_the_likelihood(likelihood):
    output = outputs(1, 1, N_FEATURES).expand(40_000, -1)
    normal = likelihood.scatter_by(output, outputs(3, *output.shape))
    drawn = likelihood.scatter(output, torch.Generator().manual_seed(0))
    spread = likelihood.variance(output).expand_as(output)[0].sqrt()
    for draws in (normal, drawn):
        np.testing.assert_allclose((draws.mean(0) - likelihood.expectation(output)[0]) / spread, 0.0, atol=0.03)
        np.testing.assert_allclose(draws.std(0) / spread, 1.0, atol=0.05)
    for level in (0.1, 0.5, 0.9):
        edge = drawn.quantile(level, dim=0)
        np.testing.assert_allclose((normal <= edge).double().mean(0), (drawn <= edge).double().mean(0), atol=0.02)


def test_gradients_pass_draws_as_they_pass_the_mean(likelihood):
    output = outputs().requires_grad_()
    (through_draws,) = torch.autograd.grad(likelihood.scatter_by(output, outputs(3)).sum(), output)
    (through_mean,) = torch.autograd.grad(likelihood.expectation(output).sum(), output)
    torch.testing.assert_close(through_draws, through_mean)


def test_mixtures_obey_the_law_of_total_variance(likelihood):
    several = outputs(1, 1, 3, N_FEATURES)
    mean, variance = likelihood.mixture_moments(several)
    rows = likelihood.scatter(several.expand(30_000, -1, -1), torch.Generator().manual_seed(0)).flatten(0, 1)
    np.testing.assert_allclose((rows.mean(0) - mean[0]) / variance[0].sqrt(), 0.0, atol=0.03)
    np.testing.assert_allclose(rows.var(0) / variance[0], 1.0, atol=0.06)


def test_surprises_are_not_negative_and_grow(likelihood, X):
    mean, variance = likelihood.mixture_moments(outputs(1, N_ROWS, 3, N_FEATURES))
    assert (likelihood.surprise(exactly(likelihood, X), mean, variance) >= 0.0).all()
    assert likelihood.surprise(mean, mean, variance).abs().max() < 1e-6


def test_constants_are_reproduced(likelihood, X):
    for values in (likelihood.mean(outputs()), likelihood.draw(outputs(), torch.Generator().manual_seed(0))):
        np.testing.assert_array_equal(values[:, CONSTANT], X[0, CONSTANT])


def test_state_is_kept(spec, likelihood, X):
    other = build_likelihood(spec, N_FEATURES).double()
    other.load_state_dict(copy.deepcopy(likelihood.state_dict()))
    np.testing.assert_array_equal(other.errors(X, outputs()), likelihood.errors(X, outputs()))
    np.testing.assert_array_equal(other.log_prob(X, outputs()), likelihood.log_prob(X, outputs()))
    torch.testing.assert_close(other.network_input(exactly(likelihood, X)), likelihood.network_input(exactly(likelihood, X)))


# -- in modules -------------------------------------------------------------------------------------------------------


def built(module_class, spec, X, **params):
    torch.manual_seed(0)
    module = module_class(N_FEATURES, 2, likelihood=spec, hidden_layer_sizes=(), **params).double()
    module.likelihood.fit(X)
    return module, Batch.of(exactly(module.likelihood, X))


def test_slopes_of_a_linear_decoder_are_those_of_its_secants(spec, X):
    module, batch = built(AutoEncoderModule, spec, X)
    z = module.encode(batch)
    step = 1e-4 * torch.eye(2, dtype=z.dtype).unsqueeze(1)
    secants = module.likelihood.locate(module.decode(z + step, batch)) - module.likelihood.locate(module.decode(z, batch))
    slopes = module.likelihood.location_change(module.decoder[-1].weight.mT)
    np.testing.assert_allclose(secants.detach().mean(1) / 1e-4, slopes.detach(), atol=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_the_jacobian_is_that_in_what_the_encoder_reads(spec, X, missing):
    module, batch = built(ContractiveModule, spec, X, jacobian="exact")
    assert module._single_layer is not None
    if missing:
        batch = batch._replace(observed=torch.rand(X.shape) < 0.7)
    by_formula = module.jacobian_norm(batch)
    module.encoder = torch.nn.Sequential(*module.encoder, torch.nn.Softplus(), torch.nn.Softplus())
    module.encoder[-1] = torch.nn.Identity()
    module.encoder[-2] = torch.nn.Identity()
    assert module._single_layer is None
    torch.testing.assert_close(by_formula, module.jacobian_norm(batch))


def test_losses_of_modules_have_gradients(spec, X):
    module, batch = built(VAEModule, spec, X)
    batch = batch._replace(noise={"posterior": outputs(2, N_ROWS, 2)})
    terms, _ = module.loss(batch, {"beta": torch.ones((), dtype=torch.float64)})
    sum(term.sum() for term in terms.values()).backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in module.parameters())
