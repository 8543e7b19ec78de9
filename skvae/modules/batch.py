"""What a module sees of the data."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Rows on their way through a module.

    Attributes
    ----------
    x : Tensor of shape (n, n_features), or (n, n_timesteps, n_features) for sequences
        What the encoder reads, in standardized units.
    target : Tensor of the same shape
        What the decoder should return.
    weight : Tensor of shape (n,)
        Weights of the rows, one on average over the training set.
    condition : Tensor of shape (n, n_conditions) or None
    mask : Tensor of bool, shape (n, n_features), or None
        Which entries were observed.
    noise : dict of Tensor or None
        Standard normal draws, by the names in the module's `noise_shapes`, each of shape ``(n, *shape)``.
    """

    x: Tensor
    target: Tensor
    weight: Tensor
    condition: Tensor | None = None
    mask: Tensor | None = None
    noise: dict[str, Tensor] | None = None
