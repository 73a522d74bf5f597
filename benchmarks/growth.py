"""How the cost of an explanation grows with the problem, and the overhead of one call.

    make growth, or .venv-bench/bin/python benchmarks/growth.py

One size is changed at a time, and an exponent is fitted: the slope of log(cost) over log(size).
Each cost stands beside that of a forward pass. Writes growth.json, and the part of README.md that
is between the markers.
"""

from __future__ import annotations

import functools
import sys
import warnings
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from common import Quartiles, argument_parser, in_turn, table, write_between, write_json

import gradcam
from gradcam import benchmark

HERE = Path(__file__).parent
BEGIN = "<!-- written by benchmarks/growth.py -->"
END = "<!-- end of growth -->"


@dataclass(frozen=True)
class Size:
    """A chain of convolutions with a linear head, its inputs, and what is explained.

    It has `depth` convolutions of `channels` channels, and `batch` square inputs of `side` pixels.
    The last `layers` convolutions are explained, for `targets` classes each.
    """

    batch: int = 4
    side: int = 64
    channels: int = 64
    depth: int = 8
    targets: int = 1
    layers: int = 1


SIZES: dict[str, tuple[int, ...]] = {
    "batch": (2, 4, 8, 16, 32),
    "side": (32, 48, 64, 96, 128),
    "channels": (32, 64, 128, 256),
    "depth": (4, 8, 16, 32),
    "targets": (1, 4, 16, 64, 256),
    "layers": (1, 2, 4, 8),
}
MEMORY = ("batch", "side", "channels", "targets")
CLASSES = 256


def torch_chain(size: Size) -> tuple[Any, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, size.channels, 3, padding=1), nn.ReLU()]
    for _ in range(size.depth - 1):
        convolutions += [nn.Conv2d(size.channels, size.channels, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(size.channels, CLASSES)]
    inputs = torch.randn(size.batch, 3, size.side, size.side)
    return nn.Sequential(*convolutions, *head).eval(), inputs


def flax_chain(size: Size) -> tuple[Any, Any]:
    import jax
    from flax import nnx

    class Chain(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            channels = [3] + [size.channels] * (size.depth - 1)
            self.convs = nnx.List([nnx.Conv(n, size.channels, (3, 3), rngs=rngs) for n in channels])
            self.head = nnx.Linear(size.channels, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            for conv in self.convs:
                x = nnx.relu(conv(x))
            return self.head(x.mean((1, 2)))

    shape = (size.batch, size.side, size.side, 3)
    return Chain(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), shape)


CHAINS = {"torch": torch_chain, "jax": flax_chain}


def layer(framework: str, size: Size) -> Any:
    """The paths of the last convolutions: a name, or a list of names."""
    paths = []
    for n in range(size.depth - size.layers, size.depth):
        if framework == "torch":
            paths.append(str(2 * n))  # with a ReLU between every two of them
        else:
            paths.append(f"convs/{n}")
    if size.layers == 1:
        return paths[0]
    return paths


def seconds(framework: str, size: Size, repeats: int) -> tuple[float, float]:
    """The median seconds of an explanation and of a forward pass."""
    model, inputs = CHAINS[framework](size)
    explainer = gradcam.Explainer(model, layer(framework, size))
    target = None
    if size.targets > 1:
        target = np.arange(size.targets)[None]

    def explain() -> None:
        explanations = explainer(inputs, target)
        if not isinstance(explanations, dict):
            explanations = {"": explanations}
        for explanation in explanations.values():
            benchmark.finished(explanation.maps)

    medians = np.median(in_turn(explain, benchmark.forward(model, inputs), repeats), axis=0)
    return float(medians[0]), float(medians[1])


def exponent(sizes: Any, costs: Any) -> float:
    """The slope of log(cost) over log(size)."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def growth(framework: str, repeats: int, memory: bool) -> dict[str, Any]:
    """For each property of `Size`, its costs and the exponents with which they grow."""
    rows = {}
    for name, values in SIZES.items():
        sizes = [replace(Size(), **{name: value}) for value in values]
        costs = np.array([seconds(framework, size, repeats) for size in sizes])
        row: dict[str, Any] = {"sizes": values}
        row |= described(values, costs, "seconds", "exponent")
        if memory and name in MEMORY:
            costs = np.array([peaks(framework, size) for size in sizes])
            row |= described(values, costs, "megabytes", "memory_exponent")
        rows[name] = row
        print(
            f"{framework}, {name}: {row['exponent']:.2f}, forward {row['forward_exponent']:.2f}",
            flush=True,
        )
    return rows


def described(values: Any, costs: np.ndarray, unit: str, slope: str) -> dict[str, Any]:
    """The costs (sizes, 2) of explanations and of forward passes, and their exponents, by name."""
    described = {}
    for column, prefix in enumerate(("", "forward_")):
        described[prefix + unit] = costs[:, column].tolist()
        described[prefix + slope] = exponent(values, costs[:, column])
    return described


def peaks(framework: str, size: Size) -> tuple[float, float]:
    """Megabytes of an explanation and of a forward pass, each in a process of its own.

    They are at least 0.1, so that they have a logarithm.
    """
    subject = functools.partial(CHAINS[framework], size)
    explained = benchmark.isolated_peak(
        subject, "grad-cam", layer(framework, size), size.batch, size.targets
    )
    forward = benchmark.isolated_peak(subject, None, None, size.batch, 1)
    return max(explained or 0.0, 0.1), max(forward or 0.0, 0.1)


# ------------------------------------------------------------------------ one call's own cost


def overheads(repeats: int = 400) -> dict[str, dict[str, float]]:
    """Milliseconds of a call less those of a forward pass, where there is little to compute.

    The network is two 1 x 1 convolutions of an 8 x 8 input.
    """
    import jax
    import torch
    from flax import nnx
    from jax.ad_checkpoint import checkpoint_name

    class Flax(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.a = nnx.Conv(3, 8, (1, 1), rngs=rngs)
            self.b = nnx.Conv(8, 8, (1, 1), rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.b(self.a(x)).mean((1, 2))

    def plain(weights: Any, x: Any) -> Any:
        features = checkpoint_name(x @ weights[0] @ weights[1], "b")
        return features.mean((1, 2))

    class Torch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Conv2d(3, 8, 1)
            self.b = torch.nn.Conv2d(8, 8, 1)

        def forward(self, x: Any) -> Any:
            return self.b(self.a(x)).mean((2, 3))

    key = jax.random.key(0)
    square = jax.random.normal(key, (1, 8, 8, 3))
    weights = (jax.random.normal(key, (3, 8)), jax.random.normal(key, (8, 8)))
    cases: dict[str, tuple[Any, Any]] = {
        "PyTorch": (Torch().eval(), torch.randn(1, 3, 8, 8)),
        "JAX, a plain function": (functools.partial(plain, weights), square),
        "JAX, Flax NNX": (Flax(nnx.Rngs(0)), square),
    }
    return {name: overhead(model, inputs, repeats) for name, (model, inputs) in cases.items()}


def overhead(model: Any, inputs: Any, repeats: int) -> dict[str, float]:
    explainer = gradcam.Explainer(model, "b")

    def explain() -> Any:
        return benchmark.finished(explainer(inputs, 3).maps)

    times = in_turn(explain, benchmark.forward(model, inputs), repeats, warm_up=20)
    extra = Quartiles.of(1e3 * (times[:, 0] - times[:, 1]))
    return {"milliseconds": extra.median, "low": extra.low, "high": extra.high}


# ---------------------------------------------------------------------------------------- the page


def page(results: dict[str, Any]) -> str:
    head = ("size", "from, to", "time, torch", "time, JAX", "memory, torch", "memory, JAX")
    rows = []
    for name, values in SIZES.items():
        cells = []
        for slope in ("exponent", "memory_exponent"):
            for framework in CHAINS:
                cells.append(cell(results[framework][name], slope))
        rows.append((name, f"{values[0]} to {values[-1]}", *cells))
    overheads = []
    for name, row in results["overhead"].items():
        extra = Quartiles(row["low"], row["milliseconds"], row["high"])
        overheads.append((name, str(extra)))
    lines = [
        f"{results['date']}, {results['machine']}; `make growth`. A chain of 8 convolutions of 64 "
        "channels on 4 squares of 64 pixels, 256 classes; one of its sizes changed at a time. "
        "Exponents are slopes of log(cost) over log(size): of the explanation, and (in brackets) "
        "of a forward pass. A forward pass knows nothing of targets and layers.",
        "",
        *table(head, rows),
        "",
        "The call's own cost, on two 1 x 1 convolutions of an 8 x 8 input, beyond a forward pass:",
        "",
        *table(("", "milliseconds (quartiles)"), overheads),
        "",
    ]
    return "\n".join(lines)


def cell(row: dict[str, Any], slope: str) -> str:
    if slope not in row:
        return "—"
    return f"{row[slope]:.2f} ({row['forward_' + slope]:.2f})"


def main() -> int:
    parser = argument_parser(__doc__, repeats=9)
    parser.add_argument("--no-memory", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results: dict[str, Any] = {
        "date": date.today().isoformat(),
        "machine": benchmark.machine(),
        "overhead": overheads(),
    }
    for framework in CHAINS:
        results[framework] = growth(framework, options.repeats, not options.no_memory)
    text = page(results)
    print(text)
    if not options.no_memory:
        write_json(HERE / "growth.json", results)
        write_between(HERE / "README.md", BEGIN, text, END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
