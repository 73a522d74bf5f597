"""Every Python block of the README and of the pages runs as it stands; so do the examples of docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import gradcam.methods
import gradcam.targets

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if page.name == "tutorial.md":  # one script
            yield pytest.param(page, 2, "".join(BLOCK.findall(text)), id=page.name)
            continue
        for n, match in enumerate(BLOCK.finditer(text)):
            line = text[: match.start()].count("\n") + 2
            yield pytest.param(page, line, match[1], id=f"{page.name}-{n}")


def earlier_blocks(page, line):
    """The blocks of the page above this line: a page that adds something is read from its beginning."""
    if not page.name.startswith("add-"):
        return ""
    text = "\n".join(page.read_text(encoding="utf-8").splitlines()[: line - 2])
    return "".join(match[1] for match in BLOCK.finditer(text))


# Networks with random weights may well have a blank map.
@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
@pytest.mark.parametrize(("page", "line", "code"), list(blocks()))
def test_block_runs(page, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "quantus" in code:  # LGPL, and with many dependencies of its own
        pytest.importorskip("quantus")
    names = {"__name__": "readme"}
    exec(earlier_blocks(page, line), names)
    # Empty lines in front, so that a traceback has the line of the page.
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def array_modules():
    names = ["gradcam.maps", "gradcam.methods", "gradcam.targets"]
    for package in (gradcam.methods, gradcam.targets):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            names.append(info.name)
    return names


def test_the_examples_of_docstrings_run():
    attempted = 0
    for name in array_modules():
        module = importlib.import_module(name)
        results = doctest.testmod(module, extraglobs={"np": importlib.import_module("numpy")})
        assert results.failed == 0, name
        attempted += results.attempted
    assert attempted > 0


def test_the_files_that_pages_point_to_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_files_that_the_house_lists_exist():
    text = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    outside = {"tests/", "benchmarks/", "docs/", "tests/test_structure.py"}
    planned = {"backends/tensorflow/"}
    assert outside | planned <= names
    for name in names - planned:
        folder = ROOT if name in outside else ROOT / "gradcam"
        assert (folder / name).exists(), name


def test_the_house_lists_every_folder():
    text = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    for path in (ROOT / "gradcam").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"`{path.name}/" in text, path.name


def test_the_commands_of_the_readme_exist():
    from gradcam.cli.commands import app

    commands = {command.callback.__name__ for command in app.registered_commands}
    text = PAGES[0].read_text(encoding="utf-8")
    used_commands = set(re.findall(r"^gradcam (\w+)", text, re.MULTILINE))
    assert used_commands
    assert used_commands <= commands
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    used_targets = set(re.findall(r"`make (\w+)`", text))
    used_targets |= set(re.findall(r"^make (\w+)", text, re.MULTILINE))
    assert used_targets <= targets
