"""The JAX packages that pip has and that run with today's JAX: Flax linen and nnx, and Equinox.

flaxmodels (ResNet; its VGG takes 224 x 224 alone, which is slow), jax-models, jax-resnet: linen.
jax-image-models (`jimm`): nnx. equimo: Equinox. All have the channels last but Equinox's, which are
of one sample and have them first.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.foreign.axes import Tokens, Truth, tokens
from benchmarks.foreign.rows import Case, Row

__all__ = ["rows"]

S, WIDE = (64, 64), (64, 96)


def class_score(outputs: Any) -> Any:
    return outputs.max(1)


def images(size: tuple[int, int], first: bool = False) -> Any:
    import jax.numpy as jnp
    import numpy as np

    values = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    return jnp.asarray(np.moveaxis(values, -1, 1) if first else values)


def filled(tree: Any, marks: tuple[str, ...] = ("bias", "mean", "var", "scale")) -> Any:
    """The same weights, where a whole array of zeros is small noise: no head, and no branch, begins
    as nothing.
    """
    import jax
    import jax.numpy as jnp

    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    found = []
    for i, (path, leaf) in enumerate(leaves):
        name = jax.tree_util.keystr(path).lower()
        floating = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        if floating and not any(mark in name for mark in marks) and not bool(jnp.any(leaf)):
            leaf = jax.random.normal(jax.random.PRNGKey(i), leaf.shape, leaf.dtype) * 0.02
        found.append(leaf)
    return jax.tree_util.tree_unflatten(treedef, found)


@contextlib.contextmanager
def _counted(kind: type, passes: list[int]) -> Iterator[None]:
    """Every call of the model: in JAX, every trace."""
    own = kind.__dict__.get("__call__")
    bound = kind.__call__  # type: ignore[operator]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return bound(self, *args, **kwargs)

    type.__setattr__(kind, "__call__", call)
    try:
        yield
    finally:
        if own is None:
            type.__delattr__(kind, "__call__")
        else:
            type.__setattr__(kind, "__call__", own)


# ------------------------------------------------------------------------------------------- linen


def _linen(package: str, name: str, truth: Truth, options: dict[str, Any]) -> Case:
    import jax

    from benchmarks.foreign.oracle_jax import linen_tap

    module = getattr(importlib.import_module(package), name)(**options)
    if package == "flaxmodels":
        module = _still(module)
    inputs = images(truth.size)
    key = jax.random.PRNGKey(0)
    variables = filled(
        jax.jit(module.init)({"params": key, "dropout": key, "droppath": key}, inputs)
    )
    tap = linen_tap(module, variables, class_score, inputs)
    return Case(
        (module, variables), inputs, truth, tap, None, functools.partial(_linen_counted, module)
    )


def _still(module: Any) -> Any:
    """The module in evaluation mode, which it takes as an argument of its call."""
    import flax.linen as nn

    class Still(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x: Any) -> Any:
            return self.inner(x, train=False)

    return Still(module)


@contextlib.contextmanager
def _linen_counted(module: Any, passes: list[int]) -> Iterator[None]:
    import flax.linen as nn

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if not context.module.path and context.method_name == "__call__":
            passes.append(1)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def linen_rows() -> list[Row]:
    def row(package: str, name: str, truth: Truth, label: str = "", **options: Any) -> Row:
        make = functools.partial(_linen, package, name, truth, options)
        return Row(f"{package.split('.')[0]}.{label or name}", make)

    def last(size: tuple[int, int], *strides: int) -> Truth:
        stages = tuple(Tokens(tuple(n // s for n in size)) for s in strides)
        return Truth(size, "channels_last", stages, torch=False)

    def patches(size: tuple[int, int], patch: int, prefix: int = 0) -> Truth:
        grid = tuple(n // patch for n in size)
        return Truth(size, "", tokens(grid, prefix) + tokens(grid), torch=False)

    models = "jax_models.models."
    still = {"deterministic": True, "attach_head": True, "num_classes": 10}
    plain = {"output": "logits", "pretrained": None, "normalize": False, "num_classes": 10}
    return [
        row("flaxmodels", "ResNet18", last(S), **plain),
        row("flaxmodels", "ResNet50", last(WIDE), **plain),
        row("jax_resnet", "ResNet18", last(WIDE), n_classes=10),
        row("jax_resnet", "ResNet50", last(S), n_classes=10),
        row("jax_resnet", "ResNetD50", last(S), n_classes=10),
        row(models + "cait", "CaiT", patches(WIDE, 16, 1), embed_dim=48, depth=4,
            num_heads=4, **still),
        row(models + "mlp_mixer", "MLPMixer", patches(WIDE, 16), patch_size=16, hidden_size=48,
            num_mixers_layers=4, **still),
        row(models + "patchconvnet", "PatchConvNet", patches(S, 16, 1), depth=4, dim=48, **still),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------ nnx, equinox


def _nnx(package: str, name: str, truth: Truth, options: dict[str, Any]) -> Case:
    import jax
    from flax import nnx

    from benchmarks.foreign.oracle_jax import objects_tap

    # jimm's weights name the axes of a mesh
    automatic = (jax.sharding.AxisType.Auto,) * 2
    jax.set_mesh(jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=automatic))
    model = getattr(importlib.import_module(package), name)(rngs=nnx.Rngs(0), **options)
    model.eval()
    nnx.update(model, filled(nnx.state(model)))
    graph, state = nnx.split(model)

    def build() -> tuple[dict[str, Any], Any]:
        # mapped: new variables, which belong to the trace that they are made in
        copy = nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))
        found = {}
        for path, one in nnx.iter_graph(copy):
            if isinstance(one, nnx.Module) and path and callable(one):
                found["/".join(map(str, path))] = one
        return found, functools.partial(_without_scans, copy)

    inputs = images(truth.size)
    tap = objects_tap(build, class_score, inputs)
    return Case(model, inputs, truth, tap, None, functools.partial(_counted, type(model)))


def _without_scans(model: Any, inputs: Any) -> Any:
    """The model's outputs with its layers in a loop, where a scan would hide them from the oracle.

    jimm stacks the weights of all layers in one module. The loop gives that module the weights of
    one layer after the other, so that its calls are those of the layers.
    """
    import jax
    from flax import nnx
    from jimm.common import vit

    def looped(x: Any, layers: Any, *angles: Any) -> Any:
        # mapped: variables of its own, which an update of the layers does not change
        stacked = jax.tree.map(lambda leaf: leaf, nnx.state(layers, nnx.Param))
        for n in range(len(jax.tree.leaves(stacked)[0])):
            nnx.update(layers, jax.tree.map(lambda leaf, n=n: leaf[n], stacked))
            x = layers(x, *angles)
        return x

    def looped_rope(carry: Any, layers: Any) -> Any:
        x, angles = carry
        return looped(x, layers, angles), angles

    own = vit.scan_forward, vit.scan_forward_rope
    vit.scan_forward, vit.scan_forward_rope = looped, looped_rope
    try:
        return model(inputs)
    finally:
        vit.scan_forward, vit.scan_forward_rope = own


def nnx_rows() -> list[Row]:
    def row(package: str, name: str, truth: Truth, **options: Any) -> Row:
        return Row(f"jimm.{name}", functools.partial(_nnx, package, name, truth, options))

    small = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "mlp_dim": 64, "patch_size": 16}
    grid = (4, 4)
    return [
        row("jimm.models.vit", "VisionTransformer", Truth(S, "", tokens(grid, 1), torch=False),
            img_size=64, num_classes=10, **small),
        row("jimm.models.dinov2", "DINOv2Model", Truth(S, "", tokens(grid, 1), torch=False),
            img_size=64, **small),
        row("jimm.models.dinov3", "DINOv3Model", Truth(S, "", tokens(grid, 5), torch=False),
            img_size=64, **small),
        row("jimm.models.siglip", "SigLIPVisionModel", Truth(S, "", tokens(grid), torch=False),
            image_resolution=64, vision_layers=4, vision_hidden_size=64, vision_patch_size=16),
        row("jimm.models.clip", "CLIPVisionModel", Truth(S, "", tokens(grid, 1), torch=False),
            image_resolution=64, vision_layers=4, vision_hidden_size=64, vision_patch_size=16,
            projection_dim=16),
    ]  # fmt: skip


def _equinox(build: Callable[[Any], Any], truth: Truth) -> Case:
    import equinox as eqx
    import jax

    from benchmarks.foreign.oracle_jax import objects_tap

    model = eqx.nn.inference_mode(filled(build(jax.random.PRNGKey(0))))
    modules: dict[str, Any] = {}

    def note(module: Any, path: str) -> None:
        children, _ = jax.tree_util.tree_flatten_with_path(
            module, is_leaf=lambda one: isinstance(one, eqx.Module) and one is not module
        )
        for keys, child in children:
            if isinstance(child, eqx.Module):
                name = path + jax.tree_util.keystr(keys)
                modules[name.lstrip(".")] = child
                note(child, name)

    note(model, "")
    modules = {name: one for name, one in modules.items() if callable(one)}
    inputs = images(truth.size, first=True)
    tap = objects_tap(lambda: (modules, model), class_score, inputs, mapped=True)
    return Case(model, inputs, truth, tap, None, functools.partial(_counted, type(model)))


def equinox_rows() -> list[Row]:
    """Of one sample each, (C, H, W): `gradcam` maps them over the batch."""

    def row(name: str, build: Callable[[Any, Any], Any], truth: Truth) -> Row:
        def make() -> Case:
            return _equinox(lambda key: build(importlib.import_module("equimo.models"), key), truth)

        return Row(f"equimo.{name}", make)

    def first(size: tuple[int, int]) -> Truth:
        return Truth(size, "channels_first", torch=False)

    def vit(models: Any, key: Any) -> Any:
        return models.VisionTransformer(
            img_size=64,
            in_channels=3,
            dim=48,
            patch_size=16,
            num_heads=[4],
            depths=[4],
            num_classes=10,
            key=key,
        )

    ten = {"num_classes": 10}
    four = {"dims": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "num_classes": 10}
    return [
        # a class token and four registers
        row("VisionTransformer", vit, Truth(S, "", tokens((4, 4), 5), torch=False)),
        row("ConvNeXt", lambda m, key: m.ConvNeXt(3, **four, key=key), first(WIDE)),
        row("reduceformer_backbone_b1",
            lambda m, key: m.reduceformer_backbone_b1(**ten, key=key), first(S)),
        row("iformer_t", lambda m, key: m.iformer_t(num_classes=10, key=key), first(S)),
    ]  # fmt: skip


def rows() -> list[Row]:
    return [*linen_rows(), *nnx_rows(), *equinox_rows()]
