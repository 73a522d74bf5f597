"""How the cost of an explanation grows with the problem, beside a forward pass's; and what a call costs by itself.

    make growth, or .venv-bench/bin/python benchmarks/growth.py

Each size is changed alone, and an exponent fitted: the slope of log(cost) over log(size). Writes growth.json, and what
is between the markers of README.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import gradcam
from gradcam import benchmark

HERE = Path(__file__).parent
BEGIN, END = "<!-- written by benchmarks/growth.py -->", "<!-- end of growth -->"


@dataclass(frozen=True)
class Size:
    """A chain of `depth` convolutions of `channels` on `batch` squares of `side` pixels, and a linear head; of which
    the last `layers` are explained, for `targets` classes each.
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
    return nn.Sequential(*convolutions, *head).eval(), torch.randn(
        size.batch, 3, size.side, size.side
    )


def flax_chain(size: Size) -> tuple[Any, Any]:
    import jax
    from flax import nnx

    class Chain(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            ins = [3] + [size.channels] * (size.depth - 1)
            self.convs = nnx.List([nnx.Conv(n, size.channels, (3, 3), rngs=rngs) for n in ins])
            self.head = nnx.Linear(size.channels, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            for conv in self.convs:
                x = nnx.relu(conv(x))
            return self.head(x.mean((1, 2)))

    return Chain(nnx.Rngs(0)), jax.random.normal(
        jax.random.key(0), (size.batch, size.side, size.side, 3)
    )


CHAINS = {"torch": torch_chain, "jax": flax_chain}


def layer(framework: str, size: Size) -> Any:
    last = range(size.depth - size.layers, size.depth)
    names = [str(2 * n) if framework == "torch" else f"convs/{n}" for n in last]
    return names[0] if size.layers == 1 else names


def timed(framework: str, size: Size, repeats: int) -> tuple[float, float]:
    """Seconds of an explanation and of a forward pass, medians of calls in turn."""
    model, inputs = CHAINS[framework](size)
    bare = benchmark.forward(model, inputs)
    explainer = gradcam.Explainer(model, layer(framework, size))
    target = None if size.targets == 1 else np.arange(size.targets)[None]

    def explained() -> None:
        found = explainer(inputs, target)
        for one in found.values() if isinstance(found, dict) else [found]:
            benchmark.finished(one.maps)

    times: list[tuple[float, float]] = []
    bare(), explained()
    for _ in range(repeats):
        start = time.perf_counter()
        explained()
        middle = time.perf_counter()
        bare()
        times.append((middle - start, time.perf_counter() - middle))
    mine, plain = np.median(times, axis=0)
    return float(mine), float(plain)


def exponent(sizes: Any, costs: Any) -> float:
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def growth(framework: str, repeats: int, memory: bool) -> dict[str, Any]:
    found = {}
    for name, values in SIZES.items():
        costs = [timed(framework, replace(Size(), **{name: value}), repeats) for value in values]
        mine, plain = zip(*costs, strict=True)
        row: dict[str, Any] = {"sizes": values, "seconds": mine, "forward_seconds": plain}
        row |= {"exponent": exponent(values, mine), "forward_exponent": exponent(values, plain)}
        if memory and name in MEMORY:
            held, base = zip(
                *(peaks(framework, replace(Size(), **{name: value})) for value in values),
                strict=True,
            )
            row |= {"megabytes": held, "forward_megabytes": base}
            row |= {
                "memory_exponent": exponent(values, held),
                "forward_memory_exponent": exponent(values, base),
            }
        found[name] = row
        print(
            f"{framework}, {name}: {row['exponent']:.2f}, forward {row['forward_exponent']:.2f}",
            flush=True,
        )
    return found


def peaks(framework: str, size: Size) -> tuple[float, float]:
    """Megabytes of an explanation and of a forward pass, each in a process of its own."""
    subject = functools.partial(CHAINS[framework], size)
    mine = benchmark.isolated_peak(
        subject, "grad-cam", layer(framework, size), size.batch, size.targets
    )
    plain = benchmark.isolated_peak(subject, None, None, size.batch, 1)
    return max(mine or 0.0, 0.1), max(plain or 0.0, 0.1)


# ------------------------------------------------------------------------------------------------ a call by itself


def overheads(repeats: int = 400) -> dict[str, dict[str, float]]:
    """Milliseconds of a call less those of a forward pass, on two 1 x 1 convolutions of an 8 x 8 input."""
    import jax
    import torch
    from flax import nnx
    from jax.ad_checkpoint import checkpoint_name

    class Flax(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.a, self.b = (nnx.Conv(n, 8, (1, 1), rngs=rngs) for n in (3, 8))

        def __call__(self, x: Any) -> Any:
            return self.b(self.a(x)).mean((1, 2))

    def plain(weights: Any, x: Any) -> Any:
        features = checkpoint_name(x @ weights[0] @ weights[1], "b")
        return features.mean((1, 2))

    class Torch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 1)

        def forward(self, x: Any) -> Any:
            return self.b(self.a(x)).mean((2, 3))

    key = jax.random.key(0)
    square = jax.random.normal(key, (1, 8, 8, 3))
    weights = tuple(jax.random.normal(key, shape) for shape in ((3, 8), (8, 8)))
    cases: dict[str, tuple[Any, Any]] = {
        "PyTorch": (Torch().eval(), torch.randn(1, 3, 8, 8)),
        "JAX, a plain function": (functools.partial(plain, weights), square),
        "JAX, Flax NNX": (Flax(nnx.Rngs(0)), square),
    }
    return {name: overhead(model, inputs, repeats) for name, (model, inputs) in cases.items()}


def overhead(model: Any, inputs: Any, repeats: int) -> dict[str, float]:
    bare = benchmark.forward(model, inputs)
    explainer = gradcam.Explainer(model, "b")

    def explained() -> Any:
        return benchmark.finished(explainer(inputs, 3).maps)

    def call(what: Callable[[], Any]) -> float:
        start = time.perf_counter()
        what()
        return 1e3 * (time.perf_counter() - start)

    for _ in range(20):
        bare(), explained()
    extra = [call(explained) - call(bare) for _ in range(repeats)]
    low, middle, high = np.quantile(extra, [0.25, 0.5, 0.75])
    return {"milliseconds": float(middle), "low": float(low), "high": float(high)}


# ------------------------------------------------------------------------------------------------ the page


def page(results: dict[str, Any]) -> str:
    lines = [
        f"{results['date']}, {results['machine']}; `make growth`. A chain of 8 convolutions of 64 channels on 4 "
        "squares of 64 pixels, 256 classes; one of its sizes changed at a time. Exponents are slopes of log(cost) over "
        "log(size): of the explanation, and (in brackets) of a forward pass. "
        "A forward pass knows nothing of targets and layers.",
        "",
        "| size | from, to | time, torch | time, JAX | memory, torch | memory, JAX |",
        "|---|---|---|---|---|---|",
    ]

    def cell(row: dict[str, Any], what: str) -> str:
        return f"{row[what]:.2f} ({row['forward_' + what]:.2f})" if what in row else "—"

    for name, values in SIZES.items():
        rows = [results[framework][name] for framework in CHAINS]
        cells = [cell(row, what) for what in ("exponent", "memory_exponent") for row in rows]
        lines.append(f"| {name} | {values[0]} to {values[-1]} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The call's own cost, on two 1 x 1 convolutions of an 8 x 8 input, beyond a forward pass:",
        "",
    ]
    lines += ["| | milliseconds (quartiles) |", "|---|---|"]
    for name, row in results["overhead"].items():
        lines.append(f"| {name} | {row['milliseconds']:.2f} ({row['low']:.2f}–{row['high']:.2f}) |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
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
        (HERE / "growth.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        path = HERE / "README.md"
        marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
        whole = path.read_text(encoding="utf-8")
        path.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", whole), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
