"""Rows of the training set as centers of what a variational autoencoder says about a row with missing entries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skvae.modules.base import LatentModule
from skvae.modules.batch import Batch
from skvae.modules.likelihoods.gaussian import GaussianLikelihood
from skvae.modules.missing import MIWAEModule
from skvae.modules.networks.layers import linear_map_of
from skvae.modules.posterior import exact_dtype
from skvae.modules.priors.normal import StandardNormal


class Donors(NamedTuple):
    """Training rows by their codes and by what the decoder leaves of them.

    Attributes
    ----------
    code : Tensor of shape (n_donors, n_components)
        Drawn from the posteriors.
    residual : Tensor of shape (n_donors, n_features)
        In standardized units; drawn from the noise where an entry is missing.
    log_weight : Tensor of shape (n_donors,)
    row : Tensor of int, shape (n_donors,)
        Which training row each was drawn for.
    entries : Tensor of shape (n_rows, n_features)
        Training rows in standardized units, NaN where an entry is missing.
    """

    code: Tensor
    residual: Tensor
    log_weight: Tensor
    row: Tensor
    entries: Tensor

    def of_same_rows(self, batch: Batch) -> Tensor | None:
        """Which donors are of a row itself, ``(n, n_donors)``: the same entries are there, and they say nothing of the others."""
        if batch.observed is None:
            return None
        missing = self.entries.isnan()
        same = torch.where(
            missing, ~batch.observed.unsqueeze(1), (self.entries == batch.target.unsqueeze(1)) & batch.observed.unsqueeze(1)
        )
        same = same.all(2)[:, self.row]
        return same & ~same.all(1, keepdim=True)


class LocalDraws(NamedTuple):
    """Completions of rows, weighted by importance.

    Attributes
    ----------
    log_weights : Tensor of shape (n, n_draws)
    location : Tensor of shape (n, n_draws, n_features)
        Means of the entries, in standardized units.
    """

    log_weights: Tensor
    location: Tensor


def can_lean(module: LatentModule) -> bool:
    """Whether a module is one of those that `LocalModel` is for."""
    is_factored = isinstance(module, MIWAEModule) and module.is_factored
    return is_factored and type(module.prior) is StandardNormal and type(module.likelihood) is GaussianLikelihood


class LocalModel:
    r"""A decoder whose codes and noise are drawn near those of donors, instead of from their own distributions.

    With the strength :math:`a` a code is :math:`a z_i + \sqrt{1-a^2}\,\varepsilon`, and with the strength :math:`b` a row lies
    around what the decoder makes of that by :math:`b r_i` and noise of :math:`\sqrt{1-b^2}` times its scale, where :math:`z_i`
    and :math:`r_i` are the code and the residual of a donor, any of which is as likely as its weight says. Over all donors,
    codes and noise keep their moments. Strengths of zero leave the model what it is; close to one, a row is completed
    by those of the donors that are most like it.

    Donors and codes are proposed by what the decoder would be if it were linear around the code of each donor, which weights
    correct.

    Parameters
    ----------
    module : LatentModule
        With a linear path, normal noise and standard normal codes.
    donors : Donors
    strengths : tuple of float
        Of the codes and of the residuals, in [0, 1).
    """

    def __init__(self, module: LatentModule, donors: Donors, strengths: tuple[float, float]):
        self.module, self.donors, self.strengths = module, donors, strengths
        linear, likelihood = linear_map_of(module.decoder), module.likelihood
        assert linear is not None
        exact = exact_dtype(donors.code)
        self.variance = 1.0 - strengths[0] ** 2
        self.noise_share = 1.0 - strengths[1] ** 2
        varying = likelihood.varying.to(exact)
        self.information = varying * likelihood.information(torch.zeros_like(likelihood.weight)).to(exact) / self.noise_share
        self.loadings = likelihood.location_change(linear.weight.T).T.to(exact)
        self.center = strengths[0] * donors.code
        self.offset = (strengths[1] * donors.residual * likelihood.varying).to(exact)
        location = likelihood.locate(module.decode(self.center, Batch.of_codes(self.center))).to(exact) + self.offset
        self._location, self._square = location, location.square()
        # What every donor's location, of any columns, would force codes by: one product for all columns that are observed.
        self._forces = (location.T.unsqueeze(2) * self.loadings.unsqueeze(1)).flatten(1)

    def draw(self, batch: Batch, noise: Tensor, uniform: Tensor, excluded: Tensor | None = None) -> LocalDraws:
        """Complete rows.

        Parameters
        ----------
        batch : Batch
        noise : Tensor of shape (n, n_draws, n_components)
            Standard normal.
        uniform : Tensor of shape (n, n_draws)
            Between 0 and 1: which of the donors are taken.
        excluded : Tensor of bool, shape (n, n_donors), optional
            Donors that a row is not to know.
        """
        exact, n_components = self.loadings.dtype, self.loadings.shape[1]
        x, observed = batch.target.to(exact), batch.observed
        weight = self.information.expand(len(x), -1) if observed is None else observed.to(exact) * self.information
        pairs = (self.loadings.unsqueeze(2) * self.loadings.unsqueeze(1)).flatten(1)
        precision = torch.unflatten(weight @ pairs, 1, (n_components, n_components))
        precision = precision + torch.eye(n_components, dtype=exact, device=x.device) / self.variance
        factor = torch.linalg.cholesky(precision)
        identity = torch.eye(n_components, dtype=exact, device=x.device).expand_as(factor)
        root = torch.linalg.solve_triangular(factor, identity, upper=False).mT
        # Squared distances from the donors' locations, and how much of them a move of the code explains.
        weighted = weight * x
        force = (weighted @ self.loadings).unsqueeze(1) - torch.unflatten(weight @ self._forces, 1, (-1, n_components))
        move = force @ root
        distance = (weighted * x).sum(1, keepdim=True) - 2.0 * weighted @ self._location.T + weight @ self._square.T
        log_chance = self.donors.log_weight.to(exact) - 0.5 * (distance - move.square().sum(2))
        if excluded is not None:
            log_chance = log_chance.masked_fill(excluded, -torch.inf)
        log_chance = torch.log_softmax(log_chance, dim=1)
        chosen = torch.searchsorted(log_chance.exp().cumsum(1), uniform.to(exact).contiguous()).clamp(max=log_chance.shape[1] - 1)
        apart = (move.gather(1, chosen.unsqueeze(2).expand(-1, -1, n_components)) + noise.to(exact)) @ root.mT
        z = self.center[chosen] + apart.to(noise.dtype)
        location = self.module.likelihood.locate(self.module.decode(z, batch)).to(exact) + self.offset[chosen]
        misfit = ((x.unsqueeze(1) - location).square() @ weight.unsqueeze(2)).squeeze(2)
        log_prior = self.donors.log_weight.to(exact)[chosen] - 0.5 * apart.square().sum(2) / self.variance
        log_proposal = log_chance.gather(1, chosen) - 0.5 * noise.to(exact).square().sum(2)
        return LocalDraws(log_prior - 0.5 * misfit - log_proposal, location.to(noise.dtype))

    def scatter(self, location: Tensor, generator: torch.Generator) -> Tensor:
        """Draw entries, in standardized units, around their means."""
        noise = torch.randn(location.shape, generator=generator, device=location.device, dtype=location.dtype)
        likelihood = self.module.likelihood
        scale = likelihood.variance(torch.zeros_like(likelihood.weight)).sqrt()
        drawn: Tensor = location + self.noise_share**0.5 * torch.where(likelihood.varying > 0.0, scale, 0.0) * noise
        return drawn
