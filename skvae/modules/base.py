"""What every module shares: what the training loop asks for; encoder, decoder, likelihood and the importance-weighted score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from skvae.modules.batch import Batch
from skvae.modules.likelihoods import LikelihoodSpec, build_likelihood, resolve_likelihood
from skvae.modules.likelihoods.bernoulli import BernoulliLikelihood
from skvae.modules.networks.build import build_networks

Schedule = dict[str, float]

_NOISE_RATE = 0.05

# Functions that are computed many entries at once and the last few alone, which differs in the last bit.
_APPROXIMATED = (nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.Sigmoid)


class TrainableModule(nn.Module):
    """What the training loop asks of a module.

    A module's arithmetic is pure: given a batch, its noise and the schedule's values, `loss` reads nothing else but
    parameters and buffers and changes none of them; `after_step` does.
    """

    noise_shapes: dict[str, tuple[int, ...]]
    solves_per_row = False  # whether scoring solves a linear system per row

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

    def schedule(self, progress: float) -> Schedule:
        """Values of what changes over the run, at `progress` in [0, 1]."""
        return {}

    @property
    def warmup(self) -> float:
        """Fraction of the run over which the schedule still moves."""
        return 0.0

    def loss(self, batch: Batch, schedule: Schedule) -> dict[str, Tensor]:
        """Named terms of the objective, per row ``(n,)`` or, where they couple the batch, ``()``; their sum is minimized."""
        raise NotImplementedError

    def before_training(self) -> None:
        """Prepare what is learned without an optimizer."""

    def after_step(self) -> None:
        """Update what is learned without an optimizer, from what the last `loss` and its gradient left."""

    def after_training(self) -> None:
        """Put away what only training needs."""


class LatentModule(TrainableModule):
    """Encoder, decoder and likelihood; a model adds its objective and its proposal.

    Parameters
    ----------
    n_features : int
        Columns of the data.
    n_components : int
        Size of the code.
    likelihood : str or LikelihoodSpec
        A name in `skvae.modules.LIKELIHOODS`, or a specification.
    indicated : sequence of int
        Columns of which the encoder is told whether they are missing, in training order.
    **networks : dict
        See `skvae.modules.build_networks`.

    Notes
    -----
    Where rows have missing entries, these are filled by the columns' means, and methods are told by `observed`, a mask of the
    rows' shape, which entries are not.
    """

    encoder_outputs_per_component = 1
    learns_noise = False  # whether the loss has the likelihood's noise in it
    passes_rows_on = True  # whether encoder and decoder take rows and codes as they come, with nothing joined to them
    takes_missing = False  # whether rows may have missing entries
    indicated: Tensor

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        likelihood: str | LikelihoodSpec = "gaussian",
        indicated: Sequence[int] = (),
        **networks: Any,
    ):
        super().__init__()
        self.n_features = n_features
        self.n_components = n_components
        self.n_indicators = len(indicated)
        self._known: Tensor | None = None  # share of the last batch that has a column's entries
        if indicated:
            self.passes_rows_on = False
            networks["n_indicators"] = len(indicated)
            self.register_buffer("indicated", torch.tensor(indicated), persistent=False)
        self.image_shape = networks.get("image_shape")
        self.encoder, self.decoder = self._build_networks(**networks)
        self.likelihood = build_likelihood(resolve_likelihood(likelihood), n_features)

    @property
    def n_encoder_inputs(self) -> int:
        """Width of what the encoder takes."""
        return self.n_features + self.n_indicators

    @property
    def n_decoder_inputs(self) -> int:
        """Width of what the decoder takes."""
        return self.n_components

    def _build_networks(self, **networks: Any) -> tuple[nn.Module, nn.Module]:
        n_codes = self.n_components * self.encoder_outputs_per_component
        return build_networks(self.n_features, self.n_components, n_codes, **networks)

    @cached_property
    def widest_layer(self) -> int:
        """Most numbers that a row takes in any layer."""
        widths = [parameter.shape[0] for parameter in self.parameters() if parameter.dim() > 0]
        return max(self.n_features, *widths, *(_note(layer, "row_size") or 0 for layer in self.modules()))

    @cached_property
    def depends_on_threads(self) -> bool:
        """Whether results differ in the last bit where threads divide the entries of a layer between them."""
        return isinstance(self.likelihood, BernoulliLikelihood) or super().depends_on_threads

    @property
    def slope_decodes(self) -> int:
        """How many decoded rows' worth of memory scoring takes for the slopes of the decoder."""
        return 0

    # -- training -----------------------------------------------------------------------------------------------------

    def before_training(self) -> None:
        """Let the loss have a gradient in the noise, which is what it is learned from."""
        self.likelihood.start_training()
        self.likelihood.weight.requires_grad_(self.learns_noise and self.likelihood.learns_noise)

    def after_step(self) -> None:
        """Move the noise."""
        if self.learns_noise:
            self.likelihood.update_noise(_NOISE_RATE, self._known)
            self._known = None

    def after_training(self) -> None:
        """Have the noise for a constant again."""
        self.likelihood.weight.requires_grad_(False)
        self.likelihood.weight.grad = None

    # -- the code -----------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, *, observed: Tensor | None = None) -> Tensor:
        """Code of standardized rows, ``(n, n_features)`` to ``(n, n_components)``."""
        code: Tensor = self.encoder(self.encoder_input(x, observed))
        return code

    def encoder_input(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return what the encoder takes: rows, and beside them ones where an entry of an indicated column is missing."""
        x = self.likelihood.network_input(x)
        if not self.n_indicators:
            return x
        if observed is None:
            return nn.functional.pad(x, (0, self.n_indicators))
        return torch.cat([x, (~observed[:, self.indicated]).to(x)], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """Return what the likelihood reads off a code, ``(n, n_components)`` to ``(n, n_features)``."""
        output: Tensor = self.decoder(z)
        return output

    def _note_known(self, batch: Batch) -> None:
        """Note how much of a batch is observed, for the noise to be learned from."""
        if batch.mask is not None and self.training:
            self._known = (batch.weight / len(batch.weight)) @ batch.mask.to(batch.weight)

    def fit_noise(self, x: Tensor, weight: Tensor, noise: Tensor, *, observed: Tensor | None = None) -> None:
        """Fit the likelihood's noise to standardized rows once encoder and decoder are trained.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        weight : Tensor of shape (n,)
        noise : Tensor of shape (n, n_components)
            Standard normal draws.
        observed : Tensor of bool, shape (n, n_features), optional
        """
        raise NotImplementedError

    # -- scoring: nats per row, without penalties, corruption or beta -------------------------------------------------

    def propose(self, x: Tensor, noise: Tensor, *, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draws from an approximate posterior, for importance sampling.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
            Standardized rows.
        noise : Tensor of shape (n, n_draws, n_components)
            Standard normal draws.
        observed : Tensor of bool, shape (n, n_features), optional

        Returns
        -------
        z : Tensor of shape (n, n_draws, n_components)
        log_q : Tensor of shape (n, n_draws)
            Their log-densities.
        """
        raise NotImplementedError

    def log_prior(self, z: Tensor) -> Tensor:
        """Log-density of codes ``(..., n_components)`` under the standard normal prior."""
        return -0.5 * z.square().sum(-1) - 0.5 * self.n_components * math.log(2.0 * math.pi)

    def log_weights(self, batch: Batch, log_prior: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        r"""Log importance weights :math:`\log p(x|z_k) + \log p(z_k) - \log q(z_k|x)` of draws from the proposal.

        Parameters
        ----------
        batch : Batch
            With ``noise["posterior"]`` of shape ``(n, n_draws, n_components)``.
        log_prior : callable, optional
            Log-density of codes; `log_prior` by default.

        Returns
        -------
        Tensor of shape (n, n_draws)
        """
        return self.weigh(batch, log_prior)[0]

    def weigh(self, batch: Batch, log_prior: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """`log_weights`, and what the decoder returns for the draws, ``(n, n_draws, n_features)``."""
        assert batch.noise is not None
        z, log_q = self.propose(batch.x, batch.noise["posterior"], **told_observed(batch.mask))
        output = torch.unflatten(self.decode(z.flatten(0, 1)), 0, z.shape[:2])
        mask = None if batch.mask is None else batch.mask.unsqueeze(1)
        log_likelihood = -self.likelihood.nll(batch.target.unsqueeze(1), output, mask)
        return log_likelihood + (log_prior or self.log_prior)(z) - log_q, output

    def log_prob(self, batch: Batch, log_prior: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Importance-weighted estimate of the log-likelihood of rows, in nats and in the units of the data, ``(n,)``."""
        log_weights = self.log_weights(batch, log_prior)
        return torch.logsumexp(log_weights, dim=1) - math.log(log_weights.shape[1])


def told_observed(observed: Tensor | None) -> dict[str, Tensor]:
    """Return the argument that tells of missing entries, for modules that take it."""
    return {} if observed is None else {"observed": observed}


def _note(layer: nn.Module, name: str) -> int | None:
    """Return what a layer has noted about its own cost, which its weights do not tell."""
    noted = None if isinstance(layer, TrainableModule) else getattr(layer, name, None)
    return noted if isinstance(noted, int) else None
