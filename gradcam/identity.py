"""What tells a model, a method or a measure from another, also in another process.

A model that a backend serves is told by its layers, their settings, and a hash of every array. A
function is told by its code and by what it reads: closure, globals, defaults, and the object of a
method. Code of installed packages, and of this library, is told by its name.

What has no text of its own, such as a random generator or a file, cannot be told from another of
its kind: `Identity.unknown` names such kinds.
"""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import is_jax_array, is_torch_array

from gradcam import backends
from gradcam._arrays import to_numpy
from gradcam._functions import INSTALLED, attributes_of, names_read
from gradcam.model import HasState

__all__ = ["Identity", "identity", "name_of"]

MOST_PARTS = 20_000
"""Of what is read: beyond, nothing is told."""

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), np.generic)

ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Identity:
    """name: as its author wrote it. digest: equal where the model or function is the same.

    unknown: the kinds of what cannot be told from another.
    """

    name: str
    digest: str
    unknown: tuple[str, ...]


def identity(value: Any) -> Identity:
    """The identity of a model, a function, or an object of plain values and functions."""
    reading = _Reading()
    try:
        reading.read(value)
    except (RecursionError, _TooManyPartsError):
        reading.unknown.add(f"{name_of(value)}, of too many parts")
    return Identity(name_of(value), reading.digest, tuple(sorted(reading.unknown)))


def name_of(value: Any) -> str:
    """The name of a model or function, as its author wrote it."""
    if isinstance(value, tuple) and value:  # a module and its variables
        value = value[0]
    if isinstance(value, functools.partial):
        value = value.func
    return str(getattr(value, "__qualname__", type(value).__qualname__))


class _TooManyPartsError(Exception):
    """More is read than can be told by it."""


class _Reading:
    """One reading: everything is fed to a hash in the order in which it is met."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no identity is used twice
        self.unknown: set[str] = set()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16]

    def read(self, value: Any) -> None:
        if isinstance(value, PLAIN):
            self._add(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._add("again", str(self._seen[id(value)]))
            return
        if len(self._seen) >= MOST_PARTS:
            raise _TooManyPartsError
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        if any(library.parts_of(value) is not None for library in backends.LIBRARIES):
            self._read_model(value)
        elif isinstance(value, np.ndarray) or is_jax_array(value) or is_torch_array(value):
            self._read_array(value)
        else:
            self._read_other(value)

    def _add(self, *texts: str) -> None:
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "big") + data)

    def _read_all(self, kind: str, values: Iterable[Any]) -> None:
        self._add(kind)
        for value in values:
            self.read(value)
        self._add("end")

    def _read_model(self, model: Any) -> None:
        adapted = backends.adapt(model, None)
        assert isinstance(adapted, HasState)  # of `backends.LIBRARIES` all do
        text, arrays = adapted.state()
        self._add("model", name_of(model), ADDRESS.sub("", text))
        for name in sorted(arrays):
            self._add(name)
            self._read_array(arrays[name])

    def _read_array(self, array: Any) -> None:
        try:
            values = np.ascontiguousarray(to_numpy(array))
        except (TypeError, ValueError, RuntimeError):  # of another machine, or without numbers
            self.unknown.add(type(array).__qualname__)
            return
        self._add("array", str(array.dtype), str(values.shape))
        if values.dtype.hasobject:
            self._read_all("objects", values.ravel().tolist())
        else:
            self._hash.update(values.reshape(-1).view(np.uint8).data)

    def _read_other(self, value: Any) -> None:
        if isinstance(value, types.FunctionType):
            self._read_function(value)
        elif isinstance(value, types.MethodType):
            self._read_all("method", (value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self._read_all("partial", (value.func, value.args, value.keywords))
        elif isinstance(value, dict):
            self._read_all("dict", (part for item in value.items() for part in item))
        elif isinstance(value, (list, tuple)):
            self._read_all(type(value).__name__, value)
        elif isinstance(value, (set, frozenset)):
            self._read_all("set", sorted(value, key=repr))
        elif isinstance(value, type):
            self._read_type(value)
        elif isinstance(value, types.ModuleType):
            self._add("module", value.__name__)
        elif isinstance(value, types.CodeType):
            self._read_code(value)
        elif hasattr(value, "__wrapped__"):  # jitted, cached and the like
            self._read_all(type(value).__qualname__, (value.__wrapped__,))
        else:
            self._read_object(value)

    # ---------------------------------------------------------------------------- code, and objects

    def _read_function(self, function: types.FunctionType) -> None:
        self._add("function", function.__qualname__)
        for cell in function.__closure__ or ():
            try:
                self.read(cell.cell_contents)
            except ValueError:  # a cell that is still empty
                self._add("empty")
        self.read(function.__defaults__)
        self.read(function.__kwdefaults__)
        code = function.__code__
        if _is_given(code, function.__module__):
            return
        self._read_code(code)
        names = sorted(set(names_read(code)))
        for name in names:
            if name in function.__globals__:
                self._add(name)
                self._read_global(function.__globals__[name], names)

    def _read_global(self, value: Any, names: Iterable[str]) -> None:
        """A global value; of a module of the user's own, what the function may read of it."""
        self.read(value)
        if isinstance(value, types.ModuleType) and _is_own(value):
            for name in names:
                if name in vars(value):
                    self._add(name)
                    self.read(vars(value)[name])

    def _read_code(self, code: types.CodeType) -> None:
        self._add("code", code.co_code.hex(), *code.co_names, *code.co_varnames)
        self._read_all("constants", code.co_consts)

    def _read_type(self, kind: type) -> None:
        self._add("type", kind.__qualname__)
        for name, member in sorted(vars(kind).items()):
            function = _function_of(member)
            if function is not None and not _is_given(function.__code__, kind.__module__):
                self._add(name)
                self.read(function)

    def _read_object(self, value: Any) -> None:
        held = attributes_of(value)
        self.read(type(value))
        if held:
            self.read(held)
        elif not ADDRESS.search(repr(value)):
            self._add(repr(value))
        elif type(value) is not object:
            self.unknown.add(type(value).__qualname__)


def _function_of(member: Any) -> types.FunctionType | None:
    """The function of a class's member, where it has one."""
    if isinstance(member, property):
        member = member.fget
    found: Callable[..., Any] | None = getattr(member, "__func__", member)
    return found if isinstance(found, types.FunctionType) else None


def _is_given(code: types.CodeType, module: str | None) -> bool:
    """Whether it is of an installed package or of this library, where its name says what it is."""
    return code.co_filename.startswith(INSTALLED) or str(module).partition(".")[0] == "gradcam"


def _is_own(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and not file.startswith(INSTALLED)
