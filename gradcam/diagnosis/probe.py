"""What the rules of a diagnosis can ask of the model.

A `Probe` is an explanation's model, adapted to its backend, together with its inputs. Each method
is one question. It runs the model for the whole batch when it is asked for the first time, and its
answer is cached, so rules may ask in any order and as often as they like:

    probe = Probe(source, model, inputs, scores, classes)  # scores (N, K)
    probe.layer_facts("layer4").varied    # (N,): do activations differ between positions?
    probe.dependence("layer4").score      # (N, K): does replacing the activations change the score?
    probe.signed_maps("layer4")           # (N, K, P): the method's maps before ReLU

N is the number of samples, K of targets (1 where there is one), P of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

import numpy as np

from gradcam._arrays import array_namespace, to_numpy
from gradcam._types import Array, Inputs, Shape
from gradcam.diagnosis.classes import Classes
from gradcam.diagnosis.finite import not_finite
from gradcam.diagnosis.source import Source
from gradcam.layouts import Layout
from gradcam.methods import MethodSpec
from gradcam.model import Model, compiled
from gradcam.targets import Combination
from gradcam.targets.outputs import class_scores

__all__ = ["Dependence", "LayerFacts", "Probe"]

_Arguments = TypeVarTuple("_Arguments")
_Answer = TypeVar("_Answer")


class LayerFacts(NamedTuple):
    """What is 0 or constant at one layer.

    active, varied: (N,), whether any activation is not 0, and whether any channel's activations
    differ between positions.
    any_gradient, spatial_gradient: (N, K), whether the gradient is not 0 anywhere, and at any
    position of the map (class and register tokens have none). False if the method uses no gradient.
    """

    active: np.ndarray
    varied: np.ndarray
    any_gradient: np.ndarray
    spatial_gradient: np.ndarray


class Dependence(NamedTuple):
    """Whether other activations at a layer change the score (N, K), and any class score (N,)."""

    score: np.ndarray
    any_class: np.ndarray


def _once(
    question: Callable[[Probe, *_Arguments], _Answer],
) -> Callable[[Probe, *_Arguments], _Answer]:
    """Cache the answer on the probe, under the question's name and arguments."""

    @wraps(question)
    def cached(probe: Probe, *arguments: *_Arguments) -> _Answer:
        key = (question.__name__, arguments)
        if key not in probe.answers:
            probe.answers[key] = question(probe, *arguments)
        answer: _Answer = probe.answers[key]
        return answer

    return cached


@dataclass(frozen=True, eq=False)
class Probe:
    """An explanation's model and inputs, asked once for each question. See the module."""

    source: Source
    model: Model
    inputs: Inputs
    scores: np.ndarray
    classes: Classes
    answers: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def method(self) -> MethodSpec:
        return self.source.entry

    @_once
    def current_scores(self) -> np.ndarray:
        """(N, K): the scores that the model gives now."""
        scores, _ = compiled(self.model, _Scores(()))(self.inputs, self.source.target)
        return _columns(scores)

    @_once
    def changed(self) -> np.ndarray:
        """(N,): whether the score now differs from the explained one by more than rounding."""
        known = np.isfinite(self.scores)
        # In half precision two runs may differ by a hundredth of the largest score.
        tolerance = 1e-2 * np.abs(np.where(known, self.scores, 0)).max()
        same = np.abs(self.scores - self.current_scores()) <= tolerance  # NaN is not the same
        return np.asarray((known & ~same).any(1))

    @_once
    def not_finite(self) -> dict[int, str]:
        """For each sample, where its NaN or infinity comes from."""
        return not_finite(self.model, self.inputs, self.source, range(len(self.scores)))

    @_once
    def layer_facts(self, layer: str) -> LayerFacts:
        """What is 0 or constant at a layer, from one capture."""
        target = None
        if self.method.uses_gradients:
            target = self.source.target
        facts = compiled(self.model, _Facts(layer, self.source.layout_of))
        found = facts(self.inputs, target)
        no_gradient = np.zeros(self.scores.shape, bool)
        return LayerFacts(
            active=to_numpy(found["active"]),
            varied=to_numpy(found["varied"]),
            any_gradient=_columns(found.get("any_gradient", no_gradient)),
            spatial_gradient=_columns(found.get("spatial_gradient", no_gradient)),
        )

    @_once
    def dependence(self, layer: str) -> Dependence:
        """Whether the score depends on a layer: its activations are set to 0, negated, doubled.

        Needs no gradient, so it finds a dependence that detach or rounding hides from autograd.
        """
        activations = compiled(self.model, _Activations(layer))(self.inputs, None)
        replay = compiled(self.model, _Scores((layer,)))
        scores, class_rows = [], []
        for factor in (1, 0, -1, 2):
            score, rows = replay(self.inputs, self.source.target, activations * factor)
            scores.append(_columns(score))
            class_rows.append(_columns(rows))
        return Dependence(_differ(scores), np.asarray(_differ(class_rows).any(1)))

    @_once
    def maps(self, layer: str | None) -> np.ndarray:
        """(N, K, P): the method's maps of one layer. Of None: of all that the method looks at."""
        return self._run(layer, self.source.target, relu=True)

    @_once
    def signed_maps(self, layer: str | None) -> np.ndarray:
        """(N, K, P): the maps before ReLU."""
        return self._run(layer, self.source.target, relu=False)

    @_once
    def opposed_maps(self, layer: str | None) -> np.ndarray:
        """(N, K, P): maps of the negated score, the evidence against it.

        For a nonlinear method these are not the signed map's negative part.
        """
        return self._run(layer, Combination((self.source.target,), (-1.0,)), relu=True)

    @_once
    def earlier_layer(self) -> str | None:
        """The last layer whose spatial tokens reach the output, where the backend lists layers."""
        try:
            return self.source.earlier(self.model, self.inputs)
        except (TypeError, ValueError):
            return None

    def _run(self, layer: str | None, target: Any, relu: bool) -> np.ndarray:
        layers = self.source.layers if layer is None else (layer,)
        maps = to_numpy(self.source.maps(self.model, self.inputs, target, layers, relu))
        return maps.reshape(*self.scores.shape, -1)


# ---------------------------------------------------------------- functions that may be compiled


@dataclass(frozen=True)
class _Facts:
    """`LayerFacts`, computed on the device so that booleans are fetched instead of activations.

    With no target, without those of gradients.
    """

    layer: str
    layout_of: Callable[[str, Shape, Model], Layout]

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> dict[str, Array]:
        capture = model.capture(inputs, (self.layer,), target)
        activations = capture.activations[0]
        shape = tuple(int(n) for n in activations.shape[1:])
        layout = self.layout_of(self.layer, shape, model)
        view = layout.view(activations)
        xp = array_namespace(view)
        facts = {
            "active": xp.any(view != 0, axis=(-2, -1)),
            "varied": xp.any(view != view[..., :1], axis=(-2, -1)),
        }
        if target is not None:
            gradients = capture.gradients[0]
            flat = xp.reshape(gradients, (*gradients.shape[: capture.scores.ndim], -1))
            facts["any_gradient"] = xp.any(flat != 0, axis=-1)
            facts["spatial_gradient"] = xp.any(layout.view(gradients) != 0, axis=(-2, -1))
        return facts


@dataclass(frozen=True)
class _Activations:
    layer: str

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> Array:
        return model.capture(inputs, (self.layer,), None).activations[0]


@dataclass(frozen=True)
class _Scores:
    """The target's scores and all class scores, with the activations of `layers` replaced.

    Of outputs that have no class scores, the target's scores twice.
    """

    layers: tuple[str, ...]

    def __call__(
        self, model: Model, inputs: Inputs, target: Any, *activations: Array
    ) -> tuple[Array, Array]:
        outputs = model.replay(inputs, self.layers, activations)
        scores = target(outputs)
        try:
            return scores, class_scores(outputs)
        except (TypeError, ValueError):
            return scores, scores


# ---------------------------------------------------------------- arrays


def _columns(array: Array) -> np.ndarray:
    """(N,) or (N, K) as (N, K) on the host."""
    values = to_numpy(array)
    return values.reshape(len(values), -1)


def _differ(variants: Sequence[np.ndarray]) -> np.ndarray:
    """Where any of the arrays differs from the first by more than rounding, or is NaN."""
    first = variants[0]
    digits = 0.0
    if first.dtype.kind == "f":
        # Sums of many terms in another order. A score that depends on the layer moves far more.
        digits = 64 * float(np.finfo(first.dtype).eps)
    differ = np.zeros(first.shape, bool)
    for variant in variants[1:]:
        size = np.maximum(np.abs(variant), np.abs(first))
        same = (variant == first) | (np.abs(variant - first) <= digits * size)
        differ |= ~same
    return differ
