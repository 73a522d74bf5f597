"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import gradcam
from gradcam.cli.models import Framework

__all__ = [
    "FrameworkOption",
    "ImagesArgument",
    "LayerOption",
    "MethodOption",
    "MethodsOption",
    "ModelOption",
    "PreprocessOption",
    "ReportOption",
    "TargetOption",
    "TopOption",
    "check_classes",
]


def _complete_method(incomplete: str) -> list[str]:
    return [name for name in gradcam.METHODS if name.startswith(incomplete)]


ImagesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE...",
        help="Photographs of any common kind, or folders of them.",
        readable=False,  # one that may not be read is reported, and the others are explained
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PACKAGE.MODULE:FACTORY|FILE",
        help="A function that returns your model or a gradcam.Classifier; or a file, model.onnx or "
        "program.pt2. A bare model is shown the centre, 224 x 224, normalised as most ImageNet "
        "networks want it. [default: EfficientNet-Lite0]",
    ),
]
PreprocessOption = Annotated[
    str | None,
    typer.Option(
        help='How photographs become inputs: "size=224 resize=256 mean=0.5,0.5,0.5 deviation=0.5 '
        "order=bgr scale=255\", as far as it differs from ImageNet's; numbers are in the order of "
        "red, green, blue.",
    ),
]
FrameworkOption = Annotated[
    Framework, typer.Option("--framework", "-f", help="Of the demo network.", show_default=True)
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        "--layer", "-l", help="Its path. [default: the model's own, or the last that has space]"
    ),
]
TargetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="A class, by index or name; several times for several. [default: the top class]",
    ),
]
TopOption = Annotated[
    int | None, typer.Option(min=1, help="Explain each photograph's K highest classes.")
]
MethodOption = Annotated[
    str, typer.Option("--method", help="One of `gradcam methods`.", autocompletion=_complete_method)
]
MethodsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="Several times for several. [default: grad-cam]",
        autocompletion=_complete_method,
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="Write a page of all maps too: one file, to open from disk."),
]


def check_classes(target: list[str] | None, top: int | None) -> None:
    """Refuse --target and --top together."""
    if target and top:
        raise typer.BadParameter(
            "--target and --top exclude each other: name the classes, or take the highest"
        )
