"""The timing loop of benchmarks/peers.py: several libraries and a forward pass, in turn.

One turn times every library once, each beside forward passes of its own:

    bare pass, library A, timed passes;  bare pass, library B, timed passes;  ...

The order of library and timed passes changes from turn to turn. The ratios are therefore free of
what slows the machine for longer than a turn, and of what a call leaves behind.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from common import Call, TimeLimitError, limited, timed
from goals import Row

__all__ = ["interleaved", "reason"]


@dataclass
class Measured:
    """The times of one library in one case.

    pairs: seconds of a call and of a forward pass beside it.
    turns: seconds of the call, by the turn in which it was timed.
    spent: seconds of all its calls so far, the first included.
    """

    call: Call
    spent: float
    pairs: list[tuple[float, float]] = field(default_factory=list)
    turns: dict[int, float] = field(default_factory=dict)

    def allows_another(self, limit: float) -> bool:
        """Whether another call would stay within the limit of seconds. The first always does."""
        return not self.pairs or self.spent + self.mean <= limit

    @property
    def mean(self) -> float:
        """The mean seconds of a call, with the first call, which is not among the pairs."""
        return self.spent / (len(self.pairs) + 1)

    def take_turn(self, turn: int, bare: Call, usual: float) -> None:
        """Time the call and forward passes, in even turns after it and in odd turns before it."""
        # A pass that is not timed: the call before has left its mark on caches and memory.
        bare()
        # Beside a call of seconds one forward pass would be chance.
        count = min(21, 1 + int(0.05 * self.mean / usual))
        if turn % 2:
            forward_seconds = median_of(bare, count)
            seconds = timed(self.call)
        else:
            seconds = timed(self.call)
            forward_seconds = median_of(bare, count)
        self.pairs.append((seconds, forward_seconds))
        self.turns[turn] = seconds
        self.spent += seconds

    def row(self, ours: Measured | None) -> Row:
        ratios = [seconds / forward_seconds for seconds, forward_seconds in self.pairs]
        low = middle = high = ratios[0]
        if len(ratios) > 1:
            low, middle, high = statistics.quantiles(ratios, n=4)
        row = {
            "ratio": middle,
            "low": low,
            "high": high,
            "repeats": len(ratios),
            "seconds": statistics.median(seconds for seconds, _ in self.pairs),
            "forward_seconds": statistics.median(seconds for _, seconds in self.pairs),
        }
        if ours is not None:
            shared = ours.turns.keys() & self.turns.keys()
            if shared:
                over = [self.turns[turn] / ours.turns[turn] for turn in shared]
                row["over_ours"] = statistics.median(over)
        return row


def median_of(call: Call, count: int) -> float:
    return statistics.median(timed(call) for _ in range(count))


def interleaved(
    bare: Call, calls: Mapping[str, Call], repeats: int, limit: float
) -> dict[str, Row]:
    """For each call the ratios of its time to that of forward passes beside it, in turn.

    The first call is ours. "over_ours" is the median ratio of another call's time to ours in the
    same turn. A library has `limit` seconds: its first call is stopped then, and later it gets no
    more turns.
    """
    rows: dict[str, Row] = {}
    bare()
    usual = median_of(bare, 5)
    measured: dict[str, Measured] = {}
    for who, call in calls.items():
        start = time.perf_counter()
        try:
            measured[who] = first_call(call, usual, limit)
        except TimeLimitError:
            seconds = time.perf_counter() - start
            note = f"stopped after {seconds:.0f} s"
            rows[who] = {"at_least": seconds / usual, "seconds": seconds, "note": note}
        except Exception as error:
            # Whatever one library raises, the others are still measured.
            rows[who] = {"failed": reason(error)}
    for turn in range(repeats):
        for times in measured.values():
            if times.allows_another(limit):
                times.take_turn(turn, bare, usual)
    first = measured.get(next(iter(calls)))
    for who, times in measured.items():
        rows[who] = times.row(first)
    return rows


def first_call(call: Call, usual: float, limit: float) -> Measured:
    """The first call, which loads code and compiles; a fast one is warmed up by a second call.

    A slow one will have no other, so its time counts.
    """
    with limited(limit):
        seconds = timed(call)
        if seconds < limit / 8:
            call()
    measured = Measured(call, spent=seconds)
    if seconds > limit / 2:
        measured.pairs.append((seconds, usual))
    return measured


def reason(error: Exception) -> str:
    """The error in one line."""
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line[:160]}"
