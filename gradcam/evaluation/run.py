"""One photograph: as the network sees it, explained by a method, and measured.

Whatever the user's model, files and photographs raise is reported, and the rest is measured: it
becomes a `ModelError` where they are called. So are refusals of the library, which are ValueErrors.
Every other error is a fault in the library's code, or in a measure's, and is let through.
"""

from __future__ import annotations

import functools
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gradcam import backends
from gradcam._arrays import constant, to_numpy
from gradcam._faults import FAULTS, described, is_ours
from gradcam._types import Inputs
from gradcam.classifier import Classifier
from gradcam.diagnosis import BlankMapWarning
from gradcam.evaluation.annotations import Annotation, View, seen_mask
from gradcam.evaluation.planning import Photograph, Plan
from gradcam.evaluation.prediction import predictor
from gradcam.evaluation.store import Row, json_number
from gradcam.explaining.prepare import unwrap
from gradcam.metrics import CONTROLS, Context, Measure, Subject
from gradcam.metrics.subject import Explain, Predict
from gradcam.model import HasTraining, Model, input_channels_first
from gradcam.pictures.images import read

__all__ = ["REFUSALS", "Evaluator", "ModelError", "Seen"]

R = TypeVar("R")


class ModelError(Exception):
    """What the user's model, file or photograph raised; `error` is that."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


REFUSALS = (ModelError, ValueError)
"""What is reported, so that the others are measured."""


def _guarded(function: Callable[..., R]) -> Callable[..., R]:
    """The user's function, or one that runs the user's model: what it raises is a `ModelError`."""

    @functools.wraps(function)
    def call(*args: Any) -> R:
        try:
            return function(*args)
        except FAULTS as error:
            if is_ours(error):
                raise
            raise ModelError(error) from error

    return call


@dataclass(frozen=True, eq=False)
class Seen:
    """A photograph as the network sees it.

    inputs: one sample, in the model's framework. subject: the same for measures.
    mask: (H, W) booleans, the objects in it; None where it has no annotation, or the network sees
        nothing of them.
    boxes: round each of the objects. seed: this photograph's own, so that each draws something
        else.
    key: what it is, and what the model says of it: rows of the same key can be used again.
    shared: results that measures of all its maps share.
    """

    inputs: Inputs
    subject: Subject
    mask: np.ndarray | None
    boxes: list[tuple[int, int, int, int]]
    seed: int
    key: Row
    shared: dict[str, Any] = field(default_factory=dict)


class Evaluator:
    """Runs a plan, one photograph and one method at a time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._predict: Predict | None = None
        self._compiled: set[str] = set()

    # -------------------------------------------------------------------------------------- seeing

    def see(
        self, photograph: Photograph, annotation: Annotation | None, target: int | None
    ) -> Seen:
        """A photograph as the network sees it, and what the network says of it."""
        picture = photograph
        if isinstance(picture, Path):
            picture = _guarded(read)(picture)
        elif callable(picture):
            picture = _guarded(picture)()
        inputs, view = self._inputs(picture)
        adapted = self._adapted(inputs)
        if self._predict is None:
            # Made for the first photograph: it says which framework, dtype and device.
            self._predict = _guarded(predictor(self._plan.model, inputs))
        channel_axis = -1
        if input_channels_first(adapted, inputs):
            channel_axis = 1
        subject = Subject(
            self._predict,
            to_numpy(inputs),
            target,
            channel_axis=channel_axis,
            confidence=self._plan.confidence,
            batch=self._plan.batch,
        )
        mask: np.ndarray | None = None
        boxes: list[tuple[int, int, int, int]] = []
        if annotation is not None:
            mask, boxes = _objects(annotation, picture, subject.size, view)
        if not np.isfinite(subject.outputs).all():
            raise ValueError("the model's outputs for it are NaN or infinite")
        key = _key(subject, mask, boxes)
        return Seen(inputs, subject, mask, boxes, self._plan.seed ^ key["content"], key)

    def _inputs(self, picture: Any) -> tuple[Inputs, View | None]:
        """The model's inputs, of one sample, and the view of the photograph that they show."""
        model = self._plan.model
        if not isinstance(model, Classifier) or model.preprocess is None:
            return picture, None
        if model.view is None:
            return _guarded(model.preprocess)([picture]), None
        view = _guarded(model.view)
        return _guarded(model.preprocess)([view(picture)]), view

    def _adapted(self, inputs: Inputs) -> Model:
        user_model, _ = unwrap(self._plan.model)
        adapted: Model = _guarded(backends.adapt)(user_model, inputs)
        if isinstance(adapted, HasTraining) and adapted.trains:
            raise ValueError(
                "the model is in training mode, in which it changes with what it is shown; "
                "call model.eval()"
            )
        return adapted

    # ----------------------------------------------------------------------------------- measuring

    def row(self, seen: Seen, method: str, measures: Sequence[str]) -> Row:
        """The measures of one method's, or control's, map."""
        row: Row = {
            "control": method in self._plan.controls,
            "score": float(seen.subject.clean[0]),
            "values": {},
            "failed": {},
        }
        explain = self._explain(seen, method)
        try:
            maps, row["seconds"] = self._timed(explain, seen.subject, method)
        except REFUSALS as error:
            row["failed"] = dict.fromkeys(measures, _reason(error))
            return row
        of_maps: dict[str, Any] = {}
        for name in measures:
            context = self._context(seen, name, maps, explain, of_maps)
            try:
                row["values"][name] = _value(self._plan.measures[name], context)
            except REFUSALS as error:
                row["failed"][name] = _reason(error)
        return row

    def _explain(self, seen: Seen, method: str) -> Explain:
        """The method or control as a function: (inputs, classes) -> maps."""
        plan = self._plan
        if method in plan.controls:

            def control(inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
                axis = seen.subject.channel_axis
                return np.asarray(CONTROLS[method](inputs, axis, plan.seed))

            return control
        explainer = plan.methods[method]

        def explain(inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
            with warnings.catch_warnings():
                # Blank maps show up in the measures.
                warnings.simplefilter("ignore", BlankMapWarning)
                explanation = explainer(constant(inputs, like=seen.inputs), classes)
            return to_numpy(explanation.maps)

        return _guarded(explain)

    def _timed(self, explain: Explain, subject: Subject, method: str) -> tuple[np.ndarray, float]:
        """The maps and their seconds. A method's first call compiles, and is not timed."""
        if method not in self._compiled:
            self._compiled.add(method)
            explain(subject.inputs, subject.classes)
        start = time.perf_counter()
        maps = explain(subject.inputs, subject.classes)
        return maps, time.perf_counter() - start

    def _context(
        self, seen: Seen, name: str, maps: np.ndarray, explain: Explain, of_maps: dict[str, Any]
    ) -> Context:
        masks = None
        if seen.mask is not None:
            masks = seen.mask[None]
        return Context(
            seen.subject,
            maps,
            explain,
            masks=masks,
            boxes=[seen.boxes],
            seed=seen.seed,
            options=self._plan.options[name],
            of_maps=of_maps,
            of_subject=seen.shared,
        )


def _value(measure: Measure, context: Context) -> Any:
    """The measure's value of the one sample, for JSON; None where it has none."""
    if measure.needs == "mask" and context.masks is None:
        return None
    value = measure.run(context).values[0]
    if np.ndim(value):
        return [json_number(float(element)) for element in value]
    return json_number(float(value))


def _reason(refusal: Exception) -> str:
    error = refusal
    if isinstance(refusal, ModelError):
        error = refusal.error
    return described(error)


def _key(subject: Subject, mask: np.ndarray | None, boxes: Sequence[Sequence[int]]) -> Row:
    objects = None
    if mask is not None:
        objects = [zlib.crc32(np.packbits(mask).tobytes()), *map(list, boxes)]
    outputs = subject.outputs
    # Few digits of few numbers: enough to tell models apart, and the same on another machine.
    summary = [outputs.mean(), outputs.std(), outputs.max(), subject.clean[0]]
    return {
        "content": zlib.crc32(np.ascontiguousarray(subject.inputs).tobytes()),
        "class": int(subject.classes[0]),
        "outputs": [float(f"{number:.6g}") for number in summary],
        "objects": objects,
    }


# ----------------------------------------------------------------------------------------- objects


def _objects(
    annotation: Annotation, picture: Any, size: tuple[int, int], view: View | None
) -> tuple[np.ndarray | None, list[tuple[int, int, int, int]]]:
    """The mask of what the network sees of the objects, and the box round each.

    None and no box where it sees nothing of them.
    """
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        # A bare model's input: the annotation is in its pixels.
        picture = np.zeros((*size, 3), np.uint8)
    mask = seen_mask(annotation, picture, view)
    if mask.shape != size:
        raise ValueError(f"the mask has {mask.shape} pixels, but the network sees {size}")
    if not mask.any():
        return None, []
    if not annotation.boxes:
        return mask, [_bounds(mask)]
    bounds = []
    for box in annotation.boxes:
        # Through the view one by one: boxes that overlap stay apart.
        part = seen_mask(Annotation((box,)), picture, view)
        if part.any():
            bounds.append(_bounds(part))
    return mask, bounds


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
