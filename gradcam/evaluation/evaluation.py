"""Methods against measures over photographs, with controls beside them: is the explanation any good?"""

from __future__ import annotations

import json
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gradcam._arrays import constant, to_numpy
from gradcam._types import Array, Inputs
from gradcam.benchmark.prices import forward
from gradcam.classifier import Classifier
from gradcam.diagnosis import BlankMapWarning
from gradcam.evaluation.annotations import Annotation, read_annotations, seen_mask
from gradcam.explaining.explainer import Explainer
from gradcam.explaining.explanation import versions
from gradcam.inputs import first_array
from gradcam.methods import METHODS
from gradcam.metrics import CONTROLS, MEASURES, Context, Measure, Result, Subject
from gradcam.metrics.subject import Confidence, Predict
from gradcam.model import input_channels_first
from gradcam.pictures.images import read
from gradcam.targets.outputs import class_scores

__all__ = ["Evaluation", "evaluate", "predictor"]

Row = dict[str, Any]
FAULTS = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, OSError)
"""What a photograph, a model or a measure may raise; the others are measured."""

DEFAULT = ("average-drop", "increase-in-confidence", "insertion", "deletion", "road")


def predictor(model: Any, inputs: Inputs) -> Predict:
    """A model as a plain function of NumPy arrays, as the measures want it: inputs (M, ...) -> class scores (M, K).

    model: whatever `gradcam.explain` takes; inputs: an array like those it takes, for the framework, dtype and place.
    In JAX batches are filled up to powers of two, so that few programs are compiled.
    """
    bare = model.model if isinstance(model, Classifier) else model
    like = first_array(inputs)
    jax = "jax" in type(like).__module__

    def predict(batch: np.ndarray) -> np.ndarray:
        count = len(batch)
        if jax and count & (count - 1):
            batch = np.concatenate(
                [batch, np.repeat(batch[-1:], (1 << count.bit_length()) - count, axis=0)]
            )
        outputs = forward(bare, constant(batch, like=like))()
        return to_numpy(class_scores(outputs))[:count]

    return predict


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured: for each photograph and method a row of values.

    rows: "photograph", "method", "control", "class", "score", "seconds" (of the explanation) and "values", by measure:
        a number ("inf" where it is infinite), None where the measure is not defined there, or a list. What raised is in
        "failed", by measure.
    skipped: photographs that were not, and why.
    """

    rows: tuple[Row, ...]
    methods: tuple[str, ...]
    controls: tuple[str, ...]
    measures: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def results(self) -> dict[tuple[str, str], Result]:
        """(method or control, measure) -> its values for all photographs."""
        options = self.about.get("settings", {}).get("options", {})
        results = {}
        for method in (*self.methods, *self.controls):
            rows = [row for row in self.rows if row["method"] == method]
            for name in self.measures:
                values = _stacked([row["values"].get(name) for row in rows])
                if values is not None:
                    measure = MEASURES[name]
                    summary = measure.summary(options.get(name, {}))
                    results[method, name] = Result(name, values, measure.better, summary=summary)
        return results

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The median time of an explanation, by method."""
        times = {
            m: [r["seconds"] for r in self.rows if r["method"] == m and "seconds" in r]
            for m in self.methods
        }
        return {method: float(np.median(some)) for method, some in times.items() if some}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `evaluation.json` and the picture `evaluation.png` (needs matplotlib) to the folder."""
        from gradcam.pictures import render

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = [
            {
                "method": method,
                "control": method in self.controls,
                "measure": name,
                "value": _number(result.value),
                "interval": [_number(one) for one in result.interval()],
                "better": result.better,
                "photographs": result.count,
            }
            for (method, name), result in self.results.items()
        ]
        whole = {
            "schema": 1,
            **self.about,
            "skipped": dict(self.skipped),
            "summary": summary,
            "rows": list(self.rows),
        }
        drawn = render.png(self.figure())
        (folder / "evaluation.json").write_text(
            json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        (folder / "evaluation.png").write_bytes(drawn)
        return folder

    def figure(self) -> Any:
        """A matplotlib figure: a panel for each measure, each method with its 95 % interval, controls in grey."""
        from gradcam.pictures import render

        panels = []
        for name in self.measures:
            rows = []
            for method in (*self.methods, *self.controls):
                result = self.results.get((method, name))
                if result is not None and np.isfinite(result.value):
                    low, high = result.interval()
                    rows.append((method, (low, result.value, high), method in self.controls))
            if rows:
                arrow = (
                    "higher is better" if MEASURES[name].better == "higher" else "lower is better"
                )
                panels.append((f"{name}\n{arrow}", rows))
        return render.dots(panels)


def evaluate(
    model: Any,
    images: Any,
    methods: Sequence[str] = ("grad-cam",),
    measures: Sequence[str] = DEFAULT,
    *,
    layer: Any = None,
    target: int | None = None,
    annotations: Any = None,
    category: str | None = None,
    controls: Sequence[str] = tuple(CONTROLS),
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    confidence: Confidence = "softmax",
    batch: int = 8,
    seed: int = 0,
    progress: Callable[[str], Any] = lambda _: None,
) -> Evaluation:
    """Measure methods, and beside them controls that know nothing of the model, over photographs.

    model: a `gradcam.Classifier` with `preprocess`; or any model, if `images` are arrays that it takes.
    images: a folder, files, or RGB arrays (H, W, 3) by name; a file that cannot be read is reported and skipped. For a
        bare model, its inputs: an array (N, ...).
    methods: names in `gradcam.METHODS`; measures: names in `gradcam.metrics.MEASURES`.
    target: the class to explain; None: each photograph's top class.
    annotations: for the measures that need a mask: what `gradcam.annotations.read_annotations` takes, or its result,
        by file name with or without its ending. They are of the class that is explained: leave others out, by
        `category` where the file names them.
        A photograph that has none has no value of these measures.
    controls: names in `gradcam.metrics.CONTROLS`.
    out: a folder that each row is written to as it is found (`rows.jsonl`). What is there already of the same
        photographs, objects, options and model, told by what it puts out for them, is not computed again.
    options: keyword arguments of a measure or method, by its name, such as {"insertion": {"baseline": "mean"}}.
    confidence: what the measures take for a class's confidence: see `gradcam.metrics.Subject`.
    batch: how many inputs the model is given at a time. progress: told what comes next.
    """
    methods, measures, controls = (
        (one,) if isinstance(one, str) else tuple(one) for one in (methods, measures, controls)
    )
    known: dict[str, tuple[Sequence[str], list[str]]] = {
        "methods": (methods, list(METHODS)),
        "measures": (measures, list(MEASURES)),
        "controls": (controls, list(CONTROLS)),
    }
    for name, (given, names) in known.items():
        if unknown := [one for one in given if one not in names]:
            raise ValueError(f"`{name}` {unknown} are not known; known are {', '.join(names)}")
    if not methods or not measures:
        raise ValueError("`methods` and `measures` must not be empty")
    marks = annotations if isinstance(annotations, Mapping) else None
    if annotations is not None and marks is None:
        marks = read_annotations(annotations, category)
    if marks is None and (without := [name for name in measures if MEASURES[name].needs == "mask"]):
        raise ValueError(
            f"{', '.join(without)} need `annotations`: a COCO file, VOC files, masks or a table of boxes"
        )
    options = dict(options or {})
    if unknown := [name for name in options if name not in METHODS and name not in MEASURES]:
        raise ValueError(
            f"`options` {unknown} are of no method or measure; known are {', '.join((*METHODS, *MEASURES))}"
        )
    if out is not None and not isinstance(layer, (str, type(None))):
        raise TypeError(
            "give `layer` by its path, as `gradcam.layers` lists it, for rows that are kept in `out`"
        )
    chosen = {name: dict(options.get(name, {})) for name in (*methods, *controls, *measures)}
    settings: Row = {
        "layer": layer if layer is None else str(layer),
        "target": None if target is None else int(target),
        "confidence": confidence,
        "seed": int(seed),
    }
    photographs = list(_photographs(model, images))
    if marks is not None and any(MEASURES[name].needs == "mask" for name in measures):
        _check_names(marks, [name for name, _ in photographs])
    store = _Store(out, settings)
    evaluator = _Evaluator(
        model, layer, None if target is None else int(target), confidence, chosen, batch, seed
    )
    skipped: dict[str, str] = {}
    rows = []
    for name, photograph in photographs:
        try:
            seen = evaluator.see(photograph, None if marks is None else _named(marks, name))
        except FAULTS as error:  # a file that cannot be read, or that the model does not take
            skipped[name] = f"{error}"
            continue
        for method in (*methods, *controls):
            key = {"photograph": name, "method": method, **seen.key}
            row = store.find(key, chosen)
            missing = [one for one in measures if one not in row["values"]]
            if missing:
                progress(f"{name}: {method}")
                found = evaluator.row(seen, method, missing)
                store.add(
                    {**key, "options": {one: chosen[one] for one in (method, *missing)}, **found}
                )
                row = _merged(row, found)
            values = {one: row["values"][one] for one in measures if one in row["values"]}
            rows.append({"photograph": name, **row, "values": values})
    if not rows and skipped:
        raise ValueError(f"no photograph could be measured: {'; '.join(skipped.values())}")
    about = {
        "settings": {**settings, "options": {name: some for name, some in chosen.items() if some}}
    }
    return Evaluation(
        tuple(rows), methods, controls, measures, skipped, {**about, "versions": versions()}
    )


def _named(marks: Mapping[str, Annotation], name: str) -> Annotation | None:
    """By the file's name, with its ending or without."""
    return next(
        (marks[key] for key in (name, Path(name).name, Path(name).stem) if key in marks), None
    )


def _check_names(marks: Mapping[str, Annotation], names: Sequence[str]) -> None:
    if not any(_named(marks, name) is not None for name in names):
        raise ValueError(
            f"no photograph has annotations: they are of {', '.join(list(marks)[:3]) or 'nothing'}, ..., and the "
            f"photographs are {', '.join(names[:3])}, ..."
        )


# ------------------------------------------------------------------------------------------------ one photograph


@dataclass(frozen=True)
class _Seen:
    """A photograph as the network sees it."""

    inputs: Array
    subject: Subject
    mask: np.ndarray | None
    boxes: list[tuple[int, int, int, int]]
    seed: int
    """Of this photograph: what is drawn for one is not drawn for the next."""
    key: Row
    """What it is, its objects, and what the model says of it: whether a row that was kept is of the same."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What measures of all its maps share."""

    def context(
        self, maps: np.ndarray, explain: Any, options: Row, of_maps: dict[str, Any]
    ) -> Context:
        """What a measure of these maps is run with."""
        return Context(
            self.subject,
            maps,
            explain,
            masks=None if self.mask is None else self.mask[None],
            boxes=[self.boxes],
            seed=self.seed,
            options=options,
            of_maps=of_maps,
            of_subject=self.shared,
        )


class _Evaluator:
    """One model, and how it is explained and asked."""

    def __init__(
        self,
        model: Any,
        layer: Any,
        target: int | None,
        confidence: Confidence,
        options: dict[str, dict[str, Any]],
        batch: int,
        seed: int,
    ) -> None:
        self.model, self.layer, self.target, self.confidence = model, layer, target, confidence
        self.options, self.batch, self.seed = options, batch, seed
        self._explainers: dict[str, Explainer] = {}
        self._predict: Predict | None = None

    def see(self, photograph: Any, annotation: Annotation | None) -> _Seen:
        view = None
        if isinstance(photograph, Path):
            photograph = read(photograph)
            if not isinstance(self.model, Classifier) or self.model.preprocess is None:
                raise ValueError(
                    "photographs need a gradcam.Classifier with `preprocess`, which makes the model's inputs"
                )
        bare = self.model.model if isinstance(self.model, Classifier) else self.model
        if isinstance(self.model, Classifier) and self.model.preprocess is not None:
            view = self.model.view
            inputs = self.model.preprocess([photograph if view is None else view(photograph)])
        else:
            inputs = photograph
        from gradcam import backends

        adapted = backends.adapt(bare, inputs)
        if getattr(adapted, "trains", False):
            raise ValueError(
                "the model is in training mode, in which it changes with what it is shown; call model.eval()"
            )
        if self._predict is None:
            self._predict = predictor(self.model, inputs)
        axis = 1 if input_channels_first(adapted, inputs) else -1
        subject = Subject(
            self._predict,
            to_numpy(inputs),
            self.target,
            channel_axis=axis,
            confidence=self.confidence,
            batch=self.batch,
        )
        whole, boxes = (
            (None, [])
            if annotation is None
            else _objects(annotation, photograph, subject.size, view)
        )
        if not np.isfinite(subject.outputs).all():
            raise ValueError("the model's outputs for it are NaN or infinite")
        content = zlib.crc32(np.ascontiguousarray(subject.inputs).tobytes())
        outputs = [
            subject.outputs.mean(),
            subject.outputs.std(),
            subject.outputs.max(),
            subject.clean[0],
        ]
        key = {
            "content": content,
            "objects": None
            if whole is None
            else [zlib.crc32(np.packbits(whole).tobytes()), *map(list, boxes)],
            "outputs": [float(f"{one:.6g}") for one in outputs],
        }
        return _Seen(inputs, subject, whole, boxes, self.seed ^ content, key)

    def row(self, seen: _Seen, method: str, measures: Sequence[str]) -> Row:
        subject = seen.subject
        row: Row = {"method": method, "control": method in CONTROLS}
        row |= {
            "class": int(subject.classes[0]),
            "score": float(subject.clean[0]),
            "values": {},
            "failed": {},
        }

        def explain(inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
            if row["control"]:
                return np.asarray(CONTROLS[method](inputs, subject.channel_axis, self.seed))
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", BlankMapWarning
                )  # a measure of a blank map says enough
                explainer = self._explainers.get(method)
                if explainer is None:
                    explainer = Explainer(self.model, self.layer, method, **self.options[method])
                    self._explainers[method] = explainer
                return to_numpy(explainer(constant(inputs, like=seen.inputs), classes).maps)

        try:
            explain(
                subject.inputs, subject.classes
            ) if method not in self._explainers else None  # compiled
            start = time.perf_counter()
            maps = explain(subject.inputs, subject.classes)
            row["seconds"] = time.perf_counter() - start
        except FAULTS as error:
            row["failed"] = dict.fromkeys(measures, f"{type(error).__name__}: {error}")
            return row
        of_maps: dict[str, Any] = {}
        for name in measures:
            context = seen.context(maps, explain, self.options[name], of_maps)
            try:
                row["values"][name] = _value(MEASURES[name], context)
            except FAULTS as error:
                row["failed"][name] = f"{type(error).__name__}: {error}"
        return row


def _value(measure: Measure, context: Context) -> Any:
    """The measure's value of the one sample, for JSON; None where it has none."""
    if measure.needs == "mask" and context.masks is None:
        return None
    value = measure.run(context).values[0]
    if np.ndim(value):
        return [_number(float(element)) for element in value]
    return _number(float(value))


def _objects(
    annotation: Annotation, photograph: Any, size: tuple[int, int], view: Any
) -> tuple[np.ndarray | None, list[tuple[int, int, int, int]]]:
    """The mask of what the network sees of the objects, and the box round each; None and none where it sees nothing."""
    picture = (
        photograph
        if isinstance(photograph, np.ndarray) and photograph.ndim == 3
        else np.zeros((*size, 3), np.uint8)
    )
    whole = seen_mask(annotation, picture, view)
    if whole.shape != size:
        raise ValueError(f"the mask has {whole.shape} pixels, but the network sees {size}")
    if not whole.any():
        return None, []
    each = [seen_mask(Annotation((box,)), picture, view) for box in annotation.boxes] or [whole]
    return whole, [_bounds(mask) for mask in each if mask.any()]


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# ------------------------------------------------------------------------------------------------ what is kept


class _Store:
    """Rows, in memory and in a file to which each is added as it is found."""

    def __init__(self, folder: str | os.PathLike[str] | None, settings: Row) -> None:
        self.rows: list[Row] = []
        self.path = None
        if folder is None:
            return
        directory = Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        self.path, self.before, self.settings = (
            directory / "rows.jsonl",
            directory / "settings.json",
            settings,
        )
        if self.before.exists():
            if json.loads(self.before.read_text(encoding="utf-8")) != settings:
                raise ValueError(
                    f"`out` {directory} holds an evaluation with other settings; choose another folder"
                )
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            for line in lines:
                try:
                    self.rows.append(json.loads(line))
                except json.JSONDecodeError:  # half a line, where the last run was stopped
                    continue
            # whole lines alone, so that what is added starts a new one
            self.path.write_text(
                "".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8"
            )
        elif any(directory.iterdir()):
            raise ValueError(
                f"`out` {directory} is not empty, and holds no evaluation; choose another folder"
            )

    def find(self, key: Row, options: Mapping[str, Row]) -> Row:
        """What is known of this photograph, method and model, of measures with these options, as one row."""
        wanted = json.loads(json.dumps(options))
        merged: Row = {"method": key["method"], "values": {}, "failed": {}}
        for row in self.rows:
            if any(row.get(name) != key[name] for name in ("photograph", "method", "content")):
                continue
            if not np.allclose(row["outputs"], key["outputs"], rtol=1e-3):  # of another model
                continue
            used = row["options"]
            if used.get(key["method"]) != wanted[key["method"]]:
                continue
            values = {
                name: value
                for name, value in row["values"].items()
                if used.get(name) == wanted.get(name)
                and (MEASURES[name].needs != "mask" or row["objects"] == key["objects"])
            }
            merged = _merged(merged, {**row, "values": values, "failed": {}})
        return {
            name: value
            for name, value in merged.items()
            if name not in ("options", *key) or name == "method"
        }

    def add(self, row: Row) -> None:
        row = json.loads(json.dumps(row, allow_nan=False))
        self.rows.append(row)
        if self.path is not None:
            if not self.before.exists():
                self.before.write_text(json.dumps(self.settings, indent=1) + "\n", encoding="utf-8")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _merged(old: Row, new: Row) -> Row:
    """One row of two; what failed before and then did not has not failed."""
    values = {**old["values"], **new["values"]}
    failed = {
        name: why for name, why in {**old["failed"], **new["failed"]}.items() if name not in values
    }
    return {**old, **new, "values": values, "failed": failed}


def _photographs(model: Any, images: Any) -> Iterable[tuple[str, Any]]:
    """(name, a path or an array of one photograph)."""
    if isinstance(images, Mapping):
        return list(images.items())
    if isinstance(images, (str, os.PathLike)):
        folder = Path(images)
        if not folder.is_dir():
            raise ValueError(
                f"`images` {folder} is no folder; pass a folder, a list of files, or arrays by name"
            )
        files = [
            file
            for file in sorted(folder.iterdir())
            if file.is_file() and not file.name.startswith(".")
        ]
        if not files:
            raise ValueError(f"`images` {folder} holds no file")
        return [(file.name, file) for file in files]
    if isinstance(images, (list, tuple)) and images and isinstance(images[0], (str, os.PathLike)):
        return [(str(file), Path(file)) for file in images]
    if hasattr(images, "shape") and not (isinstance(model, Classifier) and model.preprocess):
        return [(str(n), images[n : n + 1]) for n in range(int(images.shape[0]))]
    raise TypeError(
        "`images` must be a folder, a list of files, RGB arrays by name, or a bare model's inputs (N, ...)"
    )


def _number(value: float) -> float | str | None:
    """For JSON, which has neither NaN, here null, nor infinity, here "inf", as a large number would not be true."""
    return None if np.isnan(value) else str(value) if np.isinf(value) else value


def _stacked(values: Sequence[Any]) -> np.ndarray | None:
    """(N,) or (N, T); None where no photograph has a value."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    if isinstance(there[0], list):
        return np.array(there, dtype=np.float64)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
