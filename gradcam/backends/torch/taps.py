"""Taps: functions that see, and may replace, the tensors that layers return.

A tap is called with a path and a tensor, and the model goes on with the tensor that it returns. The
path names the layer, its call, and the item of a collection:

    "conv"              the first call of the module "conv"
    "conv#1"            its second call in the same forward pass
    "lstm[0]"           the first item of a tuple; packed sequences are one item, (N, T, C)
    "block['a'][1]"     the second item of the list under the key "a"
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gradcam.backends.torch.attention import AttentionMode
from gradcam.backends.torch.modes import pop_function_modes
from gradcam.backends.torch.sessions import EAGER, NO_FASTPATH, ProcessSwitch, Session
from gradcam.backends.torch.transforms import inside_transforms

__all__ = ["Tap", "module_paths", "tapped"]

Tap = Callable[[str, torch.Tensor], torch.Tensor]

_CALL_AND_ITEM = re.compile(r"(#\d+)?(\[.*)?")


def module_paths(path: str) -> Iterator[str]:
    """What of a path may be that of the module, without the call and the item, the longest first: a
    module's own name may have "#" or "[" too.

    >>> list(module_paths("conv#1[0]"))
    ['conv#1[0]', 'conv#1', 'conv']
    """
    for end in range(len(path), -1, -1):
        if end == len(path) or (path[end] in "#[" and _CALL_AND_ITEM.fullmatch(path, end)):
            yield path[:end]


def tapped(
    modules: Mapping[str, torch.nn.Module],
    tap: Tap,
    *switches: ProcessSwitch,
    attention: bool = False,
) -> Session:
    """A session in which the outputs of these modules, by path, pass through `tap`.

    It is this thread's alone. attention: attention weights pass through the tap as well.
    """
    tap = partial(inside_transforms, tap)

    def begin(session: Session) -> None:
        if attention:
            session.undo(partial(pop_function_modes, torch._C._len_torch_function_stack()))
            AttentionMode(tap).__enter__()
        for path, module in modules.items():
            # in front of the model's own hooks: what these collect must be the tapped value
            session.hook(module, _Hook(path, tap, session), first=True)

    return Session(NO_FASTPATH, EAGER, *switches, begin=begin)


class _Hook:
    """A forward hook that numbers the calls of its module."""

    def __init__(self, path: str, tap: Tap, session: Session) -> None:
        self.path = path
        self.tap = tap
        self.session = session
        self.calls = 0

    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        if not self.session.active:  # another thread's pass, or an explanation inside this one
            return None
        path = f"{self.path}#{self.calls}" if self.calls else self.path
        self.calls += 1
        return _tap_tensors(path, output, self.tap)


def _tap_tensors(path: str, value: Any, tap: Tap) -> Any:
    """`value` with every floating-point tensor in it passed through `tap`, under its own path."""
    if isinstance(value, torch.Tensor):
        return tap(path, value) if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return _tap_packed(path, value, tap)
    if isinstance(value, (tuple, list)):
        items = []
        for i, item in enumerate(value):
            items.append(_tap_tensors(f"{path}[{i}]", item, tap))
        named_tuple = isinstance(value, tuple) and hasattr(value, "_fields")
        return type(value)(*items) if named_tuple else type(value)(items)
    if isinstance(value, dict):
        result = copy.copy(value)  # a dictionary of the model's own type, such as a ModelOutput
        for key, item in value.items():
            result[key] = _tap_tensors(f"{path}[{key!r}]", item, tap)
        return result
    return value


def _tap_packed(path: str, packed: PackedSequence, tap: Tap) -> PackedSequence:
    """Packed sequences through `tap` as (N, T, C), with zeros behind each sequence's end."""
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    padded = tap(path, padded)
    if packed.sorted_indices is not None:
        padded = padded[packed.sorted_indices]
        lengths = lengths[packed.sorted_indices.cpu()]
    data = pack_padded_sequence(padded, lengths, batch_first=True).data
    return type(packed)(data, *packed[1:])
