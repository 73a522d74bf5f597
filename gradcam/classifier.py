"""A model together with what shows it a photograph, and what names its classes."""

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
    """A model, its preprocessing, its class names and its default layer.

    It can be passed wherever a model can.

    model: whatever `gradcam.explain` takes.
    preprocess: from a list of RGB uint8 arrays (H, W, 3), of the size that `view` gives, to the
        batch that the model is called with.
    view: the part of a photograph, an RGB uint8 array (H, W, 3), that the network will see, at its
        size.
    labels: the class names, by index, synonyms separated by commas. With labels a target may be a
        name.
    layer: the layer to explain where none is asked for.
    """

    model: Any
    preprocess: Callable[[Sequence[np.ndarray]], Array] | None = None
    view: Callable[[np.ndarray], np.ndarray] | None = None
    labels: Sequence[str] | None = None
    layer: str | None = None

    def indices(self, target: Any) -> Any:
        """The target with class names, also those in lists, replaced by indices.

        A name is a whole label or one of its synonyms, in upper or lower case. Raises ValueError
        for a name that no class has, or several have.
        """
        if isinstance(target, str):
            return self._index(target)
        if isinstance(target, (list, tuple)):
            return [self.indices(item) for item in target]
        return target

    def _index(self, name: str) -> int:
        if self.labels is None:
            raise ValueError(
                f'`target` "{name}" is a name, but this classifier has no `labels`; pass an index'
            )
        # a whole label first: a class may be called as another's synonym
        for match in (_is_label, _is_synonym):
            classes = [i for i, label in enumerate(self.labels) if match(name, label)]
            if len(classes) == 1:
                return classes[0]
            if classes:
                raise ValueError(
                    f'`target` "{name}" is the name of the classes {classes}; pass one of these '
                    "indices"
                )
        raise ValueError(f'`target` "{name}" is no class name{_hint(name, self.labels)}')


def _is_label(name: str, label: str) -> bool:
    return label.casefold() == name.casefold()


def _is_synonym(name: str, label: str) -> bool:
    return name.casefold() in _synonyms(label)


def _synonyms(label: str) -> list[str]:
    return [synonym.strip().casefold() for synonym in label.split(",")]


def _hint(name: str, labels: Sequence[str]) -> str:
    """At most three names like this one: labels that contain it, then similar synonyms."""
    folded = name.casefold()
    near = [label for label in labels if folded in label.casefold()]
    if len(near) < 3:
        synonyms = sorted({synonym for label in labels for synonym in _synonyms(label)})
        near += difflib.get_close_matches(folded, synonyms, n=3)
    if not near:
        return ""
    return "; did you mean " + " or ".join(f'"{label}"' for label in near[:3]) + "?"
