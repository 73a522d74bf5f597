"""PyTorch: any `nn.Module`, unmodified.

model       the two verbs and the rest of the seam
states      wrapped, compiled and checkpointed models; modes that last for one call
attention   attention weights, fused or not
tape        the operations behind a layer, to run them alone for many variants
variants    many variants of the input in few passes
guided      guided backpropagation
"""

from __future__ import annotations

from gradcam.backends.torch.model import SplitModule, TorchModel, path_of

__all__ = ["SplitModule", "TorchModel", "path_of"]
