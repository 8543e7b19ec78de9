"""What a likelihood has to know about the columns of a table before it can be trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skvae._spec import and_more
from skvae.data.moments import column_moments
from skvae.data.sources import as_source

_SAMPLE_ROWS, _MIN_SAMPLE_ROWS = 4096, 64  # rows looked at for the resolution of a column
_SAMPLE_NUMBERS = 2**23  # fewer rows of a wide table
_UNION_ROWS = 256  # rows looked at for a grid that all columns share
_MAX_LEVELS = 1024  # values that pixels of one device may take at most
_MIN_SHARED_COLUMNS = 16
_RELATIVE_FLOOR = 0.01


class SpreadError(ValueError):
    """The spread of some columns overflows or underflows.

    Parameters
    ----------
    columns : list
        Their positions, or names.
    size : str
        "large" or "small".
    table : str
        What they are columns of.
    """

    def __init__(self, columns: list[Any], size: str, table: str = "X"):
        super().__init__(columns, size, table)
        self.columns, self.size, self.table = columns, size, table

    def __str__(self) -> str:
        return (
            f"The spread of column(s) {self.columns[:5]}{and_more(self.columns, 5)} of {self.table} is too {self.size} to be "
            "computed in double precision; divide them by a constant first."
        )

    def named(self, name: Callable[[Any], Any], table: str) -> SpreadError:
        """Return the same error about columns that are called something else."""
        return SpreadError([name(column) for column in self.columns], self.size, table)


@dataclass(frozen=True)
class ColumnStatistics:
    """Location, scale and resolution of every column of a table.

    Attributes
    ----------
    shift : ndarray of shape (n_features,)
        Weighted means; the value itself where a column is constant.
    std : ndarray of shape (n_features,)
        Weighted standard deviations; of all columns together where they share a unit, and 1 where a column is constant.
    scale : ndarray of shape (n_features,)
        What a standardized unit is worth in the units of the data: `std`, but no less than the resolution supports, so
        that a column which hardly ever moves does not reach a network as a spike.
    floor : ndarray of shape (n_features,)
        Smallest standard deviation of the noise that the data can support, in the units of the data.
    constant : ndarray of bool, shape (n_features,)
    minimum, maximum : ndarray of shape (n_features,)
    mean, spread : ndarray of shape (n_features,)
        Weighted means and standard deviations of each column alone; the latter 0 where it is constant.

    Entries that are NaN are missing, and left out of everything.
    shared_unit : bool
        The columns are measurements of one kind on one grid, as pixels are.
    """

    shift: NDArray[np.float64]
    std: NDArray[np.float64]
    scale: NDArray[np.float64]
    floor: NDArray[np.float64]
    constant: NDArray[np.bool_]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    shared_unit: bool

    @classmethod
    def of(cls, X: Any, sample_weight: NDArray[np.float64] | None = None, *, shared: bool | None = None) -> ColumnStatistics:
        """Measure the columns of `X`.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
        sample_weight : ndarray of shape (n_samples,), optional
        shared : bool, optional
            Treat the columns as sharing one unit, or not; found out from the data by default.

        Returns
        -------
        ColumnStatistics

        Raises
        ------
        SpreadError
            If a column's spread overflows or underflows.
        """
        source = as_source(X)
        mean, variance, low, high = column_moments(source, sample_weight)
        _check_spread(variance, low, high)
        std = np.sqrt(variance)
        # Values that differ by rounding alone are one value.
        precision = np.finfo(source.dtype if source.dtype.kind == "f" else np.float64).eps
        constant = high - low <= 8 * precision * np.maximum(np.abs(low), np.abs(high))
        n_rows, n_features = source.shape
        stride = -(-n_rows // min(_SAMPLE_ROWS, max(_MIN_SAMPLE_ROWS, _SAMPLE_NUMBERS // n_features)))
        sample = source.read_exactly(slice(None, None, stride))
        resolution = _resolution(sample)
        shared_unit = _share_a_unit(sample, low, high, constant) if shared is None else shared
        grid = resolution / np.sqrt(12.0)
        spread = np.where(constant, 0.0, std)
        if shared_unit and not constant.all():
            std = np.full_like(std, np.sqrt(np.mean(std**2)))
            scale = np.full_like(std, max(std[0], np.median(grid)))
        else:
            scale = np.maximum(std, grid)
            std[constant] = scale[constant] = 1.0
        floor = np.maximum(_RELATIVE_FLOOR * std, grid)
        # A constant column has no scale of its own: it takes the floor of a typical other one.
        floor[constant] = np.median(floor[~constant]) if not constant.all() else 1.0
        shift = np.where(constant, low, mean)
        return cls(shift, std, scale, floor, constant, low, high, mean, spread, shared_unit)

    def summary(self) -> dict[str, NDArray[np.float64]]:
        """Return what each column alone looks like, in the units of the data."""
        return {"mean": self.mean, "spread": self.spread, "low": self.minimum, "high": self.maximum}


def _check_spread(variance: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """Raise an error about columns whose spread overflows or underflows."""
    for failed, size in ((~np.isfinite(variance), "large"), ((variance == 0.0) & (low < high), "small")):
        if failed.any():
            raise SpreadError(np.flatnonzero(failed).tolist(), size)


def _resolution(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest gap between the values of each column that takes few distinct ones, 0 for the others."""
    ordered = np.sort(sample.T, axis=1)
    gaps = np.diff(ordered, axis=1)
    if gaps.shape[1] == 0:
        return np.zeros(len(ordered))
    span = np.fmax.reduce(ordered, axis=1, keepdims=True) - ordered[:, :1]  # NaN comes last
    distinct = gaps > 1e-7 * span  # differences of rounding do not count
    smallest = np.where(distinct, gaps, np.inf).min(axis=1)
    few = 2 * (distinct.sum(axis=1) + 1) <= np.maximum((~np.isnan(ordered)).sum(axis=1), 1)
    return np.where(few & np.isfinite(smallest), smallest, 0.0)


def _share_a_unit(
    sample: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    constant: NDArray[np.bool_],
) -> bool:
    """Whether many columns span the same range on few levels, as pixels do."""
    varying = ~constant
    if varying.sum() < _MIN_SHARED_COLUMNS:
        return False
    low, high = low[varying], high[varying]
    bottom, span = low.min(), high.max() - low.min()
    alike = (low <= bottom + 0.1 * span) & (high >= bottom + 0.9 * span)
    if alike.mean() < 0.5:
        return False
    looked_at = sample[:: -(-len(sample) // _UNION_ROWS), varying]
    n_levels = 1 + int((np.diff(np.unique(looked_at[~np.isnan(looked_at)])) > 1e-7 * span).sum())
    return n_levels <= min(_MAX_LEVELS, looked_at.size // 2)


def columns_are_correlated(standardized: NDArray[np.floating]) -> bool:
    """Whether the leading eigenvalue of the correlation matrix is larger than independent columns would give.

    The bound is the upper edge of the Marchenko-Pastur law, with a margin.

    Parameters
    ----------
    standardized : ndarray of shape (n_rows, n_features)

    Returns
    -------
    bool
    """
    n_rows = len(standardized)
    deviation = standardized - standardized.mean(axis=0)
    norms = np.sqrt((deviation**2).sum(axis=0))
    varying = norms > 0
    if varying.sum() < 2:
        return False
    deviation = deviation[:, varying] / norms[varying]
    vector = np.random.default_rng(0).standard_normal(deviation.shape[1])
    eigenvalue = 0.0
    for _ in range(30):
        vector /= np.linalg.norm(vector)
        vector = deviation.T @ (deviation @ vector)
        eigenvalue = float(np.linalg.norm(vector))
    edge = (1.0 + np.sqrt(varying.sum() / n_rows)) ** 2
    return bool(eigenvalue > 1.25 * edge)
