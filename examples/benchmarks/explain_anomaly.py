"""How often `explain_anomaly` puts the one corrupted column of a row first.

Rows are normal, with ten columns driven by three factors; in each of the rows to explain, one column is moved by four to six of
the standard deviations that it has given the others, so that correlations are broken where no entry need be extreme. Beside the
estimators stands the Mahalanobis distance of the rows themselves, split in two ways: into the products x_j (P x)_j, which sum to
the distance (P is the inverse covariance), and into (P x)_j^2 / P_jj, what correcting the column would take off, which do not sum
to it. Where the data are jointly normal and one column is wrong, the latter is the best there is.

With ADBench's tables at hand (see anomaly.py) and --real, the same is done to the normal rows that are left out of training.

    python examples/benchmarks/explain_anomaly.py [--seeds 0 1 2] [--rows 1000] [--real]
"""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np
from adbench import find_sets, load_split
from sklearn.covariance import LedoitWolf

from skvae import AutoEncoder, DenoisingAE, VAETransformer

ESTIMATORS = (AutoEncoder, VAETransformer, DenoisingAE)
METHODS = ("auto", "mahalanobis", "reconstruction")
WANTED = 0.95
REAL = ("breastw", "cardio", "letter", "pendigits", "satellite", "vowels")


def correlated(seed: int, noise: float, n_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, rows to corrupt and the standard deviation of every column given the others, in standardized units."""
    rng = np.random.default_rng(seed)
    loadings = rng.standard_normal((3, 10))
    X = rng.standard_normal((2000 + n_rows, 3)) @ loadings + noise * rng.standard_normal((2000 + n_rows, 10))
    covariance = loadings.T @ loadings + noise**2 * np.eye(10)
    scale = np.sqrt(np.diag(covariance))
    spread = np.diag(np.linalg.inv(covariance)) ** -0.5 / scale
    return X[:2000] / scale, X[2000:] / scale, spread


def corrupt(X: np.ndarray, spread: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Move one column of every row; returns the rows and which column it was."""
    rng = np.random.default_rng(seed)
    column = rng.integers(X.shape[1], size=len(X))
    moved = X.copy()
    moved[np.arange(len(X)), column] += spread[column] * rng.uniform(4, 6, len(X)) * rng.choice([-1, 1], len(X))
    return moved, column


def first(shares: np.ndarray, column: np.ndarray) -> float:
    """Share of the rows in which the corrupted column has the largest share."""
    return float((shares.argmax(axis=1) == column).mean())


def figures(train: np.ndarray, moved: np.ndarray, column: np.ndarray, seed: int) -> dict[str, float]:
    """Figures of every estimator and method, and of raw Mahalanobis."""
    raw = LedoitWolf().fit(train)
    centered = moved - raw.location_
    pulled = centered @ raw.precision_
    found = {
        "raw Mahalanobis, products": first(centered * pulled, column),
        "raw Mahalanobis, corrections": first(pulled**2 / np.diag(raw.precision_), column),
    }
    for cls in ESTIMATORS:
        model = cls(random_state=seed).fit(train)
        for method in METHODS:
            name = cls.__name__ + ("" if method == "auto" else f", {method}")
            found[name] = first(model.explain_anomaly(moved, method=method), column)
    return found


def main() -> None:
    """Run and print; fail where a default misses what it should reach."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--real", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "The code of .* has collapsed")
    real = find_sets([*REAL]) if args.real else {}
    columns: dict[str, dict[str, float]] = {}
    for noise in (0.2, 0.5):
        runs = []
        for seed in args.seeds:
            train, test, spread = correlated(seed, noise, args.rows)
            runs.append(figures(train, *corrupt(test, spread, seed), seed))
        columns[f"noise {noise}"] = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
    for table, path in real.items():
        train, test, y = load_split(path, "semi-supervised", 0, 10_000)
        spread = np.diag(LedoitWolf().fit(train).precision_) ** -0.5
        columns[table.split("_", 1)[-1]] = figures(train, *corrupt(test[y == 0][:300], spread, 0), 0)
    print(f"| | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for name in next(iter(columns.values())):
        print(f"| {name} | {' | '.join(f'{100 * column[name]:.1f}%' for column in columns.values())} |")
    lowest = min(columns[f"noise {noise}"][cls.__name__] for noise in (0.2, 0.5) for cls in ESTIMATORS)
    print(f"\nLowest figure of a default on the generated rows: {100 * lowest:.1f}%; at least {100 * WANTED:.0f}% is asked for.")
    sys.exit(0 if lowest >= WANTED else 1)


if __name__ == "__main__":
    main()
