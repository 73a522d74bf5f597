"""Choices that make an explanation cheaper, and what each changes in the map.

    make choices, or .venv-bench/bin/python benchmarks/choices.py

The choices are memory format, precision and a compile cache. Each is measured with Grad-CAM of the
demo network on a batch of 8. Writes the part of docs/speed.md that is between the markers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from common import ROOT, Quartiles, argument_parser, in_turn, table, timed, write_between

import gradcam
from gradcam import benchmark
from gradcam._arrays import to_numpy
from gradcam.maps import scale
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

PAGE = ROOT / "docs" / "speed.md"
BEGIN = "<!-- written by benchmarks/choices.py -->"
NAMES = ("chelsea", "coffee", "camera", "rocket")


@dataclass(frozen=True)
class Choice:
    """A model and its inputs, and the context in which they are explained."""

    name: str
    net: gradcam.Classifier
    inputs: Any
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


def prepared(framework: str) -> tuple[gradcam.Classifier, Any]:
    """The demo network and a batch of 8 photographs."""
    net = efficientnet_lite0(framework)
    assert net.preprocess is not None
    assert net.view is not None
    return net, net.preprocess([net.view(photograph(name)) for name in NAMES] * 2)


def torch_choices(net: gradcam.Classifier, inputs: Any) -> list[Choice]:
    import torch

    channels_last, _ = prepared("torch")
    channels_last.model.to(memory_format=torch.channels_last)
    bfloat16, _ = prepared("torch")
    bfloat16.model.to(torch.bfloat16)
    return [
        Choice(
            "`channels_last`: the model and its inputs",
            channels_last,
            inputs.to(memory_format=torch.channels_last),
        ),
        Choice(
            "bfloat16: `torch.autocast`",
            net,
            inputs,
            lambda: torch.autocast("cpu", torch.bfloat16),
        ),
        Choice("bfloat16: the model and its inputs", bfloat16, inputs.bfloat16()),
    ]


def in_torch(repeats: int) -> list[tuple[str, str, str]]:
    """A row for each choice in PyTorch."""
    net, inputs = prepared("torch")
    target = to_numpy(net.model(inputs).detach()).argmax(-1)
    plain = Choice("", net, inputs)
    expected = scaled_maps(plain, target)
    rows = []
    for choice in torch_choices(net, inputs):
        difference = np.abs(scaled_maps(choice, target) - expected).max()
        seconds = in_turn(explanation(plain, target), explanation(choice, target), repeats)
        ratio = Quartiles.of(seconds[:, 1] / seconds[:, 0])
        rows.append((choice.name, str(ratio), f"{difference:.0e}"))
    return rows


def explanation(choice: Choice, target: np.ndarray) -> Callable[[], Any]:
    """A call that explains with this choice, and returns the maps when they are there."""
    explainer = gradcam.Explainer(choice.net, choice.net.layer)

    def explain() -> Any:
        with choice.context():
            return benchmark.finished(explainer(choice.inputs, target).maps)

    return explain


def scaled_maps(choice: Choice, target: np.ndarray) -> np.ndarray:
    maps = to_numpy(explanation(choice, target)()).astype(np.float64)
    scaled: np.ndarray = scale(maps, 2, "max")
    return scaled


# ------------------------------------------------------------------------------- compile cache


def first_call() -> None:
    """Print the seconds of the first explanation in this process."""
    net, inputs = prepared("jax")
    print(timed(lambda: benchmark.finished(gradcam.explain(net, inputs).maps)))


def cached(repeats: int) -> tuple[str, str, str]:
    """The first call's time with a full cache on disk, over that with an empty one."""
    ratios = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            empty = first_call_with_cache(folder)
            ratios.append(first_call_with_cache(folder) / empty)
    name = "JAX: `jax_compilation_cache_dir`, the first call of a new process"
    return name, str(Quartiles.of(ratios)), "0"


def first_call_with_cache(folder: str) -> float:
    """The seconds of the first explanation in a new process with this cache."""
    flags = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    process = subprocess.run(
        [sys.executable, __file__, "--first-call"],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(process.stdout.split()[-1])


def main() -> int:
    parser = argument_parser(__doc__, repeats=15)
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.first_call:
        first_call()
        return 0
    rows = [*in_torch(options.repeats), cached(3)]
    lines = [
        f"{date.today().isoformat()}, {benchmark.machine()}; `make choices`: EfficientNet-Lite0, "
        "Grad-CAM, 8 photographs.",
        "",
        *table(("choice", "time over that without", "largest change of a map in [0, 1]"), rows),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    write_between(PAGE, BEGIN, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
