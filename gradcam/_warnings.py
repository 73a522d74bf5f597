"""Warnings that point at the user's own line."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]


def warn(message: str, category: type[Warning]) -> None:
    """Warn of something in the call that came into this library.

    `warnings.warn(skip_file_prefixes=...)` does this from Python 3.12 on.
    """
    frame = sys._getframe(0)
    level = 1
    while frame.f_back is not None and _is_ours(frame.f_globals):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


def _is_ours(names: dict[str, object]) -> bool:
    return str(names.get("__name__", "")).partition(".")[0] == "gradcam"
