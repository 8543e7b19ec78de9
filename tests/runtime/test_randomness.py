import copy
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skvae.modules import ACTIVATIONS, MLP, NORMALIZATIONS, AutoEncoderModule, Net, VAEModule, mlp
from skvae.runtime.randomness import PrivateRandomness, draws_random_numbers, make_generator, private_randomness, seed_streams


class Doubler(nn.Module):
    """A module that skvae does not know."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.linear = nn.Linear(n_inputs, n_outputs)

    def forward(self, x):
        return 2 * self.linear(x)


def tensors_of(result):
    """Tensors of a result, whatever it is."""
    if isinstance(result, torch.Tensor):
        return [result.detach().clone()]
    if isinstance(result, nn.Module):
        return [value.detach().clone() for value in result.state_dict().values()]
    return [tensor for part in result for tensor in tensors_of(part)]


def same(one, other):
    return len(one) == len(other) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def assert_private(draw):
    """`draw` depends on the private seed alone, and leaves torch's global generator as it was."""
    results = []
    for seed in (0, 0, 1):
        torch.rand(1)  # the global generator is somewhere else every time
        state = torch.get_rng_state()
        with PrivateRandomness(seed):
            results.append(tensors_of(draw()))
        assert torch.equal(torch.get_rng_state(), state)
    first, again, other = results
    assert same(first, again)
    assert not same(first, other)
    return first


INITIALISED = {
    "linear": lambda: nn.Linear(4, 5),
    "conv": lambda: nn.Conv2d(3, 4, 3),
    "transposed conv": lambda: nn.ConvTranspose1d(3, 4, 3),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2),
    "gru": lambda: nn.GRU(3, 4),
    "embedding": lambda: nn.Embedding(5, 3),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(4, 4)),
    "kaiming": lambda: nn.init.kaiming_normal_(torch.empty(4, 4)),
    "sparse": lambda: nn.init.sparse_(torch.empty(6, 6), 0.5),
}


@pytest.mark.parametrize("name", INITIALISED)
def test_initialization_is_private(name):
    assert_private(INITIALISED[name])


def test_initialization_is_torchs_own():
    with PrivateRandomness(0):
        weight = nn.Linear(1000, 50).weight.detach()
    assert weight.abs().max() == pytest.approx(1000**-0.5, rel=1e-3)
    assert weight.std() == pytest.approx((3 * 1000) ** -0.5, rel=0.02)


DRAWN = {
    "rand": lambda: torch.rand(9),
    "rand double": lambda: torch.rand(9, dtype=torch.float64),
    "rand out": lambda: torch.rand(9, out=torch.empty(9)),
    "randn": lambda: torch.randn(3, 3),
    "randint": lambda: torch.randint(1000, (9,)),
    "randint from": lambda: torch.randint(500, 1000, (9,)),
    "randperm": lambda: torch.randperm(20),
    "rand_like": lambda: torch.rand_like(torch.ones(9)),
    "rand_like double": lambda: torch.rand_like(torch.ones(9), dtype=torch.float64),
    "randn_like": lambda: torch.randn_like(torch.ones(3, 3)),
    "randint_like": lambda: torch.randint_like(torch.ones(9), 1000),
    "randint_like from": lambda: torch.randint_like(torch.ones(9), 500, 1000),
    "randint_like long": lambda: torch.randint_like(torch.ones(9), 500, 1000, dtype=torch.long),
    "normal size": lambda: torch.normal(1.0, 2.0, (9,)),
    "normal mean": lambda: torch.normal(torch.ones(9), 2.0),
    "normal std": lambda: torch.normal(1.0, torch.ones(9)),
    "normal both": lambda: torch.normal(torch.ones(9), torch.ones(9)),
    "bernoulli": lambda: torch.bernoulli(torch.full((40,), 0.5)),
    "bernoulli p": lambda: torch.bernoulli(torch.empty(40), 0.5),
    "multinomial": lambda: torch.multinomial(torch.ones(40), 5),
    "poisson": lambda: torch.poisson(torch.full((20,), 5.0)),
    "binomial": lambda: torch.binomial(torch.full((20,), 9.0), torch.full((20,), 0.5)),
    "gamma": lambda: torch.distributions.Gamma(torch.ones(5), torch.ones(5)).sample(),
    "dirichlet": lambda: torch.distributions.Dirichlet(torch.ones(5)).sample(),
    "uniform_": lambda: torch.empty(9).uniform_(1, 2),
    "normal_": lambda: torch.empty(9).normal_(1, 2),
    "random_": lambda: torch.empty(9).random_(),
    "random_ from": lambda: torch.empty(9).random_(5, 500),
    "bernoulli_": lambda: torch.empty(40).bernoulli_(0.5),
    "bernoulli_ tensor": lambda: torch.empty(40).bernoulli_(torch.full((40,), 0.5)),
    "exponential_": lambda: torch.empty(9).exponential_(),
    "cauchy_": lambda: torch.empty(9).cauchy_(),
    "log_normal_": lambda: torch.empty(9).log_normal_(),
    "geometric_": lambda: torch.empty(20).geometric_(0.1),
    "gumbel": lambda: F.gumbel_softmax(torch.ones(9)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_are_private_and_look_like_torchs(name):
    (drawn,) = assert_private(DRAWN[name])
    torchs = DRAWN[name]()
    assert drawn.dtype == torchs.dtype
    assert drawn.shape == torchs.shape


@pytest.mark.parametrize("name", DRAWN)
def test_draws_are_those_of_a_generator_of_that_seed(name):
    """The mode only hands over a generator: draws are distributed as torch's own are."""
    with PrivateRandomness(7):
        private = DRAWN[name]()
    state = torch.get_rng_state()
    try:
        torch.manual_seed(7)
        assert torch.equal(private, DRAWN[name]())
    finally:
        torch.set_rng_state(state)


def test_bounds_of_integers_are_kept():
    with PrivateRandomness(0):
        x = torch.zeros(2000)
        for drawn, low, high in (
            (torch.randint(3, (2000,)), 0, 2),
            (torch.randint(-2, 3, (2000,)), -2, 2),
            (torch.randint_like(x, 3), 0, 2),
            (torch.randint_like(x, -2, 3), -2, 2),
        ):
            assert (drawn.min(), drawn.max()) == (low, high)


def test_a_generator_of_the_users_own_is_left_to_them():
    for draw in (
        lambda g: torch.rand(5, generator=g),
        lambda g: torch.poisson(torch.full((5,), 9.0), generator=g),
        lambda g: torch.randperm(9, generator=g),
        lambda g: torch.multinomial(torch.ones(9), 3, generator=g),
    ):
        expected = draw(make_generator(5))
        with PrivateRandomness(0):
            assert torch.equal(draw(make_generator(5)), expected)


def run_in_training(layer, x):
    """Output and gradient of a layer in training."""
    x = x.clone().requires_grad_()
    output = layer.train()(x)
    output = output[0] if isinstance(output, tuple) else output
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    return output, gradient


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x)[0]


class FunctionalRReLU(nn.Module):
    def forward(self, x):
        return F.rrelu(x, training=self.training)


LAYERS = {
    "dropout": (lambda: nn.Dropout(0.5), (4, 8)),
    "dropout2d": (lambda: nn.Dropout2d(0.5), (4, 8, 3, 3)),
    "alpha dropout": (lambda: nn.AlphaDropout(0.5), (4, 8)),
    "feature alpha dropout": (lambda: nn.FeatureAlphaDropout(0.5), (4, 8, 3, 3)),
    "rrelu": (FunctionalRReLU, (4, 8)),
    "inplace dropout": (lambda: nn.Sequential(nn.Identity(), nn.Linear(8, 8), nn.Dropout(0.5, inplace=True)), (4, 8)),
    "lstm": (lambda: nn.LSTM(8, 8, num_layers=2, dropout=0.5), (5, 3, 8)),
    "gru": (lambda: nn.GRU(8, 8, num_layers=2, dropout=0.5), (5, 3, 8)),
    "attention": (lambda: Attention(8, 2, dropout=0.5), (5, 3, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5), (5, 3, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_private_in_training(name):
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape, generator=make_generator(0))
    assert_private(lambda: run_in_training(layer, x))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_private_without_gradients(name):
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape, generator=make_generator(0))

    @torch.no_grad()
    def run():
        output = layer.train()(x.clone())
        return output[0] if isinstance(output, tuple) else output

    assert_private(run)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_layers_in_evaluation_give_what_they_give_without_the_mode(name, context):
    make, shape = LAYERS[name]
    layer, x = make().eval(), torch.randn(shape, generator=make_generator(0))
    with context():
        expected = layer(x)
        state = torch.get_rng_state()
        with PrivateRandomness(0):
            got = layer(x)
    assert same(tensors_of(got), tensors_of(expected))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.9, 1.0])
def test_dropout_has_the_right_rate_and_scale(p, fused):
    """CPUs use the first of these two, GPUs the second, which torch has fused and which takes no generator."""
    x = torch.full((400, 250), 2.0, requires_grad=True)
    with PrivateRandomness(0):
        y = torch.native_dropout(x, p, True)[0] if fused else F.dropout(x, p, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    kept = y != 0
    assert kept.float().mean() == pytest.approx(1 - p, abs=4 * math.sqrt(p * (1 - p) / x.numel()))
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2.0 / max(1 - p, 1e-9)))
    torch.testing.assert_close(gradient, y.detach() / 2.0)


def test_fused_dropout_is_private():
    x = torch.ones(40)
    drawn, kept = assert_private(lambda: torch.native_dropout(x, 0.5, True))
    assert torch.equal(drawn != 0, kept)
    with PrivateRandomness(0):
        same_x, everything = torch.native_dropout(x, 0.5, False)
    assert torch.equal(same_x, x)
    assert everything.all()


def test_attention_without_dropout_is_torchs_own():
    query = torch.randn(2, 3, 4, 5, generator=make_generator(0))
    expected = F.scaled_dot_product_attention(query, query, query)
    with PrivateRandomness(0):
        assert torch.equal(F.scaled_dot_product_attention(query, query, query), expected)


def test_attention_with_dropout_is_private():
    query = torch.randn(2, 3, 4, 5, generator=make_generator(0))
    assert_private(lambda: F.scaled_dot_product_attention(query, query, query, dropout_p=0.5))


CUDNN_RNN = torch.ops.aten._cudnn_rnn.default


def call_fused_rnn(monkeypatch, *, dropout, train):
    """What the mode makes of cuDNN's recurrent layers, which only exist where there is a GPU."""
    monkeypatch.setattr(type(CUDNN_RNN), "__call__", lambda self, *args, **kwargs: "called")
    x = torch.zeros(1)
    args = (x, [x], 4, None, x, None, 2, 3, 0, 2, False, dropout, train, False, [], None)
    return PrivateRandomness(0).__torch_dispatch__(CUDNN_RNN, (), args)


@pytest.mark.parametrize(("dropout", "train"), [(0.0, True), (0.5, False)])
def test_fused_operations_run_while_they_drop_nothing(monkeypatch, dropout, train):
    assert call_fused_rnn(monkeypatch, dropout=dropout, train=train) == "called"


def test_fused_operations_that_cannot_be_private_are_refused(monkeypatch):
    with pytest.raises(RuntimeError, match=r"_cudnn_rnn.*global generator"):
        call_fused_rnn(monkeypatch, dropout=0.5, train=True)


def many_draws(seed, n):
    with PrivateRandomness(seed):
        layer = nn.Linear(6, 6)
        return [run_in_training(nn.Sequential(layer, nn.Dropout(0.5)), torch.ones(2, 6)) for _ in range(n)]


def test_threads_do_not_disturb_each_other():
    alone = {seed: tensors_of(many_draws(seed, 60)) for seed in (1, 2)}
    results, barrier = {}, threading.Barrier(2)

    def work(seed):
        barrier.wait()
        results[seed] = tensors_of(many_draws(seed, 60))

    state = torch.get_rng_state()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(same(results[seed], alone[seed]) for seed in alone)
    assert not same(alone[1], alone[2])


def test_other_threads_keep_the_global_generator():
    state = torch.get_rng_state()
    try:
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        drawn = []
        with PrivateRandomness(0):
            thread = threading.Thread(target=lambda: drawn.append(torch.rand(4)))
            thread.start()
            thread.join()
        assert torch.equal(drawn[0], expected)
    finally:
        torch.set_rng_state(state)


def test_the_mode_ends_with_its_block():
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="size"), PrivateRandomness(0):
        torch.rand(2) @ torch.rand(3)
    torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), state)


def build(cls, **params):
    return cls(5, 2, **{"hidden_layer_sizes": (4,), **params})


@pytest.mark.parametrize("cls", [AutoEncoderModule, VAEModule])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("normalization", [None, *NORMALIZATIONS])
def test_built_in_layers_draw_nothing(cls, activation, normalization):
    assert not draws_random_numbers(build(cls, activation=activation, encoder=MLP(normalization=normalization)))


@pytest.mark.parametrize(
    "params",
    [{"encoder": MLP(dropout=0.5)}, {"encoder": Net(Doubler)}, {"decoder": Net(Doubler)}, {"activation": nn.RReLU}],
    ids=["dropout", "encoder", "decoder", "activation"],
)
def test_dropout_and_unknown_layers_may_draw(params):
    assert draws_random_numbers(build(VAEModule, **params))


def test_dropout_draws_nothing_in_evaluation():
    module = build(VAEModule, encoder=MLP(dropout=0.5))
    assert draws_random_numbers(module)
    assert not draws_random_numbers(module.eval())
    assert draws_random_numbers(module.train())
    assert draws_random_numbers(build(VAEModule, encoder=Net(Doubler)).eval())


def test_subclasses_of_known_layers_are_unknown():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(1)

    assert draws_random_numbers(nn.Sequential(Noisy(2, 2)))
    assert draws_random_numbers(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)))


def test_modules_that_draw_nothing_run_outside_the_mode():
    class Spy(nn.Sequential):
        def forward(self, x):
            seen.append(torch.utils._python_dispatch._get_current_dispatch_mode())
            return super().forward(x)

    quiet, loud = mlp(3, (4,), 2), mlp(3, (4,), 2, dropout=0.5)
    seen = []
    for module in (quiet, loud):
        with private_randomness(module, 0):
            Spy(*copy.deepcopy(module))(torch.ones(2, 3))
    assert seen[0] is None
    assert isinstance(seen[1], PrivateRandomness)


def test_streams_are_reproducible_and_differ():
    streams = [seed for entropy in ((0,), (1,), (0, 1), (1, 0)) for seed in seed_streams(*entropy, n=3)]
    assert len(set(streams)) == 12
    assert streams[:3] == seed_streams(0, n=3)
    assert all(isinstance(seed, int) for seed in streams)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_on_a_gpu_are_private_or_refused(name):
    make, shape = LAYERS[name]
    layer, x = make().cuda(), torch.randn(shape, generator=make_generator(0)).cuda()
    state = torch.cuda.get_rng_state()
    if name in ("lstm", "gru", "transformer"):  # whose dropout is fused with what surrounds it
        with pytest.raises(RuntimeError, match="cannot be given a private one"):
            assert_private(lambda: run_in_training(layer, x))
    else:
        assert_private(lambda: run_in_training(layer, x))
        assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_has_one_stream_however_it_is_called():
    with PrivateRandomness(0):
        drawn = [torch.rand(5, device=device) for device in ("cuda", "cuda:0")]
        drawn.append(torch.rand_like(drawn[0]))
    assert len({tuple(values.tolist()) for values in drawn}) == 3
