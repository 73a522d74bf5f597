"""The model, looked at again: what is 0, or flat, at the layers of an explanation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradcam._arrays import array_namespace, to_numpy
from gradcam._types import Array, Inputs, Shape
from gradcam.diagnosis.classes import Classes
from gradcam.diagnosis.findings import Finding, Seen
from gradcam.diagnosis.finite import not_finite
from gradcam.diagnosis.source import Source
from gradcam.layouts import Layout
from gradcam.model import Model, compiled
from gradcam.targets import Combination
from gradcam.targets.outputs import class_scores

__all__ = ["ONE_POSITION", "Look"]

ONE_POSITION = 'layer "{path}" has a single position, so its map is one number; choose an earlier layer, which has space'


@dataclass(frozen=True)
class _Looked:
    """Whether a layer's activations and gradients are 0 or flat: a few booleans for each sample and target."""

    path: str
    layout_of: Callable[[str, Shape, Model], Layout]
    differentiated: bool

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> dict[str, Array]:
        capture = model.capture(inputs, (self.path,), target if self.differentiated else None)
        activations = capture.activations[0]
        layout = self.layout_of(self.path, tuple(int(n) for n in activations.shape[1:]), model)
        view = layout.view(activations)
        xp = array_namespace(view)
        found = {
            "active": xp.any(view != 0, axis=(-2, -1)),
            "varied": xp.any(view != view[..., :1], axis=(-2, -1)),
        }
        if self.differentiated:
            gradients, lead = capture.gradients[0], capture.scores.ndim
            found["slope"] = xp.any(
                xp.reshape(gradients != 0, (*gradients.shape[:lead], -1)), axis=-1
            )
            found["reached"] = xp.any(layout.view(gradients) != 0, axis=(-2, -1))
        return found


@dataclass(frozen=True)
class _Activations:
    path: str

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> Array:
        return model.capture(inputs, (self.path,), None).activations[0]


@dataclass(frozen=True)
class _Scores:
    """The scores, and all class scores where there are any, with a layer's activations replaced or as they are."""

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


@dataclass(frozen=True, eq=False)
class Look:
    """The model of an explanation on its inputs: each question is asked of it once, for the whole batch."""

    source: Source
    model: Model
    inputs: Inputs
    scores: np.ndarray

    def findings(self, seen: Seen, good: bool, k: int, classes: Classes) -> list[Finding]:
        n = seen.sample
        if self.changed[n]:
            now = self.now[n, k]
            return [
                seen.finding(
                    "changed",
                    f"the score is {now:.4g} now, but {self.scores[n, k]:.4g} was explained: weights or inputs were "
                    "changed since, or the model depends on chance; explain it again, and diagnose that",
                )
            ]
        if not good:
            return [seen.finding("not-finite", self.broken[n])]
        parts = [self._layer(seen, path, k, classes) for path in self.source.layers]
        found = [finding for finding in parts if finding is not None]
        if not found:
            found = [
                seen.finding(
                    "fusion",
                    'each layer sees evidence, but at no position do all of them: fusion="product" keeps what they '
                    'share; use "mean" or "max"',
                )
            ]
        of_class = any(one.reason in ("negative", "saturated", "no-gradient") for one in found)
        hint = classes.mismatch(n, k) if of_class and self.source.scored else None
        return found + ([seen.finding("target", hint)] if hint is not None else [])

    def _layer(self, seen: Seen, path: str, k: int, classes: Classes) -> Finding | None:
        """What is wrong at one of the layers; None where its own map shows something, as may be among several."""
        n, source = seen.sample, self.source
        values = seen.values
        if len(source.layers) > 1:
            values = self._maps(path, True)[n, k]
            if values.max() != values.min():
                return None

        def finding(reason: str, message: str, amount: float | None = None) -> Finding:
            return seen.finding(reason, message, path if source.of_layer else None, amount)

        if source.of_layer:
            if values.size == 1 and values.any():
                return finding("flat", ONE_POSITION.format(path=path))
            if (cause := self._cause(n, k, path, bool(values.any()), classes)) is not None:
                return finding(*cause)
        elif values.any():
            return finding(
                "flat",
                "the map is the same at every position; try another method, or look at the input",
            )
        signed = self._maps(path, False)[n, k]
        if (signed < 0).any() and not (signed > 0).any():
            total = float(signed[signed < 0].sum())
            what = (
                f"all evidence is against the score: without ReLU the map lies between {signed.min():.3g} and "
                f"{signed.max():.3g} and sums to {total:.3g}"
            )
            return finding("negative", what + self._instead(n, k, classes), total)
        if source.of_layer and not self.looked(path)["varied"][n, 0]:
            return finding(
                "flat",
                f'the activations of layer "{path}" are the same at every position; look at the input, or choose an '
                "earlier layer",
            )
        if source.scored:
            against = self._against(path)[n, k]
            if (against > 0).any():
                total = -float(against.sum())
                what = f"all evidence is against the score, {total:.3g} summed over positions"
                return finding("negative", what + self._instead(n, k, classes), total)
        if source.differentiated:
            return finding(
                "cancels",
                f'neither the activations nor the gradient of layer "{path}" are 0, but what {source.entry.name} makes '
                'of them is: they meet at no position, or cancel in a mean; try method="layer-cam" or "hires-cam", or '
                "another layer",
            )
        return finding(
            "cancels",
            f"the parts of which {source.entry.name} is made cancel; try another method or layer",
        )

    def _cause(
        self, n: int, k: int, path: str, shows: bool, classes: Classes
    ) -> tuple[str, str] | None:
        """Reason and message of what is 0 before the method sees it; `shows`: the map is flat, but not 0."""
        source, looked = self.source, self.looked(path)
        if shows:
            whose = (
                "activations"
                if not looked["varied"][n, 0]
                else "activations that count in this map"
            )
            return (
                "flat",
                f'the {whose} of layer "{path}" are the same at every position; look at the input, or choose an '
                "earlier layer",
            )
        if not looked["active"][n, 0]:
            return (
                "flat",
                f'the activations of layer "{path}" are 0 at every position: its units are off; look at the input and '
                "its normalisation, or choose an earlier layer",
            )
        if not source.scored or (source.differentiated and looked["reached"][n, k]):
            return None
        if source.differentiated and looked["slope"][n, k]:
            return "class-token", self._earlier(path)
        depends, moves = self.depends(path)
        if classes.saturated[n, k] and moves[n]:
            return "saturated", classes.saturation(n, k)
        if not depends[n, k]:
            return (
                "unused",
                f'the score does not depend on layer "{path}": with its output set to zero, negated or doubled it '
                "stays what it is; choose a layer on the way to this score, or another target",
            )
        if not source.differentiated:
            return None
        return (
            "no-gradient",
            f'the score depends on layer "{path}", but its gradient there is 0: the way is cut (detach, stop_gradient, '
            "argmax, rounding), or leads through units that are off or saturated; choose a layer behind that, or a "
            'method without gradients, such as "ablation-cam"',
        )

    def _earlier(self, path: str) -> str:
        what = (
            f'the gradient at layer "{path}" reaches only the tokens in front of the grid, such as the class token: '
            "behind the last attention the spatial ones do not reach the output; choose an earlier layer"
        )
        try:
            earlier = self.source.earlier(self.model, self.inputs)
        except (TypeError, ValueError):  # a backend that lists no layers, or has no other
            return what
        return what if earlier == path else f'{what}, "{earlier}" is the last that does'

    def _instead(self, n: int, k: int, classes: Classes) -> str:
        if not self.source.scored:
            return "; look at the signed map, relu=False"
        return f"; look at the counterfactual, target={classes.negated(n, k)}, or at the signed map, relu=False"

    # ---------------------------------------------------------------- questions, each asked once

    @cached_property
    def _answers(self) -> dict[Any, Any]:
        return {}

    def _once(self, key: Any, ask: Callable[[], Any]) -> Any:
        if key not in self._answers:
            self._answers[key] = ask()
        return self._answers[key]

    def _column(self, array: Array) -> np.ndarray:
        """(N,), (N, K) or (N, 1) booleans or numbers as (N, K or 1)."""
        found = to_numpy(array)
        return found if found.ndim == 2 else found[:, None]

    @cached_property
    def now(self) -> np.ndarray:
        """The scores (N, K) that the model gives now."""
        return self._column(compiled(self.model, _Scores(()))(self.inputs, self.source.target)[0])

    @cached_property
    def changed(self) -> np.ndarray:
        """(N,): whether the score is another than the one explained, by more than rounding."""
        known = np.isfinite(self.scores)
        size = np.abs(
            np.where(known, self.scores, 0)
        ).max()  # a hundredth of it: what half precision may do
        return np.asarray((known & ~(np.abs(self.scores - self.now) <= 1e-2 * size)).any(1))

    @cached_property
    def broken(self) -> dict[int, str]:
        return not_finite(self.model, self.inputs, self.source, range(len(self.scores)))

    def looked(self, path: str) -> dict[str, np.ndarray]:
        run = compiled(self.model, _Looked(path, self.source.layout_of, self.source.differentiated))
        found: dict[str, np.ndarray] = self._once(
            path,
            lambda: {
                name: self._column(v) for name, v in run(self.inputs, self.source.target).items()
            },
        )
        return found

    def depends(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, K): whether the score, and (N,): whether any class score, is another for other activations."""

        def ask() -> tuple[np.ndarray, np.ndarray]:
            activations = compiled(self.model, _Activations(path))(self.inputs, None)
            replay = compiled(self.model, _Scores((path,)))
            each = [
                replay(self.inputs, self.source.target, activations * factor)
                for factor in (1, 0, -1, 2)
            ]
            score, every = ([self._column(found[i]) for found in each] for i in (0, 1))
            return _differ(score), np.asarray(_differ(every).any(1))

        found: tuple[np.ndarray, np.ndarray] = self._once(("depends", path), ask)
        return found

    def _maps(self, path: str, relu: bool, target: Any = None) -> np.ndarray:
        """(N, K, P): the same method's maps of one layer."""

        def ask() -> np.ndarray:
            wanted = self.source.target if target is None else target
            layers = (path,) if self.source.of_layer else self.source.layers
            maps = to_numpy(self.source.maps(self.model, self.inputs, wanted, layers, relu))
            return maps.reshape(*self.scores.shape, -1)

        found: np.ndarray = self._once((path, relu, target is None), ask)
        return found

    def _against(self, path: str) -> np.ndarray:
        """Maps of the negated target: the counterfactual."""
        return self._maps(path, True, Combination((self.source.target,), (-1.0,)))


def _differ(variants: Sequence[np.ndarray]) -> np.ndarray:
    """Whether any of the arrays is another than the first, by more than rounding; NaN is."""
    first = variants[0]
    digits = 64 * float(np.finfo(first.dtype).eps) if first.dtype.kind == "f" else 0.0
    same = [
        (one == first) | (np.abs(one - first) <= digits * np.maximum(np.abs(one), np.abs(first)))
        for one in variants[1:]
    ]
    return np.asarray(~np.all(same, axis=0))
