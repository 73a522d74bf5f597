"""Capture against plain autograd, on all of torchvision's classification architectures with random weights.

    make zoo, or .venv-bench/bin/python benchmarks/zoo.py [NAME ...] [--out FILE]

For each: the layer is the library's own choice (`layer=None`), the target the top class. A hook written here keeps that
layer's output, and `torch.autograd.grad` of the score on the same model gives its gradient. Activations, gradients and
the map made of them, relative to their largest magnitude, must agree to 1e-5. The exit status tells whether all do.
More rows are layers with the channels last, and the networks with auxiliary classifiers in training mode, where these
run and the outputs are a named tuple.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table

# the CPU build of PyTorch lacks two operators that torchvision registers shapes for as it is imported
_LIBRARY = torch.library.Library("torchvision", "DEF")
_LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402

import gradcam  # noqa: E402
from gradcam.backends.torch.model import TorchModel  # noqa: E402
from gradcam.targets import TopClass  # noqa: E402

TOLERANCE = 1e-5
WHAT = ("activations", "gradients", "maps")
SIZES = {"vit": 224, "maxvit": 224, "inception": 160}
"""Of the input, by the beginning of the architecture's name; 64 for the rest. A ViT and MaxViT take no other."""
AUXILIARY = {"googlenet": 64, "inception_v3": 299}
"""The networks that have auxiliary classifiers, and the size that these need."""


def plain(
    model: torch.nn.Module, images: torch.Tensor, layer: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's activation, and the gradient of each image's highest score in it, by autograd alone."""
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append(output)
        return output.clone()  # DenseNet's features are rectified in place

    name, _, call = layer.partition("#")
    hook = model.get_submodule(name).register_forward_hook(keep)
    outputs = model(images)
    hook.remove()
    scores = outputs if isinstance(outputs, torch.Tensor) else outputs.logits
    activation = kept[int(call or 0)]
    (gradient,) = torch.autograd.grad(scores.amax(1).sum(), activation)
    return activation.detach(), gradient


def plain_map(
    activation: torch.Tensor, gradient: torch.Tensor, layout: gradcam.layouts.Layout
) -> torch.Tensor:
    """Grad-CAM's two lines, with an axis order of this file's own."""
    if layout.kind == "tokens":
        activation, gradient = activation[:, layout.prefix :], gradient[:, layout.prefix :]
    if layout.kind == "channels_first":
        activation, gradient = activation.movedim(1, -1), gradient.movedim(1, -1)
    alpha = gradient.flatten(1, -2).mean(1)
    found: torch.Tensor = torch.einsum("n...c,nc->n...", activation, alpha).relu()
    return found.reshape(len(found), *layout.grid)


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest magnitude; NaN or another shape is infinitely far."""
    if found.shape != expected.shape or not bool(expected.abs().max() > 0):
        return float("inf")
    far = float((found - expected).abs().max() / expected.abs().max())
    return far if far == far else float("inf")


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": True} if name in AUXILIARY else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    for parameter in model.parameters():  # a ViT's head begins as zeros: every map would be blank
        if parameter.ndim == 2 and not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def compared(
    name: str, model: torch.nn.Module, size: int, layer: str | None = None
) -> dict[str, Any]:
    images = torch.randn(2, 3, size, size)
    e = gradcam.explain(model, images, layer, allow_training=True)
    found = str(e.layer)
    activation, gradient = plain(model, images, found)
    capture = TorchModel(model, allow_training=True).capture(images, (found,), TopClass())
    layout = gradcam.layouts.infer(activation.shape[1:], (size, size), channels_first=True)
    assert layout is not None
    return {
        "architecture": name + ", training" * model.training,
        "size": size,
        "layer": found,
        "layout": layout.kind,
        "grid": list(e.maps.shape[1:]),
        "activations": apart(capture.activations[0], activation),
        "gradients": apart(capture.gradients[0], gradient),
        "maps": apart(e.maps, plain_map(activation, gradient, layout)),
    }


def checked(name: str) -> list[dict[str, Any]]:
    model, size = made(name), next((n for start, n in SIZES.items() if name.startswith(start)), 64)
    rows = [compared(name, model, size)]
    if name.startswith("swin"):
        rows.append(compared(name, model, size, "norm"))
    if name in AUXILIARY:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()  # so that two passes give the same
        rows.append(compared(name, model, AUXILIARY[name]))
    return rows


def passed(row: dict[str, Any]) -> bool:
    return "error" not in row and all(row[what] <= TOLERANCE for what in WHAT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = torchvision.models.list_models(module=torchvision.models)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them unless told")
    parser.add_argument("--out", type=Path, default=Path("out/zoo.json"))
    given = parser.parse_args()
    names, rows = given.names or known, []
    console = Console()
    console.width = max(console.width, 140)
    table = Table(
        "architecture", "input", Column("layer", overflow="fold"), "layout", "grid", *WHAT, ""
    )
    for name in names:
        start = time.perf_counter()
        try:
            found = checked(name)
        except Exception as error:  # whatever one architecture raises, the others are still checked
            traceback.print_exc()
            found = [{"architecture": name, "error": f"{type(error).__name__}: {error}"}]
        console.print(f"{name}: {time.perf_counter() - start:.1f} s", highlight=False)
        rows += found
    for row in rows:
        if "error" in row:
            table.add_row(row["architecture"], *[""] * 7, f"[red]{row['error']}")
        else:
            grid, far = " x ".join(map(str, row["grid"])), [f"{row[what]:.1e}" for what in WHAT]
            verdict = "[green]agrees" if passed(row) else "[red]differs"
            table.add_row(
                row["architecture"],
                str(row["size"]),
                row["layer"],
                row["layout"],
                grid,
                *far,
                verdict,
            )
    console.print(table)
    wrong = {row["architecture"].partition(",")[0] for row in rows if not passed(row)}
    worst = max(
        (row.get(what, float("inf")) for row in rows for what in WHAT), default=float("inf")
    )
    console.print(
        f"{len(names) - len(wrong)} of {len(names)} architectures agree with autograd; the worst relative difference "
        f"is {worst:.1e}; torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "gradcam": gradcam.__version__,
    }
    given.out.write_text(
        json.dumps({**versions, "tolerance": TOLERANCE, "rows": rows}, indent=1), encoding="utf-8"
    )
    return 1 if wrong or not names else 0


if __name__ == "__main__":
    sys.exit(main())
