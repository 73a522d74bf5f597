"""Before a run: what is asked for, checked; what decides a row; and the plan, if there is none.

The first photographs are explained: they say which layer it is where none is named, and whether all
maps have one shape. A process that dies of one of them is begun anew without it (`attempts`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

from gradcam._faults import FAULTS
from gradcam._types import LayerLike, Shape
from gradcam._warnings import warn
from gradcam.backends import versions
from gradcam.explaining.explainer import Explainer
from gradcam.explaining.explanation import Explanation
from gradcam.explaining.prepare import layer_paths, unwrap
from gradcam.identity import identity, name_of
from gradcam.metrics.subject import Confidence
from gradcam.runs import attempts
from gradcam.runs.attempts import Attempt
from gradcam.runs.places import Place, opened
from gradcam.runs.plan import About, part, read_about, write
from gradcam.runs.reading import Columns, Item, Seen, items, load
from gradcam.runs.rows import MapsAs
from gradcam.runs.sources import Listing, Source, listing, source_name
from gradcam.runs.worker import BESIDE, Asked, Worker, divided, named

__all__ = ["MapsOption", "Request", "check_sent", "planned", "seen_of"]

MapsOption = Literal["auto", "tensor", "list", "zarr"]

PROBED = 8
"""Photographs that are explained before a plan is written."""
SEARCHED = 1000
"""Photographs among which those must be."""
PROBE = -1
"""The number by which their attempts are kept."""

LOCK = "run.lock"


@dataclass(frozen=True)
class Request:
    """The arguments of `gradcam.run` that decide what is written; see there."""

    make: Callable[[], Any]
    source: Source
    out: str
    layer: LayerLike
    target: Any
    method: Any
    options: Mapping[str, Any]
    batch: int
    shard_size: int
    labels: Literal["folder"] | None
    columns: Columns | None
    maps: MapsOption
    confidence: Confidence
    reasons: bool
    retry: bool


def check_sent(request: Request) -> None:
    """Raise a TypeError where the request cannot be sent to another process."""
    try:
        pickle.dumps(request)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(
            f"the run cannot be sent to other processes ({error}); pass the model as "
            '"package.module:factory", and functions that can be imported, or workers=0'
        ) from error


def planned(request: Request, model: Any = None) -> tuple[About, Asked]:
    """The run in the folder, and what its processes explain; the plan is written if there is none.

    model: what the request makes, where it has been made.
    """
    if model is None:
        model = request.make()
    asked = _asked(model, request)
    settings = {
        **_settings(model, asked),
        "source": source_name(request.source),
        "shard_size": request.shard_size,
        "labels": request.labels,
        "columns": None if request.columns is None else dict(request.columns),
        "maps": request.maps,
    }
    place = opened(request.out)
    with place.holding(LOCK, wait=True):
        # Processes that start at once: the first one plans, the others find the plan.
        about = read_about(place, settings)
        if request.retry:
            attempts.retry(place)
        if about is None:
            found = listing(request.source, request.shard_size, request.labels)
            about = _planned(place, found, Worker(model, asked), settings, request)
        attempts.tidy(place, lambda number: number == PROBE or place.has(part(number)))
    return about, replace(asked, layer=_pinned(about.layers, asked.layer))


def seen_of(place: Place) -> bytes | None:
    """What changes as the first photographs are gone through."""
    return place.read(attempts.name_of(PROBE))


# ---------------------------------------------------------------------------------------- settings


def _asked(model: Any, request: Request) -> Asked:
    """What is asked for, checked: explainers are made, so that a wrong option is an error."""
    user_model, classifier = unwrap(model)
    layer, target = request.layer, request.target
    if layer is None and classifier is not None:
        layer = classifier.layer
    if layer is not None:
        layer = layer_paths(user_model, layer)
    if classifier is not None:
        target = classifier.indices(target)
    methods = (request.method,) if _is_one(request.method) else tuple(request.method)
    if not methods:
        raise ValueError("`method` is empty; pass a name from gradcam.METHODS, or several")
    cams, _ = divided(methods)
    named(cams)
    for one in cams or ("grad-cam",):
        Explainer(model, layer, one, **request.options)
    return Asked(
        layer,
        target,
        methods,
        request.options,
        request.confidence,
        request.reasons,
        request.batch,
    )


def _is_one(method: Any) -> bool:
    if isinstance(method, tuple) and len(method) == 2 and isinstance(method[1], Mapping):
        return True
    return not isinstance(method, (list, tuple))


def _settings(model: Any, asked: Asked) -> dict[str, Any]:
    """What decides a row, as JSON can hold it."""
    who = identity(model)
    if who.unknown:
        warn(
            f"of the model some parts cannot be told from others of their kind "
            f"({', '.join(who.unknown)}): a run that goes on with another of these is not refused",
            UserWarning,
        )
    cams, guided = divided(asked.methods)
    methods = {name: identity(chosen).digest for name, chosen in named(cams).items()}
    methods.update({name: name for name in guided})
    layer = asked.layer
    classifier = unwrap(model)[1]
    view = None if classifier is None else classifier.view
    return {
        "gradcam": versions()["gradcam"],
        "model": name_of(unwrap(model)[0]),
        "weights": who.digest,
        "view": None if view is None else f"{view.__module__}.{name_of(view)}",
        "layer": list(layer) if isinstance(layer, (list, tuple)) else layer,
        "methods": methods,
        "target": _told(asked.target),
        "options": {name: _told(value) for name, value in sorted(asked.options.items())},
        "confidence": asked.confidence,
        "reasons": asked.reasons,
    }


def _told(value: Any) -> Any:
    """A value as JSON holds it; of other things than numbers and text their text and hash."""
    if isinstance(value, (list, tuple)):
        return [_told(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    who = identity(value)
    return f"{who.name} {who.digest}"


# -------------------------------------------------------------------------------------- the plan


def _planned(
    place: Place,
    found: Listing,
    worker: Worker,
    settings: Mapping[str, Any],
    request: Request,
) -> About:
    """Explain the first photographs, and write the plan."""
    attempt = attempts.begin(place, PROBE)
    if attempt.given_up:
        attempts.finished(place, PROBE)
        raise RuntimeError("the process died three times before any photograph was explained")
    try:
        probe = _Probe(place, worker, attempt)
        shards = iter(found.shards)
        before = []
        while not probe.enough and (shard := next(shards, None)) is not None:
            before.append(shard)
            if request.columns and shard.kind != "parquet":
                raise ValueError("`columns` are those of Parquet files, but the source is none")
            probe.look(items(shard, found.root, request.source, request.columns))
        probe.check()
    finally:
        attempts.finished(place, PROBE)
    grids = probe.grids
    maps: MapsAs = "tensor"
    if request.maps == "zarr":
        maps = "zarr"
        if len(grids) > 1:
            raise ValueError(
                f'maps="zarr" needs maps of one shape, but these are {sorted(grids)}; give methods '
                "of the input's resolution a run of their own"
            )
    elif request.maps == "list" or (request.maps == "auto" and len(grids) > 1):
        maps = "list"
    about = {
        "settings": dict(settings),
        "layers": probe.layers,
        "axes": probe.axes,
        "choice": probe.choice,
        "maps": maps,
        "grid": () if maps == "list" else sorted(grids)[0],
    }
    return write(place, about, replace(found, shards=chain(before, shards)))


@dataclass
class _Probe:
    """What the first photographs say: which layers are explained, and the shapes of maps."""

    place: Place
    worker: Worker
    attempt: Attempt
    looked: int = 0
    explained: int = 0
    layers: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    choice: str | None = None
    grids: set[Shape] = field(default_factory=set)
    unread: str = ""
    failure: Exception | None = None

    @property
    def enough(self) -> bool:
        return self.explained >= PROBED or self.looked >= SEARCHED

    def look(self, found: Iterator[Item]) -> None:
        """Explain some, until it is enough."""
        for item in found:
            self.looked += 1
            if not self.attempt.left_out(self.looked):
                attempts.note(self.place, PROBE, self.attempt, self.looked)
                self._explain(load(item, self.worker.view))
            if self.enough:
                return

    def _explain(self, one: Seen) -> None:
        if one.error is not None:
            self.unread = self.unread or f"{one.key}: {one.error}"
            return
        if not self.worker.preprocesses and _is_photograph(one.picture):
            raise ValueError(
                "photographs need a gradcam.Classifier with `preprocess`, which makes the model's "
                "inputs"
            )
        self.explained += 1
        try:
            explanations: Mapping[str, Explanation] = self.worker.explain([one.picture])
        except FAULTS as error:
            self.failure = error
            return
        for name, explanation in explanations.items():
            if name == BESIDE:
                continue
            ndim = explanation.scores.ndim
            self.grids.add(tuple(int(n) for n in explanation.maps.shape[ndim:]))
            named = explanation.layer
            self.layers = (named,) if isinstance(named, str) else tuple(named)
            axes = explanation.axes
            axes = axes if isinstance(axes, tuple) else tuple(filter(None, (axes,)))
            self.axes = tuple(map(str, axes))
            if explanation.choice is not None:
                self.choice = str(explanation.choice)

    def check(self) -> None:
        """Raise where none could be explained."""
        if not self.explained:
            raise ValueError(
                f"`source`: none of the first {self.looked} photographs can be read; {self.unread}"
            )
        if not self.grids:
            assert self.failure is not None
            raise self.failure


def _is_photograph(picture: Any) -> bool:
    return str(getattr(picture, "dtype", "")) == "uint8" and getattr(picture, "ndim", 0) == 3


def _pinned(layers: tuple[str, ...], asked: LayerLike) -> LayerLike:
    """The layers that all processes explain: those of the plan, where they have a path."""
    if asked is not None or not layers or any(name.startswith("<") for name in layers):
        return asked
    return layers[0] if len(layers) == 1 else layers
