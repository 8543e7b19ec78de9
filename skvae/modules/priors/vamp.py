"""The mixture of posteriors of rows that are learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from skvae._spec import check_count
from skvae.modules.networks.specs import Layered
from skvae.modules.posterior import DiagonalNormal, exact_dtype
from skvae.modules.priors.base import Cluster, CodedRows, PriorSpec
from skvae.modules.priors.mixture import Components, Mixture


class PosteriorMixture(Mixture):
    r"""Mixture of what the encoder makes of rows that are learned, :math:`\frac1K \sum_k q(z|u_k)` [1]_.

    Rows are what the encoder reads: with what is joined to them, such as conditions. The prior has to be attached to a module,
    whose encoder it asks.

    Parameters
    ----------
    n_components : int
        Size of a code.
    n_parts : int
        How many rows are learned.

    References
    ----------
    .. [1] Tomczak and Welling, "VAE with a VampPrior", AISTATS 2018.
    """

    pseudo_inputs: nn.Parameter

    def __init__(self, n_components: int, n_parts: int):
        super().__init__(n_components)
        self.n_parts = n_parts
        self._module: tuple[Any, ...] = ()  # a tuple, which does not register it

    def attach(self, module: Any, n_inputs: int) -> None:
        self._module = (module,)
        self.pseudo_inputs = nn.Parameter(torch.randn(self.n_parts, n_inputs))

    def components(self) -> Components:
        q: DiagonalNormal = self._module[0].posterior_of_inputs(self.pseudo_inputs)
        return Components(q.mean.new_full((self.n_parts,), -math.log(self.n_parts)), *q)

    @torch.no_grad()
    def begin(self, rows: CodedRows, cluster: Cluster) -> None:
        """Begin at training rows, evenly spaced by their weights along the first component of the codes; see `Prior.begin`."""
        order = rows.mean[:, 0].argsort(stable=True)
        heights = rows.weight[order].to(exact_dtype(rows.weight)).cumsum(0)
        steps = torch.arange(self.n_parts, device=heights.device, dtype=heights.dtype)
        chosen = torch.searchsorted(heights, (steps + 0.5) * (heights[-1] / self.n_parts)).clamp(max=len(heights) - 1)
        self.pseudo_inputs.copy_(rows.inputs[order[chosen]])

    def _split(self, part: int, idle: int, rows: CodedRows, cluster: Cluster) -> None:
        """Have an idle row become the one that the other one's posterior explains worst."""
        self.pseudo_inputs[idle] = rows.inputs[self.joint_log_prob(rows.mean)[:, part].argmin()]


class VampPrior(PriorSpec):
    """Codes from what the encoder makes of rows that are learned, as a mixture; "vamp" stands for it.

    The rows begin at training rows. An encoder step on all of them is taken at every training step, so that as many as a batch
    has rows make training take up to twice as long.

    Parameters
    ----------
    n_pseudo_inputs : int, default=100
        How many rows are learned.

    Examples
    --------
    >>> from skvae import VAETransformer, VampPrior
    >>> VAETransformer(prior=VampPrior(50)).set_params(prior__n_pseudo_inputs=20).prior
    VampPrior(n_pseudo_inputs=20)
    """

    name, counts = "vamp", "n_pseudo_inputs"

    def __init__(self, n_pseudo_inputs: int = 100):
        self.n_pseudo_inputs = n_pseudo_inputs

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_count(self, "n_pseudo_inputs")

    def build(self, n_components: int, *, n_conditions: int = 0, hidden: Layered | None = None) -> PosteriorMixture:
        return PosteriorMixture(n_components, int(self.n_pseudo_inputs))
