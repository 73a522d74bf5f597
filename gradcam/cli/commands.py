"""The commands."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

import gradcam
from gradcam._arrays import to_numpy
from gradcam.classifier import Classifier
from gradcam.cli.models import Framework, load, subjects
from gradcam.evaluation.evaluation import DEFAULT
from gradcam.explaining.explanation import Explanation
from gradcam.pictures.images import read
from gradcam.targets import TopClass

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
out, err = Console(), Console(stderr=True)
FAULTS = (OSError, ValueError, LookupError, ArithmeticError, RuntimeError)
"""What an image, a layer or a class that does not fit raises: shown in a line, not as a traceback."""


def _complete_method(incomplete: str) -> list[str]:
    return [name for name in gradcam.METHODS if name.startswith(incomplete)]


ImagesArgument = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", help="Photographs of any common kind.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PACKAGE.MODULE:FACTORY",
        help="A function that returns your model or a gradcam.Classifier. A bare model is shown the centre, 224 x 224, "
        "normalised as most ImageNet networks want it. [default: EfficientNet-Lite0]",
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
MethodOption = Annotated[
    str, typer.Option("--method", help="One of `gradcam methods`.", autocompletion=_complete_method)
]


@app.callback()
def _about() -> None:
    """Class-activation maps you can check: where did a network look to give its score?

    Runs on PyTorch and JAX models, unmodified. Start with: gradcam explain photo.jpg
    """


@app.command()
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

    Prints the class, its score and the box round the evidence, and saves maps, overlays, a figure and a manifest.
    A file that cannot be read is reported, the others are still explained, and the exit code is 1.
    """
    if target and top:
        raise typer.BadParameter(
            "--target and --top exclude each other: name the classes, or take the highest"
        )
    classifier = load(model, framework)
    wanted: Any = TopClass(top) if top else _classes(classifier, target)
    explainer = _explainer(classifier, layer, method)
    table = Table("photograph", "class", "score", "box x0 y0 x1 y1", "saved in")
    failed = 0
    names = _folders(images)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True
    ) as progress:
        task = progress.add_task("", total=len(images))
        for path in images:
            progress.update(task, description=f"explaining {path.name}", advance=1)
            try:
                seen = _seen(classifier, path)
                with warnings.catch_warnings():
                    warnings.simplefilter(
                        "ignore", gradcam.BlankMapWarning
                    )  # what is said of them here says more
                    explanation = explainer(_batch(classifier, [seen]), wanted)
                saved = _save(explanation, seen, folder / names[path])
                for line in _notes(explanation):
                    err.print(
                        f"[yellow]{escape(path.name)}:[/] {escape(line)}",
                        highlight=False,
                        soft_wrap=True,
                    )
            except FAULTS as error:
                failed += 1
                err.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
                continue
            for row in _rows(explanation):
                table.add_row(path.name, *row, str(saved))
    if table.row_count:
        out.print(table)
    raise typer.Exit(1 if failed else 0)


@app.command()
def layers(
    image: Annotated[
        Path | None, typer.Argument(help="A photograph to run. [default: a grey one]")
    ] = None,
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
) -> None:
    """List the layers of a model in the order in which they run, with the shapes of their outputs."""
    classifier = load(model, framework)
    seen = (
        _seen(classifier, image)
        if image
        else _view(classifier, np.full((256, 256, 3), 127, np.uint8))
    )
    table = Table("layer", "shape", "kind")
    for found in gradcam.layers(classifier, _batch(classifier, [seen])):
        table.add_row(found.path, " x ".join(map(str, found.shape)), found.kind)
    out.print(table)


@app.command()
def methods() -> None:
    """List the methods: what each needs, what it costs, and its paper."""
    table = Table("method", "what it is", "needs", "passes", "paper")
    for entry in gradcam.methods.TABLE:
        table.add_row(entry.name, entry.about, entry.needs, entry.cost, entry.paper)
    out.print(table)
    out.print(
        "C channels, S samples or steps; passes of the head are of what lies behind the layer",
        style="dim",
    )


@app.command()
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
    try:
        seen = _seen(classifier, image)
        report = gradcam.verify(
            classifier, _batch(classifier, [seen]), layer=layer, target=_classes(classifier, target)
        )
    except FAULTS as error:
        err.print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    out.print(str(report), style="green" if report.passed else "red", highlight=False)
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def bench(
    model: ModelOption = None,
    framework: Annotated[
        list[str] | None,
        typer.Option(
            "--framework",
            "-f",
            help="Of the demo network, torch or jax. [default: all that are installed]",
        ),
    ] = None,
    layer: LayerOption = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Several times for several. [default: grad-cam]",
            autocompletion=_complete_method,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Samples at a time. [default: 1 and 8]")
    ] = None,
    targets: Annotated[
        list[int] | None, typer.Option(min=1, help="Classes of each. [default: 1 and 10]")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Pairs of an explanation and a forward pass.")
    ] = 11,
    limit: Annotated[
        float, typer.Option(help="Seconds for a case, after which it is not repeated.")
    ] = 30.0,
    memory: Annotated[
        bool, typer.Option(help="Measure peak memory, each in a process of its own.")
    ] = True,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Where bench.json and bench.png go.")
    ] = Path("bench"),
) -> None:
    """Measure what an explanation costs on this machine, over a bare forward pass of the same model.

    The two are timed in turn; what is shown is the median of their ratios, with its quartiles. The exit code is 1 where
    a case failed.
    """
    if model and framework:
        raise typer.BadParameter("--framework is of the demo network; --model has its own")
    for one in method or ():
        if one not in gradcam.METHODS:
            raise typer.BadParameter(f'--method "{one}" is not known; see: gradcam methods')
    for one in framework or ():
        if one not in ("torch", "jax"):
            raise typer.BadParameter(f'--framework "{one}" must be torch or jax')
    found = subjects(model, framework)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True
    ) as progress:
        task = progress.add_task("")
        measured = gradcam.bench(
            found,
            method or ["grad-cam"],
            layer=layer,
            batches=batch or [1, 8],
            targets=targets or [1, 10],
            repeats=repeats,
            limit=limit,
            memory=memory,
            progress=lambda what: progress.update(task, description=what),
        )
    out.print(_price_table(measured))
    about = measured.about
    out.print(
        f"{about['machine']}; {', '.join(about['devices']) or 'no accelerator'}",
        highlight=False,
        soft_wrap=True,
    )
    out.print(
        ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        highlight=False,
    )
    out.print(f"saved in {measured.save(folder)}", highlight=False, soft_wrap=True)
    failed = [price for price in measured.prices if price.failed]
    for price in failed:
        err.print(
            f"[red]error:[/] {price.subject}, {price.method}: {escape(str(price.failed))}",
            soft_wrap=True,
        )
    raise typer.Exit(1 if failed else 0)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Photographs.")],
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
    layer: LayerOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", help="A class, by index or name. [default: each one's top class]"
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="Several times for several. [default: grad-cam]",
            autocompletion=_complete_method,
        ),
    ] = None,
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
) -> None:
    """Measure methods over photographs, beside controls that know nothing of the model.

    Prints a table of means with 95 % intervals, and saves it as JSON and as a picture. What was found before in --out
    is not computed again. A file that cannot be read is reported and skipped, and the exit code is 1.
    """
    classifier = load(model, framework)
    wanted = _classes(classifier, [target] if target else None)
    chosen = measure or [*DEFAULT, *(["pointing-game", "energy"] if annotations else [])]
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=err, transient=True
    ) as progress:
        task = progress.add_task("")
        try:
            found = gradcam.evaluate(
                classifier,
                folder,
                method or ["grad-cam"],
                chosen,
                layer=layer,
                target=wanted,
                annotations=annotations,
                category=category,
                confidence=cast(Any, confidence),
                out=output,
                progress=lambda what: progress.update(task, description=what),
            )
        except FAULTS as error:
            raise typer.BadParameter(str(error)) from error
    out.print(_evaluation_table(found))
    out.print(f"saved in {found.save(output)}", highlight=False, soft_wrap=True)
    for name, why in found.skipped.items():
        err.print(
            f"[red]skipped:[/] {escape(name)}: {escape(why)}", highlight=False, soft_wrap=True
        )
    failed = [(row, *fault) for row in found.rows for fault in row["failed"].items()]
    for row, measure_, why in failed:
        err.print(
            f"[red]error:[/] {row['photograph']}, {row['method']}, {measure_}: {escape(why)}",
            highlight=False,
            soft_wrap=True,
        )
    raise typer.Exit(1 if found.skipped or failed else 0)


@app.command()
def measures() -> None:
    """List the measures of `gradcam evaluate`: what each needs, its range, which way is better, and its paper."""
    table = Table("measure", "what it is", "needs", "range", "better", "paper")
    for entry in gradcam.metrics.MEASURES.values():
        table.add_row(entry.name, entry.about, entry.needs, entry.range, entry.better, entry.paper)
    out.print(table)


def _evaluation_table(found: gradcam.Evaluation) -> Table:
    photographs = len({row["photograph"] for row in found.rows})
    table = Table(
        title=f"means over {photographs} photographs, or as many as have a value",
        title_style="bold",
    )
    for name in ("measure", "method", "mean", "95 % interval", "of"):
        table.add_column(
            name, justify="left" if name in ("measure", "method") else "right", no_wrap=True
        )
    for measure in found.measures:
        arrow = "\u2191" if gradcam.metrics.MEASURES[measure].better == "higher" else "\u2193"
        for name in (*found.methods, *found.controls):
            result = found.results.get((name, measure))
            cells = ["-", "", "0"]
            if result is not None and result.count:
                low, high = result.interval()
                cells = [
                    f"{result.value:.3f}",
                    f"{low:.2f} to {high:.2f}" if result.count > 1 else "",
                    f"{result.count}",
                ]
            first = f"{measure} {arrow}" if name == found.methods[0] else ""
            last = name == (*found.methods, *found.controls)[-1]
            style = "dim" if name in found.controls else ""
            table.add_row(first, name, *cells, style=style, end_section=last)
    return table


def _price_table(measured: gradcam.Benchmark) -> Table:
    table = Table(
        title="time and peak memory over those of a bare forward pass", title_style="bold"
    )
    for name in (
        "model",
        "method",
        "batch",
        "classes",
        "time (quartiles)",
        "ms",
        "memory",
        "MB",
        "first call",
    ):
        table.add_column(
            name, justify="left" if name in ("model", "method") else "right", no_wrap=True
        )
    for price in measured.prices:
        case = (price.subject, price.method, str(price.batch), str(price.targets))
        if price.ratio is None or price.seconds is None or price.first_seconds is None:
            table.add_row(*case, "failed")
            continue
        time = f"{price.ratio:.2f} ({price.low:.2f}-{price.high:.2f})"
        over = (
            f"{price.megabytes / price.forward_megabytes:.2f}"
            if price.megabytes and price.forward_megabytes
            else ""
        )
        held = "" if price.megabytes is None else f"{price.megabytes:.0f}"
        table.add_row(
            *case, time, f"{1000 * price.seconds:.0f}", over, held, f"+{price.first_seconds:.1f} s"
        )
    return table


# ------------------------------------------------------------------------------------------ their parts


def _explainer(classifier: Classifier, layer: str | None, method: str) -> gradcam.Explainer:
    try:
        return gradcam.Explainer(classifier, layer, method)
    except (ValueError, KeyError) as error:
        raise typer.BadParameter(str(error)) from error


def _classes(classifier: Classifier, target: list[str] | None) -> Any:
    """Indices and names as one row of targets; one class has no row."""
    if not target:
        return None
    try:
        found: Any = [classifier.indices(int(t) if t.lstrip("-").isdigit() else t) for t in target]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return found[0] if len(found) == 1 else [found]


def _view(classifier: Classifier, photograph: np.ndarray) -> np.ndarray:
    return photograph if classifier.view is None else classifier.view(photograph)


def _seen(classifier: Classifier, path: Path) -> np.ndarray:
    """What the network will see of a photograph."""
    return _view(classifier, read(path))


def _batch(classifier: Classifier, seen: list[np.ndarray]) -> Any:
    assert classifier.preprocess is not None  # `load` sees to it
    return classifier.preprocess(seen)


def _folders(images: Iterable[Path]) -> dict[Path, str]:
    """A folder for each photograph: its name, and a number where two share it."""
    found: dict[Path, str] = {}
    for path in images:
        name, n = path.stem, 2
        while name in found.values():
            name, n = f"{path.stem}-{n}", n + 1
        found.setdefault(path, name)
    return found


def _save(explanation: Explanation, seen: np.ndarray, folder: Path) -> Path:
    saved = explanation.save(folder, [seen], overwrite=True)
    explanation.figure([seen]).savefig(saved / "figure.png", dpi=120)
    return saved


def _notes(explanation: Explanation) -> Iterator[str]:
    """Of each map that is blank, why."""
    for finding in explanation.diagnose():
        yield f"{explanation.names()[0][finding.target or 0]}: {finding.message}"


def _rows(explanation: Explanation) -> Iterator[tuple[str, str, str]]:
    scores = to_numpy(explanation.scores).reshape(-1)
    boxes = explanation.boxes().reshape(len(scores), -1)
    for name, score, box in zip(explanation.names()[0], scores, boxes, strict=True):
        yield name, f"{score:.3f}", " ".join(str(edge) for edge in box)
