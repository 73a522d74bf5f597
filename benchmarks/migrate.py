"""The same map by another library and by ours, line by line: docs/migrate.md.

    make migrate, or .venv-bench/bin/python benchmarks/migrate.py

Each pair is run on the demo network and scikit-image's cat. The page shows the source of both
functions as it ran, and the largest difference of the two results, each scaled to [0, 1] where the
other library scales.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zoo
from common import ROOT, argument_parser, write_between
from contenders import twin

import gradcam
from gradcam import maps as map_math
from gradcam.zoo import efficientnet_lite0
from gradcam.zoo.demo import photograph

BEGIN = "<!-- written by benchmarks/migrate.py -->"
TOLERANCE = 1e-5
LIBRARIES = ("pytorch-grad-cam", "torchcam", "captum", "M3d-Cam")


@dataclass(frozen=True)
class Pair:
    """One thing to do: as a user of the other library writes it, and as a user of ours does.

    scaled: whether the other library's result is scaled, so that ours has to be.
    reason: why they may differ.
    network: the demo network, or one with ReLUs: both other libraries leave ReLU6 as it is.
    """

    library: str
    what: str
    theirs: Callable[..., Any]
    ours: Callable[..., Any]
    scaled: bool = True
    reason: str = ""
    network: str = "demo"


# ----------------------------------------------------------------------------- pytorch-grad-cam


def pgc_one(model: Any, x: Any) -> Any:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(model=model, target_layers=[model._bn1]) as cam:
        return cam(input_tensor=x, targets=[ClassifierOutputTarget(281)])


def our_one(model: Any, x: Any) -> Any:
    return gradcam.explain(model, x, layer="_bn1", target=281).heatmaps()


def pgc_top(model: Any, x: Any) -> Any:
    from pytorch_grad_cam import HiResCAM

    with HiResCAM(model=model, target_layers=[model._bn1]) as cam:
        return cam(input_tensor=x, targets=None)


def our_top(model: Any, x: Any) -> Any:
    return gradcam.explain(model, x, layer="_bn1", method="hires-cam").heatmaps()


def pgc_layer_cam(model: Any, x: Any) -> Any:
    from pytorch_grad_cam import LayerCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with LayerCAM(model=model, target_layers=[model._bn1]) as cam:
        return cam(input_tensor=x, targets=[ClassifierOutputTarget(281)])


def our_layer_cam(model: Any, x: Any) -> Any:
    return gradcam.explain(model, x, "_bn1", 281, "layer-cam").heatmaps()


def pgc_guided(model: Any, x: Any) -> Any:
    from pytorch_grad_cam import GuidedBackpropReLUModel

    return GuidedBackpropReLUModel(model=model, device="cpu")(x, target_category=281)


def our_guided(model: Any, x: Any) -> Any:
    return gradcam.guided_backprop(model, x, target=281).gradients[0].permute(1, 2, 0)


# ------------------------------------------------------------------------------------- torchcam


def torchcam_one(model: Any, x: Any) -> Any:
    from torchcam.methods import GradCAM

    with GradCAM(model, target_layer="_bn1") as extractor:
        scores = model(x)
        return extractor(281, scores)[0]


def our_raw(model: Any, x: Any) -> Any:
    return gradcam.explain(model, x, layer="_bn1", target=281).maps


def torchcam_xgrad(model: Any, x: Any) -> Any:
    from torchcam.methods import XGradCAM

    with XGradCAM(model, target_layer="_bn1") as extractor:
        scores = model(x)
        return extractor(scores.squeeze(0).argmax().item(), scores)[0]


def our_xgrad(model: Any, x: Any) -> Any:
    return gradcam.explain(model, x, layer="_bn1", method="xgrad-cam").maps


# --------------------------------------------------------------------------------------- captum


def captum_one(model: Any, x: Any) -> Any:
    from captum.attr import LayerGradCam

    return LayerGradCam(model, model._bn1).attribute(x, target=281, relu_attributions=True)[:, 0]


def captum_signed(model: Any, x: Any) -> Any:
    from captum.attr import LayerGradCam

    return LayerGradCam(model, model._bn1).attribute(x, target=281)[:, 0]


def our_signed(model: Any, x: Any) -> Any:
    return gradcam.explain(model, x, layer="_bn1", target=281, relu=False).maps


def captum_guided_backprop(model: Any, x: Any) -> Any:
    from captum.attr import GuidedBackprop

    return GuidedBackprop(model).attribute(x, target=281)


def our_guided_backprop(model: Any, x: Any) -> Any:
    return gradcam.guided_backprop(model, x, target=281).gradients


# -------------------------------------------------------------------------------------- M3d-Cam


def medcam_one(model: Any, x: Any) -> Any:
    from medcam import medcam

    injected = medcam.inject(model, layer="_bn1", label=281, return_attention=True)
    return injected(x)[1]


PAIRS = (
    Pair("pytorch-grad-cam", "Grad-CAM of one class", pgc_one, our_one),
    Pair("pytorch-grad-cam", "another method, of the top class", pgc_top, our_top),
    Pair("pytorch-grad-cam", "Layer-CAM", pgc_layer_cam, our_layer_cam),
    Pair(
        "pytorch-grad-cam", "guided backpropagation", pgc_guided, our_guided, False, network="vgg11"
    ),
    Pair("torchcam", "Grad-CAM of one class", torchcam_one, our_raw),
    Pair("torchcam", "another method, of the top class", torchcam_xgrad, our_xgrad),
    Pair("captum", "Grad-CAM of one class", captum_one, our_raw, scaled=False),
    Pair("captum", "the same with evidence against it", captum_signed, our_signed, scaled=False),
    Pair(
        "captum",
        "guided backpropagation",
        captum_guided_backprop,
        our_guided_backprop,
        scaled=False,
        network="vgg11",
    ),
    Pair("M3d-Cam", "Grad-CAM of one class", medcam_one, our_one),
)


# ---------------------------------------------------------------------------------------- the run


def difference(pair: Pair, model: torch.nn.Module, x: torch.Tensor) -> float:
    """The largest difference of the two results, over the largest magnitude of ours."""
    theirs, ours = (np.asarray(torch.as_tensor(result).detach(), np.float64) for result in (
        pair.theirs(twin(model), x.clone()), pair.ours(model, x)))  # fmt: skip
    ours = ours.reshape(theirs.shape)
    if pair.scaled:
        theirs, ours = (map_math.scale(one, 2, "minmax") for one in (theirs, ours))
    return float(np.abs(theirs - ours).max() / np.abs(ours).max())


def source(function: Callable[..., Any]) -> str:
    """What is inside of a function, as a user writes it."""
    lines = textwrap.dedent("".join(inspect.getsourcelines(function)[0][1:])).strip()
    return lines.replace("return ", "maps = ")


def page(found: list[tuple[Pair, float]]) -> str:
    parts = []
    for library in LIBRARIES:
        parts.append(f"## {library}\n")
        for pair, gap in found:
            if pair.library != library:
                continue
            verdict = f"The maps differ by {gap:.0e} of the maximum."
            if gap > TOLERANCE:
                verdict += f" {pair.reason}"
            parts.append(
                f"### {pair.what}\n\n{library}:\n\n```py\n{source(pair.theirs)}\n```\n\n"
                f"gradcam:\n\n```py\n{source(pair.ours)}\n```\n\n{verdict}\n"
            )
    return "\n".join(parts)


def main() -> int:
    argument_parser(__doc__).parse_args()
    net = efficientnet_lite0("torch")
    assert net.view is not None
    assert net.preprocess is not None
    x = net.preprocess([net.view(photograph("chelsea"))])
    networks = {"demo": net.model, "vgg11": zoo.random_weights("vgg11")}
    warnings.simplefilter("ignore")
    found = []
    for pair in PAIRS:
        gap = difference(pair, networks[pair.network], x)
        found.append((pair, gap))
        print(f"{pair.library}, {pair.what}: {gap:.1e}")
    write_between(ROOT / "docs" / "migrate.md", BEGIN, page(found))
    return int(any(gap > TOLERANCE and not pair.reason for pair, gap in found))


if __name__ == "__main__":
    sys.exit(main())
