"""Optimizers: any of torch's, and Adam with less between two steps."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import optim


class _LeanFused:
    """Fused Adam step over lists that are collected once instead of at every step.

    On small networks collecting parameters and their state takes longer than the arithmetic. State and arithmetic are
    torch's own, so that a state dictionary moves freely between this and the parent class.

    The parent class takes the first step, and the first after a state was loaded: fused as well, whatever it is told, since
    its other ways of stepping round differently, and training would not go on as if it had never stopped.
    """

    _update = staticmethod(torch._fused_adam_)

    def __init__(self, params, lr=1e-3, **settings):
        super().__init__(params, lr=lr, **{**settings, "fused": True})

    def step(self, closure=None):
        """Perform one step."""
        lists = self._lists or []
        gradients = [[param.grad for param in params] for _, params, *_ in lists]
        if self._lists is None or any(gradient is None for group in gradients for gradient in group):
            super().step()
            self._collect()
            return None
        with torch.no_grad():
            for (group, params, exp_avgs, exp_avg_sqs, steps), gradient in zip(lists, gradients, strict=True):
                torch._foreach_add_(steps, 1)
                type(self)._update(
                    params,
                    gradient,
                    exp_avgs,
                    exp_avg_sqs,
                    [],
                    steps,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=group["maximize"],
                )
        return None

    step.hooked = True  # torch would wrap the step in a profiler's context, at a third of its cost

    _lists: list | None = None

    def _collect(self) -> None:
        """Collect the lists once every parameter has a state; leave the step to the parent class if one has none."""
        lists = []
        for group in self.param_groups:
            if any(param not in self.state for param in group["params"]):
                return
            state = [self.state[param] for param in group["params"]]
            lists.append(
                (
                    group,
                    group["params"],
                    [entry["exp_avg"] for entry in state],
                    [entry["exp_avg_sq"] for entry in state],
                    [entry["step"] for entry in state],
                )
            )
        self._lists = lists

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state and forget the lists made of the old one."""
        super().load_state_dict(state_dict)
        self._lists = None


class LeanAdam(_LeanFused, optim.Adam):
    """`torch.optim.Adam`, fused."""


class LeanAdamW(_LeanFused, optim.AdamW):
    """`torch.optim.AdamW`, fused."""

    _update = staticmethod(torch._fused_adamw_)


_LEAN = {optim.Adam: LeanAdam, optim.AdamW: LeanAdamW}
_OPTIMIZERS = {
    name.lower(): value
    for name, value in vars(optim).items()
    if isinstance(value, type) and issubclass(value, optim.Optimizer) and value is not optim.Optimizer
}
# L-BFGS needs a loop of its own, SparseAdam sparse gradients, and Muon takes matrices but no biases.
OPTIMIZER_NAMES = tuple(sorted(set(_OPTIMIZERS) - {"lbfgs", "sparseadam", "muon"}))
_NOT_PLAIN = {"fused", "foreach", "capturable", "differentiable", "amsgrad", "decoupled_weight_decay"}


def resolve_optimizer(
    optimizer: str | type[optim.Optimizer], params: dict[str, Any], device: torch.device
) -> tuple[type[optim.Optimizer], dict[str, Any]]:
    """Class and arguments of the optimizer; Adam and AdamW are fused unless the arguments say otherwise.

    Raises
    ------
    ValueError
        If the class is no optimizer or calls for the loss itself, or the arguments hold the learning rate.
    """
    cls = _OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    if not issubclass(cls, optim.Optimizer):
        raise ValueError(f"optimizer={cls.__name__} is not a subclass of torch.optim.Optimizer.")
    closure = signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(f"optimizer={cls.__name__} computes the loss several times a step, which the training loop does not do.")
    if "lr" in params:
        raise ValueError("optimizer_params['lr'] belongs to the estimator: set learning_rate instead.")
    if cls in _LEAN and not set(params) & _NOT_PLAIN and device.type in ("cpu", "cuda"):
        cls = _LEAN[cls]
    return cls, dict(params)
