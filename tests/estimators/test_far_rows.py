"""Scores of rows far from training, under likelihoods whose information depends on the decoder's output."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.datasets import load_digits

from skvae import AutoEncoder, DenoisingAE, SparseAE
from skvae.inference.importance import pooled_noise
from skvae.modules import AutoEncoderModule, Batch

N_FEATURES = 8
COUNTS = [5.0, 20.0, 100.0, 500.0, 1e3, 1e4]
QUICK = {"linear_path": None, "hidden_layer_sizes": (16,), "max_epochs": 40, "random_state": 0}


def counts(n_rows=400, seed=0):
    """Counts around five, of two factors."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_rows, 2)) @ np.random.default_rng(7).normal(size=(2, N_FEATURES))
    return rng.poisson(5.0 * np.exp(0.4 * z)).astype(float)


def zeros_and_ones(n_rows=400, seed=0):
    """Digits in black and white."""
    digits = (load_digits().data > 8).astype(float)
    return digits[np.random.default_rng(seed).permutation(len(digits))[:n_rows]]


def far_counts():
    """Rows with a column of ever larger counts, and with counts that are multiples of one row's."""
    rows = np.repeat(counts(1, seed=5), len(COUNTS), axis=0)
    rows[:, 0] = COUNTS
    return np.vstack([rows, counts(1, seed=6) * np.array([[1.0], [10.0], [100.0]])])


def far_bits():
    """Negatives of digits, and noise."""
    return np.vstack([1.0 - zeros_and_ones(8, seed=5), np.random.default_rng(3).integers(0, 2, (4, 64)).astype(float)])


CASES = {
    "counts": (AutoEncoder(2, likelihood="poisson", **QUICK), counts, far_counts),
    "counts, one component": (AutoEncoder(1, likelihood="poisson", **QUICK), counts, far_counts),
    "counts, linear": (AutoEncoder(2, likelihood="poisson", **{**QUICK, "hidden_layer_sizes": ()}), counts, far_counts),
    "counts, wide": (AutoEncoder(6, likelihood="poisson", activation="tanh", **QUICK), counts, far_counts),
    "counts, denoising": (DenoisingAE(2, likelihood="poisson", **QUICK), counts, far_counts),
    "counts, patterns": (
        SparseAE(
            6,
            penalty="top_k",
            k=2,
            likelihood="poisson",
            **{name: value for name, value in QUICK.items() if name != "linear_path"},
        ),
        counts,
        far_counts,
    ),
    "bits": (AutoEncoder(2, likelihood="bernoulli", **QUICK), zeros_and_ones, far_bits),
    "bits, linear": (AutoEncoder(2, likelihood="bernoulli", **{**QUICK, "hidden_layer_sizes": ()}), zeros_and_ones, far_bits),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    estimator, train, far = CASES[request.param]
    return estimator.fit(train()), train(seed=1), far()


def undamped(model):
    """Return a copy that takes every Newton step."""
    plain = copy.deepcopy(model)
    plain.module_.__dict__["is_curved"] = False
    return plain


def batch_of(model, rows, n_draws=64):
    x = model.module_.likelihood.standardize(rows)
    noise = pooled_noise(model.module_.n_components, n_draws, torch.device("cpu"))(x)
    return Batch.of(x, noise={"posterior": noise})


def energy(model, rows, z):
    """Negative logarithm of p(x|z)p(z) at codes ``(n, n_components)``."""
    module, batch = model.module_, batch_of(model, rows)
    with torch.no_grad():
        return (module.likelihood.nll(batch.x, module.decode(z, batch)) - module.prior.log_prob(z)).double().numpy()


def means(model, rows):
    """Means of the proposals."""
    batch = batch_of(model, rows, 1)
    with torch.no_grad():
        return model.module_.propose(batch._replace(noise={"posterior": torch.zeros_like(batch.noise["posterior"])})).z[:, 0]


def codes(model, rows):
    with torch.no_grad():
        return model.module_.free_code(batch_of(model, rows))[0]


def at_the_code(model, rows, width):
    """Importance-weighted log-likelihood by draws from narrow normal distributions around the encoder's codes."""
    module, batch, center = model.module_, batch_of(model, rows, 64), codes(model, rows).unsqueeze(1)
    active = torch.ones_like(center) if not isinstance(model, SparseAE) else (center != 0.0).to(center)
    noise = batch.noise["posterior"]
    std = width * 10.0 * module.prior.secant  # which are a tenth of the codes' spread
    z = center + noise * std * active
    log_q = (stats.norm.logpdf(noise) - np.log(std.numpy())) * active.numpy()
    with torch.no_grad():
        log_p = module.prior.log_prob(z) - module.likelihood.nll(batch.x.unsqueeze(1), module.decode(z, batch))
    return logsumexp(log_p.double().numpy() - log_q.sum(-1), axis=1) - math.log(64)


def test_far_rows_score_no_less_than_at_their_codes(case):
    model, _, far = case
    score = model.score_samples(far)
    for width in (0.01, 0.03, 0.1, 0.3):
        floor = at_the_code(model, far, width)
        assert (score > floor - 4.0).all(), width


def test_means_are_no_worse_than_codes(case):
    model, near, far = case
    for rows in (near, far):
        at_mean, at_code = (energy(model, rows, z) for z in (means(model, rows), codes(model, rows)))
        assert (at_mean < at_code + 1.01).all()  # a nat is what keeping a Newton step may cost


def test_only_bad_steps_are_replaced(case):
    model, near, far = case
    rows = np.vstack([near, far])
    score, plain = model.score_samples(rows), undamped(model).score_samples(rows)
    same = score == plain
    assert same[: len(near)].mean() > 0.9
    assert not same[len(near) :].all()
    assert score[~same].min() > plain[~same].min()
    gain = energy(model, rows, means(undamped(model), rows)) - energy(model, rows, means(model, rows))
    assert (gain[same] == 0.0).all()
    assert (gain[~same] > 0.9).all()


def test_a_far_row_does_not_depend_on_its_neighbors(case):
    model, near, far = case
    together = model.score_samples(np.vstack([near, far, near]))[len(near) : len(near) + len(far)]
    np.testing.assert_array_equal(together, model.score_samples(far))
    np.testing.assert_array_equal(together[::-1], model.score_samples(far[::-1]))
    np.testing.assert_array_equal(together, np.concatenate([model.score_samples(row[np.newaxis]) for row in far]))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("counts")])
def test_scores_fall_with_counts_but_not_faster_than_they_grow(name):
    estimator, train, _ = CASES[name]
    rows = far_counts()[: len(COUNTS)]
    model = estimator.fit(train())
    score = model.score_samples(rows)
    assert (np.diff(score) < 1.0).all()
    # A Poisson distribution of the training's mean rate loses x log(x / 5) - x nats, and the rest of the row has its own.
    independent = stats.poisson.logpmf(rows, train().mean(0)).sum(1)
    assert (score > 1.5 * independent - 50.0).all()


@pytest.mark.parametrize(("likelihood", "tolerance"), [("poisson", 1.0), ("bernoulli", 0.2)])
def test_scores_of_far_rows_are_those_of_quadrature(likelihood, tolerance):
    train, rows = (counts(), far_counts()) if likelihood == "poisson" else (zeros_and_ones(), far_bits())
    model = AutoEncoder(1, hidden_layer_sizes=(), likelihood=likelihood, random_state=0, max_epochs=60).fit(train)
    module = copy.deepcopy(model.module_).double()
    grid = module.prior.mean + torch.linspace(-40.0, 40.0, 80_001, dtype=torch.float64).unsqueeze(1) * 10.0 * module.prior.secant
    x = torch.from_numpy(rows)
    with torch.no_grad():
        output, log_prior = module.decoder(grid), module.prior.log_prob(grid)
        log_p = [torch.logsumexp(log_prior - module.likelihood.nll(row, output), 0) for row in x]
        exact = torch.stack(log_p) + torch.log(grid[1] - grid[0])
    np.testing.assert_allclose(model.score_samples(rows), exact, rtol=5e-3, atol=tolerance)


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli"])
def test_far_rows_with_gaps(likelihood):
    train, far = (counts(), far_counts()) if likelihood == "poisson" else (zeros_and_ones(), far_bits())
    gaps = train.copy()
    gaps[np.random.default_rng(1).random(train.shape) < 0.1] = np.nan
    model = AutoEncoder(2, likelihood=likelihood, missing_values=np.nan, **QUICK).fit(gaps)
    far[:, 3] = np.nan
    score = model.score_samples(far)
    far[:, 3] = train[: len(far), 3]
    # One entry less is more probable, whatever stood in its place.
    assert (score > model.score_samples(far) - 1.0).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_constant_information_needs_no_search(likelihood, monkeypatch):
    def refuse(*args):
        raise AssertionError("a search")

    monkeypatch.setattr(AutoEncoderModule, "_damped", refuse)
    model = AutoEncoder(2, likelihood=likelihood, **QUICK).fit(counts())
    assert np.isfinite(model.score_samples(far_counts())).all()
    assert model.module_.slope_decodes == 4


@pytest.mark.parametrize("name", ["counts", "bits"])
def test_there_is_no_noise_to_fit(name):
    estimator, train, far = CASES[name]
    model = estimator.fit(train())
    before = copy.deepcopy({key: value for key, value in model.module_.state_dict().items() if isinstance(value, torch.Tensor)})
    model.module_.fit_noise(batch_of(model, train()))
    model.score_samples(far())
    for key, value in before.items():
        assert torch.equal(model.module_.state_dict()[key], value), key


def test_codes_without_an_energy_are_not_gone_to(monkeypatch):
    model = AutoEncoder(2, likelihood="poisson", **{**QUICK, "hidden_layer_sizes": ()}).fit(counts())
    rows = far_counts()
    decode, start = model.module_.decode, codes(model, rows)

    def decode_near(z, batch):
        away = (z - (start if z.dim() == 2 else start.unsqueeze(1))).norm(dim=-1, keepdim=True)
        return torch.where(away > 1.0, math.nan, decode(z, batch))

    monkeypatch.setattr(model.module_, "decode", decode_near)
    assert (energy(undamped(model), rows, means(undamped(model), rows)) != energy(model, rows, means(model, rows))).any()
    assert np.isfinite(energy(model, rows, means(model, rows))).all()
