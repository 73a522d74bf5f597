"""What state a PyTorch model comes in: wrapped, compiled, checkpointed, under autocast or inference mode.

Everything here lasts for one call, is seen by one thread, or by none, and is put back when the call ends or fails.
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
    "KeptGrad",
    "Session",
    "is_wrapper",
    "named",
    "obstacle",
    "outside_inference",
    "plain",
    "quiet",
    "submodule",
    "uncompiled",
    "unwrapped",
]

_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
_INSIDE = ("_orig_mod", "_checkpoint_wrapped_module")
"""The names under which torch.compile and the wrapper of activation checkpointing keep a module."""


# ---------------------------------------------------------------------------------------------- wrappers and names


def is_wrapper(module: torch.nn.Module) -> bool:
    """Whether it adds nothing of its own to what it holds."""
    return any(name in module._modules for name in _INSIDE)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The user's module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`: the same weights."""
    while True:
        if isinstance(module, _WRAPPERS):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = module._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return module


def obstacle(module: torch.nn.Module) -> str:
    """What in the model autograd or a tap cannot look into, as the end of an error's sentence, or nothing."""
    for path, one in module.named_modules():
        kind = "TorchScript" if isinstance(one, torch.jit.ScriptModule) else ""
        kind = "quantised" if ".quantized" in type(one).__module__ else kind
        if kind:
            return (
                f'; "{path}" is {kind}, which cannot be tapped or differentiated: explain the model that it was made '
                "from, or pass gradcam.Split(features, head) with a head that can be differentiated"
            )
    return ""


def named(
    module: torch.nn.Module, *, all_names: bool = False
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Path and module, as the user spelled them: what wraps a part adds nothing to its path."""
    for path, one in module.named_modules(remove_duplicate=not all_names):
        parts = path.split(".")
        if parts[-1] not in _INSIDE:
            yield ".".join(part for part in parts if part not in _INSIDE), _inner(one)


def submodule(module: torch.nn.Module, path: str) -> torch.nn.Module | None:
    """The module of that path, through whatever wraps its parts."""
    one: Any = module
    for part in path.split(".") if path else []:
        while part not in one._modules and is_wrapper(one):
            one = next(one._modules[name] for name in _INSIDE if name in one._modules)
        if part not in one._modules:
            return None
        one = one._modules[part]
        if one is None:
            return None
    return _inner(one)


def _inner(module: torch.nn.Module) -> torch.nn.Module:
    one: Any = module
    while is_wrapper(one):
        one = next(one._modules[name] for name in _INSIDE if name in one._modules)
    return one  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------- one call, one thread


class Session:
    """One run of one model: taps, and what is switched off for it, see the innermost session of their own thread."""

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
        return Session._current.get() is self

    @staticmethod
    def innermost() -> Session | None:
        return Session._current.get()


class _Shared:
    """A switch for the whole process that several threads may want at once: the first turns it, the last back."""

    def __init__(self, turn: Callable[[], Callable[[], object]]) -> None:
        self._turn, self._lock, self._count = turn, threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._count == 0:
                self._back = self._turn()
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._back()


# ---------------------------------------------------------------------------------------------- torch.compile


def _force_eager() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


eager = _Shared(_force_eager)
"""Compiled parts run as they were written: a program that was compiled before has no place for a tap."""


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """`eager`, where anything can have been compiled (PyTorch before 2.6 has no such switch)."""
    compiles = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return eager if compiles else contextlib.nullcontext()


# ---------------------------------------------------------------------------------------------- checkpointing


class _NoReentrant:
    """In a session, what reentrant checkpointing would run again in a backward pass runs once and is kept."""

    own = torch.utils.checkpoint.CheckpointFunction

    @staticmethod
    def apply(function: Any, preserve: Any, *args: Any) -> Any:
        return (
            function(*args)
            if Session.innermost()
            else _NoReentrant.own.apply(function, preserve, *args)
        )


def _step_by_step() -> Callable[[], object]:
    module: Any = torch.utils.checkpoint
    own, fast = module.CheckpointFunction, torch.backends.mha.get_fastpath_enabled()
    module.CheckpointFunction, _NoReentrant.own = _NoReentrant, own
    torch.backends.mha.set_fastpath_enabled(False)

    def back() -> None:
        module.CheckpointFunction = own
        torch.backends.mha.set_fastpath_enabled(fast)

    return back


plain = _Shared(_step_by_step)
"""Off in sessions: reentrant checkpointing, which knows no `autograd.grad`, and the fused inference of PyTorch's
transformer layers, which runs no layer inside them and makes nested tensors of padded sequences."""


# ---------------------------------------------------------------------------------------------- modes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No graph, in the caller's `inference_mode` too, whose tensors no later graph could keep."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


class KeptGrad(TorchFunctionMode):
    """Once `on` is set, grad mode stays on, whatever the model's own `no_grad` blocks say."""

    on = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.on and func is torch._C._set_grad_enabled:
            args, kwargs = (True,), {}
        return func(*args, **(kwargs or {}))


def outside_inference(value: Any) -> Any:
    """Inputs that autograd may keep: tensors made under `inference_mode` are copied."""

    def copy(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, torch.Tensor) and leaf.is_inference() else leaf

    return tree_map(copy, value)
