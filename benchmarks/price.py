"""The price of each method on the demo network: its time over that of a bare forward pass, timed in turn.

    python benchmarks/price.py [--framework torch|jax] [--method NAME ...] [--repeats N]

Prints the median of the ratios and their quartiles. Machines are noisy: compare ratios of one run, not times.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

import gradcam
from gradcam.backends import versions
from gradcam.methods import TABLE
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

CHEAP = [entry.name for entry in TABLE if entry.needs in ("gradients", "activations", "curvatures")]


def forward(net: gradcam.Classifier, framework: str, inputs: Any) -> Callable[[], Any]:
    """A bare forward pass: under inference_mode, or jitted with the weights as arguments."""
    if framework == "torch":
        import torch

        def bare() -> None:
            with torch.inference_mode():
                net.model(inputs)

        return bare
    import jax
    from flax import nnx

    graphdef, state = nnx.split(net.model)
    jitted = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    return lambda: jax.block_until_ready(jitted(state, inputs))


def ratios(bare: Callable[[], Any], explained: Callable[[], Any], repeats: int) -> list[float]:
    bare(), explained(), bare(), explained()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        bare()
        middle = time.perf_counter()
        explained()
        found.append((time.perf_counter() - middle) / (middle - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--framework", choices=["torch", "jax"], default="torch")
    parser.add_argument("--method", action="append", choices=[entry.name for entry in TABLE])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--chunk", type=int, default=128)
    given = parser.parse_args()
    net = efficientnet_lite0(given.framework)
    assert net.view is not None
    assert net.preprocess is not None
    inputs = net.preprocess([net.view(photograph("coffee"))])
    bare = forward(net, given.framework, inputs)
    table = Table("method", "times a forward pass", "quartiles")
    for name in given.method or [*CHEAP, "cam", "ablation-cam"]:
        explainer = gradcam.Explainer(net, method=name, batch=given.chunk)
        found = ratios(
            bare, lambda explainer=explainer: gradcam_numpy(explainer(inputs, 967)), given.repeats
        )
        low, middle, high = statistics.quantiles(found, n=4)
        table.add_row(name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(table)
    print(
        f"EfficientNet-Lite0, one photograph, {given.framework}; {platform.machine()}, {versions()}"
    )


def gradcam_numpy(explanation: gradcam.Explanation) -> Any:
    return explanation.numpy().maps  # on the host: the work is done


if __name__ == "__main__":
    main()
