"""Run by test_speed.py in a process of its own, in which JAX sees four devices, or one."""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradcam
from gradcam.backends.jax import model

random = np.random.default_rng(0)
KERNEL = random.normal(size=(3, 3, 3, 6)).astype(np.float32)
HEAD = random.normal(size=(6, 5)).astype(np.float32)


def features(x: Any) -> Any:
    return jax.nn.relu(
        jax.lax.conv_general_dilated(
            x, KERNEL, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )


def head(a: Any) -> Any:
    return a.mean((1, 2)) @ HEAD


def preprocess(photographs: Any) -> Any:
    return jnp.asarray(np.stack(photographs).astype(np.float32) / 255)


def main(source: str, out: str) -> None:
    seen = set()
    run = model.run_program

    def watched(program: Any, values: Any, inputs: Any, *rest: Any) -> Any:
        seen.add(len(inputs.sharding.device_set))
        return run(program, values, inputs, *rest)

    model.run_program = watched
    split = gradcam.Split(features, head, layout="channels_last")
    net = gradcam.Classifier(split, preprocess)
    gradcam.run(net, source, out, batch=8, maps="list", method=["grad-cam", "layer-cam"])
    print(json.dumps(sorted(seen)))


if __name__ == "__main__":
    main(*sys.argv[1:])
