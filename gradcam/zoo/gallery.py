"""Writes `docs/methods.md`: every method's equation, cost, use, and picture of one photograph (`make docs`)."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gradcam
from gradcam.methods import TABLE, Entry
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

PHOTOGRAPH, TARGET = "coffee", "espresso"

WHEN = {
    "grad-cam": "The first to try, at the last layer with space. Verified, cheap, and what readers know.",
    "grad-cam++": "Where several instances of a class are in view and Grad-CAM marks only the strongest.",
    "xgrad-cam": "As Grad-CAM, where channels are active in few places: gradients count where the channel fires.",
    "hires-cam": "Where the map must account for the score: with one linear layer behind, its sum is the score.",
    "layer-cam": 'At shallow layers, for finer maps; there with `gamma=2`, and fused over layers by `fusion="max"`.',
    "element-wise": "HiResCAM without evidence against the class cancelling evidence for it.",
    "eigen-grad-cam": "Eigen-CAM that knows the class: smooth maps with little noise.",
    "seg-eigen-cam": "For segmentation networks, whose gradients change sign within an object.",
    "shapley-cam": "Where the head is strongly curved (a softmax score, a deep head) and one gradient says too little.",
    "cam": "Where the network ends in global average pooling and one linear layer; elsewhere it is an error.",
    "eigen-cam": "What the layer sees at all, whatever the class; also for models without gradients.",
    "kpca-cam": "Eigen-CAM where the positions do not lie along one direction.",
    "fem": "A quick look at exceptionally active positions, without a class.",
    "random-cam": "The control: a method, or a measure of methods, that does not beat it says nothing.",
    "integrated-grad-cam": "Where the score is saturated, so that the gradient at the activations themselves is small.",
    "smooth-grad-cam++": "Where maps of nearly equal inputs differ: the mean over noisy copies is steadier.",
    "ablation-cam": "Without trust in gradients: what the score loses with each channel. Only the head runs again.",
    "score-cam": "Without gradients, on the input: what each channel's region alone scores. Dear; see `channels`.",
    "ss-cam": "Score-CAM with less noise in its weights, at a multiple of its cost.",
    "is-cam": "Score-CAM with masks that grow, so that no single mask decides.",
    "full-grad": "At the input's own resolution, with every layer's bias accounted for; for ReLU networks.",
    "legrad": "For transformers: where the class is sensitive to attention, over all layers.",
    "attention-rollout": "For transformers: how tokens mix, whatever the class.",
}
OPTIONS: dict[str, dict[str, Any]] = {"score-cam": {"channels": 128}, "ss-cam": {"channels": 32, "samples": 4},
                                      "is-cam": {"channels": 32, "samples": 4}}  # fmt: skip
"""Smaller than the defaults, so that the page is made in a minute; the captions say so."""


def section(entry: Entry, picture: str | None) -> str:
    """One method's part of the page."""
    text = (inspect.getdoc(entry.function) or "").split("\n\nShapes:")[0]
    head, _, body = text.partition("\n\n")
    options = OPTIONS.get(entry.name)
    said = f" With {', '.join(f'`{k}={v}`' for k, v in options.items())}." if options else ""
    shown = f'<img src="{picture}" width="224" alt="{entry.name}">{said}\n\n' if picture else (
        "(No picture: the demo network has no attention.)\n\n")  # fmt: skip
    return (
        f"## {entry.name}\n\n**{head}** *Needs {entry.needs}; {entry.cost}.*\n\n{shown}"
        f"{body}\n\nWhen: {WHEN[entry.name]}\n"
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
