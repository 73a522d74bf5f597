"""What is timed: a bare forward pass and an explanation, each until its result is there.

A framework may return before its result is there, and compute it later. `finished` waits, so that a
time taken round such a function is that of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradcam import backends
from gradcam._arrays import array_namespace, to_numpy
from gradcam._types import Inputs, LayerLike, Outputs
from gradcam.explaining.explainer import Explainer
from gradcam.explaining.prepare import unwrap
from gradcam.inputs import first_array
from gradcam.model import Model, RunsBare, compiled

__all__ = ["explained", "finished", "forward", "repeated"]


def forward(model: Any, inputs: Inputs) -> Callable[[], Outputs]:
    """A bare forward pass, as a user runs it who wants the outputs alone.

    That is under `inference_mode` in PyTorch, and compiled in JAX.
    """
    adapted = backends.adapt(unwrap(model)[0], inputs, allow_training=True)
    if isinstance(adapted, RunsBare):
        return lambda: finished(adapted.forward(inputs))
    program = compiled(adapted, _replayed)
    return lambda: finished(program(inputs, None))


def _replayed(model: Model, inputs: Inputs, target: None) -> Outputs:
    return model.replay(inputs, (), ())


def explained(
    model: Any, layer: LayerLike, method: str, inputs: Inputs, targets: int
) -> Callable[[], Any]:
    """An explanation of the top class, or of the classes 0, 1, ... where `targets` is above 1.

    The explainer is made once, and kept.
    """
    explainer = Explainer(model, layer, method)
    target = None
    if targets > 1:
        target = np.arange(targets)[None]
    return lambda: finished(explainer(inputs, target).maps)


def finished(result: Any) -> Any:
    """The result, once it is there: each array of it has been brought to the host."""
    if isinstance(result, Mapping):
        for value in result.values():
            finished(value)
    elif isinstance(result, (tuple, list)):
        for value in result:
            finished(value)
    elif hasattr(result, "shape"):
        to_numpy(result)
    return result


def repeated(inputs: Inputs, count: int) -> Inputs:
    """A batch of `count` samples: those of the inputs over and over.

    What has not as many rows as there are samples belongs to no sample, and stays as it is.
    """
    samples = int(first_array(inputs).shape[0])
    rows = [n % samples for n in range(count)]

    def repeat(value: Any) -> Any:
        shape = tuple(getattr(value, "shape", ()))
        if shape[:1] != (samples,):
            return value
        return array_namespace(value).concat([value[n : n + 1] for n in rows])

    if isinstance(inputs, Mapping):
        return {key: repeat(value) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(repeat(value) for value in inputs)
    return repeat(inputs)
