"""NaN and infinity: the layer in which they first appear, on the way forward or on the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcam._arrays import array_namespace, to_numpy
from gradcam._types import Array, Inputs
from gradcam.diagnosis.source import Source
from gradcam.inputs import arguments, first_array
from gradcam.model import Model, compiled

__all__ = ["not_finite"]


@dataclass(frozen=True)
class _Finite:
    """Which rows of the layers' outputs are numbers; and of the scores' gradients there, where `scored`."""

    layers: tuple[str, ...]
    scored: bool = False

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> dict[str, list[Array]]:
        capture = model.capture(inputs, self.layers, target if self.scored else None)
        scores = capture.scores if self.scored else None
        return {
            "activations": [_rows(a) for a in capture.activations],
            "gradients": [_rows(g) for g in capture.gradients],
            "scores": [] if scores is None else [_rows(scores)],
        }


def _rows(array: Array) -> Array:
    """Of each entry along the first axis, whether all its numbers are finite."""
    xp = array_namespace(array)
    return xp.all(
        xp.isfinite(xp.reshape(array, (int(array.shape[0]) if array.ndim else 1, -1))), axis=1
    )


def _bad(rows: Array, samples: int) -> np.ndarray:
    """(N,): which samples; where the first axis is not theirs (windows, a sequence), all or none."""
    good = to_numpy(rows)
    return ~good if len(good) == samples else np.full(samples, not good.all())


def not_finite(
    model: Model, inputs: Inputs, source: Source, wanted: Sequence[int]
) -> dict[int, str]:
    """Where NaN or infinity in the maps of these samples comes from, in one sentence for each that has any."""
    count, layers = int(first_array(inputs).shape[0]), source.layers
    found = compiled(model, _Finite(layers, source.differentiated or not source.of_layer))(
        inputs, source.target
    )
    places = [
        (what, path, _bad(rows, count))
        for i, path in enumerate(layers)
        for what in ("activations", "gradients")
        for rows in found[what][i : i + 1]
    ]
    scores = [_bad(rows, count) for rows in found["scores"]]
    samples = [n for n in wanted if any(bad[n] for _, _, bad in places)]
    first = _first(model, inputs, samples, count) if samples else {}
    messages = {}
    for n in wanted:
        what, path = next(((what, path) for what, path, bad in places if bad[n]), ("", ""))
        if not what:
            messages[n] = (
                f"the map of sample {n} is NaN or infinite though activations and gradients are numbers: the method "
                "overflows their dtype; try the model in float32"
            )
            continue
        if n in first:
            why = first[n]
        elif not _listing(model, inputs):
            why = "look at that input, and at the layers below"
        elif any(bad[n] for bad in scores):
            why = "every layer's output is a number, but the score is not: look at the target"
        else:
            last = _nearest(model, inputs, source.target, path, n, count)
            why = (
                f'all outputs are numbers, but on the way back from the score the gradient at layer "{last}" is the '
                "first that is not: what runs on its output has an infinite slope there, such as a square root at 0"
            )
        messages[n] = f'the {what} of layer "{path}" are NaN or infinite for sample {n}: {why}'
    return messages


def _listing(model: Model, inputs: Inputs) -> list[str]:
    listing = getattr(model, "layers", None)
    return [layer.path for layer in listing(inputs)] if listing is not None else []


def _each(
    model: Model, inputs: Inputs, target: Any, paths: Sequence[str], count: int
) -> Iterator[tuple[str, Any]]:
    """Layers with their samples (N,) whose outputs, or with a target gradients, are not finite; as far as asked for."""
    scored = target is not None
    what = "gradients" if scored else "activations"
    for start in range(0, len(paths), 32):  # a few at a time: their outputs are in memory together
        chunk = tuple(paths[start : start + 32])
        for group in (chunk, *((one,) for one in chunk)):
            try:
                found = compiled(model, _Finite(group, scored))(inputs, target)[what]
            except (
                RuntimeError
            ):  # such as PyTorch's, where the score does not depend on one of them: one by one
                continue
            yield from ((path, _bad(rows, count)) for path, rows in zip(group, found, strict=True))
            if group is chunk:
                break


def _first(model: Model, inputs: Inputs, samples: Sequence[int], count: int) -> dict[int, str]:
    """Of each sample, the first layer, in the order in which they run, whose output is not finite, or the input."""
    args, kwargs = arguments(inputs)
    given = [
        value
        for value in (*args, *kwargs.values())
        if hasattr(value, "shape") and "float" in str(value.dtype)
    ]
    wrong = [_bad(_rows(array), count) for array in given]
    found = {
        n: "so is the input itself; look at how it is read and normalised"
        for n in samples
        if any(b[n] for b in wrong)
    }
    for path, bad in (
        _each(model, inputs, None, _listing(model, inputs), count)
        if len(found) < len(samples)
        else ()
    ):
        for n in samples:
            if bad[n] and n not in found:
                found[n] = (
                    f'"{path}" is the first layer, in the order in which they run, whose output is not finite; look at '
                    "its weights, and at the size of what goes into it"
                )
        if len(found) == len(samples):
            break
    return found


def _nearest(model: Model, inputs: Inputs, target: Any, path: str, n: int, count: int) -> str:
    """The layer, of those from `path` up, nearest to the score, at whose output the gradient is not finite."""
    paths = _listing(model, inputs)
    above = paths[paths.index(path) + 1 :][::-1] if path in paths else []
    return next((one for one, bad in _each(model, inputs, target, above, count) if bad[n]), path)
