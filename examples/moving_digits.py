"""Digits that move: beliefs about where they go, and jumps ahead.

A sequence shows a handwritten digit, in black and white, that moves one pixel to the left or to the right with every frame
and comes back at the other side. A TDVAE reads sequences of training digits. Of digits that it has never seen it is then
shown a few frames, and jumps ahead by 1, 2, 3 ... steps at once. Printed for every jump: how often it shows the digit moved
in the right direction, by correlation with the digit moved both ways, and its squared error next to those of showing the
mean frame and of showing the last frame again.

    python examples/moving_digits.py                 # scikit-learn's digits, 8 x 8
    python examples/moving_digits.py --mnist         # MNIST, 28 x 28, from mnist.npz in SKVAE_DATA

Needs the extra "plots". Exits with an error if less than 99% of the directions are right after two or more frames, at any
jump, or if a jump shows less than the mean frame, or than the last frame but where the digit has come round.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from data import load_mnist
from sklearn.datasets import load_digits

from skvae import TDVAE

N_FRAMES, N_SHOWN = 20, 2
RIGHT = 0.99


def load(mnist: bool, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """Binary images ``(n, height, width)`` to train and to test on."""
    if not mnist:
        images = (load_digits().images > 7.5).astype(np.float32)
        return images[:1500], images[1500:]
    X_train, _, X_test, _ = load_mnist()
    side = (-1, 28, 28)
    return (X_train[:n_train].reshape(side) > 0.5).astype(np.float32), (X_test[:1000].reshape(side) > 0.5).astype(np.float32)


def move(images: np.ndarray, start: np.ndarray, direction: np.ndarray, n_frames: int = N_FRAMES) -> np.ndarray:
    """Sequences ``(n, n_frames, height * width)`` of images that start somewhere and move by a pixel a frame."""
    width = images.shape[2]
    shift = start[:, None] + direction[:, None] * np.arange(n_frames)
    columns = (np.arange(width)[None, None] - shift[..., None]) % width
    moved = np.take_along_axis(images[:, None], columns[:, :, None], axis=3)
    return moved.reshape(len(images), n_frames, -1)


def draw_sequences(images: np.ndarray, n_each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every image from several places in random directions; sequences and directions."""
    rng = np.random.default_rng(seed)
    images = np.repeat(images, n_each, axis=0)
    direction = rng.choice([-1, 1], size=len(images))
    return move(images, rng.integers(images.shape[2], size=len(images)), direction), direction


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of frames over their pixels."""
    a, b = (x - x.mean(axis=-1, keepdims=True) for x in (a, b))
    return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1) + 1e-12)


def examine(model: TDVAE, X: np.ndarray, direction: np.ndarray, mean_frame: np.ndarray, width: int) -> list[tuple]:
    """Share of right directions, and squared errors, for every jump; from every step that has seen enough frames."""
    beliefs = model.beliefs(X)
    rows = []
    for gap in range(1, min(width + 1, N_FRAMES - N_SHOWN)):
        first = np.arange(N_SHOWN - 1, N_FRAMES - gap)
        Z = beliefs[:, first].reshape(-1, beliefs.shape[2])
        jumped = model.forecast_beliefs(Z, horizon=gap).reshape(len(X), len(first), -1)
        last, truth = X[:, first], X[:, first + gap]
        images = last.reshape(*last.shape[:2], -1, width)
        other = np.stack([np.roll(image, -d * gap, axis=-1) for image, d in zip(images, direction, strict=True)])
        other = other.reshape(truth.shape)
        differ = (other != truth).any(axis=-1)
        right = correlation(jumped, truth) > correlation(jumped, other)
        error = [((guess - truth) ** 2).sum(-1).mean() for guess in (jumped, mean_frame, last)]
        at_once = right[:, 0][differ[:, 0]]
        rows.append((gap, right[differ].mean() if differ.any() else np.nan, at_once.mean() if len(at_once) else np.nan, *error))
    return rows


def plot(model: TDVAE, X: np.ndarray, width: int, path: str) -> None:
    """Draw sequences, what jumps from their first frames show, and rollouts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n, gaps = 6, range(1, 9)
    X = X[:: len(X) // n]
    beliefs = model.beliefs(X[:n])[:, N_SHOWN - 1]
    jumps = model.forecast_beliefs(beliefs, horizon=list(gaps))
    future = model.rollout(X[:n, :N_SHOWN], len(gaps), mean=True, random_state=0)[:, 0]
    figure, axes = plt.subplots(3 * n, N_SHOWN + len(gaps), figsize=(7, 13))
    for i in range(n):
        shown = list(X[i, :N_SHOWN])
        for j, (name, frames) in enumerate(
            [("truth", X[i, N_SHOWN : N_SHOWN + len(gaps)]), ("jump", jumps[i]), ("rollout", future[i])]
        ):
            for k, frame in enumerate([*shown, *frames]):
                axis = axes[3 * i + j, k]
                axis.imshow(frame.reshape(-1, width), cmap="gray_r", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
                if k == 0:
                    axis.set_ylabel(name, rotation=0, ha="right", va="center")
                if i == j == 0:
                    axis.set_title("shown" if k < N_SHOWN else f"+{k - N_SHOWN + 1}", fontsize=9)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", type=int, default=10000, help="training images of MNIST")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--figure", default="moving_digits.png")
    args = parser.parse_args()
    train, test = load(args.mnist, args.rows)
    width = train.shape[2]
    failed = False
    for seed in args.seeds:
        X, _ = draw_sequences(train, 1 if args.mnist else 4, seed)
        X_test, direction = draw_sequences(test, 1 if args.mnist else 4, 1000 + seed)
        epochs = args.epochs or (25 if args.mnist else 16)
        size = {"n_components": 256, "n_latents": 32} if args.mnist else {"n_components": 128, "n_latents": 16}
        size["max_gap"] = min(width, N_FRAMES - N_SHOWN)
        began = time.perf_counter()
        model = TDVAE(likelihood="bernoulli", max_epochs=epochs, random_state=seed, **size).fit(X)
        print(f"seed {seed}: {len(X)} sequences, fitted in {time.perf_counter() - began:.0f} s")
        print("jump   direction right (after two frames)   squared error   mean frame   last frame")
        for gap, right, at_once, error, mean_error, last_error in examine(model, X_test, direction, X.mean(axis=(0, 1)), width):
            print(f"{gap:4d}   {right:15.4f} {at_once:18.4f}   {error:13.3f}   {mean_error:10.3f}   {last_error:10.3f}")
            failed |= right < RIGHT or error >= mean_error or (gap % width != 0 and error >= last_error)
    plot(model, X_test, width, args.figure)
    print(f"figure: {args.figure}")
    if failed:
        print("below what is asked for", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
