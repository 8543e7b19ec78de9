import numpy as np
import pytest
from scipy import stats

from skvae.data.marginals import measure_columns, score_of, slopes_of

RNG = np.random.default_rng(0)
N = 400


def measure(values, kind="real", n_levels=0, weight=None, family="auto"):
    return measure_columns([kind], [n_levels], np.asarray(values, dtype=float)[:, np.newaxis], weight, {0: family})[0]


def test_categories_have_their_shares():
    found = measure([0, 0, 1, 2, 2, 2, np.nan], "categorical", 4)
    assert found.levels.tolist() == [0, 1, 2, 3]
    assert found.share.sum() == pytest.approx(1.0)
    assert found.share[2] > found.share[0] > found.share[1] > found.share[3] > 0.0
    assert found.rest == 0.0
    assert not found.is_number


@pytest.mark.parametrize("values", [[3.0] * 50, RNG.integers(0, 5, 200), RNG.choice([0.5, 0.25, 1e9], 100)])
def test_numbers_of_few_values_are_levels(values):
    found = measure(values)
    assert found.levels.tolist() == np.unique(values).tolist()
    assert found.rest == 0.0
    assert found.is_number


def test_values_with_much_mass_are_levels_beside_the_others():
    values = np.where(RNG.random(2000) < 0.9, 0.0, RNG.lognormal(8.0, 1.0, 2000).round())
    values[:40] = 99999.0
    found = measure(values, "whole")
    assert found.levels.tolist() == [0.0, 99999.0]
    assert found.share[0] == pytest.approx((values == 0.0).mean(), abs=1e-3)
    assert found.rest == pytest.approx(1.0 - found.share.sum())


def test_whole_numbers_without_a_mass_of_their_own_are_no_levels():
    found = measure(RNG.normal(50.0, 10.0, 2000).round(), "whole")
    assert not len(found.levels)


def test_normal_columns_are_standardized_and_others_are_mapped():
    assert len(measure(RNG.normal(5.0, 2.0, N)).knots) == 2
    assert len(measure(RNG.lognormal(0.0, 1.5, N)).knots) > 4
    two = np.where(RNG.random(N) < 0.5, -10.0, 10.0) + RNG.normal(size=N)
    assert len(measure(two).knots) > 4
    assert len(measure(RNG.lognormal(0.0, 1.5, N), family="gaussian").knots) == 2


@pytest.mark.parametrize(
    "values",
    [RNG.lognormal(0.0, 2.0, N), RNG.standard_t(1.5, N), RNG.exponential(size=N) * 1e-12, 1e12 + RNG.exponential(size=N)],
    ids=["log-normal", "heavy", "tiny", "far"],
)
def test_scores_rise_and_are_about_standard_normal(values):
    found = measure(values)
    assert (np.diff(found.knots) > 0.0).all()
    assert (np.diff(found.scores) > 0.0).all()
    score, slope = score_of(values, found.knots, found.scores)
    assert (slope > 0.0).all()
    assert abs(score.mean()) < 0.2
    assert score.std() == pytest.approx(1.0, abs=0.25)
    assert slopes_of(found.knots, found.scores).shape == (len(found.knots) + 1,)


@pytest.mark.parametrize("kind", ["real", "whole"])
def test_a_weight_of_two_is_the_row_twice(kind):
    values = RNG.lognormal(3.0, 1.0, 150)
    values = values.round() if kind == "whole" else values
    weight = RNG.integers(0, 3, 150).astype(float)
    kept = weight > 0.0
    one = measure(values[kept], kind, weight=weight[kept])
    other = measure(np.repeat(values, weight.astype(int)), kind)
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-9) if not isinstance(mine, str) else None


def test_the_map_gains_what_it_costs():
    gains = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        train, test = rng.normal(size=(2, 100))
        found = measure(train)
        score, slope = score_of(test, found.knots, found.scores)
        gains.append((stats.norm.logpdf(score) + np.log(slope) - stats.norm.logpdf(test, train.mean(), train.std())).mean())
    assert np.mean(gains) > -0.02


def test_categories_in_order_end_at_the_scores_of_their_shares():
    values = np.repeat([0, 1, 2], [100, 300, 100])
    found = measure(values, "ordinal", 3)
    assert found.is_closed
    assert found.knots.tolist() == [0.0, 0.5, 1.5, 2.0]
    np.testing.assert_allclose(found.scores[1:3], stats.norm.ppf([0.2, 0.8]), atol=0.01)


def test_counts_stay_what_they_are():
    found = measure(RNG.poisson(4.0, 100), "whole", family="poisson")
    assert (found.center, found.scale) == (0.0, 1.0)
    assert not len(found.levels)
