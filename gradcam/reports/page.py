"""Samples as one HTML page: the template is filled in, with everything escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import numpy as np

from gradcam.evaluation import Evaluation
from gradcam.pictures.colours import colours
from gradcam.pictures.extras import required
from gradcam.pictures.shown import Shown, number, short
from gradcam.pictures.web import LONGEST, OPACITY, Layer, data_uri, layer, shrunk
from gradcam.reports.samples import Facts, Sample, Samples
from gradcam.verification import Verification

__all__ = ["html"]

LARGE = 448
"""Pixels of the longer side where there are few samples."""

FEW = 24
"""Of no more samples than these, images are large."""


@dataclass(frozen=True)
class _Map:
    """A map as the template shows it."""

    shown: Shown
    layer: Layer

    @property
    def name(self) -> str:
        return short(self.shown.name)

    @property
    def high(self) -> str:
        return number(self.layer.high)


@dataclass(frozen=True)
class _Card:
    """A sample as the template shows it."""

    number: int
    sample: Sample
    maps: Sequence[_Map]
    photograph: str
    height: int
    width: int

    @property
    def flags(self) -> list[str]:
        blank = any(shown.layer.fault for shown in self.maps)
        marks = {"error": bool(self.sample.error), "blank": blank, "wrong": self.sample.wrong}
        return [name for name, is_so in marks.items() if is_so]

    @property
    def layers(self) -> int:
        """How many layers its maps are of: more than one are named."""
        return len({one.shown.layer for one in self.maps})

    @property
    def first(self) -> Shown | None:
        """The first map: of its class and score samples are sorted."""
        return self.maps[0].shown if self.maps else None


def html(
    samples: Samples,
    facts: Facts,
    title: str,
    verification: Verification | None = None,
    evaluation: Evaluation | None = None,
    colormap: str | None = None,
) -> str:
    """The text of the page."""
    jinja = required("jinja2", "Jinja2")
    ours = files("gradcam.reports")
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    longest = LARGE if samples.count <= FEW else LONGEST
    cards = list(_cards(samples, longest, colormap))
    script = (ours / "report.js").read_text(encoding="utf-8")
    style = (ours / "report.css").read_text(encoding="utf-8") + _style(cards, longest, colormap)
    template = environment.from_string((ours / "report.html").read_text(encoding="utf-8"))
    text: str = template.render(
        title=title,
        cards=cards,
        samples=samples,
        classes=sorted({card.maps[0].name for card in cards if card.maps}),
        facts={name: value for name, value in facts.items() if value},
        verification=verification,
        evaluation=evaluation,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        # Ours, and no text of the user's: nothing in them is escaped, so that their hashes hold.
        style=_verbatim(style, jinja),
        script=_verbatim(script, jinja),
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
            f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
        ),
        number=number,
    )
    return text


def _verbatim(text: str, jinja: Any) -> Any:
    assert "</" not in text
    return required("markupsafe", "Jinja2").Markup(text)


def _hash(text: str) -> str:
    """As a content security policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _cards(samples: Samples, longest: int, colormap: str | None) -> Iterator[_Card]:
    for n, sample in enumerate(samples.each):
        size: Sequence[int] | None = None
        uri, height, width = "", longest, longest
        if sample.photograph is not None:
            size = sample.photograph.shape[:2]
            small = shrunk(sample.photograph, longest)
            uri = data_uri(small)
            height, width = small.shape[:2]
        maps = [_Map(one, layer(one, size, None, colormap, longest)) for one in sample.maps]
        if maps and size is None:
            height, width = maps[0].layer.height, maps[0].layer.width
        yield _Card(n, sample, maps, uri, height, width)


def _style(cards: Sequence[_Card], longest: int, colormap: str | None) -> str:
    """What depends on the samples: each photograph once, though several maps lie over it."""
    rules = [f":root {{ --opacity: {OPACITY}; --longest: {longest}px; }}"]
    for name, signed in (("positive", False), ("signed", True)):
        low = -1.0 if signed else 0.0
        rgb = colours(np.linspace(low, 1, 17), colormap, signed)
        stops = ", ".join(f"rgb({' '.join(str(round(255 * part)) for part in c)})" for c in rgb)
        rules.append(f".bar.{name} {{ background: linear-gradient(to right, {stops}); }}")
    for card in cards:
        image = f"background-image: url({card.photograph}); " if card.photograph else ""
        rules.append(f".p{card.number} {{ {image}aspect-ratio: {card.width} / {card.height}; }}")
    return "\n".join(rules) + "\n"
