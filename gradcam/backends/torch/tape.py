"""The operations of one forward pass behind a layer, recorded to run them alone.

Ablation-CAM asks for the scores of many variants of a layer's activations. While the model runs
once, a tape records the ATen operations that depend on the layer's output. It keeps every other
tensor that they read as a constant. For a layer whose output is averaged and goes to a linear head:

    a = layer(x)              tape.start(a): slot 0
    b = a.mean((2, 3))        step: mean.dim(slot 0, [2, 3]) -> slot 1
    w = weight.t()            not recorded: it does not depend on the layer
    y = addmm(bias, b, w)     step: addmm(constant, slot 1, constant) -> slot 2
                              tape.end(y): the outputs are slot 2

The steps then run under `torch.vmap`: variants (M, N, C, H, W) of `a` give scores (M, N). Shapes in
the model's code stay those of N samples, and nothing below the layer runs again. Because this head
reads only a mean of `a`, variants (M, N, C, 1, 1) of the mean give the same scores, from slot 1 on.

A recording cannot be trusted if the model's code read a number, on which it may have branched, or
wrote into a constant. What it computed elsewhere, as in NumPy or in another thread, the tape takes
for a constant. So the steps are believed once they have given the score of one changed variant
that a replay of the model gives. Otherwise all variants are replayed, one at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from gradcam._arrays import agree
from gradcam.backends.torch.modes import DispatchMode, undisturbed
from gradcam.model import Scorer

__all__ = ["Tape"]

Scores = Callable[[torch.Tensor], torch.Tensor]
"""Variants (M, N, ...) -> scores (M, N) or (M, N, K)."""

_LOG = logging.getLogger("gradcam")


class _Slot:
    """In a recorded argument, the position of a tensor that depends on the layer."""

    def __init__(self, index: int) -> None:
        self.index = index


@dataclass(frozen=True)
class _Step:
    """An operation, its arguments with slots in them, and the slots of its results."""

    function: Any
    args: Any
    kwargs: Any
    slots: list[int]


@dataclass(frozen=True)
class _Mean:
    """The step that takes the layer's mean, its axes in (N, ...), and whether it keeps them."""

    step: _Step
    axes: tuple[int, ...]
    keepdim: bool


class Tape(DispatchMode):
    """Records each operation that depends on the layer's output, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[_Step] = []
        self._slots: dict[int, int] = {}  # by the tensor's address
        self._alive: list[torch.Tensor] = []  # so that no address is used twice
        self._outputs: tuple[list[Any], Any] = ([], None)
        self._sound = True
        self._writes = False

    # --------------------------------------------------------------------------------- recording

    def start(self, value: torch.Tensor) -> torch.Tensor:
        """Take this tensor as the layer's output; the model is to go on with what is returned.

        A plain tensor: what a subclass of `torch.Tensor` wraps is not what the dispatcher sees.
        """
        value = value.as_subclass(torch.Tensor).clone()
        self._slot(value)
        return value

    def end(self, outputs: Any) -> None:
        """Take these as the model's outputs."""
        leaves, spec = tree_flatten(outputs)
        self._outputs = ([self._recorded(leaf) for leaf in leaves], spec)
        self._first = self._alive[0]
        self._alive = [self._first]
        self._slots = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._slots:  # else the layer has not run yet
            leaves = tree_leaves((args, kwargs))
            if any(map(self._depends, leaves)):
                if func._schema.is_mutable:
                    self._writes = True
                    # a constant that is written into has another value in the next run
                    self._sound &= self._depends(leaves[0])
                self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        args = tree_map(self._recorded, args)
        kwargs = tree_map(self._recorded, kwargs)
        slots = []
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                slots.append(self._slot(leaf))
            else:
                slots.append(-1)
                # a number, on which the model's code may have branched
                self._sound &= leaf is None
        self._steps.append(_Step(func, args, kwargs, slots))

    def _depends(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value._cdata in self._slots

    def _recorded(self, value: Any) -> Any:
        return _Slot(self._slots[value._cdata]) if self._depends(value) else value

    def _slot(self, tensor: torch.Tensor) -> int:
        if tensor._cdata not in self._slots:
            self._slots[tensor._cdata] = len(self._alive)
            self._alive.append(tensor)
        return self._slots[tensor._cdata]

    # ----------------------------------------------------------------------------------- running

    def scorer(self, target: Callable[[Any], torch.Tensor], replayed: Scores) -> Scorer:
        """Scores of variants of the layer's output, by `replayed` unless the tape proves itself."""
        if not self._sound:
            _LOG.debug("variants are replayed: the model's code reads numbers, or writes")
            return Scorer(replayed)
        changed = self._changed()
        scores = _batched(lambda value: target(self._run(value)))
        # Before the replay, in which the model may write other values into what the tape reads.
        found = _found(scores, changed)
        if found is None:
            return Scorer(replayed)
        expected = replayed(changed[None])
        if not _proved(found, expected):
            return Scorer(replayed)
        mean = self._mean()
        if mean is None:
            return Scorer(scores)

        def score_of_mean(value: torch.Tensor) -> torch.Tensor:
            if not mean.keepdim:
                value = value.squeeze(mean.axes)
            return target(self._run(value, mean.step))

        averaged = _batched(score_of_mean)
        if not _proved(_found(averaged, changed.mean(mean.axes, keepdim=True)), expected):
            return Scorer(scores)
        return Scorer(scores, mean.axes, averaged)

    def _changed(self) -> torch.Tensor:
        """The layer's output with about half of its elements at 0, and the others scaled."""
        random = torch.Generator().manual_seed(0)
        factors = torch.rand(self._first.shape, generator=random, dtype=torch.float64) * 3 - 1.5
        return self._first * factors.clamp(min=0).to(self._first)

    def _run(self, value: torch.Tensor, skipped: _Step | None = None) -> Any:
        """The outputs for another value of the layer's output, or of the skipped step's result."""
        if self._writes:  # in place, maybe into the layer's output
            value = value.clone()
        values: dict[int, Any] = {0 if skipped is None else skipped.slots[0]: value}

        def current(leaf: Any) -> Any:
            return values[leaf.index] if isinstance(leaf, _Slot) else leaf

        for step in self._steps:
            if step is not skipped:
                args = tree_map(current, step.args)
                kwargs = tree_map(current, step.kwargs)
                results = tree_leaves(step.function(*args, **kwargs))
                values.update(zip(step.slots, results, strict=True))
        leaves, spec = self._outputs
        return tree_unflatten([current(leaf) for leaf in leaves], spec)

    def _mean(self) -> _Mean | None:
        """The mean over axes other than N, if the head reads nothing else of the layer."""
        users = [step for step in self._steps if _reads_layer((step.args, step.kwargs))]
        if len(users) != 1 or _reads_layer(self._outputs[0]):
            return None
        (step,) = users
        if step.function is not torch.ops.aten.mean.dim or step.kwargs:  # kwargs: another dtype
            return None
        _, dims, *keepdim = step.args
        axes = tuple(sorted(dim % self._first.ndim for dim in dims or ()))
        if not axes or 0 in axes:  # no axes mean all of them
            return None
        return _Mean(step, axes, bool(keepdim and keepdim[0]))


def _batched(score: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
    """`score`, of one variant, for many at once."""
    return undisturbed(torch.vmap(score))


def _found(scores: Scores, variant: torch.Tensor) -> torch.Tensor | None:
    """The scores of one variant; None where an operation or the target cannot be batched."""
    try:
        return scores(variant[None])
    except Exception as error:
        _LOG.debug("the operations behind the layer cannot be batched: %s", error)
        return None


def _proved(found: torch.Tensor | None, expected: torch.Tensor) -> bool:
    """Whether the scores of a variant are those that a replay of the model gives."""
    if found is None:
        return False
    proved = agree(found, expected)
    if not proved:
        _LOG.debug("the operations behind the layer, run alone, give another score than the model")
    return proved


def _reads_layer(tree: Any) -> bool:
    """Whether the layer's own output, slot 0, is among the leaves."""
    return any(isinstance(leaf, _Slot) and leaf.index == 0 for leaf in tree_leaves(tree))
