"""What goes into a module, and what comes out of its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Rows on their way through a module, with all that is known about them.

    Attributes
    ----------
    x : Tensor of shape (n, n_features), or (n, n_timesteps, n_features) for sequences
        What the encoder reads, in standardized units; any finite number where an entry is missing.
    target : Tensor of the same shape
        What the decoder should return.
    weight : Tensor of shape (n,)
        Weights of the rows, one on average over the training set.
    condition : Tensor of shape (n, n_conditions) or None
        What the rows are conditioned on.
    observed : Tensor of bool, shape (n, n_features), or None
        Which entries are not missing; None where all of them are there.
    target_observed : Tensor of bool, shape (n, n_features), or None
        The same of the target, where it is another one than `x`; None where they are the same entries as of `x`.
    neighbor : Tensor of the shape of x, or None
        For every row one of those that are near it, as `x` has them, for modules that want some.
    neighbor_observed : Tensor of bool, shape (n, n_features), or None
        Which entries of these are not missing; None where all of them are there.
    facts : Tensor of shape (n, n_facts) or None
        What the likelihood finds out about the target by itself, where that takes long; see `Likelihood.facts`.
    inputs : Tensor of shape (n, n_inputs) or None
        What the encoder reads of the rows, where that is something else than the likelihood has it read of `x`.
    noise : dict of Tensor or None
        Standard normal draws, by the names in the module's `noise_shapes`, each of shape ``(n, *shape)``.
    """

    x: Tensor
    target: Tensor
    weight: Tensor
    condition: Tensor | None = None
    observed: Tensor | None = None
    target_observed: Tensor | None = None
    neighbor: Tensor | None = None
    neighbor_observed: Tensor | None = None
    facts: Tensor | None = None
    inputs: Tensor | None = None
    noise: dict[str, Tensor] | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        *,
        weight: Tensor | None = None,
        condition: Tensor | None = None,
        observed: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
    ) -> Batch:
        """Make a batch of rows that are their own target, and count alike unless their weights are given."""
        if weight is None:
            weight = torch.ones(len(x), dtype=x.dtype if x.is_floating_point() else None, device=x.device)
        return cls(x, x, weight, condition, observed, noise=noise)

    @classmethod
    def of_codes(cls, z: Tensor, condition: Tensor | None = None) -> Batch:
        """Make a batch of rows of which nothing is known but the condition, to decode codes ``(n, ...)`` with."""
        return cls.of(z.new_empty(len(z), 0), condition=condition)

    @property
    def counted(self) -> Tensor | None:
        """Which entries of the target count; None where all do."""
        return self.observed if self.target_observed is None else self.target_observed

    def drawn(self, name: str) -> Tensor:
        """Return the noise of a name."""
        assert self.noise is not None
        return self.noise[name]

    def mapped(self, function: Callable[[Tensor], Any]) -> Batch:
        """Return a batch with a function of every part, the noise included; a target that is `x` stays what it is."""
        x = function(self.x)
        target = x if self.target is self.x else function(self.target)
        others = [None if part is None else function(part) for part in self[2:-1]]
        noise = None if self.noise is None else {name: function(value) for name, value in self.noise.items()}
        return Batch._make([x, target, *others, noise])

    def repeated(self, n: int) -> Batch:
        """Return a batch with every row, and what is known about it, `n` times in a row; without noise."""
        return self._replace(noise=None).mapped(lambda part: part.repeat_interleave(n, dim=0))


class Loss(NamedTuple):
    """The objective of a batch.

    Attributes
    ----------
    terms : dict of Tensor
        Named terms, per row ``(n,)`` or, where a term couples the batch, ``()``. Their sum is minimized, over rows on average.
    learned : dict of Tensor
        What is learned without gradients, for `after_step`.
    """

    terms: dict[str, Tensor]
    learned: dict[str, Tensor]
