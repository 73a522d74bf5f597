"""`gradcam.Split` of two functions of torch tensors, as a module that has one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["SplitModule"]


class SplitModule(torch.nn.Module):
    """head(features(inputs)), with the output of `features` as the layer of that name."""

    def __init__(
        self, features: Callable[..., torch.Tensor], head: Callable[..., Any], layer: str
    ) -> None:
        super().__init__()
        self._layer = layer
        self._head = head
        self.add_module(layer, _Function(features))
        self.training = False  # its own flag alone: modules among the functions keep theirs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._head(self.get_submodule(self._layer)(*args, **kwargs))


class _Function(torch.nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.training = False
        self._function = function

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._function(*args, **kwargs)
