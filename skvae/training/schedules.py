"""Learning rates over a run, as a factor of the progress in [0, 1]; they stay at their end."""

from __future__ import annotations

import math
from collections.abc import Callable

FINAL = 0.01  # never zero, so that training can go on after the end


def _linear(progress: float) -> float:
    return 1.0 - (1.0 - FINAL) * progress


def _cosine(progress: float) -> float:
    return FINAL + (1.0 - FINAL) * 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": _linear,
    "cosine": _cosine,
    "exponential": lambda progress: FINAL**progress,
}
