"""What results show of themselves in a notebook: HTML without a server, or a picture.

Everything is escaped by Jinja2. Without Jinja2 a notebook shows the picture, or the text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam.pictures.colours import colours
from gradcam.pictures.extras import required
from gradcam.pictures.figure import png
from gradcam.pictures.panels import Row
from gradcam.pictures.shown import number
from gradcam.pictures.web import OPACITY, data_uri, layer, shrunk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Showing", "table_html", "text_html"]

WIDTH = 300
"""Pixels of the longer side of an image."""


@dataclass(frozen=True)
class Showing:
    """Rows of maps over their photographs: in a notebook with a slider of their opacity.

    figure: what is shown where HTML is not, and of maps over other than two axes.
    """

    rows: Sequence[Row]
    title: str
    figure: Callable[[], Figure]

    def _repr_html_(self) -> str | None:
        if self.rows[0].cells[0].shown.values.ndim != 2 or not _has_jinja():
            return None
        gradients = {signed: _gradient(signed) for signed in (False, True)}
        rows = []
        for row in self.rows:
            size = None if row.photograph is None else row.photograph.shape[:2]
            photograph = None
            if row.photograph is not None:
                photograph = data_uri(shrunk(row.photograph, WIDTH))
            maps = [(cell, layer(cell.shown, size, longest=WIDTH)) for cell in row.cells]
            rows.append((row.name, photograph, maps))
        return _macro("maps", self.title, rows, gradients, OPACITY, number)

    def _repr_png_(self) -> bytes:
        return png(self.figure())


def table_html(
    heads: Sequence[str], rows: Sequence[Sequence[object]], caption: str = ""
) -> str | None:
    """A table, or None where Jinja2 is missing."""
    return _macro("table", heads, rows, caption) if _has_jinja() else None


def text_html(text: str, verdict: str = "", good: bool = True) -> str | None:
    """Text as it is printed, with a coloured verdict above; None where Jinja2 is missing."""
    return _macro("text", text, verdict, good) if _has_jinja() else None


def _has_jinja() -> bool:
    return importlib.util.find_spec("jinja2") is not None


@cache
def _template() -> Any:
    jinja = required("jinja2", "Jinja2")
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (files("gradcam.pictures") / "notebook.html").read_text(encoding="utf-8")
    return environment.from_string(text).module


def _macro(name: str, *arguments: Any) -> str:
    return str(getattr(_template(), name)(*arguments))


def _gradient(signed: bool) -> str:
    rgb = colours(np.linspace(-1.0 if signed else 0.0, 1, 9), signed=signed)
    stops = ",".join("rgb(" + " ".join(str(round(255 * part)) for part in c) + ")" for c in rgb)
    return f"linear-gradient(to right,{stops})"
