"""Where the anomaly benchmarks find ADBench's tables, and how they are split."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # which Python does not look into by itself

from data import find_data

MODES = ("semi-supervised", "unsupervised")


def find_sets(names: list[str] | None = None) -> dict[str, Path]:
    """Files of the tables by name, all that there are or those asked for."""
    contents = "ADBench's Classical group, a table in each file *.npz, with its rows in X and ones for anomalies in y"
    folder = find_data("adbench", contents)
    files = {path.stem: path for path in sorted(folder.glob("*.npz"), key=lambda path: path.stem.split("_", 1)[-1].lower())}
    if not files:
        sys.exit(f"No tables in {folder}, where this example needs {contents}.")
    if names is None:
        return files
    known = {stem.split("_", 1)[-1]: stem for stem in files}
    unknown = [name for name in names if name not in files and name not in known]
    if unknown:
        sys.exit(f"No table {', '.join(unknown)} in {folder}; there are {', '.join(known)}.")
    return {known.get(name, name): files[known.get(name, name)] for name in names}


def load_split(path: Path, mode: str, seed: int, max_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, rows to score and whether these are anomalies; columns are standardized by the training rows.

    Semi-supervised, half of the normal rows are for training, the other half and the anomalies to be scored. Unsupervised,
    all rows are both.
    """
    with np.load(path) as data:
        X, y = data["X"].astype(float), data["y"].astype(int)
    rng = np.random.default_rng(seed)
    if len(X) > max_rows:
        kept = rng.permutation(len(X))[:max_rows]
        X, y = X[kept], y[kept]
    if mode == "unsupervised":
        train = test = np.arange(len(X))
    else:
        normal = rng.permutation(np.flatnonzero(y == 0))
        train, rest = np.split(normal, [len(normal) // 2])
        test = np.concatenate([rest, np.flatnonzero(y == 1)])
    scaler = StandardScaler().fit(X[train])
    return scaler.transform(X[train]), scaler.transform(X[test]), y[test]
