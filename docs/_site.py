"""What `make site` adds to the pages: equations as MathML, and files from outside of this folder.

MathML is shown by browsers themselves, so that a page asks for no script and no font.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

OUTSIDE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "benchmarks/gpu.md": "benchmarks/gpu.md",
    "benchmarks/bench.png": "benchmarks/bench.png",
}
"""By place on the site, the files of the repository."""

CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"\$([^$]+)\$")
KEPT = re.compile(r"@equation(\d+)@")
SHIM = "https://unpkg.com/iframe-worker/shim"
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """The files from outside."""
    for place, path in OUTSIDE.items():
        file = File.generated(config, place, abs_src_path=str(ROOT / path))
        files.append(file)
    return files


BOOST = {"questions.md": 8, "foreign-models.md": 0.2, "reference.md": 0.7, "methods/": 0.7}
"""By page or folder, how much a word found there counts in the search, where it is not 1."""


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Equations, and links to what lies elsewhere on the site, or in the repository alone."""
    place = page.file.src_uri
    for start, boost in BOOST.items():
        if place.startswith(start):
            page.meta["search"] = {"boost": boost}
    source = ROOT / OUTSIDE.get(place, f"docs/{place}")
    parts = CODE.split(markdown)
    for n in range(0, len(parts), 2):
        parts[n] = EQUATION.sub(_kept, parts[n])
    text = "".join(parts)
    return LINK.sub(lambda link: _linked(link, source, place), text)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Equations as MathML, once Markdown can change nothing in them."""
    return KEPT.sub(lambda number: str(convert(_equations[int(number[1])])), html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The search of a page that is opened from disk needs a script, which lies beside it."""
    up = "../" * page.file.src_uri.count("/")
    return output.replace(SHIM, f"{up}assets/javascripts/iframe-worker.js")


def on_post_build(config: Any) -> None:
    """The script is npm's package iframe-worker, which `make site` fetches."""
    found = ROOT / "out" / "npm" / "node_modules" / "iframe-worker" / "shim" / "index.js"
    place = Path(config.site_dir) / "assets" / "javascripts" / "iframe-worker.js"
    place.write_bytes(found.read_bytes())


_equations: list[str] = []


def _kept(equation: re.Match[str]) -> str:
    """Something that Markdown leaves alone, in an equation's place."""
    _equations.append(" ".join(equation[1].split()))
    return f"@equation{len(_equations) - 1}@"


def _linked(link: re.Match[str], source: Path, place: str) -> str:
    """A link as the site has it; to a file that the site does not have, the name alone."""
    target = (source.parent / link[1]).resolve()
    if not target.is_relative_to(ROOT):
        return link[0]
    inside = target.relative_to(ROOT).as_posix()
    found = {path: where for where, path in OUTSIDE.items()}.get(inside)
    if found is None and inside.startswith("docs/"):
        found = inside.removeprefix("docs/")
    if found is None and inside == "README.md":
        found = "index.md"
    if found is None:
        return f"] (`{inside}`)"
    up = "../" * place.count("/")
    return f"]({up}{found}{link[2] or ''})"
