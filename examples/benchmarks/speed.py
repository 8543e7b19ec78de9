"""Speed of `fit` and `transform` against a hand-written loop and a bare module, in one run.

The loop keeps the data resident, takes batches by index, uses fused Adam and reads the loss once an epoch. It optimizes the
plain objective: squared error, and for the VAE the KL. Ratios above 1 mean that the estimator is faster. Times drift with
the machine; ratios are medians over rounds in which the two take turns.

    python examples/benchmarks/speed.py [--rows 10000] [--epochs 20] [--rounds 5]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import nn

from skvae import AutoEncoder, VAETransformer

WIDTHS, LATENTS, BATCH, FEATURES = (64, 32), 8, 128, 30


def perceptron(*sizes: int) -> nn.Sequential:
    """ReLU network with a linear last layer."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


class BareModule(nn.Module):
    """What somebody would write for one project."""

    def __init__(self, variational: bool):
        super().__init__()
        self.variational = variational
        self.encoder = perceptron(FEATURES, *WIDTHS, LATENTS * (2 if variational else 1))
        self.decoder = perceptron(LATENTS, *WIDTHS[::-1], FEATURES)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """Mean over rows of squared error and KL."""
        if not self.variational:
            return (self.decoder(self.encoder(x)) - x).square().sum(1).mean()
        mean, log_var = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
        return ((self.decoder(z) - x).square().sum(1) + kl).mean()


def hand_written_fit(X: np.ndarray, variational: bool, epochs: int, device: str) -> BareModule:
    """Train with the loop that the estimators are measured against."""
    data = torch.from_numpy(((X - X.mean(0)) / X.std(0)).astype(np.float32)).to(device)
    module = BareModule(variational).to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3, fused=True)
    for _ in range(epochs):
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(data), device=device).split(BATCH):
            loss = module.loss(data[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()
    return module


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median of theirs over ours, and the median times of both, after one round that does not count."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return (
        statistics.median(b / a for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(args.rows, 5)) @ rng.normal(size=(5, FEATURES)) + 0.5 * rng.normal(size=(args.rows, FEATURES))
    shown = args.rows * args.epochs
    print(f"{args.rows} x {FEATURES}, widths {WIDTHS}, {LATENTS} latents, batch {BATCH}, {args.epochs} epochs, {args.device}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"{'':45}{'samples/s':>12}{'bare':>12}{'ratio':>8}")
    for cls, variational in ((VAETransformer, True), (AutoEncoder, False)):
        model = cls(
            LATENTS,
            hidden_layer_sizes=WIDTHS,
            batch_size=BATCH,
            max_epochs=args.epochs,
            device=args.device,
            random_state=0,
        )
        r, a, b = ratio(
            lambda m=model: m.fit(X),
            lambda v=variational: hand_written_fit(X, v, args.epochs, args.device),
            args.rounds,
        )
        print(f"{cls.__name__ + '.fit':45}{shown / a:12,.0f}{shown / b:12,.0f}{r:8.2f}")
        bare = BareModule(variational).to(args.device)
        mean, std = X.mean(0), X.std(0)
        X32 = X.astype(np.float32)
        ready = torch.from_numpy(((X - mean) / std).astype(np.float32)).to(args.device)

        def bare_transform(bare=bare, ready=ready):
            with torch.no_grad():
                return bare.encoder(ready)[:, :LATENTS].cpu().numpy()

        def by_hand_transform(bare=bare, X32=X32, mean=mean, std=std):
            x = torch.from_numpy(((X32 - mean) / std).astype(np.float32)).to(args.device)
            with torch.no_grad():
                return bare.encoder(x)[:, :LATENTS].cpu().numpy()

        for theirs, name in ((bare_transform, "network alone"), (by_hand_transform, "from the array")):
            r, a, b = ratio(lambda m=model, X32=X32: m.transform(X32), theirs, 20 * args.rounds)
            print(f"{f'{cls.__name__}.transform, {name}':45}{args.rows / a:12,.0f}{args.rows / b:12,.0f}{r:8.2f}")
    pca = PCA(LATENTS)
    print(f"{'PCA.fit (one pass)':45}{args.rows / seconds(lambda: pca.fit(X)):12,.0f}")
    print(f"{'PCA.transform':45}{args.rows / seconds(lambda: pca.transform(X)):12,.0f}")
    mlp = MLPRegressor(
        hidden_layer_sizes=(*WIDTHS, LATENTS, *WIDTHS[::-1]), batch_size=BATCH, max_iter=args.epochs, n_iter_no_change=args.epochs
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        print(f"{'MLPRegressor.fit(X, X)':45}{shown / seconds(lambda: mlp.fit(X, X)):12,.0f}")


if __name__ == "__main__":
    main()
