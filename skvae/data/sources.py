"""Where rows come from: the one place that knows how they are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound="Source")
BLOCK_BYTES = 2**24  # what one dense float64 block of rows may take
_LINE = 2048  # numbers that are added to others at once
_CACHED_NUMBERS = 2**16


def row_blocks(n_rows: int, n_features: int, n_numbers: int | None = None) -> Iterator[slice]:
    """Slices over the rows of a matrix, each of one row or of at most so many numbers, or such that a float64 block is small."""
    step = max(1, (BLOCK_BYTES // 8 if n_numbers is None else n_numbers) // max(1, n_features))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def total(values: NDArray[Any]) -> Any:
    """Sum of all entries, to rounding, in about the time that memory takes to hand them out; finite only if they all are."""
    if not values.flags.c_contiguous:
        return values.sum()
    # numpy adds up one line after the other many entries at once, and what follows each other fewer.
    flat = values.reshape(-1)
    end = flat.size - flat.size % _LINE
    return flat[:end].reshape(-1, _LINE).sum(axis=0).sum() + flat[end:].sum()


class Source(ABC):
    """Rows that can be read a few at a time, in any order; an entry that is NaN is missing.

    A source defines `read`, `take`, `columns` and `stored`. One that reads from a file or from a stream that was spooled to one
    has its place beside those below.

    Attributes
    ----------
    shape : tuple of int
        Number of rows, and the shape of each, whose last axis are the columns.
    dtype : dtype
    is_resident : bool
        Whether the rows lie in memory as they are, dense.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_resident: bool

    @abstractmethod
    def read(self, rows: Any) -> NDArray[Any]:
        """Rows of these positions, a slice or an array, as a dense array, which may share memory with the source."""

    @abstractmethod
    def take(self, rows: Any) -> Source:
        """Return a source of some of the rows."""

    @abstractmethod
    def columns(self, positions: NDArray[np.intp]) -> Source:
        """Return a source of some of the columns."""

    @abstractmethod
    def stored(self) -> NDArray[Any]:
        """Return the entries that are stored; the others, if there are any, are zero."""

    def read_exactly(self, rows: Any = slice(None)) -> NDArray[np.float64]:
        """Rows of these positions in double precision, one after the other in memory, so that sums come out alike."""
        return np.ascontiguousarray(self.read(rows), dtype=np.float64)

    def blocks(self) -> Iterator[slice]:
        """Slices over the rows whose dense blocks stay small."""
        return row_blocks(self.shape[0], int(np.prod(self.shape[1:], dtype=int)))

    @cached_property
    def has_missing(self) -> bool:
        """Whether any entry is NaN, which is looked for once."""
        values = self.stored()
        with np.errstate(over="ignore", invalid="ignore"):
            return values.dtype.kind == "f" and not np.isfinite(total(values)) and bool(np.isnan(values).any())

    def _part(self, part: S) -> S:
        """Let a part of a source without missing entries know that it has none, either."""
        if vars(self).get("has_missing") is False:
            vars(part)["has_missing"] = False
        return part

    @cached_property
    def extremes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smallest and largest entry of every column that is not missing; infinity and its negative where there is none."""
        lowest, highest = (np.fmin, np.fmax) if self.has_missing else (np.minimum, np.maximum)
        width = self.shape[-1]
        low, high = np.full(width, np.inf), np.full(width, -np.inf)
        for rows in self.blocks():
            block = self.read(rows).reshape(-1, width)
            for part in row_blocks(*block.shape, _CACHED_NUMBERS):  # which the processor's cache has room for
                lowest(low, lowest.reduce(block[part], axis=0), out=low)
                highest(high, highest.reduce(block[part], axis=0), out=high)
        return low, high

    def range(self) -> tuple[float, float]:
        """Smallest and largest entry that is not missing."""
        values = self.stored()
        low, high = (float(extreme.reduce(values, axis=None)) if values.size else 0.0 for extreme in (np.fmin, np.fmax))
        is_full = values.size == np.prod(self.shape, dtype=int)
        return (low, high) if is_full else (min(low, 0.0), max(high, 0.0))


class ArraySource(Source):
    """Rows of an array, be it in memory or mapped into it.

    Parameters
    ----------
    values : ndarray of shape (n_samples, ..., n_features)
    """

    is_resident = True

    def __init__(self, values: NDArray[Any]):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def read(self, rows: Any) -> NDArray[Any]:
        block: NDArray[Any] = self.values[rows]
        return block

    def take(self, rows: Any) -> ArraySource:
        return self._part(ArraySource(self.values[rows]))

    def columns(self, positions: NDArray[np.intp]) -> ArraySource:
        return self._part(ArraySource(self.values.take(positions, axis=-1)))

    def stored(self) -> NDArray[Any]:
        return self.values


class SparseSource(Source):
    """Rows of a sparse matrix or array in the CSR format.

    Parameters
    ----------
    values : CSR matrix of shape (n_samples, n_features)
    """

    is_resident = False

    def __init__(self, values: Any):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def read(self, rows: Any) -> NDArray[Any]:
        block: NDArray[Any] = self.values[rows].toarray()
        return block

    def take(self, rows: Any) -> SparseSource:
        return self._part(SparseSource(self.values[rows]))

    def columns(self, positions: NDArray[np.intp]) -> SparseSource:
        return self._part(SparseSource(self.values[:, positions]))

    def stored(self) -> NDArray[Any]:
        entries: NDArray[Any] = self.values.data
        return entries


class WinsorizedSource(Source):
    """Rows of another source, of which the entries of some columns are moved to the ends of a range where they lie outside of it.

    What is `stored` are the entries as they were given.

    Parameters
    ----------
    source : Source of shape (n_samples, ..., n_features)
    positions : ndarray of int, shape (n_columns,)
        Of the columns.
    low, high : ndarray of shape (n_columns,)
        Their ranges.
    """

    def __init__(self, source: Source, positions: NDArray[np.intp], low: NDArray[np.float64], high: NDArray[np.float64]):
        self.source, self.positions, self.low, self.high = source, positions, low, high
        self.shape, self.dtype, self.is_resident = source.shape, source.dtype, source.is_resident

    @property
    def has_missing(self) -> bool:  # type: ignore[override]
        """Whether any entry is NaN, which the other source knows."""
        return self.source.has_missing

    def read(self, rows: Any) -> NDArray[Any]:
        block = np.array(self.source.read(rows))
        low, high = self.low.astype(self.dtype), self.high.astype(self.dtype)
        block[..., self.positions] = np.clip(block[..., self.positions], low, high)
        return block

    def take(self, rows: Any) -> Source:
        return WinsorizedSource(self.source.take(rows), self.positions, self.low, self.high)

    def columns(self, positions: NDArray[np.intp]) -> Source:
        kept = np.arange(self.shape[-1])[positions]
        places, own = np.nonzero(kept[:, np.newaxis] == self.positions)
        return WinsorizedSource(self.source.columns(positions), places, self.low[own], self.high[own])

    def stored(self) -> NDArray[Any]:
        return self.source.stored()


def is_sparse(X: Any) -> bool:
    """Whether `X` is a sparse matrix or array, of any format."""
    return hasattr(X, "toarray")


def as_source(X: Any, *, complete: bool = False) -> Source:
    """Return the source of an array or a CSR matrix, maybe known to have no missing entry; a source is returned as it is."""
    if isinstance(X, Source):
        return X
    source = SparseSource(X) if is_sparse(X) else ArraySource(X)
    if complete:
        vars(source)["has_missing"] = False
    return source


def dense(X: Any) -> NDArray[Any]:
    """Return an array, or a sparse matrix as one."""
    array: NDArray[Any] = X.toarray() if is_sparse(X) else np.asarray(X)
    return array
