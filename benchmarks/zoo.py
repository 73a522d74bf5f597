"""Capture against plain autograd, on all of torchvision's classifiers with random weights.

    make zoo, or .venv-bench/bin/python benchmarks/zoo.py [NAME ...] [--out FILE]

For each architecture the library chooses the layer (`layer=None`), and the target is the top class.
A hook that is written here keeps that layer's output, and `torch.autograd.grad` of the score on the
same model gives its gradient. Activations, gradients and the map, relative to their largest
magnitude, must agree to 1e-5. The exit status is 0 if all do. There are more rows for layers with
the channels last, and for networks in training mode whose auxiliary classifiers then run, so that
the outputs are a named tuple.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from common import argument_parser, write_json
from foreign import torchvision_schemas  # noqa: F401, before torchvision
from rich.console import Console
from rich.table import Column, Table

import torchvision  # isort: skip

import gradcam
from gradcam.backends.torch.model import TorchModel
from gradcam.targets import TopClass

TOLERANCE = 1e-5
QUANTITIES = ("activations", "gradients", "maps")
SIZES = {"vit": 224, "maxvit": 224, "inception": 160}
"""The input's size, by the beginning of the architecture's name; 64 for all others.

A ViT and MaxViT take no other size.
"""
AUXILIARY = {"googlenet": 64, "inception_v3": 299}
"""The networks with auxiliary classifiers, and the input's size that these need."""


def plain(
    model: torch.nn.Module, images: torch.Tensor, layer: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's activation and the gradient of each image's highest score, by autograd alone."""
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output)
        # A clone, because DenseNet's features are rectified in place.
        return output.clone()

    name, _, call = layer.partition("#")
    hook = model.get_submodule(name).register_forward_hook(keep)
    outputs = model(images)
    hook.remove()
    scores = outputs
    if not isinstance(outputs, torch.Tensor):
        scores = outputs.logits
    activation = kept[int(call or 0)]
    (gradient,) = torch.autograd.grad(scores.amax(1).sum(), activation)
    return activation.detach(), gradient


def plain_map(
    activation: torch.Tensor, gradient: torch.Tensor, layout: gradcam.layouts.Layout
) -> torch.Tensor:
    """Grad-CAM in two lines, which share no code with the library."""
    if layout.kind == "tokens":
        activation = activation[:, layout.prefix :]
        gradient = gradient[:, layout.prefix :]
    if layout.kind == "channels_first":
        activation = activation.movedim(1, -1)
        gradient = gradient.movedim(1, -1)
    alpha = gradient.flatten(1, -2).mean(1)
    maps: torch.Tensor = torch.einsum("n...c,nc->n...", activation, alpha).relu()
    return maps.reshape(len(maps), *layout.grid)


def difference(array: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest magnitude.

    It is infinite for NaN, for another shape, and where nothing but 0 was expected.
    """
    if array.shape != expected.shape or not bool(expected.abs().max() > 0):
        return math.inf
    largest = float((array - expected).abs().max() / expected.abs().max())
    if math.isnan(largest):
        return math.inf
    return largest


def random_weights(name: str) -> torch.nn.Module:
    """One of torchvision's architectures, with the same random weights in every call."""
    torch.manual_seed(0)
    options = {}
    if name in AUXILIARY:
        options = {"init_weights": True}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    # A ViT's head begins as zeros, and every map would be blank.
    for parameter in model.parameters():
        if parameter.ndim == 2 and not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def compared(
    name: str, model: torch.nn.Module, size: int, layer: str | None = None
) -> dict[str, Any]:
    """A row: the relative differences between the library and plain autograd."""
    images = torch.randn(2, 3, size, size)
    explanation = gradcam.explain(model, images, layer, allow_training=True)
    path = str(explanation.layer)
    activation, gradient = plain(model, images, path)
    capture = TorchModel(model, allow_training=True).capture(images, (path,), TopClass())
    layout = gradcam.layouts.infer(activation.shape[1:], (size, size), order=True)
    assert layout is not None
    return {
        "architecture": name + ", training" * model.training,
        "size": size,
        "layer": path,
        "layout": layout.kind,
        "grid": list(explanation.maps.shape[1:]),
        "activations": difference(capture.activations[0], activation),
        "gradients": difference(capture.gradients[0], gradient),
        "maps": difference(explanation.maps, plain_map(activation, gradient, layout)),
    }


def checked(name: str) -> list[dict[str, Any]]:
    """The rows of one architecture."""
    model = random_weights(name)
    size = 64
    for start, other_size in SIZES.items():
        if name.startswith(start):
            size = other_size
    rows = [compared(name, model, size)]
    if name.startswith("swin"):
        rows.append(compared(name, model, size, "norm"))
    if name in AUXILIARY:
        model.train()
        for module in model.modules():
            # Dropout would make two passes differ.
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        rows.append(compared(name, model, AUXILIARY[name]))
    return rows


def passed(row: dict[str, Any]) -> bool:
    return "error" not in row and all(row[name] <= TOLERANCE for name in QUANTITIES)


def row_cells(row: dict[str, Any]) -> list[str]:
    """A row of the printed table."""
    if "error" in row:
        return [row["architecture"], *[""] * 7, f"[red]{row['error']}"]
    verdict = "[red]differs"
    if passed(row):
        verdict = "[green]agrees"
    return [
        row["architecture"],
        str(row["size"]),
        row["layer"],
        row["layout"],
        " x ".join(map(str, row["grid"])),
        *(f"{row[name]:.1e}" for name in QUANTITIES),
        verdict,
    ]


def summary(names: list[str], rows: list[dict[str, Any]]) -> str:
    wrong = failures(rows)
    worst = 0.0
    for row in rows:
        worst = max(worst, *(row.get(name, math.inf) for name in QUANTITIES))
    return (
        f"{len(names) - len(wrong)} of {len(names)} architectures agree with autograd; the worst "
        f"relative difference is {worst:.1e}; torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}"
    )


def failures(rows: list[dict[str, Any]]) -> set[str]:
    """The architectures of which a row did not pass."""
    return {row["architecture"].partition(",")[0] for row in rows if not passed(row)}


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; all by default")
    parser.add_argument("--out", type=Path, default=Path("out/zoo.json"))
    options = parser.parse_args()
    names = options.names or torchvision.models.list_models(module=torchvision.models)
    console = Console()
    console.width = max(console.width, 140)
    layer = Column("layer", overflow="fold")
    table = Table("architecture", "input", layer, "layout", "grid", *QUANTITIES, "")
    rows = []
    for name in names:
        start = time.perf_counter()
        try:
            rows += checked(name)
        except Exception as error:
            # Whatever one architecture raises, the others are still checked.
            traceback.print_exc()
            rows.append({"architecture": name, "error": f"{type(error).__name__}: {error}"})
        console.print(f"{name}: {time.perf_counter() - start:.1f} s", highlight=False)
    for row in rows:
        table.add_row(*row_cells(row))
    console.print(table)
    console.print(summary(names, rows))
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "gradcam": gradcam.__version__,
    }
    write_json(options.out, {**versions, "tolerance": TOLERANCE, "rows": rows})
    return int(bool(failures(rows)) or not names)


if __name__ == "__main__":
    sys.exit(main())
