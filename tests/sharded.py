"""Run by test_sharding.py in a process of its own, in which JAX sees eight devices."""

from __future__ import annotations

import functools
import json
import re
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gradcam
from gradcam.backends.jax import model, scorer

COLLECTIVE = re.compile(
    r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)
random = np.random.default_rng(0)
W1, W2, W3 = (
    jnp.asarray(random.normal(size=s) * 0.3, "float32")
    for s in ((3, 3, 3, 6), (3, 3, 6, 6), (6, 5))
)


def conv(x: Any, w: Any) -> Any:
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def network(w1: Any, w2: Any, w3: Any, x: Any) -> Any:
    """A convolution above the layer too."""
    a = checkpoint_name(jnp.tanh(conv(x, w1)), "layer")
    return jnp.tanh(conv(a, w2)).mean((1, 2)) @ w3


def watched(function: Any, programs: list[str]) -> Any:
    def run(what: Any, *args: Any) -> Any:
        programs.append(function.program(what).lower(*args).compile().as_text())
        return function(what, *args)

    return run


def main() -> None:
    bound = functools.partial(network, W1, W2, W3)
    x = jnp.asarray(random.normal(size=(16, 8, 8, 3)), "float32")
    found: dict[str, Any] = {"devices": len(jax.devices())}
    for axis in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(axis,))
        sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        for name, target in (("one", 1), ("several", [[1, 3]])):
            for method in (
                "grad-cam",
                "layer-cam",
                "eigen-cam",
                "shapley-cam",
                "ablation-cam",
                "score-cam",
            ):
                programs: list[str] = []
                with (
                    mock.patch.object(model, "run_program", watched(model.run_program, programs)),
                    mock.patch.object(scorer, "scores", watched(scorer.scores, programs)),
                ):
                    given = gradcam.explain(bound, sharded, "layer", target, method, check=False)
                expected = gradcam.explain(bound, x, "layer", target, method).maps
                scale = float(jnp.abs(expected).max())
                found[f"{axis.name} {name} {method}"] = {
                    "collectives": sum(len(COLLECTIVE.findall(text)) for text in programs),
                    "programs": len(programs),
                    "batch": str(given.maps.sharding.spec[0]),
                    "error": float(jnp.abs(np.asarray(given.maps) - np.asarray(expected)).max())
                    / scale,
                }

        def inside(x: Any) -> Any:
            return gradcam.explain(bound, x, "layer", [[1, 3]], check=False).maps

        spec = PartitionSpec("data")
        maps = jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=spec, out_specs=spec))(sharded)
        expected = gradcam.explain(bound, x, "layer", [[1, 3]]).maps
        found[f"{axis.name} shard_map"] = float(
            np.abs(np.asarray(maps) - np.asarray(expected)).max()
        )
    total = jax.jit(lambda x: x.sum()).lower(sharded).compile().as_text()
    found["counter"] = len(COLLECTIVE.findall(total))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
