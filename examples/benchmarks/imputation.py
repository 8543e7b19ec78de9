"""Imputation beside IterativeImputer and KNNImputer: entries missing at random, and because of their values.

At random, 30% of the entries of bundled tables are deleted. Not at random, entries above the column's mean are deleted from
the first half of the columns of the breast cancer table, after Ipsen et al., "not-MIWAE", ICLR 2021. Errors are root mean squares
over deleted entries of standardized columns; coverage is that of 90% intervals from multiple imputations. Exits with 1 if a
figure falls short of what is asked of it.

    python examples/benchmarks/imputation.py [--runs 5]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

from skvae import AutoencoderImputer

SETS = {"wine": load_wine, "diabetes": load_diabetes, "iris": load_iris, "breast cancer": load_breast_cancer}
ASKED_RMSE, ASKED_SETS, ASKED_COVERAGE = 0.80, 2, (0.85, 0.95)


def rmse(filled: np.ndarray, X: np.ndarray, deleted: np.ndarray) -> float:
    """Root mean squared error over deleted entries."""
    return float(np.sqrt(np.mean((filled - X)[deleted] ** 2)))


def share_covered(imputer: AutoencoderImputer, gaps: np.ndarray, X: np.ndarray, deleted: np.ndarray) -> float:
    """Share of deleted entries that lie within their 90% intervals."""
    low, high = np.quantile(imputer.impute(gaps, 200), [0.05, 0.95], axis=0)
    return float(np.mean(((low <= X) & (X <= high))[deleted]))


def peers() -> dict[str, object]:
    """Imputers of scikit-learn."""
    return {
        "mean": SimpleImputer(),
        "KNNImputer": KNNImputer(),
        "IterativeImputer": IterativeImputer(max_iter=20, random_state=0),
    }


def at_random(runs: int) -> bool:
    """Print the table of entries missing at random; return whether it is as asked."""
    print("missing at random, 30%: RMSE, mean of the runs")
    better, covers = 0, True
    for name, load in SETS.items():
        X = StandardScaler().fit_transform(load().data)
        errors: dict[str, list[float]] = {}
        coverage = []
        for run in range(runs):
            deleted = np.random.default_rng(run).random(X.shape) < 0.3
            gaps = np.where(deleted, np.nan, X)
            for peer, imputer in peers().items():
                errors.setdefault(peer, []).append(rmse(imputer.fit_transform(gaps), X, deleted))
            imputer = AutoencoderImputer(random_state=run).fit(gaps)
            errors.setdefault("AutoencoderImputer", []).append(rmse(imputer.transform(gaps), X, deleted))
            coverage.append(share_covered(imputer, gaps, X, deleted))
        means = {peer: float(np.mean(values)) for peer, values in errors.items()}
        ours = means["AutoencoderImputer"]
        better += ours < min(means["KNNImputer"], means["IterativeImputer"])
        covers &= ASKED_COVERAGE[0] <= np.mean(coverage) <= ASKED_COVERAGE[1]
        listing = "  ".join(f"{peer} {value:.3f}" for peer, value in means.items())
        print(f"  {name}: {listing}  coverage {np.mean(coverage):.3f}", flush=True)
    return better >= ASKED_SETS and covers


def by_value(runs: int) -> bool:
    """Print the table of entries missing because of their values; return whether its error is as asked."""
    print("breast cancer, above the mean of each of the first half of the columns: RMSE")
    X = StandardScaler().fit_transform(load_breast_cancer().data)
    deleted = np.zeros(X.shape, dtype=bool)
    half = X.shape[1] // 2
    deleted[:, :half] = X[:, :half] > X[:, :half].mean(axis=0)
    gaps = np.where(deleted, np.nan, X)
    for peer, imputer in peers().items():
        print(f"  {peer} {rmse(imputer.fit_transform(gaps), X, deleted):.3f}", flush=True)
    means = []
    for sign in ("positive", None):
        found, coverage = [], []
        for run in range(runs):
            start = time.perf_counter()
            imputer = AutoencoderImputer(mechanism="self_masking", masking_sign=sign, random_state=run).fit(gaps)
            found.append(rmse(imputer.transform(gaps), X, deleted))
            coverage.append(share_covered(imputer, gaps, X, deleted))
            seconds = time.perf_counter() - start
            print(f"  AutoencoderImputer, {sign=}, run {run}: {found[-1]:.3f}, {seconds:.0f} s", flush=True)
        means.append(float(np.mean(found)))
        print(
            f"  AutoencoderImputer, {sign=}: mean {means[-1]:.3f}, standard deviation {np.std(found):.3f}, "
            f"coverage {np.mean(coverage):.3f}"
        )
    return means[0] <= ASKED_RMSE


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    as_asked = [by_value(args.runs), at_random(args.runs)]
    sys.exit(0 if all(as_asked) else 1)


if __name__ == "__main__":
    main()
