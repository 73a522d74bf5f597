"""Models that are named rather than passed: `package.module:factory`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from gradcam._faults import described

__all__ = ["made"]


def made(spec: str, faults: tuple[type[Exception], ...] = (Exception,)) -> Any:
    """What the function `package.module:factory` returns, called without arguments.

    The current folder is looked in first, as `python -m` does. Raises a ValueError that says what
    is wrong with `spec`; of what the function itself raises, only `faults` become one.
    """
    factory = _factory(spec)
    try:
        model = factory()
    except faults as error:
        raise _unfit(spec, f"the function raised {described(error)}") from error
    if model is None:
        raise _unfit(spec, "the function returned no model, but None")
    return model


def _unfit(spec: str, problem: str) -> ValueError:
    return ValueError(f"{spec!r}: {problem}")


def _factory(spec: str) -> Callable[[], Any]:
    name, _, attribute = spec.partition(":")
    if not attribute or not all(name.split(".")):
        raise _unfit(spec, "must be package.module:factory")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise _unfit(spec, str(error)) from error
    except Exception as error:  # the user's own module may raise anything
        raise _unfit(spec, f"importing {name} raised {described(error)}") from error
    finally:
        sys.path.pop(0)
    factory: Callable[[], Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        raise _unfit(spec, f"module {name} has no function {attribute!r}")
    return factory
