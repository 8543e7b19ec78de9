"""Priors that are trained with the networks: closed forms, and how they are placed by rows."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from skvae.functional import gaussian_kl
from skvae.modules import (
    MLP,
    Batch,
    CodedRows,
    Flow,
    FlowPrior,
    MixturePrior,
    NormalMixture,
    PosteriorMixture,
    StandardNormal,
    VAEModule,
    VampPrior,
)
from skvae.modules.posterior import DiagonalNormal
from skvae.modules.priors.flow import Coupling
from skvae.modules.priors.normal import ConditionalPrior
from skvae.runtime.state import copy_of

pytestmark = pytest.mark.usefixtures("one_core")


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def shaken(module, width=0.3, seed=0):
    """Move all that is learned, which begins at a special case."""
    for i, parameter in enumerate(module.parameters()):
        parameter += width * randn(*parameter.shape, seed=seed + i).to(parameter)
    return module


def cluster(codes, weight, n_clusters):
    found = KMeans(n_clusters, n_init=3, random_state=0).fit(codes.numpy(), sample_weight=weight.numpy()).labels_
    return torch.from_numpy(found).long()


def rows_around(means, n=60, spread=0.3, weight=None):
    """Rows around means, of which the encoder reads the codes themselves."""
    codes = (means.unsqueeze(1) + spread * randn(len(means), n, means.shape[1])).flatten(0, 1)
    weight = torch.ones(len(codes), dtype=torch.float64) if weight is None else weight
    width = torch.full_like(codes, 0.1)
    return CodedRows(codes, codes, torch.stack([codes - width, codes + width], 1), weight / weight.sum())


MEANS = torch.tensor([[-4.0, 0.0], [4.0, 1.0], [0.0, 5.0]], dtype=torch.float64)


class Mirror:
    """Stands for a module whose encoder returns what it reads, with a spread."""

    @staticmethod
    def posterior_of_inputs(inputs):
        return DiagonalNormal(inputs, torch.full_like(inputs, -2.0))


def vamp(n_parts, n_components=2):
    prior = PosteriorMixture(n_components, n_parts)
    prior.attach(Mirror, n_components)
    return prior.double()


# -- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("n_parts", [1, 4])
def test_priors_begin_at_the_standard_normal_distribution(n_components, n_parts):
    z = 2.0 * randn(5, n_components)
    for prior in (
        NormalMixture(n_components, n_parts),
        Flow(StandardNormal(n_components), 3, (4,)),
        Flow(NormalMixture(n_components, n_parts), 3, ()),
    ):
        torch.testing.assert_close(prior.double().log_prob(z), StandardNormal(n_components).double().log_prob(z))


def test_the_divergence_from_one_normal_distribution_is_exact():
    prior, q = shaken(NormalMixture(3, 1).double()), DiagonalNormal(randn(4, 3), randn(4, 3, seed=1))
    _, mean, log_var = prior.components()
    exact = gaussian_kl(*q, mean, log_var)
    torch.testing.assert_close(prior.kl(q, q.from_noise(randn(4, 1, 3, seed=2))), exact)
    drawn = q.from_noise(randn(4, 200_000, 3, seed=3))
    ratio = (q.log_prob(drawn) - prior.log_prob(drawn)).detach()
    assert ((ratio.mean(1) - exact).abs() < 5.0 * ratio.std(1) / math.sqrt(200_000)).all()


@pytest.mark.parametrize(
    "prior",
    [shaken(NormalMixture(1, 3), 1.0), vamp(3, 1), shaken(Flow(shaken(NormalMixture(1, 3), 1.0), 2, (4,)))],
    ids=["mixture", "vamp", "flow"],
)
def test_densities_of_one_component_integrate_to_one(prior):
    line = torch.linspace(-30.0, 30.0, 6001, dtype=torch.float64).unsqueeze(1)
    with torch.no_grad():
        density = prior.double().log_prob(line).exp()
    assert float(density.sum() * 0.01) == pytest.approx(1.0, abs=1e-6)
    drawn = prior.from_noise(randn(50_000, prior.n_noise)).detach()
    cumulative = (density.cumsum(0) * 0.01)[:: len(line) // 20]
    below = (drawn < line[:: len(line) // 20].T).double().mean(0)
    torch.testing.assert_close(below, cumulative, atol=0.012, rtol=0.0)


@pytest.mark.parametrize("n_components", [1, 2, 3, 5])
def test_a_flow_has_the_inverse_and_the_determinant_of_autograd(n_components):
    flow = shaken(Flow(StandardNormal(n_components), 5, (6, 4)).double())
    z = 3.0 * randn(7, n_components)
    u, log_det = flow.to_base(z)
    torch.testing.assert_close(flow.from_base(u), z)
    for i in range(7):
        slopes = torch.autograd.functional.jacobian(lambda z: flow.to_base(z)[0], z[i])
        torch.testing.assert_close(torch.linalg.slogdet(slopes).logabsdet, log_det[i].detach())
    assert not torch.allclose(u, z)


@pytest.mark.parametrize("n_components", [2, 3, 8, 11])
def test_layers_of_a_flow_move_every_component_and_tie_it_to_every_other(n_components):
    flow = shaken(Flow(StandardNormal(n_components), 2 * (n_components - 1).bit_length(), (6,)).double())
    assert all(isinstance(layer, Coupling) for layer in flow.layers)
    slopes = torch.autograd.functional.jacobian(lambda z: flow.to_base(z)[0], randn(n_components))
    assert (slopes.diagonal() != 0.0).all()
    moves = torch.stack([1.0 - layer.kept for layer in flow.layers])
    assert (moves.sum(0) > 0.0).all()
    reads = torch.einsum("li,lj->ij", moves, 1.0 - moves)
    assert (reads + torch.eye(n_components) > 0.0).all()


def test_posteriors_of_one_learned_row_are_the_prior():
    module = VAEModule(5, 2, hidden_layer_sizes=(6,), prior=VampPrior(1)).double()
    z = randn(4, 3, 2)
    q = module.posterior_of_inputs(module.prior.pseudo_inputs)
    expected = DiagonalNormal(*(part.expand(4, -1) for part in q)).log_prob(z)
    torch.testing.assert_close(module.prior.log_prob(z), expected)
    torch.testing.assert_close(module.prior.moments(4).mean, q.mean.expand(4, -1))


@pytest.mark.parametrize("prior", [shaken(NormalMixture(3, 4).double(), 1.0), vamp(4, 3)], ids=["mixture", "vamp"])
def test_moments_are_those_of_many_draws(prior):
    with torch.no_grad():
        drawn, (mean, log_var) = prior.from_noise(randn(200_000, 4)), prior.moments(1)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - mean[0]).abs() < 5.0 * error).all()
    torch.testing.assert_close(drawn.var(0), log_var[0].exp(), rtol=0.02, atol=0.0)


def test_responsibilities_are_shares_of_the_density():
    mixture = shaken(NormalMixture(2, 3).double(), 1.0)
    z = randn(5, 4, 2)
    share = mixture.responsibilities(z)
    torch.testing.assert_close(share.sum(-1), torch.ones(5, 4).double())
    log_weight, mean, log_var = mixture.components()
    for k in range(3):
        alone = log_weight[k] + DiagonalNormal(mean[k].expand(5, -1), log_var[k].expand(5, -1)).log_prob(z)
        torch.testing.assert_close(share[..., k], torch.exp(alone - mixture.log_prob(z)))
    flow = shaken(Flow(mixture, 2, (4,)).double())
    torch.testing.assert_close(flow.responsibilities(z), mixture.responsibilities(flow.to_base(z)[0]))


@pytest.mark.parametrize(
    "spec", [MixturePrior(4), VampPrior(4), FlowPrior(), FlowPrior("mixture")], ids=["mixture", "vamp", "flow", "both"]
)
def test_gradients_are_finite_far_away(spec):
    module = VAEModule(5, 2, hidden_layer_sizes=(6,), prior=spec)
    shaken(module.prior)
    for far in (1e3, 1e6):
        z = torch.full((3, 2), far, requires_grad=True)
        density = module.prior.log_prob(z)
        density.sum().backward()
        assert torch.isfinite(density).all()
        assert torch.isfinite(z.grad).all()
        assert all(torch.isfinite(parameter.grad).all() for parameter in module.prior.parameters())


def test_a_component_keeps_some_width_however_much_it_is_narrowed():
    mixture = NormalMixture(2, 3)
    with torch.no_grad():
        mixture.log_excess.fill_(-1e3)
    log_var = mixture.components().log_var
    assert torch.isfinite(log_var).all()
    assert mixture.log_prob(torch.zeros(1, 2)).item() < 20.0


def test_far_but_narrow_components_have_their_digits():
    mixture = NormalMixture(2, 2)
    with torch.no_grad():
        mixture.mean.fill_(100.0)
        mixture.log_excess.fill_(-12.0)
    z = torch.tensor([[100.01, 99.99]])
    exact = mixture.double().log_prob(z.double())
    torch.testing.assert_close(mixture.float().log_prob(z).double(), exact, rtol=1e-5, atol=0.0)


# -- placed by rows ---------------------------------------------------------------------------------------------------


def test_a_mixture_is_placed_at_clusters():
    weight = torch.cat([torch.full((60,), w, dtype=torch.float64) for w in (1.0, 2.0, 3.0)])
    prior = NormalMixture(2, 3).double()
    prior.begin(rows_around(MEANS, weight=weight), cluster)
    log_weight, mean, log_var = (part.detach() for part in prior.components())
    order = torch.cdist(MEANS, mean).argmin(1)
    torch.testing.assert_close(mean[order], MEANS, atol=0.15, rtol=0.0)
    torch.testing.assert_close(log_weight.exp()[order], torch.tensor([1.0, 2.0, 3.0]).double() / 6.0)
    # Of the rows in a cluster, and of what is not known of each.
    torch.testing.assert_close(log_var.exp(), torch.full((3, 2), 0.3**2 + 0.1**2).double(), rtol=0.5, atol=0.0)


@pytest.mark.parametrize("n_distinct", [1, 2, 3])
def test_fewer_rows_than_components_place_them_all(n_distinct):
    few = rows_around(MEANS[:n_distinct], n=1)
    prior = NormalMixture(2, 5).double()
    prior.begin(few, lambda codes, weight, n: torch.arange(len(codes)))
    assert all(torch.isfinite(part).all() for part in prior.components())
    assert prior.components().log_weight.exp().sum().item() == pytest.approx(1.0)
    learned = vamp(5)
    learned.begin(few, cluster)
    assert torch.isfinite(learned.log_prob(few.mean)).all()


def test_learned_rows_begin_at_training_rows_by_their_weights():
    weight = torch.cat([torch.full((60,), w, dtype=torch.float64) for w in (0.0, 1.0, 2.0)])
    rows = rows_around(MEANS, weight=weight)
    prior = vamp(30)
    prior.begin(rows, cluster)
    nearest = torch.cdist(prior.pseudo_inputs.detach(), rows.inputs)
    assert nearest.amin(1).max() < 1e-6
    group = torch.bincount(nearest.argmin(1) // 60, minlength=3)
    assert group[0] == 0
    assert abs(group[2] - 20) <= 1
    half = rows_around(MEANS)
    twice = CodedRows(*(torch.cat([part, part]) for part in half))
    prior, other = vamp(29), vamp(29)  # of which none falls between two rows
    prior.begin(half, cluster)
    other.begin(twice._replace(weight=twice.weight / 2), cluster)
    torch.testing.assert_close(prior.pseudo_inputs, other.pseudo_inputs)


@pytest.mark.parametrize("flows", [False, True])
@pytest.mark.parametrize("make", [lambda: NormalMixture(2, 4).double(), lambda: vamp(4)], ids=["mixture", "vamp"])
def test_idle_parts_are_revived(make, flows):
    rows, base = rows_around(MEANS), make()
    prior = Flow(base, 2, (4,)).double() if flows else base
    assert prior.learns_from_rows
    prior.begin(rows, cluster)
    with torch.no_grad():
        (base.mean if isinstance(base, NormalMixture) else base.pseudo_inputs)[1:3] = 100.0
    assert prior.n_idle(rows) == 2
    before = prior.log_prob(rows.mean).mean()
    prior.revive(rows, cluster)
    assert prior.n_idle(rows) == 0
    assert prior.log_prob(rows.mean).mean() > before + 0.5
    state = {name: value.clone() for name, value in prior.state_dict().items()}
    prior.revive(rows, cluster)  # none is idle, so that nothing changes
    assert all(torch.equal(value, state[name]) for name, value in prior.state_dict().items())


def test_rows_that_are_all_the_same_are_borne():
    same = rows_around(torch.zeros(1, 2).double(), n=6, spread=0.0)
    for prior in (NormalMixture(2, 3).double(), vamp(3)):
        prior.begin(same, lambda codes, weight, n: torch.zeros(len(codes), dtype=torch.long))
        prior.revive(same, lambda codes, weight, n: torch.zeros(len(codes), dtype=torch.long))
        assert torch.isfinite(prior.log_prob(same.mean)).all()


# -- specifications ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MixturePrior(0), r"MixturePrior\(n_components=0\): n_components=0 must be an integer of at least 1"),
        (MixturePrior(2.0), "n_components=2.0 must be an integer"),
        (VampPrior(-1), r"VampPrior\(n_pseudo_inputs=-1\): n_pseudo_inputs=-1 must be an integer of at least 1"),
        (FlowPrior(n_layers=0), r"FlowPrior\(n_layers=0\): n_layers=0 must be an integer of at least 1"),
        (FlowPrior(hidden_layer_sizes=(0,)), r"hidden_layer_sizes=\(0,\) must be a sequence of integers of at least 1"),
        (FlowPrior("none"), "base='none' must be one of 'conditional', 'flow', 'mixture', .*, or a PriorSpec"),
        (FlowPrior(3), "base=3 must be one of"),
        (FlowPrior(MixturePrior(0)), r"FlowPrior\(.*\): MixturePrior\(n_components=0\): n_components=0 must be"),
    ],
)
def test_wrong_arguments_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        spec.check()


def test_arguments_of_the_simpler_prior_are_set_through_the_flow():
    base = MixturePrior(3)
    spec = FlowPrior(base)
    assert spec.set_params(base__n_components=5, n_layers=2) is spec
    assert spec == FlowPrior(MixturePrior(5), n_layers=2)
    assert base == MixturePrior(3)  # others may hold it
    assert FlowPrior().set_params(base="vamp", base__n_pseudo_inputs=7) == FlowPrior(VampPrior(7))
    before = FlowPrior("mixture")
    with pytest.raises(ValueError, match="MixturePrior has no parameter 'nothing'; it has n_components"):
        before.set_params(base__nothing=1)
    assert before == FlowPrior("mixture")


def test_a_flow_asks_for_conditions_where_the_simpler_prior_does():
    assert FlowPrior(ConditionalPrior()).needs_condition
    assert not FlowPrior().needs_condition
    prior = FlowPrior("conditional", n_layers=2).build(2, n_conditions=3, hidden=MLP((4,), "tanh")).double()
    z, condition = randn(4, 2), randn(4, 3)
    assert not torch.allclose(prior.log_prob(z, condition), prior.log_prob(z, 2.0 * condition))


def test_batch_normalization_goes_by_past_rows_where_rows_are_learned():
    module = VAEModule(5, 2, encoder=MLP((6,), normalization="batch"), prior=VampPrior(1)).train()
    state = {name: value.clone() for name, value in module.encoder.state_dict().items()}
    module.prior.log_prob(torch.zeros(1, 2)).sum().backward()
    assert all(torch.equal(value, state[name]) for name, value in module.encoder.state_dict().items())
    assert all(layer.training for layer in module.encoder.modules())
    assert np.isfinite(module.prior.pseudo_inputs.grad.numpy()).all()


# -- when they take over ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [MixturePrior(3), VampPrior(3), FlowPrior(n_layers=2)], ids=["mixture", "vamp", "flow"])
@pytest.mark.parametrize("capacity", [None, 0.5])
def test_codes_are_drawn_to_the_standard_normal_distribution_first(spec, capacity):
    module = VAEModule(5, 2, hidden_layer_sizes=(6,), prior=spec, kl_warmup=0.5, capacity=capacity)
    shaken(module.prior, 0.5)
    plain = VAEModule(5, 2, hidden_layer_sizes=(6,), kl_warmup=0.5, capacity=capacity)
    plain.load_state_dict(module.state_dict(), strict=False)
    batch = Batch.of(torch.randn(4, 5), noise={"posterior": torch.randn(4, 2)})
    for progress, is_same in ((0.2, True), (0.49, True), (0.5, False), (1.0, False)):
        schedule = {name: torch.tensor(value) for name, value in module.schedule(progress).items()}
        ours, theirs = (each.loss(batch, schedule).terms["kl"] for each in (module, plain))
        assert torch.allclose(ours, theirs) is is_same
        gradients = torch.autograd.grad(ours.sum(), list(module.prior.parameters()), allow_unused=True)
        assert any(bool(each is not None and each.abs().sum() > 0.0) for each in gradients) is not is_same


@pytest.mark.parametrize(
    ("params", "joins_at"),
    [
        ({"prior": "flow"}, 0.25),
        ({"prior": "mixture", "kl_warmup": 0.1}, 0.25),
        ({"prior": "vamp", "kl_warmup": 0.4}, 0.4),
        ({"prior": "flow", "linear_path": 1.0}, 0.0),
        ({"prior": "mixture", "linear_path": 1.0, "kl_warmup": 0.1}, 0.1),
        ({"kl_warmup": 0.4}, 0.0),
    ],
)
def test_priors_take_over_once_codes_mean_something(params, joins_at):
    module = VAEModule(5, 2, hidden_layer_sizes=(6,), **params)
    assert module.joins_at == joins_at
    assert ("prior" in module.schedule(0.0)) == (joins_at > 0.0)


def test_a_copy_asks_its_own_encoder():
    module = VAEModule(5, 2, hidden_layer_sizes=(6,), prior=FlowPrior(VampPrior(3)))
    z = torch.randn(4, 2)
    for copied in (copy.deepcopy(module), copy_of(module)):
        before = module.prior.log_prob(z)
        torch.testing.assert_close(copied.prior.log_prob(z), before)
        shaken(copied.encoder, 1.0)
        assert torch.equal(module.prior.log_prob(z), before)
        assert not torch.allclose(copied.prior.log_prob(z), before)
    names = [name for name, _ in module.named_parameters()]
    assert len(set(names)) == len(names) == len(list(module.parameters()))
