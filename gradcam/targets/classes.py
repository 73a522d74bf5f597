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
    as_integers,
    check_range,
    check_shapes,
    class_scores,
    expand_indices,
    gather,
    log_softmax,
    squeeze,
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
    """Each sample's class of highest score: the meaning of `target=None`.

    With `count`, each sample's classes of highest score, best first. A `count` larger than the
    number of classes is a ValueError.
    """

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
                f"`count` {self.count} top classes are asked for, but the outputs have "
                f"{scores.shape[1]}"
            )
        return ClassScore(xp.argsort(-scores, axis=1, stable=True)[:, : self.count])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _OfClass(Target):
    """A target of a class: an index, (N,), (1, K) or (N, K) of them, or `TopClass`."""

    index: Any = TopClass()

    def __post_init__(self) -> None:
        index = self.index
        if isinstance(index, ClassScore):
            # `TopClass().resolve` returns one.
            index = index.index
        if not isinstance(index, TopClass):
            index = as_integers(index, "index")
        object.__setattr__(self, "index", index)

    def __call__(self, outputs: Outputs) -> Array:
        settled = self.resolve(outputs)
        settled.check(outputs)
        values = self._values(class_scores(outputs))
        chosen = gather(values, expand_indices(settled.index, values))
        return squeeze(chosen, (settled.index, ()))

    def _values(self, scores: Array) -> Array:
        """From scores (N, classes) to the values that are explained, one for each class."""
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
    r"""The score of a class before the softmax, $y_c$: the meaning of an int as a target.

    index: an int for all samples; (N,), one for each; or (1, K) or (N, K) for K maps per sample.
        The default is the top class. An index that is no class of the outputs is an IndexError.
        Indices for another number of samples are a ValueError.
    """

    def _values(self, scores: Array) -> Array:
        return scores


def _log_probabilities(scores: Array) -> Array:
    if int(scores.shape[1]) == 1:
        raise ValueError(
            f"outputs of shape {tuple(scores.shape)} have one class, whose softmax is always 1; "
            "explain its score with ClassScore(0), or the other answer with -ClassScore(0)"
        )
    return log_softmax(scores)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LogProbability(_OfClass):
    r"""The logarithm of a class's probability, $\log p_c = y_c - \log \sum_k e^{y_k}$.

    It needs logits (N, classes). Where the network is sure of another class, the gradient of the
    probability vanishes, but not this one. Outputs of one column are a ValueError, because their
    softmax is always 1. index: as in `ClassScore`.
    """

    def _values(self, scores: Array) -> Array:
        return _log_probabilities(scores)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Probability(_OfClass):
    r"""A class's probability, $p_c = e^{y_c} / \sum_k e^{y_k}$, of logits (N, classes).

    Evidence for the class raises it, and so does evidence against all other classes. Where p is
    0 or 1 to the last digit, the gradient and the map are 0. For a model that ends in its own
    softmax use `ClassScore`. index: as there.
    """

    def _values(self, scores: Array) -> Array:
        return array_namespace(scores).exp(_log_probabilities(scores))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReST(_OfClass):
    r"""Residual softmax target-class: $y_c + \log p_c$, the score and its lead over the others.

    It needs logits (N, classes). index: as in `ClassScore`.
    Cai 2025, https://arxiv.org/abs/2501.06261
    """

    def _values(self, scores: Array) -> Array:
        return widen(scores) + _log_probabilities(scores)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FinerScore(_OfClass):
    r"""Finer-CAM: the lead of a class over the classes that are most like it.

    $\sum_d p_d (y_c - \gamma y_d) \big/ \sum_d p_d$ over the reference classes d, those of smallest
    $|y_c - y_d|$. It needs logits (N, classes). The weights $p_d / \sum p_d$ are a softmax of the
    references' scores alone. They are part of the score and are differentiated, as in the authors'
    code, so that finite differences of the score agree with its gradient. The choice of references
    is settled once, by `resolve`.
    Zhang et al. 2025, https://arxiv.org/abs/2501.11309

    index: as in `ClassScore`.
    references: their number, or the classes themselves, (R,), (N, R), (1, K, R) or (N, K, R).
    gamma: the share of the references that is subtracted; 0 is the class score.
    """

    references: Any = 3
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.references, int):
            references = as_integers(self.references, "references", ("R",))
            object.__setattr__(self, "references", references)
        elif self.references < 1:
            raise ValueError(f"`references` must be at least 1, but is {self.references}")

    def __call__(self, outputs: Outputs) -> Array:
        settled = self.resolve(outputs)
        settled.check(outputs)
        scores = widen(class_scores(outputs))
        xp = array_namespace(scores)
        own = gather(scores, expand_indices(settled.index, scores))
        references = expand_indices(settled.references, scores, ("R",))
        samples, classes = scores.shape
        # The references of each of the K targets are gathered from the same row of scores.
        rows = xp.broadcast_to(scores[:, None, :], (samples, references.shape[1], classes))
        others = gather(rows, references)  # (N, K, R)
        weights = xp.exp(log_softmax(others))
        lead = own - self.gamma * xp.sum(weights * others, axis=-1)
        return squeeze(lead, (settled.index, ()), (settled.references, ("R",)))

    def resolve(self, outputs: Outputs) -> Self:
        settled = super().resolve(outputs)
        if not isinstance(settled.references, int):
            return settled
        scores = widen(class_scores(outputs))
        count = settled.references
        classes = int(scores.shape[1])
        if count >= classes:
            raise ValueError(
                f"`references` {count} classes are asked for, but the outputs have {classes - 1} "
                "others"
            )
        settled.check(outputs)
        nearest = _nearest_classes(scores, expand_indices(settled.index, scores))[..., :count]
        if settled.index.ndim != 2:
            nearest = nearest[:, 0, :]
        return dataclasses.replace(settled, references=nearest)

    def check(self, outputs: Outputs) -> None:
        super().check(outputs)
        samples, classes = (int(n) for n in class_scores(outputs).shape)
        if isinstance(self.references, int):
            return
        values: dict[str, tuple[Array, tuple[str, ...]]]
        values = {"references": (self.references, ("R",))}
        if not isinstance(self.index, TopClass):
            values["target"] = (self.index, ())
        check_shapes(samples, **values)
        check_range(self.references, classes, "references", "class")


def _nearest_classes(scores: Array, index: Array) -> Array:
    """For classes (1 or N, K), all classes by distance in score (N, K, classes), the class last."""
    xp = array_namespace(scores)
    distance = xp.abs(scores[:, None, :] - gather(scores, index)[:, :, None])  # (N, K, classes)
    classes = constant(np.arange(int(scores.shape[1])), scores, index.dtype)
    is_own = classes == index[:, :, None]
    distance = xp.where(is_own, xp.full_like(distance, xp.inf), distance)
    return xp.argsort(distance, axis=-1, stable=True)


def difference(of: TargetLike, minus: TargetLike, gamma: float = 1.0) -> Target:
    r"""Why one class and not another: $y_a - \gamma y_b$.

    It is `ClassScore(a) - gamma * ClassScore(b)`.

    of, minus: as `target` in `gradcam.explain`; None is each sample's top class. For a class
    against those nearest to it see `FinerScore`.
    """
    return Combination((as_target(of), as_target(minus)), (1.0, -float(gamma)))


TargetLike = (
    None | int | Sequence[int] | Sequence[Sequence[int]] | Array | Callable[[Outputs], Array]
)
"""A target as a user may pass it.

None (the top class), an int, (N,), (1, K) or (N, K) ints, or a function of the outputs.
"""


def as_target(target: TargetLike) -> Callable[[Outputs], Array]:
    """A target from a `TargetLike`. Anything else is a TypeError, a wrong shape a ValueError."""
    if target is None:
        return TopClass()
    if callable(target):
        return target
    if isinstance(target, (str, bytes)):
        raise TypeError(
            f"`target` {target!r} is a name; pass its index, or use a gradcam.Classifier, which "
            "knows names"
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
            "`target` must be None, an int, (N,) or (N, K) ints, or a function of the outputs, but "
            f"is {target!r}"
        )
    if index.ndim > 2 or index.size == 0:
        raise ValueError(
            f"`target` must be an int, (N,), (1, K) or (N, K) ints, but has shape {index.shape}"
        )
    return ClassScore(index)
