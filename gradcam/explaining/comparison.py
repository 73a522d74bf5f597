"""Several methods beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradcam.backends import entry
from gradcam.explaining import looking
from gradcam.explaining.explanation import Explanation
from gradcam.pictures.figure import png
from gradcam.pictures.notebook import Showing
from gradcam.pictures.panels import Look
from gradcam.pictures.shown import Shown

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
        return looking.compared(self._tables(), photos, look).figure()

    @entry
    def show(self, photos: Any = None) -> Showing:
        """As the last line of a notebook's cell: the maps with a slider of their opacity."""
        return looking.compared(self._tables(), photos)

    def _tables(self) -> dict[str, list[list[Shown]]]:
        return {name: one.shown() for name, one in self.items()}

    def _repr_html_(self) -> str | None:
        return self.show()._repr_html_()

    def _repr_png_(self) -> bytes:
        return png(self.figure())
