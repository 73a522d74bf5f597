"""What you can choose to make an explanation cheaper, and what it changes: memory format, precision, a compile cache.

    make choices, or .venv-bench/bin/python benchmarks/choices.py

Writes what is between the markers of docs/speed.md. The demo network, Grad-CAM, a batch of 8.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import gradcam
from gradcam import benchmark
from gradcam._arrays import to_numpy
from gradcam.maps import scale
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

PAGE = Path(__file__).parent.parent / "docs" / "speed.md"
BEGIN, END = "<!-- written by benchmarks/choices.py -->", "<!-- end -->"
NAMES = ("chelsea", "coffee", "camera", "rocket")


def seen(framework: str) -> tuple[gradcam.Classifier, Any]:
    net = efficientnet_lite0(framework)
    assert net.preprocess is not None
    assert net.view is not None
    return net, net.preprocess([net.view(photograph(name)) for name in NAMES] * 2)


def beside(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> tuple[float, float, float]:
    """The quartiles of the second's time over the first's, in turn."""
    ratios = []
    first(), second()
    for _ in range(repeats):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        ratios.append((time.perf_counter() - middle) / (middle - start))
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def in_torch(repeats: int) -> list[tuple[str, str, str]]:
    import torch

    net, inputs = seen("torch")
    explainer = gradcam.Explainer(net, net.layer)
    target = to_numpy(net.model(inputs).detach()).argmax(-1)
    expected = scale(to_numpy(explainer(inputs, target).maps), 2, "max")

    def plain() -> Any:
        return benchmark.finished(explainer(inputs, target).maps)

    last = inputs.to(memory_format=torch.channels_last)
    other, _ = seen("torch")
    other.model.to(memory_format=torch.channels_last)
    half, _ = seen("torch")
    half.model.to(torch.bfloat16)
    cases: dict[str, tuple[Any, Any, Any]] = {
        "`channels_last`: the model and its inputs": (other, last, nullcontext),
        "bfloat16: `torch.autocast`": (net, inputs, lambda: torch.autocast("cpu", torch.bfloat16)),
        "bfloat16: the model and its inputs": (half, inputs.bfloat16(), nullcontext),
    }
    rows = []
    for name, (model, given, context) in cases.items():
        chosen = gradcam.Explainer(model, net.layer)

        def call(chosen: Any = chosen, given: Any = given, context: Any = context) -> Any:
            with context():
                return benchmark.finished(chosen(given, target).maps)

        maps = scale(to_numpy(call()).astype(np.float64), 2, "max")
        low, middle, high = beside(plain, call, repeats)
        rows.append(
            (name, f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{np.abs(maps - expected).max():.0e}")
        )
    return rows


def first_call() -> None:
    """In a process of its own: seconds of the first explanation."""
    net, inputs = seen("jax")
    start = time.perf_counter()
    benchmark.finished(gradcam.explain(net, inputs).maps)
    print(time.perf_counter() - start)


def cached(repeats: int) -> tuple[str, str, str]:
    """The first call's time where the cache on disk has its programs, over that where it is empty."""
    ratios = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            flags = {
                "JAX_COMPILATION_CACHE_DIR": folder,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            times = [
                float(
                    subprocess.run(
                        [sys.executable, __file__, "--first-call"],
                        env={**os.environ, **flags},
                        capture_output=True,
                        text=True,
                        check=True,
                    ).stdout.split()[-1]
                )
                for _ in range(2)
            ]
            ratios.append(times[1] / times[0])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return (
        "JAX: `jax_compilation_cache_dir`, the first call of a new process",
        f"{middle:.2f} ({low:.2f}–{high:.2f})",
        "0",
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.first_call:
        first_call()
        return 0
    rows = [*in_torch(options.repeats), cached(3)]
    lines = [
        f"{date.today().isoformat()}, {benchmark.machine()}; `make choices`: EfficientNet-Lite0, Grad-CAM, 8 "
        "photographs.",
        "",
        "| choice | time over that without | largest change of a map in [0, 1] |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    whole = PAGE.read_text(encoding="utf-8")
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", whole), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
