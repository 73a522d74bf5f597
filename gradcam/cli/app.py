"""`gradcam app`: a page on this machine, to drop photographs on."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from gradcam.cli.console import problem, say
from gradcam.cli.models import load
from gradcam.cli.options import FrameworkOption, ModelOption

__all__ = ["app"]


def app(
    model: ModelOption = None,
    framework: FrameworkOption = "torch",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port. [default: 7860, or a free one]")
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; by default this machine's own alone.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Drop photographs on a page, and see where a network looked.

    Nothing leaves this machine, and nobody else can reach the page unless `--host` says so. What is
    uploaded is deleted within an hour.
    """
    try:
        import gradio  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        problem(f'the app needs Gradio ({error}): pip install "gradcam[app]"')
        raise typer.Exit(1) from error
    from gradcam.app import serve
    from gradcam.app.server import LOCAL, free_port

    classifier = load(model, framework)
    if host not in LOCAL:
        problem(
            f"everybody who can reach {host} can use the app, and there is no password",
            "open to others",
            "yellow",
        )

    def started(address: str) -> None:
        say(f"the app: {address}; Ctrl-C ends it")
        if browser:
            webbrowser.open(address)

    try:
        serve(classifier, host, port or free_port(), started)
    except (OSError, ValueError) as error:
        problem(error)
        raise typer.Exit(1) from error
