"""EfficientNet-Lite0 in flax.nnx, with the weights of the PyTorch package.

Tan and Le 2019, https://arxiv.org/abs/1905.11946; the Lite variant has ReLU6 for Swish, no
squeeze-and-excitation, and a stem and a head of fixed width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradcam.classifier import Classifier
from gradcam.zoo import imagenet

__all__ = ["EfficientNetLite0", "classifier", "network"]

Path: TypeAlias = tuple[str | int, ...]
"""Where a weight is in a tree of modules."""


class Stage(NamedTuple):
    """Blocks of the same kernel and width. The first has the stride and changes the width."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    n_in: int
    n_out: int


# table 1 of the paper, from its second row on
STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)


class ConvNorm(nnx.Module):
    """Convolution, batch norm and, unless it projects, ReLU6."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = nnx.Conv(
            n_in,
            n_out,
            (kernel, kernel),
            stride,
            padding="SAME",
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(n_out, epsilon=1e-3, rngs=rngs)
        self.relu = relu

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.conv(x))
        if self.relu:
            return nnx.relu6(x)
        return x


class Block(nnx.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int, *, rngs: nnx.Rngs
    ) -> None:
        wide = n_in * expansion
        # in one assignment: nnx takes an attribute that was None for a static one
        self.expand = ConvNorm(n_in, wide, 1, rngs=rngs) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide, rngs=rngs)
        self.project = ConvNorm(wide, n_out, 1, relu=False, rngs=rngs)
        self.residual = stride == 1 and n_in == n_out

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        if self.expand is not None:
            y = self.expand(y)
        y = self.project(self.depthwise(y))
        if self.residual:
            return x + y
        return y


class EfficientNetLite0(nnx.Module):
    """(N, H, W, 3) -> (N, 1000)."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.stem = ConvNorm(3, 32, 3, stride=2, rngs=rngs)
        blocks = []
        for stage in STAGES:
            n_in, stride = stage.n_in, stage.stride
            for _ in range(stage.repeats):
                block = Block(n_in, stage.n_out, stage.kernel, stride, stage.expansion, rngs=rngs)
                blocks.append(block)
                n_in, stride = stage.n_out, 1
        self.blocks = nnx.List(blocks)
        self.head = ConvNorm(320, 1280, 1, rngs=rngs)
        self.classifier = nnx.Linear(1280, 1000, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(x)
        return self.classifier(jnp.mean(x, axis=(1, 2)))


def _converted(weights: Mapping[str, Any]) -> dict[Path, np.ndarray]:
    """The PyTorch package's weights under this module's paths and in its axes."""
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    converted = _conv_norm(arrays, ("stem",), "_conv_stem", "_bn0")
    for i in range(sum(stage.repeats for stage in STAGES)):
        block = f"_blocks.{i}"
        parts = {"depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
        if f"{block}._expand_conv.weight" in arrays:
            parts["expand"] = ("_expand_conv", "_bn0")
        for part, (conv, norm) in parts.items():
            path = ("blocks", i, part)
            converted |= _conv_norm(arrays, path, f"{block}.{conv}", f"{block}.{norm}")
    converted |= _conv_norm(arrays, ("head",), "_conv_head", "_bn1")
    converted[("classifier", "kernel")] = arrays["_fc.weight"].T
    converted[("classifier", "bias")] = arrays["_fc.bias"]
    return converted


def _conv_norm(
    arrays: Mapping[str, np.ndarray], path: Path, conv: str, norm: str
) -> dict[Path, np.ndarray]:
    """The weights of the `ConvNorm` at a path, from two modules of the PyTorch package."""
    return {
        # (out, in, height, width) -> (height, width, in, out)
        (*path, "conv", "kernel"): arrays[f"{conv}.weight"].transpose(2, 3, 1, 0),
        (*path, "norm", "scale"): arrays[f"{norm}.weight"],
        (*path, "norm", "bias"): arrays[f"{norm}.bias"],
        (*path, "norm", "mean"): arrays[f"{norm}.running_mean"],
        (*path, "norm", "var"): arrays[f"{norm}.running_var"],
    }


def network() -> EfficientNetLite0:
    """The network with the pretrained weights, in evaluation mode."""
    from gradcam.zoo.efficientnet_torch import weights

    # shapes alone: the weights that it would begin with are all replaced
    abstract = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    variables = dict(nnx.to_flat_state(state))
    converted = _converted(weights())
    if set(variables) != set(converted):
        difference = sorted(map(str, set(variables) ^ set(converted)))
        raise ValueError(f"weights and network differ in {difference}")
    for path, value in converted.items():
        shape = variables[path].shape
        if shape != value.shape:
            raise ValueError(
                f"the weight {path} has shape {value.shape}, but the network needs {shape}"
            )
        variables[path] = variables[path].replace(jnp.asarray(value))
    model: EfficientNetLite0 = nnx.merge(graphdef, nnx.from_flat_state(variables.items()))
    model.eval()
    return model


def preprocess(photographs: Sequence[np.ndarray]) -> jax.Array:
    """(N, 224, 224, 3)."""
    return jnp.asarray(imagenet.batch(photographs))


def classifier() -> Classifier:
    """The network as `gradcam.zoo.efficientnet_lite0` gives it."""
    return Classifier(network(), preprocess, imagenet.view, imagenet.labels(), layer="head")
