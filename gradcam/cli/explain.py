"""`gradcam explain`, `gradcam layers` and `gradcam verify`: one model and its photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

import gradcam
from gradcam._arrays import to_numpy
from gradcam.cli import report
from gradcam.cli.console import FAULTS, out, printable, problem, spinner
from gradcam.cli.models import batch_of, class_indices, load, view_of
from gradcam.cli.options import (
    FrameworkOption,
    ImagesArgument,
    LayerOption,
    MethodOption,
    ModelOption,
    PreprocessOption,
    ReportOption,
    TargetOption,
    TopOption,
    check_classes,
)
from gradcam.explaining.explanation import Explanation
from gradcam.pictures.images import endings, read
from gradcam.runs import reading
from gradcam.runs.reading import Item, Seen
from gradcam.runs.worker import Asked, Worker, same_shape
from gradcam.targets import TopClass

__all__ = ["explain", "layers", "verify"]

BATCH = 8
"""Photographs that are explained at a time, at most."""
THREADS = 2
"""That read photographs ahead of the model."""


def explain(
    images: ImagesArgument,
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
    layer: LayerOption = None,
    target: TargetOption = None,
    top: TopOption = None,
    method: MethodOption = "grad-cam",
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Where to save; a folder for each photograph.")
    ] = Path("out"),
    page: ReportOption = None,
    preprocess: PreprocessOption = None,
) -> None:
    """Show where a network looked in each photograph.

    Prints the class, its score and the box round the evidence, and saves maps, overlays, a figure
    and a manifest. A file that cannot be read is reported, the others are still explained, and the
    exit code is 1.
    """
    check_classes(target, top)
    classifier = load(model, framework, preprocess)
    classes: Any = class_indices(classifier, target)
    if top:
        classes = TopClass(top)
    paths = _files(images)
    batch = min(BATCH, len(paths))
    asked = Asked(layer, classes, (method,), {}, "softmax", False, batch)
    try:
        worker = Worker(classifier, asked)
    except FAULTS as error:
        raise typer.BadParameter(printable(error)) from error
    table = Table("photograph", "class", "score", "box x0 y0 x1 y1", "saved in")
    failures = 0
    saved: list[str] = []
    with spinner() as doing:
        for path, rows in _explained(worker, paths, folder, doing):
            failures += not rows
            saved += [row[-1] for row in rows[:1]]
            for row in rows:
                table.add_row(*map(printable, (path.name, *row)))
    if table.row_count:
        out.print(table)
    if page is not None and saved:
        failures += not report.write(saved, page, model=classifier.model)
    raise typer.Exit(1 if failures else 0)


def _files(images: Iterable[Path]) -> list[Path]:
    """The photographs that are named, and those in folders that are; each once."""
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            below = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings())
            if not below:
                raise typer.BadParameter(printable(f"{path} holds no photographs"))
            found += below
        else:
            found.append(path)
    return list(dict.fromkeys(found))


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


def _explained(
    worker: Worker, paths: Sequence[Path], folder: Path, doing: Callable[[str], None]
) -> Iterator[tuple[Path, list[tuple[str, ...]]]]:
    """Each photograph with its table rows, none where it failed; saved, and problems printed."""
    names = _folder_names(paths)
    items = (Item(n, str(path), None, partial(read, path)) for n, path in enumerate(paths))
    shown = partial(reading.load, view=worker.view)
    seen = reading.ahead(items, shown, THREADS, 2 * BATCH)
    while some := list(islice(seen, BATCH)):
        doing(f"explaining {paths[some[0].sample].name}")
        for one in some:
            if one.error is not None:
                problem(one.error)
                yield paths[one.sample], []
        for group in same_shape(some):
            for one, saved in _saved(worker, group, paths, folder, names):
                yield paths[one.sample], saved


def _saved(
    worker: Worker,
    group: Sequence[Seen],
    paths: Sequence[Path],
    folder: Path,
    names: Mapping[Path, str],
) -> Iterator[tuple[Seen, list[tuple[str, ...]]]]:
    """Each photograph of a batch with its table rows; none where it failed.

    Where the batch fails, each is tried by itself.
    """
    try:
        (explanation,) = worker.explain([one.picture for one in group]).values()
        notes = explanation.diagnose()
    except FAULTS as error:
        if len(group) == 1:
            problem(error)
            yield group[0], []
            return
        for one in group:
            yield from _saved(worker, [one], paths, folder, names)
        return
    for n, one in enumerate(group):
        path = paths[one.sample]
        own = explanation[n]
        try:
            saved = own.save(folder / names[path], [one.picture], overwrite=True, figure=True)
        except FAULTS as error:
            problem(error)
            yield one, []
            continue
        for finding in notes:
            if finding.sample == n:
                name = own.names()[0][finding.target or 0]
                problem(f"{name}: {finding.message}", path.name, "yellow")
        yield one, _rows(own, saved)


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
    preprocess: PreprocessOption = None,
) -> None:
    """List the layers of a model in the order in which they run, with their outputs' shapes."""
    classifier = load(model, framework, preprocess)
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
    preprocess: PreprocessOption = None,
) -> None:
    """Check the gradients that an explanation is made of against finite differences.

    The exit code is 1 unless they agree.
    """
    classifier = load(model, framework, preprocess)
    classes = class_indices(classifier, target)
    try:
        inputs = batch_of(classifier, view_of(classifier, read(image)))
        report = gradcam.verify(classifier, inputs, layer=layer, target=classes)
    except FAULTS as error:
        problem(error)
        raise typer.Exit(1) from error
    out.print(str(report), style="green" if report.passed else "red", highlight=False)
    raise typer.Exit(0 if report.passed else 1)
