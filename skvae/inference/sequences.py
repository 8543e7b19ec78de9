"""Running a trained `TDVAEModule` over sequences."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import norm, qmc

from skvae.data import Table
from skvae.inference.importance import POOL_SIZE, log_mean_exp, normal_pool, row_offsets
from skvae.inference.runner import Runner, chunk_rows, place, whole_tiles
from skvae.modules import Batch, TDVAEModule
from skvae.runtime.cudnn import steady
from skvae.runtime.randomness import make_generator

_MAX_DRAWN = 2**13  # draws of a state that are decoded at once
_MAX_FLOATS = 2**24  # numbers that the frames and beliefs of a chunk may take
_ACTIVE = 0.1  # standard deviation of means over the uncertainty of each
_QUASI_SEED = 20190506


@lru_cache(maxsize=8)
def _spread_draws(n_draws: int, size: int) -> np.ndarray:
    """Draw standard normal numbers ``(n_draws, size)`` that fill space more evenly than independent ones."""
    if size > qmc.Sobol.MAXDIM:  # of very many jumps
        return np.random.default_rng(_QUASI_SEED).standard_normal((n_draws, size), dtype=np.float32)
    sobol = qmc.Sobol(size, seed=_QUASI_SEED)
    points = sobol.random_base2(int(np.ceil(np.log2(n_draws))))[:n_draws]
    return norm.ppf(np.clip(points, 1e-6, 1.0 - 1e-6)).astype(np.float32)


def _chunk(module: TDVAEModule, n_timesteps: int) -> int:
    """Sequences of a chunk."""
    most = _MAX_FLOATS // (n_timesteps * max(module.n_features, module.n_components))
    return min(chunk_rows(module), max(whole_tiles(most), whole_tiles(min(most, 48), 6)))  # long sequences: no fewer than need be


def beliefs(module: TDVAEModule, X: np.ndarray, device: torch.device) -> np.ndarray:
    """Beliefs after every frame, ``(n_sequences, n_timesteps, n_components)``; NaN where a sequence has ended.

    Parameters
    ----------
    module : TDVAEModule
    X : ndarray of shape (n_sequences, n_timesteps, n_features)
        In the units of the data, with NaN where a sequence has ended.
    device : torch.device
    """
    runner = Runner(module, device, size=_chunk(module, X.shape[1]))
    batch = runner.batches(Table.of(X))
    result = runner.map(lambda rows: module.read(batch(rows).x)[0], len(X))
    result[np.isnan(X[..., 0])] = np.nan
    return result


def update(
    module: TDVAEModule, x: np.ndarray, memory: tuple[np.ndarray, ...] | None, device: torch.device
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Beliefs ``(n_sequences, n_components)`` after one more frame, and what the recurrent network remembers."""
    place(module, device)
    with torch.no_grad(), steady(device):
        before = None if memory is None else tuple(torch.tensor(part, device=device) for part in memory)
        after, memory = module.read(module.likelihood.standardize(x[:, np.newaxis]).to(device), before)
    return after[:, 0].cpu().numpy(), tuple(part.cpu().numpy() for part in memory)


def _per_belief(module, n_rows, n_draws, device, function, *arrays: np.ndarray, size: int | None = None) -> np.ndarray:
    """Call a function of rows of several arrays, chunk by chunk; each row has several draws."""
    runner = Runner(module, device, size=whole_tiles(_MAX_DRAWN // n_draws) if size is None else size)
    parts = [runner.padded(array) for array in arrays]
    return runner.map(lambda rows: function(*(part(rows) for part in parts), rows), n_rows)


def _decode(module: TDVAEModule, states: torch.Tensor) -> torch.Tensor:
    """Decode several states ``(n, n_draws, state_size)`` of each row."""
    return torch.unflatten(module.decoder(states.flatten(0, 1)), 0, states.shape[:2])


def draw_states(module: TDVAEModule, Z: np.ndarray, seed: int) -> np.ndarray:
    """Draw a state ``(n, state_size)`` from each belief ``(n, n_components)``."""
    device = next(module.parameters()).device
    noise = torch.randn(len(Z), 1, module.state_size, generator=make_generator(seed), dtype=torch.float32).numpy()

    def function(belief, noise, rows):
        return module.jump(belief, 0, noise.unsqueeze(2))[:, 0].cpu().numpy()

    return _per_belief(module, len(Z), 1, device, function, Z, noise)


def present_frames(module: TDVAEModule, Z: np.ndarray, device: torch.device) -> np.ndarray:
    """Frames ``(n, n_features)``, in the units of the data, that beliefs ``(n, n_components)`` have just seen."""

    def function(belief, rows):
        return module.likelihood.mean(module.decoder(module.draw(module.belief_moments(belief), None)))

    return _per_belief(module, len(Z), 1, device, function, Z)


def forecasts(module: TDVAEModule, Z: np.ndarray, horizon: int, n_draws: int, device: torch.device) -> np.ndarray:
    """Frames ``(n, n_features)``, in the units of the data, some steps after beliefs, on average over draws of the states."""
    noise = _spread_draws(n_draws, (1 + module.n_jumps(horizon)) * module.state_size)
    noise = torch.from_numpy(noise).unflatten(1, (-1, module.state_size)).to(device)

    def function(belief, rows):
        frames = module.likelihood.mean(_decode(module, module.jump(belief, horizon, noise)).flatten(0, 1))
        return frames.reshape(len(belief), n_draws, -1).mean(axis=1)

    return _per_belief(module, len(Z), n_draws, device, function, Z)


def futures(
    module: TDVAEModule, Z: np.ndarray, n_steps: int, n_futures: int, seed: int, device: torch.device, *, mean: bool
) -> np.ndarray:
    """Frames ``(n, n_futures, n_steps, n_features)`` that follow beliefs, step by step.

    Parameters
    ----------
    module : TDVAEModule
    Z : ndarray of shape (n, n_components)
    n_steps, n_futures : int
    seed : int
    device : torch.device
    mean : bool
        Leave out the likelihood's noise.
    """
    generator = make_generator(seed, device)
    likelihood = module.likelihood

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32)

    def function(belief, rows):
        shape = (len(belief), n_futures, module.state_size)
        state = module.jump(belief, 0, normal(*shape[:2], 1, shape[2]))
        frames = np.empty((len(belief), n_futures, n_steps, module.n_features))
        for i in range(n_steps):
            state = module.advance(state, normal(*shape))
            output = _decode(module, state).flatten(0, 1)
            drawn = likelihood.mean(output) if mean else likelihood.draw(output, generator)
            frames[:, :, i] = drawn.reshape(*shape[:2], -1)
        return frames

    # Draws depend on their place anyhow, so that chunks need not have one size for all.
    most = min(_MAX_DRAWN // n_futures, _MAX_FLOATS // (n_futures * n_steps * module.n_features))
    return _per_belief(module, len(Z), n_futures, device, function, Z, size=max(1, min(len(Z), most)))


# -- scores -----------------------------------------------------------------------------------------------------------


def _transitions(module: TDVAEModule, X: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which frames there are, and the beliefs before and after each of them, ``(n_frames, n_components)``."""
    after = beliefs(module, X, device)
    before = np.concatenate([np.zeros_like(after[:, :1]), after[:, :-1]], axis=1)
    present = ~np.isnan(X[..., 0])
    return present, before[present], after[present]


def step_deviance(module: TDVAEModule, X: np.ndarray, n_draws: int, device: torch.device) -> np.ndarray:
    """Nats by which each entry falls short of the best, as its predecessors foresee it, in the shape of `X`.

    The prediction is summed up by its mean and variance, noise included. NaN where a sequence has ended.
    """
    present, before, _ = _transitions(module, X, device)
    frames = module.likelihood.standardize(X[present])
    noise = torch.from_numpy(_spread_draws(n_draws, 2 * module.state_size)).unflatten(1, (2, -1)).to(device)

    def function(belief, frame, rows):
        mean, variance = module.prediction(_decode(module, module.jump(belief, 1, noise)))
        return module.surprise(frame, mean, variance).cpu().double().numpy()

    result = np.full(X.shape, np.nan)
    result[present] = _per_belief(module, len(before), n_draws, device, function, before, frames.numpy())
    return result


def log_likelihood(module: TDVAEModule, X: np.ndarray, n_draws: int, device: torch.device) -> np.ndarray:
    """Importance-weighted estimate of the log-likelihood of sequences, in nats and in the units of the data, ``(n,)``."""
    present, before, after = _transitions(module, X, device)
    frames = module.likelihood.standardize(X[present]).numpy()
    # Draws depend on a frame, the one before it and when it comes, as `row_offsets` asks for.
    x = module.likelihood.standardize(X)
    given = torch.cat([x, torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]], dim=2).numpy()[present]
    offsets = row_offsets(np.column_stack([given, np.nonzero(present)[1].astype(np.float32)])).astype(np.int64)
    numbers = torch.from_numpy(normal_pool(2 * module.state_size)).to(device)
    window = torch.arange(n_draws, device=device)

    def function(before, after, frame, rows):
        here = torch.zeros(len(before), dtype=torch.int64)
        here[: len(offsets[rows])] = torch.from_numpy(offsets[rows])
        noise = numbers[(here.to(device).unsqueeze(1) + window) % POOL_SIZE]
        return log_mean_exp(module.step_log_weights(before, after, frame, noise).cpu().numpy().astype(np.float64))

    scores = np.zeros(X.shape[:2])
    scores[present] = _per_belief(module, len(before), n_draws, device, function, before, after, frames)
    return scores.sum(axis=1)


def fit_noise(
    module: TDVAEModule, X: np.ndarray, weight: np.ndarray | None, device: torch.device, seed: int, *, max_rows: int
) -> None:
    """Fit the likelihood's noise, once a module is trained, to evenly spaced sequences and draws from their beliefs."""
    chosen = np.linspace(0, len(X) - 1, min(len(X), max_rows)).astype(int)
    x = module.likelihood.standardize(X[chosen])
    present = ~torch.isnan(x[..., 0])
    noise = torch.zeros(*present.shape, module.state_size, dtype=torch.float32)
    drawn = torch.randn(
        int(present.sum()), module.state_size, generator=make_generator(seed, device), device=device, dtype=torch.float32
    )
    noise[present] = drawn.cpu()
    share = torch.ones(len(x), dtype=torch.float32) if weight is None else torch.from_numpy(weight[chosen].astype(np.float32))
    place(module, device)
    with torch.no_grad(), steady(device):
        batch = Batch.of(x.to(device), noise={"present": noise.to(device)})
        module.fit_noise(batch._replace(weight=share.to(device)))


def n_active_units(module: TDVAEModule, X: np.ndarray, device: torch.device, *, max_rows: int) -> int:
    """How many numbers in the state have means that differ between steps, next to their own uncertainty."""
    chosen = np.linspace(0, len(X) - 1, min(len(X), max_rows)).astype(int)
    _, _, after = _transitions(module, X[chosen], device)
    with torch.no_grad():
        moments = module.belief_moments(torch.from_numpy(after).to(device))
        layers: list[torch.Tensor] = []
        log_stds = []
        for layer in range(module.n_latent_layers):
            mean, log_std = moments(layer, layers)
            layers.append(mean)
            log_stds.append(log_std)
        varies = torch.cat(layers, -1).std(0, correction=0) > _ACTIVE * torch.cat(log_stds, -1).exp().mean(0)
    return int(varies.sum())
