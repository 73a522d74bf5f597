"""`gradcam explain`, `gradcam layers` and `gradcam verify`: one model and its photographs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

import gradcam
from gradcam._arrays import to_numpy
from gradcam.classifier import Classifier
from gradcam.cli.console import FAULTS, out, printable, problem, spinner
from gradcam.cli.models import batch_of, class_indices, load, view_of
from gradcam.cli.options import (
    FrameworkOption,
    ImagesArgument,
    LayerOption,
    MethodOption,
    ModelOption,
    TargetOption,
)
from gradcam.explaining.explanation import Explanation
from gradcam.pictures.images import read
from gradcam.targets import TopClass

__all__ = ["explain", "layers", "verify"]


def explain(
    images: ImagesArgument,
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
    layer: LayerOption = None,
    target: TargetOption = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Explain each photograph's K highest classes.")
    ] = None,
    method: MethodOption = "grad-cam",
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Where to save; a folder for each photograph.")
    ] = Path("out"),
) -> None:
    """Show where a network looked in each photograph.

    Prints the class, its score and the box round the evidence, and saves maps, overlays, a figure
    and a manifest. A file that cannot be read is reported, the others are still explained, and the
    exit code is 1.
    """
    if target and top:
        raise typer.BadParameter(
            "--target and --top exclude each other: name the classes, or take the highest"
        )
    classifier = load(model, framework)
    classes: Any = class_indices(classifier, target)
    if top:
        classes = TopClass(top)
    explainer = _explainer(classifier, layer, method)
    table = Table("photograph", "class", "score", "box x0 y0 x1 y1", "saved in")
    failures = 0
    names = _folder_names(images)
    with spinner() as doing:
        for path in images:
            doing(f"explaining {path.name}")
            try:
                rows = _explain_photograph(
                    explainer, classifier, path, classes, folder / names[path]
                )
            except FAULTS as error:
                failures += 1
                problem(error)
                continue
            for row in rows:
                table.add_row(*map(printable, (path.name, *row)))
    if table.row_count:
        out.print(table)
    raise typer.Exit(1 if failures else 0)


def _explainer(classifier: Classifier, layer: str | None, method: str) -> gradcam.Explainer:
    try:
        return gradcam.Explainer(classifier, layer, method)
    except FAULTS as error:
        raise typer.BadParameter(printable(error)) from error


def _folder_names(images: Iterable[Path]) -> dict[Path, str]:
    """A folder for each photograph: its name without ending, and a number where two share it.

    Names in upper and in lower case are one, as on some disks. A name of dots alone would be the
    folder itself, or the one above it: there the ending stays.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(images):
        stem = path.stem
        if not stem.strip("."):
            stem = path.name
        name = stem
        number = 2
        while name.casefold() in taken:
            name = f"{stem}-{number}"
            number += 1
        taken.add(name.casefold())
        names[path] = name
    return names


def _explain_photograph(
    explainer: gradcam.Explainer, classifier: Classifier, path: Path, classes: Any, folder: Path
) -> list[tuple[str, ...]]:
    """Save the explanation of one photograph and print why maps are blank; its table rows."""
    seen = view_of(classifier, read(path))
    with warnings.catch_warnings():
        # the notes below say more
        warnings.simplefilter("ignore", gradcam.BlankMapWarning)
        explanation = explainer(batch_of(classifier, seen), classes)
    saved = explanation.save(folder, [seen], overwrite=True, figure=True)
    for finding in explanation.diagnose():
        name = explanation.names()[0][finding.target or 0]
        problem(f"{name}: {finding.message}", path.name, "yellow")
    return _rows(explanation, saved)


def _rows(explanation: Explanation, saved: Path) -> list[tuple[str, ...]]:
    scores = to_numpy(explanation.scores).reshape(-1)
    boxes = explanation.boxes().reshape(len(scores), -1)
    rows: list[tuple[str, ...]] = []
    for name, score, box in zip(explanation.names()[0], scores, boxes, strict=True):
        rows.append((name, f"{score:.3f}", " ".join(map(str, box)), str(saved)))
    return rows


def layers(
    image: Annotated[
        Path | None, typer.Argument(help="A photograph to run. [default: a grey one]")
    ] = None,
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
) -> None:
    """List the layers of a model in the order in which they run, with their outputs' shapes."""
    classifier = load(model, framework)
    photograph = np.full((256, 256, 3), 127, np.uint8)
    try:
        if image is not None:
            photograph = read(image)
        inputs = batch_of(classifier, view_of(classifier, photograph))
        rows = gradcam.layers(classifier, inputs)
    except FAULTS as error:
        problem(error)
        raise typer.Exit(1) from error
    table = Table("layer", "shape", "kind", "")
    for row in rows:
        mark = "explained where none is named" if row.chosen else ""
        style = None if row.has_space else "dim"
        table.add_row(row.path, " x ".join(map(str, row.shape)), row.kind, mark, style=style)
    out.print(table)


def verify(
    image: Annotated[Path, typer.Argument(help="A photograph.")],
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
    layer: LayerOption = None,
    target: TargetOption = None,
) -> None:
    """Check the gradients that an explanation is made of against finite differences.

    The exit code is 1 unless they agree.
    """
    classifier = load(model, framework)
    classes = class_indices(classifier, target)
    try:
        inputs = batch_of(classifier, view_of(classifier, read(image)))
        report = gradcam.verify(classifier, inputs, layer=layer, target=classes)
    except FAULTS as error:
        problem(error)
        raise typer.Exit(1) from error
    out.print(str(report), style="green" if report.passed else "red", highlight=False)
    raise typer.Exit(0 if report.passed else 1)
