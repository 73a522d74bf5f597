"""The optional packages that pictures need, imported when a picture is asked for."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["required"]


def required(module: str, package: str) -> Any:
    """The module, or an ImportError that says how to install the package that it belongs to."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'pictures need {package}: pip install "gradcam[images]"') from error
