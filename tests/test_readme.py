"""Every Python block of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for n, match in enumerate(
            re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        ):
            line = text[: match.start()].count("\n") + 2
            yield pytest.param(page, line, match[1], id=f"{page.name}-{n}")


@pytest.mark.filterwarnings(
    "ignore::gradcam.BlankMapWarning"
)  # networks with random weights may well have one
@pytest.mark.parametrize(("page", "line", "code"), list(blocks()))
def test_block_runs(page, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "quantus" in code:  # LGPL, and with many dependencies of its own
        pytest.importorskip("quantus")
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), {"__name__": "readme"})


def test_the_files_that_pages_point_to_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_commands_of_the_readme_exist():
    from gradcam.cli.commands import app

    known = {command.callback.__name__ for command in app.registered_commands}
    text = PAGES[0].read_text(encoding="utf-8")
    named = {m[1] for m in re.finditer(r"^gradcam (\w+)", text, re.MULTILINE)}
    assert named
    assert named <= known
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", text)) | set(
        re.findall(r"^make (\w+)", text, re.MULTILINE)
    ) <= set(targets)
