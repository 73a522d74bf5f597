"""Methods and controls, measured over photographs: is the explanation any good?

photographs -> planning: the arguments, checked
            -> run: each photograph as the network sees it, its maps, their measures
            -> store: rows, kept as soon as they are measured
            -> Evaluation: results by method and measure, their intervals, a figure
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gradcam._files import write_whole
from gradcam._numbers import check_whole
from gradcam._progress import Progress, tell
from gradcam._types import LayerLike
from gradcam._warnings import warn
from gradcam.backends import entry, versions
from gradcam.evaluation.annotations import (
    Annotation,
    annotation_of,
    check_names,
    read_annotations,
)
from gradcam.evaluation.planning import (
    MeasureLike,
    Photograph,
    Plan,
    check_kept,
    chosen_classes,
    listed,
    photographs_of,
    plan,
)
from gradcam.evaluation.run import REFUSALS, Evaluator, Seen
from gradcam.evaluation.store import SCHEMA, Row, Store, json_number, merged, opened
from gradcam.explaining.prepare import unwrap
from gradcam.identity import identity
from gradcam.methods import MethodLike
from gradcam.metrics import CONTROLS, MEASURES, Measure, Result
from gradcam.metrics.subject import Confidence
from gradcam.pictures.charts import Interval, Panel, dots
from gradcam.pictures.figure import png
from gradcam.pictures.notebook import table_html
from gradcam.pictures.shown import number

__all__ = ["DEFAULT", "Evaluation", "evaluate"]

DEFAULT = ("average-drop", "increase-in-confidence", "insertion", "deletion", "road")
"""The measures that are run where none are named: none of them needs annotations."""

SHOWN = ("photograph", "method", "control", "class", "score", "seconds")
"""What a row of the result has besides its values and failures."""


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`: for each photograph and method a row of values.

    rows: "photograph", "method", "control", "class", "score", "seconds" (of the explanation) and
        "values", by measure: a number ("inf" where it is infinite), None where the measure is not
        defined there, or a list. Where a measure could not be run, "failed" has the reason, by
        measure.
    skipped: the photographs that could not be measured, and why.
    table: the rows of measures that are not in `gradcam.metrics.MEASURES`, by name.
    """

    rows: tuple[Row, ...]
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    measures: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, Measure] = field(default_factory=dict)

    @cached_property
    def results(self) -> dict[tuple[str, str], Result]:
        """(method or control, measure) -> its values for all photographs."""
        results = {}
        for method in (*self.methods, *self.controls):
            rows = [row for row in self.rows if row["method"] == method]
            for name in self.measures:
                values = _stacked([row["values"].get(name) for row in rows])
                if values is not None:
                    results[method, name] = self._result(name, values)
        return results

    def _result(self, name: str, values: np.ndarray) -> Result:
        measure = {**MEASURES, **self.table}[name]
        options = self.about.get("settings", {}).get("options", {})
        summary = measure.summary(options.get(name, {}))
        return Result(name, values, measure.better, summary=summary)

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The median time of an explanation, by method."""
        times: dict[str, list[float]] = {}
        for row in self.rows:
            if "seconds" in row:
                times.setdefault(row["method"], []).append(row["seconds"])
        return {name: float(np.median(times[name])) for name in self.methods if name in times}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `evaluation.json` and `evaluation.png` (needs matplotlib) to the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        contents = {
            "schema": 1,
            **self.about,
            "skipped": dict(self.skipped),
            "summary": [self._summary(method, name) for method, name in self.results],
            "rows": list(self.rows),
        }
        picture = png(self.figure())  # before anything is written
        text = json.dumps(contents, indent=1, allow_nan=False)
        write_whole(folder / "evaluation.json", text + "\n")
        write_whole(folder / "evaluation.png", picture)
        return folder

    def _summary(self, method: str, name: str) -> Row:
        result = self.results[method, name]
        return {
            "method": method,
            "control": method in self.controls,
            "measure": name,
            "value": json_number(result.value),
            "interval": [json_number(end) for end in result.interval()],
            "better": result.better,
            "photographs": result.count,
        }

    def as_table(self) -> tuple[list[str], list[list[str]]]:
        """Heads, and a row for each method and then each control: means with 95 % intervals."""
        heads = ["method"]
        for name in self.measures:
            found = [result for (_, measure), result in self.results.items() if measure == name]
            better = found[0].better if found else None
            heads.append(f"{name}, {better} is better" if better else name)
        rows = []
        for method in (*self.methods, *self.controls):
            cells = [method]
            for name in self.measures:
                result = self.results.get((method, name))
                if result is None or not result.count or not np.isfinite(result.value):
                    cells.append("–")
                    continue
                low, high = result.interval()
                interval = f" ({number(low)} to {number(high)})" if result.count > 1 else ""
                cells.append(f"{number(result.value)}{interval}")
            rows.append(cells)
        return heads, rows

    def __str__(self) -> str:
        heads, rows = self.as_table()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = []
        for row in (heads, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        lines.append(f"means with 95 % intervals; controls: {', '.join(self.controls) or 'none'}")
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        return table_html(*self.as_table(), "means with 95 % intervals; the last rows are controls")

    def figure(self) -> Any:
        """A matplotlib figure: a panel for each measure, with 95 % intervals, controls in grey."""
        panels = []
        for name in self.measures:
            lines = []
            title = name
            for method in (*self.methods, *self.controls):
                result = self.results.get((method, name))
                if result is not None and np.isfinite(result.value):
                    low, high = result.interval()
                    control = method in self.controls
                    lines.append(Interval(method, low, result.value, high, control=control))
                    if result.better is not None:
                        title = f"{name}\n{result.better} is better"
            if lines:
                panels.append(Panel(title, lines))
        return dots(panels)


@entry
def evaluate(
    model: Any,
    images: Any,
    methods: MethodLike | Sequence[MethodLike] = ("grad-cam",),
    measures: MeasureLike | Sequence[MeasureLike] = DEFAULT,
    *,
    layer: LayerLike = None,
    target: Any = None,
    annotations: Any = None,
    category: str | None = None,
    controls: str | Sequence[str] = tuple(CONTROLS),
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    confidence: Confidence = "softmax",
    batch: int = 8,
    seed: int = 0,
    progress: Progress = False,
) -> Evaluation:
    """Measure methods, and beside them controls that know nothing of the model, over photographs.

    model: a `gradcam.Classifier` with `preprocess`; or any model, if `images` are arrays that it
        takes.
    images: a folder, files, RGB arrays (H, W, 3) by name, or the results of a `gradcam.run`, whose
        photographs these are. A file that cannot be read is reported and skipped. For a bare model,
        its inputs: an array (N, ...).
    methods: as `method` of `gradcam.explain`: names, functions of your own, or pairs such as
        `("layer-cam", {"gamma": 2.0})`.
    measures: names in `gradcam.metrics.MEASURES`, or `gradcam.metrics.Measure` objects of your own.
    layer: as in `gradcam.explain`.
    target: the class to explain: an int, a class name where the classifier has `labels`, or one of
        these for each photograph, (N,). None: each photograph's top class.
    annotations: for the measures that need a mask: what `gradcam.evaluation.read_annotations`
        takes, or its result, by file name with or without its ending. Pass only objects of the
        explained class, by `category` where the file names them. A photograph without annotation
        has no value of these measures.
    controls: names in `gradcam.metrics.CONTROLS`.
    out: a folder to which each row is written as soon as it is measured (`rows.jsonl`). What is
        there already of the same photograph, objects and options is not computed again. Rows of
        another model, told by its layers and a hash of its weights, are a ValueError; a method or
        measure of your own is told by its code and what it reads. One evaluation at a time may
        write to the folder. docs/files.md has the format.
    options: keyword arguments of a method or measure, by its name:
        `{"insertion": {"baseline": "mean"}}`.
    confidence: what the measures take for a class's confidence: see `gradcam.metrics.Subject`.
    batch: how many inputs a measure gives to the model at a time.
    seed: the source of all that is drawn at random; each photograph draws its own.
    progress: True prints what comes next; a function is told it.

    Raises a ValueError or TypeError that names the argument, and a ValueError where no photograph
    could be measured. What a model, a method or a measure refuses for one photograph is in the
    `failed` of its row; a measure refuses by a ValueError, and its other errors are raised.
    """
    check_whole("batch", batch, 1)
    check_whole("seed", seed, 0)
    asked = plan(
        model,
        layer,
        listed(methods),
        listed(measures),
        listed(controls),
        dict(options or {}),
        confidence,
        batch,
        seed,
    )
    photographs = photographs_of(model, images)
    classes = chosen_classes(model, target, len(photographs))
    marks = _annotations(asked, annotations, category, [name for name, _ in photographs])
    if out is not None:
        check_kept(layer)
    settings = _settings(asked, layer, target, classes)
    if out is not None:
        settings |= _identified(asked)
    with opened(out, settings) as store:
        runner = _Runner(asked, marks, store, progress)
        for (name, photograph), target_class in zip(photographs, classes, strict=True):
            runner.add(name, photograph, target_class)
    if runner.skipped and not runner.rows:
        reasons = "; ".join(dict.fromkeys(runner.skipped.values()))
        raise ValueError(f"no photograph could be measured: {reasons}")
    used = {name: own for name, own in asked.options.items() if own}
    return Evaluation(
        rows=tuple(runner.rows),
        methods=tuple(asked.methods),
        controls=asked.controls,
        measures=tuple(asked.measures),
        skipped=runner.skipped,
        about={"settings": {**settings, "options": used}, "versions": versions()},
        table=asked.measures,
    )


class _Runner:
    """Measures photographs one after the other; `rows` and `skipped` grow."""

    def __init__(
        self, asked: Plan, marks: Mapping[str, Annotation], store: Store, progress: Progress
    ) -> None:
        self._plan = asked
        self._marks = marks
        self._store = store
        self._progress = progress
        self._evaluator = Evaluator(asked)
        self.rows: list[Row] = []
        self.skipped: dict[str, str] = {}

    def add(self, name: str, photograph: Photograph, target: int | None) -> None:
        """Measure all methods and controls on one photograph, or skip what the model refuses."""
        try:
            seen = self._evaluator.see(photograph, annotation_of(self._marks, name), target)
        except REFUSALS as error:
            self.skipped[name] = str(error)
            return
        self.rows.extend(self._measured(name, seen))

    def _measured(self, name: str, seen: Seen) -> Iterator[Row]:
        measures = tuple(self._plan.measures)
        for method in (*self._plan.methods, *self._plan.controls):
            key = {"photograph": name, "method": method, **seen.key}
            options = self._plan.options_of(method, *measures)
            known = self._store.find(key, options, self._plan.masked)
            missing = [measure for measure in measures if measure not in known["values"]]
            if missing:
                tell(self._progress, f"{name}: {method}")
                row = self._evaluator.row(seen, method, missing)
                self._store.add({**key, "options": self._plan.options_of(method, *missing), **row})
                known = merged(known, row)
            yield _shown(key, known, measures)


def _shown(key: Row, known: Row, measures: Sequence[str]) -> Row:
    """A row of the result: only the measures that were asked for, without the store's fields."""
    everything = {**key, **known}
    row = {}
    for name in SHOWN:
        if name in everything:
            row[name] = everything[name]
    row["values"] = {name: known["values"][name] for name in measures if name in known["values"]}
    row["failed"] = known["failed"]
    return row


def _settings(asked: Plan, layer: LayerLike, target: Any, classes: Sequence[int | None]) -> Row:
    """What all rows that are kept in one folder must have in common, besides the model."""
    _, classifier = unwrap(asked.model)
    if layer is None and classifier is not None:
        layer = classifier.layer
    stored_layer = layer
    if layer is not None:
        stored_layer = str(layer)
    stored_target: int | str | None = None
    if np.ndim(target) > 0:
        stored_target = "one for each photograph"  # whose rows have it
    elif target is not None and classes:
        stored_target = classes[0]
    return {
        "layer": stored_layer,
        "target": stored_target,
        "confidence": asked.confidence,
        "seed": asked.seed,
    }


def _identified(asked: Plan) -> Row:
    """What tells the model from others; a warning of what cannot be told."""
    model = identity(unwrap(asked.model)[0])
    unknown = {*model.unknown, *(kind for own in asked.own.values() for kind in own.unknown)}
    if unknown:
        warn(
            "rows in `out` are used again where the model, the methods and the measures are the "
            f"same, but these read what cannot be compared: {', '.join(sorted(unknown))}; choose "
            "another folder when that changes",
            UserWarning,
        )
    return {"schema": SCHEMA, "model": model.name, "weights": model.digest}


def _annotations(
    asked: Plan, annotations: Any, category: str | None, photographs: Sequence[str]
) -> Mapping[str, Annotation]:
    """Annotations by name, which agree with the photographs' where a measure needs them."""
    marks = annotations
    if annotations is not None and not isinstance(annotations, Mapping):
        marks = read_annotations(annotations, category)
    if asked.masked:
        if marks is None:
            raise ValueError(
                f"{', '.join(asked.masked)} need `annotations`: "
                "a COCO file, VOC files, masks or a table of boxes"
            )
        check_names(marks, photographs)
    return marks or {}


def _stacked(values: Sequence[Any]) -> np.ndarray | None:
    """(N,) numbers, or (N, T) of those that have lists; None where no photograph has a value."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    if isinstance(defined[0], list):
        values = defined
    return np.array(values, dtype=np.float64)  # None becomes NaN, and "inf" infinity
