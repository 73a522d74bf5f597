"""What target and outputs say of a classifier's maps: saturated, or of a class that is not there."""

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


class Classes:
    """What outputs and target say of a classifier's maps, (N, K): no model is needed for it."""

    def __init__(self, target: Any, outputs: Outputs, scores: np.ndarray) -> None:
        self.target, self.scores = target, scores
        try:
            rows = to_numpy(widen(class_scores(outputs)))
        except (TypeError, ValueError):
            rows = None
        self.rows = (
            rows
            if rows is not None and np.isfinite(rows).all() and len(rows) == len(scores)
            else None
        )

    @cached_property
    def probable(self) -> bool:
        """Whether the outputs are probabilities themselves."""
        return self.rows is not None and bool(
            (self.rows >= 0).all()
            and (self.rows <= 1).all()
            and np.allclose(self.rows.sum(1), 1, atol=1e-3)
        )

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        rows = self.rows
        assert rows is not None
        rows = rows.astype(np.float64)
        if self.probable:
            return np.asarray(np.log(np.maximum(rows, np.finfo(np.float64).tiny)))
        below = rows - rows.max(1, keepdims=True)
        return np.asarray(below - np.log(np.exp(below).sum(1, keepdims=True)))

    def index(self, target: Any) -> np.ndarray:
        """(N, K) classes of a target of classes."""
        found = to_numpy(target.index)
        found = found if found.ndim == 2 else found.reshape(-1, 1)
        return np.asarray(np.broadcast_to(found, self.scores.shape))

    def _of(self, kinds: tuple[type, ...]) -> list[np.ndarray]:
        """The log-probabilities (N, K) of the target's terms of these kinds."""
        terms = self.target.terms if isinstance(self.target, Combination) else (self.target,)
        found = [
            self.index(t)
            for t in terms
            if isinstance(t, kinds) and hasattr(getattr(t, "index", None), "shape")
        ]
        return [np.take_along_axis(self.log_probabilities, index, 1) for index in found]

    @property
    def _precision(self) -> float:
        return 4 * float(
            np.finfo(self.rows.dtype if self.rows is not None else self.scores.dtype).eps
        )

    @cached_property
    def surely_saturated(self) -> np.ndarray:
        """Where a probability is 1 but for a few units of its last digit: what its gradient is has no digits left."""
        found = np.zeros(self.scores.shape, bool)
        if self.rows is not None and self.rows.dtype.kind == "f":
            for each in self._of((Probability, LogProbability)):
                found |= each > -self._precision
        return found

    @cached_property
    def saturated(self) -> np.ndarray:
        """Where the score, or a probability in it, is 0 or 1 but for its last digits."""
        found = self.surely_saturated.copy()
        if self.rows is None or self.rows.dtype.kind != "f":
            return found
        low = float(np.log(np.finfo(self.rows.dtype).tiny))
        for each in self._of((Probability, *((ClassScore,) if self.probable else ()))):
            found |= (each > -self._precision) | (each < low)
        if (self.rows >= 0).all() and (self.rows <= 1).all():  # a sigmoid
            found |= np.abs(self.scores - 1) < self._precision
        return found

    def saturation(self, n: int, k: int) -> str:
        """That the target has no slope there, and what to explain instead."""
        if self._of((Probability, LogProbability)):
            return (
                f"the softmax of {self.shown(n, k)} is 0 or 1 to the last digit, where it has no slope; explain the "
                f"class score in front of it, {self.shown(n, k, ClassScore)}"
            )
        return (
            "the softmax or sigmoid at the model's end is 0 or 1 to the last digit, where it has no slope; take it off "
            "the model, and explain the score in front of it"
        )

    def shown(self, n: int, k: int, kind: type | None = None) -> str:
        """The target of one map, as it is written."""
        if isinstance(self.target, _OF_CLASS) and hasattr(self.target.index, "shape"):
            return f"{(kind or type(self.target)).__name__}({self.index(self.target)[n, k]})"
        if kind is not None:
            return f"{kind.__name__}(c)"
        if isinstance(self.target, Combination):
            return f"({self.target!r})"
        return repr(self.target)

    def negated(self, n: int, k: int) -> str:
        return (
            f"-{self.shown(n, k)}"
            if isinstance(self.target, Target)
            else "lambda outputs: -target(outputs)"
        )

    def mismatch(self, n: int, k: int) -> str | None:
        """A hint, where the class is far from what the model sees in the sample."""
        if (
            self.rows is None
            or not isinstance(self.target, _OF_CLASS)
            or not hasattr(self.target.index, "shape")
        ):
            return None
        index, likely = self.index(self.target), self.log_probabilities
        top, wanted = likely.argmax(1), int(index[n, k])
        if likely[n, wanted] > likely[n, top[n]] - math.log(100):
            return None
        says = f"class {wanted} scores {self.rows[n, top[n]] - self.rows[n, wanted]:.3g} below class {top[n]}, its top one"
        others = [
            m for m in range(len(top)) if m != n and top[n] in index[m] and top[m] not in index[m]
        ]
        if others and len(np.unique(index, axis=0)) > 1:
            return (
                f"{says}, which is a target of sample {others[0]}; see to it that the targets are in the order of the "
                "samples"
            )
        return f"{says}; see to it that it is the class that you meant, of the labels that this model was trained with"
