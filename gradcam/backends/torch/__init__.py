"""PyTorch: any `nn.Module`, unmodified.

model        `TorchModel`: the two verbs, and every optional power of the seam
conventions  how modules are named and called: PyTorch's own, or Keras's
taps         hooks, and the paths of what layers return
captures     what is captured of one pass, with a graph or without
passes       a pass that needs a graph from the start, or a copy of the model
transforms   layers inside torch.vmap and torch.func
gradients    gradients of scores at activations
wrappers     compiled, parallel and checkpointed modules; the names of layers
sessions     what PyTorch does differently while a pass lasts
modes        the modes of a thread, which a call leaves as they were
attention    attention weights, fused or not
biases       what affine layers add to their outputs
channels     where the channels of a layer are, by its type
tape         the operations behind a layer, to run them alone for many variants
variants     many variants of the input in few passes
guided       guided backpropagation
double       every operation in float64, for `verify`
split        `gradcam.Split` as a module
"""

from __future__ import annotations

import torch
from torch.utils._pytree import register_pytree_node

from gradcam.backends.torch.conventions import PYTORCH
from gradcam.backends.torch.model import TorchModel
from gradcam.backends.torch.passes import training_copy
from gradcam.backends.torch.split import SplitModule
from gradcam.backends.torch.wrappers import path_of, unwrapped
from gradcam.inputs import Focused

__all__ = ["SplitModule", "TorchModel", "adapt", "path_of"]

register_pytree_node(
    Focused,
    lambda focused: ([focused.inputs], focused.key),
    lambda trees, key: Focused(next(iter(trees)), key),
)


def adapt(model: torch.nn.Module, allow_training: bool = False) -> TorchModel:
    """The module as it is now. One that trains, and may, is copied, because a pass changes it."""
    inner = unwrapped(model)
    if allow_training and PYTORCH.trains(inner):
        model = training_copy(inner)
    return TorchModel(model, allow_training)
