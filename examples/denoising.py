"""Repair handwritten digits that noise or missing pixels have damaged.

A denoising autoencoder is trained on clean digits, once for normal noise of one standard deviation of each pixel and once
for half of the pixels masked by their mean. Its repairs of damaged test images are compared with the damaged images
themselves, with PCA of as many components and with a plain autoencoder of the same shape; neither has seen damage.

    python examples/denoising.py                     scikit-learn's 1,797 digits of 8 x 8 pixels, some seconds
    python examples/denoising.py --components 8
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from skvae import AutoEncoder, DenoisingAE


def damage(X: np.ndarray, train: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, dict]]:
    """Return damaged copies of images, each with the parameters of a DenoisingAE that is trained for it."""
    rng = np.random.default_rng(seed)
    noisy = X + train.std(axis=0) * rng.normal(size=X.shape)
    # Half of each image's pixels, as of each training image's: those of the lower random numbers.
    hidden = rng.random(X.shape).argsort(axis=1).argsort(axis=1) < X.shape[1] // 2
    masked = np.where(hidden, train.mean(axis=0), X)
    return {
        "noise of one std": (noisy, {"corruption": "gaussian", "corruption_scale": 1.0}),
        "half of the pixels": (masked, {"corruption": "masking", "corruption_rate": 0.5}),
    }


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--components", type=int, default=16, help="size of the codes (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="decides split, damage and training (default: 0)")
    args = parser.parse_args()
    train, test = train_test_split(load_digits().data, test_size=0.3, random_state=args.seed)

    def error(X: np.ndarray) -> float:
        """Squared error an image, to the clean ones."""
        return float(np.sum((X - test) ** 2, axis=1).mean())

    pca = PCA(args.components, random_state=args.seed).fit(train)
    plain = AutoEncoder(args.components, random_state=args.seed).fit(train)
    print(f"{len(train):,} clean images to train on, {len(test):,} damaged ones to repair; codes of {args.components} numbers.")
    print("\nSquared error an image, to the clean test images, and DenoisingAE's as a fraction of each other one.\n")
    print(f"{'damage':>20}{'DenoisingAE':>14}{'as it is':>16}{'PCA':>16}{'AutoEncoder':>16}")
    for name, (damaged, params) in damage(test, train, args.seed).items():
        model = DenoisingAE(args.components, random_state=args.seed, **params).fit(train)
        own = error(model.denoise(damaged))
        others = [damaged, pca.inverse_transform(pca.transform(damaged)), plain.reconstruct(damaged)]
        print(f"{name:>20}{own:14.1f}" + "".join(f"{error(X):9.1f}{own / error(X):7.2f}" for X in others), flush=True)


if __name__ == "__main__":
    main()
