"""`gradcam info`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

from rich.table import Table

from gradcam.cli import installation
from gradcam.cli.console import out, printable, say

__all__ = ["info"]


def info() -> None:
    """Say what is installed: versions, devices, frameworks, and what is missing of each extra.

    Put this into a report of a fault.
    """
    for line in installation.head():
        say(line)
    for heads, *rows in (installation.frameworks_table(), installation.extras_table()):
        table = Table(*heads)
        for row in rows:
            table.add_row(*map(printable, row), style="dim" if row[-1] else "")
        out.print(table)
