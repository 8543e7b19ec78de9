"""Linear special cases of the models, found in closed form, as what training begins at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from skvae import functional as fn
from skvae.modules.batch import Batch
from skvae.modules.networks.layers import GainedLinear, TiedLinear, linear_map_of

if TYPE_CHECKING:
    from skvae.modules.base import LatentModule

_MOST_SPREAD = 2.0  # of what a decoder's linear map adds, where a link function lies between it and the rows
RIDGE = 1e-3  # of least squares on what is missing


class LinearModel(NamedTuple):
    """Linear maps of an encoder and a decoder.

    Attributes
    ----------
    encoder : Tensor of shape (n_components, n_encoder_inputs)
    encoder_bias : Tensor of shape (n_components,)
    decoder : Tensor of shape (n_outputs, n_decoder_inputs)
    decoder_bias : Tensor of shape (n_outputs,)
    log_var : Tensor of shape (n_components,) or None
        Logarithms of the posterior's variances, where the encoder returns them.
    gains : tuple of Tensor, or None
        Of an encoder whose weights a decoder shares: ``(n_components,)`` and ``(n_outputs,)``, see `GainedLinear.set_weight`.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    log_var: Tensor | None = None
    gains: tuple[Tensor, Tensor] | None = None


class Readings(NamedTuple):
    """Rows as linear models see them, in double precision.

    Attributes
    ----------
    inputs : Tensor of shape (n, n_inputs)
        What the likelihood has the encoder read; the columns' means where entries are missing.
    joined : Tensor of shape (n, n_encoder_inputs)
        The same with what a model joins to it.
    response : Tensor of shape (n, n_outputs)
        What the decoder would have to return, about; the columns' means where entries are missing.
    weight : Tensor of shape (n,)
    observed : Tensor of bool, shape (n, n_inputs), or None
    condition : Tensor of shape (n, n_conditions) or None
    """

    inputs: Tensor
    joined: Tensor
    response: Tensor
    weight: Tensor
    observed: Tensor | None
    condition: Tensor | None


def read(module: LatentModule, batch: Batch) -> Readings:
    """Read a batch whose rows are in double precision."""
    inputs = module.likelihood.network_input(batch.x)
    response = module.likelihood.response(batch.target)
    condition = None if batch.condition is None else batch.condition.double()
    joined = module.join_input(inputs, batch).double()
    observed = None if batch.observed is None else module.likelihood.spread(batch.observed)
    return Readings(inputs, joined, response, batch.weight.double(), observed, condition)


def principal_model(module: LatentModule, rows: Readings) -> LinearModel:
    """Principal components of rows, in units in which codes have a mean square of one.

    Columns count as the likelihood weighs them, where its location is what the decoder returns.
    """
    likelihood = module.likelihood
    importance = torch.ones(rows.inputs.shape[1], dtype=rows.inputs.dtype)
    if likelihood.is_location_family:
        importance = (likelihood.training_weight / likelihood.unit_weight).cpu().double().sqrt()
    inverse = torch.where(importance > 0.0, 1.0 / importance.clamp(min=1e-30), 0.0)
    scaled = rows.inputs * importance
    if rows.observed is None:
        found = fn.principal_axes(scaled, rows.weight, module.n_components)
        unit = _unit_of(found.variances)
        model = encoded_by(module, rows, unit * found.axes * importance, inverse * found.mean)
        return model._replace(gains=_gains(module, unit, inverse))
    factors = fn.factor_analysis(scaled, rows.weight, module.n_components, is_shared=True, observed=rows.observed)
    left, spread, _ = torch.linalg.svd(factors.loadings, full_matrices=False)
    unit = _unit_of(spread.square())
    mean, _ = fn.posterior_of_observed(factors, scaled, rows.observed)
    codes = unit * (mean @ factors.loadings.mT) @ left
    encoder, encoder_bias = fn.least_squares(rows.joined, codes, rows.weight, ridge=RIDGE)
    if likelihood.is_location_family and likelihood.input_units is None:
        decoder = inverse.unsqueeze(1) * left / unit, inverse * factors.mean
    else:
        decoder = decoder_of(module, codes, rows)
    return LinearModel(encoder, encoder_bias, *decoder, gains=_gains(module, unit, inverse))


def _gains(module: LatentModule, unit: float, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Factors by which the transposed encoder of principal components is their decoder."""
    return inverse.new_full((module.n_components,), unit**-2), torch.where(inverse > 0.0, inverse.square(), 1.0)


def _unit_of(variances: Tensor) -> float:
    return float(variances.mean().clamp(min=1e-12).rsqrt())


def encoded_by(module: LatentModule, rows: Readings, encoder: Tensor, mean: Tensor) -> LinearModel:
    """Return the linear model of an encoder of complete rows, and the decoder that suits it."""
    bias = -(encoder @ mean)
    wide = torch.zeros(len(encoder), rows.joined.shape[1], dtype=encoder.dtype)
    wide[:, : encoder.shape[1]] = encoder
    return LinearModel(wide, bias, *decoder_of(module, rows.inputs @ encoder.mT + bias, rows))


def decoder_of(module: LatentModule, codes: Tensor, rows: Readings) -> tuple[Tensor, Tensor]:
    """Slopes and constants of the decoder that comes closest to what rows call for, given their codes."""
    slopes, bias = fn.least_squares(codes, rows.response, rows.weight, ridge=1e-9)
    if module.likelihood.is_location_family:
        return slopes, bias
    share = rows.weight / rows.weight.sum()
    center = share @ codes
    spread = (share @ (codes - center).square()).sqrt()
    reach = (slopes * spread).norm(dim=1)
    slopes = slopes * (_MOST_SPREAD / reach.clamp(min=_MOST_SPREAD)).unsqueeze(1)
    return slopes, share @ rows.response - slopes @ center


def decoder_of_draws(codes: Tensor, variance: Tensor, rows: Readings) -> tuple[Tensor, Tensor]:
    """Slopes and constants of the decoder that comes closest to what rows call for, given draws around their codes.

    Parameters
    ----------
    codes : Tensor of shape (n, n_components)
        Means of the draws.
    variance : Tensor of shape (n_components,)
        Of the draws around them: a component that says next to nothing of a row moves what is decoded as little.
    rows : Readings
    """
    share = rows.weight / rows.weight.sum()
    center, mean = share @ codes, share @ rows.response
    away = (codes - center) * share.unsqueeze(1)
    slopes = torch.linalg.solve(away.mT @ (codes - center) + torch.diag(variance), away.mT @ (rows.response - mean)).mT
    return slopes, mean - slopes @ center


@torch.no_grad()
def install(module: LatentModule, model: LinearModel) -> None:
    """Set the linear maps of a module's networks."""
    encoder, decoder = linear_map_of(module.encoder), linear_map_of(module.decoder)
    assert isinstance(encoder, (nn.Linear, GainedLinear))
    assert decoder is not None
    n_components = len(model.encoder)
    encoder.bias.zero_()
    if isinstance(encoder, GainedLinear):
        assert model.gains is not None
        encoder.set_weight(model.encoder, model.gains)
    else:
        encoder.weight.zero_()
        encoder.weight[:n_components].copy_(model.encoder)
    encoder.bias[:n_components].copy_(model.encoder_bias)
    if model.log_var is not None:
        encoder.bias[n_components:].copy_(model.log_var)
    assert decoder.bias is not None
    decoder.bias.copy_(model.decoder_bias)
    if isinstance(decoder, nn.Linear):
        decoder.weight.copy_(model.decoder)


def is_tied(module: LatentModule) -> bool:
    """Whether the decoder's linear map is the encoder's."""
    return isinstance(linear_map_of(module.decoder), TiedLinear)
