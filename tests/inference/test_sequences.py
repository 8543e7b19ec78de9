import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import qmc

from skvae.inference import sequences
from skvae.inference.importance import normal_pool
from skvae.modules import TDVAEModule

pytestmark = pytest.mark.usefixtures("one_core")

CPU = torch.device("cpu")


@pytest.fixture
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = TDVAEModule(2, 6, n_timesteps=9, max_gap=3, n_latents=2, hidden_layer_sizes=(5,), encoder="gru")
        for parameter in module.belief.parameters():  # beliefs that differ
            torch.nn.init.normal_(parameter, std=0.2)
    X = data()
    module.likelihood.fit(X[~np.isnan(X[..., 0])])
    return module.eval()


def data(n=30):
    """Sequences of two columns in different units, with NaN behind the end of some."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 9, 2)) * [1.0, 10.0] + [3.0, 0.0]
    X[np.arange(9) >= rng.integers(1, 10, size=(n, 1))] = np.nan
    return X


def results(module, X):
    Z = sequences.beliefs(module, X, CPU)
    last = Z[~np.isnan(Z).any(axis=2)]
    return {
        "beliefs": Z,
        "frames": sequences.present_frames(module, last, CPU),
        "forecasts": sequences.forecasts(module, last, 5, 16, CPU),
        "deviance": sequences.step_deviance(module, X, 16, CPU),
        "scores": sequences.log_likelihood(module, X, 16, CPU),
    }


def test_results_do_not_depend_on_where_chunks_end(module, monkeypatch):
    whole = results(module, data())
    monkeypatch.setattr(sequences, "_MAX_DRAWN", 48)
    monkeypatch.setattr(sequences, "_MAX_FLOATS", 9 * 6 * 8)
    parts = results(module, data())
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_no_sequences(module):
    none = results(module, data()[:0])
    assert {name: value.shape for name, value in none.items()} == {
        "beliefs": (0, 9, 6),
        "frames": (0, 2),
        "forecasts": (0, 2),
        "deviance": (0, 9, 2),
        "scores": (0,),
    }
    assert sequences.draw_states(module, np.empty((0, 6)), 0).shape == (0, 2)
    assert sequences.futures(module, np.empty((0, 6)), 5, 4, 0, CPU, mean=False).shape == (0, 4, 5, 2)


def test_futures_in_chunks(module, monkeypatch):
    Z = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    monkeypatch.setattr(sequences, "_MAX_FLOATS", 4 * 5 * 2 * 7)  # 7 sequences of 4 futures, 5 steps and 2 columns
    frames = sequences.futures(module, Z, 5, 4, 0, CPU, mean=False)
    assert frames.shape == (30, 4, 5, 2)
    assert len(np.unique(frames.round(6).reshape(-1, 2), axis=0)) == 600  # no draw comes twice
    np.testing.assert_array_equal(frames, sequences.futures(module, Z, 5, 4, 0, CPU, mean=False))


@torch.no_grad()
def test_futures_scatter_as_jumps_do(module):
    Z = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    frames = sequences.futures(module, Z, 2, 10_000, 0, CPU, mean=True)
    noise = torch.randn(10_000, 3, module.state_size, generator=torch.Generator().manual_seed(1))
    state = module.jump(torch.from_numpy(Z), 1, noise[:, :2])
    for step in range(2):
        expected = (
            module.likelihood.locate(module.decoder(state)).numpy() * module.likelihood.units.scale
            + module.likelihood.units.constant
        )
        np.testing.assert_allclose(frames[:, :, step].std(1), expected.std(1), rtol=0.05)
        np.testing.assert_allclose(frames[:, :, step].mean(1), expected.mean(1), atol=0.05 * expected.std(1).max())
        state = module.advance(state, noise[:, 2])


@torch.no_grad()
def test_a_score_adds_up_what_every_frame_weighs(module, monkeypatch):
    X, n_draws = data(), 256
    monkeypatch.setattr(sequences, "row_offsets", lambda rows: np.full(len(rows), 7))
    scores, after = sequences.log_likelihood(module, X, n_draws, CPU), torch.from_numpy(sequences.beliefs(module, X, CPU))
    noise = torch.from_numpy(normal_pool(2 * module.state_size)[7 : 7 + n_draws]).unsqueeze(0)
    for i in range(5):
        x = module.likelihood.standardize(X[i])
        before, total = torch.zeros(1, 6), 0.0
        for t in range(int((~np.isnan(X[i, :, 0])).sum())):
            weights = module.step_log_weights(before, after[i, t : t + 1], x[t : t + 1], noise)
            total += logsumexp(weights.numpy()) - np.log(n_draws)
            before = after[i, t : t + 1]
        assert scores[i] == pytest.approx(total, rel=1e-4, abs=1e-3)


def test_draws_belong_to_a_frame_and_its_place(module, monkeypatch):
    seen = []
    monkeypatch.setattr(sequences, "row_offsets", lambda rows: seen.append(rows) or np.zeros(len(rows)))
    X = np.repeat(data()[:1, :1], 4, axis=1)  # one frame four times
    sequences.log_likelihood(module, X, 4, CPU)
    assert len(np.unique(seen[0], axis=0)) == 4
    np.testing.assert_array_equal(seen[0][2, :-1], seen[0][3, :-1])


@torch.no_grad()
def test_forecasts_are_means_over_many_draws(module):
    Z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(50_000, 3, module.state_size, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([module.likelihood.locate(module.decoder(states)).mean(0) for states in module.jump(Z, 5, noise)])
    expected = expected.numpy() * module.likelihood.units.scale + module.likelihood.units.constant
    few, many = (sequences.forecasts(module, Z.numpy(), 5, n, CPU) for n in (32, 4096))
    np.testing.assert_allclose(many / module.likelihood.units.scale, expected / module.likelihood.units.scale, atol=0.05)
    np.testing.assert_allclose(few / module.likelihood.units.scale, expected / module.likelihood.units.scale, atol=0.1)


@pytest.mark.parametrize(("n_draws", "size"), [(32, 16), (20, 8), (1, 4), (4, qmc.Sobol.MAXDIM + 1)])
def test_spread_draws_are_standard_normal_and_always_the_same(n_draws, size):
    draws = sequences._spread_draws(n_draws, size)
    assert draws.shape == (n_draws, size)
    assert draws.dtype == np.float32
    sequences._spread_draws.cache_clear()
    np.testing.assert_array_equal(sequences._spread_draws(n_draws, size), draws)
    if (n_draws, size) == (32, 16):
        assert abs(draws.mean(0)).max() < 0.1
        assert abs(draws.std(0) - 1).max() < 0.1


def test_sequences_that_weigh_nothing_have_no_say_in_the_noise(module):
    X = data()
    weight = (np.arange(len(X)) % 3 > 0).astype(float)
    spoilt = X.copy()
    spoilt[weight == 0] *= 100.0
    moments = []
    for sequences_, given in ((X, weight), (spoilt, weight), (spoilt, None)):
        sequences.fit_noise(module, sequences_, given, CPU, 0, max_rows=100)
        moments.append(module.likelihood.noise.moment.clone())
    torch.testing.assert_close(moments[1], moments[0])
    assert (moments[2] > 10 * moments[0]).all()


def test_numbers_in_the_state_that_vary_are_counted(module):
    X = data()
    n_active = sequences.n_active_units(module, X, CPU, max_rows=30)
    assert 1 <= n_active <= 2
    with torch.no_grad():
        for head in module.belief:
            head.linear.weight[0] = 0.0
            head.bend[-1].weight[0] = 0.0
    assert sequences.n_active_units(module, X, CPU, max_rows=30) == n_active - 1


@torch.no_grad()
def test_draws_of_the_state(module):
    Z = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    drawn = np.stack([sequences.draw_states(module, Z, seed) for seed in range(400)])
    mean, log_std = module.belief_moments(torch.from_numpy(Z))(0, ())
    np.testing.assert_allclose(drawn.mean(0), mean.numpy(), atol=5 * log_std.exp().max().item() / 20)
    np.testing.assert_allclose(drawn.std(0), log_std.exp().numpy(), rtol=0.15)
