"""What a layer has learned, in words and in parts: its strongest channels, and its concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcam import backends, layouts, methods
from gradcam._arrays import array_namespace, to_numpy, widen
from gradcam._types import Array, Inputs
from gradcam.classifier import Classifier
from gradcam.explaining.explainer import LayerLike, Pipeline, last_spatial_layer
from gradcam.model import Model, compiled, input_size
from gradcam.targets import Target, TargetLike, as_target, logits

__all__ = ["Concepts", "Words", "factorise", "words"]


@dataclass(frozen=True)
class Words:
    """The channels that speak most for and most against a score: of one sample, strongest first.

    Each is (name, alpha): the channel's index where it has no name.
    """

    score: float
    strongest: tuple[tuple[str, float], ...]
    weakest: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        def listed(channels: tuple[tuple[str, float], ...]) -> str:
            return ", ".join(f"{name} ({alpha:+.3g})" for name, alpha in channels)

        return f"score {self.score:.4g}: for it {listed(self.strongest)}; against it {listed(self.weakest)}"


@dataclass(frozen=True)
class _Alphas:
    layer: str
    layout: layouts.Spec

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> tuple[Any, Array, Array]:
        capture = model.capture(inputs, (self.layer,), target)
        size = input_size(model, inputs)
        layout = Pipeline((self.layer,), (), size, self.layout).layout_of(
            self.layer, capture.activations[0].shape[1:], model
        )
        gradients = layout.view(widen(capture.gradients[0]))
        return capture.outputs, capture.scores, array_namespace(gradients).mean(gradients, axis=-1)


def words(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    k: int = 5,
    names: Sequence[str] | None = None,
    *,
    layout: layouts.Spec = None,
    allow_training: bool = False,
) -> list[Words]:
    """The k channels of largest and of smallest alpha for each sample's score, with `names` where you have them.

    Grad-CAM's textual explanations: Selvaraju et al. 2017, section 7, https://arxiv.org/abs/1610.02391. The paper
    takes k = 5 and names channels by network dissection. One target for each sample.
    """
    tapped, path, wanted = _prepared(model, inputs, layer, target, layout, allow_training)
    outputs, scores, alphas = compiled(tapped, _Alphas(path, layout))(inputs, wanted)
    if isinstance(wanted, Target):
        wanted.check(outputs)
    alphas, scores = to_numpy(alphas), to_numpy(scores)
    if scores.ndim != 1:
        raise ValueError(
            f"`target` must be one for each sample, but gives scores of shape {scores.shape}"
        )
    channels = alphas.shape[-1]
    if not 1 <= k <= channels:
        raise ValueError(
            f'`k` must be between 1 and the {channels} channels of layer "{path}", but is {k}'
        )
    if names is not None and len(names) != channels:
        raise ValueError(f'`names` has {len(names)}, but layer "{path}" has {channels} channels')

    def chosen(alpha: np.ndarray, order: np.ndarray) -> tuple[tuple[str, float], ...]:
        return tuple(
            (names[i] if names is not None else str(i), float(alpha[i])) for i in order[:k]
        )

    return [
        Words(
            float(score),
            chosen(alpha, np.argsort(-alpha, kind="stable")),
            chosen(alpha, np.argsort(alpha, kind="stable")),
        )
        for score, alpha in zip(scores, alphas, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Concepts:
    """A layer's activations as non-negative concepts.

    maps: where each is, (N, K, *grid). vectors: what each is, (K, C), of unit length.
    scores: what the model's head makes of the samples' share of each concept alone, (N, K, classes); None where
        the outputs have no class scores or the layer has class tokens, which no concept accounts for.
    """

    maps: Array
    vectors: Array
    scores: Array | None


@dataclass(frozen=True)
class _Activations:
    layer: str

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> Array:
        return model.capture(inputs, (self.layer,), None).activations[0]


@dataclass(frozen=True)
class _Replayed:
    layer: str

    def __call__(self, model: Model, inputs: Inputs, target: Any, activations: Array) -> Array:
        return logits(model.replay(inputs, (self.layer,), (activations,)))


def factorise(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    concepts: int = 4,
    *,
    iterations: int = 200,
    seed: int = 0,
    layout: layouts.Spec = None,
    allow_training: bool = False,
) -> Concepts:
    """Deep feature factorisation: the concepts that a layer sees in all samples together, and where.

    See `gradcam.methods.factorise` for the equation. Collins et al. 2018, https://arxiv.org/abs/1806.10206
    """
    tapped, path, wanted = _prepared(model, inputs, layer, None, layout, allow_training)
    activations = compiled(tapped, _Activations(path))(inputs, wanted)
    size = input_size(tapped, inputs)
    place = Pipeline((path,), (), size, layout).layout_of(path, activations.shape[1:], tapped)
    where, vectors = methods.factorise(
        place.view(widen(activations)), concepts, iterations=iterations, seed=seed
    )
    scores = None
    if not place.prefix:
        xp = array_namespace(where)
        replay = compiled(tapped, _Replayed(path))
        try:
            alone = [
                place.unview(where[:, k, None, :] * vectors[None, k, :, None])
                for k in range(int(vectors.shape[0]))
            ]
            scores = xp.stack(
                [replay(inputs, wanted, xp.astype(one, activations.dtype)) for one in alone], axis=1
            )
        except TypeError:
            scores = None  # outputs that are no class scores
    return Concepts(place.maps(where), vectors, scores)


def _prepared(
    model: Any,
    inputs: Inputs,
    layer: LayerLike,
    target: TargetLike,
    layout: layouts.Spec,
    allow_training: bool,
) -> tuple[Model, str, Any]:
    classifier = model if isinstance(model, Classifier) else None
    if classifier is not None:
        model, target = classifier.model, classifier.indices(target)
        layer = classifier.layer if layer is None else layer
    tapped = backends.adapt(model, inputs, allow_training)
    path = (
        last_spatial_layer(tapped, inputs, layout)
        if layer is None
        else backends.layer_path(model, layer)
    )
    return tapped, path, as_target(target)
