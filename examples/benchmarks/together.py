"""A search whose fits train together against the same one in turn and by two processes, in one run.

Two searches: 12 candidates (three sizes of the code by four values of beta) and five folds of `VAETransformer` at its defaults,
behind a scaler, on scikit-learn's sets, default scoring included; and 64 candidates of one shape, small networks on 2,000 x 13
rows. Ratios are times of the others over that together. Workers of processes are warm. Prints what scores differ by, beside what
they differ by where X is multiplied by one plus 1e-7 times noise, and the peak memory.

    python examples/benchmarks/together.py [--sets wine breast_cancer small] [--rounds 1] [--device cpu]

With `--seeds 20`, searches are run with so many seeds instead, together and in turn, and what is printed is the mean difference
between their scores with its standard error, and the same of searches in turn where X is multiplied by one plus 1e-7 times noise.
With `--candidates 1000`, a random search of so many candidates is run instead, within `--max-memory`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAETransformer, train_together


def of_defaults(device: str) -> GridSearchCV:
    """Search over codes and betas at the defaults."""
    pipe = make_pipeline(StandardScaler(), VAETransformer(random_state=0, device=device))
    grid = {"vaetransformer__n_components": [2, 4, 8], "vaetransformer__beta": [0.5, 1.0, 2.0, 4.0]}
    return GridSearchCV(pipe, grid, cv=5, refit=False)


def of_small_networks(device: str) -> GridSearchCV:
    """Search over 64 candidates of one shape."""
    model = VAETransformer(4, hidden_layer_sizes=(32, 16), batch_size=32, linear_path=None, random_state=0, device=device)
    grid = {"beta": np.geomspace(0.25, 4.0, 8), "learning_rate": np.geomspace(5e-4, 5e-3, 8)}
    return GridSearchCV(model, grid, cv=[(np.arange(1600), np.arange(1600, 2000))], refit=False)


def rows(name: str) -> np.ndarray:
    """Rows of a set."""
    if name == "small":
        rng = np.random.default_rng(0)
        return rng.normal(size=(2000, 4)) @ rng.normal(size=(4, 13)) + 0.5 * rng.normal(size=(2000, 13))
    X: np.ndarray = {"wine": load_wine, "breast_cancer": load_breast_cancer}[name](return_X_y=True)[0]
    return X


def bias(n_seeds: int, device: str) -> None:
    """Print by what scores of searches together and in turn differ, over seeds."""
    grid = {"n_components": [2, 4], "beta": [1.0, 4.0]}
    X = StandardScaler().fit_transform(rows("wine"))
    apart: dict[str, list[float]] = {"together": [], "rounding of X": []}
    for seed in range(n_seeds):
        search = GridSearchCV(VAETransformer(device=device, random_state=seed), grid, cv=3, refit=False, n_jobs=1)
        noise = 1.0 + 1e-7 * np.random.default_rng(seed).normal(size=X.shape)
        with train_together():
            together = clone(search).set_params(n_jobs=None).fit(X).cv_results_["mean_test_score"]
        alone, again = (clone(search).fit(rows_of_it).cv_results_["mean_test_score"] for rows_of_it in (X, X * noise))
        apart["together"].append(float(np.mean(together - alone)))
        apart["rounding of X"].append(float(np.mean(again - alone)))
        print(
            f"seed {seed}: {apart['together'][-1]:+.5f} together, {apart['rounding of X'][-1]:+.5f} by rounding of X", flush=True
        )
    for what, values in apart.items():
        error = np.std(values, ddof=1) / np.sqrt(n_seeds)
        print(f"{what}: mean difference {np.mean(values):+.5f} +- {error:.5f} nats, {np.std(values, ddof=1):.5f} between seeds")


def many(n_candidates: int, max_memory: str | None, device: str) -> None:
    """Print what a random search of many candidates takes."""
    model = VAETransformer(4, hidden_layer_sizes=(32, 16), linear_path=None, max_epochs=10, random_state=0, device=device)
    drawn = {"beta": loguniform(0.25, 4.0), "learning_rate": loguniform(5e-4, 5e-3)}
    split = [(np.arange(400), np.arange(400, 500))]
    search = RandomizedSearchCV(model, drawn, n_iter=n_candidates, cv=split, refit=False, random_state=0)
    X = rows("small")[:500]
    clone(search).set_params(n_iter=2).fit(X)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    with train_together(max_memory=max_memory):
        taken, _ = timed(lambda: search.fit(X))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{n_candidates} candidates, max_memory={max_memory}: {taken:.1f} s, peak memory {peak:.2f} GiB, {before:.2f} before")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returns."""
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def main() -> None:
    """Run, and print a line for every search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["wine", "breast_cancer", "small"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--candidates", type=int, default=0)
    parser.add_argument("--max-memory", default=None)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.seeds:
        bias(args.seeds, args.device)
        return
    if args.candidates:
        many(args.candidates, args.max_memory, args.device)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}")
    for name in args.sets:
        X, make = rows(name), of_small_networks if name == "small" else of_defaults
        # Warm: libraries, and the workers of the processes.
        cross_validate(VAETransformer(2, max_epochs=2, device=args.device), X[:200], cv=2, n_jobs=2)
        seconds: dict[str, list[float]] = {"in turn": [], "two processes": [], "together": []}
        for _ in range(args.rounds):
            taken, alone = timed(lambda X=X, make=make: make(args.device).set_params(n_jobs=1).fit(X))
            seconds["in turn"].append(taken)
            if args.device == "cpu":
                seconds["two processes"].append(timed(lambda X=X, make=make: make("cpu").set_params(n_jobs=2).fit(X))[0])
            with train_together():
                taken, found = timed(lambda X=X, make=make: make(args.device).fit(X))
            seconds["together"].append(taken)
        noise = 1.0 + 1e-7 * np.random.default_rng(1).normal(size=X.shape)
        again = make(args.device).set_params(n_jobs=1).fit(X * noise)
        medians = {way: statistics.median(values) for way, values in seconds.items() if values}
        ratios = ", ".join(f"{way} {value / medians['together']:.2f} times that" for way, value in medians.items())
        scores = [each.cv_results_["mean_test_score"] for each in (alone, found, again)]
        apart = [float(np.sqrt(np.mean((scores[0] - each) ** 2))) for each in scores[1:]]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        print(f"{name}: together {medians['together']:.1f} s; {ratios}")
        print(
            f"  scores differ by {apart[0]:.2g} in the mean square, by rounding of X {apart[1]:.2g}; peak memory {peak:.2f} GiB"
        )


if __name__ == "__main__":
    main()
