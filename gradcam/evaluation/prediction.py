"""A model of any framework as a plain function of NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradcam import backends
from gradcam._arrays import compiles_each_shape, constant, to_numpy
from gradcam._types import Inputs, Outputs
from gradcam.backends import entry
from gradcam.explaining.prepare import unwrap
from gradcam.inputs import first_array
from gradcam.metrics.subject import Predict
from gradcam.model import Model, RunsBare, compiled
from gradcam.targets.outputs import class_scores

__all__ = ["predictor"]


def predictor(model: Any, inputs: Inputs) -> Predict:
    """A model as a plain function of NumPy arrays: inputs (M, ...) -> class scores (M, K).

    model: whatever `gradcam.explain` takes. Its weights are read anew at each call.
    inputs: an array like those that the model takes. Batches are given to it in this array's
        framework and dtype, and on its device.

    In JAX, which compiles a program for each shape, batches are filled up to powers of two, so that
    few are compiled.
    """
    user_model, _ = unwrap(model)
    like = first_array(inputs)
    fill = compiles_each_shape(like)

    @entry
    def predict(batch: np.ndarray) -> np.ndarray:
        count = len(batch)
        if fill:
            batch = _filled(batch)
        outputs = _forward(user_model, constant(batch, like=like))
        return to_numpy(class_scores(outputs))[:count]

    return predict


def _filled(batch: np.ndarray) -> np.ndarray:
    """The batch, filled up to the next power of two with its last sample: (2^n, ...)."""
    count = len(batch)
    size = 1 << max(count - 1, 0).bit_length()
    return np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])


def _forward(model: Any, inputs: Inputs) -> Outputs:
    """The outputs of the model as it is, its training mode included."""
    adapted = backends.adapt(model, inputs, allow_training=True)
    if isinstance(adapted, RunsBare):
        return adapted.forward(inputs)
    return compiled(adapted, _replayed)(inputs, None)


def _replayed(model: Model, inputs: Inputs, target: None) -> Outputs:
    return model.replay(inputs, (), ())
