"""Methods of rows take what their siblings take: whatever `fit` took, of every estimator."""

import inspect

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import crossed
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skvae import (
    CVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    ContractiveAE,
    CVAEClassifier,
    DenoisingAE,
    NeighborAE,
    SparseAE,
    VAETransformer,
)

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|rows|prior) of .*"),
    pytest.mark.filterwarnings("ignore:Only .* of the .* codes"),
    pytest.mark.filterwarnings("ignore:.*n_neighbors=15 is more than"),
    pytest.mark.filterwarnings("ignore:alpha=.*"),
]

N = 40
QUICK = {"max_epochs": 1, "hidden_layer_sizes": (4,), "random_state": 0}
MODELS = {
    "VAETransformer": VAETransformer(2, **QUICK),
    "AutoEncoder": AutoEncoder(2, **QUICK),
    "DenoisingAE": DenoisingAE(2, **QUICK),
    "NeighborAE": NeighborAE(2, **QUICK),
    "ContractiveAE": ContractiveAE(2, **QUICK),
    "SparseAE": SparseAE(4, **QUICK),
    "VQVAE": VQVAE(4, code_prior="histogram", **QUICK),
    "CVAE": CVAE(2, **QUICK),
    "CVAEClassifier": CVAEClassifier(CVAE(2, **QUICK)),
    "AnomalyDetector": AnomalyDetector(VAETransformer(2, **QUICK), alpha=0.3, random_state=0),
    "AutoencoderClusterer": AutoencoderClusterer(2, estimator=VAETransformer(2, **QUICK), n_init=1),
}
NUMBERS = ("ContractiveAE", "SparseAE", "VQVAE")  # alone
OF_ROWS = """transform reconstruct denoise encode posterior predict predict_proba predict_log_proba predict_joint_log_proba
log_likelihoods score score_samples score_anomaly explain_anomaly decision_function p_values explain effective_sample_size
jacobian_norm activation_rates bits_per_dim compression""".split()

rng = np.random.default_rng(0)
MIXED = pd.DataFrame(
    {"c": rng.choice(list("ab"), N), "r": rng.normal(size=N), "i": rng.poisson(3, N), "s": rng.normal(size=N)},
    index=[f"r{i}" for i in range(N)],
)
GAPS = MIXED.mask(rng.random(MIXED.shape) < 0.1)
FRAME = MIXED[["r", "i", "s"]].astype(float)
Y = np.arange(N) % 2
ROWS = {
    "csr": sparse.csr_matrix(FRAME.to_numpy()),
    "coo": sparse.coo_array(FRAME.to_numpy()),
    "list": FRAME.to_numpy().tolist(),
    "pandas": FRAME,
    "polars": pl.DataFrame(FRAME.to_dict("list")),
    "mixed": MIXED,
    "mixed polars": pl.DataFrame(MIXED.to_dict("list")),
    "mixed gaps": GAPS,
}
# scikit-learn's checks take an estimator with probabilities of sparse rows for a classifier.
LACKS = {("AutoencoderClusterer", "csr", "predict_proba"), ("AutoencoderClusterer", "coo", "predict_proba")}


def takes(name, method):
    return (Y,) if name in ("CVAE", "CVAEClassifier") and "y" in inspect.signature(method).parameters else ()


@pytest.mark.parametrize(("name", "kind"), crossed([*MODELS], [*ROWS], n_each=3))
def test_methods_take_what_fit_takes(name, kind):
    if name in NUMBERS and kind.startswith("mixed"):
        pytest.skip("takes numbers alone")
    X, model = ROWS[kind], clone(MODELS[name])
    model.fit(X, *takes(name, model.fit))
    called = [method for method in OF_ROWS if hasattr(model, method)]
    assert len(called) >= 4
    for method in called:
        if (name, kind, method) in LACKS:
            with pytest.raises(ValueError, match="predict_proba takes no sparse rows"):
                model.predict_proba(X)
            continue
        own = getattr(model, method)
        result = own(X, *takes(name, own))
        if not isinstance(result, (float, tuple, dict)):
            assert len(result) in (N, getattr(model, "n_components", 0)), method


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_all_containers(name):
    model, weight = clone(MODELS[name]), np.random.default_rng(1).integers(0, 3, N).astype(float)
    given = takes(name, model.fit)
    expected = clone(model).fit(FRAME, *given, sample_weight=weight)
    others = pl.Series(weight), pd.Series(weight, index=[f"z{i}" for i in range(N)]), weight.tolist()
    for other in others:
        found = clone(model).fit(FRAME, *given, sample_weight=other)
        for method in ("transform", "score_samples", "predict"):
            if hasattr(found, method):
                np.testing.assert_array_equal(getattr(found, method)(FRAME), getattr(expected, method)(FRAME))
        if hasattr(found, "score"):
            of_rows = (Y,) if given else ()
            assert found.score(FRAME, *of_rows, sample_weight=other) == expected.score(FRAME, *of_rows, sample_weight=weight)


# -- rows keep the index of those that they are made of ---------------------------------------------------------------


@pytest.mark.parametrize("rows", [MIXED, GAPS], ids=["complete", "gaps"])
def test_rows_keep_their_index(rows):
    index, few = rows.index, rows.iloc[::-1].iloc[:7]
    for cls in (VAETransformer, AutoEncoder, DenoisingAE, NeighborAE):
        model = cls(2, **QUICK).set_output(transform="pandas").fit(rows)
        codes = model.transform(few)
        assert codes.index.equals(few.index)
        assert model.reconstruct(few).index.equals(few.index)
        assert model.inverse_transform(codes).index.equals(few.index)
        assert model.inverse_transform(codes.to_numpy()).index.equals(pd.RangeIndex(7))
        assert model.sample(3).index.equals(pd.RangeIndex(3))
    model = CVAE(2, **QUICK).fit(rows, Y)
    for new in (
        model.reconstruct(rows, Y),
        model.style_transfer(rows, 1),
        model.inverse_transform(pd.DataFrame(model.transform(rows), index), Y),
    ):
        assert new.index.equals(index)
    imputer = AutoencoderImputer(VAETransformer(2, **QUICK)).fit(GAPS)
    assert imputer.transform(few).index.equals(few.index)
    assert all(table.index.equals(few.index) for table in imputer.impute(few, 2))
    twice = rows.iloc[[0, 0, 1]]
    assert model.reconstruct(twice, 0).index.tolist() == ["r0", "r0", "r1"]


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.parametrize("rows", ["mixed", "mixed polars"])
def test_codes_in_frames(container, rows):
    model = VAETransformer(2, **QUICK).set_output(transform=container).fit(ROWS[rows])
    codes = model.transform(ROWS[rows])
    assert type(codes).__module__.startswith(container)
    assert list(codes.columns) == ["vaetransformer0", "vaetransformer1"]
    assert type(model.inverse_transform(codes)) is type(ROWS[rows])


# -- what clusters say of rows ----------------------------------------------------------------------------------------


def test_scores_of_clusters_are_likelihoods():
    """Rows are scored as draws of the clusters are made, so that a search prefers clusters that are there."""
    rng = np.random.default_rng(0)
    X = np.tile([[0.0, 0.0, 0.0], [12.0, 0.0, 5.0]], (60, 1)) + rng.normal(size=(120, 3))
    model = AutoencoderClusterer(
        estimator=AutoEncoder(2, hidden_layer_sizes=(), max_epochs=60, random_state=0), n_init=1, random_state=0
    )
    search = GridSearchCV(model, {"n_clusters": [1, 2]}, cv=2, error_score="raise").fit(X)
    assert search.best_params_ == {"n_clusters": 2}
    best = search.best_estimator_
    assert best.score(X) == pytest.approx(best.score_samples(X).mean())
    assert best.score(X, sample_weight=np.arange(120) < 60) == pytest.approx(best.score_samples(X)[:60].mean())
    assert best.score(X) == pytest.approx(best.estimator_.score(X), abs=0.5)  # with one normal density, or few, of all codes
    assert best.score(best.sample(300, random_state=1)) == pytest.approx(best.score(X), abs=0.5)
    for estimator in (SparseAE(), CVAE(condition_columns=[0])):
        assert not hasattr(AutoencoderClusterer(estimator=estimator), "score")
    assert hasattr(AutoencoderClusterer(), "score_samples")
