import pytest
import torch
from torch import nn

from skvae import functional as fn
from skvae.modules import LIKELIHOODS, MLP, AutoEncoderModule, Batch, ContractiveModule, Conv, Net

N_ROWS, N_FEATURES, N_COMPONENTS = 12, 5, 2


pytestmark = pytest.mark.usefixtures("one_core")


def build(cls=ContractiveModule, n_features=N_FEATURES, n_components=N_COMPONENTS, **params):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(n_features, n_components, **{"hidden_layer_sizes": (7,), "activation": "tanh", **params}).double()


def single(code_activation="sigmoid", **params):
    return build(hidden_layer_sizes=(), code_activation=code_activation, **params)


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_for(module, n_rows=N_ROWS):
    x = randn(n_rows, module.n_features)
    x = x if module.likelihood.has_noise else torch.sigmoid(x)
    noise = {name: randn(n_rows, *shape, seed=2) for name, shape in module.noise_shapes.items()}
    return Batch(x, x, torch.ones(n_rows, dtype=torch.float64), noise=noise)


def jacobian(module, x):
    return fn.jacobian(lambda moved: module.encode(Batch.of(moved)), x)


def squared(jacobian):
    return jacobian.square().sum((-2, -1))


def terms_of(module, batch):
    return module.loss(batch, {}).terms


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_terms(likelihood):
    module = build(likelihood=likelihood, contraction=0.3, hessian=0.7, hessian_noise=0.2)
    plain = build(AutoEncoderModule, likelihood=likelihood)
    batch = batch_for(module)
    terms = terms_of(module, batch)
    assert list(terms) == ["reconstruction", "contraction", "hessian"]
    torch.testing.assert_close(terms["reconstruction"], terms_of(plain, batch)["reconstruction"])
    read = module.likelihood.read(batch.x)
    here = fn.jacobian(module.encoder, read)
    torch.testing.assert_close(terms["contraction"], 0.3 * squared(here))
    there = fn.jacobian(module.encoder, read + 0.2 * batch.noise["perturbation"])
    torch.testing.assert_close(terms["hessian"], 0.7 * squared(there - here))
    torch.testing.assert_close(
        terms_of(build(likelihood=likelihood, contraction=0.3), batch)["contraction"], terms["contraction"]
    )


def test_a_weight_of_zero_costs_nothing():
    module = build(contraction=0.0, jacobian="hutchinson")
    assert module.noise_shapes == {}
    assert list(terms_of(module, batch_for(module))) == ["reconstruction"]
    module = build(contraction=0.0, hessian=1.0)
    assert list(terms_of(module, batch_for(module))) == ["reconstruction", "hessian"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {}),
        ({"jacobian": "hutchinson", "n_probes": 3}, {"probes": (3, N_COMPONENTS)}),
        ({"hessian": 0.1}, {"perturbation": (N_FEATURES,)}),
        ({"hessian": 0.1, "jacobian": "hutchinson"}, {"probes": (1, N_COMPONENTS), "perturbation": (N_FEATURES,)}),
    ],
)
def test_noise_that_it_asks_for(params, expected):
    assert build(**params).noise_shapes == expected


# -- three ways to one norm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observed", [None, randn(N_ROWS, N_FEATURES, seed=3) > -0.5], ids=["complete", "missing"])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("code_activation", ["sigmoid", "tanh", "identity"])
def test_ways_agree_on_one_layer(code_activation, constant, observed):
    analytic, exact = (single(code_activation, jacobian=way, hessian=0.5) for way in ("analytic", "exact"))
    estimated = single(code_activation, jacobian="hutchinson", hessian=0.5, n_probes=N_COMPONENTS)
    batch = batch_for(estimated)
    basis = torch.linalg.qr(batch.noise["probes"])[0] * N_COMPONENTS**0.5
    batch = batch._replace(noise={**batch.noise, "probes": basis}, observed=observed)
    expected = None
    for module in (analytic, exact, estimated):
        if constant:
            X = randn(20, N_FEATURES, seed=7)
            X[:, 3] = 1.0
            module.likelihood.fit(X.numpy())
        terms = terms_of(module, batch)
        expected = terms if expected is None else expected
        assert list(terms) == list(expected)
        for name in terms:
            torch.testing.assert_close(terms[name], expected[name], rtol=1e-4, atol=1e-12)
        weights = list(module.parameters())
        gradient = torch.autograd.grad(terms["contraction"].sum() + terms["hessian"].sum(), weights, materialize_grads=True)
        reference = gradient if module is analytic else reference  # noqa: F821
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-12)
        torch.testing.assert_close(module.jacobian_norm(batch).square(), terms["contraction"] / module.contraction)
        seen = 1.0 if observed is None else observed.unsqueeze(1)
        torch.testing.assert_close(module.jacobian_norm(batch).square(), squared(jacobian(module, batch.x) * seen))
    assert (exact.likelihood.varying.sum() == N_FEATURES - 1) == constant


@pytest.mark.parametrize("hessian", [0.0, 0.5])
def test_many_probes_come_close_on_a_deep_network(hessian):
    exact, estimated = build(hessian=hessian), build(hessian=hessian, jacobian="hutchinson", n_probes=4000)
    batch = batch_for(estimated, 6)
    expected, terms = terms_of(exact, batch), terms_of(estimated, batch)
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name], rtol=0.1, atol=0.0)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"hidden_layer_sizes": (), "code_activation": "sigmoid"}, "analytic"),
        ({"hidden_layer_sizes": (), "code_activation": "tanh", "decoder": "tied"}, "analytic"),
        ({"hidden_layer_sizes": ()}, "analytic"),
        ({"encoder": Net(nn.Linear)}, "analytic"),
        ({"hidden_layer_sizes": (), "code_activation": "relu"}, "exact"),
        ({}, "exact"),
        ({"n_features": 40, "n_components": 32}, "exact"),
        ({"n_features": 40, "n_components": 33}, "hutchinson"),
        ({"n_features": 36, "image_shape": (1, 6, 6), "hidden_layer_sizes": ()}, "exact"),
    ],
    ids=str,
)
def test_auto(params, expected):
    module = build(**params)
    assert module.jacobian == expected
    batch = batch_for(module)
    torch.testing.assert_close(module.jacobian_norm(batch).square(), squared(jacobian(module, batch.x)))


class Elsewhere(nn.Sequential):
    """Looks like one layer and is none."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__(nn.Linear(n_inputs, n_outputs))

    def forward(self, x):
        return super().forward(x).sin()


class Normalized(nn.Sequential):
    def __init__(self, n_inputs, n_outputs):
        super().__init__(nn.BatchNorm1d(n_inputs), nn.Linear(n_inputs, n_outputs))


@pytest.mark.parametrize(
    "params", [{}, {"hidden_layer_sizes": (), "code_activation": "relu"}, {"encoder": Net(Elsewhere)}], ids=str
)
def test_no_formula_for_other_encoders(params):
    with pytest.raises(ValueError, match="jacobian='analytic' is a formula for encoders of one layer"):
        build(**params, jacobian="analytic")


@pytest.mark.parametrize(
    "params",
    [
        {"encoder": MLP(normalization="batch")},
        {"encoder": Net(Normalized)},
        {"n_features": 16, "image_shape": (1, 4, 4), "encoder": Conv((3,), normalization="batch")},
    ],
    ids=str,
)
def test_batch_normalization_is_refused(params):
    with pytest.raises(ValueError, match="Jacobian of a row is not defined; use normalization='layer'"):
        build(**params)


# -- the penalty for curvature ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("jacobian", ["auto", "exact", "hutchinson"])
def test_a_linear_encoder_has_no_curvature(jacobian):
    linear, curved = (single(name, hessian=1.0, jacobian=jacobian) for name in ("identity", "tanh"))
    terms = terms_of(linear, batch_for(linear))
    assert terms["hessian"].abs().max() < 1e-20
    assert terms["hessian"].requires_grad
    assert (terms_of(curved, batch_for(curved))["hessian"] > 1e-8).all()


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"decoder": "tied"}, {"encoder": MLP(normalization="layer")}], ids=str)
@pytest.mark.parametrize("jacobian", ["exact", "hutchinson"])
def test_gradients_against_finite_differences(jacobian, params):
    module = build(jacobian=jacobian, hessian=0.5, n_features=3, hidden_layer_sizes=(4,), **params)
    batch = batch_for(module, 3)
    names, values = zip(*module.named_parameters(), strict=True)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self):
            return sum(term.sum() for term in terms_of(self.module, batch).values())

    if params.get("decoder"):  # swapped weights would reach the decoder, too, but only for the encoder's own module
        loss = Loss()
        gradient = torch.autograd.grad(loss(), values)
        for value, slope in zip(values, gradient, strict=True):
            direction = randn(*value.shape, seed=4)
            with torch.no_grad():
                value += 1e-5 * direction
                upper = loss()
                value -= 2e-5 * direction
                lower = loss()
                value += 1e-5 * direction
            torch.testing.assert_close((slope * direction).sum(), (upper - lower) / 2e-5, rtol=1e-6, atol=1e-8)
        return

    def loss(*parameters):
        state = {f"module.{name}": value for name, value in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Loss(), state, ())

    assert torch.autograd.gradcheck(loss, values)


@pytest.mark.parametrize(
    "params",
    [{}, {"encoder": MLP(dropout=0.5)}, {"n_features": 16, "image_shape": (1, 4, 4), "encoder": Conv(dropout=0.5)}],
    ids=str,
)
@pytest.mark.parametrize("jacobian", ["exact", "hutchinson"])
def test_dropout_and_no_grad(jacobian, params):
    module = build(jacobian=jacobian, hessian=0.5, **params)
    batch = batch_for(module)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        terms = terms_of(module.train(), batch)
        again = terms_of(module, batch)
    assert torch.equal(terms["contraction"], again["contraction"]) == ("encoder" not in params)
    sum(term.sum() for term in terms.values()).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in module.parameters())
    module.eval()
    with torch.no_grad():
        quiet = terms_of(module, batch)
    for name, term in terms_of(module, batch).items():
        assert not quiet[name].requires_grad
        assert torch.equal(quiet[name], term.detach())


def test_rows_that_do_not_move_have_no_curvature_under_dropout():
    module = build(hidden_layer_sizes=(50,), encoder=MLP(dropout=0.5), hessian=1.0, hessian_noise=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        terms = terms_of(module.train(), batch_for(module))
    assert terms["hessian"].abs().max() == 0.0
    assert (terms["contraction"] > 0.0).all()
