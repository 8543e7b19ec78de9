import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from scipy.special import logsumexp

from skvae import (
    CVAE,
    TDVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderImputer,
    ContractiveAE,
    CVAEClassifier,
    CVAEResampler,
    DenoisingAE,
    Poisson,
    SparseAE,
    VAETransformer,
)
from skvae.data.sources import as_source
from skvae.modules import Batch, LikelihoodSpec, PoissonLikelihood

ZERO, CONSTANT = 4, 5
SLOPE, BASE = np.array([0.8, -0.5, 0.6, 0.3]), np.log([0.3, 3.0, 20.0, 200.0])
QUICK = {"hidden_layer_sizes": (16,), "max_epochs": 4, "random_state": 0, "likelihood": "poisson"}
METHODS = ("neighbors", "mahalanobis", "reconstruction", "likelihood")


def draw(n_rows, seed=0):
    """Counts of one factor, a column of zeros and a constant one, and their rates."""
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.normal(size=(n_rows, 1)) * SLOPE + BASE)
    return np.column_stack([rng.poisson(rates), np.zeros(n_rows), np.full(n_rows, 3.0)]).astype(float), rates


X, RATES = draw(200)
LABELS = np.where(RATES[:, 0] > np.median(RATES[:, 0]), "high", "low")


def with_holes():
    holes = X.copy()
    holes[np.random.default_rng(1).random(X.shape) < 0.15] = np.nan
    holes[:, [ZERO, CONSTANT]] = X[:, [ZERO, CONSTANT]]
    return holes


def are_counts(rows):
    rows = np.asarray(rows)
    return rows.dtype.kind == "f" and bool((rows == np.round(rows)).all() and (rows >= 0.0).all())


# -- every estimator, end to end --------------------------------------------------------------------------------------

TABLES = {
    "AutoEncoder": AutoEncoder(2, **QUICK),
    "AutoEncoder, linear": AutoEncoder(2, **{**QUICK, "hidden_layer_sizes": ()}),
    "AutoEncoder, tied": AutoEncoder(2, decoder="tied", **QUICK),
    "DenoisingAE": DenoisingAE(2, **QUICK),
    "DenoisingAE, pretrained": DenoisingAE(
        2, corruption=["masking", "salt_and_pepper", "dropout"], pretraining_epochs=1, **QUICK
    ),
    "SparseAE, kl": SparseAE(4, **QUICK),
    "SparseAE, top_k": SparseAE(4, penalty="top_k", k=1, revival_weight=0.03, **QUICK),
    "ContractiveAE": ContractiveAE(2, **QUICK),
    "ContractiveAE, linear": ContractiveAE(2, hessian=0.1, **{**QUICK, "hidden_layer_sizes": ()}),
    "ContractiveAE, hutchinson": ContractiveAE(2, jacobian="hutchinson", hessian=0.1, **QUICK),
    "VAETransformer": VAETransformer(2, **QUICK),
    "VQVAE": VQVAE(8, embedding_dim=2, n_codes=2, code_prior="histogram", **QUICK),
    "CVAE": CVAE(2, condition_columns=[CONSTANT - 5], **QUICK),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_estimator_of_tables(name):
    model = TABLES[name].fit(X)
    rows = model.sample(200, random_state=1)
    own = slice(1, None) if isinstance(model, CVAE) else slice(None)
    assert are_counts(rows[:, own])
    for made in (rows, model.sample(20, mean=True), model.reconstruct(X)):
        assert (made[:, own] >= 0.0).all()
        assert (made[:, ZERO] == 0.0).all()
        assert (made[:, CONSTANT] == 3.0).all()
    scores = model.score_samples(X)
    assert (scores < 0.0).all()  # of probabilities
    np.testing.assert_array_equal(model.noise_scale_, 0.0)
    for method in METHODS:
        assert np.isfinite(model.score_anomaly(X, method=method)).all()
        if method != "likelihood":
            shares = model.explain_anomaly(X[:5], method=method)
            np.testing.assert_allclose(shares.sum(1), model.score_anomaly(X[:5], method=method), rtol=1e-4)
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.score_samples(X), scores)
    np.testing.assert_array_equal(copied.score_anomaly(X), model.score_anomaly(X))


@pytest.mark.parametrize("name", ["AutoEncoder", "AutoEncoder, linear", "VAETransformer", "VQVAE", "ContractiveAE"])
def test_rows_do_not_depend_on_their_neighbors(name):
    model = TABLES[name].fit(X)
    for method in ("transform", "reconstruct", "score_samples", "score_anomaly"):
        together = getattr(model, method)(X)
        alone = np.concatenate([getattr(model, method)(X[[i]]) for i in (0, 17, 199)])
        np.testing.assert_array_equal(alone, together[[0, 17, 199]], err_msg=method)


@pytest.mark.parametrize("estimator", [AutoEncoder, DenoisingAE, SparseAE, ContractiveAE, VAETransformer])
def test_missing_counts(estimator):
    rows = with_holes()
    model = estimator(2, missing_values=np.nan, **QUICK).fit(rows)
    assert np.isfinite(model.score_samples(rows)).all()
    assert np.isfinite(model.score_anomaly(rows)).all()
    deviance = model.explain_anomaly(rows, method="reconstruction")
    assert (deviance[np.isnan(rows)] == 0.0).all()
    # What is missing is summed out: a probability of fewer counts is larger.
    assert (model.score_samples(rows)[np.isnan(rows).any(1)] > model.score_samples(X)[np.isnan(rows).any(1)] - 5.0).all()


def test_sparse_and_weighted_rows_and_streams():
    dense = VAETransformer(2, **QUICK).fit(X)
    compressed = VAETransformer(2, **QUICK).fit(sparse.csr_array(X))
    np.testing.assert_array_equal(compressed.score_samples(sparse.csr_matrix(X)), dense.score_samples(X))
    weighted = VAETransformer(2, **QUICK).fit(X, sample_weight=np.linspace(0.5, 1.5, len(X)))
    assert np.isfinite(weighted.score(X))
    stream = AutoEncoder(2, **QUICK).partial_fit(X[:100]).partial_fit(X[100:])
    assert np.isfinite(stream.score_anomaly(X)).all()
    # References of earlier calls are counts again.
    assert are_counts(stream.module_.likelihood.from_comparable(torch.from_numpy(stream._kept_rows.x)))


def test_data_frames_and_integers():
    frame = pd.DataFrame(X.astype(np.int64), columns=list("abcdef"))
    model = VAETransformer(2, likelihood=Poisson(), hidden_layer_sizes=(16,), max_epochs=4, random_state=0).fit(frame)
    np.testing.assert_array_equal(model.score_samples(frame), VAETransformer(2, **QUICK).fit(X).score_samples(X))


def test_conditions_and_completions():
    model = CVAE(2, **{**QUICK, "max_epochs": 60}).fit(X, LABELS)
    assert are_counts(model.sample(20, y="low", random_state=0))
    assert model.sample(500, y="high", random_state=0)[:, 0].mean() > model.sample(500, y="low", random_state=0)[:, 0].mean()
    mask = np.zeros(6, dtype=bool)
    mask[[1, 2]] = True
    filled = model.inpaint(X[:9], mask, LABELS[:9])
    drawn = model.draw_inpaintings(X[:9], mask, LABELS[:9], n_draws=10, random_state=0)
    assert are_counts(drawn)
    assert np.abs(np.log(drawn[..., 2].mean(1) / filled[:, 2])).max() < 0.5
    assert np.abs(np.log(filled[:, 2] / RATES[:9, 2])).mean() < 0.8
    kept = model.inpaint(pd.DataFrame(X[:9]), mask, LABELS[:9])
    np.testing.assert_array_equal(np.asarray(kept)[:, ~mask], X[:9][:, ~mask])


def test_classifier_and_resampler():
    classifier = CVAEClassifier(CVAE(2, **{**QUICK, "max_epochs": 100})).fit(X, LABELS)
    assert classifier.score(X, LABELS) > 0.8
    order = np.argsort(LABELS, kind="stable")[60:]
    rows, labels = CVAEResampler(CVAE(2, **QUICK), random_state=0).fit_resample(X[order], LABELS[order])
    assert are_counts(rows)
    assert (labels == "high").sum() == (labels == "low").sum()


def waves(n_sequences=40, n_steps=12, seed=0):
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0.0, 6.3, size=(n_sequences, 1)) + 0.7 * np.arange(n_steps)
    return rng.poisson(np.exp(1.5 + np.sin(phase)))[..., np.newaxis].astype(float)


def test_sequences():
    counts = waves()
    model = TDVAE(8, n_latents=2, max_epochs=20, likelihood="poisson", random_state=0).fit(counts)
    assert are_counts(model.sample(5, random_state=0))
    assert are_counts(model.rollout(counts[:3], 4, n_futures=3, random_state=0))
    assert (model.forecast(counts, horizon=2) > 0.0).all()
    assert (model.score_samples(counts) < 0.0).all()
    moved = counts.copy()
    moved[:, 6] = 60.0
    steps = model.score_anomaly_steps(moved)
    assert (steps.argmax(1) == 6).all()
    np.testing.assert_allclose(model.explain_anomaly(moved).sum((1, 2)), model.score_anomaly(moved), rtol=1e-5)
    ragged = TDVAE(8, n_latents=2, max_epochs=2, likelihood="poisson", random_state=0).fit(
        [row[: 5 + i % 7] for i, row in enumerate(counts)]
    )
    assert np.isfinite(ragged.score_samples(list(counts[:3]))).all()
    counts[3, 2] = 0.5
    with pytest.raises(ValueError, match=r"likelihood='poisson' takes counts.*column 0 of X has 0\.5"):
        TDVAE(8, n_latents=2, max_epochs=2, likelihood="poisson").fit(counts)
    with pytest.raises(ValueError, match="likelihood='poisson' takes counts"):
        model.score_samples(counts)


@pytest.mark.parametrize("mechanism", ["random", "self_masking", "linear", "nonlinear"])
def test_imputation(mechanism):
    rows = with_holes()
    quick = {**QUICK, "max_epochs": 4 if mechanism == "self_masking" else 20}
    imputer = AutoencoderImputer(VAETransformer(2, **quick), mechanism=mechanism, n_draws=50, random_state=0).fit(rows)
    missing = np.isnan(rows)
    filled, drawn = imputer.transform(rows), imputer.impute(rows, 20, random_state=0)
    assert np.isfinite(filled).all()
    assert are_counts(drawn)
    np.testing.assert_array_equal(filled[~missing], X[~missing])
    np.testing.assert_allclose(drawn[:, missing].mean(), filled[missing].mean(), rtol=0.1)


def test_imputation_by_autoencoders():
    filled = AutoencoderImputer(AutoEncoder(2, **QUICK), n_draws=50, random_state=0).fit_transform(with_holes())
    assert (filled >= 0.0).all()


def test_flags_anomalies():
    detector = AnomalyDetector(VAETransformer(2, **{**QUICK, "max_epochs": 30}), alpha=0.1, random_state=0).fit(X)
    odd = X[:30].copy()
    odd[:, 1] += 60.0
    assert (detector.predict(odd) == -1).mean() > 0.9
    assert (detector.predict(draw(200, seed=5)[0]) == -1).mean() < 0.3


def test_images():
    images = np.random.default_rng(0).poisson(4.0, size=(30, 1, 8, 8)).astype(float)
    model = VAETransformer(2, max_epochs=2, likelihood="poisson", random_state=0).fit(images)
    assert model.sample(3).shape == (3, 1, 8, 8)
    assert are_counts(model.sample(3))


# -- what is refused --------------------------------------------------------------------------------------------------


def test_errors_name_the_column_the_value_and_the_cure():
    frame = pd.DataFrame(X, columns=["words", "b", "c", "d", "e", "f"])
    model = VAETransformer(2, **QUICK).fit(frame)
    frame.loc[7, "c"] = 2.5
    for call in (VAETransformer(2, **QUICK).fit, model.score_samples, model.score_anomaly):
        with pytest.raises(ValueError, match=r"likelihood='poisson' takes counts.*'c' of X has 2\.5.*likelihood='gaussian'"):
            call(frame)
    conditional = CVAE(2, condition_columns=["words"], **QUICK)
    with pytest.raises(ValueError, match=r"'c' of X has 2\.5"):
        conditional.fit(frame)
    with pytest.raises(ValueError, match=r"'c' of X has 2\.5"):
        conditional.fit(frame.round()).score_samples(frame)
    with pytest.raises(ValueError, match=r"has -1.*neither centered nor scaled"):
        VAETransformer(2, **QUICK).fit(X - 1.0)
    # Codes are for any numbers: what is read need not be what can be produced.
    assert np.isfinite(model.transform(frame - 3.0)).all()


def test_bits_take_no_step():
    model = TABLES["VQVAE"].fit(X)
    np.testing.assert_allclose(model.bits_per_dim(X), -model.score_samples(X) / 6 / np.log(2.0))
    with pytest.raises(ValueError, match="turns densities into probabilities, which those of likelihood='poisson' are already"):
        model.bits_per_dim(X, step=0.5)


def test_there_is_no_noise_to_set():
    with pytest.raises(ValueError, match="Poisson has no parameter 'noise'; it has none"):
        VAETransformer(likelihood=Poisson()).set_params(likelihood__noise="shared")


# -- what comes out ---------------------------------------------------------------------------------------------------


def by_quadrature(rows, slope, base):
    """Log-probabilities under rates ``exp(base + slope z)`` and a normal z."""
    grid = np.linspace(-8.0, 8.0, 4001)
    log_weight = -0.5 * grid**2 - logsumexp(-0.5 * grid**2)
    return np.array(
        [logsumexp(log_weight + stats.poisson.logpmf(row, np.exp(grid[:, None] * slope + base)).sum(1)) for row in rows]
    )


def one_factor(estimator, **params):
    """Fit a linear model of one factor to rows without constant columns."""
    model = estimator(1, hidden_layer_sizes=(), likelihood="poisson", random_state=0, **params)
    return model.fit(draw(1000)[0][:, :4])


def test_the_score_is_that_of_quadrature():
    model, rows = one_factor(VAETransformer, max_epochs=120, learning_rate=0.03, linear_path=None), draw(150, seed=3)[0][:, :4]
    layer, base = model.module_.decoder[-1], model.module_.likelihood.base
    exact = by_quadrature(rows, layer.weight[:, 0].detach().double().numpy(), (layer.bias + base).detach().double().numpy())
    scores = [model.set_params(n_score_draws=n_draws).score_samples(rows) for n_draws in (1, 8, 64, 1024)]
    means = [score.mean() for score in scores]
    assert means[0] < means[1] < means[2]
    assert means[0] < exact.mean()
    np.testing.assert_allclose(means[-1], exact.mean(), atol=0.03)
    assert np.median(np.abs(scores[-1] - exact)) < 0.03


def test_rates_are_recovered():
    model, (rows, rates) = one_factor(AutoEncoder, max_epochs=150), draw(500, seed=4)
    rows, rates = rows[:, :4], rates[:, :4]
    np.testing.assert_allclose(model.score(rows[:150]), by_quadrature(rows[:150], SLOPE, BASE).mean(), atol=0.1)
    error, of_counts = np.log(model.reconstruct(rows) / rates), np.log((rows + 0.5) / rates)
    assert (error.std(0) < of_counts.std(0)).all()
    assert error.std(0).max() < 0.3
    sampled, drawn = model.sample(4000, random_state=0), draw(4000, seed=5)[0][:, :4]
    np.testing.assert_allclose(sampled.mean(0), drawn.mean(0), rtol=0.1)
    np.testing.assert_allclose(sampled.std(0), drawn.std(0), rtol=0.2)


def test_huge_counts_are_learned():
    rng = np.random.default_rng(0)
    rows = rng.poisson(np.exp(rng.normal(size=(400, 1)) * [0.5, 0.3] + np.log([1e6, 20.0]))).astype(float)
    model = AutoEncoder(1, hidden_layer_sizes=(), max_epochs=300, likelihood="poisson", random_state=0).fit(rows)
    np.testing.assert_allclose(model.reconstruct(rows)[:, 0], rows[:, 0], rtol=0.01)
    assert np.isfinite(model.score_samples(rows)).all()


def gaussian_nats_of_counts(model, rows, n_draws=256):
    """Importance-weighted log-probabilities of counts: those of the unit intervals around them, and of all below for zero."""
    module, noise = model.module_, torch.Generator().manual_seed(0)
    x = module.likelihood.standardize(rows)
    with torch.no_grad():
        drawn = torch.randn(len(rows), n_draws, model.n_components_, generator=noise)
        z, log_q = module.propose(Batch.of(x, noise={"posterior": drawn}))
        mean = module.likelihood.mean(module.decode(z, Batch.of(x)).flatten(0, 1)).reshape(len(rows), n_draws, -1)
        log_ratio = (module.prior.log_prob(z, None) - log_q).double().numpy()
    counts, scale = rows[:, np.newaxis], model.noise_scale_
    below = np.where(counts == 0.0, -np.inf, (counts - 0.5 - mean) / scale)
    above = (counts + 0.5 - mean) / scale
    flip = below > 0.0  # in the upper tail, from the other side
    low, high = np.where(flip, -above, below), np.where(flip, -below, above)
    log_share = stats.norm.logcdf(high) + np.log1p(-np.exp(stats.norm.logcdf(low) - stats.norm.logcdf(high)))
    return logsumexp(log_share.sum(-1) + log_ratio, axis=1) - np.log(n_draws)


@pytest.mark.slow
def test_beats_a_gaussian_on_words():
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(25, 0.15), 4)

    def texts(n_texts):
        lengths = rng.gamma(4.0, 12.0, size=(n_texts, 1))
        return rng.poisson(lengths * rng.dirichlet(np.full(4, 0.3), n_texts) @ topics + 0.01).astype(float)

    training, held_out = texts(800), texts(200)
    common = {"n_components": 4, "hidden_layer_sizes": (32,), "random_state": 0}
    poisson = VAETransformer(likelihood="poisson", **common).fit(training)
    gaussian = VAETransformer(**common).fit(training)
    independent = stats.poisson.logpmf(held_out, training.mean(0)).sum(1).mean()
    score = poisson.score(held_out)
    assert score > independent + 10.0
    assert score > gaussian_nats_of_counts(gaussian, held_out).mean() + 1.5


class _Positive(PoissonLikelihood):
    """Counts of at least one."""

    def check(self, X, name=int):
        super().check(X, name)
        values = np.asarray(as_source(X).read(slice(None)))
        if (values[~np.isnan(values)] < 1.0).any():
            raise ValueError("takes no zeros")


class Positive(LikelihoodSpec):
    _module_class = _Positive


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_masked_entries_are_not_looked_at_though_zero_is_refused(dtype):
    X = np.random.default_rng(0).poisson(5.0, size=(100, 4)).astype(dtype) + dtype(1)
    model = CVAE(2, likelihood=Positive(), max_epochs=5, random_state=0).fit(X, np.zeros(100))
    mask = np.zeros((5, 4), dtype=bool)
    mask[:, 1] = True
    masked = X[:5].copy()
    masked[:, 1] = 0
    for rows in (masked, pd.DataFrame(masked)):
        filled = model.inpaint(rows, mask, np.zeros(5))
        np.testing.assert_array_equal(filled[:, 0], X[:5, 0])
        assert (filled[:, 1] > 0.0).all()
    with pytest.raises(ValueError, match="takes no zeros"):
        model.inpaint(masked, ~mask, np.zeros(5))
