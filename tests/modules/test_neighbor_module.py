import pytest
import torch

from skvae import functional as fn
from skvae.modules import Batch, NeighborAEModule


def make_module(**params):
    torch.manual_seed(0)
    return NeighborAEModule(4, 2, hidden_layer_sizes=(8,), min_dist=0.5, **params)


def make_batch(n=6, seed=0, **params):
    generator = torch.Generator().manual_seed(seed)
    x, neighbor = torch.randn(2, n, 4, generator=generator)
    jitter = torch.randn(n, 2, generator=generator)
    return Batch.of(x, **params)._replace(neighbor=neighbor, noise={"jitter": jitter})


def test_the_loss_is_reconstruction_attraction_and_five_times_repulsion():
    module, batch = make_module(), make_batch(weight=torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 0.5]))
    module.scale.fill_(3.0)
    terms = module.loss(batch, {}).terms
    code, near = module.encode(batch), module.encode(Batch.of(batch.neighbor))
    a, b = fn.similarity_curve(0.5)
    torn = fn.attraction(code, near, a, b) + 5.0 * fn.repulsion(code, batch.weight, a, b)
    torch.testing.assert_close(terms["neighbor"], 3.0 * torn, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        terms["reconstruction"], module.likelihood.distortion(batch.x, module.decode(code + 0.1 * batch.noise["jitter"], batch))
    )


def test_without_neighbors_the_distortion_is_left():
    module, batch = make_module(), make_batch()
    found = module.loss(batch._replace(neighbor=None), {}).terms
    assert list(found) == ["reconstruction"]
    expected = module.likelihood.distortion(batch.x, module.decode(module.encode(batch), batch))
    assert torch.equal(found["reconstruction"], expected)
    assert make_module(neighbor_weight=0.0).noise_shapes == {}


def test_the_weight_of_neighbors_is_in_their_scale():
    scales = []
    for weight in (1.0, 3.0):
        module = make_module(neighbor_weight=weight)
        module.measure_scale(make_batch())
        scales.append(float(module.scale))
    assert scales[1] == pytest.approx(3.0 * scales[0])


def test_rows_of_weight_zero_change_no_term_and_no_gradient():
    module, batch = make_module(), make_batch()
    padded = Batch(*(torch.cat([part, part[:2]]) if isinstance(part, torch.Tensor) else part for part in batch))
    jitter = {"jitter": torch.cat([batch.noise["jitter"], batch.noise["jitter"][:2]])}
    padded = padded._replace(weight=torch.cat([batch.weight * 8 / 6, torch.zeros(2)]), target=padded.x, noise=jitter)

    def total(given):
        terms = module.loss(given, {}).terms
        value = sum((given.weight / len(given.weight) * term).sum() for term in terms.values())
        return terms, torch.autograd.grad(value, list(module.parameters()))

    (terms, gradients), (expected, expected_gradients) = total(padded), total(batch)
    for name, term in expected.items():
        torch.testing.assert_close(terms[name][:6], term)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_encoder_reads_which_entries_of_neighbors_are_missing():
    module, batch = make_module(indicated=(1,)), make_batch(observed=torch.rand(6, 4) > 0.3)
    observed = torch.ones(6, 4, dtype=torch.bool)
    complete = module.loss(batch._replace(neighbor_observed=observed), {}).terms["neighbor"]
    observed = observed.clone()
    observed[:, 1] = False
    assert (module.loss(batch._replace(neighbor_observed=observed), {}).terms["neighbor"] != complete).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli", "poisson"])
def test_the_scale_is_part_of_the_least_distortion_without_a_code(likelihood):
    module = NeighborAEModule(4, 2, hidden_layer_sizes=(8,), likelihood=likelihood)
    rows = torch.randint(0, 2, (200, 4), generator=torch.Generator().manual_seed(0)).double().numpy()
    module.likelihood.fit(rows)
    x = module.likelihood.standardize(rows)
    module.measure_scale(Batch.of(x))
    energy = torch.stack(
        [module.likelihood.energies(x, torch.full_like(x, value)).mean(0) for value in torch.linspace(-4, 4, 401)]
    )
    least = float((energy.amin(0) * module.likelihood.training_weight).sum())
    assert 0.178 * least < float(module.scale) < 0.24 * least
