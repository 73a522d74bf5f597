"""`gradcam report`, and the option `--report` of other commands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import gradcam
from gradcam.cli.console import FAULTS, problem, say

__all__ = ["command", "report", "write"]


def report(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A run, or saved explanations; a folder or URL.")
    ],
    output: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option("--title", help="The page's title.")] = (
        "Where the model looked"
    ),
    most: Annotated[
        int, typer.Option("--most", min=1, help="No more photographs than these are shown.")
    ] = 500,
) -> None:
    """Write a page of saved explanations, or of a run: one HTML file, to open from disk.

    It asks for no network and no other file. It has an opacity and a threshold for all maps, sorts
    and filters them, and shows all numbers of each photograph.
    """
    if not write(folder, output, title=title, most=most):
        raise typer.Exit(1)


def write(source: Any, path: Path, photos: Any = None, **options: Any) -> bool:
    """Write the report and say where it is; whether that was possible."""
    try:
        written = gradcam.report(source, path, photos, command=command(), **options)
    except FAULTS as error:
        problem(error)
        return False
    say(f"the report: {written}")
    return True


def command() -> str:
    """What was called, as it is typed."""
    return shlex.join(["gradcam", *sys.argv[1:]])
