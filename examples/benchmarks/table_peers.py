"""What models of mixed tables stand beside: columns as numbers, plain ways of drawing rows like those of a table, imputers.

A generator is any object with ``fit(frame)`` and ``sample(n_rows)``, which returns a frame; an imputer one with
``fit_transform(frame)``. All of them learn their columns from the frame that they are fitted on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from scipy.stats import norm
from sklearn.covariance import ledoit_wolf
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.neighbors import NearestNeighbors

N_NEIGHBORS, NOISE, N_BINS = 5, 0.1, 10
N_FOREST_ROUNDS, N_TREES = 3, 50


class Generator(Protocol):
    """Learns what rows are like, and draws others."""

    def fit(self, frame: pd.DataFrame, /) -> Any: ...

    def sample(self, n_rows: int, /) -> pd.DataFrame: ...


# -- columns ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Columns of a frame as numbers: a category is its place among the sorted ones, and NaN is missing.

    Attributes
    ----------
    names : list of str
    levels : list of ndarray or None
        Categories of each column; None for numbers.
    decimals : list of int or None
        Decimals that a column of numbers is given with; None for categories.
    dtypes : list of dtypes
    """

    names: list[str]
    levels: list[np.ndarray | None]
    decimals: list[int | None]
    dtypes: list[Any]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Columns:
        """Columns of a frame."""
        levels: list[np.ndarray | None] = []
        decimals: list[int | None] = []
        for name in frame:
            values = frame[name].dropna().to_numpy()
            number = is_numeric_dtype(frame[name].dtype) and frame[name].dtype != bool
            levels.append(None if number else np.unique(values.astype(object)))
            places = (
                [places for places in range(7) if np.allclose(values, np.round(values, places), rtol=0, atol=1e-9)]
                if number
                else []
            )
            decimals.append((places or [15])[0] if number else None)
        return cls(list(frame), levels, decimals, list(frame.dtypes))

    @property
    def numbers(self) -> np.ndarray:
        """Which columns are numbers."""
        return np.array([levels is None for levels in self.levels])

    def read(self, frame: pd.DataFrame) -> np.ndarray:
        """Keys of rows, `(n_rows, n_columns)`; categories that are not known are missing."""
        keys = np.full(frame.shape, np.nan)
        for column, (name, levels) in enumerate(zip(self.names, self.levels, strict=True)):
            if levels is None:
                keys[:, column] = frame[name].to_numpy(dtype=float, na_value=np.nan)
            else:
                codes = pd.Index(levels, dtype=object).get_indexer(frame[name].astype(object))
                keys[:, column] = np.where(codes < 0, np.nan, codes)
        return keys

    def restore(self, keys: np.ndarray) -> pd.DataFrame:
        """Frame of keys, with as many decimals as the first one."""
        data: dict[str, Any] = {}
        for name, levels, places, dtype, column in zip(self.names, self.levels, self.decimals, self.dtypes, keys.T, strict=True):
            if levels is None:
                rounded = np.round(column, places)
                data[name] = rounded.astype(int) if places == 0 and np.isfinite(rounded).all() else rounded
            else:
                labels = np.append(levels, np.nan)  # the last of which is what is missing
                data[name] = pd.Series(labels[np.nan_to_num(column, nan=-1).astype(int)], dtype=dtype)
        return pd.DataFrame(data)

    def filled(self, keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Keys with draws from its column where an entry is missing, and zeros where all numbers are."""
        keys = keys.copy()
        for number, column in zip(self.numbers, keys.T, strict=True):
            gaps = np.isnan(column)
            if not gaps.all():
                column[gaps] = rng.choice(column[~gaps], gaps.sum())
            elif number:
                column[:] = 0.0
        return keys

    def one_hot(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers as they are and categories one-hot, with the column that each of them is of."""
        parts = [
            keys[:, [column]]
            if levels is None
            else np.where(np.isnan(keys[:, [column]]), np.nan, keys[:, [column]] == np.arange(len(levels)))
            for column, levels in enumerate(self.levels)
        ]
        return np.hstack(parts), np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])

    def from_one_hot(self, values: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """Keys of numbers, and of the largest entries of categories."""
        parts = [values[:, owner == column] for column in range(len(self.levels))]
        return np.column_stack(
            [part[:, 0] if levels is None else part.argmax(axis=1) for part, levels in zip(parts, self.levels, strict=True)]
        )


def classes_of(target: pd.Series) -> np.ndarray:
    """Class of every row; numbers are divided at their quantiles."""
    if is_numeric_dtype(target.dtype):
        return pd.qcut(target, N_BINS, labels=False, duplicates="drop").to_numpy()
    return pd.factorize(target)[0]


# -- generators -------------------------------------------------------------------------------------------------------


class TrainingRows:
    """The training rows themselves, in another order: what sampling alone makes of all figures, and of copying."""

    def __init__(self, target: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def fit(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    def sample(self, n_rows: int) -> pd.DataFrame:
        rounds = [self.rng.permutation(len(self.frame)) for _ in range(-(-n_rows // len(self.frame)))]
        return self.frame.iloc[np.concatenate(rounds)[:n_rows]].reset_index(drop=True)


class Marginals:
    """Columns independent of each other, as they are."""

    def __init__(self, target: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def fit(self, frame: pd.DataFrame) -> None:
        self.columns = Columns.of(frame)
        self.keys = self.columns.filled(self.columns.read(frame), self.rng)

    def sample(self, n_rows: int) -> pd.DataFrame:
        return self.columns.restore(np.column_stack([self.rng.choice(column, n_rows) for column in self.keys.T]))


class Copula:
    """Gaussian copula: columns as they are, joined by the correlations of their normal scores.

    Categories, the most frequent first, lie between thresholds of a normal variable. Correlations are shrunk by Ledoit and
    Wolf's rule, which makes them positive definite.
    """

    def __init__(self, target: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def fit(self, frame: pd.DataFrame) -> None:
        self.columns = Columns.of(frame)
        keys = self.columns.read(frame)
        self.sorted: list[np.ndarray] = []
        scores = np.zeros(keys.shape)
        for column, number in enumerate(self.columns.numbers):
            present = ~np.isnan(keys[:, column])
            values = keys[present, column]
            if not number:  # numbered by their frequencies, so that neighbors are about as frequent
                values, frequencies = values.astype(int), np.bincount(values.astype(int), minlength=1)
                order = np.argsort(-frequencies, kind="stable")
                self.sorted.append(np.repeat(order, frequencies[order]))
                values = np.argsort(order)[values]
            else:
                self.sorted.append(np.sort(values))
            ranks = pd.Series(values).rank().to_numpy()
            z = norm.ppf((ranks - 0.5) / max(len(values), 1))
            scores[present, column] = (z - z.mean()) / (z.std() or 1.0) if len(z) else z
        covariance = ledoit_wolf(scores)[0] + 1e-9 * np.eye(scores.shape[1])
        scale = np.sqrt(np.diag(covariance))
        self.factor = np.linalg.cholesky(covariance / np.outer(scale, scale))

    def sample(self, n_rows: int) -> pd.DataFrame:
        u = norm.cdf(self.rng.standard_normal((n_rows, len(self.factor))) @ self.factor.T)
        keys = np.zeros(u.shape)
        for column, (values, number) in enumerate(zip(self.sorted, self.columns.numbers, strict=True)):
            if len(values):
                keys[:, column] = np.quantile(values, u[:, column], method="linear" if number else "inverted_cdf")
        return self.columns.restore(keys)


class WithinClasses:
    """A generator for each class of the target, or tenth of it."""

    def __init__(self, make: Callable[[str, int], Generator], target: str, seed: int) -> None:
        self.make, self.target, self.rng = make, target, np.random.default_rng(seed)

    def fit(self, frame: pd.DataFrame) -> None:
        classes = classes_of(frame[self.target])
        self.names = list(frame)
        self.parts: list[Generator] = []
        for each in np.unique(classes):
            self.parts.append(self.make(self.target, int(self.rng.integers(2**31))))
            self.parts[-1].fit(frame[classes == each])
        self.shares = np.bincount(classes) / len(classes)

    def sample(self, n_rows: int) -> pd.DataFrame:
        numbers = self.rng.multinomial(n_rows, self.shares)
        drawn = [part.sample(int(number)) for part, number in zip(self.parts, numbers, strict=True) if number]
        return pd.concat(drawn, ignore_index=True).iloc[self.rng.permutation(n_rows)].reset_index(drop=True)


class Smote:
    """SMOTE-NC within the classes of the target: numbers between two neighbors', the commonest category of five.

    Neighbors are five of the same class, by standardized numbers and a distance of one between categories.
    """

    def __init__(self, target: str, seed: int) -> None:
        self.target, self.rng = target, np.random.default_rng(seed)

    def fit(self, frame: pd.DataFrame) -> None:
        self.columns = Columns.of(frame)
        self.classes = classes_of(frame[self.target])
        self.keys = self.columns.filled(self.columns.read(frame), self.rng)
        self.space = mixed_space(self.columns, self.keys)(self.keys)

    def sample(self, n_rows: int) -> pd.DataFrame:
        drawn = self.rng.integers(len(self.keys), size=n_rows)
        keys = self.keys[drawn]
        categories = np.flatnonzero(~self.columns.numbers)
        for each in np.unique(self.classes[drawn]):
            members, places = np.flatnonzero(self.classes == each), np.flatnonzero(self.classes[drawn] == each)
            k = min(N_NEIGHBORS, len(members) - 1)
            if k == 0:
                continue
            search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(self.space[members])
            near = members[search.kneighbors(self.space[drawn[places]], return_distance=False)]
            own = near == drawn[places, None]
            own[~own.any(axis=1), -1] = True  # more than k rows are equal to it: one of them is left out
            near = near[~own].reshape(len(places), k)
            partner = near[np.arange(len(places)), self.rng.integers(k, size=len(places))]
            share = self.rng.uniform(size=(len(places), 1))
            between = keys[places] + share * (self.keys[partner] - keys[places])
            for column in categories:
                values = self.keys[near, column]
                counts = (values[:, :, None] == values[:, None, :]).sum(axis=2)
                between[:, column] = values[np.arange(len(places)), counts.argmax(axis=1)]
            keys[places] = between
        return self.columns.restore(keys)


class NoisyRows:
    """Training rows, with noise of a tenth of the standard deviation on numbers and a tenth of the categories drawn anew."""

    def __init__(self, target: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def fit(self, frame: pd.DataFrame) -> None:
        self.columns = Columns.of(frame)
        self.keys = self.columns.filled(self.columns.read(frame), self.rng)

    def sample(self, n_rows: int) -> pd.DataFrame:
        keys = self.keys[self.rng.integers(len(self.keys), size=n_rows)]
        other = np.column_stack([self.rng.choice(column, n_rows) for column in self.keys.T])
        noisy = keys + NOISE * self.keys.std(axis=0) * self.rng.standard_normal(keys.shape)
        anew = np.where(self.rng.uniform(size=keys.shape) < NOISE, other, keys)
        return self.columns.restore(np.where(self.columns.numbers, noisy, anew))


class CtganPeer:
    """CTGAN or TVAE of the package ctgan, at its defaults; what is missing is drawn from the column before."""

    def __init__(self, name: str, target: str, seed: int) -> None:
        self.name, self.seed = name, seed

    def fit(self, frame: pd.DataFrame) -> None:
        import ctgan
        import torch

        torch.manual_seed(self.seed)
        np.random.seed(self.seed)  # noqa: NPY002  # which the package draws from
        self.columns = Columns.of(frame)
        complete = self.columns.restore(self.columns.filled(self.columns.read(frame), np.random.default_rng(self.seed)))
        names = [name for name, number in zip(self.columns.names, self.columns.numbers, strict=True) if not number]
        self.model = getattr(ctgan, self.name)()
        self.model.fit(complete, names)

    def sample(self, n_rows: int) -> pd.DataFrame:
        return self.columns.restore(self.columns.read(self.model.sample(n_rows)))


def mixed_space(columns: Columns, keys: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Map of keys to where numbers are standardized, and different categories one apart."""
    center, scale = keys.mean(axis=0), keys.std(axis=0)
    numbers = columns.numbers
    center, scale = np.where(numbers, center, 0.0), np.where(numbers & (scale > 0), scale, 1.0)

    def place(keys: np.ndarray) -> np.ndarray:
        space, owner = columns.one_hot((keys - center) / scale)
        return np.where(numbers[owner], space, space * np.sqrt(0.5)).astype(np.float32)

    return place


# -- imputers ---------------------------------------------------------------------------------------------------------


class Simple:
    """Means of numbers, and the most frequent categories."""

    def __init__(self, seed: int) -> None: ...

    def fit_transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.fillna(
            {name: frame[name].mean() if is_numeric_dtype(frame[name].dtype) else frame[name].mode().iloc[0] for name in frame}
        )


class OneHot:
    """One of scikit-learn's imputers, on standardized numbers and one-hot categories."""

    def __init__(self, make: Callable[[int], Any], seed: int) -> None:
        self.imputer = make(seed)

    def fit_transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        columns = Columns.of(frame)
        keys = columns.read(frame)
        values, owner = columns.one_hot(keys)
        center, scale = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        number = columns.numbers[owner]
        center, scale = np.where(number, center, 0.0), np.where(number & (scale > 0), scale, 1.0)
        filled = self.imputer.fit_transform((values - center) / scale) * scale + center
        return columns.restore(np.where(np.isnan(keys), columns.from_one_hot(filled, owner), keys))


def iterative(seed: int) -> IterativeImputer:
    """Regressions in turn, each on the 50 columns that it is most correlated with."""
    return IterativeImputer(max_iter=5, n_nearest_features=50, random_state=seed)


class Forests:
    """Like MissForest: random forests in turn, from the column with the fewest gaps on, in three rounds."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit_transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        columns = Columns.of(frame)
        keys = columns.read(frame)
        gaps = np.isnan(keys)
        filled = columns.read(Simple(self.seed).fit_transform(frame))
        for _ in range(N_FOREST_ROUNDS):
            for column in np.argsort(gaps.sum(axis=0), kind="stable"):
                rows = gaps[:, column]
                if rows.any():
                    make = RandomForestRegressor if columns.numbers[column] else RandomForestClassifier
                    forest = make(N_TREES, max_features="sqrt", random_state=self.seed, n_jobs=1)
                    others = np.delete(filled, column, axis=1)
                    filled[rows, column] = forest.fit(others[~rows], keys[~rows, column]).predict(others[rows])
        return columns.restore(filled)


IMPUTERS: dict[str, Callable[[int], Any]] = {
    "mean, most frequent": Simple,
    "KNN on one-hot": lambda seed: OneHot(lambda seed: KNNImputer(n_neighbors=N_NEIGHBORS), seed),
    "IterativeImputer on one-hot": lambda seed: OneHot(iterative, seed),
    "forests in turn": Forests,
}
GENERATORS: dict[str, Callable[[str, int], Generator]] = {
    "training rows": TrainingRows,
    "marginals": Marginals,
    "copula": Copula,
    "copula within classes": lambda target, seed: WithinClasses(Copula, target, seed),
    "SMOTE-NC": Smote,
    "noisy rows": NoisyRows,
    "CTGAN": lambda target, seed: CtganPeer("CTGAN", target, seed),
    "TVAE": lambda target, seed: CtganPeer("TVAE", target, seed),
}
