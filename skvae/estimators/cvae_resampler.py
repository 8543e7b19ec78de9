"""Over-sampling of rare classes by a conditional variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, _fit_context
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skvae import inference
from skvae._spec import and_more
from skvae.data import is_sparse
from skvae.data.containers import append_rows, is_pandas
from skvae.data.kinds import Columns, columns_of, frame_columns, take
from skvae.estimators import _checks as check
from skvae.estimators._docs import DocumentedMixin
from skvae.estimators._fit import MAX_SEED
from skvae.estimators._labeled import new_model, take_columns, takes_nan
from skvae.estimators._marginals import ClassShape, Draws, TableShape, pool_size
from skvae.estimators._specs import NestedMixin
from skvae.estimators.cvae import CVAE
from skvae.warnings import warn_user

_ATTEMPTS = 10  # draws of a row that the guard turns down
_ROUNDING = 1e-9  # by which a ratio may be less than it says, as 15 / 22 is
_MAX_GUARD = 0.5  # up to which the nearest training row is the only one that can be too close


class CVAEResampler(DocumentedMixin, NestedMixin, OneToOneFeatureMixin, BaseEstimator):
    r"""Over-sampler that draws new rows of rare classes from a conditional variational autoencoder [1]_.

    It is called as the samplers of imbalanced-learn are, and works in their pipelines. All classes are modeled together, so
    that rare ones borrow from the others what they have in common; rows are weighted by the inverse square root of the size of
    their class. New rows are drawn with the likelihood's noise.

    Parameters
    ----------
    estimator : CVAE or None, default=None
        The model, which is cloned; None is ``CVAE(prior="conditional")``. To tune it, pass one: its parameters are then
        ``estimator__<name>``. Under the standard prior, new rows of a rare class lie too close to the other classes: its codes
        are not spread as those of all rows are.
    sampling_strategy : str, float, dict or callable, default="auto"
        Which classes grow, and to which size. To that of the largest: "not majority", which is "auto", all but the largest;
        "minority", the smallest; "not minority", all but the smallest; "all", all. A float, for two classes, is the size of
        the smaller over that of the larger. A dict gives numbers of rows by label; a callable takes y and returns such a dict.
    guard : float, default=0.2
        Keeps new rows from being copies: none may lie closer to a training row than this fraction of the distance from there
        to the nearest different one. Rows that the training data hold several times are nobody's own, and may be met. Distances
        are Euclidean, between standardized columns. At most 0.5; 0 allows copies. What is too close is drawn again, up to
        10 times in all.
    random_state : int, RandomState instance or None, default=None
        Decides the draws, and takes the place of the model's own `random_state`, unless it is None.

    Attributes
    ----------
    sampling_strategy_ : dict
        Numbers of new rows, by label.
    n_rejected_ : int
        Draws that lay too close to a training row and were not used.
    estimator_ : CVAE
        The fitted model.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names that are strings.

    See Also
    --------
    CVAE : The model.
    CVAEClassifier : Compares the likelihoods of a row under the labels.

    Notes
    -----
    New rows hold what columns can hold. Columns of at most 20 values, each of which is there twice on average, keep to these
    values, and each class has them as often as its rows do: the highest draws become the largest value. Columns of zeros and
    ones of which every row has a single one, as those of a one-hot encoder, are found, and new rows have a single one there,
    with the frequencies that the class has. Categories that never come together in the rows, as a city and the country of
    another, do not in new ones, unless chance explains that no row has both; columns of two values follow such categories.
    Other columns stay between their smallest and their largest value, and whole
    numbers are rounded; where one value is there again and again, as zero is in sparse matrices, or where the model would draw
    more than a few values out of range, draws are mapped to the quantiles of the class. Rows may have missing entries where the
    estimator takes them, and keep them; new rows have none, and are compared with them as if the model had drawn what they
    lack. Categories, text and other objects
    that stand for numbers keep to the entries that the column has.

    References
    ----------
    .. [1] Sohn et al., "Learning structured output representation using deep conditional generative models", NeurIPS 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import CVAE, CVAEResampler
    >>> X, y = load_wine(return_X_y=True)
    >>> resampler = CVAEResampler(CVAE(prior="conditional", max_epochs=20), random_state=0)
    >>> X_new, y_new = resampler.fit_resample(X, y)
    >>> np.bincount(y), np.bincount(y_new)
    (array([59, 71, 48]), array([71, 71, 71]))
    """

    _parameter_constraints = {
        "estimator": [CVAE, None],
        "sampling_strategy": [
            StrOptions({"auto", "minority", "not minority", "not majority", "all"}),
            Interval(Real, 0, 1, closed="right"),
            dict,
            callable,
        ],
        "guard": [Interval(Real, 0, _MAX_GUARD, closed="both")],
        "random_state": ["random_state"],
    }

    _sampling_type = "over-sampling"  # which ensembles of imbalanced-learn ask their samplers for

    def __init__(self, estimator=None, *, sampling_strategy="auto", guard=0.2, random_state=None):
        self.estimator = estimator
        self.sampling_strategy = sampling_strategy
        self.guard = guard
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y):
        """Check the data and count the rows that are wanted; nothing is learned.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Their labels; a matrix has a one in the column of the label, and zeros in the others.

        Returns
        -------
        self : object
            The resampler, with the numbers of new rows of each class in `sampling_strategy_`.

        Raises
        ------
        ValueError
            If a parameter, X or y is not as it should be.
        """
        model, _, _, wanted = self._check(X, y)
        self.sampling_strategy_ = wanted
        take_columns(self, model)
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    def fit_resample(self, X, y, *, validation_data=None):
        """Fit the model and add new rows of the classes that are to grow.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Their labels; a matrix has a one in the column of the label, and zeros in the others, which are then labeled by
            their positions.
        validation_data : tuple (X_val, y_val), default=None
            Rows and labels that early stopping of the estimator looks at; see :meth:`CVAE.fit`. They are not resampled.

        Returns
        -------
        X_resampled : {ndarray, list, sparse matrix, DataFrame} of shape (n_samples_new, n_features)
            The rows, followed by new ones, class by class. A data frame keeps its columns and their types; its index counts
            from 0.
        y_resampled : {ndarray, list, Series, DataFrame} of shape (n_samples_new,) or (n_samples_new, n_classes)
            Their labels, in the form and of the type that they came in.

        Raises
        ------
        ValueError
            If a parameter, X or y is not as it should be.
        """
        X = check.off_tensor(X)
        model, rows, labels, wanted = self._check(X, y)
        classes, first, codes, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
        model.fit(X, labels, sample_weight=1.0 / np.sqrt(counts[codes]), **_to_validate(validation_data))
        like = np.repeat(first, [wanted.get(label, 0) for label in classes.tolist()])  # rows of the labels of the new ones
        rows = _filled(model, X, rows, labels)
        columns = columns_of(rows, _entries(X))
        new, n_rejected = self._draw(model, rows, labels, labels[like], columns)
        resampled = _join_rows(X, new, columns, model), _take_labels(y, np.concatenate([np.arange(len(labels)), like]))
        self.sampling_strategy_ = wanted
        self.n_rejected_ = n_rejected
        self.estimator_ = model
        take_columns(self, model)
        return resampled

    def _check(self, X: Any, y: Any) -> tuple[CVAE, Any, np.ndarray, dict[Any, int]]:
        """Unfitted model, rows and labels as arrays, and the number of new rows of every class."""
        model = new_model(self, CVAE(prior="conditional"))
        labels = check.check_class_labels(self, _as_one_list(y))
        rows = check.check_rows(model, X, reset=True, min_rows=2, sets_form=True)
        check_consistent_length(rows, labels)
        return model, rows, labels, self._wanted(labels)

    def _wanted(self, labels: np.ndarray) -> dict[Any, int]:
        """Numbers of new rows, by label."""
        values, totals = np.unique(labels, return_counts=True)
        counts = dict(zip(values.tolist(), totals.tolist(), strict=True))
        if len(counts) < 2:
            raise ValueError(f"y has 1 class, {next(iter(counts))!r}; resampling balances at least 2.")
        strategy = self.sampling_strategy
        if isinstance(strategy, str):
            most, least = max(counts, key=counts.get), min(counts, key=counts.get)
            spared = {"not minority": [least], "all": []}.get(strategy, [most])
            grown = [least] if strategy == "minority" else [label for label in counts if label not in spared]
            return {label: counts[most] - counts[label] for label in grown}
        if isinstance(strategy, Real):
            return _by_ratio(strategy, counts)
        sizes, origin = (strategy, "") if isinstance(strategy, dict) else (strategy(labels), " returned what is no dict:")
        if not isinstance(sizes, dict):
            raise ValueError(f"sampling_strategy={strategy!r}{origin} {sizes!r}. It must return numbers of rows by label.")
        return _by_size(sizes, counts)

    # -- new rows -----------------------------------------------------------------------------------------------------

    def _draw(self, model: CVAE, rows: Any, labels: np.ndarray, wanted: np.ndarray, columns: Columns) -> tuple[np.ndarray, int]:
        """Draw new rows, one for each label that is wanted, and count the draws that were turned down."""
        shape_of_rows = model.image_shape_ if model._gives_images else rows.shape[1:]
        if not len(wanted):
            return np.empty((0, *shape_of_rows)), 0
        generator = check_random_state(model.random_state)
        table = TableShape(rows, columns)

        def sample(labels: np.ndarray) -> Draws:
            seed = int(generator.randint(MAX_SEED))
            values = _numbers(model, model.sample(len(labels), y=labels, random_state=seed))
            means = _numbers(model, model.sample(len(labels), y=labels, mean=True, random_state=seed)) if table.groups else None
            return Draws(values, means)

        n_pool = pool_size(len(columns))
        classes = np.unique(wanted)
        shapes = [
            ClassShape(table, rows[labels == label], sample(np.repeat(wanted[wanted == label][:1], n_pool))) for label in classes
        ]

        def draw(labels: np.ndarray) -> np.ndarray:
            draws, new = sample(labels), np.empty((len(labels), len(columns)))
            for label, shape in zip(classes, shapes, strict=True):
                own = labels == label
                new[own] = shape.settle(draws.take(own), generator)
            return new.reshape(len(new), *shape_of_rows)

        new = draw(wanted)
        if not self.guard:
            return new, 0
        closeness = _closeness(model, rows)
        ratio, n_rejected = closeness(new), 0
        for _ in range(_ATTEMPTS - 1):
            (close,) = np.nonzero(ratio < self.guard)
            if not len(close):
                break
            n_rejected += len(close)
            again = draw(wanted[close])
            ratio_again = closeness(again)
            further = ratio_again > ratio[close]
            new[close[further]], ratio[close[further]] = again[further], ratio_again[further]
        n_close = int((ratio < self.guard).sum())
        if n_close:
            warn_user(
                f"{n_close} of {len(new)} new rows lie closer to a training row than guard={self.guard:g} allows, after "
                f"{_ATTEMPTS} draws of each; the furthest are kept. Either few values are possible in every column, or the model "
                "has learned rows by heart: lower guard, or give the estimator fewer components or early_stopping=True."
            )
        return new, n_rejected

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = takes_nan(self)
        tags.target_tags.required = True
        return tags


# -- how many rows ----------------------------------------------------------------------------------------------------


def _by_ratio(ratio: Real, counts: dict[Any, int]) -> dict[Any, int]:
    if len(counts) > 2:
        raise ValueError(
            f"sampling_strategy={ratio} is a ratio of two classes, but y has {len(counts)}; pass a dict of numbers of rows by "
            "label."
        )
    most, least = max(counts, key=counts.get), min(counts, key=counts.get)
    if most == least:  # of equal size
        _, least = counts
    n_new = int(ratio * counts[most] * (1.0 + _ROUNDING)) - counts[least]
    if n_new < 0:
        raise ValueError(
            f"sampling_strategy={ratio} is below the ratio of the classes as they are, {counts[least]} to {counts[most]} rows; "
            "rows are only added."
        )
    return {least: n_new}


def _by_size(sizes: dict[Any, Any], counts: dict[Any, int]) -> dict[Any, int]:
    unknown = [label for label in sizes if label not in counts]
    if unknown:
        raise ValueError(
            f"sampling_strategy has labels that y does not have: {unknown}; those of y are {list(counts)[:10]}"
            f"{and_more(counts, 10)}."
        )
    for label, size in sizes.items():
        if not isinstance(size, Integral):
            raise ValueError(f"sampling_strategy asks for {size!r} rows of label {label!r}; it must be an integer.")
        if size < counts[label]:
            raise ValueError(
                f"sampling_strategy asks for {size} rows of label {label!r}, of which y has {counts[label]}; rows are only added."
            )
    return {label: int(sizes[label]) - n for label, n in counts.items() if label in sizes}


# -- what new rows may be ---------------------------------------------------------------------------------------------


def _entries(X: Any) -> list[Any] | None:
    """Columns of a data frame or an array, or pixels of images, as they were given; None where all are numbers."""
    if is_sparse(X):
        return None
    if hasattr(X, "iloc") or hasattr(X, "get_columns"):
        return [column for _, column in frame_columns(X)]
    return list(_flat(check.as_array(X)).T)


def _flat(X: np.ndarray) -> np.ndarray:
    return X.reshape(len(X), prod(X.shape[1:]))


def _numbers(model: CVAE, X: Any) -> np.ndarray:
    """Rows of a model as numbers."""
    return _flat(X) if model._frame_form is None else model._frame_form.read(X)


def _filled(model: CVAE, X: Any, rows: Any, labels: np.ndarray) -> Any:
    """Rows as numbers, with draws from their posteriors where entries are missing, so that new ones can be compared with them."""
    missing = np.isnan(rows.data if is_sparse(rows) else rows)
    if not missing.any():
        return rows
    at = tuple(part[missing] for part in (rows.tocoo().coords if is_sparse(rows) else ()))
    codes_seed, noise_seed = model._draw_seeds(rows.shape[0], None, n=2)
    table, _, device = model._rows(X, labels, None, "fit_resample")
    mean, log_var = inference.posterior(model.module_, table, device)
    codes = mean + np.exp(0.5 * log_var) * np.random.default_rng(codes_seed).standard_normal(mean.shape)
    drawn = inference.draw(model.module_, codes, device, noise_seed, table.condition)
    drawn = _numbers(model, model._as_given(drawn, seed=noise_seed))
    if not is_sparse(rows):
        return np.where(missing, drawn, rows)
    rows = rows.copy()
    rows.data[missing] = drawn[at]
    return rows


def _closeness(model: CVAE, rows: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Make a function of new rows: their distance to the nearest training row over its own to the nearest different one."""

    def standardized(rows: Any) -> np.ndarray:
        rows = rows if is_sparse(rows) else _flat(rows)
        likelihood = model.module_.likelihood
        return likelihood.comparable(likelihood.standardize(rows)).double().numpy()

    known, counts = np.unique(standardized(rows), axis=0, return_counts=True)
    index = NearestNeighbors().fit(known)

    def closeness(new: np.ndarray) -> np.ndarray:
        if len(known) < 2:
            return np.full(len(new), np.inf)
        distance, nearest = (found[:, 0] for found in index.kneighbors(standardized(new), 1))
        hit, position = np.unique(nearest, return_inverse=True)
        between = index.kneighbors(known[hit], 2)[0][:, 1]
        return np.where(counts[nearest] > 1, np.inf, distance / between[position])

    return closeness


# -- in the form of what was given ------------------------------------------------------------------------------------


def _join_rows(X: Any, new: np.ndarray, columns: Columns, model: CVAE) -> Any:
    """Rows that were given, followed by new ones in their form."""
    if model._frame_form is not None:
        added = model._frame_form.restore(new, bounded=True, seed=model._progress.seed)
        return append_rows(X, added)
    if is_sparse(X):
        kind = sparse.csr_array if isinstance(X, sparse.sparray) else sparse.csr_matrix
        return sparse.vstack([X, kind(new.astype(X.dtype))], format=X.format)
    values = _flat(new)
    taken = {j: column.decode(values[:, [j]]) for j, column in enumerate(columns) if not column.is_numeric}
    if is_pandas(X):
        import pandas as pd

        added = [taken[j] if j in taken else pd.Series(values[:, j]).astype(dtype) for j, dtype in enumerate(X.dtypes)]
        added = pd.concat(added, axis=1)
        added.columns = X.columns
        return append_rows(X, added)
    if hasattr(X, "get_columns"):
        added = type(X)({name: taken.get(j, values[:, j]) for j, name in enumerate(X.columns)})
        return append_rows(X, added.cast(dict(X.schema)))
    given = check.as_array(X)
    added = values.astype(given.dtype)
    for j, own in taken.items():
        added[:, j] = own
    joined = np.concatenate([given, added.reshape(new.shape)])
    return joined.tolist() if isinstance(X, list) else joined


def _as_one_list(y: Any) -> Any:
    """Labels as one list: the only column of a matrix, or the positions of the ones in its rows."""
    if y is None:
        return None
    values = check.as_array(y)
    if values.ndim != 2:
        return values
    if values.shape[1] == 1:
        return values[:, 0]
    if values.dtype.kind in "biuf" and np.isin(values, (0, 1)).all():
        if (values.sum(axis=1) != 1).any():
            raise ValueError(
                f"y has {values.shape[1]} columns of zeros and ones, in which each row must have a single one, at its label; "
                "multilabel targets are not supported."
            )
        return values.argmax(axis=1)
    return values


def _to_validate(validation_data: Any) -> dict[str, Any]:
    """Rows and labels to validate on, the latter as one list."""
    if validation_data is None:
        return {}
    if not isinstance(validation_data, tuple) or len(validation_data) != 2:
        raise ValueError("validation_data takes a pair (X_val, y_val) of rows and their labels.")
    return {"validation_data": (validation_data[0], _as_one_list(validation_data[1]))}


def _take_labels(y: Any, rows: np.ndarray) -> Any:
    """Labels of some rows, in the form that they were given in; a column that is no data frame's is a list."""
    if hasattr(y, "iloc") or hasattr(y, "rechunk"):
        return take(y, rows)
    if hasattr(y, "take") and hasattr(y, "isna"):  # arrays of pandas, such as Categorical, and its indices
        return y.take(rows)
    values = check.as_array(y)
    values = values[rows].ravel() if values.ndim == 2 and values.shape[1] == 1 else values[rows]
    return values.tolist() if isinstance(y, list) else values
