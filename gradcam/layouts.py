"""A layer's array as a view `(..., channel, position)`, and the way back to its grid.

A sample of a layer is channels first (C, *grid), channels last (*grid, C) or tokens (T, C), of which some before
(or after) the spatial ones may be class and register tokens. A `Layout` says which, for one layer and one size of
input, so no method ever knows how many dimensions space has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gradcam._arrays import array_namespace
from gradcam._types import Array, Shape

__all__ = ["ChannelOrder", "Layout", "Spec", "Tokens", "infer", "input_layout", "input_size"]

MAX_PREFIX = 16
"""So many class, distillation and register tokens at most are looked for where patches tile the input exactly;
models that exist have 0 to 9. Where patches do not tile it, 5: else almost any number of tokens would fit."""


@dataclass(frozen=True)
class Tokens:
    """Say how a transformer's tokens lie: `prefix` tokens (class, registers) before a `grid`, in row-major order."""

    grid: Shape
    prefix: int = 1


Spec = Literal["channels_first", "channels_last"] | Tokens | None
"""What a user may say of a layer's layout; None: find out."""


@dataclass(frozen=True)
class Layout:
    """Where the channels and the positions of one layer's samples are.

    `kind` is `"channels_first"`: (C, *grid), `"channels_last"`: (*grid, C), or `"tokens"`: (T, C) whose positions
    are the `prod(grid)` tokens after the first `prefix`.
    """

    kind: Literal["channels_first", "channels_last", "tokens"]
    grid: Shape
    prefix: int = 0

    @property
    def sample_ndim(self) -> int:
        return 2 if self.kind == "tokens" else len(self.grid) + 1

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """The axes of a sample that run over positions, counted from the end."""
        n = self.sample_ndim
        return tuple(range(-n + 1, 0)) if self.kind == "channels_first" else tuple(range(-n, -1))

    def view(self, array: Array) -> Array:
        """(..., *sample) -> (..., C, P). A view where the framework has views."""
        xp = array_namespace(array)
        lead = tuple(int(n) for n in array.shape[: array.ndim - self.sample_ndim])
        if self.kind == "channels_first":
            channels = int(array.shape[len(lead)])
            return xp.reshape(array, (*lead, channels, -1))
        channels = int(array.shape[-1])
        if self.kind == "tokens":
            stop = self.prefix + math.prod(self.grid)
            # gradients that were pooled over positions have one token, which stands for all
            array = array[..., self.prefix : stop, :] if array.shape[-2] != 1 else array
        return xp.moveaxis(xp.reshape(array, (*lead, -1, channels)), -1, -2)

    def arranged(self, array: Array) -> Array:
        """Samples (..., C, *grid) in this layout's own axes."""
        if self.kind == "channels_first":
            return array
        return array_namespace(array).moveaxis(array, array.ndim - len(self.grid) - 1, -1)

    def broadcast(self, positions: Array) -> Array:
        """(..., *grid) -> what broadcasts with samples (..., *sample): the same for every channel."""
        xp = array_namespace(positions)
        return xp.expand_dims(
            positions, axis=-len(self.grid) - 1 if self.kind == "channels_first" else positions.ndim
        )

    def unview(self, array: Array) -> Array:
        """(..., C, P) -> (..., *sample), the inverse of `view` for a layout without prefix tokens."""
        if self.prefix:
            raise ValueError(
                "a layout with prefix tokens has no inverse: their values are not in the view"
            )
        xp = array_namespace(array)
        lead, channels = tuple(array.shape[:-2]), int(array.shape[-2])
        if self.kind == "channels_first":
            return xp.reshape(array, (*lead, channels, *self.grid))
        shape = (*lead, -1, channels) if self.kind == "tokens" else (*lead, *self.grid, channels)
        return xp.reshape(xp.moveaxis(array, -2, -1), shape)

    def maps(self, positions: Array) -> Array:
        """(..., P) -> (..., *grid)."""
        xp = array_namespace(positions)
        return xp.reshape(positions, (*positions.shape[:-1], *self.grid))


def _fits(grid: Shape, size: Shape) -> bool:
    """Whether `grid` could be `size` after one common stride: as good as its rounding allows."""
    if len(grid) != len(size) or any(g > s for g, s in zip(grid, size, strict=True)):
        return False
    low = max((g - 1) / s for g, s in zip(grid, size, strict=True))
    high = min((g + 1) / s for g, s in zip(grid, size, strict=True))
    return low <= high


def _token_grids(count: int, size: Shape) -> list[Tokens]:
    """Every (prefix, grid) that a square patch could make of `size` with `count` tokens, fewest prefix first."""
    found: dict[Tokens, tuple[bool, int]] = {}
    for patch in range(1, max(size) + 1):
        if any(n < patch for n in size):
            break
        for rounding in (math.floor, math.ceil):
            grid = tuple(rounding(n / patch) for n in size)
            prefix = count - math.prod(grid)
            exact = all(n % patch == 0 for n in size)
            if 0 <= prefix <= (MAX_PREFIX if exact else 5):
                found[Tokens(grid, prefix)] = min(
                    (not exact, prefix), found.get(Tokens(grid, prefix), (True, 99))
                )
    return sorted(found, key=lambda tokens: found[tokens])


class ChannelOrder(NamedTuple):
    """Where a layer's channels are: the framework's default, or, where it is sure, what the layer's type says."""

    channels_first: bool
    sure: bool = False


def infer(
    shape: Sequence[int], size: Shape | None, order: bool | ChannelOrder, spec: Spec = None
) -> Layout | None:
    """The layout of a layer whose samples have `shape`, in a model whose input has the spatial `size`.

    The channel order decides where the shapes alone do not. In one dimension, where nearly any
    shape fits, an order that is sure decides, and else the axis that is exactly as long as the
    input. None: the layer has no space (a vector of features). Raises ValueError where tokens can
    be laid out in no way; of several, it is the one whose patches tile the input, with the fewest
    prefix tokens.
    """
    channels_first, sure = order if isinstance(order, ChannelOrder) else ChannelOrder(order)
    shape = tuple(int(n) for n in shape)
    if isinstance(spec, Tokens):
        if len(shape) != 2 or shape[0] < spec.prefix + math.prod(spec.grid):
            raise ValueError(f"`layout` {spec} needs samples of shape (T, C), T >= {spec.prefix} + "
                             f"{math.prod(spec.grid)}, but the layer's are {shape}")  # fmt: skip
        return Layout("tokens", spec.grid, spec.prefix)
    if len(shape) < 2:
        return None
    first, last = Layout("channels_first", shape[1:]), Layout("channels_last", shape[:-1])
    if spec is not None:
        if spec not in ("channels_first", "channels_last"):
            raise ValueError(f'`layout` must be "channels_first", "channels_last" or gradcam.Tokens(grid, prefix), '
                             f"but is {spec!r}")  # fmt: skip
        return first if spec == "channels_first" else last
    if len(shape) == 2 and size is not None and len(size) > 1:
        return _infer_tokens(shape, size)
    if len(shape) == 2 and sure:
        return first if channels_first else last
    if len(shape) == 2 and (first.grid == size) != (last.grid == size):
        return first if first.grid == size else last
    if size is not None and _fits(first.grid, size) != _fits(last.grid, size):
        return first if _fits(first.grid, size) else last
    return first if channels_first else last


def _infer_tokens(shape: Shape, size: Shape) -> Layout:
    candidates = _token_grids(shape[0], size)
    if not candidates:
        raise ValueError(
            f"a layer of {shape[0]} tokens does not tile an input of size {size} with square patches and at most "
            f"{MAX_PREFIX} prefix tokens; say how they lie with layout=gradcam.Tokens(grid=(rows, columns), prefix=1)"
        )
    return Layout("tokens", candidates[0].grid, candidates[0].prefix)


def input_layout(shape: Sequence[int], channels_first: bool) -> Layout | None:
    """The layout of the samples of an input (N, ...), where they have channels and space.

    The framework's channel order says where the channels are, unless only the other end has 4 channels or fewer.
    """
    sample = tuple(int(n) for n in shape[1:])
    if len(sample) < 2:
        return None
    if len(sample) > 2 and (sample[0] <= 4) != (sample[-1] <= 4):
        channels_first = sample[0] <= 4
    return (
        Layout("channels_first", sample[1:])
        if channels_first
        else Layout("channels_last", sample[:-1])
    )


def input_size(shape: Sequence[int], channels_first: bool) -> Shape | None:
    """The spatial size of an input (N, ...): None for a batch of numbers, (T,) for one of token ids or vectors."""
    layout = input_layout(shape, channels_first)
    return layout.grid if layout is not None else tuple(int(n) for n in shape[1:]) or None
