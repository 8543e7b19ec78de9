import numpy as np
import pytest
import torch

from skvae.data import Table
from skvae.inference.codes import code_log_prob
from skvae.modules import Batch, HistogramPrior, TransformerPrior, VQVAEModule
from skvae.runtime.randomness import PrivateRandomness
from skvae.training import DivergedError, Optimizer, Plan, Rows, code_priors, codebooks
from skvae.training.code_priors import codebooks_of, fit_code_prior, level_plan, level_rows
from skvae.training.codebooks import initialize_codebooks

CPU = torch.device("cpu")
PLAN = Plan(32, 10, 100, 4e-3, Optimizer(), seed=0)

pytestmark = pytest.mark.usefixtures("one_core")


def blobs(n=300, n_features=4, n_centers=5, seed=0):
    rng = np.random.default_rng(seed)
    centers = 10 * rng.normal(size=(n_centers, n_features))
    labels = rng.integers(0, n_centers, n)
    return centers[labels] + 0.1 * rng.normal(size=(n, n_features)), labels


def build(X, **params):
    params = {"n_embeddings": 5, "embedding_dim": 3, "n_codes": 1, "hidden_layer_sizes": (16,), **params}
    with PrivateRandomness(0):
        module = VQVAEModule(X.shape[1], **params)
    module.likelihood.fit(X)
    return module, Rows(Table.of(X), module.likelihood, CPU)


def make_prior(cls=TransformerPrior, n_codes=3, n_embeddings=6, **params):
    params = {"n_layers": 1, "width": 16, "n_heads": 2, **params} if cls is TransformerPrior else params
    with PrivateRandomness(0):
        return cls((n_codes,), n_embeddings, **params)


def chained(n, n_embeddings=6, n_codes=3, seed=0):
    """Codes that are one more than the code before them, mostly."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, n_embeddings, (n, 1)) + np.arange(n_codes)
    return ((codes + (rng.random((n, n_codes)) < 0.1)) % n_embeddings).astype(np.float32)


# -- where codebooks begin --------------------------------------------------------------------------------------------


def test_one_code_a_row_begins_at_the_clusters():
    X, labels = blobs()
    module, rows = build(X)
    assert initialize_codebooks(module, rows, 0) == [300]
    codes = module.codes(Batch.of(rows.take(torch.arange(300)))).numpy()[:, 0]
    assert len({*zip(labels.tolist(), codes.tolist(), strict=True)}) == 5


@pytest.mark.parametrize("n_levels", [1, 2])
def test_codebooks_begin_where_vectors_are(n_levels):
    X, _ = blobs(n_centers=40)
    module, rows = build(X, n_embeddings=16, n_codes=4, n_levels=n_levels)
    batch = Batch.of(rows.take(torch.arange(len(rows))))

    def distances():
        found = []
        for level, quantizer in enumerate(module.quantizers):
            vectors = module.pre_quantization(batch, level).flatten(0, 1)
            nearest = torch.cdist(vectors, quantizer.embeddings()).amin(1).square().mean()
            found.append(float((nearest / vectors.var(0).sum()).detach()))
        return found

    random = distances()
    n_distinct = initialize_codebooks(module, rows, 0)
    assert len(n_distinct) == n_levels
    for after, before in zip(distances(), random, strict=True):
        assert after < 0.5
        assert after < before


def test_repeated_rows_are_counted_once():
    X = np.repeat(np.random.default_rng(0).normal(size=(3, 4)), 20, axis=0)
    module, rows = build(X, n_embeddings=8)
    assert initialize_codebooks(module, rows, 0) == [3]
    books = codebooks_of(module, 0)[0]
    assert books.shape == (8, 3)
    assert len(np.unique(books, axis=0)) == 3


def test_the_start_depends_on_the_seed_alone():
    X, _ = blobs(n_centers=40)
    books = []
    for seed in (0, 0, 1):
        module, rows = build(X, n_embeddings=16, n_codes=4)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        initialize_codebooks(module, rows, seed)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
        books.append(codebooks_of(module, 0)[0])
    np.testing.assert_array_equal(books[0], books[1])
    assert not np.array_equal(books[0], books[2])


def test_few_rows_are_looked_at_for_small_codebooks(monkeypatch):
    X, _ = blobs(n=2000)
    module, rows = build(X, n_codes=4)
    seen = []
    monkeypatch.setattr(type(module), "initialize_codebooks", lambda self, batch, cluster: seen.append(len(batch.x)))
    initialize_codebooks(module, rows, 0)
    assert seen == [2 * codebooks._VECTORS_PER_CODE]  # each has four vectors, for five codes


# -- priors -----------------------------------------------------------------------------------------------------------


def fit(prior, rows, plan=PLAN, **params):
    book = np.random.default_rng(1).normal(size=(prior.n_embeddings, 2)).astype(np.float32)
    return fit_code_prior(prior, rows, CPU, plan, codebooks=[book], **params)


def test_a_histogram_is_counted_and_not_trained():
    prior, rows = make_prior(HistogramPrior), chained(50)
    losses, diverged = fit(prior, rows)
    assert losses.shape == (0,)
    assert not diverged
    counts = np.stack([np.bincount(column, minlength=6) for column in rows.astype(int).T])
    np.testing.assert_allclose(prior.frequency[0], (counts + 1) / 56, rtol=1e-6)


def test_a_network_learns_what_a_histogram_cannot():
    prior, histogram, rows, new = make_prior(), make_prior(HistogramPrior), chained(300), chained(300, seed=1)
    losses, _ = fit(prior, rows)
    fit(histogram, rows)
    assert losses.shape == (10,)
    assert losses[-1] < losses[0] - 0.5
    assert code_log_prob(prior, new, CPU).sum(1).mean() > code_log_prob(histogram, new, CPU).sum(1).mean() + 1


@pytest.mark.parametrize(("n_rows", "n_embeddings", "tried"), [(3, 6, False), (5, 6, True), (15, 64, False), (16, 64, True)])
def test_a_network_is_not_tried_on_a_handful_of_rows(monkeypatch, n_rows, n_embeddings, tried):
    calls = []

    def fit_share(prior, rows, device, plan, **params):
        calls.append(len(rows))
        prior.share.fill_(0.5)

    monkeypatch.setattr(code_priors, "fit_share", fit_share)
    prior, rows = make_prior(n_embeddings=n_embeddings), chained(n_rows, n_embeddings)
    losses, _ = fit(prior, rows)
    assert calls == [n_rows] * tried
    assert len(losses) == 10 * tried
    assert prior.share == 0.5 * tried
    if not tried:
        histogram = make_prior(HistogramPrior, n_embeddings=n_embeddings)
        fit(histogram, rows)
        np.testing.assert_allclose(code_log_prob(prior, rows, CPU), code_log_prob(histogram, rows, CPU), rtol=1e-6)


def test_a_network_that_adds_nothing_is_not_trained(monkeypatch):
    monkeypatch.setattr(code_priors, "fit_share", lambda prior, *args, **params: prior.share.zero_())
    prior = make_prior()
    before = {name: value.clone() for name, value in prior.blocks.state_dict().items()}
    assert len(fit(prior, chained(50))[0]) == 0
    assert all(torch.equal(value, before[name]) for name, value in prior.blocks.state_dict().items())


def test_many_rows_are_not_halved(monkeypatch):
    monkeypatch.setattr(code_priors, "FEW_ROWS", 40)
    monkeypatch.setattr(code_priors, "fit_share", lambda *args, **params: pytest.fail("halved"))
    prior = make_prior()
    assert len(fit(prior, chained(41))[0]) == 10
    assert prior.share == 1


def test_one_code_that_depends_on_nothing_is_counted():
    prior, rows = make_prior(n_codes=1), chained(50, n_codes=1)
    assert len(fit(prior, rows)[0]) == 0
    expected = np.log((np.bincount(rows[:, 0].astype(int), minlength=6) + 1) / 56)[rows.astype(int)]
    np.testing.assert_allclose(code_log_prob(prior, rows, CPU), expected, rtol=1e-6)


@pytest.mark.parametrize("cls", [HistogramPrior, TransformerPrior])
def test_going_on_counts_on(cls):
    prior, whole, rows = make_prior(cls), make_prior(cls), chained(60)
    fit(prior, rows[:20])
    for part in (rows[20:30], rows[30:31], rows[31:]):
        fit(prior, part, begins=False, remembered=1000)
    fit(whole, rows)
    name = "frequency" if cls is HistogramPrior else "log_frequency"
    np.testing.assert_allclose(getattr(prior, name), getattr(whole, name), rtol=1e-5)


def test_earlier_rows_fade():
    prior = make_prior(HistogramPrior)
    fit(prior, np.zeros((500, 3), np.float32))
    for _ in range(20):
        fit(prior, np.ones((10, 3), np.float32), begins=False, remembered=50)
    assert prior.counts.sum(-1).max() <= 60 + 1e-3
    assert (prior.frequency[0, :, 1] > 0.85).all()
    fit(prior, np.zeros((500, 3), np.float32))
    assert (prior.counts[0, :, 1] == 0).all()


def test_weights_count_as_rows():
    rows, weight = chained(40), np.random.default_rng(0).integers(1, 4, 40).astype(float)
    weighted, repeated = make_prior(HistogramPrior), make_prior(HistogramPrior)
    fit(weighted, rows, weight=weight)
    fit(repeated, np.repeat(rows, weight.astype(int), axis=0))
    np.testing.assert_allclose(weighted.frequency, repeated.frequency, rtol=1e-6)


def test_a_network_heeds_weights(monkeypatch):
    monkeypatch.setattr(code_priors, "FEW_ROWS", 0)
    rows, new = chained(300), chained(300, seed=1)
    both, weight = np.concatenate([rows, 5 - rows]), np.repeat([2.0, 0.01], 300)
    weighted, plain = make_prior(), make_prior()
    fit(weighted, both, weight=weight)
    fit(plain, both)
    scores = [code_log_prob(prior, new, CPU).sum(1).mean() for prior in (weighted, plain)]
    unlike = [code_log_prob(prior, 5 - new, CPU).sum(1).mean() for prior in (weighted, plain)]
    assert scores[0] > scores[1] + 0.3
    assert unlike[0] < unlike[1] - 1


def test_a_network_begins_with_the_vectors_of_the_codes(monkeypatch):
    prior, given = make_prior(upper=[((2,), 4)]), []
    monkeypatch.setattr(prior, "set_embeddings", lambda *books: given.append(books))
    books = [np.ones((4, 2), np.float32), np.zeros((6, 3), np.float32)]
    rows = np.concatenate([np.zeros((50, 2), np.float32), chained(50)], axis=1)
    monkeypatch.setattr(code_priors, "fit_share", lambda *args, **params: None)
    for begins in (True, False):
        fit_code_prior(prior, rows, CPU, PLAN, codebooks=books, begins=begins)
    ((own, (above,)),) = given
    assert (tuple(own.shape), tuple(above.shape)) == ((6, 3), (4, 2))


def test_divergence_is_raised():
    plan = Plan(32, 3, 6, 1e30, Optimizer("sgd", schedule="constant"), seed=0)
    with pytest.raises(DivergedError):
        fit(make_prior(), chained(50), plan)


def test_levels_have_plans_of_their_own():
    plans = [level_plan(PLAN, level) for level in range(3)]
    assert len({plan.seed for plan in plans}) == 3
    assert {plan.n_epochs for plan in plans} == {10}


def test_rows_and_codebooks_of_levels():
    X, _ = blobs()
    module, _ = build(X, n_levels=3, n_codes=4, n_embeddings=(4, 5, 6), embedding_dim=(1, 2, 3))
    codes = np.arange(7)[np.newaxis]
    assert [level_rows(module, codes, level).shape[1] for level in range(3)] == [1, 3, 7]
    assert [book.shape for book in codebooks_of(module, 2)] == [(4, 1), (5, 2), (6, 3)]
    assert len(codebooks_of(module, 0)) == 1
