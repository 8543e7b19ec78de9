"""Priors over discrete codes: what they share, and the two that need no training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae.modules.base import Schedule, TrainableModule
from skvae.modules.batch import Batch, Loss

CodeShape = tuple[int, ...]

_MOST_ENTRIES = 2**22  # of a histogram per class


class CodePriorModule(TrainableModule):
    """Distribution of one level's codes, given those of the levels above and a condition.

    A row is a vector of floats, which hold codes exactly: the levels above, top first, then this level's own codes.

    Parameters
    ----------
    shape : tuple of int
        ``(n_codes,)`` for a sequence, ``(height, width)`` for a grid, whose codes come row by row.
    n_embeddings : int
        How many codes there are.
    upper : sequence of (shape, n_embeddings), default=()
        The levels above, top first.
    n_conditions : int, default=0
        Length of the condition.
    """

    learns = False  # whether it is trained by gradient

    def __init__(
        self,
        shape: CodeShape,
        n_embeddings: int,
        *,
        upper: Sequence[tuple[CodeShape, int]] = (),
        n_conditions: int = 0,
    ):
        super().__init__()
        self.shape: CodeShape = tuple(int(side) for side in shape)
        self.n_codes = math.prod(self.shape)
        self.n_embeddings = int(n_embeddings)
        self.upper = tuple((tuple(int(side) for side in sides), int(size)) for sides, size in upper)
        self.n_upper = sum(math.prod(sides) for sides, _ in self.upper)
        self.n_features = self.n_upper + self.n_codes
        self.n_conditions = int(n_conditions)

    @property
    def depends_on_conditions(self) -> bool:
        """Whether probabilities depend on the condition."""
        return False

    @cached_property
    def depends_on_threads(self) -> bool:
        """Never, as far as anybody sees: scores are computed in double precision and rounded."""
        return False

    @property
    def row_floats(self) -> int:
        """How many numbers a row takes at once while it is scored."""
        return 4 * self.n_codes * self.n_embeddings

    @property
    def cache_floats(self) -> int:
        """How many numbers a row takes at once while it is drawn."""
        return self.row_floats

    def fit_counts(self, codes: Any, weight: Any = None, condition: Any = None, *, remembered: float = 0.0) -> None:
        """Learn how often each code occurs at each position; priors that are trained start from there.

        Parameters
        ----------
        codes : Tensor or ndarray of int, shape (n, n_codes)
            Own codes alone.
        weight : Tensor or ndarray of shape (n,), optional
        condition : Tensor or ndarray of shape (n, n_conditions), optional
        remembered : float, default=0.0
            How many rows counted before go on counting, at most.
        """

    def set_embeddings(self, codebook: Any, upper: Sequence[Any] = ()) -> None:
        """Let codes whose vectors in the autoencoder are alike begin alike here.

        Parameters
        ----------
        codebook : Tensor or ndarray of shape (n_embeddings, n_dimensions)
        upper : sequence of such, default=()
            The codebooks of the levels above.
        """

    def logits(self, codes: Tensor, upper: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Unnormalized log-probabilities of every code at every position, given the codes before it.

        Parameters
        ----------
        codes : Tensor of int64, shape (n, n_codes)
        upper : Tensor of int64, shape (n, n_upper), or None
        condition : Tensor of shape (n, n_conditions) or None

        Returns
        -------
        Tensor of shape (n, n_codes, n_embeddings)
        """
        raise NotImplementedError

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of the levels above and own codes, from rows ``(n, n_upper + n_codes)``."""
        codes = x.long()
        return codes[:, : self.n_upper], codes[:, self.n_upper :]

    def log_prob(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Log-probability, in nats, of every own code given what comes before it.

        Parameters
        ----------
        x : Tensor of shape (n, n_upper + n_codes)
        condition : Tensor of shape (n, n_conditions) or None

        Returns
        -------
        Tensor of shape (n, n_codes)
        """
        upper, codes = self.split(x)
        logits = self.logits(codes, upper, condition)
        return -F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        """Negative log-probability of a row's own codes."""
        return Loss({"codes": -self.log_prob(batch.x, batch.condition).sum(1)}, {})

    def draw(
        self,
        uniforms: Tensor,
        upper: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        cache: bool = True,
    ) -> Tensor:
        """Draw codes by inverting their cumulative distributions.

        Parameters
        ----------
        uniforms : Tensor of shape (n, n_codes)
            Uniform draws from [0, 1).
        upper : Tensor of int64, shape (n, n_upper), or None
        condition : Tensor of shape (n, n_conditions) or None
        temperature : float, default=1.0
            Divides the logits; towards zero, the likeliest code is taken.
        top_k : int or None, default=None
            How many of the likeliest codes stay in the draw.
        cache : bool, default=True
            Keep what was computed for earlier codes, where a prior goes from code to code.

        Returns
        -------
        Tensor of int64, shape (n, n_codes)
        """
        codes = torch.zeros(uniforms.shape, dtype=torch.long, device=uniforms.device)
        return choose(self.logits(codes, upper, condition), uniforms, temperature, top_k)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"shape={self.shape}, n_embeddings={self.n_embeddings}, upper={self.upper}, n_conditions={self.n_conditions}"


def choose(logits: Tensor, uniforms: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """Invert cumulative distributions over codes.

    Parameters
    ----------
    logits : Tensor of shape (..., n_embeddings)
    uniforms : Tensor of shape (...)
        In [0, 1).
    temperature : float, default=1.0
    top_k : int or None, default=None

    Returns
    -------
    Tensor of int64, shape (...)

    Examples
    --------
    >>> import torch
    >>> from skvae.modules.priors.codes import choose
    >>> choose(torch.tensor([0.2, 0.5, 0.3]).log().expand(3, 3), torch.tensor([0.1, 0.6, 0.8]))
    tensor([0, 1, 2])
    """
    highest = logits.amax(-1, keepdim=True)
    weights = ((logits - highest) / temperature).exp()
    if top_k is not None and top_k < logits.shape[-1]:
        kept = logits.topk(top_k, dim=-1).indices
        weights = torch.zeros_like(weights).scatter(-1, kept, weights.gather(-1, kept))
    cumulative = weights.cumsum(-1)
    total = cumulative[..., -1:]
    code = (cumulative <= uniforms.to(weights.dtype).unsqueeze(-1) * total).sum(-1)
    return torch.minimum(code, (cumulative < total).sum(-1))  # rounding must not lead beyond the last code that may be drawn


def count(codes: Tensor, n_embeddings: int, weight: Tensor | None = None) -> Tensor:
    """Count codes by position, in double precision.

    Parameters
    ----------
    codes : Tensor of int64, shape (n, n_codes)
    n_embeddings : int
    weight : Tensor of shape (n,), optional

    Returns
    -------
    Tensor of shape (n_codes, n_embeddings)
    """
    n_codes = codes.shape[1]
    places = (codes + n_embeddings * torch.arange(n_codes)).flatten()
    weights = None if weight is None else weight.double().repeat_interleave(n_codes)
    return torch.bincount(places, weights, minlength=n_codes * n_embeddings).double().view(n_codes, n_embeddings)


def faded(counts: Tensor, remembered: float) -> Tensor:
    """Scale counts ``(..., n_codes, n_embeddings)`` down to so many rows, where they are of more; in double precision."""
    counts = counts.double().cpu()
    n_rows = float(counts[..., 0, :].sum())
    return counts if n_rows <= remembered else counts * (remembered / n_rows)


def smoothed(counts: Tensor, smoothing: float = 1.0) -> Tensor:
    """Turn counts ``(..., n_embeddings)``, to each of which something is added, into relative frequencies."""
    return (counts + smoothing) / (counts + smoothing).sum(-1, keepdim=True)


class UniformPrior(CodePriorModule):
    """Every code as likely as any other, at every position.

    Parameters
    ----------
    shape, n_embeddings, upper, n_conditions
        See `CodePriorModule`.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import UniformPrior
    >>> UniformPrior((2,), 4).log_prob(torch.tensor([[0.0, 3.0]])).exp()
    tensor([[0.2500, 0.2500]])
    """

    def __init__(self, shape: CodeShape, n_embeddings: int, **levels: Any):
        super().__init__(shape, n_embeddings, **levels)
        # A parameter, so that the module has a device and a precision.
        self.log_frequency = nn.Parameter(torch.tensor(-math.log(n_embeddings)), requires_grad=False)

    def logits(self, codes: Tensor, upper: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        return self.log_frequency.expand(len(codes), self.n_codes, self.n_embeddings)


class HistogramPrior(CodePriorModule):
    """Independent codes, as frequent at each position as they are in the training rows, plus one.

    Where conditions are labels, one of `n_conditions` entries being one and the others zero, there is a histogram for each
    of them, unless that takes more than 4 million numbers.

    Parameters
    ----------
    shape, n_embeddings, upper, n_conditions
        See `CodePriorModule`; the levels above are ignored.
    smoothing : float, default=1.0
        Added to every count.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import HistogramPrior
    >>> prior = HistogramPrior((2,), 2)
    >>> prior.fit_counts(torch.tensor([[0, 0], [0, 1]]))
    >>> prior.log_prob(torch.tensor([[0.0, 0.0]])).exp()
    tensor([[0.7500, 0.5000]])
    """

    counts: Tensor

    def __init__(self, shape: CodeShape, n_embeddings: int, *, smoothing: float = 1.0, **levels: Any):
        super().__init__(shape, n_embeddings, **levels)
        self.smoothing = smoothing
        entries = self.n_codes * self.n_embeddings
        n_tables = self.n_conditions if 0 < self.n_conditions * entries <= _MOST_ENTRIES else 1
        uniform = torch.full((n_tables, self.n_codes, self.n_embeddings), 1.0 / n_embeddings)
        self.frequency = nn.Parameter(uniform, requires_grad=False)
        self.register_buffer("counts", torch.zeros(n_tables, self.n_codes, self.n_embeddings))
        self.register_buffer("per_class", torch.tensor(False))

    @property
    def depends_on_conditions(self) -> bool:
        return bool(self.per_class)

    @cached_property
    def row_work(self) -> int:
        """Multiply-adds a row."""
        return self.frequency.numel()

    def fit_counts(self, codes: Any, weight: Any = None, condition: Any = None, *, remembered: float = 0.0) -> None:
        """Count codes; see `CodePriorModule.fit_counts`."""
        codes = torch.as_tensor(codes).long().cpu()
        weight = None if weight is None else torch.as_tensor(weight).cpu()
        labels = _labels(condition) if self.n_conditions and len(self.frequency) == self.n_conditions else None
        if labels is None:
            counts = count(codes, self.n_embeddings, weight).expand_as(self.counts)
        else:
            parts = [labels == label for label in range(self.n_conditions)]
            counts = torch.stack(
                [count(codes[part], self.n_embeddings, None if weight is None else weight[part]) for part in parts]
            )
        counts = counts + faded(self.counts if labels is not None else self.counts[:1], remembered)
        with torch.no_grad():
            self.counts.copy_(counts)
            self.frequency.copy_(smoothed(counts, self.smoothing))
        self.register_buffer("per_class", torch.tensor(labels is not None, device=self.frequency.device))

    def logits(self, codes: Tensor, upper: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        if condition is None or not bool(self.per_class):
            return self.frequency[:1].log().expand(len(codes), -1, -1)
        frequency = condition.to(self.frequency) @ self.frequency.flatten(1)
        return frequency.log().view(-1, self.n_codes, self.n_embeddings)


def _labels(condition: Any) -> Tensor | None:
    """Labels that a condition stands for, if every row has a single entry of one beside zeros."""
    if condition is None:
        return None
    condition = torch.as_tensor(condition).cpu()
    one_hot = ((condition == 0) | (condition == 1)).all() and (condition.sum(1) == 1).all()
    return condition.argmax(1) if one_hot else None


class AutoregressivePrior(CodePriorModule):
    """A prior that goes from code to code, each given those before it; a network departs from a histogram.

    The frequencies of codes by position stand beside the network's output, so that a network whose last layer is zero is
    the histogram, and so that training on few rows begins at what they support. Once trained, `share` of the network's
    output is taken, which is one unless somebody finds that less of it carries over to new rows.

    Parameters
    ----------
    shape, n_embeddings, upper, n_conditions
        See `CodePriorModule`.
    """

    learns = True

    counts: Tensor
    log_frequency: Tensor
    share: Tensor

    def __init__(self, shape: CodeShape, n_embeddings: int, **levels: Any):
        super().__init__(shape, n_embeddings, **levels)
        self.register_buffer("counts", torch.zeros(self.n_codes, self.n_embeddings))
        self.register_buffer("log_frequency", torch.zeros(self.n_codes, self.n_embeddings))
        self.register_buffer("share", torch.ones(()))

    def fit_counts(self, codes: Any, weight: Any = None, condition: Any = None, *, remembered: float = 0.0) -> None:
        """Start from the frequencies of codes by position; see `CodePriorModule.fit_counts`."""
        codes = torch.as_tensor(codes).long().cpu()
        weight = None if weight is None else torch.as_tensor(weight).cpu()
        counts = count(codes, self.n_embeddings, weight) + faded(self.counts, remembered)
        self.counts.copy_(counts)
        self.log_frequency.copy_(smoothed(counts).log())

    @property
    def depends_on_conditions(self) -> bool:
        return self.n_conditions > 0 and bool(self.share > 0.0)

    def depart(self, network: Tensor, position: int | None = None) -> Tensor:
        """Logits from a network's output, at one position or all of them."""
        start = self.log_frequency if position is None else self.log_frequency[position]
        return start + (network if self.training else self.share * network)

    def begin(self, n: int, upper: Tensor | None, condition: Tensor | None) -> Any:
        """Return what `step` reads of the levels above and the condition, and room for what it keeps of `n` rows."""
        raise NotImplementedError

    def step(self, codes: Tensor, position: int, memory: Any) -> Tensor:
        """Logits ``(n, n_embeddings)`` of the code at a position, once those before it are known."""
        raise NotImplementedError

    def draw(
        self,
        uniforms: Tensor,
        upper: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        cache: bool = True,
    ) -> Tensor:
        """Draw one code after the other; see `CodePriorModule.draw`.

        Without the cache the whole network is computed anew for every code, which gives the same codes in more time, but
        for rounding: both want double precision.
        """
        codes = torch.zeros(uniforms.shape, dtype=torch.long, device=uniforms.device)
        memory = self.begin(len(uniforms), upper, condition) if cache else None
        for position in range(self.n_codes):
            logits = self.step(codes, position, memory) if cache else self.logits(codes, upper, condition)[:, position]
            codes[:, position] = choose(logits, uniforms[:, position], temperature, top_k)
        return codes
