"""Several methods beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradcam.backends import entry
from gradcam.explaining import looking
from gradcam.explaining.explanation import Explanation
from gradcam.pictures.figure import png
from gradcam.pictures.panels import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison"]


class Comparison(dict[str, Explanation]):
    """Explanations of the same samples, by method. It is a dict that can be looked at."""

    @entry
    def figure(
        self,
        photos: Any = None,
        colormap: str | None = None,
        *,
        contours: Sequence[float] = (0.5,),
        boxes: float | None = None,
        mask: float | None = None,
    ) -> Figure:
        """A matplotlib figure: a row for each sample and target, a column for each method.

        The options are those of `Explanation.figure`. Each map has its own scale, since each method
        has its own unit.
        """
        look = Look(colormap, contours=tuple(contours), boxes=boxes, mask=mask)
        tables = {name: one.shown() for name, one in self.items()}
        return looking.compared(tables, photos, look)

    def _repr_png_(self) -> bytes:
        return png(self.figure())
