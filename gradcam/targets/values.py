"""Targets as values: what all of them share, their sums, and how a compiler takes them.

A compiling backend must not compile again for another class index. `split` takes a target apart
into its arrays, which are arguments of the compiled program, and a hashable rest, which selects the
program. `join` puts the two together again:

    split(ClassScore(281) - ClassScore(3))
        -> ([281], [3]), the rest: a Combination of two ClassScore, each with a slot for an array
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj

from gradcam._arrays import array_namespace, to_numpy
from gradcam._functions import keyed
from gradcam._types import Array, Outputs

__all__ = ["Combination", "Selected", "Target", "join", "split"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Target:
    """The base of the targets here. Your own target is a function; it need not inherit from this.

    `a + b`, `a - b`, `-a`, `2 * a` and `a / 2` are targets too, where b may be a plain function of
    the outputs. Targets are equal if their types and fields are; arrays are compared by value.
    """

    # NumPy then leaves `np.float64(2) * target` to `__rmul__`.
    __array_ufunc__ = None

    def __call__(self, outputs: Outputs) -> Array:
        """Outputs of N samples -> scores (N,) or (N, K)."""
        raise TypeError(
            f"{type(self).__name__} does not say what it scores; pass a function of the outputs "
            "instead"
        )

    def resolve(self, outputs: Outputs) -> Target:
        """The same target, with the choices that depend on the outputs made: the top class, say."""
        changes = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            resolved = _resolved(value, outputs)
            if resolved is not value:
                changes[field.name] = resolved
        if not changes:
            return self
        return dataclasses.replace(self, **changes)

    def check(self, outputs: Outputs) -> None:
        """Raise where the target does not fit the outputs.

        A compiled program cannot raise. It would clamp an index that is out of range in silence.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, tuple):
                value = (value,)
            for part in value:
                if isinstance(part, Target):
                    part.check(outputs)

    def of(self, select: Callable[[Outputs], Outputs]) -> Target:
        """The same target for a part of the outputs.

        For example `ClassScore(3).of(lambda outputs: outputs["aux"])`.
        """
        return Selected(self, select)

    def __add__(self, other: Callable[[Outputs], Array]) -> Target:
        return _sum(self, other, 1.0)

    def __radd__(self, other: Any) -> Target:
        # sum() starts with 0.
        if isinstance(other, Real) and other == 0:
            return self
        return _sum(other, self, 1.0)

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
        arrays, structure = split(self)
        other_arrays, other_structure = split(other)
        if structure != other_structure:
            return False
        pairs = zip(arrays, other_arrays)
        return all(np.array_equal(_comparable(a), _comparable(b)) for a, b in pairs)

    def __hash__(self) -> int:
        arrays, structure = split(self)
        contents = []
        for array in map(_comparable, arrays):
            contents.append((array.shape, array.tobytes()))
        return hash((structure, *contents))

    def __repr__(self) -> str:
        arguments = []
        for n, field in enumerate(dataclasses.fields(self)):
            value = getattr(self, field.name)
            if is_array_api_obj(value) or value != field.default:
                argument = _text(value)
                if n > 0:  # the first field is passed by position
                    argument = f"{field.name}={argument}"
                arguments.append(argument)
        return f"{type(self).__name__}({', '.join(arguments)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Combination(Target):
    r"""A weighted sum of targets, $\sum_i w_i t_i$: the result of `a - 2 * b`.

    terms: targets, or plain functions of the outputs. Scores (N,) of one term are added to each of
        the K scores (N, K) of another.
    weights: one number for each term. A compiled program holds them as constants.

    The negation `-t` is the counterfactual, whose map shows the evidence that lowers the score:
    Selvaraju et al. 2017, section 3.3, https://arxiv.org/abs/1610.02391
    """

    terms: tuple[Callable[[Outputs], Array], ...]
    weights: tuple[float, ...]

    def __call__(self, outputs: Outputs) -> Array:
        scores = [term(outputs) for term in self.terms]
        self._check_scores(scores)
        ndim = max(term_scores.ndim for term_scores in scores)
        total = None
        for weight, term_scores in zip(self.weights, scores):
            if term_scores.ndim < ndim:
                # Scores (N,) as (N, 1), so that they are added to each of K.
                term_scores = array_namespace(term_scores).expand_dims(term_scores, axis=1)
            weighted = weight * term_scores
            if total is None:
                total = weighted
            else:
                total = total + weighted
        return total

    def _check_scores(self, scores: Sequence[Array]) -> None:
        """Raise a ValueError unless the terms' scores are (N,) or (N, K) with one K."""
        counts = {int(array.shape[1]) for array in scores if array.ndim == 2}
        has_one_count = len(counts - {1}) <= 1
        if not has_one_count or any(array.ndim not in (1, 2) for array in scores):
            shapes = ", ".join(f"{_text(t)}: {tuple(s.shape)}" for t, s in zip(self.terms, scores))
            raise ValueError(
                f"the terms of a target must give scores (N,) or (N, K) of one K, but give {shapes}"
            )

    def __repr__(self) -> str:
        text = ""
        for weight, term in zip(self.weights, self.terms):
            size = abs(weight)
            factor = ""
            if size.is_integer() and size != 1:
                factor = f"{int(size)} * "
            elif size != 1:
                factor = f"{size} * "
            sign = " + "
            if weight < 0:
                sign = " - "
            text += sign + factor + _in_brackets(term)
        # The first sign has no space round it, and no plus.
        if text.startswith(" - "):
            return "-" + text.removeprefix(" - ")
        return text.removeprefix(" + ")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selected(Target):
    """A target for a part of the model's outputs: the result of `target.of(select)`.

    A compiling backend tells functions apart by identity. Define `select` once, because a lambda
    written at each call is compiled at each call.
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
        return f"{_in_brackets(self.target)}.of({_text(self.select)})"


def _weights_and_terms(target: Any) -> tuple[tuple[float, ...], tuple[Any, ...]]:
    """Those of a Combination. Any other target is the sum of itself alone."""
    if isinstance(target, Combination):
        return target.weights, target.terms
    return (1.0,), (target,)


def _sum(first: Any, second: Any, sign: float) -> Target:
    for term in (first, second):
        if not callable(term):
            raise TypeError(
                "a target is added to a target or a function of the outputs, not to "
                f"{term!r}; for a class write gradcam.targets.ClassScore(index)"
            )
    weights, terms = _weights_and_terms(first)
    more_weights, more_terms = _weights_and_terms(second)
    more_weights = tuple(sign * weight for weight in more_weights)
    return Combination(terms + more_terms, weights + more_weights)


def _scaled(target: Target, number: Any, divisor: Any = 1.0) -> Target:
    for factor in (number, divisor):
        if not isinstance(factor, Real) or not math.isfinite(factor):
            raise TypeError(
                f"a target is multiplied and divided by a finite number, not by {factor!r}"
            )
    weights, terms = _weights_and_terms(target)
    weights = tuple(weight * float(number) / float(divisor) for weight in weights)
    if weights == (1.0,) and isinstance(terms[0], Target):
        # -(-t) is t itself.
        return terms[0]
    return Combination(terms, weights)


def _resolved(value: Any, outputs: Outputs) -> Any:
    """A field's value with its targets resolved; the same object if none of them changes."""
    if isinstance(value, Target):
        return value.resolve(outputs)
    if isinstance(value, tuple):
        items = tuple(_resolved(item, outputs) for item in value)
        if any(new is not old for new, old in zip(items, value)):
            return items
    return value


def _comparable(array: Array) -> np.ndarray:
    """An array of the same bytes for the same numbers, whatever their framework and dtype."""
    # Adding 0.0 makes -0.0 positive.
    return to_numpy(array).astype(np.float64) + 0.0


def _in_brackets(target: Any) -> str:
    """A term as text, with brackets round a sum."""
    if isinstance(target, Combination):
        return f"({target!r})"
    return _text(target)


def _text(value: Any) -> str:
    """A field's value for a message: a small array by its numbers, a large one by its shape."""
    if not is_array_api_obj(value):
        return str(getattr(value, "__name__", repr(value)))
    array: Array = value
    if math.prod(array.shape) <= 16:
        try:
            return _listed(to_numpy(array))
        except TypeError:
            # A tracer: only the running program knows its numbers.
            pass
    return f"<{str(array.dtype).removeprefix('torch.')} {tuple(array.shape)}>"


def _listed(array: np.ndarray) -> str:
    if array.ndim == 0:
        return str(array[()])
    return f"[{', '.join(map(_listed, array))}]"


# ------------------------------------------------------------------ arrays and structure


def split(target: Any) -> tuple[tuple[Array, ...], Any]:
    """A target as its arrays and its structure, which can be hashed. `join` is the inverse."""
    arrays: list[Array] = []
    structure = _split(target, arrays)
    return tuple(arrays), structure


def _split(value: Any, arrays: list[Array]) -> Any:
    """The structure of a value. Its arrays are appended to `arrays`, in the order of the slots."""
    if is_array_api_obj(value):
        arrays.append(value)
        return _Slot()
    if isinstance(value, tuple):
        return _Node(tuple, tuple(_split(item, arrays) for item in value))
    if dataclasses.is_dataclass(value) and isinstance(value, Target):
        children = []
        for field in dataclasses.fields(value):
            children.append(_split(getattr(value, field.name), arrays))
        return _Node(type(value), tuple(children))
    return keyed(value)


def join(arrays: Sequence[Array], structure: Any) -> Any:
    """The target that `split` took apart, with these arrays in its slots."""
    return _join(iter(arrays), structure)


def _join(arrays: Iterator[Array], structure: Any) -> Any:
    if isinstance(structure, _Slot):
        return next(arrays)
    if not isinstance(structure, _Node):
        return structure
    children = [_join(arrays, child) for child in structure.children]
    if structure.type is tuple:
        return tuple(children)
    return structure.type(*children)


@dataclasses.dataclass(frozen=True)
class _Slot:
    """The position of an array."""


@dataclasses.dataclass(frozen=True)
class _Node:
    """A target or tuple: its type and the structures of its fields or items."""

    type: type
    children: tuple[Any, ...]
