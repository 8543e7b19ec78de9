"""What every prior of real-valued codes offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from skvae._spec import Spec, in_words
from skvae.functional import gaussian_kl
from skvae.modules.networks.specs import Layered
from skvae.modules.posterior import DiagonalNormal

_MOMENT_DRAWS = 512

Cluster = Callable[[Tensor, Tensor, int], Tensor]  # labels of codes (n, n_components), from their weights and how many clusters


class CodedRows(NamedTuple):
    """Rows to learn from, and what the encoder makes of them.

    Attributes
    ----------
    inputs : Tensor of shape (n, n_inputs)
        What the encoder reads.
    mean : Tensor of shape (n, n_components)
        Means of the posteriors.
    around : Tensor of shape (n, 2, n_components)
        Two points that have the means and the variances of the posteriors.
    weight : Tensor of shape (n,)
        Weights of the rows, which sum to one.
    """

    inputs: Tensor
    mean: Tensor
    around: Tensor
    weight: Tensor


class Prior(nn.Module):
    """Distribution of codes, p(z) or p(z|c): the one place that says where codes come from.

    A prior defines `log_prob` and `from_noise`, and whatever of the rest it can do better than by draws. What is registered as a
    parameter is trained with the networks.

    Parameters
    ----------
    n_components : int
        Size of a code.
    """

    zero: Tensor
    waits = False  # whether codes are drawn to the standard normal distribution first, see `VAEModule.joins_at`
    learns_from_rows = False  # whether `begin` and `revive` want to see training rows; there is `n_looks` then
    n_looks: Tensor  # how often they have

    def __init__(self, n_components: int):
        super().__init__()
        self.n_components = n_components
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # tells device and precision

    def attach(self, module: Any, n_inputs: int) -> None:
        """Get to know the module whose codes these are, where the prior is made of what its encoder makes of rows.

        Parameters
        ----------
        module : VAEModule
            Owns the prior.
        n_inputs : int
            How many numbers its encoder reads.
        """

    @torch.no_grad()
    def begin(self, rows: CodedRows, cluster: Cluster) -> None:
        """Place what is to be learned by training rows, in place.

        Parameters
        ----------
        rows : CodedRows
        cluster : callable
            Finds clusters of codes, by their weights; returns a label for each.
        """

    @torch.no_grad()
    def revive(self, rows: CodedRows, cluster: Cluster) -> None:
        """Place anew what next to no row has come from, in place; see `begin`."""

    @torch.no_grad()
    def n_idle(self, rows: CodedRows) -> int:
        """Return how many parts of the prior next to no row comes from."""
        return 0

    @property
    def n_noise(self) -> int:
        """How many standard normal numbers a draw takes."""
        return self.n_components

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-density of codes in nats.

        Parameters
        ----------
        z : Tensor of shape (n, n_components) or (n, n_draws, n_components)
        condition : Tensor of shape (n, n_conditions) or None

        Returns
        -------
        Tensor of shape (n,) or (n, n_draws)
        """
        raise NotImplementedError

    def kl(self, q: DiagonalNormal, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Divergence of posteriors from the prior, of which the density of codes is by default estimated from draws.

        Parameters
        ----------
        q : DiagonalNormal
            Of shape ``(n, n_components)``.
        z : Tensor of shape (n, n_components) or (n, n_draws, n_components)
            Draws from it.
        condition : Tensor of shape (n, n_conditions) or None

        Returns
        -------
        Tensor of shape (n,)
            Nats.
        """
        log_prob = self.log_prob(z, condition)
        return -q.entropy() - (log_prob.mean(1) if z.dim() == 3 else log_prob)

    def component_kl(self, q: DiagonalNormal, condition: Tensor | None = None) -> Tensor:
        """Divergence of every component of posteriors from what the codes are like altogether, ``(n, n_components)``.

        The sum over components is `kl` where the prior's components are independent normal distributions; by default, each
        component is compared with the normal distribution of the mean and the variance that it has over the rows.
        """
        mean = q.mean.mean(0)
        log_var = (q.log_var.exp().mean(0) + q.mean.var(0, correction=0)).log()
        return gaussian_kl(q.mean, q.log_var, mean, log_var, per_component=True)

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """Turn standard normal numbers into codes.

        Parameters
        ----------
        noise : Tensor of shape (n, n_noise) or (n, n_draws, n_noise)
        condition : Tensor of shape (n, n_conditions) or None

        Returns
        -------
        Tensor of shape (n, n_components) or (n, n_draws, n_components)
        """
        raise NotImplementedError

    def moments(self, n: int, condition: Tensor | None = None) -> DiagonalNormal:
        """Mean and log-variance of the codes of `n` rows with these conditions, ``(n, n_components)``; by default of fixed draws.

        Parameters
        ----------
        n : int
        condition : Tensor of shape (n, n_conditions) or None

        Returns
        -------
        DiagonalNormal
        """
        noise = torch.randn(_MOMENT_DRAWS, self.n_noise, generator=torch.Generator().manual_seed(0)).to(self.zero)
        n_drawn = 1 if condition is None else n
        z = self.from_noise(noise.expand(n_drawn, -1, -1), condition)
        mean, log_var = z.mean(1), z.var(1, correction=0).clamp(min=torch.finfo(z.dtype).tiny).log()
        return DiagonalNormal(mean.expand(n, -1), log_var.expand(n, -1))


class PriorSpec(Spec):
    """Specification of a prior that networks are trained with: the name that stands for it at its defaults, and its arguments."""

    name: ClassVar[str]
    needs_condition: ClassVar[bool] = False  # whether only conditional models can have it
    counts: ClassVar[str | None] = None  # name of the argument that says of how many parts it is, which may be idle

    def build(self, n_components: int, *, n_conditions: int = 0, hidden: Layered | None = None) -> Prior:
        """Build the prior.

        Parameters
        ----------
        n_components : int
            Size of a code.
        n_conditions : int, default=0
            Numbers that the model conditions on.
        hidden : Layered or None, default=None
            Hidden layers of the encoder, for a prior with a network of its own.

        Returns
        -------
        prior : Prior
            New, with parameters to be trained.
        """
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if cls.build.__doc__ is None:
            cls.build.__doc__ = PriorSpec.build.__doc__


def find_prior(prior: str | PriorSpec) -> PriorSpec:
    """Return the specification that an argument is, or at its defaults the one that a name stands for.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(prior, PriorSpec):
        return prior
    specs = {spec.name: spec for spec in PriorSpec.__subclasses__()[::-1] if isinstance(getattr(spec, "name", None), str)}
    if not isinstance(prior, str) or prior not in specs:
        raise ValueError(f"base={prior!r} must be one of {in_words(sorted(specs))}, or a PriorSpec.")
    return specs[prior]()
