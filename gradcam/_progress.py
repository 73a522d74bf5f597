"""Progress of long runs: a bar, a function of your own that is told what comes next, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

__all__ = ["Progress", "tell", "track"]

Progress: TypeAlias = bool | Callable[[str], Any]
"""True: a bar in the terminal (needs rich). A function: called with a line on what comes next.
False: nothing.
"""


def track(
    progress: Progress, steps: Iterable[Any], doing: str, total: int | None = None
) -> Iterable[Any]:
    """The steps one by one, with a bar named `doing` where progress is True; a function is told
    `doing` once.
    """
    if callable(progress):
        progress(doing)
        return steps
    if not progress:
        return steps
    try:
        from rich.progress import track as bar
    except ImportError as error:
        raise ImportError('`progress` needs rich: pip install "gradcam[cli]"') from error
    return bar(steps, description=doing, total=total, transient=True)


def tell(progress: Progress, message: str) -> None:
    """Hand the message on: to the function, or to the terminal."""
    if callable(progress):
        progress(message)
    elif progress:
        print(message)
