"""A decoder-only Transformer over discrete codes, and the layers that every causal network over codes is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae.modules.priors.codes import AutoregressivePrior, CodeShape

Offset = tuple[int, int]

# Codes before a position that a table of their own is read for; the first is the last before it.
_GRID_NEIGHBORS: tuple[Offset, ...] = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0))
_SEQUENCE_NEIGHBORS: tuple[Offset, ...] = ((0, -1), (0, -2), (0, -3))

_EMBEDDING_SCALE = 0.1


def as_grid(shape: CodeShape) -> tuple[int, int]:
    """Height and width; a sequence has the height one."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def align(shape: CodeShape, upper: CodeShape) -> Tensor:
    """Which code of a level above lies over each position: the nearest, on grids by row and column, ``(n_codes,)``."""
    if len(shape) != len(upper):
        shape, upper = (math.prod(shape),), (math.prod(upper),)
    (h, w), (upper_h, upper_w) = as_grid(shape), as_grid(upper)
    rows = torch.arange(h) * upper_h // h
    columns = torch.arange(w) * upper_w // w
    return (rows.unsqueeze(1) * upper_w + columns).flatten()


def neighbor_index(shape: CodeShape, offsets: Sequence[Offset]) -> Tensor:
    """Positions at offsets from each position, the number of positions where there is none, ``(n_codes, n_offsets)``."""
    h, w = as_grid(shape)
    rows, columns = torch.arange(h * w) // w, torch.arange(h * w) % w
    index = []
    for down, right in offsets:
        row, column = rows + down, columns + right
        inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        index.append(torch.where(inside, row * w + column, h * w))
    return torch.stack(index, dim=1)


class Tables(nn.Module):
    """Embedding tables, one under the other.

    Parameters
    ----------
    n_tables : int
    n_rows : int
        Of each table.
    width : int
    """

    def __init__(self, n_tables: int, n_rows: int, width: int):
        super().__init__()
        self.n_tables, self.n_rows = n_tables, n_rows
        self.weight = nn.Parameter(torch.randn(n_tables * n_rows, width) * _EMBEDDING_SCALE)
        self.row_work = 0

    def forward(self, index: Tensor) -> Tensor:
        """Sum over tables: ``(..., n_tables)`` to ``(..., width)``."""
        first = self.n_rows * torch.arange(self.n_tables, device=index.device)
        embedded: Tensor = F.embedding(index + first, self.weight).sum(-2)
        return embedded

    @torch.no_grad()
    def set(self, vectors: Tensor) -> None:
        """Let rows be alike whose vectors are: linear images of the vectors, by maps that differ from table to table."""
        vectors = vectors.detach().to("cpu", torch.float64)
        u, s, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
        rank = min(u.shape[1], self.n_rows)
        scores = u[:, :rank] * s[:rank]
        scores = scores * math.sqrt(len(scores)) / scores.norm().clamp_min(1e-12)
        tables = self.weight.view(self.n_tables, self.n_rows, -1)
        for table in tables:  # the rows that stand there serve as the map
            image = scores.to(table) @ table[:rank].clone()
            table[: len(image)] = 0.5 * table[: len(image)] + image


class Positions(nn.Module):
    """Learned embeddings of positions: of each one in a sequence, of rows and of columns in a grid.

    Parameters
    ----------
    shape : tuple of int
    width : int
    """

    def __init__(self, shape: CodeShape, width: int):
        super().__init__()
        h, w = as_grid(shape)
        self.columns = nn.Parameter(torch.randn(w, width) * _EMBEDDING_SCALE)
        self.rows = nn.Parameter(torch.randn(h, width) * _EMBEDDING_SCALE) if h > 1 else None
        self.row_work = 0

    def forward(self) -> Tensor:
        """All of them, ``(n_codes, width)``."""
        every: Tensor = self.columns if self.rows is None else (self.rows.unsqueeze(1) + self.columns).flatten(0, 1)
        return every


class CodeInput(nn.Module):
    """What a causal network reads at each position: the position and the codes shortly before it.

    Summing tables over neighbors is a convolution over one-hot codes, shifted so that no position sees its own code.

    Parameters
    ----------
    shape : tuple of int
    n_embeddings : int
    width : int
    """

    index: Tensor

    def __init__(self, shape: CodeShape, n_embeddings: int, width: int):
        super().__init__()
        offsets = _SEQUENCE_NEIGHBORS if as_grid(shape)[0] == 1 else _GRID_NEIGHBORS
        index = neighbor_index(shape, offsets)
        # The code before it, from a new row back to the end of the last one: or nothing would tell of that code in time.
        index[:, 0] = torch.arange(len(index)) - 1
        index[0, 0] = len(index)
        self.register_buffer("index", index, persistent=False)
        self.tables = Tables(len(offsets), n_embeddings + 1, width)
        self.positions = Positions(shape, width)
        self.outside = n_embeddings

    def forward(self, codes: Tensor) -> Tensor:
        """Of all positions, ``(n, n_codes)`` to ``(n, n_codes, width)``."""
        embedded: Tensor = self.tables(self._padded(codes)[:, self.index])
        x: Tensor = embedded + self.positions()
        return x

    def at(self, codes: Tensor, position: int) -> Tensor:
        """Of one position, ``(n, 1, width)``."""
        embedded: Tensor = self.tables(self._padded(codes)[:, self.index[position]])
        x: Tensor = embedded + self.positions()[position]
        return x.unsqueeze(1)

    def _padded(self, codes: Tensor) -> Tensor:
        return F.pad(codes, (0, 1), value=self.outside)


class CausalAttention(nn.Module):
    """Self-attention of every position to itself and those before it.

    Parameters
    ----------
    width : int
    n_heads : int
        Divides the width.
    """

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, past: Tensor | None = None, start: int = 0) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor of shape (n, n_positions, width)
            All positions, or those from `start` on, of which there is then one.
        past : Tensor of shape (2, n, n_heads, n_all, width // n_heads), optional
            Keys and values of the positions before `start`; gets those of these positions.
        start : int, default=0

        Returns
        -------
        Tensor of shape (n, n_positions, width)
        """
        length = x.shape[1]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            past[0, :, :, start : start + length] = k
            past[1, :, :, start : start + length] = v
            k, v = past[:, :, :, : start + length]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out

    def room(self, n: int, length: int) -> Tensor:
        """Room for the keys and values of so many rows and positions."""
        width = self.out.in_features
        return self.out.weight.new_zeros(2, n, self.n_heads, length, width // self.n_heads)


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each after a normalization and beside an identity.

    Parameters
    ----------
    width : int
    n_heads : int
    dropout : float
    share : float
        By which the weights of what is added to the identity are scaled.
    expansion : int, default=4
        Hidden units of the perceptron, as a multiple of the width.
    """

    def __init__(self, width: int, n_heads: int, dropout: float, share: float, expansion: int = 4):
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = CausalAttention(width, n_heads)
        self.before_perceptron = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for last in (self.attention.out, self.narrow):
                last.weight.mul_(share)

    def forward(self, x: Tensor, past: Tensor | None = None, start: int = 0) -> Tensor:
        """See `CausalAttention.forward`."""
        x = x + self.dropout(self.attention(self.before_attention(x), past, start))
        y: Tensor = x + self.dropout(self.narrow(F.gelu(self.widen(self.before_perceptron(x)))))
        return y


class _Memory(NamedTuple):
    """What drawing keeps: keys and values by block, and what the levels above and the condition add to every position."""

    past: list[Tensor]
    given: Tensor


class TransformerPrior(AutoregressivePrior):
    """A decoder-only Transformer over codes [1]_, in rows where they lie on a grid.

    The first token stands for the beginning and the condition. The codes of the levels above follow as a prefix to which
    all own codes attend. A position reads, besides where it is, the codes next to it among those before it and the code of
    each level above that lies over it, from tables that differ by direction.

    Parameters
    ----------
    shape, n_embeddings, upper, n_conditions
        See `CodePriorModule`.
    n_layers : int, default=2
    width : int, default=64
    n_heads : int, default=4
        Divides the width.
    dropout : float, default=0.0
        Probability of zeroing a unit of a layer's output, in training.

    References
    ----------
    .. [1] Vaswani et al. (2017), Attention is all you need, arXiv:1706.03762; normalized before each layer as in Radford et
       al. (2019), Language models are unsupervised multitask learners.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import TransformerPrior
    >>> prior = TransformerPrior((4, 4), 8, upper=[((2, 2), 8)], n_layers=1, width=16)
    >>> prior.log_prob(torch.zeros(3, 4 + 16)).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        shape: CodeShape,
        n_embeddings: int,
        *,
        n_layers: int = 2,
        width: int = 64,
        n_heads: int = 4,
        dropout: float = 0.0,
        **levels: Any,
    ):
        super().__init__(shape, n_embeddings, **levels)
        if width % n_heads:
            raise ValueError(f"width must be a multiple of n_heads, got {width} and {n_heads}")
        self.width = width
        self.start = nn.Parameter(torch.randn(width) * _EMBEDDING_SCALE)
        self.condition_map = nn.Linear(self.n_conditions, width) if self.n_conditions else None
        self.input = CodeInput(self.shape, n_embeddings, width)
        self.prefix = nn.Sequential(*(Tables(1, size, width) for _, size in self.upper))
        self.prefix_positions = nn.Sequential(*(Positions(sides, width) for sides, _ in self.upper))
        self.over = Over(self.shape, self.upper, width)
        self.embedding_dropout = nn.Dropout(dropout)
        share = 1.0 / math.sqrt(2 * max(1, n_layers))
        self.blocks = nn.Sequential(*(TransformerBlock(width, n_heads, dropout, share) for _ in range(n_layers)))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_embeddings)
        start_small(self.out)

    @property
    def n_tokens(self) -> int:
        """Length of the whole sequence."""
        return 1 + self.n_features

    @cached_property
    def row_work(self) -> int:
        """Multiply-adds a row."""
        weights = sum(p.numel() for p in self.blocks.parameters())
        attention = 2 * len(self.blocks) * self.n_tokens * self.width
        return self.n_tokens * (weights + attention) + self.n_codes * self.out.weight.numel()

    @property
    def row_floats(self) -> int:
        """How many numbers a row takes at once while it is scored."""
        return super().row_floats + self.n_tokens * self.width * 12

    @property
    def cache_floats(self) -> int:
        """How many numbers a row takes at once while it is drawn."""
        return self.n_tokens * self.width * (2 * len(self.blocks) + 12 * (self.n_upper > 0)) + 8 * self.n_embeddings

    def set_embeddings(self, codebook: Any, upper: Sequence[Any] = ()) -> None:
        """Begin with tables that are alike where the autoencoder's vectors are; see `CodePriorModule.set_embeddings`."""
        self.input.tables.set(torch.as_tensor(codebook))
        for level, vectors in enumerate(upper):
            for tables in (self.prefix[level], self.over.tables[level]):
                assert isinstance(tables, Tables)
                tables.set(torch.as_tensor(vectors))

    def logits(self, codes: Tensor, upper: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        given = self._given(len(codes), upper, condition)
        own = self.input(codes)
        if given is not None:
            own = own + given
        x = self.embedding_dropout(torch.cat([self._prefix(len(codes), upper, condition), own], dim=1))
        for block in self.blocks:
            x = block(x)
        return self.depart(self._read(x[:, -self.n_codes :]))

    def begin(self, n: int, upper: Tensor | None, condition: Tensor | None) -> _Memory:
        """Compute the prefix."""
        x = self._prefix(n, upper, condition)
        past = []
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            past.append(block.attention.room(n, self.n_tokens))
            x = block(x, past[-1])
        given = self._given(n, upper, condition)
        return _Memory(past, x.new_zeros(1, 1, self.width) if given is None else given)

    def step(self, codes: Tensor, position: int, memory: _Memory) -> Tensor:
        """Logits ``(n, n_embeddings)`` of the code at a position, once those before it are known."""
        given = memory.given[:, position : position + 1] if memory.given.shape[1] > 1 else memory.given
        x = self.input.at(codes, position) + given
        for block, past in zip(self.blocks, memory.past, strict=True):
            x = block(x, past, 1 + self.n_upper + position)
        return self.depart(self._read(x[:, 0]), position)

    def _read(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(x))
        return logits

    def _embedded(self, condition: Tensor | None) -> Tensor | None:
        if self.condition_map is None:
            return None
        assert condition is not None, "the prior was built for rows with a condition"
        embedded: Tensor = self.condition_map(condition.to(self.start.dtype))
        return embedded.unsqueeze(1)

    def _given(self, n: int, upper: Tensor | None, condition: Tensor | None) -> Tensor | None:
        """Return what the condition and the levels above add to own positions, ``(n, 1 or n_codes, width)``."""
        embedded = self._embedded(condition)
        if not self.upper:
            return embedded
        over: Tensor = self.over(upper)
        return over if embedded is None else over + embedded

    def _prefix(self, n: int, upper: Tensor | None, condition: Tensor | None) -> Tensor:
        """Tokens before own codes, ``(n, 1 + n_upper, width)``."""
        embedded = self._embedded(condition)
        tokens = [self.start.expand(n, 1, -1) if embedded is None else self.start + embedded]
        if self.upper:
            assert upper is not None, "the prior was built for rows with levels above"
            parts = torch.split(upper, [math.prod(sides) for sides, _ in self.upper], dim=1)
            for part, tables, positions in zip(parts, self.prefix, self.prefix_positions, strict=True):
                tokens.append(tables(part.unsqueeze(-1)) + positions())
        return torch.cat(tokens, dim=1)


class Over(nn.Module):
    """Embeddings of the codes of the levels above that lie over each position, summed over levels.

    Parameters
    ----------
    shape : tuple of int
    upper : sequence of (shape, n_embeddings)
    width : int
    """

    def __init__(self, shape: CodeShape, upper: Sequence[tuple[CodeShape, int]], width: int):
        super().__init__()
        self.sizes = [math.prod(sides) for sides, _ in upper]
        self.tables = nn.Sequential(*(Tables(1, size, width) for _, size in upper))
        for level, (sides, _) in enumerate(upper):
            self.register_buffer(f"index_{level}", align(shape, sides), persistent=False)

    def forward(self, upper: Tensor) -> Tensor:
        """Map ``(n, n_upper)`` to ``(n, n_codes, width)``."""
        parts = torch.split(upper, self.sizes, dim=1)
        levels = zip(parts, self.tables, strict=True)
        return torch.stack(
            [tables(part[:, self.get_buffer(f"index_{i}")].unsqueeze(-1)) for i, (part, tables) in enumerate(levels)]
        ).sum(0)


@torch.no_grad()
def start_small(layer: nn.Linear) -> None:
    """Let a last layer begin at zero: the network then begins as the histogram beside it."""
    layer.weight.zero_()
    layer.bias.zero_()
