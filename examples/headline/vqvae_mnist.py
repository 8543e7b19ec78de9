"""Discrete codes of MNIST: reconstruction, use of the codebook, the learned prior, and samples drawn from it.

One level has 7x7 codes from a codebook of 128 vectors of 16 numbers. Printed are the squared error of the 10,000 test images
over the variance of the training pixels, the share of the codebook that the test images use, and the prior's negative
log-probability of their codes, in nats a code, beside that of a histogram. With `--levels 2` a level of 3x3 codes lies above
that of 7x7 ones, and images are reconstructed from each level alone, too. Writes `vqvae_mnist.png`.

    python examples/headline/vqvae_mnist.py [--epochs 20] [--levels 1]

The images are read from mnist.npz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from mnist import load_mnist

from skvae import VQVAE, CodePrior, Conv

REPORTED_ERROR = 0.0444  # of a public example of a deep learning library, on its training images


def tiles(images: np.ndarray, n_columns: int = 20) -> np.ndarray:
    """Images side by side as one."""
    rows = [images[i : i + n_columns].reshape(-1, 28, 28) for i in range(0, len(images), n_columns)]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def main() -> None:
    """Print the figures and draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--levels", type=int, default=1)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--entropy-weight", type=float, default=0.65)
    parser.add_argument("--prior", default="auto")
    parser.add_argument("--prior-epochs", type=int, default=8)
    parser.add_argument("--labels", action="store_true", help="have the prior depend on the digit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", default="vqvae_mnist.png")
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = load_mnist()
    X_train, y_train = X_train[: args.rows], y_train[: args.rows]
    is_trained = args.prior in ("auto", "transformer", "pixelsnail")
    model = VQVAE(
        n_embeddings=128,
        embedding_dim=16,
        n_levels=args.levels,
        image_shape=(1, 28, 28),
        encoder=Conv(channels=(32, 64)),
        entropy_weight=args.entropy_weight,
        max_epochs=args.epochs,
        code_prior=CodePrior(args.prior, max_epochs=args.prior_epochs if is_trained else None),
        random_state=args.seed,
    )
    start = time.perf_counter()
    model.fit(X_train, y_train if args.labels else None)
    seconds = time.perf_counter() - start
    variance = X_train.var()
    reconstructed = model.reconstruct(X_test)
    codes = model.encode(X_test)
    print(f"{model.n_parameters_:,} weights, {model.n_iter_} epochs and the prior in {seconds:.0f} s")
    print(f"squared error / variance, test: {((X_test - reconstructed) ** 2).mean() / variance:.4f} (reported {REPORTED_ERROR})")
    pictures = {"images": X_test[:20], "reconstructed": reconstructed[:20]}
    if args.levels > 1:
        for level in range(args.levels):
            alone = model.reconstruct(X_test, levels=[level])
            side = "x".join(map(str, model.code_shapes_[level]))
            print(f"  from level {level} alone, {side}: {((X_test - alone) ** 2).mean() / variance:.4f}")
            pictures[f"from the {side} codes alone"] = alone[:20]
    start = 0
    for shape in model.code_shapes_:
        own = codes[:, start : start + int(np.prod(shape))]
        counts = np.bincount(own.ravel(), minlength=128)
        frequency = np.stack([np.bincount(column, minlength=128) for column in own.T]) / len(own)
        independent = -(frequency * np.log(np.where(frequency > 0, frequency, 1))).sum(axis=1).mean()
        print(
            f"codes {shape}: {np.mean(counts > 0):.0%} of the codebook in use; independent codes take {independent:.3f} nats each"
        )
        start += own.shape[1]
    nats = model.compression(X_test, y_test if args.labels else None).coded.mean() * np.log(2)
    print(f"prior: {nats / model.n_codes_:.3f} nats a code; {nats / np.log(2):.0f} bits an image")
    start = time.perf_counter()
    labels = np.repeat(np.arange(10), 10) if args.labels else None
    pictures["samples"] = model.sample(100, labels, mean=True, random_state=args.seed)
    print(f"100 samples in {time.perf_counter() - start:.1f} s")
    from matplotlib import pyplot as plt

    heights = [-(-len(images) // 20) for images in pictures.values()]
    figure, axes = plt.subplots(
        len(pictures), 1, figsize=(9, 0.75 * sum(heights) + 1), height_ratios=heights, layout="constrained"
    )
    for axis, (name, images) in zip(axes, pictures.items(), strict=True):
        axis.imshow(tiles(images), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(name, fontsize=9)
        axis.axis("off")
    figure.savefig(args.figure, dpi=110)
    print(f"pictures: {args.figure}")


if __name__ == "__main__":
    main()
