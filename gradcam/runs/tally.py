"""How far a run is: photographs a second, errors, the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gradcam._progress import Progress
from gradcam.runs.local import Watch

__all__ = ["EVERY", "Tally", "shown_progress"]

EVERY = 30.0
"""Seconds between two lines where there is no bar."""


@dataclass
class Tally:
    """total: photographs to do, None where that is not known."""

    total: int | None
    photographs: int = 0
    errors: int = 0
    start: float = field(default_factory=time.monotonic)

    def add(self, photographs: int, errors: int) -> None:
        """Count what is new."""
        self.photographs += photographs
        self.errors += errors

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    @property
    def rate(self) -> float:
        """Photographs a second."""
        return self.photographs / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        line = f"{self.photographs}{of} photographs, {self.errors} errors, {self.rate:.1f} a second"
        if self.total is not None and self.photographs and self.photographs < self.total:
            left = (self.total - self.photographs) / self.rate
            line += f", {_clock(left)} left"
        return line


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def shown_progress(tally: Tally, watch: Watch) -> Iterator[None]:
    """Tell how far the run is while the block goes on, besides what `watch` is told.

    A function is told a line every 30 seconds and at the end; True is a bar in the terminal, or
    such lines where there is none.
    """
    before = watch.tell
    if not watch.progress:
        yield
        return
    with _teller(watch.progress, tally) as show:

        def tell(photographs: int, errors: int) -> None:
            tally.add(photographs, errors)
            before(photographs, errors)
            show()

        watch.tell = tell
        try:
            yield
        finally:
            watch.tell = before


@contextmanager
def _teller(progress: Progress, tally: Tally) -> Iterator[Callable[[], None]]:
    if callable(progress):
        say = progress
    else:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar
        except ImportError as error:
            raise ImportError('`progress` needs rich: pip install "gradcam[cli]"') from error
        console = Console(stderr=True, markup=False)
        if console.is_terminal:
            columns = (BarColumn(), TextColumn("{task.description}", markup=False))
            with Bar(*columns, console=console, transient=True) as bar:
                task = bar.add_task(str(tally), total=tally.total)
                yield lambda: bar.update(task, description=str(tally), completed=tally.photographs)
            return

        def say(line: str) -> None:
            console.print(line, highlight=False, soft_wrap=True)

    last = tally.start

    def show() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            say(str(tally))

    yield show
    say(str(tally))
