"""Photographs to rows: one model and one compiled explainer, a batch at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradcam import backends
from gradcam import maps as map_math
from gradcam._arrays import compiles_each_shape, constant, to_numpy
from gradcam._faults import FAULTS, described, is_ours
from gradcam._types import Array, Inputs, LayerLike, Shape
from gradcam.diagnosis import BlankMapWarning
from gradcam.explaining.explainer import Explainer, by_name
from gradcam.explaining.explanation import Explanation
from gradcam.explaining.guided import guided_backprop, guided_grad_cam
from gradcam.explaining.naming import class_table
from gradcam.explaining.prepare import unwrap
from gradcam.inputs import first_array
from gradcam.methods import MethodLike
from gradcam.methods.parameters import with_parameters
from gradcam.metrics.boxes import largest_box
from gradcam.metrics.subject import Confidence, confidences
from gradcam.model import MakesArrays
from gradcam.runs.reading import Seen
from gradcam.runs.rows import Row
from gradcam.targets.outputs import class_scores

__all__ = ["BESIDE", "Asked", "Worker", "divided", "named", "same_shape"]

GUIDED = ("guided-backprop", "guided-grad-cam")
"""What is asked for as a method, but is a gradient at the input."""
BESIDE = "<beside>"
"""The explanation that guided maps take their outputs from, which is no row."""

THRESHOLD = 0.15
"""Of boxes, as a share of the maximum: that of `Explanation.boxes`."""


@dataclass(frozen=True)
class Asked:
    """What is explained, and how: see `gradcam.run`. options: those of `Explainer`."""

    layer: LayerLike
    target: Any
    methods: tuple[MethodLike, ...]
    options: Mapping[str, Any]
    confidence: Confidence
    reasons: bool
    batch: int


def divided(methods: Iterable[MethodLike]) -> tuple[tuple[MethodLike, ...], tuple[str, ...]]:
    """The methods that an explainer takes, and the guided ones."""
    guided = tuple(m for m in methods if isinstance(m, str) and m in GUIDED)
    return tuple(m for m in methods if m not in guided), guided


def named(methods: Iterable[MethodLike]) -> dict[str, Any]:
    """The methods that an explainer takes, by name."""
    return by_name([with_parameters(method, {}, "gradcam.run") for method in methods])


def same_shape(seen: Iterable[Seen]) -> list[list[Seen]]:
    """The photographs that were read, with those of one shape together."""
    groups: dict[Any, list[Seen]] = {}
    for one in seen:
        if one.error is None:
            groups.setdefault(getattr(one.picture, "shape", None), []).append(one)
    return list(groups.values())


class Worker:
    """Explains photographs as the network sees them.

    model: whatever `gradcam.explain` takes; photographs need a `Classifier` with `preprocess`.
    """

    def __init__(self, model: Any, asked: Asked) -> None:
        self._asked = asked
        self._user_model, self._classifier = unwrap(model)
        self._model = model
        self._cams, self._guided = divided(asked.methods)
        # One method by itself may choose its layers in its own way, as those of attention do.
        # Guided maps have no outputs, which Grad-CAM's explanation then has.
        first = self._cams[0] if self._cams else "grad-cam"
        self._explainer = Explainer(model, asked.layer, first, **asked.options)
        self._names = tuple(named(self._cams))
        self._classes: dict[str, int | None] = {}

    @property
    def preprocesses(self) -> bool:
        """Whether photographs are made the model's inputs; else it is shown arrays alone."""
        return self._classifier is not None and self._classifier.preprocess is not None

    @property
    def view(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """The part of a photograph that the network sees."""
        return self._classifier.view if self._classifier is not None else None

    def explain(self, pictures: Sequence[Any]) -> dict[str, Explanation]:
        """Each method's explanation of pictures of one shape; in JAX there may be more samples."""
        count = len(pictures)
        inputs = self._inputs(pictures)
        if compiles_each_shape(first_array(inputs)) and count < self._asked.batch:
            # Filled up: a batch of another size would be compiled anew.
            filled = [*pictures, *[pictures[-1]] * (self._asked.batch - count)]
            inputs = self._inputs(filled)
        inputs = backends.spread(backends.adapt(self._user_model, inputs), inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlankMapWarning)  # rows say so
            if len(self._names) > 1:
                found: dict[str, Explanation] = self._explainer.compare(
                    inputs, self._asked.target, self._cams
                )
            else:
                name = self._names[0] if self._names else BESIDE
                found = {name: self._explainer(inputs, self._asked.target)}
            for name in self._guided:
                found[name] = self._guided_map(name, inputs, next(iter(found.values())))
            return found

    def _guided_map(self, name: str, inputs: Inputs, beside: Explanation) -> Explanation:
        """Maps (N, *input) or (N, K, *input), with the input's channels."""
        target = self._asked.target
        if name == "guided-backprop":
            guided = guided_backprop(self._user_model, inputs, target)
        else:
            options = self._asked.options
            guided = guided_grad_cam(self._model, inputs, self._asked.layer, target, **options)
        return replace(
            beside,
            maps=guided.gradients,
            scores=guided.scores,
            target=guided.target,
            method=name,
            size=None,
        )

    def _inputs(self, pictures: Sequence[Any]) -> Inputs:
        if self._classifier is not None and self._classifier.preprocess is not None:
            return self._classifier.preprocess(list(pictures))
        batch = np.stack([to_numpy(picture) for picture in pictures])
        if not isinstance(pictures[0], np.ndarray):
            return constant(batch, like=pictures[0])
        adapted = backends.adapt(self._user_model, batch)
        return adapted.array(batch) if isinstance(adapted, MakesArrays) else batch

    def rows(self, shard: int, seen: Sequence[Seen]) -> list[Row]:
        """The rows of some photographs, in their order."""
        found: dict[int, list[Row]] = {}
        for one in seen:
            if one.error is not None:
                found[one.sample] = [_failed(shard, one, one.error)]
        for group in same_shape(seen):
            for one, rows in zip(group, self._rows_of(shard, group), strict=True):
                found[one.sample] = rows
        return [row for one in seen for row in found[one.sample]]

    def _rows_of(self, shard: int, group: Sequence[Seen]) -> list[list[Row]]:
        """For each photograph its rows. Where a batch fails, each is tried by itself."""
        try:
            explanations = self.explain([one.picture for one in group])
            return self._read(shard, group, explanations)
        except FAULTS as error:
            if is_ours(error):
                raise
            if len(group) == 1:
                return [[_failed(shard, group[0], described(error))]]
        return [self._rows_of(shard, [one])[0] for one in group]

    # ----------------------------------------------------------------------------- what a row says

    def _read(
        self, shard: int, group: Sequence[Seen], explanations: Mapping[str, Explanation]
    ) -> list[list[Row]]:
        plain = {name: explanation.numpy() for name, explanation in explanations.items()}
        first = next(iter(plain.values()))
        probabilities, top = self._confidences(first.outputs)
        labels = first.labels
        plain.pop(BESIDE, None)
        tables = {method: _Table.of(method, explanation) for method, explanation in plain.items()}
        rows: list[list[Row]] = []
        for n, one in enumerate(group):
            start = Row(one.key, shard, one.sample, one.label, self._label_class(one.label))
            if top is not None:
                index = int(top[n])
                start = replace(start, top_class=index, top_name=_label(labels, index))
            rows.append([])
            for method, columns in tables.items():
                rows[-1] += columns.rows(replace(start, method=method), n, probabilities)
        if self._asked.reasons:
            return _with_reasons(rows, explanations)
        return rows

    def _confidences(self, outputs: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(N, classes) probabilities, and (N,) top classes; None where the outputs have no
        classes.
        """
        try:
            scores = to_numpy(class_scores(outputs)).astype(np.float64)
        except (TypeError, ValueError):
            return None, None
        top = scores.argmax(-1)
        if self._asked.confidence == "softmax" and scores.shape[-1] == 1:
            return None, top
        return confidences(scores, self._asked.confidence), top

    def _label_class(self, label: str | None) -> int | None:
        """The index of the class that a label names, by its number or its name."""
        if label is None:
            return None
        if label not in self._classes:
            self._classes[label] = self._found_class(label)
        return self._classes[label]

    def _found_class(self, label: str) -> int | None:
        if label.isdecimal() and len(label) < 10:
            return int(label)
        if self._classifier is None or self._classifier.labels is None:
            return None
        try:
            return int(self._classifier.indices(label))
        except ValueError:
            return None


@dataclass(frozen=True)
class _Table:
    """What an explanation says of N samples and K targets.

    names: N lists of K. classes, scores: (N, K); no classes where something else is explained.
    maps: (N, K, *grid). size: of the input. guided: whether they are guided maps.
    """

    names: Sequence[Sequence[str]]
    classes: np.ndarray | None
    scores: np.ndarray
    maps: np.ndarray
    size: Shape | None
    guided: bool

    @classmethod
    def of(cls, method: str, explanation: Explanation) -> _Table:
        scores = to_numpy(explanation.scores)
        columns = scores.reshape(len(scores), -1)
        maps = to_numpy(explanation.maps)
        maps = maps.reshape(*columns.shape, *maps.shape[scores.ndim :])
        classes = None
        if explanation.target is not None and not callable(explanation.target):
            classes = class_table(explanation.target, scores.shape)
        names = explanation.names()
        return cls(names, classes, columns, maps, explanation.size, method in GUIDED)

    def rows(self, start: Row, n: int, probabilities: np.ndarray | None) -> Iterator[Row]:
        """The rows of sample n; probabilities (N, classes)."""
        of_sample = zip(self.names[n], self.scores[n], self.maps[n], strict=True)
        for k, (name, score, values) in enumerate(of_sample):
            index = None if self.classes is None else int(self.classes[n, k])
            probability = None
            if index is not None and probabilities is not None:
                probability = float(probabilities[n, index])
            yield replace(
                start,
                target=k,
                class_index=index,
                name=name,
                score=float(score),
                probability=probability,
                **_of_map(values, self.size, self.guided),
            )


def _label(labels: Sequence[str] | None, index: int) -> str | None:
    return labels[index] if labels is not None and index < len(labels) else None


def _failed(shard: int, one: Seen, error: str) -> Row:
    return Row(one.key, shard, one.sample, one.label, error=error)


def _of_map(values: Array, size: Shape | None, guided: bool) -> dict[str, Any]:
    """What a row says of one raw map (*grid) of an input of `size`.

    A guided map has the input's channels, and neither peak nor box.
    """
    raw = np.asarray(values, np.float64)
    scale = float(np.abs(raw).max())
    relative = raw / scale if scale else raw
    shown = raw.shape if size is None or len(size) != raw.ndim else size
    found: dict[str, Any] = {
        "values": relative.astype(np.float16),
        "scale": scale,
        "size": tuple(shown),
        "blank": not scale,
    }
    if guided:
        return found
    resized = np.asarray(map_math.resize(relative[None], shown))[0]
    highest = resized.max()
    if highest > 0 and highest > resized.min():
        # As `maps.scale` has it, but for what is negative, where there is neither peak nor box.
        heat = resized / highest
        peak = np.unravel_index(int(heat.argmax()), heat.shape)
        found["peak"] = tuple(int(n) for n in reversed(peak))
        found["box"] = tuple(int(n) for n in largest_box(heat, THRESHOLD))
    return found


def _with_reasons(
    rows: Iterable[list[Row]], explanations: Mapping[str, Explanation]
) -> list[list[Row]]:
    """The same rows, with why a map is blank, flat or not a number."""
    told: dict[tuple[str, int, int], str] = {}
    for method, explanation in explanations.items():
        for finding in explanation.diagnose():
            told[method, finding.sample, finding.target or 0] = (
                f"{finding.reason}: {finding.message}"
            )
    found = []
    for n, own in enumerate(rows):
        found.append(
            [replace(row, reason=told.get((str(row.method), n, row.target or 0))) for row in own]
        )
    return found
