"""MNIST by label: what a classifier makes of a conditional variational autoencoder's samples, and of its codes.

A perceptron trained on real images judges 2,000 samples (means) by the digit that was asked for; a linear classifier looks for
the digit in held-out codes, beside those of a variational autoencoder of the same size.

    python examples/headline/cvae_mnist.py [--epochs 10]

The images are read from mnist.npz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse

import numpy as np
from mnist import load_mnist
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from skvae import CVAE, VAETransformer


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    X, y, X_test, y_test = load_mnist()
    judge = MLPClassifier((256,), max_iter=10, random_state=0).fit(X[:30_000], y[:30_000])
    print(f"judge: {judge.score(X_test, y_test):.1%} of the test images")
    shared = {
        "likelihood": "bernoulli",
        "hidden_layer_sizes": (500, 500),
        "max_epochs": args.epochs,
        "random_state": args.seed,
    }
    asked = np.repeat(np.arange(10), 200)
    models = {
        "CVAE": CVAE(args.components, **shared).fit(X, y),
        "CVAE, encode_condition": CVAE(args.components, encode_condition=True, **shared).fit(X, y),
        "VAETransformer": VAETransformer(args.components, **shared).fit(X),
    }
    for name, model in models.items():
        side = [{"condition": labels} if "encode_condition" in name else {} for labels in (y[:10_000], y_test)]
        codes, codes_test = model.transform(X[:10_000], **side[0]), model.transform(X_test, **side[1])
        found = LogisticRegression(max_iter=500).fit(codes, y[:10_000]).score(codes_test, y_test)
        print(f"{name:26} digit found in the code {found:.1%}", end="")
        if isinstance(model, CVAE):
            recognized = np.mean(judge.predict(model.sample(len(asked), asked, mean=True)) == asked)
            print(f", samples recognized {recognized:.1%}", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
