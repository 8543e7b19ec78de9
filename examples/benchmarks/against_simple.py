"""Defaults against principal components, a linear denoiser and factor analysis: error, score and clusters on held-out rows.

Tables are generated (linear, curved, clustered, counts; 10 to 1,000 columns, 30 to 10,000 rows, noise in all of them, equal or
tenfold unequal) or those of scikit-learn, half of whose rows are held out. Columns are standardized by the training rows for
every competitor. Beside the defaults, five fixed settings run: networks off, and a weight decay of 0, 1, 10 and 30. What is asked
of the means over seeds, less two standard errors of the differences paired by seed, is printed below all cells. Results are kept
in a file, line by line, so that a run that was interrupted goes on. Exits with 1 if a figure falls short of what is asked of it.

    python examples/benchmarks/against_simple.py [--seeds 5] [--generator 0] [--jobs 2] [--results against_simple.jsonl]
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.metrics import adjusted_rand_score

from skvae import AutoEncoder, DenoisingAE, Gaussian, LinearPath, VAETransformer

HELD_OUT = 1000
CORRUPTION = 0.3  # the denoiser's default, in standard deviations
FIXED = {"off": np.inf, "0": 0.0, "1": 1.0, "10": 10.0, "30": 30.0}
MODELS: dict[str, Callable[..., Any]] = {
    "ae": AutoEncoder,
    "tied": lambda *args, **params: AutoEncoder(*args, decoder="tied", **params),
    "dae": DenoisingAE,
    "vae": VAETransformer,
    "vae shared": lambda *args, **params: VAETransformer(*args, likelihood=Gaussian("shared"), **params),
}
MEAN_RATIO, WORST_RATIO, LINEAR_RATIO, SCORE_SLACK, ARI_SLACK = 1.05, 1.15, 1.02, 0.02, 0.02


class Cell(NamedTuple):
    """A table and the size of the code."""

    kind: str
    n_rows: int
    n_features: int
    n_factors: int
    unequal: bool
    n_components: int

    def __str__(self) -> str:
        noise = "~" if self.unequal else " "
        return f"{self.kind:13s} {self.n_rows:6d} x {self.n_features:4d}, {self.n_factors:2d}{noise} code {self.n_components:2d}"


TABLES = [
    ("linear", 30, 10, 2, False),
    ("linear", 100, 10, 2, True),
    ("linear", 100, 100, 20, False),
    ("linear", 300, 100, 20, True),
    ("linear", 1000, 100, 20, False),
    ("linear", 1000, 20, 4, True),
    ("linear", 300, 1000, 30, False),
    ("linear", 3000, 50, 8, True),
    ("curved", 50, 10, 2, False),
    ("curved", 100, 20, 2, True),
    ("curved", 300, 20, 3, False),
    ("curved", 1000, 20, 3, True),
    ("curved", 300, 300, 10, False),
    ("curved", 3000, 50, 5, True),
    ("curved", 10000, 30, 4, False),
    ("clustered", 60, 10, 2, True),
    ("clustered", 100, 20, 4, False),
    ("clustered", 300, 200, 10, True),
    ("clustered", 1000, 50, 8, False),
    ("clustered", 3000, 20, 4, True),
    ("counts", 200, 50, 4, False),
    ("counts", 600, 1000, 5, False),
    ("counts", 3000, 100, 6, True),
]
CELLS = [
    Cell(*table, size)
    for table in TABLES
    for size in ((table[3],) if table[1] * table[2] > 2e4 else (table[3] - 1, table[3], table[3] + 1))
]
SETS: dict[str, Callable[..., Any]] = {
    "iris": load_iris,
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
}
SIZES = (("iris", 2), ("wine", 4), ("breast cancer", 5), ("digits", 8), ("digits", 32))
CELLS += [Cell(name, 0, 0, 0, False, size) for name, size in SIZES]


def generate(cell: Cell, rng: np.random.Generator, n_rows: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of a generated table and, where there are clusters, which one each is of."""
    n_features, n_factors = cell.n_features, cell.n_factors
    labels = None
    noise = 0.3 * (np.geomspace(1.0, 10.0, n_features) / np.sqrt(10.0) if cell.unequal else np.ones(n_features))
    if cell.kind == "linear":
        clean = rng.standard_normal((n_rows, n_factors)) @ rng.standard_normal((n_factors, n_features)) / np.sqrt(n_factors)
    elif cell.kind == "curved":
        waves = rng.standard_normal((n_rows, n_factors)) @ rng.standard_normal((n_factors, 32)) + rng.uniform(0, 2 * np.pi, 32)
        clean = np.sin(waves) @ rng.standard_normal((32, n_features)) / 4.0
    elif cell.kind == "clustered":
        labels = rng.integers(n_factors + 1, size=n_rows)
        clean = rng.standard_normal((n_factors + 1, n_features))[labels]
    else:
        labels = rng.integers(n_factors, size=n_rows)
        rates = rng.dirichlet(np.full(n_features, 0.3), size=n_factors) * 3.0 * n_features
        mixed = 0.8 * rates[labels] + 0.2 * rates.mean(axis=0)
        spread = rng.lognormal(0.0, 0.5 if cell.unequal else 0.1, size=(n_rows, 1))
        return rng.poisson(mixed * spread + 0.05).astype(float), labels
    return clean + noise * rng.standard_normal((n_rows, n_features)), labels


def load(cell: Cell, seed: int, generator: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Training rows and held-out ones, standardized by the former, and the clusters of all rows, if there are any."""
    rng = np.random.default_rng([generator, seed, cell.n_rows, cell.n_features])
    if cell.kind in SETS:
        X, labels = SETS[cell.kind](return_X_y=True)
        order = rng.permutation(len(X))
        X, labels, n_rows = X[order], labels[order], len(X) // 2
    else:
        X, labels = generate(cell, rng, cell.n_rows + HELD_OUT)
        n_rows = cell.n_rows
    X = X[:, X[:n_rows].std(axis=0) > 0]
    X = (X - X[:n_rows].mean(axis=0)) / X[:n_rows].std(axis=0)
    return X[:n_rows], X[n_rows:], labels


def error(rows: np.ndarray, of: np.ndarray) -> float:
    """Mean squared error per entry."""
    return float(np.mean((rows - of) ** 2))


def score_of_loadings(train: np.ndarray, test: np.ndarray, axes: np.ndarray) -> float:
    """Nats a column of PCA's loadings with a noise for every column and a Gaussian code, by maximum likelihood."""
    covariance, noise = np.cov(train @ axes.T, rowvar=False, ddof=0).reshape(len(axes), -1), np.ones(train.shape[1])
    second = train.T @ train / len(train)
    for _ in range(300):
        weighted = axes / noise
        posterior = np.linalg.inv(np.linalg.inv(covariance) + weighted @ axes.T)
        encode = posterior @ weighted
        covariance = posterior + encode @ second @ encode.T
        left = second - 2 * (axes.T @ (encode @ second)) + axes.T @ (encode @ second @ encode.T + posterior) @ axes
        noise = np.maximum(np.diag(left), 1e-4)
    model = axes.T @ covariance @ axes + np.diag(noise)
    white = np.linalg.solve(np.linalg.cholesky(model), test.T)
    log_det = np.linalg.slogdet(model)[1]
    return float(-0.5 * ((white**2).sum(axis=0).mean() + log_det) / len(noise) - 0.5 * np.log(2 * np.pi))


def simple(cell: Cell, train: np.ndarray, test: np.ndarray, labels: np.ndarray | None) -> dict[str, Any]:
    """Return what the simple methods reach."""
    size, width = cell.n_components, train.shape[1]
    pca = PCA(size).fit(train)
    found: dict[str, Any] = {"pca": error(test, pca.inverse_transform(pca.transform(test)))}
    covariance = train.T @ train / len(train)
    full = np.linalg.solve(covariance + CORRUPTION**2 * np.eye(width), covariance).T
    axes = np.linalg.eigh(full @ covariance)[1][:, ::-1][:, :size].T
    found["denoiser"] = error(test, test @ full.T @ axes.T @ axes)
    fa = FactorAnalysis(size, max_iter=3000).fit(train)
    found["fa"] = error(test, fa.transform(test) @ fa.components_ + fa.mean_)
    variance = max(pca.noise_variance_, 1e-4)
    kept = np.maximum(pca.explained_variance_ - variance, 0.0) / pca.explained_variance_
    found["ppca"] = error(test, pca.inverse_transform(pca.transform(test) * kept))
    found["pca score"], found["fa score"] = pca.score(test) / width, fa.score(test) / width
    found["loadings score"] = score_of_loadings(train, test, pca.components_)
    if labels is not None:
        found["pca ari"] = ari(pca.transform(train), pca.transform(test), labels)
    return found


def ari(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> float:
    """Agreement of KMeans on codes with clusters, on held-out rows."""
    clusters = KMeans(len(np.unique(labels)), n_init=10, random_state=0).fit(train).predict(test)
    return float(adjusted_rand_score(labels[len(train) :], clusters))


def run(cell: Cell, seed: int, generator: int, names: list[str]) -> dict[str, Any]:
    """All figures of a cell and a seed."""
    warnings.simplefilter("ignore")
    train, test, labels = load(cell, seed, generator)
    found: dict[str, Any] = {"cell": list(cell), "seed": seed, "generator": generator, **simple(cell, train, test, labels)}
    for name in names:
        for setting in ("auto", *FIXED):
            path = "auto" if setting == "auto" else LinearPath(FIXED[setting])
            model = MODELS[name](cell.n_components, linear_path=path, random_state=seed, device="cpu").fit(train)
            found[f"{name} {setting}"] = error(test, model.reconstruct(test))
            if setting == "auto":
                found[f"{name} decay"] = model.linear_path_.weight_decay
                found[f"{name} score"] = model.score(test) / train.shape[1]
                if labels is not None:
                    found[f"{name} ari"] = ari(model.transform(train), model.transform(test), labels)
    return found


class Paired:
    """Differences or ratios paired by seed."""

    def __init__(self, values: list[float]):
        self.mean = float(np.mean(values))
        self.error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0

    def exceeds(self, bar: float) -> bool:
        """Whether the mean lies above a bar for sure."""
        return self.mean - 2.0 * self.error > bar

    def __str__(self) -> str:
        return f"{self.mean:6.3f} +- {self.error:.3f}"


BASELINES = {"ae": "pca", "tied": "pca", "dae": "denoiser", "vae": "fa", "vae shared": "ppca"}


def report(results: list[dict[str, Any]], names: list[str]) -> bool:
    """Print all cells and what is asked of them; return whether it is met."""
    cells: dict[Cell, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        cells[Cell(*result["cell"])].append(result)
    missed = []

    def ask(what: str, value: Paired, bar: float) -> None:
        if value.exceeds(bar):
            missed.append(f"{what}: {value}, asked: at most {bar}")

    for name in names:
        print(
            f"\n{name}: error relative to {BASELINES[name]}'s; decays taken; relative to the best; score above; ARI above PCA's"
        )
        by_seed, linear = defaultdict(list), defaultdict(list)
        for cell, of in cells.items():
            base = BASELINES[name]
            against = [r[f"{name} auto"] / min(r[base], *(r[f"{name} {s}"] for s in FIXED)) for r in of]
            relative = {s: float(np.mean([r[f"{name} {s}"] / r[base] for r in of])) for s in ("auto", *FIXED)}
            best = ["fa score", "pca score"] if name.startswith("vae") else ["loadings score", "pca score"]
            above = [max(r[key] for key in best) - r[f"{name} score"] for r in of]
            if name.startswith("vae"):
                below_linear = Paired([r[f"{name} auto"] / r[base] for r in of])
                ask(f"{name}, {cell}, error over the linear model's", below_linear, WORST_RATIO)
            for r, ratio in zip(of, against, strict=True):
                by_seed[r["seed"]].append(ratio)
                if cell.kind == "linear":
                    linear[r["seed"]].append(r[f"{name} auto"] / r[base])
            ask(f"{name}, {cell}, error over the best", Paired(against), WORST_RATIO)
            if name != "vae shared":
                ask(f"{name}, {cell}, score below the best", Paired(above), SCORE_SLACK)
            decays = " ".join(f"{r[f'{name} decay']:g}" for r in of)
            line = (
                f"{cell} | " + " ".join(f"{value:6.3f}" for value in relative.values()) + f" | {decays:18s} | {Paired(against)}"
            )
            line += f" | {-np.mean(above):7.3f}"
            if "pca ari" in of[0]:
                below = [r["pca ari"] - r[f"{name} ari"] for r in of]
                line += f" | {-np.mean(below):6.3f} of {np.mean([r['pca ari'] for r in of]):.3f}"
                ask(f"{name}, {cell}, ARI below PCA's", Paired(below), ARI_SLACK)
            print(line)
        everything = Paired([float(np.mean(values)) for values in by_seed.values()])
        print(f"mean over cells, error over the best: {everything}")
        ask(f"{name}, mean over cells, error over the best", everything, MEAN_RATIO)
        if linear:
            ratio = Paired([float(np.mean(values)) for values in linear.values()])
            print(f"mean over linear cells, error over {BASELINES[name]}'s: {ratio}")
            ask(f"{name}, mean over linear cells", ratio, LINEAR_RATIO)
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "all that is asked is met"))
    return not missed


def main() -> None:
    """Run what is not in the file of results yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds of table and fit")
    parser.add_argument("--generator", type=int, default=0, help="seed of the generated tables")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("against_simple.jsonl"))
    parser.add_argument("--models", nargs="*", default=["ae", "tied", "dae", "vae"], choices=list(MODELS))
    parser.add_argument("--kinds", nargs="*", help="kinds of tables; all by default")
    parser.add_argument("--largest", type=float, default=np.inf, help="entries of the largest tables to run")
    args = parser.parse_args()
    kept = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    kept = [result for result in kept if result["generator"] == args.generator]
    done = {(Cell(*result["cell"]), result["seed"]) for result in kept}
    cells = [cell for cell in CELLS if not args.kinds or cell.kind in args.kinds]
    cells = [cell for cell in cells if cell.n_rows * cell.n_features <= args.largest]
    # The largest first, so that no job is left alone with one of them at the end.
    todo = sorted(
        ((cell, seed) for cell in cells for seed in range(args.seeds) if (cell, seed) not in done),
        key=lambda pair: -pair[0].n_rows * pair[0].n_features,
    )
    jobs = (delayed(run)(cell, seed, args.generator, args.models) for cell, seed in todo)
    with args.results.open("a") as file:
        for result in Parallel(n_jobs=args.jobs, return_as="generator_unordered")(jobs):
            file.write(json.dumps(result) + "\n")
            file.flush()
            kept.append(result)
    order = {cell: i for i, cell in enumerate(CELLS)}
    kept = [result for result in kept if Cell(*result["cell"]) in cells]
    kept.sort(key=lambda result: (order[Cell(*result["cell"])], result["seed"]))
    sys.exit(0 if report(kept, args.models) else 1)


if __name__ == "__main__":
    main()
