"""Which rows are held out of training, for a threshold to be read off, and how many."""

from __future__ import annotations

from math import floor
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.model_selection import GroupKFold, KFold, PredefinedSplit, check_cv

MIN_TRAINING = 2  # rows that an estimator of the package needs


class Part(NamedTuple):
    """Rows that an estimator is fitted to, those that it scores, and whether it is kept."""

    train: np.ndarray
    test: np.ndarray
    is_kept: bool


# -- how many rows ----------------------------------------------------------------------------------------------------


def least_rows(n_flagged: int, alpha: float) -> int:
    """Fewest calibration rows of which, with a new one, a share of at most `alpha` is this many."""
    n = max(floor(n_flagged / alpha) - 2, n_flagged)
    while n_flagged / (n + 1) > alpha:  # as p-values are compared, so that rounding cannot disagree
        n += 1
    return n


def snap(n_rows: int, alpha: float) -> int:
    """Most calibration rows, at most so many, whose number plus one times `alpha` is as good as whole."""
    n_flagged = floor(alpha * (n_rows + 1)) + 1
    while n_flagged and least_rows(n_flagged, alpha) > n_rows:
        n_flagged -= 1
    return least_rows(n_flagged, alpha) if n_flagged else n_rows


def most_held_out(n_rows: int) -> int:
    return min(2 * n_rows // 3, n_rows - MIN_TRAINING)


def rows_needed(need: int, fraction: float | str) -> int:
    """Fewest rows of which "split" holds out as many as are needed."""
    if fraction == "auto":
        return max(-(-3 * need // 2), need + MIN_TRAINING)
    n = max(need + MIN_TRAINING, floor((need - 1) / fraction))
    while round(fraction * n) < need:
        n += 1
    return n


def upper_quantile(scores: np.ndarray, weight: np.ndarray | None, share: float) -> float:
    """Score above which a share of the rows lies; a row of weight two is two of weight one."""
    if weight is None:
        return float(np.percentile(scores, 100.0 * (1.0 - share)))
    order = np.argsort(scores)
    last = np.cumsum(weight[order])
    first = last - weight[order]
    last -= weight.min()
    places = np.column_stack([first, last]).ravel()
    return float(np.interp((1.0 - share) * last[-1], places, np.repeat(scores[order], 2)))


def worth_of_a_row(scores: np.ndarray, groups: np.ndarray | None) -> float:
    """How many calibration rows a new one counts as.

    One; or more where scores of a group are alike, so that there are fewer independent ones than rows. Were all scores of
    a group one, a new row would come with a group of its own size, as many as the design effect; a threshold then lies by
    half of that too high on average, as there are so few places where it can lie. So it is midway between both.
    """
    if groups is None:
        return 1.0
    ranks = rankdata(scores) - (len(scores) + 1) / 2.0
    n_groups, variance = len(np.unique(groups)), float(ranks @ ranks)
    if n_groups < 2 or variance == 0.0:
        return 1.0
    effect = float((np.bincount(groups, ranks) ** 2).sum()) / variance * n_groups / (n_groups - 1)
    return 0.5 * (1.0 + max(1.0, effect))


# -- which rows -------------------------------------------------------------------------------------------------------


def check_groups(groups: Any, n_rows: int, rows: np.ndarray) -> np.ndarray | None:
    """Labels of the blocks that rows belong to, as numbers."""
    if groups is None:
        return None
    labels = np.asarray(groups)
    if labels.shape != (n_rows,):
        raise ValueError(f"groups has shape {labels.shape}, but X has {n_rows} rows: it must be one label for each.")
    try:
        missing = labels != labels
        numbers = np.unique(labels, return_inverse=True)[1].reshape(-1)
    except TypeError:
        raise ValueError(
            "groups has labels that cannot be compared, such as strings and numbers; they must be of one type."
        ) from None
    if np.any(missing):
        raise ValueError("groups has missing labels; every row belongs to a group.")
    if len(np.unique(numbers[rows])) < 2:
        raise ValueError(
            "groups has one label for all rows, but held-out rows are of other groups than those that train. Windows of "
            "one series are put in groups by skvae.sliding_windows(..., n_blocks=20)."
        )
    return numbers


def hold_out(
    rows: np.ndarray, groups: np.ndarray | None, n_held_out: int, n_groups: int, random: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows at random into those that train and those that are held out.

    So many are; or whole groups, until they are at least as many rows and so many groups, or half of the groups.
    """
    if groups is None:
        order = random.permutation(rows)
        return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
    labels, counts = np.unique(groups[rows], return_counts=True)
    order, total, chosen = random.permutation(len(labels)), 0, []
    n_groups = min(n_groups, len(labels) // 2)
    for i in order[:-1]:  # of which one trains
        if total >= n_held_out and len(chosen) >= n_groups:
            break
        if len(rows) - total - counts[i] >= MIN_TRAINING:
            chosen.append(labels[i])
            total += counts[i]
    is_held_out = np.isin(groups[rows], chosen)
    return rows[~is_held_out], rows[is_held_out]


def folds(rows: np.ndarray, groups: np.ndarray | None, n_folds: int, n_repeats: int, random: Any) -> tuple[list[Part], int]:
    """Divide rows, or their groups, into parts several times at random; return them and how often each row is held out."""
    n_groups = n_folds if groups is None else len(np.unique(groups[rows]))
    if n_groups < n_folds:
        raise ValueError(
            f"n_folds={n_folds} divides groups, but {n_groups} of them have rows with a positive weight; take fewer folds."
        )
    parts = []
    for _ in range(n_repeats):
        kind = KFold if groups is None else GroupKFold
        splitter = kind(n_folds, shuffle=True, random_state=random.randint(2**31 - 1))
        given = () if groups is None else (None, groups[rows])
        parts += [Part(rows[train], rows[test], i == 0) for i, (train, test) in enumerate(splitter.split(rows, *given))]
    return parts, n_repeats


def _pairs(splitter: Any, rows: np.ndarray, groups: np.ndarray | None) -> list[Any]:
    """List the pairs of positions by which a splitter divides rows, without labels to go by."""
    try:
        return list(splitter.split(rows, None, groups))
    except Exception as error:
        try:
            list(splitter.split(rows, np.arange(len(rows)) % 2, groups))
        except Exception:
            raise error from None
        raise ValueError(
            f"calibration={splitter!r} divides rows by their labels, but y is not used: to a detector all rows are normal. Take "
            "a splitter that needs no labels, such as KFold or GroupKFold."
        ) from error


def splits(splitter: Any, rows: np.ndarray, n_rows: int, groups: np.ndarray | None) -> tuple[list[Part], int]:
    """Divide rows as a splitter of scikit-learn does, or by pairs of positions; see `folds`."""
    found = []
    if isinstance(splitter, (list, tuple, PredefinedSplit)):  # which know the rows by their positions
        for train, test in check_cv(splitter).split(np.empty(n_rows)):
            pair = [np.flatnonzero(part) if np.asarray(part).dtype == bool else np.asarray(part) for part in (train, test)]
            for part in pair:
                if part.ndim != 1 or part.dtype.kind not in "iu" or not len(part) or part.min() < 0 or part.max() >= n_rows:
                    raise ValueError(f"calibration holds a split that is not made of positions from 0 to {n_rows - 1}.")
            found.append([np.intersect1d(part, rows) for part in pair])
    else:
        given = None if groups is None else groups[rows]
        found = [[rows[np.sort(part)] for part in pair] for pair in _pairs(splitter, rows, given)]
    rounds: list[np.ndarray] = []  # rows held out in each
    last: list[int] = []
    for i, (train, test) in enumerate(found):
        if np.intersect1d(train, test).size:
            raise ValueError(f"calibration has a split, number {i}, that holds out rows which it trains on, too.")
        if len(train) < MIN_TRAINING or not len(test):
            raise ValueError(
                f"calibration has a split, number {i}, with {len(train)} row(s) to train on and {len(test)} to hold out, "
                f"of those with a positive weight; at least {MIN_TRAINING} and 1 are needed."
            )
        if groups is not None and np.intersect1d(groups[train], groups[test]).size:
            raise ValueError(
                f"calibration={splitter!r} divides the rows of a group; groups are kept together by GroupKFold or "
                "GroupShuffleSplit, or by 'split' and 'cross'."
            )
        if rounds and not np.intersect1d(rounds[-1], test).size:
            rounds[-1], last[-1] = np.union1d(rounds[-1], test), i
        else:
            rounds.append(test)
            last.append(i)
    if not found:
        raise ValueError(f"calibration={splitter!r} has no split.")
    if any(not np.array_equal(np.sort(rounds[0]), np.sort(each)) for each in rounds[1:]):
        raise ValueError(
            f"calibration={splitter!r} holds some rows out more often than others, so that means over estimators would not "
            "compare: take one with n_splits=1, or one that holds every row out equally often, as GroupKFold does."
        )
    return [Part(train, test, i in last) for i, (train, test) in enumerate(found)], len(rounds)
