"""The contractive autoencoder."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skvae import functional as fn
from skvae.modules.autoencoder import AutoEncoderModule
from skvae.modules.base import Schedule
from skvae.modules.batch import Batch, Loss

JACOBIANS = ("auto", "analytic", "exact", "hutchinson")
_MAPPING_FAILED = re.compile("batching|vmap", re.IGNORECASE)
_MAX_EXACT = 32  # components up to which "auto" pulls every one of them back

# Slopes of what may follow the one layer of an encoder, from its value.
_SLOPES: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Sigmoid: lambda code: code * (1.0 - code),
    nn.Tanh: lambda code: 1.0 - code.square(),
    nn.Identity: torch.ones_like,
}


class ContractiveModule(AutoEncoderModule):
    r"""Autoencoder whose code is kept from reacting to its input, by the Jacobian :math:`J` of the encoder [1]_ [2]_.

    The Jacobian is that in what the likelihood has the encoder read of a row, which is the standardized row for most.

    .. math:: d(x, \hat x) + \lambda\,\|J(x)\|_F^2 + \gamma\,\|J(x) - J(x + \epsilon)\|_F^2,
        \quad \epsilon \sim \mathcal N(0, \sigma^2 I)

    Parameters
    ----------
    n_features, n_components : int
    contraction : float
        Weight :math:`\lambda` of the squared norm; at 0 there is no such term.
    jacobian : {"auto", "analytic", "exact", "hutchinson"}
        How the norm is found: by a formula for encoders of one layer, by a backward pass per component, or estimated from
        one per probe. "auto" is the first of them that serves an encoder, and "hutchinson" beyond 32 components.
    n_probes : int
        Random vectors per row and step of "hutchinson".
    hessian : float
        Weight :math:`\gamma` of the change of the Jacobian; at 0 there is no such term.
    hessian_noise : float
        Standard deviation :math:`\sigma`, in standardized units.
    **autoencoder
        See `LatentModule`.

    Raises
    ------
    ValueError
        If the encoder normalizes rows together, or is no single layer and `jacobian` is "analytic".

    References
    ----------
    .. [1] Rifai et al., "Contractive auto-encoders: explicit invariance during feature extraction", ICML 2011.
    .. [2] Rifai et al., "Higher order contractive auto-encoder", ECML 2011.
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        contraction: float = 0.1,
        jacobian: str = "auto",
        n_probes: int = 1,
        hessian: float = 0.0,
        hessian_noise: float = 0.1,
        **autoencoder: Any,
    ):
        super().__init__(n_features, n_components, **autoencoder)
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in self.encoder.modules()):
            raise ValueError(
                "The encoder has batch normalization, which makes a row's code depend on the other rows of its batch, so that "
                "the Jacobian of a row is not defined; use normalization='layer' or None."
            )
        self.contraction = contraction
        self.hessian = hessian
        self.hessian_noise = hessian_noise
        self.jacobian = self._resolve(jacobian)
        if self.jacobian == "hutchinson" and (contraction or hessian):
            self.noise_shapes["probes"] = (n_probes, n_components)
        if hessian:
            self.noise_shapes["perturbation"] = (n_features,)

    @property
    def bears_rounding(self) -> bool:  # type: ignore[override]
        """Whether there is no change of the Jacobian to be found: a small difference, which would be one of rounding."""
        return not self.hessian

    def _resolve(self, jacobian: str) -> str:
        """Check the way to the Jacobian, or choose one."""
        if jacobian == "auto":
            if self._single_layer is not None:
                return "analytic"
            return "exact" if self.n_components <= _MAX_EXACT else "hutchinson"
        if jacobian == "analytic" and self._single_layer is None:
            raise ValueError(
                "jacobian='analytic' is a formula for encoders of one layer, with hidden_layer_sizes=() and code_activation "
                "'sigmoid', 'tanh' or 'identity'; use 'auto', 'exact' or 'hutchinson'."
            )
        return jacobian

    @property
    def _single_layer(self) -> tuple[nn.Linear, type[nn.Module]] | None:
        """The encoder's linear map and the class of the activation behind it, where there is nothing else."""
        layers = list(self.encoder) if type(self.encoder) is nn.Sequential else [self.encoder]
        first, after = layers[0], [type(layer) for layer in layers[1:]] or [nn.Identity]
        if type(first) is not nn.Linear or len(after) > 1 or after[0] not in _SLOPES:
            return None
        return first, after[0]

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        if not (self.contraction or self.hessian):
            return super().loss(batch, schedule)
        norm, change, code = self._contract(batch)
        terms = {"reconstruction": self.likelihood.distortion(batch.target, self.decode(code, batch), batch.observed)}
        if self.contraction:
            terms["contraction"] = self.contraction * norm
        if change is not None:
            terms["hessian"] = self.hessian * change
        return Loss(terms, {})

    def _contract(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Squared norms of the Jacobian and, where it counts, of its change, each ``(n,)``, and codes of the rows."""
        if self.hessian:
            try:
                return self._contract_twice(batch)
            except RuntimeError as error:
                if not _MAPPING_FAILED.search(str(error)):
                    raise
                raise ValueError(
                    f"hessian={self.hessian:g} needs an encoder that torch.func.vmap can map, which this one is not; set "
                    f"hessian=0. torch says: {error}"
                ) from error
        encode, x = self._encoder_of(batch)
        if self.jacobian == "analytic":
            code = encode(x)
            slope = self._slope(code)
            if batch.observed is not None:
                return self._norm_of_observed(slope, batch.observed), None, code
            return fn.layer_jacobian_norm(slope, self._weight), None, code
        if self.jacobian == "exact":
            norm, code = fn.jacobian_norm(encode, x)
        else:
            norm, code = fn.hutchinson_norm(encode, x, batch.drawn("probes"))
        return norm, None, code

    def _contract_twice(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        (encode, x), observed = self._encoder_of(batch), batch.observed
        perturbation = self.hessian_noise * batch.drawn("perturbation")
        if self.jacobian == "analytic":
            code, moved = encode(x), encode(x + perturbation)
            slope, other = self._slope(code), self._slope(moved)
            if observed is not None:
                return self._norm_of_observed(slope, observed), self._norm_of_observed(other - slope, observed), code
            return *fn.layer_jacobian_change(slope, other, self._weight), code
        if self.jacobian == "exact":
            return fn.jacobian_change(encode, x, perturbation)
        return fn.hutchinson_change(encode, x, perturbation, batch.drawn("probes"))

    def _encoder_of(self, batch: Batch) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the encoder as a function of what it reads of observed entries, the rest of which stays as it is, and that."""
        x, observed = self.likelihood.read(batch.x), batch.observed

        def encode(moved: Tensor) -> Tensor:
            moved = moved if observed is None else torch.where(observed, moved, x)
            code: Tensor = self.encoder(self.join_input(self.likelihood.hide_constant(moved), batch))
            return code

        return encode, x

    def _norm_of_observed(self, slope: Tensor, observed: Tensor) -> Tensor:
        """Squared norms of the one layer's Jacobian, or of its change, in the entries that are observed."""
        return (slope.square() * (observed.to(slope) @ self._weight.square().mT)).sum(1)

    def _slope(self, code: Tensor) -> Tensor:
        """Slopes of the one layer's activation, from its values."""
        assert self._single_layer is not None
        return _SLOPES[self._single_layer[1]](code)

    @property
    def _weight(self) -> Tensor:
        """Weights of the one layer, without those of columns that it never sees."""
        assert self._single_layer is not None
        return self.likelihood.hide_constant(self._single_layer[0].weight[:, : self.n_features])

    def jacobian_norm(self, batch: Batch) -> Tensor:
        """Norm of the Jacobian of the code at rows, exactly, ``(n,)``."""
        encode, x = self._encoder_of(batch)
        if self._single_layer is None:
            return fn.jacobian_norm(encode, x)[0].sqrt()
        slope = self._slope(encode(x))
        if batch.observed is not None:
            return self._norm_of_observed(slope, batch.observed).sqrt()
        return fn.layer_jacobian_norm(slope, self._weight).sqrt()
