"""A model made of two functions of arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

from gradcam._types import Array, Outputs

__all__ = ["Split"]


class Split:
    """A model made of two functions: `features`, whose result is explained, and `head`, its score.

    Over torch tensors or JAX arrays the gradient comes from their autograd. Over NumPy arrays
    `head` may be a black box: its gradient comes from finite differences, 2 C evaluations of the
    head for Grad-CAM on C channels, made in batches of `batch`.

    layer: the name of what `features` returns.
    layout: "channels_first" or "channels_last", of the input and of what `features` returns. None:
        the framework's own order, which for NumPy is channels first.

    >>> import numpy as np, gradcam
    >>> def features(x): return x                             # (N, 2, 3, 3)
    >>> def head(a): return a.mean(axis=(2, 3)) @ np.eye(2)   # (N, 2)
    >>> gradcam.explain(gradcam.Split(features, head), np.ones((1, 2, 3, 3)), target=0).maps.shape
    (1, 3, 3)
    """

    def __init__(
        self,
        features: Callable[..., Array],
        head: Callable[[Array], Outputs],
        *,
        layer: str = "features",
        layout: Literal["channels_first", "channels_last"] | None = None,
        batch: int = 256,
        channels_first: bool | None = None,
        chunk: int | None = None,
    ) -> None:
        if layout not in (None, "channels_first", "channels_last"):
            raise ValueError(
                f'`layout` must be "channels_first", "channels_last" or None, but is {layout!r}'
            )
        self.features = features
        self.head = head
        self.layer = layer
        self.channels_first = None if layout is None else layout == "channels_first"
        self.batch = batch
        if channels_first is not None:
            _renamed("channels_first", 'layout="channels_first" or "channels_last"')
            self.channels_first = channels_first
        if chunk is not None:
            _renamed("chunk", "batch")
            self.batch = chunk

    def __repr__(self) -> str:
        names = [getattr(f, "__name__", type(f).__name__) for f in (self.features, self.head)]
        return f"Split({', '.join(names)})"


def _renamed(old: str, new: str) -> None:
    message = f"`{old}` of gradcam.Split is now {new}; the old name goes in 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
