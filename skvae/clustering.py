"""Clusters of rows by the codes of an autoencoder: for new rows too, with probabilities, and back again to rows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from joblib.parallel import LokyBackend, get_active_backend
from scipy.special import logsumexp, softmax
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_is_fitted

from skvae import inference
from skvae._partition import Partition, Rows, choose, divide, principal, scaled, shows_gaps
from skvae._templates import (
    arguments_of_fit,
    check_template,
    codes_of,
    compares_kinds,
    copy_of,
    indexable,
    read_numbers,
    steps_of,
    take_columns,
    take_input_tags,
)
from skvae.data import is_sparse
from skvae.estimators import CVAE, NeighborAE, SparseAE
from skvae.estimators._checks import check_count, check_flags, check_score_weights, has_kinds, resolve_device
from skvae.estimators._continuous import ContinuousAutoEncoder
from skvae.estimators._docs import DocumentedMixin
from skvae.estimators._fit import MAX_SEED, draft_of
from skvae.estimators._mixture import MixtureDensity, grow_by_evidence
from skvae.estimators._neighbors import find_neighbors
from skvae.estimators._specs import NestedMixin
from skvae.pipeline import back, find_step, forth
from skvae.runtime.randomness import Stream, seed_streams
from skvae.runtime.threads import one_thread
from skvae.together import train_together
from skvae.warnings import warn_user

_WIDTH, _WEIGHT = 8, 5.0  # of the default estimator
_MOST_EPOCHS, _FEW_ROWS = 400, 1920  # its passes over few rows; it makes fewer over more by itself
_MOST_MIXED = 4  # components of one cluster
_FLOOR = 1e-6  # variance that each has in every direction, as a share of that of all codes
_RESAMPLED = 0.8  # share of the rows in a resample
_HELD, _MOSTLY = 0.1, 0.5  # share of a group in a cluster from which on it counts, and from which on the group belongs to it


def _has_density(clusterer: Any) -> bool:
    """Whether codes of a clusterer have a likelihood given which rows are drawn, so that its clusters have one of rows."""
    _, step = steps_of(NeighborAE() if clusterer.estimator is None else clusterer.estimator)[-1]
    if not isinstance(step, ContinuousAutoEncoder) or isinstance(step, (CVAE, SparseAE)):
        raise AttributeError(f"{type(step).__name__} has no likelihood of rows given codes, so that there is no score.")
    return True


class AutoencoderClusterer(
    DocumentedMixin, NestedMixin, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin, BaseEstimator
):
    r"""Clusters rows by the codes of an autoencoder and the neighbors of the rows.

    The codes are divided into many small cells, and these are joined as long as their rows are neighbors of each other, up to
    `n_clusters`, or up to where there are gaps between all groups. The clusters then are mixtures of normal distributions of
    the codes: new rows have clusters, too, and probabilities, and clusters have new rows.

    Parameters
    ----------
    n_clusters : int or "auto", default="auto"
        Number of clusters. "auto" has the rows decide, see Notes; where there is no gap between any of them it is one.
    estimator : estimator, Pipeline or None, default=None
        Any estimator with `transform` that can be fitted without `y`, such as :class:`AutoEncoder`, or a pipeline with such a
        last step; it is cloned. None is ``NeighborAE(8, neighbor_weight=5)``, with no more than 400 passes over the rows. The
        parameters of an estimator that is given are ``estimator__<name>``.
    max_clusters : int, default=50
        Largest number of clusters with "auto".
    n_neighbors : int, default=15
        How many of the nearest rows of each are its neighbors.
    n_init : int, default=3
        Number of estimators that are trained, by different random numbers. The one counts whose clusters tear the fewest
        neighbors apart.
    n_resamples : int, default=0
        Number of further estimators, each trained on four fifths of the rows, whose clusters count in `stability_` alone.
    random_state : int, RandomState instance or None, default=None
        Decides all that is random, also in the estimators, each of which has a `random_state` of its own. None has the
        estimator's decide.
    n_jobs : int or None, default=None
        Number of estimators that are trained side by side. None has them train together, as by :func:`train_together`, unless
        joblib is configured otherwise.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Clusters of the training rows, numbered from 0, the largest first: what `predict` gives for them.
    n_clusters_ : int
        Number of clusters.
    estimator_ : estimator
        The fitted estimator whose codes are clustered.
    cluster_centers_ : ndarray of shape (n_clusters_, n_components)
        Mean codes of the clusters.
    weights_ : ndarray of shape (n_clusters_,)
        Shares of the clusters in the training rows.
    stability_ : float
        How much the clusters of other starts and of resamples are like these: the mean adjusted Rand index [1]_, 1 where they
        are the same and 0 where they agree by chance alone. NaN with ``n_init=1`` and no resamples.
    report_ : dict
        How the clusters lie to the groups of rows that have gaps around them: "n_groups", their number; "merged", a dict by
        cluster of how many of them it holds, where these are several; "split", a list of tuples of clusters that share one
        of them; and "n_died", the number of clusters that were left without a row.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X had names that are strings.

    See Also
    --------
    NeighborAE : The default estimator.
    train_together : Has other fits train together.
    sklearn.cluster.KMeans : Spheres among the rows.

    Notes
    -----
    Codes of several starts are compared by one measure, which asks the rows: the share of the ties of neighbors [2]_ within
    clusters, less half the sum of the squares of the clusters' shares, which is modularity [3]_ with rows in place of ties and
    half its resolution.

    Two groups have a gap between them if their rows have two modes along the direction that separates the groups best, decided
    by other rows than those that are looked at, both as a whole and among the rows that are next to the other group, and if few
    are neighbors. Modes are counted by Hartigan's dip [4]_. A cloud with one mode is one cluster,
    however it is torn in the codes; something that is written in two ways is two.

    Rows are compared in units of their columns' standard deviations, or as they are where columns have ranges alike, and those of
    data frames with columns of different kinds as :class:`NeighborAE` does, by at most 50 principal components. Equal rows count
    as one of their weight. Among fewer than 16 different rows, no modes can be counted: there, those that come at least 8 times
    are a group each, and others go with the nearest.

    References
    ----------
    .. [1] Hubert and Arabie, "Comparing partitions", Journal of Classification 2, 1985.
    .. [2] McInnes, Healy and Melville, "UMAP: uniform manifold approximation and projection for dimension reduction", 2018.
    .. [3] Newman and Girvan, "Finding and evaluating community structure in networks", Physical Review E 69, 2004.
    .. [4] Hartigan and Hartigan, "The dip test of unimodality", Annals of Statistics 13, 1985.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvae import AutoencoderClusterer, NeighborAE
    >>> X, _ = make_blobs(300, 5, centers=4, random_state=0)
    >>> clusterer = AutoencoderClusterer(estimator=NeighborAE(2, max_epochs=20), random_state=0).fit(X)
    >>> clusterer.n_clusters_
    4
    >>> clusterer.predict_proba(X[:3]).shape, clusterer.sample(2, label=1).shape
    ((3, 4), (2, 5))
    """

    _private_state = ("_density", "_owner")

    _parameter_constraints = {
        "n_clusters": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "estimator": [HasMethods(["fit", "transform"]), Pipeline, None],
        "max_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "n_resamples": [Interval(Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        n_clusters="auto",
        *,
        estimator=None,
        max_clusters=50,
        n_neighbors=15,
        n_init=3,
        n_resamples=0,
        random_state=None,
        n_jobs=None,
    ):
        self.n_clusters = n_clusters
        self.estimator = estimator
        self.max_clusters = max_clusters
        self.n_neighbors = n_neighbors
        self.n_init = n_init
        self.n_resamples = n_resamples
        self.random_state = random_state
        self.n_jobs = n_jobs

    # -- fitting ------------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Train the estimators and cluster the rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to cluster; or what else the estimator takes.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, in training and in clustering; rows of weight zero are left out, and have labels all the same.

        Returns
        -------
        self : object
            The fitted clusterer.

        Raises
        ------
        ValueError
            If a parameter or X is not as it should be, there are fewer rows than clusters, or the estimator does not take the
            weights that were given.

        Warns
        -----
        UserWarning
            If the rows have no clusters to speak of.
        ConvergenceWarning
            If there are fewer clusters than were asked for.
        """
        X = indexable(X)
        template = _default(_num_samples(X)) if self.estimator is None else self.estimator
        check_template(template, "transform", "clusters are found without it")
        rows, weight = np.arange(_num_samples(X)), None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            rows = np.flatnonzero(weight > 0.0)
        if self.n_clusters != "auto" and len(rows) < self.n_clusters:
            raise ValueError(f"n_samples={len(rows)} should be >= n_clusters={self.n_clusters}.")
        fitted = draft_of(self)
        fitted._cluster(template, X, rows, weight)
        vars(self).clear()
        vars(self).update(vars(fitted))
        return self

    def _cluster(self, template: Any, X: Any, rows: np.ndarray, weight: np.ndarray | None) -> None:
        """Note on a draft what `fit` finds."""
        own_seed = getattr(steps_of(template)[-1][1], "random_state", None)
        random = check_random_state(own_seed if self.random_state is None else self.random_state)
        kept = X if len(rows) == _num_samples(X) else _safe_indexing(X, rows)
        mass = np.ones(len(rows)) if weight is None else weight[rows]
        n_neighbors, table = int(self.n_neighbors), None
        if _takes_graph(template, X):
            n_searched = max(n_neighbors, int(template.n_neighbors))
            table = _Distinct.of(copy_of(template, None), kept, mass, n_neighbors, n_searched=n_searched)
        starts = [_Start(None, int(random.randint(MAX_SEED))) for _ in range(self.n_init)]
        for _ in range(self.n_resamples):
            part = np.sort(random.permutation(len(rows))[: max(2, round(_RESAMPLED * len(rows)))])
            starts.append(_Start(part, int(random.randint(MAX_SEED))))
        models = self._train(template, kept, None if weight is None else mass, starts, table)
        with one_thread():
            if table is None:
                table = _Distinct.of(models[0], kept, mass, n_neighbors)
            n_distinct = len(table.first)
            n_groups = None if self.n_clusters == "auto" else int(self.n_clusters)
            codes = [codes_of(model, kept)[table.first] for model in models]
            found = [
                divide(table.part(start.part), code[table.inside(start.part)], n_groups, int(self.max_clusters), start.seed)
                for start, code in zip(starts, codes, strict=True)
            ]
            best = choose([partition for each in found[: self.n_init] for partition in each])
            chosen = next(i for i, each in enumerate(found) if any(partition is best for partition in each))
            self._note(models[chosen], codes[chosen], table, best)
        self.labels_ = self.predict(X)
        own = self.labels_[rows][table.first]
        likeness = [
            adjusted_rand_score(own[table.inside(start.part)], choose(each).labels)
            for i, (start, each) in enumerate(zip(starts, found, strict=True))
            if i != chosen
        ]
        self.stability_ = float(np.mean(likeness)) if likeness else np.nan
        take_columns(self, self.estimator_)
        self._warn(n_distinct)

    def _train(self, template: Any, X: Any, mass: np.ndarray | None, starts: list[_Start], table: _Distinct | None) -> list[Any]:
        """Train an estimator for each start."""
        distance = None if table is None else table.distance
        if len(starts) == 1:
            return [_fit_copy(template, X, mass, starts[0], distance)]
        with train_together() if self.n_jobs is None and _is_unconfigured() else nullcontext():
            return Parallel(n_jobs=self.n_jobs)(delayed(_fit_copy)(template, X, mass, start, distance) for start in starts)

    def _note(self, model: Any, codes: np.ndarray, table: _Distinct, partition: Partition) -> None:
        """Fit the mixture of each cluster, drop those that are left without rows, and number them by size."""
        codes = codes.astype(np.float64)
        density, owner = _mix(codes, table.rows.mass, partition.labels)
        labels = _joint(density, owner, codes).argmax(axis=1)
        size = np.bincount(labels, weights=table.rows.mass, minlength=owner.max() + 1)
        order = np.argsort(-size, kind="stable")[: np.count_nonzero(size)]
        number = np.full(len(size), -1)
        number[order] = np.arange(len(order))
        alive = number[owner] >= 0
        weights = density.weights_[alive] / density.weights_[alive].sum()
        self._density = MixtureDensity.of(weights, density.means_[alive], density.covariances_[alive])
        self._owner = number[owner][alive]
        labels = number[labels]
        self.estimator_ = model
        self.n_clusters_ = len(order)
        share = table.rows.mass / table.rows.mass.sum()
        self.weights_ = np.bincount(labels, weights=share)
        sums = [np.bincount(labels, weights=share * column) for column in codes.T]
        self.cluster_centers_ = np.stack(sums, axis=1) / self.weights_[:, np.newaxis]
        self.report_ = _report(labels, partition.islands, share)
        asked = len(order) if self.n_clusters == "auto" else min(self.n_clusters, len(table.first))
        self.report_["n_died"] = int(max(asked, partition.n_groups) - len(order))

    def _warn(self, n_distinct: int) -> None:
        if self.report_["n_groups"] == 1:
            what = "there is one" if self.n_clusters_ == 1 else f"the {self.n_clusters_} clusters are parts of one cloud"
            why = "there is no gap between any two groups of them"
            if not shows_gaps(n_distinct):
                few = f"there are only {n_distinct} different rows, too few for gaps between groups of them to be seen"
                why = few if n_distinct > 1 else "all of them are equal"
            if self.n_clusters != 1:
                warn_user(f"The rows of X have no clusters to speak of: {why}, and {what}.")
        if self.n_clusters == "auto":
            return
        if n_distinct < self.n_clusters:
            warn_user(
                f"n_clusters={self.n_clusters} is more than the number of rows of X that differ, {n_distinct}.",
                ConvergenceWarning,
            )
        elif self.n_clusters_ < self.n_clusters:
            warn_user(
                f"{self.report_['n_died']} of n_clusters={self.n_clusters} clusters were left without a row and are dropped; "
                "set fewer.",
                ConvergenceWarning,
            )

    # -- clusters -----------------------------------------------------------------------------------------------------

    def _log_joint(self, X: Any) -> np.ndarray:
        """Log-density of the codes of rows together with each cluster, ``(n_samples, n_clusters_)``."""
        check_is_fitted(self)
        codes = codes_of(self.estimator_, indexable(X)).astype(np.float64)
        with one_thread():
            return _joint(self._density, self._owner, codes)

    def predict(self, X):
        """Tell which clusters rows belong to.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
        """
        return self._log_joint(X).argmax(axis=1)

    def predict_proba(self, X):
        """Compute with which probabilities rows belong to the clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        P : ndarray of shape (n_samples, n_clusters_)
            Posterior probabilities by the mixtures of the codes. Codes are further apart than rows are, so that most of them are
            close to 0 or 1.

        Raises
        ------
        ValueError
            If X is sparse.
        """
        if is_sparse(X):
            raise ValueError(
                "predict_proba takes no sparse rows: scikit-learn expects probabilities of these of classifiers alone. Pass a "
                "dense array; predict and transform take sparse rows."
            )
        return softmax(self._log_joint(X), axis=1)

    @available_if(_has_density)
    def score_samples(self, X):
        """Estimate the log-likelihood of rows, as the clusters have it that `sample` draws from, by importance sampling.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,)
            Nats per row, of the density in the units of X, behind the steps of a pipeline before the autoencoder; higher is more
            normal. Estimators that are not autoencoders of this package, or need conditions, have none.
        """
        check_is_fitted(self)
        before, step = self._decoder()
        table, device = step._ready(forth(before, indexable(X)), scored=True)

        def log_density(codes: np.ndarray) -> np.ndarray:
            return logsumexp(_joint(self._density, self._owner, codes), axis=1)

        return inference.log_weights(step.module_, table, device, step._n_score_draws, log_density, inference.log_mean_exp)

    @available_if(_has_density)
    def score(self, X, y=None, sample_weight=None):
        """Mean log-likelihood of rows; see `score_samples`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
            Nats per row; higher is better.
        """
        scores = self.score_samples(X)
        return float(np.average(scores, weights=check_score_weights(sample_weight, scores)))

    def transform(self, X):
        """Encode rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            What the estimator's `transform` gives.
        """
        check_is_fitted(self)
        return codes_of(self.estimator_, indexable(X))

    def inverse_transform(self, Z):
        """Decode codes, such as ``cluster_centers_``.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)
            Codes.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features_in_)
            Rows in the units of the training data.

        Raises
        ------
        TypeError
            If a step of the estimator has no `inverse_transform`, or needs conditions for it, as that of a CVAE.
        """
        check_is_fitted(self)
        before, step = self._decoder()
        return back([*before, ("estimator", step)], Z)

    def _decoder(self) -> tuple[list[tuple[str, Any]], Any]:
        """Return the step that decodes, and those before it."""
        before, step = find_step(self.estimator_, "transform")
        if isinstance(step, CVAE):
            raise TypeError(
                "Codes of a CVAE are decoded under conditions, of which the clusters know nothing: pass codes and conditions to "
                "the inverse_transform of the CVAE in estimator_."
            )
        return before, step

    def sample(self, n_samples=1, label=None, *, mean=False, random_state=None):
        """Draw new rows.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        label : int, default=None
            The cluster to draw from; None draws from all, each by its share.
        mean : bool, default=False
            Return what the codes are decoded to, without the likelihood's noise. Estimators that are not autoencoders of this
            package have none.
        random_state : int, RandomState instance or None, default=None
            Decides the draws; the clusterer's own `random_state` by default.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features_in_)
            Rows in the units of the training data.

        Raises
        ------
        ValueError
            If there is no cluster of that label.
        TypeError
            If a step of the estimator has no `inverse_transform`, or needs conditions for it, as that of a CVAE.
        """
        check_is_fitted(self)
        check_flags(mean=mean)
        n_samples = check_count("n_samples", n_samples)
        generator = check_random_state(self.random_state if random_state is None else random_state)
        density = self._density
        if label is not None:
            if isinstance(label, bool) or not isinstance(label, Integral) or not 0 <= label < self.n_clusters_:
                raise ValueError(f"label={label!r} must be one of the clusters, 0 to {self.n_clusters_ - 1}, or None for all.")
            own = self._owner == label
            density = MixtureDensity.of(
                density.weights_[own] / density.weights_[own].sum(), density.means_[own], density.covariances_[own]
            )
        codes = density.sample(n_samples, random_state=generator)
        before, step = self._decoder()
        if mean or not isinstance(step, ContinuousAutoEncoder):
            return back([*before, ("estimator", step)], codes)
        (seed,) = seed_streams(int(generator.randint(MAX_SEED)), Stream.SAMPLE, n=1)
        drawn = inference.draw(step.module_, codes, resolve_device(step.device), seed)
        return back(before, step._as_given(drawn, seed=seed))

    @property
    def _n_features_out(self) -> int:
        return self.cluster_centers_.shape[1]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        take_input_tags(tags, NeighborAE() if self.estimator is None else self.estimator)
        return tags

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_clusters_")


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass
class _Start:
    """One training: the rows, None for all, and what decides all that is random."""

    part: np.ndarray | None
    seed: int


@dataclass
class _Distinct:
    """Rows that differ from each other, of all rows.

    Attributes
    ----------
    first, inverse : ndarray of int
        Where each comes first, ``(n_distinct,)``, and which one each row is, ``(n_samples,)``.
    rows : Rows
    distance : CSR matrix of shape (n_samples, n_samples)
        Distances of the neighbors of all rows.
    """

    first: np.ndarray
    inverse: np.ndarray
    rows: Rows
    distance: Any

    @classmethod
    def of(cls, model: Any, X: Any, mass: np.ndarray, n_neighbors: int, *, n_searched: int | None = None) -> _Distinct:
        """Look for the neighbors of rows as they reach the last step of a model: as many as it needs, where it is not fitted."""
        x = read_numbers(model, X, reset=n_searched is not None)
        with one_thread():
            points = principal(x if compares_kinds(model) else scaled(x, mass), seed=0)
        bits = np.ascontiguousarray(x + 0.0)  # in which zeros have one sign
        bits = bits.view(np.dtype((np.void, bits.itemsize * bits.shape[1]))).ravel()
        _, first, inverse = np.unique(bits, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        first, inverse = first[order], place[inverse.ravel()]
        n_searched = min(n_searched or n_neighbors, len(points) - 1)
        distance = find_neighbors(points, n_searched, "euclidean")[0] if n_searched else None
        rows = Rows.of(points[first], np.bincount(inverse, weights=mass), n_neighbors, distance if len(first) == len(x) else None)
        rows.count = np.bincount(inverse)
        return cls(first, inverse, rows, distance)

    def inside(self, part: np.ndarray | None) -> Any:
        """Which distinct rows are among some of the rows."""
        return slice(None) if part is None else np.unique(self.inverse[part])

    def part(self, part: np.ndarray | None) -> Rows:
        """Return those among some of the rows, with the ties that they have among each other."""
        if part is None:
            return self.rows
        inside = self.inside(part)
        return replace(
            self.rows,
            points=self.rows.points[inside],
            mass=self.rows.mass[inside],
            ties=self.rows.ties[inside][:, inside],
            count=np.bincount(self.inverse[part])[inside],
        )


def _default(n_rows: int) -> NeighborAE:
    """Return what is trained where no estimator is given; many passes over few rows would take long and change little."""
    return NeighborAE(_WIDTH, neighbor_weight=_WEIGHT, max_epochs=_MOST_EPOCHS if n_rows <= _FEW_ROWS else "auto")


def _takes_graph(template: Any, X: Any) -> bool:
    """Whether an estimator trains with the neighbors of the rows that the clusters are put together by.

    How columns of different kinds compare is known once it is fitted.
    """
    return (
        isinstance(template, NeighborAE)
        and not has_kinds(template, X)
        and template.neighbors is None
        and template.neighbor_space == "rows"
        and template.metric == "euclidean"
    )


def _fit_copy(template: Any, X: Any, mass: np.ndarray | None, start: _Start, distance: Any) -> Any:
    """Train a copy of an estimator."""
    given = {} if mass is None else {"sample_weight": mass if start.part is None else mass[start.part]}
    if start.part is not None:
        X = _safe_indexing(X, start.part)
        distance = None if distance is None else distance[start.part][:, start.part]
    model = copy_of(template, start.seed)
    if distance is not None:
        given["neighbor_graph"] = distance
    return model.fit(X, **arguments_of_fit(model, given, "transform"))


def _is_unconfigured() -> bool:
    """Whether joblib has been left as it is."""
    backend, n_jobs = get_active_backend()
    return isinstance(backend, LokyBackend) and n_jobs in (None, 1)


# -- mixtures ---------------------------------------------------------------------------------------------------------


def _mix(codes: np.ndarray, mass: np.ndarray, labels: np.ndarray) -> tuple[MixtureDensity, np.ndarray]:
    """Fit a mixture to the codes of each cluster, and say which cluster each component belongs to."""
    share = mass / mass.sum()
    variance = float((share @ np.square(codes - share @ codes)).mean())
    floor = _FLOOR * variance if variance > 0.0 else 1.0
    parts = []
    for cluster in range(labels.max() + 1):
        own = np.flatnonzero(labels == cluster)
        size = share[own].sum()
        parts.append((size, grow_by_evidence(codes[own], share[own] / size, floor, _MOST_MIXED)))
    weights = np.concatenate([size * part.weights_ for size, part in parts])
    means, covariances = (np.concatenate([getattr(part, name) for _, part in parts]) for name in ("means_", "covariances_"))
    owner = np.repeat(np.arange(len(parts)), [len(part.weights_) for _, part in parts])
    return MixtureDensity.of(weights / weights.sum(), means, covariances), owner


def _joint(density: MixtureDensity, owner: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Log-density of codes together with each cluster."""
    found = density.log_joint(codes, alone=True)
    return np.stack([logsumexp(found[:, owner == cluster], axis=1) for cluster in range(owner.max() + 1)], axis=1)


def _report(labels: np.ndarray, groups: np.ndarray, share: np.ndarray) -> dict[str, Any]:
    """Say how clusters lie to the groups of rows that have gaps around them."""
    table = np.zeros((labels.max() + 1, groups.max() + 1))
    np.add.at(table, (labels, groups), share)
    in_cluster, in_group = table / table.sum(axis=1, keepdims=True), table / table.sum(axis=0)
    held = ((in_group > _MOSTLY) & (in_cluster > _HELD)).sum(axis=1)
    shared = [tuple(np.flatnonzero((in_cluster > _MOSTLY)[:, group]).tolist()) for group in range(table.shape[1])]
    return {
        "n_groups": int(groups.max() + 1),
        "merged": {int(cluster): int(held[cluster]) for cluster in np.flatnonzero(held > 1)},
        "split": [clusters for clusters in shared if len(clusters) > 1],
    }
