"""What is explained: a score per sample, or K of them, made of the model's outputs.

A target is a function `outputs -> (N,) or (N, K)`. Those here are frozen values: they print themselves, compare, and
may hold class indices as arrays, which a compiling backend takes as arguments rather than as constants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, is_jax_namespace

from gradcam._arrays import constant, to_numpy
from gradcam._types import Array, Outputs

__all__ = ["ClassScore", "Target", "TopClass", "as_target", "join", "logits", "split"]


def logits(outputs: Outputs) -> Array:
    """The one array of the outputs that has the class scores.

    An array itself, `.logits` of an object, "logits" of a mapping, the first of a tuple or list.
    """
    if is_array_api_obj(outputs):
        return outputs
    if getattr(outputs, "logits", None) is not None:
        return outputs.logits
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    if isinstance(outputs, (tuple, list)) and len(outputs) > 0 and is_array_api_obj(outputs[0]):
        return outputs[0]
    keys = f" with keys {list(outputs)}" if isinstance(outputs, Mapping) else ""
    raise TypeError(
        f"no class scores were found in the model's outputs, a {type(outputs).__name__}{keys}; pass `target` as a "
        'function of the outputs that returns scores of shape (N,), such as lambda outputs: outputs["scores"][:, 3]'
    )


def _class_scores(outputs: Outputs) -> Array:
    scores = logits(outputs)
    if scores.ndim != 2:
        raise ValueError(
            f"a class index needs outputs of shape (N, K), but the model returned {tuple(scores.shape)}; pass `target` "
            "as a function, such as "
            + (
                "lambda outputs: outputs"
                if scores.ndim == 1
                else f"lambda outputs: outputs[:, 3].mean({tuple(range(-(scores.ndim - 2), 0))})"
            )
        )
    return scores


@dataclasses.dataclass(frozen=True)
class Target:
    """What all targets share. Make your own from a function; nothing needs to inherit from this."""

    def __call__(self, outputs: Outputs) -> Array:
        """Outputs of N samples -> scores (N,) or (N, K)."""
        raise TypeError(f"{type(self).__name__} does not say what it scores; pass a function of the outputs instead")

    def resolve(self, outputs: Outputs) -> Target:
        """The same target with what depends on the outputs (a top class) put in its place."""
        return self

    def check(self, outputs: Outputs) -> None:
        """Raise where the target does not fit the outputs: a compiled program clamps an index in silence."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Target):
                    part.check(outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassScore(Target):
    """The score of one class for all samples (an int), one for each (N,), or K for each, (1, K) or (N, K)."""

    index: Any

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        scores = _class_scores(outputs)
        xp, index, samples = array_namespace(scores), self.index, int(scores.shape[0])
        if isinstance(index, (int, np.ndarray)):
            # torch gathers with no other indices than int64, JAX has none by default
            index = constant(np.asarray(index), like=scores, dtype=xp.int32 if is_jax_namespace(xp) else xp.int64)
        if index.ndim == 2:
            return xp.take_along_axis(scores, xp.broadcast_to(index, (samples, int(index.shape[1]))), axis=1)
        index = xp.broadcast_to(xp.reshape(index, (-1, 1)), (samples, 1))
        return xp.take_along_axis(scores, index, axis=1)[:, 0]

    def check(self, outputs: Outputs) -> None:
        samples, classes = (int(n) for n in _class_scores(outputs).shape)
        shape = tuple(np.shape(self.index)) if isinstance(self.index, int) else tuple(self.index.shape)
        if shape and shape[0] != samples and not (len(shape) == 2 and shape[0] == 1):
            raise ValueError(
                f"`target` of shape {shape} is for {shape[0]} samples, but the batch has {samples}; pass one int for "
                "all of them, (N,) ints, one for each, or (1, K) or (N, K) for K maps per sample"
            )
        if not isinstance(self.index, (int, np.ndarray)):
            return  # an index that was found in the outputs, or one whose value only the running program knows
        wrong = [int(i) for i in np.asarray(self.index).flat if not 0 <= i < classes]
        if wrong:
            raise IndexError(f"`target` {wrong[0]} is no class: the model's outputs have {classes}, 0 to {classes - 1}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassScore) and np.array_equal(self.index, other.index)

    def __hash__(self) -> int:
        return hash((ClassScore, np.asarray(self.index).tobytes()))


@dataclasses.dataclass(frozen=True)
class TopClass(Target):
    """Each sample's class of highest score, what `target=None` means; or its `count` highest, best first."""

    count: int | None = None

    def __call__(self, outputs: Outputs) -> Array:
        return self.resolve(outputs)(outputs)

    def resolve(self, outputs: Outputs) -> Target:
        scores = _class_scores(outputs)
        xp = array_namespace(scores)
        if self.count is None:
            return ClassScore(xp.argmax(scores, axis=1))
        if not 1 <= self.count <= scores.shape[1]:
            raise ValueError(f"`count` {self.count} top classes are asked for, but the outputs have {scores.shape[1]}")
        return ClassScore(xp.argsort(-scores, axis=1, stable=True)[:, : self.count])


TargetLike = None | int | Sequence[int] | Sequence[Sequence[int]] | Array | Callable[[Outputs], Array]
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
        raise ValueError(f"`target` {target!r} is ragged: every sample needs the same number of classes") from error
    if index.dtype.kind not in "iu":
        raise TypeError(
            f"`target` must be None, an int, (N,) or (N, K) ints, or a function of the outputs, but is {target!r}"
        )
    if index.ndim > 2 or index.size == 0:
        raise ValueError(f"`target` must be an int, (N,), (1, K) or (N, K) ints, but has shape {index.shape}")
    return ClassScore(index.astype(np.int32))


def split(target: Any) -> tuple[tuple[Array, ...], Any]:
    """A target as its arrays and a hashable rest, so that new class indices are no new program; see `join`."""
    if is_array_api_obj(target):
        return (target,), _Slot()
    if dataclasses.is_dataclass(target) and isinstance(target, Target):
        parts = [split(getattr(target, field.name)) for field in dataclasses.fields(target)]
        return sum((arrays for arrays, _ in parts), ()), _Skeleton(type(target), tuple(rest for _, rest in parts))
    if isinstance(target, tuple):
        parts = [split(item) for item in target]
        return sum((arrays for arrays, _ in parts), ()), _Skeleton(tuple, tuple(rest for _, rest in parts))
    return (), target


def join(arrays: Sequence[Array], rest: Any) -> Any:
    """The target that `split` took apart, with other arrays in the same places."""
    return _join(list(arrays), rest)


def _join(arrays: list[Array], rest: Any) -> Any:
    if isinstance(rest, _Slot):
        return arrays.pop(0)
    if isinstance(rest, _Skeleton):
        fields = [_join(arrays, field) for field in rest.fields]
        return tuple(fields) if rest.type is tuple else rest.type(*fields)
    return rest


@dataclasses.dataclass(frozen=True)
class _Slot:
    """Where an array was."""


@dataclasses.dataclass(frozen=True)
class _Skeleton:
    type: type
    fields: tuple[Any, ...]
