"""Vector quantisation, and how a codebook learns."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae import functional as fn

CODEBOOKS = ("ema", "gradient")
GRADIENTS = {"straight_through": fn.straight_through, "rotation": fn.rotate_to}
SIMILARITIES = ("euclidean", "cosine")
_IDLE = 0.03  # of a fair share of the vectors, below which a code counts as dead
_REVIVED = 0.3  # of a fair share, which a revived code begins with
_INTERVAL = 10  # steps between revivals
_GOLDEN = 0.6180339887498949


class Quantized(NamedTuple):
    """Vectors and what quantisation made of them.

    Attributes
    ----------
    vectors : Tensor of shape (n, d)
        From the codebook; the gradient goes to what was quantised.
    codes : Tensor of int, shape (n,)
    commitment : Tensor of shape (n,)
        Squared distances to the codebook, weighted, with a gradient in what was quantised.
    codebook : Tensor of shape (n,) or None
        Squared distances with a gradient in the codebook, where it is learned by one.
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor
    codebook: Tensor | None


class VectorQuantizer(nn.Module):
    r"""Replaces vectors by the nearest ones of a learned codebook.

    - "ema": a vector of the codebook is the mean of what was assigned to it, over an exponentially fading past, with
      Laplace smoothing of the counts [1]_; it is a buffer, and `after_step` moves it.
    - "gradient": the codebook is a parameter and its loss :math:`\|\mathrm{sg}[z] - e\|^2`.

    Codes that hardly any vector uses are revived in `after_step`: they take the place of vectors of the last batch, drawn in
    proportion to their weight and to their squared distance from the codebook, by systematic sampling.

    Parameters
    ----------
    n_embeddings : int
        Vectors of the codebook.
    embedding_dim : int
    codebook : str
        One of `CODEBOOKS`.
    decay : float
        What the moving averages keep in a step.
    smoothing : float
        Added to every count.
    commitment_weight : float
        Weight of the distance that draws vectors to the codebook.
    gradient : str
        A name in `GRADIENTS`: how the gradient goes past the choice of a code.
    similarity : str
        One of `SIMILARITIES`; with "cosine", vectors and codebook have unit length.
    revive : bool
        Whether dead codes are revived.
    n_vectors : int
        Vectors per row of the data, which tells the cost of a row.

    References
    ----------
    .. [1] van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017, appendix A.1.
    """

    codebook: Tensor
    count: Tensor
    total: Tensor

    def __init__(
        self,
        n_embeddings: int,
        embedding_dim: int,
        *,
        codebook: str = "ema",
        decay: float = 0.99,
        smoothing: float = 1e-5,
        commitment_weight: float = 0.25,
        gradient: str = "straight_through",
        similarity: str = "euclidean",
        revive: bool = True,
        n_vectors: int = 1,
    ):
        super().__init__()
        self.n_embeddings, self.embedding_dim = n_embeddings, embedding_dim
        self.learns_by_gradient = codebook == "gradient"
        self.decay, self.smoothing, self.commitment_weight = decay, smoothing, commitment_weight
        self.gradient, self.has_unit_length, self.revive = GRADIENTS[gradient], similarity == "cosine", revive
        self.row_work = n_vectors * n_embeddings * embedding_dim
        self.row_size = min(n_vectors * max(n_embeddings, embedding_dim), fn.SEARCH_NUMBERS)
        vectors = torch.randn(n_embeddings, embedding_dim)
        if self.learns_by_gradient:
            self.codebook = nn.Parameter(vectors)
        else:
            self.register_buffer("codebook", vectors)
            self.register_buffer("total", vectors.clone())
        self.register_buffer("count", torch.ones(n_embeddings))
        self.n_steps = 0
        self._seen: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.set_codebook(vectors)

    @torch.no_grad()
    def set_codebook(self, vectors: Tensor) -> None:
        """Have a codebook ``(n_embeddings, d)`` and nothing remembered of what used it."""
        self.codebook.copy_(vectors)
        self.codebook.copy_(self.embeddings())
        # One vector each, which soon weighs little beside those of a batch.
        self.count.fill_(1.0)
        if not self.learns_by_gradient:
            self.total.copy_(self.codebook)

    def embeddings(self) -> Tensor:
        """Vectors of the codebook, of unit length under the cosine, ``(n_embeddings, d)``."""
        return F.normalize(self.codebook, dim=1) if self.has_unit_length else self.codebook

    def mean_embedding(self) -> Tensor:
        """Mean of the codebook's vectors by how often they are used, ``(d,)``."""
        return (self.count / self.count.sum()) @ self.embeddings().detach()

    def prepare(self, x: Tensor) -> Tensor:
        """Vectors as the codebook sees them: of unit length under the cosine."""
        return F.normalize(x, dim=-1) if self.has_unit_length else x

    def codes(self, x: Tensor) -> Tensor:
        """Codes of vectors, ``(n, d)`` to ``(n,)``, which do not depend on the other vectors."""
        return fn.nearest_codes(self.prepare(x), self.embeddings())

    def embed(self, codes: Tensor) -> Tensor:
        """Vectors of codes, ``(...)`` to ``(..., d)``."""
        return F.embedding(codes, self.embeddings())

    def forward(self, x: Tensor, weight: Tensor) -> Quantized:
        """Quantise vectors ``(n, d)`` of weights ``(n,)``, and keep for `after_step` what it needs."""
        x, embeddings = self.prepare(x), self.embeddings()
        codes = fn.nearest_codes(x, embeddings, exact=not self.training)
        chosen = F.embedding(codes, embeddings)
        fixed = chosen.detach()
        distance = (x - fixed).square().sum(1)
        learned = (x.detach() - chosen).square().sum(1) if self.learns_by_gradient else None
        if self.training:
            self._seen = (x.detach(), codes, distance.detach(), weight)
        return Quantized(self.gradient(x, fixed), codes, self.commitment_weight * distance, learned)

    # -- what is learned without gradients ----------------------------------------------------------------------------

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the averages by the last batch, and the codebook with them; revive dead codes."""
        if self._seen is None:
            return
        x, codes, distance, weight = self._seen
        self._seen = None
        column = weight.unsqueeze(1)
        if self.learns_by_gradient:
            self.count.lerp_(fn.sum_by_code(column, codes, self.n_embeddings).squeeze(1), 1.0 - self.decay)
        else:
            sums = fn.sum_by_code(torch.cat([x * column, column], 1), codes, self.n_embeddings)
            self.total.lerp_(sums[:, :-1], 1.0 - self.decay)
            self.count.lerp_(sums[:, -1], 1.0 - self.decay)
            n = self.count.sum()
            smoothed = (self.count + self.smoothing) * (n / (n + self.n_embeddings * self.smoothing))
            self.codebook.copy_(self.total / smoothed.unsqueeze(1))
            if self.has_unit_length:
                self.codebook.copy_(self.embeddings())
        if self.revive and self.n_steps % _INTERVAL == 0:
            self._revive(x, distance * weight)
        self.n_steps += 1

    def _revive(self, x: Tensor, mass: Tensor) -> None:
        """Put dead codes where vectors are, in proportion to their mass ``(n,)``; never waits for the device."""
        fair = self.count.mean()
        # Wide enough for sums of any order to agree, which parallel ones take.
        heights = mass.cumsum(0, dtype=torch.float32 if mass.device.type == "mps" else torch.float64)
        total = heights[-1]
        dead = (self.count < _IDLE * fair) & (total > 0.0)
        # Evenly spaced heights hit different vectors, unless one has more than an even part of the mass.
        start = self.n_steps * _GOLDEN % 1.0
        steps = torch.arange(self.n_embeddings, device=x.device, dtype=heights.dtype)
        below = torch.minimum((steps + start) * (total / self.n_embeddings), total * (1.0 - 1e-6))
        chosen = torch.searchsorted(heights, below, right=True)
        vectors = x[chosen.clamp(max=len(x) - 1)]
        self.count.copy_(torch.where(dead, _REVIVED * fair, self.count))
        column = dead.unsqueeze(1)
        self.codebook.copy_(torch.where(column, vectors, self.codebook))
        if not self.learns_by_gradient:
            self.total.copy_(torch.where(column, vectors * (_REVIVED * fair), self.total))

    def get_extra_state(self) -> dict[str, int]:
        """Return what `state_dict` keeps beside the tensors."""
        return {"n_steps": self.n_steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore what `get_extra_state` returned."""
        self.n_steps = state["n_steps"]

    def forget(self) -> None:
        """Put away what the last batch left."""
        self._seen = None

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.n_embeddings}, {self.embedding_dim}"
