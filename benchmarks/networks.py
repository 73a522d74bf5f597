"""The networks that the benchmarks run, and the layer at which each is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from resnet import flax_resnet50
from zoo import random_weights  # importing zoo lets torchvision be imported on a CPU build

from gradcam.zoo import efficientnet_lite0

__all__ = ["LAYERS", "SIZE", "Network", "flax_network", "torch_network"]

SIZE = 224
LAYERS = {
    "resnet50": "layer4",
    "mobilenet_v3_large": "features",
    "convnext_tiny": "features",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    # The last activation would be later, but its module runs twice, and not all peers see its last
    # call.
    "demo": "_bn1",
    "mobilenet_v3_small": "features",
}
"""torchvision's networks, with random weights, and the demo network, by the module to explain.

Every peer can be given the layer as a module.
"""


@dataclass(frozen=True)
class Network:
    name: str
    model: Any
    layer: str
    grid: tuple[int, int] | None = None
    """The grid of a layer of tokens, after one class token."""

    def inputs(self, batch: int) -> np.ndarray:
        """Standard normal numbers of one seed: (N, 3, 224, 224), or (N, 224, 224, 3) for Flax."""
        images = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
        if isinstance(self.model, torch.nn.Module):
            return images
        return images.transpose(0, 2, 3, 1)


def torch_network(name: str) -> Network:
    if name == "demo":
        return Network(name, efficientnet_lite0("torch").model, LAYERS[name])
    grid = None
    if name.startswith("vit"):
        grid = (14, 14)
    return Network(name, random_weights(name), LAYERS[name], grid)


def flax_network(name: str) -> Network:
    if name == "demo":
        net = efficientnet_lite0("jax")
        return Network(name, net.model, str(net.layer))
    assert name == "resnet50"
    return Network(name, flax_resnet50(), "stages/3")
