"""Clusters among codes that keep neighbors: NeighborAE beside UMAP, AutoEncoder, principal components and the rows themselves.

Three quarters of the rows are learned from, by codes of 8 components, and the others are held out. Codes are clustered by KMeans,
a GaussianMixture and HDBSCAN, the first two knowing how many classes there are, and compared with the classes by the adjusted
Rand index; held-out rows are assigned by KMeans. The reconstruction error is that of rows relative to their variance. Rows are
those of scikit-learn's digits, and of the files of clusters/ in the folder that the environment variable SKVAE_DATA names. Means
over seeds are printed, and the worst seed in brackets. Results are kept in a file, line by line, so that a run that was
interrupted goes on. Exits with 1 if on the digits a figure falls short of what is asked of it.

    python examples/benchmarks/neighbors.py [--sets digits usps] [--seeds 5] [--models ...] [--results neighbors.jsonl]

UMAP needs the package umap-learn, and is left out where it is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import FunctionTransformer

from skvae import AutoEncoder, NeighborAE

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # which Python does not look into by itself

from data import find_data

N_COMPONENTS = 8
FEWEST = 20  # rows of a cluster that HDBSCAN finds
FIGURES = ("kmeans", "mixture", "hdbscan", "held out", "error", "held-out error", "seconds")
LEAST, SLACK, ERROR = 0.80, 0.02, 1.15


def umap(seed: int) -> Any:
    """UMAP at its defaults."""
    import umap

    return umap.UMAP(n_components=N_COMPONENTS, random_state=seed, n_jobs=1)


MODELS: dict[str, Callable[[int], Any]] = {
    "rows": lambda seed: FunctionTransformer(),
    "pca": lambda seed: PCA(N_COMPONENTS, random_state=seed),
    "umap": umap,
    "AutoEncoder": lambda seed: AutoEncoder(N_COMPONENTS, random_state=seed),
    "NeighborAE": lambda seed: NeighborAE(N_COMPONENTS, random_state=seed),
}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and their classes."""
    if name == "digits":
        return load_digits(return_X_y=True)
    with np.load(find_data(f"clusters/{name}.npz", "rows in X and their classes in y")) as file:
        return file["X"], file["y"]


def run(rows: np.ndarray, labels: np.ndarray, name: str, seed: int) -> dict[str, float]:
    """Fit a model and cluster its codes."""
    train, test, of_train, of_test = train_test_split(rows, labels, random_state=seed, stratify=labels)
    n_clusters = len(np.unique(labels))
    began = time.process_time()
    model = MODELS[name](seed).fit(train)
    seconds = time.process_time() - began
    codes = model.transform(train).astype(np.float64)
    kmeans = KMeans(n_clusters, n_init=10, random_state=seed).fit(codes)
    found = {"kmeans": kmeans.labels_}
    found["mixture"] = GaussianMixture(n_clusters, n_init=3, random_state=seed, reg_covar=1e-4).fit_predict(codes)
    found["hdbscan"] = HDBSCAN(min_cluster_size=FEWEST, copy=True).fit_predict(codes)
    figures = {each: adjusted_rand_score(of_train, clusters) for each, clusters in found.items()}
    held_out = kmeans.predict(model.transform(test).astype(np.float64))
    figures |= {"held out": adjusted_rand_score(of_test, held_out), "seconds": seconds}
    reconstruct = getattr(model, "reconstruct", lambda X: model.inverse_transform(model.transform(X)))
    if name not in ("rows", "umap"):
        for each, part in (("error", train), ("held-out error", test)):
            figures[each] = float(((reconstruct(part) - part) ** 2).mean() / ((part - train.mean(0)) ** 2).mean())
    return figures


def report(kept: dict[tuple[str, str, int], dict[str, float]], sets: list[str], seeds: int) -> bool:
    """Print means and the worst seed; return whether all is met that is asked on the digits."""
    missed = []
    for data in sets:
        print(f"\n{data}\n{'':12s}" + "".join(f"{figure:>18s}" for figure in FIGURES))
        of: dict[str, dict[str, np.ndarray]] = {}
        for name in MODELS:
            results = [kept[data, name, seed] for seed in range(seeds) if (data, name, seed) in kept]
            if not results:
                continue
            of[name] = {figure: np.array([result.get(figure, np.nan) for result in results]) for figure in FIGURES}
            line = f"{name:12s}"
            for figure, values in of[name].items():
                worst = values.max() if figure in ("error", "held-out error", "seconds") else values.min()
                line += f"{values.mean():10.3f} ({worst:.3f})" if np.isfinite(worst) else f"{'-':>18s}"
            print(line)
        if data != "digits" or not {"NeighborAE", "AutoEncoder"} <= set(of):
            continue
        own, plain = of["NeighborAE"], of["AutoEncoder"]
        asked = {
            f"KMeans finds {own['kmeans'].mean():.3f}, at least {LEAST}": own["kmeans"].mean() >= LEAST,
            f"held-out rows lose {own['kmeans'].mean() - own['held out'].mean():.3f}, at most {SLACK}": own["kmeans"].mean()
            - own["held out"].mean()
            <= SLACK,
        }
        for figure in ("error", "held-out error"):
            ratio = own[figure].mean() / plain[figure].mean()
            asked[f"{figure} is {ratio:.3f} of AutoEncoder's, at most {ERROR}"] = ratio <= ERROR
        if "umap" in of:
            gain = own["kmeans"].mean() - of["umap"]["kmeans"].mean()
            asked[f"KMeans finds {gain:+.3f} beside UMAP's, at least 0"] = gain >= 0.0
        missed += [what for what, met in asked.items() if not met]
        print("\n" + "\n".join(asked))
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "all that is asked is met"))
    return not missed


def main() -> None:
    """Run what is not in the file of results yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=["digits"], help="digits, and files of clusters/")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the split and of the fit")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--results", type=Path, default=Path("neighbors.jsonl"))
    args = parser.parse_args()
    tables = {name: load(name) for name in args.sets}
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    kept = {tuple(key): figures for key, figures in map(json.loads, lines)}
    names = list(args.models)
    if "umap" in names:
        try:
            umap(0)
        except ImportError:
            print("umap-learn is not installed: UMAP is left out.")
            names.remove("umap")
    with args.results.open("a") as file:
        for data, (rows, labels) in tables.items():
            for seed in range(args.seeds):
                for name in names:
                    if (data, name, seed) in kept:
                        continue
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # UMAP's, about threads
                        kept[data, name, seed] = run(rows, labels, name, seed)
                    file.write(json.dumps([[data, name, seed], kept[data, name, seed]]) + "\n")
                    file.flush()
    sys.exit(0 if report(kept, args.sets, args.seeds) else 1)


if __name__ == "__main__":
    main()
