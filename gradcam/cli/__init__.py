"""The command line: `gradcam explain photo.jpg`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point; says what to install where the command line's own packages are missing."""
    try:
        from gradcam.cli.commands import app
    except ImportError as error:
        sys.exit(f'the command line needs {error.name}: pip install "gradcam[cli]"')
    app()
