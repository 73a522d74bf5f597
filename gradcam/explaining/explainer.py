"""The one path from a model and its inputs to an explanation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gradcam import backends, layouts
from gradcam import maps as maps_
from gradcam._arrays import array_namespace, to_numpy, widen
from gradcam._types import Array, Inputs, Method, Shape
from gradcam.classifier import Classifier
from gradcam.diagnosis import Source, held, not_finite, warn_blank
from gradcam.explaining.explanation import Explanation
from gradcam.explaining.procedures import PROCEDURES, Run
from gradcam.explaining.smoothing import Smoothing
from gradcam.inputs import first_array
from gradcam.layouts import Layout
from gradcam.maps import Fusion, Scaling
from gradcam.methods import POOLED, Entry, as_entry, check_parameters
from gradcam.model import (
    Layer,
    Model,
    PooledAxes,
    channel_order,
    compiled,
    input_channels_first,
    input_size,
)
from gradcam.targets import ClassScore, Target, TargetLike, as_target

__all__ = ["Explainer", "combine", "compare", "explain", "last_spatial_layer", "layers"]

LayerLike = Any
"""A path, a module of the model, several of them, or None: the last layer that still has space."""


# ------------------------------------------------------------------------------------------ what may be compiled

Chosen = tuple[Entry, tuple[tuple[str, Any], ...]]
"""A method and its own parameters."""


@dataclass(frozen=True)
class Pipeline:
    """Capture, method, ReLU and, where a picture is wanted, resize and scale: one function, which JAX compiles.

    It holds all that is no array; pipelines that are equal share a compiled program.
    """

    layers: tuple[str, ...]
    methods: tuple[Chosen, ...]
    size: Shape | None
    layout: layouts.Spec = None
    relu: bool = True
    fusion: Fusion = "mean"
    picture: tuple[Shape, Scaling] | None = None

    def layout_of(self, path: str, sample: Sequence[int], model: Model) -> Layout:
        layout = layouts.infer(sample, self.size, channel_order(model, path), self.layout)
        if layout is None:
            raise ValueError(
                f'layer "{path}" gives vectors of shape {tuple(sample)}, which have no space to map; choose one of '
                "gradcam.layers(model, inputs) that has"
            )
        return layout

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> dict[str, Any]:
        outputs, scores, samples = self._capture(model, inputs, target)
        raw = [
            [self._map(method, layout, arrays, scores.shape) for layout, arrays in samples]
            for method in self.methods
        ]
        return self.result(raw, scores, outputs)

    def result(self, raw: list[list[Array]], scores: Array, outputs: Any) -> dict[str, Any]:
        """What one method's maps of each layer, for each method, come to.

        "peaks", for each method those of its layers and of the map made of them, (M (L + 1), N) or (.., N, K): NaN or
        infinite where a layer's map is, and 0 where the map is 0 everywhere. One small array to wait for, or not to.
        """
        lead, done, peaks = scores.ndim, [], []
        for maps in raw:
            one = self.fused(maps, lead)
            peaks += [peak(m, lead) for m in (*maps, one)]
            done.append(self.pictured(one))
        stacked = array_namespace(*peaks).stack(peaks)
        return {"maps": tuple(done), "scores": scores, "outputs": outputs, "peaks": stacked}

    def _capture(
        self, model: Model, inputs: Inputs, target: Any
    ) -> tuple[Any, Array, list[tuple[Layout, tuple[Array, ...]]]]:
        """Outputs, scores, and each layer's layout with its activations, gradients and curvatures, as far as needed."""
        needs = {entry.needs for entry, _ in self.methods}
        if needs == {"activations"}:
            capture = model.capture(inputs, self.layers, None)
            scores = target(capture.outputs)
        else:
            options: dict[str, Any] = {"curvature": True} if "curvatures" in needs else {}
            capture = model.capture(inputs, self.layers, target, self._pooled(model), **options)
            scores = capture.scores
        found = []
        for i, (path, activations) in enumerate(zip(self.layers, capture.activations, strict=True)):
            layout = self.layout_of(path, activations.shape[1:], model)
            view = layout.view(widen(activations))
            if scores.ndim == 2:  # K targets share their activations
                view = array_namespace(view).expand_dims(view, axis=1)
            slopes = [
                layout.view(widen(each[i]))
                for each in (capture.gradients, capture.curvatures)
                if each
            ]
            found.append((layout, (view, *slopes)))
        return capture.outputs, scores, found

    def _map(
        self, method: Chosen, layout: Layout, arrays: tuple[Array, ...], scores: Shape
    ) -> Array:
        entry, parameters = method
        count = {"activations": 1, "gradients": 2, "curvatures": 3}[entry.needs]
        positions = entry.function(*arrays[:count], **dict(parameters))
        xp = array_namespace(positions)
        return layout.maps(xp.broadcast_to(positions, (*scores, positions.shape[-1])))

    def _pooled(self, model: Model) -> PooledAxes | None:
        if not all(entry.function in POOLED for entry, _ in self.methods):
            return None

        def axes(sample: Shape) -> tuple[int, ...]:
            layout = self.layout_of(self.layers[0], sample, model)
            return () if layout.kind == "tokens" else layout.spatial_axes

        return axes

    def fused(self, raw: list[Array], lead: int) -> Array:
        """One map from those of all layers: (N, *grid), or (N, K, *grid) where `lead` is 2."""
        raw = [maps_.relu(m) for m in raw] if self.relu else raw
        return raw[0] if len(raw) == 1 else maps_.fuse(raw, raw[0].ndim - lead, self.fusion)

    def pictured(self, maps: Array) -> Array:
        if self.picture is None:
            return maps
        size, how = self.picture
        return maps_.scale(maps_.resize(maps, size), len(size), how)


def peak(maps: Array, lead: int) -> Array:
    """(N,) or (N, K): the largest magnitude of each map; NaN where it holds one."""
    xp = array_namespace(maps)
    return xp.max(xp.abs(maps), axis=tuple(range(lead, maps.ndim)))


@dataclass(frozen=True)
class _Runs:
    """How a pipeline runs: in one capture or by a procedure, and once or for each variant of the inputs."""

    smoothing: Smoothing | None
    chunk: int
    progress: bool

    def once(self, model: Model, pipeline: Pipeline, inputs: Inputs, target: Any) -> dict[str, Any]:
        """One capture for all methods, or the procedure of the one method that has one."""
        procedure = PROCEDURES.get(pipeline.methods[0][0].name)
        if procedure is None:
            found: dict[str, Any] = compiled(model, pipeline)(inputs, target)
            return found
        raw, captures = [], []
        for path in pipeline.layers:
            run = Run(
                model=model,
                inputs=inputs,
                path=path,
                layout_of=partial(pipeline.layout_of, model=model),
                target=target,
                size=pipeline.size,
                chunk=self.chunk,
                track=_bar if self.progress else lambda steps, _: steps,
            )
            maps, capture = procedure(run, **dict(pipeline.methods[0][1]))
            raw.append(maps)
            captures.append(capture)
        return pipeline.result([raw], captures[0].scores, captures[0].outputs)

    def smoothed(
        self, model: Model, pipeline: Pipeline, inputs: Inputs, target: Any, plain: dict[str, Any]
    ) -> dict[str, Any]:
        """Signed maps of every variant, mapped back; their mean then goes the way of a map."""
        if self.smoothing is None:
            return plain
        signed = replace(pipeline, relu=False, picture=None)
        total: list[Array] | None = None
        variants = list(self.smoothing.variants(inputs, input_channels_first(model, inputs)))
        for variant, back in variants:
            maps = [back(m) for m in self.once(model, signed, variant, target)["maps"]]
            total = maps if total is None else [a + b for a, b in zip(total, maps, strict=True)]
        assert total is not None
        return pipeline.result(
            [[m / len(variants)] for m in total], plain["scores"], plain["outputs"]
        )


# ------------------------------------------------------------------------------------------ the public face


class Explainer:
    """A model, a layer and a method, kept: compiled once, called often.

    >>> explainer = gradcam.Explainer(model, layer="layer4")     # doctest: +SKIP
    >>> explainer(images).maps                                   # doctest: +SKIP

    model: a torch.nn.Module, a flax.nnx.Module, a bound flax.linen module, the pair (linen module, variables), a
        function of JAX arrays, `gradcam.Split`, a `gradcam.Classifier`, or any object with `capture` and `replay`.
    layer: a path, the module itself, several of them, or None: the last layer that still has space.
    method: a name in `gradcam.METHODS`, or a function of (..., C, P) activations and gradients.
    relu: keep only evidence for the target (the paper's choice); False keeps the signed map.
    layout: None (found out), "channels_first", "channels_last" or `gradcam.Tokens(grid, prefix)`.
    fusion: how the maps of several layers become one: "mean", "max" or "product".
    smoothing: `gradcam.Smoothing(...)`: the mean over flips, scalings and noise.
    chunk: how many variants of the inputs or activations run at a time, for methods that run many.
    progress: show a bar while they do.
    check: raise where activations or gradients are NaN or infinite, and warn, `BlankMapWarning`, of a map that is 0
        everywhere. It waits for the result, which on an accelerator ends its asynchrony; False leaves that to you.
    allow_training: explain a PyTorch model that is in training mode all the same.
    parameters: the method's own, such as `gamma` of "layer-cam" or `channels` of "score-cam".

    The model's weights are read anew at each call.
    """

    def __init__(
        self,
        model: Any,
        layer: LayerLike = None,
        method: str | Method = "grad-cam",
        *,
        relu: bool = True,
        layout: layouts.Spec = None,
        fusion: Fusion = "mean",
        smoothing: Smoothing | None = None,
        chunk: int = 32,
        progress: bool = False,
        check: bool = True,
        allow_training: bool = False,
        **parameters: Any,
    ) -> None:
        self._classifier = model if isinstance(model, Classifier) else None
        self._model = self._classifier.model if self._classifier else model
        if layer is None and self._classifier:
            layer = self._classifier.layer
        given = layer if isinstance(layer, (list, tuple)) else [layer]
        self._layers = (
            None if layer is None else tuple(backends.layer_path(self._model, one) for one in given)
        )
        if self._layers == ():
            raise ValueError(
                "`layer` is an empty list; pass a path, or None for the last layer that still has space"
            )
        if chunk < 1:
            raise ValueError(f"`chunk` must be at least 1, but is {chunk}")
        self._pipeline = Pipeline((), (_chosen(method, parameters),), None, layout, relu, fusion)
        self._runs = _Runs(smoothing, chunk, progress)
        self._check, self._allow_training = check, allow_training

    def __call__(self, inputs: Inputs, target: TargetLike = None) -> Explanation:
        """Explain the score of `target` for each sample of `inputs`.

        inputs: what the model is called with, samples first: an array, a tuple or a mapping.
        target: None (each sample's top class), an int, (N,) ints, (1, K) or (N, K) ints for K maps per sample from
            one forward pass, a function `outputs -> (N,)` or `(N, K)` scores, or one of `gradcam.targets`.
        """
        model, pipeline = self._prepare(inputs)
        return self._explain(model, pipeline, inputs, target)[0]

    def heatmaps(
        self,
        inputs: Inputs,
        target: TargetLike = None,
        size: Sequence[int] | None = None,
        how: Scaling = "max",
    ) -> Array:
        """From inputs to pictures, (N, *size) or (N, K, *size), in one compiled program where the backend compiles."""
        model, pipeline = self._prepare(inputs)
        picture = tuple(int(n) for n in size) if size is not None else pipeline.size
        if picture is None:
            raise ValueError("the inputs have no space of their own; pass `size`")
        return self._explain(model, replace(pipeline, picture=(picture, how)), inputs, target)[
            0
        ].maps

    def compare(
        self, inputs: Inputs, target: TargetLike = None, methods: Sequence[str | Method] = ()
    ) -> dict[str, Explanation]:
        """Several methods, by name: all that need only activations and gradients from one forward and one backward
        pass, each of the others by itself.
        """
        if not methods:
            raise ValueError("`methods` is empty; pass names from gradcam.METHODS, or functions")
        chosen = [_chosen(method, {}) for method in methods]
        model, pipeline = self._prepare(inputs)
        together = tuple(one for one in chosen if one[0].name not in PROCEDURES)
        groups = ([together] if together else []) + [
            (one,) for one in chosen if one not in together
        ]
        found = {
            explanation.method: explanation
            for group in groups
            for explanation in self._explain(
                model, replace(pipeline, methods=group), inputs, target
            )
        }
        return {entry.name: found[entry.name] for entry, _ in chosen}

    def _prepare(self, inputs: Inputs) -> tuple[Model, Pipeline]:
        if first_array(inputs).shape[0] == 0:
            raise ValueError(
                f"the batch is empty: `inputs` have shape {tuple(first_array(inputs).shape)}"
            )
        model = backends.adapt(self._model, inputs, self._allow_training)
        size = input_size(model, inputs)
        if self._layers is None:
            needs = {entry.needs for entry, _ in self._pipeline.methods}
            if needs <= {"attention"}:
                return model, replace(self._pipeline, layers=("<attention>",), size=size)
            self._layers = (last_spatial_layer(model, inputs, self._pipeline.layout),)
        return model, replace(self._pipeline, layers=self._layers, size=size)

    def _explain(
        self, model: Model, pipeline: Pipeline, inputs: Inputs, target: TargetLike
    ) -> list[Explanation]:
        wanted = as_target(self._classifier.indices(target) if self._classifier else target)
        result = self._runs.once(model, pipeline, inputs, wanted)
        outputs = result["outputs"]
        if isinstance(wanted, Target):
            wanted.check(outputs)
            wanted = wanted.resolve(outputs)
        sources = [self._source(pipeline, one, wanted) for one in pipeline.methods]
        peaks = _peaks(result, len(sources)) if self._check else None
        if peaks is not None and not np.isfinite(peaks).all():
            raise _not_finite(model, inputs, sources, peaks)
        if self._runs.smoothing is not None:
            result = self._runs.smoothed(model, pipeline, inputs, wanted, result)
            peaks = _peaks(result, len(sources)) if self._check else None
        found = []
        for m, (source, maps) in enumerate(zip(sources, result["maps"], strict=True)):
            blank = peaks is not None and bool((peaks[m, -1] == 0).any())
            explanation = Explanation(
                maps=maps,
                scores=result["scores"],
                target=wanted.index if isinstance(wanted, ClassScore) else wanted,
                outputs=outputs,
                size=pipeline.size,
                layer=pipeline.layers if len(pipeline.layers) > 1 else pipeline.layers[0],
                method=source.entry.name,
                model=_name(self._model),
                labels=self._classifier.labels if self._classifier else None,
                # what may have to be diagnosed keeps what that takes
                _source=replace(source, model=held(self._model, blank), inputs=held(inputs, blank)),
            )
            found.append(explanation)
            if peaks is not None:
                warn_blank(peaks[m, -1] == 0, explanation.origin)
        return found

    def _source(self, pipeline: Pipeline, chosen: Chosen, target: Any) -> Source:
        """How this method's explanation can be diagnosed; it holds neither model nor inputs yet."""
        plain, runs = replace(pipeline, methods=(chosen,), picture=None), self._runs

        def maps(
            model: Model, inputs: Inputs, target: Any, layers: tuple[str, ...], relu: bool
        ) -> Array:
            one = replace(plain, layers=layers, relu=relu)
            return runs.smoothed(model, one, inputs, target, runs.once(model, one, inputs, target))[
                "maps"
            ][0]

        return Source(
            model=_nothing,
            inputs=_nothing,
            adapt=partial(backends.adapt, allow_training=self._allow_training),
            target=target,
            layers=pipeline.layers,
            entry=chosen[0],
            layout_of=plain.layout_of,
            maps=maps,
            earlier=partial(last_spatial_layer, layout=pipeline.layout),
        )


def _nothing() -> Any:
    raise ReferenceError("nothing is held")


def _peaks(result: dict[str, Any], methods: int) -> np.ndarray:
    """(M, L + 1, N) or (M, L + 1, N, K), on the host: all that is waited for."""
    return to_numpy(result["peaks"]).reshape(methods, -1, *result["scores"].shape)


def _not_finite(
    model: Model, inputs: Inputs, sources: Sequence[Source], peaks: np.ndarray
) -> FloatingPointError:
    good = np.isfinite(peaks)
    m, sample = (int(np.argwhere(~good)[0][axis]) for axis in (0, 2))
    message = not_finite(model, inputs, sources[m], (sample,))[sample]
    return FloatingPointError(f"{message}; or pass check=False to have the map all the same")


def _chosen(method: str | Method, parameters: dict[str, Any]) -> Chosen:
    entry = as_entry(method)
    procedure = PROCEDURES.get(entry.name)
    check_parameters(entry.name, procedure or entry.function, parameters)
    return entry, tuple(sorted(parameters.items()))


def _bar(steps: Sequence[int], what: str) -> Iterable[int]:
    try:
        from rich.progress import track
    except ImportError as error:
        raise ImportError('`progress` needs rich: pip install "gradcam[cli]"') from error
    return track(steps, description=what, transient=True)


def _name(model: Any) -> str:
    model = (
        model[0] if isinstance(model, tuple) else getattr(model, "func", model)
    )  # a linen pair, a partial
    return str(getattr(model, "__name__", type(model).__name__))


def explain(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    method: str | Method = "grad-cam",
    **options: Any,
) -> Explanation:
    """Where did the model look to give this score? One line; see `Explainer` for all that it takes.

    `maps` of the result are (N, *grid), or (N, K, *grid) for (N, K) targets: raw, in the model's own framework.
    A JAX program is compiled once for models of equal structure, also over many calls of this function.
    """
    return Explainer(model, layer, method, **options)(inputs, target)


def compare(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    methods: Sequence[str | Method] = ("grad-cam",),
    **options: Any,
) -> dict[str, Explanation]:
    """Several methods on one layer from one forward and one backward pass: {method: Explanation}."""
    return Explainer(model, layer, **options).compare(inputs, target, methods)


def layers(model: Any, inputs: Inputs, *, allow_training: bool = False) -> list[Layer]:
    """The outputs of the model's layers in the order in which they run: records with `.path`, `.shape`, `.kind`.

    One forward pass in PyTorch, none in JAX, where shapes are found without computing.
    """
    model = model.model if isinstance(model, Classifier) else model
    return list(_layers(backends.adapt(model, inputs, allow_training), inputs))


def _layers(model: Model, inputs: Inputs) -> Sequence[Layer]:
    listing = getattr(model, "layers", None)
    if listing is None:
        raise TypeError(
            f"{type(model).__name__} has no method `layers(inputs)`; name the layer with `layer`"
        )
    found: Sequence[Layer] = listing(inputs)
    return found


def last_spatial_layer(model: Model, inputs: Inputs, layout: layouts.Spec = None) -> str:
    """The last layer whose output still has more than one position.

    Of a transformer's tokens, the last at which the gradient reaches any spatial token: behind the last attention
    only the class token counts.
    """
    size = input_size(model, inputs)
    tokens: list[str] = []
    for found in reversed(_layers(model, inputs)):
        try:
            shape = layouts.infer(found.shape[1:], size, channel_order(model, found.path), layout)
        except ValueError:
            continue
        if shape is None or int(np.prod(shape.grid)) < 2:
            continue
        if shape.kind != "tokens" or not shape.prefix:
            return found.path if not tokens else _reached(model, inputs, tokens)
        tokens.append(found.path)
    if tokens:
        return _reached(model, inputs, tokens)
    raise ValueError(
        "no layer of the model has an output with space (more than one position); pass `layer`, and `layout` where its "
        "shape does not tell"
    )


@dataclass(frozen=True)
class _Reach:
    """Whether each layer's spatial tokens have any gradient."""

    layers: tuple[str, ...]
    size: Shape | None

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> list[Array]:
        capture = model.capture(inputs, self.layers, target)
        pipeline = Pipeline(self.layers, (), self.size)
        reach = []
        for path, gradient in zip(self.layers, capture.gradients, strict=True):
            layout = pipeline.layout_of(path, gradient.shape[1:], model)
            view = layout.view(gradient)
            reach.append(array_namespace(view).any(view != 0))
        return reach


def _reached(model: Model, inputs: Inputs, candidates: list[str]) -> str:
    """The first of the candidates, last layers first, whose spatial tokens reach the top class's score."""
    size = input_size(model, inputs)
    for start in range(0, len(candidates), 16):
        some = tuple(reversed(candidates[start : start + 16]))
        reach = compiled(model, _Reach(some, size))(inputs, as_target(None))
        for path, reached in reversed(list(zip(some, reach, strict=True))):
            if bool(reached):
                return str(path)
    return candidates[0]


def combine(
    activations: Array,
    gradients: Array,
    method: str | Method = "grad-cam",
    channel_axis: int = 1,
    *,
    relu: bool = True,
    **parameters: Any,
) -> Array:
    """No framework: your own arrays of any library that speaks the array API, and any channel axis.

    activations: (N, ...) with the channels at `channel_axis`; all further axes are space.
    gradients: the same shape, or (N, K, ...) for K targets.
    Returns maps (N, *grid) or (N, K, *grid), raw, and ReLU'd unless `relu=False`.
    """
    xp = array_namespace(activations, gradients)
    axis = (
        channel_axis % activations.ndim
        if -activations.ndim <= channel_axis < activations.ndim
        else 0
    )
    if activations.ndim < 3 or axis == 0:
        raise ValueError(
            f"`channel_axis` {channel_axis} must name an axis other than the samples' of activations (N, ...) with "
            f"space, but they have shape {tuple(activations.shape)}"
        )
    several = gradients.ndim == activations.ndim + 1
    expected = tuple(activations.shape)
    shape = (gradients.shape[0], *gradients.shape[2:]) if several else tuple(gradients.shape)
    if tuple(shape) != expected:
        raise ValueError(
            f"`gradients` must have the shape of `activations`, {expected}, or (N, K, ...) for K targets, but have "
            f"{tuple(gradients.shape)}"
        )
    layout = Layout(
        "channels_first", tuple(int(n) for i, n in enumerate(expected) if i not in (0, axis))
    )
    view = layout.view(xp.moveaxis(widen(activations), axis, 1))
    slope = layout.view(xp.moveaxis(widen(gradients), axis + several, 1 + several))
    view = xp.expand_dims(view, axis=1) if several else view
    entry, _ = _chosen(method, parameters)
    if entry.needs == "activations":
        positions = entry.function(view, **parameters)
        positions = xp.broadcast_to(positions, (*slope.shape[:-2], positions.shape[-1]))
    elif entry.needs == "gradients" or entry.name == "cam":
        positions = entry.function(view, slope, **parameters)
    else:
        raise ValueError(
            f'`method` "{entry.name}" needs {entry.needs}, which arrays alone do not have; use explain'
        )
    maps = layout.maps(positions)
    return maps_.relu(maps) if relu else maps
