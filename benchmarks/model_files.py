"""Maps of one network as a PyTorch model, an ONNX file, the same in int8, and an exported program.

    .venv/bin/python benchmarks/model_files.py
    .venv-bench/bin/python benchmarks/model_files.py --networks

The first writes the table and the picture of docs/model-files.md. The second exports networks of
torchvision with random weights, explains each with no layer named, and compares with PyTorch's map
at the module that has the same activations.
"""

from __future__ import annotations

import datetime
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import ROOT, Quartiles, argument_parser, in_turn, write_between

import gradcam
from gradcam import backends
from gradcam.benchmark.machine import machine
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

NAMES = ("chelsea", "coffee", "camera", "rocket")
METHODS: dict[str, dict[str, Any]] = {
    "grad-cam": {},
    "grad-cam++": {},
    "xgrad-cam": {},
    "hires-cam": {},
    "layer-cam": {},
    "element-wise": {},
    "eigen-grad-cam": {},
    "eigen-cam": {},
    "fem": {},
    "ablation-cam": {},
    "score-cam": {"channels": 64},
    "smooth-grad-cam++": {"samples": 4},
}
NETWORKS = (
    "resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf",
    "shufflenet_v2_x1_0", "mnasnet1_0", "swin_t", "vit_b_16",
)  # fmt: skip
BEGIN = "<!-- written by benchmarks/model_files.py -->"


class Calibration:
    """The photographs, one by one, for onnxruntime's quantisation."""

    def __init__(self, inputs: np.ndarray) -> None:
        self._rows: Iterator[np.ndarray] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, or None."""
        row = next(self._rows, None)
        return None if row is None else {"image": row[None]}


def exported(model: torch.nn.Module, x: torch.Tensor, path: Path) -> Path:
    """The model as an ONNX file, for any number of samples."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), str(path), input_names=["image"], output_names=["logits"],
            dynamo=False, dynamic_axes={"image": {0: "n"}},
        )  # fmt: skip
    return path


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a.ravel(), b.ravel()).statistic)


def demo(folder: Path) -> str:
    """The demo network in four ways, on four photographs."""
    from onnxruntime import quantization

    net = efficientnet_lite0("torch")
    assert net.view is not None
    assert net.preprocess is not None
    seen = [net.view(photograph(name)) for name in NAMES]
    x: Any = net.preprocess(seen)
    onnx_file = exported(net.model, x[:1], folder / "demo.onnx")
    int8_file = folder / "int8.onnx"
    quantization.quantize_static(
        str(onnx_file), str(int8_file), Calibration(x.numpy()),
        quant_format=quantization.QuantFormat.QDQ, per_channel=True,
    )  # fmt: skip
    program = torch.export.export(net.model, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, folder / "demo.pt2")
    numpy = x.numpy()
    rows = []
    for method, own in METHODS.items():
        options = {"target": None, "method": method, **own}
        truth = gradcam.explain(net, x, **options)
        maps = truth.maps.numpy()
        options["target"] = truth.target.numpy().tolist()
        floats = gradcam.explain(onnx_file, numpy, **options).maps
        program_maps = gradcam.explain(folder / "demo.pt2", x, **options).maps.numpy()
        integers = gradcam.explain(int8_file, numpy, **options).maps
        ranks = [rank_correlation(a, b) for a, b in zip(integers, maps, strict=True)]
        errors = [np.abs(other - maps).max() / maps.max() for other in (floats, program_maps)]
        rows.append(f"| {method} | {errors[0]:.0e} | {errors[1]:.0e} | {min(ranks):.3f} |")
        print(rows[-1])
    same = gradcam.explain(int8_file, numpy).target.tolist()
    assert same == gradcam.explain(net, x).target.tolist()
    files = {"ONNX": onnx_file, "ONNX, int8": int8_file, "torch.export": folder / "demo.pt2"}
    picture(net, seen, x, files)
    text = (
        f"{datetime.date.today()}, {machine()}. `python benchmarks/model_files.py`: "
        f"EfficientNet-Lite0 on {', '.join(NAMES)}, whose top classes are the same in all. The "
        "largest difference from PyTorch's maps, over their maximum; of int8 the least rank "
        "correlation of a map with PyTorch's."
    )
    rows = ["| method | ONNX | torch.export | int8, rank correlation |", "|---|---|---|---|", *rows]
    shown = "![The same photograph in four ways](model-files.webp)"
    return "\n\n".join([text, "\n".join(rows), shown, price(onnx_file, numpy)]) + "\n"


def picture(net: Any, seen: Any, x: Any, files: dict[str, Path]) -> None:
    """One photograph, explained by each."""
    import io

    from PIL import Image

    from gradcam.pictures.figure import png

    found = {"PyTorch": gradcam.explain(net, x[1:2], target=967)}
    for name, path in files.items():
        inputs = x[1:2] if path.suffix == ".pt2" else x[1:2].numpy()
        model = gradcam.Classifier(backends.opened(path), labels=net.labels)
        found[name] = gradcam.explain(model, inputs, target=967)
    figure = gradcam.Comparison(found).figure(seen[1:2])
    with Image.open(io.BytesIO(png(figure, dpi=80))) as drawn:
        drawn.convert("RGB").save(ROOT / "docs" / "model-files.webp", quality=82, method=6)


def price(path: Path, x: np.ndarray) -> str:
    """Time and evaluations of a map over a forward pass of onnxruntime."""
    session = onnxruntime.InferenceSession(str(path))

    def bare() -> None:
        session.run(None, {"image": x[:1]})

    said = []
    for method in ("grad-cam", "hires-cam", "eigen-cam", "ablation-cam"):
        explainer = gradcam.Explainer(path, method=method)
        call = partial(explainer, x[:1], 282)
        seconds = in_turn(bare, call, repeats=9)
        said.append(f"{method} {Quartiles.of(seconds[:, 1] / seconds[:, 0])}")
    return (
        "Time of a map over a forward pass of onnxruntime, 1280 channels, one photograph, medians "
        f"of ratios: {', '.join(said)}."
    )


def networks(folder: Path) -> int:
    """Networks of torchvision: the map where no layer is named, against PyTorch's there."""
    import zoo

    worst = 0.0
    for name in NETWORKS:
        torch.manual_seed(0)
        model = zoo.random_weights(name).eval()
        x = torch.randn(1, 3, 224, 224)
        path = exported(model, x, folder / f"{name}.onnx")
        start = time.perf_counter()
        e = gradcam.explain(path, x.numpy(), target=3, relu=False, check=False)
        seconds = time.perf_counter() - start
        values = backends.adapt(path, x.numpy()).capture(x.numpy(), (e.layer,), None).activations[0]
        gap = None
        for layer in reversed(gradcam.layers(model, x)):
            if sorted(layer.shape) != sorted(values.shape):
                continue
            found = backends.adapt(model, x).capture(x, (layer.path,), None).activations[0].numpy()
            same = found.shape == values.shape
            if same and np.abs(found - values).max() < 1e-4 * np.abs(values).max():
                there = gradcam.explain(model, x, layer.path, 3, relu=False, check=False)
                maps = there.maps.numpy()
                gap = float(np.abs(maps - e.maps).max() / np.abs(maps).max())
                break
        worst = max(worst, gap or 0.0)
        shown = "no module has this value" if gap is None else f"{gap:.0e} at {layer.path}"
        print(f"| {name} | `{e.layer}` | {e.axes} | {shown} | {seconds:.1f} s |", flush=True)
    return int(worst > 1e-4)


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--networks", action="store_true", help="networks of torchvision")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        if arguments.networks:
            return networks(Path(name))
        write_between(ROOT / "docs" / "model-files.md", BEGIN, demo(Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
