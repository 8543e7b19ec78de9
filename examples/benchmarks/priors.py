"""Priors that are trained with the networks against the standard one: held-out likelihood on MNIST, clusters of digits.

On MNIST, every pixel is drawn anew from its grey value in every epoch. There is one convolutional network, number of steps and
learning rate for all priors, chosen for the standard one. A command trains with one prior and one seed, and appends a line of
JSON to a file; what is there already is not run again. Then all that the file has is printed: the importance-weighted bound with
500 draws on test images that are drawn once, that with 5,000 draws on a tenth of them, and the differences from the standard
prior of the same seed, image by image, with their standard errors over images.

    python examples/benchmarks/priors.py results.jsonl --prior standard --seed 0 [--epochs 30] [--rows 60000]
    python examples/benchmarks/priors.py results.jsonl --prior flow --seed 0
    python examples/benchmarks/priors.py results.jsonl

On digits, which scikit-learn has, the components of the mixture prior that rows come from are compared with k-means on the codes
of an `AutoEncoder` with the same networks, by the adjusted Rand index:

    python examples/benchmarks/priors.py digits.jsonl --digits --seed 0

The images of MNIST are read from mnist.npz in the folder that the environment variable SKVAE_DATA names.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from skvae import AutoEncoder, Conv, FlowPrior, MixturePrior, VAETransformer, VampPrior

sys.path.append(str(Path(__file__).parents[1]))
from data import load_mnist

PRIORS = {
    "standard": "standard",
    "mixture": MixturePrior(40),
    "vamp": VampPrior(200),
    "flow": FlowPrior(),
    "mixture under a flow": FlowPrior(MixturePrior(40)),
}
N_DRAWS, N_DRAWS_MORE = 500, 5000


def binarized(X: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Draw every pixel from its grey value."""
    return (np.random.default_rng(seed).random(X.shape, dtype=np.float32) < X).astype(np.float32)


def on_mnist(args: argparse.Namespace) -> dict[str, Any]:
    """Train with a prior, and score test images."""
    X_train, _, X_test, _ = load_mnist()
    X_train, X_test = X_train[: args.rows], binarized(X_test[: args.test], (1, 0))
    vae = VAETransformer(
        args.components,
        prior=PRIORS[args.prior],
        image_shape=(1, 28, 28),
        encoder=Conv(channels=tuple(args.channels)),
        hidden_layer_sizes=(args.width,),
        likelihood="bernoulli",
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        max_epochs=args.epochs,
        random_state=args.seed,
        device=args.device,
    )
    start = time.process_time()
    for epoch in range(args.epochs):
        vae.partial_fit(binarized(X_train, (0, args.seed, epoch)))
    seconds = time.process_time() - start
    found = {"seconds": round(seconds, 1), "n_active": vae.n_active_units_, "kl": round(float(vae.history_["kl"][-1]), 3)}
    for name, rows, n_draws in (("bound", X_test, N_DRAWS), ("bound_more", X_test[: args.test // 10], N_DRAWS_MORE)):
        scores = vae.set_params(n_score_draws=n_draws).score_samples(rows)
        found[name] = [round(float(score), 4) for score in scores]
    return found


def on_digits(args: argparse.Namespace) -> dict[str, Any]:
    """Return adjusted Rand indices of the mixture's components, and of k-means on the codes of autoencoders."""
    X, y = load_digits(return_X_y=True)
    network = {"n_components": 8, "random_state": args.seed, "device": args.device}
    found = {}
    for name, model in (("autoencoder", AutoEncoder(**network)), ("standard", VAETransformer(**network))):
        codes = model.fit_transform(X)
        found[f"{name} and k-means"] = adjusted_rand_score(y, KMeans(10, n_init=10, random_state=args.seed).fit_predict(codes))
    vae = VAETransformer(prior=MixturePrior(10), **network).fit(X)
    with torch.no_grad():
        codes = torch.from_numpy(vae.transform(X)).float().to(vae.module_.prior.zero.device)
        found["mixture"] = adjusted_rand_score(y, vae.module_.prior.responsibilities(codes).argmax(1).cpu().numpy())
    return {name: round(float(value), 4) for name, value in found.items()}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what tells results apart."""
    if args.digits:
        return {"digits": True, "seed": args.seed}
    names = ("prior", "seed", "epochs", "rows", "components", "channels", "width", "learning_rate", "batch_size", "test")
    return {name: getattr(args, name) for name in names}


def difference(one: list[float], other: list[float]) -> str:
    """Mean of paired differences, and its standard error."""
    apart = np.subtract(one, other)
    return f"{apart.mean():+.2f} ± {apart.std(ddof=1) / np.sqrt(len(apart)):.2f}"


def show(results: list[dict[str, Any]]) -> None:
    """Print what has been found."""
    digits = [each for each in results if each["settings"].get("digits")]
    if digits:
        names = list(digits[0]["found"])
        print("digits, adjusted Rand index over seeds\n" + "".join(f"{name:>26}" for name in names))
        for each in digits:
            print("".join(f"{each['found'][name]:26.3f}" for name in names))
        print("".join(f"{np.mean([each['found'][name] for each in digits]):26.3f}" for name in names))
    images = [each for each in results if not each["settings"].get("digits")]
    if images:
        columns = ("KL", 8), ("active", 9), ("bound, 500", 12), ("better by", 16), ("5,000, fewer", 14), ("better by", 16)
        print(f"{'prior':22}{'seed':>5}" + "".join(f"{name:>{width}}" for name, width in (*columns, ("CPU s", 8))))
    for each in images:
        settings, found = each["settings"], each["found"]
        standard = [
            other["found"] for other in images if other["settings"] == {**settings, "prior": "standard"} and other is not each
        ]
        better = [difference(found[name], standard[0][name]) if standard else "" for name in ("bound", "bound_more")]
        print(
            f"{settings['prior']:22}{settings['seed']:5}{found['kl']:8.2f}{found['n_active']:6}/{settings['components']:<2}"
            f"{np.mean(found['bound']):12.2f}{better[0]:>16}{np.mean(found['bound_more']):14.2f}{better[1]:>16}{found['seconds']:8.0f}"
        )


def main() -> None:
    """Train what is asked for, unless it is there, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="results, a line of JSON each")
    parser.add_argument("--prior", choices=PRIORS)
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--test", type=int, default=2000, help="test images; a tenth of them are scored with more draws")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    results = [json.loads(line) for line in args.file.read_text().splitlines()] if args.file.exists() else []
    if (args.prior or args.digits) and not any(each["settings"] == settings_of(args) for each in results):
        found = on_digits(args) if args.digits else on_mnist(args)
        results.append({"settings": settings_of(args), "found": found})
        with args.file.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    show(results)


if __name__ == "__main__":
    main()
