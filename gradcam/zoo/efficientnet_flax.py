"""EfficientNet-Lite0 in flax.nnx, with the weights of the PyTorch package.

Tan and Le 2019, https://arxiv.org/abs/1905.11946; the Lite variant has ReLU6 for Swish, no squeeze-and-excitation,
and a stem and a head of fixed width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gradcam.classifier import Classifier
from gradcam.zoo import imagenet

__all__ = ["EfficientNetLite0", "classifier", "network"]

# repeats, kernel, stride, expansion, channels in, channels out
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
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
        return nnx.relu6(x) if self.relu else x


class Block(nnx.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int, *, rngs: nnx.Rngs
    ) -> None:
        wide = n_in * expansion
        self.expand = ConvNorm(n_in, wide, 1, rngs=rngs) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide, rngs=rngs)
        self.project = ConvNorm(wide, n_out, 1, relu=False, rngs=rngs)
        self.residual = stride == 1 and n_in == n_out

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite0(nnx.Module):
    """(N, H, W, 3) -> (N, 1000)."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.stem = ConvNorm(3, 32, 3, stride=2, rngs=rngs)
        self.blocks = nnx.List(
            Block(
                n_out if repeat else n_in,
                n_out,
                kernel,
                1 if repeat else stride,
                expansion,
                rngs=rngs,
            )
            for repeats, kernel, stride, expansion, n_in, n_out in STAGES
            for repeat in range(repeats)
        )
        self.head = ConvNorm(320, 1280, 1, rngs=rngs)
        self.classifier = nnx.Linear(1280, 1000, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(x)
        return self.classifier(jnp.mean(x, axis=(1, 2)))


def _converted(weights: Mapping[str, Any]) -> dict[tuple[str | int, ...], np.ndarray]:
    """The PyTorch package's weights under this module's paths and in its axes."""
    array = {name: np.asarray(value) for name, value in weights.items()}
    found: dict[tuple[str | int, ...], np.ndarray] = {}

    def conv_norm(path: tuple[str | int, ...], conv: str, norm: str) -> None:
        found[(*path, "conv", "kernel")] = array[f"{conv}.weight"].transpose(2, 3, 1, 0)
        for ours, theirs in (
            ("scale", "weight"),
            ("bias", "bias"),
            ("mean", "running_mean"),
            ("var", "running_var"),
        ):
            found[(*path, "norm", ours)] = array[f"{norm}.{theirs}"]

    conv_norm(("stem",), "_conv_stem", "_bn0")
    for i in range(sum(stage[0] for stage in STAGES)):
        block = f"_blocks.{i}"
        if f"{block}._expand_conv.weight" in array:
            conv_norm(("blocks", i, "expand"), f"{block}._expand_conv", f"{block}._bn0")
        conv_norm(("blocks", i, "depthwise"), f"{block}._depthwise_conv", f"{block}._bn1")
        conv_norm(("blocks", i, "project"), f"{block}._project_conv", f"{block}._bn2")
    conv_norm(("head",), "_conv_head", "_bn1")
    found[("classifier", "kernel")] = array["_fc.weight"].T
    found[("classifier", "bias")] = array["_fc.bias"]
    return found


def network() -> EfficientNetLite0:
    from gradcam.zoo.efficientnet_torch import weights

    abstract = nnx.eval_shape(lambda: EfficientNetLite0(rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    flat = dict(nnx.to_flat_state(state))
    converted = _converted(weights())
    if set(flat) != set(converted):
        raise ValueError(
            f"weights and network differ in {sorted(map(str, set(flat) ^ set(converted)))}"
        )
    for path, value in converted.items():
        if flat[path].shape != value.shape:
            raise ValueError(
                f"the weight {path} has shape {value.shape}, but the network wants {flat[path].shape}"
            )
        flat[path] = flat[path].replace(jnp.asarray(value))
    model: EfficientNetLite0 = nnx.merge(graphdef, nnx.from_flat_state(flat.items()))
    model.eval()
    return model


def preprocess(photographs: Sequence[np.ndarray]) -> jax.Array:
    """(N, 224, 224, 3)."""
    return jnp.asarray(imagenet.batch(photographs))


def classifier() -> Classifier:
    return Classifier(network(), preprocess, imagenet.view, imagenet.labels(), layer="head")
