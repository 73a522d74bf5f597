"""The networks that the benchmarks run, and the layer that each is explained at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from zoo import made  # which also lets torchvision be imported on a CPU build

from gradcam.zoo import efficientnet_lite0

__all__ = ["LAYERS", "SIZE", "Network", "flax_network", "torch_network"]

SIZE = 224
LAYERS = {
    "resnet50": "layer4",
    "mobilenet_v3_large": "features",
    "convnext_tiny": "features",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    "demo": "_bn1",  # in front of the last activation: its module runs twice, and not all peers see the last call
    "mobilenet_v3_small": "features",
}
"""torchvision's, with random weights, and the demo network: what every peer can be told by a module."""


@dataclass(frozen=True)
class Network:
    name: str
    model: Any
    layer: str
    grid: tuple[int, int] | None = None
    """Of a layer of tokens, behind one class token."""

    def inputs(self, batch: int) -> np.ndarray:
        """(N, 3, 224, 224), or (N, 224, 224, 3) for Flax: standard normal, of one seed."""
        images = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
        return images if isinstance(self.model, torch.nn.Module) else images.transpose(0, 2, 3, 1)


def torch_network(name: str) -> Network:
    model = efficientnet_lite0("torch").model if name == "demo" else made(name)
    return Network(name, model, LAYERS[name], (14, 14) if name.startswith("vit") else None)


def flax_network(name: str) -> Network:
    if name == "demo":
        net = efficientnet_lite0("jax")
        return Network(name, net.model, str(net.layer))
    assert name == "resnet50"
    return Network(name, _resnet50(), "stages/3")


def _resnet50() -> Any:
    """He et al. 2015, https://arxiv.org/abs/1512.03385, with torchvision's strides, in flax.nnx; random weights."""
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
            same = n_in == 4 * width and stride == 1
            self.shortcut = None if same else conv_norm(n_in, 4 * width, 1, stride)

        def __call__(self, x: Any) -> Any:
            y = self.expand(nnx.relu(self.filter(nnx.relu(self.reduce(x)))))
            return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))

    class ResNet50(nnx.Module):
        def __init__(self) -> None:
            self.stem = conv_norm(3, 64, 7, 2)
            stages, n_in = [], 64
            for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
                blocks = []
                for i in range(depth):
                    blocks.append(Bottleneck(n_in, width, stride if i == 0 else 1))
                    n_in = 4 * width
                stages.append(nnx.Sequential(*blocks))
            self.stages = nnx.List(stages)
            self.fc = nnx.Linear(n_in, 1000, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(nnx.relu(self.stem(x)), (3, 3), (2, 2), padding=((1, 1), (1, 1)))
            for stage in self.stages:
                x = stage(x)
            return self.fc(x.mean((1, 2)))

    return ResNet50()
