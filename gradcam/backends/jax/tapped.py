"""Private copies of modules that pass their outputs to a tap: for flax.nnx, Equinox and Keras.

A copy's modules get a subclass of their own class (`tapped`). Its `__call__` finds the tap of the
run in a context variable, so that threads that trace the same model at once do not meet:

    with active(tap):
        copy(x)          ->  for each module `tap(path, output, kind)`, innermost first
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gradcam.backends.jax.biases import Biases
from gradcam.backends.jax.program import Tap

__all__ = ["active", "current", "modules_of", "path_among", "tapped", "tapped_copy"]

_current: contextvars.ContextVar[Tap | None] = contextvars.ContextVar("gradcam_tap", default=None)


def current() -> Tap | None:
    """The tap of the innermost run of this thread."""
    return _current.get()


@contextlib.contextmanager
def active(tap: Tap) -> Iterator[None]:
    """Make `tap` the current one of this thread for as long as the context lasts."""
    outer = _current.get()
    try:
        _current.set(tap)
        yield
    finally:
        _current.set(outer)


def tapped(
    layer: type,
    affine: tuple[type, ...],
    is_leaf: Callable[[Any], bool] | None = None,
    **namespace: Any,
) -> type:
    """A subclass of `layer` whose calls are tapped by the path in the instance's `_gradcam_path`.

    It has the name and signature of the layer itself. affine: layers whose output at zero is their
    bias. is_leaf: what of an output is not to be tapped.
    """
    call = layer.__call__  # type: ignore[operator]

    @functools.wraps(call)
    def tapped_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = call(self, *args, **kwargs)
        tap = current()
        if tap is None:
            return output
        if isinstance(tap, Biases) and issubclass(layer, affine):
            # unlike zeros_like, these zeros have the batch axis of the user's own vmap
            zeros = jnp.where(True, 0, args[0])
            tap.add(self._gradcam_path, call(self, zeros, *args[1:], **kwargs))
        return tap(self._gradcam_path, output, layer.__name__, is_leaf)

    namespace |= {
        "__call__": tapped_call,
        "__doc__": layer.__doc__,
        "__module__": layer.__module__,
        "__qualname__": layer.__qualname__,
    }
    return type(layer)(layer.__name__, (layer,), namespace)


def path_among(modules: Iterable[tuple[str, Any]], model: Any, layer: Any) -> str:
    """The path of a layer among the modules of a model. Raises KeyError if it is none of them."""
    for path, module in modules:
        if module is layer:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a module of this {type(model).__name__}; pass "
        "a path from gradcam.layers(model, inputs)"
    )


# -------------------------------------------------------------------------- modules that are trees


def modules_of(
    module: Any, is_module: Callable[[Any], bool], path: str = ""
) -> Iterator[tuple[str, Any]]:
    """All modules inside a module that is a tree to JAX, outer ones first."""
    for name, value in _children(module, is_module)[0]:
        if is_module(value):
            yield (path + name).lstrip("."), value
            yield from modules_of(value, is_module, path + name)


def tapped_copy(
    module: Any,
    is_module: Callable[[Any], bool],
    subclass: Callable[[type], type],
    path: str = "",
) -> Any:
    """A copy of a module that JAX sees as a tree, with every module inside of a tapped class."""
    children, treedef = _children(module, is_module)
    copies = []
    for name, value in children:
        if is_module(value):
            value = tapped_copy(value, is_module, subclass, path + name)
        copies.append(value)
    copy = treedef.unflatten(copies)
    if path and callable(copy):
        # past the module's own __setattr__, since Equinox modules are frozen
        object.__setattr__(copy, "__class__", subclass(type(copy)))
        object.__setattr__(copy, "_gradcam_path", path.lstrip("."))
    return copy


def _children(module: Any, is_module: Callable[[Any], bool]) -> tuple[list[tuple[str, Any]], Any]:
    """The contents of a module by name: modules as they are, everything else by its leaves."""
    children, treedef = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda value: value is not module and is_module(value)
    )
    named = [(jax.tree_util.keystr(keys), value) for keys, value in children]
    return named, treedef
