"""Many variants of the input through a PyTorch model, in the way that takes the least time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.torch_states import quiet
from gradcam.model import Scorer, first_array, merged_scores

__all__ = ["LIMIT", "input_scorer"]

LIMIT = 32 << 20
"""Bytes of the largest tensor that a pass should make on a CPU: glibc's largest `M_MMAP_THRESHOLD`.

What is larger goes back to the system after each operation, and the next one waits for pages that are cleared anew.
"""

_CONVOLUTION = torch.ops.aten.convolution.default
_BATCH_NORM = torch.ops.aten.native_batch_norm.default

_Affine = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def input_scorer(forward: Callable[[Inputs], Outputs], inputs: Inputs, target: Callable[[Outputs], Array]) -> Scorer:
    """Variants (M, N, ...) of the input run as few batches, on a CPU no larger than `LIMIT` has it."""
    swift, together, folded = True, 0, _Folded({})

    def formatted(merged: torch.Tensor) -> Outputs:
        nonlocal swift
        # convolutions of many samples take less time in this memory format, which some models' code forbids
        if swift and merged.ndim == 4:
            try:
                return forward(_repeated(inputs, merged.contiguous(memory_format=torch.channels_last)))
            except RuntimeError:
                swift = False
        return forward(_repeated(inputs, merged.contiguous()))

    def watched(merged: torch.Tensor) -> Outputs:
        nonlocal together, folded
        with _Watch() as watch:
            outputs = formatted(merged)
        together, folded = max(1, LIMIT // watch.nbytes), _Folded(watch.foldable(outputs))
        return outputs

    def run(merged: torch.Tensor) -> Outputs:
        nonlocal folded
        if folded.table:
            try:
                with folded:
                    outputs = formatted(merged)
            except _AstrayError:
                outputs = None
            if folded.arrived():
                return outputs
            folded = _Folded({})
        return formatted(merged)

    def score(variants: torch.Tensor) -> Array:
        with quiet():
            if variants.device.type != "cpu":
                return merged_scores(formatted, target, variants)
            found = []
            if not together:
                found.append(merged_scores(watched, target, variants[:1]))
                variants = variants[1:]
            found += [merged_scores(run, target, some) for some in variants.split(together) if len(some)]
            return torch.cat(found)

    array = first_array(inputs)
    # the variants, products with it, then have this format from the start
    return Scorer(score, array.contiguous(memory_format=torch.channels_last) if array.ndim == 4 else array)


class _Watch(TorchDispatchMode):
    """Notes of one pass the bytes of the largest tensor made, and which convolutions go to a batch norm alone."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 1
        self._made: dict[int, tuple[torch.Tensor, tuple[Any, ...]]] = {}  # what each convolution made, and from what
        self._users: dict[int, list[tuple[Any, ...] | None]] = {}  # the arguments of batch norms, None for others
        self._times: dict[int, int] = {}  # how often a weight was used

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for n, leaf in enumerate(_arguments(args, kwargs)):
            if id(leaf) in self._made:
                normed = func is _BATCH_NORM and n == 0
                self._users.setdefault(id(leaf), []).append(args if normed else None)
        if func is _CONVOLUTION:
            self._made[id(result)] = result, args
            self._times[id(args[1])] = self._times.get(id(args[1]), 0) + 1
        if not any(one.alias_info for one in func._schema.returns):  # else it is a view, or written in place
            self.nbytes = max([self.nbytes, *(leaf.nbytes for leaf in _tensors(result))])
        return result

    def foldable(self, outputs: Outputs) -> dict[int, _Affine]:
        """By the identity of a convolution's weight: weight and bias with the batch norm in them, and its mean."""
        found, shown = {}, {id(leaf) for leaf in tree_leaves(outputs)}
        for key, (made, (_, weight, bias, _, _, _, transposed, *_)) in self._made.items():
            users = self._users.get(key, [])
            if len(users) != 1 or users[0] is None or key in shown or transposed or self._times[id(weight)] != 1:
                continue
            _, gain, shift, mean, variance, training, _, epsilon = users[0]
            parts = [weight, *(part for part in (bias, gain, shift, mean, variance) if part is not None)]
            if training or mean is None or any(part.dtype != made.dtype for part in parts):
                continue
            if any(type(part) not in (torch.Tensor, torch.nn.Parameter) for part in parts):
                continue
            scale = (variance.double() + epsilon).rsqrt() * (1 if gain is None else gain.double())
            offset = ((0 if bias is None else bias.double()) - mean.double()) * scale
            offset = offset + (0 if shift is None else shift.double())
            wide = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
            found[id(weight)] = (wide.to(weight.dtype), offset.to(weight.dtype), mean)
        return found


class _AstrayError(Exception):
    """The model took another way than in the pass that was watched."""


class _Folded(TorchDispatchMode):
    """Passes with each batch norm of `table` inside the convolution before it: equal up to rounding."""

    def __init__(self, table: dict[int, _Affine]) -> None:
        super().__init__()
        self.table = table
        self._due: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # made, but not yet come to its batch norm
        self._past: dict[int, weakref.ref[torch.Tensor]] = {}  # what came to it, which nothing may take after
        self._astray = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _CONVOLUTION and id(args[1]) in self.table:
            weight, bias, mean = self.table[id(args[1])]
            made = func(args[0], weight, bias, *args[3:])
            self._due[id(made)] = made, mean
            return made
        if func is _BATCH_NORM and id(args[0]) in self._due and self._due[id(args[0])][1] is args[3]:
            made, mean = self._due.pop(id(args[0]))
            self._past[id(made)] = weakref.ref(made)
            empty = mean.new_empty(0)  # the statistics, where it does not train
            return torch.ops.aten.alias(made), empty, empty
        for leaf in _arguments(args, kwargs):
            past = self._past.get(id(leaf))
            if id(leaf) in self._due or (past is not None and past() is leaf):
                self._astray = True
                raise _AstrayError
        return func(*args, **(kwargs or {}))

    def arrived(self) -> bool:
        """Whether every convolution's output of a pass came to its batch norm, and nowhere else; ends the pass."""
        whole = not self._due and not self._astray
        self._past.clear()
        return whole


def _arguments(args: Any, kwargs: Any) -> Iterator[Any]:
    """What an operation takes; its schema allows lists of tensors, and nothing deeper."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _repeated(inputs: Inputs, merged: torch.Tensor) -> Inputs:
    """The inputs of a batch of variants: `merged` in the first array's place, the others repeated to its length."""
    samples = first_array(inputs).shape[0]
    count = merged.shape[0] // samples

    def repeat(value: Any) -> Any:
        batched = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == samples
        return value.repeat(count, *[1] * (value.ndim - 1)) if batched else value

    first = first_array(inputs)
    return tree_map(lambda value: merged if value is first else repeat(value), inputs)
