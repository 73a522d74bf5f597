"""Code that the benchmarks share: arguments, the timing loop, and how results become pages.

Each script is then a plan of cases, and the functions to time. A machine that others use as well is
never equally fast for long. So two calls are always timed in turn, and their times are compared
turn by turn:

    seconds = in_turn(forward, explain, repeats=11)      # (11, 2)
    print(Quartiles.of(seconds[:, 1] / seconds[:, 0]))   # 1.05 (1.04–1.07)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "END",
    "ROOT",
    "Call",
    "Quartiles",
    "TimeLimitError",
    "argument_parser",
    "finishing",
    "in_turn",
    "limited",
    "table",
    "timed",
    "write_between",
    "write_json",
]

Call = Callable[[], Any]
"""A function to time. It returns when its work is done, on an accelerator too."""

ROOT = Path(__file__).parent.parent
END = "<!-- end -->"


def argument_parser(
    description: str | None, repeats: int | None = None, frameworks: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring, with the options that most scripts have.

    repeats: the default of `--repeats`; None leaves the option out.
    frameworks: the choices of `--framework`, the default first; none leave the option out.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats)
    if frameworks:
        parser.add_argument("--framework", choices=frameworks, default=frameworks[0])
    return parser


# ---------------------------------------------------------------------------------------- time


finishing: list[Call] = []
"""What waits for an accelerator, whose calls return before their work is done."""


def timed(call: Call) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    call()
    for wait in finishing:
        wait()
    return time.perf_counter() - start


def in_turn(first: Call, second: Call, repeats: int, warm_up: int = 1) -> np.ndarray:
    """Seconds (repeats, 2) of two calls that are timed in turn, after `warm_up` turns.

    The warm-up compiles, fills caches and lets allocators grow.
    """
    for _ in range(warm_up):
        first()
        second()
    seconds = np.empty((repeats, 2))
    for turn in range(repeats):
        seconds[turn] = timed(first), timed(second)
    return seconds


@dataclass(frozen=True)
class Quartiles:
    """The median of some numbers, and their quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Any) -> Quartiles:
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(float(low), float(median), float(high))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


class TimeLimitError(Exception):
    """A call took longer than `limited` allows."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise a TimeLimitError in the block if it takes longer than this."""

    def stop(*_: Any) -> None:
        raise TimeLimitError

    previous = signal.signal(signal.SIGALRM, stop)
    # 0 would switch the timer off.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# --------------------------------------------------------------------------------------- pages


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table.

    >>> table(("method", "time"), [("cam", "1.05")])
    ['| method | time |', '|---|---|', '| cam | 1.05 |']
    """
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
    return lines


def write_between(path: Path, begin: str, text: str, end: str = END) -> None:
    """Write the text between two markers of a page. The rest of the page stays as it is."""
    marked = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    page = path.read_text(encoding="utf-8")
    # A function, because a string would have its backslashes replaced.
    page = marked.sub(lambda _: f"{begin}\n\n{text}\n{end}", page)
    path.write_text(page, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write JSON with a newline at its end. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")
