"""Writes `docs/methods.md`: every method's equation, cost, use, and picture of one photograph (`make docs`)."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gradcam
from gradcam.methods import TABLE, MethodSpec
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

PHOTOGRAPH, TARGET = "coffee", "espresso"

OPTIONS: dict[str, dict[str, Any]] = {"score-cam": {"channels": 128}, "ss-cam": {"channels": 32, "samples": 4},
                                      "is-cam": {"channels": 32, "samples": 4}}  # fmt: skip
"""Smaller than the defaults, so that the page is made in a minute; the captions say so."""


def section(entry: MethodSpec, picture: str | None) -> str:
    """One method's part of the page."""
    text = (inspect.getdoc(entry.function) or "").split("\n\nShapes:")[0]
    body = text.partition("\n\n")[2]
    head = entry.about
    if entry.source:  # the equation is that of the method whose array math it uses
        body += f"\n\nWith other scores or gradients in this equation: {entry.source}"
    options = OPTIONS.get(entry.name)
    said = f" With {', '.join(f'`{k}={v}`' for k, v in options.items())}." if options else ""
    shown = f'<img src="{picture}" width="224" alt="{entry.name}">{said}\n\n' if picture else (
        "(No picture: the demo network has no attention.)\n\n")  # fmt: skip
    return (
        f"## {entry.name}\n\n**{head}** *Needs {entry.needs}; {entry.cost}.*\n\n{shown}"
        f"{body}\n\nWhen: {entry.when}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    folder = parser.parse_args().out
    (folder / "methods").mkdir(parents=True, exist_ok=True)
    net = efficientnet_lite0()
    assert net.view is not None
    assert net.preprocess is not None
    seen = net.view(photograph(PHOTOGRAPH))
    inputs = net.preprocess([seen])
    sections = []
    for entry in TABLE:
        picture = None
        if entry.needs != "attention":
            explained = gradcam.explain(
                net, inputs, target=TARGET, method=entry.name, **OPTIONS.get(entry.name, {})
            )
            picture = f"methods/{entry.name.replace('++', '-pp')}.jpg"
            overlay: Image.Image = explained.overlay([np.asarray(seen)])[0]
            overlay.save(folder / picture, quality=85)
        sections.append(section(entry, picture))
    page = (
        "# The methods\n\n"
        f'Each on the same photograph (scikit-image\'s {PHOTOGRAPH}, CC0), for "{TARGET}", at the last layer with '
        "space of EfficientNet-Lite0, as `make docs` makes this page. A is the layer's activations, G the score's "
        "gradient there, C channels, k a channel, p one of Z positions, y the score, S samples or steps. Maps go "
        "through a ReLU unless `relu=False`. A method's own parameters are options of `gradcam.explain`.\n\n"
    )
    (folder / "methods.md").write_text(page + "\n".join(sections), encoding="utf-8")


if __name__ == "__main__":
    main()
