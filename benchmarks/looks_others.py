"""The same map in the pictures of other libraries and in ours (docs/pictures.md).

    .venv-bench/bin/python benchmarks/looks_others.py --out docs/looks

Each library draws with its own defaults, as its README shows it: pytorch-grad-cam by
`show_cam_on_image`, torchcam by `overlay_mask`, captum by `visualize_image_attr`.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import matplotlib
import zoo  # noqa: F401  lets torchvision be imported on a CPU build

matplotlib.use("agg")

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import gradcam
from gradcam.pictures.figure import png
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph


def theirs(heat: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """One map in [0, 1] at the photograph's size, as each library draws it."""
    from captum.attr import visualization
    from pytorch_grad_cam.utils.image import show_cam_on_image
    from torchcam.utils import overlay_mask

    small = Image.fromarray(heat.astype(np.float32), mode="F")
    drawn, _ = visualization.visualize_image_attr(
        heat[..., None],
        seen,
        method="blended_heat_map",
        sign="positive",
        show_colorbar=True,
        use_pyplot=False,
    )
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=70, bbox_inches="tight")
    return {
        "pytorch-grad-cam": show_cam_on_image(seen / 255.0, heat, use_rgb=True),
        "torchcam": np.asarray(overlay_mask(Image.fromarray(seen), small, alpha=0.5)),
        "captum": np.asarray(Image.open(buffer).convert("RGB")),
    }


def main() -> None:
    """Draw `others.webp`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/looks"))
    folder = parser.parse_args().out
    net = efficientnet_lite0()
    assert net.view is not None
    assert net.preprocess is not None
    seen = net.view(photograph("camera"))
    with torch.no_grad():
        inputs = net.preprocess([seen])
    e = gradcam.explain(net, inputs)
    heat = np.asarray(e.numpy().heatmaps())[0]
    named = {who: Image.fromarray(picture) for who, picture in theirs(heat, seen).items()}
    named["gradcam"] = Image.open(io.BytesIO(png(e.figure([seen]), dpi=80))).convert("RGB")
    whole = Image.new(
        "RGB",
        (
            sum(picture.width + 16 for picture in named.values()),
            max(picture.height for picture in named.values()) + 24,
        ),
        "white",
    )
    draw = ImageDraw.Draw(whole)
    left = 0
    for who, picture in named.items():
        draw.text((left + 2, 2), who, fill="black", font=ImageFont.load_default(14))
        whole.paste(picture, (left, 24 + (whole.height - 24 - picture.height) // 2))
        left += picture.width + 16
    whole.save(folder / "others.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
