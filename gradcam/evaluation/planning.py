"""The arguments of `evaluate`, checked: photographs, methods, measures, controls, options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from gradcam._types import Array, LayerLike
from gradcam.classifier import Classifier
from gradcam.explaining.explainer import Explainer, by_name
from gradcam.explaining.prepare import unwrap
from gradcam.identity import Identity, identity
from gradcam.methods import METHODS, MethodLike, MethodSpec
from gradcam.methods.parameters import with_parameters
from gradcam.metrics import CONTROLS, MEASURES, Measure
from gradcam.metrics.subject import Confidence

__all__ = [
    "MeasureLike",
    "Photograph",
    "Plan",
    "check_kept",
    "chosen_classes",
    "listed",
    "photographs_of",
    "plan",
]

MeasureLike: TypeAlias = str | Measure
"""A name in `gradcam.metrics.MEASURES`, or a measure of your own."""

Photograph: TypeAlias = Path | np.ndarray | Array | Callable[[], np.ndarray]
"""A file, an RGB array (H, W, 3), a function that reads one, or a bare model's input (1, ...)."""


@runtime_checkable
class HasPhotographs(Protocol):
    """A collection that knows where its photographs are, such as `gradcam.Results`."""

    def photographs(self) -> Mapping[str, Callable[[], np.ndarray]]:
        """By name, functions that read them."""
        ...


Options: TypeAlias = Mapping[str, Mapping[str, Any]]

OWN = "<function>"
"""Beside the options of a method or measure of your own: the hash of what it does."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How each photograph is measured.

    methods: an explainer for each method, by name. controls: names in `CONTROLS`. measures: by
        name.
    options: of each method, control and measure, by name; empty where it has none.
    own: what identifies the methods and measures that are not gradcam's, by name.
    confidence, batch: see `gradcam.metrics.Subject`. seed: the source of all that is drawn at
        random.
    """

    model: Any
    methods: Mapping[str, Explainer]
    controls: tuple[str, ...]
    measures: Mapping[str, Measure]
    options: Mapping[str, Mapping[str, Any]]
    own: Mapping[str, Identity]
    confidence: Confidence
    batch: int
    seed: int

    @property
    def masked(self) -> tuple[str, ...]:
        """The measures that need to know where the object is."""
        return tuple(name for name, measure in self.measures.items() if measure.needs == "mask")

    def options_of(self, *names: str) -> dict[str, dict[str, Any]]:
        """The options of some methods and measures, as a row keeps them.

        With those of your own goes what identifies them.
        """
        chosen = {}
        for name in names:
            chosen[name] = dict(self.options[name])
            if name in self.own:
                chosen[name][OWN] = self.own[name].digest
        return chosen


def plan(
    model: Any,
    layer: LayerLike,
    methods: Sequence[MethodLike],
    measures: Sequence[MeasureLike],
    controls: Sequence[str],
    options: Options,
    confidence: Confidence,
    batch: int,
    seed: int,
) -> Plan:
    """A `Plan`, or an error that names the argument of `evaluate` that is wrong."""
    _check_known("methods", methods, METHODS)
    _check_known("measures", measures, MEASURES)
    _check_known("controls", controls, CONTROLS)
    if not methods or not measures:
        raise ValueError("`methods` and `measures` must not be empty")
    chosen_measures = _named_measures(measures)
    chosen_methods = by_name(
        [with_parameters(method, {}, "gradcam.evaluate") for method in methods]
    )
    for name, (spec, _) in chosen_methods.items():
        _check_method_name(name, spec)
    _check_options(options, (*METHODS, *chosen_methods), {**MEASURES, **chosen_measures})
    chosen_options = {}
    for name in (*chosen_methods, *controls, *chosen_measures):
        chosen_options[name] = dict(options.get(name, {}))
    explainers = {}
    for name, (spec, parameters) in chosen_methods.items():
        # Made before anything is measured: a wrong parameter is an error of the call.
        chosen = (spec, dict(parameters))
        explainers[name] = Explainer(model, layer, chosen, **chosen_options[name])
    return Plan(
        model,
        explainers,
        tuple(controls),
        chosen_measures,
        chosen_options,
        _own(chosen_methods, chosen_measures),
        confidence,
        batch,
        int(seed),
    )


def listed(choice: Any) -> tuple[Any, ...]:
    """Several names or objects as a tuple; one alone is a tuple of one."""
    if isinstance(choice, (str, Measure)) or callable(choice):
        return (choice,)
    if isinstance(choice, tuple) and len(choice) == 2 and isinstance(choice[1], Mapping):
        return (choice,)  # a method and its parameters
    return tuple(choice)


def _check_known(argument: str, choices: Iterable[Any], known: Iterable[str]) -> None:
    names = list(known)
    unknown = [choice for choice in choices if isinstance(choice, str) and choice not in names]
    if unknown:
        raise ValueError(f"`{argument}` {unknown} are not known; known are {', '.join(names)}")


def _own(methods: Mapping[str, Any], measures: Mapping[str, Measure]) -> dict[str, Identity]:
    """What identifies the methods and measures of the user's own."""
    own = {}
    for name, (spec, _) in methods.items():
        if METHODS.get(spec.name) is not spec:
            own[name] = identity(spec)
    for name, measure in measures.items():
        if MEASURES.get(name) is not measure:
            own[name] = identity(measure)
    return own


def _named_measures(choices: Sequence[MeasureLike]) -> dict[str, Measure]:
    measures: dict[str, Measure] = {}
    for choice in choices:
        measure = choice
        if isinstance(measure, str):
            measure = MEASURES[measure]
        if not isinstance(measure, Measure):
            raise TypeError(
                "`measures` must be names in gradcam.metrics.MEASURES, or gradcam.metrics.Measure "
                f"objects, but one is {measure!r}"
            )
        _check_name("measures", measure.name, measure, {**MEASURES, **measures})
        measures[measure.name] = measure
    return measures


def _check_method_name(name: str, spec: MethodSpec) -> None:
    if name in CONTROLS:
        raise ValueError(
            f'`methods` holds a method with the name "{name}", which is that of a control; '
            "give it another name"
        )
    _check_name("methods", name, spec, METHODS)


def _check_name(argument: str, name: str, choice: Any, known: Mapping[str, Any]) -> None:
    """Results, and rows that are kept, are told apart by name alone."""
    if known.get(name, choice) is not choice:
        raise ValueError(
            f'`{argument}` holds one of your own with the name "{name}", which another has; '
            "give it another name"
        )


def _check_options(
    options: Options, methods: Iterable[str], measures: Mapping[str, Measure]
) -> None:
    names = tuple(dict.fromkeys([*methods, *measures]))
    unknown = [name for name in options if name not in names]
    if unknown:
        raise ValueError(
            f"`options` {unknown} are of no method or measure; known are {', '.join(names)}"
        )
    for name in options:
        if name in measures:
            measures[name].check_options(options[name])


def check_kept(layer: LayerLike) -> None:
    """Raise a TypeError where the layer has no path, which rows that are kept need."""
    if not isinstance(layer, (str, type(None))):
        raise TypeError(
            "give `layer` by its path, as `gradcam.layers` lists it, "
            "for rows that are kept in `out`"
        )


# ----------------------------------------------------------------------------------------- classes


def chosen_classes(model: Any, target: Any, count: int) -> list[int | None]:
    """The class to explain for each of `count` photographs; None for its top class.

    target: None, an int, a class name where the classifier has names, or one of these for each
        photograph, (count,).
    """
    if target is None:
        return [None] * count
    _, classifier = unwrap(model)
    if classifier is not None:
        target = classifier.indices(target)
    classes = np.asarray(target)
    if classes.dtype.kind not in "iu":
        raise TypeError(
            f"`target` must be None, an int, or ({count},) ints, one for each photograph, "
            f"but is {target!r}; class names need a gradcam.Classifier with `labels`"
        )
    if classes.shape not in ((), (count,)):
        raise ValueError(
            f"`target` must be an int, or ({count},) ints, one for each photograph, "
            f"but has shape {classes.shape}"
        )
    return [int(index) for index in np.broadcast_to(classes, (count,))]


# ------------------------------------------------------------------------------------- photographs


def photographs_of(model: Any, images: Any) -> list[tuple[str, Photograph]]:
    """(name, photograph) of all that `evaluate` was given as `images`."""
    preprocesses = isinstance(model, Classifier) and model.preprocess is not None
    photographs = _listed_photographs(images, preprocesses)
    read = (photograph for _, photograph in photographs)
    if not preprocesses and any(isinstance(one, Path) or callable(one) for one in read):
        raise ValueError(
            "photographs need a gradcam.Classifier with `preprocess`, "
            "which makes the model's inputs"
        )
    return photographs


def _listed_photographs(images: Any, preprocesses: bool) -> list[tuple[str, Photograph]]:
    if isinstance(images, HasPhotographs):
        images = images.photographs()
    if isinstance(images, Mapping):
        return list(images.items())
    if isinstance(images, (str, os.PathLike)):
        return _files_in(Path(images))
    if _is_list_of_files(images):
        return [(str(file), Path(file)) for file in images]
    if hasattr(images, "shape") and not preprocesses:
        return [(str(n), images[n : n + 1]) for n in range(int(images.shape[0]))]
    raise TypeError(
        "`images` must be a folder, a list of files, RGB arrays by name, the results of a run, "
        "or a bare model's inputs (N, ...)"
    )


def _is_list_of_files(images: Any) -> bool:
    if not isinstance(images, (list, tuple)) or not images:
        return False
    return all(isinstance(file, (str, os.PathLike)) for file in images)


def _files_in(folder: Path) -> list[tuple[str, Photograph]]:
    if not folder.is_dir():
        raise ValueError(
            f"`images` {folder} is no folder; pass a folder, a list of files, or arrays by name"
        )
    files: list[tuple[str, Photograph]] = [
        (file.name, file)
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]
    if not files:
        raise ValueError(f"`images` {folder} holds no file")
    return files
