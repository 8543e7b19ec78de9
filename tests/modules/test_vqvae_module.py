import copy
from math import prod

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skvae import functional as fn
from skvae.data import Table
from skvae.modules import MLP, Batch, Conv, Net, VQVAEModule
from skvae.modules.vqvae import plan_levels
from skvae.training import Optimizer, Plan, Rows, train

pytestmark = pytest.mark.usefixtures("one_core")

CPU = torch.device("cpu")
N_ROWS = 24
ROWS = {"hidden_layer_sizes": (12, 6), "n_embeddings": 10, "embedding_dim": 3}
IMAGES = {"n_embeddings": 16, "embedding_dim": 4}
SMALL, NEAREST = Conv(channels=(4,)), Conv(channels=(4, 5), residual_blocks=1, upsampling="nearest")
# Name: features, parameters and shapes of the levels, the top first.
MODELS = {
    "rows": (7, {**ROWS, "n_codes": 4}, [(4,)]),
    "rows-linear": (7, {**ROWS, "hidden_layer_sizes": (), "n_codes": 4, "n_levels": 2}, [(2,), (4,)]),
    "rows-3": (
        7,
        {**ROWS, "n_codes": (1, 3, 4), "n_levels": 3, "embedding_dim": (5, 2, 3), "encoder": MLP(normalization="layer")},
        None,
    ),
    "28x28": (784, {**IMAGES, "image_shape": (1, 28, 28), "encoder": Conv(channels=(4, 6)), "embedding_dim": 3}, [(7, 7)]),
    "28x28-3": (
        784,
        {**IMAGES, "image_shape": (1, 28, 28), "encoder": Conv(channels=(4, 6)), "n_levels": 3},
        [(1, 1), (3, 3), (7, 7)],
    ),
    "5x7": (35, {**IMAGES, "image_shape": (1, 5, 7), "encoder": SMALL, "n_levels": 2, "embedding_dim": (2, 3)}, [(1, 1), (2, 3)]),
    "color": (324, {**IMAGES, "image_shape": (3, 12, 9), "encoder": NEAREST, "n_levels": 2}, [(1, 1), (3, 2)]),
    "decoder": (
        3 * 8 * 8,
        {**IMAGES, "image_shape": (3, 8, 8), "encoder": SMALL, "decoder": Conv(channels=(7,), residual_blocks=1), "n_levels": 2},
        [(2, 2), (4, 4)],
    ),
    "unhalved": (2 * 4 * 5, {**IMAGES, "image_shape": (2, 4, 5), "encoder": Conv(channels=()), "n_levels": 2}, [(2, 2), (4, 5)]),
}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def build(name, **params):
    n_features, given, _ = MODELS[name]
    return VQVAEModule(n_features, **{**given, **params})


def spread(vectors, n):
    """Evenly spaced vectors, as centers."""
    return vectors[torch.arange(n) * len(vectors) // n]


def initialized(name, **params):
    """A module whose codebooks lie where its vectors do, and a batch of rows."""
    module = build(name, **params).eval()
    batch = Batch.of(torch.randn(N_ROWS, module.n_features))
    module.initialize_codebooks(batch, spread)
    return module, batch


def cluster(vectors, n):
    """Centers of k-means."""
    kmeans = KMeans(n, n_init=1, max_iter=20, random_state=0).fit(vectors.detach().numpy())
    return torch.from_numpy(kmeans.cluster_centers_)


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_shapes(name):
    module, batch = initialized(name)
    shapes = MODELS[name][2] or [(1,), (3,), (4,)]
    assert module.level_shapes == shapes
    assert module.n_codes == sum(prod(shape) for shape in shapes)
    codes, z = module.codes(batch), module.encode(batch)
    assert codes.shape == (N_ROWS, module.n_codes)
    assert codes.dtype == torch.int64
    assert z.shape == (N_ROWS, module.n_components)
    assert module.n_components == sum(level.size for level in module.levels)
    assert torch.equal(module.embed(codes), z)
    assert module.decode(z, batch).shape == batch.x.shape
    drawn = torch.randn(5, module.n_components)
    assert module.decode(drawn, Batch.of_codes(drawn)).shape == (5, module.n_features)
    for i, level in enumerate(module.levels):
        vectors = module.pre_quantization(batch, i)
        assert vectors.shape == (N_ROWS, level.n_codes, level.embedding_dim)
        part = codes[:, module.code_slices[i]]
        assert part.shape == (N_ROWS, level.n_codes)
        assert part.max() < level.n_embeddings
        assert torch.equal(fn.nearest_codes(vectors.flatten(0, 1), module.quantizers[i].codebook), part.flatten())
        embedded = z[:, module.embedding_slices[i]].view(N_ROWS, level.n_codes, level.embedding_dim)
        assert torch.equal(embedded, module.quantizers[i].codebook[part])


def test_plan_tells_the_levels_without_building(name):
    params = {key: value for key, value in MODELS[name][1].items() if key in plan_levels.__kwdefaults__}
    assert plan_levels(**params) == build(name).levels


def test_codes_lie_where_the_image_does():
    """The first code is that of the top left corner, and codes go on along the row."""
    module = build("28x28", activation="tanh").eval()
    x, other = torch.zeros(2, 1, 28, 28)
    other[0, 13:15, 25:27] = 5.0  # inside the fourth row of the grid and its last column
    change = module.pre_quantization(Batch.of(torch.stack([x, other]).flatten(1))).diff(dim=0).norm(dim=2).view(7, 7)
    assert set(zip(*(index.tolist() for index in change.nonzero(as_tuple=True)), strict=True)) >= {(3, 6)}
    assert change[:2].max() == change[5:].max() == change[:, :5].max() == 0.0
    moved = torch.zeros(2, 49, 3)
    moved[1, 3 * 7 + 6] = 1.0
    effect = module.decode(moved.flatten(1), Batch.of_codes(moved)).diff(dim=0).view(28, 28).abs()
    assert effect[12:16, 24:28].min() > 0.0
    assert effect[:5].max() == effect[23:].max() == effect[:, :17].max() == 0.0


def test_rows_keep_their_codes_in_any_batch(name):
    module, batch = initialized(name)
    codes, z = module.codes(batch), module.encode(batch)
    for size in (1, 7, 16):
        assert torch.equal(torch.cat([module.codes(Batch.of(part)) for part in batch.x.split(size)]), codes)
    shuffled = torch.randperm(N_ROWS)
    other = Batch.of(batch.x[shuffled])
    assert torch.equal(module.codes(other), codes[shuffled])
    torch.testing.assert_close(module.decode(z[shuffled], other), module.decode(z, batch)[shuffled])


def test_constant_columns_do_not_reach_the_codes():
    module = build("rows").eval()
    X = np.random.default_rng(0).normal(size=(50, 7))
    X[:, 2] = 3.0
    module.likelihood.fit(X)
    x = module.likelihood.standardize(X)
    other = x.clone()
    other[:, 2] = 100.0
    assert torch.equal(module.pre_quantization(Batch.of(x)), module.pre_quantization(Batch.of(other)))


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_terms(name, codebook):
    module, batch = initialized(name, codebook=codebook, commitment_weight=0.7)
    terms, learned = module.loss(batch, {})
    assert learned == {}  # in evaluation
    assert list(terms) == ["reconstruction", "commitment"] + ["codebook"] * (codebook == "gradient")
    distance, z = torch.zeros(N_ROWS), module.encode(batch)
    for i in range(len(module.levels)):
        vectors = module.pre_quantization(batch, i).flatten(1)
        distance += (vectors - z[:, module.embedding_slices[i]]).square().sum(1)
    torch.testing.assert_close(terms["commitment"], 0.7 * distance)
    torch.testing.assert_close(terms["reconstruction"], module.likelihood.distortion(batch.x, module.decode(z, batch)))
    if codebook == "gradient":
        torch.testing.assert_close(terms["codebook"], distance)


@pytest.mark.parametrize(("codebook", "gradient"), [("ema", "straight_through"), ("gradient", "rotation")])
def test_every_weight_learns(name, codebook, gradient):
    module, batch = initialized(name, codebook=codebook, gradient=gradient, activation="tanh")
    module.train()
    terms = module.loss(batch, {}).terms
    terms.pop("reconstruction").mean().backward(retain_graph=True)
    for weight_name, weight in module.named_parameters():
        if weight_name.endswith("codebook"):  # the reconstruction is none of the codebook's business
            assert weight.grad is None
        else:
            assert weight.grad.abs().sum() > 0.0, weight_name
    if codebook == "gradient":
        for weight in module.parameters():
            weight.grad = None
        terms["codebook"].mean().backward()
        for weight_name, weight in module.named_parameters():
            assert (weight.grad is not None) == weight_name.endswith("codebook"), weight_name


def test_loss_changes_nothing_and_the_step_moves_codebooks(name):
    module, batch = initialized(name)
    module.train()
    before = {key: value for key, value in copy.deepcopy(module.state_dict()).items() if isinstance(value, torch.Tensor)}
    attributes = [set(vars(part)) for part in module.modules()]
    learned = module.loss(batch, {}).learned
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())
    assert [set(vars(part)) for part in module.modules()] == attributes
    assert not any(value.requires_grad for value in learned.values())
    module.after_step(learned)
    for i in range(len(module.levels)):
        assert not torch.equal(module.quantizers[i].codebook, before[f"quantizers.{i}.codebook"])


def test_rows_without_weight_have_no_effect(name):
    module, batch = initialized(name)
    other = copy.deepcopy(module)
    weight = torch.ones(N_ROWS)
    weight[16:] = 0.0
    for trained, part in ((module, batch._replace(weight=weight)), (other, Batch.of(batch.x[:16]))):
        trained.train()
        for _ in range(3):
            learned = trained.loss(part, {}).learned
            trained.after_step(learned)
            trained.after_interval(learned, 0)
    for one, same in zip(module.quantizers, other.quantizers, strict=True):
        torch.testing.assert_close(one.codebook, same.codebook)
        torch.testing.assert_close(one.count, same.count)


# -- levels -----------------------------------------------------------------------------------------------------------


def test_lower_levels_see_the_levels_above():
    module, batch = initialized("28x28-3")
    before = [module.pre_quantization(batch, level) for level in range(3)]
    module.quantizers[1].set_codebook(module.quantizers[1].codebook + 1.0)
    after = [module.pre_quantization(batch, level) for level in range(3)]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[2], after[2], atol=1e-3)


def test_keep_levels_leaves_the_others_at_their_mean():
    module, batch = initialized("28x28-3")
    z = module.encode(batch)
    assert torch.equal(module.keep_levels(z, range(3)), z)
    kept = module.keep_levels(z, [1])
    assert torch.equal(kept[:, module.embedding_slices[1]], z[:, module.embedding_slices[1]])
    for i in (0, 2):
        part = kept[:, module.embedding_slices[i]].view(N_ROWS, module.levels[i].n_codes, -1)
        torch.testing.assert_close(part, module.quantizers[i].mean_embedding().expand_as(part))


def test_codebooks_are_initialized_from_the_top_down():
    batch = Batch.of(torch.randn(N_ROWS, 784))
    module = build("28x28-3", n_embeddings=(5, 6, 7)).eval()
    module.initialize_codebooks(batch, cluster)
    for i, quantizer in enumerate(module.quantizers):
        expected = cluster(module.pre_quantization(batch, i).flatten(0, 1), (5, 6, 7)[i])
        torch.testing.assert_close(quantizer.codebook, expected)


@pytest.mark.parametrize(
    ("name", "similarity"), [*((name, "euclidean") for name in MODELS), ("rows", "cosine"), ("28x28", "cosine")]
)
def test_vectors_begin_centered_and_at_a_common_scale(name, similarity):
    module = build(name, similarity=similarity).eval()
    x = 3.0 + torch.randn(60, module.n_features)
    batch, before = Batch.of(x), module.encoder(x)
    module.initialize_codebooks(batch, spread)
    if len(module.levels) == 1:
        vectors = module._vectors(batch, 0)
        torch.testing.assert_close(vectors.mean((0, 1)), torch.zeros(vectors.shape[2]), rtol=0, atol=1e-4)
        assert vectors.square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-3)
        one, other = before.flatten(1), module.encoder(x).flatten(1)  # the same up to shift and scale
        slopes = (other[1:] - other[:1]) / (one[1:] - one[:1])
        torch.testing.assert_close(slopes, slopes.median().expand_as(slopes), rtol=1e-2, atol=1e-2)
    else:
        for i in range(len(module.levels)):
            vectors = module.pre_quantization(batch, i).flatten(0, 1)
            torch.testing.assert_close(vectors.mean(0), torch.zeros(vectors.shape[1]), rtol=0, atol=1e-4)
            # But for the epsilon beside the variance.
            assert (vectors.var(0, correction=0) < 1.0001).all()
            assert (vectors.var(0, correction=0) > 0.9).all()


def test_rows_that_are_all_alike_are_no_reason_to_divide_by_zero():
    module = build("28x28-3").eval()
    module.initialize_codebooks(Batch.of(torch.zeros(5, 784)), lambda vectors, n: vectors[:1].expand(n, -1))
    assert all(torch.isfinite(value).all() for value in module.parameters())


# -- what fits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"image_shape": (1, 5, 7), "encoder": Conv(channels=(4, 4)), "n_levels": 2}, r"1x1.*At most n_levels=1 fits"),
        ({"image_shape": (1, 5, 7), "encoder": SMALL, "n_levels": 3}, r"2x3, 1x1.*At most n_levels=2 fits"),
        ({"n_levels": 4}, "n_levels=4 must be 1, 2 or 3"),
        ({"n_levels": 2, "n_embeddings": (4,)}, r"n_embeddings=\(4,\) has 1 entries, but n_levels=2"),
        ({"n_codes": (4, 2)}, r"n_codes=\(4, 2\) has 2 entries, but n_levels=1"),
        ({"n_codes": 0}, "n_codes=.* must be at least 1"),
        ({"image_shape": (1, 5, 7), "n_codes": 3}, "n_codes=3 is for rows"),
        ({"image_shape": (1, 5, 7), "encoder": Net(nn.Linear)}, "returns no grid"),
        ({"image_shape": (1, 5, 7), "decoder": Net(nn.Linear)}, "decoder=.* goes with rows and n_levels=1"),
        ({"encoder": Net(nn.Linear), "n_levels": 2}, "encoder=.* goes with rows and n_levels=1"),
        ({"encoder": SMALL}, "set image_shape"),
        ({"image_shape": (1, 5, 7), "decoder": Conv(channels=(4, 4, 4))}, "a grid of 1x1|does not come from"),
        ({"image_shape": (1, 5, 7), "encoder": SMALL, "decoder": Conv(channels=(4, 4))}, "does not come from .* 2x3"),
        ({"n_components": 5}, "n_components=5 is not the size of the embedding, 128"),
    ],
)
def test_what_does_not_fit_is_said(params, message):
    if params.get("decoder") == Conv(channels=(4, 4, 4)):
        params = {**params, "encoder": SMALL}
    with pytest.raises(ValueError, match=message):
        VQVAEModule(35, **params)


def test_networks_of_the_users_own():
    class Double(nn.Sequential):
        def __init__(self, n_inputs, n_outputs, width=9):
            super().__init__(nn.Linear(n_inputs, width), nn.Tanh(), nn.Linear(width, n_outputs))

    module = VQVAEModule(7, n_codes=3, embedding_dim=2, encoder=Net(Double, width=4), decoder=Net(Double))
    assert (module.encoder[0].out_features, module.encoder[-1].out_features) == (4, 6)
    assert (module.decoder[0].in_features, module.decoder[-1].out_features) == (6, 7)
    assert module.codes(Batch.of(torch.randn(5, 7))).shape == (5, 3)
    before = [weight.clone() for weight in module.encoder.parameters()]
    module.initialize_codebooks(Batch.of(torch.randn(200, 7)), spread)
    assert all(map(torch.equal, before, module.encoder.parameters()))  # which layer comes last is not known


@pytest.mark.parametrize("model", ["rows", "rows-3", "28x28", "28x28-3", "color", "decoder"])
def test_cost_counts_networks_and_search(model):
    module = build(model, **({"encoder": None} if model == "rows-3" else {})).eval()
    batch = Batch.of(torch.randn(2, module.n_features))
    with FlopCounterMode(display=False) as counter:
        module.decode(module.encode(batch), batch)
    # Levels are decoded once on the way to the codes and once from them.
    twice = sum(layer.row_work for lift in module.lifts for layer in lift.modules() if hasattr(layer, "row_work"))
    twice += sum(layer.weight.numel() for lift in module.lifts for layer in lift.modules() if isinstance(layer, nn.Linear))
    measured = counter.get_total_flops() / (2 * 2) - twice
    assert measured == pytest.approx(module.row_work, rel=0.1)
    widest = []

    def note(layer, inputs, output):
        if isinstance(output, torch.Tensor):
            widest.append(output[0].numel())

    for layer in module.modules():
        layer.register_forward_hook(note)
    module.decode(module.encode(batch), batch)
    assert module.widest_layer >= max(widest)
    assert module.widest_layer >= max(level.n_codes * level.n_embeddings for level in module.levels)


# -- training ---------------------------------------------------------------------------------------------------------


def fit(module, X, n_epochs, weight=None, batch_size=64, learning_rate=3e-3):
    """Train as estimators do."""
    module.likelihood.fit(X, shared=True)
    module.initialize_codebooks(Batch.of(module.likelihood.standardize(X)[:300]), cluster)
    rows = Rows(Table.of(X, weight), module.likelihood, CPU)
    steps = n_epochs * -(-len(X) // batch_size)
    plan = Plan(
        batch_size=batch_size,
        n_epochs=n_epochs,
        total_steps=steps,
        learning_rate=learning_rate,
        optimizer=Optimizer(),
        seed=0,
    )
    return train(module, rows, None, plan)


def error(module, X, levels=None):
    """Share of the variance that a reconstruction misses."""
    with torch.no_grad():
        batch = Batch.of(module.likelihood.standardize(X))
        z = module.encode(batch)
        z = z if levels is None else module.keep_levels(z, levels)
        return ((module.likelihood.mean(module.decode(z, batch)) - X) ** 2).mean() / X.var()


@pytest.fixture(scope="module")
def digits():
    return load_digits().data[::2] / 16.0


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"codebook": "gradient"},
        {"gradient": "rotation"},
        {"similarity": "cosine"},
        {"image_shape": (1, 8, 8), "encoder": Conv(channels=(16,))},
        {"n_levels": 2, "n_codes": (4, 8)},
        {"image_shape": (1, 8, 8), "encoder": Conv(channels=(16,)), "n_levels": 2},
    ],
    ids=str,
)
def test_digits_are_learned_and_most_codes_live(digits, params):
    module = VQVAEModule(64, **{"n_embeddings": 16, "embedding_dim": 8, "hidden_layer_sizes": (64,), **params})
    outcome = fit(module, digits, 8, batch_size=32)
    assert list(outcome.history)[:1] == ["loss"]
    assert outcome.history["reconstruction"][-1] < 0.8 * outcome.history["reconstruction"][0]
    assert error(module, digits) < 0.45
    codes = module.codes(Batch.of(module.likelihood.standardize(digits)))
    for i, part in enumerate(module.code_slices):
        assert len(codes[:, part].unique()) >= 0.8 * module.n_embeddings[i]
    assert not module.training


@pytest.mark.parametrize("images", [False, True])
def test_both_levels_carry_something(digits, images):
    shape = {"image_shape": (1, 8, 8), "encoder": Conv(channels=(16,))} if images else {"n_codes": (4, 8)}
    # So few codes below that what they leave open has to come from above.
    params = {"n_embeddings": (64, 4), "embedding_dim": 8, "n_levels": 2, "hidden_layer_sizes": (64,), "commitment_weight": 0.05}
    module = VQVAEModule(64, **params, **shape)
    fit(module, digits, 8, batch_size=32)
    both = error(module, digits)
    for levels in ([0], [1]):
        assert error(module, digits, levels) > 1.1 * both
        assert error(module, digits, []) > error(module, digits, levels)


def test_training_repeats_itself_and_its_state_goes_round(digits):
    def trained():
        torch.manual_seed(3)
        module = VQVAEModule(64, n_embeddings=32, embedding_dim=4, image_shape=(1, 8, 8), encoder=SMALL, n_levels=2)
        fit(module, digits[:300], 2)
        return module

    one, same = trained(), trained()
    other = VQVAEModule(64, n_embeddings=32, embedding_dim=4, image_shape=(1, 8, 8), encoder=SMALL, n_levels=2).eval()
    other.load_state_dict(one.state_dict())
    batch = Batch.of(one.likelihood.standardize(digits))
    for module in (same, other):
        assert torch.equal(module.codes(batch), one.codes(batch))
        assert torch.equal(module.decode(module.encode(batch), batch), one.decode(one.encode(batch), batch))


@torch.no_grad()
def test_noise_is_that_of_the_reconstructions(digits):
    module = VQVAEModule(64, n_embeddings=16, embedding_dim=4, hidden_layer_sizes=(32,))
    fit(module, digits, 1)
    x = module.likelihood.standardize(digits)
    weight = torch.ones(len(x))
    weight[::2] = 0.0
    batch = Batch.of(x)._replace(weight=weight)
    module.fit_noise(batch)
    residual = (digits - module.likelihood.mean(module.decode(module.encode(batch), batch)).astype(float))[1::2]
    expected = np.maximum(
        np.sqrt((residual**2).mean(0)), np.sqrt(module.likelihood.noise.floor.numpy()) * module.likelihood.units.scale
    )
    varying = ~module.likelihood.units.is_constant
    np.testing.assert_allclose(module.likelihood.noise_scale()[varying], expected[varying], rtol=1e-3)
