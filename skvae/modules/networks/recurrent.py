"""Recurrent networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skvae.modules.networks.specs import CELLS

Memory = tuple[Tensor, ...]


class RecurrentNetwork(nn.Module):
    """Recurrent layers, one above the other, with dropout between them.

    torch's own networks of several layers compute the same, but leave dropout to cuDNN where there is one, which draws from
    a state that cannot be given to it.

    Parameters
    ----------
    cell : {"gru", "lstm"}
    n_inputs, size : int
        Width of a frame, and of each layer.
    n_layers : int
    dropout : float
        Probability of zeroing what one layer hands to the next in training.
    """

    def __init__(self, cell: str, n_inputs: int, size: int, n_layers: int, dropout: float = 0.0):
        super().__init__()
        make: Any = CELLS[cell]
        self.cell, self.size = cell, size
        self.layers = nn.ModuleList(make(size if i else n_inputs, size, batch_first=True) for i in range(n_layers))
        self.dropout = nn.Dropout(dropout) if n_layers > 1 and dropout > 0.0 else None

    def forward(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Read sequences.

        Parameters
        ----------
        x : Tensor of shape (n, n_timesteps, n_inputs)
        memory : tuple of Tensor of shape (n_layers, n, size), optional
            Where the network left off: one for a GRU, two for an LSTM.

        Returns
        -------
        outputs : Tensor of shape (n, n_timesteps, size)
        memory : tuple of Tensor of shape (n_layers, n, size)
        """
        ends: list[Memory] = []
        for i, layer in enumerate(self.layers):
            if i and self.dropout is not None:
                x = self.dropout(x)
            start = None if memory is None else tuple(part[i : i + 1].contiguous() for part in memory)
            if self.cell == "gru":
                x, end = layer(x, None if start is None else start[0])
                ends.append((end,))
            else:
                x, end = layer(x, start)
                ends.append(end)
        return x, tuple(torch.cat(parts) for parts in zip(*ends, strict=True))

    def memory_shapes(self, n: int) -> list[tuple[int, int, int]]:
        """Shapes of what the network remembers of several sequences."""
        return [(len(self.layers), n, self.size)] * (1 if self.cell == "gru" else 2)
