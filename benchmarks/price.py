"""The price of each method on the demo network: its time over that of a bare forward pass.

    python benchmarks/price.py [--framework torch|jax] [--method NAME ...] [--repeats N]

Prints the median of the ratios and their quartiles. Machines are noisy: compare ratios of one run,
not times.
"""

from __future__ import annotations

import platform
from typing import Any

from common import Call, Quartiles, argument_parser, in_turn
from rich.console import Console
from rich.table import Table

import gradcam
from gradcam import benchmark
from gradcam.backends import versions
from gradcam.methods import TABLE
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

ESPRESSO = 967
CHEAP = [spec.name for spec in TABLE if spec.needs in ("gradients", "activations", "curvatures")]
"""The methods that need one capture."""


def explanation(explainer: gradcam.Explainer, inputs: Any) -> Call:
    """A call that explains the inputs and brings the maps to the host."""
    return lambda: explainer(inputs, ESPRESSO).numpy()


def main() -> None:
    parser = argument_parser(__doc__, repeats=11, frameworks=("torch", "jax"))
    parser.add_argument("--method", action="append", choices=[spec.name for spec in TABLE])
    parser.add_argument("--batch", type=int, default=128, help="variants run at a time")
    options = parser.parse_args()
    net = efficientnet_lite0(options.framework)
    assert net.view is not None
    assert net.preprocess is not None
    inputs = net.preprocess([net.view(photograph("coffee"))])
    forward = benchmark.forward(net, inputs)
    table = Table("method", "times a forward pass", "quartiles")
    for name in options.method or [*CHEAP, "cam", "ablation-cam"]:
        explainer = gradcam.Explainer(net, method=name, batch=options.batch)
        seconds = in_turn(forward, explanation(explainer, inputs), options.repeats, warm_up=2)
        ratio = Quartiles.of(seconds[:, 1] / seconds[:, 0])
        table.add_row(name, f"{ratio.median:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}")
    Console().print(table)
    print(
        f"EfficientNet-Lite0, one photograph, {options.framework}; {platform.machine()}, "
        f"{versions()}"
    )


if __name__ == "__main__":
    main()
