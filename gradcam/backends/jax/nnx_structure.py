"""The structure and the arrays of a flax.nnx module, without `nnx.split` at each call.

`nnx.split` visits the whole module and builds a description of it, which then has to be hashed. On
a module that has not changed since its last split, `split` instead compares what it consists of
with what it consisted of then, object by object, and reads the arrays from its Variables:

    module.conv.kernel[...] *= 2              same objects: the structure is kept, the kernel read
    module.conv.kernel = nnx.Param(...)       another object: split anew
    module.power = 3                          another object: split anew

It is worth it: on two shared cores an explanation takes 1.8 times as long without it for a module
of two layers, and 1.2 times as long for EfficientNet-Lite0 (medians of ratios, calls taken in
turn).
"""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
from flax import nnx

from gradcam._types import Array

__all__ = ["Structure", "split"]


class Structure:
    """All of a module but its arrays; equal for modules of equal structure."""

    def __init__(self, graphdef: Any, treedef: Any) -> None:
        self._parts = graphdef, treedef

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._parts)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structure) and self._parts == other._parts)

    def __hash__(self) -> int:  # computed once, because it takes longer than many a layer
        return self._hash

    def merged(self, leaves: Iterable[Array]) -> Any:
        """A module of this structure with these arrays; it shares nothing with the user's."""
        graphdef, treedef = self._parts
        return nnx.merge(graphdef, treedef.unflatten(leaves))


class _Split(NamedTuple):
    """A module as it was split."""

    module: weakref.ref[nnx.Module]
    parts: list[Any]
    """What it consisted of, kept alive so that no other object gets the same identity."""
    sources: list[nnx.Variable[Any] | Array]
    """For each leaf of the state the Variable to read it from, or the array itself."""
    structure: Structure


_LAST: dict[int, _Split] = {}
"""The modules that were split last, by identity."""

_KEPT = 8


def split(module: nnx.Module) -> tuple[Structure, list[Array]]:
    """The structure of a module, and its arrays as they are now."""
    parts, variables = _parts(module)
    last = _LAST.get(id(module))
    if last is not None and last.module() is module and _identical(last.parts, parts):
        return last.structure, list(map(_read, last.sources))
    graphdef, state = nnx.split(module)
    leaves, treedef = jax.tree.flatten(state)
    structure = Structure(graphdef, treedef)
    sources = _sources(leaves, variables, parts)
    if sources is not None:
        _LAST[id(module)] = _Split(weakref.ref(module), parts, sources, structure)
        # only the newest are kept: an entry keeps its module's objects alive
        for old in list(_LAST)[:-_KEPT]:
            _LAST.pop(old, None)
    return structure, leaves


def _parts(module: nnx.Module) -> tuple[list[Any], list[nnx.Variable[Any]]]:
    """The objects that a module consists of, in order, and the Variables among them."""
    parts: list[Any] = []
    variables: list[nnx.Variable[Any]] = []
    waiting: list[Any] = [module]
    visited = {id(module)}
    while waiting:
        node = waiting.pop()
        names, values = _contents(node)
        parts += names
        parts += values
        for value in values:
            role = _role(type(value))  # type: ignore[arg-type]  # a type is hashable
            if role is None or id(value) in visited:
                continue
            visited.add(id(value))
            if role == "variable":
                parts.extend(value.get_metadata().values())
                variables.append(value)
            else:
                waiting.append(value)
        parts.append(None)  # the end of this node: ([a], [b]) is not ([a, b], [])
    return parts, variables


def _contents(node: Any) -> tuple[list[str], list[Any]]:
    """The names and values in a module, a dictionary, a list or a tuple."""
    if isinstance(node, (list, tuple)):
        return [], list(node)
    if not isinstance(node, dict):
        node = vars(node)
    return list(node), list(node.values())


@functools.cache
def _role(kind: type) -> str | None:
    if issubclass(kind, nnx.Variable):
        return "variable"
    if issubclass(kind, (nnx.Pytree, list, tuple, dict)):
        return "node"
    return None


def _identical(parts: list[Any], others: list[Any]) -> bool:
    return len(parts) == len(others) and all(map(operator.is_, parts, others))


def _sources(
    leaves: list[Array], variables: list[nnx.Variable[Any]], parts: list[Any]
) -> list[Any] | None:
    """For each leaf where to read it at the next call.

    None if that is not certain: a Variable may hold a tree, or two Variables the same array.
    """
    variable_of = {id(variable.get_raw_value()): variable for variable in variables}
    leaf_ids = set(map(id, leaves))
    if len(variable_of) < len(variables) or not variable_of.keys() <= leaf_ids:
        return None
    # a leaf that is in no Variable must be an attribute: if that is set anew, `parts` differ
    if not leaf_ids <= variable_of.keys() | set(map(id, parts)):
        return None
    return [variable_of.get(id(leaf), leaf) for leaf in leaves]


def _read(source: nnx.Variable[Any] | Array) -> Array:
    if isinstance(source, nnx.Variable):
        return source.get_raw_value()
    return source
