"""Many variants of the input through a PyTorch model, in the way that takes the least time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import TensorWeakRef

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.torch.states import quiet, uncompiled
from gradcam.inputs import first_array
from gradcam.model import Scorer, merged_scores

__all__ = ["LIMIT", "input_scorer"]

LIMIT = (32 << 20) - (1 << 16)
"""Bytes of the largest tensor that a pass should make on a CPU: a little less than glibc's largest `M_MMAP_THRESHOLD`.

What is larger goes back to the system after each operation, and the next one waits for pages that are cleared anew.
"""

_CONVOLUTION = torch.ops.aten.convolution.default
_BATCH_NORM = torch.ops.aten.native_batch_norm.default


def input_scorer(
    module: torch.nn.Module,
    forward: Callable[[Inputs], Outputs],
    inputs: Inputs,
    target: Callable[[Outputs], Array],
) -> Scorer:
    """Variants (M, N, ...) of the input run as few batches, on a CPU no larger than `LIMIT` has it.

    The first pass is watched; in the others batch norms are part of the convolutions before them. Where the model does
    not bear being watched, or does otherwise later, its passes are run as they are.
    """
    own = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    swift, together = True, 0
    table: dict[int, _Folding] = {}

    def formatted(
        merged: torch.Tensor, mode: Callable[[], Any] = contextlib.nullcontext
    ) -> tuple[Outputs, Any]:
        nonlocal swift
        # convolutions of many samples take less time in this memory format, which some models' code forbids
        if swift and merged.ndim == 4:
            try:
                with mode() as entered:
                    return forward(
                        _repeated(inputs, merged.contiguous(memory_format=torch.channels_last))
                    ), entered
            except RuntimeError:
                swift = False
        with mode() as entered:
            return forward(_repeated(inputs, merged.contiguous())), entered

    def watched(merged: torch.Tensor) -> Outputs:
        nonlocal swift, together, table
        try:
            outputs, watch = formatted(merged, lambda: _Watch(own))
            together, table = max(1, LIMIT // watch.nbytes), watch.foldings()
            return outputs
        except Exception:  # the model's own error comes again
            swift, together = True, sys.maxsize
            return formatted(merged)[0]

    def run(merged: torch.Tensor) -> Outputs:
        nonlocal swift, table
        if table:
            before = swift
            with contextlib.suppress(Exception):
                outputs, folded = formatted(merged, lambda: _Folded(table))
                if folded.arrived():
                    return outputs
            swift, table = before, {}
        return formatted(merged)[0]

    def score(variants: torch.Tensor) -> Array:
        nonlocal together
        with quiet(), uncompiled():
            if variants.device.type != "cpu":
                return merged_scores(lambda merged: formatted(merged)[0], target, variants)
            found = []
            if not together:
                found.append(merged_scores(watched, target, variants[:1]))
                variants = variants[1:]
            found += [
                merged_scores(run, target, some) for some in variants.split(together) if len(some)
            ]
            return torch.cat(found)

    array = first_array(inputs)
    # the variants, products with it, then have this format from the start
    return Scorer(
        score, array.contiguous(memory_format=torch.channels_last) if array.ndim == 4 else array
    )


@dataclass
class _Made:
    """What a convolution made, of which weight and bias, and what else the batch norms took that took it."""

    made: TensorWeakRef
    weight: torch.Tensor
    bias: torch.Tensor | None
    transposed: bool
    users: list[tuple[Any, ...] | None] = field(default_factory=list)  # None: something else


@dataclass(frozen=True)
class _Folding:
    """A convolution's own bias, its batch norm's own arguments, and the weight and bias that stand for both."""

    own: torch.Tensor | None
    norm: tuple[Any, ...]
    weight: torch.Tensor
    bias: torch.Tensor


class _Watch(TorchDispatchMode):
    """Notes of one pass how large a tensor it makes of the input, and which convolutions go to a batch norm alone.

    What reads a tensor past PyTorch's operations is not seen: another thread, DLPack, a kernel with a raw pointer.
    """

    def __init__(self, own: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.nbytes = 1
        self._own = own
        self._constant: dict[
            int, TensorWeakRef
        ] = {}  # made of the model's own tensors, or of nothing
        self._all: list[_Made] = []
        self._latest: dict[int, _Made] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        constant = True
        for n, leaf in enumerate(_arguments(args, kwargs)):
            if not isinstance(leaf, torch.Tensor):
                continue
            constant = constant and (
                self._own.get(id(leaf)) is leaf or _is(self._constant.get(id(leaf)), leaf)
            )
            entry = self._latest.get(id(leaf))
            if entry is not None and entry.made() is leaf:
                entry.users.append(args[1:] if func is _BATCH_NORM and n == 0 else None)
        if func is _CONVOLUTION:
            entry = _Made(TensorWeakRef(result), args[1], args[2], args[6])
            self._all.append(entry)
            self._latest[id(result)] = entry
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if constant:
            self._constant |= {id(leaf): TensorWeakRef(leaf) for leaf in made}
        elif not any(
            one.alias_info for one in func._schema.returns
        ):  # else it is a view, or written in place
            self.nbytes = max(
                [self.nbytes, *(leaf.nbytes for leaf in made if leaf.layout is torch.strided)]
            )
        return result

    def foldings(self) -> dict[int, _Folding]:
        """By the identity of a convolution's weight; called while the outputs are still there."""
        found = {}
        for entry in self._all:
            weight, bias = entry.weight, entry.bias
            again = sum(other.weight is weight for other in self._all) > 1
            # of what is still there something else may read the values
            if again or entry.transposed or len(entry.users) != 1 or entry.made() is not None:
                continue
            norm = entry.users[0]
            if norm is None:
                continue
            gain, shift, mean, variance, training, _, epsilon = norm
            parts: list[torch.Tensor] = [
                one for one in (weight, bias, gain, shift, mean, variance) if one is not None
            ]
            if training or mean is None:
                continue
            if any(
                self._own.get(id(part)) is not part or part.dtype != weight.dtype for part in parts
            ):
                continue
            if any(type(part) not in (torch.Tensor, torch.nn.Parameter) for part in parts):
                continue
            scale = (variance.double() + epsilon).rsqrt() * (1 if gain is None else gain.double())
            offset = ((0 if bias is None else bias.double()) - mean.double()) * scale
            offset = offset + (0 if shift is None else shift.double())
            wide = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
            found[id(weight)] = _Folding(bias, norm, wide.to(weight.dtype), offset.to(weight.dtype))
        return found


class _AstrayError(Exception):
    """The model took another way than in the pass that was watched."""


class _Folded(TorchDispatchMode):
    """One pass with batch norms inside the convolutions before them: equal up to rounding."""

    def __init__(self, table: dict[int, _Folding]) -> None:
        super().__init__()
        self._table = table
        self._due: dict[
            int, tuple[torch.Tensor, _Folding]
        ] = {}  # made, but not yet come to its batch norm
        self._past: dict[int, TensorWeakRef] = {}  # what came to it, which nothing may read after
        self._astray = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _CONVOLUTION:
            folding = self._table.get(id(args[1]))
            if folding is not None and args[2] is folding.own:
                made = func(args[0], folding.weight, folding.bias, *args[3:])
                self._due[id(made)] = made, folding
                return made
        if func is _BATCH_NORM and id(args[0]) in self._due:
            made, folding = self._due[id(args[0])]
            same = [one is other for one, other in zip(args[1:5], folding.norm[:4], strict=True)]
            if all(same) and args[5:] == folding.norm[4:]:
                del self._due[id(made)]
                self._past[id(made)] = TensorWeakRef(made)
                empty = made.new_empty(0)  # the statistics, where it does not train
                return torch.ops.aten.alias(made), empty, empty
        for leaf in _arguments(args, kwargs):
            if id(leaf) in self._due or _is(self._past.get(id(leaf)), leaf):
                self._astray = True
                raise _AstrayError
        return func(*args, **(kwargs or {}))

    def arrived(self) -> bool:
        """Whether every output of a folded convolution came to its batch norm, and nothing has it any more."""
        return (
            not self._due
            and not self._astray
            and all(past() is None for past in self._past.values())
        )


def _is(reference: TensorWeakRef | None, leaf: Any) -> bool:
    return reference is not None and reference() is leaf


def _arguments(args: Any, kwargs: Any) -> Iterator[Any]:
    """What an operation takes; its schema allows lists of tensors, and nothing deeper."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _repeated(inputs: Inputs, merged: torch.Tensor) -> Inputs:
    """The inputs of a batch of variants: `merged` in the first array's place, the others repeated to its length."""
    samples = first_array(inputs).shape[0]
    count = merged.shape[0] // samples

    def repeat(value: Any) -> Any:
        batched = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == samples
        return value.repeat(count, *[1] * (value.ndim - 1)) if batched else value

    first = first_array(inputs)
    return tree_map(lambda value: merged if value is first else repeat(value), inputs)
