"""What JAX, its libraries and Keras keep for each thread: as it was, when a call has raised.

Their contexts, such as `jax.enable_x64`, `nn.intercept_methods` and Keras's scopes, write there,
and put back at their end. But Ctrl-C may strike at any instant, at the start of an `__exit__` too,
which then does nothing; and an interceptor or a precision that stays changes the user's next call.
So the end of a call that raised restores all of it. It does so twice, because the first time may be
what was interrupted.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

__all__ = ["undisturbed"]

P = ParamSpec("P")
T = TypeVar("T")

_LIBRARIES = {"jax", "flax", "haiku", "equinox", "keras"}
"""PyTorch's backend restores what PyTorch keeps."""


def undisturbed(call: Callable[P, T]) -> Callable[P, T]:
    """The same call. If it raises, and wherever an interrupt strikes, this thread's state is
    restored.
    """

    @functools.wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        before = _ThreadState()
        try:
            try:
                return call(*args, **kwargs)
            except BaseException as error:
                interrupt = _interrupt(error)
                if interrupt is not None:
                    # A generator that is suspended in its frames would end, and pop what it had
                    # pushed, only when the user lets go of the traceback.
                    traceback.clear_frames(error.__traceback__)
                    traceback.clear_frames(interrupt.__traceback__)
                before.restore()
                if interrupt not in (None, error):
                    raise interrupt from None
                raise
        except BaseException:
            before.restore()  # for an interrupt may have struck the first time
            raise

    return run


def _interrupt(error: BaseException) -> BaseException | None:
    """Ctrl-C, also where an `__exit__` then met what an inner one had left, and raised for it."""
    found: BaseException | None = error
    while isinstance(found, Exception):
        found = found.__context__
    return found


class _ThreadState:
    """The values of each `threading.local` of the libraries, and of JAX's settings."""

    def __init__(self) -> None:
        places, self._settings = _places(len(sys.modules))
        self._values = [setting.get_local() for setting in self._settings]
        self._locals = []
        for module, name in places:
            local = getattr(module, name)
            self._locals.append((local, dict(vars(local))))
        self._contents = []
        for _, values in self._locals:
            for value in values.values():
                if isinstance(value, (list, deque, dict, set)):
                    self._contents.append((value, copy.copy(value)))
        self._guard = _transfer_guard()
        self._levels = {name: getattr(self._guard, name) for name in _public(self._guard)}

    def restore(self) -> None:
        for setting, value in zip(self._settings, self._values, strict=True):
            setting.set_local(value)
        for name, level in self._levels.items():
            setattr(self._guard, name, level)
        for local, values in self._locals:
            held = vars(local)
            held.update(values)
            for name in held.keys() - values.keys():
                del held[name]
        for container, items in self._contents:
            container.clear()
            if isinstance(container, (list, deque)):
                container.extend(items)
            else:
                container.update(items)


@functools.lru_cache(1)
def _places(_: int) -> tuple[list[tuple[ModuleType, str]], list[Any]]:
    """Where each `threading.local` of the loaded libraries is, which `keras.utils.clear_session`
    makes anew; and JAX's settings, which are of C++.

    They are looked for again when other modules have been loaded.
    """
    config = sys.modules.get("jax._src.config")
    kind: Any = getattr(getattr(config, "config_ext", None), "Config", ())
    places: dict[int, tuple[ModuleType, str]] = {}
    settings: dict[int, Any] = {}
    for library, module in list(sys.modules.items()):
        if library.partition(".")[0] not in _LIBRARIES or not isinstance(module, ModuleType):
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, threading.local):
                places.setdefault(id(value), (module, name))
            elif isinstance(value, kind):
                settings[id(value)] = value
    return list(places.values()), list(settings.values())


def _transfer_guard() -> Any:
    """Where JAX's transfer guard reads its levels: a setting's second place."""
    guards = getattr(sys.modules.get("jax._src.config"), "guard_lib", None)
    return None if guards is None else guards.thread_local_state()


def _public(guard: Any) -> list[str]:
    return [] if guard is None else [name for name in dir(guard) if not name.startswith("_")]
