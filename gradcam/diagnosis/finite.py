"""NaN and infinity: the layer in which they first appear, in the forward or the backward pass.

The layers of an explanation say only that something before or after them went wrong. So all layers
of the model are searched, in the order in which they run for outputs, and from the score backwards
for gradients. Suppose that "2" has a weight that is infinite, and that the gradients at "1" are
explained:

    not_finite(model, inputs, source, [0])  # source.layers == ("1",)
    {0: 'the gradients of layer "1" are NaN or infinite for sample 0: "2" is the first layer, ...'}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradcam._arrays import array_namespace, to_numpy
from gradcam._types import Array, Inputs
from gradcam.diagnosis.source import Source
from gradcam.inputs import arguments, first_array
from gradcam.model import HasLayers, Model, compiled

__all__ = ["not_finite"]

_TOGETHER = 32
"""So many layers are captured at once: their outputs are in memory together."""


def not_finite(
    model: Model, inputs: Inputs, source: Source, samples: Sequence[int]
) -> dict[int, str]:
    """Where NaN or infinity in the maps of these samples comes from: a sentence for each sample."""
    search = _Search(model, inputs, source.target)
    target = None
    if source.entry.uses_gradients or not source.entry.uses_layer:
        target = source.target
    checked = _checked(search, source.layers, target)
    affected = [n for n in samples if n in checked.arrays]
    origins = search.origins(affected)
    messages = {}
    for n in samples:
        if n not in checked.arrays:
            messages[n] = (
                f"the map of sample {n} is NaN or infinite although activations and gradients are "
                "finite: the method overflows their dtype; try the model in float32"
            )
            continue
        kind, layer = checked.arrays[n]
        if n not in origins:
            origins[n] = search.later_origin(layer, n, bool(checked.bad_scores[n]))
        messages[n] = (
            f'the {kind} of layer "{layer}" are NaN or infinite for sample {n}: {origins[n]}'
        )
    return messages


@dataclass(frozen=True)
class _Checked:
    """The arrays that maps are made of.

    arrays: for each sample that is not finite, the first such array: its kind and its layer.
    bad_scores: (N,), whether the score is not finite.
    """

    arrays: dict[int, tuple[str, str]]
    bad_scores: np.ndarray


def _checked(search: _Search, layers: tuple[str, ...], target: Any) -> _Checked:
    """Checks, of each layer in turn, the activations and, with a target, the gradients."""
    finite = search.finite_rows(layers, target)
    arrays: dict[int, tuple[str, str]] = {}
    for i, layer in enumerate(layers):
        for kind in ("activations", "gradients"):
            for rows in finite[kind][i : i + 1]:
                for n in np.flatnonzero(search.bad(rows)).tolist():
                    arrays.setdefault(n, (kind, layer))
    bad_scores = np.zeros(search.batch, bool)
    for rows in finite["scores"]:
        bad_scores |= search.bad(rows)
    return _Checked(arrays, bad_scores)


@dataclass(frozen=True)
class _Search:
    """A model's layers and inputs, searched for the first value that is not finite."""

    model: Model
    inputs: Inputs
    target: Any

    @property
    def batch(self) -> int:
        return int(first_array(self.inputs).shape[0])

    @cached_property
    def paths(self) -> list[str]:
        """All layers in the order in which they run; none where the backend does not list them."""
        if not isinstance(self.model, HasLayers):
            return []
        return [layer.path for layer in self.model.layers(self.inputs)]

    def origins(self, samples: Sequence[int]) -> dict[int, str]:
        """For each sample, if it has one: the input, or the first layer, that is not finite."""
        bad_input = np.zeros(self.batch, bool)
        for array in _float_arrays(self.inputs):
            bad_input |= self.bad(_finite_rows(array))
        origins = {}
        for n in samples:
            if bad_input[n]:
                origins[n] = "so is the input itself; check how it is read and normalised"
        missing = set(samples) - set(origins)
        if missing:
            origins |= self._first_layers(missing)
        return origins

    def _first_layers(self, samples: set[int]) -> dict[int, str]:
        origins: dict[int, str] = {}
        for path, bad in self._layers(self.paths, "activations"):
            for n in samples.intersection(np.flatnonzero(bad).tolist()):
                message = (
                    f'"{path}" is the first layer, in the order in which they run, whose output is '
                    "not finite; check its weights and the size of its input"
                )
                origins.setdefault(n, message)
            if len(origins) == len(samples):  # no later layer needs to run
                break
        return origins

    def later_origin(self, layer: str, sample: int, score_is_bad: bool) -> str:
        """The origin where every layer's output is finite, or where layers cannot be listed."""
        if not self.paths:
            return "check that input, and the layers before this one"
        if score_is_bad:
            return "every layer's output is finite, but the score is not: check the target"
        return (
            "all outputs are finite, but on the way back from the score the gradient at layer "
            f'"{self._nearest_to_score(layer, sample)}" is the first that is not: an operation on '
            "its output has an infinite slope, such as a square root at 0"
        )

    def _nearest_to_score(self, layer: str, sample: int) -> str:
        """The layer, from `layer` on, nearest to the score whose gradient is not finite."""
        if layer in self.paths:
            later = self.paths[self.paths.index(layer) + 1 :]
            for path, bad in self._layers(later[::-1], "gradients"):
                if bad[sample]:
                    return path
        return layer

    def _layers(self, paths: Sequence[str], kind: str) -> Iterator[tuple[str, np.ndarray]]:
        """Layers with their samples (N,) that are not finite. Runs the model as it is consumed."""
        for start in range(0, len(paths), _TOGETHER):
            group = tuple(paths[start : start + _TOGETHER])
            try:
                yield from self._capture(group, kind)
            except RuntimeError:
                # PyTorch's, where the score does not depend on one of them. Skip that one alone.
                for path in group:
                    with suppress(RuntimeError):
                        yield from self._capture((path,), kind)

    def _capture(self, group: tuple[str, ...], kind: str) -> list[tuple[str, np.ndarray]]:
        target = None
        if kind == "gradients":
            target = self.target
        finite = self.finite_rows(group, target)[kind]
        return [(path, self.bad(rows)) for path, rows in zip(group, finite, strict=True)]

    def finite_rows(self, layers: tuple[str, ...], target: Any) -> dict[str, list[Array]]:
        """See `_Finite`."""
        run: dict[str, list[Array]] = compiled(self.model, _Finite(layers))(self.inputs, target)
        return run

    def bad(self, finite_rows: Array) -> np.ndarray:
        """(N,): which samples are not finite.

        All or none, where the first axis is not that of samples, as in windows or a sequence.
        """
        finite = to_numpy(finite_rows)
        if len(finite) != self.batch:
            return np.full(self.batch, not finite.all())
        return ~finite


@dataclass(frozen=True)
class _Finite:
    """Which rows of the layers' outputs and, with a target, of scores and gradients are finite.

    Reduced on the device, so that booleans are fetched instead of arrays.
    """

    layers: tuple[str, ...]

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> dict[str, list[Array]]:
        capture = model.capture(inputs, self.layers, target)
        scores = []
        if target is not None:
            scores = [_finite_rows(capture.scores)]
        return {
            "activations": list(map(_finite_rows, capture.activations)),
            "gradients": list(map(_finite_rows, capture.gradients)),
            "scores": scores,
        }


def _finite_rows(array: Array) -> Array:
    """For each entry along the first axis, whether all its numbers are finite."""
    xp = array_namespace(array)
    if array.ndim == 0:
        array = xp.reshape(array, (1,))
    rows = xp.reshape(array, (int(array.shape[0]), -1))
    return xp.all(xp.isfinite(rows), axis=1)


def _float_arrays(inputs: Inputs) -> list[Array]:
    args, kwargs = arguments(inputs)
    return [
        value
        for value in (*args, *kwargs.values())
        if hasattr(value, "shape") and "float" in str(value.dtype)
    ]
