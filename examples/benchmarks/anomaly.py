"""Anomaly scores at the defaults against scikit-learn's detectors, on ADBench's Classical group.

Two modes: trained on half of the normal rows to find the anomalies among the rest, and trained on all rows, anomalies
included, without labels. Columns are standardized, tables have at most 10,000 rows. Printed are the area under the ROC curve of
every table, and the means of it, of the average precision and of the seconds to fit and score. The data are read from adbench/
in the folder that the environment variable SKVAE_DATA names.

    python examples/benchmarks/anomaly.py [--sets cardio wine] [--seeds 0 1] [--modes semi-supervised] [--max-rows 10000]
        [--estimators AutoEncoder VAETransformer DenoisingAE] [--methods neighbors mahalanobis] [--baselines ...] [--log FILE]

Results are added to the log as they come; what is in it already is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from adbench import MODES, find_sets, load_split
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

import skvae
from skvae.inference.anomaly import NeighborDistance, References

DEFAULT = "auto"
N_REFERENCES = 1024
ESTIMATORS = ("AutoEncoder", "VAETransformer", "DenoisingAE")
BEST, EACH = (0.930, 0.835), (0.920, 0.80)  # what the best of the three reaches in both modes, and what each does
PUBLIC = {"annthyroid", "breastw", "cardio", "fault", "glass", "Ionosphere", "letter", "mammography", "mnist", "musk"} | {
    *("optdigits", "pendigits", "Pima", "satellite", "satimage-2", "shuttle", "thyroid", "vowels", "WBC", "wine")
}


def pca(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Squared error of the reconstruction from as many components as the autoencoders have."""
    model = PCA(max(1, round(train.shape[1] ** 0.5)), random_state=seed).fit(train)
    return ((test - model.inverse_transform(model.transform(test))) ** 2).sum(axis=1)


def mahalanobis(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Mahalanobis distance of the rows themselves."""
    return LedoitWolf().fit(train).mahalanobis(test)


def isolation_forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Isolation forest."""
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def knn(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Mean distance from the five nearest training rows, a row itself not among them."""
    neighbors = NearestNeighbors(n_neighbors=5).fit(train)
    return neighbors.kneighbors(None if train is test else test)[0].mean(axis=1)


def local_outlier_factor(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Local outlier factor."""
    if train is test:
        return -LocalOutlierFactor().fit(train).negative_outlier_factor_
    return -LocalOutlierFactor(novelty=True).fit(train).score_samples(test)


def one_class_svm(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """One-class support vector machine."""
    return -OneClassSVM().fit(train).score_samples(test)


def neighbors_of_rows(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Score as by default, but without an autoencoder, as if every row were reconstructed perfectly: a control."""
    kept = train[np.random.default_rng(seed).permutation(len(train))[:N_REFERENCES]]
    method = NeighborDistance().fit(References.of(np.hstack([kept, np.zeros_like(kept)])))
    blocks = np.array_split(test, len(test) // 1000 + 1)
    return np.concatenate([method.score(np.hstack([block, np.zeros_like(block)])) for block in blocks])


BASELINES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "k-NN distance": knn,
    "IsolationForest": isolation_forest,
    "LocalOutlierFactor": local_outlier_factor,
    "OneClassSVM": one_class_svm,
    "raw Mahalanobis": mahalanobis,
    "PCA reconstruction": pca,
    '"neighbors" of rows alone': neighbors_of_rows,
}


def scored(
    train: np.ndarray, test: np.ndarray, seed: int, wanted: dict[str, list[str]]
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Scores of the rows by every detector that is wanted, estimators with their methods, and the seconds it took."""
    for name, methods in wanted.items():
        start = time.perf_counter()
        if name in BASELINES:
            scores = BASELINES[name](train, test, seed)
            yield name, scores, time.perf_counter() - start
            continue
        model = getattr(skvae, name)(random_state=seed).fit(train)
        fitted = time.perf_counter() - start
        for method in methods:
            start = time.perf_counter()
            scores = model.score_anomaly(test, method=method)
            yield label(name, method), scores, fitted + time.perf_counter() - start


def label(estimator: str, method: str) -> str:
    """Name of a line in the tables."""
    return estimator if method == DEFAULT or estimator in BASELINES else f"{estimator}, {method}"


def run(args: argparse.Namespace) -> list[dict]:
    """Run what is not in the log yet."""
    log = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log and args.log.exists() else []
    done = {(entry["set"], entry["mode"], entry["seed"], entry["detector"]) for entry in log}
    results = []
    for table, path in find_sets(args.sets).items():
        for mode in args.modes:
            for seed in args.seeds:
                key = (table.split("_", 1)[-1], mode, seed)
                wanted = {
                    name: [method for method in args.methods if (*key, label(name, method)) not in done]
                    for name in (*args.estimators, *args.baselines)
                }
                wanted = {name: methods for name, methods in wanted.items() if methods}
                train, test, y = load_split(path, mode, seed, args.max_rows)
                test = train if mode == "unsupervised" else test
                before = len(results)
                for detector, scores, seconds in scored(train, test, seed, wanted):
                    entry = dict(zip(("set", "mode", "seed"), key, strict=True))
                    entry |= {"detector": detector, "seconds": round(seconds, 3)}
                    entry |= {"auroc": roc_auc_score(y, scores), "precision": average_precision_score(y, scores)}
                    results.append(entry)
                    if args.log:
                        with args.log.open("a") as file:
                            file.write(json.dumps(entry) + "\n")
                if wanted:
                    print(*key, *(f"{entry['detector']} {entry['auroc']:.3f}" for entry in results[before:]), flush=True)
    asked = {label(name, method) for name in (*args.estimators, *args.baselines) for method in args.methods}
    sets = {table.split("_", 1)[-1] for table in find_sets(args.sets)}
    old = [e for e in log if e["set"] in sets and e["mode"] in args.modes and e["seed"] in args.seeds and e["detector"] in asked]
    return old + results


def mean(results: list[dict], what: str, **where: str) -> float:
    """Mean of a figure over the results of a kind: over the seeds, then over the tables."""
    chosen = [entry for entry in results if all(entry[name] == value for name, value in where.items())]
    tables = {entry["set"] for entry in chosen}
    return float(np.mean([np.mean([entry[what] for entry in chosen if entry["set"] == table]) for table in tables]))


def report(results: list[dict], modes: list[str], detectors: list[str]) -> None:
    """Print the tables."""
    for mode in modes:
        print(f"\n{mode}, area under the ROC curve\n\n| | {' | '.join(detectors)} |\n| --- |{' ---: |' * len(detectors)}")
        for table in dict.fromkeys(entry["set"] for entry in results):
            figures = [mean(results, "auroc", mode=mode, set=table, detector=detector) for detector in detectors]
            print(f"| {table} | {' | '.join(f'{figure:.3f}' for figure in figures)} |")
    heads = [f"{what}, {mode}" for what in ("AUROC", "average precision", "seconds") for mode in modes]
    print(f"\n| | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    for detector in detectors:
        figures = [mean(results, what, mode=mode, detector=detector) for what in ("auroc", "precision") for mode in modes]
        seconds = [mean(results, "seconds", mode=mode, detector=detector) for mode in modes]
        print(f"| {detector} | {' | '.join([f'{f:.3f}' for f in figures] + [f'{s:.2f}' for s in seconds])} |")


def check(results: list[dict], args: argparse.Namespace) -> bool:
    """Whether the defaults reach what they should, where all tables were run in both modes."""
    complete = {entry["set"] for entry in results} == PUBLIC and {*args.modes} == {*MODES} and {*ESTIMATORS} <= {*args.estimators}
    if not complete or args.max_rows != 10_000:
        print("\nThresholds are for all 20 public tables, both modes and the three estimators; not checked.")
        return True
    reached = False
    for method in args.methods:
        figures = {
            name: [mean(results, "auroc", mode=mode, detector=label(name, method)) for mode in MODES] for name in ESTIMATORS
        }
        best = any(all(np.greater_equal(both, BEST)) for both in figures.values())
        each = all(all(np.greater_equal(both, EACH)) for both in figures.values())
        reached = reached or (best and each)
        print(f"\n{method}: the best of the three {'reaches' if best else 'misses'} {BEST}, each of them "
              f"{'reaches' if each else 'misses'} {EACH}.")  # fmt: skip
    return reached


def main() -> None:
    """Run, print and check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sets", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[*MODES])
    parser.add_argument("--estimators", nargs="*", default=[*ESTIMATORS])
    parser.add_argument("--methods", nargs="+", default=[DEFAULT])
    parser.add_argument("--baselines", nargs="*", choices=[*BASELINES], default=[*BASELINES])
    parser.add_argument("--max-rows", type=int, default=10_000)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "The code of .* has collapsed")
    results = run(args)
    lines = [label(name, method) for name in (*args.estimators, *args.baselines) for method in args.methods]
    report(results, args.modes, [*dict.fromkeys(lines)])
    sys.exit(0 if check(results, args) else 1)


if __name__ == "__main__":
    main()
