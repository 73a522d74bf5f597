"""The modes of a thread, which are as they were when a call of a backend ends: `undisturbed`.

Ctrl-C may strike at any instant, at the start of an `__exit__` too, which then does nothing. So the
end of a call restores all that PyTorch keeps for a thread, and ends the sessions that are left. It
does so twice, because the first time may be what was interrupted.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, Self, TypeVar

import torch
from torch._C import _functorch as functorch
from torch.overrides import TorchFunctionMode
from torch.overrides import _push_mode as _push_function_mode
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode
from torch.utils._pytree import tree_map

from gradcam.backends.torch.sessions import Session

__all__ = [
    "DispatchMode",
    "FunctionMode",
    "IgnoreNoGrad",
    "normal_tensors",
    "pop_function_modes",
    "undisturbed",
]

P = ParamSpec("P")
T = TypeVar("T")


_BATCHED: Any = torch._C._parse_dispatch_key("VmapMode")
"""In the thread's state while `torch.autograd.grad` runs with `is_grads_batched`."""


class _ThreadState:
    """What PyTorch keeps for each thread: the modes that it is in. And its sessions."""

    def __init__(self) -> None:
        self._session = Session.innermost()
        self._transforms = functorch.get_dynamic_layer_stack_depth()
        self._batched_backward = torch._C._dispatch_tls_is_dispatch_key_included(_BATCHED)
        self._function_modes = torch._C._len_torch_function_stack()
        self._dispatch_modes = torch._C._len_torch_dispatch_stack()
        self._saving = _saved_tensors_hooks()
        self._grad = torch.is_grad_enabled()
        self._no_inference = (
            torch.inference_mode(False) if torch.is_inference_mode_enabled() else None
        )

    def leave_inference_mode(self) -> None:
        """No later graph could keep tensors that are made in that mode."""
        if self._no_inference is not None:
            self._no_inference.__enter__()

    def restore(self) -> None:
        if functorch.get_dynamic_layer_stack_depth() > self._transforms:
            functorch.pop_dynamic_layer_stack_and_undo_to_depth(self._transforms)
        while torch._C._dispatch_tls_is_dispatch_key_included(_BATCHED) > self._batched_backward:
            torch._C._vmapmode_decrement_nesting()
        session = Session.innermost()
        while session is not None and session is not self._session:
            session.end()
            session = Session.innermost()
        pop_function_modes(self._function_modes)
        _pop_dispatch_modes(self._dispatch_modes)
        while _saved_tensors_hooks() not in (None, self._saving):
            torch._C._autograd._pop_saved_tensors_default_hooks()
        if self._no_inference is not None and not torch.is_inference_mode_enabled():
            self._no_inference.__exit__(None, None, None)
        torch._C._set_grad_enabled(self._grad)


def _saved_tensors_hooks() -> Any:
    """The innermost, such as those of activation checkpointing."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def pop_function_modes(count: int) -> None:
    """All but the lowest `count`."""
    while torch._C._len_torch_function_stack() > count:
        torch._C._pop_torch_function_stack()


def _pop_dispatch_modes(count: int) -> None:
    while torch._C._len_torch_dispatch_stack() > count:
        _pop_mode()


def undisturbed(call: Callable[P, T]) -> Callable[P, T]:
    """Run outside of the caller's `inference_mode`, and without a graph. Afterwards the thread is
    in the modes that it was in, whatever raised, and wherever an interrupt struck.
    """

    @functools.wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        before = _ThreadState()
        try:
            try:
                before.leave_inference_mode()
                torch._C._set_grad_enabled(False)
                return call(*args, **kwargs)
            except (KeyboardInterrupt, SystemExit) as interrupt:
                # What is suspended in its frames, such as PyTorch's `_pop_mode_temporarily`, would
                # end, and set modes, only when the user lets go of the traceback.
                traceback.clear_frames(interrupt.__traceback__)
                raise
            finally:
                before.restore()
        finally:
            before.restore()  # for an interrupt may have struck the first time

    return run


# ----------------------------------------------------------------------------------------- modes


class FunctionMode(TorchFunctionMode):
    """Its end pops what is above the modes below it: nothing, where it is popped already."""

    def __enter__(self) -> Self:
        self._below = torch._C._len_torch_function_stack()
        _push_function_mode(self)
        return self

    def __exit__(self, *_: object) -> None:
        pop_function_modes(self._below)


class DispatchMode(TorchDispatchMode):
    """Likewise, and without PyTorch's flags of the process, which an interrupt would leave."""

    def __enter__(self) -> Self:
        self._below = torch._C._len_torch_dispatch_stack()
        _push_mode(self)
        return self

    def __exit__(self, *_: object) -> None:
        _pop_dispatch_modes(self._below)


class IgnoreNoGrad(FunctionMode):
    """Once `on` is set, grad mode stays on, in the model's own `no_grad` blocks too."""

    on = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # `no_grad`, `enable_grad` and `set_grad_enabled` all come down to this function
        if self.on and func is torch._C._set_grad_enabled:
            return func(True)
        return func(*args, **(kwargs or {}))


def normal_tensors(values: Any) -> Any:
    """`values` with inference tensors copied to normal ones, which a graph can keep."""

    def normal(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.is_inference():
            return leaf.clone()
        return leaf

    return tree_map(normal, values)
