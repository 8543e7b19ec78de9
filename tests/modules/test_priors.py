"""One contract of all priors of real-valued codes, against torch.distributions: a new one inherits it from the list."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from torch import distributions

from skvae.modules import (
    MLP,
    PRIORS,
    ActivityPatterns,
    ConditionalNormal,
    FittedGaussian,
    Flow,
    NormalMixture,
    PosteriorMixture,
    Prior,
    StandardNormal,
    resolve_prior,
)
from skvae.modules.posterior import DiagonalNormal
from skvae.modules.priors import FittedPrior, Mixture, NormalPrior

N_ROWS, N_COMPONENTS, N_CONDITIONS, N_DRAWS = 3, 2, 4, 20_000
MEAN, ROOT = np.array([1.0, -0.5]), np.array([[1.2, 0.0], [0.7, 0.4]])
MEANS, LOG_VARS = torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.0]]), torch.tensor([[-1.0, 0.0], [-0.5, -1.0], [0.3, -0.2]])
WEIGHT = torch.tensor([0.5, 0.2, 0.3])
RATE, STD = np.array([0.3, 0.6]), np.array([0.5, 1.2])

pytestmark = pytest.mark.usefixtures("one_core")


# -- the list, and what each prior is in other words ------------------------------------------------------------------


class Case:
    """A prior, and the same distribution by torch.

    Parameters
    ----------
    new : callable
        Make a prior that has seen no data.
    fit : callable or None
        Fit it.
    reference : callable
        Distribution of the codes of a row, from the prior and the row's condition, ``(n_conditions,)``, for every pattern of
        activity that it has: pairs of which components are not zero, with its log-probability and the distribution of those.
    reads_condition : bool
    """

    def __init__(self, new, reference, fit=None, reads_condition=False):
        self.new, self.reference, self.fit, self.reads_condition = new, reference, fit, reads_condition

    def make(self, seed=0, fitted=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            prior = self.new().double()
        if fitted and self.fit is not None:
            self.fit(prior)
        return prior


ALL = torch.ones(N_COMPONENTS, dtype=torch.bool)


def normal(mean, std):
    return distributions.Independent(distributions.Normal(mean, std), 1)


def on_a_grid(function, reference, width=12.0, size=201):
    """Integrate a function of codes ``(n, n_components)`` under a distribution of them."""
    axis = torch.linspace(-width, width, size, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * N_COMPONENTS)
    return (reference.log_prob(z).exp() * function(z)).sum() * (axis[1] - axis[0]) ** N_COMPONENTS


def entropy_of(reference):
    """Entropy of a distribution, by quadrature where torch has no formula."""
    try:
        return reference.entropy()
    except NotImplementedError:
        return -on_a_grid(reference.log_prob, reference)


def divergence_of(own, reference):
    """Divergence of two distributions, by quadrature where torch has no formula."""
    try:
        return distributions.kl_divergence(own, reference)
    except NotImplementedError:
        return on_a_grid(lambda z: own.log_prob(z) - reference.log_prob(z), own)


def standard_reference(prior, condition):
    return [(ALL, 0.0, normal(torch.zeros(N_COMPONENTS).double(), torch.ones(N_COMPONENTS).double()))]


def conditional_reference(prior, condition):
    mean, log_var = prior.network(condition).detach().chunk(2)
    return [(ALL, 0.0, normal(mean, torch.exp(0.5 * log_var)))]


def gaussian_reference(prior, condition):
    return [(ALL, 0.0, distributions.MultivariateNormal(torch.from_numpy(MEAN), torch.from_numpy(ROOT @ ROOT.T)))]


def patterns_reference(prior, condition):
    found = []
    for pattern in itertools.product([False, True], repeat=N_COMPONENTS):
        on = torch.tensor(pattern)
        share = float(np.log(np.where(pattern, RATE, 1.0 - RATE)).sum())
        found.append((on, share, normal(torch.from_numpy(MEAN)[on], torch.from_numpy(STD)[on])))
    return found


def mixture(mean=MEANS, log_var=LOG_VARS, weight=WEIGHT):
    prior = NormalMixture(mean.shape[1], len(mean))
    with torch.no_grad():
        prior.logit.copy_(weight.log())
        prior.mean.copy_(mean)
        prior.log_excess.copy_(log_var)
    return prior


class Encoder:
    """Stands for a module: what it makes of rows of three entries."""

    @staticmethod
    def posterior_of_inputs(inputs):
        return DiagonalNormal(1.5 * torch.tanh(inputs[:, :N_COMPONENTS]), torch.tanh(inputs[:, 1:]) - 0.5)


def posteriors(n_parts=4):
    prior = PosteriorMixture(N_COMPONENTS, n_parts)
    prior.attach(Encoder, 3)
    return prior


def flow(base):
    prior = Flow(base, 4, (5,))
    with torch.no_grad():
        for parameter in prior.layers.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return prior


class Mixed(distributions.MixtureSameFamily):
    """Mixture with the covariances that torch leaves out."""

    @property
    def covariance_matrix(self):
        parts, share = self.component_distribution, self.mixture_distribution.probs
        within = (share.unsqueeze(1) * parts.variance).sum(0)
        apart = parts.mean - self.mean
        return torch.diag(within) + (share.unsqueeze(1) * apart).mT @ apart


class Turned:
    """What a map makes of a distribution, by the Jacobian that autograd finds and by quadrature."""

    def __init__(self, base, to_base):
        self.base, self.to_base = base, to_base

    def log_prob(self, z):
        rows = z.reshape(-1, N_COMPONENTS)
        with torch.no_grad():
            slopes = torch.func.vmap(torch.func.jacrev(lambda row: self.to_base(row.unsqueeze(0))[0][0]))(rows)
            found = self.base.log_prob(self.to_base(rows)[0]) + torch.linalg.slogdet(slopes).logabsdet
        return found.view(z.shape[:-1])

    @functools.cached_property
    def mean(self):
        return torch.stack([on_a_grid(lambda z, i=i: z[:, i], self) for i in range(N_COMPONENTS)])

    @functools.cached_property
    def covariance_matrix(self):
        entries = itertools.product(range(N_COMPONENTS), repeat=2)
        second = torch.stack([on_a_grid(lambda z, i=i, j=j: z[:, i] * z[:, j], self) for i, j in entries])
        return second.view(N_COMPONENTS, N_COMPONENTS) - self.mean.outer(self.mean)

    def entropy(self):
        raise NotImplementedError


def mixture_reference(prior, condition):
    log_weight, mean, log_var = (part.detach() for part in prior.components())
    return [(ALL, 0.0, Mixed(distributions.Categorical(log_weight.exp()), normal(mean, torch.exp(0.5 * log_var))))]


@functools.lru_cache(maxsize=1)
def flow_reference(prior, condition):
    ((_, _, base),) = mixture_reference(prior.base, condition)
    return [(ALL, 0.0, Turned(base, prior.to_base))]


CASES = {
    NormalMixture: Case(lambda: mixture(MEANS + 0.1 * torch.randn(3, 2)), mixture_reference),
    PosteriorMixture: Case(posteriors, mixture_reference),
    Flow: Case(lambda: flow(mixture()), flow_reference),
    StandardNormal: Case(lambda: StandardNormal(N_COMPONENTS), standard_reference),
    ConditionalNormal: Case(
        lambda: ConditionalNormal(N_COMPONENTS, N_CONDITIONS, (5,), activation="tanh"),
        conditional_reference,
        reads_condition=True,
    ),
    FittedGaussian: Case(lambda: FittedGaussian(N_COMPONENTS), gaussian_reference, lambda prior: prior.fit(MEAN, ROOT @ ROOT.T)),
    ActivityPatterns: Case(
        lambda: ActivityPatterns(N_COMPONENTS), patterns_reference, lambda prior: prior.fit(RATE, MEAN, STD, N_COMPONENTS)
    ),
}


@pytest.fixture(params=CASES.values(), ids=[cls.__name__ for cls in CASES])
def case(request):
    return request.param


@pytest.fixture
def prior(case):
    return case.make()


@pytest.fixture
def condition(case):
    return conditions() if case.reads_condition else None


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def conditions(seed=9):
    return 2.0 * randn(N_ROWS, N_CONDITIONS, seed=seed)


def draws(prior, condition, n_draws=N_DRAWS, seed=1):
    with torch.no_grad():
        return prior.from_noise(randn(N_ROWS, n_draws, prior.n_noise, seed=seed), condition)


def row(condition, i):
    return None if condition is None else condition[i]


def posterior():
    return DiagonalNormal(0.5 * randn(N_ROWS, N_COMPONENTS, seed=3), 0.3 * randn(N_ROWS, N_COMPONENTS, seed=4) - 0.5)


def assert_mean(values, expected, deviations=5.0):
    """Compare means over draws ``(n, n_draws)`` with what they should be, within their own error."""
    error = values.std(1) / values.shape[1] ** 0.5
    assert ((values.mean(1) - expected).abs() <= deviations * error + 1e-12).all()


def test_every_prior_of_real_valued_codes_is_listed():
    def children(cls):
        return {cls}.union(*map(children, cls.__subclasses__()))

    own = {cls for cls in children(Prior) if cls.__module__.startswith("skvae.")}
    assert own - {Prior, FittedPrior, Mixture, NormalPrior} == set(CASES)


@pytest.mark.parametrize("name", PRIORS)
def test_names_stand_for_specifications(name):
    spec = resolve_prior(name)
    assert type(spec) is PRIORS[name]
    assert spec.name == name
    assert resolve_prior(spec) is spec
    spec.check()
    prior = spec.build(N_COMPONENTS, n_conditions=N_CONDITIONS, hidden=MLP((3,), "tanh"))
    assert type(prior) in CASES
    assert prior.n_components == N_COMPONENTS
    assert CASES[type(prior)].reads_condition == spec.needs_condition


# -- the density ------------------------------------------------------------------------------------------------------


def test_the_density_is_that_of_torch(case, prior, condition):
    for i in range(N_ROWS):
        for on, share, reference in case.reference(prior, row(condition, i)):
            z = torch.zeros(N_ROWS, 6, N_COMPONENTS, dtype=torch.float64)
            z[..., on] = randn(N_ROWS, 6, int(on.sum()), seed=i)
            with torch.no_grad():
                torch.testing.assert_close(prior.log_prob(z, condition)[i], share + reference.log_prob(z[i][..., on]))


def test_the_density_integrates_to_one(case, prior, condition):
    grid = torch.linspace(-10.0, 10.0, 401, dtype=torch.float64) + 1e-4  # never zero
    step = (grid[1] - grid[0]).item()
    mass = torch.zeros(N_ROWS, dtype=torch.float64)
    for on, share, _ in case.reference(prior, row(condition, 0)):
        axes = [grid if free else torch.zeros(1, dtype=torch.float64) for free in on]
        z = torch.cartesian_prod(*axes).expand(N_ROWS, -1, -1)
        with torch.no_grad():
            part = prior.log_prob(z, condition).exp().sum(1) * step ** int(on.sum())
        torch.testing.assert_close(part, torch.full_like(part, np.exp(share)), rtol=1e-3, atol=0.0)
        mass += part
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-3, atol=0.0)


def test_codes_alone_and_draws_have_the_same_density(prior, condition):
    z = draws(prior, condition, 6)
    density = prior.log_prob(z, condition)
    assert density.shape == (N_ROWS, 6)
    for k in range(6):
        one = prior.log_prob(z[:, k], condition)
        assert one.shape == (N_ROWS,)
        torch.testing.assert_close(one, density[:, k])


def test_the_density_has_the_slope_that_it_states(prior, condition):
    z = draws(prior, condition, 2)
    z = torch.where(z == 0.0, 0.3, z).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: prior.log_prob(z, condition), z)


def test_codes_far_away_have_finite_densities():
    for case in CASES.values():
        prior = case.make().float()
        condition = 1e12 * conditions().float() if case.reads_condition else None
        assert torch.isfinite(prior.log_prob(torch.full((N_ROWS, N_COMPONENTS), 1e6), condition)).all()


# -- draws ------------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_draws(prior, condition):
    mean, log_var = prior.moments(N_ROWS, condition)
    z = draws(prior, condition)
    assert mean.shape == log_var.shape == (N_ROWS, N_COMPONENTS)
    exact = type(prior).moments is not Prior.moments
    torch.testing.assert_close(mean, z.mean(1), rtol=0.0, atol=(0.03 if exact else 0.2) * z.std().item())
    torch.testing.assert_close(log_var, z.var(1).log(), rtol=0.0, atol=0.05 if exact else 0.3)
    again = prior.moments(N_ROWS, condition)
    assert torch.equal(again.mean, mean)


def test_rare_draws_are_finite_in_single_precision(case, condition):
    prior = case.make().float()
    given = None if condition is None else condition.float()
    with torch.no_grad():
        z = [prior.from_noise(torch.full((N_ROWS, prior.n_noise), value), given) for value in (-8.0, 8.0)]
    assert all(torch.isfinite(part).all() for part in z)
    assert not torch.equal(*z)


def test_draws_have_the_shapes_of_their_noise(prior, condition):
    noise = randn(N_ROWS, 5, prior.n_noise)
    z = prior.from_noise(noise, condition)
    assert z.shape == (N_ROWS, 5, N_COMPONENTS)
    for k in range(5):
        one = prior.from_noise(noise[:, k], condition)
        assert one.shape == (N_ROWS, N_COMPONENTS)
        torch.testing.assert_close(one, z[:, k])


def test_draws_have_the_moments_of_the_density(case, prior, condition):
    z = draws(prior, condition)
    for i in range(N_ROWS):
        mean, second = torch.zeros(N_COMPONENTS).double(), torch.zeros(N_COMPONENTS, N_COMPONENTS).double()
        for on, share, reference in case.reference(prior, row(condition, i)):
            own = torch.zeros(N_COMPONENTS).double()
            own[on] = reference.mean
            spread = torch.zeros(N_COMPONENTS, N_COMPONENTS).double()
            whole = getattr(reference, "covariance_matrix", None)
            spread[on.nonzero(), on.nonzero().T] = torch.diag(reference.variance) if whole is None else whole
            mean += np.exp(share) * own
            second += np.exp(share) * (spread + own.outer(own))
        assert_mean(z[i].T, mean)
        products = (z[i].unsqueeze(2) * z[i].unsqueeze(1)).flatten(1)
        assert_mean(products.T, second.flatten())


def test_draws_are_as_dense_as_the_density_says(case, prior, condition):
    # The mean of the log-density is the negative entropy.
    log_prob = prior.log_prob(draws(prior, condition), condition).detach()
    for i in range(N_ROWS):
        found = case.reference(prior, row(condition, i))
        entropy = sum(np.exp(share) * (entropy_of(reference) - share) for _, share, reference in found)
        assert_mean(log_prob[i : i + 1], -entropy)


def test_draws_lie_in_every_pattern_as_often_as_the_density_says(case, prior, condition):
    active = draws(prior, condition) != 0.0
    for on, share, _ in case.reference(prior, row(condition, 0)):
        frequency = (active == on).all(-1).double().mean(1)
        torch.testing.assert_close(frequency, torch.full_like(frequency, np.exp(share)), rtol=0.0, atol=0.02)


def test_draws_repeat_with_their_noise(prior, condition):
    state = torch.random.get_rng_state()
    assert torch.equal(draws(prior, condition, 5), draws(prior, condition, 5))
    assert not torch.equal(draws(prior, condition, 5, seed=2), draws(prior, condition, 5))
    assert torch.equal(torch.random.get_rng_state(), state)


# -- divergence of posteriors -----------------------------------------------------------------------------------------


def test_the_divergence_is_the_mean_over_draws(prior, condition):
    q = posterior()
    z = q.from_noise(randn(N_ROWS, N_DRAWS, N_COMPONENTS, seed=5))
    with torch.no_grad():
        ratio = q.log_prob(z) - prior.log_prob(z, condition)
        assert_mean(ratio, prior.kl(q, z, condition))
        torch.testing.assert_close(Prior.kl(prior, q, z, condition), -q.entropy() - prior.log_prob(z, condition).mean(1))


def test_entropy_is_that_of_torch():
    q = posterior()
    expected = normal(q.mean, torch.exp(0.5 * q.log_var)).entropy()
    torch.testing.assert_close(q.entropy(), expected)


def test_the_divergence_is_that_of_torch(case, prior, condition):
    q = posterior()
    z = q.from_noise(randn(N_ROWS, N_DRAWS, N_COMPONENTS, seed=5))
    with torch.no_grad():
        found = prior.kl(q, z, condition)
        spread = (q.log_prob(z) - prior.log_prob(z, condition)).std(1) / N_DRAWS**0.5
    for i in range(N_ROWS):
        (share, reference), *others = [
            (share, reference) for on, share, reference in case.reference(prior, row(condition, i)) if on.all()
        ]
        assert not others
        own = normal(q.mean[i], torch.exp(0.5 * q.log_var[i]))
        if isinstance(reference, distributions.MultivariateNormal):
            own = distributions.MultivariateNormal(q.mean[i], torch.diag(q.log_var[i].exp()))
        expected = divergence_of(own, reference) - share  # posteriors never are exactly zero
        is_exact = type(prior).kl is not Prior.kl and not isinstance(prior, Mixture)
        tolerance = 1e-9 if is_exact else 5.0 * spread[i]
        assert (found[i] - expected).abs() <= tolerance


def test_divergences_take_draws_with_and_without_their_axis(prior, condition):
    q = posterior()
    z = q.from_noise(randn(N_ROWS, 1, N_COMPONENTS, seed=5))
    assert prior.kl(q, z, condition).shape == (N_ROWS,)
    torch.testing.assert_close(prior.kl(q, z[:, 0], condition), prior.kl(q, z, condition))


def test_divergences_by_component(prior, condition):
    q = posterior()
    z = q.from_noise(randn(N_ROWS, 1, N_COMPONENTS, seed=5))
    parts = prior.component_kl(q, condition)
    assert parts.shape == (N_ROWS, N_COMPONENTS)
    assert (parts > -1e-12).all()
    knows_better = type(prior).component_kl is not Prior.component_kl
    if knows_better:
        torch.testing.assert_close(parts.sum(1), prior.kl(q, z, condition))
    if isinstance(prior, NormalPrior):
        own = prior.moments(N_ROWS, condition)
        assert own.mean.shape == own.log_var.shape == (N_ROWS, N_COMPONENTS)
        assert prior.component_kl(own, condition).abs().max() < 1e-12
    if knows_better:
        return
    # By default each is compared with a normal distribution of the mean and the variance that it has over all rows.
    variance = q.log_var.exp()
    altogether = distributions.Normal(q.mean.mean(0), (variance.mean(0) + q.mean.var(0, correction=0)).sqrt())
    expected = distributions.kl_divergence(distributions.Normal(q.mean, variance.sqrt()), altogether)
    torch.testing.assert_close(parts, expected)


# -- conditions -------------------------------------------------------------------------------------------------------


def test_conditions_count_for_those_who_read_them_alone(case, prior):
    first, second = conditions(), conditions(seed=10)
    z, noise, q = randn(N_ROWS, 4, N_COMPONENTS), randn(N_ROWS, 4, prior.n_noise, seed=1), posterior()
    for function in (
        lambda condition: prior.log_prob(z, condition),
        lambda condition: prior.from_noise(noise, condition),
        lambda condition: prior.kl(q, z, condition),
        lambda condition: prior.component_kl(q, condition),
    ):
        assert torch.equal(function(first), function(second)) is not case.reads_condition
        if not case.reads_condition:
            assert torch.equal(function(None), function(first))


def test_rows_are_alone_with_their_conditions(prior, condition):
    z, noise, q = randn(N_ROWS, 4, N_COMPONENTS), randn(N_ROWS, 4, prior.n_noise, seed=1), posterior()
    some, given = slice(1, 3), None if condition is None else condition[1:3]
    torch.testing.assert_close(prior.log_prob(z[some], given), prior.log_prob(z, condition)[some])
    torch.testing.assert_close(prior.from_noise(noise[some], given), prior.from_noise(noise, condition)[some])
    part = DiagonalNormal(*(moment[some] for moment in q))
    torch.testing.assert_close(prior.kl(part, z[some], given), prior.kl(q, z, condition)[some])


# -- what it keeps ----------------------------------------------------------------------------------------------------


def test_state_dict_round_trip(case, prior, condition):
    other = case.make(seed=1, fitted=False)
    z, noise = draws(prior, condition, 4), randn(N_ROWS, 4, prior.n_noise, seed=1)
    if prior.state_dict():
        assert not torch.equal(other.log_prob(z, condition), prior.log_prob(z, condition))
    other.load_state_dict(copy.deepcopy(prior.state_dict()))
    assert torch.equal(other.log_prob(z, condition), prior.log_prob(z, condition))
    assert torch.equal(other.from_noise(noise, condition), prior.from_noise(noise, condition))
    if isinstance(prior, FittedPrior):
        assert torch.equal(other.secant, prior.secant)
        assert other.most_free == prior.most_free


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_moves(prior, condition, dtype):
    double = copy.deepcopy(prior)
    prior.to(dtype)
    given = None if condition is None else condition.to(dtype)
    q, z, noise = posterior(), randn(N_ROWS, 4, N_COMPONENTS), randn(N_ROWS, 4, prior.n_noise, seed=1)
    narrow = DiagonalNormal(*(moment.to(dtype) for moment in q))
    for ours, theirs in (
        (prior.log_prob(z.to(dtype), given), double.log_prob(z, condition)),
        (prior.from_noise(noise.to(dtype), given), double.from_noise(noise, condition)),
        (prior.kl(narrow, z.to(dtype), given), double.kl(q, z, condition)),
        (prior.component_kl(narrow, given), double.component_kl(q, condition)),
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def move(device, prior, condition):
    prior = prior.to(device)
    given = None if condition is None else condition.to(device)
    q = DiagonalNormal(*(moment.to(device) for moment in posterior()))
    z, noise = (randn(N_ROWS, 4, size).to(device) for size in (N_COMPONENTS, prior.n_noise))
    yield prior.log_prob(z, given)
    yield prior.from_noise(noise, given)
    yield prior.kl(q, z, given)
    yield prior.component_kl(q, given)
    yield from prior.moments(N_ROWS, given)


def test_everything_moves_to_another_device(prior, condition):
    assert all(value.device.type == "meta" for value in move("meta", prior, condition))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_results_on_a_gpu_are_those_of_the_cpu(prior, condition):
    expected = list(move("cpu", copy.deepcopy(prior), condition))
    for ours, theirs in zip(move("cuda", prior, condition), expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs)


def test_gradients_reach_every_parameter(prior, condition):
    q = posterior()
    mean = q.mean.clone().requires_grad_()
    prior.kl(DiagonalNormal(mean, q.log_var), mean + 0.1, condition).sum().backward()
    assert mean.grad.abs().sum() > 0.0
    assert all(parameter.grad.abs().sum() > 0.0 for parameter in prior.parameters())


# -- what posteriors ask of fitted priors -----------------------------------------------------------------------------


@pytest.fixture(params=[cls for cls in CASES if issubclass(cls, FittedPrior)], ids=lambda cls: cls.__name__)
def fitted(request):
    return CASES[request.param].make()


def test_free_entries_have_the_curvature_of_the_density(fitted):
    code = randn(N_ROWS, N_COMPONENTS, seed=2)
    free = fitted.free(code)
    assert free.positions.shape == free.active.shape == (N_ROWS, fitted.most_free)
    assert free.active.all()
    for i in range(N_ROWS):
        order = free.positions[i]
        hessian = torch.autograd.functional.hessian(lambda z: fitted.log_prob(z.unsqueeze(0)).sum(), code[i])
        slope = torch.autograd.functional.jacobian(lambda z: fitted.log_prob(z.unsqueeze(0)).sum(), code[i])
        precision = free.precision if free.precision.dim() == 2 else free.precision[i]
        mean = free.mean if free.mean.dim() == 1 else free.mean[i]
        torch.testing.assert_close(precision, -hessian[order][:, order])
        torch.testing.assert_close(precision @ (mean - code[i, order]), slope[order])


def test_zeros_are_not_free_where_units_are_active_or_not():
    prior = CASES[ActivityPatterns].make()
    code = torch.tensor([[0.0, 2.0], [0.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    assert prior.free(code).active.sum(1).tolist() == [1, 0, 2]
    prior.fit(RATE, MEAN, STD, 1)
    assert prior.most_free == 1
    free = prior.free(code)
    assert free.positions[[0, 2]].flatten().tolist() == [1, 0]  # the largest
    assert free.active.flatten().tolist() == [True, False, True]


def test_secants_are_a_tenth_of_the_spread():
    torch.testing.assert_close(CASES[FittedGaussian].make().secant, torch.from_numpy(0.1 * np.linalg.norm(ROOT, axis=1)))
    torch.testing.assert_close(CASES[ActivityPatterns].make().secant, torch.from_numpy(0.1 * STD))


def test_priors_that_are_not_fitted_yet_are_standard():
    z = randn(4, N_COMPONENTS)
    expected = StandardNormal(N_COMPONENTS).double().log_prob(z)
    torch.testing.assert_close(CASES[FittedGaussian].make(fitted=False).log_prob(z), expected)
    half = N_COMPONENTS * np.log(0.5)
    torch.testing.assert_close(CASES[ActivityPatterns].make(fitted=False).log_prob(z), expected + half)
