"""The verdict on one answer: right, told, or wrong in silence. It imports nothing of gradcam.

Right: the map is the oracle's to 1e-4 of its peak, is not blank, and the layer is one that the
model's documentation reads as a picture, whose places the score can be reached from, and which was
not chosen too early. Told: else, but an error or a warning says what is wrong and what to do, or
the result says that its axes were guessed. All the rest is wrong in silence, also an error that
helps nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.foreign.axes import Reading, Truth, grad_cam, places, read

__all__ = ["RIGHT", "TOLD", "WRONG", "Answer", "Tap", "Verdict", "apart", "helps", "judged"]

TOLERANCE = 1e-4
RIGHT, TOLD, WRONG = "right", "told", "wrong in silence"

_REMEDY = re.compile(
    r"\b(pass|choose|say|name|call|explain|install|lists them|did you mean|see to it|take|use)\b"
)
_CAUSE = re.compile(
    r"\b(layer|layout|axes|axis|target|inputs?|outputs?|map|tokens?|model|position|shape)\b", re.I
)


@dataclass(frozen=True)
class Answer:
    """What was found with no layer named.

    layer: its path; maps: (N, *grid), after the ReLU; signed: a way to have the map without ReLU,
        at the same layer.
    axes, told_how: what the result says of its axes, "-" where it says nothing; guessed: whether it
        says it guessed.
    error, warnings: what was raised and warned; ours: whether the error was raised by the library
        itself.
    """

    layer: str = ""
    maps: Any = None
    signed: Callable[[], Any] | None = None
    axes: str = "-"
    told_how: str = "-"
    guessed: bool = False
    error: str | None = None
    ours: bool = False
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Tap:
    """The chosen layer's output and the score's gradient in it, from the oracle; no gradient: the
    score is not reached.

    kind: the module's type; behind: the share of all leaf modules that run after it.
    leak: how much of a change of the inputs still reaches the scores while the layer's output is
        held.
    """

    activation: np.ndarray
    gradient: np.ndarray | None
    kind: str = ""
    behind: float = 0.0
    leak: float = 0.0


DENSER = 1.5


@dataclass(frozen=True)
class Verdict:
    """One of the three, and why; the oracle's reading and how far its map is from the answer's."""

    kind: str
    why: str = ""
    reading: str = "-"
    apart: float | None = None
    notes: tuple[str, ...] = field(default=())


def helps(message: str, passed_target: bool = False) -> bool:
    """Whether a message names a cause and a remedy; to ask for a `target` that was passed is
    neither.
    """
    misleading = passed_target and re.search(r"pass (`target` as )?a function", message)
    return bool(not misleading and _REMEDY.search(message) and _CAUSE.search(message))


def apart(found: Any, expected: np.ndarray) -> float:
    """The largest difference, sample by sample in units of that sample's peak; another shape, or
    NaN, is infinite.
    """
    found = np.asarray(found, dtype=np.float64)
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    axes = tuple(range(1, expected.ndim))
    peak = np.abs(expected).max(axis=axes)
    far = np.abs(found - expected).max(axis=axes)
    if not (peak > 0).all():
        return float("inf")
    return float((far / peak).max())


def judged(
    answer: Answer, truth: Truth, tap: Callable[[str], Tap], passed_target: bool = False
) -> Verdict:
    """The verdict; `tap` is asked for the layer that the answer names."""
    if answer.error is not None:
        told = answer.ours and helps(answer.error, passed_target)
        return Verdict(TOLD if told else WRONG, f"an error: {answer.error}")
    pooled = False
    try:
        kept = tap(answer.layer)
        pooled = "Pool" in kept.kind
        why, reading, far = _compared(answer, truth, kept)
    except Exception as error:  # the oracle does not know the layer
        why, reading, far = f"the oracle cannot tap it: {type(error).__name__}: {error}", "-", None
    helpful = tuple(one for one in answer.warnings if helps(one, passed_target))
    if not why:
        if pooled:
            helpful += ("a layer that only pools",)
        return Verdict(RIGHT, "", reading, far, helpful)
    told = bool(helpful) or answer.guessed
    return Verdict(TOLD if told else WRONG, why, reading, far, helpful)


def on_object(found: Verdict, answer: Answer, place: np.ndarray) -> Verdict:
    """The same, unless the map is no more than `DENSER` times as high on the object as elsewhere.

    place: where the first sample's object is, of the input's size.
    """
    heat = np.maximum(np.asarray(answer.maps[0], dtype=np.float64), 0)
    for axis, size in enumerate(place.shape):  # each pixel has the value of the cell that it is in
        cells = (np.arange(size) + 0.5) / size * heat.shape[axis]
        heat = np.take(heat, cells.astype(int), axis=axis)
    ratio = heat[place].mean() / heat[~place].mean()
    notes = (*found.notes, f"{ratio:.1f} times as high on the object as elsewhere")
    if ratio > DENSER:
        return replace(found, notes=notes)
    return Verdict(WRONG, notes[-1], found.reading, found.apart)


def _compared(answer: Answer, truth: Truth, kept: Tap) -> tuple[str, str, float | None]:
    """What is wrong with the answer, "" for nothing; the reading; how far the maps are apart."""
    shape = tuple(int(n) for n in kept.activation.shape)
    reading = read(truth, answer.layer, kept.kind, shape)
    if isinstance(reading, str):
        return reading, "-", None
    if kept.gradient is None:
        return "the score does not depend on the layer", str(reading), None
    slope, grid = places(kept.gradient, reading)
    if int(np.prod(grid)) < 2:
        return f"one place only: {reading}", str(reading), None
    if not (slope != 0).any(axis=(1, 2, 3)).all():
        return "behind the last mixing: the score reaches no place of the layer", str(reading), None
    far = _distance(answer, kept, reading)
    if far > TOLERANCE:
        return _difference(answer, kept, reading, far), str(reading), far
    if kept.behind > truth.behind:
        return f"too early: {kept.behind:.0%} of the modules run after it", str(reading), far
    if kept.leak > truth.leak:
        return f"{kept.leak:.0%} of what the input says goes round the layer", str(reading), far
    return "", str(reading), far


def _distance(answer: Answer, kept: Tap, reading: Reading) -> float:
    """How far the answer's map is from the nearest of the oracle's, with the sign where the ReLU
    leaves nothing.
    """
    found = []
    for together in (False, True) if reading.frames > 1 else (False,):
        signed = grad_cam(kept.activation, kept.gradient, reading, together)
        rectified = np.maximum(signed, 0)
        blank = (rectified.reshape(len(rectified), -1).max(1) <= 1e-3 * np.abs(signed).max()).any()
        if blank and answer.signed is not None and np.shape(answer.maps) == signed.shape:
            found.append(apart(answer.signed(), signed))
        else:
            found.append(apart(answer.maps, rectified))
    return min(found)


def _difference(answer: Answer, kept: Tap, reading: Reading, far: float) -> str:
    """Which mistake the wrong map is, where it is one of the known ones."""
    expected = grad_cam(kept.activation, kept.gradient, reading)
    shape = np.shape(answer.maps)
    if not np.any(np.asarray(answer.maps)):
        return "the map is blank, the oracle's is not"
    if shape != expected.shape:
        return f"maps of shape {shape}, not {expected.shape}"
    if expected.ndim == 3 and shape[1] == shape[2]:
        turned = np.maximum(expected.swapaxes(1, 2), 0)
        if apart(answer.maps, turned) <= TOLERANCE:
            return "the grid is transposed"
    return f"the map differs from the oracle's by {far:.1e} of its peak"
