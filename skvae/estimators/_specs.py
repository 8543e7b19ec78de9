"""Parameters that hold a specification: which one a name, True or None stands for, and how its arguments are set."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from inspect import signature
from typing import Any, NoReturn, Self

import numpy as np
from torch import nn

from skvae._spec import Spec
from skvae.modules import (
    CELLS,
    LIKELIHOODS,
    MLP,
    PRIORS,
    BatchTopK,
    Codebook,
    Conv,
    DefaultNet,
    Gaussian,
    Layered,
    LinearPath,
    Mixed,
    MixturePrior,
    PriorSpec,
    Recurrent,
    TopK,
    completed,
    convolves,
)
from skvae.training import CodePrior, EarlyStopping, Optimizer

NETWORKS = ("encoder", "decoder")
# Arguments of modules that a name may stand for, and which ones.
NAMED: dict[str, Collection[str]] = {"likelihood": LIKELIHOODS, "prior": PRIORS, "encoder": CELLS}
BATCH_ROWS = 128
_BATCHES_OF_MIXED, _MOST_BATCH_ROWS = 50, 512
_ROWS_OF_PART, _MOST_PARTS = 100, 20  # of the prior of mixed frames
_PENALTIES: dict[Any, type[Spec]] = {spec.name: spec for spec in (TopK, BatchTopK)}

# By parameter, the specification that a value stands for which is none itself; None where it stands for none.
_STAND_INS: dict[str, Callable[[Any], Spec | None]] = {
    "optimizer": Optimizer,
    "early_stopping": lambda value: EarlyStopping() if value else None,
    "likelihood": lambda value: Mixed(value) if isinstance(value, Mapping) else LIKELIHOODS[value](),
    "prior": lambda name: PRIORS[name](),
    "encoder": Recurrent,
    "penalty": lambda name: _PENALTIES[name]() if name in _PENALTIES else None,
    "codebook": Codebook,
    "linear_path": lambda value: None if value is None else LinearPath(),
    "code_prior": lambda name: None if name is None else CodePrior(name),
}
# Those whose arguments can be set where there was none.
_WHERE_NONE: dict[str, type[Spec]] = {"early_stopping": EarlyStopping, "code_prior": CodePrior, "linear_path": LinearPath}


def resolve(name: str, value: Any) -> Any:
    """Return the specification that a parameter's value is or stands for, or None."""
    return value if isinstance(value, Spec) else _STAND_INS[name](value)


def as_argument(name: str, value: Any) -> Any:
    """Return what a module is given of a parameter: the name of a specification at its defaults, which is smaller, or a copy."""
    spec = resolve(name, value)
    return next((key for key in NAMED[name] if spec == _STAND_INS[name](key)), copy.deepcopy(spec))


def likelihood_of(value: Any, form: Any) -> Any:
    """Return the likelihood that a parameter's value stands for, given the form of the frame that rows are of, if they are.

    Where all columns are numbers, and nothing else was asked for, it is the same normal noise for all.
    """
    spec = resolve("likelihood", value)
    if not isinstance(spec, Mixed):
        return spec
    return Gaussian() if form is None else Mixed(spec.likelihoods)


def batch_rows_of(value: Any, form: Any, n_rows: int) -> int:
    """Return how many of so many rows a step sees, at most; larger batches of mixed columns cost less than more steps."""
    if value != "auto":
        return int(value)
    return BATCH_ROWS if form is None else int(np.clip(n_rows // _BATCHES_OF_MIXED, BATCH_ROWS, _MOST_BATCH_ROWS))


def prior_for(form: Any, n_rows: float) -> str | PriorSpec:
    """Return the prior that "auto" stands for, of so many rows of weight one."""
    n_parts = min(int(n_rows / _ROWS_OF_PART), _MOST_PARTS)
    return "standard" if form is None or n_parts < 2 else MixturePrior(n_parts)


def may_stand_for_auto(prior: str | PriorSpec, form: Any) -> bool:
    """Whether "auto" may have stood for a prior, of however many rows."""
    return prior == "standard" or any(prior == prior_for(form, n * _ROWS_OF_PART) for n in range(2, _MOST_PARTS + 1))


class NestedMixin:
    """Parameters of parameters, of which it is said where there are none."""

    def set_params(self, **params) -> Self:
        """Set parameters, those of other objects among them as ``<parameter>__<name>``.

        Parameters
        ----------
        **params : dict
            New values by name; the others stay.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError
            If there is no parameter of that name.
        """
        nested = {key: value for key, value in params.items() if "__" in key}
        super().set_params(**{key: value for key, value in params.items() if key not in nested})
        for key in nested:
            owner, _, name = key.partition("__")
            if owner in self._get_param_names() and not hasattr(getattr(self, owner), "set_params"):
                self._refuse(owner, name)
        return super().set_params(**nested)

    def _refuse(self, owner: str, name: str) -> NoReturn:
        """Raise a ValueError about a parameter of one that has none."""
        value = getattr(self, owner)
        advice = f": give {type(self).__name__} an estimator first" if owner == "estimator" and value is None else ""
        raise ValueError(f"{owner}={value!r} has no parameters, so that there is none called {name!r}{advice}.")


class SpecsMixin(NestedMixin):
    """Parameters whose values are specifications, or stand for them."""

    def set_params(self, **params) -> Self:
        """Set parameters, those of specifications and other objects among them as ``<parameter>__<name>``.

        Where a parameter is a name, True or None, the specification that it stands for takes its place: from
        ``optimizer="sgd"``, ``set_params(optimizer__momentum=0.9)`` makes ``Optimizer("sgd", momentum=0.9)``. From
        ``decoder=None``, ``set_params(decoder__dropout=0.1)`` makes ``DefaultNet(dropout=0.1)``, the network that None stands
        for, with this argument: what is not asked for is decided in `fit`, whatever the order of calls.

        Parameters
        ----------
        **params : dict
            New values by name; the others stay.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError
            If there is no parameter of that name.
        """
        own, others = defaultdict(dict), {}
        for key, value in params.items():
            owner, _, name = key.partition("__")
            is_spec = name and (owner in NETWORKS or owner in _STAND_INS) and owner in self._get_param_names()
            (own[owner] if is_spec else others)[name if is_spec else key] = value
        super().set_params(**{key: value for key, value in others.items() if "__" not in key})
        for owner, asked in own.items():
            spec = self._spec_in_place(owner, asked)
            # A copy: encoder and decoder, or several estimators, may have been given one and the same.
            spec = type(spec)(**spec.get_params()).set_params(**asked)
            if owner == "encoder" and isinstance(spec, DefaultNet) and convolves(spec):
                spec = completed(spec, Conv())  # nothing of which is left to be decided
            setattr(self, owner, spec)
        return super().set_params(**{key: value for key, value in others.items() if "__" in key})

    def _spec_in_place(self, owner: str, asked: Any) -> Spec:
        """Return the specification that a parameter holds, or the one that arguments of these names are set of."""
        value, name = getattr(self, owner), next(iter(asked))
        if isinstance(value, Spec):
            return value
        if (owner, str(value)) == ("likelihood", Mixed.name) and not asked.keys() & Mixed().get_params().keys():
            return Gaussian()  # which it is for numbers
        is_dict = owner == "likelihood" and isinstance(value, dict) and self._takes_frames
        if not is_dict and not isinstance(value, (str, bool, np.bool_, type, type(None))):  # nothing else stands for one
            self._refuse(owner, name)
        if owner in NETWORKS:
            return self._network_in_place(owner, value, name)
        try:
            return resolve(owner, value) or _WHERE_NONE[owner]()
        except KeyError:
            self._refuse(owner, name)

    def _network_in_place(self, owner: str, value: Any, name: str) -> Spec:
        takes_images = "image_shape" in self._get_param_names()
        if owner == "encoder" and not takes_images:  # which reads sequences
            return Recurrent(value) if isinstance(value, str) else self._refuse(owner, name)
        if value == "tied":
            raise ValueError("decoder='tied' mirrors the encoder and has no parameters; set those of the encoder.")
        if value is not None and (owner, value) != ("decoder", "auto"):
            self._refuse(owner, name)
        # What kind the default network is, and what a decoder mirrors, is known in a fit alone; without images it is one kind.
        return DefaultNet() if takes_images else MLP()

    def _check_specs(self) -> None:
        """Raise a ValueError about arguments of specifications that are not as they should be."""
        for name in self._get_param_names():
            spec = getattr(self, name)
            if isinstance(spec, Spec):
                try:
                    spec.check()
                except ValueError as error:
                    raise ValueError(f"{name}={error}") from None

    def _check_flat(self) -> None:
        """Raise a ValueError about widths or an activation that a specification of a network contradicts."""
        defaults = {name: parameter.default for name, parameter in signature(type(self)).parameters.items()}
        for owner in NETWORKS:
            spec = getattr(self, owner, None)
            if not isinstance(spec, Layered):
                continue
            for name in ("hidden_layer_sizes", "activation"):
                own, flat = getattr(spec, name), getattr(self, name)
                is_reversed = owner == "decoder" and name == "hidden_layer_sizes"
                if own is None or _same(flat, defaults[name]) or _same(own, np.ravel(flat)[::-1] if is_reversed else flat):
                    continue
                raise ValueError(
                    f"{name}={flat!r} and {owner}={spec!r} contradict each other: leave {owner}__{name} None, or {name} at its "
                    f"default, {defaults[name]!r}; where encoder and decoder differ, give each its own."
                )


def _same(one: Any, other: Any) -> bool:
    """Whether widths or activations are the same, be they tuples, lists or arrays."""
    if isinstance(one, (str, type, nn.Module)) or isinstance(other, (str, type, nn.Module)):
        return one is other or (isinstance(one, str) and one == other)
    return np.array_equal(np.ravel(one), np.ravel(other))
