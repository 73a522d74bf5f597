"""Charts of measured values: each a point between the two ends of its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradcam.pictures.extras import required

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Interval", "Panel", "bars", "dots"]

BLUE, GREY = "#1b6ac9", "0.6"


@dataclass(frozen=True)
class Interval:
    """One line of a chart: a value with the low and high end of its interval.

    group: rows of one group share a colour and an entry in the legend (`bars`).
    control: whether it is a control, which is drawn in grey (`dots`).
    """

    name: str
    low: float
    value: float
    high: float
    group: str = ""
    control: bool = False


@dataclass(frozen=True)
class Panel:
    """A titled chart among several."""

    title: str
    rows: Sequence[Interval]


def bars(rows: Sequence[Interval], label: str) -> Figure:
    """Rows on a logarithmic axis named `label`, coloured by group, with a line at 1."""
    drawn: Figure = required("matplotlib.figure", "matplotlib").Figure(
        figsize=(8, 0.28 * len(rows) + 1.4), layout="constrained"
    )
    panel = drawn.subplots()
    groups = list(dict.fromkeys(row.group for row in rows))
    for group in groups:
        _draw_group(panel, rows, group)
    panel.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.axvline(1, color="black", linewidth=0.8)
    panel.grid(axis="x", which="both", alpha=0.2)
    panel.set_xlabel(label)
    if groups:
        drawn.legend(loc="outside upper center", ncols=len(groups), frameon=False)
    return drawn


def _draw_group(panel: Axes, rows: Sequence[Interval], group: str) -> None:
    lines = [line for line, row in enumerate(rows) if row.group == group]
    ends = np.array([(rows[line].low, rows[line].value, rows[line].high) for line in lines])
    low, value, high = ends.T
    panel.errorbar(
        value,
        lines,
        xerr=(value - low, high - value),
        fmt="o",
        capsize=3,
        markersize=5,
        label=group,
    )


def dots(panels: Sequence[Panel]) -> Figure:
    """Panels side by side, three to a line, each with its own axis."""
    columns = min(3, max(len(panels), 1))
    lines = max(-(-len(panels) // columns), 1)
    tallest = max((len(panel.rows) for panel in panels), default=1)
    drawn: Figure = required("matplotlib.figure", "matplotlib").Figure(
        figsize=(4.2 * columns, (0.24 * tallest + 0.9) * lines), layout="constrained"
    )
    axes = drawn.subplots(lines, columns, squeeze=False).reshape(-1)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel)
    return drawn


def _draw_panel(axis: Axes, panel: Panel) -> None:
    for line, row in enumerate(panel.rows):
        colour = BLUE
        if row.control:
            colour = GREY
        axis.plot([row.low, row.high], [line, line], color=colour, linewidth=1.5)
        axis.plot(row.value, line, "o", color=colour, markersize=4)
    axis.set_yticks(range(len(panel.rows)), [row.name for row in panel.rows], fontsize=7)
    axis.invert_yaxis()
    axis.set_title(panel.title, fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.2)
