"""Cluster, compress, score and generate handwritten digits with one Pipeline.

A scaler, a variational autoencoder and KMeans are fitted as one pipeline, a grid search chooses the size of the code by
held-out log-likelihood, and the codes are compared with PCA's and with raw pixels. Writes one figure.

    python examples/quickstart.py            scikit-learn's 1,797 digits of 8 x 8 pixels, about six minutes
    python examples/quickstart.py --mnist    10,000 digits of 28 x 28 pixels, some minutes

MNIST is read from mnist.npz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from data import load_mnist
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import skvae
from skvae import AutoEncoder, AutoencoderClusterer, NeighborAE, VAETransformer, step_score

SEEDS = range(5)
FOLDS = KFold(3, shuffle=True, random_state=0)


def first_of_mnist(n_rows: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """First rows of MNIST, as ``(n_rows, 784)`` with pixels from 0 to 255."""
    X, y, *_ = load_mnist()
    return np.round(255 * X[:n_rows]), y[:n_rows]


def compare(X: np.ndarray, y: np.ndarray) -> None:
    """Print what codes are worth, beside PCA's of the same size and raw pixels."""
    scaled = MinMaxScaler().fit_transform(X)
    print("\nMean of five seeds; reconstruction error in squared grey levels (0 to 1) an image; log-likelihood in nats an")
    print("image, three folds.\n")
    print(f"{'code':>24}{'size':>6}{'adjusted Rand index':>22}{'reconstruction':>16}{'log-likelihood':>16}")
    rand = [adjusted_rand_score(y, KMeans(10, n_init=10, random_state=s).fit_predict(scaled)) for s in SEEDS]
    print(f"{'raw pixels':>24}{X.shape[1]:6}{np.mean(rand):22.3f}{0:16.2f}{'':>16}")
    for make in (
        lambda seed: PCA(2, random_state=seed),
        lambda seed: VAETransformer(2, random_state=seed),
        lambda seed: PCA(8, random_state=seed),
        lambda seed: AutoEncoder(8, random_state=seed),
        lambda seed: VAETransformer(8, random_state=seed),
        lambda seed: NeighborAE(8, random_state=seed),
    ):
        rand, error = [], []
        for seed in SEEDS:
            model = make(seed)
            codes = model.fit_transform(scaled)
            rand.append(adjusted_rand_score(y, KMeans(10, n_init=10, random_state=seed).fit_predict(codes)))
            error.append(np.sum((model.inverse_transform(codes) - scaled) ** 2, axis=1).mean())
        log_likelihood = cross_val_score(make(0), scaled, cv=FOLDS).mean()
        print(
            f"{type(model).__name__:>24}{codes.shape[1]:6}{np.mean(rand):22.3f}{np.mean(error):16.2f}{log_likelihood:16.1f}",
            flush=True,
        )
    rand = [adjusted_rand_score(y, AutoencoderClusterer(10, random_state=seed).fit_predict(scaled)) for seed in SEEDS]
    print(f"{'AutoencoderClusterer(10)':>24}{8:6}{np.mean(rand):22.3f}")


def draw(X: np.ndarray, y: np.ndarray, plane, generator, pipe, shape: tuple[int, int], path: Path) -> None:
    """Write the figure: codes in the plane, reconstructions, new digits and a walk from one digit to another."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    scaler, vae = pipe[0], pipe[1]
    figure, axes = plt.subplots(2, 2, figsize=(12, 11), layout="constrained")

    codes = plane.transform(X)
    points = axes[0, 0].scatter(*codes.T, c=y, cmap="tab10", s=6)
    axes[0, 0].legend(*points.legend_elements(), title="digit", loc="upper right", fontsize=8)
    axes[0, 0].set(title="Two-dimensional codes, colored by digit", xlabel="component 0", ylabel="component 1")

    def show(axis, images: np.ndarray, title: str) -> None:
        """Images ``(rows, columns, n_pixels)`` as one picture."""
        rows, columns = images.shape[:2]
        gap = max(1, shape[0] // 8)
        tiles = np.full((rows, shape[0] + gap, columns, shape[1] + gap), 0.15)
        tiles[:, :-gap, :, :-gap] = np.clip(images.reshape(rows, columns, *shape).swapaxes(1, 2) / X.max(), 0, 1)
        axis.imshow(tiles.reshape(rows * (shape[0] + gap), -1)[:-gap, :-gap], cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])

    originals = X[:40].reshape(4, 10, -1)
    rebuilt = skvae.reconstruct(pipe, X[:40]).reshape(4, 10, -1)
    pairs = np.stack([originals, rebuilt], axis=1).reshape(8, 10, -1)
    show(axes[0, 1], pairs, f"Originals, and below them their reconstructions from {vae.n_components_} numbers")

    new = skvae.sample(generator, 80, mean=True, random_state=0).reshape(8, 10, -1)
    show(axes[1, 0], new, f"New digits, drawn from the prior of {generator[-1].n_components_} components")

    scaled = scaler.transform(X)
    starts = [np.flatnonzero(y == digit)[0] for digit in (0, 6, 5, 3, 8, 9, 7, 1)]
    ends = starts[1:] + starts[:1]
    walks = vae.interpolate(scaled[starts], scaled[ends], 10, method="spherical")
    walks = scaler.inverse_transform(walks.reshape(-1, X.shape[1])).reshape(len(starts), 10, -1)
    show(axes[1, 1], walks, "Walks from one digit to another")
    figure.savefig(path, dpi=110)
    print(f"\nFigure written to {path}")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", action="store_true", help="use 10,000 rows of MNIST")
    parser.add_argument("--figure", type=Path, default=Path("quickstart.png"))
    args = parser.parse_args()
    X, y = first_of_mnist() if args.mnist else load_digits(return_X_y=True)
    side = int(np.sqrt(X.shape[1]))
    print(f"{len(X):,} images of {side} x {side} pixels")

    pipe = make_pipeline(MinMaxScaler(), VAETransformer(random_state=0), KMeans(10, n_init=10, random_state=0))
    search = GridSearchCV(
        pipe,
        {"vaetransformer__n_components": [2, 4, 8]},
        scoring=step_score("vaetransformer"),
        cv=FOLDS,
    )
    search.fit(X)
    print("\nPipeline(MinMaxScaler, VAETransformer, KMeans), code size chosen by held-out log-likelihood:")
    for params, score in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True):
        print(f"  n_components={params['vaetransformer__n_components']:<3} {score:8.1f} nats an image")
    best = search.best_estimator_
    print(f"  chosen: {search.best_params_['vaetransformer__n_components']}", end="; ")
    print(f"adjusted Rand index of its clusters: {adjusted_rand_score(y, best.predict(X)):.3f}")

    compare(X, y)
    # Few components fill the prior densely, which is what samples need; more of them reconstruct better.
    plane, generator = (make_pipeline(MinMaxScaler(), VAETransformer(k, random_state=0)).fit(X) for k in (2, 4))
    draw(X, y, plane, generator, best, (side, side), args.figure)


if __name__ == "__main__":
    main()
