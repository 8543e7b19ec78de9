"""Samples given some of their entries, and labels or numbers that a model conditions on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from skvae.data import Table
from skvae.data.kinds import one_row
from skvae.estimators import _checks as check
from skvae.estimators._conditioner import Conditioner
from skvae.estimators._given import SamplesGivenMixin
from skvae.runtime.randomness import seed_streams


class Completed(NamedTuple):
    """Rows that are completed by draws, and their conditions.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, n_reconstructed)
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Labels or numbers.
    effective_sample_size : ndarray of shape (n_rows,)
    n_each : int
        Draws of a row, to which these belong.
    seed : int
        Decided the draws.
    """

    rows: np.ndarray
    y: Any
    effective_sample_size: np.ndarray
    n_each: int
    seed: int


class ConditionalSamplesGivenMixin(SamplesGivenMixin):
    """Samples given some of their entries, for conditional estimators."""

    _conditioner: Conditioner

    def effective_sample_size_given(self, given, n_samples=None, y=None, *, random_state=None):
        """How many of the codes count that ``sample(n_samples, y, given=given)`` chooses among.

        Parameters
        ----------
        given : dict, Series, DataFrame or array-like of shape (n_rows, n_features)
            Entries that rows are to have; see `sample`.
        n_samples : int, default=None
            Number of rows to be drawn; as many as there are in `given` or `y` by default.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or numbers, one for each row or one for all; labels are drawn by default.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        ess : ndarray of shape (n_rows,)
            See :meth:`VAETransformer.effective_sample_size_given`; the least per draw over the conditions that one row of `given`
            is drawn under, and over labels by their probability where these are drawn.
        """
        rows = self._check_given(given, n_samples).rows
        return self._completed_under(rows, n_samples, y, True, random_state).effective_sample_size

    def _sample_under(self, given: Any, n_samples: Any, y: Any, return_y: bool, mean: bool, random_state: Any) -> Any:
        """Draw rows given some entries, and maybe their conditions; see `sample`."""
        entries = self._check_given(given, n_samples)
        done = self._completed_under(entries.rows, n_samples, y, mean, random_state)
        self._warn_of_few(done.effective_sample_size, done.n_each)
        whole, repeated = self._conditioner.join(done.rows, done.y), entries.repeated(len(done.rows))
        X = self._as_given(whole, entries.rows.dtype, seed=done.seed, entries=repeated)
        return (X, self._conditioner.conditions.as_fitted(done.y)) if return_y else X

    def _completed_under(self, given: np.ndarray, n_samples: int | None, y: Any, mean: bool, random_state: Any) -> Completed:
        """Complete rows by draws under the conditions that they come with, or under labels that are drawn, too."""
        conditions = self._conditioner.conditions.called("y")
        table = Table.of(given, names=check.column_names(self, given.shape[1]))
        rows = table.columns(self._conditioner.reconstructed)
        self.module_.likelihood.check(rows.source, rows.name)
        y = self._conditions_given(table, y)
        n_drawn = n_samples
        if n_samples is None:
            n_drawn = max(rows.n_rows, conditions.n_conditions(y))
            check.check_n_given(n_drawn, rows.n_rows)
        seed, y_seed = self._draw_seeds(n_drawn, random_state, n=2)
        if y is not None:
            return self._completed_given_y(rows, y, *conditions.for_sample(y, n_drawn, y_seed), seed, mean)
        if not conditions.is_labels:
            raise ValueError(f"given needs conditions, {conditions.describe()}: pass y, one for each row or one for all.")
        return self._completed_with_labels(rows, n_drawn, seed, y_seed, mean)

    def _completed_given_y(self, rows: Table, y: Any, spread: Any, encoded: np.ndarray, seed: int, mean: bool) -> Completed:
        """Complete rows under conditions, which are encoded and as they were given."""
        if rows.n_rows == len(encoded):
            drawn = self._sample_given(rows.with_condition(encoded), None, seed, mean=mean)
            return Completed(drawn.rows, spread, drawn.effective_sample_size, 1, seed)
        different, which = np.unique(encoded, axis=0, return_inverse=True)
        found, sizes, counts = np.empty((len(encoded), rows.n_features)), [], np.bincount(which.ravel())
        for k, condition in enumerate(different):
            places = np.flatnonzero(which.ravel() == k)
            (own,) = seed_streams(seed, k, n=1)
            drawn = self._sample_given(rows.with_one_condition(condition), len(places), own, mean=mean)
            found[places] = drawn.rows
            sizes.append(drawn.effective_sample_size)
        least = int(np.argmin(np.concatenate(sizes) / counts))
        return Completed(found, spread, sizes[least], int(counts[least]), seed)

    def _completed_with_labels(self, rows: Table, n_drawn: int, seed: int, y_seed: int, mean: bool) -> Completed:
        """Complete rows under labels that are drawn by how likely they are given what is given."""
        conditions = self._conditioner.conditions
        labels, log_shares = conditions.combinations()
        n_each = check.check_n_given(n_drawn, rows.n_rows)
        under = [self._sample_given(rows.with_one_condition(label), n_each, seed, mean=mean) for label in labels]
        log_share = log_shares[:, np.newaxis] + np.stack([drawn.log_evidence for drawn in under])
        share = np.exp(log_share - logsumexp(log_share, axis=0))  # (n_labels, n_rows)
        sizes = 1.0 / sum(own**2 / drawn.effective_sample_size for own, drawn in zip(share, under, strict=True))
        places = np.random.default_rng(y_seed).uniform(size=n_drawn)
        chosen = (np.cumsum(share, axis=0)[:-1] < places).sum(axis=0)
        found = np.stack([drawn.rows for drawn in under])[chosen, np.arange(n_drawn)]
        return Completed(found, conditions.seen(chosen), sizes, n_drawn // rows.n_rows, seed)

    def _conditions_given(self, table: Table, y: Any) -> Any:
        """Conditions of rows: the columns of X that are, where these are given, or else `y`."""
        if self._conditioner.columns is None:
            return y
        missing = np.isnan(table.source.columns(self._conditioner.columns).read_exactly())
        if missing.all():
            return y
        if y is not None:
            raise ValueError("Pass y, or give the columns of X that are condition_columns, but not both.")
        if missing.any():
            raise ValueError("given has some entries of condition_columns; give all of them, or pass y.")
        _, entries = self._conditioner.split(table)
        return entries if table.n_rows > 1 else one_row(entries)
