"""The states in which models come, each as a function that explains one: the rows of
docs/models.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Explained = tuple[Any, Any]
"""The maps found, and those of the same weights in the plain model."""


@dataclass(frozen=True)
class State:
    """`run` gives the maps found and the maps expected, or raises `error`, whose message holds
    `says`.
    """

    framework: str
    group: str
    name: str
    run: Callable[[], Explained]
    tolerance: float
    error: type[Exception] | None
    says: str


STATES: list[State] = []


def state(
    framework: str,
    group: str,
    name: str,
    *,
    tolerance: float = 1e-5,
    error: type[Exception] | None = None,
    says: str = "",
) -> Callable[[Callable[[], Explained]], Callable[[], Explained]]:
    def add(run: Callable[[], Explained]) -> Callable[[], Explained]:
        STATES.append(State(framework, group, name, run, tolerance, error, says))
        return run

    return add
