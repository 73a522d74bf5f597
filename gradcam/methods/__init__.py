"""The CAM family: pure functions of arrays, `(..., C, P)` in, `(..., P)` out.

`METHODS` names them all. Each is signed and unscaled; ReLU comes after (`gradcam.maps.relu`).
"""

from __future__ import annotations

import difflib
import inspect

from gradcam._types import Method
from gradcam.methods.gradients import grad_cam

__all__ = ["METHODS", "POOLED", "about", "as_method", "grad_cam"]

METHODS: dict[str, Method] = {
    "grad-cam": grad_cam,
}
"""Name -> function."""

POOLED: frozenset[Method] = frozenset({grad_cam})
"""Methods that use a gradient only by its mean over positions, which may be cheaper to have than the gradient."""


def as_method(method: str | Method) -> tuple[str, Method]:
    """A method's name and function, from either."""
    if callable(method):
        return next((name for name, known in METHODS.items() if known is method), method.__name__), method
    if method not in METHODS:
        near = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise ValueError(f'`method` "{method}" is unknown; {hint}The methods are {", ".join(METHODS)}')
    return method, METHODS[method]


def about(method: Method) -> tuple[str, str]:
    """What a method is and its paper: the first line of its docstring, and the line that ends in a link."""
    lines = [line.strip() for line in (inspect.getdoc(method) or "").splitlines()]
    return lines[0] if lines else "", next((line for line in lines if "http" in line), "")
