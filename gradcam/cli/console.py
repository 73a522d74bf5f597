"""What the commands print: results to standard output, progress and problems to standard error.

Nothing that is printed is markup: names, paths and errors may hold brackets. What cannot be shown,
such as a line's end in a file's name, is shown as Python writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from gradcam._faults import FAULTS

__all__ = ["FAULTS", "err", "numbers_table", "out", "printable", "problem", "say", "spinner"]

out = Console(markup=False, emoji=False)
err = Console(markup=False, emoji=False, stderr=True)


def printable(text: object) -> str:
    """The text in one line of characters that can be shown."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def say(line: str) -> None:
    """A line of the result, without colours of its own."""
    out.print(printable(line), highlight=False, soft_wrap=True)


def problem(line: object, label: str = "error", colour: str = "red") -> None:
    """A line on what went wrong, after a coloured label."""
    shown = Text.assemble((f"{printable(label)}:", colour), f" {printable(line)}")
    err.print(shown, highlight=False, soft_wrap=True)


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A spinner while the block runs; the function that it gives says what is being done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("")
        yield lambda description: progress.update(task, description=printable(description))


def numbers_table(title: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """An empty table: columns of names, to the left, and then of numbers, to the right."""
    table = Table(title=title, title_style="bold")
    for name in names:
        table.add_column(name, justify="left", no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
