"""The denoising autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skvae import functional as fn
from skvae.modules.autoencoder import AutoEncoderModule
from skvae.modules.base import Schedule
from skvae.modules.batch import Batch, Loss
from skvae.modules.likelihoods.mixed import MixedLikelihood
from skvae.modules.linear import LinearModel, Readings, install, is_tied, read

CORRUPTIONS = ("gaussian", "masking", "salt_and_pepper", "dropout")


class DenoisingModule(AutoEncoderModule):
    """Autoencoder that reads corrupted rows and returns clean ones.

    The clean rows are the targets of a batch: the rows themselves or, where the likelihood has units of its own for what the
    encoder reads (`Likelihood.fit_inputs`), other ones, and rows are then corrupted on top of the noise that they have.

    Parameters
    ----------
    corruption : str, sequence of str or callable
        Names in `CORRUPTIONS`, of which every row draws one, or a function of a batch in the units of the data. Of columns of
        different kinds, entries that are masked or dropped are missing, and levels are drawn anew by their frequencies.
    corruption_rate : float
        Fraction of entries that are masked, set to an extreme, or dropped.
    corruption_scale : float
        Standard deviation of normal noise.
    noise_unit : {"std", "data"}
        Whether that is in standard deviations of each column or in the units of the data.
    mask_value : float or None
        What masked entries become, in the units of the data; None is the column's mean, or 0 where the likelihood takes the
        data as it is.
    n_features, n_components, **autoencoder
        See `AutoEncoderModule`.

    References
    ----------
    .. [1] Vincent et al., "Stacked denoising autoencoders", JMLR 11, 2010.
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        *,
        corruption: str | Sequence[str] | Callable[[Tensor], Tensor] = "gaussian",
        corruption_rate: float = 0.3,
        corruption_scale: float = 0.3,
        noise_unit: str = "std",
        mask_value: float | None = None,
        **autoencoder: Any,
    ):
        super().__init__(n_features, n_components, **autoencoder)
        self.corruption = corruption
        self.corruption_rate = corruption_rate
        self.corruption_scale = corruption_scale
        self.noise_unit = noise_unit
        self.mask_value = mask_value
        self.draws_in_training = callable(corruption)
        if not callable(corruption):
            self._names = (corruption,) if isinstance(corruption, str) else tuple(corruption)
            self.noise_shapes = {"entries": (n_features,)}
            if self._names not in (("gaussian",), ("dropout",)):
                self.noise_shapes["rows"] = (2,)
            if "salt_and_pepper" in self._names:
                self.noise_shapes["signs"] = (n_features,)

    @torch.no_grad()
    def start(self, batch: Batch) -> None:
        """Begin at the best linear denoiser of the rank, or at principal components where it is not known.

        It is not for corruptions of the user's own, for missing entries and for tied weights.
        """
        rows = read(self, batch)
        if is_tied(self) or not self.likelihood.is_location_family:
            return super().start(batch)
        if not self.has_clean_targets and (callable(self.corruption) or rows.observed is not None):
            return super().start(batch)
        moments, clean_mean = self._moments(rows, batch.counted)
        install(self, self._linear_denoiser(self._corrupted(moments), clean_mean, rows.joined.shape[1]))

    def _moments(self, rows: Readings, counted: Tensor | None) -> tuple[fn.CorruptedMoments, Tensor]:
        """Moments of rows as they are read, before any corruption, and the means of clean ones."""
        share = rows.weight / rows.weight.sum()
        mean = share @ rows.inputs
        away = rows.inputs - mean
        deviation = away * share.sqrt().unsqueeze(1)
        covariance = deviation.mT @ deviation
        if not self.has_clean_targets:
            return fn.CorruptedMoments(covariance, covariance, mean), mean
        clean_mean, crossed = _clean_moments(rows.response, counted, share, away)
        return fn.CorruptedMoments(covariance, crossed, mean), clean_mean

    def _corrupted(self, rows: fn.CorruptedMoments) -> fn.CorruptedMoments:
        """Moments once rows are corrupted; functions of the user's own are left out."""
        if callable(self.corruption):
            return rows
        return fn.moments_of_mixture([self._moments_under(name, rows) for name in self._names])

    def _moments_under(self, name: str, rows: fn.CorruptedMoments) -> fn.CorruptedMoments:
        column, rate = self.likelihood.input_column, self.corruption_rate
        if name == "gaussian":
            return fn.moments_of_gaussian(rows, (self.corruption_scale * self._noise_unit()).cpu().double())
        if name == "dropout":
            return fn.moments_of_drop(rows, rate)
        if name == "salt_and_pepper":
            return fn.moments_of_salt_and_pepper(rows, rate, column("low").cpu().double(), column("high").cpu().double())
        return fn.moments_of_mask(rows, rate, torch.as_tensor(self._mask_value()).cpu().double())

    def _linear_denoiser(self, corrupted: fn.CorruptedMoments, clean_mean: Tensor, n_inputs: int) -> LinearModel:
        """Return the best linear denoiser of the rank, by moments of corrupted rows, whose codes have a mean square of one."""
        likelihood = self.likelihood
        varying, read_columns = likelihood.varying.cpu().double(), likelihood.input_varying.cpu().double()
        importance = (likelihood.training_weight / likelihood.unit_weight).cpu().double().sqrt()
        n_axes = min(self.n_components, self.n_features)
        both, keep = (of_rows.unsqueeze(1) * read_columns for of_rows in (read_columns, varying))
        crossed = corrupted.crossed * importance.unsqueeze(1) * keep
        encoder, axes = fn.linear_denoiser(corrupted.covariance * both, crossed, read_columns, n_axes)
        codes = (encoder @ corrupted.covariance * encoder).sum(1)
        unit = float(codes.mean().clamp(min=1e-12).rsqrt())
        full = torch.zeros(self.n_components, n_inputs, dtype=encoder.dtype)
        full[:n_axes, : self.n_features] = unit * encoder
        decoder = torch.zeros(self.n_features, self.n_components, dtype=encoder.dtype)
        inverse = torch.where(importance > 0.0, 1.0 / importance.clamp(min=1e-30), 0.0)
        decoder[:, :n_axes] = inverse.unsqueeze(1) * axes.mT / unit
        return LinearModel(full, -(full[:, : self.n_features] @ corrupted.mean), decoder, clean_mean)

    @property
    def has_clean_targets(self) -> bool:
        """Whether the clean rows are others than those that are read."""
        return self.likelihood.input_units is not None

    def loss(self, batch: Batch, schedule: Schedule) -> Loss:
        corrupted = self.corrupt(batch)
        if batch.observed is not None:  # what is missing stays what it is filled by
            corrupted = torch.where(batch.observed, corrupted, batch.x)
        batch = batch._replace(x=corrupted)
        if self._is_mixed and self.n_indicators:  # entries that were taken away are missing, and count all the same
            counted = torch.ones_like(corrupted, dtype=torch.bool) if batch.counted is None else batch.counted
            batch = batch._replace(observed=corrupted != self.likelihood.absent(), target_observed=counted)
        return super().loss(batch, schedule)

    def corrupt(self, batch: Batch) -> Tensor:
        """Corrupted rows of a batch, standardized, ``(n, n_features)``."""
        if callable(self.corruption):
            return self._corrupt_by_function(self.corruption, batch.x)
        assert batch.noise is not None
        if len(self._names) == 1:
            return self._corrupt_by(self._names[0], batch.x, batch.noise)
        which = (fn.normal_cdf(batch.noise["rows"][:, 1:]) * len(self._names)).long()
        x = batch.x
        for i, name in enumerate(self._names):
            x = torch.where(which == i, self._corrupt_by(name, batch.x, batch.noise), x)
        return x

    def _corrupt_by(self, name: str, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
        likelihood, column = self.likelihood, self.likelihood.input_column
        if isinstance(likelihood, MixedLikelihood):
            return self._corrupt_mixed(likelihood, name, x, noise)
        if name == "gaussian":
            return fn.add_gaussian(x, noise["entries"], self.corruption_scale * self._noise_unit())
        if name == "dropout":
            return fn.drop(x, noise["entries"], self.corruption_rate)
        chosen = fn.choose_entries(noise["entries"], noise["rows"][:, 0], self.corruption_rate)
        if name == "salt_and_pepper":
            return fn.salt_and_pepper(x, chosen, noise["signs"], column("low"), column("high"))
        return fn.mask(x, chosen, self._mask_value())

    @property
    def _is_mixed(self) -> bool:
        return isinstance(self.likelihood, MixedLikelihood)

    def _corrupt_mixed(self, likelihood: MixedLikelihood, name: str, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Corrupt rows of columns of different kinds: entries that are taken away are missing, and levels are drawn anew."""
        if name == "gaussian":
            return likelihood.blurred(x, noise["entries"], self.corruption_scale)
        if name == "dropout":
            return torch.where(fn.normal_cdf(noise["entries"]) < self.corruption_rate, likelihood.absent(), x)
        chosen = fn.choose_entries(noise["entries"], noise["rows"][:, 0], self.corruption_rate)
        if name == "masking":
            return fn.mask(x, chosen, likelihood.absent())
        ends = fn.salt_and_pepper(x, chosen, noise["signs"], likelihood.input_column("low"), likelihood.input_column("high"))
        return torch.where(likelihood.is_number | ~chosen, ends, likelihood.redrawn(noise["signs"]))

    def _noise_unit(self) -> Tensor:
        return self.likelihood.input_column("spread" if self.noise_unit == "std" else "unit")

    def _mask_value(self) -> Tensor | float:
        if self.mask_value is not None:
            return self.likelihood.standardized_value(self.mask_value)
        return self.likelihood.blank

    def as_given(self, rows: Tensor) -> Tensor:
        """Rows in the shape in which a function of the user's sees them: as images, if they are."""
        return rows if self.image_shape is None else torch.unflatten(rows, 1, self.image_shape)

    def _corrupt_by_function(self, corruption: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        given = self.as_given(self.likelihood.inputs.to_data(x))
        corrupted = corruption(given.clone()).to(given)
        # What the function leaves alone stays as it is: far from zero, single precision is too coarse for the way back.
        return x + (corrupted - given).reshape(x.shape) * self.likelihood.input_column("unit")

    # -- clean rows that are given ------------------------------------------------------------------------------------

    @torch.no_grad()
    def fit_noise(self, batch: Batch, share: float = 1.0) -> None:
        """Fit the likelihood's noise: where clean rows are given, to how they scatter around what rows are reconstructed as.

        The code of a row then is not inferred from the clean one, so that nothing is known of it but what it is.
        """
        if not self.has_clean_targets:
            super().fit_noise(batch, share)
        elif self.likelihood.learns_noise:
            self.likelihood.noise.set_moment(self.residual_energy(batch))

    def log_prob_given(self, batch: Batch) -> Tensor:
        """Log-density of the targets given the rows, in nats and in the units of the data, ``(n,)``."""
        return -self.likelihood.nll(batch.target, self.decode(self.encode(batch), batch), batch.counted)

    # -- greedy pretraining -------------------------------------------------------------------------------------------

    def stages(self) -> Iterator[DenoisingModule]:
        """Autoencoders of one layer each, from the outermost inward, that share their weights with this one.

        The first reads rows of the data and shares the likelihood; each of the others reads the codes of the one before.
        """
        encoder, decoder = _blocks(self.encoder), _blocks(self.decoder)[::-1]
        # Codes have no unit of their own: noise in the units of the data becomes noise in standard deviations.
        unit = self._noise_unit().square().mean() / self.likelihood.input_column("spread").square().mean().clamp(min=1e-30)
        for i, (down, up) in enumerate(zip(encoder, decoder, strict=True)):
            stage = DenoisingModule(
                down[0].in_features if i else self.n_features,
                down[0].out_features,
                hidden_layer_sizes=(),
                indicated=() if i or not self.n_indicators else self.indicated.tolist(),
                corruption=self.corruption,
                corruption_rate=self.corruption_rate,
                corruption_scale=self.corruption_scale * float(unit.sqrt()),
            )
            stage.encoder, stage.decoder = nn.Sequential(*down), nn.Sequential(*up)
            if i == 0:
                stage.likelihood = self.likelihood
                stage.corruption_scale, stage.noise_unit, stage.mask_value = (
                    self.corruption_scale,
                    self.noise_unit,
                    self.mask_value,
                )
            yield stage


def _clean_moments(clean: Tensor, observed: Tensor | None, share: Tensor, away: Tensor) -> tuple[Tensor, Tensor]:
    """Means of clean rows, and their covariance with the deviations of rows; of every column over the rows that have it."""
    if observed is None:
        mean = share @ clean
        return mean, ((clean - mean) * share.unsqueeze(1)).mT @ away
    there = observed.to(clean) * share.unsqueeze(1)
    known = there.sum(0).clamp(min=1e-30)
    mean = (there * clean).sum(0) / known
    return mean, ((clean - mean) * there).mT @ away / known.unsqueeze(1)


def _blocks(network: nn.Module) -> list[list[Any]]:
    """Layers of a perceptron, each linear map with what follows it."""
    blocks: list[list[Any]] = []
    for layer in network.children():
        if hasattr(layer, "in_features"):
            blocks.append([])
        blocks[-1].append(layer)
    return blocks
