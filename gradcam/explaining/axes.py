"""Where the samples, channels and positions of a layer's output are: the one place where that is asked."""

from __future__ import annotations

from collections.abc import Sequence

from gradcam import layouts
from gradcam._types import Shape
from gradcam.layouts import Layout
from gradcam.model import Model, channel_order

__all__ = ["layout_of"]


def layout_of(
    model: Model, path: str, sample: Sequence[int], size: Shape | None, spec: layouts.Spec = None
) -> Layout:
    """The layout of a layer whose samples have that shape; a ValueError where they have no space.

    size: the input's spatial size. spec: what the user said of the layout.
    """
    layout = layouts.infer(sample, size, channel_order(model, path), spec)
    if layout is None:
        raise ValueError(
            f'layer "{path}" gives vectors of shape {tuple(sample)}, which have no space to map; choose one of '
            "gradcam.layers(model, inputs) that has"
        )
    return layout
