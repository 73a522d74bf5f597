"""The program: every command, in the order in which `gradcam --help` lists them."""

from __future__ import annotations

import typer

from gradcam.cli.app import app as page
from gradcam.cli.bench import bench
from gradcam.cli.evaluate import evaluate
from gradcam.cli.explain import explain, layers, verify
from gradcam.cli.info import info
from gradcam.cli.report import report
from gradcam.cli.run import run
from gradcam.cli.tables import measures, methods

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def _about() -> None:
    """Class-activation maps you can check: where did a network look to give its score?

    Runs on PyTorch and JAX models, unmodified. Start with: gradcam explain photo.jpg
    """


for command in (
    explain,
    page,
    run,
    report,
    layers,
    methods,
    verify,
    bench,
    evaluate,
    measures,
    info,
):
    app.command()(command)
