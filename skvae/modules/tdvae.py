"""The temporal difference variational autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from skvae.functional import gaussian_kl, normal_log_prob
from skvae.modules.base import LatentModule, Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.likelihoods import Energies, LikelihoodSpec
from skvae.modules.networks.layers import mlp
from skvae.modules.networks.recurrent import Memory, RecurrentNetwork
from skvae.modules.networks.specs import MLP, Recurrent, fill, hidden_of

_FIRST_LOG_STD = -1.5  # states that begin uncertain are ignored, and then die
_MIN_LOG_STD, _MAX_LOG_STD = -8.0, 4.0
_FIRST_BETA = 0.01
_GAP_FEATURES = 16
_QUIET = 0.1  # factor on the first weights of what departs from the belief
_BEND = 0.3  # factor on the first weights of what departs from a linear map
_SEEN_WHOLE, _MOST_RESCALED = 0.5, 5.0  # share of sequences measured by all of their steps, and bounds of the factor otherwise
_UNGUIDED = 0.25  # share of the draws behind a score that come from the prediction

Moments = Callable[[int, Sequence[Tensor]], tuple[Tensor, Tensor]]


def resolve_recurrent(
    encoder: Recurrent | str, decoder: MLP | None, hidden_layer_sizes: Sequence[int], activation: str | type[nn.Module]
) -> tuple[Recurrent, MLP]:
    """Complete specifications of the recurrent network and of the perceptrons, with the widths of the decoder."""
    recurrent = Recurrent(encoder) if isinstance(encoder, str) else encoder
    perceptron = MLP() if decoder is None else decoder
    for spec in (recurrent, perceptron):
        spec.check()
    return recurrent, fill(perceptron, tuple(hidden_layer_sizes)[::-1], activation)


class TDVAEModule(LatentModule):
    r"""Beliefs about a hidden state that jumps ahead in time, learned from pairs of steps [1]_.

    For steps :math:`t_1 < t_2`, beliefs :math:`b_t` that have read a sequence up to step t, and states
    :math:`z_{t_2} \sim p_B(z|b_{t_2})` and :math:`z_{t_1} \sim q_S(z|z_{t_2}, b_{t_1}, b_{t_2})`, the loss is

    .. math::
        -\log p_D(x_{t_2}|z_{t_2}) + \beta\left[\mathrm{KL}(q_S(z_{t_1}|z_{t_2}, b_{t_1}, b_{t_2})\,\|\,p_B(z_{t_1}|b_{t_1}))
        + \log p_B(z_{t_2}|b_{t_2}) - \log p_T(z_{t_2}|z_{t_1})\right]

    on average over pairs, with an auxiliary term that fades over the run: the error of what the means of belief and
    transition lead to. Step 0 lies before the first frame, where the belief knows nothing: it begins sequences.

    The smoothing distribution departs from the belief; the transition departs from a linear map, one for each gap.
    Where a jump is longer than a step, the belief it ends in is taken for given: it has seen the frames between, and
    would forget what tells them apart to be easier to foresee.

    Parameters
    ----------
    n_features : int
        Columns of a frame.
    n_components : int
        Size of the belief.
    n_timesteps : int
        Length of a typical sequence.
    max_gap : int
        Longest jump.
    n_latents : int
        Size of the state, in each layer.
    n_latent_layers : int
        Layers of the state, each conditioned on those above.
    n_pairs : int
        Pairs of steps per sequence and training step.
    one_step_fraction : float
        Fraction of them that are neighbors; the gaps of the others are uniform.
    beta : float
        Weight of what the state costs; 1 gives the bound.
    kl_warmup : float
        Fraction of the run over which the weight grows from a hundredth of `beta`.
    auxiliary : float
        Weight of the auxiliary term to begin with.
    scaling : {"mean", "standard"}, optional
        How sequences have been measured, each by all of its steps: training then measures half of them by their first steps
        alone, as they are where what follows is not known yet.
    encoder : Recurrent or str, optional
        The recurrent network behind the belief, or its cell.
    decoder : MLP, optional
        The perceptrons: belief, smoothing and transition in the reverse order of widths.
    hidden_layer_sizes, activation
        Of belief, smoothing and transition, and in reverse of the decoder, where `decoder` does not tell.
    likelihood
        See `LatentModule`.

    References
    ----------
    .. [1] Gregor et al., "Temporal difference variational auto-encoder", ICLR 2019.
    """

    learns_noise = True
    encoder: RecurrentNetwork

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        n_timesteps: int,
        max_gap: int,
        n_latents: int = 8,
        n_latent_layers: int = 1,
        n_pairs: int = 16,
        one_step_fraction: float = 0.5,
        beta: float = 1.0,
        kl_warmup: float = 0.8,
        auxiliary: float = 1.0,
        scaling: str | None = None,
        encoder: Recurrent | str = "lstm",
        decoder: MLP | None = None,
        hidden_layer_sizes: Sequence[int] = (64,),
        activation: str | type[nn.Module] = "relu",
        likelihood: str | LikelihoodSpec = "gaussian",
    ):
        self.n_latents, self.n_latent_layers = n_latents, n_latent_layers
        self.state_size = n_latents * n_latent_layers
        self.n_timesteps, self.max_gap = n_timesteps, max_gap
        self.n_pairs, self.one_step_fraction = n_pairs, one_step_fraction
        self.beta, self.kl_warmup, self.auxiliary, self.scaling = beta, kl_warmup, auxiliary, scaling
        recurrent, perceptron = resolve_recurrent(encoder, decoder, hidden_layer_sizes, activation)
        super().__init__(n_features, n_components, likelihood=likelihood, encoder=recurrent, decoder=perceptron)
        sizes, hidden = perceptron.hidden_layer_sizes[::-1], hidden_of(perceptron)

        def heads(n_inputs: int) -> nn.ModuleList:
            above = (layer * n_latents for layer in range(n_latent_layers))
            return nn.ModuleList(BentLinear(n_inputs + n, sizes, 2 * n_latents, **hidden) for n in above)

        self.belief = heads(n_components)
        self.smoothing = heads(self.state_size + 2 * n_components + _GAP_FEATURES)
        self.transition = heads(self.state_size + _GAP_FEATURES)
        self.gap_features = nn.Embedding(max_gap, _GAP_FEATURES)
        self.jumps = nn.Parameter(torch.eye(self.state_size).repeat(max_gap, 1, 1))
        with torch.no_grad():
            for head in (*self.belief, *self.transition):
                head.linear.bias[n_latents:].add_(_FIRST_LOG_STD)
            for parameter in self.smoothing.parameters():
                parameter.mul_(_QUIET)
        self.noise_shapes = {"pairs": (n_pairs, 3), "present": (n_pairs, self.state_size), "past": (n_pairs, self.state_size)}
        if scaling is not None:
            self.noise_shapes["prefix"] = (2,)

    def _build_networks(self, **networks: Any) -> tuple[nn.Module, nn.Module]:
        recurrent, perceptron = networks["encoder"], networks["decoder"]
        n_layers, dropout = int(recurrent.n_layers), float(recurrent.dropout)
        encoder = RecurrentNetwork(recurrent.cell, self.likelihood.n_inputs, self.n_components, n_layers, dropout)
        if recurrent.cell == "lstm":  # gates that begin open remember
            with torch.no_grad():
                for layer in encoder.layers:
                    layer.bias_hh_l0[self.n_components : 2 * self.n_components] += 1.0  # type: ignore[operator, index]
        sizes = perceptron.hidden_layer_sizes
        return encoder, BentLinear(self.n_decoder_inputs, sizes, self.likelihood.n_outputs, **hidden_of(perceptron))

    @property
    def n_decoder_inputs(self) -> int:
        return self.state_size

    @property
    def networks(self) -> list[nn.Module]:
        return [*super().networks, *self.belief, *self.smoothing, *self.transition]

    @cached_property
    def row_work(self) -> int:
        """Multiply-adds of a sequence in training."""
        recurrent = sum(weight.numel() for weight in self.encoder.parameters())
        others = sum(weight.numel() for weight in self.parameters()) - recurrent - self.jumps.numel()
        return self.n_timesteps * recurrent + self.n_pairs * (others + self.state_size**2)

    @cached_property
    def depends_on_threads(self) -> bool:
        """Always: gates are computed many at once, and the last few alone."""
        return True

    # -- the schedule -------------------------------------------------------------------------------------------------

    @property
    def warmup(self) -> float:
        return self.kl_warmup  # held-out losses have no auxiliary term in them

    def schedule(self, progress: float) -> dict[str, float]:
        rise = 1.0 if progress >= self.kl_warmup else progress / self.kl_warmup
        values = {"beta": self.beta * (_FIRST_BETA + (1.0 - _FIRST_BETA) * rise)}
        if self.auxiliary and progress < 1.0:
            values["auxiliary"] = self.auxiliary * (1.0 - progress)
        return values

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Beliefs after every frame.

        Parameters
        ----------
        x : Tensor of shape (n, n_timesteps, n_features)
            Standardized frames; NaN where a sequence has ended.
        memory : tuple of Tensor of shape (n_layers, n, n_components), optional
            Where the recurrent network left off.

        Returns
        -------
        beliefs : Tensor of shape (n, n_timesteps, n_components)
        memory : tuple of Tensor
        """
        read: tuple[Tensor, Memory] = self.encoder(self.likelihood.network_input(x.nan_to_num(0.0)), memory)
        return read

    def memory_shapes(self, n: int) -> list[tuple[int, int, int]]:
        """Shapes of what the recurrent network remembers of several sequences."""
        return self.encoder.memory_shapes(n)

    def encode(self, batch: Batch) -> Tensor:
        """Belief after the last frame of sequences, ``(n, n_components)``."""
        beliefs = self.read(batch.x)[0]
        last = lengths(batch.x) - 1
        return _steps(beliefs, last.unsqueeze(1)).squeeze(1)

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        """Return what the likelihood reads off states, ``(..., state_size)`` to ``(..., n_features)``."""
        output: Tensor = self.decoder(z)
        return output

    # -- the distributions: a mean and a logarithm of a standard deviation for each layer, given those above ----------

    def belief_moments(self, belief: Tensor) -> Moments:
        """p_B(z|b)."""

        def moments(layer: int, above: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            given = belief.expand(*above[0].shape[:-1], -1) if above else belief  # of one belief, several states above
            return _split(self.belief[layer](torch.cat([given, *above], dim=-1)))

        return _once(moments)

    def smoothing_moments(self, later: Tensor, before: Tensor, after: Tensor, gap: Tensor, expected: Moments) -> Moments:
        """q_S(z_t1|z_t2, b_t1, b_t2), which departs from p_B(z_t1|b_t1), the last argument."""
        given = [later, before, after, self.gap_features(gap - 1)]

        def moments(layer: int, above: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            mean, log_std = expected(layer, above)
            shift, log_factor = self.smoothing[layer](torch.cat([*given, *above], dim=-1)).chunk(2, dim=-1)
            return mean + shift, (log_std + log_factor).clamp(_MIN_LOG_STD, _MAX_LOG_STD)

        return _once(moments)

    def transition_moments(self, earlier: Tensor, gap: Tensor) -> Moments:
        """p_T(z_t2|z_t1), which departs from a linear map."""
        given = [earlier, self.gap_features(gap - 1)]
        moved = self._layers(torch.einsum("...ij,...j->...i", self.jumps[gap - 1], earlier))

        def moments(layer: int, above: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
            shift, log_std = _split(self.transition[layer](torch.cat([*given, *above], dim=-1)))
            return moved[layer] + shift, log_std

        return _once(moments)

    def _layers(self, state: Tensor) -> tuple[Tensor, ...]:
        """Cut states ``(..., state_size)`` into their layers."""
        return torch.split(state, self.n_latents, dim=-1)

    def draw(self, moments: Moments, noise: Tensor | None) -> Tensor:
        """Turn standard normal numbers into a state, layer by layer; into its mean where there are none."""
        layers: list[Tensor] = []
        parts = (None,) * self.n_latent_layers if noise is None else self._layers(noise)
        for layer, part in enumerate(parts):
            mean, log_std = moments(layer, layers)
            layers.append(mean if part is None else torch.addcmul(mean, part, log_std.exp()))
        return torch.cat(layers, dim=-1)

    def log_density(self, state: Tensor, moments: Moments) -> Tensor:
        """Log-density of states ``(..., state_size)`` under one of the distributions."""
        layers = self._layers(state)
        total = state.new_zeros(())
        for layer, z in enumerate(layers):
            mean, log_std = moments(layer, layers[:layer])
            total = total + normal_log_prob(z, mean, 2.0 * log_std)
        return total

    # -- training -----------------------------------------------------------------------------------------------------

    def pairs(self, noise: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Turn standard normal numbers ``(n, n_pairs, 3)`` into gaps and second steps within sequences of these lengths."""
        which, far, place = torch.special.ndtr(noise).unbind(-1)
        length = length.unsqueeze(1)
        longest = length.clamp(max=self.max_gap)
        gap = 1 + (far * longest).long().clamp(max=longest - 1)
        gap = torch.where(which < self.one_step_fraction, 1, gap)
        second = gap + (place * (length - gap + 1)).long().clamp(max=length - gap)
        return gap, second

    def rescaled(self, x: Tensor, noise: Tensor) -> Tensor:
        """Measure some sequences by their first steps, how many of which normal numbers ``(n, 2)`` decide."""
        which, place = torch.special.ndtr(noise).unbind(-1)
        length = lengths(x)
        seen = torch.where(which < _SEEN_WHOLE, length, 1 + (place * length).long()).clamp(max=length)
        unit, zero = self.likelihood.column("unit"), self.likelihood.to_data(x.new_zeros(x.shape[-1]))
        frames = x / unit + zero
        is_seen = (torch.arange(x.shape[1], device=x.device) < seen.unsqueeze(1)).unsqueeze(-1)
        shown, count = frames.nan_to_num(0.0) * is_seen, seen.view(-1, 1, 1)
        if self.scaling == "mean":
            scale, location = shown.abs().sum(1, keepdim=True) / count, zero.new_zeros(())
        else:
            location = shown.sum(1, keepdim=True) / count
            scale = (((shown - location) * is_seen).square().sum(1, keepdim=True) / count).sqrt()
        # What has no scale of its own, and first steps that tell nothing of it, must not become a spike.
        scale = scale.clamp(1.0 / _MOST_RESCALED, _MOST_RESCALED)
        return ((frames - location) / scale - zero) * unit

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        x = batch.x if self.scaling is None else self.rescaled(batch.x, batch.drawn("prefix"))
        gap, second = self.pairs(batch.drawn("pairs"), lengths(x))
        beliefs = nn.functional.pad(self.read(x)[0], (0, 0, 1, 0))
        before, after = _steps(beliefs, second - gap), _steps(beliefs, second)
        after = torch.where((gap > 1).unsqueeze(-1), after.detach(), after)
        target = _steps(x, second - 1)

        believed, expected = self.belief_moments(after), self.belief_moments(before)
        later = self.draw(believed, batch.drawn("present"))
        smoothed = self.smoothing_moments(later, before, after, gap, expected)
        earlier = self.draw(smoothed, batch.drawn("past"))
        smoothing = self._divergence(earlier, smoothed, expected)
        transition = self.log_density(later, believed) - self.log_density(later, self.transition_moments(earlier, gap))
        energy = self.likelihood.energies(target, self.decode(later, batch))
        terms = {
            "reconstruction": self.likelihood.nll_of(energy).mean(1),
            "smoothing": schedule["beta"] * smoothing.mean(1),
            "transition": schedule["beta"] * transition.mean(1),
        }
        if "auxiliary" in schedule:
            jump = self.draw(self.transition_moments(self.draw(expected, None), gap), None)
            error = self.likelihood.energies(target, self.decode(jump, batch)) @ self.likelihood.weight
            terms["auxiliary"] = schedule["auxiliary"] * error.mean(1)
        return Loss(terms, self._noise_learned(batch, Energies(energy, energy, batch.counted)))

    def _divergence(self, state: Tensor, first: Moments, second: Moments) -> Tensor:
        """KL between two distributions of a state, layer by layer along a draw from the first."""
        layers = self._layers(state)
        total = state.new_zeros(())
        for layer in range(self.n_latent_layers):
            (mean, log_std), (prior_mean, prior_log_std) = first(layer, layers[:layer]), second(layer, layers[:layer])
            total = total + gaussian_kl(mean, 2.0 * log_std, prior_mean, 2.0 * prior_log_std)
        return total

    @torch.no_grad()
    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Fit the likelihood's noise to the frames of sequences and draws of their states.

        Parameters
        ----------
        batch : Batch
            With ``noise["present"]`` of shape ``(n, n_timesteps, state_size)``.
        """
        if self.likelihood.learns_noise:
            present = ~torch.isnan(batch.x[..., 0])
            belief, noise = self.read(batch.x)[0][present], batch.drawn("present")[present]
            output = self.decode(self.draw(self.belief_moments(belief), noise), batch)
            weight = batch.weight.unsqueeze(1).expand(present.shape)[present]
            self.likelihood.noise.set_moment(
                self.likelihood.mean_energy(self.likelihood.energies(batch.x[present], output), weight)
            )

    # -- what a trained model is asked for ----------------------------------------------------------------------------

    def jump(self, belief: Tensor, gap: int, noise: Tensor) -> Tensor:
        """States some steps after beliefs, in as few jumps as the longest allows.

        Parameters
        ----------
        belief : Tensor of shape (n, n_components)
        gap : int
        noise : Tensor of shape (n_draws, 1 + n_jumps, state_size) or (n, n_draws, 1 + n_jumps, state_size)
            Standard normal draws; see `n_jumps`.

        Returns
        -------
        Tensor of shape (n, n_draws, state_size)
        """
        noise = noise.expand(len(belief), *noise.shape[-3:])
        state = self.draw(self.belief_moments(belief.unsqueeze(1).expand(*noise.shape[:2], -1)), noise[..., 0, :])
        for i in range(self.n_jumps(gap)):
            step = min(self.max_gap, gap - i * self.max_gap)
            state = self.draw(self.transition_moments(state, _gaps(state, step)), noise[..., i + 1, :])
        return state

    def n_jumps(self, gap: int) -> int:
        """How many jumps a gap takes."""
        return -(-gap // self.max_gap)

    def advance(self, state: Tensor, noise: Tensor) -> Tensor:
        """Draw the states one step later."""
        return self.draw(self.transition_moments(state, _gaps(state, 1)), noise)

    def step_log_weights(
        self, before: Tensor, after: Tensor, target: Tensor, noise: Tensor, *, unguided: float = _UNGUIDED
    ) -> Tensor:
        r"""Log importance weights of the next frame given the sequence before it.

        The belief before a frame, the transition and the decoder predict it,
        :math:`p(x_t|x_{<t}) = \int p_B(z_{t-1}|b_{t-1})\,p_T(z_t|z_{t-1})\,p_D(x_t|z_t)`; the belief after it and the
        smoothing distribution propose states. A belief may be surer of itself than it should, above all about frames that are
        rare: some draws come from the prediction itself, and all are weighed by the mixture of both, so that no weight
        exceeds the likelihood of the frame by more than the inverse of their share.

        Parameters
        ----------
        before, after : Tensor of shape (n, n_components)
        target : Tensor of shape (n, n_features)
        noise : Tensor of shape (n, n_draws, 2 * state_size)
        unguided : float
            Share of the draws that come from the prediction, rounded up; at least one does not.

        Returns
        -------
        Tensor of shape (n, n_draws)
        """
        n_draws = noise.shape[1]
        n_unguided = min(math.ceil(unguided * n_draws), n_draws - 1)
        present, past = noise.chunk(2, dim=-1)
        believed, expected = self.belief_moments(after.unsqueeze(1)), self.belief_moments(before.unsqueeze(1))
        before, after = (belief.unsqueeze(1).expand(-1, n_draws, -1) for belief in (before, after))
        gap, guided, free = _gaps(noise, 1), slice(n_draws - n_unguided), slice(n_draws - n_unguided, None)
        later = self.draw(believed, present[:, guided])
        smoothed = self.smoothing_moments(later, before[:, guided], after[:, guided], gap[:, guided], expected)
        earlier = self.draw(smoothed, past[:, guided])
        if n_unguided:
            first = self.draw(expected, past[:, free])
            second = self.draw(self.transition_moments(first, gap[:, free]), present[:, free])
            later, earlier = torch.cat([later, second], dim=1), torch.cat([earlier, first], dim=1)
            smoothed = self.smoothing_moments(later, before, after, gap, expected)
        proposed = self.log_density(later, believed) + self.log_density(earlier, smoothed)
        predicted = self.log_density(earlier, expected) + self.log_density(later, self.transition_moments(earlier, gap))
        if n_unguided:
            share = n_unguided / n_draws
            proposed = torch.logaddexp(proposed + math.log1p(-share), predicted + math.log(share))
        return predicted - proposed - self.likelihood.nll(target.unsqueeze(1), self.decoder(later))

    def prediction(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of frames over draws of their state, and with the likelihood's noise, in standardized units.

        Parameters
        ----------
        output : Tensor of shape (n, n_draws, n_features)
            What the decoder makes of the draws.

        Returns
        -------
        mean, variance : Tensor of shape (n, n_features)
        """
        return self.likelihood.mixture_moments(output)

    def surprise(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Nats by which entries of frames ``(n, n_features)`` fall short of the best, given a prediction's moments."""
        return self.likelihood.surprise(x, mean, variance)


class BentLinear(nn.Module):
    """Linear map with a perceptron that bends it.

    Filters, rotations and readings are close to linear, and are learned much faster as such.

    Parameters
    ----------
    n_inputs : int
    hidden_layer_sizes : sequence of int
    n_outputs : int
    **hidden : dict
        See `skvae.modules.mlp`.
    """

    def __init__(self, n_inputs: int, hidden_layer_sizes: Sequence[int], n_outputs: int, **hidden: Any):
        super().__init__()
        self.linear = nn.Linear(n_inputs, n_outputs)
        self.bend = mlp(n_inputs, hidden_layer_sizes, n_outputs, **hidden) if hidden_layer_sizes else None
        if self.bend is not None:
            with torch.no_grad():
                for parameter in self.bend[-1].parameters():
                    parameter.mul_(_BEND)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.linear(x)
        if self.bend is None:
            return output
        # Rows, since what normalizes a batch takes further dimensions for channels.
        bent: Tensor = self.bend(x.reshape(-1, x.shape[-1]))
        return output + bent.view_as(output)


def lengths(x: Tensor) -> Tensor:
    """Lengths of sequences ``(n, n_timesteps, n_features)``, which end where NaN begin."""
    return (~torch.isnan(x[..., 0])).sum(1)


def _once(moments: Moments) -> Moments:
    """Moments of the layers, of which the top one's, which depend on no other layer, are computed once."""
    found: list[tuple[Tensor, Tensor]] = []

    def remembered(layer: int, above: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if layer:
            return moments(layer, above)
        if not found:
            found.append(moments(0, ()))
        return found[0]

    return remembered


def _steps(values: Tensor, step: Tensor) -> Tensor:
    """Values ``(n, n_steps, width)`` at steps ``(n, n_pairs)``."""
    n, n_steps, width = values.shape
    row = torch.arange(n, device=values.device).unsqueeze(1) * n_steps
    # An embedding, whose backward pass adds in the same order every time on GPUs too.
    chosen = nn.functional.embedding((row + step).flatten(), values.reshape(-1, width))
    return chosen.view(*step.shape, width)


def _gaps(state: Tensor, gap: int) -> Tensor:
    """Give all states the same gap."""
    return torch.full(state.shape[:-1], gap, device=state.device)


def _split(output: Tensor) -> tuple[Tensor, Tensor]:
    """Split a network's output into a mean and a logarithm of a standard deviation."""
    mean, log_std = output.chunk(2, dim=-1)
    return mean, log_std.clamp(_MIN_LOG_STD, _MAX_LOG_STD)
