"""`gradcam evaluate`: methods against measures, beside controls."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

import gradcam
from gradcam.cli import report
from gradcam.cli.console import FAULTS, numbers_table, out, printable, problem, say, spinner
from gradcam.cli.models import batch_of, class_indices, load, view_of
from gradcam.cli.options import (
    FrameworkOption,
    LayerOption,
    MethodsOption,
    ModelOption,
    ReportOption,
)
from gradcam.evaluation.evaluation import DEFAULT
from gradcam.evaluation.planning import photographs_of
from gradcam.metrics import MEASURES, Result
from gradcam.pictures.images import read

__all__ = ["evaluate"]

MOST = 100
"""Photographs in a report, at most: their maps are made anew."""

LOCALISATION = ("pointing-game", "energy")
"""Measured besides the default where there are annotations."""


def evaluate(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Photographs, or the results of a run.")
    ],
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
    layer: LayerOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", help="A class, by index or name. [default: each one's top class]"
        ),
    ] = None,
    method: MethodsOption = None,
    measure: Annotated[
        list[str] | None,
        typer.Option("--measure", help="One of `gradcam measures`; several times for several."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            "-a",
            help="Objects: a COCO .json, a .csv of boxes, a folder of VOC or of masks.",
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(
            "--category", help="Of a COCO or VOC annotation, the objects of this name alone."
        ),
    ] = None,
    confidence: Annotated[
        str,
        typer.Option(
            "--confidence", help="What a class's confidence is: softmax, sigmoid, or the outputs."
        ),
    ] = "softmax",
    output: Annotated[
        Path, typer.Option("--out", "-o", help="Where results go; run again, it goes on.")
    ] = Path("evaluation"),
    page: ReportOption = None,
) -> None:
    """Measure methods over photographs, beside controls that know nothing of the model.

    Prints a table of means with 95 % intervals, and saves it as JSON and as a picture. What was
    found before in --out is not computed again. A file that cannot be read is reported and skipped,
    and the exit code is 1.
    """
    classifier = load(model, framework)
    index = class_indices(classifier, [target] if target else None)
    with spinner() as doing:
        try:
            evaluation = gradcam.evaluate(
                classifier,
                gradcam.results(folder) if (folder / "run.json").exists() else folder,
                method or ["grad-cam"],
                _measures(measure, annotations),
                layer=layer,
                target=index,
                annotations=annotations,
                category=category,
                confidence=cast(Any, confidence),
                out=output,
                progress=doing,
            )
        except FAULTS as error:
            raise typer.BadParameter(printable(error)) from error
    out.print(_table(evaluation))
    try:
        say(f"saved in {evaluation.save(output)}")
    except OSError as error:
        problem(error)
        raise typer.Exit(1) from error
    failed = _report_problems(evaluation)
    if page is not None:
        failed |= not _write_report(page, evaluation, classifier, folder, layer)
    raise typer.Exit(1 if failed else 0)


def _write_report(
    page: Path,
    evaluation: gradcam.Evaluation,
    classifier: gradcam.Classifier,
    folder: Path,
    layer: str | None,
) -> bool:
    """The table, and the maps that were measured, made anew; whether that was possible."""
    images = gradcam.results(folder) if (folder / "run.json").exists() else folder
    photographs = dict(photographs_of(classifier, images))
    classes = {row["photograph"]: row["class"] for row in evaluation.rows}
    found: list[Any] = []
    seen: list[Any] = []
    for name, index in islice(classes.items(), MOST):
        photograph: Any = photographs[name]
        picture = read(photograph) if isinstance(photograph, Path) else photograph()
        seen.append(view_of(classifier, picture))
        inputs = batch_of(classifier, seen[-1])
        found.append(gradcam.compare(classifier, inputs, layer, index, evaluation.methods))
    return report.write(
        found,
        page,
        seen,
        names=list(islice(classes, MOST)),
        evaluation=evaluation,
        model=classifier.model,
    )


def _measures(named: list[str] | None, annotations: Path | None) -> list[str]:
    if named:
        return named
    if annotations is None:
        return list(DEFAULT)
    return [*DEFAULT, *LOCALISATION]


def _report_problems(evaluation: gradcam.Evaluation) -> bool:
    """Print what was skipped and what failed; whether there was anything."""
    for name, reason in evaluation.skipped.items():
        problem(f"{name}: {reason}", "skipped")
    problems = bool(evaluation.skipped)
    for row in evaluation.rows:
        for measure, reason in row["failed"].items():
            problem(f"{row['photograph']}, {row['method']}, {measure}: {reason}")
            problems = True
    return problems


def _table(evaluation: gradcam.Evaluation) -> Table:
    photographs = len({row["photograph"] for row in evaluation.rows})
    table = numbers_table(
        f"means over {photographs} photographs, or as many as have a value",
        ("measure", "method"),
        ("mean", "95 % interval", "of"),
    )
    for measure in evaluation.measures:
        _add_measure(table, evaluation, measure)
    return table


def _add_measure(table: Table, evaluation: gradcam.Evaluation, measure: str) -> None:
    """A row for each method and then each control, the measure's name on the first."""
    arrow = {"higher": " \u2191", "lower": " \u2193", None: ""}[MEASURES[measure].better]
    title = f"{measure}{arrow}"
    for name in (*evaluation.methods, *evaluation.controls):
        style = "dim" if name in evaluation.controls else ""
        cells = _cells(evaluation.results.get((name, measure)))
        table.add_row(title, name, *cells, style=style)
        title = ""
    table.add_section()


def _cells(result: Result | None) -> tuple[str, str, str]:
    if result is None or not result.count:
        return "-", "", "0"
    interval = ""
    if result.count > 1:
        low, high = result.interval()
        interval = f"{low:.2f} to {high:.2f}"
    return f"{result.value:.3f}", interval, str(result.count)
