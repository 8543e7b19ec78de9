import copy
import re

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from scipy.special import expit, logit
from sklearn.datasets import load_digits

from skvae.data.columns import ColumnStatistics
from skvae.modules import (
    LIKELIHOODS,
    NOISE_MODES,
    BernoulliLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    PoissonLikelihood,
)
from skvae.modules.likelihoods import units
from skvae.modules.likelihoods.units import MAX_STANDARDIZED

N_ROWS, N_FEATURES, CONSTANT = 60, 5, 3
CONTINUOUS = [GaussianLikelihood, LaplaceLikelihood]
ALL = [*CONTINUOUS, BernoulliLikelihood]
DENSITIES = {GaussianLikelihood: stats.norm, LaplaceLikelihood: stats.laplace}


def rows_for(likelihood_class):
    """Rows in different units, or in [0, 1], with a constant column."""
    rng = np.random.default_rng(0)
    if likelihood_class is BernoulliLikelihood:
        X = (rng.random((N_ROWS, N_FEATURES)) < 0.4).astype(float)
    else:
        X = rng.normal(size=(N_ROWS, N_FEATURES)) * [1.0, 100.0, 1e-3, 0.0, 7.0] + [0.0, 1e4, 0.0, 0.0, -5.0]
    X[:, CONSTANT] = 0.1 + 0.2
    return X


def outputs(n_rows=N_ROWS, seed=1):
    """Stand in for what a decoder returns."""
    return torch.randn(n_rows, N_FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fitted(likelihood_class, X=None, noise="auto", moment=None, **fit_params):
    """Fit a likelihood in double precision."""
    X = rows_for(likelihood_class) if X is None else X
    likelihood = likelihood_class(X.shape[1], noise).double().fit(X, **fit_params)
    if moment is not None:
        likelihood.noise.set_moment(torch.as_tensor(moment, dtype=torch.float64))
    return likelihood


def standardized(likelihood, X):
    return torch.from_numpy((X - likelihood.units.constant) / likelihood.units.scale)


def target_for(likelihood, X):
    return torch.from_numpy(X) if isinstance(likelihood, BernoulliLikelihood) else standardized(likelihood, X)


MOMENTS = [0.2, 0.5, 0.03, 0.7, 2.0]


@pytest.fixture(params=ALL, ids=lambda cls: cls.__name__)
def likelihood_class(request):
    return request.param


@pytest.fixture(params=CONTINUOUS, ids=lambda cls: cls.__name__)
def continuous(request):
    return request.param


def test_registry():
    known = {
        "gaussian": GaussianLikelihood,
        "laplace": LaplaceLikelihood,
        "bernoulli": BernoulliLikelihood,
        "poisson": PoissonLikelihood,
    }
    assert known.items() <= {name: spec._module_class for name, spec in LIKELIHOODS.items()}.items()
    assert NOISE_MODES == ("auto", "feature", "shared")
    assert all(issubclass(spec._module_class, Likelihood) for spec in LIKELIHOODS.values())


# -- scores in the units of the data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["feature", "shared", 5.0])
def test_nll_is_that_of_scipy(continuous, noise):
    X = rows_for(continuous)
    likelihood = fitted(continuous, X, noise, MOMENTS if isinstance(noise, str) else None)
    output = outputs()
    nll = likelihood.nll(standardized(likelihood, X), output)
    density = DENSITIES[continuous].logpdf(X, likelihood.mean(output), likelihood.noise_scale())
    np.testing.assert_allclose(-nll.numpy(), density.sum(1), rtol=1e-9)


def test_bernoulli_nll_is_that_of_scipy():
    X = rows_for(BernoulliLikelihood)
    X[:, CONSTANT] = 1.0
    likelihood, output = fitted(BernoulliLikelihood, X), outputs()
    expected = stats.bernoulli.logpmf(X.astype(int), expit(output.numpy())).sum(1)
    np.testing.assert_allclose(-likelihood.nll(torch.from_numpy(X), output).numpy(), expected, rtol=1e-9)


def test_nll_of_draws_has_an_axis_more(likelihood_class):
    X = rows_for(likelihood_class)
    likelihood = fitted(likelihood_class, X)
    target, draws = target_for(likelihood, X), torch.stack([outputs(seed=1), outputs(seed=2)], dim=1)
    nll = likelihood.nll(target.unsqueeze(1), draws)
    for k in range(2):
        torch.testing.assert_close(nll[:, k], likelihood.nll(target, draws[:, k]))


def test_units_move_the_nll_by_their_logarithm(continuous):
    X, units, origins = rows_for(continuous), np.array([1e3, 0.02, 1e5, 1.0, 3.0]), np.arange(5.0)
    before, after = fitted(continuous, X, "feature", MOMENTS), fitted(continuous, X * units + origins, "feature", MOMENTS)
    difference = after.nll(standardized(after, X * units + origins), outputs()) - before.nll(standardized(before, X), outputs())
    # The constant column takes the floor of a typical other one, which the units change too.
    floors = np.log(after.noise_scale()[CONSTANT] / before.noise_scale()[CONSTANT])
    np.testing.assert_allclose(difference.numpy(), np.log(units).sum() + floors, rtol=1e-6)


def test_single_precision_is_close(likelihood_class):
    X = rows_for(likelihood_class)
    narrow, wide = likelihood_class(N_FEATURES).fit(X), fitted(likelihood_class, X)
    nll = narrow.nll(narrow.standardize(X), outputs().float())
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll.double(), wide.nll(target_for(wide, X), outputs()), rtol=1e-4, atol=1e-4)


# -- standardization --------------------------------------------------------------------------------------------------


def test_standardized_columns(continuous):
    X = rows_for(continuous)
    likelihood = continuous(N_FEATURES).fit(X)
    x = likelihood.standardize(X)
    assert x.dtype == torch.float32
    varying = np.arange(N_FEATURES) != CONSTANT
    np.testing.assert_allclose(x.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(x.std(0, correction=0), varying, atol=1e-6)
    np.testing.assert_allclose(likelihood.mean(x), X, rtol=1e-5, atol=1e-5)


def test_large_offsets_keep_their_digits(continuous):
    X = np.array([[1e9], [1e9 + 1.0], [1e9 + 2.0]])
    np.testing.assert_allclose(continuous(1).fit(X).standardize(X).numpy()[:, 0], np.sqrt(1.5) * np.array([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize("tile", [1, 7, 16, 10**6])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_that_are_standardized_together_do_not_matter(continuous, dtype, tile, monkeypatch):
    X = rows_for(continuous).astype(dtype)
    X[3, 1] = np.nan
    X[7, 2], X[59, 4] = 1e30, -1e30
    likelihood = continuous(N_FEATURES).fit(rows_for(continuous))
    center, scale = likelihood.units.center, likelihood.units.scale
    expected = np.clip(((X.astype(np.float64) - center) * (1.0 / scale)).astype(np.float32), -MAX_STANDARDIZED, MAX_STANDARDIZED)
    monkeypatch.setattr(units, "_TILE_NUMBERS", tile)
    np.testing.assert_array_equal(likelihood.standardize(X).numpy(), expected)
    out = torch.full((N_ROWS + 2, 16), 8.0)[:, :N_FEATURES]
    likelihood.standardize(X, slice(1, None), out=out)
    np.testing.assert_array_equal(out[: N_ROWS - 1].numpy(), expected[1:])
    assert (out[N_ROWS - 1 :] == 8.0).all()


@pytest.mark.parametrize("container", [np.array, sparse.csr_array, sparse.csr_matrix], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, bool])
def test_rows_of_any_kind(likelihood_class, container, dtype):
    X = (rows_for(BernoulliLikelihood) > 0.5).astype(dtype)
    likelihood = likelihood_class(N_FEATURES).fit(container(X))
    expected = target_for(likelihood, X.astype(float)).float()
    torch.testing.assert_close(likelihood.standardize(container(X)), expected, rtol=0.0, atol=0.0)
    index = np.array([5, 2, 9])
    torch.testing.assert_close(likelihood.standardize(container(X), index), expected[index], rtol=0.0, atol=0.0)
    buffer = torch.full((8, N_FEATURES), -7.0)
    filled = likelihood.standardize(container(X), slice(10, 15), out=buffer)
    torch.testing.assert_close(filled, expected[10:15], rtol=0.0, atol=0.0)
    torch.testing.assert_close(buffer[:5], filled, rtol=0.0, atol=0.0)
    assert (buffer[5:] == -7.0).all()


@pytest.mark.parametrize("writeable", [True, False])
def test_X_is_left_alone(likelihood_class, writeable):
    X = rows_for(likelihood_class)
    before = X.copy()
    X.flags.writeable = writeable
    likelihood = likelihood_class(N_FEATURES).fit(X)
    likelihood.standardize(X).zero_()
    likelihood.deviance(X, outputs())
    likelihood.units.largest_entry(X)
    likelihood.check(X)
    np.testing.assert_array_equal(X, before)


def test_weights_are_repetitions(likelihood_class):
    X = rows_for(likelihood_class)
    repeats = np.random.default_rng(1).integers(1, 4, size=N_ROWS)
    weighted = fitted(likelihood_class, X, sample_weight=repeats.astype(float))
    repeated = fitted(likelihood_class, np.repeat(X, repeats, axis=0))
    for name in ("constant", "scale"):
        np.testing.assert_allclose(getattr(weighted.units, name), getattr(repeated.units, name), rtol=1e-9, atol=1e-12)


def test_largest_entry(continuous):
    X = rows_for(continuous)
    likelihood = fitted(continuous, X)
    X[17, 4] = likelihood.units.constant[4] - 1e6 * likelihood.units.scale[4]
    size, column = likelihood.units.largest_entry(X)
    assert size == pytest.approx(1e6)
    assert column == 4


# -- means, constants and draws ---------------------------------------------------------------------------------------


def test_mean_in_the_units_of_the_data(continuous):
    X = rows_for(continuous)
    likelihood, output = fitted(continuous, X), outputs()
    mean, varying = likelihood.mean(output), np.arange(N_FEATURES) != CONSTANT
    expected = X.mean(0) + X.std(0) * output.numpy()
    np.testing.assert_allclose(mean[:, varying], expected[:, varying], rtol=1e-9)


def test_mean_of_bernoulli_is_the_probability():
    mean, varying = fitted(BernoulliLikelihood).mean(outputs()), np.arange(N_FEATURES) != CONSTANT
    np.testing.assert_allclose(mean[:, varying], expit(outputs().numpy())[:, varying], rtol=1e-9)


def test_constants_are_reproduced_exactly(likelihood_class):
    likelihood = fitted(likelihood_class)
    for values in (likelihood.mean(outputs()), likelihood.draw(outputs(), torch.Generator().manual_seed(0))):
        np.testing.assert_array_equal(values[:, CONSTANT], 0.1 + 0.2)


def test_constants_are_hidden_from_the_encoder(likelihood_class):
    likelihood, x = fitted(likelihood_class), outputs()
    moved = x.clone()
    moved[:, CONSTANT] += 100.0
    torch.testing.assert_close(likelihood.network_input(moved), likelihood.network_input(x))
    moved[:, CONSTANT + 1] += 100.0
    assert not torch.allclose(likelihood.network_input(moved), likelihood.network_input(x))


def test_constants_are_not_trained_on(continuous):
    X = rows_for(continuous)
    likelihood, moved = fitted(continuous, X), X.copy()
    moved[:, CONSTANT] += 100.0
    distortion = likelihood.distortion(standardized(likelihood, X), outputs())
    torch.testing.assert_close(likelihood.distortion(standardized(likelihood, moved), outputs()), distortion)
    output = outputs().requires_grad_()
    (
        likelihood.distortion(standardized(likelihood, X), output) + likelihood.nll(standardized(likelihood, X), output)
    ).sum().backward()
    np.testing.assert_array_equal((output.grad != 0.0).any(0), np.arange(N_FEATURES) != CONSTANT)


def test_draws_follow_the_distribution(continuous):
    likelihood = fitted(continuous, moment=MOMENTS)
    output = outputs(1).expand(20_000, N_FEATURES)
    draws = likelihood.draw(output, torch.Generator().manual_seed(0))
    location, scale = likelihood.mean(output[:1])[0], likelihood.noise_scale()
    for j in set(range(N_FEATURES)) - {CONSTANT}:
        standard = (draws[:, j] - location[j]) / scale[j]
        assert stats.kstest(standard, DENSITIES[continuous].cdf).pvalue > 1e-3
        assert standard.mean() == pytest.approx(0.0, abs=0.05)
        assert standard.std() == pytest.approx(DENSITIES[continuous].std(), rel=0.03)


def test_draws_of_bernoulli():
    output = outputs(1).expand(20_000, N_FEATURES)
    draws, varying = fitted(BernoulliLikelihood).draw(output, torch.Generator().manual_seed(0)), np.arange(N_FEATURES) != CONSTANT
    assert set(np.unique(draws[:, varying])) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0)[varying], expit(output[0].numpy())[varying], atol=0.02)


def test_draws_repeat_with_their_generator(likelihood_class):
    likelihood = fitted(likelihood_class)
    state = torch.random.get_rng_state()
    first, second, third = (likelihood.draw(outputs(), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()
    assert torch.equal(torch.random.get_rng_state(), state)


# -- deviance ---------------------------------------------------------------------------------------------------------


def test_deviance_formula(continuous):
    X = rows_for(continuous)
    likelihood, output = fitted(continuous, X, moment=MOMENTS), outputs()
    z = (X - likelihood.mean(output)) / likelihood.noise_scale()
    expected = 0.5 * z**2 if continuous is GaussianLikelihood else np.abs(z)
    np.testing.assert_allclose(likelihood.deviance(X, output), expected, rtol=1e-9)


def test_deviance_formula_of_bernoulli():
    X = np.random.default_rng(0).random((N_ROWS, N_FEATURES))
    p = expit(outputs().numpy())
    expected = X * np.log(X / p) + (1.0 - X) * np.log((1.0 - X) / (1.0 - p))
    np.testing.assert_allclose(fitted(BernoulliLikelihood, X).deviance(X, outputs()), expected, rtol=1e-9, atol=1e-12)
    binary = (X > 0.5).astype(float)
    deviance = fitted(BernoulliLikelihood, binary).deviance(binary, outputs())
    np.testing.assert_allclose(deviance, -stats.bernoulli.logpmf(binary.astype(int), p), rtol=1e-9)


def test_errors_are_rows_beside_their_residuals(likelihood_class):
    X = rows_for(likelihood_class)
    likelihood, output = fitted(likelihood_class, X), outputs()
    x, error = np.hsplit(likelihood.errors(X, output), 2)
    np.testing.assert_allclose(x, target_for(likelihood, X).numpy(), rtol=1e-12)
    np.testing.assert_allclose(error, likelihood.residual(target_for(likelihood, X), output).numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(likelihood.rescale(torch.from_numpy(x)), X, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(likelihood.errors(sparse.csr_array(X), output), np.hstack([x, error]))
    assert np.abs(likelihood.errors(np.full_like(X, 1e200), output)).max() <= 1.1e15


def test_deviance_is_what_a_row_falls_short_of_the_best(likelihood_class):
    X = np.random.default_rng(0).random((N_ROWS, N_FEATURES))
    likelihood = fitted(likelihood_class, X)
    target = target_for(likelihood, X)
    best = torch.from_numpy(logit(X)) if likelihood_class is BernoulliLikelihood else target
    deviance = likelihood.deviance(X, outputs())
    assert deviance.min() > 0.0
    shortfall = likelihood.nll(target, outputs()) - likelihood.nll(target, best)
    np.testing.assert_allclose(deviance.sum(1), shortfall.numpy(), rtol=1e-9)
    assert (likelihood.deviance(X, best) >= 0.0).all()
    np.testing.assert_allclose(likelihood.deviance(X, best), 0.0, atol=1e-9)
    np.testing.assert_array_equal(likelihood.deviance(sparse.csr_array(X), outputs()), deviance)


# -- noise ------------------------------------------------------------------------------------------------------------


def energies(likelihood, X, output):
    """Mean energy of every column, in standardized units, by hand."""
    residual = (X - likelihood.mean(output)) / likelihood.units.scale
    return residual**2 if isinstance(likelihood, GaussianLikelihood) else np.abs(residual)


def scale_of(likelihood, moment):
    return likelihood.units.scale * (np.sqrt(moment) if isinstance(likelihood, GaussianLikelihood) else moment)


def update(likelihood, target, output, share, rate):
    likelihood.noise.update(rate, share @ likelihood.energies(target, output))


@pytest.mark.parametrize("weighted", [False, True])
def test_update_noise_goes_to_the_mean_energy(continuous, weighted):
    X, output = rows_for(continuous), outputs()
    likelihood = fitted(continuous, X)
    weight = np.random.default_rng(2).random(N_ROWS) if weighted else np.ones(N_ROWS)
    share = torch.from_numpy(weight / weight.sum())
    expected = scale_of(likelihood, share.numpy() @ energies(likelihood, X, output))
    varying = np.arange(N_FEATURES) != CONSTANT
    start = likelihood.noise_scale()

    update(likelihood, standardized(likelihood, X), output, share, 0.05)
    once = likelihood.noise_scale()
    assert ((once - start) * (expected - start) > 0.0)[varying].all()  # the right way, but not at once
    assert (np.abs(once - start) < 0.2 * np.abs(expected - start))[varying].all()

    for _ in range(300):
        update(likelihood, standardized(likelihood, X), output, share, 0.05)
    np.testing.assert_allclose(likelihood.noise_scale()[varying], expected[varying], rtol=1e-6)


def test_the_updated_noise_is_the_most_likely_one(continuous):
    X, output = rows_for(continuous), outputs()
    likelihood = fitted(continuous, X)
    target, share = standardized(likelihood, X), torch.full((N_ROWS,), 1.0 / N_ROWS, dtype=torch.float64)
    update(likelihood, target, output, share, 1.0)
    best, moment = likelihood.nll(target, output).mean().item(), likelihood.noise.moment.clone()
    for j in set(range(N_FEATURES)) - {CONSTANT}:
        for factor in (0.9, 1.1):
            changed = moment.clone()
            changed[j] *= factor
            likelihood.noise.set_moment(changed)
            assert likelihood.nll(target, output).mean().item() > best


def test_the_slope_in_the_weights_is_the_mean_energy(continuous):
    likelihood, output = fitted(continuous, moment=MOMENTS), outputs()
    target, share = standardized(likelihood, rows_for(continuous)), torch.full((N_ROWS,), 1.0 / N_ROWS, dtype=torch.float64)
    likelihood.weight.requires_grad_()
    likelihood.nll(target, output).backward(share)
    torch.testing.assert_close(likelihood.weight.grad, share @ likelihood.energies(target, output))


def test_columns_that_a_batch_has_not_keep_their_noise(continuous):
    likelihood = fitted(continuous, moment=MOMENTS)
    before, observed = likelihood.noise.moment.clone(), torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0], dtype=torch.float64)
    likelihood.noise.update(0.5, 3.0 * before * observed, observed)
    torch.testing.assert_close(likelihood.noise.moment, before + 0.5 * observed * 2.0 * before)
    likelihood.noise.update(0.5, torch.zeros_like(before), torch.zeros_like(before))
    torch.testing.assert_close(likelihood.noise.moment, before + 0.5 * observed * 2.0 * before)


@pytest.mark.parametrize("noise", ["auto", "feature", "shared"])
def test_floor(continuous, noise):
    X = rows_for(continuous)
    X[:, 0] = np.round(X[:, 0])
    likelihood = fitted(continuous, X, noise, torch.zeros(N_FEATURES))
    floor = ColumnStatistics.of(X, shared=noise == "shared").floor
    assert (floor > 0.0).all()
    np.testing.assert_allclose(likelihood.noise_scale() * DENSITIES[continuous].std(), floor, rtol=1e-9)
    above = likelihood.noise_scale() * 1.5
    likelihood.noise.set_moment(
        torch.from_numpy((above / likelihood.units.scale) ** (2 if continuous is GaussianLikelihood else 1))
    )
    if noise != "shared":
        np.testing.assert_allclose(likelihood.noise_scale(), above, rtol=1e-9)


def test_noise_starts_at_the_spread_of_the_data():
    X = rows_for(GaussianLikelihood)
    varying = np.arange(N_FEATURES) != CONSTANT
    np.testing.assert_allclose(fitted(GaussianLikelihood, X).noise_scale()[varying], X.std(0)[varying], rtol=1e-9)


@pytest.mark.parametrize("noise", [0.5, 1e-7, 3])
def test_fixed_noise(continuous, noise):
    likelihood = fitted(continuous, noise=noise)
    assert not likelihood.learns_noise
    np.testing.assert_allclose(likelihood.noise_scale(), noise, rtol=1e-9)
    likelihood.noise.start_training()
    likelihood.noise.blend(torch.ones(N_FEATURES, dtype=torch.float64), 0.5)
    np.testing.assert_allclose(likelihood.noise_scale(), noise, rtol=1e-9)


@pytest.mark.parametrize("noise", NOISE_MODES)
def test_who_learns_noise(continuous, noise):
    assert continuous(3, noise).learns_noise
    assert not BernoulliLikelihood(3, noise).learns_noise


def test_bernoulli_has_no_noise():
    np.testing.assert_array_equal(fitted(BernoulliLikelihood).noise_scale(), np.zeros(N_FEATURES))


# -- one noise for all columns ----------------------------------------------------------------------------------------


def is_one_number(values):
    return np.allclose(values, values[0], rtol=1e-9)


def test_shared_noise_is_one_number_in_the_units_of_the_data(continuous):
    X = rows_for(continuous)
    likelihood = fitted(continuous, X, "shared", MOMENTS)
    np.testing.assert_allclose(likelihood.noise_scale(), scale_of(likelihood, np.mean(MOMENTS)), rtol=1e-9)
    assert is_one_number(likelihood.noise_scale())
    output, share = outputs(), torch.full((N_ROWS,), 1.0 / N_ROWS, dtype=torch.float64)
    expected = scale_of(likelihood, energies(likelihood, X, output).mean())
    update(likelihood, standardized(likelihood, X), output, share, 1.0)
    np.testing.assert_allclose(likelihood.noise_scale(), expected, rtol=1e-9)


def test_auto_on_pixels_is_shared_in_training_and_fitted_per_column(continuous):
    X = load_digits().data
    likelihood = fitted(continuous, X)
    moment = torch.linspace(0.1, 2.0, 64, dtype=torch.float64)
    assert likelihood.noise.is_shared
    likelihood.noise.set_moment(moment)
    assert likelihood.noise_scale() == pytest.approx(scale_of(likelihood, moment.numpy()))
    likelihood.noise.start_training()
    np.testing.assert_allclose(likelihood.noise_scale(), scale_of(likelihood, moment.mean().item()), rtol=1e-9)

    share = torch.full((len(X),), 1.0 / len(X), dtype=torch.float64)
    output = torch.zeros(len(X), 64, dtype=torch.float64)
    expected = scale_of(likelihood, energies(likelihood, X, output).mean())
    update(likelihood, standardized(likelihood, X), output, share, 1.0)
    np.testing.assert_allclose(likelihood.noise_scale(), expected, rtol=1e-9)


@pytest.mark.parametrize("noise", ["auto", "feature"])
def test_tables_keep_one_noise_per_column_in_training(continuous, noise):
    likelihood = fitted(continuous, noise=noise, moment=MOMENTS)
    before = likelihood.noise_scale()
    likelihood.noise.start_training()
    np.testing.assert_array_equal(likelihood.noise_scale(), before)
    assert not likelihood.noise.is_shared


def test_feature_noise_on_pixels(continuous):
    likelihood = fitted(continuous, load_digits().data, "feature")
    assert not likelihood.units.is_shared
    assert not likelihood.noise.is_shared


# -- energies, slopes and curvatures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("residual", "variance"), [(0.0, 0.5), (1.3, 0.0), (1.0, 1.0), (-2.0, 0.3), (5.0, 1e-6)])
def test_expected_energy(continuous, residual, variance):
    likelihood = continuous(1)
    assert likelihood.expected_energy(torch.zeros(1), torch.zeros(1)).item() == pytest.approx(0.0, abs=1e-30)
    grid = np.linspace(-12.0, 12.0, 100_001)
    energy = torch.from_numpy(residual + np.sqrt(variance) * grid)
    energy = energy**2 if continuous is GaussianLikelihood else energy.abs()
    expected = np.trapezoid(energy.numpy() * stats.norm.pdf(grid), grid)
    found = likelihood.expected_energy(torch.tensor(residual, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_distortion_is_half_the_squared_error_in_standard_deviations():
    X = rows_for(GaussianLikelihood)
    X[:, 1] = np.arange(N_ROWS) == 7  # a column whose standardized unit is wider than its spread
    likelihood, output = fitted(GaussianLikelihood, X, moment=MOMENTS), outputs()
    varying = np.arange(N_FEATURES) != CONSTANT
    z = ((X - likelihood.mean(output))[:, varying]) / X.std(0)[varying]
    assert likelihood.units.scale[1] > 2.0 * X[:, 1].std()
    distortion = likelihood.distortion(standardized(likelihood, X), output).numpy()
    np.testing.assert_allclose(distortion, 0.5 * (z**2).sum(1), rtol=1e-9)


def test_distortion_of_laplace_is_the_absolute_error_in_standard_deviations():
    X = rows_for(LaplaceLikelihood)
    likelihood, output = fitted(LaplaceLikelihood, X, moment=MOMENTS), outputs()
    varying = np.arange(N_FEATURES) != CONSTANT
    z = ((X - likelihood.mean(output))[:, varying]) / X.std(0)[varying]
    distortion = likelihood.distortion(standardized(likelihood, X), output).numpy()
    np.testing.assert_allclose(distortion, np.abs(z).sum(1), rtol=1e-9)


def test_distortion_of_bernoulli_is_the_cross_entropy():
    X = rows_for(BernoulliLikelihood)
    likelihood = fitted(BernoulliLikelihood, X)
    torch.testing.assert_close(
        likelihood.distortion(torch.from_numpy(X), outputs()), likelihood.nll(torch.from_numpy(X), outputs())
    )


@pytest.mark.parametrize("cls", [GaussianLikelihood, BernoulliLikelihood])
def test_information_is_the_curvature_of_the_nll(cls):
    X = np.random.default_rng(0).random((1, N_FEATURES))
    likelihood = cls(N_FEATURES).double()
    if cls is GaussianLikelihood:
        likelihood.noise.set_moment(torch.tensor(MOMENTS, dtype=torch.float64))
    output = outputs(1)[0]
    curvature = torch.autograd.functional.hessian(lambda o: likelihood.nll(torch.from_numpy(X), o.unsqueeze(0)).sum(), output)
    torch.testing.assert_close(likelihood.information(output), curvature.diagonal())


def test_information_of_laplace_is_the_inverse_variance():
    likelihood = fitted(LaplaceLikelihood, moment=MOMENTS)
    variance = 2.0 * (likelihood.noise_scale() / likelihood.units.scale) ** 2
    np.testing.assert_allclose(likelihood.information(outputs()).numpy(), 1.0 / variance, rtol=1e-9)


def test_residual(likelihood_class):
    X = rows_for(likelihood_class)
    likelihood, varying = fitted(likelihood_class, X), np.arange(N_FEATURES) != CONSTANT
    residual = likelihood.residual(target_for(likelihood, X), outputs()).numpy()
    expected = (X - likelihood.mean(outputs())) / likelihood.units.scale
    np.testing.assert_allclose(residual[:, varying], expected[:, varying], rtol=1e-6)


# -- what it refuses and what it keeps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "mentions_pixels"),
    [
        (np.array([[0.0, 255.0], [3.0, 7.0]]), True),
        (np.array([[0.0, 1.5], [1.0, 1.0]]), True),
        (np.array([[-0.1, 0.5], [0.2, 1.0]]), False),
        (np.array([[0.0, 300.0], [3.0, 7.0]]), False),
        (sparse.csr_array(np.array([[0.0, 16.0], [3.0, 7.0]])), True),
    ],
    ids=["pixels", "above one", "negative", "above 255", "compressed"],
)
def test_bernoulli_refuses_what_is_not_a_probability(X, mentions_pixels):
    with pytest.raises(ValueError, match=rf"\[0, 1\], but X ranges from {X.min():g} to {X.max():g}") as caught:
        BernoulliLikelihood(2).check(X)
    assert ("divided by 255" in str(caught.value)) == mentions_pixels


@pytest.mark.parametrize(
    ("low", "high", "is_near"),
    [
        (0.0, 1.0 + 1e-9, True),
        (-1e-12, 1.0, True),
        (0.0, float(np.float32(1.0000001)), True),
        (-1e-9, 1.5, False),
        (0.0, 2.0, False),
        (-0.5, 0.9999999999, False),
    ],
)
def test_the_range_that_bernoulli_prints_is_outside_too(low, high, is_near):
    X = np.array([[low, 0.5], [0.2, high]])
    with pytest.raises(ValueError, match="but X ranges from") as caught:
        BernoulliLikelihood(2).check(X)
    printed = [float(value) for value in re.search(r"from (\S+) to (\S+)\.(?: |$)", str(caught.value)).groups()]
    assert (printed[0] < 0.0, printed[1] > 1.0) == (low < 0.0, high > 1.0)
    assert ("np.clip(X, 0, 1)" in str(caught.value)) == is_near
    if is_near:
        BernoulliLikelihood(2).check(np.clip(X, 0, 1))


def test_check_lets_pass_what_fits(likelihood_class):
    likelihood_class(2).check(np.array([[0.0, 1.0], [0.3, 0.5]]))
    GaussianLikelihood(2).check(np.array([[-1e9, 300.0]]))


@pytest.mark.parametrize("noise", ["auto", "shared", 0.7])
def test_state_dict_round_trip(likelihood_class, noise):
    X = rows_for(likelihood_class)
    original = fitted(likelihood_class, X, noise, MOMENTS if noise == "auto" else None)
    restored = likelihood_class(N_FEATURES, noise).double()
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    target = target_for(original, X)
    for name in ("nll", "distortion"):
        assert torch.equal(getattr(restored, name)(target, outputs()), getattr(original, name)(target, outputs()))
    for values in ("mean", "deviance"):
        arguments = (outputs(),) if values == "mean" else (X, outputs())
        np.testing.assert_array_equal(getattr(restored, values)(*arguments), getattr(original, values)(*arguments))
    np.testing.assert_array_equal(restored.noise_scale(), original.noise_scale())
    np.testing.assert_array_equal(restored.standardize(X), original.standardize(X))
    np.testing.assert_array_equal(restored.units.is_constant, original.units.is_constant)
    assert restored.units.is_shared == original.units.is_shared
    assert restored.noise.is_shared == original.noise.is_shared
