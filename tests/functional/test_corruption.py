import numpy as np
import pytest
import torch
from scipy import stats

from skvae import functional as fn

N_ROWS, N_FEATURES = 2000, 10


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x():
    return 2.0 * randn(N_ROWS, N_FEATURES, seed=1) + 3.0


# -- which entries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.3, 3), (0.5, 5), (0.7, 7), (1.0, 10)])
def test_every_row_gets_exactly_its_fraction(rate, expected):
    chosen = fn.choose_entries(randn(N_ROWS, N_FEATURES), randn(N_ROWS, seed=1), rate)
    assert chosen.dtype == torch.bool
    assert chosen.shape == (N_ROWS, N_FEATURES)
    assert (chosen.sum(1) == expected).all()


@pytest.mark.parametrize(("n_features", "rate"), [(3, 0.1), (1, 0.5), (7, 0.3), (5, 0.99), (64, 0.05)])
def test_fractions_that_are_no_whole_number_hold_on_average(n_features, rate):
    counts = fn.choose_entries(randn(20_000, n_features), randn(20_000, seed=1), rate).sum(1)
    assert set(counts.tolist()) == {int(rate * n_features), int(rate * n_features) + 1}
    assert counts.float().mean().item() == pytest.approx(rate * n_features, abs=0.015)


@pytest.mark.parametrize("rate", [0.1, 0.35])
def test_entries_are_chosen_evenly_and_apart_from_each_other(rate):
    chosen = fn.choose_entries(randn(40_000, 6), randn(40_000, seed=1), rate).double().numpy()
    np.testing.assert_allclose(chosen.mean(0), rate, atol=0.01)
    together = chosen.T @ chosen / len(chosen)
    off = together[~np.eye(6, dtype=bool)]
    np.testing.assert_allclose(off, off.mean(), atol=0.01)


# -- what becomes of them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.7, torch.linspace(0.0, 2.0, N_FEATURES)], ids=["none", "number", "columns"])
def test_gaussian_noise_has_the_scale_asked_for(x, scale):
    noise = (fn.add_gaussian(x, randn(N_ROWS, N_FEATURES), scale) - x).double()
    expected = torch.as_tensor(scale).expand(N_FEATURES).double()
    torch.testing.assert_close(noise.std(0), expected, rtol=0.08, atol=1e-6)
    assert (noise.mean(0).abs() <= 4.0 * expected / N_ROWS**0.5 + 1e-6).all()
    if expected.max() > 0.0:
        assert stats.kstest((noise[:, -1] / expected[-1]).numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("value", [-1.5, torch.arange(float(N_FEATURES))], ids=["number", "columns"])
def test_masked_entries_take_the_value_and_others_stay(x, value):
    chosen = fn.choose_entries(randn(N_ROWS, N_FEATURES), randn(N_ROWS, seed=1), 0.5)
    masked = fn.mask(x, chosen, value)
    assert torch.equal(masked[chosen], torch.as_tensor(value).expand(x.shape)[chosen])
    assert torch.equal(masked[~chosen], x[~chosen])


def test_salt_and_pepper_are_the_extremes_in_equal_parts(x):
    low, high = x.amin(0), x.amax(0)
    chosen = fn.choose_entries(randn(N_ROWS, N_FEATURES), randn(N_ROWS, seed=1), 0.3)
    spoilt = fn.salt_and_pepper(x, chosen, randn(N_ROWS, N_FEATURES, seed=2), low, high)
    assert torch.equal(spoilt[~chosen], x[~chosen])
    is_low, is_high = spoilt == low, spoilt == high
    assert (is_low | is_high)[chosen].all()
    assert is_high[chosen].float().mean().item() == pytest.approx(0.5, abs=0.03)
    # Neither column nor row decides which of the two.
    shares = (is_high & chosen).sum(0) / chosen.sum(0)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.5), atol=0.08, rtol=0.0)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_drop_keeps_the_mean(rate):
    x = torch.full((20_000, 4), 3.0)
    dropped = fn.drop(x, randn(20_000, 4), rate)
    kept = dropped != 0.0
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 3.0 / (1.0 - rate)))
    assert kept.float().mean().item() == pytest.approx(1.0 - rate, abs=0.01)
    torch.testing.assert_close(dropped.mean(0), x.mean(0), rtol=0.06, atol=0.0)


def test_normal_cdf_is_uniform():
    uniform = fn.normal_cdf(randn(50_000).double())
    assert ((uniform > 0.0) & (uniform < 1.0)).all()
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    points = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    np.testing.assert_allclose(fn.normal_cdf(points).numpy(), stats.norm.cdf(points.numpy()), rtol=1e-12)


# -- purity -----------------------------------------------------------------------------------------------------------

CORRUPTIONS = {
    "add_gaussian": lambda x, noise: fn.add_gaussian(x, noise, 0.5),
    "choose_entries": lambda x, noise: fn.choose_entries(noise, noise[:, 0], 0.33),
    "mask": lambda x, noise: fn.mask(x, noise > 0.0, 1.0),
    "salt_and_pepper": lambda x, noise: fn.salt_and_pepper(x, noise > 0.0, noise, x.amin(0), x.amax(0)),
    "drop": lambda x, noise: fn.drop(x, noise, 0.3),
    "normal_cdf": lambda x, noise: fn.normal_cdf(noise),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_pure(x, name):
    noise = randn(N_ROWS, N_FEATURES)
    kept, state = (x.clone(), noise.clone()), torch.get_rng_state()
    first, second = CORRUPTIONS[name](x, noise), CORRUPTIONS[name](x, noise)
    assert torch.equal(first, second)
    assert torch.equal(x, kept[0])
    assert torch.equal(noise, kept[1])
    assert first.data_ptr() not in (x.data_ptr(), noise.data_ptr())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["add_gaussian", "mask", "salt_and_pepper", "drop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_shape_stay(x, name, dtype):
    result = CORRUPTIONS[name](x.to(dtype), randn(N_ROWS, N_FEATURES).to(dtype))
    assert result.dtype == dtype
    assert result.shape == x.shape


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_rows_are_corrupted_alone(x, name):
    if name == "salt_and_pepper":
        pytest.skip("the extremes are those of all rows given here")
    noise = randn(N_ROWS, N_FEATURES)
    assert torch.equal(CORRUPTIONS[name](x[3:7], noise[3:7]), CORRUPTIONS[name](x, noise)[3:7])


# -- moments ----------------------------------------------------------------------------------------------------------


def moments_of(x, clean):
    """Moments of rows, and their covariance with others, by definition."""
    away, mean = x - x.mean(0), x.mean(0)
    return fn.CorruptedMoments(away.T @ away / len(x), (clean - clean.mean(0)).T @ away / len(x), mean)


LOW, HIGH = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64), torch.tensor([5.0, 1.0, 6.0], dtype=torch.float64)
SCALE, VALUE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), torch.tensor([-1.0, 0.0, 4.0], dtype=torch.float64)
UNDER = {
    "gaussian": (lambda x, noise, chosen, signs: fn.add_gaussian(x, noise, SCALE), lambda m: fn.moments_of_gaussian(m, SCALE)),
    "dropout": (lambda x, noise, chosen, signs: fn.drop(x, noise, 0.3), lambda m: fn.moments_of_drop(m, 0.3)),
    "masking": (lambda x, noise, chosen, signs: fn.mask(x, chosen, VALUE), lambda m: fn.moments_of_mask(m, 0.3, VALUE)),
    "masking by one value": (lambda x, noise, chosen, signs: fn.mask(x, chosen, 2.0), lambda m: fn.moments_of_mask(m, 0.3, 2.0)),
    "salt and pepper": (
        lambda x, noise, chosen, signs: fn.salt_and_pepper(x, chosen, signs, LOW, HIGH),
        lambda m: fn.moments_of_salt_and_pepper(m, 0.3, LOW, HIGH),
    ),
}


@pytest.fixture(scope="module")
def draws():
    """Correlated rows, two targets beside them, and independent draws for corruptions."""
    n = 200_000
    normal = [randn(n, 3, seed=seed).double() for seed in range(5)]
    x = normal[0] @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.5]]).double() + torch.tensor([1.0, 0.0, 3.0])
    clean = x[:, :2] + 0.5 * normal[1][:, :2]
    return x, clean, normal[2], fn.normal_cdf(normal[3]) < 0.3, normal[4]


@pytest.mark.parametrize("name", UNDER)
def test_moments_are_those_of_draws(name, draws):
    x, clean, *noise = draws
    corrupt, moments = UNDER[name]
    for found, expected in zip(moments(moments_of(x, clean)), moments_of(corrupt(x, *noise), clean), strict=True):
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.01)


def test_moments_of_a_mixture_are_those_of_draws(draws):
    x, clean, *noise = draws
    half = torch.arange(len(x)) % 2 == 0
    mixed = torch.where(half.unsqueeze(1), UNDER["masking"][0](x, *noise), UNDER["salt and pepper"][0](x, *noise))
    found = fn.moments_of_mixture([UNDER[name][1](moments_of(x, clean)) for name in ("masking", "salt and pepper")])
    for one, expected in zip(found, moments_of(mixed, clean), strict=True):
        torch.testing.assert_close(one, expected, atol=0.05, rtol=0.01)
