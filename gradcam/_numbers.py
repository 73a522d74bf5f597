"""Numbers that a user passes, and the errors where they are none."""

from __future__ import annotations

import math
import operator
from typing import Any

__all__ = ["check_real", "check_whole"]


def check_whole(name: str, value: Any, least: int | None = None) -> None:
    """Raise TypeError unless it is a whole number, and ValueError where it is less than `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a whole number, but is {value!r}")
    if least is not None and number < least:
        raise ValueError(f"`{name}` must be at least {least}, but is {value!r}")


def check_real(name: str, value: Any, above: float | None = None) -> None:
    """Raise TypeError unless it is a number, and ValueError where it is not finite, or not above
    `above`.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, (bool, str)):
        raise TypeError(f"`{name}` must be a number, but is {value!r}")
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite, but is {value!r}")
    if above is not None and not number > above:
        raise ValueError(f"`{name}` must be more than {above:g}, but is {value!r}")
