"""Fits and results do not depend on the form that scikit-learn is set to give what transformers return."""

import inspect

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skvae
from skvae import (
    CVAE,
    TDVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    ContractiveAE,
    CVAEClassifier,
    CVAEResampler,
    DenoisingAE,
    NeighborAE,
    SparseAE,
    VAETransformer,
)

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|rows|prior) of .*"),
    pytest.mark.filterwarnings("ignore:Only .* of the .* codes"),
    pytest.mark.filterwarnings("ignore:alpha=.*"),
]

QUICK = {"max_epochs": 1, "random_state": 0}
MODELS = [
    AutoEncoder(2, **QUICK),
    VAETransformer(2, **QUICK),
    DenoisingAE(2, **QUICK),
    SparseAE(4, **QUICK),
    ContractiveAE(2, **QUICK),
    NeighborAE(2, n_neighbors=5, **QUICK),
    CVAE(2, **QUICK),
    VQVAE(4, code_prior="histogram", **QUICK),
    TDVAE(n_components=4, n_latents=2, n_pairs=4, **QUICK),
    CVAEClassifier(CVAE(2, **QUICK)),
    CVAEResampler(CVAE(2, **QUICK), random_state=0),
    AnomalyDetector(AutoEncoder(2, **QUICK), alpha=0.3, random_state=0),
    AnomalyDetector(make_pipeline(StandardScaler(), AutoEncoder(2, **QUICK)), alpha=0.3, random_state=0),
    AutoencoderClusterer(2, estimator=NeighborAE(2, n_neighbors=5, **QUICK), n_init=1, random_state=0),
    AutoencoderClusterer(2, estimator=make_pipeline(StandardScaler(), AutoEncoder(2, **QUICK)), n_init=1, random_state=0),
    AutoencoderImputer(VAETransformer(2, **QUICK), add_indicator=True),
]
METHODS = """transform reconstruct predict predict_proba score_samples score_anomaly explain_anomaly decision_function p_values
explain impute latent_grid fit_resample""".split()

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(40, 4))
Y = (np.arange(40) % 3 == 0).astype(int)


def results_of(model):
    """What a model that is fitted anew gives by each of its methods."""
    rows = np.where(np.arange(160).reshape(40, 4) % 7 == 1, np.nan, X) if isinstance(model, AutoencoderImputer) else X
    with_labels = isinstance(model, (CVAE, CVAEClassifier, CVAEResampler))
    model, found = clone(model), {}
    if not isinstance(model, CVAEResampler):
        model.fit(rows, *((Y,) if with_labels else ()))
    for name in METHODS:
        method = getattr(model, name, None)
        if method is None or (name == "latent_grid" and with_labels):
            continue
        takes = list(inspect.signature(method).parameters)
        given = {"random_state": 0} if "random_state" in takes else {}
        labels = (Y,) if with_labels and "y" in takes else ()
        found[name] = method(**given) if name == "latent_grid" else method(rows, *labels, **given)
    return found


def parts_of(result):
    return result if isinstance(result, (tuple, list)) else [result]


def test_no_estimator_is_left_out():
    public = {value for value in vars(skvae).values() if isinstance(value, type) and issubclass(value, BaseEstimator)}
    assert {type(model) for model in MODELS} == public


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_results_do_not_depend_on_the_form_of_results(model, container):
    expected = results_of(model)
    with config_context(transform_output=container):
        found = results_of(model)
    assert found.keys() == expected.keys()
    assert found
    if "transform" in found:
        assert type(found["transform"]).__module__.startswith(container)
    for name, value in found.items():
        pairs = zip(parts_of(value), parts_of(expected[name]), strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=name)
