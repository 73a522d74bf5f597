"""What a user's model, file or photograph may raise, told from a mistake in this library."""

from __future__ import annotations

import dis

__all__ = ["FAULTS", "described", "is_ours"]

FAULTS = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, OSError)
"""What a user's model, file or photograph may raise without ending a run over many."""


def is_ours(error: BaseException) -> bool:
    """Whether it is a mistake in this library: a missing key, index or type in its own code, which
    Python found, and which no `raise` of the library's own says.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, (LookupError, TypeError)):
        return False
    code = last.tb_frame.f_code.co_code
    is_raised = dis.opname[code[last.tb_lasti]] == "RAISE_VARARGS"
    module = str(last.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] == "gradcam" and not is_raised


def described(error: BaseException) -> str:
    """An error as a line of text."""
    return f"{type(error).__name__}: {error}"
