"""Graphs of rows that are near each other, from which every row draws a neighbor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_TICKS = 2**16  # into which the largest weight of a row is divided


class NeighborGraph:
    """Which rows are near each, and how likely they are drawn.

    Weights are counted in whole numbers, the largest of each row as 65,536 and none as less than one, so that draws are the same
    on every device.

    Parameters
    ----------
    weight : CSR matrix of shape (n, n_others)
        Weights of the edges from each row to those that are near it, which may be other rows.
    """

    def __init__(self, weight: Any):
        row = np.repeat(np.arange(weight.shape[0]), np.diff(weight.indptr))
        largest = np.full(weight.shape[0], np.finfo(np.float64).tiny)
        np.maximum.at(largest, row, weight.data)
        ticks = np.maximum(1, np.rint(_TICKS * (weight.data / largest[row])))
        total = np.concatenate([[0], np.cumsum(ticks.astype(np.int64))])
        ends = total[weight.indptr]
        self._start, self._width = torch.from_numpy(ends[:-1]), torch.from_numpy(np.diff(ends))
        self._total, self._near = torch.from_numpy(total[1:]), torch.from_numpy(weight.indices.astype(np.int64))

    def to(self, device: torch.device) -> NeighborGraph:
        """Move the graph to a device."""
        for name, value in vars(self).items():
            setattr(self, name, value.to(device))
        return self

    def draw(self, index: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Draw a neighbor for each of some rows, with probabilities in proportion to the weights.

        Parameters
        ----------
        index : Tensor of int, shape (n_drawn,)
            Positions of the rows.
        uniform : Tensor of shape (n_drawn,)
            Random numbers in [0, 1).

        Returns
        -------
        Tensor of int, shape (n_drawn,)
            Positions of the neighbors; those of the rows themselves where they have none.
        """
        width = self._width[index]
        tick = torch.minimum((uniform * width).long(), width - 1)
        edge = torch.searchsorted(self._total, self._start[index] + tick, right=True)
        return torch.where(width > 0, self._near[edge.clamp(0, len(self._near) - 1)], index)
