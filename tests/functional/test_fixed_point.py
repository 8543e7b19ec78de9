import numpy as np
import pytest
import torch

from skvae.functional import positive_fixed_point


class Contraction:
    """Logarithms that approach those of the solution at rates of their own, coupled by a rotation."""

    def __init__(self, solution, rates, seed=0):
        self.solution = torch.as_tensor(solution, dtype=torch.float64)
        axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(rates), len(rates))))[0]
        self.matrix = torch.from_numpy(axes @ np.diag(rates) @ axes.T)
        self.given, self.returned = [], []

    def __call__(self, value):
        self.given.append(value)
        away = self.matrix @ (value.log() - self.solution.log())
        self.returned.append(self.solution * away.exp())
        return self.returned[-1]


@pytest.mark.parametrize("slow", [0.0, 0.5, 0.9, 0.99])
def test_the_solution_is_found(slow):
    iterate = Contraction([0.1, 2.0, 30.0], [slow, 0.5 * slow, 0.1])
    found = positive_fixed_point(iterate, torch.ones(3, dtype=torch.float64), tolerance=1e-9, most=2000)
    np.testing.assert_allclose(found, iterate.solution, rtol=1e-6)


def test_slow_iterations_are_left_out():
    value = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    iterate = Contraction([0.1, 2.0, 30.0], [0.97, 0.9, 0.1])
    found = positive_fixed_point(iterate, value, tolerance=1e-6, most=2000)
    plain = Contraction([0.1, 2.0, 30.0], [0.97, 0.9, 0.1])
    for _ in range(5 * len(iterate.given)):
        value = plain(value)
    error, of_plain = ((numbers / iterate.solution - 1.0).abs().max() for numbers in (found, value))
    assert error < of_plain


def test_what_is_returned_is_what_an_iteration_led_to():
    for most in range(1, 12):
        iterate = Contraction([0.1, 2.0, 30.0], [0.9, 0.5, 0.1])
        found = positive_fixed_point(iterate, torch.ones(3, dtype=torch.float64), tolerance=0.0, most=most)
        assert len(iterate.given) == most
        assert found is iterate.returned[-1]


def test_zeros_stay_zeros():
    def iterate(value):
        return torch.stack([0.5 * (value[0] + 1.0), 0.0 * value[1]])

    found = positive_fixed_point(iterate, torch.tensor([8.0, 0.0]), tolerance=1e-6, most=100)
    np.testing.assert_allclose(found, [1.0, 0.0], rtol=1e-5)


def test_a_leap_is_never_far():
    # Each iteration goes as far as the last: there is no fixed point to extrapolate to.
    largest = []

    def iterate(value):
        largest.append(float(value.max()))
        return 1.5 * value

    positive_fixed_point(iterate, torch.ones(2), tolerance=1e-6, most=12)
    assert max(np.diff(np.log(largest))) < 1.0 + np.log(1.5) + 1e-6


@pytest.mark.parametrize("n_rows", [40, 4000])
def test_noise_of_a_factor_model_by_its_iterations(n_rows):
    # Expectation-maximization of the noise alone; the likelihood's maximum is where its derivative vanishes.
    rng = np.random.default_rng(0)
    loadings, noise = rng.normal(size=(6, 2)), np.geomspace(0.05, 2.0, 6)
    X = rng.normal(size=(n_rows, 2)) @ loadings.T + np.sqrt(noise) * rng.normal(size=(n_rows, 6))
    second, loadings = torch.from_numpy(X.T @ X / n_rows), torch.from_numpy(loadings)

    def iterate(value):
        weighted = loadings.T / value
        posterior = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + weighted @ loadings)
        encode = posterior @ weighted
        moved = torch.eye(6, dtype=torch.float64) - loadings @ encode
        return (moved @ second @ moved.T + loadings @ posterior @ loadings.T).diagonal().clone()

    found = positive_fixed_point(iterate, torch.ones(6, dtype=torch.float64), tolerance=1e-10, most=500).requires_grad_()
    covariance = loadings @ loadings.T + found.diag()
    (0.5 * torch.logdet(covariance) + 0.5 * torch.trace(torch.linalg.solve(covariance, second))).backward()
    np.testing.assert_allclose((found.grad * found.detach()).numpy(), 0.0, atol=1e-6)
