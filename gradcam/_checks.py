"""Checks of what a user passes, which name the argument and say what it may be."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["check_integer"]


def check_integer(name: str, value: Any, least: int = 1) -> None:
    """Raise unless the argument is an integer, of Python or NumPy, of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"`{name}` must be an integer of at least {least}, but is {value!r}"
        ) from None
    if number < least:
        raise ValueError(f"`{name}` must be at least {least}, but is {number}")
