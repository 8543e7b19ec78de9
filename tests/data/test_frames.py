import datetime as dt
import decimal
import fractions
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal as assert_polars_equal

from skvae.data.containers import is_mixed
from skvae.data.frames import MOST_LEVELS, FrameForm

N = 12
A = np.random.default_rng(0).normal(size=N)
LETTERS = list("abcabcabcabc")
GAP = np.arange(N) % 5 == 2
DAYS = pd.date_range("2024-01-01", periods=N)
DATES = [day.to_pydatetime() for day in DAYS]
ORDERED = pd.Categorical(LETTERS, categories=list("zcba"), ordered=True)


def objects(values):
    return pd.Series(list(values), dtype=object)


def zoned(column, zone="Europe/Vienna"):
    return pd.Series(column).dt.tz_localize(zone)


# Columns, and what they are.
PANDAS = {
    "objects": (objects(LETTERS), "categorical", 3),
    "text": (pd.Series(LETTERS, dtype="string"), "categorical", 3),
    "text of numbers": (pd.Series(["1", "2", "3"] * 4), "categorical", 3),
    "bytes": (objects([b"x", b"y"] * 6), "categorical", 2),
    "categories": (pd.Series(pd.Categorical(LETTERS, categories=list("zcba"))), "categorical", 3),
    "categories of numbers": (pd.Series(pd.Categorical([7, 5, 1.5] * 4)), "categorical", 3),
    "categories of times": (pd.Series(pd.Categorical(DAYS[:3].repeat(4))), "categorical", 3),
    "ordered": (pd.Series(ORDERED), "ordinal", 3),
    "bins": (pd.Series(pd.cut(A, 3)), "ordinal", 3),
    "intervals": (pd.Series(pd.interval_range(0, 3).repeat(4)), "categorical", 3),
    "booleans": (pd.Series([True, False] * 6), "categorical", 2),
    "only True": (pd.Series([True] * N), "categorical", 2),
    "nullable booleans": (pd.Series([True, False, None] * 4, dtype="boolean"), "categorical", 2),
    "booleans among objects": (objects([True, False, None] * 4), "categorical", 2),
    "one text": (pd.Series(["a"] * N), "categorical", 1),
    "integers": (pd.Series(range(N)), "whole", 0),
    "short": (pd.Series(range(-5, 7), dtype="int8"), "whole", 0),
    "unsigned": (pd.Series(range(N), dtype="uint64"), "whole", 0),
    "nullable": (pd.Series([1, None, 3] * 4, dtype="Int32"), "whole", 0),
    "large": (pd.Series([2**60 + 1024 * i for i in range(N)]), "whole", 0),
    "floats": (pd.Series(A), "real", 0),
    "single": (pd.Series(np.round(A, 2), dtype="float32"), "real", 0),
    "whole floats": (pd.Series(np.round(10 * A)), "whole", 0),
    "nullable floats": (pd.Series([1.5, None, 2] * 4, dtype="Float64"), "real", 0),
    "sparse": (pd.Series(pd.arrays.SparseArray([0, 0, 1.5] * 4)), "real", 0),
    "decimal objects": (objects(decimal.Decimal("1.25") * i for i in range(N)), "real", 0),
    "fractions": (objects(fractions.Fraction(i, 4) for i in range(N)), "real", 0),
    "integers among objects": (objects(range(N)), "whole", 0),
    "days": (pd.Series(DAYS), "whole", 0),
    "nanoseconds": (pd.Series(DAYS.astype("datetime64[ns]")), "whole", 0),
    "microseconds": (pd.Series(DAYS + pd.to_timedelta(range(N), unit="us")), "whole", 0),
    "zone": (zoned(DAYS), "whole", 0),
    "periods": (pd.Series(DAYS.to_period("M")), "whole", 0),
    "durations": (pd.Series(DAYS - DAYS[0]), "whole", 0),
    "date objects": (objects(day.date() for day in DATES), "whole", 0),
    "datetime objects": (objects(DATES), "whole", 0),
    "timestamps": (objects(DAYS), "whole", 0),
    "zone in objects": (objects(zoned(DAYS, "Asia/Tokyo")), "whole", 0),
    "durations in objects": (objects(day - DATES[0] for day in DATES), "whole", 0),
    "times of day": (objects(dt.time(i, 30) for i in range(N)), "whole", 0),
}
POLARS = {
    "text": (pl.Series(LETTERS), "categorical", 3),
    "categories": (pl.Series(LETTERS, dtype=pl.Categorical), "categorical", 3),
    "enumerated": (pl.Series(LETTERS, dtype=pl.Enum(list("zcba"))), "categorical", 3),
    "booleans": (pl.Series([True, False, None] * 4), "categorical", 2),
    "bytes": (pl.Series([b"x", b"y"] * 6), "categorical", 2),
    "short": (pl.Series(range(N), dtype=pl.Int8), "whole", 0),
    "unsigned": (pl.Series([1, None, 2] * 4, dtype=pl.UInt64), "whole", 0),
    "single": (pl.Series(np.round(A, 1), dtype=pl.Float32), "real", 0),
    "floats": (pl.Series(A), "real", 0),
    "decimals": (pl.Series([decimal.Decimal("1.25") * i for i in range(N)], dtype=pl.Decimal(10, 3)), "real", 0),
    "dates": (pl.Series([day.date() for day in DATES]), "whole", 0),
    "times": (pl.Series(DATES, dtype=pl.Datetime("ms")), "whole", 0),
    "nanoseconds": (pl.Series(DATES, dtype=pl.Datetime("ns")), "whole", 0),
    "zone": (pl.Series(DATES).dt.replace_time_zone("Europe/Vienna"), "whole", 0),
    "durations": (pl.Series([day - DATES[0] for day in DATES]), "whole", 0),
    "times of day": (pl.Series([dt.time(i) for i in range(N)]), "whole", 0),
}


def with_gaps(column):
    """Column of which some entries are missing, of the nullable type where its own has no gaps."""
    if isinstance(column, pl.Series):
        return pl.select(pl.when(pl.Series(~GAP)).then(column)).to_series()
    if isinstance(column.dtype, pd.IntervalDtype):
        return column.astype("interval[float64]").where(~GAP)
    kind = getattr(column.dtype, "kind", "O")
    nullable = {"b": "boolean", "i": "Int64", "u": "UInt64"}.get(kind)
    return (column if nullable is None else column.astype(nullable)).where(~GAP)


def assert_same(one, other):
    if isinstance(other, pl.DataFrame):
        assert_polars_equal(one, other)
    else:
        pd.testing.assert_frame_equal(one.map(plain).astype(object), other.map(plain).astype(object))
        assert (one.dtypes == other.dtypes).all()


def missing(column):
    return (column.is_null() if isinstance(column, pl.Series) else column.isna()).to_numpy()


def plain(value):
    return None if value is pd.NaT or value is pd.NA or value != value else value


def frame(column):
    return pl.DataFrame({"a": column, "b": A}) if isinstance(column, pl.Series) else pd.DataFrame({"a": column, "b": A})


ALL = {f"pandas {k}": v for k, v in PANDAS.items()} | {f"polars {k}": v for k, v in POLARS.items()}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("gaps", [False, True])
def test_frames_come_back_as_they_were(name, gaps):
    column, kind, n_levels = ALL[name]
    given = frame(with_gaps(column) if gaps else column)
    form = pickle.loads(pickle.dumps(FrameForm.of(given)))
    assert form.names == ["a", "b"]
    if not gaps:
        assert form.kinds == (kind, "real")
        assert form.n_levels == (n_levels, 0)
    keys = form.read(given)
    assert keys.dtype == np.float64
    np.testing.assert_array_equal(np.isnan(keys[:, 0]), missing(given["a"]))
    assert_same(form.restore(keys), given)


@pytest.mark.parametrize("name", ALL)
def test_whatever_numbers_a_model_gives_make_a_frame(name):
    column, *_ = ALL[name]
    given = frame(column)
    form = FrameForm.of(given)
    wild = np.array([-np.inf, -1e300, -1e9, -3.7, -0.2, 0.4, 1.6, 2.5, 1e9, 1e18, 1e300, np.inf])
    keys = np.column_stack([wild, np.clip(wild, -1e300, 1e300)])
    for bounded in (False, True):
        new = form.restore(keys, bounded=bounded)
        assert len(new) == N
        assert [str(each) for each in new.dtypes] == [str(each) for each in given.dtypes]
    low, high = new["b"].min(), new["b"].max()
    assert (low, high) == (A.min(), A.max())
    again = form.read(new)
    if form.columns[0].n_levels == 0:
        seen = form.read(given)[:, 0]
        assert np.nanmin(seen) <= again[:, 0].min()
        assert again[:, 0].max() <= np.nanmax(seen)


def test_rows_keep_what_they_are_without_the_index():
    given = pd.DataFrame({"a": LETTERS, "b": A}, index=range(100, 100 + N))
    form = FrameForm.of(given)
    assert_same(form.restore(form.read(given)), given.reset_index(drop=True))


def test_nearest_entries():
    given = pd.DataFrame({"a": LETTERS, "n": range(N), "x": np.round(A, 3), "when": DAYS})
    form = FrameForm.of(given)
    row = form.restore([[1.4, 3.6, 0.12345, 19723.6]]).iloc[0]
    assert row.tolist() == ["b", 4, 0.123, pd.Timestamp("2024-01-02")]
    row = form.restore([[-3.0, 3000.0, -77.0, 0.0]], bounded=True).iloc[0]
    assert row.tolist() == ["a", N - 1, given["x"].min(), DAYS[0]]


@pytest.mark.parametrize("zone", ["Europe/Vienna", "America/Santiago", "Asia/Kathmandu", "UTC"])
@pytest.mark.parametrize("library", [pd, pl])
def test_midnights_of_a_time_zone_are_days(zone, library):
    days = pd.date_range("2023-12-20", "2024-12-20").tz_localize(zone, nonexistent="shift_forward")
    days = days[days.hour == 0]  # where there is one, as clocks change
    column = pd.Series(days) if library is pd else pl.Series(days.to_pydatetime().tolist()).dt.convert_time_zone(zone)
    form = FrameForm.of(library.DataFrame({"a": column}))
    keys = form.read(library.DataFrame({"a": column}))
    assert keys[0] == 19711
    assert keys[-1] == 20077
    assert_same(form.restore(keys), library.DataFrame({"a": column}))
    restored = form.restore(keys + np.random.default_rng(0).uniform(-0.4, 0.4, keys.shape))
    assert_same(restored, library.DataFrame({"a": column}))
    late = library.DataFrame({"a": column[:1] + pd.Timedelta("6h").to_pytimedelta()})
    assert form.read(late) == 19711.25


def test_missing_entries_where_the_type_has_none():
    form = FrameForm.of(pd.DataFrame({"n": range(3), "b": [True, False, True], "u": np.array([1, 2, 3], dtype="uint8")}))
    new = form.restore(np.full((2, 3), np.nan))
    assert new.isna().all(axis=None)
    assert [str(each) for each in new.dtypes] == ["Int64", "boolean", "UInt8"]


def test_columns_are_read_whatever_holds_the_same_entries():
    form = FrameForm.of(pd.DataFrame({"a": LETTERS, "b": [True, False] * 6, "n": range(N), "when": DAYS}))
    keys = form.read(pd.DataFrame({"a": LETTERS, "b": [True, False] * 6, "n": range(N), "when": DAYS}))
    others = [
        pd.DataFrame(
            {"a": pd.Categorical(LETTERS), "b": objects([True, False] * 6), "n": A * 0 + range(N), "when": objects(DATES)}
        ),
        pl.DataFrame({"a": LETTERS, "b": [True, False] * 6, "n": range(N), "when": DATES}),
    ]
    for other in others:
        np.testing.assert_array_equal(form.read(other), keys)
    late = pd.DataFrame({"a": [None], "b": [None], "n": [None], "when": [DAYS[0] + pd.Timedelta("6h")]})
    np.testing.assert_array_equal(form.read(late), [[np.nan, np.nan, np.nan, 19723.25]])


def test_filling_in_changes_nothing_else():
    exact = 2**60 + 1
    for given in (
        pd.DataFrame({"a": ["x", None, "unseen"], "n": pd.array([exact, None, 3], dtype="Int64"), "x": [0.5, np.nan, 1 / 3]}),
        pl.DataFrame({"a": ["x", None, "unseen"], "n": [exact, None, 3], "x": [0.5, None, 1 / 3]}),
    ):
        known = given[:2] if isinstance(given, pl.DataFrame) else given.iloc[:2]
        form = FrameForm.of(known)
        filled = form.fill(given, [[0, 0, 0], [0, 7, 2.0], [0, 0, 0]])
        assert [filled[name].to_list() for name in "anx"] == [["x", "x", "unseen"], [exact, 7, 3], [0.5, 2.0, 1 / 3]]
        assert type(filled) is type(given)


def test_levels_without_an_order_compare_by_ones_among_zeros():
    given = pd.DataFrame({"a": ["x", None, "y"], "o": pd.Categorical(list("uvw"), ordered=True), "n": [0.5, 1.5, np.nan]})
    form = FrameForm.of(given)
    np.testing.assert_array_equal(form.expand(form.read(given)), [[1, 0, 0, 0.5], [np.nan, np.nan, 1, 1.5], [0, 1, 2, np.nan]])


@pytest.mark.parametrize("library", [pd, pl])
def test_filling_in_keeps_entries_that_the_type_of_the_fit_cannot_hold(library):
    known = library.DataFrame({"n": [1, 2, 3], "c": list("aba")})
    if library is pd:
        known["c"] = known["c"].astype("category")
    else:
        known = known.with_columns(pl.col("c").cast(pl.Enum(["a", "b"])))
    form = FrameForm.of(known)
    given = library.DataFrame({"n": [20.5, None, 3.0], "c": ["unseen", None, "a"]})
    filled = form.fill(given, [[1, 0], [2, 1], [3, 0]])
    assert [filled[name].to_list() for name in "nc"] == [[20.5, 2.0, 3.0], ["unseen", "b", "a"]]
    whole = library.DataFrame({"n": [20.0, None, 3.0], "c": ["b", None, "a"]})
    filled = form.fill(whole, [[1, 0], [2, 1], [3, 0]])
    assert list(filled.dtypes) == list(known.dtypes)
    assert [filled[name].to_list() for name in "nc"] == [[20, 2, 3], ["b", "b", "a"]]


# -- many levels, and those that were not seen ------------------------------------------------------------------------


def many(n_rows=4000, n_values=1000):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": [f"v{int(n_values * u**3):04d}" for u in rng.random(n_rows)]})


def test_rare_entries_share_a_level():
    given = many()
    form, counts = FrameForm.of(given), given["a"].value_counts()
    assert form.n_levels == (MOST_LEVELS,)
    keys, own = form.read(given)[:, 0], given["a"].to_numpy()
    is_rare = keys == MOST_LEVELS - 1
    assert len(set(own[~is_rare])) == MOST_LEVELS - 1
    assert counts[list(set(own[~is_rare]))].min() >= counts[list(set(own[is_rare]))].max()
    again = form.restore(keys[:, np.newaxis])["a"].to_numpy()
    np.testing.assert_array_equal(again[~is_rare], own[~is_rare])
    assert set(again[is_rare]) == {counts[list(set(own[is_rare]))].sort_index().idxmax()}
    rare = np.full((20_000, 1), MOST_LEVELS - 1.0)
    drawn = form.restore(rare, seed=0)["a"]
    pd.testing.assert_series_equal(drawn, form.restore(rare, seed=0)["a"])
    shares = drawn.value_counts(normalize=True).reindex(sorted(set(own[is_rare])), fill_value=0)
    expected = counts[shares.index] / counts[shares.index].sum()
    assert np.abs(shares - expected).max() < 0.005
    assert form.read(pd.DataFrame({"a": ["new"]})) == [[MOST_LEVELS - 1]]


def test_many_ordered_categories_are_numbers():
    names = [f"c{i:03d}" for i in range(400)]
    given = pd.DataFrame({"a": pd.Categorical(names, categories=names[::-1], ordered=True)})
    form = FrameForm.of(given)
    assert (form.kinds, form.n_levels) == (("whole",), (0,))
    assert_same(form.restore(form.read(given)), given)
    assert form.restore([[1e9], [-1e9]])["a"].tolist() == ["c000", "c399"]
    with pytest.raises(ValueError, match="'a' of X holds what was not seen in fit: 'x'"):
        form.read(pd.DataFrame({"a": ["x"]}))


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_entries_that_were_not_seen(make):
    form = FrameForm.of(make({"a": LETTERS}))
    new = make({"a": ["b", "q", None]})
    with pytest.raises(
        ValueError, match=r"Column 'a' of X holds what was not seen in fit: 'q'; known are 'a', 'b', 'c'.*handle_unk"
    ):
        form.read(new)
    np.testing.assert_array_equal(form.read(new, "missing"), [[1], [np.nan], [np.nan]])
    np.testing.assert_array_equal(form.read(new, weight=[1.0, 0.0, 1.0]), [[1], [np.nan], [np.nan]])
    with pytest.raises(ValueError, match="handle_unknown='ignore' must be"):
        form.read(new, "ignore")


def test_categories_that_are_declared_and_not_seen_are_no_levels():
    given = pd.DataFrame({"a": pd.Categorical(["x", "y"], categories=list("wxyz"))})
    form = FrameForm.of(given)
    assert form.n_levels == (2,)
    assert form.restore([[0.0], [7.0]])["a"].dtype == given["a"].dtype
    with pytest.raises(ValueError, match="not seen in fit: 'z'"):
        form.read(pd.DataFrame({"a": pd.Categorical(["z"], categories=list("wxyz"))}))


def test_rows_without_weight_are_not_there():
    given = many()
    weight = (np.arange(len(given)) % 3).astype(float)
    with_nothing = pd.concat([given, pd.DataFrame({"a": ["nothing"] * 50})], ignore_index=True)
    repeated = given.loc[given.index.repeat(weight.astype(int))]
    forms = [FrameForm.of(with_nothing, weight=np.append(weight, np.zeros(50))), FrameForm.of(repeated)]
    (one,), (other,) = (form.columns for form in forms)
    assert (one.levels, one.rare) == (other.levels, other.rare)
    np.testing.assert_allclose(one.shares, other.shares)


# -- likelihoods that are asked for, and faults -----------------------------------------------------------------------


def test_likelihoods_decide_what_numbers_are():
    given = pd.DataFrame({"code": [10, 30, 20], "x": [0.5, 1.5, np.nan], "o": pd.Categorical(list("abc"), ordered=True)})
    asked = {"code": "categorical", "x": "ordinal", "o": "categorical"}
    form = FrameForm.of(given, asked)
    assert form.kinds == ("categorical", "ordinal", "categorical")
    assert form.n_levels == (3, 2, 3)
    keys = form.read(given)
    np.testing.assert_array_equal(keys, [[0, 0, 0], [2, 1, 1], [1, np.nan, 2]])
    assert_same(form.restore(keys), given)
    assert FrameForm.of(given, {"code": "poisson"}).kinds[0] == "whole"


FAULTS = {
    "no entry": ({"a": [None, None], "b": [1, 2]}, {}, "Column 'a' of X has no entry that is not missing.*drop it"),
    "several types": ({"a": objects([3, "a"])}, {}, r"'a' of X holds entries of several types, numbers \(3\) and text \('a'\)"),
    "booleans and numbers": ({"a": objects([True, 2.5])}, {}, "several types, booleans .* and numbers"),
    "lists": ({"a": objects([[1], [2]])}, {}, r"'a' of X holds several values in one entry, such as \[1\]; spread them"),
    "dicts": ({"a": objects([{"x": 1}])}, {}, "'a' of X holds several values in one entry"),
    "complex": ({"a": [1j, 2j]}, {}, "'a' of X holds complex numbers, such as 1j; pass real and imaginary parts"),
    "anything": ({"a": objects([np.random.default_rng()])}, {}, "'a' of X holds entries of type Generator"),
    "infinite": ({"a": [1.0, np.inf]}, {}, "Input X contains infinity .*Column 'a'"),
    "zones": ({"a": objects([DATES[0], DAYS[1].tz_localize("UTC")])}, {}, "'a' of X holds times with and without a time zone"),
    "poisson": ({"a": LETTERS}, {"a": "poisson"}, r"likelihood=\{'a': 'poisson'\} does not fit column 'a' of X, which holds cat"),
    "no order": ({"a": LETTERS}, {"a": "ordinal"}, r"holds categories without an order; give it one, by pd\.Categorical"),
    "times": ({"a": DAYS}, {"a": "categorical"}, "holds times or durations, which are numbers"),
    "no column": (
        {"a": A},
        {"visits": "poisson"},
        "likelihood names columns that X does not have: 'visits'; its columns are 'a'",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name):
    columns, asked, message = FAULTS[name]
    with pytest.raises(ValueError, match=message):
        FrameForm.of(pd.DataFrame(columns), asked)


@pytest.mark.parametrize(
    "column", [[[1], [2]], [{"x": 1}, {"x": 2}], pl.Series([None, None]), pl.Series([object(), object()], dtype=pl.Object)]
)
def test_faults_of_polars_are_named(column):
    with pytest.raises(ValueError, match="Column 'a' of X h"):
        FrameForm.of(pl.DataFrame({"a": column}))


def test_columns_of_one_name_are_refused():
    with pytest.raises(ValueError, match="several columns of the name 'a'"):
        FrameForm.of(pd.DataFrame([["x", 1]], columns=["a", "a"]))


def test_columns_must_be_those_of_fit():
    form = FrameForm.of(pd.DataFrame({"a": LETTERS, "b": A}))
    for columns, message in (
        ({"b": A, "a": LETTERS}, "must be in the order of fit, 'a', 'b'"),
        ({"a": LETTERS, "c": A}, "X has others: 'c'; X has not all of them: 'b'"),
        ({"a": LETTERS}, "not all of them: 'b'"),
    ):
        with pytest.raises(ValueError, match=message):
            form.read(pd.DataFrame(columns))


@pytest.mark.parametrize(
    ("column", "now"),
    [(A, "text"), (A, DAYS), (DAYS, A), (DAYS, LETTERS), (DAYS, DAYS.to_period("M")), (DAYS.to_period("M"), DAYS)],
)
def test_columns_must_hold_what_they_held(column, now):
    form = FrameForm.of(pd.DataFrame({"a": column}))
    with pytest.raises(ValueError, match=r"Column 'a' of X held .* in fit, and holds something else now"):
        form.read(pd.DataFrame({"a": now}, index=range(N)))


@pytest.mark.parametrize("name", ALL)
def test_which_frames_are_mixed(name):
    column = ALL[name][0]
    numbers = "integers short unsigned nullable large floats single sparse decimal decimals fractions whole"
    assert is_mixed(frame(column)) == (name.split()[1] not in numbers.split() or name == "pandas nullable booleans")
