"""The benchmark of mixed tables: what its figures are of rows that are known, and that a run goes on where it stopped."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore:The code of .* has collapsed"),  # of short fits
    pytest.mark.filterwarnings("ignore:.*Early stopping criterion not reached"),
]

FOLDER = Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.fixture(scope="module")
def tables():
    """Modules of the benchmark, which are imported as scripts are."""
    before = sys.path[:]
    sys.path.insert(0, str(FOLDER))
    try:
        import tables
    finally:
        sys.path[:] = before
    yield tables
    for name in ("tables", "table_peers", "data"):
        sys.modules.pop(name, None)


def frame_of(n_rows, seed, linked=True):
    """A class that all else depends on, or does not."""
    rng = np.random.default_rng(seed)
    species, other = rng.integers(3, size=n_rows), rng.integers(3, size=n_rows)
    of = species if linked else other
    frame = pd.DataFrame(
        {
            "species": np.array(["a", "b", "c"])[species],
            "island": np.array(["x", "y", "z"])[np.where(rng.uniform(size=n_rows) < 0.9, of, other)],
            "mass": np.round(4.0 * of + rng.normal(size=n_rows), 3),
            "year": 2000 + of + rng.integers(2, size=n_rows),
        }
    )
    return frame.mask(rng.uniform(size=frame.shape) < [0.0, 0.05, 0.05, 0.0])


def test_columns_give_back_the_frame(tables):
    frame = frame_of(50, 0)
    columns = tables.Columns.of(frame)
    keys = columns.read(frame)
    assert columns.numbers.tolist() == [False, False, True, True]
    assert columns.decimals == [None, None, 3, 0]
    pd.testing.assert_frame_equal(columns.restore(keys), frame)
    np.testing.assert_array_equal(
        columns.from_one_hot(*columns.one_hot(columns.filled(keys, np.random.default_rng(0))))[:, 3], keys[:, 3]
    )
    strange = columns.read(frame.assign(island="elsewhere"))
    assert np.isnan(strange[:, 1]).all()


@pytest.mark.parametrize("method", ["marginals", "copula", "copula within classes", "SMOTE-NC", "noisy rows"])
def test_generators_draw_rows_like_those_they_know(tables, method):
    frame = frame_of(400, 0)
    generator = tables.GENERATORS[method]("species", 0)
    generator.fit(frame)
    drawn = generator.sample(300)
    assert list(drawn) == list(frame)
    assert len(drawn) == 300
    assert drawn.dtypes.tolist() == frame.dtypes.tolist()
    assert not drawn.isna().any(axis=None)
    assert set(drawn["species"]) == {"a", "b", "c"}
    columns = tables.Columns.of(frame)
    errors = tables.marginal_errors(columns.read(frame), columns.read(drawn), columns)
    assert errors.max() < 0.2


def test_figures_tell_good_rows_from_bad(tables, monkeypatch):
    monkeypatch.setitem(tables.BOOSTING, "max_iter", 20)
    train, test = frame_of(400, 0), frame_of(400, 1)
    columns = tables.Columns.of(pd.concat([train, test]))
    found = {
        method: tables.samples(tables.GENERATORS[method], train, test, columns, "species", 0)
        for method in ("training rows", "marginals", "copula within classes", "SMOTE-NC")
    }
    rows = found["training rows"]
    assert rows["closest"] == 0.0
    assert rows["relative"] == 1.0
    assert abs(rows["detected"] - 0.5) < 0.1
    independent = found["marginals"]
    assert independent["marginals"] < 0.1
    assert independent["pairs"] > 3 * rows["pairs"]
    assert independent["detected"] > 0.8
    assert independent["relative"] < 0.7
    assert found["copula within classes"]["relative"] > 0.9
    assert found["copula within classes"]["pairs"] < independent["pairs"] / 2
    assert found["SMOTE-NC"]["closest"] < 0.7 < independent["closest"]


def test_errors_of_columns_and_pairs_are_distances(tables):
    first = pd.DataFrame(
        {"a": ["x", "x", "y", "y"], "b": ["x", "x", "y", "y"], "c": [0.0, 1.0, 2.0, 3.0], "d": [0.0, 1.0, 2.0, 3.0]}
    )
    second = first.assign(b=["y", "y", "x", "x"], d=[3.0, 2.0, 1.0, 0.0])
    columns = tables.Columns.of(first)
    keys = [columns.read(frame) for frame in (first, second)]
    np.testing.assert_array_equal(tables.marginal_errors(*keys, columns), np.zeros(4))
    # Pairs in order: a-b, a-c, a-d, b-c, b-d, c-d. Numbers of four rows are divided at their fifths: all are alone.
    np.testing.assert_allclose(tables.pair_errors(*keys, columns), [1.0, 0.0, 1.0, 1.0, 0.0, 2.0], atol=1e-6)
    moved = columns.read(first.assign(a="x", c=[0.0, 1.0, 2.0, 9.0]))
    np.testing.assert_allclose(tables.marginal_errors(keys[0], moved, columns), [0.5, 0.0, 0.25, 0.0])


def test_likelihood_of_independent_columns_is_a_probability(tables):
    rng = np.random.default_rng(0)
    values = np.where(rng.uniform(size=500) < 0.5, 0, rng.poisson(30, size=500)).astype(float)
    low, high = values.min(), values.max()
    cells = np.arange(low - high, 2 * high)
    within = np.exp(tables.log_numbers(values, cells, whole=True)).sum()
    assert 0.998 < within < 1.003  # but for half the weight of one row, spread over twice the range
    fine = np.linspace(-8.0, 8.0, 20001)
    density = np.exp(tables.log_numbers(rng.normal(size=500), fine, whole=False))
    assert 0.99 < density.sum() * (fine[1] - fine[0]) < 1.01
    exact = np.exp(tables.log_categories(np.array([0.0, 0.0, 1.0]), np.arange(3.0), 3))
    np.testing.assert_allclose(exact, [2.5 / 4.5, 1.5 / 4.5, 0.5 / 4.5])


def test_imputers_fill_in_what_is_deleted_alone(tables):
    frame = frame_of(200, 0)
    whole = frame.dropna().reset_index(drop=True)
    gaps = whole.mask(np.random.default_rng(0).uniform(size=whole.shape) < 0.2)
    for name, make in tables.IMPUTERS.items():
        filled = make(0).fit_transform(gaps)
        assert not filled.isna().any(axis=None), name
        kept = gaps.notna() & True
        assert ((filled == whole) | ~kept).all(axis=None), name
    figures = tables.impute(tables.IMPUTERS["forests in turn"], whole, 0.2, 0)
    simple = tables.impute(tables.IMPUTERS["mean, most frequent"], whole, 0.2, 0)
    assert figures["numbers"] < 0.8 * simple["numbers"]
    assert figures["categories"] > 1.3 * simple["categories"]


def test_changed_categories_are_others(tables):
    frame = frame_of(200, 0)
    moved, which = tables.changed(frame, 0)
    assert (which >= 0).sum() == 10
    assert set(which) == {-1, 0, 1}
    assert frame[which < 0].equals(moved[which < 0])
    for row, column in zip(np.flatnonzero(which >= 0), which[which >= 0], strict=True):
        different = [
            name
            for name in frame
            if frame.at[row, name] is not moved.at[row, name] and frame.at[row, name] != moved.at[row, name]
        ]
        assert different == [frame.columns[column]]


def test_a_run_goes_on_where_it_stopped(tables, tmp_path, monkeypatch, capsys):
    (tmp_path / "tables").mkdir()
    frame_of(260, 0).to_csv(tmp_path / "tables" / "penguins.csv.gz", index=False)
    results = tmp_path / "results.jsonl"
    monkeypatch.setenv("SKVAE_DATA", str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tables.py", *arguments, "--sets", "penguins", "--results", str(results)])
        with pytest.raises(SystemExit) as end:
            tables.main()
        assert end.value.code == 0
        return capsys.readouterr().out

    few = run("samples", "--sizes", "200", "--seeds", "1", "--methods", "marginals")
    assert "detected" in few
    more = run("samples", "--sizes", "200", "--seeds", "1", "--methods", "marginals", "copula")
    assert few.splitlines()[0] in more.splitlines()
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [key for key, _ in lines] == [["samples", "penguins 200", "marginals", 0], ["samples", "penguins 200", "copula", 0]]
    run("impute", "--seeds", "1", "--methods", "mean, most frequent", "--rows", "100")
    assert len(results.read_text().splitlines()) == 5


def test_the_model_stands_beside_its_peers(tables, monkeypatch, capsys, tmp_path):
    small = tables.VAETransformer.__init__.__kwdefaults__
    monkeypatch.setitem(small, "max_epochs", 3)
    monkeypatch.setitem(small, "linear_path", None)
    monkeypatch.setitem(tables.BOOSTING, "max_iter", 5)
    frame = frame_of(120, 0)
    columns = tables.Columns.of(frame)
    figures = tables.samples(tables.own_generator, frame[:90], frame[90:], columns, "species", 0)
    assert all(np.isfinite(value) for value in figures.values())
    moved, which = tables.changed(frame.dropna(), 0)
    for method in (tables.OWN, tables.OF_NUMBERS, tables.ISOLATION):
        found = tables.anomalies(method, moved, which, 0)
        assert 0.0 <= found["AUROC"] <= 1.0
        assert 0.0 <= found["explained"] <= 1.0
    for method in (tables.OWN, tables.OF_NUMBERS, tables.INDEPENDENT):
        found = tables.likelihood(method, moved[:90], moved[90:], 0)
        assert ("nats" in found) == (method != tables.OF_NUMBERS)
