"""The networks that the benchmarks run, and the layer at which each is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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
    return Network(name, _resnet50(), "stages/3")


def _resnet50() -> Any:
    """ResNet-50 in flax.nnx, with torchvision's strides and random weights.

    He et al. 2015, https://arxiv.org/abs/1512.03385
    """
    from flax import nnx

    rngs = nnx.Rngs(0)

    def conv_norm(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nnx.Module:
        conv = nnx.Conv(
            n_in, n_out, (kernel, kernel), stride, padding=kernel // 2, use_bias=False, rngs=rngs
        )
        return nnx.Sequential(conv, nnx.BatchNorm(n_out, use_running_average=True, rngs=rngs))

    class Bottleneck(nnx.Module):
        def __init__(self, n_in: int, width: int, stride: int) -> None:
            self.reduce = conv_norm(n_in, width, 1)
            self.filter = conv_norm(width, width, 3, stride)
            self.expand = conv_norm(width, 4 * width, 1)
            fits = n_in == 4 * width and stride == 1
            self.shortcut = None if fits else conv_norm(n_in, 4 * width, 1, stride)

        def __call__(self, x: Any) -> Any:
            y = self.expand(nnx.relu(self.filter(nnx.relu(self.reduce(x)))))
            if self.shortcut is not None:
                x = self.shortcut(x)
            return nnx.relu(y + x)

    class ResNet50(nnx.Module):
        def __init__(self) -> None:
            self.stem = conv_norm(3, 64, 7, 2)
            stages = []
            n_in = 64
            for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
                blocks = [Bottleneck(n_in, width, stride)]
                n_in = 4 * width
                for _ in range(depth - 1):
                    blocks.append(Bottleneck(n_in, width, 1))
                stages.append(nnx.Sequential(*blocks))
            self.stages = nnx.List(stages)
            self.fc = nnx.Linear(n_in, 1000, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(nnx.relu(self.stem(x)), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
            for stage in self.stages:
                x = stage(x)
            return self.fc(x.mean((1, 2)))

    return ResNet50()
