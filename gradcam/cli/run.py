"""`gradcam run`: every photograph of a data set, in files that data tools read."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, cast

import typer
from rich.table import Table

import gradcam
from gradcam._faults import FAULTS
from gradcam.cli import report
from gradcam.cli.console import out, printable, problem, say
from gradcam.cli.models import class_indices, load
from gradcam.cli.options import (
    FrameworkOption,
    LayerOption,
    MethodsOption,
    ModelOption,
    ReportOption,
    TargetOption,
    TopOption,
    check_classes,
)
from gradcam.runs import Factory, Results
from gradcam.runs.local import Watch
from gradcam.runs.places import StoreError
from gradcam.runs.shard import StoppedError
from gradcam.targets import TopClass

__all__ = ["run"]

SHOWN = 5
"""Errors that are printed; the rest are rows."""


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a glob, a .txt of paths, .tar files (WebDataset), .parquet files, or "
            "the URL of one of these."
        ),
    ],
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
    layer: LayerOption = None,
    target: TargetOption = None,
    top: TopOption = None,
    method: MethodsOption = None,
    folder: Annotated[
        str, typer.Option("--out", "-o", help="A folder or URL; run again, it goes on.")
    ] = "run",
    batch: Annotated[int, typer.Option(min=1, help="Photographs at a time.")] = 32,
    shard_size: Annotated[int, typer.Option(min=1, help="Files in a shard.")] = 1024,
    labels: Annotated[
        str | None, typer.Option(help='"folder": the folder says what a photograph shows.')
    ] = None,
    maps: Annotated[
        str,
        typer.Option(help='"tensor", "list", "zarr", or "auto": as the first photographs need.'),
    ] = "auto",
    reasons: Annotated[bool, typer.Option(help="Say why a map is blank.")] = False,
    flips: Annotated[bool, typer.Option(help="The mean with the mirrored photograph.")] = False,
    noise: Annotated[
        float, typer.Option(min=0, help="The mean over noisy copies: their noise, as a share.")
    ] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="How many noisy copies.")] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes. 0 is this one alone; 1 is watched.")
    ] = 1,
    threads: Annotated[int, typer.Option(min=0, help="That read ahead, in each process.")] = 2,
    engine: Annotated[str, typer.Option(help='"local", or "ray".')] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help='"i/n": every n-th shard from the i-th; "env": as torchrun or SLURM says.'
        ),
    ] = None,
    retry: Annotated[bool, typer.Option(help="Try again what was given up.")] = False,
    page: ReportOption = None,
) -> None:
    """Explain every photograph of a data set, and keep the maps in Parquet files.

    Stopped or killed, it goes on where it was when it is run again. A file that cannot be read is a
    row with its error, and the exit code is 1. See docs/scale.md.
    """
    check_classes(target, top)
    chosen: Any = TopClass(top) if top else None
    if target:
        chosen = class_indices(load(model, framework), target)
    options: dict[str, Any] = {}
    if flips or noise:
        options["smoothing"] = gradcam.Smoothing(flips=flips, noise=noise, samples=samples)
    with _watched() as watch:
        try:
            results = gradcam.run(
                Factory(functools.partial(load, model, framework)),
                source,
                folder,
                layer,
                chosen,
                method or ["grad-cam"],
                batch=batch,
                shard_size=shard_size,
                labels=cast(Any, labels),
                maps=cast(Any, maps),
                reasons=reasons,
                engine=cast(Any, engine),
                workers=workers,
                threads=threads,
                shard=shard,
                address=address,
                retry=retry,
                progress=watch,
                **options,
            )
        except StoppedError:
            problem("run again, and it goes on where it was", "stopped", "yellow")
            raise typer.Exit(130) from None
        except (*FAULTS, StoreError, ImportError) as error:
            problem(error)
            raise typer.Exit(1) from error
    failed = _report(results, folder)
    if page is not None:
        failed |= not report.write(results, page, view=load(model, framework).view)
    raise typer.Exit(1 if failed else 0)


def _report(results: Results, folder: str) -> bool:
    """Print what was found; whether anything failed."""
    counts = results.counts()
    if counts["errors"]:
        for row in results.errors()[:SHOWN]:
            problem(row.error, row.key)
    if counts["errors"] > SHOWN:
        problem(f'{counts["errors"] - SHOWN} more: gradcam.results("{folder}").errors()')
    failed = results.failed
    if failed:
        problem(
            f"shards {failed} killed their process three times, and were given up; --retry tries "
            "them again",
            "failed",
        )
    table = Table("", "", show_header=False)
    for name, count in counts.items():
        table.add_row(name, str(count))
    if results.missing > len(failed):
        table.add_row("shards still to do", str(results.missing - len(failed)))
    out.print(table)
    say(f'saved in {printable(folder)}; in Python: gradcam.results("{folder}")')
    return bool(counts["errors"] or failed)


@contextmanager
def _watched() -> Iterator[Watch]:
    """A run that shows how far it is, and ends after its batch at Ctrl-C or SIGTERM."""
    asked = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()
        problem("ends after this batch; Ctrl-C again ends at once", "stopping", "yellow")

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield Watch(stop=asked.is_set, progress=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
