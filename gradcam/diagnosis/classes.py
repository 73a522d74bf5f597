"""What the target and the outputs of a classifier say about its maps, without the model.

Two things: whether a softmax or sigmoid is saturated, and whether the target is a class that the
model hardly sees in the sample.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy, widen
from gradcam._types import Outputs
from gradcam.targets import (
    ClassScore,
    Combination,
    FinerScore,
    LogProbability,
    Probability,
    ReST,
    Target,
)
from gradcam.targets.outputs import class_scores

__all__ = ["Classes"]

_OF_CLASS = (ClassScore, FinerScore, LogProbability, Probability, ReST)
_OF_SOFTMAX = (Probability, LogProbability)
_DIGITS = 4
"""A score is saturated if it is this many units of its last digit from 0 or 1."""


class Classes:
    """A target, and outputs of a classifier, for maps whose scores are (N, K).

    rows: the class scores (N, classes), or None where the outputs have none, or none that are
    finite. Nothing is then said to be saturated, and no hint is given.
    """

    def __init__(self, target: Any, outputs: Outputs, scores: np.ndarray) -> None:
        self.target = target
        self.scores = scores
        self.rows = _class_rows(outputs, len(scores))

    @cached_property
    def are_probabilities(self) -> bool:
        """Whether the model's outputs are probabilities already."""
        if self.rows is None or not _within_unit(self.rows):
            return False
        return np.allclose(self.rows.sum(1), 1, atol=1e-3)

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """(N, classes), from outputs that are class scores or probabilities."""
        assert self.rows is not None
        rows = self.rows.astype(np.float64)
        if self.are_probabilities:
            return np.asarray(np.log(np.maximum(rows, np.finfo(np.float64).tiny)))
        relative = rows - rows.max(1, keepdims=True)
        return np.asarray(relative - np.log(np.exp(relative).sum(1, keepdims=True)))

    @cached_property
    def surely_saturated(self) -> np.ndarray:
        """(N, K): whether a probability is 1 up to a few units of its last digit.

        Its gradient has no correct digits, so a map made of it is rounding, even if it is not 0.
        """
        saturated = np.zeros(self.scores.shape, bool)
        limits = _float_limits(self.rows)
        if limits is None:
            return saturated
        for log_probability in self._log_probabilities_of(_OF_SOFTMAX):
            saturated |= log_probability > -_DIGITS * limits.eps
        return saturated

    @cached_property
    def saturated(self) -> np.ndarray:
        """(N, K): whether the score, or a probability in it, is 0 or 1 up to its last digits."""
        saturated = self.surely_saturated.copy()
        limits = _float_limits(self.rows)
        if self.rows is None or limits is None:
            return saturated
        precision = _DIGITS * limits.eps
        kinds: tuple[type, ...] = (Probability,)
        if self.are_probabilities:  # then the model's class scores are probabilities too
            kinds += (ClassScore,)
        for log_probability in self._log_probabilities_of(kinds):
            saturated |= log_probability > -precision
            saturated |= log_probability < np.log(limits.tiny)
        if _within_unit(self.rows):  # the outputs of a sigmoid need not sum to 1
            saturated |= np.abs(self.scores - 1) < precision
        return saturated

    def saturation(self, sample: int, column: int) -> str:
        """The message for a saturated score: what is saturated and what to explain instead."""
        if self._indices(_OF_SOFTMAX):
            target = self.spelled(sample, column)
            score = self.spelled(sample, column, ClassScore)
            return (
                f"the softmax of {target} is 0 or 1 to the last digit, where its slope is 0; "
                f"explain the class score before the softmax, {score}"
            )
        return (
            "the softmax or sigmoid at the end of the model is 0 or 1 to the last digit, where its "
            "slope is 0; remove it from the model, and explain the score before it"
        )

    def spelled(self, sample: int, column: int, kind: type | None = None) -> str:
        """The target of one map as a user writes it, or that class as another kind of target."""
        if _has_indices(self.target, _OF_CLASS):
            index = self._broadcast(self.target)[sample, column]
            return f"{(kind or type(self.target)).__name__}({index})"
        if kind is not None:
            return f"{kind.__name__}(c)"
        if isinstance(self.target, Combination):
            return f"({self.target!r})"
        return repr(self.target)

    def negated(self, sample: int, column: int) -> str:
        """The negated target of one map, as a user writes it."""
        if isinstance(self.target, Target):
            return f"-{self.spelled(sample, column)}"
        return "lambda outputs: -target(outputs)"

    def mismatch(self, sample: int, column: int) -> str | None:
        """A hint, if the model finds another class at least a hundred times as likely."""
        if self.rows is None or not _has_indices(self.target, _OF_CLASS):
            return None
        indices = self._broadcast(self.target)
        likely = self.log_probabilities
        top_classes = likely.argmax(1)
        top = top_classes[sample]
        index = int(indices[sample, column])
        if likely[sample, index] > likely[sample, top] - math.log(100):
            return None
        gap = self.rows[sample, top] - self.rows[sample, index]
        hint = f"class {index} scores {gap:.3g} below class {top}, the sample's top class"
        swapped = _swapped_with(sample, indices, top_classes)
        if swapped is not None and len(np.unique(indices, axis=0)) > 1:
            return (
                f"{hint}, which is a target of sample {swapped}; check that the targets are in the "
                "order of the samples"
            )
        return (
            f"{hint}; check that it is the class that you meant, in the labels that this model was "
            "trained with"
        )

    def _indices(self, kinds: tuple[type, ...]) -> list[np.ndarray]:
        """Class indices (N, K) of each term of the target that is of one of these kinds."""
        terms: tuple[Any, ...] = (self.target,)
        if isinstance(self.target, Combination):
            terms = self.target.terms
        return [self._broadcast(term) for term in terms if _has_indices(term, kinds)]

    def _log_probabilities_of(self, kinds: tuple[type, ...]) -> list[np.ndarray]:
        """The log-probabilities (N, K) of these terms."""
        likely = self.log_probabilities
        return [np.take_along_axis(likely, indices, 1) for indices in self._indices(kinds)]

    def _broadcast(self, target: Any) -> np.ndarray:
        """A target's class indices, (N, K) for each map."""
        indices = to_numpy(target.index)
        if indices.ndim != 2:
            indices = indices.reshape(-1, 1)
        return np.asarray(np.broadcast_to(indices, self.scores.shape))


def _class_rows(outputs: Outputs, samples: int) -> np.ndarray | None:
    """Class scores (N, classes), where the outputs have them for each sample and all are finite."""
    try:
        rows = to_numpy(widen(class_scores(outputs)))
    except (TypeError, ValueError):
        return None
    if len(rows) != samples or not np.isfinite(rows).all():
        return None
    return rows


def _float_limits(rows: np.ndarray | None) -> np.finfo[Any] | None:
    """The limits of the outputs' dtype. Outputs that are not floats cannot be saturated."""
    if rows is None or rows.dtype.kind != "f":
        return None
    return np.finfo(rows.dtype)


def _within_unit(rows: np.ndarray) -> bool:
    return bool(((rows >= 0) & (rows <= 1)).all())


def _has_indices(target: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a target is of one of these kinds, with its class indices resolved to an array."""
    # A top class, or a class name, is not an array until it is resolved.
    return isinstance(target, kinds) and hasattr(getattr(target, "index", None), "shape")


def _swapped_with(sample: int, indices: np.ndarray, top_classes: np.ndarray) -> int | None:
    """Another sample, which has this one's top class as a target and its own not."""
    for other in range(len(top_classes)):
        wants_this = top_classes[sample] in indices[other]
        wants_own = top_classes[other] in indices[other]
        if other != sample and wants_this and not wants_own:
            return other
    return None
