"""Noisy harmonic oscillators, and the Kalman filter that knows everything about them but their states."""

from __future__ import annotations

import numpy as np

PROCESS_NOISE, OBSERVATION_NOISE = 0.1, 0.3


def rotation(angle: float) -> np.ndarray:
    """Matrix that turns the plane."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def oscillators(n: int, n_timesteps: int, angle: float, seed: int) -> np.ndarray:
    """Noisy readings ``(n, n_timesteps)`` of the first coordinate of points that turn by an angle a step, and are jostled."""
    rng = np.random.default_rng(seed)
    turn = rotation(angle)
    state = rng.normal(size=(n, 2))
    X = np.empty((n, n_timesteps))
    for t in range(n_timesteps):
        if t:
            state = state @ turn.T + PROCESS_NOISE * rng.normal(size=(n, 2))
        X[:, t] = state[:, 0] + OBSERVATION_NOISE * rng.normal(size=n)
    return X


def kalman(X: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return filtered means ``(n, n_timesteps, 2)``, and of every reading its deviance and log-density given those before it."""
    turn = rotation(angle)
    mean, covariance = np.zeros((len(X), 2)), np.eye(2)
    means, deviance, log_density = np.empty((*X.shape, 2)), np.empty(X.shape), np.empty(X.shape)
    for t in range(X.shape[1]):
        if t:
            mean, covariance = mean @ turn.T, turn @ covariance @ turn.T + PROCESS_NOISE**2 * np.eye(2)
        variance = covariance[0, 0] + OBSERVATION_NOISE**2
        surprise = X[:, t] - mean[:, 0]
        deviance[:, t] = 0.5 * surprise**2 / variance
        log_density[:, t] = -deviance[:, t] - 0.5 * np.log(2.0 * np.pi * variance)
        gain = covariance[:, 0] / variance
        mean = mean + surprise[:, None] * gain
        covariance = covariance - np.outer(gain, covariance[0])
        means[:, t] = mean
    return means, deviance, log_density


def predictive_std(angle: float, n_timesteps: int = 200) -> float:
    """Return the standard deviation of a reading given many before it."""
    readings = np.zeros((1, n_timesteps))
    log_density = kalman(readings, angle)[2][0, -1]  # of a reading that is no surprise
    return float(np.exp(-log_density) / np.sqrt(2.0 * np.pi))
