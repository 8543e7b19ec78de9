"""Values of columns that have probabilities of their own: a softmax of logits each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skvae.data.marginals import Marginal
from skvae.modules.likelihoods.units import MAX_STANDARDIZED
from skvae.modules.posterior import exact_dtype

_MOST_LOGIT = 40.0  # whose exponential is a number in single precision, and so is its inverse
_LEAST_VARIANCE = 0.05  # of an indicator, for the unit in which networks read it
_SPIKE_WIDTH = 1e-6  # standardized, by which an entry may miss a level that lies among other values
_FAR = 1.5 * MAX_STANDARDIZED  # between entries and what stands for one that is missing


class Taken(NamedTuple):
    """Which levels the entries of a row have, ``(..., n_columns)`` each.

    Attributes
    ----------
    place : Tensor
        Positions of their logits; of the column's first one where an entry has none.
    is_level : Tensor
        One where an entry has a level, and zero where it has none.
    mark : Tensor
        What is read of the level beyond what is read where entries have others; zero where an entry has none.
    """

    place: Tensor
    is_level: Tensor
    mark: Tensor


class ChoiceTerms(NamedTuple):
    """What is found of levels, and of the rest.

    Attributes
    ----------
    nats : Tensor of shape (..., n_columns)
        Negative log-probabilities of what there is.
    logit : Tensor of shape (..., n_columns)
        Its logit, which is zero for the rest.
    probability : Tensor of shape (..., n_logits)
        Probabilities of all levels.
    """

    nats: Tensor
    logit: Tensor
    probability: Tensor


class Choices(nn.Module):
    """Levels of columns, each with a logit, beside a rest that some columns have, whose logit is zero.

    Logits follow each other column by column; an entry that is missing has no level.

    Parameters
    ----------
    columns : sequence of int
        Positions of the columns in the table.
    marginals : sequence of Marginal
        What these columns look like.

    Attributes
    ----------
    columns : Tensor of int, shape (n_columns,)
    column : Tensor of int, shape (n_logits,)
        Position in the table of the column that a logit belongs to.
    value : Tensor of shape (n_logits,)
        Levels, in standardized units.
    of_level, of_others : Tensor of shape (n_logits,)
        What is read of a level where an entry has it, beyond what is read of it where entries have others; and the latter.
    rest : Tensor of shape (n_columns,)
        One where a column has other values, too, and zero where it has none.
    gap : Tensor of shape (n_columns,)
        Smallest distance between two levels of numbers that have no other values; infinity of all others.
    is_number : Tensor of bool, shape (n_columns,)
        Whether the levels are numbers, and no categories.
    """

    columns: Tensor
    column: Tensor
    low: Tensor
    high: Tensor
    value: Tensor
    share: Tensor
    of_level: Tensor
    of_others: Tensor
    base: Tensor
    member: Tensor
    within: Tensor
    first: Tensor
    rest: Tensor
    gap: Tensor
    place: Tensor
    is_number: Tensor
    is_slot: Tensor

    def __init__(self, columns: Sequence[int], marginals: Sequence[Marginal]):
        super().__init__()
        counts = [len(marginal.levels) for marginal in marginals]
        self.n_logits = sum(counts)
        owner = np.repeat(np.arange(len(counts)), counts)
        bounds = [_bounds(marginal) for marginal in marginals]
        share = _joined([marginal.share for marginal in marginals])
        place = np.full((len(counts), max(counts, default=0) + 1), self.n_logits, dtype=np.int64)  # of a logit that nothing has
        first, within = np.cumsum([0, *counts[:-1]])[: len(counts)], np.zeros((self.n_logits, len(counts)))
        for k, (start, count) in enumerate(zip(first, counts, strict=True)):
            place[k, 1 : 1 + count] = np.arange(start, start + count)
            within[start : start + count, k] = np.arange(count)
        unit = np.sqrt(np.maximum(share * (1.0 - share), _LEAST_VARIANCE))
        values = {
            "low": _joined([low for low, _ in bounds]),
            "high": _joined([high for _, high in bounds]),
            "value": _joined([(marginal.levels - marginal.center) / marginal.scale for marginal in marginals]),
            "share": share,
            "of_level": 1.0 / unit,
            "of_others": -share / unit,
            "base": _joined([np.log(marginal.share / (marginal.rest or 1.0)) for marginal in marginals]),
            "member": (owner[:, np.newaxis] == np.arange(len(counts))).astype(np.float64),
            "within": within,
            "rest": np.array([float(marginal.rest > 0.0) for marginal in marginals]),
            "gap": np.array([_gap(marginal) for marginal in marginals]),
        }
        for name, array in values.items():
            self.register_buffer(name, torch.from_numpy(array).float(), persistent=False)
        positions = np.asarray(columns, dtype=np.int64)
        numbers = np.array([marginal.is_number for marginal in marginals], dtype=bool)
        self.register_buffer("is_number", torch.from_numpy(numbers), persistent=False)
        slots = place < self.n_logits
        slots[:, 0] = values["rest"] > 0.0
        self.register_buffer("is_slot", torch.from_numpy(slots), persistent=False)
        for name, index in {"columns": positions, "column": positions[owner], "place": place, "first": first}.items():
            self.register_buffer(name, torch.from_numpy(index), persistent=False)

    def chosen(self, x: Tensor) -> Tensor:
        """Which level every entry of a row ``(..., n_features)`` has, as ones and zeros ``(..., n_logits)``."""
        entries = x.index_select(-1, self.column)
        return ((entries > self.low.to(x)) & (entries <= self.high.to(x))).to(x.dtype)

    def has_level(self, chosen: Tensor) -> Tensor:
        """Whether entries have one of the levels, as ones and zeros ``(..., n_columns)``."""
        return chosen @ self.member.to(chosen)

    def missed(self, x: Tensor) -> Tensor:
        """By how many gaps between levels numbers of rows ``(..., n_features)`` miss those there are, ``(..., n_columns)``."""
        level = (self.chosen(x) * self.value.to(x)) @ self.member.to(x)
        return (x[..., self.columns] - level) / self.gap.to(x)

    @property
    def n_facts(self) -> int:
        """Numbers that `facts` returns for a row."""
        return 4 * len(self.columns)

    def facts(self, chosen: Tensor, observed: Tensor) -> Tensor:
        """Return which entries are not missing, and which levels they have, as `taken` reads it.

        Parameters
        ----------
        chosen : Tensor of shape (..., n_logits)
        observed : Tensor of bool, shape (..., n_features)
        """
        exact, member = chosen.to(exact_dtype(chosen)), self.member.to(exact_dtype(chosen))  # as no position may be rounded
        place, mark = self.first + exact @ self.within.to(exact), (exact * self.of_level) @ member
        parts = [observed[..., self.columns], exact @ member, place, mark]
        return torch.cat([part.to(chosen) for part in parts], dim=-1)

    def taken(self, facts: Tensor) -> Taken:
        """Return what `facts` has found."""
        _, is_level, place, mark = facts.chunk(4, dim=-1)
        return Taken(place.long(), is_level, mark)

    def read(self, chosen: Tensor, observed: Tensor) -> Tensor:
        """Return what networks read of levels: indicators around zero, and zero where an entry is missing.

        Parameters
        ----------
        chosen : Tensor of shape (..., n_logits)
        observed : Tensor of bool, shape (..., n_features)
        """
        return (self.of_level.to(chosen) * chosen + self.of_others.to(chosen)) * observed.index_select(-1, self.column)

    def locate(self, output: Tensor) -> Tensor:
        """Logits of a decoder's output, which is what they are beside those of the columns by themselves."""
        return (output + self.base.to(output)).clamp(-_MOST_LOGIT, _MOST_LOGIT)

    def log_total(self, logits: Tensor) -> Tensor:
        """Logarithms of the sums that normalize the probabilities, ``(..., n_columns)``."""
        return (logits.exp() @ self.member.to(logits) + self.rest.to(logits)).log()

    def terms(self, taken: Taken, logits: Tensor) -> ChoiceTerms:
        """Negative log-probabilities of levels or, where an entry has none, of the rest.

        Parameters
        ----------
        taken : Taken
        logits : Tensor of shape (..., n_logits)

        Returns
        -------
        ChoiceTerms
        """
        member, weights = self.member.to(logits), logits.exp()
        total = by_transposes(weights, member) + self.rest.to(logits)
        logit = logits.gather(-1, taken.place) * taken.is_level
        return ChoiceTerms(total.log() - logit, logit, weights * (total.reciprocal() @ member.mT))

    def probability(self, logits: Tensor) -> Tensor:
        """Probabilities of the levels, ``(..., n_logits)``."""
        return (logits - self.log_total(logits) @ self.member.to(logits).mT).exp()

    def response(self, chosen: Tensor, observed: Tensor) -> Tensor:
        """Output by one Newton step of every logit from the columns by themselves."""
        share = self.share.to(chosen)
        return (chosen - share) / (share * (1.0 - share)).clamp(min=0.01) * observed.index_select(-1, self.column)

    def table(self, values: Tensor, rest: Tensor | float) -> Tensor:
        """Values of the rest and of all levels by column, ``(..., n_columns, most_levels + 1)``, zero where there are fewer."""
        padded = torch.cat([values, values.new_zeros(*values.shape[:-1], 1)], dim=-1)
        found: Tensor = torch.unflatten(padded[..., self.place.flatten()], -1, self.place.shape)
        found[..., 0] = rest
        return found

    def draw(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Turn uniform numbers ``(..., n_columns)`` into draws.

        Returns
        -------
        value : Tensor of shape (..., n_columns)
            The level that is drawn; not to be used where it is none.
        left : Tensor of shape (..., n_columns)
            Where the rest is drawn, another uniform number; -1 where a level is.
        """
        probability = self.probability(logits)
        of_rest = (1.0 - probability @ self.member.to(logits)).clamp(min=0.0) * self.rest.to(logits)
        table = self.table(probability, of_rest)
        passed = (uniform.unsqueeze(-1) >= table.cumsum(-1)).sum(-1, keepdim=True)
        most = (self.place < self.n_logits).sum(1)  # the last level of each, for sums that rounding leaves below one
        passed = torch.minimum(passed, most.expand(passed.shape[:-1]).unsqueeze(-1))
        value = self.table(self.value.to(logits), 0.0).expand(table.shape).gather(-1, passed).squeeze(-1)
        is_rest = passed.squeeze(-1) == 0
        left = torch.where(is_rest, uniform / of_rest.clamp(min=1e-12), -1.0)
        return value, left


def by_transposes(values: Tensor, matrix: Tensor) -> Tensor:
    """Return the product ``(..., n)`` with a matrix of few columns, which takes less time the other way round."""
    return (matrix.mT @ values.mT).mT


def _bounds(marginal: Marginal) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the standardized intervals in which entries have the levels: above the one and up to the other."""
    x = (marginal.levels - marginal.center) / marginal.scale
    if marginal.rest:
        half = np.maximum(0.5 / marginal.scale if marginal.is_whole else 0.0, _SPIKE_WIDTH * np.maximum(np.abs(x), 1.0))
        return x - half, x + half
    between = (x[1:] + x[:-1]) / 2.0  # an entry has the level that it is nearest to
    return np.concatenate([[-_FAR], between]), np.concatenate([between, [_FAR]])


def _gap(marginal: Marginal) -> float:
    """Return the smallest distance between standardized levels of a column of numbers that has no other values.

    That from a single one is one for whole numbers, and its size for others.
    """
    if not marginal.is_number or marginal.rest:
        return np.inf
    levels = marginal.levels
    if len(levels) < 2:
        apart = 1.0 if np.all(levels == np.round(levels)) else np.abs(levels).max()
    else:
        apart = np.diff(levels).min()
    return float(apart / marginal.scale)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([*arrays, np.zeros(0)])
