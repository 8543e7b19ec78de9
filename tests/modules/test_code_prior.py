import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from skvae.data import Table
from skvae.modules import Batch, CodePriorModule, HistogramPrior, PixelSNAILPrior, TransformerPrior, UniformPrior
from skvae.modules.priors.codes import choose
from skvae.modules.priors.pixelsnail import CausalConv
from skvae.modules.priors.transformer import align, neighbor_index
from skvae.runtime.randomness import PrivateRandomness
from skvae.training import Optimizer, Plan, Rows, train

CPU = torch.device("cpu")
LEARNED = [TransformerPrior, PixelSNAILPrior]
ALL = [UniformPrior, HistogramPrior, *LEARNED]
SHAPES = [(7,), (3, 4), (4, 1)]
LEVELS = {
    "alone": {},
    "condition": {"n_conditions": 3},
    "grids above": {"upper": [((2, 2), 4), ((2, 3), 6)]},
    "sequence above": {"upper": [((5,), 4)], "n_conditions": 3},
}


def make(cls, shape=(3, 4), n_embeddings=5, seed=0, **params):
    """A prior in double precision whose last layer, unlike a new one's, is not zero."""
    if cls in LEARNED:
        params = {"n_layers": 2, "width": 16, "n_heads": 2, **params}
    with PrivateRandomness(seed):
        prior = cls(shape, n_embeddings, **params).double().eval()
        for name, parameter in prior.named_parameters():
            if name.startswith("out."):
                nn.init.normal_(parameter, std=0.3)
            elif parameter.requires_grad and parameter.dim() == 2 and "linear" not in name:
                parameter.data.mul_(1.5)
    return prior


def draws(prior, n, seed=0):
    """Own codes, codes of the levels above and conditions, at random."""
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(0, prior.n_embeddings, (n, prior.n_codes)))
    upper = [torch.from_numpy(rng.integers(0, size, (n, math.prod(shape)))) for shape, size in prior.upper]
    condition = torch.from_numpy(rng.normal(size=(n, prior.n_conditions)))
    return codes, torch.cat(upper, dim=1) if upper else None, condition if prior.n_conditions else None


def row(codes, upper):
    return (codes if upper is None else torch.cat([upper, codes], dim=1)).double()


# -- what a position depends on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", LEARNED)
def test_a_code_changes_later_positions_alone(cls, shape, levels):
    prior = make(cls, shape, **levels)
    codes, upper, condition = draws(prior, 3)
    before = prior.logits(codes, upper, condition)
    for position in range(prior.n_codes):
        changed = codes.clone()
        changed[:, position] = (codes[:, position] + 1) % prior.n_embeddings
        difference = (prior.logits(changed, upper, condition) - before).abs().amax(dim=(0, 2))
        assert (difference[: position + 1] == 0).all()
        assert (difference[position + 1 :] > 1e-9).all(), difference


@pytest.mark.parametrize("shape", [(7,), (3, 4)])
@pytest.mark.parametrize("cls", LEARNED)
def test_levels_above_and_conditions_reach_every_position(cls, shape):
    prior = make(cls, shape, upper=[((2, 2), 4), ((3, 3), 6)], n_conditions=2)
    codes, upper, condition = draws(prior, 4)
    before = prior.logits(codes, upper, condition)
    assert ((prior.logits(codes, upper, condition + 1.0) - before).abs().amax(dim=(0, 2)) > 1e-6).all()
    for part, size in ((slice(0, 4), 4), (slice(4, 13), 6)):
        changed = upper.clone()
        changed[:, part] = (upper[:, part] + 1) % size
        assert ((prior.logits(codes, changed, condition) - before).abs().amax(dim=(0, 2)) > 1e-6).all()


def test_a_transformer_attends_to_every_code_above():
    prior = make(TransformerPrior, upper=[((2, 2), 4), ((2, 3), 6)])
    codes, upper, _ = draws(prior, 3)
    before = prior.logits(codes, upper)
    for place in range(prior.n_upper):
        changed = upper.clone()
        changed[:, place] = (upper[:, place] + 1) % 4
        assert ((prior.logits(codes, changed) - before).abs().amax(dim=(0, 2)) > 1e-9).all()


@pytest.mark.parametrize("cls", ALL)
def test_rows_do_not_depend_on_each_other(cls):
    prior = make(cls, upper=[((2, 2), 4)], n_conditions=3)
    codes, upper, condition = draws(prior, 6)
    together = prior.logits(codes, upper, condition)
    for i in range(6):
        alone = prior.logits(codes[i : i + 1], upper[i : i + 1], condition[i : i + 1])
        torch.testing.assert_close(alone[0], together[i])


def test_the_code_above_a_position_is_the_nearest():
    np.testing.assert_array_equal(align((4, 4), (2, 2)).view(4, 4), [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    np.testing.assert_array_equal(align((3, 3), (2, 1)).view(3, 3), [[0, 0, 0], [0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(align((6,), (3,)), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(align((2,), (4,)), [0, 2])
    np.testing.assert_array_equal(align((2, 2), (2,)), [0, 0, 1, 1])


def test_neighbors_end_at_the_border():
    index = neighbor_index((2, 3), [(0, -1), (-1, 1)])
    np.testing.assert_array_equal(index, [[6, 6], [0, 6], [1, 6], [6, 1], [3, 2], [4, 6]])


@pytest.mark.parametrize("sides", [(1, 5), (3, 4), (4, 1)])
def test_a_causal_convolution_is_a_masked_one(sides):
    with PrivateRandomness(0):
        conv, x = CausalConv(2, 3, sides).double(), torch.randn(4, math.prod(sides), 2, dtype=torch.float64)
    kernel = torch.zeros(3, 2, 3, 5, dtype=torch.float64)  # centered
    for tap, (down, right) in enumerate(conv.taps):
        kernel[:, :, 1 + down, 2 + right] = conv.linear.weight[:, 2 * tap : 2 * tap + 2]
    images = x.mT.unflatten(2, sides)
    expected = nn.functional.conv2d(images, kernel, conv.linear.bias, padding=(1, 2)).flatten(2).mT
    torch.testing.assert_close(conv(x), expected)
    past = conv.room(4)
    for position in range(math.prod(sides)):
        torch.testing.assert_close(conv(x[:, position : position + 1], past, position)[:, 0], expected[:, position])


# -- probabilities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("cls", ALL)
def test_probabilities_of_all_sequences_add_up_to_one(cls, levels):
    prior = make(cls, (2, 2), 3, **levels)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))
    _, upper, condition = draws(prior, 1)
    if cls is HistogramPrior:
        prior.fit_counts(torch.randint(3, (50, 4), generator=torch.Generator().manual_seed(0)))
    upper = None if upper is None else upper.expand(len(every), -1)
    condition = None if condition is None else condition.expand(len(every), -1)
    log_prob = prior.log_prob(row(every, upper), condition)
    assert log_prob.shape == (81, 4)
    assert (log_prob < 0).all()
    assert log_prob.sum(1).exp().sum().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("cls", ALL)
def test_log_prob_reads_own_codes_behind_those_above(cls):
    prior = make(cls, (3,), 4, upper=[((2,), 7)])
    prior.fit_counts(torch.tensor([[0, 1, 2], [0, 1, 3]]))
    codes, upper, _ = draws(prior, 5)
    logits = prior.logits(codes, upper)
    expected = torch.log_softmax(logits, dim=-1).gather(-1, codes.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(prior.log_prob(row(codes, upper)), expected)


@pytest.mark.parametrize("cls", ALL)
def test_the_loss_is_the_negative_log_likelihood_of_own_codes(cls):
    prior = make(cls, upper=[((2, 2), 4)], n_conditions=3)
    codes, upper, condition = draws(prior, 5)
    x = row(codes, upper)
    terms, learned = prior.loss(Batch.of(x, condition=condition), {})
    assert list(terms) == ["codes"]
    assert learned == {}
    torch.testing.assert_close(terms["codes"], -prior.log_prob(x, condition).sum(1))


def test_uniform():
    x = torch.zeros(2, 6)
    torch.testing.assert_close(UniformPrior((2, 3), 7).log_prob(x), torch.full((2, 6), -math.log(7)))


# -- histograms -------------------------------------------------------------------------------------------------------


def test_a_histogram_counts():
    prior = HistogramPrior((2,), 3)
    prior.fit_counts(np.array([[0, 2], [0, 2], [1, 2]]))
    expected = torch.tensor([[3 / 6, 2 / 6, 1 / 6], [1 / 6, 1 / 6, 4 / 6]])
    torch.testing.assert_close(prior.logits(torch.zeros(1, 2, dtype=torch.long))[0].exp(), expected)
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_a_histogram_counts_by_weight():
    codes = torch.tensor([[0, 1], [1, 1], [2, 0]])
    weighted, repeated = HistogramPrior((2,), 3), HistogramPrior((2,), 3)
    weighted.fit_counts(codes, weight=np.array([2.0, 0.0, 3.0]))
    repeated.fit_counts(codes[[0, 0, 2, 2, 2]])
    torch.testing.assert_close(weighted.frequency, repeated.frequency)


def test_a_histogram_by_class():
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(0, 4, (90, 3)), rng.integers(0, 3, 90)
    weight = rng.uniform(size=90)
    prior = HistogramPrior((3,), 4, n_conditions=3)
    prior.fit_counts(codes, weight, np.eye(3)[labels])
    for label in range(3):
        alone = HistogramPrior((3,), 4)
        alone.fit_counts(codes[labels == label], weight[labels == label])
        x = torch.from_numpy(codes[:5]).float()
        torch.testing.assert_close(prior.log_prob(x, torch.eye(3)[[label] * 5]), alone.log_prob(x))


def test_a_histogram_of_conditions_that_are_no_labels_or_too_many():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (90, 3))
    alone, given, many = (
        HistogramPrior((3,), 4),
        HistogramPrior((3,), 4, n_conditions=2),
        HistogramPrior((3,), 4, n_conditions=400_000),
    )
    alone.fit_counts(codes)
    given.fit_counts(codes, condition=rng.normal(size=(90, 2)))
    many.fit_counts(codes, condition=torch.ones(90, 1).expand(90, 400_000))
    x = torch.from_numpy(codes[:5]).float()
    torch.testing.assert_close(
        given.log_prob(x, torch.randn(5, 2, generator=torch.Generator().manual_seed(0))), alone.log_prob(x)
    )
    torch.testing.assert_close(many.log_prob(x, torch.zeros(5, 400_000)), alone.log_prob(x))


@pytest.mark.parametrize("cls", LEARNED)
def test_before_training_a_learned_prior_is_the_histogram(cls):
    rng = np.random.default_rng(0)
    codes, weight = rng.integers(0, 4, (40, 6)), rng.uniform(size=40)
    prior, histogram = cls((2, 3), 5, width=8), HistogramPrior((2, 3), 5)
    for each in (prior, histogram):
        each.fit_counts(codes, weight)
    x = torch.from_numpy(codes).float()
    torch.testing.assert_close(prior.log_prob(x), histogram.log_prob(x))


@pytest.mark.parametrize("cls", ALL)
def test_state_goes_from_one_prior_to_another(cls):
    one, other = make(cls, upper=[((2, 2), 4)], n_conditions=3), make(cls, seed=1, upper=[((2, 2), 4)], n_conditions=3)
    codes, upper, _ = draws(one, 20)
    condition = torch.eye(3, dtype=torch.float64)[torch.arange(20) % 3]
    one.fit_counts(codes, condition=condition)
    assert cls is UniformPrior or not torch.allclose(one.logits(codes, upper, condition), other.logits(codes, upper, condition))
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(one.logits(codes, upper, condition), other.logits(codes, upper, condition), rtol=0, atol=0)


# -- draws ------------------------------------------------------------------------------------------------------------


def test_choose_inverts_the_cumulative_distribution():
    p = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert choose(p.log().expand(6, 6), uniforms).tolist() == [1, 1, 3, 3, 4, 4]
    assert choose(p.log().float().expand(6, 6), torch.ones(6)).tolist() == [4] * 6  # what rounding makes of the last uniform


def test_choose_among_the_likeliest():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().expand(1000, 4)
    uniforms = torch.linspace(0, 0.9999, 1000)
    frequency = torch.bincount(choose(logits, uniforms, top_k=2), minlength=4) / 1000
    torch.testing.assert_close(frequency, torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=2e-3, rtol=0)
    torch.testing.assert_close(choose(logits, uniforms, top_k=9), choose(logits, uniforms))
    ties = choose(torch.zeros(1000, 4), uniforms, top_k=1)
    assert len(ties.unique()) == 1


def test_choose_at_a_temperature():
    p = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    uniforms = torch.linspace(0, 0.99999, 5000, dtype=torch.float64)
    for temperature in (0.5, 2.0):
        expected = p ** (1 / temperature)
        frequency = torch.bincount(choose(p.log().expand(5000, 3), uniforms, temperature)).double() / 5000
        torch.testing.assert_close(frequency, expected / expected.sum(), atol=1e-3, rtol=0)
    assert (choose(p.log().expand(5000, 3), uniforms, 1e-300) == 1).all()


@pytest.mark.parametrize("levels", ["alone", "sequence above"])
@pytest.mark.parametrize("cls", ALL)
def test_draws_have_the_distribution_of_log_prob(cls, levels):
    prior = make(cls, (2, 2), 3, **LEVELS[levels])
    prior.fit_counts(torch.tensor([[0, 0, 1, 1], [0, 2, 1, 1], [2, 2, 2, 0]]))
    n = 15_000
    _, upper, condition = draws(prior, 1)
    every = torch.tensor(list(itertools.product(range(3), repeat=4)))

    def repeated(x, n):
        return None if x is None else x.expand(n, -1)

    with torch.no_grad():
        p = prior.log_prob(row(every, repeated(upper, 81)), repeated(condition, 81)).sum(1).exp()
        uniforms = torch.rand(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        codes = prior.draw(uniforms, repeated(upper, n), repeated(condition, n))
    counts = torch.bincount(codes @ torch.tensor([27, 9, 3, 1]), minlength=81)
    # Pearson's statistic over the sequences that are expected often enough, the others taken together.
    often = n * p > 5
    expected, seen = n * p[often], counts[often]
    rest = n * p[~often].sum()
    statistic = ((seen - expected) ** 2 / expected).sum() + (counts[~often].sum() - rest) ** 2 / rest.clamp_min(1.0)
    freedom = int(often.sum())
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)
    assert p.max() / p.min() > 5 or cls is UniformPrior


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", LEARNED)
def test_the_cache_changes_nothing(cls, shape, levels):
    prior = make(cls, shape, **levels)
    _, upper, condition = draws(prior, 30)
    uniforms = torch.rand(30, prior.n_codes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for params in ({}, {"temperature": 0.7, "top_k": 3}):
            cached = prior.draw(uniforms, upper, condition, **params)
            torch.testing.assert_close(prior.draw(uniforms, upper, condition, cache=False, **params), cached)
            assert len(cached.unique()) > 1
        memory = prior.begin(30, upper, condition)
        steps = [prior.step(cached, position, memory) for position in range(prior.n_codes)]
        torch.testing.assert_close(torch.stack(steps, dim=1), prior.logits(cached, upper, condition))


@pytest.mark.parametrize("cls", [HistogramPrior, *LEARNED])
def test_cold_draws_and_the_single_likeliest_code_are_greedy(cls):
    prior = make(cls)
    prior.fit_counts(draws(prior, 30)[0], weight=torch.linspace(1, 2, 30))  # no two codes are as frequent
    with torch.no_grad():
        greedy = torch.zeros(1, 12, dtype=torch.long)
        for position in range(12):
            greedy[:, position] = prior.logits(greedy)[:, position].argmax(-1)
        uniforms = torch.rand(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for params in ({"top_k": 1}, {"temperature": 1e-12}):
            torch.testing.assert_close(prior.draw(uniforms, **params), greedy.expand(20, -1))
        assert not torch.equal(prior.draw(uniforms), greedy.expand(20, -1))


# -- learning ---------------------------------------------------------------------------------------------------------


def fit(prior, codes, *, n_epochs, learning_rate=2e-3, batch_size=64, condition=None, own=slice(None), **params):
    prior.fit_counts(codes[:, own])
    rows = Rows(Table.of(codes, condition=condition), None, CPU)
    steps = n_epochs * -(-len(codes) // batch_size)
    return train(prior, rows, None, Plan(batch_size, n_epochs, steps, learning_rate, Optimizer(), seed=0, **params))


def markov_chain(n, length, n_embeddings, seed=0):
    """Sequences of a chain in equilibrium, with a uniform stationary distribution, and the entropy rate."""
    rng = np.random.default_rng(seed)
    jumps = 3.0 ** -np.arange(n_embeddings)
    jumps /= jumps.sum()
    steps = rng.choice(n_embeddings, size=(n, length), p=jumps)
    steps[:, 0] = rng.integers(0, n_embeddings, n)
    return steps.cumsum(axis=1) % n_embeddings, -(jumps * np.log(jumps)).sum()


def held_out(prior, codes, condition=None):
    with torch.no_grad():
        return -prior.log_prob(torch.from_numpy(codes).float(), condition).mean(0).double().numpy()


@pytest.mark.parametrize("shape", [(8,), pytest.param((2, 4), marks=pytest.mark.slow)])
@pytest.mark.parametrize("cls", LEARNED)
def test_a_learned_prior_reaches_a_known_entropy(cls, shape):
    codes, entropy = markov_chain(3000, 8, 6)
    new, _ = markov_chain(1000, 8, 6, seed=1)
    with PrivateRandomness(0):
        prior = cls(shape, 6, width=32, n_layers=1)
    outcome = fit(prior, codes, n_epochs=5, learning_rate=5e-3)
    assert not outcome.diverged
    nats = held_out(prior, new)
    histogram = HistogramPrior(shape, 6)
    histogram.fit_counts(codes)
    assert held_out(histogram, new).mean() == pytest.approx(math.log(6), rel=0.01)
    assert nats[0] == pytest.approx(math.log(6), rel=0.02)
    assert nats[1:].mean() == pytest.approx(entropy, rel=0.03)
    assert entropy < 0.8 * math.log(6)


@pytest.mark.parametrize("cls", LEARNED)
def test_what_is_above_is_learned_from(cls):
    """Own codes repeat the code over them, moved on by the condition."""
    rng = np.random.default_rng(0)
    upper, labels = rng.integers(0, 4, (2000, 2)), rng.integers(0, 2, 2000)
    own = (upper[:, align((4, 2), (2, 1)).numpy()] + labels[:, None]) % 4
    rows, condition = np.concatenate([upper, own], axis=1), np.eye(2)[labels]
    with PrivateRandomness(0):
        prior = cls((4, 2), 4, upper=[((2, 1), 4)], n_conditions=2, width=32, n_layers=1)
    fit(prior, rows[:1600], n_epochs=6, learning_rate=5e-3, condition=condition[:1600], own=slice(2, None))
    nats = held_out(prior, rows[1600:], torch.from_numpy(condition[1600:]).float())
    assert nats.shape == (8,)
    assert nats.max() < 0.05


@pytest.mark.parametrize("cls", LEARNED)
def test_training_is_reproducible_and_leaves_the_global_generator_alone(cls):
    codes, _ = markov_chain(100, 6, 4)

    def weights():
        with PrivateRandomness(3):
            prior = cls((2, 3), 4, width=16, n_layers=1, dropout=0.2)
        fit(prior, codes, n_epochs=2)
        return prior.state_dict()

    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = weights()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    other = weights()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("cls", LEARNED)
def test_dropout_works_in_training_alone(cls):
    prior = make(cls, dropout=0.5)
    codes, _, _ = draws(prior, 3)
    assert torch.equal(prior.logits(codes), prior.logits(codes))
    prior.train()
    with PrivateRandomness(0):
        assert not torch.allclose(prior.logits(codes), prior.logits(codes))


@pytest.mark.parametrize("cls", LEARNED)
def test_every_weight_is_learned(cls):
    prior = make(cls, upper=[((2, 2), 4)], n_conditions=3)
    codes, upper, condition = draws(prior, 60)
    prior.log_prob(row(codes, upper), condition).sum().backward()
    assert [name for name, parameter in prior.named_parameters() if parameter.grad is None] == []
    silent = [name for name, parameter in prior.named_parameters() if parameter.grad.abs().max() == 0]
    assert silent == []


@pytest.mark.parametrize("cls", LEARNED)
def test_like_vectors_begin_alike(cls):
    codebook = np.random.default_rng(0).normal(size=(20, 3))
    codebook[11] = codebook[4] + 1e-3
    above = np.random.default_rng(1).normal(size=(8, 2))
    state = torch.get_rng_state()
    with PrivateRandomness(0):
        prior = cls((3, 3), 20, upper=[((2, 2), 8)], width=32, n_layers=1)
    before = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    prior.set_embeddings(codebook, [above])
    changed = {name for name, tensor in prior.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "tables" in name or "prefix." in name}
    assert torch.equal(torch.get_rng_state(), state)
    tables = prior.input.tables
    for table in tables.weight.detach().view(tables.n_tables, 21, -1):
        distance = (table[:20] - table[4]).norm(dim=1)
        assert distance[11] < 0.75 * np.delete(distance.numpy(), [4, 11]).mean()
    scale = tables.weight.std() / before["input.tables.weight"].std()
    assert 0.5 < scale < 3


@pytest.mark.parametrize("cls", LEARNED)
def test_a_share_of_the_network_lies_between_histogram_and_network(cls):
    prior = make(cls)
    codes, _, _ = draws(prior, 20)
    prior.fit_counts(codes)
    logits, start = prior.logits(codes), prior.log_frequency
    for share in (0.0, 0.3):
        prior.share.fill_(share)
        torch.testing.assert_close(prior.logits(codes), start + share * (logits - start))
    uniforms = torch.rand(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(prior.draw(uniforms), prior.draw(uniforms, cache=False))
    prior.train()
    torch.testing.assert_close(prior.logits(codes), logits)  # training is about the whole of it


# -- cost -------------------------------------------------------------------------------------------------------------


def test_work_grows_with_what_a_row_takes():
    assert UniformPrior((4,), 8).row_work == 1

    def transformer(**params):
        return TransformerPrior((10,), 8, **{"width": 16, "n_layers": 1, "n_heads": 1, **params}).row_work

    # 11 tokens through 4 + 8 squares of the width, attention to 11 tokens by scores and values, 10 codes read off.
    weights = 12 * 16**2 + 16 * 9 + 4 * 16  # biases and normalizations are counted as well
    assert transformer() == 11 * (weights + 2 * 11 * 16) + 10 * 16 * 8
    assert transformer(upper=[((20,), 3)]) > 2.5 * transformer()
    for cls in LEARNED:
        small, large = (cls((side, side), 8, width=16).row_work for side in (4, 8))
        assert 4 * small < large < 8 * small


@pytest.mark.parametrize("cls", LEARNED)
def test_heads_divide_the_width(cls):
    with pytest.raises(ValueError, match="width must be a multiple of n_heads, got 10 and 4"):
        cls((3,), 4, width=10)


@pytest.mark.parametrize("cls", ALL)
def test_common_face(cls):
    prior = make(cls, (3, 2), 4, upper=[((2,), 3), ((2, 2), 5)], n_conditions=2)
    assert isinstance(prior, CodePriorModule)
    assert prior.learns == (cls in LEARNED)
    assert (prior.n_codes, prior.n_upper, prior.n_features) == (6, 6, 12)
    assert prior.row_floats > 0
    assert prior.cache_floats > 0
    assert "shape=(3, 2)" in repr(prior)
    assert not prior.depends_on_threads
    assert prior.noise_shapes == {}
