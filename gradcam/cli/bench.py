"""`gradcam bench`: what an explanation costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import gradcam
from gradcam.benchmark import Benchmark, Price
from gradcam.cli.console import FAULTS, numbers_table, out, problem, say, spinner
from gradcam.cli.models import FRAMEWORKS, subjects
from gradcam.cli.options import LayerOption, MethodsOption, ModelOption

__all__ = ["bench"]


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
    method: MethodsOption = None,
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
    """Measure what an explanation costs on this machine, over a bare forward pass of the model.

    The two are timed in turn; what is shown is the median of their ratios, with its quartiles. The
    exit code is 1 where a case failed.
    """
    if model and framework:
        raise typer.BadParameter("--framework is of the demo network; --model has its own")
    _check_names(method or [], framework or [])
    models = subjects(model, framework)
    try:
        with spinner() as doing:
            measured = gradcam.bench(
                models,
                method or ["grad-cam"],
                layer=layer,
                batches=batch or [1, 8],
                targets=targets or [1, 10],
                repeats=repeats,
                limit=limit,
                memory=memory,
                progress=doing,
            )
        _show(measured)
        say(f"saved in {measured.save(folder)}")
    except FAULTS as error:
        problem(error)
        raise typer.Exit(1) from error
    failed = [price for price in measured.prices if price.failed]
    for price in failed:
        problem(f"{price.subject}, {price.method}: {price.failed}")
    raise typer.Exit(1 if failed else 0)


def _check_names(methods: list[str], frameworks: list[str]) -> None:
    for name in methods:
        if name not in gradcam.METHODS:
            raise typer.BadParameter(f'--method "{name}" is not known; see: gradcam methods')
    for name in frameworks:
        if name not in FRAMEWORKS:
            raise typer.BadParameter(f'--framework "{name}" must be torch or jax')


def _show(measured: Benchmark) -> None:
    out.print(_table(measured))
    about = measured.about
    say(f"{about['machine']}; {', '.join(about['devices']) or 'no accelerator'}")
    say(", ".join(f"{package} {version}" for package, version in about["versions"].items()))


def _table(measured: Benchmark) -> Table:
    table = numbers_table(
        "time and peak memory over those of a bare forward pass",
        ("model", "method"),
        ("batch", "classes", "time (quartiles)", "ms", "memory", "MB", "first call"),
    )
    for price in measured.prices:
        case = (price.subject, price.method, str(price.batch), str(price.targets))
        table.add_row(*case, *_measured_cells(price))
    return table


def _measured_cells(price: Price) -> tuple[str, ...]:
    if price.ratio is None or price.seconds is None or price.first_seconds is None:
        return ("failed",)
    memory_ratio = megabytes = ""
    if price.megabytes is not None:
        megabytes = f"{price.megabytes:.0f}"
    if price.megabytes and price.forward_megabytes:
        memory_ratio = f"{price.megabytes / price.forward_megabytes:.2f}"
    return (
        f"{price.ratio:.2f} ({price.low:.2f}-{price.high:.2f})",
        f"{1000 * price.seconds:.0f}",
        memory_ratio,
        megabytes,
        f"+{price.first_seconds:.1f} s",
    )
