"""The pages: every public name has its place in the reference, and every page in the site."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import gradcam

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
PATHS = re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)


def found(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_is_in_the_reference():
    listed = [found(path) for path in PATHS]
    for name in gradcam.__all__:
        value = getattr(gradcam, name)
        if inspect.ismodule(value):
            assert f"gradcam.{name}" in REFERENCE, name
            for inner in value.__all__:
                member = getattr(value, inner)
                if inspect.isclass(member) or inspect.isfunction(member):
                    assert any(one is member for one in listed), f"{name}.{inner}"
        elif name != "METHODS":  # a dict, which is named in words
            assert any(one is value for one in listed), name


@pytest.mark.parametrize("path", PATHS)
def test_what_is_in_the_reference_has_a_docstring(path):
    assert inspect.getdoc(found(path))


def test_every_page_has_its_place_in_the_site():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert pages <= set(listed)
    for page in listed:
        outside = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
        outside |= {"security.md": "SECURITY.md"}
        places = (ROOT / "docs" / page, ROOT / page, ROOT / outside.get(page, page))
        assert any(place.is_file() for place in places), page


def test_docstrings_become_lists_and_code():
    if not importlib.util.find_spec("griffe"):
        pytest.skip('needs the extra "docs"')
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "_docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "What it is.\n\nlayer, other: a path,\n    or a list.\nThe rest.\n\n>>> 1 + 1  # doctest: +SKIP\n2"
    assert module.as_markdown(text).splitlines() == [
        "What it is.", "", "- **`layer`, `other`**: a path, or a list.", "", "The rest.", "",
        "", "```python", ">>> 1 + 1", "2", "```", "",
    ]  # fmt: skip
