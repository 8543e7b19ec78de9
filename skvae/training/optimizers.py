"""Optimizers: any of torch's, and Adam with less between two steps."""

from __future__ import annotations

from inspect import signature
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import optim

from skvae._spec import Spec, check_name, check_number, in_words
from skvae.training.schedules import SCHEDULES


class _LeanFused:
    """Fused Adam step over lists that are collected once instead of at every step.

    On small networks collecting parameters and their state takes longer than the arithmetic. State and arithmetic are
    torch's own, so that a state dictionary moves freely between this and the parent class.

    The parent class takes the first step, and the first after a state was loaded: fused as well, whatever its `fused` says, since
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
            self._lists = None
            for entry in self.state.values():  # of which the parent class counts each by itself
                if "step" in entry:
                    entry["step"] = entry["step"].clone()
            super().step()
            self._collect()
            return None
        with torch.no_grad():
            for (group, params, exp_avgs, exp_avg_sqs, steps), gradient in zip(lists, gradients, strict=True):
                torch._foreach_add_(list(dict.fromkeys(steps)), 1)
                self._update_lists(group, params, gradient, exp_avgs, exp_avg_sqs, steps, group["lr"])
        return None

    step.hooked = True  # torch would wrap the step in a profiler's context, at a third of its cost

    @classmethod
    def _update_lists(cls, group, params, gradients, exp_avgs, exp_avg_sqs, steps, rate):
        """Have torch update tensors by the settings of a group, but for the learning rate; `steps` count this one."""
        cls._update(
            params,
            gradients,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            lr=rate,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )

    _lists: list | None = None

    def _collect(self) -> None:
        """Collect the lists once every parameter has a state; leave the step to the parent class if one has none.

        Parameters that have been updated equally often share what counts that, as adding one takes as long as updating a layer.
        """
        lists = []
        for group in self.param_groups:
            if any(param not in self.state for param in group["params"]):
                return
            state = [self.state[param] for param in group["params"]]
            first = state[0]["step"]
            if all(torch.equal(first, entry["step"]) for entry in state):
                for entry in state:
                    entry["step"] = first
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

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in which every parameter has a count of its own, as in that of the parent class."""
        found = super().state_dict()
        found["state"] = {
            key: {**entry, "step": entry["step"].clone()} if "step" in entry else entry for key, entry in found["state"].items()
        }
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state and forget the lists made of the old one."""
        super().load_state_dict(state_dict)
        self._lists = None


class LeanAdam(_LeanFused, optim.Adam):
    """`torch.optim.Adam`, fused."""


class LeanAdamW(_LeanFused, optim.AdamW):
    """`torch.optim.AdamW`, fused."""

    _update = staticmethod(torch._fused_adamw_)


def is_fused(optimizer: optim.Optimizer) -> bool:
    """Whether `fused_update` can take the optimizer's steps."""
    return type(optimizer) in _LEAN.values() and len(optimizer.param_groups) == 1


def fused_update(
    optimizer: optim.Optimizer,
    params: list[torch.Tensor],
    gradients: list[torch.Tensor],
    exp_avgs: list[torch.Tensor],
    exp_avg_sqs: list[torch.Tensor],
    *,
    count: float,
    rate: float,
) -> None:
    """Update tensors as an optimizer that `is_fused` would, of whose parameters they may hold several side by side.

    Parameters
    ----------
    optimizer : Optimizer
        Whose settings are taken.
    params, gradients, exp_avgs, exp_avg_sqs : list of Tensor
    count : float
        Steps that are taken with this one.
    rate : float
    """
    (group,) = optimizer.param_groups
    steps = [torch.tensor(count, dtype=torch.float32, device=params[0].device)] * len(params)
    with torch.no_grad():
        optimizer._update_lists(group, params, gradients, exp_avgs, exp_avg_sqs, steps, rate)  # type: ignore[attr-defined]


_LEAN = {optim.Adam: LeanAdam, optim.AdamW: LeanAdamW}
_OPTIMIZERS = {
    name.lower(): value
    for name, value in vars(optim).items()
    if isinstance(value, type) and issubclass(value, optim.Optimizer) and value is not optim.Optimizer
}
# L-BFGS needs a loop of its own, SparseAdam sparse gradients, and Muon takes matrices but no biases.
OPTIMIZER_NAMES = tuple(sorted(set(_OPTIMIZERS) - {"lbfgs", "sparseadam", "muon"}))
_NOT_PLAIN = {"fused", "foreach", "capturable", "differentiable", "amsgrad", "decoupled_weight_decay"}


_REFUSED_LR = "Optimizer(lr=...) would be the estimator's learning rate: set learning_rate instead."


class Optimizer(Spec):
    """Specification of an optimizer, of the schedule of its learning rate and of the bounds of gradients.

    The learning rate itself is the estimator's `learning_rate`.

    Parameters
    ----------
    name : str or type of Optimizer, default="adam"
        Name, in lower case, or class of an optimizer of torch. Adam and AdamW are fused.
    schedule : {"cosine", "linear", "exponential", "constant"}, default="cosine"
        How the learning rate falls over the run, to one hundredth at the end.
    clip_norm : float or None, default=None
        Largest norm of the gradient.
    clip_value : float or None, default=None
        Largest absolute entry of the gradient.
    **params : dict
        Further arguments of the optimizer, such as `weight_decay` or `momentum`.

    Examples
    --------
    >>> from skvae import Optimizer, VAETransformer
    >>> VAETransformer(optimizer=Optimizer("sgd", momentum=0.9)).get_params()["optimizer__momentum"]
    0.9
    >>> VAETransformer(optimizer="adamw").set_params(optimizer__clip_norm=1.0).optimizer
    Optimizer(name='adamw', clip_norm=1.0)
    """

    def __init__(
        self,
        name: str | type[optim.Optimizer] = "adam",
        *,
        schedule: str = "cosine",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        **params: Any,
    ):
        if "lr" in params:
            raise ValueError(_REFUSED_LR)
        if "params" in params:
            raise ValueError("Optimizer(params=...) would be the network's weights, which `fit` passes: leave it out.")
        self.name = name
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.params = params

    def set_params(self, **params: Any) -> Optimizer:
        """Change arguments.

        Parameters
        ----------
        **params : dict
            New values by name; the others stay.

        Returns
        -------
        self : object
            The specification itself.

        Raises
        ------
        ValueError
            If the optimizer has no argument of that name.
        """
        Optimizer(**{**self.get_params(), **params})._check_params()  # before anything changes
        return super().set_params(**params)

    def check(self) -> None:
        """Look whether the arguments are in range, and are such as the optimizer has.

        Raises
        ------
        ValueError
            If they are not.
        """
        if isinstance(self.name, str) and self.name not in OPTIMIZER_NAMES:
            raise ValueError(f"{self!r}: name={self.name!r} must be one of {in_words(OPTIMIZER_NAMES)}, or a class.")
        if not isinstance(self.name, str) and not (isinstance(self.name, type) and issubclass(self.name, optim.Optimizer)):
            given = self.name.__name__ if isinstance(self.name, type) else repr(self.name)
            raise ValueError(f"{self!r}: name={given} must be a name or a subclass of torch.optim.Optimizer.")
        if isinstance(self.name, type):
            _check_class(self.name, f"{self!r}: name")
        check_name(self, "schedule", SCHEDULES)
        check_number(self, "clip_norm", may_be_none=True)
        check_number(self, "clip_value", may_be_none=True)
        self._check_params()

    def _check_params(self) -> None:
        """Raise a ValueError about further arguments that the optimizer does not have, or by which no loss falls."""
        cls = _OPTIMIZERS.get(self.name) if isinstance(self.name, str) else self.name
        if not self.params or not isinstance(cls, type):
            return
        takes = signature(cls).parameters
        unknown = [name for name in self.params if name not in takes]
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
            own = ("name", "schedule", "clip_norm", "clip_value")
            others = [name for name in takes if name not in ("params", "lr")]
            raise ValueError(
                f"{self!r}: {cls.__name__} has no argument {unknown[0]!r}; Optimizer takes {', '.join(own)}, and those of "
                f"{cls.__name__}: {', '.join(others)}."
            )
        if isinstance(self.params.get("maximize"), (bool, np.bool_)) and self.params["maximize"]:
            raise ValueError(f"{self!r}: maximize=True would have the loss rise, which training is to lower; leave it out.")
        momentum = self.params.get("momentum", 0.0)
        if isinstance(momentum, Real) and not 0.0 <= momentum < 1.0:
            raise ValueError(
                f"{self!r}: momentum={momentum!r} must be a number of at least 0 and below 1, as steps grow without "
                "bound from there on."
            )


def _check_class(cls: type, parameter: str) -> None:
    """Raise a ValueError about a class that cannot train here, the value of a parameter."""
    if not issubclass(cls, optim.Optimizer):
        raise ValueError(f"{parameter}={cls.__name__} is not a subclass of torch.optim.Optimizer.")
    closure = signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(f"{parameter}={cls.__name__} computes the loss several times a step, which the loop does not do.")
    if issubclass(cls, optim.SparseAdam):
        raise ValueError(f"{parameter}={cls.__name__} takes sparse gradients, but those of the networks are dense: use 'adam'.")


class OptimizerError(Exception):
    """Says that the optimizer failed in a step; the cause is its own error."""

    def named(self, spec: Optimizer) -> ValueError:
        """Return the error about the specification of the optimizer."""
        return ValueError(f"optimizer={spec!r} fails in a step: {_text_of(self.__cause__)}")


def build_optimizer(spec: Optimizer, parameters: Any, learning_rate: float, device: torch.device) -> optim.Optimizer:
    """Build the optimizer of parameters from its specification.

    Raises
    ------
    ValueError
        If it cannot be built.
    """
    cls, params = resolve_optimizer(spec.name, spec.params, device)
    try:
        optimizer: optim.Optimizer = cls(parameters, lr=learning_rate, **params)
    except Exception as error:
        raise ValueError(f"optimizer={spec!r} cannot be built: {_text_of(error)}") from error
    return optimizer


def take_step(optimizer: optim.Optimizer) -> None:
    """Take a step.

    Raises
    ------
    OptimizerError
        If it fails, but for want of memory.
    """
    try:
        optimizer.step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise OptimizerError from error


def _text_of(error: BaseException | None) -> str:
    """Return what an error says, with its kind where that says what is meant."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def resolve_optimizer(
    optimizer: str | type[optim.Optimizer], params: dict[str, Any], device: torch.device
) -> tuple[type[optim.Optimizer], dict[str, Any]]:
    """Class and arguments of the optimizer; Adam and AdamW are fused unless the arguments say otherwise.

    Raises
    ------
    ValueError
        If the class is no optimizer, calls for the loss itself or for sparse gradients, or the arguments hold the learning rate.
    """
    cls = _OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    _check_class(cls, "optimizer")
    if "lr" in params:
        raise ValueError(_REFUSED_LR)
    if cls in _LEAN and not set(params) & _NOT_PLAIN and device.type in ("cpu", "cuda"):
        cls = _LEAN[cls]
    return cls, dict(params)
