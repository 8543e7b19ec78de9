"""What every module shares: what the training loop asks for; encoder, decoder, likelihood and the importance-weighted score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae.data.marginals import Marginal
from skvae.modules.batch import Batch, Loss
from skvae.modules.likelihoods import Energies, LikelihoodSpec, build_likelihood, resolve_likelihood
from skvae.modules.networks.build import TIED, build_networks
from skvae.modules.networks.layers import Shortcut, TiedLinear, last_layers
from skvae.modules.networks.specs import MLP
from skvae.modules.posterior import Proposal
from skvae.modules.priors.base import Prior
from skvae.modules.priors.normal import StandardNormal

Schedule = dict[str, Tensor | float]  # tensors of shape (); the number 1.0 may stand for one of that value

_NOISE_RATE = 0.05

# Functions that are computed many entries at once and the last few alone, which differs in the last bit.
_APPROXIMATED = (nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.Sigmoid)


class TrainableModule(nn.Module):
    """What the training loop asks of a module.

    A module's arithmetic is pure: given a batch, its noise and the schedule's values, `loss` reads nothing else but
    parameters and buffers, changes none of them and leaves nothing on the module. What is learned without gradients it returns,
    and `after_step` writes it into buffers.
    """

    noise_shapes: dict[str, tuple[int, ...]]
    solves_per_row = False  # whether scoring solves a linear system per row
    scheduled: ClassVar[frozenset[str]] = frozenset()  # settings that reach `loss` through `schedule` alone, or not at all
    couples_rows = False  # whether what is made of a batch depends on how many rows it has, beyond their weights
    bears_rounding = True  # whether products of the networks may be rounded in training
    interval: int | None = None  # steps from one `after_interval` to the next, of which the first step has one; None for never

    def __init__(self) -> None:
        super().__init__()
        self.noise_shapes = {}

    @cached_property
    def row_work(self) -> int:
        """Multiply-adds that a row takes through the networks; its number of weights where a layer does not tell."""
        work = 0
        for layer in self.modules():
            noted = _note(layer, "row_work")
            work += sum(weight.numel() for weight in layer.parameters(recurse=False)) if noted is None else noted
        return work

    @cached_property
    def depends_on_threads(self) -> bool:
        """Whether results differ in the last bit where threads divide the entries of a layer between them."""
        return any(type(layer) in _APPROXIMATED for layer in self.modules())

    @property
    def networks(self) -> list[nn.Module]:
        """Networks whose products may be rounded in training; none of them calls another one."""
        return []

    def schedule(self, progress: float) -> dict[str, float]:
        """Values of what changes over the run, at `progress` in [0, 1]; what has ended may be left out.

        The training loop passes them on to `loss` as tensors of shape ``()``.
        """
        return {}

    @property
    def warmup(self) -> float:
        """Fraction of the run over which the schedule still moves."""
        return 0.0

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        """Objective of a batch, and what is learned from it without gradients.

        Parameters
        ----------
        batch : Batch
            With the noise that `noise_shapes` asks for.
        schedule : dict of Tensor of shape ()
            See `schedule`.

        Returns
        -------
        Loss
        """
        raise NotImplementedError

    @property
    def is_solved(self) -> bool:
        """Whether what a module begins at is the best that training could come to, the noise included."""
        return False

    def held_out_loss(self, batch: Batch, schedule: Schedule) -> Tensor:
        """Return by what rows that are held out tell how good the module is, ``(n,)``: the objective, or what a model is for."""
        first, *others = (term.expand(len(batch.x)) for term in self.loss(batch, schedule).terms.values())
        return sum(others, first)

    @property
    def decay(self) -> float:
        """Decoupled weight decay of `decayed_parameters`, relative to the learning rate."""
        return 0.0

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Parameters that shrink at every step by the learning rate times `decay`."""
        return []

    def before_training(self) -> None:
        """Prepare what is learned without an optimizer."""

    def after_step(self, learned: dict[str, Tensor]) -> None:
        """Update what is learned without an optimizer, in place, by what the last `loss` returned for it."""

    def after_interval(self, learned: dict[str, Tensor], n_steps: int) -> None:
        """Update what is looked after at every `interval` of steps alone, `n_steps` of which lie behind, after `after_step`."""


class ImportanceDraws(NamedTuple):
    r"""Draws of codes from a proposal, weighted by importance.

    Attributes
    ----------
    log_weights : Tensor of shape (n, n_draws)
        :math:`\log p(x|z_k) + \log p(z_k) - \log q(z_k|x)`.
    output : Tensor of shape (n, n_draws, n_features)
        What the decoder returns for them.
    terms : Energies
        Of shape ``(n, n_draws, n_features)``.
    """

    log_weights: Tensor
    output: Tensor
    terms: Energies


class LatentModule(TrainableModule):
    """Encoder, decoder, likelihood and prior; a model adds its objective and its proposal.

    `Batch` is the one way in: every method takes one, with what is known about its rows, be it conditions or missing entries,
    which are filled by the columns' means.

    Parameters
    ----------
    n_features : int
        Columns of the data.
    n_components : int
        Size of the code.
    likelihood : str or LikelihoodSpec
        A name in `skvae.modules.LIKELIHOODS`, or a specification.
    marginals : sequence of Marginal or None
        What the columns of a mixed table look like by themselves; None where all are numbers that one likelihood is for.
    indicated : sequence of int
        Columns for which the encoder reads whether they are missing, in training order.
    linear_path : float or None
        Weight decay of perceptrons that have linear maps beside them, which `start` sets to the linear special case of the model;
        infinity leaves the linear maps alone. None has perceptrons without.
    **networks : dict
        See `skvae.modules.build_networks`.
    """

    scheduled = frozenset({"linear_path"})
    encoder_outputs_per_component = 1
    learns_noise = False  # whether the loss has the likelihood's noise in it
    passes_rows_on = True  # whether encoder and decoder take rows and codes as they come, with nothing joined to them
    takes_missing = False  # whether rows may have missing entries
    indicated: Tensor
    prior: Prior

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        likelihood: str | LikelihoodSpec = "gaussian",
        marginals: Sequence[Marginal] | None = None,
        indicated: Sequence[int] = (),
        linear_path: float | None = None,
        **networks: Any,
    ):
        super().__init__()
        self.linear_path = linear_path
        if linear_path is not None:
            networks["linear_path"] = True
            if math.isinf(linear_path):
                tied = networks.get("decoder") == TIED
                networks.update(encoder=MLP(()), decoder=TIED if tied else MLP(()))
        self.n_features = n_features
        self.n_components = n_components
        self.n_indicators = len(indicated)
        if indicated:
            self.passes_rows_on = False
            networks["n_indicators"] = len(indicated)
            self.register_buffer("indicated", torch.tensor(indicated), persistent=False)
        self.image_shape = networks.get("image_shape")
        self.likelihood = build_likelihood(resolve_likelihood(likelihood), n_features, marginals)
        self.encoder, self.decoder = self._build_networks(**networks)
        self.prior = StandardNormal(n_components)

    @classmethod
    def missing_arguments(cls, n_missing: NDArray[np.int64], n_rows: int) -> dict[str, Any]:
        """Arguments that follow from how many entries of each column are missing, ``(n_features,)``, of so many rows."""
        indicated = tuple(int(column) for column in n_missing.nonzero()[0])
        return {"indicated": indicated} if indicated else {}

    @property
    def n_encoder_inputs(self) -> int:
        """Width of what the encoder takes."""
        return self.likelihood.n_inputs + self.n_indicators

    @property
    def n_decoder_inputs(self) -> int:
        """Width of what the decoder takes."""
        return self.n_components

    def _build_networks(self, **networks: Any) -> tuple[nn.Module, nn.Module]:
        n_codes = self.n_components * self.encoder_outputs_per_component
        return build_networks(self.likelihood.n_inputs, self.n_components, n_codes, self.likelihood.n_outputs, **networks)

    @property
    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    @cached_property
    def widest_layer(self) -> int:
        """Most numbers that a row takes in any layer."""
        widths = [parameter.shape[0] for parameter in self.parameters() if parameter.dim() > 0]
        return max(self.n_features, *widths, *(_note(layer, "row_size") or 0 for layer in self.modules()))

    @cached_property
    def depends_on_threads(self) -> bool:
        """Whether results differ in the last bit where threads divide the entries of a layer between them."""
        return self.likelihood.depends_on_threads or super().depends_on_threads

    @property
    def slope_decodes(self) -> int:
        """How many decoded rows' worth of memory scoring takes for the slopes of the decoder."""
        return 0

    # -- training -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Set the linear maps beside the networks to the linear special case of the model.

        Parameters
        ----------
        batch : Batch
            All rows to learn from, or many, in double precision and on the CPU, as the module is.
        """
        raise NotImplementedError

    @torch.no_grad()
    def begin_columns(self, columns: NDArray[np.intp]) -> None:
        """Have a perceptron decode columns that were constant so far to their means, where it has learned what they were.

        Parameters
        ----------
        columns : ndarray of int
            Their positions.
        """
        if self.likelihood.is_location_family:  # whose constant columns no decoder learns
            return
        mean = self.likelihood.response(self.likelihood.column("mean").unsqueeze(0))[0, columns]
        for layer in last_layers(self.decoder):
            if layer.bias is not None and len(layer.bias) == self.likelihood.n_outputs:
                layer.bias[columns] = mean.to(layer.bias)
            if not isinstance(layer, TiedLinear) and len(layer.weight) == self.likelihood.n_outputs:
                layer.weight[columns] = 0.0

    @property
    def decay(self) -> float:
        """Decoupled weight decay of `decayed_parameters`, relative to the learning rate."""
        return self.linear_path or 0.0

    @decay.setter
    def decay(self, value: float) -> None:
        self.linear_path = value

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Weights of the networks beside linear maps."""
        networks = [network for network in (self.encoder, self.decoder) if isinstance(network, Shortcut)]
        return [parameter for network in networks for parameter in network.beside()]

    def before_training(self) -> None:
        """Give all columns the same noise, where they share it in training."""
        self.likelihood.noise.start_training()

    def after_step(self, learned: dict[str, Tensor]) -> None:
        """Move the noise."""
        if "energy" in learned:
            self.likelihood.noise.update(_NOISE_RATE, learned["energy"], learned.get("observed"))

    @property
    def _is_learning_noise(self) -> bool:
        return self.training and self.learns_noise and self.likelihood.learns_noise

    def _noise_learned(
        self, batch: Batch, terms: Energies, share: Tensor | None = None, *, complete: bool = False
    ) -> dict[str, Tensor]:
        """Return what the noise is learned from: the mean energy of a batch, and how much of each column is observed.

        Parameters
        ----------
        batch : Batch
        terms : Energies
            Of shape ``(n, n_features)`` or ``(n, n_draws, n_features)``.
        share : Tensor of shape (n, n_draws), optional
            Shares of the draws; equal ones by default.
        complete : bool, default=False
            Whether the energies have the missing entries in them, too.
        """
        if not self._is_learning_noise:
            return {}
        energy, of_rows = terms.learnable.detach(), batch.weight / len(batch.weight)
        if energy.dim() == 2:
            mean = energy.t().mv(of_rows)
        else:
            of_draws = of_rows.unsqueeze(1) / energy.shape[1] if share is None else of_rows.unsqueeze(1) * share
            mean = energy.flatten(0, 1).t().mv(of_draws.expand(energy.shape[:2]).flatten())
        if terms.counted is None:
            return {"energy": mean}
        counted = terms.counted if terms.counted.dim() == 2 else terms.counted[:, 0]
        observed = of_rows @ counted.to(of_rows)
        return {"energy": mean, "observed": torch.ones_like(observed) if complete else observed}

    # -- the code -----------------------------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Tensor:
        """Code of rows, ``(n, n_components)``."""
        return self.encoder_output(batch)

    def measured_codes(self, batch: Batch) -> Tensor:
        """Return what a fit measures of the codes of rows, ``(n, ...)``: the codes themselves, unless integers stand for them."""
        return self.encode(batch)

    def encoder_output(self, batch: Batch) -> Tensor:
        """Return what the encoder makes of rows, ``(n, n_outputs)``."""
        output: Tensor = self.encoder(self.encoder_input(batch))
        return output

    def encoder_input(self, batch: Batch) -> Tensor:
        """Return what the encoder takes: what the likelihood has it read of rows, and what is joined to that."""
        return self.join_input(self.read_rows(batch), batch)

    def read_rows(self, batch: Batch) -> Tensor:
        """Return what is read of rows by themselves: what the batch says, or what the likelihood has the encoder read."""
        if batch.inputs is not None:
            return batch.inputs
        return self.likelihood.network_input(batch.x, batch.facts if batch.x is batch.target else None)

    def join_input(self, x: Tensor, batch: Batch) -> Tensor:
        """Join to what is read of rows: ones where an entry of an indicated column is missing."""
        if not self.n_indicators:
            return x
        if batch.observed is None:
            return nn.functional.pad(x, (0, self.n_indicators))
        return torch.cat([x, (~batch.observed[:, self.indicated]).to(x)], dim=1)

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        """Return what the likelihood reads off codes.

        Parameters
        ----------
        z : Tensor of shape (n, n_components) or (n, n_draws, n_components)
        batch : Batch
            Of the rows that the codes belong to.

        Returns
        -------
        Tensor of shape (n, n_features) or (n, n_draws, n_features)
        """
        z = self.decoder_input(z, batch)
        output: Tensor = self.decoder(z.flatten(0, -2)) if z.dim() > 2 else self.decoder(z)
        return output if z.dim() == 2 else torch.unflatten(output, 0, z.shape[:-1])

    def decoder_input(self, z: Tensor, batch: Batch) -> Tensor:
        """Return what the decoder takes, ``(n, ..., n_decoder_inputs)``: codes, and what a model joins to them."""
        return z

    def residual_energy(self, batch: Batch) -> Tensor:
        """Mean energy of every column around what training has rows reconstructed as, ``(n_features,)``; see `mean_energy`."""
        return self._mean_energy(batch, self.decode(self.encode(batch), batch))

    def _mean_energy(self, batch: Batch, output: Tensor) -> Tensor:
        """Mean of the energies that the noise is learned from, around what the decoder returned, ``(n_features,)``."""
        terms = self.likelihood.terms(batch.target, output, batch.counted)
        return self.likelihood.mean_energy(terms.learnable, batch.weight, terms.counted)

    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Fit the likelihood's noise to rows once encoder and decoder are trained.

        Parameters
        ----------
        batch : Batch
            With ``noise["posterior"]`` of shape ``(n, n_components)``.
        share : float, default=1.0
            Of these rows in the noise that is to be known: the smaller, the less precise the fit may be.
        """
        raise NotImplementedError

    # -- scoring: nats per row, without penalties, corruption or beta -------------------------------------------------

    def propose(self, batch: Batch) -> Proposal:
        """Draws from an approximate posterior, for importance sampling.

        Parameters
        ----------
        batch : Batch
            With ``noise["posterior"]`` of shape ``(n, n_draws, n_components)``.

        Returns
        -------
        Proposal
        """
        raise NotImplementedError

    def importance_draws(
        self, batch: Batch, log_prior: Callable[[Tensor], Tensor] | None = None, *, seen: Batch | None = None
    ) -> ImportanceDraws:
        """Draws from the proposal, weighted by importance.

        Parameters
        ----------
        batch : Batch
            With ``noise["posterior"]`` of shape ``(n, n_draws, n_components)``.
        log_prior : callable, optional
            Log-density of codes ``(n, n_draws, n_components)``; that of `prior` by default.
        seen : Batch, optional
            What the proposal knows of the rows; all of the batch by default.

        Returns
        -------
        ImportanceDraws
        """
        z, log_q = self.propose(batch if seen is None else seen)
        output = self.decode(z, batch)
        observed = None if batch.observed is None else batch.observed.unsqueeze(1)
        facts = None if batch.facts is None else batch.facts.unsqueeze(1)
        terms = self.likelihood.terms(batch.target.unsqueeze(1), output, observed, facts)
        log_likelihood = -self.likelihood.nll_of(terms.energy, observed)
        strangeness = self.likelihood.strangeness(batch.target)
        if strangeness is not None:
            log_likelihood = log_likelihood - strangeness.sum(-1, keepdim=True)
        log_density = self.prior.log_prob(z, batch.condition) if log_prior is None else log_prior(z)
        return ImportanceDraws(log_likelihood + log_density - log_q, output, terms)

    def log_prob(self, batch: Batch, log_prior: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Importance-weighted estimate of the log-likelihood of rows, in nats and in the units of the data, ``(n,)``."""
        log_weights = self.importance_draws(batch, log_prior).log_weights
        return torch.logsumexp(log_weights, dim=1) - math.log(log_weights.shape[1])


def _note(layer: nn.Module, name: str) -> int | None:
    """Return what a layer has noted about its own cost, which its weights do not tell."""
    noted = None if isinstance(layer, TrainableModule) else getattr(layer, name, None)
    return noted if isinstance(noted, int) else None
