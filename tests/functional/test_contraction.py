import pytest
import torch
from torch import nn

from skvae import functional as fn

N_ROWS, N_FEATURES, N_COMPONENTS = 6, 5, 3


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(*layers, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(*(layer() for layer in layers)).double()


def deep(activation=nn.Tanh, **params):
    return network(
        lambda: nn.Linear(N_FEATURES, 7),
        lambda: nn.LayerNorm(7),
        lambda: activation(**params),
        lambda: nn.Linear(7, N_COMPONENTS),
        nn.Sigmoid,
    )


def single(activation):
    return network(lambda: nn.Linear(N_FEATURES, N_COMPONENTS), activation)


SLOPES = {
    nn.Sigmoid: lambda code: code * (1.0 - code),
    nn.Tanh: lambda code: 1.0 - code.square(),
    nn.Identity: torch.ones_like,
}


def orthonormal_probes(seed=3):
    """Probes that make the estimate exact: an orthonormal basis of its own for every row, times the root of its size."""
    return torch.linalg.qr(randn(N_ROWS, N_COMPONENTS, N_COMPONENTS, seed=seed))[0] * N_COMPONENTS**0.5


def torch_jacobian(encode, x):
    """Jacobian by torch's own function, row by row."""
    rows = [torch.autograd.functional.jacobian(lambda row: encode(row[None])[0], row, create_graph=True) for row in x]
    return torch.stack(rows)


def squared(jacobian):
    return jacobian.square().sum((-2, -1))


@pytest.mark.parametrize("encode", [deep(), deep(nn.ReLU, inplace=True), single(nn.Tanh)], ids=["tanh", "relu", "single"])
def test_against_torch(encode):
    x, step = randn(N_ROWS, N_FEATURES), 0.3 * randn(N_ROWS, N_FEATURES, seed=1)
    here, there = torch_jacobian(encode, x), torch_jacobian(encode, x + step)
    torch.testing.assert_close(fn.jacobian(encode, x), here)
    torch.testing.assert_close(fn.jacobian_norm(encode, x), (squared(here), encode(x)))
    norm, change, code = fn.jacobian_change(encode, x, step)
    torch.testing.assert_close(norm, squared(here))
    torch.testing.assert_close(change, squared(there - here))
    torch.testing.assert_close(code, encode(x))


@pytest.mark.parametrize("activation", SLOPES)
def test_three_ways_agree(activation):
    encode = single(activation)
    x, step = randn(N_ROWS, N_FEATURES), 0.3 * randn(N_ROWS, N_FEATURES, seed=1)
    slope, moved = SLOPES[activation](encode(x)), SLOPES[activation](encode(x + step))
    exact, changes = fn.jacobian_norm(encode, x), fn.jacobian_change(encode, x, step)
    torch.testing.assert_close(fn.layer_jacobian_norm(slope, encode[0].weight), exact[0])
    analytic = fn.layer_jacobian_change(slope, moved, encode[0].weight)
    torch.testing.assert_close(analytic, changes[:2])
    torch.testing.assert_close(changes[0], exact[0])
    probes = orthonormal_probes()
    torch.testing.assert_close(fn.hutchinson_norm(encode, x, probes), exact)
    torch.testing.assert_close(fn.hutchinson_change(encode, x, step, probes), changes)


def test_hutchinson_is_unbiased():
    encode = deep()
    x, step = randn(N_ROWS, N_FEATURES), 0.3 * randn(N_ROWS, N_FEATURES, seed=1)
    probes = randn(N_ROWS, 20_000, N_COMPONENTS, seed=2)
    with torch.no_grad():
        estimates = (fn.hutchinson_norm(encode, x, probes), *fn.hutchinson_change(encode, x, step, probes))
        for estimate, exact in zip(estimates, (fn.jacobian_norm(encode, x), *fn.jacobian_change(encode, x, step)), strict=True):
            # The relative standard error is at most that of a square of one normal number.
            torch.testing.assert_close(estimate, exact, rtol=5.0 * (2.0 / 20_000) ** 0.5, atol=0.0)


def test_probes_belong_to_rows():
    encode, x, probes = deep(), randn(N_ROWS, N_FEATURES), randn(N_ROWS, 2, N_COMPONENTS, seed=2)
    expected = torch.einsum("nmk,nkd->nmd", probes, fn.jacobian(encode, x)).square().sum((1, 2)) / 2
    torch.testing.assert_close(fn.hutchinson_norm(encode, x, probes)[0], expected)


WAYS = {
    "exact": lambda encode, x, step, probes: fn.jacobian_norm(encode, x)[0],
    "hutchinson": lambda encode, x, step, probes: fn.hutchinson_norm(encode, x, probes)[0],
    "exact change": lambda encode, x, step, probes: fn.jacobian_change(encode, x, step)[1],
    "hutchinson change": lambda encode, x, step, probes: fn.hutchinson_change(encode, x, step, probes)[1],
}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_in_the_parameters(way):
    encode = deep()
    x, step = randn(N_ROWS, N_FEATURES), 0.3 * randn(N_ROWS, N_FEATURES, seed=1)
    names, values = zip(*encode.named_parameters(), strict=True)

    def norm(*parameters):
        def call(rows):
            return torch.func.functional_call(encode, dict(zip(names, parameters, strict=True)), (rows,))

        return WAYS[way](call, x, step, orthonormal_probes()).sum()

    assert torch.autograd.gradcheck(norm, values)
    here = torch_jacobian(encode, x)
    reference = squared(here if "change" not in way else torch_jacobian(encode, x + step) - here).sum()
    expected = torch.autograd.grad(reference, values, allow_unused=True, materialize_grads=True)
    for a, b in zip(torch.autograd.grad(norm(*values), values, materialize_grads=True), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_the_formula():
    slope, weight = randn(N_ROWS, N_COMPONENTS).requires_grad_(), randn(N_COMPONENTS, N_FEATURES).requires_grad_()
    assert torch.autograd.gradcheck(fn.layer_jacobian_norm, (slope, weight))


@pytest.mark.parametrize("way", WAYS)
def test_without_gradients(way):
    encode = deep()
    args = (randn(N_ROWS, N_FEATURES), 0.3 * randn(N_ROWS, N_FEATURES, seed=1), randn(N_ROWS, 2, N_COMPONENTS, seed=2))
    expected = WAYS[way](encode, *args)
    with torch.no_grad():
        value = WAYS[way](encode, *args)
    assert expected.requires_grad
    assert not value.requires_grad
    assert torch.equal(value, expected.detach())


@pytest.mark.parametrize("way", WAYS)
def test_rows_do_not_see_each_other(way):
    encode = deep()
    args = [randn(N_ROWS, N_FEATURES), 0.3 * randn(N_ROWS, N_FEATURES, seed=1), randn(N_ROWS, 2, N_COMPONENTS, seed=2)]
    torch.testing.assert_close(WAYS[way](encode, *(arg[2:4] for arg in args)), WAYS[way](encode, *args)[2:4])


def test_the_change_meets_the_same_dropout():
    encode = network(
        lambda: nn.Linear(N_FEATURES, 50), nn.Tanh, lambda: nn.Dropout(0.5), lambda: nn.Linear(50, N_COMPONENTS)
    ).train()
    x = randn(N_ROWS, N_FEATURES)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm, change, _ = fn.jacobian_change(encode, x, torch.zeros_like(x))
        again, *_ = fn.jacobian_change(encode, x, torch.zeros_like(x))
        assert (norm != again).all()  # it is drawn anew every time
        assert change.abs().max() == 0.0
        norms, _ = fn.jacobian_norm(encode, x[:1].expand(200, -1))
        assert norms.unique().numel() == 200  # and for every row
