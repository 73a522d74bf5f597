"""What a layer has learned, in words and in parts: its strongest channels, and its concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcam import layouts, methods
from gradcam._arrays import array_namespace, to_numpy, widen
from gradcam._checks import check_integer
from gradcam._types import Array, Inputs, LayerLike
from gradcam.explaining.prepare import Prepared, prepare, settle
from gradcam.layouts import Layout
from gradcam.model import Model
from gradcam.targets import TargetLike, logits

__all__ = ["Concepts", "Words", "factorise", "words"]

# ----------------------------------------------------------------------------------------- in words


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

        return (
            f"score {self.score:.4g}: for it {listed(self.strongest)}; "
            f"against it {listed(self.weakest)}"
        )


@dataclass(frozen=True)
class _Gradients:
    """Outputs, scores and the gradient at a layer, as a function that a backend may compile."""

    layer: str

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> tuple[Any, Array, Array]:
        capture = model.capture(inputs, (self.layer,), target)
        return capture.outputs, capture.scores, capture.gradients[0]


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
    """The k channels of largest and of smallest alpha for each sample's score, with `names` where
    you have them.

    Grad-CAM's textual explanations: Selvaraju et al. 2017, section 7,
    https://arxiv.org/abs/1610.02391. The paper takes k = 5 and names channels by network
    dissection. One target for each sample.
    """
    prepared = prepare(model, inputs, layer, target, layout=layout, allow_training=allow_training)
    path = prepared.layer
    outputs, scores, gradients = prepared.run(_Gradients(path))
    settle(prepared.target, outputs)
    if scores.ndim != 1:
        raise ValueError(
            f"`target` must be one for each sample, but gives scores of shape {tuple(scores.shape)}"
        )
    words_layout = prepared.layout_of(path, gradients.shape)
    view = words_layout.view(words_layout.samples.arrange(widen(gradients)))
    alphas = to_numpy(array_namespace(view).mean(view, axis=-1))
    _check_words(k, names, alphas.shape[-1], path)
    return [
        Words(float(score), _first(alpha, -alpha, k, names), _first(alpha, alpha, k, names))
        for score, alpha in zip(to_numpy(scores), alphas, strict=True)
    ]


def _check_words(k: int, names: Sequence[str] | None, channels: int, path: str) -> None:
    check_integer("k", k)
    if k > channels:
        raise ValueError(
            f'`k` must be between 1 and the {channels} channels of layer "{path}", but is {k}'
        )
    if names is not None and len(names) != channels:
        raise ValueError(f'`names` has {len(names)}, but layer "{path}" has {channels} channels')


def _first(
    alpha: np.ndarray, key: np.ndarray, k: int, names: Sequence[str] | None
) -> tuple[tuple[str, float], ...]:
    """The k channels of smallest key: (name, alpha)."""
    channels = np.argsort(key, kind="stable")[:k]
    return tuple(
        (str(channel) if names is None else names[int(channel)], float(alpha[channel]))
        for channel in channels
    )


# ----------------------------------------------------------------------------------------- in parts


@dataclass(frozen=True, eq=False)
class Concepts:
    """A layer's activations as non-negative concepts.

    maps: where each is, (N, K, *grid). vectors: what each is, (K, C), of unit length.
    scores: what the model's head makes of the samples' share of each concept alone, (N, K,
        classes); None where the outputs have no class scores or the layer has class tokens, which
        no concept accounts for.
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
    """Deep feature factorisation: the concepts that a layer sees in all samples together, and
    where.

    See `gradcam.methods.factorise` for the equation. Collins et al. 2018,
    https://arxiv.org/abs/1806.10206
    """
    for name, value in {"concepts": concepts, "iterations": iterations}.items():
        check_integer(name, value)
    check_integer("seed", seed, least=0)
    prepared = prepare(model, inputs, layer, layout=layout, allow_training=allow_training)
    path = prepared.layer
    activations = prepared.run(_Activations(path))
    layer_layout = prepared.layout_of(path, activations.shape)
    view = layer_layout.view(layer_layout.samples.arrange(widen(activations)))
    positions, vectors = methods.factorise(view, concepts, iterations=iterations, seed=seed)
    scores = None
    if not (layer_layout.prefix or layer_layout.suffix):
        scores = _concept_scores(prepared, layer_layout, positions, vectors, activations.dtype)
    return Concepts(layer_layout.maps(positions), vectors, scores)


def _concept_scores(
    prepared: Prepared, layout: Layout, positions: Array, vectors: Array, dtype: Any
) -> Array | None:
    """(N, K, classes): the scores when the layer holds one concept alone; None for outputs without
    class scores.
    """
    xp = array_namespace(positions)
    scores = []
    for k in range(int(vectors.shape[0])):
        alone = layout.unview(positions[:, k, None, :] * vectors[None, k, :, None])
        try:
            alone = layout.samples.restore(xp.astype(alone, dtype))
            scores.append(prepared.run(_Replayed(prepared.layer), alone))
        except TypeError:
            return None
    return xp.stack(scores, axis=1)
