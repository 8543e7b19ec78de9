"""The sparse autoencoder."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skvae import functional as fn
from skvae._spec import Spec, check_fraction, check_number
from skvae.modules.autoencoder import AutoEncoderModule
from skvae.modules.base import Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.priors.fitted import ActivityPatterns

PENALTIES = ("kl", "l1", "top_k", "batch_top_k")
_MEMORY = 1024  # rows that the running mean of the activations remembers
_ANNEALED_FROM = 4  # multiples of k
_REVIVED = 4  # dead units that a row teaches, in multiples of k
_DEAD_STEPS = 100  # steps without activity after which a unit counts as dead


class _KeepLargest(Spec):
    """What the penalties share that keep the largest units."""

    name: ClassVar[str]

    def __init__(self, annealing: float = 0.5, *, alpha: float = 1.0):
        self.annealing = annealing
        self.alpha = alpha

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_fraction(self, "annealing", with_one=True)
        check_number(self, "alpha", at_least=1.0)


class TopK(_KeepLargest):
    """Penalty of a :class:`~skvae.SparseAE` that keeps the `k` largest units of each row.

    Parameters
    ----------
    annealing : float, default=0.5
        Fraction of the run over which their number falls from four times `k` to `k`.
    alpha : float, default=1.0
        Units kept once training is over, in multiples of `k`.

    Examples
    --------
    >>> from skvae import SparseAE, TopK
    >>> SparseAE(penalty=TopK(annealing=0.25)).set_params(penalty__alpha=1.5).penalty
    TopK(annealing=0.25, alpha=1.5)
    """

    name = "top_k"


class BatchTopK(_KeepLargest):
    """Penalty of a :class:`~skvae.SparseAE` that keeps the largest units of a batch, `k` a row on average.

    Parameters
    ----------
    annealing : float, default=0.5
        Fraction of the run over which their number falls from four times `k` a row to `k`.
    alpha : float, default=1.0
        Units kept once training is over, on average, in multiples of `k`.

    Examples
    --------
    >>> from skvae import BatchTopK, SparseAE
    >>> SparseAE(penalty="batch_top_k").set_params(penalty__annealing=0.0).penalty
    BatchTopK(annealing=0.0)
    """

    name = "batch_top_k"


class SparseModule(AutoEncoderModule):
    r"""Autoencoder of which few units are active in a row.

    - "kl": units are sigmoid, and their mean activations are held close to a target by
      :math:`\lambda\sum_j \mathrm{KL}(\rho\,\|\,\hat\rho_j)`;
    - "l1": units are rectified, and :math:`\lambda\sum_j a_j\|d_j\|` is added, with :math:`d_j` what a unit adds to the
      decoder's first layer, so that the penalty cannot be had by scaling;
    - "top_k": of each row's linear units the k largest are kept [1]_;
    - "batch_top_k": of a batch of n rows the n k largest are kept [2]_, and in use all above a fixed threshold.

    Where units are zero unless they are active, the generative model behind the score is a pattern of activity, units
    independent, and for every active unit a normal distribution.

    Parameters
    ----------
    penalty : str
        A name in `PENALTIES`.
    sparsity_weight : float
        :math:`\lambda`.
    target_activation : float
        :math:`\rho`.
    k : int
        Units kept in training, at the end of the annealing.
    k_annealing : float
        Fraction of the run over which they fall from four times `k` to `k`.
    alpha : float
        Units kept in use, in multiples of `k`.
    revival_weight : float
        Weight of the error that dead units make in reconstructing what the others leave [3]_.
    n_features, n_components, **autoencoder
        See `AutoEncoderModule`.

    References
    ----------
    .. [1] Makhzani and Frey, "k-sparse autoencoders", ICLR 2014.
    .. [2] Bussmann et al., "BatchTopK sparse autoencoders", 2024, arXiv:2412.06410.
    .. [3] Gao et al., "Scaling and evaluating sparse autoencoders", 2024, arXiv:2406.04093.
    """

    scheduled = AutoEncoderModule.scheduled | {"k_annealing"}
    couples_rows = True
    activity: Tensor
    idle: Tensor
    threshold: Tensor

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        penalty: str = "kl",
        sparsity_weight: float = 1.0,
        target_activation: float = 0.05,
        k: int = 1,
        k_annealing: float = 0.5,
        alpha: float = 1.0,
        revival_weight: float = 0.0,
        **autoencoder: Any,
    ):
        super().__init__(n_features, n_components, **autoencoder)
        self.penalty = penalty
        self.sparsity_weight = sparsity_weight
        self.target_activation = target_activation
        self.k = k
        self.k_annealing = k_annealing if penalty in ("top_k", "batch_top_k") else 0.0
        self.k_in_use = min(n_components, math.floor(alpha * k + 0.5))
        self.revival_weight = revival_weight
        # Sigmoid units begin at their target: a bias would take thousands of steps to get there.
        self.offset = math.log(target_activation / (1.0 - target_activation))
        self.register_buffer("activity", torch.zeros(n_components))
        self.register_buffer("idle", torch.zeros(n_components))
        self.register_buffer("threshold", torch.tensor(-math.inf))
        if self.has_exact_zeros:
            self.prior = ActivityPatterns(n_components)

    @property
    def has_exact_zeros(self) -> bool:
        """Whether inactive units are zero."""
        return self.penalty != "kl"

    @cached_property
    def depends_on_threads(self) -> bool:
        """Sigmoids do, see `LatentModule`."""
        return self.penalty == "kl" or super().depends_on_threads

    @property
    def active_above(self) -> float:
        """Activation above which a sigmoid unit counts as active."""
        return min(2.0 * self.target_activation, 0.5 * (1.0 + self.target_activation))

    # -- the code -----------------------------------------------------------------------------------------------------

    def preactivate(self, batch: Batch) -> Tensor:
        """Linear responses of the units, before any are chosen, ``(n, n_components)``."""
        response = super().encode(batch)
        return response + self.offset if self.penalty == "kl" else response

    def encode(self, batch: Batch) -> Tensor:
        """Sparse code of rows, ``(n, n_components)``."""
        response = self.preactivate(batch)
        if self.penalty == "batch_top_k":
            return response * (response > self.threshold)
        return self._activate(response, self.k_in_use)

    def _activate(self, response: Tensor, k: int | Tensor) -> Tensor:
        """Turn responses into a code of which `k` units are active; of a tensor, no more than the schedule begins with."""
        if self.penalty == "kl":
            return torch.sigmoid(response)
        if self.penalty == "l1":
            return torch.relu(response)
        keep = fn.keep_largest if self.penalty == "top_k" else fn.keep_largest_of_batch
        return keep(response, k, self._most_kept)

    @property
    def _most_kept(self) -> int:
        """Units that are kept when annealing begins."""
        return min(self.n_components, max(self.k_in_use, _ANNEALED_FROM * self.k if self.k_annealing else self.k))

    # -- training -----------------------------------------------------------------------------------------------------

    @property
    def warmup(self) -> float:
        return self.k_annealing

    def schedule(self, progress: float) -> dict[str, float]:
        if progress >= self.k_annealing:
            return {"k": float(self.k)}
        start = min(self.n_components, _ANNEALED_FROM * self.k)
        return {"k": round(start + (self.k - start) * progress / self.k_annealing)}

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        response = self.preactivate(batch)
        code = self._activate(response, torch.as_tensor(schedule["k"], device=response.device))
        output = self.decode(code, batch)
        terms = {"reconstruction": self.likelihood.distortion(batch.target, output, batch.observed)}
        learned = {}
        if self.penalty == "l1":
            terms["sparsity"] = self.sparsity_weight * (code * self._decoder_norms()).sum(1)
        elif self.penalty == "kl":
            divergence, learned["activity"] = self._activity_divergence(code, batch.weight)
            terms["sparsity"] = self.sparsity_weight * divergence
        if self.revival_weight > 0.0:
            terms["revival"] = self.revival_weight * self._revive(response, code.detach(), batch, output.detach())
        is_active = code.detach() > self.active_above if self.penalty == "kl" else code.detach() != 0.0
        learned["active"] = is_active.any(0)
        return Loss(terms, learned)

    def _activity_divergence(self, code: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence of the mean activations from the target, by a mean that remembers earlier batches, and this mean."""
        mean = (weight @ code) / weight.sum()
        rate = len(code) / (len(code) + _MEMORY)
        # A run starts with nothing to remember.
        started = self.activity.sum() > 0
        running = torch.where(started, torch.lerp(self.activity, mean.detach(), rate), mean.detach())
        # The value is the running mean's; the gradient is what the batch's own mean would have there.
        return fn.bernoulli_kl(self.target_activation, running + mean - mean.detach()).sum(), running

    def _decoder_norms(self) -> Tensor | float:
        """Length of what each unit adds to the decoder's first layer, where that is linear."""
        layer = next(self.decoder.children(), None) if type(self.decoder) is nn.Sequential else None
        weight = getattr(layer, "weight", None)
        return 1.0 if weight is None or weight.dim() != 2 else weight.norm(dim=0)

    def _revive(self, response: Tensor, code: Tensor, batch: Batch, output: Tensor) -> Tensor:
        """Squared error of the largest dead units in reconstructing the residual, per row."""
        dead = self.idle >= _DEAD_STEPS
        reached = torch.sigmoid(response) if self.penalty == "kl" else response
        n_revived = min(self.n_components, _REVIVED * self.k)
        chosen = fn.keep_largest(reached.masked_fill(~dead, -math.inf), n_revived, n_revived)
        chosen = torch.where(chosen.isfinite(), chosen, torch.zeros_like(chosen))
        # What they add to the others: normalization over a batch of dead units alone would be another.
        others = code.masked_fill(dead, 0.0)
        reconstruction = self.decode(others + chosen, batch) - self.decode(others, batch)
        residual = self.likelihood.shortfall(batch.target, output)
        if batch.observed is not None:
            residual, reconstruction = residual * batch.observed, reconstruction * batch.observed
        return fn.squared_error(residual, reconstruction) * dead.any()

    @torch.no_grad()
    def after_step(self, learned: dict[str, Tensor]) -> None:
        """Note which units were active."""
        super().after_step(learned)
        self.idle.copy_(torch.where(learned["active"], 0.0, self.idle + 1.0))
        if "activity" in learned:
            self.activity.copy_(learned["activity"])
