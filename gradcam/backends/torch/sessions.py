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

Some settings belong to the whole process: `NO_FASTPATH`, `EAGER` and `SAME_RANDOM_STATE`. The first
session to begin switches them, and the last one to end switches them back.

Ctrl-C may strike at any instant, at the start of an `__exit__` too, which then does nothing. So a
change is registered to be undone before it is made, and what is left is undone once more at the end
of the call (`gradcam.backends.torch.modes`). To undo twice changes nothing.
"""

from __future__ import annotations

import functools
import random
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch.utils.hooks import RemovableHandle

__all__ = ["EAGER", "NO_FASTPATH", "SAME_RANDOM_STATE", "ProcessSwitch", "Session"]


class Session:
    """One run of one model. Its hooks and modes act while it is the innermost of their thread.

    switches: settings of the process, for as long as it lasts.
    begin: called with the session when it has begun.
    """

    _current: ContextVar[Session | None] = ContextVar("gradcam_session", default=None)

    def __init__(
        self, *switches: ProcessSwitch, begin: Callable[[Session], None] | None = None
    ) -> None:
        self._switches = switches
        self._begin = begin
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Session:
        self._outer = Session._current.get()
        Session._current.set(self)
        for switch in self._switches:
            self.undo(functools.partial(switch.leave, self))
            switch.enter(self)
        if self._begin is not None:
            self._begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def undo(self, change: Callable[[], object]) -> None:
        """Call this at the end. Register it before the change that it undoes is made."""
        self._undo.append(change)

    def hook(self, module: torch.nn.Module, hook: Callable[..., Any], first: bool = False) -> None:
        """A forward hook of this module, in front of the others or behind them."""
        hooks = module._forward_hooks
        handle = RemovableHandle(hooks)
        self.undo(handle.remove)
        hooks[handle.id] = hook
        if first:
            hooks.move_to_end(handle.id, last=False)

    def end(self) -> None:
        """Undo all changes. A second time it does what an interrupt kept it from."""
        while self._undo:
            self._undo[-1]()
            self._undo.pop()
        if self.active:
            Session._current.set(self._outer)

    @property
    def active(self) -> bool:
        """Whether it is this thread's innermost."""
        return Session._current.get() is self

    @staticmethod
    def innermost() -> Session | None:
        """The innermost session of this thread."""
        return Session._current.get()


class ProcessSwitch:
    """A setting of the process: the first to enter switches it, the last to leave restores it.

    save: gives the function that restores the setting as it is now.
    switch: sets it.
    """

    def __init__(
        self, save: Callable[[], Callable[[], object]], switch: Callable[[], object]
    ) -> None:
        self._save = save
        self._switch = switch
        self._lock = threading.RLock()
        self._sessions: set[Session] = set()
        self._restore: Callable[[], object] | None = None

    def enter(self, session: Session) -> None:
        with self._lock:
            self._sessions.add(session)
            if self._restore is None:
                self._restore = self._save()
                self._switch()

    def leave(self, session: Session) -> None:
        with self._lock:
            self._sessions.discard(session)
            if not self._sessions and self._restore is not None:
                self._restore()
                self._restore = None


# --------------------------------------------------------------------------------- torch.compile


def _save_stance() -> Callable[[], object]:
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return lambda: None
    eval_frame: Any = sys.modules["torch._dynamo.eval_frame"]
    stance = eval_frame._stance
    return lambda: eval_frame._set_stance(stance)


def _switch_to_eager() -> None:
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        torch.compiler.set_stance("force_eager")


EAGER = ProcessSwitch(_save_stance, _switch_to_eager)
"""Compiled parts run as they were written, for a compiled program calls no hooks.

Does nothing where nothing has been compiled, and before PyTorch 2.6, which has no such switch.
"""


# ---------------------------------------------------------------------------------- random states


def _save_random_state() -> Callable[[], object]:
    """Of PyTorch, of NumPy and of Python."""
    own = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    legacy = np.random.get_state()  # noqa: NPY002, what models draw from
    python = random.getstate()

    def restore() -> None:
        torch.set_rng_state(own)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        np.random.set_state(legacy)  # noqa: NPY002
        random.setstate(python)

    return restore


SAME_RANDOM_STATE = ProcessSwitch(_save_random_state, lambda: None)
"""What a model draws is drawn again after the session, and all passes draw the same."""


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


def _save_fastpath() -> Callable[[], object]:
    checkpoint: Any = torch.utils.checkpoint
    original = checkpoint.CheckpointFunction
    fastpath = torch.backends.mha.get_fastpath_enabled()
    _NoReentrant.original = original

    def restore() -> None:
        checkpoint.CheckpointFunction = original
        torch.backends.mha.set_fastpath_enabled(fastpath)

    return restore


def _switch_off_fastpath() -> None:
    checkpoint: Any = torch.utils.checkpoint
    checkpoint.CheckpointFunction = _NoReentrant
    torch.backends.mha.set_fastpath_enabled(False)


NO_FASTPATH = ProcessSwitch(_save_fastpath, _switch_off_fastpath)
"""No reentrant checkpointing in sessions, and no fused inference of PyTorch's transformer layers.

The fused inference runs none of the layers inside, and makes nested tensors of padded sequences.
"""
