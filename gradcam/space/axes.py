"""The axes of a layer's output: what they are, how that was told, and how sure it is.

This is the one place where that question is answered, for every framework. In order:

given      the user said it, `layout=`
type       the layer's type says it for sure: a convolution's output is (N, C, h, w)
shape      of the two channel orders only one fits the input's size, and it is the framework's own
evidence   the network was asked: see `gradcam.space.evidence`
guess      none of these tells; the likeliest reading of the shape is taken, and the result says so
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gradcam import layouts
from gradcam._types import Inputs, Shape
from gradcam.inputs import INPUT, InputKey, Packed, arrays_of
from gradcam.layouts import ChannelOrder, Layout, Samples
from gradcam.model import Model, channel_order
from gradcam.space.evidence import CannotAskError, Evidence, TracedError, ask
from gradcam.space.readings import (
    FEWEST_BANDS,
    Reading,
    best_reading,
    framed_readings,
    readings,
    spaces_of,
)

__all__ = [
    "ATTENTION",
    "GuessedAxesWarning",
    "LayerAxes",
    "NeedsEvidence",
    "ask_axes",
    "axes_by_evidence",
    "evidence_of",
    "guessed_axes",
    "is_ambiguous",
    "named_input",
    "sure_axes",
    "sure_space",
]

How = Literal["given", "type", "shape", "evidence", "guess"]

ENOUGH = 0.1
"""Agreement from which on a reading is believed. Right readings of real layers have 0.3 to 0.95,
wrong ones under 0.08."""


ATTENTION = "<attention>"
"""How the paths of attention weights begin, in every backend."""

FAR_BETTER = 0.4
"""Of the best agreement, the share that readings along likelier axes of the input must have."""


class GuessedAxesWarning(UserWarning):
    """Where the positions of a layer are could not be told, and was guessed from its shape.

    Say it with `layout=`, or choose another layer. To be silent,
    `warnings.simplefilter("ignore", gradcam.GuessedAxesWarning)`.
    """


@dataclass(frozen=True)
class LayerAxes:
    """Where the samples, channels and positions of a layer's output are.

    layout: the axes; in words "N C 7 7", or "N (1 + 14 x 14) C" for one class token before a grid
        of tokens.
    how: how it was told: "given", "type", "shape", "evidence" or "guess".
    agreement: of evidence, how well the reading agrees with it: at most 1, below 0.1 nothing is
        believed.
    input: which of several inputs the positions are of, its position or keyword; None: the only
        one.
    input_axes: the axes of that input (N, ...) that the grid runs along; None where that is not
        known.
    size: that input's size along them, and its frames where there are any.
    """

    layer: str
    layout: Layout
    how: How
    agreement: float | None = None
    input: InputKey | None = None
    input_axes: Shape | None = None
    size: Shape | None = None

    @property
    def was_asked(self) -> bool:
        """Whether the network had to be asked, also where it did not tell."""
        return self.how in ("evidence", "guess")

    def __str__(self) -> str:
        sure = "" if self.agreement is None else f", agreement {self.agreement:.2f}"
        return f'"{self.layer}": {self.layout} ({self.how}{sure})'


class NeedsEvidence(Exception):  # noqa: N818, it is a question and no error
    """The axes of this layer are in doubt: the network must be asked, which compiled code cannot
    do.
    """

    def __init__(self, path: str, shape: Shape) -> None:
        super().__init__(path)
        self.path = path
        self.shape = shape


# ------------------------------------------------------------------------------------------ without
# asking


def sure_axes(
    model: Model,
    path: str,
    shape: Sequence[int],
    samples: int,
    size: Shape | None,
    spec: layouts.Spec = None,
) -> LayerAxes | None:
    """The axes of a layer's whole array, where they are given or leave no doubt; None where the
    network must be asked.

    samples: N of the batch. size: the input's spatial size, None where it has none.
    """
    shape = tuple(int(n) for n in shape)
    sample = shape[1:]
    order = channel_order(model, path)
    if spec is not None:
        layout = layouts.infer(sample, size, order, spec)
        return LayerAxes(path, _with_space(layout, path, sample), "given")
    if path.startswith(ATTENTION):  # weights between tokens are no picture, whatever is asked
        layout = layouts.infer(sample, size, order)
        return LayerAxes(path, _with_space(layout, path, sample), "guess")
    if shape[0] == samples:
        if len(sample) < 2:
            _with_space(None, path, sample)
        if size is None:  # no input axis to disturb, so nothing can be asked
            layout = layouts.infer(sample, None, order)
            return LayerAxes(path, _with_space(layout, path, sample), _how_by(order))
        if len(sample) == len(size) + 1:
            return _sure_order(path, sample, samples, size, order)
        if len(sample) > len(size) + 1 and order.sure and order.channels_first:
            # A convolution over more axes than the input has: sound in columns, a spectrogram. Axes
            # that its type does not have are frames, such as the batch of one inside torch.vmap.
            positions = len(sample) - 1 if order.positions is None else order.positions
            return LayerAxes(path, Layout("channels_first", sample[-positions:]), "type")
    return None


def _how_by(order: ChannelOrder) -> How:
    return "type" if order.sure else "guess"


def _sure_order(
    path: str, sample: Shape, samples: int, size: Shape, order: ChannelOrder
) -> LayerAxes | None:
    """Channels in front or behind, where the layer's type or, of images and volumes, its shape says
    so.
    """
    first = Layout("channels_first", sample[1:])
    last = Layout("channels_last", sample[:-1])
    expected = first if order.channels_first else last
    other = last if order.channels_first else first
    if order.sure:
        if len(size) == 1 and not order.channels_first:
            # Only convolutions have the samples first for sure: a sequence (T, N, C) with T = N
            # looks the same. And tokens of another number may be patches of a spectrogram.
            is_sequence = sample[0] == size[0] != samples
            return LayerAxes(path, expected, "type") if is_sequence else None
        return LayerAxes(path, expected, "type")
    if len(size) > 1 and layouts.fits(expected.grid, size):
        if order.hint:
            return LayerAxes(path, expected, "type")
        if not layouts.fits(other.grid, size):
            return LayerAxes(path, expected, "shape")
    return None


def _with_space(layout: Layout | None, path: str, sample: Shape) -> Layout:
    if layout is None:
        raise ValueError(
            f'layer "{path}" gives vectors of shape {sample}, which have no space to map; choose '
            "one of gradcam.layers(model, inputs) that has"
        )
    return layout


# ------------------------------------------------------------------------------------------ asking


def evidence_of(
    model: Model,
    inputs: Inputs,
    paths: Sequence[str],
    patterns: bool = True,
    insist: bool = False,
) -> Evidence | None:
    """What the network answers for these layers; None where it cannot be asked, such as a model of
    fixed batch size. Without patterns, only whether they answer at all. Where it could be asked
    outside of the user's own jit, it is a TracedError to `insist`.
    """

    def axes(key: InputKey) -> Shape:
        return _disturbed_axes(model, inputs, key) if patterns else ()

    try:
        return ask(model, inputs, paths, axes)
    except CannotAskError as error:
        if insist and isinstance(error, TracedError):
            raise
        return None


def ask_axes(
    model: Model, inputs: Inputs, path: str, shape: Sequence[int], size: Shape | None
) -> LayerAxes:
    """The axes of a layer in doubt, by asking the network; a guess where it does not tell."""
    evidence = evidence_of(model, inputs, (path,), insist=True)
    axes = None if evidence is None else axes_by_evidence(model, inputs, path, evidence)
    return guessed_axes(model, inputs, path, shape, size, evidence) if axes is None else axes


def axes_by_evidence(
    model: Model, inputs: Inputs, path: str, evidence: Evidence
) -> LayerAxes | None:
    """The reading of the layer's axes that agrees with the evidence; None where none does."""
    if evidence.pictures is not None:
        return _axes_of_pictures(path, evidence, evidence.pictures)
    seen = evidence.layers[path]
    samples = seen.samples()
    if samples is None:
        return None
    sure = sure_space(model, inputs, evidence.input_key)
    channels_first = channel_order(model, INPUT).channels_first
    responses = seen.responses(samples)
    sample = seen.sample_shape(samples)
    layer_first = channel_order(model, path).channels_first
    per_space = []
    for space in spaces_of(evidence.input_shape, sure, channels_first):
        shapes = (sample, samples, space, evidence.input_shape)
        sizes = tuple(evidence.input_shape[axis] for axis in space)
        best = best_reading(list(readings(*shapes)), responses, sizes, layer_first)
        if best[1] < ENOUGH:  # sums over frames agree too easily to compete with a whole picture
            best = best_reading(list(framed_readings(*shapes)), responses, sizes, layer_first)
        per_space.append(best)
    # The likeliest axes of the input come first: others are taken only where they agree far better.
    enough = max(ENOUGH, FAR_BETTER * max(value for _, value in per_space))
    for reading, value in per_space:
        if reading is not None and value >= max(enough, _by_chance(reading)):
            size = _size_along(reading, evidence.input_shape, seen.frames(samples, reading))
            named = named_input(inputs, evidence.input_key)
            space = reading.input_axes
            return LayerAxes(path, reading.layout, "evidence", value, named, space, size)
    return None


def _axes_of_pictures(path: str, evidence: Evidence, pictures: Packed) -> LayerAxes | None:
    """The same of packed pictures, with a token for each square of patches or for each patch.

    Tokens of squares are a grid, also among text. Patches are one axis, in the input's own order:
    square by square, so that a grid of them would be none of the picture.
    """
    seen = evidence.layers[path]
    samples = seen.samples()
    if samples is None:
        return None
    responses = seen.responses(samples)
    sample = seen.sample_shape(samples)
    patches = math.prod(pictures.grid)
    of_patches = len(sample) == 2 and sample[0] == patches and pictures.merge > 1
    if of_patches:
        responses = [response.grouped(pictures.merge**2) for response in responses]
        sample = tuple(responses[0].even.shape)
    space = tuple(range(1, len(evidence.input_shape) - 1))
    candidates = list(readings(sample, samples, space, evidence.input_shape))
    best, value = best_reading(candidates, responses, pictures.squares)
    if best is None or value < max(ENOUGH, _by_chance(best)):
        return None
    layout = best.layout
    size = pictures.grid
    if of_patches:
        layout = Layout("tokens", (patches,), samples=samples)
        size = (patches,)
    return LayerAxes(path, layout, "evidence", value, evidence.input_key, None, size)


def _by_chance(reading: Reading) -> float:
    """About the agreement that noise has on so few positions: 0.7 on two, 0.14 on 7 x 7."""
    return 1.0 / math.sqrt(math.prod(reading.layout.grid))


def guessed_axes(
    model: Model,
    inputs: Inputs,
    path: str,
    shape: Sequence[int],
    size: Shape | None,
    evidence: Evidence | None,
) -> LayerAxes:
    """The likeliest reading of the shape; where the samples are is taken from the evidence, if that
    tells.
    """
    samples = evidence.layers[path].samples() if evidence is not None else None
    samples = Samples() if samples is None else samples
    sample = samples.shape(shape)
    order = channel_order(model, path)
    layout = _with_space(layouts.infer(sample, size, order), path, sample)
    return LayerAxes(path, replace(layout, samples=samples), "guess")


def is_ambiguous(axes: LayerAxes, size: Shape | None, shape: Sequence[int]) -> bool:
    """Whether a guess could as well have been another one, with another map."""
    if axes.how != "guess" or size is None:
        return False
    sample = axes.layout.samples.shape(shape)
    if axes.layout.of_tokens:
        return len(layouts.token_grids(sample[0], size)) > 1
    first = sample[1:]
    last = sample[:-1]
    return len(first) == 1 or layouts.fits(first, size) == layouts.fits(last, size)


# ---------------------------------------------------------------------------- the input's own axes


def sure_space(model: Model, inputs: Inputs, key: InputKey) -> Shape | None:
    """The axes of an input (N, ...) that its positions run along; None where that is in doubt."""
    shape = tuple(int(n) for n in arrays_of(inputs)[key].shape)
    if len(shape) == 2:
        return (1,)
    order = channel_order(model, INPUT)
    if len(shape) == 3 and order.sure and min(shape[1:]) < FEWEST_BANDS:
        return (2,) if order.channels_first else (1,)
    if len(shape) != 4:
        return None
    few_in_front = shape[1] <= 4
    few_behind = shape[-1] <= 4
    if few_in_front != few_behind:
        return (2, 3) if few_in_front else (1, 2)
    return None  # the first layer's type does not tell: a network may move the bands of its input


def _disturbed_axes(model: Model, inputs: Inputs, key: InputKey) -> Shape:
    space = sure_space(model, inputs, key)
    if space is not None:
        return space
    return tuple(range(1, arrays_of(inputs)[key].ndim))


def named_input(inputs: Inputs, key: InputKey) -> InputKey | None:
    """The key of an input where there are several; None of the only one."""
    return key if len(arrays_of(inputs)) > 1 else None


def _size_along(reading: Reading, input_shape: Shape, frames: int | None) -> Shape:
    size = tuple(input_shape[axis] for axis in reading.input_axes)
    return size if frames is None else (frames, *size)
