"""How anomalous rows are, given their reconstructions: one class per method, and the training rows they compare with.

A method reads one vector of numbers per row, made by the likelihood's function `entries` from the row and what is decoded from
its code, and turns it into a score and the columns' shares of it; surprises are read off several codes of a row. Those that set
`occludes` prefer shares that `Scorer` finds by reconstructing a row anew for every column. There is no matrix product of many
rows at once: sums run over one row in a fixed order, so that a row's result does not depend on its neighbors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import nn

from skvae.data import Table
from skvae.data.sources import row_blocks
from skvae.inference import rows as rows_of
from skvae.modules import Likelihood
from skvae.runtime.state import n_bytes_of

_MOST_REFERENCES, _FEWEST_REFERENCES = 1024, 64
_MOST_BYTES = 2**21
_ROOM = 140_000  # bytes for training rows that are kept, the rest of 200 kB being for all that is small
MAX_OCCLUDED = 64  # columns up to which shares come from a reconstruction per column


class References(NamedTuple):
    """Some training rows that others are compared with, beside what a module makes of them.

    Attributes
    ----------
    x, error : ndarray of float32, shape (n_references, n_inputs)
        The rows and their residuals, in the likelihood's comparable units.
    weight : ndarray of shape (n_references,)
        Their weights.
    nats : ndarray of shape (n_references, 2, n_features) or None
        How improbable their entries are, see `rows.repaired_nats`; where somebody asks for that.
    """

    x: np.ndarray
    error: np.ndarray
    weight: np.ndarray
    nats: np.ndarray | None = None

    @classmethod
    def of(cls, errors: np.ndarray, weight: np.ndarray | None = None) -> References:
        """Split what `Likelihood.errors` has of some rows."""
        x, error = np.hsplit(errors.astype(np.float32), 2)
        return cls(x, error, np.ones(len(x)) if weight is None else weight)


class KeptRows:
    """Training rows that an estimator keeps for others to be compared with; reconstructed once they are asked for.

    Parameters
    ----------
    x : ndarray of float32, shape (n_kept, n_features)
        The rows as `Likelihood.comparable_rows` has them, NaN where entries are missing.
    weight : ndarray of shape (n_kept,)
        Their weights.
    condition : ndarray of shape (n_kept, n_conditions) or None
        What a conditional model conditions on.
    """

    def __init__(self, x: np.ndarray, weight: np.ndarray, condition: np.ndarray | None):
        self.x, self.weight, self.condition = x, weight, condition
        self._references: References | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_references": None}

    @classmethod
    def of(cls, module: nn.Module, table: Table) -> KeptRows:
        """Keep all rows of a table."""
        x = module.likelihood.comparable_rows(table.source.read(slice(None))).astype(np.float32)
        weight = np.ones(table.n_rows) if table.weight is None else table.weight
        return cls(x, weight, table.condition)

    def references(self, module: nn.Module, device: torch.device, *, with_nats: bool = False) -> References:
        """Rows beside what the module of this fit makes of them, and how improbable their entries are where that is needed."""
        if self._references is None:
            errors = reconstruction_entries(module, "errors", self._table(module), device)
            self._references = References.of(errors, self.weight)
        if with_nats and self._references.nats is None:
            nats = rows_of.repaired_nats(module, self._table(module), device, n_groups=MAX_OCCLUDED)
            self._references = self._references._replace(nats=nats)
        return self._references

    def _table(self, module: nn.Module) -> Table:
        """Rows in the units of the data."""
        X = module.likelihood.from_comparable(torch.tensor(self.x))  # a copy: the memory may be read-only
        return Table.of(X, condition=self.condition)

    def take(self, rows: np.ndarray) -> KeptRows:
        """Keep some rows."""
        return KeptRows(*(None if part is None else part[rows] for part in (self.x, self.weight, self.condition)))  # type: ignore[arg-type]

    def under(self, before: Likelihood, likelihood: Likelihood) -> KeptRows:
        """Return the same rows in the comparable units of another likelihood than before."""
        X = before.from_comparable(torch.tensor(self.x))  # a copy: the memory may be read-only
        return KeptRows(likelihood.comparable_rows(X).astype(np.float32), self.weight, self.condition)

    def joined(self, later: KeptRows, rate: float, seed: int, n_most: int) -> KeptRows:
        """Draw from these rows and later ones, with the shares ``1 - rate`` and `rate`."""
        rng = np.random.default_rng(seed)
        total = min(n_most, len(self.x) + len(later.x))
        n_later = min(max(1, round(rate * total)), len(later.x))
        parts = [part.take(np.sort(rng.permutation(len(part.x))[:n])) for part, n in ((self, total - n_later), (later, n_later))]
        pairs = zip(*((part.x, part.weight, part.condition) for part in parts), strict=True)
        return KeptRows(*(None if both[0] is None else np.concatenate(both) for both in pairs))  # type: ignore[arg-type]


def reconstruction_entries(module: nn.Module, name: str, table: Table, device: torch.device) -> np.ndarray:
    """Compare rows with their reconstructions, by the likelihood's function `errors` or `deviance`."""
    codes = rows_of.encode(module, table, device)
    compare = rows_of.errors if name == "errors" else rows_of.deviance
    return compare(module, table, codes, device)


def n_references(n_features: int, n_bytes: float) -> int:
    """Most rows that are kept where they may take so many bytes."""
    return int(np.clip(min(_MOST_BYTES, n_bytes) // (4 * n_features), _FEWEST_REFERENCES, _MOST_REFERENCES))


def room_for_rows(module: nn.Module, optimizer_state: Any, others: Iterable[Any]) -> float:
    """Bytes that rows may take, such that what is saved beside weights and optimizer is half as large and 200 kB at most.

    Parameters
    ----------
    module : LatentModule
    optimizer_state : object
        As plain data.
    others : iterable
        What else is saved; counted is what knows its `n_bytes`.
    """
    weights = n_bytes_of(dict(module.named_parameters()))
    beside = n_bytes_of(module.state_dict()) - weights + sum(getattr(value, "n_bytes", 0) for value in others)
    return _ROOM + 0.5 * (weights + n_bytes_of(optimizer_state)) - beside


def keep_rows(
    module: nn.Module, table: Table, n_bytes: float, seed: int, earlier: KeptRows | None = None, share: float = 1.0
) -> KeptRows:
    """Draw the rows of a table to keep, of a stream those of earlier calls among them.

    Parameters
    ----------
    module : LatentModule
    table : Table
    n_bytes : float
        That they may take.
    seed : int
    earlier : KeptRows, optional
        Of the calls before.
    share : float, default=1.0
        Weight of the table's rows.
    """
    n_most = n_references(table.n_features, n_bytes)
    drawn = np.sort(np.random.default_rng(seed).permutation(table.n_rows)[:n_most])
    kept = KeptRows.of(module, table.take(drawn))
    return kept if earlier is None or share == 1.0 else earlier.joined(kept, share, seed, n_most)


class NeighborDistance:
    r"""Expected squared distance to the nearest of some references that are drawn at random.

    Rows are compared by :math:`u = (x, \sqrt{\lambda}\,e / s)`: themselves and their residuals, the latter in units of their
    standard deviation over the references, but no less than `floor`.

    Parameters
    ----------
    n_drawn : float
        How many references are drawn.
    largest_share : float
        Largest share of those there are that is drawn.
    error_weight : float
        The :math:`\lambda` of the residuals.
    floor : float
        Smallest standard deviation of residuals, in the likelihood's comparable units.

    References
    ----------
    .. [1] Pang, Ting and Albrecht, "LeSiNN: detecting anomalies by identifying least similar nearest neighbours", ICDM
       Workshops 2015.
    .. [2] Sugiyama and Borgwardt, "Rapid distance-based outlier detection via sampling", NIPS 2013.
    """

    entries: ClassVar[str] = "errors"
    occludes: ClassVar[bool] = True
    _least_weight = 1e-12  # references that are the nearest less often are left out

    def __init__(self, n_drawn: float = 96.0, largest_share: float = 0.25, error_weight: float = 0.3, floor: float = 0.03):
        self.n_drawn, self.largest_share, self.error_weight, self.floor = n_drawn, largest_share, error_weight, floor

    def fit(self, references: References) -> NeighborDistance:
        """Measure the residuals and keep the references."""
        x, error, weight, _ = references
        error = error.astype(np.float64)
        share = weight / weight.sum()
        column = share[:, np.newaxis]
        scale = np.sqrt((column * (error - (column * error).sum(axis=0)) ** 2).sum(axis=0))
        factor = np.sqrt(self.error_weight) / np.maximum(scale, self.floor)
        self._factor = np.concatenate([np.ones(x.shape[1]), factor])
        self._references = np.hstack([x, error]) * self._factor
        self._share = None if np.all(weight == weight[0]) else share
        self._power = min(self.n_drawn, max(1.0, self.largest_share * len(x)))
        if self._share is None:
            self._weights = self._nearest(np.arange(1, len(x) + 1) / len(x))
        return self

    def _nearest(self, cumulated: np.ndarray) -> np.ndarray:
        """Probability of each reference to be the nearest of those drawn, from the shares of all that are as near or nearer."""
        beyond = np.maximum(1.0 - cumulated, 0.0) ** self._power
        beyond[..., -1] = 0.0  # whatever the rounding
        weights = -np.diff(beyond, axis=-1, prepend=1.0)
        return np.where(weights < self._least_weight, 0.0, weights)

    def _weighted(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Order of the references from the nearest on, and their weights."""
        order = np.argsort(distance, axis=-1, kind="stable")
        weights = self._weights if self._share is None else self._nearest(np.cumsum(self._share[order], axis=-1))
        return order, weights

    def score(self, values: np.ndarray) -> np.ndarray:
        """Score of rows, from `Likelihood.errors`."""
        distance = cdist(values * self._factor, self._references, "sqeuclidean")
        if self._share is None:
            distance.sort(axis=1)
            return (distance * self._weights).sum(axis=1)
        order, weights = self._weighted(distance)
        return (np.take_along_axis(distance, order, axis=1) * weights).sum(axis=1)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Share of every column in the distances: that of its entry and of its residual."""
        u = values * self._factor
        order, weights = self._weighted(cdist(u, self._references, "sqeuclidean"))
        weights = np.broadcast_to(weights, order.shape)
        shares = np.empty(u.shape)
        for i, row in enumerate(u):
            counts = weights[i] > 0.0
            apart = self._references[order[i, counts]] - row
            apart *= apart
            apart *= weights[i, counts, np.newaxis]
            apart.sum(axis=0, out=shares[i])
        return _per_column(shares)


class MahalanobisDistance:
    r"""Squared Mahalanobis distance of rows' reconstructions and residuals from those of the references.

    One covariance of both, :math:`\Sigma`, is shrunk towards a multiple of the identity [1]_. Where there are more numbers in a
    row than references, it is only known along these, and what lies beside them is divided by that multiple alone. The distance
    is the squared length of :math:`w = \Sigma^{-1/2}(v - \mu)` with the symmetric root, and a column's share is what its
    two entries of `w` have in it [2]_.

    Parameters
    ----------
    least_shrinkage : float
        Smallest share of the identity.

    References
    ----------
    .. [1] Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate
       Analysis 88, 2004.
    .. [2] Garthwaite and Koch, "Evaluating the contributions of individual variables to a quadratic form", Australian & New
       Zealand Journal of Statistics 58, 2016.
    """

    entries: ClassVar[str] = "errors"
    occludes: ClassVar[bool] = True

    def __init__(self, least_shrinkage: float = 1e-4):
        self.least_shrinkage = least_shrinkage

    @staticmethod
    def _read(values: np.ndarray) -> np.ndarray:
        """Reconstructions and residuals, side by side."""
        x, error = np.hsplit(values, 2)
        return np.hstack([x - error, error])

    def fit(self, references: References) -> MahalanobisDistance:
        """Measure the covariance."""
        v = self._read(np.hstack([references.x, references.error]).astype(np.float64))
        share = references.weight / references.weight.sum()
        self._mean = share @ v
        centered = v - self._mean
        # From the smaller of two matrices with the same eigenvalues.
        root = centered * np.sqrt(share)[:, np.newaxis]
        wide = root.shape[1] > root.shape[0]
        variance, vectors = np.linalg.eigh(root @ root.T if wide else root.T @ root)
        variance = np.maximum(variance, 0.0)
        kept = variance > 1e-10 * max(variance.max(), 1e-300)
        variance, vectors = variance[kept], vectors[:, kept]
        axes = (root.T @ vectors / np.sqrt(variance)).T if wide else vectors.T
        width, trace = v.shape[1], variance.sum()
        level = trace / width if trace > 0.0 else 1.0
        spread = (variance**2).sum() - trace**2 / width  # squared Frobenius norm of the covariance beside its mean variance
        along = ((centered @ axes.T) ** 2 @ variance) @ share**2
        error = ((centered**2).sum(axis=1) ** 2) @ share**2 - 2.0 * along + (variance**2).sum() * (share**2).sum()
        shrinkage = max(min(error, spread) / spread if spread > 0.0 else 1.0, self.least_shrinkage)
        beside = shrinkage * level
        self._axes = np.ascontiguousarray(axes)
        self._beside = beside**-0.5
        self._along = ((1.0 - shrinkage) * variance + beside) ** -0.5 - self._beside
        return self

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Squared entries of the whitened row, those of a column together."""
        centered = self._read(values) - self._mean
        scores = np.einsum("nj,kj->nk", centered, self._axes) * self._along
        return _per_column((np.einsum("nk,kj->nj", scores, self._axes) + self._beside * centered) ** 2)

    def score(self, values: np.ndarray) -> np.ndarray:
        """Squared length of the whitened row."""
        return self.shares(values).sum(axis=1)


class Deviance:
    """Nats by which the likelihood of rows, given their reconstruction, falls short of the best possible."""

    entries: ClassVar[str] = "deviance"
    occludes: ClassVar[bool] = False

    def fit(self, references: References) -> Deviance:
        """Do nothing: all is known to the likelihood."""
        return self

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Return the deviance of every entry."""
        return values

    def score(self, values: np.ndarray) -> np.ndarray:
        """Return their sum."""
        return values.sum(axis=1)


class Surprise:
    r"""How rare it is that an entry fits as badly to what the model makes of the others of its row.

    Entries are as improbable as their nats say, see `rows.repaired_nats`, which mean more in columns that the model foretells
    well than in others. They are therefore measured by those of the references: an entry's *rarity* is the negative logarithm of
    the share of these that are at least as improbable, see `Rarity`. The score is the sum of their squares, which lies between
    the sum, where much that is a little odd hides what is very odd, and the largest alone.

    A wrong entry may spoil what is made of others. So the score is shared out in proportion to the rarity of an entry and what
    those of the other entries, in the row as it is, lose altogether when the entry is replaced. Of more than `MAX_OCCLUDED`
    columns, shares are the terms of the sum.
    """

    entries: ClassVar[str] = "surprise"
    occludes: ClassVar[bool] = False

    def fit(self, references: References) -> Surprise:
        """Measure the references' nats, in rows as they are and given the other entries."""
        assert references.nats is not None
        as_they_are, given_others = references.nats.swapaxes(0, 1)
        self._as_they_are, self._given_others = (Rarity(nats, references.weight) for nats in (as_they_are, given_others))
        return self

    def score(self, values: np.ndarray) -> np.ndarray:
        """Score of rows, from `rows.repaired_nats`."""
        return (self._given_others.of(values[:, 1]) ** 2).sum(axis=1)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Share the score out; the values have those of all entries for every column that is replaced, or nothing more."""
        own, replaced = self._given_others.of(values[:, 1]), values[:, 2:]
        squares = own**2
        if not replaced.shape[1]:
            return squares
        before, after = self._as_they_are.of(values[:, 0]), self._as_they_are.of(replaced)
        columns = np.arange(own.shape[1])
        after[:, columns, columns] = before  # of the others alone
        parts = own + np.maximum(before.sum(axis=1, keepdims=True) - after.sum(axis=2), 0.0)
        parts[np.isnan(values[:, 1])] = 0.0
        total = parts.sum(axis=1, keepdims=True)
        return squares.sum(axis=1, keepdims=True) * (parts / np.where(total > 0.0, total, 1.0))


class Rarity:
    r"""Negative logarithms of the shares of references that have at least such values, column by column.

    Shares are those of the references themselves and, in the `tail` of the largest, by an exponential distribution with the same
    mean, at least `least_scale`: nats that hardly differ do not count as different.

    Parameters
    ----------
    values : ndarray of shape (n_references, n_features)
        NaN where they are missing.
    weight : ndarray of shape (n_references,)
    tail : float
        Share of the references by which an exponential distribution is fitted.
    fewest : int
        References that it is fitted to at least, but no more than half of those there are.
    least_scale : float
        Smallest mean of that distribution.
    """

    def __init__(self, values: np.ndarray, weight: np.ndarray, tail: float = 0.2, fewest: int = 5, least_scale: float = 1.0):
        self.tail, self.fewest, self.least_scale = tail, fewest, least_scale
        there = ~np.isnan(values)
        self._columns = [self._tail(own[seen], weight[seen]) for own, seen in zip(values.T, there.T, strict=True)]

    def _tail(self, values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float, float] | None:
        """Values in rising order and their rarities, the one that the tail begins at, its rarity there and its mean beyond."""
        if not len(values):
            return None
        levels, place = np.unique(values, return_inverse=True)
        mass = np.bincount(place, weight)
        beyond = np.minimum(np.cumsum(mass[::-1])[::-1] / mass.sum(), 1.0)
        share = max(self.tail, min(self.fewest / len(values), 0.5))
        start = int(np.flatnonzero(beyond >= share - 1e-9)[-1])
        mean = float(np.average(levels[start:] - levels[start], weights=mass[start:]))
        rarity = -np.log(beyond)
        return levels, rarity, float(levels[start]), float(rarity[start]), max(mean, self.least_scale)

    def of(self, values: np.ndarray) -> np.ndarray:
        """Rarity of values ``(..., n_features)``, zero where they are missing or nothing is known of their column."""
        found = np.zeros(values.shape)
        for j, known in enumerate(self._columns):
            if known is None:
                continue
            own = values[..., j]
            levels, rarity, start, first, mean = known
            place = np.minimum(np.searchsorted(levels, own, side="left"), len(levels) - 1)
            found[..., j] = np.where(own > start, first + (own - start) / mean, rarity[place])
        return np.where(np.isnan(values), 0.0, found)


def _per_column(parts: np.ndarray) -> np.ndarray:
    """Add up what a column has twice: for itself, or its reconstruction, and for its residual."""
    first, second = np.hsplit(parts, 2)
    return first + second


METHODS: dict[str, type] = {
    "neighbors": NeighborDistance,
    "reconstruction": Deviance,
    "mahalanobis": MahalanobisDistance,
    "surprise": Surprise,
}


class Scorer:
    """A method at work on rows in the units of the data, block by block.

    Parameters
    ----------
    name : str
        A name in `METHODS`.
    references : References
    module : LatentModule
        Reconstructs the rows.
    device : torch.device
    """

    def __init__(self, name: str, references: References, module: nn.Module, device: torch.device):
        self._method = METHODS[name]().fit(references)
        self._module, self._device = module, device

    def score(self, table: Table) -> np.ndarray:
        """Scores of rows, ``(n_samples,)``."""
        return np.concatenate([self._method.score(self._values(block)) for block in self._blocks(table)])

    def shares(self, table: Table) -> np.ndarray:
        """Shares of the columns in the scores of rows, ``(n_samples, n_features)``."""
        if self._method.occludes and table.n_features <= MAX_OCCLUDED:
            return np.concatenate([self._occlude(block) for block in self._blocks(table, copies=table.n_features)])
        if self._method.entries == "surprise" and table.n_features <= MAX_OCCLUDED:
            blocks = self._blocks(table, copies=table.n_features)
            return np.concatenate([self._method.shares(self._surprises(block, of_others=True)) for block in blocks])
        return np.concatenate([self._parts(self._values(block), table.n_features) for block in self._blocks(table)])

    def _parts(self, values: np.ndarray, n_columns: int) -> np.ndarray:
        """Share a score out by its parts, and add up those of the numbers that networks read of one column."""
        parts = self._method.shares(values)
        owner = self._module.likelihood.spread(torch.arange(n_columns, device=self._device)).cpu().numpy()
        if self._method.entries != "errors" or np.array_equal(owner, np.arange(n_columns)):
            return parts
        return parts @ (owner[:, np.newaxis] == np.arange(n_columns))

    def _values(self, table: Table) -> np.ndarray:
        if self._method.entries == "surprise":
            return self._surprises(table)
        return reconstruction_entries(self._module, self._method.entries, table, self._device)

    def _surprises(self, table: Table, *, of_others: bool = False) -> np.ndarray:
        return rows_of.repaired_nats(self._module, table, self._device, n_groups=MAX_OCCLUDED, of_others=of_others)

    def _blocks(self, table: Table, copies: int = 1) -> Iterator[Table]:
        """Parts of a table, of as many rows as leave room for their distances from the references."""
        for rows in row_blocks(table.n_rows, copies * (4 * self._module.likelihood.n_inputs + _MOST_REFERENCES)):
            yield table.take(rows)

    def _occlude(self, table: Table) -> np.ndarray:
        """Share a score out by its drops when one column takes its reconstructed value."""
        X = table.source.read(slice(None))
        n_rows, n_columns = X.shape
        values = self._values(table)
        score = self._method.score(values)[:, np.newaxis]
        repaired = np.repeat(X, n_columns, axis=0)
        codes = rows_of.encode(self._module, table, self._device)
        reconstructed = rows_of.decode(self._module, codes, self._device, table.condition)
        repaired[np.arange(X.size), np.tile(np.arange(n_columns), n_rows)] = reconstructed.ravel()
        condition = None if table.condition is None else np.repeat(table.condition, n_columns, axis=0)
        repaired_scores = self._method.score(self._values(Table.of(repaired, condition=condition)))
        drop = np.maximum(score - repaired_scores.reshape(n_rows, n_columns), 0.0)
        total = drop.sum(axis=1, keepdims=True)
        shares = score * (drop / np.where(total > 0.0, total, 1.0))
        idle = total[:, 0] == 0.0
        if idle.any():
            shares[idle] = self._parts(values[idle], n_columns)
        return shares
