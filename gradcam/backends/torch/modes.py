"""Sessions, and what PyTorch does differently while one lasts.

Everything here lasts for one call, and is undone when the call ends or raises.

A session tells one run of one model from all others. Hooks sit on the user's module, where other
threads, or an explanation made inside a forward pass, run into them. Each hook therefore keeps the
session that it was made in, and acts only while this session is the innermost of its own thread:

    with Session() as outer:         Session.innermost() is outer: outer's hooks act
        with Session() as inner:     Session.innermost() is inner: outer's hooks do nothing
            ...
        ...                          outer's hooks act again
    another thread meanwhile         Session.innermost() is None: no hook acts

Some settings belong to the whole process: `no_fastpath` and `force_eager`. The first session to
begin switches them, and the last one to end switches them back.
"""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

__all__ = [
    "IgnoreNoGrad",
    "Session",
    "force_eager",
    "no_fastpath",
    "no_graph",
    "normal_tensors",
]


class Session:
    """One run of one model. Its hooks and modes act while it is the innermost of their thread."""

    _current: contextvars.ContextVar[Session | None] = contextvars.ContextVar(
        "gradcam_session", default=None
    )

    def __enter__(self) -> Session:
        self._token = Session._current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        Session._current.reset(self._token)

    @property
    def active(self) -> bool:
        """Whether it is this thread's innermost."""
        return Session._current.get() is self

    @staticmethod
    def innermost() -> Session | None:
        """The innermost session of this thread."""
        return Session._current.get()


class _ProcessSwitch:
    """A setting of the process: the first to enter switches it, the last to leave restores it."""

    def __init__(self, switch: Callable[[], Callable[[], object]]) -> None:
        self._switch = switch
        self._lock = threading.Lock()
        self._count = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._count == 0:
                self._restore = self._switch()
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._restore()


# --------------------------------------------------------------------------------- torch.compile


def _switch_to_eager() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


_EAGER = _ProcessSwitch(_switch_to_eager)


def force_eager() -> contextlib.AbstractContextManager[None]:
    """Compiled parts run as they were written, for a compiled program calls no hooks.

    Does nothing where nothing has been compiled, and before PyTorch 2.6, which has no such switch.
    """
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        return _EAGER
    return contextlib.nullcontext()


# ---------------------------------------------------- checkpointing and fused transformer layers


class _NoReentrant:
    """Stands in for reentrant checkpointing, which `torch.autograd.grad` does not support.

    In a session a checkpointed function runs once and its graph is kept. Elsewhere it is
    checkpointed as usual.
    """

    original = torch.utils.checkpoint.CheckpointFunction

    @staticmethod
    def apply(function: Any, preserve: Any, *args: Any) -> Any:
        if Session.innermost():
            return function(*args)
        return _NoReentrant.original.apply(function, preserve, *args)


def _switch_off_fastpath() -> Callable[[], object]:
    checkpoint: Any = torch.utils.checkpoint
    original = checkpoint.CheckpointFunction
    fastpath = torch.backends.mha.get_fastpath_enabled()
    _NoReentrant.original = original
    checkpoint.CheckpointFunction = _NoReentrant
    torch.backends.mha.set_fastpath_enabled(False)

    def restore() -> None:
        checkpoint.CheckpointFunction = original
        torch.backends.mha.set_fastpath_enabled(fastpath)

    return restore


no_fastpath = _ProcessSwitch(_switch_off_fastpath)
"""No reentrant checkpointing in sessions, and no fused inference of PyTorch's transformer layers.

The fused inference runs none of the layers inside, and makes nested tensors of padded sequences.
"""


# ------------------------------------------------------------------------------------ grad modes


@contextlib.contextmanager
def no_graph() -> Iterator[None]:
    """`torch.no_grad`, which also leaves the caller's `inference_mode`.

    No later graph could keep tensors that are made in that mode.
    """
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


class IgnoreNoGrad(TorchFunctionMode):
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
