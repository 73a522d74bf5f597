"""What a report shows: for each photograph its maps, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradcam.pictures.shown import Shown

__all__ = ["Facts", "Sample", "Samples"]


@dataclass(frozen=True)
class Sample:
    """A photograph, (H, W, 3) in [0, 1], and its maps over two axes.

    top: the class with the highest output. label: what it shows, where that is known; wrong:
    whether these differ. error: why there is no map. notes: what a diagnosis says of its maps.
    """

    name: str
    maps: Sequence[Shown] = ()
    photograph: np.ndarray | None = None
    top: str = ""
    label: str = ""
    wrong: bool = False
    error: str = ""
    notes: Sequence[str] = ()


Facts = Mapping[str, str]
"""By name, what is so for all samples: the model, the layer, the method, versions."""


@dataclass(frozen=True)
class Samples:
    """The samples one by one, how many there are, and the facts about all of them.

    left_out: how many more the source has.
    """

    each: Iterator[Sample]
    count: int
    facts: Facts
    left_out: int = 0
