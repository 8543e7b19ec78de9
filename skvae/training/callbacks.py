"""Callbacks of the training loop: when something ends."""

from __future__ import annotations

import math

from skorch.callbacks import Callback

from skvae._spec import Spec, check_count, check_fraction, check_number


class StopTraining(Exception):
    """Ends a run early, in good order."""


class EarlyStopping(Spec):
    """Specification of early stopping: which rows are held out, and how long it waits for their loss to fall.

    Parameters
    ----------
    validation_fraction : float, default=0.1
        Fraction of the rows that is held out.
    n_iter_no_change : int, default=20
        Epochs without improvement before training ends, once the warm-up is over.
    tol : float, default=1e-3
        Decrease of the validation loss, in nats per row, that counts as an improvement.

    Examples
    --------
    >>> from skvae import EarlyStopping, VAETransformer
    >>> VAETransformer(early_stopping=EarlyStopping(n_iter_no_change=5)).get_params()["early_stopping__tol"]
    0.001
    >>> VAETransformer().set_params(early_stopping__validation_fraction=0.2).early_stopping
    EarlyStopping(validation_fraction=0.2)
    """

    def __init__(self, validation_fraction: float = 0.1, *, n_iter_no_change: int = 20, tol: float = 1e-3):
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol

    def check(self) -> None:
        """Look whether the arguments are in range.

        Raises
        ------
        ValueError
            If one is not.
        """
        check_fraction(self, "validation_fraction", with_zero=False)
        check_count(self, "n_iter_no_change")
        check_number(self, "tol", at_least=0.0)


class StopEarly(Callback):
    """Stop when the validation loss no longer falls, and restore the best weights and optimizer state together.

    Parameters
    ----------
    spec : EarlyStopping
        How long to wait, and what counts as an improvement.
    warmup : float
        Fraction of the run during which epochs without an improvement are not counted.
    """

    def __init__(self, spec: EarlyStopping, warmup: float):
        self.spec, self.warmup = spec, warmup

    def on_train_begin(self, net, **kwargs):
        self.best_, self.reference_, self.waited_, self.state_ = math.inf, math.inf, 0, None

    def on_epoch_end(self, net, **kwargs):
        loss = net.history[-1]["valid_loss"]
        if loss < self.best_:
            self.best_ = loss
            self.state_ = (net.snapshot(), net.optimizer_snapshot())
        if loss < self.reference_ - self.spec.tol:
            self.reference_, self.waited_ = loss, 0
        elif net.progress >= self.warmup:
            self.waited_ += 1
            if self.waited_ >= self.spec.n_iter_no_change:
                raise StopTraining

    def on_train_end(self, net, **kwargs):
        if self.state_ is not None:
            weights, optimizer = self.state_
            net.restore(weights)
            net.restore_optimizer(optimizer)
