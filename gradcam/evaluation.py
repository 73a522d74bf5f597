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

from gradcam import metrics as metrics_
from gradcam._arrays import constant, to_numpy
from gradcam._types import Array, Inputs
from gradcam.annotations import Annotation, read_annotations, seen_mask
from gradcam.benchmark import forward
from gradcam.classifier import Classifier
from gradcam.diagnosis import BlankMapWarning
from gradcam.explainer import Explainer
from gradcam.explanation import versions
from gradcam.images import read
from gradcam.methods import METHODS
from gradcam.metrics import CONTROLS, MEASURES, Result, Subject
from gradcam.metrics.localisation import best_threshold
from gradcam.metrics.result import mean
from gradcam.metrics.subject import Predict
from gradcam.model import first_array, input_first
from gradcam.targets.outputs import class_scores

__all__ = ["Evaluation", "evaluate", "predictor"]

Row = dict[str, Any]
MASKED = tuple(name for name, one in MEASURES.items() if one.needs == "mask")
SHARED = {
    "average-drop": "confidence",
    "increase-in-confidence": "confidence",
    "average-gain": "confidence",
    "adcc": "adcc",
    "coherency": "adcc",
    "complexity": "adcc",
}
"""Measures that come from one pass together."""

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
            batch = np.concatenate([batch, np.repeat(batch[-1:], (1 << count.bit_length()) - count, axis=0)])
        outputs = forward(bare, constant(batch, like=like))()
        return to_numpy(class_scores(outputs))[:count]

    return predict


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured: for each photograph and method a row of values.

    rows: "photograph", "method", "control", "class", "score", "seconds" (of the explanation) and "values", by measure:
        a number ("inf" where it is infinite), None where the measure is not defined there, or a list. A method that
        raised has "failed" instead.
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
        found = {}
        for method in (*self.methods, *self.controls):
            for name in self.measures:
                values = [row["values"].get(name) for row in self.rows if row["method"] == method and "values" in row]
                array = _stacked(values)
                if array is not None:
                    summary = best_threshold(self._overlaps) if name == "max-box-accuracy" else mean
                    found[method, name] = Result(name, array, MEASURES[name].better, summary=summary)
        return found

    @property
    def _overlaps(self) -> int:
        options = self.about.get("settings", {}).get("options", {}).get("max-box-accuracy", {})
        return int(np.size(options.get("overlap", 0.5)))

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The median time of an explanation, by method."""
        times = {m: [r["seconds"] for r in self.rows if r["method"] == m and "seconds" in r] for m in self.methods}
        return {method: float(np.median(some)) for method, some in times.items() if some}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `evaluation.json` and the picture `evaluation.png` (needs matplotlib) to the folder."""
        from gradcam import render

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
                "photographs": int(np.isfinite(result.values.reshape(len(result.values), -1)).all(1).sum()),
            }
            for (method, name), result in self.results.items()
        ]
        whole = {"schema": 1, **self.about, "skipped": dict(self.skipped), "summary": summary, "rows": list(self.rows)}
        drawn = render.png(self.figure())
        (folder / "evaluation.json").write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (folder / "evaluation.png").write_bytes(drawn)
        return folder

    def figure(self) -> Any:
        """A matplotlib figure: a panel for each measure, each method with its 95 % interval, controls in grey."""
        from gradcam import render

        panels = []
        for name in self.measures:
            rows = []
            for method in (*self.methods, *self.controls):
                result = self.results.get((method, name))
                if result is not None and np.isfinite(result.value):
                    low, high = result.interval()
                    rows.append((method, (low, result.value, high), method in self.controls))
            if rows:
                arrow = "higher is better" if MEASURES[name].better == "higher" else "lower is better"
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
    controls: Sequence[str] = tuple(CONTROLS),
    out: str | os.PathLike[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
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
    annotations: for the measures that need a mask: what `gradcam.annotations.read_annotations` takes, or its result.
        A photograph that has none has no value of them.
    controls: names in `gradcam.metrics.CONTROLS`.
    out: a folder that each row is written to as it is found (`rows.jsonl`); what is there already is not computed
        again, as long as the settings are the same.
    options: keyword arguments of a measure or method, by its name, such as {"insertion": {"baseline": "mean"}}.
    batch: how many inputs the model is given at a time. progress: told what comes next.
    """
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
        marks = read_annotations(annotations)
    if marks is None and (without := [name for name in measures if name in MASKED]):
        raise ValueError(f"{', '.join(without)} need `annotations`: a COCO file, VOC files, masks or a table of boxes")
    chosen = {name: dict((options or {}).get(name, {})) for name in (*methods, *measures)}
    settings = {
        "layer": layer if isinstance(layer, str) else None if layer is None else str(layer),
        "target": target,
        "options": {name: some for name, some in chosen.items() if some},
        "seed": seed,
    }
    store = _Store(out, settings)
    evaluator = _Evaluator(model, layer, target, tuple(measures), chosen, batch, seed)
    skipped: dict[str, str] = {}
    for name, photograph in _photographs(model, images):
        try:
            seen = evaluator.see(photograph, marks.get(Path(name).stem) if marks is not None else None)
        except (OSError, ValueError) as error:
            skipped[name] = str(error)
            continue
        for method in (*methods, *controls):
            missing = [one for one in measures if one not in store.known(name, method)]
            if missing:
                progress(f"{name}: {method}")
                store.add({"photograph": name, **evaluator.row(seen, method, missing)})
    if not store.rows and skipped:
        raise ValueError(f"no photograph could be read: {'; '.join(skipped.values())}")
    about = {"settings": settings, "versions": versions()}
    rows = tuple(store.merged((*methods, *controls)))
    return Evaluation(rows, tuple(methods), tuple(controls), tuple(measures), skipped, about)


# ------------------------------------------------------------------------------------------------ one photograph


@dataclass(frozen=True)
class _Seen:
    """A photograph as the network sees it."""

    inputs: Array
    subject: Subject
    mask: np.ndarray | None
    seed: int
    """Of this photograph: what is drawn for one is not drawn for the next."""
    occluded: dict[str, np.ndarray] = field(default_factory=dict)


class _Evaluator:
    """One model, and how it is explained and asked."""

    def __init__(
        self,
        model: Any,
        layer: Any,
        target: int | None,
        measures: tuple[str, ...],
        options: dict[str, dict[str, Any]],
        batch: int,
        seed: int,
    ) -> None:
        self.model, self.layer, self.target, self.measures = model, layer, target, measures
        self.options, self.batch, self.seed = options, batch, seed
        self._explainers: dict[str, Explainer] = {}
        self._predict: Predict | None = None

    def see(self, photograph: Any, annotation: Annotation | None) -> _Seen:
        mask = None
        if isinstance(photograph, Path):
            photograph = read(photograph)
        if isinstance(self.model, Classifier) and self.model.preprocess is not None:
            view = self.model.view
            mask = None if annotation is None else seen_mask(annotation, photograph, view)
            inputs = self.model.preprocess([photograph if view is None else view(photograph)])
        else:
            inputs = photograph
            mask = None if annotation is None or annotation.mask is None else annotation.mask
        if self._predict is None:
            self._predict = predictor(self.model, inputs)
        from gradcam import backends

        bare = self.model.model if isinstance(self.model, Classifier) else self.model
        axis = 1 if input_first(backends.adapt(bare, inputs), inputs) else -1
        subject = Subject(self._predict, to_numpy(inputs), self.target, channel_axis=axis, batch=self.batch)
        if mask is not None and mask.shape != subject.size:
            raise ValueError(f"the mask has {mask.shape} pixels, but the network sees {subject.size}")
        return _Seen(inputs, subject, mask, self.seed ^ zlib.crc32(np.ascontiguousarray(subject.inputs).tobytes()))

    def row(self, seen: _Seen, method: str, measures: Sequence[str]) -> Row:
        subject = seen.subject
        row: Row = {"method": method, "control": method in CONTROLS}
        row |= {"class": int(subject.classes[0]), "score": float(subject.clean[0])}

        def explain(inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
            if row["control"]:
                return np.asarray(CONTROLS[method](inputs, subject.channel_axis, self.seed))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BlankMapWarning)  # a measure of a blank map says enough
                explainer = self._explainers.get(method)
                if explainer is None:
                    explainer = Explainer(self.model, self.layer, method, **self.options[method])
                    self._explainers[method] = explainer
                return to_numpy(explainer(constant(inputs, like=seen.inputs), classes).maps)

        try:
            explain(subject.inputs, subject.classes) if method not in self._explainers else None  # compiled
            start = time.perf_counter()
            maps = explain(subject.inputs, subject.classes)
            row["seconds"] = time.perf_counter() - start
            row["values"] = self._values(seen, maps, explain, measures)
        except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            row["failed"] = f"{type(error).__name__}: {error}"
        return row

    def _values(self, seen: _Seen, maps: np.ndarray, explain: Any, measures: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        done: dict[str, dict[str, Result]] = {}
        for name in measures:
            group = SHARED.get(name)
            if group is None:
                result = self._one(name, seen, maps, explain)
            else:
                if group not in done:
                    done[group] = self._together(group, seen, maps, explain, self.options[name])
                result = done[group][name]
            value = None if result is None else result.values[0]
            found[name] = value if value is None else value.tolist() if np.ndim(value) else _number(float(value))
        return found

    def _together(
        self, group: str, seen: _Seen, maps: np.ndarray, explain: Any, options: dict[str, Any]
    ) -> dict[str, Result]:
        if group == "confidence":
            return metrics_.confidence_measures(seen.subject, maps, **{"seed": seen.seed, **options})
        return metrics_.adcc_parts(seen.subject, maps, explain, **{"seed": seen.seed, **options})

    def _one(self, name: str, seen: _Seen, maps: np.ndarray, explain: Any) -> Result | None:
        options, subject = self.options[name], seen.subject
        if name in MASKED:
            if seen.mask is None or not seen.mask.any():
                return None
            masks = seen.mask[None]
            rows, columns = np.flatnonzero(seen.mask.any(1)), np.flatnonzero(seen.mask.any(0))
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            if name == "max-box-accuracy":
                return metrics_.max_box_accuracy(maps, [[box]], size=subject.size, **options)
            if name == "box-error":
                error = metrics_.localisation_error(maps, [[box]], [0], [[0.0]], size=subject.size, **options)
                return Result(name, error.values, error.better)
            masked: dict[str, Callable[..., Result]] = {
                "pointing-game": metrics_.pointing_game,
                "energy": metrics_.energy,
                "box-contrast": metrics_.box_contrast,
                "mask-iou": metrics_.mask_iou,
            }
            return masked[name](maps, masks, **options)
        if name == "max-sensitivity":
            return metrics_.max_sensitivity(subject, maps, explain, **{"seed": seen.seed, **options})
        if name == "occlusion-correlation":
            if "costs" not in seen.occluded:  # the same for every method
                seen.occluded["costs"] = metrics_.occlusion(subject, **options)
            return metrics_.occlusion_correlation(subject, maps, occluded=seen.occluded["costs"], **options)
        asked: dict[str, Callable[..., Result]] = {
            "insertion": metrics_.insertion,
            "deletion": metrics_.deletion,
            "road": metrics_.road_combined,
            "infidelity": metrics_.infidelity,
        }
        return asked[name](subject, maps, **{"seed": seen.seed, **options})


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
        self.path, before = directory / "rows.jsonl", directory / "settings.json"
        wanted = json.loads(json.dumps(settings))
        if before.exists():
            if json.loads(before.read_text(encoding="utf-8")) != wanted:
                raise ValueError(f"`out` {directory} holds an evaluation with other settings; choose another folder")
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            for line in lines:
                try:
                    self.rows.append(json.loads(line))
                except json.JSONDecodeError:  # half a line, where the last run was stopped
                    continue
            # whole lines alone, so that what is added starts a new one
            self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        else:
            if any(directory.iterdir()):
                raise ValueError(f"`out` {directory} is not empty, and holds no evaluation; choose another folder")
            before.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")

    def known(self, photograph: str, method: str) -> set[str]:
        """The measures that are there."""
        some = [row for row in self.rows if (row["photograph"], row["method"]) == (photograph, method)]
        return {name for row in some for name in row.get("values", ())}

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")

    def merged(self, methods: Sequence[str]) -> Iterable[Row]:
        """One row for each photograph and method asked for; of what failed and then did not, the latter."""
        together: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            key = (row["photograph"], row["method"])
            if row["method"] not in methods:
                continue
            old = together.get(key, {})
            values = {**old.get("values", {}), **row.get("values", {})}
            whole = {**old, **row}
            if values:
                whole = {**{k: v for k, v in whole.items() if k != "failed"}, "values": values}
            together[key] = whole
        return together.values()


def _photographs(model: Any, images: Any) -> Iterable[tuple[str, Any]]:
    """(name, a path or an array of one photograph)."""
    if isinstance(images, Mapping):
        return list(images.items())
    if isinstance(images, (str, os.PathLike)):
        folder = Path(images)
        if not folder.is_dir():
            raise ValueError(f"`images` {folder} is no folder; pass a folder, a list of files, or arrays by name")
        files = [file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")]
        if not files:
            raise ValueError(f"`images` {folder} holds no file")
        return [(file.name, file) for file in files]
    if isinstance(images, (list, tuple)) and images and isinstance(images[0], (str, os.PathLike)):
        return [(str(file), Path(file)) for file in images]
    if hasattr(images, "shape") and not (isinstance(model, Classifier) and model.preprocess):
        return [(str(n), images[n : n + 1]) for n in range(int(images.shape[0]))]
    raise TypeError("`images` must be a folder, a list of files, RGB arrays by name, or a bare model's inputs (N, ...)")


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
