"""Names for what passes between modules."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Array", "Constant", "Inputs", "LayerLike", "Method", "Outputs", "Shape"]

Array: TypeAlias = Any
"""An array of any framework that the array API standard covers: NumPy, PyTorch, JAX."""

Inputs: TypeAlias = Any
"""What the model is called with: an array, a tuple of positional or a mapping of keyword
arguments.
"""

Outputs: TypeAlias = Any
"""Whatever the model returns."""

Shape: TypeAlias = tuple[int, ...]

Method: TypeAlias = Callable[[Array, Array], Array]
"""`method(activations, gradients)`: (..., C, P) and what broadcasts with it -> (..., P)."""

LayerLike: TypeAlias = Any
"""A layer's path, a module of the model, several of these, or None: the library chooses."""


@dataclass(frozen=True)
class Constant:
    """What a compiled program returns beside its arrays: it is part of the program itself."""

    value: Hashable
