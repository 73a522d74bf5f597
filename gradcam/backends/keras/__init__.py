"""Keras 3 on its JAX and its torch backend: layers by name, "block/conv", in inference mode.

layers      what both backends share: layers and their names, calls, biases
jax         the model as a function that JAX compiles
torch       the model as a module, with Keras's names
"""

from __future__ import annotations

from typing import Any

import keras  # type: ignore[import-untyped]

from gradcam.backends.keras.layers import path_of
from gradcam.model import Model

__all__ = ["adapt", "path_of"]


def adapt(model: Any) -> Model:
    """The backend's view of a Keras layer or model that has been built."""
    backend = keras.backend.backend()
    if not model.built:
        raise ValueError(
            "the Keras model has no weights yet; call it once, or model.build(shape), first"
        )
    if backend == "jax":
        from gradcam.backends.keras import jax

        return jax.adapt(model)
    if backend == "torch":
        from gradcam.backends.keras import torch

        return torch.adapt(model)
    raise TypeError(
        f'Keras runs on "{backend}" here; gradcam knows its backends "jax" and "torch" '
        "(KERAS_BACKEND)"
    )
