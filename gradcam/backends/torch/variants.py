"""Scores of many variants of the input in few passes: Score-CAM's masked images.

Variants (M, N, ...) of an input (N, ...) run as batches of several variants each, once it is proved
that a batch gives the scores of each variant alone (`gradcam.backends.proof`). On a CPU tensors are
kept small enough for the allocator to keep their pages.

For example, let the network's largest tensor take 5 MiB for one variant of 2 images. Ten variants
then run as one variant, which is measured, a proof of two, and batches of 6 and 3 (31.9 MiB // 5
MiB = 6), that is as batches of 2, 4, 12 and 6 images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import TensorWeakRef

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.proof import Together
from gradcam.backends.torch.modes import DispatchMode, undisturbed
from gradcam.inputs import first_array, with_first_array
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
    passes = _Passes(module, forward, inputs, target)
    scores = Together(passes.alone, passes.together, lambda: passes.at_once)
    return Scorer(undisturbed(scores.__call__))


class _Passes:
    """Runs one variant or several, and learns from the first how many to run at once."""

    def __init__(
        self,
        module: torch.nn.Module,
        forward: Callable[[Inputs], Outputs],
        inputs: Inputs,
        target: Callable[[Outputs], Array],
    ) -> None:
        self._module = module
        self._forward = forward
        self._inputs = inputs
        self._target = target
        self._measured = first_array(inputs).device.type != "cpu"
        self.at_once = sys.maxsize

    def alone(self, variant: torch.Tensor) -> Array:
        """Scores of one variant (N, ...), with all other inputs as they are."""
        inputs = with_first_array(self._inputs, self._laid_out(variant))
        if self._measured:
            return self._target(self._forward(inputs))
        self._measured = True
        largest = _LargestTensor(self._module)
        try:
            with largest:
                outputs = self._forward(inputs)
        except Exception:
            # Some operators fail in a dispatch mode: run without. A model's own error comes again.
            outputs = self._forward(inputs)
        else:
            self.at_once = max(1, LIMIT // largest.nbytes)
        return self._target(outputs)

    def together(self, variants: torch.Tensor) -> Array:
        """Scores of variants (M, N, ...) as one batch, with the other inputs repeated."""
        count, samples = variants.shape[:2]

        def repeated(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == samples:
                return value.repeat(count, *[1] * (value.ndim - 1))
            return value

        others = tree_map(repeated, self._inputs)

        def run(merged: torch.Tensor) -> Outputs:
            return self._forward(with_first_array(others, self._laid_out(merged)))

        return merged_scores(run, self._target, variants)

    def _laid_out(self, array: torch.Tensor) -> torch.Tensor:
        """The array in the memory format of the user's own."""
        own = first_array(self._inputs)
        formats = [torch.contiguous_format]
        if own.ndim == 4:
            formats.append(torch.channels_last)
        for memory_format in formats:
            if own.is_contiguous(memory_format=memory_format):
                return array.contiguous(memory_format=memory_format)
        return array.contiguous()


class _LargestTensor(DispatchMode):
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
