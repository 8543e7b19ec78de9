import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import vmap

from skvae.data.marginals import measure_columns
from skvae.modules import Batch, VAEModule
from skvae.modules.likelihoods import MixedLikelihood
from skvae.modules.likelihoods.scores import _normal_cell, _scaled_erfc

N = 600
COLUMNS = {
    "category": ("categorical", 3, "auto"),
    "order": ("ordinal", 4, "auto"),
    "whole": ("whole", 0, "auto"),
    "spiked whole": ("whole", 0, "auto"),
    "real": ("real", 0, "auto"),
    "spiked real": ("real", 0, "auto"),
    "few": ("whole", 0, "auto"),
    "poisson": ("whole", 0, "poisson"),
    "negative binomial": ("whole", 0, "negative_binomial"),
    "laplace": ("real", 0, "laplace"),
    "whole laplace": ("whole", 0, "laplace"),
    "whole gaussian": ("whole", 0, "gaussian"),
    "constant": ("real", 0, "auto"),
}
NAMES = list(COLUMNS)


def make_rows():
    rng = np.random.default_rng(0)
    heavy = np.exp(rng.normal(3.0, 1.0, N)).round()
    return np.column_stack(
        [
            rng.integers(0, 3, N),
            rng.integers(0, 4, N),
            rng.normal(50.0, 10.0, N).round(),
            np.where(rng.random(N) < 0.7, 0.0, heavy),
            rng.normal(size=N),
            np.where(rng.random(N) < 0.5, 0.0, rng.lognormal(size=N)),
            rng.poisson(3.0, N).clip(max=7),
            rng.poisson(40.0, N),
            rng.poisson(20.0, N) * rng.integers(1, 3, N),
            rng.laplace(0.0, 3.0, N),
            rng.normal(0.0, 3.0, N).round(),
            rng.normal(0.0, 3.0, N).round(),
            np.full(N, 2.5),
        ]
    ).astype(float)


X = make_rows()


def make(moment=0.4):
    kinds, n_levels, families = zip(*COLUMNS.values(), strict=True)
    likelihood = MixedLikelihood(len(NAMES), measure_columns(kinds, n_levels, X, None, dict(enumerate(families))))
    likelihood.noise.set_moment(torch.full((len(NAMES),), moment))
    return likelihood


def output_of(likelihood, n=1, scale=0.7, seed=0):
    return scale * torch.randn(n, likelihood.n_outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nats(likelihood, output, column, values):
    rows = np.tile(X[:1], (len(values), 1))
    rows[:, column] = values
    with torch.no_grad():
        return likelihood.energies(likelihood._exact(rows), output.expand(len(rows), -1))[:, column].numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("moment", [0.02, 0.4])
def test_probabilities_of_all_entries_add_up_to_one(name, moment):
    likelihood, column = make(moment), NAMES.index(name)
    output, (kind, n_levels, family) = output_of(likelihood), COLUMNS[name]
    low, high = X[:, column].min(), X[:, column].max()
    levels = likelihood.choices.value[likelihood.choices.column == column].double().numpy()
    levels = (levels * likelihood.units.scale[column] + likelihood.units.center[column]).round(6)
    if n_levels or name in ("few", "constant"):
        total = np.exp(-nats(likelihood, output, column, np.arange(n_levels) if n_levels else levels)).sum()
    elif kind == "whole":
        first = 0.0 if family in ("poisson", "negative_binomial") else low - 20.0 * (high - low)
        total = np.exp(-nats(likelihood, output, column, np.arange(first, high + 20.0 * (high - low)))).sum()
    else:
        at = np.concatenate([[low - 200.0], np.linspace(low - 20.0, high + 20.0, 30_001), [high + 200.0]])
        density = np.exp(-nats(likelihood, output, column, at))
        density[np.isin(at, levels)] = 0.0
        total = np.trapezoid(density, at) + np.exp(-nats(likelihood, output, column, levels)).sum()
    assert total == pytest.approx(1.0, abs=2e-3)


def test_slopes_are_those_of_the_energies():
    likelihood = make()
    x, output = likelihood._exact(X[:60]), output_of(likelihood, 60, 1.5).requires_grad_()
    (slope,) = torch.autograd.grad(likelihood.energies(x, output).sum(), output)
    step = 1e-5
    for j in range(likelihood.n_outputs):
        change = torch.zeros_like(output)
        change[:, j] = step
        with torch.no_grad():
            found = (likelihood.energies(x, output + change) - likelihood.energies(x, output - change)).sum(1) / (2.0 * step)
        torch.testing.assert_close(slope[:, j], found, rtol=1e-5, atol=1e-6)


def test_several_modules_at_once_have_the_same_slopes():
    likelihood = make()
    x, output = likelihood.standardize(X[:40]), output_of(likelihood, 40).float()
    alone = output.clone().requires_grad_()
    likelihood.energies(x, alone).sum().backward()
    together = output.view(2, 20, -1).clone().requires_grad_()
    vmap(likelihood.energies)(x.view(2, 20, -1), together).sum().backward()
    assert alone.grad.abs().max() > 0.1
    torch.testing.assert_close(together.grad.view(40, -1), alone.grad, rtol=1e-4, atol=1e-5)


def test_facts_change_nothing():
    likelihood = make()
    x, output = likelihood.standardize(X[:40]), output_of(likelihood, 40).float()
    for mine, other in zip(likelihood.terms(x, output), likelihood.terms(x, output, facts=likelihood.facts(x)), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.0, atol=0.0)
    torch.testing.assert_close(likelihood.network_input(x), likelihood.network_input(x, likelihood.facts(x)), rtol=0.0, atol=0.0)


def test_facts_tell_what_is_missing():
    likelihood = make()
    given = X[:40].copy()
    given[np.random.default_rng(1).random(given.shape) < 0.5] = np.nan
    x, observed = likelihood.fill(likelihood.standardize(given))
    facts = likelihood.facts(x)
    torch.testing.assert_close(likelihood.network_input(x, facts), likelihood.read(x), rtol=0.0, atol=0.0)
    output = output_of(likelihood, 40).float()
    for mine, other in zip(likelihood.terms(x, output, observed), likelihood.terms(x, output, observed, facts), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.0, atol=0.0)


def test_many_rows_are_read_as_few_are():
    likelihood = make()
    x = likelihood.standardize(np.tile(X, (2, 1)))
    for function in (likelihood.read, likelihood.response):
        found = torch.cat([function(x[:100]), function(x[100:600]), function(x[600:])])
        torch.testing.assert_close(function(x), found, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("family", ["gaussian", "laplace"])
@pytest.mark.parametrize("moment", [1e-4, 0.1, 3.0])
def test_densities_are_the_same_beside_whole_numbers(family, moment):
    x = np.column_stack([X[:, NAMES.index("real")], X[:, NAMES.index("whole")]])
    found = []
    for n in (1, 2):
        likelihood = MixedLikelihood(n, measure_columns(("real", "whole")[:n], (0,) * n, x[:, :n], None, {0: family}))
        likelihood.noise.set_moment(torch.full((n,), moment))
        assert likelihood.scores.has_cells == (n == 2)
        target = likelihood._exact(x[:50, :n])
        output = torch.linspace(-3.0, 3.0, 50, dtype=torch.float64).unsqueeze(1).repeat(1, n).requires_grad_()
        terms = likelihood.terms(target, output)
        (slope,) = torch.autograd.grad(terms.energy.sum(), output)
        found.append([each.detach()[:, 0] for each in (terms.energy, terms.learnable, slope)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("std", [0.01, 1.0])
def test_single_precision_does_for_cells(std):
    mean, half = torch.meshgrid(torch.linspace(-12.0, 12.0, 41), torch.logspace(-5.0, 1.0, 25), indexing="ij")
    variance = torch.tensor(std**2)
    exact = _normal_cell((std * mean).double(), (std * half).double(), variance.double())
    for mine, other in zip(_normal_cell(std * mean, std * half, variance), exact, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=2e-2, atol=2e-3 * float(other.abs().median()))
    x = torch.linspace(-6.0, 100.0, 500)
    torch.testing.assert_close(_scaled_erfc(x), torch.special.erfcx(x.double()).float(), rtol=2e-5, atol=0.0)


@pytest.mark.parametrize("far", [0.0, 3.0, 12.0, 50.0, 300.0])
@pytest.mark.parametrize("width", [1e-8, 1e-3, 0.2, 5.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_probabilities_of_cells_far_out(far, width, sign):
    ends = sorted([sign * far, sign * (far + width)])
    cell = (torch.tensor([each], dtype=torch.float64) for each in (-sum(ends) / 2.0, width / 2.0))
    found = _normal_cell(*cell, torch.ones(1, dtype=torch.float64))
    near, distant = -far, -far - width
    if far < 30.0:
        expected = stats.norm.logcdf(near) + np.log(-np.expm1(stats.norm.logcdf(distant) - stats.norm.logcdf(near)))
    else:
        reach = far * width + 0.5 * width**2
        expected = stats.norm.logpdf(far) - np.log(far) + np.log(-np.expm1(-reach))
    assert found.nats.item() == pytest.approx(-expected, rel=1e-4, abs=1e-4 if width > 1e-5 else 1e-2)
    if far:
        assert found.slope.item() == pytest.approx(-sign * far, rel=0.6 if width > 1.0 or far < 5.0 else 0.05)
        assert found.moment.item() > 0.0


@torch.no_grad()
def test_draws_have_the_probabilities_and_the_means():
    likelihood = make()
    output = output_of(likelihood).float()
    drawn = likelihood.draw(output.expand(40_000, -1), torch.Generator().manual_seed(0))
    for name in ("category", "order"):
        column = NAMES.index(name)
        share = np.bincount(drawn[:, column].round().astype(int), minlength=COLUMNS[name][1]) / len(drawn)
        np.testing.assert_allclose(share, np.exp(-nats(likelihood, output.double(), column, np.arange(len(share)))), atol=0.01)
    mean, variance = likelihood.mixture_moments(output.unsqueeze(0))
    mean, spread = likelihood.rescale(mean)[0], variance.sqrt()[0].double().numpy() * likelihood.units.scale
    average = likelihood.rescale(likelihood.average(output.unsqueeze(0), torch.ones(1, 1)))[0]
    numbers = [j for j, name in enumerate(NAMES) if name not in ("category", "order")]
    error = drawn.std(0) / math.sqrt(len(drawn))
    np.testing.assert_allclose(average[numbers], mean[numbers], rtol=1e-5, atol=1e-5)
    assert (np.abs(drawn.mean(0) - mean)[numbers] <= 6.0 * error[numbers] + 0.01 * spread[numbers]).all()
    np.testing.assert_allclose(drawn.std(0)[numbers], spread[numbers], rtol=0.1)


def test_draws_are_entries():
    likelihood = make()
    drawn = likelihood.draw(output_of(likelihood, 500).float(), torch.Generator().manual_seed(0))
    for j, (kind, n_levels, _) in enumerate(COLUMNS.values()):
        if kind != "real":
            np.testing.assert_allclose(drawn[:, j], drawn[:, j].round(), atol=1e-3)
        if n_levels:
            assert set(drawn[:, j].round()) <= set(range(n_levels))
    assert (drawn[:, NAMES.index("constant")] == 2.5).all()
    assert (np.abs(drawn[:, NAMES.index("spiked real")]) < 1e-6).any()


def test_missing_entries_say_nothing():
    likelihood = make()
    given = X[:20].copy()
    given[np.random.default_rng(1).random(given.shape) < 0.5] = np.nan
    x, observed = likelihood.fill(likelihood.standardize(given))
    read = likelihood.read(x)
    assert read.isfinite().all()
    assert (read[~likelihood.spread(observed)] == 0.0).all()
    output = output_of(likelihood, 20).float().requires_grad_()
    terms = likelihood.terms(x, output, observed)
    assert (terms.energy[~observed] == 0.0).all()
    terms.energy.sum().backward()
    assert (output.grad[~likelihood.spread(observed)] == 0.0).all()
    full = likelihood.energies(likelihood.standardize(X[:20]), output)
    torch.testing.assert_close(terms.energy[observed], full[observed])
    assert (likelihood.deviance(given, output.detach())[~observed.numpy()] == 0.0).all()


def test_numbers_that_are_no_levels_have_a_thousandth_of_their_probability():
    likelihood, column = make(), NAMES.index("few")
    levels = np.unique(X[:, column])
    others = np.setdiff1d(np.arange(levels[0] - 2000, levels[-1] + 2001), levels)
    rows = np.repeat(X[:1], len(levels) + len(others), axis=0)
    rows[:, column] = np.concatenate([levels, others])
    found = likelihood.strangeness(likelihood._exact(rows)).numpy()
    assert (np.delete(found, column, axis=1) == 0.0).all()
    assert (found[: len(levels)] == 0.0).all()
    output = output_of(likelihood, 1)
    probability = np.exp(-nats(likelihood, output, column, rows[:, column]) - found[:, column])
    of_levels, of_others = probability[: len(levels)].sum(), probability[len(levels) :].sum()
    assert of_levels == pytest.approx(1.0)
    assert 0.0 < of_others <= 1e-3
    rows[:, column] = np.nan
    assert (likelihood.strangeness(likelihood._exact(rows)) == 0.0).all()


def test_rows_come_back_from_what_compares():
    likelihood = make()
    found = likelihood.from_comparable(torch.from_numpy(likelihood.comparable_rows(X[:100])))
    near = np.abs(found - X[:100]) < 1e-3
    inside = likelihood.scores.score(likelihood._exact(X[:100])[:, likelihood.scores.columns]).abs() < 8.0
    assert near[inside.all(1).numpy()].all()


def test_deviances_are_zero_at_the_best():
    likelihood = make()
    output = output_of(likelihood, 100)
    found = likelihood.deviance(X[:100], output)
    assert (found >= -1e-9).all()
    column = NAMES.index("category")
    best = nats(likelihood, output[:1], column, np.arange(3)).min()
    assert found[0, column] == pytest.approx(nats(likelihood, output[:1], column, X[:1, column])[0] - best)


def test_log_probabilities_add_up_over_columns():
    likelihood = make()
    output = output_of(likelihood, 30)
    energy = likelihood.energies(likelihood._exact(X[:30]), output)
    np.testing.assert_allclose(likelihood.log_prob(X[:30], output), -energy.sum(1).detach().numpy())


@pytest.mark.parametrize("gaps", [False, True])
def test_the_score_of_a_small_model_is_the_integral_over_its_code(gaps):
    kinds, n_levels, families = zip(*COLUMNS.values(), strict=True)
    marginals = measure_columns(kinds, n_levels, X, None, dict(enumerate(families)))
    module = VAEModule(len(NAMES), 1, marginals=marginals, encoder=None, hidden_layer_sizes=()).double().eval()
    decoder = module.decoder[0] if isinstance(module.decoder, nn.Sequential) else module.decoder
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.encoder.parameters():  # which makes the prior the proposal
            parameter.zero_()
        for parameter in decoder.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    likelihood, rows = module.likelihood, X[:4].copy()
    likelihood.noise.set_moment(torch.full((len(NAMES),), 0.5))
    observed = None
    x = likelihood._exact(rows)
    if gaps:
        observed = torch.rand(x.shape, generator=generator) < 0.5
        x = torch.where(observed, x, likelihood.absent())
    z = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64).unsqueeze(1)
    with torch.no_grad():
        output = module.decode(z, Batch.of_codes(z))
        at = None if observed is None else observed.unsqueeze(1)
        energy = likelihood.energies(x.unsqueeze(1), output.unsqueeze(0), at).sum(-1)
        exact = torch.logsumexp(-energy - 0.5 * z[:, 0].square(), 1) - 0.5 * math.log(2.0 * math.pi) + math.log(16.0 / 4000)
        # As evenly spread as draws can be.
        noise = torch.from_numpy(stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)).view(1, -1, 1).expand(len(rows), -1, -1)
        found = module.log_prob(Batch.of(x, observed=observed, noise={"posterior": noise}))
    torch.testing.assert_close(found, exact, rtol=0.0, atol=0.005)


def test_counts_are_checked():
    likelihood = make()
    wrong = X[:3].copy()
    wrong[1, NAMES.index("poisson")] = 2.5
    with pytest.raises(ValueError, match=r"column 'visits' is one of counts.* has 2\.5; choose 'gaussian'"):
        likelihood.check(wrong, lambda j: "visits")
