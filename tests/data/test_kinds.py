"""Kinds of columns: entries of a table, and the numbers of a network that stand for them."""

import pickle
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

from skvae.data.columns import SpreadError
from skvae.data.kinds import (
    KINDS,
    Column,
    Columns,
    Integers,
    Labels,
    Levels,
    Numbers,
    columns_of,
    frame_columns,
    holds_numbers,
    take,
)

DAYS = np.array(["2024-01-01", "2024-03-01", "2024-02-01"], dtype="datetime64[D]")

# A column of each kind, with entries that it can hold.
COLUMNS = {
    "numbers": (Numbers(), np.array([-1.5, 0.0, 7.25])),
    "standardized numbers": (Numbers(2.0, 0.5), np.array([-1.5, 0.0, 7.25])),
    "numbers in a range": (Numbers(2.0, 0.5, -2.0, 8.0), np.array([-1.5, 0.0, 7.25])),
    "integers": (Integers(-2.0, 9.0), np.array([-2.0, 0.0, 9.0])),
    "levels": (Levels(np.array([1.0, 2.5, 9.0])), np.array([2.5, 9.0, 1.0, 1.0])),
    "text for numbers": (Levels(np.array([1.0, 2.5, 9.0]), np.array(["01", "2.50", "9"], dtype=object)), np.array(["9", "01"])),
    "text": (Labels(np.array(["a", "b", "c"])), np.array(["c", "a", "a"])),
    "scaled labels": (Labels.of(np.array([3, 1, 7]), scaled=True), np.array([7, 1, 1])),
    "booleans": (Labels(np.array([False, True])), np.array([True, False])),
    "days": (Labels.of(DAYS), DAYS),
    "one label": (Labels(np.array(["a"])), np.array(["a", "a"])),
}
COLUMN_AND_ENTRIES = pytest.mark.parametrize(("column", "entries"), COLUMNS.values(), ids=COLUMNS)


# -- every kind -------------------------------------------------------------------------------------------------------


@COLUMN_AND_ENTRIES
def test_entries_come_back(column, entries):
    numbers = column.encode(entries)
    assert numbers.shape == (len(entries), column.width)
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(column.decode(numbers), entries)
    np.testing.assert_array_equal(column.settle(numbers), numbers)
    np.testing.assert_array_equal(column.expand(column.read(entries)), numbers)
    np.testing.assert_array_equal(column.entries_of(column.read(entries)), entries)


@COLUMN_AND_ENTRIES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_numbers_decode_as_those_that_they_settle_to(column, entries, dtype):
    numbers = (5.0 * np.random.default_rng(0).normal(size=(200, column.width))).astype(dtype)
    settled = column.settle(numbers)
    assert settled.shape == numbers.shape
    np.testing.assert_array_equal(column.settle(settled), settled)
    np.testing.assert_array_equal(column.decode(settled), column.decode(numbers))
    np.testing.assert_allclose(column.encode(column.decode(numbers)), settled)


@COLUMN_AND_ENTRIES
def test_the_plain_form_holds_everything(column, entries):
    state = column.plain()
    assert state["kind"] == column.kind
    assert all(type(value) in (str, float, np.ndarray, type(None)) for value in state.values())
    for again in (Column.from_plain(state), pickle.loads(pickle.dumps(column))):
        assert type(again) is type(column)
        np.testing.assert_array_equal(again.encode(entries), column.encode(entries))
        np.testing.assert_array_equal(again.decode(column.encode(entries)), entries)


@COLUMN_AND_ENTRIES
def test_columns_cannot_be_changed(column, entries):
    with pytest.raises(AttributeError):
        column.scale = 2.0


def test_kinds_are_found_by_name():
    assert {column.kind for column, _ in COLUMNS.values()} == set(KINDS)


# -- one kind ---------------------------------------------------------------------------------------------------------


def test_numbers_are_standardized_as_rows_are():
    table = np.random.default_rng(0).normal(3.0, [1.0, 5.0], size=(50, 2))
    weight = np.linspace(0.5, 1.5, 50)
    encoded = np.hstack([column.encode(own) for column, own in zip(Numbers.of(table, weight), table.T, strict=True)])
    np.testing.assert_allclose(np.average(encoded, axis=0, weights=weight), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.average(encoded**2, axis=0, weights=weight), 1.0)
    constant, _ = Numbers.of(np.column_stack([np.full(50, 7.0), table[:, 0]]))
    np.testing.assert_array_equal(constant.encode([7.0, 8.0]), [[0.0], [1.0]])
    with pytest.raises(SpreadError, match=r"column\(s\) \[1\]"):
        Numbers.of(table * [1.0, 1e305])


def test_numbers_that_are_none():
    for column in (Numbers(), Integers(0.0, 1.0), Levels(np.array([0.0, 1.0]))):
        with pytest.raises(ValueError, match=r"Column 'age' was numbers in fit; it cannot be converted: .*'old'"):
            column.encode(np.array([1.0, "old"], dtype=object), "Column 'age'")


def test_integers_are_rounded_within_their_range():
    numbers = np.array([[-9.0], [-0.4], [1.5], [2.6], [99.0]])
    np.testing.assert_array_equal(Integers(-1.0, 4.0).settle(numbers).ravel(), [-1.0, 0.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(Integers(-1.0, 4.0).decode(numbers), [-1.0, 0.0, 2.0, 3.0, 4.0])


def test_numbers_stay_in_their_range():
    column = Numbers(2.0, 0.5, low=1.0, high=3.0)
    assert column.range == (-2.0, 2.0)
    np.testing.assert_array_equal(column.settle(np.array([[-9.0], [0.3], [9.0]])).ravel(), [-2.0, 0.3, 2.0])
    np.testing.assert_array_equal(column.decode(np.array([[-9.0], [0.5], [9.0]])), [1.0, 2.25, 3.0])
    assert Numbers().range == (-np.inf, np.inf)
    assert (Integers(0.0, 7.0).range, Levels(np.array([1.0, 3.0])).range) == ((0.0, 7.0), (1.0, 3.0))


def test_levels_are_the_nearest():
    levels = Levels(np.array([1.0, 3.0, 7.0]))
    numbers = np.array([[-5.0], [1.9], [2.0], [2.1], [5.1], [70.0]])
    np.testing.assert_array_equal(levels.decode(numbers), [1.0, 1.0, 1.0, 3.0, 7.0, 7.0])
    np.testing.assert_array_equal(levels.encode([2.2, 6.0]).ravel(), [3.0, 7.0])
    assert Levels(np.array([4.5])).decode(numbers).tolist() == [4.5] * 6


@pytest.mark.parametrize(
    "entries",
    [
        np.array(["1", "3.0", "007"]),
        pd.Series(["1", "3.0", "007"], dtype="category", index=[4, 2, 0]),
        pd.Series(["1", "3.0", "007"], dtype="string"),
        pl.Series(["1", "3.0", "007"], dtype=pl.Categorical),
    ],
    ids=["array", "categories", "strings", "polars"],
)
def test_levels_keep_the_type_of_their_entries(entries):
    column = Levels(np.array([1.0, 3.0, 7.0]), entries)
    assert not column.is_numeric
    decoded = column.decode(np.array([[6.9], [0.0], [3.1], [3.0]]))
    assert type(decoded) is type(entries)
    assert decoded.dtype == entries.dtype
    assert list(decoded) == ["007", "1", "3.0", "3.0"]
    np.testing.assert_array_equal(column.encode(entries).ravel(), [1.0, 3.0, 7.0])
    assert isinstance(column.plain()["entries"], np.ndarray)
    if hasattr(decoded, "index"):
        assert decoded.index.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"The column has entries that were not seen in fit: '3'; known are '1', '3.0', '007'\."):
        column.encode(np.array(["3"]))


def test_labels_are_one_hot():
    labels = Labels.of(np.array(["b", "a", "c", "a"]))
    assert labels.width == 3
    np.testing.assert_array_equal(labels.encode(np.array(["c", "a"])), [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(labels.decode(np.array([[0.2, 0.5, 0.3], [-3.0, -4.0, -5.0]])), ["b", "a"])


@pytest.mark.parametrize(("n", "one"), [(2, 4.0), (16, 4.0), (100, 10.0)])
def test_scaled_ones_are_as_large_as_other_inputs(n, one):
    assert Labels.of(np.arange(n), scaled=True).encode(np.arange(n)).max() == one
    assert Labels.of(np.arange(n)).encode(np.arange(n)).max() == 1.0


@pytest.mark.parametrize(
    ("known", "given", "message"),
    [
        (["a", "b"], ["a", "d", "c", "d"], "Column 'x' has labels that were not seen in fit: 'd', 'c'; known are 'a', 'b'."),
        ([1, 2], ["1"], "not seen in fit: '1'; known are 1, 2."),
        ([1.0, 2.0], [1.5], "known are 1.0, 2.0. Whole floats in a list are labels; in a matrix, y[:, None], they are numbers."),
        (list(range(12)), [99], "known are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more."),
        (DAYS, ["soon"], "not seen in fit: 'soon'"),
    ],
)
def test_labels_that_are_not_known(known, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Labels.of(np.asarray(known)).encode(np.asarray(given), "Column 'x'")


def test_labels_without_order():
    with pytest.raises(ValueError, match="y has labels of the types int and str, which cannot be sorted; make them of one type"):
        Labels.of(np.array([1, "a"], dtype=object), "y")


# -- side by side -----------------------------------------------------------------------------------------------------


def test_columns_side_by_side():
    columns = Columns([Labels(np.array(["a", "b", "c"])), Numbers(1.0, 2.0), Levels(np.array([0.0, 10.0]))])
    assert (len(columns), columns.width) == (3, 5)
    assert columns.slices == [slice(0, 3), slice(3, 4), slice(4, 5)]
    entries = [np.array(["c", "a"]), np.array([1.0, 5.0]), np.array([10.0, 0.0])]
    keys = columns.read(entries, ["x", "y", "z"])
    np.testing.assert_array_equal(keys, [[2.0, 1.0, 1.0], [0.0, 5.0, 0.0]])
    numbers = columns.expand(keys)
    np.testing.assert_array_equal(numbers, [[0.0, 0.0, 1.0, 0.0, 10.0], [1.0, 0.0, 0.0, 2.0, 0.0]])
    for own, expected in zip(columns.entries_of(keys), entries, strict=True):
        np.testing.assert_array_equal(own, expected)
    given = np.array([[0.1, 0.7, 0.2, 0.3, 4.0]], dtype=np.float32)
    settled = columns.settle(given)
    np.testing.assert_array_equal(settled, np.array([[0.0, 1.0, 0.0, 0.3, 0.0]], dtype=np.float32))
    assert settled.dtype == np.float32
    assert given[0, 0] == np.float32(0.1)
    with pytest.raises(ValueError, match="y was numbers in fit"):
        columns.read([entries[0], ["?", "?"], entries[2]], ["x", "y", "z"])


def test_another_kind_is_a_class_of_four_steps():
    @dataclass(frozen=True, eq=False)
    class Angles(Column):
        """Degrees, which begin anew at 360; the network has cosine and sine."""

        kind = "angles"
        width = 2

        def read(self, values, name="The column"):
            return np.asarray(values, dtype=float) % 360.0

        def expand(self, keys):
            return np.column_stack([np.cos(np.radians(keys)), np.sin(np.radians(keys))])

        def nearest(self, numbers):
            return np.degrees(np.arctan2(numbers[:, 1], numbers[:, 0])) % 360.0

        def entries_of(self, keys):
            return keys

    columns = Columns([Numbers(), Angles()])
    assert columns.width == 3
    settled = columns.settle(np.array([[1.0, 0.0, 5.0], [2.0, -3.0, 0.0]]))
    np.testing.assert_allclose(settled, [[1.0, 0.0, 1.0], [2.0, -1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(columns[1].decode(settled[:, 1:]), [90.0, 180.0])
    assert Angles().plain() == {"kind": "angles"}


# -- which kind a column is of ----------------------------------------------------------------------------------------


def a_table():
    rng = np.random.default_rng(0)
    return np.column_stack(
        [
            rng.normal(size=60),
            rng.choice([1.0, 3.0, 7.5], 60),
            np.round(100 * rng.normal(size=60)),
            np.full(60, 4.5),
            np.arange(60.0) // 2,  # more than 20 values
            np.r_[np.arange(20.0), np.arange(20.0), np.arange(20.0)] / 8,
        ]
    )


@pytest.mark.parametrize("form", [np.asarray, np.float32, sparse.csr_array, sparse.csc_matrix])
def test_kinds_of_a_table_of_numbers(form):
    table = a_table()
    columns = columns_of(form(table))
    assert [column.kind for column in columns] == ["numbers", "levels", "integers", "levels", "integers", "levels"]
    assert all(column.is_numeric for column in columns)
    np.testing.assert_array_equal(columns[1].levels, [1.0, 3.0, 7.5])
    assert (columns[2].low, columns[2].high) == (table[:, 2].min(), table[:, 2].max())
    assert columns[0].range == (form(table)[:, [0]].min(), form(table)[:, [0]].max())
    np.testing.assert_array_equal(columns.settle(table), table)


def test_values_that_are_not_there_twice_on_average_are_no_levels():
    assert columns_of(np.arange(20.0)[:, np.newaxis] / 8)[0].kind == "numbers"
    assert columns_of(np.arange(20.0)[:, np.newaxis])[0].kind == "integers"
    assert columns_of(np.repeat(np.arange(20.0), 2)[:, np.newaxis])[0].kind == "levels"
    assert columns_of(np.repeat(np.arange(21.0) / 8, 2)[:, np.newaxis])[0].kind == "numbers"


def test_entries_that_stand_for_numbers_are_levels():
    numbers = np.arange(60.0) % 30
    given = [numbers, pd.Series(numbers.astype(int), dtype="category"), numbers.astype(int).astype(str)]
    columns = columns_of(np.column_stack([numbers] * 3), given)
    assert [column.kind for column in columns] == ["integers", "levels", "levels"]
    assert [column.is_numeric for column in columns] == [True, False, False]
    assert columns[1].decode(np.array([[3.2]])).dtype == given[1].dtype
    assert columns[2].decode(np.array([[3.2], [99.0]])).tolist() == ["3", "29"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (np.arange(3), True),
        (np.arange(3) > 1, True),
        (np.array([1.0, 2.0], dtype=object), True),
        (np.array([1, 2], dtype=object), False),
        (np.array(["1", "2"]), False),
        (pd.Series([1, None], dtype="Int64"), True),
        (pd.Series([1, 2], dtype="category"), False),
        (pd.Series(["1", "2"], dtype="string"), False),
        (pl.Series([1, 2]), True),
        (pl.Series([True, False]), True),
        (pl.Series(["1", "2"]), False),
    ],
    ids=lambda value: f"{type(value).__name__} {value.dtype}" if hasattr(value, "dtype") else str(value),
)
def test_columns_that_can_hold_other_numbers(column, expected):
    assert holds_numbers(column) is expected


# -- entries ----------------------------------------------------------------------------------------------------------


def test_columns_of_data_frames():
    for frame in (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})):
        assert [(name, list(column)) for name, column in frame_columns(frame)] == [("a", [1, 2]), ("b", ["x", "y"])]
    frame = pd.DataFrame([[1, "x"]], columns=["a", "a"])
    assert [(name, list(column)) for name, column in frame_columns(frame)] == [("a", [1]), ("a", ["x"])]


def test_entries_at_positions():
    rows = np.array([2, 0, 2])
    assert take(np.array([5, 6, 7]), rows).tolist() == [7, 5, 7]
    pd.testing.assert_series_equal(take(pd.Series([5, 6, 7], index=[9, 8, 7]), rows), pd.Series([7, 5, 7]))
    assert take(pl.DataFrame({"a": [5, 6, 7]}), rows)["a"].to_list() == [7, 5, 7]
