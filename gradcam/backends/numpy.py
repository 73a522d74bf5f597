"""Plain functions on NumPy arrays, differentiated by finite differences: a black box is enough.

Grad-CAM needs no autograd: alpha_k is 1/Z times the derivative of the score as channel k is lifted
everywhere by the same amount, so 2 C evaluations of the head, batched, are enough. Methods that
look at single positions need 2 C Z.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.errors import unknown_layer
from gradcam.backends.proof import Together
from gradcam.inputs import arguments, with_first_array
from gradcam.model import INPUT, Capture, Layer, PooledAxes, merged_scores
from gradcam.targets import Target

__all__ = ["NumpyModel"]


@dataclass(frozen=True)
class NumpyModel:
    """`model.Model` for `features` and `head`, two plain functions (the laws are in
    `gradcam.model`).

    `chunk` perturbed copies of one sample are evaluated at a time; `step` is the finite
    difference's step relative to the activations' root mean square (None: the cube root of the
    dtype's precision, which central differences like).
    """

    features: Callable[..., np.ndarray]
    head: Callable[[np.ndarray], Outputs]
    layer: str = "features"
    channels_first: bool = True
    chunk: int = 256
    step: float | None = None

    def _check(self, layers: Sequence[str]) -> None:
        for path in layers:
            if path != self.layer:
                raise unknown_layer(path, [self.layer])

    def _features(self, inputs: Inputs) -> np.ndarray:
        args, kwargs = arguments(inputs)
        activations = np.asarray(self.features(*args, **kwargs))
        if activations.dtype.kind != "f":
            raise TypeError(
                "`features` must return floating-point activations, but returned "
                f"{activations.dtype}"
            )
        return activations

    def layers(self, inputs: Inputs) -> list[Layer]:
        return [Layer(self.layer, self._features(inputs).shape, "function")]

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        if curvature:
            raise ValueError(
                "second derivatives of a black box have no digits left in finite differences; "
                "give gradcam.Split two "
                "functions of torch tensors or JAX arrays"
            )
        self._check(layers)
        activations = self._features(inputs) if at is None else np.asarray(at[0])
        outputs = self.head(activations)
        if target is None:
            return Capture(outputs, None, (activations,), ())
        target = target.resolve(outputs) if isinstance(target, Target) else target
        scores = np.asarray(target(outputs))
        if scores.ndim not in (1, 2) or scores.shape[0] != activations.shape[0]:
            raise ValueError(
                "`target` must return scores of shape (N,) or (N, K) for N = "
                f"{activations.shape[0]} samples, but "
                f"returned {scores.shape}"
            )
        axes = pooled(activations.shape[1:]) if pooled is not None else ()
        return Capture(
            outputs, scores, (activations,), (self._differences(activations, target, axes),)
        )

    def _differences(
        self, activations: np.ndarray, target: Callable[[Outputs], Array], axes: tuple[int, ...]
    ) -> np.ndarray:
        """Central differences of the scores, averaged over `axes`: (N, [K,] *sample with those axes
        1).
        """
        samples, sample = activations.shape[0], activations.shape[1:]
        pooled = tuple(1 if axis - len(sample) in axes else n for axis, n in enumerate(sample))
        count = math.prod(pooled)
        # each sample has a step of its own, so that it does not depend on the others in its batch
        flat = activations.reshape(samples, -1).astype(np.float64)
        size = np.sqrt(np.mean(np.square(flat), axis=1))
        step = (self.step or float(np.finfo(activations.dtype).eps) ** (1 / 3)) * np.where(
            size > 0, size, 1
        )
        step = step.astype(activations.dtype).reshape(samples, *(1,) * len(sample))
        score = _together(self.head, target)
        found = []
        for entries in _chunks(count, max(1, self.chunk // (2 * samples))):
            lifts = np.zeros((len(entries), count), dtype=activations.dtype)
            lifts[np.arange(len(entries)), entries] = 1
            lifts = lifts.reshape(len(entries), 1, *pooled) * step
            up, down = activations + lifts, activations - lifts
            scores = score(np.concatenate([up, down])).astype(np.float64)
            # the step that was made, not the one asked for: the sum was rounded
            made = (up - down).astype(np.float64).reshape(len(entries), samples, -1).max(axis=2)
            difference = scores[: len(entries)] - scores[len(entries) :]
            found.append(difference / made.reshape(*made.shape, *(1,) * (difference.ndim - 2)))
        gradients = np.moveaxis(np.concatenate(found), 0, -1) / (math.prod(sample) // count)
        return gradients.reshape(*gradients.shape[:-1], *pooled).astype(activations.dtype)

    def replay(
        self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]
    ) -> Outputs:
        self._check(layers)
        return self.head(activations[0] if layers else self._features(inputs))

    def scorer(
        self, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Variants run as one batch; `features` runs only for those of the input."""
        if layer != INPUT:
            self._check((layer,))
            return _together(self.head, target)

        def run(array: np.ndarray) -> Outputs:
            return self.head(self._features(with_first_array(inputs, array)))

        return _together(run, target)

    def float64(self, inputs: Inputs) -> AbstractContextManager[tuple[NumpyModel, Inputs]]:
        return nullcontext((replace(self, features=_Wide(self.features)), inputs))

    in_double = float64


def _together(run: Callable[[np.ndarray], Outputs], target: Callable[[Outputs], Array]) -> Together:
    return Together(
        lambda variant: np.asarray(target(run(variant))),
        lambda variants: merged_scores(run, target, variants),
    )


@dataclass(frozen=True)
class _Wide:
    """The same features in double precision; what the head makes of them is the head's."""

    features: Callable[..., np.ndarray]

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return np.asarray(self.features(*args, **kwargs), dtype=np.float64)


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    rows = iter(range(count))
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
