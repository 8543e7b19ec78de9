"""The vector-quantized autoencoder, with one level of codes or a hierarchy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skvae.modules.base import LatentModule, Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.networks.build import Given, Network, resolve_encoder, resolve_networks
from skvae.modules.networks.convolution import Shape, double_grid, grid_decoder, grid_encoder, grid_size, halve_grid, pointwise
from skvae.modules.networks.layers import after, mlp
from skvae.modules.networks.specs import MLP, Conv, Net, hidden_of
from skvae.modules.quantizer import REVIVAL_INTERVAL, VectorQuantizer

MAX_LEVELS = 3
_N_CODES = 8
_SPREAD = 0.5  # standard deviation of the encoder's vectors to begin with


class Level(NamedTuple):
    """One level of codes.

    Attributes
    ----------
    shape : tuple of int
        Height and width of its grid, or the length of its sequence.
    n_embeddings : int
        Vectors of its codebook.
    embedding_dim : int
        Their size.
    """

    shape: tuple[int, ...]
    n_embeddings: int
    embedding_dim: int

    @property
    def n_codes(self) -> int:
        """Codes per row."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Numbers per row in the embedding."""
        return self.n_codes * self.embedding_dim


def plan_levels(
    *,
    n_levels: int = 1,
    n_codes: int | Sequence[int] | None = None,
    n_embeddings: int | Sequence[int] = 128,
    embedding_dim: int | Sequence[int] = 16,
    encoder: Given = None,
    image_shape: Shape | None = None,
) -> list[Level]:
    """Shapes of the levels of a `VQVAEModule`, the top first, without building it.

    Parameters
    ----------
    n_levels : int
    n_codes : int, sequence of int, or None
        Codes per row and level; a number is the bottom's, and every level above has half as many. Images take theirs from
        the encoder's grid.
    n_embeddings, embedding_dim : int or sequence of int
        For all levels, or for each.
    encoder : Conv, MLP, Net or None
    image_shape : tuple of int or None

    Returns
    -------
    list of Level

    Raises
    ------
    ValueError
        If the levels do not fit.

    Examples
    --------
    >>> from skvae.modules import Conv
    >>> [level.shape for level in plan_levels(n_levels=2, encoder=Conv(channels=(8, 8)), image_shape=(1, 28, 28))]
    [(3, 3), (7, 7)]
    """
    if n_levels not in range(1, MAX_LEVELS + 1):
        raise ValueError(f"n_levels={n_levels!r} must be 1, 2 or {MAX_LEVELS}.")
    shapes: list[tuple[int, ...]]
    if image_shape is None:
        shapes = [(size,) for size in _code_lengths(_N_CODES if n_codes is None else n_codes, n_levels)]
    elif n_codes is not None:
        raise ValueError(f"n_codes={n_codes!r} is for rows: images have a code at every place of the encoder's grid.")
    else:
        shapes = _grids(resolve_encoder(encoder, image_shape), image_shape, n_levels)
    sizes = _each("n_embeddings", n_embeddings, n_levels)
    dims = _each("embedding_dim", embedding_dim, n_levels)
    return [Level(*level) for level in zip(shapes, sizes, dims, strict=True)]


def _each(name: str, value: int | Sequence[int], n_levels: int) -> list[int]:
    """Values for every level."""
    values = [int(v) for v in value] if isinstance(value, Sequence) else [int(value)] * n_levels
    if len(values) != n_levels:
        raise ValueError(f"{name}={value!r} has {len(values)} entries, but n_levels={n_levels}.")
    if min(values) < 1:
        raise ValueError(f"{name}={value!r} must be at least 1.")
    return values


def _code_lengths(n_codes: int | Sequence[int], n_levels: int) -> list[int]:
    if isinstance(n_codes, Sequence):
        return _each("n_codes", n_codes, n_levels)
    return _each("n_codes", [-(-n_codes // 2**i) for i in reversed(range(n_levels))], n_levels)


def _grids(spec: Network, image_shape: Shape, n_levels: int) -> list[tuple[int, ...]]:
    """Sides of every level's grid."""
    if not isinstance(spec, Conv):
        raise ValueError(f"encoder={spec!r} returns no grid of codes: images take encoder=Conv(...).")
    spec.check()
    width, sides = grid_size(spec, image_shape)
    grids = [sides]
    while max(grids[0]) > 1 and len(grids) < n_levels:
        grids.insert(0, grid_size(Conv(channels=(width,)), (width, *grids[0]))[1])
    if len(grids) < n_levels:
        found = ", ".join(f"{h}x{w}" for h, w in reversed(grids))
        raise ValueError(
            f"n_levels={n_levels} does not fit image_shape={image_shape}: behind channels={spec.channels!r} the levels have "
            f"sides of {found}, the last of which cannot be halved again. At most n_levels={len(grids)} fits, or fewer entries "
            "in channels."
        )
    return list(grids)


def _network(spec: MLP | Net, n_inputs: int, n_outputs: int) -> nn.Module:
    if isinstance(spec, Net):
        return spec.build(n_inputs, n_outputs)
    return mlp(n_inputs, spec.hidden_layer_sizes, n_outputs, **hidden_of(spec))


class VQVAEModule(LatentModule):
    r"""Autoencoder whose code is a grid, or a sequence, of vectors from a learned codebook.

    .. math:: -\log p(x|e) + \gamma\,\|z - \mathrm{sg}[e]\|^2 \;(+\, \|\mathrm{sg}[z] - e\|^2), \quad e = \mathrm{nearest}(z)

    with the first term at a noise of one standard deviation per column [1]_. With several levels [2]_ a level's vectors are
    read off the features of its own size and what was decoded from the levels above; the decoder sees all levels. Their
    vectors are standardized: else those of the higher levels, whose gradient is weak at first, all become the same. The top
    level, which is the coarsest, comes first everywhere: in codes, in embeddings and in `levels`.

    Parameters
    ----------
    n_features : int
    n_components : int or None
        Size of the flattened embedding, which the levels imply.
    n_levels, n_codes, n_embeddings, embedding_dim
        See `plan_levels`.
    codebook, decay, smoothing, commitment_weight, gradient, similarity, entropy_weight
        See `VectorQuantizer`.
    revive : bool
        Whether dead codes are revived, every few steps.
    likelihood, **networks
        See `LatentModule` and `build_networks`; images have no perceptron between convolutions and codes.

    Attributes
    ----------
    levels : list of Level
    code_slices, embedding_slices : list of slice
        Where the levels lie in codes and in embeddings.

    References
    ----------
    .. [1] van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017.
    .. [2] Razavi, van den Oord and Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", NeurIPS 2019.
    """

    couples_rows = True
    passes_rows_on = False

    def __init__(
        self,
        n_features: int,
        n_components: int | None = None,
        *,
        n_levels: int = 1,
        n_codes: int | Sequence[int] | None = None,
        n_embeddings: int | Sequence[int] = 128,
        embedding_dim: int | Sequence[int] = 16,
        codebook: str = "ema",
        decay: float = 0.99,
        smoothing: float = 1e-5,
        commitment_weight: float = 0.25,
        gradient: str = "straight_through",
        similarity: str = "euclidean",
        revive: bool = True,
        entropy_weight: float = 0.0,
        encoder: Given = None,
        image_shape: Shape | None = None,
        **autoencoder: Any,
    ):
        levels = plan_levels(
            n_levels=n_levels,
            n_codes=n_codes,
            n_embeddings=n_embeddings,
            embedding_dim=embedding_dim,
            encoder=encoder,
            image_shape=image_shape,
        )
        size = sum(level.size for level in levels)
        if n_components not in (None, size):
            raise ValueError(f"n_components={n_components} is not the size of the embedding, {size}.")
        super().__init__(n_features, size, levels=levels, encoder=encoder, image_shape=image_shape, **autoencoder)
        self._owns_encoder = not isinstance(encoder, Net)
        self.levels = levels
        self.n_codes = sum(level.n_codes for level in levels)
        self.n_embeddings = [level.n_embeddings for level in levels]
        self.level_shapes = [level.shape for level in levels]
        self.code_slices = _slices(level.n_codes for level in levels)
        self.embedding_slices = _slices(level.size for level in levels)
        self.quantizers = nn.ModuleList(
            VectorQuantizer(
                level.n_embeddings,
                level.embedding_dim,
                codebook=codebook,
                decay=decay,
                smoothing=smoothing,
                commitment_weight=commitment_weight,
                gradient=gradient,
                similarity=similarity,
                entropy_weight=entropy_weight,
                standardize=n_levels > 1,
                n_vectors=level.n_codes,
            )
            for level in levels
        )
        self.interval = REVIVAL_INTERVAL if revive else None

    # -- networks -----------------------------------------------------------------------------------------------------

    def _build_networks(self, **networks: Any) -> tuple[nn.Module, nn.Module]:
        return self._build_hierarchy(**networks)

    def _build_hierarchy(
        self,
        *,
        levels: list[Level],
        hidden_layer_sizes: Sequence[int] = (128, 64),
        activation: str | type[nn.Module] = "relu",
        encoder: Given = None,
        decoder: Given = None,
        image_shape: Shape | None = None,
    ) -> tuple[nn.Module, nn.Module]:
        down, up = resolve_networks(encoder, decoder, hidden_layer_sizes, activation, image_shape)
        for name, spec in (("encoder", down), ("decoder", up)):
            if isinstance(spec, Net) and (image_shape is not None or len(levels) > 1):
                raise ValueError(f"{name}={spec!r} goes with rows and n_levels=1 only.")
        if image_shape is None:
            return self._build_perceptrons(levels, down, up)
        if not isinstance(up, Conv):
            raise ValueError(f"decoder={up!r} takes no grid of codes: images take decoder=Conv(...).")
        return self._build_convolutions(levels, down, up, image_shape)

    def _build_perceptrons(self, levels: list[Level], down: Any, up: Any) -> tuple[nn.Module, nn.Module]:
        n_inputs, n_outputs = self.likelihood.n_inputs, self.likelihood.n_outputs
        if len(levels) == 1:
            size = levels[0].size
            self._set_hierarchy([], [_vectors_of(levels[0])], [])
            return _network(down, n_inputs, size), _network(up, size, n_outputs)
        sizes, hidden = down.hidden_layer_sizes, hidden_of(down)
        width = sizes[-1] if sizes else n_inputs
        first = nn.Sequential(*mlp(n_inputs, sizes[:-1], width, **hidden), *after(width, **hidden))
        stages, heads, lifts = [], [nn.Sequential(nn.Linear(width, levels[0].size), _vectors_of(levels[0]))], []
        merged = levels[0].size
        for level in levels[1:]:
            stages.append(mlp(width, (width,), width, **hidden)[:-1])
            lifts.append(mlp(merged, (width,), width, **hidden_of(up))[:-1])
            heads.append(nn.Sequential(nn.Linear(2 * width, level.size), _vectors_of(level)))
            merged = level.size + width
        self._set_hierarchy(stages, heads, lifts)
        return first, _network(up, merged, n_outputs)

    def _build_convolutions(self, levels: list[Level], down: Any, up: Conv, image_shape: Shape) -> tuple[nn.Module, nn.Module]:
        width, sides = grid_size(down, image_shape)
        if grid_size(up, image_shape)[1] != sides:
            raise ValueError(
                f"decoder=Conv(channels={up.channels!r}) does not come from where encoder=Conv(channels={down.channels!r}) "
                f"leads, a grid of {sides[0]}x{sides[1]}."
            )
        if len(levels) == 1:
            dim = levels[0].embedding_dim
            self._set_hierarchy([], [nn.Identity()], [])
            return grid_encoder(down, image_shape, dim, **hidden_of(down)), grid_decoder(up, image_shape, dim, **hidden_of(up))
        lifted = grid_size(up, image_shape)[0]
        stages: list[nn.Module] = []
        heads, lifts, merged = [], [], 0
        for i, level in enumerate(levels):
            sides = (level.shape[0], level.shape[1])
            if i > 0:
                stages.insert(0, halve_grid(down, (width, *sides), **hidden_of(down)))
                lifts.append(double_grid(up, (lifted, *sides), merged, **hidden_of(up)))
            above = lifted if i > 0 else 0
            heads.append(pointwise(width + above, level.embedding_dim, sides))
            merged = level.embedding_dim + above
        self._set_hierarchy(stages, heads, lifts)
        return grid_encoder(down, image_shape, **hidden_of(down)), grid_decoder(up, image_shape, merged, **hidden_of(up))

    def _set_hierarchy(self, stages: list[Any], heads: list[Any], lifts: list[Any]) -> None:
        """Keep what lies between encoder and decoder: stages go from the bottom up, heads and lifts from the top down."""
        self.stages, self.heads, self.lifts = nn.ModuleList(stages), nn.ModuleList(heads), nn.ModuleList(lifts)

    @property
    def networks(self) -> list[nn.Module]:
        return [*super().networks, *self.stages, *self.heads, *self.lifts]

    # -- the way through ----------------------------------------------------------------------------------------------

    def _descend(self, batch: Batch, choose: Callable[[int, Tensor], Tensor], n_levels: int | None = None) -> Tensor:
        """Go through the levels, from the top on, and return what the decoder reads.

        Parameters
        ----------
        batch : Batch
        choose : callable
            Takes a level's index and its vectors ``(n * n_codes, d)``, and returns others in their place.
        n_levels : int, optional
            Levels to go through; all by default.
        """
        features = [self.encoder(self.encoder_input(batch))]
        for stage in self.stages:
            features.append(stage(features[-1]))
        merged: Tensor | None = None
        for i in range(len(self.levels) if n_levels is None else n_levels):
            read, above = features[-1 - i], None
            if merged is not None:
                above = self.lifts[i - 1](merged)
                read = torch.cat([read, above], 1)
            read = self.heads[i](read)
            if self.image_shape is not None:
                read = read.permute(0, 2, 3, 1)
            merged = self._merge(i, choose(i, read.reshape(-1, self.levels[i].embedding_dim)), above)
        assert merged is not None
        return merged

    def _merge(self, i: int, vectors: Tensor, above: Tensor | None) -> Tensor:
        """Lay out a level's vectors as its layers read them, and add what comes from above."""
        level = self.levels[i]
        if self.image_shape is None:
            laid = vectors.reshape(-1, level.size)
        else:
            laid = vectors.reshape(-1, *level.shape, level.embedding_dim).permute(0, 3, 1, 2)
        return laid if above is None else torch.cat([laid, above], 1)

    # -- the code -----------------------------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Tensor:
        """Quantized embedding of rows, ``(n, n_components)``."""
        return self.embed(self.codes(batch))

    def codes(self, batch: Batch) -> Tensor:
        """Codes of rows, the top level first and every grid row by row, ``(n, n_codes)`` of int."""
        found: list[Tensor] = []

        def choose(i: int, vectors: Tensor) -> Tensor:
            codes = self.quantizers[i].codes(vectors)  # type: ignore[operator]
            found.append(codes.view(-1, self.levels[i].n_codes))
            chosen: Tensor = self.quantizers[i].embed(codes)  # type: ignore[operator]
            return chosen

        self._descend(batch, choose)
        return torch.cat(found, 1)

    def measured_codes(self, batch: Batch) -> Tensor:
        """Codes of rows as integers, see `codes`."""
        return self.codes(batch)

    def embed(self, codes: Tensor) -> Tensor:
        """Embedding of codes, ``(n, n_codes)`` of int to ``(n, n_components)``."""
        parts = zip(self.quantizers, self.code_slices, strict=True)
        return torch.cat([quantizer.embed(codes[:, part]).flatten(1) for quantizer, part in parts], 1)  # type: ignore[operator]

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        """Return what the likelihood reads off an embedding, ``(n, n_components)`` to ``(n, n_features)``."""
        merged: Tensor | None = None
        for i, part in enumerate(self.embedding_slices):
            merged = self._merge(i, z[:, part], None if merged is None else self.lifts[i - 1](merged))
        output: Tensor = self.decoder(merged)
        return output

    def keep_levels(self, z: Tensor, levels: Iterable[int]) -> Tensor:
        """Embeddings ``(n, n_components)`` in which the other levels are the mean of their codebook, by use."""
        kept = set(levels)
        parts = []
        for i, part in enumerate(self.embedding_slices):
            mean = self.quantizers[i].mean_embedding().repeat(self.levels[i].n_codes)  # type: ignore[operator]
            parts.append(z[:, part] if i in kept else mean.expand(len(z), -1))
        return torch.cat(parts, 1)

    def pre_quantization(self, batch: Batch, level: int = 0) -> Tensor:
        """Vectors of a level as its codebook is searched for them, given the levels above, ``(n, n_codes, d)``."""
        prepared: Tensor = self.quantizers[level].prepare(self._vectors(batch, level))  # type: ignore[operator]
        return prepared

    def _vectors(self, batch: Batch, level: int) -> Tensor:
        """Vectors of a level as they come from the encoder, given the levels above, ``(n, n_codes, d)``."""
        found: list[Tensor] = []

        def choose(i: int, vectors: Tensor) -> Tensor:
            found.append(vectors)
            quantizer: Any = self.quantizers[i]
            return vectors if i == level else quantizer.embed(quantizer.codes(vectors))

        self._descend(batch, choose, level + 1)
        return found[-1].view(len(batch.x), -1, self.levels[level].embedding_dim)

    @torch.no_grad()
    def initialize_codebooks(self, batch: Batch, cluster: Callable[[Tensor, int], Tensor]) -> None:
        """Set the scale of the encoder's vectors and place the codebooks among them, from the top level down.

        Vectors of a hierarchy are standardized all through training.

        Parameters
        ----------
        batch : Batch
        cluster : callable
            Takes vectors ``(n_vectors, d)`` and a number, and returns so many centers ``(n_embeddings, d)``.
        """
        if len(self.levels) == 1:
            if self.n_codes == 1 and self.image_shape is None:
                self._keep_distances(batch)
            self._spread(batch)
        for i, level in enumerate(self.levels):
            self.quantizers[i].set_moments(self._vectors(batch, i).flatten(0, 1))  # type: ignore[operator]
            vectors = self.pre_quantization(batch, i).flatten(0, 1)
            self.quantizers[i].set_codebook(cluster(vectors, level.n_embeddings))  # type: ignore[operator]

    def _keep_distances(self, batch: Batch) -> None:
        """Set the encoder's last layer to give the rows' principal components, as well as its features allow.

        One code a row divides rows into clusters, the best ones of which are those of k-means: they should begin there, and not
        at the clusters of what random layers make of the rows.
        """
        layers = [layer for layer in self.encoder.children() if isinstance(layer, nn.Linear)] if self._owns_encoder else []
        if not layers:
            return
        x = self.likelihood.comparable(batch.x)
        last, rows = layers[-1], x - x.mean(0)
        before = nn.Sequential(*list(self.encoder.children())[: list(self.encoder.children()).index(last)])
        features = before(self.encoder_input(batch))
        features, center = features - features.mean(0), features.mean(0)
        directions = torch.linalg.svd(rows, full_matrices=False)[2][: last.out_features]
        wanted = F.pad(rows @ directions.mT, (0, last.out_features - len(directions)))
        gram = features.mT @ features
        ridge = 1e-4 * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny
        weight = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), features.mT @ wanted).mT
        last.weight.copy_(weight)
        last.bias.copy_(-weight @ center)

    def _spread(self, batch: Batch) -> None:
        """Center and scale the vectors, by the weights of the layer they come from."""
        if not self._owns_encoder:
            return
        layer = [layer for layer in self.encoder.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))][-1]
        vectors = self._vectors(batch, 0)
        center = vectors.mean((0, 1) if self.image_shape is not None else 0)
        std = (vectors - center).square().mean().sqrt()
        scale = torch.where(std > 0.0, _SPREAD / std, 1.0)
        assert layer.bias is not None
        layer.bias.sub_(center.flatten()).mul_(scale)
        layer.weight.mul_(scale)

    # -- training -----------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        n_rows = len(batch.x)
        commitments: list[Tensor] = []
        codebooks: list[Tensor] = []
        learned: dict[str, Tensor] = {}

        def choose(i: int, vectors: Tensor) -> Tensor:
            weight = batch.weight.unsqueeze(1).expand(-1, self.levels[i].n_codes).reshape(-1)
            quantized = self.quantizers[i](vectors, weight)
            commitments.append(quantized.commitment.view(n_rows, -1).sum(1))
            if quantized.codebook is not None:
                codebooks.append(quantized.codebook.view(n_rows, -1).sum(1))
            learned.update({f"{i}.{name}": value for name, value in quantized.learned.items()})
            chosen: Tensor = quantized.vectors
            return chosen

        output = self.decoder(self._descend(batch, choose))
        terms = {
            "reconstruction": self.likelihood.distortion(batch.target, output),
            "commitment": torch.stack(commitments).sum(0),
        }
        if codebooks:
            terms["codebook"] = torch.stack(codebooks).sum(0)
        return Loss(terms, learned)

    def after_step(self, learned: dict[str, Tensor]) -> None:
        """Move the codebooks."""
        super().after_step(learned)
        for quantizer, own in self._by_level(learned):
            quantizer.after_step(own)

    def after_interval(self, learned: dict[str, Tensor], n_steps: int) -> None:
        """Revive dead codes."""
        for quantizer, own in self._by_level(learned):
            quantizer.revive_dead(own, n_steps)

    def _by_level(self, learned: dict[str, Tensor]) -> Iterator[tuple[VectorQuantizer, dict[str, Tensor]]]:
        """Quantizers, and what is learned for each."""
        for i, quantizer in enumerate(self.quantizers):
            assert isinstance(quantizer, VectorQuantizer)
            yield quantizer, {name.removeprefix(f"{i}."): value for name, value in learned.items() if name.startswith(f"{i}.")}

    @torch.no_grad()
    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Fit the likelihood's noise to the residuals of the reconstructions; the draws are not used."""
        if self.likelihood.learns_noise:
            energy = self.likelihood.energies(batch.x, self.decode(self.encode(batch), batch))
            self.likelihood.noise.set_moment(self.likelihood.mean_energy(energy, batch.weight))


def _vectors_of(level: Level) -> nn.Module:
    """Cut rows into vectors."""
    return nn.Unflatten(1, (level.n_codes, level.embedding_dim))


def _slices(sizes: Iterable[int]) -> list[slice]:
    """Where parts of these sizes lie, one behind the other."""
    return [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]
