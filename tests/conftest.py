import os
import re
from unittest import mock

if "PYTEST_XDIST_WORKER" in os.environ:  # tests side by side: threads that wait for a busy core take seconds
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

import skvae
from skvae.estimators._base import BaseAutoEncoder
from skvae.estimators._continuous import ContinuousAutoEncoder
from skvae.runtime.threads import one_thread

torch.cuda.is_available()  # starts CUDA, which looks at the environment once


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Tests are about CPUs, into whose tensors they look, and those marked `gpu` about GPUs, whatever the machine has."""
    if item.get_closest_marker("gpu"):
        return (yield)
    gone = mock.Mock(return_value=False)
    with (
        mock.patch.object(torch.cuda, "is_available", gone),
        mock.patch.object(torch.backends.mps, "is_available", gone),
        mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": ""}),  # for processes that are started meanwhile
    ):
        return (yield)


ALL_ESTIMATORS = [value for value in vars(skvae).values() if isinstance(value, type) and issubclass(value, BaseAutoEncoder)]


def in_words(value):
    """Name of a parameter's value: as it prints, but without the address of a function, which differs between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def requires_y(cls):
    return cls().__sklearn_tags__().target_tags.required


# Those with a code of real numbers that learn from rows alone share one contract; the others have tests of their own.
ESTIMATORS = [cls for cls in ALL_ESTIMATORS if issubclass(cls, ContinuousAutoEncoder) and not requires_y(cls)]


def labels_for(cls, X):
    """What an estimator needs beside the rows."""
    return (np.arange(len(X)) % 3,) if requires_y(cls) else ()


def slow(*values):
    """Values of a parametrized test, each of which takes its part in the slow run alone."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def crossed(first, second, n_each=1):
    """Pairs of values, all of them in the slow run: by default each of the longer list meets `n_each` of the other, in turn."""
    n = min(len(first), len(second))
    return [
        pytest.param(one, other, marks=[] if (i - j) % n < n_each else [pytest.mark.slow])
        for i, one in enumerate(first)
        for j, other in enumerate(second)
    ]


def few_of(estimators, names=("AutoEncoder", "VAETransformer", "TDVAE")):
    """Estimators or cases of them, where each takes long: those of `names` stand for the others in the default run."""
    ids = [getattr(each, "__name__", str(each)) for each in estimators]
    return [
        pytest.param(each, marks=[] if name in names else [pytest.mark.slow], id=name)
        for name, each in zip(ids, estimators, strict=True)
    ]


@pytest.fixture(params=ESTIMATORS, ids=lambda cls: cls.__name__)
def estimator_class(request):
    """Estimators that share a contract, found by discovery."""
    return request.param


@pytest.fixture(params=ALL_ESTIMATORS, ids=lambda cls: cls.__name__)
def any_estimator_class(request):
    """Every public estimator, found by discovery."""
    return request.param


def refuses_batch_normalization(cls):
    """Whether a model has a penalty that is not defined where rows are normalized together."""
    return "contraction" in cls().get_params()


def networks_alone(cls):
    """Parameters by which perceptrons have no linear maps beside them, for tests of what only they do."""
    return {"linear_path": None} if "linear_path" in cls().get_params() else {}


@pytest.fixture
def quick(estimator_class):
    """Make the estimator with parameters that train in milliseconds."""

    def make(**params):
        return estimator_class(n_components=2, hidden_layer_sizes=(8,), max_epochs=3, random_state=0).set_params(**params)

    return make


@pytest.fixture
def X():
    """Rows of rank two with some noise, in different units."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(80, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(80, 5))) * [1, 10, 0.1, 5, 1] + 3


@pytest.fixture(scope="module")
def one_core():
    """Keep to one thread where matrices are small: threads that wait for a busy core take seconds.

    torch.set_num_threads would leave the linear algebra with an explicit number for the rest of the session.
    """
    with one_thread():
        yield
