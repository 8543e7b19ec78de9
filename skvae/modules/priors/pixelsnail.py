"""PixelSNAIL: gated causal convolutions with attention between them, over codes on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae.modules.priors.codes import AutoregressivePrior, CodeShape
from skvae.modules.priors.transformer import (
    CausalAttention,
    CodeInput,
    Offset,
    Over,
    Tables,
    as_grid,
    neighbor_index,
    start_small,
)

# A position's features tell of codes before it alone, so that it may read its own, and those up to its right.
_GRID_TAPS: tuple[Offset, ...] = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0))
_SEQUENCE_TAPS: tuple[Offset, ...] = ((0, -2), (0, -1), (0, 0))


class CausalConv(nn.Module):
    """Convolution that reads positions up to its own in the order of rows.

    Features of the positions it reads are put side by side and multiplied by one matrix.

    Parameters
    ----------
    n_inputs, n_outputs : int
    sides : tuple of int
        Height and width of the grid.
    """

    index: Tensor

    def __init__(self, n_inputs: int, n_outputs: int, sides: tuple[int, int]):
        super().__init__()
        self.sides = sides
        self.taps = _SEQUENCE_TAPS if sides[0] == 1 else _GRID_TAPS
        self.up, self.left, self.right = (max(step) for step in zip(*((-d, -r, r) for d, r in self.taps), strict=True))
        self.register_buffer("index", neighbor_index(sides, self.taps), persistent=False)
        self.linear = nn.Linear(len(self.taps) * n_inputs, n_outputs)

    def forward(self, x: Tensor, past: Tensor | None = None, position: int = 0) -> Tensor:
        """Convolve.

        Parameters
        ----------
        x : Tensor of shape (n, h * w, n_inputs)
            All positions, or the one at `position` where `past` is given.
        past : Tensor of shape (n, h * w + 1, n_inputs), optional
            Features of the positions before, zeros at the end; gets those of this position.
        position : int, default=0

        Returns
        -------
        Tensor of shape (n, n_positions, n_outputs)
        """
        if past is not None:
            past[:, position] = x[:, 0]
            window = past[:, self.index[position]].flatten(1).unsqueeze(1)
        else:
            h, w = self.sides
            padded = F.pad(torch.unflatten(x, 1, self.sides), (0, 0, self.left, self.right, self.up, 0))
            parts = [
                padded[:, self.up + down : self.up + down + h, self.left + right : self.left + right + w]
                for down, right in self.taps
            ]
            window = torch.cat(parts, dim=-1).flatten(1, 2)
        out: Tensor = self.linear(window)
        return out

    def room(self, n: int) -> Tensor:
        """Room for the features of so many rows."""
        weight = self.linear.weight
        return weight.new_zeros(n, math.prod(self.sides) + 1, weight.shape[1] // len(self.taps))


class GatedBlock(nn.Module):
    """A causal convolution and a gate that the condition takes part in, beside an identity.

    Parameters
    ----------
    width : int
    sides : tuple of int
    dropout : float
    given : bool
        Whether there is a condition.
    """

    def __init__(self, width: int, sides: tuple[int, int], dropout: float, given: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = CausalConv(width, width, sides)
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(width, 2 * width)
        self.given = nn.Linear(width, 2 * width, bias=False) if given else None

    def forward(self, x: Tensor, given: Tensor | None, past: Tensor | None = None, position: int = 0) -> Tensor:
        """Add to features ``(n, n_positions, width)``, given a condition of the same shape or of one position."""
        gate = self.gate(self.dropout(F.gelu(self.conv(self.norm(x), past, position))))
        if self.given is not None:
            gate = gate + self.given(given)
        return x + F.glu(gate, dim=-1)


class AttentionBlock(nn.Module):
    """Causal attention after a normalization, beside an identity."""

    def __init__(self, width: int, n_heads: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, n_heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor | None = None, start: int = 0) -> Tensor:
        """See `CausalAttention.forward`."""
        y: Tensor = x + self.dropout(self.attention(self.norm(x), past, start))
        return y


class _Residual(nn.Module):
    """A convolution that sees all around, for codes that are known beforehand, beside an identity."""

    def __init__(self, width: int, sides: tuple[int, int]):
        super().__init__()
        self.sides = sides
        self.conv = nn.Conv2d(width, width, (3 if sides[0] > 1 else 1, 3), padding="same")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.unflatten(F.gelu(x), 1, self.sides).permute(0, 3, 1, 2))
        return x + y.permute(0, 2, 3, 1).flatten(1, 2)

    @property
    def row_work(self) -> int:
        """Multiply-adds a row."""
        return self.conv.weight.numel() * math.prod(self.sides)


class _Memory(NamedTuple):
    """What drawing keeps: features, keys and values by block, and the condition."""

    past: list[Tensor]
    given: Tensor | None


class PixelSNAILPrior(AutoregressivePrior):
    """PixelSNAIL [1]_ over codes, as in VQ-VAE-2 [2]_: gated causal convolutions with attention between them.

    A sequence is a grid of the height one. The levels above are brought to this grid's size by taking the nearest code, go
    through convolutions that see all around, and have a part in every gate, as the condition has.

    Parameters
    ----------
    shape, n_embeddings, upper, n_conditions
        See `CodePriorModule`.
    n_layers : int, default=2
        Attention layers.
    n_residual : int, default=2
        Gated convolutions before each of them.
    width : int, default=64
    n_heads : int, default=4
        Divides the width.
    dropout : float, default=0.0
        Probability of zeroing a unit of a layer, in training.

    References
    ----------
    .. [1] Chen et al. (2018), PixelSNAIL: An improved autoregressive generative model, arXiv:1712.09763.
    .. [2] Razavi et al. (2019), Generating diverse high-fidelity images with VQ-VAE-2, arXiv:1906.00446.

    Examples
    --------
    >>> import torch
    >>> from skvae.modules import PixelSNAILPrior
    >>> prior = PixelSNAILPrior((4, 4), 8, n_conditions=3, n_layers=1, width=16)
    >>> prior.log_prob(torch.zeros(5, 16), torch.eye(3)[[0, 1, 2, 0, 1]]).shape
    torch.Size([5, 16])
    """

    def __init__(
        self,
        shape: CodeShape,
        n_embeddings: int,
        *,
        n_layers: int = 2,
        n_residual: int = 2,
        width: int = 64,
        n_heads: int = 4,
        dropout: float = 0.0,
        **levels: Any,
    ):
        super().__init__(shape, n_embeddings, **levels)
        if width % n_heads:
            raise ValueError(f"width must be a multiple of n_heads, got {width} and {n_heads}")
        self.width = width
        self.sides = as_grid(self.shape)
        self.input = CodeInput(self.shape, n_embeddings, width)
        self.condition_map = nn.Linear(self.n_conditions, width) if self.n_conditions else None
        self.over = Over(self.shape, self.upper, width) if self.upper else None
        self.around = nn.Sequential(*(_Residual(width, self.sides) for _ in range(2 if self.upper else 0)))
        self.embedding_dropout = nn.Dropout(dropout)
        given = bool(self.upper) or self.n_conditions > 0
        blocks: list[nn.Module] = []
        for _ in range(n_layers):
            blocks += [GatedBlock(width, self.sides, dropout, given) for _ in range(n_residual)]
            blocks.append(AttentionBlock(width, n_heads, dropout))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_embeddings)
        start_small(self.out)

    @cached_property
    def row_work(self) -> int:
        """Multiply-adds a row."""
        weights = sum(p.numel() for p in self.blocks.parameters()) + self.out.weight.numel()
        attention = 2 * self.n_codes * self.width * sum(isinstance(block, AttentionBlock) for block in self.blocks)
        around = sum(layer.row_work for layer in self.around if isinstance(layer, _Residual))
        return self.n_codes * (weights + attention) + around

    @property
    def row_floats(self) -> int:
        """How many numbers a row takes at once while it is scored."""
        return super().row_floats + self.n_codes * self.width * 16

    @property
    def cache_floats(self) -> int:
        """How many numbers a row takes at once while it is drawn."""
        return self.n_codes * self.width * (2 * len(self.blocks) + 8 * bool(self.upper)) + 8 * self.n_embeddings

    def set_embeddings(self, codebook: Any, upper: Sequence[Any] = ()) -> None:
        """Begin with tables that are alike where the autoencoder's vectors are; see `CodePriorModule.set_embeddings`."""
        self.input.tables.set(torch.as_tensor(codebook))
        for level, vectors in enumerate(upper):
            assert self.over is not None
            tables = self.over.tables[level]
            assert isinstance(tables, Tables)
            tables.set(torch.as_tensor(vectors))

    def logits(self, codes: Tensor, upper: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        given = self._given(upper, condition)
        x = self.embedding_dropout(self.input(codes))
        for block in self.blocks:
            x = block(x, given) if isinstance(block, GatedBlock) else block(x)
        return self.depart(self._read(x))

    def begin(self, n: int, upper: Tensor | None, condition: Tensor | None) -> _Memory:
        """Compute the condition."""
        past = []
        for block in self.blocks:
            if isinstance(block, GatedBlock):
                past.append(block.conv.room(n))
            else:
                assert isinstance(block, AttentionBlock)
                past.append(block.attention.room(n, self.n_codes))
        return _Memory(past, self._given(upper, condition))

    def step(self, codes: Tensor, position: int, memory: _Memory) -> Tensor:
        """Logits ``(n, n_embeddings)`` of the code at a position, once those before it are known."""
        given = memory.given
        if given is not None and given.shape[1] > 1:
            given = given[:, position : position + 1]
        x = self.input.at(codes, position)
        for block, past in zip(self.blocks, memory.past, strict=True):
            x = block(x, given, past, position) if isinstance(block, GatedBlock) else block(x, past, position)
        return self.depart(self._read(x[:, 0]), position)

    def _read(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(x))
        return logits

    def _given(self, upper: Tensor | None, condition: Tensor | None) -> Tensor | None:
        """Return what every gate gets of the levels above and the condition, ``(n, 1 or n_codes, width)``."""
        embedded = None
        if self.condition_map is not None:
            assert condition is not None, "the prior was built for rows with a condition"
            embedded = self.condition_map(condition.to(self.out.weight.dtype)).unsqueeze(1)
        if self.over is None:
            return embedded
        assert upper is not None, "the prior was built for rows with levels above"
        around: Tensor = self.around(self.over(upper))
        return around if embedded is None else around + embedded
