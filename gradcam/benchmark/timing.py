"""Times of two functions, taken in turn, and their ratios.

Machines are noisy: other processes, clocks and caches change a time by half. Two times taken one
right after the other meet the same noise, so the median of their ratios is steady where the times
are not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Pair", "Quartiles", "pairs", "quartiles", "ratios", "seconds"]


class Pair(NamedTuple):
    """Seconds of a call, and of the bare one beside it."""

    call: float
    bare: float


class Quartiles(NamedTuple):
    """The median of some values, between the lower and the upper quartile."""

    low: float
    middle: float
    high: float


def seconds(call: Callable[[], Any]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def pairs(
    bare: Callable[[], Any], call: Callable[[], Any], repeats: int, limit: float = math.inf
) -> list[Pair]:
    """At most `repeats` pairs of times, and at least one.

    There are no more once the next would exceed `limit` seconds, judged by
    the mean of those before.
    Which of the two is timed first alternates.
    """
    taken: list[Pair] = []
    spent = 0.0
    while len(taken) < repeats and _allows_another(taken, spent, limit):
        bare()  # not timed: the call before has filled caches and memory with its own
        if len(taken) % 2:
            plain = seconds(bare)
            pair = Pair(seconds(call), plain)
        else:
            pair = Pair(seconds(call), seconds(bare))
        taken.append(pair)
        spent += sum(pair)
    return taken


def _allows_another(taken: Sequence[Pair], spent: float, limit: float) -> bool:
    if not taken:
        return True
    return spent + spent / len(taken) < limit


def ratios(times: Sequence[Pair]) -> list[float]:
    """For each pair, the time of the call over that of the bare one."""
    return [pair.call / pair.bare for pair in times]


def quartiles(values: Sequence[float]) -> Quartiles:
    """The median and the quartiles, interpolated linearly."""
    return Quartiles(*(float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])))
