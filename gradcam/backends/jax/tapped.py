"""Tapped subclasses: how modules of flax.nnx and Equinox, private copies of the user's, pass on what they put out."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

from gradcam.backends.jax.program import Tap

__all__ = ["active", "current", "tapped"]

_current: contextvars.ContextVar[Tap | None] = contextvars.ContextVar("gradcam_tap", default=None)


def current() -> Tap | None:
    """The tap of the innermost run of this thread."""
    return _current.get()


@contextlib.contextmanager
def active(tap: Tap) -> Iterator[None]:
    token = _current.set(tap)
    try:
        yield
    finally:
        _current.reset(token)


def tapped(layer: type, output: Callable[..., Any], **namespace: Any) -> type:
    """A subclass of `layer` whose calls are `output(self, *args, **kwargs)`; it looks like the layer itself."""
    call = layer.__call__  # type: ignore[operator]
    names = {
        "__module__": layer.__module__,
        "__qualname__": layer.__qualname__,
        "__doc__": layer.__doc__,
    }
    wrapped = functools.wraps(call)(lambda self, *args, **kwargs: output(self, *args, **kwargs))
    return type(layer)(layer.__name__, (layer,), {"__call__": wrapped, **names, **namespace})
