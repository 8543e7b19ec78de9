"""k-sparse autoencoder on MNIST: how well its codes classify.

1,000 units of which 25 are active in training [Makhzani and Frey, 2014]; a logistic regression on the frozen codes, read with
alpha times as many units. Its penalty is chosen on 10,000 training images; test images are looked at once. The paper reports
1.35% test error, 1.95% for a denoising autoencoder and 7.20% for raw pixels.

    python examples/headline/k_sparse_mnist.py [--epochs 40]

The images are read from mnist.npz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from mnist import load_mnist
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from skvae import SparseAE, TopK

PENALTIES = (0.01, 0.04, 0.16)
N_VALIDATION = 10_000


def test_error(train, y_train, test, y_test) -> tuple[float, float]:
    """Test error in percent of a logistic regression, and the penalty that did best on held-out training rows."""
    scale = np.sqrt((train.multiply(train) if sparse.issparse(train) else train**2).mean())
    train, test = train / scale, test / scale

    def fitted(C, rows):
        return LogisticRegression(C=C, max_iter=1000).fit(train[rows], y_train[rows])

    head, tail = slice(0, -N_VALIDATION), slice(-N_VALIDATION, None)
    best = max(PENALTIES, key=lambda C: fitted(C, head).score(train[tail], y_train[tail]))
    return 100 * (1 - fitted(best, slice(None)).score(test, y_test)), best


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("-k", type=int, default=25)
    parser.add_argument("--alpha", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = load_mnist()

    start = time.perf_counter()
    model = SparseAE(
        args.units,
        penalty=TopK(alpha=args.alpha),
        k=args.k,
        decoder="tied",
        sparse_output=True,
        learning_rate=3e-3,
        batch_size=256,
        max_epochs=args.epochs,
        random_state=args.seed,
    ).fit(X_train)
    trained = time.perf_counter() - start
    print(f"{'features':34}{'test error':>11}{'C':>7}{'seconds':>9}", flush=True)
    error, C = test_error(model.transform(X_train), y_train, model.transform(X_test), y_test)
    name = f"k-sparse, {args.units} units, k={args.k}, alpha={args.alpha:g}"
    print(f"{name:34}{error:10.2f}%{C:7g}{time.perf_counter() - start:9.0f}", flush=True)
    pca = PCA(100, random_state=args.seed).fit(X_train)
    for name, train, test in (("raw pixels", X_train, X_test), ("PCA, 100", pca.transform(X_train), pca.transform(X_test))):
        start = time.perf_counter()
        error, C = test_error(train, y_train, test, y_test)
        print(f"{name:34}{error:10.2f}%{C:7g}{time.perf_counter() - start:9.0f}", flush=True)
    print(f"\nautoencoder: {trained:.0f} s, {model.n_dead_units_} dead units, {model.mean_active_units_:.1f} active a row")


if __name__ == "__main__":
    main()
