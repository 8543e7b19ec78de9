"""One case per estimator: how the tests of what all estimators promise make it, call it and measure it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import networks_alone
from scipy import sparse

from skvae import (
    CVAE,
    MLP,
    TDVAE,
    VQVAE,
    AutoEncoder,
    ContractiveAE,
    DenoisingAE,
    LinearPath,
    NeighborAE,
    SparseAE,
    VAETransformer,
)


def labels_of(X: Any) -> np.ndarray:
    """Three labels that are read off the rows: whatever their order, unit and container, a row keeps its label."""
    X = X.toarray() if sparse.issparse(X) else X
    try:
        X = np.asarray(X, dtype=np.float64)
        pivot = X[:, 1 % X.shape[1]]
        return (pivot > X[:, 3 % X.shape[1]]).astype(int) + (pivot > X[:, -1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):  # of rows that are to be refused
        has_rows = hasattr(X, "__len__") and not isinstance(X, type) and getattr(X, "ndim", 1) != 0
        return np.zeros(len(X) if has_rows else 1, dtype=int)


def layers_of(network: Any) -> list[Any]:
    """Layers of a perceptron, whether or not it has a linear map beside it."""
    return list(getattr(network, "layers", network))


class LabeledCVAE(CVAE):
    """CVAE conditioned on `labels_of` the rows, so that it is called as the others are.

    A class of its own, and no function, so that it can be cloned, pickled and searched.
    """

    def _labels(self, X):
        labels = labels_of(X)
        known = getattr(self, "classes_", labels)
        return np.where(np.isin(labels, known), labels, known[0]) if len(labels) else labels

    def fit(self, X, y=None, **params):
        return super().fit(X, labels_of(X), **params)

    def partial_fit(self, X, y=None, **params):
        classes = None if hasattr(self, "module_") else [0, 1, 2]
        return super().partial_fit(X, labels_of(X), classes, **params)

    def inverse_transform(self, Z, y=0, **params):
        return super().inverse_transform(Z, y, **params)

    def reconstruct(self, X, y=None, **params):
        return super().reconstruct(X, self._labels(X), **params)

    def posterior(self, X, y=None, **params):
        return super().posterior(X, self._labels(X), **params)

    def score_samples(self, X, y=None, **params):
        return super().score_samples(X, self._labels(X), **params)

    def score(self, X, y=None, sample_weight=None):
        return super().score(X, self._labels(X), sample_weight)

    def effective_sample_size(self, X, y=None, **params):
        return super().effective_sample_size(X, self._labels(X), **params)

    def score_anomaly(self, X, y=None, **params):
        return super().score_anomaly(X, self._labels(X), **params)

    def explain_anomaly(self, X, y=None, **params):
        return super().explain_anomaly(X, self._labels(X), **params)


@dataclass
class Case:
    """What a test of all estimators must know of one of them.

    Attributes
    ----------
    cls : type
        The estimator.
    code : dict
        Parameters that settle the size of the code.
    width : int
        Columns of the code under these.
    decoded : int
        Columns that a code is decoded to, where rows have five.
    per_row : tuple of str
        Methods that give something for every row.
    quick : dict
        Further parameters that make it train in milliseconds.
    lacks : dict
        What the estimator does not have or promise, by the name that tests ask for, and why.
    """

    cls: type
    code: dict[str, Any] = field(default_factory=lambda: {"n_components": 2})
    width: int = 2
    decoded: int = 5
    per_row: tuple[str, ...] = ("transform", "reconstruct", "score_samples", "score_anomaly", "explain_anomaly")
    quick: dict[str, Any] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)

    def __str__(self):
        return self.cls.__name__.removeprefix("Labeled")

    @property
    def scores(self) -> tuple[str, ...]:
        """Methods that score rows."""
        weighted = () if "importance weights" in self.lacks else ("effective_sample_size",)
        return ("score_samples", "score_anomaly", "explain_anomaly", *weighted)

    @property
    def plain(self) -> dict[str, Any]:
        """Parameters by which perceptrons have no linear maps beside them, for tests of what only they do."""
        return networks_alone(self.cls)

    def make(self, **params):
        """Make the estimator with parameters that train in milliseconds."""
        given = {**self.code, "hidden_layer_sizes": (8,), "max_epochs": 3, "random_state": 0, **self.quick, **params}
        if any(not isinstance(params.get(name), (MLP, str, type(None))) for name in ("encoder", "decoder")):
            given.update(dict.fromkeys(self.plain, params.get("linear_path", "auto")))  # which has none beside other networks
        model = self.cls(**{name: value for name, value in given.items() if "__" not in name})
        return model.set_params(**{name: value for name, value in given.items() if "__" in name})

    def needs(self, *names: str) -> None:
        """Skip a test that asks for what the estimator does not have, with the reason."""
        for name in names:
            if name in self.lacks:
                pytest.skip(f"{self} lacks {name}: {self.lacks[name]}")
            assert name in PROMISES or name.partition("__")[0] in self.cls().get_params(), (
                f"{self} has no {name}, and says no why"
            )


# What tests may ask for beside parameters.
PROMISES = {
    "sparse rows",
    "columns of their own",
    "importance weights",
    "deviance by reconstruction",
    "exact weights",
    "automatic code",
    "two dimensions",
    "batch normalization",
}

_DISCRETE = {
    "n_components": "its code is sized by n_codes and embedding_dim",
    "automatic code": "its code is sized by n_codes and embedding_dim",
    "exact weights": "k-means begins with codebooks that differ between weighted and repeated rows",
    "importance weights": "its codes are discrete: the score is a sum, without draws",
}
_SEQUENCES = {
    "sparse rows": "a sequence has no sparse form",
    "automatic code": "a belief has 64 components, whatever the frames",
    "two dimensions": "an array of three is one of sequences",
    "encoder": "frames are read by a recurrent network",
    "decoder": "frames are read by a recurrent network",
    "columns of their own": "the columns of a row are the steps of one variable, which share a unit",
    "importance weights": "the effective number of draws differs by step, and is not offered",
    "deviance by reconstruction": "a frame is compared with what those before it foretell, not with its reconstruction",
}
_CONTRACTION = {"batch normalization": "a row's Jacobian is not defined where rows are normalized together"}

_NEIGHBORS = {"exact weights": "a repeated row draws neighbors of its own"}

_DECAY = {"linear_path": LinearPath(1.0)}  # which spares its choice

CASES = [
    Case(AutoEncoder, quick=_DECAY),
    Case(DenoisingAE, quick=_DECAY),
    Case(SparseAE),
    Case(ContractiveAE, lacks=_CONTRACTION),
    Case(NeighborAE, quick={"n_neighbors": 3}, lacks=_NEIGHBORS),
    Case(VAETransformer, quick=_DECAY),
    Case(LabeledCVAE, quick=_DECAY),
    Case(
        VQVAE,
        code={"n_embeddings": 8, "embedding_dim": 3, "n_codes": 2},
        width=6,
        per_row=("transform", "encode", "reconstruct", "score_samples", "score_anomaly", "explain_anomaly"),
        quick={"code_prior": "histogram"},
        lacks=_DISCRETE,
    ),
    Case(
        TDVAE,
        code={"n_components": 6, "n_latents": 2},
        width=6,
        decoded=1,  # a belief is decoded to the frame that it has seen last
        quick={"n_pairs": 4},
        lacks=_SEQUENCES,
    ),
]
