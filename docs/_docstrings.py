"""Docstrings as pages want them: arguments as a list, and examples as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)$")


class Docstrings(griffe.Extension):
    """Changes the text of every docstring that is read."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """`name: what it is`, with its indented lines, as an item; `>>>` and what it prints as code.

    >>> print(as_markdown("layer: a path,\\n    or a list.\\nThe rest."))
    - **`layer`**: a path, or a list.
    <BLANKLINE>
    The rest.
    """
    out: list[str] = []
    lines = text.splitlines()
    n = 0
    while n < len(lines):
        line = lines[n]
        found = FIELD.match(line)
        if line.startswith(">>>"):
            out += ["", "```python"]
            while n < len(lines) and lines[n].strip():
                out.append(re.sub(r"\s*# doctest: .*", "", lines[n]))
                n += 1
            out += ["```", ""]
        elif found and out[-1:] != ["```python"]:
            item = [f"- **`{found[1].replace(', ', '`, `')}`**: {found[2]}"]
            n += 1
            while n < len(lines) and lines[n].startswith("    "):
                item.append(lines[n].strip())
                n += 1
            if out and out[-1] and not out[-1].startswith("- "):
                out.append("")
            out.append(" ".join(item))
            if n < len(lines) and lines[n].strip() and not FIELD.match(lines[n]):
                out.append("")
        else:
            out.append(line)
            n += 1
    return "\n".join(out)
