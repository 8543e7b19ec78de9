"""Partitions of rows by the graph of their neighbors: cells of codes are joined where rows lie close, up to gaps between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from skvae.data import dense
from skvae.data.columns import ColumnStatistics
from skvae.estimators._neighbors import find_neighbors, weigh_edges

MOST_COLUMNS = 50  # principal components by which rows are near each other
_RESOLUTION = 0.5  # how much sizes count beside the ties between groups
_CELLS, _ROWS_PER_CELL = (5, 10), 8  # cells a cluster, and the fewest rows of one on average
_MOST_CELLS = 150
_STARTS = 2  # divisions into as many cells
_MOVES = 30  # rounds of moving single cells
# What sqrt(n) times the dip must exceed for a gap, of all rows and of the halves that are nearest: one pair or the other.
_DIPS = ((0.6, 0.45), (1.0, 0.38))
_DOUBTFUL = 0.5  # dip from which on it is doubtful that two groups are one
_TIES = 0.05  # the largest share of the ties of a group across a gap
_NEARBY = 5  # rows of another group by which a row is near it
_OUTLIERS = 30  # most rows without any ties to others that may still be no cluster
_GAPS_COUNT = 0.005  # quality by which partitions along gaps may fall short of others
_FEWEST, _MOST = 8, 2000  # rows of a group whose gap to another is looked for, and looked at
_SHARED_RANGE = 0.5  # of the widest column, that half of the columns have where all are in one unit


@dataclass
class Rows:
    """Rows that differ from each other, and how they lie.

    Attributes
    ----------
    points : ndarray of shape (n_distinct, n_columns)
        Principal components of the rows.
    mass : ndarray of shape (n_distinct,)
        Weights of all rows that equal each.
    ties : CSR matrix of shape (n_distinct, n_distinct)
        Weights of the graph of neighbors, times the masses at both ends.
    connects : bool
        Whether there are so many neighbors that a cloud does not come apart.
    count : ndarray of int, shape (n_distinct,), or None
        How many rows equal each, itself among them; None where nobody has counted.
    """

    points: np.ndarray
    mass: np.ndarray
    ties: Any
    connects: bool = False
    count: np.ndarray | None = None

    @classmethod
    def of(cls, points: np.ndarray, mass: np.ndarray, n_neighbors: int, distance: Any = None) -> Rows:
        """Look for the neighbors of points, unless their distances are known."""
        n_neighbors = min(n_neighbors, len(points) - 1)
        if not n_neighbors:
            return cls(points, mass, sparse.csr_matrix((1, 1)))
        distance = find_neighbors(points, n_neighbors, "euclidean")[0] if distance is None else distance
        edges = weigh_edges(distance, n_neighbors)
        scale = sparse.diags(mass / mass.mean())
        return cls(points, mass, (scale @ edges @ scale).tocsr(), n_neighbors > np.log(len(points)))


def scaled(x: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Columns in units of their standard deviations, or in one unit where they share it: where their ranges are alike."""
    columns = ColumnStatistics.of(x, mass)
    if not columns.shared_unit and _are_alike(columns.maximum - columns.minimum):
        columns = ColumnStatistics.of(x, mass, shared=True)
    return (x - columns.shift) / columns.scale


def _are_alike(ranges: np.ndarray) -> bool:
    varying = ranges[ranges > 0.0]
    return len(varying) > 0 and bool(np.mean(varying >= _SHARED_RANGE * varying.max()) >= 0.5)


def principal(x: np.ndarray, seed: int) -> np.ndarray:
    """Principal components, as many as there are and no more than a few."""
    n_kept = min(MOST_COLUMNS, *x.shape)
    wide = min(x.shape) > 20 * MOST_COLUMNS
    pca = PCA(n_kept, svd_solver="randomized" if wide else "full", random_state=seed)
    with np.errstate(invalid="ignore"):  # of rows that do not differ, whose variance is divided by itself
        return pca.set_output(transform="default").fit_transform(x)  # an array, whatever scikit-learn is set to


def shows_gaps(n_distinct: int) -> bool:
    """Whether there are so many different rows that gaps between groups of them can be looked for."""
    return n_distinct >= 2 * _FEWEST


# -- groups of cells --------------------------------------------------------------------------------------------------


@dataclass
class Cells:
    """Small groups of rows, of which clusters are put together.

    Attributes
    ----------
    which : ndarray of int, shape (n_distinct,)
        The cell of each row.
    ties : ndarray of shape (n_cells, n_cells)
        Weights of the edges between the rows of two cells, as shares of all.
    size : ndarray of shape (n_cells,)
        Shares of the rows.
    """

    which: np.ndarray
    ties: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, rows: Rows, codes: np.ndarray, n_cells: int, seed: int) -> Cells:
        """Divide rows by their codes."""
        n_cells = min(n_cells, len(np.unique(codes, axis=0)))
        found = KMeans(n_cells, n_init=1, random_state=seed).fit(codes, sample_weight=rows.mass).labels_
        which = np.unique(found, return_inverse=True)[1].ravel()
        return cls(which, *_shares(rows, which))

    @classmethod
    def single(cls, rows: Rows) -> Cells:
        """Make a cell of each row."""
        which = np.arange(len(rows.points))
        return cls(which, *_shares(rows, which))

    def quality(self, groups: np.ndarray) -> float:
        """Share of the ties that lie within groups, less how unequal these are in size."""
        member = np.eye(groups.max() + 1)[groups]
        within = np.einsum("ig,ij,jg->", member, self.ties, member)
        return float(within - _RESOLUTION * np.sum((self.size @ member) ** 2))


def _shares(rows: Rows, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    member = sparse.csr_matrix((np.ones(len(which)), (np.arange(len(which)), which)))
    ties = dense(member.T @ rows.ties @ member)
    size = np.bincount(which, weights=rows.mass)
    return ties / max(ties.sum(), np.finfo(float).tiny), size / size.sum()


class _Groups:
    """Cells that are joined, two groups at a time."""

    def __init__(self, cells: Cells):
        self.ties, self.size = cells.ties.copy(), cells.size.copy()
        self.of_cell = np.arange(len(self.size))
        self.alive = np.ones(len(self.size), dtype=bool)

    def gain(self) -> np.ndarray:
        """By how much `Cells.quality` grows, halved, where two groups are joined."""
        gain = self.ties - _RESOLUTION * np.outer(self.size, self.size)
        gain[~self.alive] = gain[:, ~self.alive] = -np.inf
        np.fill_diagonal(gain, -np.inf)
        return gain

    def join(self, first: int, second: int) -> None:
        self.ties[first] += self.ties[second]
        self.ties[:, first] += self.ties[:, second]
        self.size[first] += self.size[second]
        self.alive[second] = False
        self.of_cell[self.of_cell == second] = first

    def labels(self) -> np.ndarray:
        """Group of each cell, from 0."""
        return np.unique(self.of_cell, return_inverse=True)[1].ravel()


def _best(gain: np.ndarray) -> tuple[int, int]:
    first, second = np.unravel_index(int(gain.argmax()), gain.shape)
    return min(int(first), int(second)), max(int(first), int(second))


def join_into(cells: Cells, n_groups: int) -> np.ndarray:
    """Join cells into as many groups, ``(n_cells,)``."""
    groups = _Groups(cells)
    for _ in range(len(cells.size) - n_groups):
        groups.join(*_best(groups.gain()))
    return _moved(cells, groups.labels())


def join_along(cells: Cells, island: np.ndarray, n_groups: int) -> np.ndarray:
    """Join cells into as many groups, those of one island before any two with a gap between them, ``(n_cells,)``."""
    groups = _Groups(cells)
    while groups.alive.sum() > n_groups:
        gain = groups.gain()
        within = np.where(island[:, np.newaxis] == island, gain, -np.inf)
        groups.join(*_best(within if np.isfinite(within).any() else gain))
    return groups.labels()


def _moved(cells: Cells, labels: np.ndarray) -> np.ndarray:
    """Move single cells to the groups where they belong better, none of which is left empty."""
    member = np.eye(labels.max() + 1)[labels]
    ties = cells.ties - np.diag(np.diag(cells.ties))
    size, count = cells.size @ member, member.sum(axis=0)
    labels = labels.copy()
    for _ in range(_MOVES):
        moved = False
        for cell, own in enumerate(labels):
            if count[own] == 1:
                continue
            share = cells.size[cell]
            gain = ties[cell] @ member - _RESOLUTION * share * size
            gain[own] += _RESOLUTION * share**2
            best = int(gain.argmax())
            if gain[best] > gain[own] + 1e-12:
                member[cell, own], member[cell, best] = 0.0, 1.0
                size[own] -= share
                size[best] += share
                count[own] -= 1
                count[best] += 1
                labels[cell], moved = best, True
        if not moved:
            break
    return labels


# -- gaps -------------------------------------------------------------------------------------------------------------


@dataclass
class Gap:
    """How deep the gap between two groups is.

    Attributes
    ----------
    dip : float
        The dip of the rows across it, times the square root of their number.
    nearby : float
        The same of the halves of both groups that lie next to each other.
    ties : float
        Share of the smaller group's ties that go across.
    """

    dip: float
    nearby: float
    ties: float

    @property
    def parts(self) -> bool:
        """Whether it parts clusters."""
        is_deep = any(self.dip > least and self.nearby > least_nearby for least, least_nearby in _DIPS)
        return is_deep and self.ties < _TIES


def join_up_to_gaps(rows: Rows, codes: np.ndarray, cells: Cells, most: int, seed: int) -> np.ndarray:
    """Join cells until there are gaps between all groups, and no more groups than asked for, ``(n_distinct,)``.

    Where it was doubtful whether two groups should be joined, what comes next is compared with each of them as well: a group of
    several hides gaps that there are to every one.
    """
    groups, random = _Groups(cells), np.random.default_rng(seed)
    n_cells = len(cells.size)
    may_join = np.ones((n_cells, n_cells), dtype=bool)
    parts = {cell: [np.flatnonzero(cells.which == cell)] for cell in range(n_cells)}
    while groups.alive.sum() > 1:
        gain = groups.gain()
        gain[~may_join | ~_neighboring(groups, rows, cells)] = -np.inf
        first, second = _best(gain)
        if gain[first, second] == -np.inf:
            break
        across = groups.ties[first, second] / max(groups.ties[[first, second]].sum(axis=1).min(), np.finfo(float).tiny)
        members = [np.concatenate(parts[group]) for group in (first, second)]
        gap = find_gap(rows.points, codes, *members, across, random)
        if gap.parts or _is_apart(rows, codes, parts[first], parts[second], across, random):
            may_join[first, second] = may_join[second, first] = False
            continue
        groups.join(first, second)
        parts[first] = parts[first] + parts.pop(second) if gap.dip > _DOUBTFUL else [np.concatenate(members)]
        may_join[first] = may_join[:, first] = True
    while groups.alive.sum() > most:
        groups.join(*_best(groups.gain()))
    return groups.labels()[cells.which]


def _is_apart(rows: Rows, codes: np.ndarray, first: list, second: list, ties: float, random: np.random.Generator) -> bool:
    """Whether there are gaps between all parts of two groups, of which at least one has several."""
    if len(first) == len(second) == 1:
        return False
    points = rows.points
    return all(find_gap(points, codes, one, other, ties, random).parts for one in first for other in second)


def _neighboring(groups: _Groups, rows: Rows, cells: Cells) -> np.ndarray:
    """Which groups have ties; those that have none at all may belong to the nearest, unless they are too large for outliers."""
    tied = groups.ties > 0.0
    alone = groups.alive & ~(tied & groups.alive & ~np.eye(len(tied), dtype=bool)).any(axis=1)
    if alone.any():
        which = groups.of_cell[cells.which]
        if rows.connects:
            alone &= np.bincount(which, minlength=len(tied)) <= _OUTLIERS
        mass = np.maximum(np.bincount(which, minlength=len(tied)), 1)
        center = np.stack([np.bincount(which, column, len(tied)) for column in rows.points.T], axis=1) / mass[:, np.newaxis]
        square = np.square(center[:, np.newaxis] - center).sum(axis=2)
        square[~groups.alive] = square[:, ~groups.alive] = np.inf
        np.fill_diagonal(square, np.inf)
        for group in np.flatnonzero(alone):
            nearest = square[group].argmin()
            tied[group, nearest] = tied[nearest, group] = True
    return tied


def find_gap(
    points: np.ndarray, codes: np.ndarray, first: np.ndarray, second: np.ndarray, ties: float, random: np.random.Generator
) -> Gap:
    """Look for a gap between two groups of rows, given by their positions.

    Rows are looked at along the direction that separates the groups best, which other rows have decided: for one that was found
    by the same rows shows gaps where there are none. Of the larger group, only those count that are near the smaller.
    """
    first, second = sorted((first, second), key=len)
    if len(first) < _FEWEST:
        return Gap(0.0, 0.0, ties)
    parts = [part[np.sort(random.permutation(len(part))[:_MOST])] for part in (first, second)]
    halves = [random.permutation(len(part)) % 2 == 0 for part in parts]
    projected = []  # rows of both halves of both groups, along the direction that the other halves decide
    for flip in (False, True):
        direction = _separating(*(points[part[half ^ flip]] for part, half in zip(parts, halves, strict=True)))
        projected.append([points[part] @ direction for part in parts])
    looked_at = [[~half, half] for half in halves]
    dip = _mean_dip(projected, looked_at)
    if dip <= _DIPS[0][0] or ties >= _TIES:
        return Gap(dip, 0.0, ties)
    n_near = max(len(parts[0]) // 2, _FEWEST)
    away = [_distance(codes[one], codes[other]) for one, other in (parts, parts[::-1])]
    near = [np.argsort(np.argsort(distance, kind="stable")) < n_near * (1 + i) for i, distance in enumerate(away)]
    nearby = [[half & close for half in both] for both, close in zip(looked_at, near, strict=True)]
    return Gap(dip, _mean_dip(projected, nearby), ties)


def _distance(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean distance to the nearest few of others."""
    search = NearestNeighbors(n_neighbors=min(_NEARBY, len(others))).fit(others)
    return search.kneighbors(codes)[0].mean(axis=1)


def _mean_dip(projected: list[list[np.ndarray]], chosen: list[list[np.ndarray]]) -> float:
    """Dip of the rows of two groups, times the square root of their number, on average over two halves of them."""
    dips = []
    for i, (first, second) in enumerate(projected):
        near, far = first[chosen[0][i]], np.sort(second[chosen[1][i]])
        across = np.concatenate([near, far[: 2 * len(near)]])
        dips.append(np.sqrt(len(across)) * dip_of(across))
    return float(np.mean(dips))


def _separating(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Direction from one group to another, by Fisher's discriminant with a covariance that few rows change little."""
    means = first.mean(axis=0), second.mean(axis=0)
    width = first.shape[1]
    covariance = sum((part - mean).T @ (part - mean) / len(part) for part, mean in zip((first, second), means, strict=True)) / 2
    share = min(1.0, 0.5 * width / len(first))
    scale = max(np.trace(covariance) / width, np.finfo(float).tiny)
    covariance = (1.0 - share) * covariance + (share + 1e-9) * scale * np.eye(width)
    return np.linalg.solve(covariance, means[1] - means[0])


def dip_of(values: np.ndarray) -> float:
    """Hartigan's dip: the largest distance of a distribution function from the nearest with a single mode.

    Parameters
    ----------
    values : ndarray of shape (n,)

    Returns
    -------
    dip : float
        Between 1 / (2 n) and 1/4.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    n = len(x)
    if n < 4 or x[0] == x[-1]:
        return 0.5 / max(n, 1)
    below, above = _hull(x), (n - 1 - _hull(-x[::-1]))[::-1]
    low, high, largest = 0, n - 1, 1.0
    while True:
        lower, upper = [high], [low]
        while lower[-1] > low:
            lower.append(int(below[lower[-1]]))
        while upper[-1] < high:
            upper.append(int(above[upper[-1]]))
        minorant, majorant = np.array(lower[::-1]), np.array(upper)
        at_majorant = majorant + 1 - np.interp(x[majorant], x[minorant], minorant)
        at_minorant = np.interp(x[minorant], x[majorant], majorant) + 1 - minorant
        if at_majorant.max() > at_minorant.max():
            right = int(majorant[at_majorant.argmax()])
            left, apart = int(minorant[minorant <= right][-1]), at_majorant.max()
        else:
            left = int(minorant[at_minorant.argmax()])
            right, apart = int(majorant[majorant >= left][0]), at_minorant.max()
        if apart <= largest:
            return float(largest / (2 * n))
        for knots, sign in ((minorant[minorant <= left], 1.0), (majorant[majorant >= right], -1.0)):
            if len(knots) > 1:
                inside = np.arange(knots[0], knots[-1] + 1)
                largest = max(largest, float((sign * (inside - np.interp(x[inside], x[knots], knots)) + 1.0).max()))
        if (left, right) == (low, high):
            return float(largest / (2 * n))
        low, high = left, right


def _hull(x: np.ndarray) -> np.ndarray:
    """By position, the one before it on the convex minorant of the distribution function up to there."""
    before = np.zeros(len(x), dtype=int)
    for j in range(1, len(x)):
        before[j] = j - 1
        while True:
            a = before[j]
            b = before[a]
            if a == 0 or (x[j] - x[a]) * (a - b) < (x[a] - x[b]) * (j - a):
                break
            before[j] = b
    return before


def part_repeated(rows: Rows, most: int) -> np.ndarray | None:
    """Part rows that are too few to show gaps by those which come often, and have nothing around them, ``(n_distinct,)``.

    All others go with the nearest of these. None where there are no two of them, or gaps can be looked for.
    """
    if rows.count is None or shows_gaps(len(rows.count)):
        return None
    often = np.argsort(-rows.count, kind="stable")[:most]
    often = np.sort(often[rows.count[often] >= _FEWEST])
    if len(often) < 2:
        return None
    square = np.square(rows.points[:, np.newaxis] - rows.points[often]).sum(axis=2)
    square[often, np.arange(len(often))] = -1.0
    return square.argmin(axis=1)


# -- partitions -------------------------------------------------------------------------------------------------------


@dataclass
class Partition:
    """Groups of rows.

    Attributes
    ----------
    labels : ndarray of int, shape (n_distinct,)
    quality : float
        Share of the ties of rows within groups, less how unequal these are in size: the same for all codes of the same rows.
    islands : ndarray of int, shape (n_distinct,)
        Groups with gaps all around.
    """

    labels: np.ndarray
    quality: float
    islands: np.ndarray

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1


def divide(rows: Rows, codes: np.ndarray, n_groups: int | None, most: int, seed: int) -> list[Partition]:
    """Divide rows by their codes and their neighbors, in several ways.

    Parameters
    ----------
    rows : Rows
    codes : ndarray of shape (n_distinct, n_components)
    n_groups : int or None
        None has the gaps between rows decide.
    most : int
        Largest number of groups that gaps may decide on.
    seed : int
    """
    n_groups = None if n_groups is None else min(n_groups, len(codes))
    found, repeated = [], part_repeated(rows, most)
    for start in range(_STARTS):
        n_cells = min(max(_MOST_CELLS, 2 * max(most, n_groups or 1)), max(len(codes) // _ROWS_PER_CELL, n_groups or 1))
        cells = Cells.of(rows, codes, n_cells, seed + start) if repeated is None else Cells.single(rows)
        islands = join_up_to_gaps(rows, codes, cells, most, seed + start) if repeated is None else repeated
        own = islands[np.unique(cells.which, return_index=True)[1]]
        groups = own if n_groups is None else join_along(cells, own, n_groups)
        found.append(Partition(groups[cells.which], cells.quality(groups) + (n_groups is not None) * _GAPS_COUNT, islands))
    if n_groups is None:
        return found
    islands = choose(found, by_islands=True).islands
    if islands.max() + 1 == n_groups:  # what is asked for is what is there, however unequal
        return [each for each in found if each.islands.max() + 1 == n_groups]
    for times in _CELLS:
        for start in range(_STARTS):
            n_cells = max(n_groups, min(times * n_groups, len(codes) // _ROWS_PER_CELL))
            cells = Cells.of(rows, codes, n_cells, seed + start)
            groups = join_into(cells, n_groups)
            found.append(Partition(groups[cells.which], cells.quality(groups), islands))
    return found


def choose(found: list[Partition], *, by_islands: bool = False) -> Partition:
    """Return the best of the partitions into the median number of groups, which are islands if there are as many."""
    numbers = [int((each.islands if by_islands else each.labels).max()) for each in found]
    median = sorted(numbers)[(len(numbers) - 1) // 2]
    typical = [each for each, number in zip(found, numbers, strict=True) if number == median]
    return max(typical, key=lambda each: (each.labels.max() == each.islands.max(), each.quality))
