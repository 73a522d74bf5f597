"""Targets of a classifier, whose outputs are logits (N, classes)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from array_api_compat import is_array_api_obj

from gradcam._arrays import array_namespace, constant, to_numpy, widen
from gradcam._types import Array, Outputs
from gradcam.targets.outputs import (
    check_range,
    check_shapes,
    class_scores,
    columns,
    gathered,
    indices,
    integers,
    log_softmax,
)
from gradcam.targets.values import Combination, Target

__all__ = [
    "ClassScore",
    "FinerScore",
    "LogProbability",
    "Probability",
    "ReST",
    "TargetLike",
    "TopClass",
    "as_target",
    "difference",
]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TopClass(Target):
    """Each sample's class of highest score, what `target=None` means; or its `count` highest, best first."""

    count: int | None = None

    def __call__(self, outputs: Outputs) -> Array:
        return self.resolve(outputs)(outputs)

    def resolve(self, outputs: Outputs) -> Target:
        scores = class_scores(outputs)
        xp = array_namespace(scores)
        if self.count is None:
            return ClassScore(xp.argmax(scores, axis=1))
        if not 1 <= self.count <= scores.shape[1]:
            raise ValueError(
                f"`count` {self.count} top classes are asked for, but the outputs have {scores.shape[1]}"
            )
        return ClassScore(xp.argsort(-scores, axis=1, stable=True)[:, : self.count])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _OfClass(Target):
    """A target of a class, of one for each sample (N,), of K, (1, K) or (N, K), or of the top ones, `TopClass(K)`."""

    index: Any = TopClass()

    def __post_init__(self) -> None:
        index = self.index.index if isinstance(self.index, ClassScore) else self.index
        index = index if isinstance(index, TopClass) else integers(index, "index")
        object.__setattr__(self, "index", index)

    def __call__(self, outputs: Outputs) -> Array:
        settled = self.resolve(outputs)
        settled.check(outputs)
        values = self._values(class_scores(outputs))
        return columns(gathered(values, indices(settled.index, values)), (settled.index, ()))

    def _values(self, scores: Array) -> Array:
        """Scores (N, classes) -> what is explained of each class, (N, classes)."""
        raise NotImplementedError

    def resolve(self, outputs: Outputs) -> Self:
        if not isinstance(self.index, TopClass):
            return self
        return dataclasses.replace(self, index=self.index.resolve(outputs))

    def check(self, outputs: Outputs) -> None:
        samples, classes = (int(n) for n in class_scores(outputs).shape)
        if not isinstance(self.index, TopClass):
            check_shapes(samples, target=(self.index, ()))
            check_range(self.index, classes, "target", "class")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassScore(_OfClass):
    r"""The score of a class before the softmax, $y_c$: what an int as a target means.

    index: an int for all samples, (N,), one for each, or (1, K) or (N, K) for K maps per sample; the top class unless
    told. An index that is no class of the outputs is an IndexError, one for another number of samples a ValueError.
    """

    def _values(self, scores: Array) -> Array:
        return scores


def _log_probabilities(scores: Array) -> Array:
    if int(scores.shape[1]) == 1:
        raise ValueError(
            f"outputs of shape {tuple(scores.shape)} have one class, whose softmax is always 1; explain its score with "
            "ClassScore(0), or the other answer with -ClassScore(0)"
        )
    return log_softmax(scores)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LogProbability(_OfClass):
    r"""The logarithm of a class's probability, $\log p_c = y_c - \log \sum_k e^{y_k}$, of logits (N, classes).

    Its gradient does not vanish where the network is sure of another class, as that of the probability does.
    index: as in `ClassScore`. Outputs of one column are an error, since their softmax is always 1.
    """

    def _values(self, scores: Array) -> Array:
        return _log_probabilities(scores)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Probability(_OfClass):
    r"""A class's probability, $p_c = e^{y_c} / \sum_k e^{y_k}$, of logits (N, classes).

    It grows by what speaks for the class and by what speaks against all others; where p is 0 or 1 to the last digit,
    so are the gradient and the map 0. For a model that ends in its own softmax use `ClassScore`. index: as there.
    """

    def _values(self, scores: Array) -> Array:
        return array_namespace(scores).exp(_log_probabilities(scores))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReST(_OfClass):
    r"""Residual softmax target-class: $y_c + \log p_c$, both the score and its lead over the others.

    Of logits (N, classes); index: as in `ClassScore`. Cai 2025, https://arxiv.org/abs/2501.06261
    """

    def _values(self, scores: Array) -> Array:
        return widen(scores) + _log_probabilities(scores)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FinerScore(_OfClass):
    r"""Finer-CAM: what tells a class from those most like it, of logits (N, classes).

    $\sum_d p_d (y_c - \gamma y_d) \big/ \sum_d p_d$ over the reference classes d, those of smallest $|y_c - y_d|$.
    Zhang et al. 2025, https://arxiv.org/abs/2501.11309. The weights $p_d / \sum p_d$, a softmax of the references'
    scores alone, are part of the score: they are differentiated, as in the authors' code, so that finite differences
    of the score agree with its gradient. The choice of references is settled once, by `resolve`.

    index: as in `ClassScore`. references: how many, or the classes themselves, (R,), (N, R), (1, K, R) or (N, K, R).
    gamma: how much of the references is taken off; 0 is the class score.
    """

    references: Any = 3
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.references, int) and self.references < 1:
            raise ValueError(f"`references` must be at least 1, but is {self.references}")
        if not isinstance(self.references, int):
            object.__setattr__(self, "references", integers(self.references, "references", ("R",)))

    def __call__(self, outputs: Outputs) -> Array:
        settled = self.resolve(outputs)
        settled.check(outputs)
        scores = widen(class_scores(outputs))
        xp = array_namespace(scores)
        wanted = gathered(scores, indices(settled.index, scores))
        references = indices(settled.references, scores, ("R",))
        rows = xp.broadcast_to(
            scores[:, None, :], (scores.shape[0], references.shape[1], scores.shape[1])
        )
        others = gathered(rows, references)  # (N, K, R)
        weights = xp.exp(log_softmax(others))
        found = wanted - self.gamma * xp.sum(weights * others, axis=-1)
        return columns(found, (settled.index, ()), (settled.references, ("R",)))

    def resolve(self, outputs: Outputs) -> Self:
        settled = super().resolve(outputs)
        if not isinstance(settled.references, int):
            return settled
        scores = widen(class_scores(outputs))
        xp, count, classes = array_namespace(scores), settled.references, int(scores.shape[1])
        if count >= classes:
            raise ValueError(
                f"`references` {count} classes are asked for, but the outputs have {classes - 1} others"
            )
        settled.check(outputs)
        index = indices(settled.index, scores)
        away = xp.abs(scores[:, None, :] - gathered(scores, index)[:, :, None])  # (N, K, classes)
        own = constant(np.arange(classes), scores, index.dtype) == index[:, :, None]
        nearest = xp.argsort(xp.where(own, xp.full_like(away, xp.inf), away), axis=-1, stable=True)[
            ..., :count
        ]
        return dataclasses.replace(
            settled, references=nearest if settled.index.ndim == 2 else nearest[:, 0, :]
        )

    def check(self, outputs: Outputs) -> None:
        super().check(outputs)
        samples, classes = (int(n) for n in class_scores(outputs).shape)
        if not isinstance(self.references, int):
            own = {} if isinstance(self.index, TopClass) else {"target": (self.index, ())}
            check_shapes(samples, references=(self.references, ("R",)), **own)
            check_range(self.references, classes, "references", "class")


def difference(of: TargetLike, minus: TargetLike, gamma: float = 1.0) -> Target:
    r"""Why this class and not that one: $y_a - \gamma y_b$, as `ClassScore(a) - gamma * ClassScore(b)`.

    of, minus: whatever a target may be; None is each sample's top class. One against its nearest is `FinerScore`.
    """
    return Combination((as_target(of), as_target(minus)), (1.0, -float(gamma)))


TargetLike = (
    None | int | Sequence[int] | Sequence[Sequence[int]] | Array | Callable[[Outputs], Array]
)
"""What a user may pass: None (the top class), an int, (N,) ints, (1, K) or (N, K) ints, or a function."""


def as_target(target: TargetLike) -> Callable[[Outputs], Array]:
    """A target from whatever the user passed."""
    if target is None:
        return TopClass()
    if callable(target):
        return target
    if isinstance(target, (str, bytes)):
        raise TypeError(
            f"`target` {target!r} is a name; pass its index, or use a gradcam.Classifier, which knows names"
        )
    if is_array_api_obj(target) and not isinstance(target, np.ndarray):
        target = to_numpy(target)
    try:
        index = np.asarray(target)
    except ValueError as error:
        raise ValueError(
            f"`target` {target!r} is ragged: every sample needs the same number of classes"
        ) from error
    if index.dtype.kind not in "iu":
        raise TypeError(
            f"`target` must be None, an int, (N,) or (N, K) ints, or a function of the outputs, but is {target!r}"
        )
    if index.ndim > 2 or index.size == 0:
        raise ValueError(
            f"`target` must be an int, (N,), (1, K) or (N, K) ints, but has shape {index.shape}"
        )
    return ClassScore(index)
