"""The command line: `gradcam explain photo.jpg`."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["main"]


def main() -> None:
    """The entry point; says what to install where the command line's own packages are missing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack a letter of a class's name
    try:
        from gradcam.cli.commands import app
    except ImportError as error:
        if sys.argv[1:] == ["info"]:
            from gradcam.cli import installation

            print(installation.as_text())
            return
        sys.exit(f'the command line needs {error.name}: pip install "gradcam[cli]"')
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Nothing more can be written: Python would try it again, and complain, when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"error: the output could not be written ({error.strerror})")
