"""Scores of many variants of the input in few passes: Score-CAM's masked images.

Variants (M, N, ...) of an input (N, ...) run as batches of several variants each. Two things make
these passes fast on a CPU: the memory format `channels_last`, and tensors small enough for the
allocator to keep their pages.

For example, let the network's largest tensor take 5 MiB for one variant of 2 images. Ten variants
then run as one variant, which is measured, and as batches of 6 and 3 (31.9 MiB // 5 MiB = 6), that
is as batches of 2, 12 and 6 images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import TensorWeakRef

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.torch.modes import force_eager, no_graph
from gradcam.inputs import first_array
from gradcam.model import Scorer, merged_scores

__all__ = ["LIMIT", "input_scorer"]

LIMIT = (32 << 20) - (1 << 16)
"""Bytes of the largest tensor that a pass should make on a CPU.

This is a little below glibc's largest `M_MMAP_THRESHOLD`. The allocator returns a larger tensor's
memory to the system after each operation, and the next operation waits for fresh, zeroed pages.
"""


def input_scorer(
    module: torch.nn.Module,
    forward: Callable[[Inputs], Outputs],
    inputs: Inputs,
    target: Callable[[Outputs], Array],
) -> Scorer:
    """Variants (M, N, ...) of the input -> scores (M, N) or (M, N, K).

    On a CPU no pass makes a tensor of more than `LIMIT` bytes, unless one variant alone does.
    """
    passes = _Passes(module, forward, inputs)

    def score(variants: torch.Tensor) -> Array:
        with no_graph(), force_eager():
            if variants.device.type != "cpu":
                return merged_scores(passes.run, target, variants)
            scores = []
            if passes.variants_at_once is None:
                scores.append(merged_scores(passes.run_measured, target, variants[:1]))
                variants = variants[1:]
            for batch in variants.split(passes.variants_at_once):
                if len(batch):  # one variant alone leaves an empty batch
                    scores.append(merged_scores(passes.run, target, batch))
            return torch.cat(scores)

    array = first_array(inputs)
    if array.ndim == 4:
        # variants are products with this array, so they inherit its memory format
        array = array.contiguous(memory_format=torch.channels_last)
    return Scorer(score, array)


class _Passes:
    """Runs batches of variants, and learns from the first how many to run at once."""

    def __init__(
        self, module: torch.nn.Module, forward: Callable[[Inputs], Outputs], inputs: Inputs
    ) -> None:
        self._module = module
        self._forward = forward
        self._inputs = inputs
        self._channels_last = True
        self.variants_at_once: int | None = None

    def run(self, merged: torch.Tensor) -> Outputs:
        """The outputs for several variants, merged to one batch (M N, ...)."""
        if self._channels_last and merged.ndim == 4:
            try:
                return self._run(merged.contiguous(memory_format=torch.channels_last))
            except RuntimeError:  # such as `view` in the model's code, which forbids this format
                self._channels_last = False
        return self._run(merged.contiguous())

    def run_measured(self, merged: torch.Tensor) -> Outputs:
        """`run` of one variant, which sets `variants_at_once`."""
        largest = _LargestTensor(self._module)
        try:
            with largest:
                outputs = self.run(merged)
        except Exception:
            # Some operators fail in a dispatch mode: run without. A model's own error comes again.
            self._channels_last = True
            self.variants_at_once = sys.maxsize
            return self.run(merged)
        self.variants_at_once = max(1, LIMIT // largest.nbytes)
        return outputs

    def _run(self, merged: torch.Tensor) -> Outputs:
        return self._forward(_repeated(self._inputs, merged))


class _LargestTensor(TorchDispatchMode):
    """Measures the largest tensor that a pass makes of its input, as `nbytes`.

    Tensors made of parameters and buffers alone, or of nothing, do not grow with the batch and are
    not counted.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.nbytes = 1
        # By identity, with weak references: a later tensor may get the id of one that is gone.
        self._constants: dict[int, TensorWeakRef] = {}
        self._add_constants([*module.parameters(), *module.buffers()])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        results = _tensors(result)
        if all(self._is_constant(tensor) for tensor in _tensors((args, kwargs))):
            self._add_constants(results)
        elif not any(returned.alias_info for returned in func._schema.returns):
            # A view, or a result written in place, takes no memory of its own.
            for tensor in results:
                if tensor.layout is torch.strided:
                    self.nbytes = max(self.nbytes, tensor.nbytes)
        return result

    def _add_constants(self, tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            self._constants[id(tensor)] = TensorWeakRef(tensor)

    def _is_constant(self, tensor: torch.Tensor) -> bool:
        reference = self._constants.get(id(tensor))
        return reference is not None and reference() is tensor


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _repeated(inputs: Inputs, merged: torch.Tensor) -> Inputs:
    """The inputs with `merged` in place of the first array, and the other arrays repeated."""
    first = first_array(inputs)
    samples = first.shape[0]
    count = merged.shape[0] // samples

    def repeat(value: Any) -> Any:
        if value is first:
            return merged
        if isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == samples:
            return value.repeat(count, *[1] * (value.ndim - 1))
        return value

    return tree_map(repeat, inputs)
