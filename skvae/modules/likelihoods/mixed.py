"""Tables of mixed columns: categories, whole and real numbers, counts, each with a distribution of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae._spec import check_name
from skvae.data.marginals import COUNTS, Marginal
from skvae.data.sources import as_source
from skvae.functional import normal_cdf
from skvae.modules.likelihoods.base import Energies, Likelihood, LikelihoodSpec
from skvae.modules.likelihoods.choice import Choices, by_transposes
from skvae.modules.likelihoods.counts import Counts
from skvae.modules.likelihoods.gaussian import GaussianLikelihood
from skvae.modules.likelihoods.noise import Noise
from skvae.modules.likelihoods.scores import Scores
from skvae.modules.likelihoods.units import ABSENT, Units

COLUMN_FAMILIES = ("auto", "categorical", "gaussian", "laplace", "negative_binomial", "poisson")
_UNSURE = 0.5  # variance that a linear model leaves of the indicator of a level, about one in all
_BLOCK_ROWS = 512
_OF_OTHER_LEVELS = 1e-3  # probability of numbers nearest to a level that are none, beside that of the level
_SAME = 1e-3  # gaps between levels, by which a number may miss one for rounding
_LEAST_INFORMATION = 0.05  # of a logit, by which its residual is divided


class MixedLikelihood(Likelihood):
    """A distribution for every column, whose energies are nats.

    Rows have a column for each of the table: numbers, centered and scaled, and positions of categories. Networks read, and the
    decoder gives, one number for each score of a column of numbers, one for each count, and one for each level of the columns
    that have some, in this order.

    Parameters
    ----------
    n_features : int
    marginals : sequence of Marginal
        What the columns look like by themselves.
    """

    is_density = True
    is_location_family = False
    unit_weight = 0.5
    std_per_scale = 1.0
    energy_power = 2
    owner: Tensor
    belongs: Tensor
    of_choice: Tensor
    of_score: Tensor
    of_count: Tensor
    has_choice: Tensor
    has_score: Tensor
    levels_of_score: Tensor
    level_of_cell: Tensor
    reader: Tensor

    def __init__(self, n_features: int, marginals: Sequence[Marginal]):
        super().__init__(n_features)
        families = [marginal.family for marginal in marginals]
        choices = [j for j, marginal in enumerate(marginals) if len(marginal.levels)]
        counts = [j for j, family in enumerate(families) if family in COUNTS]
        scores = [j for j, marginal in enumerate(marginals) if marginal.rest and j not in counts]
        self.choices = Choices(choices, [marginals[j] for j in choices])
        self.scores = Scores(scores, [marginals[j] for j in scores])
        self.counts = Counts(counts, [marginals[j] for j in counts])
        self.sizes = (len(scores), len(counts), self.choices.n_logits)
        self._n_numbers = len(scores) + len(counts)
        # Turns what facts begin with, numbers and which columns are not missing, into what is read where no level is chosen.
        reader = torch.zeros(self._n_numbers + len(choices), sum(self.sizes))
        reader.fill_diagonal_(1.0)[self._n_numbers :] = 0.0
        reader[self._n_numbers :, self._n_numbers :] = (self.choices.of_others.unsqueeze(1) * self.choices.member).mT
        self.register_buffer("reader", reader, persistent=False)
        owner = torch.cat([self.scores.columns, self.counts.columns, self.choices.column])
        self.register_buffer("owner", owner, persistent=False)
        self.register_buffer("belongs", nn.functional.one_hot(owner, n_features).float(), persistent=False)
        for name, columns in (("of_choice", choices), ("of_score", scores), ("of_count", counts)):
            self.register_buffer(name, torch.eye(n_features)[columns], persistent=False)
        spiked = np.array([bool(len(marginal.levels)) and j in scores for j, marginal in enumerate(marginals)], dtype=bool)
        cells = spiked & np.array([marginal.is_whole for marginal in marginals], dtype=bool)
        self.has_spikes, self.has_spiked_cells = bool(spiked.any()), bool(cells.any())
        self.register_buffer("levels_of_score", self.of_choice @ self.of_score.mT, persistent=False)
        self.register_buffer("level_of_cell", self.of_choice @ (self.of_score * torch.from_numpy(cells)).mT, persistent=False)
        self.register_buffer("has_score", self.of_score.sum(0) > 0.0, persistent=False)
        self.register_buffer("has_choice", self.of_choice.sum(0) > 0.0, persistent=False)
        self.noise.floor.copy_(torch.tensor([marginal.floor**2 for marginal in marginals]))
        self._levels = {j: np.sort(marginals[j].levels) for j in choices if marginals[j].is_number}
        self._set_units(marginals)

    def _make_noise(self, mode: str | float) -> Noise:
        return ColumnNoise(self.n_features)

    def _set_units(self, marginals: Sequence[Marginal]) -> None:
        """Center and scale numbers as their marginals say."""
        numbers = np.array([[m.center, m.scale] for m in marginals])
        states = {"shift": numbers[:, 0], "scale": numbers[:, 1]}
        self.units.set_state(
            {
                **self.units.state,
                **states,
                "mean": numbers[:, 0].copy(),
                "spread": numbers[:, 1].copy(),
            }
        )

    @property
    def n_inputs(self) -> int:
        return sum(self.sizes)

    @property
    def n_outputs(self) -> int:
        return sum(self.sizes)

    def rescale(self, x: Tensor) -> NDArray[np.float64]:
        values = super().rescale(x)
        # Numbers that are levels are these to the last bit, which single precision does not hold.
        for j, levels in self._levels.items():
            own, standardized = x[..., j].cpu().float().numpy(), (levels - self.units.center[j]) / self.units.scale[j]
            place = np.searchsorted(standardized.astype(np.float32), own).clip(max=len(levels) - 1)
            values[..., j] = np.where(own == standardized.astype(np.float32)[place], levels[place], values[..., j])
        return values

    # -- the columns --------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        sample_weight: NDArray[np.float64] | None = None,
        *,
        shared: bool | None = None,
        standardize: bool = True,
    ) -> Likelihood:
        """Begin with noise as large as scores vary, and look for ranges: all else has been measured; see `Likelihood.fit`."""
        self.noise.set_moment(torch.ones_like(self.noise.moment))
        self.units.set_state({**self.units.state, **_ranges(X, self.n_features)})
        return self

    def fit_inputs(self, X: Any, sample_weight: NDArray[np.float64] | None = None, *, shared: bool | None = None) -> Likelihood:
        """Read what is not what the likelihood is about in the same units; see `Likelihood.fit_inputs`."""
        self.input_units = Units(self.n_features, raw=self.reads_raw)
        self.input_units.set_state({**self.units.state, **_ranges(X, self.n_features)})
        return self

    def extend(self, X: Any, sample_weight: NDArray[np.float64] | None, n_before: int) -> NDArray[np.intp]:
        """Leave all columns as they are: those of one level have no other."""
        return np.zeros(0, dtype=np.intp)

    def check(self, X: Any, name: Callable[[int], Any] = int) -> None:
        source = as_source(X)
        for column in self.counts.columns.tolist():
            values = source.columns(np.array([column])).read_exactly(slice(None))[:, 0]
            wrong = values[(values < 0.0) | (np.floor(values) != values) & ~np.isnan(values)]
            if len(wrong):
                raise ValueError(
                    f"The likelihood of column {name(column)!r} is one of counts, the integers from 0 on, but the column has "
                    f"{float(wrong[0]):g}; choose 'gaussian', or leave the choice to likelihood='auto'."
                )

    # -- between rows and networks ------------------------------------------------------------------------------------

    def spread(self, values: Tensor) -> Tensor:
        return values.index_select(-1, self.owner)

    def absent(self, *, is_target: bool = False) -> Tensor | float:
        return ABSENT

    @property
    def typical(self) -> Tensor:
        return torch.full((self.n_features,), ABSENT)

    @property
    def blank(self) -> Tensor | float:
        return ABSENT

    @property
    def passes_rows_on(self) -> bool:
        return False

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parts of what a decoder gives: of scores, of counts and of levels."""
        scores, counts, logits = torch.split(output, list(self.sizes), dim=-1)
        return scores, counts, logits

    def _present(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows with zeros where entries are missing, and which are not."""
        observed = x < 0.75 * ABSENT
        return torch.where(observed, x, 0.0), observed

    def read(self, x: Tensor, columns: Tensor | slice = slice(None)) -> Tensor:
        return _in_blocks(self._joined_with(self.choices.read), x)

    def _joined_with(self, of_levels: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return a function of rows: what networks read of numbers, and something of levels."""

        def function(x: Tensor) -> Tensor:
            present, observed = self._present(x)
            return torch.cat([*self._numbers(present, observed), of_levels(self.choices.chosen(x), observed)], dim=-1)

        return function

    def _numbers(self, present: Tensor, observed: Tensor) -> list[Tensor]:
        """Return what networks read of columns of scores, and of counts."""
        parts: list[Scores | Counts] = [self.scores, self.counts]
        return [part.read(present[..., part.columns]) * observed[..., part.columns] for part in parts]

    def hide_constant(self, x: Tensor) -> Tensor:
        return x

    def network_input(self, x: Tensor, facts: Tensor | None = None) -> Tensor:
        if facts is None:
            return self.read(x)
        taken = self.choices.taken(self._divided(facts)[0])
        read = facts[..., : len(self.reader)] @ self.reader.to(facts)
        return read.scatter_add(-1, taken.place + self._n_numbers, taken.mark)

    def locate(self, output: Tensor) -> Tensor:
        """Means of scores, logarithms of rates, and logits."""
        scores, counts, logits = self._split(output)
        return torch.cat([scores, self.counts.locate(counts), self.choices.locate(logits)], dim=-1)

    def location_change(self, change: Tensor) -> Tensor:
        scores, counts, logits = self._split(change)
        return torch.cat([scores, counts * self.counts.scale.to(change), logits], dim=-1)

    def response(self, x: Tensor) -> Tensor:
        return _in_blocks(self._joined_with(self.choices.response), x)

    # -- losses and scores --------------------------------------------------------------------------------------------

    @property
    def weight(self) -> Tensor:
        """Ones: energies are nats."""
        return torch.ones_like(self.noise.weight)

    def _moment(self, like: Tensor) -> Tensor:
        """Noise of the scores, ``(n_score_columns,)``."""
        return (0.5 / self.noise.weight.index_select(0, self.scores.columns)).to(like)

    def facts(self, target: Tensor) -> Tensor:
        present, observed = self._present(target)
        chosen = self.choices.chosen(target)
        parts = [
            *self._numbers(present, observed),
            self.choices.facts(chosen, observed),
            self.scores.facts(present[..., self.scores.columns]).to(target),
        ]
        if self.has_spikes:  # whether scores count, and whether a level is theirs as well
            is_level = self.choices.has_level(chosen)
            parts += [1.0 - is_level @ self.levels_of_score.to(target), is_level @ self.level_of_cell.to(target)]
        return torch.cat(parts, dim=-1)

    def _divided(self, facts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parts of facts that are known of levels, of scores, and of both."""
        sizes = [self._n_numbers, self.choices.n_facts, self.scores.n_facts]
        _, of_levels, of_scores, of_both = torch.split(facts, [*sizes, facts.shape[-1] - sum(sizes)], dim=-1)
        return of_levels, of_scores, of_both

    def energies(self, target: Tensor, output: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.terms(target, output, observed).energy

    def terms(self, target: Tensor, output: Tensor, observed: Tensor | None = None, facts: Tensor | None = None) -> Energies:
        with torch.no_grad():
            facts = self.facts(target) if facts is None else facts
        if facts.shape[:-1] != output.shape[:-1]:
            shape = np.broadcast_shapes(facts.shape[:-1], output.shape[:-1])
            facts, output = facts.expand(*shape, -1), output.expand(*shape, -1)
        with torch.no_grad():
            energy, slope, moment, counted = self._found(facts, output, self._moment(output))
        if torch.is_grad_enabled():  # what is known of the slope spares the way back through all that has been done
            energy = energy + by_transposes(slope * (output - output.detach()), self.belongs.to(slope))
        if self.sizes[1]:
            energy = energy + self._energies_of_counts(target, output)
        if observed is None:
            return Energies(energy, moment, counted)
        return Energies(torch.where(observed, energy, 0.0), moment * observed, counted * observed)

    def _energies_of_counts(self, target: Tensor, output: Tensor) -> Tensor:
        """Energies of columns of counts, and zeros for all others."""
        log_rate = self.counts.locate(self._split(output)[1])
        present, _ = self._present(target)
        return _by_column(self.counts.nats(present[..., self.counts.columns], log_rate), self.of_count)

    def _found(self, facts: Tensor, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Energies, their slopes in the output, squared residuals of scores, and where these count; without counts.

        The noise is that of the scores, see `_moment`.
        """
        scores, _, logits = self._split(output)
        of_levels, of_scores, of_both = self._divided(facts)
        taken, choices = self.choices.taken(of_levels), self.choices
        choice, own = choices.terms(taken, choices.locate(logits)), self.scores.terms(of_scores, scores, noise)
        nats, slope, moment, is_level = *own, taken.is_level
        counted = self.has_score.to(output).expand(*output.shape[:-1], -1)
        if self.has_spikes:
            is_rest, is_both = of_both.chunk(2, dim=-1)
            nats, slope, moment = nats * is_rest, slope * is_rest, moment * is_rest
            counted = _by_column(is_rest, self.of_score)
        if self.has_spiked_cells:  # where whole numbers of the spread are the same as a level
            cells = self.level_of_cell.to(output)
            excess = -own.nats - choice.logit @ cells  # log-odds that a number is one of the spread
            of_spread = torch.sigmoid(excess) * is_both
            nats = nats - nn.functional.softplus(excess) * is_both
            slope = slope + own.slope * of_spread
            is_level = is_level - of_spread @ cells.mT
        energy = _by_column(nats, self.of_score) + _by_column(choice.nats, self.of_choice)
        slope = self._joined(slope, choice.probability.scatter_add(-1, taken.place, -is_level))
        return energy, slope, _by_column(moment, self.of_score), counted

    def _joined(self, scores: Tensor, logits: Tensor) -> Tensor:
        """Put slopes of scores and of logits side by side, with zeros for counts."""
        return torch.cat([scores, scores.new_zeros(*scores.shape[:-1], self.sizes[1]), logits], dim=-1)

    def strangeness(self, target: Tensor) -> Tensor:
        """Nats by which numbers that are none of a column's levels are less probable than the level that stands for them.

        Where a column takes few values, energies are those of the nearest one. Others have a thousandth of its probability, all
        together: one that is k gaps away on either side, the gap being the smallest between two levels, half of 1 / (k (k + 1)).
        """
        gaps = self.choices.missed(target).abs()
        far = gaps.clamp(min=1.0)
        nats = (2.0 * far * (far + 1.0)).log() - math.log(_OF_OTHER_LEVELS)
        is_other = (gaps > _SAME) & self._present(target)[1][..., self.choices.columns]
        return _by_column(torch.where(is_other, nats, 0.0), self.of_choice)

    def nll_of(self, energy: Tensor, observed: Tensor | None = None) -> Tensor:
        return energy.sum(-1)

    def log_constants(self) -> Tensor:
        return torch.zeros_like(self.noise.weight)

    def distortion(self, target: Tensor, output: Tensor, observed: Tensor | None = None, facts: Tensor | None = None) -> Tensor:
        """Energies of rows at the present noise, which training that minimizes them leaves as large as scores vary."""
        return self.terms(target, output, observed, facts).energy.sum(-1)

    def information(self, output: Tensor) -> Tensor:
        scores, counts, logits = self._split(self.locate(output))
        probability = self.choices.probability(logits)
        precise = (1.0 / self._moment(scores)).expand_as(scores)
        if self.has_spikes:
            precise = precise * self._rest_of_scores(probability)
        of_counts = counts.exp().square() / self.counts.variance(counts) * self.counts.scale.to(counts).square()
        return torch.cat([precise, of_counts, probability * (1.0 - probability)], dim=-1)

    def _rest_of_scores(self, probability: Tensor) -> Tensor:
        """Probabilities that columns of scores have no level, ``(..., n_score_columns)``."""
        taken = _by_column(probability @ self.choices.member.to(probability), self.of_choice)
        return (1.0 - taken[..., self.scores.columns]).clamp(min=0.0)

    def residual(self, target: Tensor, output: Tensor) -> Tensor:
        """Differences of scores, counts and indicators of levels from their means; zero where an entry is missing."""
        present, observed = self._present(target)
        scores, counts, logits = self._split(self.locate(output))
        chosen = self.choices.chosen(target)
        of_scores = self.scores.score(present[..., self.scores.columns]) - scores
        if self.has_spikes:
            is_level = _by_column(self.choices.has_level(chosen), self.of_choice) > 0.0
            of_scores = torch.where(is_level[..., self.scores.columns], 0.0, of_scores)
        of_counts = (present[..., self.counts.columns] - counts.exp()) * self.counts.scale.to(counts)
        residual = torch.cat([of_scores, of_counts, chosen - self.choices.probability(logits)], dim=-1)
        return residual * self.spread(observed)

    def score(self, residual: Tensor, information: Tensor) -> Tensor:
        """Gradient of the log-likelihood: of normal scores residuals times information, of all else about the residuals."""
        n_scores = self.sizes[0]
        return torch.cat([residual[..., :n_scores] * information[..., :n_scores], residual[..., n_scores:]], dim=-1)

    def shortfall(self, target: Tensor, output: Tensor) -> Tensor:
        residual, information = self.residual(target, output), self.information(output)
        n_scores = self.sizes[0]
        others = residual[..., n_scores:] / information[..., n_scores:].clamp(min=_LEAST_INFORMATION)
        return torch.cat([residual[..., :n_scores], others], dim=-1)

    def expected_energy(self, residual: Tensor, variance: Tensor) -> Tensor:
        """Mean squares of scores' residuals that are known up to a normal error, ``(..., n_features)``."""
        n_scores = self.sizes[0]
        return _by_column(residual[..., :n_scores].square() + variance[..., :n_scores], self.of_score)

    # -- means --------------------------------------------------------------------------------------------------------

    def _moments(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities of levels, and means of scores' numbers and of counts, all in standardized units."""
        scores, counts, logits = self._split(self.locate(output))
        return self.choices.probability(logits), self.scores.expectation(scores, self._moment(scores)), counts.exp()

    def average(self, output: Tensor, share: Tensor) -> Tensor:
        probability, numbers, counts = (torch.einsum("nk,nkd->nd", share.to(output), values) for values in self._moments(output))
        return self._choose(probability, numbers, counts, keeps_spikes=False)

    def expectation(self, output: Tensor) -> Tensor:
        """Means of numbers, but a level that is likelier than not, and the likeliest categories."""
        return self._choose(*self._moments(output), keeps_spikes=True)

    def _choose(self, probability: Tensor, numbers: Tensor, counts: Tensor, *, keeps_spikes: bool) -> Tensor:
        choices = self.choices
        value, member = choices.value.to(probability), choices.member.to(probability)
        likeliest = choices.table(probability, 0.0).max(-1)
        level = choices.table(value, 0.0).expand(*probability.shape[:-1], -1, -1)
        level = level.gather(-1, likeliest.indices.unsqueeze(-1)).squeeze(-1)
        mean = (probability * value) @ member
        rest = (1.0 - probability @ member).clamp(min=0.0)
        chosen = torch.where(choices.is_number, mean, level)
        if keeps_spikes:
            chosen = torch.where((choices.rest > 0.0) & (likeliest.values >= 0.5), level, chosen)
            rest = torch.where((choices.rest > 0.0) & (likeliest.values < 0.5), rest, 0.0)
        else:
            rest = rest * choices.rest.to(rest)
        of_choice, of_rest = _by_column(chosen, self.of_choice), _by_column(rest, self.of_choice)
        of_score = _by_column(numbers, self.of_score)
        found = torch.where(self.has_choice, of_choice + of_rest * of_score, of_score)
        return found + _by_column(counts, self.of_count)

    def variance(self, output: Tensor) -> Tensor:
        """Variances by column: of numbers in standardized units, of categories how unsure they are."""
        _, variance = self.mixture_moments(output.unsqueeze(-2))
        return variance

    def mixture_moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        scores, counts, logits = self._split(self.locate(output))
        moment = self._moment(scores)
        probability = self.choices.probability(logits).mean(-2)
        numbers = self.scores.expectation(scores, moment)
        squares = self.scores.expectation(scores, moment, square=True).mean(-2)
        rates = counts.exp()
        mean = self._choose(probability, numbers.mean(-2), rates.mean(-2), keeps_spikes=False)
        choices, member = self.choices, self.choices.member.to(output)
        second = (probability * choices.value.to(output).square()) @ member
        unsure = 1.0 - choices.table(probability, 0.0).amax(-1)
        rest = (1.0 - probability @ member).clamp(min=0.0) * choices.rest.to(output)
        second, rest = _by_column(second, self.of_choice), _by_column(rest, self.of_choice)
        of_score = _by_column(squares, self.of_score)
        second = torch.where(self.has_choice, second + rest * of_score, of_score)
        second = second + _by_column((self.counts.variance(counts) + rates.square()).mean(-2), self.of_count)
        is_category = (1.0 - _by_column(choices.is_number.to(output), self.of_choice)) * self.has_choice
        return mean, torch.where(is_category > 0.0, _by_column(unsure, self.of_choice), (second - mean.square()).clamp(min=0.0))

    # -- rows, in double precision ------------------------------------------------------------------------------------

    def _exact(self, X: Any) -> Tensor:
        x = super()._exact(X)
        return torch.where(x.isnan(), ABSENT, x)

    @torch.no_grad()
    def log_prob(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        target = self._exact(X)
        _, observed = self._present(target)
        nats = self.energies(target, output.cpu().double(), observed) + self.strangeness(target)
        return -nats.sum(-1).numpy()  # type: ignore[no-any-return]

    @torch.no_grad()
    def deviance(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        """Nats by which entries fall short of the best: scores of their means, levels of the likeliest one."""
        target = self._exact(X)
        present, observed = self._present(target)
        scores, counts, logits = self._split(self.locate(output.cpu().double()))
        choices, chosen = self.choices, self.choices.chosen(target)
        highest = choices.table(logits, torch.where(choices.rest > 0.0, 0.0, -torch.inf).to(logits))
        highest = torch.where(choices.is_slot, highest, -torch.inf).amax(-1)
        missed = highest - (chosen * logits) @ choices.member.to(logits)
        deviation = (self.scores.score(present[..., self.scores.columns]) - scores).abs()
        moment = self._moment(scores)
        own = torch.where(self.scores.is_laplace, deviation / moment, 0.5 * deviation.square() / moment)
        own = _by_column(own, self.of_score)
        if self.has_spikes:
            own = torch.where(_by_column(choices.has_level(chosen), self.of_choice) > 0.0, 0.0, own)
        found = own + _by_column(missed, self.of_choice)
        if self.sizes[1]:
            here = present[..., self.counts.columns]
            best = self.counts.nats(here, torch.log(here.clamp(min=1e-9)))
            found = found + _by_column((self.counts.nats(here, counts) - best).clamp(min=0.0), self.of_count)
        return torch.where(observed, found, 0.0).numpy()  # type: ignore[no-any-return]

    def expected_input(self, output: Tensor) -> Tensor:
        """Return what networks are expected to read, ``(..., n_inputs)``: of counts, what they read of the mean."""
        scores, counts, logits = self._split(self.locate(output))
        choices = self.choices
        indicators = choices.of_level.to(logits) * choices.probability(logits) + choices.of_others.to(logits)
        return torch.cat([scores, self.counts.read(counts.exp()), indicators], dim=-1)

    def comparable(self, x: Tensor) -> Tensor:
        """Return what networks read of rows, in which columns compare, ``(..., n_inputs)``."""
        return self.read(x)

    def near(self, x: Tensor) -> Tensor:
        """Return what networks read, but for levels ones and zeros less their shares, beside which a number is not lost."""
        rest, levels = torch.split(self.read(x), [self.n_inputs - self.sizes[2], self.sizes[2]], dim=-1)
        return torch.cat([rest, levels / self.choices.of_level.to(levels)], dim=-1)

    def comparable_rows(self, X: Any) -> NDArray[np.float64]:
        """Rows of `X` in standardized units, which are fewer numbers than networks read, NaN where entries are missing."""
        return super()._exact(X).numpy()  # type: ignore[no-any-return]

    @torch.no_grad()
    def errors(self, X: Any, output: Tensor) -> NDArray[np.float64]:
        target = self._exact(X)
        _, observed = self._present(target)
        expected = self.expected_input(output.cpu().double())
        x = torch.where(self.spread(observed), self.read(target), expected)
        return torch.cat([x, x - expected], dim=1).numpy()  # type: ignore[no-any-return]

    # -- noise and draws ----------------------------------------------------------------------------------------------

    def noise_floor(self) -> Tensor:
        """Smallest variances that linear models leave of what networks read, ``(n_inputs,)``: draws of levels are never sure."""
        _, n_counts, n_levels = self.sizes
        floors = self.noise.floor[self.scores.columns].cpu().double()
        others = torch.full((n_counts + n_levels,), _UNSURE, dtype=torch.float64)
        return torch.cat([floors, others])

    def noise_scale(self) -> NDArray[np.float64]:
        """Noise of numbers, as wide as it is around their middle, in the units of the data; zero for all other columns."""
        moment = self._moment(self.scores.center).double()
        spread = torch.where(self.scores.is_laplace, moment, moment.sqrt())
        slope = self.scores.log_slope_at(torch.zeros_like(spread)).exp()
        return _by_column(spread / slope, self.of_score).cpu().numpy()  # type: ignore[no-any-return]

    def scatter(self, output: Tensor, generator: torch.Generator) -> Tensor:
        shape = (*output.shape[:-1], self.n_features)
        noise = torch.randn(shape, generator=generator, device=output.device, dtype=output.dtype)
        return self.scatter_by(output, noise)

    def scatter_by(self, output: Tensor, noise: Tensor) -> Tensor:
        """Turn standard normal numbers, one for each column, into draws, in standardized units."""
        found = self._scattered(output, noise, self._moment(output))
        if self.sizes[1]:
            _, counts, _ = self._split(self.locate(output))
            uniform = normal_cdf(noise[..., self.counts.columns]).expand(counts.shape)
            found = found + _by_column(self.counts.draw(counts, uniform), self.of_count)
        return found

    def _scattered(self, output: Tensor, noise: Tensor, moment: Tensor) -> Tensor:
        """Draw as `scatter_by` does all but counts, which are zero, with some noise of the scores."""
        scores, _, logits = self._split(self.locate(output))
        noise = noise.expand(*output.shape[:-1], self.n_features)
        uniform = normal_cdf(noise)
        level, left = self.choices.draw(logits, uniform[..., self.choices.columns])
        left, level = _by_column(left, self.of_choice), _by_column(level, self.of_choice)
        of_scores = noise
        if self.has_spikes:
            tail = left.clamp(1e-6, 1.0 - 1e-6)
            of_scores = torch.where(self.has_choice, torch.special.ndtri(tail), noise)
        drawn = self.scores.scatter_by(scores, moment, of_scores[..., self.scores.columns])
        return torch.where(self.has_choice & (left < 0.0), level, _by_column(drawn, self.of_score))

    # -- corruption ---------------------------------------------------------------------------------------------------

    @property
    def is_number(self) -> Tensor:
        """Which columns have numbers that lie close to others, ``(n_features,)``: all but those of levels alone."""
        return self.has_score | (self.of_count.sum(0) > 0.0)

    def redrawn(self, noise: Tensor) -> Tensor:
        """Turn standard normal numbers ``(n, n_features)`` into standardized entries, by their frequencies, of all but counts."""
        output = noise.new_zeros(*noise.shape[:-1], self.n_outputs)
        return self._scattered(output, noise, torch.ones_like(self._moment(output)))

    def blurred(self, x: Tensor, noise: Tensor, scale: float) -> Tensor:
        """Add noise of a scale to scores, and replace levels by draws of their columns, at the rate that tells as much of them.

        Parameters
        ----------
        x, noise : Tensor of shape (n, n_features)
            Standardized rows, and standard normal numbers.
        scale : float
            Beside scores of a standard deviation of one, which are then correlated with what they were by
            ``1 / sqrt(1 + scale ** 2)``; so are indicators of levels.

        Returns
        -------
        Tensor of shape (n, n_features)
        """
        present, counts = self._present(x)[0], self.counts
        scores = self.scores.score(present[..., self.scores.columns]) + scale * noise[..., self.scores.columns]
        found = _by_column(self.scores.number(scores), self.of_score)
        if self.sizes[1]:
            moved = counts.read(present[..., counts.columns]) + scale * noise[..., counts.columns]
            found = found + _by_column(torch.expm1(moved * counts.scale + counts.center).clamp(min=0.0), self.of_count)
        rate = 1.0 - 1.0 / math.sqrt(1.0 + scale**2)
        uniform = normal_cdf(noise)
        again = self.redrawn(torch.special.ndtri((uniform / max(rate, 1e-6)).clamp(1e-6, 1.0 - 1e-6)))
        is_level = _by_column(self.choices.has_level(self.choices.chosen(x)), self.of_choice) > 0.0
        return torch.where(is_level, torch.where(uniform < rate, again, x), found)


class ColumnNoise(Noise):
    """Noise of scores, of which there is one number for each column, be it used or not."""

    def __init__(self, n_features: int):
        super().__init__(n_features, "feature", unit_weight=0.5, std_per_scale=1.0, power=2, log_normalizer=_nothing)

    def set_units(self, scale: NDArray[np.float64], *, shared: bool) -> None:
        """Change nothing: scores have no unit."""


def _nothing(weight: Tensor) -> Tensor:
    return weight.new_zeros(weight.shape[:-1])


def _by_column(values: Tensor, belongs: Tensor) -> Tensor:
    """Values of some columns at the places of all, and zeros at those of the others; a product with ones and zeros is quick."""
    return values @ belongs.to(values)


def _in_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a function of rows, of few at a time, which stay in the processor's cache."""
    if x.dim() != 2 or len(x) <= _BLOCK_ROWS:
        return function(x)
    return torch.cat([function(block) for block in torch.split(x, _BLOCK_ROWS)])


def _ranges(X: Any, n_features: int) -> dict[str, NDArray[np.float64]]:
    """Least and largest values of the columns of a table; NaN where none is there."""
    source, ends = as_source(X), np.full((n_features, 2), np.nan)
    for j, own in enumerate(ends):
        values = source.columns(np.array([j])).read_exactly(slice(None))
        if not np.isnan(values).all():
            own[:] = np.nanmin(values), np.nanmax(values)
    return {"low": ends[:, 0], "high": ends[:, 1]}


class Mixed(LikelihoodSpec):
    """A distribution for each column of a data frame, by what it holds.

    Parameters
    ----------
    likelihoods : dict or None, default=None
        Names of distributions by the names of columns, out of "auto", "categorical", "gaussian", "laplace", "negative_binomial"
        and "poisson"; columns that are not named are left to "auto": categories and booleans have a probability each, and so have
        numbers of few values; other numbers have values with a mass of their own, such as zero, beside normal noise around a
        monotone function of theirs, which is linear where that will do. Whole numbers have the probability of their unit cell.
    bounds : {"observed"} or None, default=None
        "observed" keeps the numbers of rows that the model returns within the range of those it has learned from.
    handle_unknown : {"error", "missing"}, default="error"
        What to do about categories that were not there in `fit`: raise an error, or take them as missing.

    Examples
    --------
    >>> from skvae import Mixed
    >>> Mixed({"visits": "poisson"}, bounds="observed")
    Mixed(likelihoods={'visits': 'poisson'}, bounds='observed')
    """

    name = "auto"
    _module_class = GaussianLikelihood  # of arrays

    def __init__(self, likelihoods: Mapping[Any, str] | None = None, *, bounds: str | None = None, handle_unknown: str = "error"):
        self.likelihoods = likelihoods
        self.bounds = bounds
        self.handle_unknown = handle_unknown

    def check(self) -> None:
        """Look whether the arguments are among those there are.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_name(self, "handle_unknown", ("error", "missing"))
        if self.bounds is not None:
            check_name(self, "bounds", ("observed",), or_else=", or None")
        if self.likelihoods is None:
            return
        if not isinstance(self.likelihoods, Mapping):
            raise ValueError(f"{self!r}: likelihoods={self.likelihoods!r} must be a dict of names by column, or None.")
        for column, family in self.likelihoods.items():
            if not isinstance(family, str) or family not in COLUMN_FAMILIES:
                raise ValueError(
                    f"{self!r}: column {column!r} has {family!r}, which must be one of {', '.join(map(repr, COLUMN_FAMILIES))}."
                )
