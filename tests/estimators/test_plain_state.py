"""State is plain: a hundred lines could save every fitted estimator without pickle, from outside.

`Plain` writes numbers, strings, containers and arrays as they are, and an object as the name of its class and its state. It knows
no class by name, so that a new estimator, prior or likelihood that keeps to plain state needs nothing here.
"""

import json
from importlib import import_module

import numpy as np
import pytest
from cases import CASES
from sklearn.datasets import load_wine
from sklearn.mixture import GaussianMixture

from skvae import (
    CVAE,
    VQVAE,
    AnomalyDetector,
    AutoEncoder,
    AutoencoderClusterer,
    AutoencoderImputer,
    CodePrior,
    CVAEClassifier,
    SparseAE,
    VAETransformer,
)

pytestmark = [
    pytest.mark.usefixtures("one_core"),
    pytest.mark.filterwarnings("ignore:The (code|state) of .* has collapsed"),  # of short fits
    pytest.mark.filterwarnings("ignore:Only .* codes.* are in use"),
    pytest.mark.filterwarnings("ignore:The prior of VQVAE"),
]
HOMES = ("skvae.", "sklearn.", "cases")


class Plain:
    """Fitted objects as JSON and arrays, and back."""

    def __init__(self):
        self.arrays = []

    def write(self, value):
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return {"scalar": self.write(np.asarray(value))}
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                return {"objects": [self.write(item) for item in value.ravel().tolist()], "shape": list(value.shape)}
            self.arrays.append(value)
            return {"array": len(self.arrays) - 1}
        if isinstance(value, np.dtype):
            return {"dtype": value.str}
        if isinstance(value, type):
            return {"class": f"{value.__module__}:{value.__qualname__}"}
        if type(value) is dict:
            return {"dict": [[self.write(key), self.write(item)] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = {"items": [self.write(item) for item in value]}
            return kind | ({} if type(value) is list else {"of": self.write(type(value))})
        assert type(value).__module__.startswith(HOMES), type(value)
        return {"object": self.write(type(value)), "state": self.write(value.__getstate__())}

    def read(self, plain):
        if not isinstance(plain, dict):
            return plain
        if "scalar" in plain:
            return self.read(plain["scalar"])[()]
        if "objects" in plain:
            values = np.empty(len(plain["objects"]), dtype=object)
            values[:] = [self.read(item) for item in plain["objects"]]
            return values.reshape(plain["shape"])
        if "array" in plain:
            return self.arrays[plain["array"]]
        if "dtype" in plain:
            return np.dtype(plain["dtype"])
        if "class" in plain:
            module, _, name = plain["class"].partition(":")
            return getattr(import_module(module), name)
        if "dict" in plain:
            return {self.read(key): self.read(item) for key, item in plain["dict"]}
        if "items" in plain:
            items, kind = [self.read(item) for item in plain["items"]], self.read(plain["of"]) if "of" in plain else list
            return kind(*items) if hasattr(kind, "_fields") else kind(items)
        made = object.__new__(self.read(plain["object"]))
        state = self.read(plain["state"])
        if hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            vars(made).update(state or {})
        return made


def saved(model, folder):
    """Model after a way through a file of text and one of arrays."""
    plain = Plain()
    (folder / "model.json").write_text(json.dumps(plain.write(model)))
    np.savez(folder / "arrays.npz", *plain.arrays)
    fresh = Plain()
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        fresh.arrays = [arrays[f"arr_{i}"] for i in range(len(plain.arrays))]
    return fresh.read(json.loads((folder / "model.json").read_text()))


def assert_same(model, again, X, *methods):
    for name in methods:
        one, other = getattr(model, name)(X), getattr(again, name)(X)
        np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fitted_estimators_go_through_plain_files(case, X, tmp_path):
    model = case.make().fit(X)
    again = saved(model, tmp_path)
    assert_same(model, again, X, *case.per_row)
    np.testing.assert_array_equal(again.sample(4, random_state=1), model.sample(4, random_state=1))
    np.testing.assert_array_equal(again.partial_fit(X).transform(X), model.partial_fit(X).transform(X))


OTHERS = {
    "vqvae": (VQVAE(max_epochs=2, n_levels=2, code_prior=CodePrior("transformer", max_epochs=2)), ("transform", "score_samples")),
    "cvae": (CVAE(max_epochs=2, prior="conditional"), ("transform", "score_anomaly")),
    "mixture": (AutoEncoder(2, max_epochs=2, density=GaussianMixture(2)), ("transform", "score_samples")),
    "sparse": (SparseAE(8, max_epochs=2, penalty="top_k"), ("transform", "score_samples")),
    "detector": (AnomalyDetector(VAETransformer(2, max_epochs=2)), ("predict", "decision_function")),
    "clusterer": (AutoencoderClusterer(2, estimator=AutoEncoder(2, max_epochs=2), n_init=1), ("predict", "predict_proba")),
    "imputer": (AutoencoderImputer(VAETransformer(2, max_epochs=2)), ("transform",)),
    "classifier": (CVAEClassifier(CVAE(2, max_epochs=2)), ("predict_proba",)),
}


@pytest.mark.parametrize(("model", "methods"), OTHERS.values(), ids=OTHERS)
def test_what_stands_on_them_goes_through_plain_files(model, methods, tmp_path):
    X, y = load_wine(return_X_y=True)
    if "random_state" in model.get_params():
        model = model.set_params(random_state=0)
    model.fit(X, np.array(["a", "b", "c"], dtype=object)[y])
    assert_same(model, saved(model, tmp_path), X, *methods)
