"""What flows through a layer: all that the input says, and the score's gradient.

Everything that the input says passes through a layer where the outputs stay what they are when its
output is held and the input is another one. That is a replay of the layer's own activations, and
needs no knowledge of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradcam._arrays import to_numpy, widen
from gradcam._types import Array, Inputs, Outputs
from gradcam.inputs import arrays_of, with_array
from gradcam.model import HasReach, Model
from gradcam.space.evidence import REFUSALS, disturbed, paired
from gradcam.targets.outputs import class_scores

__all__ = ["Flow", "gradients_at"]

RELATIVE = 1e-3
"""Scores are the same where they differ by less than this share of what the other input changes."""


def gradients_at(
    model: Model, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
) -> tuple[list[Array | None], int]:
    """The score's gradient at each layer, from one backward pass, and whether it has an axis of
    targets (1 or 0).

    Zeros where the score does not depend on a layer; None where the model cannot say.
    """
    if isinstance(model, HasReach):
        scores, gradients = model.reach(inputs, layers, target)
        return list(gradients), scores.ndim - 1
    try:
        capture = model.capture(inputs, layers, target)
    except RuntimeError:  # one of the layers is not reached, and which one the model does not say
        return [None] * len(layers), 0
    return list(capture.gradients), capture.scores.ndim - 1


@dataclass(frozen=True)
class Flow:
    """Two copies of one sample, the activations they give, and the same copies with another
    input.
    """

    model: Model
    another: Inputs
    activations: Mapping[str, Array]
    score: Callable[[Outputs], np.ndarray]
    scores: np.ndarray
    change: float
    answers: dict[str, bool] = field(default_factory=dict)

    @staticmethod
    def of(
        model: Model, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
    ) -> Flow | None:
        """What can be asked of these layers; None where the model takes no batch of two, or heeds
        no input.
        """
        try:
            copies = paired(inputs)
            capture = model.capture(copies, tuple(layers), None)
            another = _another(copies)
            score = _score(capture.outputs, target)
            scores = score(capture.outputs)
            change = float(np.abs(score(model.replay(another, (), ())) - scores).max())
        except REFUSALS:
            return None
        if not change > 0:
            return None
        activations = dict(zip(layers, capture.activations, strict=True))
        return Flow(model, another, activations, score, scores, change)

    def holds(self, path: str) -> bool:
        """Whether the layer is among those that can be asked of."""
        return path in self.activations

    def passes_through(self, path: str) -> bool:
        """Whether everything that the input says passes through the layer."""
        if path not in self.answers:
            outputs = self.model.replay(self.another, (path,), (self.activations[path],))
            change = np.abs(self.score(outputs) - self.scores).max()
            self.answers[path] = bool(change <= RELATIVE * self.change)
        return self.answers[path]

    def same_output(self, path: str, other: str) -> bool:
        """Whether two layers give the same array, as a container and the last layer in it do."""
        if not (self.holds(path) and self.holds(other)):
            return False
        first = self.activations[path]
        second = self.activations[other]
        if tuple(first.shape) != tuple(second.shape):
            return False
        return bool(np.array_equal(to_numpy(first), to_numpy(second)))


def _another(copies: Inputs) -> Inputs:
    """The same inputs with all arrays of samples disturbed."""
    for key, array in arrays_of(copies).items():
        if array.ndim > 1 and array.shape[0] == 2:
            everywhere = np.ones((2, *(1,) * (array.ndim - 1)))
            copies = with_array(copies, key, disturbed(array, everywhere))
    return copies


def _score(outputs: Outputs, target: Callable[[Outputs], Array]) -> Callable[[Outputs], np.ndarray]:
    """What is compared: all class scores where there are some, else the target's own score."""

    def classes(outputs: Outputs) -> np.ndarray:
        return to_numpy(widen(class_scores(outputs))).astype(np.float64)

    def own(outputs: Outputs) -> np.ndarray:
        return to_numpy(widen(target(outputs))).astype(np.float64)

    try:
        classes(outputs)
    except (TypeError, ValueError, KeyError, AttributeError):
        return own
    return classes
