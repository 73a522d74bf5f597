"""Random networks, layers, targets and methods: the right map, checked by finite differences, or a
clear error.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import gradcam
from gradcam import targets
from gradcam.methods import TABLE

pytestmark = pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
CLASSES = 4


@dataclass(frozen=True)
class Block:
    channels: int
    kernel: int
    stride: int
    dilation: int
    groups: int
    norm: str
    activation: str
    pool: str


@dataclass(frozen=True)
class Architecture:
    dims: int
    size: tuple[int, ...]
    blocks: tuple[Block, ...]
    head: str
    seed: int


blocks = st.builds(
    Block,
    channels=st.sampled_from([2, 4, 6]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2]),
    norm=st.sampled_from(["none", "batch", "group", "instance"]),
    activation=st.sampled_from(["relu", "tanh", "gelu", "silu", "softplus", "none"]),
    pool=st.sampled_from(["none", "none", "mean", "max"]),
)


@st.composite
def architectures(draw):
    dims = draw(st.integers(1, 3))
    size = tuple(draw(st.lists(st.integers(4, 9 if dims < 3 else 6), min_size=dims, max_size=dims)))
    found = tuple(draw(st.lists(blocks, min_size=1, max_size=4 if dims < 3 else 2)))
    return Architecture(
        dims,
        size,
        found,
        draw(st.sampled_from(["linear", "flat", "convolution"])),
        draw(st.integers(0, 99)),
    )


METHODS = [
    entry.name for entry in TABLE if entry.needs not in ("attention",) and entry.name != "cam"
]
TARGETS = {
    "top": None,
    "class": 1,
    "each": [0, 3],
    "several": [[1, 2]],
    "probability": targets.Probability(2),
    "log": targets.LogProbability(0),
    "difference": targets.difference(0, 1),
    "counterfactual": -targets.ClassScore(3),
    "function": lambda outputs: outputs[:, 0] * outputs[:, 1],
}

# --------------------------------------------------------------------------------- the same in both


def torch_network(spec):
    import torch
    from torch import nn

    torch.manual_seed(spec.seed)
    pick = {
        name: getattr(nn, f"{name}{spec.dims}d")
        for name in ("Conv", "BatchNorm", "AvgPool", "MaxPool")
    }
    pick["InstanceNorm"] = getattr(nn, f"InstanceNorm{spec.dims}d")
    pick["GAP"] = getattr(nn, f"AdaptiveAvgPool{spec.dims}d")
    activations = {
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "softplus": nn.Softplus,
    }
    layers, channels, size = [], 2, list(spec.size)
    for b in spec.blocks:
        padding = b.dilation * (b.kernel // 2)
        layers.append(
            pick["Conv"](channels, b.channels, b.kernel, b.stride, padding, b.dilation, b.groups)
        )
        channels, size = b.channels, [(n - 1) // b.stride + 1 for n in size]
        if b.norm == "batch":
            norm = pick["BatchNorm"](channels)
            norm.running_mean.uniform_(-0.5, 0.5), norm.running_var.uniform_(0.5, 2)
            layers.append(norm)
        elif (
            b.norm == "group" and int(np.prod(size)) > 3
        ):  # the norm of two values is all but a step
            layers.append(nn.GroupNorm(2, channels, eps=0.01))
        elif b.norm == "instance" and int(np.prod(size)) > 3:
            layers.append(pick["InstanceNorm"](channels, eps=0.01, affine=True))
        if b.activation != "none":
            layers.append(activations[b.activation]())
        if b.pool != "none" and min(size) >= 2:
            layers.append(pick["AvgPool" if b.pool == "mean" else "MaxPool"](2))
            size = [n // 2 for n in size]
    if spec.head == "convolution":
        layers += [pick["Conv"](channels, CLASSES, 1), pick["GAP"](1), nn.Flatten()]
    elif spec.head == "linear":
        layers += [pick["GAP"](1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    else:
        layers += [nn.Flatten(), nn.Linear(channels * int(np.prod(size)), CLASSES)]
    return nn.Sequential(*layers).double().eval()


def jax_network(spec):
    """A function that names every value, and its weights."""
    import jax
    import jax.numpy as jnp
    from jax import lax
    from jax.ad_checkpoint import checkpoint_name

    random = np.random.default_rng(spec.seed)
    space = "DHW"[: spec.dims]
    order = (f"N{space}C", f"{space}IO", f"N{space}C")
    axes = tuple(range(1, spec.dims + 1))
    channels, weights = 2, []
    for b in spec.blocks:
        shape = (*[b.kernel] * spec.dims, channels // b.groups, b.channels)
        weights.append(jnp.asarray(random.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))))
        channels = b.channels
    weights.append(jnp.asarray(random.normal(size=(channels, CLASSES))))

    def model(weights: Any, x: Any) -> Any:
        for i, (b, w) in enumerate(zip(spec.blocks, weights, strict=False)):
            x = lax.conv_general_dilated(
                x,
                w,
                [b.stride] * spec.dims,
                "SAME",
                None,
                [b.dilation] * spec.dims,
                order,
                b.groups,
            )
            if b.norm == "instance":
                x = (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-2)
            elif b.norm != "none":
                x = x * 1.3 - 0.1
            if b.activation != "none":
                x = getattr(jnp if b.activation == "tanh" else jax.nn, b.activation)(x)
            if b.pool == "max" and min(x.shape[1:-1]) >= 2:
                x = lax.reduce_window(
                    x,
                    -jnp.inf,
                    lax.max,
                    (1, *[2] * spec.dims, 1),
                    (1, *[2] * spec.dims, 1),
                    "VALID",
                )
            x = checkpoint_name(x, f"block{i}")
        return jnp.tanh(x).mean(axes) @ weights[-1]

    return functools.partial(model, weights)


def inputs(spec):
    return np.random.default_rng(spec.seed + 1).normal(size=(2, 2, *spec.size))


def check(spec, model, x, path, target, method, grid, layout=None):
    explanation = gradcam.explain(
        model, x, path, TARGETS[target], method, relu=False, layout=layout
    )  # no case is an error
    maps = np.asarray(explanation.maps)
    assert maps.shape == ((2, 2) if target == "several" else (2,)) + (
        grid or maps.shape[-len(grid or (1,)) :]
    )
    assert np.isfinite(maps).all()
    heatmaps = np.asarray(explanation.heatmaps())
    assert heatmaps.min() >= 0
    assert heatmaps.max() <= 1
    if is_constant(spec):  # only rounding is left of the gradient, which no difference agrees with
        return maps
    report = gradcam.verify(
        model, x, path, TARGETS[target], directions=2, channels=1, layout=layout
    )
    # where a norm makes all values of a channel equal, ReLUs lie on their kinks, and no derivative
    # exists
    assert report.verdict == "passed" or (report.verdict == "inconclusive" and bends(spec)), str(
        report
    )
    return maps


def is_constant(spec):
    """Whether the head takes just that mean over positions which the norm before it makes 0."""
    last = spec.blocks[-1]
    of_each_channel = last.norm == "instance" or (last.norm == "group" and last.channels == 2)
    return of_each_channel and last.activation == "none" and spec.head != "flat"


def bends(spec):
    return any(block.activation == "relu" or block.pool == "max" for block in spec.blocks)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(architectures(), st.data())
@pytest.mark.filterwarnings("ignore::gradcam.GuessedAxesWarning")  # of 2 channels on 2 positions
def test_random_networks_in_torch(spec, data):
    torch = pytest.importorskip("torch")
    model, x = torch_network(spec), torch.from_numpy(inputs(spec))
    spatial = [found for found in gradcam.layers(model, x) if len(found.shape) == spec.dims + 2]
    spatial = [found for found in spatial if np.prod(found.shape[2:]) > 1]
    assume(spatial)
    layer = data.draw(st.sampled_from(spatial))
    target, method = (
        data.draw(st.sampled_from(sorted(TARGETS))),
        data.draw(st.sampled_from(METHODS)),
    )
    grid = layer.shape[2:] if method != "full-grad" else x.shape[2:]
    maps = check(spec, model, x, layer.path, target, method, tuple(grid))
    if method == "grad-cam" and target in ("class", "several"):  # by autograd alone
        below = model[: int(layer.path) + 1](x).detach().requires_grad_()
        scores = model[int(layer.path) + 1 :](below)[:, [1, 2]]
        each = [
            torch.autograd.grad(scores[:, k].sum(), below, retain_graph=True)[0] for k in range(2)
        ]
        slopes = torch.stack(each, 1).flatten(3).mean(-1)
        expected = (
            torch.einsum("nkc,ncp->nkp", slopes, below.detach().flatten(2))
            .reshape(2, 2, *grid)
            .numpy()
        )
        expected = expected if target == "several" else expected[:, 0]
        assert np.abs(maps - expected).max() <= 1e-9 * max(np.abs(expected).max(), 1e-12)


@settings(
    max_examples=15, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(architectures(), st.data())
def test_random_networks_in_jax(spec, data):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        model = jax_network(spec)
        x = jax.numpy.asarray(np.moveaxis(inputs(spec), 1, -1))
        spatial = [found for found in gradcam.layers(model, x) if np.prod(found.shape[1:-1]) > 1]
        assume(spatial)
        layer = data.draw(st.sampled_from(spatial))
        target = data.draw(st.sampled_from(sorted(TARGETS)))
        method = data.draw(st.sampled_from([m for m in METHODS if m != "full-grad"]))
        # A function's values have no types that say it, and networks of 2 channels leave doubts.
        grid = tuple(layer.shape[1:-1])
        check(spec, model, x, layer.path, target, method, grid, "channels_last")
