"""The instants at which Ctrl-C may strike a call, for `benchmarks.interrupts` and its tests.

Python runs a signal's handler when a Python function starts, when a C function has returned, and at
the end of a loop's turn. A profiler is called at the first two of these, and raises there: so the
instants are counted, and the same in every run.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["Interrupted", "Timer", "main"]


def anywhere(function: str) -> bool:
    return True


class Interrupted:
    """Raises KeyboardInterrupt at the n-th instant of the calls that it wraps.

    counts: whether the instants of a Python function of this name are among them.
    error: what is raised instead.
    """

    def __init__(
        self,
        n: int | None = None,
        counts: Callable[[str], bool] = anywhere,
        error: type[BaseException] = KeyboardInterrupt,
    ) -> None:
        self.left = n
        self.counts = counts
        self.error = error
        self.seen = 0

    def _event(self, frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or code.co_filename == __file__:
            return
        if not self.counts(code.co_name):
            return
        self.seen += 1
        if self.left is not None and self.seen > self.left:
            sys.setprofile(None)
            raise self.error

    def __call__(self, call: Callable[[], Any]) -> bool:
        """Whether the interrupt struck."""
        sys.setprofile(self._event)
        try:
            call()
        except self.error:
            return True
        finally:
            sys.setprofile(None)
        return False


class Timer:
    """Raises KeyboardInterrupt after so many seconds, as Ctrl-C does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, call: Callable[[], Any]) -> bool:
        """Whether the interrupt struck."""
        try:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
            try:
                call()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            return True
        return False


Trials = dict[str, tuple[Callable[[], Any], Callable[[Callable[..., bool]], Iterable[str]]]]
"""By name a call, and from what interrupts it to all that is left behind."""


def main(description: str, trials: Trials) -> None:
    """Tries from the command line, and what they left."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tries", type=int, default=3000, help="by a timer")
    parser.add_argument("--every", type=int, default=0, help="each n-th instant instead")
    parser.add_argument("--only", help="one of the calls")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = {name: trials[name] for name in trials if options.only in (None, name)}
    if options.every:
        lines = list(_at_every(options.every, chosen))
    else:
        lines = list(_at_random(options.tries, chosen))
    found = Counter(lines)
    print(found.pop("tries"), "tries")
    for what, count in found.most_common():
        print(count, what)


def _at_every(step: int, trials: Trials) -> Iterator[str]:
    for name, (call, trial) in trials.items():
        call()
        counted = Interrupted()
        counted(call)
        for n in range(0, counted.seen, step):
            yield "tries"
            for what in trial(Interrupted(n)):
                yield f"{name}: {what}"
        print(name, counted.seen, "instants", flush=True)


def _at_random(tries: int, trials: Trials) -> Iterator[str]:
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    draw = random.Random(0)
    seconds = {}
    for name, (call, _) in trials.items():
        call()
        start = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - start
    while tries:
        name = draw.choice(list(trials))
        interrupt = Timer(draw.uniform(1e-5, seconds[name]))
        ways = list(trials[name][1](interrupt))
        if "not interrupted" not in ways:
            tries -= 1
            yield "tries"
        for what in ways:
            yield f"{name}: {what}"
