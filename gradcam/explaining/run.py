"""A model at one layer as a few plain functions of arrays: `gradcam.methods.run.Run` for a
`Prepared`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gradcam._arrays import array_namespace, widen
from gradcam._types import Array, Inputs, Shape
from gradcam.explaining.prepare import Prepared, settle
from gradcam.inputs import INPUT, check_floating, first_array, noise, with_first_array
from gradcam.layouts import Layout
from gradcam.model import (
    Capture,
    HasAttention,
    HasBiases,
    Model,
    Scorer,
    compiled,
    scorer,
)
from gradcam.space.input_axes import OtherInputError

__all__ = ["ModelRun"]


@dataclass(frozen=True)
class _Captured:
    """A capture as a function that a backend may compile."""

    layers: tuple[str, ...]
    scored: bool = True

    def __call__(self, model: Model, inputs: Inputs, target: Any, *at: Array) -> dict[str, Any]:
        options: dict[str, Any] = {"at": at} if at else {}
        capture = model.capture(inputs, self.layers, target if self.scored else None, **options)
        scores = capture.scores if self.scored else target(capture.outputs)
        return {
            "outputs": capture.outputs,
            "scores": scores,
            "activations": capture.activations,
            "gradients": capture.gradients,
        }


@dataclass(frozen=True)
class ModelRun:
    """One prepared model at one of its layers (what each verb gives is said in
    `gradcam.methods.run`).
    """

    prepared: Prepared
    path: str
    batch: int
    tracker: Callable[[Sequence[Any], str], Iterable[Any]]

    @property
    def size(self) -> Shape | None:
        return self.prepared.size_of(self.path)

    # -------------------------------------------------------------------------------- captures

    def capture(
        self,
        inputs: Inputs = None,
        layers: tuple[str, ...] = (),
        at: Array | None = None,
        scored: bool = True,
    ) -> Capture:
        model = self.prepared.model
        inputs = self.prepared.inputs if inputs is None else inputs
        arrays = () if at is None else (at,)
        if INPUT in layers:
            check_floating(inputs, "this method needs a gradient at the input")
        run = compiled(model, _Captured(layers or (self.path,), scored))
        try:
            return Capture(**run(inputs, self.prepared.target, *arrays))
        except TypeError as error:
            if at is not None and "at" in str(error):
                raise TypeError(
                    "this method needs gradients at other activations, which "
                    f"{type(model).__name__}.capture does not give: it has no option `at`"
                ) from error
            raise

    @cached_property
    def first(self) -> Capture:
        return self.capture()

    @cached_property
    def unscored(self) -> Capture:
        return self.capture(scored=False)

    def settled(self, capture: Any) -> ModelRun:
        target = settle(self.prepared.target, capture.outputs)
        return replace(self, prepared=replace(self.prepared, target=target))

    # -------------------------------------------------------------------------------- axes

    def layout(self, capture: Any) -> Layout:
        return self._layout(self.path, capture.activations[0].shape)

    def layout_of(self, path: str, sample: Shape) -> Layout:
        return self._layout(path, (self.input_array.shape[0], *sample))

    def layout_of_same_input(self, path: str, sample: Shape) -> Layout | None:
        try:
            return self.layout_of(path, sample)
        except OtherInputError:
            return None

    def _layout(self, path: str, shape: Sequence[int]) -> Layout:
        layout = self.prepared.layout_of(path, tuple(int(n) for n in shape))
        if not layout.samples.first or len(shape) - 1 > layout.sample_ndim:
            raise ValueError(
                "this method needs a layer whose first axis is that of the samples alone, but "
                f'"{path}" is laid out '
                f'as {layout}; methods of one capture, such as "grad-cam" and "layer-cam", take '
                "it as it is"
            )
        return layout

    @property
    def input_array(self) -> Array:
        return first_array(self.prepared.inputs)

    @property
    def input_layout(self) -> Layout | None:
        return self.prepared.input_layout(self.path)

    # -------------------------------------------------------------------------------- many variants

    def scorer(self) -> Scorer:
        return scorer(self.prepared.model, self.prepared.inputs, self.path, self.prepared.target)

    def input_scorer(self) -> Scorer:
        return scorer(self.prepared.model, self.prepared.inputs, INPUT, self.prepared.target)

    def score(
        self,
        scores: Callable[[Array], Array],
        variants: Callable[[np.ndarray], Array],
        count: int,
        doing: str,
        batch: int | None = None,
    ) -> Array:
        batch = min(batch or self.batch, count)
        parts = []
        for start in self.track(range(0, count, batch), doing):
            # The last batch is filled up: one of another size would be compiled anew.
            index = np.minimum(np.arange(start, start + batch), count - 1)
            parts.append(widen(scores(variants(index))[: min(batch, count - start)]))
        xp = array_namespace(*parts)
        return xp.moveaxis(xp.concat(parts, axis=0), 0, -1)

    def noisy(self, samples: int, noise_range: float, seed: int) -> Iterator[Inputs]:
        inputs = self.prepared.inputs
        check_floating(inputs, "noise changes the inputs' values by fractions")
        random = np.random.default_rng(seed)
        for _ in range(samples):
            added = noise(self.input_array, self.input_layout, noise_range, random)
            yield with_first_array(inputs, self.input_array + added)

    def track(self, steps: Sequence[Any], doing: str) -> Iterable[Any]:
        return self.tracker(steps, doing)

    # -------------------------------------------------------------------------------- powers

    def biases(self) -> Sequence[tuple[str, Array]]:
        model = self.prepared.model
        if not isinstance(model, HasBiases):
            raise TypeError(
                f"full-grad needs a network's biases, which {type(model).__name__} does not give"
            )
        return model.biases(self.prepared.inputs)

    def attentions(self) -> tuple[str, ...]:
        model = self.prepared.model
        layers = model.attentions(self.prepared.inputs) if isinstance(model, HasAttention) else ()
        if not layers:
            raise ValueError(
                "no attention weights of self-attention, (N, heads, T, T), were found in this "
                f"{type(model).__name__}: PyTorch's scaled_dot_product_attention and "
                "MultiheadAttention, and a softmax that is spelled out, are seen in both "
                "frameworks; a kernel of its own is not, and a model without attention has none. "
                'Methods such as "grad-cam" work on its tokens all the same'
            )
        return tuple(layer.path for layer in layers)
