"""Integers of numpy are taken for parameters as those of Python are, whatever their width."""

from numbers import Integral

import numpy as np
import pytest
from cases import CASES
from sklearn.base import clone
from sklearn.utils._param_validation import Interval

from skvae import (
    CVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    CodePrior,
    CVAEClassifier,
    CVAEResampler,
    VAETransformer,
)

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|state|rows) of .*"),  # of short fits
    pytest.mark.filterwarnings("ignore:Only .* of the .* codes"),
]

QUICK = {"hidden_layer_sizes": (4,), "max_epochs": 2, "random_state": 0}
OTHERS = [
    AnomalyDetector(AutoEncoder(2, **QUICK), alpha=0.3, calibration="cross", random_state=0),
    AutoencoderClusterer(estimator=AutoEncoder(2, **QUICK), random_state=0),
    AutoencoderImputer(VAETransformer(2, **QUICK)),
    CVAEClassifier(CVAE(2, **QUICK)),
    CVAEResampler(CVAE(2, **QUICK), random_state=0),
]
# Products of which leave the range of the smallest integers: steps of a run, numbers that are drawn or kept for a row.
VALUES = {"max_epochs": 13, "batch_size": 2, "n_score_draws": 100, "n_levels": 1, "n_timesteps": 5}
MODELS = [*(case.make(**case.plain) for case in CASES), *OTHERS]


def integers_of(model):
    """Integer parameters of a model, and a value for each."""
    found = {}
    for name, takes in type(model)._parameter_constraints.items():
        kinds = [] if isinstance(takes, str) else [take for take in takes if getattr(take, "type", take) is Integral]
        if kinds and name != "n_jobs":
            least = max((kind.left for kind in kinds if isinstance(kind, Interval)), default=1)
            found[name] = VALUES.get(name, max(2, least))
    return found


def results_of(model, X):
    y = (np.arange(len(X)) % 3 == 0).astype(int)
    if isinstance(model, CVAEResampler):
        return model.fit_resample(X, y)
    model.fit(X, y) if isinstance(model, CVAEClassifier) else model.fit(X)
    names = [name for name in ("transform", "score_samples", "predict") if hasattr(model, name)]
    return [getattr(model, name)(X) for name in names]


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_integers_of_numpy_give_what_those_of_python_give(model, X, kind):
    X, given = X[:40], integers_of(model)
    expected = results_of(clone(model).set_params(**given), X)
    found = results_of(clone(model).set_params(**{name: kind(value) for name, value in given.items()}), X)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_integers_of_numpy_in_specifications(X):
    def codes(**sizes):
        prior = CodePrior("transformer", max_epochs=sizes.pop("max_epochs"), **sizes)
        return VQVAE(4, code_prior=prior, **QUICK).fit(X).score_samples(X)

    sizes = {"width": 64, "n_heads": 4, "n_layers": 1, "max_epochs": 2, "batch_size": 40}
    found = codes(**{name: np.int8(value) for name, value in sizes.items()})
    np.testing.assert_array_equal(found, codes(**sizes))


@pytest.mark.parametrize("draws", [0, -5, "a", 2.5, None])
@pytest.mark.parametrize("model", [case.make() for case in CASES], ids=lambda model: type(model).__name__)
def test_draws_that_are_changed_after_fit_are_looked_at(model, X, draws):
    if "n_score_draws" not in model.get_params():
        pytest.skip("its codes are discrete: scores have no draws")
    model = clone(model).fit(X[:20]).set_params(n_score_draws=draws)
    calls = [model.score_samples, getattr(model, "effective_sample_size", model.score_samples)]
    if hasattr(model, "effective_sample_size_given"):
        calls += [lambda X: model.sample(2, given={0: 5.0}), lambda X: model.effective_sample_size_given({0: 5.0})]
    for call in calls:
        with pytest.raises(ValueError, match=rf"'n_score_draws' parameter .* must be an int .* Got {draws!r} instead"):
            call(X[:20])


@pytest.mark.parametrize("draws", [0, "a", 2.5])
def test_draws_of_an_imputer_that_are_changed_after_fit_are_looked_at(X, draws):
    X = np.where(np.arange(X.size).reshape(X.shape) % 7 == 1, np.nan, X)[:20]
    model = AutoencoderImputer(VAETransformer(2, **QUICK)).fit(X).set_params(n_draws=draws)
    with pytest.raises(ValueError, match="'n_draws' parameter of AutoencoderImputer must be an int"):
        model.transform(X)
