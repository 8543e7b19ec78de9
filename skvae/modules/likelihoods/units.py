"""Between the units of the data and those of the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skvae.data.columns import ColumnStatistics
from skvae.data.sources import as_source

MAX_STANDARDIZED = 1e15  # entries further out are taken for this, whose square is still a number in single precision
ABSENT = 2.0 * MAX_STANDARDIZED  # what stands for a missing entry where no number of the column may
_TILE_NUMBERS = 2**18  # standardized at once, 2 MB in double precision


class Units:
    """Standardization of the columns, in double precision, and the values of those that are constant.

    Parameters
    ----------
    n_features : int
    raw : bool
        Whether the network works in the units of the data, which is then neither shifted nor scaled.

    Attributes
    ----------
    center, scale : ndarray of shape (n_features,)
        What is subtracted and divided by.
    constant : ndarray of shape (n_features,)
        Values of constant columns.
    is_constant : ndarray of bool, shape (n_features,)
    is_shared : bool
        Whether the columns are measurements of one kind, as pixels are.
    """

    def __init__(self, n_features: int, *, raw: bool):
        self.raw = raw
        self.set_state(
            {
                "shift": np.zeros(n_features),
                "scale": np.ones(n_features),
                "is_constant": np.zeros(n_features, dtype=bool),
                "shared": False,
                "mean": np.zeros(n_features),
                "spread": np.ones(n_features),
                "low": np.full(n_features, -1.0),
                "high": np.ones(n_features),
            }
        )

    def fit(
        self, X: Any, sample_weight: NDArray[np.float64] | None, *, shared: bool | None, standardize: bool = True
    ) -> ColumnStatistics:
        """Measure the columns of `X`.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
        sample_weight : ndarray of shape (n_samples,) or None
        shared : bool or None
            Whether the columns share a unit; None leaves it to the data.
        standardize : bool, default=True
            False has the network read the data as it is.

        Returns
        -------
        ColumnStatistics
        """
        columns = ColumnStatistics.of(X, sample_weight, shared=shared)
        if self.raw or not standardize:
            shift = np.where(columns.constant, columns.shift, 0.0) if self.raw else np.zeros(len(self.scale))
            columns = replace(columns, shift=shift, scale=np.ones(len(self.scale)))
        self.set_state(
            {
                "shift": columns.shift,
                "scale": columns.scale,
                "is_constant": columns.constant,
                "shared": columns.shared_unit and not self.raw,
                **columns.summary(),
            }
        )
        return columns

    def no_longer_constant(self, X: Any) -> NDArray[np.intp]:
        """Positions of constant columns that have other values in `X`.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
        """
        columns = np.flatnonzero(self.is_constant)
        if not len(columns):
            return columns
        source, value = as_source(X).columns(columns), self.constant[columns]
        precision = np.finfo(source.dtype if source.dtype.kind == "f" else np.float64).eps
        differs = np.zeros(len(columns), dtype=bool)
        for rows in source.blocks():
            block = source.read_exactly(rows)
            far = np.abs(block - value) > 8 * precision * np.maximum(np.abs(block), np.abs(value))
            differs |= far.any(axis=0)  # NaN is no value
        return columns[differs]

    def extend(
        self, X: Any, sample_weight: NDArray[np.float64] | None, columns: NDArray[np.intp], n_before: int
    ) -> tuple[ColumnStatistics, Any, NDArray[np.float64]]:
        """Measure columns anew that were constant so far.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
        sample_weight : ndarray of shape (n_samples,) or None
        columns : ndarray of int
            Their positions.
        n_before : int
            Number of earlier rows, in which they had one value.

        Returns
        -------
        statistics : ColumnStatistics
            Of these columns.
        entries, weight : ndarray of shape (n_samples + 1, n_columns), ndarray of shape (n_samples + 1,)
            What they were measured on: `X`, and one row for all of the earlier ones.
        """
        given = as_source(X)
        entries = np.vstack([self.constant[columns], given.columns(columns).read_exactly()])
        weight = np.concatenate([[n_before], np.ones(given.shape[0]) if sample_weight is None else sample_weight])
        statistics = ColumnStatistics.of(entries, weight, shared=False)
        shift, scale, std = statistics.shift, statistics.scale, statistics.std
        if self.raw:
            shift, scale = np.zeros(len(columns)), np.ones(len(columns))
        elif self.is_shared:
            scale = std = self.scale[columns]
        statistics = replace(statistics, shift=shift, scale=scale, std=std)
        new = {"shift": shift, "scale": scale, "is_constant": statistics.constant, **statistics.summary()}
        state = dict(self.state)
        for name, values in new.items():
            state[name] = state[name].copy()
            state[name][columns] = values
        self.set_state(state)
        return statistics, entries, weight

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what is kept in `state`."""
        self.state = state
        self._cache: dict[tuple[str, torch.device], Tensor] = {}
        self.constant, self.scale, self.is_constant = state["shift"], state["scale"], state["is_constant"]
        self.is_shared = bool(state["shared"])
        self.has_constant = bool(self.is_constant.any())
        self.center = np.zeros(len(self.scale)) if self.raw else self.constant
        self._center, self._inverse_scale = torch.from_numpy(self.center.copy()), torch.from_numpy(1.0 / self.scale)

    # -- from the data to the network ---------------------------------------------------------------------------------

    def standardize(self, X: Any, rows: Any = slice(None), *, out: Tensor | None = None) -> Tensor:
        """Rows of `X` in the network's units: centered and scaled in double precision, then cast.

        Parameters
        ----------
        X : Source, ndarray or CSR matrix of shape (n_samples, n_features)
        rows : slice or ndarray of int
        out : Tensor of float32, shape (at least n_rows, n_features), optional
            Where to put them.

        Returns
        -------
        Tensor of float32 on the CPU, shape (n_rows, n_features)
        """
        block = _block(X, rows)
        narrow = torch.empty(block.shape, dtype=torch.float32) if out is None else out[: len(block)]
        n_rows = max(1, _TILE_NUMBERS // max(1, block[:1].numel()))
        # A few rows at a time, which stay in the processor's cache from one operation to the next.
        parts = (
            [(block, narrow)]
            if len(block) <= n_rows
            else zip(torch.split(block, n_rows), torch.split(narrow, n_rows), strict=True)
        )
        scratch = torch.empty((min(n_rows, len(block)), *block.shape[1:]), dtype=torch.float64)
        for given, standardized in parts:
            wide = self._standardized(given, out=scratch[: len(given)])
            standardized.copy_(wide.clamp_(-MAX_STANDARDIZED, MAX_STANDARDIZED))
        return narrow

    def standardize_exactly(self, X: Any, rows: Any = slice(None)) -> Tensor:
        """Rows of `X` in the network's units, in double precision."""
        block = _block(X, rows)
        return self._standardized(block, out=torch.empty(block.shape, dtype=torch.float64))

    def _standardized(self, block: Tensor, *, out: Tensor) -> Tensor:
        if self.raw:
            return out.copy_(block)
        if block.dtype == torch.float64:
            torch.sub(block, self._center, out=out)
        else:
            out.copy_(block).sub_(self._center)
        return out.mul_(self._inverse_scale)

    def column(self, name: str, device: torch.device) -> Tensor:
        """Return a statistic of the columns in the network's units, float32 of shape (n_features,).

        Parameters
        ----------
        name : {"mean", "low", "high", "spread", "unit"}
            Mean, smallest and largest value, standard deviation (zero where a column is constant), and what one unit of
            the data is worth.
        device : torch.device
        """
        if name == "unit":
            return self.cached(name, device, 1.0 / self.scale)
        if name == "spread":
            return self.cached(name, device, self.state[name] / self.scale)
        return self.cached(name, device, (self.state[name] - self.center) / self.scale)

    def value(self, value: float, device: torch.device) -> Tensor:
        """Return a value of all columns, in the units of the data, in those of the network, ``(n_features,)``."""
        return self.cached(str(value), device, (value - self.center) / self.scale)

    def varying(self, device: torch.device) -> Tensor:
        """Return which columns vary, as zeros and ones, ``(n_features,)``."""
        return self.cached("varying", device, (~self.is_constant).astype(np.float64))

    def cached(self, name: str, device: torch.device, values: NDArray[np.float64]) -> Tensor:
        """Return values by columns as a tensor of single precision on a device, which is made once for each name."""
        if (name, device) not in self._cache:
            self._cache[name, device] = torch.from_numpy(values.astype(np.float32)).to(device)
        return self._cache[name, device]

    def largest_entry(self, X: Any) -> tuple[float, int]:
        """Most standard deviations that an entry of `X` is away from its column's mean, and that column."""
        largest = np.zeros(len(self.scale))
        source = as_source(X)
        # Raw entries are in no unit yet.
        shift, scale = (self.state["mean"], self.state["spread"]) if self.raw else (0.0, 1.0)
        for rows in source.blocks():
            away = np.abs(self.standardize_exactly(source, rows).numpy() - shift) / np.where(np.equal(scale, 0.0), 1.0, scale)
            np.fmax(largest, np.fmax.reduce(away, axis=0), out=largest)
        return float(largest.max()), int(largest.argmax())

    # -- and back -----------------------------------------------------------------------------------------------------

    def to_data(self, x: Tensor) -> Tensor:
        """Rows in the network's units in those of the data, in single precision."""
        return x / self.column("unit", x.device) + self._center.to(x)

    def rescale(self, x: Tensor) -> NDArray[np.float64]:
        """Rows in the network's units in those of the data, in double precision; constant columns have their value."""
        values: NDArray[np.float64] = x.cpu().numpy().astype(np.float64)
        values *= self.scale
        values += self.center
        if self.has_constant:
            values[..., self.is_constant] = self.constant[self.is_constant]
        return values


def _block(X: Any, rows: Any) -> Tensor:
    """Rows of `X` as a tensor that may share their memory."""
    block = np.ascontiguousarray(as_source(X).read(rows))
    # torch warns about read-only memory and takes no negative strides,
    # which numpy leaves to blocks of one row.
    if not block.flags.writeable or min(block.strides) < 0:
        block = block.copy()
    return torch.from_numpy(block)
