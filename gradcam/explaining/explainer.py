"""Explaining: a model, its inputs and a target in, an `Explanation` out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, Unpack, get_args

import numpy as np

from gradcam import backends, layouts
from gradcam._arrays import is_traced, to_numpy
from gradcam._numbers import check_whole
from gradcam._progress import Progress
from gradcam._types import Array, Inputs, LayerLike, Shape
from gradcam._warnings import called
from gradcam.backends import entry
from gradcam.diagnosis import Source, not_finite, reference, warn_blank
from gradcam.explaining.comparison import Comparison
from gradcam.explaining.explanation import Explanation
from gradcam.explaining.looking import picture_size
from gradcam.explaining.pipeline import ChosenMethod, Pipeline, Runs
from gradcam.explaining.prepare import (
    Prepared,
    layer_paths,
    prepare,
    settle,
    shown_target,
    unwrap,
)
from gradcam.explaining.smoothing import Smoothing
from gradcam.inputs import InputKey
from gradcam.layouts import Layout
from gradcam.maps import Fusion, Scaling
from gradcam.methods import MethodLike, MethodParameters
from gradcam.methods.parameters import with_parameters
from gradcam.model import Model, input_size
from gradcam.space.axes import sure_axes
from gradcam.space.choice import choose_layer
from gradcam.space.input_axes import input_in_doubt
from gradcam.space.memory import Known, known_of
from gradcam.targets import TargetLike

__all__ = ["Explainer", "by_name"]


class Explainer:
    """A model, a layer and a method, kept: compiled once, called often.

    >>> explainer = gradcam.Explainer(model, layer="layer4")     # doctest: +SKIP
    >>> explainer(images).maps                                   # doctest: +SKIP

    model: a torch.nn.Module, a flax.nnx.Module, a bound flax.linen module, the pair (linen module,
        variables), a function of JAX arrays, `gradcam.Split`, a `gradcam.Classifier`, or any object
        with `capture` and `replay`.
    layer: a path, the module itself, several of them, or None: the last layer through which
        everything flows and whose positions the score's gradient reaches (`gradcam.space`).
    method: a name in `gradcam.METHODS`, a function of (..., C, P) activations and gradients, or one
        of these with its own parameters, `("layer-cam", {"gamma": 2.0})`.
    relu: keep only evidence for the target (the paper's choice); False keeps the signed map.
    layout: None (found out), "channels_first", "channels_last" or `gradcam.Tokens(grid, prefix)`.
    input_key: of several inputs, the position or the keyword of the one that the map is of. None:
        the one that the layer answers to.
    fusion: how the maps of several layers become one: "mean", "max" or "product".
    smoothing: `gradcam.Smoothing(...)`: the mean over flips, scalings and noise.
    batch: how many variants of the inputs or activations run at a time, for methods that run many.
    progress: True shows a bar while they do; a function is told what comes next.
    check: raise where activations or gradients are NaN or infinite, and warn, `BlankMapWarning`, of
        a map that is 0 everywhere. This blocks until the result is ready; pass False to keep
        asynchronous dispatch. Inside your own jit, grad or vmap nothing can be checked.
    allow_training: explain a PyTorch model that is in training mode all the same.
    parameters: the method's own, such as `gamma` of "layer-cam" or `channels` of "score-cam".

    The model's weights are read anew at each call.
    """

    @entry
    def __init__(
        self,
        model: Any,
        layer: LayerLike = None,
        method: MethodLike = "grad-cam",
        *,
        relu: bool = True,
        layout: layouts.Spec = None,
        input_key: InputKey | None = None,
        fusion: Fusion = "mean",
        smoothing: Smoothing | None = None,
        batch: int = 32,
        progress: Progress = False,
        check: bool = True,
        allow_training: bool = False,
        **parameters: Unpack[MethodParameters],
    ) -> None:
        own: dict[str, Any] = {**parameters}
        if "chunk" in own:
            _renamed("chunk", "batch")
            batch = own.pop("chunk")
        _check_options(fusion, smoothing, batch)
        self._model, self._classifier = unwrap(model)
        if layer is None and self._classifier is not None:
            layer = self._classifier.layer
        self._layers = None if layer is None else layer_paths(self._model, layer)
        if self._layers == ():
            raise ValueError(
                "`layer` is an empty list; pass a path, or None for the last layer that still "
                "has space"
            )
        chosen = with_parameters(method, own, called(), signature(Explainer).parameters)
        self._pipeline = Pipeline((), (chosen,), None, layout, relu, fusion)
        self._runs = Runs(smoothing, batch, progress, known_of(self._model))
        self._check = check
        self._allow_training = allow_training
        self._input_key = input_key

    @entry
    def __call__(self, inputs: Inputs, target: TargetLike = None) -> Explanation:
        """Explain the score of `target` for each sample of `inputs`.

        inputs: what the model is called with, samples first: an array, a tuple or a mapping.
        target: None (each sample's top class), an int, (N,) ints, (1, K) or (N, K) ints for K maps
            per sample from one forward pass, a function `outputs -> (N,)` or `(N, K)` scores, or
            one of `gradcam.targets`.
        """
        prepared, pipeline = self._prepare(inputs, target)
        return self._explain(prepared, pipeline)[0]

    @entry
    def heatmaps(
        self,
        inputs: Inputs,
        target: TargetLike = None,
        size: Sequence[int] | None = None,
        how: Scaling = "max",
    ) -> Array:
        """From inputs to pictures, (N, *size) or (N, K, *size), in one compiled program where the
        backend compiles.
        """
        prepared, pipeline = self._prepare(inputs, target)
        picture = _size_of(prepared) if size is None else tuple(int(n) for n in size)
        if picture is None:
            raise ValueError("the inputs have no space of their own; pass `size`")
        explanation = self._explain(prepared, replace(pipeline, picture=(picture, how)))[0]
        if size is not None:
            ndim = explanation.maps.ndim - explanation.scores.ndim
            picture_size(size, ndim, explanation.axes)
        return explanation.maps

    @entry
    def compare(
        self,
        inputs: Inputs,
        target: TargetLike = None,
        methods: Sequence[MethodLike] = (),
    ) -> Comparison:
        """Several methods, by name: all that need only activations and gradients from one forward
        and one backward pass, each of the others by itself.

        methods: as `method` of an explainer; pairs of a method and its own parameters are named
            with these, "layer-cam(gamma=2.0)".
        """
        if isinstance(methods, str):
            methods = (methods,)
        if not methods:
            raise ValueError("`methods` is empty; pass names from gradcam.METHODS, or functions")
        chosen = by_name([with_parameters(method, {}, "gradcam.compare") for method in methods])
        prepared, pipeline = self._prepare(inputs, target)
        one_capture = [name for name, (spec, _) in chosen.items() if spec.procedure is None]
        groups = [one_capture] if one_capture else []
        groups += [[name] for name in chosen if name not in one_capture]
        explanations: dict[str, Explanation] = {}
        for names in groups:
            group = replace(pipeline, methods=tuple(chosen[name] for name in names))
            explanations.update(zip(names, self._explain(prepared, group), strict=True))
        return Comparison({name: explanations[name] for name in chosen})

    def _prepare(self, inputs: Inputs, target: TargetLike) -> tuple[Prepared, Pipeline]:
        layer: LayerLike = self._layers
        needs = {spec.needs for spec, _ in self._pipeline.methods}
        looks_at_attention = self._layers is None and needs <= {"attention"}
        if looks_at_attention:
            layer = ("<attention>",)
        if self._classifier is not None:
            target = self._classifier.indices(target)
        prepared = prepare(
            self._model,
            inputs,
            layer,
            target,
            layout=self._pipeline.layout,
            input_key=self._input_key,
            allow_training=self._allow_training,
            known=self._runs.known,
        )
        if not looks_at_attention:
            self._layers = prepared.layers  # a layer that was chosen stays the explainer's
        return prepared, replace(self._pipeline, layers=prepared.layers, size=prepared.size)

    def _explain(self, prepared: Prepared, pipeline: Pipeline) -> list[Explanation]:
        model = prepared.model
        inputs = prepared.inputs
        result = self._runs.once(pipeline, model, inputs, prepared.target)
        target = settle(prepared.target, result["outputs"])
        sources = [self._source(prepared, pipeline, m, target) for m in pipeline.methods]
        peaks = self._peaks(result, sources)
        if peaks is not None and not np.isfinite(peaks).all():
            raise _not_finite(model, inputs, sources, peaks)
        if self._runs.smoothing is not None:
            result = self._runs.smoothed(pipeline, model, inputs, target, result)
            peaks = self._peaks(result, sources)
        explanations = []
        for m, source in enumerate(sources):
            zero = (
                np.zeros(result["scores"].shape, dtype=bool) if peaks is None else peaks[m, -1] == 0
            )
            explanation = self._result(result, m, source, prepared, bool(zero.any()))
            explanations.append(explanation)
            warn_blank(zero, explanation.origin)
        return explanations

    def _result(
        self, result: dict[str, Any], m: int, source: Source, prepared: Prepared, blank: bool
    ) -> Explanation:
        layers = source.layers
        axes = [a for a in map(prepared.known_axes, layers) if a is not None]
        # Only a blank explanation keeps its model and inputs alive, for diagnose().
        source = replace(
            source,
            model=reference(self._model, blank),
            inputs=reference(prepared.inputs, blank),
        )
        return Explanation(
            maps=result["maps"][m],
            scores=result["scores"],
            target=shown_target(source.target),
            outputs=result["outputs"],
            size=prepared.size_of(layers[0]),
            axes=axes[0] if len(axes) == 1 else tuple(axes) or None,
            choice=prepared.choice,
            layer=layers[0] if len(layers) == 1 else layers,
            method=source.entry.name,
            model=_name(self._model),
            labels=self._classifier.labels if self._classifier else None,
            _source=source,
        )

    def _peaks(self, result: dict[str, Any], sources: Sequence[Source]) -> np.ndarray | None:
        """(M, L + 1, N) or (M, L + 1, N, K), on the host: all that is waited for. None where
        nothing is checked, as inside the user's own jit, where there are no numbers.
        """
        if not self._check or is_traced(result["peaks"]):
            return None
        return to_numpy(result["peaks"]).reshape(len(sources), -1, *result["scores"].shape)

    def _source(
        self, prepared: Prepared, pipeline: Pipeline, method: ChosenMethod, target: Any
    ) -> Source:
        """How this method's explanation can be diagnosed; it holds neither model nor inputs yet."""
        plain = replace(pipeline, methods=(method,), picture=None)
        runs = self._runs

        def maps(
            model: Model, inputs: Inputs, target: Any, layers: tuple[str, ...], relu: bool
        ) -> Array:
            again = replace(plain, layers=layers, relu=relu)
            result = runs.once(again, model, inputs, target)
            return runs.smoothed(again, model, inputs, target, result)["maps"][0]

        return Source(
            model=_nothing,
            inputs=_nothing,
            adapt=partial(backends.adapt, allow_training=self._allow_training),
            target=target,
            layers=pipeline.layers,
            entry=method[0],
            layout_of=partial(_layout_again, prepared.known, prepared.size, prepared.layout),
            maps=maps,
            earlier=partial(_chosen_again, target, pipeline.layout),
        )


def _size_of(prepared: Prepared) -> Shape | None:
    """The size of the input; where that is in doubt, of the one that the positions are of."""
    if input_in_doubt(prepared.model, prepared.inputs):
        prepared.axes_of(prepared.layers[0])
    return prepared.size_of(prepared.layers[0])


def _layout_again(
    known: Known, size: Shape | None, spec: layouts.Spec, path: str, sample: Shape, model: Model
) -> Layout:
    """The layout that a layer had when it was explained."""
    for key, axes in known.axes.items():
        if key.path == path and key.layout == spec:
            return axes.layout
    axes_again = sure_axes(model, path, (1, *sample), 1, size, spec)
    if axes_again is None:
        raise LookupError(f'the axes of layer "{path}" are not known')
    return axes_again.layout


def _chosen_again(target: Any, spec: layouts.Spec, model: Model, inputs: Inputs) -> str:
    """The layer that would be taken if none were named."""
    return choose_layer(model, inputs, target, input_size(model, inputs), spec).layer


def _nothing() -> Any:
    raise ReferenceError("nothing is held")


def _check_options(fusion: str, smoothing: Any, batch: int) -> None:
    if fusion not in get_args(Fusion):
        raise ValueError(f'`fusion` must be "mean", "max" or "product", but is {fusion!r}')
    if smoothing is not None and not isinstance(smoothing, Smoothing):
        raise TypeError(
            f"`smoothing` must be a gradcam.Smoothing(...), or None, but is {smoothing!r}"
        )
    check_whole("batch", batch, 1)


def _renamed(old: str, new: str) -> None:
    message = f"`{old}` is now `{new}`; the old name goes in 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=3)


def by_name(chosen: Sequence[ChosenMethod]) -> dict[str, ChosenMethod]:
    """Methods by their names, with their parameters where these were given; equal ones once."""
    named: dict[str, ChosenMethod] = {}
    for spec, parameters in chosen:
        name = spec.name
        if parameters:
            bound = ", ".join(f"{key}={value!r}" for key, value in parameters)
            name = f"{name}({bound})"
        if named.setdefault(name, (spec, parameters)) != (spec, parameters):
            raise ValueError(
                f'`methods` holds two methods with the name "{name}", but the results are told '
                "apart by name; give one of the functions another __name__"
            )
    return named


def _not_finite(
    model: Model, inputs: Inputs, sources: Sequence[Source], peaks: np.ndarray
) -> FloatingPointError:
    first_bad = np.argwhere(~np.isfinite(peaks))[0]
    m = int(first_bad[0])
    sample = int(first_bad[2])
    message = not_finite(model, inputs, sources[m], (sample,))[sample]
    return FloatingPointError(f"{message}; or pass check=False to have the map all the same")


def _name(model: Any) -> str:
    """The name of the model's class or function; of a linen pair its first part's, of a partial its
    function's.
    """
    model = model[0] if isinstance(model, tuple) else getattr(model, "func", model)
    return str(getattr(model, "__name__", type(model).__name__))
