"""Training modules; the only part of the package that knows skorch."""

from skvae.training.loader import BatchLoader, Rows
from skvae.training.net import DivergedError, Outcome, Plan, train
from skvae.training.optimizers import OPTIMIZER_NAMES
from skvae.training.pretraining import pretrain
from skvae.training.schedules import SCHEDULES

__all__ = [
    "OPTIMIZER_NAMES",
    "SCHEDULES",
    "BatchLoader",
    "DivergedError",
    "Outcome",
    "Plan",
    "Rows",
    "pretrain",
    "train",
]
