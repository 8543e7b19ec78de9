"""Samples given some of their entries, whichever they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skvae.data import Table
from skvae.estimators import _checks as check
from skvae.inference.conditional import CodeSource, Drawn, sample_given
from skvae.warnings import warn_user

TRIED_PER_SCORE_DRAW, _TRIED_OF_ONE_PER_SCORE_DRAW = 8, 32  # codes, for each row, and for one of which there are many draws
TRIED_PER_DRAW = 4
_FEWEST = 10  # codes that must count
_FEWEST_PER_DRAW = 0.1


class SamplesGivenMixin:
    """Samples given some of their entries, for estimators whose codes have a density."""

    module_: Any
    n_score_draws: int
    device: str

    @property
    def _n_score_draws(self) -> int:
        """Number of draws by which a row is scored, which may have changed since `fit`."""
        return check.check_parameter(self, "n_score_draws")

    def sample(self, n_samples=None, *, given=None, mean=False, random_state=None):
        """Draw new rows from the model.

        Parameters
        ----------
        n_samples : int, default=None
            Number of rows; as many as `given` has by default, or 1.
        given : dict, Series, DataFrame or array-like of shape (n_rows, n_features), default=None
            Entries that rows are to have: a row for each that is drawn, or one for all, with NaN or None where the model is to
            draw. A dict or a series has entries by the names of columns of X or by their positions, which integers are unless
            columns have integers for names; a dict may have lists, one entry for each row. Columns that are not in it, or not in
            a data frame with names, are drawn.
        mean : bool, default=False
            Return the decoder's means, without the likelihood's noise.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        X : {ndarray, DataFrame} of shape (n_samples, n_features_in_)
            Rows in the units of the training data; where these were a frame with columns of different kinds, a frame like it.
            What is given is as it was.

        Warns
        -----
        UserWarning
            If few of the codes that were tried count, see `effective_sample_size_given`.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from skvae import VAETransformer
        >>> wine = load_wine(as_frame=True).data
        >>> vae = VAETransformer(n_components=2, max_epochs=20, random_state=0).fit(wine)
        >>> X = vae.sample(100, given={"alcohol": 14.5, "hue": 0.75})
        >>> X[:, wine.columns.get_loc("alcohol")].min(), X.shape
        (np.float64(14.5), (100, 13))
        """
        check.check_flags(mean=mean)
        if given is None:
            return super().sample(1 if n_samples is None else n_samples, mean=mean, random_state=random_state)
        entries = self._check_given(given, n_samples)
        n_rows = len(entries.rows)
        n_drawn = n_rows if n_samples is None else n_samples
        if np.isnan(entries.rows).all():
            return super().sample(n_drawn, mean=mean, random_state=random_state)
        (seed,) = self._draw_seeds(n_drawn, random_state, n=1)
        drawn = self._completed_by_draws(entries.rows, n_samples, seed, mean=mean)
        self._warn_of_few(drawn.effective_sample_size, n_drawn // n_rows)
        return self._as_given(drawn.rows, entries.rows.dtype, seed=seed, entries=entries.repeated(n_drawn))

    def effective_sample_size_given(self, given, n_samples=None, *, random_state=None):
        """How many of the codes count that ``sample(n_samples, given=given)`` chooses among.

        Parameters
        ----------
        given : dict, Series, DataFrame or array-like of shape (n_rows, n_features)
            Entries that rows are to have; see `sample`.
        n_samples : int, default=None
            Number of rows to be drawn; as many as `given` has by default.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the estimator's own `random_state` by default.

        Returns
        -------
        ess : ndarray of shape (n_rows,)
            Number of codes that would be worth as much if they came from the posterior itself. It is between 1 and the number
            of codes that are tried for a row: eight times `n_score_draws` or, for one row of which there are many draws, 32 times
            `n_score_draws`, but at least four a draw.
        """
        rows = self._check_given(given, n_samples).rows
        (seed,) = self._draw_seeds(len(rows) if n_samples is None else n_samples, random_state, n=1)
        return self._completed_by_draws(rows, n_samples, seed, mean=True).effective_sample_size

    def _check_given(self, given: Any, n_samples: Any) -> check.Given:
        """Return the entries that are given, for so many draws."""
        check_is_fitted(self, "module_")
        if n_samples is not None:
            check.check_count("n_samples", n_samples)
        entries = check.check_given(self, given)
        check.check_n_given(n_samples, len(entries.rows))
        return entries

    def _completed_by_draws(self, rows: np.ndarray, n_samples: int | None, seed: int, *, mean: bool) -> Drawn:
        """Complete rows by draws, one of each or `n_samples` of one."""
        table = Table.of(rows, names=check.column_names(self, rows.shape[1]))
        self.module_.likelihood.check(table.source, table.name)
        return self._sample_given(table, check.check_n_given(n_samples, len(rows)), seed, mean=mean)

    def _sample_given(self, table: Table, n_each: int | None, seed: int, *, mean: bool) -> Drawn:
        """Complete rows by draws, one of each or `n_each` of one."""
        return sample_given(
            self.module_,
            table,
            check.resolve_device(self.device),
            seed,
            n_samples=n_each,
            n_proposals=self._n_tried(n_each),
            mean=mean,
            source=self._code_source(),
        )

    def _n_tried(self, n_each: int | None) -> int:
        """Codes that are tried for a row."""
        if n_each is None:
            return TRIED_PER_SCORE_DRAW * self._n_score_draws
        return max(_TRIED_OF_ONE_PER_SCORE_DRAW * self._n_score_draws, TRIED_PER_DRAW * int(n_each))

    def _code_source(self) -> CodeSource | None:
        """Prior of the codes that the module does not own, or None."""
        density = self._log_density()
        return None if density is None else CodeSource(self._sample_codes, density)

    def _warn_of_few(self, sizes: np.ndarray, n_each: int) -> None:
        """Warn where draws, `n_each` of a row, are few different ones; `sizes` are the effective sample sizes of the rows."""
        is_few = sizes < max(_FEWEST, _FEWEST_PER_DRAW * n_each)
        if not is_few.any():
            return
        n_tried = self._n_tried(None if n_each == 1 else n_each)
        worst = int(sizes.argmin())
        of_rows = "" if len(sizes) == 1 else f" for row {worst} of given, and too few for {is_few.sum()} of {len(sizes)} rows"
        warn_user(
            f"{type(self).__name__} hardly ever has rows with what is given: of {n_tried} codes that were tried, "
            f"{sizes[worst]:.3g} count{of_rows}, so that draws are rough and may be alike. Raise n_score_draws (now "
            f"{self.n_score_draws}) to try more, give less, or look whether entries are given that do not go together."
        )
