"""Priors that are turned into simpler ones by an invertible map, trained with the networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from skvae._spec import check_count
from skvae.modules.networks.layers import mlp
from skvae.modules.networks.specs import Layered, layer_sizes
from skvae.modules.priors.base import Cluster, CodedRows, Prior, PriorSpec, find_prior

_MOST_LOG_SCALE = 2.0  # of a layer, so that no code is stretched beyond what can be computed with


class Coupling(nn.Module):
    r"""Stretch and shift some components of codes by what a perceptron reads off the others [1]_; begins as the identity.

    Parameters
    ----------
    kept : Tensor of bool, shape (n_components,)
        Components that stay as they are.
    hidden_layer_sizes : sequence of int
        Of the perceptron, whose hidden units are bounded: far from all rows, the map is an affine one.

    References
    ----------
    .. [1] Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", ICLR 2017.
    """

    kept: Tensor

    def __init__(self, kept: Tensor, hidden_layer_sizes: Sequence[int]):
        super().__init__()
        self.register_buffer("kept", kept.to(torch.get_default_dtype()), persistent=False)
        self.network = mlp(len(kept), hidden_layer_sizes, 2 * len(kept), activation="tanh")
        with torch.no_grad():
            for parameter in self.network[-1].parameters():
                parameter.zero_()

    def _read(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of scales, and shifts, ``(..., n_components)``; zero for components that stay."""
        log_scale, shift = self.network(z * self.kept).chunk(2, dim=-1)
        moved = 1.0 - self.kept
        return _MOST_LOG_SCALE * torch.tanh(log_scale / _MOST_LOG_SCALE) * moved, shift * moved

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map codes ``(..., n_components)``; return the log-determinants of the slopes, ``(...,)``, as well."""
        log_scale, shift = self._read(z)
        return z * torch.exp(log_scale) + shift, log_scale.sum(-1)

    def inverse(self, u: Tensor) -> Tensor:
        """Undo the map."""
        log_scale, shift = self._read(u)  # the components that stay are those that were read
        return (u - shift) * torch.exp(-log_scale)


class Affine(nn.Module):
    """Stretch and shift every component by numbers that are learned; begins as the identity.

    Parameters
    ----------
    n_components : int
    """

    def __init__(self, n_components: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(n_components))
        self.shift = nn.Parameter(torch.zeros(n_components))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map codes; see `Coupling.forward`."""
        return z * torch.exp(self.log_scale) + self.shift, self.log_scale.sum().expand(z.shape[:-1])

    def inverse(self, u: Tensor) -> Tensor:
        """Undo the map."""
        return (u - self.shift) * torch.exp(-self.log_scale)


class Flow(Prior):
    """Codes that an invertible map turns into those of another prior; the other prior itself, to begin with.

    Parameters
    ----------
    base : Prior
        The other prior.
    n_layers : int
        Of the map: a layer moves about half of the components, by turns. A code of one component has but one, which is affine.
    hidden_layer_sizes : sequence of int
        Of the perceptron in each layer.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import Flow, StandardNormal
    >>> flow, noise = Flow(StandardNormal(3), n_layers=4, hidden_layer_sizes=(8,)), torch.ones(1, 3)
    >>> flow.log_prob(noise).detach(), flow.from_noise(noise).detach()
    (tensor([-4.2568]), tensor([[1., 1., 1.]]))
    """

    waits = True

    def __init__(self, base: Prior, n_layers: int, hidden_layer_sizes: Sequence[int]):
        super().__init__(base.n_components)
        self.base = base
        self.layers = nn.ModuleList([Affine(base.n_components)])
        if base.n_components > 1:
            self.layers = nn.ModuleList(Coupling(kept, hidden_layer_sizes) for kept in _halves(base.n_components, n_layers))

    @property
    def learns_from_rows(self) -> bool:  # type: ignore[override]
        """Whether the other prior does."""
        return self.base.learns_from_rows

    @property
    def n_looks(self) -> Tensor:  # type: ignore[override]
        """How often it has seen training rows."""
        return self.base.n_looks

    @property
    def n_noise(self) -> int:
        return self.base.n_noise

    def attach(self, module: Any, n_inputs: int) -> None:
        self.base.attach(module, n_inputs)

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Turn codes ``(..., n_components)`` into those of the other prior, and return the log-determinants of the slopes."""
        total = torch.zeros_like(z[..., 0])
        for layer in self.layers:
            z, log_det = layer(z)
            total = total + log_det
        return z, total

    def from_base(self, u: Tensor) -> Tensor:
        """Turn codes of the other prior into codes."""
        for layer in reversed(self.layers):
            u = layer.inverse(u)  # type: ignore[operator]
        return u

    def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        u, log_det = self.to_base(z)
        return self.base.log_prob(u, condition) + log_det

    def from_noise(self, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.from_base(self.base.from_noise(noise, condition))

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return how probable it is that codes come from each distribution of a mixture; see `Mixture.responsibilities`."""
        found: Tensor = self.base.responsibilities(self.to_base(z)[0])  # type: ignore[operator]
        return found

    def _seen(self, rows: CodedRows) -> CodedRows:
        return rows._replace(mean=self.to_base(rows.mean)[0], around=self.to_base(rows.around)[0])

    @torch.no_grad()
    def begin(self, rows: CodedRows, cluster: Cluster) -> None:
        self.base.begin(self._seen(rows), cluster)

    @torch.no_grad()
    def revive(self, rows: CodedRows, cluster: Cluster) -> None:
        self.base.revive(self._seen(rows), cluster)

    @torch.no_grad()
    def n_idle(self, rows: CodedRows) -> int:
        return self.base.n_idle(self._seen(rows))


def _halves(n_components: int, n_layers: int) -> list[Tensor]:
    """Components that each layer keeps: those whose position has a bit or has it not, from one bit to the next."""
    position, n_bits = torch.arange(n_components), (n_components - 1).bit_length()
    kept = []
    for i in range(n_layers):
        has_bit = (position >> (i // 2 % n_bits)) % 2 == 1
        kept.append(has_bit if i % 2 == 0 else ~has_bit)
    return kept


class FlowPrior(PriorSpec):
    """Codes that an invertible map of their own turns into those of a simpler prior; "flow" stands for it.

    The map is trained with the networks and begins as the identity, so that a fit begins with the simpler prior. A code of one
    component is merely stretched and shifted: there, the simpler prior should be a mixture.

    Parameters
    ----------
    base : str or PriorSpec, default="standard"
        The simpler prior: a mixture, say.
    n_layers : int, default=6
        Of the map: a layer moves about half of the components, by turns.
    hidden_layer_sizes : array-like of int, default=(64, 64)
        Widths of the perceptron in each layer.

    Examples
    --------
    >>> from skvae import FlowPrior, MixturePrior, VAETransformer
    >>> VAETransformer(prior=FlowPrior(MixturePrior(20))).set_params(prior__n_layers=8, prior__base__n_components=5).prior
    FlowPrior(base=MixturePrior(n_components=5), n_layers=8)
    """

    name = "flow"

    def __init__(self, base: str | PriorSpec = "standard", *, n_layers: int = 6, hidden_layer_sizes: Any = (64, 64)):
        self.base = base
        self.n_layers = n_layers
        self.hidden_layer_sizes = hidden_layer_sizes

    @property
    def needs_condition(self) -> bool:  # type: ignore[override]
        """Whether the simpler prior needs one."""
        return find_prior(self.base).needs_condition

    @property
    def counts(self) -> str | None:  # type: ignore[override]
        """Name of the argument that says of how many parts the simpler prior is."""
        of_base = find_prior(self.base).counts
        return None if of_base is None else f"base__{of_base}"

    def set_params(self, **params: Any) -> Self:
        """Change arguments.

        Parameters
        ----------
        **params : dict
            New values by name, those of the simpler prior as ``base__<name>``; the others stay.

        Returns
        -------
        self : object
            The specification itself.

        Raises
        ------
        ValueError
            If there is no argument of that name.
        """
        nested = {name.removeprefix("base__"): value for name, value in params.items() if name.startswith("base__")}
        own = {name: value for name, value in params.items() if not name.startswith("base__")}
        if nested:
            base = find_prior(own.get("base", self.base))
            own["base"] = type(base)(**base.get_params()).set_params(**nested)
        return super().set_params(**own)

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        try:
            find_prior(self.base).check()
            layer_sizes(self.hidden_layer_sizes)
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}") from None
        check_count(self, "n_layers")

    def build(self, n_components: int, *, n_conditions: int = 0, hidden: Layered | None = None) -> Flow:
        base = find_prior(self.base).build(n_components, n_conditions=n_conditions, hidden=hidden)
        return Flow(base, int(self.n_layers), layer_sizes(self.hidden_layer_sizes))
