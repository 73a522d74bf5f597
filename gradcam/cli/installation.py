"""What is installed, what is missing, and how to get it: with the standard library alone.

So `gradcam info` answers also where the command line's own packages are missing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from collections.abc import Iterator

import gradcam
from gradcam import backends
from gradcam._faults import FAULTS
from gradcam.backends.environment import FRAMEWORKS
from gradcam.benchmark.machine import machine

__all__ = ["as_text", "extras", "extras_table", "frameworks_table", "head", "installed"]

Rows = list[tuple[str, ...]]

UNLISTED = ("test", "demo", "docs")
"""Extras that are made of others."""

REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[([^\]]*)\])?")
EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


def head() -> list[str]:
    """The version of the library and of Python, and the machine."""
    python = f"Python {platform.python_version()}"
    return [f"gradcam {gradcam.__version__}, {python}, {platform.platform()}", machine()]


def frameworks_table() -> Rows:
    """A row of heads, and one for each framework: its version, devices and how to get it."""
    rows: Rows = [("framework", "version", "devices", "how to get it")]
    for row in FRAMEWORKS:
        version = installed(row.package)
        if version is None:
            extra = "onnx" if row.module == "onnxruntime" else row.module
            rows.append((row.package, "-", "", f'pip install "gradcam[{extra}]"'))
        else:
            rows.append((row.package, version, _devices(row.module), ""))
    return rows


def extras_table() -> Rows:
    """A row of heads, and one for each extra: the packages that are missing, how to get them."""
    rows: Rows = [("extra", "missing", "how to get it")]
    for name, packages in sorted(extras().items()):
        missing = [package for package in packages if installed(package) is None]
        if name not in UNLISTED:
            how = f'pip install "gradcam[{name}]"' if missing else ""
            rows.append((name, ", ".join(missing) or "nothing", how))
    return rows


def as_text() -> str:
    """All of it, in columns."""
    lines = head()
    for rows in (frameworks_table(), extras_table()):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines.append("")
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def installed(package: str) -> str | None:
    """A package's version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """By extra, the packages that it brings, those of the extras within it too.

    Nothing where the library runs from its source, without having been installed.
    """
    try:
        lines = importlib.metadata.requires("gradcam") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
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
    told = os.environ.get("KERAS_BACKEND") or importlib.util.find_spec("tensorflow")
    if module == "keras" and not told:
        return 'set KERAS_BACKEND to "torch" or "jax": it takes TensorFlow otherwise'
    try:
        importlib.import_module(module)
    except (*FAULTS, ImportError) as error:
        return f"cannot be imported: {error}"
    names = [name for name in backends.devices() if name.startswith(f"{module}: ")]
    return ", ".join(name.partition(": ")[2] for name in names) or "the CPU"
