"""Structured prediction on MNIST: the rest of an image from one, two or three of its quadrants.

The condition of the conditional variational autoencoder are the observed quadrants, as grey values; it learns the others, by
their cross-entropy. Its score on the 10,000 test images is the conditional log-likelihood by importance sampling, in nats an
image with the sign turned, beside the variational bound; 5,000 training images are held out to tell when to stop. For
comparison, a perceptron predicts the pixels without a code. Writes `cvae_quadrants.png` with completions drawn from the model.

    python examples/headline/cvae_quadrants.py [--epochs 40] [--quadrants 1 2 3]

The images are read from mnist.npz in the folder that the environment variable SKVAE_DATA names.

References
----------
Sohn et al., "Learning structured output representation using deep conditional generative models", NeurIPS 2015.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from mnist import load_mnist

from skvae import CVAE, EarlyStopping

# Negative conditional log-likelihoods of the tutorial of a probabilistic programming library: perceptron, and bound of the CVAE.
REPORTED = {1: (100.4, 71.8), 2: (61.9, 51.0), 3: (25.4, 24.2)}


def observed_pixels(n_quadrants: int) -> np.ndarray:
    """Which of the 784 pixels are observed: the lower left quadrant, then the upper left, then the upper right one."""
    quadrants = np.zeros((2, 14, 2, 14), dtype=bool)
    for row, column in [(1, 0), (0, 0), (0, 1)][:n_quadrants]:
        quadrants[row, :, column] = True
    return quadrants.reshape(784)


def perceptron(args: argparse.Namespace, seen: np.ndarray, X_train: np.ndarray, X_test: np.ndarray) -> float:
    """Cross-entropy of a perceptron of the same widths: a CVAE whose code is worth nothing."""
    model = CVAE(
        n_components=1,
        beta=1e4,
        likelihood="bernoulli",
        hidden_layer_sizes=(args.width, args.width),
        learning_rate=1e-3,
        max_epochs=max(1, args.epochs // 4),
        early_stopping=EarlyStopping(1 / 12, n_iter_no_change=3),
        n_score_draws=1,
        random_state=args.seed,
    ).fit(X_train[:, ~seen], X_train[:, seen])
    return -model.score(X_test[:, ~seen], X_test[:, seen])


def completions(model: CVAE, seen: np.ndarray, X: np.ndarray, n_draws: int) -> np.ndarray:
    """Images, what is observed of them, and draws of the rest, side by side."""
    rows = [X, np.where(seen, X, 0.5)]
    for draw in range(n_draws):
        whole = X.copy()
        whole[:, ~seen] = model.sample(len(X), X[:, seen], mean=True, random_state=draw)
        rows.append(whole)
    return np.concatenate([np.concatenate(list(images.reshape(-1, 28, 28)), axis=1) for images in rows])


def main() -> None:
    """Print the table and draw the completions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--components", type=int, default=50)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--test-rows", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--quadrants", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--no-perceptron", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", default="cvae_quadrants.png")
    args = parser.parse_args()
    X_train, _, X_test, _ = load_mnist()
    X_train, X_test = X_train[: args.rows], X_test[: args.test_rows]
    print(
        f"{'observed':10}{'perceptron':>12}{'reported':>10}{'CVAE':>10}{'bound':>10}{'reported':>10}{'epochs':>8}{'seconds':>9}"
    )
    pictures = []
    for n_quadrants in args.quadrants:
        seen = observed_pixels(n_quadrants)
        start = time.perf_counter()
        model = CVAE(
            args.components,
            likelihood="bernoulli",
            encode_condition=True,
            prior="conditional",
            hidden_layer_sizes=(args.width, args.width),
            learning_rate=1e-3,
            max_epochs=args.epochs,
            early_stopping=EarlyStopping(1 / 12, n_iter_no_change=5),
            n_score_draws=args.draws,
            random_state=args.seed,
        ).fit(X_train[:, ~seen], X_train[:, seen])
        seconds = time.perf_counter() - start
        sampled = -model.score(X_test[:, ~seen], X_test[:, seen])
        bound = -model.set_params(n_score_draws=1).score(X_test[:, ~seen], X_test[:, seen])
        base = np.nan if args.no_perceptron else perceptron(args, seen, X_train, X_test)
        reported = REPORTED[n_quadrants]
        print(
            f"{n_quadrants:<10}{base:12.1f}{reported[0]:10.1f}{sampled:10.1f}{bound:10.1f}{reported[1]:10.1f}{model.n_iter_:8}"
            f"{seconds:9.0f}",
            flush=True,
        )
        pictures.append(completions(model, seen, X_test[:12], 6))
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(pictures), figsize=(6 * len(pictures), 4.5), layout="constrained", squeeze=False)
    for axis, picture, n_quadrants in zip(axes[0], pictures, args.quadrants, strict=True):
        axis.imshow(picture, cmap="gray_r")
        axis.set_title(f"{n_quadrants} observed: images, conditions, draws")
        axis.axis("off")
    figure.savefig(args.figure, dpi=100)
    print(f"completions: {args.figure}")


if __name__ == "__main__":
    main()
