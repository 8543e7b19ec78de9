import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from skvae import functional as fn
from skvae.modules import LIKELIHOODS, PENALTIES, ActivityPatterns, AutoEncoderModule, Batch, Conv, Net, SparseModule

N_ROWS, N_FEATURES, N_COMPONENTS = 12, 5, 8
DEAD = 100  # steps without activity


pytestmark = pytest.mark.usefixtures("one_core")


def build(penalty, n_features=N_FEATURES, n_components=N_COMPONENTS, cls=SparseModule, **params):
    params = {"hidden_layer_sizes": (), **params}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(n_features, n_components, **({"penalty": penalty} if penalty else {}), **params).double()


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(x, weight=None):
    return Batch.of(x) if weight is None else Batch(x, x, weight)


def decode(module, z):
    return module.decode(z, Batch.of_codes(z))


def loss_of(module, x, k=1, weight=None):
    """Loss of rows of which a tensor says how many units are kept, as in training."""
    return module.loss(batch_of(x, weight), {"k": torch.tensor(float(k))})


def last_loss(module, x):
    return loss_of(module, x, module.schedule(1.0)["k"])


def total(terms):
    return sum(term.mean() for term in terms.values())


# -- the code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "n_components"), [(0.5, 40), (1.0, 40), (0.25, 10)])
@pytest.mark.parametrize("penalty", ["top_k", "batch_top_k"])
def test_k_falls_from_four_times_its_end(penalty, fraction, n_components):
    module = build(penalty, n_components=n_components, k=5, k_annealing=fraction)
    start = min(n_components, 20)
    assert module.warmup == fraction
    assert module.schedule(0.0)["k"] == start
    assert module.schedule(0.5 * fraction)["k"] == pytest.approx(0.5 * (start + 5), abs=0.5)
    values = [module.schedule(progress)["k"] for progress in np.linspace(0.0, 1.0, 101)]
    assert values == sorted(values, reverse=True)
    assert all(value == round(value) for value in values)
    assert all(module.schedule(progress)["k"] == 5 for progress in (fraction, 1.0))


def test_k_stays_without_annealing():
    assert build("top_k", k=2, k_annealing=0.0).schedule(0.0) == {"k": 2}
    assert build("top_k", k=2, k_annealing=0.0).warmup == 0.0
    # Nothing falls where no units are selected: early stopping has nothing to wait for.
    assert build("kl").warmup == build("l1").warmup == 0.0


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, 2), (1.5, 3), (2.6, 5), (100.0, N_COMPONENTS)])
def test_top_k_code_has_k_units_in_use(alpha, expected):
    module = build("top_k", k=2, alpha=alpha)
    assert module.k_in_use == expected
    assert ((module.encode(batch_of(randn(50, N_FEATURES))) != 0.0).sum(1) == expected).all()


@pytest.mark.parametrize(("penalty", "k"), [("top_k", 1), ("top_k", 3), ("batch_top_k", 1), ("batch_top_k", 3)])
def test_training_keeps_as_many_as_the_schedule_says(penalty, k):
    module = build(penalty, k=1, alpha=4.0)
    x = randn(50, N_FEATURES)
    selected = (fn.keep_largest if penalty == "top_k" else fn.keep_largest_of_batch)(module.preactivate(batch_of(x)), k, k)
    terms = loss_of(module, x, k).terms
    assert list(terms) == ["reconstruction"]
    torch.testing.assert_close(terms["reconstruction"], module.likelihood.distortion(x, decode(module, selected)))


def test_batch_top_k_in_use_does_not_see_the_neighbors():
    module = build("batch_top_k", k=2)
    module.threshold.fill_(0.4)
    x = randn(50, N_FEATURES)
    code, response = module.encode(batch_of(x)), module.preactivate(batch_of(x))
    torch.testing.assert_close(code, torch.where(response > 0.4, response, 0.0))
    torch.testing.assert_close(module.encode(batch_of(x[7:9])), code[7:9])
    assert (code != 0.0).sum(1).unique().numel() > 2


def test_sigmoid_units_begin_at_the_target():
    for target in (0.01, 0.05, 0.3):
        module = build("kl", target_activation=target, n_components=200)
        code = module.encode(batch_of(randn(200, N_FEATURES)))
        assert ((code > 0.0) & (code < 1.0)).all()
        assert code.mean().item() == pytest.approx(target, rel=0.3)


@pytest.mark.parametrize(("target", "expected"), [(0.05, 0.1), (0.2, 0.4), (0.5, 0.75), (0.9, 0.95)])
def test_level_above_which_a_sigmoid_unit_is_active(target, expected):
    assert build("kl", target_activation=target).active_above == pytest.approx(expected)


# -- penalties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_terms(penalty, likelihood):
    x = randn(N_ROWS, N_FEATURES)
    x = {"bernoulli": torch.sigmoid(x), "poisson": x.exp().round()}.get(likelihood, x)
    for weight in (0.0, 0.1):
        module = build(penalty, k=2, likelihood=likelihood, sparsity_weight=0.7, revival_weight=weight)
        terms = last_loss(module, x).terms
        expected = ["reconstruction"] + ["sparsity"] * (penalty in ("kl", "l1")) + ["revival"] * (weight > 0.0)
        assert list(terms) == expected
        half = last_loss(build(penalty, k=2, likelihood=likelihood, sparsity_weight=0.35), x).terms
        if "sparsity" in terms:
            torch.testing.assert_close(terms["sparsity"], 2.0 * half["sparsity"])
        torch.testing.assert_close(terms["reconstruction"], half["reconstruction"])
        assert not last_loss(module, x).learned.keys() - {"active", "activity"}


def test_kl_of_the_first_batch_is_that_of_its_mean():
    module = build("kl", sparsity_weight=2.0)
    x, weight = randn(N_ROWS, N_FEATURES), torch.linspace(0.5, 1.5, N_ROWS, dtype=torch.float64)
    mean = (weight @ module.encode(batch_of(x))) / weight.sum()
    value = loss_of(module, x, weight=weight).terms["sparsity"]
    torch.testing.assert_close(value, 2.0 * fn.bernoulli_kl(0.05, mean).sum())


@pytest.mark.parametrize("size", [4, 64])
def test_the_running_mean_tracks_all_rows(size):
    module = build("kl", target_activation=0.3)
    x = 2.0 * randn(2048, N_FEATURES)
    mean = module.encode(batch_of(x)).mean(0)
    apart = []
    for part in x.split(size):
        module.after_step(loss_of(module, part).learned)
        apart.append((module.encode(batch_of(part)).mean(0) - mean).abs().mean())
    error = (module.activity - mean).abs().max().item()
    assert error < 0.03
    assert size == 64 or error < 0.3 * torch.stack(apart).mean()


def test_kl_has_the_value_of_the_running_mean_and_its_gradient():
    module = build("kl", sparsity_weight=1.5)
    for seed in range(3):
        module.after_step(loss_of(module, randn(N_ROWS, N_FEATURES, seed=seed)).learned)
    before, x = module.activity.clone(), 3.0 * randn(N_ROWS, N_FEATURES, seed=7)
    code = module.encode(batch_of(x))
    mean = code.mean(0)
    rate = N_ROWS / (N_ROWS + 1024)
    running = (before + rate * (mean - before)).detach().requires_grad_()
    at_running = 1.5 * fn.bernoulli_kl(0.05, running).sum()
    terms, learned = loss_of(module, x)
    term = terms["sparsity"]
    torch.testing.assert_close(term, at_running)
    assert torch.equal(module.activity, before)  # until the step is taken
    (slope,) = torch.autograd.grad(at_running, running)
    (expected,) = torch.autograd.grad(mean, module.encoder[0].weight, slope)
    (gradient,) = torch.autograd.grad(term, module.encoder[0].weight)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0.0
    module.after_step(learned)
    torch.testing.assert_close(module.activity, running.detach())


@pytest.mark.parametrize("hidden", [(), (6,)])
def test_l1_cannot_be_had_by_scaling(hidden):
    module = build("l1", sparsity_weight=0.7, hidden_layer_sizes=hidden, activation="tanh")
    x = randn(N_ROWS, N_FEATURES)
    before = loss_of(module, x).terms
    factor = torch.linspace(0.1, 7.0, N_COMPONENTS, dtype=torch.float64)
    with torch.no_grad():
        module.encoder[-1].weight.mul_(factor[:, None])
        module.encoder[-1].bias.mul_(factor)
        module.decoder[0].weight.div_(factor)
    after = loss_of(module, x).terms
    for name in ("reconstruction", "sparsity"):
        torch.testing.assert_close(after[name], before[name])
    assert before["sparsity"].shape == (N_ROWS,)
    norms = module.decoder[0].weight.norm(dim=0)
    torch.testing.assert_close(after["sparsity"], 0.7 * torch.relu(module.preactivate(batch_of(x))) @ norms)


class Decoder(nn.Module):
    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.layer = nn.Linear(n_inputs, n_outputs)

    def forward(self, z):
        return self.layer(z)


@pytest.mark.parametrize(
    "params",
    [
        {"decoder": "tied"},
        {"decoder": Net(Decoder)},
        {"image_shape": (1, 4, 4), "encoder": Conv((3,))},
        {"image_shape": (1, 4, 4), "encoder": Conv((3,)), "hidden_layer_sizes": (6,)},
    ],
    ids=str,
)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_other_networks(penalty, params):
    module = build(penalty, n_features=16, k=2, revival_weight=0.1, **params)
    module.idle.fill_(DEAD)
    terms = last_loss(module, randn(N_ROWS, 16)).terms
    total(terms).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())
    assert terms.get("sparsity", torch.ones(1)).min() >= 0.0


@pytest.mark.parametrize("penalty", PENALTIES)
def test_loss_is_pure(penalty):
    module = build(penalty, k=2, revival_weight=0.5)
    module.after_step(loss_of(module, randn(N_ROWS, N_FEATURES, seed=3)).learned)
    module.idle[:3] = DEAD
    x, before = randn(N_ROWS, N_FEATURES), pickle.dumps(module)
    first, second = loss_of(module, x, 2), loss_of(module, x, 2)
    torch.testing.assert_close(first._asdict(), second._asdict(), rtol=0.0, atol=0.0)
    assert not any(value.requires_grad for value in first.learned.values())
    assert pickle.dumps(module) == before


@pytest.mark.parametrize("penalty", PENALTIES)
def test_losses_of_several_runs_at_once(penalty):
    module = build(penalty, k=1, revival_weight=0.5)
    module.idle[:3] = DEAD
    batch, ks = batch_of(randn(N_ROWS, N_FEATURES)), torch.tensor([1.0, 4.0, 2.0])
    together = torch.func.vmap(lambda k: module.loss(batch, {"k": k}))(ks)
    for i, k in enumerate(ks):
        for ours, theirs in zip(together, module.loss(batch, {"k": k}), strict=True):
            torch.testing.assert_close({name: value[i] for name, value in ours.items()}, theirs)


# -- revival ----------------------------------------------------------------------------------------------------------


def silence(module, units):
    """Make units that are never chosen."""
    with torch.no_grad():
        module.encoder[-1].bias[units] -= 30.0


@pytest.mark.parametrize("penalty", PENALTIES)
def test_nothing_is_revived_while_nothing_is_dead(penalty):
    module = build(penalty, k=2, revival_weight=0.5)
    silence(module, [0, 3])
    x = randn(N_ROWS, N_FEATURES)
    module.idle.fill_(DEAD - 1)
    terms = last_loss(module, x).terms
    assert (terms["revival"] == 0.0).all()
    terms["revival"].sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in module.parameters())
    torch.testing.assert_close(terms["reconstruction"], loss_of(build_silent(penalty), x, 2).terms["reconstruction"])


def build_silent(penalty):
    module = build(penalty, k=2)
    silence(module, [0, 3])
    return module


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_dead_units_alone_are_revived(penalty, k):
    module = build(penalty, k=k, revival_weight=0.5)
    dead = [0, 3]
    silence(module, dead)
    module.idle[dead] = DEAD
    x = randn(N_ROWS, N_FEATURES)
    terms = last_loss(module, x).terms
    assert terms["revival"].shape == (N_ROWS,)
    assert (terms["revival"] > 0.0).all()
    terms["revival"].sum().backward()
    rows, columns = module.encoder[0].weight.grad.abs().sum(1), module.decoder[0].weight.grad.abs().sum(0)
    for gradient in (rows, columns):
        assert set(gradient.nonzero().flatten().tolist()) <= set(dead)
        assert k == 1 or (penalty == "kl") or (gradient[dead] > 0.0).all()
        assert gradient[dead].max() > 0.0
    assert not module.decoder[0].bias.grad.any()


def test_revival_is_the_error_in_what_the_others_leave():
    """Each row teaches its four largest dead units for every one that is kept."""
    module = build("top_k", k=1, revival_weight=0.5)
    dead = [0, 1, 2, 4, 5, 6]
    module.idle[dead] = DEAD
    x = randn(N_ROWS, N_FEATURES)
    response = module.preactivate(batch_of(x))
    left = x - decode(module, fn.keep_largest(response, 1, 1))
    reached = torch.full_like(response, -torch.inf)
    reached[:, dead] = response[:, dead]
    guess = torch.zeros_like(x)
    for rank in range(4):
        unit = reached.argsort(dim=1, descending=True)[:, rank]
        guess = guess + response.gather(1, unit[:, None]) * module.decoder[0].weight.T[unit]
    terms = loss_of(module, x).terms
    torch.testing.assert_close(terms["revival"], 0.5 * fn.squared_error(left, guess))


@pytest.mark.parametrize("penalty", ["top_k", "batch_top_k", "l1", "kl"])
def test_idle_steps_are_counted(penalty):
    module = build(penalty, k=3)
    silence(module, [1, 6])
    with torch.no_grad():
        module.encoder[-1].bias[2] += 30.0
    for step in range(1, 4):
        learned = loss_of(module, randn(N_ROWS, N_FEATURES, seed=step), 3).learned
        assert module.idle[1].item() == step - 1  # until the step is taken
        module.after_step(learned)
        assert module.idle[[1, 6, 2]].tolist() == [step, step, 0]
    with torch.no_grad():
        module.encoder[-1].bias[1] += 60.0
    module.after_step(loss_of(module, randn(N_ROWS, N_FEATURES), 3).learned)
    assert module.idle[[1, 6, 2]].tolist() == [0, 4, 0]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_what_is_remembered_is_saved(penalty):
    module = build(penalty, k=2, revival_weight=0.1)
    for seed in range(2):
        module.after_step(loss_of(module, randn(N_ROWS, N_FEATURES, seed=seed), 2).learned)
    module.threshold.fill_(0.3)
    other = build(penalty, k=2, revival_weight=0.1)
    other.load_state_dict(module.state_dict())
    x = randn(N_ROWS, N_FEATURES, seed=9)
    torch.testing.assert_close(other.encode(batch_of(x)), module.encode(batch_of(x)))
    torch.testing.assert_close(loss_of(other, x, 2)._asdict(), loss_of(module, x, 2)._asdict())
    assert torch.equal(other.idle, module.idle)


# -- the generative model behind the score ----------------------------------------------------------------------------

RATE, MEAN, STD = np.array([0.3, 0.6, 0.8]), np.array([1.0, -0.5, 2.0]), np.array([0.5, 1.2, 0.2])


def patterns(n):
    return [np.array(pattern, dtype=bool) for pattern in itertools.product([False, True], repeat=n)]


def test_units_that_can_be_zero_have_a_prior_of_patterns():
    assert [type(build(penalty).prior) is ActivityPatterns for penalty in PENALTIES] == [p != "kl" for p in PENALTIES]


def test_sigmoid_units_keep_one_gaussian():
    module, plain = build("kl", n_components=3), build(None, n_components=3, cls=AutoEncoderModule)
    root = np.random.default_rng(0).normal(size=(3, 3))
    for model in (module, plain):
        model.prior.fit(MEAN, root @ root.T + 0.1 * np.eye(3))
    z = randn(4, 6, 3)
    torch.testing.assert_close(module.prior.log_prob(z), plain.prior.log_prob(z))
    torch.testing.assert_close(module.prior.secant, plain.prior.secant)


def linear_model(penalty, n_units, noise, n_free=None, k=2):
    """Return a module with a linear decoder and Gaussian noise, rows drawn from it and their exact joint densities.

    The densities are of a row together with each pattern of activity.
    """
    module = build(penalty, n_features=6, n_components=n_units, k=k)
    rng = np.random.default_rng(1)
    loadings, bias = rng.normal(size=(6, n_units)), rng.normal(size=6)
    variance = noise**2 * np.linspace(0.5, 1.5, 6)
    rate, mean, std = RATE[:n_units], np.abs(MEAN[:n_units]) + 1.0, STD[:n_units]
    with torch.no_grad():
        module.decoder[0].weight.copy_(torch.from_numpy(loadings))
        module.decoder[0].bias.copy_(torch.from_numpy(bias))
        # Least squares finds the code again, but for the noise, which must not pass for activity.
        inverse = np.linalg.pinv(loadings)
        module.encoder[0].weight.copy_(torch.from_numpy(inverse))
        module.encoder[0].bias.copy_(torch.from_numpy(-inverse @ bias - (0.3 if penalty == "l1" else 0.0)))
    module.likelihood.noise.set_moment(torch.from_numpy(variance))
    module.prior.fit(rate, mean, std, n_units if n_free is None else n_free)
    module.threshold.fill_(0.3)
    active = rng.random((40, n_units)) < rate
    codes = np.where(active, mean + std * rng.normal(size=active.shape), 0.0)
    X = codes @ loadings.T + bias + np.sqrt(variance) * rng.normal(size=(40, 6))

    def log_joint(pattern):
        share = np.log(np.where(pattern, rate, 1.0 - rate)).sum()
        spread = (loadings * np.where(pattern, std, 0.0) ** 2) @ loadings.T + np.diag(variance)
        return share + stats.multivariate_normal(bias + loadings @ np.where(pattern, mean, 0.0), spread).logpdf(X)

    joint = {tuple(pattern): log_joint(pattern) for pattern in patterns(n_units)}
    return module, torch.from_numpy(X), joint


def score(module, x, n_draws=20):
    noise = {"posterior": randn(len(x), n_draws, module.n_components, seed=5)}
    with torch.no_grad():
        return module.importance_draws(Batch.of(x, noise=noise)).log_weights


@pytest.mark.parametrize("penalty", ["top_k", "l1", "batch_top_k"])
@pytest.mark.parametrize("n_units", [2, 3])
@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_score_is_a_lower_bound_of_the_exact_likelihood(penalty, n_units, noise):
    module, x, joint = linear_model(penalty, n_units, noise)
    weights = score(module, x)
    with torch.no_grad():
        pattern = (module.encode(batch_of(x)) != 0.0).numpy()
    # Given the encoder's pattern the proposal is the posterior: no draw differs in weight.
    expected = np.array([joint[tuple(row)][i] for i, row in enumerate(pattern)])
    np.testing.assert_allclose(weights.numpy(), np.tile(expected[:, None], weights.shape[1]), rtol=1e-4, atol=1e-2)
    exact = np.logaddexp.reduce(list(joint.values()))
    estimate = (weights.logsumexp(1) - math.log(weights.shape[1])).numpy()
    assert (estimate < exact + 1e-2).all()
    if penalty != "top_k" and noise == 0.05:  # the encoder finds the patterns
        assert len(np.unique(pattern, axis=0)) > 2
        assert np.mean(exact - estimate < 0.05) > 0.7


def test_score_with_fewer_free_entries_is_lower_still():
    module, x, joint = linear_model("l1", 3, 0.3)
    full = score(module, x, 4).logsumexp(1)
    module.prior.n_free.fill_(1)
    less = score(module, x, 4).logsumexp(1)
    exact = torch.from_numpy(np.logaddexp.reduce(list(joint.values()))) + math.log(4)
    assert (less < exact + 1e-2).all()
    assert less.mean() < full.mean()
    alone = (module.encode(batch_of(x)) != 0.0).sum(1) <= 1
    torch.testing.assert_close(less[alone], full[alone], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("penalty", ["top_k", "l1", "batch_top_k"])
def test_proposals_keep_the_pattern(penalty):
    module, x, _ = linear_model(penalty, 3, 0.3)
    with torch.no_grad():
        batch = Batch.of(x, noise={"posterior": randn(len(x), 7, 3)})
        code = module.encode(batch)
        z, log_q = module.propose(batch)
    assert torch.equal(z != 0.0, (code != 0.0).unsqueeze(1).expand(z.shape))
    nothing = (code == 0.0).all(1)
    assert (log_q[nothing] == 0.0).all()
    assert torch.isfinite(log_q).all()


@pytest.mark.parametrize(("penalty", "n_features"), [("top_k", 6), ("l1", 2), ("batch_top_k", 6)])
def test_noise_is_recovered(penalty, n_features):
    # Rows of the model; also fewer columns than units.
    module = build(penalty, n_features=n_features, n_components=3, k=2, hidden_layer_sizes=())
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(n_features, 3)) if n_features > 2 else np.array([[1.0, -1.0, 0.5], [1.0, 1.0, 0.0]])
    sizes = np.linspace(0.1, 0.3, n_features)
    active = np.argsort(rng.random((4000, 3)), axis=1) < 2
    codes = np.where(active, 3.0 + 0.5 * rng.normal(size=active.shape), 0.0)
    X = codes @ loadings.T + sizes * rng.normal(size=(4000, n_features))
    module.prior.fit(np.full(3, 2 / 3), np.full(3, 3.0), np.full(3, 0.5), 2)
    with torch.no_grad():
        module.decoder[0].weight.copy_(torch.from_numpy(loadings))
        module.decoder[0].bias.zero_()
    module.encode = lambda batch: torch.from_numpy(codes[: len(batch.x)])  # an encoder that knows
    module.fit_noise(Batch.of(torch.from_numpy(X), noise={"posterior": torch.zeros(4000, 3, dtype=torch.float64)}))
    np.testing.assert_allclose(module.likelihood.noise_scale(), sizes, rtol=0.1)


def test_results_of_sigmoids_depend_on_threads():
    assert build("kl").depends_on_threads
    assert not build("l1").depends_on_threads
    assert build("l1", hidden_layer_sizes=(4,), activation="gelu").depends_on_threads
