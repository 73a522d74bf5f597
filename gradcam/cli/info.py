"""`gradcam info`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
from collections.abc import Iterator

import typer
from rich.table import Table

import gradcam
from gradcam import backends
from gradcam.backends.environment import FRAMEWORKS
from gradcam.benchmark.machine import machine
from gradcam.cli.console import FAULTS, out, printable, say

__all__ = ["extras", "info", "installed"]

UNLISTED = ("test", "demo", "docs")
"""Extras that are made of others."""

REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[([^\]]*)\])?")
EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


def info() -> None:
    """Say what is installed: versions, devices, frameworks, and what is missing of each extra.

    Put this into a report of a fault.
    """
    say(f"gradcam {gradcam.__version__}, Python {platform.python_version()}, {platform.platform()}")
    say(machine())
    table = Table("framework", "version", "devices", "how to get it")
    for row in FRAMEWORKS:
        version = installed(row.package)
        if version is None:
            extra = "haiku" if row.module == "haiku" else row.module
            table.add_row(row.package, "-", "", f'pip install "gradcam[{extra}]"', style="dim")
            continue
        table.add_row(row.package, version, printable(_devices(row.module)), "")
    out.print(table)
    table = Table("extra", "missing", "how to get it")
    for name, packages in sorted(extras().items()):
        missing = [package for package in packages if installed(package) is None]
        if name not in UNLISTED:
            how = f'pip install "gradcam[{name}]"' if missing else ""
            table.add_row(
                name, ", ".join(missing) or "nothing", how, style="dim" if missing else ""
            )
    out.print(table)


def installed(package: str) -> str | None:
    """A package's version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """By extra, the packages that it brings, those of the extras within it too."""
    try:
        lines = importlib.metadata.requires("gradcam") or []
    except importlib.metadata.PackageNotFoundError as error:  # run from a source tree
        raise typer.BadParameter("gradcam itself is not installed: pip install it first") from error
    named: dict[str, list[str]] = {}
    for line in lines:
        extra = EXTRA.search(line)
        if extra:
            named.setdefault(extra[1], []).append(line)
    return {name: sorted(set(_packages(name, named))) for name in named}


def _packages(name: str, named: dict[str, list[str]]) -> Iterator[str]:
    for line in named.get(name, []):
        found = REQUIREMENT.match(line)
        assert found is not None
        package, inner = found[1], found[2]
        if package == "gradcam":
            for extra in (inner or "").split(","):
                yield from _packages(extra.strip(), named)
        else:
            yield package


def _devices(module: str) -> str:
    """The accelerators that a framework sees; it is imported for that."""
    try:
        importlib.import_module(module)
    except (*FAULTS, ImportError) as error:
        return f"cannot be imported: {error}"
    names = [name for name in backends.devices() if name.startswith(f"{module}: ")]
    return ", ".join(name.partition(": ")[2] for name in names) or "the CPU"
