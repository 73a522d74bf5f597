"""The pictures of docs/pictures.md: all that the library draws. And those of docs/tutorial.md.

    python -m benchmarks.looks --out docs/looks
    python -m benchmarks.looks --tutorial

The network is the demo network. Sequences, words and volumes are explained with models of NumPy
that look for one thing each: a matched filter, a list of words, a ball.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

import gradcam
from gradcam.pictures.figure import png
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

NAMES = ("chelsea", "coffee", "camera")


def photographs(folder: Path) -> None:
    """The pictures of maps over photographs."""
    net = efficientnet_lite0()
    assert net.view is not None
    assert net.preprocess is not None
    seen = [net.view(photograph(name)) for name in NAMES]
    inputs = net.preprocess(seen)

    def keep(name: str, figure: Any) -> None:
        picture = Image.open(io.BytesIO(png(figure, dpi=80)))
        picture.convert("RGB").save(folder / f"{name}.webp", quality=82, method=6)

    one = gradcam.explain(net, inputs)
    keep("one", one[1].figure(seen[1]))
    keep("boxes", one[2].figure(seen[2], boxes=0.15, contours=(0.25, 0.5, 0.75)))
    keep("mask", one[:2].figure(seen[:2], mask=0.5))
    some = gradcam.explain(net, inputs[:1], target=[["tiger cat", "tabby", "lynx"]])
    keep("classes", some.figure(seen[:1]))
    keep("joint", some.figure(seen[:1], joint=True))
    keep("together", some.figure(seen[:1], together=True))
    keep("signed", gradcam.explain(net, inputs[1:2], target="teapot", relu=False).figure(seen[1]))
    keep("rainbow", one[1].figure(seen[1], colormap="rainbow"))
    keep("blank", gradcam.explain(net, 0 * inputs[:1], check=False).figure(seen[0]))
    methods = ["grad-cam", "layer-cam", "eigen-cam", "grad-cam++"]
    keep("compare", gradcam.compare(net, inputs[:2], methods=methods).figure(seen[:2]))


def sequence(folder: Path) -> None:
    """A matched filter that looks for a beat in a noisy signal."""
    rng = np.random.default_rng(3)
    time = np.arange(400)
    beat = np.sin(np.arange(24) * 0.8) * np.hanning(24)
    signal = 0.25 * rng.standard_normal(400) + 0.3 * np.sin(time / 40)
    for start in (90, 260):
        signal[start : start + 24] += 1.5 * beat

    def features(x: np.ndarray) -> np.ndarray:
        found = np.stack([np.convolve(row, beat[::-1], "same") for row in x[:, 0]])
        return (found**2).reshape(len(x), 1, -1, 10).mean(-1)  # its energy in 40 windows

    def head(a: np.ndarray) -> np.ndarray:
        score = a.mean((1, 2))
        return np.stack([score, 1 - score], axis=1)

    model = gradcam.Classifier(gradcam.Split(features, head), labels=["a beat", "no beat"])
    e = gradcam.explain(model, signal[None, None], target=0, method="hires-cam")
    (folder / "sequence.png").write_bytes(png(e.figure(signal[None]), dpi=80))


def words(folder: Path) -> None:
    """A list of words for and against, in HTML; the terminal's version is printed."""
    worth = {"wonderful": 2.0, "warm": 1.0, "but": -0.3, "slow": -1.0, "funny": 1.5}
    tokens = [
        *[
            "A",
            "wonderful",
            ",",
            "warm",
            "and",
            "funny",
            "film",
            ",",
            "but",
            "a",
            "slow",
            "one",
            ".",
        ]
    ]
    values = np.array([[[worth.get(token, 0.0) for token in tokens]]])

    def head(a: np.ndarray) -> np.ndarray:
        score = a.sum((1, 2))
        return np.stack([-score, score], axis=1)

    model = gradcam.Classifier(gradcam.Split(lambda x: x, head), labels=["a bad one", "a good one"])
    e = gradcam.explain(model, values, target=1, relu=False)
    found = e.over_words(tokens)
    print(found)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(found)
    console.save_svg(str(folder / "words.svg"), title="rich.print(e.over_words(tokens))")


def volume(folder: Path) -> None:
    """A detector of balls in a noisy volume."""
    rng = np.random.default_rng(0)
    shape = (24, 40, 48)
    at = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    body = (((at[1] - 20) / 18) ** 2 + ((at[2] - 24) / 22) ** 2 < 1) * 0.4
    ball = np.linalg.norm(at - np.array([9, 14, 33])[:, None, None, None], axis=0) < 4
    scan = body + 0.5 * ball + 0.05 * rng.standard_normal(shape)

    def features(x: np.ndarray) -> np.ndarray:
        blocks = x.reshape(len(x), 1, 6, 4, 10, 4, 12, 4).mean((3, 5, 7))
        return np.maximum(blocks - 0.45, 0)

    def head(a: np.ndarray) -> np.ndarray:
        score = 100 * a.mean((1, 2, 3, 4))
        return np.stack([score, 1 - score], axis=1)

    model = gradcam.Classifier(gradcam.Split(features, head), labels=["a ball", "no ball"])
    e = gradcam.explain(model, scan[None, None], target=0)
    (folder / "volume.png").write_bytes(png(e.figure(scan[None]), dpi=80))
    e.film(folder / "volume.gif", scan, per_second=6)


def tutorial(docs: Path) -> None:
    """Run the blocks of docs/tutorial.md, which draw its pictures."""
    blocks = re.findall(r"^```python\n(.*?)^```", (docs / "tutorial.md").read_text(), re.M | re.S)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        exec("".join(blocks), {"__name__": "tutorial"})
        for drawn in Path().glob("*.png"):
            with Image.open(drawn) as picture:
                smaller = picture.convert("RGB")
            smaller.save(docs / "tutorial" / f"{drawn.stem}.webp", quality=82, method=6)


PICTURES: tuple[Callable[[Path], None], ...] = (photographs, sequence, words, volume)


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/looks"))
    parser.add_argument("--tutorial", action="store_true", help="those of docs/tutorial.md alone")
    arguments = parser.parse_args()
    if arguments.tutorial:
        return tutorial(Path("docs").resolve())
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        draw(folder)


if __name__ == "__main__":
    main()
