"""Find the kinds of digits among images that nobody has labeled, and look at what has been found.

`AutoencoderClusterer` divides 1,797 digits of scikit-learn into ten clusters, which are compared with those of KMeans among
raw pixels, principal components, and UMAP's codes where umap-learn is installed. `NeighborAE` draws the same images in a plane,
beside the planes of PCA and UMAP. Writes one figure: the planes, colored by digit; what the decoder makes of the middle of each
cluster, and digits drawn from it; and what lies between pairs of clusters.

    python examples/clusters.py            about three minutes
    python examples/clusters.py --mnist    10,000 digits of 28 x 28 pixels, some minutes

MNIST is read from mnist.npz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from data import load_mnist
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, confusion_matrix

from skvae import AutoencoderClusterer, NeighborAE


def umap(n_components: int) -> Any:
    """Return UMAP as it is set before clustering, or None where it is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP(n_components=n_components, min_dist=0.0 if n_components > 2 else 0.1, random_state=0, n_jobs=1)


def compare(X: np.ndarray, y: np.ndarray) -> AutoencoderClusterer:
    """Print how well clusters agree with the digits, and return the clusterer."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        "raw pixels, KMeans": lambda: X,
        "PCA(8), KMeans": lambda: PCA(8, random_state=0).fit_transform(X),
    }
    if umap(8) is not None:
        ways["UMAP(8), KMeans"] = lambda: umap(8).fit_transform(X)
    ways["NeighborAE(8), KMeans"] = lambda: NeighborAE(8, random_state=0).fit_transform(X)
    print(f"\n{'':>34}{'adjusted Rand index':>22}{'seconds':>10}")
    for name, codes in ways.items():
        start = time.perf_counter()
        labels = KMeans(10, n_init=10, random_state=0).fit_predict(codes())
        print(f"{name:>34}{adjusted_rand_score(y, labels):22.3f}{time.perf_counter() - start:10.1f}", flush=True)
    start = time.perf_counter()
    clusterer = AutoencoderClusterer(10, random_state=0).fit(X)
    taken = time.perf_counter() - start
    print(f"{'AutoencoderClusterer(10)':>34}{adjusted_rand_score(y, clusterer.labels_):22.3f}{taken:10.1f}")
    print(f"\nIts starts agree with each other by {clusterer.stability_:.3f}. Digits (across) by cluster (down):\n")
    print(confusion_matrix(clusterer.labels_, y)[: clusterer.n_clusters_, : len(np.unique(y))])
    return clusterer


def tiles(images: np.ndarray, side: int) -> np.ndarray:
    """Images ``(rows, columns, n_pixels)`` as one picture."""
    rows, columns = images.shape[:2]
    gap = max(1, side // 8)
    picture = np.full((rows, side + gap, columns, side + gap), 0.85)
    picture[:, :-gap, :, :-gap] = 1.0 - np.clip(images.reshape(rows, columns, side, side).swapaxes(1, 2), 0.0, 1.0)
    return picture.reshape(rows * (side + gap), -1)[:-gap, :-gap]


def draw(X: np.ndarray, y: np.ndarray, clusterer: AutoencoderClusterer, path: Path) -> None:
    """Write the figure."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    side = int(np.sqrt(X.shape[1]))
    figure = plt.figure(figsize=(15, 11), layout="constrained")
    places = figure.add_gridspec(2, 6)
    planes = {"PCA": PCA(2, random_state=0), "NeighborAE": NeighborAE(2, random_state=0)}
    if umap(2) is not None:
        planes["UMAP"] = umap(2)
    width = 6 // len(planes)
    for i, (name, model) in enumerate(planes.items()):
        axis = figure.add_subplot(places[0, i * width : (i + 1) * width])
        points = axis.scatter(*model.fit_transform(X).T, c=y, cmap="tab10", s=4)
        axis.set(title=f"{name}, colored by digit", xticks=[], yticks=[])
        if i == 0:
            axis.legend(*points.legend_elements(), title="digit", fontsize=8)

    centers = clusterer.cluster_centers_
    drawn = [clusterer.sample(9, label=label, random_state=0) for label in range(len(centers))]
    middles = clusterer.inverse_transform(centers)
    axis = figure.add_subplot(places[1, :3])
    axis.imshow(tiles(np.concatenate([middles[:, np.newaxis], np.stack(drawn)], axis=1), side), cmap="gray", vmin=0, vmax=1)
    axis.set(title="Each cluster: its middle, decoded, and new images drawn from it", xticks=[], yticks=[])

    # From one middle straight to the nearest other one.
    apart = np.linalg.norm(centers[:, np.newaxis] - centers, axis=2) + np.diag(np.full(len(centers), np.inf))
    share = np.linspace(0.0, 1.0, 10)[:, np.newaxis]
    walks = np.stack(
        [(1.0 - share) * center + share * centers[other] for center, other in zip(centers, apart.argmin(1), strict=True)]
    )
    between = clusterer.inverse_transform(walks.reshape(-1, centers.shape[1])).reshape(*walks.shape[:2], -1)
    axis = figure.add_subplot(places[1, 3:])
    axis.imshow(tiles(between, side), cmap="gray", vmin=0, vmax=1)
    axis.set(title="What lies between each middle and the nearest other one", xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    print(f"\nFigure written to {path}")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", action="store_true", help="use 10,000 rows of MNIST")
    parser.add_argument("--figure", type=Path, default=Path("clusters.png"))
    args = parser.parse_args()
    if args.mnist:
        X, y, *_ = load_mnist()
        X, y = X[:10_000], y[:10_000]
    else:
        X, y = load_digits(return_X_y=True)
        X = X / 16.0
    print(f"{len(X):,} images of {int(np.sqrt(X.shape[1]))} x {int(np.sqrt(X.shape[1]))} pixels")
    draw(X, y, compare(X, y), args.figure)


if __name__ == "__main__":
    main()
