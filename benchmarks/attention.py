"""The pictures of the methods for transformers in docs/methods: DINOv2 (`make foreign` first).

    .venv-foreign/bin/python -m benchmarks.attention --out docs/methods

The weights come with a package, without a classifier: what is explained is what the decoder behind
calls salient.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data, transform

import gradcam
from benchmarks.foreign.trained_models import DEVIATION, MEAN, dinov2

PHOTOGRAPHS = ("coffee", "camera")


def main() -> None:
    """Draw LeGrad and attention rollout over two photographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/methods"))
    folder = parser.parse_args().out
    case = dinov2()
    seen = [_square(getattr(data, name)()) for name in PHOTOGRAPHS]
    normal = np.stack([(photograph - MEAN) / DEVIATION for photograph in seen])
    inputs = torch.tensor(normal, dtype=torch.float32).permute(0, 3, 1, 2)
    photographs = [Image.fromarray((255 * photograph).astype(np.uint8)) for photograph in seen]
    for method in ("legrad", "attention-rollout"):
        e = gradcam.explain(case.model, inputs, target=case.target, method=method)
        both = Image.new("RGB", (448, 224))
        for n, picture in enumerate(e.overlay(photographs)):
            both.paste(picture, (224 * n, 0))
        both.save(folder / f"{method}.jpg", quality=85)


def _square(photograph: np.ndarray) -> np.ndarray:
    """Values of 0 to 1, (224, 224, 3)."""
    square = transform.resize(photograph, (224, 224))
    return square if square.ndim == 3 else np.repeat(square[:, :, None], 3, axis=2)


if __name__ == "__main__":
    main()
