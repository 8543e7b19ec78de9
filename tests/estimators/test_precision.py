"""What is computed does not depend on torch's default type."""

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import CASES
from torch import nn

from skvae import AutoEncoder, Net
from skvae.runtime.precision import SinglePrecision, single_precision

X = np.random.default_rng(0).normal(size=(40, 5)) @ np.random.default_rng(1).normal(size=(5, 5))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def results(model):
    return [model.transform(X), model.score_samples(X), model.sample(3, random_state=0)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fits_are_those_of_the_usual_default(case, request):
    expected = results(case.make().fit(X))
    request.getfixturevalue("double")
    model = case.make().fit(X)
    for one, other in zip(results(model), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(results(pickle.loads(pickle.dumps(model))), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    copy.deepcopy(model).partial_fit(X)
    assert torch.get_default_dtype() == torch.float64


class Own(nn.Module):
    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.map = nn.Linear(n_inputs, n_outputs)
        self.shift = nn.Parameter(torch.zeros(n_outputs) + torch.tensor([0.5]))

    def forward(self, x):
        return self.map(x) + self.shift + torch.arange(len(self.shift)) * torch.full((1,), 0.1)


def test_networks_of_the_users_own_are_single_too(double):
    model = AutoEncoder(2, encoder=Net(Own), max_epochs=2, random_state=0).fit(X)
    assert {value.dtype for value in model.module_.parameters()} == {torch.float32}
    assert np.isfinite(model.transform(X)).all()


def test_what_has_a_type_keeps_it(double):
    with SinglePrecision():
        assert torch.zeros(2).dtype == torch.empty(2, dtype=None).dtype == torch.tensor(1.5).dtype == torch.float32
        assert torch.zeros(2, dtype=torch.float64).dtype == torch.float64
        assert torch.tensor([1, 2]).dtype == torch.arange(3).dtype == torch.full((2,), 3).dtype == torch.int64
        assert torch.tensor(True).dtype == torch.bool
        assert torch.as_tensor(np.ones(2)).dtype == torch.float64
        assert torch.arange(0.0, 1.0, 0.5).dtype == torch.full((2,), 0.5).dtype == torch.float32


def test_it_costs_nothing_where_single_precision_is_the_default():
    assert not isinstance(single_precision(), SinglePrecision)
