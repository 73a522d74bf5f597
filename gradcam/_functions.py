"""Functions that are equal where they compute the same.

A compiled program is kept for a function. Two lambdas from one line of code are two functions to
Python, but one program will do for both. And one function is not always the same: what it reads
from around itself, such as weights that a training loop rebinds, may have changed. So a function is
told by its code and by all that it reads: closure, globals, defaults, and the object of a method.

>>> def scaled(factor):
...     return Keyed(lambda x: factor * x)
>>> scaled(2) == scaled(2), scaled(2) == scaled(3)
(True, False)
"""

from __future__ import annotations

import functools
import hashlib
import sysconfig
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
from array_api_compat import is_jax_array, is_torch_array

__all__ = ["INSTALLED", "Keyed", "attributes_of", "keyed", "names_read"]

MOST_PARTS = 20_000
"""Of what a function reads: beyond, it equals no other."""

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), np.generic)

INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
"""Where code lies that does not change while a program runs."""


class Keyed:
    """A function that equals another of the same code which reads the same values.

    Arrays of NumPy are the same where they hold the same numbers; those of frameworks, which do not
    change, where they are one object. Numbers in a list are not compared: a function may count its
    own calls in one. What was read is kept, so that no identity is used twice.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.kept: list[Any] = []
        self.key = _key(function, _Reading(self.kept))
        self.hash = hash(self.key)

    @property
    def regardless_of_arrays(self) -> int:
        """A hash that functions share which differ in the arrays that they read alone."""
        return hash(_key(self.function, _Reading([], arrays=False)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and self.hash == other.hash and self.key == other.key

    def __hash__(self) -> int:
        return self.hash


def keyed(value: Any) -> Any:
    """A plain function, a method or a partial of one as `Keyed`; anything else as it is."""
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
        return Keyed(value)
    return value


def _key(function: Callable[..., Any], reading: _Reading) -> Hashable:
    try:
        key = reading.key(function)
        hash(key)
    except (_TooManyPartsError, RecursionError, TypeError):
        return object()
    return key


class _TooManyPartsError(Exception):
    """The function reads too much to be told by it."""


class _Reading:
    """One reading of what a function depends on.

    kept: takes what was read. arrays: whether arrays are told apart.
    """

    def __init__(self, kept: list[Any], arrays: bool = True) -> None:
        self.kept = kept
        self.arrays = arrays
        self.seen: dict[int, int] = {}

    def key(self, value: Any) -> Hashable:
        if isinstance(value, PLAIN):
            return type(value), value
        if id(value) in self.seen:  # told before, or being told now
            return "seen", self.seen[id(value)]
        if len(self.seen) >= MOST_PARTS:
            raise _TooManyPartsError
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError("objects have no numbers to compare")
            if not self.arrays:
                return "array"
            content = hashlib.blake2b(value.tobytes()).digest()
            return "numpy", value.shape, str(value.dtype), content
        if is_jax_array(value) or is_torch_array(value):
            return ("array", id(value)) if self.arrays else "array"
        return self._composed(value)

    def _composed(self, value: Any) -> Hashable:
        if isinstance(value, types.FunctionType):
            return "function", self._of_function(value)
        if isinstance(value, types.MethodType):
            return "method", self.key(value.__func__), self.key(value.__self__)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return "partial", tuple(map(self.key, parts))
        if isinstance(value, dict):
            items = [(self.key(key), self.key(inner)) for key, inner in value.items()]
            return type(value), tuple(items)
        if isinstance(value, tuple):
            return type(value), tuple(map(self.key, value))
        if isinstance(value, list):
            inner = [self.key(item) for item in value if not isinstance(item, PLAIN)]
            return type(value), tuple(inner)
        return "object", id(value), tuple(self._attributes(value))

    def _of_function(self, function: types.FunctionType) -> Hashable:
        code = function.__code__
        if code.co_filename.startswith(INSTALLED):
            return id(function)
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(self.key(cell.cell_contents))
            except ValueError:  # a cell that is still empty
                cells.append("empty")
        read = [
            (name, self.key(function.__globals__[name]))
            for name in names_read(code)
            if name in function.__globals__
        ]
        defaults = (function.__defaults__, function.__kwdefaults__)
        return code, tuple(cells), tuple(read), tuple(map(self.key, defaults))

    def _attributes(self, value: Any) -> Iterator[Hashable]:
        """What an object of the user's own holds; of a module or a class nothing."""
        if isinstance(value, (types.ModuleType, type)):
            return
        for name, inner in attributes_of(value).items():
            yield name, self.key(inner)


def attributes_of(value: Any) -> dict[str, Any]:
    """What an object holds by name, in slots too."""
    held = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                held[name] = getattr(value, name)
    return held


def names_read(code: types.CodeType) -> Iterator[str]:
    """The names that a function's code, and that inside it, may read from its globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_read(constant)
