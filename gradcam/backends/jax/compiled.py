"""Compiled programs, of which the last ones are kept.

`jax.jit` keeps a program, about 2 MB, as long as the function lives that it was made of. Its static
arguments live for ever. So each value of what would be a static argument has a function of its own,
and of these functions the last `MOST` are kept.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax

from gradcam._functions import Keyed
from gradcam._warnings import warn

__all__ = ["MOST", "Compiled"]

MOST = 128
"""How many programs of one `Compiled` are kept."""

_MANY = 8
"""At how many readings of one function a warning says what to do."""

_readings: dict[int, tuple[int, int]] = {}
"""For each function, regardless of the arrays that it reads: its last reading, and how many."""


class Compiled:
    """A function of (what, *arrays), compiled once for each `what`, which is no array, and shape.

    what: hashable. It must say all that the program depends on besides its arrays.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)

        @functools.lru_cache(MOST)
        def program(what: Hashable) -> Any:
            for keyed in _functions(what):
                _remember(keyed)
            return jax.jit(functools.partial(function, what))

        self.program = program
        """From `what` to the function of arrays that `jax.jit` gives."""

    def __call__(self, what: Hashable, *arrays: Any) -> Any:
        return self.program(what)(*arrays)


def _functions(value: Any) -> Iterator[Keyed]:
    """Every function of the user's own that a program was made of."""
    if isinstance(value, Keyed):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _functions(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _functions(getattr(value, field.name))


def _remember(keyed: Keyed) -> None:
    if isinstance(keyed.function, functools.partial):  # such a half of a `gradcam.Split`
        return
    function = keyed.regardless_of_arrays
    last, count = _readings.get(function, (None, 0))
    if hash(keyed) == last:
        return
    _readings[function] = hash(keyed), count + 1
    if count + 1 == _MANY:
        name = getattr(keyed, "__qualname__", "a method")
        warn(
            f"{name} is compiled for the {_MANY}th time, because it reads other arrays from around "
            "itself, from a closure or a global. Pass arrays that change as arguments, and nothing "
            "is compiled again: functools.partial(function, weights) for a model, class numbers "
            "for a target",
            UserWarning,
        )
