"""Targets as values: what they share, their sums, and how a compiler sees them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj

from gradcam._arrays import array_namespace, to_numpy
from gradcam._types import Array, Outputs

__all__ = ["Combination", "Selected", "Target", "join", "split"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Target:
    """What all targets share. Make your own from a function; nothing needs to inherit from this.

    `a + b`, `a - b`, `-a`, `2 * a` and `a / 2` are targets too, where b may be a plain function of the outputs.
    Targets are equal where they are made alike, arrays by value.
    """

    __array_ufunc__ = None  # so that NumPy leaves `np.float64(2) * target` to the target

    def __call__(self, outputs: Outputs) -> Array:
        """Outputs of N samples -> scores (N,) or (N, K)."""
        raise TypeError(
            f"{type(self).__name__} does not say what it scores; pass a function of the outputs instead"
        )

    def resolve(self, outputs: Outputs) -> Target:
        """The same target with what depends on the outputs (a top class) put in its place."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found = {name: _resolved(value, outputs) for name, value in values.items()}
        return (
            self
            if all(found[name] is values[name] for name in found)
            else dataclasses.replace(self, **found)
        )

    def check(self, outputs: Outputs) -> None:
        """Raise where the target does not fit the outputs: a compiled program clamps an index in silence."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Target):
                    part.check(outputs)

    def of(self, select: Callable[[Outputs], Outputs]) -> Target:
        """The same target of a part of the outputs: `ClassScore(3).of(lambda outputs: outputs["aux"])`."""
        return Selected(self, select)

    def __add__(self, other: Callable[[Outputs], Array]) -> Target:
        return _sum(self, other, 1.0)

    def __radd__(self, other: Any) -> Target:
        return (
            self if isinstance(other, Real) and other == 0 else _sum(other, self, 1.0)
        )  # 0 is where sum() starts

    def __sub__(self, other: Callable[[Outputs], Array]) -> Target:
        return _sum(self, other, -1.0)

    def __rsub__(self, other: Callable[[Outputs], Array]) -> Target:
        return _sum(other, self, -1.0)

    def __neg__(self) -> Target:
        return _scaled(self, -1.0)

    def __mul__(self, number: float) -> Target:
        return _scaled(self, number)

    __rmul__ = __mul__

    def __truediv__(self, number: float) -> Target:
        return _scaled(self, 1.0, number)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        (arrays, rest), (others, other_rest) = split(self), split(other)
        return bool(
            rest == other_rest
            and all(np.array_equal(_value(a), _value(b)) for a, b in zip(arrays, others))
        )

    def __hash__(self) -> int:
        arrays, rest = split(self)
        return hash((rest, *((value.shape, value.tobytes()) for value in map(_value, arrays))))

    def __repr__(self) -> str:
        shown = []
        for n, field in enumerate(dataclasses.fields(self)):
            value = getattr(self, field.name)
            if is_array_api_obj(value) or value != field.default:
                shown.append(_shown(value) if n == 0 else f"{field.name}={_shown(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Combination(Target):
    r"""A weighted sum of targets, $\sum_i w_i t_i$: what `a - 2 * b` makes.

    terms: targets, or plain functions of the outputs. weights: one number for each; a compiled program holds them as
    constants. Scores (N,) are added to each of K in scores (N, K). The negation `-t` is the paper's counterfactual,
    what would make the score larger if it were taken away: Selvaraju et al. 2017, section 3.3,
    https://arxiv.org/abs/1610.02391
    """

    terms: tuple[Callable[[Outputs], Array], ...]
    weights: tuple[float, ...]

    def __call__(self, outputs: Outputs) -> Array:
        scores = [term(outputs) for term in self.terms]
        columns = {int(each.shape[1]) for each in scores if each.ndim == 2}
        if len(columns - {1}) > 1 or any(each.ndim not in (1, 2) for each in scores):
            shapes = ", ".join(f"{_shown(t)}: {tuple(s.shape)}" for t, s in zip(self.terms, scores))
            raise ValueError(
                f"the terms of a target must give scores (N,) or (N, K) of one K, but give {shapes}"
            )
        if columns:
            scores = [
                each if each.ndim == 2 else array_namespace(each).expand_dims(each, axis=1)
                for each in scores
            ]
        total = self.weights[0] * scores[0]
        for weight, each in zip(self.weights[1:], scores[1:]):
            total = total + weight * each
        return total

    def __repr__(self) -> str:
        text = ""
        for weight, term in zip(self.weights, self.terms):
            size = abs(weight)
            shown = f"({term!r})" if isinstance(term, Combination) else _shown(term)
            shown = shown if size == 1 else f"{int(size) if size.is_integer() else size} * {shown}"
            text += (" - " if weight < 0 else " + ") + shown
        return (
            text.removeprefix(" + ") if text.startswith(" + ") else "-" + text.removeprefix(" - ")
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selected(Target):
    """A target of what `select` takes out of the model's outputs: what `target.of(select)` makes.

    A compiling backend knows `select` by identity: keep one function rather than writing a lambda at each call.
    """

    target: Target
    select: Callable[[Outputs], Outputs]

    def __post_init__(self) -> None:
        if not callable(self.select):
            raise TypeError(f"`select` must be a function of the outputs, but is {self.select!r}")

    def __call__(self, outputs: Outputs) -> Array:
        return self.target(self.select(outputs))

    def resolve(self, outputs: Outputs) -> Target:
        return Selected(self.target.resolve(self.select(outputs)), self.select)

    def check(self, outputs: Outputs) -> None:
        self.target.check(self.select(outputs))

    def __repr__(self) -> str:
        shown = f"({self.target!r})" if isinstance(self.target, Combination) else repr(self.target)
        return f"{shown}.of({_shown(self.select)})"


def _parts(target: Any) -> list[tuple[float, Any]]:
    return (
        list(zip(target.weights, target.terms))
        if isinstance(target, Combination)
        else [(1.0, target)]
    )


def _sum(first: Any, second: Any, sign: float) -> Target:
    for other in (first, second):
        if not callable(other):
            raise TypeError(
                f"a target is added to a target or a function of the outputs, not to {other!r}; for a class write "
                "gradcam.targets.ClassScore(index)"
            )
    pairs = _parts(first) + [(sign * weight, term) for weight, term in _parts(second)]
    return Combination(tuple(term for _, term in pairs), tuple(weight for weight, _ in pairs))


def _scaled(target: Target, number: Any, divisor: Any = 1.0) -> Target:
    for one in (number, divisor):
        if not isinstance(one, Real) or not math.isfinite(one):
            raise TypeError(
                f"a target is multiplied and divided by a finite number, not by {one!r}"
            )
    pairs = [(weight * float(number) / float(divisor), term) for weight, term in _parts(target)]
    if len(pairs) == 1 and pairs[0][0] == 1 and isinstance(pairs[0][1], Target):
        return pairs[0][1]
    return Combination(tuple(term for _, term in pairs), tuple(weight for weight, _ in pairs))


def _resolved(value: Any, outputs: Outputs) -> Any:
    if isinstance(value, tuple):
        found = tuple(_resolved(item, outputs) for item in value)
        return value if all(new is old for new, old in zip(found, value)) else found
    return value.resolve(outputs) if isinstance(value, Target) else value


def _value(array: Array) -> np.ndarray:
    """The same bytes for the same numbers, whatever their framework and dtype."""
    return to_numpy(array).astype(np.float64) + 0.0  # which makes -0.0 positive


def _shown(value: Any) -> str:
    if not is_array_api_obj(value):
        return str(getattr(value, "__name__", repr(value)))
    if math.prod(value.shape) <= 16:
        try:
            return _listed(to_numpy(value))
        except TypeError:  # an array that only the running program knows
            pass
    return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"


def _listed(array: np.ndarray) -> str:
    return "[" + ", ".join(map(_listed, array)) + "]" if array.ndim else str(array[()])


# ------------------------------------------------------------------------------------------ what a compiler sees


def split(target: Any) -> tuple[tuple[Array, ...], Any]:
    """A target as its arrays and a hashable rest, so that new class indices are no new program; see `join`."""
    if is_array_api_obj(target):
        return (target,), _Slot()
    if dataclasses.is_dataclass(target) and isinstance(target, Target):
        parts = [split(getattr(target, field.name)) for field in dataclasses.fields(target)]
        return sum((arrays for arrays, _ in parts), ()), _Skeleton(
            type(target), tuple(rest for _, rest in parts)
        )
    if isinstance(target, tuple):
        parts = [split(item) for item in target]
        return sum((arrays for arrays, _ in parts), ()), _Skeleton(
            tuple, tuple(rest for _, rest in parts)
        )
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
