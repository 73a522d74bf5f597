"""Layers inside `torch.vmap` and the transforms of `torch.func`.

There a tensor is a wrapper, which is dead when the transform ends. The tap gets the tensor that is
wrapped, outside of all transforms, and what it returns is wrapped as the layer's output was:

    torch.vmap over N samples   (C, H, W), a wrapper   ->   (N, C, H, W), as any layer gives it
    torch.func.grad             a wrapper with a graph of its own, through which it still goes
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

__all__ = ["hidden_by_transforms", "inside_transforms"]

Tap = Callable[[str, torch.Tensor], torch.Tensor]


def inside_transforms(tap: Tap, path: str, value: torch.Tensor) -> torch.Tensor:
    """`tap(path, value)`, for a value inside of any transforms, or none."""
    if functorch.peek_interpreter_stack() is None:
        return tap(path, value)
    if not functorch.is_functorch_wrapped_tensor(value):
        with temporarily_clear_interpreter_stack():
            return tap(path, value)
    inner = functorch.get_unwrapped(value)
    if functorch.is_batchedtensor(value):
        samples_first = inner.movedim(functorch.maybe_get_bdim(value), 0)
        tapped = inside_transforms(tap, path, samples_first)
        return functorch._add_batch_dim(tapped, 0, functorch.maybe_get_level(value))
    # exactly 0, and as a function of `value` alone a derivative of 1 in the transform
    return inside_transforms(tap, path, inner) + (value - inner)


def hidden_by_transforms() -> str:
    """The end of an error's sentence where the user's own transform hides a graph; else empty."""
    if functorch.peek_interpreter_stack() is None:
        return ""
    return "; torch.vmap and torch.func keep graphs of their own: explain outside of them"
