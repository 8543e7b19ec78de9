"""The autoencoder whose codes keep the neighbors of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skvae import functional as fn
from skvae.modules.autoencoder import AutoEncoderModule
from skvae.modules.base import Schedule
from skvae.modules.batch import Batch, Loss

_SHARE = 0.18  # of the distortion without a code, by which neighbors count: with more, rows are reconstructed less well
_JITTER = 0.1  # standard deviation of the noise on codes that are decoded, which have a unit of their own
_NEGATIVES = 5.0  # rows that are pushed away for each that is pulled near


class NeighborAEModule(AutoEncoderModule):
    r"""Autoencoder that pulls the codes of neighbors together and pushes all others apart, as UMAP does [1]_ [2]_.

    .. math:: d(x_i, \hat x_i) - \lambda s \big(\log q_{ij(i)} + 5\,\mathrm{E}_k \log(1 - q_{ik})\big),
        \quad q_{ij} = \frac{1}{1 + a \|z_i - z_j\|^{2b}}

    with j(i) the neighbor that a batch holds of row i, and k all other rows of the batch. What is decoded are codes with a little
    noise, by which the decoder stays smooth where codes are close. Where a batch holds no neighbors, the loss is the distortion
    alone, without noise.

    Parameters
    ----------
    neighbor_weight : float
        :math:`\lambda`.
    min_dist : float
        Decides a and b, see `skvae.functional.similarity_curve`.
    n_features, n_components, **autoencoder
        See `AutoEncoderModule`.

    Attributes
    ----------
    scale : Tensor of shape ()
        By which the neighbors count, :math:`\lambda s`, with s 0.18 of the distortion of rows around the means of the columns.

    References
    ----------
    .. [1] McInnes, Healy and Melville, "UMAP: uniform manifold approximation and projection for dimension reduction", 2018.
    .. [2] Sainburg, McInnes and Gentner, "Parametric UMAP embeddings for representation and semisupervised learning", Neural
       Computation 33, 2021.
    """

    scheduled = AutoEncoderModule.scheduled | {"neighbor_weight", "min_dist"}  # which the loss reads off buffers
    scale: Tensor
    a: Tensor
    b: Tensor

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        neighbor_weight: float = 1.0,
        min_dist: float = 0.1,
        **autoencoder: Any,
    ):
        super().__init__(n_features, n_components, **autoencoder)
        self.neighbor_weight, self.min_dist = neighbor_weight, min_dist
        self.register_buffer("scale", torch.tensor(float(neighbor_weight)))
        for name, value in zip("ab", fn.similarity_curve(min_dist), strict=True):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        if neighbor_weight:
            self.noise_shapes["jitter"] = (n_components,)

    @torch.no_grad()
    def measure_scale(self, batch: Batch) -> None:
        """Measure the distortion of rows around the means of the columns, of which neighbors count a share."""
        likelihood = self.likelihood
        mean = likelihood.response(likelihood.typical.to(batch.x).unsqueeze(0)).expand(len(batch.x), -1)
        distortion = likelihood.distortion(batch.target, mean, batch.counted)
        self.scale.copy_(self.neighbor_weight * _SHARE * (batch.weight @ distortion) / batch.weight.sum())

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        if batch.neighbor is None:
            return super().loss(batch, schedule)
        observed = None
        if batch.observed is not None and batch.neighbor_observed is not None:
            observed = torch.cat([batch.observed, batch.neighbor_observed])
        both = Batch.of(torch.cat([batch.x, batch.neighbor]), observed=observed, weight=batch.weight.repeat(2))
        code, near = self.encode(both).chunk(2)
        torn = fn.attraction(code, near, self.a, self.b) + _NEGATIVES * fn.repulsion(code, batch.weight, self.a, self.b)
        output = self.decode(code + _JITTER * batch.drawn("jitter"), batch)
        terms = {
            "reconstruction": self.likelihood.distortion(batch.target, output, batch.counted),
            "neighbor": self.scale * torn,
        }
        return Loss(terms, {})
