"""Private random numbers for code that draws from torch's global generator.

torch's initializers, ``nn.Dropout`` and networks of the user's own have no argument for a generator. A dispatch mode is
local to its thread and sees every operation that draws, so it can hand each one a generator of ours: fits side by side
give what they give alone, and the global state stays as it was.
"""

from __future__ import annotations

from contextlib import nullcontext
from enum import IntEnum
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_DETERMINISTIC_LAYERS = (
    nn.Linear,
    nn.Sequential,
    nn.Identity,
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.SELU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.Upsample,
    nn.Flatten,
    nn.Unflatten,
    nn.ModuleList,
    nn.Embedding,
)
# Draws of a shape like another tensor's take no generator in every torch: they are made by filling an empty one.
_LIKE = {"rand_like": "uniform_", "randn_like": "normal_", "randint_like": "random_"}


class Stream(IntEnum):
    """What a random stream is for: streams with other names are independent of each other."""

    TRAINING = 0  # shuffling and noise
    VALIDATION = 1
    LAYERS = 2  # dropout, and what networks of the user's own draw in training
    SPLIT = 3  # rows that are held out
    WEIGHTS = 4
    SAMPLE = 5
    MEASUREMENT = 6  # densities, and noise that is fitted after training
    PRETRAINING = 7
    COMPLETION = 8
    CODE_PRIOR = 9
    CODEBOOK = 10
    CODE_PRIOR_WEIGHTS = 11
    REFERENCES = 12
    DECAY = 13  # rows that are held out, and their training, for the choice of a weight decay
    PRIOR = 14  # rows that priors are placed by, and how


def seed_streams(*entropy: int, n: int) -> list[int]:
    """Seeds of `n` independent streams from a fit's one integer and whatever else tells streams apart."""
    # A zero at the end of the entropy would change nothing.
    return [int(seed) for seed in np.random.SeedSequence((*entropy, len(entropy))).generate_state(n)]


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a private generator on a device."""
    generator = torch.Generator(device=device)
    generator.manual_seed(seed)
    return generator


class PrivateRandomness(TorchDispatchMode):
    """Let every random operation in this thread draw from a private generator.

    Parameters
    ----------
    seed : int
        Seed of the generators, of which there is one per device.
    """

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if device not in self._generators:
            self._generators[device] = make_generator(self._seed, device)
        return self._generators[device]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        if torch.Tag.nondeterministic_seeded not in func.tags or _has_generator(args, kwargs):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            return self._dropout(*args, **kwargs)
        if name in _LIKE:
            return self._like(_LIKE[name], *args, **kwargs)
        overload = _overload_with_generator(func)
        if overload is not None:
            return overload(*args, **{**kwargs, "generator": self._generator(_device_of(args, kwargs))})
        if _drops_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        raise RuntimeError(
            f"The network calls {func}, which draws from torch's global generator and cannot be given a private one; "
            "use torch.nn.Dropout or draw the numbers with torch.rand or torch.randn."
        )

    def _dropout(self, x, p, train=True):
        if not train or p == 0.0:
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        keep = torch.empty_like(x).bernoulli_(1.0 - p, generator=self._generator(x.device))
        scale = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
        return x * keep * scale, keep.bool()

    def _like(self, fill, x, *bounds, **kwargs):
        empty = torch.empty_like(x, **{name: value for name, value in kwargs.items() if value is not None})
        bounds = [0, *map(int, bounds)][-2:] if bounds else []
        return getattr(empty, fill)(*bounds, generator=self._generator(empty.device))


def _has_generator(args, kwargs) -> bool:
    return any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))


def _device_of(args, kwargs) -> torch.device:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value.device
    return torch.device(kwargs.get("device") or "cpu")


@cache
def _overload_with_generator(func):
    """Overload of an operation, or the operation itself, that takes the same arguments and a generator."""
    if _takes_generator(func):
        return func
    for name in func.overloadpacket.overloads():
        overload = getattr(func.overloadpacket, name)
        if _takes_generator(overload) and _arguments(overload) == _arguments(func):
            return overload
    return None


def _takes_generator(func) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)


def _arguments(func) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in func._schema.arguments if argument.name != "generator"]


def _drops_nothing(func, args, kwargs) -> bool:
    """Whether an operation's dropout is switched off, in which case it draws nothing."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "dropout", "train"):
            value = kwargs.get(argument.name, args[position] if position < len(args) else argument.default_value)
            if not value:
                return True
    return False


_DRAWS: WeakKeyDictionary[nn.Module, dict[bool, bool]] = WeakKeyDictionary()


def draws_random_numbers(module: nn.Module) -> bool:
    """Whether a module may draw random numbers: it has layers that are not known here, or dropout in training."""
    found = _DRAWS.setdefault(module, {})
    if module.training not in found:
        known = _DETERMINISTIC_LAYERS if module.training else (*_DETERMINISTIC_LAYERS, nn.Dropout)
        found[module.training] = (module.training and getattr(module, "draws_in_training", False)) or any(
            type(layer) not in known
            and not type(layer).__module__.startswith("skvae.")
            and not (type(layer) in (nn.GRU, nn.LSTM) and not (module.training and layer.dropout))
            for layer in module.modules()
        )
    return found[module.training]


def private_randomness(module: nn.Module, seed: int):
    """Return a context for `module`'s computations; free of charge where it draws nothing."""
    return PrivateRandomness(seed) if draws_random_numbers(module) else nullcontext()
