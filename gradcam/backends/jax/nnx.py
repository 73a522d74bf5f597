"""flax.nnx: any module, split into structure and state, and tapped on a private copy while it is traced."""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.model import Biases, JaxModel
from gradcam.backends.jax.program import Tap
from gradcam.backends.jax.tapped import active, current, tapped
from gradcam.inputs import arguments

__all__ = ["Nnx", "adapt", "path_of"]

AFFINE = (nnx.Conv, nnx.ConvTranspose, nnx.Linear, nnx.LinearGeneral, nnx.BatchNorm)
"""Layers whose output at zero is their bias."""


def _paths(module: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module) and path:
            yield "/".join(str(part) for part in path), node


def path_of(model: nnx.Module, layer: nnx.Module) -> str:
    """The path of a module that is in the model."""
    for path, module in _paths(model):
        if module is layer:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a module of this {type(model).__name__}; pass a path from "
        "gradcam.layers(model, inputs)"
    )


@dataclass(frozen=True, eq=False)
class Nnx:
    """Merges a private copy of the module and runs it in evaluation mode; equal for modules of equal structure."""

    graphdef: Any
    treedef: Any

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Nnx) and self._parts == other._parts)

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        return self.graphdef, self.treedef

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._parts)

    def __hash__(self) -> int:  # computed once: it takes longer than many a layer
        return self._hash

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        module = nnx.merge(self.graphdef, self.treedef.unflatten(values))
        module.eval()
        for path, layer in list(_paths(module)):
            if callable(layer):
                layer._gradcam_path = path
                object.__setattr__(layer, "__class__", _tapped(type(layer)))
        args, kwargs = arguments(inputs)
        with active(tap):
            return module(*args, **kwargs)


def adapt(module: nnx.Module) -> JaxModel:
    """The module as it is now. `nnx.split`, which takes longer than many a layer, runs where its structure is new."""
    marks, variables = _walk(module)
    known = _KNOWN.get(id(module))
    if known is not None and known.module() is module and _identical(known.marks, marks):
        return JaxModel(
            known.run, [leaf.get_raw_value() if read else leaf for leaf, read in known.sources]
        )
    graphdef, state = nnx.split(module)
    leaves, treedef = jax.tree.flatten(state)
    run = Nnx(graphdef, treedef)
    sources = _sources(leaves, variables, marks)
    if sources is not None:
        _KNOWN[id(module)] = _Known(weakref.ref(module), marks, sources, run)
        for old in list(_KNOWN)[:-8]:
            _KNOWN.pop(old, None)
    return JaxModel(run, leaves)


class _Known(NamedTuple):
    """A module's structure as it was split; its leaves in order, each a Variable to read or an array of its own."""

    module: weakref.ref[nnx.Module]
    marks: list[Any]
    sources: list[tuple[Any, bool]]
    run: Nnx


_KNOWN: dict[int, _Known] = {}
"""The modules that were split last, by identity."""


def _walk(module: nnx.Module) -> tuple[list[Any], list[Any]]:
    """The objects that a module's structure is made of, to be compared by identity, and its Variables."""
    marks: list[Any] = []
    variables: list[Any] = []
    seen, waiting = {id(module)}, [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (list, tuple)):
            values: Sequence[Any] = node
        else:
            attributes = node if isinstance(node, dict) else vars(node)
            marks.extend(attributes)
            values = list(attributes.values())
        marks.extend(values)
        for value in values:
            role = _role(type(value))  # type: ignore[arg-type]  # a type is hashable
            if role is None or id(value) in seen:
                continue
            seen.add(id(value))
            if role == "variable":
                marks.extend(value.get_metadata().values())
                variables.append(value)
            else:
                waiting.append(value)
        marks.append(None)  # the end of this node
    return marks, variables


@functools.cache
def _role(kind: type) -> str | None:
    if issubclass(kind, nnx.Variable):
        return "variable"
    return "node" if issubclass(kind, (nnx.Pytree, list, tuple, dict)) else None


def _identical(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(operator.is_, one, other))


def _sources(
    leaves: list[Any], variables: list[Any], marks: list[Any]
) -> list[tuple[Any, bool]] | None:
    """Where each leaf can be read anew; None where that cannot be told, as of a Variable that holds a tree."""
    by_value = {id(variable.get_raw_value()): variable for variable in variables}
    attributes = {id(mark) for mark in marks}
    if len(by_value) < len(variables) or not by_value.keys() <= {id(leaf) for leaf in leaves}:
        return None
    if any(id(leaf) not in by_value and id(leaf) not in attributes for leaf in leaves):
        return None
    return [
        (by_value[id(leaf)], True) if id(leaf) in by_value else (leaf, False) for leaf in leaves
    ]


@functools.cache
def _tapped(layer: type) -> type:
    """A subclass whose calls are tapped; its instances are private copies, never the user's."""

    def output(self: Any, *args: Any, **kwargs: Any) -> Any:
        found, tap = layer.__call__(self, *args, **kwargs), current()  # type: ignore[operator]
        if isinstance(tap, Biases) and issubclass(layer, AFFINE):
            tap.add(
                self._gradcam_path,
                layer.__call__(self, jnp.zeros_like(args[0]), *args[1:], **kwargs),
            )
        return found if tap is None else tap(self._gradcam_path, found, layer.__name__)

    return tapped(layer, output)
