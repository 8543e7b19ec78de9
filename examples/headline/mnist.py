"""Where the headline scripts find MNIST."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np


def load_mnist() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images as float32 rows in [0, 1], with their labels: X_train, y_train, X_test, y_test."""
    folder = Path(os.environ.get("SKVAE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if (folder / "mnist.npz").exists():
        with np.load(folder / "mnist.npz") as data:
            images = [data[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("X_train", "X_test")]
            return images[0], data["y_train"], images[1], data["y_test"]
    try:
        from sklearn.datasets import fetch_openml

        X, y = fetch_openml("mnist_784", return_X_y=True, as_frame=False, parser="liac-arff")
    except Exception as error:  # whatever keeps the download from working, the advice is the same
        sys.exit(f"MNIST was not found: set SKVAE_DATA to a folder with mnist.npz, or go online for OpenML ({error}).")
    X, y = X.astype(np.float32) / 255, y.astype(int)
    return X[:60_000], y[:60_000], X[60_000:], y[60_000:]
