"""A model together with what is needed to show it a photograph and to name what it saw."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcam._types import Array

__all__ = ["Classifier"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model, its preprocessing, its class names and its default layer. It can be passed wherever a model can.

    model: whatever `gradcam.explain` takes.
    preprocess: photographs -> what the model is called with: a list of RGB uint8 arrays (H, W, 3), of the size that
        `view` gives, to one batch.
    view: the part of a photograph, an RGB uint8 array (H, W, 3), that the network will see, at its size.
    labels: the class names, by index, synonyms after commas; with them a target may be a name.
    layer: the layer to explain where none is asked for.
    """

    model: Any
    preprocess: Callable[[Sequence[np.ndarray]], Array] | None = None
    view: Callable[[np.ndarray], np.ndarray] | None = None
    labels: Sequence[str] | None = None
    layer: str | None = None

    def indices(self, target: Any) -> Any:
        """A target whose class names, if it has any, are indices."""
        if isinstance(target, str):
            return self._index(target)
        if isinstance(target, (list, tuple)):
            return [self.indices(one) for one in target]
        return target

    def _index(self, name: str) -> int:
        if self.labels is None:
            raise ValueError(
                f'`target` "{name}" is a name, but this classifier has no `labels`; pass an index'
            )
        wanted = name.casefold()
        whole = [i for i, label in enumerate(self.labels) if label.casefold() == wanted]
        synonyms = [[one.strip().casefold() for one in label.split(",")] for label in self.labels]
        found = whole or [i for i, names in enumerate(synonyms) if wanted in names]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f'`target` "{name}" is the name of the classes {found}; pass one of these indices'
            )
        near = [label for label in self.labels if wanted in label.casefold()]
        every = sorted({one for names in synonyms for one in names})
        near = (near + difflib.get_close_matches(wanted, every, n=3))[:3]
        hint = "; did you mean " + " or ".join(f'"{one}"' for one in near) + "?" if near else ""
        raise ValueError(f'`target` "{name}" is no class name{hint}')
