"""Writes the pages of methods (`make docs`): `docs/methods.md`, and a page for each in
`docs/methods/`, with its picture, equation, price, options and use.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import gradcam
from gradcam.methods import TABLE, MethodSpec
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

TARGETS = {"coffee": "espresso", "chelsea": "tiger cat"}
"""By the name of a photograph, the class that is explained."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "score-cam": {"channels": 128},
    "ss-cam": {"channels": 32, "samples": 4},
    "is-cam": {"channels": 32, "samples": 4},
}
"""Smaller than the defaults, so that the pages are made in a minute; the captions say so."""

HEAD = """# The methods

Each has a page: its picture, its equation, its price, its options and when to use it. They are
drawn on the same two photographs (scikit-image's, CC0), for "espresso" and "tiger cat", at the last
layer with space of EfficientNet-Lite0 (`make docs`). Which one points where it should is measured
on [which method](which-method.md).

| method | what it is | needs | passes |
|---|---|---|---|
"""

SYMBOLS = """A is the layer's activations, G the score's gradient there, C channels, k a channel, p
one of Z positions, y the score, S samples or steps. The map goes through a
ReLU unless `relu=False`."""

CONVOLUTIONAL = """model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, padding=1),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(8, 10),
).eval()
images = torch.randn(2, 3, 32, 32)
"""

TRANSFORMER = '''
class Transformer(torch.nn.Module):
    """Patches of 8 x 8 pixels, a class token, one block of attention."""

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, stride=8)
        self.class_token = torch.nn.Parameter(torch.zeros(1, 1, 16))
        self.block = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        return self.head(self.block(tokens)[:, 0])


model = Transformer().eval()
images = torch.randn(2, 3, 32, 32)
'''


def slug(spec: MethodSpec) -> str:
    """A method's name in the names of files."""
    return spec.name.replace("++", "-pp")


def pages() -> dict[str, str]:
    """The pages, by their paths in `docs`: what rows and docstrings say. Needs no network."""
    texts = {"methods.md": HEAD + "\n".join(map(_row, TABLE)) + "\n"}
    for spec in TABLE:
        texts[f"methods/{slug(spec)}.md"] = _page(spec)
    return texts


def _row(spec: MethodSpec) -> str:
    picture = f'<img src="methods/{slug(spec)}.jpg" width="180" style="min-width: 180px" alt="">'
    name = f"[{spec.name}](methods/{slug(spec)}.md)"
    return f"| {name}<br>{picture} | {spec.about} | {spec.needs} | {spec.cost} |"


def _page(spec: MethodSpec) -> str:
    equation = (inspect.getdoc(spec.function) or "").split("\n\nShapes:")[0].partition("\n\n")[2]
    if spec.source:  # the equation is that of the method whose array math it uses
        equation += f"\n\nWith other scores or gradients in this equation: {spec.source}"
    parts = [
        f"# {spec.name}",
        f"**{spec.about}**",
        _picture(spec),
        f"**When.** {spec.when}",
        _facts(spec),
        "## The equation",
        equation,
        SYMBOLS if spec.uses_layer else "y is the score.",
        "## In use",
        _example(spec),
        _options(spec),
        "[All methods](../methods.md) · [which method?](../which-method.md) · "
        f"[its array math](../reference.md#{spec.function.__module__}.{spec.function.__name__})",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _picture(spec: MethodSpec) -> str:
    shown = "the attention of DINOv2 ViT-S/14, for what its decoder calls salient"
    if spec.needs != "attention":
        shown = "EfficientNet-Lite0, for " + " and ".join(f'"{name}"' for name in TARGETS.values())
    for name, value in PARAMETERS.get(spec.name, {}).items():
        shown += f"; `{name}={value}`"
    image = f'<img src="{slug(spec)}.jpg" width="448" alt="maps of {spec.name}">'
    return f"{image}\n\n*{shown[0].upper()}{shown[1:]}.*"


def _facts(spec: MethodSpec) -> str:
    where = "one layer, or several"
    if not spec.uses_layer:
        where = f"all {'attention weights' if spec.needs == 'attention' else 'biases'}"
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| needs | {spec.needs} |",
            f"| passes in PyTorch | {spec.cost} |",
            f"| explains | {where} |",
            f"| looks at the class | {'yes' if spec.uses_scores else 'no'} |",
        ]
    )


def _example(spec: MethodSpec) -> str:
    target = ", target=3" if spec.uses_scores else ""
    model = TRANSFORMER if spec.needs == "attention" else CONVOLUTIONAL
    call = f'e = gradcam.explain(model, images, method="{spec.name}"{target})'
    return f"```python\nimport gradcam, torch\n\n{model}{call}\ne.maps  # raw\n```"


def _options(spec: MethodSpec) -> str:
    if not spec.parameters:
        return ""
    names = ", ".join(f"`{name}={one.default!r}`" for name, one in spec.parameters.items())
    text = f"Options of `explain` that are its own, with their defaults: {names}."
    if spec.procedure is not None:
        text += f"\n\n{inspect.getdoc(spec.procedure)}"
    return text


def main() -> None:
    """Write the pages, and the pictures of the methods that the demo network can have."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--no-pictures", action="store_true", help="the text alone")
    arguments = parser.parse_args()
    for path, text in pages().items():
        (arguments.out / path).parent.mkdir(parents=True, exist_ok=True)
        (arguments.out / path).write_text(text, encoding="utf-8")
    if not arguments.no_pictures:
        _draw(arguments.out / "methods")


def _draw(folder: Path) -> None:
    from PIL import Image

    net = efficientnet_lite0()
    assert net.view is not None
    assert net.preprocess is not None
    seen = [net.view(photograph(name)) for name in TARGETS]
    inputs = net.preprocess(seen)
    for spec in TABLE:
        if spec.needs == "attention":  # which has none; see benchmarks/attention.py
            continue
        parameters = PARAMETERS.get(spec.name, {})
        target = list(TARGETS.values())
        e = gradcam.explain(net, inputs, target=target, method=spec.name, **parameters)
        both = Image.new("RGB", (448, 224))
        for n, picture in enumerate(e.overlay(seen)):
            both.paste(picture, (224 * n, 0))
        both.save(folder / f"{slug(spec)}.jpg", quality=85)


if __name__ == "__main__":
    main()
