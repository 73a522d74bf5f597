"""Every way to read a layer's array, and how well each agrees with what the network answered.

Pure NumPy. What is known of a layer is a `Response` for each pattern: how much each element changed
when the even and when the odd stripes of the input were disturbed. At a position that lies in an
odd stripe the share

    r = (odd - even) / (odd + even)

is positive, at most 1. A reading (say: one class token, then 14 x 14 tokens) says where each
position lies, and so which sign r should have. Its agreement along an axis of the input is the mean
of r times that sign; its agreement is the lowest over the axes. Dividing by the sum takes each
position's own gain out, so that quiet borders and channels count like loud ones.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradcam._types import Shape
from gradcam.layouts import MAX_PREFIX, Layout, Samples, Tokens, token_grids
from gradcam.space.patterns import Pattern, sides

__all__ = [
    "FEWEST_BANDS",
    "Reading",
    "Response",
    "agreement",
    "best_reading",
    "framed_readings",
    "readings",
    "sample_arrangements",
    "spaces_of",
]

LIKELY = 0.6
"""Of the best agreement, the share that is enough for a likely grid."""

FEWEST_BANDS = 8
"""An input (N, ., .) with a shorter axis has channels there, and no space of two axes."""

MAX_SUFFIX = 4
"""So many tokens at most are looked for behind the grid, whatever the grid."""

MAX_TEXT = 48
"""Around a grid of square patches so many tokens at most, in any share in front and behind."""

MAX_DETECTIONS = 320
"""So many at most behind it alone."""


@dataclass(frozen=True)
class Response:
    """How much each element of a sample, (*sample) or (F, *sample), answered to the two halves of a
    pattern.
    """

    pattern: Pattern
    even: np.ndarray
    odd: np.ndarray

    def grouped(self, count: int) -> Response:
        """Of tokens (T, C), each `count` that follow each other as one: (T / count, count C)."""
        shape = (len(self.even) // count, -1)
        return Response(self.pattern, self.even.reshape(shape), self.odd.reshape(shape))


@dataclass(frozen=True)
class Reading:
    """A layout, and the axes of the input that its grid runs along, in this order.

    frame_axis: the axis of the input that a leading axis of frames runs along; None where there is
        none, or where the frames are no axis of the input.
    """

    layout: Layout
    input_axes: Shape
    frame_axis: int | None = None


# ---------------------------------------------------------------------------------------- agreement


def agreement(reading: Reading, responses: Sequence[Response]) -> float:
    """How well the reading agrees with what was seen, from -1 to 1: the lowest over the axes of its
    grid.
    """
    along: dict[int, list[float]] = {}
    for response in responses:
        axis = response.pattern.axis
        if axis == reading.frame_axis:
            along.setdefault(axis, []).append(_frames_agree(response))
        elif axis in reading.input_axes:
            grid_axis = reading.input_axes.index(axis)
            count = reading.layout.grid[grid_axis]
            if count >= response.pattern.stripes:
                value = _positions_agree(response, reading.layout, grid_axis)
                along.setdefault(axis, []).append(value)
    if not along:
        return 0.0
    return min(sum(values) / len(values) for values in along.values())


def _share(even: np.ndarray, odd: np.ndarray) -> np.ndarray:
    total = odd + even
    share: np.ndarray = np.zeros_like(total)
    np.divide(odd - even, total, out=share, where=total > 0)
    return share


def _positions_agree(response: Response, layout: Layout, grid_axis: int) -> float:
    """The mean of r times the expected sign over the grid's positions, summed over channels and
    frames first.
    """
    even = layout.view(response.even).sum(-2)
    odd = layout.view(response.odd).sum(-2)
    lead = tuple(range(even.ndim - 1))
    share = layout.maps(_share(even.sum(lead), odd.sum(lead)))
    expected = sides(layout.grid[grid_axis], response.pattern.stripes)
    shape = [1] * len(layout.grid)
    shape[grid_axis] = -1
    return float((share * expected.reshape(shape)).mean())


def _frames_agree(response: Response) -> float:
    """The same over a leading axis of frames."""
    rest = tuple(range(1, response.even.ndim))
    share = _share(response.even.sum(rest), response.odd.sum(rest))
    if len(share) < response.pattern.stripes:
        return 1.0
    return float((share * sides(len(share), response.pattern.stripes)).mean())


# --------------------------------------------------------------------------------------- candidates


def sample_arrangements(shape: Sequence[int], count: int) -> Iterator[Samples]:
    """Where the samples of a batch of `count` may be in an array of that shape, likeliest first."""
    if shape[0] == count:
        yield Samples()
    for axis, size in enumerate(shape):
        if axis and size == count:
            yield Samples(axis)
    if shape[0] > count and shape[0] % count == 0:
        folded = shape[0] // count
        yield Samples(0, folded)
        yield Samples(0, folded, samples_outer=False)


def readings(
    sample: Shape, samples: Samples, space: Shape, input_shape: Shape
) -> Iterator[Reading]:
    """Every reading of a sample of that shape, for an input whose positions run along these axes.

    space: axes of the input, such as (2, 3).
    """
    yield from _plain_readings(sample, samples, space)
    sizes = tuple(input_shape[axis] for axis in space)
    yield from _token_readings(sample, samples, space, sizes)


def framed_readings(
    sample: Shape, samples: Samples, space: Shape, input_shape: Shape
) -> Iterator[Reading]:
    """Every reading whose first axis is frames: (F, *sample).

    They run along an axis of the input, or were cut out of it as windows and folded into the batch.
    """
    if len(sample) < 3:
        return
    for frame_axis in space:
        rest = tuple(axis for axis in space if axis != frame_axis)
        if rest and input_shape[frame_axis] == sample[0]:
            for reading in readings(sample[1:], samples, rest, input_shape):
                yield Reading(reading.layout, rest, frame_axis)
    if samples.folded > 1:
        yield from readings(sample[1:], samples, space, input_shape)


def _plain_readings(sample: Shape, samples: Samples, space: Shape) -> Iterator[Reading]:
    """Channels in front, and channels behind as many positions as the space has axes."""
    if len(sample) == len(space) + 1:
        yield Reading(Layout("channels_first", sample[1:], samples=samples), space)
        yield Reading(Layout("channels_last", sample[:-1], samples=samples), space)


def _token_readings(
    sample: Shape, samples: Samples, space: Shape, sizes: Shape
) -> Iterator[Reading]:
    """Tokens (T, C) and (C, T) with some in front and behind, on every grid that has that many."""
    if len(sample) != 2 or len(space) < 2:
        return
    kinds = (("tokens", sample[0]), ("tokens_last", sample[1]))
    for kind, tokens in kinds:
        for extra in range(min(MAX_PREFIX, tokens - 1) + 1):
            for grid in _grids(tokens - extra, sizes):
                for suffix in range(min(MAX_SUFFIX, extra) + 1):
                    layout = Layout(kind, grid, extra - suffix, suffix, samples)  # type: ignore[arg-type]
                    yield Reading(layout, space)
        for grid in _square_patches(sizes):
            for prefix, suffix in _around(tokens - math.prod(grid)):
                layout = Layout(kind, grid, prefix, suffix, samples)  # type: ignore[arg-type]
                yield Reading(layout, space)


@functools.cache
def _square_patches(sizes: Shape) -> frozenset[Shape]:
    """The grids of square patches that tile a picture, of two positions or more along each axis."""
    grids = set()
    for patch in range(1, min(sizes) // 2 + 1):
        if len(sizes) > 1 and all(n % patch == 0 for n in sizes):
            grids.add(tuple(n // patch for n in sizes))
    return frozenset(grids)


def _around(extra: int) -> Iterator[tuple[int, int]]:
    """So many tokens in front of a grid and behind it: text around a picture, or, where they are
    many, detection tokens behind it.
    """
    if 0 < extra <= MAX_TEXT:
        for prefix in range(extra + 1):
            if extra - prefix > MAX_SUFFIX or extra > MAX_PREFIX:
                yield prefix, extra - prefix
    elif MAX_TEXT < extra <= MAX_DETECTIONS:
        for prefix in range(MAX_SUFFIX + 1):
            yield prefix, extra - prefix


def _grids(count: int, sizes: Shape) -> Iterator[Shape]:
    """The grids of `count` cells, in as many axes as the space, no finer than the input."""
    if len(sizes) == 1:
        if 2 <= count <= sizes[0]:
            yield (count,)
        return
    # An axis with one position would agree with anything: nothing is seen along it.
    fewest = min(2, sizes[0])
    for first in range(fewest, min(count, sizes[0]) + 1):
        if count % first == 0:
            for rest in _grids(count // first, sizes[1:]):
                yield (first, *rest)


def best_reading(
    candidates: Sequence[Reading],
    responses: Sequence[Response],
    sizes: Shape,
    channels_first: bool = True,
) -> tuple[Reading | None, float]:
    """The reading that agrees best, the first of those that agree alike, and its agreement.

    A grid of tokens that square patches make of an input of that size needs less agreement than one
    that has only its number of tokens for it: of few tokens some grid agrees by chance.
    """
    best: Reading | None = None
    highest = -math.inf
    likely: Reading | None = None
    highest_likely = -math.inf
    # Of tokens there are hundreds of readings, so their channels are summed away once.
    by_kind = {"tokens": _summed(responses, -1), "tokens_last": _summed(responses, -2)}
    for reading in candidates:
        value = agreement(reading, by_kind.get(reading.layout.kind, responses))
        # A later reading must agree better by more than rounding: fewer extra tokens come first.
        if value > highest + 0.02:
            best = reading
            highest = value
        if value > highest_likely + 0.02 and _is_likely(reading.layout, sizes, channels_first):
            likely = reading
            highest_likely = value
    if likely is not None and highest_likely >= LIKELY * highest:
        return likely, highest_likely
    return best, highest


@functools.cache
def _token_grids(tokens: int, sizes: Shape) -> frozenset[Tokens]:
    return frozenset(token_grids(tokens, sizes))


def _is_likely(layout: Layout, sizes: Shape, channels_first: bool) -> bool:
    """Whether the channels are where the framework has them, or square patches make the grid."""
    if not layout.of_tokens:
        return layout.channels_in_front == channels_first
    if layout.suffix and layout.grid in _square_patches(sizes):
        return True
    tokens = layout.prefix + math.prod(layout.grid) + layout.suffix
    return not layout.suffix and Tokens(layout.grid, layout.prefix) in _token_grids(tokens, sizes)


def _summed(responses: Sequence[Response], axis: int) -> list[Response]:
    """The responses summed over the axis of channels, as one channel."""
    return [
        Response(r.pattern, r.even.sum(axis, keepdims=True), r.odd.sum(axis, keepdims=True))
        for r in responses
    ]


def spaces_of(input_shape: Sequence[int], sure: Shape | None, channels_first: bool) -> list[Shape]:
    """The sets of axes of an input (N, ...) that its positions may run along, likeliest first.

    sure: the one that is known, if it is. channels_first: the framework's own order, which comes
        first.
    """
    if sure is not None:
        return [sure]
    axes = tuple(range(1, len(input_shape)))
    if len(axes) < 2:
        return [axes]
    expected = axes[1:] if channels_first else axes[:-1]
    sets = list(itertools.combinations(axes, len(axes) - 1))
    sets.sort(key=lambda space: space != expected)
    if len(axes) == 2 and min(input_shape[1:]) >= FEWEST_BANDS:
        # a spectrogram, whose patches may be in rows of either axis, or a sequence of vectors
        sets = [axes, axes[::-1], *sets]
    return sets
