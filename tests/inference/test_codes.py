import time

import numpy as np
import pytest
import torch
from torch import nn

from skvae.data import Table
from skvae.inference import codes as code_chunks
from skvae.inference.codes import code_log_prob, draw_codes
from skvae.modules import HistogramPrior, PixelSNAILPrior, TransformerPrior, UniformPrior
from skvae.runtime.randomness import PrivateRandomness
from skvae.training import Optimizer, Plan, Rows, code_priors, train
from skvae.training.code_priors import fit_share

CPU = torch.device("cpu")
LEARNED = [TransformerPrior, PixelSNAILPrior]
ALL = [UniformPrior, HistogramPrior, *LEARNED]


def make(cls, shape=(3, 4), n_embeddings=8, upper=(((2, 2), 5),), n_conditions=2, **params):
    if cls in LEARNED:
        params = {"n_layers": 1, "width": 16, "n_heads": 2, **params}
    with PrivateRandomness(0):
        prior = cls(shape, n_embeddings, upper=upper, n_conditions=n_conditions, **params)
        if cls in LEARNED:
            nn.init.normal_(prior.out.weight)
    rng = np.random.default_rng(0)
    prior.fit_counts(rng.integers(0, n_embeddings, (20, prior.n_codes)))
    return prior


def table(prior, n, seed=0):
    rng = np.random.default_rng(seed)
    upper = np.concatenate([rng.integers(0, size, (n, int(np.prod(shape)))) for shape, size in prior.upper], axis=1)
    own = rng.integers(0, prior.n_embeddings, (n, prior.n_codes))
    return upper, own, np.eye(2)[rng.integers(0, 2, n)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(code_chunks, "_CHUNK_BYTES", 2**18)


@pytest.mark.parametrize("cls", ALL)
def test_scores_are_those_of_the_module(cls):
    prior = make(cls)
    upper, own, condition = table(prior, 50)
    rows = np.concatenate([upper, own], axis=1)
    scores = code_log_prob(prior, rows, CPU, condition)
    assert scores.shape == (50, 12)
    assert scores.dtype == np.float64
    with torch.no_grad():
        expected = prior.double().log_prob(torch.from_numpy(rows), torch.from_numpy(condition))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (7,)])
@pytest.mark.parametrize("cls", ALL)
def test_a_score_does_not_depend_on_other_rows(cls, shape, small_chunks):
    prior = make(cls, shape, n_embeddings=40)
    upper, own, condition = table(prior, 300)
    rows = np.concatenate([upper, own], axis=1)
    scores = code_log_prob(prior, rows, CPU, condition)
    order = np.random.default_rng(1).permutation(300)
    for some in (order, slice(None, None, -3), slice(7, 8)):  # to the last bit in single precision, to which these are rounded
        np.testing.assert_allclose(code_log_prob(prior, rows[some], CPU, condition[some]), scores[some], rtol=2.0**-23)
    assert len(np.unique(scores)) > 1 or cls is UniformPrior


@pytest.mark.parametrize("cls", ALL)
def test_draws_are_those_of_the_module(cls, small_chunks):
    prior = make(cls)
    upper, _, condition = table(prior, 300)
    codes = draw_codes(prior, 300, CPU, 3, upper=upper, condition=condition)
    assert codes.shape == (300, 12)
    assert codes.dtype == np.int64
    uniforms = torch.rand(300, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        expected = prior.double().draw(uniforms, torch.from_numpy(upper), torch.from_numpy(condition))
    np.testing.assert_array_equal(codes, expected)
    assert (codes.min(), codes.max()) == (0, 7)


@pytest.mark.parametrize("cls", LEARNED)
def test_the_cache_changes_nothing(cls):
    prior = make(cls)
    upper, _, condition = table(prior, 100)
    given = {"upper": upper, "condition": condition, "temperature": 0.8, "top_k": 6}
    np.testing.assert_array_equal(draw_codes(prior, 100, CPU, 0, **given), draw_codes(prior, 100, CPU, 0, cache=False, **given))


@pytest.mark.parametrize("cls", ALL)
def test_seeds_decide_and_nothing_else(cls):
    prior = make(cls, upper=(((2, 2), 5),))
    upper, own, condition = table(prior, 20)
    given = {"upper": upper, "condition": condition}
    weights = {name: value.clone() for name, value in prior.state_dict().items()}
    state = torch.get_rng_state()
    one = draw_codes(prior, 20, CPU, 1, **given)
    code_log_prob(prior, np.concatenate([upper, own], axis=1), CPU, condition)
    torch.manual_seed(9)
    np.testing.assert_array_equal(draw_codes(prior, 20, CPU, 1, **given), one)
    assert not np.array_equal(draw_codes(prior, 20, CPU, 2, **given), one)
    torch.set_rng_state(state)
    draw_codes(prior, 20, CPU, 1, **given)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(value, weights[name]) and value.dtype == weights[name].dtype for name, value in prior.state_dict().items()
    )


@pytest.mark.parametrize("cls", ALL)
def test_no_rows(cls):
    prior = make(cls)
    upper, own, condition = table(prior, 0)
    assert code_log_prob(prior, np.concatenate([upper, own], axis=1), CPU, condition).shape == (0, 12)
    assert draw_codes(prior, 0, CPU, 0, upper=upper, condition=condition).shape == (0, 12)


@pytest.mark.parametrize("cls", LEARNED)
def test_chunks_are_bounded(cls, monkeypatch):
    prior = make(cls, (14, 14), 64, upper=(((7, 7), 64),), n_conditions=0, width=64, n_layers=3)
    sizes = []

    def draw(self, uniforms, *args, **kwargs):
        sizes.append(len(uniforms))
        return torch.zeros(uniforms.shape, dtype=torch.long)

    monkeypatch.setattr(cls, "draw", draw)
    draw_codes(prior, 3000, CPU, 0, upper=np.zeros((3000, 49), dtype=int))
    assert sum(sizes) == 3000
    assert max(sizes) < 1000
    with torch.no_grad():
        past = prior.begin(2, torch.zeros(2, 49, dtype=torch.long), None).past
    kept = sum(part.numel() for part in past) // 2
    assert 8 * kept * max(sizes) < 2**28
    assert prior.cache_floats >= kept


# -- few rows ---------------------------------------------------------------------------------------------------------


def fit(cls, codes, share=True, n_epochs=12, **params):
    """Fit a small prior as an estimator would; return it with its histogram."""
    with PrivateRandomness(0):
        prior = cls((codes.shape[1],), 16, width=32, n_layers=1, dropout=0.2)
    prior.fit_counts(codes)
    plan = Plan(32, n_epochs, n_epochs * -(-len(codes) // 32), 3e-3, Optimizer(), seed=0)
    if share:
        fit_share(prior, codes, CPU, plan, **params)
    train(prior, Rows(Table.of(codes), None, CPU), None, plan)
    histogram = HistogramPrior((codes.shape[1],), 16)
    histogram.fit_counts(codes)
    return prior, histogram


@pytest.mark.parametrize("cls", LEARNED)
def test_codes_that_are_independent_are_left_to_the_histogram(cls):
    codes, new = np.split(np.random.default_rng(0).integers(0, 16, (1200, 4)), [200])
    prior, histogram = fit(cls, codes)
    whole, _ = fit(cls, codes, share=False)
    limit = -code_log_prob(histogram, new, CPU).mean()
    assert -code_log_prob(whole, new, CPU).mean() > limit + 0.02
    assert -code_log_prob(prior, new, CPU).mean() <= limit + 0.005
    assert prior.share < 0.2


@pytest.mark.parametrize("cls", LEARNED)
def test_codes_that_depend_on_each_other_are_left_to_the_network(cls):
    rng = np.random.default_rng(0)
    codes, new = np.split((rng.integers(0, 16, (1200, 1)) + rng.integers(0, 2, (1200, 4))) % 16, [200])
    prior, histogram = fit(cls, codes)
    assert prior.share > 0.5
    assert -code_log_prob(prior, new, CPU).mean() < 0.75 * -code_log_prob(histogram, new, CPU).mean()


@pytest.mark.parametrize("cls", LEARNED)
def test_finding_the_share_changes_nothing_else(cls):
    prior = make(cls, dropout=0.2)
    upper, own, condition = table(prior, 40)
    rows, weight = np.concatenate([upper, own], axis=1), np.linspace(0.5, 1.5, 40)
    weights = {name: value.clone() for name, value in prior.state_dict().items()}
    plan = Plan(16, 3, 9, 3e-3, Optimizer(), seed=0)
    state = torch.get_rng_state()
    share = fit_share(prior, rows, CPU, plan, weight=weight, condition=condition)
    assert torch.equal(torch.get_rng_state(), state)
    assert 0.0 <= share <= 1.0
    assert prior.share.item() == pytest.approx(share)
    assert fit_share(prior, rows, CPU, plan, weight=weight, condition=condition) == share
    assert {name for name, value in prior.state_dict().items() if not torch.equal(value, weights[name])} <= {"share"}


@pytest.mark.parametrize("cls", LEARNED)
def test_losses_of_shares_are_those_of_the_scores(cls):
    prior = make(cls)
    upper, own, condition = table(prior, 40)
    rows, weight = np.concatenate([upper, own], axis=1), np.linspace(0.5, 1.5, 40)
    losses = code_priors._losses(prior, rows, CPU, weight, condition, np.array([0.3, 1.0]))
    for share, loss in zip((0.3, 1.0), losses, strict=True):
        prior.share.fill_(share)
        assert loss == pytest.approx(-weight @ code_log_prob(prior, rows, CPU, condition).sum(axis=1), rel=1e-5)


# -- cost -------------------------------------------------------------------------------------------------------------


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.parametrize("cls", LEARNED)
def test_the_cache_saves_time(cls):
    prior = make(cls, (14, 14), 64, upper=(), n_conditions=0, n_layers=1)
    fast = min(seconds(lambda: draw_codes(prior, 64, CPU, 0)) for _ in range(2))
    uncached = []
    slow = seconds(lambda: uncached.append(draw_codes(prior, 64, CPU, 0, cache=False)))
    assert slow > 5 * fast
    np.testing.assert_array_equal(draw_codes(prior, 64, CPU, 0), uncached[0])
