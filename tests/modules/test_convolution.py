from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skvae.modules import (
    MLP,
    AutoEncoderModule,
    Batch,
    Conv,
    DefaultNet,
    VQVAEModule,
    build_networks,
    conv_decoder,
    conv_encoder,
    resolve_networks,
)
from skvae.modules.networks.convolution import (
    ResidualBlock,
    TiedConvTranspose,
    default_channels,
    grid_decoder,
    grid_encoder,
    grid_size,
)
from skvae.modules.vqvae import plan_levels

SHAPES = [(1, 8, 8), (3, 16, 16), (1, 10, 14), (2, 5, 7), (1, 1, 30), (1, 3, 1), (1, 1, 1)]
SPECS = [
    Conv(channels=(4, 6)),
    Conv(channels=(4, 6, 5), residual_blocks=1),
    Conv(channels=(4, 6), upsampling="nearest"),
    Conv(channels=(4,), residual_blocks=2, upsampling="nearest"),
    Conv(channels=()),
]
HIDDEN = [
    {},
    {"normalization": "batch"},
    {"normalization": "layer", "activation": "tanh"},
    {"dropout": 0.5, "activation": nn.Softplus},
    {"normalization": "batch", "dropout": 0.2, "activation": "gelu"},
]


pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def ids(params):
    return "-".join(f"{name}={value}" for name, value in params.items()) or "plain"


def kinds(network):
    return [type(layer) for layer in network]


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_images_of_any_size_come_back(shape, spec):
    encoder = conv_encoder(spec, shape, 3, (7,))
    decoder = conv_decoder(spec, shape, 2, (7,))
    rows = torch.randn(4, prod(shape))
    assert encoder(rows).shape == (4, 3)
    assert decoder(torch.randn(4, 2)).shape == (4, prod(shape))
    assert encoder(rows[:1]).shape == (1, 3)


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 3, 1)], ids=str)
@pytest.mark.parametrize("hidden", HIDDEN, ids=ids)
@pytest.mark.parametrize("spec", SPECS[:4], ids=str)
def test_layers_between(shape, hidden, spec):
    networks = conv_encoder(spec, shape, 3, (7,), **hidden), conv_decoder(spec, shape, 2, (7,), **hidden)
    for network, n_inputs, n_outputs in zip(networks, (prod(shape), 2), (3, prod(shape)), strict=True):
        for training in (True, False):
            output = network.train(training)(torch.randn(8, n_inputs))
            assert output.shape == (8, n_outputs)
            assert torch.isfinite(output).all()
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_step_halves_the_sides(shape):
    encoder = conv_encoder(Conv(channels=(2, 3, 4)), shape, 1, ())
    x = torch.randn(2, prod(shape))
    sides, seen = shape[1:], []
    for layer in encoder:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sides = tuple(max(1, side // 2) for side in sides)
            seen.append(tuple(x.shape[1:]))
            assert seen[-1] == (layer.out_channels, *sides)
    assert [size[0] for size in seen] == [2, 3, 4]


def test_the_decoder_passes_the_same_sizes_backwards():
    shape, spec = (2, 13, 6), Conv(channels=(3, 4, 5))
    x, z = torch.randn(2, prod(shape)), torch.randn(2, 2)
    down, up = [shape], []
    for layer in conv_encoder(spec, shape, 2, ()):
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            down.append(tuple(x.shape[1:]))
    for layer in conv_decoder(spec, shape, 2, ()):
        z = layer(z)
        if isinstance(layer, (nn.Unflatten, nn.ConvTranspose2d)):
            up.append(tuple(z.shape[1:]))
    assert up == down[::-1]


def test_rows_are_read_channel_by_channel():
    images = np.arange(24.0, dtype=np.float32).reshape(1, 2, 3, 4)
    unflatten = conv_encoder(Conv(channels=(1,)), (2, 3, 4), 1, ())[0]
    np.testing.assert_array_equal(unflatten(torch.from_numpy(images.reshape(1, -1))).numpy(), images)


def test_hidden_layers_lie_between_convolutions_and_code():
    spec, shape = Conv(channels=(4,)), (1, 6, 6)
    encoder, decoder = conv_encoder(spec, shape, 3, (9, 8)), conv_decoder(spec, shape, 2, (9, 8))
    assert [layer.out_features for layer in encoder if isinstance(layer, nn.Linear)] == [9, 8, 3]
    assert [layer.out_features for layer in decoder if isinstance(layer, nn.Linear)] == [8, 9, 36]
    assert kinds(encoder) == [nn.Unflatten, nn.Conv2d, nn.ReLU, nn.Flatten, *[nn.Linear, nn.ReLU] * 2, nn.Linear]
    assert kinds(decoder) == [*[nn.Linear, nn.ReLU] * 3, nn.Unflatten, nn.ConvTranspose2d, nn.Flatten]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_last_layer_is_linear(spec):
    # So that rows of any sign can be reconstructed: other signs of its weights give other signs of the output.
    decoder, z = conv_decoder(spec, (1, 6, 6), 2, (8,), normalization="batch", dropout=0.1).eval(), torch.randn(20, 2)
    output = decoder(z)
    last = [layer for layer in decoder if hasattr(layer, "weight")][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.neg_()
    torch.testing.assert_close(decoder(z), -output)


# -- what lies after a convolution ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("normalization", "layer"), [("batch", nn.BatchNorm2d), ("layer", nn.GroupNorm)])
def test_normalization_of_images(normalization, layer):
    spec = Conv(channels=(4, 5), residual_blocks=1)
    encoder = conv_encoder(spec, (1, 8, 8), 2, (), normalization=normalization, dropout=0.25)
    assert kinds(encoder)[:6] == [nn.Unflatten, nn.Conv2d, layer, nn.ReLU, nn.Dropout, ResidualBlock]
    images = encoder[:3](torch.randn(16, 64) * 5.0 + 3.0)
    axes = (0, 2, 3) if normalization == "batch" else (1, 2, 3)
    mean, variance = images.mean(axes), images.var(axes, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=1e-2, rtol=0.0)


def test_dropout_acts_in_training_only():
    network = conv_encoder(Conv(channels=(4,), residual_blocks=1), (1, 8, 8), 2, (16,), dropout=0.5)
    x = torch.randn(4, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_a_residual_block_adds_to_its_input():
    block = ResidualBlock(3, (5, 6), activation="tanh")
    assert kinds(block.branch) == [nn.Conv2d, nn.Tanh, nn.Conv2d]
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(block(x), torch.tanh(x + block.branch(x)))
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(block(x), torch.tanh(x))


@pytest.mark.parametrize("n_blocks", [0, 1, 3])
def test_residual_blocks_at_every_size(n_blocks):
    spec = Conv(channels=(3, 4), residual_blocks=n_blocks)
    for network, widths in (
        (conv_encoder(spec, (1, 8, 8), 2, ()), [3] * n_blocks + [4] * n_blocks),
        (conv_decoder(spec, (1, 8, 8), 2, ()), [4] * n_blocks + [3] * n_blocks),
    ):
        assert [block.branch[0].in_channels for block in network if isinstance(block, ResidualBlock)] == widths


def test_nearest_upsampling_takes_the_place_of_transposed_convolutions():
    decoder = conv_decoder(Conv(channels=(3, 4), upsampling="nearest"), (2, 9, 7), 2, ())
    assert nn.ConvTranspose2d not in kinds(decoder)
    assert [layer.size for layer in decoder if isinstance(layer, nn.Upsample)] == [(4, 3), (9, 7)]
    assert [layer.out_channels for layer in decoder if isinstance(layer, nn.Conv2d)] == [3, 2]
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    repeated = nn.Upsample(size=(4, 4))(image)
    assert torch.equal(repeated, image.repeat_interleave(2, 2).repeat_interleave(2, 3))


# -- receptive field --------------------------------------------------------------------------------------------------


def jacobian(network, n_inputs):
    """Jacobian at a random row, (n_outputs, n_inputs), in double precision."""
    return torch.func.jacrev(network.double().eval())(torch.randn(1, n_inputs, dtype=torch.float64))[0, :, 0]


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 7), (1, 1, 30), (1, 3, 1), (2, 11, 6), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("spec", SPECS[:4], ids=str)
def test_every_pixel_can_be_seen_and_drawn(shape, spec):
    n_pixels = prod(shape)
    assert jacobian(conv_encoder(spec, shape, 2, (), activation="tanh"), n_pixels).abs().min() > 0.0
    assert jacobian(conv_decoder(spec, shape, 2, (), activation="tanh"), 2).abs().min() > 0.0


def test_a_convolution_sees_a_neighborhood():
    # Behind one halving, a unit sees 4 x 4 pixels: the 2 x 2 that it stands for and one more on every side.
    convolution = conv_encoder(Conv(channels=(1,)), (1, 8, 8), 1, (), activation="identity")[:2]
    seen = jacobian(nn.Sequential(*convolution, nn.Flatten()), 64).reshape(4, 4, 8, 8) != 0.0
    for i in range(4):
        for j in range(4):
            expected = torch.zeros(8, 8, dtype=torch.bool)
            expected[max(0, 2 * i - 1) : 2 * i + 3, max(0, 2 * j - 1) : 2 * j + 3] = True
            assert torch.equal(seen[i, j], expected)


# -- tied weights -----------------------------------------------------------------------------------------------------


def tied_pair(shape, channels=(3, 4), n_outputs=2, hidden_layer_sizes=(), n_inputs=2, **hidden):
    spec = Conv(channels=channels)
    encoder = conv_encoder(spec, shape, n_outputs, hidden_layer_sizes, **hidden)
    return encoder.double(), conv_decoder(spec, shape, n_inputs, hidden_layer_sizes, tied_to=encoder, **hidden).double()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_tied_convolution_is_the_adjoint(shape):
    encoder, decoder = tied_pair(shape)
    down = [layer for layer in encoder if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in decoder if isinstance(layer, TiedConvTranspose)][::-1]
    assert len(down) == len(up) == 2
    x = torch.randn(1, *shape, dtype=torch.float64)
    for convolution, tied in zip(down, up, strict=True):
        nn.init.zeros_(convolution.bias)
        nn.init.zeros_(tied.bias)
        forward = convolution(x)
        y = torch.randn_like(forward)
        back = tied(y)
        assert back.shape == x.shape
        torch.testing.assert_close((forward * y).sum(), (x * back).sum(), rtol=1e-12, atol=1e-12)
        x = torch.randn_like(forward)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_tied_linear_decoder_is_the_encoder_transposed(shape):
    encoder, decoder = tied_pair(shape, hidden_layer_sizes=(5,), activation="identity")
    n_pixels = prod(shape)
    torch.testing.assert_close(jacobian(decoder, 2), jacobian(encoder, n_pixels).T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("hidden", HIDDEN, ids=ids)
def test_tied_decoders_have_the_layers_of_others(hidden):
    shape, spec = (2, 9, 6), Conv(channels=(3, 4))
    tied = tied_pair(shape, hidden_layer_sizes=(7,), n_outputs=4, **hidden)[1]
    other = conv_decoder(spec, shape, 2, (7,), **hidden)
    names = [name.removeprefix("Tied").replace("ConvTranspose2d", "ConvTranspose") for name in (k.__name__ for k in kinds(tied))]
    assert names == [k.__name__.replace("ConvTranspose2d", "ConvTranspose") for k in kinds(other)]
    assert tied(torch.randn(3, 2, dtype=torch.float64)).shape == (3, prod(shape))
    assert sum(p.numel() for p in tied.parameters()) < sum(p.numel() for p in other.parameters())


# -- what a row costs -------------------------------------------------------------------------------------------------

# By hand, for images of 4 x 4 pixels, a convolution to four channels and a code of two:
_DOWN = 4 * 4 * 4 * 2 * 2  # 4 channels x 4 x 4 weights at 2 x 2 positions; transposed, the same
_DENSE = (16 * 2 + 2) + (2 * 16 + 16)  # weights and biases from 4 channels of 2 x 2 to the code, and back
_BLOCK = 2 * (4 * 4 * 3 * 3) * 2 * 2  # two convolutions of 4 to 4 channels, 3 x 3, at 2 x 2 positions
_NEAREST = 4 * 3 * 3 * 4 * 4  # one convolution of 4 channels to 1 at 4 x 4 positions


@pytest.mark.parametrize(
    ("spec", "params", "work"),
    [
        (Conv(channels=(4,)), {}, _DOWN + _DENSE + _DOWN),
        (Conv(channels=(4,), residual_blocks=1), {}, 2 * _DOWN + _DENSE + 2 * _BLOCK),
        (Conv(channels=(4,), upsampling="nearest"), {}, _DOWN + _DENSE + _NEAREST),
        (Conv(channels=(4,)), {"decoder": "tied"}, 2 * _DOWN + _DENSE - 16),
    ],
    ids=["plain", "residual", "nearest", "tied"],
)
def test_work_of_a_row(spec, params, work):
    module = AutoEncoderModule(16, 2, image_shape=(1, 4, 4), encoder=spec, hidden_layer_sizes=(), **params)
    assert module.row_work == work
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        batch = Batch.of(torch.randn(1, 16))
        module.decode(module.encode(batch), batch)
    biases = 2 if params else 2 + 16
    assert counter.get_total_flops() == 2 * (work - biases)


def test_widest_layer_is_measured_in_numbers_of_a_row():
    module = AutoEncoderModule(64, 2, image_shape=(1, 8, 8), encoder=Conv(channels=(32,)), hidden_layer_sizes=(8,))
    assert module.widest_layer == 32 * 4 * 4


# -- channels that are left open --------------------------------------------------------------------------------------

SMALL = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (5, 64, 64), (2, 63, 61), (1, 1, 256), (1, 32, 128), (1, 1, 1)]
LARGE = [(3, 512, 512), (1, 256, 256), (3, 97, 131), (1, 16, 4096), (1, 4096, 16), (1, 1, 65536), (12, 100, 1001), (1, 68, 68)]


def dense_weights(network):
    return sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("n_components", [0, 2, 5000])
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_small_images_are_halved_twice(shape, n_components):
    assert default_channels(shape, n_components) == (32, 64)
    down, up = resolve_networks(None, None, (128, 64), "relu", shape, n_components)
    assert down == Conv((32, 64), hidden_layer_sizes=(128, 64), activation="relu")
    assert up == Conv((32, 64), hidden_layer_sizes=(64, 128), activation="relu")


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_large_images_are_halved_until_few_places_are_left(shape):
    channels = default_channels(shape)
    assert channels[:3] == (32, 64, 64)
    assert set(channels[1:]) == {64}
    assert prod(grid_size(Conv(channels), shape)[1]) <= 256 < prod(grid_size(Conv(channels[:-1]), shape)[1])
    assert grid_size(Conv(), shape) == grid_size(Conv(channels), shape)


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("n_components", [2, 300, 900])
def test_weights_stay_bounded(shape, n_components):
    hidden = (max(128, n_components), max(64, n_components))
    with torch.device("meta"):
        networks = build_networks(
            prod(shape), n_components, 2 * n_components, prod(shape), image_shape=shape, hidden_layer_sizes=hidden
        )
    for network in networks:
        behind = hidden[0] * hidden[1] + 2 * n_components * hidden[1]
        assert dense_weights(network) <= 2**22 + behind
        assert sum(weight.numel() for weight in network.parameters()) < 8e6


@pytest.mark.parametrize("shape", [(1, 68, 69), (2, 5, 900)], ids=str)
@pytest.mark.parametrize("spec", [Conv(), Conv(residual_blocks=1), Conv(upsampling="nearest")], ids=str)
def test_networks_of_open_channels(shape, spec):
    assert conv_decoder(spec, shape, 2, (7,))(conv_encoder(spec, shape, 2, (7,))(torch.randn(2, prod(shape)))).shape == (
        2,
        prod(shape),
    )
    grid = grid_encoder(spec, shape, 3)(torch.randn(2, prod(shape)))
    assert grid.shape[2:] == grid_size(spec, shape)[1]
    assert grid_decoder(spec, shape, 3)(grid).shape == (2, prod(shape))


@pytest.mark.parametrize(
    ("encoder", "decoder", "channels"),
    [
        (Conv((4, 6)), None, ((4, 6), (4, 6))),
        (Conv((4, 6)), DefaultNet(dropout=0.1), ((4, 6), (4, 6))),
        (None, Conv((4, 6)), ((32, 64, 64), (4, 6))),
        (Conv(residual_blocks=1), DefaultNet(upsampling="nearest"), ((32, 64, 64), (32, 64, 64))),
        (DefaultNet(dropout=0.1), Conv(), ((32, 64, 64), (32, 64, 64))),
        (DefaultNet(channels=(4,)), None, ((4,), (4,))),
    ],
    ids=str,
)
def test_channels_that_are_given_stay(encoder, decoder, channels):
    down, up = resolve_networks(encoder, decoder, (8,), "relu", (1, 100, 100))
    assert (down.channels, up.channels) == channels


def test_a_perceptron_beside_open_channels():
    assert resolve_networks(MLP(), Conv(), (8,), "relu", (1, 100, 100))[1].channels == (32, 64, 64)
    assert resolve_networks(MLP(), DefaultNet(upsampling="nearest"), (8,), "relu", (1, 100, 100))[1].channels == (32, 64, 64)
    assert resolve_networks(Conv(), MLP(), (8,), "relu", (1, 100, 100))[0].channels == (32, 64, 64)


@pytest.mark.parametrize("channels", ["two", 3, (0,), (1.5,), None])
def test_channels_that_are_none(channels):
    with pytest.raises(ValueError, match="must be a sequence of integers of at least 1, or 'auto'"):
        Conv(channels).check()


def test_a_grid_of_codes_follows_the_image():
    levels = plan_levels(n_levels=2, image_shape=(3, 256, 256))
    assert [level.shape for level in levels] == [(8, 8), (16, 16)]
    with torch.device("meta"):
        module = VQVAEModule(3 * 72 * 90, n_embeddings=4, embedding_dim=2, image_shape=(3, 72, 90))
    assert module.levels[0].shape == (9, 11)
