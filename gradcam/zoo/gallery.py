"""Writes `docs/methods.md` (`make docs`): every method's equation, cost, use and picture."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import gradcam
from gradcam.methods import TABLE, MethodSpec
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

PHOTOGRAPH = "coffee"
TARGET = "espresso"

PARAMETERS: dict[str, dict[str, Any]] = {
    "score-cam": {"channels": 128},
    "ss-cam": {"channels": 32, "samples": 4},
    "is-cam": {"channels": 32, "samples": 4},
}
"""Smaller than the defaults, so that the page is made in a minute; the captions say so."""

HEAD = f"""# The methods

Each on the same photograph (scikit-image's {PHOTOGRAPH}, CC0), for "{TARGET}", at the last \
layer with space of EfficientNet-Lite0, as `make docs` makes this page. A is the layer's \
activations, G the score's gradient there, C channels, k a channel, p one of Z positions, y the \
score, S samples or steps. Maps go through a ReLU unless `relu=False`. A method's own parameters \
are options of `gradcam.explain`.

"""


def section(spec: MethodSpec, picture: str | None) -> str:
    """One method's part of the page: its docstring without shapes, its price, its picture."""
    text = (inspect.getdoc(spec.function) or "").split("\n\nShapes:")[0]
    body = text.partition("\n\n")[2]
    if spec.source:  # the equation is that of the method whose array math it uses
        body += f"\n\nWith other scores or gradients in this equation: {spec.source}"
    return (
        f"## {spec.name}\n\n**{spec.about}** *Needs {spec.needs}; {spec.cost}.*\n\n"
        f"{_shown(spec, picture)}\n\n{body}\n\nWhen: {spec.when}\n"
    )


def _shown(spec: MethodSpec, picture: str | None) -> str:
    if picture is None:
        return "(No picture: the demo network has no attention.)"
    image = f'<img src="{picture}" width="224" alt="{spec.name}">'
    parameters = [f"`{name}={value}`" for name, value in PARAMETERS.get(spec.name, {}).items()]
    if parameters:
        image += f" With {', '.join(parameters)}."
    return image


def picture_of(spec: MethodSpec) -> str | None:
    """The path of a method's picture beside the page, where the demo network can have one."""
    if spec.needs == "attention":
        return None
    return f"methods/{spec.name.replace('++', '-pp')}.jpg"


def page() -> str:
    """The text of `docs/methods.md`: what the rows and docstrings say. Needs no network."""
    return HEAD + "\n".join(section(spec, picture_of(spec)) for spec in TABLE)


def main() -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    folder = parser.parse_args().out
    (folder / "methods").mkdir(parents=True, exist_ok=True)
    net = efficientnet_lite0()
    assert net.view is not None
    assert net.preprocess is not None
    seen = net.view(photograph(PHOTOGRAPH))
    inputs = net.preprocess([seen])
    for spec in TABLE:
        picture = picture_of(spec)
        if picture is None:
            continue
        parameters = PARAMETERS.get(spec.name, {})
        explanation = gradcam.explain(net, inputs, target=TARGET, method=spec.name, **parameters)
        explanation.overlay([seen])[0].save(folder / picture, quality=85)
    (folder / "methods.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
