"""Convolutional against dense variational autoencoder on MNIST: held-out bound at a like number of weights, and samples.

Images are binarized once by their grey values (a fixed seed); the bound on the log-likelihood of test images is the
importance-weighted one with 64 draws, in nats an image. Writes `conv_vae_mnist.png` with samples of both.

    python examples/headline/conv_vae_mnist.py [--epochs 10]

The images are read from mnist.npz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from mnist import load_mnist

from skvae import Conv, VAETransformer

SHAPE = (1, 28, 28)


def binarized(X: np.ndarray, seed: int) -> np.ndarray:
    """Draw every pixel from its grey value."""
    return (np.random.default_rng(seed).random(X.shape) < X).astype(np.float32)


def tiles(images: np.ndarray, n_columns: int = 10) -> np.ndarray:
    """Images side by side as one."""
    rows = [np.concatenate(list(images[i : i + n_columns].reshape(-1, 28, 28)), 1) for i in range(0, len(images), n_columns)]
    return np.concatenate(rows)


def main() -> None:
    """Print the table and draw the samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", default="conv_vae_mnist.png")
    args = parser.parse_args()
    X_train, _, X_test, _ = load_mnist()
    X_train, X_test = binarized(X_train[: args.rows], 0), binarized(X_test, 1)
    shared = {"likelihood": "bernoulli", "max_epochs": args.epochs, "random_state": args.seed}
    models = {
        "dense": VAETransformer(args.components, hidden_layer_sizes=(480, 160), **shared),
        "convolutional": VAETransformer(
            args.components, image_shape=SHAPE, encoder=Conv(channels=(32, 64)), hidden_layer_sizes=(128,), **shared
        ),
    }
    print(f"{'encoder and decoder':24}{'weights':>10}{'nats an image':>15}{'seconds':>9}")
    pictures = [tiles(X_test[:10])]
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(X_train)
        seconds = time.perf_counter() - start
        print(f"{name:24}{model.n_parameters_:10,}{model.score(X_test):15.2f}{seconds:9.0f}", flush=True)
        pictures.append(tiles(model.sample(50, mean=True, random_state=args.seed)))
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(6, 7.5), height_ratios=[1, 5, 5], layout="constrained")
    for axis, picture, name in zip(axes, pictures, ["test images", *(f"{name}: samples" for name in models)], strict=True):
        axis.imshow(picture, cmap="gray_r")
        axis.set_title(name)
        axis.axis("off")
    figure.savefig(args.figure, dpi=120)
    print(f"samples: {args.figure}")


if __name__ == "__main__":
    main()
