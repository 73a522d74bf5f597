"""Where the channels of a layer are, by the types of PyTorch's own layers."""

from __future__ import annotations

import re

import torch

from gradcam.backends.torch.wrappers import named, submodule
from gradcam.layouts import ChannelOrder

__all__ = ["input_order", "layer_order"]

_CHANNELS_FIRST = re.compile(
    r"(Lazy)?(Conv(Transpose)?|BatchNorm|InstanceNorm|.*Pool)\d(d|D)|GroupNorm"
)
_CHANNELS_LAST = re.compile(
    r"Embedding(Bag)?|GRU|LSTM|RNN|LayerNorm|(Lazy)?Linear|MultiheadAttention|RMSNorm"
)

_AXES = re.compile(r"(\d)[dD]$")


def layer_order(model: torch.nn.Module, path: str) -> ChannelOrder | None:
    """Whether a layer's channels come first, by the types of modules.

    The layer's own type is sure. Its submodules' types are a hint, and then its parents'; None if
    no type says so, or if the submodules disagree.
    """
    module = submodule(model, path)
    first = None if module is None else _type_channels_first(module)
    if first is not None:
        axes = _AXES.search(type(module).__name__)
        return ChannelOrder(first, sure=True, positions=int(axes[1]) if axes else None)
    while path:
        module = submodule(model, path)
        if module is None:
            return None
        orders = {_type_channels_first(part) for part in module.modules()} - {None}
        if orders:
            return ChannelOrder(orders == {True}, hint=True) if len(orders) == 1 else None
        path = path.rpartition(".")[0]
    return None


def input_order(model: torch.nn.Module) -> ChannelOrder | None:
    """Whether the input's channels come first: by the first layer whose type says so."""
    for path, module in named(model):
        order = _type_channels_first(module)
        if path and order is not None:
            return ChannelOrder(order, sure=True)
    return None


def _type_channels_first(module: torch.nn.Module) -> bool | None:
    """The order of PyTorch's own layer of this very type. A subclass may have another: None."""
    if not type(module).__module__.startswith("torch.nn.modules"):
        return None
    name = type(module).__name__
    if _CHANNELS_FIRST.fullmatch(name):
        return True
    if _CHANNELS_LAST.fullmatch(name):
        return False
    return None
