"""`gradcam methods` and `gradcam measures`: the tables of what there is."""

from __future__ import annotations

from rich.table import Table

from gradcam.cli.console import out
from gradcam.methods import TABLE
from gradcam.metrics import MEASURES

__all__ = ["measures", "methods"]


def methods() -> None:
    """List the methods: what each needs, what it costs, and its paper."""
    table = Table("method", "what it is", "needs", "passes", "paper")
    for spec in TABLE:
        table.add_row(spec.name, spec.about, spec.needs, spec.cost, spec.paper)
    out.print(table)
    out.print(
        "C channels, S samples or steps; passes of the head are of what lies behind the layer",
        style="dim",
    )


def measures() -> None:
    """List the measures of `gradcam evaluate`: what each needs, its range, and its paper."""
    table = Table("measure", "what it is", "needs", "range", "better", "paper")
    for row in MEASURES.values():
        table.add_row(row.name, row.about, row.needs, row.range, row.better, row.paper)
    out.print(table)
