"""Operations of a step that are noted once, and run again without what leads to them.

Between two operations on small tensors more time passes in what decides about them (layers, transformations, the way back) than
they take. They are the same at every step, so that they are written down, in the order in which they ran, as one function of
TorchScript: it runs without Python, which is free for the steps of other threads meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Run = Callable[..., list[torch.Tensor]]

_DEPENDENT = torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
_BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_ATEN = torch.ops.aten
_MEMORY = (_ATEN.resize_, _ATEN.resize_as_, _ATEN.set_)
# What TorchScript knows layouts by.
_FORMATS = {torch.contiguous_format: 0, torch.preserve_format: 1, torch.channels_last: 2, torch.channels_last_3d: 3}


class Replay:
    """Has steps take the short way after a few that are alike.

    The first ones go the long way; one is noted, and the one after that goes both ways. Where it leaves other bits behind, or
    operations cannot be noted, the long way is taken for good.

    Parameters
    ----------
    n_first : int, default=2
        Steps of a kind that go the long way before one is noted, which takes as long as dozens.
    changing : callable, optional
        Returns the tensors that steps change where they lie.
    """

    def __init__(self, n_first: int = 2, changing: Callable[[], list[torch.Tensor]] = list) -> None:
        self._n_first, self._changing = n_first, changing
        self._n_taken: Counter[Hashable] = Counter()
        self._runs: dict[Hashable, Run | None] = {}
        self._sure: set[Hashable] = set()

    def __call__(
        self, kind: Hashable, given: Sequence[torch.Tensor], function: Callable[[], list[torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Return what a function does, which may read what is given and what always lies in the same memory.

        Parameters
        ----------
        kind : hashable
            What steps have in common that are alike, beside the shapes of what is given.
        given : sequence of Tensor
        function : callable
            Must do nothing but to return new tensors, and to change those that are known to change.
        """
        kind = kind, *((value.dtype, value.shape, value.stride()) for value in given)
        run = self._runs.get(kind)
        if run is not None and kind in self._sure:
            with torch.no_grad():
                return run(*given)
        self._n_taken[kind] += 1
        if self._n_taken[kind] <= self._n_first or (kind in self._runs and run is None):
            return function()
        if run is None:
            found, self._runs[kind] = _noted(function, given)
            return found
        changing = [value.detach() for value in self._changing()]
        before = [value.clone() for value in changing]
        found = function()
        after = [value.clone() for value in changing]
        _write(before, changing)
        if _leads_to(run, given, found) and all(map(torch.equal, changing, after)):
            self._sure.add(kind)
        else:
            self._runs[kind] = None
            _write(after, changing)
        return found


def _noted(function: Callable[[], list[torch.Tensor]], given: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], Run | None]:
    """Call a function, and return what it returns and the short way to it, if there is one."""
    with Transcript(given) as transcript:
        found = function()
    try:
        return found, transcript.function(found)
    except (CannotReplayError, RuntimeError, TypeError, AttributeError):  # the long way is always there
        return found, None


def _write(values: list[torch.Tensor], places: list[torch.Tensor]) -> None:
    for value, place in zip(values, places, strict=True):
        place.copy_(value)


@torch.no_grad()
def _leads_to(run: Run, given: Sequence[torch.Tensor], found: list[torch.Tensor]) -> bool:
    """Whether the short way leads to the same, to the last bit."""
    try:
        return all(map(torch.equal, found, run(*given)))
    except (RuntimeError, TypeError, ValueError):
        return False


class CannotReplayError(Exception):
    """Operations have been run that do not do the same when they are run again; nothing is the worse for their being watched."""


@dataclass
class _Operation:
    """An operation that has run.

    Attributes
    ----------
    function : callable
    args, kwargs : tuple, dict
        What it was given, with a `_Name` in the place of each tensor.
    result : object
        The same of what it returned.
    writes : bool
        Whether it changes something that it is given.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    writes: bool


@dataclass(eq=False)
class _Name:
    """A tensor: which part of which memory.

    Attributes
    ----------
    text : str
    place : tuple
        The number of its storage, and its type, offset, shape and strides in it.
    """

    text: str
    place: tuple[Any, ...]


class Transcript(TorchDispatchMode):
    """Notes the operations that run within the context, for a function of what is given anew at every step.

    Whatever else they take and have not made themselves must lie in the same memory at all steps, such as weights, and is read
    there.

    Parameters
    ----------
    given : sequence of Tensor
        What is given anew, of the same shapes.
    """

    def __init__(self, given: Sequence[torch.Tensor]):
        super().__init__()
        self._names: dict[tuple[Any, ...], _Name] = {}
        self._fixed: dict[str, torch.Tensor] = {}  # by name
        self._made: set[int] = set()  # storages that are not the same at every step
        self._operations: list[_Operation] = []
        self._alive: list[Any] = []  # so that nothing else takes a place in memory meanwhile
        self._given = [self._name_made(value) for value in given]
        self._given_memory = frozenset(self._made)
        self._obstacle: object = None if len(self._names) == len(given) else given

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._obstacle is not None:
            return result
        self._alive += [args, kwargs, result]
        is_drawn = torch.Tag.nondeterministic_seeded in func.tags
        if is_drawn or depends_on_numbers(func, args) or func.overloadpacket in _MEMORY:
            self._obstacle = func
        if torch.Tag.inplace_view in func.tags:  # which changes no numbers
            return result
        read = self._named((args, kwargs), self._name_read)
        writes = any(each.alias_info is not None and each.alias_info.is_write for each in func._schema.arguments)
        before = set(self._names)
        is_fixed = not writes and all(name.text in self._fixed for name in _names_in(read)) and not _is_new(result, read)
        name_result = self._name_fixed if is_fixed else self._name_made
        made = self._named(result, lambda value: self._names[_place(value)] if _place(value) in before else name_result(value))
        if writes and any(name.place not in before for name in _names_in(made)):  # of which there would be no name
            self._obstacle = func
        # What lies where something else does is the same, and parts of fixed memory are always there.
        if writes or not all(name.place in before or name.text in self._fixed for name in _names_in(made)):
            self._operations.append(_Operation(func, *read, made, writes))
        return result

    def function(self, results: Sequence[torch.Tensor]) -> Run:
        """Return the function that runs the same operations on what it is given, and returns these of their results.

        Raises
        ------
        CannotReplayError
            If operations do something else when they are run again, or results are not of their making.
        """
        found = [self._names.get(_place(value)) for value in results]
        if self._obstacle is not None or any(name is None or name.place[0] not in self._made for name in found):
            raise CannotReplayError
        same = self._same()
        texts = [same.get(name.text, name.text) for name in found if name is not None]
        kept, operations = {*texts, *self._fixed}, list[_Operation]()
        for operation in reversed(self._operations):
            made = [name.text for name in _names_in(operation.result)]
            if not any(name in same for name in made) and (operation.writes or any(name in kept for name in made)):
                kept.update(made, (same.get(name.text, name.text) for name in _names_in((operation.args, operation.kwargs))))
                operations.append(operation)
        given = [name.text for name in self._given]
        script = _Script([*given, *self._fixed], same)
        for operation in reversed(operations):
            script.append(operation)
        counts = Counter(texts)
        shared = {text for text in texts if counts[text] > 1 or text in given}
        return script.function(texts, shared, list(self._fixed.values()))

    # -- names --------------------------------------------------------------------------------------------------------

    def _named(self, tree: Any, name: Callable[[torch.Tensor], _Name]) -> Any:
        if isinstance(tree, torch.Tensor):
            return name(tree)
        if isinstance(tree, dict):
            return {key: self._named(value, name) for key, value in tree.items()}
        if isinstance(tree, (list, tuple)):
            return type(tree)(self._named(value, name) for value in tree)
        return tree

    def _name_read(self, value: torch.Tensor) -> _Name:
        place = _place(value)
        if place not in self._names:
            if place[0] in self._given_memory:  # which begins elsewhere at another step
                self._obstacle = value
            if place[0] in self._made:  # another view of it, which was not seen
                whole = next(name for name in self._names.values() if name.place[0] == place[0])
                _, _, offset, shape, strides = place
                part = self._name_made(value)
                self._operations.append(_Operation(_ATEN.as_strided.default, (whole, shape, strides, offset), {}, part, False))
            else:
                self._name_fixed(value)
        return self._names[place]

    def _name_fixed(self, value: torch.Tensor) -> _Name:
        name = self._new_name(value)
        self._fixed[name.text] = value.detach()
        return name

    def _name_made(self, value: torch.Tensor) -> _Name:
        name = self._new_name(value)
        self._made.add(name.place[0])
        self._alive.append(value)
        return name

    def _new_name(self, value: torch.Tensor) -> _Name:
        name = self._names[_place(value)] = _Name(f"t{len(self._names)}", _place(value))
        return name

    def _same(self) -> dict[str, str]:
        """Return the names of tensors that are copies of others, neither of which changes, by the names of these."""
        changed: Counter[int] = Counter()
        for operation in self._operations:
            if operation.writes:
                changed.update({name.place[0] for name in _written(operation)})
        n_parts = Counter(name.place[0] for name in self._names.values())
        same: dict[str, str] = {}
        empty: set[int] = set()
        for operation in self._operations:
            function, args = operation.function, operation.args
            if function in (_ATEN.new_empty_strided.default, _ATEN.empty_strided.default, _ATEN.empty.memory_format):
                empty.add(operation.result.place[0])
            if function is _ATEN.mul.Scalar and args[1] == 1:
                one, other, may_change = args[0], operation.result, 0
            elif function is _ATEN.clone.default or (
                # What is filled through a part is not there where the whole is read, if it is not filled.
                function is _ATEN.copy_.default and args[0].place[0] in empty and n_parts[args[0].place[0]] == 1
            ):
                one, other = (args[0], operation.result) if function is _ATEN.clone.default else (args[1], args[0])
                may_change = int(function is _ATEN.copy_.default)
            else:
                continue
            is_alike = one.place[1] == other.place[1] and one.place[3:] == other.place[3:]
            if is_alike and one.place[0] in self._made and not changed[one.place[0]] and changed[other.place[0]] <= may_change:
                same[other.text] = same.get(one.text, one.text)
        return same


def depends_on_numbers(func: Any, args: Any) -> bool:
    """Whether the numbers in tensors decide about the shape of what an operation returns, or become numbers elsewhere."""
    if func.overloadpacket.__name__ in _BY_INDEX:  # of which only masks do
        return any(value.dtype in (torch.bool, torch.uint8) for value in tree_leaves(args[1]) if isinstance(value, torch.Tensor))
    return any(tag in func.tags for tag in _DEPENDENT)


def _place(value: torch.Tensor) -> tuple[Any, ...]:
    """Return what a tensor is known by: where it lies, and how."""
    return value.untyped_storage()._cdata, value.dtype, value.storage_offset(), tuple(value.shape), value.stride()


def _is_new(result: Any, read: Any) -> bool:
    """Whether there is memory in what an operation returns that it was not given."""
    given = {name.place[0] for name in _names_in(read)}
    return not all(isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in given for value in tree_leaves(result))


def _names_in(tree: Any) -> Iterator[_Name]:
    if isinstance(tree, _Name):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _names_in(value)
    elif isinstance(tree, dict):
        yield from _names_in(list(tree.values()))


def _written(operation: _Operation) -> Iterator[_Name]:
    """Names of what an operation changes."""
    for i, argument in enumerate(operation.function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _names_in(operation.args[i] if i < len(operation.args) else operation.kwargs.get(argument.name))


class _Script:
    """A function of TorchScript that is put together operation by operation.

    Parameters
    ----------
    names : sequence of str
        Of the tensors that it will be given.
    same : dict of str
        Names of tensors for which others are to be taken, by the names of these.
    """

    def __init__(self, names: Sequence[str], same: dict[str, str]):
        self._graph: Any = torch._C.Graph()
        self._values: dict[str, Any] = {name: self._graph.addInput(name) for name in names}
        self._same = same

    def append(self, operation: _Operation) -> None:
        """Append an operation on tensors that are there."""
        schema, args, result = operation.function._schema, operation.args, operation.result
        rest = (operation.kwargs.get(each.name, each.default_value) for each in schema.arguments[len(args) :])
        numbers = next((name.place[1] for name in _names_in(result) if name.place[1].is_floating_point), None)
        values = [self._value(value, each.type, numbers) for value, each in zip((*args, *rest), schema.arguments, strict=True)]
        if isinstance(result, list):
            (whole,) = self._node(schema.name, values)
            made = self._node("prim::ListUnpack", [whole.setType(schema.returns[0].type)], len(result))
        else:
            made = self._node(schema.name, values, len(schema.returns))
            result = result if isinstance(result, tuple) else (result,)
        if not operation.writes:
            self._values.update({name.text: value for name, value in zip(result, made, strict=True) if isinstance(name, _Name)})

    def function(self, results: Sequence[str], shared: set[str], fixed: Sequence[torch.Tensor]) -> Run:
        """Return the function that returns tensors, copies of those that are shared; the last it is given are always the same."""
        values = [self._values[name] for name in results]
        for i, name in enumerate(results):
            if name in shared:
                (values[i],) = self._node("aten::clone", [values[i], self._graph.insertConstant(None)])
        self._graph.registerOutput(self._list(values, torch._C.ListType.ofTensors()))
        function = torch._C._create_function_from_graph("run", self._graph)

        def run(*given: torch.Tensor) -> list[torch.Tensor]:
            with torch.jit.optimized_execution(False):  # which would look at a few steps before it decides what to do
                found: list[torch.Tensor] = function(*given, *fixed)
            return found

        return run

    def _node(self, kind: str, values: Sequence[Any], n_results: int = 1) -> list[Any]:
        node = self._graph.create(kind, values, n_results)
        self._graph.appendNode(node)
        return list(node.outputs())

    def _list(self, values: Sequence[Any], kind: Any) -> Any:
        return self._node("prim::ListConstruct", values)[0].setType(kind)

    def _value(self, value: Any, kind: Any, numbers: torch.dtype | None) -> Any:
        """Return what an operation is given: tensors, or what is the same at every step; numbers become tensors where it asks."""
        if isinstance(value, _Name):
            return self._values[self._same.get(value.text, value.text)]
        if isinstance(value, (list, tuple)):
            if not value or any(isinstance(each, _Name) for each in value):
                return self._list([self._value(each, kind, numbers) for each in value], kind)
            return self._graph.insertConstant(list(value))
        if isinstance(value, torch.memory_format):
            value = _FORMATS[value]
        elif isinstance(value, (int, float)) and kind.kind() == "TensorType":
            value = torch.tensor(value, dtype=numbers if isinstance(value, float) else None)
        elif isinstance(value, int) and kind.kind() == "FloatType":
            value = float(value)
        return self._graph.insertConstant(value)
