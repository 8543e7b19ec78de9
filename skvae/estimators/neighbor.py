"""The autoencoder whose codes keep the neighbors of rows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.neighbors import VALID_METRICS
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skvae import inference
from skvae.data import Table
from skvae.estimators import _checks as check
from skvae.estimators._docs import document
from skvae.estimators._fit import FitRun
from skvae.estimators._held_out import HeldOut
from skvae.estimators._neighbors import find_neighbors, join_rows
from skvae.estimators.autoencoder import AutoEncoder
from skvae.modules import NeighborAEModule
from skvae.training import Plan, Rows, encode_rows, pretrain_whole, read_rows
from skvae.warnings import warn_user

_STEPS, _MIN_EPOCHS, _MAX_EPOCHS = 7000, 30, 600
_LEARNING_RATE = 0.005  # with which rows are reconstructed as well as by AutoEncoder, beside their neighbors
_PRETRAINED = 0.5  # of the run, before rows are near each other by their codes
# Of scikit-learn, but for distances that are given, by a function that is to be named, or on a sphere, of which rows that are
# standardized know nothing.
METRICS = sorted({*itertools.chain(*VALID_METRICS.values())} - {"precomputed", "pyfunc", "haversine"})


@document
class NeighborAE(AutoEncoder):
    r"""Autoencoder whose codes keep the neighbors of rows: a map of the rows that can be read back, and clusters in it.

    Beside the reconstruction of :class:`~skvae.AutoEncoder`, codes of rows that are near each other are pulled together, and
    all others are pushed apart, by the objective of UMAP [1]_ [2]_:

    .. math:: d(x_i, \hat x_i) - \lambda s \big(\log q_{ij(i)} + 5\,\mathrm{E}_k \log(1 - q_{ik})\big),
        \quad q_{ij} = \frac{1}{1 + a \|z_i - z_j\|^{2b}}

    with j(i) a neighbor of row i, drawn anew for every step with the probabilities that UMAP gives the edges of the graph of
    neighbors, and s about a fifth of the distortion that a model has which knows the means of the columns alone. Codes then fall
    into groups where rows do, which clustering finds more easily than among the rows, or their principal components; and as an
    encoder has learned them, new rows have codes, too, and codes have rows.

    Two components are for looking at, and more for clustering.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the code; "auto" is the square root of the number of columns, but at least 2.
    n_neighbors : int, default=15
        How many of the nearest rows of each are its neighbors, itself not among them.
    neighbor_weight : float, default=1.0
        Weight :math:`\lambda` of the neighbors beside the reconstruction; 0 leaves them out. With 1, rows are reconstructed
        about as well as by :class:`~skvae.AutoEncoder`; with 5, clusters are found more easily, and reconstructions are worse.
    min_dist : float, default=0.1
        Distance of codes up to which they count as together: the smaller, the denser are groups. It is between 0 and 1, the
        distance over which codes become strangers.
    metric : str or callable, default="euclidean"
        By which rows are near: one of the metrics of :class:`~sklearn.neighbors.NearestNeighbors`, among them "nan_euclidean",
        which leaves out missing entries, "seuclidean" and "mahalanobis", which go by the variances and covariances of the rows
        at hand. Rows are compared as the encoder reads them, standardized with most likelihoods, and
        with columns' means in place of missing entries with all other metrics. Of data frames with columns of different kinds,
        categories are compared by zeros and ones, and numbers are standardized, by rank where they have tails.
    neighbors : transformer or None, default=None
        What finds the neighbors in place of scikit-learn's search, such as those of large tables approximately: a transformer
        with the interface of :class:`~sklearn.neighbors.KNeighborsTransformer`, as pynndescent's is. `fit` fits a copy to the
        rows, as the encoder reads them, and takes the `n_neighbors` nearest of what `fit_transform` returns.
    neighbor_space : {"rows", "codes"}, default="rows"
        Whether rows are near that are near themselves, or those whose codes are, after training for half as long as the run
        without neighbors [3]_.
    %(architecture)s
    density : density estimator or None, default=None
        Density of the codes, as in :class:`~skvae.AutoEncoder`.
    learning_rate : float or "auto", default="auto"
        Step size of the optimizer at the start; "auto" is 0.005, and 0.01 for an encoder of one layer.
    max_epochs : int or "auto", default="auto"
        Passes over the data; "auto" aims at 7,000 steps in 30 to 600 passes.
    %(training)s

    Attributes
    ----------
    density_ : estimator
        The fitted density of the codes.
    %(fitted)s

    See Also
    --------
    AutoEncoder : The same without neighbors.

    Notes
    -----
    What is decoded in training are codes with noise of a standard deviation of 0.1, next to the distance of 1 over which codes
    become strangers: rows whose codes are closer are reconstructed alike, and new rows better.

    Neighbors are those of the rows at hand: each call of `partial_fit` looks for them among its own. Rows that early stopping
    looks at have theirs among those that are learned from; where a `neighbor_graph` says nothing about them, as about
    `validation_data`, they are judged by their reconstruction alone.

    References
    ----------
    .. [1] McInnes, Healy and Melville, "UMAP: uniform manifold approximation and projection for dimension reduction", 2018.
    .. [2] Sainburg, McInnes and Gentner, "Parametric UMAP embeddings for representation and semisupervised learning", Neural
       Computation 33, 2021.
    .. [3] McConville et al., "N2D: (not too) deep clustering via clustering the local manifold of an autoencoded embedding",
       ICPR 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import NeighborAE
    >>> X, _ = load_wine(return_X_y=True)
    >>> nae = NeighborAE(n_components=2, max_epochs=20, random_state=0).fit(X)
    >>> nae.transform(X).shape, nae.reconstruct(X).shape
    ((178, 2), (178, 13))
    """

    _module_class = NeighborAEModule

    _parameter_constraints = {
        **{name: takes for name, takes in AutoEncoder._parameter_constraints.items() if name != "linear_path"},
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbor_weight": [Interval(Real, 0, None, closed="left")],
        "min_dist": [Interval(Real, 0, 1, closed="both")],
        "metric": [StrOptions(set(METRICS)), callable],
        "neighbors": [HasMethods(["fit_transform", "transform"]), None],
        "neighbor_space": [StrOptions({"rows", "codes"})],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        n_neighbors=15,
        neighbor_weight=1.0,
        min_dist=0.1,
        metric="euclidean",
        neighbors=None,
        neighbor_space="rows",
        hidden_layer_sizes=(128, 64),
        activation="relu",
        encoder=None,
        decoder=None,
        image_shape=None,
        likelihood="auto",
        missing_values="auto",
        density=None,
        learning_rate="auto",
        optimizer="adam",
        batch_size="auto",
        max_epochs="auto",
        early_stopping=False,
        n_score_draws=64,
        warm_start=False,
        device="auto",
        precision="float32",
        random_state=None,
        verbose=0,
        callbacks=None,
    ):
        super().__init__(
            n_components,
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            encoder=encoder,
            decoder=decoder,
            linear_path=None,  # which would hold back the networks that codes follow their neighbors by
            image_shape=image_shape,
            likelihood=likelihood,
            missing_values=missing_values,
            density=density,
            learning_rate=learning_rate,
            optimizer=optimizer,
            batch_size=batch_size,
            max_epochs=max_epochs,
            early_stopping=early_stopping,
            n_score_draws=n_score_draws,
            warm_start=warm_start,
            device=device,
            precision=precision,
            random_state=random_state,
            verbose=verbose,
            callbacks=callbacks,
        )
        self.n_neighbors = n_neighbors
        self.neighbor_weight = neighbor_weight
        self.min_dist = min_dist
        self.metric = metric
        self.neighbors = neighbors
        self.neighbor_space = neighbor_space

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, neighbor_graph=None, sample_weight=None, validation_data=None, groups=None):
        """Fit the model.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows to learn from.
        y : None
            Ignored.
        neighbor_graph : sparse matrix of shape (n_samples, n_samples), default=None
            Distances of every row's nearest ones, as :class:`~sklearn.neighbors.KNeighborsTransformer` returns them, where they
            are known: nothing is looked for then, and the `n_neighbors` nearest are taken. It belongs to the rows of one call: a
            search or a cross-validation cannot divide it, and has each fold find its own neighbors without.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; rows of weight zero are left out.
        validation_data : {array-like, sparse matrix} or tuple (X_val, y_val), default=None
            Rows that early stopping looks at, in place of some that are held out of X; what is passed as `y` beside them is
            ignored, as `y` is. They are not
            learned from, and a pipeline's earlier steps transform them on request alone, by its `transform_input`. If they are
            as many as those of X, a tuple holds them, be it ``(X_val,)``: searches divide all else that is as long as X.
        groups : array-like of shape (n_samples,), default=None
            Groups of the rows, such as the person whom each is about. Where rows are held out by early stopping, they are whole
            groups.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter, X or the graph is not as it should be, or the loss stops being finite in the first epoch.
        """
        held_out = HeldOut.of(validation_data, groups, lambda X, y: {})
        return self._fit(X, sample_weight, single_pass=False, held_out=held_out, graph=neighbor_graph)

    def _make_table(
        self, run: FitRun, kept: Any, weight: np.ndarray | None, *, graph: Any = None
    ) -> tuple[Table, dict[str, Any]]:
        """Make the table of the rows, with the graph of those that are near each other where it is given."""
        table, noted = super()._make_table(run, kept, weight)
        if graph is None:
            return table, noted
        if self.neighbors is not None:
            raise ValueError(
                "neighbor_graph and the parameter neighbors both say which rows are near each other; give one of them."
            )
        if self.neighbor_space == "codes":
            raise ValueError(
                "neighbor_graph says which rows are near each other; neighbor_space='codes' looks for those whose codes are."
            )
        graph = check.check_graph(graph, run.rows.n_rows)
        return replace(table, graph=graph if isinstance(kept, slice) else graph[kept][:, kept]), noted

    def _module_arguments(self, n_features: int) -> dict[str, Any]:
        own = {"neighbor_weight": float(self.neighbor_weight), "min_dist": float(self.min_dist)}
        return {**super()._module_arguments(n_features), **own}

    def _auto_training(self, n_batches: int, batch_size: int) -> tuple[int, float]:
        n_epochs = int(np.clip(round(_STEPS / n_batches), _MIN_EPOCHS, _MAX_EPOCHS))
        return n_epochs, max(_LEARNING_RATE, super()._auto_training(n_batches, batch_size)[1])

    def _prepare(self, run: FitRun, rows: Rows, plan: Plan) -> dict[str, Any]:
        """Find the neighbors of the rows."""
        if not run.resumes:
            inference.measure_scale(run.module, run.table, run.device)
        if not self.neighbor_weight or len(rows) < 2:
            return {}
        n_neighbors = min(int(self.n_neighbors), len(rows) - 1)
        if n_neighbors < self.n_neighbors and not run.single_pass:
            warn_user(
                f"n_neighbors={self.n_neighbors} is more than the {len(rows) - 1} other rows that there are for each of the "
                f"{len(rows)} rows of X to learn from: all of them are its neighbors."
            )
        join_rows(rows, *self._neighbors_of(run, rows, plan, n_neighbors))
        return {}

    def _neighbors_of(self, run: FitRun, rows: Rows, plan: Plan, n_neighbors: int) -> tuple[Any, ...]:
        """Return what `join_rows` takes beside the rows."""
        graph, valid = run.table.graph, run.held_out_rows
        if graph is not None:
            if rows.index is None:
                return graph, n_neighbors
            return graph[rows.index][:, rows.index], n_neighbors, valid, graph[valid.index][:, rows.index]
        if self.neighbor_space == "codes" and not run.resumes:
            pretrain_whole(run.module, rows, plan, _PRETRAINED)

        def read(given: Rows) -> np.ndarray:
            if self.neighbor_space == "codes":
                return encode_rows(run.module, given)
            return read_rows(run.module, given, filled=self.metric != "nan_euclidean")

        new = None if valid is None else read(valid)
        distance, distance_of_new = find_neighbors(read(rows), n_neighbors, self.metric, self.neighbors, new)
        return distance, n_neighbors, valid, distance_of_new
