import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal, kl_divergence

from skvae.modules import Batch, Gaussian, Recurrent, TDVAEModule
from skvae.modules.tdvae import BentLinear, lengths
from skvae.training.step import ScheduleTensors

pytestmark = pytest.mark.usefixtures("one_core")

N_FEATURES, N_COMPONENTS, LENGTH, MAX_GAP = 2, 3, 7, 4


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(*, spread=0.0, **params):
    """A module in double precision, whose weights are drawn where they have a spread."""
    base = {"n_timesteps": LENGTH, "max_gap": MAX_GAP, "n_latents": 2, "n_pairs": 5, "hidden_layer_sizes": (6,), "encoder": "gru"}
    module = TDVAEModule(N_FEATURES, N_COMPONENTS, **{**base, **params}).double()
    if spread:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=spread)
    if module.likelihood.has_noise:
        module.likelihood.noise.set_moment(torch.tensor([0.5, 2.0]))
    return module


def sequences(n=4, length=LENGTH):
    """Frames, some of which lie behind the end of their sequence."""
    x = torch.randn(n, length, N_FEATURES, dtype=torch.float64)
    for i, end in enumerate(length - torch.arange(n) % 3):
        x[i, end:] = math.nan
    return x


def batch_of(module, x):
    noise = {name: torch.randn(len(x), *shape, dtype=x.dtype) for name, shape in module.noise_shapes.items()}
    return Batch.of(x, noise=noise)


def terms_of(module, batch):
    return module.loss(batch, SCHEDULE).terms


SCHEDULE = {"beta": torch.tensor(0.7), "auxiliary": torch.tensor(0.4)}
STRUCTURES = [
    {"encoder": Recurrent(cell, n_layers=n_recurrent), "n_latent_layers": n_layers, "hidden_layer_sizes": sizes}
    for cell, n_layers, n_recurrent, sizes in [
        ("gru", 1, 1, (6,)),
        ("lstm", 2, 1, ()),
        ("lstm", 1, 2, (6,)),
        ("gru", 3, 1, (6, 5)),
    ]
]


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", STRUCTURES, ids=str)
def test_reading_goes_on_where_it_was_left(params):
    module, x = build(spread=0.5, **params), sequences().nan_to_num(0.3)
    whole, end = module.read(x)
    first, memory = module.read(x[:, :3])
    second, last = module.read(x[:, 3:], memory)
    assert whole.shape == (4, LENGTH, N_COMPONENTS)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    assert [part.shape for part in last] == module.memory_shapes(4)
    assert len(last) == (1 if params["encoder"].cell == "gru" else 2)
    torch.testing.assert_close(last, end)
    torch.testing.assert_close(last[0][-1], whole[:, -1])


def test_encode_stops_where_a_sequence_does():
    module, x = build(spread=0.5), sequences()
    assert lengths(x).tolist() == [7, 6, 5, 7]
    codes = module.encode(Batch.of(x))
    for i, length in enumerate(lengths(x)):
        torch.testing.assert_close(codes[i], module.read(x[i : i + 1, :length])[0][0, -1])


def test_columns_that_were_constant_are_not_read():
    module, x = build(spread=0.5), sequences()
    module.likelihood.fit(np.column_stack([np.arange(9.0), np.full(9, 3.0)]))
    moved = x.clone()
    moved[..., 1] += 5.0
    torch.testing.assert_close(module.encode(Batch.of(moved)), module.encode(Batch.of(x)))


# -- the objective, written again with torch.distributions, one pair of steps after the other -------------------------


def normal(output):
    mean, log_std = output.chunk(2, -1)
    return Normal(mean, log_std.clamp(-8.0, 4.0).exp())


def terms_of_a_pair(module, x, gap, second, present, past):
    """Terms of the loss for one sequence and one pair of its steps."""
    size = module.n_latents
    beliefs = torch.cat([torch.zeros(1, N_COMPONENTS, dtype=x.dtype), module.read(x[None, :second])[0][0]])
    before, after, ahead = beliefs[second - gap], beliefs[second], module.gap_features.weight[gap - 1]
    later, earlier, mean, smoothing, transition = [], [], [], 0.0, 0.0
    for layer, head in enumerate(module.belief):
        density = normal(head(torch.cat([after, *later])))
        later.append(density.mean + density.stddev * present[layer * size : (layer + 1) * size])
        transition += density.log_prob(later[-1]).sum()
        mean.append(normal(head(torch.cat([before, *mean]))).mean)
    later, mean = torch.cat(later), torch.cat(mean)
    for layer, head in enumerate(module.smoothing):
        expected = normal(module.belief[layer](torch.cat([before, *earlier])))
        shift, factor = head(torch.cat([later, before, after, ahead, *earlier])).chunk(2)
        density = Normal(expected.mean + shift, (expected.stddev.log() + factor).clamp(-8.0, 4.0).exp())
        earlier.append(density.mean + density.stddev * past[layer * size : (layer + 1) * size])
        smoothing += kl_divergence(density, expected).sum()
    earlier, foreseen = torch.cat(earlier), []
    for layer, head in enumerate(module.transition):
        part = slice(layer * size, (layer + 1) * size)
        density = normal(head(torch.cat([earlier, ahead, later[: part.start]])))
        moved = (module.jumps[gap - 1] @ earlier)[part]
        transition -= Normal(density.mean + moved, density.stddev).log_prob(later[part]).sum()
        shift = normal(head(torch.cat([mean, ahead, *foreseen]))).mean
        foreseen.append(shift + (module.jumps[gap - 1] @ mean)[part])
    scale = module.likelihood.noise.moment.sqrt()
    target = x[second - 1]
    reconstruction = -Normal(module.decoder(later), scale).log_prob(target).sum()
    auxiliary = (0.5 * ((target - module.decoder(torch.cat(foreseen))) / scale) ** 2).sum()
    return torch.stack([reconstruction, smoothing, transition, auxiliary])


@pytest.mark.parametrize("params", STRUCTURES, ids=str)
def test_terms_are_what_the_densities_say(params):
    module, x = build(spread=0.2, **params), sequences()
    batch = batch_of(module, x)
    terms, learned = module.loss(batch, SCHEDULE)
    assert list(terms) == ["reconstruction", "smoothing", "transition", "auxiliary"]
    assert list(learned) == ["energy"]
    gaps, seconds = module.pairs(batch.noise["pairs"], lengths(x))
    for i in range(len(x)):
        expected = torch.stack(
            [
                terms_of_a_pair(module, x[i], gap, second, batch.noise["present"][i, k], batch.noise["past"][i, k])
                for k, (gap, second) in enumerate(zip(gaps[i].tolist(), seconds[i].tolist(), strict=True))
            ]
        ).mean(0)
        found = torch.stack([term[i] for term in terms.values()])
        torch.testing.assert_close(found, expected * torch.tensor([1.0, 0.7, 0.7, 0.4], dtype=torch.float64))


def test_terms_come_per_row_and_depend_on_no_other_row():
    module, x = build(spread=0.5), sequences()
    batch = batch_of(module, x)
    terms = terms_of(module, batch)
    noise = {name: part[1:2] for name, part in batch.noise.items()}
    for name, term in terms_of(module, Batch.of(x[1:2], noise=noise)).items():
        assert terms[name].shape == (4,)
        torch.testing.assert_close(term[0], terms[name][1])


def test_without_weight_and_once_it_has_faded_there_is_no_auxiliary_term():
    for module, progress, has_term in [(build(auxiliary=0.0), 0.0, False), (build(), 1.0, False), (build(), 0.99, True)]:
        terms = module.loss(batch_of(module, sequences()), ScheduleTensors(module)(progress)).terms
        assert list(terms) == ["reconstruction", "smoothing", "transition", *["auxiliary"] * has_term]


def decoded_and_target(module, batch):
    """What states at the second steps of pairs are decoded to, and the frames there, ``(n, n_pairs, n_features)``."""
    seconds = module.pairs(batch.noise["pairs"], lengths(batch.x))[1]
    beliefs = nn.functional.pad(module.read(batch.x)[0], (0, 0, 1, 0))
    row = torch.arange(len(batch.x)).unsqueeze(1)
    state = module.draw(module.belief_moments(beliefs[row, seconds]), batch.noise["present"])
    return module.decode(state, batch), batch.x[row, seconds - 1]


def test_noise_is_learned_from_the_frames_around_the_states_alone():
    module = build(spread=0.5)
    batch = batch_of(module, sequences())._replace(weight=torch.tensor([0.5, 2.0, 1.0, 0.5], dtype=torch.float64))
    before, learned = module.likelihood.noise.moment.clone(), module.loss(batch, SCHEDULE).learned
    output, target = decoded_and_target(module, batch)
    torch.testing.assert_close(learned["energy"], (batch.weight / 4) @ (target - output).square().mean(1).detach())
    assert torch.equal(module.likelihood.noise.moment, before)
    module.after_step(learned)
    torch.testing.assert_close(module.likelihood.noise.moment, torch.lerp(before, learned["energy"], 0.05))
    assert module.eval().loss(batch, SCHEDULE).learned == {}
    assert build(likelihood=Gaussian(noise=0.3)).loss(batch, SCHEDULE).learned == {}


def test_smoothing_that_adds_nothing_to_the_belief_is_free():
    module, x = build(spread=0.5, n_latent_layers=2), sequences()
    for parameter in module.smoothing.parameters():
        nn.init.zeros_(parameter)
    smoothing = terms_of(module, batch_of(module, x))["smoothing"]
    torch.testing.assert_close(smoothing, torch.zeros_like(smoothing))


@pytest.mark.parametrize("likelihood", ["laplace", "bernoulli"])
def test_other_likelihoods(likelihood):
    module, x = build(spread=0.5, likelihood=likelihood), torch.rand(4, LENGTH, N_FEATURES, dtype=torch.float64)
    batch = batch_of(module, x)
    output, target = decoded_and_target(module, batch)
    if likelihood == "laplace":
        density = Laplace(output, module.likelihood.noise.moment)
    else:
        density = Bernoulli(logits=output, validate_args=False)
    torch.testing.assert_close(terms_of(module, batch)["reconstruction"], -density.log_prob(target).sum(-1).mean(1))


# -- what the gradient reaches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [1, 4])
def test_padding_changes_neither_terms_nor_gradients(padding):
    module, x = build(spread=0.5), sequences()
    batch = batch_of(module, x)
    longer = nn.functional.pad(x, (0, 0, 0, padding), value=math.nan).requires_grad_()
    terms = terms_of(module, Batch.of(longer, noise=batch.noise))
    for name, term in terms_of(module, batch).items():
        torch.testing.assert_close(terms[name], term)
    sum(term.sum() for term in terms.values()).backward()
    gone = torch.isnan(longer)
    assert (longer.grad[gone] == 0).all()
    assert (longer.grad[~gone][:10] != 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("gap", [1, 2, 4])
def test_the_belief_that_a_longer_jump_ends_in_is_taken_for_given(monkeypatch, gap):
    module, x = build(spread=0.5), torch.randn(3, LENGTH, N_FEATURES, dtype=torch.float64).requires_grad_()
    steps = torch.full((3, 5), gap), torch.full((3, 5), 6)
    monkeypatch.setattr(module, "pairs", lambda noise, length: steps)
    terms = terms_of(module, batch_of(module, x))
    weight = module.encoder.layers[0].weight_hh_l0
    (grad,) = torch.autograd.grad(terms["reconstruction"].sum(), weight, retain_graph=True, allow_unused=True)
    assert (grad is not None and bool(grad.any())) == (gap == 1)
    for name in ("smoothing", "transition"):
        (grad,) = torch.autograd.grad(terms[name].sum(), x, retain_graph=True)
        assert grad[:, : 6 - gap].any()  # through the belief before the jump
        assert bool(grad[:, 6 - gap : 6].any()) == (gap == 1)
        assert not grad[:, 6:].any()


def test_the_auxiliary_term_takes_the_way_of_the_means():
    module, x = build(spread=0.5), sequences()
    batch = batch_of(module, x)
    expected = terms_of(module, batch)["auxiliary"]
    for name in ("present", "past"):
        batch.noise[name].normal_()
    torch.testing.assert_close(terms_of(module, batch)["auxiliary"], expected)


# -- pairs of steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("length", [1, 2, 4, 7])
def test_pairs_lie_within_sequences_and_none_is_left_out(length, fraction):
    module, n = build(one_step_fraction=fraction), 40_000
    gap, second = module.pairs(torch.randn(1, n, 3), torch.tensor([length]))
    longest = min(MAX_GAP, length)
    assert gap.min() >= 1
    assert gap.max() <= longest
    assert (second >= gap).all()
    assert second.max() <= length
    expected = {}  # uniform gaps but for the neighbors, and uniform places
    for g in range(1, longest + 1):
        share = (1 - fraction) / longest + (fraction if g == 1 else 0.0)
        expected.update({(g, s): share / (length - g + 1) for s in range(g, length + 1)})
    found = dict.fromkeys(expected, 0.0)
    for pair in zip(gap[0].tolist(), second[0].tolist(), strict=True):
        found[pair] += 1
    for pair, share in expected.items():
        assert found[pair] == pytest.approx(n * share, abs=4 * math.sqrt(n * share * (1 - share)))


def test_pairs_of_extreme_numbers():
    numbers = torch.tensor([-40.0, -8.0, 8.0, 40.0])
    module, noise = build(one_step_fraction=0.5), torch.cartesian_prod(numbers, numbers, numbers)
    gap, second = module.pairs(noise.expand(LENGTH, -1, -1), torch.arange(1, LENGTH + 1))
    length = torch.arange(1, LENGTH + 1).unsqueeze(1)
    assert ((gap >= 1) & (gap <= length.clamp(max=MAX_GAP)) & (second >= gap) & (second <= length)).all()
    assert {(int(g), int(s)) for g, s in zip(gap[-1], second[-1], strict=True)} == {(1, 1), (1, 7), (4, 4), (4, 7)}


# -- the schedule -----------------------------------------------------------------------------------------------------


def test_the_state_grows_dearer_and_the_auxiliary_term_fades():
    module = build(beta=2.0, kl_warmup=0.5, auxiliary=3.0)
    for progress, beta, auxiliary in [(0.0, 0.02, 3.0), (0.25, 1.01, 2.25), (0.5, 2.0, 1.5), (0.8, 2.0, 0.6)]:
        assert module.schedule(progress) == pytest.approx({"beta": beta, "auxiliary": auxiliary})
    assert module.schedule(1.0) == {"beta": 2.0}
    assert "auxiliary" not in build(auxiliary=0.0).schedule(0.0)
    assert build(kl_warmup=0.0).schedule(0.0)["beta"] == 1.0
    assert build(kl_warmup=1.0).schedule(1.0)["beta"] == 1.0
    assert build(kl_warmup=0.6, auxiliary=3.0).warmup == 0.6


# -- importance weights -----------------------------------------------------------------------------------------------


def linear_gaussian(n_latent_layers, n_latents):
    """A module all of whose densities are Gaussian with means that are linear in what they are given."""
    module = build(spread=0.25, hidden_layer_sizes=(), n_latents=n_latents, n_latent_layers=n_latent_layers)
    with torch.no_grad():
        module.gap_features.weight.zero_()
        for heads, log_std in ((module.belief, 0.0), (module.transition, 0.2), (module.smoothing, 0.1)):
            for head in heads:
                head.linear.weight[n_latents:] = 0.0
                head.linear.bias[n_latents:] = log_std
    return module


@torch.no_grad()
@pytest.mark.parametrize(("n_latent_layers", "n_latents"), [(1, 2), (2, 1), (2, 2)])
def test_importance_weights_average_to_the_density(n_latent_layers, n_latents):
    module, n, n_draws = linear_gaussian(n_latent_layers, n_latents), 3, 50_000
    before, after = torch.randn(2, n, N_COMPONENTS, dtype=torch.float64)
    target = torch.randn(n, N_FEATURES, dtype=torch.float64)
    # A prediction is linear in its noise: what unit vectors make of it gives its covariance.
    probes = torch.cat([torch.zeros(1, 2 * module.state_size), torch.eye(2 * module.state_size)]).double()
    output = module.decoder(module.jump(before, 1, probes.unflatten(1, (2, -1))))
    mean, slope = output[:, 0], output[:, 1:] - output[:, :1]
    covariance = slope.mT @ slope + module.likelihood.noise.moment.diag()
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(target)
    noise = torch.randn(n, n_draws, 2 * module.state_size, dtype=torch.float64)
    log_weights = module.step_log_weights(before, after, target, noise)
    assert log_weights.shape == (n, n_draws)
    weights = (log_weights - exact.unsqueeze(1)).exp()
    error = weights.std(1) / math.sqrt(n_draws)
    assert (error < 0.05).all()
    assert ((weights.mean(1) - 1.0).abs() < 4.0 * error).all()
    assert ((log_weights.mean(1) - exact) < 0.0).all()


@torch.no_grad()
def test_importance_weights_of_a_perfect_proposal_are_all_the_density():
    """Belief and smoothing distribution set to the exact posterior of a chain that is known."""
    module = build(hidden_layer_sizes=(), n_latents=1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    module.likelihood.noise.set_moment(torch.ones(2))
    # z1 ~ N(m, 1) with m the first component of the belief, z2|z1 ~ N(z1, 1), and both columns N(z2, 1).
    module.belief[0].linear.weight[0, 0] = 1.0
    module.jumps[0] = 1.0
    module.decoder.linear.weight[:] = 1.0
    m, x = 0.7, torch.tensor([[1.5, -0.4]], dtype=torch.float64)
    before = torch.tensor([[m, 0.0, 0.0]], dtype=torch.float64)
    # The posterior of z2 has precision 1/2 + 2; its mean stands in the second component of the belief after the frame,
    # which also says how much more certain it is than the belief before.
    mean, std = (m / 2 + x.sum()) / 2.5, math.sqrt(1 / 2.5)
    after = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    after[0, 1] = mean
    module.belief[0].linear.weight[0, 1] = 1.0
    module.belief[0].linear.weight[1, 2] = math.log(std)
    # Given z2, z1 has mean (m + z2) / 2 and variance 1/2.
    module.smoothing[0].linear.weight[0, 0] = 0.5
    module.smoothing[0].linear.weight[0, 1] = -0.5
    module.smoothing[0].linear.bias[1] = 0.5 * math.log(0.5)
    log_weights = module.step_log_weights(before, after, x, torch.randn(1, 50, 2, dtype=torch.float64), unguided=0.0)
    exact = torch.distributions.MultivariateNormal(torch.full((2,), m).double(), torch.full((2, 2), 2.0).double() + torch.eye(2))
    torch.testing.assert_close(log_weights, exact.log_prob(x).unsqueeze(1).expand(1, 50))


@torch.no_grad()
@pytest.mark.parametrize("n_draws", [2, 16, 64])
def test_a_belief_that_is_too_sure_of_itself_does_not_hide_what_is_rare(n_draws):
    """The density of the next frame integrates to one, wherever the proposal looks."""
    module = build(hidden_layer_sizes=(), n_latents=1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    module.likelihood.noise.set_moment(torch.ones(2))
    module.jumps[0] = 1.0
    module.decoder.linear.weight[:] = 1.0
    module.belief[0].linear.weight[1, 2] = math.log(0.3)
    grid = torch.linspace(-8.0, 8.0, 33, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    before, after = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    before, after = before.expand(len(x), -1), after.expand(len(x), -1)
    noise = torch.randn(len(x), n_draws, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_weights = module.step_log_weights(before, after, x, noise)
    total = log_weights.exp().mean(1).sum() * (grid[1] - grid[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=4.0 / math.sqrt(33 * n_draws))
    # No weight exceeds the likelihood of the frame by more than the inverse of the share of unguided draws.
    assert (log_weights <= -math.log(2 * math.pi) + math.log(4.0) + 1e-6).all()
    if n_draws == 64:
        exact = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.full((2, 2), 2.0).double() + torch.eye(2))
        far = (x.mean(1).abs() > 3.0) & ((x[:, 0] - x[:, 1]).abs() < 2.0) & (x.abs() < 6.0).all(1)
        alone = module.step_log_weights(before, after, x, noise, unguided=0.0)
        missed = [(each.logsumexp(1) - math.log(n_draws) - exact.log_prob(x))[far].median() for each in (log_weights, alone)]
        assert missed[0] > -1.5 > -4.0 > missed[1]


@pytest.mark.parametrize("scaling", ["mean", "standard"])
def test_half_of_the_sequences_are_measured_by_their_first_steps(scaling):
    X = 1.0 + 0.5 * np.random.default_rng(0).normal(size=(400, 9, 2)) + np.linspace(0.0, 1.0, 9)[:, None]
    X[np.arange(9) >= np.arange(400)[:, None] % 8 + 2] = np.nan
    module = build(scaling=scaling)
    module.likelihood.fit(X[~np.isnan(X[..., 0])])
    units = module.likelihood.units
    x = torch.from_numpy((X - units.center) / units.scale)
    noise = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = module.rescaled(x, noise).numpy() * units.scale + units.center
    np.testing.assert_array_equal(np.isnan(found), np.isnan(X))
    matched = []
    for given, result in zip(X, found, strict=True):
        length = int((~np.isnan(given[:, 0])).sum())
        for seen in range(1, length + 1):
            start = given[:seen]
            location = 0.0 if scaling == "mean" else start.mean(0)
            scale = np.clip(np.abs(start).mean(0) if scaling == "mean" else start.std(0), 0.2, 5.0)
            if np.allclose(result[:length], (given[:length] - location) / scale, rtol=1e-4, atol=1e-5):
                matched.append(seen / length)
    assert len(matched) == 400
    assert np.mean(np.array(matched) == 1.0) == pytest.approx(0.5 + 0.5 * np.mean(1.0 / (np.arange(400) % 8 + 2)), abs=0.08)
    assert (np.array(matched) < 0.5).mean() > 0.1
    batch = {"pairs": (module.n_pairs, 3), "present": (module.n_pairs, module.state_size), "prefix": (2,)}
    assert {name: module.noise_shapes[name] for name in batch} == batch
    assert "prefix" not in build().noise_shapes


# -- jumps ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("n_latent_layers", [1, 2])
def test_long_jumps_are_made_of_short_ones(n_latent_layers):
    module = build(spread=0.3, n_latent_layers=n_latent_layers)
    belief = torch.randn(3, N_COMPONENTS, dtype=torch.float64)
    for gap, parts in [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (11, [4, 4, 3])]:
        assert module.n_jumps(gap) == len(parts)
        noise = torch.randn(6, 1 + len(parts), module.state_size, dtype=torch.float64)
        for i in range(3):
            state = module.draw(module.belief_moments(belief[i].expand(6, -1)), noise[:, 0])
            for k, part in enumerate(parts):
                gaps = torch.full((6,), part)
                state = module.draw(module.transition_moments(state, gaps), noise[:, k + 1])
            torch.testing.assert_close(module.jump(belief, gap, noise)[i], state)
        own = torch.randn(3, 6, *noise.shape[1:], dtype=torch.float64)
        own[1] = noise
        torch.testing.assert_close(module.jump(belief, gap, own)[1], module.jump(belief, gap, noise)[1])


@torch.no_grad()
def test_a_step_is_a_jump_by_one():
    module, belief = build(spread=0.3), torch.randn(3, N_COMPONENTS, dtype=torch.float64)
    noise = torch.randn(3, 6, 2, module.state_size, dtype=torch.float64)
    state = module.jump(belief, 0, noise[:, :, :1])
    torch.testing.assert_close(module.advance(state, noise[:, :, 1]), module.jump(belief, 1, noise))


def test_draws_and_log_densities_agree():
    """The change of variables from the noise: log q(z) = log N(noise) - sum of log standard deviations."""
    module = build(spread=0.5, n_latent_layers=3)
    moments = module.belief_moments(torch.randn(8, N_COMPONENTS, dtype=torch.float64))
    noise = torch.randn(8, module.state_size, dtype=torch.float64)
    state = module.draw(moments, noise)
    layers = [state[:, :2], state[:, 2:4], state[:, 4:]]
    log_std = sum(moments(layer, layers[:layer])[1].sum(-1) for layer in range(3))
    torch.testing.assert_close(module.log_density(state, moments), Normal(0, 1).log_prob(noise).sum(-1) - log_std)
    torch.testing.assert_close(module.draw(moments, None), module.draw(moments, torch.zeros_like(noise)))


# -- predictions ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    ("likelihood", "noise_variance"), [("gaussian", [0.5, 2.0]), ("laplace", [2 * 0.5**2, 2 * 2.0**2]), ("bernoulli", None)]
)
def test_a_prediction_has_the_moments_of_the_mixture(likelihood, noise_variance):
    module, output = build(likelihood=likelihood), 2.0 * torch.randn(3, 50, N_FEATURES, dtype=torch.float64)
    mean, variance = module.prediction(output)
    if likelihood == "bernoulli":
        torch.testing.assert_close(mean, torch.sigmoid(output).mean(1))
        torch.testing.assert_close(variance, mean * (1 - mean))
    else:
        torch.testing.assert_close(mean, output.mean(1))
        torch.testing.assert_close(variance, output.var(1, correction=0) + torch.tensor(noise_variance, dtype=torch.float64))


def test_surprise_is_what_the_likelihood_misses():
    x, mean, variance = torch.randn(3, 2), torch.randn(3, 2), torch.rand(3, 2) + 0.5
    found = build().surprise(x, mean, variance)
    torch.testing.assert_close(found, Normal(mean, variance.sqrt()).log_prob(mean) - Normal(mean, variance.sqrt()).log_prob(x))
    module, p = build(likelihood="bernoulli"), torch.tensor([[0.2, 0.9, 0.0, 1.0]])
    ones, zeros = (module.surprise(value.expand(1, 4), p, p) for value in (torch.ones(1, 1), torch.zeros(1, 1)))
    torch.testing.assert_close(ones[0, :2], -p[0, :2].log())
    torch.testing.assert_close(zeros[0, :2], -(1 - p[0, :2]).log())
    assert ones.isfinite().all()
    assert zeros.isfinite().all()
    assert ones[0, 2] > 10
    assert zeros[0, 2] < 1e-5
    x = torch.rand(1, 4)
    expected = kl_divergence(Bernoulli(x[:, :2]), Bernoulli(p[:, :2]))
    torch.testing.assert_close(module.surprise(x, p, p)[:, :2], expected)


@torch.no_grad()
def test_noise_is_that_of_the_frames_around_their_states():
    module, x = build(spread=0.5), sequences(9)
    weight, noise = torch.rand(9, dtype=torch.float64), torch.randn(9, LENGTH, module.state_size, dtype=torch.float64)
    batch = Batch.of(x, noise={"present": noise})._replace(weight=weight)
    module.fit_noise(batch)
    states = module.draw(module.belief_moments(module.read(x)[0]), noise)
    squares = (x - module.decoder(states)) ** 2
    share = weight.unsqueeze(1) * ~x[..., 0].isnan()
    expected = (share.unsqueeze(2) * squares.nan_to_num()).sum((0, 1)) / share.sum()
    torch.testing.assert_close(module.likelihood.noise.moment, expected)
    fixed = build(likelihood=Gaussian(0.3))
    before = fixed.likelihood.noise.moment.clone()
    fixed.fit_noise(batch)
    torch.testing.assert_close(fixed.likelihood.noise.moment, before)


# -- how it begins ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_states_begin_certain_and_jumps_begin_as_no_motion():
    module = TDVAEModule(2, 32, n_timesteps=9, max_gap=5, n_latents=4, n_latent_layers=2, encoder="lstm")
    log_std = module.belief_moments(0.3 * torch.randn(200, 32))(0, ())[1]
    assert log_std.mean().item() == pytest.approx(-1.5, abs=0.3)
    state = torch.randn(200, 8)
    moved = module.draw(module.transition_moments(state, torch.full((200,), 3)), None)
    assert torch.corrcoef(torch.stack([moved.flatten(), state.flatten()]))[0, 1] > 0.8
    forget = module.encoder.layers[0].bias_hh_l0[32:64]
    assert forget.mean().item() == pytest.approx(1.0, abs=0.2)
    later, before, after = torch.randn(200, 8), torch.randn(200, 32), torch.randn(200, 32)
    expected = module.belief_moments(before)
    smoothed = module.smoothing_moments(later, before, after, torch.ones(200, dtype=torch.int64), expected)
    assert (smoothed(0, ())[0] - expected(0, ())[0]).abs().mean() < 0.5 * expected(0, ())[0].abs().mean()


def test_a_bent_linear_map():
    layer = BentLinear(3, (8,), 2, activation="tanh")
    x = torch.randn(4, 5, 3)
    torch.testing.assert_close(layer(x), layer.linear(x) + layer.bend(x))
    assert layer.bend(x).square().mean() < layer.linear(x).square().mean()
    straight = BentLinear(3, (), 2)
    torch.testing.assert_close(straight(x), straight.linear(x))
    assert len(list(straight.parameters())) == 2
    normalized = BentLinear(3, (8,), 2, normalization="batch")
    torch.testing.assert_close(normalized(x).flatten(0, 1), normalized(x.flatten(0, 1)))
