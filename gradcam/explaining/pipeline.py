"""Capture, method, ReLU and, where a picture is wanted, resize and scale: what one call of an
explainer computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gradcam import layouts
from gradcam import maps as map_math
from gradcam._arrays import array_namespace, widen
from gradcam._functions import keyed
from gradcam._progress import Progress, track
from gradcam._types import Array, Constant, Inputs, Shape
from gradcam.explaining.prepare import Prepared
from gradcam.explaining.run import ModelRun
from gradcam.explaining.smoothing import Smoothing
from gradcam.inputs import first_array
from gradcam.layouts import Layout
from gradcam.maps import Fusion, Scaling
from gradcam.methods import METHODS, MethodSpec
from gradcam.model import Model, PooledAxes
from gradcam.space.axes import LayerAxes, NeedsEvidence, sure_axes
from gradcam.space.memory import Known

__all__ = ["ChosenMethod", "Pipeline", "Runs", "peak"]

ChosenMethod = tuple[MethodSpec, tuple[tuple[str, Any], ...]]
"""A method and its own parameters."""

LayerArrays = tuple[Array, ...]
"""A layer's activations, gradients and curvatures as (..., C, P), as far as the methods need
them.
"""


@dataclass(frozen=True)
class Pipeline:
    """One function of a model, its inputs and a target, which JAX compiles as a whole.

    It holds all that is no array; pipelines that are equal share a compiled program. A call returns
    a mapping: "maps", one array for each method; "scores"; "outputs"; "axes", those of the layers;
    and "peaks", (M (L + 1), N)
    or (..., N, K), the largest magnitude of each method's map of each layer and of the map made of
    them: NaN or infinite where the map is, and 0 where the map is 0 everywhere. All checks of a
        result need only this one small array on the host.
    """

    layers: tuple[str, ...]
    methods: tuple[ChosenMethod, ...]
    size: Shape | None
    layout: layouts.Spec = None
    relu: bool = True
    fusion: Fusion = "mean"
    picture: tuple[Shape, Scaling] | None = None
    known: tuple[LayerAxes, ...] = ()

    def axes_of(self, path: str, shape: Sequence[int], model: Model, samples: int) -> LayerAxes:
        """Where the axes of a layer's array are. Raises NeedsEvidence, for the explainer to ask,
        where in doubt.
        """
        for axes in self.known:
            if axes.layer == path:
                return axes
        told = sure_axes(model, path, shape, samples, self.size, self.layout)
        if told is None:
            raise NeedsEvidence(path, tuple(int(n) for n in shape))
        return told

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> dict[str, Any]:
        outputs, scores, layers = self._capture(model, inputs, target)
        raw = []
        for method in self.methods:
            raw.append([_map(method, axes.layout, arrays, scores.shape) for axes, arrays in layers])
        result = self.result(raw, scores, outputs)
        return {**result, "axes": Constant(tuple(axes for axes, _ in layers))}

    def result(self, raw: list[list[Array]], scores: Array, outputs: Any) -> dict[str, Any]:
        """The mapping that a call returns, from raw[method][layer], maps (N, *grid) or (N, K,
        *grid).
        """
        lead = scores.ndim
        maps = []
        peaks = []
        for of_layers in raw:
            fused = self._fused(of_layers, lead)
            peaks += [peak(layer_map, lead) for layer_map in (*of_layers, fused)]
            maps.append(self._pictured(fused))
        stacked = array_namespace(*peaks).stack(peaks)
        return {"maps": tuple(maps), "scores": scores, "outputs": outputs, "peaks": stacked}

    def _capture(
        self, model: Model, inputs: Inputs, target: Any
    ) -> tuple[Any, Array, list[tuple[LayerAxes, LayerArrays]]]:
        """Outputs, scores, and each layer's axes and arrays."""
        samples = int(first_array(inputs).shape[0])
        needs = {spec.needs for spec, _ in self.methods}
        if needs == {"activations"}:
            capture = model.capture(inputs, self.layers, None)
            scores = target(capture.outputs)
        else:
            options: dict[str, Any] = {"curvature": True} if "curvatures" in needs else {}
            capture = model.capture(
                inputs, self.layers, target, self._pooled(model, samples), **options
            )
            scores = capture.scores
        layers = []
        for i, (path, activations) in enumerate(zip(self.layers, capture.activations, strict=True)):
            axes = self.axes_of(path, activations.shape, model, samples)
            layout = axes.layout
            view = layout.view(layout.samples.arrange(widen(activations)))
            if scores.ndim == 2:  # K targets share their activations
                view = array_namespace(view).expand_dims(view, axis=1)
            arrays = [view]
            for slopes in (capture.gradients, capture.curvatures):
                if slopes:
                    arranged = layout.samples.arrange(widen(slopes[i]), lead=scores.ndim - 1)
                    arrays.append(layout.view(arranged))
            layers.append((axes, tuple(arrays)))
        return capture.outputs, scores, layers

    def _pooled(self, model: Model, samples: int) -> PooledAxes | None:
        """The axes over which only the mean gradient is used, where that holds for all methods."""
        if not all(spec.uses_mean_gradient for spec, _ in self.methods):
            return None

        def layout(sample: Shape) -> Layout | None:
            found = self.axes_of(self.layers[0], (samples, *sample), model, samples).layout
            return found if found.samples.first else None

        return _Pooled(layout)

    def _fused(self, raw: list[Array], lead: int) -> Array:
        """One map from those of all layers: (N, *grid), or (N, K, *grid) where `lead` is 2."""
        if self.relu:
            raw = [map_math.relu(layer_map) for layer_map in raw]
        if len(raw) == 1:
            return raw[0]
        return map_math.fuse(raw, raw[0].ndim - lead, self.fusion)

    def _pictured(self, maps: Array) -> Array:
        if self.picture is None:
            return maps
        size, how = self.picture
        return map_math.scale(map_math.resize(maps, size), len(size), how)


@dataclass(frozen=True)
class _Pooled:
    """`PooledAxes` and `PooledTokens` of the one layer that is explained, by its layout."""

    layout: Callable[[Shape], Layout | None]

    def __call__(self, sample: Shape) -> tuple[int, ...]:
        layout = self.layout(sample)
        return () if layout is None or layout.of_tokens else layout.spatial_axes

    def tokens(self, sample: Shape) -> tuple[int, slice] | None:
        layout = self.layout(sample)
        if layout is None or not layout.of_tokens:
            return None
        first = layout.prefix
        return layout.spatial_axes[0], slice(first, first + math.prod(layout.grid))


def _compared(method: ChosenMethod) -> ChosenMethod:
    """The same with a function of the user's own as one that can be compared, now, with others."""
    spec, parameters = method
    if METHODS.get(spec.name) is spec:
        return method
    return replace(spec, function=keyed(spec.function)), parameters


ARRAYS = {"activations": 1, "gradients": 2, "curvatures": 3}
"""How many of a layer's arrays a method takes, by what it needs."""


def _map(method: ChosenMethod, layout: Layout, arrays: LayerArrays, scores: Shape) -> Array:
    """One method's map of one layer, the same for all targets where the method looks at none."""
    spec, parameters = method
    positions = spec.function(*arrays[: ARRAYS[spec.needs]], **dict(parameters))
    xp = array_namespace(positions)
    shape = (*scores, *positions.shape[len(scores) :])  # with frames, if the layer has some
    return layout.maps(xp.broadcast_to(positions, shape))


def peak(maps: Array, lead: int) -> Array:
    """(N,) or (N, K): the largest magnitude of each map; NaN where it holds one."""
    xp = array_namespace(maps)
    return xp.max(xp.abs(maps), axis=tuple(range(lead, maps.ndim)))


@dataclass(frozen=True)
class Runs:
    """How a pipeline runs: in one capture or by a procedure, and once or for each variant of the
    inputs.
    """

    smoothing: Smoothing | None
    batch: int
    progress: Progress
    known: Known

    def once(self, pipeline: Pipeline, model: Model, inputs: Inputs, target: Any) -> dict[str, Any]:
        """One capture for all methods, or the procedure of the one method that has one."""
        spec, parameters = pipeline.methods[0]
        prepared = self._prepared(pipeline, model, inputs, target)
        if spec.procedure is None:
            return _one_capture(pipeline, prepared)
        raw = []
        captures = []
        for path in pipeline.layers:
            at_input = prepared if spec.needs == "attention" else prepared.at_input_of(path)
            run = ModelRun(at_input, path, self.batch, partial(track, self.progress))
            maps, capture = spec.procedure(run, **dict(parameters))
            raw.append(maps)
            captures.append(capture)
        return pipeline.result([raw], captures[0].scores, captures[0].outputs)

    def _prepared(self, pipeline: Pipeline, model: Model, inputs: Inputs, target: Any) -> Prepared:
        return Prepared(
            model, inputs, pipeline.layers, target, pipeline.size, pipeline.layout, self.known
        )

    def smoothed(
        self, pipeline: Pipeline, model: Model, inputs: Inputs, target: Any, plain: dict[str, Any]
    ) -> dict[str, Any]:
        """The result with smoothed maps; `plain`, the result without smoothing, gives scores and
        outputs.

        Signed maps of every variant are mapped back, and their mean goes the way of a raw map.
        """
        if self.smoothing is None:
            return plain
        signed = replace(pipeline, relu=False, picture=None)
        path = pipeline.layers[0]
        prepared = self._prepared(pipeline, model, inputs, target).at_input_of(path)
        variants = list(self.smoothing.variants(prepared.inputs, prepared.input_layout(path)))
        totals: list[Any] = [0.0] * len(pipeline.methods)
        for variant, map_back in variants:
            maps = self.once(signed, model, variant, target)["maps"]
            totals = [total + map_back(m) for total, m in zip(totals, maps, strict=True)]
        means = [[total / len(variants)] for total in totals]
        return pipeline.result(means, plain["scores"], plain["outputs"])


def _one_capture(pipeline: Pipeline, prepared: Prepared) -> dict[str, Any]:
    """The compiled pipeline. Where the axes of a layer are in doubt the network is asked, and
    it runs again.
    """
    compared = replace(pipeline, methods=tuple(map(_compared, pipeline.methods)))
    while True:
        known = [prepared.known_axes(path) for path in pipeline.layers]
        # What types and shapes tell is no part of the program, which all calls then share.
        asked = []
        for axes in known:
            if axes is not None and axes.was_asked:
                asked.append(replace(axes, agreement=None))
        try:
            result = dict(prepared.run(replace(compared, known=tuple(asked))))
        except NeedsEvidence as doubt:
            prepared.axes(doubt.path, doubt.shape)
            continue
        for axes in result.pop("axes").value:
            if prepared.known_axes(axes.layer) is None:
                prepared.keep(axes.layer, axes)
        return result
