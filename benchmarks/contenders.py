"""The libraries that benchmarks/peers.py compares, behind one signature.

Each function here takes a network, an input, the class to explain and a case, and returns a call
that does all of that case. Models are wrapped and extractors made beforehand, so that the call is
what a user who explains many images would time. A library that does not offer a case raises
AbsentError.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Call
from networks import Network

import gradcam

__all__ = [
    "PEERS",
    "TOGETHER",
    "AbsentError",
    "forward",
    "input_and_top_class",
    "jax_array",
    "ours",
]

TOGETHER = {
    "grad-cam": ("GradCAM", "GradCAM"),
    "grad-cam++": ("GradCAMPlusPlus", "GradCAMpp"),
    "xgrad-cam": ("XGradCAM", "XGradCAM"),
    "hires-cam": ("HiResCAM", None),
    "layer-cam": ("LayerCAM", "LayerCAM"),
    "element-wise": ("GradCAMElementWise", None),
    "eigen-grad-cam": ("EigenGradCAM", None),
    "seg-eigen-cam": ("SegEigenCAM", None),
    "eigen-cam": ("EigenCAM", None),
    "kpca-cam": ("KPCA_CAM", None),
    "fem": ("FEM", None),
    "random-cam": ("RandomCAM", None),
}
"""The methods that need one capture, with their names in pytorch-grad-cam and torchcam."""

NAMES = {
    **TOGETHER,
    "one class": TOGETHER["grad-cam"],
    "score-cam": ("ScoreCAM", "ScoreCAM"),
    "ablation-cam": ("AblationCAM", None),
}
"""The same for all cases of one method."""


class AbsentError(Exception):
    """A library does not offer this case. It is no failure: there is nothing to measure."""


def class_count(case: str) -> int | None:
    """10 for "10 classes"; None for a case of another kind."""
    count, _, noun = case.partition(" ")
    if noun == "classes":
        return int(count)
    return None


def input_and_top_class(net: Network, framework: str, batch: int) -> tuple[Any, int]:
    """The input as the framework's own array, and the first sample's top class."""
    if framework == "torch":
        x = torch.from_numpy(net.inputs(batch)).to(next(net.model.parameters()).device)
        with torch.inference_mode():
            return x, int(net.model(x)[0].argmax())
    x = jax_array(net.inputs(batch))
    return x, int(net.model(x)[0].argmax())


def jax_array(array: np.ndarray) -> Any:
    import jax

    return jax.numpy.asarray(array)


# ------------------------------------------------------------------------ a forward pass, and ours


def forward(net: Network, x: Any) -> Call:
    """A bare forward pass: under inference mode, or compiled with the weights as arguments."""
    if isinstance(net.model, torch.nn.Module):

        def run() -> None:
            with torch.inference_mode():
                net.model(x)

        return run
    import jax
    from flax import nnx

    graphdef, state = nnx.split(net.model)
    jitted = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    return lambda: jax.block_until_ready(jitted(state, x))


def ours(net: Network, x: Any, top: int, case: str) -> Call:
    method = "grad-cam"
    if case in gradcam.METHODS:
        method = case
    explainer = gradcam.Explainer(net.model, net.layer, method)
    if case == "methods":

        def compare() -> Any:
            explanations = explainer.compare(x, top, list(TOGETHER))
            return finished([explanation.maps for explanation in explanations.values()])

        return compare
    if case == "heatmaps":
        return lambda: finished(explainer.heatmaps(x, top))
    target: Any = top
    count = class_count(case)
    if count is not None:
        target = np.arange(count)[None]
    return lambda: finished(explainer(x, target).maps)


def finished(maps: Any) -> Any:
    """The maps, when JAX has computed them."""
    first = maps
    if isinstance(maps, list):
        first = maps[0]
    if isinstance(first, torch.Tensor):
        return maps
    import jax

    return jax.block_until_ready(maps)


# ------------------------------------------------------------------------------- other libraries


def pytorch_grad_cam(net: Network, x: torch.Tensor, top: int, case: str) -> Call:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def extractor(name: str) -> Any:
        model = twin(net.model)
        layers = [model.get_submodule(net.layer)]
        return getattr(pytorch_grad_cam, name)(model, layers, reshape_transform=tokens(net))

    def targets(index: int) -> list[Any]:
        return [ClassifierOutputTarget(index)] * len(x)

    if case == "methods":
        extractors = [extractor(name) for name, _ in TOGETHER.values()]
        return lambda: [extract(x, targets(top)) for extract in extractors]
    count = class_count(case)
    if count is None:
        extract = extractor(NAMES[case][0])
        return lambda: extract(x, targets(top))
    if count > 10:
        # Its loop for 100 classes takes ten times as long.
        raise AbsentError
    extract = extractor("GradCAM")
    return lambda: [extract(x, targets(index)) for index in range(count)]


def torchcam(net: Network, x: torch.Tensor, top: int, case: str) -> Call:
    import torchcam.methods

    model = twin(net.model)

    def extractor(name: str) -> Any:
        return getattr(torchcam.methods, name)(model, net.layer, reshape_transform=tokens(net))

    if case == "methods":
        extractors = [extractor(name) for _, name in TOGETHER.values() if name]

        def compare() -> Any:
            outputs = model(x)  # one forward pass serves all
            return [extract(top, outputs, retain_graph=True) for extract in extractors]

        return compare
    count = class_count(case)
    if count is not None:
        if count > 100:
            raise AbsentError
        extract = extractor("GradCAM")

        def loop() -> Any:
            outputs = model(x)
            return [extract(index, outputs, retain_graph=True) for index in range(count)]

        return loop
    name = NAMES[case][1]
    if name is None:
        raise AbsentError
    extract = extractor(name)
    if name == "ScoreCAM":

        def scored() -> Any:
            with torch.inference_mode():
                model(x)
            return extract(top)[0]

        return scored
    return lambda: extract(top, model(x))[0]


def captum(net: Network, x: torch.Tensor, top: int, case: str) -> Call:
    from captum.attr import LayerGradCam

    if case not in ("one class", "grad-cam", "10 classes"):
        raise AbsentError
    model = twin(net.model)
    extractor = LayerGradCam(model, model.get_submodule(net.layer))

    def attribute(index: int) -> Any:
        maps = extractor.attribute(x, target=index, relu_attributions=True)
        if maps.ndim != 4:
            raise ValueError(
                f"its map of tokens has shape {tuple(maps.shape)}: it takes no reshape of (N, T, C)"
            )
        return maps[:, 0]

    count = class_count(case)
    if count is None:
        return lambda: attribute(top)
    return lambda: [attribute(index) for index in range(count)]


PEERS: dict[str, Callable[[Network, torch.Tensor, int, str], Call]] = {
    "pytorch-grad-cam": pytorch_grad_cam,
    "torchcam": torchcam,
    "captum": captum,
}


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """A copy with modules, hooks and flags of its own, and the same weights."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def tokens(net: Network) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """From tokens (N, 1 + T, C) to (N, C, *grid), for a layer of tokens."""
    grid = net.grid
    if grid is None:
        return None
    return lambda values: values[:, 1:].unflatten(1, grid).movedim(-1, 1)
