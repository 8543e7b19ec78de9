"""Clusters: AutoencoderClusterer beside clusters of rows, of principal components, of UMAP's and of an AutoEncoder's codes.

Everything is at its defaults but the number of clusters, where it is given; codes have 8 components, UMAP 15 neighbors and
min_dist 0; HDBSCAN's clusters have at least a hundredth of the rows, and its noise is one of them. Tables:

    sets      true number of classes given: digits, and the files of clusters/ in the folder that SKVAE_DATA names
    auto      n_clusters="auto": the same sets, and 20,000 rows of MNIST, with the number that is found
    subsets   n_clusters="auto": rows of 3 to 9 of the classes of digits, usps and MNIST
    mixtures  n_clusters="auto": generated mixtures of 1 to 25 clusters of unequal size
    noise     n_clusters="auto": clouds that have no clusters
    mnist     all 70,000 images of MNIST, or as many as --rows says, and clusters of the codes of a wide AutoEncoder that is
              trained for long beside it
    new       MNIST's 60,000 training images, and the clusters that its 10,000 others are put into

Clusters are compared with classes by the adjusted Rand index, and on MNIST by the share of the rows that are in the cluster of
their class, where clusters are matched with classes one to one. Every result is printed with its seconds of CPU time, then means
over seeds. Results are kept in a file, line by line, so that a run that was interrupted goes on.

    python examples/benchmarks/clusters.py sets [--sets digits usps] [--seeds 5] [--methods ...] [--results clusters.jsonl]

UMAP needs the package umap-learn, and is left out where it is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.mixture import GaussianMixture

from skvae import AutoEncoder, AutoencoderClusterer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # which Python does not look into by itself

from data import find_data

N_COMPONENTS = 8
SETS = ("digits", "usps", "penbased", "optdigits", "satimage", "letter")
OWN = "AutoencoderClusterer"
WIDE = "AutoEncoder(10), 500-500-2000"
N_TRAIN = 60_000
N_MIXTURES, N_SUBSETS, MOST_CLUSTERS = 40, 10, 25
NOISES = [(kind, width, n_rows) for kind in ("normal", "uniform", "t") for width, n_rows in ((2, 1000), (5, 2000), (20, 2000))]

Rows = tuple[np.ndarray, np.ndarray]


# -- data -------------------------------------------------------------------------------------------------------------


def load(name: str) -> Rows:
    """Rows and their classes."""
    if name == "digits":
        return load_digits(return_X_y=True)
    if name == "mnist":
        with np.load(find_data("mnist.npz", "images in X_train and X_test")) as file:
            images = np.concatenate([file["X_train"], file["X_test"]])
            return images.reshape(len(images), -1) / np.float32(255.0), np.concatenate([file["y_train"], file["y_test"]])
    with np.load(find_data(f"clusters/{name}.npz", "rows in X and their classes in y")) as file:
        return file["X"], file["y"]


def some_of(rows: Rows, n_rows: int, seed: int) -> Rows:
    """Draw some of the rows at random."""
    X, y = rows
    chosen = np.random.default_rng(seed).permutation(len(X))[:n_rows]
    return X[chosen], y[chosen]


def subset(seed: int) -> tuple[str, Rows]:
    """Rows of some of the classes of a set."""
    rng = np.random.default_rng([1, seed])
    name = ("digits", "usps", "mnist")[seed % 3]
    X, y = load(name)
    if name == "mnist":
        X, y = some_of((X, y), 20000, 0)
    n_classes = 3 + seed % 7
    classes = np.sort(rng.permutation(np.unique(y))[:n_classes])
    chosen = np.isin(y, classes)
    return f"{name} {''.join(str(each) for each in classes)}", (X[chosen], y[chosen])


def mixture(seed: int) -> Rows:
    """Draw from normal distributions of unequal size and shape, apart from each other."""
    rng = np.random.default_rng([2, seed])
    n_clusters = 1 + seed * (MOST_CLUSTERS - 1) // (N_MIXTURES - 1)
    width, n_rows = int(rng.integers(2 if n_clusters <= 8 else 3, 21)), int(rng.integers(1500, 4001))
    share = np.maximum(rng.dirichlet(np.full(n_clusters, 2.0)), 0.3 / n_clusters)
    sizes = np.maximum((share / share.sum() * n_rows).astype(int), 30)
    apart, spread = rng.uniform(6.0, 9.0), 6.0
    centers: list[np.ndarray] = []
    while len(centers) < n_clusters:
        center = rng.normal(size=width) * spread / np.sqrt(width)
        if all(np.linalg.norm(center - other) > apart for other in centers):
            centers.append(center)
        spread *= 1.01
    parts = []
    for size, center in zip(sizes, centers, strict=True):
        axes = np.linalg.qr(rng.normal(size=(width, width)))[0]
        parts.append(center + rng.normal(size=(size, width)) @ (axes * np.exp(rng.uniform(-0.7, 0.4, size=width))).T)
    return np.concatenate(parts), np.repeat(np.arange(n_clusters), sizes)


def noise(kind: str, width: int, n_rows: int, seed: int) -> Rows:
    """Draw a cloud without clusters."""
    rng = np.random.default_rng([3, seed])
    if kind == "uniform":
        X = rng.uniform(size=(n_rows, width))
    else:
        X = rng.normal(size=(n_rows, width))
        X /= np.sqrt(rng.chisquare(3, size=(n_rows, 1)) / 3.0) if kind == "t" else 1.0
    return X, np.zeros(n_rows, dtype=int)


# -- methods ----------------------------------------------------------------------------------------------------------


def umap_codes(X: np.ndarray, seed: int) -> np.ndarray:
    """Codes of UMAP."""
    import umap

    return umap.UMAP(n_components=N_COMPONENTS, n_neighbors=15, min_dist=0.0, random_state=seed, n_jobs=1).fit_transform(X)


def wide_codes(X: np.ndarray, seed: int) -> np.ndarray:
    """Codes of the network that papers on deep clustering use, trained without neighbors."""
    model = AutoEncoder(
        10, hidden_layer_sizes=(500, 500, 2000), max_epochs=60, batch_size=256, learning_rate=1e-3, random_state=seed
    )
    return model.fit(X).transform(X)


CODES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "rows": lambda X, seed: X,
    "PCA": lambda X, seed: PCA(min(N_COMPONENTS, X.shape[1]), random_state=seed).fit_transform(X),
    "UMAP": umap_codes,
    "AutoEncoder": lambda X, seed: AutoEncoder(N_COMPONENTS, random_state=seed).fit(X).transform(X),
    WIDE: wide_codes,
}
CLUSTERERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "KMeans": lambda Z, k, seed: KMeans(k, n_init=10, random_state=seed).fit_predict(Z),
    "GaussianMixture": lambda Z, k, seed: GaussianMixture(k, random_state=seed).fit_predict(Z),
    "HDBSCAN": lambda Z, k, seed: HDBSCAN(min_cluster_size=max(2, len(Z) // 100), copy=True).fit_predict(Z),
}
PEERS = [(codes, clusterer) for codes in ("rows", "PCA", "UMAP") for clusterer in ("KMeans", "GaussianMixture")]
PEERS += [("UMAP", "HDBSCAN"), ("AutoEncoder", "KMeans")]
METHODS = [f"{codes} + {clusterer}" for codes, clusterer in PEERS] + [OWN]


def accuracy(y: np.ndarray, labels: np.ndarray) -> float:
    """Share of the rows in the cluster of their class."""
    table = contingency_matrix(y, labels)
    return float(table[linear_sum_assignment(-table)].sum() / len(y))


def own(rows: Rows, n_clusters: int | str, seed: int) -> dict[str, Any]:
    """Figures of AutoencoderClusterer."""
    X, y = rows
    began, wall = time.process_time(), time.perf_counter()
    model = AutoencoderClusterer(n_clusters, random_state=seed).fit(X)
    return figures(y, model.labels_, began, wall) | {"stability": model.stability_, "n_groups": model.report_["n_groups"]}


def of_new_rows(rows: Rows, seed: int) -> dict[str, Any]:
    """Figures of AutoencoderClusterer on MNIST's training images, and its accuracy on the others, clusters matched as there."""
    X, y = rows
    began, wall = time.process_time(), time.perf_counter()
    model = AutoencoderClusterer(10, random_state=seed).fit(X[:N_TRAIN])
    found = figures(y[:N_TRAIN], model.labels_, began, wall)
    classes, clusters = linear_sum_assignment(-contingency_matrix(y[:N_TRAIN], model.labels_))
    class_of = dict(zip(clusters, classes, strict=True))
    new = np.array([class_of.get(label, -1) for label in model.predict(X[N_TRAIN:])])
    return found | {"accuracy of new rows": float(np.mean(new == y[N_TRAIN:]))}


def figures(y: np.ndarray, labels: np.ndarray, began: float, wall: float) -> dict[str, Any]:
    """Return what is kept of a run."""
    return {
        "ari": float(adjusted_rand_score(y, labels)),
        "accuracy": accuracy(y, labels),
        "found": len(np.unique(labels)),
        "classes": len(np.unique(y)),
        "seconds": time.process_time() - began,
        "wall": time.perf_counter() - wall,
    }


# -- tables -----------------------------------------------------------------------------------------------------------

Task = tuple[str, str, int, Callable[[], dict[str, Any]]]


def tasks_of_sets(args: argparse.Namespace) -> Iterator[Task]:
    """Cluster by all methods, with the true number of classes."""
    for name in args.sets:
        rows = load(name)
        for seed in range(args.seeds):
            kept: dict[str, tuple[np.ndarray, float]] = {}  # codes that several clusterers share, and their seconds
            for method in args.methods:
                if method == OWN:
                    yield name, method, seed, partial(own, rows, len(np.unique(rows[1])), seed)
                else:
                    yield name, method, seed, partial(peer, rows, method, seed, kept)


def peer(rows: Rows, method: str, seed: int, kept: dict[str, tuple[np.ndarray, float]]) -> dict[str, Any]:
    """Figures of one of the others."""
    X, y = rows
    codes, clusterer = method.split(" + ")
    if codes not in kept:
        began = time.process_time()
        found = np.asarray(CODES[codes](X, seed), dtype=np.float64)
        kept[codes] = found, time.process_time() - began
    found, spent = kept[codes]
    began, wall = time.process_time() - spent, time.perf_counter() - spent
    return figures(y, CLUSTERERS[clusterer](found, len(np.unique(y)), seed), began, wall)


def tasks_of_auto(args: argparse.Namespace) -> Iterator[Task]:
    """Find the number of clusters, or be given it."""
    for name in [*args.sets, "mnist 20000"] if args.sets == list(SETS) else args.sets:
        rows = some_of(load("mnist"), 20000, 0) if name == "mnist 20000" else load(name)
        for seed in range(args.seeds):
            yield name, "auto", seed, partial(own, rows, "auto", seed)
            yield name, "given", seed, partial(own, rows, len(np.unique(rows[1])), seed)


def tasks_of_subsets(args: argparse.Namespace) -> Iterator[Task]:
    """Find the number of some of the classes."""
    for number in range(N_SUBSETS):
        name, rows = subset(number)
        yield name, "auto", 0, partial(own, rows, "auto", 0)


def tasks_of_mixtures(args: argparse.Namespace) -> Iterator[Task]:
    """Find the number of generated clusters, or be given it."""
    for number in range(N_MIXTURES):
        rows = mixture(number)
        for method, n_clusters in (("auto", "auto"), ("given", len(np.unique(rows[1])))):
            yield f"mixture {number}", method, 0, partial(own, rows, n_clusters, 0)


def tasks_of_noise(args: argparse.Namespace) -> Iterator[Task]:
    """No clusters."""
    for kind, width, n_rows in NOISES:
        for seed in range(args.seeds):
            rows = noise(kind, width, n_rows, seed)
            yield f"{kind} {n_rows} x {width}", "auto", seed, partial(own, rows, "auto", seed)


def tasks_of_mnist(args: argparse.Namespace) -> Iterator[Task]:
    """MNIST without its labels."""
    rows = load("mnist") if args.rows is None else some_of(load("mnist"), args.rows, 0)
    for seed in range(args.seeds):
        yield f"mnist {len(rows[0])}", "given", seed, partial(own, rows, 10, seed)
    kept: dict[str, tuple[np.ndarray, float]] = {}
    for method in (f"{WIDE} + KMeans", f"{WIDE} + GaussianMixture"):  # of one seed, which takes long
        yield f"mnist {len(rows[0])}", method, 0, partial(peer, rows, method, 0, kept)


def tasks_of_new(args: argparse.Namespace) -> Iterator[Task]:
    """MNIST's other images by clusters of its training images."""
    rows = load("mnist")
    for seed in range(args.seeds):
        yield "mnist 60000 and 10000 new", "given", seed, partial(of_new_rows, rows, seed)


TABLES: dict[str, Callable[[argparse.Namespace], Iterator[Task]]] = {
    "sets": tasks_of_sets,
    "auto": tasks_of_auto,
    "subsets": tasks_of_subsets,
    "mixtures": tasks_of_mixtures,
    "noise": tasks_of_noise,
    "mnist": tasks_of_mnist,
    "new": tasks_of_new,
}


def print_means(results: list[tuple[str, str, int, dict[str, Any]]]) -> None:
    """Print means over seeds with the worst seed, by data and method, and over the data."""
    by: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for data, method, _, result in results:
        by.setdefault(method, {}).setdefault(data, []).append(result)
    print("\nmeans over seeds: adjusted Rand index (worst), accuracy, clusters found of classes, seconds")
    for method, of_data in by.items():
        print(method)
        for data, found in of_data.items():
            ari, share, numbers, seconds = (
                np.array([result[key] for result in found]) for key in ("ari", "accuracy", "found", "seconds")
            )
            line = f"  {data:24s} {ari.mean():.3f} ({ari.min():.3f})  {share.mean():.3f}  {numbers.tolist()} of "
            print(f"{line}{found[0]['classes']}  {seconds.mean():.0f}")
        means = [np.mean([result["ari"] for result in found]) for found in of_data.values()]
        exact = np.mean([result["found"] == result["classes"] for found in of_data.values() for result in found])
        print(f"  {'mean of all':24s} {np.mean(means):.3f}; number exact in {exact:.0%}")


def main() -> None:
    """Run what is not in the file of results yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--sets", nargs="*", default=list(SETS), help="digits, and files of clusters/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--rows", type=int, help="of MNIST")
    parser.add_argument("--results", type=Path, default=Path("clusters.jsonl"))
    args = parser.parse_args()
    if any("UMAP" in method for method in args.methods) and args.table == "sets":
        try:
            import umap  # noqa: F401
        except ImportError:
            print("umap-learn is not installed: UMAP is left out.")
            args.methods = [method for method in args.methods if "UMAP" not in method]
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    kept = {tuple(key): result for key, result in map(json.loads, lines)}
    results = []
    tasks = TABLES[args.table](args)
    first = next(tasks)  # before a file is opened: the script ends here where there are no data
    with args.results.open("a") as file:
        for data, method, seed, task in chain([first], tasks):
            key = (args.table, data, method, seed)
            if key not in kept:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # UMAP's about threads, and ours about clouds without clusters
                    kept[key] = task()
                file.write(json.dumps([key, kept[key]]) + "\n")
                file.flush()
            result = kept[key]
            results.append((data, method, seed, result))
            print(
                f"{data} seed {seed} {method}: {result['ari']:.3f}, accuracy {result['accuracy']:.3f}, "
                f"{result['found']} clusters of {result['classes']} classes, {result['seconds']:.0f} s"
                + "".join(f", {key} {result[key]:.3f}" for key in result if key.startswith("accuracy of")),
                flush=True,
            )
    print_means(results)


if __name__ == "__main__":
    main()
