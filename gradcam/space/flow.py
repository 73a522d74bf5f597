"""What flows through a layer: all that the input says, and the score's gradient.

Everything that the input says passes through a layer where every way from the inputs to the scores
leads through it. A backend that keeps a graph reads it there (`HasFlow`). Another one is asked by
replays: with the layer's output held, another input must give the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gradcam._arrays import to_numpy, widen
from gradcam._types import Array, Inputs, Outputs
from gradcam.inputs import arrays_of, with_array
from gradcam.model import HasFlow, HasReach, Model
from gradcam.space.evidence import REFUSALS, disturbed, paired
from gradcam.targets import Target
from gradcam.targets.outputs import class_scores

__all__ = ["Flow", "flow_of", "gradients_at"]

RELATIVE = 1e-3
"""Scores are the same where they differ by less than this share of what the other input changes."""

MAX_HELD = 12
"""How many layers are held in turn at most."""


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


class Flow(Protocol):
    """Through which layers of a model everything flows."""

    def may_pass(self, path: str) -> bool:
        """Whether that is known, or still to be asked, of the layer."""
        ...

    def passes(self, path: str) -> bool:
        """Whether everything that the input says passes through the layer."""
        ...

    def same_value(self, path: str, other: str) -> bool:
        """Whether two layers give the same array, as a container and the last layer in it do."""
        ...


def flow_of(
    model: Model, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
) -> Flow | None:
    """What can be said of these layers; None where the model takes no batch of two, or the scores
    depend on no input in a way that shows.
    """
    if not isinstance(model, HasFlow):
        return _Replays.of(model, inputs, layers, target)
    for batch in (paired(inputs), inputs):
        try:
            gates = model.flow(batch, _scores_of(target))
        except REFUSALS:
            continue
        if gates is not None:
            return _Graph(gates)
    return None


@dataclass(frozen=True)
class _Graph:
    """As the backend read it off its graph: the layers, each with a name of its value."""

    gates: Mapping[str, Hashable]

    def may_pass(self, path: str) -> bool:
        return path in self.gates

    def passes(self, path: str) -> bool:
        return path in self.gates

    def same_value(self, path: str, other: str) -> bool:
        return path in self.gates and self.gates[path] == self.gates.get(other)


@dataclass(frozen=True)
class _Replays:
    """Two copies of one sample, the activations they give, and the same copies with another
    input.
    """

    model: Model
    another: Inputs
    activations: Mapping[str, Array]
    score: Callable[[Outputs], Array]
    scores: np.ndarray
    change: float
    answers: dict[str, bool] = field(default_factory=dict)

    @staticmethod
    def of(
        model: Model, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
    ) -> _Replays | None:
        score = _scores_of(target)
        try:
            copies = paired(inputs)
            capture = model.capture(copies, tuple(layers), None)
            another = _another(copies)
            scores = _float64(score(capture.outputs))
            other_scores = _float64(score(model.replay(another, (), ())))
        except REFUSALS:
            return None
        change = float(np.abs(other_scores - scores).max())
        if not change > 0:
            return None
        activations = dict(zip(layers, capture.activations, strict=True))
        return _Replays(model, another, activations, score, scores, change)

    def may_pass(self, path: str) -> bool:
        return path in self.activations

    def passes(self, path: str) -> bool:
        if path not in self.answers:
            if len(self.answers) >= MAX_HELD:
                return False
            outputs = self.model.replay(self.another, (path,), (self.activations[path],))
            change = np.abs(_float64(self.score(outputs)) - self.scores).max()
            self.answers[path] = bool(change <= RELATIVE * self.change)
        return self.answers[path]

    def same_value(self, path: str, other: str) -> bool:
        first = self.activations[path]
        second = self.activations[other]
        if tuple(first.shape) != tuple(second.shape):
            return False
        return bool(np.array_equal(to_numpy(first), to_numpy(second)))


def _float64(scores: Array) -> np.ndarray:
    return to_numpy(widen(scores)).astype(np.float64)


def _another(copies: Inputs) -> Inputs:
    """The same inputs with all arrays of samples disturbed."""
    for key, array in arrays_of(copies).items():
        if array.ndim > 1 and array.shape[0] == 2:
            everywhere = np.ones((2, *(1,) * (array.ndim - 1)))
            copies = with_array(copies, key, disturbed(array, everywhere))
    return copies


def _scores_of(target: Callable[[Outputs], Array]) -> Callable[[Outputs], Array]:
    """What everything must flow to: the scores of all classes for a target of classes, so that one
    answer serves all of them; else the target's own scores.
    """

    def scores(outputs: Outputs) -> Array:
        if isinstance(target, Target):
            try:
                return class_scores(outputs)
            except (TypeError, ValueError, KeyError, AttributeError):
                pass
        return target(outputs)

    return scores
