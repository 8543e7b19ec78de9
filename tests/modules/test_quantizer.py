import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from skvae import functional as fn
from skvae.modules import VectorQuantizer
from skvae.modules.quantizer import REVIVAL_INTERVAL

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def blobs(n=400, n_blobs=5, dim=2, spread=0.1, seed=0):
    """Vectors in well separated heaps of different sizes, and their heaps."""
    rng = np.random.default_rng(seed)
    angle = 2.0 * np.pi * np.arange(n_blobs) / n_blobs
    centers = np.zeros((n_blobs, dim))
    centers[:, 0], centers[:, 1] = 3.0 * np.cos(angle), 3.0 * np.sin(angle)
    which = np.minimum(rng.integers(0, n_blobs, size=n), rng.integers(0, n_blobs, size=n))
    return torch.from_numpy(centers[which] + spread * rng.normal(size=(n, dim))), torch.from_numpy(which)


def quantizer(n_embeddings=5, dim=2, *, revive=True, **params):
    vq = VectorQuantizer(n_embeddings, dim, **params).double()
    vq.n_steps, vq.revives = 0, revive  # which training keeps
    return vq


def step(vq, x, weight=None, optimizer=None):
    quantized = vq(x, torch.ones(len(x), dtype=x.dtype) if weight is None else weight)
    if optimizer is not None:
        optimizer.zero_grad()
        quantized.codebook.mean().backward()
    if vq.training:
        vq.after_step(quantized.learned)
        if vq.revives and vq.n_steps % REVIVAL_INTERVAL == 0:
            vq.revive_dead(quantized.learned, vq.n_steps)
        vq.n_steps += 1
    if optimizer is not None:
        optimizer.step()
    return quantized


def tensors(vq):
    return {name: value for name, value in vq.state_dict().items() if isinstance(value, torch.Tensor)}


def cluster_means(x, codes, n):
    return torch.stack([x[codes == code].mean(0) for code in range(n)])


# -- how codebooks learn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_codebook_converges_to_the_fixed_point_of_k_means(codebook):
    x, which = blobs()
    vq = quantizer(codebook=codebook, revive=False, decay=0.9)
    vq.set_codebook(x[[int((which == i).nonzero()[0]) for i in range(5)]])
    optimizer = torch.optim.SGD(vq.parameters(), lr=1.0) if codebook == "gradient" else None
    before = vq.codebook.detach().clone()
    for _ in range(200):
        step(vq, x, optimizer=optimizer)
    codes = vq.codes(x)
    torch.testing.assert_close(vq.codebook.detach(), cluster_means(x, codes, 5), rtol=0, atol=1e-4)
    assert (vq.codebook - before).norm(dim=1).max() > 0.05
    kmeans = KMeans(5, init=before.numpy(), n_init=1).fit(x.numpy())
    torch.testing.assert_close(vq.codebook.detach(), torch.from_numpy(kmeans.cluster_centers_), rtol=0, atol=1e-4)


def test_averages_are_those_of_the_paper():
    x, weight = blobs()[0], torch.rand(400, dtype=torch.float64)
    vq = quantizer(revive=False, decay=0.7, smoothing=0.5)
    vq.set_codebook(x[::80])
    count, total, codebook = np.ones(5), vq.codebook.numpy().copy(), vq.codebook.numpy().copy()
    for _ in range(3):
        codes = fn.nearest_codes(x, torch.from_numpy(codebook)).numpy()
        step(vq, x, weight)
        for k in range(5):
            mine = codes == k
            count[k] = 0.7 * count[k] + 0.3 * weight.numpy()[mine].sum()
            total[k] = 0.7 * total[k] + 0.3 * (weight.numpy()[mine, None] * x.numpy()[mine]).sum(0)
        smoothed = (count + 0.5) / (count.sum() + 5 * 0.5) * count.sum()
        codebook = total / smoothed[:, None]
        np.testing.assert_allclose(vq.count.numpy(), count, rtol=1e-12)
        np.testing.assert_allclose(vq.codebook.numpy(), codebook, rtol=1e-12)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_weights_are_repetitions(codebook):
    x = blobs(60)[0]
    times = torch.arange(60) % 3
    once, repeated = (quantizer(codebook=codebook, revive=False) for _ in range(2))
    for vq in (once, repeated):
        vq.set_codebook(x[::12])
    step(once, x, times.double())
    step(repeated, x.repeat_interleave(times, 0))
    torch.testing.assert_close(once.count, repeated.count)
    torch.testing.assert_close(once.codebook, repeated.codebook)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_vectors_without_weight_have_no_effect(codebook):
    x = blobs(300, n_blobs=3)[0]
    far = torch.full((50, 2), 100.0, dtype=torch.float64)
    with_far, without = (quantizer(40, codebook=codebook) for _ in range(2))
    weight = torch.ones(400, dtype=torch.float64)
    weight[:50] = weight[350:] = 0.0
    for vq in (with_far, without):
        vq.set_codebook(x[:40] + 1.0)
    for _ in range(300):  # long enough for codes to be revived
        step(with_far, torch.cat([far, x, far]), weight)
        step(without, x)
    for name, value in tensors(without).items():
        torch.testing.assert_close(tensors(with_far)[name], value, rtol=1e-9, atol=1e-9)
    assert with_far.codebook.abs().max() < 10.0


def test_nothing_moves_before_the_step_and_nothing_is_learned_in_evaluation():
    x, ones = blobs()[0], torch.ones(400, dtype=torch.float64)
    vq = quantizer()
    before, attributes = copy.deepcopy(tensors(vq)), set(vars(vq))
    assert vq.eval()(x, ones).learned == {}
    learned = vq.train()(x, ones).learned
    for name, value in before.items():
        assert torch.equal(vq.state_dict()[name], value)
    assert set(vars(vq)) == attributes
    vq.after_step(learned)
    assert not torch.equal(vq.codebook, before["codebook"])


def test_what_is_learned_from_a_batch_are_plain_tensors():
    learned = quantizer(standardize=True)(blobs()[0].requires_grad_(), torch.ones(400, dtype=torch.float64)).learned
    assert set(learned) == {"vectors", "codes", "distance", "weight", "mean", "variance"}
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in learned.values())


# -- revival ----------------------------------------------------------------------------------------------------------


def far_away(vq):
    """A codebook that is out of all vectors' reach but for one code."""
    codebook = torch.full((vq.n_embeddings, vq.embedding_dim), 1e3, dtype=torch.float64)
    codebook[0] = 0.0
    vq.set_codebook(codebook)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_dead_codes_are_revived(codebook):
    x = blobs()[0]
    vq = quantizer(8, codebook=codebook)
    far_away(vq)
    assert len(vq.codes(x).unique()) == 1
    for _ in range(600):
        step(vq, x)
    assert len(vq.codes(x).unique()) == 8
    assert vq.codebook.abs().max() < 10.0


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_dead_codes_stay_dead_without_revival(codebook):
    x = blobs()[0]
    vq = quantizer(8, codebook=codebook, revive=False)
    far_away(vq)
    for _ in range(300):
        step(vq, x)
    assert len(vq.codes(x).unique()) == 1


def test_codes_in_use_are_left_alone():
    x = blobs(spread=0.5)[0]
    with_revival, without = quantizer(8, revive=True), quantizer(8, revive=False)
    for vq in (with_revival, without):
        vq.set_codebook(x[:8])
    for _ in range(50):
        step(with_revival, x)
        step(without, x)
    assert torch.bincount(without.codes(x), minlength=8).min() > 5  # of 50 on average
    assert torch.equal(with_revival.codebook, without.codebook)


def test_no_vector_is_handed_to_two_codes():
    x = torch.randn(64, 3, dtype=torch.float64)
    vq = quantizer(33, 3)
    far_away(vq)
    vq.count[1:] = 0.0
    ones = torch.ones(33, dtype=torch.float64)
    for n_steps in range(5):  # wherever the draw begins
        trial = copy.deepcopy(vq)
        # As many vectors as codes, all at the same distance.
        trial.revive_dead({"vectors": x[:33], "distance": ones, "weight": ones}, n_steps)
        assert len(trial.codebook[1:].unique(dim=0)) == 32


def test_revival_goes_where_the_distances_are():
    x = torch.cat([torch.zeros(990, 2), torch.randn(10, 2) + 50.0]).double()
    vq = quantizer(11)
    far_away(vq)
    vq.count[1:] = 0.0
    step(vq, x)
    assert ((vq.codebook[1:] - 50.0).abs() < 10.0).all()


def test_vectors_that_lie_on_the_codebook_revive_nothing():
    vq = quantizer(4)
    far_away(vq)
    vq.count[1:] = 0.0
    step(vq, torch.zeros(30, 2, dtype=torch.float64))
    assert (vq.codebook[1:] > 100.0).all()
    assert torch.isfinite(vq.codebook).all()


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_steps_do_not_wait_for_the_device(codebook):
    class NoReading(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "item"), name
            boolean = any(
                isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in (args[1] if name.startswith("index") else ()) or ()
            )
            assert not boolean
            return func(*args, **(kwargs or {}))

    vq, x = quantizer(64, codebook=codebook), blobs()[0]
    with NoReading():
        step(vq, x)
    with pytest.raises(AssertionError), NoReading():
        vq.eval().codes(torch.zeros(3, 2, dtype=torch.float64))  # the mode would see it


# -- quantization -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_terms_and_their_gradients(codebook, gradient):
    x = blobs(40)[0].requires_grad_()
    vq = quantizer(codebook=codebook, gradient=gradient, commitment_weight=0.3)
    vq.set_codebook(x.detach()[:5] + 0.1)
    quantized = vq(x, torch.ones(40, dtype=torch.float64))
    codes = vq.codes(x)
    chosen = vq.codebook.detach()[codes]
    assert torch.equal(quantized.codes, codes)
    assert torch.equal(quantized.vectors, chosen)
    torch.testing.assert_close(quantized.commitment, 0.3 * (x - chosen).square().sum(1))
    (pull,) = torch.autograd.grad(quantized.commitment.sum(), x, retain_graph=True)
    torch.testing.assert_close(pull, 0.6 * (x.detach() - chosen))
    direction = torch.randn(40, 2, dtype=torch.float64)
    (passed,) = torch.autograd.grad(quantized.vectors, x, direction, retain_graph=True)
    other = x.detach().clone().requires_grad_()
    function = {"straight_through": fn.straight_through, "rotation": fn.rotate_to}[gradient]
    (expected,) = torch.autograd.grad(function(other, chosen), other, direction)
    torch.testing.assert_close(passed, expected)
    if codebook == "ema":
        assert quantized.codebook is None
        assert not list(vq.parameters())
    else:
        quantized.codebook.sum().backward()
        assert x.grad is None
        expected = torch.stack([2.0 * (vq.codebook.detach()[k] - x.detach()[codes == k]).sum(0) for k in range(5)])
        torch.testing.assert_close(vq.codebook.grad, expected)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_cosine_looks_at_directions_alone(codebook):
    x = torch.randn(200, 4, dtype=torch.float64)
    vq = quantizer(10, 4, similarity="cosine", codebook=codebook)
    for _ in range(3):
        step(vq, x)
    expected = F.cosine_similarity(x.unsqueeze(1), vq.embeddings().unsqueeze(0), dim=2).argmax(1)
    lengths = torch.rand(200, 1, dtype=torch.float64) + 0.1
    assert torch.equal(vq.codes(x), expected)
    assert torch.equal(vq.codes(x * lengths), expected)
    quantized = vq(x, torch.ones(200, dtype=torch.float64))
    ones = torch.ones(200, dtype=torch.float64)
    torch.testing.assert_close(quantized.vectors.norm(dim=1), ones)
    torch.testing.assert_close(vq.embed(expected).norm(dim=1), ones)
    torch.testing.assert_close(vq.embeddings().norm(dim=1), ones[:10])
    torch.testing.assert_close(quantized.commitment, 0.25 * (F.normalize(x) - quantized.vectors).square().sum(1))


def test_cosine_moves_to_the_mean_direction():
    x = blobs(n_blobs=4, spread=0.3)[0]
    vq = quantizer(4, similarity="cosine", revive=False, decay=0.9)
    vq.set_codebook(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    for _ in range(200):
        step(vq, x)
    expected = F.normalize(cluster_means(F.normalize(x), vq.codes(x), 4))
    torch.testing.assert_close(vq.embeddings(), expected, rtol=0, atol=1e-5)


def test_batches_are_standardized_as_batch_normalization_does():
    x = (torch.randn(50, 4, dtype=torch.float64) * 3.0 + 2.0).requires_grad_()
    vq, norm = quantizer(10, 4, standardize=True), torch.nn.BatchNorm1d(4, eps=1e-10, affine=False).double()
    vq.set_codebook(torch.randn(10, 4))
    expected = norm(x)
    quantized = vq(x, torch.ones(50, dtype=torch.float64))
    commitment = quantized.commitment
    chosen = vq.codebook[fn.nearest_codes(expected, vq.codebook)].clone()
    torch.testing.assert_close(commitment, 0.25 * (expected - chosen).square().sum(1))
    (one,) = torch.autograd.grad(commitment.sum(), x)
    (other,) = torch.autograd.grad(0.25 * (expected - chosen).square().sum(), x)
    torch.testing.assert_close(one, other)
    assert torch.equal(vq.mean, torch.zeros(4))
    vq.after_step(quantized.learned)
    torch.testing.assert_close(vq.mean, norm.running_mean)
    torch.testing.assert_close(vq.variance, 0.9 + 0.1 * x.detach().var(0, correction=0))
    # In use, by the averages, whatever the batch.
    scaled = (x.detach() - vq.mean) / (vq.variance + 1e-10).sqrt()
    torch.testing.assert_close(vq.prepare(x.detach()), scaled)
    assert torch.equal(vq.codes(x[:1]), vq.codes(x)[:1])
    vq.eval()
    torch.testing.assert_close(vq(x, torch.ones(50, dtype=torch.float64)).vectors, vq.embed(vq.codes(x)))


def test_standardization_leaves_out_vectors_without_weight():
    x, far = torch.randn(50, 4, dtype=torch.float64), torch.full((9, 4), 1e3, dtype=torch.float64)
    with_far, without = (quantizer(10, 4, standardize=True) for _ in range(2))
    with_far.load_state_dict(without.state_dict())
    weight = torch.cat([torch.ones(50), torch.zeros(9)]).double()
    torch.testing.assert_close(step(with_far, torch.cat([x, far]), weight).vectors[:50], step(without, x).vectors)
    for name, value in tensors(without).items():
        torch.testing.assert_close(tensors(with_far)[name], value)
    step(without, x[:1])  # of which there is no variance
    assert all(torch.isfinite(value).all() for value in tensors(without).values())


@pytest.mark.parametrize("similarity", ["euclidean", "cosine"])
def test_a_codebook_can_be_set(similarity):
    x = blobs()[0]
    vq = quantizer(similarity=similarity)
    for _ in range(20):
        step(vq, x)
    centers = torch.randn(5, 2) * 3.0
    vq.set_codebook(centers)
    expected = F.normalize(centers) if similarity == "cosine" else centers
    torch.testing.assert_close(vq.embeddings(), expected.double())
    torch.testing.assert_close(vq.total / vq.count.unsqueeze(1), vq.codebook)
    torch.testing.assert_close(vq.mean_embedding(), expected.double().mean(0))


def test_mean_embedding_goes_by_use():
    x, which = blobs(2000, n_blobs=2)
    vq = quantizer(2, decay=0.5)
    vq.set_codebook(cluster_means(x, which, 2))
    for _ in range(40):
        step(vq, x)
    torch.testing.assert_close(vq.mean_embedding(), x.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_state_goes_round(codebook):
    x = blobs()[0]
    vq, other = quantizer(16, codebook=codebook), quantizer(16, codebook=codebook)
    for _ in range(10):
        step(vq, x)
    other.load_state_dict(vq.state_dict())
    other.n_steps = vq.n_steps
    for _ in range(300):  # with revivals
        step(vq, x)
        step(other, x)
    for name, value in tensors(vq).items():
        assert torch.equal(tensors(other)[name], value)


def test_cost_counts_the_search():
    vq = VectorQuantizer(32, 4, n_vectors=49)
    assert vq.row_work == 49 * 32 * 4
    assert vq.row_size == 49 * 32
    assert VectorQuantizer(2**20, 4, n_vectors=1000).row_size == fn.SEARCH_NUMBERS  # searched in parts
