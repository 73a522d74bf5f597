"""A map together with what a reader has to know of it, as numbers and words alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradcam._types import Shape
from gradcam.maps import resize, scale

__all__ = ["Shown", "number", "short"]

LONGEST = 32
"""The characters of a class name that a caption has room for."""


@dataclass(frozen=True)
class Shown:
    """One map, and what it is of.

    values: raw (*grid), in the method's own scale. size: that of the input, or the grid.
    name: of the class, or of what else is explained. score: its score. probability: the softmax of
        the model's outputs there; None where that is not known.
    method, layer, model: what made the map.
    """

    values: np.ndarray
    name: str
    score: float | None = None
    probability: float | None = None
    method: str = ""
    layer: str = ""
    model: str = ""
    size: Shape | None = None

    @property
    def signed(self) -> bool:
        """Whether there is evidence against the score too."""
        return bool((self.values < 0).any())

    @property
    def fault(self) -> str:
        """In words, why there is nothing to see, or an empty text."""
        if not np.isfinite(self.values).all():
            return "the map has values that are NaN or infinite"
        low, high = float(self.values.min()), float(self.values.max())
        if low == high == 0:
            return "no evidence: the map is 0 everywhere"
        if low == high:
            return f"no contrast: the map is {number(low)} everywhere"
        return ""

    def raw(self, size: Sequence[int] | None = None) -> np.ndarray:
        """The map at `size`, or else at the input's, not scaled."""
        shown = size or self.size or self.values.shape
        if len(shown) != self.values.ndim:
            shown = self.values.shape
        return np.asarray(resize(self.values.astype(np.float64), tuple(shown)))

    def heat(self, size: Sequence[int] | None = None, extent: float | None = None) -> np.ndarray:
        """The map at `size` in [0, 1], or [-1, 1] where it is signed.

        extent: the raw value that is 1, where several maps share a scale; else the map's largest.
        """
        raw = self.raw(size)
        if self.fault:
            return np.zeros_like(raw)
        if extent is None:
            return np.asarray(scale(raw, raw.ndim, "signed" if self.signed else "max"))
        if extent == 0:
            return np.zeros_like(raw)
        return np.clip(raw / extent, -1 if self.signed else 0, 1)

    def extent(self, size: Sequence[int] | None = None) -> float:
        """The largest magnitude at `size`: the raw value that `heat` shows as 1."""
        if self.fault:
            return 0.0
        return float(np.abs(self.raw(size)).max())

    @property
    def numbers(self) -> str:
        """The score and the softmax in words, as far as they are known."""
        parts = []
        if self.score is not None:
            parts.append(f"score {number(self.score)}")
        if self.probability is not None:
            parts.append(f"softmax {100 * self.probability:.3g} %")
        return ", ".join(parts)

    @property
    def caption(self) -> str:
        """Two lines: the class, and its numbers."""
        return "\n".join(part for part in (short(self.name), self.numbers) if part)

    @property
    def origin(self) -> str:
        """Method, model and layer, as far as they are known."""
        parts = [self.method]
        if self.model:
            parts.append(f"of {self.model}")
        if self.layer:
            parts.append(f"at {self.layer!r}")
        return " ".join(part for part in parts if part)


def short(name: str) -> str:
    """A class name without its synonyms, cut where it has no room."""
    first = name.split(",")[0].strip() or name
    if len(first) > LONGEST:
        return first[: LONGEST - 1] + "…"
    return first


def number(value: float) -> str:
    """A number to three digits, as people write it."""
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
