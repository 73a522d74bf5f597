"""Maps over words: a token's background is its evidence, in a page and in a terminal."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcam.pictures.colours import ON_PAPER, colours
from gradcam.pictures.shown import Shown, number

__all__ = ["WordMap", "word_map"]

BARS = "▁▂▃▄▅▆▇█"
"""One behind each token: how much evidence it has, where there are no colours."""

DEEPEST = 0.6
"""Of the colour map's range, so far as black text is readable."""


@dataclass(frozen=True)
class WordMap:
    """A map over one axis, with the token of each position.

    Printed, each token has a bar behind it, and a minus in front of it where its evidence is
    against the score. `rich.print` and a notebook show colours.
    """

    tokens: tuple[str, ...]
    shown: Shown

    @property
    def head(self) -> str:
        """What the map is of, and what its strongest token stands for."""
        parts = [self.shown.caption.replace("\n", ", "), self.shown.origin]
        if self.shown.fault:
            parts.append(self.shown.fault)
        else:
            parts.append(f"the strongest is {number(self.shown.extent(self._size))}")
        return "; ".join(part for part in parts if part)

    @property
    def _size(self) -> tuple[int, ...]:
        return (len(self.tokens),)

    def _heat(self) -> np.ndarray:
        return self.shown.heat(self._size)

    def __str__(self) -> str:
        words = []
        for token, heat in zip(self.tokens, self._heat(), strict=True):
            level = round(abs(float(heat)) * len(BARS))
            sign = "-" if heat < 0 and level else ""
            words.append(f"{sign}{token}{BARS[level - 1] if level else ''}")
        return f"{self.head}\n{' '.join(words)}"

    def __rich__(self) -> Any:
        from rich.style import Style
        from rich.text import Text

        text = Text(self.head + "\n", style="dim")
        for token, colour in zip(self.tokens, self._backgrounds(), strict=True):
            text.append(token, Style(color="black", bgcolor=colour, dim=False))
            text.append(" ")
        return text

    def _repr_html_(self) -> str:
        spans = []
        for token, colour, raw in zip(
            self.tokens, self._backgrounds(), self.shown.raw(self._size), strict=True
        ):
            spans.append(
                f'<span style="background:{colour};color:black;padding:0 .15em;border-radius:.2em" '
                f'title="{number(float(raw))}">{html.escape(token)}</span>'
            )
        return f"<p>{html.escape(self.head)}</p><p>{' '.join(spans)}</p>"

    def _backgrounds(self) -> list[str]:
        """A light colour for each token."""
        heat = self._heat()
        signed = self.shown.signed
        rgb = colours(DEEPEST * heat, None if signed else ON_PAPER, signed)
        return ["#" + "".join(f"{round(255 * part):02x}" for part in row) for row in rgb]


def word_map(tokens: Sequence[str], shown: Shown) -> WordMap:
    """Raises ValueError where there is not one token for each position."""
    positions = shown.values.shape
    if positions != (len(tokens),):
        raise ValueError(
            f"`tokens` has {len(tokens)}, but the map has the positions {positions}; pass one "
            "token for each, those of the model's tokeniser"
        )
    return WordMap(tuple(str(token) for token in tokens), shown)
