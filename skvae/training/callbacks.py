"""Callbacks of the training loop: when something ends."""

from __future__ import annotations

import copy
import math

from skorch.callbacks import Callback


class StopTraining(Exception):
    """Ends a run early, in good order."""


class EarlyStopping(Callback):
    """Stop when the validation loss no longer falls, and restore the best weights and optimizer state together.

    Parameters
    ----------
    patience : int
        Epochs without an improvement before the run ends.
    tol : float
        Nats per row that count as an improvement.
    warmup : float
        Fraction of the run during which epochs without an improvement are not counted.
    """

    def __init__(self, patience: int, tol: float, warmup: float):
        self.patience, self.tol, self.warmup = patience, tol, warmup

    def on_train_begin(self, net, **kwargs):
        self.best_, self.reference_, self.waited_, self.state_ = math.inf, math.inf, 0, None

    def on_epoch_end(self, net, **kwargs):
        loss = net.history[-1]["valid_loss"]
        if loss < self.best_:
            self.best_ = loss
            self.state_ = (net.snapshot(), copy.deepcopy(net.optimizer_.state_dict()))
        if loss < self.reference_ - self.tol:
            self.reference_, self.waited_ = loss, 0
        elif net.progress >= self.warmup:
            self.waited_ += 1
            if self.waited_ >= self.patience:
                raise StopTraining

    def on_train_end(self, net, **kwargs):
        if self.state_ is not None:
            weights, optimizer = self.state_
            net.restore(weights)
            net.optimizer_.load_state_dict(optimizer)
