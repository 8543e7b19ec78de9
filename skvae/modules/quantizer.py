"""Vector quantization, and how a codebook learns."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae import functional as fn
from skvae._spec import Spec, check_flag, check_fraction, check_name

CODEBOOKS = ("ema", "gradient")
GRADIENTS = {"straight_through": fn.straight_through, "rotation": fn.rotate_to}
SIMILARITIES = ("euclidean", "cosine")
_IDLE = 0.03  # of a fair share of the vectors, below which a code counts as dead
_REVIVED = 0.3  # of a fair share, which a revived code begins with
REVIVAL_INTERVAL = 10  # steps between revivals
_MOMENT_RATE = 0.1
_EPSILON = 1e-10
_GOLDEN = 0.6180339887498949
_RAREST = 3e-4  # probability of a code, below which it is as far as one of that probability


class Codebook(Spec):
    """How the codebook of a :class:`~skvae.VQVAE` learns.

    Parameters
    ----------
    learning : {"ema", "gradient"}, default="ema"
        By exponential moving averages of the vectors that are assigned to a code, or by the gradient of a loss of its own.
    decay : float, default=0.99
        What those averages keep in a step. Counts with "ema"; with "gradient", for the revival of codes and `entropy_weight`
        alone.
    revive : bool, default=True
        Put codes that hardly any vector uses where vectors are far from the codebook.

    Examples
    --------
    >>> from skvae import VQVAE, Codebook
    >>> VQVAE(codebook=Codebook(decay=0.95)).set_params(codebook__revive=False).codebook
    Codebook(decay=0.95, revive=False)
    >>> VQVAE(codebook="gradient").set_params(codebook__decay=0.95).codebook
    Codebook(learning='gradient', decay=0.95)
    """

    def __init__(self, learning: str = "ema", *, decay: float = 0.99, revive: bool = True):
        self.learning = learning
        self.decay = decay
        self.revive = revive

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_name(self, "learning", CODEBOOKS)
        check_fraction(self, "decay")
        check_flag(self, "revive")


class Quantized(NamedTuple):
    """Vectors and what quantization made of them.

    Attributes
    ----------
    vectors : Tensor of shape (n, d)
        From the codebook; the gradient goes to what was quantized.
    codes : Tensor of int, shape (n,)
    commitment : Tensor of shape (n,)
        Squared distances to the codebook, weighted, with a gradient in what was quantized.
    codebook : Tensor of shape (n,) or None
        Squared distances with a gradient in the codebook, where it is learned by one.
    learned : dict of Tensor
        What `VectorQuantizer.after_step` asks for; empty unless in training.
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor
    codebook: Tensor | None
    learned: dict[str, Tensor]


class VectorQuantizer(nn.Module):
    r"""Replaces vectors by the nearest ones of a learned codebook.

    - "ema": a vector of the codebook is the mean of what was assigned to it, over an exponentially fading past, with
      Laplace smoothing of the counts [1]_; it is a buffer, and `after_step` moves it.
    - "gradient": the codebook is a parameter and its loss :math:`\|\mathrm{sg}[z] - e\|^2`.

    Codes that hardly any vector uses are revived by `revive_dead`: they take the place of vectors of the last batch, drawn in
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
    entropy_weight : float
        How much longer a code's way may be, in mean squared distances, for every nat that it is likelier than another [2]_:
        codes then take fewer bits, at a larger error.
    standardize : bool
        Whether every entry of the vectors is first standardized over the batch, in use by averages over past batches: so
        that vectors which the decoder does not need yet cannot all become the same.
    n_vectors : int
        Vectors per row of the data, which tells the cost of a row.

    References
    ----------
    .. [1] van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017, appendix A.1.
    .. [2] Chou, Lookabaugh and Gray, "Entropy-constrained vector quantization", IEEE Transactions on Acoustics, Speech, and
       Signal Processing 37, 1989.
    """

    codebook: Tensor
    count: Tensor
    total: Tensor
    mean_distance: Tensor
    mean: Tensor
    variance: Tensor

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
        entropy_weight: float = 0.0,
        standardize: bool = False,
        n_vectors: int = 1,
    ):
        super().__init__()
        self.n_embeddings, self.embedding_dim = n_embeddings, embedding_dim
        self.learns_by_gradient = codebook == "gradient"
        self.decay, self.smoothing, self.commitment_weight = decay, smoothing, commitment_weight
        self.gradient, self.has_unit_length = GRADIENTS[gradient], similarity == "cosine"
        self.entropy_weight = entropy_weight
        self.row_work = n_vectors * n_embeddings * embedding_dim
        self.row_size = min(n_vectors * max(n_embeddings, embedding_dim), fn.SEARCH_NUMBERS)
        vectors = torch.randn(n_embeddings, embedding_dim)
        if self.learns_by_gradient:
            self.codebook = nn.Parameter(vectors)
        else:
            self.register_buffer("codebook", vectors)
            self.register_buffer("total", vectors.clone())
        self.register_buffer("count", torch.ones(n_embeddings))
        self.register_buffer("mean_distance", torch.zeros(()))
        self.standardizes = standardize
        if standardize:
            self.register_buffer("mean", torch.zeros(embedding_dim))
            self.register_buffer("variance", torch.ones(embedding_dim))
        self.set_codebook(vectors)

    @torch.no_grad()
    def set_codebook(self, vectors: Tensor) -> None:
        """Set the codebook ``(n_embeddings, d)``, and the averages of its usage as if each vector had been in use once."""
        self.codebook.copy_(vectors)
        self.codebook.copy_(self.embeddings())
        # One vector each, which soon weighs little beside those of a batch.
        self.count.fill_(1.0)
        self.mean_distance.zero_()
        if not self.learns_by_gradient:
            self.total.copy_(self.codebook)

    def embeddings(self) -> Tensor:
        """Vectors of the codebook, of unit length under the cosine, ``(n_embeddings, d)``."""
        return F.normalize(self.codebook, dim=1) if self.has_unit_length else self.codebook

    def mean_embedding(self) -> Tensor:
        """Mean of the codebook's vectors by how often they are used, ``(d,)``."""
        return (self.count / self.count.sum()) @ self.embeddings().detach()

    def prepare(self, x: Tensor) -> Tensor:
        """Vectors as the codebook sees them: standardized, of unit length under the cosine, or as they are."""
        if self.standardizes:
            x = _scaled(x, self.mean, self.variance)
        return F.normalize(x, dim=-1) if self.has_unit_length else x

    @torch.no_grad()
    def set_moments(self, x: Tensor) -> None:
        """Set the moments by which vectors are standardized in use to those of some vectors ``(n, d)``."""
        if self.standardizes:
            self.mean.copy_(x.mean(0))
            self.variance.copy_(x.var(0, correction=0))

    def _prepare_batch(self, x: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors as the codebook sees them, standardized by the batch's own moments in training, and these moments."""
        if not (self.standardizes and self.training and len(x) > 1):
            return self.prepare(x), {}
        share = (weight / weight.sum()).unsqueeze(1)
        mean = (share * x).sum(0)
        variance = (share * (x - mean).square()).sum(0)
        x = _scaled(x, mean, variance)
        moments = {"mean": mean.detach(), "variance": variance.detach()}
        return F.normalize(x, dim=-1) if self.has_unit_length else x, moments

    def codes(self, x: Tensor) -> Tensor:
        """Codes of vectors ``(n, d)``, ``(n,)`` of int."""
        return self._search(self.prepare(x), self.embeddings(), exact=True)

    def _search(self, x: Tensor, embeddings: Tensor, *, exact: bool) -> Tensor:
        if self.entropy_weight > 0.0:
            # A squared distance more for rare codes is one more coordinate.
            nats = -torch.log((self.count / self.count.sum()).clamp(min=_RAREST))
            further = (self.entropy_weight * self.mean_distance * nats).sqrt().to(embeddings)
            x = torch.cat([x, x.new_zeros(len(x), 1)], 1)
            embeddings = torch.cat([embeddings, further.unsqueeze(1)], 1)
        return fn.nearest_codes(x, embeddings, exact=exact)

    def embed(self, codes: Tensor) -> Tensor:
        """Vectors of codes, ``(...)`` to ``(..., d)``."""
        return F.embedding(codes, self.embeddings())

    def forward(self, x: Tensor, weight: Tensor) -> Quantized:
        """Quantize vectors ``(n, d)`` of weights ``(n,)``."""
        (x, moments), embeddings = self._prepare_batch(x, weight), self.embeddings()
        codes = self._search(x, embeddings, exact=not self.training)
        chosen = F.embedding(codes, embeddings)
        fixed = chosen.detach()
        distance = (x - fixed).square().sum(1)
        codebook = (x.detach() - chosen).square().sum(1) if self.learns_by_gradient else None
        learned = {}
        if self.training:
            learned = {"vectors": x.detach(), "codes": codes, "distance": distance.detach(), "weight": weight, **moments}
        return Quantized(self.gradient(x, fixed), codes, self.commitment_weight * distance, codebook, learned)

    # -- what is learned without gradients ----------------------------------------------------------------------------

    @torch.no_grad()
    def after_step(self, learned: dict[str, Tensor]) -> None:
        """Move the averages by the last batch, and the codebook with them.

        Parameters
        ----------
        learned : dict of Tensor
            What `forward` returned.
        """
        x, codes, distance, weight = (learned[name] for name in ("vectors", "codes", "distance", "weight"))
        if "mean" in learned:
            _move(self.mean, learned["mean"], _MOMENT_RATE)
            _move(self.variance, learned["variance"], _MOMENT_RATE)
        column = weight.unsqueeze(1)
        if self.entropy_weight > 0.0:
            _move(self.mean_distance, (distance * weight).sum() / weight.sum(), 1.0 - self.decay)
        if self.learns_by_gradient:
            _move(self.count, fn.sum_by_code(column, codes, self.n_embeddings).squeeze(1), 1.0 - self.decay)
        else:
            sums = fn.sum_by_code(torch.cat([x * column, column], 1), codes, self.n_embeddings)
            _move(self.total, sums[:, :-1], 1.0 - self.decay)
            _move(self.count, sums[:, -1], 1.0 - self.decay)
            n = self.count.sum()
            smoothed = (self.count + self.smoothing) * (n / (n + self.n_embeddings * self.smoothing))
            self.codebook.copy_(self.total / smoothed.unsqueeze(1))
            if self.has_unit_length:
                self.codebook.copy_(self.embeddings())

    @torch.no_grad()
    def revive_dead(self, learned: dict[str, Tensor], n_steps: int) -> None:
        """Put dead codes where vectors are, in proportion to their mass; never waits for the device.

        Parameters
        ----------
        learned : dict of Tensor
            What `forward` returned.
        n_steps : int
            Steps that lie behind, by which the draws of one revival differ from those of another.
        """
        x, mass = learned["vectors"], learned["distance"] * learned["weight"]
        fair = self.count.mean()
        # Wide enough for sums of any order to agree, which parallel ones take.
        heights = mass.cumsum(0, dtype=torch.float32 if mass.device.type == "mps" else torch.float64)
        total = heights[-1]
        dead = (self.count < _IDLE * fair) & (total > 0.0)
        # Evenly spaced heights hit different vectors, unless one has more than an even part of the mass.
        start = n_steps * _GOLDEN % 1.0
        steps = torch.arange(self.n_embeddings, device=x.device, dtype=heights.dtype)
        below = torch.minimum((steps + start) * (total / self.n_embeddings), total * (1.0 - 1e-6))
        chosen = torch.searchsorted(heights, below, right=True)
        vectors = x[chosen.clamp(max=len(x) - 1)]
        self.count.copy_(torch.where(dead, _REVIVED * fair, self.count))
        column = dead.unsqueeze(1)
        self.codebook.copy_(torch.where(column, vectors, self.codebook))
        if not self.learns_by_gradient:
            self.total.copy_(torch.where(column, vectors * (_REVIVED * fair), self.total))

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.n_embeddings}, {self.embedding_dim}"


def _move(average: Tensor, value: Tensor, rate: float) -> None:
    """Move an average towards a value, in place; `lerp_` has no rule for several modules at once."""
    average.add_(value - average, alpha=rate)


def _scaled(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (x - mean) * torch.rsqrt(variance + _EPSILON)
