"""Mixed tables: rows drawn, gaps filled, anomalies and likelihood of models of frames, beside plain ways to do each.

Sets are adult, mlc_churn, credit_data, german, mushroom, ames and penguins, files of tables/ in the folder that SKVAE_DATA
names; a fifth of the rows of each, always the same, is held out. Models are at their defaults and fitted on frames, in which the
target is a column like all others. Tables:

    samples     As many rows as there were to train on are drawn by `VAETransformer`, the training rows' own marginals, a
                Gaussian copula, one within each class, SMOTE-NC within classes, a bootstrap with noise, and CTGAN and TVAE where
                the package ctgan is installed. Classes of a number are its tenths. Sizes are 200, 1,000 and 5,000 training
                rows, where a set has as many, and all.
                  marginals  mean over columns of the distance from held-out rows: Kolmogorov and Smirnov's of numbers, total
                             variation of categories
                  pairs      mean over pairs of columns: difference of rank correlations of two numbers, total variation of the
                             contingency table where one is a category, with numbers in fifths
                  detected   AUROC of a gradient-boosted classifier that tells held-out from drawn rows, as many of each as
                             there are of both, cross-validated: 0.5 is best
                  trained    macro F1, or R2, of a gradient-boosted model of the target that is trained on drawn rows, on held-out
                             rows; relative is the same by what training rows give
                  closest    median distance from the closest training row by that of held-out rows, by standardized numbers and
                             different categories: 0 is a copy. Means where the latter's median is zero
                "training rows" are what figures would be of as many true rows. What is drawn complete is given the gaps of
                training rows, drawn at random.
    impute      10, 30 and 50% of the entries of at most --rows rows are deleted at random, beside those that are missing.
                  numbers    mean over columns of the root mean squared error, in standard deviations
                  absolute   of the mean absolute error, by that of the median
                  categories mean over columns of the share that is filled in right
    anomalies   In a twentieth of 20,000 rows of adult, a category, of each column in turn, becomes another one, drawn by its
                frequency. Figures are the AUROC of anomaly scores, and the share of the changed rows in which the changed
                column has the largest share of the score; of IsolationForest, the largest drop of the score when it takes
                its median or most frequent category.
    likelihood  Mean log-likelihood of adult's held-out rows, in nats: of probabilities of categories and of cells of width one of
                whole numbers, and of densities of other numbers; beside independent columns. And seconds of fitting on one
                core, beside those of the same network on one-hot numbers.

Means over seeds are printed with the worst seed. Results are kept in a file, line by line, so that a run that was interrupted
goes on. Needs pandas.

    python examples/benchmarks/tables.py samples [--sets adult german] [--sizes 200 all] [--seeds 5] [--methods ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, IsolationForest
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from table_peers import GENERATORS, IMPUTERS, Columns, Generator, mixed_space

from skvae import AutoencoderImputer, VAETransformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # which Python does not look into by itself

from data import find_data

TARGETS = {
    "adult": "income",
    "mlc_churn": "churn",
    "credit_data": "Status",
    "german": "class",
    "mushroom": "class",
    "ames": "Sale_Price",
    "penguins": "species",
}
SIZES = (200, 1000, 5000)
RATES = (0.1, 0.3, 0.5)
OWN, OWN_IMPUTER, ISOLATION, OF_NUMBERS, INDEPENDENT = (
    "VAETransformer",
    "AutoencoderImputer",
    "IsolationForest on one-hot",
    "VAETransformer on one-hot",
    "independent columns",
)
OF_THE_PACKAGE = {OWN, OWN_IMPUTER, OF_NUMBERS}
BOOSTING: dict[str, Any] = {"max_iter": 100, "early_stopping": False, "random_state": 0}
N_ANOMALY_ROWS, SHARE_CHANGED = 20_000, 0.05
BINS, SPIKE = (10, 20, 50, 100, 200, 500), 0.005

Figures = dict[str, float]
Task = tuple[str, str, int, Callable[[], Figures]]


# -- data -------------------------------------------------------------------------------------------------------------


def load(name: str) -> pd.DataFrame:
    """Frame of a set; classes are strings."""
    path = find_data(f"tables/{name}.csv.gz", "a table with a header, empty where entries are missing")
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    target = TARGETS[name]
    return frame if target == "Sale_Price" else frame.astype({target: str})


def split(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on and rows that are held out, always the same."""
    order = np.random.default_rng(0).permutation(len(frame))
    n_held_out = len(frame) // 5
    train, test = (frame.iloc[rows].reset_index(drop=True) for rows in (order[n_held_out:], order[:n_held_out]))
    return train, test


def some_of(frame: pd.DataFrame, n_rows: int, seed: int) -> pd.DataFrame:
    """Draw rows at random."""
    return frame.iloc[np.random.default_rng(seed).permutation(len(frame))[:n_rows]].reset_index(drop=True)


# -- samples ----------------------------------------------------------------------------------------------------------


def marginal_errors(real: np.ndarray, drawn: np.ndarray, columns: Columns) -> np.ndarray:
    """Distance between the distributions of each column, of entries that are there."""
    errors = []
    for number, levels, *pair in zip(columns.numbers, columns.levels, real.T, drawn.T, strict=True):
        first, second = (np.sort(values[~np.isnan(values)]) for values in pair)
        if not len(first) or not len(second):
            continue
        if number:
            at = np.union1d(first, second)
            steps = [np.searchsorted(values, at, side="right") / len(values) for values in (first, second)]
            errors.append(np.abs(steps[0] - steps[1]).max())
        else:
            shares = [np.bincount(values.astype(int), minlength=len(levels)) / len(values) for values in (first, second)]
            errors.append(np.abs(shares[0] - shares[1]).sum() / 2)
    return np.array(errors)


def pair_errors(real: np.ndarray, drawn: np.ndarray, columns: Columns) -> np.ndarray:
    """Distance between the joint distributions of every pair of columns."""
    numbers = columns.numbers
    tables = []
    cells, owner = None, None
    for keys in (real, drawn):
        coded = keys.copy()
        for column in np.flatnonzero(numbers):
            edges = np.unique(np.nanquantile(real[:, column], [0.2, 0.4, 0.6, 0.8]))
            coded[:, column] = np.where(np.isnan(keys[:, column]), np.nan, np.searchsorted(edges, keys[:, column]))
        levels = [np.arange(5) if levels is None else levels for levels in columns.levels]
        cells, owner = replace(columns, levels=levels).one_hot(coded)
        cells = np.nan_to_num(cells).astype(np.float32)
        there = (~np.isnan(keys)).astype(np.float32)
        totals = (there.T @ there)[owner][:, owner]
        tables.append(cells.T @ cells / np.maximum(totals, 1.0))
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    distances = np.add.reduceat(np.add.reduceat(np.abs(tables[0] - tables[1]), starts, axis=0), starts, axis=1) / 2
    which = np.flatnonzero(numbers)
    for i, first in enumerate(which):
        for second in which[i + 1 :]:
            rank = [rank_correlation(keys[:, first], keys[:, second]) for keys in (real, drawn)]
            distances[first, second] = abs(rank[0] - rank[1])
    return distances[np.triu_indices(len(numbers), 1)]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of entries that are both there; 0 of constant ones."""
    there = ~np.isnan(first + second)
    first, second = first[there], second[there]
    return float(spearmanr(first, second)[0]) if len(first) > 1 and np.ptp(first) and np.ptp(second) else 0.0


def detection(real: np.ndarray, drawn: np.ndarray, columns: Columns) -> float:
    """AUROC of a classifier of rows as real or drawn, of those that it was not trained on."""
    X = np.concatenate([real, drawn])
    y = np.repeat([0, 1], [len(real), len(drawn)])
    model = HistGradientBoostingClassifier(categorical_features=~columns.numbers, **BOOSTING)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(roc_auc_score(y, cross_val_predict(model, X, y, cv=folds, method="predict_proba")[:, 1]))


def trained_on(rows: np.ndarray, test: np.ndarray, columns: Columns, target: int) -> float:
    """Macro F1, or R2, on test rows of a model of the target that is trained on other rows."""
    rows = rows[~np.isnan(rows[:, target])]
    (X, y), (X_test, y_test) = ((np.delete(keys, target, axis=1), keys[:, target]) for keys in (rows, test))
    settings = BOOSTING | {"categorical_features": np.delete(~columns.numbers, target)}
    if columns.numbers[target]:
        return float(r2_score(y_test, HistGradientBoostingRegressor(**settings).fit(X, y).predict(X_test)))
    if len(np.unique(y)) == 1:
        return float(f1_score(y_test, np.full(len(y_test), y[0]), average="macro"))
    return float(f1_score(y_test, HistGradientBoostingClassifier(**settings).fit(X, y).predict(X_test), average="macro"))


def closeness(train: np.ndarray, test: np.ndarray, drawn: np.ndarray, columns: Columns) -> float:
    """Distance of drawn rows from the closest training row, by that of held-out rows."""
    rng = np.random.default_rng(0)
    train, test, drawn = (columns.filled(keys, rng) for keys in (train, test, drawn))
    place = mixed_space(columns, train)
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(place(train))
    apart, held_out = (search.kneighbors(place(keys))[0] for keys in (drawn, test))
    middle = np.median if np.median(held_out) > 1e-6 else np.mean
    return float(middle(apart) / middle(held_out))


def with_gaps(drawn: pd.DataFrame, train: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Delete what is missing in training rows, drawn at random, where nothing is missing."""
    if drawn.isna().any(axis=None):
        return drawn
    rows = np.random.default_rng(seed).integers(len(train), size=len(drawn))
    return drawn.mask(train.isna().to_numpy()[rows])


def samples(
    make: Callable[[str, int], Generator], train: pd.DataFrame, test: pd.DataFrame, columns: Columns, target: str, seed: int
) -> Figures:
    """Figures of rows drawn by a generator."""
    began = time.process_time()
    generator = make(target, seed)
    generator.fit(train)
    fitted = time.process_time() - began
    drawn = generator.sample(max(len(train), len(test)))
    fewer = min(len(train), len(test))  # of rows that are repeated, a classifier would know one by the other
    keys = columns.read(with_gaps(drawn[columns.names], train, seed))
    real, held_out = columns.read(train), columns.read(test)
    place = columns.names.index(target)
    there = trained_on(keys[: len(train)], held_out, columns, place)
    of_training = trained_on(real, held_out, columns, place)
    return {
        "marginals": float(marginal_errors(held_out, keys, columns).mean()),
        "pairs": float(pair_errors(held_out, keys, columns).mean()),
        "detected": detection(held_out[:fewer], keys[:fewer], columns),
        "trained": there,
        "relative": there / of_training,
        "closest": closeness(real, held_out, columns.read(drawn)[: len(test)], columns),
        "seconds": fitted,
    }


def own_generator(target: str, seed: int) -> Generator:
    """Make the model at its defaults."""
    return VAETransformer(random_state=seed)


def tasks_of_samples(args: argparse.Namespace) -> Iterator[Task]:
    """Draw rows by all methods, at all sizes."""
    for name in args.sets:
        frame = load(name)
        rows, test = split(frame)
        columns = Columns.of(frame)
        sizes = [size for size in args.sizes if size == "all" or int(size) <= len(rows)]
        for size in sizes:
            for seed in range(args.seeds):
                train = rows if size == "all" else some_of(rows, int(size), seed)
                for method in chosen(args, [OWN, *GENERATORS]):
                    make = own_generator if method == OWN else GENERATORS[method]
                    yield f"{name} {size}", method, seed, partial(samples, make, train, test, columns, TARGETS[name], seed)


# -- gaps -------------------------------------------------------------------------------------------------------------


def impute(make: Callable[[int], Any], frame: pd.DataFrame, rate: float, seed: int) -> Figures:
    """Figures of an imputer on entries that are deleted at random."""
    deleted = np.random.default_rng(seed).uniform(size=frame.shape) < rate
    gaps = frame.mask(deleted)
    columns = Columns.of(frame)
    keys = columns.read(frame)
    began = time.process_time()
    filled = columns.read(make(seed).fit_transform(gaps)[columns.names])
    seconds = time.process_time() - began
    squared, absolute, right = [], [], []
    for number, was, found, hit in zip(columns.numbers, keys.T, filled.T, (deleted & ~np.isnan(keys)).T, strict=True):
        if not hit.any() or not np.nanmax(was) > np.nanmin(was):
            continue
        if number:
            squared.append(np.sqrt(np.mean((found - was)[hit] ** 2)) / np.nanstd(was))
            spread = np.mean(np.abs(was - np.nanmedian(was))[hit])
            if spread:
                absolute.append(np.mean(np.abs(found - was)[hit]) / spread)
        else:
            right.append(np.mean((found == was)[hit]))
    means = {"numbers": squared, "absolute": absolute, "categories": right}
    return {what: float(np.mean(values)) for what, values in means.items() if values} | {"seconds": seconds}


def own_imputer(seed: int) -> Any:
    """Make the imputer at its defaults."""
    return AutoencoderImputer(random_state=seed)


def tasks_of_gaps(args: argparse.Namespace) -> Iterator[Task]:
    """Fill in by all methods, at all rates."""
    for name in args.sets:
        frame = load(name)
        for rate in RATES:
            for seed in range(args.seeds):
                rows = some_of(frame, args.rows, seed)
                # What is missing altogether among the rows at hand is no column.
                rows = rows.dropna(axis=1, thresh=len(rows) // 10)
                for method in chosen(args, [OWN_IMPUTER, *IMPUTERS]):
                    make = own_imputer if method == OWN_IMPUTER else IMPUTERS[method]
                    yield f"{name} {rate:.0%}", method, seed, partial(impute, make, rows, rate, seed)


# -- anomalies --------------------------------------------------------------------------------------------------------


def changed(frame: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Change a category of some rows; returns the frame, and the column that was changed, -1 where none was."""
    rng = np.random.default_rng(seed)
    columns = Columns.of(frame)
    keys = columns.read(frame)
    categories = np.flatnonzero(~columns.numbers)
    rows = rng.permutation(len(keys))[: round(SHARE_CHANGED * len(keys))]
    which = np.full(len(keys), -1)
    for place, row in enumerate(rows):
        column = categories[place % len(categories)]
        share = np.bincount(keys[~np.isnan(keys[:, column]), column].astype(int)).astype(float)
        share[int(keys[row, column])] = 0.0
        keys[row, column] = rng.choice(len(share), p=share / share.sum())
        which[row] = column
    return columns.restore(keys), which


def one_hot(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Standardized numbers and one-hot categories, and the column that each of them is of."""
    columns = Columns.of(frame)
    values, owner = columns.one_hot(columns.read(frame))
    number = columns.numbers[owner]
    values[:, number] = (values[:, number] - values[:, number].mean(axis=0)) / values[:, number].std(axis=0)
    return values, owner


def drops(forest: IsolationForest, values: np.ndarray, owner: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How much lower scores of a forest are when a column takes its median, or its most frequent category."""
    typical = np.empty(values.shape[1])
    for column in np.unique(owner):
        own = owner == column
        typical[own] = (
            np.median(values[:, own], axis=0) if own.sum() == 1 else np.arange(own.sum()) == values[:, own].sum(axis=0).argmax()
        )
    repaired = (np.where(owner == column, typical, values) for column in np.unique(owner))
    return np.column_stack([scores + forest.score_samples(rows) for rows in repaired])


def anomalies(method: str, frame: pd.DataFrame, which: np.ndarray, seed: int) -> Figures:
    """Figures of a detector."""
    began = time.process_time()
    shares: np.ndarray | None = None
    if method == OWN:
        model = VAETransformer(random_state=seed).fit(frame)
        scores, shares = model.score_anomaly(frame), np.asarray(model.explain_anomaly(frame))
    else:
        values, owner = one_hot(frame)
        if method == ISOLATION:
            forest = IsolationForest(random_state=seed).fit(values)
            scores = -forest.score_samples(values)
            shares = drops(forest, values, owner, scores)
        else:
            model = VAETransformer(random_state=seed).fit(values)
            scores, shares = model.score_anomaly(values), model.explain_anomaly(values)
            shares = np.column_stack([shares[:, owner == column].sum(axis=1) for column in range(frame.shape[1])])
    hit = which >= 0
    found = {"AUROC": float(roc_auc_score(hit, scores)), "seconds": time.process_time() - began}
    if shares is not None:
        found["explained"] = float(np.mean(shares[hit].argmax(axis=1) == which[hit]))
    return found


def tasks_of_anomalies(args: argparse.Namespace) -> Iterator[Task]:
    """Find changed categories."""
    frame = load("adult")
    for seed in range(args.seeds):
        rows, which = changed(some_of(frame, args.anomaly_rows, seed), seed)
        for method in chosen(args, [OWN, ISOLATION, OF_NUMBERS]):
            yield f"adult {len(rows)}", method, seed, partial(anomalies, method, rows, which, seed)


# -- likelihood -------------------------------------------------------------------------------------------------------


def log_categories(train: np.ndarray, test: np.ndarray, n_levels: int) -> np.ndarray:
    """Log-probabilities of categories, by frequencies with half a row more of each."""
    counts = np.bincount(train.astype(int), minlength=n_levels) + 0.5
    return np.log(counts / counts.sum())[test.astype(int)]


def log_numbers(train: np.ndarray, test: np.ndarray, whole: bool) -> np.ndarray:
    """Log-probabilities of cells of width one, or log-densities, by frequent values beside a histogram of equal shares.

    The number of bins is that of the best likelihood in a fifth of the rows, held out.
    """
    cut = len(train) // 5
    shuffled = np.random.default_rng(0).permutation(train)
    best = max(BINS, key=lambda n_bins: log_histogram(shuffled[cut:], shuffled[:cut], n_bins, whole).sum())
    return log_histogram(train, test, best, whole)


def log_histogram(train: np.ndarray, test: np.ndarray, n_bins: int, whole: bool) -> np.ndarray:
    """Use one number of bins; the weight of one row lies evenly over twice the range."""
    values, counts = np.unique(train, return_counts=True)
    frequent = values[counts > max(SPIKE * len(train), 1)] if whole else values[:0]
    rest = train[~np.isin(train, frequent)]
    total = len(train) + 1.0
    low, high = train.min() - 0.5 * whole, train.max() + 0.5 * whole
    density = np.full(len(test), 1.0 / total / (2.0 * max(high - low, 1e-9)))
    if len(rest):
        edges = np.unique(np.quantile(rest, np.linspace(0, 1, n_bins + 1)))
        edges = np.unique(np.r_[np.floor(edges) - 0.5, edges[-1] + 0.5]) if whole else np.unique(np.r_[low, edges, high])
        share = np.histogram(rest, edges)[0] / total / np.diff(edges)
        place = np.searchsorted(edges, test, side="right") - 1
        inside = (place >= 0) & (place < len(share))
        density[inside] += share[place[inside]]
    for value in frequent:
        density[test == value] += counts[values == value] / total
    return np.log(density)


def independent(train: pd.DataFrame, test: pd.DataFrame) -> float:
    """Mean log-likelihood of rows of independent columns; what is missing is left out."""
    columns = Columns.of(train)
    total = np.zeros(len(test))
    for levels, places, was, now in zip(
        columns.levels, columns.decimals, columns.read(train).T, columns.read(test).T, strict=True
    ):
        was, there = was[~np.isnan(was)], ~np.isnan(now)
        if levels is None:
            total[there] += log_numbers(was, now[there], places == 0)
        else:
            total[there] += log_categories(was, now[there], len(levels))
    return float(total.mean())


def likelihood(method: str, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Figures:
    """Figures of a model of rows."""
    began = time.process_time()
    if method == INDEPENDENT:
        return {"nats": independent(train, test), "seconds": time.process_time() - began}
    model = VAETransformer(random_state=seed)
    if method == OF_NUMBERS:  # the same network, and as many steps
        own = VAETransformer(random_state=seed).fit(train)
        model.set_params(**{name: getattr(own, f"{name}_") for name in ("n_components", "batch_size", "linear_path", "prior")})
        model.set_params(max_epochs=own.n_iter_)
        began = time.process_time()
        model.fit(one_hot(train)[0])
        return {"seconds": time.process_time() - began}
    model.fit(train)
    seconds = time.process_time() - began
    return {"nats": float(model.score(test)), "seconds": seconds, "components": model.n_components_}


def tasks_of_likelihood(args: argparse.Namespace) -> Iterator[Task]:
    """Likelihood of held-out rows, and seconds."""
    train, test = split(load("adult"))
    known = Columns.of(train)
    strange = np.isnan(known.read(test)).any(axis=1)  # adult has no gaps: these are categories that nobody was shown
    if strange.any():
        print(f"adult: {strange.sum()} held-out rows with categories that training rows do not have are left out.")
    for seed in range(args.seeds):
        for method in chosen(args, [OWN, INDEPENDENT, OF_NUMBERS]):
            yield "adult", method, seed, partial(likelihood, method, train, test[~strange], seed)


# -- tables -----------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[argparse.Namespace], Iterator[Task]]] = {
    "samples": tasks_of_samples,
    "impute": tasks_of_gaps,
    "anomalies": tasks_of_anomalies,
    "likelihood": tasks_of_likelihood,
}
LARGER_IS_BETTER = {"trained", "relative", "closest", "categories", "AUROC", "explained", "nats", "components"}


def chosen(args: argparse.Namespace, methods: list[str]) -> list[str]:
    """Methods that are wanted and there."""
    if find_spec("ctgan") is None:
        methods = [method for method in methods if method not in ("CTGAN", "TVAE")]
    return methods if args.methods is None else [method for method in methods if method in args.methods]


def listing(figures: Figures) -> str:
    """Figures in a line."""
    return ", ".join(f"{what} {value:.1f}" if what == "seconds" else f"{what} {value:.3f}" for what, value in figures.items())


def print_means(results: list[tuple[str, str, int, Figures]]) -> None:
    """Print means over seeds with the worst seed, and means over the sets of a size or rate."""
    by: dict[str, dict[str, list[Figures]]] = {}
    for data, method, _, figures in results:
        by.setdefault(data, {}).setdefault(method, []).append(figures)
    print("\nmeans over seeds (worst)")
    over: dict[str, dict[str, list[Figures]]] = {}
    for data, of_method in by.items():
        print(data)
        for method, found in of_method.items():
            keys = [key for key in found[0] if all(key in figures for figures in found)]
            values = {key: [figures[key] for figures in found] for key in keys}
            worst = {key: min(each) if key in LARGER_IS_BETTER else max(each) for key, each in values.items()}
            means = {key: float(np.mean(each)) for key, each in values.items()}
            over.setdefault(data.split()[-1], {}).setdefault(method, []).append(means)
            print(f"  {method:26s} " + "  ".join(f"{key} {means[key]:.3f} ({worst[key]:.3f})" for key in keys))
    if len(by) > 1:
        print("\nmeans over sets")
        for group, of_method in over.items():
            print(group)
            for method, found in of_method.items():
                keys = list(dict.fromkeys(chain.from_iterable(found)))
                means = {key: np.mean([figures[key] for figures in found if key in figures]) for key in keys}
                print(f"  {method:26s} {len(found)} sets  " + "  ".join(f"{key} {value:.3f}" for key, value in means.items()))


def main() -> None:
    """Run what is not in the file of results yet, and report; exits with 1 where a model of the package refused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--sets", nargs="*", default=list(TARGETS), choices=list(TARGETS), help="for samples and impute")
    parser.add_argument("--sizes", nargs="*", default=[*map(str, SIZES), "all"], help="training rows, for samples")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", help="all by default")
    parser.add_argument("--rows", type=int, default=2000, help="most rows, for impute")
    parser.add_argument("--anomaly-rows", type=int, default=N_ANOMALY_ROWS, help="for anomalies")
    parser.add_argument("--results", type=Path, default=Path("tables.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    kept = {tuple(key): figures for key, figures in map(json.loads, lines)}
    results, refused = [], 0
    tasks = TABLES[args.table](args)
    first = next(tasks)  # before a file is opened: the script ends here where there are no data
    with args.results.open("a") as file:
        for data, method, seed, task in chain([first], tasks):
            key = (args.table, data, method, seed)
            if key not in kept:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # about few rows, constant columns and classes of one row
                        kept[key] = task()
                except (TypeError, ValueError) as error:
                    if method not in OF_THE_PACKAGE:
                        raise
                    refused += 1
                    print(f"{data} seed {seed} {method} is left out: {error}", flush=True)
                    continue
                file.write(json.dumps([key, kept[key]]) + "\n")
                file.flush()
            results.append((data, method, seed, kept[key]))
            print(f"{data} seed {seed} {method}: {listing(kept[key])}", flush=True)
    print_means(results)
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
