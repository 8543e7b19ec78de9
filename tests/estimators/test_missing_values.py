"""Rows with missing entries."""

import numpy as np
import pandas as pd
import pytest
from conftest import ESTIMATORS, crossed
from scipy import sparse, stats

from skvae import CVAE, VQVAE, AutoEncoder, AutoencoderImputer, Conv, DenoisingAE, LinearPath, VAETransformer

pytestmark = pytest.mark.usefixtures("one_core")

TAKES_MISSING = [cls for cls in ESTIMATORS if "missing_values" in cls().get_params()]


@pytest.fixture(params=TAKES_MISSING, ids=lambda cls: cls.__name__)
def make(request):
    def make(**params):
        return request.param(n_components=2, hidden_layer_sizes=(8,), max_epochs=3, random_state=0).set_params(**params)

    return make


@pytest.fixture
def gaps(X):
    """Rows of which a quarter is missing, but nothing in the first column."""
    mask = np.random.default_rng(1).random(X.shape) < 0.25
    mask[:, 0] = False
    return np.where(mask, np.nan, X)


def state(model):
    return {name: value.numpy() for name, value in model.module_.state_dict().items() if hasattr(value, "numpy")}


def test_who_takes_missing_values():
    assert {cls.__name__ for cls in TAKES_MISSING} == {
        "AutoEncoder",
        "ContractiveAE",
        "DenoisingAE",
        "NeighborAE",
        "SparseAE",
        "VAETransformer",
    }


def test_off_the_error_stays(make, gaps):
    with pytest.raises(ValueError, match="NaN"):
        make().fit(gaps)
    assert not make().__sklearn_tags__().input_tags.allow_nan
    assert make(missing_values=np.nan).__sklearn_tags__().input_tags.allow_nan


@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"likelihood": "laplace", "likelihood__noise": "shared"}])
def test_nothing_changes_where_nothing_is_missing(make, X, params):
    plain, able = make(**params).fit(X), make(missing_values=np.nan, **params).fit(X)
    assert all(np.array_equal(able_, plain_) for able_, plain_ in zip(state(able).values(), state(plain).values(), strict=True))
    np.testing.assert_array_equal(plain.score_samples(X), able.score_samples(X))
    np.testing.assert_array_equal(plain.transform(X), able.transform(X))


def test_everything_works(make, X, gaps):
    model = make(missing_values=np.nan).fit(gaps)
    for method in ("transform", "reconstruct", "score_samples", "score_anomaly", "explain_anomaly", "effective_sample_size"):
        for rows in (X, gaps):
            assert np.isfinite(getattr(model, method)(rows)).all(), method
    for method in ("neighbors", "mahalanobis", "reconstruction"):
        shares = model.explain_anomaly(gaps, method=method)
        np.testing.assert_allclose(shares.sum(1), model.score_anomaly(gaps, method=method), rtol=1e-6)
        assert (shares >= 0).all()
    assert (shares[np.isnan(gaps)] == 0).all()  # of residuals
    model.partial_fit(gaps)
    model.set_params(warm_start=True).fit(gaps)


def test_rows_alone_and_together(make, gaps):
    model = make(missing_values=np.nan).fit(gaps)
    for method in ("transform", "score_samples"):
        together = getattr(model, method)(gaps[:6])
        np.testing.assert_array_equal(together, np.concatenate([getattr(model, method)(gaps[i : i + 1]) for i in range(6)]))


def test_another_number_and_other_containers(make, gaps):
    expected = make(missing_values=np.nan).fit(gaps).score_samples(gaps)
    marked = np.where(np.isnan(gaps), -999, gaps)
    np.testing.assert_array_equal(make(missing_values=-999).fit(marked).score_samples(marked), expected)
    frame = pd.DataFrame(gaps)
    np.testing.assert_array_equal(make(missing_values=np.nan).fit(frame).score_samples(frame), expected)
    packed = sparse.csr_matrix(gaps)
    np.testing.assert_array_equal(make(missing_values=np.nan).fit(packed).score_samples(packed), expected)
    with pytest.raises(ValueError, match="NaN"):
        make(missing_values=-999).fit(gaps)
    with pytest.raises(ValueError, match="missing_values=0"):
        make(missing_values=0).fit(sparse.csr_matrix(marked))


def test_columns_that_were_complete_in_training(make, X):
    model = make(missing_values=np.nan).fit(X)
    rows = X[:5].copy()
    rows[:, 1] = np.nan
    assert np.isfinite(model.score_samples(rows)).all()
    filled = rows.copy()
    filled[:, 1] = X[:, 1].mean()
    np.testing.assert_allclose(model.transform(rows), model.transform(filled), atol=1e-4)


def test_empty_columns_and_rows(make, gaps):
    empty = gaps.copy()
    empty[:, 2] = np.nan
    with pytest.raises(ValueError, match=r"Column\(s\) \[2\].*drop"):
        make(missing_values=np.nan).fit(empty)
    rows = gaps.copy()
    rows[3] = np.nan
    model = make(missing_values=np.nan).fit(rows)
    assert np.isfinite(model.transform(rows)).all()
    assert model.score_anomaly(rows, method="reconstruction")[3] == 0
    assert model.score_anomaly(rows).argmax() != 3


@pytest.mark.parametrize("params", [{}, {"early_stopping": True, "max_epochs": 5}], ids=["fit", "early stopping"])
def test_rows_without_entries_take_no_part_in_learning(make, X, gaps, params):
    gaps[::7] = np.nan
    known = ~np.isnan(gaps).all(axis=1)
    weight = np.random.default_rng(0).integers(0, 3, len(gaps))
    for given in ({}, {"sample_weight": weight}):
        among = make(missing_values=np.nan, **params).fit(gaps, **given)
        alone = make(missing_values=np.nan, **params).fit(gaps[known], **{name: values[known] for name, values in given.items()})
        for one, other in zip(state(among).values(), state(alone).values(), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(among.score_anomaly(X), alone.score_anomaly(X))
        np.testing.assert_array_equal(among.sample(5, random_state=0), alone.sample(5, random_state=0))
    with pytest.raises(ValueError, match=r"X has 1 row\(s\) with an entry that is not missing; at least 2 are needed"):
        make(missing_values=np.nan).fit(np.where(np.arange(len(X))[:, None] == 3, X, np.nan))


def test_nothing_is_known_of_a_row_without_entries(gaps):
    model = VAETransformer(2, max_epochs=30, random_state=0, missing_values=np.nan).fit(gaps)
    nothing = np.full((1, 5), np.nan)
    np.testing.assert_array_equal(model.transform(nothing), 0)
    np.testing.assert_allclose(model.score_samples(nothing), 0, atol=1e-5)


@pytest.mark.parametrize("bad", ["nan", True, np.inf, [np.nan]])
def test_what_stands_for_missing_is_a_number(X, bad):
    with pytest.raises(ValueError, match="missing_values"):
        AutoEncoder(missing_values=bad).fit(X)


def test_infinite_values_are_refused(make, gaps):
    gaps[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        make(missing_values=np.nan).fit(gaps)


def test_images_tied_weights_and_pretraining(gaps):
    images = np.tile(gaps, (1, 5))[:, :16].reshape(-1, 1, 4, 4)
    model = VAETransformer(2, max_epochs=30, missing_values=np.nan, random_state=0).fit(images)
    assert np.isfinite(model.reconstruct(images)).all()
    assert model.explain_anomaly(images).shape == images.shape
    model = DenoisingAE(2, max_epochs=2, missing_values=np.nan, pretraining_epochs=2, random_state=0).fit(gaps)
    assert np.isfinite(model.transform(gaps)).all()
    model = AutoEncoder(2, max_epochs=2, missing_values=np.nan, decoder="tied", random_state=0).fit(gaps)
    assert np.isfinite(model.reconstruct(gaps)).all()
    pixels = np.where(np.isnan(gaps), np.nan, gaps > 3)
    model = VAETransformer(2, max_epochs=2, missing_values=np.nan, likelihood="bernoulli", random_state=0).fit(pixels)
    assert np.isfinite(model.score_samples(pixels)).all()


def factors(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(2, 6))
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.5 * rng.normal(size=(n_rows, 6)), loadings


def test_score_is_the_marginal_of_what_is_observed():
    X, _ = factors(600)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    gaps[5] = np.nan
    model = AutoEncoder(2, hidden_layer_sizes=(), max_epochs=100, missing_values=np.nan, random_state=0).fit(gaps)
    origin = model.inverse_transform(np.zeros((1, 2)))[0]
    slopes = model.inverse_transform(np.eye(2)) - origin
    mean = origin + model.density_.mean_ @ slopes
    covariance = slopes.T @ model.density_.covariance_ @ slopes + np.diag(model.noise_scale_**2)
    scores = model.score_samples(gaps)
    for row, score in zip(gaps[:40], scores[:40], strict=True):
        seen = ~np.isnan(row)
        exact = stats.multivariate_normal(mean[seen], covariance[np.ix_(seen, seen)]).logpdf(row[seen]) if seen.any() else 0.0
        assert score == pytest.approx(exact, abs=2e-3)


def test_noise_does_not_depend_on_what_is_missing():
    X, _ = factors(3000)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    params = {"hidden_layer_sizes": (), "max_epochs": 60, "missing_values": np.nan, "random_state": 0}
    full, part = AutoEncoder(2, **params).fit(X), AutoEncoder(2, **params).fit(gaps)
    np.testing.assert_allclose(part.noise_scale_, full.noise_scale_, rtol=0.2)
    np.testing.assert_allclose(part.noise_scale_.mean(), full.noise_scale_.mean(), rtol=0.05)


@pytest.mark.parametrize("encoder", [None, Conv(channels=())], ids=["convolutions", "none"])
def test_images_with_gaps_and_tied_weights(make, encoder):
    images = np.random.default_rng(0).normal(size=(30, 1, 6, 6))
    images[::3, 0, 1, 1] = np.nan
    model = make(missing_values=np.nan, decoder="tied", encoder=encoder).fit(images)
    assert any(type(layer).__name__ == "TiedLinear" for layer in model.module_.decoder.modules())
    assert np.isfinite(model.reconstruct(images)).all()


def test_a_corruption_of_ones_own_sees_rows_without_gaps(gaps):
    seen = []

    def corruption(rows):
        seen.append(rows.isfinite().all().item())
        return rows + 1.0

    DenoisingAE(2, corruption=corruption, missing_values=np.nan, max_epochs=1).fit(gaps)
    assert len(seen) > 1
    assert all(seen)


@pytest.mark.parametrize(("dtype", "missing"), crossed([np.float64, np.float32, np.int64], [np.nan, -1.0]))
def test_masked_entries_are_missing(missing, dtype):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 9, size=(60, 4)).astype(dtype)
    masked = np.ma.masked_array(X, mask=rng.random(X.shape) < 0.2)
    plain = masked.astype(np.float64 if dtype is np.int64 else dtype).filled(missing)
    for cls in (VAETransformer, AutoEncoder):
        one, other = (cls(2, missing_values=missing, max_epochs=2, random_state=0).fit(rows) for rows in (masked, plain))
        np.testing.assert_array_equal(one.transform(masked), other.transform(plain))
        np.testing.assert_array_equal(one.score_samples(masked), other.score_samples(plain))
    base = VAETransformer(2, linear_path=LinearPath(1.0), max_epochs=2)
    one, other = (AutoencoderImputer(base, missing_values=missing, random_state=0).fit(rows) for rows in (masked, plain))
    np.testing.assert_array_equal(one.transform(masked), other.transform(plain))


@pytest.mark.parametrize("cls", [VAETransformer, VQVAE, CVAE])
def test_masked_entries_are_refused_where_none_may_be_missing(cls):
    X = np.ma.masked_array(np.arange(40.0).reshape(10, 4), mask=np.eye(10, 4, dtype=bool))
    with pytest.raises(ValueError, match=r"Input X contains masked entries.*(missing_values=np.nan|fill them in)"):
        cls(max_epochs=1).fit(X, np.zeros(10))
    cls(max_epochs=1).fit(np.ma.masked_array(X.data), np.zeros(10))  # with nothing masked


def test_the_marker_of_pandas_is_what_nan_is(make, gaps):
    frame = pd.DataFrame(gaps, columns=list("abcde")).convert_dtypes()
    assert frame.isna().any(axis=None)
    for rows in (gaps, frame):
        expected, found = (make(missing_values=marker).fit(rows) for marker in (np.nan, pd.NA))
        assert found.missing_values is pd.NA
        assert found.__sklearn_tags__().input_tags.allow_nan
        np.testing.assert_array_equal(found.score_samples(rows), expected.score_samples(rows))


@pytest.mark.parametrize("own", [np.nan, pd.NA, None])
def test_imputers_take_the_marker_of_pandas(gaps, own):
    expected, found = (
        AutoencoderImputer(VAETransformer(2, max_epochs=2, random_state=0, missing_values=own), missing_values=marker)
        for marker in (np.nan, pd.NA)
    )
    np.testing.assert_array_equal(found.fit_transform(gaps), expected.fit_transform(gaps))


def test_imputers_refuse_another_marker_than_their_estimator_has(gaps):
    imputer = AutoencoderImputer(VAETransformer(missing_values=-1.0), missing_values=pd.NA)
    with pytest.raises(ValueError, match="the imputer missing_values=<NA>, which is what counts"):
        imputer.fit(gaps)
