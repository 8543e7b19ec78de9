"""Whether the false-alarm rate of AnomalyDetector is what was asked for, over many splits of normal rows.

Per split, a detector is fitted to some rows and predicts others. A rate counts as right if it lies within three standard errors
of `alpha`, where the error is that of the mean over the splits: each is a draw of calibration rows and of new ones. P-values are
compared with the uniform distribution by a Kolmogorov-Smirnov test, one p-value a split, as those within one share their
calibration rows; each is spread evenly over the step of the grid that it stands for.

    python examples/benchmarks/conformal.py [--splits 200] [--epochs 20] [--rows digits] [--calibration split]
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from scipy.stats import kstest
from sklearn.datasets import load_breast_cancer, load_digits

from skvae import AnomalyDetector, AutoEncoder

ALPHAS = (0.01, 0.05, 0.1)
N_ERRORS, LEAST_P = 3.0, 0.01
MIXING = np.random.default_rng(0).normal(size=(3, 10))


def synthetic(rng, n):
    """Rows of rank three, with noise."""
    return rng.normal(size=(n, 3)) @ MIXING + 0.5 * rng.normal(size=(n, 10))


def taken_from(X):
    """Draw rows of a table without replacement."""
    return lambda rng, n: X[rng.permutation(len(X))[:n]]


def main() -> int:
    """Print a table and return how many of its figures are off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--calibration", nargs="+", choices=["split", "cross"], default=["split", "cross"])
    parser.add_argument("--rows", nargs="+", choices=["synthetic", "cancer", "digits"], default=["synthetic", "cancer", "digits"])
    args = parser.parse_args()
    cancer, is_benign = load_breast_cancer(return_X_y=True)
    sources = {
        "synthetic": (synthetic, 300, 150),
        "cancer": (taken_from(cancer[is_benign == 1]), 257, 100),
        "digits": (taken_from(load_digits().data), 400, 200),
    }
    n_wrong = 0
    print(f"{'rows':14} {'calibration':11} " + " ".join(f"{f'alpha={alpha}':>17}" for alpha in ALPHAS) + "  KS p-value  seconds")
    for name in args.rows:
        draw, n_rows, n_new = sources[name]
        for calibration in args.calibration:
            start = time.perf_counter()
            rates, p_values, n_held_out = over_splits(draw, n_rows, n_new, calibration, args)
            cells = []
            for alpha, rate in zip(ALPHAS, rates.mean(axis=0), strict=True):
                error = np.sqrt(alpha * (1 - alpha) * (1 / n_held_out + 1 / n_new) / args.splits)
                is_wrong = abs(rate - alpha) > N_ERRORS * error
                n_wrong += is_wrong
                cells.append(f"{rate:.4f} +- {error:.4f}{'!' if is_wrong else ' '}")
            p = kstest(p_values, "uniform").pvalue
            n_wrong += p < LEAST_P
            seconds = time.perf_counter() - start
            print(f"{name:14} {calibration:11} {' '.join(cells)}  {p:10.3f} {seconds:8.0f}", flush=True)
    print(f"{n_wrong} figures are off" if n_wrong else "all within the error")
    return int(n_wrong)


def over_splits(draw, n_rows, n_new, calibration, args):
    """Rates of flagged rows over splits, a p-value of each, and the number of calibration rows."""
    rates, p_values = np.empty((args.splits, len(ALPHAS))), np.empty(args.splits)
    for split in range(args.splits):
        rng = np.random.default_rng(split)
        X = draw(rng, n_rows + n_new)
        model = AutoEncoder(max_epochs=args.epochs)
        # Fitted for the smallest rate, as many rows are held out as every rate needs.
        detector = AnomalyDetector(model, calibration=calibration, alpha=min(ALPHAS), random_state=split).fit(X[:n_rows])
        n_held_out = len(detector.calibration_scores_)
        for j, alpha in enumerate(ALPHAS):
            rates[split, j] = np.mean(detector.set_params(alpha=alpha).predict(X[n_rows:]) == -1)
        p_values[split] = detector.p_values(X[n_rows : n_rows + 1])[0] - rng.random() / (n_held_out + 1)
    return rates, p_values, n_held_out


if __name__ == "__main__":
    sys.exit(min(main(), 1))
