"""What users of data frames try in a hurry."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from skvae import CVAE, AutoEncoder, AutoencoderClusterer, CVAEClassifier, Gaussian, NeighborAE, VAETransformer

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:The (code|rows) of .*"),
]

N = 60
RNG = np.random.default_rng(0)
R, C = RNG.normal(size=N), RNG.choice(list("abc"), N)


def quick(cls=VAETransformer, **params):
    given = {"max_epochs": 2, "random_state": 0, "linear_path": None, "hidden_layer_sizes": (8,)}
    return cls(2, **{**given, **params})


def goes_round(frame):
    """Fit a model and have it do everything; return new rows."""
    model = quick().fit(frame)
    for result in (model.transform(frame), model.score_samples(frame), model.explain_anomaly(frame)):
        assert np.isfinite(result).all()
    new = model.sample(20)
    for rows in (new, model.reconstruct(frame)):
        assert list(rows.dtypes) == list(frame.dtypes)
    return new


@pytest.mark.parametrize(
    ("values", "size"),
    [
        (R * 1e300, "large"),
        (np.where(R > 1, 1.7e308, R), "large"),
        (np.tile([1e200, -1e200], N // 2), "large"),
        (R * 1e-310, "small"),
        (R * 1e-200, "small"),
    ],
    ids=["1e300", "one end", "two values", "subnormal", "1e-200"],
)
def test_spreads_that_cannot_be_computed(values, size):
    for frame in (pd.DataFrame({"v": values, "c": C}), pl.DataFrame({"c": C, "v": values})):
        with pytest.raises(ValueError, match=rf"The spread of column\(s\) \['v'\] of X is too {size} to be computed"):
            quick().fit(frame)


@pytest.mark.parametrize("noise", [1e300, 1e-300])
def test_noise_out_of_proportion(noise):
    with pytest.raises(ValueError, match=r"noise=1e.300 is out of proportion to the columns of X"):
        quick(likelihood=Gaussian(noise)).fit(np.column_stack([R, R**2]))


@pytest.mark.parametrize(
    ("dtype", "value", "ends"),
    [("float16", 1e5, "-65504 to"), ("Float32", 1e39, r"-3.40282e\+38 to"), ("int8", 300, "-128 to 127"), ("UInt8", -1, "0 to")],
)
def test_numbers_that_a_type_cannot_hold_are_not_given(dtype, value, ends):
    model = quick().fit(pd.DataFrame({"v": pd.Series(np.arange(N)).astype(dtype), "c": C}))
    with pytest.raises(ValueError, match=f"Column 'v' of given holds .*, but its type in fit, {dtype}, has numbers from {ends}"):
        model.sample(given={"v": value})
    assert (model.sample(given={"v": 3})["v"] == 3).all()


@pytest.mark.parametrize("size", [1e140, 1e-140, 1e30, 1e-30])
def test_spreads_that_can(size):
    new = goes_round(pd.DataFrame({"v": R * size, "c": C}))
    assert 0.1 < np.abs(new["v"]).median() / size < 10.0


@pytest.mark.parametrize(
    "known", [[1.0], [1.0, 2.0], [1.0, 1.0, 2.5], [np.pi] * 3, [0.0, 0.0, 0.0, 7.0, 7.0], [1, 2, 3, 3, 3, 3, 3]]
)
def test_columns_with_few_entries(known):
    column = [*known, *[None] * (N - len(known))]
    new = goes_round(pd.DataFrame({"v": np.array(column, dtype=float), "c": C}))
    assert new["v"].notna().all()
    assert goes_round(pd.DataFrame({"v": pd.array(column, dtype="Float64"), "c": C, "r": R}))["v"].notna().all()
    goes_round(pl.DataFrame({"v": column, "c": C}, strict=False))


@pytest.mark.parametrize(
    ("value", "others"),
    [(0.0, R), (7.77, 1000.0 * R), (np.pi, R), (1e9 + 0.1234567, 1e9 * (1.0 + np.abs(R))), (-1.0 / 3.0, R / 7.0)],
    ids=str,
)
def test_values_with_a_mass_of_their_own_come_back_to_the_last_bit(value, others):
    frame = pd.DataFrame({"v": np.where(R > 0, others, value), "c": C})
    drawn = quick(max_epochs=20).fit(frame).sample(200)["v"].to_numpy()
    near = np.abs(drawn - value) < 1e-5 * others.std()
    assert near.mean() > 0.1
    np.testing.assert_array_equal(drawn[near], value)


def test_few_values_come_back_to_the_last_bit():
    values = np.array([np.pi, -np.e, 1e8 / 3.0])
    frame = pd.DataFrame({"v": RNG.choice(values, N), "c": C})
    for cls in (VAETransformer, AutoEncoder):
        model = quick(cls).fit(frame)
        assert set(model.sample(50)["v"]) <= set(values)
        assert set(quick(cls, likelihood={"v": "categorical"}).fit(frame).sample(50)["v"]) <= set(values)
        assert model.module_.likelihood.rescale(torch.zeros(0, 2)).shape == (0, 2)


def test_no_zero_is_negative():
    frame = pd.DataFrame(
        {
            "whole": RNG.poisson(0.3, N).astype(float),
            "tenths": np.round(0.1 * R, 1),
            "gaps": np.where(R > 1, np.nan, RNG.poisson(1, N)),
            "c": C,
        }
    )
    drawn = quick(max_epochs=10).fit(frame).sample(300).drop(columns="c").to_numpy()
    assert (drawn == 0.0).any()
    assert not np.signbit(drawn[drawn == 0.0]).any()


@pytest.mark.parametrize(
    "make", [VAETransformer, NeighborAE, CVAE, CVAEClassifier, AutoencoderClusterer], ids=lambda cls: cls.__name__
)
def test_what_is_no_table_of_columns(make):
    y = (np.arange(N) % 2,) if make in (CVAE, CVAEClassifier) else ()
    for column in (pd.Series(C), pd.Series(R), pl.Series(C.tolist())):
        with pytest.raises(ValueError, match=r"Expected a 2-dimensional container but got .*Series'> instead: X\.to_frame\(\)"):
            make().fit(column, *y)
    for nothing in (pd.DataFrame(index=range(N)), pd.DataFrame({"c": C})[[]]):
        with pytest.raises(
            ValueError, match=re.escape(f"Found array with 0 feature(s) (shape=({N}, 0)) while a minimum of 1 is required")
        ):
            make().fit(nothing, *y)
    with pytest.raises((ValueError, TypeError), match=r"0 feature|no rows|0 sample|minimum of"):
        make().fit(pl.DataFrame(), *y)


KINDS = {
    "booleans and None": [True, False, None] * 20,
    "numbers as text": [f"{x:.2f}" for x in R],
    "categories without rows": pd.Categorical(C, list("abcdefg")),
    "int8": RNG.integers(-100, 100, N).astype("int8"),
    "float16": R.astype("float16"),
    "one value": ["x"] * N,
    "identifiers": [f"id{i}" for i in range(N)],
    "nullable booleans": pd.array([True, False, None] * 20, dtype="boolean"),
    "text that differs by case and spaces": ["A", "a", "a "] * 20,
    "empty text": ["", "nan", "None"] * 20,
    "integers beyond 2**60": RNG.integers(2**60, 2**62, N),
    "integers beyond 64 bits": [10**30, 10**30 + 10**20] * 30,
    "dates before 1900": [pd.Timestamp("1850-01-01").date(), pd.Timestamp("1899-12-31").date()] * 30,
    "durations": pd.to_timedelta(RNG.integers(0, 10**6, N), unit="s"),
    "intervals": pd.cut(R, 4),
    "periods": pd.period_range("2020-01", periods=N, freq="M"),
    "bytes": [b"a", b"b"] * 30,
    "categories of several types": pd.Categorical([1, "a", 2.5] * 20),
    "sparse": pd.arrays.SparseArray(np.where(R > 0, R, 0.0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_all_kinds(kind):
    frame = pd.DataFrame({"v": KINDS[kind], "c": C}, index=[0] * N)
    before = frame.copy()
    new = goes_round(frame)
    pd.testing.assert_frame_equal(frame, before)
    known = set(frame["v"].dropna())
    if frame["v"].dtype.kind not in "iufmM" and kind not in ("periods", "integers beyond 64 bits", "dates before 1900", "sparse"):
        assert set(new["v"]) <= known


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2]] * N, "several values in one entry"),
        ([{"a": 1}] * N, "several values in one entry"),
        ([1, "1", True] * 20, "entries of several types"),
        (R + 1j, "complex numbers"),
        ([None] * N, "no entry that is not missing"),
        (np.where(R > 1, np.inf, R), "infinity"),
    ],
    ids=lambda part: str(part)[:20],
)
def test_columns_that_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=rf"(?s)(?=.*'v').*{message}"):
        quick().fit(pd.DataFrame({"v": values, "c": C}))
