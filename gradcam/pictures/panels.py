"""What a figure is made of: rows of cells, and how they are to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradcam.pictures.shown import Shown

__all__ = ["Cell", "Look", "Row"]


@dataclass(frozen=True)
class Look:
    """How maps over two axes are drawn.

    colormap: of matplotlib; None takes "inferno", and "RdBu_r" for maps with evidence against.
    joint: whether all maps share one scale. contours: shares of the maximum at which lines are
        drawn. boxes: the share of the maximum whose box is drawn. mask: the share of the maximum
        below which the photograph is darkened, instead of colours. together: whether all maps of a
        row are in one picture, each in a colour of its own.
    """

    colormap: str | None = None
    joint: bool = False
    contours: Sequence[float] = (0.5,)
    boxes: float | None = None
    mask: float | None = None
    together: bool = False

    def __post_init__(self) -> None:
        shares = {"contours": self.contours, "boxes": [self.boxes], "mask": [self.mask]}
        for name, values in shares.items():
            for share in values:
                if share is not None and not 0 < share <= 1:
                    raise ValueError(
                        f"`{name}` is a share of the maximum, in (0, 1], but is {share}"
                    )
        if self.mask is not None and self.together:
            raise ValueError("`mask` and `together` exclude each other: a mask is of one map")


@dataclass(frozen=True)
class Cell:
    """A map in the figure, its title, and the corners of its box, where one is drawn."""

    shown: Shown
    title: str
    box: Sequence[int] | None = None


@dataclass(frozen=True)
class Row:
    """The maps of a sample, its name, and the photograph (H, W, 3) in [0, 1], where there is one.

    For maps over one axis `photograph` is the signal, (L,) or (C, L); over three the volume.
    """

    name: str
    cells: Sequence[Cell]
    photograph: np.ndarray | None = None
