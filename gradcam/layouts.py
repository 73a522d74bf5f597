"""A layer's array as a view `(..., channel, position)`, and the way back to its grid.

Two steps, so that no method ever knows how many axes space has or where the samples are:

- `Samples` puts the samples first: a sequence-first array (T, N, C) becomes (N, T, C), and frames
  or windows that were folded into the batch, (N F, C, h, w), become (N, F, C, h, w).
- `Layout` says where the channels and positions of one sample (or of one frame of it) are: channels
  first (C, *grid), channels last (*grid, C), tokens (T, C) or (C, T), of which some in front and
  behind may be class and register tokens.

>>> layout = Layout("tokens", grid=(14, 14), prefix=1)
>>> layout.view(np.ones((2, 197, 768))).shape        # one class token is left out
(2, 768, 196)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gradcam._arrays import array_namespace
from gradcam._types import Array, Shape

__all__ = [
    "MAX_PREFIX",
    "ChannelOrder",
    "Kind",
    "Layout",
    "Samples",
    "Spec",
    "Tokens",
    "fits",
    "infer",
    "input_layout",
    "input_size",
    "token_grids",
]

MAX_PREFIX = 16
"""So many class, distillation and register tokens at most are looked for where patches tile the
input exactly; models that exist have 0 to 9. Where patches do not tile it, 5: else almost any
number of tokens would fit."""


@dataclass(frozen=True)
class Tokens:
    """Say how a transformer's tokens lie: `prefix` tokens (class, registers) before a `grid`, in
    row-major order.
    """

    grid: Shape
    prefix: int = 1


Spec = Literal["channels_first", "channels_last"] | Tokens | None
"""What a user may say of a layer's layout; None: find out."""


# ---------------------------------------------------------------------------- where the samples are


@dataclass(frozen=True)
class Samples:
    """Where the samples are in a layer's whole array.

    axis: the axis that runs over samples.
    folded: how many frames, windows or views of each sample that axis holds besides; 1: none.
    samples_outer: whether a sample's frames lie together, (n f), and not its samples, (f n).
    """

    axis: int = 0
    folded: int = 1
    samples_outer: bool = True

    @property
    def first(self) -> bool:
        """Whether nothing has to be rearranged."""
        return self.axis == 0 and self.folded == 1

    def arrange(self, array: Array, lead: int = 0) -> Array:
        """The layer's array with the samples first: (N, *sample), or (N, F, *sample) where F frames
        were folded.

        lead: axes behind the first that do not belong to the layer: 1 for gradients of K targets,
            (s0, K, s1, ...), which become (N, K, ...).
        """
        if self.first:
            return array
        xp = array_namespace(array)
        if lead:
            array = xp.moveaxis(array, 1, 0)
        array = xp.moveaxis(array, self.axis + lead, lead)
        if self.folded > 1:
            count = int(array.shape[lead]) // self.folded
            split = (count, self.folded) if self.samples_outer else (self.folded, count)
            array = xp.reshape(array, (*array.shape[:lead], *split, *array.shape[lead + 1 :]))
            if not self.samples_outer:
                array = xp.moveaxis(array, lead + 1, lead)
        return xp.moveaxis(array, 1, 0) if lead else array

    def restore(self, array: Array) -> Array:
        """The way back from (N, *sample) or (N, F, *sample)."""
        if self.first:
            return array
        xp = array_namespace(array)
        if self.folded > 1:
            if not self.samples_outer:
                array = xp.moveaxis(array, 1, 0)
            array = xp.reshape(array, (-1, *array.shape[2:]))
        return xp.moveaxis(array, 0, self.axis)

    def shape(self, shape: Sequence[int]) -> Shape:
        """The shape of one sample, or of one of its frames, in an array of that shape."""
        sizes = [int(n) for n in shape]
        del sizes[self.axis]
        return tuple(sizes)


# -------------------------------------------------------------------------- where the positions are

Kind = Literal["channels_first", "channels_last", "tokens", "tokens_last"]


@dataclass(frozen=True)
class Layout:
    """Where the channels and the positions of one layer's samples are.

    kind: "channels_first": (C, *grid); "channels_last": (*grid, C); "tokens": (T, C), whose
        positions are the `prod(grid)` tokens after the first `prefix`; "tokens_last": the same of
        (C, T).
    suffix: tokens behind the grid.
    samples: where the samples are in the whole array; everything else here is of one sample.
    """

    kind: Kind
    grid: Shape
    prefix: int = 0
    suffix: int = 0
    samples: Samples = Samples()

    @property
    def of_tokens(self) -> bool:
        """Whether the positions are one axis, of which the grid is made."""
        return self.kind in ("tokens", "tokens_last")

    @property
    def sample_ndim(self) -> int:
        return 2 if self.of_tokens else len(self.grid) + 1

    @property
    def channels_in_front(self) -> bool:
        return self.kind in ("channels_first", "tokens_last")

    @property
    def channel_axis(self) -> int:
        """The axis of a sample that runs over channels, counted from the end."""
        return -self.sample_ndim if self.channels_in_front else -1

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """The axes of a sample that run over positions, counted from the end."""
        n = self.sample_ndim
        return tuple(range(-n + 1, 0)) if self.channels_in_front else tuple(range(-n, -1))

    def view(self, array: Array) -> Array:
        """(..., *sample) -> (..., C, P). A view where the framework has views."""
        xp = array_namespace(array)
        lead = tuple(int(n) for n in array.shape[: array.ndim - self.sample_ndim])
        if self.of_tokens:
            array = self._spatial_tokens(array)
        if self.channels_in_front:
            channels = int(array.shape[len(lead)])
            return xp.reshape(array, (*lead, channels, -1))
        channels = int(array.shape[-1])
        return xp.moveaxis(xp.reshape(array, (*lead, -1, channels)), -1, -2)

    def _spatial_tokens(self, array: Array) -> Array:
        tokens = slice(self.prefix, self.prefix + math.prod(self.grid))
        axis = self.spatial_axes[0]
        # Gradients that were averaged over positions have one token, which stands for all.
        if array.shape[axis] == 1:
            return array
        return array[..., tokens] if self.channels_in_front else array[..., tokens, :]

    def arranged(self, array: Array) -> Array:
        """Samples (..., C, *grid) in this layout's own axes."""
        if self.kind == "channels_first":
            return array
        return array_namespace(array).moveaxis(array, array.ndim - len(self.grid) - 1, -1)

    def broadcast(self, positions: Array) -> Array:
        """(..., *grid) -> what broadcasts with samples (..., *sample): the same for every
        channel.
        """
        axis = -len(self.grid) - 1 if self.channels_in_front else positions.ndim
        return array_namespace(positions).expand_dims(positions, axis=axis)

    def unview(self, array: Array) -> Array:
        """(..., C, P) -> (..., *sample), the inverse of `view` for a layout whose tokens are all
        positions.
        """
        if self.prefix or self.suffix:
            raise ValueError(
                "a layout with prefix tokens has no inverse: their values are not in the view"
            )
        xp = array_namespace(array)
        lead = tuple(array.shape[:-2])
        channels = int(array.shape[-2])
        if self.kind == "tokens_last":
            return array
        if self.kind == "channels_first":
            return xp.reshape(array, (*lead, channels, *self.grid))
        shape = (*lead, *self.grid, channels)
        if self.kind == "tokens":
            shape = (*lead, -1, channels)
        return xp.reshape(xp.moveaxis(array, -2, -1), shape)

    def maps(self, positions: Array) -> Array:
        """(..., P) -> (..., *grid)."""
        xp = array_namespace(positions)
        return xp.reshape(positions, (*positions.shape[:-1], *self.grid))

    def __str__(self) -> str:
        """In words: "N C 7 7", "N (1 + 14 x 14) C", "(N 8) C 7 7"."""
        tokens = " x ".join(map(str, self.grid))
        if self.prefix or self.suffix:
            parts = [str(self.prefix)] * bool(self.prefix) + [tokens]
            parts += [str(self.suffix)] * bool(self.suffix)
            tokens = " + ".join(parts)
        space = f"({tokens})" if self.of_tokens else " ".join(map(str, self.grid))
        axes = ["C", space] if self.channels_in_front else [space, "C"]
        samples = "N"
        if self.samples.folded > 1:
            names = ("N", str(self.samples.folded))
            samples = f"({' '.join(names if self.samples.samples_outer else names[::-1])})"
        axes.insert(min(self.samples.axis, len(axes)), samples)
        return " ".join(axes)


# ---------------------------------------------------------------------------------- what shapes say


def fits(grid: Shape, size: Shape) -> bool:
    """Whether `grid` could be `size` after one common stride: as good as its rounding allows."""
    if len(grid) != len(size):
        return False
    pairs = list(zip(grid, size, strict=True))
    if any(g > s for g, s in pairs):
        return False
    return max((g - 1) / s for g, s in pairs) <= min((g + 1) / s for g, s in pairs)


def token_grids(count: int, size: Shape) -> list[Tokens]:
    """Every (prefix, grid) that a square patch could make of `size` with `count` tokens, likeliest
    first.
    """
    ranks: dict[Tokens, tuple[bool, int]] = {}
    for patch in range(1, min(size) + 1):
        inexact = any(n % patch != 0 for n in size)
        for rounding in (math.floor, math.ceil):
            grid = tuple(rounding(n / patch) for n in size)
            prefix = count - math.prod(grid)
            if not 0 <= prefix <= (5 if inexact else MAX_PREFIX):
                continue
            tokens = Tokens(grid, prefix)
            ranks[tokens] = min((inexact, prefix), ranks.get(tokens, (True, 99)))
    return sorted(ranks, key=lambda tokens: ranks[tokens])


class ChannelOrder(NamedTuple):
    """Where a layer's channels are: the framework's default; or, where it is sure, what the layer's
    type says; or, as a hint, what the types of layers inside it or around it do.

    positions: how many axes of positions the layer's type has, where it says so.
    """

    channels_first: bool
    sure: bool = False
    hint: bool = False
    positions: int | None = None


def infer(
    shape: Sequence[int], size: Shape | None, order: bool | ChannelOrder, spec: Spec = None
) -> Layout | None:
    """The layout of a layer whose samples have `shape`, in a model whose input has the spatial
    `size`.

    The channel order decides where the shapes alone do not. In one dimension, where nearly any
    shape fits, an order that is sure decides, and else the axis that is exactly as long as the
    input. None: the layer has no space (a vector of features). Raises ValueError where tokens can
    be laid out in no way; of several, it is the one whose patches tile the input, with the fewest
    prefix tokens.
    """
    shape = tuple(int(n) for n in shape)
    if isinstance(spec, Tokens):
        return _given_tokens(shape, spec)
    if len(shape) < 2:
        return None
    first = Layout("channels_first", shape[1:])
    last = Layout("channels_last", shape[:-1])
    if spec is not None:
        return _given_order(first, last, spec)
    if len(shape) == 2 and size is not None and len(size) > 1:
        return _inferred_tokens(shape, size)
    if not isinstance(order, ChannelOrder):
        order = ChannelOrder(order)
    return first if _first_fits_better(first.grid, last.grid, size, order) else last


def _first_fits_better(first: Shape, last: Shape, size: Shape | None, order: ChannelOrder) -> bool:
    """Whether the channels are in front, for the grids that the two readings leave."""
    if len(first) == 1:
        if not order.sure and (first == size) != (last == size):
            return first == size
        if order.sure:
            return order.channels_first
    if size is not None and fits(first, size) != fits(last, size):
        return fits(first, size)
    return order.channels_first


def _given_tokens(shape: Shape, spec: Tokens) -> Layout:
    used = spec.prefix + math.prod(spec.grid)
    if len(shape) != 2 or shape[0] < used:
        raise ValueError(
            f"`layout` {spec} needs samples of shape (T, C), T >= {spec.prefix} + "
            f"{math.prod(spec.grid)}, but the layer's are {shape}"
        )
    return Layout("tokens", spec.grid, spec.prefix, shape[0] - used)


def _given_order(first: Layout, last: Layout, spec: str) -> Layout:
    if spec == "channels_first":
        return first
    if spec == "channels_last":
        return last
    raise ValueError(
        '`layout` must be "channels_first", "channels_last" or gradcam.Tokens(grid, prefix), '
        f"but is {spec!r}"
    )


def _inferred_tokens(shape: Shape, size: Shape) -> Layout:
    candidates = token_grids(shape[0], size)
    if not candidates:
        raise ValueError(
            f"a layer of {shape[0]} tokens does not tile an input of size {size} with square "
            "patches and at most "
            f"{MAX_PREFIX} prefix tokens; say how they lie with "
            "layout=gradcam.Tokens(grid=(rows, columns), prefix=1)"
        )
    return Layout("tokens", candidates[0].grid, candidates[0].prefix)


def input_layout(shape: Sequence[int], channels_first: bool) -> Layout | None:
    """The layout of the samples of an input (N, ...), where they have channels and space.

    The framework's channel order says where the channels are, unless only the other end has 4
    channels or fewer.
    """
    sample = tuple(int(n) for n in shape[1:])
    if len(sample) < 2:
        return None
    if len(sample) > 2 and (sample[0] <= 4) != (sample[-1] <= 4):
        channels_first = sample[0] <= 4
    if channels_first:
        return Layout("channels_first", sample[1:])
    return Layout("channels_last", sample[:-1])


def input_size(shape: Sequence[int], channels_first: bool) -> Shape | None:
    """The spatial size of an input (N, ...): None for a batch of numbers, (T,) for one of token ids
    or vectors.
    """
    layout = input_layout(shape, channels_first)
    if layout is not None:
        return layout.grid
    return tuple(int(n) for n in shape[1:]) or None
