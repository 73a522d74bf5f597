"""Warnings that point at the user's own line, and the name of what was called there."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["called", "warn"]


def warn(message: str, category: type[Warning]) -> None:
    """Warn of something in the call that came into this library.

    `warnings.warn(skip_file_prefixes=...)` does this from Python 3.12 on.
    """
    warnings.warn(message, category, stacklevel=len(_our_frames()) + 1)


def called() -> str:
    """The function or class of this library that the user called, such as "gradcam.compare"."""
    frame = [frame for frame in _our_frames() if not _is_wrapper(frame)][-1]
    name = frame.f_code.co_name
    owner = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else ""
    return ".".join(part for part in ("gradcam", owner, name) if part not in ("", "__init__"))


def _our_frames() -> list[FrameType]:
    """The frames of this library, from the caller's to the one that the user called."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (_is_ours(frame.f_globals) or _is_between(frame)):
        frames.append(frame)
        frame = frame.f_back
    return frames


def _is_wrapper(frame: FrameType) -> bool:
    """Whether it is that of `backends.entry`, round the function that the user called."""
    return _is_between(frame) or frame.f_globals["__name__"] in _WRAPPERS


_WRAPPERS = {"gradcam.backends.environment", "gradcam.backends.threads"}


def _is_between(frame: FrameType) -> bool:
    """Whether it is what `torch.compile` puts inside of that wrapper."""
    below = frame.f_back
    is_compiler = str(frame.f_globals.get("__name__", "")).startswith("torch._dynamo")
    return is_compiler and below is not None and _is_ours(below.f_globals)


def _is_ours(names: dict[str, object]) -> bool:
    return str(names.get("__name__", "")).partition(".")[0] == "gradcam"
