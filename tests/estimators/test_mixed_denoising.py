"""Denoising of data frames with columns of different kinds: what becomes of corrupted entries."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_mixed_frames import N, quick, table

from skvae import DenoisingAE
from skvae.modules import CORRUPTIONS, Batch

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The code of .* has collapsed"),  # of short fits
]

n_rows = 4000


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "color": rng.choice(["r", "g", "b"], n_rows, p=[0.6, 0.3, 0.1]),
            "height": rng.normal(170.0, 10.0, n_rows),
            "gain": np.where(rng.random(n_rows) < 0.8, 0.0, rng.lognormal(5.0, 1.0, n_rows)),
            "visits": rng.poisson(3.0, n_rows),
        }
    )


@pytest.fixture
def corrupt(frame):
    def corrupted(n_gaps=0, **params):
        likelihood = {"visits": "poisson"}
        given = frame.copy()
        given.loc[: n_gaps - 1, "color"] = None
        model = quick(DenoisingAE, likelihood=likelihood, max_epochs=1, batch_size=1000, **params).fit(given)
        module, generator = model.module_, torch.Generator().manual_seed(0)
        x, observed = module.likelihood.fill(module.likelihood.standardize(model._frame_form.read(given)).float())
        noise = {name: torch.randn(n_rows, *shape, generator=generator) for name, shape in module.noise_shapes.items()}
        batch = Batch.of(x, observed=observed if n_gaps else None, noise=noise)
        result = module.corrupt(batch)
        missing = (result == module.likelihood.absent()).numpy()
        keys = module.likelihood.rescale(torch.where(result == module.likelihood.absent(), torch.nan, result))
        return model, batch, keys, missing

    return corrupted


@pytest.mark.parametrize("name", ["masking", "dropout"])
def test_entries_that_are_taken_away_are_missing(frame, corrupt, name):
    model, _, keys, missing = corrupt(corruption=name, corruption_rate=0.25)
    np.testing.assert_allclose(missing.mean(axis=0), 0.25, atol=0.03)
    clean = model._frame_form.read(frame)
    np.testing.assert_allclose(keys[~missing], clean[~missing], rtol=1e-5, atol=1e-4)


def test_salt_and_pepper_draws_categories_and_takes_numbers_to_their_ends(frame, corrupt):
    model, _, keys, missing = corrupt(corruption="salt_and_pepper", corruption_rate=1.0)
    assert not missing.any()
    levels = model._frame_form.columns[0].levels
    shares = [np.mean(keys[:, 0] == j) for j in range(3)]
    np.testing.assert_allclose(shares, frame["color"].value_counts(normalize=True)[levels], atol=0.03)
    for j, name in ((1, "height"), (2, "gain"), (3, "visits")):
        ends = np.unique(keys[:, j].round(2))
        assert len(ends) == 2
        assert ends[0] <= frame[name].quantile(0.05)
        assert ends[1] >= frame[name].quantile(0.95)


def test_gaussian_noise_blurs_numbers_and_replaces_categories(frame, corrupt):
    model, _, keys, missing = corrupt(corruption="gaussian", corruption_scale=1.0)
    clean = model._frame_form.read(frame)
    assert not missing.any()
    rate = 1.0 - 1.0 / np.sqrt(2.0)
    share = frame["color"].value_counts(normalize=True)
    np.testing.assert_allclose(np.mean(keys[:, 0] != clean[:, 0]), rate * (1.0 - (share**2).sum()), atol=0.02)
    kept = [np.mean(keys[:, 0] == j) for j in range(3)]
    np.testing.assert_allclose(kept, share[model._frame_form.columns[0].levels], atol=0.03)
    for j in (0, 1):  # as correlated with what it was as the other
        values = [np.isin(each[:, j], 2).astype(float) if j == 0 else each[:, j] for each in (keys, clean)]
        np.testing.assert_allclose(np.corrcoef(*values)[0, 1], 1.0 / np.sqrt(2.0), atol=0.05)
    is_zero = clean[:, 2] == 0.0
    np.testing.assert_allclose(np.mean(keys[is_zero, 2] > 0.01), 0.2 * rate, atol=0.02)
    assert (keys[:, 3] >= 0.0).all()
    assert 0.5 < np.corrcoef(keys[:, 3], clean[:, 3])[0, 1] < 0.95
    nothing = corrupt(corruption="gaussian", corruption_scale=0.0)[2]
    np.testing.assert_allclose(nothing, clean, rtol=1e-4, atol=1e-3)


def test_what_is_missing_stays_missing_and_encoders_are_told_of_what_is_masked(corrupt, monkeypatch):
    model, batch, _, _ = corrupt(n_gaps=400, corruption="masking", corruption_rate=0.5)
    module, seen = model.module_, []
    assert module.n_indicators == 1
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda batch: (seen.append(batch), encode(batch))[1])
    expected = module.loss(batch, module.schedule(1.0)).terms["reconstruction"]
    (given,) = seen
    assert not given.observed[:400, 0].any()
    assert 0.4 < given.observed[400:].float().mean() < 0.6
    assert (given.counted == batch.observed).all()
    output = module.decode(encode(given), given)
    torch.testing.assert_close(expected, module.likelihood.distortion(batch.target, output, batch.observed))


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, list(CORRUPTIONS)], ids=str)
def test_fits(corruption):
    frame = table(gaps=True)
    model = quick(DenoisingAE, corruption=corruption, pretraining_epochs=1).fit(frame)
    assert np.isfinite(model.score(frame))
    assert list(model.denoise(frame).columns) == list(frame.columns)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"corruption": torch.sqrt}, "takes tensors of numbers, but X is a data frame .*Choose among 'gaussian', .*as clean"),
        ({"corruption": "masking", "mask_value": 0.0}, r"mask_value=0\.0 is one number .*masked entries become missing"),
        ({"corruption": ["dropout", "gaussian"], "noise_unit": "data"}, "noise_unit='data' .*take noise_unit='std'"),
    ],
)
def test_corruptions_of_numbers_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        quick(DenoisingAE, **params).fit(table())


def test_clean_frames_are_told_from_labels():
    clean = table()
    noisy = clean.assign(sex=clean["sex"].sample(frac=1, random_state=0).to_numpy())
    model = quick(DenoisingAE).fit(noisy, clean)
    pd.testing.assert_frame_equal(model.denoise(noisy), quick(DenoisingAE).fit(noisy, clean=clean).denoise(noisy))
    assert model.score(noisy, clean) != model.score(noisy)
    alone = quick(DenoisingAE).fit(noisy, np.arange(N))
    pd.testing.assert_frame_equal(alone.denoise(noisy), quick(DenoisingAE).fit(noisy).denoise(noisy))
    model.partial_fit(noisy, clean)
    with pytest.raises(ValueError, match="was fitted with clean rows, and cannot go on without them"):
        model.partial_fit(noisy)
    with pytest.raises(ValueError, match="was fitted without clean rows, and cannot go on with them"):
        alone.partial_fit(noisy, clean)
