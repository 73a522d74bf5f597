"""All of torchvision's classifiers."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from benchmarks.foreign import torchvision_schemas  # noqa: F401
from benchmarks.foreign.axes import Reading, Truth, tokens
from benchmarks.foreign.rows import Case, Row, revived, torch_case

__all__ = ["rows"]

SIZES = {
    "vit_h": 56,
    "vit": 64,
    "maxvit": 224,
    "inception": 160,
    "swin": 112,
    "regnet_y_128gf": 64,
    "regnet_x_32gf": 64,
    "regnet_y_32gf": 64,
    "convnext_large": 64,
}
"""Of the input, by the beginning of the name; 96 for the rest."""
OBLONG = {"resnet18": (96, 160), "mobilenet_v2": (128, 96), "swin_t": (96, 160), "vgg11": (64, 96)}
FEW = {"vit_h_14": 2, "vit_l_16": 4, "vit_l_32": 4}
"""The large ones with fewer blocks."""


def truth_of(name: str, model: Any, size: tuple[int, ...]) -> Truth:
    if name.startswith("vit"):
        patch = int(model.patch_size)
        return Truth(size, "", tokens(tuple(n // patch for n in size), 1))
    if name.startswith("swin"):
        first = ((r"^permute$", Reading("channels_first")),)
        return Truth(size, "channels_last", rules=first)
    if name.startswith("convnext"):
        last = "channels last inside a block"
        return Truth(size, rules=((r"features\.\d+\.\d+\.block\.[1-5]$", last),))
    return Truth(size)


def made(name: str, size: tuple[int, ...]) -> Case:
    import torch
    import torchvision

    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    if name.startswith("vit"):
        options["image_size"] = size[0]
    if name in FEW:  # torchvision's builders take no depth
        layers, patch = FEW[name], int(name[-2:])
        width = 1280 if name.startswith("vit_h") else 1024
        model: Any = torchvision.models.VisionTransformer(
            size[0], patch, layers, 16, width, 4 * width
        )
    else:
        model = torchvision.models.get_model(name, **options)
    model = revived(model).eval()
    truth = truth_of(name, model, size)
    if name in FEW:  # of two layers the last alone may be more than half of all modules
        truth = replace(truth, behind=0.6)
    return torch_case(model, torch.randn(2, 3, *size), truth)


def rows() -> list[Row]:
    import torchvision

    found = []
    for name in torchvision.models.list_models(module=torchvision.models):
        side = next((n for start, n in SIZES.items() if name.startswith(start)), 96)
        found.append(Row(name, functools.partial(made, name, (side, side))))
    for name, size in OBLONG.items():
        found.append(Row(f"{name} {size[0]}x{size[1]}", functools.partial(made, name, size)))
    return found
