"""Mixtures of normal distributions, trained with the networks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skvae._spec import check_count
from skvae.functional import gaussian_kl, normal_cdf
from skvae.modules.networks.specs import Layered
from skvae.modules.posterior import DiagonalNormal, exact_dtype
from skvae.modules.priors.base import Cluster, CodedRows, Prior, PriorSpec

_LEAST_VAR = 1e-4  # of a component, below which few rows would draw it together to a point
_IDLE = 0.03  # of a fair share of the rows, below which a component counts as idle
_REVIVED = 16  # components at once, at most
_CLEARLY = 0.1  # nats a row, by which clusters are likelier than others
_SPARE = 0.05  # of a fair share of the rows, as which the spread in all clusters counts in that of one
_UNSEEN = 1e-3  # of a fair share of the rows, that a component has at least where it is placed


class Components(NamedTuple):
    """Normal distributions with independent components, and how often codes come from each.

    Attributes
    ----------
    log_weight : Tensor of shape (n_parts,)
        Logarithms of probabilities.
    mean, log_var : Tensor of shape (n_parts, n_components)
    """

    log_weight: Tensor
    mean: Tensor
    log_var: Tensor


class Mixture(Prior):
    """Priors that are mixtures of normal distributions with independent components, whatever the condition.

    A child defines `components`, and how they are placed: `begin` and `_split`.
    """

    waits = learns_from_rows = True
    n_looks: Tensor

    def __init__(self, n_components: int):
        super().__init__(n_components)
        self.register_buffer("n_looks", torch.zeros((), dtype=torch.long))

    def components(self) -> Components:
        """Return the distributions that are mixed."""
        raise NotImplementedError

    @property
    def n_noise(self) -> int:
        """One number for each component of a code, and one that tells which distribution it comes from."""
        return self.n_components + 1

    def joint_log_prob(self, z: Tensor) -> Tensor:
        """Log-density of codes and of where they come from, ``(n, n_parts)`` or ``(n, n_draws, n_parts)``.

        In double precision, where the device has it: squared distances from all means at once are differences of products.
        """
        exact = exact_dtype(z)
        z = z.to(exact)
        log_weight, mean, log_var = (part.to(exact) for part in self.components())
        precision = torch.exp(-log_var)
        pull = mean * precision
        constant = log_weight - 0.5 * ((mean * pull + log_var).sum(-1) + self.n_components * math.log(2.0 * math.pi))
        return torch.cat([z, z.square()], dim=-1) @ torch.cat([pull, -0.5 * precision], dim=-1).mT + constant

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.logsumexp(self.joint_log_prob(z), dim=-1).to(z.dtype)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return how probable it is that codes come from each of the distributions.

        Parameters
        ----------
        z : Tensor of shape (n, n_components) or (n, n_draws, n_components)

        Returns
        -------
        Tensor of shape (n, n_parts) or (n, n_draws, n_parts)
            Which sum to one.
        """
        return torch.softmax(self.joint_log_prob(z), dim=-1).to(z.dtype)

    def kl(self, q: DiagonalNormal, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Divergence of posteriors from the prior, in closed form from a single distribution; see `Prior.kl`."""
        _, mean, log_var = self.components()
        return super().kl(q, z, condition) if len(mean) > 1 else gaussian_kl(*q, mean, log_var)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        own, which = noise[..., :-1], noise[..., -1]
        log_weight, mean, log_var = self.components()
        heights = log_weight.exp().cumsum(0)
        chosen = torch.searchsorted(heights, normal_cdf(which).contiguous(), right=True).clamp(max=len(mean) - 1)
        return torch.addcmul(mean[chosen], own, torch.exp(0.5 * log_var)[chosen])

    def moments(self, n: int, condition: Tensor | None = None) -> DiagonalNormal:
        """Mean and log-variance of the whole mixture; see `Prior.moments`."""
        log_weight, means, log_vars = self.components()
        weight = log_weight.exp()
        mean = weight @ means
        log_var = (weight @ (log_vars.exp() + (means - mean).square())).log()
        return DiagonalNormal(mean.expand(n, -1), log_var.expand(n, -1))

    # -- placed by rows -----------------------------------------------------------------------------------------------

    def _usage(self, rows: CodedRows) -> Tensor:
        """Shares of the rows that come from each distribution, ``(n_parts,)``."""
        return rows.weight @ self.responsibilities(rows.mean)

    @torch.no_grad()
    def n_idle(self, rows: CodedRows) -> int:
        usage = self._usage(rows)
        return int((usage * len(usage) < _IDLE).sum())

    @torch.no_grad()
    def revive(self, rows: CodedRows, cluster: Cluster) -> None:
        """Have idle distributions share the rows of those that have most; see `Prior.revive`."""
        usage = self._usage(rows)
        for idle in (usage * len(usage) < _IDLE).nonzero().flatten().tolist()[:_REVIVED]:
            nearest = self.joint_log_prob(rows.mean).argmax(-1)
            largest = int(torch.bincount(nearest, weights=rows.weight).argmax())
            self._split(largest, idle, CodedRows(*(values[nearest == largest] for values in rows)), cluster)

    def _split(self, part: int, idle: int, rows: CodedRows, cluster: Cluster) -> None:
        """Have an idle distribution take some of the rows of another one, in place."""
        raise NotImplementedError


class NormalMixture(Mixture):
    """Mixture whose weights, means and variances are learned; the standard normal distribution until it is placed by rows.

    Parameters
    ----------
    n_components : int
        Size of a code.
    n_parts : int
        How many distributions are mixed.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import NormalMixture
    >>> NormalMixture(2, 3).log_prob(torch.zeros(1, 2)).detach()
    tensor([-1.8379])
    """

    def __init__(self, n_components: int, n_parts: int):
        super().__init__(n_components)
        self.n_parts = n_parts
        self.logit = nn.Parameter(torch.zeros(n_parts))
        self.mean = nn.Parameter(torch.zeros(n_parts, n_components))
        # Of what a variance is above the least one.
        self.log_excess = nn.Parameter(torch.full((n_parts, n_components), math.log(1.0 - _LEAST_VAR)))

    def components(self) -> Components:
        log_var = torch.log(torch.exp(self.log_excess) + _LEAST_VAR)
        return Components(torch.log_softmax(self.logit, 0), self.mean, log_var)

    @torch.no_grad()
    def begin(self, rows: CodedRows, cluster: Cluster) -> None:
        """Place a distribution at every cluster of the posteriors' means; see `Prior.begin`.

        Clusters are found in units of the codes or, where these are clearly less likely, of what is not known of each component.
        """
        parts, likelihood = torch.arange(self.n_parts, device=rows.mean.device), []
        width = 0.5 * (rows.around[:, 1] - rows.around[:, 0]).abs()
        members = [
            _members(cluster(codes, rows.weight, self.n_parts), rows.weight)
            for codes in (rows.mean, rows.mean / (rows.weight @ width).clamp(min=torch.finfo(width.dtype).tiny))
        ]
        for member in members:
            self._place(parts, rows, member)
            likelihood.append(float(rows.weight @ self.log_prob(rows.around).mean(1)))
        if not likelihood[1] > likelihood[0] + _CLEARLY:
            self._place(parts, rows, members[0])

    def _place(self, parts: Tensor, rows: CodedRows, member: Tensor) -> None:
        """Place distributions at rows, by the weight with which each belongs to every cluster, ``(n, n_clusters)``.

        Those that are more than there are clusters stand where others do.
        """
        n_clusters = member.shape[1]
        share = member.sum(0)
        mean = member.mT @ rows.mean / share.unsqueeze(1)
        second = member.mT @ rows.around.square().mean(1) / share.unsqueeze(1)
        variance = (second - mean.square()).clamp(min=0.0)
        whole = rows.weight.sum()
        pooled, spare = share @ variance / whole, _SPARE * whole / n_clusters
        variance = (share.unsqueeze(1) * variance + spare * pooled) / (share + spare).unsqueeze(1)
        which = torch.arange(len(parts), device=parts.device) % n_clusters
        share = share / torch.bincount(which, minlength=n_clusters)
        before = torch.softmax(self.logit, 0)
        weight = before.clone()
        # Distributions that stay keep what they have; those that are placed share the rows that they are placed at.
        weight[parts] = share[which].clamp(min=_UNSEEN / self.n_parts).to(weight)
        self.logit.copy_(weight.log())
        self.mean[parts] = mean[which].to(self.mean)
        self.log_excess[parts] = (variance[which] - _LEAST_VAR).clamp(min=_LEAST_VAR).log().to(self.log_excess)

    def _split(self, part: int, idle: int, rows: CodedRows, cluster: Cluster) -> None:
        label = cluster(rows.mean, rows.weight, 2)
        self._place(torch.tensor([part, idle], device=label.device), rows, _members(label, rows.weight))


def _members(label: Tensor, weight: Tensor) -> Tensor:
    """Weights with which rows belong to the clusters that there are, ``(n, n_clusters)``."""
    return nn.functional.one_hot(label).to(weight) * weight.unsqueeze(1)


class MixturePrior(PriorSpec):
    """Codes from a mixture of normal distributions that is trained with the networks; "mixture" stands for it.

    Its components are placed at clusters of the codes a part of the way through training, and then learn with the networks.
    Which of them a row comes from makes a clustering: the largest of `responsibilities`.

    Parameters
    ----------
    n_components : int, default=10
        How many distributions are mixed.

    Examples
    --------
    >>> from skvae import MixturePrior, VAETransformer
    >>> VAETransformer(prior="mixture").set_params(prior__n_components=5).prior
    MixturePrior(n_components=5)
    >>> VAETransformer(prior=MixturePrior(20)).prior
    MixturePrior(n_components=20)
    """

    name, counts = "mixture", "n_components"

    def __init__(self, n_components: int = 10):
        self.n_components = n_components

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_count(self, "n_components")

    def build(self, n_components: int, *, n_conditions: int = 0, hidden: Layered | None = None) -> NormalMixture:
        return NormalMixture(n_components, int(self.n_components))
