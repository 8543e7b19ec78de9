"""Training modules; the only part of the package that knows skorch."""

from skvae.training.callbacks import EarlyStopping
from skvae.training.code_priors import CodePrior
from skvae.training.decay import DecayCurve, has_networks, search_decay
from skvae.training.loader import BatchLoader, Rows, free_memory
from skvae.training.neighbors import NeighborGraph
from skvae.training.net import DivergedError, Outcome, Plan, train
from skvae.training.optimizers import OPTIMIZER_NAMES, Optimizer
from skvae.training.pretraining import encode_rows, pretrain, pretrain_whole, read_rows
from skvae.training.priors import n_idle_parts
from skvae.training.schedules import SCHEDULES

__all__ = [
    "OPTIMIZER_NAMES",
    "SCHEDULES",
    "BatchLoader",
    "CodePrior",
    "DecayCurve",
    "DivergedError",
    "EarlyStopping",
    "NeighborGraph",
    "Optimizer",
    "Outcome",
    "Plan",
    "Rows",
    "encode_rows",
    "free_memory",
    "has_networks",
    "n_idle_parts",
    "pretrain",
    "pretrain_whole",
    "read_rows",
    "search_decay",
    "train",
]
